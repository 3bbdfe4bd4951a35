//! Damaged data of one peer (R13): it costs the peer, not the store.
//!
//! A damaged block is an error when it is read, never a wrong answer. A peer that met one goes on taking log, voting and
//! applying, none of which needs the block, so its group keeps the redundancy that it had. What it gives up is what another
//! peer does better: it hands leadership over, and as long as nobody takes it sends no snapshot, since one cannot be built.
//!
//! Known gaps: the finding is not on disk, so after a restart the peer may lead until it meets the block again. Nothing
//! replaces the peer by itself; an operator moves the replica to another store, or away and back. A damaged block met by a
//! command that reads what it changes still stops the store, and so does one met by the engine's own compaction.

use engine::Engine;
use proto::RegionId;
use proto::metapb::PeerRole;
use raft::PeerId;

use crate::context::Context;
use crate::peer::Peer;
use crate::store::Store;

/// What a peer with damaged data remembers.
#[derive(Debug, Default)]
pub(crate) struct Damage {
    /// When it tries again to hand leadership over.
    due_tick: u64,
    /// Counts tries, so that each goes to another voter: the best may be damaged as well.
    tries: usize,
}

impl<E: Engine> Store<E> {
    /// A task met damaged data of a peer.
    pub(crate) fn on_damaged(&mut self, region: RegionId, id: PeerId) {
        let Some(peer) = self.peers.get_mut(&region).filter(|peer| peer.id == id) else {
            return;
        };
        peer.damage.get_or_insert_default();
        peer.abandon_sending(&mut self.cx);
        peer.tick_damage(&mut self.cx);
    }
}

impl Peer {
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
