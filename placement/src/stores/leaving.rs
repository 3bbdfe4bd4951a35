//! Stores that leave: drained, which can be taken back, or gone for good.
//!
//! Both are `Offline` to clients, as in the public interface. A drain is in the record beside it: who is drained may come
//! back, and when it is empty it stays until an administrator removes it. A store that is gone becomes a tombstone by itself
//! once nothing is left on it.

use proto::pontoon::v1 as wire;
use proto::{StoreId, metapb};

use super::{Entry, Stores};
use crate::event::Refusal;

impl Stores {
    /// Whether its peers are to be moved away: it is drained, removed, or its directory was replaced.
    pub fn leaving(&self, id: StoreId) -> bool {
        self.entries
            .get(&id)
            .is_some_and(|entry| entry.store().state() == metapb::StoreState::Offline)
    }

    /// The drain of a store, if one is under way or done.
    pub fn drain(&self, id: StoreId) -> Option<wire::PlacementDrain> {
        self.entries.get(&id)?.record.drain
    }

    /// Whether it was removed.
    pub fn is_tombstone(&self, id: StoreId) -> bool {
        self.entries
            .get(&id)
            .is_some_and(|entry| entry.store().state() == metapb::StoreState::Tombstone)
    }

    /// Whether it leaves for good.
    pub fn gone(&self, id: StoreId) -> bool {
        self.leaving(id) && self.drain(id).is_none()
    }

    /// Begins to drain a store. Returns its record, or `None` when it is drained already.
    pub fn begin_drain(
        &mut self,
        id: StoreId,
        drain: wire::PlacementDrain,
    ) -> Result<Option<wire::PlacementStore>, Refusal> {
        let entry = self.present(id)?;
        if entry.record.drain.is_some() {
            return Ok(None);
        }
        if entry.store().state() == metapb::StoreState::Offline {
            return Err(Refusal::Invalid(format!("store {id} leaves for good")));
        }
        Ok(Some(entry.take_out(Some(drain))))
    }

    /// Takes a drain back. Returns the record, or `None` when nothing was drained.
    pub fn end_drain(&mut self, id: StoreId) -> Result<Option<wire::PlacementStore>, Refusal> {
        let entry = self.present(id)?;
        if entry.record.drain.take().is_some() {
            entry.set_state(metapb::StoreState::Up, metapb::NodeState::Serving);
            return Ok(Some(entry.record.clone()));
        }
        if entry.store().state() == metapb::StoreState::Offline {
            return Err(Refusal::Invalid(format!(
                "store {id} leaves for good and cannot come back"
            )));
        }
        Ok(None)
    }

    /// Has a store leave for good. Returns its record, or `None` when it does already.
    pub fn give_up(&mut self, id: StoreId) -> Result<Option<wire::PlacementStore>, Refusal> {
        let gone = self.gone(id);
        let entry = self.present(id)?;
        Ok((!gone).then(|| entry.take_out(None)))
    }

    /// A store that was taken out holds nothing any more: it is gone for good. Returns its record.
    pub fn bury(&mut self, id: StoreId) -> Option<wire::PlacementStore> {
        let entry = self.entries.get_mut(&id)?;
        entry.record.drain = None;
        entry.set_state(metapb::StoreState::Tombstone, metapb::NodeState::Removed);
        Some(entry.record.clone())
    }

    /// A store that is not a tombstone.
    pub(super) fn present(&mut self, id: StoreId) -> Result<&mut Entry, Refusal> {
        let entry = self
            .entries
            .get_mut(&id)
            .ok_or(Refusal::StoreNotFound(id))?;
        if entry.store().state() == metapb::StoreState::Tombstone {
            return Err(Refusal::StoreTombstone(id));
        }
        Ok(entry)
    }
}

impl Entry {
    pub(super) fn take_out(&mut self, drain: Option<wire::PlacementDrain>) -> wire::PlacementStore {
        self.record.drain = drain;
        self.set_state(metapb::StoreState::Offline, metapb::NodeState::Removing);
        self.record.clone()
    }

    fn set_state(&mut self, state: metapb::StoreState, node: metapb::NodeState) {
        let store = self.record.store.as_mut();
        let store = store.expect("checked when it was loaded or put");
        store.set_state(state);
        store.set_node_state(node);
    }
}
