//! Bugs planted on purpose.
//!
//! They exist to prove the net: a checker, script or property that has never failed proves nothing, so each of these
//! switches off one rule at run time ([`crate::Options::bug`]) and some test must notice (RELIABILITY §3). Each is a single
//! condition at the place of the rule it breaks; searching for a variant finds that place. Nothing outside tests sets one.

/// One broken rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Bug {
    /// Entries of older terms commit by counting (R6, Raft §5.4.2).
    OlderTermCommit,
    /// Votes leave before they are durable (R7).
    VoteBeforeSync,
    /// Append acknowledgements leave before the entries are durable (R7).
    AckBeforeSync,
    /// An append cuts the log behind it although nothing conflicts (Raft §5.3).
    TruncateWithoutConflict,
    /// A heartbeat carries the leader's commit index, whether the receiver matches that far or not.
    CommitPastMatch,
    /// A joint configuration counts one majority over the union of its halves (R6, R9).
    UnionQuorum,
    /// A membership change is accepted before the last one is applied (R9).
    ChangeBeforeApplied,
    /// Learners count in quorums (R9).
    LearnerCounted,
    /// Votes received in one term are counted in the next as well (R1).
    VoteKept,
    /// A completion counts although its entries were overwritten since (R7).
    StaleCompletion,
    /// A leader counts entries of its own that are not durable (R7).
    OwnUnsyncedCounted,
    /// Reads are confirmed before an entry of the leader's term is committed (R24).
    ReadBeforeOwnCommit,
    /// A read joins a round whose heartbeats already left (R24).
    ReadJoinsRound,
    /// A lease counts from the arrival of acknowledgements, not from the sending of the round (R25).
    LeaseFromAck,
    /// A leader goes on leading, under its lease, after it told another to campaign (R25).
    LeaseKeptOverTransfer,
    /// A snapshot at or below the commit index is installed (R16).
    SnapshotMovesBack,
    /// Entries handed out and not yet reported applied are handed out again (R5).
    DoubleApply,
    /// What a peer acknowledged as an earlier member counts after it was added again.
    OldPeerAccepted,
    /// Only the leader that entered a joint configuration leaves it (R9).
    JointNotLeft,
    /// Structural entries are handed out before a hard state that commits them is durable (REGIONS §1).
    ApplyBeforeDurableCommit,
    /// Whoever hears no leader stands for election without asking first (R10).
    NoPreVote,
    /// A leader without quorum goes on leading (R10).
    NoQuorumCheck,
    /// Candidates get votes whatever their logs end with (R4, Raft §5.4.1).
    OlderLogVoted,
    /// A follower takes entries behind a position that it does not have like that (R3, Raft §5.3).
    NoConsistencyCheck,
}

impl Bug {
    /// Every bug, for tests that go through them.
    pub const ALL: [Bug; 24] = [
        Bug::OlderTermCommit,
        Bug::VoteBeforeSync,
        Bug::AckBeforeSync,
        Bug::TruncateWithoutConflict,
        Bug::CommitPastMatch,
        Bug::UnionQuorum,
        Bug::ChangeBeforeApplied,
        Bug::LearnerCounted,
        Bug::VoteKept,
        Bug::StaleCompletion,
        Bug::OwnUnsyncedCounted,
        Bug::ReadBeforeOwnCommit,
        Bug::ReadJoinsRound,
        Bug::LeaseFromAck,
        Bug::LeaseKeptOverTransfer,
        Bug::SnapshotMovesBack,
        Bug::DoubleApply,
        Bug::OldPeerAccepted,
        Bug::JointNotLeft,
        Bug::ApplyBeforeDurableCommit,
        Bug::NoPreVote,
        Bug::NoQuorumCheck,
        Bug::OlderLogVoted,
        Bug::NoConsistencyCheck,
    ];
}
