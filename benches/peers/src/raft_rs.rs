//! The crate `raft` 0.7 (TiKV's).

use bytes::Bytes;
use raft_rs::prelude::*;
use raft_rs::storage::MemStorage;

use crate::PAYLOAD_BYTES;

/// Three nodes; the first leads.
pub struct Group {
    nodes: Vec<RawNode<MemStorage>>,
    applied: Vec<u64>,
    payload: Bytes,
}

impl Default for Group {
    fn default() -> Self {
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let nodes = (1..=3)
            .map(|id| {
                let storage = MemStorage::new_with_conf_state((vec![1, 2, 3], vec![]));
                let config = Config {
                    id,
                    election_tick: 10,
                    heartbeat_tick: 2,
                    max_size_per_msg: 1 << 20,
                    max_inflight_msgs: 256,
                    check_quorum: true,
                    pre_vote: true,
                    ..Config::default()
                };
                RawNode::new(&config, storage, &logger).expect("a valid configuration")
            })
            .collect();
        let mut group = Self {
            nodes,
            applied: vec![0; 3],
            payload: Bytes::from(vec![7; PAYLOAD_BYTES]),
        };
        group.nodes[0].campaign().expect("a voter may campaign");
        group.settle();
        assert_eq!(group.nodes[0].raft.state, raft_rs::StateRole::Leader);
        group
    }
}

impl Group {
    /// Proposes `count` commands and drives the group until the leader has applied them all.
    pub fn run(&mut self, count: usize) {
        let goal = self.applied[0] + count as u64;
        for _ in 0..count {
            self.nodes[0]
                .propose(vec![], self.payload.to_vec())
                .expect("the leader takes proposals");
        }
        self.settle();
        assert_eq!(self.applied[0], goal);
        for node in &mut self.nodes {
            let compact = node.raft.raft_log.applied;
            node.mut_store()
                .wl()
                .compact(compact)
                .expect("applied entries may go");
        }
    }

    fn settle(&mut self) {
        let mut messages = Vec::new();
        loop {
            for index in 0..self.nodes.len() {
                self.ready(index, &mut messages);
            }
            if messages.is_empty() {
                return;
            }
            for message in messages.drain(..) {
                let to = message.to as usize - 1;
                self.nodes[to]
                    .step(message)
                    .expect("a message of the group");
            }
        }
    }

    fn ready(&mut self, index: usize, out: &mut Vec<Message>) {
        let node = &mut self.nodes[index];
        if !node.has_ready() {
            return;
        }
        let mut ready = node.ready();
        out.extend(ready.take_messages());
        apply(&mut self.applied[index], ready.take_committed_entries());
        if !ready.entries().is_empty() {
            node.mut_store()
                .wl()
                .append(ready.entries())
                .expect("contiguous entries");
        }
        if let Some(state) = ready.hs() {
            node.mut_store().wl().set_hardstate(state.clone());
        }
        out.extend(ready.take_persisted_messages());
        let mut light = node.advance(ready);
        if let Some(commit) = light.commit_index() {
            node.mut_store().wl().mut_hard_state().set_commit(commit);
        }
        out.extend(light.take_messages());
        apply(&mut self.applied[index], light.take_committed_entries());
        node.advance_apply();
    }
}

fn apply(applied: &mut u64, entries: Vec<Entry>) {
    *applied += entries
        .iter()
        .filter(|entry| !entry.data.is_empty())
        .count() as u64;
}
