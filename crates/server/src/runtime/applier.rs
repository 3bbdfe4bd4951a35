//! Apply workers: threads that carry out committed entries.
//!
//! A region belongs to one of them, by its id, so its tasks stay in order. Each joins what gathered into one run, which
//! the store's applier turns into few engine writes (R11). Results go to the worker, which publishes what they change
//! before any client hears of them (LIVENESS B6).

use std::sync::Arc;
use std::time::Instant;

use engine::Engine;
use proto::RegionId;
use raft::{Entry, Payload, PeerId};
use store::apply::Applier;
use store::event::ApplyTask;

use super::fatal::{FatalError, OnFatal};
use super::inbox::{Control, Inbox};
use super::queue::Queue;
use crate::exit;
use crate::metrics::Metrics;

/// Everything one such thread needs.
pub(super) struct ApplyWorker<E: Engine> {
    pub applier: Applier<E>,
    pub queue: Arc<Queue<(ApplyTask, u64)>>,
    pub inbox: Arc<Inbox>,
    pub metrics: Arc<Metrics>,
    pub on_fatal: OnFatal,
}

impl<E: Engine> ApplyWorker<E> {
    /// Runs until the queue is closed and empty.
    pub fn run(mut self) {
        while let Some(taken) = self.queue.take() {
            let mut bytes = 0;
            let mut entries = 0;
            let tasks = taken
                .into_iter()
                .map(|(task, size)| {
                    bytes += size;
                    if let ApplyTask::Entries {
                        entries: of_task, ..
                    } = &task
                    {
                        entries += of_task.len() as u64;
                    }
                    task
                })
                .collect();
            let start = Instant::now();
            let applied = match self.applier.run(tasks) {
                Ok(applied) => applied,
                Err(error) => {
                    (self.on_fatal)(FatalError {
                        doing: "applying committed entries",
                        cause: Box::new(error),
                    });
                    return;
                }
            };
            self.metrics
                .apply_run_seconds
                .observe(start.elapsed().as_secs_f64());
            self.metrics.applied_entries.inc_by(entries);
            for region in &applied {
                if let Some(error) = &region.damage {
                    met_damage(region.region, region.peer, error, &self.metrics);
                }
            }
            // Before the worker hears of it, or it would find the queue as full as before.
            self.queue.finish(bytes);
            if !applied.is_empty() {
                self.inbox.control(Control::Applied(applied));
            }
        }
    }
}

/// Tells people that data was found damaged (R13).
pub(super) fn met_damage(region: RegionId, peer: PeerId, error: &engine::Error, metrics: &Metrics) {
    let error = exit::chain(error);
    tracing::error!(%region, %peer, error, "data is damaged: the replica hands over and is to be replaced");
    metrics.damage_found.inc();
}

/// The region a task is for.
pub(super) fn region_of(task: &ApplyTask) -> RegionId {
    match task {
        ApplyTask::Open(region)
        | ApplyTask::Inherit(region, _)
        | ApplyTask::Counted { region, .. }
        | ApplyTask::MarkDamaged { region, .. }
        | ApplyTask::Close(region)
        | ApplyTask::Entries { region, .. } => *region,
    }
}

/// Size of a task in memory, roughly.
pub(super) fn task_bytes(task: &ApplyTask) -> u64 {
    match task {
        ApplyTask::Open(_)
        | ApplyTask::Inherit(..)
        | ApplyTask::Counted { .. }
        | ApplyTask::MarkDamaged { .. }
        | ApplyTask::Close(_) => 0,
        ApplyTask::Entries { entries, .. } => entries.iter().map(entry_bytes).sum(),
    }
}

fn entry_bytes(entry: &Entry) -> u64 {
    let payload = match &entry.payload {
        Payload::Noop => 0,
        Payload::Command(bytes) | Payload::Structural(bytes) => bytes.len(),
        Payload::Membership { context, .. } => context.len(),
    };
    (payload + std::mem::size_of::<Entry>()) as u64
}
