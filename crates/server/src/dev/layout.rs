//! `DIR/cluster.json`: which processes a development cluster has, where they listen, and which are running.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::exit::{Failure, Kind, Result};

/// Version of the file's form. A newer one is refused.
const FORMAT: u32 = 1;

/// Port of the first placement member, before the offset.
pub const PLACEMENT_PORT: u16 = 2379;
/// Port of the first store, before the offset.
pub const STORE_PORT: u16 = 20160;
/// Port of the first store's status pages, before the offset.
pub const STATUS_PORT: u16 = 20180;
/// Stores at most: one more and its port would be the first status port.
pub const STORES_MAX: usize = (STATUS_PORT - STORE_PORT) as usize;
/// Placement members at most.
pub const PLACEMENTS_MAX: usize = 5;

/// What a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// A member of the placement group.
    Placement,
    /// A store.
    Store,
}

/// One process of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// `placement-1`, `store-1` and so on; also the name of its folder, log and configuration.
    pub name: String,
    /// What it is.
    pub role: Role,
    /// Where it serves.
    pub addr: String,
    /// Where it answers `/health` and `/metrics`.
    pub status_addr: String,
    /// Its process id when it was last started; `None` once it was stopped or killed on purpose.
    pub pid: Option<u32>,
    /// When that process began, in the kernel's ticks since boot, to tell it from a later one with the same id.
    pub began: Option<u64>,
}

/// The whole cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// Version of this form.
    pub format: u32,
    /// Version of the client interface, fixed when the cluster first starts.
    pub api_version: u32,
    /// Added to every default port.
    pub port_offset: u16,
    /// Members of the placement group, in order.
    pub placement: Vec<Member>,
    /// Stores, in order of joining.
    pub stores: Vec<Member>,
}

impl Layout {
    /// A cluster that has never run.
    ///
    /// # Errors
    /// A count or the offset is out of range.
    pub fn new(
        stores: usize,
        placements: usize,
        port_offset: u16,
        api_version: u32,
    ) -> Result<Self> {
        let usage = |what: String| Err(Failure::new(Kind::Usage, what));
        if !(1..=STORES_MAX).contains(&stores) {
            return usage(format!(
                "--stores {stores} is out of range: 1 to {STORES_MAX}"
            ));
        }
        if ![1, 3, 5].contains(&placements) {
            return usage(format!(
                "--placements {placements} makes no group: an odd number up to {PLACEMENTS_MAX} does"
            ));
        }
        let highest = STATUS_PORT + STORES_MAX as u16;
        if port_offset > u16::MAX - highest {
            return usage(format!(
                "--port-offset {port_offset} leads past the last port: {} at most",
                u16::MAX - highest
            ));
        }
        let mut layout = Self {
            format: FORMAT,
            api_version,
            port_offset,
            placement: Vec::new(),
            stores: Vec::new(),
        };
        for number in 0..placements as u16 {
            let addr = format!("127.0.0.1:{}", PLACEMENT_PORT + port_offset + number);
            layout.placement.push(Member {
                name: format!("placement-{}", number + 1),
                role: Role::Placement,
                status_addr: addr.clone(),
                addr,
                pid: None,
                began: None,
            });
        }
        for _ in 0..stores {
            layout.add_store()?;
        }
        Ok(layout)
    }

    /// Adds one more store and returns it.
    ///
    /// # Errors
    /// The ports are used up.
    pub fn add_store(&mut self) -> Result<&mut Member> {
        let number = self.stores.len();
        if number >= STORES_MAX {
            return Err(Failure::new(
                Kind::Usage,
                format!("a development cluster has at most {STORES_MAX} stores"),
            ));
        }
        let number = number as u16;
        self.stores.push(Member {
            name: format!("store-{}", number + 1),
            role: Role::Store,
            addr: format!("127.0.0.1:{}", STORE_PORT + self.port_offset + number),
            status_addr: format!("127.0.0.1:{}", STATUS_PORT + self.port_offset + number),
            pid: None,
            began: None,
        });
        Ok(self.stores.last_mut().expect("one was just added"))
    }

    /// All processes, placement first.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.placement.iter().chain(&self.stores)
    }

    /// All processes, placement first.
    pub fn members_mut(&mut self) -> impl Iterator<Item = &mut Member> {
        self.placement.iter_mut().chain(&mut self.stores)
    }

    /// The process of that name.
    ///
    /// # Errors
    /// There is none; the message lists those that there are.
    pub fn member_mut(&mut self, name: &str) -> Result<&mut Member> {
        let names: Vec<String> = self.members().map(|member| member.name.clone()).collect();
        self.members_mut()
            .find(|member| member.name == name)
            .ok_or_else(|| {
                Failure::new(Kind::NotFound, format!("no process is called `{name}`"))
                    .hint(format!("there are {}", names.join(", ")))
            })
    }

    /// Addresses of the placement members.
    pub fn placement_addrs(&self) -> Vec<String> {
        self.placement
            .iter()
            .map(|member| member.addr.clone())
            .collect()
    }

    /// The file's place in `dir`.
    pub fn path(dir: &Path) -> PathBuf {
        dir.join("cluster.json")
    }

    /// Reads the cluster of `dir`; `None` if there is none yet.
    ///
    /// # Errors
    /// The file cannot be read, is damaged, or was written by a newer pontoon.
    pub fn read(dir: &Path) -> Result<Option<Self>> {
        #[derive(Deserialize)]
        struct Head {
            format: u32,
        }
        let path = Self::path(dir);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(Failure::environment(
                    format!("cannot read {}", path.display()),
                    error,
                ));
            }
        };
        let damaged = |error: serde_json::Error| {
            Failure::new(
                Kind::Directory,
                format!("{} is not a cluster's description", path.display()),
            )
            .because(error)
            .hint("move it away to begin a new cluster in this folder")
        };
        let head: Head = serde_json::from_slice(&text).map_err(damaged)?;
        if head.format > FORMAT {
            return Err(Failure::new(
                Kind::Directory,
                format!(
                    "{} has format {}, this pontoon knows up to {FORMAT}",
                    path.display(),
                    head.format
                ),
            )
            .hint("use the newer pontoon that wrote it"));
        }
        serde_json::from_slice(&text).map(Some).map_err(damaged)
    }

    /// Replaces the file of `dir` in one step: a reader sees the old text or the new one, never a part.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let path = Self::path(dir);
        let write = || -> std::io::Result<()> {
            let mut file = tempfile::NamedTempFile::new_in(dir)?;
            serde_json::to_writer_pretty(&mut file, self)?;
            file.write_all(b"\n")?;
            file.as_file().sync_all()?;
            file.persist(&path).map_err(|error| error.error)?;
            Ok(())
        };
        write().map_err(|error| {
            Failure::environment(format!("cannot write {}", path.display()), error)
        })
    }
}
