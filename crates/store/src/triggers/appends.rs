//! Whether inserts go above everything that was there, and how fast.

use std::collections::VecDeque;

/// Seconds in a row after which it is a pattern.
const PATTERN_SECONDS: usize = 5;

/// A region that is full within so long is split ahead.
pub(super) const SOON_SECONDS: u64 = 60;

/// Inserts of one region, second by second.
///
/// An insert counts as above when its key is above all that was there when the second began, so that requests that
/// overtake each other do not hide the pattern.
#[derive(Clone, Debug, Default)]
pub(super) struct Appends {
    /// Largest key when this second began; not known at first.
    floor: Option<Vec<u8>>,
    /// Largest key of this second.
    newest: Vec<u8>,
    inserts: u64,
    above: u64,
    above_bytes: u64,
    /// The last seconds in a row that showed the pattern, at most [`PATTERN_SECONDS`] and one.
    streak: VecDeque<Passed>,
}

#[derive(Clone, Debug)]
struct Passed {
    newest: Vec<u8>,
    above: u64,
    above_bytes: u64,
}

/// A pattern of appends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Growth<'a> {
    /// Largest key so many seconds ago.
    pub older: &'a [u8],
    /// Largest key now.
    pub newest: &'a [u8],
    /// Seconds between.
    pub seconds: u64,
    /// Bytes per second.
    pub bytes: u64,
    /// Keys per second.
    pub keys: u64,
}

impl Appends {
    /// Counts an insert.
    pub fn count(&mut self, key: &[u8], value_bytes: usize) {
        self.inserts += 1;
        if self.floor.as_ref().is_some_and(|floor| key > &floor[..]) {
            self.above += 1;
            self.above_bytes += (key.len() + value_bytes) as u64;
        }
        if key > &self.newest[..] {
            self.newest.clear();
            self.newest.extend_from_slice(key);
        }
    }

    /// A second is over. `last_key` is the largest key ever applied, if that is known.
    pub fn end_second(&mut self, last_key: Option<&[u8]>) {
        let (inserts, above) = (
            std::mem::take(&mut self.inserts),
            std::mem::take(&mut self.above),
        );
        let above_bytes = std::mem::take(&mut self.above_bytes);
        if above * 10 > inserts * 9 {
            let mut newest = Vec::new();
            if self.streak.len() > PATTERN_SECONDS
                && let Some(oldest) = self.streak.pop_front()
            {
                newest = oldest.newest;
            }
            newest.clone_from(&self.newest);
            self.streak.push_back(Passed {
                newest,
                above,
                above_bytes,
            });
        } else {
            self.streak.clear();
        }
        let floor = last_key.map(|last| last.max(&self.newest));
        match (&mut self.floor, floor) {
            (Some(known), Some(floor)) => {
                known.clear();
                known.extend_from_slice(floor);
            }
            (known, floor) => *known = floor.map(<[u8]>::to_vec),
        }
        self.newest.clear();
    }

    /// The pattern, once it has been there long enough.
    pub fn growth(&self) -> Option<Growth<'_>> {
        if self.streak.len() < PATTERN_SECONDS {
            return None;
        }
        let (oldest, newest) = (self.streak.front()?, self.streak.back()?);
        let seconds = self.streak.len() as u64 - 1;
        let since = self.streak.iter().skip(1);
        let sum = |of: fn(&Passed) -> u64| since.clone().map(of).sum::<u64>() / seconds;
        Some(Growth {
            older: &oldest.newest,
            newest: &newest.newest,
            seconds,
            bytes: sum(|passed| passed.above_bytes),
            keys: sum(|passed| passed.above),
        })
    }
}
