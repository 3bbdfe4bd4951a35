//! The background pool: builds, sends and installs snapshots, clears away what is left of destroyed peers, counts and digests
//! what peers store, and reads the log for members that lag.

use std::sync::Arc;

use engine::Engine;
use store::event::{Task, TaskDone, Transfer};

use super::applier::met_damage;
use super::fatal::{FatalError, OnFatal};
use super::inbox::{Control, Inbox};
use super::network::{Network, ReadFile};
use super::queue::Queue;
use super::transfers::{Ticket, Transfers};
use crate::metrics::Metrics;

/// Everything one such thread needs. All share one queue, whose length the store bounds: it has one snapshot per peer and
/// a limited number of slots in work.
#[derive(Clone)]
pub(super) struct Background<E> {
    pub engine: E,
    pub queue: Arc<Queue<Task>>,
    pub inbox: Arc<Inbox>,
    pub network: Arc<dyn Network>,
    pub transfers: Arc<Transfers>,
    pub metrics: Arc<Metrics>,
    pub on_fatal: OnFatal,
}

impl<E: Engine> Background<E> {
    /// Runs until the queue is closed and empty.
    pub fn run(self) {
        while let Some(task) = self.queue.take_one() {
            self.metrics.tasks.with_label_values(&[kind(&task)]).inc();
            let transfer = task.transfer();
            let digested = match &task {
                Task::Verify(part) => part.sum.bytes,
                _ => 0,
            };
            let mut ticket = transfer.and_then(|transfer| match transfer {
                Transfer::Outgoing { .. } => self.transfers.ticket(transfer),
                Transfer::Incoming { .. } => self.transfers.past_return(transfer),
            });
            let mut go_on =
                || transfer.is_none() || ticket.as_mut().is_some_and(|ticket| ticket.progress());
            let done = match task {
                Task::SendSnapshot {
                    build,
                    head,
                    to_store,
                } => Some(self.send(to_store, build, head, ticket)),
                task => match store::task::run(&self.engine, task, &mut go_on) {
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
            if let Some(TaskDone::Verified { sum, .. }) = &done {
                self.metrics.verified_bytes.inc_by(sum.bytes - digested);
            }
            if let Some(TaskDone::Damaged {
                region,
                peer,
                error,
            }) = &done
            {
                met_damage(*region, *peer, error, &self.metrics);
            }
            if let Some(done) = done {
                self.inbox.control(Control::TaskDone(done));
            }
        }
    }

    fn send(
        &self,
        to: proto::StoreId,
        build: u64,
        head: proto::pontoon::v1::SnapshotHead,
        ticket: Option<Ticket>,
    ) -> TaskDone {
        let engine = self.engine.clone();
        let read: ReadFile =
            Box::new(move |name, offset, bytes_max| engine.stage_read(name, offset, bytes_max));
        let delivered =
            ticket.is_some_and(|ticket| self.network.send_snapshot(to, &head, read, ticket));
        let names: Vec<String> = head.files.iter().map(|file| file.name.clone()).collect();
        // Files that stay are found and removed at the next start.
        if let Err(error) = self.engine.stage_remove(&names) {
            tracing::warn!(%error, "cannot remove the files of a sent snapshot");
        }
        let region = head.region.as_ref().map_or(0, |region| region.id);
        TaskDone::SnapshotSent {
            region: proto::RegionId(region),
            to_peer: raft::PeerId(head.to_peer),
            build,
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
        Task::FetchEntries(_) => "fetch_entries",
        Task::Count { .. } => "count",
        Task::Verify(_) => "verify",
    }
}
