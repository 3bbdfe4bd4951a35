//! What a memory engine holds, and what a crash leaves of it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::crash::{CrashMode, Keep, Random};
use super::file::File;
use super::tree::Tree;
use super::{Fault, MemoryOptions};
use crate::lost::LostRanges;
use crate::{Batch, Change, Error, Family, Logging};

pub(super) const FAMILIES: [Family; 2] = [Family::Log, Family::State];

/// What a change takes in the log besides its content, about. Never 0, so that every batch can be torn.
const CHANGE_BYTES: u64 = 8;

/// Keys whose values cannot be read.
#[derive(Clone, Debug, Default)]
pub(super) struct Damage(Arc<BTreeSet<Bytes>>);

impl Damage {
    /// Fails if the value of a key cannot be read.
    pub(super) fn check(&self, key: &[u8]) -> Result<(), Error> {
        if self.0.contains(key) {
            return Err(Error::Corrupt {
                what: "a value".to_owned(),
                source: None,
            });
        }
        Ok(())
    }

    pub(super) fn add(&mut self, key: Bytes) {
        Arc::make_mut(&mut self.0).insert(key);
    }

    /// Forgets what something newer lies above.
    fn cover(&mut self, change: &Change) {
        if self.0.is_empty() {
            return;
        }
        let damaged = Arc::make_mut(&mut self.0);
        match change {
            Change::Put(key, _) | Change::Delete(key) => {
                damaged.remove(key);
            }
            Change::DeleteRange(start, end) => damaged.retain(|key| key < start || key >= end),
        }
    }
}

/// One column family.
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    /// What reads see.
    pub(super) current: Tree,
    /// What files hold.
    pub(super) flushed: Tree,
    pub(super) damage: Damage,
    pub(super) lost: LostRanges,
    /// The newest sequence in `flushed`. Log records above it are replayed after a crash.
    flushed_sequence: u64,
    /// Changes since the last flush, in order.
    memtable: Vec<Arc<Vec<Change>>>,
    /// Bytes of `memtable`.
    pub(super) memtable_bytes: u64,
}

impl Table {
    fn apply(&mut self, changes: &[Change]) {
        for change in changes {
            self.damage.cover(change);
            match change {
                Change::Put(key, value) => self.current.insert(key.clone(), value.clone()),
                Change::Delete(key) => self.current.remove(key),
                Change::DeleteRange(start, end) => self.current.remove_range(start, end),
            }
        }
    }

    fn flush(&mut self, sequence: u64) {
        self.flushed = self.current.clone();
        self.flushed_sequence = sequence;
        self.memtable.clear();
        self.memtable_bytes = 0;
    }

    /// Whether an unflushed change touches `[first, last]`.
    fn memtable_touches(&self, first: &[u8], last: &[u8]) -> bool {
        self.memtable
            .iter()
            .flat_map(|changes| changes.iter())
            .any(|change| match change {
                Change::Put(key, _) | Change::Delete(key) => *first <= **key && **key <= *last,
                Change::DeleteRange(start, end) => **start <= *last && *first < **end,
            })
    }
}

/// A batch in the write-ahead log.
#[derive(Clone, Debug)]
struct Record {
    family: Family,
    /// Of its last change.
    sequence: u64,
    changes: Arc<Vec<Change>>,
    bytes: u64,
    /// Whether the write was reported as done. A failed one may be in the log or not.
    reported: bool,
}

/// Everything an engine holds.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) options: MemoryOptions,
    tables: [Table; FAMILIES.len()],
    log: VecDeque<Record>,
    /// Log records up to here survive a power loss.
    synced_sequence: u64,
    pub(super) sequence: u64,
    /// The newest sequence in files.
    files_sequence: u64,
    pub(super) staged: BTreeMap<String, File>,
    pub(super) checkpoints: BTreeMap<PathBuf, [Tree; FAMILIES.len()]>,
    pub(super) fault: Option<Fault>,
    /// Why the engine takes no more writes.
    pub(super) stopped: Option<&'static str>,
    pub(super) writes: u64,
    pub(super) syncs: u64,
}

impl State {
    pub(super) fn new(options: MemoryOptions, content: [Tree; FAMILIES.len()]) -> State {
        let mut state = State {
            options,
            ..State::default()
        };
        for (table, tree) in state.tables.iter_mut().zip(content) {
            table.current = tree;
            table.flush(0);
        }
        state
    }

    pub(super) fn table(&self, family: Family) -> &Table {
        &self.tables[family as usize]
    }

    pub(super) fn table_mut(&mut self, family: Family) -> &mut Table {
        &mut self.tables[family as usize]
    }

    /// Copies of what reads see.
    pub(super) fn contents(&self) -> [Tree; FAMILIES.len()] {
        FAMILIES.map(|family| self.table(family).current.clone())
    }

    fn check_running(&self, operation: &'static str) -> Result<(), Error> {
        match self.stopped {
            None => Ok(()),
            Some(reason) => Err(Error::io(operation, reason)),
        }
    }

    /// Fails if the test asked for it, and for good then: after a failure nothing is known about the disk (R14).
    fn check_fault(&mut self, fault: Fault, operation: &'static str) -> Result<(), Error> {
        self.check_running(operation)?;
        if self.fault != Some(fault) {
            return Ok(());
        }
        self.fault = None;
        self.stopped = Some("an earlier write or sync failed");
        Err(Error::io(operation, "injected failure"))
    }

    pub(super) fn write(&mut self, batch: Batch, logging: Logging) -> Result<(), Error> {
        self.check_running("write")?;
        let Batch {
            family,
            mut changes,
        } = batch;
        changes.retain(|change| !removes_nothing(change));
        if changes.is_empty() {
            return Ok(());
        }
        let changes = Arc::new(changes);
        let bytes = changes.iter().map(change_bytes).sum();
        let sequence = self.sequence + changes.len() as u64;
        let outcome = self.check_fault(Fault::Write, "write");
        if logging == Logging::On {
            let reported = outcome.is_ok();
            self.log.push_back(Record {
                family,
                sequence,
                changes: Arc::clone(&changes),
                bytes,
                reported,
            });
        }
        outcome?;
        self.sequence = sequence;
        self.writes += 1;
        let bytes_max = self.options.memtable_bytes_max;
        let table = &mut self.tables[family as usize];
        table.apply(&changes);
        table.memtable.push(changes);
        table.memtable_bytes += bytes;
        if table.memtable_bytes > bytes_max {
            self.flush_table(family);
        }
        Ok(())
    }

    pub(super) fn sync(&mut self) -> Result<(), Error> {
        self.check_fault(Fault::Sync, "sync")?;
        self.synced_sequence = self.sequence;
        self.syncs += 1;
        Ok(())
    }

    pub(super) fn flush(&mut self, family: Family) -> Result<(), Error> {
        self.check_fault(Fault::Flush, "flush")?;
        self.flush_table(family);
        Ok(())
    }

    fn flush_table(&mut self, family: Family) {
        let sequence = self.sequence;
        if !self.table(family).memtable.is_empty() {
            // RocksDB syncs the log before a flush, lest a flushed family get ahead of what the other was promised.
            self.synced_sequence = sequence;
        }
        self.tables[family as usize].flush(sequence);
        self.files_sequence = sequence;
        // Like RocksDB, the log only loses records at its old end.
        while self
            .log
            .front()
            .is_some_and(|record| record.sequence <= self.table(record.family).flushed_sequence)
        {
            self.log.pop_front();
        }
    }

    /// Takes sorted entries in above all others. Like RocksDB, flushes the table first if it holds changes in the range
    /// of the file, because those must come to lie below it.
    pub(super) fn ingest(
        &mut self,
        family: Family,
        files: &[Vec<(Bytes, Bytes)>],
    ) -> Result<(), Error> {
        self.check_running("ingest")?;
        let ranges = files
            .iter()
            .filter_map(|entries| Some((&entries.first()?.0, &entries.last()?.0)));
        let mut touched = false;
        for (first, last) in ranges {
            touched |= self.table(family).memtable_touches(first, last);
        }
        if touched {
            self.flush(family)?;
        }
        self.sequence += 1;
        self.files_sequence = self.sequence;
        let table = &mut self.tables[family as usize];
        for (key, value) in files.iter().flatten() {
            table.damage.cover(&Change::Put(key.clone(), value.clone()));
            table.current.insert(key.clone(), value.clone());
            table.flushed.insert(key.clone(), value.clone());
        }
        Ok(())
    }

    /// Drops an arbitrary part of the flushed range at once, as RocksDB drops the files that happen to lie inside it.
    pub(super) fn drop_files(&mut self, family: Family, start: &[u8], end: &[u8]) {
        use std::ops::Bound::{Excluded, Included};
        if start >= end {
            return;
        }
        self.tables[family as usize].lost.clear(start, end);
        let mut random = Random::new(self.sequence);
        let flushed = &mut self.tables[family as usize].flushed;
        let mut dropped = Vec::new();
        flushed.scan(
            Included(start),
            Excluded(end),
            crate::Direction::Forward,
            &mut |key, _| {
                if random.below(2) == 0 {
                    dropped.push(key.clone());
                }
                true
            },
        );
        for key in dropped {
            flushed.remove(&key);
        }
    }

    /// The engine that opens after a crash of this one; this one takes no more writes.
    pub(super) fn crash(&mut self, mode: CrashMode) -> State {
        self.stopped = Some("the engine has crashed");
        let (kept, staged) = match mode {
            CrashMode::Kill => (
                self.log.iter().filter(|record| record.reported).count(),
                self.staged.clone(),
            ),
            CrashMode::PowerLoss { keep } => self.lose_power(keep),
        };
        let mut tables = self.tables.clone();
        let mut sequence = self.files_sequence;
        for table in &mut tables {
            table.current = table.flushed.clone();
        }
        for record in self.log.iter().take(kept) {
            let table = &mut tables[record.family as usize];
            if record.sequence > table.flushed_sequence {
                table.apply(&record.changes);
                sequence = sequence.max(record.sequence);
            }
        }
        // Opening ends with a flush of what was replayed.
        for table in &mut tables {
            table.flush(sequence);
        }
        State {
            options: self.options,
            tables,
            sequence,
            files_sequence: sequence,
            synced_sequence: sequence,
            staged,
            checkpoints: self.checkpoints.clone(),
            ..State::default()
        }
    }

    /// How many log records and what of the staged files survive.
    fn lose_power(&self, keep: Keep) -> (usize, BTreeMap<String, File>) {
        let synced = self
            .log
            .iter()
            .take_while(|record| record.sequence <= self.synced_sequence)
            .count();
        let tail_bytes: u64 = self
            .log
            .iter()
            .skip(synced)
            .map(|record| record.bytes)
            .sum();
        let mut random = match keep {
            Keep::Seeded(seed) => Some(Random::new(seed)),
            Keep::Nothing | Keep::Everything | Keep::Bytes(_) => None,
        };
        let kept_bytes = match (keep, &mut random) {
            (Keep::Nothing, _) | (Keep::Seeded(_), None) => 0,
            (Keep::Everything, _) => u64::MAX,
            (Keep::Bytes(bytes), _) => bytes,
            (Keep::Seeded(_), Some(random)) => match random.below(4) {
                0 => 0,
                1 => u64::MAX,
                _ => random.below(tail_bytes + 1),
            },
        };
        let mut end = 0;
        let whole = |record: &&Record| {
            end += record.bytes;
            end <= kept_bytes
        };
        let kept = synced + self.log.iter().skip(synced).take_while(whole).count();

        let mut staged = BTreeMap::new();
        for (name, file) in &self.staged {
            let left = match (file, keep, &mut random) {
                (File::Finished(_), _, _) | (File::Growing(_), Keep::Everything, _) => {
                    Some(file.clone())
                }
                (File::Growing(content), _, Some(random)) => tear(content, random),
                (File::Growing(_), _, None) => None,
            };
            staged.extend(left.map(|file| (name.clone(), file)));
        }
        (kept, staged)
    }
}

/// What a file system may leave of a file that was not synced: nothing, a beginning, or zeros in place of its end.
fn tear(content: &BytesMut, random: &mut Random) -> Option<File> {
    let at = random.below(content.len() as u64 + 1) as usize;
    let mut left = BytesMut::from(&content[..at]);
    match random.below(3) {
        0 => return None,
        1 => (),
        _ => left.resize(content.len(), 0),
    }
    Some(File::Growing(left))
}

/// Whether a change is a range delete that ends before it starts.
fn removes_nothing(change: &Change) -> bool {
    matches!(change, Change::DeleteRange(start, end) if start >= end)
}

/// Bytes a change takes in the log, about.
fn change_bytes(change: &Change) -> u64 {
    let content = match change {
        Change::Put(key, value) => key.len() + value.len(),
        Change::Delete(key) => key.len(),
        Change::DeleteRange(start, end) => start.len() + end.len(),
    };
    content as u64 + CHANGE_BYTES
}
