//! The health service of gRPC: what probers are told of this process.

use tokio::sync::watch;
use tonic::server::NamedService;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};

/// Serves health, for the process as a whole and for its service `S`: serving until `stopping` is true or its sender is
/// gone. Then probers are told not to send anybody here any more, while what comes is served. Must be called inside a runtime.
pub async fn health<S: NamedService>(
    mut stopping: watch::Receiver<bool>,
) -> HealthServer<impl Health> {
    let (reporter, service) = tonic_health::server::health_reporter();
    reporter.set_serving::<S>().await;
    tokio::spawn(async move {
        // Fired, or its owner is gone: either way the end is near.
        let _ = stopping.wait_for(|stopping| *stopping).await;
        reporter.set_not_serving::<S>().await;
        reporter
            .set_service_status("", ServingStatus::NotServing)
            .await;
    });
    service
}
