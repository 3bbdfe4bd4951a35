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

    let failed = |source: std::io::Error| Error::Io {
        operation: "opening the disk for tests",
        source: source.into(),
    };
    if std::env::var_os(FAULT_DISK).is_none() {
        return RocksEngine::open(directory, options);
    }
    tracing::warn!("a disk for tests: what is not synced is lost when this process ends");
    let disk = engine::FaultDisk::open(directory).map_err(|source| match source.kind() {
        ErrorKind::WouldBlock => Error::InUse {
            path: directory.display().to_string(),
        },
        _ => failed(source),
    })?;
    control::listen(disk.clone(), directory).map_err(failed)?;
    RocksEngine::open_on(directory, options, &disk)
}

/// Faults of the disk, begun and ended by whoever tests.
#[cfg(feature = "fault-env")]
mod control {
    use std::fs;
    use std::io::{self, BufRead, BufReader, ErrorKind, Write};
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::path::Path;
    use std::thread;

    use engine::{DiskCount, DiskFault, FaultDisk};

    /// Takes lines like `full on` and `hang off` at the socket `fault-disk/control` below the engine's directory. Each is
    /// answered by the number of operations that were refused, and of syncs that hang, before it.
    pub(super) fn listen(disk: FaultDisk, directory: &Path) -> io::Result<()> {
        let path = directory.join("fault-disk").join("control");
        // Of an earlier process.
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        let obey = move || {
            for connection in listener.incoming().flatten() {
                // Who asked may have gone.
                let _ = obey(&disk, &connection);
            }
        };
        thread::Builder::new()
            .name("fault-disk".to_owned())
            .spawn(obey)?;
        Ok(())
    }

    fn obey(disk: &FaultDisk, mut connection: &UnixStream) -> io::Result<()> {
        for line in BufReader::new(connection).lines() {
            let line = line?;
            let (fault, on) = line.split_once(' ').unwrap_or_default();
            let fault = match fault {
                "full" => DiskFault::Full,
                "fail" => DiskFault::SyncFails,
                "hang" => DiskFault::SyncHangs,
                _ => {
                    writeln!(connection, "no fault is called {line:?}")?;
                    continue;
                }
            };
            let harmed = disk.count(DiskCount::Refused) + disk.count(DiskCount::Hanging);
            disk.set(fault, on == "on");
            writeln!(connection, "{harmed}")?;
        }
        Ok(())
    }
}
