//! The real placement driver in a cluster: worlds with [`Fault::Placement`].
//!
//! - `group`: its members, which are stores of a world of their own with one region and every fault of one: Raft, disks that
//!   lose what is not synced, partitions, stops. At each member the machine and what drives it, as on real processes.
//! - `link`: what a store and placement tell each other. All of it is lost, late, doubled and out of order as other frames are.
//! - `admin`: who asks placement for splits, merges, moves and drains in place of the invented operator, what happens to stores
//!   that only placement mends, and when a cluster has come to rest (R37).

mod admin;
mod group;
mod link;

pub use self::link::News;

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use placement::{
    Answer, BalanceSettings, Event, MergeSettings, OperatorView, Order, Refusal, Request,
};
use proto::{RegionId, StoreId};
use store::SplitOptions;
use store::event::RegionReport;

use self::group::Group;
use super::check::placement::{Stamp, Stamps};
use super::settings::{Settings, TICK};
use crate::group::settings::{Fault, Plan};
use crate::peers::PeerSet;
use crate::random::{Purpose, Stream};
use crate::rule::Violation;
use crate::schedule::Time;

/// Time passes so many times faster for placement: stores take a tick for 50 ms.
const SCALE: u64 = 5;

/// What placement and those who talk to it have on their minds.
pub struct Placed {
    group: Group,
    random: Stream,
    links: BTreeMap<StoreId, Link>,
    /// Stores of which placement hears nothing.
    mute: PeerSet,
    /// Stores that hear nothing of placement.
    deaf: PeerSet,
    /// The member that administrators believe to lead.
    leader: StoreId,
    stamps: Stamps,
    /// The store that is to be emptied.
    drained: Option<StoreId>,
    /// A store that stays away for longer than placement waits, until then.
    away: Option<(StoreId, Time)>,
    /// Operators as they were told last.
    operators: Vec<OperatorView>,
    /// Since when no other operator was made, and none was under way.
    quiet_since: Time,
    /// Whether the store that is lost for ever was replaced.
    replaced: bool,
}

/// What a process of a store knows of placement.
struct Link {
    incarnation: u32,
    boot: u64,
    /// The member that it believes to lead, and the newest term that this one told.
    leader: StoreId,
    term: u64,
    registered: bool,
    stopping: bool,
    answered: Time,
    /// The newest report of each region that was led here when it came.
    reports: BTreeMap<RegionId, RegionReport>,
}

/// What happens between stores, administrators and placement.
pub enum Errand {
    /// A store beats.
    Beat(StoreId, u32),
    /// A member is told something.
    Told(Asker, StoreId, Box<Told>),
    /// A member said something; the store that it is for, in the incarnation that asked.
    Said(StoreId, Option<u32>, Box<Said>),
    /// The same, for administrators.
    Answered(Box<Said>),
    /// Links to placement are mended.
    Mend,
    /// A store that was told to stop does.
    Stop(StoreId, u32),
    /// A store that was lost gets another disk.
    Replace,
}

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asker {
    /// A process of a store.
    Store(StoreId, u32),
    /// An administrator, or a client of timestamps.
    Admin,
}

/// What a member is told.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "boxed while it is on its way")]
pub enum Told {
    /// A request, and what for.
    Request(Ask, Request),
    /// What asks for no answer.
    News(Event),
}

/// What a request is for.
#[derive(Clone, Debug, PartialEq)]
pub enum Ask {
    /// To be known.
    Register,
    /// To be alive.
    Beat,
    /// That a split is known.
    Split,
    /// Where a key is.
    Locate(Bytes),
    /// Who belongs to a region.
    Describe(RegionId),
    /// Whether a store was removed.
    Inquire(StoreId),
    /// Ids.
    Ids(u32),
    /// Timestamps above what was known when they were asked for.
    Stamps(Stamp),
    /// Which operators there are.
    Look,
    /// Which stores are emptied.
    Stores,
    /// Another command.
    Command(&'static str),
}

/// What a member says.
#[derive(Clone, Debug)]
pub struct Said {
    /// Which.
    member: StoreId,
    /// Its term, while it leads.
    term: Option<u64>,
    what: What,
}

#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "boxed while it is on its way")]
enum What {
    Answer(Asker, Ask, Result<Answer, Refusal>),
    Order(Box<Order>),
}

impl Errand {
    /// The store that has to be awake for it.
    pub fn store(&self) -> Option<StoreId> {
        match self {
            Errand::Beat(store, _) | Errand::Said(store, ..) => Some(*store),
            Errand::Told(..)
            | Errand::Answered(_)
            | Errand::Mend
            | Errand::Stop(..)
            | Errand::Replace => None,
        }
    }
}

impl Placed {
    /// A placement group that knows the cluster's first region, or `None` where an operator is invented instead.
    ///
    /// # Errors
    /// When a member does not open.
    pub fn new(plan: &Plan, settings: &Settings) -> Result<Option<Placed>, Violation> {
        if !settings.faults.has(Fault::Placement) {
            return Ok(None);
        }
        let mut random = Stream::new(plan.seed, Purpose::Placement);
        let group = Group::new(plan, settings, &mut random)?;
        let leader = group.first();
        Ok(Some(Placed {
            group,
            random,
            links: BTreeMap::new(),
            mute: PeerSet::default(),
            deaf: PeerSet::default(),
            leader,
            stamps: Stamps::default(),
            drained: None,
            away: None,
            operators: Vec::new(),
            quiet_since: 0,
            replaced: false,
        }))
    }

    /// Hash of everything that happened in the group.
    pub fn digest(&self) -> u64 {
        self.group.digest()
    }

    /// The text of that, when it was asked for.
    pub fn into_trace(self) -> Vec<String> {
        self.group.into_trace()
    }
}

/// What a world with placement has instead of what was drawn: a spare store, and limits at which regions split and merge all the
/// time.
pub fn adapt(settings: &mut Settings, plan: &Plan) {
    let random = &mut Stream::new(plan.seed, Purpose::PlacementSettings);
    let most = plan.stores.unwrap_or(u64::MAX);
    settings.stores = (settings.replicas + random.between(1, 2)).min(most);
    settings.regions_max = random.between(2, 8) as usize;
    settings.faults = settings.faults.without(Fault::Exile);
    let loaded = random.chance(500);
    settings.options.split = SplitOptions {
        bytes: random.between(80, 250),
        requests_per_second: if loaded { random.between(20, 60) } else { 0 },
        second_ticks: 20,
        rest_ticks: random.between(10, 60),
        retry_ticks_max: 100,
        ..SplitOptions::never()
    };
    settings.options.load_ticks = 100;
    settings.options.load_report_ticks = 20;
    settings.options.report_ticks = random.between(20, 100);
}

/// Silence after which a store is down, and after which it is lost.
const DOWN_AFTER: Duration = Duration::from_secs(4);
const LOST_AFTER: Duration = Duration::from_secs(12);

/// How placement is set in such a world: what takes minutes elsewhere takes seconds.
fn machine_settings(settings: &Settings) -> placement::Settings {
    let seconds = Duration::from_secs;
    let full = settings.options.split.bytes;
    placement::Settings {
        replicas: settings.replicas as u32,
        store_down_after: DOWN_AFTER,
        store_lost_after: LOST_AFTER,
        joint_patience: seconds(5),
        hand_over_patience: seconds(5),
        catch_up_deadline: seconds(20),
        resume_deadline: seconds(20),
        back_off_max: seconds(4),
        id_step: 50,
        merge: MergeSettings {
            after: seconds(4),
            small_bytes: full / 3,
            small_keys: u64::MAX,
            bytes_max: full * 2 / 3,
            keys_max: u64::MAX / 4,
            requests_max: match settings.options.split.requests_per_second {
                0 => u64::MAX / 4,
                limit => limit / 4,
            },
            load_bytes_max: u64::MAX / 4,
            ..MergeSettings::default()
        },
        balance: BalanceSettings {
            settle: seconds(2),
            rest: seconds(5),
            hot_bytes_min: 64,
            hot_keys_min: 8,
            ..BalanceSettings::default()
        },
        ..placement::Settings::default()
    }
}

/// Virtual time in which so much passes for placement.
fn virtual_time(duration: Duration) -> Time {
    duration.as_micros() as Time / SCALE
}

/// Between heartbeats of a store: a second.
const BEAT: Time = 20 * TICK;
