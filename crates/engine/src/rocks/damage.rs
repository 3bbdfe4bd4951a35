//! Sorted files that RocksDB's own compaction cannot read (STORAGE §9).
//!
//! RocksDB takes no more writes then, and a database that is open cannot be told to go on. So the file is noted, and left out
//! when the engine opens the next time: [`repair`] writes the keys that may not be lost anew, remembers the range of the others as
//! lost ([`crate::lost`]), and takes the file off RocksDB's list ([`super::manifest`]). Each step may be repeated.
//!
//! What must survive a stop is one small file of lines with a checksum, replaced as a whole:
//! `met NUMBER` for each file that was noted and not left out yet, `lost START END` in hexadecimal for each lost range.

use std::fs;
use std::io::{ErrorKind, Write};
use std::path::Path;

use rocksdb::{DB, LiveFile, ReadOptions, WriteBatch, WriteOptions};

use super::handles::Database;
use super::open::{DATABASE, open_database, sync_directory};
use super::options::Prepared;
use super::{convert, manifest};
use crate::lost::LostRanges;
use crate::{Error, Family};

/// The file, below the engine's directory.
const NAME: &str = "DAMAGE";
const NEW_NAME: &str = "DAMAGE.new";

/// What is known of damaged files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Record {
    /// Numbers of files that compaction met.
    pub(super) met: Vec<u64>,
    pub(super) lost: LostRanges,
}

impl Record {
    /// # Errors
    /// [`Error::Corrupt`] when the record itself is damaged: what is lost is not known then.
    pub(super) fn load(engine: &Path) -> Result<Record, Error> {
        let path = engine.join(NAME);
        match fs::read(&path) {
            Ok(content) => {
                let record = std::str::from_utf8(&content).ok().and_then(Record::parse);
                record.ok_or_else(|| Error::Corrupt {
                    what: path.display().to_string(),
                    source: None,
                })
            }
            Err(source) if source.kind() == ErrorKind::NotFound => Ok(Record::default()),
            Err(source) => Err(Error::io("read the record of damage", source)),
        }
    }

    /// Durable when it returns.
    pub(super) fn store(&self, engine: &Path) -> Result<(), Error> {
        let io = |source| Error::io("write the record of damage", source);
        let new = engine.join(NEW_NAME);
        let mut file = fs::File::create(&new).map_err(io)?;
        file.write_all(self.text().as_bytes()).map_err(io)?;
        file.sync_all().map_err(io)?;
        fs::rename(&new, engine.join(NAME)).map_err(io)?;
        sync_directory(engine)
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for number in &self.met {
            text.push_str(&format!("met {number}\n"));
        }
        for (start, end) in self.lost.ranges() {
            text.push_str(&format!(
                "lost {} {}\n",
                hexadecimal(start),
                hexadecimal(end)
            ));
        }
        let checksum = crc32c::crc32c(text.as_bytes());
        text.push_str(&format!("crc32c {checksum:08x}\n"));
        text
    }

    fn parse(text: &str) -> Option<Record> {
        let at = text.rfind("crc32c ")?;
        let (lines, checksum) = text.split_at(at);
        if checksum != format!("crc32c {:08x}\n", crc32c::crc32c(lines.as_bytes())) {
            return None;
        }
        let mut record = Record::default();
        for line in lines.lines() {
            match line.split(' ').collect::<Vec<_>>()[..] {
                ["met", number] => record.met.push(number.parse().ok()?),
                ["lost", start, end] => record.lost.add(&bytes(start)?, &bytes(end)?),
                _ => return None,
            }
        }
        Some(record)
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes().chunks(2);
    let byte = |digits: &[u8]| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok();
    digits.map(byte).collect()
}

/// The sorted file of the database that cannot be read, if that is what an error says. The binding gives no more than RocksDB's
/// text, which names the file of a block with a wrong checksum and of a failed read.
pub(super) fn unreadable_file(source: &rocksdb::Error) -> Option<u64> {
    let text = source.as_ref();
    let damaged = match source.kind() {
        rocksdb::ErrorKind::Corruption => true,
        rocksdb::ErrorKind::IOError => is_failed_read(text),
        _ => false,
    };
    let name = file_name(text).filter(|_| damaged)?;
    number(name)
}

/// Whether an I/O error is of reading a file's content, or of a file that is not there. All else, as too many open files, says
/// nothing of the data.
pub(super) fn is_failed_read(text: &str) -> bool {
    text.contains("While pread") || text.contains("No such file or directory")
}

/// The part of a text that names a sorted file of the database, without the directory.
pub(super) fn file_name(text: &str) -> Option<&str> {
    let end = text.find(".sst")?;
    let start = text[..end].rfind(|letter: char| !letter.is_ascii_digit())?;
    let in_database = text[..=start].trim_end_matches('/').ends_with(DATABASE);
    (in_database && start + 1 < end).then(|| &text[start + 1..end + ".sst".len()])
}

fn number(name: &str) -> Option<u64> {
    name.trim_start_matches('/')
        .strip_suffix(".sst")?
        .parse()
        .ok()
}

/// Leaves the noted files out of a database that is not open. The notes stay, for [`check`] once it is open.
pub(super) fn repair(
    path: &Path,
    record: &mut Record,
    losable_from: Option<&[u8]>,
    mut calm: Prepared,
) -> Result<(), Error> {
    if record.met.is_empty() {
        return Ok(());
    }
    // Compaction would meet the file again.
    for family in &mut calm.families {
        family.set_disable_auto_compactions(true);
    }
    let directory = path.join(DATABASE);
    let database = Database::new(open_database(&directory, &calm.database, &calm)?);
    let found = noted(&database.db, record)?;
    let mut dropped = Vec::with_capacity(found.len());
    for file in &found {
        let of_state = file.column_family_name == Database::NAMES[Family::State as usize];
        let Some(from) = losable_from.filter(|_| of_state) else {
            return Err(Error::Corrupt {
                what: format!("{}{}", directory.display(), file.name),
                source: Some(
                    format!(
                        "nothing else tells what this file of {} held: take the directory away and begin with an empty one",
                        file.column_family_name
                    )
                    .into(),
                ),
            });
        };
        if dropped.is_empty() {
            write_anew(&database, from)?;
        }
        let (start, end) = range(file);
        record.lost.add(start.as_slice().max(from), &end);
        dropped.extend(number(&file.name).map(|number| (file.level, number)));
    }
    record.store(path)?;
    // Nothing may change the list while it is edited.
    drop(database);
    manifest::drop_files(&directory, Family::State, &dropped)
}

/// Forgets the notes, once RocksDB opened without the files.
pub(super) fn check(path: &Path, db: &DB, record: &mut Record) -> Result<(), Error> {
    if record.met.is_empty() {
        return Ok(());
    }
    if let Some(file) = noted(db, record)?.first() {
        return Err(Error::Corrupt {
            what: format!("{}{}", path.join(DATABASE).display(), file.name),
            source: Some("it could not be left out".into()),
        });
    }
    record.met.clear();
    record.store(path)
}

/// The files that were noted and are still in use: others were replaced meanwhile, as those of a compaction that failed.
fn noted(db: &DB, record: &Record) -> Result<Vec<LiveFile>, Error> {
    let mut files = db
        .live_files()
        .map_err(|source| convert("list files", source))?;
    files.retain(|file| number(&file.name).is_some_and(|number| record.met.contains(&number)));
    Ok(files)
}

/// The keys of a file, half-open.
fn range(file: &LiveFile) -> (Vec<u8>, Vec<u8>) {
    let mut end = file.end_key.clone().unwrap_or_default();
    end.push(0);
    (file.start_key.clone().unwrap_or_default(), end)
}

/// Writes every key below `end` into a new file above all others, with a range delete below it: whatever the files that are left
/// out said of them counts no more. All or nothing, and durable when it returns.
fn write_anew(database: &Database, end: &[u8]) -> Result<(), Error> {
    const OPERATION: &str = "write anew what a damaged file may not take along";
    let family = database.family(Family::State);
    let mut batch = WriteBatch::default();
    batch.delete_range_cf(family, &[][..], end);
    let mut options = ReadOptions::default();
    options.fill_cache(false);
    options.set_iterate_upper_bound(end);
    let mut iterator = database.db.raw_iterator_cf_opt(family, options);
    iterator.seek_to_first();
    while let Some((key, value)) = iterator.item() {
        batch.put_cf(family, key, value);
        iterator.next();
    }
    iterator
        .status()
        .map_err(|source| convert(OPERATION, source))?;
    // Not by way of the log, which holds numbered batches only.
    let mut unlogged = WriteOptions::default();
    unlogged.disable_wal(true);
    database
        .db
        .write_opt(batch, &unlogged)
        .and_then(|()| database.db.flush_cf(family))
        .map_err(|source| convert(OPERATION, source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_survive_and_damaged_ones_are_noticed() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut record = Record::default();
        assert_eq!(Record::load(directory.path()).expect("none"), record);
        record.met = vec![7, 12];
        record.lost.add(b"\x10a", b"\x10m\0\xff");
        record.lost.add(b"", b"\x01");
        record.store(directory.path()).expect("the disk works");
        assert_eq!(Record::load(directory.path()).expect("sound"), record);
        let path = directory.path().join(NAME);
        let sound = fs::read(&path).expect("it is there");
        for at in 0..sound.len() {
            let mut bad = sound.clone();
            // With the second, it is no text any more.
            for change in [1, 0x80] {
                bad[at] = sound[at] ^ change;
                fs::write(&path, &bad).expect("the disk works");
                let found = Record::load(directory.path());
                assert!(matches!(found, Err(Error::Corrupt { .. })), "byte {at}");
            }
            fs::write(&path, &sound[..at]).expect("the disk works");
            assert!(Record::load(directory.path()).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn files_are_named_only_by_texts_that_name_one_of_the_database() {
        for (text, name) in [
            (
                "checksum mismatch in /a/db/000012.sst offset 0",
                Some("000012.sst"),
            ),
            (
                "checksum mismatch in /a/db//000012.sst offset 0",
                Some("000012.sst"),
            ),
            ("checksum mismatch in /a/staging/000012.sst offset 0", None),
            ("checksum mismatch in /a/db/x12.sst offset 0", None),
            ("checksum mismatch in /a/db/.sst offset 0", None),
            ("sst file size mismatch", None),
        ] {
            assert_eq!(file_name(text), name, "{text}");
        }
        assert!(is_failed_read(
            "While pread offset 0 len 53: /a/db/000012.sst: Input/output error"
        ));
        assert!(!is_failed_read(
            "While appending to file: /a/db/000012.sst: Input/output error"
        ));
        assert!(!is_failed_read(
            "While open a file: /a/db/000012.sst: Too many open files"
        ));
    }
}
