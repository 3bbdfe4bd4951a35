//! Ranges of the apply tier of which nobody can tell what was in them (STORAGE §9).
//!
//! A sorted file that cannot be read is left out, and what lies beneath it comes up: older values, deleted keys. So reads within
//! its range fail until the range is cleared.

use std::ops::Bound;

use bytes::Bytes;

use crate::{Direction, Error};

/// Takes a key and its value; `false` ends a scan.
pub(crate) type Each<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> bool;

/// Half-open ranges of keys.
///
/// # Invariants
/// 1. None is empty; they ascend and neither overlap nor touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LostRanges(Vec<(Bytes, Bytes)>);

impl LostRanges {
    pub(crate) fn ranges(&self) -> &[(Bytes, Bytes)] {
        &self.0
    }

    /// Adds `[start, end)`.
    pub(crate) fn add(&mut self, start: &[u8], end: &[u8]) {
        if start >= end {
            return;
        }
        let (mut start, mut end) = (Bytes::copy_from_slice(start), Bytes::copy_from_slice(end));
        self.0.retain(|(first, last)| {
            let apart = *last < start || end < *first;
            if !apart {
                start = start.clone().min(first.clone());
                end = end.clone().max(last.clone());
            }
            apart
        });
        let at = self.0.partition_point(|(first, _)| *first < start);
        self.0.insert(at, (start, end));
    }

    /// Takes `[start, end)` out. Returns whether anything of it was in.
    pub(crate) fn clear(&mut self, start: &[u8], end: &[u8]) -> bool {
        if !self
            .0
            .iter()
            .any(|(first, last)| **first < *end && *start < **last)
        {
            return false;
        }
        let mut rest = LostRanges::default();
        for (first, last) in self.0.drain(..) {
            rest.add(&first, start.min(&last));
            rest.add(end.max(&first), &last);
        }
        *self = rest;
        true
    }

    /// Fails if a key is in one of them.
    pub(crate) fn check(&self, key: &[u8]) -> Result<(), Error> {
        let at = self.0.partition_point(|(_, end)| **end <= *key);
        match self.0.get(at) {
            Some((start, _)) if **start <= *key => Err(lost()),
            _ => Ok(()),
        }
    }

    /// Runs a scan up to the first lost key, where it fails unless it was ended before.
    pub(crate) fn scan(
        &self,
        lower: Bound<&[u8]>,
        upper: Bound<&[u8]>,
        direction: Direction,
        each: Each<'_>,
        scan: impl FnOnce(Bound<&[u8]>, Bound<&[u8]>, Each<'_>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut met = self
            .0
            .iter()
            .filter(|(start, end)| !ends_before(upper, start) && !begins_behind(lower, end));
        let met = match direction {
            Direction::Forward => met.next(),
            Direction::Backward => met.next_back(),
        };
        let Some((start, end)) = met else {
            return scan(lower, upper, each);
        };
        let mut stopped = false;
        let mut each = |key: &[u8], value: &[u8]| {
            stopped = !each(key, value);
            !stopped
        };
        match direction {
            Direction::Forward if !begins_behind(lower, start) => {
                scan(lower, Bound::Excluded(start), &mut each)?;
            }
            Direction::Backward if !ends_before(upper, end) => {
                scan(Bound::Included(end), upper, &mut each)?;
            }
            Direction::Forward | Direction::Backward => (),
        }
        if stopped { Ok(()) } else { Err(lost()) }
    }
}

/// Whether no key within an upper bound is at or above `key`.
fn ends_before(upper: Bound<&[u8]>, key: &[u8]) -> bool {
    match upper {
        Bound::Included(upper) => upper < key,
        Bound::Excluded(upper) => upper <= key,
        Bound::Unbounded => false,
    }
}

/// Whether no key within a lower bound is below `key`, as far as the bound tells by itself.
fn begins_behind(lower: Bound<&[u8]>, key: &[u8]) -> bool {
    match lower {
        Bound::Included(lower) | Bound::Excluded(lower) => lower >= key,
        Bound::Unbounded => key.is_empty(),
    }
}

fn lost() -> Error {
    Error::Corrupt {
        what: "the file that held this data".to_owned(),
        source: Some("it was left out when the engine was opened".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(ranges: &[(&str, &str)]) -> LostRanges {
        let mut lost = LostRanges::default();
        for (start, end) in ranges {
            lost.add(start.as_bytes(), end.as_bytes());
        }
        lost
    }

    fn shown(lost: &LostRanges) -> Vec<String> {
        let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
        let ranges = lost.ranges().iter();
        ranges
            .map(|(start, end)| text(start) + "-" + &text(end))
            .collect()
    }

    #[test]
    fn ranges_join_and_are_cut() {
        assert_eq!(
            shown(&of(&[("m", "p"), ("a", "c"), ("x", "x")])),
            ["a-c", "m-p"]
        );
        assert_eq!(shown(&of(&[("a", "c"), ("m", "p"), ("c", "m")])), ["a-p"]);
        let mut lost = of(&[("b", "d"), ("m", "p")]);
        assert!(!lost.clear(b"d", b"m") && !lost.clear(b"p", b"z"));
        assert!(lost.clear(b"c", b"n"));
        assert_eq!(shown(&lost), ["b-c", "n-p"]);
        assert!(lost.clear(b"", b"z") && lost == LostRanges::default());
        let mut lost = of(&[("b", "p")]);
        assert!(lost.clear(b"c", b"d"));
        assert_eq!(shown(&lost), ["b-c", "d-p"]);
    }

    /// What a scan of single letters up to `j` finds, at most so many, and whether it succeeds.
    fn scanned(
        lost: &LostRanges,
        (lower, upper): (Bound<&str>, Bound<&str>),
        direction: Direction,
        most: usize,
    ) -> (String, bool) {
        let mut found = String::new();
        let outcome = lost.scan(
            lower.map(str::as_bytes),
            upper.map(str::as_bytes),
            direction,
            &mut |key, _| {
                found.extend(key.iter().copied().map(char::from));
                found.len() < most
            },
            |lower, upper, each| {
                let mut letters: Vec<[u8; 1]> = (b'a'..=b'j').map(|letter| [letter]).collect();
                let above = |key: &[u8]| match lower {
                    Bound::Excluded(lower) => key > lower,
                    Bound::Included(lower) => key >= lower,
                    Bound::Unbounded => true,
                };
                letters.retain(|key| above(key) && !ends_before(upper, key));
                if direction == Direction::Backward {
                    letters.reverse();
                }
                let _ended = letters.iter().all(|key| each(key, b""));
                Ok(())
            },
        );
        (found, outcome.is_ok())
    }

    #[test]
    fn scans_end_where_something_is_lost() {
        use Bound::{Excluded, Included, Unbounded};
        use Direction::{Backward, Forward};
        let lost = of(&[("c", "e"), ("g", "h")]);
        for (bounds, direction, most, found, succeeds) in [
            ((Unbounded, Unbounded), Forward, 9, "ab", false),
            ((Unbounded, Unbounded), Forward, 3, "ab", false),
            // Ended before it, be it at the last sound key.
            ((Unbounded, Unbounded), Forward, 2, "ab", true),
            ((Unbounded, Excluded("c")), Forward, 9, "ab", true),
            ((Unbounded, Included("c")), Forward, 9, "ab", false),
            ((Included("c"), Unbounded), Forward, 9, "", false),
            ((Included("d"), Unbounded), Forward, 9, "", false),
            // There may have been keys behind `d`.
            ((Excluded("d"), Unbounded), Forward, 9, "", false),
            ((Included("e"), Unbounded), Forward, 9, "ef", false),
            ((Included("e"), Excluded("g")), Forward, 9, "ef", true),
            ((Included("h"), Unbounded), Forward, 9, "hij", true),
            ((Unbounded, Unbounded), Backward, 9, "jih", false),
            ((Unbounded, Unbounded), Backward, 3, "jih", true),
            ((Included("h"), Unbounded), Backward, 9, "jih", true),
            ((Excluded("g"), Unbounded), Backward, 9, "jih", false),
            ((Unbounded, Included("g")), Backward, 9, "", false),
            ((Unbounded, Excluded("g")), Backward, 9, "fe", false),
            ((Included("e"), Excluded("g")), Backward, 9, "fe", true),
            ((Unbounded, Excluded("e")), Backward, 9, "", false),
            ((Unbounded, Excluded("c")), Backward, 9, "ba", true),
        ] {
            let outcome = scanned(&lost, bounds, direction, most);
            assert_eq!(
                outcome,
                (found.to_owned(), succeeds),
                "{bounds:?} {direction:?} {most}"
            );
        }
        for letter in b'a'..=b'j' {
            let is_lost = matches!(letter, b'c' | b'd' | b'g');
            assert_eq!(
                lost.check(&[letter]).is_err(),
                is_lost,
                "{}",
                char::from(letter)
            );
        }
    }
}
