//! Records of a store's disk and messages between stores: each by itself, and a whole directory of them.
//!
//! What is decoded is encoded to the same. A directory opens or is refused by a typed error; a store that opened keeps its
//! invariants while it works.

use std::fmt::Debug;

use ::store::codec::{self, Beat, Outgoing, Record, Route};
use ::store::{Store, identity, keys};
use bytes::Bytes;
use engine::{Batch, Change, Engine, Family, Logging, MemoryEngine};
use prost::Message;
use proto::pontoon::v1 as wire;
use proto::{RegionId, StoreId};

use crate::node::Node;
use crate::words::{freeze, head, id, key, peer, record, region, several};
use crate::{Input, Seeds, words};

/// One run.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    match input.pick(12) {
        0 => decoded::<wire::StoreIdentity>(&mut input),
        1 => decoded::<wire::RaftState>(&mut input),
        2 => decoded::<wire::AppliedState>(&mut input),
        3 => decoded::<wire::RegionState>(&mut input),
        4 => decoded::<wire::PeerMark>(&mut input),
        5 => entry(&mut input),
        6 => message(&mut input),
        7 => command(&mut input),
        8 => beats(&mut input),
        _ => directory(&mut input),
    }
}

/// Examples of each kind.
pub fn seeds() -> Seeds {
    let peers = vec![proto::metapb::Peer {
        id: 3,
        store_id: 1,
        ..Default::default()
    }];
    let region = proto::metapb::Region {
        id: 2,
        end_key: Bytes::from_static(b"m"),
        region_epoch: Some(Default::default()),
        peers,
        ..Default::default()
    };
    let state = wire::RegionState {
        region: Some(region.clone()),
        peer_id: 3,
        ..Default::default()
    };
    let frozen = wire::RegionState {
        freeze: Some(wire::Freeze {
            term: 5,
            index: 9,
            target: Some(region.clone()),
            witness_key: Bytes::from_static(b"x"),
        }),
        ..state.clone()
    };
    let raft_state = wire::RaftState {
        term: 5,
        vote: 3,
        commit: 8,
        compacted_term: 1,
        compacted_index: 1,
        peer_id: 3,
    };
    let applied = wire::AppliedState {
        index: 8,
        term: 5,
        bytes: 100,
        digest: Some(wire::Digest { since: 1, value: 7 }),
        ..Default::default()
    };
    let mark = wire::PeerMark {
        peer_id: 3,
        conf_ver: Some(4),
        ..Default::default()
    };
    let identity = wire::StoreIdentity {
        cluster_id: 7,
        store_id: 1,
        boot: 2,
        format: 2,
        api_version: 1,
        ..Default::default()
    };
    let put = wire::operation::Kind::Put(wire::Put {
        key: Bytes::from_static(b"k"),
        value: Bytes::from_static(b"v"),
        expires_at: 0,
    });
    let command = wire::Command {
        region_id: 2,
        epoch: Some(Default::default()),
        operations: vec![wire::Operation { kind: Some(put) }],
        request_operations: vec![1],
        ..Default::default()
    };
    let payload = codec::seal(&command);
    let entry = wire::Entry {
        term: 5,
        index: 2,
        kind: wire::entry::Kind::Command as i32,
        crc32c: payload.first_chunk().copied().map_or(0, u32::from_be_bytes),
        payload,
        change: None,
    };
    let message = wire::RaftMessage {
        region_id: 2,
        from_peer: 4,
        to_peer: 3,
        from_store: 2,
        to_store: 1,
        term: 5,
        body: Some(wire::raft_message::Body::Append(wire::Append {
            previous_term: 1,
            previous_index: 1,
            commit: 2,
            entries: vec![entry.clone()],
        })),
        ..Default::default()
    };
    let rows = wire::HeartbeatBatch {
        region_ids: vec![2, 5],
        from_peers: vec![4, 6],
        to_peers: vec![3, 7],
        terms: vec![5, 5],
        commits: vec![8, 9],
        rounds: vec![0, 1],
        conf_vers: vec![4, 4],
        pledges: vec![0, 3],
    };
    let kind = |kind: u8, bytes: &[u8]| [&[kind], bytes].concat();
    // Each record: where it is, then what it says.
    let live = [
        // Region 2 with peer 3, which has a log of two entries.
        &[0, 2, 5, 3, 3, 1, 1, 3][..],
        &[2, 2, 0, 2, 0, 100, 1, 1, 1, 1, 3, 1, 0, 3, 0, 0, 0, 0, 0],
        &[3, 2, 2, 1, 0, 0, 0, 0],
        &[4, 2, 2, 5, 0, 0],
        &[4, 2, 3, 5, 1, 40, 1, 0, 100, 1, 118, 0, 2, 0, 1, 1, 0, 7],
    ];
    let installing = [
        &[0, 2, 5, 3, 9, 4, 9, 3][..],
        &[
            1, 2, 3, 1, 7, 4, 3, 2, 5, 4, 9, 0, 2, 0, 100, 1, 2, 1, 3, 1, 0, 0, 0, 0, 0, 0,
        ],
    ];
    vec![
        ("identity", kind(0, &codec::encode_record(&identity))),
        ("raft-state", kind(1, &codec::encode_record(&raft_state))),
        ("applied", kind(2, &codec::encode_record(&applied))),
        ("region-state", kind(3, &codec::encode_record(&state))),
        ("frozen", kind(3, &codec::encode_record(&frozen))),
        ("mark", kind(4, &codec::encode_record(&mark))),
        ("entry", kind(5, &codec::encode_record(&entry))),
        ("message", kind(6, &message.encode_to_vec())),
        ("command", kind(7, &command.encode_to_vec())),
        ("beats", kind(8, &rows.encode_to_vec())),
        ("live", kind(9, &live.concat())),
        ("installing", kind(9, &installing.concat())),
    ]
}

fn decoded<M: Record + Default + Debug + PartialEq>(input: &mut Input<'_>) {
    let Some(record) = codec::decode_record::<M>(&Bytes::copy_from_slice(input.rest())) else {
        return;
    };
    let encoded = codec::encode_record(&record);
    assert_eq!(codec::decode_record(&encoded), Some(record));
}

fn entry(input: &mut Input<'_>) {
    let Some(mut entry) =
        codec::decode_record::<wire::Entry>(&Bytes::copy_from_slice(input.rest()))
    else {
        return;
    };
    let (index, given) = (entry.index, entry.clone());
    let read = codec::entry_from_wire(given.clone());
    let disk = codec::entry_from_disk(index, &codec::encode_record(&given));
    assert_eq!(disk, read);
    let elsewhere = codec::entry_from_disk(index ^ 1, &codec::encode_record(&given));
    assert!(elsewhere.is_err(), "an entry at the wrong key");
    // Once more with a checksum that fits.
    if entry.payload.len() >= 4 {
        let mut payload = entry.payload.to_vec();
        entry.crc32c = crc32c::crc32c(&payload[4..]);
        payload[..4].copy_from_slice(&entry.crc32c.to_be_bytes());
        entry.payload = payload.into();
    }
    for entry in [read, codec::entry_from_wire(entry)].into_iter().flatten() {
        let wire = codec::entry_to_wire(&entry);
        assert_eq!(codec::entry_from_wire(wire), Ok(entry));
    }
}

fn message(input: &mut Input<'_>) {
    let Ok(message) = wire::RaftMessage::decode(input.rest()) else {
        return;
    };
    let (term, epoch) = (message.term, message.epoch.unwrap_or_default());
    let Ok(Some(message)) = codec::message_from_wire(message) else {
        return;
    };
    assert_eq!(message.term, term);
    let route = Route {
        region: RegionId(2),
        from_store: StoreId(2),
        to_store: StoreId(1),
        epoch,
    };
    match codec::message_to_wire(message.clone(), route) {
        Outgoing::Message(wire) => {
            let again = codec::message_from_wire(*wire);
            assert_eq!(again, Ok(Some(message)));
        }
        Outgoing::Heartbeat(_) | Outgoing::HeartbeatResponse(_) => {
            panic!("heartbeats come in batches")
        }
    }
}

fn command(input: &mut Input<'_>) {
    let payload = Bytes::copy_from_slice(input.rest());
    let _any = codec::unseal(&payload);
    let Ok(command) = wire::Command::decode(payload) else {
        return;
    };
    let sealed = codec::seal(&command);
    assert_eq!(codec::unseal(&sealed), Ok(command));
    let mut harmed = sealed.to_vec();
    harmed[usize::from(input.byte()) % sealed.len()] ^= 1;
    assert!(codec::unseal(&harmed.into()).is_err());
}

fn beats(input: &mut Input<'_>) {
    let Ok(batch) = wire::HeartbeatBatch::decode(input.rest()) else {
        return;
    };
    let mut again = wire::HeartbeatBatch::default();
    let rows: Vec<Beat> = Beat::rows(&batch).collect();
    rows.iter().for_each(|row| row.push_to(&mut again));
    assert!(rows.is_empty() || again == batch);
    assert!(Beat::rows(&again).eq(rows));
}

/// A directory with these records, opened.
fn directory(input: &mut Input<'_>) {
    let engine = MemoryEngine::new();
    identity::create(&engine, 7, StoreId(1), 1).expect("it is empty");
    for _ in 0..24 {
        if input.is_over() {
            break;
        }
        put(input, &engine);
    }
    let Some(mut node) = Node::open(engine) else {
        return;
    };
    for _ in 0..20 {
        if !node.tick() {
            // It says that it must stop.
            return;
        }
    }
    // Records that contradict each other may be told only now, when something came to rest on them; but they are told.
    if let Ok(store) = Store::open(node.stopped(), Default::default()) {
        store.check_invariants();
    }
}

fn put(input: &mut Input<'_>, engine: &MemoryEngine) {
    let kind = input.byte();
    let at = RegionId(id(input));
    let (family, key, value): (_, Bytes, Bytes) = match kind % 8 {
        0 => {
            let state = wire::RaftState {
                term: input.number(),
                vote: id(input),
                commit: input.number(),
                compacted_term: input.number(),
                compacted_index: input.number(),
                peer_id: id(input),
            };
            let key = keys::raft_state(at).to_vec();
            (Family::Log, key.into(), codec::encode_record(&state))
        }
        1 => {
            let mark = wire::PeerMark {
                peer_id: id(input),
                installing: input.flag().then(|| head(input)),
                dead_peer_id: id(input),
                replaces: several(input, 2, |input| wire::ReplacedPeer {
                    region_id: id(input),
                    peer_id: id(input),
                }),
                conf_ver: input.flag().then(|| input.number()),
                contacts: several(input, 2, peer),
            };
            let key = keys::peer_mark(at).to_vec();
            (Family::Log, key.into(), codec::encode_record(&mark))
        }
        2 => {
            let state = wire::RegionState {
                state: i32::from(input.byte() % 3),
                region: (input.byte() != 255).then(|| region(input)),
                peer_id: id(input),
                reason: String::new(),
                freeze: (input.byte() % 4 == 3).then(|| freeze(input)),
                records: several(input, 2, record),
                absorber_id: if input.byte() % 4 == 3 { id(input) } else { 0 },
                damaged: input.byte() % 4 == 3,
            };
            let key = keys::region_state(at).to_vec();
            (Family::State, key.into(), codec::encode_record(&state))
        }
        3 => {
            let state = wire::AppliedState {
                index: input.number(),
                term: input.number(),
                bytes: input.number(),
                keys: input.number(),
                uncertain_bytes: input.number(),
                digest: input.flag().then(|| words::digest(input)),
            };
            let key = keys::applied_state(at).to_vec();
            (Family::State, key.into(), codec::encode_record(&state))
        }
        4 | 5 => {
            let (index, term) = (input.number(), input.number());
            let entry = words::entry(input, term, index);
            let key = keys::entry(at, index).to_vec();
            (Family::Log, key.into(), codec::encode_record(&entry))
        }
        6 => {
            let user = key(input);
            let value = Bytes::copy_from_slice(input.bytes());
            (Family::State, keys::data(&user), value)
        }
        _ => {
            let family = if input.flag() {
                Family::Log
            } else {
                Family::State
            };
            let key = Bytes::copy_from_slice(input.bytes());
            (family, key, Bytes::copy_from_slice(input.bytes()))
        }
    };
    let change = Change::Put(key, value);
    let batch = Batch {
        family,
        changes: vec![change],
    };
    engine.write(batch, Logging::On).expect("memory writes");
}
