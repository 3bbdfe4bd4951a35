//! The batch being built, readable before it is written.

use std::collections::BTreeMap;

use bytes::Bytes;
use engine::{Change, Engine, Error, Family};

/// Changes of a run. Compare-and-swap must see what earlier commands of the run did; commands that look at nothing pay
/// nothing for that, because changes are only indexed when somebody looks.
#[derive(Default)]
pub(super) struct PendingBatch {
    changes: Vec<Change>,
    indexed: usize,
    overlay: BTreeMap<Bytes, Option<Bytes>>,
    deleted: Vec<(Bytes, Bytes)>,
}

impl PendingBatch {
    pub fn put(&mut self, key: Bytes, value: Bytes) {
        self.changes.push(Change::Put(key, value));
    }

    pub fn delete(&mut self, key: Bytes) {
        self.changes.push(Change::Delete(key));
    }

    pub fn delete_range(&mut self, start: Bytes, end: Bytes) {
        self.changes.push(Change::DeleteRange(start, end));
    }

    /// The value of a key of the apply tier, as of here.
    pub fn get<E: Engine>(&mut self, engine: &E, key: &[u8]) -> Result<Option<Bytes>, Error> {
        self.index();
        if let Some(value) = self.overlay.get(key) {
            return Ok(value.clone());
        }
        if self
            .deleted
            .iter()
            .any(|(start, end)| key >= &start[..] && key < &end[..])
        {
            return Ok(None);
        }
        engine.get(Family::State, key)
    }

    fn index(&mut self) {
        for change in &self.changes[self.indexed..] {
            match change {
                Change::Put(key, value) => {
                    self.overlay.insert(key.clone(), Some(value.clone()));
                }
                Change::Delete(key) => {
                    self.overlay.insert(key.clone(), None);
                }
                Change::DeleteRange(start, end) => {
                    self.overlay.retain(|key, _| key < start || key >= end);
                    self.deleted.push((start.clone(), end.clone()));
                }
            }
        }
        self.indexed = self.changes.len();
    }

    pub fn take(&mut self) -> Vec<Change> {
        std::mem::take(self).changes
    }
}
