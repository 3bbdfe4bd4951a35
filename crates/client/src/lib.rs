//! The client library: finds regions, carries requests to their leaders, and repeats what may be repeated.
//!
//! ```no_run
//! # async fn example() -> Result<(), client::Error> {
//! use client::{Client, Options, Scan};
//!
//! let client = Client::connect(&["127.0.0.1:2379".to_owned()], Options::default()).await?;
//! client.put("name", "pontoon").await?;
//! assert_eq!(client.get("name").await?.as_deref(), Some(&b"pontoon"[..]));
//! for (key, value) in client.scan(Scan::new("a", "z").limit(10)).await? {
//!     println!("{key:?} {value:?}");
//! }
//! # Ok(())
//! # }
//! ```
//!
//! **The way of a request.** `router` looks the region up in `cache`, or asks the placement group for it (`placement`),
//! and makes one attempt after another: `request` puts the request into the stream of the leader's store (`store`,
//! `inflight`), where it travels with whatever else gathered. What an attempt meets is a [`Cause`], which says what comes
//! next; `retry` decides whether there is a next attempt.
//!
//! **At most once (R26).** An attempt without an answer has an unknown outcome. Reads, and writes that leave the same state
//! when done twice, are sent again; compare-and-swap never is and fails with [`Error::Unknown`]. After every other error
//! nothing was done.
//!
//! **What it does without placement.** Known regions stay reachable: a stale route is used until a store corrects it
//! (R32).
//!
//! Transactions are not supported.

mod admin;
mod backoff;
mod batch;
mod cache;
mod cause;
mod error;
mod inflight;
mod keys;
mod options;
mod placement;
mod raw;
mod replicas;
mod request;
mod retry;
mod router;
mod scan;
mod store;

use std::sync::Arc;

pub use admin::{Admin, OperatorId, Timestamp};
pub use cause::{Cause, Executed, Next, When};
pub use error::{Error, Part};
pub use options::{
    ApiVersion, KEY_BYTES_MAX, Options, REQUEST_BYTES_MAX, UnknownWrites, VALUE_BYTES_MAX,
};
pub use raw::{Swap, Ttl};
pub use replicas::Replicas;
pub use scan::{Pages, Scan};

use crate::{keys::KeySpace, placement::Placement, router::Router};

/// A connection to a cluster. Clones share everything and are cheap.
#[derive(Clone)]
pub struct Client {
    router: Arc<Router>,
    cluster_id: u64,
}

impl Client {
    /// Connects to the cluster whose placement members are at `placements` (`host:port` or URIs; one is enough).
    ///
    /// # Errors
    /// [`Error::Unavailable`] when no member names a leader within the budget; [`Error::Keyspace`].
    pub async fn connect(placements: &[String], options: Options) -> Result<Self, Error> {
        let placement = Arc::new(Placement::new(placements, options));
        let admin = Admin {
            placement: placement.clone(),
            options,
        };
        let leader = admin.ask(|| placement.leader()).await?;
        let api = match options.api_version {
            Some(api) => api,
            None => api_version(&admin).await?,
        };
        let keys = KeySpace::new(api)?;
        let router = Router::new(options, keys, placement, leader.cluster_id);
        Ok(Self {
            router: Arc::new(router),
            cluster_id: leader.cluster_id,
        })
    }

    /// The cluster's id.
    pub fn cluster_id(&self) -> u64 {
        self.cluster_id
    }

    /// Commands to the placement group.
    pub fn admin(&self) -> Admin {
        Admin {
            placement: self.router.placement.clone(),
            options: self.router.options,
        }
    }

    /// The key by which regions are cut for a user key: what [`Admin::split_region`] and [`Admin::find_region`] take.
    ///
    /// # Errors
    /// [`Error::EmptyKey`], [`Error::TooLarge`].
    pub fn route_key(&self, key: impl Into<bytes::Bytes>) -> Result<bytes::Bytes, Error> {
        let wire = self.router.keys.key(&key.into())?;
        Ok(self.router.keys.route(&wire))
    }
}

/// Asks which version the cluster has; until it is bootstrapped, that is open.
async fn api_version(admin: &Admin) -> Result<ApiVersion, Error> {
    let open = || Cause::Placement {
        why: "the cluster is not bootstrapped yet".to_owned(),
    };
    let ask = || async {
        match admin.status().await {
            Ok(status) if status.api_version == 2 => Ok(ApiVersion::V2 { keyspace: 0 }),
            Ok(status) if status.api_version == 1 => Ok(ApiVersion::V1),
            Ok(_) => Err(open()),
            Err(Error::Admin { .. }) => Err(open()),
            Err(error) => Err(Cause::Placement {
                why: error.to_string(),
            }),
        }
    };
    admin.ask(ask).await
}
