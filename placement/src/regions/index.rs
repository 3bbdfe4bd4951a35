//! Which regions a store has, what they burden it with, and which of them are hot: kept with every report, so that no
//! decision looks at all regions.

use std::collections::BTreeSet;
use std::ops::{Bound, RangeInclusive};

use proto::{RegionId, StoreId};

use super::RegionInfo;
use crate::score::Burden;

/// Work per second below which a region is not hot.
const HOT_MIN: u64 = 16 << 10;

/// What the regions of a store add up to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sums {
    pub peers: u32,
    pub leaders: u32,
    pub size: u64,
    pub written_bytes: u64,
    pub written_keys: u64,
    pub proposals: u64,
    pub reads: u64,
}

/// The regions of one store.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct StoreIndex {
    pub sums: Sums,
    /// Those it leads.
    pub led: BTreeSet<RegionId>,
    /// Those it has another peer of.
    pub followed: BTreeSet<RegionId>,
    /// Those it has a peer of and much is written to, by how much.
    hot_writes: BTreeSet<(u16, RegionId)>,
    /// Those it leads and much is read from.
    hot_reads: BTreeSet<(u16, RegionId)>,
}

impl StoreIndex {
    /// A peer of a region came, or goes (`add` is false) exactly as it came.
    pub fn change(&mut self, region: &RegionInfo, leads: bool, add: bool) {
        let id = region.id();
        let burden = Burden::of(region);
        let sums = &mut self.sums;
        count(&mut sums.peers, 1, add);
        sum(&mut sums.size, burden.size, add);
        sum(&mut sums.written_bytes, burden.written_bytes, add);
        sum(&mut sums.written_keys, burden.written_keys, add);
        let level = level(burden.proposals);
        put(&mut self.hot_writes, (level, id), add && level > 0);
        if leads {
            count(&mut sums.leaders, 1, add);
            sum(&mut sums.proposals, burden.proposals, add);
            sum(&mut sums.reads, burden.reads, add);
            put(&mut self.led, id, add);
            let level = self::level(burden.reads);
            put(&mut self.hot_reads, (level, id), add && level > 0);
        } else {
            put(&mut self.followed, id, add);
        }
    }

    /// Regions to which most is written, hottest first.
    pub fn hot_writes(&self) -> impl Iterator<Item = RegionId> {
        self.hot_writes.iter().rev().map(|(_, id)| *id)
    }

    /// Regions from which most is read, hottest first.
    pub fn hot_reads(&self) -> impl Iterator<Item = RegionId> {
        self.hot_reads.iter().rev().map(|(_, id)| *id)
    }
}

/// A region at or after a drawn position; ids are given out in order, so gaps are small.
pub(crate) fn draw(
    regions: &BTreeSet<RegionId>,
    draw: impl FnOnce(RangeInclusive<u64>) -> u64,
) -> Option<RegionId> {
    let (first, last) = (regions.first()?, regions.last()?);
    let from = RegionId(draw(first.0..=last.0));
    let range = (Bound::Included(from), Bound::Unbounded);
    regions.range(range).next().or(Some(last)).copied()
}

/// The store that leads a region, as far as known.
pub(crate) fn leader_store(region: &RegionInfo) -> Option<StoreId> {
    region
        .leader
        .as_ref()
        .map(|leader| StoreId(leader.store_id))
}

/// Work in eighths of an octave, so that a region that hardly changes stays where it is; 0 is not hot.
fn level(work: u64) -> u16 {
    if work < HOT_MIN {
        return 0;
    }
    let octave = work.ilog2();
    (octave * 8 + ((work >> (octave - 3)) as u32 & 7)) as u16
}

fn put<T: Ord>(set: &mut BTreeSet<T>, item: T, add: bool) {
    if add {
        set.insert(item);
    } else {
        set.remove(&item);
    }
}

fn count(total: &mut u32, one: u32, add: bool) {
    *total = if add { *total + one } else { *total - one };
}

/// Wraps, as it is exact that way round whatever is told.
fn sum(total: &mut u64, amount: u64, add: bool) {
    *total = if add {
        total.wrapping_add(amount)
    } else {
        total.wrapping_sub(amount)
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_grow_with_work_and_stand_still_for_little() {
        assert_eq!(level(HOT_MIN - 1), 0);
        let mut last = 0;
        for work in (HOT_MIN..HOT_MIN * 64).step_by(512) {
            assert!(level(work) >= last);
            last = level(work);
        }
        assert_eq!(level(100_000), level(101_000));
        assert!(level(u64::MAX) > level(u64::MAX / 2));
    }

    #[test]
    fn every_region_can_be_drawn() {
        let regions: BTreeSet<_> = [3, 5, 9].map(RegionId).into();
        let mut drawn = BTreeSet::new();
        for position in 3..=9 {
            drawn.extend(draw(&regions, |_| position));
        }
        assert_eq!(drawn, regions);
        assert_eq!(draw(&BTreeSet::new(), |_| 0), None);
    }
}
