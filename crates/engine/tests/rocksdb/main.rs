//! The RocksDB engine on real files: what survives, what is noticed, what is refused.
#![cfg(feature = "rocksdb")]

mod behavior;
mod damage;
#[cfg(feature = "fault-env")]
mod faults;
mod flips;
mod kill;
mod left_out;
#[cfg(feature = "fault-env")]
mod power;
#[cfg(feature = "fault-env")]
mod power_cycles;
mod support;
mod tails;
