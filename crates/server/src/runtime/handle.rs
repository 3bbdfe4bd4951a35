//! The way into a running node, for RPC threads and for the transport.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use engine::{Engine, Family};
use prost::Message;
use proto::pontoon::v1::{Frame, Operation, SnapshotHead};
use proto::{RegionId, StoreId, metapb};
use raft::{PeerId, Role, Term};
use store::event::{
    Keys, OperationResult, Order, Refusal, RegionView, Target, Transfer, Verification,
};
use tokio::sync::{oneshot, watch};

use super::applier::met_damage;
use super::inbox::{Control, Inbox, Request, RequestKind};
use super::log_writer::Busy;
use super::news::News;
use super::reads::Reads;
use super::transfers::{Ticket, Transfers};
use super::views::Views;
use crate::metrics::Metrics;

/// Keys looked up by one call of the engine.
const KEYS_AT_ONCE: usize = 16;

/// The way into a running node. Cheap to clone.
pub struct Handle<E: Engine> {
    shared: Arc<Shared<E>>,
}

impl<E: Engine> Clone for Handle<E> {
    fn clone(&self) -> Self {
        Handle {
            shared: self.shared.clone(),
        }
    }
}

/// What a handle is made of.
pub(super) struct Parts<E> {
    pub engine: E,
    pub inbox: Arc<Inbox>,
    pub views: Arc<Views>,
    pub transfers: Arc<Transfers>,
    pub news: Arc<News>,
    pub reads: Arc<Reads>,
    pub metrics: Arc<Metrics>,
    pub drained: watch::Receiver<bool>,
    pub progress: Arc<AtomicU64>,
    pub log_busy: Arc<Busy>,
    pub started: Instant,
    pub request_bytes_max: usize,
}

struct Shared<E> {
    parts: Parts<E>,
    /// Bytes of requests that are not answered yet.
    in_work: AtomicUsize,
}

impl<E: Engine> Handle<E> {
    pub(super) fn new(parts: Parts<E>) -> Self {
        Handle {
            shared: Arc::new(Shared {
                parts,
                in_work: AtomicUsize::new(0),
            }),
        }
    }

    /// Proposes operations as one request and waits until they are applied. Their results come in their order.
    ///
    /// # Errors
    /// The refusal. [`Refusal::Unknown`] means that the operations may be applied later; every other refusal means that
    /// nothing happened and nothing will.
    pub async fn propose(
        &self,
        target: Target,
        operations: Vec<Operation>,
    ) -> Result<Vec<OperationResult>, Refusal> {
        let bytes = operations.iter().map(Message::encoded_len).sum::<usize>()
            + std::mem::size_of::<Request>();
        let _budget = self.budget(bytes)?;
        let (reply, answer) = oneshot::channel();
        self.submit(target, RequestKind::Propose(operations, reply), bytes)?;
        answer.await.unwrap_or(Err(Refusal::Unknown))
    }

    /// Waits until a read of `target` at this store is linearizable.
    ///
    /// # Errors
    /// The refusal.
    pub async fn permit(&self, target: Target) -> Result<Permit<E>, Refusal> {
        let bytes = std::mem::size_of::<Request>() + keys_bytes(&target.keys);
        let budget = self.budget(bytes)?;
        let (reply, answer) = oneshot::channel();
        self.submit(target.clone(), RequestKind::Read(reply), bytes)?;
        // A node that stops drops what waits; nothing was read, and another peer will lead.
        answer.await.unwrap_or(Err(Refusal::NotLeader {
            region: target.region,
            leader: None,
        }))?;
        drop(budget);
        let leads = self.leading(&target)?;
        Ok(Permit {
            handle: self.clone(),
            target,
            peer: leads.peer,
            term: leads.term,
        })
    }

    /// Has all members of a region that is led here digest what they store, and waits until they are compared.
    ///
    /// # Errors
    /// The refusal: nothing was compared.
    pub async fn verify(&self, region: RegionId) -> Result<Verification, Refusal> {
        let target = Target {
            region,
            peer: None,
            epoch: None,
            keys: Keys::Points(Vec::new()),
        };
        let bytes = std::mem::size_of::<Request>();
        let _budget = self.budget(bytes)?;
        let (reply, answer) = oneshot::channel();
        self.submit(target, RequestKind::Verify(reply), bytes)?;
        // A node that stops drops what waits; another peer will lead.
        answer.await.unwrap_or(Err(Refusal::NotLeader {
            region,
            leader: None,
        }))
    }

    /// The view of a region that is led here.
    fn leading(&self, target: &Target) -> Result<Arc<RegionView>, Refusal> {
        let region = self
            .region(target.region)
            .ok_or(Refusal::RegionNotFound(target.region))?;
        if region.role == Role::Leader {
            Ok(region)
        } else {
            Err(Refusal::NotLeader {
                region: target.region,
                leader: region.leader,
            })
        }
    }

    /// A view of the engine in which a read of `target` is linearizable, with the region as it was when the view was
    /// taken (LIVENESS B5).
    ///
    /// # Errors
    /// The refusal.
    pub async fn read(&self, target: Target) -> Result<(E::View, Arc<RegionView>), Refusal> {
        self.permit(target).await?.view()
    }

    /// The published view of a region.
    pub fn region(&self, id: RegionId) -> Option<Arc<RegionView>> {
        self.shared.parts.views.region(id)
    }

    /// The published view of the region that owns a key here.
    pub fn find(&self, key: &[u8]) -> Option<Arc<RegionView>> {
        self.shared.parts.views.find(key)
    }

    /// All published views.
    pub fn views(&self) -> &Views {
        &self.shared.parts.views
    }

    /// What the node tells placement.
    pub fn news(&self) -> &News {
        &self.shared.parts.news
    }

    /// The metrics of the node.
    pub fn metrics(&self) -> &Metrics {
        &self.shared.parts.metrics
    }

    /// The engine, for statistics and for reads under a [`Permit`].
    pub fn engine(&self) -> &E {
        &self.shared.parts.engine
    }

    /// Asks for a step of a region. Its outcome comes as news.
    pub fn order(&self, order: Order) {
        self.control(Control::Order(order));
    }

    /// Adds ids to the pool from which splits draw.
    pub fn ids(&self, ids: Vec<u64>) {
        self.control(Control::Ids(ids));
    }

    /// Tells where a key is that the store asked for.
    pub fn located(&self, key: Bytes, region: metapb::Region) {
        self.control(Control::Located(key, region));
    }

    /// Tells what placement knows of a region whose members the store asked for.
    pub fn described(&self, region: metapb::Region) {
        self.control(Control::Described(region));
    }

    /// Tells that placement has removed a store for good after which the store asked.
    pub fn store_removed(&self, store: StoreId) {
        self.control(Control::StoreRemoved(store));
    }

    /// Tells what placement's dial leaves snapshots.
    pub fn dial(&self, dial: store::Dial) {
        self.control(Control::Dial(dial));
    }

    /// Tells what another store is to this one now. Changes are told in their order.
    pub fn support(&self, change: store::liveness::Change) {
        self.control(Control::Support(change));
    }

    /// Hands a frame in that came from another store. `false`: the lane is full and the frame was dropped.
    pub fn frame(&self, from: StoreId, frame: Frame) -> bool {
        let queued = self.shared.parts.inbox.frame(from, frame);
        if !queued {
            self.shared.parts.metrics.frames_dropped.inc();
        }
        queued
    }

    /// Counts a message of another store that arrived damaged and was dropped with its stream.
    pub fn damaged_message(&self) {
        self.shared.parts.metrics.messages_damaged.inc();
    }

    /// The right to receive a snapshot, if it was granted to that store and is still waited for.
    pub fn granted(&self, from: StoreId, head: &SnapshotHead) -> Option<Ticket> {
        let transfers = &self.shared.parts.transfers;
        transfers.granted(Transfer::incoming(head), from)
    }

    /// A snapshot arrived whole and is staged.
    pub fn snapshot_received(&self, from: StoreId, head: SnapshotHead) {
        self.control(Control::SnapshotReceived(from, head));
    }

    /// Something for this store was lost on the way.
    pub fn unreachable(&self, store: StoreId) {
        self.control(Control::Unreachable(store));
    }

    /// A read of a region could not be served: if damaged data is why, its replica here is done for (R13).
    pub fn met_error(&self, region: RegionId, error: &engine::Error) {
        let engine::Error::Corrupt { .. } = error else {
            return;
        };
        // Known of one that reads meet again and again, until another leads.
        let Some(view) = self.region(region).filter(|view| !view.damaged) else {
            return;
        };
        met_damage(region, view.peer, error, self.metrics());
        self.control(Control::Damaged(region, view.peer));
    }

    /// Counts what a read of a region returned.
    pub fn count_read(&self, region: RegionId, keys: usize, bytes: usize) {
        let reads = &self.shared.parts.reads;
        reads.add(region, keys as u64, bytes as u64);
    }

    /// Hands every leadership over and waits until none is left, at most `patience`. Returns whether none is left.
    pub async fn drain(&self, patience: Duration) -> bool {
        self.control(Control::Drain);
        let mut drained = self.shared.parts.drained.clone();
        let done = drained.wait_for(|drained| *drained);
        matches!(tokio::time::timeout(patience, done).await, Ok(Ok(_)))
    }

    /// Time since the region worker ended a turn. It ticks when idle, so a long time means that it is stuck.
    pub fn stalled_for(&self) -> Duration {
        let parts = &self.shared.parts;
        let newest = Duration::from_millis(parts.progress.load(Ordering::Relaxed));
        parts.started.elapsed().saturating_sub(newest)
    }

    /// Time the log writer has spent on the write or sync under way; long means that the disk hangs.
    pub fn log_stalled_for(&self) -> Duration {
        self.shared.parts.log_busy.elapsed()
    }

    fn control(&self, control: Control) {
        self.shared.parts.inbox.control(control);
    }

    fn submit(&self, target: Target, kind: RequestKind, bytes: usize) -> Result<(), Refusal> {
        let request = Request {
            target,
            kind,
            arrived: Instant::now(),
            bytes,
        };
        self.shared.parts.inbox.request(request)
    }

    fn budget(&self, bytes: usize) -> Result<Budget<'_>, Refusal> {
        let in_work = &self.shared.in_work;
        let before = in_work.fetch_add(bytes, Ordering::Relaxed);
        let budget = Budget { in_work, bytes };
        // One request always fits, however large.
        if before > 0 && before + bytes > self.shared.parts.request_bytes_max {
            return Err(Refusal::Busy {
                reason: "too many bytes of requests are in work",
            });
        }
        Ok(budget)
    }

    /// Bytes of requests that are not answered yet.
    pub fn request_bytes(&self) -> usize {
        self.shared.in_work.load(Ordering::Relaxed)
    }
}

/// Bytes counted until the request is answered or given up.
struct Budget<'a> {
    in_work: &'a AtomicUsize,
    bytes: usize,
}

impl Drop for Budget<'_> {
    fn drop(&mut self) {
        self.in_work.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// The right to read: whatever the engine holds from now on is linearizable for the region, as long as the same peer still
/// leads and the region still owns the keys when the read is over.
#[must_use = "a permit reads nothing by itself"]
pub struct Permit<E: Engine> {
    handle: Handle<E>,
    target: Target,
    peer: PeerId,
    term: Term,
}

impl<E: Engine> Permit<E> {
    /// The current value of a key of the data families, without the cost of a view.
    ///
    /// # Errors
    /// The refusal, when the region gave the keys away meanwhile.
    pub fn get(self, key: &[u8]) -> Result<Result<Option<Bytes>, engine::Error>, Refusal> {
        let value = self.handle.engine().get(Family::State, key);
        self.recheck()?;
        if let Ok(value) = &value {
            let bytes = key.len() + value.as_ref().map_or(0, Bytes::len);
            self.handle.count_read(self.target.region, 1, bytes);
        }
        Ok(value)
    }

    /// The current values of keys of the data families, in their order; fewer than keys if more than `bytes_max` bytes were
    /// read by then.
    ///
    /// # Errors
    /// The refusal, when the region gave the keys away meanwhile.
    pub fn get_many(
        self,
        keys: &[Bytes],
        bytes_max: usize,
    ) -> Result<Result<Vec<Option<Bytes>>, engine::Error>, Refusal> {
        let keys: Vec<&[u8]> = keys.iter().map(|key| &key[..]).collect();
        let mut values = Vec::with_capacity(keys.len());
        let mut bytes = 0;
        let mut key_bytes = 0;
        for some in keys.chunks(KEYS_AT_ONCE) {
            if bytes > bytes_max {
                break;
            }
            match self.handle.engine().get_many(Family::State, some) {
                Ok(read) => {
                    key_bytes += some.iter().map(|key| key.len()).sum::<usize>();
                    bytes += read.iter().flatten().map(Bytes::len).sum::<usize>();
                    values.extend(read);
                }
                Err(error) => return Ok(Err(error)),
            }
        }
        self.recheck()?;
        self.handle
            .count_read(self.target.region, values.len(), key_bytes + bytes);
        Ok(Ok(values))
    }

    /// A view of the engine, with the region as it was when the view was taken.
    ///
    /// # Errors
    /// The refusal, when the region gave the keys away meanwhile.
    pub fn view(self) -> Result<(E::View, Arc<RegionView>), Refusal> {
        let view = self.handle.engine().view();
        let region = self.recheck()?;
        Ok((view, region))
    }

    /// Adds to an epoch that does not match the regions here that own the keys now.
    fn with_owners(&self, refusal: Refusal) -> Refusal {
        let (Refusal::EpochNotMatch { mut current }, Keys::Points(keys)) =
            (refusal.clone(), &self.target.keys)
        else {
            return refusal;
        };
        for key in keys {
            let owner = self.handle.find(key).map(|view| view.region.clone());
            current.extend(owner.filter(|owner| current.iter().all(|known| known.id != owner.id)));
        }
        Refusal::EpochNotMatch { current }
    }

    /// Checks the region again, after the engine was read (LIVENESS B5). A split published meanwhile moved keys away that
    /// others may have written since. A peer that stopped leading may have been cleared for a snapshot or destroyed while
    /// it was read.
    fn recheck(&self) -> Result<Arc<RegionView>, Refusal> {
        let region = self.handle.leading(&self.target)?;
        if (region.peer, region.term) != (self.peer, self.term) {
            return Err(Refusal::NotLeader {
                region: self.target.region,
                leader: region.leader,
            });
        }
        check_range(&region, &self.target).map_err(|refusal| self.with_owners(refusal))?;
        Ok(region)
    }
}

/// Whether a region still holds what a request asks for. Points are served at an older version as long as they are in the
/// range; whatever speaks of a range needs the exact version (REGIONS §1), or the client would take what the region holds
/// now for all that it held when the client last looked.
fn check_range(view: &RegionView, target: &Target) -> Result<(), Refusal> {
    if !view.owns_range {
        return Err(Refusal::RegionNotFound(target.region));
    }
    if view.frozen {
        return Err(Refusal::Merging(target.region));
    }
    let region = &view.region;
    let version = |epoch: &metapb::RegionEpoch| epoch.version;
    let same_version = match &target.epoch {
        Some(epoch) => Some(epoch.version) == region.region_epoch.as_ref().map(version),
        None => true,
    };
    let holds = match &target.keys {
        Keys::Points(keys) => keys
            .iter()
            .all(|key| store::keys::contains(&region.start_key, &region.end_key, key)),
        Keys::Range(start, end) => {
            same_version && store::keys::covers(&region.start_key, &region.end_key, start, end)
        }
        Keys::Clamped(_) => same_version,
    };
    if holds {
        Ok(())
    } else {
        Err(Refusal::EpochNotMatch {
            current: vec![region.clone()],
        })
    }
}

fn keys_bytes(keys: &Keys) -> usize {
    match keys {
        Keys::Points(keys) => keys
            .iter()
            .map(|key| key.len() + std::mem::size_of::<Bytes>())
            .sum(),
        Keys::Range(start, end) => start.len() + end.len(),
        Keys::Clamped(start) => start.len(),
    }
}
