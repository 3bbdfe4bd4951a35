//! The demonstration: load, split, move, kill, verify.
