//! One store with its engine, driven by one thread: what it writes is synced, what it applies is applied, what it sends is lost.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use ::store::apply::Applier;
use ::store::event::{
    ApplyTask, Effects, Event, LogBatch, RequestId, Task, TaskDone, Transfer, TransferChange,
};
use ::store::{Options, SplitOptions, Store, identity, task};
use engine::{CrashMode, Engine, Logging, MemoryEngine};
use proto::StoreId;
use proto::pontoon::v1 as wire;

/// A driver. It stops when its store says so.
pub struct Node {
    engine: MemoryEngine,
    store: Store<MemoryEngine>,
    applier: Applier<MemoryEngine>,
    log: VecDeque<LogBatch>,
    apply: Vec<ApplyTask>,
    tasks: VecDeque<Task>,
    /// Snapshots that may be worked on.
    pub transfers: BTreeSet<Transfer>,
    /// Frames to other stores, since they were last looked at.
    pub sent: BTreeMap<StoreId, Vec<wire::Frame>>,
    /// Requests with an answer, or with the right to read.
    pub answered: Vec<RequestId>,
    failed: bool,
}

/// Everything is due sooner than in production: runs are short.
fn options() -> Options {
    Options {
        ids_low: 4,
        ids_batch: 8,
        proposal_ticks: 30,
        leaderless_ticks: 20,
        snapshot_ticks: 20,
        snapshot_offer_ticks: 3,
        report_ticks: 10,
        load_report_ticks: 5,
        health_ticks: 5,
        down_ticks: 10,
        compact_entries: 8,
        compact_tail_entries: 2,
        digest_entries: 4,
        count_bytes_min: 64,
        split: SplitOptions {
            bytes: 4 << 10,
            ..SplitOptions::default()
        },
        ..Options::default()
    }
}

impl Node {
    /// Opens a directory. `None` when it is refused.
    pub fn open(engine: MemoryEngine) -> Option<Self> {
        identity::bump_boot(&engine).ok()?;
        let store = match Store::open(engine.clone(), options()) {
            Ok(store) => store,
            Err(error) => {
                assert!(!error.to_string().is_empty());
                return None;
            }
        };
        store.check_invariants();
        let mut node = Self {
            applier: Applier::new(engine.clone(), &options()),
            engine,
            store,
            log: VecDeque::new(),
            apply: Vec::new(),
            tasks: VecDeque::new(),
            transfers: BTreeSet::new(),
            sent: BTreeMap::new(),
            answered: Vec::new(),
            failed: false,
        };
        node.take();
        node.settle();
        Some(node)
    }

    /// The store.
    pub fn store(&self) -> &Store<MemoryEngine> {
        &self.store
    }

    /// Its engine.
    pub fn engine(&self) -> &MemoryEngine {
        &self.engine
    }

    /// What an orderly stop leaves.
    pub fn stopped(&self) -> MemoryEngine {
        self.engine.reopen().expect("memory flushes")
    }

    /// Stops in an orderly way or as a killed process does, and starts again.
    pub fn restart(&mut self, orderly: bool) {
        let engine = if orderly {
            self.stopped()
        } else {
            self.engine.crash(CrashMode::Kill)
        };
        *self = Node::open(engine).expect("a directory of its own making opens");
    }

    /// One tick, and all that follows without time passing. False when the store has said that it must stop.
    pub fn tick(&mut self) -> bool {
        self.step(Event::Tick);
        self.settle();
        !self.failed
    }

    /// Whether it still runs.
    pub fn runs(&self) -> bool {
        !self.failed
    }

    /// Takes an event.
    pub fn step(&mut self, event: Event) {
        if self.failed {
            return;
        }
        self.store.step(event);
        self.store.check_invariants();
        self.take();
    }

    fn take(&mut self) {
        let effects = self.store.take_effects();
        self.store.check_invariants();
        let Effects {
            transfers,
            frames,
            log,
            apply,
            tasks,
            refusals,
            reads,
            failure,
            ..
        } = effects;
        if let Some(failure) = failure {
            assert!(!failure.to_string().is_empty());
            // Nothing of it is carried out.
            self.failed = true;
            return;
        }
        for change in transfers {
            match change {
                TransferChange::Begun(transfer, _) => self.transfers.insert(transfer),
                TransferChange::Ended(transfer) => self.transfers.remove(&transfer),
                TransferChange::Paced(..) => false,
            };
        }
        for (to, frame) in frames {
            self.sent.entry(to).or_default().push(frame);
        }
        self.log.extend(log);
        self.apply.extend(apply);
        self.tasks.extend(tasks);
        self.answered.extend(refusals.iter().map(|(id, _)| *id));
        self.answered.extend(reads);
    }

    /// Does what there is to do, until there is nothing.
    pub fn settle(&mut self) {
        for _ in 0..10_000 {
            if self.failed || !self.work() {
                return;
            }
        }
        panic!("the store does not come to rest");
    }

    /// One write of the log, one run of applying, or one task. False when there is none.
    pub fn work(&mut self) -> bool {
        if let Some(batch) = self.log.pop_front() {
            let LogBatch {
                sequence,
                batch,
                then,
                ..
            } = batch;
            self.engine
                .write(batch, Logging::On)
                .expect("memory writes");
            self.engine.sync().expect("memory syncs");
            for (to, frame) in then {
                self.sent.entry(to).or_default().push(frame);
            }
            self.step(Event::LogWritten(sequence));
        } else if !self.apply.is_empty() {
            let Ok(mut applied) = self.applier.run(std::mem::take(&mut self.apply)) else {
                self.failed = true;
                return false;
            };
            let answers = applied
                .iter_mut()
                .flat_map(|applied| applied.answers.drain(..));
            self.answered.extend(answers.map(|(id, _)| id));
            self.step(Event::Applied(applied));
        } else if let Some(task) = self.tasks.pop_front() {
            let done = match task {
                // Its files never arrive.
                Task::SendSnapshot { build, head, .. } => Some(TaskDone::SnapshotSent {
                    region: proto::RegionId(head.region.map_or(0, |region| region.id)),
                    to_peer: raft::PeerId(head.to_peer),
                    build,
                    delivered: false,
                }),
                task => match task::run(&self.engine, task, &mut || true) {
                    Ok(done) => done,
                    Err(_) => {
                        self.failed = true;
                        return false;
                    }
                },
            };
            if let Some(done) = done {
                self.step(Event::TaskDone(done));
            }
        } else {
            return false;
        }
        true
    }
}
