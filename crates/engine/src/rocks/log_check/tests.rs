use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

/// Writes records as RocksDB does.
#[derive(Default)]
struct Writer {
    content: Vec<u8>,
    /// Where each record ends.
    ends: Vec<usize>,
}

impl Writer {
    /// Appends a batch of about `bytes` bytes with a mark.
    fn push(&mut self, number: u64, synced: u64, bytes: usize) {
        let mut record = vec![0xAB; bytes];
        record.extend([LOG_DATA, MARK_BYTES as u8]);
        record.extend(mark(number, synced));
        let mut rest = &record[..];
        let mut first = true;
        loop {
            let left = BLOCK_BYTES - self.content.len() % BLOCK_BYTES;
            if left < HEADER_BYTES {
                self.content.extend(vec![0; left]);
                continue;
            }
            let (piece, after) = rest.split_at(rest.len().min(left - HEADER_BYTES));
            let kind = match (first, after.is_empty()) {
                (true, true) => 1_u8,
                (true, false) => 2,
                (false, false) => 3,
                (false, true) => 4,
            };
            let checksum = crc32c::crc32c_append(crc32c::crc32c(&[kind]), piece);
            self.content.extend(mask(checksum).to_le_bytes());
            self.content.extend((piece.len() as u16).to_le_bytes());
            self.content.push(kind);
            self.content.extend(piece);
            (first, rest) = (false, after);
            if rest.is_empty() {
                break;
            }
        }
        self.ends.push(self.content.len());
    }
}

/// A log of records numbered from `first`; the marks say that all records before `lag` numbers earlier were synced.
fn log(first: u64, sizes: &[usize], lag: u64) -> Writer {
    let mut writer = Writer::default();
    for (number, size) in (first..).zip(sizes) {
        writer.push(number, number.saturating_sub(lag), *size);
    }
    writer
}

fn check_files(files: &[&[u8]]) -> (Result<Checked, Error>, Vec<Vec<u8>>) {
    let directory = TempDir::new().expect("a temporary directory");
    let path = |index: usize| directory.path().join(format!("{:06}.log", index * 3 + 8));
    for (index, content) in files.iter().enumerate() {
        fs::write(path(index), content).expect("it can be written");
    }
    fs::write(directory.path().join("LOG"), "not ours").expect("it can be written");
    let checked = check(directory.path());
    let left = (0..files.len())
        .map(|index| fs::read(path(index)).expect("it exists"))
        .collect();
    (checked, left)
}

#[test]
fn nothing_and_empty_files_are_sound() {
    assert_eq!(check_files(&[]).0.expect("sound"), Checked::default());
    assert_eq!(
        check_files(&[&[], &[]]).0.expect("sound"),
        Checked::default()
    );
}

#[test]
fn files_continue_each_other() {
    let (first, second) = (log(7, &[10; 5], 100), log(12, &[10; 4], 100));
    let (checked, _) = check_files(&[&first.content, &second.content]);
    assert_eq!(
        checked.expect("sound"),
        Checked {
            last_number: 15,
            bytes_cut: 0
        }
    );
}

/// A file lost its unsynced end, the next one kept something: what is behind the gap goes.
#[test]
fn gap_that_was_not_synced_is_the_end() {
    let (first, second) = (log(1, &[10; 5], 100), log(8, &[10; 4], 100));
    let (checked, left) = check_files(&[&first.content, &second.content]);
    let bytes_cut = second.content.len() as u64;
    assert_eq!(
        checked.expect("a tail"),
        Checked {
            last_number: 5,
            bytes_cut
        }
    );
    assert_eq!(left, [first.content, vec![]]);
}

/// Files that are of no use any more may be deleted in any order.
#[test]
fn gap_that_was_synced_is_a_deleted_file() {
    let (first, second) = (log(1, &[10; 5], 2), log(8, &[10; 4], 2));
    let (checked, left) = check_files(&[&first.content, &second.content]);
    assert_eq!(
        checked.expect("sound"),
        Checked {
            last_number: 11,
            bytes_cut: 0
        }
    );
    assert_eq!(left, [first.content, second.content]);
}

#[test]
fn gap_behind_a_deleted_file_is_judged_by_itself() {
    let first = log(1, &[10; 5], 2);
    let (second, third) = (log(8, &[10; 4], 2), log(20, &[10; 2], 20));
    let (checked, left) = check_files(&[&first.content, &second.content, &third.content]);
    assert_eq!(checked.expect("a tail").last_number, 11);
    assert_eq!(left, [first.content, second.content, vec![]]);
}

#[test]
fn torn_file_ends_the_log_for_later_files() {
    let (first, second) = (log(1, &[10; 5], 100), log(6, &[10; 4], 100));
    let torn = &first.content[..first.ends[4] - 1];
    let (checked, left) = check_files(&[torn, &second.content]);
    assert_eq!(checked.expect("a tail").last_number, 4);
    assert_eq!(left, [first.content[..first.ends[3]].to_vec(), vec![]]);
}

#[test]
fn torn_file_is_damage_when_a_later_file_says_it_was_synced() {
    let (first, second) = (log(1, &[10; 5], 1), log(6, &[10; 4], 1));
    let torn = &first.content[..first.ends[4] - 1];
    let (checked, left) = check_files(&[torn, &second.content]);
    assert!(matches!(checked, Err(Error::Corrupt { .. })));
    assert_eq!(left, [torn.to_vec(), second.content]);
}

/// If the first record of all is bad, nobody knows its number.
#[test]
fn bad_beginning_is_a_tail_only_if_nothing_follows() {
    let mut writer = log(40, &[10; 5], 100);
    writer.content[9] ^= 1;
    assert!(matches!(
        check_files(&[&writer.content]).0,
        Err(Error::Corrupt { .. })
    ));
    let (checked, left) = check_files(&[&writer.content[..writer.ends[0]]]);
    assert_eq!(checked.expect("a tail").last_number, 0);
    assert_eq!(left, [vec![]]);
}

#[test]
fn numbers_that_do_not_ascend_are_damage() {
    let mut writer = log(1, &[10; 2], 100);
    writer.push(2, 0, 10);
    assert!(matches!(
        check_files(&[&writer.content]).0,
        Err(Error::Corrupt { .. })
    ));
    let mut writer = log(1, &[10; 2], 100);
    writer.push(4, 0, 10);
    assert!(matches!(
        check_files(&[&writer.content]).0,
        Err(Error::Corrupt { .. })
    ));
}

#[test]
fn log_cut_anywhere_keeps_the_whole_records() {
    let writer = log(1, &[5, 40_000, 0, 32_700, 100, 70_000, 3], 100);
    let near = |at: usize| (0..20).flat_map(move |delta| [at.saturating_sub(delta), at + delta]);
    let blocks = (0..5).map(|block| block * BLOCK_BYTES);
    let places: Vec<usize> = writer.ends.iter().copied().chain(blocks).collect();
    for at in places
        .into_iter()
        .flat_map(near)
        .filter(|at| *at <= writer.content.len())
    {
        let (checked, left) = check_files(&[&writer.content[..at]]);
        let kept = writer.ends.iter().take_while(|end| **end <= at).count();
        assert_eq!(
            checked.expect("a tail").last_number,
            kept as u64,
            "cut at {at}"
        );
        let end = kept.checked_sub(1).map_or(0, |last| writer.ends[last]);
        // Padding at the end of a block may stay.
        assert!(
            left[0].len() == end || (left[0].len() == at && at - end < HEADER_BYTES),
            "cut at {at}"
        );
    }
}

proptest! {
    #[test]
    fn damage_is_cut_above_and_refused_below_what_was_synced(
        sizes in prop::collection::vec(prop_oneof![0..200_usize, 30_000..40_000_usize], 2..20),
        lag in 1..8_u64,
        place in any::<prop::sample::Index>(),
        length in 1..2000_usize,
        garbage in any::<u64>(),
    ) {
        let writer = log(1, &sizes, lag);
        let mut content = writer.content.clone();
        let start = place.index(content.len());
        let mut seed = garbage | 1;
        for byte in content.iter_mut().skip(start).take(length) {
            seed = seed.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(1);
            *byte = if garbage % 3 == 0 { 0 } else { (seed >> 56) as u8 };
        }
        // Only what differs is damaged: marks are full of zeros, which garbage may repeat.
        let damaged = |at: &usize| content[*at] != writer.content[*at];
        let at = (0..content.len()).find(damaged);
        let end = (0..content.len()).rfind(damaged);
        prop_assume!(at.is_some());
        let (at, end) = at.zip(end).map_or((0, 0), |(at, last)| (at, last + 1));
        let first_bad = writer.ends.iter().take_while(|record_end| **record_end <= at).count() as u64 + 1;
        // Records behind the damage say what was synced before them, if any is whole.
        let records = sizes.len() as u64;
        let first_whole = writer.ends.iter().position(|record_end| *record_end >= end).map_or(records, |at| at as u64 + 1) + 1;
        let readable_behind = first_whole <= records;
        let synced = if readable_behind { records.saturating_sub(lag) } else { 0 };
        let (checked, left) = check_files(&[&content]);
        match checked {
            Ok(Checked { last_number, bytes_cut: 0 }) => {
                prop_assert_eq!(last_number, records);
                prop_assert_eq!(&left[0], &content);
            }
            Ok(Checked { last_number, .. }) => {
                prop_assert!(last_number >= synced.min(first_bad - 1));
                prop_assert!(last_number < first_bad, "nothing behind the damage is kept");
                prop_assert!(synced < first_bad, "{synced} records were synced, {first_bad} is bad");
            }
            Err(Error::Corrupt { .. }) => {
                // A record that is damaged in its beginning may have a readable mark at its end.
                prop_assert!(readable_behind || end < writer.content.len());
                prop_assert!(records.saturating_sub(lag) >= first_bad || first_bad == 1);
            }
            Err(error) => prop_assert!(false, "{error:?}"),
        }
    }
}
