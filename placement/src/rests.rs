//! Regions that were moved a moment ago and rest (REGIONS §9): a move must show in the averages before the next.
//!
//! Replicas and leadership rest each for itself: a region that came to a new store may be led from there at once, or many
//! moves would leave leaders uneven for as long as a rest takes.
//!
//! A new placement leader finds in the records of operators who was moved, and when. How much work that region was then is in
//! no record: what its leader tells first is taken for it.

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
    /// Work when it was moved; twice as much ends the rest. `None` until its leader tells it to a new placement leader.
    work: Option<u64>,
}

/// Who rests.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rests {
    rests: BTreeMap<(RegionId, Part), Rest>,
    /// In the order in which they end; those of a region that was moved again are passed over.
    ends: VecDeque<(Duration, (RegionId, Part))>,
    /// Rests without work.
    unknown: usize,
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
        let work = Some(work(burden));
        self.insert((region, part), Rest { until, work });
    }

    /// Regions were moved under an earlier placement leader, and rest for so long from now on.
    pub fn resume(
        &mut self,
        moved: impl IntoIterator<Item = (RegionId, Part, Duration)>,
        now: Duration,
    ) {
        let mut left = BTreeMap::new();
        for (region, part, rest) in moved {
            let known = left.entry((region, part)).or_insert(rest);
            *known = rest.max(*known);
        }
        let mut rests: Vec<_> = left
            .into_iter()
            .filter(|(_, rest)| !rest.is_zero())
            .collect();
        rests.sort_by_key(|(key, rest)| (*rest, *key));
        for (key, rest) in rests {
            let until = now + rest;
            self.insert(key, Rest { until, work: None });
        }
    }

    /// The leader of a region told what it does.
    pub fn tell(&mut self, region: RegionId, burden: &Burden) {
        if self.unknown == 0 {
            return;
        }
        for part in [Part::Replicas, Part::Leadership] {
            if let Some(rest) = self.rests.get_mut(&(region, part))
                && rest.work.is_none()
            {
                rest.work = Some(work(burden));
                self.unknown -= 1;
            }
        }
    }

    fn insert(&mut self, key: (RegionId, Part), rest: Rest) {
        self.unknown += usize::from(rest.work.is_none());
        self.ends.push_back((rest.until, key));
        let before = self.rests.insert(key, rest);
        self.unknown -= usize::from(before.is_some_and(|before| before.work.is_none()));
    }

    /// Whether this part of a region is to be left alone.
    pub fn rests(&self, region: RegionId, part: Part, burden: &Burden, now: Duration) -> bool {
        self.rests.get(&(region, part)).is_some_and(|rest| {
            let doubled = |before: u64| work(burden) >= before.max(WORK_MIN).saturating_mul(2);
            now < rest.until && !rest.work.is_some_and(doubled)
        })
    }

    /// Forgets those that have ended.
    pub fn expire(&mut self, now: Duration) {
        while let Some((until, key)) = self.ends.front().copied()
            && until <= now
        {
            self.ends.pop_front();
            if self.rests.get(&key).is_some_and(|rest| rest.until <= now)
                && let Some(ended) = self.rests.remove(&key)
            {
                self.unknown -= usize::from(ended.work.is_none());
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

    /// A new placement leader lets those rest on that were moved under the one before, until their work doubles.
    #[test]
    fn rests_go_on_with_the_work_that_is_told_first() {
        let mut rests = Rests::default();
        let burden = |proposals| Burden {
            proposals,
            ..Burden::default()
        };
        let (region, part) = (RegionId(7), Part::Replicas);
        let moved = [
            (RegionId(8), part, at(400)),
            (region, part, at(100)),
            // Moved twice: the later counts, in whatever order they come.
            (region, part, at(300)),
            (region, part, at(200)),
            (RegionId(9), part, at(0)),
        ];
        rests.resume(moved, at(1000));
        assert_eq!(rests.len(), 2);
        let heavy = burden(1 << 30);
        assert!(rests.rests(region, part, &heavy, at(1299)), "not known");
        rests.tell(region, &burden(1 << 20));
        rests.tell(region, &burden(1 << 30));
        assert!(rests.rests(region, part, &burden(1 << 20), at(1299)));
        assert!(!rests.rests(region, part, &burden(2 << 20), at(1299)));
        rests.expire(at(1300));
        assert!(!rests.rests(region, part, &burden(1 << 20), at(1300)));
        assert!(rests.rests(RegionId(8), part, &heavy, at(1399)));
        assert_eq!(rests.unknown, 1);
        rests.expire(at(1400));
        assert_eq!((rests.len(), rests.unknown), (0, 0));
    }
}
