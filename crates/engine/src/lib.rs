//! Ordered key-value engine of one store: families, atomic batches, views, range deletes, staged sorted files that are
//! ingested whole, checkpoints.
//!
//! Two implementations share the one trait [`Engine`]: [`MemoryEngine`], whose crash keeps, drops or tears what was not
//! synced, and `RocksEngine` on RocksDB (feature `rocksdb`). The crate knows nothing of Raft or regions.
//!
//! # What survives
//!
//! | Change | killed process | power loss |
//! |---|---|---|
//! | [`Logging::On`] | kept | kept if an [`Engine::sync`] or a flush of any family with changes followed, else a prefix |
//! | [`Logging::Off`] | kept if a flush of its family followed | the same |
//! | ingested files | kept once [`Engine::ingest`] returned | the same |
//! | finished staged files | kept | kept |
//! | bytes appended to a staged file | kept | anything up to all of them lost |
//!
//! After a stop each family is what was flushed of it, plus the log records that came later; the families do not wait
//! for each other (STORAGE §3). What survives of the log is always a beginning of it, over both families.

mod error;
mod lost;
mod memory;
#[cfg(feature = "rocksdb")]
mod rocks;
mod staging;
mod traits;
mod types;

pub use error::Error;
pub use memory::{CrashMode, Fault, Keep, MemoryEngine, MemoryOptions, MemoryView};
#[cfg(feature = "fault-env")]
pub use rocks::{DiskCount, DiskFault, FaultDisk, Survivors};
#[cfg(feature = "rocksdb")]
pub use rocks::{RocksEngine, RocksOptions, RocksView};
pub use traits::{Engine, View};
pub use types::{Batch, Change, Direction, Family, Logging, StagedFile, Statistics};
