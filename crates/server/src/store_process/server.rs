//! The gRPC server of a store: clients, tools, other stores, health and reflection on one port.

use std::time::Duration;

use engine::Engine;
use proto::pontoon::v1::replicas_server::ReplicasServer;
use proto::tikvpb::tikv_server::TikvServer;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use transport::{PeerService, Receiver};

use super::error::Error;
use crate::services::health::health;
use crate::services::replicas::ReplicasService;
use crate::services::tikv::TikvService;
use crate::services::tikv::check::REQUEST_BYTES_MAX;

/// Bytes of one stream in flight towards this store.
const STREAM_WINDOW: u32 = 2 << 20;
/// Bytes of one connection in flight.
const CONNECTION_WINDOW: u32 = 16 << 20;
/// Calls of one connection at a time; more wait at the client.
const STREAMS_MAX: u32 = 4096;
/// A connection that leaves a ping unanswered for this long is closed.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// Serves until `closing` is true or its sender is gone, then finishes what is under way. Once `stopping` is true probers
/// are told not to send anybody here any more, while what comes is served.
pub async fn serve<E: Engine, R: Receiver>(
    listener: TcpListener,
    address: String,
    tikv: TikvService<E>,
    replicas: ReplicasService<E>,
    peers: PeerService<R>,
    stopping: watch::Receiver<bool>,
    mut closing: watch::Receiver<bool>,
) -> Result<(), Error> {
    let failed = |source: Box<dyn std::error::Error + Send + Sync>| Error::Serving {
        address: address.clone(),
        source,
    };
    let health = health::<TikvServer<TikvService<E>>>(stopping).await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(proto::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .map_err(|error| failed(error.into()))?;
    // The size of a message is checked before it is read.
    let tikv = TikvServer::new(tikv).max_decoding_message_size(REQUEST_BYTES_MAX);
    Server::builder()
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(STREAMS_MAX)
        .http2_keepalive_interval(Some(SILENCE_MAX))
        .http2_keepalive_timeout(Some(SILENCE_MAX))
        .add_service(health)
        .add_service(reflection)
        .add_service(tikv)
        .add_service(ReplicasServer::new(replicas))
        .add_service(peers.server())
        .add_service(peers.beats())
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
