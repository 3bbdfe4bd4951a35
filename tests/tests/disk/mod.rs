//! Directories as a later version of pontoon, or a bad disk, would leave them.

use std::path::Path;

use anyhow::{Context, Result, ensure};

/// The key of the record that says whose a directory is, with its length in front as in RocksDB's batches.
const IDENTITY: [u8; 10] = [9, 255, 255, 255, 255, 255, 255, 255, 255, 255];
/// The record's last fields: the format, 1, before the version of the client interface, 1.
const FORMAT: [u8; 4] = [0x20, 2, 0x28, 1];
/// Checksum, length and kind in front of each record of RocksDB's log.
const HEADER: usize = 7;
/// What precedes a value of a client in a sorted file that was compacted: RocksDB's end of a key, without a sequence, and the
/// store's word that it never ends.
const VALUE: [u8; 9] = [1, 0, 0, 0, 0, 0, 0, 0, 0];
/// Records do not cross the blocks of a log; the first one holds what the first start writes.
const BLOCK: usize = 32 << 10;

/// Raises the format in the directory of a process that was killed soon after its first start, when RocksDB has nothing
/// but its log. Returns how many versions of the record there were.
pub fn raise_format(directory: &Path, format: u8) -> Result<usize> {
    ensure!(format < 0x80, "the number takes one byte");
    let mut raised = 0;
    for entry in std::fs::read_dir(directory.join("db"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "log") {
            let mut log = std::fs::read(&path)?;
            raised += raise_in_log(&mut log, format).with_context(|| path.display().to_string())?;
            std::fs::write(&path, log)?;
        }
    }
    Ok(raised)
}

fn raise_in_log(log: &mut [u8], format: u8) -> Result<usize> {
    let end = log.len().min(BLOCK);
    let (mut at, mut raised) = (0, 0);
    while at + HEADER < end {
        let length = usize::from(u16::from_le_bytes([log[at + 4], log[at + 5]]));
        let record = log
            .get_mut(at..at + HEADER + length)
            .context("a whole record")?;
        ensure!(
            record[..4] == checksum(&record[6..]).to_le_bytes(),
            "the record at {at} is not of the form that this test knows"
        );
        if let Some(key) = position(record, &IDENTITY) {
            let field = position(&record[key..], &FORMAT).context("a format")?;
            record[key + field + 1] = format;
            let sum = checksum(&record[6..]);
            record[..4].copy_from_slice(&sum.to_le_bytes());
            raised += 1;
        }
        at += HEADER + length;
    }
    Ok(raised)
}

/// Whether RocksDB has compacted the state of a store that was opened just before, and is not compacting.
pub fn is_at_rest(directory: &Path) -> Result<bool> {
    let log = std::fs::read_to_string(directory.join("db/LOG"))?;
    let began = |line: &&str| line.contains(r#""event": "compaction_started""#);
    let (begun, ended) = (
        log.lines().filter(began).count(),
        log.matches(r#""event": "compaction_finished""#).count(),
    );
    let of_state = log
        .lines()
        .filter(began)
        .any(|line| line.contains(r#""cf_name": "state""#));
    Ok(of_state && begun == ended)
}

/// Changes a bit in the last byte of a value in the sorted files of a store that does not run. Returns how many files had it.
/// Those of the log have it, too, in another form.
pub fn rot_value(directory: &Path, value: &[u8]) -> Result<usize> {
    let text = [&VALUE[..], value].concat();
    let mut rotten = 0;
    for entry in std::fs::read_dir(directory.join("db"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "sst") {
            let mut file = std::fs::read(&path)?;
            if let Some(at) = position(&file, &text) {
                file[at + text.len() - 1] ^= 1;
                std::fs::write(&path, file)?;
                rotten += 1;
            }
        }
    }
    Ok(rotten)
}

fn position(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes
        .windows(wanted.len())
        .position(|window| window == wanted)
}

/// CRC-32C, turned as RocksDB stores it.
fn checksum(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 };
        }
    }
    (!crc).rotate_right(15).wrapping_add(0xa282_ead8)
}
