//! Where regions are: soft state, built from reports of their leaders.
//!
//! # Invariants
//! 1. The ranges of all entries are disjoint.
//! 2. `by_start` holds exactly the start keys of all entries.
//! 3. `by_store` holds the peers of all entries and what they add up to, per store.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::time::Duration;

use bytes::Bytes;
use proto::{RegionId, StoreId, metapb};

use crate::operator::Epoch;
use index::StoreIndex;

/// What is known of a region.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RegionInfo {
    /// Applied descriptor at its leader.
    pub region: metapb::Region,
    /// The leader; `None` until one reports.
    pub leader: Option<metapb::Peer>,
    /// The leader's term; 0 for pieces of a split whose leader has not reported.
    pub term: u64,
    /// Peers that did not answer lately, with seconds of silence.
    pub down: Vec<(metapb::Peer, u64)>,
    /// Peers that are not caught up.
    pub pending: Vec<metapb::Peer>,
    /// Peers whose stores told that their data is damaged (R13).
    pub damaged: Vec<metapb::Peer>,
    /// Estimated size.
    pub bytes: u64,
    /// Estimated number of keys.
    pub keys: u64,
    /// Bytes written, per second on average over about a minute; so are the rates below. A report tells them over its
    /// `interval`.
    pub written_bytes: u64,
    /// Keys written or deleted per second.
    pub written_keys: u64,
    /// Bytes read per second.
    pub read_bytes: u64,
    /// Keys read per second.
    pub read_keys: u64,
    /// Requests that write, per second.
    pub write_requests: u64,
    /// Requests that read, per second.
    pub read_requests: u64,
    /// Time over which the newest report told them: about a minute, less while the leader or the range is new; zero for
    /// pieces of a split whose leader has not reported.
    pub interval: Duration,
}

impl RegionInfo {
    /// Its identity.
    pub fn id(&self) -> RegionId {
        RegionId(self.region.id)
    }

    /// Its epoch.
    pub fn epoch(&self) -> Epoch {
        Epoch::from_wire(self.region.region_epoch.as_ref())
    }

    /// Whether a key lies in its range.
    pub fn contains(&self, key: &[u8]) -> bool {
        key >= &self.region.start_key[..]
            && (self.region.end_key.is_empty() || key < &self.region.end_key[..])
    }

    /// Its peer on a store.
    pub fn peer_on(&self, store: StoreId) -> Option<&metapb::Peer> {
        self.region
            .peers
            .iter()
            .find(|peer| peer.store_id == store.0)
    }

    /// Its peer with this id.
    pub fn peer(&self, id: u64) -> Option<&metapb::Peer> {
        self.region.peers.iter().find(|peer| peer.id == id)
    }

    /// Peers that vote, in a joint configuration those of either half.
    pub fn voters(&self) -> impl Iterator<Item = &metapb::Peer> {
        self.region
            .peers
            .iter()
            .filter(|peer| peer.role() != metapb::PeerRole::Learner)
    }

    /// Whether a joint configuration is not left yet.
    pub fn is_joint(&self) -> bool {
        let joint = |peer: &metapb::Peer| {
            matches!(
                peer.role(),
                metapb::PeerRole::IncomingVoter | metapb::PeerRole::DemotingVoter
            )
        };
        self.region.peers.iter().any(joint)
    }

    /// Whether a peer is caught up, as far as its leader told.
    pub fn caught_up(&self, id: u64) -> bool {
        self.peer(id).is_some()
            && self.pending.iter().all(|peer| peer.id != id)
            && self.down.iter().all(|(peer, _)| peer.id != id)
    }

    /// Whether a peer's store told that its data is damaged.
    pub fn is_damaged(&self, id: u64) -> bool {
        self.damaged.iter().any(|peer| peer.id == id)
    }

    /// Whether a peer is one to lead: caught up, with whole data.
    pub fn may_lead(&self, id: u64) -> bool {
        self.caught_up(id) && !self.is_damaged(id)
    }
}

/// Why a report was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stale {
    /// The same region is known at a newer epoch or term.
    Older,
    /// A region that overlaps is known at a version that is not lower.
    Overlapped(RegionId),
    /// It is not a region: no id, no epoch, no peers, an empty range or a leader that is not a peer.
    Malformed,
}

/// All known regions.
#[derive(Debug, Default)]
pub(crate) struct Regions {
    by_id: BTreeMap<RegionId, RegionInfo>,
    by_start: BTreeMap<Bytes, RegionId>,
    by_store: BTreeMap<StoreId, StoreIndex>,
}

impl Regions {
    /// Takes a report if it is not older than what is known (REGIONS §8): by (epoch, then term) for this region, by
    /// version for regions that overlap. Its load is averaged with what is known. Returns the regions that it evicted.
    pub fn report(&mut self, mut report: RegionInfo) -> Result<Vec<RegionId>, Stale> {
        check(&report)?;
        load::bound(&mut report);
        let id = report.id();
        let epoch = report.epoch();
        if let Some(known) = self.by_id.get(&id) {
            let older = epoch.is_older(known.epoch())
                || (epoch == known.epoch() && report.term < known.term);
            if older {
                return Err(Stale::Older);
            }
        }
        load::average(&mut report, self.by_id.get(&id));
        // Leaders do not tell it.
        let known = self.by_id.get(&id);
        report.damaged = known.map_or(Vec::new(), |known| known.damaged.clone());
        report
            .damaged
            .retain(|peer| report.region.peers.iter().any(|other| other.id == peer.id));
        let overlapping = self.overlapping(&report.region.start_key, &report.region.end_key);
        let mut evicted = Vec::new();
        for other in overlapping {
            if other == id {
                continue;
            }
            if self.by_id[&other].epoch().version >= epoch.version {
                return Err(Stale::Overlapped(other));
            }
            evicted.push(other);
        }
        for other in &evicted {
            self.remove(*other);
        }
        self.remove(id);
        self.insert(report);
        Ok(evicted)
    }

    /// Takes over what a store says of the data of its peer of a region. Returns whether that is news.
    pub fn set_damaged(&mut self, id: RegionId, store: StoreId, damaged: bool) -> bool {
        let Some(region) = self.by_id.get_mut(&id) else {
            return false;
        };
        let before = region.damaged.len();
        let known = region.damaged.iter().any(|peer| peer.store_id == store.0);
        if !damaged {
            region.damaged.retain(|peer| peer.store_id != store.0);
        } else if !known {
            let peer = region.peer_on(store).copied();
            region.damaged.extend(peer);
        }
        region.damaged.len() != before
    }

    /// The region of a key.
    pub fn by_key(&self, key: &[u8]) -> Option<&RegionInfo> {
        let (_, id) = self
            .by_start
            .range::<[u8], _>((Bound::Unbounded, Bound::Included(key)))
            .next_back()?;
        let region = &self.by_id[id];
        region.contains(key).then_some(region)
    }

    /// The region that ends where the one of `key` starts.
    pub fn previous(&self, key: &[u8]) -> Option<&RegionInfo> {
        let start = &self.by_key(key)?.region.start_key[..];
        let (_, id) = self
            .by_start
            .range::<[u8], _>((Bound::Unbounded, Bound::Excluded(start)))
            .next_back()?;
        let region = &self.by_id[id];
        (region.region.end_key == start).then_some(region)
    }

    /// A region.
    pub fn get(&self, id: RegionId) -> Option<&RegionInfo> {
        self.by_id.get(&id)
    }

    /// Regions that overlap `[start, end)` in key order; an empty end is the end of the key space.
    pub fn scan<'a>(&'a self, start: &[u8], end: &'a [u8]) -> impl Iterator<Item = &'a RegionInfo> {
        let first = self.by_key(start).map_or_else(
            || Bytes::copy_from_slice(start),
            |region| region.region.start_key.clone(),
        );
        self.by_start
            .range((Bound::Included(first), Bound::Unbounded))
            .take_while(move |(start, _)| end.is_empty() || &start[..] < end)
            .map(|(_, id)| &self.by_id[id])
    }

    /// Regions with an id above `after`, in order of ids: the sweep of the checkers.
    pub fn after(&self, after: RegionId) -> impl Iterator<Item = &RegionInfo> {
        self.by_id
            .range((Bound::Excluded(after), Bound::Unbounded))
            .map(|(_, region)| region)
    }

    /// Whether every key has a region: then what the view does not show is not there. Looks at all of them.
    pub fn is_whole(&self) -> bool {
        let mut end = Some(Bytes::new());
        for id in self.by_start.values() {
            let region = &self.by_id[id].region;
            if end.as_ref() != Some(&region.start_key) {
                return false;
            }
            end = Some(region.end_key.clone()).filter(|end| !end.is_empty());
        }
        end.is_none()
    }

    /// Number of regions.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Peers and leaders on a store.
    pub fn counts(&self, store: StoreId) -> (u32, u32) {
        self.of_store(store)
            .map_or((0, 0), |index| (index.sums.peers, index.sums.leaders))
    }

    /// The regions of a store; `None` when it has none.
    pub fn of_store(&self, store: StoreId) -> Option<&StoreIndex> {
        self.by_store.get(&store)
    }

    fn overlapping(&self, start: &[u8], end: &[u8]) -> Vec<RegionId> {
        self.scan(start, end).map(RegionInfo::id).collect()
    }

    fn insert(&mut self, region: RegionInfo) {
        self.index(&region, true);
        let replaced = self
            .by_start
            .insert(region.region.start_key.clone(), region.id());
        assert!(
            replaced.is_none(),
            "two regions start at one key: {} and {replaced:?}",
            region.id()
        );
        self.by_id.insert(region.id(), region);
    }

    fn remove(&mut self, id: RegionId) {
        if let Some(region) = self.by_id.remove(&id) {
            self.by_start.remove(&region.region.start_key);
            self.index(&region, false);
        }
    }

    fn index(&mut self, region: &RegionInfo, add: bool) {
        let leader = region.leader.as_ref().map(|leader| leader.id);
        for peer in &region.region.peers {
            let index = self.by_store.entry(StoreId(peer.store_id)).or_default();
            index.change(region, leader == Some(peer.id), add);
            if index.sums.peers == 0 {
                self.by_store.remove(&StoreId(peer.store_id));
            }
        }
    }
}

/// What a report must be to enter the view.
fn check(report: &RegionInfo) -> Result<(), Stale> {
    let region = &report.region;
    let epoch = report.epoch();
    let range = region.end_key.is_empty() || region.start_key < region.end_key;
    let led = report
        .leader
        .as_ref()
        .is_none_or(|leader| report.peer(leader.id).is_some());
    if region.id == 0
        || epoch.version == 0
        || epoch.conf_ver == 0
        || region.peers.is_empty()
        || !range
        || !led
    {
        return Err(Stale::Malformed);
    }
    Ok(())
}

pub(crate) mod index;
mod load;
#[cfg(test)]
mod tests;
