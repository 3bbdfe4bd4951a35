//! `pontoon verify replicas`, and leaders that verify by themselves: whether all replicas store the same.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::{Cluster, Wanted, wait_for};

use crate::writers::Writers;
use crate::{ONE_AT_A_TIME, rot, setting, split_in_four, unpackable};

/// What the command finds, and what it exits with.
fn verify(cluster: &Cluster, region: u64) -> Result<(Option<i32>, Value)> {
    let (region, placement) = (region.to_string(), cluster.placement().join(","));
    let args = [
        "verify", "replicas", "--region", &region, "--output", "json",
    ];
    let place = ["--placement", &placement];
    let output = cluster.try_pontoon(&[&args[..], &place].concat())?;
    let report = serde_json::from_slice(&output.stdout);
    let report = report.with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    Ok((output.status.code(), report))
}

/// Keys in many blocks of a file, so that a rotten one holds nothing but some of them.
async fn put_some(client: &client::Client) -> Result<()> {
    for number in 0..100 {
        let key = format!("k{number:03}");
        client.put(key, unpackable(number, 1_000)).await?;
    }
    Ok(())
}

async fn is_replaced(cluster: &Cluster, region: u64, store: u64) -> Result<()> {
    wait_for("the replica is elsewhere", async || {
        let region = cluster.region(region)?;
        Ok(region.settled && region.stores.len() == 3 && !region.stores.contains(&store))
    })
    .await
}

/// R12, R13: under writers all replicas are the same. A byte that rots on one store is found by asking, named, and replaced.
#[tokio::test(flavor = "multi_thread")]
async fn replicas_are_verified_and_rot_is_found() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let cluster = Cluster::start(Wanted::of(4, 1))?;
    cluster.pause_balance()?;
    let writers = Writers::start(&cluster, 4).await?;
    split_in_four(&cluster).await?;
    writers.make_progress(100).await?;
    let report = cluster.ask(&["verify", "replicas"])?;
    ensure!(report["same"] == report["regions"], "{report}");
    ensure!(report["regions"].as_u64() >= Some(4), "{report}");
    ensure!(report["keys"].as_u64() > Some(0), "{report}");
    writers.stop_and_verify().await?;

    let client = client::Client::connect(&cluster.placement(), Default::default()).await?;
    put_some(&client).await?;
    let region = cluster.find("k000")?;
    let (store, name) = rot(&cluster, region, &unpackable(42, 1_000)).await?;
    // What repairs waits, for a look at what it repairs.
    let placement = cluster.placement().join(",");
    let repair = |what: &str, rest: &[&str]| {
        let args = [&["scheduler", what, "repair"], rest].concat();
        cluster.pontoon(&[&args[..], &["--placement", &placement]].concat())
    };
    repair("pause", &["1h"])?;
    cluster.dev(&["restart", &name])?;
    let (code, report) = verify(&cluster, region)?;
    ensure!(code == Some(1), "{code:?}: {report}");
    ensure!(
        report["unreadable"] == 1 && report["regions"] == 1,
        "{report}"
    );
    let peers = report["found"][0]["peers"].as_array().context("peers")?;
    for peer in peers {
        let of = peer["store"].as_u64().context("a store")?;
        let rotten = of == store;
        let expected = if rotten { "unreadable" } else { "same" };
        ensure!(peer["outcome"] == expected, "{report}");
        let name = cluster.store_name(of)?;
        let found = cluster.counter(&name, "server_damage_found_total")?;
        let verified = cluster.counter(&name, "server_verified_bytes_total")?;
        ensure!((found > 0) == rotten, "{name} found {found} damages");
        ensure!((verified > 0) != rotten, "{name} verified {verified} bytes");
    }
    repair("resume", &[])?;
    is_replaced(&cluster, region, store).await?;
    let (code, report) = verify(&cluster, region)?;
    ensure!(code == Some(0) && report["same"] == 1, "{code:?}: {report}");
    cluster.passed();
    Ok(())
}

/// R13: nobody asks and nobody reads; the region's turn comes.
#[tokio::test(flavor = "multi_thread")]
async fn rot_is_found_without_a_read() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let cluster = Cluster::start(Wanted {
        environment: vec![setting("STORE_VERIFY__EVERY", "3s")],
        ..Wanted::of(4, 1)
    })?;
    cluster.pause_balance()?;
    let client = client::Client::connect(&cluster.placement(), Default::default()).await?;
    put_some(&client).await?;
    let region = cluster.find("k000")?;
    let (store, name) = rot(&cluster, region, &unpackable(42, 1_000)).await?;
    cluster.dev(&["restart", &name])?;
    wait_for("the store finds it", async || {
        Ok(cluster.counter(&name, "server_damage_found_total")? > 0)
    })
    .await?;
    is_replaced(&cluster, region, store).await?;
    let read = client.get("k042".to_owned()).await?;
    ensure!(read.as_deref() == Some(&unpackable(42, 1_000)[..]));
    let names = cluster.names("stores")?;
    let counters = names.iter().map(|name| {
        let verified = cluster.counter(name, "server_verified_regions_total")?;
        Ok((verified, cluster.counter(name, "server_divergences_total")?))
    });
    let counters: Vec<(u64, u64)> = counters.collect::<Result<_>>()?;
    ensure!(
        counters.iter().any(|(verified, _)| *verified > 0),
        "{counters:?}"
    );
    ensure!(
        counters.iter().all(|(_, differ)| *differ == 0),
        "{counters:?}"
    );
    cluster.passed();
    Ok(())
}
