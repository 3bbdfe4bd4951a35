//! Applying committed entries: a pure function of what is on disk and the log (R12).
//!
//! Runs on apply workers, beside the [`crate::Store`]. All tasks of a run, over many regions, become one batch of the apply
//! tier: data, applied positions and region states together or not at all (R11). The batch is written with the engine's log
//! on (the plain path of D3); with [`Logging::Off`] the Raft log alone would bring it back after a crash, for which the
//! store would have to flush before it cuts logs.
//!
//! A failure that only this node sees is an error and ends the node before anything more is applied. Damaged data is the
//! exception (R13): what a command should have read is `lost` then, and the region's state says so in the same batch.
//! A command that does not fit the region is refused, on every peer alike, and that is its result.

mod buckets;
mod change;
mod commands;
mod merge;
mod pending;
mod rebuild;
mod region;
mod sizes;

use std::collections::BTreeMap;

use engine::{Batch, Change, Engine, Error, Family, Logging};
use proto::RegionId;
use raft::{Entry, Index, PeerId};

pub(crate) use self::buckets::BUCKETS_MAX;
pub use self::buckets::Buckets;
use self::pending::PendingBatch;
use self::region::ApplyRegion;
use crate::digest::Checkpoint;
use crate::event::{Applied, ApplyTask, Asked, Count, Estimate, HeldView, Refusal, Waiting};
use crate::keys;
use crate::options::{Options, SplitOptions};
use crate::planted::Bug;

/// Applies entries of the regions it was given.
pub struct Applier<E> {
    writer: Writer<E>,
    limits: SplitOptions,
    split_keys_max: usize,
    digest_entries: Index,
    regions: BTreeMap<RegionId, ApplyRegion>,
}

/// What batches are written to.
struct Writer<E> {
    engine: E,
    logging: Logging,
    bug: Option<Bug>,
}

impl<E: Engine> Applier<E> {
    /// An applier that holds no region yet, with the settings of its store.
    pub fn new(engine: E, options: &Options) -> Applier<E> {
        Applier {
            writer: Writer {
                engine,
                logging: options.logging,
                bug: options.bug,
            },
            limits: options.split.clone(),
            split_keys_max: options.split_keys_max,
            digest_entries: options.digest_entries,
            regions: BTreeMap::new(),
        }
    }

    /// Carries out tasks in their order. When it returns, everything is written and visible to reads.
    ///
    /// Tasks for a region that this applier does not hold have no effect; whoever waits is told so.
    ///
    /// # Errors
    /// What the engine says, and [`Error::Corrupt`] for entries or states that are not what was written. The node must stop.
    pub fn run(&mut self, tasks: Vec<ApplyTask>) -> Result<Vec<Applied>, Error> {
        let mut batch = PendingBatch::default();
        let mut done: Vec<Applied> = Vec::with_capacity(tasks.len());
        for task in tasks {
            match task {
                ApplyTask::Open(region) => {
                    // What it opens may be in the batch.
                    self.writer.write(&mut batch)?;
                    let Writer { engine, bug, .. } = &self.writer;
                    match ApplyRegion::load(engine, region, &self.limits, *bug)? {
                        Some(state) => self.regions.insert(region, state),
                        None => self.regions.remove(&region),
                    };
                }
                ApplyTask::Inherit(region, buckets) => {
                    if let Some(state) = self.regions.get_mut(&region) {
                        state.sizes.inherit(*buckets);
                    }
                }
                ApplyTask::MarkDamaged { region, peer } => {
                    done.push(self.mark_damaged(&mut batch, region, peer));
                }
                ApplyTask::Counted {
                    region,
                    peer,
                    count,
                } => {
                    done.push(self.correct(region, peer, *count));
                }
                ApplyTask::Close(region) => {
                    self.regions.remove(&region);
                }
                ApplyTask::Entries {
                    region,
                    peer,
                    entries,
                    waiting,
                } => {
                    done.push(self.apply(&mut batch, region, peer, entries, waiting)?);
                }
            }
        }
        self.writer.write(&mut batch)?;
        if self.writer.bug == Some(Bug::SumOfLater) {
            let asked = done.iter_mut().flat_map(|applied| &mut applied.asked);
            for data in asked.filter_map(|asked| asked.data.as_mut()) {
                data.view = HeldView::new(self.writer.engine.view());
            }
        }
        Ok(done)
    }

    fn apply(
        &mut self,
        batch: &mut PendingBatch,
        id: RegionId,
        peer: PeerId,
        entries: Vec<Entry>,
        waiting: Vec<Waiting>,
    ) -> Result<Applied, Error> {
        let mut applied = Applied::nothing(id, peer);
        let Some(region) = self
            .regions
            .get_mut(&id)
            .filter(|region| region.peer == peer)
        else {
            let requests = waiting.into_iter().flat_map(|waiting| waiting.requests);
            applied.answers = requests
                .map(|(request, _)| (request, Err(Refusal::Unknown)))
                .collect();
            return Ok(applied);
        };
        let mut waiting = waiting.into_iter().peekable();
        for entry in entries {
            if region.removed {
                // What follows the removal of this peer is for others.
                break;
            }
            if entry.index != region.applied.index + 1 {
                return Err(damaged(
                    id,
                    format!("entry {} after {}", entry.index, region.applied.index),
                ));
            }
            let waits = waiting.next_if(|waiting| waiting.index == entry.index);
            let frozen = region.merge.freeze.is_some();
            region.apply(&self.writer.engine, batch, &entry, waits, &mut applied)?;
            region.applied = entry.position();
            if let Some(fits) = region.take_asked() {
                // The view must hold this entry and none after it.
                region.save(batch);
                self.writer.write(batch)?;
                let view = fits.then(|| HeldView::new(self.writer.engine.view()));
                let position = entry.position();
                let data = view.map(|view| region.stored(view));
                applied.asked.push(Asked { position, data });
            }
            let freezes = !frozen && region.merge.freeze.is_some();
            if freezes || entry.index.is_multiple_of(self.digest_entries) {
                let digest = region.digest();
                let index = entry.index;
                let made = digest.map(|digest| Checkpoint { index, digest });
                applied.checkpoints.extend(made);
            }
        }
        let unknown = waiting.flat_map(|waiting| waiting.requests);
        applied
            .answers
            .extend(unknown.map(|(request, _)| (request, Err(Refusal::Unknown))));
        applied.removed = region.removed;
        region.prepare_split(&self.writer.engine, &mut applied)?;
        region.save(batch);
        applied.damaged = region.damaged;
        applied.digest = region.digest();
        region.tell_sizes(self.split_keys_max, &mut applied);
        Ok(applied)
    }

    /// What is corrected becomes durable with the next entry. A restart before that counts again.
    fn correct(&mut self, id: RegionId, peer: PeerId, count: Count) -> Applied {
        let mut applied = Applied::nothing(id, peer);
        applied.counted = Some(false);
        let held = self.regions.get_mut(&id);
        if let Some(region) = held.filter(|region| region.peer == peer && !region.removed) {
            applied.counted = Some(region.correct(count));
            region.tell_sizes(self.split_keys_max, &mut applied);
        }
        applied
    }

    /// A removed peer leaves a tombstone, which nothing may be written over.
    fn mark_damaged(&mut self, batch: &mut PendingBatch, id: RegionId, peer: PeerId) -> Applied {
        let mut applied = Applied::nothing(id, peer);
        applied.marked = true;
        let held = self.regions.get_mut(&id);
        if let Some(region) = held.filter(|region| region.peer == peer && !region.removed) {
            region.mark_damaged();
            region.save(batch);
            applied.damaged = true;
        }
        applied
    }
}

impl<E: Engine> Writer<E> {
    fn write(&self, batch: &mut PendingBatch) -> Result<(), Error> {
        let mut changes = batch.take();
        if changes.is_empty() {
            return Ok(());
        }
        if self.bug == Some(Bug::AppliedApart) {
            let is_data = |change: &mut Change| match change {
                Change::Put(key, _) | Change::Delete(key) | Change::DeleteRange(key, _) => {
                    **key >= *keys::FIRST_DATA
                }
            };
            let data = changes.extract_if(.., is_data).collect();
            let states = Batch {
                family: Family::State,
                changes: std::mem::replace(&mut changes, data),
            };
            self.engine.write(states, self.logging)?;
        }
        self.engine.write(
            Batch {
                family: Family::State,
                changes,
            },
            self.logging,
        )
    }
}

impl Applied {
    fn nothing(region: RegionId, peer: PeerId) -> Applied {
        Applied {
            region,
            peer,
            index: 0,
            term: 0,
            changed: None,
            merge: None,
            absorbed: None,
            children: Vec::new(),
            removed: false,
            damaged: false,
            marked: false,
            damage: None,
            counted: None,
            digest: None,
            checkpoints: Vec::new(),
            asked: Vec::new(),
            estimate: Estimate::default(),
            written_bytes: 0,
            written_keys: 0,
            split_keys: Vec::new(),
            last_key: None,
            answers: Vec::new(),
            misrouted: Vec::new(),
        }
    }
}

/// An entry or state that cannot be: this node must not go on.
fn damaged(region: RegionId, what: String) -> Error {
    Error::Corrupt {
        what: format!("region {region}: {what}"),
        source: None,
    }
}
