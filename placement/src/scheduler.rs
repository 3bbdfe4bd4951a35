//! Who makes a cluster even: from a view, moves (REGIONS §9).
//!
//! A round builds a [`View`] of the stores that may take part, with everything under way counted as done, and asks each
//! scheduler for moves until it has none or the round is full. A scheduler picks the stores that stand out, draws a few of
//! their regions from the index of the view, and judges each with a few targets: at most [`CANDIDATES`] stores, so a
//! decision costs the same in any cluster. What it decides is counted as done at once, so the next one sees it.
//!
//! All of it is a function of the view, the time and the dice.

use std::collections::BTreeSet;

use proto::{RegionId, StoreId, metapb};

use crate::commands;
use crate::decision::{Decision, Who};
use crate::dial::{Claim, Dial, Purpose, Setting, Side, TRANSFER_BYTES};
use crate::dice::Dice;
use crate::event::Now;
use crate::operators::Operators;
use crate::regions::index::draw;
use crate::regions::{RegionInfo, Regions};
use crate::rests::{Part, Rests};
use crate::rules::Places;
use crate::rules::fit::Cost;
use crate::score::{Burden, Dimension, Scores, Shifts};
use crate::settings::Settings;
use crate::stores::{STOPPING, Stores};

mod ahead;
mod considered;
mod hot;
mod leader;
mod region;
mod view;

pub(crate) use ahead::{Spread, Stays, spread};
use considered::Considered;

/// Stores that a decision looks at.
const CANDIDATES: usize = 32;
/// Regions of a store that a decision looks at.
const REGIONS: usize = 8;
/// Stores that a decision tries to take something from, or to give something to.
const ENDS: usize = 4;

/// Why a scheduler does nothing while all is well. Every other reason says what stands in the way.
pub(crate) const EVEN: &str = "the stores are even";

/// What is to be done with a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// A peer goes to another store.
    Move {
        from: StoreId,
        to: StoreId,
        /// Whether the new peer leads afterwards, as the old one does now.
        leads: bool,
    },
    /// Another voter leads.
    Transfer { to: StoreId },
}

/// A decision that is to become an operator.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Proposal {
    pub region: RegionId,
    pub action: Action,
    /// With everything but the outcome.
    pub decision: Decision,
}

/// A store that takes part.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Member {
    /// Free bytes; `None` when it did not tell.
    available: Option<u64>,
    /// Operators under way that touch it.
    busy: usize,
    /// Bytes under way to it.
    receives: u64,
    /// Bytes under way from it.
    sends: u64,
}

/// Stores that stood out in a kind of load, until they are relieved: begun at twice the difference at which it ends, so
/// that loads which move do not make it begin again.
pub(crate) type Relief = BTreeSet<(StoreId, Dimension)>;

/// What schedulers look at.
pub(crate) struct View<'a> {
    regions: &'a Regions,
    stores: &'a Stores,
    operators: &'a Operators,
    rests: &'a Rests,
    places: &'a Places,
    settings: &'a Settings,
    now: Now,
    /// Size of an average region.
    average_region: u64,
    scores: Scores,
    /// In the order of `scores`.
    members: Vec<Member>,
    /// Stores that do not take part, and why.
    absent: Vec<(StoreId, &'static str)>,
    /// Regions that this round decided about.
    taken: BTreeSet<RegionId>,
    relief: Relief,
}

/// What a round came to.
#[derive(Debug, Default)]
pub(crate) struct Round {
    pub proposals: Vec<Proposal>,
    pub refusals: Vec<Decision>,
}

type Scheduler = fn(&View, &Dial, &mut Dice) -> Result<Found, Box<Decision>>;

/// In the order of their priority.
const SCHEDULERS: [(Who, Scheduler); 4] = [
    (Who::HotWrite, hot::writes),
    (Who::HotRead, hot::reads),
    (Who::BalanceRegion, region::balance),
    (Who::BalanceLeader, leader::balance),
];

/// A move that was found, and what it shifts.
struct Found {
    region: RegionId,
    action: Action,
    shifts: Shifts,
    decision: Decision,
}

/// Asks all schedulers that are not paused.
pub(crate) fn round(
    view: &mut View,
    dial: &mut Dial,
    dice: &mut Dice,
    paused: impl Fn(Who) -> bool,
) -> Round {
    let mut round = Round::default();
    for (who, scheduler) in SCHEDULERS {
        if paused(who) {
            continue;
        }
        while round.proposals.len() < view.settings.balance.decisions_max {
            match scheduler(view, dial, dice) {
                Ok(found) => round.proposals.push(view.take(found, dial)),
                Err(refusal) => {
                    round.refusals.push(*refusal);
                    break;
                }
            }
        }
    }
    round
}

impl View<'_> {
    /// Who is being relieved after this round.
    pub fn into_relief(self) -> Relief {
        self.relief
    }

    /// How much of itself the average store uses.
    pub fn mean(&self, dimension: Dimension) -> f64 {
        self.scores.column(dimension).mean
    }

    /// How much of itself a store uses, if it takes part.
    pub fn used(&self, dimension: Dimension, store: StoreId) -> Option<f64> {
        let position = self.scores.position(store)?;
        Some(self.scores.column(dimension).used(position))
    }

    fn setting(&self) -> Setting {
        self.settings.balance.setting()
    }

    fn store(&self, position: usize) -> StoreId {
        self.scores.stores()[position]
    }

    /// Positions of the stores from the least to the most loaded.
    fn ascending(&self, dimension: Dimension) -> Vec<usize> {
        let column = self.scores.column(dimension);
        let mut order: Vec<_> = (0..self.members.len()).collect();
        order.sort_by(|a, b| column.used(*a).total_cmp(&column.used(*b)).then(a.cmp(b)));
        order
    }

    /// Some of the regions that a store leads, or of its others.
    fn drawn(&self, store: usize, led: bool, dice: &mut Dice) -> Vec<RegionId> {
        let Some(index) = self.regions.of_store(self.store(store)) else {
            return Vec::new();
        };
        let set = if led { &index.led } else { &index.followed };
        let mut drawn = Vec::with_capacity(REGIONS);
        for _ in 0..REGIONS {
            let region = draw(set, |range| dice.within(range));
            drawn.extend(region.filter(|region| !drawn.contains(region)));
        }
        drawn
    }

    /// A region of which this part may be moved now, or why not.
    fn movable(&self, id: RegionId, part: Part) -> Result<(&RegionInfo, Burden), &'static str> {
        let region = self.regions.get(id).ok_or("the region is not known")?;
        let burden = Burden::of(region);
        if region.leader.is_none() || region.term == 0 {
            Err("its leader did not report")
        } else if region.is_joint() || !self.places.counts_on_learners(region) {
            Err("its members change")
        } else if !region.pending.is_empty() || !region.down.is_empty() {
            Err("a peer lags or is down")
        } else if !region.damaged.is_empty() {
            Err("a peer is damaged")
        } else if self.taken.contains(&id) || self.operators.of_region(id).is_some() {
            Err("it has an operator")
        } else if self.operators.backs_off(id, self.now) {
            Err("its last operator failed")
        } else if self.rests.rests(id, part, &burden, self.now.monotonic) {
            Err("it was moved a moment ago")
        } else {
            Ok((region, burden))
        }
    }

    /// Whether the peer of a region on a store is one that may go: learners are where rules and checkers brought them.
    fn goes(&self, region: &RegionInfo, from: StoreId) -> Result<(), &'static str> {
        let votes = |peer: &metapb::Peer| peer.role() == metapb::PeerRole::Voter;
        let goes = region.peer_on(from).is_some_and(votes);
        goes.then_some(()).ok_or("its peer there does not vote")
    }

    /// Where the leader of a region stands.
    fn leader(&self, region: &RegionInfo) -> Option<usize> {
        let leader = region.leader.as_ref()?;
        self.scores.position(StoreId(leader.store_id))
    }

    /// Whether a store may take a peer of this size now.
    fn receives(&self, position: usize, bytes: u64, dial: &Dial) -> Result<(), &'static str> {
        self.receives_growing(position, bytes, bytes, dial)
    }

    /// Whether a store may take a peer of this size now, and has room for what it grows to.
    fn receives_growing(
        &self,
        position: usize,
        bytes: u64,
        grown: u64,
        dial: &Dial,
    ) -> Result<(), &'static str> {
        self.stays(position)?;
        self.holds(position, grown)?;
        if self.members[position].busy >= self.settings.store_operators_max {
            return Err("it has operators enough");
        }
        self.allows(position, Side::Receives, bytes, dial)
    }

    /// Whether a store has room for a peer of this size.
    fn holds(&self, position: usize, bytes: u64) -> Result<(), &'static str> {
        let member = &self.members[position];
        // Staged before it is taken in, with what is on its way.
        let needed = bytes.saturating_mul(2).saturating_add(member.receives);
        let full = member.available.is_some_and(|available| available < needed);
        (!full).then_some(()).ok_or("it has no room")
    }

    /// Whether a store is not about to stop.
    fn stays(&self, position: usize) -> Result<(), &'static str> {
        let stopping = self.stores.stopping(self.store(position));
        (!stopping).then_some(()).ok_or(STOPPING)
    }

    /// Whether a store may be handed the leadership of a region now.
    fn takes_over(
        &self,
        region: &RegionInfo,
        position: usize,
        dial: &Dial,
    ) -> Result<(), &'static str> {
        self.may_lead(region, self.store(position))?;
        self.stays(position)?;
        self.allows(position, Side::Receives, TRANSFER_BYTES, dial)
    }

    /// Whether the leader of a region may send a snapshot of it now.
    fn sends(&self, region: &RegionInfo, bytes: u64, dial: &Dial) -> Result<(), &'static str> {
        let position = self.leader(region).ok_or("its leader's store is not up")?;
        self.allows(position, Side::Sends, bytes, dial)
    }

    fn allows(
        &self,
        position: usize,
        side: Side,
        bytes: u64,
        dial: &Dial,
    ) -> Result<(), &'static str> {
        let member = &self.members[position];
        let under_way = match side {
            Side::Sends => member.sends,
            Side::Receives => member.receives,
        };
        let claim = Claim {
            store: self.store(position),
            side,
            purpose: Purpose::Balance,
            bytes,
        };
        dial.allows(claim, under_way, self.setting(), self.now.monotonic)
            .then_some(())
            .ok_or("rebalance_share leaves it no bytes now")
    }

    /// The voter that leads when the one on `from` goes, as [`crate::commands::move_steps`] picks it, or why there is none.
    fn heir(&self, region: &RegionInfo, from: StoreId) -> Result<StoreId, &'static str> {
        let heir = commands::heir(region, from, self.places, self.stores);
        let store = heir.map(|heir| StoreId(heir.store_id));
        if let Some(store) = store.filter(|store| self.scores.position(*store).is_some()) {
            return Ok(store);
        }
        let stops = |peer: &metapb::Peer| {
            let store = StoreId(peer.store_id);
            store != from && region.may_lead(peer.id) && self.stores.stopping(store)
        };
        if region.voters().any(stops) {
            Err("who could lead it then is on a store that is stopping")
        } else {
            Err("nobody else of it can lead")
        }
    }

    /// What is wrong with the places of a region now.
    fn violations(&self, region: &RegionInfo) -> Cost {
        self.places.cost(region, None, None)
    }

    /// What is wrong with them after a move, or why rules forbid it.
    fn after_move(
        &self,
        region: &RegionInfo,
        before: Cost,
        from: StoreId,
        to: StoreId,
    ) -> Result<Cost, &'static str> {
        let after = self.places.cost(region, Some(from), Some(to));
        let lacks = |cost: Cost| (cost.missing, cost.missing_voters, cost.roles);
        if lacks(after) > lacks(before) {
            Err("rules keep it away")
        } else if after > before {
            Err("replicas would share a place")
        } else {
            Ok(after)
        }
    }

    /// Whether rules let a store lead a region, as far as they let anybody.
    fn may_lead(&self, region: &RegionInfo, to: StoreId) -> Result<(), &'static str> {
        let leads = |leader: &metapb::Peer| self.places.may_lead(region, StoreId(leader.store_id));
        if self.places.may_lead(region, to) || !region.leader.as_ref().is_some_and(leads) {
            Ok(())
        } else {
            Err("rules want another to lead")
        }
    }

    /// Whether rules let a store lead a region that comes there with its leadership, as far as they let anybody.
    fn leads_well_moved(&self, region: &RegionInfo, from: StoreId, to: StoreId) -> bool {
        self.places.may_lead_moved(region, from, to) || !self.places.may_lead(region, from)
    }

    /// Counts a decision as done.
    fn take(&mut self, found: Found, dial: &mut Dial) -> Proposal {
        let Found {
            region: id,
            action,
            shifts,
            decision,
        } = found;
        self.scores.apply(&shifts);
        self.taken.insert(id);
        let region = self.regions.get(id).expect("a region that was judged");
        let bytes = Burden::of(region).size;
        let sender = self.leader(region);
        let (to, cost) = match action {
            Action::Move { to, .. } => (to, bytes),
            Action::Transfer { to } => (to, TRANSFER_BYTES),
        };
        let (setting, now) = (self.setting(), self.now.monotonic);
        let mut spend = |position: usize, side| {
            let claim = Claim {
                store: self.scores.stores()[position],
                side,
                purpose: Purpose::Balance,
                bytes: cost,
            };
            dial.take(claim, setting, now);
        };
        if let Some(position) = self.scores.position(to) {
            spend(position, Side::Receives);
            self.members[position].busy += 1;
            if matches!(action, Action::Move { .. }) {
                self.members[position].receives += bytes;
            }
        }
        if let (Some(position), Action::Move { .. }) = (sender, action) {
            spend(position, Side::Sends);
            self.members[position].sends += bytes;
        }
        Proposal {
            region: id,
            action,
            decision,
        }
    }

    /// What everyone who looks at a dimension rests on.
    fn explain(&self, decision: Decision, dimension: Dimension) -> Decision {
        let column = self.scores.column(dimension);
        // The dimension's name stands for its Φ.
        let mut decision = decision
            .input(dimension.name(), column.potential())
            .input("mean", column.mean)
            .input("hysteresis", column.hysteresis)
            .input("share", self.setting().share);
        let (from, to) = decision.stores;
        for (name, store) in [("from", from), ("to", to)] {
            if let Some(position) = store.and_then(|store| self.scores.position(store)) {
                decision = decision.input(name, column.used(position));
            }
        }
        decision
    }

    fn refuse(
        &self,
        who: Who,
        dimension: Dimension,
        ends: (usize, usize),
        reason: &'static str,
        considered: Considered,
    ) -> Box<Decision> {
        let (from, to) = (self.store(ends.0), self.store(ends.1));
        let refusal = Decision::refused(who, None, reason).between(Some(from), Some(to));
        Box::new(considered.tell(self.explain(refusal, dimension), self))
    }
}

/// The best move so far, and what else was looked at.
#[derive(Default)]
struct Best {
    /// Violations, and the fall below which it is better.
    rank: (Cost, f64),
    found: Option<(RegionId, Action, Shifts)>,
    considered: Considered,
    /// Why the last one that was looked at closely was not taken.
    obstacle: Option<&'static str>,
    /// The first store that something would have gone to, were it not stopping.
    stopping: Option<usize>,
}

/// Why nothing was found, and the store that it is about, if it is about one.
type Obstacle = (&'static str, Option<usize>);

impl Best {
    /// A move that may be made.
    fn offer(
        &mut self,
        violations: Cost,
        fall: f64,
        region: RegionId,
        action: Action,
        shifts: Shifts,
    ) {
        let rank = (violations, -fall);
        if self.found.is_none() || rank < self.rank {
            self.rank = rank;
            self.found = Some((region, action, shifts));
        }
    }

    /// Goes on with what was considered before.
    fn after(considered: Considered) -> Self {
        Self {
            considered,
            ..Self::default()
        }
    }

    fn consider(&mut self, store: StoreId, score: f64, verdict: &'static str) {
        self.considered.consider(store, score, verdict);
    }

    fn reject(&mut self, reason: &'static str) {
        self.obstacle = Some(reason);
    }

    /// Rejects a store that would be the right one but for this.
    fn reject_target(&mut self, target: usize, reason: &'static str) {
        if reason == STOPPING {
            self.stopping = self.stopping.or(Some(target));
        } else {
            self.reject(reason);
        }
    }

    /// What stood in the way. That a store is stopping ends by itself and is seen nowhere else, so it comes first.
    fn obstacle(&self) -> Option<Obstacle> {
        let stopping = self.stopping.map(|store| (STOPPING, Some(store)));
        stopping.or(self.obstacle.map(|reason| (reason, None)))
    }

    /// The decision, if there is a move.
    fn decide(&mut self, who: Who, view: &View, dimension: Dimension) -> Option<Found> {
        let (region, action, shifts) = self.found.take()?;
        let info = view.regions.get(region)?;
        let (from, to) = match action {
            Action::Move { from, to, .. } => (Some(from), to),
            Action::Transfer { to } => (
                info.leader.as_ref().map(|leader| StoreId(leader.store_id)),
                to,
            ),
        };
        let mut considered = std::mem::take(&mut self.considered);
        considered.choose(to, self.rank.1);
        let decision = Decision::refused(who, Some(region), "")
            .between(from, Some(to))
            .expect("fall", -self.rank.1)
            .input("region bytes", info.bytes as f64);
        Some(Found {
            region,
            action,
            shifts,
            decision: considered.tell(view.explain(decision, dimension), view),
        })
    }
}

#[cfg(test)]
mod tests;
