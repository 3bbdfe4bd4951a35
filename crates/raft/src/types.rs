//! The values Raft speaks in: identities, positions, entries, membership, durable state.

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;

/// A Raft term. 0 is the term before any election.
pub type Term = u64;

/// A position in the log, counted from 1.
pub type Index = u64;

/// The index before the first entry of a log that was never compacted.
pub const BEFORE_LOG: Index = 0;

/// One member of a group. Never 0, never reused (R19).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub u64);

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A place in the log, or its end. Ordered as Raft §5.4.1 compares logs: term first, then index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogPosition {
    /// Term of the entry at `index`.
    pub term: Term,
    /// Index of the entry; [`BEFORE_LOG`] before the first.
    pub index: Index,
}

/// What a peer must never forget (Raft figure 2, with the commit index of REGIONS §1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct HardState {
    /// Latest term seen.
    pub term: Term,
    /// Whom this peer voted for in `term`.
    pub vote: Option<PeerId>,
    /// An index known to be committed. Never goes back.
    pub commit: Index,
}

/// What an entry carries.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Payload {
    /// The entry with which a leader opens its term (Raft §8).
    Noop,
    /// An ordinary command of the state machine.
    Command(Bytes),
    /// A command that changes structure (a split, say). It and what follows it are handed out for applying only when a
    /// hard state with `commit >= index` is durable (REGIONS §1, "commit before apply").
    Structural(Bytes),
    /// A membership change, effective as soon as it is appended (Raft §6). Also structural.
    Membership {
        /// What changes.
        change: MembershipChange,
        /// Opaque to Raft: the caller's description of the change. Empty for a `LeaveJoint` that the leader proposed by
        /// itself.
        context: Bytes,
    },
}

impl Payload {
    /// Whether applying it must wait for a durable commit index (REGIONS §1).
    pub fn is_structural(&self) -> bool {
        match self {
            Payload::Structural(_) | Payload::Membership { .. } => true,
            Payload::Noop | Payload::Command(_) => false,
        }
    }

    /// What it counts for in limits: the caller's bytes and a little for the record itself, so that empty payloads are
    /// bounded as well.
    pub fn size_bytes(&self) -> usize {
        const RECORD_BYTES: usize = 32;
        let carried = match self {
            Payload::Noop => 0,
            Payload::Command(bytes) | Payload::Structural(bytes) => bytes.len(),
            Payload::Membership { context, .. } => context.len(),
        };
        RECORD_BYTES + carried
    }
}

/// A record of the log.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Entry {
    /// Term of the leader that created it.
    pub term: Term,
    /// Its index.
    pub index: Index,
    /// What it carries.
    pub payload: Payload,
}

impl Entry {
    /// Where it stands.
    pub fn position(&self) -> LogPosition {
        LogPosition {
            term: self.term,
            index: self.index,
        }
    }
}

/// What part a member has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MemberKind {
    /// Votes, in both halves while the configuration is joint.
    Voter,
    /// Receives the log, never counts.
    Learner,
    /// Votes in the incoming half only; becomes a voter.
    IncomingVoter,
    /// Votes in the outgoing half only; becomes a learner.
    DemotingVoter,
}

/// A configuration. Joint while any member is incoming or demoting (Raft §6).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Membership {
    /// Every member and its kind.
    pub members: BTreeMap<PeerId, MemberKind>,
}

/// A step from one configuration to the next (REGIONS §3).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum MembershipChange {
    /// Adds a member that does not vote.
    AddLearner(PeerId),
    /// Removes a member that does not vote.
    RemoveLearner(PeerId),
    /// Enters a joint configuration: learners in `promote` become incoming voters, voters in `demote` become demoting.
    EnterJoint {
        /// Learners that shall vote.
        promote: Vec<PeerId>,
        /// Voters that shall not.
        demote: Vec<PeerId>,
    },
    /// Leaves the joint configuration: incoming become voters, demoting become learners.
    LeaveJoint,
}
