//! Messages between nodes, and what a store does before the core sees them: creation, destruction, notices (REGIONS §2).

use std::sync::Arc;

use raft::{Body, Event, LogPosition, Membership, Message, PeerId, Role};

use super::action::Action;
use super::check::durable;
use super::disk::Disk;
use super::machine::State;
use super::model::{CHAIN_START, Log, slot};
use super::node::{Node, Status};
use super::settings::Fault;
use super::world::{PEERS_MAX, World};
use crate::counters::Happening;
use crate::rule::Violation;

impl World {
    /// Sends a message: it is checked against what its sender would remember, then the network has it.
    pub(super) fn send(&mut self, message: Message) -> Result<(), Violation> {
        let node = self.node(message.from);
        let leader = self
            .nodes
            .get(slot(message.to))
            .and_then(Option::as_ref)
            .filter(|receiver| {
                receiver.raft().is_some_and(|raft| {
                    raft.role() == Role::Leader && raft.term() == message.term && !receiver.dirty
                })
            });
        durable::check_said(node, &message, leader)?;
        match &message.body {
            // The store's duty: a peer is spoken to only when its addition is known to be committed (REGIONS §1).
            Body::Append { .. } | Body::Heartbeat { .. } if !node.contacts.contains(message.to) => {
                return Ok(());
            }
            Body::TimeoutNow => self.counters.count(Happening::Transfer),
            _ => {}
        }
        let fate = self.network.send(&message, &self.settings);
        if self.settings.faults.has(Fault::Unreachable)
            && fate.arrives.is_none()
            && self.network.random().chance(300)
        {
            let (from, to) = (message.from, message.to);
            // Told by the transport, as an event of its own.
            let incarnation = self.node(from).incarnation;
            self.schedule.after(1, Action::Lost(from, incarnation, to));
        }
        if let Some(delay) = fate.again {
            self.schedule.after(delay, Action::Deliver(message.clone()));
        }
        if let Some(delay) = fate.arrives {
            self.schedule.after(delay, Action::Deliver(message));
        }
        Ok(())
    }

    pub(super) fn deliver(&mut self, message: Message) -> Result<(), Violation> {
        let to = message.to;
        if to.0 >= PEERS_MAX {
            return Ok(());
        }
        if self.nodes[slot(to)].is_none() && !self.create(to, &message)? {
            return Ok(());
        }
        let node = self.node(to);
        match &node.status {
            Status::Down => return Ok(()),
            Status::Destroyed => {
                // Answered by whoever has committed proof about the sender.
                return self.notice_by_anyone(message.from);
            }
            Status::Up(_) => {}
        }
        let removed =
            node.state.removed.contains(message.from) && !self.readded.contains(message.from);
        if removed {
            // Acks and requests of a peer that is no member any more go no further; it is told (REGIONS §2, notice).
            if self.network.random().chance(300) {
                self.notice(message.from);
            }
            return Ok(());
        }
        self.feed(to, Event::Message(message))
    }

    fn notice_by_anyone(&mut self, peer: PeerId) -> Result<(), Violation> {
        let proof = self
            .nodes
            .iter()
            .flatten()
            .any(|node| node.raft().is_some() && node.state.removed.contains(peer));
        let regained = self.nodes.iter().flatten().any(|node| {
            node.raft().is_some()
                && node.state.has(peer)
                && !node.state.removed.contains(peer)
                && self.readded.contains(peer)
        });
        if proof && !regained && !self.readded.contains(peer) {
            self.notice(peer);
        }
        Ok(())
    }

    fn notice(&mut self, peer: PeerId) {
        if let Some(node) = self.nodes[slot(peer)].as_ref() {
            let incarnation = node.incarnation;
            let delay = self.network.delay(&self.settings);
            self.schedule
                .after(delay, Action::Notice(peer, incarnation));
        }
    }

    /// Makes an uninitialized peer out of a first contact (REGIONS §2). Tells whether it exists now.
    fn create(&mut self, peer: PeerId, message: &Message) -> Result<bool, Violation> {
        match message.body {
            Body::Append { .. }
            | Body::Heartbeat { .. }
            | Body::VoteRequest { .. }
            | Body::PreVoteRequest { .. } => {}
            _ => return Ok(false),
        }
        self.blank(peer, raft::HardState::default());
        self.start(peer, false)?;
        Ok(true)
    }

    /// Puts a node with an empty disk in place.
    pub(super) fn blank(&mut self, peer: PeerId, hard_state: raft::HardState) {
        let nothing = Arc::new(Membership::default());
        let log = Log::new(LogPosition::default(), CHAIN_START, Arc::clone(&nothing));
        let state = Arc::new(State::new(LogPosition::default(), CHAIN_START, nothing));
        self.nodes[slot(peer)] = Some(Node::new(peer, Disk::new(hard_state, log, state)));
    }

    pub(super) fn destroy(&mut self, peer: PeerId) {
        self.counters.count(Happening::Destroyed);
        self.trace
            .note(self.schedule.now(), [21, peer.0, 0, 0], || {
                format!("{peer} is destroyed: it is no member any more")
            });
        self.node_mut(peer).status = Status::Destroyed;
    }
}
