//! Even leadership: stores that lead most hand over, and stores that lead least are handed to.

use proto::{RegionId, StoreId, metapb};

use super::{Action, Best, Considered, ENDS, EVEN, Found, View};
use crate::decision::{Decision, Who};
use crate::dial::Dial;
use crate::dice::Dice;
use crate::rests::Part;
use crate::rules::fit::Cost;
use crate::score::{Dimension, Shifts};

const WHO: Who = Who::BalanceLeader;
const LEADERS: Dimension = Dimension::Leaders;

/// The best transfer for the number of leaders.
pub(super) fn balance(view: &View, dial: &Dial, dice: &mut Dice) -> Result<Found, Box<Decision>> {
    let order = view.ascending(LEADERS);
    let (Some(&low), Some(&high)) = (order.first(), order.last()) else {
        return Err(Box::new(Decision::refused(WHO, None, "no store is up")));
    };
    let column = view.scores.column(LEADERS);
    if column.even(low, high, 1.0) {
        let none = Considered::default();
        return Err(view.refuse(WHO, LEADERS, (high, low), EVEN, none));
    }
    let (mut obstacle, mut considered) = (None, Considered::default());
    // From the top down and from the bottom up in turns: the one extreme may have no regions in common with the other.
    for end in 0..ENDS.min(order.len()) {
        let (top, bottom) = (order[order.len() - 1 - end], order[end]);
        let mut best = Best::after(considered);
        for region in view.drawn(top, true, dice) {
            judge(view, dial, region, None, &mut best);
        }
        for region in view.drawn(bottom, false, dice) {
            judge(view, dial, region, Some(bottom), &mut best);
        }
        if let Some(found) = best.decide(WHO, view, LEADERS) {
            return Ok(found);
        }
        obstacle = obstacle.or(best.obstacle());
        considered = best.considered;
    }
    let none = "no region that was looked at can be led by another";
    let (reason, at) = obstacle.unwrap_or((none, None));
    let ends = (high, at.unwrap_or(low));
    Err(view.refuse(WHO, LEADERS, ends, reason, considered))
}

/// Judges a transfer to each other voter, or to the one on this store.
fn judge(view: &View, dial: &Dial, id: RegionId, only: Option<usize>, best: &mut Best) {
    let (region, burden) = match view.movable(id, Part::Leadership) {
        Ok(found) => found,
        Err(reason) => return best.reject(reason),
    };
    let Some(source) = view.leader(region) else {
        return best.reject("its leader's store is not up");
    };
    let votes = |peer: &&metapb::Peer| peer.role() == metapb::PeerRole::Voter;
    for peer in region.voters().filter(votes) {
        let to = StoreId(peer.store_id);
        let Some(target) = view.scores.position(to) else {
            continue;
        };
        if target == source || only.is_some_and(|only| only != target) {
            continue;
        }
        let shifts = Shifts::default().leader(&burden, source, target);
        let verdict = view.scores.judge(LEADERS, &shifts);
        if !verdict.accepted {
            best.consider(to, -verdict.fall, "the difference is within the hysteresis");
            best.reject("the difference is within the hysteresis");
        } else if let Err(reason) = view.takes_over(region, target, dial) {
            best.consider(to, f64::INFINITY, reason);
            best.reject_target(target, reason);
        } else {
            best.consider(to, -verdict.fall, "another is better");
            best.offer(
                Cost::default(),
                verdict.fall,
                id,
                Action::Transfer { to },
                shifts,
            );
        }
    }
}
