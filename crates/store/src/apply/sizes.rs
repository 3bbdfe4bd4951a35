//! Estimated size of a region, counted as it is applied (STORAGE §7). Each peer estimates for itself; nothing but split and
//! balance decisions depend on it.
//!
//! A put is looked up now and then only, to learn what puts replace; a delete never is, and takes away what the keys around
//! have on average. What may be wrong by that is added up, and when it is as much as the rest a leader has the region
//! counted ([`crate::event::Task::Count`]). The count and what was believed come out of one view of the engine, so at the
//! same applied index; their difference is added to what is believed when the result arrives.

use bytes::Bytes;
use engine::{Engine, Error, Family};
use proto::metapb;

use super::buckets::Buckets;
use super::rebuild;
use crate::event::{Count, Estimate};
use crate::keys;
use crate::options::SplitOptions;

/// Every so many puts one is looked up, to learn how many replace something.
const SAMPLE_EVERY: u64 = 16;

/// What one region holds, about.
#[derive(Debug)]
pub(super) struct Sizes {
    pub buckets: Buckets,
    /// The largest key ever applied here, while it is known.
    last_key: LastKey,
    /// It grew, or was looked up, since it was last taken.
    last_key_is_new: bool,
    /// Buckets came from the engine or from a parent, so they tell how the contents are spread.
    spread_known: bool,
    puts: u64,
    /// Of 256 puts, how many add a key.
    growth: u64,
    /// Share of a key, in 1/256, not counted yet.
    part: u64,
}

#[derive(Debug, PartialEq, Eq)]
enum LastKey {
    /// To be looked up.
    Unknown,
    /// Nothing was there.
    None,
    Some(Vec<u8>),
}

impl Sizes {
    /// What a record says: how much, and not where.
    pub fn new(estimate: Estimate) -> Sizes {
        let mut buckets = Buckets::new(estimate.bytes, estimate.keys);
        buckets.doubt(estimate.uncertain_bytes);
        Sizes::with_buckets(buckets, false)
    }

    fn with_buckets(buckets: Buckets, spread_known: bool) -> Sizes {
        Sizes {
            buckets,
            last_key: LastKey::Unknown,
            last_key_is_new: false,
            spread_known,
            puts: 0,
            growth: 256,
            part: 0,
        }
    }

    /// Takes the buckets over that the parent of a split counted.
    pub fn inherit(&mut self, buckets: Buckets) {
        *self = Sizes::with_buckets(buckets, true);
    }

    /// Counts what a merge brings. How it is spread is looked up anew.
    pub fn absorb(&mut self, source: Estimate) {
        let own = self.estimate();
        *self = Sizes::new(Estimate {
            bytes: own.bytes + source.bytes,
            keys: own.keys + source.keys,
            uncertain_bytes: own.uncertain_bytes.saturating_add(source.uncertain_bytes),
        });
    }

    pub fn estimate(&self) -> Estimate {
        self.buckets.estimate()
    }

    /// Takes over what a count found at an index at which `believed` was, and keeps what was counted since.
    pub fn correct(&mut self, count: Count, believed: Estimate) {
        let now = self.estimate();
        let corrected =
            |now: u64, believed: u64, found: u64| (found + now).saturating_sub(believed);
        let bytes = corrected(now.bytes, believed.bytes, count.bytes);
        let keys = corrected(now.keys, believed.keys, count.keys);
        self.buckets = Buckets::with_edges(bytes, keys, count.edges);
        let since = now.uncertain_bytes.saturating_sub(believed.uncertain_bytes);
        self.buckets.doubt(since);
        self.spread_known = true;
    }

    /// The largest key ever applied here, if that is news.
    pub fn take_last_key(&mut self) -> Option<Bytes> {
        match &self.last_key {
            LastKey::Some(key) if std::mem::take(&mut self.last_key_is_new) => {
                Some(Bytes::copy_from_slice(key))
            }
            LastKey::Some(_) => None,
            LastKey::Unknown | LastKey::None => None,
        }
    }

    /// Learns from the engine what was not counted here, before the first put: where the contents lie, and the last key.
    pub fn prepare<E: Engine>(
        &mut self,
        engine: &E,
        region: &metapb::Region,
        limits: &SplitOptions,
    ) -> Result<(), Error> {
        let (start, end) = (&region.start_key[..], &region.end_key[..]);
        if self.last_key == LastKey::Unknown {
            // What cannot be read is not tried again with every put.
            self.last_key = LastKey::None;
            self.last_key = match rebuild::last_key(engine, start, end)? {
                Some(key) => {
                    self.last_key_is_new = true;
                    LastKey::Some(key)
                }
                None => LastKey::None,
            };
        }
        if !self.spread_known {
            self.spread_known = true;
            let now = self.estimate();
            if let Some(edges) = rebuild::edges(engine, start, end, now.bytes, limits)? {
                self.buckets = Buckets::with_edges(now.bytes, now.keys, edges);
                self.buckets.doubt(now.uncertain_bytes);
            }
        }
        Ok(())
    }

    /// Counts a put of so many bytes; `replaced` is what a lookup found, where one was made.
    pub fn put(
        &mut self,
        key: &[u8],
        bytes: u64,
        replaced: Option<Option<u64>>,
        limits: &SplitOptions,
    ) {
        self.puts += 1;
        match &mut self.last_key {
            LastKey::Some(last) if &last[..] < key => {
                last.clear();
                last.extend_from_slice(key);
                self.last_key_is_new = true;
            }
            LastKey::Some(_) | LastKey::Unknown => {}
            LastKey::None => {
                self.last_key = LastKey::Some(key.to_vec());
                self.last_key_is_new = true;
            }
        }
        if let Some(found) = replaced {
            // It stands for those that are not looked up.
            let counted = found.unwrap_or(0) + bytes * self.growth / 256;
            self.buckets
                .doubt(bytes.abs_diff(counted) * (SAMPLE_EVERY - 1));
        }
        match replaced {
            Some(Some(old)) => {
                self.buckets.change(key, |bucket| {
                    bucket.bytes = (bucket.bytes + bytes).saturating_sub(old);
                });
                self.growth -= self.growth.div_ceil(8);
            }
            Some(None) => {
                self.buckets.change(key, |bucket| {
                    bucket.bytes += bytes;
                    bucket.keys += 1;
                });
                self.buckets.note_added(key, limits);
                self.growth += (256 - self.growth).div_ceil(8);
            }
            None => {
                self.part += self.growth;
                let (growth, keys) = (self.growth, self.part / 256);
                self.buckets.change(key, |bucket| {
                    bucket.bytes += bytes * growth / 256;
                    bucket.keys += keys;
                });
                self.part %= 256;
            }
        }
    }

    /// Whether the next put shall be looked up.
    pub fn samples(&self) -> bool {
        self.puts.is_multiple_of(SAMPLE_EVERY)
    }

    /// Counts a delete of a key that may not have been there.
    pub fn delete(&mut self, key: &[u8]) {
        let mean = |bytes: u64, keys: u64| bytes.checked_div(keys).unwrap_or(0);
        let mut doubt = mean(self.buckets.bytes(), self.buckets.keys());
        self.buckets.change(key, |bucket| {
            let taken = mean(bucket.bytes, bucket.keys);
            bucket.bytes -= taken;
            bucket.keys = bucket.keys.saturating_sub(1);
            // Where nothing is counted any more, what was there is counted elsewhere.
            doubt = if taken > 0 { taken } else { doubt };
        });
        self.buckets.doubt(doubt);
    }

    /// Counts the removal of a range.
    pub fn remove_range<E: Engine>(
        &mut self,
        engine: &E,
        start: &[u8],
        end: &[u8],
    ) -> Result<(), Error> {
        self.buckets.remove_range(start, end, |start, end| {
            let (start, end) = (keys::data(start), keys::data_end(end));
            engine.approximate_bytes(Family::State, &start, &end)
        })
    }

    /// Leaves what is below the first of these keys; returns the pieces that begin at each.
    pub fn divide(&mut self, keys: &[Bytes]) -> Vec<Buckets> {
        let whole = std::mem::replace(&mut self.buckets, Buckets::new(0, 0));
        let last = match &self.last_key {
            LastKey::Some(key) => Some(&key[..]),
            LastKey::Unknown | LastKey::None => None,
        };
        let mut pieces = whole.divide(keys, last).into_iter();
        self.buckets = pieces.next().expect("one piece more than keys");
        self.last_key = LastKey::Unknown;
        self.last_key_is_new = false;
        pieces.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A merge brings what is uncertain of its source, and takes nothing of what the target is uncertain of.
    #[test]
    fn a_merge_adds_what_is_uncertain() {
        let estimate = |bytes, keys, uncertain_bytes| Estimate {
            bytes,
            keys,
            uncertain_bytes,
        };
        let mut sizes = Sizes::new(estimate(1_000, 10, 100));
        sizes.absorb(estimate(500, 5, 30));
        assert_eq!(sizes.estimate(), estimate(1_500, 15, 130));
    }

    /// What is deleted where nothing is counted any more is counted elsewhere, and may be as large as what is there.
    #[test]
    fn a_delete_where_nothing_is_counted_is_uncertain() {
        let edges = vec![(Bytes::new(), 1_000), (Bytes::from_static(b"m"), 0)];
        let mut sizes = Sizes::new(Estimate::default());
        sizes.inherit(Buckets::with_edges(1_000, 10, edges));
        sizes.delete(b"z");
        let told = sizes.estimate();
        assert_eq!(
            (told.bytes, told.keys, told.uncertain_bytes),
            (1_000, 10, 100)
        );
    }
}
