//! One Raft group in a hostile world.
//!
//! A world holds nodes (a peer, a virtual disk, a state machine), a network, clients and operators, all driven by one queue
//! of actions in virtual time. Each action feeds an event to a peer, its effects become further actions, and after each the
//! checkers of [`check`] look at what changed. By module: `world` the whole and its beginning, `drive` events and
//! effects, `deliver`, `apply` and `install` what becomes of them, `load` clients, operators and faults, `disk`, `network`,
//! `machine` and `model` the parts, `run` a run and its shrinking.
//!
//! What a store does for the safety of Raft is done here too: a new member is spoken to only once its addition is known to
//! be committed, what a removed member says goes no further, structural commands use one lane, and logs are kept until what
//! they did is flushed.

mod action;
mod apply;
pub mod check;
mod deliver;
mod digest;
mod disk;
mod drive;
mod install;
mod load;
mod machine;
mod model;
mod network;
mod node;
pub mod run;
pub mod settings;
mod world;

pub use world::World;

pub(crate) use model::mix_bytes as hash_bytes;
