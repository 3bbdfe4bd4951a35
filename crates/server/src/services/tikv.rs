//! `tikvpb.Tikv`, served by stores: raw operations of both api versions.
//!
//! Every method has three parts: check the request ([`check`]), go through the node (a proposal or a read at a
//! linearizable point), and put the outcome into the answer ([`errors`] for what went wrong). Single calls and the
//! requests of a `BatchCommands` stream share all of it.
//!
//! Transactional methods are not served; they answer UNIMPLEMENTED.

mod batch;
pub mod check;
mod destroy;
pub mod errors;
mod raw;
mod scan;

#[cfg(test)]
mod tests;

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::Engine;
use futures::Stream;
use proto::kvrpcpb as kv;
use proto::tikvpb::tikv_server::Tikv;
use proto::tikvpb::{BatchCommandsRequest, BatchCommandsResponse};
use proto::{RegionId, StoreId};
use raft::Role;
use store::event::Refusal;
use tokio::sync::watch;
use tonic::metadata::MetadataValue;
use tonic::{Request, Response, Status, Streaming};

pub use self::check::{ApiVersion, Rules};
use self::errors::{Answer, Reject};
use crate::metrics::Metrics;
use crate::runtime::Handle;

/// A request at a peer that knows no leader waits this long for one (REGIONS §8).
const LEADER_PATIENCE: Duration = Duration::from_millis(300);

/// Finds the address of another store.
pub trait Addresses: Send + Sync + 'static {
    /// Where the store listens, if known.
    fn address(&self, store: StoreId) -> Option<String>;
}

/// The service. Cheap to clone.
pub struct TikvService<E: Engine> {
    shared: Arc<Shared<E>>,
}

impl<E: Engine> Clone for TikvService<E> {
    fn clone(&self) -> Self {
        TikvService {
            shared: self.shared.clone(),
        }
    }
}

struct Shared<E: Engine> {
    node: Handle<E>,
    rules: Rules,
    addresses: Arc<dyn Addresses>,
    closing: watch::Receiver<bool>,
    meters: Meters,
}

impl<E: Engine> TikvService<E> {
    /// The service of one store. Streams of batches end once `closing` is true, after what they were asked; by
    /// themselves they would keep a stopping server waiting.
    pub fn new(
        node: Handle<E>,
        rules: Rules,
        addresses: Arc<dyn Addresses>,
        closing: watch::Receiver<bool>,
    ) -> Self {
        let meters = Meters::new(node.metrics());
        TikvService {
            shared: Arc::new(Shared {
                node,
                rules,
                addresses,
                closing,
                meters,
            }),
        }
    }

    fn node(&self) -> &Handle<E> {
        &self.shared.node
    }

    fn rules(&self) -> &Rules {
        &self.shared.rules
    }

    /// Returns once this store leads the region; refuses when another does, or nobody for a while.
    async fn leader_here(&self, region: u64) -> Result<(), Refusal> {
        let region = RegionId(region);
        let mut deadline = None;
        loop {
            let changed = self.node().views().changed();
            let view = self
                .node()
                .region(region)
                .ok_or(Refusal::RegionNotFound(region))?;
            if view.role == Role::Leader {
                return Ok(());
            }
            if view.leader.is_some() {
                return Err(Refusal::NotLeader {
                    region,
                    leader: view.leader,
                });
            }
            if !view.owns_range {
                return Err(Refusal::RegionNotFound(region));
            }
            let deadline = *deadline.get_or_insert_with(|| Instant::now() + LEADER_PATIENCE);
            if tokio::time::timeout_at(deadline.into(), changed)
                .await
                .is_err()
            {
                return Err(Refusal::NotLeader {
                    region,
                    leader: None,
                });
            }
        }
    }

    /// Measures a request and turns its rejection into an answer.
    async fn measured<A: Answer>(
        &self,
        kind: Kind,
        work: impl Future<Output = Result<A, Reject>>,
    ) -> A {
        let meter = &self.shared.meters.0[kind as usize];
        meter.requests.inc();
        let start = Instant::now();
        let answer = work.await.unwrap_or_else(|reject| {
            self.node()
                .metrics()
                .refusals
                .with_label_values(&[errors::cause(&reject)])
                .inc();
            A::rejected(reject)
        });
        meter.seconds.observe(start.elapsed().as_secs_f64());
        answer
    }
}

/// Counters of one kind of request, looked up once.
struct Meter {
    requests: prometheus::IntCounter,
    seconds: prometheus::Histogram,
}

/// By [`Kind`].
struct Meters(Vec<Meter>);

impl Meters {
    fn new(metrics: &Metrics) -> Self {
        let meter = |name: &&str| Meter {
            requests: metrics.requests.with_label_values(&[name]),
            seconds: metrics.request_seconds.with_label_values(&[name]),
        };
        Meters(Kind::NAMES.iter().map(meter).collect())
    }
}

/// A stream of batched answers.
pub type Answers = Pin<Box<dyn Stream<Item = Result<BatchCommandsResponse, Status>> + Send>>;

/// Declares the kinds of request, each with its name in the metrics, the method of the service, and the method that does
/// its work.
macro_rules! service {
    ($($kind:ident, $name:literal: $call:ident($request:ident) -> $answer:ident by $work:ident;)*) => {
        /// The kinds of request.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        enum Kind { $($kind),* }

        impl Kind {
            const NAMES: &[&str] = &[$($name),*];
        }

        #[tonic::async_trait]
        impl<E: Engine> Tikv for TikvService<E> {
            async fn batch_commands(
                &self,
                request: Request<Streaming<BatchCommandsRequest>>,
            ) -> Result<Response<Answers>, Status> {
                Ok(Response::new(batch::serve(self.clone(), request.into_inner())))
            }

            $(
                async fn $call(&self, request: Request<kv::$request>) -> Result<Response<kv::$answer>, Status> {
                    let request = request.into_inner();
                    let answer = self.measured(Kind::$kind, self.$work(request)).await;
                    let unknown = answer.outcome_is_unknown();
                    let mut response = Response::new(answer);
                    if unknown {
                        response.metadata_mut().insert(proto::OUTCOME_UNKNOWN, MetadataValue::from_static("1"));
                    }
                    Ok(response)
                }
            )*
        }
    };
}

service! {
    RawGet, "raw_get": raw_get(RawGetRequest) -> RawGetResponse by get;
    RawBatchGet, "raw_batch_get": raw_batch_get(RawBatchGetRequest) -> RawBatchGetResponse by batch_get;
    RawGetKeyTtl, "raw_get_key_ttl": raw_get_key_ttl(RawGetKeyTtlRequest) -> RawGetKeyTtlResponse by get_key_ttl;
    RawPut, "raw_put": raw_put(RawPutRequest) -> RawPutResponse by put;
    RawBatchPut, "raw_batch_put": raw_batch_put(RawBatchPutRequest) -> RawBatchPutResponse by batch_put;
    RawDelete, "raw_delete": raw_delete(RawDeleteRequest) -> RawDeleteResponse by delete;
    RawBatchDelete, "raw_batch_delete": raw_batch_delete(RawBatchDeleteRequest) -> RawBatchDeleteResponse by batch_delete;
    RawDeleteRange, "raw_delete_range": raw_delete_range(RawDeleteRangeRequest) -> RawDeleteRangeResponse by delete_range;
    RawCas, "raw_compare_and_swap": raw_compare_and_swap(RawCasRequest) -> RawCasResponse by compare_and_swap;
    RawScan, "raw_scan": raw_scan(RawScanRequest) -> RawScanResponse by scan;
    RawBatchScan, "raw_batch_scan": raw_batch_scan(RawBatchScanRequest) -> RawBatchScanResponse by batch_scan;
    RawCoprocessor, "raw_coprocessor": raw_coprocessor(RawCoprocessorRequest) -> RawCoprocessorResponse by coprocessor;
    UnsafeDestroyRange, "unsafe_destroy_range": unsafe_destroy_range(UnsafeDestroyRangeRequest) -> UnsafeDestroyRangeResponse by destroy_range;
}
