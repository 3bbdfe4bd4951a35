//! The safety statements of the Raft paper and of the thesis, one test each, named after the section that makes them.
//!
//! `raft_` is the extended paper, `thesis_` the dissertation; they number differently. `raft_5_4_3_over_random_schedules` plays
//! all of it at once: crashes that lose what is not durable, lost, doubled and reordered messages, transfers and compaction,
//! with the checkers of [`common::Cluster`] after every step.

mod common;

#[path = "claims/liars.rs"]
mod liars;
#[path = "claims/paper.rs"]
mod paper;
#[path = "claims/schedules.rs"]
mod schedules;
#[path = "claims/seams.rs"]
mod seams;
#[path = "claims/thesis.rs"]
mod thesis;
