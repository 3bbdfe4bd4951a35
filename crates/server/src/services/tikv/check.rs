//! What is checked of a request before anything is done for it.

use bytes::Bytes;
use proto::{RegionId, kvrpcpb, memcomparable};
use raft::PeerId;
use store::event::{Keys, Target};

use super::errors::{Reject, store_not_match, too_large};

/// Largest key in bytes, as the client sends it.
pub const KEY_BYTES_MAX: usize = 8 << 10;
/// Largest value in bytes.
pub const VALUE_BYTES_MAX: usize = 6 << 20;
/// Largest request in bytes, checked before it is decoded.
pub const REQUEST_BYTES_MAX: usize = 16 << 20;
/// Largest page of a scan in bytes of keys and values; a single pair may pass it.
pub const PAGE_BYTES_MAX: usize = 4 << 20;

/// The version of the client interface, fixed for a cluster when it is bootstrapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApiVersion {
    /// Plain keys.
    V1,
    /// Keyspaces: a key starts with its kind and its keyspace; values may expire.
    V2,
}

impl ApiVersion {
    /// From the number in an identity or a configuration.
    pub fn from_number(number: u32) -> Option<Self> {
        match number {
            1 => Some(ApiVersion::V1),
            2 => Some(ApiVersion::V2),
            _ => None,
        }
    }

    /// As a number.
    pub fn number(self) -> u32 {
        match self {
            ApiVersion::V1 => 1,
            ApiVersion::V2 => 2,
        }
    }
}

/// The first byte of raw keys in version 2, and the first that is none.
const RAW_PREFIX: u8 = b'r';
const RAW_END: u8 = b's';
/// Kind and keyspace id.
const RAW_PREFIX_BYTES: usize = 4;

/// Who this store is and which rules it keeps.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// The cluster.
    pub cluster_id: u64,
    /// The store.
    pub store_id: u64,
    /// The version of the client interface.
    pub api: ApiVersion,
}

impl Rules {
    /// Checks what a request says about itself. The column family must be the default one: others belong to
    /// transactions.
    pub fn check(&self, context: &kvrpcpb::Context, cf: &str) -> Result<(), Reject> {
        if context.cluster_id != 0 && context.cluster_id != self.cluster_id {
            let (asked, actual) = (context.cluster_id, self.cluster_id);
            return Err(Reject::Text(format!(
                "cluster {asked} was asked for, this store is of cluster {actual}"
            )));
        }
        if let Some(peer) = &context.peer
            && peer.store_id != 0
            && peer.store_id != self.store_id
        {
            return Err(store_not_match(peer.store_id, self.store_id));
        }
        let asked = kvrpcpb::ApiVersion::try_from(context.api_version);
        if asked != Ok(self.wire_version()) {
            let asked = asked.map_or("unknown", |version| version.as_str_name());
            let served = self.wire_version().as_str_name();
            return Err(Reject::Text(format!(
                "the request is of api version {asked}, this cluster has version {served}"
            )));
        }
        if !(cf.is_empty() || cf == "default") {
            return Err(Reject::Text(format!(
                "there is no column family {}: use \"default\"",
                shorten(cf)
            )));
        }
        Ok(())
    }

    /// Checks a key of a client and turns it into the key of the region space.
    pub fn key(&self, context: &kvrpcpb::Context, key: &Bytes) -> Result<Bytes, Reject> {
        if key.is_empty() {
            return Err(Reject::Text("the key is empty".to_owned()));
        }
        let encoded = self.any_bound(context, key)?;
        if self.api == ApiVersion::V2 && !is_raw_key(key) {
            return Err(not_raw());
        }
        Ok(encoded)
    }

    /// As [`Rules::key`], for the end of a range, where empty is unbounded, and where what follows the last raw key may stand.
    pub fn bound(&self, context: &kvrpcpb::Context, key: &Bytes) -> Result<Bytes, Reject> {
        let encoded = self.any_bound(context, key)?;
        if self.api == ApiVersion::V2 && !(key.is_empty() || key[0] == RAW_END || is_raw_key(key)) {
            return Err(not_raw());
        }
        Ok(encoded)
    }

    /// As [`Rules::bound`], for ranges that may hold keys of any kind.
    pub fn any_bound(&self, context: &kvrpcpb::Context, key: &Bytes) -> Result<Bytes, Reject> {
        if key.len() > KEY_BYTES_MAX {
            return Err(too_large(
                context.region_id,
                "key",
                key.len(),
                KEY_BYTES_MAX,
            ));
        }
        Ok(match self.api {
            ApiVersion::V2 if !key.is_empty() => memcomparable::encode(key),
            ApiVersion::V1 | ApiVersion::V2 => key.clone(),
        })
    }

    /// The key as the client knows it.
    pub fn client_key(&self, key: &[u8]) -> Bytes {
        match self.api {
            ApiVersion::V1 => Bytes::copy_from_slice(key),
            // Everything in the region space went through `encode`. A key that did not is shown as it is.
            ApiVersion::V2 => {
                memcomparable::decode(key).unwrap_or_else(|_| Bytes::copy_from_slice(key))
            }
        }
    }

    /// The version as requests name it.
    pub fn wire_version(&self) -> kvrpcpb::ApiVersion {
        match self.api {
            ApiVersion::V1 => kvrpcpb::ApiVersion::V1,
            ApiVersion::V2 => kvrpcpb::ApiVersion::V2,
        }
    }

    /// Checks a value.
    pub fn value(&self, context: &kvrpcpb::Context, value: &Bytes) -> Result<Bytes, Reject> {
        if value.len() > VALUE_BYTES_MAX {
            return Err(too_large(
                context.region_id,
                "value",
                value.len(),
                VALUE_BYTES_MAX,
            ));
        }
        Ok(value.clone())
    }

    /// The second at which a value with this time to live expires; 0 for never. `now` is the wall clock in seconds: the
    /// moment is part of the command, so every replica agrees on it.
    pub fn expires_at(&self, ttl_seconds: u64, now: u64) -> Result<u64, Reject> {
        match (ttl_seconds, self.api) {
            (0, _) => Ok(0),
            (_, ApiVersion::V1) => Err(Reject::Text(
                "values of api version 1 do not expire: use a ttl of 0, or a cluster of version 2"
                    .to_owned(),
            )),
            (ttl, ApiVersion::V2) => Ok(now.saturating_add(ttl)),
        }
    }

    /// Where a request goes.
    pub fn target(&self, context: &kvrpcpb::Context, keys: Keys) -> Target {
        Target {
            region: RegionId(context.region_id),
            peer: context
                .peer
                .as_ref()
                .filter(|peer| peer.id != 0)
                .map(|peer| PeerId(peer.id)),
            epoch: context.region_epoch,
            keys,
        }
    }
}

fn is_raw_key(key: &[u8]) -> bool {
    key.len() >= RAW_PREFIX_BYTES && key[0] == RAW_PREFIX
}

fn not_raw() -> Reject {
    Reject::Text(
        "the key is not a raw key of api version 2: it must start with 'r' and three bytes of keyspace"
            .to_owned(),
    )
}

/// A name out of a request, fit for an error text.
fn shorten(name: &str) -> String {
    format!("{:?}", name.chars().take(32).collect::<String>())
}

/// The wall clock in whole seconds.
pub(crate) fn now_seconds() -> u64 {
    // Before 1970 nothing has expired.
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
