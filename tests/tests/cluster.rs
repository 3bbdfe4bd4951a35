//! Clusters of real processes under writers, with processes killed, disks emptied and placement lost. Every acknowledged
//! write is read back.

mod chaos;
mod commands;
mod disk;
mod liveness;
mod members;
mod replicas;
mod stop;
mod succession;
mod ttl;
mod writers;

use std::process::Command;

use anyhow::{Context, Result, ensure};
use tests::{Cluster, Wanted, wait_for};
use writers::Writers;

/// One cluster at a time: each has six processes and more, on machines with two cores.
static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Snapshots that a store sent.
const SENT: &str = r#"server_background_tasks_total{kind="send_snapshot"}"#;
/// Snapshots that replaced the data of a region.
const INSTALLED: &str = r#"server_background_tasks_total{kind="install_snapshot"}"#;
/// Peers whose data was cleared away.
const DESTROYED: &str = r#"server_background_tasks_total{kind="destroy"}"#;
/// Regions with a peer on a store.
const PEERS: &str = "server_regions";

/// A setting of every process of a cluster.
fn setting(key: &str, value: &str) -> (String, String) {
    (format!("PONTOON_CONFIG_{key}"), value.to_owned())
}

async fn split_in_four(cluster: &Cluster) -> Result<()> {
    for key in ["w2", "w4", "w6"] {
        cluster.split(key).await?;
    }
    wait_for("four regions with three replicas each", async || {
        let regions = cluster.regions()?;
        Ok(regions.len() == 4
            && regions
                .iter()
                .all(|region| region.settled && region.stores.len() == 3))
    })
    .await
}

/// The store that leads most regions.
fn busiest(cluster: &Cluster) -> Result<u64> {
    let leaders: Vec<u64> = cluster
        .regions()?
        .iter()
        .filter_map(|region| region.leader_store)
        .collect();
    let count = |store: &u64| leaders.iter().filter(|other| *other == store).count();
    leaders
        .iter()
        .copied()
        .max_by_key(|store| count(store))
        .context("no region is led")
}

/// F1, F2, F21: a store, then the placement leader, then every process at once are killed with SIGKILL.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_when_processes_are_killed() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let cluster = Cluster::start(Wanted::default())?;
    let writers = Writers::start(&cluster, 8).await?;
    split_in_four(&cluster).await?;

    let store = busiest(&cluster)?;
    let name = cluster.store_name(store)?;
    cluster.dev(&["kill", &name])?;
    cluster.wait_led(|leader| leader != store).await?;
    writers.make_progress(100).await?;
    cluster.dev(&["restart", &name])?;

    for member in cluster.names("placement")? {
        cluster.dev(&["kill", &member])?;
        writers.make_progress(100).await?;
        wait_for("placement answers", async || {
            Ok(!cluster.regions()?.is_empty())
        })
        .await?;
        cluster.dev(&["restart", &member])?;
    }

    let names = [cluster.names("placement")?, cluster.names("stores")?].concat();
    let pids: Vec<String> = ["placement", "stores"]
        .iter()
        .flat_map(|role| {
            cluster
                .layout()
                .map(|layout| layout[role].as_array().cloned().unwrap_or_default())
        })
        .flatten()
        .filter_map(|member| member["pid"].as_u64().map(|pid| pid.to_string()))
        .collect();
    ensure!(
        pids.len() == names.len(),
        "every process runs before all are killed at once"
    );
    ensure!(
        Command::new("kill")
            .arg("-9")
            .args(&pids)
            .status()?
            .success()
    );
    // The kernel takes a moment to end them.
    wait_for("the cluster starts again", async || {
        cluster.start_again().map(|()| true)
    })
    .await?;
    writers.make_progress(100).await?;
    writers.stop_and_verify().await?;
    cluster.passed();
    Ok(())
}

/// Load splits regions, without anybody's command, while it goes on; nothing that was acknowledged is lost by it.
#[tokio::test(flavor = "multi_thread")]
async fn load_splits_regions_by_itself() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let cluster = Cluster::start(Wanted {
        environment: vec![
            setting("STORE_SPLIT__REQUESTS_PER_SECOND", "100"),
            setting("STORE_SPLIT__REGION_BYTES", "64KiB"),
        ],
        ..Wanted::default()
    })?;
    let writers = Writers::start(&cluster, 8).await?;
    wait_for("six regions with three replicas each", async || {
        let regions = cluster.regions()?;
        Ok(regions.len() >= 6
            && regions
                .iter()
                .all(|region| region.settled && region.stores.len() == 3))
    })
    .await?;
    writers.make_progress(500).await?;
    writers.stop_and_verify().await?;
    let mut logs = String::new();
    for name in cluster.names("stores")? {
        logs += &cluster.log(&name)?;
    }
    ensure!(
        logs.lines()
            .any(|line| line.contains("splitting") && line.contains("load")),
        "no store says that it split for load"
    );
    // So does the journal, with what each of these splits rests on.
    let mut explained = 0;
    for region in cluster.regions()? {
        let journal = cluster.ask(&["region", "explain", &region.id.to_string()])?;
        let splits = |entry: &&serde_json::Value| {
            let text = entry["text"].as_str().unwrap_or_default();
            entry["who"] == "split" && entry["kind"] == "created" && text.contains("for load")
        };
        let journal = journal.as_array().context("a journal")?;
        for split in journal.iter().filter(splits) {
            let inputs = split["inputs"].as_array().context("inputs")?;
            let number = |name: &str| {
                let found = inputs.iter().find(|input| input[0] == name);
                found
                    .and_then(|input| input[1].as_f64())
                    .context("a number")
            };
            let requests = number("requests per second")?;
            let allowed = number("requests allowed")?;
            ensure!(
                allowed == 100.0 && number("percent below the key")? > 0.0,
                "{split}"
            );
            ensure!(
                requests > allowed || number("bytes per second")? > 0.0,
                "{split}"
            );
            explained += 1;
        }
    }
    ensure!(explained > 0, "no region explains that it split for load");
    cluster.passed();
    Ok(())
}

/// A store that was down until the log it needs was compacted returns by snapshot, and can then lead.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_down_past_log_compaction_returns_by_snapshot() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let environment = vec![
        setting("STORE_RAFT__COMPACT_ENTRIES", "200"),
        setting("STORE_RAFT__COMPACT_TAIL_ENTRIES", "50"),
    ];
    let cluster = Cluster::start(Wanted {
        environment,
        ..Wanted::default()
    })?;
    let writers = Writers::start(&cluster, 4).await?;
    writers.make_progress(100).await?;

    let region = cluster.find("w0")?;
    let leader = cluster.region(region)?.leader_store.context("a leader")?;
    let follower = *cluster
        .region(region)?
        .stores
        .iter()
        .find(|store| **store != leader)
        .context("a follower")?;
    let name = cluster.store_name(follower)?;
    cluster.dev(&["kill", &name])?;
    writers.make_progress(3_000).await?;
    let others: Vec<String> = cluster
        .names("stores")?
        .into_iter()
        .filter(|other| *other != name)
        .collect();
    // A log that still had what the follower lacks would bring it up to date as well, and show nothing.
    let sent = || -> Result<u64> {
        let counts = others.iter().map(|other| cluster.counter(other, SENT));
        counts.sum()
    };
    let before = sent()?;
    cluster.dev(&["restart", &name])?;
    wait_for("the follower gets a snapshot", async || {
        Ok(sent()? > before && cluster.counter(&name, INSTALLED)? > 0)
    })
    .await?;
    wait_for("the follower has caught up", async || {
        Ok(cluster.region(region)?.settled)
    })
    .await?;
    cluster.transfer_leader(region, follower).await?;
    cluster.wait_led(|store| store == follower).await?;
    writers.stop_and_verify().await?;
    cluster.passed();
    Ok(())
}

/// F25: a store whose disk was emptied joins under a new id and is given replicas in place of those that are gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_whose_disk_was_emptied_joins_under_a_new_id() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let cluster = Cluster::start(Wanted::default())?;
    let writers = Writers::start(&cluster, 4).await?;
    split_in_four(&cluster).await?;

    let name = cluster.names("stores")?.pop().context("a store")?;
    let old = cluster.store_id(&name)?;
    cluster.dev(&["kill", &name])?;
    std::fs::remove_dir_all(cluster.dir().join(&name))?;
    cluster.dev(&["restart", &name])?;
    wait_for("the store has a new id", async || {
        Ok(cluster.store_id(&name)? > old)
    })
    .await?;
    let new = cluster.store_id(&name)?;
    wait_for(
        "the new store has the replicas of the old one",
        async || {
            let regions = cluster.regions()?;
            Ok(regions.iter().all(|region| {
                region.settled && region.stores.contains(&new) && !region.stores.contains(&old)
            }))
        },
    )
    .await?;
    writers.stop_and_verify().await?;
    cluster.passed();
    Ok(())
}

/// REGIONS §9: a store that is killed and stays away is replaced by itself. When it returns it learns that its peers were
/// removed and destroys them (R19).
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_stays_away_is_replaced() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    // Stores are heard every ten seconds.
    let cluster = Cluster::start(Wanted {
        stores: 4,
        environment: vec![
            setting("PLACEMENT_STORE_DOWN_AFTER", "15s"),
            setting("PLACEMENT_STORE_LOST_AFTER", "15s"),
        ],
        ..Wanted::default()
    })?;
    let writers = Writers::start(&cluster, 4).await?;
    split_in_four(&cluster).await?;
    let store = busiest(&cluster)?;
    let name = cluster.store_name(store)?;
    cluster.dev(&["kill", &name])?;
    wait_for("the replicas are elsewhere", async || {
        Ok(cluster.regions()?.iter().all(|region| {
            region.settled && region.stores.len() == 3 && !region.stores.contains(&store)
        }))
    })
    .await?;
    writers.make_progress(100).await?;

    cluster.pause_balance()?;
    cluster.dev(&["restart", &name])?;
    wait_for("the store has destroyed its peers", async || {
        Ok(cluster.counter(&name, DESTROYED)? > 0 && cluster.counter(&name, PEERS)? == 0)
    })
    .await?;
    writers.stop_and_verify().await?;
    cluster.passed();
    Ok(())
}

/// Bytes that cannot be packed, so that a value of them is found in a file.
fn unpackable(number: u32, bytes: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9 ^ number;
    let bytes = (0..bytes).map(|_| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as u8
    });
    bytes.collect()
}

/// Kills the store that leads a region, and lets a byte of a value rot on its disk. Gives the store, and the name of its process, once
/// others lead everything.
async fn rot(cluster: &Cluster, region: u64, value: &[u8]) -> Result<(u64, String)> {
    let store = cluster.region(region)?.leader_store.context("a leader")?;
    let name = cluster.store_name(store)?;
    // Opening a directory brings what its log holds into files, which RocksDB then writes once more.
    let directory = cluster.dir().join(&name);
    cluster.dev(&["kill", &name])?;
    cluster.dev(&["restart", &name])?;
    wait_for("the files are as they stay", async || {
        disk::is_at_rest(&directory)
    })
    .await?;
    cluster.dev(&["kill", &name])?;
    cluster.wait_led(|leader| leader != store).await?;
    let rotten = disk::rot_value(&directory, value)?;
    ensure!(rotten == 1, "{rotten} files hold the value");
    Ok((store, name))
}

/// F13, R13: a byte of a store's data rots. The replica that it is of is found by the first read, told to placement, and
/// replaced; the store goes on, and every read gets the right answer.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_with_rotten_data_is_replaced() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let cluster = Cluster::start(Wanted::of(4, 1))?;
    cluster.pause_balance()?;
    let client = client::Client::connect(&cluster.placement(), Default::default()).await?;
    // Many blocks of a file, so that neither the store's own records nor the ends of the region are in the rotten one.
    let value = |number| unpackable(number, 1_000);
    for number in 0..100 {
        let key = format!("k{number:03}");
        client.put(key, value(number)).await?;
    }
    let region = cluster.find("k000")?;
    let (store, name) = rot(&cluster, region, &value(42)).await?;
    // What repairs waits, for a look at what it repairs.
    let placement = cluster.placement().join(",");
    cluster.pontoon(&[
        "scheduler",
        "pause",
        "repair",
        "1h",
        "--placement",
        &placement,
    ])?;
    cluster.dev(&["restart", &name])?;

    cluster.transfer_leader(region, store).await?;
    ensure!(client.get("k042".to_owned()).await?.as_deref() == Some(&value(42)[..]));
    ensure!(
        cluster.counter(&name, "server_damage_found_total")? > 0,
        "the read was not answered by way of store {store}"
    );
    cluster.wait_led(|leader| leader != store).await?;
    wait_for("placement knows of it", async || {
        Ok(cluster.ask(&["status"])?["regions_damaged"] == 1)
    })
    .await?;
    let shown = cluster.ask(&["region", "show", &region.to_string()])?;
    let damaged = |peer: &&serde_json::Value| peer["damaged"] == true;
    let peers = shown["peers"].as_array().context("peers")?;
    let damaged: Vec<_> = peers.iter().filter(damaged).collect();
    ensure!(
        damaged.len() == 1 && damaged[0]["store"] == store,
        "{shown}"
    );

    cluster.pontoon(&["scheduler", "resume", "repair", "--placement", &placement])?;
    wait_for("the replica is elsewhere", async || {
        let region = cluster.region(region)?;
        Ok(region.settled && region.stores.len() == 3 && !region.stores.contains(&store))
    })
    .await?;
    ensure!(cluster.ask(&["status"])?["regions_damaged"] == 0);
    let journal = cluster.ask(&["region", "explain", &region.to_string()])?;
    let repairs = |entry: &serde_json::Value| {
        let text = entry["text"].as_str().unwrap_or_default();
        entry["who"] == "repair" && text.contains("is damaged")
    };
    let journal = journal.as_array().context("a journal")?;
    ensure!(journal.iter().any(repairs), "{journal:?}");
    for number in 0..100 {
        let read = client.get(format!("k{number:03}")).await?;
        ensure!(read.as_deref() == Some(&value(number)[..]));
    }
    let log = cluster.log(&name)?;
    ensure!(log.contains("data is damaged") && !log.contains("stopping: storage failed"));
    cluster.passed();
    Ok(())
}

/// F13, R13, STORAGE §9: a byte of a store's data rots, and its engine's own compaction meets it. The store stops, comes back without
/// the file when it is started again, and only the replicas that the file may have been of are replaced.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_whose_compaction_meets_damage_comes_back() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let cluster = Cluster::start(Wanted {
        stores: 4,
        placements: 1,
        environment: vec![
            setting("STORE_ENGINE__MEMTABLE", "1MiB"),
            setting("STORE_SPLIT__BYTES_PER_SECOND", "0B"),
        ],
        ..Wanted::default()
    })?;
    cluster.pause_balance()?;
    let client = client::Client::connect(&cluster.placement(), Default::default()).await?;
    let value = |number| unpackable(number, 1_000);
    let key = |number: u32| format!("k{number:03}");
    for number in 0..100 {
        client.put(key(number), value(number)).await?;
    }
    cluster.split("x").await?;
    let (region, beside) = (cluster.find("k000")?, cluster.find("x")?);
    let held = |region| -> Result<Vec<u64>> { Ok(cluster.region(region)?.stores) };
    let (store, name) = rot(&cluster, region, &value(42)).await?;
    ensure!(
        held(beside)?.contains(&store),
        "both are on the first three stores"
    );
    let placement = cluster.placement().join(",");
    let repair = |what: &[&str]| {
        cluster.pontoon(&[&["scheduler"], what, &["--placement", &placement]].concat())
    };
    repair(&["pause", "repair", "1h"])?;
    cluster.dev(&["restart", &name])?;

    let writers = Writers::start(&cluster, 2).await?;
    let stops = || -> Result<usize> {
        Ok(cluster
            .log(&name)?
            .matches("stopping: storage failed")
            .count())
    };
    // What makes files on all stores, each with keys of the rotten one's range.
    let mut written = 0;
    let mut fill = async || -> Result<()> {
        for _ in 0..20 {
            written += 1;
            let value = unpackable(written, 20_000);
            client.put(format!("k{:03}z", written % 100), value).await?;
        }
        Ok(())
    };
    wait_for("compaction meets the damage", async || {
        fill().await?;
        Ok(stops()? > 0)
    })
    .await?;
    cluster.wait_led(|leader| leader != store).await?;
    let (log, stopped) = (cluster.log(&name)?, stops()?);
    ensure!(
        log.contains("is left out when this is started again"),
        "{log}"
    );
    cluster.dev(&["restart", &name])?;
    wait_for("placement knows what is damaged", async || {
        Ok(cluster.ask(&["status"])?["regions_damaged"] == 1)
    })
    .await?;
    for (region, damaged) in [(region, 1), (beside, 0)] {
        let shown = cluster.ask(&["region", "show", &region.to_string()])?;
        let peers = shown["peers"].as_array().context("peers")?;
        let peers = peers.iter().filter(|peer| peer["damaged"] == true);
        ensure!(peers.count() == damaged, "{shown}");
    }
    // Nothing that is lost is read, and nothing old in its place.
    for number in 0..100 {
        let read = client.get(key(number)).await?;
        ensure!(read.as_deref() == Some(&value(number)[..]));
    }

    repair(&["resume", "repair"])?;
    wait_for("the replica is elsewhere", async || {
        let region = cluster.region(region)?;
        Ok(region.settled && region.stores.len() == 3 && !region.stores.contains(&store))
    })
    .await?;
    ensure!(cluster.ask(&["status"])?["regions_damaged"] == 0);
    ensure!(held(beside)?.contains(&store), "whole replicas stay");
    // The store compacts again, over what took the place of the file.
    cluster
        .move_replica(region, held(region)?[0], store)
        .await?;
    let directory = cluster.dir().join(&name);
    let log = std::fs::read_to_string(directory.join("db/LOG"))?;
    let finished = |log: &str| log.matches(r#""event": "compaction_finished""#).count();
    let before = finished(&log);
    wait_for("it compacts", async || {
        fill().await?;
        let log = std::fs::read_to_string(directory.join("db/LOG"))?;
        Ok(finished(&log) > before + 2)
    })
    .await?;
    for number in 0..100 {
        let read = client.get(key(number)).await?;
        ensure!(read.as_deref() == Some(&value(number)[..]));
    }
    writers.make_progress(100).await?;
    writers.stop_and_verify().await?;
    ensure!(stops()? == stopped, "it stopped again");
    cluster.passed();
    Ok(())
}

/// F20: stores that are told to stop hand every leadership over first, under writers.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_told_to_stop_hands_its_leaderships_over() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let cluster = Cluster::start(Wanted::default())?;
    let writers = Writers::start(&cluster, 4).await?;
    split_in_four(&cluster).await?;
    for _ in 0..3 {
        let store = busiest(&cluster)?;
        let name = cluster.store_name(store)?;
        let handed = |log: &str| log.matches("handed over all=true").count();
        let before = handed(&cluster.log(&name)?);
        writers.make_progress(100).await?;
        let led = cluster.regions()?;
        let led = led
            .iter()
            .filter(|region| region.leader_store == Some(store))
            .count();
        ensure!(led > 0, "store {store} leads nothing");
        cluster.dev(&["restart", &name])?;
        let log = cluster.log(&name)?;
        ensure!(
            handed(&log) == before + 1,
            "{name} led {led} regions and did not hand all over"
        );
        writers.make_progress(100).await?;
        wait_for("every region has three replicas that are up", async || {
            Ok(cluster.regions()?.iter().all(|region| region.settled))
        })
        .await?;
    }
    writers.stop_and_verify().await?;
    cluster.passed();
    Ok(())
}

/// F22 and F32: placement is gone for a while and everything restarts; known regions serve.
#[tokio::test(flavor = "multi_thread")]
async fn stores_serve_while_placement_is_down() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let cluster = Cluster::start(Wanted::default())?;
    let writers = Writers::start(&cluster, 4).await?;
    split_in_four(&cluster).await?;
    writers.make_progress(100).await?;
    for member in cluster.names("placement")? {
        cluster.dev(&["kill", &member])?;
    }
    writers.make_progress(1_000).await?;
    cluster.dev(&["stop"])?;
    cluster.start_again()?;
    writers.make_progress(100).await?;
    writers.stop_and_verify().await?;
    cluster.passed();
    Ok(())
}

/// What bad directories get: a typed refusal that says which.
#[tokio::test(flavor = "multi_thread")]
async fn directories_of_others_are_refused() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let cluster = Cluster::start(Wanted::of(1, 1))?;
    let config = |name: &str| {
        cluster
            .dir()
            .join(format!("{name}.toml"))
            .to_string_lossy()
            .into_owned()
    };
    let name = cluster.names("stores")?.pop().context("a store")?;
    let second = cluster.try_pontoon(&["serve", "store", "--config", &config(&name)])?;
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    ensure!(
        !second.status.success() && said.contains("in use"),
        "a second process said: {said}"
    );

    let other = Cluster::start(Wanted::of(1, 1))?;
    let other_name = other.names("stores")?.pop().context("a store")?;
    other.dev(&["kill", &other_name])?;
    cluster.dev(&["kill", &name])?;
    std::fs::remove_dir_all(cluster.dir().join(&name))?;
    std::fs::rename(other.dir().join(&other_name), cluster.dir().join(&name))?;
    let moved = cluster.try_pontoon(&["serve", "store", "--config", &config(&name)])?;
    let said = String::from_utf8_lossy(&moved.stderr).into_owned();
    ensure!(
        !moved.status.success() && said.contains("cluster"),
        "with another cluster's directory it said: {said}"
    );
    other.passed();
    cluster.passed();
    Ok(())
}

/// What directories of a later version get: a typed refusal that says so.
#[tokio::test(flavor = "multi_thread")]
async fn directories_of_a_newer_format_are_refused() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let cluster = Cluster::start(Wanted::of(1, 1))?;
    for role in ["store", "placement"] {
        let name = format!("{role}-1");
        cluster.dev(&["kill", &name])?;
        let raised = disk::raise_format(&cluster.dir().join(&name), 99)?;
        ensure!(raised > 0, "{name} has no identity in its log");
        let config = cluster.dir().join(format!("{name}.toml"));
        let config = config.to_string_lossy();
        let refused = cluster.try_pontoon(&["serve", role, "--config", &config])?;
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        ensure!(
            refused.status.code() == Some(8) && said.contains("has format 99"),
            "{name} with a newer directory ended with {}: {said}",
            refused.status
        );
    }
    cluster.passed();
    Ok(())
}

/// Groups of one and of five placement members; the latter serves with two of them dead.
#[tokio::test(flavor = "multi_thread")]
async fn one_and_five_placement_members_serve() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    for placements in [1, 5] {
        let cluster = Cluster::start(Wanted::of(3, placements))?;
        let writers = Writers::start(&cluster, 2).await?;
        cluster.split("w1").await?;
        for _ in 0..(placements - 1) / 2 {
            let mut leader = String::new();
            wait_for("a member leads placement", async || {
                leader = cluster.placement_leader()?;
                Ok(true)
            })
            .await?;
            cluster.dev(&["kill", &leader])?;
        }
        cluster.split("w0-0250").await?;
        writers.make_progress(100).await?;
        writers.stop_and_verify().await?;
        cluster.passed();
    }
    Ok(())
}
