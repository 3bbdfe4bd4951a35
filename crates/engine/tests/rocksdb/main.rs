//! The RocksDB engine on real files: what survives, what is noticed, what is refused.
#![cfg(feature = "rocksdb")]

mod behavior;
mod damage;
mod kill;
mod left_out;
mod support;
mod tails;
