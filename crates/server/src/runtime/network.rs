//! The way to other stores, as the node sees it.

use std::collections::BTreeSet;

use bytes::Bytes;
use proto::StoreId;
use proto::pontoon::v1::{Frame, SnapshotHead};

use super::transfers::Ticket;

/// Carries frames and snapshots to other stores.
pub trait Network: Send + Sync + 'static {
    /// Hands a frame over without waiting. A frame that is lost, because what waits for that store is at its limit or it
    /// cannot be reached, is told to the node by [`crate::runtime::Handle::unreachable`].
    fn send(&self, to: StoreId, frame: Frame);

    /// Regions here have members on all of these stores and on no others, from now on.
    fn share(&self, stores: BTreeSet<StoreId>);

    /// Streams the files of a snapshot, which `read` reads by name, offset and size, and waits until the receiver holds
    /// them. `false` when it does not, and at once when the ticket is over. Chunks that leave are told to the ticket.
    fn send_snapshot(
        &self,
        to: StoreId,
        head: &SnapshotHead,
        read: ReadFile,
        ticket: Ticket,
    ) -> bool;
}

/// Reads part of a staged file by name, offset and largest size; shorter at its end.
pub type ReadFile = Box<dyn Fn(&str, u64, usize) -> Result<Bytes, engine::Error> + Send + Sync>;
