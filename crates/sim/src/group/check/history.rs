//! R23 Linearizable keys: what a client reads is the newest write that any client knew of when it began to ask, or a newer one
//! (Herlihy and Wing 1990). Values are unique and the group has one committed order, so comparing positions is exact.

use raft::Index;

use super::commit::Committed;
use crate::group::machine::KEYS;
use crate::rule::{Violation, ensure};

/// What clients know.
#[derive(Debug, Default)]
pub struct History {
    /// By key: the position of the newest write that was acknowledged or read.
    seen: [Index; KEYS],
}

impl History {
    /// The position of the newest write of `key` that a client knows.
    pub fn floor(&self, key: usize) -> Index {
        self.seen[key]
    }

    /// Notes that a client was told of its write at `index`.
    pub fn on_acknowledged(&mut self, key: usize, index: Index) {
        self.seen[key] = self.seen[key].max(index);
    }

    /// Checks the answer to a read of `key` that began when `floor` was known.
    ///
    /// # Errors
    /// R23.
    pub fn check_read(
        &mut self,
        key: usize,
        floor: Index,
        value: u64,
        committed: &Committed,
    ) -> Result<(), Violation> {
        let index = if value == 0 {
            0
        } else {
            let Some(index) = committed.index_of(value) else {
                return Err(Violation {
                    rule: crate::rule::Rule::Linearizable,
                    text: format!(
                        "a read of key {key} returned {value}, which was never committed"
                    ),
                });
            };
            index
        };
        ensure!(
            Linearizable,
            index >= floor,
            "a read of key {key} returned the write at {index}; a client knew of the one at {floor} before it began"
        );
        self.seen[key] = self.seen[key].max(index);
        Ok(())
    }
}
