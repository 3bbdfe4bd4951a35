//! What goes into the placement machine and what comes out.
//!
//! The driver feeds [`Event`]s in the order in which they happen and carries the [`Effects`] out. Answers leave only when
//! everything they rest on is applied in the placement region, so the driver may send them at once.

use std::time::Duration;

use bytes::Bytes;
use proto::pontoon::v1::{self as wire, Divergence, OwnSplit, StepId, StepRefusal};
use proto::{RegionId, StoreId, metapb};

use crate::decision::Who;
use crate::journal::JournalQuery;
use crate::operator::OperatorView;
use crate::regions::RegionInfo;
use crate::rules::{Group, Rule, RuleError, RuleSet};
use crate::stores::StoreInfo;

/// The driver's name for a request. Unique within one incarnation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// The two clocks, read by the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Unix time in milliseconds. May jump in both directions; only timestamps and records use it.
    pub wall_ms: u64,
    /// Time since an arbitrary moment; never goes back. Everything that waits uses it.
    pub monotonic: Duration,
}

/// Everything that can happen to the machine, but for gaining leadership ([`crate::Placement::lead`]).
#[derive(Clone, Debug)]
pub enum Event {
    /// Leadership is lost, or a write failed: everything in memory is dropped (see [`crate::Placement::lead`]).
    Lost,
    /// A request arrived.
    Request(RequestId, Box<Request>),
    /// The write with this token is applied in the placement region.
    Written(u64),
    /// A quorum confirmed the leadership after this round was asked for.
    Confirmed(u64),
    /// The leader of a region told about it.
    Report(Box<RegionInfo>),
    /// A store refused a step.
    Refused(Box<StepRefusal>),
    /// The leader of a region split it by its own decision, or told why not.
    OwnSplit(Box<OwnSplit>),
    /// A store found two replicas of a region that differ.
    Divergence(Divergence),
    /// Time passed.
    Tick,
}

/// What can be asked for.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    /// Make the first store and the first region known.
    Bootstrap {
        /// The store.
        store: metapb::Store,
        /// Its boot counter, if it tells one.
        boot: Option<u64>,
        /// The region: the whole key space, one voter on this store.
        region: metapb::Region,
    },
    /// The cluster's settings and whether it is bootstrapped.
    Cluster,
    /// Fresh identities.
    AllocateIds(u32),
    /// Identities for the children of a split of a region of so many peers.
    AllocateSplitIds {
        /// Number of children.
        children: u32,
        /// Peers of the parent.
        peers: u32,
    },
    /// Timestamps.
    Timestamps(u32),
    /// Register a store or change what is known of it.
    PutStore {
        /// The store.
        store: metapb::Store,
        /// Its boot counter, if it tells one.
        boot: Option<u64>,
    },
    /// A store is alive.
    StoreHeartbeat {
        /// The store.
        store: StoreId,
        /// Its boot counter, if it tells one.
        boot: Option<u64>,
        /// What it has.
        space: Space,
        /// Regions whose data on it is damaged.
        damaged: Vec<RegionId>,
        /// Whether its process was told to stop.
        stopping: bool,
    },
    /// Empty a store: leaders go first, then peers.
    DrainStore(StoreId),
    /// Take a drain back.
    UndrainStore(StoreId),
    /// Take out a store for good that is drained or dead.
    RemoveStore(StoreId),
    /// Set labels of a store; an empty value takes one away.
    LabelStore {
        /// The store.
        store: StoreId,
        /// The labels.
        labels: Vec<metapb::StoreLabel>,
    },
    /// Spread regions, such as the pieces of a split, evenly over stores.
    Scatter(Vec<RegionId>),
    /// The placement rules.
    Rules,
    /// Replace all placement rules at once.
    ReplaceRules {
        /// The version that was read; if another holds, nothing is replaced.
        read: u64,
        /// All groups from now on.
        groups: Vec<Group>,
    },
    /// End an operator (an administrator's command).
    CancelOperator(u64),
    /// What the journal tells.
    Journal(JournalQuery),
    /// Who decides, and who is paused.
    Schedulers,
    /// Let somebody decide nothing for a while; zero goes on.
    PauseScheduler {
        /// Who.
        who: Who,
        /// For how long.
        duration: Duration,
    },
    /// One store.
    Store(StoreId),
    /// All stores.
    Stores,
    /// The pieces of an applied split, left to right.
    ReportSplit(Vec<metapb::Region>),
    /// The region of a key. Waits a while for a report when no known region covers it.
    RegionByKey(Bytes),
    /// The region before the one of a key.
    PreviousRegion(Bytes),
    /// A region.
    Region(RegionId),
    /// Regions from a key on.
    Regions {
        /// First key; the region that holds it comes first.
        start: Bytes,
        /// Exclusive end; empty is the end of the key space.
        end: Bytes,
        /// At most so many.
        limit: usize,
    },
    /// A keyspace by name.
    Keyspace(String),
    /// Have a region taken in by a neighbour (an administrator's command).
    Merge {
        /// The region.
        region: RegionId,
        /// Its neighbour; the better of the two if none is named.
        target: Option<RegionId>,
    },
    /// Split a region at keys (an administrator's command).
    Split {
        /// The region.
        region: RegionId,
        /// The keys at which children start.
        keys: Vec<Bytes>,
    },
    /// Move a replica (an administrator's command).
    MoveReplica {
        /// The region.
        region: RegionId,
        /// The store that gives its voter up.
        from: StoreId,
        /// The store that takes it.
        to: StoreId,
    },
    /// Move the leadership (an administrator's command).
    TransferLeader {
        /// The region.
        region: RegionId,
        /// The store of the voter that is to lead.
        to: StoreId,
    },
    /// Operators, newest first.
    Operators {
        /// Only this one.
        operator: Option<u64>,
        /// Only those of this region.
        region: Option<RegionId>,
    },
}

impl Request {
    /// Whether it may write more than a few bytes, so that it is refused while too much waits to be written. Not refused is
    /// what shows or ends what fills it: operators end by themselves as well, and each one ends once.
    pub(crate) fn stages_much(&self) -> bool {
        !matches!(
            self,
            Self::Cluster
                | Self::AllocateIds(_)
                | Self::AllocateSplitIds { .. }
                | Self::Timestamps(_)
                | Self::StoreHeartbeat { .. }
                | Self::Store(_)
                | Self::Stores
                | Self::CancelOperator(_)
                | Self::Journal(_)
                | Self::Rules
                | Self::Schedulers
                | Self::PauseScheduler { .. }
                | Self::ReportSplit(_)
                | Self::RegionByKey(_)
                | Self::PreviousRegion(_)
                | Self::Region(_)
                | Self::Regions { .. }
                | Self::Keyspace(_)
                | Self::Operators { .. }
        )
    }
}

/// Space and size of a store, as it tells them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    /// Size of its disk.
    pub capacity_bytes: u64,
    /// Free part of it.
    pub available_bytes: u64,
    /// Bytes of its own data.
    pub used_bytes: u64,
    /// Regions with a peer on it.
    pub regions: u32,
}

/// The answer to a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// It took effect.
    Done,
    /// The cluster.
    Cluster(ClusterInfo),
    /// `count` identities, of which `last` is the last.
    Ids {
        /// The last one; the first is `last - count + 1`.
        last: u64,
        /// How many.
        count: u32,
    },
    /// Identities per child.
    SplitIds(Vec<SplitIds>),
    /// `count` timestamps, of which this is the last.
    Timestamp {
        /// Milliseconds.
        physical_ms: u64,
        /// Position within the millisecond.
        logical: u32,
        /// How many.
        count: u32,
    },
    /// A store.
    Store(Box<StoreInfo>),
    /// Stores by id.
    Stores(Vec<StoreInfo>),
    /// A region.
    Region(Box<RegionInfo>),
    /// Regions in key order.
    Regions(Vec<RegionInfo>),
    /// The id of a keyspace.
    Keyspace(u32),
    /// The operator that carries the command out.
    Operator(u64),
    /// Operators, newest first.
    Operators(Vec<OperatorView>),
    /// Entries of the journal, newest first.
    Journal(Vec<wire::JournalEntry>),
    /// Who decides.
    Schedulers(Vec<SchedulerInfo>),
    /// Operators were begun for those of a group that were not spread evenly.
    Scattered {
        /// Regions that are not known, or that something else is under way with.
        failed: Vec<RegionId>,
    },
    /// The placement rules.
    Rules {
        /// Those that were set.
        set: RuleSet,
        /// The one that holds where no other does.
        default: Rule,
    },
    /// The rules are replaced; this is their version now.
    RulesVersion(u64),
}

/// Somebody who decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SchedulerInfo {
    /// Who.
    pub who: Who,
    /// Time until it goes on; zero when it runs.
    pub paused: Duration,
}

/// Identities for one child of a split.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SplitIds {
    /// The region.
    pub region: u64,
    /// Its peers, in the order of the parent's.
    pub peers: Vec<u64>,
}

/// What is fixed for a cluster, and how large it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterInfo {
    /// Its identity.
    pub cluster_id: u64,
    /// Whether a store bootstrapped it.
    pub bootstrapped: bool,
    /// 1 or 2.
    pub api_version: u32,
    /// Voters a region should have.
    pub replicas: u32,
    /// Known regions.
    pub regions: u64,
    /// Registered stores that are not tombstones.
    pub stores: u32,
    /// Those that were heard lately.
    pub stores_up: u32,
    /// Operators under way.
    pub operators_running: u32,
    /// Term of the placement leader.
    pub term: u64,
}

/// Why a request was not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// This member does not lead the placement group, and nothing of the request was done.
    #[error("not the leader of the placement group")]
    NotLeader,
    /// No store bootstrapped the cluster yet.
    #[error("the cluster is not bootstrapped")]
    NotBootstrapped,
    /// Another store was first.
    #[error("the cluster is bootstrapped already")]
    AlreadyBootstrapped,
    /// No such region is known now.
    #[error("no region is known for {0}")]
    RegionNotFound(Lookup),
    /// No such store.
    #[error("store {0} is not registered")]
    StoreNotFound(StoreId),
    /// The store was removed for good.
    #[error("store {0} was removed")]
    StoreTombstone(StoreId),
    /// Another live store has this address (R30).
    #[error("address {address} belongs to store {owner}, which is alive")]
    AddressInUse {
        /// The address.
        address: String,
        /// Who has it.
        owner: StoreId,
    },
    /// The directory is used twice, cloned or restored from a backup (R30).
    #[error(
        "store {store} was seen with boot counter {known}, {asked} is not a later start of it: its directory is used twice or was restored"
    )]
    StaleBoot {
        /// The store.
        store: StoreId,
        /// Told now.
        asked: u64,
        /// Seen before.
        known: u64,
    },
    /// No such keyspace.
    #[error("keyspace {0:?} does not exist")]
    KeyspaceNotFound(String),
    /// The region has an operator that this request may not replace, or too much is under way.
    #[error("busy: {0}")]
    Busy(String),
    /// The rules cannot be so.
    #[error("invalid: {0}")]
    Rules(#[from] RuleError),
    /// The request contradicts what is known.
    #[error("invalid: {0}")]
    Invalid(String),
}

/// What a region was looked up by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// By a key.
    Key,
    /// By id.
    Id(RegionId),
}

impl std::fmt::Display for Lookup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Key => f.write_str("this key"),
            Self::Id(id) => write!(f, "id {id}"),
        }
    }
}

/// A step for the leader of a region, bound to an exact epoch.
#[derive(Clone, Debug, PartialEq)]
pub struct Order {
    /// Where the leader is.
    pub store: StoreId,
    /// The region.
    pub region: RegionId,
    /// The peer that leads it, as far as known.
    pub leader: metapb::Peer,
    /// The exact epoch for which it is meant.
    pub epoch: metapb::RegionEpoch,
    /// The step of an operator that it is; a refusal names it.
    pub id: StepId,
    /// What to do.
    pub kind: OrderKind,
    /// What for, as the dial sees it.
    pub purpose: wire::Purpose,
}

/// The kinds of order (REGIONS §3, §4, §6).
#[derive(Clone, Debug, PartialEq)]
pub enum OrderKind {
    /// Add a learner.
    AddLearner(metapb::Peer),
    /// Remove a learner.
    RemoveLearner(metapb::Peer),
    /// Swap roles through a joint configuration.
    Swap {
        /// Learners that become voters.
        promote: Vec<metapb::Peer>,
        /// Voters that become learners.
        demote: Vec<metapb::Peer>,
    },
    /// Hand leadership over.
    TransferLeader(metapb::Peer),
    /// Split at these keys.
    Split(Vec<Bytes>),
    /// Be taken in by this neighbour, which is led on the same store.
    Merge(metapb::Region),
}

/// Changes of keys of the placement region, to be proposed as one command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// Comes back in [`Event::Written`].
    pub token: u64,
    /// Ordered by key; each key once.
    pub changes: Vec<Change>,
}

/// A change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The key.
    pub key: Bytes,
    /// What this leader knows the key to hold. A new value is set only over this one (compare and swap): if anything
    /// else is there, another leader wrote it, and this one's write comes from the past and must fail.
    pub previous: Option<Bytes>,
    /// The new value; `None` deletes, whatever is there.
    pub value: Option<Bytes>,
}

/// A line for the log of a person: what was decided, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// The region concerned, if one is.
    pub region: Option<RegionId>,
    /// The operator concerned, if one is.
    pub operator: Option<u64>,
    /// What happened.
    pub text: String,
}

/// What the machine asks of its driver.
#[must_use = "lost effects are lost answers and lost writes"]
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Effects {
    /// At most one is under way: the next leaves after [`Event::Written`] of the last.
    pub write: Option<Write>,
    /// Ask a quorum whether this member still leads; [`Event::Confirmed`] with this number, or [`Event::Lost`].
    pub confirm: Option<u64>,
    /// Answers.
    pub answers: Vec<(RequestId, Result<Answer, Refusal>)>,
    /// Requests that get no answer: they were taken, and whether what they wrote takes effect is the next leader's to
    /// know. No refusal, since whoever is refused may ask again (R26).
    pub abandoned: Vec<RequestId>,
    /// Steps for leaders of regions. One that cannot be delivered is dropped: it is sent again.
    pub orders: Vec<Order>,
    /// The cluster id is durable and the leader serves from now on.
    pub serving: Option<u64>,
    /// What to write into the log.
    pub notes: Vec<Note>,
}
