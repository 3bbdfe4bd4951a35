//! Stores that are let in and lie (RELIABILITY R34): what they say ends nobody else, and where it shows it is told.

use proto::pontoon::v1 as wire;
use proto::pontoon::v1::raft_message::Body;
use raft::PeerId;
use store::event::{Event, SecondLeader};

use crate::harness::{Cluster, r, region, s};

/// Led by store 1, whose peer is 11.
fn led() -> Cluster {
    let mut cluster = Cluster::new(3, &[region(1, "", "", &[1, 2, 3])]);
    cluster.elect_at(r(1), 1);
    cluster.put(r(1), "k", "true");
    cluster
}

fn tell(cluster: &mut Cluster, to: u64, frame: wire::Frame) {
    cluster.step(s(to), Event::Frame { from: s(3), frame });
}

/// A heartbeat of a leader.
fn beat(from_peer: u64, to_peer: u64, term: u64) -> wire::Frame {
    let beats = wire::HeartbeatBatch {
        region_ids: vec![1],
        from_peers: vec![from_peer],
        to_peers: vec![to_peer],
        terms: vec![term],
        commits: vec![1],
        rounds: vec![0],
        conf_vers: vec![1],
        ..Default::default()
    };
    wire::Frame {
        heartbeats: Some(beats),
        ..Default::default()
    }
}

/// Entries of a leader, of which it says that they are committed.
fn append(cluster: &Cluster, to: u64, term: u64) -> wire::Frame {
    let last = cluster.store(to).raft(r(1)).expect("it runs").last();
    let append = wire::Append {
        previous_term: last.term,
        previous_index: last.index,
        commit: last.index + 1,
        entries: vec![wire::Entry {
            term,
            index: last.index + 1,
            ..Default::default()
        }],
    };
    let message = wire::RaftMessage {
        region_id: 1,
        from_peer: 13,
        to_peer: 10 + to,
        from_store: 3,
        to_store: to,
        epoch: cluster.view(to, r(1)).region.region_epoch,
        term,
        body: Some(Body::Append(append)),
    };
    wire::Frame {
        messages: vec![message],
        ..Default::default()
    }
}

/// Offers a snapshot in the name of `from_peer`, and brings it if that is granted. Tells whether it was.
fn snapshot(cluster: &mut Cluster, from_peer: u64, to: u64, term: u64, index: u64) -> bool {
    let descriptor = cluster.view(to, r(1)).region.clone();
    let offer = wire::SnapshotOffer {
        region: Some(descriptor.clone()),
        from_peer,
        to_peer: 10 + to,
        from_store: 3,
        term,
        index,
        ..Default::default()
    };
    let frame = wire::Frame {
        offers: vec![offer],
        ..Default::default()
    };
    tell(cluster, to, frame);
    if cluster.nodes[&s(to)].transfers.is_empty() {
        return false;
    }
    let head = wire::SnapshotHead {
        region: Some(descriptor),
        from_peer,
        to_peer: 10 + to,
        from_store: 3,
        leader_term: term,
        term: 1,
        index,
        slot: cluster.granted(to),
        ..Default::default()
    };
    cluster.step(s(to), Event::SnapshotReceived { from: s(3), head });
    cluster.settle();
    true
}

fn told(cluster: &Cluster, store: u64) -> &[SecondLeader] {
    &cluster.nodes[&s(store)].second_leaders
}

/// Who leads stays who was heard first. Whatever the other one says does not count, and is told once a term.
#[test]
fn a_second_leader_of_a_term_is_told_and_not_followed() {
    for to in [1, 2] {
        let mut cluster = led();
        let term = cluster.view(1, r(1)).term;
        let expected = SecondLeader {
            region: r(1),
            peer: PeerId(10 + to),
            term,
            leader: PeerId(11),
            other: PeerId(13),
            other_store: s(3),
        };
        assert_eq!(told(&cluster, to), []);
        tell(&mut cluster, to, beat(13, 10 + to, term));
        assert_eq!(told(&cluster, to), [expected]);
        for _ in 0..3 {
            tell(&mut cluster, to, beat(13, 10 + to, term));
            let lie = append(&cluster, to, term);
            tell(&mut cluster, to, lie);
        }
        assert_eq!(told(&cluster, to), [expected], "once");
        assert_eq!(cluster.view(to, r(1)).term, term);
        cluster.put(r(1), "k", "still true");
        assert_eq!(cluster.leader(r(1)), Some(s(1)));
        assert_eq!(cluster.local_get(to, "k").as_deref(), Some("still true"));
        // Another term is told of again.
        cluster.elect_at(r(1), 2);
        let later = cluster.view(2, r(1)).term;
        assert!(later > term);
        let lie = append(&cluster, to, later);
        tell(&mut cluster, to, lie);
        let again = SecondLeader {
            term: later,
            leader: PeerId(12),
            ..expected
        };
        assert_eq!(told(&cluster, to), [expected, again]);
    }
}

/// Not even with a snapshot.
#[test]
fn a_snapshot_of_a_second_leader_is_told_and_not_taken() {
    let mut cluster = led();
    let term = cluster.view(1, r(1)).term;
    assert!(snapshot(&mut cluster, 13, 2, term, 99));
    let [told] = told(&cluster, 2) else {
        panic!("one, found {:?}", told(&cluster, 2));
    };
    assert_eq!((told.term, told.other_store), (term, s(3)));
    assert_eq!(cluster.happened.installs, 0);
    assert!(
        cluster.nodes[&s(2)].transfers.is_empty(),
        "its slot is free"
    );
    cluster.put(r(1), "k", "still true");
    assert_eq!(cluster.local_get(2, "k").as_deref(), Some("still true"));
}

/// Terms and indexes at the end of what can be counted would be counted on from there.
#[test]
fn a_snapshot_from_the_end_of_numbers_is_not_taken() {
    for (term, index) in [(u64::MAX, 99), (9, u64::MAX)] {
        let mut cluster = led();
        assert!(snapshot(&mut cluster, 13, 2, term, index));
        assert_eq!(cluster.happened.installs, 0);
        cluster.isolate(s(1));
        cluster.until("another leader", |cluster| {
            cluster.leader(r(1)).is_some_and(|leader| leader != s(1))
        });
    }
}

/// Nor one that a store brings in the name of the leader, which is elsewhere.
#[test]
fn no_store_offers_snapshots_for_a_peer_of_another() {
    let mut cluster = led();
    let term = cluster.view(1, r(1)).term;
    assert!(!snapshot(&mut cluster, 11, 2, term, 99));
    assert!(
        snapshot(&mut cluster, 13, 2, term + 1, 99),
        "its own it may"
    );
}

/// A store that names the receiver itself as the leader of a region that is not known there yet.
#[test]
fn no_store_speaks_in_the_name_of_the_receiver() {
    let mut cluster = led();
    let mut frame = append(&cluster, 2, 7);
    for message in &mut frame.messages {
        (message.region_id, message.from_peer, message.to_peer) = (5, 52, 52);
    }
    tell(&mut cluster, 2, frame);
    cluster.settle();
    let raft = cluster.store(2).raft(r(5));
    assert_eq!(raft.and_then(raft::Raft::leader), None);
    assert_eq!(raft.map_or(0, raft::Raft::term), 0);
    cluster.ticks(70);
    assert_eq!(cluster.get(r(1), "k"), Some("true".to_owned()));
}
