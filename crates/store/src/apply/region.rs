//! What an applier holds of one region.

use bytes::Bytes;
use engine::{Engine, Error, Family};
use proto::pontoon::v1::{AppliedState, RegionState, region_state};
use proto::{RegionId, metapb};
use raft::{Entry, LogPosition, Payload, PeerId};

use super::damaged;
use super::pending::PendingBatch;
use crate::event::{Applied, Refusal, Waiting};
use crate::{codec, keys};

/// Every so many puts one is looked up, to learn how many replace something.
const SAMPLE_EVERY: u64 = 16;

/// Estimated size of a region (STORAGE §7). Each peer estimates for itself; nothing but split and balance decisions depend
/// on it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sizes {
    pub bytes: u64,
    pub keys: u64,
    puts: u64,
    /// Of 256 puts, how many add a key.
    growth: u64,
    /// Share of a key, in 1/256, not counted yet.
    part: u64,
}

impl Sizes {
    fn new(bytes: u64, keys: u64) -> Sizes {
        Sizes {
            bytes,
            keys,
            puts: 0,
            growth: 256,
            part: 0,
        }
    }

    /// Counts a put of so many bytes; `replaced` is what a lookup found, where one was made.
    pub fn put(&mut self, bytes: u64, replaced: Option<Option<u64>>) {
        self.puts += 1;
        match replaced {
            Some(Some(old)) => {
                self.bytes = (self.bytes + bytes).saturating_sub(old);
                self.growth -= self.growth / 8;
            }
            Some(None) => {
                self.bytes += bytes;
                self.keys += 1;
                self.growth += (256 - self.growth) / 8;
            }
            None => {
                self.bytes += bytes * self.growth / 256;
                self.part += self.growth;
                self.keys += self.part / 256;
                self.part %= 256;
            }
        }
    }

    /// Whether the next put shall be looked up.
    pub fn samples(&self) -> bool {
        self.puts.is_multiple_of(SAMPLE_EVERY)
    }

    /// Counts a delete of a key that may not have been there.
    pub fn delete(&mut self) {
        self.bytes -= self.bytes.checked_div(self.keys).unwrap_or(0);
        self.keys = self.keys.saturating_sub(1);
    }

    /// Counts the removal of so many bytes.
    pub fn remove(&mut self, bytes: u64) {
        let bytes = bytes.min(self.bytes);
        let keys = (u128::from(self.keys) * u128::from(bytes)).checked_div(u128::from(self.bytes));
        self.keys -= keys.unwrap_or(0) as u64;
        self.bytes -= bytes;
    }

    /// Leaves one of `pieces` equal parts.
    pub fn divide(&mut self, pieces: u64) {
        self.bytes /= pieces;
        self.keys /= pieces;
    }
}

/// One region, as of the entry last applied.
pub(super) struct ApplyRegion {
    pub id: RegionId,
    pub peer: PeerId,
    pub descriptor: metapb::Region,
    pub applied: LogPosition,
    pub sizes: Sizes,
    /// The log removed this peer: nothing more is applied.
    pub removed: bool,
    descriptor_changed: bool,
}

impl ApplyRegion {
    /// Reads a region that has data here; `None` when it has none.
    pub fn load<E: Engine>(engine: &E, id: RegionId) -> Result<Option<ApplyRegion>, Error> {
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
            sizes: Sizes::new(applied.bytes, applied.keys),
            removed: false,
            descriptor_changed: false,
        }))
    }

    /// Adds what changed of the region's own records to the batch.
    pub fn save(&mut self, batch: &mut PendingBatch) {
        let applied = AppliedState {
            index: self.applied.index,
            term: self.applied.term,
            bytes: self.sizes.bytes,
            keys: self.sizes.keys,
        };
        batch.put(
            Bytes::copy_from_slice(&keys::applied_state(self.id)),
            codec::encode_record(&applied),
        );
        if std::mem::take(&mut self.descriptor_changed) {
            save_descriptor(batch, self.peer, &self.descriptor);
        }
    }

    /// Takes over a changed descriptor.
    pub fn change(&mut self, descriptor: metapb::Region, applied: &mut Applied) {
        self.descriptor = descriptor;
        self.descriptor_changed = true;
        self.removed = !self
            .descriptor
            .peers
            .iter()
            .any(|member| member.id == self.peer.0);
        applied.changed = Some(self.descriptor.clone());
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
            Payload::Noop => {}
            Payload::Command(payload) => {
                let command = codec::unseal(payload).map_err(unreadable)?;
                self.commands(engine, batch, command, waits, applied)?;
                return Ok(());
            }
            Payload::Structural(payload) => {
                let command = codec::unseal(payload).map_err(unreadable)?;
                self.structural(engine, batch, command, applied)?;
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

/// Writes the state of a region that lives here.
pub(super) fn save_descriptor(batch: &mut PendingBatch, peer: PeerId, descriptor: &metapb::Region) {
    let state = RegionState {
        state: region_state::State::Normal as i32,
        region: Some(descriptor.clone()),
        peer_id: peer.0,
        reason: String::new(),
    };
    batch.put(
        Bytes::copy_from_slice(&keys::region_state(RegionId(descriptor.id))),
        codec::encode_record(&state),
    );
}
