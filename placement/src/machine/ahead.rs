//! Children that are split off ahead of appends go to the least loaded stores before they are filled (REGIONS §4, §9).
//!
//! The leader of a region says that it splits; its child is whoever begins where that region ends, once both are seen at the
//! version that the split gave them, whichever of them tells first. A split by another command at the same epoch looks
//! the same, and does no harm: a piece that is nearly empty may go where there is room.
//!
//! All of it is soft: a new placement leader knows of no splits before it, and what they left is balance's.

use std::collections::VecDeque;
use std::time::Duration;

use proto::RegionId;

use super::Leader;
use crate::decision::{Decision, Outcome, Who, Word};
use crate::dial::Purpose;
use crate::event::{Now, Refusal};
use crate::operator::{Epoch, Kind, Priority};
use crate::operators::Plan;
use crate::regions::{RegionInfo, Regions};
use crate::scheduler::{Relief, Spread, Stays, View, spread};

/// For how long a split is remembered: a child that is filled sooner is none to move, and after that balance sees what it has.
const REMEMBERED: Duration = Duration::from_secs(60);
/// A child counts as full for so long after it was decided about. Its parent would have been full within a minute, from half.
const GROWS: Duration = Duration::from_secs(120);
/// What hindered a decision is looked at again after this.
const AGAIN: Duration = Duration::from_secs(1);
/// Splits that are remembered; beyond it the oldest go.
const SPLITS_MAX: usize = 1024;
/// A child with more than this part of a full region is not nearly empty. Counts by buckets, which estimate what lies above the
/// key of a split, are as coarse.
const NEARLY_EMPTY: u64 = 16;

/// A split ahead of appends.
#[derive(Clone, Debug)]
struct Split {
    parent: RegionId,
    /// That its pieces have.
    version: u64,
    /// Once both pieces are in the view.
    child: Option<RegionId>,
    decided: bool,
    /// What hindered the decision, as told last.
    told: Option<Word>,
    /// When the decision is due.
    due: Duration,
    /// When it is forgotten.
    until: Duration,
}

/// Splits whose children are to be placed, or are being filled.
#[derive(Debug, Default)]
pub(super) struct Ahead(VecDeque<Split>);

impl Ahead {
    /// The leader of a region splits it at this epoch, ahead of appends.
    pub fn remember(&mut self, parent: RegionId, epoch: Epoch, now: Duration) {
        self.forget(parent);
        if self.0.len() == SPLITS_MAX {
            self.0.pop_front();
        }
        self.0.push_back(Split {
            parent,
            version: epoch.version.saturating_add(1),
            child: None,
            decided: false,
            told: None,
            due: now,
            until: now + REMEMBERED,
        });
    }

    /// A region is split anew: what was known of it as a parent or a child is over.
    pub fn forget(&mut self, region: RegionId) {
        self.0
            .retain(|split| split.parent != region && split.child != Some(region));
    }

    fn expire(&mut self, now: Duration) {
        self.0.retain(|split| now < split.until);
    }

    /// Finds children that came into the view.
    fn find(&mut self, regions: &Regions) {
        for split in &mut self.0 {
            if split.child.is_none() {
                split.child = child(split.parent, split.version, regions);
            }
        }
    }

    /// Children that are to be decided about now, with the version of their birth.
    fn due(&self, now: Duration) -> Vec<(RegionId, u64)> {
        let due = self.0.iter();
        let due = due.filter(|split| !split.decided && split.due <= now);
        due.filter_map(|split| Some((split.child?, split.version)))
            .collect()
    }

    /// Children that are being filled, or will be.
    fn growing(&self) -> impl Iterator<Item = RegionId> {
        self.0.iter().filter_map(|split| split.child)
    }

    fn of_child(&mut self, child: RegionId) -> Option<&mut Split> {
        self.0.iter_mut().find(|split| split.child == Some(child))
    }

    /// It is settled where a child is.
    fn settle(&mut self, child: RegionId, now: Duration) {
        if let Some(split) = self.of_child(child) {
            split.decided = true;
            split.until = now + GROWS;
        }
    }

    /// Nothing could be decided about a child now. Returns whether the reason is another one than before.
    fn put_off(&mut self, child: RegionId, reason: &Word, now: Duration) -> bool {
        let Some(split) = self.of_child(child) else {
            return false;
        };
        split.due = now + AGAIN;
        split.told.replace(reason.clone()).as_ref() != Some(reason)
    }
}

/// The right piece of a split.
fn child(parent: RegionId, version: u64, regions: &Regions) -> Option<RegionId> {
    let of_split = |region: &&RegionInfo| region.epoch().version == version;
    let left = regions.get(parent).filter(of_split)?;
    let end = &left.region.end_key;
    let right = regions.by_key(end).filter(of_split)?;
    (!end.is_empty() && right.region.start_key == *end).then_some(right.id())
}

impl Leader {
    /// Places children that can be placed now.
    pub(super) fn place_ahead(&mut self, now: Now) {
        self.ahead.expire(now.monotonic);
        self.ahead.find(&self.regions);
        if !self.balancer.has_begun() || self.is_paused(Who::AppendAhead, now) {
            return;
        }
        for (child, version) in self.ahead.due(now.monotonic) {
            self.place_child(child, version, now);
        }
    }

    fn place_child(&mut self, child: RegionId, version: u64, now: Now) {
        let Some(region) = self.regions.get(child) else {
            return;
        };
        if region.epoch().version != version || !self.is_calm(region, now) {
            return;
        }
        let region = region.clone();
        let full = self.settings.merge.full_bytes();
        if region.bytes > full / NEARLY_EMPTY {
            self.ahead.settle(child, now.monotonic);
            let reason = "it is not empty any more";
            let refusal = Decision::refused(Who::AppendAhead, Some(child), reason)
                .input("region bytes", region.bytes as f64)
                .input("bytes of a full region", full as f64);
            return self.decided(refusal, String::new(), now);
        }
        match self.choose_ahead(&region, full, now) {
            Ok(found) => self.begin_ahead(&region, found, now),
            Err(stays) => self.refuse_ahead(child, *stays, now),
        }
    }

    /// Where a child goes when every one that is being filled counts as full.
    fn choose_ahead(&self, region: &RegionInfo, full: u64, now: Now) -> Result<Spread, Box<Stays>> {
        let mut view = View::new(
            &self.regions,
            &self.stores,
            &self.operators,
            &self.balancer.rests,
            Relief::new(),
            &self.places,
            &self.settings,
            now,
        );
        for child in self.ahead.growing() {
            let Some(known) = self.regions.get(child) else {
                continue;
            };
            match self.operators.moving(child) {
                Some(operator) => view.grow(&operator.outcome(known, |_| false), full),
                None => view.grow(known, full),
            }
        }
        spread(&mut view, self.balancer.dial(), region, full)
    }

    fn begin_ahead(&mut self, region: &RegionInfo, found: Spread, now: Now) {
        let cause = format!(
            "{}: it goes where there is room before it is filled",
            Who::AppendAhead
        );
        let plan = self.plan_ahead(region, &found, cause.clone());
        match plan.and_then(|plan| self.start(region, plan, now)) {
            Ok(operator) => {
                for (_, to) in &found.moves {
                    self.sends(region, *to, Purpose::Balance, now);
                }
                self.ahead.settle(region.id(), now.monotonic);
                let decision = Decision {
                    outcome: Outcome::Created { operator },
                    ..found.decision
                };
                self.decided(decision, cause, now);
            }
            Err(_) => {
                let refusal = Decision {
                    outcome: Outcome::Refused {
                        reason: "too much is under way".into(),
                    },
                    ..found.decision
                };
                let settled = false;
                self.refuse_ahead(region.id(), Stays { refusal, settled }, now);
            }
        }
    }

    fn plan_ahead(
        &mut self,
        region: &RegionInfo,
        found: &Spread,
        cause: String,
    ) -> Result<Plan, Refusal> {
        Ok(Plan {
            kind: Kind::Scatter,
            priority: Priority::Balance,
            steps: self.spread_steps(region, &found.moves, found.leader)?,
            cause,
        })
    }

    /// A child stays where it is: for good, or until what hinders it is over.
    fn refuse_ahead(&mut self, child: RegionId, stays: Stays, now: Now) {
        let Outcome::Refused { reason } = &stays.refusal.outcome else {
            return;
        };
        let news = self.ahead.put_off(child, reason, now.monotonic);
        if stays.settled {
            self.ahead.settle(child, now.monotonic);
        }
        if news {
            self.decided(stays.refusal, String::new(), now);
        }
    }
}

#[cfg(test)]
mod tests {
    use proto::metapb;

    use super::*;

    fn split(count: u64) -> Ahead {
        let mut ahead = Ahead::default();
        for region in 0..count {
            ahead.remember(RegionId(region), Epoch::default(), Duration::ZERO);
        }
        ahead
    }

    /// What lies to the right is the child only if the split that was told of made it.
    #[test]
    fn a_child_has_the_version_of_its_split() {
        let region = |id, (start, end): (&'static str, &'static str), version| RegionInfo {
            region: metapb::Region {
                id,
                start_key: start.into(),
                end_key: end.into(),
                region_epoch: Some(metapb::RegionEpoch {
                    conf_ver: 1,
                    version,
                }),
                peers: vec![metapb::Peer::default()],
                ..Default::default()
            },
            ..RegionInfo::default()
        };
        let found = |left, right| {
            let mut regions = Regions::default();
            for told in [region(1, ("", "m"), left), region(2, ("m", ""), right)] {
                regions.report(told).expect("it is new");
            }
            child(RegionId(1), 4, &regions)
        };
        assert_eq!(found(4, 4), Some(RegionId(2)));
        assert_eq!(found(4, 3), None, "an old neighbour");
        assert_eq!(found(4, 5), None, "split again, or merged");
        assert_eq!(found(3, 4), None, "the parent is not split yet");
        assert_eq!(child(RegionId(2), 4, &Regions::default()), None);
    }

    #[test]
    fn splits_are_bounded_and_forgotten() {
        let mut ahead = split(SPLITS_MAX as u64 + 5);
        assert_eq!(ahead.0.len(), SPLITS_MAX);
        assert_eq!(ahead.0[0].parent, RegionId(5), "the oldest go");
        ahead.remember(RegionId(7), Epoch::default(), Duration::from_secs(1));
        assert_eq!(ahead.0.len(), SPLITS_MAX, "one of each region");
        ahead.expire(REMEMBERED);
        assert_eq!(ahead.0.len(), 1);
        ahead.expire(REMEMBERED + Duration::from_secs(1));
        assert!(ahead.0.is_empty());
    }
}
