//! Reads of users' keys from a view of the engine.
//!
//! Pure functions: the right to read at a linearizable point was had before ([`crate::event::Effects::reads`]), the range
//! and the time come with the call. A value that ended by `now` is absent. Ranges are half-open, and an empty end is the
//! end of all keys.

use std::ops::Bound;

use bytes::Bytes;
use engine::{Direction, Error, Family, View};

use crate::{keys, value};

/// Pairs and where to go on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Keys and values in the order of the scan.
    pub pairs: Vec<(Bytes, Bytes)>,
    /// Set when the scan ended at a limit rather than at the end of its range: the next key to look at. A forward scan
    /// goes on with it as inclusive start, a backward scan with it as inclusive upper bound.
    pub next: Option<Bytes>,
}

/// What to scan.
#[derive(Clone, Copy, Debug)]
pub struct Scan<'a> {
    /// Lowest key.
    pub start: &'a [u8],
    /// Exclusive upper bound; empty is the end of all keys.
    pub end: &'a [u8],
    /// Ascending, or descending from the end.
    pub direction: Direction,
    /// Pairs at most.
    pub limit: usize,
    /// Bytes of keys and values at most, but at least one pair.
    pub bytes_max: usize,
    /// Leave values empty.
    pub key_only: bool,
    /// Unix time in seconds, by which expiry is judged.
    pub now: u64,
}

/// The value of a key.
///
/// # Errors
/// [`Error::Corrupt`] when the stored value is not one; else what the engine says.
pub fn get(view: &impl View, key: &[u8], now: u64) -> Result<Option<Bytes>, Error> {
    let Some(bytes) = view.get(Family::State, &keys::data(key))? else {
        return Ok(None);
    };
    let stored = value::decode(bytes)?;
    Ok(stored.is_live(now).then_some(stored.value))
}

/// Narrows `[start, end)` to a region's range; `None` when they share no key.
pub fn clamp<'a>(
    start: &'a [u8],
    end: &'a [u8],
    region_start: &'a [u8],
    region_end: &'a [u8],
) -> Option<(&'a [u8], &'a [u8])> {
    if !keys::overlap(start, end, region_start, region_end) || (!end.is_empty() && start >= end) {
        return None;
    }
    let end = match (end.is_empty(), region_end.is_empty()) {
        (true, _) => region_end,
        (_, true) => end,
        _ => end.min(region_end),
    };
    Some((start.max(region_start), end))
}

/// Live pairs of a range.
///
/// # Errors
/// As [`get`].
pub fn scan(view: &impl View, scan: &Scan<'_>) -> Result<Page, Error> {
    let mut page = Page::default();
    let mut bytes = 0;
    let mut failed = None;
    let (start, end) = (keys::data(scan.start), keys::data_end(scan.end));
    if start >= end || scan.limit == 0 {
        return Ok(page);
    }
    let (lower, upper) = (Bound::Included(&start[..]), Bound::Excluded(&end[..]));
    view.scan(
        Family::State,
        lower,
        upper,
        scan.direction,
        &mut |key, stored| {
            let Some(key) = keys::user_key(key) else {
                failed = Some(Error::Corrupt {
                    what: "a data key".to_owned(),
                    source: None,
                });
                return false;
            };
            let at = match value::header(stored) {
                Ok((expires_at, _)) if expires_at != 0 && expires_at <= scan.now => return true,
                Ok((_, at)) => at,
                Err(error) => {
                    failed = Some(error);
                    return false;
                }
            };
            let value = if scan.key_only {
                &[][..]
            } else {
                &stored[at..]
            };
            let with_this = bytes + key.len() + value.len();
            if page.pairs.len() == scan.limit
                || (with_this > scan.bytes_max && !page.pairs.is_empty())
            {
                page.next = Some(Bytes::copy_from_slice(key));
                return false;
            }
            bytes = with_this;
            page.pairs
                .push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
            true
        },
    )?;
    match failed {
        Some(error) => Err(error),
        None => Ok(page),
    }
}
