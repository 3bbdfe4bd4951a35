//! `BatchScanRegions`: the regions of several ranges, in order, each once.

use bytes::Bytes;
use placement::{Answer, REGIONS_MAX, Refusal, RegionInfo, Request as Ask};
use proto::pdpb;

use crate::placement_process::Placement;

/// Ranges of one request.
const RANGES_MAX: usize = 1024;

/// Why there is no answer.
#[derive(Debug, PartialEq, Eq)]
pub enum Error {
    /// Placement refused.
    Refused(Refusal),
    /// The request is wrong.
    Invalid(String),
    /// A range has a hole where no region is known; asked for whole ranges only.
    Hole(Bytes),
}

impl From<Error> for pdpb::Error {
    fn from(error: Error) -> pdpb::Error {
        let (kind, message) = match error {
            Error::Refused(refusal) => return super::convert::error(&refusal),
            Error::Invalid(message) => (pdpb::ErrorType::InvalidValue, message),
            Error::Hole(key) => (
                pdpb::ErrorType::RegionsNotContainAllKeyRange,
                format!("no region is known at key {key:?}: ask again"),
            ),
        };
        pdpb::Error {
            r#type: kind.into(),
            message,
        }
    }
}

/// The first `limit` regions of the ranges, [`REGIONS_MAX`] at the most.
///
/// # Errors
/// A range that ends before it begins or begins before the one before it ends, too many ranges, and with `whole` a key
/// without a region. An end that is empty is the end of all keys.
pub async fn scan(
    placement: &Placement,
    ranges: Vec<pdpb::KeyRange>,
    limit: usize,
    whole: bool,
) -> Result<Vec<RegionInfo>, Error> {
    check(&ranges)?;
    let limit = limit.min(REGIONS_MAX);
    let mut found: Vec<RegionInfo> = Vec::new();
    for range in ranges {
        // The region in which the range before ended may go on into this one.
        let start = match found.last().map(|last| &last.region.end_key) {
            Some(end) if end.is_empty() => break,
            Some(end) if *end > range.start_key => end.clone(),
            _ => range.start_key,
        };
        let reached = !range.end_key.is_empty() && start >= range.end_key;
        if reached {
            continue;
        }
        if found.len() == limit {
            break;
        }
        let ask = Ask::Regions {
            start: start.clone(),
            end: range.end_key.clone(),
            limit: limit - found.len(),
        };
        let page = match placement.ask(ask).await.map_err(Error::Refused)? {
            Answer::Regions(page) => page,
            _ => Vec::new(),
        };
        let full = found.len() + page.len() == limit;
        if let Some(key) = hole(&start, &range.end_key, &page, full).filter(|_| whole) {
            return Err(Error::Hole(key));
        }
        found.extend(page);
    }
    Ok(found)
}

fn check(ranges: &[pdpb::KeyRange]) -> Result<(), Error> {
    if ranges.len() > RANGES_MAX {
        return Err(Error::Invalid(format!(
            "{} ranges in one request: {RANGES_MAX} at the most",
            ranges.len()
        )));
    }
    for (at, range) in ranges.iter().enumerate() {
        if !range.end_key.is_empty() && range.start_key >= range.end_key {
            return Err(Error::Invalid(format!(
                "range {at} ends before it begins: an end is greater than its start, or empty for the end of all keys"
            )));
        }
        let before = at.checked_sub(1).map(|before| &ranges[before].end_key);
        if before.is_some_and(|end| end.is_empty() || *end > range.start_key) {
            return Err(Error::Invalid(format!(
                "range {at} begins before the one before it ends: ranges are in order and apart"
            )));
        }
    }
    Ok(())
}

/// The first key in `[start, end)` that no region of `page` has. What is after a page that is full was not looked at.
fn hole(start: &Bytes, end: &Bytes, page: &[RegionInfo], full: bool) -> Option<Bytes> {
    let mut covered = start.clone();
    for info in page {
        if info.region.start_key > covered {
            return Some(covered);
        }
        covered = info.region.end_key.clone();
        if covered.is_empty() {
            return None;
        }
    }
    let done = full || !end.is_empty() && covered >= *end;
    (!done).then_some(covered)
}

#[cfg(test)]
mod tests {
    use proto::metapb;

    use super::*;

    fn region(start: &'static str, end: &'static str) -> RegionInfo {
        RegionInfo {
            region: metapb::Region {
                start_key: start.into(),
                end_key: end.into(),
                ..Default::default()
            },
            ..Default::default()
        }
    }

    #[test]
    fn holes_are_found_at_either_end_and_between() {
        let hole = |start: &'static str, end: &'static str, page: &[RegionInfo]| {
            super::hole(&start.into(), &end.into(), page, false)
        };
        assert_eq!(hole("b", "d", &[region("a", "c"), region("c", "e")]), None);
        assert_eq!(hole("b", "", &[region("a", "c"), region("c", "")]), None);
        assert_eq!(hole("b", "d", &[]), Some("b".into()));
        assert_eq!(hole("b", "d", &[region("c", "e")]), Some("b".into()));
        assert_eq!(hole("b", "d", &[region("a", "c")]), Some("c".into()));
        assert_eq!(hole("b", "", &[region("a", "c")]), Some("c".into()));
        assert_eq!(
            hole("b", "e", &[region("a", "c"), region("d", "e")]),
            Some("c".into())
        );
        let cut = [region("a", "c")];
        assert_eq!(super::hole(&"b".into(), &"e".into(), &cut, true), None);
    }

    #[test]
    fn ranges_are_in_order_and_apart() {
        let range = |start: &'static str, end: &'static str| pdpb::KeyRange {
            start_key: start.into(),
            end_key: end.into(),
        };
        let refused = |ranges: &[pdpb::KeyRange]| match check(ranges) {
            Err(Error::Invalid(message)) => message,
            other => panic!("{other:?}"),
        };
        assert_eq!(
            check(&[range("a", "b"), range("b", "c"), range("d", "")]),
            Ok(())
        );
        assert!(refused(&[range("b", "a")]).starts_with("range 0 ends"));
        assert!(refused(&[range("a", "a")]).starts_with("range 0 ends"));
        assert!(refused(&[range("a", "c"), range("b", "d")]).starts_with("range 1 begins"));
        assert!(refused(&[range("a", ""), range("b", "d")]).starts_with("range 1 begins"));
        assert!(refused(&vec![range("a", "b"); RANGES_MAX + 1]).starts_with("1025 ranges"));
    }
}
