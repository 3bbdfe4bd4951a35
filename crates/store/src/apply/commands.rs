//! Applying the operations of clients.

use bytes::Bytes;
use engine::{Engine, Error, Family};
use proto::pontoon::v1 as wire;
use proto::pontoon::v1::operation::Kind;
use proto::{RegionId, metapb};

use super::pending::PendingBatch;
use super::region::ApplyRegion;
use crate::digest::Effect;
use crate::event::{Applied, Keys, Misrouted, OperationResult, Refusal, Target, Waiting};
use crate::planted::Bug;
use crate::{keys, value};

/// Bytes of a value that the planted bug of that name writes.
const OWN_LIMIT: usize = 1;

impl ApplyRegion {
    /// Applies the requests of an entry. Each has its effect whole or not at all: its keys must lie in the range that the
    /// region has at this index (R18). Whoever asked for one that does not fit is answered by the store, which knows the
    /// neighbours.
    pub fn commands<E: Engine>(
        &mut self,
        engine: &E,
        batch: &mut PendingBatch,
        command: wire::Command,
        waits: Option<Waiting>,
        applied: &mut Applied,
    ) -> Result<(), Error> {
        let epoch = command.epoch.unwrap_or_default();
        if command.verify.is_some() {
            self.ask(epoch);
        }
        let mut waiting = waits.into_iter().flat_map(|waiting| waiting.requests);
        let mut operations = command.operations.into_iter();
        let counts = command.request_operations;
        for count in counts {
            let request: Vec<wire::Operation> = operations.by_ref().take(count as usize).collect();
            let frozen = self.merge.freeze.is_some() && !self.has_bug(Bug::FrozenApplies);
            let is_whole = request.len() == count as usize;
            let id = waiting.next().map(|(id, _)| id);
            if !is_whole || frozen || !self.fits(epoch, &request) {
                applied.misrouted.extend(id.map(|id| Misrouted {
                    id,
                    target: target(self.id, epoch, &request),
                    frozen,
                }));
                continue;
            }
            let mut results = Vec::with_capacity(request.len());
            for operation in request {
                results.push(self.operate(engine, batch, operation, applied)?);
            }
            // What cannot be told here, the others know.
            let told = results.into_iter().collect::<Option<_>>();
            let answer = told.ok_or(Refusal::Unknown);
            applied.answers.extend(id.map(|id| (id, answer)));
        }
        applied
            .answers
            .extend(waiting.map(|(request, _)| (request, Err(Refusal::StaleCommand))));
        Ok(())
    }

    /// Whether a request may have its effect. A range command needs the version it was proposed at, a point command its keys.
    fn fits(&self, epoch: metapb::RegionEpoch, request: &[wire::Operation]) -> bool {
        let (start, end) = (&self.descriptor.start_key[..], &self.descriptor.end_key[..]);
        request.iter().all(|operation| match &operation.kind {
            Some(Kind::Put(put)) => keys::contains(start, end, &put.key),
            Some(Kind::Delete(delete)) => keys::contains(start, end, &delete.key),
            Some(Kind::CompareAndSwap(swap)) => keys::contains(start, end, &swap.key),
            Some(Kind::DeleteRange(range)) => {
                epoch.version == self.epoch().version
                    && keys::covers(start, end, &range.start_key, &range.end_key)
            }
            None => false,
        })
    }

    /// `None` when the result cannot be told, because what decides it could not be read.
    fn operate<E: Engine>(
        &mut self,
        engine: &E,
        batch: &mut PendingBatch,
        operation: wire::Operation,
        applied: &mut Applied,
    ) -> Result<Option<OperationResult>, Error> {
        match operation
            .kind
            .expect("a request without a kind of operation was refused")
        {
            Kind::Put(put) => {
                self.put(engine, batch, &put.key, &put.value, put.expires_at, applied)?;
                Ok(Some(OperationResult::Done))
            }
            Kind::Delete(delete) => {
                applied.written_bytes += delete.key.len() as u64;
                applied.written_keys += 1;
                self.note(Effect::Delete, &delete.key, b"");
                self.sizes.delete(&delete.key);
                batch.delete(keys::data(&delete.key));
                Ok(Some(OperationResult::Done))
            }
            Kind::DeleteRange(range) => {
                let (start, end) = (keys::data(&range.start_key), keys::data_end(&range.end_key));
                if start < end {
                    let counted = self
                        .sizes
                        .remove_range(engine, &range.start_key, &range.end_key);
                    self.readable(counted, applied)?;
                    self.note(Effect::DeleteRange, &start, &end);
                    batch.delete_range(start, end);
                }
                Ok(Some(OperationResult::Done))
            }
            Kind::CompareAndSwap(swap) => self.swap(engine, batch, swap, applied),
        }
    }

    fn put<E: Engine>(
        &mut self,
        engine: &E,
        batch: &mut PendingBatch,
        user_key: &Bytes,
        user_value: &Bytes,
        expires_at: u64,
        applied: &mut Applied,
    ) -> Result<(), Error> {
        let limited = self.has_bug(Bug::OwnLimit) && self.peer.0.is_multiple_of(2);
        if limited && user_value.len() > OWN_LIMIT {
            return Ok(());
        }
        let key = keys::data(user_key);
        let stored = value::encode(user_value, expires_at);
        let bytes = (key.len() + stored.len()) as u64;
        self.prepare_sizes(engine, applied)?;
        let replaced = if self.sizes.samples() {
            let old = self.readable(engine.get(Family::State, &key), applied)?;
            old.map(|old| old.map(|old| (key.len() + old.len()) as u64))
        } else {
            None
        };
        self.sizes.put(user_key, bytes, replaced, &self.limits);
        applied.written_bytes += bytes;
        applied.written_keys += 1;
        self.note(Effect::Put, user_key, &stored);
        let stored = if self.has_bug(Bug::StoresOther) && self.peer.0.is_multiple_of(2) {
            value::encode(user_value, u64::MAX)
        } else {
            stored
        };
        batch.put(key, stored);
        Ok(())
    }

    /// Expiry is judged by the proposer's clock, which is in the command, so that every peer judges alike (R12). One that
    /// cannot read what is there cannot judge: the value is lost here, which every read finds until it is written again.
    fn swap<E: Engine>(
        &mut self,
        engine: &E,
        batch: &mut PendingBatch,
        swap: wire::CompareAndSwap,
        applied: &mut Applied,
    ) -> Result<Option<OperationResult>, Error> {
        let key = keys::data(&swap.key);
        let found = batch.get(engine, &key);
        let stored = found.and_then(|bytes| bytes.map(value::decode).transpose());
        let Some(stored) = self.readable(stored, applied)? else {
            batch.put(key, value::lost());
            return Ok(None);
        };
        let live = stored.filter(|stored| stored.is_live(swap.now));
        let previous = live.map(|stored| stored.value);
        let succeeded = previous == swap.previous;
        if succeeded {
            self.put(
                engine,
                batch,
                &swap.key,
                &swap.value,
                swap.expires_at,
                applied,
            )?;
        } else {
            let found = previous.as_deref().unwrap_or_default();
            self.note(Effect::NotSwapped, &swap.key, found);
        }
        Ok(Some(OperationResult::Swapped {
            succeeded,
            previous,
        }))
    }
}

/// What a request asked for, out of its operations. None of them holds both points and a range.
fn target(region: RegionId, epoch: metapb::RegionEpoch, request: &[wire::Operation]) -> Target {
    let mut points = Vec::new();
    let mut ranges = None;
    for operation in request {
        match &operation.kind {
            Some(Kind::Put(put)) => points.push(put.key.clone()),
            Some(Kind::Delete(delete)) => points.push(delete.key.clone()),
            Some(Kind::CompareAndSwap(swap)) => points.push(swap.key.clone()),
            Some(Kind::DeleteRange(range)) => {
                ranges = Some(Keys::Range(range.start_key.clone(), range.end_key.clone()));
            }
            None => {}
        }
    }
    Target {
        region,
        peer: None,
        epoch: Some(epoch),
        keys: ranges.unwrap_or(Keys::Points(points)),
    }
}
