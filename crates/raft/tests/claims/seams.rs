//! What `docs/liveness.md` and `docs/regions.md` ask of one group: pledges, quiet, the gate, first terms, snapshots.

use raft::{
    AppendResult, Body, CampaignBar, CampaignReason, Error, Event, HardState, LogPosition,
    Membership, MembershipChange, Message, Options, PeerId, Raft, Restored, Role, StepDownReason,
    SupportId,
};

use crate::common::{Cluster, Disk, change, command, peer, small_options, structural};

fn support(id: u64) -> SupportId {
    SupportId::new(id).expect("a support id is not 0")
}

/// 1 leads, and the stores of 2 and 3 support that of 1.
fn pledged() -> Cluster {
    let mut cluster = Cluster::led(3, 1);
    cluster.give_support(2, 1, Some(21));
    cluster.give_support(3, 1, Some(31));
    cluster.settle();
    cluster
}

fn vote_request(
    from: u64,
    to: u64,
    term: u64,
    last: LogPosition,
    released: Option<u64>,
) -> Message {
    Message {
        from: peer(from),
        to: peer(to),
        term,
        support: None,
        body: Body::VoteRequest {
            last,
            released,
            transfer: false,
        },
    }
}

#[test]
fn liveness_p1_a_follower_pledges_while_it_is_supported() {
    let cluster = pledged();
    let pledge = cluster.raft(2).pledge().expect("2 is pledged");
    assert_eq!(
        (pledge.term, pledge.leader, pledge.support),
        (1, peer(1), support(21))
    );
    assert!(
        Cluster::led(3, 1).raft(2).pledge().is_none(),
        "never in plain mode"
    );
}

#[test]
fn liveness_p2_records_are_of_this_term_and_this_support() {
    let mut cluster = pledged();
    assert!(cluster.raft(1).reasons().is_empty());
    cluster
        .step(
            1,
            Event::SupportHeld {
                peer: peer(2),
                support: Some(support(22)),
            },
        )
        .expect("an event");
    assert!(!cluster.raft(1).reasons().is_empty(), "the record is void");
    let asked = cluster
        .network
        .iter()
        .any(|message| message.to == peer(2) && matches!(message.body, Body::Heartbeat { .. }));
    assert!(asked, "the leader asks again");
    // A response of an older term records nothing.
    let mut cluster = pledged();
    cluster
        .step(1, Event::StepDown(StepDownReason::Stuck))
        .expect("1 leads");
    cluster.settle();
    cluster.elect(1);
    assert_eq!(cluster.raft(1).term(), 2);
    let late = Message {
        from: peer(2),
        to: peer(1),
        term: 1,
        support: None,
        body: Body::AppendResponse {
            result: AppendResult::Matched(1),
            commit: 1,
            pledge: Some(support(99)),
        },
    };
    cluster
        .step(
            1,
            Event::SupportHeld {
                peer: peer(2),
                support: Some(support(99)),
            },
        )
        .expect("an event");
    cluster.network.clear();
    cluster.arrive(late);
    assert!(!cluster.raft(1).reasons().is_empty());
}

#[test]
fn liveness_p3_a_refused_request_changes_nothing() {
    let mut cluster = pledged();
    cluster.tick(2, 100);
    let before = cluster.raft(2).hard_state();
    cluster.arrive(vote_request(
        3,
        2,
        9,
        LogPosition { term: 1, index: 99 },
        None,
    ));
    assert_eq!(cluster.raft(2).hard_state(), before);
    assert_eq!(
        (cluster.raft(2).role(), cluster.raft(2).leader()),
        (Role::Follower, Some(peer(1)))
    );
    assert_eq!(
        cluster.step(2, Event::Campaign(CampaignReason::Paced)),
        Err(Error::MayNotCampaign(CampaignBar::Pledged))
    );
}

#[test]
fn liveness_p4_three_proofs_that_a_pledge_is_worth_nothing() {
    let last = LogPosition { term: 1, index: 99 };
    let later = LogPosition { term: 2, index: 1 };
    for (name, request) in [
        ("the owner asks", vote_request(1, 2, 9, last, None)),
        (
            "its term was released",
            vote_request(3, 2, 9, last, Some(1)),
        ),
        ("a later leader existed", vote_request(3, 2, 9, later, None)),
    ] {
        let mut cluster = pledged();
        cluster.arrive(request.clone());
        assert_eq!(
            cluster.raft(2).hard_state().vote,
            Some(request.from),
            "{name}"
        );
        assert!(cluster.raft(2).pledge().is_none(), "{name}");
    }
    let mut cluster = pledged();
    cluster.arrive(vote_request(3, 2, 9, last, Some(7)));
    assert!(
        cluster.raft(2).pledge().is_some(),
        "a release of another term is no proof"
    );
}

/// A pre-vote with a proof changes what the receiver believes of its leader, and nothing that it must remember.
#[test]
fn liveness_p4_a_pre_vote_with_a_proof_frees_who_is_pledged() {
    for (released, frees) in [(None, false), (Some(7), false), (Some(1), true)] {
        let mut cluster = pledged();
        let before = cluster.raft(2).hard_state();
        let last = cluster.raft(2).last();
        let request = Message {
            body: Body::PreVoteRequest { last, released },
            ..vote_request(3, 2, 2, last, None)
        };
        cluster.arrive(request);
        let raft = cluster.raft(2);
        assert_eq!(raft.hard_state(), before);
        assert_eq!(raft.pledge().is_none(), frees);
        assert_eq!(raft.leader().is_none(), frees);
    }
}

#[test]
fn liveness_p5_pledges_end_with_their_support_or_release() {
    let release = |term| Message {
        from: peer(1),
        to: peer(2),
        term,
        support: None,
        body: Body::Release,
    };
    let mut cluster = pledged();
    cluster.arrive(release(7));
    cluster
        .step(2, Event::SupportEnded(support(5)))
        .expect("an event");
    assert!(
        cluster.raft(2).pledge().is_some(),
        "another term, another support"
    );
    cluster.arrive(release(1));
    assert!(cluster.raft(2).pledge().is_none());
    let mut cluster = pledged();
    cluster
        .step(2, Event::SupportEnded(support(21)))
        .expect("an event");
    assert_eq!(
        (cluster.raft(2).pledge(), cluster.raft(2).leader()),
        (None, None)
    );
    cluster
        .step(2, Event::Campaign(CampaignReason::Paced))
        .expect("it is free");
}

#[test]
fn liveness_p7_a_freed_peer_votes_at_once() {
    let mut cluster = pledged();
    cluster
        .step(2, Event::SupportEnded(support(21)))
        .expect("an event");
    cluster.arrive(vote_request(
        3,
        2,
        9,
        LogPosition { term: 1, index: 99 },
        None,
    ));
    assert_eq!(
        cluster.raft(2).hard_state().vote,
        Some(peer(3)),
        "having heard the leader is forgotten"
    );
}

#[test]
fn liveness_p8_a_standing_pledge_is_as_good_as_an_answer() {
    let mut cluster = pledged();
    cluster.tick(1, 100);
    assert_eq!(cluster.raft(1).role(), Role::Leader);
    for id in [2, 3] {
        cluster
            .step(
                1,
                Event::SupportHeld {
                    peer: peer(id),
                    support: None,
                },
            )
            .expect("an event");
    }
    cluster.tick(1, 19);
    assert_eq!(cluster.raft(1).role(), Role::Leader);
    cluster.tick(1, 1);
    assert_eq!(cluster.raft(1).role(), Role::Follower);
}

#[test]
fn liveness_q1_a_settled_group_has_no_reasons() {
    let mut cluster = pledged();
    for id in 1..=3 {
        assert!(
            cluster.raft(id).reasons().is_empty(),
            "peer {id}: {:?}",
            cluster.raft(id).reasons()
        );
    }
    cluster.propose(1, command("a")).expect("1 leads");
    assert!(!cluster.raft(1).reasons().is_empty());
    cluster.settle();
    for id in 1..=3 {
        assert!(
            cluster.raft(id).reasons().is_empty(),
            "peer {id} after a write"
        );
    }
    // In plain mode timers always run.
    let plain = Cluster::led(3, 1);
    assert!((1..=3).all(|id| !plain.raft(id).reasons().is_empty()));
}

#[test]
fn liveness_q3_an_owed_member_keeps_nothing_awake() {
    let mut cluster = pledged();
    cluster.crash(3, None);
    cluster
        .step(
            1,
            Event::SupportHeld {
                peer: peer(3),
                support: None,
            },
        )
        .expect("an event");
    cluster.propose(1, command("a")).expect("1 leads");
    cluster.settle();
    assert!(
        cluster.raft(1).reasons().is_empty(),
        "{:?}",
        cluster.raft(1).reasons()
    );
}

#[test]
fn liveness_q6_a_packed_peer_is_small_and_the_same() {
    assert!(
        size_of::<raft::Packed>() <= 384,
        "{} bytes",
        size_of::<raft::Packed>()
    );
    assert!(size_of::<Raft>() <= 768, "{} bytes", size_of::<Raft>());
    let mut cluster = pledged();
    cluster.propose(1, command("a")).expect("1 leads");
    cluster.settle();
    for id in 1..=3 {
        let before = cluster.raft(id).view();
        let raft = cluster.node_mut(id).raft.take().expect("it is up");
        let raft = raft.try_pack().expect("it is settled").unpack();
        raft.check_invariants();
        assert_eq!(raft.view(), before);
        cluster.node_mut(id).raft = Some(raft);
    }
    cluster.propose(1, command("b")).expect("1 leads");
    cluster.settle();
    for id in 1..=3 {
        assert_eq!(cluster.data(id), ["a", "b"]);
    }
    let awake = Cluster::led(3, 1);
    assert!(
        awake.raft(1).clone().try_pack().is_err(),
        "a peer with reasons is not packed"
    );
}

#[test]
fn regions_1_commit_before_apply() {
    let mut cluster = Cluster::led(3, 1);
    cluster.propose(1, structural("split")).expect("1 leads");
    for _ in 0..20 {
        for id in 1..=3 {
            cluster.apply(id, usize::MAX);
            let disk = &cluster.node(id).disk;
            let structural = disk.data.iter().any(|(_, text)| text == "!split");
            assert!(
                !structural || disk.hard_state.commit >= 2,
                "peer {id} applied what it may forget"
            );
            cluster.persist(id, 1);
        }
        cluster.deliver(|_| true);
    }
    assert!((1..=3).all(|id| cluster.data(id) == ["!split"]));
}

#[test]
fn regions_1_a_peer_behind_does_not_lead_and_is_not_overwritten() {
    let mut cluster = Cluster::led(3, 1);
    cluster.propose(1, structural("split")).expect("1 leads");
    cluster.settle();
    cluster.crash(1, Some(1));
    cluster.restart(1);
    assert!(cluster.raft(1).behind());
    assert_eq!(
        cluster.step(1, Event::Campaign(CampaignReason::Paced)),
        Err(Error::MayNotCampaign(CampaignBar::Behind))
    );
    cluster.tick(1, 100);
    assert_eq!(cluster.raft(1).role(), Role::Follower);
    let snapshot = Event::InstallSnapshot {
        from: peer(2),
        term: 1,
        position: LogPosition { term: 1, index: 9 },
        membership: Membership::of_voters((1..=3).map(PeerId)),
    };
    assert!(matches!(
        cluster.step(1, snapshot),
        Err(Error::Behind { .. })
    ));
    // It votes all the same.
    cluster.arrive(vote_request(
        2,
        1,
        5,
        LogPosition { term: 4, index: 9 },
        None,
    ));
    assert_eq!(cluster.raft(1).hard_state().vote, Some(peer(2)));
    cluster.apply(1, usize::MAX);
    assert!(!cluster.raft(1).behind());
}

#[test]
fn regions_1_a_new_member_is_contacted_once_its_addition_is_committed() {
    let mut cluster = Cluster::led(3, 1);
    cluster.isolate(2);
    cluster.isolate(3);
    cluster
        .propose(1, change(MembershipChange::AddLearner(peer(4))))
        .expect("1 leads");
    cluster.tick(1, 10);
    let to_new = |cluster: &Cluster| {
        cluster
            .network
            .iter()
            .filter(|message| message.to == peer(4))
            .count()
    };
    assert_eq!(to_new(&cluster), 0);
    cluster.heal();
    cluster.tick(1, 2);
    for _ in 0..6 {
        for id in 1..=3 {
            cluster.persist(id, usize::MAX);
        }
        cluster.deliver(|message| message.to != peer(4));
    }
    assert!(to_new(&cluster) > 0);
}

#[test]
fn regions_2_an_uninitialized_peer_votes_and_takes_no_log() {
    let mut cluster = Cluster::default();
    cluster.options = small_options();
    cluster.add(7, Disk::default());
    cluster.arrive(vote_request(
        1,
        7,
        1,
        LogPosition { term: 1, index: 5 },
        None,
    ));
    assert_eq!(cluster.raft(7).hard_state().vote, Some(peer(1)));
    cluster.arrive(Message {
        from: peer(1),
        to: peer(7),
        term: 1,
        support: None,
        body: Body::Append {
            previous: LogPosition::default(),
            entries: vec![],
            commit: 3,
        },
    });
    cluster.persist(7, usize::MAX);
    let refused = cluster.network.iter().any(|message| {
        matches!(
            message.body,
            Body::AppendResponse {
                result: AppendResult::Mismatch { rejected: 0, .. },
                ..
            }
        )
    });
    assert!(refused, "even the beginning of the log");
    assert_eq!(
        cluster.step(7, Event::Campaign(CampaignReason::Paced)),
        Err(Error::MayNotCampaign(CampaignBar::NotVoter))
    );
}

fn child(id: u64, vote: u64) -> Restored {
    let base = LogPosition { term: 1, index: 1 };
    Restored {
        hard_state: HardState {
            term: 1,
            vote: Some(peer(vote)),
            commit: 1,
        },
        compacted: base,
        membership: Membership::of_voters((1..=3).map(PeerId)),
        applied: 1,
        first_term: true,
        ..Restored::blank(peer(id), 1)
    }
}

#[test]
fn regions_4_the_named_peer_leads_term_1_once_its_vote_is_durable() {
    let mut raft = Raft::new(small_options(), child(1, 1)).expect("it restores");
    raft.step(Event::Campaign(CampaignReason::Named))
        .expect("it is named");
    let effects = raft.take_effects();
    assert!(effects.messages.is_empty(), "no message leaves before");
    assert_eq!(raft.role(), Role::Follower);
    let write = effects.write.expect("the vote is written");
    raft.step(Event::Written(write.id)).expect("a completion");
    assert_eq!((raft.role(), raft.term()), (Role::Leader, 1));
    assert!(
        raft.is_committed_in_term(),
        "its base counts as committed in term 1"
    );

    // A restart finds the same hard state and is not fresh; another peer's name is not its own.
    for restored in [
        Restored {
            first_term: false,
            ..child(1, 1)
        },
        child(2, 1),
    ] {
        let mut raft = Raft::new(small_options(), restored).expect("it restores");
        raft.step(Event::Campaign(CampaignReason::Named))
            .expect("a campaign like any other");
        let write = raft.take_effects().write;
        if let Some(write) = write {
            raft.step(Event::Written(write.id)).expect("a completion");
        }
        assert_eq!((raft.role(), raft.term()), (Role::PreCandidate, 1));
    }
}

#[test]
fn regions_4_a_later_leader_ends_the_first_term() {
    let mut raft = Raft::new(small_options(), child(1, 1)).expect("it restores");
    raft.step(Event::Campaign(CampaignReason::Named))
        .expect("it is named");
    let write = raft.take_effects().write.expect("the vote is written");
    let request = vote_request(2, 1, 2, LogPosition { term: 1, index: 1 }, None);
    raft.step(Event::Message(request)).expect("a request");
    raft.step(Event::Written(write.id)).expect("a completion");
    assert_eq!((raft.role(), raft.term()), (Role::Follower, 2));
}

#[test]
fn regions_7_while_installing_a_peer_votes_but_takes_no_log() {
    let mut cluster = Cluster::led(3, 1);
    let snapshot = Event::InstallSnapshot {
        from: peer(1),
        term: 1,
        position: LogPosition { term: 1, index: 50 },
        membership: Membership::of_voters((1..=3).map(PeerId)),
    };
    cluster.step(3, snapshot.clone()).expect("it is needed");
    assert!(matches!(
        cluster.step(3, snapshot),
        Err(Error::Installing { .. })
    ));
    assert_eq!(
        cluster.step(3, Event::Campaign(CampaignReason::Paced)),
        Err(Error::MayNotCampaign(CampaignBar::Installing))
    );
    cluster.arrive(Message {
        from: peer(1),
        to: peer(3),
        term: 1,
        support: None,
        body: Body::Append {
            previous: LogPosition { term: 1, index: 50 },
            entries: vec![],
            commit: 50,
        },
    });
    cluster.persist(3, 1);
    assert!(!cluster.network.iter().any(|message| matches!(
        message.body,
        Body::AppendResponse {
            result: AppendResult::Matched(50),
            ..
        }
    ) && cluster.raft(3).installing().is_some()));
    cluster.arrive(vote_request(
        2,
        3,
        9,
        LogPosition { term: 8, index: 99 },
        None,
    ));
    assert_eq!(cluster.raft(3).hard_state().vote, Some(peer(2)));
}

/// Whoever cannot put a snapshot in place says which one it lost, and takes another that is no older.
#[test]
fn regions_7_a_lost_snapshot_is_replaced_by_one_as_new() {
    let mut cluster = Cluster::led(3, 1);
    let snapshot = |index| Event::InstallSnapshot {
        from: peer(1),
        term: 1,
        position: LogPosition { term: 1, index },
        membership: Membership::of_voters((1..=3).map(PeerId)),
    };
    let (lost, append) = (
        LogPosition { term: 1, index: 50 },
        Message {
            from: peer(1),
            to: peer(3),
            term: 1,
            support: None,
            body: Body::Append {
                previous: LogPosition { term: 1, index: 50 },
                entries: vec![],
                commit: 50,
            },
        },
    );
    cluster.step(3, snapshot(50)).expect("it is needed");
    cluster.step(3, Event::SnapshotLost(lost)).expect("told");
    cluster.arrive(append);
    assert_eq!(
        cluster.step(3, snapshot(49)),
        Err(Error::Installing { position: lost })
    );
    cluster.step(3, snapshot(50)).expect("it takes its place");
    assert_eq!(
        cluster.step(3, snapshot(50)),
        Err(Error::Installing { position: lost }),
        "this one is not lost"
    );
    let refused = AppendResult::Lost(lost);
    let waiting = cluster.node(3).writes.iter().flat_map(|write| &write.after);
    assert!(
        cluster
            .network
            .iter()
            .chain(waiting)
            .any(|message| matches!(
                &message.body,
                Body::AppendResponse { result, .. } if *result == refused
            ))
    );
}

/// A member that says it lost the snapshot over its log gets another, even if the leader still has what follows the last entry
/// that it had acknowledged; that entry stays counted, and nothing new is committed by it. Late, from before it acknowledged as
/// much, or of an earlier term, the same brings nothing.
#[test]
fn regions_7_who_lost_a_snapshot_over_its_log_gets_another() {
    let mut cluster = Cluster::led(3, 1);
    cluster.isolate(3);
    cluster.propose(1, command("a")).expect("it leads");
    cluster.settle();
    let last = cluster.raft(1).last();
    let lost = |term, position| Message {
        from: peer(3),
        to: peer(1),
        term,
        support: None,
        body: Body::AppendResponse {
            result: AppendResult::Lost(position),
            commit: position.index,
            pledge: None,
        },
    };
    let status = |cluster: &Cluster| cluster.raft(1).member_statuses()[&peer(3)].clone();
    let term = cluster.raft(1).term();
    let matched = status(&cluster).matched;
    assert!(0 < matched && matched < last.index, "it lags, in the log");
    cluster.heal();

    cluster.arrive(lost(term - 1, last));
    assert!(!status(&cluster).in_snapshot, "said in an earlier term");
    let behind = LogPosition {
        index: matched,
        ..last
    };
    cluster.arrive(lost(term, behind));
    assert!(!status(&cluster).in_snapshot, "it acknowledged as much");

    cluster.isolate(2);
    cluster.propose(1, command("b")).expect("it leads");
    cluster.arrive(lost(term, last));
    cluster.persist(1, usize::MAX);
    assert!(status(&cluster).in_snapshot);
    assert_eq!(status(&cluster).matched, matched);
    assert_eq!(cluster.snapshots.len(), 1);
    cluster.arrive(lost(term, last));
    assert_eq!(cluster.snapshots.len(), 1, "said twice, sent once");
    assert_eq!(cluster.raft(1).committed(), last.index, "2 does not answer");
}

#[test]
fn reliability_r33_proposals_and_windows_are_bounded() {
    let options = Options {
        uncommitted_bytes_max: 100,
        inflight_messages_max: 2,
        append_entries_max: 1,
        ..small_options()
    };
    let mut cluster = Cluster::with_options(3, options);
    cluster.elect(1);
    cluster.isolate(1);
    let results: Vec<bool> = (0..10)
        .map(|_| cluster.propose(1, command("x")).is_ok())
        .collect();
    assert_eq!(results.iter().filter(|ok| **ok).count(), 3, "33 bytes each");
    let appends = cluster
        .network
        .iter()
        .filter(|message| message.to == peer(2))
        .count();
    assert_eq!(appends, 2);
}

#[test]
fn reliability_r34_malformed_messages_are_refused() {
    let mut cluster = Cluster::led(3, 1);
    let entry = |index, term| raft::Entry {
        term,
        index,
        payload: command("x"),
    };
    let append = |previous, entries| Message {
        from: peer(1),
        to: peer(2),
        term: 1,
        support: None,
        body: Body::Append {
            previous,
            entries,
            commit: u64::MAX,
        },
    };
    let at = |index, term| LogPosition { term, index };
    for message in [
        append(at(1, 1), vec![entry(3, 1)]),
        append(at(1, 1), vec![entry(2, 1), entry(2, 1)]),
        append(at(1, 1), vec![entry(2, 0)]),
        append(at(1, 1), vec![entry(2, 9)]),
        append(at(u64::MAX, 1), vec![entry(0, 1)]),
        append(at(u64::MAX, 1), vec![]),
        Message {
            term: u64::MAX,
            ..append(at(1, 1), vec![])
        },
        Message {
            from: peer(0),
            ..append(at(1, 1), vec![])
        },
    ] {
        let refused = cluster.step(2, Event::Message(message.clone()));
        assert!(
            matches!(refused, Err(Error::Malformed { .. })),
            "{message:?}"
        );
    }
    // Changes that do not fit what they would follow: the configuration here, a change in the same append, and one that is here
    // and would be cut.
    let changing = |index, term, change_to| raft::Entry {
        term,
        index,
        payload: change(change_to),
    };
    let uncommitted = |previous, entries| {
        let mut message = append(previous, entries);
        if let Body::Append { commit, .. } = &mut message.body {
            *commit = 1;
        }
        message
    };
    let add = |id| MembershipChange::AddLearner(peer(id));
    cluster.arrive(uncommitted(
        at(1, 1),
        vec![entry(2, 1), changing(3, 1, add(4))],
    ));
    let newer = |previous, entries| Message {
        term: 2,
        from: peer(3),
        ..uncommitted(previous, entries)
    };
    for message in [
        uncommitted(at(3, 1), vec![changing(4, 1, MembershipChange::LeaveJoint)]),
        uncommitted(at(3, 1), vec![changing(4, 1, add(4))]),
        uncommitted(
            at(2, 1),
            vec![changing(3, 1, add(4)), changing(4, 1, add(1))],
        ),
        uncommitted(
            at(3, 1),
            vec![changing(4, 1, add(5)), entry(5, 1), changing(6, 1, add(5))],
        ),
        newer(
            at(2, 1),
            vec![
                entry(3, 2),
                changing(4, 2, MembershipChange::RemoveLearner(peer(4))),
            ],
        ),
    ] {
        let before = (cluster.raft(2).last(), cluster.raft(2).membership().clone());
        let refused = cluster.step(2, Event::Message(message.clone()));
        assert!(
            matches!(refused, Err(Error::Malformed { .. })),
            "{message:?}"
        );
        let after = (cluster.raft(2).last(), cluster.raft(2).membership().clone());
        assert_eq!(before, after);
    }
    let mut cluster = Cluster::led(3, 1);
    let astray = Message {
        to: peer(3),
        ..append(at(1, 1), vec![])
    };
    assert_eq!(
        cluster.step(2, Event::Message(astray)),
        Err(Error::Misaddressed { to: peer(3) })
    );
    // A commit index beyond everything commits what there is.
    cluster.arrive(append(at(1, 1), vec![entry(2, 1)]));
    assert_eq!(cluster.raft(2).committed(), 2);
    // Nobody can have matched what was never sent.
    let liar = Message {
        from: peer(2),
        to: peer(1),
        term: 1,
        support: None,
        body: Body::AppendResponse {
            result: AppendResult::Matched(u64::MAX),
            commit: u64::MAX,
            pledge: None,
        },
    };
    cluster.arrive(liar);
    assert_eq!(cluster.raft(1).committed(), 1);
}

#[test]
fn settings_that_stop_a_peer_are_refused() {
    let refused = |change: fn(&mut raft::Options)| {
        let mut options = small_options();
        change(&mut options);
        Raft::new(options, Restored::blank(peer(1), 0)).err() == Some(Error::Options)
    };
    assert!(!refused(|_| {}));
    assert!(!refused(|options| options.inflight_bytes_max = 1));
    assert!(!refused(|options| options.lease_ticks = Some(9)));
    assert!(refused(|options| options.heartbeat_ticks = 0));
    assert!(refused(|options| options.heartbeat_ticks = 3), "T is 10");
    assert!(refused(|options| options.heartbeat_ticks = u32::MAX));
    assert!(refused(|options| options.election_ticks = 9));
    assert!(refused(|options| options.lease_ticks = Some(10)));
    assert!(refused(|options| options.append_entries_max = 0));
    assert!(refused(|options| options.inflight_messages_max = 0));
    assert!(refused(|options| options.inflight_bytes_max = 0));
}

/// A member that was added again and not heard since is as unknown after a rest as before.
#[test]
fn liveness_q6_a_packed_leader_knows_since_when_members_are_members() {
    let mut cluster = pledged();
    let change_learner = |cluster: &mut Cluster, step| {
        cluster.propose(1, change(step)).expect("1 leads");
        cluster.settle();
    };
    cluster.add(4, Disk::default());
    change_learner(&mut cluster, MembershipChange::AddLearner(peer(4)));
    let late = Message {
        from: peer(4),
        to: peer(1),
        term: cluster.raft(1).term(),
        support: None,
        body: Body::AppendResponse {
            result: AppendResult::Matched(cluster.raft(4).last().index),
            commit: 0,
            pledge: None,
        },
    };
    change_learner(&mut cluster, MembershipChange::RemoveLearner(peer(4)));
    cluster.add(4, Disk::default());
    cluster.isolate(4);
    change_learner(&mut cluster, MembershipChange::AddLearner(peer(4)));
    let raft = cluster.node_mut(1).raft.take().expect("it is up");
    let raft = raft
        .try_pack()
        .expect("who owes nothing keeps nothing awake");
    cluster.node_mut(1).raft = Some(raft.unpack());
    cluster.heal();
    cluster.arrive(late);
    assert_eq!(cluster.raft(1).member_statuses()[&peer(4)].matched, 0);
}

#[test]
fn liveness_q6_an_idle_peer_keeps_no_entries() {
    let mut cluster = Cluster::led(3, 1);
    for _ in 0..20 {
        cluster.propose(1, command("x")).expect("1 leads");
    }
    cluster.settle();
    assert!(cluster.raft(2).cached_entries(0).count() > 0);
    cluster.run(50);
    for id in 1..=3 {
        assert_eq!(cluster.raft(id).cached_entries(0).count(), 0, "peer {id}");
    }
    // Whoever lags is served from disk.
    cluster.isolate(3);
    cluster.propose(1, command("y")).expect("1 leads");
    cluster.run(50);
    cluster.heal();
    cluster.run(5);
    assert_eq!(cluster.data(3).len(), 21);
}

#[test]
fn liveness_b7_an_answer_to_an_earlier_incarnation_serves_no_read() {
    let mut cluster = Cluster::led(3, 1);
    cluster.read(2, 1).expect("2 knows a leader");
    cluster.deliver(|message| message.to == peer(1));
    let late: Vec<Message> = cluster.network.drain(..).collect();
    assert!(
        late.iter()
            .any(|message| matches!(message.body, Body::ReadIndexResponse { index: Some(_), .. }))
    );
    cluster.crash(2, None);
    cluster.restart(2);
    cluster.tick(1, 2);
    cluster.propose(1, command("new")).expect("1 leads");
    cluster.settle();
    cluster.read(2, 2).expect("2 knows a leader again");
    cluster.network.clear();
    for message in late {
        cluster.arrive(message);
    }
    assert!(!cluster.node(2).reads.contains_key(&2));
}

/// REGIONS §5: the target of a merge tells the local source how far its log is committed; the source has no leader any more.
#[test]
fn regions_5_a_commit_is_learned_from_elsewhere() {
    let mut cluster = Cluster::led(3, 1);
    cluster.settle();
    let before = cluster.raft(3).committed();
    let position = cluster.propose(1, structural("freeze")).expect("1 leads");
    // 3 has the entry and hears nothing more, the leader is gone.
    cluster.persist(1, usize::MAX);
    cluster.deliver(|message| message.to == peer(3));
    cluster.isolate(3);
    cluster.persist(3, usize::MAX);
    assert_eq!(cluster.raft(3).committed(), before);
    let told = |term, index| Event::CommittedTo(LogPosition { term, index });
    for (term, index) in [
        (position.term + 1, position.index),
        (position.term, position.index + 1),
    ] {
        cluster.step(3, told(term, index)).expect("it is ignored");
        assert_eq!(cluster.raft(3).committed(), before, "another entry");
    }
    cluster
        .step(3, told(position.term, position.index))
        .expect("the entry is here");
    assert_eq!(cluster.raft(3).committed(), position.index);
    // A structural entry is applied once the commit is durable, which it becomes without a leader.
    cluster.persist(3, usize::MAX);
    cluster.apply(3, usize::MAX);
    assert_eq!(cluster.raft(3).applied(), position.index);
    cluster
        .step(3, told(position.term, position.index))
        .expect("again is fine");
}
