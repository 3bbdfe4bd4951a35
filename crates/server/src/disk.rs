//! Opens the engine of a process, in tests on a disk that loses what was not synced.

use std::path::Path;

use engine::{Error, RocksEngine, RocksOptions};

/// Set to anything, it puts the engines of a build with the feature `fault-env` on an `engine::FaultDisk`.
#[cfg(feature = "fault-env")]
const FAULT_DISK: &str = "PONTOON_FAULT_DISK";

#[cfg(not(feature = "fault-env"))]
pub(crate) fn open(directory: &Path, options: &RocksOptions) -> Result<RocksEngine, Error> {
    RocksEngine::open(directory, options)
}

#[cfg(feature = "fault-env")]
pub(crate) fn open(directory: &Path, options: &RocksOptions) -> Result<RocksEngine, Error> {
    use std::io::ErrorKind;

    if std::env::var_os(FAULT_DISK).is_none() {
        return RocksEngine::open(directory, options);
    }
    tracing::warn!("a disk for tests: what is not synced is lost when this process ends");
    let disk = engine::FaultDisk::open(directory).map_err(|source| match source.kind() {
        ErrorKind::WouldBlock => Error::InUse {
            path: directory.display().to_string(),
        },
        _ => Error::Io {
            operation: "opening the disk for tests",
            source: source.into(),
        },
    })?;
    RocksEngine::open_on(directory, options, &disk)
}
