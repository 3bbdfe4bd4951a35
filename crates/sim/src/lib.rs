//! Seeded simulation: the real code of `raft`, with a virtual clock, virtual disks and a hostile network.
//!
//! One seed fixes everything, so a failure is a number. [`group`] simulates one Raft group and checks R1 to R10 after every
//! event; [`cluster`] several stores; [`batch`] runs many seeds; the binary replays one.
//!
//! `cargo test -p sim` is the gate; `cargo run --release -p sim -- --seeds 0..100000` the deep run;
//! `cargo run --release -p sim -- --seed 7 --trace` shows one.

pub mod batch;
pub mod cluster;
pub mod counters;
pub mod group;
mod peers;
mod random;
pub mod rule;
pub mod run;
mod schedule;
mod trace;
