//! A store that is told to stop twice.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use client::{Client, Options};
use tests::{Cluster, Wanted, wait_for};

use super::{ONE_AT_A_TIME, setting};

/// Bytes that a store wrote into its log.
const LOGGED: &str = "server_log_written_bytes_total";

/// A second signal ends a store that still hands over: at once, in order, with nothing acknowledged lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_told_twice_to_stop_ends_while_it_hands_over() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    // A leader that cannot hand over goes on trying for twice an election timeout; its own end is much further off.
    let cluster = Cluster::start(Wanted {
        environment: vec![
            setting("STORE_RAFT__ELECTION_TIMEOUT", "10s"),
            setting("STORE_DRAIN_TIMEOUT", "10m"),
        ],
        ..Wanted::default()
    })?;
    cluster.pause_balance()?;
    let options = Options {
        budget: Duration::from_secs(60),
        ..Options::default()
    };
    let client = Client::connect(&cluster.placement(), options).await?;
    // One that leads nothing: without a leader a region would wait for these long timeouts.
    let region = cluster.find("k")?;
    cluster.wait_led(|_| true).await?;
    let leader = cluster
        .region(region)?
        .leader_store
        .context("the region is led")?;
    let leader = cluster.store_name(leader)?;
    let name = cluster
        .names("stores")?
        .into_iter()
        .rfind(|name| *name != leader)
        .context("a store that follows")?;
    let store = cluster.store_id(&name)?;
    cluster.dev(&["kill", &name])?;
    let serving = cluster.serve_store(&name)?;
    cluster.transfer_leader(region, store).await?;
    for number in 0..100 {
        client.put(format!("k{number:03}"), "kept").await?;
    }

    // Nobody has the last write, so nobody can take over.
    let mut paused = Vec::new();
    for other in cluster.names("stores")? {
        if other != name {
            paused.push(cluster.pause(&other)?);
        }
    }
    let padding = 1 << 20;
    let before = cluster.counter(&name, LOGGED)?;
    let writing = tokio::spawn(async move { client.put("last", vec![b'l'; padding]).await });
    wait_for("the last write is in the log", async || {
        Ok(cluster.counter(&name, LOGGED)? >= before + padding as u64)
    })
    .await?;
    serving.signal("-TERM")?;
    wait_for("the store hands over", async || {
        Ok(cluster.log(&name)?.contains("handing leaderships over"))
    })
    .await?;
    serving.signal("-TERM")?;
    let status = serving.ended().await?;
    let log = cluster.log(&name)?;
    ensure!(
        status.code() == Some(0) && log.contains("told twice: stopping at once"),
        "it ended with {status}: {log}"
    );
    ensure!(!log.contains("handed over"), "{log}");

    drop(paused);
    cluster.dev(&["restart", &name])?;
    writing.abort();
    let client = Client::connect(&cluster.placement(), options).await?;
    cluster.transfer_leader(region, store).await?;
    for number in 0..100 {
        let read = client.get(format!("k{number:03}")).await?;
        ensure!(
            read.as_deref() == Some(&b"kept"[..]),
            "k{number:03} is lost"
        );
    }
    cluster.passed();
    Ok(())
}
