//! Reading from views, against an obviously right twin.

use std::collections::BTreeMap;

use bytes::Bytes;
use engine::{Batch, Change, Direction, Engine, Family, Logging, MemoryEngine};
use proptest::prelude::*;
use store::read::{self, Scan};
use store::{keys, value};

fn engine(pairs: &BTreeMap<Vec<u8>, (Vec<u8>, u64)>) -> MemoryEngine {
    let engine = MemoryEngine::new();
    let mut changes = vec![
        Change::Put(
            Bytes::copy_from_slice(&keys::region_state(proto::RegionId(1))),
            Bytes::from_static(b"x"),
        ),
        Change::Put(Bytes::from_static(&[0x11]), Bytes::from_static(b"not data")),
    ];
    for (key, (stored, expires_at)) in pairs {
        changes.push(Change::Put(
            keys::data(key),
            value::encode(stored, *expires_at),
        ));
    }
    engine
        .write(
            Batch {
                family: Family::State,
                changes,
            },
            Logging::On,
        )
        .expect("it writes");
    engine
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(0..4u8, 0..3)
}

proptest! {
    #[test]
    fn scans_agree_with_a_map(
        pairs in proptest::collection::btree_map(key(), (proptest::collection::vec(any::<u8>(), 0..8), 0..4u64), 0..30),
        start in key(),
        end in key(),
        limit in 0..10usize,
        bytes_max in 1..60usize,
        key_only in any::<bool>(),
        backward in any::<bool>(),
        now in 0..5u64,
    ) {
        let engine = engine(&pairs);
        let direction = if backward { Direction::Backward } else { Direction::Forward };
        let scan = Scan { start: &start, end: &end, direction, limit, bytes_max, key_only, now };
        let page = read::scan(&engine.view(), &scan).expect("good values");
        let live = pairs.iter().filter(|(key, (_, expires_at))| {
            keys::contains(&start, &end, key) && (*expires_at == 0 || *expires_at > now)
        });
        let mut expected: Vec<(Bytes, Bytes)> = live
            .map(|(key, (stored, _))| {
                let stored = if key_only { Bytes::new() } else { Bytes::copy_from_slice(stored) };
                (Bytes::copy_from_slice(key), stored)
            })
            .collect();
        if backward {
            expected.reverse();
        }
        let mut bytes = 0;
        let mut taken = 0;
        for (key, stored) in &expected {
            bytes += key.len() + stored.len();
            if taken == limit || (taken > 0 && bytes > bytes_max) {
                break;
            }
            taken += 1;
        }
        let next = expected.get(taken).map(|(key, _)| key.clone()).filter(|_| limit > 0);
        expected.truncate(taken);
        prop_assert_eq!(page.pairs, expected);
        prop_assert_eq!(page.next, next);
    }

    #[test]
    fn clamping_agrees_with_points(start in key(), end in key(), region_start in key(), region_end in key()) {
        prop_assume!(region_end.is_empty() || region_start < region_end);
        let clamped = read::clamp(&start, &end, &region_start, &region_end);
        for length in 0..3 {
            for at in 0..4u8.pow(length) {
                let point: Vec<u8> = (0..length).map(|digit| at / 4u8.pow(digit) % 4).collect();
                let wanted = keys::contains(&start, &end, &point) && keys::contains(&region_start, &region_end, &point);
                let got = clamped.is_some_and(|(start, end)| keys::contains(start, end, &point));
                prop_assert_eq!(got, wanted, "{:?} in {:?}", point, clamped);
            }
        }
    }
}

#[test]
fn single_keys_and_expiry() {
    let pairs = BTreeMap::from([
        (b"a".to_vec(), (b"1".to_vec(), 0)),
        (b"b".to_vec(), (b"2".to_vec(), 100)),
        (b"".to_vec(), (b"empty key".to_vec(), 0)),
    ]);
    let view = engine(&pairs).view();
    assert_eq!(
        read::get(&view, b"a", 0).expect("good").as_deref(),
        Some(&b"1"[..])
    );
    assert_eq!(
        read::get(&view, b"b", 99).expect("good").as_deref(),
        Some(&b"2"[..])
    );
    assert_eq!(read::get(&view, b"b", 100).expect("good"), None);
}

#[test]
fn damaged_values_are_errors() {
    let engine = MemoryEngine::new();
    let changes = vec![
        Change::Put(keys::data(b"a"), Bytes::from_static(&[7, 1, 2])),
        Change::Put(keys::data(b"b"), Bytes::new()),
        Change::Put(keys::data(b"c"), Bytes::from_static(&[1, 0, 0])),
    ];
    engine
        .write(
            Batch {
                family: Family::State,
                changes,
            },
            Logging::On,
        )
        .expect("it writes");
    for key in [b"a", b"b", b"c"] {
        assert!(matches!(
            read::get(&engine.view(), key, 0),
            Err(engine::Error::Corrupt { .. })
        ));
        let scan = Scan {
            start: key,
            end: b"",
            direction: Direction::Forward,
            limit: 9,
            bytes_max: 99,
            key_only: true,
            now: 0,
        };
        assert!(matches!(
            read::scan(&engine.view(), &scan),
            Err(engine::Error::Corrupt { .. })
        ));
    }
}
