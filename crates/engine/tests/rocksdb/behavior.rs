//! What needs no crash.

use std::fs;
use std::ops::Bound;

use bytes::Bytes;
use engine::{Batch, Change, Direction, Engine, Error, Family, Logging, View};

use crate::support::*;

/// The same engine twice would be two writers of one log.
#[test]
fn directory_in_use_is_refused() {
    let directory = directory();
    let engine = open(directory.path());
    assert!(matches!(
        try_open(directory.path()),
        Err(Error::InUse { .. })
    ));
    let view = engine.view();
    drop(engine);
    assert!(
        matches!(try_open(directory.path()), Err(Error::InUse { .. })),
        "a view keeps the engine open"
    );
    drop(view);
    open(directory.path());
}

#[test]
fn orderly_stop_keeps_everything() {
    let directory = directory();
    let engine = open(directory.path());
    put(&engine, Family::Log, 1, Logging::On);
    put(&engine, Family::State, 2, Logging::Off);
    drop(engine);
    let engine = open(directory.path());
    assert_holds(&engine, Family::Log, [1].into_iter());
    assert_holds(&engine, Family::State, [2].into_iter());
}

/// R15, STORAGE §6: what RocksDB itself says it was opened with.
#[test]
fn rocksdb_is_opened_to_tell_damage_from_a_tail() {
    let directory = directory();
    drop(open(directory.path()));
    let files = fs::read_dir(directory.path().join("db")).expect("it exists");
    let files = files.map(|file| file.expect("it can be listed").path());
    let newest = files
        .filter(|path| {
            let name = path.file_name().expect("a file has a name");
            name.to_string_lossy().starts_with("OPTIONS-")
        })
        .max()
        .expect("RocksDB writes its options down");
    let options = fs::read_to_string(newest).expect("text");
    for wanted in [
        "wal_recovery_mode=kTolerateCorruptedTailRecords",
        "recycle_log_file_num=0",
        "track_and_verify_wals_in_manifest=true",
        "paranoid_checks=true",
        "file_checksum_gen_factory=FileChecksumGenCrc32cFactory",
        "allow_mmap_reads=false",
        "allow_mmap_writes=false",
    ] {
        assert!(
            options.lines().any(|line| line.trim() == wanted),
            "{wanted} is not in\n{options}"
        );
    }
}

/// Before anything was written without the log RocksDB's persisted tier would answer from memory.
#[test]
fn flushed_reads_see_files_only() {
    let directory = directory();
    let engine = open(directory.path());
    for family in [Family::Log, Family::State] {
        put(&engine, family, 1, Logging::On);
        assert_eq!(engine.get_flushed(family, &key(1)).expect("sound"), None);
        engine.sync().expect("the disk works");
        engine.flush(family).expect("the disk works");
        assert_eq!(
            engine.get_flushed(family, &key(1)).expect("sound"),
            Some(value(1))
        );
        let changes = vec![Change::Delete(key(1))];
        engine
            .write(Batch { family, changes }, Logging::Off)
            .expect("the disk works");
        assert_eq!(
            engine.get_flushed(family, &key(1)).expect("sound"),
            Some(value(1))
        );
        assert_eq!(engine.get(family, &key(1)).expect("sound"), None);
    }
}

#[test]
fn views_do_not_see_later_ingests() {
    let directory = directory();
    let engine = open(directory.path());
    for number in 0..10 {
        put(&engine, Family::State, number, Logging::Off);
    }
    let full = engine.view();
    let (file, next) = engine
        .stage_range(&full, Family::State, b"", b"z", u64::MAX, "all")
        .expect("sound");
    assert_eq!((file.expect("it has keys").keys, next), (10, None));
    engine
        .clear_range(Family::State, b"", b"z", Logging::On)
        .expect("the disk works");
    let empty = engine.view();
    engine
        .ingest(Family::State, &["all".into()])
        .expect("the file is sound");
    assert_holds(&engine, Family::State, 0..10);
    assert_eq!(empty.get(Family::State, &key(1)).expect("sound"), None);
    assert_eq!(
        full.get(Family::State, &key(1)).expect("sound"),
        Some(value(1))
    );
}

/// Ingesting gives RocksDB a link of its own; the staged file is whole afterwards and can be taken in again.
#[test]
fn ingest_leaves_the_staged_file_as_it_was() {
    let directory = directory();
    let engine = open(directory.path());
    for number in 0..100 {
        put(&engine, Family::State, number, Logging::Off);
    }
    let view = engine.view();
    let (file, _) = engine
        .stage_range(&view, Family::State, b"", b"z", u64::MAX, "all")
        .expect("sound");
    let file = file.expect("it has keys");
    for _ in 0..3 {
        // The view makes RocksDB give the file a sequence number, which it must not write into the file.
        engine
            .ingest(Family::State, &["all".into()])
            .expect("the file is sound");
        assert_eq!(engine.stage_finish("all").expect("it is sound"), file);
    }
    assert_eq!(engine.stage_list().expect("sound"), ["all"]);
    let left = fs::read_dir(directory.path().join("staging"))
        .expect("it exists")
        .count();
    assert_eq!(left, 1, "no link is left over");
    engine
        .stage_remove(&["all".into(), "unknown".into()])
        .expect("the disk works");
    drop(view);
    assert_holds(&engine, Family::State, 0..100);
}

/// RocksDB tells in its own log why it flushed. For an ingest it does so while it holds every writer up.
#[test]
fn no_writer_waits_for_the_flush_that_an_ingest_needs() {
    let directory = directory();
    let engine = open(directory.path());
    for number in 0..100 {
        put(&engine, Family::State, number, Logging::Off);
    }
    let view = engine.view();
    engine
        .stage_range(&view, Family::State, b"", b"z", u64::MAX, "all")
        .expect("sound");
    drop(view);
    engine
        .clear_range(Family::State, b"", b"z", Logging::On)
        .expect("the disk works");
    engine
        .ingest(Family::State, &["all".into()])
        .expect("the file is sound");
    assert_holds(&engine, Family::State, 0..100);
    drop(engine);
    let log = fs::read_to_string(directory.path().join("db/LOG")).expect("RocksDB writes one");
    assert!(log.contains("Manual Flush"), "nothing was flushed: {log}");
    assert!(!log.contains("External File Ingestion"), "{log}");
}

#[test]
fn several_files_are_ingested_together_or_not_at_all() {
    let directory = directory();
    let engine = open(directory.path());
    for number in 0..100 {
        put(&engine, Family::State, number, Logging::Off);
    }
    let view = engine.view();
    let mut names = Vec::new();
    let mut start = Bytes::new();
    loop {
        let name = format!("part-{}", names.len());
        let (file, next) = engine
            .stage_range(&view, Family::State, &start, b"z", 2000, &name)
            .expect("sound");
        assert!(file.is_some());
        names.push(name);
        let Some(next) = next else { break };
        start = next;
    }
    assert!(names.len() > 2, "{names:?}");
    engine
        .clear_range(Family::State, b"", b"z", Logging::On)
        .expect("the disk works");
    let mut with_unknown = names.clone();
    with_unknown.push("unknown".into());
    assert!(matches!(
        engine.ingest(Family::State, &with_unknown),
        Err(Error::Staging { exists: false, .. })
    ));
    assert_holds(&engine, Family::State, 0..0);
    engine
        .ingest(Family::State, &names)
        .expect("the files are sound");
    assert_holds(&engine, Family::State, 0..100);
}

/// A range delete where nothing is would have every ingest flush it, and pile its files up in the first level until
/// RocksDB slows all writes down.
#[test]
fn clearing_an_empty_range_leaves_nothing_to_flush() {
    let directory = directory();
    let engine = open(directory.path());
    for number in 0..100 {
        put(&engine, Family::State, number, Logging::On);
    }
    let (start, end) = (key(0), key(100));
    let view = engine.view();
    engine
        .stage_range(&view, Family::State, &start, &end, u64::MAX, "all")
        .expect("sound");
    drop(view);
    let clear = |engine: &engine::RocksEngine| {
        engine
            .clear_range(Family::State, &start, &end, Logging::On)
            .expect("the disk works");
    };
    clear(&engine);
    engine.flush(Family::State).expect("the disk works");
    put(&engine, Family::State, 500, Logging::On);

    clear(&engine);
    engine
        .ingest(Family::State, &["all".into()])
        .expect("the file is sound");
    let flushed = |engine: &engine::RocksEngine| {
        engine
            .get_flushed(Family::State, &key(500))
            .expect("sound")
            .is_some()
    };
    assert!(!flushed(&engine), "nothing had to be flushed");

    clear(&engine);
    engine
        .ingest(Family::State, &["all".into()])
        .expect("the file is sound");
    assert!(flushed(&engine), "what was there had to be cleared");
    assert_holds(&engine, Family::State, (0..100).chain([500]));
}

/// RocksDB drops files up to and including the end it is given, which is not ours to drop.
#[test]
fn clearing_drops_whole_files_but_never_the_end() {
    let directory = directory();
    let source = open(&directory.path().join("source"));
    let engine = open(&directory.path().join("target"));
    let mut random = Random(7);
    for number in 0..2001 {
        let noise = Bytes::from(
            (0..1000)
                .map(|_| random.below(256) as u8)
                .collect::<Vec<_>>(),
        );
        let changes = vec![Change::Put(key(number), noise)];
        source
            .write(
                Batch {
                    family: Family::State,
                    changes,
                },
                Logging::Off,
            )
            .expect("the disk works");
    }
    let view = source.view();
    for (name, start, end) in [
        ("first", key(0), key(1000)),
        ("second", key(1000), key(2001)),
    ] {
        source
            .stage_range(&view, Family::State, &start, &end, u64::MAX, name)
            .expect("sound");
        let content = source.stage_read(name, 0, usize::MAX).expect("it exists");
        engine.stage_append(name, &content).expect("the disk works");
        engine.stage_finish(name).expect("it is sound");
        engine
            .ingest(Family::State, &[name.into()])
            .expect("the file is sound");
    }
    let before = engine.statistics().file_bytes;
    assert!(before > 2_000_000, "{before} bytes in files");

    let view = engine.view();
    engine
        .clear_range(Family::State, &key(0), &key(1000), Logging::Off)
        .expect("the disk works");
    assert!(
        view.get(Family::State, &key(5)).expect("sound").is_some(),
        "a view keeps the files it reads"
    );
    assert!(engine.get(Family::State, &key(5)).expect("sound").is_none());
    assert!(engine.statistics().file_bytes >= before);
    drop(view);

    engine
        .clear_range(Family::State, &key(0), &key(1000), Logging::Off)
        .expect("the disk works");
    let after = engine.statistics().file_bytes;
    assert!(
        after < before * 6 / 10,
        "{before} bytes before, {after} after"
    );
    // The last key of the second file is the end of the range.
    engine
        .clear_range(Family::State, &key(1000), &key(2000), Logging::Off)
        .expect("the disk works");
    let left = content(&engine, Family::State).expect("sound");
    assert_eq!(
        left.into_iter().map(|(key, _)| key).collect::<Vec<_>>(),
        [key(2000)]
    );
}

/// Filters of `log` are built over the region; no scan may miss keys because of them.
#[test]
fn scans_of_log_cross_regions() {
    let directory = directory();
    let engine = open(directory.path());
    let log_key = |region: u64, index: u64| [region.to_be_bytes(), index.to_be_bytes()].concat();
    for region in 1..=20 {
        for index in 0..5 {
            let changes = vec![Change::Put(
                log_key(region, index).into(),
                Bytes::from("entry"),
            )];
            engine
                .write(
                    Batch {
                        family: Family::Log,
                        changes,
                    },
                    Logging::On,
                )
                .expect("the disk works");
        }
        engine.flush(Family::Log).expect("the disk works");
    }
    let view = engine.view();
    let count = |lower: &[u8], upper: &[u8], direction| {
        let mut keys = Vec::new();
        view.scan(
            Family::Log,
            Bound::Included(lower),
            Bound::Excluded(upper),
            direction,
            &mut |key, _| {
                keys.push(key.to_vec());
                true
            },
        )
        .expect("sound");
        assert!(keys.is_sorted() || keys.is_sorted_by(|first, second| first > second));
        keys.len()
    };
    for direction in [Direction::Forward, Direction::Backward] {
        assert_eq!(count(&log_key(3, 0), &log_key(3, 4), direction), 4);
        assert_eq!(count(&log_key(3, 0), &log_key(4, 0), direction), 5);
        assert_eq!(
            count(&log_key(3, 2), &log_key(18, 1), direction),
            3 + 14 * 5 + 1
        );
        assert_eq!(count(&log_key(30, 0), &log_key(30, 9), direction), 0);
        assert_eq!(count(&[], &[0xFF; 9], direction), 100);
    }
}

#[test]
fn checkpoint_is_an_engine_of_its_own() {
    let directory = directory();
    let engine = open(&directory.path().join("original"));
    put(&engine, Family::Log, 1, Logging::On);
    put(&engine, Family::State, 2, Logging::Off);
    let path = directory.path().join("copy");
    engine.checkpoint(&path).expect("the disk works");
    assert!(
        matches!(engine.checkpoint(&path), Err(Error::Io { .. })),
        "the path exists"
    );
    put(&engine, Family::State, 3, Logging::Off);
    let copy = open(&path);
    assert_holds(&copy, Family::Log, [1].into_iter());
    assert_holds(&copy, Family::State, [2].into_iter());
    put(&copy, Family::State, 4, Logging::On);
    assert_holds(&engine, Family::State, [2, 3].into_iter());
}

/// A sync that another has covered meanwhile costs nothing; one that a write waits for is never left out.
#[test]
fn syncs_are_shared() {
    let directory = directory();
    let engine = open(directory.path());
    put(&engine, Family::Log, 0, Logging::On);
    for _ in 0..3 {
        engine.sync().expect("the disk works");
    }
    assert_eq!(engine.statistics().syncs, 1);
    put(&engine, Family::Log, 1, Logging::On);
    engine.sync().expect("the disk works");
    assert_eq!(engine.statistics().syncs, 2);
}

#[test]
fn statistics_and_sequence_move() {
    let directory = directory();
    let engine = open(directory.path());
    let sequence = engine.sequence();
    for number in 0..100 {
        put(&engine, Family::State, number, Logging::On);
    }
    engine.sync().expect("the disk works");
    assert_eq!(engine.sequence(), sequence + 100);
    let statistics = engine.statistics();
    assert_eq!(
        (statistics.writes, statistics.syncs, statistics.stalled),
        (100, 1, false)
    );
    assert!(statistics.memtable_bytes > 0);
    engine.flush(Family::State).expect("the disk works");
    assert!(engine.statistics().file_bytes > 0);
    assert!(
        engine
            .approximate_bytes(Family::State, b"", b"z")
            .expect("sound")
            > 0
    );
    assert_eq!(
        engine
            .approximate_bytes(Family::State, b"z", b"")
            .expect("sound"),
        0
    );
}

/// Unflushed changes of `state` hold the log files, too, logged or not (STORAGE §3).
#[test]
fn log_files_go_when_both_families_are_flushed() {
    let directory = directory();
    let engine = open(directory.path());
    let bytes = || {
        files(directory.path(), "log")
            .iter()
            .map(|path| fs::metadata(path).expect("it exists").len())
            .sum()
    };
    for number in 0..1000 {
        put(&engine, Family::Log, number, Logging::On);
    }
    put(&engine, Family::State, 1, Logging::Off);
    let full: u64 = bytes();
    engine.flush(Family::Log).expect("the disk works");
    let held: u64 = bytes();
    assert!(held > 0, "`state` has unflushed changes");
    engine.flush(Family::State).expect("the disk works");
    let left: u64 = bytes();
    assert_eq!(
        left, 0,
        "{full} bytes at first, {held} after the flush of `log`"
    );
}
