//! F3: an engine that is used as a store uses it loses power at any moment, again and again, while it flushes and compacts.
//!
//! `CYCLES` sets how many cycles are run.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use bytes::Bytes;
use engine::{
    Batch, Change, Engine, Error, Family, FaultDisk, Logging, RocksEngine, RocksOptions, Survivors,
};

use crate::support::*;

/// The key of the index up to which entries are applied.
const APPLIED: &[u8] = b"applied";
/// Small ones, so that RocksDB flushes and compacts by itself all the time.
const VALUE_BYTES: usize = 2_000;

fn small_options() -> RocksOptions {
    RocksOptions {
        memtable_bytes: 64 << 10,
        log_bytes_max: 1 << 20,
        ..options()
    }
}

fn large_value(number: u64) -> Bytes {
    let mut value = value(number).to_vec();
    value.resize(VALUE_BYTES, number as u8);
    value.into()
}

fn index(value: Option<Bytes>) -> u64 {
    value.map_or(0, |value| {
        u64::from_be_bytes(value[..].try_into().expect("eight bytes"))
    })
}

/// Entries are numbered from 1. An entry is written to `log`, synced now and then, and applied: its key, and the index, in one
/// batch of `state`. Like a store, it cuts the log below what is flushed of the applied index.
struct Store<'a> {
    engine: &'a RocksEngine,
    /// How `state` is written.
    logging: Logging,
    /// The last entry that is acknowledged, hence synced.
    acknowledged: &'a AtomicU64,
    /// Entries written in this life.
    steps: &'a AtomicU64,
}

impl Store<'_> {
    fn write(&self, family: Family, changes: Vec<Change>, logging: Logging) -> Result<(), Error> {
        self.engine.write(Batch { family, changes }, logging)
    }

    fn apply(&self, number: u64) -> Result<(), Error> {
        let index = Bytes::copy_from_slice(&number.to_be_bytes());
        let changes = vec![
            Change::Put(key(number), large_value(number)),
            Change::Put(APPLIED.into(), index),
        ];
        self.write(Family::State, changes, self.logging)
    }

    fn cut_log(&self) -> Result<(), Error> {
        let flushed = index(self.engine.get_flushed(Family::State, APPLIED)?);
        let all_below = Change::DeleteRange(key(0), key(flushed + 1));
        self.write(Family::Log, vec![all_below], Logging::On)
    }

    /// Goes on until something fails.
    fn run(&self, next: u64, random: &mut Random) -> Error {
        for number in next.. {
            if let Err(error) = self.step(number, random) {
                return error;
            }
            self.steps.fetch_add(1, Ordering::Release);
        }
        unreachable!("there are enough numbers")
    }

    fn step(&self, number: u64, random: &mut Random) -> Result<(), Error> {
        let entry = Change::Put(key(number), large_value(number));
        self.write(Family::Log, vec![entry], Logging::On)?;
        if random.below(4) == 0 {
            self.engine.sync()?;
            self.acknowledged.store(number, Ordering::Release);
        }
        self.apply(number)?;
        match random.below(60) {
            0 => self.engine.flush(Family::State),
            1 => self.engine.flush(Family::Log),
            2..5 => self.cut_log(),
            _ => Ok(()),
        }
    }

    /// What was acknowledged is there: applied, or in the log from where the applied state ends. Returns the last entry, after
    /// applying what was not.
    fn recover(&self) -> u64 {
        let log = content(self.engine, Family::Log).expect("sound");
        let mut state = content(self.engine, Family::State).expect("sound");
        let applied = state.iter().position(|(key, _)| key == APPLIED);
        let applied = index(applied.map(|at| state.remove(at).1));
        let expected: Vec<_> = (1..=applied)
            .map(|number| (key(number), large_value(number)))
            .collect();
        assert!(state == expected, "the state is that of index {applied}");

        let last = applied.max(log.len() as u64 + self.first(&log).saturating_sub(1));
        let acknowledged = self.acknowledged.load(Ordering::Acquire);
        assert!(last >= acknowledged, "{last}, acknowledged {acknowledged}");
        if let Some(first) = log.first().map(|_| self.first(&log)) {
            assert!(first <= applied + 1, "log from {first}, applied {applied}");
            let expected: Vec<_> = (first..first + log.len() as u64)
                .map(|number| (key(number), large_value(number)))
                .collect();
            assert!(log == expected, "the log has no hole");
        }
        for number in applied + 1..=last {
            self.apply(number).expect("the disk works");
        }
        last
    }

    fn first(&self, log: &[(Bytes, Bytes)]) -> u64 {
        log.first().map_or(0, |(key, _)| {
            let text = String::from_utf8_lossy(&key[4..]);
            text.parse().expect("a number")
        })
    }
}

fn run_cycles(logging: Logging, seed: u64) {
    let directory = directory();
    let mut random = Random(seed);
    let acknowledged = AtomicU64::new(0);
    for _ in 0..cases(20) {
        let steps = AtomicU64::new(0);
        let disk = FaultDisk::open(directory.path()).expect("the disk works");
        let engine = RocksEngine::open_on(directory.path(), &small_options(), &disk)
            .expect("a power loss is no damage");
        let store = Store {
            engine: &engine,
            logging,
            acknowledged: &acknowledged,
            steps: &steps,
        };
        let last = store.recover();
        let until = random.below(400);
        let survivors = match random.below(3) {
            0 => Survivors::Nothing,
            _ => Survivors::Drawn(random.below(u64::MAX)),
        };
        thread::scope(|scope| {
            let mut of_writer = Random(1 + random.below(u64::MAX - 1));
            let writer = scope.spawn(move || store.run(last + 1, &mut of_writer));
            while steps.load(Ordering::Acquire) < until && !writer.is_finished() {
                thread::yield_now();
            }
            disk.lose_power(survivors).expect("the disk works");
            let error = writer.join().expect("it does not panic");
            assert!(
                matches!(error, Error::Io { .. }) && steps.load(Ordering::Acquire) >= until,
                "{error:?}"
            );
        });
    }
    let acknowledged = acknowledged.load(Ordering::Acquire);
    assert!(
        acknowledged >= 10 * cases(20),
        "only {acknowledged} entries"
    );
}

#[test]
fn power_losses_lose_nothing_acknowledged() {
    run_cycles(Logging::On, 1);
}

/// With D3: what was applied falls back to a flush, and the log above it is there.
#[test]
fn power_losses_lose_nothing_acknowledged_without_logging() {
    run_cycles(Logging::Off, 2);
}
