//! Whether peers that go have somewhere to go to.

use std::borrow::Cow;

use proto::{StoreId, metapb};

use super::Checker;
use crate::operator::Step;
use crate::operators::hindrance;
use crate::regions::RegionInfo;
use crate::rules::fit::Seat;
use crate::rules::{guest, seats};

impl Checker<'_> {
    /// A region as it will be once what is under way with it has ended, if nothing new comes to a store that is `closed`: its
    /// operator is done or given up, its roles are changed, and those are gone that no rule counts on. A place that only
    /// such a peer holds is free.
    pub fn settled<'r>(&self, region: &'r RegionInfo, closed: StoreId) -> Cow<'r, RegionInfo> {
        use metapb::PeerRole::{DemotingVoter, IncomingVoter, Learner, Voter};
        let mut region = Cow::Borrowed(region);
        if let Some(operator) = self.operators.moving(region.id()) {
            let given_up = |step: &Step| {
                let comes = matches!(step, Step::AddLearner(_) | Step::CatchUp(_));
                (comes && step.needs().contains(&closed))
                    || hindrance(step, self.stores, self.now, self.settings).is_some()
            };
            region = Cow::Owned(operator.outcome(&region, given_up));
        }
        if region.is_joint() {
            for peer in &mut region.to_mut().region.peers {
                match peer.role() {
                    IncomingVoter => peer.set_role(Voter),
                    DemotingVoter => peer.set_role(Learner),
                    Voter | Learner => {}
                }
            }
        }
        let look = self.look(&region);
        let stays = |peer: &metapb::Peer| {
            // A voter too many goes when no other is missing.
            let counted = look.rule_of(peer.id).is_some();
            counted || (peer.role() == Voter && look.missing_voters > 0)
        };
        if !region.region.peers.iter().all(stays) {
            region.to_mut().region.peers.retain(stays);
        }
        region
    }

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
        let each = (0..rules.len()).all(|peer| {
            let mut seen = vec![false; stores.len()];
            self.settle(region, &rules, stores, peer, &mut taken, &mut seen)
        });
        each || self.has_places_if_roles_change(region, goes, stores)
    }

    /// The same if those that stay may serve other rules: each store that helps is taken, which finds as many as there are.
    fn has_places_if_roles_change(
        &self,
        region: &RegionInfo,
        goes: impl Fn(StoreId) -> bool,
        stores: &[StoreId],
    ) -> bool {
        let key = &region.region.start_key;
        let missing = |seats: &[Seat]| self.places.fit(key, seats).cost.missing;
        let mut seats = seats(region);
        let before = missing(&seats);
        seats.retain(|seat| !goes(seat.store));
        for store in stores {
            let lacks = missing(&seats);
            if lacks <= before {
                return true;
            }
            if self.could_take(region, *store).is_err() {
                continue;
            }
            seats.push(guest(*store, true));
            if missing(&seats) == lacks {
                seats.pop();
            }
        }
        missing(&seats) <= before
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
