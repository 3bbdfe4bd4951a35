//! R1 Election safety: at most one leader per group and term (Raft §5.2, figure 3), elected by durable votes of a majority of
//! each half of its configuration (Raft §6), none of them given twice in a term.

use std::collections::BTreeMap;

use raft::{HardState, PeerId, Role, Term};

use crate::group::model::Halves;
use crate::group::node::Node;
use crate::peers::PeerSet;
use crate::rule::{Violation, ensure};

/// Leaders and votes of every term.
#[derive(Debug, Default)]
pub struct Elections {
    /// Who led, and in which incarnation: a peer that restarts lost its leadership.
    leaders: BTreeMap<Term, (PeerId, u32)>,
    /// Who durably voted for whom.
    votes: BTreeMap<(Term, PeerId), PeerSet>,
    /// The newest term of them.
    newest: Term,
}

impl Elections {
    /// Notes a durable hard state of `voter`.
    pub fn on_durable(&mut self, voter: PeerId, hard_state: HardState) {
        if let Some(candidate) = hard_state.vote {
            self.votes
                .entry((hard_state.term, candidate))
                .or_default()
                .insert(voter);
        }
    }

    /// Checks `node`, which leads; tells whether it did not before.
    ///
    /// # Errors
    /// R1.
    pub fn check(&mut self, node: &Node, halves: Halves, named: bool) -> Result<bool, Violation> {
        let Some(raft) = node.raft().filter(|raft| raft.role() == Role::Leader) else {
            return Ok(false);
        };
        let term = raft.term();
        let claim = (node.id, node.incarnation);
        if let Some(first) = self.leaders.get(&term) {
            ensure!(
                Election,
                *first == claim,
                "term {term} is led by peer {first:?} and by {claim:?} (peer, incarnation)"
            );
            return Ok(false);
        }
        self.leaders.insert(term, claim);
        self.newest = self.newest.max(term);
        let votes = self
            .votes
            .get(&(term, node.id))
            .copied()
            .unwrap_or_default();
        // The first leader of a split child is named by the committed split instead (REGIONS §4); its own vote it needs.
        ensure!(
            Election,
            if named {
                votes.contains(node.id)
            } else {
                halves.is_quorum(votes)
            },
            "peer {} leads term {term} with the durable votes {:#b} of {halves:?}",
            node.id,
            votes.0
        );
        Ok(true)
    }

    /// Who led `term`.
    pub fn leader_of(&self, term: Term) -> Option<PeerId> {
        self.leaders.get(&term).map(|(peer, _)| *peer)
    }

    /// The newest term with a leader.
    pub fn newest(&self) -> Term {
        self.newest
    }
}
