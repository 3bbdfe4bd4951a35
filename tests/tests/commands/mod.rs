//! The commands as their users run them: what they print in either form, how they fail, and what the interface promises that
//! needs a whole cluster to show.

mod failures;
mod ranges;
mod tables;

use std::process::Output;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::{Cluster, Wanted, wait_for};

use super::{ONE_AT_A_TIME, setting};

/// Whether a text has all of these words.
fn ensure_says(text: &str, words: &[&str]) -> Result<()> {
    for word in words {
        ensure!(text.contains(word), "`{word}` is not in: {text}");
    }
    Ok(())
}

/// Runs a command that finds the cluster, whatever comes of it.
fn run(cluster: &Cluster, args: &[&str]) -> Result<Output> {
    let placement = cluster.placement().join(",");
    cluster.try_pontoon(&[args, &["--placement", &placement]].concat())
}

/// What a command prints for people.
fn shown(cluster: &Cluster, args: &[&str]) -> Result<String> {
    let output = run(cluster, args)?;
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{args:?}: {errors}");
    Ok(String::from_utf8(output.stdout)?)
}

/// Runs a command that must print this and nothing else.
fn prints(cluster: &Cluster, args: &[&str], text: &str) -> Result<()> {
    let shown = shown(cluster, args)?;
    ensure!(shown == text, "{args:?} printed: {shown}");
    Ok(())
}

/// The other voter's store of a region, for a change of its leader.
fn follower(cluster: &Cluster, region: u64) -> Result<u64> {
    let region = cluster.region(region)?;
    let follower = region
        .stores
        .iter()
        .find(|store| Some(**store) != region.leader_store);
    follower.copied().context("a follower")
}

/// Stores and regions as the commands show them.
fn look(cluster: &Cluster) -> Result<()> {
    let status = cluster.ask(&["status"])?;
    for (field, value) in [
        ("api_version", 1),
        ("replicas", 3),
        ("stores_up", 3),
        ("regions", 1),
        ("regions_unhealthy", 0),
        ("regions_damaged", 0),
    ] {
        ensure!(status[field] == value, "{field} of {status}");
    }
    let stores = cluster.ask(&["store", "list"])?;
    ensure!(status["stores"].as_array().map(Vec::len) == Some(3));
    let addresses: Vec<&str> = stores
        .as_array()
        .context("a list")?
        .iter()
        .filter_map(|store| store["address"].as_str())
        .collect();
    ensure!(addresses.len() == 3, "{stores}");
    for command in [&["status"][..], &["store", "list"]] {
        let text = shown(cluster, command)?;
        ensure_says(&text, &["STORE", "ADDRESS", "STATE", "LEADS"])?;
        ensure_says(&text, &addresses)?;
    }
    ensure_says(
        &shown(cluster, &["status"])?,
        &["1, all healthy", "api version"],
    )?;

    let listed = cluster.ask(&["region", "list"])?;
    let region = &listed[0];
    ensure!(listed.as_array().map(Vec::len) == Some(1), "{listed}");
    ensure!(region["start"] == "" && region["end"] == "", "{region}");
    let id = region["id"].to_string();
    let text = shown(cluster, &["region", "list"])?;
    ensure_says(&text, &["-inf", "+inf", "1 regions"])?;
    for command in [["region", "show", &id], ["region", "find", "any"]] {
        let one = cluster.ask(&command)?;
        ensure!(one["id"] == region["id"], "{one}");
        let voters = one["peers"].as_array().context("peers")?;
        ensure!(voters.len() == 3 && voters.iter().all(|peer| peer["role"] == "voter"));
        ensure!(one["leader_store"].is_u64(), "{one}");
        let text = shown(cluster, &command)?;
        ensure_says(
            &text,
            &["-inf", "+inf", "PEER", "voter", "up to date", "term"],
        )?;
    }
    Ok(())
}

/// Splits, leaders and replicas that move by command; what is told of it in either form.
async fn change(cluster: &Cluster) -> Result<()> {
    let first = cluster.find("a")?;
    let id = first.to_string();
    let split = cluster.ask(&["region", "split", &id, "--key", "m"])?;
    ensure!(
        split["done"] == true && split["operator"].is_u64(),
        "{split}"
    );
    ensure!(
        split["region"]["id"] == first && split["region"]["end"] == "m",
        "the lower part keeps the id: {split}"
    );
    // The other part reports by itself.
    wait_for("the upper part is known", async || {
        Ok(cluster.find("m")? == cluster.find("z")?)
    })
    .await?;
    let upper = cluster.find("m")?;
    ensure!(upper != first, "it has an id of its own");
    let text = shown(
        cluster,
        &[
            "region",
            "split",
            &upper.to_string(),
            "--hex",
            "--key",
            "0x74",
        ],
    )?;
    ensure_says(&text, &["done: region", "[m, t)"])?;
    wait_for("three regions in the order of their keys", async || {
        let starts = cluster.regions()?.into_iter().map(|region| region.start);
        Ok(starts.eq(["", "m", "t"]))
    })
    .await?;
    let text = shown(cluster, &["region", "list"])?;
    ensure_says(&text, &["3 regions"])?;
    let found = cluster.ask(&["region", "find", "--hex", "74"])?;
    ensure!(found["start"] == "t", "{found}");

    wait_for("every region has three replicas", async || {
        Ok(cluster.regions()?.iter().all(|region| region.settled))
    })
    .await?;
    let heir = follower(cluster, first)?;
    let to = heir.to_string();
    let transfer = ["region", "transfer-leader", &id, "--to", &to];
    let led = cluster.ask(&transfer)?;
    ensure!(led["region"]["leader_store"] == heir, "{led}");
    let back = follower(cluster, first)?.to_string();
    let text = shown(cluster, &["region", "transfer-leader", &id, "--to", &back])?;
    ensure_says(&text, &["done: region", &format!("{back}*")])?;

    let added = cluster.dev(&["add-store", "--output", "json"])?;
    let added: Value = serde_json::from_slice(&added.stdout)?;
    ensure!(
        added["name"] == "store-4" && added["done"] == "added",
        "{added}"
    );
    let new = cluster.store_id("store-4")?;
    let (from, to) = (follower(cluster, first)?.to_string(), new.to_string());
    let moved = cluster.ask(&["region", "move", &id, "--from", &from, "--to", &to])?;
    ensure!(moved["done"] == true, "{moved}");
    let stores = cluster.region(first)?.stores;
    ensure!(stores.contains(&new) && stores.len() == 3, "{stores:?}");
    let text = shown(
        cluster,
        &["region", "move", &id, "--from", &to, "--to", &from],
    )?;
    ensure_says(&text, &["done: region", "on stores"])?;

    // The new replica cannot catch up, so a command that waits gives up, and the move goes on.
    let paused = cluster.pause("store-4")?;
    let order = ["region", "move", &id, "--from", &from, "--to", &to];
    let late = run(cluster, &[&order[..], &["--timeout", "300ms"]].concat())?;
    let said = String::from_utf8_lossy(&late.stderr).into_owned();
    ensure!(late.status.code() == Some(9), "{}: {said}", late.status);
    ensure_says(&said, &["is not done after", "--timeout waits longer"])?;
    let operators = cluster.ask(&["operator", "list"])?;
    let operator = operators[0]["id"]
        .as_u64()
        .context("it goes on")?
        .to_string();
    drop(paused);
    wait_for("the move is done", async || {
        Ok(cluster.region(first)?.stores.contains(&new) && cluster.operators_running()? == 0)
    })
    .await?;
    for what in ["show", "explain"] {
        both(cluster, &["operator", what, &operator])?;
    }
    let no_wait = ["region", "transfer-leader", &id, "--to", &to, "--no-wait"];
    ensure_says(&shown(cluster, &no_wait)?, &["accepted as operator"])?;
    wait_for("the new store leads", async || {
        Ok(cluster.region(first)?.leader_store == Some(new) && cluster.operators_running()? == 0)
    })
    .await
}

/// Regions that go apart over four stores; each form asks when nothing is under way.
async fn scatter(cluster: &Cluster) -> Result<()> {
    let mut ids: Vec<u64> = cluster.regions()?.iter().map(|region| region.id).collect();
    ids.sort_unstable();
    let named: Vec<String> = ids.iter().map(u64::to_string).collect();
    let named = named.iter().map(String::as_str);
    let command: Vec<&str> = ["region", "scatter"].into_iter().chain(named).collect();
    let mut told = Vec::new();
    for form in ["json", "table"] {
        wait_for("the regions go apart", async || {
            let output = run(cluster, &[&command[..], &["--output", form]].concat())?;
            told = output.stdout;
            Ok(output.status.success())
        })
        .await?;
        if form == "json" {
            let told: Value = serde_json::from_slice(&told)?;
            ensure!(told["regions"] == serde_json::json!(ids), "{told}");
        } else {
            ensure!(told == b"3 regions go apart\n", "{told:?}");
        }
        wait_for("they are apart", async || {
            let settled = cluster.regions()?.iter().all(|region| region.settled);
            Ok(settled && cluster.operators_running()? == 0)
        })
        .await?;
    }
    // Nine replicas and three leaders on four stores.
    let regions = cluster.regions()?;
    for store in cluster.stores()? {
        let held = regions
            .iter()
            .filter(|region| region.stores.contains(&store));
        let led = regions
            .iter()
            .filter(|region| region.leader_store == Some(store));
        let (held, led) = (held.count(), led.count());
        ensure!(
            (2..=3).contains(&held) && led <= 1,
            "store {store}: {held} replicas, {led} led"
        );
    }
    Ok(())
}

/// Runs a command in both forms: one is JSON, the other is for people.
fn both(cluster: &Cluster, args: &[&str]) -> Result<()> {
    cluster.ask(args)?;
    let text = shown(cluster, args)?;
    ensure!(
        !text.is_empty() && serde_json::from_str::<Value>(&text).is_err(),
        "{args:?} printed: {text}"
    );
    Ok(())
}

/// Keys and values, over several regions.
fn keys(cluster: &Cluster) -> Result<()> {
    prints(cluster, &["kv", "put", "fruit/apple", "green"], "")?;
    let put = cluster.ask(&["kv", "put", "veg/leek", r"a\x00\n"])?;
    ensure!(put["key"] == "veg/leek" && put["done"] == true, "{put}");
    prints(cluster, &["kv", "put", "--hex", "0x6e00", "bytes"], "")?;
    prints(cluster, &["kv", "get", "fruit/apple"], "green\n")?;
    prints(cluster, &["kv", "get", "fruit/apple", "--raw"], "green")?;
    prints(cluster, &["kv", "get", "veg/leek", "--raw"], "a\0\n")?;
    let got = cluster.ask(&["kv", "get", r"n\0"])?;
    ensure!(got["key"] == r"n\x00" && got["value"] == "bytes", "{got}");
    let file = cluster.dir().join("value");
    std::fs::write(&file, [7; 3])?;
    let file = file.to_str().context("a printable path")?;
    prints(cluster, &["kv", "put", "fruit/pear", "--file", file], "")?;

    let scan =
        "fruit/apple\tgreen\nfruit/pear\t\\x07\\x07\\x07\nn\\x00\tbytes\nveg/leek\ta\\x00\\n\n";
    prints(cluster, &["kv", "scan"], scan)?;
    let keys = "fruit/pear\nn\\x00\n";
    let range = ["kv", "scan", "fruit/b", "--end", "veg", "--keys-only"];
    prints(cluster, &range, keys)?;
    prints(
        cluster,
        &["kv", "scan", "--limit", "1"],
        "fruit/apple\tgreen\n",
    )?;
    let fruit = cluster.ask(&["kv", "scan", "--prefix", "fruit/"])?;
    let fruit = fruit.as_array().context("a list")?;
    ensure!(
        fruit.len() == 2 && fruit[0]["value"] == "green",
        "{fruit:?}"
    );

    prints(cluster, &["kv", "del", "fruit/pear"], "")?;
    // Deleting what is not there is no failure.
    let gone = cluster.ask(&["kv", "del", "fruit/pear"])?;
    ensure!(gone["done"] == true, "{gone}");
    let nothing = ["kv", "scan", "--prefix", "fruit/p"];
    prints(cluster, &nothing, "")?;
    ensure!(cluster.ask(&nothing)? == Value::Array(Vec::new()));
    // Blanks at its end are of the value, and an empty one is a line.
    for value in ["", "a  "] {
        prints(cluster, &["kv", "put", "blank", value], "")?;
        prints(cluster, &["kv", "get", "blank"], &format!("{value}\n"))?;
        let line = format!("blank\t{value}\n");
        prints(cluster, &["kv", "scan", "--prefix", "blank"], &line)?;
    }
    prints(cluster, &["kv", "del", "blank"], "")
}

/// A short measurement of each kind.
fn bench(cluster: &Cluster) -> Result<()> {
    let few = [
        "--clients",
        "4",
        "--duration",
        "300ms",
        "--warmup",
        "100ms",
        "--keys",
        "200",
        "--value-size",
        "64B",
    ];
    for (operation, puts, gets) in [
        ("put", true, false),
        ("get", false, true),
        ("mixed", true, true),
    ] {
        let report = cluster.ask(&[&["bench", operation][..], &few].concat())?;
        ensure!(report["errors"] == 0 && report["clients"] == 4, "{report}");
        ensure!(report["throughput"].as_f64().is_some_and(|rate| rate > 0.0));
        for (kind, there) in [("put", puts), ("get", gets)] {
            let count = report[kind]["operations"].as_u64();
            ensure!(count.is_some_and(|count| count > 0) == there, "{report}");
            for percentile in ["p50_us", "p90_us", "p99_us", "p999_us"] {
                ensure!(report[kind][percentile].is_u64() == there, "{report}");
            }
        }
        let settings = &report["settings"];
        ensure!(
            settings["replicas"] == 3 && settings["loop_kind"] == "closed",
            "{report}"
        );
        ensure!(settings["cores"].is_u64() && settings["durability"].is_string());
    }
    let open = [&["bench", "put", "--rate", "50"][..], &few].concat();
    let report = cluster.ask(&open)?;
    ensure!(report["settings"]["loop_kind"] == "open", "{report}");
    let text = shown(cluster, &[&["bench", "put"][..], &few].concat())?;
    ensure_says(
        &text,
        &["operations per second", "p99.9", "3 replicas", "0 errors"],
    )
}

/// What the rest of the README's commands print.
fn others(cluster: &Cluster) -> Result<()> {
    let region = cluster.find("a")?.to_string();
    let store = cluster.stores()?[0].to_string();
    for command in [
        &["operator", "list"][..],
        &["operator", "history"],
        &["region", "explain", &region],
        &["store", "explain", &store],
        &["store", "label", &store, "zone=a"],
        &["plan", "drain", &store],
        &["plan", "add-stores", "1"],
        &["plan", "lose", "zone=a"],
        &["scheduler", "list"],
        &["scheduler", "pause", "balance-region", "10m"],
        &["rule", "show"],
    ] {
        both(cluster, command)?;
    }
    let labelled = shown(cluster, &["store", "list"])?;
    ensure_says(&labelled, &["zone=a"])
}

/// Settings as text that a process takes.
fn settings(cluster: &Cluster) -> Result<()> {
    let text =
        |args: &[&str]| -> Result<String> { Ok(String::from_utf8(cluster.pontoon(args)?.stdout)?) };
    let all = text(&["config", "show", "--defaults"])?;
    for kind in ["placement", "store"] {
        let one = text(&["config", "show", kind, "--defaults"])?;
        ensure!(all.contains(one.trim_end()), "{kind} in {all}");
        let file = cluster.dir().join("defaults.toml");
        std::fs::write(&file, &one)?;
        let file = file.to_str().context("a printable path")?;
        let read = text(&["config", "show", kind, "--config", file])?;
        let (read, mut one): (toml::Table, toml::Table) =
            (toml::from_str(&read)?, toml::from_str(&one)?);
        if let Some(merge) = one.get_mut("merge") {
            // As the environment of this cluster says.
            merge["enabled"] = false.into();
        }
        // A setting whose default is to be absent stands there as a comment.
        for (key, value) in &one {
            ensure!(read.get(key) == Some(value), "{key} of {kind}");
        }
    }
    let file = cluster.dir().join("store-1.toml");
    let file = file.to_str().context("a printable path")?;
    let set = "addr=127.0.0.1:1";
    let read = text(&["config", "show", "store", "--config", file, "--set", set])?;
    let read: toml::Table = toml::from_str(&read)?;
    ensure!(read["addr"].as_str() == Some("127.0.0.1:1"), "{read}");
    Ok(())
}

/// What `dev status` says of every process.
fn processes(cluster: &Cluster) -> Result<Vec<(String, String)>> {
    let status = cluster.dev(&["status", "--output", "json"])?;
    let status: Value = serde_json::from_slice(&status.stdout)?;
    let processes = status["processes"].as_array().context("processes")?;
    let one = |process: &Value| {
        let word = |field: &str| process[field].as_str().unwrap_or_default().to_owned();
        (word("name"), word("state"))
    };
    Ok(processes.iter().map(one).collect())
}

/// The processes of a cluster, and the cluster after it stopped.
fn dev(cluster: &Cluster) -> Result<()> {
    let names = [cluster.names("placement")?, cluster.names("stores")?].concat();
    ensure!(names.len() == 7, "{names:?}");
    let state = |name: &str| -> Result<String> {
        let found = processes(cluster)?
            .into_iter()
            .find(|(each, _)| each == name);
        Ok(found.context("it is listed")?.1)
    };
    let text = String::from_utf8(cluster.dev(&["status"])?.stdout)?;
    ensure_says(&text, &["PROCESS", "running", "all healthy"])?;
    for name in &names {
        ensure_says(&text, &[name])?;
        ensure!(state(name)? == "running", "{name}");
    }

    let killed = cluster.dev(&["kill", "store-2"])?;
    ensure!(String::from_utf8_lossy(&killed.stdout).trim() == "killed store-2");
    ensure!(state("store-2")? == "stopped");
    prints(cluster, &["kv", "get", "fruit/apple"], "green\n")?;
    let restarted = cluster.dev(&["restart", "store-2", "--output", "json"])?;
    let restarted: Value = serde_json::from_slice(&restarted.stdout)?;
    ensure!(restarted["name"] == "store-2" && restarted["done"] == "restarted");
    ensure!(state("store-2")? == "running");
    // One that runs is ended in order first.
    cluster.dev(&["restart", "placement-1"])?;
    ensure!(state("placement-1")? == "running");

    let stopped = cluster.dev(&["stop"])?;
    ensure_says(
        &String::from_utf8_lossy(&stopped.stdout),
        &["data stays in"],
    )?;
    for name in &names {
        ensure!(state(name)? == "stopped", "{name}");
    }
    let status = cluster.dev(&["status", "--output", "json"])?;
    let status: Value = serde_json::from_slice(&status.stdout)?;
    ensure!(status["cluster"].is_null(), "{status}");
    // Stopping what is stopped is no failure.
    cluster.dev(&["stop"])?;

    let started = cluster.dev(&["--detach", "--output", "json"])?;
    let started: Value = serde_json::from_slice(&started.stdout)?;
    ensure!(started["cluster"]["bootstrapped"] == true, "{started}");
    prints(cluster, &["kv", "get", "fruit/apple"], "green\n")
}

/// Every command of the README in both forms, on one cluster that is split, filled, measured, changed and started again.
#[tokio::test(flavor = "multi_thread")]
async fn commands_print_what_they_did() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let cluster = Cluster::start(Wanted {
        environment: vec![setting("PLACEMENT_MERGE__ENABLED", "false")],
        ..Wanted::default()
    })?;
    cluster.pause_balance()?;
    look(&cluster)?;
    change(&cluster).await?;
    scatter(&cluster).await?;
    keys(&cluster)?;
    bench(&cluster)?;
    others(&cluster)?;
    tables::compare(&cluster).await?;
    settings(&cluster)?;
    dev(&cluster)?;
    cluster.passed();
    Ok(())
}
