//! Every format survives encoding, decoding and random bytes (R34).

use bytes::Bytes;
use proptest::prelude::*;
use prost::Message as _;
use proto::pontoon::v1 as wire;
use proto::{RegionId, StoreId, metapb};
use raft::{
    AppendResult, Body, Entry, LogPosition, MembershipChange, Message, Payload, PeerId,
    RefusalReason,
};
use store::codec::{self, DecodeError};
use store::{keys, value};

fn bytes(max: usize) -> impl Strategy<Value = Bytes> {
    proptest::collection::vec(any::<u8>(), 0..max).prop_map(Bytes::from)
}

fn sealed() -> impl Strategy<Value = Bytes> {
    (bytes(20), bytes(40), 0..3usize).prop_map(|(key, value, count)| {
        let put = wire::Operation {
            kind: Some(wire::operation::Kind::Put(wire::Put {
                key,
                value,
                expires_at: 0,
            })),
        };
        let operations = vec![put; count];
        let request_operations = vec![1; count];
        codec::seal(&wire::Command {
            region_id: 3,
            operations,
            request_operations,
            ..Default::default()
        })
    })
}

fn change() -> impl Strategy<Value = MembershipChange> {
    let peer = || (1..100u64).prop_map(PeerId);
    let peers = || proptest::collection::vec(peer(), 0..4);
    prop_oneof![
        peer().prop_map(MembershipChange::AddLearner),
        peer().prop_map(MembershipChange::RemoveLearner),
        (peers(), peers())
            .prop_map(|(promote, demote)| MembershipChange::EnterJoint { promote, demote }),
        Just(MembershipChange::LeaveJoint),
    ]
}

fn payload() -> impl Strategy<Value = Payload> {
    prop_oneof![
        Just(Payload::Noop),
        sealed().prop_map(Payload::Command),
        sealed().prop_map(Payload::Structural),
        (change(), sealed()).prop_map(|(change, context)| Payload::Membership { change, context }),
        Just(Payload::Membership {
            change: MembershipChange::LeaveJoint,
            context: Bytes::new()
        }),
    ]
}

fn entry() -> impl Strategy<Value = Entry> {
    (1..u64::MAX, 1..u64::MAX, payload()).prop_map(|(term, index, payload)| Entry {
        term,
        index,
        payload,
    })
}

fn refusal() -> impl Strategy<Value = Option<RefusalReason>> {
    prop_oneof![
        Just(None),
        Just(Some(RefusalReason::Pledged)),
        Just(Some(RefusalReason::LeaderHeard)),
        Just(Some(RefusalReason::BetterLog)),
        Just(Some(RefusalReason::Term)),
    ]
}

fn position() -> impl Strategy<Value = LogPosition> {
    (any::<u64>(), 0..1u64 << 60).prop_map(|(term, index)| LogPosition { term, index })
}

fn body() -> impl Strategy<Value = Body> {
    let released = || proptest::option::of(any::<u64>());
    prop_oneof![
        (position(), released())
            .prop_map(|(last, released)| Body::PreVoteRequest { last, released }),
        (position(), released(), any::<bool>()).prop_map(|(last, released, transfer)| {
            Body::VoteRequest {
                last,
                released,
                transfer,
            }
        }),
        refusal().prop_map(|refusal| Body::PreVoteResponse { refusal }),
        refusal().prop_map(|refusal| Body::VoteResponse { refusal }),
        (
            position(),
            proptest::collection::vec(payload(), 0..4),
            any::<u64>()
        )
            .prop_map(|(previous, payloads, commit)| {
                let entries = (previous.index + 1..).zip(payloads);
                let entries = entries
                    .map(|(index, payload)| Entry {
                        term: 9,
                        index,
                        payload,
                    })
                    .collect();
                Body::Append {
                    previous,
                    entries,
                    commit,
                }
            }),
        (any::<u64>(), any::<u64>()).prop_map(|(index, commit)| Body::AppendResponse {
            result: AppendResult::Matched(index),
            commit,
            pledge: None,
        }),
        (any::<u64>(), position(), any::<u64>()).prop_map(|(rejected, hint, commit)| {
            Body::AppendResponse {
                result: AppendResult::Mismatch { rejected, hint },
                commit,
                pledge: std::num::NonZeroU64::new(commit),
            }
        }),
        (position(), any::<u64>()).prop_map(|(lost, commit)| Body::AppendResponse {
            result: AppendResult::Lost(lost),
            commit,
            pledge: None,
        }),
        (any::<u64>(), any::<u64>()).prop_map(|(commit, round)| Body::Heartbeat { commit, round }),
        (any::<u64>(), any::<u64>()).prop_map(|(commit, round)| Body::HeartbeatResponse {
            commit,
            round,
            pledge: std::num::NonZeroU64::new(round % 3),
        }),
        any::<u64>().prop_map(|request| Body::ReadIndexRequest { request }),
        (any::<u64>(), proptest::option::of(any::<u64>()))
            .prop_map(|(request, index)| Body::ReadIndexResponse { request, index }),
        Just(Body::TimeoutNow),
        Just(Body::Release),
    ]
}

proptest! {
    #[test]
    fn entries_survive_disk_and_wire(entry in entry()) {
        let record = codec::encode_record(&codec::entry_to_wire(&entry));
        prop_assert_eq!(codec::entry_from_disk(entry.index, &record), Ok(entry.clone()));
        prop_assert!(codec::entry_from_disk(entry.index.wrapping_add(1), &record).is_err());
        let encoded = codec::entry_to_wire(&entry).encode_to_vec();
        let decoded = wire::Entry::decode(&encoded[..]).expect("it was just encoded");
        prop_assert_eq!(codec::entry_from_wire(decoded), Ok(entry));
    }

    #[test]
    fn a_flipped_bit_of_a_payload_is_found(payload in sealed(), at in any::<prop::sample::Index>(), bit in 0..8u8) {
        let mut bad = payload.to_vec();
        let at = at.index(bad.len());
        bad[at] ^= 1 << bit;
        prop_assert_eq!(codec::unseal(&bad.clone().into()), Err(DecodeError::Checksum));
        let entry = Entry { term: 1, index: 2, payload: Payload::Command(payload) };
        let damaged = wire::Entry { payload: bad.into(), ..codec::entry_to_wire(&entry) };
        prop_assert_eq!(codec::entry_from_wire(damaged), Err(DecodeError::Checksum));
    }

    #[test]
    fn messages_survive_the_wire(from in 1..100u64, to in 1..100u64, term in any::<u64>(), body in body()) {
        let message = Message { from: PeerId(from), to: PeerId(to), term, support: None, body };
        let epoch = metapb::RegionEpoch { conf_ver: 1, version: 2 };
        let route = codec::Route { region: RegionId(5), from_store: StoreId(1), to_store: StoreId(2), epoch };
        let decoded = match codec::message_to_wire(message.clone(), route) {
            codec::Outgoing::Message(wire) => {
                let wire = wire::RaftMessage::decode(&wire.encode_to_vec()[..]).expect("it was just encoded");
                codec::message_from_wire(wire).expect("it is well formed").expect("it has a body")
            }
            codec::Outgoing::Heartbeat(beat) => through_columns(beat).into_message(false),
            codec::Outgoing::HeartbeatResponse(beat) => through_columns(beat).into_message(true),
        };
        prop_assert_eq!(decoded, message);
    }

    #[test]
    fn random_bytes_are_refused_or_decoded(noise in bytes(200)) {
        if let Ok(frame) = wire::Frame::decode(noise.clone()) {
            for message in frame.messages {
                let _refused = codec::message_from_wire(message);
            }
        }
        if let Ok(message) = wire::RaftMessage::decode(noise.clone()) {
            let _refused = codec::message_from_wire(message);
        }
        let _refused = codec::entry_from_disk(1, &noise);
        let _refused = codec::unseal(&noise);
        let _refused = codec::decode_record::<wire::RegionState>(&noise);
        let _refused = value::decode(noise.clone());
        let _unknown = keys::LogKey::parse(&noise);
        let _unknown = keys::parse_region_state(&noise);
    }

    #[test]
    fn values_survive(stored in bytes(50), expires_at in prop_oneof![Just(0), any::<u64>()]) {
        let decoded = value::decode(value::encode(&stored, expires_at)).expect("it was just encoded");
        prop_assert_eq!(&decoded.value, &stored);
        prop_assert_eq!(decoded.expires_at, expires_at);
        prop_assert_eq!(decoded.is_live(u64::MAX), expires_at == 0);
    }

    #[test]
    fn keys_sort_as_regions_and_indexes(a in (1..50u64, 1..50u64), b in (1..50u64, 1..50u64)) {
        let (first, second) = (keys::entry(RegionId(a.0), a.1), keys::entry(RegionId(b.0), b.1));
        prop_assert_eq!(first.cmp(&second), a.cmp(&b));
        prop_assert_eq!(keys::LogKey::parse(&first), Some(keys::LogKey::Entry(RegionId(a.0), a.1)));
        prop_assert!(first[..] < keys::raft_state(RegionId(a.0))[..]);
        prop_assert!(keys::peer_mark(RegionId(u64::MAX - 1))[..] < *keys::IDENTITY);
    }

    #[test]
    fn data_keys_keep_their_order(a in bytes(6), b in bytes(6)) {
        prop_assert_eq!(keys::data(&a).cmp(&keys::data(&b)), a.cmp(&b));
        let key = keys::data(&a);
        prop_assert_eq!(keys::user_key(&key), Some(&a[..]));
        prop_assert!(keys::data(&a) < keys::data_end(b""));
    }
}

/// All pairs of ranges over a few keys; 11 as an end stands for the end of all keys. The twin enumerates keys.
#[test]
fn range_arithmetic_agrees_with_points() {
    let end = |at: u8| if at == 11 { Vec::new() } else { vec![at] };
    let inside = |range: (u8, u8), key: u8| key >= range.0 && (range.1 == 11 || key < range.1);
    let ranges = || (0..12).flat_map(|start| (start + 1..=11).map(move |end| (start, end)));
    for a in ranges() {
        let a_end = end(a.1);
        for key in 0..=20 {
            assert_eq!(keys::contains(&[a.0], &a_end, &[key]), inside(a, key));
        }
        for b in ranges() {
            let b_end = end(b.1);
            let shared = (0..=20).any(|key| inside(a, key) && inside(b, key));
            let covered = (0..=20).all(|key| !inside(b, key) || inside(a, key));
            let (overlap, covers) = (
                keys::overlap(&[a.0], &a_end, &[b.0], &b_end),
                keys::covers(&[a.0], &a_end, &[b.0], &b_end),
            );
            assert_eq!((overlap, covers), (shared, covered), "{a:?} {b:?}");
        }
    }
}

/// Pledges are told in a column of their own, as long as the others, and only if there is one.
#[test]
fn pledges_of_many_rows_stay_with_their_rows() {
    let row = |region: u64, pledge: u64| codec::Beat {
        region: RegionId(region),
        from: PeerId(1),
        to: PeerId(2),
        term: 3,
        commit: 4,
        round: 5,
        conf_ver: Some(6),
        pledge: std::num::NonZeroU64::new(pledge),
    };
    for (pledges, told) in [
        (&[0, 0][..], &[][..]),
        (&[0, 7, 0], &[0, 7, 0]),
        (&[7, 0], &[7, 0]),
    ] {
        let rows: Vec<_> = (1..)
            .zip(pledges)
            .map(|(region, pledge)| row(region, *pledge))
            .collect();
        let mut batch = wire::HeartbeatBatch::default();
        rows.iter().for_each(|row| row.push_to(&mut batch));
        assert_eq!(batch.pledges, told);
        assert_eq!(codec::Beat::rows(&batch).collect::<Vec<_>>(), rows);
    }
    let mut uneven = wire::HeartbeatBatch::default();
    row(1, 7).push_to(&mut uneven);
    row(2, 7).push_to(&mut uneven);
    uneven.pledges.pop();
    assert_eq!(codec::Beat::rows(&uneven).count(), 0);
}

fn through_columns(beat: codec::Beat) -> codec::Beat {
    let mut batch = wire::HeartbeatBatch::default();
    beat.push_to(&mut batch);
    let batch =
        wire::HeartbeatBatch::decode(&batch.encode_to_vec()[..]).expect("it was just encoded");
    let rows: Vec<_> = codec::Beat::rows(&batch).collect();
    assert_eq!(rows.len(), 1);
    rows[0]
}
