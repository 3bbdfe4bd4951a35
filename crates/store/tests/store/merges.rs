//! Merges over several stores (REGIONS §5); the names of races are those of §10.

use bytes::Bytes;
use engine::{Engine, MemoryOptions};
use proto::metapb;
use proto::pontoon::v1::raft_message::Body;
use raft::PeerId;
use store::event::{Event, Order, OrderKind, OrderRefusal, Refusal, StepId, Task};

use crate::harness::*;

/// A source `["", m)`, region 1, and a target `[m, "")`, region 2, both led by store 1.
fn pair() -> Cluster {
    let regions = [
        region(1, "", "m", &[1, 2, 3]),
        region(2, "m", "", &[1, 2, 3]),
    ];
    let mut cluster = Cluster::new(3, &regions);
    for id in [1, 2] {
        cluster.elect_at(r(id), 1);
    }
    cluster.put(r(1), "a", "1");
    cluster.put(r(2), "z", "2");
    cluster
}

fn order(cluster: &mut Cluster) {
    let target = r(2);
    cluster
        .order(r(1), OrderKind::Merge { target })
        .expect("nothing is in the way");
}

/// Whether a store has taken region 1 into region 2.
fn is_merged_at(cluster: &Cluster, store: u64) -> bool {
    !cluster.has_view(store, r(1))
        && cluster.owns(store, r(2))
        && cluster.view(store, r(2)).region.start_key.is_empty()
}

fn is_merged(cluster: &Cluster) -> bool {
    (1..=3).all(|store| is_merged_at(cluster, store))
}

fn version(cluster: &Cluster, store: u64, id: u64) -> u64 {
    let region: metapb::Region = cluster.view(store, r(id)).region.clone();
    region.region_epoch.expect("an epoch").version
}

#[test]
fn a_source_becomes_a_part_of_its_neighbour() {
    let mut cluster = pair();
    order(&mut cluster);
    cluster.until("every store has merged", is_merged);
    assert_eq!(version(&cluster, 1, 2), 3);
    assert_eq!(cluster.get(r(2), "a"), Some("1".into()));
    cluster.put(r(2), "b", "3");
    cluster.assert_same_data(&[1, 2, 3]);
    // What is left of the source goes, and then the record of it.
    cluster.until("the source is gone", |cluster| {
        (1..=3).all(|store| cluster.store(store).peer_count() == 1)
    });
    assert_eq!(cluster.happened.destroyed, 3);
    cluster.until("the record is dropped", |cluster| {
        (1..=3).all(|store| cluster.records(store, r(2)) == 0)
    });
    // Who asks for the old region is told of the new one.
    let request = cluster.propose_as(s(1), r(1), None, vec![put("a", "4")]);
    let Err(Refusal::EpochNotMatch { current }) = &cluster.answers[&request] else {
        panic!("told {:?}", cluster.answers[&request]);
    };
    assert_eq!(current[0].id, 2);
}

/// Lets nothing be appended to these regions' logs anywhere but at their leaders, on all links or those to some stores.
fn mute(cluster: &mut Cluster, regions: &'static [u64], to_stores: &'static [u64]) {
    cluster.filter(move |_, to, frame| {
        let muted = |region: u64| regions.contains(&region) && to_stores.contains(&to.0);
        frame.messages.retain(|message| {
            !(muted(message.region_id) && matches!(message.body, Some(Body::Append(_))))
        });
    });
}

const ALL: &[u64] = &[1, 2, 3];

/// Freezes region 1 for region 2, whose log then stands still: no decision is made.
fn frozen() -> Cluster {
    let mut cluster = pair();
    mute(&mut cluster, &[2], ALL);
    order(&mut cluster);
    cluster.until("region 1 is frozen everywhere", |cluster| {
        (1..=3).all(|store| is_frozen_at(cluster, store))
    });
    cluster
}

fn is_frozen_at(cluster: &Cluster, store: u64) -> bool {
    cluster.has_view(store, r(1)) && cluster.merge_state(store, r(1)).freeze.is_some()
}

/// Whether region 1 lives on as it was.
fn is_thawed_at(cluster: &Cluster, store: u64) -> bool {
    cluster.owns(store, r(1))
        && !cluster.view(store, r(1)).frozen
        && cluster.merge_state(store, r(1)).freeze.is_none()
}

/// Every store decided alike, the data is whole and both keys can be written.
fn assert_whole(cluster: &mut Cluster) {
    let merged = is_merged_at(cluster, 1);
    cluster.until("every store decides alike", |cluster| {
        (1..=3).all(|store| {
            if merged {
                is_merged_at(cluster, store)
            } else {
                is_thawed_at(cluster, store)
            }
        })
    });
    let left = if merged { r(2) } else { r(1) };
    assert_eq!(cluster.get(left, "a"), Some("1".into()));
    assert_eq!(cluster.get(r(2), "z"), Some("2".into()));
    cluster.put(left, "a", "1");
    cluster.put(r(2), "z", "2");
    cluster.assert_same_data(ALL);
}

#[test]
fn merge_leader_lost() {
    // The leader of both dies with the freeze applied and the decision in its log alone.
    let mut cluster = frozen();
    cluster.crash(s(1), KILL);
    cluster.clear_filter();
    cluster.until("the others merge", |cluster| {
        cluster.leader(r(1)).is_some() || is_merged_at(cluster, 2)
    });
    cluster.restart(s(1));
    cluster.until("every store has decided", |cluster| {
        is_merged(cluster) || (1..=3).all(|store| is_thawed_at(cluster, store))
    });
    assert_whole(&mut cluster);
    // Leadership of the frozen source moves, and the new leader goes on.
    let mut cluster = frozen();
    let target = PeerId(12);
    cluster
        .order(r(1), OrderKind::TransferLeader(target))
        .expect("leadership of a frozen region may move");
    cluster.until("leadership moves", |cluster| {
        cluster.leader(r(1)) == Some(s(2))
    });
    cluster.clear_filter();
    cluster.until("the new leader merges it", |cluster| {
        is_merged(cluster) || (1..=3).all(|store| is_thawed_at(cluster, store))
    });
    assert_whole(&mut cluster);
}

#[test]
fn merge_epoch_moves() {
    // The target splits while the freeze is on its way: at E_T it does not decide any more.
    let mut cluster = pair();
    mute(&mut cluster, &[1], ALL);
    order(&mut cluster);
    cluster.settle();
    let request = cluster.propose_at(s(1), r(1), vec![put("b", "parked")]);
    cluster.split(r(2), &["zz"]);
    cluster.clear_filter();
    cluster.until("the source thaws", |cluster| {
        version(cluster, 1, 1) == 3 && (1..=3).all(|store| is_thawed_at(cluster, store))
    });
    cluster.until("what was parked is answered", |cluster| {
        cluster.answers.contains_key(&request)
    });
    assert!(
        cluster.answers[&request].is_ok(),
        "{:?}",
        cluster.answers[&request]
    );
    assert_eq!(cluster.records(1, r(2)), 0);
    assert_whole(&mut cluster);
    // The source splits first: the order is for another epoch, or the lane is taken.
    let mut cluster = pair();
    let epoch = cluster.view(1, r(1)).region.region_epoch.expect("an epoch");
    let split = OrderKind::Split(vec![Bytes::from_static(b"f")]);
    for kind in [split, OrderKind::Merge { target: r(2) }] {
        cluster.step_only(
            s(1),
            Event::Order(Order {
                region: r(1),
                epoch,
                id: StepId::default(),
                kind,
            }),
        );
    }
    cluster.take(s(1));
    let orders = std::mem::take(&mut cluster.nodes.get_mut(&s(1)).expect("it is there").orders);
    let results: Vec<_> = orders
        .into_iter()
        .map(|answer| (answer.region, answer.result))
        .collect();
    assert_eq!(
        results,
        [(r(1), Ok(())), (r(1), Err(OrderRefusal::LaneBusy))]
    );
    cluster.settle();
    assert!(!is_frozen_at(&cluster, 1));
}

#[test]
fn merge_commit_abort() {
    // The old leader has a commit in its log that nobody else has; the others abort. Then the old one comes back.
    let mut cluster = frozen();
    cluster.isolate(s(1));
    cluster.clear_filter();
    cluster.until("the others abort", |cluster| {
        [2, 3].into_iter().all(|store| is_thawed_at(cluster, store))
    });
    assert!(is_frozen_at(&cluster, 1));
    cluster.heal();
    cluster.until("the old leader thaws", |cluster| is_thawed_at(cluster, 1));
    assert_whole(&mut cluster);
    for store in ALL {
        assert_eq!(cluster.records(*store, r(2)), 0);
    }
}

#[test]
fn merge_second_attempt() {
    let mut cluster = frozen();
    // Store 3 stays at the first freeze: what follows is in its log and not applied.
    cluster.hold_apply.insert(s(3));
    cluster.isolate(s(1));
    cluster.clear_filter();
    cluster.until("another leads", |cluster| {
        cluster.leader(r(1)).is_some_and(|store| store != s(1))
    });
    cluster.until("the first attempt is aborted", |cluster| {
        is_thawed_at(cluster, 2)
    });
    cluster.heal();
    cluster.until("the old leader thaws", |cluster| is_thawed_at(cluster, 1));
    let first = cluster
        .merge_state(3, r(1))
        .freeze
        .expect("it did not apply the thaw");
    for id in [1, 2] {
        cluster.elect_at(r(id), 2);
    }
    cluster.ticks(10);
    order(&mut cluster);
    cluster.until("the second attempt commits", |cluster| {
        [1, 2].into_iter().all(|store| is_merged_at(cluster, store))
    });
    assert_eq!(cluster.merge_state(3, r(1)).freeze, Some(first));
    cluster.hold_apply.clear();
    cluster.until("store 3 merges what it should", |cluster| {
        is_merged_at(cluster, 3)
    });
    assert_whole(&mut cluster);
}

#[test]
fn merge_power_loss() {
    // All stores lose power after every single step of a merge: they decide alike, and nothing thaws but by a verdict.
    let mut outcomes = [0, 0];
    for stop_after in 0..70 {
        let mut cluster = pair();
        order(&mut cluster);
        for step in 0..stop_after {
            if step % 2 == 0 {
                cluster.deliver();
            }
            for store in ALL {
                cluster.work(s(*store));
            }
        }
        for store in ALL {
            cluster.crash(s(*store), POWER);
        }
        for store in ALL {
            cluster.restart(s(*store));
        }
        // A freeze that is in a log and not applied yet looks like none.
        cluster.ticks(60);
        cluster.until("every store has decided", |cluster| {
            is_merged(cluster) || (1..=3).all(|store| is_thawed_at(cluster, store))
        });
        outcomes[usize::from(is_merged(&cluster))] += 1;
        assert_whole(&mut cluster);
    }
    assert!(outcomes.iter().all(|count| *count > 0), "{outcomes:?}");
}

#[test]
fn merge_absorb_replay() {
    let mut cluster = pair();
    cluster.hold_tasks.extend([s(1), s(2), s(3)]);
    order(&mut cluster);
    cluster.until("every store has merged", is_merged);
    for store in ALL {
        cluster.crash(s(*store), POWER);
    }
    for store in ALL {
        cluster.restart(s(*store));
    }
    cluster.until("it is absorbed again", is_merged);
    assert_whole(&mut cluster);
    cluster.until("the source is gone", |cluster| {
        (1..=3).all(|store| cluster.store(store).peer_count() == 1)
    });
}

#[test]
fn merge_record_flushed() {
    let mut cluster = pair();
    cluster.hold_tasks.insert(s(3));
    order(&mut cluster);
    cluster.until("every store has merged", is_merged);
    cluster.ticks(100);
    for store in ALL {
        assert_eq!(
            cluster.records(*store, r(2)),
            1,
            "dropped before the source is flushed dead"
        );
    }
    cluster.hold_tasks.clear();
    cluster.until("the record is dropped", |cluster| {
        (1..=3).all(|store| cluster.records(store, r(2)) == 0)
    });
    assert_whole(&mut cluster);
}

/// Store 3 has the source's log up to the freeze and hears neither that this is committed nor anything of the target.
fn lagging(stores: u64, options: store::Options) -> Cluster {
    let regions = [
        region(1, "", "m", &[1, 2, 3]),
        region(2, "m", "", &[1, 2, 3]),
    ];
    let mut cluster = Cluster::with(stores, &regions, options, MemoryOptions::default());
    for id in [1, 2] {
        cluster.elect_at(r(id), 1);
    }
    cluster.put(r(1), "a", "1");
    cluster.put(r(2), "z", "2");
    cluster.ticks(5);
    cluster.filter(|_, to, frame| {
        if to != s(3) {
            return;
        }
        frame.messages.retain(|message| message.region_id != 2);
        for message in &mut frame.messages {
            if let Some(Body::Append(append)) = &mut message.body {
                append.commit = 0;
            }
        }
        if let Some(beats) = &mut frame.heartbeats {
            beats.commits.iter_mut().for_each(|commit| *commit = 0);
        }
    });
    order(&mut cluster);
    cluster.until("the others have merged", |cluster| {
        [1, 2].into_iter().all(|store| is_merged_at(cluster, store))
    });
    cluster
}

#[test]
fn merge_lagging_store() {
    let mut cluster = lagging(3, options());
    assert!(!is_frozen_at(&cluster, 3));
    cluster.put(r(2), "b", "new");
    // Nobody speaks for the source any more.
    cluster.filter(|_, _, frame| {
        frame.messages.retain(|message| message.region_id != 1);
    });
    let read = cluster.read_at(s(3), r(1), "b");
    cluster.until("store 3 absorbs alone", |cluster| is_merged_at(cluster, 3));
    cluster.ticks(10);
    assert!(cluster.reads[&read].is_err(), "it served something old");
    assert_eq!(cluster.happened.installs, 0);
    assert_whole(&mut cluster);
}

#[test]
fn merge_snapshot_over_source() {
    let small = store::Options {
        compact_entries: 4,
        compact_tail_entries: 0,
        ..options()
    };
    let mut cluster = lagging(3, small);
    for round in 0..20 {
        cluster.put(r(2), "y", &round.to_string());
    }
    cluster.ticks(60);
    cluster.clear_filter();
    cluster.until(
        "a snapshot brings the target and ends the source",
        |cluster| is_merged_at(cluster, 3),
    );
    assert_eq!(cluster.happened.installs, 1);
    assert_whole(&mut cluster);
    cluster.until("the record is dropped", |cluster| {
        (1..=3).all(|store| cluster.records(store, r(2)) == 0)
    });
    assert_eq!(cluster.store(3).peer_count(), 1);
}

/// Store 3 was stopped while a snapshot of the target was being put in place of its peers of source and target. The files are
/// lost, and the target has moved to store 4.
fn removed_while_replacing() -> Cluster {
    let small = store::Options {
        compact_entries: 4,
        compact_tail_entries: 0,
        ..options()
    };
    let mut cluster = lagging(4, small);
    for round in 0..20 {
        cluster.put(r(2), "y", &round.to_string());
    }
    cluster.ticks(60);
    cluster.hold_tasks.insert(s(3));
    cluster.clear_filter();
    cluster.until("the install waits as a task", |cluster| {
        let mut tasks = cluster.nodes[&s(3)].tasks.iter();
        tasks.any(|task| {
            matches!(task, Task::InstallSnapshot { tombstones, .. } if !tombstones.is_empty())
        })
    });
    cluster.crash(s(3), KILL);
    let engine = cluster.nodes[&s(3)].engine.clone();
    engine
        .stage_remove(&engine.stage_list().expect("a list"))
        .expect("they go");
    cluster.add_learner(r(2), 94, 4);
    cluster.swap_peers(r(2), 94, 23);
    cluster.remove_learner(r(2), 23);
    cluster.hold_tasks.remove(&s(3));
    cluster.restart(s(3));
    cluster
}

/// Nobody sends that snapshot again, so the target's peer takes the proof, and the source's dies with it. That whenever the
/// store stops in between.
#[test]
fn a_source_dies_with_an_absorber_that_lost_its_snapshot() {
    let mut steps_most = 0;
    for mode in [KILL, POWER] {
        for stop_after in 0..12 {
            let mut cluster = removed_while_replacing();
            let mut steps = 0;
            while steps < stop_after && cluster.store(3).peer_count() > 0 {
                let dying = !cluster.has_view(3, r(2));
                let mut busy = cluster.deliver();
                for other in [s(1), s(2), s(4)] {
                    busy |= cluster.work(other);
                }
                if cluster.work(s(3)) {
                    steps += usize::from(dying);
                } else if !busy {
                    for id in 1..=4 {
                        cluster.step(s(id), Event::Tick);
                    }
                }
            }
            steps_most = steps_most.max(steps);
            cluster.crash(s(3), mode);
            cluster.restart(s(3));
            cluster.until("target and source die there", |cluster| {
                cluster.store(3).peer_count() == 0
            });
            cluster.until("the record is dropped", |cluster| {
                let mut stores = [1, 2, 4].into_iter();
                stores.all(|store| cluster.records(store, r(2)) == 0)
            });
            assert_eq!(cluster.local_get(3, "a"), None);
            assert_eq!(cluster.get(r(2), "a"), Some("1".into()));
            cluster.add_learner(r(2), 33, 3);
            cluster.assert_same_data(&[1, 2, 3, 4]);
        }
    }
    assert!(steps_most < 11, "dying has ended by the last crash");
}

#[test]
fn merge_frozen_serves_nothing() {
    let mut cluster = pair();
    let before = cluster.read_at(s(1), r(1), "a");
    let target = r(2);
    cluster
        .order(r(1), OrderKind::Merge { target })
        .expect("nothing is in the way");
    // Nothing has left yet, and the view is frozen already.
    assert!(cluster.view(1, r(1)).frozen);
    let (read, write) = (
        cluster.read_at(s(1), r(1), "a"),
        cluster.propose_at(s(1), r(1), vec![put("a", "9")]),
    );
    cluster.until("every store has merged", is_merged);
    cluster.settle();
    assert_eq!(cluster.reads[&before], Err(Refusal::Merging(r(1))));
    for refusal in [
        cluster.reads[&read].clone().expect_err("it was frozen"),
        cluster.answers[&write].clone().expect_err("it was frozen"),
    ] {
        let Refusal::EpochNotMatch { current } = &refusal else {
            panic!("told {refusal:?}");
        };
        assert_eq!(current[0].id, 2);
    }
    assert_eq!(cluster.get(r(2), "a"), Some("1".into()));
}

#[test]
fn merge_frozen_denies() {
    let mut cluster = frozen();
    let learner = metapb::Peer {
        id: 99,
        store_id: 4,
        role: metapb::PeerRole::Learner as i32,
        is_witness: false,
    };
    for denied in [
        OrderKind::Split(vec![Bytes::from_static(b"f")]),
        OrderKind::AddLearner(learner),
        OrderKind::Merge { target: r(2) },
    ] {
        assert_eq!(cluster.order(r(1), denied), Err(OrderRefusal::Frozen));
    }
    // A client waits for a while, then it is told.
    let write = cluster.propose_at(s(1), r(1), vec![put("a", "9")]);
    cluster.ticks(8);
    assert_eq!(cluster.answers[&write], Err(Refusal::Merging(r(1))));
    cluster.clear_filter();
    cluster.until("it is decided", |cluster| {
        is_merged(cluster) || (1..=3).all(|store| is_thawed_at(cluster, store))
    });
    assert_whole(&mut cluster);
}

#[test]
fn merge_mutual() {
    let regions = [
        region(1, "", "m", &[1, 2, 3]),
        region(2, "m", "", &[1, 2, 3]),
    ];
    let unchecked = store::Options {
        merge_unchecked: true,
        ..options()
    };
    let mut cluster = Cluster::with(3, &regions, unchecked, MemoryOptions::default());
    for id in [1, 2] {
        cluster.elect_at(r(id), id);
    }
    cluster.put(r(1), "a", "1");
    cluster.put(r(2), "z", "2");
    for (region, target) in [(1, r(2)), (2, r(1))] {
        let epoch = cluster
            .view(region, r(region))
            .region
            .region_epoch
            .expect("an epoch");
        let kind = OrderKind::Merge { target };
        cluster.step_only(
            s(region),
            Event::Order(Order {
                region: r(region),
                epoch,
                id: StepId::default(),
                kind,
            }),
        );
    }
    cluster.take(s(1));
    cluster.take(s(2));
    cluster.until("both thaw", |cluster| {
        [1, 2].into_iter().all(|id| {
            (1..=3).all(|store| version(cluster, store, id) == 3)
                && cluster.merge_state(1, r(id)).freeze.is_none()
        })
    });
    assert_whole(&mut cluster);
}

#[test]
fn merge_chain() {
    let regions = [
        region(1, "", "g", &[1, 2, 3]),
        region(2, "g", "m", &[1, 2, 3]),
        region(3, "m", "", &[1, 2, 3]),
    ];
    let mut cluster = Cluster::new(3, &regions);
    for id in [1, 2, 3] {
        cluster.elect_at(r(id), 1);
    }
    cluster.put(r(1), "a", "1");
    cluster.put(r(3), "z", "2");
    // Store 3 is late with both.
    cluster.hold_apply.insert(s(3));
    for (source, target) in [(r(1), r(2)), (r(2), r(3))] {
        cluster.until("the merge begins", |cluster| {
            cluster.leader(source) == Some(s(1)) && !cluster.view(1, source).frozen
        });
        cluster.until("the order is taken", |_| true);
        let mut taken = false;
        for _ in 0..100 {
            taken = taken || cluster.order(source, OrderKind::Merge { target }).is_ok();
            cluster.tick();
            if taken && !cluster.has_view(1, source) {
                break;
            }
        }
        assert!(!cluster.has_view(1, source), "{}", cluster.describe());
    }
    cluster.hold_apply.clear();
    cluster.until("everything is region 3", |cluster| {
        (1..=3).all(|store| {
            !cluster.has_view(store, r(1))
                && !cluster.has_view(store, r(2))
                && cluster.view(store, r(3)).region.start_key.is_empty()
        })
    });
    assert_eq!(cluster.get(r(3), "a"), Some("1".into()));
    cluster.assert_same_data(ALL);
    cluster.until("the records are dropped", |cluster| {
        (1..=3).all(|store| cluster.records(store, r(3)) == 0)
    });
}

#[test]
fn merge_isolated_store() {
    let regions = [
        region(1, "", "m", &[1, 2, 3]),
        region(2, "m", "", &[1, 2, 3]),
    ];
    let mut cluster = Cluster::new(4, &regions);
    for id in [1, 2] {
        cluster.elect_at(r(id), 1);
    }
    cluster.put(r(1), "a", "1");
    cluster.put(r(2), "z", "2");
    cluster.ticks(5);
    mute(&mut cluster, &[2], &[3]);
    order(&mut cluster);
    cluster.until("the others have merged", |cluster| {
        [1, 2].into_iter().all(|store| is_merged_at(cluster, store))
    });
    cluster.isolate(s(3));
    cluster.clear_filter();
    // The target moves away from the store that is cut off.
    cluster.add_learner(r(2), 94, 4);
    cluster.swap_peers(r(2), 94, 23);
    cluster.remove_learner(r(2), 23);
    cluster.put(r(2), "b", "3");
    cluster.ticks(50);
    assert_eq!(cluster.records(1, r(2)), 1, "an orphan lives");
    cluster.heal();
    cluster.until("target and source die there", |cluster| {
        cluster.store(3).peer_count() == 0
    });
    cluster.until("the record is dropped", |cluster| {
        [1, 2, 4]
            .into_iter()
            .all(|store| cluster.records(store, r(2)) == 0)
    });
    assert_eq!(cluster.local_get(3, "a"), None);
    assert_eq!(cluster.get(r(2), "a"), Some("1".into()));
    cluster.assert_same_data(&[1, 2, 4]);
}

/// Without the checks before freezing a target may commit that has no data on a store, where the source waits for it. If the
/// target's peer there is removed, both die.
#[test]
fn a_source_dies_where_its_target_never_had_data() {
    merge_where_no_data_is(true);
}

/// The same where the target's peer was added and removed while its store heard nothing of it, so that nothing there knows it.
#[test]
fn a_source_dies_where_its_target_was_never_born() {
    merge_where_no_data_is(false);
}

fn merge_where_no_data_is(born: bool) {
    let unchecked = store::Options {
        merge_unchecked: true,
        ..options()
    };
    let regions = [
        region(1, "", "m", &[1, 2, 3]),
        region(2, "m", "", &[1, 2, 3]),
    ];
    let mut cluster = Cluster::with(4, &regions, unchecked, MemoryOptions::default());
    cluster.elect_at(r(2), 1);
    cluster.elect_at(r(1), 1);
    cluster.put(r(1), "a", "1");
    cluster.put(r(2), "z", "2");
    cluster.add_learner(r(1), 14, 4);
    cluster.elect_at(r(1), 1);
    // Heartbeats, if any, only make a peer of the target there.
    cluster.filter(move |_, to, frame| {
        if to == s(4) {
            frame.heartbeats.take_if(|_| !born);
            frame.messages.retain(|message| message.region_id != 2);
            let target = |offer: &metapb::Region| offer.id == 2;
            frame
                .offers
                .retain(|offer| !offer.region.as_ref().is_some_and(target));
        }
    });
    let learner = metapb::Peer {
        id: 24,
        store_id: 4,
        role: metapb::PeerRole::Learner as i32,
        is_witness: false,
    };
    cluster
        .order(r(2), OrderKind::AddLearner(learner))
        .expect("it is added");
    if born {
        cluster.until("it is uninitialized", |cluster| cluster.has_view(4, r(2)));
    } else {
        cluster.settle();
    }
    order(&mut cluster);
    cluster.until("the others have merged", is_merged);
    assert_eq!(cluster.has_view(4, r(2)), born);
    assert!(!born || is_frozen_at(&cluster, 4));
    cluster.crash(s(4), POWER);
    cluster.remove_learner(r(2), 24);
    cluster.clear_filter();
    cluster.restart(s(4));
    cluster.until("target and source die there", |cluster| {
        cluster.store(4).peer_count() == 0
    });
    cluster.until("the record is dropped", |cluster| {
        (1..=3).all(|store| cluster.records(store, r(2)) == 0)
    });
    assert_whole(&mut cluster);
}

#[test]
fn merge_store_dies() {
    // A store dies before the freeze is everywhere: the merge is given up, and that within 5 s.
    let mut cluster = pair();
    mute(&mut cluster, &[1], &[3]);
    order(&mut cluster);
    cluster.settle();
    cluster.crash(s(3), KILL);
    let mut ticks = 0;
    while ![1, 2]
        .into_iter()
        .all(|store| is_thawed_at(&cluster, store))
    {
        cluster.tick();
        ticks += 1;
        assert!(ticks < 100, "frozen for 5 s\n{}", cluster.describe());
    }
    assert_eq!(version(&cluster, 1, 1), 3);
    cluster.clear_filter();
    cluster.restart(s(3));
    assert_whole(&mut cluster);
}

#[test]
fn merge_split_child_snapshot() {
    // Store 3 has applied neither the merge nor the split after it; a child of that comes by snapshot, and has to wait.
    let mut cluster = lagging(3, options());
    let child = cluster.split(r(2), &["f"])[0];
    cluster.put(child, "g", "3");
    assert_eq!(cluster.merge_state(1, child).records.len(), 1);
    cluster.filter(|_, to, frame| {
        if to == s(3) {
            frame.messages.retain(|message| message.region_id != 2);
        }
    });
    cluster.ticks(40);
    assert!(
        !cluster.owns(3, child),
        "it took a range that the target has not absorbed"
    );
    cluster.clear_filter();
    cluster.until("it comes once the target is past", |cluster| {
        cluster.owns(3, child) && is_merged_at(cluster, 3)
    });
    assert_eq!(cluster.get(child, "g"), Some("3".into()));
    cluster.assert_same_data(ALL);
}
