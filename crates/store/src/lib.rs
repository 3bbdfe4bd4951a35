//! All regions of one node: propose, persist, apply, read, split, move, snapshot, destroy.
//!
//! A [`Store`] is a deterministic state machine. The driver feeds it [`event::Event`]s and carries out the
//! [`event::Effects`] it takes; there is no thread, socket or clock in here, and of the disk only the
//! [`engine::Engine`] trait. Two things run beside it, on threads of the driver: [`apply::Applier`], which applies what the
//! store hands out, and [`task::run`], which does background work. Both report back as events.
//!
//! # The life of a write
//!
//! `propose` checks it and queues it; when effects are taken the queue becomes an entry, which Raft appends. `advance`
//! turns what Raft wants into effects: frames that leave at once, one log batch for all regions with the frames that wait
//! for its sync, entries for the applier. `apply` executes them in one batch over many regions and answers. Then
//! `store::on_applied` lets reads go, adopts changed descriptors and sees to what follows.
//!
//! # Where things are
//!
//! One module per operation, each from request to aftermath: `propose`, `read_index` and [`read`], `split`, `own_split`
//! with `triggers`, [`merge`], `conf_change`, `transfer`, `snapshot`, `destroy`, `compact`, `verify`, `report`, `pledge`. `inbound` takes frames
//! apart and gives birth to peers, `route` says who may serve what, `recover` opens a directory, `peer` and `context` hold state only. [`codec`] is the one place
//! where Raft's types meet wire types, [`keys`] and [`value`] the layout on disk, [`identity`] who the store is. [`liveness`] is a machine of
//! its own, beside the store: which other stores live.
//!
//! # Not here yet
//!
//! Quiet regions, the pace of elections and barrier reads (LIVENESS §5, §6, §8). With the apply tier off the engine's log (D3) snapshots would need a flush
//! before they cut the log.

pub mod apply;
pub mod codec;
pub mod event;
pub mod identity;
pub mod keys;
pub mod liveness;
pub mod merge;
pub mod read;
pub mod task;
pub mod value;

mod advance;
mod compact;
mod conf_change;
mod context;
mod count;
mod damage;
mod destroy;
mod digest;
mod error;
mod inbound;
mod load;
mod options;
mod order;
mod own_split;
mod park;
mod peer;
mod planted;
mod pledge;
mod propose;
mod ranges;
mod read_index;
mod recover;
mod report;
mod route;
mod sample;
mod snapshot;
mod split;
mod store;
mod transfer;
mod triggers;
mod verify;

pub use digest::{Checkpoint, Digest};
pub use error::Error;
pub use load::{Load, Requests};
pub use options::{Options, SplitOptions};
pub use planted::Bug;
pub use snapshot::{Dial, FileRefusal, Reason as SnapshotReason, check_file};
pub use store::Store;
pub use triggers::SplitCause;
