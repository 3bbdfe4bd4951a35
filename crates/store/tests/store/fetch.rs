//! Entries for members that lag come from the log, off the region worker.

use engine::MemoryOptions;
use store::Options;
use store::event::{Event, OrderKind, Task};

use crate::harness::*;

/// Nothing that is applied stays in memory.
fn forgetful() -> Options {
    let mut options = options();
    options.raft.cache_bytes_max = 0;
    options
}

/// A leader on store 1 and twenty entries that store 3 lacks, and whose reading waits.
fn lagging() -> Cluster {
    let mut cluster = Cluster::with(
        3,
        &[region(1, "", "", &[1, 2, 3])],
        forgetful(),
        MemoryOptions::default(),
    );
    cluster.elect_at(r(1), 1);
    cluster.isolate(s(3));
    for number in 0..20 {
        cluster.put(r(1), &format!("k{number}"), "x");
    }
    cluster.hold_tasks.insert(s(1));
    cluster.heal();
    cluster.until("a fetch waits", |cluster| {
        let mut tasks = cluster.nodes[&s(1)].tasks.iter();
        tasks.any(|task| matches!(task, Task::FetchEntries(_)))
    });
    cluster
}

fn fetches(cluster: &Cluster) -> usize {
    let tasks = cluster.nodes[&s(1)].tasks.iter();
    tasks
        .filter(|task| matches!(task, Task::FetchEntries(_)))
        .count()
}

#[test]
fn a_slow_log_holds_nobody_else_up() {
    let mut cluster = lagging();
    // Others write and read on, the member is asked for one range at a time, and counts as lagging meanwhile.
    for number in 0..20 {
        cluster.put(r(1), &format!("l{number}"), "y");
        cluster.tick();
    }
    assert_eq!(cluster.get(r(1), "l19").as_deref(), Some("y"));
    assert_eq!(fetches(&cluster), 1);
    assert_eq!(cluster.local_get(3, "k0"), None);
    assert!(
        cluster
            .order(r(1), OrderKind::TransferLeader(raft::PeerId(13)))
            .is_err()
    );
    cluster.hold_tasks.clear();
    cluster.until("it has everything", |cluster| {
        cluster.local_get(3, "l19").is_some()
    });
    cluster.assert_same_data(&[1, 2, 3]);
}

#[test]
fn an_answer_for_an_earlier_leadership_is_dropped() {
    let mut cluster = lagging();
    let tasks = &mut cluster.nodes.get_mut(&s(1)).expect("it runs").tasks;
    let at = tasks
        .iter()
        .position(|task| matches!(task, Task::FetchEntries(_)));
    let late = tasks.remove(at.expect("a fetch waits")).expect("found");
    // Store 2 leads in between, and does not reach store 3.
    cluster.cut.extend([(s(2), s(3)), (s(3), s(2))]);
    cluster.elect_at(r(1), 2);
    cluster.elect_at(r(1), 1);
    cluster.put(r(1), "m", "z");
    cluster.until("this leadership reads as well", |cluster| {
        fetches(cluster) == 1
    });
    // What the earlier leadership found, an empty log, would mean for this one that the log is compacted: a snapshot.
    let Task::FetchEntries(fetch) = late else {
        unreachable!("taken by its kind")
    };
    let entries = Vec::new();
    let done = store::event::TaskDone::EntriesFetched { fetch, entries };
    cluster.step(s(1), Event::TaskDone(done));
    cluster.hold_tasks.clear();
    cluster.until("store 3 has everything", |cluster| {
        cluster.local_get(3, "m").is_some()
    });
    cluster.assert_same_data(&[1, 2, 3]);
    assert_eq!(cluster.happened.installs, 0);
}

#[test]
fn a_damaged_log_stops_the_store() {
    let cluster = lagging();
    let key = store::keys::entry(r(1), 5);
    let engine = cluster.nodes[&s(1)].engine.clone();
    let good = engine::Engine::get(&engine, engine::Family::Log, &key)
        .expect("readable")
        .expect("there");
    let mut bad = good.to_vec();
    *bad.last_mut().expect("not empty") ^= 1;
    let change = engine::Change::Put(bytes::Bytes::copy_from_slice(&key), bad.into());
    let batch = engine::Batch {
        family: engine::Family::Log,
        changes: vec![change],
    };
    engine::Engine::write(&engine, batch, engine::Logging::On).expect("it writes");
    let tasks = cluster.nodes[&s(1)].tasks.iter();
    let outcomes: Vec<_> = tasks
        .cloned()
        .map(|task| store::task::run(&engine, task, &mut || true))
        .collect();
    assert!(
        outcomes
            .iter()
            .any(|outcome| matches!(outcome, Err(engine::Error::Corrupt { .. }))),
        "{outcomes:?}"
    );
}
