//! Reads: single keys, and views with their scans.

use std::ops::Bound;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use rocksdb::{DBPinnableSlice, ReadOptions};

use super::handles::{Database, OwnedSnapshot};
use super::options::LOG_PREFIX_BYTES;
use super::{Shared, convert_read};
use crate::lost::{Each, LostRanges};
use crate::{Direction, Error, Family, View};

/// The value of a key.
pub(super) fn get(
    database: &Database,
    lost: &LostRanges,
    family: Family,
    key: &[u8],
    options: &ReadOptions,
) -> Result<Option<Bytes>, Error> {
    check(lost, family, key)?;
    copied(
        database
            .db
            .get_pinned_cf_opt(database.family(family), key, options),
    )
}

/// Fails if a key is lost.
pub(super) fn check(lost: &LostRanges, family: Family, key: &[u8]) -> Result<(), Error> {
    match family {
        Family::Log => Ok(()),
        Family::State => lost.check(key),
    }
}

/// Copies a value out of the block that RocksDB pinned, once. Handing the block out would keep it in the cache for as
/// long as a slow client reads its answer.
pub(super) fn copied(
    found: Result<Option<DBPinnableSlice<'_>>, rocksdb::Error>,
) -> Result<Option<Bytes>, Error> {
    let found = found.map_err(|source| convert_read("get", source))?;
    Ok(found.map(|value| Bytes::copy_from_slice(&value)))
}

/// A view of a `RocksEngine`. It keeps the engine open, and old versions of changed keys on disk: do not hoard it.
pub struct RocksView {
    snapshot: OwnedSnapshot<Shared>,
    /// As of before the snapshot, which may be of before a range was cleared.
    lost: Arc<LostRanges>,
}

impl RocksView {
    pub(super) fn new(shared: &Arc<Shared>) -> RocksView {
        let _not_while_files_are_dropped =
            shared.views.read().unwrap_or_else(PoisonError::into_inner);
        shared.views_live.fetch_add(1, Ordering::AcqRel);
        RocksView {
            lost: shared.lost(),
            snapshot: OwnedSnapshot::new(shared),
        }
    }

    /// Like [`View::scan`]; `fill_cache` says whether blocks that are read stay in the cache.
    pub(super) fn scan_with(
        &self,
        family: Family,
        lower: Bound<&[u8]>,
        upper: Bound<&[u8]>,
        direction: Direction,
        fill_cache: bool,
        each: Each<'_>,
    ) -> Result<(), Error> {
        let scan = |lower: Bound<&[u8]>, upper: Bound<&[u8]>, each: Each<'_>| {
            self.scan_sound(family, lower, upper, direction, fill_cache, each)
        };
        match family {
            Family::Log => scan(lower, upper, each),
            Family::State => self.lost.scan(lower, upper, direction, each, scan),
        }
    }

    fn scan_sound(
        &self,
        family: Family,
        lower: Bound<&[u8]>,
        upper: Bound<&[u8]>,
        direction: Direction,
        fill_cache: bool,
        each: Each<'_>,
    ) -> Result<(), Error> {
        let lower = first_within(lower);
        let upper = first_beyond(upper);
        if let (lower, Some(upper)) = (lower.as_deref().unwrap_or_default(), &upper)
            && *lower >= **upper
        {
            return Ok(());
        }
        let mut options = ReadOptions::default();
        self.snapshot.bind(&mut options);
        options.fill_cache(fill_cache);
        let within_prefix = family == Family::Log
            && direction == Direction::Forward
            && share_prefix(lower.as_deref(), upper.as_deref());
        if within_prefix {
            options.set_prefix_same_as_start(true);
        } else {
            // Without this the filters of `log` would hide keys of other prefixes.
            options.set_total_order_seek(true);
        }
        if let Some(upper) = upper {
            options.set_iterate_upper_bound(upper);
        }
        if let Some(lower) = &lower {
            options.set_iterate_lower_bound(lower.as_slice());
        }
        let database = self.snapshot.database();
        let mut iterator = database
            .db
            .raw_iterator_cf_opt(database.family(family), options);
        match (direction, &lower) {
            (Direction::Forward, Some(lower)) => iterator.seek(lower),
            (Direction::Forward, None) => iterator.seek_to_first(),
            (Direction::Backward, _) => iterator.seek_to_last(),
        }
        while let Some((key, value)) = iterator.item() {
            if !each(key, value) {
                return Ok(());
            }
            match direction {
                Direction::Forward => iterator.next(),
                Direction::Backward => iterator.prev(),
            }
        }
        iterator
            .status()
            .map_err(|source| convert_read("scan", source))
    }
}

impl Drop for RocksView {
    fn drop(&mut self) {
        self.snapshot
            .owner()
            .views_live
            .fetch_sub(1, Ordering::AcqRel);
    }
}

impl View for RocksView {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, Error> {
        get(
            self.snapshot.database(),
            &self.lost,
            family,
            key,
            self.snapshot.point_options(),
        )
    }

    fn scan(
        &self,
        family: Family,
        lower: Bound<&[u8]>,
        upper: Bound<&[u8]>,
        direction: Direction,
        each: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), Error> {
        self.scan_with(family, lower, upper, direction, true, each)
    }

    fn scan_once(
        &self,
        family: Family,
        lower: Bound<&[u8]>,
        upper: Bound<&[u8]>,
        direction: Direction,
        each: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), Error> {
        self.scan_with(family, lower, upper, direction, false, each)
    }
}

/// The first key within a lower bound; `None` for the first of all.
fn first_within(lower: Bound<&[u8]>) -> Option<Vec<u8>> {
    match lower {
        Bound::Included(key) => Some(key.to_vec()),
        Bound::Excluded(key) => Some(successor(key)),
        Bound::Unbounded => None,
    }
}

/// The first key beyond an upper bound; `None` when there is none.
fn first_beyond(upper: Bound<&[u8]>) -> Option<Vec<u8>> {
    match upper {
        Bound::Included(key) => Some(successor(key)),
        Bound::Excluded(key) => Some(key.to_vec()),
        Bound::Unbounded => None,
    }
}

/// The next byte string in order.
fn successor(key: &[u8]) -> Vec<u8> {
    let mut next = Vec::with_capacity(key.len() + 1);
    next.extend_from_slice(key);
    next.push(0);
    next
}

/// Whether every key from `lower` up to and excluding `upper` has the prefix of `lower`. An upper bound that is itself
/// the next prefix would do as well, but is rarer than it is difficult.
fn share_prefix(lower: Option<&[u8]>, upper: Option<&[u8]>) -> bool {
    match (
        lower.and_then(|key| key.get(..LOG_PREFIX_BYTES)),
        upper.and_then(|key| key.get(..LOG_PREFIX_BYTES)),
    ) {
        (Some(lower), Some(upper)) => lower == upper,
        _ => false,
    }
}
