//! Snapshots: how a peer without the entries it needs gets the whole region (REGIONS §7).
//!
//! The leader *offers*; the receiver *grants* a slot, asks to *wait*, or *refuses*. Only a grant starts the build, so that a
//! busy store is not flooded with files. The driver streams the files; when all are staged and synced the receiver hears
//! [`crate::event::Event::SnapshotReceived`]. It checks everything again, syncs what it applied before, and then hands the
//! position to Raft, whose log write replaces the log and carries the install mark: the point of no return. When that is
//! synced, a task clears the ranges, takes the files in, writes the region state and flushes. Then the mark is dropped.
//!
//! A grant comes with a rate, and those that wait get slots in the order of their reasons (`dial`).
//!
//! While a snapshot is on its way the leader keeps its log from the snapshot's position on. Every end, good or bad, is told
//! to Raft, which probes the member again.
//!
//! However long it takes, a snapshot lives as long as it makes progress. Drivers and tasks report each piece they built,
//! streamed, received or put in place ([`crate::event::Event::Progress`]); what makes none for
//! [`crate::Options::snapshot_ticks`] ends, on either side by itself. Each side hears of the other's progress where it
//! sees none of its own: while the leader builds it repeats its offer, and while the receiver puts the snapshot in place it
//! repeats its grant. Both look like what a lossy network does anyway and are read the same way.

mod dial;
mod file;
mod receive;
mod send;

pub use dial::{Dial, Reason};
pub(crate) use dial::{SlotQueue, Taken};
pub use file::{FileRefusal, check_file};

use proto::pontoon::v1 as wire;
use proto::{RegionId, StoreId, metapb};
use raft::{Index, LogPosition, PeerId};

use crate::event::Task;

/// A slot that was granted for a snapshot to arrive.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slot {
    pub slot: u64,
    pub to: PeerId,
    pub from: PeerId,
    pub from_store: StoreId,
    pub reason: Reason,
    /// Estimate.
    pub bytes: u64,
    pub until_tick: u64,
    /// When the sender was last told of it.
    pub told_tick: u64,
}

/// A snapshot for a member, seen from the leader.
#[derive(Debug)]
pub(crate) struct Sending {
    pub to: PeerId,
    pub state: SendState,
    /// When to offer again, or to give up.
    pub due_tick: u64,
    /// When it was last offered.
    pub told_tick: u64,
    /// Bytes per second that it may take.
    pub rate: u64,
}

/// How far a snapshot is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SendState {
    /// Offered; no grant yet.
    Offered,
    /// Being built at or above this applied index.
    Building {
        slot: u64,
        build: u64,
        from_index: Index,
    },
    /// On its way, or being installed.
    Sent { slot: u64, build: u64, index: Index },
}

/// A checked head.
struct Checked {
    region: RegionId,
    descriptor: metapb::Region,
    to: PeerId,
    position: LogPosition,
}

/// The region of a head, 0 if it names none.
pub(crate) fn region_of(head: &wire::SnapshotHead) -> RegionId {
    RegionId(head.region.as_ref().map_or(0, |region| region.id))
}

fn remove_files(head: &wire::SnapshotHead) -> Task {
    Task::RemoveFiles(file_names(head))
}

pub(crate) fn file_names(head: &wire::SnapshotHead) -> Vec<String> {
    head.files.iter().map(|file| file.name.clone()).collect()
}

/// Whether a descriptor from outside can be one.
fn is_well_formed(region: &metapb::Region) -> bool {
    let ordered = region.end_key.is_empty() || region.start_key < region.end_key;
    let ids = region
        .peers
        .iter()
        .all(|peer| peer.id != 0 && peer.store_id != 0);
    ordered && ids && region.region_epoch.is_some() && !region.peers.is_empty()
}

/// Reads a head from outside.
fn check(head: &wire::SnapshotHead) -> Option<Checked> {
    let descriptor = head.region.clone().filter(is_well_formed)?;
    let region = RegionId::from_wire(descriptor.id)?;
    let position = LogPosition {
        term: head.term,
        index: head.index,
    };
    let valid = head.to_peer != 0
        && head.from_peer != 0
        && head.term > 0
        && head.index > 0
        && head.leader_term > 0;
    valid.then_some(Checked {
        region,
        descriptor,
        to: PeerId(head.to_peer),
        position,
    })
}
