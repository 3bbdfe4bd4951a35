//! The end of records of merges, where stores do not come back (REGIONS §5).

use proto::pontoon::v1 as wire;
use store::event::{Event, OrderKind};

use crate::harness::*;

/// Regions 1 and 2 on stores 1 to 3, merged, led by store 1; those of `stays` do not remove what is left of the source.
fn merged(stays: &[u64]) -> Cluster {
    let regions = [
        region(1, "", "m", &[1, 2, 3]),
        region(2, "m", "", &[1, 2, 3]),
    ];
    let mut cluster = Cluster::new(5, &regions);
    for id in [1, 2] {
        cluster.elect_at(r(id), 1);
    }
    cluster.put(r(1), "a", "1");
    cluster.put(r(2), "z", "2");
    cluster.ticks(5);
    cluster
        .hold_tasks
        .extend(stays.iter().map(|store| s(*store)));
    let target = r(2);
    cluster
        .order(r(1), OrderKind::Merge { target })
        .expect("nothing is in the way");
    cluster.until("every store has merged", |cluster| {
        (1..=3).all(|store| cluster.view(store, r(2)).region.start_key.is_empty())
    });
    cluster
}

/// A store dies, and the target moves on without it.
fn lose(cluster: &mut Cluster, store: u64, to: u64) {
    cluster.crash(s(store), KILL);
    cluster.add_learner(r(2), 90 + to, to);
    cluster.swap_peers(r(2), 90 + to, 20 + store);
    cluster.remove_learner(r(2), 20 + store);
}

fn asked(cluster: &Cluster, store: u64) -> usize {
    let asked = &cluster.nodes[&s(1)].inquired;
    asked.iter().filter(|asked| **asked == s(store)).count()
}

/// The leader asks after who is silent, now and then, and the record ends by placement's word.
#[test]
fn a_record_ends_with_a_store_that_was_removed() {
    let mut cluster = merged(&[3]);
    lose(&mut cluster, 3, 4);
    cluster.ticks(300);
    let patience = cluster.options.leaderless_ticks as usize;
    assert!((2..=300 / patience + 3).contains(&asked(&cluster, 3)));
    assert_eq!(asked(&cluster, 2), 0, "a store that speaks");
    assert_eq!(cluster.records(1, r(2)), 1, "an orphan may live");
    cluster.step(s(1), Event::StoreRemoved(s(3)));
    let dropped = |cluster: &Cluster| {
        [1, 2, 4]
            .into_iter()
            .all(|store| cluster.records(store, r(2)) == 0)
    };
    cluster.until("the record is dropped", dropped);
    assert_eq!(cluster.get(r(2), "a"), Some("1".into()));
    cluster.assert_same_data(&[1, 2, 4]);
}

/// Nobody is forgotten, whether it is the store that asks or another one that speaks.
#[test]
fn a_record_waits_for_every_store() {
    for stays in [1, 2] {
        let mut cluster = merged(&[stays]);
        cluster.ticks(300);
        assert_eq!(cluster.records(1, r(2)), 1, "store {stays} has the source");
        assert_eq!(asked(&cluster, 2), 0, "a store that speaks");
        cluster.hold_tasks.clear();
        cluster.until("the record is dropped", |cluster| {
            cluster.records(1, r(2)) == 0
        });
    }
}

/// Nor is it enough that a store says so of another peer than the one that the record names.
#[test]
fn a_record_waits_for_the_peer_that_it_names() {
    let mut cluster = merged(&[3]);
    let record = cluster.merge_state(1, r(2)).records[0].clone();
    let merge = wire::MergeId {
        source_id: 1,
        freeze_index: record.freeze_index,
    };
    let dies = |cluster: &mut Cluster, from: u64, peer_id: u64| {
        let message = wire::MergeMessage {
            merge: Some(merge),
            kind: Some(wire::merge_message::Kind::Death(wire::MergeDeath {
                holder_id: 2,
                peer_id,
            })),
        };
        let frame = wire::Frame {
            merges: vec![message],
            ..Default::default()
        };
        cluster.step(
            s(1),
            Event::Frame {
                from: s(from),
                frame,
            },
        );
        cluster.ticks(100);
        cluster.records(1, r(2)) == 0
    };
    assert!(!dies(&mut cluster, 3, 12), "another one");
    assert!(!dies(&mut cluster, 4, 13), "told by a stranger");
    assert!(dies(&mut cluster, 3, 13));
}

/// A restart forgets what placement said, and it is asked again; also by another leader.
#[test]
fn who_did_not_ask_is_not_told() {
    let mut cluster = merged(&[3]);
    lose(&mut cluster, 3, 4);
    cluster.step(s(1), Event::StoreRemoved(s(3)));
    cluster.ticks(20);
    assert_eq!(cluster.records(1, r(2)), 1, "nobody had asked");
    cluster.elect_at(r(2), 2);
    cluster.until("the new leader asks", |cluster| {
        cluster.nodes[&s(2)].inquired.contains(&s(3))
    });
    cluster.step(s(2), Event::StoreRemoved(s(3)));
    cluster.until("the record is dropped", |cluster| {
        cluster.records(2, r(2)) == 0
    });
}

/// Placement's word alone must not let a source thaw: while those who are said to be gone could elect a leader, the record stays
/// and tells them that the merge is committed.
#[test]
fn a_record_outlives_removed_stores_that_could_lead_its_source() {
    let mut cluster = merged(&[2, 3]);
    lose(&mut cluster, 3, 4);
    lose(&mut cluster, 2, 5);
    cluster.until("placement is asked for both", |cluster| {
        asked(cluster, 2) > 0 && asked(cluster, 3) > 0
    });
    for store in [2, 3] {
        cluster.step(s(1), Event::StoreRemoved(s(store)));
    }
    cluster.ticks(200);
    assert_eq!(cluster.records(1, r(2)), 1, "stores 2 and 3 could thaw it");
    // One comes back after all, learns of the merge, and the other is not enough.
    cluster.restart(s(2));
    cluster.until("nothing is left there", |cluster| {
        cluster.store(2).peer_count() == 0
    });
    cluster.until("the record is dropped", |cluster| {
        [1, 4, 5]
            .into_iter()
            .all(|store| cluster.records(store, r(2)) == 0)
    });
    assert_eq!(cluster.get(r(2), "a"), Some("1".into()));
    cluster.assert_same_data(&[1, 4, 5]);
}
