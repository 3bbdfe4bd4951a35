//! The checkers of a cluster, one file per rule.

pub mod content;
pub mod regions;
