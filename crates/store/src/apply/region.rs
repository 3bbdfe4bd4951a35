//! What an applier holds of one region.

use bytes::Bytes;
use engine::{Engine, Error, Family};
use prost::Message as _;
use proto::pontoon::v1::{AppliedState, RegionState, region_state};
use proto::{RegionId, metapb};
use raft::{Entry, Index, LogPosition, Payload, PeerId};

use super::damaged;
use super::pending::PendingBatch;
use super::sizes::Sizes;
use crate::digest::{Digest, Effect};
use crate::event::{Applied, Count, Estimate, HeldView, Refusal, StoredData, Waiting};
use crate::merge::MergeState;
use crate::options::SplitOptions;
use crate::planted::Bug;
use crate::{codec, keys};

/// One region, as of the entry last applied.
pub(super) struct ApplyRegion {
    pub id: RegionId,
    pub peer: PeerId,
    pub descriptor: metapb::Region,
    pub applied: LogPosition,
    /// Of what took effect; `None` while it is not known.
    digest: Option<Digest>,
    pub sizes: Sizes,
    /// What was believed of the sizes when the region was opened or last corrected, and the applied index then: no record
    /// before that index, and perhaps none at it, says the same.
    sizes_since: (Index, Estimate),
    pub limits: SplitOptions,
    pub merge: MergeState,
    /// The log removed this peer: nothing more is applied.
    pub removed: bool,
    /// Some of its data could not be read.
    pub damaged: bool,
    descriptor_changed: bool,
    /// The entry that is being applied asks for a digest of what is stored; whether the region is what it was made for.
    asked: Option<bool>,
    bug: Option<Bug>,
}

impl ApplyRegion {
    /// Reads a region that has data here; `None` when it has none.
    pub fn load<E: Engine>(
        engine: &E,
        id: RegionId,
        limits: &SplitOptions,
        bug: Option<Bug>,
    ) -> Result<Option<ApplyRegion>, Error> {
        let (state_key, applied_key) = (keys::region_state(id), keys::applied_state(id));
        let mut records = engine
            .get_many(Family::State, &[&state_key, &applied_key])?
            .into_iter();
        let (Some(state), Some(applied)) = (records.next().flatten(), records.next().flatten())
        else {
            return Ok(None);
        };
        let state: RegionState =
            codec::decode_record(&state).ok_or_else(|| damaged(id, "region state".to_owned()))?;
        let applied: AppliedState = codec::decode_record(&applied)
            .ok_or_else(|| damaged(id, "applied state".to_owned()))?;
        let (region_state::State::Normal, Some(descriptor)) = (state.state(), state.region) else {
            return Ok(None);
        };
        Ok(Some(ApplyRegion {
            id,
            peer: PeerId(state.peer_id),
            descriptor,
            applied: LogPosition {
                term: applied.term,
                index: applied.index,
            },
            digest: applied
                .digest
                .and_then(Digest::of_wire)
                .filter(|_| !state.damaged),
            sizes: Sizes::new(Estimate::of(&applied)),
            sizes_since: (applied.index, Estimate::of(&applied)),
            limits: limits.clone(),
            merge: MergeState {
                freeze: state.freeze,
                records: state.records,
            },
            removed: false,
            damaged: state.damaged,
            descriptor_changed: false,
            asked: None,
            bug,
        }))
    }

    /// Adds what changed of the region's own records to the batch.
    pub fn save(&mut self, batch: &mut PendingBatch) {
        let digest = self.digest.map(|digest| {
            if self.has_bug(Bug::DigestNotSaved) {
                Digest::starting(digest.since)
            } else {
                digest
            }
        });
        let applied = self.sizes.estimate().record(self.applied, digest);
        batch.put(
            Bytes::copy_from_slice(&keys::applied_state(self.id)),
            codec::encode_record(&applied),
        );
        if std::mem::take(&mut self.descriptor_changed) {
            let saved = Saved {
                peer: self.peer,
                descriptor: &self.descriptor,
                merge: &self.merge,
                damaged: self.damaged,
            };
            saved.put(batch);
        }
    }

    /// Learns where the contents lie when there is too much and that was not counted here.
    pub fn prepare_split<E: Engine>(
        &mut self,
        engine: &E,
        applied: &mut Applied,
    ) -> Result<(), Error> {
        if self.sizes.buckets.is_over(&self.limits) {
            self.prepare_sizes(engine, applied)?;
        }
        Ok(())
    }

    /// Takes over what a count found, unless it was of another range, or of data that a snapshot replaced since: whether it did.
    pub fn correct(&mut self, count: Count) -> bool {
        let (index, believed) = self.sizes_since;
        if count.version != self.epoch().version || count.index < index {
            return false;
        }
        let believed = if count.index == index {
            believed
        } else {
            count.believed
        };
        self.sizes.correct(count, believed);
        self.sizes_since = (self.applied.index, self.sizes.estimate());
        true
    }

    /// Tells the store how large the region is, and what follows from that.
    pub fn tell_sizes(&mut self, keys_max: usize, applied: &mut Applied) {
        applied.index = self.applied.index;
        applied.term = self.applied.term;
        applied.estimate = self.sizes.estimate();
        applied.split_keys = self.sizes.buckets.split_keys(&self.limits, keys_max);
        applied.last_key = self.sizes.take_last_key();
    }

    pub fn prepare_sizes<E: Engine>(
        &mut self,
        engine: &E,
        applied: &mut Applied,
    ) -> Result<(), Error> {
        let prepared = self.sizes.prepare(engine, &self.descriptor, &self.limits);
        self.readable(prepared, applied).map(drop)
    }

    /// Takes damage for what it is, something that is wrong with this peer alone: `None`. Only for what was read, since a
    /// write that fails leaves nobody knowing what is on disk.
    pub fn readable<T>(
        &mut self,
        read: Result<T, Error>,
        applied: &mut Applied,
    ) -> Result<Option<T>, Error> {
        match read {
            Ok(read) => Ok(Some(read)),
            Err(error @ Error::Corrupt { .. }) => {
                self.mark_damaged();
                applied.damage.get_or_insert(error);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// From the next batch on its state says that it is damaged. What it does with what it cannot read the others do not do, so
    /// there is nothing to compare any more.
    pub fn mark_damaged(&mut self) {
        self.digest = None;
        if !self.damaged {
            self.damaged = true;
            self.descriptor_changed = true;
        }
    }

    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// Something takes effect, with the entry that is being applied.
    pub fn note(&mut self, effect: Effect, first: &[u8], second: &[u8]) {
        let index = self.applied.index + 1;
        if let Some(digest) = &mut self.digest {
            digest.note(index, effect, first, second);
        }
    }

    /// The entry that is being applied changed the range: what it holds from here on has a digest of its own.
    pub fn restart_digest(&mut self) {
        self.digest = (!self.damaged).then(|| Digest::starting(self.applied.index + 1));
    }

    /// Every peer is to digest what it stores, if the region is still what that was proposed for: then all know its range.
    pub fn ask(&mut self, epoch: metapb::RegionEpoch) {
        self.asked = Some(epoch == self.epoch() && self.merge.freeze.is_none());
    }

    /// Whether the entry that was just applied asks for a digest, and whether it fits.
    pub fn take_asked(&mut self) -> Option<bool> {
        self.asked.take()
    }

    /// What the region holds in a view.
    pub fn stored(&self, view: HeldView) -> StoredData {
        let descriptor = &self.descriptor;
        StoredData {
            view,
            start: keys::data(&descriptor.start_key),
            end: keys::data_end(&descriptor.end_key),
        }
    }

    /// Takes over a changed descriptor.
    pub fn change(&mut self, descriptor: metapb::Region, applied: &mut Applied) {
        let state = RegionState {
            region: Some(descriptor),
            freeze: self.merge.freeze.clone(),
            records: self.merge.records.clone(),
            ..Default::default()
        };
        self.note(Effect::Region, &state.encode_to_vec(), b"");
        let descriptor = state.region.unwrap_or_default();
        self.descriptor = descriptor;
        self.descriptor_changed = true;
        self.removed = !self
            .descriptor
            .peers
            .iter()
            .any(|member| member.id == self.peer.0);
        applied.changed = Some(self.descriptor.clone());
        applied.merge = Some(self.merge.clone());
    }

    pub fn bug(&self) -> Option<Bug> {
        self.bug
    }

    pub fn has_bug(&self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }

    pub fn epoch(&self) -> metapb::RegionEpoch {
        self.descriptor.region_epoch.unwrap_or_default()
    }

    /// Applies one entry.
    pub fn apply<E: Engine>(
        &mut self,
        engine: &E,
        batch: &mut PendingBatch,
        entry: &Entry,
        waits: Option<Waiting>,
        applied: &mut Applied,
    ) -> Result<(), Error> {
        let unreadable =
            |error: codec::DecodeError| damaged(self.id, format!("entry {}: {error}", entry.index));
        match &entry.payload {
            Payload::Noop => {
                if self.has_bug(Bug::DigestCountsNoops) {
                    self.note(Effect::Region, b"", b"");
                }
            }
            Payload::Command(payload) => {
                let command = codec::unseal(payload).map_err(unreadable)?;
                self.commands(engine, batch, command, waits, applied)?;
                return Ok(());
            }
            Payload::Structural(payload) => {
                let command = codec::unseal(payload).map_err(unreadable)?;
                self.structural(engine, batch, command, entry.position(), applied)?;
            }
            Payload::Membership { change, context } => {
                let command = if context.is_empty() {
                    None
                } else {
                    Some(codec::unseal(context).map_err(unreadable)?)
                };
                self.change_peers(change, command, applied)?;
            }
        }
        // Nobody waits for these but by a driver's mistake; they learn that nothing of theirs happened.
        let requests = waits.into_iter().flat_map(|waiting| waiting.requests);
        applied
            .answers
            .extend(requests.map(|(request, _)| (request, Err(Refusal::StaleCommand))));
        Ok(())
    }
}

/// The state of a region that lives here.
pub(super) struct Saved<'a> {
    pub peer: PeerId,
    pub descriptor: &'a metapb::Region,
    pub merge: &'a MergeState,
    pub damaged: bool,
}

impl Saved<'_> {
    pub fn put(self, batch: &mut PendingBatch) {
        let state = RegionState {
            state: region_state::State::Normal as i32,
            region: Some(self.descriptor.clone()),
            peer_id: self.peer.0,
            freeze: self.merge.freeze.clone(),
            records: self.merge.records.clone(),
            damaged: self.damaged,
            ..Default::default()
        };
        batch.put(
            Bytes::copy_from_slice(&keys::region_state(RegionId(self.descriptor.id))),
            codec::encode_record(&state),
        );
    }
}
