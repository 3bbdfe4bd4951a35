//! Why a store process does not start, or stops.

use std::path::PathBuf;

use super::ids::WrongIds;
use crate::exit::Kind;

/// Why a store process does not start, or stops.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another process has the directory open.
    #[error("{} is in use by another process: stop that one, or choose another data_dir", .path.display())]
    DirectoryInUse {
        /// The directory.
        path: PathBuf,
    },
    /// The directory belongs to another cluster.
    #[error(
        "{} belongs to store {store} of cluster {theirs}, the placement group serves cluster {ours}: correct `placement`, \
         or give this store an empty data_dir", .path.display()
    )]
    OtherCluster {
        /// The directory.
        path: PathBuf,
        /// The store in it.
        store: u64,
        /// Its cluster.
        theirs: u64,
        /// The cluster of the placement group.
        ours: u64,
    },
    /// The directory was written by a newer version.
    #[error(
        "{} has format {found}, this version reads up to {supported}: start the newer version of pontoon", .path.display()
    )]
    NewerFormat {
        /// The directory.
        path: PathBuf,
        /// What is there.
        found: u32,
        /// The newest that can be read.
        supported: u32,
    },
    /// The directory cannot be read.
    #[error("{} cannot be opened", .path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: store::Error,
    },
    /// Placement knows a later start of this store, or does not want it any more (R30).
    #[error("placement refuses this store: {reason}")]
    Refused {
        /// What it says.
        reason: String,
    },
    /// Another store shut this one out (R30).
    #[error("store {by} refuses this store: {reason}")]
    ShutOut {
        /// Who.
        by: proto::StoreId,
        /// Why.
        reason: &'static str,
    },
    /// An address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A setting makes no sense.
    #[error("{setting} is wrong: {reason}")]
    Setting {
        /// The setting.
        setting: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The cluster has an interface that this version does not know.
    #[error("the cluster has api version {0}, this version of pontoon knows 1 and 2")]
    ApiVersion(u32),
    /// Placement gave other ids than it was asked for.
    #[error(transparent)]
    Ids(#[from] WrongIds),
    /// The operating system refused threads or signals.
    #[error("the runtime cannot start")]
    Runtime(#[source] std::io::Error),
    /// Serving ended by itself.
    #[error("the server on {address} failed")]
    Serving {
        /// The address.
        address: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Error {
    /// What the failure means to whoever started the process.
    pub fn kind(&self) -> Kind {
        match self {
            Error::DirectoryInUse { .. }
            | Error::OtherCluster { .. }
            | Error::NewerFormat { .. }
            | Error::Refused { .. }
            | Error::ShutOut { .. } => Kind::Directory,
            Error::Listen { source, .. } if source.kind() == std::io::ErrorKind::AddrInUse => {
                Kind::PortTaken
            }
            Error::Setting { .. } => Kind::Config,
            Error::Directory { .. }
            | Error::Listen { .. }
            | Error::ApiVersion(_)
            | Error::Ids(_)
            | Error::Runtime(_)
            | Error::Serving { .. } => Kind::Environment,
        }
    }
}
