//! Orders of placement, and membership changes in particular (REGIONS §3).
//!
//! One change at a time, for exactly the applied epoch. What a change promotes must have caught up, and both halves of a joint
//! configuration must keep more live voters than a quorum, so that one more failure does not stop the region. Leaving the
//! joint configuration is Raft's own doing.

use engine::Engine;
use proto::metapb::{self, PeerRole};
use proto::pontoon::v1 as wire;
use proto::pontoon::v1::command::Structural;
use raft::{MemberStatus, MemberStatuses, MembershipChange, Payload, PeerId};

use crate::codec;
use crate::context::Context;
use crate::event::{Half, Order, OrderAnswer, OrderKind, OrderRefusal, Purpose};
use crate::peer::Peer;
use crate::planted::Bug;
use crate::store::Store;

impl<E: Engine> Store<E> {
    pub(crate) fn on_order(&mut self, order: Order) {
        let (region, id) = (order.region, order.id);
        let result = self.try_order(order);
        let peer = self.peers.get(&region);
        let raft = peer.and_then(|peer| peer.raft.as_ref());
        self.cx.out.orders.push(OrderAnswer {
            region,
            id,
            epoch: peer.map(|peer| peer.epoch()),
            term: raft.map_or(0, raft::Raft::term),
            result,
        });
    }

    fn try_order(&mut self, order: Order) -> Result<(), OrderRefusal> {
        let Order {
            region,
            epoch,
            id,
            kind,
            purpose,
        } = order;
        let draining = self.cx.draining;
        let peer = self.peers.get_mut(&region).ok_or(OrderRefusal::NotLeader)?;
        // It hands everything over by itself, to whom it finds best.
        if draining && peer.is_leader() && matches!(kind, OrderKind::TransferLeader(_)) {
            return Err(OrderRefusal::StoreDraining(self.cx.store));
        }
        let blind = self.cx.options.bug == Some(Bug::SplitWithoutEpoch);
        let asked = match kind {
            OrderKind::Split(_) if blind => peer.epoch(),
            _ => epoch,
        };
        match peer.check_order(asked) {
            // Placement repeats what shows no effect yet.
            Err(OrderRefusal::LaneBusy | OrderRefusal::Transferring)
                if peer.order.is_some_and(|order| order == (id, epoch)) && id.operator != 0 =>
            {
                return Ok(());
            }
            checked => checked?,
        }
        // Leadership of a frozen region may move; nothing else may.
        if !matches!(kind, OrderKind::TransferLeader(_))
            && self.cx.options.bug != Some(Bug::AdminWhileFrozen)
        {
            peer.check_not_frozen()?;
        }
        peer.order = None;
        let taken = match kind {
            OrderKind::Split(keys) => {
                peer.check_not_joint()?;
                self.propose_split(region, &keys, None, id.operator)
            }
            OrderKind::AddLearner(learner) => {
                let new = PeerId(learner.id);
                let added = peer.add_learner(learner, id.operator, &mut self.cx);
                if added.is_ok() && purpose == Purpose::Repair {
                    peer.note_repair(new);
                }
                added
            }
            OrderKind::RemoveLearner(learner) => {
                peer.remove_learner(learner, id.operator, &mut self.cx)
            }
            OrderKind::EnterJoint { promote, demote } => {
                peer.enter_joint(promote, demote, id.operator, &mut self.cx)
            }
            OrderKind::TransferLeader(target) => peer.transfer_to(target, &mut self.cx),
            OrderKind::Merge { target } => self.propose_merge(region, target, id.operator),
        };
        taken?;
        if let Some(peer) = self.peers.get_mut(&region) {
            peer.order = Some((id, epoch));
        }
        Ok(())
    }
}

impl Peer {
    /// What every order needs: leading, the exact epoch, a free lane, and an applied entry of the own term.
    pub(crate) fn check_order(&self, epoch: metapb::RegionEpoch) -> Result<(), OrderRefusal> {
        let raft = self
            .raft
            .as_ref()
            .filter(|_| self.is_leader())
            .ok_or(OrderRefusal::NotLeader)?;
        if epoch != self.epoch() {
            return Err(OrderRefusal::EpochNotMatch);
        }
        if raft.view().transferring {
            return Err(OrderRefusal::Transferring);
        }
        if raft.behind() {
            return Err(OrderRefusal::Behind);
        }
        let own_term_applied = self.applied.term == raft.term();
        if self.lane.is_some() || !own_term_applied {
            return Err(OrderRefusal::LaneBusy);
        }
        Ok(())
    }

    pub(crate) fn check_not_frozen(&self) -> Result<(), OrderRefusal> {
        if self.is_frozen() {
            Err(OrderRefusal::Frozen)
        } else {
            Ok(())
        }
    }

    pub(crate) fn check_not_joint(&self) -> Result<(), OrderRefusal> {
        let joint = |member: &metapb::Peer| {
            matches!(
                member.role(),
                PeerRole::IncomingVoter | PeerRole::DemotingVoter
            )
        };
        let applied = self.region.peers.iter().any(joint);
        let latest = self.raft.as_ref().is_some_and(|raft| {
            use raft::MemberKind::{DemotingVoter, IncomingVoter};
            raft.membership()
                .members
                .values()
                .any(|kind| matches!(kind, IncomingVoter | DemotingVoter))
        });
        if applied || latest {
            Err(OrderRefusal::Joint)
        } else {
            Ok(())
        }
    }

    /// Remembers what a learner is for.
    fn note_repair(&mut self, learner: PeerId) {
        let region = &self.region;
        let is_member = |id: &PeerId| region.peers.iter().any(|member| member.id == id.0);
        self.repairing.retain(is_member);
        self.repairing.push(learner);
    }

    fn add_learner<E: Engine>(
        &mut self,
        learner: metapb::Peer,
        operator: u64,
        cx: &mut Context<E>,
    ) -> Result<(), OrderRefusal> {
        self.check_not_joint()?;
        if learner.id == 0 || learner.store_id == 0 {
            return Err(OrderRefusal::Invalid("a learner needs an id and a store"));
        }
        if self.is_named(PeerId(learner.id)) {
            return Err(OrderRefusal::PeerIdUsed(PeerId(learner.id)));
        }
        if self
            .region
            .peers
            .iter()
            .any(|member| member.store_id == learner.store_id)
        {
            return Err(OrderRefusal::StoreHasPeer);
        }
        self.propose_change(
            MembershipChange::AddLearner(PeerId(learner.id)),
            learner.store_id,
            operator,
            cx,
        )
    }

    fn remove_learner<E: Engine>(
        &mut self,
        learner: PeerId,
        operator: u64,
        cx: &mut Context<E>,
    ) -> Result<(), OrderRefusal> {
        self.check_not_joint()?;
        let member = self
            .member(learner)
            .ok_or(OrderRefusal::Invalid("no such learner"))?;
        if member.role() != PeerRole::Learner {
            return Err(OrderRefusal::Invalid("only a learner can be removed"));
        }
        let change = MembershipChange::RemoveLearner(learner);
        self.propose_change(change, 0, operator, cx)
    }

    fn enter_joint<E: Engine>(
        &mut self,
        promote: Vec<PeerId>,
        demote: Vec<PeerId>,
        operator: u64,
        cx: &mut Context<E>,
    ) -> Result<(), OrderRefusal> {
        self.check_not_joint()?;
        if promote.is_empty() && demote.is_empty() {
            return Err(OrderRefusal::Invalid("nothing to change"));
        }
        let has_role = |peers: &[PeerId], role| {
            peers.iter().all(|peer| {
                self.member(*peer)
                    .is_some_and(|member| member.role() == role)
            })
        };
        if !has_role(&promote, PeerRole::Learner) {
            return Err(OrderRefusal::Invalid("only a learner can be promoted"));
        }
        if !has_role(&demote, PeerRole::Voter) {
            return Err(OrderRefusal::Invalid("only a voter can be demoted"));
        }
        if demote.contains(&self.id) {
            return Err(OrderRefusal::LeaderWouldLeave);
        }
        let statuses = self
            .raft
            .as_ref()
            .map(raft::Raft::member_statuses)
            .unwrap_or_default();
        for peer in &promote {
            self.check_caught_up(*peer, &statuses, cx)?;
        }
        self.check_live_voters(&promote, &demote, &statuses, cx)?;
        let change = MembershipChange::EnterJoint { promote, demote };
        self.propose_change(change, 0, operator, cx)
    }

    fn propose_change<E: Engine>(
        &mut self,
        change: MembershipChange,
        store_id: u64,
        operator_id: u64,
        cx: &mut Context<E>,
    ) -> Result<(), OrderRefusal> {
        let details = wire::ChangePeers {
            change: Some(codec::change_to_wire(&change)),
            store_id,
            operator_id,
        };
        let command = self.structural_command(Some(Structural::ChangePeers(details)));
        self.propose_structural(
            Payload::Membership {
                change,
                context: codec::seal(&command),
            },
            cx,
        )
    }

    /// Linked: heard within half an election timeout, which also bounds the last append round.
    fn is_linked<E: Engine>(&self, status: &MemberStatus, cx: &Context<E>) -> bool {
        status.silent_ticks
            < (cx.options.raft.election_ticks / 2).max(cx.options.raft.heartbeat_ticks + 1)
    }

    /// Caught up (REGIONS §3): not in a snapshot, little behind, linked.
    pub(crate) fn check_caught_up<E: Engine>(
        &self,
        peer: PeerId,
        statuses: &MemberStatuses,
        cx: &Context<E>,
    ) -> Result<(), OrderRefusal> {
        if peer == self.id {
            return Ok(());
        }
        let last = self.raft.as_ref().map_or(0, |raft| raft.last().index);
        let lag = statuses
            .get(&peer)
            .map_or(last, |status| last.saturating_sub(status.matched));
        let refused = OrderRefusal::NotCaughtUp { peer, lag };
        let status = statuses.get(&peer).ok_or(refused.clone())?;
        // Who never acknowledged anything has nothing: every log begins at a base that only a snapshot brings.
        let has_data = status.matched > 0;
        if !has_data
            || status.in_snapshot
            || lag > cx.options.caught_up_entries
            || !self.is_linked(status, cx)
        {
            return Err(refused);
        }
        if lag > 0 {
            // What left memory is more than the cache holds, or a log at rest: it counts as too much, without a look at
            // the disk. The member gets it, and is asked for again.
            let lacking = self
                .raft
                .iter()
                .flat_map(|raft| raft.cached_entries(status.matched + 1));
            let (mut entries, mut bytes) = (0, 0);
            for entry in lacking {
                entries += 1;
                bytes += entry.payload.size_bytes() as u64;
            }
            if entries < lag || bytes > cx.options.caught_up_bytes {
                return Err(refused);
            }
        }
        Ok(())
    }

    /// Each half keeps more live voters than a quorum. A quorum is enough in groups of less than three, and for getting rid
    /// of dead voters.
    fn check_live_voters<E: Engine>(
        &self,
        promote: &[PeerId],
        demote: &[PeerId],
        statuses: &MemberStatuses,
        cx: &Context<E>,
    ) -> Result<(), OrderRefusal> {
        let is_live = |peer: PeerId| self.check_caught_up(peer, statuses, cx).is_ok();
        let outgoing: Vec<PeerId> = self
            .region
            .peers
            .iter()
            .filter(|member| member.role() == PeerRole::Voter)
            .map(|member| PeerId(member.id))
            .collect();
        let kept = outgoing.iter().filter(|peer| !demote.contains(peer));
        let incoming: Vec<PeerId> = kept.chain(promote).copied().collect();
        let repairs = !demote.is_empty() && demote.iter().all(|peer| !is_live(*peer));
        for (half, peers) in [(Half::Outgoing, &outgoing), (Half::Incoming, &incoming)] {
            let quorum = peers.len() / 2 + 1;
            let needed = if repairs || peers.len() < 3 {
                quorum
            } else {
                quorum + 1
            };
            let live = peers.iter().filter(|peer| is_live(**peer)).count();
            if live < needed {
                return Err(OrderRefusal::TooFewLive { half });
            }
        }
        Ok(())
    }
}
