//! One store and what its driver would hold for it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use engine::MemoryEngine;
use proto::RegionId;
use store::Store;
use store::apply::Applier;
use store::event::{ApplyTask, LogBatch, RegionView, Transfer};
use store::liveness::{Change, Liveness};

use crate::schedule::Time;

/// A node.
pub struct Node {
    /// Its disk.
    pub engine: MemoryEngine,
    /// The store, while it runs.
    pub store: Option<Store<MemoryEngine>>,
    /// Applies what the store hands out.
    pub applier: Applier<MemoryEngine>,
    /// Counts starts.
    pub incarnation: u32,
    /// Log batches that were not written yet.
    pub log: VecDeque<LogBatch>,
    /// Whether a log write or sync is on its way.
    pub writing: bool,
    /// What is to be applied.
    pub apply: VecDeque<ApplyTask>,
    /// Whether applying is on its way.
    pub applying: bool,
    /// Regions that lost the receiver of a snapshot, which the store has not heard of yet.
    pub unheard: BTreeSet<RegionId>,
    /// Whether the next batch may be late: nothing was applied since it started, or another store was first to merge.
    pub may_be_late: bool,
    /// The disk syncs nothing any more: power is about to be lost.
    pub stalled: bool,
    /// Stalls when this region, which was just born, is led here.
    pub stalls_with: Option<RegionId>,
    /// What its disk was told to fail at next.
    pub failing: Option<engine::Fault>,
    /// Nothing happens here before this time.
    pub paused_until: Time,
    /// No sync ends before this time.
    pub hangs_until: Time,
    /// The clock stands still until this time.
    pub clock_back: Time,
    /// Whether effects wait to be taken.
    pub dirty: bool,
    /// Its liveness, in worlds where stores support each other.
    pub live: Option<Liveness>,
    /// What that said, and the store does not know yet.
    pub changes: VecDeque<Change>,
    /// Whether it gave an id twice.
    pub repeated: bool,
    /// Published views.
    pub views: BTreeMap<RegionId, Arc<RegionView>>,
    /// Snapshots that may be worked on.
    pub transfers: BTreeSet<Transfer>,
}

impl Node {
    /// Whether it runs in this incarnation.
    pub fn is_up(&self, incarnation: u32) -> bool {
        self.incarnation == incarnation && self.store.is_some()
    }

    /// Forgets everything that is not on disk.
    pub fn stop(&mut self) {
        self.store = None;
        self.live = None;
        self.changes.clear();
        self.log.clear();
        self.apply.clear();
        self.views.clear();
        self.transfers.clear();
        self.unheard.clear();
        self.stalls_with = None;
        self.failing = None;
        (self.paused_until, self.hangs_until, self.clock_back) = (0, 0, 0);
        (self.writing, self.applying, self.dirty, self.stalled) = (false, false, false, false);
    }
}
