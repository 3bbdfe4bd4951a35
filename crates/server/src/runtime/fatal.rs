//! How a node stops when it must not go on (R14): its storage failed and its state is unknown.

use std::sync::Arc;
use std::time::Duration;

use engine::Engine;

use super::Node;
use crate::exit::{self, Kind};

/// What made the node stop.
#[derive(Debug, thiserror::Error)]
#[error("{doing} failed, and what is on disk is unknown now")]
pub struct FatalError {
    /// What the node was doing.
    pub doing: &'static str,
    /// Why it failed.
    #[source]
    pub cause: Box<dyn std::error::Error + Send + Sync>,
}

/// Time given to the threads of a node to finish what they were handed.
pub const STOP_MAX: Duration = Duration::from_secs(10);

/// Is told of the failure that ends the node. Called by the thread that met it, which does nothing afterwards.
pub type OnFatal = Arc<dyn Fn(FatalError) + Send + Sync>;

/// Ends the process, naming the cause, within a second: nothing may be acknowledged after a failed write.
pub fn exit_process() -> OnFatal {
    Arc::new(|error| {
        let text = exit::chain(&error);
        tracing::error!(error = %text, "stopping: storage failed");
        eprintln!("pontoon: stopping: {text}");
        exit_at_once(i32::from(Kind::Environment.code()))
    })
}

/// Ends the process with a code, whatever its threads wait for.
pub fn exit_at_once(code: i32) -> ! {
    // Exit handlers of linked libraries may wait for threads that are stuck in a disk that failed or hangs.
    let watchdog = std::thread::Builder::new()
        .name("watchdog".to_owned())
        .spawn(|| {
            std::thread::sleep(Duration::from_millis(500));
            std::process::abort();
        });
    if watchdog.is_err() {
        std::process::abort();
    }
    std::process::exit(code)
}

/// Stops a node for a process that was told to end: within `patience`, or with the process.
///
/// What was acknowledged is durable, so threads that hang in a disk are left behind without loss.
pub async fn stop_within<E: Engine>(node: Node<E>, patience: Duration) {
    let stopping = tokio::task::spawn_blocking(move || node.stop());
    match tokio::time::timeout(patience, stopping).await {
        Ok(ended) => debug_assert!(ended.is_ok(), "a thread of the node panicked"),
        Err(_) => {
            tracing::error!(
                ?patience,
                "threads hang, for a disk it seems: ending without them"
            );
            exit_at_once(i32::from(Kind::Environment.code()));
        }
    }
}
