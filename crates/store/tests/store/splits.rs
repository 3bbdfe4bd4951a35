//! Splits against everything (REGIONS §4, §10 rows 1 to 13).

use bytes::Bytes;
use engine::MemoryOptions;
use proto::metapb;
use proto::pontoon::v1 as wire;
use proto::{RegionId, StoreId};
use raft::{PeerId, Role};
use store::codec::Beat;
use store::event::{OrderKind, OrderRefusal, Refusal};

use crate::harness::*;

fn one() -> Cluster {
    let mut cluster = Cluster::new(3, &[region(1, "", "", &[1, 2, 3])]);
    for (key, value) in [("a", "1"), ("g", "2"), ("m", "3"), ("t", "4")] {
        cluster.put(r(1), key, value);
    }
    cluster
}

fn key(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

/// Keeps messages and offers for peers that satisfy `matches` off the network.
fn drop_for(frame: &mut wire::Frame, matches: impl Fn(u64) -> bool) {
    frame.messages.retain(|message| !matches(message.region_id));
    frame
        .offers
        .retain(|offer| !matches(offer.region.as_ref().map_or(0, |region| region.id)));
    for beats in [&mut frame.heartbeats, &mut frame.heartbeat_responses] {
        let mut kept = wire::HeartbeatBatch::default();
        for beat in beats
            .iter()
            .flat_map(Beat::rows)
            .filter(|beat| !matches(beat.region.0))
        {
            beat.push_to(&mut kept);
        }
        *beats = (!kept.region_ids.is_empty()).then_some(kept);
    }
}

#[test]
fn split_serves_at_once_without_election() {
    let mut cluster = one();
    let leader = cluster.elect(r(1));
    let children = cluster.split(r(1), &["g", "p"]);
    assert_eq!(children.len(), 2);
    for child in &children {
        let view = cluster.view(leader.0, *child);
        assert_eq!(
            (view.role, view.term),
            (Role::Leader, 1),
            "no election, no time passed"
        );
    }
    assert_eq!(cluster.view(1, r(1)).region.end_key, key("g"));
    assert_eq!(cluster.get(children[0], "g").as_deref(), Some("2"));
    assert_eq!(cluster.get(children[0], "m").as_deref(), Some("3"));
    assert_eq!(cluster.get(children[1], "t").as_deref(), Some("4"));
    cluster.put(children[1], "z", "5");
    cluster.put(r(1), "b", "6");
    assert_eq!(
        cluster.nodes[&leader].views[&children[0]]
            .region
            .region_epoch
            .map(|epoch| epoch.version),
        Some(2)
    );
    cluster.assert_same_data(&[1, 2, 3]);
}

#[test]
fn split_straddles() {
    let mut cluster = one();
    let leader = cluster.elect(r(1));
    let before = cluster.view(leader.0, r(1)).region.region_epoch;
    // In the log behind the split, not applied: the write of a key that stays, and of one that moves.
    cluster.hold_apply.insert(leader);
    cluster
        .order(r(1), OrderKind::Split(vec![key("k")]))
        .expect("the split is proposed");
    let kept = cluster.propose_as(leader, r(1), before, vec![put("b", "kept")]);
    let moved = cluster.propose_as(leader, r(1), before, vec![put("t", "moved")]);
    let both = cluster.propose_as(
        leader,
        r(1),
        before,
        vec![put("c", "both"), put("u", "both")],
    );
    let read = cluster.read_at(leader, r(1), "t");
    cluster.settle();
    cluster.hold_apply.clear();
    cluster.settle();
    assert!(cluster.answers[&kept].is_ok());
    assert!(
        matches!(&cluster.answers[&moved], Err(Refusal::EpochNotMatch { current }) if !current.is_empty())
    );
    assert!(
        matches!(&cluster.answers[&both], Err(Refusal::EpochNotMatch { .. })),
        "all or nothing"
    );
    assert_eq!(cluster.local_get(leader.0, "b").as_deref(), Some("kept"));
    assert_eq!(cluster.local_get(leader.0, "t").as_deref(), Some("4"));
    assert_eq!(cluster.local_get(leader.0, "c"), None);
    // The read is handed out, and the view that the driver checks again does not hold the key any more.
    assert!(cluster.reads.contains_key(&read));
    assert_eq!(cluster.view(leader.0, r(1)).region.end_key, key("k"));
    // An older version is good enough for a key that stayed, and is refused with both regions for one that moved.
    let kept = cluster.propose_as(leader, r(1), before, vec![put("b", "again")]);
    let moved = cluster.propose_as(leader, r(1), before, vec![put("t", "moved")]);
    let Err(Refusal::EpochNotMatch { current }) = &cluster.answers[&moved] else {
        panic!("not refused")
    };
    assert_eq!(
        current.len(),
        2,
        "this region and the one that covers the key"
    );
    cluster.settle();
    assert!(cluster.answers[&kept].is_ok());
    cluster.assert_same_data(&[1, 2, 3]);
}

#[test]
fn split_old_leader_reads() {
    // The parent's leader is slow to apply the split; another store already serves the child. A read at the slow one
    // waits for its commit index, which includes the split, whether it was asked before the child served or after.
    let mut cluster = one();
    let leader = cluster.elect(r(1));
    let epoch = cluster.view(leader.0, r(1)).region.region_epoch;
    cluster.hold_apply.insert(leader);
    cluster
        .order(r(1), OrderKind::Split(vec![key("k")]))
        .expect("the split is proposed");
    cluster.settle();
    let early = cluster.read_at(leader, r(1), "t");
    let child = |cluster: &Cluster| {
        let others = cluster.nodes.iter().filter(|(store, _)| **store != leader);
        let mut regions = others.flat_map(|(_, node)| node.views.keys());
        regions.find(|region| **region != r(1)).copied()
    };
    let child = child(&cluster).expect("the others have applied the split");
    cluster.put(child, "t", "new");
    assert_ne!(cluster.leader(child), Some(leader));
    assert_eq!(cluster.leader(r(1)), Some(leader));
    let view = cluster.view(leader.0, r(1));
    assert_eq!((view.region.region_epoch, view.owns_range), (epoch, true));
    let late = cluster.read_at(leader, r(1), "t");
    cluster.ticks(5);
    assert_eq!(cluster.local_get(leader.0, "t").as_deref(), Some("4"));
    for read in [early, late] {
        assert!(
            !cluster.reads.contains_key(&read),
            "the split is committed and not applied here"
        );
    }
    cluster.hold_apply.clear();
    cluster.apply(leader);
    for read in [early, late] {
        assert!(cluster.reads.contains_key(&read));
    }
    assert_eq!(
        cluster.view(leader.0, r(1)).region.end_key,
        key("k"),
        "published before the read goes, so it is not served"
    );
    cluster.assert_same_data(&[1, 2, 3]);
}

#[test]
fn split_leader_crash_unsynced() {
    let mut cluster = one();
    let leader = cluster.elect(r(1));
    cluster
        .order(r(1), OrderKind::Split(vec![key("k")]))
        .expect("the split is proposed");
    // Until the first leader's vote for itself is in its log queue, not on disk.
    while cluster.nodes[&leader].views.len() == 1 {
        if !cluster.apply(leader) && !cluster.deliver() {
            for id in [s(1), s(2), s(3)] {
                if id == leader {
                    cluster.write_log(id);
                } else {
                    cluster.work(id);
                }
            }
        }
    }
    let child = *cluster.nodes[&leader]
        .views
        .keys()
        .find(|region| **region != r(1))
        .expect("a child");
    cluster.crash(leader, POWER);
    cluster.restart(leader);
    cluster.elect(child);
    assert_eq!(cluster.get(child, "t").as_deref(), Some("4"));
    cluster.put(child, "t", "5");
    cluster.assert_same_data(&[1, 2, 3]);
}

#[test]
fn split_first_term_once() {
    let mut cluster = one();
    let leader = cluster.elect(r(1));
    let child = cluster.split(r(1), &["k"])[0];
    assert_eq!(cluster.view(leader.0, child).term, 1);
    cluster.crash(leader, KILL);
    cluster.restart(leader);
    cluster.ticks(2);
    let view = cluster.view(leader.0, child);
    assert!(
        !(view.role == Role::Leader && view.term == 1),
        "its vote was synced: it leads term 1 never again"
    );
    cluster.put(child, "t", "5");
    assert!(
        cluster
            .view(cluster.leader(child).expect("a leader").0, child)
            .term
            > 1
    );
    cluster.assert_same_data(&[1, 2, 3]);
}

#[test]
fn split_leader_absent() {
    let mut cluster = one();
    let leader = cluster.elect(r(1));
    // The first leader's store never hears of the child and dies as soon as the others know the split.
    cluster.hold_apply.insert(leader);
    cluster
        .order(r(1), OrderKind::Split(vec![key("k")]))
        .expect("the split is proposed");
    cluster.ticks(3);
    let others: Vec<u64> = [1, 2, 3]
        .into_iter()
        .filter(|store| s(*store) != leader)
        .collect();
    let child = *cluster.nodes[&s(others[0])]
        .views
        .keys()
        .find(|region| **region != r(1))
        .expect("a child");
    cluster.crash(leader, POWER);
    cluster.elect(child);
    cluster.put(child, "t", "5");
    cluster.restart(leader);
    cluster.until("it has the child", |cluster| cluster.owns(leader.0, child));
    cluster.assert_same_data(&[1, 2, 3]);
}

#[test]
fn split_uninit_vote_kept() {
    let mut cluster = one();
    let leader = cluster.elect(r(1));
    let slow = [s(1), s(2), s(3)]
        .into_iter()
        .find(|store| *store != leader)
        .expect("there are three");
    cluster.hold_apply.insert(slow);
    let child = cluster.split(r(1), &["k"])[0];
    // The child moves on to another term while the slow store has an uninitialized peer only.
    cluster.until("the slow store hears of the child", |cluster| {
        cluster.has_view(slow.0, child)
    });
    assert!(!cluster.owns(slow.0, child));
    cluster.crash(leader, KILL);
    let third = [s(1), s(2), s(3)]
        .into_iter()
        .find(|store| *store != leader && *store != slow)
        .expect("three");
    cluster.until("the child is led in a later term", |cluster| {
        cluster.leader(child) == Some(third)
    });
    let view = cluster.view(third.0, child);
    assert!(view.term > 1);
    let given = (view.term, Some(view.peer));
    let vote = |cluster: &Cluster| {
        let raft = cluster.store(slow.0).raft(child).expect("it runs");
        let (kept, durable) = (raft.hard_state(), raft.durable_state());
        assert_eq!((kept.term, kept.vote), (durable.term, durable.vote));
        (kept.term, kept.vote)
    };
    assert_eq!(vote(&cluster), given, "it votes without data");
    cluster.hold_apply.clear();
    cluster.until("the split fills the peer", |cluster| {
        cluster.owns(slow.0, child)
    });
    assert_eq!(vote(&cluster), given, "term and vote are kept");
    for mode in [KILL, POWER] {
        cluster.crash(slow, mode);
        cluster.restart(slow);
        cluster.settle();
        assert!(cluster.owns(slow.0, child));
        assert_eq!(vote(&cluster), given, "term and vote are kept");
    }
    cluster.put(child, "t", "5");
    cluster.restart(leader);
    cluster.assert_same_data(&[1, 2, 3]);
}

#[test]
fn split_child_first() {
    // Messages and a snapshot offer of the child arrive before the split is applied.
    let mut options = options();
    options.compact_entries = 20;
    options.compact_tail_entries = 0;
    let mut cluster = Cluster::with(
        3,
        &[region(1, "", "", &[1, 2, 3])],
        options,
        Default::default(),
    );
    cluster.put(r(1), "t", "4");
    let leader = cluster.elect(r(1));
    let slow = [s(1), s(2), s(3)]
        .into_iter()
        .find(|store| *store != leader)
        .expect("there are three");
    cluster.hold_apply.insert(slow);
    let child = cluster.split(r(1), &["k"])[0];
    for number in 0..60 {
        cluster.put(child, &format!("t{number}"), "x");
    }
    cluster.ticks(10);
    assert!(
        cluster.has_view(slow.0, child) && !cluster.owns(slow.0, child),
        "uninitialized, the snapshot waits"
    );
    assert!(cluster.owns(slow.0, r(1)));
    cluster.hold_apply.clear();
    cluster.until("the slow store has the child", |cluster| {
        cluster.owns(slow.0, child)
    });
    cluster.put(child, "u", "5");
    cluster.assert_same_data(&[1, 2, 3]);
}

#[test]
fn split_skipped_by_snapshot() {
    let mut options = options();
    options.compact_entries = 20;
    options.compact_tail_entries = 0;
    let mut cluster = Cluster::with(
        3,
        &[region(1, "", "", &[1, 2, 3])],
        options,
        Default::default(),
    );
    cluster.put(r(1), "t", "4");
    let leader = cluster.elect(r(1));
    let away = [s(1), s(2), s(3)]
        .into_iter()
        .find(|store| *store != leader)
        .expect("there are three");
    cluster.isolate(away);
    let child = cluster.split(r(1), &["k"])[0];
    for number in 0..60 {
        cluster.put(r(1), &format!("a{number}"), "x");
        cluster.put(child, &format!("t{number}"), "x");
    }
    cluster.heal();
    cluster.until("the parent is narrowed by its snapshot", |cluster| {
        cluster.nodes[&away]
            .views
            .get(&r(1))
            .is_some_and(|view| view.region.end_key == "k")
    });
    cluster.until("the child comes by its own", |cluster| {
        cluster.owns(away.0, child)
    });
    cluster.put(child, "u", "5");
    cluster.assert_same_data(&[1, 2, 3]);
}

#[test]
fn split_replay() {
    // Power is lost when the raft tier holds everything and the apply tier fell back before the split.
    let mut cluster = one();
    let leader = cluster.elect(r(1));
    for id in [1, 2, 3] {
        engine::Engine::flush(&cluster.nodes[&s(id)].engine, engine::Family::State)
            .expect("a flush");
    }
    let child = cluster.split(r(1), &["k"])[0];
    let view = cluster.view(leader.0, child);
    let (term, id) = (view.term, view.peer);
    for id in [1, 2, 3] {
        cluster.crash(s(id), POWER);
    }
    for id in [1, 2, 3] {
        cluster.restart(s(id));
    }
    cluster.settle();
    for store in [1, 2, 3] {
        assert!(
            cluster.owns(store, child),
            "replay creates the child again\n{}",
            cluster.describe()
        );
        assert_eq!(cluster.view(store, r(1)).region.end_key, key("k"));
    }
    assert_eq!(cluster.view(leader.0, child).peer, id);
    cluster.put(child, "t", "5");
    assert!(
        cluster
            .view(cluster.leader(child).expect("a leader").0, child)
            .term
            > term
    );
    cluster.assert_same_data(&[1, 2, 3]);
}

/// A child, and store 3, whose peer of the parent is behind its durable commit index and was told by a notice that it is removed.
fn behind_and_removed(bug: Option<store::Bug>) -> (Cluster, RegionId) {
    let options = store::Options { bug, ..options() };
    let regions = [region(1, "", "", &[1, 2, 3])];
    let mut cluster = Cluster::with(4, &regions, options, MemoryOptions::default());
    cluster.put(r(1), "t", "4");
    cluster.elect_at(r(1), 1);
    // Store 3 has the split durably committed and does not apply it.
    cluster.hold_apply.insert(s(3));
    let child = cluster.split(r(1), &["k"])[0];
    cluster.ticks(3);
    cluster.add_learner(r(1), 14, 4);
    cluster.swap_peers(r(1), 14, 13);
    cluster.isolate(s(3));
    cluster.remove_learner(r(1), 13);
    cluster.crash(s(3), POWER);
    cluster.heal();
    cluster.restart(s(3));
    cluster.hold_apply.insert(s(3));
    assert!(cluster.store(3).raft(r(1)).expect("it runs").behind());
    cluster.ticks(70);
    (cluster, child)
}

/// Planted bug 9 of REGIONS §11.
#[test]
fn split_gate_is_missed() {
    let (cluster, _) = behind_and_removed(Some(store::Bug::NoGate));
    assert!(!cluster.has_view(3, r(1)), "it dies before the replay");
}

#[test]
fn split_gate() {
    // A peer that is behind its durable commit index is not destroyed by a notice: it replays the split first.
    let (mut cluster, child) = behind_and_removed(None);
    assert!(cluster.has_view(3, r(1)), "a peer behind is not destroyed");
    cluster.hold_apply.clear();
    cluster.until("the parent dies after the replay", |cluster| {
        !cluster.has_view(3, r(1))
    });
    assert!(cluster.owns(3, child), "the child survives");
    cluster.put(child, "t", "5");
    cluster.assert_same_child(child, &[1, 2, 3]);
}

#[test]
fn split_child_newer_id() {
    // The child's peer is removed and added again under a new id before this store applies the split.
    let mut cluster = Cluster::new(4, &[region(1, "", "", &[1, 2, 3])]);
    cluster.put(r(1), "t", "4");
    cluster.elect_at(r(1), 1);
    cluster.isolate(s(3));
    let child = cluster.split(r(1), &["k"])[0];
    let first = cluster
        .view(1, child)
        .region
        .peers
        .iter()
        .find(|peer| peer.store_id == 3)
        .expect("a peer")
        .id;
    cluster.add_learner(child, 9004, 4);
    let kind = OrderKind::EnterJoint {
        promote: vec![PeerId(9004)],
        demote: vec![PeerId(first)],
    };
    cluster
        .order(child, kind)
        .expect("a dead voter is replaced");
    cluster.until("the swap is done", |cluster| {
        let view = cluster.view(1, child);
        view.region
            .peers
            .iter()
            .any(|peer| peer.id == first && peer.role() == metapb::PeerRole::Learner)
    });
    cluster.remove_learner(child, first);
    let learner = metapb::Peer {
        id: 9003,
        store_id: 3,
        role: metapb::PeerRole::Learner as i32,
        is_witness: false,
    };
    cluster
        .order(child, OrderKind::AddLearner(learner))
        .expect("the store has no peer of the child any more");
    cluster.ticks(3);
    // The new peer arrives first and is uninitialized; the split then must not create the old one.
    cluster.filter(|_, to, frame| {
        if to == s(3) {
            drop_for(frame, |region| region == 1);
        }
    });
    cluster.heal();
    cluster.until("the new peer is known", |cluster| {
        cluster.has_view(3, child)
    });
    assert_eq!(cluster.view(3, child).peer, PeerId(9003));
    cluster.clear_filter();
    cluster.until("the split is applied", |cluster| {
        cluster.view(3, r(1)).region.end_key == "k"
    });
    assert_eq!(
        cluster.view(3, child).peer,
        PeerId(9003),
        "the older id is not created"
    );
    cluster.until("the new peer gets the data", |cluster| {
        cluster.owns(3, child)
    });
    cluster.put(child, "t", "5");
    cluster.ticks(10);
    assert_eq!(cluster.local_get(3, "t").as_deref(), Some("5"));
}

/// A child's peer is removed before it has data, and dies after the split was applied here and before the store heard of that. It
/// stays dead: what it forgot includes its votes.
#[test]
fn split_child_dead_unheard() {
    let mut cluster = Cluster::new(4, &[region(1, "", "", &[1, 2, 3])]);
    cluster.put(r(1), "t", "4");
    cluster.elect_at(r(1), 1);
    cluster.hold_apply.insert(s(3));
    let child = cluster.split(r(1), &["k"])[0];
    cluster.until("it is uninitialized", |cluster| cluster.has_view(3, child));
    let first = cluster.view(3, child).peer;
    let unheard = cluster.apply_unheard(s(3));
    assert!(
        unheard.iter().any(|applied| !applied.children.is_empty()),
        "the split is applied"
    );
    cluster.add_learner(child, 9004, 4);
    cluster.swap_peers(child, 9004, first.0);
    cluster.remove_learner(child, first.0);
    cluster.until("it is gone", |cluster| cluster.store(3).peer_count() == 1);
    cluster.step(s(3), store::event::Event::Applied(unheard));
    cluster.settle();
    assert!(!cluster.has_view(3, child), "it is back");
    cluster.hold_apply.clear();
    cluster.crash(s(3), POWER);
    cluster.restart(s(3));
    cluster.until("the parent is narrowed", |cluster| {
        cluster.has_view(3, r(1)) && cluster.view(3, r(1)).region.end_key == "k"
    });
    assert!(!cluster.has_view(3, child));
    // A later peer of the child lives here.
    cluster.add_learner(child, 9003, 3);
    cluster.put(child, "t", "5");
    cluster.ticks(10);
    assert_eq!(cluster.local_get(3, "t").as_deref(), Some("5"));
}

#[test]
fn split_vs_structural() {
    let mut cluster = one();
    let leader = cluster.elect(r(1));
    cluster.hold_apply.insert(leader);
    cluster
        .order(r(1), OrderKind::Split(vec![key("k")]))
        .expect("the split is proposed");
    assert_eq!(
        cluster.order(r(1), OrderKind::Split(vec![key("p")])),
        Err(OrderRefusal::LaneBusy)
    );
    let learner = metapb::Peer {
        id: 99,
        store_id: 4,
        role: 1,
        is_witness: false,
    };
    assert_eq!(
        cluster.order(r(1), OrderKind::AddLearner(learner)),
        Err(OrderRefusal::LaneBusy)
    );
    let peer = |cluster: &Cluster, store: StoreId| {
        let region = cluster.view(leader.0, r(1)).region.clone();
        let mut peers = region.peers.into_iter();
        let peer = peers.find(|peer| peer.store_id == store.0);
        PeerId(peer.expect("a member").id)
    };
    let other = [s(1), s(2), s(3)]
        .into_iter()
        .find(|store| *store != leader)
        .expect("there are three");
    let transfer = OrderKind::TransferLeader(peer(&cluster, other));
    assert_eq!(
        cluster.order(r(1), transfer.clone()),
        Err(OrderRefusal::LaneBusy)
    );
    let stale = cluster
        .view(leader.0, r(1))
        .region
        .region_epoch
        .expect("an epoch");
    cluster.hold_apply.clear();
    cluster.settle();
    let order = store::event::Order {
        region: r(1),
        epoch: stale,
        id: store::event::StepId::default(),
        kind: OrderKind::AddLearner(learner),
        purpose: Default::default(),
    };
    cluster.step(leader, store::event::Event::Order(order));
    let answer = cluster
        .nodes
        .get_mut(&leader)
        .expect("it is there")
        .orders
        .pop()
        .expect("an answer");
    assert_eq!(
        (answer.region, answer.result),
        (r(1), Err(OrderRefusal::EpochNotMatch))
    );
    assert_eq!(
        cluster.order(r(1), OrderKind::Split(vec![key("z")])),
        Err(OrderRefusal::Invalid(
            "split keys must grow strictly inside the region"
        ))
    );
    // The other way round: a membership change or a transfer is under way.
    cluster.hold_apply.insert(leader);
    cluster
        .order(r(1), OrderKind::AddLearner(learner))
        .expect("it is proposed");
    let split = OrderKind::Split(vec![key("f")]);
    assert_eq!(
        cluster.order(r(1), split.clone()),
        Err(OrderRefusal::LaneBusy)
    );
    cluster.hold_apply.clear();
    cluster.settle();
    cluster.filter(move |_, to, frame| {
        if to == other {
            drop_for(frame, |region| region == 1);
        }
    });
    let request = cluster.propose_at(leader, r(1), vec![put("a", "2")]);
    cluster.settle();
    assert!(cluster.answers[&request].is_ok());
    cluster
        .order(r(1), transfer)
        .expect("a member that lags a little is brought level first");
    assert_eq!(cluster.order(r(1), split), Err(OrderRefusal::Transferring));
}

#[test]
fn split_without_ids_is_refused() {
    let mut cluster = Cluster::new(3, &[region(1, "", "", &[1, 2, 3])]);
    let leader = cluster.elect(r(1));
    let mut refused = None;
    for round in 0..9 {
        cluster.elect_at(r(1), leader.0);
        let keys = (0..9)
            .map(|number| Bytes::from(format!("{}{number}", 9 - round)))
            .collect();
        if let Err(refusal) = cluster.order(r(1), OrderKind::Split(keys)) {
            refused = Some(refusal);
            break;
        }
        cluster.settle();
    }
    assert_eq!(refused, Some(OrderRefusal::NoIds));
    cluster.step(leader, store::event::Event::Ids((50_000..50_100).collect()));
    assert_eq!(
        cluster.order(r(1), OrderKind::Split(vec![Bytes::from_static(b"0")])),
        Ok(())
    );
}
