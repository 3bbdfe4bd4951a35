//! Records of committed merges: who must still die of them, and when they may be forgotten (REGIONS §2, proof (e); §5).
//!
//! The leader of a region that holds a record asks the stores of the source. A store that has been away finds out that way
//! what became of the source, and its peer dies if the absorber here does not need it any more. Once every store says that
//! its peer is dead and that this survives a power loss, the record is dropped.
//!
//! A store that was removed for good, with its disk, will never say so. Of one that is silent placement is asked, which has
//! committed that it is gone: nobody there is left to be told. That alone would make the verdict rest on placement, so a
//! second thing must hold: the peers on such stores are too few to elect a leader or to commit anything. Then the source
//! cannot thaw, whatever becomes of them, and no verdict is needed any more.

use std::collections::BTreeSet;

use engine::{Engine, Family};
use proto::metapb::{self, PeerRole};
use proto::pontoon::v1 as wire;
use proto::pontoon::v1::command::Structural;
use proto::pontoon::v1::merge_message::Kind;
use proto::{RegionId, StoreId};
use raft::{Payload, PeerId};

use super::{MergeKey, peer_on};
use crate::context::Context;
use crate::inbound;
use crate::peer::{Peer, Stage};
use crate::planted::Bug;
use crate::store::Store;
use crate::{codec, keys};

/// Why a source dies that nothing on its store absorbs, in its tombstone.
pub const ORPHAN_REASON: &str = "a merge record names it";

/// What a store can say of a peer that a record names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Remains {
    /// Dead, for good.
    None,
    /// Not yet.
    Some,
}

impl<E: Engine> Store<E> {
    /// Asks after the dead of every record held by a region that is led here, and drops a record when all are.
    pub(crate) fn drive_records(&mut self, holder: RegionId) {
        let (tick, own) = (self.cx.tick, self.cx.store);
        let Some(peer) = self
            .peers
            .get_mut(&holder)
            .filter(|peer| peer.is_leader() && !peer.merge.records.is_empty())
        else {
            return;
        };
        peer.merging.records_due = tick + self.cx.options.merge_poll_ticks;
        let mut records = peer.merge.records.clone();
        // Whom it removed since needs no source any more, and perhaps was never born.
        let own_records = records.iter_mut().filter_map(|record| {
            let absorber = record.absorber.as_mut();
            absorber.filter(|absorber| absorber.id == holder.0)
        });
        own_records.for_each(|absorber| *absorber = peer.region.clone());
        peer.merging.deaths.retain(|(merge, _)| {
            records
                .iter()
                .any(|record| MergeKey::of_record(record) == *merge)
        });
        let mut over = None;
        for record in &records {
            let merge = MergeKey::of_record(record);
            let Some(source) = &record.source else {
                continue;
            };
            let mut all_dead = true;
            let mut gone = Vec::new();
            for member in &source.peers {
                let store = StoreId(member.store_id);
                let known = self
                    .peers
                    .get(&holder)
                    .is_some_and(|peer| peer.merging.deaths.contains(&(merge, store)));
                if known {
                    continue;
                }
                if store == own {
                    all_dead &= self.remains(record) == Remains::None;
                    continue;
                }
                if self.cx.removed.contains(&store) {
                    gone.push(PeerId(member.id));
                } else {
                    all_dead = false;
                    self.cx.inquire_silent(store);
                }
                let question = wire::MergeMessage {
                    merge: Some(merge.to_wire()),
                    kind: Some(Kind::DeathQuestion(wire::MergeDeathQuestion {
                        holder_id: holder.0,
                        record: Some(record.clone()),
                    })),
                };
                self.cx.frame(store, false).merges.push(question);
            }
            if all_dead && !has_quorum(source, &gone) {
                over = Some(merge);
            }
        }
        if let Some(merge) = over {
            self.drop_record(holder, merge);
        }
    }

    fn drop_record(&mut self, holder: RegionId, merge: MergeKey) {
        let cx = &mut self.cx;
        let Some(peer) = self.peers.get_mut(&holder) else {
            return;
        };
        let free = peer
            .check_order(peer.epoch())
            .and_then(|()| peer.check_not_frozen());
        if free.is_err() {
            return;
        }
        let command = peer.structural_command(Some(Structural::DropRecord(wire::DropRecord {
            merge: Some(merge.to_wire()),
        })));
        let _refused = peer.propose_structural(Payload::Structural(codec::seal(&command)), cx);
    }

    /// A holder of the record asks whether the source's peer here is dead.
    pub(crate) fn on_death_question(
        &mut self,
        from: StoreId,
        merge: MergeKey,
        question: wire::MergeDeathQuestion,
    ) {
        let Some(record) = &question.record else {
            return;
        };
        let peer_id = record
            .source
            .as_ref()
            .and_then(|source| peer_on(source, self.cx.store));
        let Some(peer_id) = peer_id.filter(|_| MergeKey::of_record(record) == merge) else {
            return;
        };
        if self.remains(record) == Remains::Some {
            return;
        }
        let death = wire::MergeMessage {
            merge: Some(merge.to_wire()),
            kind: Some(Kind::Death(wire::MergeDeath {
                holder_id: question.holder_id,
                peer_id: peer_id.0,
            })),
        };
        self.cx.frame(from, false).merges.push(death);
    }

    pub(crate) fn on_death(&mut self, from: StoreId, merge: MergeKey, death: wire::MergeDeath) {
        let Some(peer) = self.peers.get_mut(&RegionId(death.holder_id)) else {
            return;
        };
        let named = peer
            .merge
            .record(merge)
            .and_then(|record| record.source.as_ref())
            .and_then(|source| peer_on(source, from));
        if named == Some(PeerId(death.peer_id)) {
            peer.merging.deaths.insert((merge, from));
        }
    }

    /// Placement has committed that a store is gone. Only what was asked for is remembered.
    pub(crate) fn on_store_removed(&mut self, store: StoreId) {
        if self.cx.inquired.remove(&store).is_some() {
            self.cx.removed.insert(store);
        }
    }

    /// Whether the peer that a record names is dead here, for good. One that lives is ended, if nothing here needs it.
    fn remains(&mut self, record: &wire::MergeRecord) -> Remains {
        let Some(source) = &record.source else {
            return Remains::Some;
        };
        let region = RegionId(source.id);
        let Some(named) = peer_on(source, self.cx.store) else {
            return Remains::Some;
        };
        if let Some(peer) = self.peers.get(&region) {
            if peer.id != named {
                // Ids grow, and a source gets no peers after it froze.
                return Remains::Some;
            }
            let has_data = !matches!(peer.stage, Stage::Uninitialized { .. });
            if has_data && peer.may_die(&self.cx) && self.is_past(record) {
                self.stop(region, ORPHAN_REASON);
            }
            let dying = self
                .peers
                .get(&region)
                .is_some_and(|peer| matches!(peer.stage, Stage::Stopping { .. }));
            return if dying && self.cx.options.bug == Some(Bug::RecordDroppedUnflushed) {
                Remains::None
            } else {
                Remains::Some
            };
        }
        match self.is_buried(region, named) {
            Ok(true) => Remains::None,
            Ok(false) => Remains::Some,
            Err(error) => {
                self.cx.fail(error);
                Remains::Some
            }
        }
    }

    /// Whether a peer that is not in memory died here for good: the tombstone was flushed before its hard state went.
    fn is_buried(&self, region: RegionId, peer: PeerId) -> Result<bool, crate::Error> {
        let (mark, state) = inbound::past(&self.cx.engine, region)?;
        let dead = state
            .filter(|state| state.state() == wire::region_state::State::Tombstone)
            .map_or(0, |state| state.peer_id)
            .max(mark.map_or(0, |mark| mark.dead_peer_id));
        let raft = self.cx.engine.get(Family::Log, &keys::raft_state(region))?;
        Ok(dead >= peer.0 && raft.is_none())
    }

    /// Whether the absorber of a record needs the source on this store no more (REGIONS §2, proof (e)): its peer, which was on
    /// every store of the source, is past the merge, dead, or, as a later descriptor of it tells, removed.
    pub(crate) fn is_past(&self, record: &wire::MergeRecord) -> bool {
        if self.cx.options.bug == Some(Bug::OrphanDestroyedEarly) {
            return true;
        }
        let Some(absorber) = &record.absorber else {
            return false;
        };
        let named = peer_on(absorber, self.cx.store);
        match (self.peers.get(&RegionId(absorber.id)), named) {
            (Some(peer), Some(named)) if peer.id > named => true,
            (Some(peer), _) => peer.has_passed(record),
            (None, Some(named)) => self
                .is_buried(RegionId(absorber.id), named)
                .unwrap_or(false),
            // Removed since, perhaps before it was born. An earlier one that a split may still bring has no log that takes
            // the source in, and gets none.
            (None, None) => true,
        }
    }

    /// Whether a live peer in the way of a snapshot may be replaced together with the receiver: a record in the snapshot
    /// names it, and the absorber's peer is the receiver, or replaced as well, or past.
    pub(crate) fn is_replaceable(
        &self,
        other: RegionId,
        receiver: &metapb::Region,
        records: &[wire::MergeRecord],
    ) -> bool {
        if self.cx.options.bug == Some(Bug::SnapshotOverUnnamed) {
            return true;
        }
        // A region is taken in once. Records that lead back to one are made up, and may be as many as a message holds (R34).
        let mut passed = BTreeSet::new();
        let mut other = other;
        while passed.insert(other) {
            let Some(record) = self.record_that_ends(other, records) else {
                return false;
            };
            let absorber = record.absorber.as_ref().map_or(0, |absorber| absorber.id);
            if absorber == receiver.id || self.is_past(record) {
                return true;
            }
            if !self.overlaps(absorber, receiver) {
                return false;
            }
            other = RegionId(absorber);
        }
        false
    }

    /// The record that names the live peer of a region here, if nothing else is under way with that.
    fn record_that_ends<'a>(
        &self,
        region: RegionId,
        records: &'a [wire::MergeRecord],
    ) -> Option<&'a wire::MergeRecord> {
        let peer = self.peers.get(&region)?;
        if !matches!(peer.stage, Stage::Normal) || peer.is_gated(&self.cx) || peer.staged.is_some()
        {
            return None;
        }
        records.iter().find(|record| {
            let source = record
                .source
                .as_ref()
                .filter(|source| source.id == region.0);
            source.and_then(|source| peer_on(source, self.cx.store)) == Some(peer.id)
        })
    }

    fn overlaps(&self, region: u64, receiver: &metapb::Region) -> bool {
        self.cx
            .ranges
            .overlapping(&receiver.start_key, &receiver.end_key)
            .any(|other| other.0 == region)
    }
}

impl<E> Context<E> {
    /// Asks placement after a store that was not heard of for long, now and then.
    fn inquire_silent(&mut self, store: StoreId) {
        let patience = self.options.leaderless_ticks;
        let heard = self.heard.get(&store).copied().unwrap_or_default();
        let asked = self.inquired.get(&store).copied().unwrap_or_default();
        if self.tick >= heard.max(asked) + patience {
            self.inquired.insert(store, self.tick);
            self.out.inquire.push(store);
        }
    }
}

/// Whether these peers of a source, as it froze, can elect a leader. It was not joint then.
fn has_quorum(source: &metapb::Region, peers: &[PeerId]) -> bool {
    let voters = source.peers.iter();
    let voters: Vec<PeerId> = voters
        .filter(|member| member.role() == PeerRole::Voter)
        .map(|member| PeerId(member.id))
        .collect();
    let alive = voters.iter().filter(|voter| peers.contains(voter)).count();
    2 * alive > voters.len()
}

impl Peer {
    /// Whether the region here is past the merge of which a record tells.
    fn has_passed(&self, record: &wire::MergeRecord) -> bool {
        match self.stage {
            Stage::Normal => self.epoch().version >= record.version,
            // The raft tier may hold less than what is being put in place, which is past, or the same.
            Stage::Uninitialized { .. }
            | Stage::Dormant
            | Stage::Installing(_)
            | Stage::Absorbed { .. }
            | Stage::Stopping { .. } => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// More than half of the voters, and of nobody else.
    #[test]
    fn a_quorum_is_more_than_half_of_the_voters() {
        let of = |voters: u64, learners: u64| {
            let member = |id| metapb::Peer {
                id,
                role: if id > voters {
                    PeerRole::Learner as i32
                } else {
                    PeerRole::Voter as i32
                },
                ..Default::default()
            };
            metapb::Region {
                peers: (1..=voters + learners).map(member).collect(),
                ..Default::default()
            }
        };
        let quorum = |region: &metapb::Region, ids: &[u64]| {
            let peers: Vec<PeerId> = ids.iter().copied().map(PeerId).collect();
            has_quorum(region, &peers)
        };
        assert!(!quorum(&of(4, 0), &[1, 2]), "half");
        assert!(quorum(&of(4, 0), &[1, 2, 4]));
        assert!(!quorum(&of(3, 2), &[1, 4, 5]), "learners do not vote");
        assert!(quorum(&of(3, 2), &[1, 3]), "nor are they needed");
    }
}
