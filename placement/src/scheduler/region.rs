//! Even use of space: peers go from stores that are used most to stores that are used least.

use proto::RegionId;

use super::{Action, Best, CANDIDATES, ENDS, EVEN, Found, View};
use crate::commands;
use crate::decision::{Decision, Who};
use crate::dial::Dial;
use crate::dice::Dice;
use crate::rests::Part;
use crate::score::{Dimension, Shifts};

const WHO: Who = Who::BalanceRegion;
const SIZE: Dimension = Dimension::Size;

/// The best move of a peer for the use of space.
pub(super) fn balance(view: &View, dial: &Dial, dice: &mut Dice) -> Result<Found, Box<Decision>> {
    let order = view.ascending(SIZE);
    let (Some(&low), Some(&high)) = (order.first(), order.last()) else {
        return Err(Box::new(Decision::refused(WHO, None, "no store is up")));
    };
    let column = view.scores.column(SIZE);
    // What one more move of an average region would not make better by enough.
    let even = |low: usize, high: usize| column.even(low, high, view.average_region as f64);
    if even(low, high) {
        return Err(view.refuse(WHO, SIZE, (high, low), EVEN));
    }
    let targets = targets(view, &order, dial, dice);
    let Some(&lowest) = targets.first() else {
        let reason = view.stays(low).err();
        let reason = reason.unwrap_or("no store can take a peer now");
        return Err(view.refuse(WHO, SIZE, (high, low), reason));
    };
    let mut obstacle = None;
    // A store whose regions cannot go now does not hold the others up.
    let mut sources: Vec<_> = order.iter().rev().take(ENDS).copied().collect();
    let others = order.len() as u64 - 1;
    sources.extend((0..ENDS).map(|_| order[dice.within(0..=others) as usize]));
    for source in sources {
        if even(lowest, source) {
            continue;
        }
        let mut best = Best::default();
        // Those that it does not lead first: they move without a transfer of leadership.
        for led in [false, true] {
            if best.found.is_none() {
                for region in view.drawn(source, led, dice) {
                    judge(view, dial, source, &targets, region, &mut best);
                }
            }
        }
        if let Some(found) = best.decide(WHO, view, SIZE) {
            return Ok(found);
        }
        obstacle = obstacle.or(best.obstacle());
    }
    // Others may be even: what keeps the least used store empty is the answer then.
    let (to, reason) = match (obstacle, view.stays(low)) {
        (Some((obstacle, at)), _) => (at.unwrap_or(lowest), obstacle),
        (None, Err(stopping)) => (low, stopping),
        (None, Ok(())) => (lowest, "no region that was looked at can go"),
    };
    Err(view.refuse(WHO, SIZE, (high, to), reason))
}

/// The least used stores that can take a peer now, and some of the others: the least used may all be in one place.
fn targets(view: &View, order: &[usize], dial: &Dial, dice: &mut Dice) -> Vec<usize> {
    let least = view.scores.column(SIZE);
    let average = view.average_region;
    let takes = |position: &usize| view.receives(*position, average, dial).is_ok();
    let mean = least.mean;
    let mut targets: Vec<_> = order
        .iter()
        .copied()
        .take_while(|position| least.used(*position) < mean + least.hysteresis)
        .filter(takes)
        .take(CANDIDATES * 3 / 4)
        .collect();
    for _ in targets.len()..CANDIDATES {
        let drawn = order[dice.within(0..=order.len() as u64 - 1) as usize];
        if !targets.contains(&drawn) && takes(&drawn) {
            targets.push(drawn);
        }
    }
    targets
}

fn judge(
    view: &View,
    dial: &Dial,
    source: usize,
    targets: &[usize],
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
    let heir = if view.leader(region) == Some(source) {
        match view.heir(region, from) {
            Ok(heir) => Some(heir),
            Err(reason) => return best.reject(reason),
        }
    } else {
        None
    };
    let before = view.violations(region);
    for &target in targets {
        let to = view.store(target);
        if target == source || region.peer_on(to).is_some() {
            continue;
        }
        let mut shifts = Shifts::default().peer(&burden, source, target);
        let mut leads = false;
        if let Some(heir) = heir {
            leads = commands::leads_along(region, heir, from, to, view.places);
            let leader = if leads { to } else { heir };
            let leader = view.scores.position(leader).expect("both take part");
            shifts = shifts.leader(&burden, source, leader);
        }
        let verdict = view.scores.judge(SIZE, &shifts);
        if !verdict.accepted {
            best.consider(to, -verdict.fall, "the difference is within the hysteresis");
            best.reject("the difference is within the hysteresis");
            continue;
        }
        let after = match view.after_move(region, before, from, to) {
            Ok(after) => after,
            Err(reason) => {
                best.consider(to, f64::INFINITY, reason);
                best.reject(reason);
                continue;
            }
        };
        if let Err(reason) = view.receives(target, burden.size, dial) {
            best.consider(to, f64::INFINITY, reason);
            best.reject_target(target, reason);
            continue;
        }
        best.consider(to, -verdict.fall, "another is better");
        let action = Action::Move { from, to, leads };
        best.offer(after, verdict.fall, id, action, shifts);
    }
}
