//! Clients that write down what they saw of a cluster, and the verdict on it (RELIABILITY R23, R26).
//!
//! **Clients** work in groups of up to six on a few keys of their own, each with one operation at a time: gets and puts on one
//! half of the keys, deletes and compare-and-swaps too on the other. Every value is written once, and its bytes follow from its
//! number, so an altered one is noticed. An operation without an answer stays open to the end; one that the client says was
//! not done is left out, so that a value of it that shows up is a violation.
//!
//! **Keys** have a life of a few hundred operations ([`Settings::operations_per_key`]); then another takes the place, and this one
//! is read once more and its history checked by `history`, while the clients go on. So the memory does not grow with what was
//! done, and a violation is known soon after it happened.
//!
//! **At the end** ([`Workload::finish`]) every key that ever was is read again: it holds what was last known of it, or what an
//! operation without an answer wrote.
//!
//! What the cluster is, and what happens to it meanwhile, is not known here.

mod key;
mod register;
mod run;
mod value;
mod verdict;

pub use register::{Failed, Register};
pub use run::{Progress, Workload};
pub use verdict::{Fault, Judgement, RATE_MIN, Verdict, Violation};

use std::time::Duration;

/// What the clients do.
#[derive(Clone, Debug)]
pub struct Settings {
    /// From which their choices follow. What comes of them depends on the cluster.
    pub seed: u64,
    /// With what every key begins. No key may have had a value before, so each run needs its own.
    pub prefix: String,
    /// Clients, each with one operation at a time.
    pub clients: usize,
    /// Keys that a group of clients uses at a time, at least 2.
    pub keys_per_group: usize,
    /// Operations in the life of a key: the longer, the more shows, and the more a check costs. Up to 300 are checked within the
    /// budget whatever they are.
    pub operations_per_key: usize,
    /// How long the reads at the end may take.
    pub read_limit: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            seed: 1,
            prefix: "workload-".to_owned(),
            clients: 24,
            keys_per_group: 8,
            operations_per_key: 250,
            read_limit: Duration::from_secs(60),
        }
    }
}

/// Clients that share keys, at most.
const GROUP: usize = 6;
