//! R13, F13: files that are not what was written are noticed, and never give a wrong answer.

use std::fs;
use std::path::Path;

use bytes::Bytes;
use engine::{Batch, Change, Engine, Error, Family, Logging};

use crate::support::*;

/// A closed engine with data in sorted files of both families.
fn sample(path: &Path) {
    let engine = open(path);
    for number in 0..500 {
        put(&engine, Family::Log, number, Logging::On);
        put(&engine, Family::State, number, Logging::Off);
    }
    engine.sync().expect("the disk works");
    for family in [Family::Log, Family::State] {
        engine.flush(family).expect("the disk works");
    }
}

fn assert_refused(path: &Path) {
    match try_open(path) {
        Err(Error::Corrupt { .. }) => (),
        Err(other) => panic!("not recognized as damage: {other:?}"),
        Ok(_) => panic!("opened"),
    }
}

/// Opens a damaged copy and reads everything in every way. An answer is right or an error.
fn assert_never_wrong(path: &Path, what: &str) -> bool {
    let engine = match try_open(path) {
        Ok(engine) => engine,
        Err(Error::Corrupt { .. }) => return true,
        Err(error) => panic!("{what}: opening says {error:?}"),
    };
    let mut noticed = false;
    for family in [Family::Log, Family::State] {
        match content(&engine, family) {
            Ok(found) => {
                let expected: Vec<_> = (0..500)
                    .map(|number| (key(number), value(number)))
                    .collect();
                assert_eq!(found, expected, "{what}: scan of {family:?}");
            }
            Err(Error::Corrupt { .. }) => noticed = true,
            Err(error) => panic!("{what}: scanning says {error:?}"),
        }
        for number in (0..500).step_by(7) {
            match engine.get(family, &key(number)) {
                Ok(found) => assert_eq!(
                    found,
                    Some(value(number)),
                    "{what}: get {number} of {family:?}"
                ),
                Err(Error::Corrupt { .. }) => noticed = true,
                Err(error) => panic!("{what}: getting says {error:?}"),
            }
        }
    }
    noticed
}

#[test]
fn flipped_bytes_in_sorted_files_never_give_a_wrong_answer() {
    let original = directory();
    sample(original.path());
    let flips = cases(150);
    let mut random = Random(3);
    let mut noticed = 0;
    for _ in 0..flips {
        let copy = directory();
        copy_directory(original.path(), copy.path());
        let tables = files(copy.path(), "sst");
        let path = &tables[random.below(tables.len() as u64) as usize];
        let mut content = fs::read(path).expect("it exists");
        let at = random.below(content.len() as u64) as usize;
        content[at] ^= 1 << random.below(8);
        fs::write(path, content).expect("the copy can be written");
        let what = format!("{} at {at}", path.display());
        noticed += u64::from(assert_never_wrong(copy.path(), &what));
    }
    assert!(
        noticed * 2 > flips,
        "{noticed} of {flips} flips were noticed"
    );
}

#[test]
fn flipped_bytes_in_the_manifest_are_noticed_when_opening() {
    let original = directory();
    sample(original.path());
    let mut random = Random(4);
    for _ in 0..60 {
        let copy = directory();
        copy_directory(original.path(), copy.path());
        let path = manifest(copy.path());
        let mut content = fs::read(&path).expect("it exists");
        let at = random.below(content.len() as u64) as usize;
        content[at] ^= 1 << random.below(8);
        fs::write(&path, content).expect("the copy can be written");
        assert_never_wrong(copy.path(), &format!("manifest at {at}"));
    }
}

fn manifest(engine_directory: &Path) -> std::path::PathBuf {
    let entries = fs::read_dir(engine_directory.join("db")).expect("it exists");
    let mut paths = entries.map(|entry| entry.expect("it can be read").path());
    let is_manifest = |path: &std::path::PathBuf| {
        path.file_name()
            .and_then(|name| name.to_str())
            .is_some_and(|name| name.starts_with("MANIFEST"))
    };
    paths.find(is_manifest).expect("there is one")
}

#[test]
fn missing_files_are_damage_and_not_a_new_beginning() {
    let original = directory();
    sample(original.path());
    let remove = |choose: &dyn Fn(&Path) -> std::path::PathBuf| {
        let copy = directory();
        copy_directory(original.path(), copy.path());
        fs::remove_file(choose(copy.path())).expect("it exists");
        assert_refused(copy.path());
    };
    remove(&|path| path.join("db/CURRENT"));
    remove(&manifest);
    remove(&|path| files(path, "sst").pop().expect("there are some"));
}

/// A process that ended while it created the directory leaves nothing that counts.
#[test]
fn half_created_directory_is_created_again() {
    let directory = directory();
    let half = directory.path().join("db.new");
    fs::create_dir(&half).expect("the directory is empty");
    fs::write(half.join("CURRENT"), "MANIFEST-").expect("it can be written");
    let engine = open(directory.path());
    assert_holds(&engine, Family::Log, 0..0);
    assert!(!half.exists());
}

/// Staged files come from other stores: whatever is wrong with them is an error, and ingesting them changes nothing.
#[test]
fn damaged_staged_files_are_refused() {
    let directory = directory();
    let engine = open(directory.path());
    for number in 0..200 {
        put(&engine, Family::State, number, Logging::On);
    }
    let view = engine.view();
    let (file, _) = engine
        .stage_range(&view, Family::State, b"", b"z", u64::MAX, "good")
        .expect("sound");
    let file = file.expect("it has keys");
    let good = engine.stage_read("good", 0, usize::MAX).expect("it exists");
    assert_eq!(good.len() as u64, file.bytes);
    let mut random = Random(5);
    for case in 0..300 {
        let mut bad = good.to_vec();
        // The end holds what `stage_finish` reads; the beginning is covered by the checksum of the whole.
        let at = bad.len()
            - 1
            - random.below(bad.len().min(if case % 2 == 0 { 60 } else { 3000 }) as u64) as usize;
        if case % 3 == 0 {
            bad.truncate(at)
        } else {
            bad[at] ^= 1 << random.below(8)
        }
        let name = format!("bad-{case}");
        engine.stage_append(&name, &bad).expect("the disk works");
        match engine.stage_finish(&name) {
            Ok(described) => {
                assert_ne!(described.crc32c, file.crc32c, "case {case} at {at}");
                match engine.ingest(Family::State, &[name]) {
                    Ok(()) | Err(Error::Corrupt { .. }) => (),
                    Err(error) => panic!("case {case} at {at}: {error:?}"),
                }
            }
            Err(Error::Corrupt { .. }) => (),
            Err(error) => panic!("case {case} at {at}: {error:?}"),
        }
    }
    for name in ["", "../up", "a/b", ".hidden", "good+part"] {
        assert!(
            matches!(
                engine.stage_append(name, b""),
                Err(Error::StagingName { .. })
            ),
            "{name}"
        );
    }
    put(&engine, Family::State, 200, Logging::On);
}

/// What is told of a file is what its blocks hold, whatever their compression and number.
#[test]
fn keys_are_read_from_the_file_itself() {
    let directory = directory();
    let engine = open(directory.path());
    let mut random = Random(11);
    // Values that LZ4 makes small, and some that it does not; keys that share much, and the empty one.
    let mut changes = vec![Change::Put(Bytes::new(), Bytes::from_static(b"first"))];
    for number in 0..2_000_u64 {
        let mut value = vec![b'.'; random.below(400) as usize];
        if number % 3 == 0 {
            value
                .iter_mut()
                .for_each(|byte| *byte = random.below(256) as u8);
        }
        let key = format!("a key with a long beginning {number:05}");
        changes.push(Change::Put(key.into(), value.into()));
    }
    let large = vec![b'x'; 5 << 20];
    changes.push(Change::Put("b".into(), large.into()));
    let family = Family::State;
    let batch = Batch { family, changes };
    engine.write(batch, Logging::On).expect("the disk works");
    let view = engine.view();
    let staged = engine.stage_range(&view, family, b"", b"z", u64::MAX, "all");
    let (file, _) = staged.expect("sound");
    let file = file.expect("it has keys");
    assert_eq!(
        (file.keys, &file.first[..], &file.last[..]),
        (2_002, &b""[..], &b"b"[..])
    );
    assert_eq!(engine.stage_finish("all").expect("it is sound"), file);

    let staged = engine.stage_range(&view, family, b"a", b"b", 10_000, "part");
    let (file, next) = staged.expect("sound");
    let file = file.expect("it has keys");
    assert_eq!(&file.first[..], b"a key with a long beginning 00000");
    assert!(file.last < next.expect("there is more"));
}

/// RocksDB would take these in, or see other keys than a look from one end to the other does.
#[test]
fn files_that_rocksdb_would_read_otherwise_are_refused() {
    let directory = directory();
    let engine = open(directory.path());
    let mut random = Random(3);
    let family = Family::State;
    let changes = (0..40).map(|number| {
        // Nothing that could be packed.
        let value: Vec<u8> = (0..100).map(|_| random.below(256) as u8).collect();
        Change::Put(key(number), value.into())
    });
    let changes = changes.collect();
    let batch = Batch { family, changes };
    engine.write(batch, Logging::On).expect("the disk works");
    let staged = engine.stage_range(&engine.view(), family, b"", b"z", u64::MAX, "good");
    staged.expect("sound").0.expect("it has keys");
    let good = engine.stage_read("good", 0, usize::MAX).expect("it exists");
    // One plain data block, which begins the file: its entries, two restarts and their number, compression, checksum.
    let block_end = (4..good.len() - 5)
        .find(|end| {
            let checksum = mask(crc32c::crc32c(&good[..end + 1]));
            good[*end] == 0 && good[end + 1..end + 5] == checksum.to_le_bytes()
        })
        .expect("the block is not packed, or it has no checksum of ours");
    let mut refused = 0;
    for (at, what) in [
        (block_end - 4, "number of restarts"),
        (block_end - 8, "place of a restart"),
        (3, "first key"),
        (0, "shared bytes of the first key"),
    ] {
        for change in [1, 2, 0x80] {
            let mut bad = good.to_vec();
            bad[at] ^= change;
            let checksum = mask(crc32c::crc32c(&bad[..block_end + 1]));
            bad[block_end + 1..block_end + 5].copy_from_slice(&checksum.to_le_bytes());
            let name = format!("bad-{at}-{change}");
            engine.stage_append(&name, &bad).expect("the disk works");
            match engine.stage_finish(&name) {
                Err(Error::Corrupt { .. }) => refused += 1,
                // A first key may be another one that is as good.
                Ok(found) if what == "first key" => assert_ne!(found.first[..], good[3..7]),
                other => panic!("{what} changed by {change}: {other:?}"),
            }
        }
    }
    assert_eq!(refused, 10);
}

/// How RocksDB stores a checksum.
fn mask(checksum: u32) -> u32 {
    checksum.rotate_right(15).wrapping_add(0xA282_EAD8)
}
