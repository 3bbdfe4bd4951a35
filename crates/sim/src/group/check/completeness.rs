//! R4 Leader completeness: what was committed in a term is in the log of every leader of a later term (Raft §5.4, figure 3).

use raft::{Index, Term};

use crate::group::model::Chain;
use crate::group::node::Node;
use crate::rule::{Violation, ensure};

/// How far the leader of a term committed.
#[derive(Clone, Copy, Debug)]
struct Reached {
    term: Term,
    index: Index,
    chain: Option<Chain>,
}

/// How far the group had committed by each term.
#[derive(Debug, Default)]
pub struct Completeness {
    reached: Vec<Reached>,
}

impl Completeness {
    /// Notes that `leader` of `term` committed up to `index`, known to others or not.
    pub fn on_commit(&mut self, leader: &Node, term: Term, index: Index) {
        let chain = leader.log.chain_at(index);
        match self.reached.iter_mut().find(|reached| reached.term == term) {
            Some(reached) if reached.index < index => {
                (reached.index, reached.chain) = (index, chain)
            }
            Some(_) => {}
            None => self.reached.push(Reached { term, index, chain }),
        }
    }

    /// Checks the log of a new leader.
    ///
    /// # Errors
    /// R4.
    pub fn check(&self, leader: &Node, term: Term) -> Result<(), Violation> {
        let earlier = self.reached.iter().filter(|reached| reached.term < term);
        if let Some(due) = earlier.max_by_key(|reached| reached.index) {
            ensure!(
                Completeness,
                due.index < leader.log.base().index || leader.log.chain_at(due.index) == due.chain,
                "peer {} leads term {term} with a log up to {:?} that lacks what was committed up to {} in term {}",
                leader.id,
                leader.log.last(),
                due.index,
                due.term
            );
        }
        Ok(())
    }
}
