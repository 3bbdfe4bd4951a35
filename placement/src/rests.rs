//! Regions that were moved a moment ago and rest (REGIONS §9): a move must show in the averages before the next.
//!
//! Replicas and leadership rest each for itself: a region that came to a new store may be led from there at once, or many
//! moves would leave leaders uneven for as long as a rest takes.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use proto::RegionId;

use crate::score::Burden;

/// What of a region rests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    Replicas,
    Leadership,
}

#[derive(Clone, Copy, Debug)]
struct Rest {
    until: Duration,
    /// Work when it was moved; twice as much ends the rest.
    work: u64,
}

/// Who rests.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rests {
    rests: BTreeMap<(RegionId, Part), Rest>,
    /// In the order in which they end; those of a region that was moved again are passed over.
    ends: VecDeque<(Duration, (RegionId, Part))>,
}

/// Work below which a doubling means nothing.
const WORK_MIN: u64 = 64 << 10;

impl Rests {
    /// A region was moved, or its leadership.
    pub fn begin(
        &mut self,
        region: RegionId,
        part: Part,
        burden: &Burden,
        now: Duration,
        rest: Duration,
    ) {
        let until = now + rest;
        let work = work(burden);
        self.rests.insert((region, part), Rest { until, work });
        self.ends.push_back((until, (region, part)));
    }

    /// Whether this part of a region is to be left alone.
    pub fn rests(&self, region: RegionId, part: Part, burden: &Burden, now: Duration) -> bool {
        self.rests.get(&(region, part)).is_some_and(|rest| {
            now < rest.until && work(burden) < rest.work.max(WORK_MIN).saturating_mul(2)
        })
    }

    /// Forgets those that have ended.
    pub fn expire(&mut self, now: Duration) {
        while let Some((until, key)) = self.ends.front().copied()
            && until <= now
        {
            self.ends.pop_front();
            if self.rests.get(&key).is_some_and(|rest| rest.until <= now) {
                self.rests.remove(&key);
            }
        }
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.rests.len()
    }
}

fn work(burden: &Burden) -> u64 {
    burden.proposals.saturating_add(burden.reads)
}

#[cfg(test)]
mod tests {
    use super::*;

    const REST: Duration = Duration::from_secs(600);

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_region_rests_until_its_time_or_twice_its_load() {
        let mut rests = Rests::default();
        let burden = |proposals| Burden {
            proposals,
            ..Burden::default()
        };
        let region = RegionId(7);
        rests.begin(region, Part::Replicas, &burden(1 << 20), at(0), REST);
        assert!(rests.rests(region, Part::Replicas, &burden(1 << 20), at(599)));
        assert!(
            !rests.rests(region, Part::Leadership, &burden(1 << 20), at(1)),
            "its replicas moved, not its leadership"
        );
        assert!(
            !rests.rests(region, Part::Replicas, &burden(2 << 20), at(1)),
            "its load doubled"
        );
        assert!(!rests.rests(region, Part::Replicas, &burden(1 << 20), at(600)));
        assert!(!rests.rests(RegionId(8), Part::Replicas, &burden(0), at(1)));
        // Next to nothing, doubled, is next to nothing.
        rests.begin(RegionId(9), Part::Replicas, &burden(1), at(0), REST);
        assert!(rests.rests(RegionId(9), Part::Replicas, &burden(100), at(1)));
    }

    #[test]
    fn a_rest_that_began_again_is_not_forgotten_early() {
        let mut rests = Rests::default();
        let burden = Burden::default();
        rests.begin(RegionId(7), Part::Replicas, &burden, at(0), REST);
        rests.begin(RegionId(7), Part::Replicas, &burden, at(300), REST);
        rests.expire(at(600));
        assert!(rests.rests(RegionId(7), Part::Replicas, &burden, at(899)));
        rests.expire(at(900));
        assert_eq!(rests.len(), 0);
    }
}
