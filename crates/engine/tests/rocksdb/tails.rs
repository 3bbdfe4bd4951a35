//! R15, F4: the end of the write-ahead log after a power loss, and rot in what had been synced.

use std::fs;
use std::path::Path;

use engine::{Engine, Error, Family, Logging, RocksEngine};
use tempfile::TempDir;

use crate::support::*;

/// What a power loss may do to the bytes of a file from an offset on.
#[derive(Clone, Copy, Debug)]
enum Damage {
    Cut,
    Zero,
    Garble,
    /// Zeros in one place, the rest as written.
    Hole,
    /// One bit, the rest as written.
    Flip,
}

fn damage(content: &mut Vec<u8>, at: usize, damage: Damage, random: &mut Random) {
    match damage {
        Damage::Cut => content.truncate(at),
        Damage::Zero => content[at..].fill(0),
        Damage::Garble => content[at..]
            .iter_mut()
            .for_each(|byte| *byte = random.below(256) as u8),
        Damage::Hole => {
            let end = (at + 1 + random.below(600) as usize).min(content.len());
            content[at..end].fill(0);
        }
        Damage::Flip => content[at] ^= 1 << random.below(8),
    }
}

/// A directory whose log holds batches, and how long the log was when it was synced.
struct Sample {
    image: TempDir,
    synced: usize,
    synced_batches: u64,
    batches: u64,
}

/// Writes batches, syncs in the middle, and writes more; `sync_often` also syncs after every tenth of them all.
fn sample(batches: u64, synced_batches: u64) -> Sample {
    let directory = directory();
    let engine = open(directory.path());
    for number in 0..synced_batches {
        put(&engine, Family::Log, number, Logging::On);
    }
    engine.sync().expect("the disk works");
    let synced = fs::metadata(log_file(directory.path()))
        .expect("it exists")
        .len() as usize;
    for number in synced_batches..batches {
        put(&engine, Family::Log, number, Logging::On);
    }
    Sample {
        image: image(&engine),
        synced,
        synced_batches,
        batches,
    }
}

/// Opens a copy of the sample whose log is `log`.
fn open_with(sample: &Sample, log: &[u8]) -> (TempDir, Result<RocksEngine, Error>) {
    let copy = directory();
    copy_directory(sample.image.path(), copy.path());
    fs::write(log_file(copy.path()), log).expect("the copy can be written");
    let opened = try_open(copy.path());
    (copy, opened)
}

/// The survivors are the first so many batches.
fn survivors(engine: &RocksEngine) -> u64 {
    let found = content(engine, Family::Log).expect("sound").len() as u64;
    assert_holds(engine, Family::Log, 0..found);
    found
}

#[test]
fn torn_tails_are_cut_and_nothing_synced_is_lost() {
    // More than one block of 32 KiB before and after the sync, so that records are split over blocks.
    let sample = sample(900, 450);
    let whole = fs::read(log_file(sample.image.path())).expect("it exists");
    assert!(
        sample.synced > 33_000 && whole.len() > sample.synced + 33_000,
        "{} of {}",
        sample.synced,
        whole.len()
    );
    let mut random = Random(1);
    let mut cut_somewhere = 0;
    for case in 0..cases(120) {
        let kind = [
            Damage::Cut,
            Damage::Zero,
            Damage::Garble,
            Damage::Hole,
            Damage::Flip,
        ][(case % 5) as usize];
        let at = sample.synced + random.below((whole.len() - sample.synced) as u64) as usize;
        let mut log = whole.clone();
        damage(&mut log, at, kind, &mut random);
        let (copy, opened) = open_with(&sample, &log);
        let engine = opened.unwrap_or_else(|error| panic!("{kind:?} at {at}: {error:?}"));
        let found = survivors(&engine);
        assert!(
            (sample.synced_batches..=sample.batches).contains(&found),
            "{kind:?} at {at}: {found} batches"
        );
        cut_somewhere += u64::from(engine.log_bytes_cut() > 0);

        // It goes on from there, also over another stop.
        if case % 10 < 5 {
            continue;
        }
        put(&engine, Family::Log, found, Logging::On);
        let stopped = image(&engine);
        assert_eq!(survivors(&open(stopped.path())), found + 1);
        drop(engine);
        assert_eq!(survivors(&open(copy.path())), found + 1);
    }
    assert!(cut_somewhere > 0);
}

/// Damage below a later mark is rot.
#[test]
fn rot_below_a_later_mark_is_damage() {
    let sample = sample(900, 450);
    let whole = fs::read(log_file(sample.image.path())).expect("it exists");
    let mut random = Random(2);
    for case in 0..cases(100) {
        let kind = [Damage::Hole, Damage::Flip][(case % 2) as usize];
        let at = random.below(sample.synced as u64 - 700) as usize;
        let mut log = whole.clone();
        damage(&mut log, at, kind, &mut random);
        if log == whole {
            continue;
        }
        let (copy, opened) = open_with(&sample, &log);
        match opened {
            Err(Error::Corrupt { .. }) => {
                assert_eq!(
                    fs::read(log_file(copy.path())).expect("it exists"),
                    log,
                    "nothing was changed"
                );
            }
            // Padding between blocks means nothing.
            Ok(engine) => assert_eq!(survivors(&engine), sample.batches, "{kind:?} at {at}"),
            Err(error) => panic!("{kind:?} at {at}: {error:?}"),
        }
    }
}

/// What RocksDB alone takes for the end of the log: a length that reaches beyond the last block, and zeros in place of a
/// record.
#[test]
fn rot_that_looks_like_an_end_is_damage() {
    let sample = sample(60, 30);
    let whole = fs::read(log_file(sample.image.path())).expect("it exists");
    let mut start = 0;
    for number in 0..sample.synced_batches {
        let length = usize::from(u16::from_le_bytes([whole[start + 4], whole[start + 5]]));
        let end = start + 7 + length;
        if number % 7 == 1 {
            let mut long = whole.clone();
            long[start + 5] = 0x7F;
            let mut zeros = whole.clone();
            zeros[start..end].fill(0);
            for (kind, log) in [("long", long), ("zeros", zeros)] {
                let (_copy, opened) = open_with(&sample, &log);
                assert!(
                    matches!(opened, Err(Error::Corrupt { .. })),
                    "batch {number}: {kind}"
                );
            }
        }
        start = end;
    }
    assert_eq!(
        start, sample.synced,
        "the log is one block of whole records"
    );
}

/// A log that is synced to its end has no later mark. What is lost then cannot be told from a tail, but it is only
/// batches since the last one that was written after a sync.
#[test]
fn last_batches_have_no_later_mark() {
    let sample = sample(100, 100);
    let mut whole = fs::read(log_file(sample.image.path())).expect("it exists");
    whole.truncate(whole.len() - 1);
    let (_copy, opened) = open_with(&sample, &whole);
    assert_eq!(survivors(&opened.expect("it may be a torn tail")), 99);
}

/// A record that is whole but without a mark was not written by this engine.
#[test]
fn foreign_log_is_refused() {
    let sample = sample(3, 1);
    let copy = directory();
    copy_directory(sample.image.path(), copy.path());
    fs::write(log_file(copy.path()), foreign_record()).expect("the copy can be written");
    assert!(matches!(
        try_open(Path::new(copy.path())),
        Err(Error::Corrupt { .. })
    ));
}

/// An empty batch in a fragment of its own.
fn foreign_record() -> Vec<u8> {
    let content = [0_u8; 12];
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&[1]), &content);
    let masked = checksum.rotate_right(15).wrapping_add(0xA282_EAD8);
    [
        &masked.to_le_bytes()[..],
        &(content.len() as u16).to_le_bytes(),
        &[1],
        &content,
    ]
    .concat()
}

/// A flush syncs the log of both families first, and the manifest knows how long it was: shortened, it is damage even
/// where no mark tells.
#[test]
fn flush_syncs_the_log() {
    let directory = directory();
    let engine = open(directory.path());
    for number in 0..10 {
        put(&engine, Family::Log, number, Logging::On);
    }
    put(&engine, Family::State, 1, Logging::Off);
    engine.flush(Family::State).expect("the disk works");
    let stopped = image(&engine);
    let path = log_file(stopped.path());
    let log = fs::read(&path).expect("it exists");
    fs::write(&path, &log[..log.len() - 1]).expect("the copy can be written");
    assert!(matches!(
        try_open(stopped.path()),
        Err(Error::Corrupt { .. })
    ));
}
