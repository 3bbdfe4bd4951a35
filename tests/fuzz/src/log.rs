//! The write-ahead log as it is checked before RocksDB opens it (R15): torn tails are cut, rot is refused.
//!
//! Logs are written as RocksDB writes them, then harmed. Whatever is found: an undamaged log is kept, no batch goes that is
//! readable and known to be synced, a refusal leaves the files as they are, and what is left is sound when it is checked again.

use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::Error as EngineError;
use crate::parsers::engine::rocks::{check, mark, mask};
use crate::{Input, Seeds};

const BLOCK_BYTES: usize = 32 << 10;
const HEADER_BYTES: usize = 7;
/// What begins the mark of a batch: the type of data that is only logged, and its length.
const MARK_HEAD: [u8; 2] = [3, 16];

thread_local! {
    static FOLDER: RefCell<TempDir> = RefCell::new(tempfile::tempdir().expect("a temporary folder"));
}

/// One run.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    FOLDER.with_borrow(|folder| match input.pick(4) {
        0 => foreign(&mut input, folder.path()),
        _ => written(&mut input, folder.path()),
    });
}

/// Examples: sound logs and harmed ones.
pub fn seeds() -> Seeds {
    let mut log = Log::default();
    log.push(7, 6, &[0xAB; 20]);
    log.push(8, 6, b"a batch");
    let mut foreign = vec![0];
    foreign.extend((log.files[0].len() as u16).to_le_bytes());
    foreign.extend(&log.files[0]);
    // First number, files; for each record: its file, lag and size; then the harm.
    vec![
        ("foreign", foreign),
        (
            "sound",
            b"\x01\x05\x04\x00\x01\x05\x00\x02\x09\x00\x01\x10\x01\x01\x07\x00".to_vec(),
        ),
        (
            "large",
            b"\x01\x05\x03\x00\x01\x06\x04\xff\x01\x06\x08\xff\x00\x01\x07\x00".to_vec(),
        ),
        (
            "torn",
            b"\x01\x05\x03\x00\x01\x05\x00\x04\x09\x00\x01\x10\x01\x00\x10\x00".to_vec(),
        ),
        (
            "rot",
            b"\x01\x05\x04\x00\x01\x05\x00\x00\x09\x00\x00\x10\x00\x00\x11\x01\x01\x0c\x00\x7f"
                .to_vec(),
        ),
        (
            "zeroed",
            b"\x01\x05\x03\x00\x01\x05\x00\x04\x09\x00\x01\x10\x01\x02\x10\x00\x10\x00".to_vec(),
        ),
    ]
}

/// A record as it was written.
struct Record {
    number: u64,
    synced: u64,
    file: usize,
    start: usize,
    end: usize,
}

/// Files of a log, and what is in them.
#[derive(Default)]
struct Log {
    files: Vec<Vec<u8>>,
    records: Vec<Record>,
}

impl Log {
    /// Appends a batch with its mark to the newest file.
    fn push(&mut self, number: u64, synced: u64, batch: &[u8]) {
        if self.files.is_empty() {
            self.files.push(Vec::new());
        }
        let file = self.files.len() - 1;
        let content = &mut self.files[file];
        let start = content.len();
        let record = [batch, &MARK_HEAD, &mark(number, synced)].concat();
        append(content, &record);
        let end = content.len();
        self.records.push(Record {
            number,
            synced,
            file,
            start,
            end,
        });
    }
}

/// Appends a record as RocksDB does: in fragments, none of which crosses a block.
fn append(content: &mut Vec<u8>, mut record: &[u8]) {
    let mut first = true;
    loop {
        let left = BLOCK_BYTES - content.len() % BLOCK_BYTES;
        if left < HEADER_BYTES {
            content.resize(content.len() + left, 0);
            continue;
        }
        let (piece, rest) = record.split_at(record.len().min(left - HEADER_BYTES));
        let kind = match (first, rest.is_empty()) {
            (true, true) => 1,
            (true, false) => 2,
            (false, false) => 3,
            (false, true) => 4,
        };
        let checksum = crc32c::crc32c_append(crc32c::crc32c(&[kind]), piece);
        content.extend(mask(checksum).to_le_bytes());
        content.extend((piece.len() as u16).to_le_bytes());
        content.push(kind);
        content.extend(piece);
        (first, record) = (false, rest);
        if record.is_empty() {
            return;
        }
    }
}

/// Any bytes, in one file or two. Fragments get checksums that fit, lest nothing else is ever looked at.
fn foreign(input: &mut Input, folder: &Path) {
    let first = input.long_bytes().to_vec();
    let mut files = vec![first, input.rest().to_vec()];
    files.retain(|file| !file.is_empty());
    let _any = checked(folder, &files);
    for file in &mut files {
        let mut at = 0;
        while let Some(header) = file.get(at..at + HEADER_BYTES) {
            let length = usize::from(u16::from_le_bytes([header[4], header[5]]));
            let end = at + HEADER_BYTES + length;
            let Some(covered) = file.get(at + 6..end) else {
                break;
            };
            let checksum = mask(crc32c::crc32c(covered)).to_le_bytes();
            file[at..at + 4].copy_from_slice(&checksum);
            at = end;
        }
    }
    let _any = checked(folder, &files);
}

/// A log as a store writes it, harmed in one place or not at all.
fn written(input: &mut Input, folder: &Path) {
    let mut log = Log::default();
    let first = u64::from(input.byte()) + 1;
    let mut bytes = 0;
    for number in (first..).take(input.pick(12)) {
        let lag = 1 + input.number() % 8;
        if input.pick(4) == 3 {
            log.files.push(Vec::new());
        }
        let size = match input.byte() {
            small @ 0..=199 => usize::from(small),
            large => usize::from(large - 199) * 1200,
        };
        bytes += size;
        if bytes > 128 << 10 {
            break;
        }
        log.push(number, number.saturating_sub(lag), &vec![0xAB; size]);
    }
    let Some(last) = log.records.last().map(|record| record.number) else {
        return;
    };
    let harmed = harm(input, &mut log);
    let Ok((last_kept, cut)) = checked(folder, &log.files) else {
        assert!(harmed.is_some(), "a sound log is refused");
        return;
    };
    let Some((file, harm)) = harmed else {
        assert_eq!((last_kept, cut), (last, 0), "a sound log is kept");
        return;
    };
    let is_whole = |record: &&Record| {
        record.file != file || record.end <= harm.start || record.start >= harm.end
    };
    let synced = log.records.iter().filter(is_whole);
    let synced = synced.map(|record| record.synced).max().unwrap_or(0);
    // Numbers below the first were written to files that are gone.
    let known = synced.max(first - 1);
    assert!(
        last_kept >= known || synced < first,
        "{last_kept} kept, {known} synced"
    );
    // What lies before the harm is kept, too, but for an end that was not synced.
    let before = log.records.iter().take_while(is_whole).last();
    assert!(before.is_none_or(|record| last_kept >= record.number));
}

/// Harms a log. Returns in which file, and which bytes; those that are cut reach to the end.
fn harm(input: &mut Input, log: &mut Log) -> Option<(usize, std::ops::Range<usize>)> {
    let kind = input.pick(4);
    let file = input.pick(log.files.len());
    let content = &mut log.files[file];
    if kind == 3 || content.is_empty() {
        return None;
    }
    let at = usize::from(u16::from_le_bytes(input.array())) % content.len();
    match kind {
        0 => {
            let end = content.len();
            content.truncate(at);
            // Cut between two records, nobody can tell that there was more, unless more comes.
            Some((file, at..end))
        }
        1 => {
            content[at] ^= input.byte().max(1);
            Some((file, at..at + 1))
        }
        _ => {
            let length = 1 + usize::from(u16::from_le_bytes(input.array()));
            let end = content.len().min(at + length);
            content[at..end].fill(0);
            Some((file, at..end))
        }
    }
}

/// Checks a log: what is left of it is sound, and only its end is gone.
fn checked(folder: &Path, files: &[Vec<u8>]) -> Result<(u64, u64), EngineError> {
    let path = |index: usize| -> PathBuf { folder.join(format!("{:06}.log", index * 3 + 8)) };
    for old in fs::read_dir(folder).expect("the folder is there").flatten() {
        fs::remove_file(old.path()).expect("it was just listed");
    }
    for (index, content) in files.iter().enumerate() {
        fs::write(path(index), content).expect("it can be written");
    }
    let read = |index| fs::read(path(index)).expect("it is there");
    match check(folder) {
        Ok((last, cut)) => {
            let mut missing = 0;
            for (index, content) in files.iter().enumerate() {
                let left = read(index);
                assert!(content.starts_with(&left), "only ends are cut");
                missing += content.len() - left.len();
            }
            assert_eq!(missing as u64, cut);
            assert!(matches!(check(folder), Ok(again) if again == (last, 0)));
            Ok((last, cut))
        }
        Err(error) => {
            assert!(matches!(error, EngineError::Corrupt { .. }), "{error:?}");
            for (index, content) in files.iter().enumerate() {
                assert!(read(index) == *content, "a refused log stays as it is");
            }
            Err(error)
        }
    }
}
