//! A cluster that carries out orders at a cost: what stores would do, in virtual time and without any.
//!
//! It answers what a plan would bring before it is made, and drives simulations of placement alone. Reports of regions come
//! back as from their leaders. Snapshots take their bytes at the rate that the dial grants, one after another at each
//! receiver; everything else takes a fixed time. Nothing fails here.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use proto::{RegionId, StoreId, metapb};

use crate::event::{Order, OrderKind};
use crate::operator::Epoch;
use crate::regions::RegionInfo;

/// Made-up identities are above this, and those of a cluster below.
const MADE_UP: u64 = 1 << 62;

/// What things cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Costs {
    /// From an order to the report of its effect, bytes of snapshots aside.
    pub order: Duration,
    /// Bytes per second that a store takes in with snapshots.
    pub snapshot_bytes: u64,
}

#[derive(Clone, Debug)]
enum Due {
    Order(Box<Order>),
    CaughtUp(RegionId, u64),
}

/// Regions as their stores have them.
#[derive(Clone, Debug)]
pub struct Model {
    costs: Costs,
    regions: BTreeMap<RegionId, RegionInfo>,
    /// In the order in which they happen.
    due: BTreeMap<(Duration, u64), Due>,
    sequence: u64,
    /// When a store has taken in all snapshots that are on their way to it.
    receiving: BTreeMap<StoreId, Duration>,
    /// Bytes of all snapshots so far.
    sent_bytes: u64,
    /// Identities that were made up for pieces of splits.
    made_up: u64,
    /// Pieces of splits that are not reported yet.
    born: Vec<RegionId>,
}

impl Model {
    /// An empty cluster.
    pub fn new(costs: Costs) -> Self {
        Self {
            costs,
            regions: BTreeMap::new(),
            due: BTreeMap::new(),
            sequence: 0,
            receiving: BTreeMap::new(),
            sent_bytes: 0,
            made_up: MADE_UP,
            born: Vec::new(),
        }
    }

    /// Makes a region what it is said to be.
    pub fn put(&mut self, region: RegionInfo) {
        self.regions.insert(region.id(), region);
    }

    /// A region.
    pub fn get(&self, region: RegionId) -> Option<&RegionInfo> {
        self.regions.get(&region)
    }

    /// All regions.
    pub fn regions(&self) -> impl Iterator<Item = &RegionInfo> {
        self.regions.values()
    }

    /// Changes a region, as its load does; membership is changed by orders.
    pub fn change(&mut self, region: RegionId, change: impl FnOnce(&mut RegionInfo)) {
        if let Some(region) = self.regions.get_mut(&region) {
            change(region);
        }
    }

    /// Lets stores die. Returns what is reported of each region with a peer there, by another leader if it must be; or
    /// which have no quorum any more, and do nothing from now on.
    pub fn lose(&mut self, lost: &BTreeSet<StoreId>) -> Vec<Result<RegionInfo, RegionId>> {
        let gone = |peer: &metapb::Peer| lost.contains(&StoreId(peer.store_id));
        let mut news = Vec::new();
        let mut dead = Vec::new();
        for (id, region) in &mut self.regions {
            if !region.region.peers.iter().any(gone) {
                continue;
            }
            let voters = region.voters().count();
            let live: Vec<_> = region
                .voters()
                .filter(|peer| !gone(peer))
                .copied()
                .collect();
            if live.len() <= voters / 2 {
                dead.push(*id);
                news.push(Err(*id));
                continue;
            }
            if region.leader.is_none_or(|leader| gone(&leader)) {
                region.leader = live.first().copied();
                region.term += 1;
            }
            let down = region.region.peers.iter().filter(|peer| gone(peer));
            region.down = down.map(|peer| (*peer, 1)).collect();
            news.push(Ok(region.clone()));
        }
        for id in dead {
            self.regions.remove(&id);
        }
        news
    }

    /// Bytes of all snapshots so far.
    pub fn sent_bytes(&self) -> u64 {
        self.sent_bytes
    }

    /// Takes an order.
    pub fn order(&mut self, order: Order, now: Duration) {
        self.push(now + self.costs.order, Due::Order(Box::new(order)));
    }

    /// When something happens next.
    pub fn next(&self) -> Option<Duration> {
        self.due.first_key_value().map(|((at, _), _)| *at)
    }

    /// Lets happen what is due, and returns what leaders of regions report of it.
    pub fn advance(&mut self, now: Duration) -> Vec<RegionInfo> {
        let mut reports = Vec::new();
        while let Some(entry) = self.due.first_entry()
            && entry.key().0 <= now
        {
            let ((at, _), due) = entry.remove_entry();
            let changed = match due {
                Due::Order(order) => self.apply(*order, at),
                Due::CaughtUp(region, peer) => self.caught_up(region, peer),
            };
            let born = std::mem::take(&mut self.born);
            let told = changed.into_iter().chain(born);
            reports.extend(told.filter_map(|region| self.regions.get(&region).cloned()));
        }
        reports
    }

    fn push(&mut self, at: Duration, due: Due) {
        self.sequence += 1;
        self.due.insert((at, self.sequence), due);
    }

    /// Does what an order says, if it is meant for the region as it is. Returns the region if it changed.
    fn apply(&mut self, order: Order, at: Duration) -> Option<RegionId> {
        let region = self.regions.get_mut(&order.region)?;
        if region.epoch() != Epoch::from_wire(Some(&order.epoch)) {
            return None;
        }
        let membership = match order.kind {
            OrderKind::AddLearner(peer) => {
                region.region.peers.push(peer);
                region.pending.push(peer);
                let bytes = region.bytes;
                self.snapshot(order.region, peer, bytes, at);
                1
            }
            OrderKind::RemoveLearner(peer) => {
                region.region.peers.retain(|other| other.id != peer.id);
                region.pending.retain(|other| other.id != peer.id);
                region.down.retain(|(other, _)| other.id != peer.id);
                1
            }
            OrderKind::Swap { promote, demote } => {
                let is = |peers: &[metapb::Peer], id| peers.iter().any(|peer| peer.id == id);
                for peer in &mut region.region.peers {
                    if is(&promote, peer.id) {
                        peer.set_role(metapb::PeerRole::Voter);
                    } else if is(&demote, peer.id) {
                        peer.set_role(metapb::PeerRole::Learner);
                    }
                }
                2
            }
            OrderKind::TransferLeader(peer) => {
                region.leader = region.peer(peer.id).copied();
                region.term += 1;
                0
            }
            OrderKind::Split(keys) => return self.split(order.region, keys),
            // Nobody asks a model for merges: an operator that does ends by its deadline.
            OrderKind::Merge(_) => return None,
        };
        let region = self.regions.get_mut(&order.region)?;
        if let Some(epoch) = &mut region.region.region_epoch {
            epoch.conf_ver += membership;
        }
        Some(order.region)
    }

    /// Splits a region into pieces of one size; it keeps the first.
    fn split(&mut self, id: RegionId, keys: Vec<Bytes>) -> Option<RegionId> {
        let region = self.regions.get_mut(&id)?;
        let inside = |key: &Bytes| region.contains(key) && *key > region.region.start_key;
        if keys.is_empty() || !keys.iter().all(inside) || !keys.is_sorted() {
            return None;
        }
        if let Some(epoch) = &mut region.region.region_epoch {
            epoch.version += 1;
        }
        let pieces = keys.len() as u64 + 1;
        let share = |of: &mut u64| *of /= pieces;
        share(&mut region.bytes);
        share(&mut region.keys);
        share(&mut region.written_bytes);
        share(&mut region.written_keys);
        share(&mut region.read_bytes);
        share(&mut region.read_keys);
        share(&mut region.write_requests);
        share(&mut region.read_requests);
        let whole = region.clone();
        region.region.end_key = keys[0].clone();
        for (at, start) in keys.iter().enumerate() {
            let mut piece = whole.clone();
            piece.region.id = self.make_up();
            piece.region.start_key = start.clone();
            if let Some(end) = keys.get(at + 1) {
                piece.region.end_key = end.clone();
            }
            let leader = whole.leader.map(|leader| leader.store_id);
            for peer in &mut piece.region.peers {
                peer.id = self.make_up();
            }
            let mine = |peer: &metapb::Peer| piece.peer_on(StoreId(peer.store_id)).copied();
            let down = whole.down.iter();
            let down = down.filter_map(|(peer, seconds)| Some((mine(peer)?, *seconds)));
            let (down, pending) = (
                down.collect(),
                whole.pending.iter().filter_map(mine).collect(),
            );
            (piece.down, piece.pending) = (down, pending);
            piece.leader = leader.and_then(|store| piece.peer_on(StoreId(store)).copied());
            self.born.push(piece.id());
            self.put(piece);
        }
        Some(id)
    }

    fn make_up(&mut self) -> u64 {
        self.made_up += 1;
        self.made_up
    }

    fn snapshot(&mut self, region: RegionId, peer: metapb::Peer, bytes: u64, at: Duration) {
        let rate = self.costs.snapshot_bytes.max(1) as f64;
        let takes = Duration::from_secs_f64(bytes as f64 / rate);
        let free = self.receiving.entry(StoreId(peer.store_id)).or_default();
        let done = at.max(*free) + takes;
        *free = done;
        self.sent_bytes += bytes;
        self.push(done, Due::CaughtUp(region, peer.id));
    }

    fn caught_up(&mut self, id: RegionId, peer: u64) -> Option<RegionId> {
        let region = self.regions.get_mut(&id)?;
        let lagging = region.pending.len();
        region.pending.retain(|other| other.id != peer);
        (region.pending.len() < lagging).then_some(id)
    }
}
