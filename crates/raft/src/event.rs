//! What goes into a peer and what comes out.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use crate::message::{Message, SupportId};
use crate::planted::Bug;
use crate::types::{Entry, HardState, Index, LogPosition, Membership, Payload, PeerId, Term};

/// Numbers the log writes of one peer in one incarnation, growing by one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WriteId(pub u64);

/// The caller's name for a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReadId(pub u64);

/// Everything that can happen to a peer.
#[derive(Clone, Debug)]
pub enum Event {
    /// Time went on by one tick.
    Tick,
    /// A message arrived.
    Message(Message),
    /// Append this to the log. Answered at once: with the position, or refused.
    Propose(Payload),
    /// Confirm leadership and tell at which index a read is linearizable (Thesis §6.4). Reads that arrive before the next
    /// effects are taken share a round. On a follower the leader is asked.
    Read(ReadId),
    /// This log write and all before it are durable.
    Written(WriteId),
    /// Somebody knows this entry to be committed, though not from this group's leader: another group's log says so. Counts
    /// only if the entry is here.
    CommittedTo(LogPosition),
    /// Everything up to here was applied.
    Applied(Index),
    /// Entries asked for by [`Fetch`], from the first wanted on; fewer than wanted are fine, none means "compacted".
    Fetched {
        /// The peer they are for.
        peer: PeerId,
        /// Contiguous entries.
        entries: Vec<Entry>,
    },
    /// Everything up to `index` may be forgotten. Never above what is applied.
    Compact(Index),
    /// A snapshot was accepted and staged; the answer is a [`LogWrite`] with `install`, or a refusal.
    InstallSnapshot {
        /// The leader that sent it, and its term.
        from: PeerId,
        /// Term of the sender.
        term: Term,
        /// Last entry the snapshot includes.
        position: LogPosition,
        /// Configuration at `position`.
        membership: Membership,
    },
    /// The state of the snapshot at `position` is installed and durable.
    SnapshotInstalled(LogPosition),
    /// The state of the snapshot at `position` cannot be put in place: what was staged is gone. The peer stays as it is, tells
    /// the leader in answer to its next append, and takes another snapshot.
    SnapshotLost(LogPosition),
    /// Sending a snapshot that [`Effects::snapshots`] asked for ended; `delivered` is the index it brought, if it arrived.
    SnapshotEnded {
        /// The receiver.
        peer: PeerId,
        /// Index of the installed snapshot, `None` when sending failed.
        delivered: Option<Index>,
    },
    /// A message to this peer was lost; stop pipelining to it.
    Unreachable(PeerId),
    /// Hand leadership to this peer (Thesis §3.10), or to the best one.
    Transfer(Option<PeerId>),
    /// Campaign now.
    Campaign(CampaignReason),
    /// Stop leading, releasing the followers (LIVENESS P6).
    StepDown(StepDownReason),
    /// The support with this id ended: pledges under it are worth nothing (LIVENESS S4).
    SupportEnded(SupportId),
    /// The support that a member's store now gives ours (LIVENESS P2). Only a leader listens: what is held when a peer begins to
    /// lead, and for a member that is added, is to be told then.
    SupportHeld {
        /// The member.
        peer: PeerId,
        /// The id, or none.
        support: Option<SupportId>,
    },
}

/// Why a campaign starts from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CampaignReason {
    /// The first leader named by a split, or the only member.
    Named,
    /// The caller paces elections itself (LIVENESS §6).
    Paced,
}

/// Why a leader is told to step down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepDownReason {
    /// The group makes no progress here (LIVENESS G4).
    Stuck,
    /// The store stops.
    Shutdown,
}

/// What a peer asks of its driver, to be carried out in the order of the fields (LIVENESS B6).
#[must_use = "lost effects are lost messages and lost writes"]
#[derive(Clone, Debug, Default)]
pub struct Effects {
    /// What changed of the published state. Readers must see it before anything below leaves.
    pub view: Option<View>,
    /// Messages that wait for nothing.
    pub messages: Vec<Message>,
    /// What must become durable, with the messages that wait for it.
    pub write: Option<LogWrite>,
    /// Committed entries to apply, contiguous with what was handed out before.
    pub committed: Vec<Entry>,
    /// Reads that may be served once `index` is applied.
    pub reads: Vec<ReadReady>,
    /// Reads that cannot be confirmed here any more.
    pub reads_dropped: Vec<ReadId>,
    /// Entries wanted back from the log. Each is answered by exactly one [`Event::Fetched`]; the member gets nothing before.
    pub fetches: Vec<Fetch>,
    /// Peers that need a snapshot, each named once until [`Event::SnapshotEnded`].
    pub snapshots: Vec<PeerId>,
}

/// One durable write of a peer. Writes complete in the order of their ids.
///
/// A write may carry nothing but `after`: those messages wait for an earlier write that is still on its way.
#[must_use = "votes and acknowledgements wait in here"]
#[derive(Clone, Debug, Default)]
pub struct LogWrite {
    /// Its number.
    pub id: WriteId,
    /// Replaces the stored hard state.
    pub hard_state: Option<HardState>,
    /// The whole stored log is first replaced by the snapshot at this position. (A log that holds the position already needs
    /// no snapshot, and gets none.)
    pub install: Option<LogPosition>,
    /// Entries from this index on are removed before `entries` are added.
    pub truncate_from: Option<Index>,
    /// Entries to add, contiguous.
    pub entries: Vec<Entry>,
    /// Messages that may leave only after this write is durable (R7).
    pub after: Vec<Message>,
}

/// A confirmed read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ReadReady {
    /// The caller's name for it.
    pub id: ReadId,
    /// Serve it when applied >= this.
    pub index: Index,
}

/// Entries that are no longer in memory and are wanted for a peer that lags.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Fetch {
    /// For whom.
    pub peer: PeerId,
    /// Half-open range of indexes.
    pub range: Range<Index>,
    /// Stop at this size, but bring at least one entry.
    pub bytes_max: usize,
}

/// What a peer currently is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// Follows, or waits.
    #[default]
    Follower,
    /// Asks whether an election would succeed.
    PreCandidate,
    /// Stands for election.
    Candidate,
    /// Leads.
    Leader,
}

/// The published state of a peer (LIVENESS §1).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// Role.
    pub role: Role,
    /// Term.
    pub term: Term,
    /// Who leads, as far as known.
    pub leader: Option<PeerId>,
    /// Commit index.
    pub commit: Index,
    /// Whether an entry of `term` is committed; reads at a leader need it (R24).
    pub committed_in_term: bool,
    /// Whether leadership is being handed over, so that proposals are refused.
    pub transferring: bool,
    /// The latest appended configuration, shared because a view is published with every move of `commit`.
    pub membership: Arc<Membership>,
}

/// What a leader knows of a member; for status, placement and checks of membership changes (REGIONS §3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberStatus {
    /// Last index known to match.
    pub matched: Index,
    /// Ticks since anything was heard from it.
    pub silent_ticks: u32,
    /// A snapshot is on its way.
    pub in_snapshot: bool,
    /// The commit index it knows.
    pub commit: Index,
    /// The support under which it pledged, whether or not that is the one held now (LIVENESS P2).
    pub record: Option<SupportId>,
}

/// The leader's members, without itself.
pub type MemberStatuses = BTreeMap<PeerId, MemberStatus>;

/// Settings of a peer, the same for all peers of a store.
#[derive(Clone, Debug)]
pub struct Options {
    /// Minimum election timeout `T`; drawn from `[T, 2T)` per attempt.
    pub election_ticks: u32,
    /// Ticks between heartbeats, at most a fifth of `election_ticks`.
    pub heartbeat_ticks: u32,
    /// Entries in one append. Not 0.
    pub append_entries_max: usize,
    /// Bytes in one append; a larger entry travels alone.
    pub append_bytes_max: usize,
    /// Appends in flight to one member. Not 0.
    pub inflight_messages_max: usize,
    /// Bytes in flight to one member; an append is sent while there are less. Not 0.
    pub inflight_bytes_max: usize,
    /// Bytes of entries proposed and not yet committed; above, proposals are refused.
    pub uncommitted_bytes_max: usize,
    /// Bytes of applied entries kept in memory for members that lag a little.
    pub cache_bytes_max: usize,
    /// Serve reads under a lease (R25): ticks it lasts from the sending of a confirmed round, less than
    /// `election_ticks`. `None` is off.
    pub lease_ticks: Option<u32>,
    /// A bug planted on purpose, for checkers to find. `None` outside tests.
    pub bug: Option<Bug>,
}

impl Default for Options {
    /// For a tick of 50 ms: `T` = 500 ms, heartbeats every 100 ms, 64 entries or 1 MiB an append.
    fn default() -> Self {
        Options {
            election_ticks: 10,
            heartbeat_ticks: 2,
            append_entries_max: 64,
            append_bytes_max: 1 << 20,
            inflight_messages_max: 256,
            inflight_bytes_max: 16 << 20,
            uncommitted_bytes_max: 64 << 20,
            cache_bytes_max: 1 << 20,
            lease_ticks: None,
            bug: None,
        }
    }
}

/// What a peer starts from.
#[derive(Clone, Debug)]
pub struct Restored {
    /// This peer.
    pub id: PeerId,
    /// Seed of its random election timeouts, and of the numbers of its questions. Another one in each incarnation: it is what tells
    /// late answers to an earlier incarnation apart.
    pub seed: u64,
    /// The durable hard state.
    pub hard_state: HardState,
    /// The last position that was compacted away, or the base of a snapshot.
    pub compacted: LogPosition,
    /// Configuration at `applied`. Empty for a peer that knows no configuration yet: it votes and never campaigns.
    pub membership: Membership,
    /// What the state machine has applied, durably.
    pub applied: Index,
    /// Every entry above `compacted`, contiguous.
    pub entries: Vec<Entry>,
    /// This peer was just created by a split and `hard_state` names the first leader of term 1 as its vote (REGIONS §4). The
    /// hard state counts as not yet durable, so it is part of the first write and nothing leaves before. Only then may
    /// [`CampaignReason::Named`] lead term 1 without an election. `false` after every restart.
    pub first_term: bool,
}

impl Restored {
    /// A peer with nothing: no log, no vote, no configuration.
    pub fn blank(id: PeerId, seed: u64) -> Self {
        Restored {
            id,
            seed,
            hard_state: HardState::default(),
            compacted: LogPosition::default(),
            membership: Membership::default(),
            applied: 0,
            entries: Vec::new(),
            first_term: false,
        }
    }
}
