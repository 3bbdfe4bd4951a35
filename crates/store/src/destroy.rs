//! The death of a peer (REGIONS §2).
//!
//! Proofs are judged where they arrive: the own log in `store`, a later peer id and notices in `inbound`. Here is the order
//! that follows. *Stop*: the peer says and takes nothing any more, who waits is answered. *Settle*: what was handed out is
//! applied, and every log batch of the peer is written, so that nothing of it appears later. *Remove*: a task writes the
//! tombstone, flushes it, clears the range and deletes log and hard state. Until then the range stays reserved and no later
//! peer of the region is born here.

use bytes::Bytes;
use engine::Engine;
use proto::RegionId;
use proto::pontoon::v1 as wire;
use raft::PeerId;

use crate::context::{Context, Followup};
use crate::event::{ApplyTask, Task};
use crate::keys;
use crate::peer::{Peer, Stage};
use crate::snapshot::file_names;
use crate::store::Store;

impl<E: Engine> Store<E> {
    /// Ends a peer.
    pub(crate) fn stop(&mut self, region: RegionId, reason: &'static str) {
        self.cx.end_slot(region);
        self.unpublish(region);
        if let Some(peer) = self.peers.get_mut(&region) {
            peer.begin_stopping(reason, &mut self.cx);
        }
    }

    /// Goes on once what was handed out is applied.
    pub(crate) fn settle_stopping(&mut self, region: RegionId) {
        if let Some(peer) = self.peers.get_mut(&region) {
            peer.settle(&mut self.cx);
        }
    }

    /// Every batch of the peer is written: its remains may go.
    pub(crate) fn remove_remains(&mut self, region: RegionId, id: PeerId) {
        let Some(peer) = self.peers.get(&region).filter(|peer| peer.id == id) else {
            return;
        };
        let Stage::Stopping {
            reason,
            merged,
            held,
            replaces,
            ..
        } = &peer.stage
        else {
            return;
        };
        let tombstone = match merged {
            // Its range lives on in another region.
            Some(tombstone) => (**tombstone).clone(),
            None => wire::RegionState {
                state: wire::region_state::State::Tombstone as i32,
                region: Some(peer.region.clone()),
                peer_id: id.0,
                reason: (*reason).to_owned(),
                ..Default::default()
            },
        };
        // Resumed after a restart, its range may be another's by now; what is in it is not this peer's then.
        let own =
            |(start, end): &&(Bytes, Bytes)| self.cx.ranges.overlapping(start, end).eq([region]);
        let clear = held.iter().filter(own).cloned().collect();
        self.cx.out.tasks.push(Task::Destroy {
            region,
            peer: id,
            tombstone,
            merged: self.tombstones(region, replaces),
            clear,
        });
    }

    pub(crate) fn on_destroyed(&mut self, region: RegionId, id: PeerId) {
        let Some(peer) = self.peers.get(&region).filter(|peer| peer.id == id) else {
            return;
        };
        let Stage::Stopping { held, replaces, .. } = &peer.stage else {
            return;
        };
        let released = self.cx.ranges.set(region, held, &[]);
        debug_assert!(released.is_ok(), "giving up a range cannot conflict");
        let mut parked = Vec::new();
        for tombstone in self.tombstones(region, replaces) {
            let merged = RegionId(tombstone.region.as_ref().map_or(0, |merged| merged.id));
            parked.extend(self.bury(merged, PeerId(tombstone.peer_id), tombstone));
        }
        if let Some(mut peer) = self.peers.remove(&region) {
            peer.leave(&mut self.cx);
        }
        for request in parked {
            self.resume(request);
        }
    }
}

impl Peer {
    /// Says and takes nothing any more.
    pub(crate) fn begin_stopping<E: Engine>(&mut self, reason: &'static str, cx: &mut Context<E>) {
        if matches!(self.stage, Stage::Stopping { .. }) {
            return;
        }
        self.abandon_writes(cx);
        self.abandon_reads(cx);
        self.abandon_parked(cx);
        self.abandon_sending(cx);
        if let Some(head) = self.staged.take() {
            cx.out.tasks.push(Task::RemoveFiles(
                head.files.into_iter().map(|file| file.name).collect(),
            ));
        }
        let held = match &self.stage {
            Stage::Uninitialized { .. }
            | Stage::Dormant
            | Stage::Absorbed { .. }
            | Stage::Stopping { .. } => Vec::new(),
            Stage::Normal if self.region.region_epoch.is_none() => Vec::new(),
            Stage::Normal => vec![self.range()],
            Stage::Installing(installing) => installing.clear.clone(),
        };
        let (mut head, mut replaces) = (None, Vec::new());
        if let Stage::Installing(installing) = &mut self.stage {
            // Some of its files may be there still; they are wanted until no restart can find its mark.
            cx.after_sync(Followup::RemoveFiles(file_names(&installing.head)));
            replaces = std::mem::take(&mut installing.replaces);
            installing.head.files.clear();
            head = Some(installing.head.clone());
        }
        if matches!(
            self.stage,
            Stage::Uninitialized { .. } | Stage::Installing(_)
        ) {
            // Without data there is no log to say that it is dead, and a split applied at this moment may be about to
            // give it data; and the mark of a snapshot would bring a peer back. The mark decides, and is synced before the
            // vote is forgotten.
            let mark = wire::PeerMark {
                peer_id: self.id.0,
                dead_peer_id: self.id.0,
                installing: head,
                replaces: replaces.clone(),
                conf_ver: None,
                contacts: Vec::new(),
            };
            cx.log.put(&keys::peer_mark(self.region_id()), &mark);
        }
        self.raft = None;
        self.stage = Stage::Stopping {
            reason,
            settled: false,
            merged: None,
            held,
            replaces,
        };
        self.settle(cx);
    }

    fn settle<E: Engine>(&mut self, cx: &mut Context<E>) {
        let (region, peer) = (self.region_id(), self.id);
        let behind = self.applied.index < self.handed_out;
        let Stage::Stopping { settled, .. } = &mut self.stage else {
            return;
        };
        if *settled || behind {
            return;
        }
        *settled = true;
        cx.out.apply.push(ApplyTask::Close(region));
        cx.after_sync(Followup::Destroy { region, peer });
    }
}
