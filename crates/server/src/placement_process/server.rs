//! The one port of a placement member: gRPC for clients, stores, other members and tools, plain HTTP beside it.

use std::sync::Arc;
use std::time::Duration;

use engine::Engine;
use proto::keyspacepb::keyspace_server::KeyspaceServer;
use proto::pdpb::pd_server::PdServer;
use proto::pontoon::v1::admin_server::AdminServer;
use proto::pontoon::v1::steps_server::StepsServer;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use transport::{PeerService, Receiver};

use super::error::Error;
use super::handle::Placement;
use super::member::Members;
use crate::metrics::Metrics;
use crate::runtime::Handle;
use crate::services::admin::AdminService;
use crate::services::health::health;
use crate::services::pd::PdService;
use crate::services::pd_http::Http;

/// Largest message of a client or a store.
const REQUEST_BYTES_MAX: usize = 16 << 20;
/// Calls of one connection at a time; more wait at the client.
const STREAMS_MAX: u32 = 4096;
/// A connection that leaves a ping unanswered for this long is closed.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// What is served.
pub struct Served<E: Engine, R> {
    pub placement: Placement,
    pub members: Arc<Members>,
    pub node: Handle<E>,
    pub metrics: Arc<Metrics>,
    pub peers: PeerService<R>,
}

/// Serves until `closing` is true or its sender is gone, then finishes what is under way. Once `stopping` is true probers
/// are told not to send anybody here any more, while what comes is served.
///
/// # Errors
/// [`Error::Serving`].
pub async fn serve<E: Engine, R: Receiver>(
    listener: TcpListener,
    address: String,
    served: Served<E, R>,
    stopping: watch::Receiver<bool>,
    mut closing: watch::Receiver<bool>,
) -> Result<(), Error> {
    let failed = |source: Box<dyn std::error::Error + Send + Sync>| Error::Serving {
        address: address.clone(),
        source,
    };
    let Served {
        placement,
        members,
        node,
        metrics,
        peers,
    } = served;
    let health = health::<PdServer<PdService>>(stopping).await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(proto::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .map_err(|error| failed(error.into()))?;
    let pd = PdService::new(placement.clone(), members.clone());
    let admin = AdminService::new(placement.clone(), members.clone());
    let grpc = Routes::new(health)
        .add_service(reflection)
        .add_service(PdServer::new(pd.clone()).max_decoding_message_size(REQUEST_BYTES_MAX))
        .add_service(StepsServer::new(pd.clone()).max_decoding_message_size(REQUEST_BYTES_MAX))
        .add_service(KeyspaceServer::new(pd).max_decoding_message_size(REQUEST_BYTES_MAX))
        .add_service(AdminServer::new(admin).max_decoding_message_size(REQUEST_BYTES_MAX))
        .add_service(peers.server());
    let http = Http::new(placement, members, node, metrics).router();
    let routes = Routes::from(grpc.into_axum_router().merge(http));
    Server::builder()
        // Tools and probers speak HTTP/1.1 on the same port.
        .accept_http1(true)
        .max_concurrent_streams(STREAMS_MAX)
        .http2_keepalive_interval(Some(SILENCE_MAX))
        .http2_keepalive_timeout(Some(SILENCE_MAX))
        .add_routes(routes)
        .serve_with_incoming_shutdown(
            TcpIncoming::from(listener).with_nodelay(Some(true)),
            async {
                // Fired, or its owner is gone: either way it is time.
                let _ = closing.wait_for(|closing| *closing).await;
            },
        )
        .await
        .map_err(|error| failed(error.into()))
}
