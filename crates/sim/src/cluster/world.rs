//! The world of a cluster: stores, network, clients, an operator, and the loop over what happens.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use engine::{MemoryEngine, MemoryOptions};
use proto::pontoon::v1 as wire;
use proto::{RegionId, StoreId, metapb};
use raft::{PeerId, Role};
use store::apply::Applier;
use store::event::{Applied, Event, OperationResult, Refusal, RequestId, Task, TaskDone, Transfer};
use store::{Store, identity};

use super::check::content::Contents;
use super::check::digests::Digests;
use super::check::hard_state::HardStates;
use super::check::pledges::Pledges;
use super::check::regions::Descriptors;
use super::check::sizes::Sizes;
use super::check::stored::Stored;
use super::client::Client;
use super::exile::Exile;
use super::loss::Loss;
use super::merges::Pair;
use super::node::Node;
use super::orders::Orders;
use super::placement::{Errand, Placed};
use super::rot::Rot;
use super::settings::{Settings, TICK, TROUBLES};
use super::support::Beats;
use super::trouble::Trouble;
use crate::group::settings::{Fault, Plan};
use crate::peers::PeerSet;
use crate::random::{Purpose, Stream};
use crate::rule::{Rule, Violation};
use crate::schedule::{Schedule, Time};
use crate::trace::Trace;

/// What came of a write.
pub type Answer = Result<Vec<OperationResult>, Refusal>;

/// What came of a request that is no client's.
#[derive(Debug)]
pub enum Reply {
    /// A write was answered, or a request refused.
    Answered(Answer),
    /// A read may be served now.
    Permitted,
}

/// What can happen next. What belongs to a store carries the incarnation it was made for.
pub enum Action {
    /// A frame arrives.
    Frame {
        /// Who sent it.
        from: StoreId,
        /// For whom.
        to: StoreId,
        /// What it holds.
        frame: Box<wire::Frame>,
    },
    /// A clock ticks.
    Tick(StoreId, u32),
    /// Effects that waited are taken.
    Settle(StoreId, u32),
    /// Queued log batches are written to the engine.
    WriteLog(StoreId, u32),
    /// The log is synced up to a batch, and what waited for it leaves.
    SyncLog(StoreId, u32, u64, Vec<BTreeMap<StoreId, wire::Frame>>),
    /// What is queued is applied.
    Apply(StoreId, u32),
    /// The store learns what was applied, then clients do.
    Report(StoreId, u32, Vec<Applied>),
    /// Background work.
    Task(StoreId, u32, Box<Task>),
    /// A piece of slow background work is done; so many are left.
    Piece(StoreId, u32, Box<Task>, u64),
    /// A store learns something that could not be told at once.
    Step(StoreId, u32, Box<Event>),
    /// A store learns that a snapshot makes progress.
    Progress(StoreId, u32, Transfer),
    /// The store learns how a task ended.
    Done(StoreId, u32, Box<TaskDone>),
    /// A snapshot has crossed the network.
    Received(StoreId, StoreId, Box<wire::SnapshotHead>),
    /// The transport reports a store unreachable.
    Lost(StoreId, u32, StoreId),
    /// Placement hands out ids.
    Ids(StoreId, u32, u32),
    /// A client goes on.
    Client(usize),
    /// A client gives up waiting.
    TimeUp(usize, RequestId),
    /// Placement tells where a key is.
    Locate(StoreId, u32, Bytes),
    /// Placement tells what it knows of a region.
    Describe(StoreId, u32, RegionId),
    /// Placement tells whether a store was removed.
    Inquire(StoreId, u32, StoreId),
    /// The operator acts.
    Operator,
    /// Somebody asks whether all members of a region store the same.
    Verify,
    /// A fault begins.
    Fault(Fault),
    /// Links are mended.
    Mend,
    /// A stopped store starts.
    Restart(StoreId),
    /// The power of a store fails, for a moment.
    PowerCut(StoreId, u32),
    /// Stores, administrators and placement talk.
    Placement(Errand),
    /// A beat arrives.
    Beat(Box<wire::Beat>),
    /// Time passes for the liveness of a store.
    Breathe(StoreId, u32),
    /// A store learns what its liveness says.
    Support(StoreId, u32),
    /// Something happens to support.
    Unrest,
    /// A store wants support again.
    Recover(StoreId),
}

impl Action {
    /// The store that has to be awake for it.
    pub fn store(&self) -> Option<StoreId> {
        match self {
            Action::Frame { to, .. } | Action::Received(_, to, _) => Some(*to),
            Action::Tick(store, _)
            | Action::Settle(store, _)
            | Action::WriteLog(store, _)
            | Action::SyncLog(store, ..)
            | Action::Apply(store, _)
            | Action::Report(store, ..)
            | Action::Task(store, ..)
            | Action::Piece(store, ..)
            | Action::Step(store, ..)
            | Action::Progress(store, ..)
            | Action::Done(store, ..)
            | Action::Lost(store, ..)
            | Action::Ids(store, ..)
            | Action::Locate(store, ..)
            | Action::Describe(store, ..)
            | Action::Inquire(store, ..)
            | Action::Breathe(store, _)
            | Action::Support(store, _)
            | Action::Recover(store) => Some(*store),
            Action::Placement(errand) => errand.store(),
            Action::Beat(beat) => Some(StoreId(beat.to_store)),
            Action::Client(_)
            | Action::TimeUp(..)
            | Action::Operator
            | Action::Verify
            | Action::Fault(_)
            | Action::Mend
            | Action::Unrest
            | Action::Restart(_)
            | Action::PowerCut(..) => None,
        }
    }
}

/// A world.
pub struct World {
    pub(super) settings: Settings,
    pub(super) schedule: Schedule<Action>,
    pub(super) nodes: BTreeMap<StoreId, Node>,
    pub(super) network_random: Stream,
    pub(super) disk_random: Stream,
    pub(super) clock_random: Stream,
    pub(super) load_random: Stream,
    pub(super) moment_random: Stream,
    pub(super) writes_random: Stream,
    pub(super) verify_random: Stream,
    pub(super) trouble_random: Stream,
    pub(super) trouble: Trouble,
    /// The real placement driver, where it is there.
    pub(super) placed: Option<Box<Placed>>,
    /// What came of requests that are no client's, where somebody has such.
    pub(super) replies: Option<Vec<(RequestId, Reply)>>,
    /// The store whose data rots, once some did.
    pub(super) rot: Option<Rot>,
    /// By sender: who does not hear it.
    pub(super) cut: [PeerSet; 16],
    /// Who hears everything late.
    pub(super) lagging: PeerSet,
    /// The store that is away, while one is.
    pub(super) exile: Option<Exile>,
    /// The store that is lost, once one is.
    pub(super) loss: Option<Loss>,
    pub(super) clients: Vec<Client>,
    /// Which client waits for which request.
    pub(super) waiting: BTreeMap<RequestId, usize>,
    pub(super) requests: u64,
    pub(super) values: u64,
    pub(super) next_id: u64,
    pub(super) descriptors: Descriptors,
    pub(super) contents: Contents,
    pub(super) digests: Digests,
    pub(super) stored: Stored,
    pub(super) orders: Orders,
    pub(super) hard_states: HardStates,
    pub(super) sizes: Sizes,
    pub(super) pledges: Pledges,
    pub(super) beats: Beats,
    /// Keys that clients inserted at the end of all.
    pub(super) appended: u64,
    /// Epochs at which regions were frozen.
    pub(super) frozen: BTreeSet<(u64, u64)>,
    /// When a merge took effect first, by source.
    pub(super) merged_at: BTreeMap<u64, Time>,
    /// What merged last, or is about to: where clients that focus look.
    pub(super) focus: Option<(Bytes, Bytes)>,
    /// The neighbours that the operator is about to merge.
    pub(super) pair: Option<Pair>,
    /// Peers that wait for another snapshot, because they lost the files of one.
    pub(super) unusable: BTreeSet<(StoreId, RegionId, PeerId)>,
    pub(super) happened: BTreeMap<&'static str, u64>,
    pub(super) trace: Trace,
    pub(super) events: u64,
    pub(super) healing: bool,
    /// Regions that acknowledged a write since faults ended.
    pub(super) alive: BTreeSet<RegionId>,
}

impl World {
    /// The world of `plan`, before anything happened.
    ///
    /// # Errors
    /// When a store does not open.
    pub fn new(plan: &Plan) -> Result<World, Violation> {
        let settings = Settings::draw(plan);
        let placed = Placed::new(plan, &settings)?.map(Box::new);
        let mut world = World::with(plan, settings);
        world.placed = placed;
        world.bootstrap()?;
        Ok(world)
    }

    /// The stores of placement members: one region, all stores have it, and no client asks.
    ///
    /// # Errors
    /// When a store does not open.
    pub(super) fn of_members(plan: &Plan) -> Result<World, Violation> {
        let drawn = Settings::draw(plan);
        let settings = Settings {
            stores: drawn.replicas,
            clients: 0,
            ..drawn
        };
        let mut world = World::with(plan, settings);
        world.replies = Some(Vec::new());
        world.bootstrap()?;
        Ok(world)
    }

    fn with(plan: &Plan, settings: Settings) -> World {
        World {
            schedule: Schedule::default(),
            nodes: BTreeMap::new(),
            network_random: Stream::new(plan.seed, Purpose::Network),
            disk_random: Stream::new(plan.seed, Purpose::Disk),
            clock_random: Stream::new(plan.seed, Purpose::Clock),
            load_random: Stream::new(plan.seed, Purpose::Load),
            moment_random: Stream::new(plan.seed, Purpose::Moments),
            writes_random: Stream::new(plan.seed, Purpose::Writes),
            verify_random: Stream::new(plan.seed, Purpose::Verify),
            trouble_random: Stream::new(plan.seed, Purpose::Trouble),
            trouble: Trouble::default(),
            placed: None,
            replies: None,
            rot: None,
            cut: [PeerSet::default(); 16],
            lagging: PeerSet::default(),
            exile: None,
            loss: None,
            clients: (0..settings.clients).map(|_| Client::default()).collect(),
            waiting: BTreeMap::new(),
            requests: 0,
            values: 0,
            next_id: 1000,
            descriptors: Descriptors::default(),
            contents: Contents::new(plan.stores_compare),
            digests: Digests::new(plan.stores_compare),
            stored: Stored::new(plan.stores_compare),
            orders: Orders::default(),
            hard_states: HardStates::default(),
            sizes: Sizes::default(),
            pledges: Pledges::default(),
            beats: Beats::new(plan.seed),
            appended: 0,
            frozen: BTreeSet::new(),
            merged_at: BTreeMap::new(),
            focus: None,
            pair: None,
            unusable: BTreeSet::new(),
            happened: BTreeMap::new(),
            trace: Trace::new(plan.trace),
            events: 0,
            healing: false,
            alive: BTreeSet::new(),
            settings,
        }
    }

    fn bootstrap(&mut self) -> Result<(), Violation> {
        let replicas = self.settings.replicas;
        let region = metapb::Region {
            id: 1,
            region_epoch: Some(metapb::RegionEpoch {
                conf_ver: 1,
                version: 1,
            }),
            peers: (1..=replicas)
                .map(|store| metapb::Peer {
                    id: 10 + store,
                    store_id: store,
                    ..Default::default()
                })
                .collect(),
            ..Default::default()
        };
        self.descriptors.learn(std::slice::from_ref(&region))?;
        self.found_placement(&region)?;
        for id in 1..=self.settings.stores {
            let first = if id <= replicas {
                std::slice::from_ref(&region)
            } else {
                &[]
            };
            self.add_store(StoreId(id), first)?;
        }
        for client in 0..self.clients.len() {
            let delay = self.load_random.below(10 * TICK);
            self.schedule.after(delay, Action::Client(client));
        }
        self.schedule.after(5 * TICK, Action::Operator);
        if self.settings.options.pledges {
            self.schedule.after(5 * TICK, Action::Unrest);
        }
        if self.settings.faults.has(Fault::Verify) {
            self.schedule.after(5 * TICK, Action::Verify);
        }
        for fault in [
            Fault::Crash,
            Fault::PowerLoss,
            Fault::Partition,
            Fault::OneWay,
            Fault::Lag,
        ]
        .iter()
        .chain(TROUBLES)
        {
            if self.settings.faults.has(*fault) {
                self.rearm(*fault);
            }
        }
        Ok(())
    }

    /// Adds a store whose disk is empty but for these first regions, and starts it.
    pub(super) fn add_store(
        &mut self,
        id: StoreId,
        first: &[metapb::Region],
    ) -> Result<(), Violation> {
        let engine = MemoryEngine::with_options(MemoryOptions {
            memtable_bytes_max: self.settings.memtable_bytes_max,
        });
        identity::create(&engine, 7, id, 1).map_err(broken)?;
        identity::bootstrap(&engine, first).map_err(broken)?;
        let node = Node {
            applier: Applier::new(engine.clone(), &self.settings.options),
            engine,
            store: None,
            incarnation: 0,
            log: VecDeque::new(),
            writing: false,
            apply: VecDeque::new(),
            applying: false,
            unheard: BTreeSet::new(),
            may_be_late: false,
            stalled: false,
            stalls_with: None,
            failing: None,
            paused_until: 0,
            hangs_until: 0,
            clock_back: 0,
            dirty: false,
            live: None,
            changes: VecDeque::new(),
            repeated: false,
            views: BTreeMap::new(),
            transfers: BTreeSet::new(),
        };
        self.nodes.insert(id, node);
        self.start(id)
    }

    /// Opens a store from its disk and starts its clock.
    pub(super) fn start(&mut self, id: StoreId) -> Result<(), Violation> {
        let options = store::Options {
            seed: self.clock_random.next(),
            ..self.settings.options.clone()
        };
        let now = self.schedule.now();
        let node = self.nodes.get_mut(&id).expect("a store of the cluster");
        self.hard_states.reopen(id, &node.engine)?;
        self.sizes.reopen(id);
        let boot = identity::bump_boot(&node.engine).map_err(broken)?.boot;
        let store = Store::open(node.engine.clone(), options).map_err(|error| Violation {
            rule: Rule::Durable,
            text: format!("store {id} does not open after a stop: {error:?}"),
        })?;
        node.applier = Applier::new(node.engine.clone(), &self.settings.options);
        node.store = Some(store);
        node.may_be_late = true;
        node.incarnation += 1;
        let incarnation = node.incarnation;
        self.trace
            .note(now, [1, id.0, u64::from(incarnation), 0], || {
                format!("store {id} starts")
            });
        let rate = self.settings.ticks[id.0 as usize % self.settings.ticks.len()];
        let first = self.clock_random.between(1, rate);
        self.schedule.after(first, Action::Tick(id, incarnation));
        self.begin_link(id, incarnation, boot);
        self.begin_breathing(id, boot);
        self.settle(id)
    }

    /// Lets one thing happen.
    ///
    /// # Errors
    /// The rule that broke.
    pub fn advance(&mut self) -> Result<(), Violation> {
        let Some(action) = self.schedule.next() else {
            return Err(Violation {
                rule: Rule::Healing,
                text: "nothing is left to happen".into(),
            });
        };
        let wait = self.wait_for(&action);
        if wait > 0 {
            self.schedule.after(wait, action);
            return Ok(());
        }
        self.run_placement()?;
        self.events += 1;
        self.carry_out(action)
    }

    /// Ends all faults.
    ///
    /// # Errors
    /// The rule that broke.
    pub fn heal(&mut self) -> Result<(), Violation> {
        self.healing = true;
        self.cut = [PeerSet::default(); 16];
        self.lagging = PeerSet::default();
        self.exile = None;
        self.end_troubles();
        self.heal_placement()?;
        self.end_unrest();
        self.settings.faults = crate::group::settings::Faults::default();
        self.settings.sync = (100, 1000);
        self.settings.apply = (100, 1000);
        let now = self.schedule.now();
        self.trace.note(now, [99, 0, 0, 0], || "faults end".into());
        let down: Vec<StoreId> = self
            .nodes
            .iter()
            .filter(|(id, node)| node.store.is_none() && !self.is_lost(**id))
            .map(|(id, _)| *id)
            .collect();
        for id in down {
            self.start(id)?;
        }
        Ok(())
    }

    /// The time within which a healed world must have converged.
    pub fn healing_limit(&self) -> Time {
        let timeout = Time::from(self.settings.options.raft.election_ticks) * TICK;
        let mourns = self.loss.is_some() || self.rot.is_some();
        let mourning = if mourns { 1_000 * TICK } else { 0 };
        // Snapshots, given up and begun anew, take the longest.
        100 * timeout
            + 6 * self.settings.options.snapshot_ticks * TICK
            + 4 * self.settings.slow_delay.1
            + mourning
            + self.settling_limit()
    }

    /// Whether every region acknowledged a write since faults ended.
    pub(super) fn all_alive(&self) -> bool {
        self.descriptors
            .newest()
            .all(|region| self.alive.contains(&RegionId(region.id)))
    }

    /// Whether the healed cluster has converged.
    ///
    /// # Errors
    /// What is missing.
    pub fn converged(&self) -> Result<(), String> {
        for region in self.descriptors.newest() {
            let id = RegionId(region.id);
            let leaders: Vec<&StoreId> = self
                .nodes
                .iter()
                .filter(|(_, node)| {
                    node.views
                        .get(&id)
                        .is_some_and(|view| view.role == Role::Leader && view.owns_range)
                })
                .map(|(store, _)| store)
                .collect();
            let [leader] = leaders.as_slice() else {
                return Err(format!("region {id} has {} leaders", leaders.len()));
            };
            if !self.alive.contains(&id) {
                return Err(format!("region {id} acknowledged no write yet"));
            }
            let raft = self.nodes[leader]
                .store
                .as_ref()
                .and_then(|store| store.raft(id))
                .ok_or("a leader without raft")?;
            let last = raft.last().index;
            if raft.membership().is_joint() {
                return Err(format!("region {id} is joint: {:?}", raft.membership()));
            }
            for peer in &region.peers {
                let node = &self.nodes[&StoreId(peer.store_id)];
                let view = node.views.get(&id);
                if view.is_some_and(|view| view.frozen) {
                    return Err(format!("region {id} is frozen on store {}", peer.store_id));
                }
                if view.is_some_and(|view| view.damaged) {
                    return Err(format!("region {id} is damaged on store {}", peer.store_id));
                }
                if !view.is_some_and(|view| {
                    view.peer.0 == peer.id && view.owns_range && view.region == *region
                }) {
                    return Err(format!(
                        "region {id}: peer {} on store {} is not there: {view:?}",
                        peer.id, peer.store_id
                    ));
                }
                let applied = node
                    .store
                    .as_ref()
                    .and_then(|store| store.applied_index(id));
                if applied != Some(last) {
                    return Err(format!(
                        "region {id}: store {} applied {applied:?} of {last}",
                        peer.store_id
                    ));
                }
            }
        }
        self.placement_rests()?;
        self.all_records_dropped()?;
        if let Some(store) = self.stored.owing() {
            return Err(format!(
                "store {store} does not say whether all members of a region store the same"
            ));
        }
        for (store, node) in &self.nodes {
            if let Some(transfer) = node.transfers.first() {
                return Err(format!("store {store} holds on to {transfer:?}"));
            }
            for view in node.views.values() {
                let here = self.descriptors.newest().any(|region| {
                    region.id == view.region.id
                        && region
                            .peers
                            .iter()
                            .any(|peer| peer.store_id == store.0 && peer.id == view.peer.0)
                });
                if !here {
                    return Err(format!(
                        "store {store} still has peer {} of region {}, which is no member",
                        view.peer, view.region.id
                    ));
                }
            }
        }
        Ok(())
    }

    /// Compares the content of all members of all regions, whatever was sampled before.
    ///
    /// # Errors
    /// R12.
    pub fn check_contents(&mut self) -> Result<(), Violation> {
        let all: Vec<(u64, u64)> = self
            .descriptors
            .newest()
            .flat_map(|region| region.peers.iter().map(|peer| (region.id, peer.store_id)))
            .collect();
        for (region, store) in all {
            self.contents
                .check(store, RegionId(region), &self.nodes[&StoreId(store)].engine)?;
        }
        self.count_rest()
    }

    /// Checks what clients saw, key by key.
    ///
    /// # Errors
    /// R23.
    pub fn check_histories(&self) -> Result<(), Violation> {
        let mut keys: BTreeMap<&Bytes, Vec<history::Operation>> = BTreeMap::new();
        for client in &self.clients {
            for (key, operation) in client.history() {
                keys.entry(key).or_default().push(*operation);
            }
        }
        for (key, operations) in keys {
            history::check(&operations).map_err(|refused| Violation {
                rule: Rule::Linearizable,
                text: format!("key {}: {refused}", String::from_utf8_lossy(key)),
            })?;
        }
        Ok(())
    }

    /// Counts something that must happen in a batch.
    pub(super) fn count(&mut self, what: &'static str) {
        *self.happened.entry(what).or_default() += 1;
    }

    /// What happened so far.
    pub fn happened(&self) -> &BTreeMap<&'static str, u64> {
        &self.happened
    }

    /// Events so far.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// The time of what happens next.
    pub(super) fn due(&self) -> Option<Time> {
        self.schedule.due()
    }

    /// Virtual time.
    pub fn now(&self) -> Time {
        self.schedule.now()
    }

    /// Hash of everything that happened.
    pub fn digest(&self) -> u64 {
        let of_group = self.placed.as_ref().map_or(0, |placed| placed.digest());
        self.trace.digest() ^ of_group.rotate_left(7)
    }

    /// The text of the trace, when it was asked for.
    pub fn into_trace(self) -> Vec<String> {
        let of_group = self.placed.map(|placed| placed.into_trace());
        let of_group = of_group.into_iter().flatten();
        let of_group = of_group.map(|line| format!("placement group: {line}"));
        of_group.chain(self.trace.into_lines()).collect()
    }
}

/// An error that no fault of this world explains.
pub(super) fn broken(error: impl std::fmt::Debug) -> Violation {
    Violation {
        rule: Rule::Assertion,
        text: format!("{error:?}"),
    }
}
