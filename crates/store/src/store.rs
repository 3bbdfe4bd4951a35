//! The store: its peers, and how events reach the module that handles them.
//!
//! One thread steps a store. An event changes state in memory only; what it leads to is gathered and leaves with
//! [`Store::take_effects`], so that everything of a turn, over all regions, shares one log batch and one frame per store.

use std::collections::BTreeMap;

use bytes::Bytes;
use engine::Engine;
use proto::{RegionId, StoreId, metapb};
use raft::{Event as RaftEvent, PeerId};

use crate::context::{Context, Followup, PeerWrite};
use crate::event::{Applied, Effects, Event, RegionView, Task, TaskDone, ViewChange};
use crate::options::Options;
use crate::peer::{Peer, Stage};
use crate::{Error, identity, recover};

/// All regions of one node.
///
/// # Invariants
/// Checked by [`Store::check_invariants`]:
/// 1. Every key has at most one owner here (R17): peers hold disjoint ranges, and the index of ranges says which.
/// 2. Those of each peer, and those of its Raft instance.
pub struct Store<E> {
    pub(crate) peers: BTreeMap<RegionId, Box<Peer>>,
    pub(crate) cx: Context<E>,
}

impl<E: Engine> Store<E> {
    /// Recovers everything from the engine. The identity must be there ([`identity::create`]) and the boot counter raised
    /// ([`identity::bump_boot`]) before.
    ///
    /// # Errors
    /// [`Error::NoIdentity`] and [`Error::Format`] for a directory that cannot be used; [`Error::Corrupt`], [`Error::Raft`]
    /// and [`Error::Overlap`] for one that is damaged.
    pub fn open(engine: E, options: Options) -> Result<Store<E>, Error> {
        let identity = identity::read(&engine)?.ok_or(Error::NoIdentity)?;
        let cx = Context::new(engine, options, &identity);
        let mut store = Store {
            peers: BTreeMap::new(),
            cx,
        };
        recover::recover(&mut store)?;
        store.mark_lost();
        Ok(store)
    }

    /// Its settings.
    pub fn options(&self) -> &Options {
        &self.cx.options
    }

    /// The id of this store.
    pub fn id(&self) -> StoreId {
        self.cx.store
    }

    /// Takes one event.
    ///
    /// # Panics
    /// When an invariant is broken, by this code or by a driver that reports what did not happen.
    pub fn step(&mut self, event: Event) {
        match event {
            Event::Tick => self.on_tick(),
            Event::Dial(dial) => self.cx.options.dial = dial,
            Event::Frame { from, frame } => {
                self.cx.heard.insert(from, self.cx.tick);
                self.on_frame(from, frame);
            }
            Event::Unreachable(store) => self.on_unreachable(store),
            Event::Support(change) => self.on_support(change),
            Event::Propose(proposal) => self.on_propose(proposal),
            Event::Read(read) => self.on_read(read),
            Event::LogWritten(sequence) => self.on_log_written(sequence),
            Event::Applied(applied) => {
                for mut applied in applied {
                    let misrouted = std::mem::take(&mut applied.misrouted);
                    self.on_applied(applied);
                    // The pieces that the same entries made are known now.
                    misrouted
                        .iter()
                        .for_each(|request| self.refuse_misrouted(request));
                }
            }
            Event::Reads(volumes) => self.on_reads(&volumes),
            Event::Order(order) => self.on_order(order),
            Event::Located { key, region } => self.on_located(&key, &region),
            Event::Described(region) => self.on_described(region),
            Event::StoreRemoved(store) => self.on_store_removed(store),
            Event::Ids(ids) => self.on_ids(ids),
            Event::SnapshotReceived { from, head } => self.on_snapshot_received(from, head),
            Event::TaskDone(done) => self.on_task_done(done),
            Event::Damaged { region, peer } => self.on_damaged(region, peer),
            Event::Progress(transfer) => self.on_progress(transfer),
            Event::Drain => self.on_drain(),
            Event::Verify { request, region } => self.on_verify(request, region),
        }
    }

    /// Whether [`Store::take_effects`] has something to give.
    pub fn has_effects(&self) -> bool {
        !self.cx.dirty.is_empty() || self.cx.has_output()
    }

    /// Takes what is to be done since the last taking. Proposals and reads that arrived since then are grouped here.
    pub fn take_effects(&mut self) -> Effects {
        loop {
            while let Some(region) = self.cx.dirty.pop_front() {
                self.advance(region);
            }
            if !self.release_commits() && self.cx.dirty.is_empty() {
                break;
            }
        }
        self.ask_for_ids();
        self.tell_drained();
        self.cx.reports.clear();
        self.cx.out.shared = self.cx.neighbours.take_changed();
        let mut effects = std::mem::take(&mut self.cx.out);
        effects.log = self.cx.take_log_batch();
        effects
    }

    /// The published state of every region here, for inspection.
    pub fn views(&self) -> impl Iterator<Item = &RegionView> {
        self.peers
            .values()
            .filter_map(|peer| peer.published.as_deref())
    }

    /// Peers here, dead ones whose remains are still there included.
    pub fn peer_count(&self) -> usize {
        self.peers.len()
    }

    /// Applied index of a region's peer.
    pub fn applied_index(&self, region: RegionId) -> Option<raft::Index> {
        self.peers.get(&region).map(|peer| peer.applied.index)
    }

    /// The Raft peer of a region, for inspection.
    pub fn raft(&self, region: RegionId) -> Option<&raft::Raft> {
        self.peers.get(&region)?.raft.as_ref()
    }

    fn on_tick(&mut self) {
        self.cx.tick += 1;
        let mut wishes = Vec::new();
        let (mut merging, mut expired) = (Vec::new(), Vec::new());
        let seeks_turn = self.seeks_turn();
        let mut turn: Option<(u64, RegionId)> = None;
        for peer in self.peers.values_mut() {
            if peer.is_parking_over(self.cx.tick) {
                expired.push(peer.region_id());
            }
            let Some(raft) = peer.raft.as_mut() else {
                continue;
            };
            step_quietly(raft, RaftEvent::Tick);
            if raft.has_effects() {
                self.cx.touch(peer);
            }
            peer.expire_proposals(&mut self.cx);
            peer.tick_sending(&mut self.cx);
            peer.tick_report(&mut self.cx);
            peer.tick_leaderless(&mut self.cx);
            peer.tick_pledge(&mut self.cx);
            peer.tick_damage(&mut self.cx);
            wishes.extend(peer.tick_triggers(&self.cx));
            self.cx.out.own_splits.extend(peer.take_hot());
            if peer.is_merging_due(self.cx.tick) {
                merging.push(peer.region_id());
            }
            if seeks_turn && let Some(due) = peer.verify_turn(&self.cx) {
                let this = (due, peer.region_id());
                turn = Some(turn.map_or(this, |earlier| earlier.min(this)));
            }
        }
        for region in expired {
            self.expire_parked(region);
        }
        for (region, wish) in wishes {
            self.split_by_wish(region, wish);
        }
        for region in merging {
            self.drive_source(region);
            self.drive_records(region);
        }
        self.tick_count();
        self.tick_verify(turn.map(|(_, region)| region));
        self.tick_slots();
        self.tick_drain();
    }

    fn on_unreachable(&mut self, store: StoreId) {
        for peer in self.peers.values_mut() {
            let Some(raft) = peer.raft.as_mut() else {
                continue;
            };
            let there = peer
                .region
                .peers
                .iter()
                .filter(|member| member.store_id == store.0);
            for member in there {
                step_quietly(raft, RaftEvent::Unreachable(PeerId(member.id)));
            }
            if raft.has_effects() {
                self.cx.touch(peer);
            }
        }
    }

    fn on_log_written(&mut self, sequence: u64) {
        let (writes, followups) = self.cx.on_synced(sequence);
        for PeerWrite {
            region,
            generation,
            id,
        } in writes
        {
            let Some(peer) = self.peers.get_mut(&region) else {
                continue;
            };
            if peer.generation != generation {
                continue;
            }
            if let Some(raft) = peer.raft.as_mut() {
                step_quietly(raft, RaftEvent::Written(id));
                self.cx.touch(peer);
            }
        }
        for followup in followups {
            match followup {
                Followup::Compact {
                    region,
                    peer,
                    index,
                } => self.compact(region, peer, index),
                Followup::Install { region, peer } => self.cut_log(region, peer),
                Followup::PutInPlace { region, peer } => self.put_in_place(region, peer),
                Followup::Destroy { region, peer } => self.remove_remains(region, peer),
                Followup::RemoveFiles(names) => self.cx.out.tasks.push(Task::RemoveFiles(names)),
            }
        }
    }

    fn on_applied(&mut self, applied: Applied) {
        if applied.counted.is_some() {
            self.on_corrected(applied);
            return;
        }
        let Some(peer) = self
            .peers
            .get_mut(&applied.region)
            .filter(|peer| peer.id == applied.peer)
        else {
            return;
        };
        peer.on_applied_damage(&applied, &mut self.cx);
        if applied.index <= peer.applied.index {
            return;
        }
        peer.count_applied(&applied, &self.cx);
        let Applied {
            region,
            peer: id,
            asked,
            index,
            term,
            changed,
            merge,
            absorbed,
            children,
            removed,
            digest,
            checkpoints,
            estimate,
            split_keys,
            last_key,
            ..
        } = applied;
        assert!(
            index <= peer.handed_out,
            "region {region} applied {index}, handed out to {}",
            peer.handed_out
        );
        peer.applied = raft::LogPosition { term, index };
        peer.adopt_sizes(estimate, split_keys, last_key);
        peer.digest = digest;
        peer.on_checkpoints(checkpoints, &mut self.cx);
        peer.release_applied(index, &mut self.cx);
        let lane_done = peer.lane.is_some_and(|lane| lane <= index);
        if lane_done {
            peer.lane = None;
        }
        if !children.is_empty() {
            peer.on_split(&self.cx);
        }
        if let Some(merge) = merge {
            peer.adopt_merge(merge, &mut self.cx);
        }
        if lane_done {
            peer.thaw_view(&mut self.cx);
        }
        let stopping = matches!(peer.stage, Stage::Stopping { .. });
        let before = changed.as_ref().map(|_| peer.region.clone());
        let parked = absorbed.map_or(Vec::new(), |absorbed| self.on_absorbed(absorbed));
        if let Some(changed) = changed {
            self.adopt(region, changed);
        }
        for request in parked {
            self.resume(request);
        }
        let mut pieces = Vec::new();
        for child in children {
            pieces.push(child.region.clone());
            self.create_child(child);
        }
        let Some(peer) = self.peers.get_mut(&region) else {
            return;
        };
        if stopping {
            self.settle_stopping(region);
            return;
        }
        if let Some(raft) = peer.raft.as_mut() {
            step_quietly(raft, RaftEvent::Applied(index));
            self.cx.touch(peer);
        }
        if !pieces.is_empty() && peer.is_leader() {
            pieces.insert(0, peer.region.clone());
            self.cx.out.splits.push(pieces);
        }
        if let Some(before) = before {
            self.after_change(region, &before);
        }
        if removed {
            // What was handed out beyond its removal is not applied.
            if let Some(peer) = self.peers.get_mut(&region) {
                peer.handed_out = index;
            }
            self.stop(region, "removed by its own log");
            return;
        }
        for asked in asked {
            self.on_asked(region, id, asked);
        }
        let Some(peer) = self.peers.get_mut(&region) else {
            return;
        };
        peer.serve_confirmed(&mut self.cx);
        peer.maybe_compact(&mut self.cx);
    }

    /// Takes over an applied descriptor.
    fn adopt(&mut self, region: RegionId, changed: metapb::Region) {
        let Some(peer) = self.peers.get_mut(&region) else {
            return;
        };
        let old = [peer.range()];
        peer.region = changed;
        let new = [peer.range()];
        if let Err(other) = self.cx.ranges.set(region, &old, &new) {
            self.cx.fail(Error::Overlap { region, other });
        }
        peer.contacts
            .retain(|(id, _)| !peer.region.peers.iter().any(|member| member.id == id.0));
        match &mut peer.stage {
            Stage::Stopping { held, .. } => *held = new.into(),
            Stage::Uninitialized { .. }
            | Stage::Normal
            | Stage::Installing(_)
            | Stage::Dormant
            | Stage::Absorbed { .. } => peer.publish(&mut self.cx),
        }
    }

    /// What follows from a changed descriptor: proposals are checked again, placement hears, who was removed hears.
    fn after_change(&mut self, region: RegionId, before: &metapb::Region) {
        self.recheck_queue(region);
        let Some(peer) = self.peers.get_mut(&region) else {
            return;
        };
        if !peer.is_leader() {
            return;
        }
        peer.report(&mut self.cx);
        let gone = before
            .peers
            .iter()
            .filter(|old| !peer.region.peers.iter().any(|new| new.id == old.id));
        for gone in gone.filter(|gone| gone.id != peer.id.0) {
            let notice = proto::pontoon::v1::Notice {
                to_peer: gone.id,
                region: Some(peer.region.clone()),
            };
            self.cx
                .frame(StoreId(gone.store_id), false)
                .notices
                .push(notice);
        }
    }

    fn on_task_done(&mut self, done: TaskDone) {
        match done {
            TaskDone::SnapshotBuilt {
                region,
                to_peer,
                build,
                head,
            } => self.on_snapshot_built(region, to_peer, build, head),
            TaskDone::SnapshotSent {
                region,
                to_peer,
                build,
                delivered,
            } => {
                self.on_snapshot_sent(region, to_peer, build, delivered);
            }
            TaskDone::SnapshotInstalled {
                region,
                peer,
                index,
                estimate,
            } => self.on_snapshot_installed(region, peer, index, estimate),
            TaskDone::SnapshotUnusable { region, peer } => self.on_snapshot_unusable(region, peer),
            TaskDone::EntriesFetched { fetch, entries } => {
                self.on_entries_fetched(&fetch, entries);
            }
            TaskDone::Destroyed { region, peer } => self.on_destroyed(region, peer),
            TaskDone::Counted {
                region,
                peer,
                count,
            } => self.on_counted(region, peer, count),
            TaskDone::Verified {
                region,
                peer,
                index,
                sum,
                next,
            } => self.on_verified_part(region, peer, index, sum, next),
            TaskDone::Damaged { region, peer, .. } => {
                self.end_count(region, peer);
                self.on_damaged(region, peer);
                self.end_damaged_job(region, peer);
            }
        }
    }

    /// Forgets what is published of a region.
    pub(crate) fn unpublish(&mut self, region: RegionId) {
        if let Some(peer) = self.peers.get_mut(&region)
            && let Some(view) = peer.published.take()
        {
            self.cx.neighbours.count(&view.region.peers, &[]);
            self.cx.out.views.push(ViewChange::Removed(region));
        }
    }

    /// Checks everything that must hold between events. For tests and the simulator.
    ///
    /// # Panics
    /// When something does not hold.
    pub fn check_invariants(&self) {
        let mut held: BTreeMap<RegionId, Vec<(Bytes, Bytes)>> = BTreeMap::new();
        let mut previous: Option<(&Bytes, &Bytes, RegionId)> = None;
        for (start, end, region) in self.cx.ranges.iter() {
            assert!(
                end.is_empty() || start < end,
                "region {region} holds an empty range"
            );
            if let Some((_, before_end, before)) = previous {
                assert!(
                    !before_end.is_empty() && before_end <= start,
                    "regions {before} and {region} hold the same keys"
                );
            }
            previous = Some((start, end, region));
            held.entry(region)
                .or_default()
                .push((start.clone(), end.clone()));
        }
        let mut pending_bytes = 0;
        self.check_pledges();
        for (region, peer) in &self.peers {
            assert!(
                *region == peer.region_id(),
                "peer of region {} is found under {region}",
                peer.region.id
            );
            peer.check(held.remove(region).unwrap_or_default());
            pending_bytes += peer.writes.bytes;
        }
        assert!(
            held.is_empty(),
            "regions that are not here hold ranges: {:?}",
            held.keys()
        );
        assert!(
            pending_bytes == self.cx.pending_bytes,
            "{pending_bytes} bytes of proposals wait, counted {}",
            self.cx.pending_bytes
        );
    }
}

impl Peer {
    fn check(&self, mut held: Vec<(Bytes, Bytes)>) {
        let region = self.region_id();
        let expected = match &self.stage {
            Stage::Uninitialized { .. } | Stage::Dormant => Vec::new(),
            Stage::Normal => vec![self.range()],
            Stage::Installing(installing) => installing.clear.clone(),
            Stage::Stopping { held, .. } => held.clone(),
            // It holds its range until its absorber does.
            Stage::Absorbed { .. } => {
                if held.is_empty() {
                    Vec::new()
                } else {
                    vec![self.range()]
                }
            }
        };
        held.sort();
        let mut expected = expected;
        expected.sort();
        assert!(
            held == expected,
            "region {region} holds {held:?}, its stage says {expected:?}"
        );
        match self.stage {
            Stage::Uninitialized { .. } | Stage::Normal | Stage::Installing(_) => {
                assert!(self.raft.is_some(), "region {region} has no raft instance");
            }
            Stage::Dormant | Stage::Absorbed { .. } | Stage::Stopping { .. } => {
                assert!(self.raft.is_none(), "region {region} has a raft instance");
            }
        }
        if let Some(raft) = &self.raft {
            raft.check_invariants();
            assert!(
                raft.id() == self.id,
                "peer {} runs raft of {}",
                self.id,
                raft.id()
            );
        }
        assert!(
            self.applied.index <= self.handed_out,
            "region {region} applied {}, handed out {}",
            self.applied.index,
            self.handed_out
        );
        let mut last = 0;
        for pending in &self.writes.pending {
            assert!(
                pending.position.index > last,
                "region {region}: pending proposals are out of order"
            );
            last = pending.position.index;
        }
        if self.is_normal() {
            let named = self.member(self.id).is_some();
            assert!(
                named,
                "region {region}: the descriptor does not name peer {}",
                self.id
            );
        }
    }
}

/// Steps Raft with an event whose refusal needs no answer: it means that the event came too late, and Raft repeats what
/// matters.
pub(crate) fn step_quietly(raft: &mut raft::Raft, event: RaftEvent) {
    let _refused = raft.step(event);
}
