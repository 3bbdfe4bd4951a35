//! Even use of space: peers go from stores that are used most to stores that are used least.

use proto::RegionId;

use super::{Action, Best, CANDIDATES, Considered, ENDS, EVEN, Found, View};
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
    let (Some(low), Some(&high)) = (lowest(view, &order), order.last()) else {
        return Err(Box::new(Decision::refused(WHO, None, "no store is up")));
    };
    let column = view.scores.column(SIZE);
    // What one more move of an average region would not make better by enough.
    let even = |low: usize, high: usize| column.even(low, high, view.average_region as f64);
    if even(low, high) {
        let mut full = Considered::default();
        for &position in &order {
            if let Err(reason) = view.holds(position, view.average_region) {
                full.close(view.store(position), reason);
            }
        }
        return Err(view.refuse(WHO, SIZE, (high, low), EVEN, full));
    }
    let (targets, mut considered) = targets(view, &order, dial, dice);
    // What keeps the least used store empty, if something does.
    let closed = view.receives(low, view.average_region, dial).err();
    let Some(&first) = targets.first() else {
        let reason = closed.unwrap_or("no store can take a peer now");
        return Err(view.refuse(WHO, SIZE, (high, low), reason, considered));
    };
    let mut obstacle = None;
    // A store whose regions cannot go now does not hold the others up.
    let mut sources: Vec<_> = order.iter().rev().take(ENDS).copied().collect();
    let others = order.len() as u64 - 1;
    sources.extend((0..ENDS).map(|_| order[dice.within(0..=others) as usize]));
    for source in sources {
        if even(first, source) {
            continue;
        }
        let mut best = Best::after(considered);
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
        considered = best.considered;
    }
    // Others may be even: what keeps the least used store empty is the answer then.
    let (to, reason) = match (obstacle, closed) {
        (Some((obstacle, at)), _) => (at.unwrap_or(first), obstacle),
        (None, Some(closed)) => (low, closed),
        (None, None) => (first, "no region that was looked at can go"),
    };
    Err(view.refuse(WHO, SIZE, (high, to), reason, considered))
}

/// The store that one more region of average size fills least, of those with room for it if there are any: a small or full store
/// with nothing on it is not what the others are compared with.
fn lowest(view: &View, positions: &[usize]) -> Option<usize> {
    let column = view.scores.column(SIZE);
    let average = view.average_region;
    let fills = |position: usize| {
        let full = view.holds(position, average).is_err();
        (full, column.used_with(position, average as f64))
    };
    let filled = positions
        .iter()
        .map(|&position| (fills(position), position));
    let least = filled
        .min_by(|((full, used), _), ((other, more), _)| full.cmp(other).then(used.total_cmp(more)));
    least.map(|(_, position)| position)
}

/// The least used stores that can take a peer now, the one that a peer fills least first, and some of the others: the least
/// used may all be in one place. With those that are used less than most and can take none, and why.
fn targets(view: &View, order: &[usize], dial: &Dial, dice: &mut Dice) -> (Vec<usize>, Considered) {
    let column = view.scores.column(SIZE);
    let average = view.average_region;
    let (mut targets, mut considered) = (Vec::new(), Considered::default());
    let below = |position: &&usize| column.used(**position) < column.mean + column.hysteresis;
    for &position in order.iter().take_while(below) {
        match view.receives(position, average, dial) {
            Ok(()) => targets.push(position),
            Err(reason) => considered.close(view.store(position), reason),
        }
        if targets.len() == CANDIDATES * 3 / 4 {
            break;
        }
    }
    // The one that sources are compared with.
    let lowest = lowest(view, &targets);
    if let Some(at) = targets.iter().position(|target| Some(*target) == lowest) {
        targets.swap(0, at);
    }
    for _ in targets.len()..CANDIDATES {
        let drawn = order[dice.within(0..=order.len() as u64 - 1) as usize];
        if !targets.contains(&drawn) && view.receives(drawn, average, dial).is_ok() {
            targets.push(drawn);
        }
    }
    (targets, considered)
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
    if let Err(reason) = view.goes(region, from) {
        return best.reject(reason);
    }
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
