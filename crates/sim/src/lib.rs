//! Seeded simulation: the real code of `raft`, with a virtual clock, virtual disks and a hostile network.
//!
//! One seed fixes everything, so a failure is a number. [`cluster`] simulates several stores; [`group`] one Raft group, and
//! checks R1 to R10 after every event; [`batch`] runs many seeds; [`shrink`] makes a failure smaller; the binary does all that
//! from the command line.
//!
//! `cargo test -p sim` is the gate; `cargo run --release -p sim -- --seeds 0..100000 --events 50000` the deep run, with `--group`
//! that of one group; `cargo run --release -p sim -- --seed 7 --trace` shows one.

pub mod batch;
pub mod cluster;
pub mod counters;
pub mod group;
mod peers;
mod random;
pub mod rule;
pub mod run;
mod schedule;
pub mod shrink;
mod trace;
pub mod watch;
