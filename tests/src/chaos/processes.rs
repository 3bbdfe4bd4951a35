//! The processes of the cluster, each behind a proxy.

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use client::{Admin, Options};
use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::{Mutex, watch};

use super::{Choice, Events, Wanted, pause};
use crate::{
    DEFAULT_PORTS, binary, free_offset, page,
    proxy::{Net, Proxy},
    wait_within,
};

/// What a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Member,
    Store,
}

/// A process, running or not.
struct Process {
    role: Role,
    name: String,
    proxy: Proxy,
    /// Where its metrics are.
    status: String,
    child: Option<Child>,
    /// Whether it is stopped by a signal.
    stopped: bool,
    /// Whether it may end by itself.
    may_end: bool,
    /// Its store id, once it is known.
    id: Option<u64>,
}

/// All of them.
pub(crate) struct Processes {
    folder: PathBuf,
    /// For the processes.
    environment: Vec<(&'static str, &'static str)>,
    pub net: Net,
    list: Vec<Process>,
    /// Those that ended by themselves, and how.
    ends: Vec<String>,
}

impl Processes {
    /// Starts a cluster.
    pub(crate) async fn start(wanted: &Wanted) -> Result<Self> {
        let folder = match &wanted.folder {
            Some(folder) => {
                fs::create_dir_all(folder)?;
                let mut there = fs::read_dir(folder)?;
                ensure!(there.next().is_none(), "{} is not empty", folder.display());
                folder.clone()
            }
            None => tempfile::Builder::new()
                .prefix("pontoon-chaos-")
                .tempdir()?
                .keep(),
        };
        let offset = free_offset()?;
        let net = Net::new(wanted.seed);
        let mut list = Vec::new();
        let mut addresses = Vec::new();
        for number in 0..wanted.members + wanted.stores {
            let (role, place, port) = match number.checked_sub(wanted.members) {
                None => (Role::Member, number, DEFAULT_PORTS[0]),
                Some(place) => (Role::Store, place, DEFAULT_PORTS[1]),
            };
            let local = |port: u16| format!("127.0.0.1:{}", port + offset + place as u16);
            let address = local(port);
            let (name, status) = match role {
                Role::Member => (format!("placement-{}", place + 1), address.clone()),
                Role::Store => (format!("store-{}", place + 1), local(DEFAULT_PORTS[2])),
            };
            list.push(Process {
                role,
                name,
                proxy: net.proxy(number, address.clone(), 0).await?,
                status,
                child: None,
                stopped: false,
                may_end: false,
                id: None,
            });
            addresses.push(address);
        }
        let fault_disk = wanted.disks.then_some(("PONTOON_FAULT_DISK", "1"));
        let mut processes = Self {
            folder,
            environment: fault_disk.into_iter().collect(),
            net,
            list,
            ends: Vec::new(),
        };
        let mut choice = Choice::new(wanted.seed, 10);
        let tuning = Tuning::draw(&mut choice);
        for (number, address) in addresses.iter().enumerate() {
            processes.configure(number, address, &tuning)?;
            processes.spawn(number)?;
        }
        Ok(processes)
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Addresses of the placement members, as everybody knows them.
    pub(crate) fn placement(&self) -> Vec<String> {
        let members = self.list.iter().filter(|one| one.role == Role::Member);
        members.map(|member| member.proxy.address.clone()).collect()
    }

    fn configure(&self, number: usize, address: &str, tuning: &Tuning) -> Result<()> {
        let process = &self.list[number];
        let members = self.placement();
        let list = |name: &str| format!("{name} = {members:?}\n");
        let mut text = format!(
            "data_dir = {:?}\naddr = {address:?}\nadvertise_addr = {:?}\n",
            self.folder.join(&process.name),
            process.proxy.address,
        );
        match process.role {
            Role::Member => text.push_str(&list("members")),
            Role::Store => {
                text.push_str(&list("placement"));
                text.push_str(&format!("status_addr = {:?}\n", process.status));
                text.push_str(&tuning.text());
            }
        }
        let path = self.folder.join(format!("{}.toml", process.name));
        Ok(fs::write(path, text)?)
    }

    fn spawn(&mut self, number: usize) -> Result<()> {
        let process = &mut self.list[number];
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.folder.join(format!("{}.log", process.name)))?;
        let role = match process.role {
            Role::Member => "placement",
            Role::Store => "store",
        };
        let child = Command::new(binary()?)
            .args(["serve", role, "--config"])
            .arg(self.folder.join(format!("{}.toml", process.name)))
            .envs(self.environment.iter().copied())
            .stdin(Stdio::null())
            .stderr(log.try_clone()?)
            .stdout(log)
            .spawn()
            .context("the binary starts")?;
        process.child = Some(child);
        Ok(())
    }

    /// Numbers of the processes of a role.
    pub(crate) fn numbers(&self, role: Role) -> Vec<usize> {
        let of_role = |number: &usize| self.list[*number].role == role;
        (0..self.list.len()).filter(of_role).collect()
    }

    pub(crate) fn name(&self, number: usize) -> &str {
        &self.list[number].name
    }

    /// The store id of a process, once it has one.
    pub(crate) fn id(&self, number: usize) -> Option<u64> {
        self.list[number].id
    }

    fn signal(&self, number: usize, signal: Signal) {
        let child = self.list[number].child.as_ref();
        let pid = child.and_then(|child| Pid::from_raw(child.id() as i32));
        if let Some(pid) = pid {
            // It may have ended by itself, which is noticed elsewhere.
            let _ = kill_process(pid, signal);
        }
    }

    /// Ends a process as a crash would.
    pub(crate) fn kill(&mut self, number: usize) {
        self.note_end(number);
        let process = &mut self.list[number];
        if let Some(mut child) = process.child.take() {
            // It may have ended already, if it may.
            let _ = child.kill();
            let _ = child.wait();
        }
        process.stopped = false;
    }

    /// Starts a process again that was killed.
    pub(crate) fn revive(&mut self, number: usize) -> Result<()> {
        match self.list[number].child {
            Some(_) => Ok(()),
            None => self.spawn(number),
        }
    }

    /// Stops a process without ending it.
    pub(crate) fn stop(&mut self, number: usize) {
        self.signal(number, Signal::STOP);
        self.list[number].stopped = true;
    }

    /// Lets a stopped process go on.
    pub(crate) fn go_on(&mut self, number: usize) {
        self.signal(number, Signal::CONT);
        self.list[number].stopped = false;
    }

    /// Begins or ends a fault of the disk of a process. Returns how often the disk has done harm until now.
    pub(crate) fn set_disk(&self, number: usize, fault: &str, on: bool) -> Result<u64> {
        let process = &self.list[number];
        let folder = self.folder.join(&process.name).join("fault-disk");
        let mut control = UnixStream::connect(folder.join("control"))
            .context("PONTOON must name the binary pontoon-fault-disk")?;
        control.set_read_timeout(Some(Duration::from_secs(5)))?;
        writeln!(control, "{fault} {}", if on { "on" } else { "off" })?;
        let mut answer = String::new();
        BufReader::new(control).read_line(&mut answer)?;
        answer
            .trim()
            .parse()
            .with_context(|| format!("the disk answers {answer:?}"))
    }

    /// Whether a process may end by itself from now on.
    pub(crate) fn let_end(&mut self, number: usize, may: bool) {
        self.list[number].may_end = may;
    }

    /// Whether a process that may end has ended.
    pub(crate) fn has_ended(&mut self, number: usize) -> bool {
        let child = self.list[number].child.as_mut();
        child.is_some_and(|child| matches!(child.try_wait(), Ok(Some(_))))
    }

    /// Notes a process that ended by itself.
    fn note_end(&mut self, number: usize) {
        let process = &mut self.list[number];
        if process.may_end {
            return;
        }
        let Some(child) = &mut process.child else {
            return;
        };
        let Ok(Some(status)) = child.try_wait() else {
            return;
        };
        process.child = None;
        let log = fs::read_to_string(self.folder.join(format!("{}.log", process.name)));
        let log = log.unwrap_or_default();
        let mut tail: Vec<&str> = log.lines().rev().take(8).collect();
        tail.reverse();
        self.ends.push(format!(
            "{} ended by itself ({status}); its log ends with\n    {}",
            process.name,
            tail.join("\n    ")
        ));
    }

    /// Those that ended by themselves.
    pub(crate) fn take_ends(&mut self) -> Vec<String> {
        for number in 0..self.list.len() {
            self.note_end(number);
        }
        std::mem::take(&mut self.ends)
    }

    /// Ends everything that is wrong: every process runs, and the network passes everything.
    pub(crate) async fn mend(&mut self) -> Result<()> {
        self.net.mend_all();
        for number in 0..self.list.len() {
            self.note_end(number);
            if self.list[number].stopped {
                self.go_on(number);
            }
            self.revive(number)?;
        }
        Ok(())
    }

    /// Kills every process.
    pub(crate) fn end(&mut self) {
        for process in &mut self.list {
            if let Some(mut child) = process.child.take() {
                // It is to be gone; if it is already, so much the better.
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }

    /// Waits until the cluster serves with full replicas.
    pub(crate) async fn wait_serving(
        &mut self,
        placement: &[String],
        limit: Duration,
    ) -> Result<()> {
        let admin = Admin::new(placement, Options::default());
        let stores = self.numbers(Role::Store).len();
        let mut ends = Vec::new();
        let waited = wait_within(limit, "the cluster serves", async || {
            ends = self.take_ends();
            if !ends.is_empty() {
                return Ok(true);
            }
            let joined = admin.stores().await?.len();
            ensure!(joined == stores, "{joined} stores of {stores}");
            is_whole(&admin).await
        })
        .await;
        ensure!(ends.is_empty(), "{}", ends.join("\n"));
        waited.with_context(|| self.folder.display().to_string())
    }

    /// Learns the ids of stores and members, by which links are named.
    pub(crate) async fn learn_ids(&mut self, admin: &Admin) -> Result<()> {
        let stores = admin.stores().await?;
        let by_address: BTreeMap<&str, u64> = stores
            .iter()
            .filter_map(|store| store.store.as_ref())
            .map(|store| (store.address.as_str(), store.id))
            .collect();
        for process in &mut self.list {
            process.id = by_address.get(&*process.proxy.address).copied();
        }
        Ok(())
    }

    pub(crate) fn network_counts(&self) -> String {
        self.net.counts().to_string()
    }

    /// Messages that were found damaged since the processes last started.
    pub(crate) fn damaged_messages(&self) -> u64 {
        let name = "server_messages_damaged_total ";
        let damaged = |process: &Process| -> Option<u64> {
            let metrics = page(&process.status, "/metrics").ok()?;
            let line = metrics.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim().parse().ok()
        };
        self.list.iter().filter_map(damaged).sum()
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        self.end();
    }
}

/// Waits until every region has a leader and three voters that are well.
///
/// # Errors
/// Not in time; says what is missing.
pub(crate) async fn wait_whole(admin: &Admin, limit: Duration) -> Result<()> {
    wait_within(limit, "every region is whole", async || {
        is_whole(admin).await
    })
    .await
}

async fn is_whole(admin: &Admin) -> Result<bool> {
    let all = admin.regions(Default::default(), Default::default(), 0);
    let regions = all.await?;
    ensure!(!regions.is_empty(), "there is no region");
    let missing = regions.iter().find_map(missing);
    ensure!(missing.is_none(), "{}", missing.unwrap_or_default());
    Ok(true)
}

/// What keeps a region from being whole.
fn missing(status: &proto::pontoon::v1::RegionStatus) -> Option<String> {
    let region = status.region.as_ref()?;
    let voters = region
        .peers
        .iter()
        .filter(|peer| peer.role() == proto::metapb::PeerRole::Voter)
        .count();
    let leaderless = status.leader.as_ref().is_none_or(|leader| leader.id == 0);
    let well = voters == 3
        && region.peers.len() == 3
        && status.down_peers.is_empty()
        && status.pending_peers.is_empty();
    (leaderless || !well).then(|| {
        format!(
            "region {}: leader {:?}, peers {:?}, down {:?}, pending {:?}",
            region.id, status.leader, region.peers, status.down_peers, status.pending_peers
        )
    })
}

/// Settings that the seed chooses.
struct Tuning {
    compact_entries: u64,
    compact_tail: u64,
    region_kib: u64,
    apply_threads: u64,
}

impl Tuning {
    fn draw(choice: &mut Choice) -> Self {
        Self {
            // Few, so that members that were away need snapshots.
            compact_entries: [200, 1_000, 10_000][choice.below(3) as usize],
            compact_tail: [20, 200][choice.below(2) as usize],
            region_kib: [256, 1_024, 98_304][choice.below(3) as usize],
            apply_threads: 1 + choice.below(2),
        }
    }

    fn text(&self) -> String {
        format!(
            "apply_threads = {}\n[raft]\ncompact_entries = {}\ncompact_tail_entries = {}\n[split]\nregion_bytes = \"{}KiB\"\n",
            self.apply_threads, self.compact_entries, self.compact_tail, self.region_kib
        )
    }
}

/// Notices processes that end by themselves, and starts them again.
pub(crate) async fn watch_ends(
    processes: Arc<Mutex<Processes>>,
    events: Arc<Events>,
    mut stopping: watch::Receiver<bool>,
) {
    while pause(Duration::from_millis(200), &mut stopping).await {
        let mut processes = processes.lock().await;
        for number in 0..processes.list.len() {
            let before = processes.ends.len();
            processes.note_end(number);
            if processes.ends.len() > before {
                events.note(&processes.ends[before]);
                if let Err(error) = processes.revive(number) {
                    events.note(&format!("it cannot be started: {error:#}"));
                }
            }
        }
    }
}
