//! The driver of the placement machine: one task that gives it time, replication and the word of a quorum.
//!
//! It watches the one region of the group. When this member leads it, the driver waits for a linearizable read, which
//! proves that an entry of the own term is applied, scans the region in the view of that read and lets the machine lead.
//! From then on writes of the machine are proposed one at a time as compare-and-swaps, confirmations are reads of the
//! region, and the moment the published view says otherwise, or a write fails, the machine drops everything.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use engine::{Direction, Engine, Family, View};
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use placement::{Answer, Effects, Event, Now, Order, Refusal, Request, RequestId, Settings, Write};
use prometheus::{IntCounter, IntGauge};
use proto::pontoon::v1::region_state::State;
use proto::pontoon::v1::{CompareAndSwap, Delete, Operation, RegionStep, operation};
use proto::{StoreId, metapb};
use raft::Role;
use store::event::{Keys, OperationResult, Target};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::MissedTickBehavior;

use super::directory::Known;
use super::error::Error;
use super::handle::{INPUTS_MAX, Input, Placement, Standing};
use super::member::{Members, REGION};
use super::succession;
use crate::metrics::Metrics;
use crate::runtime::Handle;
use crate::services::pd::convert;

/// Between looks at deadlines.
const TICK: Duration = Duration::from_millis(100);
/// Before something that was refused as busy is tried again.
const PAUSE: Duration = Duration::from_millis(10);
/// Inputs taken at a time.
const INPUTS_AT_ONCE: usize = 256;

/// Runs the machine. See the module.
pub struct Driver<E: Engine> {
    node: Handle<E>,
    machine: placement::Placement,
    /// Who the members are where the region does not tell, by position.
    known: Vec<StoreId>,
    /// The configuration that `Standing::members` was made from.
    conf_ver: Option<u64>,
    started: Instant,
    standing: watch::Sender<Standing>,
    inputs: mpsc::Receiver<Input>,
    replies: BTreeMap<RequestId, oneshot::Sender<Result<Answer, Refusal>>>,
    next_request: u64,
    streams: BTreeMap<StoreId, Stream>,
    /// The leadership of the machine; completions of an earlier one count for nothing.
    leading: Option<Leadership>,
    leaderships: u64,
    loading: bool,
    /// Writes without an outcome, of any leadership: nothing is loaded before they have one.
    writes: usize,
    work: FuturesUnordered<BoxFuture<'static, Done>>,
    figures: Figures,
}

struct Stream {
    id: u64,
    orders: mpsc::Sender<Result<RegionStep, tonic::Status>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Leadership {
    number: u64,
    term: u64,
}

/// What work ended with.
enum Done {
    /// The region was read, by a leader of this term.
    Loaded {
        term: u64,
        pairs: Result<Option<BTreeMap<Bytes, Bytes>>, engine::Error>,
    },
    /// A write has an outcome.
    Written {
        leadership: u64,
        token: u64,
        applied: bool,
    },
    /// A quorum was asked.
    Confirmed {
        leadership: u64,
        round: u64,
        leads: bool,
    },
}

/// What `/metrics` tells of placement.
struct Figures {
    leads: IntGauge,
    requests: IntCounter,
    reports: IntCounter,
    orders: IntCounter,
    writes: IntCounter,
    confirmations: IntCounter,
}

impl Figures {
    fn new(metrics: &Metrics) -> Self {
        let counter = |name, help| IntCounter::new(name, help).expect("the name is valid");
        let figures = Figures {
            leads: IntGauge::new("placement_leads", "1 while this member leads.")
                .expect("the name is valid"),
            requests: counter(
                "placement_requests_total",
                "Requests to the placement machine.",
            ),
            reports: counter("placement_region_reports_total", "Reports of regions."),
            orders: counter(
                "placement_orders_total",
                "Steps sent to leaders of regions.",
            ),
            writes: counter("placement_writes_total", "Changes of the replicated state."),
            confirmations: counter(
                "placement_confirmations_total",
                "Rounds that confirmed the leadership.",
            ),
        };
        let registry = metrics.registry();
        let counters = [
            &figures.requests,
            &figures.reports,
            &figures.orders,
            &figures.writes,
            &figures.confirmations,
        ];
        for counter in counters {
            registry
                .register(Box::new(counter.clone()))
                .expect("names are distinct");
        }
        registry
            .register(Box::new(figures.leads.clone()))
            .expect("names are distinct");
        figures
    }
}

impl<E: Engine> Driver<E> {
    /// A driver over a running node, and the way to it.
    pub fn new(
        node: Handle<E>,
        members: &Members,
        known: &Known,
        settings: Settings,
        metrics: &Arc<Metrics>,
    ) -> (Self, Placement) {
        let (sender, inputs) = mpsc::channel(INPUTS_MAX);
        let dial = settings.balance.snapshot_rates();
        let mut all = known.first.clone();
        all[members.position()] = known.member;
        let (standing, watched) = watch::channel(Standing {
            members: all.as_slice().into(),
            ..Default::default()
        });
        let driver = Self {
            node,
            machine: placement::Placement::new(settings),
            known: all,
            conf_ver: None,
            started: Instant::now(),
            standing,
            inputs,
            replies: BTreeMap::new(),
            next_request: 0,
            streams: BTreeMap::new(),
            leading: None,
            leaderships: 0,
            loading: false,
            writes: 0,
            work: FuturesUnordered::new(),
            figures: Figures::new(metrics),
        };
        (driver, Placement::new(known.member, dial, sender, watched))
    }

    /// Runs until nobody can ask any more.
    ///
    /// # Errors
    /// The replicated state cannot be read or used: this member must not lead, so it must not vote itself there either. Or the
    /// group removed this member.
    pub async fn run(mut self) -> Result<(), Error> {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let node = self.node.clone();
        let mut inputs = Vec::with_capacity(INPUTS_AT_ONCE);
        loop {
            let changed = node.views().changed();
            self.look_at_region()?;
            tokio::select! {
                () = changed => {}
                Some(done) = self.work.next() => self.on_done(done)?,
                count = self.inputs.recv_many(&mut inputs, INPUTS_AT_ONCE) => {
                    if count == 0 {
                        return Ok(());
                    }
                    for input in inputs.drain(..) {
                        // Whoever was deposed while inputs waited must not take them for its own.
                        self.on_input(input);
                    }
                }
                _ = tick.tick() => self.step(Event::Tick),
            }
        }
    }

    /// Begins or ends to lead as the region's published view says.
    fn look_at_region(&mut self) -> Result<(), Error> {
        let view = self.node.region(REGION);
        let leads = view
            .as_ref()
            .filter(|view| view.role == Role::Leader)
            .map(|view| view.term);
        if self
            .leading
            .is_some_and(|leading| Some(leading.term) != leads)
        {
            self.lose();
        }
        if let Some(term) = leads
            && self.leading.is_none()
            && !self.loading
            && self.writes == 0
        {
            self.load(term);
        }
        if view.is_none() {
            self.check_not_removed()?;
        }
        let epoch = view
            .as_ref()
            .and_then(|view| view.region.region_epoch.as_ref());
        let conf_ver = epoch.map(|epoch| epoch.conf_ver);
        if conf_ver != self.conf_ver {
            self.conf_ver = conf_ver;
            let region = view.as_ref().map(|view| &view.region);
            let members = self.members(region);
            self.publish(|standing| standing.members = members);
        }
        let leader = view
            .and_then(|view| view.leader)
            .map(|leader| StoreId(leader.store_id));
        let cluster_id = match self.standing.borrow().cluster_id {
            Some(known) => Some(known),
            None => self.read_cluster_id()?,
        };
        self.publish(|standing| {
            standing.leader = leader;
            standing.cluster_id = cluster_id;
        });
        Ok(())
    }

    /// Who the members are, by position.
    fn members(&self, region: Option<&metapb::Region>) -> Arc<[StoreId]> {
        let told = region.map(|region| succession::members(region, self.known.len()));
        let told = told.into_iter().flatten().chain(std::iter::repeat(None));
        let members = self.known.iter().zip(told);
        members
            .map(|(known, told)| told.unwrap_or(*known))
            .collect()
    }

    /// A member that the group removed does not vote any more, and must say so instead of waiting for a leader for ever.
    fn check_not_removed(&self) -> Result<(), Error> {
        let state = store::identity::region_state(self.node.engine(), REGION);
        match state.map_err(Error::Region)? {
            Some(state) if state.state() == State::Tombstone => Err(Error::Replaced),
            Some(_) | None => Ok(()),
        }
    }

    /// The cluster's identity, as far as it is applied here. It never changes.
    fn read_cluster_id(&self) -> Result<Option<u64>, Error> {
        let key = store::keys::data(placement::CLUSTER_KEY);
        let Some(bytes) = self
            .node
            .engine()
            .get(Family::State, &key)
            .map_err(Error::Reading)?
        else {
            return Ok(None);
        };
        let stored = store::value::decode(bytes).map_err(Error::Reading)?;
        Ok(Some(placement::decode_cluster(&stored.value)?.cluster_id))
    }

    /// Waits for a linearizable read, which the region grants once an entry of its leader's term is applied, and reads
    /// everything in its view.
    fn load(&mut self, term: u64) {
        self.loading = true;
        let node = self.node.clone();
        self.work.push(Box::pin(async move {
            let pairs = match node.read(whole_region()).await {
                Ok((view, _)) => scan(&view).map(Some),
                Err(refusal) => {
                    tracing::debug!(%refusal, "the placement region cannot be read yet");
                    tokio::time::sleep(PAUSE).await;
                    Ok(None)
                }
            };
            Done::Loaded { term, pairs }
        }));
    }

    fn lead(&mut self, term: u64, pairs: BTreeMap<Bytes, Bytes>) -> Result<(), Error> {
        self.leaderships += 1;
        self.leading = Some(Leadership {
            number: self.leaderships,
            term,
        });
        let cluster_id = rand::random::<u64>().max(1);
        let effects = self.machine.lead(term, pairs, cluster_id, self.now())?;
        tracing::info!(term, "leading the placement group");
        self.figures.leads.set(1);
        self.carry_out(effects);
        Ok(())
    }

    fn lose(&mut self) {
        let Some(leading) = self.leading.take() else {
            return;
        };
        tracing::info!(
            term = leading.term,
            "not leading the placement group any more"
        );
        self.figures.leads.set(0);
        // Nobody sends to a leader that is none: streams end, and stores look for the new one.
        self.streams.clear();
        self.publish(|standing| standing.serving = None);
        let effects = self.machine.step(Event::Lost, self.now());
        self.carry_out(effects);
    }

    fn on_done(&mut self, done: Done) -> Result<(), Error> {
        let current = self.leading.map(|leading| leading.number);
        match done {
            Done::Loaded { term, pairs } => {
                self.loading = false;
                let pairs = pairs.map_err(Error::Reading)?;
                if let Some(pairs) = pairs.filter(|_| self.leads_in(term)) {
                    self.lead(term, pairs)?;
                }
            }
            Done::Written {
                leadership,
                token,
                applied,
            } => {
                self.writes -= 1;
                if current == Some(leadership) {
                    if applied {
                        self.step(Event::Written(token));
                    } else {
                        self.lose();
                    }
                }
            }
            Done::Confirmed {
                leadership,
                round,
                leads,
            } => {
                if let Some(leading) = self.leading.filter(|leading| leading.number == leadership) {
                    // The view is published before the answer of the read, so it tells the term of that answer or a
                    // later one: a leadership in between would show.
                    if leads && self.leads_in(leading.term) {
                        self.step(Event::Confirmed(round));
                    } else {
                        self.lose();
                    }
                }
            }
        }
        Ok(())
    }

    fn leads_in(&self, term: u64) -> bool {
        self.node
            .region(REGION)
            .is_some_and(|view| view.role == Role::Leader && view.term == term)
    }

    fn on_input(&mut self, input: Input) {
        match input {
            Input::Request { request, reply } => self.on_request(request, reply),
            Input::Open {
                store,
                stream,
                orders,
            } => {
                if self.leading.is_some() {
                    self.streams.insert(store, Stream { id: stream, orders });
                }
            }
            Input::Report(report) => {
                self.figures.reports.inc();
                self.step(Event::Report(report));
            }
            Input::Metadata(reply) => {
                let now = self.now();
                if let Some(metadata) = self.machine.metadata(now) {
                    // Whoever asked may have gone.
                    drop(reply.send((metadata, now)));
                }
            }
            Input::Refused(refusal) => {
                self.step(Event::Refused(refusal));
            }
            Input::OwnSplit(split) => {
                self.step(Event::OwnSplit(split));
            }
            Input::Divergence(told) => {
                self.step(Event::Divergence(told));
            }
            Input::Close { store, stream } => {
                if self
                    .streams
                    .get(&store)
                    .is_some_and(|open| open.id == stream)
                {
                    self.streams.remove(&store);
                }
            }
        }
    }

    fn on_request(
        &mut self,
        request: Box<Request>,
        reply: oneshot::Sender<Result<Answer, Refusal>>,
    ) {
        self.figures.requests.inc();
        self.next_request += 1;
        let id = RequestId(self.next_request);
        self.replies.insert(id, reply);
        self.step(Event::Request(id, request));
    }

    fn step(&mut self, event: Event) {
        let effects = self.machine.step(event, self.now());
        self.carry_out(effects);
    }

    fn carry_out(&mut self, effects: Effects) {
        for note in effects.notes {
            let region = note.region.map(|region| region.0);
            tracing::info!(region, operator = note.operator, "{}", note.text);
        }
        if let Some(cluster_id) = effects.serving {
            let term = self.leading.map(|leading| leading.term);
            tracing::info!(cluster_id, term, "serving");
            self.publish(|standing| {
                standing.cluster_id = Some(cluster_id);
                standing.serving = term;
            });
        }
        for (id, answer) in effects.answers {
            if let Some(reply) = self.replies.remove(&id) {
                // Whoever asked may have gone.
                drop(reply.send(answer));
            }
        }
        for id in effects.abandoned {
            // A reply that is dropped says so.
            drop(self.replies.remove(&id));
        }
        for order in effects.orders {
            self.send(&order);
        }
        // Both are asked for by a leader only.
        let Some(leading) = self.leading else { return };
        if let Some(write) = effects.write {
            self.propose(leading.number, write);
        }
        if let Some(round) = effects.confirm {
            self.confirm(leading.number, round);
        }
    }

    fn send(&self, order: &Order) {
        let Some(stream) = self.streams.get(&order.store) else {
            return;
        };
        let cluster_id = self.standing.borrow().cluster_id.unwrap_or(0);
        let step = RegionStep {
            step: Some(convert::order(order, cluster_id)),
            id: Some(order.id),
            purpose: order.purpose.into(),
        };
        if stream.orders.try_send(Ok(step)).is_ok() {
            self.figures.orders.inc();
        }
    }

    fn propose(&mut self, leadership: u64, write: Write) {
        self.writes += 1;
        self.figures.writes.inc();
        let node = self.node.clone();
        self.work.push(Box::pin(async move {
            let token = write.token;
            let keys = write
                .changes
                .iter()
                .map(|change| change.key.clone())
                .collect();
            let operations: Vec<_> = write.changes.into_iter().map(operation).collect();
            let target = Target {
                region: REGION,
                peer: None,
                epoch: None,
                keys: Keys::Points(keys),
            };
            let applied = loop {
                match node.propose(target.clone(), operations.clone()).await {
                    Ok(results) => break results.iter().all(took_effect),
                    Err(store::event::Refusal::Busy { .. }) => tokio::time::sleep(PAUSE).await,
                    Err(refusal) => {
                        tracing::info!(%refusal, "a change of the placement state failed");
                        break false;
                    }
                }
            };
            Done::Written {
                leadership,
                token,
                applied,
            }
        }));
    }

    fn confirm(&mut self, leadership: u64, round: u64) {
        self.figures.confirmations.inc();
        let node = self.node.clone();
        self.work.push(Box::pin(async move {
            let leads = loop {
                match node.permit(whole_region()).await {
                    Ok(_) => break true,
                    Err(store::event::Refusal::Busy { .. }) => tokio::time::sleep(PAUSE).await,
                    Err(refusal) => {
                        tracing::debug!(%refusal, "the leadership was not confirmed");
                        break false;
                    }
                }
            };
            Done::Confirmed {
                leadership,
                round,
                leads,
            }
        }));
    }

    fn publish(&self, change: impl FnOnce(&mut Standing)) {
        self.standing.send_if_modified(|standing| {
            let before = standing.clone();
            change(standing);
            *standing != before
        });
    }

    fn now(&self) -> Now {
        let wall = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Now {
            wall_ms: u64::try_from(wall.as_millis()).unwrap_or(u64::MAX),
            monotonic: self.started.elapsed(),
        }
    }
}

/// The region, whatever its epoch and whoever leads it.
fn whole_region() -> Target {
    Target {
        region: REGION,
        peer: None,
        epoch: None,
        keys: Keys::Clamped(Bytes::new()),
    }
}

/// A change as an operation: a value is set only over the one it replaces.
fn operation(change: placement::Change) -> Operation {
    let kind = match change.value {
        Some(value) => operation::Kind::CompareAndSwap(CompareAndSwap {
            key: change.key,
            value,
            expires_at: 0,
            previous: change.previous,
            now: 0,
        }),
        None => operation::Kind::Delete(Delete { key: change.key }),
    };
    Operation { kind: Some(kind) }
}

fn took_effect(result: &OperationResult) -> bool {
    match result {
        OperationResult::Done => true,
        OperationResult::Swapped { succeeded, .. } => *succeeded,
    }
}

/// All pairs of the region, which is the whole key space.
fn scan(view: &impl View) -> Result<BTreeMap<Bytes, Bytes>, engine::Error> {
    let (start, end) = (store::keys::data(b""), store::keys::data_end(b""));
    let mut pairs = BTreeMap::new();
    let mut damaged = None;
    view.scan(
        Family::State,
        Bound::Included(&start),
        Bound::Excluded(&end),
        Direction::Forward,
        &mut |key, value| {
            let user = store::keys::user_key(key).map(Bytes::copy_from_slice);
            match (user, store::value::decode(Bytes::copy_from_slice(value))) {
                (Some(user), Ok(stored)) => {
                    pairs.insert(user, stored.value);
                    true
                }
                (_, Err(error)) => {
                    damaged = Some(error);
                    false
                }
                // Outside the bounds of the scan.
                (None, Ok(_)) => true,
            }
        },
    )?;
    match damaged {
        Some(error) => Err(error),
        None => Ok(pairs),
    }
}
