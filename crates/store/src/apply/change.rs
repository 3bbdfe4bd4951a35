//! Applying commands that change a region's descriptor: splits and membership (REGIONS §1, §3, §4).

use bytes::Bytes;
use engine::{Engine, Error, Family};
use proto::metapb::PeerRole;
use proto::pontoon::v1 as wire;
use proto::pontoon::v1::command::Structural;
use proto::pontoon::v1::{PeerMark, RegionState, region_state};
use proto::{RegionId, metapb};
use raft::{LogPosition, MembershipChange, PeerId};

use super::damaged;
use super::pending::PendingBatch;
use super::region::{ApplyRegion, Saved};
use crate::digest::Digest;
use crate::event::{Applied, AppliedChild};
use crate::merge::{self, MergeState};
use crate::planted::Bug;
use crate::{codec, identity, keys};

impl ApplyRegion {
    /// A structural command has an effect only at exactly the epoch it was proposed at, and none but a rollback while the
    /// region is frozen; else it is a no-op, everywhere.
    pub fn structural<E: Engine>(
        &mut self,
        engine: &E,
        batch: &mut PendingBatch,
        command: wire::Command,
        position: LogPosition,
        applied: &mut Applied,
    ) -> Result<(), Error> {
        let frozen = self.merge.freeze.is_some();
        if let Some(source) = merge::absorbs(&self.descriptor, frozen, &command, self.bug()) {
            return self.absorb(engine, batch, source, applied);
        }
        let blind = self.has_bug(Bug::SplitWithoutEpoch)
            && matches!(command.structural, Some(Structural::Split(_)));
        if command.epoch.unwrap_or_default() != self.epoch() && !blind {
            return Ok(());
        }
        let rolls_back = matches!(command.structural, Some(Structural::RollbackMerge(_)));
        if frozen && !rolls_back && !self.has_bug(Bug::AdminWhileFrozen) {
            return Ok(());
        }
        match command.structural {
            Some(Structural::Split(split)) => self.split(engine, batch, split, applied),
            Some(Structural::PrepareMerge(prepare)) => {
                self.prepare_merge(prepare, position, applied);
                Ok(())
            }
            Some(Structural::AbortMerge(_)) => {
                self.abort_merge(applied);
                Ok(())
            }
            Some(Structural::RollbackMerge(rollback)) => {
                self.rollback_merge(rollback.merge, applied);
                Ok(())
            }
            Some(Structural::DropRecord(drop)) => {
                self.drop_record(&drop, applied);
                Ok(())
            }
            // A membership change is an entry of its own kind; a commit that takes nothing in has no effect.
            Some(Structural::ChangePeers(_) | Structural::CommitMerge(_)) | None => Ok(()),
        }
    }

    /// The parent keeps the leftmost piece; children start with its new epoch and its roles.
    fn split<E: Engine>(
        &mut self,
        engine: &E,
        batch: &mut PendingBatch,
        split: wire::Split,
        applied: &mut Applied,
    ) -> Result<(), Error> {
        if !is_valid(&split, &self.descriptor) {
            return Ok(());
        }
        let parent_end = self.descriptor.end_key.clone();
        let mut parent = self.descriptor.clone();
        parent.end_key = split.keys[0].clone();
        let mut epoch = self.epoch();
        epoch.version += 1;
        parent.region_epoch = Some(epoch);
        let mut pieces = self.sizes.divide(&split.keys).into_iter();
        let mut inherited = MergeState::default();
        if !self.has_bug(Bug::RecordsNotInherited) {
            inherited.inherit(self.merge.records.iter().cloned());
        }
        let ends = split.keys.iter().skip(1).chain([&parent_end]);
        for ((child, start), end) in split.children.iter().zip(&split.keys).zip(ends) {
            let peers = parent.peers.iter().zip(&child.peer_ids);
            let descriptor = metapb::Region {
                id: child.region_id,
                start_key: start.clone(),
                end_key: end.clone(),
                region_epoch: Some(epoch),
                peers: peers
                    .map(|(of_parent, id)| metapb::Peer {
                        id: *id,
                        ..*of_parent
                    })
                    .collect(),
                ..Default::default()
            };
            let buckets = pieces.next().expect("one piece for every child");
            let estimate = buckets.estimate();
            let at = self
                .descriptor
                .peers
                .iter()
                .position(|member| member.id == self.peer.0);
            let Some(peer) = at.map(|at| PeerId(child.peer_ids[at])) else {
                continue;
            };
            let created = !self.lived_here(engine, batch, RegionId(child.region_id), peer)?;
            if created {
                let saved = Saved {
                    peer,
                    descriptor: &descriptor,
                    merge: &inherited,
                    damaged: self.damaged,
                };
                saved.put(batch);
                let digest = Digest::starting(identity::BASE.index);
                let state = estimate.record(identity::BASE, (!self.damaged).then_some(digest));
                let key = Bytes::copy_from_slice(&keys::applied_state(RegionId(child.region_id)));
                batch.put(key, codec::encode_record(&state));
            }
            applied.children.push(AppliedChild {
                region: descriptor,
                peer,
                first_leader: PeerId(child.first_leader),
                estimate,
                buckets: Box::new(buckets),
                records: inherited.records.clone(),
                created,
            });
        }
        self.change(parent, applied);
        if !self.has_bug(Bug::DigestKeptAtSplit) {
            self.restart_digest();
        }
        Ok(())
    }

    /// Whether a peer as late as this one lived and died here, or a later one is here already.
    fn lived_here<E: Engine>(
        &self,
        engine: &E,
        batch: &mut PendingBatch,
        region: RegionId,
        peer: PeerId,
    ) -> Result<bool, Error> {
        if let Some(bytes) = engine.get(Family::Log, &keys::peer_mark(region))? {
            let mark: PeerMark = codec::decode_record(&bytes)
                .ok_or_else(|| damaged(region, "peer mark".to_owned()))?;
            if mark.peer_id > peer.0 || mark.dead_peer_id >= peer.0 {
                return Ok(true);
            }
        }
        if let Some(bytes) = batch.get(engine, &keys::region_state(region))? {
            let state: RegionState = codec::decode_record(&bytes)
                .ok_or_else(|| damaged(region, "region state".to_owned()))?;
            return Ok(state.peer_id >= peer.0 || state.state() == region_state::State::Normal);
        }
        Ok(false)
    }

    /// Raft took the change over when it was appended, so it cannot be refused here: the lane and the rule that a leader
    /// first applies an entry of its own term make its epoch fit. If it does not, the state is not what the log says.
    pub fn change_peers(
        &mut self,
        change: &MembershipChange,
        command: Option<wire::Command>,
        applied: &mut Applied,
    ) -> Result<(), Error> {
        if let Some(command) = &command
            && command.epoch.unwrap_or_default() != self.epoch()
        {
            let (ours, theirs) = (self.epoch(), command.epoch.unwrap_or_default());
            return Err(damaged(
                self.id,
                format!("a membership change for epoch {theirs:?} at {ours:?}"),
            ));
        }
        if self.merge.freeze.is_some() && *change != MembershipChange::LeaveJoint {
            // The lane holds it back while the freeze is not applied, and the leader refuses it after.
            return Err(damaged(
                self.id,
                "a membership change while frozen".to_owned(),
            ));
        }
        let mut descriptor = self.descriptor.clone();
        match change {
            MembershipChange::AddLearner(peer) => {
                let Some(Structural::ChangePeers(details)) =
                    command.and_then(|command| command.structural)
                else {
                    return Err(damaged(
                        self.id,
                        format!("peer {peer} is added to no store"),
                    ));
                };
                descriptor.peers.push(metapb::Peer {
                    id: peer.0,
                    store_id: details.store_id,
                    role: PeerRole::Learner as i32,
                    is_witness: false,
                });
            }
            MembershipChange::RemoveLearner(peer) => {
                descriptor.peers.retain(|member| member.id != peer.0)
            }
            MembershipChange::EnterJoint { promote, demote } => {
                for member in &mut descriptor.peers {
                    if promote.contains(&PeerId(member.id)) {
                        member.set_role(PeerRole::IncomingVoter);
                    } else if demote.contains(&PeerId(member.id)) {
                        member.set_role(PeerRole::DemotingVoter);
                    }
                }
            }
            MembershipChange::LeaveJoint => {
                let joint = |member: &metapb::Peer| {
                    matches!(
                        member.role(),
                        PeerRole::IncomingVoter | PeerRole::DemotingVoter
                    )
                };
                if !descriptor.peers.iter().any(joint) {
                    return Ok(());
                }
                for member in &mut descriptor.peers {
                    match member.role() {
                        PeerRole::IncomingVoter => member.set_role(PeerRole::Voter),
                        PeerRole::DemotingVoter => member.set_role(PeerRole::Learner),
                        PeerRole::Voter | PeerRole::Learner => {}
                    }
                }
            }
        }
        let mut epoch = self.epoch();
        epoch.conf_ver += 1;
        descriptor.region_epoch = Some(epoch);
        self.change(descriptor, applied);
        Ok(())
    }
}

/// Whether a split fits the region: keys grow strictly inside of it, and every child has a peer for each of the parent's.
fn is_valid(split: &wire::Split, region: &metapb::Region) -> bool {
    let mut previous = &region.start_key;
    for key in &split.keys {
        if key <= previous || !keys::contains(&region.start_key, &region.end_key, key) {
            return false;
        }
        previous = key;
    }
    !split.keys.is_empty()
        && split.keys.len() == split.children.len()
        && split
            .children
            .iter()
            .all(|child| child.peer_ids.len() == region.peers.len() && child.region_id != 0)
}
