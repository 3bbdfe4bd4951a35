//! What the dial leaves snapshots: who goes first, how many at a time, how fast (REGIONS §7, §9).
//!
//! There is one dial, placement's, which tells every store what its share of its disk and network comes to. A receiver divides
//! that by the slots in use and grants each as much; a sender divides its own by what it sends, and takes the smaller. Both do
//! so again with each grant that is repeated, so a store never takes in or gives out much more than its share, whoever
//! ordered the snapshots.

use std::collections::{BTreeMap, BTreeSet};

use proto::RegionId;
use proto::pontoon::v1 as wire;

use crate::options::Options;

/// Bytes that may be under way, in seconds at the rate of the dial: what is granted arrives soon, or is not granted.
const UNDER_WAY_SECONDS: u64 = 10;

/// Bytes per second that every snapshot gets. One that makes no progress is given up, so slower ones would never end.
const RATE_MIN: u64 = 1 << 20;

/// Why a member needs a snapshot, the most pressing last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// It is a voter that was away for longer than the log goes back. Nobody ordered that.
    CatchUp,
    /// It is new, so that the cluster becomes even.
    Move,
    /// It is new, in place of a replica that is lost or about to go.
    Repair,
}

impl Reason {
    pub(crate) fn to_wire(self) -> wire::SnapshotReason {
        match self {
            Reason::CatchUp => wire::SnapshotReason::CatchUp,
            Reason::Move => wire::SnapshotReason::Move,
            Reason::Repair => wire::SnapshotReason::Repair,
        }
    }

    /// A version that gives no reason, or one that is not known here, is the last in the queue.
    pub(crate) fn from_wire(reason: i32) -> Reason {
        match wire::SnapshotReason::try_from(reason) {
            Ok(wire::SnapshotReason::Move) => Reason::Move,
            Ok(wire::SnapshotReason::Repair) => Reason::Repair,
            Ok(wire::SnapshotReason::CatchUp) | Err(_) => Reason::CatchUp,
        }
    }
}

/// Bytes per second that a store may take in for snapshots, and as many that it may give out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dial {
    /// While they make the cluster even. Default 30 MiB.
    pub balance_bytes: u64,
    /// While they bring back replicas that are lost, or that fell behind. Default 50 MiB.
    pub repair_bytes: u64,
}

impl Default for Dial {
    fn default() -> Dial {
        Dial {
            balance_bytes: 30 << 20,
            repair_bytes: 50 << 20,
        }
    }
}

impl Dial {
    /// What catches up is a replica that the region lacks as much as one that is lost, though it can wait longer for its turn.
    fn bytes(self, reason: Reason) -> u64 {
        match reason {
            Reason::Move => self.balance_bytes,
            Reason::CatchUp | Reason::Repair => self.repair_bytes,
        }
    }

    /// Bytes per second of one of `sharers` snapshots.
    pub(crate) fn rate(self, reason: Reason, sharers: usize) -> u64 {
        (self.bytes(reason) / sharers.max(1) as u64).max(RATE_MIN)
    }

    /// Bytes that may be under way.
    fn room(self, reason: Reason) -> u64 {
        self.bytes(reason).saturating_mul(UNDER_WAY_SECONDS)
    }
}

/// Snapshots that take room, or are to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Taken {
    pub count: usize,
    pub bytes: u64,
}

impl Taken {
    pub fn add(&mut self, bytes: u64) {
        self.count += 1;
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// Whether another one has room beside these. One alone always has.
    pub fn admits(self, bytes: u64, reason: Reason, options: &Options) -> bool {
        self.count == 0
            || self.count < options.snapshot_slots
                && self.bytes.saturating_add(bytes) <= options.dial.room(reason)
    }
}

/// Offers that found no slot free. Senders repeat them, so this only says whose turn it is.
///
/// An offer counts as if it had come earlier than it did: by [`Options::snapshot_age_ticks`] for a move, by twice that for
/// repair. The earliest goes first. So nobody waits for ever: only what comes within that time is let past.
#[derive(Debug, Default)]
pub(crate) struct SlotQueue {
    waiting: BTreeMap<RegionId, Waiting>,
    /// Those that were heard lately, by their place.
    ready: BTreeSet<(u64, RegionId)>,
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    reason: Reason,
    bytes: u64,
    since_tick: u64,
    heard_tick: u64,
}

impl Waiting {
    /// Its place in the queue, the smallest first.
    fn rank(&self, region: RegionId, options: &Options) -> (u64, RegionId) {
        let behind = match self.reason {
            Reason::Repair => 0,
            Reason::Move => options.snapshot_age_ticks,
            Reason::CatchUp => 2 * options.snapshot_age_ticks,
        };
        (self.since_tick + behind, region)
    }
}

impl SlotQueue {
    /// An offer came. Returns what those in front of it will take, or as many of them as there are slots. Only those count
    /// that were heard lately: a sender that is busy itself does not ask, and holds nobody up.
    pub fn ask(
        &mut self,
        region: RegionId,
        reason: Reason,
        bytes: u64,
        tick: u64,
        options: &Options,
    ) -> Taken {
        let earlier = self.waiting.get(&region);
        let mine = Waiting {
            reason,
            bytes,
            since_tick: earlier.map_or(tick, |earlier| earlier.since_tick),
            heard_tick: tick,
        };
        if let Some(earlier) = earlier {
            self.ready.remove(&earlier.rank(region, options));
        }
        let rank = mine.rank(region, options);
        self.waiting.insert(region, mine);
        self.ready.insert(rank);
        let ahead = self.ready.range(..rank).take(options.snapshot_slots);
        let mut taken = Taken::default();
        for (_, other) in ahead {
            taken.add(self.waiting.get(other).map_or(0, |other| other.bytes));
        }
        taken
    }

    /// It got a slot, or wants none any more.
    pub fn leave(&mut self, region: RegionId, options: &Options) {
        if let Some(waiting) = self.waiting.remove(&region) {
            self.ready.remove(&waiting.rank(region, options));
        }
    }

    /// Passes over who was not heard for three offers, and forgets who asks no more.
    pub fn tick(&mut self, tick: u64, options: &Options) {
        let ready = &mut self.ready;
        self.waiting.retain(|region, waiting| {
            let silent = tick - waiting.heard_tick;
            let kept = silent < options.snapshot_ticks;
            if !kept || silent > 3 * options.snapshot_offer_ticks {
                ready.remove(&waiting.rank(*region, options));
            }
            kept
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn options() -> Options {
        Options {
            snapshot_slots: 4,
            snapshot_offer_ticks: 10,
            snapshot_ticks: 200,
            snapshot_age_ticks: 1_000,
            dial: Dial {
                balance_bytes: 30 * MIB,
                repair_bytes: 50 * MIB,
            },
            ..Options::default()
        }
    }

    fn ahead(queue: &mut SlotQueue, region: u64, reason: Reason, tick: u64) -> usize {
        let taken = queue.ask(RegionId(region), reason, MIB, tick, &options());
        taken.count
    }

    #[test]
    fn repair_goes_before_moves_and_those_before_what_catches_up() {
        let mut queue = SlotQueue::default();
        assert_eq!(ahead(&mut queue, 1, Reason::CatchUp, 100), 0);
        assert_eq!(ahead(&mut queue, 2, Reason::Move, 101), 0);
        assert_eq!(ahead(&mut queue, 3, Reason::Repair, 102), 0);
        assert_eq!(ahead(&mut queue, 4, Reason::Repair, 103), 1);
        assert_eq!(ahead(&mut queue, 2, Reason::Move, 104), 2);
        assert_eq!(ahead(&mut queue, 1, Reason::CatchUp, 105), 3);
        queue.leave(RegionId(3), &options());
        assert_eq!(ahead(&mut queue, 4, Reason::Repair, 106), 0);
    }

    #[test]
    fn who_waits_long_enough_is_let_past_by_nobody() {
        let mut queue = SlotQueue::default();
        assert_eq!(ahead(&mut queue, 1, Reason::CatchUp, 0), 0);
        assert_eq!(ahead(&mut queue, 2, Reason::Repair, 1_990), 0);
        assert_eq!(ahead(&mut queue, 1, Reason::CatchUp, 1_995), 1);
        // What comes after twice the time is behind it.
        assert_eq!(ahead(&mut queue, 3, Reason::Repair, 2_001), 2);
        assert_eq!(ahead(&mut queue, 4, Reason::Move, 2_001), 3);
    }

    #[test]
    fn who_asks_no_more_holds_nobody_up_and_is_forgotten() {
        let mut queue = SlotQueue::default();
        assert_eq!(ahead(&mut queue, 1, Reason::Repair, 0), 0);
        assert_eq!(ahead(&mut queue, 2, Reason::CatchUp, 30), 1);
        queue.tick(30, &options());
        assert_eq!(ahead(&mut queue, 2, Reason::CatchUp, 30), 1);
        queue.tick(31, &options());
        assert_eq!(ahead(&mut queue, 2, Reason::CatchUp, 31), 0);
        // Its place it keeps for a while.
        assert_eq!(ahead(&mut queue, 3, Reason::Repair, 100), 0);
        assert_eq!(ahead(&mut queue, 1, Reason::Repair, 101), 0);
        assert_eq!(ahead(&mut queue, 3, Reason::Repair, 102), 1);
        queue.tick(302, &options());
        assert!(queue.waiting.is_empty() && queue.ready.is_empty());
    }

    /// Those in front take their bytes with them; more of them than there are slots do not all come first.
    #[test]
    fn who_is_in_front_takes_slots_and_bytes() {
        let mut queue = SlotQueue::default();
        for region in 1..=6 {
            let reason = Reason::Repair;
            queue.ask(RegionId(region), reason, region * MIB, region, &options());
        }
        let taken = queue.ask(RegionId(9), Reason::Repair, MIB, 9, &options());
        assert_eq!((taken.count, taken.bytes), (4, (1 + 2 + 3 + 4) * MIB));
    }

    /// One that was a move becomes one for repair when a member goes down.
    #[test]
    fn a_reason_that_becomes_another_has_one_place() {
        let mut queue = SlotQueue::default();
        assert_eq!(ahead(&mut queue, 1, Reason::Repair, 0), 0);
        assert_eq!(ahead(&mut queue, 1, Reason::Move, 1), 0);
        assert_eq!(ahead(&mut queue, 2, Reason::Repair, 2), 0);
        assert_eq!(queue.ready.len(), 2);
    }

    #[test]
    fn as_many_are_under_way_as_arrive_in_ten_seconds() {
        let options = options();
        let taken = |count, bytes| Taken { count, bytes };
        let admits = |taken: Taken, bytes, reason| taken.admits(bytes * MIB, reason, &options);
        assert!(admits(taken(0, 0), 5_000, Reason::Move), "one alone");
        assert!(admits(taken(2, 200 * MIB), 100, Reason::Move));
        assert!(!admits(taken(2, 200 * MIB), 101, Reason::Move));
        assert!(admits(taken(2, 200 * MIB), 101, Reason::Repair));
        assert!(!admits(taken(4, MIB), 1, Reason::Repair), "no slot is free");
    }

    #[test]
    fn the_rate_is_shared_and_never_so_low_that_nothing_arrives() {
        let dial = options().dial;
        assert_eq!(dial.rate(Reason::Move, 1), 30 * MIB);
        assert_eq!(dial.rate(Reason::Move, 3), 10 * MIB);
        assert_eq!(dial.rate(Reason::CatchUp, 2), 25 * MIB);
        let closed = Dial {
            balance_bytes: 0,
            ..dial
        };
        assert_eq!(closed.rate(Reason::Move, 1), RATE_MIN);
    }

    #[test]
    fn reasons_survive_the_wire_and_unknown_ones_come_last() {
        for reason in [Reason::CatchUp, Reason::Move, Reason::Repair] {
            assert_eq!(Reason::from_wire(reason.to_wire() as i32), reason);
        }
        assert_eq!(Reason::from_wire(77), Reason::CatchUp);
    }
}
