//! What goes into a store and what comes out.
//!
//! The driver feeds [`Event`]s in any order they happen, then takes [`Effects`] and carries them out in the order of the
//! fields. Long work leaves as a task and returns as an event that names what it was made for. Nothing here blocks.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use proto::pontoon::v1 as wire;
use proto::{RegionId, StoreId, metapb};
use raft::{Entry, Index, LogPosition, PeerId, Role, Term};

use crate::apply::Buckets;
use crate::digest::{Checkpoint, Digest};
use crate::liveness::Change;
use crate::load::Load;
use crate::merge::MergeState;
pub use crate::order::{Half, Order, OrderAnswer, OrderKind, OrderRefusal, Purpose, StepId};
use crate::snapshot::Dial;
use crate::triggers::SplitCause;
pub use crate::verify::{
    Asked, HeldView, Outcome, StoredData, Sum, Verification, VerifiedMember, VerifyPart,
};

/// The driver's name for a client request. Unique within one incarnation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// Everything that can happen to a store.
#[derive(Debug)]
pub enum Event {
    /// One tick of the clock went by.
    Tick,
    /// A frame arrived over an accepted stream of this store.
    Frame {
        /// Who sent it.
        from: StoreId,
        /// What it holds.
        frame: wire::Frame,
    },
    /// Something for this store was lost on the way.
    Unreachable(StoreId),
    /// What [`crate::liveness::Liveness`] says is different, in its order. Not while [`crate::Options::pledges`] is off.
    Support(Change),
    /// A client wants to write.
    Propose(Proposal),
    /// A client wants to read; answered by [`Effects::reads`] or a refusal.
    Read(ReadRequest),
    /// The log batch with this sequence and all before it are synced.
    LogWritten(u64),
    /// Apply tasks were carried out.
    Applied(Vec<Applied>),
    /// What reads returned since the driver last told.
    Reads(Vec<ReadVolume>),
    /// Placement, or an administrator through it, asks for a step.
    Order(Order),
    /// The region that owns a key now, in answer to [`Effects::locate`].
    Located {
        /// The key.
        key: Bytes,
        /// Its region.
        region: metapb::Region,
    },
    /// The newest descriptor of a region that placement knows, in answer to [`Effects::describe`]: some leader of it had
    /// applied it.
    Described(metapb::Region),
    /// A store was removed for good, in answer to [`Effects::inquire`]: placement has that committed.
    StoreRemoved(StoreId),
    /// Fresh ids for the pool from which splits draw (REGIONS §1).
    Ids(Vec<u64>),
    /// A snapshot arrived whole: every file is staged, synced and checked against its head.
    SnapshotReceived {
        /// Who sent it.
        from: StoreId,
        /// What it is.
        head: wire::SnapshotHead,
    },
    /// A background task ended.
    TaskDone(TaskDone),
    /// A read met damaged data of a peer here (R13).
    Damaged {
        /// The region.
        region: RegionId,
        /// The peer.
        peer: PeerId,
    },
    /// A piece of a snapshot was built, streamed, received or put in place: it is not stuck, and may go on.
    Progress(Transfer),
    /// What the dial of placement leaves snapshots of this store.
    Dial(Dial),
    /// The store is to stop: hand every leadership over (best effort; [`Effects::drained`] tells when none is left).
    Drain,
    /// Somebody wants to know whether all members of a region store the same; answered by [`Effects::verified`] or a refusal.
    Verify {
        /// Its name.
        request: RequestId,
        /// The region, which must be led here.
        region: RegionId,
    },
}

/// A write request.
#[derive(Clone, Debug)]
pub struct Proposal {
    /// Its name.
    pub id: RequestId,
    /// Where, as the client believes.
    pub target: Target,
    /// Operations of one request: applied in order at one log position.
    pub operations: Vec<wire::Operation>,
}

/// A read request: asks only for the right to read at a linearizable point.
#[derive(Clone, Debug)]
pub struct ReadRequest {
    /// Its name.
    pub id: RequestId,
    /// Where, as the client believes.
    pub target: Target,
}

/// What reads of a region returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadVolume {
    /// The region.
    pub region: RegionId,
    /// Keys returned, or looked up in vain.
    pub keys: u64,
    /// Bytes of keys and values.
    pub bytes: u64,
}

/// The address of a request (REGIONS §1, first table).
#[derive(Clone, Debug)]
pub struct Target {
    /// The region.
    pub region: RegionId,
    /// The peer the client believes to lead; `None` is not checked.
    pub peer: Option<PeerId>,
    /// The epoch the client knows; `None` is not checked.
    pub epoch: Option<metapb::RegionEpoch>,
    /// What is touched.
    pub keys: Keys,
}

/// The keys of a request.
#[derive(Clone, Debug)]
pub enum Keys {
    /// Each must lie in the region; an older version is accepted.
    Points(Vec<Bytes>),
    /// The whole range must lie in the region, and the version be the region's. An empty end is the end of all keys.
    Range(Bytes, Bytes),
    /// Served for what lies inside the region (a scan that the store clamps). The version must be the region's: a client
    /// with an older one would take the end of a piece for the end of the region it knew, and miss what was split off. Holds
    /// the key at which it begins, for which nothing is checked.
    Clamped(Bytes),
}

/// Why a request was not done. Nothing of it has happened and nothing will.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// This peer does not lead.
    #[error("region {region} is not led here")]
    NotLeader {
        /// The region.
        region: RegionId,
        /// Who does, if known.
        leader: Option<metapb::Peer>,
    },
    /// Nobody leads, and nobody will before these stores are back: without them there is no quorum.
    #[error("region {region} has no leader: nothing is heard of {}", named(.missing))]
    NoQuorum {
        /// The region.
        region: RegionId,
        /// Stores of voters, silent for two election timeouts.
        missing: Vec<StoreId>,
    },
    /// The client's picture of the region is older or newer than ours.
    #[error("the epoch does not match")]
    EpochNotMatch {
        /// The regions known here that cover what was asked for, ours first.
        current: Vec<metapb::Region>,
    },
    /// A key is outside the region.
    #[error("a key is not in region {}", .region.id)]
    KeyNotInRegion {
        /// The key.
        key: Bytes,
        /// The region.
        region: metapb::Region,
    },
    /// No such region here.
    #[error("region {0} is not on this store")]
    RegionNotFound(RegionId),
    /// The peer id in the request is not the local one.
    #[error("peer {asked} was asked for, peer {local} is here")]
    PeerMismatch {
        /// In the request.
        asked: PeerId,
        /// Here.
        local: PeerId,
    },
    /// The entry was overwritten by another leader: it was not applied and never will be.
    #[error("the command is stale")]
    StaleCommand,
    /// A queue is full (R33).
    #[error("busy: {reason}")]
    Busy {
        /// Which one.
        reason: &'static str,
    },
    /// The command would exceed what an entry may hold.
    #[error("an entry of {bytes} bytes is too large for region {region}")]
    TooLarge {
        /// The region.
        region: RegionId,
        /// Size asked for.
        bytes: u64,
    },
    /// The region is frozen: it is about to become a part of its neighbour, or to go on as it was.
    #[error("region {0} is merging")]
    Merging(RegionId),
    /// The fate is not known here: it may be applied later (R26).
    #[error("the outcome is not known")]
    Unknown,
}

fn named(stores: &[StoreId]) -> String {
    let names: Vec<String> = stores
        .iter()
        .map(|store| format!("store {store}"))
        .collect();
    names.join(", ")
}

/// The answer to one operation of a proposal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OperationResult {
    /// A put, delete or delete range took effect.
    Done,
    /// A compare-and-swap was judged; the old value comes back either way.
    Swapped {
        /// Whether the new value was written.
        succeeded: bool,
        /// What was there, `None` when absent or expired.
        previous: Option<Bytes>,
    },
}

/// A split that a leader decided (REGIONS §4, triggers).
#[derive(Clone, Debug, PartialEq)]
pub struct OwnSplit {
    /// The region.
    pub region: RegionId,
    /// Its applied epoch, if it is there.
    pub epoch: Option<metapb::RegionEpoch>,
    /// Why.
    pub cause: SplitCause,
    /// Where.
    pub keys: Vec<Bytes>,
    /// The numbers that it rests on, by what they are.
    pub inputs: Vec<(&'static str, f64)>,
    /// Whether it was proposed.
    pub result: Result<(), NoSplit>,
}

/// A peer that claims to lead a term that another one leads (R1). Which of them does so rightly cannot be known here: whoever was
/// heard first is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SecondLeader {
    /// The region.
    pub region: RegionId,
    /// The peer here.
    pub peer: PeerId,
    /// The term.
    pub term: Term,
    /// Who leads it, as far as the peer here knows; that peer, if it does.
    pub leader: PeerId,
    /// Who claims to.
    pub other: PeerId,
    /// The store that speaks for it.
    pub other_store: StoreId,
}

/// Two peers of a region that applied the same entries and did not do, or do not hold, the same (R12). Which of them is wrong cannot be known from
/// these alone: it is the one that differs from the others, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Divergence {
    /// The region.
    pub region: RegionId,
    /// The peer here.
    pub peer: PeerId,
    /// The peer that told another digest. `None` when a merge found the difference: it is the one that led the source, which is
    /// the region, when it asked to be merged.
    pub other: Option<PeerId>,
    /// What both had applied.
    pub index: Index,
    /// What differs.
    pub difference: Difference,
}

/// What two peers do not have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Difference {
    /// What they did when they applied.
    Applied {
        /// Digest of the peer here.
        ours: Digest,
        /// Digest of the other one, which began at the same index.
        theirs: Digest,
    },
    /// What they store by now of what they had applied then.
    Stored {
        /// Of the peer here.
        ours: Sum,
        /// Of the other one.
        theirs: Sum,
    },
}

/// Why a region that does too much, or has too much, is not split.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum NoSplit {
    /// A split would not divide it.
    #[error("one key has most of its load")]
    HotKey,
    /// It may not be split now. That is tried again.
    #[error(transparent)]
    Refused(OrderRefusal),
}

/// What a store asks of its driver, to be carried out in the order of the fields (LIVENESS B6).
#[must_use = "lost effects are lost messages and lost writes"]
#[derive(Debug, Default)]
pub struct Effects {
    /// Published states that changed. Readers must see them before anything below leaves.
    pub views: Vec<ViewChange>,
    /// Snapshots that may be worked on and those that may not any more, in this order. Known before a frame tells the other
    /// side to begin.
    pub transfers: Vec<TransferChange>,
    /// Frames that wait for nothing.
    pub frames: BTreeMap<StoreId, wire::Frame>,
    /// What must be written and synced, with the frames that wait for it.
    pub log: Option<LogBatch>,
    /// All stores that regions here have peers on, whenever they are others than before: for
    /// [`crate::liveness::Liveness::share`].
    pub shared: Option<BTreeSet<StoreId>>,
    /// Work for the appliers, per region in this order.
    pub apply: Vec<ApplyTask>,
    /// Work for the background pool.
    pub tasks: Vec<Task>,
    /// Requests that were refused, or whose outcome cannot be known here.
    pub refusals: Vec<(RequestId, Refusal)>,
    /// Reads that may be served now: take an engine view, then check the published view again.
    pub reads: Vec<RequestId>,
    /// News for placement, the newest per region.
    pub reports: Vec<RegionReport>,
    /// What became of orders at proposal.
    pub orders: Vec<OrderAnswer>,
    /// Splits that this store led and applied: parent and children, left to right.
    pub splits: Vec<Vec<metapb::Region>>,
    /// Splits that this store decided itself, and what became of them at proposal.
    pub own_splits: Vec<OwnSplit>,
    /// The id pool runs low: ask placement for this many.
    pub ids_wanted: u32,
    /// Peers that do not hold the same (R12). Each is told once, as long as the region is led here. Somebody must look.
    pub divergences: Vec<Divergence>,
    /// Messages that were dropped because a second peer claims to lead a term (R1). Each term of a region is told once. Somebody
    /// must look: that store lies, or forgot what it had synced.
    pub second_leaders: Vec<SecondLeader>,
    /// Verifications that ended, with the requests that asked for them; without one it was a region's turn.
    pub verified: Vec<(Option<RequestId>, Verification)>,
    /// Keys of which a frozen source needs to know where they are now: placement knows. Asked again if no answer comes.
    pub locate: Vec<Bytes>,
    /// Regions with a peer here that hears no leader, and whose members did not help: placement knows who belongs to them.
    /// Asked again if no answer comes.
    pub describe: Vec<RegionId>,
    /// Stores that say nothing, and of which a record of a merge needs to know: placement knows whether they were removed for
    /// good. Asked again if no answer comes.
    pub inquire: Vec<StoreId>,
    /// After [`Event::Drain`]: nothing is led here any more that another store could lead.
    pub drained: bool,
    /// Own data on disk is damaged, or the engine failed: the driver carries nothing of this out and stops the node (R13,
    /// R14).
    pub failure: Option<crate::Error>,
}

/// One durable write of the raft tier for all regions of a turn (STORAGE §2).
#[must_use = "votes and acknowledgements wait in here"]
#[derive(Debug)]
pub struct LogBatch {
    /// Grows by one. Batches are written in this order.
    pub sequence: u64,
    /// All in [`engine::Family::Log`].
    pub batch: engine::Batch,
    /// Whether anything waits for the sync; if not, it may share a later one.
    pub sync: bool,
    /// Leave when it is synced.
    pub then: BTreeMap<StoreId, wire::Frame>,
}

/// A change of the published state of a region on this store.
#[derive(Clone, Debug)]
pub enum ViewChange {
    /// A region is here, or changed.
    Set(Arc<RegionView>),
    /// It is gone.
    Removed(RegionId),
}

/// What other threads may know of a region.
#[derive(Clone, Debug, PartialEq)]
pub struct RegionView {
    /// Applied descriptor. Empty range and peers while uninitialized.
    pub region: metapb::Region,
    /// The peer here.
    pub peer: PeerId,
    /// Whether it owns its range (not uninitialized, not installing).
    pub owns_range: bool,
    /// Whether it is frozen or about to be: it serves nothing (REGIONS §5).
    pub frozen: bool,
    /// Raft role.
    pub role: Role,
    /// Raft term.
    pub term: Term,
    /// Who leads, if known.
    pub leader: Option<metapb::Peer>,
    /// Some of its data could not be read (R13).
    pub damaged: bool,
}

/// Committed entries of one region for its applier, or a change of what the applier holds for it. Tasks of one region are
/// carried out by one applier in the order in which they were emitted.
#[derive(Debug)]
pub enum ApplyTask {
    /// The applier takes the region over, from the engine's state.
    Open(RegionId),
    /// Entries to apply, contiguous with the last task of the region.
    Entries {
        /// The region.
        region: RegionId,
        /// The peer they are for.
        peer: PeerId,
        /// The entries.
        entries: Vec<Entry>,
        /// Requests that wait for entries of this task: index, term, and the requests with how many operations each has,
        /// in the order of the entry's operations.
        waiting: Vec<Waiting>,
    },
    /// A region that a split made, opened just before: what its parent counted of it.
    Inherit(RegionId, Box<Buckets>),
    /// How large a region was found to be by [`Task::Count`].
    Counted {
        /// The region.
        region: RegionId,
        /// The peer.
        peer: PeerId,
        /// What was found.
        count: Box<Count>,
    },
    /// The peer's data was found damaged: the applier, which alone writes a region's state, writes that into it.
    MarkDamaged {
        /// The region.
        region: RegionId,
        /// The peer.
        peer: PeerId,
    },
    /// The applier forgets the region.
    Close(RegionId),
}

/// How large a region is believed to be, on one peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Estimate {
    /// Bytes of keys and values.
    pub bytes: u64,
    /// Keys.
    pub keys: u64,
    /// By how much `bytes` may be wrong, about.
    pub uncertain_bytes: u64,
}

impl Estimate {
    /// What a record tells.
    pub(crate) fn of(record: &wire::AppliedState) -> Estimate {
        Estimate {
            bytes: record.bytes,
            keys: record.keys,
            uncertain_bytes: record.uncertain_bytes,
        }
    }

    /// The record that tells it, with what is applied.
    pub(crate) fn record(self, applied: LogPosition, digest: Option<Digest>) -> wire::AppliedState {
        wire::AppliedState {
            index: applied.index,
            term: applied.term,
            bytes: self.bytes,
            keys: self.keys,
            uncertain_bytes: self.uncertain_bytes,
            digest: digest.map(Digest::to_wire),
        }
    }
}

/// How large a region is on one peer, counted in one view of the engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Count {
    /// Version of the region's epoch in the view: the range that was counted.
    pub version: u64,
    /// What was applied in the view.
    pub index: Index,
    /// What was believed in the view, as the region's record says.
    pub believed: Estimate,
    /// Bytes of keys and values.
    pub bytes: u64,
    /// Keys.
    pub keys: u64,
    /// Where parts of about equal size begin, with the bytes of each; the first at the start of the region.
    pub edges: Vec<(Bytes, u64)>,
}

/// Who waits for an entry.
#[derive(Clone, Debug)]
pub struct Waiting {
    /// The entry.
    pub index: Index,
    /// Requests and the number of their operations, in order.
    pub requests: Vec<(RequestId, usize)>,
}

/// What an applier did for one region.
#[derive(Debug)]
pub struct Applied {
    /// The region.
    pub region: RegionId,
    /// The peer.
    pub peer: PeerId,
    /// Applied up to here.
    pub index: Index,
    /// Term of that entry.
    pub term: Term,
    /// The descriptor, if it or what follows changed.
    pub changed: Option<metapb::Region>,
    /// What is remembered of merges, with every changed descriptor.
    pub merge: Option<MergeState>,
    /// The source that was taken in.
    pub absorbed: Option<Absorbed>,
    /// Children of applied splits.
    pub children: Vec<AppliedChild>,
    /// Whether the peer of this store was removed.
    pub removed: bool,
    /// Whether its state says that its data is damaged (R13).
    pub damaged: bool,
    /// Whether this answers [`ApplyTask::MarkDamaged`].
    pub marked: bool,
    /// The first damage that these entries met.
    pub damage: Option<engine::Error>,
    /// Of an answer to [`ApplyTask::Counted`]: whether the count was taken over. It was not if it is of another range, or of
    /// data that was replaced.
    pub counted: Option<bool>,
    /// Of everything that took effect up to `index`, as far as it is known (R12).
    pub digest: Option<Digest>,
    /// What it was at the indices at which peers compare, ascending.
    pub checkpoints: Vec<Checkpoint>,
    /// Entries that ask for digests of what is stored.
    pub asked: Vec<Asked>,
    /// How large the region is believed to be.
    pub estimate: Estimate,
    /// Where to split it, when it is larger than it should be.
    pub split_keys: Vec<Bytes>,
    /// The largest key ever applied, when it is another than the one last told.
    pub last_key: Option<Bytes>,
    /// Bytes written by these entries.
    pub written_bytes: u64,
    /// Keys written or deleted by these entries.
    pub written_keys: u64,
    /// Requests that are done, with the results of their operations, or refused at apply. The driver answers these after
    /// the store has been given the event and its views are published.
    pub answers: Vec<(RequestId, Result<Vec<OperationResult>, Refusal>)>,
    /// Requests that had no effect because they do not fit the region as it is at their index. The store answers these, with
    /// every region it knows that covers them ([`Effects::refusals`]).
    pub misrouted: Vec<Misrouted>,
}

/// A write that does not fit the region any more at the index at which it is applied (REGIONS §8).
#[derive(Clone, Debug)]
pub struct Misrouted {
    /// The request.
    pub id: RequestId,
    /// What it asked for, at the epoch at which it was proposed.
    pub target: Target,
    /// Whether the region was frozen.
    pub frozen: bool,
}

/// A source that a merge took in. Its tombstone is written, its log is not touched.
#[derive(Clone, Debug)]
pub struct Absorbed {
    /// The source.
    pub region: RegionId,
    /// Its peer on this store.
    pub peer: PeerId,
    /// What was written as its state.
    pub tombstone: wire::RegionState,
    /// Its digest and the one that the command names, if they differ (R12).
    pub differs: Option<(Digest, Digest)>,
}

/// A child region that a split wrote.
#[derive(Clone, Debug)]
pub struct AppliedChild {
    /// Its descriptor.
    pub region: metapb::Region,
    /// The peer of this store.
    pub peer: PeerId,
    /// Who leads its first term.
    pub first_leader: PeerId,
    /// How large it is believed to be.
    pub estimate: Estimate,
    /// How that is spread.
    pub buckets: Box<Buckets>,
    /// Merges that the parent remembers.
    pub records: Vec<wire::MergeRecord>,
    /// False when the child's mark or tombstone here forbids it (REGIONS §4); its range stays unowned.
    pub created: bool,
}

/// A snapshot on its way, as one side of it knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Transfer {
    /// Built and streamed here.
    Outgoing {
        /// The region.
        region: RegionId,
        /// Receiver.
        to_peer: PeerId,
        /// Number of the build, never the same twice on a store.
        build: u64,
    },
    /// Received and put in place here.
    Incoming {
        /// The region.
        region: RegionId,
        /// The peer here.
        to_peer: PeerId,
        /// The slot that was granted.
        slot: u64,
    },
}

/// The beginning, the pace or the end of a snapshot on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransferChange {
    /// Work on it may begin; with the store on the other side.
    Begun(Transfer, StoreId),
    /// Its bytes may leave at so many per second, from now on.
    Paced(Transfer, u64),
    /// Nothing comes of it any more: whoever builds, streams or receives it stops and removes its files.
    Ended(Transfer),
}

/// Background work. Carried out by [`crate::task::run`] with the engine, but for sending.
#[derive(Clone, Debug)]
pub enum Task {
    /// Build a snapshot of a region at its current applied position.
    BuildSnapshot {
        /// The region.
        region: RegionId,
        /// Who leads it here, and in which term.
        from_peer: PeerId,
        /// Leader term.
        leader_term: Term,
        /// Receiver.
        to_peer: PeerId,
        /// Store of the receiver.
        to_store: StoreId,
        /// Slot granted by the receiver.
        slot: u64,
        /// Number of this build.
        build: u64,
    },
    /// Stream a built snapshot (the driver's transport does this), then remove its files.
    SendSnapshot {
        /// Store of the receiver.
        to_store: StoreId,
        /// Number of the build.
        build: u64,
        /// What to send.
        head: wire::SnapshotHead,
    },
    /// Clear, ingest, write the region state, flush (REGIONS §7).
    InstallSnapshot {
        /// What arrived.
        head: wire::SnapshotHead,
        /// Ranges to clear before: the old range of this peer and the new one.
        clear: Vec<(Bytes, Bytes)>,
        /// Tombstones of merged regions whose ranges it takes over, written in the same batch.
        tombstones: Vec<wire::RegionState>,
    },
    /// Flush the tombstone, then delete log and hard state (REGIONS §2, order of destroying), and clear `clear`.
    Destroy {
        /// The region.
        region: RegionId,
        /// The peer.
        peer: PeerId,
        /// Written as the tombstone.
        tombstone: wire::RegionState,
        /// Tombstones of merged regions that die with it, written in the same batch.
        merged: Vec<wire::RegionState>,
        /// Ranges that nobody owns any more.
        clear: Vec<(Bytes, Bytes)>,
    },
    /// Remove staged files that nobody wants.
    RemoveFiles(Vec<String>),
    /// Read entries back from the log for a member that lags: they left memory because they are applied.
    FetchEntries(Fetch),
    /// Count what a region holds: too much of what is believed is uncertain.
    Count {
        /// The region.
        region: RegionId,
        /// The peer here.
        peer: PeerId,
        /// About how many bytes a part has whose start is told.
        part_bytes: u64,
    },
    /// Digest a piece of what a peer stores.
    Verify(Box<VerifyPart>),
}

/// Entries wanted from the log, and for whom.
#[derive(Clone, Debug)]
pub struct Fetch {
    /// The region.
    pub region: RegionId,
    /// Who leads it here, and in which term.
    pub from_peer: PeerId,
    /// Leader term.
    pub leader_term: Term,
    /// The member that lags.
    pub to_peer: PeerId,
    /// Which entries.
    pub range: Range<Index>,
    /// No more bytes than this, but one entry at least.
    pub bytes_max: usize,
}

impl Task {
    /// The snapshot that the task is a part of.
    pub fn transfer(&self) -> Option<Transfer> {
        match self {
            Task::BuildSnapshot {
                region,
                to_peer,
                build,
                ..
            } => Some(Transfer::Outgoing {
                region: *region,
                to_peer: *to_peer,
                build: *build,
            }),
            Task::SendSnapshot { build, head, .. } => Some(Transfer::Outgoing {
                region: crate::snapshot::region_of(head),
                to_peer: PeerId(head.to_peer),
                build: *build,
            }),
            Task::InstallSnapshot { head, .. } => Some(Transfer::incoming(head)),
            Task::Destroy { .. }
            | Task::RemoveFiles(_)
            | Task::FetchEntries(_)
            | Task::Count { .. }
            | Task::Verify(_) => None,
        }
    }
}

impl Transfer {
    /// A snapshot as its receiver knows it.
    pub fn incoming(head: &wire::SnapshotHead) -> Transfer {
        Transfer::Incoming {
            region: crate::snapshot::region_of(head),
            to_peer: PeerId(head.to_peer),
            slot: head.slot,
        }
    }
}

/// How a task ended.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "rare, and moved once")]
pub enum TaskDone {
    /// A snapshot is staged, or could not be built.
    SnapshotBuilt {
        /// The region.
        region: RegionId,
        /// For whom.
        to_peer: PeerId,
        /// Number of the build.
        build: u64,
        /// What was built.
        head: Option<wire::SnapshotHead>,
    },
    /// The data of a peer is damaged (R13), which building a snapshot, counting or digesting found out.
    Damaged {
        /// The region.
        region: RegionId,
        /// The peer here.
        peer: PeerId,
        /// What was found.
        error: engine::Error,
    },
    /// A snapshot was streamed (`true`: the receiver has every byte).
    SnapshotSent {
        /// The region.
        region: RegionId,
        /// For whom.
        to_peer: PeerId,
        /// Number of the build.
        build: u64,
        /// Whether it arrived.
        delivered: bool,
    },
    /// A snapshot is installed and flushed.
    SnapshotInstalled {
        /// The region.
        region: RegionId,
        /// The peer.
        peer: PeerId,
        /// Its index.
        index: Index,
        /// How large the region is: counted, and so certain.
        estimate: Estimate,
    },
    /// The staged files of a snapshot are gone or damaged; nothing was changed.
    SnapshotUnusable {
        /// The region.
        region: RegionId,
        /// The peer.
        peer: PeerId,
    },
    /// Entries were read: those of the range from its start on that are there and fit.
    EntriesFetched {
        /// What was asked for.
        fetch: Fetch,
        /// What was found.
        entries: Vec<Entry>,
    },
    /// A region was counted.
    Counted {
        /// The region.
        region: RegionId,
        /// The peer here.
        peer: PeerId,
        /// What was found; `None` when the peer has no data.
        count: Option<Count>,
    },
    /// A piece of what a peer stores was digested.
    Verified {
        /// The region.
        region: RegionId,
        /// The peer here.
        peer: PeerId,
        /// The entry as of which it is.
        index: Index,
        /// Of everything up to the end of the piece.
        sum: Sum,
        /// Where the next piece begins, if there is one.
        next: Option<Bytes>,
    },
    /// A peer's remains are gone.
    Destroyed {
        /// The region.
        region: RegionId,
        /// The peer.
        peer: PeerId,
    },
}

/// What placement learns of a region from its leader.
#[derive(Clone, Debug)]
pub struct RegionReport {
    /// Applied descriptor.
    pub region: metapb::Region,
    /// The leader, here.
    pub leader: metapb::Peer,
    /// Its term.
    pub term: Term,
    /// Voters and learners that did not answer lately, with seconds of silence.
    pub down: Vec<(metapb::Peer, u64)>,
    /// Peers that are not caught up (REGIONS §3).
    pub pending: Vec<metapb::Peer>,
    /// Estimated bytes.
    pub bytes: u64,
    /// Estimated keys.
    pub keys: u64,
    /// What clients did during the last `interval_ms`.
    pub load: Load,
    /// Time over which that was counted: about a minute, less while the leader or the range is new.
    pub interval_ms: u64,
}
