//! The cluster as commands see it: stores, regions and operators, asked of the placement group.

mod keys;
mod view;

use std::time::{Duration, Instant};

use bytes::Bytes;
use client::{Admin, Error, OperatorId, Options};
pub use keys::Keys;
use proto::{
    RegionId, StoreId, metapb,
    pontoon::v1::{
        ClusterStatusResponse, JournalEntry, ListRulesResponse, OperatorStatus, PlacementGroup,
        PlanResponse, ReadJournalRequest, SchedulerStatus, admin_error, operator_status,
        plan_request,
    },
};
pub use view::{Drain, Peer, Region, Store};

use crate::exit::{Failure, Kind, Result, chain};

/// How long a question is repeated while nobody answers. A change of the placement leader takes less.
const BUDGET: Duration = Duration::from_secs(5);
/// Regions asked for at a time.
const REGIONS_PAGE: u32 = 1024;
/// Time between two looks at an operator.
const LOOK: Duration = Duration::from_millis(30);

/// A connection to the placement group of a cluster, made when it is first used.
pub struct Remote {
    admin: Admin,
}

impl Remote {
    /// The group of these members; one that answers is enough.
    pub fn new(members: &[String]) -> Self {
        let options = Options {
            budget: BUDGET,
            ..Options::default()
        };
        Self {
            admin: Admin::new(members, options),
        }
    }

    /// Totals of the cluster.
    ///
    /// # Errors
    /// As all that follow: [`Kind::Unreachable`] when nobody answers, [`Kind::Refused`] and [`Kind::NotFound`] when the
    /// answer is no.
    pub async fn status(&self) -> Result<ClusterStatusResponse> {
        self.admin.status().await.map_err(failure)
    }

    /// All stores, by id.
    ///
    /// # Errors
    /// As [`Remote::status`].
    pub async fn stores(&self) -> Result<Vec<Store>> {
        let stores = self.admin.stores().await.map_err(failure)?;
        let mut stores: Vec<Store> = stores.into_iter().map(Store::from).collect();
        stores.sort_by_key(|store| store.id);
        Ok(stores)
    }

    /// The regions that overlap `[start, end)`, in the order of keys. An empty `end` is infinite.
    ///
    /// # Errors
    /// As [`Remote::status`].
    pub async fn regions(&self, start: &[u8], end: &[u8]) -> Result<Vec<Region>> {
        let mut regions: Vec<Region> = Vec::new();
        let end_key = Bytes::copy_from_slice(end);
        let mut start_key = Bytes::copy_from_slice(start);
        loop {
            let page = self
                .admin
                .regions(start_key.clone(), end_key.clone(), REGIONS_PAGE)
                .await
                .map_err(failure)?;
            let full = page.len() == REGIONS_PAGE as usize;
            regions.extend(page.into_iter().map(Region::from));
            let Some(last) = regions.last() else {
                return Ok(regions);
            };
            let next = last.end_key.clone();
            // A page that does not lead on would be asked for forever.
            let leads_on =
                !next.is_empty() && next > start_key && (end.is_empty() || next < end_key);
            if !full || !leads_on {
                return Ok(regions);
            }
            start_key = next;
        }
    }

    /// The region that holds a key in region space, or the next one that is known.
    ///
    /// # Errors
    /// As [`Remote::status`].
    pub async fn region_at(&self, key: &Bytes) -> Result<Option<Region>> {
        let page = self.admin.regions(key.clone(), Bytes::new(), 1).await;
        let page = page.map_err(failure)?;
        Ok(page.into_iter().next().map(Region::from))
    }

    /// The region of that id.
    ///
    /// # Errors
    /// [`Kind::NotFound`]: there is none. Otherwise as [`Remote::status`].
    pub async fn region(&self, id: u64) -> Result<Region> {
        self.admin
            .region(RegionId(id))
            .await
            .map_err(failure)?
            .map(Region::from)
            .ok_or_else(|| Failure::new(Kind::NotFound, format!("there is no region {id}")))
    }

    /// The place of a client's key among the regions: the key itself in api version 1; in version 2 the encoded key of the
    /// keyspace `DEFAULT`, which is where `pontoon kv` reads and writes.
    ///
    /// # Errors
    /// As [`Remote::status`].
    pub async fn region_key(&self, key: &[u8]) -> Result<Bytes> {
        Ok(match self.status().await?.api_version {
            2 => keyspace_key(key),
            _ => Bytes::copy_from_slice(key),
        })
    }

    /// Asks for a region to be split at keys. Returns the operator's id.
    ///
    /// # Errors
    /// As [`Remote::status`].
    pub async fn split(&self, region: u64, keys: Vec<Bytes>) -> Result<u64> {
        let operator = self.admin.split_region(RegionId(region), keys).await;
        operator.map(|OperatorId(id)| id).map_err(failure)
    }

    /// Asks for a region to be taken in by a neighbour. Returns the operator's id.
    ///
    /// # Errors
    /// As [`Remote::status`].
    pub async fn merge(&self, region: u64, target: Option<u64>) -> Result<u64> {
        let target = target.map(RegionId);
        let operator = self.admin.merge_region(RegionId(region), target).await;
        operator.map(|OperatorId(id)| id).map_err(failure)
    }

    /// Asks for regions to be spread over stores. Returns those that nothing was begun with.
    ///
    /// # Errors
    /// As [`Remote::status`].
    pub async fn scatter(&self, regions: &[u64]) -> Result<Vec<u64>> {
        let regions: Vec<RegionId> = regions.iter().copied().map(RegionId).collect();
        let failed = self
            .admin
            .scatter_regions(&regions)
            .await
            .map_err(failure)?;
        Ok(failed.into_iter().map(|region| region.0).collect())
    }

    /// Asks for a replica to be moved from one store to another. Returns the operator's id.
    ///
    /// # Errors
    /// As [`Remote::status`].
    pub async fn move_replica(&self, region: u64, from: u64, to: u64) -> Result<u64> {
        let operator = self
            .admin
            .move_replica(RegionId(region), StoreId(from), StoreId(to))
            .await;
        operator.map(|OperatorId(id)| id).map_err(failure)
    }

    /// Asks for a region to be led by its peer on another store. Returns the operator's id.
    ///
    /// # Errors
    /// As [`Remote::status`].
    pub async fn transfer_leader(&self, region: u64, to: u64) -> Result<u64> {
        let operator = self
            .admin
            .transfer_leader(RegionId(region), StoreId(to))
            .await;
        operator.map(|OperatorId(id)| id).map_err(failure)
    }

    /// Has a store emptied.
    ///
    /// # Errors
    /// As [`Remote::status`].
    pub async fn drain(&self, store: u64) -> Result<()> {
        let asked = self.admin.drain_store(StoreId(store)).await;
        asked.map_err(failure)
    }

    /// Takes a drain back.
    ///
    /// # Errors
    /// As [`Remote::status`].
    pub async fn undrain(&self, store: u64) -> Result<()> {
        let asked = self.admin.undrain_store(StoreId(store)).await;
        asked.map_err(failure)
    }

    /// Takes a store out for good.
    ///
    /// # Errors
    /// As [`Remote::status`].
    pub async fn remove(&self, store: u64) -> Result<()> {
        let asked = self.admin.remove_store(StoreId(store)).await;
        asked.map_err(failure)
    }

    /// Sets labels of a store; an empty value takes one away.
    ///
    /// # Errors
    /// As [`Remote::status`].
    pub async fn label(&self, store: u64, labels: Vec<metapb::StoreLabel>) -> Result<()> {
        let asked = self.admin.label_store(StoreId(store), labels).await;
        asked.map_err(failure)
    }

    /// All operators that placement remembers, newest first.
    ///
    /// # Errors
    /// As [`Remote::status`].
    pub async fn operators(&self) -> Result<Vec<OperatorStatus>> {
        self.admin.operators(None).await.map_err(failure)
    }

    /// Ends an operator between its steps.
    ///
    /// # Errors
    /// As [`Remote::status`].
    pub async fn cancel(&self, operator: u64) -> Result<()> {
        let asked = self.admin.cancel_operator(OperatorId(operator)).await;
        asked.map_err(failure)
    }

    /// Entries of the journal, newest first.
    ///
    /// # Errors
    /// As [`Remote::status`].
    pub async fn journal(&self, query: ReadJournalRequest) -> Result<Vec<JournalEntry>> {
        self.admin.journal(query).await.map_err(failure)
    }

    /// What a change would bring; changes nothing.
    ///
    /// # Errors
    /// As [`Remote::status`].
    pub async fn plan(&self, question: plan_request::Question) -> Result<PlanResponse> {
        self.admin.plan(question).await.map_err(failure)
    }

    /// The placement rules.
    ///
    /// # Errors
    /// As [`Remote::status`].
    pub async fn rules(&self) -> Result<ListRulesResponse> {
        self.admin.rules().await.map_err(failure)
    }

    /// Replaces all placement rules if those of version `read` still hold; returns the new version.
    ///
    /// # Errors
    /// As [`Remote::status`].
    pub async fn replace_rules(&self, read: u64, groups: Vec<PlacementGroup>) -> Result<u64> {
        let replaced = self.admin.replace_rules(read, groups).await;
        replaced.map_err(failure)
    }

    /// Who decides by itself.
    ///
    /// # Errors
    /// As [`Remote::status`].
    pub async fn schedulers(&self) -> Result<Vec<SchedulerStatus>> {
        self.admin.schedulers().await.map_err(failure)
    }

    /// Pauses a scheduler; zero lets it go on.
    ///
    /// # Errors
    /// As [`Remote::status`].
    pub async fn pause(&self, scheduler: &str, duration: Duration) -> Result<()> {
        let asked = self.admin.pause_scheduler(scheduler, duration).await;
        asked.map_err(failure)
    }

    /// The operator of that id, as long as placement remembers it.
    ///
    /// # Errors
    /// As [`Remote::status`].
    pub async fn operator_status(&self, id: u64) -> Result<Option<OperatorStatus>> {
        self.admin.operator(OperatorId(id)).await.map_err(failure)
    }

    /// Waits until the operator is done; `report` hears each state of it.
    ///
    /// # Errors
    /// It was cancelled ([`Kind::Refused`], with the reason), was forgotten, or `limit` passed.
    pub async fn wait_operator(
        &self,
        id: u64,
        limit: Duration,
        mut report: impl FnMut(&OperatorStatus),
    ) -> Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            let Some(operator) = self.operator_status(id).await? else {
                return Err(Failure::new(
                    Kind::NotFound,
                    format!("placement does not know operator {id} any more"),
                )
                .hint("look at the region to see whether it was carried out"));
            };
            report(&operator);
            match operator.state() {
                operator_status::State::Done => return Ok(()),
                operator_status::State::Cancelled => {
                    return Err(Failure::new(
                        Kind::Refused,
                        format!("operator {id} was cancelled"),
                    )
                    .because(operator.reason));
                }
                operator_status::State::Running => {}
            }
            if Instant::now() >= deadline {
                let step = operator
                    .steps
                    .get(operator.step as usize)
                    .cloned()
                    .unwrap_or_default();
                return Err(Failure::new(
                    Kind::Timeout,
                    format!("operator {id} is not done after {} s", limit.as_secs()),
                )
                .because(format!("it is at `{step}`"))
                .hint("it goes on; --timeout waits longer"));
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// Mode byte `r` for raw, three bytes for the keyspace, the key; encoded as boundaries are.
fn keyspace_key(key: &[u8]) -> Bytes {
    let mut plain = vec![b'r', 0, 0, 0];
    plain.extend_from_slice(key);
    proto::memcomparable::encode(&plain)
}

/// What the client library's error means to the caller of a command.
pub(crate) fn failure(error: Error) -> Failure {
    match &error {
        Error::Unavailable { .. } => Failure::new(Kind::Unreachable, "the cluster does not answer")
            .because(chain(&error))
            .hint(
                "name its placement members with --placement or PONTOON_PLACEMENT; `pontoon dev` starts a cluster on \
                 this machine",
            ),
        Error::Unknown { .. } => Failure::new(Kind::Unreachable, "no answer came to the request")
            .because(chain(&error))
            .hint("it may have been carried out or not; look before you repeat it"),
        Error::Admin { kind, message } => admin_failure(*kind, message),
        _ => Failure::new(Kind::Refused, chain(&error)),
    }
}

fn admin_failure(kind: admin_error::Kind, message: &str) -> Failure {
    let refused = Failure::new(Kind::Refused, "placement refused").because(message);
    match kind {
        admin_error::Kind::UnknownRegion | admin_error::Kind::UnknownStore => {
            Failure::new(Kind::NotFound, message)
        }
        admin_error::Kind::NotBootstrapped => refused.hint("no store has joined yet; start one"),
        admin_error::Kind::Busy => refused.hint("something works on it; try again when it is done"),
        _ => refused,
    }
}
