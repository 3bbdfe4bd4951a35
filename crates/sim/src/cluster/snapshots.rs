//! Background work of stores, above all snapshots on their way: as quick as usual, slow but alive, or hung for ever.

use engine::Engine;
use proto::pontoon::v1 as wire;
use proto::{RegionId, StoreId};
use raft::PeerId;
use store::event::{Event, Task, TaskDone, Transfer};
use store::task;

use super::settings::TICK;
use super::world::{Action, World, broken};
use crate::group::settings::Fault;
use crate::rule::Violation;

/// Permille of builds and streams that hang, and of snapshots' tasks that are slow, in worlds that have slow snapshots.
const HUNG_PERMILLE: u64 = 100;
const SLOW_PERMILLE: u64 = 500;
/// Permille of snapshots whose files are lost while they are put in place, in worlds where that happens.
const LOST_PERMILLE: u64 = 200;
/// Permille of removals before which a store stops, in worlds where that happens: of all, and of sources that a record ends.
const UNTIMELY_PERMILLE: u64 = 150;
const ORPHAN_PERMILLE: u64 = 500;
/// Pieces of a slow task, each of which takes up to a third of the time that a snapshot may stand still.
const PIECES_MAX: u64 = 12;

impl World {
    /// Does a task, or begins to.
    pub(super) fn begin_task(
        &mut self,
        id: StoreId,
        incarnation: u32,
        task: Box<Task>,
    ) -> Result<(), Violation> {
        if !self.nodes[&id].is_up(incarnation) {
            return Ok(());
        }
        if matches!(*task, Task::InstallSnapshot { .. })
            && self.settings.faults.has(Fault::LostFiles)
            && self.disk_random.chance(LOST_PERMILLE)
        {
            return self.lose_files(id);
        }
        if let Task::Destroy { tombstone, .. } = &*task {
            let orphan = tombstone.reason == store::merge::ORPHAN_REASON;
            if orphan {
                self.count("orphan source dies");
            }
            if self.settings.faults.has(Fault::Untimely)
                && self.moment_random.chance(if orphan {
                    ORPHAN_PERMILLE
                } else {
                    UNTIMELY_PERMILLE
                })
            {
                self.count("stopped before removing");
                let power = self.moment_random.chance(500);
                self.stop(id, power);
                return Ok(());
            }
        }
        let Some(transfer) = task
            .transfer()
            .filter(|_| self.settings.faults.has(Fault::SlowSnapshot))
        else {
            return self.run_task(id, incarnation, *task);
        };
        let outgoing = matches!(transfer, Transfer::Outgoing { .. });
        if outgoing && self.disk_random.chance(HUNG_PERMILLE) {
            self.count("snapshot hung");
            // When the store gives it up, the driver ends the stream and removes the files; nobody hears of that.
            if let Task::SendSnapshot { head, .. } = *task {
                let names: Vec<String> = head.files.into_iter().map(|file| file.name).collect();
                self.nodes[&id]
                    .engine
                    .stage_remove(&names)
                    .map_err(broken)?;
            }
            return Ok(());
        }
        if !self.disk_random.chance(SLOW_PERMILLE) {
            return self.run_task(id, incarnation, *task);
        }
        self.count("snapshot slow");
        let left = self.disk_random.between(1, PIECES_MAX);
        self.after_piece(id, incarnation, task, left);
        Ok(())
    }

    /// The store stops, and what was staged there is gone.
    fn lose_files(&mut self, id: StoreId) -> Result<(), Violation> {
        self.count("staged files lost");
        let power = self.disk_random.chance(500);
        self.stop(id, power);
        let engine = &self.nodes[&id].engine;
        let names = engine.stage_list().map_err(broken)?;
        engine.stage_remove(&names).map_err(broken)
    }

    fn after_piece(&mut self, id: StoreId, incarnation: u32, task: Box<Task>, left: u64) {
        let longest = self.settings.options.snapshot_ticks * TICK / 3;
        let delay = self.disk_random.between(1, longest);
        let piece = Action::Piece(id, incarnation, task, left);
        self.schedule.after(delay, piece);
    }

    /// A piece of a slow task is done: the store hears of it, of a chunk both do.
    pub(super) fn do_piece(
        &mut self,
        id: StoreId,
        incarnation: u32,
        task: Box<Task>,
        left: u64,
    ) -> Result<(), Violation> {
        if !self.nodes[&id].is_up(incarnation) {
            return Ok(());
        }
        let Some(transfer) = task.transfer() else {
            return self.run_task(id, incarnation, *task);
        };
        let unheard = matches!(&*task, Task::BuildSnapshot { region, .. }
            if self.nodes[&id].unheard.contains(region));
        if left == 0 || unheard || self.healing || !self.may_go_on(id, transfer) {
            return self.run_task(id, incarnation, *task);
        }
        if let Task::SendSnapshot { to_store, head, .. } = &*task
            && !self.is_cut(id, *to_store)
            && let Some(receiver) = self.nodes.get(to_store)
        {
            let arrives =
                Action::Progress(*to_store, receiver.incarnation, Transfer::incoming(head));
            let delay = self.network_delay(Some(*to_store));
            self.schedule.after(delay, arrives);
        }
        self.step(id, Event::Progress(transfer))?;
        self.after_piece(id, incarnation, task, left - 1);
        Ok(())
    }

    /// Whether a task is to be carried on: an install always, since it is past its point of no return.
    fn may_go_on(&self, id: StoreId, transfer: Transfer) -> bool {
        match transfer {
            Transfer::Outgoing { .. } => self.nodes[&id].transfers.contains(&transfer),
            Transfer::Incoming { .. } => true,
        }
    }

    fn run_task(&mut self, id: StoreId, incarnation: u32, task: Task) -> Result<(), Violation> {
        self.trace
            .note(self.schedule.now(), [5, id.0, 0, self.events], || {
                format!("{id} runs {task:?}")
            });
        if let Task::InstallSnapshot { tombstones, .. } = &task
            && !tombstones.is_empty()
        {
            self.count("source replaced by snapshot");
        }
        if let Task::Destroy { merged, .. } = &task
            && !merged.is_empty()
        {
            self.count("source died installing");
        }
        if let Task::SendSnapshot {
            to_store,
            build,
            head,
        } = task
        {
            return self.send_snapshot(id, to_store, build, head);
        }
        let goes_on = task
            .transfer()
            .is_none_or(|transfer| self.may_go_on(id, transfer));
        let done = task::run(&self.nodes[&id].engine, task, &mut || goes_on);
        let Some(done) = self.or_stop(id, done)? else {
            return Ok(());
        };
        if let Some(done) = done {
            match &done {
                TaskDone::SnapshotInstalled { region, peer, .. } => {
                    self.unusable.remove(&(id, *region, *peer));
                    self.count("snapshot installed");
                }
                TaskDone::Destroyed { region, peer } => {
                    self.count("peer destroyed");
                    if self.unusable.remove(&(id, *region, *peer)) {
                        self.count("destroyed installing");
                    }
                }
                TaskDone::EntriesFetched { .. } => self.count("entries fetched"),
                TaskDone::SnapshotUnusable { region, peer } => {
                    self.unusable.insert((id, *region, *peer));
                    self.count("snapshot unusable");
                }
                TaskDone::Damaged { .. } => self.count("rot met by a task"),
                TaskDone::SnapshotBuilt { .. }
                | TaskDone::SnapshotSent { .. }
                | TaskDone::Counted { .. }
                | TaskDone::Verified { .. } => {}
            }
            let delay = match done {
                // In some worlds much is applied until the store hears of it.
                TaskDone::Counted { .. } => self.writes_random.between(1, 10 * TICK),
                TaskDone::Verified { .. } => self.verify_random.between(1, 10 * TICK),
                _ => self.disk_random.between(1, 200),
            };
            self.schedule
                .after(delay, Action::Done(id, incarnation, Box::new(done)));
        }
        Ok(())
    }

    /// Streams a snapshot: it arrives whole, or the sender learns that it did not.
    fn send_snapshot(
        &mut self,
        from: StoreId,
        to: StoreId,
        build: u64,
        head: wire::SnapshotHead,
    ) -> Result<(), Violation> {
        let transfer = Transfer::Outgoing {
            region: RegionId(head.region.as_ref().map_or(0, |region| region.id)),
            to_peer: PeerId(head.to_peer),
            build,
        };
        // The receiver takes nothing that it has not granted, or does not wait for any more.
        let lost = self.is_cut(from, to)
            || !self.may_go_on(from, transfer)
            || self
                .nodes
                .get(&to)
                .is_none_or(|node| !node.transfers.contains(&Transfer::incoming(&head)))
            || !self.healing && self.network_random.chance(100);
        let source = self.nodes[&from].engine.clone();
        let names: Vec<String> = head.files.iter().map(|file| file.name.clone()).collect();
        // The slot may have run out while the stream waited for its turn, and the files with it.
        let staged = source.stage_list().map_err(broken)?;
        let lost = lost || names.iter().any(|name| !staged.contains(name));
        if !lost {
            let target = self.nodes[&to].engine.clone();
            for file in &head.files {
                target
                    .stage_remove(std::slice::from_ref(&file.name))
                    .map_err(broken)?;
                let bytes = source
                    .stage_read(&file.name, 0, usize::MAX)
                    .map_err(broken)?;
                target.stage_append(&file.name, &bytes).map_err(broken)?;
                let staged = target.stage_finish(&file.name).map_err(broken)?;
                let checked = store::check_file(&head, file, &staged);
                debug_assert_eq!(checked, Ok(()), "copied byte for byte");
            }
            let delay = self.network_delay(Some(to));
            self.count("snapshot sent");
            self.schedule
                .after(delay, Action::Received(from, to, Box::new(head.clone())));
        }
        source.stage_remove(&names).map_err(broken)?;
        let done = TaskDone::SnapshotSent {
            region: RegionId(head.region.as_ref().map_or(0, |region| region.id)),
            to_peer: PeerId(head.to_peer),
            build,
            delivered: !lost,
        };
        let incarnation = self.nodes[&from].incarnation;
        let delay = self.network_delay(Some(from));
        self.schedule
            .after(delay, Action::Done(from, incarnation, Box::new(done)));
        Ok(())
    }

    pub(super) fn received(
        &mut self,
        from: StoreId,
        to: StoreId,
        head: wire::SnapshotHead,
    ) -> Result<(), Violation> {
        // The receiver's driver reports a stream only when every file is there, checked; a crash in between loses the stream.
        let node = &self.nodes[&to];
        let staged = node.engine.stage_list().map_err(broken)?;
        if node.store.is_none() || head.files.iter().any(|file| !staged.contains(&file.name)) {
            return Ok(());
        }
        let region = head.region.as_ref();
        if region.is_some_and(|region| region.peers.iter().all(|peer| peer.id != head.to_peer)) {
            self.count("snapshot without receiver");
        }
        self.step(to, Event::SnapshotReceived { from, head })
    }
}
