//! What other systems of many Raft groups have paid for (docs/regions.md §10, "Elsewhere").

use proto::metapb::{self, PeerRole};
use proto::pontoon::v1 as wire;
use raft::PeerId;
use store::Options;
use store::event::{Event, OrderKind};

use crate::harness::*;

fn four() -> Cluster {
    let mut cluster = Cluster::new(4, &[region(1, "", "", &[1, 2, 3])]);
    cluster.put(r(1), "a", "1");
    cluster.elect_at(r(1), 1);
    cluster
}

/// Asks the peer of store 3 for its vote, in a term above all, as somebody would who has not heard of its removal.
fn ask_for_a_vote(cluster: &mut Cluster, term: u64) {
    let request = wire::VoteRequest {
        last_term: term,
        last_index: 1_000_000,
        ..Default::default()
    };
    let message = wire::RaftMessage {
        region_id: 1,
        from_peer: 12,
        to_peer: 13,
        from_store: 2,
        to_store: 3,
        epoch: Some(metapb::RegionEpoch {
            conf_ver: 1,
            version: 1,
        }),
        term,
        body: Some(wire::raft_message::Body::VoteRequest(request)),
    };
    let frame = wire::Frame {
        messages: vec![message],
        ..Default::default()
    };
    cluster.step(s(3), Event::Frame { from: s(2), frame });
}

/// A removed peer dies, and power fails after any step of that, with everything lost that was not synced. If it is back, nobody
/// counts on it and it raises no term; it dies again; and once it is dead, nothing brings it back to vote.
#[test]
fn tombstone_lost() {
    let mut steps_most = 0;
    for stop_after in 0..8 {
        let mut cluster = four();
        cluster.add_learner(r(1), 14, 4);
        cluster.isolate(s(3));
        cluster.swap_peers(r(1), 14, 13);
        cluster.remove_learner(r(1), 13);
        let term = cluster.view(1, r(1)).term;
        cluster.heal();
        let mut steps = 0;
        while cluster.has_view(3, r(1)) || steps < stop_after {
            let dying = !cluster.has_view(3, r(1));
            let mut busy = cluster.deliver();
            for other in [s(1), s(2), s(4)] {
                busy |= cluster.work(other);
            }
            if cluster.work(s(3)) {
                steps += usize::from(dying);
            } else if !busy {
                if dying {
                    break;
                }
                for id in [s(1), s(2), s(3), s(4)] {
                    cluster.step(id, Event::Tick);
                }
            }
        }
        steps_most = steps_most.max(steps);
        cluster.crash(s(3), POWER);
        cluster.restart(s(3));
        ask_for_a_vote(&mut cluster, 50);
        cluster.until("it dies", |cluster| cluster.store(3).peer_count() == 0);
        for _ in 0..2 {
            ask_for_a_vote(&mut cluster, 60);
            cluster.settle();
            assert_eq!(cluster.store(3).peer_count(), 0, "dead after {steps} steps");
            cluster.ticks(20);
            cluster.crash(s(3), POWER);
            cluster.restart(s(3));
        }
        assert_eq!(cluster.view(1, r(1)).term, term, "no term was raised");
        cluster.put(r(1), "b", "2");
        cluster.assert_same_data(&[1, 2, 4]);
    }
    assert!((2..7).contains(&steps_most), "{steps_most} steps to die");
}

/// All stores lose power with a joint configuration in their logs, committed, that nobody applied. It counts from the first moment
/// on, is applied and left.
#[test]
fn change_unapplied_at_restart() {
    let mut cluster = four();
    cluster.add_learner(r(1), 14, 4);
    for store in 1..=4 {
        cluster.hold_apply.insert(s(store));
    }
    let kind = OrderKind::EnterJoint {
        promote: vec![PeerId(14)],
        demote: vec![PeerId(13)],
    };
    cluster
        .order(r(1), kind)
        .expect("the joint change is proposed");
    cluster.ticks(5);
    let raft = |cluster: &Cluster, store: u64| {
        let raft = cluster.store(store).raft(r(1)).expect("it is there");
        (
            raft.membership().is_joint(),
            raft.applied(),
            raft.committed(),
        )
    };
    let (joint, applied, committed) = raft(&cluster, 1);
    assert!(joint && applied < committed, "{applied} of {committed}");
    for store in 1..=4 {
        cluster.crash(s(store), POWER);
    }
    for store in 1..=4 {
        cluster.hold_apply.insert(s(store));
        cluster.restart(s(store));
        assert!(raft(&cluster, store).0, "store {store} knows of it");
    }
    // A majority of the new half without the old one decides nothing: 3 and 2 are away, so the old voters have no majority.
    cluster.isolate(s(2));
    cluster.isolate(s(3));
    cluster.ticks(40);
    assert_eq!(cluster.leader(r(1)), None);
    cluster.heal();
    cluster.hold_apply.clear();
    cluster.until("it is left", |cluster| {
        (1..=4).all(|store| {
            let view = cluster.view(store, r(1));
            let mut roles = view.region.peers.iter().map(|peer| (peer.id, peer.role()));
            roles.all(|(id, role)| match id {
                13 => role == PeerRole::Learner,
                _ => role == PeerRole::Voter,
            })
        })
    });
    cluster.put(r(1), "b", "2");
    cluster.assert_same_data(&[1, 2, 3, 4]);
}

/// A follower is behind the log, writes go on all the time and the log is compacted as soon as can be: one snapshot is enough, and
/// not one after the other.
#[test]
fn snapshot_compaction_loop() {
    let options = Options {
        compact_entries: 5,
        compact_tail_entries: 0,
        ..options()
    };
    let regions = [region(1, "", "", &[1, 2, 3])];
    let mut cluster = Cluster::with(3, &regions, options, Default::default());
    cluster.elect_at(r(1), 1);
    cluster.crash(s(3), KILL);
    let mut written = 0_u64;
    let mut write = |cluster: &mut Cluster, count: u64| {
        for _ in 0..count {
            cluster.put(r(1), &format!("k{written}"), "x");
            written += 1;
        }
        written
    };
    write(&mut cluster, 40);
    cluster.restart(s(3));
    for _ in 0..60 {
        write(&mut cluster, 3);
        cluster.tick();
    }
    let last = write(&mut cluster, 1) - 1;
    cluster.ticks(3);
    assert!(cluster.local_get(3, &format!("k{last}")).is_some());
    assert_eq!(cluster.happened.installs, 1);
    cluster.assert_same_data(&[1, 2, 3]);
}

/// F32: every store loses power and starts again, with many regions. All are led within 10T, after three elections at the most.
#[test]
fn all_stores_restart() {
    let count = 40_u64;
    let key = |number: u64| match number {
        0 => String::new(),
        number if number == count => String::new(),
        number => format!("{number:02}"),
    };
    let regions: Vec<metapb::Region> = (0..count)
        .map(|number| region(number + 1, &key(number), &key(number + 1), &[1, 2, 3]))
        .collect();
    let mut cluster = Cluster::new(3, &regions);
    for number in 1..=count {
        cluster.elect_at(r(number), number % 3 + 1);
    }
    let term = |cluster: &Cluster, number: u64| {
        let terms = (1..=3).map(|store| cluster.view(store, r(number)).term);
        terms.max().expect("three")
    };
    let before: Vec<u64> = (1..=count).map(|number| term(&cluster, number)).collect();
    for store in 1..=3 {
        cluster.crash(s(store), POWER);
    }
    for store in 1..=3 {
        cluster.restart(s(store));
    }
    let mut ticks = 0;
    while (1..=count).any(|number| cluster.leader(r(number)).is_none()) {
        cluster.tick();
        ticks += 1;
        assert!(ticks <= 10 * cluster.options.raft.election_ticks);
    }
    for (number, before) in (1..).zip(before) {
        let elections = term(&cluster, number) - before;
        assert!(elections <= 3, "region {number}: {elections} elections");
    }
    cluster.put(r(7), &key(6), "1");
    cluster.assert_same_data(&[1, 2, 3]);
}
