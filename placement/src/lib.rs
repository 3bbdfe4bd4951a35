//! The placement driver as a deterministic state machine: identities, timestamps, stores, routes and operators.
//!
//! A placement group is a Raft group with one region of its own, whose keys are what placement replicates (DESIGN D7).
//! This crate is what its *leader* does, with no clock, thread or socket: [`Placement::lead`] loads the region's keys,
//! [`Placement::step`] takes [`Event`]s and returns [`Effects`], and the driver proposes the writes, confirms leadership,
//! carries orders to stores and answers to clients. Followers hold the region's data and nothing else.
//!
//! - `state`: keys of the region, their values, loading them.
//! - `outbox`: the single writer. Nothing leaves before what it rests on is applied.
//! - `ids`, `tso`: identities and timestamps (R28, R31).
//! - `stores`: metadata, boot counters, heartbeats (R30).
//! - `regions`: the view of regions from reports of their leaders (R32); soft, never replicated.
//! - `operator`, `operators`: steps on one region, judged by reports (R22).
//! - [`rules`]: which replicas ranges of keys have, and where.
//! - `checker`, `commands`: who makes operators: repair, and administrators.
//! - [`decision`]: what was decided or refused, and from what; `journal` keeps it.
//! - `machine`: puts them together.
//! - `scheduler`: who keeps the cluster even, by the scores of `score` and within the bytes of `dial`.
//! - `scatter`: regions of a group go apart.
//! - [`plan`], [`model`]: what would happen if, against a cluster that is only a model.

mod checker;
mod commands;
pub mod decision;
mod dial;
mod dice;
mod drains;
mod event;
mod ids;
mod isolation;
mod journal;
pub mod keyspace;
mod machine;
pub mod model;
mod operator;
mod operators;
mod outbox;
pub mod plan;
mod regions;
mod rests;
pub mod rules;
mod scatter;
mod scheduler;
mod score;
mod settings;
mod state;
mod stores;
mod tso;
mod unsettled;

pub use event::{
    Answer, Change, ClusterInfo, Effects, Event, Lookup, Note, Now, Order, OrderKind, Refusal,
    Request, RequestId, SchedulerInfo, Space, SplitIds, Write,
};
pub use journal::{JournalQuery, JournalSettings};
pub use machine::{Placement, REGIONS_MAX};
pub use operator::{Epoch, Kind, OperatorView, Priority, SPLIT_KEYS_MAX, State, Step};
pub use regions::RegionInfo;
pub use settings::{BalanceSettings, MergeSettings, Settings};
pub use state::{CLUSTER_KEY, LoadError, decode_cluster};
pub use stores::{DrainInfo, StoreInfo};
pub use tso::LOGICAL_MAX;

/// The name of the gRPC metadata entry in which a store tells its boot counter, in decimal (R30).
pub const BOOT_METADATA: &str = "pontoon-boot";

/// The name of the gRPC metadata entry with which placement answers heartbeats of stores: bytes per second that snapshots of a
/// store may take, each way, for balance and for repair, in decimal with a space between (REGIONS §9, the dial).
pub const DIAL_METADATA: &str = "pontoon-dial";
