//! Writing and reading, grouping, refusals.

use bytes::Bytes;
use proto::metapb;
use proto::pontoon::v1 as wire;
use raft::PeerId;
use store::codec::Beat;
use store::event::{
    Event, Keys, OperationResult, OrderKind, Proposal, ReadRequest, Refusal, RequestId, Target,
};

use crate::harness::*;

fn three() -> Cluster {
    Cluster::new(
        3,
        &[
            region(1, "", "m", &[1, 2, 3]),
            region(2, "m", "", &[1, 2, 3]),
        ],
    )
}

#[test]
fn write_then_read() {
    let mut cluster = three();
    cluster.put(r(1), "a", "1");
    cluster.put(r(2), "z", "2");
    assert_eq!(cluster.get(r(1), "a").as_deref(), Some("1"));
    assert_eq!(cluster.get(r(2), "z").as_deref(), Some("2"));
    assert_eq!(cluster.get(r(2), "y"), None);
    cluster.assert_same_data(&[1, 2, 3]);
}

#[test]
fn proposals_of_a_turn_share_an_entry_and_keep_their_results() {
    let mut cluster = three();
    cluster.put(r(1), "a", "0");
    let leader = cluster.elect(r(1));
    let before = cluster
        .store(leader.0)
        .raft(r(1))
        .expect("it leads")
        .last()
        .index;
    let keys = || Keys::Points(vec![Bytes::from_static(b"a")]);
    let target = |keys| Target {
        region: r(1),
        peer: None,
        epoch: None,
        keys,
    };
    for (id, operations) in [
        (1000, vec![swap("a", Some("0"), "1"), put("b", "x")]),
        (1002, vec![swap("a", Some("0"), "2")]),
        (1004, vec![swap("a", Some("1"), "3")]),
    ] {
        let proposal = Proposal {
            id: RequestId(id),
            target: target(keys()),
            operations,
        };
        cluster.step_only(leader, Event::Propose(proposal));
    }
    cluster.take(leader);
    assert_eq!(
        cluster
            .store(leader.0)
            .raft(r(1))
            .expect("it leads")
            .last()
            .index,
        before + 1
    );
    cluster.until("all are answered", |cluster| {
        cluster.answers.contains_key(&RequestId(1004))
    });
    let swapped = |succeeded, previous: &'static str| OperationResult::Swapped {
        succeeded,
        previous: Some(Bytes::from_static(previous.as_bytes())),
    };
    assert_eq!(
        cluster.answers[&RequestId(1000)],
        Ok(vec![swapped(true, "0"), OperationResult::Done])
    );
    assert_eq!(
        cluster.answers[&RequestId(1002)],
        Ok(vec![swapped(false, "1")])
    );
    assert_eq!(
        cluster.answers[&RequestId(1004)],
        Ok(vec![swapped(true, "1")])
    );
    cluster.assert_same_data(&[1, 2, 3]);
}

#[test]
fn followers_and_strangers_refuse() {
    let mut cluster = three();
    let leader = cluster.elect(r(1));
    let follower = [s(1), s(2), s(3)]
        .into_iter()
        .find(|store| *store != leader)
        .expect("there are three");
    let request = cluster.propose_at(follower, r(1), vec![put("a", "1")]);
    let Err(Refusal::NotLeader {
        leader: Some(told), ..
    }) = &cluster.answers[&request]
    else {
        panic!("not refused")
    };
    assert_eq!(told.store_id, leader.0);
    let request = cluster.propose_at(leader, r(9), vec![put("a", "1")]);
    assert_eq!(
        cluster.answers[&request],
        Err(Refusal::RegionNotFound(r(9)))
    );
    let request = cluster.propose_at(leader, r(1), vec![put("z", "1")]);
    assert!(matches!(
        cluster.answers[&request],
        Err(Refusal::KeyNotInRegion { .. })
    ));
    let newer = Some(metapb::RegionEpoch {
        conf_ver: 1,
        version: 5,
    });
    let request = cluster.propose_as(leader, r(1), newer, vec![put("a", "1")]);
    let Err(Refusal::EpochNotMatch { current }) = &cluster.answers[&request] else {
        panic!("not refused")
    };
    assert_eq!(current[0].id, 1);
    let request = cluster.read_at(follower, r(1), "a");
    assert!(matches!(
        cluster.reads[&request],
        Err(Refusal::NotLeader { .. })
    ));
}

#[test]
fn too_much_at_once_is_busy_and_too_large_is_refused() {
    let mut options = options();
    options.entry_bytes_max = 1000;
    options.region_pending_bytes_max = 2000;
    let mut cluster = Cluster::with(
        3,
        &[region(1, "", "", &[1, 2, 3])],
        options,
        Default::default(),
    );
    let leader = cluster.elect(r(1));
    let large = "x".repeat(2000);
    let request = cluster.propose_at(leader, r(1), vec![put("a", &large)]);
    assert!(matches!(
        cluster.answers[&request],
        Err(Refusal::TooLarge { .. })
    ));
    let half = "x".repeat(800);
    cluster.hold_log.insert(leader);
    let first = cluster.propose_at(leader, r(1), vec![put("a", &half)]);
    let second = cluster.propose_at(leader, r(1), vec![put("b", &half)]);
    let third = cluster.propose_at(leader, r(1), vec![put("c", &half)]);
    assert!(matches!(cluster.answers[&third], Err(Refusal::Busy { .. })));
    cluster.hold_log.clear();
    cluster.until("the others are done", |cluster| {
        cluster.answers.contains_key(&second)
    });
    assert!(cluster.answers[&first].is_ok() && cluster.answers[&second].is_ok());
    cluster.put(r(1), "c", &half);
}

#[test]
fn reads_wait_for_the_quorum_and_for_applying() {
    let mut cluster = three();
    cluster.put(r(1), "a", "1");
    let leader = cluster.elect(r(1));
    cluster.hold_apply.insert(leader);
    let write = cluster.propose_at(leader, r(1), vec![put("a", "2")]);
    cluster.settle();
    let read = cluster.read_at(leader, r(1), "a");
    cluster.settle();
    assert!(
        !cluster.reads.contains_key(&read),
        "the commit index is not applied yet"
    );
    cluster.hold_apply.clear();
    cluster.settle();
    assert_eq!(cluster.reads[&read], Ok(leader));
    assert!(cluster.answers[&write].is_ok());
    cluster.isolate(leader);
    let read = cluster.read_at(leader, r(1), "a");
    cluster.ticks(60);
    assert!(
        matches!(cluster.reads[&read], Err(Refusal::NotLeader { .. })),
        "a minority confirms nothing"
    );
}

#[test]
fn a_deposed_leaders_entry_is_stale() {
    let mut cluster = three();
    cluster.put(r(1), "a", "1");
    let old = cluster.elect(r(1));
    cluster.isolate(old);
    let lost = cluster.propose_at(old, r(1), vec![put("a", "lost")]);
    cluster.until("another leads", |cluster| {
        cluster.leader(r(1)).is_some_and(|leader| leader != old)
    });
    let new = cluster.leader(r(1)).expect("it was just there");
    cluster.until("it can serve", |cluster| {
        cluster
            .store(new.0)
            .raft(r(1))
            .is_some_and(|raft| raft.is_committed_in_term())
    });
    let request = cluster.propose_at(new, r(1), vec![put("a", "2")]);
    cluster.until("it serves", |cluster| {
        cluster.answers.contains_key(&request)
    });
    cluster.heal();
    cluster.until("the old leader learns", |cluster| {
        cluster.answers.contains_key(&lost)
    });
    assert_eq!(cluster.answers[&lost], Err(Refusal::StaleCommand));
    cluster.assert_same_data(&[1, 2, 3]);
}

#[test]
fn a_fate_not_learned_in_time_is_unknown() {
    let mut options = options();
    options.proposal_ticks = 20;
    let mut cluster = Cluster::with(
        3,
        &[region(1, "", "", &[1, 2, 3])],
        options,
        Default::default(),
    );
    let leader = cluster.elect(r(1));
    cluster.isolate(leader);
    let request = cluster.propose_at(leader, r(1), vec![put("a", "1")]);
    cluster.ticks(25);
    assert_eq!(cluster.answers[&request], Err(Refusal::Unknown));
}

#[test]
fn reads_of_a_turn_share_a_round() {
    let mut cluster = three();
    let leader = cluster.elect(r(1));
    for id in 0..100 {
        let target = Target {
            region: r(1),
            peer: None,
            epoch: None,
            keys: Keys::Clamped(Bytes::new()),
        };
        cluster.step_only(
            leader,
            Event::Read(ReadRequest {
                id: RequestId(2001 + 2 * id),
                target,
            }),
        );
    }
    cluster.take(leader);
    let rounds = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
    let seen = rounds.clone();
    cluster.filter(move |from, _, frame| {
        let beats = frame.heartbeats.iter().flat_map(Beat::rows);
        let beats = beats.filter(|beat| from == leader && beat.region == r(1));
        seen.borrow_mut().extend(beats.map(|beat| beat.round));
    });
    cluster.settle();
    assert_eq!(cluster.reads.len(), 100);
    assert!(cluster.reads.values().all(|read| *read == Ok(leader)));
    let rounds = rounds.borrow();
    assert!(
        rounds.len() == 2 && rounds[0] == rounds[1],
        "one heartbeat to each of the others: rounds {rounds:?}"
    );
}

#[test]
fn placement_hears_of_leaders_and_of_members_that_are_down() {
    let mut cluster = three();
    let leader = cluster.elect(r(1));
    let reports = &cluster.nodes[&leader].reports;
    assert!(
        reports
            .iter()
            .any(|report| report.region.id == 1 && report.leader.store_id == leader.0)
    );
    let down = [s(1), s(2), s(3)]
        .into_iter()
        .find(|store| *store != leader)
        .expect("there are three");
    cluster.crash(down, KILL);
    cluster.until("the member is reported down", |cluster| {
        let reports = &cluster.nodes[&leader].reports;
        reports
            .iter()
            .any(|report| report.down.iter().any(|(peer, _)| peer.store_id == down.0))
    });
}

#[test]
fn requests_wait_a_little_for_a_leader() {
    let mut cluster = three();
    cluster.put(r(1), "a", "1");
    let leader = cluster.elect(r(1));
    cluster.crash(leader, KILL);
    let alone = [s(1), s(2), s(3)]
        .into_iter()
        .find(|store| *store != leader)
        .expect("three");
    cluster.isolate(alone);
    cluster.until("nobody is known to lead", |cluster| {
        cluster.view(alone.0, r(1)).leader.is_none()
    });
    let write = cluster.propose_at(alone, r(1), vec![put("a", "2")]);
    let read = cluster.read_at(alone, r(1), "a");
    cluster.settle();
    assert!(
        !cluster.answers.contains_key(&write) && !cluster.reads.contains_key(&read),
        "both wait"
    );
    // Nobody will lead without a quorum, and the wait ends.
    cluster.ticks(options().park_ticks as usize);
    let missing: Vec<_> = [s(1), s(2), s(3)]
        .into_iter()
        .filter(|store| *store != alone)
        .collect();
    let nobody = Refusal::NoQuorum {
        region: r(1),
        missing,
    };
    assert_eq!(cluster.answers[&write], Err(nobody.clone()));
    assert_eq!(cluster.reads[&read], Err(nobody));
    // With one, requests go on when it is known who leads.
    let mut answered = None;
    cluster.heal();
    for _ in 0..100 {
        if cluster.view(alone.0, r(1)).leader.is_some() {
            break;
        }
        answered = Some(cluster.propose_at(alone, r(1), vec![put("a", "3")]));
        cluster.tick();
    }
    let answered = answered.expect("it was not known at first");
    cluster.until("it is answered", |cluster| {
        cluster.answers.contains_key(&answered)
    });
    let new = cluster.elect(r(1));
    match &cluster.answers[&answered] {
        Ok(_) => assert_eq!(new, alone),
        Err(Refusal::NotLeader {
            leader: Some(told), ..
        }) => assert_eq!(told.store_id, new.0),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_region_of_one_grows_to_three() {
    let mut cluster = Cluster::new(3, &[region(1, "", "", &[1])]);
    cluster.put(r(1), "a", "1");
    assert_eq!(cluster.get(r(1), "a").as_deref(), Some("1"));
    for (peer, store) in [(12, 2), (13, 3)] {
        cluster.add_learner(r(1), peer, store);
        let promote = OrderKind::EnterJoint {
            promote: vec![PeerId(peer)],
            demote: vec![],
        };
        cluster.order(r(1), promote).expect("it has caught up");
        cluster.until("the joint configuration is left", |cluster| {
            let view = cluster.view(1, r(1));
            let mut voters = view
                .region
                .peers
                .iter()
                .filter(|member| member.role() == metapb::PeerRole::Voter);
            voters.any(|member| member.id == peer)
        });
        cluster.elect(r(1));
    }
    cluster.put(r(1), "b", "2");
    cluster.crash(s(1), POWER);
    cluster.put(r(1), "c", "3");
    assert_eq!(cluster.get(r(1), "a").as_deref(), Some("1"));
    cluster.restart(s(1));
    cluster.assert_same_data(&[1, 2, 3]);
}

#[test]
fn a_range_command_needs_the_version_it_was_proposed_at() {
    let mut cluster = three();
    for key in ["a", "b", "c", "d"] {
        cluster.put(r(1), key, "1");
    }
    let leader = cluster.elect(r(1));
    let range = |start: &'static str, end: &'static str| wire::Operation {
        kind: Some(wire::operation::Kind::DeleteRange(wire::DeleteRange {
            start_key: start.into(),
            end_key: end.into(),
        })),
    };
    let propose = |cluster: &mut Cluster, id, operation: wire::Operation, keys| {
        let epoch = cluster.view(leader.0, r(1)).region.region_epoch;
        let target = Target {
            region: r(1),
            peer: None,
            epoch,
            keys,
        };
        cluster.step(
            leader,
            Event::Propose(Proposal {
                id: RequestId(id),
                target,
                operations: vec![operation],
            }),
        );
    };
    propose(
        &mut cluster,
        1000,
        range("b", "d"),
        Keys::Range("b".into(), "d".into()),
    );
    cluster.settle();
    assert_eq!(
        cluster.answers[&RequestId(1000)],
        Ok(vec![OperationResult::Done])
    );
    assert_eq!(cluster.get(r(1), "c"), None);
    assert_eq!(cluster.get(r(1), "d").as_deref(), Some("1"));
    // Behind a split in the log it has no effect, even on keys that stayed.
    cluster.hold_apply.insert(leader);
    cluster
        .order(r(1), OrderKind::Split(vec!["f".into()]))
        .expect("the split is proposed");
    propose(
        &mut cluster,
        1002,
        range("a", "b"),
        Keys::Range("a".into(), "b".into()),
    );
    cluster.hold_apply.clear();
    cluster.settle();
    assert!(matches!(
        cluster.answers[&RequestId(1002)],
        Err(Refusal::EpochNotMatch { .. })
    ));
    assert_eq!(cluster.get(r(1), "a").as_deref(), Some("1"));
    cluster.assert_same_data(&[1, 2, 3]);
}
