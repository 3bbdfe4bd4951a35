//! Snapshots and compaction (REGIONS §7, §10 rows 21 to 23).

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

use engine::{Engine, Family};
use proto::metapb::{self, PeerRole};
use proto::pontoon::v1 as wire;
use store::event::{Event, OrderKind, Task, TaskDone};
use store::{Options, keys};

use crate::harness::*;

fn compacting() -> Options {
    Options {
        compact_entries: 20,
        compact_tail_entries: 0,
        ..options()
    }
}

fn three() -> Cluster {
    Cluster::with(
        3,
        &[region(1, "", "", &[1, 2, 3])],
        compacting(),
        Default::default(),
    )
}

fn learner(id: u64, store_id: u64) -> metapb::Peer {
    metapb::Peer {
        id,
        store_id,
        role: PeerRole::Learner as i32,
        is_witness: false,
    }
}

fn fill(cluster: &mut Cluster, count: u64) {
    for number in 0..count {
        cluster.put(r(1), &format!("k{number}"), "x");
    }
}

fn entries_on_disk(cluster: &Cluster, store: u64) -> usize {
    let mut count = 0;
    let (lower, upper) = (keys::entry(r(1), 0), keys::raft_state(r(1)));
    let bounds = (
        std::ops::Bound::Included(&lower[..]),
        std::ops::Bound::Excluded(&upper[..]),
    );
    let view = cluster.nodes[&s(store)].engine.view();
    engine::View::scan(
        &view,
        Family::Log,
        bounds.0,
        bounds.1,
        engine::Direction::Forward,
        &mut |_, _| {
            count += 1;
            true
        },
    )
    .expect("a scan");
    count
}

#[test]
fn logs_are_compacted_and_survive_restarts() {
    let mut cluster = three();
    fill(&mut cluster, 100);
    cluster.ticks(5);
    for store in [1, 2, 3] {
        assert!(
            entries_on_disk(&cluster, store) < 45,
            "store {store} keeps {}",
            entries_on_disk(&cluster, store)
        );
    }
    for store in [1, 2, 3] {
        cluster.crash(s(store), POWER);
    }
    for store in [1, 2, 3] {
        cluster.restart(s(store));
    }
    for number in 0..100 {
        assert_eq!(
            cluster.get(r(1), &format!("k{number}")).as_deref(),
            Some("x")
        );
    }
    cluster.assert_same_data(&[1, 2, 3]);
}

/// A member that is away for less than the tail finds the entries it misses in the log, though it was not waited for.
#[test]
fn a_follower_within_the_tail_comes_back_without_snapshot() {
    let mut cluster = Cluster::with(
        3,
        &[region(1, "", "", &[1, 2, 3])],
        Options {
            compact_tail_entries: 40,
            compact_entries: 80,
            ..compacting()
        },
        Default::default(),
    );
    cluster.elect_at(r(1), 1);
    fill(&mut cluster, 60);
    cluster.crash(s(3), KILL);
    // Long silent before the log is compacted.
    cluster.ticks(40);
    let first = |cluster: &Cluster| {
        cluster
            .store(1)
            .raft(r(1))
            .expect("it leads")
            .compacted()
            .index
    };
    let before = first(&cluster);
    fill(&mut cluster, 35);
    assert!(first(&cluster) > before, "the log was compacted meanwhile");
    cluster.put(r(1), "last", "x");
    cluster.restart(s(3));
    cluster.until("it is back", |cluster| {
        cluster.local_get(3, "last").is_some()
    });
    assert_eq!(cluster.happened.installs, 0);
    cluster.assert_same_data(&[1, 2, 3]);
}

/// A member that lags, but answers and catches up from the log, holds compaction back; else one snapshot would follow
/// another for as long as writes go on.
#[test]
fn a_member_that_catches_up_from_the_log_is_waited_for() {
    let mut cluster = three();
    cluster.elect_at(r(1), 1);
    cluster.crash(s(3), KILL);
    fill(&mut cluster, 60);
    cluster.restart(s(3));
    cluster.until("the snapshot is installed", |cluster| {
        cluster.local_get(3, "k59").is_some()
    });
    let first = |cluster: &Cluster| cluster.store(1).raft(r(1)).expect("it leads").compacted();
    let before = first(&cluster);
    for round in 0..4 {
        // Heartbeats get through, entries do not.
        cluster.filter(|_, to, frame| {
            if to == s(3) {
                frame.messages.clear();
            }
        });
        for number in 0..19 {
            cluster.put(r(1), &format!("r{round}n{number}"), "x");
        }
        cluster.clear_filter();
        cluster.until("it has caught up", |cluster| {
            cluster.local_get(3, &format!("r{round}n18")).is_some()
        });
    }
    assert!(
        first(&cluster).index > before.index + 20,
        "the log is compacted all the same"
    );
    assert_eq!(cluster.happened.installs, 1);
    cluster.assert_same_data(&[1, 2, 3]);
}

#[test]
fn a_follower_behind_the_log_comes_back_by_snapshot() {
    let mut cluster = three();
    cluster.put(r(1), "a", "1");
    let leader = cluster.elect(r(1));
    let away = [s(1), s(2), s(3)]
        .into_iter()
        .find(|store| *store != leader)
        .expect("three");
    cluster.crash(away, KILL);
    fill(&mut cluster, 60);
    cluster.restart(away);
    cluster.until("it is back", |cluster| {
        cluster.local_get(away.0, "k59").is_some()
    });
    cluster.put(r(1), "b", "2");
    cluster.assert_same_data(&[1, 2, 3]);
    assert!(
        cluster.nodes[&away]
            .engine
            .stage_list()
            .expect("a list")
            .is_empty(),
        "no file is left over"
    );
    assert!(
        cluster.nodes[&leader]
            .engine
            .stage_list()
            .expect("a list")
            .is_empty()
    );
}

#[test]
fn snapshot_names_receiver() {
    // A snapshot built before the receiver was added does not name it and is refused.
    let mut cluster = Cluster::new(4, &[region(1, "", "", &[1, 2, 3])]);
    cluster.put(r(1), "a", "1");
    cluster.elect_at(r(1), 1);
    let before = cluster.view(1, r(1)).region.clone();
    cluster.filter(|from, to, frame| {
        if to == s(4) {
            frame.offers.clear();
        }
        if from == s(4) {
            frame.answers.clear();
        }
    });
    cluster
        .order(r(1), OrderKind::AddLearner(learner(14, 4)))
        .expect("it is added");
    cluster.until("it is uninitialized", |cluster| cluster.has_view(4, r(1)));
    let offer = wire::SnapshotOffer {
        region: Some(cluster.view(1, r(1)).region.clone()),
        from_peer: 11,
        to_peer: 14,
        from_store: 1,
        index: 3,
        ..Default::default()
    };
    let frame = wire::Frame {
        offers: vec![offer],
        ..Default::default()
    };
    cluster.step(s(4), Event::Frame { from: s(1), frame });
    let slot = cluster.granted(4);
    let head = wire::SnapshotHead {
        slot,
        from_peer: 11,
        to_peer: 14,
        from_store: 1,
        leader_term: cluster.view(1, r(1)).term,
        term: 1,
        index: 3,
        region: Some(before),
        ..Default::default()
    };
    cluster.step(s(4), Event::SnapshotReceived { from: s(1), head });
    cluster.settle();
    assert!(!cluster.owns(4, r(1)));
    cluster.clear_filter();
    cluster.until("the right one comes", |cluster| cluster.owns(4, r(1)));
}

#[test]
fn snapshot_crash_points() {
    // Stops the receiver after every single step of an install, by kill and by power loss: it is whole, old or new, or says
    // that it is neither.
    let mut seen = [BTreeSet::new(), BTreeSet::new()];
    for power in [false, true] {
        for stop_after in 0..40 {
            let mut cluster = three();
            cluster.put(r(1), "a", "old");
            let leader = cluster.elect(r(1));
            let away = [s(1), s(2), s(3)]
                .into_iter()
                .find(|store| *store != leader)
                .expect("three");
            cluster.until("it has what is old", |cluster| {
                cluster.local_get(away.0, "a").is_some()
            });
            cluster.nodes[&away].engine.sync().expect("a sync");
            cluster.isolate(away);
            cluster.put(r(1), "a", "new");
            fill(&mut cluster, 40);
            cluster.heal();
            cluster.step(leader, Event::Tick);
            let mut steps = 0;
            let mut idle = 0;
            while steps < stop_after && idle < 6 {
                cluster.deliver();
                for other in [s(1), s(2), s(3)] {
                    if other != away {
                        cluster.work(other);
                    }
                }
                let before = cluster.nodes[&away].tasks.len();
                let worked = cluster.work(away);
                if worked || before > 0 {
                    steps += 1;
                    idle = 0;
                } else if !cluster.deliver() {
                    idle += 1;
                    for id in [s(1), s(2), s(3)] {
                        cluster.step(id, Event::Tick);
                    }
                }
            }
            cluster.crash(away, if power { POWER } else { KILL });
            cluster.restart(away);
            let state = whole_state(&cluster, away.0);
            seen[usize::from(power)].insert(state);
            cluster.until("it catches up", |cluster| {
                cluster.owns(away.0, r(1)) && cluster.local_get(away.0, "k39").is_some()
            });
            cluster.put(r(1), "z", "after");
            cluster.assert_same_data(&[1, 2, 3]);
        }
    }
    let all = BTreeSet::from([Whole::Old, Whole::New, Whole::Installing]);
    assert_eq!(seen, [all.clone(), all]);
}

/// What is of a region on a store that was just started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Whole {
    Old,
    New,
    /// Nothing is served of it.
    Installing,
}

/// Which of the two it is; what it owns is nothing in between.
fn whole_state(cluster: &Cluster, store: u64) -> Whole {
    if !cluster.owns(store, r(1)) {
        return Whole::Installing;
    }
    let filled = (0..40).filter(|number| {
        let key = format!("k{number}");
        cluster.local_get(store, &key).is_some()
    });
    let filled = filled.count();
    let applied = cluster.store(store).applied_index(r(1));
    let raft = cluster.store(store).raft(r(1)).expect("it runs");
    assert!(
        Some(raft.compacted().index) <= applied,
        "a log without data"
    );
    match cluster.local_get(store, "a").as_deref() {
        Some("old") if filled == 0 => Whole::Old,
        Some("new") if filled == 40 => Whole::New,
        value => panic!("{value:?} and {filled} of 40 keys, applied {applied:?}"),
    }
}

/// A cluster of four stores in which store 3 is in the middle of an install, past its point of no return. Store 1 leads.
fn installing() -> Cluster {
    let mut cluster = Cluster::with(
        4,
        &[region(1, "", "", &[1, 2, 3])],
        compacting(),
        Default::default(),
    );
    cluster.put(r(1), "a", "old");
    cluster.elect_at(r(1), 1);
    cluster.isolate(s(3));
    fill(&mut cluster, 40);
    cluster.hold_tasks.insert(s(3));
    cluster.heal();
    cluster.until("the install waits as a task", |cluster| {
        let mut tasks = cluster.nodes[&s(3)].tasks.iter();
        tasks.any(|task| matches!(task, Task::InstallSnapshot { .. }))
    });
    cluster
}

/// The same, and store 3 is down.
fn stopped_while_installing() -> Cluster {
    let mut cluster = installing();
    cluster.crash(s(3), KILL);
    cluster
}

fn lose_files(cluster: &Cluster, store: u64) {
    let engine = &cluster.nodes[&s(store)].engine;
    engine
        .stage_remove(&engine.stage_list().expect("a list"))
        .expect("they go");
}

#[test]
fn an_install_whose_files_are_lost_takes_another_snapshot() {
    let mut cluster = stopped_while_installing();
    lose_files(&cluster, 3);
    cluster.restart(s(3));
    cluster.ticks(2);
    assert!(!cluster.owns(3, r(1)), "it stays installing");
    cluster.until("another snapshot is installed", |cluster| {
        cluster.owns(3, r(1))
    });
    cluster.put(r(1), "b", "2");
    cluster.assert_same_data(&[1, 2, 3]);
}

/// What was put in place is not lost with the files, though the mark is still there: the leader knows of it.
#[test]
fn an_install_that_has_ended_needs_no_files() {
    let mut cluster = installing();
    cluster.hold_log.insert(s(3));
    cluster.hold_tasks.remove(&s(3));
    while cluster.run_task(s(3)) {}
    assert!(cluster.owns(3, r(1)));
    cluster.deliver();
    cluster.crash(s(3), POWER);
    lose_files(&cluster, 3);
    cluster.restart(s(3));
    assert!(cluster.owns(3, r(1)));
    cluster.put(r(1), "b", "2");
    cluster.assert_same_data(&[1, 2, 3]);
    assert_eq!(cluster.happened.installs, 1);
    cluster.crash(s(3), KILL);
    cluster.restart(s(3));
    cluster.put(r(1), "c", "3");
    cluster.assert_same_data(&[1, 2, 3]);
}

/// REGIONS §2: an installing peer votes, whether its process ended meanwhile and its files are there or not.
#[test]
fn an_installing_peer_votes_after_a_restart() {
    for lost in [false, true] {
        let mut cluster = stopped_while_installing();
        if lost {
            lose_files(&cluster, 3);
        }
        cluster.crash(s(1), KILL);
        cluster.restart(s(3));
        if !lost {
            cluster.hold_tasks.insert(s(3));
        }
        cluster.until("the other two elect", |cluster| {
            cluster.leader(r(1)) == Some(s(2))
        });
        // A power loss does not take the vote back.
        let term = cluster.view(2, r(1)).term;
        assert_eq!(cluster.view(3, r(1)).term, term);
        cluster.crash(s(3), POWER);
        cluster.restart(s(3));
        cluster.hold_tasks.remove(&s(3));
        assert_eq!(cluster.view(3, r(1)).term, term);
        cluster.put(r(1), "b", "2");
        cluster.assert_same_data(&[2, 3]);
    }
}

/// The peer of store 3 is removed while it lies there with a snapshot that it cannot put in place: nobody will send it
/// another one, so it must take the proof.
fn removed_while_installing(lost: bool) -> Cluster {
    let mut cluster = stopped_while_installing();
    if lost {
        lose_files(&cluster, 3);
    }
    cluster.add_learner(r(1), 14, 4);
    cluster.swap_peers(r(1), 14, 13);
    cluster.remove_learner(r(1), 13);
    cluster
}

#[test]
fn a_peer_removed_while_installing_dies() {
    for lost in [false, true] {
        let mut cluster = removed_while_installing(lost);
        cluster.restart(s(3));
        cluster.until("it dies", |cluster| cluster.store(3).peer_count() == 0);
        let files = cluster.nodes[&s(3)].engine.stage_list();
        assert_eq!(files.expect("a list"), Vec::<String>::new());
        assert_eq!(cluster.local_get(3, "a"), None, "its data is gone");
        cluster.restart(s(3));
        assert_eq!(cluster.store(3).peer_count(), 0);
        // A later peer of the region lives here again.
        cluster.add_learner(r(1), 23, 3);
        cluster.assert_same_data(&[1, 2, 3, 4]);
    }
}

/// The same, and the store stops between any two steps of dying.
#[test]
fn a_peer_removed_while_installing_dies_across_crashes() {
    let mut steps_most = 0;
    for mode in [KILL, POWER] {
        for stop_after in 0..8 {
            let mut cluster = removed_while_installing(true);
            cluster.restart(s(3));
            let mut steps = 0;
            while cluster.has_view(3, r(1)) || steps < stop_after {
                let dying = !cluster.has_view(3, r(1));
                let others = [s(1), s(2), s(4)];
                let mut busy = cluster.deliver();
                for other in others {
                    busy |= cluster.work(other);
                }
                if cluster.work(s(3)) {
                    steps += usize::from(dying);
                } else if !busy {
                    if dying {
                        break;
                    }
                    for id in [s(1), s(2), s(3), s(4)] {
                        cluster.step(id, Event::Tick);
                    }
                }
            }
            steps_most = steps_most.max(steps);
            cluster.crash(s(3), mode);
            cluster.restart(s(3));
            cluster.until("it dies", |cluster| cluster.store(3).peer_count() == 0);
            assert_eq!(cluster.local_get(3, "a"), None, "its data is gone");
            cluster.add_learner(r(1), 23, 3);
            cluster.assert_same_data(&[1, 2, 3, 4]);
        }
    }
    assert!(steps_most < 7, "dying has ended by the last crash");
}

#[test]
fn snapshot_progress_ends() {
    // The stream fails, the receiver dies, the build fails: each time the member is probed again and comes back.
    let mut cluster = three();
    cluster.put(r(1), "a", "1");
    let leader = cluster.elect(r(1));
    let away = [s(1), s(2), s(3)]
        .into_iter()
        .find(|store| *store != leader)
        .expect("three");
    cluster.isolate(away);
    fill(&mut cluster, 40);
    cluster.heal();
    cluster.spoil_snapshots = true;
    cluster.ticks(30);
    assert_eq!(cluster.local_get(away.0, "k39"), None);
    // While one is on its way the log is kept from its position on.
    cluster.spoil_snapshots = false;
    cluster.hold_tasks.insert(leader);
    cluster.until("a build waits", |cluster| {
        !cluster.nodes[&leader].tasks.is_empty()
    });
    let build = cluster
        .nodes
        .get_mut(&leader)
        .expect("it runs")
        .tasks
        .pop_front()
        .expect("a build");
    let Task::BuildSnapshot {
        region,
        to_peer,
        build,
        ..
    } = build
    else {
        panic!("{build:?}")
    };
    let first = cluster
        .store(leader.0)
        .raft(r(1))
        .expect("it leads")
        .compacted()
        .index;
    fill(&mut cluster, 30);
    let pinned = cluster
        .store(leader.0)
        .raft(r(1))
        .expect("it leads")
        .compacted()
        .index;
    assert!(
        pinned <= first + 31,
        "pinned while it is being built: {first} to {pinned}"
    );
    cluster.step(
        leader,
        Event::TaskDone(TaskDone::SnapshotBuilt {
            region,
            to_peer,
            build,
            head: None,
        }),
    );
    cluster.hold_tasks.clear();
    cluster.until("it comes back in the end", |cluster| {
        cluster.local_get(away.0, "k39").is_some()
    });
    cluster.assert_same_data(&[1, 2, 3]);
}

#[test]
fn slots_are_limited() {
    let mut options = compacting();
    options.snapshot_slots = 2;
    let regions: Vec<_> = (1..=6u64)
        .map(|id| {
            let end = if id == 6 {
                String::new()
            } else {
                format!("{id}")
            };
            let start = if id == 1 {
                String::new()
            } else {
                format!("{}", id - 1)
            };
            region(id, &start, &end, &[1, 2, 3])
        })
        .collect();
    let mut cluster = Cluster::with(4, &regions, options, Default::default());
    for id in 1..=6 {
        cluster.elect_at(r(id), 1);
        cluster.put(r(id), &format!("{}x", id - 1), "1");
    }
    let most = Rc::new(RefCell::new(0));
    cluster.hold_tasks.insert(s(1));
    for id in 1..=6 {
        cluster
            .order(r(id), OrderKind::AddLearner(learner(id * 10 + 4, 4)))
            .expect("it is added");
    }
    cluster.ticks(10);
    let builds = cluster.nodes[&s(1)]
        .tasks
        .iter()
        .filter(|task| matches!(task, Task::BuildSnapshot { .. }))
        .count();
    *most.borrow_mut() = builds;
    assert_eq!(builds, 2, "only granted snapshots are built");
    cluster.hold_tasks.clear();
    cluster.until("all arrive in the end", |cluster| {
        (1..=6).all(|id| cluster.owns(4, r(id)))
    });
    cluster.assert_same_data(&[1, 2, 3, 4]);
}
