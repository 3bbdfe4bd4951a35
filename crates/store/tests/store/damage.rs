//! Damaged data of a peer (R13): found by reads and by applying, kept over restarts, inherited, and ended by new data.

use bytes::Bytes;
use engine::{Engine, Family};
use proto::RegionId;
use proto::pontoon::v1::region_state::State;
use raft::PeerId;
use store::event::{Event, OperationResult, OrderKind, Refusal, Task, TaskDone, Transfer};
use store::{keys, read, task};

use crate::harness::*;
use crate::slots::{held_task, one_behind};

/// Three stores with a region led by store 1, and keys in files.
fn cluster() -> Cluster {
    let mut cluster = Cluster::new(4, &[region(1, "", "", &[1, 2, 3])]);
    cluster.elect_at(r(1), 1);
    for key in ["b", "k", "t"] {
        cluster.put(r(1), key, "old");
    }
    cluster.ticks(5);
    cluster
}

/// Lets the value of a key rot in the files of a store.
fn rot(cluster: &Cluster, store: u64, key: &str) {
    let engine = &cluster.nodes[&s(store)].engine;
    engine.flush(Family::State).expect("it flushes");
    engine.damage(Family::State, &keys::data(key.as_bytes()));
}

/// A read of a client met it.
fn tell(cluster: &mut Cluster, store: u64, id: u64) {
    let peer = cluster.view(store, r(id)).peer;
    let region = r(id);
    cluster.step(s(store), Event::Damaged { region, peer });
}

fn is_marked(cluster: &Cluster, store: u64, id: u64) -> bool {
    let state = cluster.merge_state(store, r(id));
    assert_eq!(cluster.view(store, r(id)).damaged, state.damaged);
    state.damaged
}

fn is_unreadable(cluster: &Cluster, store: u64, key: &str) -> bool {
    let view = cluster.nodes[&s(store)].engine.view();
    matches!(
        read::get(&view, key.as_bytes(), 0),
        Err(engine::Error::Corrupt { .. })
    )
}

fn led_elsewhere(cluster: &mut Cluster, id: u64, store: u64) {
    cluster.until("another leads", |cluster| {
        cluster
            .leader(r(id))
            .is_some_and(|leader| leader != s(store))
    });
}

#[test]
fn a_read_that_meets_damage_ends_leadership_and_nothing_else() {
    let mut cluster = cluster();
    rot(&cluster, 1, "k");
    tell(&mut cluster, 1, 1);
    led_elsewhere(&mut cluster, 1, 1);
    assert_eq!(cluster.get(r(1), "k").as_deref(), Some("old"));
    cluster.put(r(1), "after", "x");
    cluster.ticks(5);
    assert_eq!(cluster.local_get(1, "after").as_deref(), Some("x"));
    assert!(is_marked(&cluster, 1, 1));
    assert!(!is_marked(&cluster, 2, 1));
}

/// What was found is known after a restart, before anybody meets the block again.
#[test]
fn the_finding_survives_a_restart() {
    let mut cluster = cluster();
    rot(&cluster, 1, "k");
    tell(&mut cluster, 1, 1);
    led_elsewhere(&mut cluster, 1, 1);
    cluster.settle();
    cluster.crash(s(1), KILL);
    cluster.restart(s(1));
    assert!(cluster.view(1, r(1)).damaged);
    cluster.ticks(5);
    // Whatever else is written of the region leaves it as it is.
    cluster.split(r(1), &["m"]);
    assert!(is_marked(&cluster, 1, 1));
    cluster
        .order(r(1), OrderKind::TransferLeader(PeerId(11)))
        .expect("it is asked for");
    cluster.until("it led", |cluster| cluster.leader(r(1)) == Some(s(1)));
    led_elsewhere(&mut cluster, 1, 1);
}

/// What the engine left out with a damaged file costs the peers that it may have been of, before anybody reads it, and until the
/// range is another's.
#[test]
fn lost_ranges_cost_the_peers_they_are_of() {
    let regions = [
        region(1, "", "g", &[1, 2, 3]),
        region(2, "g", "m", &[1, 2, 3]),
        region(3, "m", "", &[1, 2, 3]),
    ];
    let mut cluster = Cluster::new(4, &regions);
    for (id, key) in [(1, "b"), (2, "k"), (3, "t")] {
        cluster.elect_at(r(id), 3);
        cluster.put(r(id), key, "old");
    }
    cluster.ticks(5);
    cluster.crash(s(3), KILL);
    let engine = cluster.nodes[&s(3)].engine.clone();
    engine.lose(&keys::data(b"h"), &keys::data(b"m"));
    cluster.restart(s(3));
    cluster.settle();
    let marked = |cluster: &Cluster| [1, 2, 3].map(|id| is_marked(cluster, 3, id));
    assert_eq!(marked(&cluster), [false, true, false]);
    cluster.ticks(5);
    assert!(is_unreadable(&cluster, 3, "k") && is_unreadable(&cluster, 3, "kk"));
    assert_eq!(cluster.local_get(3, "b").as_deref(), Some("old"));
    cluster.put(r(2), "k", "new");
    assert_eq!(cluster.get(r(2), "k").as_deref(), Some("new"));
    // A put does not bring back what is around it, so nothing is read of it either.
    cluster.ticks(5);
    assert!(is_unreadable(&cluster, 3, "k"));
    let request = cluster.propose_at(
        cluster.leader(r(2)).expect("a leader"),
        r(2),
        vec![swap("k", Some("new"), "newer")],
    );
    cluster.until("it is answered", |cluster| {
        cluster.answers.contains_key(&request)
    });
    assert_eq!(cluster.get(r(2), "k").as_deref(), Some("newer"));

    cluster.add_learner(r(2), 24, 4);
    cluster.swap_peers(r(2), 24, 23);
    cluster.remove_learner(r(2), 23);
    cluster.until("the damaged peer is gone", |cluster| {
        !cluster.has_view(3, r(2))
    });
    cluster.add_learner(r(2), 33, 3);
    assert_eq!(marked(&cluster), [false; 3]);
    assert_eq!(cluster.nodes[&s(3)].engine.lost_ranges(), []);
    assert_eq!(cluster.local_get(3, "k").as_deref(), Some("newer"));
}

/// A swap that cannot read what it compares with has no answer here and its effect elsewhere. Here the key is lost, which
/// every read finds, also if the block can be read again.
#[test]
fn a_swap_that_meets_damage_loses_the_key_and_not_the_store() {
    let mut cluster = cluster();
    rot(&cluster, 1, "k");
    let request = cluster.propose_at(s(1), r(1), vec![swap("k", Some("old"), "new")]);
    cluster.until("it is answered", |cluster| {
        cluster.answers.contains_key(&request)
    });
    assert_eq!(cluster.answers[&request], Err(Refusal::Unknown));
    led_elsewhere(&mut cluster, 1, 1);
    assert_eq!(cluster.get(r(1), "k").as_deref(), Some("new"));
    assert!(is_unreadable(&cluster, 1, "k"));
    assert!(is_marked(&cluster, 1, 1));
    // The state says so in the same batch: no crash separates the two.
    let engine = &cluster.nodes[&s(1)].engine;
    let stored = engine.get(Family::State, &keys::data(b"k"));
    assert_eq!(stored.expect("it was written"), Some(store::value::lost()));
    // The next swap of the key cannot be told either, and a put ends it.
    let request = cluster.propose_at(
        cluster.leader(r(1)).expect("a leader"),
        r(1),
        vec![swap("k", Some("new"), "newer")],
    );
    cluster.ticks(5);
    assert!(matches!(
        cluster.answers[&request].as_deref(),
        Ok([OperationResult::Swapped {
            succeeded: true,
            ..
        }])
    ));
    assert!(is_unreadable(&cluster, 1, "k"));
    cluster.put(r(1), "k", "newest");
    cluster.assert_same_data(&[1, 2, 3]);
}

/// Puts and deletes need nothing of what was there. What is looked up for sizes may be damaged, and is not needed.
#[test]
fn writes_over_damage_are_right() {
    let mut cluster = cluster();
    for key in ["b", "k", "t"] {
        rot(&cluster, 1, key);
    }
    // Nothing is known of sizes and last key after a restart, so that they are looked up.
    cluster.crash(s(1), KILL);
    cluster.restart(s(1));
    cluster.ticks(5);
    // The first put is one that is looked up.
    for key in ["b", "a", "k", "t"] {
        cluster.put(r(1), key, "new");
    }
    cluster.assert_same_data(&[1, 2, 3]);
    assert!(is_marked(&cluster, 1, 1), "it was met");
}

#[test]
fn a_marked_peer_builds_no_snapshot() {
    let mut cluster = one_behind();
    let build = held_task(&mut cluster, s(1), |task| {
        matches!(task, Task::BuildSnapshot { .. })
    });
    tell(&mut cluster, 1, 1);
    cluster.apply(s(1));
    let engine = cluster.nodes[&s(1)].engine.clone();
    let done = task::run(&engine, build, &mut || true).expect("the store goes on");
    assert!(matches!(done, Some(TaskDone::Damaged { .. })), "{done:?}");
    assert_eq!(engine.stage_list().expect("it lists"), [""; 0]);
    let outgoing = |transfer: &Transfer| matches!(transfer, Transfer::Outgoing { .. });
    assert!(!cluster.nodes[&s(1)].transfers.iter().any(outgoing));
}

/// A leader whose data is damaged before the split fills the others can send them nothing. Once they are filled it leads on, and
/// leaves. (Found by the simulator.)
#[test]
fn a_damaged_leader_hears_that_a_split_filled_the_others() {
    let mut cluster = cluster();
    cluster.hold_apply.extend([s(2), s(3)]);
    let child = cluster.split(r(1), &["m"])[0];
    let refused = |cluster: &Cluster, peers: usize| {
        let raft = cluster.store(1).raft(child);
        let statuses = raft.map(|raft| raft.member_statuses()).unwrap_or_default();
        statuses
            .values()
            .filter(|status| status.in_snapshot)
            .count()
            == peers
    };
    cluster.until("both lack a snapshot", |cluster| refused(cluster, 2));
    rot(&cluster, 1, "t");
    tell(&mut cluster, 1, child.0);
    cluster.ticks(20);
    cluster.hold_apply.clear();
    led_elsewhere(&mut cluster, child.0, 1);
    assert_eq!(cluster.get(child, "t").as_deref(), Some("old"));
}

#[test]
fn children_of_a_damaged_parent_are_damaged() {
    let mut cluster = cluster();
    rot(&cluster, 3, "k");
    tell(&mut cluster, 3, 1);
    let child = cluster.split(r(1), &["m"])[0];
    cluster.ticks(5);
    for id in [RegionId(1), child] {
        assert!(is_marked(&cluster, 3, id.0));
        assert!(!is_marked(&cluster, 1, id.0));
    }
}

#[test]
fn the_target_of_a_damaged_source_is_damaged() {
    let regions = [
        region(1, "", "m", &[1, 2, 3]),
        region(2, "m", "", &[1, 2, 3]),
    ];
    let mut cluster = Cluster::new(3, &regions);
    for id in [1, 2] {
        cluster.elect_at(r(id), 1);
        cluster.put(r(id), if id == 1 { "b" } else { "t" }, "x");
    }
    cluster.ticks(5);
    tell(&mut cluster, 3, 1);
    cluster.settle();
    let target = r(2);
    cluster
        .order(r(1), OrderKind::Merge { target })
        .expect("nothing is in the way");
    cluster.until("every store has merged", |cluster| {
        (1..=3).all(|store| cluster.view(store, r(2)).region.start_key.is_empty())
    });
    assert!(is_marked(&cluster, 3, 2));
    assert!(!is_marked(&cluster, 1, 2));
}

/// REGIONS §10, 40: the target absorbs what is damaged, is damaged itself from then on, restarts included, and is replaced like
/// any damaged peer. What is damaged on one store is lost on none.
#[test]
fn merge_source_damaged() {
    let regions = [
        region(1, "", "m", &[1, 2, 3]),
        region(2, "m", "", &[1, 2, 3]),
    ];
    let mut cluster = Cluster::new(4, &regions);
    for (id, key) in [(1, "b"), (2, "t")] {
        cluster.elect_at(r(id), 1);
        cluster.put(r(id), key, "old");
    }
    cluster.ticks(5);
    rot(&cluster, 3, "b");
    tell(&mut cluster, 3, 1);
    cluster.settle();
    let target = r(2);
    cluster
        .order(r(1), OrderKind::Merge { target })
        .expect("nothing is in the way");
    cluster.until("every store has merged", |cluster| {
        (1..=3).all(|store| cluster.view(store, r(2)).region.start_key.is_empty())
    });
    cluster.until("the record is dropped", |cluster| {
        (1..=3).all(|store| cluster.records(store, r(2)) == 0)
    });
    for mode in [KILL, POWER] {
        cluster.crash(s(3), mode);
        cluster.restart(s(3));
        let marked = [1, 2, 3].map(|store| is_marked(&cluster, store, 2));
        assert_eq!(marked, [false, false, true]);
        assert!(is_unreadable(&cluster, 3, "b"), "it serves what it lost");
    }
    // It goes on, and does not lead for long.
    cluster.put(r(2), "c", "new");
    cluster.until("it takes what is written", |cluster| {
        cluster.local_get(3, "c").as_deref() == Some("new")
    });
    cluster.elect_at(r(2), 1);
    cluster
        .order(r(2), OrderKind::TransferLeader(PeerId(23)))
        .expect("it is asked for");
    cluster.until("it led", |cluster| cluster.leader(r(2)) == Some(s(3)));
    led_elsewhere(&mut cluster, 2, 3);
    assert_eq!(cluster.get(r(2), "b").as_deref(), Some("old"));
    cluster.elect_at(r(2), 1);
    cluster.add_learner(r(2), 24, 4);
    cluster.swap_peers(r(2), 24, 23);
    cluster.remove_learner(r(2), 23);
    cluster.until("the damaged peer is gone", |cluster| {
        !cluster.has_view(3, r(2))
    });
    cluster.add_learner(r(2), 33, 3);
    assert!(!is_marked(&cluster, 3, 2));
    cluster.assert_same_data(&[1, 2, 3, 4]);
}

/// The whole way of a repair: the damaged peer goes, its successor on the same store is whole.
#[test]
fn a_peer_that_replaces_a_damaged_one_is_whole() {
    let mut cluster = cluster();
    rot(&cluster, 3, "k");
    tell(&mut cluster, 3, 1);
    cluster.add_learner(r(1), 14, 4);
    cluster.swap_peers(r(1), 14, 13);
    cluster.remove_learner(r(1), 13);
    cluster.until("the damaged peer is gone", |cluster| {
        !cluster.has_view(3, r(1))
    });
    cluster.add_learner(r(1), 23, 3);
    assert!(!is_marked(&cluster, 3, 1));
    assert_eq!(cluster.local_get(3, "k").as_deref(), Some("old"));
}

/// A snapshot replaces all data, what is damaged as well as what is lost with a file.
#[test]
fn a_snapshot_ends_damage() {
    let mut cluster = one_behind();
    let engine = cluster.nodes[&s(3)].engine.clone();
    engine.lose(&keys::data(b"k1"), &keys::data(b"k2"));
    tell(&mut cluster, 3, 1);
    cluster.apply(s(3));
    assert!(is_marked(&cluster, 3, 1) && is_unreadable(&cluster, 3, "k10"));
    let caught_up = |cluster: &Cluster| cluster.local_get(3, "k39").is_some();
    cluster.until("the snapshot is in place", caught_up);
    assert!(!is_marked(&cluster, 3, 1));
    assert_eq!(engine.lost_ranges(), []);
    cluster.assert_same_data(&[1, 2, 3]);
    // It leads like any other.
    cluster
        .order(r(1), OrderKind::TransferLeader(PeerId(13)))
        .expect("it is asked for");
    cluster.until("it leads", |cluster| cluster.leader(r(1)) == Some(s(3)));
    cluster.ticks(200);
    assert_eq!(cluster.leader(r(1)), Some(s(3)));
}

/// An applier that was told to mark a peer writes the peer's state. That must not come after the tombstone.
#[test]
fn a_mark_on_its_way_holds_the_death_of_its_peer_up() {
    let mut cluster = cluster();
    cluster.add_learner(r(1), 14, 4);
    cluster.isolate(s(3));
    cluster.swap_peers(r(1), 14, 13);
    cluster.remove_learner(r(1), 13);
    cluster.hold_apply.insert(s(3));
    tell(&mut cluster, 3, 1);
    cluster.heal();
    // It asks the members, who tell it that it is none.
    cluster.ticks(100);
    assert!(cluster.has_view(3, r(1)), "it waits for its mark");
    cluster.hold_apply.clear();
    cluster.until("it is gone", |cluster| cluster.store(3).peer_count() == 0);
    let state = cluster.merge_state(3, r(1));
    assert_eq!(state.state(), State::Tombstone);
    let data = cluster.nodes[&s(3)]
        .engine
        .get(Family::State, &keys::data(b"k"));
    assert_eq!(data.expect("readable"), None::<Bytes>);
}
