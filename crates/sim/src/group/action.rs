//! What can happen next in the world.

use std::sync::Arc;

use raft::{Fetch, Index, LogPosition, Message, PeerId, Term};

use super::machine::State;
use super::settings::Fault;

/// A scheduled action. Those of a node carry the incarnation they were made for: a crash cancels them.
#[derive(Debug)]
pub enum Action {
    /// A message arrives.
    Deliver(Message),
    /// A clock ticks.
    Tick(PeerId, u32),
    /// A sync ends.
    Synced(PeerId, u32),
    /// Some of what was handed out is applied.
    Apply(PeerId, u32),
    /// Effects that were left waiting are taken.
    Settle(PeerId, u32),
    /// Entries come back from the log.
    Fetched(PeerId, u32, Fetch),
    /// A snapshot for `to` is taken.
    TakeSnapshot {
        /// Who sends it.
        sender: PeerId,
        /// Its incarnation.
        incarnation: u32,
        /// For whom.
        to: PeerId,
    },
    /// A snapshot arrives.
    SnapshotArrives {
        /// Who sent it.
        sender: PeerId,
        /// Its incarnation.
        incarnation: u32,
        /// Its term.
        term: Term,
        /// For whom.
        to: PeerId,
        /// The state.
        state: Arc<State>,
    },
    /// The sender learns what became of its snapshot.
    SnapshotEnded {
        /// Who sent it.
        sender: PeerId,
        /// Its incarnation.
        incarnation: u32,
        /// For whom it was.
        to: PeerId,
        /// What arrived.
        delivered: Option<Index>,
    },
    /// The state of a snapshot is in place.
    Installed(PeerId, u32, LogPosition),
    /// Committed proof that a peer, in this incarnation, is no member any more (REGIONS §2, destroyed by notice).
    Notice(PeerId, u32),
    /// The transport of a node reports that something for a peer was lost.
    Lost(PeerId, u32, PeerId),
    /// A client or operator acts.
    Load,
    /// A fault of this kind begins.
    Fault(Fault),
    /// Nobody hears a node any more.
    Mute(PeerId),
    /// Links are mended.
    Mend,
    /// A crashed node starts.
    Restart(PeerId),
    /// A paused node goes on; under leases its clock catches up first.
    Resume(PeerId, u32, u64),
}

impl Action {
    /// The node that has to be awake for it.
    pub fn node(&self) -> Option<PeerId> {
        match self {
            Action::Deliver(message) => Some(message.to),
            Action::Tick(peer, _)
            | Action::Synced(peer, _)
            | Action::Apply(peer, _)
            | Action::Settle(peer, _)
            | Action::Fetched(peer, ..)
            | Action::Installed(peer, ..)
            | Action::Lost(peer, ..)
            | Action::Notice(peer, _) => Some(*peer),
            Action::TakeSnapshot { sender, .. } | Action::SnapshotEnded { sender, .. } => {
                Some(*sender)
            }
            Action::SnapshotArrives { to, .. } => Some(*to),
            Action::Load
            | Action::Fault(_)
            | Action::Mute(_)
            | Action::Mend
            | Action::Restart(_)
            | Action::Resume(..) => None,
        }
    }
}
