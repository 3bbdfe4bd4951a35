//! Damaged data of one peer (R13): it costs the peer, not the store.
//!
//! A damaged block is an error when it is read, never a wrong answer. A read of a client, a build of a snapshot and a command
//! that reads what it changes may meet one. The peer goes on taking log, voting and applying, so its group keeps the redundancy
//! that it had; what a command should have read is lost then ([`crate::value::lost`]), which is as unreadable as the block. What
//! the peer gives up is what another does better: it hands leadership over, and it sends no snapshot. Placement replaces it.
//!
//! The finding is in the region's state on disk, so a restart does not forget it: written by the applier, in the batch that
//! first holds something lost, or by order of the store (STORAGE §9). Until it is written the peer counts as behind, lest the
//! write come after that of its death. Children of a split and the target of a merge inherit it, and a snapshot that replaces
//! all data ends it.
//!
//! A damaged file that the engine's own compaction met is left out when the engine opens: what it held is lost, and all peers that
//! it may have held data of are marked at once.
//!
//! What is left to the store as a whole: a damaged log, and damaged states of regions.

use engine::Engine;
use proto::RegionId;
use proto::metapb::PeerRole;
use raft::PeerId;

use crate::context::Context;
use crate::event::{Applied, ApplyTask};
use crate::keys;
use crate::peer::{Peer, Stage};
use crate::store::Store;

/// What a peer with damaged data remembers.
#[derive(Debug, Default)]
pub(crate) struct Damage {
    /// When it tries again to hand leadership over.
    due_tick: u64,
    /// Counts tries, so that each goes to another voter: the best may be damaged as well.
    tries: usize,
    /// The applier was asked to write it down and has not answered.
    marking: bool,
}

impl Damage {
    pub(crate) fn is_being_marked(&self) -> bool {
        self.marking
    }
}

impl<E: Engine> Store<E> {
    /// Marks the peers of whose data the engine lost something.
    pub(crate) fn mark_lost(&mut self) {
        for (start, end) in self.cx.engine.lost_ranges() {
            let of_it = |peer: &Peer| {
                let (from, to) = (&peer.region.start_key, &peer.region.end_key);
                keys::data(from) < end && start < keys::data_end(to)
            };
            let peers = self.peers.iter().filter(|(_, peer)| of_it(peer));
            let peers: Vec<_> = peers.map(|(region, peer)| (*region, peer.id)).collect();
            for (region, id) in peers {
                self.on_damaged(region, id);
            }
        }
    }

    /// A task or a read met damaged data of a peer.
    pub(crate) fn on_damaged(&mut self, region: RegionId, id: PeerId) {
        let Some(peer) = self.peers.get_mut(&region).filter(|peer| peer.id == id) else {
            return;
        };
        // Of one whose data is being replaced, taken over or removed there is nothing to say.
        if peer.damage.is_some() || !matches!(peer.stage, Stage::Normal) {
            return;
        }
        self.cx
            .out
            .apply
            .push(ApplyTask::MarkDamaged { region, peer: id });
        peer.set_damaged(true, &mut self.cx);
    }
}

impl Peer {
    /// What an applier tells of damage: that it wrote a mark, or what it met or inherited itself.
    pub(crate) fn on_applied_damage<E: Engine>(&mut self, applied: &Applied, cx: &mut Context<E>) {
        if applied.marked
            && let Some(damage) = &mut self.damage
        {
            damage.marking = false;
        }
        if applied.damaged && self.damage.is_none() && self.is_normal() {
            self.set_damaged(false, cx);
        }
    }

    fn set_damaged<E: Engine>(&mut self, marking: bool, cx: &mut Context<E>) {
        self.damage = Some(Damage {
            marking,
            ..Damage::default()
        });
        self.digest = None;
        self.publish(cx);
        self.abandon_sending(cx);
    }

    /// Hands leadership over to a peer whose data is whole, as far as anybody knows. One that got it back from all others
    /// keeps it for a while, so that a region whose peers are all damaged does not change leaders all the time.
    pub(crate) fn tick_damage<E: Engine>(&mut self, cx: &mut Context<E>) {
        let leads = self.is_leader();
        let Some(damage) = self
            .damage
            .as_mut()
            .filter(|damage| leads && cx.tick >= damage.due_tick)
        else {
            return;
        };
        let votes = |role| matches!(role, PeerRole::Voter | PeerRole::IncomingVoter);
        let own = self.id.0;
        let others: Vec<PeerId> = self
            .region
            .peers
            .iter()
            .filter(|member| member.id != own && votes(member.role()))
            .map(|member| PeerId(member.id))
            .collect();
        let target = others.get(damage.tries % others.len().max(1)).copied();
        damage.tries += 1;
        damage.due_tick = cx.tick + 2 * u64::from(cx.options.raft.election_ticks);
        let Some(target) = target else { return };
        // One that cannot take it now is asked again, after the others.
        let begun = self.transfer_to(target, cx).is_ok();
        if let Some(damage) = self
            .damage
            .as_mut()
            .filter(|damage| begun && damage.tries > others.len())
        {
            damage.due_tick = cx.tick + cx.options.report_ticks;
        }
    }
}
