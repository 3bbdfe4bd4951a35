//! The in-memory engine: ordered, deterministic, without files or threads, and honest about crashes.
//!
//! It models what RocksDB promises to keep, not what it usually keeps: a range that is being cleared loses an arbitrary
//! part of its flushed keys at once; the memory of a family is flushed by itself when it grows; an unsynced tail of the
//! log survives in any length. Code that survives here relies on nothing else.
//!
//! Views are copies of persistent trees and cost two reference counts. One mutex guards the rest: calls are short, and
//! simulations make them from one thread.

mod crash;
mod file;
mod state;
#[cfg(test)]
mod tests;
mod tree;

use std::ops::Bound;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::{Bytes, BytesMut};

#[cfg(feature = "fault-env")]
pub(crate) use self::crash::Random;
pub use self::crash::{CrashMode, Keep};
use self::file::{File, Writer};
use self::state::{Damage, FAMILIES, State};
use self::tree::Tree;
use crate::lost::{Each, LostRanges};
use crate::staging::{check_name, exists, missing};
use crate::traits::reads_empty;
use crate::{
    Batch, Change, Direction, Engine, Error, Family, Logging, StagedFile, Statistics, View,
};

/// Settings of a [`MemoryEngine`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryOptions {
    /// A family is flushed when its unflushed changes pass this many bytes. Default 8 MiB. At 0 every write is flushed;
    /// with `u64::MAX` the log and the unflushed changes grow until somebody flushes.
    pub memtable_bytes_max: u64,
}

impl Default for MemoryOptions {
    fn default() -> MemoryOptions {
        MemoryOptions {
            memtable_bytes_max: 8 << 20,
        }
    }
}

/// What a test can make fail, once. The engine refuses every later write, sync and flush (R14).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The next write. It changes nothing that reads see, but a power loss may leave it in the log.
    Write,
    /// The next sync. What it should have made durable may be lost or not.
    Sync,
    /// The next flush.
    Flush,
}

/// The in-memory engine. Clones share the data.
#[derive(Clone, Debug)]
pub struct MemoryEngine {
    state: Arc<Mutex<State>>,
}

impl Default for MemoryEngine {
    fn default() -> MemoryEngine {
        MemoryEngine::new()
    }
}

impl MemoryEngine {
    /// An empty engine with default settings.
    pub fn new() -> MemoryEngine {
        MemoryEngine::with_options(MemoryOptions::default())
    }

    /// An empty engine.
    pub fn with_options(options: MemoryOptions) -> MemoryEngine {
        MemoryEngine::from_state(State::new(options, Default::default()))
    }

    fn from_state(state: State) -> MemoryEngine {
        MemoryEngine {
            state: Arc::new(Mutex::new(state)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .expect("no holder of the lock panics in the middle of a change")
    }

    /// Stops this engine in the middle of whatever it did and opens what survives (see [`CrashMode`]).
    ///
    /// This one and its clones refuse writes from now on, so that a task which outlives the crash cannot matter. Reads
    /// and views go on working.
    pub fn crash(&self, mode: CrashMode) -> MemoryEngine {
        MemoryEngine::from_state(self.lock().crash(mode))
    }

    /// Stops this engine in an orderly way and opens it again: everything is kept.
    ///
    /// # Errors
    /// [`Error::Io`] when the engine cannot be flushed.
    pub fn reopen(&self) -> Result<MemoryEngine, Error> {
        for family in FAMILIES {
            self.flush(family)?;
        }
        Ok(self.crash(CrashMode::Kill))
    }

    /// Makes one call fail, the next of the kind. Replaces what was asked before.
    pub fn fail_next(&self, fault: Fault) {
        self.lock().fault = Some(fault);
    }

    /// Lets the value of a key rot on disk: reads of it fail, in views from now on too, until something is written over it.
    pub fn damage(&self, family: Family, key: &[u8]) {
        let mut state = self.lock();
        state
            .table_mut(family)
            .damage
            .add(Bytes::copy_from_slice(key));
    }

    /// Loses what is in `[start, end)` of [`Family::State`], as an engine does that leaves a damaged file out.
    pub fn lose(&self, start: &[u8], end: &[u8]) {
        self.lock().table_mut(Family::State).lost.add(start, end);
    }

    /// Opens a copy made by [`Engine::checkpoint`] under `path`, if there is one. Checkpoints of this engine are kept in
    /// its memory, not in files, and survive crashes.
    pub fn open_checkpoint(&self, path: &Path) -> Option<MemoryEngine> {
        let state = self.lock();
        let content = state.checkpoints.get(path)?.clone();
        Some(MemoryEngine::from_state(State::new(state.options, content)))
    }

    /// Number of keys of a family.
    pub fn keys(&self, family: Family) -> usize {
        self.lock().table(family).current.len()
    }
}

/// A view of a [`MemoryEngine`].
#[derive(Clone, Debug)]
pub struct MemoryView {
    contents: [Tree; FAMILIES.len()],
    damage: [Damage; FAMILIES.len()],
    lost: [LostRanges; FAMILIES.len()],
}

impl MemoryView {
    fn tree(&self, family: Family) -> &Tree {
        &self.contents[family as usize]
    }

    fn damage(&self, family: Family) -> &Damage {
        &self.damage[family as usize]
    }
}

impl View for MemoryView {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, Error> {
        self.lost[family as usize].check(key)?;
        self.damage(family).check(key)?;
        Ok(self.tree(family).get(key).cloned())
    }

    fn scan(
        &self,
        family: Family,
        lower: Bound<&[u8]>,
        upper: Bound<&[u8]>,
        direction: Direction,
        each: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), Error> {
        let damage = self.damage(family);
        let sound = |lower: Bound<&[u8]>, upper: Bound<&[u8]>, each: Each<'_>| {
            let mut readable = Ok(());
            self.tree(family)
                .scan(lower, upper, direction, &mut |key, value| {
                    readable = damage.check(key);
                    readable.is_ok() && each(key, value)
                });
            readable
        };
        self.lost[family as usize].scan(lower, upper, direction, each, sound)
    }
}

impl Engine for MemoryEngine {
    type View = MemoryView;

    fn view(&self) -> MemoryView {
        let state = self.lock();
        MemoryView {
            contents: state.contents(),
            damage: FAMILIES.map(|family| state.table(family).damage.clone()),
            lost: FAMILIES.map(|family| state.table(family).lost.clone()),
        }
    }

    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, Error> {
        let state = self.lock();
        let table = state.table(family);
        table.lost.check(key)?;
        table.damage.check(key)?;
        Ok(table.current.get(key).cloned())
    }

    fn get_many(&self, family: Family, keys: &[&[u8]]) -> Result<Vec<Option<Bytes>>, Error> {
        let state = self.lock();
        let table = state.table(family);
        let get = |key: &&[u8]| {
            table.lost.check(key)?;
            table.damage.check(key)?;
            Ok(table.current.get(key).cloned())
        };
        keys.iter().map(get).collect()
    }

    fn get_flushed(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, Error> {
        let state = self.lock();
        let table = state.table(family);
        table.lost.check(key)?;
        Ok(table.flushed.get(key).cloned())
    }

    fn write(&self, batch: Batch, logging: Logging) -> Result<(), Error> {
        self.lock().write(batch, logging)
    }

    fn sync(&self) -> Result<(), Error> {
        self.lock().sync()
    }

    fn flush(&self, family: Family) -> Result<(), Error> {
        self.lock().flush(family)
    }

    fn stage_range(
        &self,
        view: &MemoryView,
        family: Family,
        start: &[u8],
        end: &[u8],
        bytes_max: u64,
        name: &str,
    ) -> Result<(Option<StagedFile>, Option<Bytes>), Error> {
        check_name(name)?;
        if self.lock().staged.contains_key(name) {
            return Err(exists(name));
        }
        let mut writer = Writer::new();
        let mut bytes = 0;
        let mut next = None;
        let scanned = view.scan(
            family,
            Bound::Included(start),
            Bound::Excluded(end),
            Direction::Forward,
            &mut |key, value| {
                let with_this = bytes + (key.len() + value.len()) as u64;
                if !writer.is_empty() && with_this > bytes_max {
                    next = Some(Bytes::copy_from_slice(key));
                    return false;
                }
                bytes = with_this;
                writer.push(key, value);
                true
            },
        );
        scanned?;
        let Some(content) = writer.finish() else {
            return Ok((None, None));
        };
        let described = file::describe(name, &content)?;
        self.lock()
            .staged
            .insert(name.to_owned(), File::Finished(content));
        Ok((Some(described), next))
    }

    fn stage_append(&self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        check_name(name)?;
        let mut state = self.lock();
        match state.staged.get_mut(name) {
            Some(File::Finished(_)) => return Err(exists(name)),
            Some(File::Growing(content)) => content.extend_from_slice(bytes),
            None => {
                state
                    .staged
                    .insert(name.to_owned(), File::Growing(BytesMut::from(bytes)));
            }
        }
        Ok(())
    }

    fn stage_finish(&self, name: &str) -> Result<StagedFile, Error> {
        let mut state = self.lock();
        let staged = state.staged.get_mut(name).ok_or_else(|| missing(name))?;
        let content = match staged {
            File::Growing(content) => content.clone().freeze(),
            File::Finished(content) => content.clone(),
        };
        let described = file::describe(name, &content)?;
        *staged = File::Finished(content);
        Ok(described)
    }

    fn stage_read(&self, name: &str, offset: u64, bytes_max: usize) -> Result<Bytes, Error> {
        let state = self.lock();
        let staged = state.staged.get(name).ok_or_else(|| missing(name))?;
        let length = staged.content().len();
        let start = usize::try_from(offset).map_or(length, |offset| offset.min(length));
        let end = start.saturating_add(bytes_max).min(length);
        Ok(match staged {
            File::Finished(content) => content.slice(start..end),
            File::Growing(content) => Bytes::copy_from_slice(&content[start..end]),
        })
    }

    fn stage_list(&self) -> Result<Vec<String>, Error> {
        Ok(self.lock().staged.keys().cloned().collect())
    }

    fn stage_remove(&self, names: &[String]) -> Result<(), Error> {
        let mut state = self.lock();
        for name in names {
            state.staged.remove(name);
        }
        Ok(())
    }

    fn ingest(&self, family: Family, names: &[String]) -> Result<(), Error> {
        let mut state = self.lock();
        let mut files = Vec::with_capacity(names.len());
        for name in names {
            let Some(File::Finished(content)) = state.staged.get(name) else {
                return Err(missing(name));
            };
            files.push(file::entries(name, content)?);
        }
        if files.is_empty() {
            Ok(())
        } else {
            state.ingest(family, &files)
        }
    }

    fn clear_range(
        &self,
        family: Family,
        start: &[u8],
        end: &[u8],
        logging: Logging,
    ) -> Result<(), Error> {
        if start >= end || logging == Logging::On && reads_empty(&self.view(), family, start, end) {
            return Ok(());
        }
        let change =
            Change::DeleteRange(Bytes::copy_from_slice(start), Bytes::copy_from_slice(end));
        let mut state = self.lock();
        state.write(
            Batch {
                family,
                changes: vec![change],
            },
            logging,
        )?;
        state.drop_files(family, start, end);
        Ok(())
    }

    fn lost_ranges(&self) -> Vec<(Bytes, Bytes)> {
        self.lock().table(Family::State).lost.ranges().to_vec()
    }

    fn approximate_bytes(&self, family: Family, start: &[u8], end: &[u8]) -> Result<u64, Error> {
        Ok(self.lock().table(family).current.range_bytes(start, end))
    }

    fn checkpoint(&self, path: &Path) -> Result<(), Error> {
        let mut state = self.lock();
        if state.checkpoints.contains_key(path) {
            return Err(Error::io(
                "checkpoint",
                std::io::Error::from(std::io::ErrorKind::AlreadyExists),
            ));
        }
        for family in FAMILIES {
            state.flush(family)?;
        }
        let contents = state.contents();
        state.checkpoints.insert(path.to_owned(), contents);
        Ok(())
    }

    fn sequence(&self) -> u64 {
        self.lock().sequence
    }

    fn statistics(&self) -> Statistics {
        let state = self.lock();
        let tables = FAMILIES.map(|family| state.table(family));
        Statistics {
            memtable_bytes: tables.iter().map(|table| table.memtable_bytes).sum(),
            file_bytes: tables.iter().map(|table| table.flushed.bytes()).sum(),
            writes: state.writes,
            syncs: state.syncs,
            ..Statistics::default()
        }
    }
}
