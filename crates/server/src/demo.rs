//! The demonstration: load, split, move, kill, verify.
//!
//! A cluster of real processes gets data, is split into regions and spread, gains a store that takes over replicas while
//! writers go on, and loses its busiest store to SIGKILL. Every write that the cluster acknowledged, from the first to
//! the last, is then read back and compared.

mod ledger;
mod load;
mod monitor;
mod report;
mod run;
mod stage;
mod verify;
mod writers;

pub use run::{DemoArgs, run};
