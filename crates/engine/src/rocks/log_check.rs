//! Tells a torn tail of the write-ahead log from rot, before RocksDB opens it (R15).
//!
//! After a power loss the unsynced end of the log may be missing, cut inside a record, zeroed or garbage. RocksDB accepts
//! some of these and refuses others, skips over zeros, and goes on with the next log file where an older one ended
//! early. So the log is read here first, and cut where it stops making sense, if that is right.
//!
//! Each logged batch ends with a mark: its number, and the number up to which batches were synced when it was built.
//! Numbers ascend by one. The first bad record is the end of the log unless a readable mark behind it says that it had
//! been synced: then something else damaged it, and cutting would forget votes and entries.
//!
//! RocksDB's log format: blocks of 32 KiB hold fragments `masked crc32c u32 ‖ length u16 ‖ type u8 ‖ content`; a record
//! is one full fragment, or a first, middle ones and a last. Numbers are little-endian.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use super::table::mask;
use crate::Error;

const BLOCK_BYTES: usize = 32 << 10;
const HEADER_BYTES: usize = 7;

/// Length of a mark.
pub(super) const MARK_BYTES: usize = 16;
/// How a mark is recorded at the end of a batch: the type of data that is only logged, the length, the mark.
const MARK_RECORD_BYTES: usize = 2 + MARK_BYTES;
const LOG_DATA: u8 = 3;

/// What is put into a batch: its own number, and the number up to which batches are synced.
pub(super) fn mark(number: u64, synced: u64) -> [u8; MARK_BYTES] {
    let mut mark = [0; MARK_BYTES];
    let (first, second) = mark.split_at_mut(8);
    first.copy_from_slice(&number.to_le_bytes());
    second.copy_from_slice(&synced.to_le_bytes());
    mark
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark {
    number: u64,
    synced: u64,
}

impl Mark {
    /// The mark at the end of a record.
    fn of_record(end: &[u8]) -> Option<Mark> {
        let (_, record) = end.split_at_checked(end.len().checked_sub(MARK_RECORD_BYTES)?)?;
        let (head, mark) = record.split_at(2);
        if head != [LOG_DATA, MARK_BYTES as u8] {
            return None;
        }
        let (number, synced) = mark.split_at(8);
        Some(Mark {
            number: u64::from_le_bytes(number.try_into().ok()?),
            synced: u64::from_le_bytes(synced.try_into().ok()?),
        })
    }
}

/// The state of a log that was checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Checked {
    /// The number of the newest batch in it; 0 if it is empty.
    pub(super) last_number: u64,
    /// Bytes that were cut from its end.
    pub(super) bytes_cut: u64,
}

/// Checks the log files of a database that is not open, and cuts a bad tail.
///
/// # Errors
/// [`Error::Corrupt`] when a batch that had been synced cannot be read; nothing is changed then.
pub(super) fn check(directory: &Path) -> Result<Checked, Error> {
    let files = log_files(directory)?;
    let mut survey = Survey::default();
    for (index, path) in files.iter().enumerate() {
        let file =
            File::open(path).map_err(|source| Error::io("open the write-ahead log", source))?;
        read_file(file, &mut |finding| survey.note(index, finding))?;
    }
    let damaged = |why: &'static str| Error::Corrupt {
        what: format!("write-ahead log in {}", directory.display()),
        source: Some(why.into()),
    };
    let cut = survey.judge().map_err(damaged)?;
    let bytes_cut = match cut {
        Some(cut) => cut_files(&files, cut)?,
        None => 0,
    };
    Ok(Checked {
        last_number: survey.last_kept(cut),
        bytes_cut,
    })
}

/// Log files in the order of their numbers.
fn log_files(directory: &Path) -> Result<Vec<PathBuf>, Error> {
    let io = |source| Error::io("list the write-ahead log", source);
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let number = path
            .file_stem()
            .and_then(|stem| stem.to_str())
            .and_then(|stem| stem.parse::<u64>().ok());
        if let (Some(number), Some("log")) = (
            number,
            path.extension().and_then(|extension| extension.to_str()),
        ) {
            files.push((number, path));
        }
    }
    files.sort_unstable();
    Ok(files.into_iter().map(|(_, path)| path).collect())
}

/// A place in the log: index of the file, and offset in it.
type Place = (usize, u64);

/// Cuts the log at a place. Returns how many bytes went.
fn cut_files(files: &[PathBuf], (index, offset): Place) -> Result<u64, Error> {
    let io = |source| Error::io("cut the write-ahead log", source);
    let mut bytes_cut = 0;
    // From the end, so that a stop in between leaves a shorter bad tail and not a hole.
    for (at, path) in files.iter().enumerate().skip(index).rev() {
        let file = OpenOptions::new().write(true).open(path).map_err(io)?;
        let keep = if at == index { offset } else { 0 };
        bytes_cut += file.metadata().map_err(io)?.len().saturating_sub(keep);
        file.set_len(keep).map_err(io)?;
        file.sync_all().map_err(io)?;
    }
    Ok(bytes_cut)
}

/// What reading a log file finds, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Finding {
    /// A whole record, where it starts, and its mark.
    Record(u64, Option<Mark>),
    /// Where something starts that is no record.
    Bad(u64),
}

/// What was found in all files.
#[derive(Debug, Default)]
struct Survey {
    /// Number and file of the last record before anything bad.
    last: Option<(u64, usize)>,
    /// The first bad place.
    bad: Option<Place>,
    /// Whether a record was readable behind it.
    readable_behind: bool,
    /// Where a file does not continue the one before, with the last number before it; before anything bad.
    gaps: Vec<(Place, u64)>,
    /// The highest number known to be synced. Marks tell only of records before them, so if it is above the number of
    /// some record, it comes from a mark behind that record.
    synced: u64,
    /// A finding that no crash explains.
    impossible: Option<&'static str>,
}

impl Survey {
    fn note(&mut self, file: usize, finding: Finding) {
        let (start, mark) = match finding {
            Finding::Record(start, mark) => (start, mark),
            Finding::Bad(start) => {
                self.bad.get_or_insert((file, start));
                return;
            }
        };
        let Some(mark) = mark else {
            if self.bad.is_none() {
                self.impossible = Some("a record has no mark");
            }
            return;
        };
        self.synced = self.synced.max(mark.synced);
        if self.bad.is_some() {
            self.readable_behind = true;
            return;
        }
        match self.last {
            Some((last, last_file)) if mark.number > last + 1 && file != last_file => {
                self.gaps.push(((file, start), last));
            }
            Some((last, _)) if mark.number != last + 1 => {
                self.impossible = Some("numbers of records do not ascend by one");
            }
            Some(_) | None => (),
        }
        self.last = Some((mark.number, file));
    }

    /// Where to cut, if anywhere; or why the log is damaged.
    fn judge(&self) -> Result<Option<Place>, &'static str> {
        if let Some(why) = self.impossible {
            return Err(why);
        }
        // A file that lost its unsynced end while the next one kept something: the end is where the gap is. If what is
        // missing was synced, the files before the gap are of no use any more, and those between were deleted already;
        // should they be in use after all, the manifest knows their synced length and RocksDB refuses.
        if let Some((place, _)) = self.gaps.iter().find(|(_, last)| self.synced <= *last) {
            return Ok(Some(*place));
        }
        let Some(bad) = self.bad else { return Ok(None) };
        let was_synced = match self.last {
            Some((last, _)) => self.synced > last,
            // Which number is bad cannot be told, so it may have been synced.
            None => self.readable_behind,
        };
        if was_synced {
            Err("a batch that had been synced is unreadable")
        } else {
            Ok(Some(bad))
        }
    }

    /// The newest number that a cut leaves.
    fn last_kept(&self, cut: Option<Place>) -> u64 {
        let gap = self.gaps.iter().find(|(place, _)| Some(*place) == cut);
        gap.map_or(self.last.map_or(0, |(last, _)| last), |(_, last)| *last)
    }
}

/// Reads a log file to its end, beyond bad places, too.
fn read_file(mut file: impl Read, note: &mut dyn FnMut(Finding)) -> Result<(), Error> {
    let mut block = vec![0; BLOCK_BYTES];
    let mut record = Record::default();
    let mut block_start = 0;
    loop {
        let length = fill(&mut file, &mut block)
            .map_err(|source| Error::io("read the write-ahead log", source))?;
        read_block(&block[..length], block_start, &mut record, note);
        if length < BLOCK_BYTES {
            break;
        }
        block_start += BLOCK_BYTES as u64;
    }
    if let Some(start) = record.start {
        note(Finding::Bad(start));
    }
    Ok(())
}

/// Fills a buffer; returns fewer bytes at the end of the file.
fn fill(file: &mut impl Read, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == ErrorKind::Interrupted => (),
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// A record of which the last fragment has not come yet.
#[derive(Debug, Default)]
struct Record {
    start: Option<u64>,
    /// The last bytes so far, enough for a mark.
    end: Vec<u8>,
}

impl Record {
    fn append(&mut self, content: &[u8]) {
        self.end.extend_from_slice(content);
        let surplus = self.end.len().saturating_sub(MARK_RECORD_BYTES);
        self.end.drain(..surplus);
    }
}

enum Fragment {
    Full,
    First,
    Middle,
    Last,
    /// RocksDB's own notes about the file.
    Note,
}

fn read_block(block: &[u8], block_start: u64, record: &mut Record, note: &mut dyn FnMut(Finding)) {
    let mut at = 0;
    let mut searching = false;
    while block.len() - at >= HEADER_BYTES {
        let start = block_start + at as u64;
        let Some((fragment, content)) = parse_fragment(&block[at..]) else {
            if !searching {
                note(Finding::Bad(record.start.take().unwrap_or(start)));
                searching = true;
            }
            at += 1;
            continue;
        };
        searching = false;
        at += HEADER_BYTES + content.len();
        match (fragment, record.start) {
            (Fragment::Note, None) => (),
            (Fragment::Full, None) => note(Finding::Record(start, Mark::of_record(content))),
            (Fragment::First, None) => {
                record.end.clear();
                record.append(content);
                record.start = Some(start);
            }
            (Fragment::Middle, Some(_)) => record.append(content),
            (Fragment::Last, Some(begun)) => {
                record.append(content);
                note(Finding::Record(begun, Mark::of_record(&record.end)));
                record.start = None;
            }
            (Fragment::Middle, None) => note(Finding::Bad(start)),
            (Fragment::Last, None) => {
                note(Finding::Bad(start));
                // Its beginning is lost, but its mark may still tell what was synced.
                if let Some(mark) = Mark::of_record(content) {
                    note(Finding::Record(start, Some(mark)));
                }
            }
            (Fragment::Full | Fragment::Note, Some(begun)) => {
                note(Finding::Bad(begun));
                record.start = None;
                note(Finding::Record(start, Mark::of_record(content)));
            }
            (Fragment::First, Some(begun)) => {
                note(Finding::Bad(begun));
                record.end.clear();
                record.append(content);
                record.start = Some(start);
            }
        }
    }
    // A full block ends with less than a header of padding. Elsewhere a header that is cut is the end of the log.
    if block.len() < BLOCK_BYTES && at < block.len() && !searching {
        note(Finding::Bad(
            record.start.take().unwrap_or(block_start + at as u64),
        ));
    }
}

/// The fragment at the start of `bytes`, which hold at least a header, if there is a good one.
fn parse_fragment(bytes: &[u8]) -> Option<(Fragment, &[u8])> {
    let (header, rest) = bytes.split_at_checked(HEADER_BYTES)?;
    let fragment = match header[6] {
        1 => Fragment::Full,
        2 => Fragment::First,
        3 => Fragment::Middle,
        4 => Fragment::Last,
        9 | 10 | 130 => Fragment::Note,
        _ => return None,
    };
    let length = usize::from(u16::from_le_bytes([header[4], header[5]]));
    let content = rest.get(..length)?;
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&header[6..]), content);
    let stored = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
    (mask(checksum) == stored).then_some((fragment, content))
}

#[cfg(test)]
mod tests;
