//! The extended Raft paper.

use std::collections::BTreeSet;

use raft::{
    AppendResult, Body, CampaignReason, Entry, Event, LogPosition, Membership, MembershipChange,
    Message, Payload, PeerId, Raft, Restored, Role,
};

use crate::common::{Cluster, Disk, change, command, peer, small_options};

fn message(from: u64, to: u64, term: u64, body: Body) -> Message {
    Message {
        from: peer(from),
        to: peer(to),
        term,
        support: None,
        body,
    }
}

fn vote_request(from: u64, to: u64, term: u64, last: LogPosition) -> Event {
    Event::Message(message(
        from,
        to,
        term,
        Body::VoteRequest {
            last,
            released: None,
            transfer: false,
        },
    ))
}

fn append(
    from: u64,
    to: u64,
    term: u64,
    previous: (u64, u64),
    terms: &[u64],
    commit: u64,
) -> Event {
    let entries = terms
        .iter()
        .zip(previous.0 + 1..)
        .map(|(term, index)| Entry {
            term: *term,
            index,
            payload: command(&format!("{index}@{term}")),
        })
        .collect();
    let previous = LogPosition {
        index: previous.0,
        term: previous.1,
    };
    Event::Message(message(
        from,
        to,
        term,
        Body::Append {
            previous,
            entries,
            commit,
        },
    ))
}

fn terms_of(cluster: &Cluster, id: u64) -> Vec<u64> {
    cluster
        .raft(id)
        .cached_entries(0)
        .map(|entry| entry.term)
        .collect()
}

fn add_learner(cluster: &mut Cluster, leader: u64, id: u64) {
    cluster.add(id, Disk::default());
    cluster
        .propose(leader, change(MembershipChange::AddLearner(peer(id))))
        .expect("a learner can be added");
    cluster.settle();
}

/// "If one server's current term is smaller than the other's, then it updates its current term to the larger value. If a
/// candidate or leader discovers that its term is out of date, it immediately reverts to follower state."
#[test]
fn raft_5_1_stale_leaders_and_candidates_revert() {
    let mut cluster = Cluster::led(3, 1);
    let answer = Body::AppendResponse {
        result: AppendResult::Matched(0),
        commit: 0,
        pledge: None,
    };
    cluster
        .step(1, Event::Message(message(2, 1, 7, answer)))
        .expect("an answer");
    assert_eq!(
        (cluster.raft(1).role(), cluster.raft(1).term()),
        (Role::Follower, 7)
    );

    let mut cluster = Cluster::new(3);
    cluster
        .step(1, Event::Campaign(CampaignReason::Paced))
        .expect("may campaign");
    cluster
        .step(1, append(2, 1, 4, (0, 0), &[4], 0))
        .expect("an append");
    assert_eq!(
        (cluster.raft(1).role(), cluster.raft(1).term()),
        (Role::Follower, 4)
    );
}

/// "If a server receives a request with a stale term number, it rejects the request."
#[test]
fn raft_5_1_stale_requests_are_rejected() {
    let mut cluster = Cluster::new(3);
    cluster
        .step(3, append(2, 3, 5, (0, 0), &[5], 0))
        .expect("an append");
    cluster.persist(3, usize::MAX);
    cluster.network.clear();
    cluster
        .step(3, append(1, 3, 4, (0, 0), &[4, 4], 2))
        .expect("an append");
    cluster
        .step(3, vote_request(1, 3, 4, LogPosition { term: 4, index: 9 }))
        .expect("a request");
    assert_eq!(terms_of(&cluster, 3), [5]);
    assert_eq!(cluster.raft(3).committed(), 0);
    assert!(cluster.network.iter().all(|answer| answer.term == 5));
    assert!(
        cluster
            .network
            .iter()
            .any(|answer| matches!(answer.body, Body::VoteResponse { refusal: Some(_) }))
    );
}

/// "Each server will vote for at most one candidate in a given term, on a first-come-first-served basis."
#[test]
fn raft_5_2_one_vote_per_term() {
    let mut cluster = Cluster::new(3);
    let empty = LogPosition::default();
    cluster
        .step(3, vote_request(1, 3, 1, empty))
        .expect("a request");
    cluster
        .step(3, vote_request(2, 3, 1, empty))
        .expect("a request");
    cluster
        .step(3, vote_request(1, 3, 1, empty))
        .expect("a request");
    cluster.persist(3, usize::MAX);
    let granted: Vec<u64> = cluster
        .network
        .iter()
        .filter(|answer| matches!(answer.body, Body::VoteResponse { refusal: None }))
        .map(|answer| answer.to.0)
        .collect();
    assert_eq!(granted, [1, 1]);
}

/// "A candidate wins an election if it receives votes from a majority of the servers in the full cluster for the same term."
#[test]
fn raft_5_2_a_majority_of_the_full_cluster_elects() {
    for (voters, needed) in [(1, 0), (2, 1), (3, 1), (4, 2), (5, 2), (7, 3)] {
        for votes in 0..voters {
            let mut cluster = Cluster::new(voters);
            cluster
                .step(1, Event::Campaign(CampaignReason::Paced))
                .expect("may campaign");
            cluster.deliver(|_| true);
            cluster.deliver(|_| true);
            cluster.persist(1, usize::MAX);
            cluster.deliver(|request| request.to.0 <= 1 + votes);
            for id in 2..=voters {
                cluster.persist(id, usize::MAX);
            }
            cluster.deliver(|answer| answer.to == peer(1));
            let leads = cluster.raft(1).role() == Role::Leader;
            assert_eq!(leads, votes >= needed, "{votes} votes of {voters}");
        }
    }
}

/// "If the leader's term is at least as large as the candidate's current term, then the candidate recognizes the leader."
#[test]
fn raft_5_2_a_candidate_recognizes_the_leader_of_its_term() {
    let mut cluster = Cluster::new(3);
    cluster
        .step(1, Event::Campaign(CampaignReason::Paced))
        .expect("may campaign");
    cluster.deliver(|_| true);
    cluster.deliver(|_| true);
    assert_eq!(
        (cluster.raft(1).role(), cluster.raft(1).term()),
        (Role::Candidate, 1)
    );
    cluster
        .step(1, append(2, 1, 1, (0, 0), &[1], 0))
        .expect("an append");
    assert_eq!(
        (cluster.raft(1).role(), cluster.raft(1).leader()),
        (Role::Follower, Some(peer(2)))
    );
}

/// "Election timeouts are chosen randomly from a fixed interval": here [T, 2T), another draw for each attempt and each peer.
#[test]
fn raft_5_2_election_timeouts_are_random_in_their_interval() {
    let mut seen = BTreeSet::new();
    for seed in 0..200 {
        let restored = Restored {
            membership: Membership::of_voters((1..=3).map(PeerId)),
            ..Restored::blank(peer(1), seed)
        };
        let mut raft = Raft::new(small_options(), restored).expect("it restores");
        let mut ticks = 0;
        while raft.role() == Role::Follower {
            raft.step(Event::Tick).expect("time passes");
            ticks += 1;
        }
        assert!((10..20).contains(&ticks), "timeout of {ticks} ticks");
        seen.insert(ticks);
    }
    assert_eq!(seen.len(), 10, "every value is drawn: {seen:?}");
}

/// "A leader never overwrites or deletes entries in its log; it only appends new entries" (figure 3, Leader Append-Only).
#[test]
fn raft_5_3_leader_append_only() {
    let mut cluster = Cluster::led(3, 1);
    for text in ["a", "b", "c"] {
        cluster.propose(1, command(text)).expect("1 leads");
    }
    let before: Vec<Entry> = cluster.raft(1).cached_entries(0).cloned().collect();
    // Refusals, late acknowledgements and answers of all kinds make it send, not cut.
    for rejected in 0..5 {
        let body = Body::AppendResponse {
            result: AppendResult::Mismatch {
                rejected,
                hint: LogPosition::default(),
            },
            commit: 0,
            pledge: None,
        };
        cluster
            .step(1, Event::Message(message(2, 1, 1, body)))
            .expect("an answer");
    }
    cluster.settle();
    cluster.propose(1, command("d")).expect("1 leads");
    let after: Vec<Entry> = cluster.raft(1).cached_entries(0).cloned().collect();
    assert_eq!(after[..before.len()], before[..]);
}

/// "If two entries in different logs have the same index and term, then the logs are identical in all preceding entries": the
/// consistency check refuses what would break it (figure 7 shows the logs that come about).
#[test]
fn raft_5_3_log_matching_by_the_consistency_check() {
    let mut cluster = Cluster::new(3);
    cluster
        .step(2, append(1, 2, 1, (0, 0), &[1, 1], 0))
        .expect("an append");
    cluster
        .step(2, append(1, 2, 3, (2, 2), &[3], 0))
        .expect("an append");
    cluster
        .step(2, append(1, 2, 3, (5, 1), &[3], 0))
        .expect("an append");
    assert_eq!(terms_of(&cluster, 2), [1, 1]);
    cluster
        .step(2, append(1, 2, 3, (2, 1), &[3], 0))
        .expect("an append");
    assert_eq!(terms_of(&cluster, 2), [1, 1, 3]);
}

/// "Conflicting entries in follower logs will be overwritten with entries from the leader's log", and nothing else.
#[test]
fn raft_5_3_conflicts_are_overwritten_and_nothing_else() {
    let mut cluster = Cluster::new(3);
    cluster
        .step(2, append(1, 2, 2, (0, 0), &[1, 1, 2, 2], 0))
        .expect("an append");
    // The same entries, shortened: old, and no conflict.
    cluster
        .step(2, append(1, 2, 2, (0, 0), &[1, 1], 0))
        .expect("an append");
    assert_eq!(terms_of(&cluster, 2), [1, 1, 2, 2]);
    cluster
        .step(2, append(3, 2, 3, (0, 0), &[1, 1, 3], 0))
        .expect("an append");
    assert_eq!(terms_of(&cluster, 2), [1, 1, 3]);
}

/// "Raft RPCs are idempotent" (§5.5): an append delivered twice, or late, leaves the same log.
#[test]
fn raft_5_5_appends_are_idempotent() {
    let mut cluster = Cluster::new(3);
    for _ in 0..3 {
        cluster
            .step(2, append(1, 2, 1, (0, 0), &[1, 1, 1], 2))
            .expect("an append");
        cluster
            .step(2, append(1, 2, 1, (1, 1), &[1], 1))
            .expect("an append");
    }
    cluster.persist(2, usize::MAX);
    assert_eq!(terms_of(&cluster, 2), [1, 1, 1]);
    assert_eq!(cluster.raft(2).committed(), 2);
    assert_eq!(cluster.apply(2, usize::MAX), 2);
}

/// "The voter denies its vote if its own log is more up-to-date than that of the candidate."
#[test]
fn raft_5_4_1_voters_deny_candidates_with_older_logs() {
    let grants = |index, term| {
        let mut cluster = Cluster::new(3);
        cluster
            .step(2, append(1, 2, 2, (0, 0), &[1, 2, 2], 0))
            .expect("an append");
        cluster.tick(2, 10);
        cluster
            .step(2, vote_request(3, 2, 9, LogPosition { term, index }))
            .expect("a request");
        cluster.persist(2, usize::MAX);
        cluster
            .network
            .iter()
            .any(|answer| matches!(answer.body, Body::VoteResponse { refusal: None }))
    };
    assert!(grants(3, 2), "equal logs");
    assert!(grants(4, 2), "longer of the same term");
    assert!(grants(1, 3), "later term, however short");
    assert!(!grants(2, 2), "shorter of the same term");
    assert!(!grants(9, 1), "older term, however long");
}

/// "Only log entries from the leader's current term are committed by counting replicas."
#[test]
fn raft_5_4_2_only_current_term_commits_by_counting() {
    let mut cluster = Cluster::new(3);
    // 2@1 is everywhere and nowhere known to be committed.
    for id in 1..=3 {
        cluster
            .step(id, append(9, id, 1, (0, 0), &[1, 1], 0))
            .expect("an append");
        cluster.persist(id, usize::MAX);
    }
    cluster.network.clear();
    cluster.tick(2, 10);
    cluster.tick(3, 10);
    cluster.network.clear();
    cluster.tick(1, 20);
    cluster.deliver(|_| true);
    cluster.deliver(|_| true);
    cluster.persist(1, usize::MAX);
    cluster.deliver(|_| true);
    cluster.persist(2, usize::MAX);
    cluster.persist(3, usize::MAX);
    cluster.deliver(|_| true);
    assert_eq!(cluster.raft(1).role(), Role::Leader);
    // Everybody says that it matches up to 2@1; the leader's own entry 3@2 has reached nobody.
    for id in [2, 3] {
        let body = Body::AppendResponse {
            result: AppendResult::Matched(2),
            commit: 0,
            pledge: None,
        };
        let term = cluster.raft(1).term();
        cluster
            .step(1, Event::Message(message(id, 1, term, body)))
            .expect("an answer");
    }
    assert_eq!(cluster.raft(1).committed(), 0);
    cluster.settle();
    assert_eq!(
        cluster.raft(1).committed(),
        3,
        "with its own entry all before it commit"
    );
}

/// "If a log entry is committed in a given term, that entry will be present in the logs of the leaders for all higher-numbered
/// terms" (Leader Completeness), for every choice of who dies after a commit.
#[test]
fn raft_5_4_3_leader_completeness() {
    for holders in [[1, 2, 3], [1, 2, 4], [1, 4, 5], [1, 3, 5]] {
        for candidate in 2..=5 {
            let mut cluster = Cluster::led(5, 1);
            let position = cluster.propose(1, command("kept")).expect("1 leads");
            cluster.deliver(|message| holders.contains(&message.to.0));
            for id in holders {
                cluster.persist(id, usize::MAX);
            }
            cluster.deliver(|message| message.to == peer(1));
            assert!(cluster.raft(1).committed() >= position.index);
            cluster.network.clear();
            cluster.crash(1, None);
            let _ = cluster.elect_after_silence(candidate);
            cluster.run(60);
            let leader = cluster.leader().expect("four of five elect");
            assert_eq!(
                cluster.data(leader),
                ["kept"],
                "{candidate} campaigned, {holders:?} had it"
            );
        }
    }
}

/// "If a server has applied a log entry at a given index to its state machine, no other server will ever apply a different log
/// entry for the same index": a follower that lost its leader in the middle applies the same.
#[test]
fn raft_5_4_3_state_machine_safety() {
    let mut cluster = Cluster::led(3, 1);
    cluster.propose(1, command("a")).expect("1 leads");
    cluster.settle();
    cluster.isolate(1);
    cluster.propose(1, command("x")).expect("1 leads");
    cluster.persist(1, usize::MAX);
    cluster.elect_after_silence(2).expect("may campaign");
    cluster.propose(2, command("b")).expect("2 leads");
    cluster.settle();
    cluster.heal();
    cluster.run(10);
    for id in 1..=3 {
        assert_eq!(cluster.data(id), ["a", "b"]);
    }
}

/// "If a follower or candidate crashes … when it restarts it completes": nothing acknowledged is missing, nothing is doubled.
#[test]
fn raft_5_5_crashed_followers_complete_after_restart() {
    let mut cluster = Cluster::led(3, 1);
    cluster.propose(1, command("a")).expect("1 leads");
    cluster.deliver(|_| true);
    cluster.crash(2, None);
    cluster.propose(1, command("b")).expect("1 leads");
    cluster.settle();
    cluster.restart(2);
    cluster.run(10);
    assert_eq!(cluster.data(2), ["a", "b"]);
}

/// "Log entries are replicated to all servers in both configurations. … Agreement (for elections and entry commitment) requires
/// separate majorities from both the old and new configurations."
#[test]
fn raft_6_joint_consensus_needs_both_majorities() {
    for (cut, commits) in [
        ([2, 3], false),
        ([4, 5], false),
        ([2, 4], true),
        ([3, 5], true),
    ] {
        let mut cluster = Cluster::led(3, 1);
        add_learner(&mut cluster, 1, 4);
        add_learner(&mut cluster, 1, 5);
        for id in cut {
            cluster.isolate(id);
        }
        // Out: 1 2 3. In: 1 4 5.
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
        assert_eq!(
            cluster.raft(1).committed() >= position.index,
            commits,
            "{cut:?} are cut off"
        );
    }
}

/// The same for elections: while the configuration is joint a candidate needs both halves.
#[test]
fn raft_6_joint_elections_need_both_majorities() {
    for (live, elects) in [([2, 3], false), ([4, 5], false), ([3, 4], true)] {
        let mut cluster = Cluster::led(3, 1);
        add_learner(&mut cluster, 1, 4);
        add_learner(&mut cluster, 1, 5);
        cluster
            .propose(
                1,
                change(MembershipChange::EnterJoint {
                    promote: vec![peer(4), peer(5)],
                    demote: vec![peer(2), peer(3)],
                }),
            )
            .expect("1 leads");
        cluster.deliver(|_| true);
        for id in 1..=5 {
            cluster.persist(id, usize::MAX);
        }
        cluster.network.clear();
        cluster.crash(1, None);
        cluster.restart(1);
        for id in 2..=5 {
            if !live.contains(&id) {
                cluster.crash(id, None);
            }
        }
        cluster.elect_after_silence(1).expect("may campaign");
        assert_eq!(
            cluster.raft(1).role() == Role::Leader,
            elects,
            "{live:?} are alive"
        );
    }
}

/// "A server always uses the latest configuration in its log, regardless of whether the entry is committed", and falls back when
/// that entry is overwritten.
#[test]
fn raft_6_the_latest_appended_configuration_counts() {
    let mut cluster = Cluster::led(3, 1);
    cluster.isolate(1);
    cluster
        .propose(1, change(MembershipChange::AddLearner(peer(4))))
        .expect("1 leads");
    assert!(
        cluster.raft(1).membership().contains(peer(4)),
        "from the moment it is appended"
    );
    cluster.elect_after_silence(2).expect("may campaign");
    cluster.heal();
    cluster.run(5);
    assert!(
        !cluster.raft(1).membership().contains(peer(4)),
        "and not any more when it is cut"
    );
}

/// "The cluster leader may not be part of the new configuration. In this case, the leader steps down once it has committed the
/// entry … It manages a cluster that does not include itself; it replicates log entries but does not count itself."
#[test]
fn raft_6_a_leader_outside_the_configuration_steps_down() {
    let mut cluster = Cluster::led(3, 1);
    add_learner(&mut cluster, 1, 4);
    cluster
        .propose(
            1,
            change(MembershipChange::EnterJoint {
                promote: vec![peer(4)],
                demote: vec![peer(1)],
            }),
        )
        .expect("1 leads");
    while cluster.raft(1).membership().votes(peer(1)) {
        for id in 1..=4 {
            cluster.persist(id, usize::MAX);
        }
        cluster.deliver(|_| true);
        cluster.apply(1, usize::MAX);
    }
    // The entry that leaves the joint configuration is in 1's log only, then at one more: 1 itself does not count.
    let leave = cluster.raft(1).last().index;
    cluster.persist(1, usize::MAX);
    cluster.deliver(|message| message.to == peer(2));
    cluster.persist(2, usize::MAX);
    cluster.deliver(|message| message.from == peer(2));
    assert!(
        cluster.raft(1).committed() < leave,
        "1 and 2 are one of {{2, 3, 4}}"
    );
    assert_eq!(cluster.raft(1).role(), Role::Leader);
    cluster.settle();
    assert_eq!(cluster.raft(1).role(), Role::Follower);
    assert!(cluster.leader().is_some_and(|leader| leader != 1));
}

/// "commitIndex = min(leaderCommit, index of last new entry)": what follows an append here may be what the leader overwrites next.
#[test]
fn raft_5_3_followers_commit_only_what_an_append_covers() {
    let mut cluster = Cluster::new(3);
    cluster
        .step(2, append(1, 2, 1, (0, 0), &[1, 1, 1], 0))
        .expect("an append");
    // The leader of term 2 has committed 1@1, 2@2 and 3@2.
    cluster
        .step(2, append(3, 2, 2, (0, 0), &[1], 3))
        .expect("an append");
    assert_eq!(cluster.raft(2).committed(), 1);
    cluster
        .step(2, append(3, 2, 2, (1, 1), &[], 3))
        .expect("an append");
    assert_eq!(cluster.raft(2).committed(), 1);
    assert_eq!(terms_of(&cluster, 2), [1, 1, 1]);
    cluster
        .step(2, append(3, 2, 2, (1, 1), &[2, 2], 3))
        .expect("an append");
    assert_eq!(cluster.raft(2).committed(), 3);
    assert_eq!(terms_of(&cluster, 2), [1, 2, 2]);
}

/// "Removed servers can disrupt the cluster": whoever hears a leader does not listen to them, however good their log is.
#[test]
fn raft_6_removed_servers_do_not_disrupt() {
    let mut cluster = Cluster::led(3, 1);
    cluster
        .propose(
            1,
            change(MembershipChange::EnterJoint {
                promote: vec![],
                demote: vec![peer(3)],
            }),
        )
        .expect("1 leads");
    cluster.isolate(3);
    cluster.settle();
    cluster
        .propose(1, change(MembershipChange::RemoveLearner(peer(3))))
        .expect("1 leads");
    cluster.settle();
    cluster.heal();
    let term = cluster.raft(1).term();
    let mut asked = 0;
    for _ in 0..100 {
        for id in 1..=3 {
            cluster.tick(id, 1);
        }
        // Not for want of a log is 3 refused.
        for message in cluster.network.iter_mut() {
            if let Body::PreVoteRequest { last, .. } | Body::VoteRequest { last, .. } =
                &mut message.body
            {
                assert_eq!(message.from, peer(3), "nobody else is without leader");
                last.index += 100;
                asked += 1;
            }
        }
        cluster.settle();
    }
    assert!(asked > 0, "3 campaigns");
    assert_eq!(
        (cluster.raft(1).role(), cluster.raft(1).term()),
        (Role::Leader, term)
    );
}

/// "If the follower receives a snapshot that describes a prefix of its log … entries following the snapshot are still valid and
/// must be retained."
#[test]
fn raft_7_a_snapshot_of_a_prefix_retains_what_follows() {
    let mut cluster = Cluster::new(3);
    cluster
        .step(2, append(1, 2, 1, (0, 0), &[1, 1, 1], 1))
        .expect("an append");
    let snapshot = Event::InstallSnapshot {
        from: peer(1),
        term: 1,
        position: LogPosition { term: 1, index: 2 },
        membership: Membership::of_voters((1..=3).map(PeerId)),
    };
    assert!(
        cluster.step(2, snapshot).is_err(),
        "nothing has to be replaced"
    );
    assert_eq!(terms_of(&cluster, 2), [1, 1, 1]);
    assert_eq!(
        cluster.raft(2).committed(),
        2,
        "but what it covers is committed"
    );
}

/// "The follower discards its entire log; it is all superseded by the snapshot and may possibly have uncommitted entries that
/// conflict with the snapshot."
#[test]
fn raft_7_a_snapshot_supersedes_a_conflicting_log() {
    let mut cluster = Cluster::new(3);
    cluster
        .step(2, append(1, 2, 1, (0, 0), &[1, 1, 1, 1], 1))
        .expect("an append");
    cluster.persist(2, usize::MAX);
    let snapshot = Event::InstallSnapshot {
        from: peer(3),
        term: 2,
        position: LogPosition { term: 2, index: 3 },
        membership: Membership::of_voters((1..=3).map(PeerId)),
    };
    cluster.step(2, snapshot).expect("it is needed");
    assert_eq!(cluster.raft(2).last(), LogPosition { term: 2, index: 3 });
    assert_eq!(
        cluster.raft(2).compacted(),
        LogPosition { term: 2, index: 3 }
    );
    let write = cluster.node(2).writes.back().expect("it becomes durable");
    assert_eq!(write.install, Some(LogPosition { term: 2, index: 3 }));
    assert_eq!(
        write.hard_state.map(|state| state.commit),
        Some(3),
        "in the same write"
    );
}

/// "Raft handles this by having each leader commit a blank no-op entry into the log at the start of its term."
#[test]
fn raft_8_a_leader_opens_its_term_with_an_entry() {
    let mut cluster = Cluster::new(3);
    cluster.elect(1);
    let first = cluster.raft(1).cached_entries(0).next().expect("an entry");
    assert_eq!((first.term, &first.payload), (1, &Payload::Noop));
    assert!(cluster.raft(1).is_committed_in_term());
}

/// "A leader must check whether it has been deposed before processing a read-only request."
#[test]
fn raft_8_reads_need_an_exchange_with_a_majority() {
    let mut cluster = Cluster::led(3, 1);
    cluster.read(1, 1).expect("a leader takes reads");
    assert!(!cluster.node(1).reads.contains_key(&1));
    cluster.deliver(|message| message.to == peer(2));
    assert!(!cluster.node(1).reads.contains_key(&1));
    cluster.deliver(|message| message.from == peer(2));
    assert_eq!(cluster.node(1).reads[&1], Some(cluster.raft(1).committed()));
}
