//! The values that go into and come out of an engine.

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
    /// Written to the log; survives a killed process, and after [`Engine::sync`](crate::Engine::sync) a power loss.
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
    /// Bytes of its keys and values.
    pub content_bytes: u64,
    /// CRC-32C of the whole file.
    pub crc32c: u32,
    /// The smallest key in it.
    pub first: Bytes,
    /// The largest key in it.
    pub last: Bytes,
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
