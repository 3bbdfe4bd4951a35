//! What is known about regions: who covers which route keys, and who leads.
//!
//! # Invariants
//! 1. Cached ranges do not overlap.
//! 2. `by_id` names exactly the regions in `by_start`.
//! 3. A region is only replaced by one that is not older: within a region by epoch, between overlapping regions by
//!    version (REGIONS §1).
//! 4. At most `regions_max` regions are held.

use std::{
    collections::BTreeMap,
    ops::Bound::{Excluded, Included, Unbounded},
    sync::Arc,
};

use bytes::Bytes;
use proto::{RegionId, metapb};

/// A region as requests need it. Keys are route keys; an empty `end` is the end of the key space.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Region {
    pub id: RegionId,
    pub epoch: metapb::RegionEpoch,
    pub start: Bytes,
    pub end: Bytes,
    /// Peers that can lead, in the order of the descriptor; at least one.
    pub voters: Vec<metapb::Peer>,
    /// Position in `voters` of the peer to ask.
    pub target: usize,
    /// The placement group should be asked before this is used again.
    pub stale: bool,
}

impl Region {
    /// From a descriptor and the leader that came with it. `None` when the descriptor makes no sense.
    pub(crate) fn new(descriptor: metapb::Region, leader: Option<&metapb::Peer>) -> Option<Self> {
        let metapb::Region {
            id,
            start_key,
            end_key,
            region_epoch,
            peers,
            ..
        } = descriptor;
        let voters: Vec<_> = peers
            .into_iter()
            .filter(|peer| peer.role() != metapb::PeerRole::Learner && peer.store_id != 0)
            .collect();
        if voters.is_empty() || !end_key.is_empty() && start_key >= end_key {
            return None;
        }
        let target = leader
            .and_then(|leader| voters.iter().position(|voter| voter.id == leader.id))
            .unwrap_or(0);
        Some(Self {
            id: RegionId::from_wire(id)?,
            epoch: region_epoch.unwrap_or_default(),
            start: start_key,
            end: end_key,
            voters,
            target,
            stale: false,
        })
    }

    /// The peer to ask.
    pub(crate) fn peer(&self) -> &metapb::Peer {
        &self.voters[self.target]
    }

    pub(crate) fn contains(&self, key: &[u8]) -> bool {
        &self.start[..] <= key && (self.end.is_empty() || key < &self.end[..])
    }

    /// Whether the range ends at or after `upper`, where empty is the end of the key space on both sides.
    fn reaches(&self, upper: &[u8]) -> bool {
        self.end.is_empty() || !upper.is_empty() && &self.end[..] >= upper
    }

    fn order(&self) -> (u64, u64) {
        (self.epoch.version, self.epoch.conf_ver)
    }
}

pub(crate) struct RegionCache {
    by_start: BTreeMap<Bytes, Arc<Region>>,
    by_id: BTreeMap<RegionId, Bytes>,
    regions_max: usize,
}

impl RegionCache {
    pub(crate) fn new(regions_max: usize) -> Self {
        Self {
            by_start: BTreeMap::new(),
            by_id: BTreeMap::new(),
            regions_max: regions_max.max(1),
        }
    }

    /// The region that holds `key`.
    pub(crate) fn get(&self, key: &[u8]) -> Option<&Arc<Region>> {
        let (_, region) = self
            .by_start
            .range::<[u8], _>((Unbounded, Included(key)))
            .next_back()?;
        region.contains(key).then_some(region)
    }

    /// The region that holds the keys just below `upper`; empty is the end of the key space.
    pub(crate) fn get_below(&self, upper: &[u8]) -> Option<&Arc<Region>> {
        let below = if upper.is_empty() {
            Unbounded
        } else {
            Excluded(upper)
        };
        let (_, region) = self
            .by_start
            .range::<[u8], _>((Unbounded, below))
            .next_back()?;
        region.reaches(upper).then_some(region)
    }

    /// Takes a region over unless something newer is known; tells whether it did.
    pub(crate) fn insert(&mut self, region: Region) -> bool {
        if let Some(start) = self.by_id.get(&region.id)
            && self.by_start[start].order() > region.order()
        {
            return false;
        }
        let overlapping = self.overlapping(&region);
        let newer = |start: &Bytes| {
            let cached = &self.by_start[start];
            cached.id != region.id && cached.epoch.version > region.epoch.version
        };
        if overlapping.iter().any(newer) {
            return false;
        }
        for start in overlapping {
            self.remove(&start);
        }
        if let Some(start) = self.by_id.get(&region.id).cloned() {
            self.remove(&start);
        }
        if self.by_start.len() >= self.regions_max {
            // Whoever uses this many regions spreads over all of them, so there is no better choice than another.
            self.by_start.clear();
            self.by_id.clear();
        }
        self.by_id.insert(region.id, region.start.clone());
        self.by_start.insert(region.start.clone(), Arc::new(region));
        true
    }

    /// Takes over what a store says in `EpochNotMatch`; tells whether anything new was learnt. The leader is kept where
    /// the answering peer's region goes on, and for pieces of it the peer on the same store is the best guess.
    pub(crate) fn learn(&mut self, asked: &Region, current: Vec<metapb::Region>) -> bool {
        let mut learnt = false;
        for descriptor in current {
            let store = asked.peer().store_id;
            let guess = descriptor
                .peers
                .iter()
                .find(|peer| peer.store_id == store)
                .cloned();
            let Some(region) = Region::new(descriptor, guess.as_ref()) else {
                continue;
            };
            let known = self
                .by_id
                .get(&region.id)
                .map(|start| self.by_start[start].order());
            if region.id == asked.id && region.order() <= asked.order() {
                continue;
            }
            let newer = known.is_none_or(|known| known < region.order());
            learnt |= self.insert(region) && newer;
        }
        learnt
    }

    /// Asks for a fresh copy of a region at its next use, unless it changed since `asked`.
    pub(crate) fn mark_stale(&mut self, asked: &Region) {
        self.update(asked, |region| region.stale = true);
    }

    /// Placement does not answer, so the cached copy has to do until it fails again.
    pub(crate) fn make_do(&mut self, asked: &Region) {
        self.update(asked, |region| region.stale = false);
    }

    /// Directs requests to `leader`. A leader that the cached region does not name makes the region stale.
    pub(crate) fn set_leader(&mut self, asked: &Region, leader: &metapb::Peer) {
        self.update(asked, |region| {
            match region.voters.iter().position(|voter| voter.id == leader.id) {
                Some(position) => region.target = position,
                None => region.stale = true,
            }
        });
    }

    /// The peer that `asked` names did not serve: directs requests to the next one, and after a whole round asks for a
    /// fresh copy. Many requests fail together, so only the first moves on.
    pub(crate) fn rotate(&mut self, asked: &Region) {
        self.update(asked, |region| {
            if region.target == asked.target {
                region.target = (region.target + 1) % region.voters.len();
                region.stale |= region.target == 0;
            }
        });
    }

    /// Changes the cached copy of `asked` if it still is of that epoch.
    fn update(&mut self, asked: &Region, change: impl FnOnce(&mut Region)) {
        let Some(start) = self.by_id.get(&asked.id) else {
            return;
        };
        let region = self
            .by_start
            .get_mut(start)
            .expect("by_id names cached regions");
        if region.epoch == asked.epoch {
            change(Arc::make_mut(region));
        }
    }

    /// Starts of the cached regions that overlap `region`.
    fn overlapping(&self, region: &Region) -> Vec<Bytes> {
        let below = if region.end.is_empty() {
            Unbounded
        } else {
            Excluded(&region.end[..])
        };
        self.by_start
            .range::<[u8], _>((Unbounded, below))
            .rev()
            .take_while(|(_, cached)| cached.end.is_empty() || cached.end > region.start)
            .map(|(start, _)| start.clone())
            .collect()
    }

    fn remove(&mut self, start: &Bytes) {
        let region = self
            .by_start
            .remove(start)
            .expect("the caller found it there");
        self.by_id.remove(&region.id);
    }

    #[cfg(test)]
    fn check_invariants(&self) {
        let mut end: Option<Bytes> = None;
        for (start, region) in &self.by_start {
            assert_eq!(start, &region.start);
            assert_eq!(self.by_id.get(&region.id), Some(start));
            if let Some(end) = end {
                assert!(
                    !end.is_empty() && end <= *start,
                    "{end:?} reaches into {start:?}"
                );
            }
            end = Some(region.end.clone());
        }
        assert_eq!(self.by_id.len(), self.by_start.len());
        assert!(self.by_start.len() <= self.regions_max);
    }
}

#[cfg(test)]
mod tests;
