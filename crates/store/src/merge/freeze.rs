//! Freezing a source: what must hold, and the order in which it happens (REGIONS §5, steps 1 and 2).

use engine::Engine;
use proto::RegionId;
use proto::metapb;
use proto::pontoon::v1 as wire;
use proto::pontoon::v1::command::Structural;
use raft::{Payload, PeerId};

use super::{are_neighbours, same_stores};
use crate::codec;
use crate::context::Context;
use crate::event::{OrderRefusal, Refusal};
use crate::peer::Peer;
use crate::planted::Bug;
use crate::store::Store;

impl Peer {
    /// Takes no requests: frozen by its log, or about to be.
    pub(crate) fn is_frozen(&self) -> bool {
        self.merge.freeze.is_some() || self.merging.freezing
    }

    /// Answers all reads, whether they wait to be confirmed or to be applied: whatever was confirmed before the freeze may
    /// lie before a write of the target.
    pub(crate) fn deny_reads<E: Engine>(&mut self, cx: &mut Context<E>) {
        if cx.options.bug == Some(Bug::ReadOverFreeze) {
            return;
        }
        for request in self.take_reads() {
            cx.refuse(request, Refusal::Merging(self.region_id()));
        }
    }

    /// Takes the view of a freeze back that was refused or lost: what is parked goes on when effects are taken.
    pub(crate) fn thaw_view<E: Engine>(&mut self, cx: &mut Context<E>) {
        if std::mem::take(&mut self.merging.freezing) {
            self.publish(cx);
            cx.touch(self);
        }
    }
}

impl<E: Engine> Store<E> {
    /// Freezes `source` so that `target` may take it in. The source's own side of the order was checked.
    pub(crate) fn propose_merge(
        &mut self,
        source: RegionId,
        target: RegionId,
        operator_id: u64,
    ) -> Result<(), OrderRefusal> {
        let descriptor = self.check_merge(source, target)?;
        let cx = &mut self.cx;
        let peer = self.peers.get_mut(&source).ok_or(OrderRefusal::NotLeader)?;
        // What clients proposed before goes before the freeze, or the freeze waits.
        peer.flush_writes(cx);
        if peer.writes.ready.is_some() || !peer.writes.queue.is_empty() {
            return Err(OrderRefusal::LaneBusy);
        }
        // First the view, then the command: while it is built nobody is served any more (R25).
        peer.merging.freezing = true;
        peer.merging.freezing_term = peer.term();
        peer.deny_reads(cx);
        peer.publish(cx);
        let command = peer.structural_command(Some(Structural::PrepareMerge(wire::PrepareMerge {
            target: Some(descriptor),
            operator_id,
        })));
        let proposed = peer.propose_structural(Payload::Structural(codec::seal(&command)), cx);
        if proposed.is_err() {
            peer.thaw_view(cx);
        }
        proposed
    }

    /// What must hold before a source freezes; the descriptor of the target at `E_T`. That no keyspace and no rule ends between
    /// the two is placement's to see to.
    fn check_merge(
        &self,
        source: RegionId,
        target: RegionId,
    ) -> Result<metapb::Region, OrderRefusal> {
        let options = &self.cx.options;
        let from = self.peers.get(&source).ok_or(OrderRefusal::NotLeader)?;
        let into = self
            .peers
            .get(&target)
            .filter(|into| into.is_leader() || (options.merge_unchecked && into.is_normal()))
            .ok_or(OrderRefusal::Invalid("the target is not led here"))?;
        from.check_not_joint()?;
        if !are_neighbours(&from.region, &into.region) {
            return Err(OrderRefusal::Invalid("the regions are no neighbours"));
        }
        if !same_stores(&from.region, &into.region) {
            return Err(OrderRefusal::Invalid(
                "the regions are not on the same stores in the same roles",
            ));
        }
        if options.merge_unchecked {
            return Ok(into.region.clone());
        }
        into.check_order(into.epoch())?;
        into.check_not_frozen()?;
        into.check_not_joint()?;
        for side in [from, into] {
            let statuses = side
                .raft
                .as_ref()
                .map(raft::Raft::member_statuses)
                .unwrap_or_default();
            for member in &side.region.peers {
                side.check_caught_up(PeerId(member.id), &statuses, &self.cx)?;
            }
        }
        // What is hardly anything does not bring the other nearer to a split.
        let is_tiny = |side: &Peer| {
            side.estimate.bytes <= options.merge_bytes_max / 16
                && side.estimate.keys <= options.merge_keys_max / 16
        };
        let times = if is_tiny(from) || is_tiny(into) { 2 } else { 1 };
        if from.estimate.bytes + into.estimate.bytes > options.merge_bytes_max.saturating_mul(times)
            || from.estimate.keys + into.estimate.keys
                > options.merge_keys_max.saturating_mul(times)
        {
            return Err(OrderRefusal::Invalid("the regions are too large to merge"));
        }
        let (requests, bytes) = [from, into]
            .map(|side| side.load_per_second(&self.cx))
            .into_iter()
            .fold((0, 0), |sum, load| (sum.0 + load.0, sum.1 + load.1));
        if requests > options.merge_requests_max || bytes > options.merge_load_bytes_max {
            return Err(OrderRefusal::Invalid("the regions are too busy to merge"));
        }
        if from.merge.records.len() + into.merge.records.len() >= options.merge_records_max {
            return Err(OrderRefusal::Invalid(
                "too many merges are not over on every store",
            ));
        }
        Ok(into.region.clone())
    }
}
