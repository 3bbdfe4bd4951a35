//! Even load: the hottest store is relieved of a hot region, by a transfer of leadership if that is enough, else by a move.
//!
//! Nothing here splits a region that is too hot for any store: its leader does that by itself, since only it knows keys
//! (REGIONS §4). Its pieces are then moved like any others.

use proto::{RegionId, StoreId, metapb};

use super::{Action, Best, CANDIDATES, Considered, ENDS, EVEN, Found, View};
use crate::decision::{Decision, Who};
use crate::dial::Dial;
use crate::dice::Dice;
use crate::regions::RegionInfo;
use crate::regions::index::StoreIndex;
use crate::rests::Part;
use crate::rules::fit::Cost;
use crate::score::{Burden, Dimension, Shifts};

/// Hot regions of a store that a decision looks at.
const HOTTEST: usize = 16;

/// Kinds of load.
pub(super) const DIMENSIONS: [Dimension; 4] = [
    Dimension::Proposals,
    Dimension::WrittenBytes,
    Dimension::WrittenKeys,
    Dimension::Reads,
];

struct Hot {
    who: Who,
    /// What makes a store hot, in the order in which it is helped.
    dimensions: &'static [Dimension],
    regions: fn(&StoreIndex) -> Vec<RegionId>,
}

/// The best move for the load of writes.
pub(super) fn writes(view: &View, dial: &Dial, _: &mut Dice) -> Result<Found, Box<Decision>> {
    let hot = Hot {
        who: Who::HotWrite,
        dimensions: &[
            Dimension::Proposals,
            Dimension::WrittenBytes,
            Dimension::WrittenKeys,
        ],
        regions: |index| index.hot_writes().take(HOTTEST).collect(),
    };
    hot.find(view, dial)
}

/// The best move for the load of reads.
pub(super) fn reads(view: &View, dial: &Dial, _: &mut Dice) -> Result<Found, Box<Decision>> {
    let hot = Hot {
        who: Who::HotRead,
        dimensions: &[Dimension::Reads],
        regions: |index| index.hot_reads().take(HOTTEST).collect(),
    };
    hot.find(view, dial)
}

impl Hot {
    fn find(&self, view: &View, dial: &Dial) -> Result<Found, Box<Decision>> {
        let mut refusal = None;
        for &dimension in self.dimensions {
            let order = view.ascending(dimension);
            let (Some(&low), Some(&high)) = (order.first(), order.last()) else {
                return Err(Box::new(Decision::refused(
                    self.who,
                    None,
                    "no store is up",
                )));
            };
            let column = view.scores.column(dimension);
            let stands_out =
                |store: &&usize| column.used(**store) - column.mean > column.hysteresis;
            let (mut obstacle, mut considered) = (None, Considered::default());
            // The hottest may have nothing that helps, and the next is hot as well.
            for &source in order.iter().rev().take(ENDS).take_while(stands_out) {
                let mut best = Best::after(considered);
                self.judge_store(view, dial, source, &order, &mut best);
                if let Some(found) = best.decide(self.who, view, dimension) {
                    return Ok(found);
                }
                let cold = ("none of its regions is hot", None);
                obstacle = obstacle.or(best.obstacle().or(Some(cold)));
                considered = best.considered;
            }
            // Of several dimensions, what stands out is the answer.
            if refusal.is_none() || obstacle.is_some() {
                let (reason, at) = obstacle.unwrap_or((EVEN, None));
                let ends = (high, at.unwrap_or(low));
                refusal = Some(view.refuse(self.who, dimension, ends, reason, considered));
            }
        }
        Err(refusal.expect("there is a dimension"))
    }

    /// Leaders first, then peers.
    fn judge_store(
        &self,
        view: &View,
        dial: &Dial,
        source: usize,
        order: &[usize],
        best: &mut Best,
    ) {
        let index = view.regions.of_store(view.store(source));
        let regions = index.map(self.regions).unwrap_or_default();
        for &region in &regions {
            self.judge_transfers(view, dial, source, region, best);
        }
        if best.found.is_none() {
            for &region in &regions {
                self.judge_moves(view, dial, source, order, region, best);
            }
        }
    }

    fn judge_transfers(
        &self,
        view: &View,
        dial: &Dial,
        source: usize,
        id: RegionId,
        best: &mut Best,
    ) {
        let (region, burden) = match view.movable(id, Part::Leadership) {
            Ok(found) => found,
            Err(reason) => return best.reject(reason),
        };
        if view.leader(region) != Some(source) {
            return;
        }
        let votes = |peer: &&metapb::Peer| peer.role() == metapb::PeerRole::Voter;
        for peer in region.voters().filter(votes) {
            let to = StoreId(peer.store_id);
            let Some(target) = view.scores.position(to).filter(|to| *to != source) else {
                continue;
            };
            let shifts = Shifts::default().leader(&burden, source, target);
            let allowed = view.takes_over(region, target, dial);
            let allowed = allowed.map(|()| Cost::default());
            let action = Action::Transfer { to };
            self.offer(view, region, action, shifts, allowed, best);
        }
    }

    fn judge_moves(
        &self,
        view: &View,
        dial: &Dial,
        source: usize,
        order: &[usize],
        id: RegionId,
        best: &mut Best,
    ) {
        let (region, burden) = match view.movable(id, Part::Replicas) {
            Ok(found) => found,
            Err(reason) => return best.reject(reason),
        };
        if let Err(reason) = view.sends(region, burden.size, dial) {
            return best.reject(reason);
        }
        let from = view.store(source);
        if let Err(reason) = view.goes(region, from) {
            return best.reject(reason);
        }
        let leads = view.leader(region) == Some(source);
        let before = view.violations(region);
        for &target in order.iter().take(CANDIDATES) {
            let to = view.store(target);
            if target == source || region.peer_on(to).is_some() {
                continue;
            }
            let shifts = moved(&burden, source, target, leads);
            let allowed = view.after_move(region, before, from, to).and_then(|after| {
                view.receives(target, burden.size, dial)?;
                let right = !leads || view.leads_well_moved(region, from, to);
                right.then_some(after).ok_or("rules want another to lead")
            });
            let action = Action::Move { from, to, leads };
            self.offer(view, region, action, shifts, allowed, best);
        }
    }

    fn offer(
        &self,
        view: &View,
        region: &RegionInfo,
        action: Action,
        shifts: Shifts,
        allowed: Result<Cost, &'static str>,
        best: &mut Best,
    ) {
        let to = match action {
            Action::Move { to, .. } | Action::Transfer { to } => to,
        };
        let verdict = view.scores.judge_hot(self.dimensions, &shifts);
        if !verdict.accepted {
            let reason = "it would be as hot, or another kind of load would suffer";
            best.consider(to, -verdict.fall, reason);
            best.reject(reason);
            return;
        }
        match allowed {
            Err(reason) => {
                best.consider(to, f64::INFINITY, reason);
                if let Some(target) = view.scores.position(to) {
                    best.reject_target(target, reason);
                }
            }
            Ok(violations) => {
                best.consider(to, -verdict.fall, "another is better");
                best.offer(violations, verdict.fall, region.id(), action, shifts);
            }
        }
    }
}

/// A hot region takes its leadership along.
fn moved(burden: &Burden, source: usize, target: usize, leads: bool) -> Shifts {
    let shifts = Shifts::default().peer(burden, source, target);
    if leads {
        shifts.leader(burden, source, target)
    } else {
        shifts
    }
}
