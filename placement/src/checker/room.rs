//! Whether peers that go have somewhere to go to.

use proto::StoreId;

use super::Checker;
use crate::regions::RegionInfo;

impl Checker<'_> {
    /// Whether every peer of a region that goes, and that rules count on, finds a store of its own among these. One that
    /// rules admit to few stores does not lose its place to one that has others.
    pub fn has_places(
        &self,
        region: &RegionInfo,
        goes: impl Fn(StoreId) -> bool,
        stores: &[StoreId],
    ) -> bool {
        let look = self.look(region);
        let peers = region.region.peers.iter();
        let rules: Vec<usize> = peers
            .filter(|peer| goes(StoreId(peer.store_id)))
            .filter_map(|peer| look.rule_of(peer.id))
            .collect();
        let mut taken = vec![None; stores.len()];
        (0..rules.len()).all(|peer| {
            let mut seen = vec![false; stores.len()];
            self.settle(region, &rules, stores, peer, &mut taken, &mut seen)
        })
    }

    /// Finds a store for one peer, moving those that have one already if they have another (augmenting paths).
    fn settle(
        &self,
        region: &RegionInfo,
        rules: &[usize],
        stores: &[StoreId],
        peer: usize,
        taken: &mut [Option<usize>],
        seen: &mut [bool],
    ) -> bool {
        for at in 0..stores.len() {
            if seen[at]
                || self.could_take(region, stores[at]).is_err()
                || !self.places.admits(region, rules[peer], stores[at])
            {
                continue;
            }
            seen[at] = true;
            let free = match taken[at] {
                None => true,
                Some(other) => self.settle(region, rules, stores, other, taken, seen),
            };
            if free {
                taken[at] = Some(peer);
                return true;
            }
        }
        false
    }

    /// Whether the peer of a region on one store could go to another, whatever else is under way; or why not.
    pub fn could_follow(
        &self,
        region: &RegionInfo,
        from: StoreId,
        to: StoreId,
    ) -> Result<(), &'static str> {
        self.could_take(region, to)?;
        let peer = region.peer_on(from).map(|peer| peer.id);
        let rule = peer.and_then(|peer| self.look(region).rule_of(peer));
        match rule {
            Some(rule) if !self.places.admits(region, rule, to) => Err("rules keep it away"),
            _ => Ok(()),
        }
    }
}
