//! The one port of a placement member: gRPC for clients, stores, other members and tools, plain HTTP beside it.
//!
//! Until the group of the member has begun, the port serves the question who it is, and everything else is told to wait.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use engine::Engine;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use proto::keyspacepb::keyspace_server::KeyspaceServer;
use proto::pdpb::pd_server::PdServer;
use proto::pontoon::v1::admin_server::AdminServer;
use proto::pontoon::v1::members_server::MembersServer;
use proto::pontoon::v1::steps_server::StepsServer;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::Status;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tower::Service;
use transport::{PeerService, Receiver};

use super::directory::Known;
use super::error::Error;
use super::handle::Placement;
use super::member::Members;
use super::service::MembersService;
use crate::metrics::Metrics;
use crate::runtime::Handle;
use crate::services::admin::AdminService;
use crate::services::health::health;
use crate::services::pd::PdService;
use crate::services::pd_http::Http;

/// Largest message of a client or a store.
const REQUEST_BYTES_MAX: usize = 16 << 20;
/// Largest message of another member about itself.
const GREETING_BYTES_MAX: usize = 4 << 10;
/// Calls of one connection at a time; more wait at the client.
const STREAMS_MAX: u32 = 4096;
/// A connection that leaves a ping unanswered for this long is closed.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// What is served now.
pub type Current = Arc<ArcSwap<Router>>;

/// What a member of a group that has begun serves.
pub struct Served<E: Engine, R> {
    pub placement: Placement,
    pub members: Arc<Members>,
    pub known: watch::Receiver<Known>,
    pub node: Handle<E>,
    pub metrics: Arc<Metrics>,
    pub peers: PeerService<R>,
    /// Full regions that the dial lets a store take in.
    pub regions_per_minute: f64,
}

/// What a member serves whose group has not begun.
pub fn waiting<E: Engine>(members: Arc<Members>, known: watch::Receiver<Known>) -> Router {
    let service = MembersService::<E>::new(members, known, None);
    Routes::new(MembersServer::new(service).max_decoding_message_size(GREETING_BYTES_MAX))
        .into_axum_router()
        .fallback(async |request: Request| -> Response {
            let text = "the placement group is not formed yet: its log says whom it waits for";
            let kind = request.headers().get(CONTENT_TYPE);
            if kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc")) {
                let (parts, ()) = Status::unavailable(text).into_http().into_parts();
                return Response::from_parts(parts, Body::empty());
            }
            let body = json!({ "health": "false", "healthy": false, "error": text });
            (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response()
        })
}

/// What a member of a group serves. Once `stopping` is true probers are told not to send anybody here any more, while what
/// comes is served.
///
/// # Errors
/// [`Error::Reflection`].
pub async fn routes<E: Engine, R: Receiver>(
    served: Served<E, R>,
    stopping: watch::Receiver<bool>,
) -> Result<Router, Error> {
    let Served {
        placement,
        members,
        known,
        node,
        metrics,
        peers,
        regions_per_minute,
    } = served;
    let health = health::<PdServer<PdService>>(stopping).await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(proto::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .map_err(|error| Error::Reflection(error.into()))?;
    let pd = PdService::new(placement.clone(), members.clone());
    let admin = AdminService::new(placement.clone(), members.clone());
    let asked = MembersService::new(members.clone(), known, Some(node.clone()));
    let grpc = Routes::new(health)
        .add_service(reflection)
        .add_service(PdServer::new(pd.clone()).max_decoding_message_size(REQUEST_BYTES_MAX))
        .add_service(StepsServer::new(pd.clone()).max_decoding_message_size(REQUEST_BYTES_MAX))
        .add_service(KeyspaceServer::new(pd).max_decoding_message_size(REQUEST_BYTES_MAX))
        .add_service(AdminServer::new(admin).max_decoding_message_size(REQUEST_BYTES_MAX))
        .add_service(MembersServer::new(asked).max_decoding_message_size(GREETING_BYTES_MAX))
        .add_service(peers.server());
    let http = Http::new(placement, members, node, metrics, regions_per_minute).router();
    Ok(grpc.into_axum_router().merge(http))
}

/// Serves what is `current` until `closing` is true or its sender is gone, then finishes what is under way.
///
/// # Errors
/// [`Error::Serving`].
pub async fn serve(
    listener: TcpListener,
    address: String,
    current: Current,
    mut closing: watch::Receiver<bool>,
) -> Result<(), Error> {
    let switch = Router::new().fallback(move |request: Request| {
        let mut router = Router::clone(&current.load());
        async move { router.call(request).await }
    });
    Server::builder()
        // Tools and probers speak HTTP/1.1 on the same port.
        .accept_http1(true)
        .max_concurrent_streams(STREAMS_MAX)
        .http2_keepalive_interval(Some(SILENCE_MAX))
        .http2_keepalive_timeout(Some(SILENCE_MAX))
        .add_routes(Routes::from(switch))
        .serve_with_incoming_shutdown(
            TcpIncoming::from(listener).with_nodelay(Some(true)),
            async {
                // Fired, or its owner is gone: either way it is time.
                let _ = closing.wait_for(|closing| *closing).await;
            },
        )
        .await
        .map_err(|error| Error::Serving {
            address,
            source: error.into(),
        })
}
