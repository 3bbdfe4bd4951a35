//! The background pool: builds, sends and installs snapshots, and clears away what is left of destroyed peers.

use std::sync::Arc;

use engine::Engine;
use store::event::{Task, TaskDone};

use super::fatal::{FatalError, OnFatal};
use super::inbox::{Control, Inbox};
use super::network::Network;
use super::queue::Queue;
use crate::metrics::Metrics;

/// Everything one such thread needs. All share one queue, whose length the store bounds: it has one snapshot per peer and
/// a limited number of slots in work.
#[derive(Clone)]
pub(super) struct Background<E> {
    pub engine: E,
    pub queue: Arc<Queue<Task>>,
    pub inbox: Arc<Inbox>,
    pub network: Arc<dyn Network>,
    pub metrics: Arc<Metrics>,
    pub on_fatal: OnFatal,
}

impl<E: Engine> Background<E> {
    /// Runs until the queue is closed and empty.
    pub fn run(self) {
        while let Some(task) = self.queue.take_one() {
            self.metrics.tasks.with_label_values(&[kind(&task)]).inc();
            let done = match task {
                Task::SendSnapshot { to_store, head } => Some(self.send(to_store, head)),
                task => match store::task::run(&self.engine, task) {
                    Ok(done) => done,
                    Err(error) => {
                        (self.on_fatal)(FatalError {
                            doing: "a background task",
                            cause: Box::new(error),
                        });
                        return;
                    }
                },
            };
            if let Some(done) = done {
                self.inbox.control(Control::TaskDone(done));
            }
        }
    }

    fn send(&self, to: proto::StoreId, head: proto::pontoon::v1::SnapshotHead) -> TaskDone {
        let engine = self.engine.clone();
        let delivered = self.network.send_snapshot(
            to,
            &head,
            Box::new(move |name, offset, bytes_max| engine.stage_read(name, offset, bytes_max)),
        );
        let names: Vec<String> = head.files.iter().map(|file| file.name.clone()).collect();
        // Files that stay are found and removed at the next start.
        if let Err(error) = self.engine.stage_remove(&names) {
            tracing::warn!(%error, "cannot remove the files of a sent snapshot");
        }
        let region = head.region.as_ref().map_or(0, |region| region.id);
        TaskDone::SnapshotSent {
            region: proto::RegionId(region),
            to_peer: raft::PeerId(head.to_peer),
            slot: head.slot,
            delivered,
        }
    }
}

fn kind(task: &Task) -> &'static str {
    match task {
        Task::BuildSnapshot { .. } => "build_snapshot",
        Task::SendSnapshot { .. } => "send_snapshot",
        Task::InstallSnapshot { .. } => "install_snapshot",
        Task::Destroy { .. } => "destroy",
        Task::RemoveFiles(_) => "remove_files",
    }
}
