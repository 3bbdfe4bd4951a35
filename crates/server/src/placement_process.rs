//! The placement process.

use std::path::PathBuf;

use crate::config::section;

section! {
    /// A member of the placement group.
    pub struct PlacementConfig {
        /// Folder that holds everything this member keeps. Locked while the member runs.
        pub data_dir: PathBuf = PathBuf::from("placement"),
        /// Address to listen on for clients, stores, other members and plain HTTP.
        pub addr: String = "127.0.0.1:2379".to_owned(),
        /// Address that others are told; must be one of `members`. Empty: the address to listen on.
        pub advertise_addr: String = String::new(),
        /// Advertised addresses of all members, the same list in the same order for each: 1, 3 or 5.
        pub members: Vec<String> = vec!["127.0.0.1:2379".to_owned()],
        /// Version of the client interface, fixed when the cluster starts for the first time: 1 for plain keys, 2 for
        /// keyspaces with time to live.
        pub api_version: u32 = 1,
        /// Copies that every region should have. Fixed when the cluster starts for the first time.
        pub replicas: u32 = 3,
    }
}

/// Runs a placement member until SIGTERM or SIGINT. The log is set up by the caller.
///
/// # Errors
/// What kept it from starting or made it stop.
pub fn run(config: PlacementConfig) -> anyhow::Result<()> {
    anyhow::bail!("no placement member is built in: {}", config.addr)
}
