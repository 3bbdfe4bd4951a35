//! Why a store cannot be opened or must stop.

use proto::RegionId;

/// Why a store cannot be opened or must stop. Refusals of requests are [`crate::event::Refusal`].
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The engine failed (R14) or found its data damaged (R13).
    #[error("the engine failed")]
    Engine(#[from] engine::Error),
    /// The directory holds no store yet.
    #[error("the directory holds no store")]
    NoIdentity,
    /// The directory holds a store already.
    #[error("the directory belongs to store {store} of cluster {cluster}")]
    IdentityExists {
        /// Its cluster.
        cluster: u64,
        /// Its store.
        store: u64,
    },
    /// Written by a version with another layout.
    #[error("the directory has format {found}, this version reads up to {supported}")]
    Format {
        /// What is there.
        found: u32,
        /// The newest that can be read.
        supported: u32,
    },
    /// A record on disk is not what was written, or contradicts another (R13).
    #[error("{what} of region {region} is damaged")]
    Corrupt {
        /// The region.
        region: RegionId,
        /// Which record.
        what: &'static str,
    },
    /// The identity record is not what was written.
    #[error("the store's identity record is damaged")]
    CorruptIdentity,
    /// Raft refuses what was restored.
    #[error("the raft state of region {region} is damaged")]
    Raft {
        /// The region.
        region: RegionId,
        /// Why.
        #[source]
        source: raft::Error,
    },
    /// Two regions on this store own a key (R17).
    #[error("regions {region} and {other} overlap")]
    Overlap {
        /// One.
        region: RegionId,
        /// The other.
        other: RegionId,
    },
}
