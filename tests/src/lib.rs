//! What tests of real processes share: a cluster that is started and driven by the command line, as a user would.

pub mod chaos;
pub mod power;
pub mod proxy;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;

/// How long a condition may take to come true.
const PATIENCE: Duration = Duration::from_secs(90);
/// Ports that one cluster may use above each default.
const PORTS: u16 = 10;
/// Default ports of placement members, stores and status pages, in order.
const DEFAULT_PORTS: [u16; 3] = [2379, 20160, 20180];
/// The smallest port offset.
const OFFSET_MIN: u16 = 1_000;
/// Where the kernel takes the ports of outgoing connections from; a port above may be taken at any moment.
const EPHEMERAL: u16 = 32_768;
/// Offsets, from the smallest on, that keep every port below those.
const OFFSETS: u16 = EPHEMERAL - PORTS - DEFAULT_PORTS[2] - OFFSET_MIN;
/// How long a page may take.
const PAGE_MAX: Duration = Duration::from_secs(5);

/// What a cluster starts with.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Stores.
    pub stores: usize,
    /// Placement members.
    pub placements: usize,
    /// 1 or 2.
    pub api_version: u32,
    /// Environment of every process, by which settings are overridden.
    pub environment: Vec<(String, String)>,
}

impl Default for Wanted {
    fn default() -> Self {
        Self {
            stores: 3,
            placements: 3,
            api_version: 1,
            environment: Vec::new(),
        }
    }
}

impl Wanted {
    /// As by default, with so many stores and placement members.
    pub fn of(stores: usize, placements: usize) -> Self {
        Self {
            stores,
            placements,
            ..Self::default()
        }
    }
}

/// A running cluster. Dropping it ends every process. Its folder stays for a look unless [`Cluster::passed`] was called:
/// tests fail by panics and by returned errors, and only success shows itself.
pub struct Cluster {
    dir: TempDir,
    passed: bool,
    wanted: Wanted,
    placement: Vec<String>,
}

/// A region as the command line shows it.
#[derive(Clone, Debug)]
pub struct Region {
    /// Its id.
    pub id: u64,
    /// Its first key as the command line prints it.
    pub start: String,
    /// Stores of its peers.
    pub stores: Vec<u64>,
    /// Who leads it, as placement knows.
    pub leader_store: Option<u64>,
    /// Whether all peers are voters that are up and caught up.
    pub settled: bool,
}

impl Cluster {
    /// Starts a cluster and waits until it serves with full replicas.
    ///
    /// # Errors
    /// It does not start; says what the command said.
    pub fn start(wanted: Wanted) -> Result<Self> {
        let mut dir = tempfile::tempdir()?;
        dir.disable_cleanup(true);
        let mut cluster = Self {
            dir,
            passed: false,
            wanted,
            placement: Vec::new(),
        };
        let offset = free_offset()?.to_string();
        let (stores, placements) = (
            cluster.wanted.stores.to_string(),
            cluster.wanted.placements.to_string(),
        );
        let version = cluster.wanted.api_version.to_string();
        let counts = ["--stores", &stores, "--placements", &placements];
        let rest = [
            "--port-offset",
            &offset,
            "--api-version",
            &version,
            "--detach",
        ];
        cluster.dev(&[&counts[..], &rest[..]].concat())?;
        cluster.placement = members(&cluster.layout()?, "placement", "addr");
        Ok(cluster)
    }

    /// The last act of a test that passed: the folder goes.
    ///
    /// # Panics
    /// A store has told of replicas that differ, whatever the test was about.
    pub fn passed(mut self) {
        let differing = differing(self.dir.path()).expect("the logs of the cluster are there");
        assert!(differing.is_empty(), "{}", differing.join("\n"));
        self.passed = true;
        self.dir.disable_cleanup(false);
    }

    /// Kills every process at once with SIGKILL.
    ///
    /// # Errors
    /// One of them did not run.
    pub fn kill_all(&self) -> Result<()> {
        let layout = self.layout()?;
        let processes = ["placement", "stores"].map(|role| layout[role].as_array());
        let mut pids = Vec::new();
        for process in processes.into_iter().flatten().flatten() {
            let pid = process["pid"].as_u64();
            pids.push(pid.with_context(|| format!("{} does not run", process["name"]))?);
        }
        let pids = pids.iter().map(u64::to_string);
        let killed = Command::new("kill").arg("-9").args(pids).status()?;
        ensure!(killed.success(), "a process ended by itself");
        Ok(())
    }

    /// Starts the processes of a cluster that was stopped, and waits until it serves.
    ///
    /// # Errors
    /// It does not start.
    pub fn start_again(&self) -> Result<()> {
        self.dev(&["--detach"]).map(drop)
    }

    /// Addresses of the placement members.
    pub fn placement(&self) -> Vec<String> {
        self.placement.clone()
    }

    /// The cluster's folder.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// `cluster.json`.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn layout(&self) -> Result<Value> {
        let text = std::fs::read(self.dir.path().join("cluster.json"))?;
        Ok(serde_json::from_slice(&text)?)
    }

    /// Names of the processes of a role, `placement` or `stores`.
    ///
    /// # Errors
    /// The layout cannot be read.
    pub fn names(&self, role: &str) -> Result<Vec<String>> {
        Ok(members(&self.layout()?, role, "name"))
    }

    /// Runs `pontoon dev --dir DIR ARGS`.
    ///
    /// # Errors
    /// The command fails; says what it said.
    pub fn dev(&self, args: &[&str]) -> Result<Output> {
        let dir = self.dir.path().to_str().context("a printable path")?;
        self.pontoon(&[&["dev", "--dir", dir], args].concat())
    }

    /// Runs a command against the cluster and reads its JSON.
    ///
    /// # Errors
    /// The command fails, or prints something else.
    pub fn ask(&self, args: &[&str]) -> Result<Value> {
        let placement = self.placement.join(",");
        let output =
            self.pontoon(&[args, &["--placement", &placement, "--output", "json"]].concat())?;
        serde_json::from_slice(&output.stdout).with_context(|| format!("{args:?} printed no JSON"))
    }

    /// Runs the binary with any arguments.
    ///
    /// # Errors
    /// It fails; says what it said.
    pub fn pontoon(&self, args: &[&str]) -> Result<Output> {
        let output = self.try_pontoon(args)?;
        if !output.status.success() {
            bail!(
                "pontoon {args:?}: {} {}",
                output.status,
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(output)
    }

    /// Runs the binary with any arguments, whatever comes of it.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn try_pontoon(&self, args: &[&str]) -> Result<Output> {
        let binary = binary()?;
        Command::new(&binary)
            .args(args)
            .envs(
                self.wanted
                    .environment
                    .iter()
                    .map(|(name, value)| (name, value)),
            )
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("cannot run {}", binary.display()))
    }

    /// All regions in the order of their keys.
    ///
    /// # Errors
    /// Placement does not answer.
    pub fn regions(&self) -> Result<Vec<Region>> {
        let listed = self.ask(&["region", "list"])?;
        let regions = listed.as_array().context("a list of regions")?;
        Ok(regions.iter().map(region).collect())
    }

    /// One region.
    ///
    /// # Errors
    /// Placement does not answer, or knows no such region.
    pub fn region(&self, id: u64) -> Result<Region> {
        Ok(region(&self.ask(&["region", "show", &id.to_string()])?))
    }

    /// The region that holds a client's key.
    ///
    /// # Errors
    /// None is known.
    pub fn find(&self, key: &str) -> Result<u64> {
        self.ask(&["region", "find", key])?["id"]
            .as_u64()
            .context("a region id")
    }

    /// Splits at a client's key, which consists of letters, digits and dashes. Asks again while the region is busy or the
    /// split is cancelled, as happens under change.
    ///
    /// # Errors
    /// Not in time.
    pub async fn split(&self, key: &str) -> Result<()> {
        let boundary = boundary(key, self.wanted.api_version);
        wait_for(&format!("a region begins at {key}"), async || {
            let region = self.find(key)?;
            if self.region(region)?.start == boundary {
                return Ok(true);
            }
            self.ask(&["region", "split", &region.to_string(), "--key", key])?;
            Ok(true)
        })
        .await
    }

    /// Lets nobody move anything by himself, for a test that moves by command.
    ///
    /// # Errors
    /// Placement refuses.
    pub fn pause_balance(&self) -> Result<()> {
        let placement = self.placement.join(",");
        for name in [
            "balance-region",
            "balance-leader",
            "hot-write",
            "hot-read",
            "append-ahead",
        ] {
            self.pontoon(&["scheduler", "pause", name, "1h", "--placement", &placement])?;
        }
        Ok(())
    }

    /// Moves a replica of the region and waits until it is done. Asks again as [`Cluster::split`] does.
    ///
    /// # Errors
    /// Not in time.
    pub async fn move_replica(&self, region: u64, from: u64, to: u64) -> Result<()> {
        let what = format!("region {region} moved from store {from} to {to}");
        wait_for(&what, async || {
            let stores = self.region(region)?.stores;
            if stores.contains(&to) && !stores.contains(&from) {
                return Ok(true);
            }
            let (region, from, to) = (region.to_string(), from.to_string(), to.to_string());
            self.ask(&["region", "move", &region, "--from", &from, "--to", &to])?;
            Ok(true)
        })
        .await
    }

    /// Has the region led by its replica on a store. Asks again as [`Cluster::split`] does.
    ///
    /// # Errors
    /// Not in time.
    pub async fn transfer_leader(&self, region: u64, to: u64) -> Result<()> {
        let what = format!("region {region} is led by store {to}");
        wait_for(&what, async || {
            if self.region(region)?.leader_store == Some(to) {
                return Ok(true);
            }
            let (region, to) = (region.to_string(), to.to_string());
            self.ask(&["region", "transfer-leader", &region, "--to", &to])?;
            Ok(true)
        })
        .await
    }

    /// The placement member that leads and serves, by what the members' health pages say.
    ///
    /// # Errors
    /// None does now.
    pub fn placement_leader(&self) -> Result<String> {
        let layout = self.layout()?;
        let members = layout["placement"]
            .as_array()
            .context("placement members")?;
        let leads = |member: &&Value| {
            let health = member["name"].as_str().map(|name| self.health(name));
            health.is_some_and(|health| health.is_ok_and(|health| health["serving"] == true))
        };
        let leader = members.iter().find(leads).context("no member leads")?;
        Ok(leader["name"].as_str().context("a name")?.to_owned())
    }

    /// What the health page of a placement member says; an error while it knows no leader.
    ///
    /// # Errors
    /// It does not answer, or is not healthy.
    pub fn health(&self, name: &str) -> Result<Value> {
        let address = find(&self.layout()?["placement"], "name", name, "status_addr")?;
        Ok(serde_json::from_str(&page(&address, "/health")?)?)
    }

    /// Operators that placement knows to be under way.
    ///
    /// # Errors
    /// Placement does not answer.
    pub fn operators_running(&self) -> Result<u64> {
        self.ask(&["status"])?["operators_running"]
            .as_u64()
            .context("a count")
    }

    /// A counter on a store's metrics page, with its labels; 0 when the page does not have it yet.
    ///
    /// # Errors
    /// The store does not answer.
    pub fn counter(&self, name: &str, counter: &str) -> Result<u64> {
        let address = find(&self.layout()?["stores"], "name", name, "status_addr")?;
        let metrics = page(&address, "/metrics")?;
        let value = metrics
            .lines()
            .find_map(|line| line.strip_prefix(counter)?.strip_prefix(' '));
        Ok(value.unwrap_or("0").trim().parse()?)
    }

    /// What a process wrote into its log.
    ///
    /// # Errors
    /// It has none.
    pub fn log(&self, name: &str) -> Result<String> {
        let path = self.dir.path().join(format!("{name}.log"));
        std::fs::read_to_string(&path).with_context(|| path.display().to_string())
    }

    /// Stops a store's process without ending it, until the answer is dropped.
    ///
    /// # Errors
    /// It does not run.
    pub fn pause(&self, name: &str) -> Result<Paused> {
        let layout = self.layout()?;
        let stores = layout["stores"].as_array().context("stores")?;
        let pid = stores.iter().find(|store| store["name"] == name);
        let pid = pid.and_then(|store| store["pid"].as_u64());
        let paused = Paused(
            pid.with_context(|| format!("{name} does not run"))?
                .to_string(),
        );
        ensure!(paused.signal("-STOP")?, "{name} cannot be stopped");
        Ok(paused)
    }

    /// Serves a store that was killed as a child of this process, which sees how it ends. It goes on writing its log.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn serve_store(&self, name: &str) -> Result<Serving> {
        self.serve("store", name)
    }

    /// As [`Cluster::serve_store`], for a placement member.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn serve_placement(&self, name: &str) -> Result<Serving> {
        self.serve("placement", name)
    }

    fn serve(&self, role: &str, name: &str) -> Result<Serving> {
        let log = std::fs::OpenOptions::new()
            .append(true)
            .open(self.dir.path().join(format!("{name}.log")))?;
        let child = Command::new(binary()?)
            .args(["serve", role, "--config"])
            .arg(self.dir.path().join(format!("{name}.toml")))
            .envs(self.wanted.environment.iter().cloned())
            .stdin(Stdio::null())
            .stderr(log.try_clone()?)
            .stdout(log)
            .spawn()?;
        Ok(Serving(child))
    }

    /// Ids of all stores.
    ///
    /// # Errors
    /// Placement does not answer.
    pub fn stores(&self) -> Result<Vec<u64>> {
        let stores = self.ask(&["store", "list"])?;
        Ok(stores
            .as_array()
            .context("a list")?
            .iter()
            .filter_map(|store| store["id"].as_u64())
            .collect())
    }

    /// The store id of a process. After its disk was emptied the newest one counts.
    ///
    /// # Errors
    /// None is known.
    pub fn store_id(&self, name: &str) -> Result<u64> {
        let layout = self.layout()?;
        let address = find(&layout["stores"], "name", name, "addr")?;
        let stores = self.ask(&["store", "list"])?;
        let same = stores
            .as_array()
            .context("a list")?
            .iter()
            .filter(|store| store["address"] == address);
        same.filter_map(|store| store["id"].as_u64())
            .max()
            .context("a store of that address")
    }

    /// The name of the process behind a store id.
    ///
    /// # Errors
    /// None is known.
    pub fn store_name(&self, store: u64) -> Result<String> {
        let stores = self.ask(&["store", "list"])?;
        let listed = stores
            .as_array()
            .context("a list")?
            .iter()
            .find(|each| each["id"].as_u64() == Some(store));
        let address = listed.context("a known store")?["address"]
            .as_str()
            .context("an address")?
            .to_owned();
        find(&self.layout()?["stores"], "addr", &address, "name")
    }

    /// Waits until every region has a known leader that satisfies `accept`.
    ///
    /// # Errors
    /// Not in time.
    pub async fn wait_led(&self, accept: impl Fn(u64) -> bool) -> Result<()> {
        wait_for("every region is led", async || {
            Ok(self
                .regions()?
                .iter()
                .all(|region| region.leader_store.is_some_and(&accept)))
        })
        .await
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if !self.passed {
            eprintln!(
                "the cluster's folder stays for a look: {}",
                self.dir.path().display()
            );
        }
        if let Err(error) = self.dev(&["stop"]) {
            eprintln!("the cluster did not stop: {error:#}");
        }
    }
}

/// A process of a cluster that is a child of this one. Killed when it is dropped.
pub struct Serving(Child);

impl Serving {
    /// Sends it a signal.
    ///
    /// # Errors
    /// It does not run.
    pub fn signal(&self, signal: &str) -> Result<()> {
        let pid = self.0.id().to_string();
        let sent = Command::new("kill").args([signal, &pid]).status()?;
        ensure!(sent.success(), "{signal} cannot be sent");
        Ok(())
    }

    /// How it ended.
    ///
    /// # Errors
    /// It did not in time.
    pub async fn ended(mut self) -> Result<ExitStatus> {
        let mut status = None;
        wait_for("the process ends", async || {
            status = self.0.try_wait()?;
            Ok(status.is_some())
        })
        .await?;
        status.context("it ended")
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// A process that does not run on, for as long as this lives.
pub struct Paused(String);

impl Paused {
    fn signal(&self, signal: &str) -> Result<bool> {
        Ok(Command::new("kill")
            .args([signal, &self.0])
            .status()?
            .success())
    }
}

impl Drop for Paused {
    fn drop(&mut self) {
        if !matches!(self.signal("-CONT"), Ok(true)) {
            eprintln!("process {} does not go on", self.0);
        }
    }
}

/// Asks again until the condition holds; an error counts as "not yet".
///
/// # Errors
/// Not in time; says what was waited for, and the last error.
pub async fn wait_for(what: &str, condition: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    wait_within(PATIENCE, what, condition).await
}

/// As [`wait_for`], with a limit of its own.
async fn wait_within(
    limit: Duration,
    what: &str,
    mut condition: impl AsyncFnMut() -> Result<bool>,
) -> Result<()> {
    let deadline = Instant::now() + limit;
    let mut pause = tokio::time::interval(Duration::from_millis(50));
    loop {
        pause.tick().await;
        let last = condition().await;
        if matches!(last, Ok(true)) {
            return Ok(());
        }
        ensure!(
            Instant::now() < deadline,
            "waited in vain: {what} ({last:?})"
        );
    }
}

/// What the logs of a folder tell of replicas that do not hold the same (R12).
///
/// # Errors
/// A log cannot be read.
pub fn differing(folder: &Path) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "log") {
            continue;
        }
        let log = std::fs::read(&path).with_context(|| path.display().to_string())?;
        let told = String::from_utf8_lossy(&log);
        let told = told
            .lines()
            .filter(|line| line.contains("do not hold the same"));
        lines.extend(told.map(|line| format!("{}: {line}", path.display())));
    }
    Ok(lines)
}

/// Reads a page with the oldest HTTP, whose answer ends with the connection.
fn page(address: &str, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PAGE_MAX))?;
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("a whole answer")?;
    let status = head.lines().next().unwrap_or_default();
    ensure!(status.contains(" 200 "), "{address}{path}: {status}");
    Ok(body.to_owned())
}

/// How the command line prints the edge of a region that begins at a client's key. Version 2 puts the keyspace in front,
/// and pads groups of eight bytes so that their order stays.
fn boundary(key: &str, api_version: u32) -> String {
    if api_version == 1 {
        return key.to_owned();
    }
    let bytes = [b"r\0\0\0", key.as_bytes()].concat();
    let mut encoded = Vec::new();
    for at in (0..=bytes.len()).step_by(8) {
        let group = &bytes[at..bytes.len().min(at + 8)];
        let padding = 8 - group.len();
        encoded.extend_from_slice(group);
        encoded.resize(encoded.len() + padding, 0);
        encoded.push(0xff - padding as u8);
    }
    let printed = |byte: &u8| match byte {
        b' '..=b'~' => char::from(*byte).to_string(),
        _ => format!("\\x{byte:02x}"),
    };
    encoded.iter().map(printed).collect()
}

fn region(region: &Value) -> Region {
    let peers = region["peers"].as_array().cloned().unwrap_or_default();
    Region {
        id: region["id"].as_u64().unwrap_or_default(),
        start: region["start"].as_str().unwrap_or_default().to_owned(),
        stores: peers
            .iter()
            .filter_map(|peer| peer["store"].as_u64())
            .collect(),
        leader_store: region["leader_store"].as_u64(),
        settled: peers.iter().all(|peer| {
            peer["role"] == "voter" && peer["down"] == false && peer["pending"] == false
        }),
    }
}

fn members(layout: &Value, role: &str, field: &str) -> Vec<String> {
    let members = layout[role].as_array().cloned().unwrap_or_default();
    members
        .iter()
        .filter_map(|member| member[field].as_str().map(str::to_owned))
        .collect()
}

fn find(list: &Value, field: &str, value: &str, wanted: &str) -> Result<String> {
    let found = list
        .as_array()
        .and_then(|list| list.iter().find(|each| each[field] == value));
    Ok(found
        .and_then(|each| each[wanted].as_str())
        .with_context(|| format!("no {field} {value}"))?
        .to_owned())
}

/// The binary: the one that the variable PONTOON names, or the one built beside this test.
///
/// # Errors
/// It is not built.
pub fn binary() -> Result<PathBuf> {
    if let Some(named) = std::env::var_os("PONTOON") {
        return Ok(named.into());
    }
    let test = std::env::current_exe()?;
    let built = test
        .ancestors()
        .nth(2)
        .map(|folder| folder.join("pontoon"))
        .filter(|path| path.exists());
    built.context("the binary is not built: run `make build`, or set PONTOON to its path")
}

/// A port offset at which the ports of a cluster are free, another one on each call.
///
/// # Errors
/// There is none.
pub fn free_offset() -> Result<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = (std::process::id() % 280) as u16 * 40;
    for _ in 0..500 {
        let offset = OFFSET_MIN + (first + NEXT.fetch_add(40, Ordering::Relaxed)) % OFFSETS;
        let mut ports = DEFAULT_PORTS
            .iter()
            .flat_map(|port| (0..PORTS).map(move |more| port + more + offset));
        if ports.all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok()) {
            return Ok(offset);
        }
    }
    bail!("no free ports")
}
