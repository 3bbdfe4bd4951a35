//! What a seed fixes for a cluster.

use store::{Options, SplitOptions};

use super::placement::adapt;
use crate::group::settings::{Fault, Faults, Plan};
use crate::random::{Purpose, Stream};
use crate::schedule::Time;

/// The nominal length of a tick.
pub const TICK: Time = 10_000;

/// The faults that mean something to a cluster.
pub const FAULTS: &[Fault] = &[
    Fault::Loss,
    Fault::Duplicate,
    Fault::Reorder,
    Fault::OneWay,
    Fault::Partition,
    Fault::Lag,
    Fault::Crash,
    Fault::PowerLoss,
    Fault::Clocks,
    Fault::SlowDisk,
    Fault::SlowApply,
    Fault::Membership,
    Fault::Transfer,
    Fault::Split,
    Fault::Compact,
    Fault::Unreachable,
    Fault::Batch,
    Fault::Fetch,
    Fault::Limits,
    Fault::SlowSnapshot,
    Fault::LostFiles,
    Fault::Exile,
    Fault::Untimely,
    Fault::SlowReplay,
    Fault::Focus,
    Fault::Merge,
    Fault::Newborn,
    Fault::LostStore,
    Fault::Deletes,
    Fault::Appends,
    Fault::Verify,
    Fault::Replay,
    Fault::Pause,
    Fault::DiskFails,
    Fault::DiskHangs,
    Fault::Rot,
    Fault::Clog,
    Fault::Bridge,
    Fault::Jumps,
    Fault::NoPlacement,
    Fault::Dial,
    Fault::Placement,
    Fault::Pledges,
];
/// Those that were added later. They are drawn last, so that a seed's other settings are what they were before.
const LATE: &[Fault] = &[
    Fault::SlowSnapshot,
    Fault::LostFiles,
    Fault::Exile,
    Fault::Untimely,
    Fault::SlowReplay,
    Fault::Focus,
    Fault::Merge,
    Fault::Newborn,
    Fault::LostStore,
];

/// Those that have draws of their own, so that worlds without them are what they were before.
const APART: &[Fault] = &[Fault::Deletes, Fault::Appends];

/// The same, added after those: they begin by themselves now and then.
pub const TROUBLES: &[Fault] = &[
    Fault::Replay,
    Fault::Pause,
    Fault::DiskFails,
    Fault::DiskHangs,
    Fault::Rot,
    Fault::Clog,
    Fault::Bridge,
    Fault::Jumps,
    Fault::NoPlacement,
    Fault::Dial,
    Fault::Placement,
];

/// Permille of worlds that have one of these.
const APART_PERMILLE: u64 = 200;

/// The settings of a cluster.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Stores.
    pub stores: u64,
    /// Voters of the first region.
    pub replicas: u64,
    /// The faults that exist.
    pub faults: Faults,
    /// Settings of the stores.
    pub options: Options,
    /// Unflushed bytes after which an engine flushes by itself.
    pub memtable_bytes_max: u64,
    /// Length of a tick per store, by id modulo the length.
    pub ticks: Vec<Time>,
    /// Usual delay of a frame.
    pub delay: (Time, Time),
    /// Permille of frames that are slow, when reordering.
    pub slow_permille: u64,
    /// Delay of a slow frame.
    pub slow_delay: (Time, Time),
    /// Permille of frames lost.
    pub loss_permille: u64,
    /// Permille of frames doubled.
    pub duplicate_permille: u64,
    /// Duration of a sync.
    pub sync: (Time, Time),
    /// Duration of applying, and of background work.
    pub apply: (Time, Time),
    /// Time between a client's answer and its next request.
    pub think: (Time, Time),
    /// Time between orders of the operator.
    pub operator: (Time, Time),
    /// Time between faults of one kind.
    pub fault: (Time, Time),
    /// Clients.
    pub clients: u64,
    /// Regions above which nothing is split.
    pub regions_max: usize,
}

impl Settings {
    /// Draws the settings of `plan`.
    pub fn draw(plan: &Plan) -> Settings {
        let random = &mut Stream::new(plan.seed, Purpose::Settings);
        let mut faults = Faults::default();
        let permille = random.pick(&[300, 600, 850]);
        let early = |fault: &&Fault| {
            [LATE, APART, TROUBLES, &[Fault::Verify, Fault::Pledges]]
                .iter()
                .all(|later| !later.contains(fault))
        };
        for fault in FAULTS.iter().filter(early) {
            let rare = if *fault == Fault::PowerLoss { 2 } else { 1 };
            if random.chance(permille / rare) {
                faults = faults.with(*fault);
            }
        }
        // Drawn apart, so that a seed's other settings are what they were before there were merges.
        let merges = &mut Stream::new(plan.seed, Purpose::Merges);
        for fault in &plan.faults {
            faults = faults.with(*fault);
        }
        for fault in &plan.without {
            faults = faults.without(*fault);
        }
        let most = plan.stores.unwrap_or(u64::MAX).max(1);
        let replicas = random.pick(&[1, 3, 3, 3, 3, 5]);
        let stores = (replicas + random.below(3)).min(most);
        let replicas = replicas.min(most);
        let heartbeat_ticks = random.between(1, 2) as u32;
        let election_ticks = (heartbeat_ticks * 5).max(random.between(5, 12) as u32);
        let drift = random.pick(&[2, 10, 30]);
        let ticks = (0..7)
            .map(|_| {
                let offset = random.below(TICK * drift / 50 + 1);
                if faults.has(Fault::Clocks) {
                    TICK - TICK * drift / 100 + offset
                } else {
                    TICK
                }
            })
            .collect();
        let small = faults.has(Fault::Limits);
        let raft_defaults = raft::Options::default();
        let raft = raft::Options {
            election_ticks,
            heartbeat_ticks,
            append_entries_max: if small {
                random.between(1, 4) as usize
            } else {
                raft_defaults.append_entries_max
            },
            inflight_messages_max: if small {
                random.between(1, 4) as usize
            } else {
                raft_defaults.inflight_messages_max
            },
            cache_bytes_max: if faults.has(Fault::Fetch) {
                random.between(0, 500) as usize
            } else {
                raft_defaults.cache_bytes_max
            },
            bug: plan.bug,
            ..raft_defaults
        };
        let options = Options {
            raft,
            seed: plan.seed,
            proposal_ticks: 200,
            compact_entries: if faults.has(Fault::Compact) {
                random.between(3, 60)
            } else {
                10_000
            },
            compact_tail_entries: random.between(0, 10),
            ids_low: 12,
            ids_batch: 40,
            ids_ticks: 10,
            snapshot_slots: random.between(1, 3) as usize,
            snapshot_offer_ticks: random.between(2, 10),
            snapshot_ticks: 100,
            report_ticks: 100,
            health_ticks: 5,
            down_ticks: 40,
            leaderless_ticks: 60,
            split: SplitOptions::never(),
            count_bytes_per_second: 0,
            digest_entries: 8,
            verify_every_ticks: 0,
            merge_ticks: merges.between(1, 4),
            merge_poll_ticks: merges.between(2, 20),
            merge_unchecked: merges.chance(400),
            bug: plan.store_bug,
            ..Options::default()
        };
        let delay_low = random.between(50, 1000);
        let sync_low = random.between(20, 1000);
        let sync_most = if faults.has(Fault::SlowDisk) {
            TICK * random.between(1, 6)
        } else {
            1500
        };
        let apply_low = random.between(10, 500);
        let apply_most = if faults.has(Fault::SlowApply) {
            TICK * random.between(1, 10)
        } else {
            800
        };
        let calm = u64::from(election_ticks) * TICK;
        let mut settings = Settings {
            stores,
            replicas,
            faults,
            options,
            memtable_bytes_max: random.pick(&[8 << 20, 20_000, 2_000]),
            ticks,
            delay: (delay_low, delay_low + random.between(100, 4000)),
            slow_permille: random.pick(&[20, 100, 300]),
            slow_delay: (TICK, TICK * random.between(2, 40)),
            loss_permille: random.pick(&[10, 50, 100, 200]),
            duplicate_permille: random.pick(&[20, 100, 300]),
            sync: (sync_low, sync_low + random.between(1, sync_most)),
            apply: (apply_low, apply_low + random.between(1, apply_most)),
            think: (100, random.between(1, 4) * TICK),
            operator: (TICK, random.between(2, 12) * TICK),
            fault: (calm, calm * random.between(2, 10)),
            clients: random.between(2, 6),
            regions_max: random.between(1, 8) as usize,
        };
        if faults.has(Fault::Split) {
            settings.options.split = draw_split(random);
        }
        for fault in LATE {
            let drawn = random.chance(permille) || plan.faults.contains(fault);
            if drawn && !plan.without.contains(fault) {
                settings.faults = settings.faults.with(*fault);
            }
        }
        let writes = &mut Stream::new(plan.seed, Purpose::WriteSettings);
        for fault in APART {
            let drawn = writes.chance(APART_PERMILLE) || plan.faults.contains(fault);
            if drawn && !plan.without.contains(fault) {
                settings.faults = settings.faults.with(*fault);
            }
        }
        let troubles = &mut Stream::new(plan.seed, Purpose::TroubleSettings);
        for fault in TROUBLES {
            let drawn = troubles.chance(APART_PERMILLE) || plan.faults.contains(fault);
            if drawn && !plan.without.contains(fault) {
                settings.faults = settings.faults.with(*fault);
            }
        }
        // Others must hold what one store cannot read.
        let spare = settings.replicas >= 3;
        if !spare || settings.faults.has(Fault::Exile) || settings.faults.has(Fault::LostStore) {
            settings.faults = settings.faults.without(Fault::Rot);
        }
        if settings.faults.has(Fault::Deletes) {
            settings.options.count_bytes_min = 1;
            settings.options.count_bytes_per_second = 1 << 20;
        }
        if settings.faults.has(Fault::Appends) {
            settings.options.split = draw_appends(writes);
        }
        let verify = &mut Stream::new(plan.seed, Purpose::VerifySettings);
        let drawn = verify.chance(APART_PERMILLE) || plan.faults.contains(&Fault::Verify);
        if drawn && !plan.without.contains(&Fault::Verify) {
            settings.faults = settings.faults.with(Fault::Verify);
            settings.options.verify_every_ticks = verify.between(40, 400);
            settings.options.verify_bytes_per_second = verify.pick(&[200, 2_000, 1 << 20]);
            settings.options.verify_ticks = verify.between(40, 200);
        }
        let support = &mut Stream::new(plan.seed, Purpose::SupportSettings);
        let drawn = support.chance(APART_PERMILLE) || plan.faults.contains(&Fault::Pledges);
        if drawn && !plan.without.contains(&Fault::Pledges) {
            settings.faults = settings.faults.with(Fault::Pledges);
            settings.options.pledges = true;
        }
        if settings.faults.has(Fault::Placement) {
            adapt(&mut settings, plan);
        }
        settings
    }
}

/// Limits so small that the few keys and requests of the clients are above them.
fn draw_split(random: &mut Stream) -> SplitOptions {
    let mut limit = |low, high| {
        if random.chance(700) {
            random.between(low, high)
        } else {
            0
        }
    };
    SplitOptions {
        bytes: limit(50, 400),
        keys: limit(4, 16),
        requests_per_second: limit(4, 30),
        bytes_per_second: limit(50, 500),
        second_ticks: random.between(4, 20),
        rest_ticks: random.between(4, 60),
        retry_ticks_max: 100,
        ..SplitOptions::default()
    }
}

/// Limits that a region which grows at its end comes near to within seconds, and no others.
fn draw_appends(random: &mut Stream) -> SplitOptions {
    SplitOptions {
        bytes: random.between(600, 1_500),
        second_ticks: random.between(4, 10),
        rest_ticks: random.between(4, 30),
        retry_ticks_max: 100,
        ahead: true,
        ..SplitOptions::never()
    }
}
