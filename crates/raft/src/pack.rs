//! A peer at rest, small (LIVENESS Q6).
//!
//! A peer without [`Reasons`](crate::Reasons) has nothing on its way and nothing to wait for. What it must remember then is a
//! handful of numbers; trackers, queues and the log cache are made again when something happens.

use std::sync::Arc;

use crate::event::{Options, WriteId};
use crate::leader::Leader;
use crate::log::{Log, Run};
use crate::message::SupportId;
use crate::pledge::Pledge;
use crate::progress::{Mode, Progress};
use crate::raft::{Configuration, FirstTerm, Raft, State};
use crate::types::{HardState, Index, Membership, PeerId, Term};

/// What a leader at rest remembers of a member.
#[derive(Clone, Copy, Debug)]
struct PackedMember {
    peer: PeerId,
    since: Index,
    matched: Index,
    commit: Index,
    round: u64,
    record: Option<SupportId>,
    held: Option<SupportId>,
}

#[derive(Clone, Debug)]
struct PackedLeader {
    members: Box<[PackedMember]>,
    rounds: u64,
}

/// A settled peer without its trackers, queues and caches. It takes no events: [`Packed::unpack`] it first.
#[derive(Clone, Debug)]
pub struct Packed {
    options: Arc<Options>,
    id: PeerId,
    seed: u64,
    draws: u32,
    requests: u64,
    hard_state: HardState,
    durable_commit: Index,
    runs: Box<[Run]>,
    membership: Arc<Membership>,
    membership_index: Index,
    leader: Option<PeerId>,
    pledge: Option<Pledge>,
    released: Option<Term>,
    write_id: WriteId,
    leads: Option<Box<PackedLeader>>,
}

impl Raft {
    /// Packs a settled peer: one without reasons, whose whole log is applied.
    ///
    /// # Errors
    /// The peer as it was, if it is not settled.
    pub fn try_pack(self) -> Result<Packed, Box<Raft>> {
        let last = self.log.last().index;
        if !self.reasons().is_empty()
            || self.applied != last
            || self.lease_bound > 0
            || self.first_term != FirstTerm::Over
        {
            return Err(Box::new(self));
        }
        let leads = match &self.state {
            State::Leader(leader) => Some(Box::new(PackedLeader {
                members: leader.members.iter().map(pack_member).collect(),
                rounds: leader.reads.newest(),
            })),
            State::Follower => None,
            State::PreCandidate(_) | State::Candidate(_) => return Err(Box::new(self)),
        };
        assert!(
            self.state_is_durable(),
            "a settled peer has durable term and vote, has {:?} of {:?}",
            self.durable_state,
            self.hard_state
        );
        let latest = self.configuration().clone();
        Ok(Packed {
            id: self.id,
            seed: self.seed,
            draws: self.draws,
            requests: self.requests,
            hard_state: self.hard_state,
            durable_commit: self.durable_state.commit,
            membership: latest.membership,
            membership_index: latest.index,
            leader: self.leader,
            pledge: self.pledge,
            released: self.released,
            write_id: self.write_id,
            runs: self.log.into_runs().into_boxed_slice(),
            options: self.options,
            leads,
        })
    }
}

fn pack_member((peer, progress): &(PeerId, Progress)) -> PackedMember {
    PackedMember {
        peer: *peer,
        since: progress.since,
        matched: progress.matched,
        commit: progress.commit,
        round: progress.round,
        record: progress.record,
        held: progress.held,
    }
}

impl Packed {
    /// This peer.
    pub fn id(&self) -> PeerId {
        self.id
    }

    /// The peer, ready to take events. Its election timer starts anew, and so does the silence of members.
    pub fn unpack(self) -> Raft {
        let last = self.hard_state.commit;
        let durable_state = HardState {
            commit: self.durable_commit,
            ..self.hard_state
        };
        let state = match self.leads {
            None => State::Follower,
            Some(packed) => State::Leader(Box::new(unpack_leader(&packed, last))),
        };
        let mut raft = Raft {
            id: self.id,
            options: self.options,
            seed: self.seed,
            draws: self.draws,
            hard_state: self.hard_state,
            written_state: durable_state,
            durable_state,
            log: Log::packed(self.runs.into_vec(), last),
            applied: last,
            handed: last,
            restored_commit: 0,
            configurations: vec![Configuration {
                index: self.membership_index,
                membership: self.membership,
            }],
            installing: None,
            lost: false,
            state,
            leader: self.leader,
            elapsed: 0,
            timeout: 0,
            lease_bound: 0,
            first_term: FirstTerm::Over,
            pledge: self.pledge,
            released: self.released,
            asks: None,
            requests: self.requests,
            write_id: self.write_id,
            messages: Vec::new(),
            after: Vec::new(),
            reads: Vec::new(),
            reads_dropped: Vec::new(),
            view_changed: false,
            write_forced: false,
            install: false,
        };
        raft.reset_timer();
        raft
    }
}

fn unpack_leader(packed: &PackedLeader, last: Index) -> Leader {
    let mut leader = Leader::new();
    leader.dirty = false;
    leader.reads.continue_after(packed.rounds);
    leader.members = packed
        .members
        .iter()
        .map(|member| {
            let mut progress = Progress::new(member.matched + 1, member.since);
            progress.matched = member.matched;
            progress.commit = member.commit;
            progress.commit_sent = member.commit;
            progress.round = member.round;
            progress.record = member.record;
            progress.held = member.held;
            if member.matched == last {
                progress.mode = Mode::Replicate;
            }
            (member.peer, progress)
        })
        .collect();
    leader
}
