//! Keys and values of the cluster, through the client library.

use std::time::Duration;

use bytes::Bytes;
use client::{Client, Options, Scan};

use super::failure;
use crate::exit::Result;

/// Reads and writes keys. Clones share the connections.
#[derive(Clone)]
pub struct Keys {
    client: Client,
}

impl Keys {
    /// Connects to the cluster of these placement members.
    ///
    /// # Errors
    /// Nobody answers.
    pub async fn connect(members: &[String]) -> Result<Self> {
        let client = Client::connect(members, Options::default())
            .await
            .map_err(failure)?;
        Ok(Self { client })
    }

    /// The value of a key.
    ///
    /// # Errors
    /// The cluster does not answer or refuses.
    pub async fn get(&self, key: Bytes) -> Result<Option<Bytes>> {
        self.client.get(key).await.map_err(failure)
    }

    /// Writes a key. With `ttl` it is gone after so long.
    ///
    /// # Errors
    /// The cluster does not answer or refuses. Without an answer the write may still have happened.
    pub async fn put(&self, key: Bytes, value: Bytes, ttl: Option<Duration>) -> Result<()> {
        match ttl {
            None => self.client.put(key, value).await,
            Some(ttl) => self.client.put_with_ttl(key, value, ttl).await,
        }
        .map_err(failure)
    }

    /// Removes a key.
    ///
    /// # Errors
    /// The cluster does not answer or refuses. Without an answer the key may still be gone.
    pub async fn delete(&self, key: Bytes) -> Result<()> {
        self.client.delete(key).await.map_err(failure)
    }

    /// At most `limit` keys of `[start, end)` in order; an empty `end` is infinite.
    ///
    /// # Errors
    /// The cluster does not answer or refuses.
    pub async fn scan(
        &self,
        start: Bytes,
        end: Bytes,
        limit: usize,
        keys_only: bool,
    ) -> Result<Vec<(Bytes, Bytes)>> {
        let mut scan = Scan::new(start, end).limit(limit);
        if keys_only {
            scan = scan.keys_only();
        }
        self.client.scan(scan).await.map_err(failure)
    }
}
