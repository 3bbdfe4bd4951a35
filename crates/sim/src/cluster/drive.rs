//! Events into stores, effects out of them.

use std::collections::BTreeMap;

use engine::{CrashMode, Engine, Logging};
use proto::pontoon::v1 as wire;
use proto::{RegionId, StoreId};
use raft::{PeerId, Role};
use store::SplitCause;
use store::event::{
    Applied, ApplyTask, Count, Effects, Event, OrderAnswer, Task, Transfer, TransferChange,
    ViewChange,
};

use super::check::sizes::region_of;
use super::exile::Moment;
use super::placement::News;
use super::settings::TICK;
use super::world::{Action, World, broken};
use crate::group::settings::Fault;
use crate::rule::{Rule, Violation};
use crate::schedule::Time;

/// Permille of an applier's batches of which a store hears late, and of those after a start or a merge elsewhere that come late,
/// in worlds where that happens.
const SLOW_PERMILLE: u64 = 100;
const REPLAY_PERMILLE: u64 = 500;

impl World {
    pub(super) fn carry_out(&mut self, action: Action) -> Result<(), Violation> {
        match action {
            Action::Frame { from, to, frame } => match self.nodes.get(&to) {
                Some(node) if node.store.is_some() => self.step(
                    to,
                    Event::Frame {
                        from,
                        frame: *frame,
                    },
                ),
                Some(_) | None => Ok(()),
            },
            Action::Tick(id, incarnation) => {
                if !self.nodes[&id].is_up(incarnation) {
                    return Ok(());
                }
                let rate = self.settings.ticks[id.0 as usize % self.settings.ticks.len()];
                self.schedule.after(rate, Action::Tick(id, incarnation));
                if self.schedule.now() < self.nodes[&id].clock_back {
                    return Ok(());
                }
                self.step(id, Event::Tick)
            }
            Action::Settle(id, incarnation) => {
                if self.nodes[&id].is_up(incarnation) && self.nodes[&id].dirty {
                    self.settle(id)
                } else {
                    Ok(())
                }
            }
            Action::WriteLog(id, incarnation) => self.write_log(id, incarnation),
            Action::SyncLog(id, incarnation, sequence, then) => {
                if !self.nodes[&id].is_up(incarnation) || self.nodes[&id].stalled {
                    return Ok(());
                }
                let node = self.nodes.get_mut(&id).expect("a store of the cluster");
                node.writing = false;
                let synced = node.engine.sync();
                if self.or_stop(id, synced)?.is_none() {
                    return Ok(());
                }
                self.hard_states.sync(id);
                for frames in then {
                    self.send(id, frames);
                }
                self.step(id, Event::LogWritten(sequence))?;
                self.begin_write(id);
                Ok(())
            }
            Action::Apply(id, incarnation) => self.apply(id, incarnation),
            Action::Report(id, incarnation, applied) => self.report(id, incarnation, applied),
            Action::Task(id, incarnation, task) => self.begin_task(id, incarnation, task),
            Action::Piece(id, incarnation, task, left) => {
                self.do_piece(id, incarnation, task, left)
            }
            Action::Step(id, incarnation, event) => {
                if self.nodes[&id].is_up(incarnation) {
                    self.step(id, *event)
                } else {
                    Ok(())
                }
            }
            Action::Progress(id, incarnation, transfer) => {
                if self.nodes[&id].is_up(incarnation) {
                    self.step(id, Event::Progress(transfer))
                } else {
                    Ok(())
                }
            }
            Action::Done(id, incarnation, done) => {
                if self.nodes[&id].is_up(incarnation) {
                    self.step(id, Event::TaskDone(*done))
                } else {
                    Ok(())
                }
            }
            Action::Received(from, to, head) => self.received(from, to, *head),
            Action::Lost(id, incarnation, other) => {
                if self.nodes[&id].is_up(incarnation) {
                    self.step(id, Event::Unreachable(other))
                } else {
                    Ok(())
                }
            }
            Action::Ids(id, incarnation, count) => {
                if !self.nodes[&id].is_up(incarnation) || self.is_placement_silent() {
                    return Ok(());
                }
                let ids = (self.next_id..self.next_id + u64::from(count)).collect();
                self.next_id += u64::from(count);
                self.step(id, Event::Ids(ids))
            }
            Action::Beat(beat) => {
                self.hear_beat(StoreId(beat.to_store), &beat);
                Ok(())
            }
            Action::Breathe(id, incarnation) => {
                self.breathe(id, incarnation);
                Ok(())
            }
            Action::Support(id, incarnation) => self.support(id, incarnation),
            Action::Unrest => {
                self.unrest();
                Ok(())
            }
            Action::Recover(id) => {
                self.recover(id);
                Ok(())
            }
            Action::Client(client) => self.client(client),
            Action::TimeUp(client, request) => self.time_up(client, request),
            Action::Locate(id, incarnation, key) => self.locate(id, incarnation, key),
            Action::Describe(id, incarnation, region) => self.describe(id, incarnation, region),
            Action::Inquire(id, incarnation, store) => self.inquire(id, incarnation, store),
            Action::Operator => self.operate(),
            Action::Verify => self.verify(),
            Action::Fault(fault) => self.fault(fault),
            Action::Mend => {
                self.cut = Default::default();
                self.lagging = Default::default();
                self.unclog();
                self.trace.note(self.schedule.now(), [30, 0, 0, 0], || {
                    "links are mended".into()
                });
                Ok(())
            }
            Action::Restart(id) => {
                if self.nodes[&id].store.is_none() && !self.is_lost(id) {
                    self.start(id)
                } else {
                    Ok(())
                }
            }
            Action::PowerCut(id, incarnation) => {
                self.power_cut(id, incarnation);
                Ok(())
            }
            Action::Placement(errand) => self.run_errand(errand),
        }
    }

    /// Steps one event, checks the store, and takes effects now or, in worlds that batch, a little later.
    pub(super) fn step(&mut self, id: StoreId, event: Event) -> Result<(), Violation> {
        let node = &self.nodes[&id];
        if node.paused_until > self.schedule.now() {
            let wait = node.paused_until - self.schedule.now() + 1;
            let later = Action::Step(id, node.incarnation, Box::new(event));
            self.schedule.after(wait, later);
            return Ok(());
        }
        let batch = self.settings.faults.has(Fault::Batch) && self.disk_random.chance(600);
        self.take_in(id, event);
        let node = self.nodes.get_mut(&id).expect("a store of the cluster");
        if node.store.is_none() {
            return Ok(());
        }
        if !batch {
            return self.settle(id);
        }
        if !node.dirty {
            node.dirty = true;
            let incarnation = node.incarnation;
            let delay = self.disk_random.between(1, 400);
            self.schedule.after(delay, Action::Settle(id, incarnation));
        }
        Ok(())
    }

    /// Steps one event and takes its effects now.
    pub(super) fn step_at_once(&mut self, id: StoreId, event: Event) -> Result<(), Violation> {
        self.take_in(id, event);
        self.settle(id)
    }

    fn take_in(&mut self, id: StoreId, event: Event) {
        let now = self.schedule.now();
        let words = [2, id.0, event_word(&event), self.events];
        self.trace.note(now, words, || {
            let mut text = format!("{event:?}");
            text.truncate(
                text.char_indices()
                    .nth(600)
                    .map_or(text.len(), |(place, _)| place),
            );
            format!("{id} {text}")
        });
        let node = self.nodes.get_mut(&id).expect("a store of the cluster");
        let Some(store) = node.store.as_mut() else {
            return;
        };
        if let Event::Order(order) = &event {
            self.orders.ask(id, order);
        }
        store.step(event);
    }

    /// Takes the effects of a store and carries them out in the order of their fields.
    pub(super) fn settle(&mut self, id: StoreId) -> Result<(), Violation> {
        let node = self.nodes.get_mut(&id).expect("a store of the cluster");
        node.dirty = false;
        let Some(store) = node.store.as_mut() else {
            return Ok(());
        };
        let effects = store.take_effects();
        store.check_invariants();
        let incarnation = node.incarnation;
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
            locate,
            describe,
            inquire,
            ids_wanted,
            shared,
            drained: _,
            failure,
        } = effects;
        if let Some(error) = failure {
            return Err(broken(format!("store {id} fails: {error:?}")));
        }
        if let Some(divergence) = divergences.first() {
            return Err(Violation {
                rule: Rule::Determinism,
                text: format!("store {id} tells that digests differ: {divergence:?}"),
            });
        }
        if let Some(second) = second_leaders.first() {
            return Err(Violation {
                rule: Rule::Election,
                text: format!("store {id} hears two leaders of a term: {second:?}"),
            });
        }
        let mut leads = false;
        for view in views {
            match view {
                ViewChange::Set(view) => {
                    let region = RegionId(view.region.id);
                    if view.role == Role::Leader {
                        self.pledges.lead(region, view.term);
                    }
                    leads |= view.role == Role::Leader && node.stalls_with == Some(region);
                    node.views.insert(region, view)
                }
                ViewChange::Removed(region) => node.views.remove(&region),
            };
        }
        for change in transfers {
            match change {
                TransferChange::Begun(transfer, _) => node.transfers.insert(transfer),
                TransferChange::Paced(..) => true,
                TransferChange::Ended(transfer) => node.transfers.remove(&transfer),
            };
        }
        self.check_pledges()?;
        if let Some(stores) = shared {
            self.share(id, &stores);
        }
        let node = self.nodes.get_mut(&id).expect("a store of the cluster");
        node.log.extend(log);
        node.apply.extend(apply);
        if leads {
            self.stall(id);
        }
        self.send(id, frames);
        self.begin_write(id);
        self.begin_apply(id);
        for task in tasks {
            let delay = match task {
                Task::Count { .. } => self.writes_random.between(1, TICK),
                Task::Verify(_) => self.verify_random.between(1, TICK),
                _ => self.work_delay(),
            };
            self.schedule
                .after(delay, Action::Task(id, incarnation, Box::new(task)));
        }
        for (request, refusal) in refusals {
            if self.stored.answer(request)? {
                self.count("verification refused");
            } else {
                self.answer(request, Err(refusal));
            }
        }
        for (request, verification) in verified {
            self.learn_verified(request, &verification)?;
        }
        for request in reads {
            self.serve_read(id, request)?;
        }
        let told_orders = orders.clone();
        for answer in orders {
            self.orders.check(id, &answer)?;
            let OrderAnswer { region, result, .. } = answer;
            let now = self.schedule.now();
            self.trace
                .note(now, [3, region.0, u64::from(result.is_ok()), 0], || {
                    format!("{id} order for region {region}: {result:?}")
                });
            self.count(if result.is_ok() {
                "order begun"
            } else {
                "order refused"
            });
        }
        let (told_pieces, told_splits) = (splits.clone(), own_splits.clone());
        for _ in splits {
            self.count("split");
        }
        for split in own_splits {
            let (region, is_ok) = (split.region.0, split.result.is_ok());
            let now = self.schedule.now();
            self.trace.note(now, [4, region, u64::from(is_ok), 0], || {
                format!("{id} splits region {region} by itself: {split:?}")
            });
            self.count(match (split.cause, is_ok) {
                (_, false) => "own split refused",
                (SplitCause::Size, true) => "split for size",
                (SplitCause::Load, true) => "split for load",
                (SplitCause::Appends, true) => "split ahead of appends",
            });
        }
        if self.placed.is_some() {
            let news = News {
                reports,
                orders: told_orders,
                own_splits: told_splits,
                splits: told_pieces,
                locate,
                describe,
                inquire,
                ids_wanted,
            };
            self.tell_news(id, news);
            return Ok(());
        }
        for key in locate {
            let delay = self.network_delay(None);
            self.schedule
                .after(delay, Action::Locate(id, incarnation, key));
        }
        for region in describe {
            let delay = self.network_delay(None);
            self.schedule
                .after(delay, Action::Describe(id, incarnation, region));
        }
        for store in inquire {
            let delay = self.network_delay(None);
            self.schedule
                .after(delay, Action::Inquire(id, incarnation, store));
        }
        if ids_wanted > 0 {
            let delay = self.network_delay(None);
            self.schedule
                .after(delay, Action::Ids(id, incarnation, ids_wanted));
        }
        Ok(())
    }

    /// Looks at all pledges, in worlds that have any.
    fn check_pledges(&mut self) -> Result<(), Violation> {
        if self.settings.options.pledges {
            let seen = self.pledges.check(&self.nodes)?;
            for (what, count) in [
                ("pledge recorded", seen.recorded),
                ("quorum pledged", seen.quorums),
                ("leader deposed unknowingly", seen.deposed),
            ] {
                if count > 0 {
                    self.count(what);
                }
            }
        }
        Ok(())
    }

    pub(super) fn work_delay(&mut self) -> Time {
        let (low, high) = self.settings.apply;
        self.disk_random.between(low, high)
    }

    pub(super) fn network_delay(&mut self, to: Option<StoreId>) -> Time {
        let settings = &self.settings;
        let late = to.is_some_and(|to| self.lagging.contains(PeerId(to.0)));
        let slow = settings.faults.has(Fault::Reorder)
            && self.network_random.chance(settings.slow_permille);
        let (low, high) = if late || slow {
            settings.slow_delay
        } else {
            settings.delay
        };
        self.network_random.between(low, high)
    }

    pub(super) fn is_cut(&self, from: StoreId, to: StoreId) -> bool {
        self.cut[from.0 as usize].contains(PeerId(to.0))
            || self
                .exile
                .is_some_and(|exile| exile.store == from || exile.store == to)
    }

    fn send(&mut self, from: StoreId, frames: BTreeMap<StoreId, wire::Frame>) {
        let faults = self.settings.faults;
        for (to, frame) in frames {
            let lost = self.is_cut(from, to)
                || faults.has(Fault::Loss)
                    && self.network_random.chance(self.settings.loss_permille);
            if lost {
                if faults.has(Fault::Unreachable) && self.network_random.chance(300) {
                    let incarnation = self.nodes[&from].incarnation;
                    self.schedule.after(1, Action::Lost(from, incarnation, to));
                }
                continue;
            }
            if faults.has(Fault::Duplicate)
                && self.network_random.chance(self.settings.duplicate_permille)
            {
                let delay = self.network_delay(Some(to));
                self.convey(delay, from, to, Box::new(frame.clone()));
            }
            self.maybe_keep(from, to, &frame);
            let delay = self.network_delay(Some(to));
            self.convey(delay, from, to, Box::new(frame));
        }
    }

    fn begin_write(&mut self, id: StoreId) {
        let node = self.nodes.get_mut(&id).expect("a store of the cluster");
        if !node.writing && !node.log.is_empty() {
            node.writing = true;
            let incarnation = node.incarnation;
            let delay = self.disk_random.between(1, 300);
            self.schedule
                .after(delay, Action::WriteLog(id, incarnation));
        }
    }

    /// Writes some of the queued batches; if anything waits for the sync, it ends a while later.
    fn write_log(&mut self, id: StoreId, incarnation: u32) -> Result<(), Violation> {
        if !self.nodes[&id].is_up(incarnation) {
            return Ok(());
        }
        let (low, high) = self.settings.sync;
        let duration = self.disk_random.between(low, high);
        let queued = self.nodes[&id].log.len().max(1) as u64;
        let count = self.disk_random.between(1, queued);
        let mut synced = None;
        let mut then = Vec::new();
        for _ in 0..count {
            let node = self.nodes.get_mut(&id).expect("a store of the cluster");
            let Some(batch) = node.log.pop_front() else {
                break;
            };
            self.hard_states.write(id, &batch.batch.changes)?;
            let written = node.engine.write(batch.batch, Logging::On);
            if self.or_stop(id, written)?.is_none() {
                return Ok(());
            }
            if batch.sync {
                synced = Some(batch.sequence);
                then.push(batch.then);
            }
        }
        match synced {
            Some(sequence) => self
                .schedule
                .after(duration, Action::SyncLog(id, incarnation, sequence, then)),
            None => {
                let node = self.nodes.get_mut(&id).expect("a store of the cluster");
                node.writing = false;
                self.begin_write(id);
            }
        }
        Ok(())
    }

    fn begin_apply(&mut self, id: StoreId) {
        let node = self.nodes.get_mut(&id).expect("a store of the cluster");
        if !node.applying && !node.apply.is_empty() {
            node.applying = true;
            let incarnation = node.incarnation;
            let late = std::mem::take(&mut node.may_be_late) && self.is_slow(REPLAY_PERMILLE);
            let delay = if late {
                self.late_delay()
            } else {
                self.work_delay()
            };
            self.schedule.after(delay, Action::Apply(id, incarnation));
        }
    }

    fn apply(&mut self, id: StoreId, incarnation: u32) -> Result<(), Violation> {
        if !self.nodes[&id].is_up(incarnation) {
            return Ok(());
        }
        let node = self.nodes.get_mut(&id).expect("a store of the cluster");
        let count = if self.disk_random.chance(700) {
            node.apply.len()
        } else {
            self.disk_random.between(1, node.apply.len() as u64) as usize
        };
        let tasks: Vec<ApplyTask> = node.apply.drain(..count).collect();
        let counts: Vec<(RegionId, Count)> = tasks
            .iter()
            .filter_map(|task| match task {
                ApplyTask::Counted { region, count, .. } => Some((*region, (**count).clone())),
                _ => None,
            })
            .collect();
        let applied = node.applier.run(tasks);
        // What failed is gone: nobody learned what it did.
        let Some(applied) = self.or_stop_in(id, CrashMode::Kill, applied)? else {
            return Ok(());
        };
        for applied in &applied {
            self.sizes.learn(id, applied);
            if applied.damage.is_some() {
                self.count("rot applied over");
            }
        }
        for (region, count) in counts {
            self.check_size(id, region, &count, &applied)?;
        }
        for (place, told) in applied.iter().enumerate() {
            // What is on disk is of the last.
            let is_last = applied[place + 1..]
                .iter()
                .all(|later| later.region != told.region);
            let descriptor = region_of(&self.nodes[&id].engine, told.region);
            let descriptor = descriptor.filter(|_| is_last);
            self.digests.learn(id, told, descriptor)?;
            for asked in &told.asked {
                self.stored
                    .learn(id, told.region, asked, &mut self.contents)?;
            }
        }
        for applied in &applied {
            let moment = self.learn(applied)?;
            if applied.absorbed.is_some() {
                self.contents
                    .check(id.0, applied.region, &self.nodes[&id].engine)?;
            }
            if let Some(moment) = moment {
                if matches!(moment, Moment::Merge(_)) {
                    // The others may get there late, and their clients not notice.
                    let others = self.nodes.iter_mut().filter(|(other, _)| **other != id);
                    others.for_each(|(_, node)| node.may_be_late = true);
                }
                self.maybe_lose(&moment);
                self.maybe_exile(id, moment);
            }
            self.note_empty(id, applied);
            self.maybe_newborn(id, applied);
        }
        let removed = self.removes_receiver(id, &applied);
        if removed {
            self.count("receiver removed");
            let node = self.nodes.get_mut(&id).expect("a store of the cluster");
            node.unheard
                .extend(applied.iter().map(|applied| applied.region));
        }
        // The applier's word reaches the store a little later; a crash may come between.
        let delay = if removed || self.is_slow(SLOW_PERMILLE) {
            self.late_delay()
        } else {
            self.disk_random.between(1, 200)
        };
        self.schedule
            .after(delay, Action::Report(id, incarnation, applied));
        Ok(())
    }

    /// Counts pieces of splits that hold nothing because inserts have not come there yet, where one of them is led first.
    fn note_empty(&mut self, id: StoreId, applied: &Applied) {
        let leads = self.nodes[&id]
            .views
            .get(&applied.region)
            .is_some_and(|view| view.role == Role::Leader);
        for child in &applied.children {
            let inserted = child.region.start_key.len() > 1;
            if leads && inserted && child.estimate.keys == 0 {
                self.count("empty piece");
                if child.first_leader != child.peer {
                    self.count("empty piece led elsewhere");
                }
            }
        }
    }

    /// Compares what a replica believes to hold with what it holds, after it took a count over and before it applied more.
    fn check_size(
        &mut self,
        id: StoreId,
        region: RegionId,
        count: &Count,
        applied: &[Applied],
    ) -> Result<(), Violation> {
        let last = applied
            .iter()
            .rev()
            .find(|applied| applied.region == region);
        let Some(last) = last.filter(|last| last.counted.is_some()) else {
            return Ok(());
        };
        if last.counted == Some(false) {
            self.count("count refused");
            return Ok(());
        }
        let engine = &self.nodes[&id].engine;
        let Some(descriptor) = region_of(engine, region) else {
            return Ok(());
        };
        let late = self.sizes.check(id, &descriptor, count, last, engine)?;
        self.count(if late {
            "counted behind writes"
        } else {
            "counted"
        });
        Ok(())
    }

    /// Whether what was applied removes a peer for which a snapshot is being built here, in worlds where the store hears of
    /// that late.
    fn removes_receiver(&self, id: StoreId, applied: &[Applied]) -> bool {
        self.settings.faults.has(Fault::Untimely)
            && self.nodes[&id].transfers.iter().any(|transfer| {
                let Transfer::Outgoing {
                    region, to_peer, ..
                } = transfer
                else {
                    return false;
                };
                let changed = applied.iter().filter(|applied| applied.region == *region);
                changed
                    .filter_map(|applied| applied.changed.as_ref())
                    .any(|changed| changed.peers.iter().all(|peer| peer.id != to_peer.0))
            })
    }

    /// Whether the next work of an applier takes long, in worlds where that happens.
    fn is_slow(&mut self, permille: u64) -> bool {
        self.settings.faults.has(Fault::SlowReplay) && self.moment_random.chance(permille)
    }

    /// Longer than an election takes.
    fn late_delay(&mut self) -> Time {
        let timeout = Time::from(self.settings.options.raft.election_ticks) * TICK;
        self.count("applier late");
        self.moment_random.between(TICK, 3 * timeout)
    }

    fn report(
        &mut self,
        id: StoreId,
        incarnation: u32,
        mut applied: Vec<Applied>,
    ) -> Result<(), Violation> {
        if !self.nodes[&id].is_up(incarnation) {
            return Ok(());
        }
        let node = self.nodes.get_mut(&id).expect("a store of the cluster");
        node.applying = false;
        node.unheard.clear();
        let mut answers = Vec::new();
        for applied in &mut applied {
            answers.append(&mut applied.answers);
            let drawn = self.disk_random.chance(100);
            if drawn || self.settings.faults.has(Fault::Merge) {
                self.contents
                    .check(id.0, applied.region, &self.nodes[&id].engine)?;
            }
        }
        // The store first, so that its views are published before clients hear of what they show.
        let node = self.nodes.get_mut(&id).expect("a store of the cluster");
        node.dirty = false;
        if let Some(store) = node.store.as_mut() {
            self.trace.note(
                self.schedule.now(),
                [4, id.0, applied.len() as u64, self.events],
                || {
                    let what: Vec<_> = applied
                        .iter()
                        .map(|applied| {
                            (
                                applied.region,
                                applied.peer,
                                applied.index,
                                applied.removed,
                                applied.children.len(),
                            )
                        })
                        .collect();
                    format!("{id} applied {what:?} (region, peer, index, removed, children)")
                },
            );
            store.step(Event::Applied(applied));
        }
        self.settle(id)?;
        for (request, answer) in answers {
            self.answer(request, answer);
        }
        self.begin_apply(id);
        Ok(())
    }
}

fn event_word(event: &Event) -> u64 {
    match event {
        Event::Tick => 1,
        Event::Frame { from, frame } => 2 ^ from.0 << 8 ^ (prost_len(frame) as u64) << 16,
        Event::Unreachable(store) => 3 ^ store.0 << 8,
        Event::Propose(proposal) => 4 ^ proposal.id.0 << 8,
        Event::Read(read) => 5 ^ read.id.0 << 8,
        Event::LogWritten(sequence) => 6 ^ sequence << 8,
        Event::Applied(applied) => 7 ^ (applied.len() as u64) << 8,
        Event::Order(order) => 8 ^ order.region.0 << 8,
        Event::Ids(ids) => 9 ^ ids.first().copied().unwrap_or(0) << 8,
        Event::SnapshotReceived { head, .. } => 10 ^ head.slot << 8,
        Event::TaskDone(_) => 11,
        Event::Drain => 12,
        Event::Located { .. } => 15,
        Event::Described(_) => 17,
        Event::StoreRemoved(store) => 18 ^ store.0 << 8,
        Event::Reads(_) => 13,
        Event::Progress(_) => 14,
        Event::Damaged { region, .. } => 16 ^ region.0 << 8,
        Event::Dial(_) => 19,
        Event::Support(_) => 21,
        Event::Verify { region, .. } => 20 ^ region.0 << 8,
    }
}

fn prost_len(frame: &wire::Frame) -> usize {
    frame.messages.len()
        + (frame.notices.len() << 6)
        + (frame.offers.len() << 8)
        + (frame.answers.len() << 10)
}
