//! A small uniform sample of keys that go by, for decisions about where to split.

use std::collections::BTreeMap;

/// Keys kept.
const KEYS_MAX: usize = 64;

/// A reservoir of keys. Offering one costs no allocation once the slots have grown to the length of keys.
///
/// # Invariants
/// 1. `used <= slots.len() <= KEYS_MAX`; the first `used` slots are the sample.
/// 2. After `offered` keys each of them is in the sample with the same probability, up to the quality of the generator.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    slots: Vec<Vec<u8>>,
    used: usize,
    offered: u64,
    random: u64,
}

/// Why a sample names no key to split at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoKey {
    /// Too few keys were seen.
    TooFew,
    /// One key has most of the load: no split divides that.
    Hot {
        /// Its share.
        percent: usize,
    },
}

/// A key that divides a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Halving<'a> {
    pub key: &'a [u8],
    /// What lies below it.
    pub percent: usize,
}

impl Sample {
    /// An empty sample; the seed makes its choices.
    pub fn new(seed: u64) -> Sample {
        Sample {
            slots: Vec::new(),
            used: 0,
            offered: 0,
            // The generator has one state that it never leaves: zero.
            random: seed | 1 << 63,
        }
    }

    /// Forgets everything but the room for it.
    pub fn clear(&mut self) {
        self.used = 0;
        self.offered = 0;
    }

    /// Offers a key.
    pub fn offer(&mut self, key: &[u8]) {
        self.offered += 1;
        let at = if self.used < KEYS_MAX {
            self.used += 1;
            if self.slots.len() < self.used {
                self.slots.push(Vec::new());
            }
            self.used - 1
        } else {
            match self.below(self.offered) as usize {
                at if at < KEYS_MAX => at,
                _ => return,
            }
        };
        let slot = &mut self.slots[at];
        slot.clear();
        slot.extend_from_slice(key);
    }

    /// Offers a key and lets it in whatever was before: the sample leans to what came last.
    pub fn offer_newest(&mut self, key: &[u8]) {
        if self.used == KEYS_MAX {
            self.offered = KEYS_MAX as u64;
            let at = self.below(KEYS_MAX as u64) as usize;
            let slot = &mut self.slots[at];
            slot.clear();
            slot.extend_from_slice(key);
        } else {
            self.offer(key);
        }
    }

    /// The keys, unordered.
    pub fn keys(&self) -> impl Iterator<Item = &[u8]> {
        self.slots[..self.used].iter().map(|key| &key[..])
    }

    /// The key above `start` that leaves as equal parts of the keys that `holds` accepts below and from it on.
    ///
    /// # Errors
    /// [`NoKey`].
    pub fn halving_key(
        &self,
        start: &[u8],
        holds: impl Fn(&[u8]) -> bool,
        keys_min: usize,
    ) -> Result<Halving<'_>, NoKey> {
        let mut counts: BTreeMap<&[u8], usize> = BTreeMap::new();
        for key in self.keys().filter(|key| holds(key)) {
            *counts.entry(key).or_default() += 1;
        }
        let total: usize = counts.values().sum();
        if total < keys_min.max(2) {
            return Err(NoKey::TooFew);
        }
        let most = counts.values().copied().max().unwrap_or(0);
        let hot = NoKey::Hot {
            percent: most * 100 / total,
        };
        if most * 100 > total * HOT_PERCENT {
            return Err(hot);
        }
        let mut below = 0;
        let mut best: Option<(usize, Halving<'_>)> = None;
        for (key, count) in counts {
            if key > start && below > 0 {
                let off = total.abs_diff(2 * below);
                if best.is_none_or(|(least, _)| off < least) {
                    let percent = below * 100 / total;
                    best = Some((off, Halving { key, percent }));
                }
            }
            below += count;
        }
        best.map(|(_, halving)| halving).ok_or(hot)
    }

    /// A number in `[0, bound)` (xorshift64; the bias of the remainder is far below what a sample of 64 shows).
    fn below(&mut self, bound: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % bound
    }
}

/// Share of one key above which a split does not help (REGIONS §4).
const HOT_PERCENT: usize = 60;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(number: u64) -> Vec<u8> {
        format!("k{number:06}").into_bytes()
    }

    #[test]
    fn every_key_has_the_same_chance() {
        // 1 000 keys, 400 samples: each tenth of the keys has a tenth of the sampled ones.
        let mut tenths = [0u32; 10];
        for seed in 0..400 {
            let mut sample = Sample::new(seed * 0x9E37_79B9);
            (0..1_000).for_each(|number| sample.offer(&key(number)));
            for sampled in sample.keys() {
                let number: usize = std::str::from_utf8(&sampled[1..])
                    .expect("digits")
                    .parse()
                    .expect("digits");
                tenths[number / 100] += 1;
            }
        }
        let expected = 400 * KEYS_MAX as u32 / 10;
        for count in tenths {
            assert!(count.abs_diff(expected) < expected / 10, "{tenths:?}");
        }
    }

    #[test]
    fn a_hot_key_is_told_and_halves_are_even() {
        let mut sample = Sample::new(3);
        for number in 0..60 {
            sample.offer(&key(number % 20));
        }
        let found = sample.halving_key(b"", |_| true, 16).expect("a key");
        assert_eq!((found.key, found.percent), (&key(10)[..], 50));
        // At the start of the region nothing lies below.
        let found = sample.halving_key(&key(10), |_| true, 16).expect("a key");
        assert_eq!((found.key, found.percent), (&key(11)[..], 55));
        let none = |_: &[u8]| false;
        assert_eq!(sample.halving_key(b"", none, 16), Err(NoKey::TooFew));
        sample.clear();
        assert_eq!(sample.keys().count(), 0);
        for number in 0..50 {
            sample.offer(&key(if number % 5 < 3 { 7 } else { number }));
        }
        assert!(
            sample.halving_key(b"", |_| true, 16).is_ok(),
            "60 of 100 are not more than 60 of 100"
        );
        sample.offer(&key(7));
        let hot = Err(NoKey::Hot { percent: 60 });
        assert_eq!(sample.halving_key(b"", |_| true, 16), hot, "31 of 51");
    }

    /// A few keys tell nothing, however few are asked for.
    #[test]
    fn too_few_keys_name_none() {
        let mut sample = Sample::new(1);
        sample.offer(&key(1));
        assert_eq!(sample.halving_key(b"", |_| true, 0), Err(NoKey::TooFew));
        for number in 2..16 {
            sample.offer(&key(number));
        }
        let halving = |keys_min| sample.halving_key(b"", |_| true, keys_min);
        assert_eq!(halving(16), Err(NoKey::TooFew), "15 of 16");
        assert!(halving(15).is_ok());
    }

    proptest! {
        /// Against trying every key of the sample.
        #[test]
        fn no_key_halves_better(numbers in prop::collection::vec(0u64..30, 0..64), start in 0u64..30) {
            let mut sample = Sample::new(1);
            for number in &numbers {
                sample.offer(&key(*number));
            }
            let start = key(start);
            let off = |at: &[u8]| {
                let below = sample.keys().filter(|key| *key < at).count();
                (below > 0 && at > &start[..]).then(|| numbers.len().abs_diff(2 * below))
            };
            let best = sample.keys().filter_map(off).min();
            match sample.halving_key(&start, |_| true, 2) {
                Ok(found) => prop_assert_eq!(off(found.key), best),
                Err(NoKey::TooFew) => prop_assert!(numbers.len() < 2),
                Err(NoKey::Hot { .. }) => {
                    let most = (0..30).map(|at| numbers.iter().filter(|number| **number == at).count()).max();
                    prop_assert!(best.is_none() || most.unwrap_or(0) * 100 > numbers.len() * 60);
                }
            }
        }
    }
}
