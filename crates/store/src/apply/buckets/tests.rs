use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn limits(bytes: u64, keys: u64) -> SplitOptions {
    SplitOptions {
        bytes,
        keys,
        ..SplitOptions::default()
    }
}

fn key(number: u64) -> Vec<u8> {
    format!("k{number:06}").into_bytes()
}

/// Buckets beside what they stand for: every key with its size.
struct Twin {
    buckets: Buckets,
    content: BTreeMap<Vec<u8>, u64>,
    limits: SplitOptions,
}

impl Twin {
    fn new(limits: SplitOptions) -> Twin {
        Twin {
            buckets: Buckets::new(0, 0),
            content: BTreeMap::new(),
            limits,
        }
    }

    fn put(&mut self, key: &[u8], bytes: u64) {
        let replaced = self.content.insert(key.to_vec(), bytes);
        self.buckets.change(key, |bucket| {
            bucket.bytes = (bucket.bytes + bytes).saturating_sub(replaced.unwrap_or(0));
            bucket.keys += u64::from(replaced.is_none());
        });
        if replaced.is_none() {
            self.buckets.note_added(key, &self.limits);
        }
    }

    fn bytes_in(&self, start: &[u8], end: &[u8]) -> u64 {
        let inside = |key: &[u8]| crate::keys::contains(start, end, key);
        let of = self.content.iter().filter(|(key, _)| inside(key));
        of.map(|(_, bytes)| bytes).sum()
    }

    fn remove_range(&mut self, start: &[u8], end: &[u8]) {
        let content = self.content.clone();
        let inside = |key: &[u8], start: &[u8], end: &[u8]| crate::keys::contains(start, end, key);
        let removed = self.buckets.remove_range(start, end, |lower, upper| {
            let of = content.iter().filter(|(key, _)| inside(key, lower, upper));
            Ok::<u64, ()>(of.map(|(_, bytes)| bytes).sum())
        });
        removed.expect("nothing fails");
        self.content.retain(|key, _| !inside(key, start, end));
    }
}

/// Where a split at these keys would leave how many bytes.
fn pieces(twin: &Twin, keys: &[Bytes]) -> Vec<u64> {
    let mut edges = vec![Bytes::new()];
    edges.extend_from_slice(keys);
    edges.push(Bytes::new());
    edges
        .windows(2)
        .map(|pair| twin.bytes_in(&pair[0], &pair[1]))
        .collect()
}

proptest! {
    /// Whatever happens: few buckets in order, sums that agree, and pieces that hold all that the whole held.
    #[test]
    fn buckets_stay_few_ordered_and_complete(
        operations in prop::collection::vec((0u8..10, 0u64..400, 1u64..500), 1..600),
        limit in 100u64..20_000,
        cuts in prop::collection::btree_set(0u64..400, 0..4),
    ) {
        let mut twin = Twin::new(limits(limit, limit / 50));
        for (kind, number, bytes) in operations {
            match kind {
                0 => {
                    let (start, end) = (key(number), key(number + bytes % 100));
                    twin.remove_range(&start, &end);
                }
                1 if number < 20 => twin.remove_range(&key(number), b""),
                _ => twin.put(&key(number), bytes),
            }
            twin.buckets.check();
            let keys = twin.buckets.split_keys(&twin.limits, 9);
            prop_assert!(keys.windows(2).all(|pair| pair[0] < pair[1]) && keys.len() <= 9);
            prop_assert!(keys.is_empty() || twin.buckets.bytes() >= limit || twin.buckets.keys() >= limit / 50);
            // An edge is a key that was written.
            prop_assert!(keys.iter().all(|key| key.len() == 7), "{keys:?}");
        }
        let (bytes, all) = (twin.buckets.bytes(), twin.buckets.keys());
        let cuts: Vec<Bytes> = cuts.into_iter().map(|cut| key(cut).into()).collect();
        let pieces = twin.buckets.divide(&cuts, None);
        prop_assert_eq!(pieces.len(), cuts.len() + 1);
        pieces.iter().for_each(Buckets::check);
        prop_assert_eq!(pieces.iter().map(Buckets::bytes).sum::<u64>(), bytes);
        prop_assert_eq!(pieces.iter().map(Buckets::keys).sum::<u64>(), all);
    }

    /// Keys that come in any order: a full region is cut near the middle of what it really holds.
    #[test]
    fn the_middle_is_found(seed in any::<u64>(), spread in 1u64..5, ascending in any::<bool>()) {
        let mut twin = Twin::new(limits(100_000, 0));
        let mut random = seed | 1;
        let mut count = 0;
        while twin.buckets.bytes() < 100_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let number = if ascending {
                count
            } else {
                // Denser at the low end the larger the spread.
                (0..spread).fold(900_000, |number, turn| number * (1 + (random >> (24 + turn * 8)) % 99) / 100)
            };
            count += 1;
            // Every key is another.
            let key = [key(number), count.to_be_bytes().to_vec()].concat();
            twin.put(&key, 40 + random % 20);
        }
        let keys = twin.buckets.split_keys(&twin.limits, 9);
        prop_assert_eq!(keys.len(), 1);
        let pieces = pieces(&twin, &keys);
        prop_assert!(pieces.iter().all(|bytes| *bytes > 33_000), "{pieces:?}");
    }
}

#[test]
fn a_region_far_above_its_limit_is_cut_into_many() {
    let mut twin = Twin::new(limits(10_000, 0));
    (0..1_000u64).for_each(|number| twin.put(&key(number * 7 % 1_000), 50));
    let keys = twin.buckets.split_keys(&twin.limits, 9);
    let pieces = pieces(&twin, &keys);
    assert!((8..=10).contains(&pieces.len()), "{pieces:?}");
    assert!(
        pieces.iter().all(|bytes| (2_000..10_000).contains(bytes)),
        "{pieces:?}"
    );
    let few = twin.buckets.split_keys(&twin.limits, 2);
    assert_eq!(few, keys[..2]);
}

#[test]
fn keys_count_as_well_as_bytes() {
    let mut twin = Twin::new(limits(u64::MAX, 320));
    (0..319).for_each(|number| twin.put(&key(number), 1));
    assert_eq!(twin.buckets.split_keys(&twin.limits, 9), [] as [Bytes; 0]);
    twin.put(&key(319), 1);
    let keys = twin.buckets.split_keys(&twin.limits, 9);
    assert_eq!(keys.len(), 1);
    assert!(pieces(&twin, &keys).iter().all(|bytes| *bytes > 100));
}

#[test]
fn one_bucket_knows_no_key() {
    let buckets = Buckets::new(1_000, 10);
    assert_eq!(
        buckets.split_keys(&limits(100, 0), 9),
        [] as [Bytes; 0],
        "rather no split than a blind one"
    );
    let edges = vec![(Bytes::new(), 3), (Bytes::from_static(b"m"), 1)];
    let buckets = Buckets::with_edges(1_001, 10, edges);
    buckets.check();
    assert_eq!((buckets.bytes(), buckets.list()[1].bytes), (1_001, 250));
    assert_eq!(buckets.split_keys(&limits(800, 0), 9), [b"m".as_slice()]);
}

/// Of what lies on either side of an edge a part may really lie on the other; what was uncertain before goes along.
#[test]
fn doubts_are_divided_and_grow() {
    let whole = || {
        let edges = vec![(Bytes::new(), 600), (Bytes::from_static(b"m"), 400)];
        let mut buckets = Buckets::with_edges(1_000, 100, edges);
        buckets.doubt(100);
        buckets
    };
    let pieces = whole().divide(&[Bytes::from_static(b"m")], None);
    let uncertain: Vec<_> = pieces.iter().map(|piece| piece.uncertain_bytes).collect();
    assert_eq!(uncertain, [60 + 100, 40 + 100]);
    let removed = |start: &[u8], end: &[u8]| {
        let mut buckets = whole();
        let removed = buckets.remove_range(start, end, |_, _| Ok::<u64, ()>(100));
        removed.expect("the index tells");
        (buckets.bytes(), buckets.uncertain_bytes)
    };
    assert_eq!(removed(b"m", b""), (600, 100 + 100), "all of one");
    assert_eq!(removed(b"a", b"c"), (900, 100 + 600), "a part of one");
}
