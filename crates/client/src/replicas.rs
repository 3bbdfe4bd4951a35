//! What tools ask stores about replicas of regions that they lead (`pontoon.v1.Replicas`).

use std::{collections::BTreeMap, time::Duration};

use proto::{
    RegionId, StoreId,
    pontoon::v1::{VerifyRegionRequest, VerifyRegionResponse, replicas_client::ReplicasClient},
};
use tokio::{sync::Mutex, time::timeout};
use tonic::{Code, transport::Channel};

use crate::{Cause, store};

/// Connections to stores, made when they are first used.
pub struct Replicas {
    connect_timeout: Duration,
    channels: Mutex<BTreeMap<String, Channel>>,
}

impl Replicas {
    /// Without any yet. A store has so long to take one.
    pub fn new(connect_timeout: Duration) -> Self {
        Self {
            connect_timeout,
            channels: Mutex::default(),
        }
    }

    /// Has the store at an address verify a region that it leads. Waits for no longer than `limit`.
    ///
    /// # Errors
    /// What the attempt met. Nothing was compared then.
    pub async fn verify(
        &self,
        store: StoreId,
        address: &str,
        region: RegionId,
        limit: Duration,
    ) -> Result<VerifyRegionResponse, Cause> {
        let channel = self.channel(store, address).await?;
        let request = VerifyRegionRequest {
            cluster_id: 0,
            region_id: region.0,
        };
        let mut client = ReplicasClient::new(channel);
        let lost = |why: String| Cause::Lost { store, why };
        let mut response = match timeout(limit, client.verify_region(request)).await {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) => {
                self.channels.lock().await.remove(address);
                return Err(match status.code() {
                    Code::Unimplemented | Code::InvalidArgument | Code::FailedPrecondition => {
                        Cause::Refused {
                            message: status.message().to_owned(),
                        }
                    }
                    _ => lost(status.message().to_owned()),
                });
            }
            Err(_) => return Err(lost(format!("nothing came within {limit:?}"))),
        };
        match response.region_error.take() {
            Some(error) => Err(Cause::of_region_error(*error)),
            None => Ok(response),
        }
    }

    async fn channel(&self, store: StoreId, address: &str) -> Result<Channel, Cause> {
        let mut channels = self.channels.lock().await;
        if let Some(channel) = channels.get(address) {
            return Ok(channel.clone());
        }
        let connected = store::connect(address, self.connect_timeout).await;
        let channel = connected.map_err(|source| Cause::Unreachable {
            store,
            source: source.into(),
        })?;
        channels.insert(address.to_owned(), channel.clone());
        Ok(channel)
    }
}
