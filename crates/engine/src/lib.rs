//! Ordered key-value engine of one store: families, atomic batches, views, range deletes, staged sorted files that are
//! ingested whole, checkpoints.
//!
//! Two implementations share the one trait [`Engine`]: an in-memory one whose crash keeps, drops or tears what was not
//! synced, and RocksDB (feature `rocksdb`). It knows nothing of Raft or regions.

use std::ops::Bound;
use std::path::Path;

use bytes::Bytes;

/// The column families of a store (STORAGE §1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// Raft tier: log entries, hard states, install marks, store identity.
    Log,
    /// Apply tier: user data, region states, applied states.
    State,
}

/// Whether the changes of a batch go through the write-ahead log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Logging {
    /// Written to the log; survives a killed process, and after [`Engine::sync`] a power loss.
    On,
    /// In memory only until the family is flushed.
    Off,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Sets a key.
    Put(Bytes, Bytes),
    /// Removes a key.
    Delete(Bytes),
    /// Removes every key in `[start, end)`.
    DeleteRange(Bytes, Bytes),
}

/// Changes of one family, applied in order and all or none.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The family. A batch touches one on purpose (STORAGE §2).
    pub family: Family,
    /// In the order of their effect.
    pub changes: Vec<Change>,
}

/// Direction of a scan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Ascending.
    Forward,
    /// Descending.
    Backward,
}

/// A sorted file in the engine's staging area.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StagedFile {
    /// Its name, unique in the staging area: letters, digits, `-`, `_`, `.`.
    pub name: String,
    /// Size in bytes.
    pub bytes: u64,
    /// Keys in it.
    pub keys: u64,
    /// CRC-32C of the whole file.
    pub crc32c: u32,
}

/// A consistent picture of all families at one moment.
pub trait View: Send + Sync + 'static {
    /// The value of a key.
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, Error>;

    /// Calls `each` with keys and values within the bounds, in order, until it returns `false`.
    fn scan(
        &self,
        family: Family,
        lower: Bound<&[u8]>,
        upper: Bound<&[u8]>,
        direction: Direction,
        each: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), Error>;
}

/// The engine. Cheap to clone; clones share the data.
pub trait Engine: Clone + Send + Sync + 'static {
    /// Its point-in-time read.
    type View: View;

    /// A view of everything written so far.
    fn view(&self) -> Self::View;

    /// The current value of a key.
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, Error>;

    /// The current values of keys, in their order.
    fn get_many(&self, family: Family, keys: &[&[u8]]) -> Result<Vec<Option<Bytes>>, Error>;

    /// The value that would be found after a power loss now, as far as flushed files tell (persisted tier, D3).
    fn get_flushed(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, Error>;

    /// Applies a batch atomically. Visible to reads when it returns; durable after [`Engine::sync`] or a flush.
    fn write(&self, batch: Batch, logging: Logging) -> Result<(), Error>;

    /// Makes everything logged so far survive a power loss. A failure is final (R14).
    fn sync(&self) -> Result<(), Error>;

    /// Writes the memory of a family to files; when it returns they are durable.
    fn flush(&self, family: Family) -> Result<(), Error>;

    /// Copies `[start, end)` of a family in a view into a new staged file and makes it durable. `None` when empty.
    /// Stops at `bytes_max`; the second value is the key to go on from, if any is left.
    fn stage_range(
        &self,
        view: &Self::View,
        family: Family,
        start: &[u8],
        end: &[u8],
        bytes_max: u64,
        name: &str,
    ) -> Result<(Option<StagedFile>, Option<Bytes>), Error>;

    /// Appends bytes to a staged file that is being received, creating it.
    fn stage_append(&self, name: &str, bytes: &[u8]) -> Result<(), Error>;

    /// Makes a received file durable and describes it (keys counted, whole checksum computed).
    fn stage_finish(&self, name: &str) -> Result<StagedFile, Error>;

    /// Reads part of a staged file; shorter at its end.
    fn stage_read(&self, name: &str, offset: u64, bytes_max: usize) -> Result<Bytes, Error>;

    /// Names of all staged files.
    fn stage_list(&self) -> Result<Vec<String>, Error>;

    /// Removes staged files; unknown names are ignored.
    fn stage_remove(&self, names: &[String]) -> Result<(), Error>;

    /// Takes staged files into a family, all or none. They are copied or linked, so a repeat after a crash finds them.
    fn ingest(&self, family: Family, names: &[String]) -> Result<(), Error>;

    /// Removes `[start, end)`: whole files at once where no live view needs them, the rest by a range delete.
    fn clear_range(&self, family: Family, start: &[u8], end: &[u8], logging: Logging) -> Result<(), Error>;

    /// Approximate bytes in `[start, end)`.
    fn approximate_bytes(&self, family: Family, start: &[u8], end: &[u8]) -> Result<u64, Error>;

    /// A copy of the whole engine on disk, linked where possible, at a path that does not exist.
    fn checkpoint(&self, path: &Path) -> Result<(), Error>;

    /// Counters and sizes.
    fn statistics(&self) -> Statistics;
}

/// Counters and sizes of an engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Bytes of memtables.
    pub memtable_bytes: u64,
    /// Bytes of live sorted files.
    pub file_bytes: u64,
    /// Bytes of the block cache in use.
    pub cache_bytes: u64,
    /// Bytes pending compaction.
    pub compaction_pending_bytes: u64,
    /// Batches written since start.
    pub writes: u64,
    /// Syncs since start.
    pub syncs: u64,
    /// Whether writes are slowed or stopped.
    pub stalled: bool,
}

/// Why an engine refuses or fails.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The disk or the operating system failed. After a failed write or sync the engine's state is unknown (R14).
    #[error("{operation} failed")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Data on disk is not what was written (R13, R15).
    #[error("{what} is damaged")]
    Corrupt {
        /// What is damaged.
        what: String,
        /// The cause.
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// Another process has the directory open.
    #[error("{path} is in use by another process")]
    InUse {
        /// The directory.
        path: String,
    },
    /// A staged file of this name does not exist, or exists already.
    #[error("staged file {name} {}", if *.exists { "exists already" } else { "does not exist" })]
    Staging {
        /// The name.
        name: String,
        /// Whether it exists.
        exists: bool,
    },
}
