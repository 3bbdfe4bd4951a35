//! F13: one wrong byte in any file of an engine's directory gives the right answers or a typed error: never a wrong answer, and
//! nothing that was synced is missing without an error.
//!
//! `CYCLES` sets how many are tried.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Bound;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use engine::{
    Batch, Change, Direction, Engine, Error, Family, Logging, RocksEngine, StagedFile, View,
};
use tempfile::TempDir;

use crate::support::*;

const FLUSHED: u64 = 300;
const SYNCED: u64 = 600;
const WRITTEN: u64 = 640;
const STAGED: &str = "staged.sst";

/// What a process that was killed leaves: sorted files of both families, a log of which the end was not synced, a staged file,
/// a note of lost ranges.
struct Sample {
    image: TempDir,
    staged: StagedFile,
}

fn sample() -> Sample {
    let directory = directory();
    let engine = open(directory.path());
    let both = |number| {
        for family in [Family::Log, Family::State] {
            put(&engine, family, number, Logging::On);
        }
    };
    for number in 0..FLUSHED {
        both(number);
        if number % 100 == 99 {
            engine.flush(Family::Log).expect("the disk works");
            engine.flush(Family::State).expect("the disk works");
        }
    }
    let view = engine.view();
    let staged = engine.stage_range(&view, Family::State, b"", b"z", u64::MAX, STAGED);
    drop(view);
    (FLUSHED..SYNCED).for_each(both);
    engine.sync().expect("the disk works");
    (SYNCED..WRITTEN).for_each(both);
    let image = image(&engine);
    note_of_damage(image.path());
    Sample {
        image,
        staged: staged.expect("the disk works").0.expect("it has keys"),
    }
}

/// A range of keys that are not there is lost.
fn note_of_damage(path: &Path) {
    let lines = "lost 7a61 7a62\n";
    let checksum = crc32c::crc32c(lines.as_bytes());
    let text = format!("{lines}crc32c {checksum:08x}\n");
    fs::write(path.join("DAMAGE"), text).expect("the copy can be written");
}

/// Files with content, by what they are.
fn kinds(directory: &Path) -> BTreeMap<String, Vec<PathBuf>> {
    let mut kinds: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    for folder in ["", "db", "staging"] {
        let entries = fs::read_dir(directory.join(folder)).expect("it is there");
        for entry in entries {
            let path = entry.expect("it can be read").path();
            if !path.is_file() || fs::metadata(&path).expect("it is there").len() == 0 {
                continue;
            }
            let name = path.file_name().expect("it has one").to_string_lossy();
            let kind = match name.rsplit_once('.') {
                Some((_, extension)) => format!("{folder}/{extension}"),
                None => format!("{folder}/{}", name.split('-').next().unwrap_or_default()),
            };
            let inside = path.strip_prefix(directory).expect("it is inside");
            kinds.entry(kind).or_default().push(inside.to_owned());
        }
    }
    kinds
}

#[derive(Clone, Copy, Debug, Default)]
struct Outcomes {
    refused: u64,
    failed_reads: u64,
    shortened: u64,
    unharmed: u64,
}

/// All entries below the lost range of the sample.
fn scan(engine: &RocksEngine, family: Family) -> Result<Vec<(Bytes, Bytes)>, Error> {
    let mut found = Vec::new();
    engine.view().scan(
        family,
        Bound::Unbounded,
        Bound::Excluded(b"z"),
        Direction::Forward,
        &mut |key, value| {
            found.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
            true
        },
    )?;
    Ok(found)
}

/// # Panics
/// When an answer is wrong, or something that was synced is missing.
fn check(sample: &Sample, path: &Path, what: &str) -> Outcomes {
    let mut outcomes = Outcomes::default();
    let engine = match try_open(path) {
        Ok(engine) => engine,
        Err(Error::Corrupt { .. }) => {
            outcomes.refused = 1;
            return outcomes;
        }
        Err(error) => panic!("{what}: opening says {error:?}"),
    };
    let mut failed = check_staged(sample, &engine, what);
    let mut lengths = Vec::new();
    for family in [Family::Log, Family::State] {
        match scan(&engine, family) {
            Ok(found) => {
                let length = found.len() as u64;
                assert!(
                    (SYNCED..=WRITTEN).contains(&length),
                    "{what}: {length} keys in {family:?}, of which {SYNCED} were synced"
                );
                let expected: Vec<_> = (0..length)
                    .map(|number| (key(number), value(number)))
                    .collect();
                assert!(found == expected, "{what}: scan of {family:?}");
                lengths.push(length);
            }
            Err(Error::Corrupt { .. }) => failed = true,
            Err(error) => panic!("{what}: scanning {family:?} says {error:?}"),
        }
        for number in (0..SYNCED).step_by(7) {
            match engine.get(family, &key(number)) {
                Ok(found) => assert_eq!(found, Some(value(number)), "{what}: get {number}"),
                Err(Error::Corrupt { .. }) => failed = true,
                Err(error) => panic!("{what}: getting {number} says {error:?}"),
            }
        }
    }
    if let [log, state] = lengths[..] {
        // They were written in turn, and the log is cut in one place.
        assert!(log == state || log == state + 1, "{what}: {log}, {state}");
        outcomes.shortened = u64::from(log < WRITTEN || state < WRITTEN);
    }
    outcomes.failed_reads = u64::from(failed);
    outcomes.unharmed = u64::from(!failed && outcomes.shortened == 0);
    outcomes
}

/// Whether the damage of a staged file was noticed, if it is damaged.
fn check_staged(sample: &Sample, engine: &RocksEngine, what: &str) -> bool {
    match engine.stage_finish(STAGED) {
        // Whoever takes it compares the checksum of the whole.
        Ok(found) => found != sample.staged,
        Err(Error::Corrupt { .. }) => true,
        Err(error) => panic!("{what}: the staged file says {error:?}"),
    }
}

#[test]
fn a_wrong_byte_in_any_file_never_gives_a_wrong_answer() {
    let sample = sample();
    let kinds: Vec<_> = kinds(sample.image.path()).into_iter().collect();
    let names: Vec<&str> = kinds.iter().map(|(kind, _)| kind.as_str()).collect();
    for kind in [
        "/DAMAGE",
        "db/CURRENT",
        "db/IDENTITY",
        "db/LOG",
        "db/MANIFEST",
        "db/OPTIONS",
        "db/log",
        "db/sst",
        "staging/sst",
    ] {
        assert!(names.contains(&kind), "{kind} is not among {names:?}");
    }
    let mut random = Random(6);
    let mut table: BTreeMap<&str, Outcomes> = BTreeMap::new();
    for case in 0..cases(160) {
        // Half of them where the data is.
        let chosen = match random.below(4) {
            0 => names.iter().position(|name| *name == "db/sst"),
            1 => names.iter().position(|name| *name == "db/log"),
            _ => None,
        };
        let at_random = || case as usize % kinds.len();
        let (kind, paths) = &kinds[chosen.unwrap_or_else(at_random)];
        let path = &paths[random.below(paths.len() as u64) as usize];
        let copy = directory();
        copy_directory(sample.image.path(), copy.path());
        let mut content = fs::read(copy.path().join(path)).expect("it exists");
        let at = random.below(content.len() as u64) as usize;
        content[at] ^= 1 + random.below(255) as u8;
        fs::write(copy.path().join(path), &content).expect("the copy can be written");
        let what = format!("{} at {at} of {}", path.display(), content.len());
        let found = check(&sample, copy.path(), &what);
        let sum = table.entry(kind).or_default();
        sum.refused += found.refused;
        sum.failed_reads += found.failed_reads;
        sum.shortened += found.shortened;
        sum.unharmed += found.unharmed;
    }
    for (kind, outcomes) in &table {
        println!("{kind}: {outcomes:?}");
    }
    for (kind, must) in [("db/sst", false), ("/DAMAGE", true), ("db/CURRENT", true)] {
        let found = table.get(kind).copied().unwrap_or_default();
        let noticed = found.refused + found.failed_reads;
        assert!(noticed > 0, "no damage of {kind} was noticed");
        assert!(!must || found.unharmed == 0, "{kind}: {found:?}");
    }
}

/// The lost range of the sample stays lost.
#[test]
fn a_note_of_damage_is_not_forgotten() {
    let sample = sample();
    let engine = open(sample.image.path());
    let lost = (Bytes::from_static(b"za"), Bytes::from_static(b"zb"));
    assert_eq!(engine.lost_ranges(), [lost]);
    assert!(engine.get(Family::State, b"za").is_err());
    let batch = Batch {
        family: Family::State,
        changes: vec![Change::Delete(key(0))],
    };
    engine.write(batch, Logging::On).expect("the disk works");
}
