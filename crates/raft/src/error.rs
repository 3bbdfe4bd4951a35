//! Why the core refuses something.

use crate::membership::MembershipError;
use crate::types::{Index, LogPosition, PeerId, Term};

/// A refusal. Nothing changed, except where a variant says so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Only a leader does this. Try `leader`.
    #[error("not the leader")]
    NotLeader {
        /// Who leads, as far as known.
        leader: Option<PeerId>,
    },
    /// Leadership is being handed over; the new leader will take it.
    #[error("leadership is being handed to peer {to}")]
    Transferring {
        /// The next leader.
        to: PeerId,
    },
    /// Too much is proposed and not yet committed. Try again later.
    #[error("{uncommitted_bytes} bytes of entries wait to be committed")]
    Busy {
        /// How much waits.
        uncommitted_bytes: usize,
    },
    /// An earlier membership change is not applied yet (R9).
    #[error("the membership change at index {index} is not applied yet")]
    ChangeInProgress {
        /// Its index.
        index: Index,
    },
    /// The leader has not applied an entry of its own term yet, so it may not begin a membership change (R9).
    #[error("no entry of term {term} is applied yet")]
    TermNotApplied {
        /// The leader's term.
        term: Term,
    },
    /// The change does not fit the latest configuration.
    #[error("the membership change does not fit")]
    InvalidChange(#[from] MembershipError),
    /// Leadership cannot go to this peer.
    #[error("leadership cannot go to peer {peer:?}")]
    TransferTarget {
        /// The target asked for, or none when no member qualifies.
        peer: Option<PeerId>,
        /// Why.
        reason: TransferRefusal,
    },
    /// This peer may not campaign.
    #[error("may not campaign: {0:?}")]
    MayNotCampaign(CampaignBar),
    /// The peer has not applied what it durably knows to be committed, so nothing may overwrite it (REGIONS §1).
    #[error("applied {applied} is behind the durable commit index {commit}")]
    Behind {
        /// Applied index.
        applied: Index,
        /// Durable commit index it started from.
        commit: Index,
    },
    /// A snapshot is being installed.
    #[error("the snapshot at {position:?} is being installed")]
    Installing {
        /// Its position.
        position: LogPosition,
    },
    /// The snapshot would move the peer back, or brings nothing that its log does not hold (R16). What the peer has is
    /// acknowledged, and its commit index may have moved up.
    #[error("the snapshot at {position:?} is not needed at commit index {commit}")]
    SnapshotNotNeeded {
        /// The position offered.
        position: LogPosition,
        /// The commit index here.
        commit: Index,
    },
    /// The sender's term is over.
    #[error("term {term} is stale, now {current}")]
    StaleTerm {
        /// The sender's.
        term: Term,
        /// Ours.
        current: Term,
    },
    /// The message is for another peer.
    #[error("message for peer {to}")]
    Misaddressed {
        /// Whom it is for.
        to: PeerId,
    },
    /// The message cannot have been sent by a correct peer. If what is wrong is a membership change that does not fit, its term
    /// and its sender's leadership have been taken note of.
    #[error("malformed message from peer {from}")]
    Malformed {
        /// Who sent it.
        from: PeerId,
    },
    /// The sender claims to lead a term that another peer leads (R1). One of them does not tell the truth, or forgot what it had
    /// said to be durable. Which one cannot be known here: whoever was heard first stays the leader.
    #[error("peers {leader} and {other} both claim to lead term {term}")]
    TwoLeaders {
        /// The term.
        term: Term,
        /// Who leads it, as far as this peer knows; this peer, if it does.
        leader: PeerId,
        /// Who sent the message.
        other: PeerId,
    },
    /// What was restored contradicts itself; the peer's storage is damaged.
    #[error("restored state contradicts itself: {0:?}")]
    Restored(RestoreError),
    /// The settings contradict each other, or would let nothing happen.
    #[error("invalid options")]
    Options,
}

/// Why leadership cannot go somewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransferRefusal {
    /// It is the leader already.
    Leads,
    /// It does not vote, or will not when the joint configuration is left.
    NotVoter,
    /// It waits for a snapshot.
    InSnapshot,
    /// It has not been heard within `T`.
    Silent,
}

/// Why a peer may not campaign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CampaignBar {
    /// It leads.
    Leads,
    /// It does not vote in the latest configuration, nor in one that only an uncommitted entry replaced.
    NotVoter,
    /// It is behind its durable commit index (REGIONS §1).
    Behind,
    /// It is installing a snapshot.
    Installing,
    /// It stands pledged to a leader (LIVENESS P3).
    Pledged,
    /// It may be part of a lease, by what it heard within `T` or before a restart, and waits that out (R25).
    LeaseBound,
}

/// How restored state contradicts itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestoreError {
    /// The entries do not follow each other from the compacted position on, or their terms go down or above the hard state's.
    Entries,
    /// The applied index is outside of `[compacted, last]`.
    Applied,
    /// The commit index is above the last entry.
    Commit,
    /// A membership entry does not fit the configuration before it.
    Membership,
    /// The first term is claimed for a peer whose state is not that of a new child.
    FirstTerm,
}
