//! The dissertation, where it says more than the paper.

use raft::{
    Body, CampaignBar, CampaignReason, Error, Event, LogPosition, MembershipChange, Message,
    Options, Payload, Role, StepDownReason, TransferRefusal,
};

use crate::common::{Cluster, Disk, change, command, peer, small_options};

fn add_learner(cluster: &mut Cluster, leader: u64, id: u64) {
    cluster.add(id, Disk::default());
    cluster
        .propose(leader, change(MembershipChange::AddLearner(peer(id))))
        .expect("a learner can be added");
    cluster.settle();
}

/// §3.8: "A server must persist current term and vote … before responding, and new log entries before acknowledging them."
#[test]
fn thesis_3_8_nothing_is_said_before_it_is_durable() {
    let mut cluster = Cluster::new(3);
    cluster
        .step(1, Event::Campaign(CampaignReason::Paced))
        .expect("may campaign");
    cluster.deliver(|_| true);
    cluster.deliver(|_| true);
    assert!(
        cluster.network.is_empty(),
        "requests for votes wait for the term"
    );
    cluster.persist(1, usize::MAX);
    cluster.deliver(|_| true);
    assert!(cluster.network.is_empty(), "votes wait for themselves");
    cluster.persist(2, usize::MAX);
    cluster.deliver(|_| true);
    cluster.deliver(|_| true);
    assert!(
        cluster.network.is_empty(),
        "acknowledgements wait for the entries"
    );
    cluster.persist(2, usize::MAX);
    assert_eq!(cluster.network.len(), 1);
}

/// §3.10: "The prior leader stops accepting new client requests. [It] fully updates the target server's log."
#[test]
fn thesis_3_10_a_transfer_brings_the_target_level_first() {
    let mut cluster = Cluster::led(3, 1);
    cluster.isolate(2);
    cluster.propose(1, command("a")).expect("1 leads");
    cluster.settle();
    cluster
        .step(1, Event::Transfer(Some(peer(2))))
        .expect("2 is a voter");
    let refused = cluster.propose(1, command("b"));
    assert_eq!(refused, Err(Error::Transferring { to: peer(2) }));
    assert!(
        cluster
            .network
            .iter()
            .all(|message| message.body != Body::TimeoutNow)
    );
    cluster.heal();
    cluster.tick(1, 2);
    cluster.settle();
    assert_eq!(cluster.raft(2).role(), Role::Leader);
    assert_eq!(cluster.data(2), ["a"]);
}

/// §3.10: "If leadership transfer does not complete after about an election timeout, the prior leader aborts the transfer and
/// resumes accepting client requests." Here only before `TimeoutNow`: after it nobody goes on leading.
#[test]
fn thesis_3_10_a_transfer_is_given_up_before_it_is_said_and_never_after() {
    let mut cluster = Cluster::led(3, 1);
    cluster.isolate(2);
    cluster.propose(1, command("a")).expect("1 leads");
    cluster.settle();
    cluster
        .step(1, Event::Transfer(Some(peer(2))))
        .expect("2 is a voter");
    cluster.tick(1, 10);
    assert!(cluster.propose(1, command("b")).is_ok());

    let mut cluster = Cluster::led(3, 1);
    cluster
        .step(1, Event::Transfer(Some(peer(2))))
        .expect("2 is level");
    assert!(
        cluster
            .network
            .iter()
            .any(|message| message.body == Body::TimeoutNow)
    );
    assert_eq!(cluster.raft(1).role(), Role::Follower);
    assert!(!cluster.node(1).view.transferring);
    cluster.network.clear();
    cluster.tick(1, 3);
    assert!(cluster.propose(1, command("b")).is_err());
}

/// §3.10: who cannot lead is not asked to.
#[test]
fn thesis_3_10_transfers_go_to_voters_only() {
    let mut cluster = Cluster::led(3, 1);
    add_learner(&mut cluster, 1, 4);
    let refused = cluster.step(1, Event::Transfer(Some(peer(4))));
    assert_eq!(
        refused,
        Err(Error::TransferTarget {
            peer: Some(peer(4)),
            reason: TransferRefusal::NotVoter,
        })
    );
}

/// §4.1: one change at a time; and the correction of 2015: only after an entry of the leader's own term is committed.
#[test]
fn thesis_4_1_one_change_at_a_time_and_only_in_an_open_term() {
    let add = |id| change(MembershipChange::AddLearner(peer(id)));
    let mut cluster = Cluster::led(3, 1);
    cluster.propose(1, add(4)).expect("1 leads");
    assert_eq!(
        cluster.propose(1, add(5)),
        Err(Error::ChangeInProgress { index: 2 })
    );
    cluster.settle();
    cluster.propose(1, add(5)).expect("the first is applied");

    let mut cluster = Cluster::new(3);
    cluster
        .step(1, Event::Campaign(CampaignReason::Paced))
        .expect("may campaign");
    cluster.deliver(|_| true);
    cluster.deliver(|_| true);
    cluster.persist(1, usize::MAX);
    cluster.deliver(|_| true);
    cluster.persist(2, usize::MAX);
    cluster.deliver(|_| true);
    assert_eq!(cluster.raft(1).role(), Role::Leader);
    assert_eq!(
        cluster.propose(1, add(4)),
        Err(Error::TermNotApplied { term: 1 })
    );
}

/// §4.2.1: a learner "is not yet counted towards majorities", and a server votes whatever it thinks its own part is.
#[test]
fn thesis_4_2_1_learners_do_not_count_and_do_not_campaign() {
    let mut cluster = Cluster::led(3, 1);
    add_learner(&mut cluster, 1, 4);
    cluster.isolate(2);
    cluster.isolate(3);
    let position = cluster.propose(1, command("a")).expect("1 leads");
    cluster.settle();
    assert!(cluster.raft(1).committed() < position.index);
    cluster.tick(4, 100);
    assert_eq!(cluster.raft(4).role(), Role::Follower);
    // Asked, it votes.
    let request = Message {
        from: peer(9),
        to: peer(4),
        term: 8,
        support: None,
        body: Body::VoteRequest {
            last: LogPosition { term: 8, index: 99 },
            released: None,
            transfer: false,
        },
    };
    cluster.arrive(request);
    assert_eq!(cluster.raft(4).hard_state().vote, Some(peer(9)));
}

/// §4.2.3: "If a server receives a RequestVote request within the minimum election timeout of hearing from a current leader, it
/// does not update its term or grant its vote", unless the leader asked for the election.
#[test]
fn thesis_4_2_3_who_hears_a_leader_does_not_vote() {
    let request = |transfer| Message {
        from: peer(3),
        to: peer(2),
        term: 5,
        support: None,
        body: Body::VoteRequest {
            last: LogPosition { term: 1, index: 9 },
            released: None,
            transfer,
        },
    };
    let mut cluster = Cluster::led(3, 1);
    cluster.arrive(request(false));
    assert_eq!(
        (cluster.raft(2).term(), cluster.raft(2).leader()),
        (1, Some(peer(1)))
    );
    cluster.arrive(request(true));
    assert_eq!(
        (cluster.raft(2).term(), cluster.raft(2).hard_state().vote),
        (5, Some(peer(3)))
    );
    // A leader that serves does not hear it either.
    let mut cluster = Cluster::led(3, 1);
    cluster.arrive(Message {
        to: peer(1),
        ..request(false)
    });
    assert_eq!(
        (cluster.raft(1).term(), cluster.raft(1).role()),
        (1, Role::Leader)
    );
}

/// §6.2: "A leader in Raft steps down if an election timeout elapses without a successful round of heartbeats to a majority":
/// here 2T (R10).
#[test]
fn thesis_6_2_a_leader_without_quorum_steps_down() {
    let mut cluster = Cluster::led(5, 1);
    cluster.isolate(2);
    cluster.isolate(3);
    cluster.run(100);
    assert_eq!(
        cluster.raft(1).role(),
        Role::Leader,
        "three of five are a quorum"
    );
    cluster.isolate(4);
    cluster.run(19);
    assert_eq!(cluster.raft(1).role(), Role::Leader, "not yet");
    cluster.run(2);
    assert_eq!(cluster.raft(1).role(), Role::Follower);
}

/// §6.2, in a joint configuration: both halves must be heard.
#[test]
fn thesis_6_2_the_quorum_check_asks_both_halves() {
    let mut cluster = Cluster::led(3, 1);
    add_learner(&mut cluster, 1, 4);
    add_learner(&mut cluster, 1, 5);
    cluster.isolate(4);
    cluster.isolate(5);
    cluster
        .propose(
            1,
            change(MembershipChange::EnterJoint {
                promote: vec![peer(4), peer(5)],
                demote: vec![peer(2), peer(3)],
            }),
        )
        .expect("1 leads");
    cluster.run(21);
    assert_eq!(
        cluster.raft(1).role(),
        Role::Follower,
        "2 and 3 are no half of {{1, 4, 5}}"
    );
}

/// §6.4: "The leader needs to make sure it hasn't been superseded … The leader waits for its state machine to advance at least as
/// far as the readIndex", which is not below what was committed anywhere when the read began.
#[test]
fn thesis_6_4_read_index_covers_what_was_committed_before() {
    let mut cluster = Cluster::led(3, 1);
    for number in 0..20 {
        let position = cluster.propose(1, command("x")).expect("1 leads");
        cluster.settle();
        let reader = 1 + number % 3;
        cluster.read(reader, number).expect("everybody takes reads");
        cluster.settle();
        let index = cluster.node(reader).reads[&number].expect("it is confirmed");
        assert!(index >= position.index);
    }
}

/// §6.4.1: a lease serves reads without messages, and is over before anybody else can lead.
#[test]
fn thesis_6_4_1_leases_end_before_another_leads() {
    let options = Options {
        lease_ticks: Some(9),
        ..small_options()
    };
    let mut cluster = Cluster::with_options(3, options);
    for id in 1..=3 {
        cluster.tick(id, 10);
    }
    cluster.elect(1);
    cluster.tick(1, 2);
    cluster.settle();
    assert!(cluster.raft(1).has_lease());
    cluster.isolate(1);
    // All clocks go alike. As long as the lease holds, nobody grants 2 as much as a pre-vote.
    for _ in 0..30 {
        for id in 1..=3 {
            cluster.tick(id, 1);
        }
        cluster
            .network
            .retain(|message| message.from != peer(1) && message.to != peer(1));
        let granted = cluster.deliver(|_| true);
        let votes = cluster
            .network
            .iter()
            .any(|message| matches!(message.body, Body::PreVoteResponse { refusal: None }));
        assert!(
            !(votes && cluster.raft(1).has_lease()),
            "after {granted} messages"
        );
        cluster.settle();
    }
    assert!(!cluster.raft(1).has_lease());
    assert!(cluster.leader().is_some_and(|leader| leader != 1));
}

/// §6.4.1: who restarts waits as long as who goes on running. Ticks have no common phase: the first one may come at once, and
/// the leader's next one a whole tick later.
#[test]
fn thesis_6_4_1_a_restart_outlives_the_longest_lease() {
    let options = Options {
        lease_ticks: Some(9),
        ..small_options()
    };
    let mut cluster = Cluster::with_options(3, options);
    for id in 1..=3 {
        cluster.tick(id, 10);
    }
    cluster.elect(1);
    cluster.isolate(2);
    cluster.tick(2, 30);
    cluster.tick(1, 2);
    cluster.deliver(|_| true);
    cluster.deliver(|_| true);
    assert!(
        cluster.raft(1).has_lease(),
        "3 answered, and that is a quorum"
    );
    cluster.crash(3, None);
    cluster.restart(3);
    cluster.heal();
    cluster.isolate(1);
    let mut granted = false;
    for ticks in 0..12 {
        cluster.tick(3, 1);
        cluster.network.clear();
        cluster
            .step(2, Event::Campaign(CampaignReason::Paced))
            .expect("2 heard nobody for long");
        cluster.deliver(|message| message.from == peer(2) && message.to == peer(3));
        granted |= cluster
            .network
            .iter()
            .any(|message| matches!(message.body, Body::PreVoteResponse { refusal: None }));
        assert!(
            !(granted && cluster.raft(1).has_lease()),
            "granted after {ticks} ticks of the leader"
        );
        cluster.tick(1, 1);
    }
    assert!(granted, "3 waits only so long");
}

/// §6.4.1: with leases, who heard the leader within `T` does not campaign either, whoever asks it to.
#[test]
fn thesis_6_4_1_who_hears_a_leader_does_not_campaign_under_leases() {
    for lease_ticks in [None, Some(9)] {
        let mut cluster = Cluster::with_options(
            3,
            Options {
                lease_ticks,
                ..small_options()
            },
        );
        for id in 1..=3 {
            cluster.tick(id, 10);
        }
        cluster.elect(1);
        cluster.tick(1, 2);
        cluster.settle();
        cluster.isolate(1);
        let barred = Err(Error::MayNotCampaign(CampaignBar::LeaseBound));
        for _ in 0..10 {
            let mut copy = cluster.raft(2).clone();
            let answer = copy.step(Event::Campaign(CampaignReason::Paced));
            assert_eq!(answer == barred, lease_ticks.is_some(), "{answer:?}");
            cluster.tick(2, 1);
        }
        cluster
            .step(2, Event::Campaign(CampaignReason::Paced))
            .expect("nobody was heard for T");
    }
}

/// §9.6: a pre-vote changes nothing at anybody, and who loses it stays in its term.
#[test]
fn thesis_9_6_pre_votes_change_nothing() {
    let mut cluster = Cluster::led(3, 1);
    cluster.isolate(3);
    let states: Vec<_> = (1..=3).map(|id| cluster.raft(id).hard_state()).collect();
    cluster.tick(3, 200);
    let request = cluster
        .network
        .iter()
        .find(|message| matches!(message.body, Body::PreVoteRequest { .. }))
        .cloned()
        .expect("3 asks");
    cluster.heal();
    cluster.arrive(request);
    let after: Vec<_> = (1..=3).map(|id| cluster.raft(id).hard_state()).collect();
    assert_eq!(states, after);
}

/// §10.2.1: the leader writes to its disk in parallel with replicating, and "may even commit an entry before it is durable on the
/// leader's own disk, if a majority of followers have written it".
#[test]
fn thesis_10_2_1_the_leader_writes_in_parallel() {
    let mut cluster = Cluster::led(3, 1);
    let position = cluster.propose(1, command("a")).expect("1 leads");
    cluster.deliver(|_| true);
    cluster.persist(2, usize::MAX);
    cluster.persist(3, usize::MAX);
    cluster.deliver(|_| true);
    assert!(cluster.raft(1).committed() >= position.index);
    assert!(cluster.raft(1).persisted() < position.index);
    assert_eq!(
        cluster.apply(1, usize::MAX),
        0,
        "not applied before it is durable here"
    );
    cluster.persist(1, usize::MAX);
    assert_eq!(cluster.apply(1, usize::MAX), 1);
}

/// §4.2.2 and LIVENESS P6: who stops leading says so, and drops what it cannot confirm any more.
#[test]
fn thesis_4_2_2_who_stops_leading_says_so_first() {
    let mut cluster = Cluster::led(3, 1);
    cluster.read(1, 1).expect("1 leads");
    cluster
        .step_only(1, Event::StepDown(StepDownReason::Shutdown))
        .expect("1 leads");
    cluster.pump(1);
    assert_eq!(cluster.node(1).view.role, Role::Follower);
    assert_eq!(cluster.node(1).reads[&1], None);
    let released = cluster
        .network
        .iter()
        .filter(|message| message.body == Body::Release);
    assert_eq!(released.count(), 2);
}

/// §3.4: a proposal to a follower names the leader, so that clients find it.
#[test]
fn thesis_6_1_followers_name_the_leader() {
    let mut cluster = Cluster::led(3, 1);
    assert_eq!(
        cluster.propose(2, Payload::Noop),
        Err(Error::NotLeader {
            leader: Some(peer(1))
        })
    );
}
