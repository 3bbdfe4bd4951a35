//! Counts elections by watching the terms of regions.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::task::JoinHandle;

use crate::remote::Remote;

/// Time between two looks.
const INTERVAL: Duration = Duration::from_millis(100);

/// Watches until it is dropped.
pub struct Monitor {
    terms: Arc<Mutex<BTreeMap<u64, Terms>>>,
    task: JoinHandle<()>,
}

#[derive(Clone, Copy)]
struct Terms {
    first: u64,
    last: u64,
}

impl Monitor {
    /// Begins to watch.
    pub fn start(remote: Remote) -> Self {
        let terms = Arc::new(Mutex::new(BTreeMap::new()));
        let seen = terms.clone();
        let task = tokio::spawn(async move {
            loop {
                // While placement elects, nothing can be seen; the next look makes up for it.
                if let Ok(regions) = remote.regions(&[], &[]).await {
                    let mut seen = seen.lock().expect("no holder of this lock panics");
                    for region in regions.iter().filter(|region| region.term > 0) {
                        let terms = seen.entry(region.id).or_insert(Terms {
                            first: region.term,
                            last: region.term,
                        });
                        terms.last = terms.last.max(region.term);
                    }
                }
                tokio::time::sleep(INTERVAL).await;
            }
        });
        Self { terms, task }
    }

    /// Terms that began in all regions since they were first seen. Each is an election, a transfer of leadership
    /// included.
    pub fn elections(&self) -> u64 {
        let terms = self.terms.lock().expect("no holder of this lock panics");
        terms.values().map(|terms| terms.last - terms.first).sum()
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.task.abort();
    }
}
