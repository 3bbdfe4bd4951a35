//! What clients do to a region, counted by its leader.
//!
//! Requests are counted when they are accepted, writes when they are applied, and what reads returned when the driver tells
//! ([`crate::event::Event::Reads`]), since only whoever serves a read sees its values. Placement hears sums over about a
//! minute: a report that is lost or said twice changes nothing.

use proto::pontoon::v1 as wire;
use proto::pontoon::v1::operation::Kind;

use crate::event::Keys;

/// Slots that a window consists of, of which the newest is not full yet.
const SLOTS: usize = 7;

/// Slots per [`Load`] window of a minute.
const FULL_SLOTS: u64 = SLOTS as u64 - 1;

/// Work done for clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Bytes of keys and values written.
    pub written_bytes: u64,
    /// Keys written or deleted.
    pub written_keys: u64,
    /// Bytes of keys and values returned.
    pub read_bytes: u64,
    /// Keys returned, or looked up in vain.
    pub read_keys: u64,
    /// Requests.
    pub requests: Requests,
}

/// Requests of clients by what they ask for. One with several operations counts once, as what its first is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Requests {
    /// Reads of keys.
    pub gets: u64,
    /// Reads of ranges.
    pub scans: u64,
    /// Puts, compare-and-swaps included.
    pub puts: u64,
    /// Deletes of keys.
    pub deletes: u64,
    /// Deletes of ranges.
    pub range_deletes: u64,
}

impl Requests {
    /// All of them.
    pub fn count(&self) -> u64 {
        self.gets + self.scans + self.puts + self.deletes + self.range_deletes
    }

    /// Counts a read.
    pub(crate) fn add_read(&mut self, keys: &Keys) {
        match keys {
            Keys::Points(_) => self.gets += 1,
            Keys::Range(..) | Keys::Clamped(_) => self.scans += 1,
        }
    }

    /// Counts a write.
    pub(crate) fn add_write(&mut self, operations: &[wire::Operation]) {
        match operations.first().and_then(|first| first.kind.as_ref()) {
            Some(Kind::Put(_) | Kind::CompareAndSwap(_)) => self.puts += 1,
            Some(Kind::Delete(_)) => self.deletes += 1,
            Some(Kind::DeleteRange(_)) => self.range_deletes += 1,
            None => {}
        }
    }
}

impl std::ops::AddAssign for Load {
    fn add_assign(&mut self, other: Load) {
        self.written_bytes += other.written_bytes;
        self.written_keys += other.written_keys;
        self.read_bytes += other.read_bytes;
        self.read_keys += other.read_keys;
        let (sum, more) = (&mut self.requests, other.requests);
        sum.gets += more.gets;
        sum.scans += more.scans;
        sum.puts += more.puts;
        sum.deletes += more.deletes;
        sum.range_deletes += more.range_deletes;
    }
}

/// The load of the last minute, in slots of a sixth of it.
///
/// # Invariants
/// 1. `newest` never goes back, and slots older than a minute hold nothing.
#[derive(Clone, Debug)]
pub(crate) struct LoadWindow {
    slots: [Load; SLOTS],
    /// Number of the newest slot: its first tick divided by the length of a slot.
    newest: u64,
    since_tick: u64,
    slot_ticks: u64,
}

impl LoadWindow {
    /// An empty window that begins now; `minute_ticks` is its full length.
    pub fn new(tick: u64, minute_ticks: u64) -> LoadWindow {
        let slot_ticks = minute_ticks.div_ceil(FULL_SLOTS).max(1);
        LoadWindow {
            slots: Default::default(),
            newest: tick / slot_ticks,
            since_tick: tick,
            slot_ticks,
        }
    }

    /// What is counted now.
    pub fn at(&mut self, tick: u64) -> &mut Load {
        let slot = tick / self.slot_ticks;
        let behind = slot.saturating_sub(self.newest).min(SLOTS as u64);
        for passed in slot + 1 - behind..=slot {
            self.slots[passed as usize % SLOTS] = Load::default();
        }
        self.newest = self.newest.max(slot);
        &mut self.slots[self.newest as usize % SLOTS]
    }

    /// The sum, and the ticks it was counted over: fewer than a minute after the beginning, up to a slot more later.
    pub fn sum(&mut self, tick: u64) -> (Load, u64) {
        self.at(tick);
        let mut sum = Load::default();
        for slot in self.slots {
            sum += slot;
        }
        let oldest_tick = self.newest.saturating_sub(FULL_SLOTS) * self.slot_ticks;
        (sum, tick.saturating_sub(oldest_tick.max(self.since_tick)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against the list of everything that happened: the window holds exactly what is inside the time it tells.
        #[test]
        fn a_window_holds_what_happened_in_its_time(
            start in 0u64..1_000,
            minute in 1u64..200,
            events in prop::collection::vec((0u64..90, 1u64..100), 0..60),
        ) {
            let mut window = LoadWindow::new(start, minute);
            let (mut tick, mut all) = (start, Vec::new());
            for (pause, bytes) in events {
                tick += pause;
                window.at(tick).written_bytes += bytes;
                all.push((tick, bytes));
                let (sum, ticks) = window.sum(tick);
                let slot = minute.div_ceil(FULL_SLOTS).max(1);
                prop_assert!(ticks < (FULL_SLOTS + 1) * slot, "{ticks} ticks");
                prop_assert!(ticks >= (tick - start).min(FULL_SLOTS * slot), "{ticks} ticks");
                let naive: u64 = all.iter().filter(|(at, _)| tick - at <= ticks).map(|(_, bytes)| bytes).sum();
                prop_assert_eq!(sum.written_bytes, naive);
            }
        }
    }

    #[test]
    fn requests_count_once_as_what_comes_first() {
        let mut requests = Requests::default();
        let delete = wire::Operation {
            kind: Some(Kind::Delete(wire::Delete::default())),
        };
        let put = wire::Operation {
            kind: Some(Kind::Put(wire::Put::default())),
        };
        requests.add_write(&[delete.clone(), put.clone()]);
        requests.add_write(&[put, delete]);
        requests.add_read(&Keys::Clamped("k".into()));
        requests.add_read(&Keys::Points(Vec::new()));
        let expected = Requests {
            gets: 1,
            scans: 1,
            puts: 1,
            deletes: 1,
            range_deletes: 0,
        };
        assert_eq!((requests, requests.count()), (expected, 4));
    }
}
