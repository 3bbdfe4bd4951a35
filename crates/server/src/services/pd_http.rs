//! Plain HTTP on the port of a placement member: regions, stores and their limits in the shape that tools for PD read,
//! `/health` for a prober, `/metrics` for Prometheus.
//!
//! Tools ask any member, so one that does not lead passes what concerns the cluster on to the leader, once.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, Query, Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderName, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use bytes::Bytes;
use engine::Engine;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use placement::{Answer, Refusal, RegionInfo, Request as Ask, StoreInfo};
use proto::{RegionId, StoreId, metapb};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::metrics::Metrics;
use crate::placement_process::{Members, Placement, REGION};
use crate::runtime::Handle;

/// Regions asked for at a time.
const PAGE: usize = 4096;
/// The rate that tools for PD show as unlimited.
const UNLIMITED: f64 = 1e8;
/// Time for the leader to begin its answer to a request that was passed on.
const FORWARD_MAX: Duration = Duration::from_secs(5);
/// Marks a request that was passed on: it is not passed on again.
const FORWARDED: HeaderName = HeaderName::from_static("pontoon-forwarded");

/// What the routes need.
pub struct Http<E: Engine> {
    shared: Arc<Shared<E>>,
}

impl<E: Engine> Clone for Http<E> {
    fn clone(&self) -> Self {
        Http {
            shared: self.shared.clone(),
        }
    }
}

struct Shared<E: Engine> {
    placement: Placement,
    members: Arc<Members>,
    node: Handle<E>,
    metrics: Arc<Metrics>,
    client: Client<HttpConnector, Body>,
    regions_per_minute: f64,
}

impl<E: Engine> Http<E> {
    /// For a member. The dial lets a store take in so many full regions in a minute.
    pub fn new(
        placement: Placement,
        members: Arc<Members>,
        node: Handle<E>,
        metrics: Arc<Metrics>,
        regions_per_minute: f64,
    ) -> Self {
        let client = Client::builder(TokioExecutor::new()).build_http();
        Http {
            shared: Arc::new(Shared {
                placement,
                members,
                node,
                metrics,
                client,
                regions_per_minute,
            }),
        }
    }

    /// The routes.
    pub fn router(self) -> Router {
        let cluster = Router::new()
            .route("/pd/api/v1/regions", get(regions::<E>))
            .route("/pd/api/v1/region/id/{id}", get(region_by_id::<E>))
            .route("/pd/api/v1/region/key/{key}", get(region_by_key::<E>))
            .route("/pd/api/v1/stores", get(stores::<E>))
            .route(
                "/pd/api/v1/stores/limit",
                get(store_limits::<E>).post(set_store_limits),
            )
            .route_layer(from_fn_with_state(self.clone(), forward::<E>));
        Router::new()
            .route("/health", get(health::<E>))
            .route("/metrics", get(metrics::<E>))
            .merge(cluster)
            .with_state(self)
    }
}

/// Passes a request on to the leader, if that is another member.
async fn forward<E: Engine>(State(http): State<Http<E>>, request: Request, next: Next) -> Response {
    let shared = &http.shared;
    let standing = shared.placement.standing();
    let leader = standing
        .leader
        .and_then(|leader| shared.members.address(leader));
    let Some(leader) =
        leader.filter(|_| standing.serving.is_none() && !request.headers().contains_key(FORWARDED))
    else {
        return next.run(request).await;
    };
    let path = request
        .uri()
        .path_and_query()
        .map_or("/", |path| path.as_str());
    let passed_on = Request::get(format!("http://{leader}{path}"))
        .header(FORWARDED, "1")
        .body(Body::empty());
    let Ok(passed_on) = passed_on else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    match tokio::time::timeout(FORWARD_MAX, shared.client.request(passed_on)).await {
        Ok(Ok(answer)) => answer.map(Body::new),
        Ok(Err(_)) | Err(_) => refuse(&http, &Refusal::NotLeader),
    }
}

/// A refusal as a status and a line of text.
fn refuse<E: Engine>(http: &Http<E>, refusal: &Refusal) -> Response {
    let code = match refusal {
        Refusal::NotLeader | Refusal::Busy(_) | Refusal::NotBootstrapped => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        Refusal::RegionNotFound(_) | Refusal::StoreNotFound(_) | Refusal::KeyspaceNotFound(_) => {
            StatusCode::NOT_FOUND
        }
        Refusal::AlreadyBootstrapped
        | Refusal::StoreTombstone(_)
        | Refusal::AddressInUse { .. }
        | Refusal::StaleBoot { .. }
        | Refusal::Rules(_)
        | Refusal::Invalid(_) => StatusCode::BAD_REQUEST,
    };
    let leader = http.shared.placement.standing().leader;
    let leader = leader.and_then(|leader| http.shared.members.address(leader));
    (
        code,
        Json(json!({ "error": refusal.to_string(), "leader": leader })),
    )
        .into_response()
}

async fn health<E: Engine>(State(http): State<Http<E>>) -> Response {
    let standing = http.shared.placement.standing();
    // A member is of use while it knows a leader.
    let healthy = standing.leader.is_some();
    let code = if healthy {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let voters = http.shared.node.region(REGION);
    let votes = |member: &StoreId| {
        let peers = voters.iter().flat_map(|view| &view.region.peers);
        let mut own = peers.filter(|peer| peer.store_id == member.0);
        own.any(|peer| peer.role() == metapb::PeerRole::Voter)
    };
    let members = standing.members.iter().map(|member| {
        json!({
            "id": member.0,
            "address": http.shared.members.address(*member),
            "votes": votes(member),
        })
    });
    let body = json!({
        "health": healthy.to_string(),
        "healthy": healthy,
        "leader": standing.leader.map(|leader| leader.0),
        "members": members.collect::<Vec<_>>(),
        "serving": standing.serving.is_some(),
        "cluster_id": standing.cluster_id,
    });
    (code, Json(body)).into_response()
}

async fn metrics<E: Engine>(State(http): State<Http<E>>) -> Response {
    let Shared { node, metrics, .. } = &*http.shared;
    metrics.set_engine(&node.engine().statistics());
    (
        [(CONTENT_TYPE, "text/plain; version=0.0.4")],
        metrics.text(),
    )
        .into_response()
}

async fn regions<E: Engine>(State(http): State<Http<E>>) -> Response {
    let mut all = Vec::new();
    let mut start = Bytes::new();
    loop {
        let ask = Ask::Regions {
            start,
            end: Bytes::new(),
            limit: PAGE,
        };
        let page = match http.shared.placement.ask(ask).await {
            Ok(Answer::Regions(page)) => page,
            Ok(_) => return StatusCode::INTERNAL_SERVER_ERROR.into_response(),
            Err(refusal) => return refuse(&http, &refusal),
        };
        let next = page
            .last()
            .map(|last| last.region.end_key.clone())
            .filter(|end| !end.is_empty());
        let full = page.len() == PAGE;
        all.extend(page.iter().map(region));
        match next.filter(|_| full) {
            Some(end) => start = end,
            None => break,
        }
    }
    Json(json!({ "count": all.len(), "regions": all })).into_response()
}

async fn region_by_id<E: Engine>(State(http): State<Http<E>>, Path(id): Path<u64>) -> Response {
    one_region(&http, Ask::Region(RegionId(id))).await
}

/// How a key in a path is written.
#[derive(Deserialize)]
struct KeyFormat {
    format: Option<String>,
}

/// The key is percent-encoded text, or with `?format=hex` hexadecimal.
async fn region_by_key<E: Engine>(
    State(http): State<Http<E>>,
    Path(key): Path<String>,
    Query(KeyFormat { format }): Query<KeyFormat>,
) -> Response {
    let bad = |error: String| (StatusCode::BAD_REQUEST, Json(json!({ "error": error })));
    let key = match format.as_deref() {
        None | Some("raw") => key.into_bytes(),
        Some("hex") => match unhex(&key) {
            Some(key) => key,
            None => {
                return bad(format!("{key} is not an even number of hexadecimal digits"))
                    .into_response();
            }
        },
        Some(other) => {
            return bad(format!("format {other} is neither raw nor hex")).into_response();
        }
    };
    one_region(&http, Ask::RegionByKey(key.into())).await
}

async fn one_region<E: Engine>(http: &Http<E>, ask: Ask) -> Response {
    match http.shared.placement.ask(ask).await {
        Ok(Answer::Region(found)) => Json(region(&found)).into_response(),
        Ok(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        Err(refusal) => refuse(http, &refusal),
    }
}

async fn stores<E: Engine>(State(http): State<Http<E>>) -> Response {
    match http.shared.placement.ask(Ask::Stores).await {
        Ok(Answer::Stores(stores)) => {
            let stores: Vec<_> = stores.iter().map(store).collect();
            Json(json!({ "count": stores.len(), "stores": stores })).into_response()
        }
        Ok(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        Err(refusal) => refuse(&http, &refusal),
    }
}

/// What PD calls store limits: regions that a store takes in and gives away in a minute. Here one dial grants bytes; this is
/// what it comes to in full regions. Giving away is not limited by itself.
async fn store_limits<E: Engine>(State(http): State<Http<E>>) -> Response {
    match http.shared.placement.ask(Ask::Stores).await {
        Ok(Answer::Stores(stores)) => {
            let limit = |kind: &str, rate: f64| json!({ "type": kind, "rate": rate });
            let limits = stores
                .iter()
                .filter(|info| info.store.state() != metapb::StoreState::Tombstone)
                .map(|info| {
                    let limits = json!({
                        "add-peer": limit("add-peer", http.shared.regions_per_minute),
                        "remove-peer": limit("remove-peer", UNLIMITED),
                    });
                    (info.store.id.to_string(), limits)
                });
            Json(Value::Object(limits.collect())).into_response()
        }
        Ok(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        Err(refusal) => refuse(&http, &refusal),
    }
}

async fn set_store_limits() -> Response {
    let error = "stores have no limits of their own: set balance.rebalance_share, the share of a store's rate that moves may \
                 take, in the configuration of the placement members";
    (StatusCode::BAD_REQUEST, Json(json!({ "error": error }))).into_response()
}

fn region(info: &RegionInfo) -> Value {
    let region = &info.region;
    let epoch = region.region_epoch.unwrap_or_default();
    let seconds = info.interval.as_secs();
    json!({
        "id": region.id,
        "start_key": hex(&region.start_key),
        "end_key": hex(&region.end_key),
        "epoch": { "conf_ver": epoch.conf_ver, "version": epoch.version },
        "peers": region.peers.iter().map(peer).collect::<Vec<_>>(),
        "leader": info.leader.as_ref().map_or_else(|| json!({}), peer),
        "down_peers": info.down.iter()
            .map(|(down, seconds)| json!({ "peer": peer(down), "down_seconds": seconds }))
            .collect::<Vec<_>>(),
        "pending_peers": info.pending.iter().map(peer).collect::<Vec<_>>(),
        // Readers of this interface take these for sums over the interval between heartbeats.
        "written_bytes": info.written_bytes * seconds,
        "read_bytes": info.read_bytes * seconds,
        "written_keys": info.written_keys * seconds,
        "read_keys": info.read_keys * seconds,
        "approximate_size": info.bytes.div_ceil(1 << 20),
        "approximate_keys": info.keys,
    })
}

fn peer(peer: &metapb::Peer) -> Value {
    let role = peer.role();
    let mut value =
        json!({ "id": peer.id, "store_id": peer.store_id, "role_name": role.as_str_name() });
    if role != metapb::PeerRole::Voter {
        value["role"] = json!(role as i32);
    }
    if role == metapb::PeerRole::Learner {
        value["is_learner"] = json!(true);
    }
    value
}

fn store(info: &StoreInfo) -> Value {
    let store = &info.store;
    let space = info.space.unwrap_or_default();
    let labels = store
        .labels
        .iter()
        .map(|label| json!({ "key": label.key, "value": label.value }));
    json!({
        "store": {
            "id": store.id,
            "address": store.address,
            "peer_address": store.peer_address,
            "status_address": store.status_address,
            "labels": labels.collect::<Vec<_>>(),
            "version": store.version,
            "start_timestamp": store.start_timestamp,
            "last_heartbeat": store.last_heartbeat,
            "deploy_path": store.deploy_path,
            "state": store.state,
            "state_name": store.state().as_str_name(),
        },
        "status": {
            "capacity": bytes_text(space.capacity_bytes),
            "available": bytes_text(space.available_bytes),
            "used_size": bytes_text(space.used_bytes),
            "leader_count": info.leaders,
            "region_count": info.peers,
            "silent_ms": info.silent.map(|silent| silent.as_millis() as u64),
        },
    })
}

/// A size as PD writes it, for example `1.5GiB`.
fn bytes_text(bytes: u64) -> String {
    bytesize::ByteSize(bytes)
        .display()
        .iec()
        .to_string()
        .replace(' ', "")
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    let digit = |digit: u8| char::from(digit).to_digit(16);
    let pairs = digits.chunks(2).map(|pair| match pair {
        [high, low] => u8::try_from(digit(*high)? << 4 | digit(*low)?).ok(),
        _ => None,
    });
    pairs.collect()
}

/// A key as PD writes it: upper-case hexadecimal.
fn hex(key: &[u8]) -> String {
    key.iter().map(|byte| format!("{byte:02X}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_have_the_shape_of_pd() {
        let peers = vec![
            metapb::Peer {
                id: 2,
                store_id: 1,
                ..Default::default()
            },
            metapb::Peer {
                id: 3,
                store_id: 4,
                role: metapb::PeerRole::Learner.into(),
                ..Default::default()
            },
        ];
        let info = RegionInfo {
            leader: peers.first().copied(),
            bytes: (96 << 20) + 1,
            region: metapb::Region {
                id: 7,
                start_key: Bytes::from_static(b"k\xff"),
                region_epoch: Some(metapb::RegionEpoch {
                    conf_ver: 5,
                    version: 3,
                }),
                peers,
                ..Default::default()
            },
            ..Default::default()
        };
        let value = region(&info);
        assert_eq!(value["id"], 7);
        assert_eq!(
            (&value["start_key"], &value["end_key"]),
            (&json!("6BFF"), &json!(""))
        );
        assert_eq!(value["epoch"], json!({ "conf_ver": 5, "version": 3 }));
        assert_eq!(value["leader"]["store_id"], 1);
        assert_eq!(
            value["peers"][1],
            json!({ "id": 3, "store_id": 4, "role_name": "Learner", "role": 1, "is_learner": true })
        );
        assert_eq!(value["approximate_size"], 97);
    }

    #[test]
    fn a_region_without_leader_has_an_empty_one() {
        assert_eq!(region(&RegionInfo::default())["leader"], json!({}));
    }
}
