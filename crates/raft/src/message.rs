//! What peers of a group say to each other.

use crate::types::{Entry, Index, LogPosition, PeerId, Term};

/// One uninterrupted span for which one store supports another (LIVENESS §3). Opaque here; absent in plain mode.
pub type SupportId = std::num::NonZeroU64;

/// A message between two peers of one group.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Message {
    /// Sender.
    pub from: PeerId,
    /// Receiver.
    pub to: PeerId,
    /// The sender's term; in a pre-vote request and a granted pre-vote the term that is asked for.
    pub term: Term,
    /// The support that the receiver's store gives the sender's store, put beside leader messages by the driver on arrival
    /// (LIVENESS §12.2). `None` in plain mode.
    pub support: Option<SupportId>,
    /// What is said.
    pub body: Body,
}

/// The kinds of message.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Body {
    /// Would you vote for me in `term`? (Thesis §9.6)
    PreVoteRequest {
        /// End of the sender's log.
        last: LogPosition,
        /// A term that the sender led and will never act in again (LIVENESS P4).
        released: Option<Term>,
    },
    /// Vote for me in `term` (Raft §5.2).
    VoteRequest {
        /// End of the sender's log.
        last: LogPosition,
        /// As in the pre-vote.
        released: Option<Term>,
        /// The leader told the sender to campaign, so having heard from it lately is no reason to refuse (Thesis §4.2.3).
        transfer: bool,
    },
    /// The answer to a pre-vote.
    PreVoteResponse {
        /// `None` grants.
        refusal: Option<RefusalReason>,
    },
    /// The answer to a vote. A grant leaves only inside the write that makes it durable.
    VoteResponse {
        /// `None` grants.
        refusal: Option<RefusalReason>,
    },
    /// Entries that follow `previous` (Raft §5.3). Empty entries probe.
    Append {
        /// Position before the first entry.
        previous: LogPosition,
        /// Contiguous entries.
        entries: Vec<Entry>,
        /// The leader's commit index.
        commit: Index,
    },
    /// The answer to an append. A success leaves only inside the write that makes the entries durable.
    AppendResponse {
        /// What became of it.
        result: AppendResult,
        /// The commit index the sender knows.
        commit: Index,
        /// The support under which the sender pledged (LIVENESS P1).
        pledge: Option<SupportId>,
    },
    /// The leader lives.
    Heartbeat {
        /// Commit index, never above what the receiver is known to match.
        commit: Index,
        /// The read round this heartbeat asks to confirm (Thesis §6.4); 0 asks for none.
        round: u64,
    },
    /// The answer to a heartbeat.
    HeartbeatResponse {
        /// The round of the heartbeat.
        round: u64,
        /// The commit index the sender knows.
        commit: Index,
        /// The support under which the sender pledged.
        pledge: Option<SupportId>,
    },
    /// A follower asks for an index to read at (LIVENESS B7).
    ReadIndexRequest {
        /// The asker's number for it, unique within its incarnation.
        request: u64,
    },
    /// The leader's answer.
    ReadIndexResponse {
        /// The asker's number.
        request: u64,
        /// A read at or above this applied index is linearizable; `None` when the leader could not confirm itself.
        index: Option<Index>,
    },
    /// Campaign at once; the sender no longer leads (Thesis §3.10).
    TimeoutNow,
    /// The sender will never again act as leader of `term` (LIVENESS P6).
    Release,
}

/// What became of an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AppendResult {
    /// The log matches the leader's up to here, durably.
    Matched(Index),
    /// The entry at `previous` was missing or of another term.
    Mismatch {
        /// The `previous.index` of the append that is refused, so that late refusals are told apart.
        rejected: Index,
        /// Where the leader should try next: a position of the sender's log that may match (Raft §5.3, end).
        hint: LogPosition,
    },
    /// There is nothing to match: the snapshot at this position took the place of the sender's log, and was lost before it was
    /// in place. Another is needed, no older. It holds as long as nothing at or above the position is acknowledged.
    Lost(LogPosition),
}

/// Why a vote or pre-vote was refused (LIVENESS §2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RefusalReason {
    /// A standing pledge to a leader.
    Pledged,
    /// A leader was heard within the minimum election timeout (Thesis §4.2.3).
    LeaderHeard,
    /// The refuser's log is more up to date.
    BetterLog,
    /// The term is old, or the vote of this term is given.
    Term,
}
