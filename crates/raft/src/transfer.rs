//! Leading: time, the quorum check, and giving leadership away (Thesis §3.10, §6.2; LIVENESS P6, P8).

use crate::election::not_leader;
use crate::error::{Error, TransferRefusal};
use crate::message::Body;
use crate::planted::Bug;
use crate::progress::{Mode, Progress};
use crate::raft::{Raft, State};
use crate::types::PeerId;

/// Leadership on its way to `target`: proposals are refused until it is level, or `T` is over.
#[derive(Clone, Copy, Debug, Hash)]
pub(crate) struct Transfer {
    pub target: PeerId,
    elapsed: u32,
}

impl Raft {
    pub(crate) fn tick_leader(&mut self) {
        let (heartbeat, election) = (self.options.heartbeat_ticks, self.options.election_ticks);
        let State::Leader(leader) = &mut self.state else {
            return;
        };
        leader.ticks += 1;
        leader.heartbeat_elapsed += 1;
        if leader.heartbeat_elapsed >= heartbeat {
            leader.heartbeat_elapsed = 0;
            leader.heartbeat_due = true;
        }
        for (_, progress) in &mut leader.members {
            progress.silent_ticks = if progress.is_pledged() {
                0
            } else {
                progress.silent_ticks.saturating_add(1)
            };
        }
        if let Some(transfer) = &mut leader.transfer {
            transfer.elapsed += 1;
            if transfer.elapsed >= election {
                // Not level within T: nothing was said to anybody yet, so going on is safe (REGIONS §6).
                leader.transfer = None;
                self.view_changed = true;
                self.maybe_leave_joint();
            }
        }
        self.check_quorum();
    }

    /// A leader that has not heard a quorum for 2T steps down (R10, LIVENESS P8). A pledge is as good as an answer.
    fn check_quorum(&mut self) {
        let State::Leader(leader) = &self.state else {
            return;
        };
        let limit = 2 * self.options.election_ticks;
        let active = |progress: &Progress| progress.is_pledged() || progress.silent_ticks < limit;
        let reached = self
            .quorum()
            .reached(|peer| peer == self.id || leader.progress(peer).is_some_and(active));
        if !reached && !self.has_bug(Bug::NoQuorumCheck) {
            self.stop_leading(None);
        }
    }

    pub(crate) fn on_transfer(&mut self, target: Option<PeerId>) -> Result<(), Error> {
        let State::Leader(leader) = &self.state else {
            return Err(not_leader(self));
        };
        let target = match target {
            Some(target) => {
                if let Some(reason) = self.transfer_refusal(target) {
                    return Err(Error::TransferTarget {
                        peer: Some(target),
                        reason,
                    });
                }
                target
            }
            None => self.best_successor().ok_or(Error::TransferTarget {
                peer: None,
                reason: TransferRefusal::NotVoter,
            })?,
        };
        if leader
            .transfer
            .is_some_and(|transfer| transfer.target == target)
        {
            return Ok(());
        }
        if !self.has_bug(Bug::LeaseKeptOverTransfer) {
            self.revoke_lease();
        }
        self.view_changed = true;
        if let State::Leader(leader) = &mut self.state {
            leader.transfer = Some(Transfer { target, elapsed: 0 });
            leader.dirty = true;
        }
        self.maybe_finish_transfer();
        Ok(())
    }

    fn transfer_refusal(&self, target: PeerId) -> Option<TransferRefusal> {
        let State::Leader(leader) = &self.state else {
            return Some(TransferRefusal::NotVoter);
        };
        if target == self.id {
            return Some(TransferRefusal::Leads);
        }
        if !self.membership().keeps_voting(target) {
            return Some(TransferRefusal::NotVoter);
        }
        let progress = leader.progress(target)?;
        if progress.mode == Mode::Snapshot {
            return Some(TransferRefusal::InSnapshot);
        }
        let silent = !progress.is_pledged() && progress.silent_ticks >= self.options.election_ticks;
        silent.then_some(TransferRefusal::Silent)
    }

    /// The member that is level, or nearest to it, and may lead for long.
    fn best_successor(&self) -> Option<PeerId> {
        let State::Leader(leader) = &self.state else {
            return None;
        };
        let candidates = leader
            .members
            .iter()
            .filter(|(peer, _)| self.transfer_refusal(*peer).is_none());
        candidates
            .max_by_key(|(peer, progress)| (progress.matched, std::cmp::Reverse(*peer)))
            .map(|(peer, _)| *peer)
    }

    /// Hands over once the target is level, and is a follower from then on: nobody aborts this and goes on leading.
    pub(crate) fn maybe_finish_transfer(&mut self) {
        let State::Leader(leader) = &self.state else {
            return;
        };
        let Some(Transfer { target, .. }) = leader.transfer else {
            return;
        };
        let last = self.log.last().index;
        if leader
            .progress(target)
            .is_some_and(|progress| progress.matched == last)
        {
            self.hand_over(target);
        }
    }

    fn hand_over(&mut self, target: PeerId) {
        let order = self.message(target, Body::TimeoutNow);
        self.messages.push(order);
        if self.has_bug(Bug::LeaseKeptOverTransfer) {
            return;
        }
        self.stop_leading(Some(target));
        // If the target does not make it, this peer is as good as any; but it gives it a moment (LIVENESS P6).
        self.timeout = 2 * self.options.heartbeat_ticks;
    }

    /// A leader that does not vote any more leads until that is committed, not counting itself, and then leaves to the best
    /// voter (Raft §6, Thesis §4.2.2).
    pub(crate) fn maybe_leave_leadership(&mut self) {
        let committed = self.configuration().index <= self.hard_state.commit;
        if !matches!(self.state, State::Leader(_)) || !committed || self.membership().votes(self.id)
        {
            return;
        }
        match self.best_successor() {
            Some(successor) => self.hand_over(successor),
            None => self.stop_leading(None),
        }
    }
}
