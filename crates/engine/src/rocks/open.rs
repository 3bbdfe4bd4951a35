//! Opening an engine's directory.

use std::fs::{self, File, TryLockError};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex, RwLock};

use rocksdb::{
    ColumnFamilyDescriptor, DB, DEFAULT_COLUMN_FAMILY_NAME, Env, ErrorKind, ReadOptions, ReadTier,
    WriteOptions,
};

use super::handles::Database;
use super::options::{self, Prepared, RocksOptions};
use super::{Shared, damage, log_check, staging};
use crate::{Error, Family};

/// Where RocksDB's files are, below the engine's directory.
pub(super) const DATABASE: &str = "db";
/// Where they are until they have been created completely.
const NEW_DATABASE: &str = "db.new";
const LOCK: &str = "LOCK";
/// The only key in RocksDB's `default` family.
const UNLOGGED_KEY: &[u8] = b"unlogged";

/// Opens the engine in a directory. `env` is what RocksDB reaches its files by, if not the operating system.
pub(super) fn open(
    path: &Path,
    options: &RocksOptions,
    env: Option<&Env>,
) -> Result<Shared, Error> {
    fs::create_dir_all(path)
        .map_err(|source| Error::io("create the engine's directory", source))?;
    let lock = lock(path)?;
    let prepared = Prepared::new(options, env)?;
    create_if_missing(path, &prepared)?;
    staging::prepare(path)?;
    let directory = path.join(DATABASE);
    let log = log_check::check(&directory)?;
    let mut damage = damage::Record::load(path)?;
    damage::repair(
        path,
        &mut damage,
        options.losable_from,
        Prepared::new(options, env)?,
    )?;
    let db = open_database(&directory, &prepared.database, &prepared)?;
    damage::check(path, &db, &mut damage)?;
    make_files_only_reads_possible(&db)?;

    let mut read_files = ReadOptions::default();
    read_files.set_read_tier(ReadTier::Persisted);
    let mut write_unlogged = WriteOptions::default();
    write_unlogged.disable_wal(true);
    Ok(Shared {
        database: Database::new(db),
        _lock: lock,
        #[cfg(feature = "fault-env")]
        _disk: None,
        path: path.to_owned(),
        staged_options: options::staged(env),
        cache: prepared.cache,
        read_all: ReadOptions::default(),
        read_files,
        write_logged: WriteOptions::default(),
        write_unlogged,
        last_number: Mutex::new(log.last_number),
        // Opening ended with a flush of all that was in the log.
        synced_number: AtomicU64::new(log.last_number),
        syncing: Mutex::new(()),
        views: RwLock::new(()),
        views_live: AtomicUsize::new(0),
        links: AtomicU64::new(0),
        log_bytes_cut: log.bytes_cut,
        failed: AtomicBool::new(false),
        lost: RwLock::new(Arc::new(damage.lost.clone())),
        damage: Mutex::new(damage),
        writes: AtomicU64::new(0),
        syncs: AtomicU64::new(0),
    })
}

/// RocksDB locks its directory, too, but tells so only in a text. Ours also covers what is done before it is opened.
fn lock(path: &Path) -> Result<File, Error> {
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path.join(LOCK))
        .map_err(|source| Error::io("open the lock file", source))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::InUse {
            path: path.display().to_string(),
        }),
        Err(TryLockError::Error(source)) => Err(Error::io("lock the engine's directory", source)),
    }
}

/// Creates an empty database, completely or not at all. An existing one is never "created if missing": RocksDB would
/// begin anew when a damaged directory has lost the file that names its manifest.
fn create_if_missing(path: &Path, prepared: &Prepared) -> Result<(), Error> {
    if path.join(DATABASE).exists() {
        return Ok(());
    }
    let io = |source| Error::io("create the engine's directory", source);
    let new = path.join(NEW_DATABASE);
    if new.exists() {
        fs::remove_dir_all(&new).map_err(io)?;
    }
    let mut options = prepared.database.clone();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    drop(open_database(&new, &options, prepared)?);
    sync_directory(&new)?;
    fs::rename(&new, path.join(DATABASE)).map_err(io)?;
    sync_directory(path)
}

pub(super) fn open_database(
    path: &Path,
    options: &rocksdb::Options,
    prepared: &Prepared,
) -> Result<DB, Error> {
    let family = |family: Family| {
        ColumnFamilyDescriptor::new(
            Database::NAMES[family as usize],
            prepared.family(family).clone(),
        )
    };
    let unused = ColumnFamilyDescriptor::new(DEFAULT_COLUMN_FAMILY_NAME, prepared.unused.clone());
    let families = [unused, family(Family::Log), family(Family::State)];
    DB::open_cf_descriptors(options, path, families).map_err(|source| {
        // A missing file is reported as an error of the file system; for a directory that was created whole (see above)
        // it is damage all the same. The binding gives no finer kind than the text.
        let lost_file = source.kind() == ErrorKind::IOError
            && source.as_ref().contains("No such file or directory");
        match source.kind() {
            ErrorKind::Corruption | ErrorKind::InvalidArgument | ErrorKind::NotFound => {
                damaged(path, source)
            }
            _ if lost_file => damaged(path, source),
            _ => Error::io("open RocksDB", source),
        }
    })
}

fn damaged(path: &Path, source: rocksdb::Error) -> Error {
    Error::Corrupt {
        what: path.display().to_string(),
        source: Some(source.into()),
    }
}

/// Makes reads of the persisted tier skip memtables from now on. RocksDB does so only once something was written without
/// the log; before that it takes logged data for persisted, which is not true before a sync. The family is flushed
/// because unflushed data in any family keeps the write-ahead log from being deleted.
fn make_files_only_reads_possible(db: &DB) -> Result<(), Error> {
    let mut unlogged = WriteOptions::default();
    unlogged.disable_wal(true);
    db.put_opt(UNLOGGED_KEY, [], &unlogged)
        .and_then(|()| db.flush())
        .map_err(|source| super::convert("open", source))
}

/// Makes the entries of a directory durable.
pub(super) fn sync_directory(path: &Path) -> Result<(), Error> {
    File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(|source| Error::io("sync a directory", source))
}
