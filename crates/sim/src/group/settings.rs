//! What a seed fixes: the shape of the world, its limits and its faults.

use raft::{Bug, Options};

use crate::random::{Purpose, Stream};
use crate::schedule::Time;

/// The nominal length of a tick.
pub const TICK: Time = 10_000;

/// A kind of trouble that a world may have. Each can be switched off alone, to shrink a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// Messages are lost.
    Loss,
    /// Messages arrive twice.
    Duplicate,
    /// Delays vary widely, so that messages overtake each other.
    Reorder,
    /// Old messages arrive again much later.
    Replay,
    /// Single links are cut in one direction.
    OneWay,
    /// The network splits.
    Partition,
    /// Everything that is sent to a node takes long for a while.
    Lag,
    /// Nodes stand still for a while.
    Pause,
    /// Nodes crash and come back.
    Crash,
    /// All nodes crash at once.
    PowerLoss,
    /// Clocks tick at different rates.
    Clocks,
    /// Writes take long.
    SlowDisk,
    /// Applying takes long.
    SlowApply,
    /// Membership changes.
    Membership,
    /// Removed learners come back under their old id, with an emptied disk.
    Readd,
    /// Leadership is handed over.
    Transfer,
    /// Leaders are told to step down, peers to campaign.
    Orders,
    /// Regions are split; in clusters.
    Split,
    /// The log is compacted, so that laggards need snapshots.
    Compact,
    /// The transport reports peers unreachable, rightly or not.
    Unreachable,
    /// Several events are stepped before effects are taken.
    Batch,
    /// The cache of applied entries is small, so that laggards need the log.
    Fetch,
    /// Limits are small.
    Limits,
    /// Leases serve reads (R25). Not a fault, but off by default.
    Lease,
    /// Snapshots are built, streamed and put in place slowly, or hang; in clusters.
    SlowSnapshot,
    /// Neighbours are merged; in clusters.
    Merge,
    /// Stores stop while they put snapshots in place, and lose the files; in clusters.
    LostFiles,
    /// A store is away from the moment of a split or a merge on, until a peer of it was removed; in clusters.
    Exile,
    /// Stores stop when they are about to remove what is left of a peer, and learners are removed while snapshots are built
    /// for them, of which the store hears late; in clusters.
    Untimely,
    /// What was lost in a stop is applied again late, and stores hear late of what was applied; in clusters.
    SlowReplay,
    /// Clients ask for what is being merged; in clusters.
    Focus,
    /// The store that leads a child first loses power soon after, with nothing synced since its birth or since it leads; in
    /// clusters.
    Newborn,
    /// A store is lost for ever, with its disk, at the moment of a merge; in clusters.
    LostStore,
    /// Clients delete, so that sizes are uncertain and regions are counted; in clusters.
    Deletes,
    /// Clients insert at the end of all keys, and regions that grow there are split ahead; in clusters.
    Appends,
    /// Leaders verify that all members store the same, each region in its turn and when somebody asks; in clusters.
    Verify,
    /// A write, sync or flush of a disk fails, as when it is full, and the store stops (R14); in clusters.
    DiskFails,
    /// Syncs of a disk hang for a while; in clusters.
    DiskHangs,
    /// Data rots on the disk of one store (R13); in clusters.
    Rot,
    /// A link delivers nothing for a while, and then everything; in clusters.
    Clog,
    /// The network splits, but for one store that reaches both sides; in clusters.
    Bridge,
    /// Clocks jump forward, or stand still; in clusters.
    Jumps,
    /// Placement does not answer for a while; in clusters.
    NoPlacement,
    /// The dial of placement is turned; in clusters.
    Dial,
    /// The real placement driver orders, over links that fail, and not an invented operator. Not a fault by itself; in clusters.
    Placement,
    /// Stores support each other, and followers pledge (LIVENESS §4). Not a fault itself; beats have faults of their own; in
    /// clusters.
    Pledges,
}

impl Fault {
    /// Every kind.
    pub const ALL: [Fault; 46] = [
        Fault::Loss,
        Fault::Duplicate,
        Fault::Reorder,
        Fault::Replay,
        Fault::OneWay,
        Fault::Partition,
        Fault::Lag,
        Fault::Pause,
        Fault::Crash,
        Fault::PowerLoss,
        Fault::Clocks,
        Fault::SlowDisk,
        Fault::SlowApply,
        Fault::Membership,
        Fault::Readd,
        Fault::Transfer,
        Fault::Orders,
        Fault::Split,
        Fault::Compact,
        Fault::Unreachable,
        Fault::Batch,
        Fault::Fetch,
        Fault::Limits,
        Fault::Lease,
        Fault::SlowSnapshot,
        Fault::Merge,
        Fault::LostFiles,
        Fault::Exile,
        Fault::Untimely,
        Fault::SlowReplay,
        Fault::Focus,
        Fault::Newborn,
        Fault::LostStore,
        Fault::Deletes,
        Fault::Appends,
        Fault::Verify,
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

    /// Names for several at once.
    pub const KINDS: [(&str, &[Fault]); 4] = [
        (
            "disk",
            &[
                Fault::SlowDisk,
                Fault::DiskFails,
                Fault::DiskHangs,
                Fault::Rot,
            ],
        ),
        (
            "network",
            &[
                Fault::Loss,
                Fault::Duplicate,
                Fault::Reorder,
                Fault::Replay,
                Fault::OneWay,
                Fault::Partition,
                Fault::Bridge,
                Fault::Lag,
                Fault::Clog,
                Fault::Unreachable,
            ],
        ),
        ("clock", &[Fault::Clocks, Fault::Jumps]),
        ("process", &[Fault::Pause, Fault::Crash, Fault::PowerLoss]),
    ];

    /// Whether it means something to a group.
    pub fn is_of_groups(self) -> bool {
        !matches!(
            self,
            Fault::SlowSnapshot
                | Fault::Merge
                | Fault::LostFiles
                | Fault::Exile
                | Fault::Untimely
                | Fault::SlowReplay
                | Fault::Focus
                | Fault::Newborn
                | Fault::LostStore
                | Fault::Deletes
                | Fault::Appends
                | Fault::Verify
                | Fault::DiskFails
                | Fault::DiskHangs
                | Fault::Rot
                | Fault::Clog
                | Fault::Bridge
                | Fault::Jumps
                | Fault::NoPlacement
                | Fault::Dial
                | Fault::Placement
                | Fault::Pledges
        )
    }

    /// The name on the command line.
    pub fn name(self) -> String {
        format!("{self:?}").to_lowercase()
    }

    /// The faults that a name of [`KINDS`](Self::KINDS) stands for.
    pub fn kind(name: &str) -> Option<&'static [Fault]> {
        let mut kinds = Fault::KINDS.into_iter();
        kinds
            .find(|(kind, _)| *kind == name)
            .map(|(_, faults)| faults)
    }

    /// The fault of this name.
    pub fn from_name(name: &str) -> Option<Fault> {
        Fault::ALL.into_iter().find(|fault| fault.name() == name)
    }
}

/// A set of [`Fault`]s.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults(u64);

impl Faults {
    /// Whether `fault` is in it.
    pub fn has(self, fault: Fault) -> bool {
        self.0 & (1_u64 << fault as u32) != 0
    }

    /// With `fault`.
    #[must_use]
    pub fn with(self, fault: Fault) -> Self {
        Faults(self.0 | (1_u64 << fault as u32))
    }

    /// Without `fault`.
    #[must_use]
    pub fn without(self, fault: Fault) -> Self {
        Faults(self.0 & !(1_u64 << fault as u32))
    }

    /// The kinds in it.
    pub fn iter(self) -> impl Iterator<Item = Fault> {
        Fault::ALL.into_iter().filter(move |fault| self.has(*fault))
    }
}

/// What is simulated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scale {
    /// One Raft group.
    #[default]
    Group,
    /// A cluster of stores with many regions.
    Cluster,
}

/// What a run is told besides the seed.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What is simulated.
    pub scale: Scale,
    /// The seed.
    pub seed: u64,
    /// Events until faults stop.
    pub events: u64,
    /// Faults that stay away whatever the seed says.
    pub without: Vec<Fault>,
    /// Faults that exist whatever the seed says.
    pub faults: Vec<Fault>,
    /// Stores, or peers of a group, at the most, whatever the seed says.
    pub stores: Option<u64>,
    /// A bug to plant.
    pub bug: Option<Bug>,
    /// A bug of the stores to plant.
    pub store_bug: Option<store::Bug>,
    /// Whether only the stores compare what they applied (R12), and the simulator does not.
    pub stores_compare: bool,
    /// Whether to write the trace down.
    pub trace: bool,
}

impl Plan {
    /// The kinds of fault that its world has.
    pub fn world_faults(&self) -> Faults {
        match self.scale {
            Scale::Group => Settings::draw(self).faults,
            Scale::Cluster => crate::cluster::settings::Settings::draw(self).faults,
        }
    }

    /// Stores of its world, or peers of the group at the beginning.
    pub fn world_stores(&self) -> u64 {
        match self.scale {
            Scale::Group => {
                let settings = Settings::draw(self);
                settings.voters + settings.learners
            }
            Scale::Cluster => crate::cluster::settings::Settings::draw(self).stores,
        }
    }

    /// The ordinary run of `seed`.
    pub fn new(seed: u64, events: u64) -> Self {
        Plan {
            scale: Scale::Group,
            seed,
            events,
            without: Vec::new(),
            faults: Vec::new(),
            stores: None,
            bug: None,
            store_bug: None,
            stores_compare: false,
            trace: false,
        }
    }

    /// The ordinary run of `seed` with a cluster.
    pub fn of_cluster(seed: u64, events: u64) -> Self {
        Plan {
            scale: Scale::Cluster,
            ..Plan::new(seed, events)
        }
    }
}

/// The settings of a world.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Voters at the start.
    pub voters: u64,
    /// Learners at the start.
    pub learners: u64,
    /// Whether the group starts as the child of a split, in term 1 (REGIONS §4).
    pub first_term: bool,
    /// The faults that exist.
    pub faults: Faults,
    /// Settings of the peers.
    pub options: Options,
    /// Length of a tick per node, by peer id modulo the length.
    pub ticks: Vec<Time>,
    /// Usual delay of a message.
    pub delay: (Time, Time),
    /// Permille of messages that are slow, when reordering.
    pub slow_permille: u64,
    /// Delay of a slow message.
    pub slow_delay: (Time, Time),
    /// Permille of messages lost.
    pub loss_permille: u64,
    /// Permille of messages doubled.
    pub duplicate_permille: u64,
    /// Duration of a sync.
    pub sync: (Time, Time),
    /// Duration of applying what is handed out.
    pub apply: (Time, Time),
    /// Time between actions of clients and operators.
    pub load: (Time, Time),
    /// Time between faults of one kind.
    pub fault: (Time, Time),
    /// Permille of loads that try to read.
    pub read_permille: u64,
    /// Bytes of a command.
    pub command_bytes: u64,
    /// Permille of applied batches after which the apply tier is flushed.
    pub flush_permille: u64,
}

impl Settings {
    /// Draws the settings of `plan`.
    pub fn draw(plan: &Plan) -> Self {
        let random = &mut Stream::new(plan.seed, Purpose::Settings);
        let mut faults = Faults::default();
        // A third of the worlds is wild, a third mild, so that bugs that need peace between two faults show as well.
        let permille = random.pick(&[300, 600, 850]);
        for fault in Fault::ALL {
            let rare = match fault {
                // Nothing is drawn for it.
                fault if !fault.is_of_groups() => continue,
                Fault::PowerLoss | Fault::Orders | Fault::Readd | Fault::Lease => 2,
                _ => 1,
            };
            if random.chance(permille / rare) {
                faults = faults.with(fault);
            }
        }
        for fault in &plan.faults {
            faults = faults.with(*fault);
        }
        for fault in &plan.without {
            faults = faults.without(*fault);
        }

        let most = plan.stores.unwrap_or(u64::MAX).max(1);
        let voters = random.pick(&[1, 2, 3, 3, 3, 3, 4, 5, 5, 7]).min(most);
        let learners = random.pick(&[0, 0, 0, 1]).min(most - voters);
        let heartbeat_ticks = random.between(1, 3) as u32;
        let election_ticks = (heartbeat_ticks * 5).max(random.between(5, 20) as u32);
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
        // A lease holds only while clocks drift less than its margin (R25): the slowest leader's lease must end before the
        // fastest follower's patience, a tick of rounding on either side included.
        let lease_limit = {
            let drift = if faults.has(Fault::Clocks) { drift } else { 0 };
            (u64::from(election_ticks) - 1) * (100 - drift) / (100 + drift)
        };
        // Half of the leases are as long as they may be.
        let shorter = random.pick(&[0, 1]) * random.below(lease_limit.max(1));
        let lease = lease_limit.saturating_sub(shorter) as u32;
        let lease_ticks =
            (faults.has(Fault::Lease) && (1..election_ticks).contains(&lease)).then_some(lease);
        let small = faults.has(Fault::Limits);
        let command_bytes = random.pick(&[9, 16, 100]);
        let defaults = Options::default();
        let options = Options {
            election_ticks,
            heartbeat_ticks,
            append_entries_max: if small {
                random.between(1, 4) as usize
            } else {
                defaults.append_entries_max
            },
            append_bytes_max: if small {
                random.between(1, 300) as usize
            } else {
                defaults.append_bytes_max
            },
            inflight_messages_max: if small {
                random.between(1, 4) as usize
            } else {
                defaults.inflight_messages_max
            },
            inflight_bytes_max: if small {
                random.between(200, 2000) as usize
            } else {
                defaults.inflight_bytes_max
            },
            uncommitted_bytes_max: if small {
                random.between(200, 4000) as usize
            } else {
                defaults.uncommitted_bytes_max
            },
            cache_bytes_max: if faults.has(Fault::Fetch) {
                random.between(0, 500) as usize
            } else {
                defaults.cache_bytes_max
            },
            lease_ticks,
            bug: plan.bug,
        };
        let delay_low = random.between(50, 1000);
        let delay = (delay_low, delay_low + random.between(100, 4000));
        let sync_low = random.between(20, 1000);
        let sync_most = if faults.has(Fault::SlowDisk) {
            TICK * random.between(1, 12)
        } else {
            1500
        };
        let apply_low = random.between(10, 500);
        let apply_most = if faults.has(Fault::SlowApply) {
            TICK * random.between(1, 20)
        } else {
            800
        };
        let load_low = random.between(500, TICK);
        let calm = u64::from(election_ticks) * TICK;
        Settings {
            voters,
            learners,
            first_term: random.chance(200),
            faults,
            options,
            ticks,
            delay,
            slow_permille: random.pick(&[20, 100, 300]),
            slow_delay: (TICK, TICK * random.between(2, 60)),
            loss_permille: random.pick(&[10, 50, 100, 300]),
            duplicate_permille: random.pick(&[20, 100, 500]),
            sync: (sync_low, sync_low + random.between(1, sync_most)),
            apply: (apply_low, apply_low + random.between(1, apply_most)),
            load: (load_low, load_low + random.between(1, 3 * TICK)),
            fault: (calm / 2, calm * random.between(1, 8)),
            read_permille: if lease_ticks.is_some() {
                random.pick(&[300, 600])
            } else {
                random.pick(&[0, 200, 400])
            },
            command_bytes,
            flush_permille: random.pick(&[1000, 300, 50]),
        }
    }
}
