//! Snapshots from one node to another (REGIONS §7): taken, sent, staged, installed, each step open to a crash.

use std::sync::Arc;

use raft::{Body, Event, LogPosition, Membership, Message, PeerId, Term};

use super::action::Action;
use super::disk::Staged;
use super::machine::State;
use super::model::slot;
use super::world::World;
use crate::counters::Happening;
use crate::rule::{Violation, ensure};

impl World {
    pub(super) fn take_snapshot(
        &mut self,
        sender: PeerId,
        incarnation: u32,
        to: PeerId,
    ) -> Result<(), Violation> {
        // Only a leader may speak as one: its term may have moved since it asked for the snapshot.
        let Some(node) = self.up(sender, incarnation).filter(|node| node.leads()) else {
            return Ok(());
        };
        let state = Arc::new(node.state.clone());
        let term = node.raft().expect("just looked up").term();
        let contact = node.contacts.contains(to);
        self.counters.count(Happening::SnapshotSent);
        let probe = Message {
            from: sender,
            to,
            term,
            support: None,
            body: Body::TimeoutNow,
        };
        let lost =
            !self.healing && (self.network.is_cut(&probe) || self.network.random().chance(100));
        let delay = 3 * self.network.delay(&self.settings);
        if lost || !contact {
            self.schedule.after(
                delay,
                Action::SnapshotEnded {
                    sender,
                    incarnation,
                    to,
                    delivered: None,
                },
            );
        } else {
            self.schedule.after(
                delay,
                Action::SnapshotArrives {
                    sender,
                    incarnation,
                    term,
                    to,
                    state,
                },
            );
        }
        Ok(())
    }

    pub(super) fn snapshot_arrives(
        &mut self,
        sender: PeerId,
        incarnation: u32,
        term: Term,
        to: PeerId,
        state: Arc<State>,
    ) -> Result<(), Violation> {
        let refuse = |world: &mut World| {
            world.counters.count(Happening::SnapshotRefused);
            let delay = world.network.delay(&world.settings);
            world.schedule.after(
                delay,
                Action::SnapshotEnded {
                    sender,
                    incarnation,
                    to,
                    delivered: None,
                },
            );
            Ok(())
        };
        let Some(node) = self.nodes[slot(to)]
            .as_mut()
            .filter(|node| node.raft().is_some())
        else {
            return refuse(self);
        };
        // Accepted only if it names this very peer, and one at a time (REGIONS §7).
        if !state.has(to) || node.disk.staged.is_some() {
            return refuse(self);
        }
        // An install must not overtake effects that were left waiting: they belong to the log it replaces.
        let position = state.applied;
        let membership = Membership::clone(&state.membership);
        node.disk.staged = Some(Staged {
            sender,
            incarnation,
            state,
        });
        self.settle(to)?;
        let answer = self.step(
            to,
            Event::InstallSnapshot {
                from: sender,
                term,
                position,
                membership,
            },
        )?;
        let accepted = answer.is_ok();
        if !accepted {
            self.node_mut(to).disk.staged = None;
        }
        self.settle(to)?;
        if accepted { Ok(()) } else { refuse(self) }
    }

    pub(super) fn installed(
        &mut self,
        peer: PeerId,
        incarnation: u32,
        position: LogPosition,
    ) -> Result<(), Violation> {
        let Some(node) = self
            .up(peer, incarnation)
            .filter(|node| node.disk.installing)
        else {
            return Ok(());
        };
        let staged = node
            .disk
            .staged
            .take()
            .expect("an install keeps its staged files");
        ensure!(
            Snapshot,
            staged.state.applied.index > node.state.applied.index,
            "peer {peer} goes back from {:?} to the snapshot at {:?}",
            node.state.applied,
            staged.state.applied
        );
        node.disk.installing = false;
        node.disk.flushed = Arc::clone(&staged.state);
        node.state = State::clone(&staged.state);
        node.apply_queue
            .retain(|entry| entry.index > position.index);
        node.watch.handed = node.watch.handed.max(position.index);
        // Clients that waited for entries below it never learn what became of them.
        node.pending.retain(|index, _| *index > position.index);
        self.ghost.committed.check_applied(peer, &staged.state)?;
        self.counters.count(Happening::SnapshotInstalled);
        let (sender, sender_incarnation) = (staged.sender, staged.incarnation);
        let delivered = self.network.random().chance(800).then_some(position.index);
        let delay = self.network.delay(&self.settings);
        self.schedule.after(
            delay,
            Action::SnapshotEnded {
                sender,
                incarnation: sender_incarnation,
                to: peer,
                delivered,
            },
        );
        self.feed(peer, Event::SnapshotInstalled(position))?;
        self.serve_reads(peer)
    }
}
