//! A cluster of stores on memory engines, driven by one thread in a fixed order.
//!
//! Every stage can be held per store (log writes, applying, tasks) and every link cut or filtered, so that a scenario puts
//! itself between any two steps. `check_invariants` runs after every event.

mod looks;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use engine::{CrashMode, Engine, Logging, MemoryEngine, MemoryOptions};
use proto::pontoon::v1 as wire;
use proto::pontoon::v1::operation::Kind;
use proto::{RegionId, StoreId, metapb};
use raft::{PeerId, Role};
use store::apply::Applier;
use store::event::{
    ApplyTask, Divergence, Effects, Event, Keys, LogBatch, OperationResult, Order, OrderAnswer,
    OrderKind, OrderRefusal, OwnSplit, Proposal, ReadRequest, Refusal, RegionReport, RequestId,
    SecondLeader, StepId, Target, Task, TaskDone, Transfer, TransferChange, Verification,
    ViewChange,
};
use store::{Options, Store, identity, read, task};

pub use crate::values::{put, r, region, s, swap};

pub type Answer = Result<Vec<OperationResult>, Refusal>;
/// Tells tasks of one kind.
pub type TaskFilter = fn(&Task) -> bool;
type Filter = Box<dyn FnMut(StoreId, StoreId, &mut wire::Frame)>;

pub struct Node {
    pub engine: MemoryEngine,
    pub store: Option<Store<MemoryEngine>>,
    applier: Applier<MemoryEngine>,
    log: VecDeque<LogBatch>,
    apply: VecDeque<ApplyTask>,
    pub tasks: VecDeque<Task>,
    /// Snapshots that began and did not end.
    pub transfers: BTreeSet<Transfer>,
    /// All that ever began, in this order.
    pub begun: Vec<Transfer>,
    /// How fast each may go, as last told.
    pub paces: BTreeMap<Transfer, u64>,
    pub views: BTreeMap<RegionId, std::sync::Arc<store::event::RegionView>>,
    pub reports: Vec<RegionReport>,
    pub splits: Vec<Vec<metapb::Region>>,
    pub own_splits: Vec<OwnSplit>,
    pub divergences: Vec<Divergence>,
    pub second_leaders: Vec<SecondLeader>,
    pub verified: Vec<(Option<RequestId>, Verification)>,
    pub drained: bool,
    /// The stores that regions are shared with, as last told.
    pub shared: Option<BTreeSet<StoreId>>,
    /// Regions whose members were asked of placement.
    pub asked: Vec<RegionId>,
    /// Stores after which placement was asked.
    pub inquired: Vec<StoreId>,
    pub orders: Vec<OrderAnswer>,
}

pub struct Cluster {
    pub nodes: BTreeMap<StoreId, Node>,
    network: VecDeque<(StoreId, StoreId, wire::Frame)>,
    pub cut: BTreeSet<(StoreId, StoreId)>,
    filter: Option<Filter>,
    pub hold_log: BTreeSet<StoreId>,
    pub hold_apply: BTreeSet<StoreId>,
    pub hold_tasks: BTreeSet<StoreId>,
    /// Tasks of one kind on one store.
    pub hold_task: Option<(StoreId, TaskFilter)>,
    pub answers: BTreeMap<RequestId, Answer>,
    pub reads: BTreeMap<RequestId, Result<StoreId, Refusal>>,
    pub options: Options,
    next_request: u64,
    next_id: u64,
    pub give_ids: bool,
    /// Let every stream of a snapshot fail.
    pub spoil_snapshots: bool,
    pub happened: Counts,
    /// Events so far, and at which of them requests began and were answered.
    clock: u64,
    pub spans: BTreeMap<RequestId, (u64, Option<u64>)>,
}

/// What tasks did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub installs: usize,
    pub destroyed: usize,
}

pub fn options() -> Options {
    Options {
        ids_low: 0,
        proposal_ticks: 100_000,
        leaderless_ticks: 60,
        snapshot_ticks: 60,
        snapshot_offer_ticks: 3,
        report_ticks: 50,
        health_ticks: 5,
        down_ticks: 30,
        ..Options::default()
    }
}

impl Cluster {
    /// `stores` stores with these first regions.
    pub fn new(stores: u64, regions: &[metapb::Region]) -> Cluster {
        Cluster::with(stores, regions, options(), MemoryOptions::default())
    }

    pub fn with(
        stores: u64,
        regions: &[metapb::Region],
        options: Options,
        memory: MemoryOptions,
    ) -> Cluster {
        let mut cluster = Cluster {
            nodes: BTreeMap::new(),
            network: VecDeque::new(),
            cut: BTreeSet::new(),
            filter: None,
            hold_log: BTreeSet::new(),
            hold_apply: BTreeSet::new(),
            hold_tasks: BTreeSet::new(),
            hold_task: None,
            answers: BTreeMap::new(),
            reads: BTreeMap::new(),
            options,
            next_request: 1,
            next_id: 1000,
            give_ids: true,
            spoil_snapshots: false,
            happened: Counts::default(),
            clock: 0,
            spans: BTreeMap::new(),
        };
        for store in 1..=stores {
            let engine = MemoryEngine::with_options(memory);
            identity::create(&engine, 7, s(store), 1).expect("the engine is empty");
            identity::bootstrap(&engine, regions).expect("nothing is there yet");
            cluster.start(s(store), engine);
        }
        cluster
    }

    fn start(&mut self, id: StoreId, engine: MemoryEngine) {
        identity::bump_boot(&engine).expect("the identity is there");
        let options = Options {
            seed: id.0 * 77,
            ..self.options.clone()
        };
        let mut store = Store::open(engine.clone(), options).expect("the store opens");
        if self.give_ids {
            let ids = (self.next_id..self.next_id + 200).collect();
            self.next_id += 200;
            store.step(Event::Ids(ids));
        }
        let node = Node {
            applier: Applier::new(engine.clone(), &self.options),
            engine,
            store: Some(store),
            log: VecDeque::new(),
            apply: VecDeque::new(),
            tasks: VecDeque::new(),
            transfers: BTreeSet::new(),
            begun: Vec::new(),
            paces: BTreeMap::new(),
            views: BTreeMap::new(),
            reports: Vec::new(),
            splits: Vec::new(),
            own_splits: Vec::new(),
            divergences: Vec::new(),
            second_leaders: Vec::new(),
            verified: Vec::new(),
            drained: false,
            shared: None,
            asked: Vec::new(),
            inquired: Vec::new(),
            orders: Vec::new(),
        };
        self.nodes.insert(id, node);
        self.take(id);
    }

    /// Stops a store as a crash does and leaves it down.
    pub fn crash(&mut self, id: StoreId, mode: CrashMode) {
        let node = self.nodes.get_mut(&id).expect("a store of the cluster");
        node.engine = node.engine.crash(mode);
        node.store = None;
        node.log.clear();
        node.apply.clear();
        node.tasks.clear();
        node.transfers.clear();
        node.paces.clear();
        node.views.clear();
        self.network
            .retain(|(from, to, _)| *from != id && *to != id);
        self.hold_log.remove(&id);
        self.hold_apply.remove(&id);
        self.hold_tasks.remove(&id);
    }

    pub fn restart(&mut self, id: StoreId) {
        let engine = self.nodes[&id].engine.clone();
        self.start(id, engine);
    }

    pub fn filter(&mut self, filter: impl FnMut(StoreId, StoreId, &mut wire::Frame) + 'static) {
        self.filter = Some(Box::new(filter));
    }

    pub fn clear_filter(&mut self) {
        self.filter = None;
    }

    pub fn isolate(&mut self, id: StoreId) {
        for other in self.nodes.keys().filter(|other| **other != id) {
            self.cut.insert((id, *other));
            self.cut.insert((*other, id));
        }
    }

    pub fn heal(&mut self) {
        self.cut.clear();
    }

    pub fn store(&self, id: u64) -> &Store<MemoryEngine> {
        self.nodes[&s(id)].store.as_ref().expect("the store runs")
    }

    /// Steps a store and carries its effects to the queues of the harness.
    pub fn step(&mut self, id: StoreId, event: Event) {
        let Some(store) = self.nodes.get_mut(&id).and_then(|node| node.store.as_mut()) else {
            return;
        };
        store.step(event);
        store.check_invariants();
        self.clock += 1;
        self.take(id);
    }

    /// Steps without taking effects, so that what follows shares the turn.
    pub fn step_only(&mut self, id: StoreId, event: Event) {
        let store = self
            .nodes
            .get_mut(&id)
            .and_then(|node| node.store.as_mut())
            .expect("the store runs");
        store.step(event);
    }

    pub fn take(&mut self, id: StoreId) {
        let node = self.nodes.get_mut(&id).expect("a store of the cluster");
        let Some(store) = node.store.as_mut() else {
            return;
        };
        let effects = store.take_effects();
        store.check_invariants();
        let Effects {
            views,
            transfers,
            frames,
            log,
            apply,
            tasks,
            refusals,
            reads,
            reports,
            orders,
            splits,
            own_splits,
            divergences,
            second_leaders,
            verified,
            describe,
            inquire,
            shared,
            drained,
            failure,
            ..
        } = effects;
        assert!(failure.is_none(), "store {id} fails: {failure:?}");
        for view in views {
            match view {
                ViewChange::Set(view) => node.views.insert(RegionId(view.region.id), view),
                ViewChange::Removed(region) => node.views.remove(&region),
            };
        }
        for change in transfers {
            let news = match change {
                TransferChange::Begun(transfer, _) => {
                    node.begun.push(transfer);
                    node.transfers.insert(transfer)
                }
                TransferChange::Paced(transfer, rate) => {
                    let earlier = node.paces.insert(transfer, rate);
                    node.transfers.contains(&transfer) && earlier != Some(rate)
                }
                TransferChange::Ended(transfer) => node.transfers.remove(&transfer),
            };
            assert!(news, "{change:?} happened before");
        }
        self.network
            .extend(frames.into_iter().map(|(to, frame)| (id, to, frame)));
        node.log.extend(log);
        node.apply.extend(apply);
        node.tasks.extend(tasks);
        node.reports.extend(reports);
        node.orders.extend(orders);
        node.splits.extend(splits);
        node.own_splits.extend(own_splits);
        node.divergences.extend(divergences);
        node.second_leaders.extend(second_leaders);
        node.verified.extend(verified);
        node.drained = drained;
        node.shared = shared.or(node.shared.take());
        node.asked.extend(describe);
        node.inquired.extend(inquire);
        for (request, refusal) in refusals {
            self.answer(request, Err(refusal));
        }
        for request in reads {
            let earlier = self.reads.insert(request, Ok(id));
            assert!(earlier.is_none(), "read {request:?} is answered twice");
        }
    }

    fn answer(&mut self, request: RequestId, answer: Answer) {
        if let Some(slot) = self.reads.get(&request) {
            panic!("request {request:?} was answered as a read: {slot:?}");
        }
        if request.0 % 2 == 1 {
            let Err(refusal) = answer else {
                panic!("a read has no operations")
            };
            self.reads.insert(request, Err(refusal));
            return;
        }
        if let Some(span) = self.spans.get_mut(&request) {
            span.1 = Some(self.clock);
        }
        let earlier = self.answers.insert(request, answer);
        assert!(earlier.is_none(), "request {request:?} is answered twice");
    }

    /// The slot of the one snapshot that a store lets in.
    pub fn granted(&self, store: u64) -> u64 {
        let mut slots =
            self.nodes[&s(store)]
                .transfers
                .iter()
                .filter_map(|transfer| match transfer {
                    Transfer::Incoming { slot, .. } => Some(*slot),
                    Transfer::Outgoing { .. } => None,
                });
        let slot = slots.next().expect("a slot is granted");
        assert_eq!(slots.next(), None, "store {store} granted several slots");
        slot
    }

    /// Does one thing on one store: a log write, a run of applying, or a task. False when there is nothing to do.
    pub fn work(&mut self, id: StoreId) -> bool {
        self.write_log(id) || self.apply(id) || self.run_task(id)
    }

    pub fn write_log(&mut self, id: StoreId) -> bool {
        if self.hold_log.contains(&id) {
            return false;
        }
        let node = self.nodes.get_mut(&id).expect("a store of the cluster");
        let Some(batch) = node.log.pop_front() else {
            return false;
        };
        node.engine
            .write(batch.batch, Logging::On)
            .expect("the engine writes");
        if batch.sync {
            node.engine.sync().expect("the engine syncs");
            self.network
                .extend(batch.then.into_iter().map(|(to, frame)| (id, to, frame)));
            self.step(id, Event::LogWritten(batch.sequence));
        } else {
            assert!(
                batch.then.is_empty(),
                "something waits for a sync that is not asked for"
            );
        }
        true
    }

    pub fn apply(&mut self, id: StoreId) -> bool {
        if self.hold_apply.contains(&id) {
            return false;
        }
        let node = self.nodes.get_mut(&id).expect("a store of the cluster");
        if node.apply.is_empty() {
            return false;
        }
        let mut applied = node
            .applier
            .run(node.apply.drain(..).collect())
            .expect("applying works");
        let mut answers = Vec::new();
        for applied in &mut applied {
            answers.append(&mut applied.answers);
        }
        self.step(id, Event::Applied(applied));
        for (request, answer) in answers {
            self.answer(request, answer);
        }
        true
    }

    /// Applies what waits, and keeps from the store what came of it.
    pub fn apply_unheard(&mut self, id: StoreId) -> Vec<store::event::Applied> {
        let node = self.nodes.get_mut(&id).expect("a store of the cluster");
        let tasks = node.apply.drain(..).collect();
        node.applier.run(tasks).expect("applying works")
    }

    pub fn run_task(&mut self, id: StoreId) -> bool {
        if self.hold_tasks.contains(&id) {
            return false;
        }
        let held = self.hold_task.filter(|(store, _)| *store == id);
        let node = self.nodes.get_mut(&id).expect("a store of the cluster");
        let free = |task: &Task| held.is_none_or(|(_, what)| !what(task));
        let Some(task) = node.tasks.pop_front_if(|task| free(task)) else {
            return false;
        };
        match task {
            Task::SendSnapshot {
                to_store,
                build,
                head,
            } => self.send_snapshot(id, to_store, build, head),
            task => {
                let transfer = task.transfer();
                let mut go_on = || match transfer {
                    Some(transfer @ Transfer::Outgoing { .. }) => {
                        node.transfers.contains(&transfer)
                    }
                    Some(Transfer::Incoming { .. }) | None => true,
                };
                let done = task::run(&node.engine, task, &mut go_on).expect("the task runs");
                if let Some(done) = done {
                    match done {
                        TaskDone::SnapshotInstalled { .. } => self.happened.installs += 1,
                        TaskDone::Destroyed { .. } => self.happened.destroyed += 1,
                        _ => {}
                    }
                    self.step(id, Event::TaskDone(done));
                }
            }
        }
        true
    }

    /// Streams a snapshot. The receiver takes bytes only of one that it granted.
    fn send_snapshot(&mut self, from: StoreId, to: StoreId, build: u64, head: wire::SnapshotHead) {
        let reaches = self.nodes[&to].store.is_some()
            && self.nodes[&to]
                .transfers
                .contains(&Transfer::incoming(&head))
            && !self.cut.contains(&(from, to))
            && !self.spoil_snapshots;
        let (source, target) = (
            self.nodes[&from].engine.clone(),
            self.nodes[&to].engine.clone(),
        );
        let names: Vec<String> = head.files.iter().map(|file| file.name.clone()).collect();
        if reaches {
            for file in &head.files {
                target
                    .stage_remove(std::slice::from_ref(&file.name))
                    .expect("staging works");
                let bytes = source
                    .stage_read(&file.name, 0, usize::MAX)
                    .expect("the file is staged");
                target
                    .stage_append(&file.name, &bytes)
                    .expect("staging works");
                let staged = target.stage_finish(&file.name).expect("the file is whole");
                assert_eq!(store::check_file(&head, file, &staged), Ok(()));
            }
            self.step(
                to,
                Event::SnapshotReceived {
                    from,
                    head: head.clone(),
                },
            );
        }
        source.stage_remove(&names).expect("staging works");
        let region = RegionId(head.region.as_ref().expect("a region").id);
        let done = TaskDone::SnapshotSent {
            region,
            to_peer: PeerId(head.to_peer),
            build,
            delivered: reaches,
        };
        self.step(from, Event::TaskDone(done));
    }

    /// Delivers one frame. False when none is on its way.
    pub fn deliver(&mut self) -> bool {
        let Some((from, to, mut frame)) = self.network.pop_front() else {
            return false;
        };
        if self.cut.contains(&(from, to))
            || self.nodes.get(&to).is_none_or(|node| node.store.is_none())
        {
            return true;
        }
        if let Some(filter) = &mut self.filter {
            filter(from, to, &mut frame);
        }
        self.step(to, Event::Frame { from, frame });
        true
    }

    /// Goes on until nothing is left to do without time passing.
    pub fn settle(&mut self) {
        for _ in 0..200_000 {
            let mut busy = self.deliver();
            let ids: Vec<StoreId> = self.nodes.keys().copied().collect();
            for id in ids {
                busy |= self.work(id);
            }
            if !busy {
                return;
            }
        }
        panic!("the cluster does not come to rest");
    }

    pub fn tick(&mut self) {
        let ids: Vec<StoreId> = self.nodes.keys().copied().collect();
        for id in ids {
            self.step(id, Event::Tick);
        }
        self.settle();
    }

    pub fn ticks(&mut self, count: usize) {
        for _ in 0..count {
            self.tick();
        }
    }

    /// Lets time pass until something holds.
    pub fn until(&mut self, what: &str, mut holds: impl FnMut(&Cluster) -> bool) {
        self.settle();
        for _ in 0..600 {
            if holds(self) {
                return;
            }
            self.tick();
        }
        panic!("never: {what}\n{}", self.describe());
    }

    pub fn describe(&self) -> String {
        let mut text = String::new();
        for (id, node) in &self.nodes {
            text += &format!("{id}{}\n", if node.store.is_none() { " down" } else { "" });
            for view in node.views.values() {
                let region = &view.region;
                let peers: Vec<_> = region
                    .peers
                    .iter()
                    .map(|peer| format!("{}@{} {:?}", peer.id, peer.store_id, peer.role()))
                    .collect();
                let applied = node
                    .store
                    .as_ref()
                    .and_then(|store| store.applied_index(RegionId(region.id)));
                text += &format!(
                    "  region {} [{:?}, {:?}) {:?} peer {} {:?} term {} owns {} applied {applied:?} {peers:?}\n",
                    region.id,
                    region.start_key,
                    region.end_key,
                    region.region_epoch,
                    view.peer,
                    view.role,
                    view.term,
                    view.owns_range,
                );
            }
        }
        for (id, node) in &self.nodes {
            for region in node.views.keys() {
                if let Some(raft) = node.store.as_ref().and_then(|store| store.raft(*region)) {
                    text += &format!(
                        "{id} {region} committed {} last {:?} applied {} durable {:?} behind {}\n",
                        raft.committed(),
                        raft.last(),
                        raft.applied(),
                        raft.durable_state(),
                        raft.behind()
                    );
                }
            }
        }
        text
    }

    /// The store that leads a region with the highest term.
    pub fn leader(&self, region: RegionId) -> Option<StoreId> {
        let leads = self.nodes.iter().filter_map(|(id, node)| {
            let view = node
                .views
                .get(&region)
                .filter(|view| view.role == Role::Leader && view.owns_range)?;
            node.store.as_ref()?;
            Some((view.term, *id))
        });
        leads.max().map(|(_, id)| id)
    }

    /// Waits for a leader that can serve.
    pub fn elect(&mut self, region: RegionId) -> StoreId {
        self.until("a leader that committed in its term", |cluster| {
            cluster.leader(region).is_some_and(|id| {
                let raft = cluster
                    .store(id.0)
                    .raft(region)
                    .expect("the leader runs raft");
                raft.is_committed_in_term() && raft.applied() == raft.committed()
            })
        });
        self.leader(region).expect("it was just there")
    }

    /// Makes a store the leader of a region.
    pub fn elect_at(&mut self, region: RegionId, id: u64) {
        let leader = self.elect(region);
        if leader == s(id) {
            return;
        }
        let view = self.view(leader.0, region);
        let target = view
            .region
            .peers
            .iter()
            .find(|peer| peer.store_id == id)
            .expect("a member there")
            .id;
        self.until("the member catches up", |cluster| {
            let statuses = cluster
                .store(leader.0)
                .raft(region)
                .expect("it leads")
                .member_statuses();
            let last = cluster
                .store(leader.0)
                .raft(region)
                .expect("it leads")
                .last()
                .index;
            statuses
                .get(&PeerId(target))
                .is_some_and(|status| status.matched == last)
        });
        self.order(region, OrderKind::TransferLeader(PeerId(target)))
            .expect("the transfer starts");
        self.until("leadership moves", |cluster| {
            cluster.leader(region) == Some(s(id))
        });
        self.elect(region);
    }

    pub fn view(&self, store: u64, region: RegionId) -> std::sync::Arc<store::event::RegionView> {
        self.nodes[&s(store)]
            .views
            .get(&region)
            .cloned()
            .unwrap_or_else(|| panic!("{region} at {store}\n{}", self.describe()))
    }

    pub fn has_view(&self, store: u64, region: RegionId) -> bool {
        self.nodes[&s(store)].views.contains_key(&region)
    }

    pub fn owns(&self, store: u64, region: RegionId) -> bool {
        self.nodes[&s(store)]
            .views
            .get(&region)
            .is_some_and(|view| view.owns_range)
    }

    /// Asks for an order at the leader's present epoch.
    pub fn order(&mut self, region: RegionId, kind: OrderKind) -> Result<(), OrderRefusal> {
        let leader = self.leader(region).expect("a leader");
        self.order_at(leader, region, kind)
    }

    pub fn order_at(
        &mut self,
        store: StoreId,
        region: RegionId,
        kind: OrderKind,
    ) -> Result<(), OrderRefusal> {
        let answer = self.order_step(store, region, StepId::default(), kind);
        answer.result
    }

    /// As a step of an operator.
    pub fn order_step(
        &mut self,
        store: StoreId,
        region: RegionId,
        id: StepId,
        kind: OrderKind,
    ) -> OrderAnswer {
        let epoch = self
            .view(store.0, region)
            .region
            .region_epoch
            .expect("an epoch");
        self.step(
            store,
            Event::Order(Order {
                region,
                epoch,
                id,
                kind,
                purpose: Default::default(),
            }),
        );
        let answer = self
            .nodes
            .get_mut(&store)
            .expect("it is there")
            .orders
            .pop()
            .expect("an answer");
        assert_eq!((answer.region, answer.id), (region, id));
        answer
    }

    fn request(&mut self, is_read: bool) -> RequestId {
        self.next_request += 1;
        RequestId(self.next_request * 2 + u64::from(is_read))
    }

    /// Proposes at a store, as a client that knows the region as it is there.
    pub fn propose_at(
        &mut self,
        store: StoreId,
        region: RegionId,
        operations: Vec<wire::Operation>,
    ) -> RequestId {
        let epoch = self.nodes[&store]
            .views
            .get(&region)
            .and_then(|view| view.region.region_epoch);
        self.propose_as(store, region, epoch, operations)
    }

    pub fn propose_as(
        &mut self,
        store: StoreId,
        region: RegionId,
        epoch: Option<metapb::RegionEpoch>,
        operations: Vec<wire::Operation>,
    ) -> RequestId {
        let id = self.request(false);
        self.spans.insert(id, (self.clock, None));
        let points = operations
            .iter()
            .filter_map(|operation| match operation.kind.as_ref()? {
                Kind::Put(put) => Some(put.key.clone()),
                Kind::Delete(delete) => Some(delete.key.clone()),
                Kind::CompareAndSwap(swap) => Some(swap.key.clone()),
                Kind::DeleteRange(_) => None,
            });
        let target = Target {
            region,
            peer: None,
            epoch,
            keys: Keys::Points(points.collect()),
        };
        self.step(
            store,
            Event::Propose(Proposal {
                id,
                target,
                operations,
            }),
        );
        id
    }

    /// Asks a store whether all members of a region store the same.
    pub fn verify_at(&mut self, store: StoreId, region: RegionId) -> RequestId {
        let request = self.request(false);
        self.step(store, Event::Verify { request, region });
        request
    }

    /// Puts a key through the leader and waits for the answer.
    pub fn put(&mut self, region: RegionId, key: &str, value: &str) {
        let leader = self.elect(region);
        let request = self.propose_at(leader, region, vec![put(key, value)]);
        self.until("the put is answered", |cluster| {
            cluster.answers.contains_key(&request)
        });
        assert_eq!(
            self.answers[&request],
            Ok(vec![OperationResult::Done]),
            "put {key}"
        );
    }

    /// Asks for a linearizable read at a store.
    pub fn read_at(&mut self, store: StoreId, region: RegionId, key: &str) -> RequestId {
        let id = self.request(true);
        let epoch = self.nodes[&store]
            .views
            .get(&region)
            .and_then(|view| view.region.region_epoch);
        let keys = Keys::Points(vec![Bytes::copy_from_slice(key.as_bytes())]);
        self.step(
            store,
            Event::Read(ReadRequest {
                id,
                target: Target {
                    region,
                    peer: None,
                    epoch,
                    keys,
                },
            }),
        );
        id
    }

    /// Reads a key through the leader.
    pub fn get(&mut self, region: RegionId, key: &str) -> Option<String> {
        let leader = self.elect(region);
        let request = self.read_at(leader, region, key);
        self.until("the read is answered", |cluster| {
            cluster.reads.contains_key(&request)
        });
        assert_eq!(self.reads[&request], Ok(leader), "get {key}");
        self.local_get(leader.0, key)
    }

    /// What is in the engine of a store.
    pub fn local_get(&self, store: u64, key: &str) -> Option<String> {
        let view = self.nodes[&s(store)].engine.view();
        let value = read::get(&view, key.as_bytes(), 0).expect("a good value");
        value.map(|value| String::from_utf8(value.to_vec()).expect("text"))
    }

    /// Splits a region and waits until every running store that has it applied that. Returns the children.
    pub fn split(&mut self, region: RegionId, keys: &[&str]) -> Vec<RegionId> {
        let leader = self.elect(region);
        let keys = keys
            .iter()
            .map(|key| Bytes::copy_from_slice(key.as_bytes()))
            .collect();
        self.order(region, OrderKind::Split(keys))
            .expect("the split is proposed");
        self.until("the split is applied", |cluster| {
            !cluster.nodes[&leader].splits.is_empty()
        });
        let pieces = self
            .nodes
            .get_mut(&leader)
            .expect("it is there")
            .splits
            .pop()
            .expect("it was just there");
        self.settle();
        pieces[1..].iter().map(|piece| RegionId(piece.id)).collect()
    }

    /// Adds a learner on a store and waits until it has the data.
    pub fn add_learner(&mut self, region: RegionId, peer: u64, store: u64) {
        self.elect(region);
        let learner = metapb::Peer {
            id: peer,
            store_id: store,
            role: metapb::PeerRole::Learner as i32,
            is_witness: false,
        };
        self.order(region, OrderKind::AddLearner(learner))
            .expect("the learner is added");
        self.until("the learner has the data", |cluster| {
            cluster.owns(store, region) && cluster.caught_up(region, peer)
        });
    }

    pub fn caught_up(&self, region: RegionId, peer: u64) -> bool {
        let Some(raft) = self
            .leader(region)
            .and_then(|leader| self.store(leader.0).raft(region))
        else {
            return false;
        };
        raft.member_statuses()
            .get(&PeerId(peer))
            .is_some_and(|status| status.matched == raft.last().index)
    }

    /// Moves a replica: learner, joint swap, removal.
    pub fn swap_peers(&mut self, region: RegionId, promote: u64, demote: u64) {
        self.elect(region);
        let kind = OrderKind::EnterJoint {
            promote: vec![PeerId(promote)],
            demote: vec![PeerId(demote)],
        };
        self.order(region, kind)
            .expect("the joint change is proposed");
        self.until("the joint configuration is left", |cluster| {
            let view = cluster.view(cluster.leader(region).map_or(1, |leader| leader.0), region);
            let role = |id| {
                view.region
                    .peers
                    .iter()
                    .find(|peer| peer.id == id)
                    .map(|peer| peer.role())
            };
            role(promote) == Some(metapb::PeerRole::Voter)
                && role(demote) == Some(metapb::PeerRole::Learner)
        });
        self.elect(region);
    }

    pub fn remove_learner(&mut self, region: RegionId, peer: u64) {
        self.elect(region);
        self.order(region, OrderKind::RemoveLearner(PeerId(peer)))
            .expect("the removal is proposed");
        self.until("the learner is gone", |cluster| {
            let view = cluster.view(cluster.leader(region).map_or(1, |leader| leader.0), region);
            view.region.peers.iter().all(|member| member.id != peer)
        });
    }
}

pub const KILL: CrashMode = CrashMode::Kill;
pub const POWER: CrashMode = CrashMode::PowerLoss {
    keep: engine::Keep::Nothing,
};
