//! Followers that pledge to leaders whose stores are supported (LIVENESS §4), as the store keeps and tells it.

use std::cell::RefCell;
use std::rc::Rc;

use engine::{CrashMode, MemoryOptions};
use proto::pontoon::v1 as wire;
use raft::{PeerId, Raft, SupportId};
use store::Options;
use store::event::{Event, OrderKind};
use store::liveness::Change;

use crate::harness::*;

fn id(number: u64) -> SupportId {
    SupportId::new(number).expect("not 0")
}

/// Three stores with one region, led by the first.
fn cluster(pledges: bool) -> Cluster {
    let options = Options {
        pledges,
        ..options()
    };
    let mut cluster = Cluster::with(
        4,
        &[region(1, "", "", &[1, 2, 3])],
        options,
        MemoryOptions::default(),
    );
    cluster.elect_at(r(1), 1);
    cluster
}

/// `giver` supports `to` from now on, and both know.
fn support(cluster: &mut Cluster, giver: u64, to: u64, number: u64) {
    cluster.step(s(giver), Event::Support(Change::Given(s(to), id(number))));
    cluster.step(
        s(to),
        Event::Support(Change::Held(s(giver), Some(id(number)))),
    );
}

/// Support of `to` by `giver` ends; only `giver` knows.
fn end(cluster: &mut Cluster, giver: u64, to: u64, number: u64) {
    cluster.step(s(giver), Event::Support(Change::Ended(s(to), id(number))));
}

fn raft(cluster: &Cluster, store: u64) -> &Raft {
    cluster.store(store).raft(r(1)).expect("a peer is here")
}

/// Under which id the peer of a store is pledged.
fn pledge(cluster: &Cluster, store: u64) -> Option<u64> {
    raft(cluster, store)
        .pledge()
        .map(|pledge| pledge.support.get())
}

/// What the leader on `store` has recorded of `peer`.
fn record(cluster: &Cluster, store: u64, peer: u64) -> Option<u64> {
    let statuses = raft(cluster, store).member_statuses();
    statuses[&PeerId(peer)].record.map(SupportId::get)
}

#[test]
fn followers_pledge_and_leaders_record_it() {
    let mut cluster = cluster(true);
    support(&mut cluster, 2, 1, 201);
    support(&mut cluster, 3, 1, 301);
    // P2: the leader asks by a heartbeat at once, not only when one is due.
    cluster.settle();
    assert_eq!(
        (pledge(&cluster, 2), pledge(&cluster, 3)),
        (Some(201), Some(301))
    );
    assert_eq!(record(&cluster, 1, 12), Some(201));
    assert_eq!(record(&cluster, 1, 13), Some(301));
}

#[test]
fn nobody_pledges_while_it_is_switched_off() {
    let mut cluster = cluster(false);
    let seen = Rc::new(RefCell::new(0));
    let count = Rc::clone(&seen);
    cluster.filter(move |_, _, frame| {
        if let Some(beats) = &frame.heartbeat_responses {
            assert!(beats.pledges.is_empty());
            *count.borrow_mut() += 1;
        }
    });
    support(&mut cluster, 2, 1, 201);
    cluster.ticks(10);
    cluster.put(r(1), "a", "1");
    assert_eq!(pledge(&cluster, 2), None);
    assert_eq!(record(&cluster, 1, 12), None);
    assert!(*seen.borrow() > 0);
}

/// P3, P5: who is pledged elects nobody, however long its leader is silent, and does as soon as the support ends.
#[test]
fn a_pledge_stands_as_long_as_the_support() {
    let mut cluster = cluster(true);
    support(&mut cluster, 2, 1, 201);
    cluster.settle();
    let term = raft(&cluster, 2).term();
    cluster.isolate(s(1));
    cluster.ticks(100);
    assert_eq!(pledge(&cluster, 2), Some(201));
    assert_eq!(raft(&cluster, 2).term(), term, "store 3 asked in vain");
    end(&mut cluster, 2, 1, 201);
    assert_eq!(pledge(&cluster, 2), None);
    cluster.until("another leads", |cluster| {
        [2, 3]
            .iter()
            .any(|store| raft(cluster, *store).role() == raft::Role::Leader)
    });
}

/// P2: a record under an id that is not held any more is worth nothing, and the new one is asked for.
#[test]
fn a_new_id_takes_the_place_of_an_old_one() {
    let mut cluster = cluster(true);
    support(&mut cluster, 2, 1, 201);
    cluster.settle();
    end(&mut cluster, 2, 1, 201);
    support(&mut cluster, 2, 1, 202);
    cluster.settle();
    assert_eq!(pledge(&cluster, 2), Some(202));
    assert_eq!(record(&cluster, 1, 12), Some(202));
}

/// What is held when a peer begins to lead, and when a member is added, is told to it.
#[test]
fn leaders_hear_of_the_support_of_all_members() {
    let mut cluster = cluster(true);
    for (giver, to) in [(2, 1), (3, 1), (1, 2), (3, 2), (4, 2)] {
        support(&mut cluster, giver, to, 100 * giver + to);
    }
    cluster
        .order(r(1), OrderKind::TransferLeader(PeerId(12)))
        .expect("it starts");
    cluster.until("it moved", |cluster| cluster.leader(r(1)) == Some(s(2)));
    cluster.settle();
    assert_eq!(pledge(&cluster, 1), Some(102));
    assert_eq!(pledge(&cluster, 3), Some(302));
    assert_eq!(record(&cluster, 2, 13), Some(302));
    cluster.add_learner(r(1), 14, 4);
    cluster.until("it caught up", |cluster| cluster.caught_up(r(1), 14));
    cluster.ticks(3);
    assert_eq!(pledge(&cluster, 4), Some(402), "P1: a learner pledges, too");
    let reasons = raft(&cluster, 2).reasons();
    assert_eq!(
        reasons,
        raft::Reasons::default(),
        "Q1: every member is settled"
    );
}

/// P9: the leader stepped down, nobody was told, and its peer is silent.
#[test]
fn who_hears_nothing_of_its_leader_asks_whether_it_still_leads() {
    let mut cluster = cluster(true);
    support(&mut cluster, 2, 1, 201);
    support(&mut cluster, 3, 1, 301);
    cluster.settle();
    // All that the leader says in Raft is lost; beats are not.
    let silent = |_, _, frame: &mut wire::Frame| {
        frame.messages.clear();
        frame.heartbeats = None;
        frame.heartbeat_responses = None;
    };
    cluster.filter(silent);
    cluster.ticks(100);
    assert_eq!(
        pledge(&cluster, 2),
        Some(201),
        "it still leads, so they stand"
    );
    cluster.clear_filter();
    cluster.crash(s(1), CrashMode::Kill);
    cluster.restart(s(1));
    cluster.filter(silent);
    cluster.ticks(60);
    assert_eq!((pledge(&cluster, 2), pledge(&cluster, 3)), (None, None));
    cluster.clear_filter();
    cluster.elect(r(1));
    cluster.put(r(1), "a", "1");
}

/// Of a peer that is not there any more its store says so, too.
#[test]
fn a_store_speaks_for_its_peers_that_are_gone() {
    let mut cluster = cluster(true);
    let asked = |region: u64, leader: u64, term: u64| wire::PledgeHeld {
        region_id: region,
        follower: 12,
        leader,
        term,
    };
    let term = raft(&cluster, 1).term();
    let answers = Rc::new(RefCell::new(Vec::new()));
    let heard = Rc::clone(&answers);
    cluster.filter(move |from, _, frame| {
        if from == s(1) {
            heard.borrow_mut().append(&mut frame.pledges_void);
        }
    });
    let gone = [asked(9, 91, 5), asked(1, 10, 5), asked(1, 11, term - 1)];
    let may = [asked(1, 11, term), asked(1, 11, term + 1), asked(1, 19, 5)];
    let frame = wire::Frame {
        pledges_held: gone.iter().chain(&may).copied().collect(),
        ..Default::default()
    };
    cluster.step(s(1), Event::Frame { from: s(2), frame });
    cluster.settle();
    assert_eq!(*answers.borrow(), gone);
}

/// Only the leader's store may say so.
#[test]
fn others_do_not_release() {
    let mut cluster = cluster(true);
    support(&mut cluster, 2, 1, 201);
    cluster.settle();
    let void = wire::PledgeHeld {
        region_id: 1,
        follower: 12,
        leader: 11,
        term: raft(&cluster, 2).term(),
    };
    let say = |from: u64, void: wire::PledgeHeld| Event::Frame {
        from: s(from),
        frame: wire::Frame {
            pledges_void: vec![void],
            ..Default::default()
        },
    };
    cluster.step(s(2), say(3, void));
    let older = wire::PledgeHeld {
        term: void.term - 1,
        ..void
    };
    cluster.step(s(2), say(1, older));
    assert_eq!(pledge(&cluster, 2), Some(201));
    cluster.step(s(2), say(1, void));
    assert_eq!(pledge(&cluster, 2), None);
}

/// A peer without data pledges, and goes on being pledged when a split fills it: the leader relies on it.
#[test]
fn a_split_keeps_the_pledge_of_the_peer_that_it_fills() {
    let mut cluster = cluster(true);
    support(&mut cluster, 3, 2, 302);
    // Store 3 applies nothing, so the child's leader speaks to a peer that the split has not filled.
    cluster.elect_at(r(1), 2);
    cluster.hold_apply.insert(s(3));
    let child = cluster.split(r(1), &["m"])[0];
    let held = |cluster: &Cluster| {
        let peer = cluster.store(3).raft(child)?;
        peer.pledge().map(|pledge| (pledge.term, pledge.support))
    };
    if cluster.leader(child) != Some(s(2)) {
        cluster.elect_at(child, 2);
    }
    cluster.until("it is pledged", |cluster| held(cluster).is_some());
    assert!(!cluster.owns(3, child), "it has no data");
    let before = held(&cluster);
    cluster.isolate(s(2));
    cluster.hold_apply.clear();
    cluster.until("it has data", |cluster| cluster.owns(3, child));
    assert_eq!(held(&cluster), before);
}

#[test]
fn the_stores_that_share_regions_are_told() {
    let mut cluster = cluster(true);
    let stores = |all: &[u64]| Some(all.iter().map(|store| s(*store)).collect());
    assert_eq!(cluster.nodes[&s(1)].shared, stores(&[1, 2, 3]));
    assert_eq!(cluster.nodes[&s(4)].shared, None);
    cluster.add_learner(r(1), 14, 4);
    cluster.until("it caught up", |cluster| cluster.caught_up(r(1), 14));
    for store in 1..=4 {
        assert_eq!(cluster.nodes[&s(store)].shared, stores(&[1, 2, 3, 4]));
    }
    cluster.remove_learner(r(1), 14);
    cluster.until("it is gone", |cluster| !cluster.has_view(4, r(1)));
    cluster.settle();
    assert_eq!(cluster.nodes[&s(1)].shared, stores(&[1, 2, 3]));
    assert_eq!(cluster.nodes[&s(4)].shared, stores(&[]));
}
