//! Our own core.

use bytes::Bytes;
use pontoon_raft::{
    CampaignReason, Event, HardState, LogPosition, MemberKind, Membership, Message, Options,
    Payload, PeerId, Raft, Restored, Role,
};

use crate::PAYLOAD_BYTES;

/// Three nodes; the first leads.
pub struct Group {
    nodes: Vec<Raft>,
    applied: Vec<u64>,
    payload: Bytes,
    messages: Vec<Message>,
}

impl Default for Group {
    fn default() -> Self {
        let membership = Membership {
            members: (1..=3).map(|id| (PeerId(id), MemberKind::Voter)).collect(),
        };
        let nodes = (1..=3)
            .map(|id| {
                let restored = Restored {
                    hard_state: HardState {
                        term: 1,
                        vote: None,
                        commit: 1,
                    },
                    compacted: LogPosition { term: 1, index: 1 },
                    membership: membership.clone(),
                    applied: 1,
                    ..Restored::blank(PeerId(id), id)
                };
                Raft::new(Options::default(), restored).expect("a valid state")
            })
            .collect();
        let mut group = Self {
            nodes,
            applied: vec![0; 3],
            payload: Bytes::from(vec![7; PAYLOAD_BYTES]),
            messages: Vec::new(),
        };
        group.nodes[0]
            .step(Event::Campaign(CampaignReason::Paced))
            .expect("a voter may campaign");
        group.settle();
        assert_eq!(group.nodes[0].role(), Role::Leader);
        group
    }
}

impl Group {
    /// Proposes `count` commands and drives the group until the leader has applied them all.
    pub fn run(&mut self, count: usize) {
        let goal = self.applied[0] + count as u64;
        for _ in 0..count {
            self.nodes[0]
                .step(Event::Propose(Payload::Command(self.payload.clone())))
                .expect("the leader takes proposals");
        }
        self.settle();
        assert_eq!(self.applied[0], goal);
        for node in &mut self.nodes {
            let applied = node.applied();
            node.step(Event::Compact(applied))
                .expect("applied entries may go");
        }
    }

    fn settle(&mut self) {
        loop {
            for index in 0..self.nodes.len() {
                self.ready(index);
            }
            if self.messages.is_empty() {
                return;
            }
            for message in std::mem::take(&mut self.messages) {
                let to = message.to.0 as usize - 1;
                self.nodes[to]
                    .step(Event::Message(message))
                    .expect("a message of the group");
            }
        }
    }

    fn ready(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        while node.has_effects() {
            let effects = node.take_effects();
            self.messages.extend(effects.messages);
            if let Some(last) = effects.committed.last() {
                let last = last.index;
                self.applied[index] += effects
                    .committed
                    .iter()
                    .filter(|entry| matches!(entry.payload, Payload::Command(_)))
                    .count() as u64;
                node.step(Event::Applied(last))
                    .expect("handed out for applying");
            }
            if let Some(write) = effects.write {
                self.messages.extend(write.after);
                node.step(Event::Written(write.id))
                    .expect("a write of this node");
            }
        }
    }
}
