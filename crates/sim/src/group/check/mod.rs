//! The checkers, one file per rule; each names where the rule comes from.
//!
//! They are ghosts: they see every node at once, keep the history of the whole group, and share no code with the core. All
//! are incremental, so that checking after every event costs about as much as the event.

pub mod calm;
pub mod commit;
pub mod completeness;
pub mod durable;
pub mod election;
pub mod history;
pub mod matching;
pub mod membership;
pub mod order;
pub mod reads;

use commit::Committed;
use completeness::Completeness;
use election::Elections;
use history::History;
use matching::Matching;
use membership::Configurations;

/// The memory of all checkers.
#[derive(Debug, Default)]
pub struct Ghost {
    /// R1.
    pub elections: Elections,
    /// R3.
    pub matching: Matching,
    /// R4.
    pub completeness: Completeness,
    /// R5, R6: what is committed.
    pub committed: Committed,
    /// R9.
    pub configurations: Configurations,
    /// R23, R24, R26.
    pub history: History,
}
