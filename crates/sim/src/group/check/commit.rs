//! R5 State machine safety (Raft §5.4.3) and R6 Commit rule (Raft §5.4.2, figure 8; §6 for joint configurations).
//!
//! The one committed log of the group is written down as soon as anybody learns of a commit; everything that any node
//! calls committed or applies must be a prefix of it. When a leader commits, the entry's durable copies are counted afresh,
//! on the disks, whatever the leader was told.

use raft::{Index, LogPosition, PeerId, Term};

use crate::group::machine::{Command, State};
use crate::group::model::{Chain, Halves, Log};
use crate::group::node::Node;
use crate::peers::PeerSet;
use crate::rule::{Violation, ensure};

/// The committed log.
#[derive(Debug, Default)]
pub struct Committed {
    base: Index,
    base_chain: Chain,
    /// Term and prefix hash of each committed entry above the base.
    entries: Vec<(Term, Chain)>,
    /// Where each command number was committed.
    commands: Vec<Option<Index>>,
}

impl Committed {
    /// Begins at the base of the group's first state.
    pub fn begin(&mut self, base: LogPosition, chain: Chain) {
        self.base = base.index;
        self.base_chain = chain;
    }

    /// The highest index that anybody knew to be committed.
    pub fn last(&self) -> Index {
        self.base + self.entries.len() as Index
    }

    /// The committed prefix up to `index`.
    pub fn chain_at(&self, index: Index) -> Option<Chain> {
        if index == self.base {
            return Some(self.base_chain);
        }
        self.entries
            .get(index.checked_sub(self.base + 1)? as usize)
            .map(|(_, chain)| *chain)
    }

    /// Where command `number` was committed.
    pub fn index_of(&self, number: u64) -> Option<Index> {
        self.commands.get(number as usize).copied().flatten()
    }

    /// Takes in that `node` calls everything up to `index` of `log` committed.
    ///
    /// # Errors
    /// R5 when it differs from what was committed before, R26 when a command is committed twice.
    pub fn learn(&mut self, node: &Node, index: Index) -> Result<(), Violation> {
        let log = &node.log;
        let known = self.last();
        if index > known {
            ensure!(
                StateMachine,
                log.base().index <= known,
                "peer {} calls {index} committed, its log begins at {:?}, and nobody committed above {known}",
                node.id,
                log.base()
            );
            if log.chain_at(known) != self.chain_at(known) {
                return Err(differs(node, known));
            }
            for next in known + 1..=index {
                let Some(record) = log.get(next) else {
                    return Err(Violation {
                        rule: crate::rule::Rule::Order,
                        text: format!(
                            "peer {} calls {index} committed, its log ends at {:?}",
                            node.id,
                            log.last()
                        ),
                    });
                };
                self.entries.push((record.entry.term, record.chain));
                if let Some(command) = Command::decode(&record.entry.payload) {
                    self.note_command(command, next)?;
                }
            }
            return Ok(());
        }
        // A log compacted past `index` was checked when it reached its base.
        if index >= log.base().index
            && index >= self.base
            && log.chain_at(index) != self.chain_at(index)
        {
            return Err(differs(node, index));
        }
        Ok(())
    }

    fn note_command(&mut self, command: Command, index: Index) -> Result<(), Violation> {
        let number = command.number as usize;
        if number >= self.commands.len() {
            self.commands.resize(number + 1, None);
        }
        ensure!(
            AtMostOnce,
            self.commands[number].is_none(),
            "command {number} is committed at {:?} and at {index}",
            self.commands[number]
        );
        self.commands[number] = Some(index);
        Ok(())
    }

    /// Checks what a node's state machine holds after applying.
    ///
    /// # Errors
    /// R5.
    pub fn check_applied(&self, peer: PeerId, state: &State) -> Result<(), Violation> {
        ensure!(
            StateMachine,
            self.chain_at(state.applied.index) == Some(state.chain),
            "peer {peer} applied up to {:?} something else than was committed (up to {})",
            state.applied,
            self.last()
        );
        Ok(())
    }

    /// Checks that a leader of `term` with the latest configuration `halves` was right to move its commit index to `index`.
    ///
    /// # Errors
    /// R6.
    pub fn check_counting<'a>(
        &self,
        leader: &Node,
        halves: Halves,
        term: Term,
        index: Index,
        nodes: impl Iterator<Item = &'a Node>,
    ) -> Result<(), Violation> {
        ensure!(
            Commit,
            leader.log.term_at(index) == Some(term),
            "the leader {} of term {term} commits index {index}, an entry of term {:?}",
            leader.id,
            leader.log.term_at(index)
        );
        let chain = leader.log.chain_at(index);
        let holders: PeerSet = nodes
            .filter(|node| holds(&node.disk.log, index, chain))
            .map(|node| node.id)
            .collect();
        ensure!(
            Commit,
            halves.is_quorum(holders),
            "the leader {} of term {term} commits index {index}, durable on {:#b} only, of {halves:?}",
            leader.id,
            holders.0
        );
        Ok(())
    }
}

/// Whether a durable log holds the prefix that ends at `index` with `chain`. What a log compacted was committed.
fn holds(log: &Log, index: Index, chain: Option<Chain>) -> bool {
    index < log.base().index || chain.is_some() && log.chain_at(index) == chain
}

fn differs(node: &Node, index: Index) -> Violation {
    Violation {
        rule: crate::rule::Rule::StateMachine,
        text: format!(
            "peer {} calls something else committed up to {index} than was committed",
            node.id
        ),
    }
}
