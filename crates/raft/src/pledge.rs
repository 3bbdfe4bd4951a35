//! What store-to-store support means to one peer (LIVENESS §3 to §5): pledges, records, and the reasons not to rest.
//!
//! In plain mode no support is ever given, no pledge forms, and nothing here has an effect. Support ids are opaque: which store
//! gives which to whom is the caller's knowledge, told by the `support` beside leader messages and by two events.

use crate::error::Error;
use crate::event::StepDownReason;
use crate::message::{Body, SupportId};
use crate::progress::Mode;
use crate::raft::{Raft, State};
use crate::types::{PeerId, Term};

/// A follower's promise neither to campaign nor to vote while the support lasts (LIVENESS P1, P3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pledge {
    /// The term it is for.
    pub term: Term,
    /// The leader it is to.
    pub leader: PeerId,
    /// The support it stands under.
    pub support: SupportId,
}

/// Why a peer needs ticks (LIVENESS §5), as bits. A peer without any may be left alone, and packed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Reasons(pub u16);

impl Reasons {
    /// Leader: entries are not committed or not applied. Follower: entries known to be committed are not applied.
    pub const UNAPPLIED: Reasons = Reasons(1);
    /// Leader: a linked member has not matched, not pledged, or does not know the commit index.
    pub const UNSETTLED: Reasons = Reasons(1 << 1);
    /// Leader: pledged members and itself are no quorum. Always so in plain mode.
    pub const NO_PLEDGED_QUORUM: Reasons = Reasons(1 << 2);
    /// A read waits to be confirmed.
    pub const READ: Reasons = Reasons(1 << 3);
    /// Leader: leadership is being handed over.
    pub const TRANSFER: Reasons = Reasons(1 << 4);
    /// Leader: the configuration is joint, or a change is not applied.
    pub const CHANGE: Reasons = Reasons(1 << 5);
    /// A snapshot is on its way to a linked member, or is being installed here.
    pub const SNAPSHOT: Reasons = Reasons(1 << 6);
    /// Follower or candidate: no pledge stands, so the election timer runs.
    pub const NO_PLEDGE: Reasons = Reasons(1 << 7);
    /// Something waits to be taken or to become durable.
    pub const EFFECTS: Reasons = Reasons(1 << 8);

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether all of `other` are there.
    pub fn contains(self, other: Reasons) -> bool {
        self.0 & other.0 == other.0
    }

    fn add(&mut self, reason: Reasons, holds: bool) {
        if holds {
            self.0 |= reason.0;
        }
    }
}

impl Raft {
    /// The pledge that stands.
    pub fn pledge(&self) -> Option<Pledge> {
        self.pledge
    }

    /// Goes on with the pledge of an earlier instance of this peer in the same incarnation of its store: a split filled it, and
    /// whoever recorded the pledge relies on it (LIVENESS §4, split). One of another term was never told.
    pub fn keep_pledge(&mut self, pledge: Pledge) {
        let free = self.leader.is_none() && matches!(self.state, State::Follower);
        if free && pledge.term == self.hard_state.term {
            self.leader = Some(pledge.leader);
            self.pledge = Some(pledge);
            self.view_changed = true;
        }
    }

    /// The id to put into a response to `leader`.
    pub(crate) fn pledge_to(&self, leader: PeerId) -> Option<SupportId> {
        self.pledge
            .filter(|pledge| pledge.leader == leader && pledge.term == self.hard_state.term)
            .map(|pledge| pledge.support)
    }

    pub(crate) fn on_support_ended(&mut self, id: SupportId) {
        if self.pledge.is_some_and(|pledge| pledge.support == id) {
            self.forget_leader();
            // The caller ranks and paces what follows; the timer is only the fallback (LIVENESS E2).
            self.reset_timer();
        }
    }

    pub(crate) fn on_support_held(&mut self, peer: PeerId, support: Option<SupportId>) {
        let State::Leader(leader) = &mut self.state else {
            return;
        };
        let Some(progress) = leader.progress_mut(peer) else {
            return;
        };
        progress.held = support;
        if support.is_some() && progress.record != support {
            progress.ask = true;
            leader.asking = true;
        }
    }

    /// The leader says that it will never lead `term` again (LIVENESS P6, P7).
    pub(crate) fn on_release(&mut self, from: PeerId, term: Term) {
        if term != self.hard_state.term
            || self.leader != Some(from)
            || !matches!(self.state, State::Follower)
        {
            return;
        }
        let paced = self.pledge.is_some();
        self.forget_leader();
        self.reset_timer();
        if !paced {
            // Nobody leads, so there is nothing to wait `T` for; the draw only keeps followers apart.
            self.timeout -= self.options.election_ticks - 1;
        }
    }

    pub(crate) fn on_step_down(&mut self, reason: StepDownReason) -> Result<(), Error> {
        if !matches!(self.state, State::Leader(_)) {
            return Err(Error::NotLeader {
                leader: self.leader,
            });
        }
        self.stop_leading(None);
        match reason {
            // G4: no campaign of its own for 8T. A store that stops does not want one either.
            StepDownReason::Stuck | StepDownReason::Shutdown => {
                self.timeout = 8 * self.options.election_ticks
            }
        }
        Ok(())
    }

    /// Stops leading (LIVENESS P6): the view says so before anything else leaves, records and waiting reads go, and every
    /// member but `successor`, who is told more, is released.
    pub(crate) fn stop_leading(&mut self, successor: Option<PeerId>) {
        let State::Leader(mut leader) = std::mem::replace(&mut self.state, State::Follower) else {
            unreachable!("only a leader stops leading");
        };
        self.view_changed = true;
        self.leader = None;
        self.released = Some(self.hard_state.term);
        self.drop_reads(&mut leader);
        for (peer, progress) in &leader.members {
            if Some(*peer) != successor && progress.since <= self.hard_state.commit {
                let release = self.message(*peer, Body::Release);
                self.messages.push(release);
            }
        }
        self.reset_timer();
    }

    /// Why this peer needs ticks.
    pub fn reasons(&self) -> Reasons {
        let mut reasons = Reasons::default();
        reasons.add(
            Reasons::EFFECTS,
            self.has_effects() || self.log.is_writing(),
        );
        reasons.add(Reasons::SNAPSHOT, self.installing.is_some());
        match &self.state {
            State::Follower | State::PreCandidate(_) | State::Candidate(_) => {
                reasons.add(Reasons::UNAPPLIED, self.applied < self.hard_state.commit);
                reasons.add(Reasons::NO_PLEDGE, self.pledge.is_none());
                reasons.add(Reasons::READ, self.asks.is_some());
            }
            State::Leader(leader) => {
                let last = self.log.last().index;
                let commit = self.hard_state.commit;
                reasons.add(Reasons::UNAPPLIED, self.applied < last);
                let change =
                    self.membership().is_joint() || self.configuration().index > self.applied;
                reasons.add(Reasons::CHANGE, change);
                reasons.add(Reasons::TRANSFER, leader.transfer.is_some());
                reasons.add(Reasons::READ, !leader.reads.is_idle());
                for (_, progress) in leader
                    .members
                    .iter()
                    .filter(|(_, progress)| progress.held.is_some())
                {
                    let settled = progress.is_pledged()
                        && progress.matched == last
                        && progress.commit == commit;
                    reasons.add(Reasons::UNSETTLED, !settled);
                    reasons.add(Reasons::SNAPSHOT, progress.mode == Mode::Snapshot);
                }
                let pledged = self.quorum().reached(|peer| {
                    peer == self.id
                        || leader
                            .progress(peer)
                            .is_some_and(|member| member.is_pledged())
                });
                reasons.add(Reasons::NO_PLEDGED_QUORUM, !pledged);
            }
        }
        reasons
    }
}
