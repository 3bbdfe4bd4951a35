//! Verifying that members of a region store the same (R12): what rots is found, and nothing else is.

use bytes::Bytes;
use engine::{Batch, Change, Engine, Family, Logging, MemoryEngine, MemoryOptions};
use proptest::prelude::*;
use proto::pontoon::v1 as wire;
use proto::{RegionId, StoreId};
use raft::{Entry, Payload, PeerId};
use store::apply::Applier;
use store::event::{
    ApplyTask, Asked, Difference, Event, OrderKind, Outcome, Refusal, RequestId, Sum, Task,
    TaskDone, Verification, VerifyPart,
};
use store::{Bug, Options, codec, identity, keys, task, value};

use crate::harness::*;
use crate::merges;
use crate::slots::one_behind;

/// Three stores with a region led by store 1, and a few keys. Nothing is verified that nobody asks for.
fn cluster(options: Options) -> Cluster {
    let options = Options {
        verify_every_ticks: 0,
        ..options
    };
    let regions = [region(1, "", "", &[1, 2, 3])];
    let mut cluster = Cluster::with(4, &regions, options, MemoryOptions::default());
    cluster.elect_at(r(1), 1);
    for key in ["b", "k", "t"] {
        cluster.put(r(1), key, "old");
    }
    cluster.ticks(5);
    cluster
}

/// A byte of a value changes on the disk of a store, and no checksum shows it.
fn alter(cluster: &Cluster, store: u64, key: &str, to: &str) {
    let stored = value::encode(&Bytes::copy_from_slice(to.as_bytes()), 0);
    let batch = Batch {
        family: Family::State,
        changes: vec![Change::Put(keys::data(key.as_bytes()), stored)],
    };
    let engine = &cluster.nodes[&s(store)].engine;
    engine.write(batch, Logging::On).expect("it writes");
}

fn result(cluster: &Cluster, request: RequestId) -> Option<Result<Verification, Refusal>> {
    let all = cluster.nodes.values().flat_map(|node| &node.verified);
    let mut found = all.filter(|(of, _)| *of == Some(request));
    let verified = found.next().map(|(_, verification)| verification.clone());
    assert!(found.next().is_none(), "answered twice");
    match (verified, cluster.answers.get(&request)) {
        (Some(verification), None) => Some(Ok(verification)),
        (None, Some(Err(refusal))) => Some(Err(refusal.clone())),
        (None, None) => None,
        (_, answer) => panic!("answered twice, or as a write: {answer:?}"),
    }
}

fn verify(cluster: &mut Cluster, region: RegionId) -> Verification {
    let leader = cluster.elect(region);
    let request = cluster.verify_at(leader, region);
    cluster.until("it is verified", |cluster| {
        result(cluster, request).is_some()
    });
    let result = result(cluster, request).expect("it was just there");
    result.expect("nothing is in the way")
}

fn outcomes(verification: &Verification) -> Vec<(u64, &'static str, bool)> {
    let members = verification.members.iter();
    let of = members.map(|member| (member.peer.store_id, member.outcome.name(), member.differs));
    of.collect()
}

fn sum(verification: &Verification) -> Sum {
    assert!(verification.is_same(), "{:?}", outcomes(verification));
    let first = verification.members[0].outcome.sum();
    first.expect("it was read")
}

/// Divergences that a store told of.
fn told(cluster: &Cluster, store: u64) -> Vec<PeerId> {
    let all = cluster.nodes[&s(store)].divergences.iter();
    let others = all.map(|told| {
        assert!(matches!(told.difference, Difference::Stored { .. }));
        told.other.expect("a member")
    });
    others.collect()
}

#[test]
fn members_that_store_the_same_are_the_same() {
    let mut cluster = cluster(options());
    let first = verify(&mut cluster, r(1));
    assert_eq!(sum(&first).keys, 3);
    let again = verify(&mut cluster, r(1));
    assert_eq!(sum(&again), sum(&first));
    assert!(again.index > first.index);
    cluster.put(r(1), "k", "new");
    let later = verify(&mut cluster, r(1));
    assert_eq!(
        (sum(&later).keys, sum(&later).bytes),
        (3, sum(&first).bytes)
    );
    assert_ne!(sum(&later).value, sum(&first).value);
    // Learners as well.
    cluster.add_learner(r(1), 14, 4);
    let with_learner = verify(&mut cluster, r(1));
    assert_eq!(sum(&with_learner), sum(&later));
    assert_eq!(with_learner.members.len(), 4);
    assert_eq!(told(&cluster, 1), []);
}

/// Nothing of the region changes by that: neither what is stored, nor its epoch, nor its running digest.
#[test]
fn the_region_stays_as_it_is() {
    let mut cluster = cluster(options());
    let state = |cluster: &Cluster, key: &[u8]| {
        let engine = &cluster.nodes[&s(2)].engine;
        engine.get(Family::State, key).expect("memory reads")
    };
    let applied = |cluster: &Cluster| -> wire::AppliedState {
        let bytes = state(cluster, &keys::applied_state(r(1)));
        codec::decode_record(&bytes.expect("a record")).expect("a good record")
    };
    let before = (
        state(&cluster, &keys::region_state(r(1))),
        applied(&cluster),
    );
    verify(&mut cluster, r(1));
    cluster.ticks(5);
    let after = (
        state(&cluster, &keys::region_state(r(1))),
        applied(&cluster),
    );
    assert_eq!(after.0, before.0);
    assert_eq!(after.1.digest, before.1.digest);
    assert_eq!(after.1.index, before.1.index + 1, "one entry");
}

/// Whoever differs is named, and the leader tells of it once until it is mended.
#[test]
fn what_changed_behind_the_back_of_a_store_is_found() {
    let mut cluster = cluster(options());
    alter(&cluster, 3, "k", "olc");
    for _ in 0..2 {
        let verification = verify(&mut cluster, r(1));
        assert!(!verification.is_same());
        let expected = [(1, "read", false), (2, "read", false), (3, "read", true)];
        assert_eq!(outcomes(&verification), expected);
        assert_eq!(told(&cluster, 1), [PeerId(13)]);
    }
    alter(&cluster, 3, "k", "old");
    verify(&mut cluster, r(1));
    assert_eq!(told(&cluster, 1).len(), 1);
    // A key too few, this time.
    let batch = Batch {
        family: Family::State,
        changes: vec![Change::Delete(keys::data(b"t"))],
    };
    let engine = &cluster.nodes[&s(3)].engine;
    engine.write(batch, Logging::On).expect("it writes");
    let verification = verify(&mut cluster, r(1));
    assert!(verification.members[2].differs);
    assert_eq!(told(&cluster, 1), [PeerId(13); 2]);
}

/// The leader is no better than others: who differs from two that agree is the one.
#[test]
fn a_leader_may_be_the_one_that_differs() {
    let mut cluster = cluster(options());
    alter(&cluster, 1, "b", "olc");
    let verification = verify(&mut cluster, r(1));
    let expected = [(1, "read", true), (2, "read", false), (3, "read", false)];
    assert_eq!(outcomes(&verification), expected);
    assert_eq!(told(&cluster, 1), [PeerId(12), PeerId(13)]);
}

/// What peers did is the same, and so are their running digests; only what is on disk tells.
#[test]
fn what_no_read_shows_is_found() {
    let mut cluster = cluster(Options {
        bug: Some(Bug::StoresOther),
        digest_entries: 1,
        ..options()
    });
    assert_eq!(cluster.local_get(2, "k").as_deref(), Some("old"));
    assert_eq!(told(&cluster, 1), []);
    let verification = verify(&mut cluster, r(1));
    let expected = [(1, "read", false), (2, "read", true), (3, "read", false)];
    assert_eq!(outcomes(&verification), expected);
}

/// A store that applies everything at once, long after the others, digests what they did and not what came later.
#[test]
fn later_writes_do_not_matter() {
    for bug in [None, Some(Bug::SumOfLater)] {
        let mut cluster = cluster(Options { bug, ..options() });
        cluster.hold_apply.insert(s(3));
        cluster.put(r(1), "k", "new");
        let request = cluster.verify_at(s(1), r(1));
        cluster.put(r(1), "k", "newer");
        cluster.put(r(1), "z", "more");
        assert!(result(&cluster, request).is_none(), "one is missing");
        cluster.hold_apply.clear();
        cluster.until("it is verified", |cluster| {
            result(cluster, request).is_some()
        });
        let verification = result(&cluster, request).expect("there").expect("verified");
        assert_eq!(verification.is_same(), bug.is_none());
        assert_eq!(told(&cluster, 1).len(), usize::from(bug.is_some()));
    }
}

/// The view is what was there, however much is written while it is read, and pieces are as good as a whole.
#[test]
fn it_is_read_in_pieces_and_no_faster_than_allowed() {
    // 20 bytes per tick of 50 ms.
    let mut cluster = cluster(Options {
        verify_bytes_per_second: 400,
        ..options()
    });
    for number in 0..40 {
        // Some are more than a tick allows.
        let value = "v".repeat(if number % 2 == 0 { 10 } else { 70 });
        cluster.put(r(1), &format!("k{number:02}"), &value);
    }
    let all = verify(&mut cluster, r(1));
    let bytes = sum(&all).bytes as usize;
    let request = cluster.verify_at(s(1), r(1));
    cluster.put(r(1), "k20", "changed");
    cluster.ticks(bytes / 20 - 10);
    cluster.put(r(1), "k39", "changed");
    assert!(
        result(&cluster, request).is_none(),
        "{bytes} bytes take longer"
    );
    cluster.until("it is verified", |cluster| {
        result(cluster, request).is_some()
    });
    let again = result(&cluster, request).expect("there").expect("verified");
    assert_eq!(sum(&again), sum(&all));
}

#[test]
fn a_store_reads_one_region_at_a_time_and_takes_no_more_than_a_few() {
    let keys: Vec<String> = (0..11).map(|number| format!("{number:02}")).collect();
    let ends = keys.iter().skip(1).map(String::as_str).chain([""]);
    let starts = [""]
        .into_iter()
        .chain(keys.iter().skip(1).map(String::as_str));
    let regions: Vec<_> = (1..)
        .zip(starts.zip(ends))
        .map(|(id, (start, end))| region(id, start, end, &[1, 2, 3]))
        .collect();
    let options = Options {
        verify_every_ticks: 0,
        ..options()
    };
    let mut cluster = Cluster::with(3, &regions, options, MemoryOptions::default());
    for (region, key) in regions.iter().zip(&keys) {
        cluster.elect_at(r(region.id), 1);
        cluster.put(r(region.id), key, "value");
    }
    cluster.hold_task = Some((s(3), |task| matches!(task, Task::Verify(_))));
    let requests: Vec<RequestId> = regions
        .iter()
        .map(|region| cluster.verify_at(s(1), r(region.id)))
        .collect();
    cluster.ticks(30);
    let reading = |cluster: &Cluster| cluster.nodes[&s(3)].tasks.len();
    assert_eq!(reading(&cluster), 1);
    let done = |cluster: &Cluster| {
        let results = requests
            .iter()
            .filter_map(|request| result(cluster, *request));
        results
            .map(|result| result.expect("verified"))
            .collect::<Vec<_>>()
    };
    let busy = done(&cluster);
    assert_eq!(busy.len(), regions.len() - 8, "the others wait");
    for verification in &busy {
        assert_eq!(verification.members[2].outcome, Outcome::Busy);
        assert!(!verification.is_same() && !verification.members[2].differs);
    }
    cluster.hold_task = None;
    cluster.ticks(30);
    assert_eq!(done(&cluster).len(), regions.len());
    assert_eq!(told(&cluster, 1), []);
}

/// Damage goes its usual way: the peer is marked, so that it is replaced. It differs from nobody.
#[test]
fn what_cannot_be_read_is_damage() {
    for (store, rotten) in [(1, "k"), (3, "t")] {
        let mut cluster = cluster(options());
        let engine = &cluster.nodes[&s(store)].engine;
        engine.flush(Family::State).expect("it flushes");
        engine.damage(Family::State, &keys::data(rotten.as_bytes()));
        let verification = verify(&mut cluster, r(1));
        let unreadable = |member: &&store::event::VerifiedMember| {
            assert!(!member.differs);
            member.outcome == Outcome::Unreadable
        };
        let found: Vec<u64> = verification
            .members
            .iter()
            .filter(unreadable)
            .map(|member| member.peer.store_id)
            .collect();
        assert_eq!(found, [store]);
        cluster.ticks(40);
        assert!(cluster.merge_state(store, r(1)).damaged);
        assert!(
            cluster
                .leader(r(1))
                .is_some_and(|leader| leader != s(store))
                || store != 1
        );
        // It is known now, without a look.
        let again = verify(&mut cluster, r(1));
        let member = again
            .members
            .iter()
            .find(|member| member.peer.store_id == store);
        assert_eq!(member.expect("a member").outcome, Outcome::Unreadable);
        assert!((1..=3).all(|store| told(&cluster, store).is_empty()));
    }
}

/// What is lost on the way is said again, and only so often.
#[test]
fn what_a_follower_found_is_repeated_until_it_is_noted() {
    let mut cluster = cluster(options());
    let mut lost = 0;
    cluster.filter(move |from, _, frame| {
        if from == s(3) && !frame.sums.is_empty() && lost < 3 {
            lost += 1;
            frame.sums.clear();
        }
    });
    let verification = verify(&mut cluster, r(1));
    sum(&verification);
    // A note that is lost costs one more.
    let counted = std::rc::Rc::new(std::cell::Cell::new([0, 0]));
    let counter = counted.clone();
    cluster.filter(move |from, to, frame| {
        let [mut said, mut noted] = counter.get();
        said += if from == s(3) { frame.sums.len() } else { 0 };
        if to == s(3) && !frame.sums_noted.is_empty() && noted == 0 {
            noted += frame.sums_noted.len();
            frame.sums_noted.clear();
        }
        counter.set([said, noted]);
    });
    verify(&mut cluster, r(1));
    cluster.ticks(60);
    assert_eq!(counted.get(), [2, 1]);
    // Who is never heard stops at some time.
    let counter = counted.clone();
    cluster.filter(move |from, _, frame| {
        if from == s(3) && !frame.sums.is_empty() {
            let [said, noted] = counter.get();
            counter.set([said + 1, noted]);
            frame.sums.clear();
        }
    });
    let request = cluster.verify_at(s(1), r(1));
    cluster.ticks(1_000);
    let said = counted.get()[0];
    assert!(said < 30, "{said} times");
    cluster.ticks(500);
    assert_eq!(counted.get()[0], said);
    let verification = result(&cluster, request)
        .expect("time is up")
        .expect("verified");
    let expected = [(1, "read", false), (2, "read", false), (3, "silent", false)];
    assert_eq!(outcomes(&verification), expected);
}

/// A store that is known to be away is not waited for.
#[test]
fn a_member_that_is_down_is_silent() {
    let mut cluster = cluster(options());
    cluster.crash(s(3), KILL);
    cluster.ticks(40);
    let request = cluster.verify_at(s(1), r(1));
    cluster.ticks(5);
    let verification = result(&cluster, request)
        .expect("at once")
        .expect("verified");
    let expected = [(1, "read", false), (2, "read", false), (3, "silent", false)];
    assert_eq!(outcomes(&verification), expected);
    assert!(!verification.is_same());
}

/// One that comes back in time takes part; its applier comes by the entry a second time where it had applied it before.
#[test]
fn a_restart_in_the_middle_is_no_alarm() {
    for mode in [KILL, POWER] {
        for applied in [false, true] {
            let mut cluster = cluster(Options {
                verify_ticks: 100,
                ..options()
            });
            cluster.hold_task = Some((s(3), |task| matches!(task, Task::Verify(_))));
            if !applied {
                cluster.hold_apply.insert(s(3));
            }
            let request = cluster.verify_at(s(1), r(1));
            cluster.ticks(2);
            cluster.put(r(1), "k", "new");
            cluster.crash(s(3), mode);
            cluster.hold_task = None;
            cluster.restart(s(3));
            cluster.until("it is over", |cluster| result(cluster, request).is_some());
            let verification = result(&cluster, request).expect("over").expect("verified");
            assert!(verification.members.iter().all(|member| !member.differs));
            let last = verification.members[2].outcome;
            if !applied {
                assert!(last.sum().is_some(), "it applied it when it was back");
            }
            assert_eq!(told(&cluster, 1), []);
            sum(&verify(&mut cluster, r(1)));
        }
    }
}

/// Whoever asked learns that another leads; nothing is said of what was found.
#[test]
fn a_leader_that_leads_no_more_answers() {
    let mut cluster = cluster(options());
    cluster.hold_task = Some((s(2), |task| matches!(task, Task::Verify(_))));
    let request = cluster.verify_at(s(1), r(1));
    cluster.ticks(2);
    cluster.elect_at(r(1), 3);
    cluster.ticks(2);
    let Some(Err(Refusal::NotLeader { leader, .. })) = result(&cluster, request) else {
        panic!("answered {:?}", result(&cluster, request));
    };
    assert_eq!(leader.map(|leader| leader.store_id), Some(3));
    cluster.hold_task = None;
    sum(&verify(&mut cluster, r(1)));
    // And who does not lead at all says so at once.
    let request = cluster.verify_at(s(1), r(1));
    assert!(matches!(
        result(&cluster, request),
        Some(Err(Refusal::NotLeader { .. }))
    ));
    let request = cluster.verify_at(s(1), r(9));
    assert_eq!(
        result(&cluster, request),
        Some(Err(Refusal::RegionNotFound(r(9))))
    );
}

/// The range that is read is that of the entry. A region that changed before it is not read at all; what changes later, or takes
/// the region away, makes no difference to what was seen.
#[test]
fn splits_and_merges_in_the_middle_are_no_alarm() {
    let mut cluster = cluster(Options {
        verify_bytes_per_second: 20,
        ..options()
    });
    let request = cluster.verify_at(s(1), r(1));
    let busy = cluster.verify_at(s(1), r(1));
    assert!(matches!(
        result(&cluster, busy),
        Some(Err(Refusal::Busy { .. }))
    ));
    let children = cluster.split(r(1), &["m"]);
    cluster.put(children[0], "t", "new");
    assert!(result(&cluster, request).is_none(), "it is slow");
    cluster.until("it is verified", |cluster| {
        result(cluster, request).is_some()
    });
    let verification = result(&cluster, request).expect("there").expect("verified");
    assert_eq!(sum(&verification).keys, 3);

    // The split is in front.
    cluster.step_only(
        s(1),
        Event::Order(store::event::Order {
            region: r(1),
            epoch: cluster.view(1, r(1)).region.region_epoch.expect("an epoch"),
            id: Default::default(),
            kind: OrderKind::Split(vec![Bytes::from_static(b"g")]),
            purpose: Default::default(),
        }),
    );
    let request = cluster.verify_at(s(1), r(1));
    assert!(matches!(
        result(&cluster, request),
        Some(Err(Refusal::Busy { .. }))
    ));
    assert_eq!(told(&cluster, 1), []);

    let mut cluster = merges::pair_with(Options {
        verify_every_ticks: 0,
        verify_bytes_per_second: 20,
        ..options()
    });
    cluster.put(r(1), "b", "2");
    let requests = [r(1), r(2)].map(|region| cluster.verify_at(s(1), region));
    cluster.settle();
    merges::order(&mut cluster);
    let frozen = cluster.verify_at(s(1), r(1));
    cluster.until("every store has merged", merges::is_merged);
    assert_eq!(result(&cluster, frozen), Some(Err(Refusal::Merging(r(1)))));
    cluster.until("both are over", |cluster| {
        requests
            .iter()
            .all(|request| result(cluster, *request).is_some())
    });
    let source = result(&cluster, requests[0]).expect("there");
    assert!(source.is_err() || source.is_ok_and(|source| source.is_same()));
    let target = result(&cluster, requests[1])
        .expect("there")
        .expect("verified");
    assert_eq!(sum(&target).keys, 1, "what it had then");
    assert_eq!(sum(&verify(&mut cluster, r(2))).keys, 3);
    assert_eq!(told(&cluster, 1), []);
}

/// An entry that comes after a change of the region is without effect: the leader that proposed it did not know.
#[test]
fn an_entry_for_another_epoch_has_no_effect() {
    let (mut bench, _) = Bench::new(MemoryOptions::default(), &[]);
    for epoch in [None, Some((1, 2)), Some((2, 1))] {
        let epoch =
            epoch.map(|(conf_ver, version)| proto::metapb::RegionEpoch { conf_ver, version });
        let asked = bench.ask(epoch);
        assert!(asked.data.is_none());
    }
    let epoch = region(1, "", "", &[1]).region_epoch;
    assert!(bench.ask(epoch).data.is_some());
}

/// A member that gets a snapshot over the entry says nothing, and one that it comes to later is as good as any.
#[test]
fn snapshots_are_no_alarm() {
    let mut cluster = one_behind();
    let leader = cluster.elect(r(1));
    let request = cluster.verify_at(leader, r(1));
    cluster.until("the snapshot is installed", |cluster| {
        cluster.happened.installs == 1
    });
    let verification = verify_again(&mut cluster, request);
    assert!(verification.members.iter().all(|member| !member.differs));
    assert_eq!(told(&cluster, leader.0), []);
}

/// Waits for the first, then verifies once more.
fn verify_again(cluster: &mut Cluster, request: RequestId) -> Verification {
    cluster.ticks(1_500);
    let first = result(cluster, request)
        .expect("time is up")
        .expect("verified");
    sum(&verify(cluster, r(1)));
    first
}

/// R34: only members are listened to, only where they are, and only of what was asked.
#[test]
fn strangers_are_not_listened_to() {
    let mut cluster = cluster(options());
    cluster.hold_task = Some((s(3), |task| matches!(task, Task::Verify(_))));
    let request = cluster.verify_at(s(1), r(1));
    cluster.ticks(2);
    let raft = cluster.store(1).raft(r(1)).expect("it leads");
    let (term, index) = (raft.term(), raft.last().index);
    let says = |from_peer, to_peer, term, index, outcome| wire::PeerSum {
        region_id: 1,
        from_peer,
        to_peer,
        term,
        index,
        outcome,
    };
    let wrong = Some(wire::peer_sum::Outcome::Sum(wire::StoredSum::default()));
    let mut tell = |from, sum| {
        let frame = wire::Frame {
            sums: vec![sum],
            ..Default::default()
        };
        cluster.step(s(from), Event::Tick);
        let from = s(from);
        cluster.step(s(1), Event::Frame { from, frame });
        result(&cluster, request).is_some()
    };
    assert!(!tell(2, says(13, 11, term, index, wrong)), "elsewhere");
    assert!(!tell(3, says(99, 11, term, index, wrong)), "no member");
    assert!(!tell(3, says(13, 12, term, index, wrong)), "not for it");
    assert!(
        !tell(3, says(13, 11, term + 1, index, wrong)),
        "a later term"
    );
    assert!(
        !tell(3, says(13, 11, term, index - 1, wrong)),
        "another entry"
    );
    assert!(!tell(3, says(13, 11, term, index, None)), "nothing");
    let unknown = Some(wire::peer_sum::Outcome::None(99));
    assert!(
        !tell(3, says(13, 11, term, index, unknown)),
        "nobody says that"
    );
    assert!(tell(3, says(13, 11, term, index, wrong)));
    let verification = result(&cluster, request).expect("there").expect("verified");
    assert!(verification.members[2].differs);
}

fn every(ticks: u64, count: u64) -> Cluster {
    let starts: Vec<String> = (0..count).map(|number| format!("{number:02}")).collect();
    let regions: Vec<_> = (0..count as usize)
        .map(|at| {
            let start = if at == 0 { "" } else { &starts[at] };
            let end = starts.get(at + 1).map_or("", String::as_str);
            region(at as u64 + 1, start, end, &[1, 2, 3])
        })
        .collect();
    let options = Options {
        verify_every_ticks: ticks,
        ..options()
    };
    let mut cluster = Cluster::with(3, &regions, options, MemoryOptions::default());
    for region in &regions {
        // Leaders on all stores.
        cluster.elect_at(r(region.id), 1 + region.id % 3);
    }
    cluster
}

/// Regions that were verified since, in this order, with the store that led.
fn in_turn(cluster: &mut Cluster) -> Vec<(u64, u64)> {
    let mut found = Vec::new();
    for (id, node) in &mut cluster.nodes {
        for (request, verification) in node.verified.drain(..) {
            assert_eq!(request, None);
            assert!(verification.is_same(), "{:?}", outcomes(&verification));
            found.push((verification.region.id, id.0));
        }
    }
    found.sort();
    found
}

/// Each region once in the time of a round, by its leader, spread over that time; again in the next, with other leaders as well.
#[test]
fn every_region_has_its_turn() {
    let mut cluster = every(400, 12);
    in_turn(&mut cluster);
    let mut seen = Vec::new();
    let mut busiest = 0;
    for _ in 0..16 {
        cluster.ticks(25);
        let some = in_turn(&mut cluster);
        busiest = busiest.max(some.len());
        seen.extend(some);
    }
    seen.sort();
    assert!(busiest <= 4, "{busiest} at a time");
    let regions: Vec<u64> = seen.iter().map(|(region, _)| *region).collect();
    let once: Vec<u64> = (1..=12).collect();
    assert!(regions.iter().all(|region| once.contains(region)));
    let missing = once
        .iter()
        .filter(|region| !regions.contains(region))
        .count();
    // Electing took a part of the first round.
    assert!(missing <= 6, "{regions:?}");
    assert!(
        seen.iter()
            .all(|(region, leader)| *leader == 1 + region % 3)
    );
    // Whoever leads next knows when a region was verified.
    for id in 1..=12 {
        cluster.elect_at(r(id), 1 + (id + 1) % 3);
    }
    in_turn(&mut cluster);
    cluster.ticks(420);
    let second = in_turn(&mut cluster);
    let regions: Vec<u64> = second.iter().map(|(region, _)| *region).collect();
    assert!(
        once.iter().all(|region| regions.contains(region)),
        "{regions:?}"
    );
    assert!(regions.len() <= 14, "{regions:?}");
    let lengths = |cluster: &Cluster| {
        let raft = cluster.nodes[&s(1)].store.as_ref().expect("it runs");
        (1..=12)
            .map(|id| raft.raft(r(id)).expect("here").last().index)
            .sum::<u64>()
    };
    // Idle regions have an entry for each turn, and no other.
    let before = lengths(&cluster);
    cluster.ticks(400);
    let verified = in_turn(&mut cluster).len() as u64;
    assert_eq!(lengths(&cluster) - before, verified);
}

#[test]
fn nothing_has_its_turn_when_that_is_off() {
    let mut cluster = every(0, 3);
    cluster.ticks(600);
    assert_eq!(in_turn(&mut cluster), []);
    sum(&verify(&mut cluster, r(1)));
}

/// A round is not held up by a member that is away, and comes back to the regions it was missing in.
#[test]
fn a_round_goes_on_without_a_store_that_is_away() {
    let mut cluster = every(400, 4);
    let leaders: Vec<Option<StoreId>> = (1..=4).map(|id| cluster.leader(r(id))).collect();
    let away = s(3);
    for (id, leader) in (1..=4).zip(leaders) {
        if leader == Some(away) {
            cluster.elect_at(r(id), 1);
        }
    }
    cluster.crash(away, KILL);
    for node in cluster.nodes.values_mut() {
        node.verified.clear();
    }
    cluster.ticks(450);
    let verified: Vec<(u64, bool)> = cluster
        .nodes
        .values_mut()
        .flat_map(|node| node.verified.drain(..))
        .map(|(_, verification)| (verification.region.id, verification.is_same()))
        .collect();
    for id in 1..=4 {
        let times = verified.iter().filter(|(region, _)| *region == id).count();
        assert!((2..=9).contains(&times), "region {id}: {verified:?}");
    }
    assert!(verified.iter().all(|(_, same)| !same));
    cluster.restart(away);
    cluster.ticks(60);
    let same = |verification: &Verification| verification.is_same();
    let back: Vec<u64> = cluster
        .nodes
        .values()
        .flat_map(|node| &node.verified)
        .filter(|(_, verification)| same(verification))
        .map(|(_, verification)| verification.region.id)
        .collect();
    assert!((1..=4).all(|id| back.contains(&id)), "{back:?}");
}

/// Region 1, everything, on store 1, as its applier has it.
struct Bench {
    engine: MemoryEngine,
    applier: Applier<MemoryEngine>,
    next: u64,
}

impl Bench {
    /// With these writes, each of which is an entry.
    fn new(memory: MemoryOptions, writes: &[wire::Operation]) -> (Bench, Vec<Entry>) {
        let engine = MemoryEngine::with_options(memory);
        identity::create(&engine, 7, s(1), 1).expect("the engine is empty");
        identity::bootstrap(&engine, &[region(1, "", "", &[1])]).expect("nothing is there yet");
        let mut applier = Applier::new(engine.clone(), &Options::default());
        applier.run(vec![ApplyTask::Open(r(1))]).expect("it opens");
        let mut bench = Bench {
            engine,
            applier,
            next: identity::BASE.index + 1,
        };
        let entries = writes
            .iter()
            .map(|operation| {
                bench.entry(wire::Command {
                    region_id: 1,
                    operations: vec![operation.clone()],
                    request_operations: vec![1],
                    ..Default::default()
                })
            })
            .collect();
        (bench, entries)
    }

    fn entry(&mut self, command: wire::Command) -> Entry {
        let index = self.next;
        self.next += 1;
        Entry {
            term: 5,
            index,
            payload: Payload::Command(codec::seal(&command)),
        }
    }

    fn asking(&mut self, epoch: Option<proto::metapb::RegionEpoch>) -> Entry {
        self.entry(wire::Command {
            region_id: 1,
            epoch,
            verify: Some(wire::VerifyData {}),
            ..Default::default()
        })
    }

    fn run(&mut self, entries: Vec<Entry>) -> Vec<Asked> {
        let task = ApplyTask::Entries {
            region: r(1),
            peer: PeerId(11),
            entries,
            waiting: Vec::new(),
        };
        let applied = self.applier.run(vec![task]).expect("applying works");
        applied
            .into_iter()
            .flat_map(|applied| applied.asked)
            .collect()
    }

    fn ask(&mut self, epoch: Option<proto::metapb::RegionEpoch>) -> Asked {
        let entry = self.asking(epoch);
        self.run(vec![entry]).pop().expect("an answer")
    }

    /// Reads what was asked for, in pieces.
    fn read(&self, asked: Asked, bytes_max: u64) -> Sum {
        let mut part = VerifyPart {
            region: r(1),
            peer: PeerId(11),
            index: asked.position.index,
            data: asked.data.expect("it fits"),
            sum: Sum::default(),
            bytes_max,
        };
        loop {
            let reading = Task::Verify(Box::new(part.clone()));
            let done = task::run(&self.engine, reading, &mut || true).expect("memory reads");
            let Some(TaskDone::Verified { sum, next, .. }) = done else {
                panic!("not read: {done:?}");
            };
            assert!(
                sum.keys > part.sum.keys || next.is_none(),
                "one key at least"
            );
            part.sum = sum;
            match next {
                Some(next) => part.data.start = next,
                None => return sum,
            }
        }
    }
}

fn write() -> impl Strategy<Value = wire::Operation> {
    (0..20u32, "[a-c]{0,3}", any::<bool>()).prop_map(|(number, value, puts)| {
        let key = format!("k{number:02}");
        if puts {
            put(&key, &value)
        } else {
            let key = Bytes::from(key);
            wire::Operation {
                kind: Some(wire::operation::Kind::Delete(wire::Delete { key })),
            }
        }
    })
}

proptest! {
    /// The sum is of what the entries before it left, and of nothing else: neither of how they came to the engine, nor of what
    /// came later, nor of how it is read. What is stored differently has another one.
    #[test]
    fn a_sum_is_of_what_is_stored(
        before in prop::collection::vec(write(), 0..30),
        after in prop::collection::vec(write(), 0..10),
        cuts in prop::collection::vec(1..6usize, 1..8),
        flushes in any::<bool>(),
        bytes_max in 1..200u64,
    ) {
        let memory = MemoryOptions { memtable_bytes_max: if flushes { 0 } else { u64::MAX } };
        let epoch = region(1, "", "", &[1]).region_epoch;
        let (mut one, mut entries) = Bench::new(memory, &before);
        entries.push(one.asking(epoch));
        let later: Vec<Entry> = after.iter().map(|operation| one.entry(wire::Command {
            region_id: 1,
            operations: vec![operation.clone()],
            request_operations: vec![1],
            ..Default::default()
        })).collect();
        // All at once here, in pieces there.
        let asked = one.run(entries.iter().cloned().chain(later).collect());
        prop_assert_eq!(asked.len(), 1);
        let first = one.read(asked[0].clone(), u64::MAX);
        prop_assert_eq!(first, one.read(asked[0].clone(), bytes_max));

        let (mut other, _) = Bench::new(MemoryOptions::default(), &before);
        other.next += 1;
        let mut found = Vec::new();
        let mut rest = &entries[..];
        for cut in cuts.iter().cycle() {
            let (now, then) = rest.split_at((*cut).min(rest.len()));
            found.extend(other.run(now.to_vec()));
            rest = then;
            if rest.is_empty() {
                break;
            }
        }
        prop_assert_eq!(found.len(), 1);
        prop_assert_eq!(first, other.read(found[0].clone(), bytes_max));

        let content = |bench: &Bench| {
            let view = bench.engine.view();
            let scan = store::read::Scan {
                start: b"", end: b"", direction: engine::Direction::Forward,
                limit: usize::MAX, bytes_max: usize::MAX, key_only: false, now: 0,
            };
            store::read::scan(&view, &scan).expect("a good scan").pairs
        };
        let last = one.ask(epoch);
        let last = one.read(last, bytes_max);
        prop_assert_eq!(last == first, content(&one) == content(&other));
    }
}
