//! What the owner of a transport is told. Pending events are kept per store, at most one of each kind, so that neither a
//! slow owner nor a failing link makes them grow.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
};

use proto::{StoreId, pontoon::v1::Refusal};
use tokio::sync::Notify;

/// Something the owner should know about a link.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Frames for this store were lost: no connection, a broken one, or a full queue. Raft should probe before it sends
    /// more.
    Unreachable(StoreId),
    /// The store at that address does not accept us (R30). The link tries again at its slowest pace, because an address
    /// may belong to somebody else for a while; [`Boot`](proto::pontoon::v1::refusal::Reason::Boot) means that our
    /// directory is in use twice, and this process should stop.
    Refused(StoreId, Refusal),
    /// Connections for beats to this store were refused, twice: no process listens there (LIVENESS S7).
    Gone(StoreId),
}

/// Receives [`Event`]s. Clones share one backlog.
#[derive(Clone, Default)]
pub struct Events {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    pending: Mutex<Pending>,
    added: Notify,
}

#[derive(Default)]
struct Pending {
    unreachable: BTreeSet<StoreId>,
    gone: BTreeSet<StoreId>,
    refused: BTreeMap<StoreId, Refusal>,
}

impl Events {
    /// Waits for the next event.
    pub async fn next(&self) -> Event {
        loop {
            let added = self.shared.added.notified();
            if let Some(event) = self.take() {
                return event;
            }
            added.await;
        }
    }

    /// The next event, if one is pending. Refusals come first.
    pub fn take(&self) -> Option<Event> {
        let mut pending = self
            .shared
            .pending
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some((store, refusal)) = pending.refused.pop_first() {
            return Some(Event::Refused(store, refusal));
        }
        let gone = pending.gone.pop_first().map(Event::Gone);
        gone.or_else(|| pending.unreachable.pop_first().map(Event::Unreachable))
    }

    pub(crate) fn add(&self, event: Event) {
        {
            let mut pending = self
                .shared
                .pending
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            match event {
                Event::Unreachable(store) => {
                    pending.unreachable.insert(store);
                }
                Event::Gone(store) => {
                    pending.gone.insert(store);
                }
                Event::Refused(store, refusal) => {
                    pending.refused.insert(store, refusal);
                }
            }
        }
        self.shared.added.notify_one();
    }
}
