//! A disk for tests, on which every stop of the process is a power loss (feature `fault-env`).
//!
//! RocksDB's own `FaultInjectionTestFS` keeps in memory what was written to a file and not synced, so it is gone with the process,
//! SIGKILL included. What it does not do is done around it (`disk/shim.cc`): files that were created, renamed, linked or
//! deleted are noted in a journal until their directory is synced, and [`FaultDisk::open`] undoes what the journal still holds.
//! The disk can also be full, fail its syncs, or let them hang.
//!
//! Only what RocksDB does goes through it. The few files that this crate writes by itself (staged parts, `DAMAGE`) do not.
//! No I/O is made slower on purpose, so a test waits for counts ([`FaultDisk::count`]) and not for time.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::Arc;

use crate::memory::Random;

/// Below the engine's directory.
const FOLDER: &str = "fault-disk";
const JOURNAL: &str = "journal";

/// What may be wrong with a [`FaultDisk`] that has power.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing can be written.
    Full,
    /// Syncs of files and directories fail and make nothing durable.
    SyncFails,
    /// Syncs of files and directories do not return.
    SyncHangs,
}

/// What a [`FaultDisk`] counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskCount {
    /// Syncs of files.
    Syncs,
    /// Syncs of directories.
    DirectorySyncs,
    /// Operations that failed by a [`Fault`].
    Refused,
    /// Syncs that hang now.
    Hanging,
    /// Changes of directories that were not synced yet.
    EntriesUnsynced,
}

/// What of the unsynced data a power loss leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Survivors {
    /// Nothing.
    Nothing,
    /// Everything, as if the process alone had ended.
    Everything,
    /// What a seed draws: a beginning of the changes of directories; of each file a beginning, then nothing, zeros or garbage.
    Drawn(u64),
}

/// A disk of one engine; clones are the same one. Give it to [`RocksEngine::open_on`](super::RocksEngine::open_on).
#[derive(Clone)]
pub struct FaultDisk {
    shared: Arc<Shared>,
}

struct Shared {
    env: rocksdb::Env,
    raw: Raw,
    folder: PathBuf,
    /// Of the folder.
    _lock: File,
}

mod ffi {
    use std::ffi::{c_char, c_uint, c_ulong};

    /// `pontoon_disk` of the shim.
    #[repr(C)]
    pub(super) struct Disk {
        _opaque: [u8; 0],
    }

    #[allow(unsafe_code)]
    unsafe extern "C" {
        pub(super) fn pontoon_disk_new(folder: *const c_char) -> *mut Disk;
        pub(super) fn pontoon_disk_free(disk: *mut Disk);
        pub(super) fn pontoon_disk_env(disk: *mut Disk) -> *mut librocksdb_sys::rocksdb_env_t;
        pub(super) fn pontoon_disk_power_off(disk: *mut Disk);
        pub(super) fn pontoon_disk_set(disk: *mut Disk, fault: c_uint, on: bool);
        pub(super) fn pontoon_disk_count(disk: *mut Disk, count: c_uint) -> c_ulong;
    }
}

/// The C++ object.
///
/// # Invariants
/// 1. It was made by `pontoon_disk_new` and is freed once, when this is dropped.
struct Raw(NonNull<ffi::Disk>);

// SAFETY: everything the shim does with it is under a mutex of its own.
#[allow(unsafe_code)]
unsafe impl Send for Raw {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl Sync for Raw {}

impl Raw {
    #[allow(unsafe_code)]
    fn new(folder: &Path) -> io::Result<Raw> {
        let folder = CString::new(folder.as_os_str().as_bytes())?;
        // SAFETY: a string that ends with a zero, read before the call returns.
        let raw = unsafe { ffi::pontoon_disk_new(folder.as_ptr()) };
        NonNull::new(raw)
            .map(Raw)
            .ok_or_else(|| io::Error::from(ErrorKind::OutOfMemory))
    }

    #[allow(unsafe_code)]
    fn env(&self) -> rocksdb::Env {
        // SAFETY: invariant 1. The shim hands out an environment of its own, which the binding frees; it holds a count of the
        // file system, so the two may be freed in any order.
        unsafe { rocksdb::Env::from_raw(ffi::pontoon_disk_env(self.0.as_ptr())) }
    }

    #[allow(unsafe_code)]
    fn power_off(&self) {
        // SAFETY: invariant 1.
        unsafe { ffi::pontoon_disk_power_off(self.0.as_ptr()) }
    }

    #[allow(unsafe_code)]
    fn set(&self, fault: Fault, on: bool) {
        // SAFETY: invariant 1.
        unsafe { ffi::pontoon_disk_set(self.0.as_ptr(), fault as u32, on) }
    }

    #[allow(unsafe_code)]
    fn count(&self, count: DiskCount) -> u64 {
        // SAFETY: invariant 1.
        unsafe { ffi::pontoon_disk_count(self.0.as_ptr(), count as u32) }
    }
}

impl Drop for Raw {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        // SAFETY: invariant 1.
        unsafe { ffi::pontoon_disk_free(self.0.as_ptr()) }
    }
}

impl FaultDisk {
    /// The disk of the engine in a directory, after the power came back: what was not synced when the last process ended, or
    /// [`FaultDisk::lose_power`] was called, is gone.
    ///
    /// # Errors
    /// [`ErrorKind::WouldBlock`] while the disk or an engine on it is open, here or in another process; others when the real
    /// disk fails.
    pub fn open(engine: &Path) -> io::Result<FaultDisk> {
        let folder = engine.join(FOLDER);
        fs::create_dir_all(&folder)?;
        let lock = File::open(&folder)?;
        lock.try_lock()?;
        recover(&folder)?;
        let raw = Raw::new(&folder)?;
        let shared = Arc::new(Shared {
            env: raw.env(),
            raw,
            folder,
            _lock: lock,
        });
        Ok(FaultDisk { shared })
    }

    /// From now on nothing reaches a file, and everything RocksDB tries fails. Close the engine and open the disk anew.
    ///
    /// # Errors
    /// When the real disk fails.
    pub fn lose_power(&self, survivors: Survivors) -> io::Result<()> {
        self.shared.raw.power_off();
        let folder = &self.shared.folder;
        let mut journal = Journal::load(folder)?;
        match survivors {
            Survivors::Nothing => journal.tails.clear(),
            Survivors::Everything => journal.entries.clear(),
            Survivors::Drawn(seed) => {
                let mut random = Random::new(seed);
                let kept = random.below(journal.entries.len() as u64 + 1) as usize;
                journal.entries.drain(..kept);
                for tail in &journal.tails {
                    let mut content = fs::read(&tail.kept)?;
                    damage(&mut content, &mut random);
                    fs::write(&tail.kept, content)?;
                }
            }
        }
        journal.store(folder)
    }

    /// Begins or ends a fault. Those of no fault that wait go on.
    pub fn set(&self, fault: Fault, on: bool) {
        self.shared.raw.set(fault, on);
    }

    /// What was counted since the disk was opened.
    pub fn count(&self, count: DiskCount) -> u64 {
        self.shared.raw.count(count)
    }

    pub(super) fn env(&self) -> &rocksdb::Env {
        &self.shared.env
    }
}

/// A change of a directory that was not synced.
enum Entry {
    /// There is a file, or one more link to one.
    Created(PathBuf),
    /// There is none any more; it has a second link.
    Deleted(PathBuf, PathBuf),
    /// It has another name; what had that name before has a second link.
    Renamed(PathBuf, PathBuf, Option<PathBuf>),
}

/// The unsynced end of a file.
struct Tail {
    file: PathBuf,
    synced: u64,
    /// A file of what survives of it.
    kept: PathBuf,
}

/// What the last process left: lines of words between tabs.
#[derive(Default)]
struct Journal {
    entries: Vec<Entry>,
    tails: Vec<Tail>,
}

impl Journal {
    fn load(folder: &Path) -> io::Result<Journal> {
        let text = match fs::read_to_string(folder.join(JOURNAL)) {
            Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
            read => read?,
        };
        let mut journal = Journal::default();
        // A process that was killed while it wrote leaves half a line.
        for line in text
            .split_inclusive('\n')
            .filter_map(|line| line.strip_suffix('\n'))
        {
            match line.split('\t').collect::<Vec<_>>()[..] {
                ["create", file] => journal.entries.push(Entry::Created(file.into())),
                ["delete", file, backup] => {
                    journal
                        .entries
                        .push(Entry::Deleted(file.into(), backup.into()));
                }
                ["rename", from, to, backup] => {
                    let backup = (!backup.is_empty()).then(|| backup.into());
                    journal
                        .entries
                        .push(Entry::Renamed(from.into(), to.into(), backup));
                }
                ["tail", file, synced, kept] => journal.tails.push(Tail {
                    file: file.into(),
                    synced: synced.parse().map_err(io::Error::other)?,
                    kept: kept.into(),
                }),
                _ => {
                    return Err(io::Error::other(format!(
                        "{line} is no line of the journal"
                    )));
                }
            }
        }
        Ok(journal)
    }

    fn store(&self, folder: &Path) -> io::Result<()> {
        let mut text = String::new();
        for entry in &self.entries {
            text += &match entry {
                Entry::Created(file) => format!("create\t{}\n", file.display()),
                Entry::Deleted(file, backup) => {
                    format!("delete\t{}\t{}\n", file.display(), backup.display())
                }
                Entry::Renamed(from, to, backup) => {
                    let backup = backup.as_deref().unwrap_or(Path::new(""));
                    format!(
                        "rename\t{}\t{}\t{}\n",
                        from.display(),
                        to.display(),
                        backup.display()
                    )
                }
            };
        }
        for Tail { file, synced, kept } in &self.tails {
            text += &format!("tail\t{}\t{synced}\t{}\n", file.display(), kept.display());
        }
        fs::write(folder.join(JOURNAL), text)
    }
}

/// Brings the files into the state that the power loss left.
fn recover(folder: &Path) -> io::Result<()> {
    let journal = Journal::load(folder)?;
    for entry in journal.entries.into_iter().rev() {
        match entry {
            Entry::Created(file) => if_there(fs::remove_file(file))?,
            Entry::Deleted(file, backup) => if_there(fs::rename(backup, file))?,
            Entry::Renamed(from, to, backup) => {
                if_there(fs::rename(&to, from))?;
                if let Some(backup) = backup {
                    if_there(fs::rename(backup, to))?;
                }
            }
        }
    }
    for Tail { file, synced, kept } in journal.tails {
        // Its directory may not have known it. It was cut when it was closed, if it was longer.
        let Ok(mut opened) = fs::OpenOptions::new().append(true).open(&file) else {
            continue;
        };
        if opened.metadata()?.len() == synced {
            opened.write_all(&fs::read(kept)?)?;
        }
    }
    for left in fs::read_dir(folder)? {
        fs::remove_file(left?.path())?;
    }
    Ok(())
}

/// Directories that this crate renames take their files along.
fn if_there(outcome: io::Result<()>) -> io::Result<()> {
    match outcome {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}

/// Leaves a beginning, and in place of the rest nothing, zeros or garbage.
fn damage(content: &mut Vec<u8>, random: &mut Random) {
    let kept = random.below(content.len() as u64 + 1) as usize;
    match random.below(3) {
        0 => content.truncate(kept),
        1 => content[kept..].fill(0),
        _ => content[kept..]
            .iter_mut()
            .for_each(|byte| *byte = random.below(256) as u8),
    }
}
