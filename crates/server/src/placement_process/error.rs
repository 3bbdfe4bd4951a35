//! Why a placement process does not start, or stops.

use std::path::PathBuf;

use crate::exit::Kind;

/// Why a placement process does not start, or stops.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another process has the directory open.
    #[error("{} is in use by another process: stop that one, or choose another data_dir", .path.display())]
    DirectoryInUse {
        /// The directory.
        path: PathBuf,
    },
    /// The directory belongs to another member or another group.
    #[error(
        "{} belongs to {member} of {}: correct `members` and `advertise_addr`, or choose another data_dir",
        .path.display(),
        if *.same_group { "this placement group" } else { "a placement group with other members" }
    )]
    OtherMember {
        /// The directory.
        path: PathBuf,
        /// The member in it.
        member: String,
        /// Whether the member lists are the same.
        same_group: bool,
    },
    /// Another directory took the place of this one in the group.
    #[error(
        "another directory took the place of this one while it was away, and it must not vote again: empty this member's data_dir, and it joins as new"
    )]
    Replaced,
    /// The directory was written by a newer version.
    #[error("{} has format {found}, this version reads up to {supported}: start the newer version of pontoon", .path.display())]
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
    /// The replicated state cannot be used.
    #[error("this member cannot lead")]
    State(#[from] placement::LoadError),
    /// The engine failed while the replicated state was read.
    #[error("the replicated state cannot be read")]
    Reading(#[source] engine::Error),
    /// What the directory holds of the region cannot be read.
    #[error("the region of the placement group cannot be read")]
    Region(#[source] store::Error),
    /// Another process uses a copy of the directory (R30).
    #[error(
        "member {by} refuses this one: a later start of this member is running, its directory is used twice"
    )]
    ShutOut {
        /// Who refuses.
        by: proto::StoreId,
    },
    /// The address cannot be listened on.
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
    /// The operating system refused threads or signals.
    #[error("the runtime cannot start")]
    Runtime(#[source] std::io::Error),
    /// The description of what is served does not fit.
    #[error("the services cannot be described")]
    Reflection(#[source] Box<dyn std::error::Error + Send + Sync>),
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
            | Error::OtherMember { .. }
            | Error::Replaced
            | Error::NewerFormat { .. }
            | Error::ShutOut { .. } => Kind::Directory,
            Error::Listen { source, .. } if source.kind() == std::io::ErrorKind::AddrInUse => {
                Kind::PortTaken
            }
            Error::Setting { .. } => Kind::Config,
            Error::Directory { .. }
            | Error::State(_)
            | Error::Reading(_)
            | Error::Region(_)
            | Error::Listen { .. }
            | Error::Runtime(_)
            | Error::Reflection(_)
            | Error::Serving { .. } => Kind::Environment,
        }
    }
}
