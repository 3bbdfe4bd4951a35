//! The log writer: the one thread that makes the raft tier durable.
//!
//! It takes all batches that gathered while the last sync ran, writes them as one, syncs once, and only then lets go of
//! the frames that waited in them and tells the worker (R7). The sync is apart from the write (STORAGE §2), so the worker
//! builds the next batch meanwhile. A failure of either ends the node; a sync is never repeated (R14).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use engine::{Batch, Change, Engine, Family, Logging};
use proto::StoreId;
use store::event::LogBatch;

use super::fatal::{FatalError, OnFatal};
use super::inbox::{Control, Inbox};
use super::network::Network;
use super::queue::Queue;
use crate::metrics::Metrics;

/// A batch that nothing waits for is synced after this long, if no other sync took it along.
const UNSYNCED_MAX: Duration = Duration::from_millis(50);

/// Everything the thread needs.
pub(super) struct LogWriter<E> {
    pub engine: E,
    pub queue: Arc<Queue<(LogBatch, u64)>>,
    pub inbox: Arc<Inbox>,
    pub network: Arc<dyn Network>,
    pub metrics: Arc<Metrics>,
    pub on_fatal: OnFatal,
    pub busy: Arc<Busy>,
}

/// Since when the log writer is at work on one batch, for the health check: a disk that hangs keeps it there.
pub(super) struct Busy {
    started: Instant,
    /// Milliseconds after `started`, plus one; 0 when idle.
    since: AtomicU64,
}

impl Busy {
    pub fn new(started: Instant) -> Self {
        Busy {
            started,
            since: AtomicU64::new(0),
        }
    }

    fn begin(&self) {
        let since = self.started.elapsed().as_millis() as u64 + 1;
        self.since.store(since, Ordering::Relaxed);
    }

    fn end(&self) {
        self.since.store(0, Ordering::Relaxed);
    }

    /// How long it has been at it.
    pub fn elapsed(&self) -> Duration {
        match self.since.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            since => (self.started.elapsed()).saturating_sub(Duration::from_millis(since - 1)),
        }
    }
}

impl<E: Engine> LogWriter<E> {
    /// Runs until the queue is closed and empty. What is queued by then is written and synced.
    pub fn run(self) {
        let mut unsynced: Option<(u64, Instant)> = None;
        loop {
            let taken = match unsynced {
                None => self.queue.take(),
                Some((_, since)) => self
                    .queue
                    .take_within(UNSYNCED_MAX.saturating_sub(since.elapsed())),
            };
            let Some(batches) = taken else {
                if unsynced.is_some() {
                    self.sync_or_stop();
                }
                return;
            };
            self.metrics
                .log_joined_batches
                .observe(batches.len() as f64);
            let joined = Joined::new(batches);
            let bytes = joined.bytes;
            let last = joined.last.or(unsynced.map(|(sequence, _)| sequence));
            let due =
                joined.sync || unsynced.is_some_and(|(_, since)| since.elapsed() >= UNSYNCED_MAX);
            self.busy.begin();
            if !self.write(joined.changes) {
                return;
            }
            if !due {
                if unsynced.is_none() {
                    unsynced = last.map(|sequence| (sequence, Instant::now()));
                } else if let (Some(unsynced), Some(last)) = (&mut unsynced, last) {
                    unsynced.0 = last;
                }
                self.busy.end();
                self.queue.finish(bytes);
                continue;
            }
            if !self.sync_or_stop() {
                return;
            }
            self.busy.end();
            unsynced = None;
            // Before the worker hears of it, or it would find the queue as full as before.
            self.queue.finish(bytes);
            for (to, frame) in joined.then {
                self.network.send(to, frame);
                self.metrics.frames_sent.inc();
            }
            if let Some(last) = last {
                self.inbox.control(Control::LogWritten(last));
            }
        }
    }

    fn write(&self, changes: Vec<Change>) -> bool {
        if changes.is_empty() {
            return true;
        }
        let bytes = changes.iter().map(change_bytes).sum();
        let start = Instant::now();
        if let Err(error) = self.engine.write(
            Batch {
                family: Family::Log,
                changes,
            },
            Logging::On,
        ) {
            (self.on_fatal)(FatalError {
                doing: "writing the log",
                cause: Box::new(error),
            });
            return false;
        }
        self.metrics
            .log_write_seconds
            .observe(start.elapsed().as_secs_f64());
        self.metrics.log_written_bytes.inc_by(bytes);
        true
    }

    fn sync_or_stop(&self) -> bool {
        let start = Instant::now();
        if let Err(error) = self.engine.sync() {
            (self.on_fatal)(FatalError {
                doing: "syncing the log",
                cause: Box::new(error),
            });
            return false;
        }
        self.metrics
            .log_sync_seconds
            .observe(start.elapsed().as_secs_f64());
        true
    }
}

/// Batches that share a write and a sync.
struct Joined {
    changes: Vec<Change>,
    then: Vec<(StoreId, proto::pontoon::v1::Frame)>,
    last: Option<u64>,
    sync: bool,
    bytes: u64,
}

impl Joined {
    fn new(batches: Vec<(LogBatch, u64)>) -> Joined {
        let mut joined = Joined {
            changes: Vec::new(),
            then: Vec::new(),
            last: None,
            sync: false,
            bytes: 0,
        };
        for (batch, bytes) in batches {
            assert_eq!(
                batch.batch.family,
                Family::Log,
                "a log batch touches the log alone (STORAGE §2)"
            );
            assert!(
                joined.last < Some(batch.sequence),
                "log batch {} is out of order",
                batch.sequence
            );
            joined.last = Some(batch.sequence);
            joined.sync |= batch.sync || !batch.then.is_empty();
            joined.bytes += bytes;
            joined.then.extend(batch.then);
            if joined.changes.is_empty() {
                joined.changes = batch.batch.changes;
            } else {
                joined.changes.extend(batch.batch.changes);
            }
        }
        joined
    }
}

/// Size of a change in memory, roughly.
pub(super) fn change_bytes(change: &Change) -> u64 {
    let bytes = match change {
        Change::Put(key, value) => key.len() + value.len(),
        Change::Delete(key) => key.len(),
        Change::DeleteRange(start, end) => start.len() + end.len(),
    };
    bytes as u64
}
