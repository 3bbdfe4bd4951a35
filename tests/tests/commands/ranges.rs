//! Promises about ranges that need several stores: edges of keyspaces, and ranges that are destroyed.

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use client::{Client, Options, Scan};
use proto::keyspacepb::keyspace_client::KeyspaceClient;
use proto::keyspacepb::{KeyspaceState, LoadKeyspaceRequest, keyspace_meta};
use proto::kvrpcpb::{ApiVersion, Context as Wire, UnsafeDestroyRangeRequest};
use proto::tikvpb::tikv_client::TikvClient;
use proto::{memcomparable, pdpb};
use tests::{Cluster, Wanted, wait_for};

use super::follower;
use crate::{ONE_AT_A_TIME, setting};

/// DESIGN D10: with version 2 of the interface the edges of the keyspace `DEFAULT` are edges of regions.
#[tokio::test(flavor = "multi_thread")]
async fn the_default_keyspace_has_regions_of_its_own() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let cluster = Cluster::start(Wanted {
        api_version: 2,
        // Regions without a key stay apart where a keyspace ends, however small they are.
        environment: vec![setting("PLACEMENT_MERGE__AFTER", "1s")],
        ..Wanted::default()
    })?;
    let client = Client::connect(&cluster.placement(), Options::default()).await?;
    let cluster_id = client.cluster_id();
    let mut keyspaces = None;
    for address in cluster.placement() {
        let channel = tonic::transport::Endpoint::new(format!("http://{address}"))?;
        let mut member = KeyspaceClient::new(channel.connect().await?);
        let request = |name: &str| LoadKeyspaceRequest {
            header: Some(pdpb::RequestHeader {
                cluster_id,
                ..Default::default()
            }),
            name: name.to_owned(),
            ..Default::default()
        };
        let answer = member.load_keyspace(request("DEFAULT")).await?.into_inner();
        let Some(keyspace) = answer.keyspace else {
            // Only the leader answers.
            continue;
        };
        ensure!(
            keyspace.keyspace == Some(keyspace_meta::Keyspace::Id(0))
                && keyspace.state() == KeyspaceState::Enabled,
            "{keyspace:?}"
        );
        let answer = member.load_keyspace(request("nobody")).await?.into_inner();
        ensure!(answer.keyspace.is_none(), "{answer:?}");
        let error = answer.header.and_then(|header| header.error);
        let error = error.context("a refusal")?;
        ensure!(
            error.r#type() == pdpb::ErrorType::EntryNotFound,
            "{error:?}"
        );
        keyspaces = Some(keyspace);
    }
    ensure!(keyspaces.is_some(), "no member answers");

    let edges =
        [&b"r\0\0\0"[..], b"r\0\0\x01", b"x\0\0\0", b"x\0\0\x01"].map(memcomparable::encode);
    let admin = client.admin();
    let starts = async || -> Result<Vec<Bytes>> {
        let regions = admin.regions(Bytes::new(), Bytes::new(), 100).await?;
        let regions = regions.into_iter().filter_map(|status| status.region);
        Ok(regions.map(|region| region.start_key).collect())
    };
    wait_for("the edges are boundaries", async || {
        let starts = starts().await?;
        Ok(starts.len() == 5 && edges.iter().all(|edge| starts.contains(edge)))
    })
    .await?;
    // A boundary inside may go again, those of the keyspace stay.
    client.put("k", "v").await?;
    cluster.split("k").await?;
    wait_for("the small regions are one again", async || {
        Ok(starts().await?.len() == 5)
    })
    .await?;
    let starts = starts().await?;
    ensure!(edges.iter().all(|edge| starts.contains(edge)), "{starts:?}");
    ensure!(client.get("k").await?.as_deref() == Some(&b"v"[..]));
    cluster.passed();
    Ok(())
}

/// A range over three regions, each led by another store, is destroyed as clients do it: every store is asked once and no
/// region is named. Exactly its keys are gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_destroyed_range_is_gone_from_every_store_and_nothing_else_is() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    for api in [ApiVersion::V1, ApiVersion::V2] {
        destroy(api).await?;
    }
    Ok(())
}

async fn destroy(api: ApiVersion) -> Result<()> {
    let cluster = Cluster::start(Wanted {
        api_version: if api == ApiVersion::V1 { 1 } else { 2 },
        environment: vec![setting("PLACEMENT_MERGE__ENABLED", "false")],
        ..Wanted::default()
    })?;
    cluster.pause_balance()?;
    let client = Client::connect(&cluster.placement(), Options::default()).await?;
    let key = |number: u32| format!("k{number:03}");
    for number in 0..300 {
        client.put(key(number), "v").await?;
    }
    for at in [100, 200] {
        cluster.split(&key(at)).await?;
    }
    let stores = cluster.stores()?;
    for (at, store) in [0, 100, 200].into_iter().zip(&stores) {
        cluster
            .transfer_leader(cluster.find(&key(at))?, *store)
            .await?;
    }

    // Both ends lie within a region, the middle one is destroyed whole.
    let (from, to) = (50, 250);
    let plain = |number: u32| -> Bytes {
        let mode: &[u8] = if api == ApiVersion::V1 {
            b""
        } else {
            b"r\0\0\0"
        };
        [mode, key(number).as_bytes()].concat().into()
    };
    let layout = cluster.layout()?;
    for store in layout["stores"].as_array().context("stores")? {
        let address = store["addr"].as_str().context("an address")?;
        let channel = tonic::transport::Endpoint::new(format!("http://{address}"))?;
        let request = UnsafeDestroyRangeRequest {
            context: Some(Wire {
                api_version: api.into(),
                ..Default::default()
            }),
            start_key: plain(from),
            end_key: plain(to),
        };
        let mut store = TikvClient::new(channel.connect().await?);
        let answer = store.unsafe_destroy_range(request).await?.into_inner();
        ensure!(answer == Default::default(), "{address} says {answer:?}");
    }

    let left: Vec<String> = (0..from).chain(to..300).map(key).collect();
    let read = async || -> Result<Vec<String>> {
        let scan = Scan::new("k", "l").limit(1_000);
        let pairs = client.scan(scan).await?;
        let keys = pairs
            .iter()
            .map(|(key, _)| String::from_utf8_lossy(key).into_owned());
        Ok(keys.collect())
    };
    ensure!(read().await? == left);
    // Another replica of each region says the same.
    for at in [0, 100, 200] {
        let region = cluster.find(&key(at))?;
        cluster
            .transfer_leader(region, follower(&cluster, region)?)
            .await?;
    }
    ensure!(read().await? == left);
    client.put(key(100), "again").await?;
    ensure!(client.get(key(100)).await?.as_deref() == Some(&b"again"[..]));
    cluster.passed();
    Ok(())
}
