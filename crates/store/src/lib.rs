//! Store.
pub mod event;
