//! What of a peer decides its future, for checkers that compare states.

use std::hash::{Hash, Hasher};

use crate::raft::{Raft, State};

impl Raft {
    /// Feeds everything into `hasher` that the future of this peer depends on, as far as no clock ticks.
    ///
    /// Left out is what only names things (numbers of writes count from the newest) and what only spreads peers apart in time:
    /// seed, draws and the timeout drawn. So two peers that differ in nothing else count as one state, which is what makes a
    /// model check of this code finite. Effects must have been taken.
    pub fn project(&self, hasher: &mut impl Hasher) {
        debug_assert!(
            self.messages.is_empty() && self.after.is_empty() && self.reads.is_empty(),
            "effects are taken before a peer is compared"
        );
        self.id.hash(hasher);
        (self.hard_state, self.written_state, self.durable_state).hash(hasher);
        self.log.project(self.write_id, hasher);
        (self.applied, self.handed, self.restored_commit).hash(hasher);
        for step in &self.configurations {
            (step.index, &step.membership).hash(hasher);
        }
        (self.installing, self.leader, self.elapsed, self.lease_bound).hash(hasher);
        (self.first_term, self.pledge, self.released, &self.asks).hash(hasher);
        (self.write_forced, self.install, self.lost).hash(hasher);
        match &self.state {
            State::Follower => 0u8.hash(hasher),
            State::PreCandidate(ballots) => (1u8, ballots.sorted()).hash(hasher),
            State::Candidate(ballots) => (2u8, ballots.sorted()).hash(hasher),
            State::Leader(leader) => (3u8, leader).hash(hasher),
        }
    }
}
