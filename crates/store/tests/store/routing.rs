//! What a peer answers that does not serve, and what placement is told at once: REGIONS §8, row by row.

use bytes::Bytes;
use proto::metapb;
use proto::pontoon::v1 as wire;
use raft::PeerId;
use store::Options;
use store::event::{
    Event, Keys, OrderKind, OrderRefusal, Proposal, ReadRequest, Refusal, RequestId, StepId, Target,
};

use crate::harness::*;

fn one() -> Cluster {
    let mut cluster = Cluster::new(3, &[region(1, "", "", &[1, 2, 3])]);
    cluster.put(r(1), "b", "2");
    cluster.put(r(1), "t", "4");
    cluster.elect_at(r(1), 1);
    cluster
}

fn epoch(cluster: &Cluster, id: u64) -> Option<metapb::RegionEpoch> {
    cluster.view(1, r(id)).region.region_epoch
}

fn delete_range(start: &'static str, end: &'static str) -> wire::Operation {
    wire::Operation {
        kind: Some(wire::operation::Kind::DeleteRange(wire::DeleteRange {
            start_key: start.into(),
            end_key: end.into(),
        })),
    }
}

/// Proposes a range command at store 1.
fn propose_range(
    cluster: &mut Cluster,
    id: u64,
    epoch: Option<metapb::RegionEpoch>,
    (start, end): (&'static str, &'static str),
) -> RequestId {
    let id = RequestId(id);
    let target = Target {
        region: r(1),
        peer: None,
        epoch,
        keys: Keys::Range(start.into(), end.into()),
    };
    let operations = vec![delete_range(start, end)];
    let proposal = Proposal {
        id,
        target,
        operations,
    };
    cluster.step(s(1), Event::Propose(proposal));
    id
}

/// The ids of the regions that an answer names.
fn told(refusal: &Refusal) -> Vec<u64> {
    match refusal {
        Refusal::EpochNotMatch { current } => current.iter().map(|region| region.id).collect(),
        other => panic!("told {other:?}"),
    }
}

fn told_at(cluster: &Cluster, request: RequestId) -> Vec<u64> {
    told(cluster.answers[&request].as_ref().expect_err("a refusal"))
}

fn learner(id: u64, store_id: u64) -> metapb::Peer {
    metapb::Peer {
        id,
        store_id,
        role: metapb::PeerRole::Learner as i32,
        is_witness: false,
    }
}

#[test]
fn a_leader_serves_points_at_an_older_version() {
    let mut cluster = one();
    let before = epoch(&cluster, 1);
    cluster.split(r(1), &["k"]);
    assert_ne!(epoch(&cluster, 1), before);
    let kept = cluster.propose_as(s(1), r(1), before, vec![put("b", "3")]);
    cluster.settle();
    assert!(cluster.answers[&kept].is_ok());
}

#[test]
fn moved_keys_are_answered_with_every_region_that_covers_them() {
    let mut cluster = one();
    let before = epoch(&cluster, 1);
    let children = cluster.split(r(1), &["k", "s"]);
    let all = vec![1, children[0].0, children[1].0];
    // A point, several points, a range, and a scan that begins in the region; each at the older version.
    let point = cluster.propose_as(s(1), r(1), before, vec![put("t", "5")]);
    assert_eq!(told_at(&cluster, point), [1, all[2]]);
    let points = vec![put("b", "5"), put("m", "5"), put("t", "5")];
    let points = cluster.propose_as(s(1), r(1), before, points);
    assert_eq!(told_at(&cluster, points), all);
    let range = propose_range(&mut cluster, 1000, before, ("a", "u"));
    assert_eq!(told_at(&cluster, range), all);
    // A range inside of what is left: the client takes the end of its region for another one.
    let inside = propose_range(&mut cluster, 1002, before, ("a", "b"));
    assert_eq!(told_at(&cluster, inside), [1]);
    let target = Target {
        region: r(1),
        peer: None,
        epoch: before,
        keys: Keys::Clamped("a".into()),
    };
    let id = RequestId(1001);
    cluster.step(s(1), Event::Read(ReadRequest { id, target }));
    let refusal = cluster.reads[&id].as_ref().expect_err("a refusal");
    assert_eq!(told(refusal), all[..2]);
    assert_eq!(cluster.get(r(1), "b").as_deref(), Some("2"));
}

/// What is found only at apply is answered like what is found at once.
#[test]
fn a_write_refused_at_apply_names_every_region_that_covers_it() {
    let mut cluster = one();
    let before = epoch(&cluster, 1);
    cluster.hold_apply.insert(s(1));
    cluster
        .order(r(1), OrderKind::Split(vec!["k".into(), "s".into()]))
        .expect("the split is proposed");
    let point = cluster.propose_as(s(1), r(1), before, vec![put("t", "5")]);
    let points = vec![put("b", "5"), put("m", "5"), put("t", "5")];
    let points = cluster.propose_as(s(1), r(1), before, points);
    let range = propose_range(&mut cluster, 1000, before, ("a", "u"));
    cluster.settle();
    assert!(!cluster.answers.contains_key(&point), "all are in the log");
    cluster.hold_apply.clear();
    cluster.settle();
    let pieces = &cluster.nodes[&s(1)].splits[0];
    let all: Vec<u64> = pieces.iter().map(|region| region.id).collect();
    assert_eq!(all.len(), 3);
    assert_eq!(told_at(&cluster, point), [1, all[2]]);
    assert_eq!(told_at(&cluster, points), all);
    assert_eq!(told_at(&cluster, range), all);
    assert_eq!(cluster.local_get(1, "b").as_deref(), Some("2"));
    assert_eq!(cluster.local_get(1, "t").as_deref(), Some("4"));
}

#[test]
fn a_request_from_the_future_is_answered_with_our_descriptor() {
    let mut cluster = one();
    let newer = Some(metapb::RegionEpoch {
        conf_ver: 1,
        version: 5,
    });
    let request = cluster.propose_as(s(1), r(1), newer, vec![put("b", "5")]);
    let Err(Refusal::EpochNotMatch { current }) = &cluster.answers[&request] else {
        panic!("told {:?}", cluster.answers[&request]);
    };
    assert_eq!(current[..], [cluster.view(1, r(1)).region.clone()]);
}

#[test]
fn a_follower_names_the_leader_and_waits_for_one_no_longer_than_clients_bear() {
    let mut cluster = one();
    let write = cluster.propose_at(s(2), r(1), vec![put("b", "3")]);
    let read = cluster.read_at(s(2), r(1), "b");
    let leader = cluster.view(1, r(1)).region.peers[0];
    let named = Refusal::NotLeader {
        region: r(1),
        leader: Some(leader),
    };
    assert_eq!(cluster.answers[&write], Err(named.clone()));
    assert_eq!(cluster.reads[&read], Err(named));
    let defaults = Options::default();
    assert!(defaults.park_ticks * defaults.tick_ms <= 300);
}

#[test]
fn without_a_quorum_the_missing_stores_are_named() {
    let mut cluster = one();
    cluster.crash(s(2), KILL);
    cluster.crash(s(3), KILL);
    cluster.until("the leader gives up", |cluster| {
        cluster.view(1, r(1)).leader.is_none()
    });
    cluster.ticks(2 * cluster.options.raft.election_ticks as usize);
    let write = cluster.propose_at(s(1), r(1), vec![put("b", "3")]);
    let read = cluster.read_at(s(1), r(1), "b");
    assert!(
        !cluster.answers.contains_key(&write),
        "it waits for a leader"
    );
    cluster.ticks(cluster.options.park_ticks as usize);
    let nobody = Refusal::NoQuorum {
        region: r(1),
        missing: vec![s(2), s(3)],
    };
    assert_eq!(cluster.answers[&write], Err(nobody.clone()));
    assert_eq!(cluster.reads[&read], Err(nobody.clone()));
    assert_eq!(
        nobody.to_string(),
        "region 1 has no leader: nothing is heard of store 2, store 3"
    );
    // With one of them back there is a quorum, whoever else is missing.
    cluster.restart(s(2));
    cluster.put(r(1), "b", "3");
}

/// One missing store of three is no reason to have no leader.
#[test]
fn a_minority_that_is_missing_is_not_named() {
    let mut cluster = one();
    cluster.crash(s(3), KILL);
    cluster.ticks(2 * cluster.options.raft.election_ticks as usize);
    // Store 2 is there and heard, but what it says helps nobody to lead.
    cluster.filter(|_, _, frame| *frame = wire::Frame::default());
    cluster.until("the leader gives up", |cluster| {
        cluster.view(1, r(1)).leader.is_none()
    });
    let write = cluster.propose_at(s(1), r(1), vec![put("b", "3")]);
    cluster.ticks(cluster.options.park_ticks as usize);
    let nobody = Refusal::NotLeader {
        region: r(1),
        leader: None,
    };
    assert_eq!(cluster.answers[&write], Err(nobody));
}

#[test]
fn a_peer_without_data_names_who_wrote_to_it() {
    let mut cluster = Cluster::new(4, &[region(1, "", "", &[1, 2, 3])]);
    cluster.put(r(1), "b", "2");
    cluster.elect_at(r(1), 1);
    let absent = cluster.propose_at(s(4), r(1), vec![put("b", "3")]);
    assert_eq!(cluster.answers[&absent], Err(Refusal::RegionNotFound(r(1))));
    // Uninitialized, and later in the middle of an install.
    cluster.hold_tasks.insert(s(4));
    cluster.filter(|_, to, frame| {
        if to == s(4) {
            frame.offers.clear();
        }
    });
    cluster
        .order(r(1), OrderKind::AddLearner(learner(14, 4)))
        .expect("it is added");
    cluster.until("it is uninitialized", |cluster| cluster.has_view(4, r(1)));
    assert!(!cluster.owns(4, r(1)));
    let names_the_leader = |cluster: &mut Cluster| {
        let write = cluster.propose_at(s(4), r(1), vec![put("b", "3")]);
        let Err(Refusal::NotLeader { leader, .. }) = &cluster.answers[&write] else {
            panic!("told {:?}", cluster.answers[&write]);
        };
        assert_eq!(leader.expect("it wrote").store_id, 1);
    };
    names_the_leader(&mut cluster);
    cluster.clear_filter();
    cluster.until("the install waits as a task", |cluster| {
        let mut tasks = cluster.nodes[&s(4)].tasks.iter();
        tasks.any(|task| matches!(task, store::event::Task::InstallSnapshot { .. }))
    });
    names_the_leader(&mut cluster);
}

#[test]
fn a_peer_that_is_gone_is_not_found() {
    let mut cluster = Cluster::new(4, &[region(1, "", "", &[1, 2, 3])]);
    cluster.put(r(1), "b", "2");
    cluster.elect_at(r(1), 1);
    cluster.add_learner(r(1), 14, 4);
    cluster.remove_learner(r(1), 14);
    cluster.until("it is dead", |cluster| !cluster.has_view(4, r(1)));
    let write = cluster.propose_at(s(4), r(1), vec![put("b", "3")]);
    assert_eq!(cluster.answers[&write], Err(Refusal::RegionNotFound(r(1))));
    // So it is once its remains are gone, and for another store that has a neighbour.
    cluster.until("its remains are gone", |cluster| {
        cluster.store(4).peer_count() == 0
    });
    let write = cluster.propose_at(s(4), r(1), vec![put("b", "3")]);
    assert_eq!(cluster.answers[&write], Err(Refusal::RegionNotFound(r(1))));
}

/// A source `["", m)`, region 1, and a target `[m, "")`, region 2, both led by store 1. The log of one stands still.
fn freezing(still: u64) -> Cluster {
    let regions = [
        region(1, "", "m", &[1, 2, 3]),
        region(2, "m", "", &[1, 2, 3]),
    ];
    let mut cluster = Cluster::new(3, &regions);
    for id in [1, 2] {
        cluster.elect_at(r(id), 1);
        cluster.put(r(id), if id == 1 { "b" } else { "t" }, "1");
    }
    cluster.filter(move |_, _, frame| {
        frame.messages.retain(|message| {
            let append = matches!(message.body, Some(wire::raft_message::Body::Append(_)));
            !(append && message.region_id == still)
        });
    });
    cluster
}

fn merge(cluster: &mut Cluster) {
    cluster
        .order(r(1), OrderKind::Merge { target: r(2) })
        .expect("nothing is in the way");
}

fn is_frozen(cluster: &Cluster) -> bool {
    (1..=3).all(|store| {
        cluster.has_view(store, r(1)) && cluster.merge_state(store, r(1)).freeze.is_some()
    })
}

#[test]
fn a_frozen_region_parks_and_then_tells_by_version() {
    let mut cluster = freezing(2);
    let before = epoch(&cluster, 1);
    merge(&mut cluster);
    cluster.until("it is frozen", is_frozen);
    let older = cluster.propose_as(s(1), r(1), before, vec![put("b", "2")]);
    let present = cluster.propose_at(s(1), r(1), vec![put("b", "2")]);
    assert!(!cluster.answers.contains_key(&older), "it is parked");
    assert!(!cluster.answers.contains_key(&present), "it is parked");
    cluster.ticks(cluster.options.park_ticks as usize);
    assert_eq!(told_at(&cluster, older), [1]);
    assert_eq!(cluster.answers[&present], Err(Refusal::Merging(r(1))));
}

#[test]
fn what_a_freeze_parked_is_sent_to_the_neighbour() {
    let mut cluster = freezing(2);
    merge(&mut cluster);
    cluster.until("it is frozen", is_frozen);
    let parked = cluster.propose_at(s(1), r(1), vec![put("b", "2")]);
    let read = cluster.read_at(s(1), r(1), "b");
    assert!(!cluster.answers.contains_key(&parked), "it is parked");
    cluster.clear_filter();
    cluster.until("it is merged", |cluster| !cluster.has_view(1, r(1)));
    assert_eq!(told_at(&cluster, parked), [2]);
    let refusal = cluster.reads[&read].as_ref().expect_err("a refusal");
    assert_eq!(told(refusal), [2]);
    // And so it stays, for whoever comes later.
    let later = cluster.propose_as(s(1), r(1), None, vec![put("b", "2")]);
    assert_eq!(told_at(&cluster, later), [2]);
}

/// The target splits while the freeze is on its way, which decides against the merge.
#[test]
fn what_a_freeze_parked_is_served_after_the_thaw_and_placement_hears_of_both() {
    let mut cluster = freezing(1);
    merge(&mut cluster);
    cluster.settle();
    let parked = cluster.propose_at(s(1), r(1), vec![put("b", "2")]);
    assert!(!cluster.answers.contains_key(&parked), "it is parked");
    cluster.split(r(2), &["v"]);
    cluster.clear_filter();
    let told = |cluster: &Cluster, version: u64| {
        let mut reports = cluster.nodes[&s(1)].reports.iter();
        let of = |region: &metapb::Region| region.region_epoch.expect("an epoch").version;
        reports.any(|report| report.region.id == 1 && of(&report.region) == version)
    };
    cluster.until("it thaws", |cluster| told(cluster, 3));
    assert!(told(&cluster, 2), "the freeze was told before");
    cluster.settle();
    assert!(cluster.answers[&parked].is_ok());
}

#[test]
fn placement_hears_at_once() {
    let quiet = Options {
        report_ticks: 1_000_000,
        health_ticks: 1_000_000,
        load_report_ticks: 1_000_000,
        ..options()
    };
    let mut cluster = Cluster::with(
        4,
        &[
            region(1, "", "m", &[1, 2, 3]),
            region(2, "m", "", &[1, 2, 3]),
        ],
        quiet,
        Default::default(),
    );
    cluster.elect_at(r(1), 1);
    cluster.elect_at(r(2), 1);
    let newest = |cluster: &mut Cluster, id: u64| {
        let node = cluster.nodes.get_mut(&s(1)).expect("it is there");
        let reports = std::mem::take(&mut node.reports);
        let newest = reports.into_iter().rfind(|report| report.region.id == id);
        newest.unwrap_or_else(|| panic!("nothing is told of region {id}"))
    };
    // A new leader.
    let report = newest(&mut cluster, 1);
    assert_eq!(report.leader.store_id, 1);
    assert_eq!(report.term, cluster.view(1, r(1)).term);
    // A split: every piece, told by the split and by the report of whoever leads it.
    let child = cluster.split(r(1), &["f"])[0];
    let node = &cluster.nodes[&s(1)];
    let mut pieces: Vec<u64> = node.reports.iter().map(|report| report.region.id).collect();
    pieces.sort_unstable();
    pieces.dedup();
    assert_eq!(pieces, [1, child.0]);
    let version = |region: &metapb::Region| region.region_epoch.expect("an epoch").version;
    assert_eq!(version(&newest(&mut cluster, 1).region), 2);
    // A learner, which lags until it has everything.
    cluster.hold_tasks.insert(s(4));
    cluster
        .order(r(1), OrderKind::AddLearner(learner(14, 4)))
        .expect("it is added");
    cluster.until("the install waits as a task", |cluster| {
        !cluster.nodes[&s(4)].tasks.is_empty()
    });
    let report = newest(&mut cluster, 1);
    assert_eq!(report.region.peers.len(), 4);
    assert_eq!(report.pending[..], [learner(14, 4)]);
    cluster.hold_tasks.clear();
    cluster.until("the learner has the data", |cluster| {
        cluster.caught_up(r(1), 14)
    });
    assert_eq!(newest(&mut cluster, 1).pending, []);
}

#[test]
fn a_refused_step_is_told_with_its_name() {
    let mut cluster = one();
    let id = StepId {
        operator: 7,
        position: 2,
    };
    let demote = OrderKind::EnterJoint {
        promote: vec![],
        demote: vec![PeerId(11)],
    };
    let answer = cluster.order_step(s(1), r(1), id, demote);
    assert_eq!(answer.result, Err(OrderRefusal::LeaderWouldLeave));
    assert_eq!(answer.id, id);
    assert_eq!(answer.epoch, epoch(&cluster, 1));
    let key: Bytes = "k".into();
    let taken = cluster.order_step(s(1), r(1), id, OrderKind::Split(vec![key]));
    assert_eq!(taken.result, Ok(()));
}
