//! What the engine can tell of a region that was not counted here, after a restart or a snapshot: about how its contents
//! are spread, and its last key. Sizes come from the engine's index and edges are found by halving; nothing is scanned.

use std::ops::Bound;

use bytes::Bytes;
use engine::{Direction, Engine, Error, Family, View};

use super::buckets::share_bytes;
use crate::keys;
use crate::options::SplitOptions;

/// Edges looked for in a region, however large it is.
const EDGES_MAX: u64 = 24;

/// Halvings on the way to an edge. Each needs one look at the engine's index.
const HALVINGS_MAX: usize = 64;

/// The largest key in `[start, end)`.
pub(super) fn last_key<E: Engine>(
    engine: &E,
    start: &[u8],
    end: &[u8],
) -> Result<Option<Vec<u8>>, Error> {
    nearest(
        engine,
        &keys::data(start),
        &keys::data_end(end),
        Direction::Backward,
    )
}

/// Starts of buckets of about equal size with their shares, the first of which is the start of the region; `None` when
/// that tells no more than one bucket does.
pub(super) fn edges<E: Engine>(
    engine: &E,
    start: &[u8],
    end: &[u8],
    bytes: u64,
    limits: &SplitOptions,
) -> Result<Option<Vec<(Bytes, u64)>>, Error> {
    let share = share_bytes(limits);
    if share == 0 || bytes <= share {
        return Ok(None);
    }
    let (lower, upper) = (keys::data(start), keys::data_end(end));
    let Some(last) = nearest(engine, &lower, &upper, Direction::Backward)? else {
        return Ok(None);
    };
    let Some(first) = nearest(engine, &lower, &upper, Direction::Forward)? else {
        return Ok(None);
    };
    let (first, last) = (keys::data(&first), keys::data(&last));
    let below = |key: &[u8]| engine.approximate_bytes(Family::State, &first, key);
    let whole = below(&upper)?;
    let count = bytes.div_ceil(share).min(EDGES_MAX);
    let mut edges = vec![(Bytes::new(), 0)];
    let mut counted = 0;
    for part in 1..count {
        let target = whole * part / count;
        let Some(near) = halve(&first, &last, target, whole / (count * 4), below)? else {
            continue;
        };
        let Some(key) = nearest(engine, &near, &upper, Direction::Forward)? else {
            continue;
        };
        let size = below(&keys::data(&key))?;
        let previous = edges.last_mut().expect("the first is there");
        if size <= counted || key <= previous.0 {
            continue;
        }
        previous.1 = size - counted;
        counted = size;
        edges.push((key.into(), 0));
    }
    edges.last_mut().expect("the first is there").1 = whole.saturating_sub(counted);
    Ok((edges.len() > 1).then_some(edges))
}

/// A key between two, below which about `target` bytes lie.
fn halve(
    first: &[u8],
    last: &[u8],
    target: u64,
    tolerance: u64,
    below: impl Fn(&[u8]) -> Result<u64, Error>,
) -> Result<Option<Vec<u8>>, Error> {
    let (mut low, mut high) = (first.to_vec(), last.to_vec());
    let mut found = None;
    for _ in 0..HALVINGS_MAX {
        let Some(middle) = between(&low, &high) else {
            break;
        };
        let size = below(&middle)?;
        found = Some(middle.clone());
        if size.abs_diff(target) <= tolerance {
            break;
        }
        if size < target {
            low = middle;
        } else {
            high = middle;
        }
    }
    Ok(found)
}

/// A string about halfway between two; `None` when they are too close to tell.
fn between(low: &[u8], high: &[u8]) -> Option<Vec<u8>> {
    if low >= high {
        return None;
    }
    let common = low.iter().zip(high).take_while(|(a, b)| a == b).count();
    let number = |key: &[u8]| {
        let mut number = [0; 8];
        for (to, from) in number.iter_mut().zip(&key[common..]) {
            *to = *from;
        }
        u64::from_be_bytes(number)
    };
    let (a, b) = (number(low), number(high));
    let middle = a + b.checked_sub(a)? / 2;
    let mut key = low[..common].to_vec();
    key.extend_from_slice(&middle.to_be_bytes());
    (&key[..] > low && &key[..] < high).then_some(key)
}

/// The first or the last of the user's keys in a range of data keys.
fn nearest<E: Engine>(
    engine: &E,
    lower: &[u8],
    upper: &[u8],
    direction: Direction,
) -> Result<Option<Vec<u8>>, Error> {
    let mut found = None;
    let mut each = |key: &[u8], _: &[u8]| {
        found = keys::user_key(key).map(<[u8]>::to_vec);
        false
    };
    let (lower, upper) = (Bound::Included(lower), Bound::Excluded(upper));
    engine
        .view()
        .scan(Family::State, lower, upper, direction, &mut each)?;
    Ok(found)
}

#[cfg(test)]
mod tests {
    use engine::{Batch, Change, Logging, MemoryEngine};
    use proptest::prelude::*;

    use super::super::buckets::Buckets;
    use super::*;

    fn engine(content: &[(Vec<u8>, usize)]) -> MemoryEngine {
        let engine = MemoryEngine::new();
        let changes = content
            .iter()
            .map(|(key, bytes)| Change::Put(keys::data(key), vec![7; *bytes].into()))
            .collect();
        let batch = Batch {
            family: Family::State,
            changes,
        };
        engine.write(batch, Logging::On).expect("memory writes");
        engine
    }

    #[test]
    fn contents_are_found_again_without_a_scan() {
        // Dense at one end, with keys of very different lengths.
        let content: Vec<(Vec<u8>, usize)> = (0..2_000usize)
            .map(|number| {
                let number = number * number / 200;
                (
                    format!("table/{:0width$}/x", number, width = 6).into_bytes(),
                    100,
                )
            })
            .collect();
        let engine = engine(&content);
        let limits = SplitOptions {
            bytes: 100_000,
            ..SplitOptions::default()
        };
        let all = 200_000;
        let edges = edges(&engine, b"", b"", all, &limits)
            .expect("memory reads")
            .expect("there are some");
        assert!((16..=25).contains(&edges.len()), "{} edges", edges.len());
        let buckets = Buckets::with_edges(all, 2_000, edges);
        buckets.check();
        for bucket in buckets.list() {
            assert!(bucket.bytes < 3 * all / 24, "{bucket:?}");
            let known =
                bucket.start.is_empty() || content.iter().any(|(key, _)| *key == bucket.start);
            assert!(known, "an edge is a key that is there: {bucket:?}");
        }
        let found = last_key(&engine, b"", b"table/000100").expect("memory reads");
        let below = content
            .iter()
            .map(|(key, _)| key)
            .filter(|key| key.as_slice() < b"table/000100".as_slice());
        assert_eq!(found.as_ref(), below.max());
        assert_eq!(last_key(&engine, b"a", b"b").expect("memory reads"), None);
    }

    #[test]
    fn small_and_empty_regions_have_no_edges() {
        let engine = engine(&[(b"a".to_vec(), 10)]);
        let limits = SplitOptions {
            bytes: 16_000,
            ..SplitOptions::default()
        };
        let found = |start: &[u8], bytes| edges(&engine, start, b"", bytes, &limits);
        assert_eq!(found(b"", 900).expect("memory reads"), None);
        assert_eq!(
            found(b"b", 9_000).expect("memory reads"),
            None,
            "nothing is there"
        );
        assert_eq!(
            found(b"", 9_000).expect("memory reads"),
            None,
            "a single key"
        );
    }

    proptest! {
        #[test]
        fn what_lies_between_does(low in prop::collection::vec(any::<u8>(), 0..12), high in prop::collection::vec(any::<u8>(), 0..12)) {
            if let Some(middle) = between(&low, &high) {
                prop_assert!(low < middle && middle < high);
            }
        }
    }
}
