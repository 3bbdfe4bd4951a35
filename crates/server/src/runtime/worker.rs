//! The region worker: the thread that owns the store machine.
//!
//! A turn takes what gathered, steps all of it, and carries out the effects once, in the order of their fields (LIVENESS
//! B6): views are published before any message, write or answer that reveals what they hold. The worker waits for
//! nobody: not for a disk, not for a socket.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use engine::Engine;
use prometheus::local::LocalHistogram;
use proto::RegionId;
use store::event::{
    ApplyTask, Difference, Divergence, Effects, Event, LogBatch, OperationResult, Proposal,
    ReadRequest, Refusal, RequestId, SecondLeader, Task, Verification,
};
use tokio::sync::{oneshot, watch};

use super::applier::{region_of, task_bytes};
use super::fatal::{FatalError, OnFatal};
use super::freezes::Freezes;
use super::inbox::{Admit, Control, Inbox, Request, RequestKind, Turn};
use super::log_writer::change_bytes;
use super::network::Network;
use super::news::{News, Questions, Told};
use super::queue::Queue;
use super::reads::Reads;
use super::transfers::Transfers;
use super::views::Views;
use crate::metrics::Metrics;

/// Bytes of a key that the log shows.
const KEY_SHOWN_BYTES: usize = 24;

/// Between telling the store what reads returned, and between looks for requests that wait long.
const READS_EVERY: Duration = Duration::from_secs(1);
/// A request that takes longer is told to people.
const SLOW: Duration = Duration::from_secs(1);

/// Everything the worker needs.
pub(super) struct Worker<E: Engine> {
    pub store: store::Store<E>,
    pub inbox: Arc<Inbox>,
    pub views: Arc<Views>,
    pub transfers: Arc<Transfers>,
    pub news: Arc<News>,
    pub reads: Arc<Reads>,
    /// When the store is told next what reads returned.
    pub reads_due: Instant,
    pub network: Arc<dyn Network>,
    pub log: Arc<Queue<(LogBatch, u64)>>,
    pub appliers: Vec<Arc<Queue<(ApplyTask, u64)>>>,
    pub tasks: Arc<Queue<Task>>,
    /// Snapshots to stream, apart from the other tasks, because a slow receiver must not hold those up.
    pub sends: Arc<Queue<Task>>,
    pub fetches: Arc<Queue<Task>>,
    pub drained: watch::Sender<bool>,
    pub metrics: Arc<Metrics>,
    /// Milliseconds from `started` to the end of the newest turn, for the health check.
    pub progress: Arc<AtomicU64>,
    pub started: Instant,
    pub tick: Duration,
    /// Bytes that wait for the log writer, and for each applier, above which only control is taken.
    pub backlog_bytes_max: u64,
    pub requests: Requests,
    pub freezes: Freezes,
    pub on_fatal: OnFatal,
}

impl<E: Engine> Worker<E> {
    /// Runs until told to stop, or until the store found its own data damaged.
    pub fn run(mut self) {
        let mut next_tick = Instant::now() + self.tick;
        // A store that has just opened has something to say, before anything happened to it.
        let effects = self.store.take_effects();
        if !self.carry_out(effects, Vec::new()) {
            return;
        }
        loop {
            let turn = self.inbox.take(next_tick, self.admit());
            let start = Instant::now();
            let mut answers = Vec::new();
            let stop = self.step(turn, start, &mut answers);
            if start >= next_tick {
                // Ticks missed while the process was paused are not made up for: what arrived meanwhile was stepped
                // first, and an election must not start over silence that was ours.
                if start >= self.reads_due {
                    self.reads_due = start + READS_EVERY;
                    self.store.step(Event::Reads(self.reads.take()));
                    self.requests.tell_slow(start);
                }
                self.store.step(Event::Tick);
                next_tick = (next_tick + self.tick).max(start + self.tick / 2);
                self.requests.flush();
                self.metrics.regions.set(self.views.len() as i64);
                self.metrics.region_leaders.set(self.views.leaders() as i64);
            }
            let effects = self.store.take_effects();
            if !self.carry_out(effects, answers) {
                return;
            }
            self.metrics.worker_turns.inc();
            self.requests
                .turn_seconds
                .observe(start.elapsed().as_secs_f64());
            self.progress
                .store(self.started.elapsed().as_millis() as u64, Ordering::Relaxed);
            if stop {
                return;
            }
        }
    }

    /// No data is taken while the log writer or an applier lags, so that memory stays bounded.
    fn admit(&self) -> Admit {
        let lags = self.log.bytes() > self.backlog_bytes_max
            || self
                .appliers
                .iter()
                .any(|applier| applier.bytes() > self.backlog_bytes_max);
        if lags {
            Admit::NoData
        } else {
            Admit::Everything
        }
    }

    /// Steps a turn; answers to deliver after the effects are put into `answers`. Returns whether to stop.
    fn step(&mut self, turn: Turn, now: Instant, answers: &mut Vec<Answer>) -> bool {
        let mut stop = false;
        for control in turn.control {
            let event = match control {
                Control::LogWritten(sequence) => Event::LogWritten(sequence),
                Control::Applied(mut applied) => {
                    for region in &mut applied {
                        answers.append(&mut region.answers);
                    }
                    Event::Applied(applied)
                }
                Control::Order(order) => Event::Order(order),
                Control::Ids(ids) => Event::Ids(ids),
                Control::Located(key, region) => Event::Located { key, region },
                Control::Described(region) => Event::Described(region),
                Control::StoreRemoved(store) => Event::StoreRemoved(store),
                Control::SnapshotReceived(from, head) => Event::SnapshotReceived { from, head },
                Control::TaskDone(done) => Event::TaskDone(done),
                Control::Damaged(region, peer) => Event::Damaged { region, peer },
                Control::Progress(transfer) => Event::Progress(transfer),
                Control::Unreachable(store) => Event::Unreachable(store),
                Control::Support(change) => Event::Support(change),
                Control::Dial(dial) => Event::Dial(dial),
                Control::Drain => Event::Drain,
                Control::Stop => {
                    stop = true;
                    continue;
                }
            };
            self.store.step(event);
        }
        for (from, frame) in turn.frames {
            self.store.step(Event::Frame { from, frame });
        }
        for Request {
            target,
            kind,
            arrived,
            ..
        } in turn.requests
        {
            let event = match kind {
                RequestKind::Propose(operations, reply) => {
                    let id = self
                        .requests
                        .add(target.region, Reply::Propose(reply), arrived, now);
                    Event::Propose(Proposal {
                        id,
                        target,
                        operations,
                    })
                }
                RequestKind::Read(reply) => {
                    let id = self
                        .requests
                        .add(target.region, Reply::Read(reply), arrived, now);
                    Event::Read(ReadRequest { id, target })
                }
                RequestKind::Verify(reply) => {
                    let region = target.region;
                    let reply = Reply::Verify(reply);
                    let request = self.requests.add(region, reply, arrived, now);
                    Event::Verify { request, region }
                }
            };
            self.store.step(event);
        }
        stop
    }

    /// Returns whether to go on.
    fn carry_out(&mut self, effects: Effects, answers: Vec<Answer>) -> bool {
        let Effects {
            views,
            transfers,
            frames,
            log,
            shared,
            apply,
            tasks,
            refusals,
            reads,
            reports,
            orders,
            ..
        } = effects;
        let Effects {
            splits,
            own_splits,
            divergences,
            second_leaders,
            verified,
            ids_wanted,
            locate,
            describe,
            inquire,
            drained,
            failure,
            ..
        } = effects;
        if let Some(failure) = failure {
            (self.on_fatal)(FatalError {
                doing: "reading the store's own records",
                cause: Box::new(failure),
            });
            return false;
        }
        let thawed = match views.is_empty() {
            true => Vec::new(),
            false => self.freezes.note(&views, Instant::now()),
        };
        self.views.publish(views);
        for (outcome, lasted) in thawed {
            let histogram = &self.metrics.merge_frozen_seconds;
            let histogram = histogram.with_label_values(&[outcome.name()]);
            histogram.observe(lasted.as_secs_f64());
        }
        self.transfers.change(transfers);
        for (to, frame) in frames {
            self.network.send(to, frame);
            self.metrics.frames_sent.inc();
        }
        if let Some(log) = log {
            let bytes = log.batch.changes.iter().map(change_bytes).sum();
            self.log.push((log, bytes), bytes);
        }
        if let Some(stores) = shared {
            self.network.share(stores);
        }
        for task in apply {
            if let ApplyTask::Entries { waiting, .. } = &task {
                for (request, _) in waiting.iter().flat_map(|waiting| &waiting.requests) {
                    self.requests.committed(*request);
                }
            }
            let applier = region_of(&task).0 as usize % self.appliers.len();
            let bytes = task_bytes(&task);
            self.appliers[applier].push((task, bytes), bytes);
        }
        for task in tasks {
            match task {
                Task::SendSnapshot { .. } => self.sends.push(task, 0),
                Task::FetchEntries(_) => self.fetches.push(task, 0),
                task => self.tasks.push(task, 0),
            }
        }
        for (request, refusal) in refusals {
            self.requests.refuse(request, refusal);
        }
        for request in reads {
            self.requests.permit(request);
        }
        for (request, result) in answers {
            self.requests.answer(request, result);
        }
        for divergence in &divergences {
            let Divergence {
                region,
                peer,
                other,
                index,
                difference,
            } = divergence;
            let other = other.map(|other| other.0);
            match difference {
                Difference::Applied { ours, theirs } => tracing::error!(
                    %region, %peer, other, index,
                    since = ours.since,
                    ours = %format_args!("{:016x}", ours.value),
                    theirs = %format_args!("{:016x}", theirs.value),
                    "two replicas do not hold the same: the one that differs from the others is to be replaced"
                ),
                Difference::Stored { ours, theirs } => tracing::error!(
                    %region, %peer, other, index,
                    our_keys = ours.keys,
                    their_keys = theirs.keys,
                    our_bytes = ours.bytes,
                    their_bytes = theirs.bytes,
                    ours = %format_args!("{:016x}", ours.value),
                    theirs = %format_args!("{:016x}", theirs.value),
                    "two replicas do not store the same: the one that differs from the others is to be replaced"
                ),
            }
            self.metrics.divergences.inc();
        }
        for second in &second_leaders {
            let SecondLeader {
                region,
                peer,
                term,
                leader,
                other,
                other_store,
            } = second;
            tracing::error!(
                %region, %peer, term, %leader, %other, %other_store,
                "two peers claim to lead one term: what the other says is not taken, its store is to be looked at"
            );
            self.metrics.second_leaders.inc();
        }
        for (request, verification) in verified {
            self.metrics.verified_regions.inc();
            if !verification.is_same() {
                let members = verification.members.iter();
                let found = members.map(|member| (member.peer.store_id, member.outcome.name()));
                // What differs or cannot be read is told of by itself.
                tracing::debug!(
                    region = verification.region.id, index = verification.index,
                    found = ?found.collect::<Vec<_>>(),
                    "not all replicas could be compared, or they differ"
                );
            }
            if let Some(request) = request {
                self.requests.verified(request, verification);
            }
        }
        for split in &own_splits {
            let cause = split.cause.name();
            match &split.result {
                Ok(()) => {
                    let keys: Vec<_> = split.keys.iter().map(|key| shortened(key)).collect();
                    tracing::info!(region = %split.region, cause, ?keys, "splitting");
                    self.metrics.own_splits.with_label_values(&[cause]).inc();
                }
                // It is wanted again after a while.
                Err(reason) => {
                    tracing::debug!(region = %split.region, cause, %reason, "not split");
                }
            }
        }
        self.news.add(Told {
            reports,
            splits,
            own_splits,
            divergences,
            orders,
            questions: Questions {
                ids_wanted,
                locate,
                describe,
                inquire,
            },
        });
        if drained {
            self.drained.send_replace(true);
        }
        true
    }
}

/// The beginning of a key, for people.
pub(crate) fn shortened(key: &[u8]) -> String {
    let shown = &key[..key.len().min(KEY_SHOWN_BYTES)];
    let rest = if shown.len() < key.len() { "…" } else { "" };
    format!("{}{rest}", shown.escape_ascii())
}

/// The outcome of a proposal.
type Answer = (RequestId, Result<Vec<OperationResult>, Refusal>);

/// Who waits for a request.
enum Reply {
    Propose(oneshot::Sender<Result<Vec<OperationResult>, Refusal>>),
    Read(oneshot::Sender<Result<(), Refusal>>),
    Verify(oneshot::Sender<Result<Verification, Refusal>>),
}

/// Requests in work, known to this thread alone. Dropping one tells its waiter that the outcome is unknown.
pub(super) struct Requests {
    waiting: HashMap<RequestId, Pending>,
    next: u64,
    /// The time of the turn that adds requests now, or of the last that did.
    queue_seconds: LocalHistogram,
    commit_seconds: LocalHistogram,
    apply_seconds: LocalHistogram,
    read_index_seconds: LocalHistogram,
    turn_seconds: LocalHistogram,
}

struct Pending {
    region: RegionId,
    reply: Reply,
    stepped: Instant,
    committed: Option<Instant>,
    told: bool,
}

impl Pending {
    /// What it waits for.
    fn phase(&self) -> &'static str {
        match (&self.reply, self.committed) {
            (Reply::Read(_), _) => "a round that confirms the leader",
            (Reply::Verify(_), _) => "replicas that digest what they store",
            (Reply::Propose(_), None) => "a quorum that has it on disk",
            (Reply::Propose(_), Some(_)) => "being applied",
        }
    }
}

impl Requests {
    pub fn new(metrics: &Metrics) -> Self {
        Requests {
            waiting: HashMap::new(),
            next: 0,
            queue_seconds: metrics.write_queue_seconds.local(),
            commit_seconds: metrics.write_commit_seconds.local(),
            apply_seconds: metrics.write_apply_seconds.local(),
            read_index_seconds: metrics.read_index_seconds.local(),
            turn_seconds: metrics.worker_turn_seconds.local(),
        }
    }

    fn add(&mut self, region: RegionId, reply: Reply, arrived: Instant, now: Instant) -> RequestId {
        self.next += 1;
        let id = RequestId(self.next);
        if matches!(reply, Reply::Propose(_)) {
            self.queue_seconds
                .observe(now.saturating_duration_since(arrived).as_secs_f64());
        }
        self.waiting.insert(
            id,
            Pending {
                region,
                reply,
                stepped: now,
                committed: None,
                told: false,
            },
        );
        id
    }

    fn committed(&mut self, id: RequestId) {
        if let Some(pending) = self.waiting.get_mut(&id) {
            let now = Instant::now();
            self.commit_seconds
                .observe(now.saturating_duration_since(pending.stepped).as_secs_f64());
            pending.committed = Some(now);
        }
    }

    /// A waiter that went away (its client gave up) is no error: the request was carried out all the same.
    fn answer(&mut self, id: RequestId, result: Result<Vec<OperationResult>, Refusal>) {
        let Some(pending) = self.waiting.remove(&id) else {
            return;
        };
        if let Some(committed) = pending.committed {
            self.apply_seconds
                .observe(committed.elapsed().as_secs_f64());
        }
        match pending.reply {
            Reply::Propose(reply) => drop(reply.send(result)),
            Reply::Read(_) | Reply::Verify(_) => {
                unreachable!("request {id:?} is no write, and nothing else is applied")
            }
        }
    }

    fn refuse(&mut self, id: RequestId, refusal: Refusal) {
        let Some(pending) = self.waiting.remove(&id) else {
            return;
        };
        match pending.reply {
            Reply::Propose(reply) => drop(reply.send(Err(refusal))),
            Reply::Read(reply) => drop(reply.send(Err(refusal))),
            Reply::Verify(reply) => drop(reply.send(Err(refusal))),
        }
    }

    fn verified(&mut self, id: RequestId, verification: Verification) {
        let Some(pending) = self.waiting.remove(&id) else {
            return;
        };
        match pending.reply {
            Reply::Verify(reply) => drop(reply.send(Ok(verification))),
            Reply::Propose(_) | Reply::Read(_) => {
                unreachable!("request {id:?} asks for no verification")
            }
        }
    }

    fn permit(&mut self, id: RequestId) {
        let Some(pending) = self.waiting.remove(&id) else {
            return;
        };
        self.read_index_seconds
            .observe(pending.stepped.elapsed().as_secs_f64());
        match pending.reply {
            Reply::Read(reply) => drop(reply.send(Ok(()))),
            Reply::Propose(_) | Reply::Verify(_) => {
                unreachable!("request {id:?} is no read, and nothing else is permitted")
            }
        }
    }

    /// Tells people, once for each, which requests wait long, and for what.
    fn tell_slow(&mut self, now: Instant) {
        let mut slow: BTreeMap<(RegionId, &str), usize> = BTreeMap::new();
        for pending in self.waiting.values_mut() {
            // Digesting takes its time.
            let hurries = !matches!(pending.reply, Reply::Verify(_));
            if hurries && !pending.told && now.saturating_duration_since(pending.stepped) > SLOW {
                pending.told = true;
                *slow.entry((pending.region, pending.phase())).or_default() += 1;
            }
        }
        for ((region, wait), requests) in slow {
            tracing::warn!(%region, requests, wait, "requests take long");
        }
    }

    fn flush(&mut self) {
        for histogram in [
            &self.queue_seconds,
            &self.commit_seconds,
            &self.apply_seconds,
            &self.read_index_seconds,
            &self.turn_seconds,
        ] {
            histogram.flush();
        }
    }
}
