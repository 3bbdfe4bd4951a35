//! How a memory engine can be stopped, and what of the unsynced survives.

/// How an engine ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrashMode {
    /// The process is killed: the operating system keeps everything that was logged or appended to staged files.
    Kill,
    /// The machine stops: what was not synced is up to the disk.
    PowerLoss {
        /// What the disk kept of it.
        keep: Keep,
    },
}

/// What a power loss leaves of the unsynced tail of the log and of unfinished staged files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Nothing; unfinished staged files are gone.
    Nothing,
    /// All of it, as if everything had been synced in time.
    Everything,
    /// This many bytes of the log's tail, a key and value counting their lengths and 8. A batch that is cut inside is
    /// lost whole, as its checksum tells. Unfinished staged files are gone.
    Bytes(u64),
    /// Drawn from the seed: nothing, everything, or a beginning of the log's tail; and of each unfinished staged file
    /// nothing, a beginning, or a beginning followed by zeros.
    Seeded(u64),
}

/// A small generator (SplitMix64): all that is needed here, and the same on every platform.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        bits ^ (bits >> 31)
    }

    /// A number in `0..limit`; `limit` is above 0.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}
