//! The placement leader is killed with SIGKILL in the middle of what it has ordered: another one finishes or cancels it, and
//! leaves nothing behind. Each time a paused store keeps what was ordered open.

use anyhow::{Context, Result, ensure};
use tests::{Cluster, Wanted, wait_for};

use crate::writers::Writers;
use crate::{ONE_AT_A_TIME, busiest, setting, split_in_four};

/// Regions that stay small become part of their neighbours, first by command, in the middle of which the placement leader is
/// killed, and then by themselves, while writers run; nothing that was acknowledged is lost by it.
#[tokio::test(flavor = "multi_thread")]
async fn small_regions_merge() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let cluster = Cluster::start(Wanted {
        // However fast the writers are, their load neither keeps regions apart nor splits them again.
        environment: vec![
            setting("PLACEMENT_MERGE__AFTER", "8s"),
            setting("PLACEMENT_MERGE__TOGETHER_REQUESTS", "1000000"),
            setting("STORE_SPLIT__REQUESTS_PER_SECOND", "0"),
            setting("STORE_SPLIT__BYTES_PER_SECOND", "0B"),
        ],
        stores: 4,
        ..Wanted::default()
    })?;
    cluster.pause_balance()?;
    let placement = cluster.placement().join(",");
    let merges = |words: &[&str]| {
        let words = [&["scheduler"], words, &["--placement", &placement]].concat();
        cluster.pontoon(&words)
    };
    merges(&["pause", "merge", "1h"])?;
    let writers = Writers::start(&cluster, 8).await?;
    split_in_four(&cluster).await?;
    let region = cluster.find("w2")?;
    let neighbour = cluster.find("w4")?;
    let (from, into) = (region.to_string(), neighbour.to_string());
    // Before regions merge, the replicas of one go where those of the other are. One has to go to a store that is paused, so the
    // merge is open for as long as it must be.
    let target = cluster.region(neighbour)?;
    let source = cluster.region(region)?;
    let stores = cluster.stores()?;
    let free = stores.iter().find(|store| !source.stores.contains(store));
    let free = *free.context("a store without a replica of the source")?;
    ensure!(
        !target.stores.contains(&free),
        "regions of one split are together"
    );
    let follows = |store: &&u64| Some(**store) != target.leader_store;
    let moved = *target.stores.iter().find(follows).context("a follower")?;
    cluster.move_replica(neighbour, moved, free).await?;
    let paused = cluster.pause(&cluster.store_name(free)?)?;
    let order = ["region", "merge", &from, "--into", &into, "--no-wait"];
    wait_for("the merge begins", async || {
        cluster.ask(&order)?;
        Ok(true)
    })
    .await?;
    let merging = || -> Result<bool> {
        let operators = cluster.ask(&["operator", "list"])?;
        let operators = operators.as_array().context("operators")?;
        let ours = |operator: &serde_json::Value| {
            operator["kind"] == "merge" && operator["region"] == region
        };
        Ok(operators.iter().any(ours))
    };
    wait_for("a replica of the source is on its way", async || {
        Ok(cluster.region(region)?.stores.contains(&free))
    })
    .await?;
    let leader = cluster.placement_leader()?;
    ensure!(
        merging()? && cluster.find("w2")? == region,
        "the merge ended before {leader} was killed"
    );
    cluster.dev(&["kill", &leader])?;
    wait_for("another member leads placement", async || {
        Ok(cluster.placement_leader()? != leader)
    })
    .await?;
    drop(paused);
    wait_for("the neighbour holds both", async || {
        Ok(cluster.find("w2")? == neighbour)
    })
    .await?;
    writers.make_progress(100).await?;

    merges(&["resume", "merge"])?;
    wait_for("one region with three replicas", async || {
        let regions = cluster.regions()?;
        Ok(regions.len() == 1
            && regions
                .iter()
                .all(|region| region.settled && region.stores.len() == 3))
    })
    .await?;
    writers.make_progress(100).await?;
    writers.stop_and_verify().await?;
    cluster.passed();
    Ok(())
}

/// REGIONS §10 row 43 with real processes: the placement leader is killed in the middle of moves; a later leader finishes
/// or cancels them and leaves neither a learner nor a joint configuration behind.
#[tokio::test(flavor = "multi_thread")]
async fn a_move_survives_the_loss_of_the_placement_leader() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let cluster = Cluster::start(Wanted {
        stores: 4,
        // Its four regions are counted at the end.
        environment: vec![setting("PLACEMENT_MERGE__ENABLED", "false")],
        ..Wanted::default()
    })?;
    cluster.pause_balance()?;
    let writers = Writers::start(&cluster, 4).await?;
    split_in_four(&cluster).await?;

    let stores = cluster.stores()?;
    for round in 0..3 {
        // A placement leader that is new first has to hear of the stores.
        wait_for("placement has heard of every store", async || {
            Ok(cluster.ask(&["status"])?["stores_up"] == 4)
        })
        .await?;
        let region = cluster.regions()?.swap_remove(round);
        let from = region.stores[0];
        let to = *stores
            .iter()
            .find(|store| !region.stores.contains(store))
            .context("a free store")?;
        // The new replica cannot catch up meanwhile, so that the move is open for as long as it must be.
        let paused = cluster.pause(&cluster.store_name(to)?)?;
        let (id, of, onto) = (region.id.to_string(), from.to_string(), to.to_string());
        let order = ["region", "move", &id, "--from", &of, "--to", &onto];
        wait_for("the move begins", async || {
            cluster.ask(&[&order[..], &["--no-wait"]].concat())?;
            Ok(true)
        })
        .await?;
        wait_for("the new replica is a member", async || {
            Ok(cluster.region(region.id)?.stores.contains(&to))
        })
        .await?;
        let leader = cluster.placement_leader()?;
        ensure!(
            cluster.operators_running()? > 0,
            "the move of region {id} ended before {leader} was killed"
        );
        // Once the move goes on just before the leader dies, and may be in any of its later steps.
        let mut paused = Some(paused);
        if round == 1 {
            paused.take();
        }
        cluster.dev(&["kill", &leader])?;
        wait_for("another member leads placement", async || {
            Ok(cluster.placement_leader()? != leader)
        })
        .await?;
        paused.take();
        wait_for("the move is done or undone", async || {
            let regions = cluster.regions()?;
            let moved = regions.iter().find(|other| other.id == region.id);
            let moved = &moved.context("the region")?.stores;
            Ok(cluster.operators_running()? == 0
                && regions.len() == 4
                && regions
                    .iter()
                    .all(|region| region.settled && region.stores.len() == 3)
                && moved.contains(&from) != moved.contains(&to))
        })
        .await?;
        cluster.dev(&["restart", &leader])?;
    }
    writers.stop_and_verify().await?;
    cluster.passed();
    Ok(())
}

/// State of a store as the command line tells it.
fn state(cluster: &Cluster, store: u64) -> Result<String> {
    let stores = cluster.ask(&["store", "list"])?;
    let stores = stores.as_array().context("a list")?;
    let found = stores.iter().find(|found| found["id"] == store);
    let state = found.context("the store")?["state"].as_str();
    Ok(state.context("a state")?.to_owned())
}

/// Operators under way that move something off a drained store.
fn drains(cluster: &Cluster) -> Result<usize> {
    let operators = cluster.ask(&["operator", "list"])?;
    let operators = operators.as_array().context("a list")?;
    let drains = operators.iter().filter(|operator| {
        let cause = operator["cause"].as_str();
        cause.is_some_and(|cause| cause.contains("is drained"))
    });
    Ok(drains.count())
}

/// A drain under writers, with the placement leader killed while it is under way, finishes by itself; the empty store can be
/// taken back, and removed for good.
#[tokio::test(flavor = "multi_thread")]
async fn a_drain_survives_the_loss_of_the_placement_leader() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let cluster = Cluster::start(Wanted::of(4, 3))?;
    cluster.pause_balance()?;
    let writers = Writers::start(&cluster, 4).await?;
    split_in_four(&cluster).await?;

    let store = busiest(&cluster)?;
    let id = store.to_string();
    // A store that a replica would go to is paused, so that the drain is open for as long as it must be.
    let regions = cluster.regions()?;
    let leaves = regions
        .iter()
        .find(|region| region.stores.contains(&store))
        .context("a region on the store")?;
    let stores = cluster.stores()?;
    let free = stores.iter().find(|free| !leaves.stores.contains(free));
    let free = *free.context("a free store")?;
    let paused = cluster.pause(&cluster.store_name(free)?)?;
    wait_for("the drain begins", async || {
        cluster.ask(&["store", "drain", &id])?;
        Ok(true)
    })
    .await?;
    wait_for("the drain is under way", async || Ok(drains(&cluster)? > 0)).await?;
    let leader = cluster.placement_leader()?;
    ensure!(state(&cluster, store)? == "draining");
    cluster.dev(&["kill", &leader])?;
    drop(paused);
    wait_for("the store is empty", async || {
        Ok(state(&cluster, store)? == "drained"
            && cluster.regions()?.iter().all(|region| {
                region.settled && region.stores.len() == 3 && !region.stores.contains(&store)
            }))
    })
    .await?;
    ensure!(
        cluster.placement_leader()? != leader,
        "another member led in the end"
    );
    cluster.dev(&["restart", &leader])?;
    writers.make_progress(100).await?;

    cluster.ask(&["store", "undrain", &id])?;
    // The new placement leader may not have heard of it yet.
    wait_for("the store is up again", async || {
        Ok(state(&cluster, store)? == "up")
    })
    .await?;
    let refused = cluster.ask(&["store", "remove", &id]);
    ensure!(refused.is_err(), "a store that is up was removed");
    cluster.ask(&["store", "drain", &id])?;
    wait_for("the empty store is removed", async || {
        cluster.ask(&["store", "remove", &id])?;
        Ok(true)
    })
    .await?;
    ensure!(state(&cluster, store)? == "tombstone");
    let journal = cluster.ask(&["store", "explain", &id, "--limit", "1000"])?;
    let journal = journal.as_array().context("a journal")?;
    for (kind, who) in [("command", "admin"), ("done", "drain")] {
        ensure!(
            journal
                .iter()
                .any(|entry| entry["kind"] == kind && entry["who"] == who),
            "the journal has no {kind} of {who}: {journal:?}"
        );
    }
    writers.stop_and_verify().await?;
    cluster.passed();
    Ok(())
}

/// REGIONS §9: a rule pins a range to stores of one zone. Its edges become boundaries and its replicas move there, with the
/// placement leader killed while they do and under writers; the others stay. Without the rule another store may have them.
#[tokio::test(flavor = "multi_thread")]
async fn a_rule_survives_the_loss_of_the_placement_leader() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let cluster = Cluster::start(Wanted::of(4, 3))?;
    cluster.pause_balance()?;
    let writers = Writers::start(&cluster, 4).await?;
    // The zone is the store that has no replica and two that have one.
    let region = cluster.region(cluster.find("w4")?)?;
    let stores = cluster.stores()?;
    let outside = *region.stores.first().context("a replica")?;
    let zone: Vec<_> = stores.into_iter().filter(|id| *id != outside).collect();
    for store in &zone {
        cluster.ask(&["store", "label", &store.to_string(), "site=z1"])?;
    }
    let file = cluster.dir().join("rules.toml");
    let write = |version: u64, site: &str| {
        let text = format!(
            "version = {version}\n[[group]]\nname = \"pins\"\nindex = 1\n[[group.rule]]\nid = \"z1\"\n\
             start = \"w4\"\nend = \"w6\"\nrole = \"voter\"\ncount = 3\n\
             [[group.rule.constraint]]\nlabel = \"site\"\nin = [\"{site}\"]\n"
        );
        std::fs::write(&file, text)
    };
    let path = file.to_str().context("a path of text")?;
    write(0, "z2")?;
    let planned = cluster.ask(&["rule", "plan", path])?;
    ensure!(
        planned["warnings"]
            .as_array()
            .is_some_and(|all| all.len() == 1),
        "{planned}"
    );
    write(0, "z1")?;
    let planned = cluster.ask(&["rule", "plan", path])?;
    ensure!(
        planned["moves"] == 1 && planned["regions_unplaced"] == 0,
        "{planned}"
    );

    // The store that has to take a replica is paused, so that the rule is not fulfilled for as long as it must be.
    let free = zone.iter().find(|store| !region.stores.contains(store));
    let free = *free.context("a store without a replica")?;
    let paused = cluster.pause(&cluster.store_name(free)?)?;
    cluster.ask(&["rule", "apply", path])?;
    let again = cluster.ask(&["rule", "apply", path]);
    ensure!(again.is_err(), "version 0 was replaced twice");
    wait_for("a replica is on its way", async || {
        let regions = cluster.regions()?;
        Ok(regions.iter().any(|region| region.stores.contains(&free)))
    })
    .await?;
    let leader = cluster.placement_leader()?;
    ensure!(
        cluster.operators_running()? > 0,
        "the move ended before {leader} was killed"
    );
    cluster.dev(&["kill", &leader])?;
    drop(paused);
    wait_for("the range is where its rule says", async || {
        let regions = cluster.regions()?;
        let pinned = regions.iter().find(|region| region.start == "w4");
        let settled = regions
            .iter()
            .all(|region| region.settled && region.stores.len() == 3);
        Ok(settled
            && regions.iter().any(|region| region.start == "w6")
            && pinned.is_some_and(|region| region.stores.iter().all(|id| zone.contains(id))))
    })
    .await?;
    let regions = cluster.regions()?;
    for other in regions.iter().filter(|other| other.start != "w4") {
        let same = other.stores.iter().all(|id| region.stores.contains(id));
        ensure!(same, "{other:?} moved, and no rule is about it");
    }
    let shown = cluster.ask(&["rule", "show"])?;
    ensure!(
        shown["version"] == 1 && shown["group"][0]["name"] == "pins",
        "{shown}"
    );
    cluster.dev(&["restart", &leader])?;
    writers.make_progress(100).await?;

    // While it holds, a store of the zone cannot be drained; without it, it can.
    let id = zone[0].to_string();
    let refused = cluster.ask(&["store", "drain", &id]).err();
    let refused = refused.context("its replica has no other place")?;
    ensure!(
        format!("{refused:#}").contains("rules keep it away"),
        "{refused:#}"
    );
    std::fs::write(&file, "{\"version\": 1}")?;
    cluster.ask(&["rule", "apply", path])?;
    wait_for("the drain begins", async || {
        cluster.ask(&["store", "drain", &id])?;
        Ok(true)
    })
    .await?;
    wait_for("the store is empty", async || {
        Ok(state(&cluster, zone[0])? == "drained")
    })
    .await?;
    writers.stop_and_verify().await?;
    cluster.passed();
    Ok(())
}
