//! The cursor against a store of the simplest kind: a sorted map, cut into regions.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::{cache::Region, options::ApiVersion};

type Data = BTreeMap<Bytes, Bytes>;

/// What a store answers: the range cut to its region, in order, up to the limit.
fn answer(
    data: &Data,
    start: &Bytes,
    end: &Bytes,
    request: &kv::RawScanRequest,
) -> Vec<kv::KvPair> {
    let (lower, upper) = match request.reverse {
        true => (&request.end_key, &request.start_key),
        false => (&request.start_key, &request.end_key),
    };
    let inside = |key: &Bytes| {
        key >= start
            && (end.is_empty() || key < end)
            && key >= lower
            && (upper.is_empty() || key < upper)
    };
    let mut pairs: Vec<_> = data
        .iter()
        .filter(|(key, _)| inside(key))
        .map(|(key, value)| kv::KvPair {
            key: key.clone(),
            value: value.clone(),
            ..Default::default()
        })
        .collect();
    if request.reverse {
        pairs.reverse();
    }
    pairs.truncate(request.limit as usize);
    pairs
}

/// The region of a place among those that `borders` (wire keys, sorted) cut.
fn region_at(keys: &KeySpace, borders: &[Bytes], place: &Place) -> (Bytes, Bytes) {
    let start = |index: usize| {
        if index == 0 {
            Bytes::new()
        } else {
            borders[index - 1].clone()
        }
    };
    let end = |index: usize| borders.get(index).cloned().unwrap_or_default();
    (0..=borders.len())
        .map(|index| (start(index), end(index)))
        .find(|(start, end)| {
            let region = Region {
                id: proto::RegionId(1),
                epoch: Default::default(),
                start: keys.route(start),
                end: keys.route(end),
                voters: Vec::new(),
                target: 0,
                stale: false,
            };
            match place {
                Place::At(key) => region.contains(key),
                Place::Below(upper) => {
                    (upper.is_empty() || region.start < *upper)
                        && (region.end.is_empty() || !upper.is_empty() && region.end >= *upper)
                }
            }
        })
        .expect("the regions cover everything")
}

/// Runs a scan to its end; returns user pairs and the number of pages.
fn run(
    keys: &KeySpace,
    data: &Data,
    borders: &[Bytes],
    scan: &Scan,
    page: u32,
) -> (Vec<(Bytes, Bytes)>, usize) {
    let mut cursor = Cursor::new(keys, scan).unwrap();
    let (mut found, mut pages) = (Vec::new(), 0);
    while !cursor.is_done() {
        cursor.page = cursor.page.min(page);
        let (start, end) = region_at(keys, borders, &cursor.place(keys));
        let asked = cursor.asked();
        let pairs = answer(data, &start, &end, &cursor.request());
        cursor.advance(&start, &end, asked, &pairs);
        found.extend(
            pairs
                .into_iter()
                .filter_map(|pair| Some((keys.user_key(pair.key)?, pair.value))),
        );
        pages += 1;
        assert!(pages < 1_000, "the scan does not end");
    }
    (found, pages)
}

fn expected(keys: &KeySpace, data: &Data, scan: &Scan) -> Vec<(Bytes, Bytes)> {
    let mut pairs: Vec<_> = data
        .iter()
        .filter_map(|(key, value)| Some((keys.user_key(key.clone())?, value.clone())))
        .filter(|(key, _)| *key >= scan.start && (scan.end.is_empty() || *key < scan.end))
        .collect();
    if scan.reverse {
        pairs.reverse();
    }
    pairs.truncate(scan.limit);
    pairs
}

fn any_key() -> impl Strategy<Value = Bytes> {
    prop::collection::vec(prop::sample::select(vec![0u8, 1, 2, 0xFE, 0xFF]), 1..4)
        .prop_map(Bytes::from)
}

proptest! {
    #[test]
    fn a_scan_over_regions_finds_what_one_look_finds(
        user_keys in prop::collection::btree_set(any_key(), 0..30),
        cuts in prop::collection::btree_set(any_key(), 0..8),
        start in prop_oneof![Just(Bytes::new()), any_key()],
        end in prop_oneof![Just(Bytes::new()), any_key()],
        limit in prop_oneof![Just(usize::MAX), 0..12usize],
        page in 1..5u32,
        reverse: bool,
        version_2: bool,
    ) {
        let api = if version_2 { ApiVersion::V2 { keyspace: 1 } } else { ApiVersion::V1 };
        let keys = KeySpace::new(api).unwrap();
        let mut data: Data =
            user_keys.iter().map(|key| (keys.key(key).unwrap(), Bytes::from_static(b"v"))).collect();
        if version_2 {
            for neighbour in [0, 2] {
                let other = KeySpace::new(ApiVersion::V2 { keyspace: neighbour }).unwrap();
                data.extend(user_keys.iter().map(|key| (other.key(key).unwrap(), Bytes::from_static(b"not ours"))));
            }
        }
        let borders: Vec<Bytes> = cuts.iter().map(|key| keys.key(key).unwrap()).collect();
        let mut scan = Scan::new(start, end).limit(limit);
        scan.reverse = reverse;
        let (found, _) = run(&keys, &data, &borders, &scan, page);
        prop_assert_eq!(found, expected(&keys, &data, &scan));
    }
}

#[test]
fn pages_follow_the_size_of_pairs() {
    let keys = KeySpace::Plain;
    let mut cursor = Cursor::new(&keys, &Scan::new("", "")).unwrap();
    let pair = |bytes: usize| kv::KvPair {
        key: "k".into(),
        value: vec![0; bytes].into(),
        ..Default::default()
    };
    cursor.advance(
        &Bytes::new(),
        &Bytes::from_static(b"z"),
        256,
        &[pair(1 << 19)],
    );
    assert_eq!(cursor.asked(), 1);
    cursor.advance(&Bytes::new(), &Bytes::from_static(b"z"), 256, &[pair(100)]);
    assert_eq!(cursor.asked(), PAGE_MAX);
    cursor.left = 3;
    assert_eq!(cursor.asked(), 3);
}

#[test]
fn a_region_without_pairs_is_skipped() {
    let keys = KeySpace::Plain;
    let data = Data::from([(Bytes::from_static(b"z"), Bytes::new())]);
    let borders = ["b", "d", "f"].map(Bytes::from).to_vec();
    let (found, pages) = run(&keys, &data, &borders, &Scan::new("a", ""), 10);
    assert_eq!((found.len(), pages), (1, 4));
    let (found, pages) = run(&keys, &data, &borders, &Scan::new("a", "c").reverse(), 10);
    assert_eq!((found.len(), pages), (0, 2));
}
