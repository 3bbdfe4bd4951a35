//! Loading: every file below a folder, or generated records.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use indicatif::ProgressBar;
use tokio::{sync::Semaphore, task::JoinSet};

use super::ledger::{Record, made_key, made_value};
use crate::{
    bench::Latencies,
    exit::{Failure, Kind, Result},
    remote::Keys,
};

/// Files above this are left out: no value may be larger.
pub const FILE_BYTES_MAX: u64 = 6 << 20;
/// Keys above this are left out: no key may be larger.
const KEY_BYTES_MAX: usize = 8 << 10;
/// Generated records.
pub const MADE_RECORDS: u64 = 30_000;
/// Size of such a record.
const MADE_BYTES: u32 = 550;
/// What a record costs besides its value.
const ENTRY_BYTES: u64 = 256;
/// Writes outstanding.
const LOADERS: usize = 128;
/// How long one record is tried. A slow machine is no reason to give up.
const RECORD_LIMIT: Duration = Duration::from_secs(90);
/// Bytes of the writes outstanding, so that large files take turns.
const OUTSTANDING_BYTES: usize = 24 << 20;

/// What is to be loaded, with a guess of its bytes.
pub struct Plan {
    items: Vec<(Bytes, Source)>,
    /// Bytes of all values.
    pub bytes: u64,
    /// Files that were left out, with the reason.
    pub left_out: Vec<(PathBuf, String)>,
}

enum Source {
    Made(u64),
    File {
        path: PathBuf,
        /// Its size when it was listed, at most [`FILE_BYTES_MAX`].
        bytes: u32,
    },
}

impl Source {
    /// About as many bytes as the value has.
    fn bytes(&self) -> u32 {
        match self {
            Source::Made(_) => MADE_BYTES,
            Source::File { bytes, .. } => *bytes,
        }
    }
}

/// What was acknowledged, by key.
pub type Loaded = BTreeMap<Bytes, Record>;

impl Plan {
    /// Generated records.
    pub fn made() -> Self {
        let items: Vec<(Bytes, Source)> = (0..MADE_RECORDS)
            .map(|number| (made_key(number), Source::Made(number)))
            .collect();
        Self {
            bytes: MADE_RECORDS * u64::from(MADE_BYTES),
            items,
            left_out: Vec::new(),
        }
    }

    /// Every regular file below `root` that fits into a value. Symbolic links are not followed.
    ///
    /// # Errors
    /// `root` is no folder, or holds no such file.
    pub fn files(root: &Path) -> Result<Self> {
        let mut plan = Self {
            items: Vec::new(),
            bytes: 0,
            left_out: Vec::new(),
        };
        fs::read_dir(root).map_err(|error| {
            Failure::new(
                Kind::Usage,
                format!("cannot read the folder {} to load", root.display()),
            )
            .because(error)
        })?;
        // One folder is open at a time, however many there are.
        let mut folders = vec![root.to_owned()];
        while let Some(folder) = folders.pop() {
            let entries = match fs::read_dir(&folder) {
                Ok(entries) => entries,
                Err(error) => {
                    plan.left_out.push((folder, error.to_string()));
                    continue;
                }
            };
            for entry in entries {
                match entry {
                    Ok(entry) => plan.visit(root, &entry, &mut folders),
                    Err(error) => plan.left_out.push((folder.clone(), error.to_string())),
                }
            }
        }
        if plan.items.is_empty() {
            return Err(Failure::new(
                Kind::Usage,
                format!("there is no file of at most 6 MiB below {}", root.display()),
            ));
        }
        plan.items.sort_by(|(left, _), (right, _)| left.cmp(right));
        Ok(plan)
    }

    fn visit(&mut self, root: &Path, entry: &fs::DirEntry, folders: &mut Vec<PathBuf>) {
        let path = entry.path();
        let metadata = match entry.metadata() {
            Ok(metadata) => metadata,
            Err(error) => return self.left_out.push((path, error.to_string())),
        };
        if metadata.is_dir() {
            return folders.push(path);
        }
        if !metadata.is_file() {
            return;
        }
        let key = Bytes::copy_from_slice(
            path.strip_prefix(root)
                .expect("the walk began there")
                .as_os_str()
                .as_bytes(),
        );
        if metadata.len() > FILE_BYTES_MAX {
            self.left_out.push((path, "larger than 6 MiB".to_owned()));
        } else if key.len() > KEY_BYTES_MAX {
            self.left_out
                .push((path, "its path is longer than 8 KiB".to_owned()));
        } else {
            self.bytes += metadata.len();
            let bytes = metadata.len() as u32;
            self.items.push((key, Source::File { path, bytes }));
        }
    }

    /// The smallest key.
    pub fn first_key(&self) -> Bytes {
        let keys = self.items.iter().map(|(key, _)| key);
        keys.min().expect("a plan holds something").clone()
    }

    /// Keys that cut the data into `parts` of about the same size.
    pub fn part_keys(&self, parts: usize) -> Vec<Bytes> {
        // Generated keys are in the order of their numbers, not sorted.
        let mut keys: Vec<(&Bytes, u64)> = self
            .items
            .iter()
            .map(|(key, source)| (key, u64::from(source.bytes()) + ENTRY_BYTES))
            .collect();
        keys.sort();
        let total: u64 = keys.iter().map(|(_, bytes)| bytes).sum();
        let mut splits = Vec::new();
        let mut seen = 0;
        for (key, bytes) in keys {
            if splits.len() + 1 < parts && seen >= total * (splits.len() as u64 + 1) / parts as u64
            {
                splits.push(key.clone());
            }
            seen += bytes;
        }
        splits
    }

    /// Writes everything and returns what was acknowledged. `bar` counts the bytes.
    ///
    /// # Errors
    /// A write failed for good: the cluster is healthy in this phase, so that is the end.
    pub async fn write(
        self,
        keys: &Keys,
        latencies: &Arc<Latencies>,
        bar: &ProgressBar,
    ) -> Result<(Loaded, Skipped)> {
        let items = Arc::new(self.items);
        let next = Arc::new(AtomicUsize::new(0));
        let room = Arc::new(Semaphore::new(OUTSTANDING_BYTES));
        let loaded = Arc::new(Mutex::new(Loaded::new()));
        let skipped = Arc::new(Mutex::new(self.left_out));
        let mut tasks = JoinSet::new();
        for loader in 0..LOADERS {
            let (items, next, room, loaded, skipped) = (
                items.clone(),
                next.clone(),
                room.clone(),
                loaded.clone(),
                skipped.clone(),
            );
            let (keys, latencies, bar) = (keys.clone(), latencies.clone(), bar.clone());
            tasks.spawn(async move {
                while let Some((key, source)) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let _room = room
                        .acquire_many(source.bytes().max(1))
                        .await
                        .expect("the semaphore is never closed");
                    let (value, record) = match read(source).await {
                        Ok(read) => read,
                        Err(why) => {
                            let Source::File { path, .. } = source else {
                                unreachable!("generated records are always readable")
                            };
                            skipped
                                .lock()
                                .expect("no holder of this lock panics")
                                .push((path.clone(), why));
                            continue;
                        }
                    };
                    let bytes = value.len();
                    let started = Instant::now();
                    put(&keys, key, &value).await?;
                    latencies.record(loader, started.elapsed());
                    bar.inc(bytes as u64);
                    loaded
                        .lock()
                        .expect("no holder of this lock panics")
                        .insert(key.clone(), record);
                }
                Ok(())
            });
        }
        while let Some(ended) = tasks.join_next().await {
            let written: Result<()> =
                ended.map_err(|error| Failure::environment("a loader broke", error))?;
            written?;
        }
        let loaded = std::mem::take(&mut *loaded.lock().expect("no holder of this lock panics"));
        let skipped = std::mem::take(&mut *skipped.lock().expect("no holder of this lock panics"));
        Ok((loaded, skipped))
    }
}

/// Writes a record, again and again if need be: nobody else writes its key, so once more does no harm.
async fn put(keys: &Keys, key: &Bytes, value: &Bytes) -> Result<()> {
    let deadline = Instant::now() + RECORD_LIMIT;
    loop {
        match keys.put(key.clone(), value.clone(), None).await {
            Err(failure) if failure.kind() == Kind::Unreachable && Instant::now() < deadline => {}
            ended => return ended,
        }
    }
}

/// Files that were not loaded, with the reason.
pub type Skipped = Vec<(PathBuf, String)>;

async fn read(source: &Source) -> Result<(Bytes, Record), String> {
    match source {
        Source::Made(number) => Ok((made_value(*number), Record::Made { number: *number })),
        Source::File { path, .. } => {
            let bytes = tokio::fs::read(path)
                .await
                .map_err(|error| error.to_string())?;
            // It may have grown since it was listed.
            if bytes.len() as u64 > FILE_BYTES_MAX {
                return Err("larger than 6 MiB".to_owned());
            }
            let record = Record::File {
                path: path.clone(),
                bytes: bytes.len() as u64,
                checksum: crc32c::crc32c(&bytes),
            };
            Ok((bytes.into(), record))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_that_fits_is_planned_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        fs::write(dir.path().join("a/b/deep"), "1").unwrap();
        fs::write(dir.path().join("empty"), "").unwrap();
        fs::write(
            dir.path().join("large"),
            vec![0; FILE_BYTES_MAX as usize + 1],
        )
        .unwrap();
        std::os::unix::fs::symlink("empty", dir.path().join("link")).unwrap();
        let plan = Plan::files(dir.path()).unwrap();
        let keys: Vec<&[u8]> = plan.items.iter().map(|(key, _)| &**key).collect();
        assert_eq!(keys, [&b"a/b/deep"[..], b"empty"]);
        assert_eq!(plan.bytes, 1);
        assert_eq!(plan.left_out.len(), 1);
    }

    #[test]
    fn a_folder_without_files_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Plan::files(dir.path()).err().unwrap().kind(), Kind::Usage);
        let missing = dir.path().join("missing");
        assert_eq!(Plan::files(&missing).err().unwrap().kind(), Kind::Usage);
    }

    #[test]
    fn part_keys_cut_generated_records_evenly() {
        let plan = Plan::made();
        let splits = plan.part_keys(8);
        assert_eq!(splits.len(), 7);
        assert!(splits.is_sorted());
        let mut counts = [0; 8];
        for (key, _) in &plan.items {
            counts[splits.partition_point(|split| split <= key)] += 1;
        }
        let even = MADE_RECORDS as i64 / 8;
        assert!(
            counts.iter().all(|count| (*count as i64 - even).abs() <= 1),
            "{counts:?}"
        );
    }
}
