//! How commands fail: an exit code per kind of failure, as `pontoon --help` lists them, and an error that says what to do.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use tests::{Cluster, Wanted, binary, wait_for};

use super::{ensure_says, run};
use crate::{ONE_AT_A_TIME, setting};

const USAGE: i32 = 2;
const UNREACHABLE: i32 = 3;
const REFUSED: i32 = 4;
const PORT_TAKEN: i32 = 5;
const CONFIG: i32 = 6;
const NOT_FOUND: i32 = 7;
const DIRECTORY: i32 = 8;
const ENVIRONMENT: i32 = 10;
const INTERRUPTED: i32 = 11;

/// Nobody listens there, and whoever is not root cannot.
const NOWHERE: &str = "127.0.0.1:1";

/// Whether a command failed so, told why in these words, and printed nothing that a program would read.
fn ensure_failed(
    args: &[&str],
    output: &std::process::Output,
    code: i32,
    words: &[&str],
) -> Result<()> {
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.code() == Some(code),
        "{args:?} ended with {}: {said}",
        output.status
    );
    ensure!(
        output.stdout.is_empty(),
        "{args:?} printed {:?}",
        output.stdout
    );
    // A server logs before it fails.
    ensure!(
        said.lines().any(|line| line.starts_with("error: ")),
        "{args:?}: {said}"
    );
    ensure_says(&said, words)
}

/// Runs a command that finds the cluster and must fail so.
fn fails(cluster: &Cluster, args: &[&str], code: i32, words: &[&str]) -> Result<()> {
    ensure_failed(args, &run(cluster, args)?, code, words)
}

/// The same for one that is not told where the cluster is.
fn fails_alone(cluster: &Cluster, args: &[&str], code: i32, words: &[&str]) -> Result<()> {
    ensure_failed(args, &cluster.try_pontoon(args)?, code, words)
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a printable path")
}

/// What is wrong by itself, and what the cluster says no to.
fn requests(cluster: &Cluster) -> Result<()> {
    for line in [
        "region show four",
        "region list --output xml",
        "nonsense",
        "region scatter",
        "bench put --clients 0",
    ] {
        let args: Vec<&str> = line.split(' ').collect();
        fails_alone(cluster, &args, USAGE, &[])?;
    }
    fails(
        cluster,
        &["kv", "get", r"a\q"],
        USAGE,
        &["an unknown escape at byte 1", "--hex"],
    )?;
    fails(
        cluster,
        &["kv", "get", "--hex", "0x1"],
        USAGE,
        &["is not hexadecimal"],
    )?;
    fails(
        cluster,
        &["bench", "put", "--rate", "0"],
        USAGE,
        &["--rate"],
    )?;

    let region = cluster.find("a")?.to_string();
    let store = cluster.stores()?[0].to_string();
    fails(
        cluster,
        &["kv", "get", "nobody"],
        NOT_FOUND,
        &["there is no key `nobody`"],
    )?;
    for args in [
        &["region", "show", "9999"][..],
        &["region", "split", "9999", "--key", "m"],
        &["region", "move", "9999", "--from", &store, "--to", "99"],
        &["region", "transfer-leader", "9999", "--to", &store],
        &["region", "scatter", &region, "9999"],
    ] {
        fails(cluster, args, NOT_FOUND, &["9999"])?;
    }
    for command in ["drain", "undrain", "remove"] {
        fails(cluster, &["store", command, "99"], NOT_FOUND, &["store 99"])?;
    }

    let key = "k".repeat(9_000);
    fails(
        cluster,
        &["kv", "put", &key, "v"],
        REFUSED,
        &["too large", "8192"],
    )?;
    fails(
        cluster,
        &["kv", "put", "", "v"],
        REFUSED,
        &["the key is empty"],
    )?;
    fails(
        cluster,
        &["kv", "put", "k", "v", "--ttl", "1h"],
        REFUSED,
        &[],
    )?;
    fails(
        cluster,
        &["store", "drain", &store],
        REFUSED,
        &["placement refused"],
    )?;
    fails(
        cluster,
        &["store", "remove", &store],
        REFUSED,
        &["placement refused"],
    )?;
    for args in [
        &["region", "move", &region, "--from", &store, "--to", &store][..],
        &["region", "transfer-leader", &region, "--to", "99"],
        &["scheduler", "pause", "nobody", "1m"],
    ] {
        fails(cluster, args, REFUSED, &[])?;
    }
    cluster.ask(&["scheduler", "pause", "scatter", "1m"])?;
    let scatter = ["region", "scatter", &region];
    fails(cluster, &scatter, REFUSED, &["scatter is paused"])?;
    cluster.ask(&["scheduler", "resume", "scatter"])?;
    let missing = cluster.dir().join("missing");
    let read = ["kv", "put", "k", "--file", text(&missing)?];
    fails(cluster, &read, ENVIRONMENT, &["cannot read", "missing"])
}

/// Nobody is there, or somebody else.
fn addresses(cluster: &Cluster) -> Result<()> {
    let layout = cluster.layout()?;
    let store = layout["stores"][0]["addr"].as_str().context("an address")?;
    for args in [
        &["status"][..],
        &["store", "list"],
        &["region", "find", "k"],
        &["kv", "get", "k"],
        &["kv", "put", "k", "v"],
        &["bench", "put"],
    ] {
        let wrong = [args, &["--placement", NOWHERE]].concat();
        fails_alone(
            cluster,
            &wrong,
            UNREACHABLE,
            &["does not answer", "--placement"],
        )?;
    }
    let other = ["status", "--placement", store];
    fails_alone(
        cluster,
        &other,
        UNREACHABLE,
        &["does not answer", "--placement"],
    )?;
    // One address that answers is enough.
    let placement = cluster.placement().join(",");
    let some = format!("{NOWHERE},{placement}");
    cluster.pontoon(&["status", "--placement", &some]).map(drop)
}

/// Folders that hold something else, and processes that are not there.
fn folders(cluster: &Cluster) -> Result<()> {
    let dir = text(cluster.dir())?;
    fails_alone(
        cluster,
        &["dev", "status"],
        USAGE,
        &["no folder was named", "--dir"],
    )?;
    fails_alone(
        cluster,
        &["dev", "--dir", dir, "--detach"],
        DIRECTORY,
        &["is running", "stop"],
    )?;
    fails_alone(
        cluster,
        &["dev", "--dir", dir, "--stores", "7"],
        DIRECTORY,
        &["--stores 1, not 7", "add-store"],
    )?;
    for command in ["kill", "restart"] {
        let nobody = ["dev", "--dir", dir, command, "store-9"];
        fails_alone(
            cluster,
            &nobody,
            NOT_FOUND,
            &["no process is called `store-9`", "store-1"],
        )?;
    }

    let folder = tempfile::tempdir()?;
    let new = text(folder.path())?;
    for (option, value) in [
        ("--stores", "0"),
        ("--placements", "2"),
        ("--port-offset", "60000"),
    ] {
        fails_alone(
            cluster,
            &["dev", "--dir", new, option, value],
            USAGE,
            &[option, value],
        )?;
    }
    for command in [
        &["stop"][..],
        &["status"],
        &["add-store"],
        &["restart", "store-1"],
    ] {
        let args = [&["dev", "--dir", new], command].concat();
        fails_alone(cluster, &args, NOT_FOUND, &["there is no cluster in"])?;
    }
    std::fs::write(folder.path().join("letter"), "dear")?;
    fails_alone(
        cluster,
        &["dev", "--dir", new],
        DIRECTORY,
        &["holds `letter` but no cluster"],
    )?;
    let newer = r#"{"format": 99}"#;
    std::fs::write(folder.path().join("cluster.json"), newer)?;
    for command in [&["--detach"][..], &["status"], &["stop"]] {
        let args = [&["dev", "--dir", new], command].concat();
        fails_alone(cluster, &args, DIRECTORY, &["has format 99"])?;
    }
    Ok(())
}

/// Ports that the cluster has, asked for by another.
fn ports(cluster: &Cluster) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let offset = cluster.layout()?["port_offset"].to_string();
    let dir = text(folder.path())?;
    let second = ["dev", "--dir", dir, "--port-offset", &offset, "--detach"];
    fails_alone(
        cluster,
        &second,
        PORT_TAKEN,
        &["cannot listen on", "--port-offset"],
    )?;
    ensure!(
        !folder.path().join("cluster.json").exists(),
        "nothing is left behind"
    );

    let layout = cluster.layout()?;
    let config = cluster.dir().join("store-1.toml");
    let dir = text(cluster.dir())?;
    for field in ["addr", "status_addr"] {
        cluster.dev(&["kill", "store-1"])?;
        let address = layout["stores"][0][field].as_str().context("an address")?;
        let taken = TcpListener::bind(address)?;
        let restart = ["dev", "--dir", dir, "restart", "store-1"];
        fails_alone(cluster, &restart, PORT_TAKEN, &[address, "--port-offset"])?;
        let serve = ["serve", "store", "--config", text(&config)?];
        fails_alone(cluster, &serve, PORT_TAKEN, &[address, "`addr`"])?;
        drop(taken);
        cluster.dev(&["restart", "store-1"])?;
    }
    Ok(())
}

/// Settings that no process has, or not so.
fn configurations(cluster: &Cluster) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("x.toml");
    let path = text(&file)?;
    for (kind, content, words) in [
        (
            "store",
            "# one\nadr = \"127.0.0.1:1\"\n",
            &["line 2", "`adr`", "did you mean `addr`?", "--defaults"][..],
        ),
        (
            "store",
            "[raft]\n\n\ncompact_entry = 1\n",
            &["line 4", "did you mean `raft.compact_entries`?"],
        ),
        (
            "placement",
            "[balance]\nrebalance_shares = 1\n",
            &["line 2", "did you mean `balance.rebalance_share`?"],
        ),
        ("placement", "addr = 7\n", &["line 1"]),
        ("store", "addr = \n", &["line 1", "not valid TOML"]),
    ] {
        std::fs::write(&file, content)?;
        fails_alone(cluster, &["serve", kind, "--config", path], CONFIG, words)?;
        fails_alone(
            cluster,
            &["config", "show", kind, "--config", path],
            CONFIG,
            words,
        )?;
    }
    let data = format!("data_dir = \"{}\"\n", text(&folder.path().join("data"))?);
    std::fs::write(&file, format!("{data}[balance]\nrebalance_share = 101\n"))?;
    let serve = ["serve", "placement", "--config", path];
    fails_alone(
        cluster,
        &serve,
        CONFIG,
        &["balance.rebalance_share", "100 at the most"],
    )?;
    ensure!(!folder.path().join("data").exists(), "nothing was begun");
    std::fs::write(&file, &data)?;
    let wrong = ["serve", "store", "--config", path, "--set", "adr=x"];
    fails_alone(
        cluster,
        &wrong,
        CONFIG,
        &["--set adr=x", "did you mean `addr`?"],
    )?;
    let missing = folder.path().join("missing.toml");
    let serve = ["serve", "store", "--config", text(&missing)?];
    fails_alone(
        cluster,
        &serve,
        CONFIG,
        &["cannot read the configuration file"],
    )?;
    // A folder that cannot be one.
    let inside = format!(
        "data_dir = \"{path}/data\"\naddr = \"127.0.0.1:0\"\nstatus_addr = \"127.0.0.1:0\"\n"
    );
    std::fs::write(&file, inside)?;
    let serve = ["serve", "store", "--config", path];
    fails_alone(cluster, &serve, ENVIRONMENT, &["cannot be opened"])
}

/// Every kind of failure that a user can bring about, by its exit code.
#[tokio::test(flavor = "multi_thread")]
async fn failures_have_exit_codes_of_their_own() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let cluster = Cluster::start(Wanted::of(1, 1))?;
    requests(&cluster)?;
    addresses(&cluster)?;
    folders(&cluster)?;
    configurations(&cluster)?;
    ports(&cluster)?;
    cluster.passed();
    Ok(())
}

/// A cluster in the foreground ends with ctrl-c, in order: also before it serves, as this one never will.
#[tokio::test(flavor = "multi_thread")]
async fn an_interrupt_ends_a_cluster_that_starts() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let folder = tempfile::tempdir()?;
    let (key, value) = setting("PLACEMENT_ELECTION_TIMEOUT", "10m");
    let child = Command::new(binary()?)
        .args(["dev", "--dir", text(folder.path())?, "--port-offset"])
        .arg(tests::free_offset()?.to_string())
        .env(key, value)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    wait_for("its processes run", async || {
        Ok(folder.path().join("cluster.json").exists())
    })
    .await?;
    let pid = child.id().to_string();
    ensure!(
        Command::new("kill")
            .args(["-INT", &pid])
            .status()?
            .success()
    );
    let ended = child.wait_with_output()?;
    ensure_failed(
        &["dev"],
        &ended,
        INTERRUPTED,
        &["interrupted before the cluster served"],
    )?;
    let layout = std::fs::read(folder.path().join("cluster.json"))?;
    let layout: serde_json::Value = serde_json::from_slice(&layout)?;
    for role in ["placement", "stores"] {
        let members = layout[role].as_array().context("members")?;
        ensure!(members.len() == 3 && members.iter().all(|member| member["pid"].is_null()));
    }
    Ok(())
}
