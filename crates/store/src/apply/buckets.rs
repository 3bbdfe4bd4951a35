//! How the bytes and keys of a region are spread over its range (REGIONS §4, buckets).
//!
//! A region's range is cut into at most 32 buckets. What is applied counts in the bucket of its key; a bucket that grows
//! too large is cut at a key that was added to it, and where there are too many the two smallest neighbours become one. So
//! nothing is ever scanned to learn where a region may be cut. Each peer counts for itself, and nothing but the choice of
//! split keys depends on it.

use bytes::Bytes;

use crate::event::Estimate;
use crate::options::SplitOptions;
use crate::sample::Sample;

/// Buckets of a region.
pub(crate) const BUCKETS_MAX: usize = 32;

/// Buckets that a region at its limit consists of, about: one larger than that share is cut.
const SHARES: u64 = 16;

/// One part in so many of what lies on one side of an edge may really lie on the other.
const EDGE_DOUBT: u64 = 4;

/// Sampled keys without which the middle of a bucket is not known.
const SAMPLED_MIN: usize = 3;

/// One part of the range: from `start` (of the first: the start of the region) to the next one's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bucket {
    pub start: Bytes,
    pub bytes: u64,
    pub keys: u64,
}

/// The buckets of one region.
///
/// # Invariants
/// 1. There are one to `BUCKETS_MAX`, and their starts grow strictly; that of the first is empty.
/// 2. `bytes` and `keys` are the sums over all.
#[derive(Clone, Debug)]
pub struct Buckets {
    list: Vec<Bucket>,
    bytes: u64,
    keys: u64,
    /// By how much `bytes` may be wrong, about.
    uncertain_bytes: u64,
    sample: Sample,
}

impl Buckets {
    /// One bucket for everything.
    pub(super) fn new(bytes: u64, keys: u64) -> Buckets {
        let start = Bytes::new();
        Buckets {
            list: vec![Bucket { start, bytes, keys }],
            bytes,
            keys,
            uncertain_bytes: 0,
            sample: Sample::new(bytes ^ keys.rotate_left(32)),
        }
    }

    /// Buckets with these starts, of these shares of all bytes; keys in proportion.
    pub(super) fn with_edges(bytes: u64, keys: u64, edges: Vec<(Bytes, u64)>) -> Buckets {
        let mut buckets = Buckets::new(bytes, keys);
        let whole: u64 = edges.iter().map(|(_, share)| share).sum();
        if whole == 0 || edges.len() > BUCKETS_MAX {
            return buckets;
        }
        let part = |of: u64, share: u64| scale(of, share, whole);
        let mut list: Vec<Bucket> = edges
            .into_iter()
            .map(|(start, share)| Bucket {
                start,
                bytes: part(bytes, share),
                keys: part(keys, share),
            })
            .collect();
        let missing = |of: fn(&Bucket) -> u64, all: u64| all - list.iter().map(of).sum::<u64>();
        let (more_bytes, more_keys) = (
            missing(|bucket| bucket.bytes, bytes),
            missing(|bucket| bucket.keys, keys),
        );
        list[0].start = Bytes::new();
        list[0].bytes += more_bytes;
        list[0].keys += more_keys;
        buckets.list = list;
        buckets
    }

    /// Bytes of the whole region.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Keys of the whole region.
    pub fn keys(&self) -> u64 {
        self.keys
    }

    /// What is counted of the whole region.
    pub fn estimate(&self) -> Estimate {
        Estimate {
            bytes: self.bytes,
            keys: self.keys,
            uncertain_bytes: self.uncertain_bytes,
        }
    }

    /// Takes note that what is counted may be wrong by so much more.
    pub(super) fn doubt(&mut self, bytes: u64) {
        self.uncertain_bytes = self.uncertain_bytes.saturating_add(bytes);
    }

    /// Whether there is more than a region should have.
    pub(super) fn is_over(&self, limits: &SplitOptions) -> bool {
        is_over(self.bytes, limits.bytes) || is_over(self.keys, limits.keys)
    }

    /// Changes what is counted at a key.
    pub(super) fn change(&mut self, key: &[u8], change: impl FnOnce(&mut Bucket)) {
        let at = self.at(key);
        let bucket = &mut self.list[at];
        self.bytes -= bucket.bytes;
        self.keys -= bucket.keys;
        change(bucket);
        self.bytes += bucket.bytes;
        self.keys += bucket.keys;
    }

    /// Takes note of a key that was added, and cuts its bucket if that is too large by now.
    pub(super) fn note_added(&mut self, key: &[u8], limits: &SplitOptions) {
        self.sample.offer_newest(key);
        let at = self.at(key);
        if !is_large(&self.list[at], limits) {
            return;
        }
        self.cut(at);
        while self.list.len() > BUCKETS_MAX {
            self.join(limits);
        }
    }

    /// Counts the removal of `[start, end)`; an empty end is the end of all keys. `bytes_in` tells what a part of a bucket
    /// holds, about.
    pub(super) fn remove_range<E>(
        &mut self,
        start: &[u8],
        end: &[u8],
        mut bytes_in: impl FnMut(&[u8], &[u8]) -> Result<u64, E>,
    ) -> Result<(), E> {
        for at in 0..self.list.len() {
            let from = self.list[at].start.clone();
            let to = self
                .list
                .get(at + 1)
                .map_or_else(Bytes::new, |next| next.start.clone());
            let above = |key: &[u8]| !end.is_empty() && key >= end;
            if (!to.is_empty() && start >= &to[..]) || above(&from) {
                continue;
            }
            let whole =
                start <= &from[..] && (end.is_empty() || (!to.is_empty() && &to[..] <= end));
            let bucket = &self.list[at];
            let (bytes, keys) = if whole {
                self.doubt(bucket.bytes / EDGE_DOUBT);
                let bucket = &self.list[at];
                (bucket.bytes, bucket.keys)
            } else {
                let (lower, upper) = (
                    start.max(&from),
                    if to.is_empty() || above(&to) {
                        end
                    } else {
                        &to
                    },
                );
                let bytes = bytes_in(lower, upper)?.min(bucket.bytes);
                let keys = scale(bucket.keys, bytes, bucket.bytes);
                self.doubt(self.list[at].bytes);
                (bytes, keys)
            };
            self.change(&from, |bucket| {
                bucket.bytes -= bytes;
                bucket.keys -= keys;
            });
        }
        Ok(())
    }

    /// The edges nearest to each multiple of half the limit, when there is more than the limit. None lies farther than a
    /// quarter of the limit from its multiple: better no split than one that leaves nearly everything on one side.
    pub fn split_keys(&self, limits: &SplitOptions, keys_max: usize) -> Vec<Bytes> {
        let (weight, limit): (fn(&Bucket) -> u64, u64) = if is_over(self.bytes, limits.bytes) {
            (|bucket| bucket.bytes, limits.bytes)
        } else if is_over(self.keys, limits.keys) {
            (|bucket| bucket.keys, limits.keys)
        } else {
            return Vec::new();
        };
        let all: u64 = self.list.iter().map(weight).sum();
        let half = (limit / 2).max(1);
        let mut below = 0;
        let mut edges = Vec::with_capacity(self.list.len());
        for bucket in &self.list {
            edges.push((below, &bucket.start));
            below += weight(bucket);
        }
        let mut keys: Vec<Bytes> = Vec::new();
        let mut multiple = half;
        while multiple + half / 2 <= all && keys.len() < keys_max {
            let nearest = edges[1..]
                .iter()
                .min_by_key(|(below, _)| below.abs_diff(multiple));
            if let Some((below, start)) = nearest
                && below.abs_diff(multiple) <= half / 2
                && keys.last().is_none_or(|last| last < *start)
            {
                keys.push((*start).clone());
            }
            multiple += half;
        }
        keys
    }

    /// Cuts everything at these keys, which grow: pieces from left to right. Above `last`, if that is known, is nothing.
    pub(super) fn divide(self, keys: &[Bytes], last: Option<&[u8]>) -> Vec<Buckets> {
        let mut pieces = Vec::with_capacity(keys.len() + 1);
        let mut rest = self;
        for key in keys {
            let right = if last.is_some_and(|last| last < &key[..]) {
                Buckets::new(0, 0)
            } else {
                rest.split_off(key)
            };
            pieces.push(std::mem::replace(&mut rest, right));
        }
        pieces.push(rest);
        pieces
    }

    /// Leaves what is below a key, returns what is not. How much lies on either side is told by a sample.
    fn split_off(&mut self, key: &Bytes) -> Buckets {
        let at = self.at(key);
        if self.list[at].start != *key {
            self.cut_at(at, key.clone());
        }
        let at = self.at(key);
        let mut right = Buckets::new(self.bytes, self.keys);
        right.list = self.list.split_off(at);
        right.list[0].start = Bytes::new();
        for of in self.sample.keys().filter(|of| *of >= &key[..]) {
            right.sample.offer(of);
        }
        let kept: Vec<Vec<u8>> = self
            .sample
            .keys()
            .filter(|of| *of < &key[..])
            .map(<[u8]>::to_vec)
            .collect();
        self.sample.clear();
        kept.iter().for_each(|of| self.sample.offer(of));
        let whole = self.bytes;
        self.sum();
        right.sum();
        let doubt = self.bytes.min(right.bytes) / EDGE_DOUBT;
        right.uncertain_bytes = scale(self.uncertain_bytes, right.bytes, whole);
        self.uncertain_bytes -= right.uncertain_bytes;
        self.doubt(doubt);
        right.doubt(doubt);
        right
    }

    /// The bucket of a key.
    fn at(&self, key: &[u8]) -> usize {
        self.list.partition_point(|bucket| &bucket.start[..] <= key) - 1
    }

    fn bounds(&self, at: usize) -> (&[u8], Option<&[u8]>) {
        let end = self.list.get(at + 1).map(|next| &next.start[..]);
        (&self.list[at].start, end)
    }

    /// Cuts a bucket in the middle of the keys that were added to it, if that is known.
    fn cut(&mut self, at: usize) {
        let (start, end) = self.bounds(at);
        let inside = |key: &[u8]| key >= start && end.is_none_or(|end| key < end);
        let mut keys: Vec<&[u8]> = self.sample.keys().filter(|key| inside(key)).collect();
        if keys.len() < SAMPLED_MIN {
            return;
        }
        keys.sort_unstable();
        let middle = keys[keys.len() / 2];
        if middle > start {
            let middle = Bytes::copy_from_slice(middle);
            self.cut_at(at, middle);
        }
    }

    /// Cuts a bucket at a key above its start. The sample says how much lies on either side, else it is half.
    fn cut_at(&mut self, at: usize, key: Bytes) {
        let (start, end) = self.bounds(at);
        let inside = |of: &&[u8]| *of >= start && end.is_none_or(|end| *of < end);
        let (mut sampled, mut above) = (0, 0);
        for of in self.sample.keys().filter(inside) {
            sampled += 1;
            above += u64::from(of >= &key[..]);
        }
        if sampled < SAMPLED_MIN as u64 {
            (sampled, above) = (2, 1);
        }
        let bucket = &mut self.list[at];
        let right = Bucket {
            start: key,
            bytes: scale(bucket.bytes, above, sampled),
            keys: scale(bucket.keys, above, sampled),
        };
        bucket.bytes -= right.bytes;
        bucket.keys -= right.keys;
        self.list.insert(at + 1, right);
    }

    /// Makes one of the two smallest neighbours.
    fn join(&mut self, limits: &SplitOptions) {
        let weight = |bucket: &Bucket| {
            let part = |of: u64, limit: u64| u128::from(of) * 1_000_000 / u128::from(limit.max(1));
            part(bucket.bytes, limits.bytes).max(part(bucket.keys, limits.keys))
        };
        let pair = |at: &usize| weight(&self.list[*at]) + weight(&self.list[at + 1]);
        let Some(at) = (0..self.list.len() - 1).min_by_key(pair) else {
            return;
        };
        let right = self.list.remove(at + 1);
        self.list[at].bytes += right.bytes;
        self.list[at].keys += right.keys;
    }

    fn sum(&mut self) {
        self.bytes = self.list.iter().map(|bucket| bucket.bytes).sum();
        self.keys = self.list.iter().map(|bucket| bucket.keys).sum();
    }

    #[cfg(test)]
    pub(super) fn list(&self) -> &[Bucket] {
        &self.list
    }

    #[cfg(test)]
    pub(super) fn check(&self) {
        assert!(
            (1..=BUCKETS_MAX).contains(&self.list.len()),
            "{} buckets",
            self.list.len()
        );
        assert!(
            self.list[0].start.is_empty(),
            "the first bucket has a start"
        );
        for pair in self.list.windows(2) {
            assert!(pair[0].start < pair[1].start, "starts do not grow");
        }
        let mut sums = self.clone();
        sums.sum();
        assert_eq!((sums.bytes, sums.keys), (self.bytes, self.keys), "sums");
    }
}

/// Whether a limit, if there is one, is reached.
fn is_over(of: u64, limit: u64) -> bool {
    limit > 0 && of >= limit
}

/// Whether a bucket has more than its share of what a region may have.
fn is_large(bucket: &Bucket, limits: &SplitOptions) -> bool {
    let over = |of: u64, limit: u64| limit > 0 && of > limit.div_ceil(SHARES);
    over(bucket.bytes, limits.bytes) || over(bucket.keys, limits.keys)
}

/// Bytes a bucket of a region at its limit has, about.
pub(super) fn share_bytes(limits: &SplitOptions) -> u64 {
    limits.bytes.div_ceil(SHARES)
}

fn scale(of: u64, part: u64, whole: u64) -> u64 {
    let scaled = (u128::from(of) * u128::from(part)).checked_div(u128::from(whole));
    scaled.unwrap_or(0) as u64
}

#[cfg(test)]
mod tests;
