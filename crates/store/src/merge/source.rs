//! A frozen source, seen from its leader (REGIONS §5, step 3 and "×").
//!
//! Nothing here is remembered but in the region's state: a later leader finds it frozen, starts a time budget of its own and
//! says the same things again. The source thaws on a verdict, and on nothing else.

use engine::Engine;
use proto::pontoon::v1 as wire;
use proto::pontoon::v1::command::Structural;
use proto::pontoon::v1::merge_message::Kind;
use proto::{RegionId, StoreId};
use raft::{Payload, PeerId};

use super::verdict::Verdict;
use super::{MergeKey, MergeState};
use crate::codec;
use crate::context::Context;
use crate::digest::Digest;
use crate::peer::Peer;
use crate::planted::Bug;
use crate::store::Store;

impl Peer {
    /// The merge for which this peer leads a frozen source.
    pub(crate) fn led_freeze(&self) -> Option<(MergeKey, &wire::Freeze)> {
        let freeze = self.merge.freeze.as_ref().filter(|_| self.is_leader())?;
        let merge = MergeKey {
            source: self.region_id(),
            freeze_index: freeze.index,
        };
        Some((merge, freeze))
    }

    /// Whether a leader has something to say about a merge.
    pub(crate) fn is_merging_due(&self, tick: u64) -> bool {
        let source = self.merge.freeze.is_some() && self.merging.source_due <= tick;
        let records = !self.merge.records.is_empty() && self.merging.records_due <= tick;
        (source || records) && self.is_leader()
    }

    /// Takes over what the applied state remembers of merges.
    pub(crate) fn adopt_merge<E: Engine>(&mut self, merge: MergeState, cx: &mut Context<E>) {
        if merge.freeze != self.merge.freeze {
            self.merging.forget_source();
            if merge.freeze.is_some() {
                self.deny_reads(cx);
            }
        }
        self.merge = merge;
    }

    /// Whether every peer of a frozen source has its log up to the freeze on disk, so that each store can absorb alone.
    fn is_freeze_everywhere(&self, freeze: &wire::Freeze) -> bool {
        let Some(raft) = &self.raft else { return false };
        let statuses = raft.member_statuses();
        self.region.peers.iter().all(|member| {
            let matched = if member.id == self.id.0 {
                raft.persisted()
            } else {
                statuses
                    .get(&PeerId(member.id))
                    .map_or(0, |status| status.matched)
            };
            matched >= freeze.index
        })
    }
}

impl<E: Engine> Store<E> {
    /// Asks the target at once when the last peer of a source has the freeze on disk.
    pub(crate) fn hasten_source(&mut self, source: RegionId) {
        let Some(peer) = self.peers.get_mut(&source) else {
            return;
        };
        let everywhere = peer
            .led_freeze()
            .is_some_and(|(_, freeze)| peer.is_freeze_everywhere(freeze));
        if everywhere && !peer.merging.hastened {
            peer.merging.hastened = true;
            self.drive_source(source);
        }
    }

    /// Goes on with a frozen source that is led here. Called when it is due, and when something that it waits for may have
    /// come.
    pub(crate) fn drive_source(&mut self, source: RegionId) {
        let (tick, budget) = (self.cx.tick, u64::from(self.cx.options.raft.election_ticks));
        let Some(peer) = self.peers.get_mut(&source) else {
            return;
        };
        let Some((merge, freeze)) = peer.led_freeze() else {
            peer.merging.frozen_since = None;
            return;
        };
        let freeze = freeze.clone();
        let since = *peer.merging.frozen_since.get_or_insert(tick);
        peer.merging.source_due = tick + self.cx.options.merge_ticks;
        let (told, everywhere) = (peer.merging.aborted, peer.is_freeze_everywhere(&freeze));
        let over_time = tick.saturating_sub(since) >= budget;
        if told == Some(merge) || (over_time && self.cx.options.bug == Some(Bug::RollbackByTimer)) {
            self.roll_back(source);
            return;
        }
        match self.verdict(merge, &freeze) {
            Some(Verdict::Aborted) => {
                self.roll_back(source);
                return;
            }
            // The local target takes this peer in, and those elsewhere theirs.
            Some(Verdict::Committed) => return,
            Some(Verdict::Pending) | None => {}
        }
        let Some(peer) = self.peers.get(&source) else {
            return;
        };
        let plea = wire::MergePlea {
            source: Some(peer.region.clone()),
            from_peer: peer.id.0,
            freeze: Some(freeze.clone()),
            digest: peer.digest.map(Digest::to_wire),
        };
        let kind = if over_time {
            Kind::Abort(plea)
        } else if everywhere {
            Kind::Commit(plea)
        } else {
            return;
        };
        self.plead(merge, &freeze, kind);
        // The key may have moved to stores that were none of the target's.
        if tick.saturating_sub(since) >= 10 * budget
            && (tick - since) % (10 * budget) < self.cx.options.merge_ticks
        {
            self.cx.out.locate.push(freeze.witness_key);
        }
    }

    /// Asks whoever may lead the target, here and on its other stores.
    fn plead(&mut self, merge: MergeKey, freeze: &wire::Freeze, kind: Kind) {
        let own = self.cx.store;
        let mut stores: Vec<StoreId> = freeze
            .target
            .iter()
            .flat_map(|target| &target.peers)
            .map(|peer| StoreId(peer.store_id))
            .collect();
        if let Some(peer) = self.peers.get(&merge.source) {
            stores.extend(&peer.merging.witness_stores);
        }
        stores.sort_unstable();
        stores.dedup();
        let message = wire::MergeMessage {
            merge: Some(merge.to_wire()),
            kind: Some(kind),
        };
        for store in stores {
            if store != own {
                let merges = &mut self.cx.frame(store, false).merges;
                merges.push(message.clone());
            }
        }
        self.on_merge_message(own, message);
    }

    fn roll_back(&mut self, source: RegionId) {
        let cx = &mut self.cx;
        let Some(peer) = self.peers.get_mut(&source) else {
            return;
        };
        let Some((merge, _)) = peer.led_freeze() else {
            return;
        };
        // While the lane is taken, or the term is too young, the next turn tries again.
        if peer.check_order(peer.epoch()).is_err() {
            return;
        }
        let command =
            peer.structural_command(Some(Structural::RollbackMerge(wire::RollbackMerge {
                merge: Some(merge.to_wire()),
            })));
        let _refused = peer.propose_structural(Payload::Structural(codec::seal(&command)), cx);
    }

    /// An answer from a peer of the owner of the witness key.
    pub(crate) fn on_verdict(&mut self, merge: MergeKey, verdict: wire::MergeVerdict) {
        let Some(peer) = self.peers.get_mut(&merge.source) else {
            return;
        };
        let asked = peer.led_freeze().is_some_and(|(frozen, _)| frozen == merge);
        if asked && !verdict.committed {
            peer.merging.aborted = Some(merge);
            self.drive_source(merge.source);
        }
    }

    /// Where the witness key of some frozen source lies now.
    pub(crate) fn on_located(&mut self, key: &[u8], owner: &proto::metapb::Region) {
        for peer in self.peers.values_mut() {
            let asked = peer
                .merge
                .freeze
                .as_ref()
                .is_some_and(|freeze| freeze.witness_key == key);
            if asked {
                peer.merging.witness_stores = owner
                    .peers
                    .iter()
                    .map(|peer| StoreId(peer.store_id))
                    .collect();
            }
        }
    }
}
