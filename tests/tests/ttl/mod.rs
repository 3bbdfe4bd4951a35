//! Values that expire.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use client::{Client, Options, Ttl};
use tests::{Cluster, Wanted, wait_for};

use super::ONE_AT_A_TIME;

/// The client's functions for values that expire, against stores that keep the clock.
#[tokio::test(flavor = "multi_thread")]
async fn values_with_a_time_to_live_expire() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let cluster = Cluster::start(Wanted {
        api_version: 2,
        ..Wanted::default()
    })?;
    let client = Client::connect(&cluster.placement(), Options::default()).await?;
    let long = Duration::from_secs(3_600);
    client.put("forever", "v").await?;
    client.put_with_ttl("long", "v", long).await?;
    client
        .put_with_ttl("short", "v", Duration::from_secs(2))
        .await?;
    ensure!(client.get_ttl("absent").await?.is_none());
    ensure!(client.get_ttl("forever").await? == Some(Ttl::Forever));
    let Some(Ttl::Left(left)) = client.get_ttl("long").await? else {
        bail!("a value that expires has no time left");
    };
    ensure!(
        left <= long && left > long - Duration::from_secs(600),
        "{left:?}"
    );
    ensure!(client.get("long").await?.as_deref() == Some(&b"v"[..]));

    wait_for("the value expires", async || {
        Ok(client.get("short").await?.is_none())
    })
    .await?;
    ensure!(client.get_ttl("short").await?.is_none());
    // What expired is absent for a swap as well, and a plain write ends the time to live.
    let swapped = client
        .compare_and_swap_with_ttl("short", None, "w", long)
        .await?;
    ensure!(swapped.swapped && swapped.previous.is_none(), "{swapped:?}");
    ensure!(matches!(client.get_ttl("short").await?, Some(Ttl::Left(left)) if left <= long));
    client.put("short", "x").await?;
    ensure!(client.get_ttl("short").await? == Some(Ttl::Forever));

    // What is left is kept with the value: another leader knows it.
    let region = cluster.find("long")?;
    let led = cluster.region(region)?;
    let follower = led
        .stores
        .iter()
        .find(|store| Some(**store) != led.leader_store);
    let follower = *follower.context("a follower")?;
    cluster.transfer_leader(region, follower).await?;
    let Some(Ttl::Left(later)) = client.get_ttl("long").await? else {
        bail!("a value that expires has no time left at another leader");
    };
    ensure!(later <= left, "{later:?} left after {left:?}");
    cluster.passed();
    Ok(())
}

/// With version 1 of the interface nothing expires, and who asks for it is told so before anything is written.
#[tokio::test(flavor = "multi_thread")]
async fn a_time_to_live_is_refused_by_version_1() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let cluster = Cluster::start(Wanted::of(1, 1))?;
    let client = Client::connect(&cluster.placement(), Options::default()).await?;
    let refused = client.put_with_ttl("k", "v", Duration::from_secs(60)).await;
    ensure!(
        matches!(refused, Err(client::Error::Refused { .. })),
        "{refused:?}"
    );
    ensure!(client.get("k").await?.is_none());
    cluster.passed();
    Ok(())
}
