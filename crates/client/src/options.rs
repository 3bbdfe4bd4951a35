//! Limits and times of a client.

use std::time::Duration;

/// Largest key in bytes, keyspace prefix included.
pub const KEY_BYTES_MAX: usize = 8 << 10;
/// Largest value in bytes.
pub const VALUE_BYTES_MAX: usize = 6 << 20;
/// Largest request in bytes.
pub const REQUEST_BYTES_MAX: usize = 16 << 20;

/// How keys and values are understood by the cluster; fixed when it is bootstrapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApiVersion {
    /// Plain keys; nothing expires.
    V1,
    /// Keys live in a keyspace and may expire. Keyspace 0 is the one named `DEFAULT`; ids have 24 bits.
    V2 {
        /// The keyspace of this client.
        keyspace: u32,
    },
}

/// What becomes of a put, delete or range delete whose outcome is not known, because its answer was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnknownWrites {
    /// It is sent again until an answer comes, since doing it twice leaves the same state. A write of somebody else that
    /// fell between the two is overwritten, though, which a strict observer can see.
    Repeat,
    /// It fails with [`Error::Unknown`](crate::Error::Unknown), as compare-and-swap always does.
    Report,
}

/// Settings of a client. `Options::default()` suits most.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Unset: the placement group is asked, and keyspace 0 is used with version 2. Default unset.
    pub api_version: Option<ApiVersion>,
    /// Time for one operation with all its retries. Default 10 s.
    pub budget: Duration,
    /// Time for one attempt, after which another peer is tried. Default 3 s.
    pub attempt_timeout: Duration,
    /// Time for one attempt to connect. Default 1 s.
    pub connect_timeout: Duration,
    /// First pause between attempts; it doubles up to `backoff_max`, with jitter. Default 5 ms.
    pub backoff_min: Duration,
    /// Longest pause between attempts, hence about the time by which a new leader is found late. Default 100 ms.
    pub backoff_max: Duration,
    /// Streams per store. One is enough unless a single core per store is the limit. Default 1.
    pub streams_per_store: usize,
    /// Bytes of requests that may wait for one stream; above it operations back off. Default 64 MiB.
    pub queue_bytes_max: usize,
    /// Regions remembered. Above it the cache starts anew. Default 200 000.
    pub regions_max: usize,
    /// Default [`UnknownWrites::Repeat`].
    pub unknown_writes: UnknownWrites,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            api_version: None,
            budget: Duration::from_secs(10),
            attempt_timeout: Duration::from_secs(3),
            connect_timeout: Duration::from_secs(1),
            backoff_min: Duration::from_millis(5),
            backoff_max: Duration::from_millis(100),
            streams_per_store: 1,
            queue_bytes_max: 64 << 20,
            regions_max: 200_000,
            unknown_writes: UnknownWrites::Repeat,
        }
    }
}
