//! Applying what is committed, answering clients, serving reads.

use std::sync::Arc;

use raft::{Event, Payload, PeerId};

use super::action::Action;
use super::check::reads;
use super::machine::Command;
use super::model::{Halves, slot};
use super::world::World;
use crate::counters::Happening;
use crate::peers::PeerSet;
use crate::rule::{Rule, Violation, ensure};

impl World {
    pub(super) fn hand_out(
        &mut self,
        peer: PeerId,
        entries: Vec<raft::Entry>,
    ) -> Result<(), Violation> {
        let node = self.nodes[slot(peer)].as_mut().expect("just settled");
        for entry in entries {
            ensure!(
                StateMachine,
                entry.index == node.watch.handed + 1,
                "peer {peer} is handed entry {:?} after {}",
                entry.position(),
                node.watch.handed
            );
            ensure!(
                CommitFirst,
                !matches!(
                    entry.payload,
                    Payload::Structural(_) | Payload::Membership { .. }
                ) || node.disk.hard_state.commit >= entry.index,
                "peer {peer} is handed the structural entry {:?} while its durable commit index is {}",
                entry.position(),
                node.disk.hard_state.commit
            );
            node.watch.handed = entry.index;
            node.apply_queue.push_back(entry);
        }
        self.begin_apply(peer);
        Ok(())
    }

    pub(super) fn begin_apply(&mut self, peer: PeerId) {
        let node = self.nodes[slot(peer)].as_mut().expect("the peer exists");
        if !node.applying && !node.apply_queue.is_empty() {
            node.applying = true;
            let (low, high) = self.settings.apply;
            let delay = self.disk_random.between(low, high);
            self.schedule
                .after(delay, Action::Apply(peer, node.incarnation));
        }
    }

    pub(super) fn apply(&mut self, peer: PeerId, incarnation: u32) -> Result<(), Violation> {
        let flush = self.disk_random.chance(self.settings.flush_permille);
        let Some(node) = self.up(peer, incarnation) else {
            return Ok(());
        };
        node.applying = false;
        // Once an install is durable, nothing is applied until it is done.
        if node.disk.installing || node.apply_queue.is_empty() {
            return Ok(());
        }
        let queued = node.apply_queue.len() as u64;
        let count = if self.disk_random.chance(700) {
            queued
        } else {
            self.disk_random.between(1, queued)
        };
        let mut removed = false;
        for _ in 0..count {
            let node = self.nodes[slot(peer)].as_mut().expect("just looked up");
            let entry = node.apply_queue.pop_front().expect("counted");
            let (position, key) = (entry.position(), Command::decode(&entry.payload));
            node.state.apply(&entry);
            self.ghost.committed.check_applied(peer, &node.state)?;
            if let Payload::Membership { change, .. } = &entry.payload {
                // While an install waits for the disk, what came before it is still applied.
                ensure!(
                    Membership,
                    position.index < node.log.base().index
                        || node.state.membership == *node.log.membership_at(position.index),
                    "peer {peer} applies the configuration {:?} at {position:?}, its log says {:?}",
                    node.state.membership,
                    node.log.membership_at(position.index)
                );
                removed |= node.state.removed.contains(peer);
                match change {
                    raft::MembershipChange::AddLearner(_) => {
                        self.counters.count(Happening::LearnerAdded)
                    }
                    raft::MembershipChange::RemoveLearner(_) => {
                        self.counters.count(Happening::MemberRemoved)
                    }
                    raft::MembershipChange::LeaveJoint => self.counters.count(Happening::JointLeft),
                    raft::MembershipChange::EnterJoint { .. } => {}
                }
            }
            let node = self.nodes[slot(peer)].as_mut().expect("just looked up");
            if let Some(pending) = node.pending.remove(&position.index) {
                if pending.term != position.term {
                    self.counters.count(Happening::Overwritten);
                } else {
                    if let Some(command) = key {
                        ensure!(
                            AtMostOnce,
                            command.number == pending.number,
                            "the proposal {} was appended at {position:?}, applied there is {}",
                            pending.number,
                            command.number
                        );
                    }
                    self.counters.count(Happening::Acknowledged);
                    self.acknowledged_since_healing |= self.healing;
                    if let Some(key) = pending.key {
                        self.ghost.history.on_acknowledged(key, position.index);
                    }
                }
            }
        }
        let node = self.nodes[slot(peer)].as_mut().expect("just looked up");
        let applied = node.state.applied.index;
        if flush {
            node.disk.flushed = Arc::new(node.state.clone());
        }
        self.feed(peer, Event::Applied(applied))?;
        self.serve_reads(peer)?;
        self.begin_apply(peer);
        if removed && !self.node(peer).leads() {
            self.destroy(peer);
        }
        Ok(())
    }

    pub(super) fn read_ready(
        &mut self,
        peer: PeerId,
        ready: raft::ReadReady,
        leased: bool,
    ) -> Result<(), Violation> {
        let node = self.nodes[slot(peer)].as_mut().expect("just settled");
        let leads = node.leads();
        let alone = node.raft().is_some_and(|raft| {
            let halves = Halves::of(raft.membership());
            let own: PeerSet = [peer].into_iter().collect();
            halves.incoming == own && halves.outgoing == own
        });
        let Some(read) = node.reads.get_mut(&ready.id) else {
            return Err(Violation {
                rule: Rule::ReadIndex,
                text: format!(
                    "peer {peer} confirms the read {:?}, which does not wait",
                    ready.id
                ),
            });
        };
        reads::check_confirmed(peer, read, ready.index)?;
        read.index = Some(ready.index);
        read.confirmed = match (leads, alone, leased && read.fresh) {
            (false, _, _) => Happening::FollowerRead,
            (true, true, _) => Happening::ReadAlone,
            (true, false, true) => Happening::LeaseRead,
            (true, false, false) => Happening::ReadServed,
        };
        self.serve_reads(peer)
    }

    pub(super) fn serve_reads(&mut self, peer: PeerId) -> Result<(), Violation> {
        let node = self.nodes[slot(peer)].as_mut().expect("the peer exists");
        if node.reads.is_empty() {
            return Ok(());
        }
        let applied = node.state.applied.index;
        let mut served = Vec::new();
        node.reads.retain(|_, read| {
            let ready = read.index.is_some_and(|index| index <= applied);
            if ready {
                served.push(*read);
            }
            !ready
        });
        let keys = node.state.keys;
        for read in served {
            self.ghost.history.check_read(
                read.key,
                read.key_floor,
                keys[read.key],
                &self.ghost.committed,
            )?;
            self.counters.count(read.confirmed);
            if self
                .nodes
                .iter()
                .flatten()
                .any(|node| node.leads() && node.id != peer)
            {
                self.counters.count(Happening::ReadBesideOtherLeader);
            }
        }
        Ok(())
    }
}
