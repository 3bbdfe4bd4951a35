//! The store process.

use std::path::PathBuf;

use crate::config::section;

section! {
    /// A store: hosts regions in one folder.
    pub struct StoreConfig {
        /// Folder that holds everything this store keeps. Locked while the store runs; an empty one joins the cluster as
        /// a new store.
        pub data_dir: PathBuf = PathBuf::from("store"),
        /// Address to listen on for clients and other stores.
        pub addr: String = "127.0.0.1:20160".to_owned(),
        /// Address that clients and other stores are told. Empty: the address to listen on.
        pub advertise_addr: String = String::new(),
        /// Address to listen on for `/health` and `/metrics`.
        pub status_addr: String = "127.0.0.1:20180".to_owned(),
        /// Addresses of the placement members; one that answers is enough.
        pub placement: Vec<String> = vec!["127.0.0.1:2379".to_owned()],
    }
}

/// Runs a store until SIGTERM or SIGINT. The log is set up by the caller.
///
/// # Errors
/// What kept it from starting or made it stop.
pub fn run(config: StoreConfig) -> anyhow::Result<()> {
    anyhow::bail!("no store is built in: {}", config.addr)
}
