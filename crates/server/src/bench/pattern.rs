//! Which keys the clients choose.

use std::sync::atomic::{AtomicU64, Ordering};

use clap::ValueEnum;
use rand::{Rng, RngExt};
use rand_distr::{Distribution, Zipf};
use serde::Serialize;

/// Which keys the clients choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Pattern {
    /// Each key as often as any other
    Uniform,
    /// Few keys much more often than the others, the most frequent ones beside each other
    Zipf,
    /// Writes go on behind the last key, as with growing identifiers; reads take any key before it
    Sequential,
}

impl Pattern {
    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Zipf => "zipf",
            Self::Sequential => "sequential",
        }
    }
}

/// Chooses keys by their number, for all clients of a run.
pub struct Choice {
    kind: Kind,
    keys: u64,
}

enum Kind {
    Uniform,
    Zipf(Zipf<f64>),
    /// The next key to write.
    Sequential(AtomicU64),
}

impl Choice {
    /// Of `keys` keys, of which the first `written` exist. `skew` is the exponent of Zipf.
    ///
    /// # Errors
    /// There is no Zipf distribution with this skew.
    pub fn new(pattern: Pattern, skew: f64, keys: u64, written: u64) -> Result<Self, String> {
        let kind = match pattern {
            Pattern::Uniform => Kind::Uniform,
            Pattern::Zipf => {
                Kind::Zipf(Zipf::new(keys as f64, skew).map_err(|error| error.to_string())?)
            }
            Pattern::Sequential => Kind::Sequential(AtomicU64::new(written)),
        };
        Ok(Self { kind, keys })
    }

    /// The key of the next write.
    pub fn to_write(&self, random: &mut impl Rng) -> u64 {
        match &self.kind {
            Kind::Sequential(next) => next.fetch_add(1, Ordering::Relaxed),
            Kind::Uniform | Kind::Zipf(_) => self.to_read(random),
        }
    }

    /// The key of the next read.
    pub fn to_read(&self, random: &mut impl Rng) -> u64 {
        match &self.kind {
            Kind::Uniform => random.random_range(0..self.keys),
            // Ranks begin at 1.
            Kind::Zipf(zipf) => (zipf.sample(random) as u64).clamp(1, self.keys) - 1,
            Kind::Sequential(next) => random.random_range(0..next.load(Ordering::Relaxed).max(1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::SmallRng};

    use super::*;

    fn choice(pattern: Pattern, written: u64) -> Choice {
        Choice::new(pattern, 0.99, 100, written).expect("the skew is possible")
    }

    /// How often each of a hundred keys is chosen in a thousand.
    fn counts(choice: &Choice) -> Vec<u32> {
        let mut random = SmallRng::seed_from_u64(1);
        let mut counts = vec![0; 100];
        for _ in 0..1000 {
            counts[choice.to_write(&mut random) as usize] += 1;
        }
        counts
    }

    #[test]
    fn uniform_keys_are_alike() {
        let counts = counts(&choice(Pattern::Uniform, 0));
        assert!(
            counts.iter().all(|count| (1..30).contains(count)),
            "{counts:?}"
        );
    }

    #[test]
    fn the_first_keys_of_zipf_are_hot() {
        let counts = counts(&choice(Pattern::Zipf, 0));
        // 1 / (sum of k^-0.99 for k up to 100) is 0.19.
        assert!((150..230).contains(&counts[0]), "{counts:?}");
        assert!(counts[0] > counts[1] && counts[1] > counts[9], "{counts:?}");
        assert!(counts[50..].iter().any(|count| *count > 0), "{counts:?}");
    }

    #[test]
    fn sequential_writes_go_on_and_reads_stay_behind_them() {
        let choice = choice(Pattern::Sequential, 100);
        let mut random = SmallRng::seed_from_u64(1);
        for expected in 100..200 {
            assert_eq!(choice.to_write(&mut random), expected);
            assert!(choice.to_read(&mut random) <= expected);
        }
    }

    #[test]
    fn an_impossible_skew_is_refused() {
        assert!(Choice::new(Pattern::Zipf, -1.0, 100, 0).is_err());
    }
}
