use proptest::prelude::*;
use proto::metapb::{Peer, PeerRole, RegionEpoch};

use super::*;

fn peer(id: u64) -> Peer {
    Peer {
        id,
        store_id: id % 10,
        ..Default::default()
    }
}

fn descriptor(id: u64, start: &[u8], end: &[u8], version: u64) -> metapb::Region {
    metapb::Region {
        id,
        start_key: Bytes::copy_from_slice(start),
        end_key: Bytes::copy_from_slice(end),
        region_epoch: Some(RegionEpoch {
            conf_ver: 1,
            version,
        }),
        peers: [1, 2, 3].map(|store| peer(id * 10 + store)).to_vec(),
        ..Default::default()
    }
}

fn region(id: u64, start: &[u8], end: &[u8], version: u64) -> Region {
    Region::new(descriptor(id, start, end, version), None).unwrap()
}

fn id_at(cache: &RegionCache, key: &[u8]) -> Option<u64> {
    cache.get(key).map(|region| region.id.0)
}

#[test]
fn lookups_find_the_covering_region() {
    let mut cache = RegionCache::new(100);
    for (id, start, end) in [(1, "", "b"), (2, "b", "d"), (3, "f", "")] {
        assert!(cache.insert(region(id, start.as_bytes(), end.as_bytes(), 1)));
    }
    let expected = [
        ("", Some(1)),
        ("a", Some(1)),
        ("b", Some(2)),
        ("c", Some(2)),
        ("d", None),
        ("f", Some(3)),
        ("z", Some(3)),
    ];
    for (key, id) in expected {
        assert_eq!(id_at(&cache, key.as_bytes()), id, "{key:?}");
    }
    let expected = [
        ("", Some(3)),
        ("a", Some(1)),
        ("b", Some(1)),
        ("c", Some(2)),
        ("d", Some(2)),
        ("e", None),
        ("g", Some(3)),
    ];
    for (upper, id) in expected {
        assert_eq!(
            cache.get_below(upper.as_bytes()).map(|region| region.id.0),
            id,
            "{upper:?}"
        );
    }
}

#[test]
fn a_split_replaces_its_parent_and_older_news_do_not_come_back() {
    let mut cache = RegionCache::new(100);
    assert!(cache.insert(region(1, b"a", b"z", 4)));
    let asked = (**cache.get(b"m").unwrap()).clone();
    assert!(cache.learn(
        &asked,
        vec![descriptor(2, b"a", b"m", 5), descriptor(1, b"m", b"z", 5)]
    ));
    assert_eq!(
        (id_at(&cache, b"b"), id_at(&cache, b"m")),
        (Some(2), Some(1))
    );
    assert!(
        !cache.insert(region(1, b"a", b"z", 4)),
        "the parent before the split"
    );
    assert!(
        !cache.insert(region(7, b"a", b"z", 4)),
        "an older region over the same range"
    );
    assert!(
        !cache.learn(&asked, vec![descriptor(2, b"a", b"m", 5)]),
        "nothing new"
    );
    assert!(cache.insert(region(1, b"a", b"z", 6)), "the merge of both");
    assert_eq!(id_at(&cache, b"b"), Some(1));
    cache.check_invariants();
}

#[test]
fn an_answer_with_our_own_region_unchanged_or_older_teaches_nothing() {
    let mut cache = RegionCache::new(100);
    cache.insert(region(1, b"a", b"z", 4));
    let asked = (**cache.get(b"m").unwrap()).clone();
    assert!(!cache.learn(&asked, vec![descriptor(1, b"a", b"z", 4)]));
    assert!(!cache.learn(&asked, vec![descriptor(1, b"a", b"zz", 3)]));
    assert_eq!(**cache.get(b"m").unwrap(), asked);
}

#[test]
fn pieces_of_a_split_are_asked_on_the_store_that_told() {
    let mut cache = RegionCache::new(100);
    cache.insert(region(1, b"a", b"z", 4));
    let asked = (**cache.get(b"m").unwrap()).clone();
    cache.set_leader(&asked, &peer(13));
    let asked = (**cache.get(b"m").unwrap()).clone();
    cache.learn(
        &asked,
        vec![descriptor(2, b"a", b"m", 5), descriptor(1, b"m", b"z", 5)],
    );
    assert_eq!(cache.get(b"b").unwrap().peer().store_id, 3);
    assert_eq!(cache.get(b"n").unwrap().peer().id, 13);
}

#[test]
fn requests_follow_the_leader_and_go_round_without_one() {
    let mut cache = RegionCache::new(100);
    cache.insert(region(1, b"", b"", 1));
    let asked = (**cache.get(b"k").unwrap()).clone();
    cache.set_leader(&asked, &peer(12));
    assert_eq!(cache.get(b"k").unwrap().peer().id, 12);
    let asked = (**cache.get(b"k").unwrap()).clone();
    cache.rotate(&asked);
    cache.rotate(&asked);
    let next = (**cache.get(b"k").unwrap()).clone();
    assert_eq!(
        (next.peer().id, next.stale),
        (13, false),
        "the second failure of the same target changes nothing"
    );
    cache.rotate(&next);
    let next = cache.get(b"k").unwrap();
    assert_eq!(
        (next.peer().id, next.stale),
        (11, true),
        "after a round placement is asked"
    );
    assert!(cache.insert(region(1, b"", b"", 1)));
    assert!(
        !cache.get(b"k").unwrap().stale,
        "an equal copy is fresh again"
    );
    cache.set_leader(&asked, &peer(99));
    assert!(
        cache.get(b"k").unwrap().stale,
        "an unknown leader means that members changed"
    );
}

#[test]
fn news_about_another_epoch_change_nothing() {
    let mut cache = RegionCache::new(100);
    cache.insert(region(1, b"", b"", 1));
    let asked = (**cache.get(b"k").unwrap()).clone();
    cache.insert(region(1, b"", b"", 2));
    cache.mark_stale(&asked);
    cache.rotate(&asked);
    let cached = cache.get(b"k").unwrap();
    assert_eq!((cached.stale, cached.target), (false, 0));
}

#[test]
fn senseless_descriptors_are_refused() {
    assert!(Region::new(descriptor(0, b"", b"", 1), None).is_none());
    assert!(Region::new(descriptor(1, b"b", b"a", 1), None).is_none());
    assert!(Region::new(descriptor(1, b"b", b"b", 1), None).is_none());
    let mut learners = descriptor(1, b"", b"", 1);
    for peer in &mut learners.peers {
        peer.set_role(PeerRole::Learner);
    }
    assert!(Region::new(learners, None).is_none());
}

/// The twin: all accepted regions in a list, looked through from the front.
#[derive(Default)]
struct Naive(Vec<Region>);

fn overlap(a: &Region, b: &Region) -> bool {
    (a.end.is_empty() || b.start < a.end) && (b.end.is_empty() || a.start < b.end)
}

impl Naive {
    fn insert(&mut self, region: Region) -> bool {
        let newer = |cached: &Region| {
            if cached.id == region.id {
                (cached.epoch.version, cached.epoch.conf_ver)
                    > (region.epoch.version, region.epoch.conf_ver)
            } else {
                overlap(cached, &region) && cached.epoch.version > region.epoch.version
            }
        };
        if self.0.iter().any(newer) {
            return false;
        }
        self.0
            .retain(|cached| cached.id != region.id && !overlap(cached, &region));
        self.0.push(region);
        true
    }

    fn get(&self, key: &[u8]) -> Option<u64> {
        self.0
            .iter()
            .find(|region| region.contains(key))
            .map(|region| region.id.0)
    }

    /// The region of the greatest possible key below `upper`: with one-byte boundaries, any longer key will do.
    fn get_below(&self, upper: &[u8]) -> Option<u64> {
        match upper {
            [] => self.get(&[0xFF; 4]),
            [0] => self.get(&[]),
            [byte, ..] => self.get(&[byte - 1, 0xFF, 0xFF]),
        }
    }
}

fn any_region() -> impl Strategy<Value = Region> {
    let byte = 0..12u8;
    (1..6u64, byte.clone(), byte, 1..6u64).prop_filter_map(
        "an empty range",
        |(id, start, end, version)| {
            // 0 is the border of the key space on either side.
            let start = if start == 0 { vec![] } else { vec![start] };
            let end = if end == 0 { vec![] } else { vec![end] };
            Region::new(descriptor(id, &start, &end, version), None)
        },
    )
}

proptest! {
    #[test]
    fn the_cache_agrees_with_its_twin(regions in prop::collection::vec(any_region(), 1..60)) {
        let (mut cache, mut naive) = (RegionCache::new(1_000), Naive::default());
        for region in regions {
            prop_assert_eq!(cache.insert(region.clone()), naive.insert(region));
            cache.check_invariants();
            for byte in 0..13u8 {
                for key in [vec![], vec![byte], vec![byte, 0xFF]] {
                    prop_assert_eq!(cache.get(&key).map(|region| region.id.0), naive.get(&key));
                }
                let below = cache.get_below(&[byte]).map(|region| region.id.0);
                prop_assert_eq!(below, naive.get_below(&[byte]), "below {}", byte);
            }
            prop_assert_eq!(cache.get_below(&[]).map(|region| region.id.0), naive.get_below(&[]));
        }
    }

    #[test]
    fn the_cache_stays_within_its_limit(regions in prop::collection::vec(any_region(), 1..60), limit in 1..4usize) {
        let mut cache = RegionCache::new(limit);
        for region in regions {
            cache.insert(region);
            cache.check_invariants();
        }
    }
}
