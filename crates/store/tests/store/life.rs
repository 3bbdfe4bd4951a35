//! Opening directories, identities, hostile bytes.

use bytes::Bytes;
use engine::{Batch, Change, Engine, Family, Logging, MemoryEngine};
use proto::metapb;
use proto::pontoon::v1 as wire;
use proto::pontoon::v1::region_state::State;
use store::event::Event;
use store::{Error, Store, identity, keys};

use crate::harness::*;

#[test]
fn identities_are_checked() {
    let engine = MemoryEngine::new();
    assert!(identity::read(&engine).expect("readable").is_none());
    assert!(matches!(
        identity::bump_boot(&engine),
        Err(Error::NoIdentity)
    ));
    assert!(matches!(
        Store::open(engine.clone(), options()),
        Err(Error::NoIdentity)
    ));
    identity::create(&engine, 7, s(3), 2).expect("the directory is empty");
    assert!(matches!(
        identity::create(&engine, 8, s(4), 2),
        Err(Error::IdentityExists {
            cluster: 7,
            store: 3
        })
    ));
    assert_eq!(identity::bump_boot(&engine).expect("it is there").boot, 1);
    let engine = engine.crash(POWER);
    assert_eq!(
        identity::bump_boot(&engine).expect("it is there").boot,
        2,
        "the counter was synced"
    );
    assert_eq!(
        Store::open(engine.clone(), options())
            .expect("it opens")
            .id(),
        s(3)
    );
    let older = wire::StoreIdentity {
        cluster_id: 7,
        store_id: 3,
        boot: 2,
        format: 1,
        api_version: 1,
        ..Default::default()
    };
    write(&engine, keys::IDENTITY, store::codec::encode_record(&older));
    let raised = identity::bump_boot(&engine).expect("earlier formats are read");
    assert_eq!((raised.boot, raised.format), (3, identity::FORMAT));
    let newer = wire::StoreIdentity {
        cluster_id: 7,
        store_id: 3,
        boot: 2,
        format: 9,
        api_version: 1,
        ..Default::default()
    };
    write(&engine, keys::IDENTITY, store::codec::encode_record(&newer));
    assert!(matches!(
        Store::open(engine.clone(), options()),
        Err(Error::Format { found: 9, .. })
    ));
    write(&engine, keys::IDENTITY, Bytes::from_static(b"\x01nonsense"));
    assert!(matches!(
        Store::open(engine, options()),
        Err(Error::CorruptIdentity)
    ));
}

fn write(engine: &MemoryEngine, key: &[u8], value: Bytes) {
    let changes = vec![Change::Put(Bytes::copy_from_slice(key), value)];
    engine
        .write(
            Batch {
                family: Family::Log,
                changes,
            },
            Logging::On,
        )
        .expect("it writes");
}

#[test]
fn damaged_records_stop_the_store() {
    let mut cluster = Cluster::new(3, &[region(1, "", "", &[1, 2, 3])]);
    cluster.put(r(1), "a", "1");
    cluster.put(r(1), "b", "2");
    cluster.crash(s(1), KILL);
    let engine = cluster.nodes[&s(1)].engine.clone();
    let open = || Store::open(engine.clone(), options()).map(|_| ());
    assert!(open().is_ok());
    for key in [
        &keys::entry(r(1), 2)[..],
        &keys::raft_state(r(1)),
        &keys::peer_mark(r(1)),
    ] {
        let good = engine
            .get(Family::Log, key)
            .expect("readable")
            .expect("there");
        for at in 0..good.len() {
            let mut bad = good.to_vec();
            bad[at] ^= 0x40;
            write(&engine, key, bad.into());
            // Not every flip can be told from a good record, but none may panic.
            let _result = open();
        }
        write(&engine, key, Bytes::from_static(b""));
        assert!(matches!(
            open(),
            Err(Error::Corrupt { .. } | Error::Engine(engine::Error::Corrupt { .. }))
        ));
        write(&engine, key, good);
        assert!(open().is_ok());
    }
    // A payload that was changed is always found.
    let key = keys::entry(r(1), 3);
    let good = engine
        .get(Family::Log, &key)
        .expect("readable")
        .expect("there");
    if let Some(at) = good.windows(1).rposition(|byte| byte == b"1") {
        let mut bad = good.to_vec();
        bad[at] = b'7';
        write(&engine, &key, bad.into());
        assert!(matches!(
            open(),
            Err(Error::Corrupt { .. } | Error::Engine(engine::Error::Corrupt { .. }))
        ));
    }
}

/// What a record names would be written and cleared in the place of what it is the record of.
#[test]
fn records_of_other_regions_stop_the_store() {
    let mut cluster = Cluster::new(1, &[region(1, "", "", &[1])]);
    cluster.put(r(1), "a", "1");
    cluster.crash(s(1), KILL);
    let engine = cluster.nodes[&s(1)].engine.clone();
    let refused = |what: &str| match Store::open(engine.clone(), options()).map(|_| ()) {
        Err(Error::Corrupt { region, what: why }) => region == r(1) && why == what,
        _ => false,
    };
    let head = wire::SnapshotHead {
        region: Some(region(2, "", "", &[1])),
        to_peer: 11,
        ..Default::default()
    };
    let mark = wire::PeerMark {
        peer_id: 11,
        installing: Some(head),
        ..Default::default()
    };
    let good = engine.get(Family::Log, &keys::peer_mark(r(1)));
    write(
        &engine,
        &keys::peer_mark(r(1)),
        store::codec::encode_record(&mark),
    );
    assert!(refused("the peer mark"));
    let good = good.expect("readable").expect("there");
    write(&engine, &keys::peer_mark(r(1)), good);
    let wrong = [region(2, "", "", &[1]), region(1, "b", "a", &[1])];
    let states = [State::Normal, State::Tombstone];
    for (state, region) in states
        .into_iter()
        .flat_map(|state| wrong.clone().map(|region| (state, region)))
    {
        let state = wire::RegionState {
            state: state as i32,
            region: Some(region),
            peer_id: 11,
            ..Default::default()
        };
        let key = Bytes::copy_from_slice(&keys::region_state(r(1)));
        let changes = vec![Change::Put(key, store::codec::encode_record(&state))];
        let batch = Batch {
            family: Family::State,
            changes,
        };
        engine.write(batch, Logging::On).expect("it writes");
        assert!(refused("the region state"));
    }
}

/// The mark of an install is written in one batch with the log that the snapshot leaves, and names who received it.
#[test]
fn install_marks_fit_the_log_beside_them() {
    let engine = MemoryEngine::new();
    identity::create(&engine, 7, s(1), 1).expect("the directory is empty");
    let state = wire::RaftState {
        term: 6,
        commit: 9,
        compacted_term: 5,
        compacted_index: 9,
        peer_id: 11,
        ..Default::default()
    };
    write(
        &engine,
        &keys::raft_state(r(1)),
        store::codec::encode_record(&state),
    );
    let sound = wire::SnapshotHead {
        to_peer: 11,
        from_peer: 12,
        from_store: 2,
        leader_term: 6,
        term: 5,
        index: 9,
        region: Some(region(1, "", "", &[1, 2])),
        ..Default::default()
    };
    let opened = |head: wire::SnapshotHead| {
        let mark = wire::PeerMark {
            peer_id: 11,
            installing: Some(head),
            ..Default::default()
        };
        write(
            &engine,
            &keys::peer_mark(r(1)),
            store::codec::encode_record(&mark),
        );
        Store::open(engine.clone(), options()).map(|store| store.check_invariants())
    };
    assert!(opened(sound.clone()).is_ok());
    let wrong = [
        wire::SnapshotHead {
            to_peer: 12,
            ..sound.clone()
        },
        wire::SnapshotHead {
            index: 8,
            ..sound.clone()
        },
        wire::SnapshotHead {
            region: Some(region(1, "", "", &[2])),
            ..sound
        },
    ];
    for head in wrong {
        let what = "the install mark";
        assert!(
            matches!(opened(head), Err(Error::Corrupt { region, what: why }) if region == r(1) && why == what)
        );
    }
}

#[test]
fn hostile_frames_change_nothing() {
    use wire::merge_message::Kind;

    let mut cluster = Cluster::new(3, &[region(1, "", "", &[1, 2, 3])]);
    cluster.put(r(1), "a", "1");
    let term = cluster.view(1, r(1)).term;
    let message = |body| wire::RaftMessage {
        region_id: 1,
        from_peer: 12,
        to_peer: 11,
        from_store: 2,
        to_store: 1,
        epoch: Some(metapb::RegionEpoch {
            conf_ver: 1,
            version: 1,
        }),
        term: 1,
        body: Some(body),
    };
    use wire::raft_message::Body;
    let entry = wire::Entry {
        term: 1,
        index: 9,
        kind: 7,
        ..Default::default()
    };
    let append = wire::Append {
        previous_term: 1,
        previous_index: 8,
        commit: 3,
        entries: vec![entry],
    };
    let bodies = vec![
        Body::Append(append),
        Body::VoteResponse(wire::VoteResponse { refusal: 99 }),
        Body::PreVoteResponse(wire::VoteResponse { refusal: -1 }),
    ];
    let mut messages: Vec<_> = bodies.into_iter().map(message).collect();
    messages.push(wire::RaftMessage::default());
    messages.push(wire::RaftMessage {
        region_id: 77,
        to_peer: 5,
        from_peer: 6,
        to_store: 1,
        from_store: 2,
        ..Default::default()
    });
    let uneven = wire::HeartbeatBatch {
        region_ids: vec![1, 2],
        from_peers: vec![12],
        ..Default::default()
    };
    let frame = wire::Frame {
        messages,
        notices: vec![wire::Notice {
            to_peer: 11,
            region: None,
        }],
        offers: vec![
            wire::SnapshotOffer::default(),
            wire::SnapshotOffer {
                region: Some(Default::default()),
                ..Default::default()
            },
        ],
        answers: vec![wire::SnapshotAnswer {
            region_id: 1,
            from_peer: 12,
            to_peer: 11,
            kind: None,
        }],
        heartbeats: Some(uneven.clone()),
        heartbeat_responses: Some(uneven),
        digests: vec![wire::PeerDigest::default()],
        sums: vec![wire::PeerSum::default()],
        sums_noted: vec![wire::SumNoted::default()],
        pledges_held: vec![wire::PledgeHeld::default()],
        pledges_void: vec![wire::PledgeHeld::default()],
        merges: vec![
            wire::MergeMessage::default(),
            merge_message(Kind::Commit(wire::MergePlea::default())),
            merge_message(Kind::Abort(wire::MergePlea::default())),
            merge_message(Kind::Verdict(wire::MergeVerdict { committed: false })),
            merge_message(Kind::DeathQuestion(wire::MergeDeathQuestion::default())),
            merge_message(Kind::Death(wire::MergeDeath::default())),
        ],
    };
    cluster.step(s(1), Event::Frame { from: s(2), frame });
    let head = wire::SnapshotHead {
        to_peer: 11,
        ..Default::default()
    };
    cluster.step(s(1), Event::SnapshotReceived { from: s(2), head });
    cluster.settle();
    assert_eq!(cluster.view(1, r(1)).term, term);
    assert_eq!(cluster.store(1).peer_count(), 1);
    cluster.put(r(1), "a", "2");
}

fn merge_message(kind: wire::merge_message::Kind) -> wire::MergeMessage {
    wire::MergeMessage {
        merge: Some(wire::MergeId {
            source_id: 1,
            freeze_index: 2,
        }),
        kind: Some(kind),
    }
}

/// A store that speaks for a member of another store is not listened to: a second leader of a term would be made up.
#[test]
fn members_are_heard_from_their_own_store_only() {
    use wire::raft_message::Body;

    let mut cluster = Cluster::new(3, &[region(1, "", "", &[1, 2, 3])]);
    cluster.elect_at(r(1), 1);
    cluster.put(r(1), "a", "1");
    let (before, follower) = (cluster.view(1, r(1)), cluster.view(2, r(1)).peer);
    let beat = |term: u64, from: u64| wire::HeartbeatBatch {
        region_ids: vec![1],
        from_peers: vec![from],
        to_peers: vec![follower.0],
        terms: vec![term],
        commits: vec![0],
        rounds: vec![0],
        conf_vers: vec![1],
        pledges: vec![],
    };
    for term in [before.term, before.term + 5] {
        for from in [cluster.view(3, r(1)).peer, before.peer] {
            let other = if from == before.peer { s(3) } else { s(1) };
            let frame = wire::Frame {
                heartbeats: Some(beat(term, from.0)),
                ..Default::default()
            };
            cluster.step(s(2), Event::Frame { from: other, frame });
        }
        let message = wire::RaftMessage {
            region_id: 1,
            from_peer: before.peer.0,
            to_peer: follower.0,
            from_store: 3,
            to_store: 2,
            term: term + 1,
            body: Some(Body::VoteRequest(wire::VoteRequest {
                last_term: term + 1,
                last_index: 1_000,
                released: None,
                transfer: true,
            })),
            ..Default::default()
        };
        let frame = wire::Frame {
            messages: vec![message],
            ..Default::default()
        };
        cluster.step(s(2), Event::Frame { from: s(3), frame });
    }
    cluster.settle();
    assert_eq!(cluster.view(2, r(1)).term, before.term);
    cluster.put(r(1), "b", "2");
}

#[test]
fn heartbeats_of_all_regions_travel_in_one_frame() {
    // Counts, not seconds: an idle follower leaves nothing to take, and heartbeats travel as columns.
    let regions: Vec<_> = (1..=500u64)
        .map(|id| {
            let start = if id == 1 {
                String::new()
            } else {
                format!("{id:05}")
            };
            let end = if id == 500 {
                String::new()
            } else {
                format!("{:05}", id + 1)
            };
            region(id, &start, &end, &[1, 2, 3])
        })
        .collect();
    let mut cluster = Cluster::new(3, &regions);
    cluster.until("all are led", |cluster| {
        (1..=500).all(|id| cluster.leader(r(id)).is_some())
    });
    cluster.ticks(20);
    let frames = std::rc::Rc::new(std::cell::RefCell::new((0, 0, 0)));
    let seen = frames.clone();
    cluster.filter(move |_, _, frame| {
        let mut seen = seen.borrow_mut();
        seen.0 += 1;
        seen.1 += frame.messages.len();
        let beats = [&frame.heartbeats, &frame.heartbeat_responses];
        seen.2 += beats
            .iter()
            .filter_map(|beats| beats.as_ref())
            .map(|beats| beats.region_ids.len())
            .sum::<usize>();
    });
    cluster.ticks(2);
    let (frames, messages, beats) = *frames.borrow();
    assert_eq!(messages, 0, "idle regions send nothing but heartbeats");
    assert!(beats >= 1000, "every leader beats");
    assert!(frames <= 40, "{frames} frames carried {beats} beats");
}
