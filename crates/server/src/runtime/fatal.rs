//! How a node stops when it must not go on (R14): its storage failed and its state is unknown.

use std::sync::Arc;
use std::time::Duration;

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

/// Is told of the failure that ends the node. Called by the thread that met it, which does nothing afterwards.
pub type OnFatal = Arc<dyn Fn(FatalError) + Send + Sync>;

/// Ends the process, naming the cause, within a second: nothing may be acknowledged after a failed write.
pub fn exit_process() -> OnFatal {
    Arc::new(|error| {
        let text = exit::chain(&error);
        tracing::error!(error = %text, "stopping: storage failed");
        eprintln!("pontoon: stopping: {text}");
        // Exit handlers of linked libraries may wait for threads that are stuck in the failed disk.
        let watchdog = std::thread::Builder::new()
            .name("watchdog".to_owned())
            .spawn(|| {
                std::thread::sleep(Duration::from_millis(500));
                std::process::abort();
            });
        if watchdog.is_err() {
            std::process::abort();
        }
        std::process::exit(i32::from(Kind::Environment.code()));
    })
}
