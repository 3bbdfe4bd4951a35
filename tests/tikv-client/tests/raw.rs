//! The unmodified crate `tikv-client` does raw operations of every kind while regions are split and moved and a store is
//! killed, in both versions of the interface.

mod kinds;

use anyhow::{Context, Result, ensure};
use kinds::Work;
use tests::{Cluster, Wanted, wait_for};
use tikv_client::{Config, RawClient};

/// One cluster at a time: each has seven processes, on machines with two cores.
static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

async fn client(cluster: &Cluster, api_version: u32) -> Result<RawClient> {
    let config = match api_version {
        1 => Config::default(),
        _ => Config::default().with_default_keyspace(),
    };
    RawClient::new_with_config(cluster.placement(), config)
        .await
        .context("the client opens")
}

fn key(number: u32) -> String {
    format!("key-{number:05}")
}

/// Put, get, delete, batches, scans both ways, over several regions.
async fn basics(cluster: &Cluster, client: &RawClient) -> Result<()> {
    client.put("a".to_owned(), "1").await?;
    ensure!(client.get("a".to_owned()).await? == Some(b"1".to_vec()));
    client.delete("a".to_owned()).await?;
    ensure!(client.get("a".to_owned()).await?.is_none());

    // This client starts over from the first key when a scan reaches the region without an end before its limit, so the
    // scans below end in a region with one.
    for boundary in [100, 200, 300, 400, 500] {
        cluster.split(&key(boundary)).await?;
    }
    let pairs: Vec<(String, String)> = (0..500)
        .map(|number| (key(number), format!("value {number}")))
        .collect();
    client.batch_put(pairs.clone()).await?;
    let found = client
        .batch_get(pairs.iter().map(|(key, _)| key.clone()))
        .await?;
    ensure!(found.len() == 500, "batch_get found {}", found.len());

    let scanned = client.scan(key(50)..key(450), 1000).await?;
    ensure!(scanned.len() == 400, "scan found {}", scanned.len());
    ensure!(
        scanned.windows(2).all(|pair| pair[0].0 < pair[1].0),
        "scan is in order"
    );
    ensure!(scanned[0].1 == b"value 50");
    let limited = client.scan(key(90)..key(450), 25).await?;
    ensure!(
        limited.len() == 25,
        "limit over a region edge: {}",
        limited.len()
    );
    // It walks regions upwards even when it scans downwards, so the order holds within a region.
    let reversed = client.scan_reverse(key(110)..key(190), 1000).await?;
    ensure!(
        reversed.len() == 80,
        "reverse scan found {}",
        reversed.len()
    );
    ensure!(
        reversed.windows(2).all(|pair| pair[0].0 > pair[1].0),
        "reverse scan is in order"
    );
    let both = client.scan_reverse(key(150)..key(250), 1000).await?;
    ensure!(
        both.len() == 100,
        "reverse scan over a region edge found {}",
        both.len()
    );
    let keys = client.scan_keys(key(0)..key(500), 1000).await?;
    ensure!(keys.len() == 500);
    let batches = client
        .batch_scan([key(10)..key(20), key(210)..key(230)], 15)
        .await?;
    ensure!(
        batches.len() == 10 + 15,
        "batch scan found {}",
        batches.len()
    );

    client.batch_delete((0..10).map(key)).await?;
    ensure!(client.batch_get((0..20).map(key)).await?.len() == 10);
    client.delete_range(key(150)..key(350)).await?;
    let left = client.scan_keys(key(0)..key(500), 1000).await?;
    ensure!(
        left.len() == 500 - 10 - 200,
        "after deleting a range {} are left",
        left.len()
    );
    Ok(())
}

/// Compare-and-swap in its four outcomes.
async fn compare_and_swap(client: &RawClient) -> Result<()> {
    let client = client.with_atomic_for_cas();
    let swap = async |previous: Option<&str>, value: &str| {
        client
            .compare_and_swap(
                "cas".to_owned(),
                previous.map(|value| value.as_bytes().to_vec()),
                value.to_owned(),
            )
            .await
    };
    ensure!(swap(None, "1").await? == (None, true));
    ensure!(swap(None, "2").await? == (Some(b"1".to_vec()), false));
    ensure!(swap(Some("1"), "2").await? == (Some(b"1".to_vec()), true));
    ensure!(swap(Some("1"), "3").await? == (Some(b"2".to_vec()), false));
    ensure!(client.get("cas".to_owned()).await? == Some(b"2".to_vec()));
    Ok(())
}

/// Values that expire; only api-version 2 has them.
async fn time_to_live(client: &RawClient, api_version: u32) -> Result<()> {
    let put = client.put_with_ttl("short".to_owned(), "lived", 2).await;
    if api_version == 1 {
        ensure!(put.is_err(), "api-version 1 refuses a time to live");
        return Ok(());
    }
    put?;
    client
        .put_with_ttl("long".to_owned(), "lived", 1000)
        .await?;
    client.put("endless".to_owned(), "lived").await?;
    let left = client
        .get_key_ttl_secs("long".to_owned())
        .await?
        .context("it lives")?;
    ensure!((990..=1000).contains(&left), "{left} s left of 1000");
    ensure!(client.get_key_ttl_secs("endless".to_owned()).await? == Some(0));
    ensure!(
        client
            .get_key_ttl_secs("never put".to_owned())
            .await?
            .is_none()
    );
    let mut pause = tokio::time::interval(std::time::Duration::from_millis(100));
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while client.get("short".to_owned()).await?.is_some() {
        ensure!(
            std::time::Instant::now() < deadline,
            "a key outlived its time"
        );
        pause.tick().await;
    }
    ensure!(
        client
            .scan_keys("short".to_owned().."short\0".to_owned(), 10)
            .await?
            .is_empty()
    );
    Ok(())
}

/// Every kind of operation runs while regions split and move to a fourth store and a store is killed.
async fn under_change(cluster: &Cluster, client: &RawClient, api_version: u32) -> Result<()> {
    // What is moved here must not be moved by others meanwhile.
    cluster.pause_balance()?;
    // Scans must not reach the region without an end, see above.
    cluster.split("zz").await?;
    let work = Work::start(client, api_version);
    work.make_progress().await?;

    for boundary in ["b5", "c5", "d5", "p3", "p7", "s3", "s7", "t5"] {
        cluster.split(boundary).await?;
    }
    work.make_progress().await?;
    // Splits alone cost no operation: what the client meets on the way it retries by itself.
    work.none_given_up()?;
    cluster.dev(&["add-store"])?;
    wait_for("the fourth store is known", async || {
        Ok(cluster.stores()?.len() == 4)
    })
    .await?;
    let fourth = *cluster.stores()?.iter().max().context("stores")?;
    for key in ["b9", "c9", "d9", "p5", "s5", "t9"] {
        let region = cluster.region(cluster.find(key)?)?;
        cluster
            .move_replica(region.id, region.stores[0], fourth)
            .await?;
    }
    work.make_progress().await?;

    let leaders: Vec<u64> = cluster
        .regions()?
        .iter()
        .filter_map(|region| region.leader_store)
        .collect();
    let busiest = *leaders
        .iter()
        .max_by_key(|store| leaders.iter().filter(|other| other == store).count())
        .context("leaders")?;
    let name = cluster.store_name(busiest)?;
    cluster.dev(&["kill", &name])?;
    work.make_progress().await?;
    cluster.wait_led(|store| store != busiest).await?;
    work.make_progress().await?;
    cluster.dev(&["restart", &name])?;
    work.make_progress().await?;
    work.stop_and_verify().await
}

async fn everything(api_version: u32) -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    // Scans must not reach the region without an end, so the boundary before it stays.
    let environment = vec![(
        "PONTOON_CONFIG_PLACEMENT_MERGE__ENABLED".to_owned(),
        "false".to_owned(),
    )];
    let cluster = Cluster::start(Wanted {
        api_version,
        environment,
        ..Wanted::default()
    })?;
    let client = client(&cluster, api_version).await?;
    basics(&cluster, &client).await?;
    compare_and_swap(&client).await?;
    time_to_live(&client, api_version).await?;
    under_change(&cluster, &client, api_version).await?;
    cluster.passed();
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn api_version_1() -> Result<()> {
    everything(1).await
}

#[tokio::test(flavor = "multi_thread")]
async fn api_version_2() -> Result<()> {
    everything(2).await
}
