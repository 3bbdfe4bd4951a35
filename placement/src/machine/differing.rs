//! Replicas that do not hold the same (R12): the journal tells of them, and people decide.

use proto::RegionId;
use proto::StoreId;
use proto::pontoon::v1::{Divergence, JournalEntry};

use super::Leader;
use crate::decision::{Decision, Who};
use crate::event::Now;

/// What is written down, with the stores, peers and the index beside it.
const REASON: &str =
    "two replicas do not hold the same; replace the one that differs from the others";

impl Leader {
    /// Writes down what a store found. Which of two replicas is wrong it does not know, so nothing is done about it.
    pub(super) fn on_divergence(&mut self, told: Divergence, now: Now) {
        if self.cluster.bootstrapped_at_ms == 0 || !self.ids.known(told.region_id) {
            return;
        }
        let region = RegionId(told.region_id);
        let known = self.regions.get(region);
        let peers = known.map_or(&[][..], |known| &known.region.peers);
        let other = peers.iter().find(|peer| peer.id == told.other_id);
        let store = told.header.map(|header| StoreId(header.sender_id));
        let decision = Decision::refused(Who::Repair, Some(region), REASON)
            .between(store, other.map(|peer| StoreId(peer.store_id)))
            .input("peer", told.peer_id as f64)
            .input("other peer", told.other_id as f64)
            .input("applied index", told.index as f64);
        let about = JournalEntry {
            view_version: self.view_version,
            ..JournalEntry::default()
        };
        self.journal
            .decided(decision, String::new(), about, now, &mut self.outbox);
    }
}
