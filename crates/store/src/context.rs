//! What the peers of a store share: settings, the turn's outgoing effects, the index of ranges, limits.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use engine::{Batch, Change, Engine, Family};
use proto::pontoon::v1 as wire;
use proto::{RegionId, StoreId};
use raft::{Body, Index, Message, PeerId, Raft, WriteId};

use crate::digest::Checkpoint;
use crate::event::{Effects, LogBatch, Refusal, RequestId, Transfer};
use crate::options::Options;
use crate::peer::Peer;
use crate::pledge::{Neighbours, Support};
use crate::ranges::Ranges;
use crate::snapshot::{Slot, SlotQueue};
use crate::verify::Verifier;
use crate::{Error, codec, keys};

/// Size of the allocations that hold the records of log batches.
const ARENA_BYTES: usize = 64 << 10;

/// What happens when a log batch is synced, besides telling Raft.
#[derive(Debug)]
pub(crate) enum Followup {
    /// What was applied up to `index` now survives a power loss: the log below may go.
    Compact {
        region: RegionId,
        peer: PeerId,
        index: Index,
    },
    /// What was applied before a snapshot overwrites it now survives: past this the snapshot may cut the log.
    Install { region: RegionId, peer: PeerId },
    /// The install mark is durable: put the snapshot in place.
    PutInPlace { region: RegionId, peer: PeerId },
    /// Every log batch of the dead peer is written, so nothing of it can appear after its remains are deleted.
    Destroy { region: RegionId, peer: PeerId },
    /// No restart needs these staged files any more.
    RemoveFiles(Vec<String>),
}

/// A write of one peer inside a batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PeerWrite {
    pub region: RegionId,
    pub generation: u64,
    pub id: WriteId,
}

/// The log batch that is being gathered.
#[derive(Debug, Default)]
pub(crate) struct LogTurn {
    changes: Vec<Change>,
    sync: bool,
    then: BTreeMap<StoreId, wire::Frame>,
    writes: Vec<PeerWrite>,
    arena: BytesMut,
}

impl LogTurn {
    fn is_empty(&self) -> bool {
        self.changes.is_empty() && !self.sync && self.then.is_empty() && self.writes.is_empty()
    }

    /// Sets a key to a record.
    pub fn put(&mut self, key: &[u8], record: &impl codec::Record) {
        // Records share allocations; a large one gets its own.
        if self.arena.capacity() < key.len() + 1 + record.encoded_len() {
            self.arena.reserve(ARENA_BYTES);
        }
        self.arena.extend_from_slice(key);
        let key = self.arena.split().freeze();
        codec::append_record(&mut self.arena, record);
        let value = self.arena.split().freeze();
        self.changes.push(Change::Put(key, value));
    }

    /// Removes the entries of a region in `[from, to)`; to the end of its log without `to`.
    pub fn delete_entries(&mut self, region: RegionId, from: Index, to: Option<Index>) {
        let start = Bytes::copy_from_slice(&keys::entry(region, from));
        let end = match to {
            Some(to) => Bytes::copy_from_slice(&keys::entry(region, to)),
            None => Bytes::copy_from_slice(&keys::raft_state(region)),
        };
        self.changes.push(Change::DeleteRange(start, end));
    }

    /// Asks for a sync, and for [`crate::event::Event::LogWritten`] to tell of it.
    pub fn require_sync(&mut self) {
        self.sync = true;
    }

    /// Adds a peer's write, which something waits for.
    pub fn add_write(&mut self, write: PeerWrite) {
        self.sync = true;
        self.writes.push(write);
    }
}

/// What the peers of a store share.
pub(crate) struct Context<E> {
    pub engine: E,
    pub options: Options,
    pub raft_options: Arc<raft::Options>,
    pub store: StoreId,
    /// Ticks since this incarnation began.
    pub tick: u64,
    /// When each other store was last heard; the others never were.
    pub heard: BTreeMap<StoreId, u64>,
    pub out: Effects,
    pub log: LogTurn,
    /// Where this turn's report of a region is.
    pub reports: BTreeMap<RegionId, usize>,
    /// Peers with something to take, each once.
    pub dirty: VecDeque<RegionId>,
    /// Who owns or reserves which range of keys.
    pub ranges: Ranges,
    /// Ids for splits.
    pub ids: VecDeque<u64>,
    pub ids_asked_tick: Option<u64>,
    /// Bytes of proposals that are not applied.
    pub pending_bytes: usize,
    /// Bytes of requests that wait for a leader.
    pub parked_bytes: usize,
    /// Snapshots that may arrive.
    pub slots: BTreeMap<RegionId, Slot>,
    pub next_slot: u64,
    /// Offers that wait for a slot.
    pub slot_queue: SlotQueue,
    /// Snapshots that are being built or streamed.
    pub sends: BTreeSet<Transfer>,
    pub next_build: u64,
    pub draining: bool,
    /// Regions that hold a commit back until its source is ready.
    pub holding: BTreeSet<RegionId>,
    /// When placement was last asked whether a silent store was removed.
    pub inquired: BTreeMap<StoreId, u64>,
    /// Stores of which it said so. They never come back.
    pub removed: BTreeSet<StoreId>,
    /// The peer whose region is being counted.
    pub counting: Option<(RegionId, PeerId)>,
    /// The region that was counted last.
    pub counted: RegionId,
    /// When the next may be.
    pub count_due_tick: u64,
    pub verifier: Verifier,
    /// What other stores are to this one, and whom that concerns.
    pub support: Support,
    /// Which stores peers of regions here are on.
    pub neighbours: Neighbours,
    next_generation: u64,
    next_sequence: u64,
    synced_sequence: u64,
    in_flight: VecDeque<(u64, Vec<PeerWrite>)>,
    followups: VecDeque<(u64, Followup)>,
}

impl<E: Engine> Context<E> {
    pub fn new(engine: E, options: Options, identity: &wire::StoreIdentity) -> Context<E> {
        Context {
            raft_options: Arc::new(options.raft.clone()),
            engine,
            options,
            store: StoreId(identity.store_id),
            tick: 0,
            heard: BTreeMap::new(),
            out: Effects::default(),
            log: LogTurn::default(),
            reports: BTreeMap::new(),
            dirty: VecDeque::new(),
            ranges: Ranges::default(),
            ids: VecDeque::new(),
            ids_asked_tick: None,
            pending_bytes: 0,
            parked_bytes: 0,
            slots: BTreeMap::new(),
            // Files are named after slots and builds; those of an earlier start, about to be removed here or perhaps still
            // at a receiver, must not share a name with new ones.
            next_slot: identity.boot << 32,
            slot_queue: SlotQueue::default(),
            sends: BTreeSet::new(),
            next_build: identity.boot << 32,
            draining: false,
            holding: BTreeSet::new(),
            inquired: BTreeMap::new(),
            removed: BTreeSet::new(),
            counting: None,
            counted: RegionId(0),
            count_due_tick: 0,
            verifier: Verifier::default(),
            support: Support::default(),
            neighbours: Neighbours::default(),
            next_generation: 1,
            next_sequence: 1,
            synced_sequence: 0,
            in_flight: VecDeque::new(),
            followups: VecDeque::new(),
        }
    }

    /// A number for one Raft instance, so that completions of an earlier one of the same region are told apart.
    pub fn generation(&mut self) -> u64 {
        let generation = self.next_generation;
        self.next_generation += 1;
        generation
    }

    /// Puts the peer among those whose effects are taken this turn.
    pub fn touch(&mut self, peer: &mut Peer) {
        if !peer.dirty {
            peer.dirty = true;
            self.dirty.push_back(peer.region_id());
        }
    }

    /// Remembers the first reason to stop (R13, R14).
    pub fn fail(&mut self, error: impl Into<Error>) {
        self.out.failure.get_or_insert(error.into());
    }

    pub fn refuse(&mut self, request: RequestId, refusal: Refusal) {
        self.out.refusals.push((request, refusal));
    }

    /// The sequence of the batch being gathered.
    pub fn current_sequence(&self) -> u64 {
        self.next_sequence
    }

    /// Whether the batch is synced.
    pub fn is_synced(&self, sequence: u64) -> bool {
        sequence <= self.synced_sequence
    }

    /// Does something once the batch being gathered is synced, whenever that is.
    pub fn when_synced(&mut self, followup: Followup) {
        self.followups.push_back((self.next_sequence, followup));
    }

    /// Does something once the batch being gathered is synced, which is asked for.
    pub fn after_sync(&mut self, followup: Followup) {
        self.log.require_sync();
        self.when_synced(followup);
    }

    /// The frame for a store that leaves now, or after the sync of this turn's batch.
    pub fn frame(&mut self, to: StoreId, after_sync: bool) -> &mut wire::Frame {
        if after_sync {
            self.log.sync = true;
            self.log.then.entry(to).or_default()
        } else {
            self.out.frames.entry(to).or_default()
        }
    }

    /// Sends a Raft message of `peer`. What its present instance says before all writes of an earlier one are durable waits
    /// for this turn's sync, and so does everything with `after_sync`. With an answer to the leader goes what it is to compare.
    pub fn send(&mut self, peer: &mut Peer, message: Message, after_sync: bool) {
        let Some(to_store) = peer.store_of(message.to) else {
            return;
        };
        if to_store == self.store {
            return;
        }
        let after_sync = after_sync || !self.is_synced(peer.hold_sequence);
        let answers = matches!(
            message.body,
            Body::AppendResponse { .. } | Body::HeartbeatResponse { .. }
        );
        let leads = peer.raft.as_ref().and_then(Raft::leader) == Some(message.to);
        if answers
            && leads
            && let Some(Checkpoint { index, digest }) = peer.tell_checkpoint()
        {
            let told = wire::PeerDigest {
                region_id: peer.region.id,
                from_peer: peer.id.0,
                to_peer: message.to.0,
                index,
                digest: Some(digest.to_wire()),
            };
            self.frame(to_store, after_sync).digests.push(told);
        }
        let route = codec::Route {
            region: peer.region_id(),
            from_store: self.store,
            to_store,
            epoch: peer.epoch(),
        };
        match codec::message_to_wire(message, route) {
            codec::Outgoing::Message(message) => {
                self.frame(to_store, after_sync).messages.push(*message)
            }
            codec::Outgoing::Heartbeat(beat) => {
                beat.push_to(
                    self.frame(to_store, after_sync)
                        .heartbeats
                        .get_or_insert_default(),
                );
            }
            codec::Outgoing::HeartbeatResponse(beat) => {
                beat.push_to(
                    self.frame(to_store, after_sync)
                        .heartbeat_responses
                        .get_or_insert_default(),
                );
            }
        }
    }

    /// Whether something is to be taken.
    pub fn has_output(&self) -> bool {
        let out = &self.out;
        !(self.log.is_empty()
            && out.views.is_empty()
            && out.transfers.is_empty()
            && out.frames.is_empty()
            && !self.neighbours.has_changed()
            && out.apply.is_empty()
            && out.tasks.is_empty()
            && out.refusals.is_empty()
            && out.reads.is_empty()
            && out.reports.is_empty()
            && out.orders.is_empty()
            && out.splits.is_empty()
            && out.own_splits.is_empty()
            && out.divergences.is_empty()
            && out.second_leaders.is_empty()
            && out.verified.is_empty()
            && out.locate.is_empty()
            && out.describe.is_empty()
            && out.inquire.is_empty()
            && out.failure.is_none())
    }

    /// Closes the batch being gathered.
    pub fn take_log_batch(&mut self) -> Option<LogBatch> {
        if self.log.is_empty() {
            return None;
        }
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        let turn = &mut self.log;
        let arena = std::mem::take(&mut turn.arena);
        let LogTurn {
            changes,
            sync,
            then,
            writes,
            arena: _,
        } = std::mem::take(turn);
        turn.arena = arena;
        self.in_flight.push_back((sequence, writes));
        Some(LogBatch {
            sequence,
            batch: Batch {
                family: Family::Log,
                changes,
            },
            sync,
            then,
        })
    }

    /// What waited for the batches up to `sequence`.
    pub fn on_synced(&mut self, sequence: u64) -> (Vec<PeerWrite>, Vec<Followup>) {
        assert!(
            sequence < self.next_sequence,
            "batch {sequence} is synced, the newest is {}",
            self.next_sequence - 1
        );
        self.synced_sequence = self.synced_sequence.max(sequence);
        let mut writes = Vec::new();
        while let Some((_, batch)) = self.in_flight.pop_front_if(|(batch, _)| *batch <= sequence) {
            if writes.is_empty() {
                writes = batch
            } else {
                writes.extend(batch)
            }
        }
        let mut followups = Vec::new();
        while let Some((_, followup)) = self.followups.pop_front_if(|(batch, _)| *batch <= sequence)
        {
            followups.push(followup);
        }
        (writes, followups)
    }
}
