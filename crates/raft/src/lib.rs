//! Raft.
pub mod event;
pub mod message;
pub mod types;
