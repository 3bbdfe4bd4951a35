//! Clients that write all the time and remember what was acknowledged.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use bytes::Bytes;
use client::{Client, Options};
use tests::{Cluster, wait_for};
use tokio::task::JoinHandle;

/// Keys of one writer, written over and over.
const KEYS: u64 = 500;

/// What one writer knows of a key: the newest acknowledged version and the newest that was tried.
#[derive(Clone, Copy, Default)]
struct Known {
    acknowledged: u64,
    tried: u64,
}

/// Running writers.
pub struct Writers {
    client: Client,
    stop: Arc<AtomicBool>,
    written: Arc<AtomicU64>,
    tasks: Vec<JoinHandle<BTreeMap<String, Known>>>,
}

impl Writers {
    /// Starts `count` writers; writer `n` owns the keys that begin with `wn-`.
    pub async fn start(cluster: &Cluster, count: usize) -> Result<Self> {
        let options = Options {
            budget: Duration::from_secs(60),
            ..Options::default()
        };
        let client = Client::connect(&cluster.placement(), options).await?;
        let (stop, written) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let tasks = (0..count)
            .map(|writer| {
                tokio::spawn(write(writer, client.clone(), stop.clone(), written.clone()))
            })
            .collect();
        Ok(Self {
            client,
            stop,
            written,
            tasks,
        })
    }

    /// Waits until `count` more writes are acknowledged.
    pub async fn make_progress(&self, count: u64) -> Result<()> {
        let goal = self.written.load(Ordering::Relaxed) + count;
        wait_for("writes are acknowledged", async || {
            Ok(self.written.load(Ordering::Relaxed) >= goal)
        })
        .await
    }

    /// Stops the writers and reads every key back: it holds the newest acknowledged version or a later one that was tried.
    pub async fn stop_and_verify(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let mut verified = 0;
        for task in self.tasks {
            for (key, known) in task.await? {
                let value = self.client.get(key.clone()).await?;
                let version = value.as_deref().map(version).unwrap_or_default();
                ensure!(
                    (known.acknowledged..=known.tried).contains(&version),
                    "{key}: version {version} read, {} acknowledged, {} tried",
                    known.acknowledged,
                    known.tried
                );
                verified += 1;
            }
        }
        ensure!(verified > 0, "nothing was written");
        Ok(())
    }
}

async fn write(
    writer: usize,
    client: Client,
    stop: Arc<AtomicBool>,
    written: Arc<AtomicU64>,
) -> BTreeMap<String, Known> {
    let mut known: BTreeMap<String, Known> = BTreeMap::new();
    let mut number = 0u64;
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        let key = format!("w{writer}-{:04}", number % KEYS);
        let entry = known.entry(key.clone()).or_default();
        entry.tried = number;
        match client
            .put(key, Bytes::from(format!("{number} of writer {writer}")))
            .await
        {
            Ok(()) => {
                entry.acknowledged = number;
                written.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => eprintln!("writer {writer}: put {number} failed: {error}"),
        }
    }
    known
}

fn version(value: &[u8]) -> u64 {
    let text = String::from_utf8_lossy(value);
    text.split(' ')
        .next()
        .and_then(|number| number.parse().ok())
        .unwrap_or_default()
}
