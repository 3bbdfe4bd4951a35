//! Takes files off the list of a RocksDB database that is not open.
//!
//! RocksDB can drop files that lie in a range, but not of its first level, where every file has a range of its own making, and
//! not one by its number. Its list of files is a log of edits, the manifest, in the format of the write-ahead log
//! ([`super::log_check`]); an edit is tagged numbers. So one edit more is appended, to a copy that then replaces the manifest: a
//! stop leaves one or the other. RocksDB deletes what its list does not name when it opens.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use super::open::sync_directory;
use super::table::mask;
use crate::{Error, Family};

/// Names the manifest.
const CURRENT: &str = "CURRENT";
/// What RocksDB takes for a leftover.
const NEW: &str = "000000.dbtmp";
const BLOCK_BYTES: usize = 32 << 10;
const HEADER_BYTES: usize = 7;
/// Tags of an edit: a level and a file of it that goes; the column family that this is of.
const DELETED_FILE: u64 = 6;
const COLUMN_FAMILY: u64 = 200;

/// Takes files, each a level and a number, off the list of a family.
pub(super) fn drop_files(
    directory: &Path,
    family: Family,
    files: &[(i32, u64)],
) -> Result<(), Error> {
    if files.is_empty() {
        return Ok(());
    }
    let io = |source| Error::io("edit the list of files", source);
    let current = fs::read_to_string(directory.join(CURRENT)).map_err(io)?;
    let manifest = directory.join(current.trim_end());
    let mut content = fs::read(&manifest).map_err(io)?;
    append(&mut content, &edit(family, files));
    let new = directory.join(NEW);
    let mut file = File::create(&new).map_err(io)?;
    file.write_all(&content).map_err(io)?;
    file.sync_all().map_err(io)?;
    fs::rename(&new, &manifest).map_err(io)?;
    sync_directory(directory)
}

fn edit(family: Family, files: &[(i32, u64)]) -> Vec<u8> {
    let mut edit = Vec::new();
    for (level, number) in files {
        for part in [DELETED_FILE, u64::from(level.unsigned_abs()), *number] {
            put_varint(&mut edit, part);
        }
    }
    put_varint(&mut edit, COLUMN_FAMILY);
    // Families are numbered in the order in which they were created, after RocksDB's own.
    put_varint(&mut edit, family as u64 + 1);
    edit
}

fn put_varint(into: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        into.push(number as u8 | 0x80);
        number >>= 7;
    }
    into.push(number as u8);
}

/// Appends a record to a log, in as many fragments as it takes.
fn append(log: &mut Vec<u8>, mut record: &[u8]) {
    const WHOLE: u8 = 1;
    let mut is_first = true;
    loop {
        let left = BLOCK_BYTES - log.len() % BLOCK_BYTES;
        if left < HEADER_BYTES {
            log.resize(log.len() + left, 0);
            continue;
        }
        let (fragment, rest) = record.split_at(record.len().min(left - HEADER_BYTES));
        let kind = match (is_first, rest.is_empty()) {
            (true, true) => WHOLE,
            (true, false) => 2,
            (false, false) => 3,
            (false, true) => 4,
        };
        let checksum = mask(crc32c::crc32c_append(crc32c::crc32c(&[kind]), fragment));
        log.extend_from_slice(&checksum.to_le_bytes());
        log.extend_from_slice(&(fragment.len() as u16).to_le_bytes());
        log.push(kind);
        log.extend_from_slice(fragment);
        if rest.is_empty() {
            return;
        }
        record = rest;
        is_first = false;
    }
}
