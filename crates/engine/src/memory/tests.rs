use std::collections::BTreeMap;
use std::path::Path;

use proptest::prelude::*;

use super::*;

fn put(family: Family, key: &str, value: &str) -> Batch {
    let changes = vec![Change::Put(
        Bytes::copy_from_slice(key.as_bytes()),
        Bytes::copy_from_slice(value.as_bytes()),
    )];
    Batch { family, changes }
}

fn logged(engine: &MemoryEngine, key: &str) {
    engine
        .write(put(Family::Log, key, key), Logging::On)
        .expect("no fault");
}

fn unlogged(engine: &MemoryEngine, key: &str) {
    engine
        .write(put(Family::State, key, key), Logging::Off)
        .expect("no fault");
}

fn keys(engine: &MemoryEngine, family: Family) -> Vec<String> {
    let mut found = Vec::new();
    let view = engine.view();
    view.scan(
        family,
        Bound::Unbounded,
        Bound::Unbounded,
        Direction::Forward,
        &mut |key, _| {
            found.push(String::from_utf8_lossy(key).into_owned());
            true
        },
    )
    .expect("memory cannot fail");
    found
}

fn power_loss(engine: &MemoryEngine, keep: Keep) -> MemoryEngine {
    engine.crash(CrashMode::PowerLoss { keep })
}

#[test]
fn kill_keeps_everything_logged() {
    let engine = MemoryEngine::new();
    logged(&engine, "a");
    engine.sync().expect("no fault");
    logged(&engine, "b");
    assert_eq!(
        keys(&engine.crash(CrashMode::Kill), Family::Log),
        ["a", "b"]
    );
}

#[test]
fn power_loss_keeps_what_was_synced() {
    let engine = MemoryEngine::new();
    logged(&engine, "a");
    engine.sync().expect("no fault");
    logged(&engine, "b");
    assert_eq!(
        keys(&power_loss(&engine, Keep::Nothing), Family::Log),
        ["a"]
    );
    assert_eq!(
        keys(&power_loss(&engine, Keep::Everything), Family::Log),
        ["a", "b"]
    );
}

#[test]
fn torn_batch_is_lost_whole() {
    let engine = MemoryEngine::new();
    let two = ["a", "b"].map(|key| Change::Put(Bytes::from(key), Bytes::from("1")));
    engine
        .write(
            Batch {
                family: Family::Log,
                changes: two.to_vec(),
            },
            Logging::On,
        )
        .expect("no fault");
    logged(&engine, "c");
    // Each of the three changes takes ten bytes.
    for (bytes, expected) in [(0, 0), (19, 0), (20, 2), (29, 2), (30, 3)] {
        let survived = keys(&power_loss(&engine, Keep::Bytes(bytes)), Family::Log);
        assert_eq!(survived.len(), expected, "{bytes} bytes of the tail");
    }
}

#[test]
fn seeded_tails_are_prefixes_and_repeat() {
    let engine = MemoryEngine::new();
    let all: Vec<String> = (0..20).map(|number| format!("{number:02}")).collect();
    for (number, key) in all.iter().enumerate() {
        logged(&engine, key);
        if number == 4 {
            engine.sync().expect("no fault");
        }
    }
    let mut lengths = std::collections::BTreeSet::new();
    for seed in 0..200 {
        let survived = keys(&power_loss(&engine, Keep::Seeded(seed)), Family::Log);
        assert!(survived.len() >= 5, "synced batches stay");
        assert_eq!(survived, all[..survived.len()], "a prefix");
        assert_eq!(
            survived,
            keys(&power_loss(&engine, Keep::Seeded(seed)), Family::Log)
        );
        lengths.insert(survived.len());
    }
    assert!(
        lengths.contains(&5) && lengths.contains(&20) && lengths.len() > 8,
        "{lengths:?}"
    );
}

#[test]
fn unlogged_changes_fall_back_to_the_last_flush() {
    let engine = MemoryEngine::new();
    unlogged(&engine, "a");
    engine.flush(Family::State).expect("no fault");
    unlogged(&engine, "b");
    logged(&engine, "x");
    assert_eq!(
        engine.get_flushed(Family::State, b"a").expect("memory"),
        Some(Bytes::from("a"))
    );
    assert_eq!(
        engine.get_flushed(Family::State, b"b").expect("memory"),
        None
    );
    let killed = engine.crash(CrashMode::Kill);
    assert_eq!(keys(&killed, Family::State), ["a"]);
    assert_eq!(
        keys(&killed, Family::Log),
        ["x"],
        "the other family is independent"
    );
}

/// A flushed family never gets ahead of what was logged before for the other.
#[test]
fn flush_syncs_the_log() {
    let engine = MemoryEngine::new();
    logged(&engine, "a");
    engine.flush(Family::State).expect("no fault");
    assert_eq!(
        keys(&power_loss(&engine, Keep::Nothing), Family::Log),
        [""; 0],
        "there was nothing to flush"
    );
    let engine = MemoryEngine::new();
    logged(&engine, "a");
    unlogged(&engine, "s");
    engine.flush(Family::State).expect("no fault");
    logged(&engine, "b");
    let lost = power_loss(&engine, Keep::Nothing);
    assert_eq!(keys(&lost, Family::State), ["s"]);
    assert_eq!(keys(&lost, Family::Log), ["a"]);
}

#[test]
fn memtable_that_grows_is_flushed() {
    let engine = MemoryEngine::with_options(MemoryOptions {
        memtable_bytes_max: 30,
    });
    for key in ["a", "b", "c", "d", "e"] {
        unlogged(&engine, key);
    }
    assert_eq!(
        keys(&engine.crash(CrashMode::Kill), Family::State),
        ["a", "b", "c", "d"]
    );
}

#[test]
fn sequences_of_lost_changes_are_used_again() {
    let engine = MemoryEngine::new();
    logged(&engine, "a");
    let synced = engine.sequence();
    engine.sync().expect("no fault");
    unlogged(&engine, "b");
    logged(&engine, "c");
    assert_eq!(engine.sequence(), synced + 2);
    assert_eq!(power_loss(&engine, Keep::Nothing).sequence(), synced);
    assert_eq!(power_loss(&engine, Keep::Everything).sequence(), synced + 2);
}

#[test]
fn failed_write_is_final_and_may_be_in_the_log() {
    let engine = MemoryEngine::new();
    logged(&engine, "a");
    engine.fail_next(Fault::Write);
    let failed = engine.write(put(Family::Log, "b", "1"), Logging::On);
    assert!(matches!(
        failed,
        Err(Error::Io {
            operation: "write",
            ..
        })
    ));
    assert!(
        engine
            .write(put(Family::Log, "c", "1"), Logging::On)
            .is_err()
    );
    assert!(engine.sync().is_err() && engine.flush(Family::Log).is_err());
    assert_eq!(keys(&engine, Family::Log), ["a"]);
    assert_eq!(keys(&engine.crash(CrashMode::Kill), Family::Log), ["a"]);
    assert_eq!(
        keys(&power_loss(&engine, Keep::Everything), Family::Log),
        ["a", "b"]
    );
}

#[test]
fn failed_sync_is_final_and_promises_nothing() {
    let engine = MemoryEngine::new();
    logged(&engine, "a");
    engine.fail_next(Fault::Sync);
    assert!(engine.sync().is_err());
    assert!(engine.sync().is_err(), "a sync is never retried");
    assert_eq!(
        keys(&power_loss(&engine, Keep::Nothing), Family::Log),
        [""; 0]
    );
}

#[test]
fn crashed_engine_takes_no_more_writes() {
    let engine = MemoryEngine::new();
    let survivor = engine.crash(CrashMode::Kill);
    assert!(
        engine
            .write(put(Family::Log, "late", "1"), Logging::On)
            .is_err()
    );
    logged(&survivor, "a");
    assert_eq!(keys(&survivor, Family::Log), ["a"]);
}

#[test]
fn cleared_range_is_unspecified_until_it_is_durable() {
    let engine = MemoryEngine::new();
    for number in 0..100 {
        unlogged(&engine, &format!("{number:03}"));
    }
    engine.flush(Family::State).expect("no fault");
    engine
        .clear_range(Family::State, b"010", b"090", Logging::Off)
        .expect("no fault");
    assert_eq!(keys(&engine, Family::State).len(), 20);
    let survived = keys(&engine.crash(CrashMode::Kill), Family::State);
    assert!(
        survived.len() > 20 && survived.len() < 100,
        "an arbitrary part: {}",
        survived.len()
    );
    assert!(
        survived
            .iter()
            .filter(|key| !("010".."090").contains(&key.as_str()))
            .count()
            == 20
    );
}

#[test]
fn unfinished_staged_files_may_be_lost_and_finished_ones_not() {
    let engine = MemoryEngine::new();
    unlogged(&engine, "a");
    let (file, next) = engine
        .stage_range(&engine.view(), Family::State, b"", b"z", u64::MAX, "whole")
        .expect("memory cannot fail");
    assert_eq!((file.map(|file| file.keys), next), (Some(1), None));
    engine
        .stage_append("part", b"0123456789")
        .expect("it is not finished");
    let names = |engine: &MemoryEngine| engine.stage_list().expect("memory cannot fail");
    assert_eq!(names(&engine.crash(CrashMode::Kill)), ["part", "whole"]);
    assert_eq!(names(&power_loss(&engine, Keep::Nothing)), ["whole"]);
    let mut left = std::collections::BTreeSet::new();
    for seed in 0..100 {
        let survivor = power_loss(&engine, Keep::Seeded(seed));
        let part = survivor.stage_read("part", 0, 100).unwrap_or_default();
        let kept = part
            .iter()
            .zip(b"0123456789")
            .take_while(|(left, right)| left == right)
            .count();
        assert!(
            part[kept..].iter().all(|byte| *byte == 0),
            "a beginning, then zeros"
        );
        left.insert(part);
    }
    assert!(left.len() > 10, "{left:?}");
}

#[test]
fn damaged_staged_files_are_refused() {
    let engine = MemoryEngine::new();
    for key in ["a", "b", "c"] {
        unlogged(&engine, key);
    }
    let view = engine.view();
    engine
        .stage_range(&view, Family::State, b"", b"z", u64::MAX, "good")
        .expect("memory cannot fail");
    let good = engine.stage_read("good", 0, usize::MAX).expect("it exists");
    for at in 0..good.len() {
        let mut bad = good.to_vec();
        bad[at] ^= 1;
        let name = format!("bad-{at}");
        engine
            .stage_append(&name, &bad)
            .expect("it is not finished");
        assert!(
            matches!(engine.stage_finish(&name), Err(Error::Corrupt { .. })),
            "flip at {at}"
        );
        let cut = format!("cut-{at}");
        engine
            .stage_append(&cut, &good[..at])
            .expect("it is not finished");
        assert!(
            matches!(engine.stage_finish(&cut), Err(Error::Corrupt { .. })),
            "cut at {at}"
        );
    }
    for name in ["", "../up", "a/b", ".hidden", "a+b", &"x".repeat(300)] {
        assert!(
            matches!(
                engine.stage_append(name, b""),
                Err(Error::StagingName { .. })
            ),
            "{name}"
        );
    }
}

#[test]
fn checkpoint_holds_everything_and_stays() {
    let engine = MemoryEngine::new();
    unlogged(&engine, "a");
    let path = Path::new("copy");
    engine.checkpoint(path).expect("no fault");
    assert!(
        matches!(engine.checkpoint(path), Err(Error::Io { .. })),
        "the path exists"
    );
    unlogged(&engine, "b");
    let copy = engine
        .crash(CrashMode::Kill)
        .open_checkpoint(path)
        .expect("it was made");
    assert_eq!(keys(&copy, Family::State), ["a"]);
}

#[derive(Clone, Debug)]
enum Step {
    Insert(u8),
    Remove(u8),
    RemoveRange(u8, u8),
    Copy,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => any::<u8>().prop_map(Step::Insert),
        3 => any::<u8>().prop_map(Step::Remove),
        1 => any::<(u8, u8)>().prop_map(|(start, end)| Step::RemoveRange(start, end)),
        1 => Just(Step::Copy),
    ]
}

fn content(
    tree: &Tree,
    lower: Bound<&[u8]>,
    upper: Bound<&[u8]>,
    direction: Direction,
) -> Vec<(Bytes, Bytes)> {
    let mut found = Vec::new();
    tree.scan(lower, upper, direction, &mut |key, value| {
        found.push((key.clone(), value.clone()));
        true
    });
    found
}

proptest! {
    #[test]
    fn tree_agrees_with_btreemap(steps in prop::collection::vec(step(), 0..300)) {
        let (mut tree, mut twin) = (Tree::default(), BTreeMap::new());
        let mut copies = Vec::new();
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                Step::Insert(key) => {
                    let (key, value) = (Bytes::from(vec![key]), Bytes::from(number.to_string()));
                    tree.insert(key.clone(), value.clone());
                    twin.insert(key, value);
                }
                Step::Remove(key) => {
                    tree.remove(&[key]);
                    twin.remove(&[key][..]);
                }
                Step::RemoveRange(start, end) => {
                    tree.remove_range(&[start], &[end]);
                    twin.retain(|key, _| !(start <= key[0] && key[0] < end));
                }
                Step::Copy => copies.push((tree.clone(), twin.clone())),
            }
        }
        copies.push((tree, twin));
        for (tree, twin) in copies {
            tree.check_invariants();
            prop_assert_eq!(tree.len(), twin.len());
            prop_assert_eq!(tree.bytes(), twin.iter().map(|(key, value)| (key.len() + value.len()) as u64).sum::<u64>());
            let all = content(&tree, Bound::Unbounded, Bound::Unbounded, Direction::Forward);
            prop_assert_eq!(all, twin.into_iter().collect::<Vec<_>>());
        }
    }
}

#[test]
fn tree_stays_shallow() {
    let mut tree = Tree::default();
    for number in 0_u32..20_000 {
        tree.insert(Bytes::copy_from_slice(&number.to_be_bytes()), Bytes::new());
    }
    assert!(
        tree.depth() < 50,
        "a path of {} for 20 000 keys in order",
        tree.depth()
    );
}

#[test]
fn damage_is_an_error_in_every_read_until_something_lies_above_it() {
    let corrupt = |read: Result<(), Error>| matches!(read, Err(Error::Corrupt { .. }));
    let reads = |engine: &MemoryEngine| {
        let view = engine.view();
        let scan = |end: &'static [u8]| {
            view.scan(
                Family::State,
                Bound::Included(&b"a"[..]),
                Bound::Excluded(end),
                Direction::Forward,
                &mut |_, _| true,
            )
        };
        let staged = engine.stage_range(&view, Family::State, b"a", b"z", u64::MAX, "file");
        assert_eq!(scan(b"b").map_err(drop), Ok(()), "it reads nothing of it");
        [
            corrupt(engine.get(Family::State, b"b").map(drop)),
            corrupt(engine.get_many(Family::State, &[b"a", b"b"]).map(drop)),
            corrupt(view.get(Family::State, b"b").map(drop)),
            corrupt(scan(b"z")),
            corrupt(staged.map(drop)),
        ]
    };
    let engine = MemoryEngine::new();
    for key in ["a", "b", "c"] {
        engine
            .write(put(Family::State, key, "x"), Logging::On)
            .expect("no fault");
    }
    engine.flush(Family::State).expect("no fault");
    engine.damage(Family::State, b"b");
    assert_eq!(reads(&engine), [true; 5]);
    let engine = engine.crash(CrashMode::Kill);
    assert_eq!(reads(&engine), [true; 5], "a restart heals nothing");
    engine
        .write(put(Family::State, "b", "y"), Logging::On)
        .expect("no fault");
    assert_eq!(reads(&engine), [false; 5]);
}
