//! The status of a process.
