//! R3 Log matching: entries of the same index and term end the same prefix (Raft §5.3, figure 3).

use raft::Term;

use crate::group::model::{Chain, Record};
use crate::rule::{Violation, ensure};

/// The prefix that each (index, term) ends, in whatever log it was seen.
#[derive(Debug, Default)]
pub struct Matching {
    chains: Vec<Vec<(Term, Chain)>>,
}

impl Matching {
    /// Checks an entry that entered some log.
    ///
    /// # Errors
    /// R3.
    pub fn check(&mut self, record: &Record) -> Result<(), Violation> {
        let (index, term) = (record.entry.index as usize, record.entry.term);
        if index >= self.chains.len() {
            self.chains.resize_with(index + 1, Vec::new);
        }
        let chains = &mut self.chains[index];
        match chains.iter().find(|(seen, _)| *seen == term) {
            None => chains.push((term, record.chain)),
            Some((_, chain)) => ensure!(
                Matching,
                *chain == record.chain,
                "two logs hold an entry of term {term} at index {index} and differ up to there"
            ),
        }
        Ok(())
    }
}
