//! Random operations.

use std::ops::Bound;

use bytes::Bytes;
use engine::{Change, Direction, Family, Logging};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

/// One step of a run. Numbers name views, staged files and the like; they are taken modulo what there is.
#[derive(Clone, Debug)]
pub enum Operation {
    Write {
        family: Family,
        changes: Vec<Change>,
        logging: Logging,
    },
    GetMany {
        family: Family,
        keys: Vec<Bytes>,
    },
    GetFlushed {
        family: Family,
        key: Bytes,
    },
    Scan {
        family: Family,
        bounds: Bounds,
        direction: Direction,
        limit: usize,
    },
    TakeView {
        slot: usize,
    },
    ReadView {
        slot: usize,
        family: Family,
        bounds: Bounds,
        direction: Direction,
    },
    DropView {
        slot: usize,
    },
    Stage {
        slot: usize,
        view: Option<usize>,
        family: Family,
        start: Bytes,
        end: Bytes,
        bytes_max: u64,
    },
    Receive {
        from: usize,
        to: usize,
        chunk: usize,
    },
    Unstage {
        slot: usize,
    },
    Ingest {
        family: Family,
        slots: Vec<usize>,
    },
    Clear {
        family: Family,
        start: Bytes,
        end: Bytes,
        logging: Logging,
    },
    Flush {
        family: Family,
    },
    Sync,
    Reopen,
    Kill,
    /// `None` loses everything that was not synced; a seed draws what survives of it.
    LosePower(Option<u64>),
}

impl Operation {
    /// Number of kinds.
    pub const KINDS: usize = 17;

    /// The kind, for counting.
    pub fn kind(&self) -> String {
        let text = format!("{self:?}");
        text.split([' ', '{', '('])
            .next()
            .unwrap_or_default()
            .to_owned()
    }
}

/// Bounds of a scan.
pub type Bounds = (Bound<Bytes>, Bound<Bytes>);

/// Number of view and staging slots.
pub const SLOTS: usize = 4;

/// Sequences of up to `length` operations. Of 66 operations, `losses` more are losses of power.
pub fn operations(length: usize, losses: u32) -> impl Strategy<Value = Vec<Operation>> {
    vec(operation(losses), 1..=length)
}

fn operation(losses: u32) -> impl Strategy<Value = Operation> {
    let slot = || 0..SLOTS;
    prop_oneof![
        20 => (family(), vec(change(), 0..6), logging())
            .prop_map(|(family, changes, logging)| Operation::Write { family, changes, logging }),
        3 => (family(), vec(key(), 0..6)).prop_map(|(family, keys)| Operation::GetMany { family, keys }),
        3 => (family(), key()).prop_map(|(family, key)| Operation::GetFlushed { family, key }),
        6 => (family(), bounds(), direction(), 1..10_usize)
            .prop_map(|(family, bounds, direction, limit)| Operation::Scan { family, bounds, direction, limit }),
        3 => slot().prop_map(|slot| Operation::TakeView { slot }),
        3 => (slot(), family(), bounds(), direction())
            .prop_map(|(slot, family, bounds, direction)| Operation::ReadView { slot, family, bounds, direction }),
        1 => slot().prop_map(|slot| Operation::DropView { slot }),
        4 => (slot(), option::of(slot()), family(), key(), key(), select(vec![1_u64, 30, 1 << 20]))
            .prop_map(|(slot, view, family, start, end, bytes_max)| {
                Operation::Stage { slot, view, family, start, end, bytes_max }
            }),
        2 => (slot(), slot(), 1..200_usize).prop_map(|(from, to, chunk)| Operation::Receive { from, to, chunk }),
        2 => slot().prop_map(|slot| Operation::Unstage { slot }),
        4 => (family(), vec(slot(), 1..3)).prop_map(|(family, slots)| Operation::Ingest { family, slots }),
        3 => (family(), key(), key(), logging())
            .prop_map(|(family, start, end, logging)| Operation::Clear { family, start, end, logging }),
        3 => family().prop_map(|family| Operation::Flush { family }),
        2 => Just(Operation::Sync),
        1 => Just(Operation::Reopen),
        2 => Just(Operation::Kill),
        losses => option::of(any::<u64>()).prop_map(Operation::LosePower),
    ]
}

fn family() -> impl Strategy<Value = Family> {
    select(vec![Family::Log, Family::State])
}

fn logging() -> impl Strategy<Value = Logging> {
    select(vec![Logging::On, Logging::Off])
}

fn direction() -> impl Strategy<Value = Direction> {
    select(vec![Direction::Forward, Direction::Backward])
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        6 => (key(), value()).prop_map(|(key, value)| Change::Put(key, value)),
        2 => key().prop_map(Change::Delete),
        1 => (key(), key()).prop_map(|(start, end)| Change::DeleteRange(start, end)),
    ]
}

/// Few keys, so that operations meet: short ones, and such with the prefixes of regions.
fn key() -> impl Strategy<Value = Bytes> {
    let prefix = select(vec![Vec::new(), region(1), region(2), region(u64::MAX)]);
    let suffix = vec(select(vec![0_u8, 1, 0x80, 0xFF]), 0..3);
    (prefix, suffix).prop_map(|(prefix, suffix)| Bytes::from([prefix, suffix].concat()))
}

fn region(id: u64) -> Vec<u8> {
    id.to_be_bytes().to_vec()
}

fn value() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..20).prop_map(Bytes::from)
}

fn bounds() -> impl Strategy<Value = Bounds> {
    let bound = || {
        prop_oneof![
            key().prop_map(Bound::Included),
            key().prop_map(Bound::Excluded),
            Just(Bound::Unbounded),
        ]
    };
    (bound(), bound())
}
