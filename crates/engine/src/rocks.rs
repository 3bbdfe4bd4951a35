//! The engine on RocksDB.
//!
//! A directory holds `db/` (RocksDB's own files), `staging/` (see [`staging`]) and `LOCK`. Two column families carry the
//! data; RocksDB's `default` holds nothing of ours.
//!
//! # Writes
//!
//! A write reaches the write-ahead log's file, never the disk by itself: [`Engine::sync`] does that for all writes before
//! it, so that the next batch can form meanwhile (STORAGE §2). Logged batches are numbered and carry the number known to
//! be synced, which lets [`log_check`] tell a torn tail from rot when the engine opens (R15).
//!
//! # Failures
//!
//! After a failed write, sync, flush or ingest nothing is known about what is on disk. The engine refuses everything
//! that writes from then on and never tries the sync again (R14); reads go on, for a last look.

mod damage;
#[cfg(feature = "fault-env")]
mod disk;
mod handles;
mod log_check;
mod manifest;
mod open;
mod options;
mod read;
mod staging;
mod table;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use bytes::Bytes;
use rocksdb::checkpoint::Checkpoint;
use rocksdb::{Cache, FlushOptions, Range, ReadOptions, WriteBatch, WriteOptions};

#[cfg(feature = "fault-env")]
pub use self::disk::{DiskCount, Fault as DiskFault, FaultDisk, Survivors};
use self::handles::Database;
pub use self::options::RocksOptions;
pub use self::read::RocksView;
use crate::lost::LostRanges;
use crate::traits::reads_empty;
use crate::{Batch, Change, Engine, Error, Family, Logging, StagedFile, Statistics};

/// What RocksDB adds to each change in a batch, at most: a type, a family and two lengths.
const CHANGE_OVERHEAD_BYTES: usize = 16;
/// What RocksDB puts before the changes of a batch, and the mark of [`log_check`].
const BATCH_OVERHEAD_BYTES: usize = 12 + 2 + log_check::MARK_BYTES;

/// The engine on RocksDB. Clones share it; it closes when the last clone and the last view are gone.
#[derive(Clone)]
pub struct RocksEngine {
    shared: Arc<Shared>,
}

/// What clones and views share. `database` is closed before `_lock` is released: fields drop in this order.
struct Shared {
    database: Database,
    _lock: File,
    /// It is locked for as long as the engine is open.
    #[cfg(feature = "fault-env")]
    _disk: Option<FaultDisk>,
    path: PathBuf,
    staged_options: rocksdb::Options,
    cache: Cache,
    /// Reads everything.
    read_all: ReadOptions,
    /// Reads files only.
    read_files: ReadOptions,
    write_logged: WriteOptions,
    write_unlogged: WriteOptions,
    /// The number of the newest logged batch. Held while a logged batch is written, so that numbers ascend in the log.
    last_number: Mutex<u64>,
    /// Logged batches up to this number are synced.
    synced_number: AtomicU64,
    /// Serializes syncs: RocksDB would, too, but their numbers must ascend.
    syncing: Mutex<()>,
    /// Live views. Counted up under a read lock; see [`RocksEngine::clear_range`].
    views: RwLock<()>,
    views_live: AtomicUsize,
    /// Counts the links given to RocksDB, so that no two have one name.
    links: AtomicU64,
    log_bytes_cut: u64,
    failed: AtomicBool,
    /// What is known of damaged files, as it is on disk.
    damage: Mutex<damage::Record>,
    /// The lost ranges of it.
    lost: RwLock<Arc<LostRanges>>,
    writes: AtomicU64,
    syncs: AtomicU64,
}

impl AsRef<Database> for Shared {
    fn as_ref(&self) -> &Database {
        &self.database
    }
}

/// Sorts an error of RocksDB. What it calls corruption is data that is not what was written; all else is the environment.
fn convert(operation: &'static str, source: rocksdb::Error) -> Error {
    match source.kind() {
        rocksdb::ErrorKind::Corruption => Error::Corrupt {
            what: format!("data found during {operation}"),
            source: Some(source.into()),
        },
        _ => Error::io(operation, source),
    }
}

/// As [`convert`], of what only reads: a file that cannot be read is no better than one that holds something else (R13).
fn convert_read(operation: &'static str, source: rocksdb::Error) -> Error {
    match damage::unreadable_file(&source) {
        Some(_) => Error::Corrupt {
            what: format!("data found during {operation}"),
            source: Some(source.into()),
        },
        None => convert(operation, source),
    }
}

impl Shared {
    /// Refuses to go on after a failure (R14).
    fn check_running(&self, operation: &'static str) -> Result<(), Error> {
        match self.failed.load(Ordering::Acquire) {
            false => Ok(()),
            true => Err(Error::io(
                operation,
                "an earlier write, sync or flush failed",
            )),
        }
    }

    /// Converts the result of something that changes files, and remembers a failure for good.
    fn settle<T>(
        &self,
        operation: &'static str,
        result: Result<T, rocksdb::Error>,
    ) -> Result<T, Error> {
        result.map_err(|source| self.fail(operation, source))
    }

    /// Flushes a family. Others write meanwhile.
    fn flush(&self, family: Family) -> Result<(), Error> {
        let mut options = FlushOptions::default();
        options.set_wait(true);
        let handle = self.database.family(family);
        self.settle("flush", self.database.db.flush_cf_opt(handle, &options))
    }

    /// Remembers a failure for good, and what is to be done about it if compaction met a damaged file.
    fn fail(&self, operation: &'static str, source: rocksdb::Error) -> Error {
        let Some(number) = damage::unreadable_file(&source) else {
            self.failed.store(true, Ordering::Release);
            return convert(operation, source);
        };
        // Noted first: others that are refused may end the process. RocksDB itself takes nothing any more.
        let mut damage = self.damage.lock().unwrap_or_else(PoisonError::into_inner);
        if !damage.met.contains(&number) {
            damage.met.push(number);
        }
        // If this fails as well, the next start meets the file again.
        let noted = damage.store(&self.path);
        self.failed.store(true, Ordering::Release);
        match noted {
            Ok(()) => Error::FileDamaged {
                operation,
                file: damage::file_name(source.as_ref())
                    .unwrap_or_default()
                    .to_owned(),
                source: source.into(),
            },
            Err(error) => error,
        }
    }

    /// What is lost now.
    fn lost(&self) -> Arc<LostRanges> {
        Arc::clone(&self.lost.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes a range that was cleared out of what is lost.
    fn find_again(&self, start: &[u8], end: &[u8]) -> Result<(), Error> {
        let mut damage = self.damage.lock().unwrap_or_else(PoisonError::into_inner);
        if !damage.lost.clear(start, end) {
            return Ok(());
        }
        if let Err(error) = damage.store(&self.path) {
            self.failed.store(true, Ordering::Release);
            return Err(error);
        }
        let mut lost = self.lost.write().unwrap_or_else(PoisonError::into_inner);
        *lost = Arc::new(damage.lost.clone());
        Ok(())
    }

    fn property(&self, family: Family, name: &rocksdb::properties::PropName) -> u64 {
        // Statistics only: a property that cannot be read now counts as 0.
        self.database
            .db
            .property_int_value_cf(self.database.family(family), name)
            .ok()
            .flatten()
            .unwrap_or(0)
    }
}

impl RocksEngine {
    /// Opens the engine in a directory, creating it when there is none.
    ///
    /// # Errors
    /// [`Error::InUse`] when another engine, of this process or another, has the directory open. [`Error::Corrupt`] when
    /// files are missing or damaged, the write-ahead log below its synced end included; an incomplete end of the log is
    /// cut instead (R15). [`Error::Io`] when the operating system refuses.
    pub fn open(path: &Path, options: &RocksOptions) -> Result<RocksEngine, Error> {
        open::open(path, options, None).map(|shared| RocksEngine {
            shared: Arc::new(shared),
        })
    }

    /// As [`RocksEngine::open`], with RocksDB's files on a disk for tests, which is that of the directory.
    ///
    /// # Errors
    /// As [`RocksEngine::open`].
    #[cfg(feature = "fault-env")]
    pub fn open_on(
        path: &Path,
        options: &RocksOptions,
        disk: &FaultDisk,
    ) -> Result<RocksEngine, Error> {
        open::open(path, options, Some(disk.env())).map(|shared| RocksEngine {
            shared: Arc::new(Shared {
                _disk: Some(disk.clone()),
                ..shared
            }),
        })
    }

    /// The sequence of the newest change; see [`Engine::sequence`].
    pub fn latest_sequence(&self) -> u64 {
        self.shared.database.db.latest_sequence_number()
    }

    /// Bytes of a torn end of the write-ahead log that opening cut (R15). Nothing in them had been synced.
    pub fn log_bytes_cut(&self) -> u64 {
        self.shared.log_bytes_cut
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    fn get_with(
        &self,
        family: Family,
        key: &[u8],
        options: &ReadOptions,
    ) -> Result<Option<Bytes>, Error> {
        read::get(
            &self.shared.database,
            &self.shared.lost(),
            family,
            key,
            options,
        )
    }
}

/// Puts changes into a batch for RocksDB.
fn fill(database: &Database, batch: &Batch) -> WriteBatch {
    let bytes = |change: &Change| match change {
        Change::Put(first, second) | Change::DeleteRange(first, second) => {
            first.len() + second.len()
        }
        Change::Delete(key) => key.len(),
    };
    let changes: usize = batch
        .changes
        .iter()
        .map(|change| bytes(change) + CHANGE_OVERHEAD_BYTES)
        .sum();
    let mut filled = WriteBatch::with_capacity_bytes(changes + BATCH_OVERHEAD_BYTES);
    let family = database.family(batch.family);
    for change in &batch.changes {
        match change {
            Change::Put(key, value) => filled.put_cf(family, key, value),
            Change::Delete(key) => filled.delete_cf(family, key),
            // RocksDB refuses a batch with a range that ends before it starts; it removes nothing.
            Change::DeleteRange(start, end) if start >= end => (),
            Change::DeleteRange(start, end) => filled.delete_range_cf(family, start, end),
        }
    }
    filled
}

impl Engine for RocksEngine {
    type View = RocksView;

    fn view(&self) -> RocksView {
        RocksView::new(&self.shared)
    }

    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, Error> {
        self.get_with(family, key, &self.shared.read_all)
    }

    fn get_many(&self, family: Family, keys: &[&[u8]]) -> Result<Vec<Option<Bytes>>, Error> {
        let database = &self.shared.database;
        let lost = self.shared.lost();
        let checked = keys.iter().map(|key| read::check(&lost, family, key));
        let checked: Vec<_> = checked.collect();
        let keys = keys.iter().copied();
        let found = database.db.batched_multi_get_cf_opt(
            database.family(family),
            keys,
            false,
            &self.shared.read_all,
        );
        let found = checked.into_iter().zip(found);
        let found = found.map(|(checked, found)| checked.and_then(|()| read::copied(found)));
        found.collect()
    }

    fn get_flushed(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, Error> {
        self.get_with(family, key, &self.shared.read_files)
    }

    fn write(&self, batch: Batch, logging: Logging) -> Result<(), Error> {
        let shared = &*self.shared;
        shared.check_running("write")?;
        let mut filled = fill(&shared.database, &batch);
        if filled.is_empty() {
            return Ok(());
        }
        let result = match logging {
            Logging::Off => shared.database.db.write_opt(filled, &shared.write_unlogged),
            Logging::On => {
                let mut last_number = shared
                    .last_number
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                let number = *last_number + 1;
                filled.put_log_data(log_check::mark(
                    number,
                    shared.synced_number.load(Ordering::Acquire),
                ));
                let result = shared.database.db.write_opt(filled, &shared.write_logged);
                *last_number = number;
                result
            }
        };
        shared.settle("write", result)?;
        shared.writes.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn sync(&self) -> Result<(), Error> {
        let shared = &*self.shared;
        let wanted = *shared
            .last_number
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let _one_at_a_time = shared
            .syncing
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        shared.check_running("sync")?;
        // One that began while this one waited covers it.
        if shared.synced_number.load(Ordering::Acquire) >= wanted {
            return Ok(());
        }
        let number = *shared
            .last_number
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        shared.settle("sync", shared.database.db.flush_wal(true))?;
        shared.synced_number.store(number, Ordering::Release);
        shared.syncs.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn flush(&self, family: Family) -> Result<(), Error> {
        self.shared.check_running("flush")?;
        self.shared.flush(family)
    }

    fn stage_range(
        &self,
        view: &RocksView,
        family: Family,
        start: &[u8],
        end: &[u8],
        bytes_max: u64,
        name: &str,
    ) -> Result<(Option<StagedFile>, Option<Bytes>), Error> {
        staging::stage_range(&self.shared, view, family, start, end, bytes_max, name)
    }

    fn stage_append(&self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        staging::append(&self.shared, name, bytes)
    }

    fn stage_finish(&self, name: &str) -> Result<StagedFile, Error> {
        staging::finish(&self.shared, name)
    }

    fn stage_read(&self, name: &str, offset: u64, bytes_max: usize) -> Result<Bytes, Error> {
        staging::read(&self.shared, name, offset, bytes_max)
    }

    fn stage_list(&self) -> Result<Vec<String>, Error> {
        staging::list(&self.shared)
    }

    fn stage_remove(&self, names: &[String]) -> Result<(), Error> {
        staging::remove(&self.shared, names)
    }

    fn ingest(&self, family: Family, names: &[String]) -> Result<(), Error> {
        self.shared.check_running("ingest")?;
        staging::ingest(&self.shared, family, names)
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
        let shared = &*self.shared;
        // The range delete comes first: dropping a file uncovers older values of its keys, and nobody may read those.
        let everything =
            Change::DeleteRange(Bytes::copy_from_slice(start), Bytes::copy_from_slice(end));
        self.write(
            Batch {
                family,
                changes: vec![everything],
            },
            logging,
        )?;
        if family == Family::State {
            self.shared.find_again(start, end)?;
        }
        // A snapshot does not keep RocksDB from dropping the files it reads. No view starts while the lock is held.
        let _no_new_view = shared.views.write().unwrap_or_else(PoisonError::into_inner);
        if shared.views_live.load(Ordering::Acquire) > 0 {
            return Ok(());
        }
        let Some(last) = last_before(start, end) else {
            return Ok(());
        };
        let family = shared.database.family(family);
        shared.settle(
            "clear range",
            shared
                .database
                .db
                .delete_file_in_range_cf(family, start, &last),
        )
    }

    fn lost_ranges(&self) -> Vec<(Bytes, Bytes)> {
        self.shared.lost().ranges().to_vec()
    }

    fn approximate_bytes(&self, family: Family, start: &[u8], end: &[u8]) -> Result<u64, Error> {
        if start >= end {
            return Ok(0);
        }
        let database = &self.shared.database;
        let sizes = database
            .db
            .get_approximate_sizes_cf(database.family(family), &[Range::new(start, end)]);
        Ok(sizes.into_iter().sum())
    }

    fn checkpoint(&self, path: &Path) -> Result<(), Error> {
        let shared = &*self.shared;
        shared.check_running("checkpoint")?;
        std::fs::create_dir(path).map_err(|source| Error::io("checkpoint", source))?;
        let checkpoint =
            Checkpoint::new(&shared.database.db).map_err(|source| convert("checkpoint", source))?;
        checkpoint
            .create_checkpoint(path.join(open::DATABASE))
            .map_err(|source| convert("checkpoint", source))?;
        // What is lost here is lost in the copy.
        let damage = shared.damage.lock().unwrap_or_else(PoisonError::into_inner);
        if *damage != damage::Record::default() {
            damage.store(path)?;
        }
        open::sync_directory(path)
    }

    fn sequence(&self) -> u64 {
        self.latest_sequence()
    }

    fn statistics(&self) -> Statistics {
        use rocksdb::properties::{
            ACTUAL_DELAYED_WRITE_RATE, CUR_SIZE_ALL_MEM_TABLES, ESTIMATE_PENDING_COMPACTION_BYTES,
            IS_WRITE_STOPPED, LIVE_SST_FILES_SIZE,
        };
        let shared = &*self.shared;
        let sum = |name| shared.property(Family::Log, name) + shared.property(Family::State, name);
        Statistics {
            memtable_bytes: sum(CUR_SIZE_ALL_MEM_TABLES),
            file_bytes: sum(LIVE_SST_FILES_SIZE),
            cache_bytes: shared.cache.get_usage() as u64,
            compaction_pending_bytes: sum(ESTIMATE_PENDING_COMPACTION_BYTES),
            writes: shared.writes.load(Ordering::Relaxed),
            syncs: shared.syncs.load(Ordering::Relaxed),
            stalled: sum(IS_WRITE_STOPPED) > 0 || sum(ACTUAL_DELAYED_WRITE_RATE) > 0,
        }
    }
}

/// A key below `end` and at or above `start` that few keys of the range are above; `None` when there is none.
///
/// RocksDB drops files up to and including a key, and `end` itself must stay. No byte string is the last below `end`
/// (`b` comes after `a\xff\xff…` of any length) unless `end` ends in a zero.
fn last_before(start: &[u8], end: &[u8]) -> Option<Vec<u8>> {
    const FILL: [u8; 32] = [0xFF; 32];
    let (last, head) = end.split_last()?;
    let mut before = head.to_vec();
    if let Some(lower) = last.checked_sub(1) {
        before.push(lower);
        before.extend_from_slice(&FILL);
    }
    (*before >= *start).then_some(before)
}
