//! Handing leadership over (REGIONS §6), and leaving altogether.

use engine::Engine;
use proto::metapb::PeerRole;
use raft::{Event as RaftEvent, PeerId};

use crate::context::Context;
use crate::event::OrderRefusal;
use crate::peer::Peer;
use crate::split::refusal_of;
use crate::store::{Store, step_quietly};

impl Peer {
    /// Starts handing leadership to a voter that has caught up. Raft brings it level and hands over in one step, or goes on
    /// leading if that takes longer than an election timeout.
    pub(crate) fn transfer_to<E: Engine>(
        &mut self,
        target: PeerId,
        cx: &mut Context<E>,
    ) -> Result<(), OrderRefusal> {
        let member = self
            .member(target)
            .ok_or(OrderRefusal::Invalid("the target is no member"))?;
        match member.role() {
            PeerRole::Voter | PeerRole::IncomingVoter => {}
            PeerRole::Learner | PeerRole::DemotingVoter => {
                return Err(OrderRefusal::Invalid("the target does not vote"));
            }
        }
        if target == self.id {
            return Err(OrderRefusal::Invalid("the target leads"));
        }
        let statuses = self
            .raft
            .as_ref()
            .map(raft::Raft::member_statuses)
            .unwrap_or_default();
        self.check_caught_up(target, &statuses, cx)?;
        // What clients proposed before goes first: Raft refuses proposals from here on.
        self.flush_writes(cx);
        let raft = self.raft.as_mut().ok_or(OrderRefusal::NotLeader)?;
        let result = raft.step(RaftEvent::Transfer(Some(target)));
        cx.touch(self);
        result.map(|_| ()).map_err(|error| refusal_of(&error))
    }

    /// Whether another store could lead what is led here.
    fn could_leave(&self) -> bool {
        let votes = |role| matches!(role, PeerRole::Voter | PeerRole::IncomingVoter);
        self.is_leader()
            && self
                .region
                .peers
                .iter()
                .any(|member| member.id != self.id.0 && votes(member.role()))
    }
}

impl<E: Engine> Store<E> {
    /// Hands every leadership to the best of the others. Repeated on ticks: a target may not be ready, and until the store
    /// stops others may hand regions to it.
    pub(crate) fn on_drain(&mut self) {
        self.cx.draining = true;
        self.hand_over_all();
    }

    pub(crate) fn tick_drain(&mut self) {
        if self.cx.draining
            && self
                .cx
                .tick
                .is_multiple_of(u64::from(self.cx.options.raft.heartbeat_ticks.max(1)))
        {
            self.hand_over_all();
        }
    }

    fn hand_over_all(&mut self) {
        for peer in self.peers.values_mut() {
            if !peer.could_leave() {
                continue;
            }
            peer.flush_writes(&mut self.cx);
            if let Some(raft) = peer.raft.as_mut() {
                step_quietly(raft, RaftEvent::Transfer(None));
                self.cx.touch(peer);
            }
        }
    }

    /// Tells that nothing is led here any more that another store could lead.
    pub(crate) fn tell_drained(&mut self) {
        if self.cx.draining {
            self.cx.out.drained = !self.peers.values().any(|peer| peer.could_leave());
        }
    }
}
