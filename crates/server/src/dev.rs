//! A whole cluster on one machine: real processes on loopback, described by `DIR/cluster.json`.
//!
//! Nothing supervises the processes. [`Cluster`] reads the description, acts, and writes it back; between commands the
//! cluster is just its processes. Commands on one folder exclude each other with a lock on `DIR/cluster.lock`.

mod command;
mod layout;
mod process;

use std::{
    fs::{self, File, TryLockError},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

pub use command::{DevArgs, Interrupts, run};
pub use layout::{Layout, Member, PLACEMENT_PORT, Role, STATUS_PORT, STORE_PORT, STORES_MAX};
use rustix::process::Signal;

use crate::{
    config::{self},
    exit::{Failure, Kind, Result},
    placement_process::PlacementConfig,
    remote::Remote,
    store_process::StoreConfig,
};

/// How long a process may take to end in order before it is killed.
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// How a new cluster should look. What is `None` has its default; for a cluster that exists, what is given must agree.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted {
    /// Stores, 3 by default.
    pub stores: Option<usize>,
    /// Placement members, 3 by default.
    pub placements: Option<usize>,
    /// Added to every default port, 0 by default.
    pub port_offset: Option<u16>,
    /// Version of the client interface, 1 by default.
    pub api_version: Option<u32>,
}

/// A development cluster, held by one command.
pub struct Cluster {
    dir: PathBuf,
    layout: Layout,
    /// For the processes that this object starts.
    environment: Vec<(String, String)>,
    _lock: File,
}

impl Cluster {
    /// Takes the cluster of `dir`, or lays out a new one as `wanted`.
    ///
    /// # Errors
    /// Another command holds it; `wanted` makes no sense or contradicts what exists; the folder holds something else.
    pub fn create(dir: &Path, wanted: Wanted) -> Result<Self> {
        fs::create_dir_all(dir).map_err(|error| {
            Failure::environment(format!("cannot make the folder {}", dir.display()), error)
        })?;
        let (dir, lock) = lock(dir)?;
        let layout = match Layout::read(&dir)? {
            Some(layout) => {
                agree(&dir, &layout, wanted)?;
                layout
            }
            None => {
                refuse_strangers(&dir)?;
                Layout::new(
                    wanted.stores.unwrap_or(3),
                    wanted.placements.unwrap_or(3),
                    wanted.port_offset.unwrap_or(0),
                    wanted.api_version.unwrap_or(1),
                )?
            }
        };
        Ok(Self {
            dir,
            layout,
            environment: Vec::new(),
            _lock: lock,
        })
    }

    /// Takes the cluster of `dir`, which must exist.
    ///
    /// # Errors
    /// There is none, or another command holds it.
    pub fn open(dir: &Path) -> Result<Self> {
        let missing = || {
            Failure::new(
                Kind::NotFound,
                format!("there is no cluster in {}", dir.display()),
            )
            .hint(format!(
                "start one with `pontoon dev --dir {}`",
                dir.display()
            ))
        };
        if !Layout::path(dir).exists() {
            return Err(missing());
        }
        let (dir_full, lock) = lock(dir)?;
        let layout = Layout::read(&dir_full)?.ok_or_else(missing)?;
        Ok(Self {
            dir: dir_full,
            layout,
            environment: Vec::new(),
            _lock: lock,
        })
    }

    /// Settings that override the files of the processes started from now on, as `PONTOON_CONFIG_…` variables; `pontoon
    /// config show` tells their names. They are not written down.
    pub fn set(&mut self, environment: Vec<(String, String)>) {
        self.environment = environment;
    }

    /// What the cluster consists of.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Whether a process of this cluster was ever started: only then is it written down.
    pub fn was_started(&self) -> bool {
        Layout::path(&self.dir).exists() || self.running().next().is_some()
    }

    /// The cluster's folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Starts every process that is not running. Returns how many were started.
    ///
    /// # Errors
    /// A port is taken; a process cannot be started.
    pub fn start(&mut self) -> Result<usize> {
        let stopped: Vec<String> = self
            .layout
            .members()
            .filter(|member| !process::is_running(member))
            .map(|member| member.name.clone())
            .collect();
        process::check_ports(
            self.layout
                .members()
                .filter(|member| stopped.contains(&member.name)),
        )?;
        for name in &stopped {
            self.spawn(name)?;
        }
        self.layout.write(&self.dir)?;
        Ok(stopped.len())
    }

    /// Ends every process in order: stores first, so that they can still report to placement, then placement.
    ///
    /// # Errors
    /// A process cannot be signalled. One that does not end in time is killed and named in the error.
    pub async fn stop(&mut self) -> Result<()> {
        let stores: Vec<Member> = self.layout.stores.clone();
        let placement: Vec<Member> = self.layout.placement.clone();
        let mut late = Vec::new();
        for group in [stores, placement] {
            late.extend(end(&group, STOP_LIMIT).await?);
        }
        for member in self.layout.members_mut() {
            (member.pid, member.began) = (None, None);
        }
        self.layout.write(&self.dir)?;
        refuse_late(&late)
    }

    /// Ends one process in order.
    ///
    /// # Errors
    /// As [`Cluster::stop`]; or there is no such process.
    pub async fn stop_one(&mut self, name: &str) -> Result<()> {
        let member = self.layout.member_mut(name)?;
        let late = end(std::slice::from_ref(member), STOP_LIMIT).await?;
        (member.pid, member.began) = (None, None);
        self.layout.write(&self.dir)?;
        refuse_late(&late)
    }

    /// Ends one process with SIGKILL, as a crash would. It stays part of the cluster.
    ///
    /// # Errors
    /// There is no such process, or it is not running.
    pub async fn kill(&mut self, name: &str) -> Result<()> {
        let dir = self.dir.clone();
        let member = self.layout.member_mut(name)?;
        if !process::signal(member, Signal::KILL)? {
            return Err(
                Failure::new(Kind::NotFound, format!("{name} is not running")).hint(format!(
                    "start it with `pontoon dev --dir {} restart {name}`",
                    dir.display()
                )),
            );
        }
        process::wait_gone(std::slice::from_ref(member), STOP_LIMIT).await;
        (member.pid, member.began) = (None, None);
        self.layout.write(&self.dir)
    }

    /// Ends every process with SIGKILL and does not wait: for when the data will not be needed again.
    pub fn kill_all(&self) {
        for member in self.layout.members() {
            // Whoever cannot be signalled is gone already, or is not ours any more.
            let _ = process::signal(member, Signal::KILL);
        }
    }

    /// Ends one process in order, if it is running, and starts it again.
    ///
    /// # Errors
    /// There is no such process; its port is taken; it cannot be started.
    pub async fn restart(&mut self, name: &str) -> Result<()> {
        self.stop_one(name).await?;
        process::check_ports(self.layout.members().filter(|member| member.name == name))?;
        self.spawn(name)?;
        self.layout.write(&self.dir)
    }

    /// Adds a store and starts it. Returns its name.
    ///
    /// # Errors
    /// Its port is taken; it cannot be started; there are no more ports.
    pub fn add_store(&mut self) -> Result<String> {
        let mut wider = self.layout.clone();
        let member = wider.add_store()?;
        let name = member.name.clone();
        process::check_ports(std::iter::once(&*member))?;
        self.layout = wider;
        self.spawn(&name)?;
        self.layout.write(&self.dir)?;
        Ok(name)
    }

    /// The processes that run now.
    pub fn running(&self) -> impl Iterator<Item = &Member> {
        self.layout
            .members()
            .filter(|member| process::is_running(member))
    }

    /// A connection to the cluster's placement group.
    pub fn remote(&self) -> Remote {
        Remote::new(&self.layout.placement_addrs())
    }

    /// Waits until the cluster serves: every running store is up, and every region has a leader and all its replicas.
    /// `report` hears what is still missing.
    ///
    /// # Errors
    /// A process ended meanwhile (the message has the end of its log), or `limit` passed.
    pub async fn wait_serving(&self, limit: Duration, mut report: impl FnMut(&str)) -> Result<()> {
        let remote = self.remote();
        let deadline = Instant::now() + limit;
        loop {
            self.check_alive(|_| true)?;
            let missing = match self.missing(&remote).await {
                Ok(None) => return Ok(()),
                Ok(Some(missing)) => missing,
                Err(failure) => failure.to_string(),
            };
            report(&missing);
            if Instant::now() >= deadline {
                return Err(Failure::new(
                    Kind::Timeout,
                    format!("the cluster does not serve after {} s", limit.as_secs()),
                )
                .because(missing)
                .hint(format!("the logs are {}/*.log", self.dir.display())));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until one process serves: a store has reported to placement since it began, a placement member listens.
    ///
    /// # Errors
    /// The process ended (the message has the end of its log), or `limit` passed.
    pub async fn wait_up(&self, name: &str, limit: Duration) -> Result<()> {
        let member = self
            .layout
            .members()
            .find(|member| member.name == name)
            .expect("the caller got the name from this cluster");
        let remote = self.remote();
        let deadline = Instant::now() + limit;
        loop {
            self.check_alive(|member| member.name == name)?;
            let listens = tokio::net::TcpStream::connect(&member.addr).await.is_ok();
            let up = match member.role {
                Role::Placement => listens,
                // A store listens before it has joined, so placement has to know it, too.
                Role::Store => {
                    listens
                        && remote.stores().await.is_ok_and(|stores| {
                            stores
                                .iter()
                                .any(|store| store.address == member.addr && store.is_up())
                        })
                }
            };
            if up {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(Failure::new(
                    Kind::Timeout,
                    format!("{name} does not serve after {} s", limit.as_secs()),
                )
                .hint(format!("its log is {}/{name}.log", self.dir.display())));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// What keeps the cluster from serving, if anything.
    async fn missing(&self, remote: &Remote) -> Result<Option<String>> {
        let stores = remote.stores().await?;
        for member in self
            .layout
            .stores
            .iter()
            .filter(|member| process::is_running(member))
        {
            let up = stores
                .iter()
                .any(|store| store.address == member.addr && store.is_up());
            if !up {
                return Ok(Some(format!("{} has not reported yet", member.name)));
            }
        }
        let up = stores.iter().filter(|store| store.is_up()).count();
        let regions = remote.regions(&[], &[]).await?;
        if regions.is_empty() {
            return Ok(Some("there is no region yet".to_owned()));
        }
        let replicas = up.min(3);
        for region in &regions {
            if region.leader_store.is_none() {
                return Ok(Some(format!("region {} has no leader", region.id)));
            }
            let healthy = region.healthy_voters();
            if healthy < replicas {
                return Ok(Some(format!(
                    "region {} has {healthy} of {replicas} replicas",
                    region.id
                )));
            }
        }
        Ok(None)
    }

    /// # Errors
    /// One of these processes should run and does not; with the end of its log.
    fn check_alive(&self, these: impl Fn(&Member) -> bool) -> Result<()> {
        let dead = self
            .layout
            .members()
            .find(|member| these(member) && member.pid.is_some() && !process::is_running(member));
        match dead {
            None => Ok(()),
            Some(member) => Err(Failure::new(
                Kind::Environment,
                format!("{} ended by itself", member.name),
            )
            .because(format!(
                "the end of its log says\n{}",
                process::log_tail(&self.dir, &member.name, 12)
            ))
            .hint(format!(
                "the whole log is {}/{}.log",
                self.dir.display(),
                member.name
            ))),
        }
    }

    /// Writes the process's configuration and starts it.
    fn spawn(&mut self, name: &str) -> Result<()> {
        let text = self.configuration(name)?;
        let path = self.dir.join(format!("{name}.toml"));
        fs::write(&path, text).map_err(|error| {
            Failure::environment(format!("cannot write {}", path.display()), error)
        })?;
        let dir = self.dir.clone();
        process::spawn(&dir, self.layout.member_mut(name)?, &self.environment)
    }

    fn configuration(&mut self, name: &str) -> Result<String> {
        let members = self.layout.placement_addrs();
        let api_version = self.layout.api_version;
        let data_dir = self.dir.join(name);
        let member = self.layout.member_mut(name)?;
        let head = "# Written by `pontoon dev` each time it starts the process.\n";
        let body = match member.role {
            Role::Placement => config::to_toml(&PlacementConfig {
                data_dir,
                addr: member.addr.clone(),
                members,
                api_version,
                ..PlacementConfig::default()
            }),
            Role::Store => config::to_toml(&StoreConfig {
                data_dir,
                addr: member.addr.clone(),
                status_addr: member.status_addr.clone(),
                placement: members,
                ..StoreConfig::default()
            }),
        };
        Ok(format!("{head}{body}"))
    }
}

/// SIGTERM to all, SIGKILL to those that do not end within `limit`. Returns the names of the latter.
async fn end(members: &[Member], limit: Duration) -> Result<Vec<String>> {
    for member in members {
        process::signal(member, Signal::TERM)?;
    }
    let late = process::wait_gone(members, limit).await;
    for member in members.iter().filter(|member| late.contains(&member.name)) {
        process::signal(member, Signal::KILL)?;
    }
    process::wait_gone(members, limit).await;
    Ok(late)
}

fn refuse_late(late: &[String]) -> Result<()> {
    if late.is_empty() {
        return Ok(());
    }
    Err(Failure::new(
        Kind::Timeout,
        format!(
            "{} did not end within {} s and had to be killed",
            late.join(", "),
            STOP_LIMIT.as_secs()
        ),
    )
    .hint("nothing acknowledged is lost by that; the log may say what it waited for"))
}

/// Locks the folder against other commands. Returns its full path with the lock.
fn lock(dir: &Path) -> Result<(PathBuf, File)> {
    let failed = |error: std::io::Error| {
        Failure::environment(format!("cannot use the folder {}", dir.display()), error)
    };
    let dir = fs::canonicalize(dir).map_err(failed)?;
    let file = File::create(dir.join("cluster.lock")).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok((dir, file)),
        Err(TryLockError::WouldBlock) => Err(Failure::new(
            Kind::Directory,
            format!(
                "another command is at work on the cluster in {}",
                dir.display()
            ),
        )
        .hint("wait until it is done")),
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}

/// A folder that holds something else is no place for a cluster.
fn refuse_strangers(dir: &Path) -> Result<()> {
    let entries = fs::read_dir(dir).map_err(|error| {
        Failure::environment(format!("cannot read the folder {}", dir.display()), error)
    })?;
    for entry in entries.flatten() {
        if entry.file_name() != "cluster.lock" {
            return Err(Failure::new(
                Kind::Directory,
                format!(
                    "{} holds `{}` but no cluster",
                    dir.display(),
                    entry.file_name().to_string_lossy()
                ),
            )
            .hint("choose an empty folder or one that does not exist yet"));
        }
    }
    Ok(())
}

/// Options that contradict the cluster that exists are refused, not ignored.
fn agree(dir: &Path, layout: &Layout, wanted: Wanted) -> Result<()> {
    let checks = [
        (
            "--stores",
            wanted.stores,
            layout.stores.len(),
            "use `add-store` to add stores",
        ),
        (
            "--placements",
            wanted.placements,
            layout.placement.len(),
            "the placement group keeps its size",
        ),
        (
            "--port-offset",
            wanted.port_offset.map(usize::from),
            usize::from(layout.port_offset),
            "addresses are part of the cluster",
        ),
        (
            "--api-version",
            wanted.api_version.map(|version| version as usize),
            layout.api_version as usize,
            "the version is fixed when a cluster first starts",
        ),
    ];
    for (option, wanted, there, why) in checks {
        if let Some(wanted) = wanted
            && wanted != there
        {
            return Err(Failure::new(
                Kind::Directory,
                format!(
                    "the cluster in {} has {option} {there}, not {wanted}",
                    dir.display()
                ),
            )
            .because(why)
            .hint("leave the option out to start the cluster as it is"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
