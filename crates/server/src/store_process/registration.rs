//! What a store and placement tell each other while the store runs.
//!
//! Placement is advice (R32): everything here repeats itself until it gets through, and nothing waits for it. Two tasks:
//! one registers the store and beats for it, one keeps a stream open for regions, on which reports go out and orders
//! come in. A new stream starts with a report of every region led here, since a new placement leader knows none.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use engine::Engine;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use proto::pdpb::pd_client::PdClient;
use proto::pontoon::v1::steps_client::StepsClient;
use proto::pontoon::v1::{RegionNews, RegionStep, StoreIdentity};
use proto::{RegionId, StoreId, metapb, pdpb};
use raft::Role;
use store::event::{OrderAnswer, RegionReport};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

use super::address_book::AddressBook;
use super::error::Error;
use super::placement_client::{Leader, PlacementClient, PlacementError, with_boot};
use super::{ids, news, orders};
use crate::runtime::{Handle, NewsBatch};
use crate::services::tikv::check::now_seconds;

/// Between heartbeats of the store.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// Between attempts after a failure, and between looks at whether the stream still goes to the leader.
const PAUSE: Duration = Duration::from_secs(1);
/// For one call.
const PATIENCE: Duration = Duration::from_secs(5);
/// Reports that wait for the stream.
const REPORTS_AHEAD: usize = 256;
/// Calls beside the stream at a time.
const CALLS_MAX: usize = 16;

/// Everything the two tasks need.
pub struct Registration<E: Engine> {
    pub node: Handle<E>,
    pub placement: Arc<PlacementClient>,
    pub identity: StoreIdentity,
    pub store: metapb::Store,
    pub addresses: Arc<AddressBook>,
    pub data_dir: PathBuf,
    /// Turns `true` when the store is told to stop.
    pub stopping: watch::Receiver<bool>,
}

/// Makes the store known to placement, giving up after `patience`.
///
/// # Errors
/// [`PlacementError::Refused`] when placement does not want it.
pub async fn register(
    placement: &PlacementClient,
    store: &metapb::Store,
    boot: u64,
    patience: Duration,
) -> Result<(), PlacementError> {
    let put = placement.call(patience, |mut client, header| {
        let request = pdpb::PutStoreRequest {
            header: Some(header),
            store: Some(store.clone()),
        };
        let request = with_boot(request, boot);
        async move { client.put_store(request).await }
    });
    put.await.map(drop)
}

impl<E: Engine> Registration<E> {
    /// Registers the store and beats for it until the process ends.
    ///
    /// # Errors
    /// Placement does not want this store any more.
    pub async fn beat(&self, mut registered: bool) -> Result<(), Error> {
        let mut stopping = self.stopping.clone();
        loop {
            match self.beat_once(registered).await {
                Ok(()) => registered = true,
                Err(PlacementError::Refused { kind, message }) if gone(kind) => {
                    return Err(Error::Refused { reason: message });
                }
                Err(error) => {
                    tracing::warn!(%error, "placement was not told of this store");
                    registered = false;
                }
            }
            let pause = if registered { HEARTBEAT } else { PAUSE };
            let told = *stopping.borrow_and_update();
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                // Somebody is looked for who may just have registered; not more often than placement can bear.
                () = self.addresses.wanted() => tokio::time::sleep(PAUSE / 5).await,
                // Damage is told at once: placement repairs it.
                () = self.node.views().damage_changed() => {}
                // Stopping is told at once, and once.
                Ok(()) = stopping.changed(), if !told => {}
            }
        }
    }

    async fn beat_once(&self, registered: bool) -> Result<(), PlacementError> {
        let boot = self.identity.boot;
        if !registered {
            register(&self.placement, &self.store, boot, PATIENCE).await?;
        }
        let beat = self.placement.call(PATIENCE, |mut client, header| {
            let request = pdpb::StoreHeartbeatRequest {
                header: Some(header),
                stats: Some(self.stats()),
                ..Default::default()
            };
            let request = with_boot(request, boot);
            async move {
                let answer = client.store_heartbeat(request).await?;
                if let Some(dial) = dial_of(answer.metadata()) {
                    self.node.dial(dial);
                }
                Ok(answer)
            }
        });
        beat.await?;
        let stores = self.placement.call(PATIENCE, |mut client, header| {
            let request = pdpb::GetAllStoresRequest {
                header: Some(header),
                ..Default::default()
            };
            async move { client.get_all_stores(request).await }
        });
        self.addresses.update(&stores.await?.stores);
        Ok(())
    }

    fn stats(&self) -> pdpb::StoreStats {
        let statistics = self.node.engine().statistics();
        let (capacity, available) = disk(&self.data_dir);
        let regions = self.node.views().len();
        pdpb::StoreStats {
            store_id: self.identity.store_id,
            capacity,
            available,
            used_size: statistics.file_bytes + statistics.memtable_bytes,
            region_count: u32::try_from(regions).unwrap_or(u32::MAX),
            start_time: u32::try_from(self.store.start_timestamp).unwrap_or(u32::MAX),
            is_busy: statistics.stalled,
            is_stopping: *self.stopping.borrow(),
            damaged_regions_id: self.node.views().damaged(),
            ..Default::default()
        }
    }

    /// Keeps the stream for regions open until the process ends.
    pub async fn regions(&self) {
        // The newest report of each region that was led here when it came.
        let mut reports = BTreeMap::new();
        loop {
            let ended = match self.placement.leader().await {
                Ok(leader) => {
                    let ended = self.stream(&leader, &mut reports).await;
                    self.placement.forget();
                    ended
                }
                Err(reason) => reason,
            };
            tracing::debug!(reason = ended, "the region stream to placement ended");
            tokio::time::sleep(PAUSE / 5).await;
        }
    }

    /// One stream, to its end; why it ended.
    async fn stream(
        &self,
        leader: &Leader,
        reports: &mut BTreeMap<RegionId, RegionReport>,
    ) -> String {
        let (sender, receiver) = mpsc::channel(REPORTS_AHEAD);
        let mut client = StepsClient::new(leader.channel.clone());
        reports.retain(|id, _| self.leads(*id));
        let opening: Vec<_> = reports
            .values()
            .map(|report| news::report(self.heartbeat(leader, report)))
            .collect();
        let outgoing = futures::stream::iter(opening).chain(ReceiverStream::new(receiver));
        // The answer's head may come only with the first order, so the stream is fed before it is there.
        let mut call = Box::pin(client.exchange(outgoing));
        let mut answers: Option<Streaming<RegionStep>> = None;
        let mut calls = FuturesUnordered::new();
        let mut look = tokio::time::interval(PAUSE);
        loop {
            tokio::select! {
                opened = &mut call, if answers.is_none() => match opened {
                    Ok(opened) => answers = Some(opened.into_inner()),
                    Err(status) => return status.message().to_owned(),
                },
                answer = next(&mut answers) => match answer {
                    Ok(Some(answer)) => if let Err(reason) = self.take_order(answer) { return reason },
                    Ok(None) => return "placement ended it".to_owned(),
                    Err(status) => return status.message().to_owned(),
                },
                news = self.node.news().take() => {
                    for (id, report) in &news.reports {
                        reports.insert(*id, report.clone());
                    }
                    // Reports first: by them placement judges whether a refusal counts.
                    let beats = news.reports.values().map(|report| news::report(self.heartbeat(leader, report)));
                    let refusals = news.orders.iter().filter_map(|answer| self.refusal(leader, answer));
                    let splits = news.own_splits.iter().map(|split| news::own_split(self.header(leader), split));
                    let divergences = news.divergences.iter();
                    let divergences = divergences.map(|found| news::divergence(self.header(leader), found));
                    for told in beats.chain(refusals).chain(splits).chain(divergences).collect::<Vec<_>>() {
                        if sender.send(told).await.is_err() {
                            return "the connection was lost".to_owned();
                        }
                    }
                    self.call(leader, news, &calls);
                }
                Some(()) = calls.next(), if !calls.is_empty() => {}
                _ = look.tick() => {
                    if !self.placement.is_leader(&leader.address) {
                        return "placement has another leader".to_owned();
                    }
                }
            }
        }
    }

    fn leads(&self, region: RegionId) -> bool {
        self.node
            .region(region)
            .is_some_and(|view| view.role == Role::Leader)
    }

    fn heartbeat(&self, leader: &Leader, report: &RegionReport) -> pdpb::RegionHeartbeatRequest {
        let (load, requests) = (&report.load, &report.load.requests);
        let down = |(peer, seconds): &(metapb::Peer, u64)| pdpb::PeerStats {
            peer: Some(*peer),
            down_seconds: *seconds,
        };
        pdpb::RegionHeartbeatRequest {
            header: Some(self.header(leader)),
            region: Some(report.region.clone()),
            leader: Some(report.leader),
            term: report.term,
            down_peers: report.down.iter().map(down).collect(),
            pending_peers: report.pending.clone(),
            approximate_size: report.bytes,
            approximate_keys: report.keys,
            bytes_written: load.written_bytes,
            keys_written: load.written_keys,
            bytes_read: load.read_bytes,
            keys_read: load.read_keys,
            query_stats: Some(pdpb::QueryStats {
                get: requests.gets,
                scan: requests.scans,
                put: requests.puts,
                delete: requests.deletes,
                delete_range: requests.range_deletes,
                ..Default::default()
            }),
            interval: Some(interval(report.interval_ms, now_seconds())),
            ..Default::default()
        }
    }

    fn refusal(&self, leader: &Leader, answer: &OrderAnswer) -> Option<RegionNews> {
        let reason = answer.result.as_ref().err()?;
        tracing::debug!(region = %answer.region, operator = answer.id.operator, %reason, "an order was refused");
        let header = self.header(leader);
        (answer.id.operator != 0).then(|| news::refusal(header, answer, reason))
    }

    fn header(&self, leader: &Leader) -> pdpb::RequestHeader {
        pdpb::RequestHeader {
            cluster_id: leader.cluster_id,
            sender_id: self.identity.store_id,
            ..Default::default()
        }
    }

    fn take_order(&self, answer: RegionStep) -> Result<(), String> {
        let (id, purpose) = (answer.id.unwrap_or_default(), answer.purpose());
        let answer = answer.step.unwrap_or_default();
        if let Some(error) = answer
            .header
            .as_ref()
            .and_then(|header| header.error.as_ref())
            && error.r#type() != pdpb::ErrorType::Ok
        {
            return Err(error.message.clone());
        }
        let view = self.node.region(RegionId(answer.region_id));
        match orders::from_wire(
            answer,
            id,
            purpose,
            view.as_deref().map(|view| &view.region),
        ) {
            Some(order) => {
                let (kind, operator) = (orders::name(&order.kind), order.id.operator);
                tracing::info!(region = %order.region, kind, operator, "order");
                self.node.order(order);
            }
            None => tracing::debug!("placement asks for nothing that is known here"),
        }
        Ok(())
    }

    /// Tells and asks what the stream has no place for, beside it: a call may take as long as placement likes, and
    /// reports go on. The calls end with the stream.
    fn call<'a>(
        &'a self,
        leader: &Leader,
        news: NewsBatch,
        calls: &FuturesUnordered<BoxFuture<'a, ()>>,
    ) {
        let client = PdClient::new(leader.channel.clone());
        let header = self.header(leader);
        for regions in news.splits {
            tracing::info!(regions = ?regions.iter().map(|region| region.id).collect::<Vec<_>>(), "split");
            // The pieces report themselves as well.
            if calls.len() < CALLS_MAX {
                calls.push(tell_split(client.clone(), header.clone(), regions).boxed());
            }
        }
        // The store asks again.
        for key in news.locate {
            if calls.len() < CALLS_MAX {
                let asked = region_of(client.clone(), header.clone(), key.clone());
                calls.push(
                    async move {
                        match asked.await {
                            Some(region) => self.node.located(key, region),
                            None => tracing::debug!("placement did not say where a key is"),
                        }
                    }
                    .boxed(),
                );
            }
        }
        for region in news.describe {
            if calls.len() < CALLS_MAX {
                let asked = region_with(client.clone(), header.clone(), region);
                calls.push(
                    async move {
                        match asked.await {
                            Some(region) => self.node.described(region),
                            None => tracing::debug!(%region, "placement knows no members of it"),
                        }
                    }
                    .boxed(),
                );
            }
        }
        for store in news.inquire {
            if calls.len() < CALLS_MAX {
                let asked = is_removed(client.clone(), header.clone(), store);
                calls.push(
                    async move {
                        if asked.await {
                            self.node.store_removed(store);
                        }
                    }
                    .boxed(),
                );
            }
        }
        // One place is kept: the store asks again, but it asks because it will soon need them.
        if news.ids_wanted > 0 && calls.len() <= CALLS_MAX {
            let ids = fresh_ids(client, header, news.ids_wanted);
            calls.push(
                async move {
                    match ids.await {
                        Ok(ids) => self.node.ids(ids),
                        // The store asks again.
                        Err(reason) => tracing::debug!(reason, "placement gave no ids"),
                    }
                }
                .boxed(),
            );
        }
    }
}

async fn tell_split(
    mut client: PdClient<Channel>,
    header: pdpb::RequestHeader,
    regions: Vec<metapb::Region>,
) {
    let told = client.report_batch_split(pdpb::ReportBatchSplitRequest {
        header: Some(header),
        regions,
    });
    if !matches!(tokio::time::timeout(PATIENCE, told).await, Ok(Ok(_))) {
        tracing::debug!("placement was not told of a split");
    }
}

/// A region by its id.
async fn region_with(
    mut client: PdClient<Channel>,
    header: pdpb::RequestHeader,
    region: RegionId,
) -> Option<metapb::Region> {
    let asked = client.get_region_by_id(pdpb::GetRegionByIdRequest {
        header: Some(header),
        region_id: region.0,
        ..Default::default()
    });
    let answer = tokio::time::timeout(PATIENCE, asked).await.ok()?.ok()?;
    answer.into_inner().region
}

/// Whether a store was removed for good. Placement says so only when that is committed.
async fn is_removed(
    mut client: PdClient<Channel>,
    header: pdpb::RequestHeader,
    store: StoreId,
) -> bool {
    let asked = client.get_store(pdpb::GetStoreRequest {
        header: Some(header),
        store_id: store.0,
    });
    let answer = tokio::time::timeout(PATIENCE, asked).await;
    let store = answer
        .ok()
        .and_then(Result::ok)
        .and_then(|answer| answer.into_inner().store);
    store.is_some_and(|store| store.state() == metapb::StoreState::Tombstone)
}

/// The region that holds a key.
async fn region_of(
    mut client: PdClient<Channel>,
    header: pdpb::RequestHeader,
    key: Bytes,
) -> Option<metapb::Region> {
    let asked = client.get_region(pdpb::GetRegionRequest {
        header: Some(header),
        region_key: key,
        ..Default::default()
    });
    let answer = tokio::time::timeout(PATIENCE, asked).await.ok()?.ok()?;
    answer.into_inner().region
}

/// Ids for the store's pool.
async fn fresh_ids(
    mut client: PdClient<Channel>,
    header: pdpb::RequestHeader,
    count: u32,
) -> Result<Vec<u64>, String> {
    let asked = client.alloc_id(pdpb::AllocIdRequest {
        header: Some(header),
        count,
    });
    let answer = tokio::time::timeout(PATIENCE, asked).await;
    let answer = answer
        .map_err(|_| "no answer in time".to_owned())?
        .map_err(|status| status.message().to_owned())?
        .into_inner();
    if let Some(error) = answer
        .header
        .as_ref()
        .and_then(|header| header.error.as_ref())
    {
        return Err(error.message.clone());
    }
    let given = ids::given(&answer, count).map_err(|error| error.to_string())?;
    Ok(given.collect())
}

/// The next answer of a stream that may not be open yet.
async fn next(
    answers: &mut Option<Streaming<RegionStep>>,
) -> Result<Option<RegionStep>, tonic::Status> {
    match answers {
        Some(answers) => answers.message().await,
        None => std::future::pending().await,
    }
}

/// The newest so many milliseconds, in whole seconds as the interface has it: at least one.
fn interval(milliseconds: u64, now_seconds: u64) -> pdpb::TimeInterval {
    let seconds = ((milliseconds + 500) / 1_000).max(1);
    pdpb::TimeInterval {
        start_timestamp: now_seconds.saturating_sub(seconds),
        end_timestamp: now_seconds,
    }
}

/// The dial that an answer of placement tells, if it tells one: earlier versions do not.
fn dial_of(metadata: &tonic::metadata::MetadataMap) -> Option<store::Dial> {
    let text = metadata.get(placement::DIAL_METADATA)?.to_str().ok()?;
    let (balance, repair) = text.split_once(' ')?;
    Some(store::Dial {
        balance_bytes: balance.parse().ok()?,
        repair_bytes: repair.parse().ok()?,
    })
}

/// Whether a refusal means that this store has no place in the cluster.
fn gone(kind: pdpb::ErrorType) -> bool {
    matches!(
        kind,
        pdpb::ErrorType::StoreTombstone
            | pdpb::ErrorType::DuplicatedEntry
            | pdpb::ErrorType::IncompatibleVersion
    )
}

/// Size and free part of the disk that holds a directory; zeros when the system does not tell.
fn disk(directory: &std::path::Path) -> (u64, u64) {
    match rustix::fs::statvfs(directory) {
        Ok(disk) => (disk.f_blocks * disk.f_frsize, disk.f_bavail * disk.f_frsize),
        Err(_) => (0, 0),
    }
}

#[cfg(test)]
mod tests;
