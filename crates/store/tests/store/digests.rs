//! Digests of what was applied (R12): kept over restarts, begun anew by splits and merges, brought by snapshots.

use engine::{Batch, Change, Engine, Family, Logging};
use proto::RegionId;
use proto::pontoon::v1 as wire;
use raft::PeerId;
use store::event::{Difference, Divergence, Event};
use store::{Bug, Digest, codec, keys};

use crate::harness::*;
use crate::merges;
use crate::slots::one_behind;

const BASE: u64 = store::identity::BASE.index;

/// Three stores with a region led by store 1, and a few keys.
fn cluster(bug: Option<Bug>) -> Cluster {
    let options = store::Options {
        bug,
        digest_entries: 4,
        ..options()
    };
    let regions = [region(1, "", "", &[1, 2, 3])];
    let mut cluster = Cluster::with(3, &regions, options, Default::default());
    cluster.elect_at(r(1), 1);
    for key in ["b", "k", "t"] {
        cluster.put(r(1), key, "old");
    }
    cluster.ticks(5);
    cluster
}

fn record(cluster: &Cluster, store: u64, region: RegionId) -> wire::AppliedState {
    let engine = &cluster.nodes[&s(store)].engine;
    let bytes = engine.get(Family::State, &keys::applied_state(region));
    let bytes = bytes.expect("the engine reads").expect("a record");
    codec::decode_record(&bytes).expect("a good record")
}

/// The digest of a region on all three stores, if they have applied as much and agree.
fn agreed(cluster: &Cluster, region: RegionId) -> Option<wire::Digest> {
    let of = |store| {
        let record = record(cluster, store, region);
        (record.index, record.digest)
    };
    let [first, second, third] = [1, 2, 3].map(of);
    (first == second && first == third)
        .then_some(first.1)
        .flatten()
}

#[test]
fn peers_agree_and_writes_show() {
    let mut cluster = cluster(None);
    let before = agreed(&cluster, r(1)).expect("they agree");
    assert_eq!(before.since, BASE);
    cluster.put(r(1), "k", "new");
    cluster.ticks(5);
    let after = agreed(&cluster, r(1)).expect("they agree");
    assert_eq!(after.since, BASE);
    assert_ne!(before.value, after.value);

    // A swap that fails writes nothing; that it failed is known by all.
    let request = cluster.propose_at(s(1), r(1), vec![swap("k", Some("old"), "newer")]);
    cluster.until("the swap is answered", |cluster| {
        cluster.answers.contains_key(&request)
    });
    cluster.ticks(5);
    let failed = agreed(&cluster, r(1)).expect("they agree");
    assert_ne!(after.value, failed.value);
}

#[test]
fn a_peer_that_applies_otherwise_has_another() {
    let mut cluster = cluster(Some(Bug::OwnLimit));
    cluster.put(r(1), "k", "longer");
    cluster.ticks(5);
    assert_eq!(agreed(&cluster, r(1)), None);
    let of = |store| record(&cluster, store, r(1)).digest;
    assert_eq!(of(1), of(3));
    assert_ne!(of(1), of(2));
}

#[test]
fn a_restart_keeps_it() {
    for bug in [None, Some(Bug::DigestNotSaved)] {
        let mut cluster = cluster(bug);
        cluster.crash(s(3), KILL);
        cluster.put(r(1), "k", "new");
        cluster.crash(s(2), POWER);
        cluster.restart(s(3));
        cluster.restart(s(2));
        cluster.put(r(1), "t", "new");
        cluster.ticks(20);
        let indices = [1, 2, 3].map(|store| record(&cluster, store, r(1)).index);
        assert_eq!(indices, [indices[0]; 3]);
        let expected = bug.is_none().then_some(BASE);
        let known = agreed(&cluster, r(1)).filter(|digest| digest.value != 0);
        assert_eq!(known.map(|digest| digest.since), expected, "{bug:?}");
    }
}

#[test]
fn a_split_begins_it_anew_in_every_piece() {
    let mut cluster = cluster(None);
    let before = record(&cluster, 1, r(1)).index;
    let children = cluster.split(r(1), &["m"]);
    cluster.ticks(5);
    let parent = agreed(&cluster, r(1)).expect("they agree");
    assert!(parent.since > before, "{parent:?} after {before}");
    let child = agreed(&cluster, children[0]).expect("they agree");
    assert_eq!(child.since, BASE);

    cluster.put(r(1), "b", "new");
    cluster.put(children[0], "t", "new");
    cluster.ticks(5);
    let later = agreed(&cluster, r(1)).expect("they agree");
    assert_eq!(later.since, parent.since);
    assert_ne!(later.value, parent.value);
    assert_ne!(agreed(&cluster, children[0]), Some(child));
}

#[test]
fn a_merge_begins_it_anew() {
    let mut cluster = merges::pair();
    let before = record(&cluster, 1, r(2)).index;
    merges::order(&mut cluster);
    cluster.until("every store has merged", merges::is_merged);
    cluster.put(r(2), "a", "new");
    cluster.ticks(5);
    let digest = agreed(&cluster, r(2)).expect("they agree");
    assert!(digest.since > before, "{digest:?} after {before}");
}

#[test]
fn a_snapshot_brings_it() {
    let mut cluster = one_behind();
    cluster.until("the snapshot is installed", |cluster| {
        cluster.happened.installs == 1
    });
    cluster.put(r(1), "k0", "y");
    cluster.ticks(20);
    let digest = agreed(&cluster, r(1)).expect("they agree");
    assert_eq!(digest.since, BASE);
}

/// As an earlier version wrote it.
fn forget(cluster: &Cluster, store: u64, region: RegionId) {
    let mut old = record(cluster, store, region);
    old.digest = None;
    let key = bytes::Bytes::copy_from_slice(&keys::applied_state(region));
    let batch = Batch {
        family: Family::State,
        changes: vec![Change::Put(key, codec::encode_record(&old))],
    };
    let engine = &cluster.nodes[&s(store)].engine;
    engine.write(batch, Logging::On).expect("the engine writes");
}

#[test]
fn what_an_earlier_version_wrote_has_none_until_a_split() {
    let mut cluster = cluster(None);
    cluster.crash(s(3), KILL);
    forget(&cluster, 3, r(1));
    cluster.restart(s(3));
    cluster.put(r(1), "k", "new");
    cluster.ticks(5);
    let lacking = record(&cluster, 3, r(1));
    assert_eq!(lacking.index, record(&cluster, 1, r(1)).index);
    assert_eq!(lacking.digest, None);
    cluster.split(r(1), &["m"]);
    cluster.ticks(5);
    assert!(agreed(&cluster, r(1)).is_some());
}

#[test]
fn damaged_data_has_none() {
    let mut cluster = cluster(None);
    let (region, peer) = (r(1), cluster.view(3, r(1)).peer);
    cluster.step(s(3), Event::Damaged { region, peer });
    cluster.put(r(1), "k", "new");
    cluster.ticks(5);
    assert_eq!(record(&cluster, 3, r(1)).digest, None);
    let children = cluster.split(r(1), &["m"]);
    cluster.put(r(1), "b", "new");
    cluster.put(children[0], "t", "new");
    cluster.ticks(5);
    for region in [r(1), children[0]] {
        assert_eq!(record(&cluster, 3, region).digest, None);
        assert!(record(&cluster, 1, region).digest.is_some());
    }
}

fn put_some(cluster: &mut Cluster, region: RegionId) {
    for number in 0..10 {
        cluster.put(region, &format!("k{number}"), "longer");
    }
    cluster.ticks(5);
}

fn told(cluster: &Cluster, store: u64) -> Vec<(Option<PeerId>, u64)> {
    let all = &cluster.nodes[&s(store)].divergences;
    let told = all.iter().map(|told| (told.other, applied(told).1.value));
    told.collect()
}

/// Digests of what was applied.
fn applied(told: &Divergence) -> (Digest, Digest) {
    match told.difference {
        Difference::Applied { ours, theirs } => (ours, theirs),
        Difference::Stored { .. } => panic!("nothing is verified here: {told:?}"),
    }
}

#[test]
fn a_leader_tells_once_who_differs() {
    let mut cluster = cluster(Some(Bug::OwnLimit));
    for _ in 0..3 {
        put_some(&mut cluster, r(1));
    }
    let all = &cluster.nodes[&s(1)].divergences;
    let [told_of] = &all[..] else {
        panic!("one, found {all:?}");
    };
    assert_eq!((told_of.region, told_of.peer.0), (r(1), 11));
    assert_eq!(
        told_of.other,
        Some(PeerId(12)),
        "the one with a limit of its own"
    );
    let (ours, theirs) = applied(told_of);
    assert_eq!(ours.since, theirs.since);
    assert_ne!(ours.value, theirs.value);
    // Nothing is served less.
    assert_eq!(cluster.leader(r(1)), Some(s(1)));
    assert_eq!(cluster.get(r(1), "k3").as_deref(), Some("longer"));

    // The next leader tells, too; what a split makes is another matter.
    cluster.elect_at(r(1), 3);
    put_some(&mut cluster, r(1));
    assert_eq!(told(&cluster, 3).len(), 1);
    let child = cluster.split(r(1), &["a"])[0];
    put_some(&mut cluster, child);
    let mut all = cluster.nodes.values().flat_map(|node| &node.divergences);
    assert!(all.any(|told| told.region == child));
}

/// Two that differ from it and not from each other show that it is the leader.
#[test]
fn a_leader_that_differs_tells_of_all_others() {
    let mut cluster = cluster(Some(Bug::OwnLimit));
    cluster.elect_at(r(1), 2);
    put_some(&mut cluster, r(1));
    let told = told(&cluster, 2);
    let [first, second] = &told[..] else {
        panic!("two, found {told:?}");
    };
    assert_eq!(first.1, second.1);
    assert_ne!(first.0, second.0);
}

#[test]
fn peers_that_are_alike_are_not_told_of() {
    for version in ["present", "earlier"] {
        let mut cluster = cluster(None);
        if version == "earlier" {
            cluster.crash(s(3), KILL);
            forget(&cluster, 3, r(1));
            cluster.restart(s(3));
        }
        put_some(&mut cluster, r(1));
        cluster.elect_at(r(1), 2);
        let child = cluster.split(r(1), &["a"])[0];
        put_some(&mut cluster, child);
        for store in 1..=3 {
            assert_eq!(told(&cluster, store), [], "{version}");
        }
    }
}

/// R34: only members are listened to, and only where they are.
#[test]
fn strangers_are_not_compared() {
    let mut cluster = cluster(None);
    put_some(&mut cluster, r(1));
    let index = record(&cluster, 1, r(1)).index / 4 * 4;
    let wrong = |from_peer, to_peer, since| wire::PeerDigest {
        region_id: 1,
        from_peer,
        to_peer,
        index,
        digest: Some(wire::Digest { since, value: 1 }),
    };
    let mut tell = |from, digest| {
        let frame = wire::Frame {
            digests: vec![digest],
            ..Default::default()
        };
        let from = s(from);
        cluster.step(s(1), Event::Frame { from, frame });
        told(&cluster, 1).len()
    };
    assert_eq!(tell(3, wrong(12, 11, BASE)), 0, "from another store");
    assert_eq!(tell(3, wrong(99, 11, BASE)), 0, "no member");
    assert_eq!(tell(3, wrong(13, 12, BASE)), 0, "for another peer");
    assert_eq!(tell(3, wrong(13, 11, 0)), 0, "not known");
    assert_eq!(tell(3, wrong(13, 11, BASE + 1)), 0, "it began later");
    assert_eq!(tell(3, wrong(13, 11, BASE)), 1);
    assert_eq!(tell(3, wrong(13, 11, BASE)), 1, "told before");
}

/// What a member told before it was removed is compared no more, though the leader gets there only now.
#[test]
fn members_that_are_gone_are_not_compared() {
    for stays in [true, false] {
        let options = store::Options {
            digest_entries: 4,
            ..options()
        };
        let regions = [region(1, "", "", &[1, 2, 3])];
        let mut cluster = Cluster::with(4, &regions, options, Default::default());
        cluster.elect_at(r(1), 1);
        cluster.add_learner(r(1), 14, 4);
        let index = (record(&cluster, 1, r(1)).index + 40) / 4 * 4;
        let digests = vec![wire::PeerDigest {
            region_id: 1,
            from_peer: 14,
            to_peer: 11,
            index,
            digest: Some(wire::Digest {
                since: BASE,
                value: 1,
            }),
        }];
        cluster.crash(s(4), KILL);
        let frame = wire::Frame {
            digests,
            ..Default::default()
        };
        let from = s(4);
        cluster.step(s(1), Event::Frame { from, frame });
        if !stays {
            cluster.remove_learner(r(1), 14);
        }
        while record(&cluster, 1, r(1)).index <= index {
            cluster.put(r(1), "k", "new");
        }
        cluster.ticks(5);
        assert_eq!(told(&cluster, 1).len(), usize::from(stays));
    }
}

/// A write was lost on one store before the source froze.
#[test]
fn a_merge_finds_a_source_that_differs() {
    let mut cluster = merges::pair_with(store::Options {
        bug: Some(Bug::OwnLimit),
        ..options()
    });
    cluster.put(r(1), "a", "longer");
    merges::order(&mut cluster);
    cluster.until("every store has merged", merges::is_merged);
    for (store, expected) in [(1, 0), (2, 1), (3, 0)] {
        let all = &cluster.nodes[&s(store)].divergences;
        assert_eq!(all.len(), expected, "store {store}: {all:?}");
    }
    let told = cluster.nodes[&s(2)].divergences[0];
    assert_eq!(
        (told.region, told.peer, told.other),
        (r(1), PeerId(12), None)
    );
    let (ours, theirs) = applied(&told);
    assert_eq!(ours.since, theirs.since);
    // It is taken in as it is.
    assert_eq!(cluster.get(r(2), "a").as_deref(), Some("longer"));
    assert_eq!(cluster.local_get(2, "a").as_deref(), Some("1"));
}

/// From the freeze on the digest stands still, however often the source gets another leader, and whoever starts again.
#[test]
fn a_frozen_source_keeps_its_digest() {
    for bug in [None, Some(Bug::DigestCountsNoops)] {
        let mut cluster = merges::frozen_with(store::Options { bug, ..options() });
        let at_freeze = agreed(&cluster, r(1)).expect("they agree");
        let index = record(&cluster, 1, r(1)).index;
        cluster.crash(s(2), KILL);
        cluster.restart(s(2));
        for leader in [2, 3] {
            cluster.elect_at(r(1), leader);
        }
        cluster.ticks(5);
        assert!(record(&cluster, 1, r(1)).index > index, "no-ops");
        let later = agreed(&cluster, r(1)).expect("they agree");
        assert_eq!(later == at_freeze, bug.is_none());
        cluster.clear_filter();
        if bug.is_none() {
            cluster.until("every store has merged or thawed", |cluster| {
                merges::is_merged(cluster) || !merges::is_frozen_at(cluster, 1)
            });
            for store in 1..=3 {
                assert_eq!(told(&cluster, store), []);
            }
        }
    }
}
