//! Consensus of one Raft group as a deterministic state machine.
//!
//! A [`Raft`] is one peer. Everything that happens to it is an [`Event`], handed to [`Raft::step`]; everything it wants done is
//! in the [`Effects`] that [`Raft::take_effects`] returns. There is no clock (time is [`Event::Tick`]), no thread, no disk, no
//! socket, and no randomness but a seed: the same events give the same effects, so a whole cluster replays from one number.
//!
//! What makes it short: log writes are *asynchronous*. A step never waits for the disk. What must not be said before it is
//! durable rides inside the [`LogWrite`] it waits for, and [`Event::Written`] reports the write done. Many steps may share one
//! taking of effects, so a burst of proposals becomes one append and one write.
//!
//! `docs/raft.md` tells the protocol as built. By module: `election` who votes and leads; `follower` a follower's log;
//! `replicate` a leader's members and commit; `progress` one member; `log` terms, entries, and writes on their way; `quorum`
//! counting; `membership` configurations; `read` linearizable reads; `transfer` the leader's time and its end; `snapshot`;
//! `pledge` support between stores (LIVENESS §4); `pack` peers at rest; `effects` gathering; `project` comparing states;
//! `planted` bugs that tests must find.

mod effects;
mod election;
mod error;
mod event;
mod follower;
mod leader;
mod log;
mod membership;
mod message;
mod pack;
mod planted;
mod pledge;
mod progress;
mod project;
mod quorum;
mod raft;
mod read;
mod replicate;
mod snapshot;
mod transfer;
mod types;

pub use election::{Ballot, Voter, judge_vote, proves_leader_gone, raises_term};
pub use error::{CampaignBar, Error, RestoreError, TransferRefusal};
pub use event::{
    CampaignReason, Effects, Event, Fetch, LogWrite, MemberStatus, MemberStatuses, Options, ReadId,
    ReadReady, Restored, Role, StepDownReason, View, WriteId,
};
pub use membership::MembershipError;
pub use message::{AppendResult, Body, Message, RefusalReason, SupportId};
pub use pack::Packed;
pub use planted::Bug;
pub use pledge::{Pledge, Reasons};
pub use quorum::{Quorum, VoteOutcome};
pub use raft::Raft;
pub use types::{
    BEFORE_LOG, Entry, HardState, Index, LogPosition, MemberKind, Membership, MembershipChange,
    Payload, PeerId, Term,
};
