//! A cluster of stores in a hostile world: the real `store` code over memory engines that lose what is not synced.
//!
//! Log batches, applying, background tasks and snapshot streams are actions with delays of their own, so a crash finds them
//! in any state. Clients put, get and swap shared keys and write down what they saw; an operator splits, moves and transfers at
//! random. Checked while it runs: the store's own invariants, descriptors (R17 to R19), the epochs of orders (R18), equal
//! content at equal index (R12); at the end R37 and, key by key, linearizability (R23), by which no acknowledged write is lost.

pub mod check;
mod client;
mod drive;
mod exile;
mod loss;
mod merges;
mod newborn;
mod node;
mod operator;
mod orders;
mod placement;
mod rot;
pub mod run;
pub mod settings;
mod snapshots;
mod support;
mod trouble;
mod verify;
mod world;

pub use world::World;
