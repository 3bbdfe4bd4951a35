//! The status port of a process: `/health` for a prober, `/metrics` for Prometheus, `/status` for a person or a tool.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use engine::Engine;
use proto::metapb;
use proto::pontoon::v1::StoreIdentity;
use serde_json::{Value, json};
use store::event::RegionView;
use tokio::net::TcpListener;

use crate::metrics::Metrics;
use crate::runtime::Handle;
use crate::store_process::Error;

/// A region worker that ended no turn for this long is stuck: it ticks many times a second when idle.
const STUCK_AFTER: Duration = Duration::from_secs(2);
/// A write or sync of the log that takes this long means that the disk hangs.
const DISK_STUCK_AFTER: Duration = Duration::from_secs(5);

/// What the status port of a store shows.
pub struct Status<E: Engine> {
    shared: Arc<Shared<E>>,
}

impl<E: Engine> Clone for Status<E> {
    fn clone(&self) -> Self {
        Status {
            shared: self.shared.clone(),
        }
    }
}

struct Shared<E: Engine> {
    node: Handle<E>,
    metrics: Arc<Metrics>,
    identity: StoreIdentity,
}

impl<E: Engine> Status<E> {
    /// For a node.
    pub fn new(node: Handle<E>, metrics: Arc<Metrics>, identity: &StoreIdentity) -> Self {
        Status {
            shared: Arc::new(Shared {
                node,
                metrics,
                identity: identity.clone(),
            }),
        }
    }

    /// The routes.
    pub fn router(self) -> Router {
        Router::new()
            .route("/health", get(health::<E>))
            .route("/metrics", get(metrics::<E>))
            .route("/status", get(status::<E>))
            .with_state(self)
    }
}

/// Serves the status port.
///
/// # Errors
/// [`Error::Serving`].
pub async fn serve<E: Engine>(
    listener: TcpListener,
    address: String,
    status: Status<E>,
) -> Result<(), Error> {
    axum::serve(listener, status.router())
        .await
        .map_err(|error| Error::Serving {
            address,
            source: error.into(),
        })
}

async fn health<E: Engine>(State(status): State<Status<E>>) -> Response {
    let worker = status.shared.node.stalled_for();
    let log = status.shared.node.log_stalled_for();
    let healthy = worker < STUCK_AFTER && log < DISK_STUCK_AFTER;
    let code = if healthy {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let body = json!({
        "healthy": healthy,
        "worker_silent_ms": worker.as_millis() as u64,
        "log_busy_ms": log.as_millis() as u64,
    });
    (code, Json(body)).into_response()
}

async fn metrics<E: Engine>(State(status): State<Status<E>>) -> Response {
    let Shared { node, metrics, .. } = &*status.shared;
    metrics.set_engine(&node.engine().statistics());
    metrics.request_bytes.set(node.request_bytes() as i64);
    (
        [(CONTENT_TYPE, "text/plain; version=0.0.4")],
        metrics.text(),
    )
        .into_response()
}

async fn status<E: Engine>(State(status): State<Status<E>>) -> Json<Value> {
    let Shared { node, identity, .. } = &*status.shared;
    let mut views = node.views().all();
    views.sort_by_key(|view| view.region.id);
    let statistics = node.engine().statistics();
    Json(json!({
        "cluster_id": identity.cluster_id,
        "store_id": identity.store_id,
        "boot": identity.boot,
        "api_version": identity.api_version,
        "version": env!("CARGO_PKG_VERSION"),
        "region_count": views.len(),
        "leader_count": node.views().leaders(),
        "worker_silent_ms": node.stalled_for().as_millis() as u64,
        "engine": {
            "memtable_bytes": statistics.memtable_bytes,
            "file_bytes": statistics.file_bytes,
            "compaction_pending_bytes": statistics.compaction_pending_bytes,
            "stalled": statistics.stalled,
        },
        "regions": views.iter().map(|view| region(view)).collect::<Vec<_>>(),
    }))
}

fn region(view: &RegionView) -> Value {
    let epoch = view.region.region_epoch.unwrap_or_default();
    json!({
        "id": view.region.id,
        "start_key": hex(&view.region.start_key),
        "end_key": hex(&view.region.end_key),
        "conf_ver": epoch.conf_ver,
        "version": epoch.version,
        "peer": view.peer.0,
        "role": format!("{:?}", view.role).to_lowercase(),
        "term": view.term,
        "leader": view.leader.as_ref().map(peer),
        "peers": view.region.peers.iter().map(peer).collect::<Vec<_>>(),
        "owns_range": view.owns_range,
        "frozen": view.frozen,
        "damaged": view.damaged,
    })
}

fn peer(peer: &metapb::Peer) -> Value {
    json!({ "id": peer.id, "store_id": peer.store_id, "role": peer.role().as_str_name() })
}

fn hex(key: &[u8]) -> String {
    key.iter().map(|byte| format!("{byte:02x}")).collect()
}
