//! The checkers of a cluster, one file per rule.

pub mod content;
pub mod digests;
pub mod hard_state;
pub mod placement;
pub mod pledges;
pub mod regions;
pub mod sizes;
pub mod stored;
