//! What administrators and tools ask of the placement group.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use proto::{
    RegionId, StoreId, metapb,
    pontoon::v1::{
        AdminError, AdminHeader, CancelOperatorRequest, ClusterStatusRequest,
        ClusterStatusResponse, CommandResponse, JournalEntry, LabelStoreRequest,
        ListOperatorsRequest, ListOperatorsResponse, ListRegionsRequest, ListRegionsResponse,
        ListRulesRequest, ListRulesResponse, ListSchedulersRequest, ListSchedulersResponse,
        ListStoresRequest, ListStoresResponse, MergeRegionRequest, MoveReplicaRequest,
        OperatorResponse, OperatorStatus, PauseSchedulerRequest, PlacementGroup, PlanRequest,
        PlanResponse, ReadJournalRequest, ReadJournalResponse, RegionStatus, ReplaceRulesRequest,
        ReplaceRulesResponse, ScatterRegionsRequest, ScatterRegionsResponse, SchedulerStatus,
        SplitRegionRequest, StoreCommandRequest, StoreStatus, TransferLeaderRequest,
        admin_client::AdminClient, admin_error, plan_request,
    },
};
use tokio::time::timeout;
use tonic::{Code, Response, Status, transport::Channel};

use crate::{
    Error,
    cause::{Cause, When},
    options::Options,
    placement::{ANSWER_BYTES_MAX, Placement},
    retry::{Effect, Retry},
    store::text,
};

/// Time for one call.
const CALL_LIMIT: Duration = Duration::from_secs(5);

/// Names an operator: what placement makes of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OperatorId(pub u64);

/// The last of some new timestamps: milliseconds, and a count within one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp {
    /// Wall-clock milliseconds.
    pub physical_ms: i64,
    /// Position within that millisecond.
    pub logical: i64,
}

/// Commands to the placement group. Questions are repeated within the budget; commands only while it is certain that they
/// were not taken.
#[derive(Clone)]
pub struct Admin {
    pub(crate) placement: Arc<Placement>,
    pub(crate) options: Options,
}

/// An answer that may be a refusal.
trait Refusable {
    fn take_error(&mut self) -> Option<AdminError>;
}

macro_rules! refusable {
    ($($name:ident),*) => {$(
        impl Refusable for $name {
            fn take_error(&mut self) -> Option<AdminError> {
                self.error.take().filter(|error| error.kind() != admin_error::Kind::None)
            }
        }
    )*};
}

refusable!(
    ClusterStatusResponse,
    CommandResponse,
    ListOperatorsResponse,
    ListRegionsResponse,
    ListRulesResponse,
    ListSchedulersResponse,
    ListStoresResponse,
    OperatorResponse,
    PlanResponse,
    ReadJournalResponse,
    ReplaceRulesResponse,
    ScatterRegionsResponse
);

/// What one call came to.
enum Call<T> {
    Answered(T),
    Refused(AdminError),
    Failed(Cause),
}

impl Admin {
    /// Commands to the group whose members are at `placements` (`host:port` or URIs; one is enough). The connection is made
    /// by the first call, so this works on a cluster that no store has joined yet.
    pub fn new(placements: &[String], options: Options) -> Self {
        Self {
            placement: Arc::new(Placement::new(placements, options)),
            options,
        }
    }

    /// Totals of the cluster.
    ///
    /// # Errors
    /// As for all questions: [`Error::Unavailable`] without an answer in time, [`Error::Admin`] when it is a refusal.
    pub async fn status(&self) -> Result<ClusterStatusResponse, Error> {
        self.call(Effect::None, |mut client, header| async move {
            client.cluster_status(ClusterStatusRequest { header }).await
        })
        .await
    }

    /// All stores.
    ///
    /// # Errors
    /// As [`Admin::status`].
    pub async fn stores(&self) -> Result<Vec<StoreStatus>, Error> {
        let list = |mut client: AdminClient<Channel>, header| async move {
            client.list_stores(ListStoresRequest { header }).await
        };
        Ok(self.call(Effect::None, list).await?.stores)
    }

    /// At most `limit` regions from that of `start_key` on, up to `end_key`. Keys are those that cut regions.
    ///
    /// # Errors
    /// As [`Admin::status`].
    pub async fn regions(
        &self,
        start_key: Bytes,
        end_key: Bytes,
        limit: u32,
    ) -> Result<Vec<RegionStatus>, Error> {
        let request = ListRegionsRequest {
            start_key,
            end_key,
            limit,
            ..Default::default()
        };
        self.list_regions(request).await
    }

    /// One region; `None` when there is none by that id.
    ///
    /// # Errors
    /// As [`Admin::status`].
    pub async fn region(&self, region: RegionId) -> Result<Option<RegionStatus>, Error> {
        let request = ListRegionsRequest {
            region_id: region.0,
            ..Default::default()
        };
        match self.list_regions(request).await {
            Ok(regions) => Ok(regions.into_iter().next()),
            Err(Error::Admin {
                kind: admin_error::Kind::UnknownRegion,
                ..
            }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn list_regions(&self, request: ListRegionsRequest) -> Result<Vec<RegionStatus>, Error> {
        let list = |mut client: AdminClient<Channel>, header| {
            let request = ListRegionsRequest {
                header,
                ..request.clone()
            };
            async move { client.list_regions(request).await }
        };
        Ok(self.call(Effect::None, list).await?.regions)
    }

    /// Operators of a region, or of all, newest last.
    ///
    /// # Errors
    /// As [`Admin::status`].
    pub async fn operators(&self, region: Option<RegionId>) -> Result<Vec<OperatorStatus>, Error> {
        self.list_operators(0, region.map_or(0, u64::from)).await
    }

    /// One operator; `None` when it is not known, or not any more.
    ///
    /// # Errors
    /// As [`Admin::status`].
    pub async fn operator(&self, operator: OperatorId) -> Result<Option<OperatorStatus>, Error> {
        Ok(self.list_operators(operator.0, 0).await?.into_iter().next())
    }

    async fn list_operators(
        &self,
        operator_id: u64,
        region_id: u64,
    ) -> Result<Vec<OperatorStatus>, Error> {
        let list = |mut client: AdminClient<Channel>, header| async move {
            client
                .list_operators(ListOperatorsRequest {
                    header,
                    operator_id,
                    region_id,
                })
                .await
        };
        Ok(self.call(Effect::None, list).await?.operators)
    }

    /// Splits a region at keys inside it.
    ///
    /// # Errors
    /// As for all commands: [`Error::Unknown`] when it may have been taken; [`Error::Admin`] when it was refused.
    pub async fn split_region(
        &self,
        region: RegionId,
        keys: Vec<Bytes>,
    ) -> Result<OperatorId, Error> {
        self.command(|mut client, header| {
            let request = SplitRegionRequest {
                header,
                region_id: region.0,
                keys: keys.clone(),
            };
            async move { client.split_region(request).await }
        })
        .await
    }

    /// Has a region taken in by a neighbour, the better of the two if none is named.
    ///
    /// # Errors
    /// As [`Admin::split_region`].
    pub async fn merge_region(
        &self,
        region: RegionId,
        target: Option<RegionId>,
    ) -> Result<OperatorId, Error> {
        self.command(|mut client, header| async move {
            let request = MergeRegionRequest {
                header,
                region_id: region.0,
                target_region_id: target.map_or(0, |target| target.0),
            };
            client.merge_region(request).await
        })
        .await
    }

    /// Begins to spread regions over stores. Returns those that nothing was begun with: they are not known, or something is
    /// under way with them.
    ///
    /// # Errors
    /// As [`Admin::split_region`].
    pub async fn scatter_regions(&self, regions: &[RegionId]) -> Result<Vec<RegionId>, Error> {
        let scatter = |mut client: AdminClient<Channel>, header| {
            let request = ScatterRegionsRequest {
                header,
                region_ids: regions.iter().map(|region| region.0).collect(),
            };
            async move { client.scatter_regions(request).await }
        };
        let failed = self.call(Effect::Once, scatter).await?.failed_region_ids;
        Ok(failed.into_iter().map(RegionId).collect())
    }

    /// Moves a replica from one store to another.
    ///
    /// # Errors
    /// As [`Admin::split_region`].
    pub async fn move_replica(
        &self,
        region: RegionId,
        from: StoreId,
        to: StoreId,
    ) -> Result<OperatorId, Error> {
        self.command(|mut client, header| async move {
            let request = MoveReplicaRequest {
                header,
                region_id: region.0,
                from_store: from.0,
                to_store: to.0,
            };
            client.move_replica(request).await
        })
        .await
    }

    /// Makes the peer on a store the leader.
    ///
    /// # Errors
    /// As [`Admin::split_region`].
    pub async fn transfer_leader(
        &self,
        region: RegionId,
        to: StoreId,
    ) -> Result<OperatorId, Error> {
        self.command(|mut client, header| async move {
            client
                .transfer_leader(TransferLeaderRequest {
                    header,
                    region_id: region.0,
                    to_store: to.0,
                })
                .await
        })
        .await
    }

    /// Empties a store: its leaders go first, then its peers.
    ///
    /// # Errors
    /// As [`Admin::split_region`].
    pub async fn drain_store(&self, store: StoreId) -> Result<(), Error> {
        let call = |mut client: AdminClient<Channel>, header| async move {
            client.drain_store(store_command(header, store)).await
        };
        self.call(Effect::Once, call).await.map(drop)
    }

    /// Takes a drain back.
    ///
    /// # Errors
    /// As [`Admin::split_region`].
    pub async fn undrain_store(&self, store: StoreId) -> Result<(), Error> {
        let call = |mut client: AdminClient<Channel>, header| async move {
            client.undrain_store(store_command(header, store)).await
        };
        self.call(Effect::Once, call).await.map(drop)
    }

    /// Takes a store out for good that is drained or dead.
    ///
    /// # Errors
    /// As [`Admin::split_region`].
    pub async fn remove_store(&self, store: StoreId) -> Result<(), Error> {
        let call = |mut client: AdminClient<Channel>, header| async move {
            client.remove_store(store_command(header, store)).await
        };
        self.call(Effect::Once, call).await.map(drop)
    }

    /// Sets labels of a store over those that it tells; an empty value takes one away.
    ///
    /// # Errors
    /// As [`Admin::split_region`].
    pub async fn label_store(
        &self,
        store: StoreId,
        labels: Vec<metapb::StoreLabel>,
    ) -> Result<(), Error> {
        let call = |mut client: AdminClient<Channel>, header| {
            let request = LabelStoreRequest {
                header,
                store_id: store.0,
                labels: labels.clone(),
            };
            async move { client.label_store(request).await }
        };
        self.call(Effect::Once, call).await.map(drop)
    }

    /// Ends an operator between its steps.
    ///
    /// # Errors
    /// As [`Admin::split_region`].
    pub async fn cancel_operator(&self, operator: OperatorId) -> Result<(), Error> {
        let call = |mut client: AdminClient<Channel>, header| async move {
            let request = CancelOperatorRequest {
                header,
                operator_id: operator.0,
            };
            client.cancel_operator(request).await
        };
        self.call(Effect::Once, call).await.map(drop)
    }

    /// Who decides by itself, and until when it is paused.
    ///
    /// # Errors
    /// As [`Admin::status`].
    pub async fn schedulers(&self) -> Result<Vec<SchedulerStatus>, Error> {
        let list = |mut client: AdminClient<Channel>, header| async move {
            client
                .list_schedulers(ListSchedulersRequest { header })
                .await
        };
        Ok(self.call(Effect::None, list).await?.schedulers)
    }

    /// Lets a scheduler decide nothing for a while; zero lets it go on.
    ///
    /// # Errors
    /// As [`Admin::split_region`].
    pub async fn pause_scheduler(&self, name: &str, duration: Duration) -> Result<(), Error> {
        let call = |mut client: AdminClient<Channel>, header| {
            let request = PauseSchedulerRequest {
                header,
                name: name.to_owned(),
                duration_ms: u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
            };
            async move { client.pause_scheduler(request).await }
        };
        self.call(Effect::Once, call).await.map(drop)
    }

    /// The placement rules.
    ///
    /// # Errors
    /// As [`Admin::status`].
    pub async fn rules(&self) -> Result<ListRulesResponse, Error> {
        let list = |mut client: AdminClient<Channel>, header| async move {
            client.list_rules(ListRulesRequest { header }).await
        };
        self.call(Effect::None, list).await
    }

    /// Replaces all placement rules if those of version `read` still hold; returns the new version.
    ///
    /// # Errors
    /// As [`Admin::split_region`].
    pub async fn replace_rules(
        &self,
        read: u64,
        groups: Vec<PlacementGroup>,
    ) -> Result<u64, Error> {
        let replace = |mut client: AdminClient<Channel>, header| {
            let request = ReplaceRulesRequest {
                header,
                read,
                groups: groups.clone(),
            };
            async move { client.replace_rules(request).await }
        };
        Ok(self.call(Effect::Once, replace).await?.version)
    }

    /// What a change would bring; changes nothing.
    ///
    /// # Errors
    /// As [`Admin::status`].
    pub async fn plan(&self, question: plan_request::Question) -> Result<PlanResponse, Error> {
        let plan = |mut client: AdminClient<Channel>, header| {
            let request = PlanRequest {
                header,
                question: Some(question.clone()),
            };
            async move { client.plan(request).await }
        };
        self.call(Effect::None, plan).await
    }

    /// The newest entries of the journal that match; the header is filled in here.
    ///
    /// # Errors
    /// As [`Admin::status`].
    pub async fn journal(&self, query: ReadJournalRequest) -> Result<Vec<JournalEntry>, Error> {
        let read = |mut client: AdminClient<Channel>, header| async move {
            client
                .read_journal(ReadJournalRequest { header, ..query })
                .await
        };
        Ok(self.call(Effect::None, read).await?.entries)
    }

    /// The last of `count` new timestamps, all above every one given out before (R28).
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn tso(&self, count: u32) -> Result<Timestamp, Error> {
        let last = self.ask(|| self.placement.tso(count)).await?;
        Ok(Timestamp {
            physical_ms: last.physical,
            logical: last.logical,
        })
    }

    /// Where a store can be reached.
    ///
    /// # Errors
    /// [`Error::Unavailable`], also when there is no such store.
    pub async fn store_address(&self, store: StoreId) -> Result<String, Error> {
        self.ask(|| self.placement.store_address(store)).await
    }

    /// The region that holds a key of those that cut regions, with its leader if known.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn find_region(
        &self,
        key: Bytes,
    ) -> Result<(metapb::Region, Option<metapb::Peer>), Error> {
        self.ask(|| self.placement.region(key.clone())).await
    }

    /// Repeats a question until it is answered.
    pub(crate) async fn ask<T, F>(&self, mut question: impl FnMut() -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Cause>>,
    {
        let mut retry = Retry::new(&self.options, Effect::None, Instant::now());
        loop {
            match question().await {
                Ok(answer) => return Ok(answer),
                Err(cause) => retry.pause(cause, When::Backoff).await?,
            }
        }
    }

    async fn command<F>(
        &self,
        call: impl Fn(AdminClient<Channel>, Option<AdminHeader>) -> F,
    ) -> Result<OperatorId, Error>
    where
        F: Future<Output = Result<Response<OperatorResponse>, Status>>,
    {
        Ok(OperatorId(self.call(Effect::Once, call).await?.operator_id))
    }

    async fn call<T, F>(
        &self,
        effect: Effect,
        call: impl Fn(AdminClient<Channel>, Option<AdminHeader>) -> F,
    ) -> Result<T, Error>
    where
        T: Refusable,
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let mut retry = Retry::new(&self.options, effect, Instant::now());
        loop {
            let cause = match self.try_call(&call).await {
                Call::Answered(answer) => return Ok(answer),
                Call::Failed(cause) => cause,
                Call::Refused(error) => refusal(error)?,
            };
            retry.pause(cause, When::Backoff).await?;
        }
    }

    async fn try_call<T, F>(
        &self,
        call: impl Fn(AdminClient<Channel>, Option<AdminHeader>) -> F,
    ) -> Call<T>
    where
        T: Refusable,
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let leader = match self.placement.leader().await {
            Ok(leader) => leader,
            Err(cause) => return Call::Failed(cause),
        };
        let header = Some(AdminHeader {
            cluster_id: leader.cluster_id,
        });
        let client =
            AdminClient::new(leader.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX);
        let status = match timeout(CALL_LIMIT, call(client, header)).await {
            Ok(Ok(answer)) => {
                let mut answer = answer.into_inner();
                let Some(error) = answer.take_error() else {
                    return Call::Answered(answer);
                };
                if error.kind() == admin_error::Kind::NotLeader {
                    self.placement.redirect(&leader, &error.leader);
                }
                return Call::Refused(error);
            }
            Ok(Err(status)) => status,
            Err(_) => Status::deadline_exceeded(format!("none within {CALL_LIMIT:?}")),
        };
        self.placement.doubt(&leader);
        Call::Failed(failure(&status))
    }
}

fn store_command(header: Option<AdminHeader>, store: StoreId) -> StoreCommandRequest {
    StoreCommandRequest {
        header,
        store_id: store.0,
    }
}

/// What a refusal means for the next attempt. A member that leads no more refuses only what it did not take.
fn refusal(error: AdminError) -> Result<Cause, Error> {
    match error.kind() {
        admin_error::Kind::NotLeader => Ok(Cause::Placement {
            why: "another member leads".to_owned(),
        }),
        kind => Err(Error::Admin {
            kind,
            message: error.message,
        }),
    }
}

/// What a call without an answer means. A member that lost its leadership while it wrote says so with a status, and like
/// a broken connection that leaves open whether the command was taken (R26).
fn failure(status: &Status) -> Cause {
    match status.code() {
        Code::InvalidArgument | Code::Unimplemented => Cause::Refused {
            message: text(status),
        },
        _ => Cause::PlacementLost { why: text(status) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn after(cause: Cause) -> Result<(), Error> {
        Retry::new(&Options::default(), Effect::Once, Instant::now())
            .pause(cause, When::Now)
            .await
    }

    /// R26: a command goes out again only when it is certain that it was not taken.
    #[tokio::test]
    async fn a_command_that_may_be_taken_is_not_repeated() {
        let not_taken = AdminError {
            kind: admin_error::Kind::NotLeader.into(),
            ..Default::default()
        };
        let cause = refusal(not_taken).expect("another member is asked");
        assert!(after(cause).await.is_ok());
        // The leadership was lost while the command was being written.
        let cause = failure(&Status::unknown("it may have been done"));
        assert!(matches!(after(cause).await, Err(Error::Unknown { .. })));
    }
}
