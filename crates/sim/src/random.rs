//! Randomness of a world: one seed, several independent streams.
//!
//! Faults of one kind draw from their own stream, so that switching a kind off (which is how a failure is shrunk) leaves
//! the draws of the others in place.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};

/// What a stream is for. The numbers are part of the meaning of a seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The settings of the world.
    Settings = 1,
    /// Loss, delay, duplication, partitions.
    Network = 2,
    /// Duration of writes, what a crash keeps, when nodes crash.
    Disk = 3,
    /// Rates of clocks, pauses.
    Clock = 4,
    /// Clients, operators, compaction.
    Load = 5,
    /// Whether regions are merged.
    Merges = 6,
    /// What happens at chosen moments: exiles, stops before something is removed, late replays, the focus of clients.
    Moments = 7,
    /// Which writes delete or append, and when regions are counted.
    Writes = 8,
    /// Whether there are such writes.
    WriteSettings = 9,
    /// When somebody asks whether all members of a region store the same, and how long digesting takes.
    Verify = 10,
    /// Whether anybody does.
    VerifySettings = 11,
    /// Which of the latest faults exist.
    TroubleSettings = 12,
    /// When these happen, where, and for how long.
    Trouble = 13,
    /// The settings of worlds with the real placement driver.
    PlacementSettings = 14,
    /// What its members, administrators and messages draw.
    Placement = 15,
    /// Whether followers pledge.
    SupportSettings = 16,
    /// Beats between stores, and what happens to support.
    Support = 17,
}

/// A stream of random numbers.
#[derive(Clone, Debug)]
pub struct Stream(ChaCha8Rng);

impl Stream {
    /// The stream of `seed` for `purpose`.
    pub fn new(seed: u64, purpose: Purpose) -> Self {
        let mut generator = ChaCha8Rng::seed_from_u64(seed);
        generator.set_stream(purpose as u64);
        Stream(generator)
    }

    /// Any number.
    pub fn next(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        debug_assert!(bound > 0, "an empty range has no member");
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    /// A number in `low..=high`.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// True in `permille` of 1000 cases. Draws nothing when the answer is certain.
    pub fn chance(&mut self, permille: u64) -> bool {
        match permille {
            0 => false,
            1000.. => true,
            _ => self.below(1000) < permille,
        }
    }

    /// One of `items`, which are not empty.
    pub fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.below(items.len() as u64) as usize]
    }
}
