//! Membership changes and removals (REGIONS §3, §10 rows 14 to 20).

use proto::metapb::{self, PeerRole};
use proto::pontoon::v1 as wire;
use raft::PeerId;
use store::event::{Half, OrderKind, OrderRefusal};

use crate::harness::*;

fn four() -> Cluster {
    let mut cluster = Cluster::new(4, &[region(1, "", "", &[1, 2, 3])]);
    cluster.put(r(1), "a", "1");
    cluster.elect_at(r(1), 1);
    cluster
}

fn learner(id: u64, store_id: u64) -> metapb::Peer {
    metapb::Peer {
        id,
        store_id,
        role: PeerRole::Learner as i32,
        is_witness: false,
    }
}

fn role(cluster: &Cluster, store: u64, peer: u64) -> Option<PeerRole> {
    let view = cluster.view(store, r(1));
    view.region
        .peers
        .iter()
        .find(|member| member.id == peer)
        .map(|member| member.role())
}

#[test]
fn a_replica_moves() {
    let mut cluster = four();
    cluster.add_learner(r(1), 14, 4);
    assert_eq!(cluster.local_get(4, "a").as_deref(), Some("1"));
    cluster.swap_peers(r(1), 14, 13);
    cluster.remove_learner(r(1), 13);
    cluster.until("the old replica is gone", |cluster| {
        !cluster.has_view(3, r(1))
    });
    assert_eq!(cluster.local_get(3, "a"), None, "its data is cleared");
    cluster.put(r(1), "b", "2");
    let epoch = cluster.view(1, r(1)).region.region_epoch.expect("an epoch");
    assert_eq!(epoch.conf_ver, 5, "added, joined, left, removed");
    cluster.assert_same_data(&[1, 2, 4]);
    assert_eq!(cluster.store(3).peer_count(), 0);
}

#[test]
fn orders_that_do_not_fit_are_refused() {
    let mut cluster = four();
    assert_eq!(
        cluster.order(r(1), OrderKind::AddLearner(learner(14, 3))),
        Err(OrderRefusal::StoreHasPeer)
    );
    let used = cluster.order(r(1), OrderKind::AddLearner(learner(13, 4)));
    assert_eq!(used, Err(OrderRefusal::PeerIdUsed(PeerId(13))));
    let voter = cluster.order(r(1), OrderKind::RemoveLearner(PeerId(13)));
    assert_eq!(
        voter,
        Err(OrderRefusal::Invalid("only a learner can be removed"))
    );
    let leave = OrderKind::EnterJoint {
        promote: vec![],
        demote: vec![PeerId(11)],
    };
    assert_eq!(
        cluster.order(r(1), leave),
        Err(OrderRefusal::LeaderWouldLeave)
    );
    cluster.isolate(s(4));
    cluster
        .order(r(1), OrderKind::AddLearner(learner(14, 4)))
        .expect("it is added");
    cluster.ticks(3);
    let promote = OrderKind::EnterJoint {
        promote: vec![PeerId(14)],
        demote: vec![PeerId(13)],
    };
    let refused = cluster.order(r(1), promote);
    assert!(
        matches!(
            refused,
            Err(OrderRefusal::NotCaughtUp {
                peer: PeerId(14),
                ..
            })
        ),
        "{refused:?}"
    );
    assert_eq!(
        cluster.order_at(s(2), r(1), OrderKind::Split(vec![])),
        Err(OrderRefusal::NotLeader)
    );
}

#[test]
fn joint_leader_lost() {
    let mut cluster = four();
    cluster.add_learner(r(1), 14, 4);
    // The leader is cut off right after the joint entry is with the others, before it could leave the joint state.
    cluster.hold_apply.insert(s(1));
    let kind = OrderKind::EnterJoint {
        promote: vec![PeerId(14)],
        demote: vec![PeerId(13)],
    };
    cluster
        .order(r(1), kind)
        .expect("the joint change is proposed");
    cluster.ticks(3);
    assert_eq!(role(&cluster, 2, 14), Some(PeerRole::IncomingVoter));
    cluster.crash(s(1), KILL);
    let left = |cluster: &Cluster, store: u64| {
        let new = role(cluster, store, 14) == Some(PeerRole::Voter);
        new && role(cluster, store, 13) == Some(PeerRole::Learner)
    };
    let timeout = cluster.options.raft.election_ticks;
    let mut ticks = 0;
    while ![2, 3, 4].into_iter().all(|store| left(&cluster, store)) {
        cluster.tick();
        ticks += 1;
        assert!(
            ticks <= 10 * timeout,
            "joint for 10T\n{}",
            cluster.describe()
        );
    }
    cluster.put(r(1), "b", "2");
    cluster.restart(s(1));
    cluster.until("the old leader has left it as well", |cluster| {
        left(cluster, 1)
    });
    // Whoever led meanwhile may have proposed it as well; it counts once.
    cluster.ticks(20);
    for store in 1..=4 {
        let epoch = cluster.view(store, r(1)).region.region_epoch;
        assert_eq!(epoch.expect("an epoch").conf_ver, 4, "left once");
    }
    cluster.assert_same_data(&[1, 2, 3, 4]);
}

#[test]
fn joint_demotes_leader() {
    // The peer that is demoted leads meanwhile: it leads until the change is committed and then steps down.
    let mut cluster = four();
    cluster.add_learner(r(1), 14, 4);
    let kind = OrderKind::EnterJoint {
        promote: vec![PeerId(14)],
        demote: vec![PeerId(13)],
    };
    cluster.hold_apply.insert(s(1));
    cluster
        .order(r(1), kind)
        .expect("the joint change is proposed");
    cluster.ticks(2);
    cluster.isolate(s(1));
    // Store 3 only may win: the others' requests for votes are lost.
    cluster.filter(|from, _, frame| {
        if from != s(3) {
            let votes = |message: &wire::RaftMessage| {
                use wire::raft_message::Body;
                matches!(
                    message.body,
                    Some(Body::PreVoteRequest(_) | Body::VoteRequest(_))
                )
            };
            frame.messages.retain(|message| !votes(message));
        }
    });
    cluster.until("the demoted peer leads or led", |cluster| {
        cluster
            .store(3)
            .raft(r(1))
            .is_some_and(|raft| raft.term() > cluster.store(1).raft(r(1)).expect("it runs").term())
            && role(cluster, 3, 13) == Some(PeerRole::Learner)
    });
    cluster.clear_filter();
    cluster.hold_apply.clear();
    cluster.heal();
    cluster.until("a voter leads", |cluster| {
        cluster.leader(r(1)).is_some_and(|leader| leader != s(3))
    });
    cluster.put(r(1), "b", "2");
    cluster.assert_same_data(&[1, 2, 3, 4]);
}

#[test]
fn conf_late_ack() {
    // Acknowledgements of a removed peer count nothing for its successor on the same store.
    let mut cluster = four();
    cluster.add_learner(r(1), 14, 4);
    let late = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
    let caught = late.clone();
    cluster.filter(move |from, _, frame| {
        if from == s(4) {
            for message in &frame.messages {
                if let Some(wire::raft_message::Body::AppendResponse(_)) = message.body {
                    caught.borrow_mut().push(message.clone());
                }
            }
        }
    });
    cluster.put(r(1), "b", "2");
    cluster.clear_filter();
    cluster.remove_learner(r(1), 14);
    cluster.until("it is gone", |cluster| cluster.store(4).peer_count() == 0);
    cluster.isolate(s(4));
    cluster
        .order(r(1), OrderKind::AddLearner(learner(24, 4)))
        .expect("it is added");
    cluster.ticks(2);
    let late = late.borrow().clone();
    assert!(!late.is_empty());
    let frame = wire::Frame {
        messages: late,
        ..Default::default()
    };
    cluster.step(s(1), store::event::Event::Frame { from: s(4), frame });
    let statuses = cluster
        .store(1)
        .raft(r(1))
        .expect("it leads")
        .member_statuses();
    assert_eq!(statuses[&PeerId(24)].matched, 0);
    assert!(!statuses.contains_key(&PeerId(14)));
}

#[test]
fn conf_too_few_live() {
    let mut cluster = Cluster::new(5, &[region(1, "", "", &[1, 2, 3])]);
    cluster.put(r(1), "a", "1");
    cluster.elect_at(r(1), 1);
    cluster.add_learner(r(1), 14, 4);
    cluster.crash(s(2), KILL);
    cluster.ticks(12);
    // Replacing a live voter while another is dead would leave only a bare quorum.
    let kind = OrderKind::EnterJoint {
        promote: vec![PeerId(14)],
        demote: vec![PeerId(13)],
    };
    assert_eq!(
        cluster.order(r(1), kind),
        Err(OrderRefusal::TooFewLive {
            half: Half::Outgoing
        })
    );
    // Replacing the dead one is a repair.
    cluster.swap_peers(r(1), 14, 12);
    cluster.remove_learner(r(1), 12);
    cluster.put(r(1), "b", "2");
    cluster.restart(s(2));
    cluster.until("the dead replica learns of its removal", |cluster| {
        !cluster.has_view(2, r(1))
    });
    cluster.assert_same_data(&[1, 3, 4]);
}

#[test]
fn remove_isolated_returns() {
    let mut cluster = four();
    cluster.add_learner(r(1), 14, 4);
    cluster.swap_peers(r(1), 14, 13);
    cluster.isolate(s(3));
    cluster.remove_learner(r(1), 13);
    cluster.ticks(40);
    let term = cluster.view(1, r(1)).term;
    cluster.heal();
    cluster.until("it hears a notice and dies", |cluster| {
        cluster.store(3).peer_count() == 0
    });
    cluster.ticks(20);
    assert_eq!(cluster.view(1, r(1)).term, term, "no term was raised");
    cluster.put(r(1), "b", "2");
    cluster.assert_same_data(&[1, 2, 4]);
}

/// §2 (c): whom it knows is gone, so only placement can tell a peer that it was removed.
#[test]
fn a_peer_whose_members_are_gone_asks_placement() {
    let mut cluster = Cluster::new(6, &[region(1, "", "", &[1, 2, 3])]);
    cluster.put(r(1), "a", "1");
    cluster.elect_at(r(1), 1);
    let before = cluster.view(3, r(1)).region.clone();
    cluster.isolate(s(3));
    for (new, old) in [(14, 13), (15, 12)] {
        cluster.add_learner(r(1), new, new - 10);
        cluster.swap_peers(r(1), new, old);
        cluster.remove_learner(r(1), old);
    }
    cluster.add_learner(r(1), 16, 6);
    cluster.elect_at(r(1), 4);
    cluster.swap_peers(r(1), 16, 11);
    cluster.remove_learner(r(1), 11);
    cluster.crash(s(1), KILL);
    cluster.crash(s(2), KILL);
    cluster.heal();
    let leaderless = cluster.options.leaderless_ticks as usize;
    let asked = |cluster: &Cluster| cluster.nodes[&s(3)].asked.len();
    cluster.nodes.get_mut(&s(3)).expect("it runs").asked.clear();
    cluster.until("it asks again and again", |cluster| asked(cluster) == 2);
    cluster.ticks(leaderless - 5);
    assert_eq!(
        asked(&cluster),
        2,
        "it asks once in the time without a leader"
    );

    // Nothing less than an applied descriptor that is newer and does not name it is proof.
    let now = cluster.view(4, r(1)).region.clone();
    let mut names_it = now.clone();
    names_it.peers.push(before.peers[2]);
    let mut not_newer = now.clone();
    not_newer.region_epoch = before.region_epoch;
    let mut of_another = now.clone();
    of_another.id = 99;
    for answer in [before, names_it, not_newer, of_another] {
        cluster.step(s(3), store::event::Event::Described(answer));
        cluster.settle();
        assert!(cluster.owns(3, r(1)));
    }
    cluster.step(s(3), store::event::Event::Described(now));
    cluster.until("it is gone", |cluster| cluster.store(3).peer_count() == 0);
}

/// Members that answer, or a leader, make the question unnecessary.
#[test]
fn placement_is_asked_after_the_members_only() {
    let mut cluster = four();
    cluster.put(r(1), "a", "1");
    cluster.elect_at(r(1), 1);
    cluster.isolate(s(3));
    let leaderless = cluster.options.leaderless_ticks as usize;
    let asked = |cluster: &Cluster| cluster.nodes[&s(3)].asked.len();
    cluster.ticks(leaderless + 10);
    assert_eq!(asked(&cluster), 0, "the members' turn");
    cluster.heal();
    cluster.ticks(20);
    cluster.isolate(s(3));
    cluster.ticks(leaderless + 10);
    assert_eq!(asked(&cluster), 0, "a leader spoke between");
    cluster.ticks(leaderless);
    assert_eq!(asked(&cluster), 1);
}

#[test]
fn a_removed_voter_that_campaigns_raises_no_term() {
    let mut cluster = four();
    cluster.add_learner(r(1), 14, 4);
    cluster.isolate(s(3));
    cluster.ticks(12);
    cluster.swap_peers(r(1), 14, 13);
    cluster.remove_learner(r(1), 13);
    let term = cluster.view(1, r(1)).term;
    cluster.ticks(30);
    cluster.heal();
    cluster.until("it dies", |cluster| cluster.store(3).peer_count() == 0);
    assert_eq!(cluster.view(1, r(1)).term, term);
}

#[test]
fn remove_readd() {
    let mut cluster = four();
    cluster.add_learner(r(1), 14, 4);
    cluster.hold_tasks.insert(s(4));
    cluster.remove_learner(r(1), 14);
    cluster
        .order(r(1), OrderKind::AddLearner(learner(24, 4)))
        .expect("it is added again");
    cluster.ticks(10);
    assert!(
        !cluster.has_view(4, r(1)),
        "the new id waits until the old one is flushed dead"
    );
    cluster.hold_tasks.clear();
    cluster.until("the new one has the data", |cluster| cluster.owns(4, r(1)));
    assert_eq!(cluster.view(4, r(1)).peer, PeerId(24));
    cluster.put(r(1), "b", "2");
    cluster.assert_same_data(&[1, 2, 3, 4]);
}

#[test]
fn a_larger_peer_id_ends_the_older_peer() {
    let mut cluster = four();
    cluster.add_learner(r(1), 14, 4);
    cluster.isolate(s(4));
    cluster.remove_learner(r(1), 14);
    cluster
        .order(r(1), OrderKind::AddLearner(learner(24, 4)))
        .expect("it is added again");
    cluster.ticks(3);
    cluster.filter(|_, _, frame| frame.notices.clear());
    cluster.heal();
    cluster.until("the new one has the data", |cluster| {
        cluster.owns(4, r(1)) && cluster.view(4, r(1)).peer == PeerId(24)
    });
}

#[test]
fn uninit_mark() {
    // A peer that was destroyed without ever having data still blocks its id, restarts included.
    let mut cluster = four();
    cluster.filter(|_, to, frame| {
        if to == s(4) {
            frame.offers.clear();
        }
    });
    cluster
        .order(r(1), OrderKind::AddLearner(learner(14, 4)))
        .expect("it is added");
    cluster.until("it is uninitialized", |cluster| cluster.has_view(4, r(1)));
    let old: Vec<wire::RaftMessage> = vec![wire::RaftMessage {
        region_id: 1,
        from_peer: 11,
        to_peer: 14,
        from_store: 1,
        to_store: 4,
        epoch: Some(metapb::RegionEpoch {
            conf_ver: 2,
            version: 1,
        }),
        term: 50,
        body: Some(wire::raft_message::Body::VoteRequest(
            wire::VoteRequest::default(),
        )),
    }];
    cluster.remove_learner(r(1), 14);
    cluster.until("it is gone", |cluster| cluster.store(4).peer_count() == 0);
    cluster.clear_filter();
    for _ in 0..2 {
        let frame = wire::Frame {
            messages: old.clone(),
            ..Default::default()
        };
        cluster.step(s(4), store::event::Event::Frame { from: s(1), frame });
        cluster.settle();
        assert_eq!(cluster.store(4).peer_count(), 0, "the mark refuses it");
        cluster.crash(s(4), POWER);
        cluster.restart(s(4));
    }
}

/// A heartbeat alone made the peer, and the store stopped: the mark tells which configuration named the peer, so that a later
/// one without it is a proof, and whom to ask.
#[test]
fn an_uninitialized_peer_takes_proof_after_a_restart() {
    let mut cluster = four();
    cluster.filter(|_, to, frame| {
        if to == s(4) {
            frame.offers.clear();
            frame.messages.clear();
        }
    });
    cluster
        .order(r(1), OrderKind::AddLearner(learner(14, 4)))
        .expect("it is added");
    cluster.until("it is uninitialized", |cluster| cluster.has_view(4, r(1)));
    cluster.settle();
    cluster.crash(s(4), POWER);
    cluster.remove_learner(r(1), 14);
    cluster.clear_filter();
    cluster.restart(s(4));
    cluster.settle();
    assert_eq!(cluster.store(4).peer_count(), 1);
    // What was said before the peer was added proves nothing.
    let before = metapb::Region {
        region_epoch: Some(metapb::RegionEpoch {
            conf_ver: 1,
            version: 9,
        }),
        ..region(1, "", "", &[1, 2, 3])
    };
    let frame = wire::Frame {
        notices: vec![wire::Notice {
            to_peer: 14,
            region: Some(before),
        }],
        ..Default::default()
    };
    cluster.step(s(4), store::event::Event::Frame { from: s(1), frame });
    cluster.settle();
    assert_eq!(cluster.store(4).peer_count(), 1);
    // Nor does a question of a member that knows it from before: it is no claim that the peer is named.
    let frame = wire::Frame {
        messages: vec![wire::RaftMessage {
            region_id: 1,
            from_peer: 11,
            to_peer: 14,
            from_store: 1,
            to_store: 4,
            epoch: Some(metapb::RegionEpoch {
                conf_ver: 3,
                version: 1,
            }),
            ..Default::default()
        }],
        ..Default::default()
    };
    cluster.step(s(4), store::event::Event::Frame { from: s(1), frame });
    cluster.until("it asks, and is gone", |cluster| {
        cluster.store(4).peer_count() == 0
    });
}
