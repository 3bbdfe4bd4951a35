//! Settings of a store.

use engine::Logging;

use crate::planted::Bug;
use crate::snapshot::Dial;

/// Settings of a store, the same for all its regions. Times are in ticks of [`crate::event::Event::Tick`].
#[derive(Clone, Debug)]
pub struct Options {
    /// Raft's own settings: election and heartbeat ticks, windows.
    pub raft: raft::Options,
    /// Seed of everything random here: election timeouts.
    pub seed: u64,
    /// How the apply tier is written. Default [`Logging::On`], the plain path; see [`crate::apply`]. With
    /// [`Logging::Off`] the log is compacted only up to what was flushed, but nothing flushes on its own.
    pub logging: Logging,
    /// Bytes of operations in one entry. Default 8 MiB. Larger requests are refused.
    pub entry_bytes_max: usize,
    /// Operations of several requests in one entry. Default 256. A single request may have more.
    pub entry_operations_max: usize,
    /// Bytes of proposals of one region that are not applied. Default 32 MiB; above, requests are refused as busy.
    pub region_pending_bytes_max: usize,
    /// The same over all regions. Default 256 MiB.
    pub pending_bytes_max: usize,
    /// Reads of one region that wait to be confirmed. Default 16 384; above, reads are refused as busy.
    pub region_reads_max: usize,
    /// How long a request waits for a leader to be known. Default 6 (300 ms at 50 ms); 0 refuses at once.
    pub park_ticks: u64,
    /// Bytes of requests of one region that wait for a leader. Default 1 MiB; above, they are refused at once.
    pub region_parked_bytes_max: usize,
    /// The same over all regions. Default 64 MiB.
    pub parked_bytes_max: usize,
    /// A proposal whose fate is not known after this time is answered as unknown. Default 200 (10 s at 50 ms).
    pub proposal_ticks: u64,
    /// Entries at or below the applied index after which the log is compacted. Default 10 000.
    pub compact_entries: u64,
    /// The same in bytes. Default 64 MiB.
    pub compact_bytes: u64,
    /// Entries kept for live followers that lag no more than this. Default 1 000.
    pub compact_tail_entries: u64,
    /// Entries by which a caught-up member may lag. Default 64 (REGIONS §3).
    pub caught_up_entries: u64,
    /// The same in bytes. Default 1 MiB.
    pub caught_up_bytes: u64,
    /// Pieces, less one, that one command splits a region into. Default 9.
    pub split_keys_max: usize,
    /// When regions split by themselves.
    pub split: SplitOptions,
    /// Ids below which more are asked for, at least what one split takes: keys times one more than peers. Default 256; 0
    /// never asks.
    pub ids_low: u32,
    /// Ids asked for at a time. Default 1 024.
    pub ids_batch: u32,
    /// Ticks between asking again. Default 20.
    pub ids_ticks: u64,
    /// Snapshots received at a time. Default 4; fewer when they have more bytes than `dial` lets in within ten seconds.
    pub snapshot_slots: usize,
    /// Snapshots built or streamed at a time; more are not offered. Default 4. More than the driver has threads for would
    /// wait for one with their slot held.
    pub snapshot_sends: usize,
    /// Ticks after which an offer without answer, or told to wait, is repeated. Default 10.
    pub snapshot_offer_ticks: u64,
    /// Ticks without progress after which either side gives a snapshot up. Default 200 (10 s at 50 ms).
    pub snapshot_ticks: u64,
    /// How long a snapshot of the next more pressing reason is let past one that waits for a slot. Default 1 200 (60 s at 50 ms).
    pub snapshot_age_ticks: u64,
    /// What snapshots may take, until placement tells.
    pub dial: Dial,
    /// Ticks between reports of an unchanged region to placement. Default 1 200 (60 s at 50 ms).
    pub report_ticks: u64,
    /// Ticks between reports of a region with load, which placement balances by. Default 200 (10 s at 50 ms).
    pub load_report_ticks: u64,
    /// Time over which load is summed for placement, in ticks. Default 1 200 (60 s at 50 ms).
    pub load_ticks: u64,
    /// Ticks between looks at which members are down or pending. Default 20.
    pub health_ticks: u64,
    /// Ticks without hearing from a member after which it is reported as down. Default 200 (10 s at 50 ms).
    pub down_ticks: u64,
    /// Ticks without leader after which a peer asks the members whether it is still one of them. Default 1 200 (60 s).
    pub leaderless_ticks: u64,
    /// Bytes of two regions together above which they are not merged; twice that if one of them has a sixteenth of it at the
    /// most. Default 38 MiB, 40 % of the size at which one is split.
    pub merge_bytes_max: u64,
    /// The same in keys. Default 384 000.
    pub merge_keys_max: u64,
    /// Requests of clients per second that two regions may have together to be merged. Default 750, 25 % of the load at which
    /// one is split, so that no split follows a merge.
    pub merge_requests_max: u64,
    /// Bytes read and written per second, likewise. Default 7.5 MiB.
    pub merge_load_bytes_max: u64,
    /// Merges that two regions may remember together before another one. Default 16.
    pub merge_records_max: usize,
    /// Ticks after which a frozen source asks again. Default 2.
    pub merge_ticks: u64,
    /// Ticks after which the stores of a merged region are asked again whether it is dead there. Default 20.
    pub merge_poll_ticks: u64,
    /// Freeze without looking whether peers have caught up and who leads the target. That is looked at so that merges are short,
    /// not so that they are safe; tests see that they are without. Default off.
    pub merge_unchecked: bool,
    /// Bytes that must be uncertain of a region's size before it is counted. Default 1 MiB, a 96th of the size at which one is
    /// split.
    pub count_bytes_min: u64,
    /// Bytes per second that are read to count regions, on average; 0 is never. Default 64 MiB.
    pub count_bytes_per_second: u64,
    /// Ticks in which each region is once verified by its leader: all members digest what they store, and that is compared (R12).
    /// Default 1 728 000 (24 h at 50 ms); 0 verifies nothing that nobody asks for.
    pub verify_every_ticks: u64,
    /// Bytes per second that are read to verify regions, on average and of all peers of a store. Default 16 MiB; at least one key
    /// is read at a time.
    pub verify_bytes_per_second: u64,
    /// Ticks, beside those that reading takes, after which members that did not answer are not waited for. Default 1 200 (60 s at
    /// 50 ms).
    pub verify_ticks: u64,
    /// Entries between two indices at which peers compare what they applied (R12), the same on all stores. Default 256; 0 never
    /// compares.
    pub digest_entries: u64,
    /// Whether followers pledge to leaders whose stores are supported (LIVENESS §4), as [`crate::event::Event::Support`] tells.
    /// Default false: plain Raft, whatever is told.
    pub pledges: bool,
    /// Length of a tick in milliseconds, for times told to placement. Default 50.
    pub tick_ms: u64,
    /// A rule broken on purpose. For tests.
    pub bug: Option<Bug>,
}

impl Options {
    /// The defaults for ticks of another length: the same times in as many more or fewer ticks.
    ///
    /// # Panics
    /// If `tick_ms` is 0.
    pub fn with_tick(tick_ms: u64) -> Options {
        let defaults = Options::default();
        let scale = |ticks: u64| (ticks * defaults.tick_ms / tick_ms).max(1);
        Options {
            park_ticks: scale(defaults.park_ticks),
            proposal_ticks: scale(defaults.proposal_ticks),
            ids_ticks: scale(defaults.ids_ticks),
            snapshot_offer_ticks: scale(defaults.snapshot_offer_ticks),
            snapshot_ticks: scale(defaults.snapshot_ticks),
            snapshot_age_ticks: scale(defaults.snapshot_age_ticks),
            report_ticks: scale(defaults.report_ticks),
            load_report_ticks: scale(defaults.load_report_ticks),
            load_ticks: scale(defaults.load_ticks),
            health_ticks: scale(defaults.health_ticks),
            down_ticks: scale(defaults.down_ticks),
            leaderless_ticks: scale(defaults.leaderless_ticks),
            split: SplitOptions {
                second_ticks: scale(defaults.split.second_ticks),
                rest_ticks: scale(defaults.split.rest_ticks),
                retry_ticks_max: scale(defaults.split.retry_ticks_max),
                ..defaults.split.clone()
            },
            merge_ticks: scale(defaults.merge_ticks),
            merge_poll_ticks: scale(defaults.merge_poll_ticks),
            verify_every_ticks: scale(defaults.verify_every_ticks),
            verify_ticks: scale(defaults.verify_ticks),
            tick_ms,
            ..defaults
        }
    }

    /// What may be read in a tick to verify regions.
    pub(crate) fn verify_bytes_per_tick(&self) -> u64 {
        (self.verify_bytes_per_second * self.tick_ms / 1_000).max(1)
    }
}

impl Default for Options {
    fn default() -> Options {
        Options {
            raft: raft::Options::default(),
            seed: 0,
            logging: Logging::On,
            entry_bytes_max: 8 << 20,
            entry_operations_max: 256,
            region_pending_bytes_max: 32 << 20,
            pending_bytes_max: 256 << 20,
            region_reads_max: 16_384,
            park_ticks: 6,
            region_parked_bytes_max: 1 << 20,
            parked_bytes_max: 64 << 20,
            proposal_ticks: 200,
            compact_entries: 10_000,
            compact_bytes: 64 << 20,
            compact_tail_entries: 1_000,
            caught_up_entries: 64,
            caught_up_bytes: 1 << 20,
            split_keys_max: 9,
            split: SplitOptions::default(),
            count_bytes_min: 1 << 20,
            count_bytes_per_second: 64 << 20,
            ids_low: 256,
            ids_batch: 1_024,
            ids_ticks: 20,
            snapshot_slots: 4,
            snapshot_sends: 4,
            snapshot_offer_ticks: 10,
            snapshot_ticks: 200,
            snapshot_age_ticks: 1_200,
            dial: Dial::default(),
            report_ticks: 1_200,
            load_report_ticks: 200,
            load_ticks: 1_200,
            health_ticks: 20,
            down_ticks: 200,
            leaderless_ticks: 1_200,
            merge_bytes_max: 38 << 20,
            merge_keys_max: 384_000,
            merge_requests_max: 750,
            merge_load_bytes_max: (30 << 20) / 4,
            merge_records_max: 16,
            merge_ticks: 2,
            merge_poll_ticks: 20,
            merge_unchecked: false,
            verify_every_ticks: 1_728_000,
            verify_bytes_per_second: 16 << 20,
            verify_ticks: 1_200,
            digest_entries: 256,
            pledges: false,
            tick_ms: 50,
            bug: None,
        }
    }
}

/// When regions split by themselves (REGIONS §4). A limit of 0 is none.
#[derive(Clone, Debug)]
pub struct SplitOptions {
    /// Estimated bytes of a region from which it is split. Default 96 MiB.
    pub bytes: u64,
    /// Estimated keys of a region from which it is split. Default 960 000.
    pub keys: u64,
    /// Requests of clients per second above which a region is split, if that divides the load. Default 3 000.
    pub requests_per_second: u64,
    /// Bytes read and written per second, likewise. Default 30 MiB.
    pub bytes_per_second: u64,
    /// Whether a region that grows at its end is split there before it is full. Default true.
    pub ahead: bool,
    /// Keys are encoded (api-version 2): a key that is made up must be, too. Default false.
    pub encoded_keys: bool,
    /// Ticks of one second. Default 20.
    pub second_ticks: u64,
    /// Ticks for which a region that was just split, or its piece, is left alone. Default 100 (5 s at 50 ms).
    pub rest_ticks: u64,
    /// A split that was refused is tried again after a second, then after twice that, up to so many ticks. Default 1 200. One
    /// for load or appends waits no longer than `rest_ticks`.
    pub retry_ticks_max: u64,
}

impl SplitOptions {
    /// Settings with which no region splits by itself.
    pub fn never() -> SplitOptions {
        SplitOptions {
            bytes: 0,
            keys: 0,
            requests_per_second: 0,
            bytes_per_second: 0,
            ahead: false,
            ..SplitOptions::default()
        }
    }
}

impl Default for SplitOptions {
    fn default() -> SplitOptions {
        SplitOptions {
            bytes: 96 << 20,
            keys: 960_000,
            requests_per_second: 3_000,
            bytes_per_second: 30 << 20,
            ahead: true,
            encoded_keys: false,
            second_ticks: 20,
            rest_ticks: 100,
            retry_ticks_max: 1_200,
        }
    }
}
