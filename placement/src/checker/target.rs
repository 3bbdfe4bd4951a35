//! Where a peer goes.

use proto::StoreId;

use super::{Checker, Refused};
use crate::decision::{Candidate, Decision, Outcome};
use crate::regions::RegionInfo;
use crate::rules::fit::Cost;
use crate::stores::STOPPING;

/// What a shared place weighs in the score of a candidate, against one peer.
pub(super) const PLACE: f64 = 1e6;

/// Why nothing is chosen now where something will be.
const WAITS: [&str; 3] = [
    "every store that may take it has operators enough",
    "every store that may take it is stopping",
    "every store that may take it is stopping or has operators enough",
];

/// Whether a store that was looked for will be found when operators end, or a store is back.
pub(super) fn waits(refused: &Decision) -> bool {
    matches!(&refused.outcome, Outcome::Refused { reason } if WAITS.contains(&&reason[..]))
}

/// What comes to a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Comes {
    /// A voter that rules miss.
    Voter,
    /// A learner that rules miss.
    Learner,
    /// The successor of a peer on this store.
    Successor(StoreId),
    /// The successor of a peer that no rule counts on, in the place of one that rules miss.
    Better(StoreId),
}

impl Comes {
    /// Whose place it takes.
    fn from(self) -> Option<StoreId> {
        match self {
            Self::Voter | Self::Learner => None,
            Self::Successor(from) | Self::Better(from) => Some(from),
        }
    }
}

impl Checker<'_> {
    /// The store that may take a peer of this region: where rules admit it, farthest from the others, then with the fewest
    /// peers, those on their way included.
    pub(super) fn target(
        &self,
        region: &RegionInfo,
        comes: Comes,
        decision: Decision,
    ) -> Result<(StoreId, Decision), Refused> {
        let mut candidates = Vec::new();
        let from = comes.from();
        let decision = decision.between(from, None);
        let mut best: Option<(Cost, usize, StoreId)> = None;
        let (mut waits, mut stops, mut kept_away) = (false, false, false);
        let before = self.places.cost(region, None, None);
        for store in self.stores.ids() {
            if self.stores.is_tombstone(store) {
                continue;
            }
            let busy = self.operators.busy(store);
            let load = self.regions.counts(store).0 as usize + busy;
            let verdict = self.could_hold(region, store).and_then(|()| {
                let after = self.after(region, comes, store);
                if !serves(comes, before, after) {
                    kept_away = true;
                    Err("rules keep it away")
                } else if self.stores.stopping(store) {
                    stops = true;
                    Err(STOPPING)
                } else if busy >= self.settings.store_operators_max {
                    waits = true;
                    Err("it has operators enough")
                } else {
                    Ok(after)
                }
            });
            if let Ok(after) = verdict
                && best.is_none_or(|best| (after, load, store) < best)
            {
                best = Some((after, load, store));
            }
            let score = |after: Cost| after.shared as f64 * PLACE + load as f64;
            candidates.push(Candidate {
                store,
                region: None,
                score: verdict.map_or(f64::INFINITY, score),
                verdict: verdict.err().unwrap_or("another is better").into(),
            });
        }
        let Some((_, _, to)) = best else {
            let reason = match (waits, stops) {
                (true, false) => WAITS[0],
                (false, true) => WAITS[1],
                (true, true) => WAITS[2],
                (false, false) if kept_away => "no store that rules admit may take it",
                (false, false) => "no store may take it",
            };
            let refused = Decision {
                outcome: Outcome::Refused {
                    reason: reason.into(),
                },
                ..decision.candidates(candidates)
            };
            return Err(Box::new(refused));
        };
        for candidate in &mut candidates {
            if candidate.store == to {
                candidate.verdict = "chosen".into();
            }
        }
        Ok((to, decision.between(from, Some(to)).candidates(candidates)))
    }

    fn after(&self, region: &RegionInfo, comes: Comes, to: StoreId) -> Cost {
        match comes {
            Comes::Voter => self.places.cost(region, None, Some(to)),
            Comes::Learner => self.places.cost_with_learner(region, to),
            Comes::Successor(from) | Comes::Better(from) => {
                self.places.cost(region, Some(from), Some(to))
            }
        }
    }
}

/// Whether it does what it comes for. Of several stores the one where fewer roles have to change is chosen.
fn serves(comes: Comes, before: Cost, after: Cost) -> bool {
    let lacks = |cost: Cost| (cost.missing, cost.missing_voters);
    match comes {
        Comes::Voter | Comes::Learner | Comes::Better(_) => lacks(after) < lacks(before),
        Comes::Successor(_) => lacks(after) <= lacks(before),
    }
}
