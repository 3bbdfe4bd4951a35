//! Applying the commands of a merge (REGIONS §5). Exact epoch and "not frozen" were checked before.

use engine::{Engine, Error};
use proto::RegionId;
use proto::pontoon::v1::{
    AppliedState, DropRecord, Freeze, MergeId, MergeRecord, MergeSource, PrepareMerge, RegionState,
    region_state,
};
use raft::{LogPosition, PeerId};

use super::damaged;
use super::pending::PendingBatch;
use super::region::ApplyRegion;
use crate::digest::Digest;
use crate::event::{Absorbed, Applied, Estimate};
use crate::merge::{self, MergeKey};
use crate::planted::Bug;
use crate::{codec, keys};

impl ApplyRegion {
    /// Freezes a source: from here on only the rollback of this merge has an effect.
    pub fn prepare_merge(
        &mut self,
        prepare: PrepareMerge,
        position: LogPosition,
        applied: &mut Applied,
    ) {
        let Some(target) = prepare.target else { return };
        if !merge::are_neighbours(&self.descriptor, &target)
            || !merge::same_stores(&self.descriptor, &target)
        {
            return;
        }
        self.merge.freeze = Some(Freeze {
            term: position.term,
            index: position.index,
            witness_key: target.start_key.clone(),
            target: Some(target),
        });
        if self.has_bug(Bug::FreezeKeepsVersion) {
            self.change(self.descriptor.clone(), applied);
        } else {
            self.raise_version(applied);
        }
    }

    /// Thaws a source, if it is frozen by this merge.
    pub fn rollback_merge(&mut self, merge: Option<MergeId>, applied: &mut Applied) {
        let this = self.merge.freeze.as_ref().map(|freeze| MergeKey {
            source: self.id,
            freeze_index: freeze.index,
        });
        if this.is_none() || merge.as_ref().map(MergeKey::of_wire) != this {
            return;
        }
        self.merge.freeze = None;
        self.raise_version(applied);
    }

    /// Moves a target away from the epoch at which it could have committed.
    pub fn abort_merge(&mut self, applied: &mut Applied) {
        self.raise_version(applied);
    }

    pub fn drop_record(&mut self, drop: &DropRecord, applied: &mut Applied) {
        let Some(merge) = drop.merge.as_ref().map(MergeKey::of_wire) else {
            return;
        };
        let before = self.merge.records.len();
        self.merge
            .records
            .retain(|record| MergeKey::of_record(record) != merge);
        if self.merge.records.len() < before {
            self.change(self.descriptor.clone(), applied);
        }
    }

    /// Takes a source in: its data lies in this engine already, so ranges, sizes and records are all that changes. The store
    /// hands this out only when the local source has applied exactly up to its freeze.
    pub fn absorb<E: Engine>(
        &mut self,
        engine: &E,
        batch: &mut PendingBatch,
        source: &MergeSource,
        applied: &mut Applied,
    ) -> Result<(), Error> {
        let Some(region) = &source.region else {
            return Ok(());
        };
        let id = RegionId(region.id);
        let own = self
            .descriptor
            .peers
            .iter()
            .find(|peer| peer.id == self.peer.0)
            .map(|peer| proto::StoreId(peer.store_id));
        let Some(peer) = own.and_then(|store| merge::peer_on(region, store)) else {
            return Err(damaged(self.id, format!("absorbs {id} where it is not")));
        };
        let (state, sizes) = self.frozen_source(engine, batch, source, peer)?;
        let ours = sizes.digest.and_then(Digest::of_wire);
        let theirs = source.digest.and_then(Digest::of_wire);

        let descriptor = merge::united(&self.descriptor, region);
        let version = descriptor.region_epoch.unwrap_or_default().version;
        self.sizes.absorb(Estimate::of(&sizes));
        if state.damaged {
            self.mark_damaged();
        }
        if !self.has_bug(Bug::RecordsNotInherited) {
            // Those of the source's own merges learn who its members were at last.
            let mut records = state.records;
            let own_records = records.iter_mut().filter_map(|record| {
                let absorber = record.absorber.as_mut();
                absorber.filter(|absorber| absorber.id == region.id)
            });
            own_records.for_each(|absorber| *absorber = region.clone());
            self.merge.inherit(records);
        }
        self.merge.inherit([MergeRecord {
            source: Some(region.clone()),
            freeze_index: source.freeze_index,
            absorber: Some(self.descriptor.clone()),
            version,
        }]);
        let tombstone = RegionState {
            state: region_state::State::Tombstone as i32,
            region: Some(region.clone()),
            peer_id: peer.0,
            reason: "merged into its neighbour".to_owned(),
            absorber_id: self.id.0,
            ..Default::default()
        };
        batch.put(
            bytes::Bytes::copy_from_slice(&keys::region_state(id)),
            codec::encode_record(&tombstone),
        );
        batch.delete(bytes::Bytes::copy_from_slice(&keys::applied_state(id)));
        applied.absorbed = Some(Absorbed {
            region: id,
            peer,
            tombstone,
            differs: ours
                .zip(theirs)
                .and_then(|(ours, theirs)| ours.differing(theirs)),
        });
        self.change(descriptor, applied);
        self.restart_digest();
        Ok(())
    }

    /// The local source, which must be as it froze.
    fn frozen_source<E: Engine>(
        &self,
        engine: &E,
        batch: &mut PendingBatch,
        source: &MergeSource,
        peer: PeerId,
    ) -> Result<(RegionState, AppliedState), Error> {
        let id = RegionId(source.region.as_ref().map_or(0, |region| region.id));
        let missing = || {
            damaged(
                self.id,
                format!("absorbs region {id}, which is not here as it froze"),
            )
        };
        let state: Option<RegionState> = batch
            .get(engine, &keys::region_state(id))?
            .as_ref()
            .and_then(codec::decode_record);
        let sizes: Option<AppliedState> = batch
            .get(engine, &keys::applied_state(id))?
            .as_ref()
            .and_then(codec::decode_record);
        let (Some(state), Some(sizes)) = (state, sizes) else {
            return if self.has_bug(Bug::AbsorbWithoutWaiting) {
                Ok(Default::default())
            } else {
                Err(missing())
            };
        };
        let freeze = state.freeze.as_ref();
        let as_frozen = state.state() == region_state::State::Normal
            && state.peer_id == peer.0
            && state.region == source.region
            && freeze.is_some_and(|freeze| {
                (freeze.term, freeze.index) == (source.freeze_term, source.freeze_index)
            });
        if as_frozen || self.has_bug(Bug::AbsorbWithoutWaiting) {
            Ok((state, sizes))
        } else {
            Err(missing())
        }
    }

    fn raise_version(&mut self, applied: &mut Applied) {
        let mut descriptor = self.descriptor.clone();
        let mut epoch = self.epoch();
        epoch.version += 1;
        descriptor.region_epoch = Some(epoch);
        self.change(descriptor, applied);
    }
}
