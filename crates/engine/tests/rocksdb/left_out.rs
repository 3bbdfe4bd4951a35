//! STORAGE §9: a damaged file that RocksDB's own compaction meets costs what is in its range, and not the engine.

use std::fs::{self, File};
use std::ops::Bound;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use engine::{
    Batch, Change, Direction, Engine, Error, Family, Logging, RocksEngine, RocksOptions, View,
};

use crate::support::*;

/// Keys from here on may be lost.
const FROM: &[u8] = b"key-";
const PATIENCE: Duration = Duration::from_secs(60);

fn losing() -> RocksOptions {
    RocksOptions {
        losable_from: Some(FROM),
        ..options()
    }
}

fn open_losing(path: &Path) -> RocksEngine {
    RocksEngine::open(path, &losing()).expect("what is damaged can be left out")
}

fn write(engine: &RocksEngine, family: Family, changes: Vec<Change>) -> Result<(), Error> {
    engine.write(Batch { family, changes }, Logging::On)
}

/// A key that may not be lost.
fn kept(number: u64) -> Bytes {
    Bytes::from(format!("a-{number:02}"))
}

/// Writes changes into a sorted file of their own, and returns it.
fn file_of(engine: &RocksEngine, family: Family, changes: Vec<Change>) -> PathBuf {
    let before = files(engine.path(), "sst");
    write(engine, family, changes).expect("the disk works");
    engine.flush(family).expect("the disk works");
    let mut after = files(engine.path(), "sst");
    after.retain(|path| !before.contains(path));
    after.pop().expect("a flush makes a file")
}

fn puts(numbers: std::ops::Range<u64>) -> Vec<Change> {
    numbers
        .map(|number| Change::Put(key(number), value(number)))
        .collect()
}

/// A value that cannot be packed, so that a hundred of them take many blocks.
fn value(number: u64) -> Bytes {
    let mut random = Random(number + 1);
    (0..1_000).map(|_| random.below(256) as u8).collect()
}

/// Which block of a file.
#[derive(Clone, Copy)]
enum Block {
    /// With its first keys.
    First,
    /// In the middle of its keys.
    Middle,
}

/// Flips a bit of a file, below an open engine, too.
fn rot(path: &Path, block: Block) {
    let mut content = fs::read(path).expect("it is there");
    let at = match block {
        Block::First => 40,
        Block::Middle => content.len() / 2,
    };
    content[at] ^= 1;
    fs::write(path, content).expect("it can be written");
}

fn until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(
            begun.elapsed() < PATIENCE,
            "{what}: not within {PATIENCE:?}"
        );
        std::thread::yield_now();
    }
}

/// Makes files over all keys until RocksDB compacts them and meets the damage. Returns how the engine says so.
fn compact(engine: &RocksEngine, family: Family) -> Error {
    until("compaction meets the damage", || {
        let changes = vec![
            Change::Put(key(0), value(0)),
            Change::Put(key(9_999), value(9_999)),
        ];
        write(engine, family, changes)
            .and_then(|()| engine.flush(family))
            .err()
    })
}

fn name(path: &Path) -> String {
    let name = path.file_name().expect("it has one");
    name.to_string_lossy().into_owned()
}

fn assert_is_damage_of(error: &Error, path: &Path) {
    match error {
        Error::FileDamaged { file, .. } => assert_eq!(*file, name(path)),
        other => panic!("not recognized: {other:?}"),
    }
}

fn is_lost<T>(outcome: Result<T, Error>) -> bool {
    matches!(outcome, Err(Error::Corrupt { .. }))
}

fn scan(
    engine: &RocksEngine,
    lower: u64,
    upper: u64,
    direction: Direction,
) -> (Vec<Bytes>, Result<(), Error>) {
    let mut found = Vec::new();
    let outcome = engine.view().scan(
        Family::State,
        Bound::Included(&key(lower)),
        Bound::Excluded(&key(upper)),
        direction,
        &mut |key, _| {
            found.push(Bytes::copy_from_slice(key));
            true
        },
    );
    (found, outcome)
}

fn numbers(numbers: impl Iterator<Item = u64>) -> Vec<Bytes> {
    numbers.map(key).collect()
}

/// Five keys that may not be lost: older and newer values, and one that is deleted. The newest of them are in the damaged file.
fn assert_kept(engine: &RocksEngine) {
    for number in 0..5 {
        let wanted = match number {
            3 => None,
            2 => Some(value(200)),
            number => Some(value(number)),
        };
        let found = engine.get(Family::State, &kept(number));
        assert_eq!(found.expect("it is not lost"), wanted, "{number}");
    }
}

fn older(engine: &RocksEngine) {
    let mut changes: Vec<_> = (0..5)
        .map(|number| Change::Put(kept(number), value(number)))
        .collect();
    changes.extend(puts(100..400));
    file_of(engine, Family::State, changes);
}

fn newer(engine: &RocksEngine) -> PathBuf {
    let mut changes = vec![Change::Put(kept(2), value(200)), Change::Delete(kept(3))];
    // A deleted key must not come up again.
    changes.push(Change::Delete(key(150)));
    changes.extend(puts(200..300));
    file_of(engine, Family::State, changes)
}

/// What holds of an engine that left the file of [`newer`] out.
fn assert_left_out(engine: &RocksEngine, file: &Path) {
    assert_kept(engine);
    // The file begins with keys that may not be lost, so it may have held every key up to its last.
    let (start, end) = (Bytes::from_static(FROM), [&key(299)[..], b"\0"].concat());
    assert_eq!(engine.lost_ranges(), [(start, Bytes::from(end))]);
    assert!(!file.exists(), "the file is gone");
    let view = engine.view();
    for number in [0, 100, 150, 151, 200, 299] {
        assert!(is_lost(engine.get(Family::State, &key(number))), "{number}");
        assert!(is_lost(engine.get_flushed(Family::State, &key(number))));
        assert!(is_lost(view.get(Family::State, &key(number))), "{number}");
    }
    let keys = [key(399), key(150)];
    let keys: Vec<&[u8]> = keys.iter().map(|key| &key[..]).collect();
    let many = engine.get_many(Family::State, &keys);
    assert!(is_lost(many));
    for number in [300, 399] {
        let found = engine.get(Family::State, &key(number));
        assert_eq!(found.expect("it is not lost"), Some(value(number)));
    }
    let (found, outcome) = scan(engine, 100, 400, Direction::Forward);
    assert!(is_lost(outcome));
    assert_eq!(found, numbers(0..0));
    let (found, outcome) = scan(engine, 100, 400, Direction::Backward);
    assert!(is_lost(outcome));
    assert_eq!(found, numbers((300..400).rev()));
    let (found, outcome) = scan(engine, 300, 400, Direction::Forward);
    outcome.expect("nothing of it is lost");
    assert_eq!(found, numbers(300..400));
    let staged = engine.stage_range(&view, Family::State, &key(0), b"z", u64::MAX, "part");
    assert!(is_lost(staged));
    assert_eq!(engine.stage_list().expect("it lists"), [""; 0]);
}

/// Writes go on, and compaction, too, which met the damage before.
fn assert_goes_on(engine: &RocksEngine) {
    let mut small = vec![file_of(engine, Family::State, puts(0..1))];
    until("compaction goes on", || {
        small.push(file_of(engine, Family::State, puts(0..2)));
        let live = files(engine.path(), "sst");
        small.iter().any(|path| !live.contains(path)).then_some(())
    });
}

#[test]
fn a_damaged_file_costs_its_range_and_not_the_engine() {
    let directory = directory();
    let engine = open_losing(directory.path());
    older(&engine);
    let file = newer(&engine);
    rot(&file, Block::Middle);
    let error = compact(&engine, Family::State);
    assert_is_damage_of(&error, &file);
    // Nothing is written any more, and what can be read is read.
    assert!(write(&engine, Family::Log, puts(0..1)).is_err());
    assert!(engine.sync().is_err());
    assert_eq!(engine.lost_ranges(), []);
    let found = engine.get(Family::State, &key(399));
    assert_eq!(found.expect("sound"), Some(value(399)));
    drop(engine);

    let engine = open_losing(directory.path());
    assert_left_out(&engine, &file);
    assert_goes_on(&engine);
    assert_left_out(&engine, &file);
    let copy = directory.path().join("copy");
    engine.checkpoint(&copy).expect("the disk works");
    drop(engine);
    for path in [directory.path(), &copy] {
        assert_left_out(&open_losing(path), &file);
    }

    // Who clears the range has what is there afterwards. What a view from before reads may be of before.
    let engine = open_losing(directory.path());
    let view = engine.view();
    let clear = |from: &[u8], to: &[u8]| {
        let cleared = engine.clear_range(Family::State, from, to, Logging::On);
        cleared.expect("the disk works");
    };
    clear(FROM, &key(200));
    assert!(is_lost(engine.get(Family::State, &key(200))));
    clear(&key(200), &key(1_000));
    assert_eq!(engine.lost_ranges(), []);
    let found = engine
        .get(Family::State, &key(150))
        .expect("nothing is lost");
    assert_eq!(found, None);
    assert!(is_lost(view.get(Family::State, &key(150))));
    drop(view);
    engine.sync().expect("the disk works");
    file_of(&engine, Family::State, puts(150..160));
    drop(engine);
    let engine = open_losing(directory.path());
    assert_eq!(engine.lost_ranges(), []);
    let (found, outcome) = scan(&engine, 0, 1_000, Direction::Forward);
    outcome.expect("nothing is lost");
    assert_eq!(found, numbers(150..160));
    assert_kept(&engine);
}

/// A file of a lower level, whose place in RocksDB's list is another one.
#[test]
fn a_damaged_file_of_the_last_level_is_left_out() {
    let directory = directory();
    let engine = open_losing(directory.path());
    let first = file_of(&engine, Family::State, puts(500..600));
    for _ in 0..3 {
        file_of(&engine, Family::State, puts(500..700));
    }
    until("compaction ends", || (!first.exists()).then_some(()));
    // What it made is the newest file of all.
    let file = files(directory.path(), "sst").pop().expect("it is there");
    rot(&file, Block::Middle);
    let error = compact(&engine, Family::State);
    assert_is_damage_of(&error, &file);
    drop(engine);
    let engine = open_losing(directory.path());
    let end = [&key(699)[..], b"\0"].concat();
    assert_eq!(engine.lost_ranges(), [(key(500), end.into())]);
    assert_goes_on(&engine);
}

/// The raft tier's, one of an engine of which nothing may be lost, and one whose damaged block holds keys that may not.
#[test]
fn damage_of_what_may_not_be_lost_is_damage_of_the_engine() {
    for (family, losable_from) in [
        (Family::Log, Some(FROM)),
        (Family::State, None),
        (Family::State, Some(&b"key-00000150"[..])),
    ] {
        let directory = directory();
        let engine = open_losing(directory.path());
        let file = file_of(&engine, family, puts(100..200));
        rot(&file, Block::First);
        let error = compact(&engine, family);
        assert_is_damage_of(&error, &file);
        drop(engine);
        let options = RocksOptions {
            losable_from,
            ..options()
        };
        for _ in 0..2 {
            match RocksEngine::open(directory.path(), &options) {
                Err(Error::Corrupt {
                    source: Some(why), ..
                }) => {
                    let why = why.to_string();
                    let wanted = ["take the directory away", "checksum mismatch"];
                    let of_kept = losable_from.is_some() && family == Family::State;
                    assert!(why.contains(wanted[usize::from(of_kept)]), "{why}");
                }
                Err(error) => panic!("{family:?} {losable_from:?}: {error:?}"),
                Ok(_) => panic!("{family:?} {losable_from:?}: opened"),
            }
        }
        assert!(file.exists(), "nothing is removed");
        let record = fs::read_to_string(directory.path().join("DAMAGE"));
        let record = record.expect("it is there");
        assert!(!record.contains("lost"), "nothing is lost: {record}");
    }
}

/// A stop at each step of leaving a file out: opening again ends it.
#[test]
fn leaving_a_file_out_is_repeated_after_a_stop() {
    let directory = directory();
    let engine = open_losing(directory.path());
    older(&engine);
    let file = newer(&engine);
    rot(&file, Block::Middle);
    compact(&engine, Family::State);
    drop(engine);
    let number: u64 = name(&file)
        .trim_end_matches(".sst")
        .parse()
        .expect("a number");
    let after = crate::support::directory();
    copy_directory(directory.path(), after.path());
    drop(open_losing(after.path()));
    let record = fs::read_to_string(after.path().join("DAMAGE")).expect("something is lost");
    let lost = record.split_inclusive('\n').next().expect("a line");
    let both = format!("met {number}\n{lost}");
    let both = format!("{both}crc32c {:08x}\n", crc32c::crc32c(both.as_bytes()));
    for stopped in [&directory, &after] {
        fs::write(stopped.path().join("DAMAGE"), &both).expect("the disk works");
        let engine = open_losing(stopped.path());
        let file = stopped.path().join("db").join(name(&file));
        assert_left_out(&engine, &file);
        let record = fs::read_to_string(stopped.path().join("DAMAGE")).expect("it is there");
        assert!(record.starts_with(lost), "{record}");
    }
}

/// One that was noted and is in use no more costs nothing.
#[test]
fn a_noted_file_that_is_gone_costs_nothing() {
    let directory = directory();
    let engine = open_losing(directory.path());
    older(&engine);
    drop(engine);
    let note = "met 4711\n";
    let note = format!("{note}crc32c {:08x}\n", crc32c::crc32c(note.as_bytes()));
    fs::write(directory.path().join("DAMAGE"), note).expect("the disk works");
    let engine = RocksEngine::open(directory.path(), &options()).expect("nothing is damaged");
    assert_eq!(engine.lost_ranges(), []);
    let (found, outcome) = scan(&engine, 0, 1_000, Direction::Forward);
    outcome.expect("nothing is lost");
    assert_eq!(found, numbers(100..400));
}

/// Makes every read of a file fail as a bad disk does, for whoever has it open: its descriptors become another file's, of which no
/// page below the first is there.
#[allow(unsafe_code)]
fn fail_reads(path: &Path) {
    let broken = File::open("/proc/self/mem").expect("a process may read its memory");
    let mut failing = 0;
    for entry in fs::read_dir("/proc/self/fd").expect("there is proc") {
        let entry = entry.expect("there is proc").path();
        if fs::read_link(&entry).is_ok_and(|target| target == *path) {
            let name = name(&entry);
            let descriptor = name.parse().expect("descriptors are numbers");
            // SAFETY: both descriptors are open. The one that is replaced stays its owner's, who reads something else.
            let replaced = unsafe { libc::dup2(broken.as_raw_fd(), descriptor) };
            assert_eq!(replaced, descriptor);
            failing += 1;
        }
    }
    assert!(failing > 0, "nobody has it open");
}

/// Reads that the operating system fails are damage of the data, whoever meets them. Nothing else is hurt.
#[test]
fn a_failed_read_is_damage_of_what_it_reads() {
    let directory = directory();
    let engine = open_losing(directory.path());
    older(&engine);
    let file = newer(&engine);
    fail_reads(&file);
    // Behind the first block, which the flush may have left in memory.
    assert!(is_lost(engine.get(Family::State, &key(299))));
    let (_, outcome) = scan(&engine, 200, 300, Direction::Forward);
    assert!(is_lost(outcome));
    let found = engine.get(Family::State, &key(399)).expect("it is sound");
    assert_eq!(found, Some(value(399)));
    let error = compact(&engine, Family::State);
    assert_is_damage_of(&error, &file);
    let Error::FileDamaged { source, .. } = error else {
        unreachable!("it was just looked at");
    };
    assert!(
        source.to_string().contains("Input/output error"),
        "{source}"
    );
    drop(engine);

    // It can be read again, which nobody relies on.
    let engine = open_losing(directory.path());
    assert_left_out(&engine, &file);
    assert_goes_on(&engine);
}

/// A file that lost its end, as far as an engine that has it open can tell.
#[test]
fn a_file_cut_short_is_damage_of_what_it_held() {
    let directory = directory();
    let engine = open_losing(directory.path());
    let file = newer(&engine);
    let open = fs::OpenOptions::new().write(true).open(&file);
    open.and_then(|open| open.set_len(20_000))
        .expect("it can be cut");
    assert!(is_lost(engine.get(Family::State, &key(299))));
    let error = compact(&engine, Family::State);
    assert_is_damage_of(&error, &file);
}
