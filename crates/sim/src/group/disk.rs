//! A virtual disk: what is durable, and the queue of writes that are not.
//!
//! The raft tier (hard state and log) is written through the queue, in order, and becomes durable at a sync. The apply
//! tier is durable as of its last flush and falls back to it in a crash (REGIONS, "Words").

use std::collections::VecDeque;
use std::sync::Arc;

use raft::{HardState, Index, LogPosition, Message, PeerId, WriteId};

use super::machine::State;
use super::model::{Log, Record};
use crate::random::Stream;
use crate::rule::{Violation, ensure};

/// A write on its way to the disk.
#[derive(Debug)]
pub enum Write {
    /// A write of the core.
    Log {
        /// Its number.
        id: WriteId,
        /// The new hard state.
        hard_state: Option<HardState>,
        /// The snapshot that takes the place of the log.
        install: Option<LogPosition>,
        /// Where the log is cut before entries are added.
        truncate_from: Option<Index>,
        /// What is added.
        records: Vec<Record>,
        /// What may be said once it is durable.
        after: Vec<Message>,
    },
    /// The prefix up to here goes.
    Compact(Index),
}

/// A snapshot whose files are synced and whose install is under way.
#[derive(Clone, Debug)]
pub struct Staged {
    /// Whose word it is.
    pub sender: PeerId,
    /// The incarnation of the sender.
    pub incarnation: u32,
    /// The state.
    pub state: Arc<State>,
}

/// The disk of a node.
#[derive(Debug)]
pub struct Disk {
    /// Durable hard state.
    pub hard_state: HardState,
    /// Durable log.
    pub log: Log,
    /// Apply tier at its last flush.
    pub flushed: Arc<State>,
    /// The staged snapshot.
    pub staged: Option<Staged>,
    /// Whether the install of `staged` is durable and not finished.
    pub installing: bool,
    /// Writes that are not durable, oldest first.
    pub queue: VecDeque<Write>,
    /// Writes covered by the sync that runs.
    pub syncing: usize,
}

impl Disk {
    /// A disk that holds this much.
    pub fn new(hard_state: HardState, log: Log, state: Arc<State>) -> Self {
        Disk {
            hard_state,
            log,
            flushed: state,
            staged: None,
            installing: false,
            queue: VecDeque::new(),
            syncing: 0,
        }
    }

    /// Makes the oldest write durable, and tells its number and what may now be said.
    ///
    /// # Errors
    /// When the hard state goes back: R7, "term, vote and commit never go back".
    pub fn complete_one(&mut self) -> Result<Option<(WriteId, Vec<Message>)>, Violation> {
        match self
            .queue
            .pop_front()
            .expect("only queued writes are completed")
        {
            Write::Compact(index) => {
                self.log.compact(index);
                Ok(None)
            }
            Write::Log {
                id,
                hard_state,
                install,
                truncate_from,
                records,
                after,
            } => {
                if let Some(position) = install {
                    let staged = self
                        .staged
                        .as_ref()
                        .expect("an install is written after its files are staged");
                    self.log.install(
                        position,
                        staged.state.chain,
                        staged.state.membership.clone(),
                    );
                    self.installing = true;
                }
                if let Some(index) = truncate_from {
                    self.log.truncate_from(index);
                }
                for record in records {
                    self.log.push(record.entry);
                }
                if let Some(next) = hard_state {
                    let before = self.hard_state;
                    ensure!(
                        Durable,
                        next.term >= before.term && next.commit >= before.commit,
                        "the hard state goes back from {before:?} to {next:?}"
                    );
                    ensure!(
                        Durable,
                        next.term > before.term
                            || before.vote.is_none()
                            || next.vote == before.vote,
                        "the vote of a term changes: {before:?}, then {next:?}"
                    );
                    self.hard_state = next;
                }
                ensure!(
                    Order,
                    self.hard_state.commit <= self.log.last().index,
                    "durable commit {} above the durable log's end {:?}",
                    self.hard_state.commit,
                    self.log.last()
                );
                Ok(Some((id, after)))
            }
        }
    }

    /// Loses power. A prefix of the queue, `random`ly long, reached the disk all the same; the apply tier falls back.
    /// Tells how many writes were kept and how many lost.
    ///
    /// # Errors
    /// As [`complete_one`](Self::complete_one).
    pub fn crash(&mut self, random: &mut Stream) -> Result<(usize, usize), Violation> {
        let kept = if random.chance(500) {
            0
        } else {
            random.below(self.queue.len() as u64 + 1) as usize
        };
        for _ in 0..kept {
            // What may be said now is never said: the node is down.
            let _ = self.complete_one()?;
        }
        let lost = self.queue.len();
        self.queue.clear();
        self.syncing = 0;
        if !self.installing {
            self.staged = None;
        }
        Ok((kept, lost))
    }
}
