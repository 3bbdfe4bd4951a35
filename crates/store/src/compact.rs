//! Forgetting the beginning of logs (STORAGE §4).
//!
//! An entry may go when what it did survives a power loss. On the plain path the apply batch went through the engine's log
//! before its completion was reported, so the sync of any log batch gathered later covers it: the engine syncs its log as a
//! whole. Therefore a compaction is decided first and carried out when the batch of that turn is synced. (That both families
//! share one log is not enough: the family of logs may be flushed, compaction included, while the record of the apply batch
//! is still unsynced.) No sync is forced for this; where nothing is written no log grows.

use engine::{Engine, Family, Logging};
use proto::RegionId;
use proto::pontoon::v1::AppliedState;
use raft::{Event as RaftEvent, Index, PeerId};

use crate::context::{Context, Followup};
use crate::peer::Peer;
use crate::store::{Store, step_quietly};
use crate::{Options, codec, keys};

/// A compaction cuts at least one entry in this many.
const CUT_SHARE: u64 = 4;
/// A member that catches up from the log holds back at most this many times the bytes at which logs are compacted.
const HELD_BYTES_SHARE: u64 = 4;

impl<E: Engine> Store<E> {
    /// Cuts a log below `index`, which is applied for good. One range delete.
    pub(crate) fn compact(&mut self, region: RegionId, id: PeerId, index: Index) {
        let Some(peer) = self.peers.get_mut(&region).filter(|peer| peer.id == id) else {
            return;
        };
        peer.compacting = false;
        if peer.is_frozen() {
            return;
        }
        let index = peer.pin().map_or(index, |pin| index.min(pin));
        let index = match self.cx.options.logging {
            Logging::On => index,
            Logging::Off => match flushed_index(&self.cx.engine, region) {
                Ok(flushed) => index.min(flushed),
                Err(error) => {
                    self.cx.fail(error);
                    return;
                }
            },
        };
        let first = peer.state.compacted_index;
        let Some(raft) = peer
            .raft
            .as_mut()
            .filter(|_| matches!(peer.stage, crate::peer::Stage::Normal))
        else {
            return;
        };
        let Some(term) = raft.term_at(index).filter(|_| index > first) else {
            return;
        };
        assert!(
            index <= peer.applied.index,
            "region {region} compacts to {index}, applied {}",
            peer.applied.index
        );
        let kept = raft.last().index - index;
        peer.log_bytes = (u128::from(peer.log_bytes) * u128::from(kept)
            / u128::from(kept + index - first)) as u64;
        step_quietly(raft, RaftEvent::Compact(index));
        peer.state.compacted_term = term;
        peer.state.compacted_index = index;
        self.cx
            .log
            .delete_entries(region, first + 1, Some(index + 1));
        self.cx.log.put(&keys::raft_state(region), &peer.state);
    }
}

impl Peer {
    /// Decides on a compaction when the log is long.
    pub(crate) fn maybe_compact<E: Engine>(&mut self, cx: &mut Context<E>) {
        let options = &cx.options;
        let entries = self
            .applied
            .index
            .saturating_sub(self.state.compacted_index);
        let is_long = entries >= options.compact_entries
            || (self.log_bytes >= options.compact_bytes && entries > 0);
        // The log of a frozen source is what each store absorbs from.
        if !is_long || self.compacting || !self.is_normal() || self.is_frozen() {
            return;
        }
        let index = self.compact_target(options, entries);
        // Not entry by entry while a member that lags holds the rest: a cut costs a range delete.
        if index < self.state.compacted_index + entries.div_ceil(CUT_SHARE) {
            return;
        }
        self.compacting = true;
        cx.when_synced(Followup::Compact {
            region: self.region_id(),
            peer: self.id,
            index,
        });
    }

    /// As far as nobody who is worth waiting for needs the entries: a tail stays for members that come back soon or that
    /// a snapshot has just brought up, and more of the log for those that are catching up from it.
    fn compact_target(&self, options: &Options, entries: u64) -> Index {
        let applied = self.applied.index;
        let entry_bytes = (self.log_bytes / entries.max(1)).max(1);
        let tail = (options.compact_tail_entries).min(options.compact_bytes / 2 / entry_bytes);
        let mut target = applied.saturating_sub(tail);
        if let Some(raft) = self.raft.as_ref().filter(|_| self.is_leader()) {
            let held_max = (options.compact_entries)
                .min(HELD_BYTES_SHARE * options.compact_bytes / entry_bytes);
            for member in raft.member_statuses().values() {
                let is_live = member.silent_ticks < options.raft.election_ticks;
                if is_live && !member.in_snapshot && member.matched + held_max >= applied {
                    target = target.min(member.matched);
                }
            }
        }
        self.pin().map_or(target, |pin| target.min(pin))
    }
}

/// What of a region's applied index is in files.
fn flushed_index<E: Engine>(engine: &E, region: RegionId) -> Result<Index, engine::Error> {
    let bytes = engine.get_flushed(Family::State, &keys::applied_state(region))?;
    let state: Option<AppliedState> = bytes.as_ref().and_then(codec::decode_record);
    Ok(state.map_or(0, |state| state.index))
}
