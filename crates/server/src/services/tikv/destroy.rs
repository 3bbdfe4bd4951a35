//! `UnsafeDestroyRange`: deletes a range wherever it is, without asking placement for its regions.
//!
//! A client sends it to every store, naming no region. Here it is nothing unsafe: each store deletes its part of the range
//! through the log of every region that it leads. A region that it only follows is left to its leader, which is asked as
//! well, by the same call with that region named: leadership may have moved since that store did its own part, and deleting
//! twice does no harm.

use std::time::{Duration, Instant};

use bytes::Bytes;
use engine::Engine;
use futures::stream::{self, StreamExt};
use proto::kvrpcpb as kv;
use proto::tikvpb::tikv_client::TikvClient;
use proto::{RegionId, StoreId, metapb};
use raft::Role;
use store::event::{Keys, Refusal, RegionView, Target};

use super::TikvService;
use super::errors::Reject;

/// Regions worked on at a time.
const PARALLEL: usize = 16;
/// A region must be done by then.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between attempts at a region.
const PAUSE: Duration = Duration::from_millis(50);

impl<E: Engine> TikvService<E> {
    pub(super) async fn destroy_range(
        &self,
        request: kv::UnsafeDestroyRangeRequest,
    ) -> Result<kv::UnsafeDestroyRangeResponse, Reject> {
        let context = request.context.unwrap_or_default();
        self.rules().check(&context, "")?;
        let start = self.rules().any_bound(&context, &request.start_key)?;
        let end = self.rules().any_bound(&context, &request.end_key)?;
        if context.region_id != 0 {
            let keys = Keys::Range(start.clone(), end.clone());
            let target = self.rules().target(&context, keys);
            self.propose_delete_range(target, start, end).await?;
            return Ok(kv::UnsafeDestroyRangeResponse::default());
        }
        let deadline = Instant::now() + PATIENCE;
        let ranges = self.parts(&start, &end);
        let mut parts = stream::iter(ranges)
            .map(|(start, end)| self.destroy_part(start, end, deadline))
            .buffer_unordered(PARALLEL);
        while let Some(part) = parts.next().await {
            part?;
        }
        Ok(kv::UnsafeDestroyRangeResponse::default())
    }

    /// What of a range lies in regions of this store, by region.
    fn parts(&self, start: &Bytes, end: &Bytes) -> Vec<(Bytes, Bytes)> {
        let owners = self.node().views().owners();
        owners
            .iter()
            .filter_map(|view| intersect(start, end, &view.region))
            .collect()
    }

    /// Deletes a part. Regions change meanwhile, so the part is looked up anew for each attempt, and what a region here
    /// does not hold any more is left to the others.
    async fn destroy_part(
        &self,
        mut start: Bytes,
        end: Bytes,
        deadline: Instant,
    ) -> Result<(), Reject> {
        loop {
            let here = self
                .node()
                .find(&start)
                .and_then(|view| Some((intersect(&start, &end, &view.region)?, view)));
            let Some(((from, to), view)) = here else {
                // The region went away from this store; its leader is elsewhere and deletes it there.
                return Ok(());
            };
            match self.destroy_in_region(&view, from, to.clone()).await {
                Ok(()) if to == end => return Ok(()),
                Ok(()) => {
                    start = to;
                    continue;
                }
                Err(error) if Instant::now() >= deadline => {
                    return Err(Reject::Text(format!(
                        "region {} was not destroyed: {error}",
                        view.region.id
                    )));
                }
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    async fn destroy_in_region(
        &self,
        view: &RegionView,
        start: Bytes,
        end: Bytes,
    ) -> Result<(), String> {
        let text = |refusal: Refusal| refusal.to_string();
        if view.role == Role::Leader {
            let target = Target {
                region: RegionId(view.region.id),
                peer: None,
                epoch: view.region.region_epoch,
                keys: Keys::Range(start.clone(), end.clone()),
            };
            return self
                .propose_delete_range(target, start, end)
                .await
                .map_err(text);
        }
        let leader = view.leader.as_ref().ok_or("nobody leads it")?;
        let store = StoreId(leader.store_id);
        let address = self
            .shared
            .addresses
            .address(store)
            .ok_or_else(|| format!("the address of store {store} is unknown"))?;
        self.ask_leader(address, leader, &view.region, start, end)
            .await
    }

    async fn ask_leader(
        &self,
        address: String,
        leader: &metapb::Peer,
        region: &metapb::Region,
        start: Bytes,
        end: Bytes,
    ) -> Result<(), String> {
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}"))
            .map_err(|error| error.to_string())?;
        let endpoint = endpoint
            .connect_timeout(Duration::from_secs(1))
            .timeout(PATIENCE);
        let channel = endpoint
            .connect()
            .await
            .map_err(|error| crate::exit::chain(&error))?;
        let request = kv::UnsafeDestroyRangeRequest {
            context: Some(kv::Context {
                region_id: region.id,
                region_epoch: region.region_epoch,
                peer: Some(*leader),
                api_version: self.rules().wire_version().into(),
                ..Default::default()
            }),
            start_key: self.rules().client_key(&start),
            end_key: self.rules().client_key(&end),
        };
        let answer = TikvClient::new(channel)
            .unsafe_destroy_range(request)
            .await
            .map_err(|status| status.to_string())?;
        let answer = answer.into_inner();
        match (answer.region_error, answer.error.as_str()) {
            (None, "") => Ok(()),
            (Some(error), _) => Err(error.message),
            (None, error) => Err(error.to_owned()),
        }
    }
}

/// The part of `[start, end)` in a region; empty ends are unbounded.
fn intersect(start: &Bytes, end: &Bytes, region: &metapb::Region) -> Option<(Bytes, Bytes)> {
    let lower = start.max(&region.start_key).clone();
    let upper = match (end.is_empty(), region.end_key.is_empty()) {
        (true, _) => region.end_key.clone(),
        (_, true) => end.clone(),
        _ => end.min(&region.end_key).clone(),
    };
    (upper.is_empty() || lower < upper).then_some((lower, upper))
}
