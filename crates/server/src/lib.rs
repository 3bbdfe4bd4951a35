//! The one binary, `pontoon`: command line, configuration, threads, gRPC services, status and metrics endpoints.
//!
//! What a region decides is in `store`, what the placement group decides is in `placement`; this crate gives them
//! threads, time, disks and sockets. It holds no decision worth simulating.
//!
//! Two process kinds live here, [`store_process`] and [`placement_process`], and the command line that starts them
//! ([`cli`]), runs a whole cluster of them on one machine ([`dev`]), measures it ([`mod@bench`]), checks it ([`verify`])
//! and shows it off ([`demo`]).

pub mod bench;
pub mod cli;
pub mod config;
pub mod demo;
pub mod dev;
mod disk;
pub mod exit;
pub mod metrics;
pub mod output;
pub mod placement_process;
pub mod remote;
pub mod runtime;
pub mod services;
pub mod status;
pub mod store_process;
pub mod verify;
