//! What other implementations paid for, and the rules behind it.
//!
//! Each test plays one scenario twice: with the rules as they are it must end well, and with one rule switched off (a planted
//! bug) it must not, so no test here passes by never looking.

mod common;

use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use common::{Cluster, change, command, peer, small_options, structural};
use raft::{
    AppendResult, Body, Bug, CampaignReason, Entry, Event, HardState, LogPosition, Membership,
    MembershipChange, Message, Options, Payload, PeerId, Raft, ReadId, Restored, Role, WriteId,
};

/// `scenario` says whether it ended well. A panic, from an assertion in the core or a checker, is not well.
fn check(bug: Bug, scenario: fn(Options) -> bool) {
    assert!(
        scenario(small_options()),
        "it does not end well even without {bug:?}"
    );
    let options = Options {
        bug: Some(bug),
        ..small_options()
    };
    let ended = catch_unwind(AssertUnwindSafe(|| scenario(options)));
    assert!(!matches!(ended, Ok(true)), "{bug:?} goes unnoticed");
}

fn led(voters: u64, options: Options) -> Cluster {
    let mut cluster = Cluster::with_options(voters, options);
    if cluster.options.lease_ticks.is_some() {
        for id in cluster.ids() {
            cluster.tick(id, cluster.options.election_ticks);
        }
    }
    cluster.elect(1);
    cluster
}

/// Campaigns and delivers until `id` leads, without persisting anybody else's appends.
fn win(cluster: &mut Cluster, id: u64, voters: &[u64]) {
    let _ = cluster.step(id, Event::Campaign(CampaignReason::Paced));
    cluster.deliver(|_| true);
    cluster.deliver(|_| true);
    cluster.persist(id, usize::MAX);
    cluster.deliver(|_| true);
    for voter in voters {
        cluster.persist(*voter, usize::MAX);
    }
    cluster.deliver(|_| true);
}

fn silence(cluster: &mut Cluster, ids: &[u64]) {
    for id in ids {
        cluster.tick(*id, 10);
    }
    cluster.network.clear();
}

fn read_of(cluster: &Cluster, id: u64, read: u64) -> Option<u64> {
    cluster.node(id).reads.get(&read).copied().flatten()
}

#[test]
fn read_index_before_first_commit_of_own_term() {
    check(Bug::ReadBeforeOwnCommit, |options| {
        let mut cluster = led(3, options);
        // Committed at 1 and said to be, but 2 and 3 do not know it.
        cluster.propose(1, command("a")).expect("1 leads");
        cluster.deliver(|_| true);
        for id in 1..=3 {
            cluster.persist(id, usize::MAX);
        }
        cluster.deliver(|_| true);
        let said = cluster.raft(1).committed();
        cluster.crash(1, None);
        cluster.network.clear();
        silence(&mut cluster, &[3]);
        win(&mut cluster, 2, &[3]);
        assert!(cluster.raft(2).role() == Role::Leader);
        cluster.network.clear();
        cluster.read(2, 1).expect("a leader takes reads");
        cluster.deliver(|_| true);
        cluster.deliver(|_| true);
        read_of(&cluster, 2, 1).is_none_or(|index| index >= said)
    });
}

#[test]
fn answers_of_an_earlier_round_do_not_count() {
    check(Bug::ReadJoinsRound, |options| {
        let mut cluster = led(3, options);
        cluster.read(1, 1).expect("a leader takes reads");
        cluster.deliver(|message| message.from == peer(1));
        // The answers are on their way; meanwhile another leader is elected and commits.
        let answers: Vec<Message> = cluster.network.drain(..).collect();
        cluster.isolate(1);
        cluster.elect_after_silence(2).expect("2 may campaign");
        cluster.propose(2, command("new")).expect("2 leads");
        cluster.settle();
        let said = cluster.raft(2).committed();
        cluster.read(1, 2).expect("1 still thinks that it leads");
        cluster.heal();
        for answer in answers {
            cluster.arrive(answer);
        }
        read_of(&cluster, 1, 2).is_none_or(|index| index >= said)
    });
}

#[test]
fn lease_is_not_kept_over_a_transfer() {
    check(Bug::LeaseKeptOverTransfer, |options| {
        let options = Options {
            lease_ticks: Some(8),
            ..options
        };
        let mut cluster = led(3, options);
        cluster.tick(1, 2);
        cluster.settle();
        assert!(cluster.raft(1).has_lease());
        cluster
            .step(1, Event::Transfer(Some(peer(2))))
            .expect("2 is level");
        // 1 hears nothing of what follows.
        cluster.deliver(|message| message.to != peer(1));
        cluster.isolate(1);
        cluster.settle();
        assert!(cluster.raft(2).role() == Role::Leader);
        cluster.propose(2, command("new")).expect("2 leads");
        cluster.settle();
        let said = cluster.raft(2).committed();
        let _ = cluster.read(1, 1);
        read_of(&cluster, 1, 1).is_none_or(|index| index >= said)
    });
}

#[test]
fn lease_counts_from_the_sending_of_the_round() {
    check(Bug::LeaseFromAck, |options| {
        let options = Options {
            lease_ticks: Some(8),
            ..options
        };
        let mut cluster = led(3, options);
        cluster.tick(1, 2);
        cluster.deliver(|message| message.from == peer(1));
        let answers: Vec<Message> = cluster.network.drain(..).collect();
        cluster.isolate(1);
        // The others wait T from the heartbeat and elect; 1's clock goes on as theirs does.
        for _ in 0..10 {
            for id in 1..=3 {
                cluster.tick(id, 1);
            }
        }
        cluster.network.clear();
        cluster.elect_after_silence(2).expect("2 may campaign");
        cluster.propose(2, command("new")).expect("2 leads");
        cluster.settle();
        let said = cluster.raft(2).committed();
        cluster.heal();
        for answer in answers {
            cluster.arrive(answer);
        }
        cluster.read(1, 1).expect("1 still thinks that it leads");
        read_of(&cluster, 1, 1).is_none_or(|index| index >= said)
    });
}

#[test]
fn pre_vote_does_not_deadlock_a_membership_change() {
    // 1 entered {2, 3, 4} and dies once. Only 1 and 2 have the entry that leaves it; 3 is dead. Neither 2 nor 4 alone can be
    // elected by the others' logs and votes if 1, excluded by an entry that is not committed, keeps still.
    let mut cluster = Cluster::led(3, 1);
    cluster.add(4, common::Disk::default());
    cluster
        .propose(1, change(MembershipChange::AddLearner(peer(4))))
        .expect("1 leads");
    cluster.settle();
    cluster.isolate(2);
    cluster.isolate(3);
    cluster.isolate(4);
    cluster
        .propose(
            1,
            change(MembershipChange::EnterJoint {
                promote: vec![peer(4)],
                demote: vec![peer(1)],
            }),
        )
        .expect("1 leads");
    cluster.heal();
    cluster.tick(1, 2);
    // Replicate and apply the joint entry everywhere, but let nobody hear of the one that leaves it.
    while cluster.raft(1).membership().votes(peer(1)) {
        for id in 1..=4 {
            cluster.persist(id, usize::MAX);
        }
        cluster.deliver(|_| true);
        cluster.apply(1, usize::MAX);
    }
    cluster.network.clear();
    cluster.persist(1, usize::MAX);
    cluster.crash(1, None);
    cluster.crash(3, None);
    cluster.restart(1);
    assert!(
        !cluster.raft(1).membership().votes(peer(1)),
        "the log excludes 1"
    );
    assert!(
        cluster.raft(1).committed() < cluster.raft(1).last().index,
        "by an uncommitted entry"
    );
    silence(&mut cluster, &[2, 4]);
    cluster.run(60);
    let leader = cluster.leader().expect("somebody leads");
    cluster.propose(leader, command("after")).expect("it leads");
    cluster.run(5);
    assert!(cluster.data(leader).contains(&"after".to_owned()));
    assert!(!cluster.raft(leader).membership().is_joint());
}

#[test]
fn acknowledgements_from_an_earlier_membership() {
    check(Bug::OldPeerAccepted, |options| {
        let mut cluster = led(1, options);
        cluster.add(2, common::Disk::default());
        let add = || change(MembershipChange::AddLearner(peer(2)));
        cluster.propose(1, add()).expect("1 leads");
        cluster.settle();
        cluster.propose(1, command("a")).expect("1 leads");
        cluster.settle();
        let late = Message {
            from: peer(2),
            to: peer(1),
            term: 1,
            support: None,
            body: Body::AppendResponse {
                result: AppendResult::Matched(cluster.raft(2).last().index),
                commit: 0,
                pledge: None,
            },
        };
        cluster
            .propose(1, change(MembershipChange::RemoveLearner(peer(2))))
            .expect("1 leads");
        cluster.settle();
        // It comes back with nothing.
        cluster.add(2, common::Disk::default());
        cluster.isolate(2);
        cluster.propose(1, add()).expect("1 leads");
        cluster.settle();
        cluster.heal();
        cluster.arrive(late);
        let matched = cluster.raft(1).member_statuses()[&peer(2)].matched;
        matched <= cluster.raft(2).last().index
    });
}

/// An entry is overwritten twice, the second time by itself, while the first write is on its way: leaders of terms 1, 2 and 3,
/// the third with the log of the first.
#[test]
fn completion_for_overwritten_entries_is_stale() {
    check(Bug::StaleCompletion, |options| {
        let restored = Restored {
            membership: Membership::of_voters((1..=5).map(PeerId)),
            ..Restored::blank(peer(5), 0)
        };
        let mut raft = Raft::new(options, restored).expect("it restores");
        let _ = raft.take_effects();
        let append = |from: u64, term: u64, entries: &[(u64, u64)]| {
            let entries = entries
                .iter()
                .map(|(index, term)| Entry {
                    term: *term,
                    index: *index,
                    payload: Payload::Command(Bytes::from(format!("{index}@{term}"))),
                })
                .collect();
            Event::Message(Message {
                from: peer(from),
                to: peer(5),
                term,
                support: None,
                body: Body::Append {
                    previous: LogPosition::default(),
                    entries,
                    commit: 0,
                },
            })
        };
        raft.step(append(1, 1, &[(1, 1), (2, 1)]))
            .expect("an append");
        let first = raft.take_effects().write.expect("entries are written").id;
        raft.step(append(2, 2, &[(1, 2)])).expect("an append");
        let second = raft.take_effects().write.expect("the cut is written").id;
        raft.step(append(3, 3, &[(1, 1), (2, 1), (3, 3)]))
            .expect("an append");
        let third = raft.take_effects().write.expect("entries are written").id;
        assert!(first < second && second < third);
        // After the first write the disk holds 1@1, as the log does, but the second is going to remove it again.
        raft.step(Event::Written(first)).expect("a completion");
        let after_first = raft.persisted();
        raft.step(Event::Written(third)).expect("a completion");
        after_first == 0 && raft.persisted() == 3
    });
}

/// An answer or a request that waits for a write says nothing about entries that are cut before the write is even made.
#[test]
fn what_is_cut_is_not_acknowledged() {
    let append = |from: u64, term: u64, entries: &[u64]| {
        let entries = (1..).zip(entries).map(|(index, term)| Entry {
            term: *term,
            index,
            payload: Payload::Noop,
        });
        Event::Message(Message {
            from: peer(from),
            to: peer(5),
            term,
            support: None,
            body: Body::Append {
                previous: LogPosition::default(),
                entries: entries.collect(),
                commit: 0,
            },
        })
    };
    let snapshot = Event::InstallSnapshot {
        from: peer(2),
        term: 3,
        position: LogPosition { term: 2, index: 2 },
        membership: Membership::of_voters((1..=5).map(PeerId)),
    };
    // What each peer says is matched, after the events and in one taking.
    let said = |events: Vec<Event>| {
        let restored = Restored {
            membership: Membership::of_voters((1..=5).map(PeerId)),
            ..Restored::blank(peer(5), 0)
        };
        let mut raft = Raft::new(small_options(), restored).expect("it restores");
        let _ = raft.take_effects();
        for event in events {
            raft.step(event).expect("it is taken");
        }
        let write = raft.take_effects().write.expect("something is written");
        write
            .after
            .iter()
            .filter_map(|message| match message.body {
                Body::AppendResponse {
                    result: AppendResult::Matched(index),
                    ..
                } => Some((message.to.0, index)),
                Body::VoteRequest { last, .. } => Some((message.to.0, last.index)),
                _ => None,
            })
            .collect::<Vec<_>>()
    };
    let three = append(1, 1, &[1, 1, 1]);
    assert_eq!(said(vec![three.clone()]), [(1, 3)]);
    let cut = append(2, 2, &[1, 2]);
    assert_eq!(said(vec![three.clone(), cut]), [(2, 2)]);
    let kept = append(2, 2, &[1, 1, 1, 2]);
    assert_eq!(said(vec![three.clone(), kept]), [(1, 3), (2, 4)]);
    assert_eq!(said(vec![three.clone(), snapshot]), []);
    // A candidate whose log is cut by the winner of its term.
    let order = Event::Message(Message {
        from: peer(1),
        to: peer(5),
        term: 1,
        support: None,
        body: Body::TimeoutNow,
    });
    let winner = append(2, 2, &[1, 2]);
    assert_eq!(said(vec![three, order, winner]), [(2, 2)]);
}

#[test]
fn leader_does_not_count_its_own_unsynced_entry() {
    check(Bug::OwnUnsyncedCounted, |options| {
        let mut cluster = led(3, options);
        cluster.isolate(3);
        let position = cluster.propose(1, command("a")).expect("1 leads");
        cluster.deliver(|_| true);
        cluster.persist(2, usize::MAX);
        cluster.deliver(|_| true);
        let told = cluster.raft(1).committed() >= position.index;
        // 1 and 2 lose power; 2 stays dead, 3 lives: the entry may be gone.
        assert!(cluster.raft(1).persisted() < position.index);
        !told
    });
}

#[test]
fn single_voter_does_not_commit_before_persisting() {
    check(Bug::OwnUnsyncedCounted, |options| {
        let mut cluster = led(1, options);
        let position = cluster.propose(1, command("a")).expect("1 leads");
        let early = cluster.raft(1).committed() >= position.index;
        cluster.persist(1, usize::MAX);
        assert!(cluster.raft(1).committed() >= position.index);
        !early
    });
}

#[test]
fn joint_quorum_is_not_over_the_union() {
    check(Bug::UnionQuorum, |options| {
        let mut cluster = led(3, options);
        for id in [4, 5] {
            cluster.add(id, common::Disk::default());
            cluster
                .propose(1, change(MembershipChange::AddLearner(peer(id))))
                .expect("1 leads");
            cluster.settle();
        }
        // Out: 1 2 3. In: 1 4 5. Three of five is a majority of the union, but only one of the new half.
        cluster.isolate(4);
        cluster.isolate(5);
        let position = cluster
            .propose(
                1,
                change(MembershipChange::EnterJoint {
                    promote: vec![peer(4), peer(5)],
                    demote: vec![peer(2), peer(3)],
                }),
            )
            .expect("1 leads");
        cluster.settle();
        cluster.raft(1).committed() < position.index
    });
}

#[test]
fn promoted_learner_votes_before_it_knows() {
    let mut cluster = Cluster::led(2, 1);
    cluster.add(3, common::Disk::default());
    cluster
        .propose(1, change(MembershipChange::AddLearner(peer(3))))
        .expect("1 leads");
    cluster.settle();
    cluster.isolate(3);
    cluster
        .propose(
            1,
            change(MembershipChange::EnterJoint {
                promote: vec![peer(3)],
                demote: vec![],
            }),
        )
        .expect("1 leads");
    cluster.settle();
    assert!(
        !cluster.raft(3).membership().votes(peer(3)),
        "3 knows nothing of it"
    );
    cluster.crash(2, None);
    cluster.crash(1, None);
    cluster.heal();
    cluster.restart(1);
    cluster.elect_after_silence(1).expect("1 may campaign");
    assert!(cluster.raft(1).role() == Role::Leader);
    assert!(cluster.raft(3).membership().votes(peer(3)));
}

#[test]
fn snapshot_older_than_the_commit_index_is_refused() {
    check(Bug::SnapshotMovesBack, |options| {
        let mut cluster = led(3, options);
        for text in ["a", "b", "c"] {
            cluster.propose(1, command(text)).expect("1 leads");
        }
        cluster.settle();
        let before = cluster.raft(2).committed();
        let membership = cluster.raft(1).membership().clone();
        let result = cluster.step(
            2,
            Event::InstallSnapshot {
                from: peer(1),
                term: 1,
                position: LogPosition { term: 1, index: 2 },
                membership,
            },
        );
        cluster.persist(2, usize::MAX);
        result.is_err() && cluster.raft(2).committed() >= before
    });
}

#[test]
fn entries_of_older_terms_do_not_commit_by_counting() {
    check(Bug::OlderTermCommit, |options| {
        let options = Options {
            append_entries_max: 1,
            ..options
        };
        let mut cluster = led(5, options);
        // 2@1 reaches 2 only. 5 leads term 2 with votes of 3 and 4, and its first entry stays with it.
        cluster.propose(1, command("old")).expect("1 leads");
        cluster.deliver(|message| message.to == peer(2));
        cluster.persist(1, usize::MAX);
        cluster.persist(2, usize::MAX);
        cluster.network.clear();
        cluster.crash(1, None);
        cluster.isolate(2);
        silence(&mut cluster, &[3, 4]);
        win(&mut cluster, 5, &[3, 4]);
        assert!(cluster.raft(5).role() == Role::Leader);
        cluster.network.clear();
        cluster.persist(5, usize::MAX);
        cluster.crash(5, None);
        cluster.heal();
        // 1 leads term 3 and replicates 2@1 to 3, which makes a majority, but nothing of term 3.
        cluster.restart(1);
        silence(&mut cluster, &[2]);
        win(&mut cluster, 1, &[]);
        cluster.network.clear();
        win(&mut cluster, 1, &[2, 3, 4]);
        assert!(cluster.raft(1).role() == Role::Leader && cluster.raft(1).term() == 3);
        cluster.persist(1, usize::MAX);
        cluster.deliver(|message| message.to == peer(2));
        cluster.persist(2, usize::MAX);
        cluster.deliver(|message| message.from == peer(2));
        for _ in 0..3 {
            cluster.deliver(|message| message.to == peer(3));
            let written = cluster.raft(3).last().index;
            cluster.persist(3, usize::MAX);
            cluster.deliver(|message| message.from == peer(3));
            if written >= 2 {
                break;
            }
        }
        assert!(cluster.raft(3).last() == LogPosition { term: 1, index: 2 });
        cluster.apply(1, usize::MAX);
        cluster.network.clear();
        // 5 comes back with 2@2, which is more up to date than 3 and 4, and replaces it.
        cluster.crash(1, None);
        cluster.crash(2, None);
        cluster.restart(5);
        for _ in 0..3 {
            if cluster.raft(5).role() != Role::Leader {
                cluster.elect_after_silence(5).expect("5 may campaign");
            }
        }
        cluster.settle();
        cluster.term_of(3, 2) == Some(2)
    });
}

#[test]
fn votes_leave_only_when_durable() {
    check(Bug::VoteBeforeSync, |options| {
        let mut cluster = Cluster::with_options(3, options);
        for id in [1, 2] {
            let _ = cluster.step(id, Event::Campaign(CampaignReason::Paced));
        }
        cluster.deliver(|_| true);
        cluster.deliver(|_| true);
        cluster.persist(1, usize::MAX);
        cluster.persist(2, usize::MAX);
        cluster.deliver(|message| message.from == peer(1) && message.to == peer(3));
        // 3 loses power before its vote for 1 is durable, and is asked by 2.
        cluster.crash(3, None);
        cluster.restart(3);
        cluster.deliver(|message| message.from == peer(2) && message.to == peer(3));
        cluster.persist(3, usize::MAX);
        cluster.deliver(|_| true);
        let leaders = [1, 2]
            .iter()
            .filter(|id| cluster.raft(**id).role() == Role::Leader);
        leaders.count() == 1
    });
}

#[test]
fn acknowledgements_leave_only_when_durable() {
    check(Bug::AckBeforeSync, |options| {
        let mut cluster = led(3, options);
        let position = cluster.propose(1, command("a")).expect("1 leads");
        cluster.persist(1, usize::MAX);
        cluster.deliver(|message| message.to == peer(2));
        cluster.deliver(|message| message.to == peer(1));
        let told = cluster.raft(1).committed() >= position.index;
        cluster.crash(2, None);
        let kept = cluster.node(2).disk.entries.len() as u64 >= position.index;
        !told || kept
    });
}

#[test]
fn an_append_cuts_only_conflicts() {
    check(Bug::TruncateWithoutConflict, |options| {
        let mut cluster = led(3, options);
        cluster.propose(1, command("a")).expect("1 leads");
        let old: Vec<Message> = cluster
            .network
            .iter()
            .filter(|message| message.to == peer(2))
            .cloned()
            .collect();
        cluster.deliver(|_| true);
        let position = cluster.propose(1, command("b")).expect("1 leads");
        cluster.deliver(|_| true);
        for id in [1, 2] {
            cluster.persist(id, usize::MAX);
        }
        cluster.deliver(|message| message.to == peer(1));
        assert!(cluster.raft(1).committed() >= position.index);
        for message in old {
            cluster.arrive(message);
        }
        cluster.raft(2).last().index >= position.index
    });
}

#[test]
fn heartbeats_commit_only_what_matches() {
    check(Bug::CommitPastMatch, |options| {
        let mut cluster = led(3, options);
        // 1 writes what nobody else gets, and is deposed; 2 commits something else at the same index.
        cluster.isolate(1);
        cluster.propose(1, command("lost")).expect("1 leads");
        cluster.persist(1, usize::MAX);
        cluster.elect_after_silence(2).expect("2 may campaign");
        cluster.propose(2, command("kept")).expect("2 leads");
        cluster.settle();
        cluster.heal();
        cluster.tick(2, 2);
        // The heartbeat overtakes the append.
        cluster.deliver(|message| {
            matches!(message.body, Body::Heartbeat { .. }) && message.to == peer(1)
        });
        cluster.persist(1, usize::MAX);
        cluster.apply(1, usize::MAX);
        cluster.settle();
        cluster.data(1) == ["kept"]
    });
}

#[test]
fn a_change_waits_for_the_last_one() {
    check(Bug::ChangeBeforeApplied, |options| {
        let mut cluster = led(3, options);
        let add = |id| change(MembershipChange::AddLearner(peer(id)));
        cluster.propose(1, add(4)).expect("1 leads");
        cluster.propose(1, add(5)).is_err()
    });
}

#[test]
fn learners_never_count() {
    check(Bug::LearnerCounted, |options| {
        let mut cluster = led(3, options);
        for id in [4, 5] {
            cluster.add(id, common::Disk::default());
            cluster
                .propose(1, change(MembershipChange::AddLearner(peer(id))))
                .expect("1 leads");
            cluster.settle();
        }
        cluster.isolate(2);
        cluster.isolate(3);
        let position = cluster.propose(1, command("a")).expect("1 leads");
        cluster.settle();
        cluster.raft(1).committed() < position.index
    });
}

#[test]
fn votes_count_only_in_their_term() {
    check(Bug::VoteKept, |options| {
        let mut cluster = Cluster::with_options(5, options);
        // 1 gets votes in term 1 that arrive when it stands in term 2.
        let _ = cluster.step(1, Event::Campaign(CampaignReason::Paced));
        cluster.deliver(|_| true);
        cluster.deliver(|_| true);
        cluster.persist(1, usize::MAX);
        cluster.deliver(|_| true);
        for id in [2, 3] {
            cluster.persist(id, usize::MAX);
        }
        let late: Vec<Message> = cluster.network.drain(..).collect();
        let _ = cluster.step(1, Event::Campaign(CampaignReason::Paced));
        cluster.deliver(|_| true);
        cluster.deliver(|_| true);
        cluster.persist(1, usize::MAX);
        cluster.network.clear();
        assert!(cluster.raft(1).term() == 2 && cluster.raft(1).role() == Role::Candidate);
        for vote in late {
            cluster.arrive(vote);
        }
        cluster.raft(1).role() != Role::Leader
    });
}

#[test]
fn entries_are_handed_out_once() {
    check(Bug::DoubleApply, |options| {
        let mut cluster = led(1, options);
        cluster.propose(1, command("a")).expect("1 leads");
        cluster.persist(1, usize::MAX);
        // Handed out and not reported applied yet, when more is committed.
        cluster.propose(1, command("b")).expect("1 leads");
        cluster.persist(1, usize::MAX);
        cluster.apply(1, usize::MAX);
        cluster.data(1) == ["a", "b"]
    });
}

#[test]
fn a_new_leader_leaves_the_joint_configuration() {
    check(Bug::JointNotLeft, |options| {
        let mut cluster = led(3, options);
        cluster.add(4, common::Disk::default());
        cluster
            .propose(1, change(MembershipChange::AddLearner(peer(4))))
            .expect("1 leads");
        cluster.settle();
        cluster
            .propose(
                1,
                change(MembershipChange::EnterJoint {
                    promote: vec![peer(4)],
                    demote: vec![peer(3)],
                }),
            )
            .expect("1 leads");
        cluster.deliver(|_| true);
        for id in 1..=4 {
            cluster.persist(id, usize::MAX);
        }
        cluster.network.clear();
        cluster.crash(1, None);
        cluster.elect_after_silence(2).expect("2 may campaign");
        assert!(cluster.raft(2).role() == Role::Leader);
        cluster.run(100);
        !cluster.raft(2).membership().is_joint()
    });
}

#[test]
fn structural_entries_wait_for_a_durable_commit_index() {
    check(Bug::ApplyBeforeDurableCommit, |options| {
        let mut cluster = led(1, options);
        let position = cluster.propose(1, structural("split")).expect("1 leads");
        cluster.persist(1, 1);
        cluster.apply(1, usize::MAX);
        let applied = cluster.node(1).disk.applied >= position.index;
        // Power is lost; the state machine falls back, and must know that it did.
        cluster.crash(1, Some(1));
        cluster.restart(1);
        !applied || cluster.raft(1).behind()
    });
}

#[test]
fn a_cut_off_peer_keeps_its_term() {
    check(Bug::NoPreVote, |options| {
        let mut cluster = led(3, options);
        cluster.isolate(3);
        cluster.tick(3, 100);
        cluster.raft(3).term() == 1
    });
}

#[test]
fn a_leader_without_quorum_steps_down() {
    check(Bug::NoQuorumCheck, |options| {
        let mut cluster = led(3, options);
        cluster.isolate(1);
        cluster.tick(1, 20);
        cluster.raft(1).role() == Role::Follower
    });
}

#[test]
fn an_older_log_wins_no_election() {
    check(Bug::OlderLogVoted, |options| {
        let mut cluster = led(3, options);
        cluster.isolate(3);
        cluster.propose(1, command("a")).expect("1 leads");
        cluster.settle();
        cluster.crash(1, None);
        cluster.heal();
        cluster.elect_after_silence(3).expect("3 may campaign");
        cluster.raft(3).role() != Role::Leader
    });
}

#[test]
fn entries_follow_only_what_is_there() {
    check(Bug::NoConsistencyCheck, |options| {
        let mut cluster = led(3, options);
        cluster.isolate(1);
        cluster.propose(1, command("lost")).expect("1 leads");
        cluster.elect_after_silence(2).expect("2 may campaign");
        let position = cluster.propose(2, command("kept")).expect("2 leads");
        cluster.settle();
        let entry = cluster
            .raft(2)
            .cached_entries(position.index)
            .next()
            .cloned();
        cluster.heal();
        cluster.network.clear();
        // An append that was overtaken by none of those before it: they were lost.
        cluster.arrive(Message {
            from: peer(2),
            to: peer(1),
            term: position.term,
            support: None,
            body: Body::Append {
                previous: LogPosition {
                    term: position.term,
                    index: position.index - 1,
                },
                entries: entry.into_iter().collect(),
                commit: 0,
            },
        });
        cluster.term_of(1, position.index).is_none()
    });
}

#[test]
fn every_bug_is_looked_for_here() {
    let source = include_str!("regressions.rs");
    for bug in Bug::ALL {
        assert!(
            source.contains(&format!("check(Bug::{bug:?},")),
            "no scenario notices {bug:?}"
        );
    }
}

#[test]
fn durable_state_survives_as_it_was_said() {
    let restored = Restored {
        hard_state: HardState {
            term: 3,
            vote: Some(peer(2)),
            commit: 0,
        },
        membership: Membership::of_voters((1..=3).map(PeerId)),
        ..Restored::blank(peer(1), 0)
    };
    let mut raft = Raft::new(small_options(), restored).expect("it restores");
    let _ = raft.take_effects();
    let request = |from: u64| {
        Event::Message(Message {
            from: peer(from),
            to: peer(1),
            term: 3,
            support: None,
            body: Body::VoteRequest {
                last: LogPosition::default(),
                released: None,
                transfer: false,
            },
        })
    };
    raft.step(request(3)).expect("a request");
    raft.step(request(2)).expect("a request");
    let effects = raft.take_effects();
    let refusals: Vec<bool> = effects
        .messages
        .iter()
        .map(|message| matches!(message.body, Body::VoteResponse { refusal: Some(_) }))
        .collect();
    assert_eq!(refusals, [true, false]);
    assert!(effects.write.is_none(), "nothing new has to become durable");
}

#[test]
fn a_write_that_is_not_there_cannot_complete() {
    let ended = catch_unwind(|| {
        let mut raft =
            Raft::new(small_options(), Restored::blank(peer(1), 0)).expect("it restores");
        let _ = raft.step(Event::Written(WriteId(1)));
    });
    assert!(ended.is_err());
}

#[test]
fn a_follower_without_leader_refuses_reads() {
    let mut cluster = Cluster::new(3);
    assert!(cluster.step(1, Event::Read(ReadId(1))).is_err());
}
