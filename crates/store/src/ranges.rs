//! Who owns or reserves which range of keys on this store (R17, REGIONS §2).
//!
//! One owner per key: regions whose peers own their range, ranges that a snapshot is about to replace, and ranges of dead
//! peers until their remains are gone.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use proto::RegionId;

use crate::keys;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Owned {
    end: Bytes,
    region: RegionId,
}

/// Disjoint ranges by start. A region may hold several.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ranges {
    by_start: BTreeMap<Bytes, Owned>,
}

impl Ranges {
    /// The regions that hold a part of `[start, end)`, in the order of their keys.
    pub fn overlapping<'a>(
        &'a self,
        start: &'a [u8],
        end: &'a [u8],
    ) -> impl Iterator<Item = RegionId> + 'a {
        let before = self
            .by_start
            .range::<[u8], _>((Bound::Unbounded, Bound::Excluded(start)))
            .next_back();
        let inside = self
            .by_start
            .range::<[u8], _>((Bound::Included(start), Bound::Unbounded));
        before
            .into_iter()
            .chain(inside)
            .skip_while(move |(from, owned)| !keys::overlap(start, end, from, &owned.end))
            .take_while(move |(from, owned)| keys::overlap(start, end, from, &owned.end))
            .map(|(_, owned)| owned.region)
    }

    /// Another region that holds a part of `[start, end)`.
    pub fn other(&self, start: &[u8], end: &[u8], region: RegionId) -> Option<RegionId> {
        self.overlapping(start, end)
            .find(|holder| *holder != region)
    }

    /// Gives a region exactly these ranges.
    ///
    /// # Errors
    /// The region that holds a part of one; nothing changes.
    pub fn set(
        &mut self,
        region: RegionId,
        old: &[(Bytes, Bytes)],
        new: &[(Bytes, Bytes)],
    ) -> Result<(), RegionId> {
        if let Some(other) = new
            .iter()
            .find_map(|(start, end)| self.other(start, end, region))
        {
            return Err(other);
        }
        for (start, _) in old {
            if self
                .by_start
                .get(start)
                .is_some_and(|owned| owned.region == region)
            {
                self.by_start.remove(start);
            }
        }
        for (start, end) in new {
            self.by_start.insert(
                start.clone(),
                Owned {
                    end: end.clone(),
                    region,
                },
            );
        }
        Ok(())
    }

    /// Every range with its holder, for checks.
    pub fn iter(&self) -> impl Iterator<Item = (&Bytes, &Bytes, RegionId)> {
        self.by_start
            .iter()
            .map(|(start, owned)| (start, &owned.end, owned.region))
    }
}

/// Disjoint ranges and one more, as few disjoint ones.
pub(crate) fn with(ranges: &[(Bytes, Bytes)], more: (Bytes, Bytes)) -> Vec<(Bytes, Bytes)> {
    let mut apart = Vec::new();
    let mut joined = more;
    for range in ranges {
        let mut both = union(joined, range.clone());
        joined = both.swap_remove(0);
        // What does not touch came back as it was.
        apart.extend(both);
    }
    apart.push(joined);
    apart
}

/// Two ranges as few disjoint ones.
pub(crate) fn union(first: (Bytes, Bytes), second: (Bytes, Bytes)) -> Vec<(Bytes, Bytes)> {
    let touch = keys::overlap(&first.0, &first.1, &second.0, &second.1)
        || (!first.1.is_empty() && first.1 == second.0)
        || (!second.1.is_empty() && second.1 == first.0);
    if !touch {
        return vec![first, second];
    }
    let end = if first.1.is_empty() || second.1.is_empty() {
        Bytes::new()
    } else {
        first.1.max(second.1)
    };
    vec![(first.0.min(second.0), end)]
}
