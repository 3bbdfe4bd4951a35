//! Stores that were away during a merge, and what snapshots do there (REGIONS §5, §10 rows 31 to 33).

use std::collections::BTreeSet;

use engine::{Engine, MemoryOptions};
use proto::pontoon::v1 as wire;
use proto::pontoon::v1::raft_message::Body;
use proto::pontoon::v1::region_state::State;
use store::event::{Event, Task};

use crate::harness::*;
use crate::merges::{ALL, assert_whole, is_frozen_at, is_merged, is_merged_at, order};

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

/// Store 3 has the source's log and nothing of the target's, which is compacted: only a snapshot can bring that.
fn behind_its_log(stores: u64) -> Cluster {
    let small = store::Options {
        compact_entries: 4,
        compact_tail_entries: 0,
        ..options()
    };
    let mut cluster = lagging(stores, small);
    for round in 0..20 {
        cluster.put(r(2), "y", &round.to_string());
    }
    cluster.ticks(60);
    cluster
}

#[test]
fn merge_snapshot_over_source() {
    let mut cluster = behind_its_log(3);
    // Without the record that names it the source is in the way.
    cluster.filter(|_, _, frame| {
        let offers = frame.offers.iter_mut();
        offers.for_each(|offer| offer.records.clear());
    });
    cluster.ticks(40);
    assert_eq!(cluster.happened.installs, 0);
    assert!(cluster.owns(3, r(1)) && cluster.owns(3, r(2)));
    assert_eq!(cluster.local_get(3, "a"), Some("1".into()));
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

/// The same, and store 3 stops after every single step: the source is dead on its disk exactly when the target is past the merge.
#[test]
fn merge_snapshot_over_source_is_one_batch() {
    let mut seen = BTreeSet::new();
    for mode in [KILL, POWER] {
        for stop_after in 0..40 {
            let mut cluster = behind_its_log(3);
            cluster.clear_filter();
            let mut steps = 0;
            while steps < stop_after {
                let mut busy = cluster.deliver();
                for other in [s(1), s(2)] {
                    busy |= cluster.work(other);
                }
                let worked = cluster.work(s(3));
                steps += usize::from(worked);
                if !worked && !busy {
                    if cluster.happened.installs > 0 {
                        break;
                    }
                    for id in ALL {
                        cluster.step(s(*id), Event::Tick);
                    }
                }
            }
            cluster.crash(s(3), mode);
            let target = cluster.merge_state(3, r(2)).region.expect("a descriptor");
            let dead = cluster.merge_state(3, r(1)).state() == State::Tombstone;
            assert_eq!(dead, target.start_key.is_empty());
            seen.insert(dead);
            cluster.restart(s(3));
            cluster.until("every store has merged", is_merged);
            assert_whole(&mut cluster);
        }
    }
    assert_eq!(seen.len(), 2, "it stopped before and after the batch");
}

/// Store 3 was stopped while a snapshot of the target was being put in place of its peers of source and target. The files are
/// lost, and the target has moved to store 4.
fn removed_while_replacing() -> Cluster {
    let mut cluster = behind_its_log(4);
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

/// R34: however many records a sender makes up, and wherever they lead, none is looked at twice.
#[test]
fn records_in_a_circle_replace_nobody() {
    let regions = [
        region(1, "", "m", &[1, 2, 3]),
        region(2, "m", "", &[1, 2, 3]),
    ];
    let mut cluster = Cluster::new(3, &regions);
    let record = |source: usize, absorber: usize| wire::MergeRecord {
        source: Some(regions[source].clone()),
        freeze_index: 9,
        absorber: Some(regions[absorber].clone()),
        version: 99,
    };
    let offer = wire::SnapshotOffer {
        region: Some(region(3, "", "", &[1, 2, 3])),
        from_peer: 32,
        to_peer: 31,
        from_store: 2,
        term: 5,
        index: 50,
        records: vec![[record(0, 1), record(1, 0)]; 10_000].concat(),
        ..Default::default()
    };
    let frame = wire::Frame {
        offers: vec![offer],
        ..Default::default()
    };
    cluster.step(s(1), Event::Frame { from: s(2), frame });
    assert!(cluster.nodes[&s(1)].transfers.is_empty());
    assert!(cluster.owns(1, r(1)) && cluster.owns(1, r(2)));
}
