//! Writers and readers that go on while regions move and a store dies.
//!
//! Each writer stays within one region's part of the keys, so that the time between two of its acknowledgements is what
//! a user of that part waited.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use tokio::task::JoinSet;

use super::ledger::{Book, written_value};
use crate::{
    bench::Latencies,
    exit::{Failure, Result},
    remote::Keys,
};

/// Writers in every part of the keys.
const WRITERS_PER_PART: usize = 2;
/// One write in so many goes to a key that was written before.
const AGAIN_ONE_IN: u32 = 4;
/// Time between two writes of a writer. The writers are there to notice, not to saturate the machine.
const PAUSE: Duration = Duration::from_millis(4);

/// All writers, and what they know.
pub struct Writers {
    parts: Vec<Arc<Part>>,
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
}

/// One writer's keys.
pub struct Part {
    /// A key of the part; the writer's keys follow it closely.
    base: Bytes,
    /// Tells this writer's keys from others'.
    writer: usize,
    /// What was sent and acknowledged.
    pub book: Book,
    /// The longest time between two acknowledgements since it was last taken.
    gap: Mutex<Gap>,
}

struct Gap {
    last: Instant,
    longest: Duration,
}

struct Shared {
    stop: AtomicBool,
    failed: AtomicU64,
    first_error: Mutex<Option<String>>,
    latencies: Arc<Latencies>,
}

impl Part {
    /// A part without keys.
    pub fn new(base: Bytes, writer: usize) -> Self {
        Self {
            base,
            writer,
            book: Book::default(),
            gap: Mutex::new(Gap {
                last: Instant::now(),
                longest: Duration::ZERO,
            }),
        }
    }

    /// The key of that number.
    pub fn key(&self, number: usize) -> Bytes {
        let mut key = self.base.to_vec();
        // The byte after a base keeps the key below the next base, whatever follows.
        key.extend_from_slice(format!("\0writer/{:02}/{number:08}", self.writer).as_bytes());
        Bytes::from(key)
    }
}

impl Writers {
    /// Starts writers in every part of the keys; `bases` holds one key of each.
    pub fn start(keys: &Keys, bases: &[Bytes], latencies: &Arc<Latencies>) -> Self {
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            failed: AtomicU64::new(0),
            first_error: Mutex::new(None),
            latencies: latencies.clone(),
        });
        let mut parts = Vec::new();
        let mut tasks = JoinSet::new();
        for writer in 0..bases.len() * WRITERS_PER_PART {
            let part = Arc::new(Part::new(bases[writer % bases.len()].clone(), writer));
            parts.push(part.clone());
            tasks.spawn(write(part, keys.clone(), shared.clone()));
        }
        Self {
            parts,
            shared,
            tasks,
        }
    }

    /// Forgets the gaps so far: a phase begins.
    pub fn reset_gaps(&self) {
        for part in &self.parts {
            let mut gap = part.gap.lock().expect("no holder of this lock panics");
            gap.longest = Duration::ZERO;
        }
    }

    /// The longest time between two acknowledgements that any writer saw since the last reset, counting the one that it
    /// waits for now.
    pub fn longest_gap(&self) -> Duration {
        let gaps = self.parts.iter().map(|part| {
            let gap = part.gap.lock().expect("no holder of this lock panics");
            gap.longest.max(gap.last.elapsed())
        });
        gaps.max().unwrap_or_default()
    }

    /// When the writer that waits longest was last acknowledged.
    pub fn oldest_acknowledgement(&self) -> Instant {
        let lasts = self
            .parts
            .iter()
            .map(|part| part.gap.lock().expect("no holder of this lock panics").last);
        lasts.min().expect("there are writers")
    }

    /// Writes that were not acknowledged, and what the first of them was told.
    pub fn failed(&self) -> (u64, Option<String>) {
        let first = self
            .shared
            .first_error
            .lock()
            .expect("no holder of this lock panics")
            .clone();
        (self.shared.failed.load(Ordering::Relaxed), first)
    }

    /// Ends the writers and returns what they know.
    ///
    /// # Errors
    /// A writer broke, so that its book cannot be trusted.
    pub async fn stop(&mut self) -> Result<Vec<Arc<Part>>> {
        self.shared.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.tasks.join_next().await {
            ended.map_err(|error| Failure::environment("a writer broke", error))?;
        }
        Ok(self.parts.clone())
    }
}

async fn write(part: Arc<Part>, keys: Keys, shared: Arc<Shared>) {
    let mut random = SmallRng::seed_from_u64(part.writer as u64);
    while !shared.stop.load(Ordering::Relaxed) {
        let known = part.book.len();
        let again = known > 0 && random.random_range(0..AGAIN_ONE_IN) == 0;
        let (number, version) = again
            .then(|| random.random_range(0..known))
            .and_then(|number| Some((number, part.book.begin_again(number)?)))
            .unwrap_or_else(|| part.book.begin_new());
        let key = part.key(number);
        let value = written_value(&key, version);
        let started = Instant::now();
        match keys.put(key, value, None).await {
            Ok(()) => {
                part.book.acknowledge(number, version);
                shared.latencies.record(part.writer, started.elapsed());
                let mut gap = part.gap.lock().expect("no holder of this lock panics");
                let now = Instant::now();
                gap.longest = gap.longest.max(now - gap.last);
                gap.last = now;
            }
            Err(error) => {
                shared.failed.fetch_add(1, Ordering::Relaxed);
                shared
                    .first_error
                    .lock()
                    .expect("no holder of this lock panics")
                    .get_or_insert_with(|| error.to_string());
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}
