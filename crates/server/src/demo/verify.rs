//! Reading back every acknowledged write, and deleting most of them.

use std::{
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use indicatif::ProgressBar;
use tokio::{sync::Semaphore, task::JoinSet};

use super::{
    ledger::{Record, made_value, written_version},
    load::Loaded,
    writers::Part,
};
use crate::{
    bench::Latencies,
    cli::escape,
    exit::{Failure, Result},
    remote::Keys,
};

/// Reads outstanding.
const READERS: usize = 128;
/// Bytes of the values that they wait for, so that large files take turns.
const OUTSTANDING_BYTES: usize = 24 << 20;
/// How long one key is asked for before it counts as lost: an answer is owed.
const READ_LIMIT: Duration = Duration::from_secs(30);
/// Losses that are named one by one.
const NAMED_MAX: usize = 20;

/// What came of it.
#[derive(Default)]
pub struct Verdict {
    /// Acknowledged writes that were looked for.
    pub acknowledged: u64,
    /// Those that are there, or were replaced by a later one that is.
    pub verified: u64,
    /// Those that are not.
    pub lost: u64,
    /// Keys read.
    pub keys: u64,
    /// The first losses: the key and what is wrong.
    pub losses: Vec<String>,
    /// Files that changed on disk since they were loaded; the checksum of what was loaded decided.
    pub changed: u64,
}

/// One key to look for.
enum Expected {
    Loaded(Bytes, Record),
    Written {
        part: Arc<Part>,
        number: usize,
    },
    /// It was deleted, which was acknowledged.
    Deleted(Bytes),
}

/// Nine of ten keys, chosen by their bytes.
fn is_to_go(key: &[u8]) -> bool {
    !crc32c::crc32c(key).is_multiple_of(10)
}

/// Everything that is expected, in no order that matters.
fn expect(loaded: &Loaded, parts: &[Arc<Part>]) -> Vec<Expected> {
    let loaded = loaded
        .iter()
        .map(|(key, record)| Expected::Loaded(key.clone(), record.clone()));
    let written = parts.iter().flat_map(|part| {
        (0..part.book.len()).map(|number| Expected::Written {
            part: part.clone(),
            number,
        })
    });
    loaded.chain(written).collect()
}

/// Deletes nine of ten keys and returns how many went. `bar` counts them.
///
/// # Errors
/// A delete failed for good, or a task broke.
pub async fn delete_most(
    keys: &Keys,
    loaded: &Loaded,
    parts: &[Arc<Part>],
    bar: &ProgressBar,
) -> Result<u64> {
    let expected = expect(loaded, parts).into_iter();
    let doomed: Vec<Bytes> = expected
        .map(|expected| expected.key())
        .filter(|key| is_to_go(key))
        .collect();
    let count = doomed.len() as u64;
    bar.set_length(count);
    let (doomed, next) = (Arc::new(doomed), Arc::new(AtomicUsize::new(0)));
    let mut tasks = JoinSet::new();
    for _ in 0..READERS {
        let (doomed, next) = (doomed.clone(), next.clone());
        let (keys, bar) = (keys.clone(), bar.clone());
        tasks.spawn(async move {
            while let Some(key) = doomed.get(next.fetch_add(1, Ordering::Relaxed)) {
                let deadline = Instant::now() + READ_LIMIT;
                // Nobody writes the key any more, so once more does no harm.
                while let Err(failure) = keys.delete(key.clone()).await {
                    if Instant::now() >= deadline {
                        return Err(failure);
                    }
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                bar.inc(1);
            }
            Ok(())
        });
    }
    while let Some(ended) = tasks.join_next().await {
        let deleted: Result<()> =
            ended.map_err(|error| Failure::environment("a writer broke", error))?;
        deleted?;
    }
    Ok(count)
}

/// What is to be found.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum After {
    /// Everything that was written.
    Writes,
    /// What [`delete_most`] left, and nothing of what it deleted.
    Deletes,
}

/// Reads everything back. `bar` counts keys.
///
/// # Errors
/// A reader broke. A write that is lost is no error here but part of the verdict.
pub async fn verify(
    keys: &Keys,
    loaded: &Loaded,
    parts: &[Arc<Part>],
    after: After,
    latencies: &Arc<Latencies>,
    bar: &ProgressBar,
) -> Result<Verdict> {
    let mut expected = expect(loaded, parts);
    if after == After::Deletes {
        for expected in &mut expected {
            let key = expected.key();
            if is_to_go(&key) {
                *expected = Expected::Deleted(key);
            }
        }
    }
    bar.set_length(expected.len() as u64);

    let expected = Arc::new(expected);
    let room = Arc::new(Semaphore::new(OUTSTANDING_BYTES));
    let next = Arc::new(AtomicUsize::new(0));
    let verdict = Arc::new(Mutex::new(Verdict::default()));
    let mut tasks = JoinSet::new();
    for reader in 0..READERS {
        let (expected, next, verdict) = (expected.clone(), next.clone(), verdict.clone());
        let room = room.clone();
        let (keys, latencies, bar) = (keys.clone(), latencies.clone(), bar.clone());
        tasks.spawn(async move {
            while let Some(expected) = expected.get(next.fetch_add(1, Ordering::Relaxed)) {
                let key = expected.key();
                let _room = room
                    .acquire_many(expected.bytes())
                    .await
                    .expect("the semaphore is never closed");
                let found = read(&keys, &key, reader, &latencies).await;
                let judged = match found {
                    Ok(found) => expected.judge(&key, found).await,
                    Err(why) => Judged {
                        wrong: Some(why),
                        changed: false,
                    },
                };
                bar.inc(1);
                let acknowledged = expected.acknowledged();
                let mut verdict = verdict.lock().expect("no holder of this lock panics");
                verdict.keys += 1;
                verdict.acknowledged += acknowledged;
                verdict.changed += u64::from(judged.changed);
                match judged.wrong {
                    None => verdict.verified += acknowledged,
                    Some(wrong) => {
                        // A key that was never acknowledged can be wrong, too: it holds what nobody wrote.
                        verdict.lost += acknowledged.max(1);
                        if verdict.losses.len() < NAMED_MAX {
                            verdict.losses.push(format!("{}: {wrong}", escape(&key)));
                        }
                    }
                }
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.map_err(|error| Failure::environment("a reader broke", error))?;
    }
    let verdict = std::mem::take(&mut *verdict.lock().expect("no holder of this lock panics"));
    Ok(verdict)
}

/// Asks until there is an answer.
async fn read(
    keys: &Keys,
    key: &Bytes,
    reader: usize,
    latencies: &Latencies,
) -> Result<Option<Bytes>, String> {
    let deadline = Instant::now() + READ_LIMIT;
    loop {
        let started = Instant::now();
        match keys.get(key.clone()).await {
            Ok(found) => {
                latencies.record(reader, started.elapsed());
                return Ok(found);
            }
            Err(failure) if Instant::now() >= deadline => {
                return Err(format!("cannot be read: {failure}"));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

struct Judged {
    wrong: Option<String>,
    changed: bool,
}

impl Expected {
    fn key(&self) -> Bytes {
        match self {
            Self::Loaded(key, _) | Self::Deleted(key) => key.clone(),
            Self::Written { part, number } => part.key(*number),
        }
    }

    /// About so many bytes will be read.
    fn bytes(&self) -> u32 {
        match self {
            Self::Loaded(_, Record::File { bytes, .. }) => *bytes as u32 + 1,
            Self::Loaded(_, Record::Made { .. }) | Self::Written { .. } | Self::Deleted(_) => 1000,
        }
    }

    /// How many acknowledged writes this key stands for.
    fn acknowledged(&self) -> u64 {
        match self {
            Self::Loaded(..) | Self::Deleted(_) => 1,
            Self::Written { part, number } => u64::from(part.book.slot(*number).acknowledgements),
        }
    }

    async fn judge(&self, key: &[u8], found: Option<Bytes>) -> Judged {
        let mut changed = false;
        let wrong = match self {
            Self::Loaded(_, record) => match (found, record) {
                (None, _) => Some("missing".to_owned()),
                (Some(found), Record::Made { number }) => {
                    (found != made_value(*number)).then(|| "altered".to_owned())
                }
                (
                    Some(found),
                    Record::File {
                        path,
                        bytes,
                        checksum,
                    },
                ) => {
                    let sound = found.len() as u64 == *bytes && crc32c::crc32c(&found) == *checksum;
                    let same = same_as_file(path, &found).await;
                    changed = sound && !same;
                    // The checksum is that of the acknowledged bytes, so it decides when the file has changed since.
                    (!sound).then(|| format!("altered: {} bytes instead of {bytes}", found.len()))
                }
            },
            Self::Deleted(_) => found.map(|_| "there, although it was deleted".to_owned()),
            Self::Written { part, number } => {
                let slot = part.book.slot(*number);
                let version = found.as_ref().map(|found| written_version(key, found));
                match version {
                    Some(None) => Some("altered".to_owned()),
                    Some(Some(version)) if !slot.allows(Some(version)) => Some(format!(
                        "version {version}, although {} was acknowledged and {} sent last",
                        slot.acknowledged, slot.sent
                    )),
                    None if !slot.allows(None) => Some(format!(
                        "missing, although version {} was acknowledged",
                        slot.acknowledged
                    )),
                    _ => None,
                }
            }
        };
        Judged { wrong, changed }
    }
}

async fn same_as_file(path: &Path, found: &[u8]) -> bool {
    tokio::fs::read(path)
        .await
        .is_ok_and(|bytes| bytes == found)
}

#[cfg(test)]
mod tests {
    use super::super::ledger::written_value;
    use super::*;

    #[tokio::test]
    async fn a_file_is_compared_with_the_disk_and_with_what_was_acknowledged() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, "content").unwrap();
        let expected = Expected::Loaded(
            Bytes::from("f"),
            Record::File {
                path: path.clone(),
                bytes: 7,
                checksum: crc32c::crc32c(b"content"),
            },
        );
        let judged = expected.judge(b"f", Some(Bytes::from("content"))).await;
        assert!(judged.wrong.is_none() && !judged.changed);
        assert!(expected.judge(b"f", None).await.wrong.is_some());
        assert!(
            expected
                .judge(b"f", Some(Bytes::from("c0ntent")))
                .await
                .wrong
                .is_some()
        );
        std::fs::write(&path, "edited").unwrap();
        let judged = expected.judge(b"f", Some(Bytes::from("content"))).await;
        assert!(judged.wrong.is_none() && judged.changed);
    }

    #[tokio::test]
    async fn a_record_that_is_missing_or_altered_is_found() {
        let expected = Expected::Loaded(Bytes::from("k"), Record::Made { number: 5 });
        assert!(
            expected
                .judge(b"k", Some(made_value(5)))
                .await
                .wrong
                .is_none()
        );
        assert!(
            expected
                .judge(b"k", Some(made_value(6)))
                .await
                .wrong
                .is_some()
        );
        assert!(expected.judge(b"k", None).await.wrong.is_some());
        let deleted = Expected::Deleted(Bytes::from("k"));
        assert!(deleted.judge(b"k", None).await.wrong.is_none());
        assert!(
            deleted
                .judge(b"k", Some(made_value(5)))
                .await
                .wrong
                .is_some()
        );
    }

    #[tokio::test]
    async fn a_written_key_is_judged_by_what_was_acknowledged() {
        let part = Arc::new(Part::new(Bytes::from("base"), 3));
        let (number, first) = part.book.begin_new();
        let expected = Expected::Written {
            part: part.clone(),
            number,
        };
        let key = expected.key();
        let wrong = async |found| expected.judge(&key, found).await.wrong;
        let value = |version| Some(written_value(&key, version));
        assert_eq!(wrong(None).await, None, "it was never acknowledged");
        assert_eq!(wrong(value(first)).await, None);
        part.book.acknowledge(number, first);
        let missing = wrong(None).await.expect("an acknowledged write is gone");
        assert!(missing.starts_with("missing"), "{missing}");
        let second = part.book.begin_again(number).expect("it was answered");
        assert_eq!(wrong(value(first)).await, None);
        part.book.acknowledge(number, second);
        let old = wrong(value(first)).await.expect("the newest is gone");
        assert!(old.starts_with("version 1"), "{old}");
        assert_eq!(wrong(value(second)).await, None);
        assert!(wrong(value(second + 1)).await.is_some(), "nobody sent it");
        let other = Some(written_value(b"other", second));
        assert_eq!(wrong(other).await.as_deref(), Some("altered"));
    }
}
