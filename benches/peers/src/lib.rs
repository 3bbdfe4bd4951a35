//! Three Raft groups of three nodes in memory, driven alike: a batch of proposals goes in at the leader, messages are
//! delivered and log writes complete at once, and the batch is done when the leader has applied it all.
//!
//! Each driver is as lean as its crate allows: nothing is encoded, no message is copied that need not be.

pub mod open_raft;
pub mod ours;
pub mod raft_rs;

/// Bytes of one proposal.
pub const PAYLOAD_BYTES: usize = 128;
