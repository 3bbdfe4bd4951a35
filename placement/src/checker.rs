//! What is wrong with a region, and what would repair it.
//!
//! Every region is checked when it reports and by a slow sweep, as long as it has no operator. A check is a pure function
//! of the region and the stores; the first thing found wins. Balancing and the replacement of peers on stores that are
//! merely down are not decided here: they add variants of [`Finding`].

use bytes::Bytes;
use proto::{RegionId, StoreId, metapb};

use crate::event::Now;
use crate::keyspace;
use crate::operators::Operators;
use crate::regions::{RegionInfo, Regions};
use crate::settings::Settings;
use crate::stores::Stores;

/// What is to be done with a region.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Finding {
    /// Edges of keyspaces lie inside.
    SplitAt(Vec<Bytes>),
    /// A learner without operator fills a gap.
    Promote(metapb::Peer),
    /// A learner without operator is of no use.
    RemoveLearner {
        /// The learner.
        peer: metapb::Peer,
        /// Why nobody wants it.
        why: &'static str,
    },
    /// A voter is missing.
    Add {
        /// Where it goes.
        to: StoreId,
        /// Voters now.
        voters: usize,
    },
    /// There is a voter too many.
    Demote(metapb::Peer),
    /// A voter is on a store whose peers are to leave.
    Move {
        /// The voter.
        from: metapb::Peer,
        /// Where it goes.
        to: StoreId,
    },
}

/// What a check looks at.
pub(crate) struct Checker<'a> {
    pub settings: &'a Settings,
    pub replicas: u32,
    pub api_version: u32,
    pub stores: &'a Stores,
    pub regions: &'a Regions,
    pub operators: &'a Operators,
    pub now: Now,
}

impl Checker<'_> {
    /// What is wrong, if something is and can be helped now.
    pub fn check(&self, region: &RegionInfo) -> Option<Finding> {
        // What a leader did not confirm is not decided upon; a joint state is left by the region itself.
        if region.leader.is_none()
            || region.term == 0
            || region.is_joint()
            || self.pauses(region.id())
        {
            return None;
        }
        let edges = keyspace::edges_inside(self.api_version, &region.region);
        if !edges.is_empty() {
            return Some(Finding::SplitAt(edges));
        }
        let voters = region.voters().count();
        let missing = voters < self.replicas as usize;
        if let Some(learner) = self.learners(region).next() {
            return self.check_learner(region, learner, missing);
        }
        if missing {
            return self.target(region).map(|to| Finding::Add { to, voters });
        }
        if voters > self.replicas as usize {
            return self.spare(region).map(Finding::Demote);
        }
        let leaving = region
            .voters()
            .find(|peer| self.stores.leaving(StoreId(peer.store_id)))?;
        self.target(region)
            .map(|to| Finding::Move { from: *leaving, to })
    }

    fn pauses(&self, region: RegionId) -> bool {
        self.operators.of_region(region).is_some()
            || self.operators.backs_off(region, self.now)
            || self.operators.len() >= self.settings.operators_max
    }

    fn learners<'r>(&self, region: &'r RegionInfo) -> impl Iterator<Item = &'r metapb::Peer> {
        region
            .region
            .peers
            .iter()
            .filter(|peer| peer.role() == metapb::PeerRole::Learner)
    }

    /// A learner that no operator owns: left over by a cancelled one, or by a leader that did not live to finish.
    fn check_learner(
        &self,
        region: &RegionInfo,
        learner: &metapb::Peer,
        missing: bool,
    ) -> Option<Finding> {
        let store = StoreId(learner.store_id);
        let remove = |why| {
            Some(Finding::RemoveLearner {
                peer: *learner,
                why,
            })
        };
        if !missing {
            remove("the region has all its voters")
        } else if self.stores.leaving(store)
            || self
                .stores
                .down(store, self.now, self.settings.store_down_after)
        {
            remove("its store is down or leaving")
        } else if self
            .stores
            .takes_peers(store, self.now, self.settings.store_down_after)
            && region.caught_up(learner.id)
        {
            Some(Finding::Promote(*learner))
        } else {
            None
        }
    }

    /// The voter that is missed least: a move that ended between the promotion of its peer and the demotion of the old one
    /// leaves one too many. Never the leader, so that no hand-over is needed.
    fn spare(&self, region: &RegionInfo) -> Option<metapb::Peer> {
        let leader = region.leader.as_ref().map(|leader| leader.id);
        let uselessness = |peer: &&metapb::Peer| {
            let store = StoreId(peer.store_id);
            let down = self
                .stores
                .down(store, self.now, self.settings.store_down_after);
            (
                self.stores.leaving(store),
                down,
                !region.caught_up(peer.id),
                self.regions.counts(store).0,
                peer.id,
            )
        };
        region
            .voters()
            .filter(|peer| Some(peer.id) != leader)
            .max_by_key(uselessness)
            .copied()
    }

    /// The store with the fewest peers, those on their way included, that may take one of this region.
    fn target(&self, region: &RegionInfo) -> Option<StoreId> {
        let fits = |store: &StoreId| {
            self.stores
                .takes_peers(*store, self.now, self.settings.store_down_after)
                && region.peer_on(*store).is_none()
                && self.operators.busy(*store) < self.settings.store_operators_max
                && has_room(self.stores, *store, region.bytes)
        };
        let load = |store: &StoreId| {
            (
                self.regions.counts(*store).0 as usize + self.operators.busy(*store),
                *store,
            )
        };
        self.stores.ids().filter(fits).min_by_key(load)
    }
}

/// Whether a store has room for a region, twice over: a snapshot is staged before it is taken in.
pub(crate) fn has_room(stores: &Stores, store: StoreId, bytes: u64) -> bool {
    stores
        .available_bytes(store)
        .is_none_or(|available| available / 2 >= bytes)
}
