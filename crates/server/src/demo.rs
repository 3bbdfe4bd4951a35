//! The demonstration: load, add, drain, kill, delete; verify.
//!
//! A cluster of real processes gets data, gains a store, has one drained, and loses its busiest one to SIGKILL, while writers
//! go on. That regions split, move, are replaced and merge is placement's own doing; the demonstration only waits for it.
//! Every write that the cluster acknowledged, from the first to the last, is read back and compared.

mod ledger;
mod load;
mod monitor;
mod report;
mod run;
mod stage;
mod verify;
mod writers;

pub use run::{DemoArgs, run};
