//! `pontoon region`.

use bytes::Bytes;
use clap::{Args, Subcommand};
use serde::Serialize;

use proto::pontoon::v1::ReadJournalRequest;

use super::{
    Shown, Target, journal, key,
    watch::{self, Waiting},
};
use crate::{
    exit::{Failure, Kind, Result},
    output::{self, thousands},
    remote::{Region, Remote},
};

/// Look at regions; split, merge and move them.
#[derive(Debug, Args)]
pub struct RegionArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// All regions in the order of their keys
    List {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        shown: Shown,
    },
    /// One region with its replicas
    Show {
        /// The region
        id: u64,
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        shown: Shown,
    },
    /// The region that holds a key
    Find {
        /// The key: text, other bytes as \xNN
        key: String,
        /// The key is in hexadecimal, with or without 0x in front
        #[arg(long)]
        hex: bool,
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        shown: Shown,
    },
    /// Split a region at a key
    Split {
        /// The region
        id: u64,
        /// First key of the upper part: text, other bytes as \xNN. Give it more than once to split into more parts
        #[arg(long = "key", value_name = "KEY", required = true)]
        keys: Vec<String>,
        /// The keys are in hexadecimal, with or without 0x in front
        #[arg(long)]
        hex: bool,
        #[command(flatten)]
        waiting: Waiting,
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        shown: Shown,
    },
    /// Merge a region into a neighbour: its replicas go where the neighbour's are, then the neighbour takes it in
    Merge {
        /// The region
        id: u64,
        /// The neighbour; the nearer of the two if not given
        #[arg(long, value_name = "REGION")]
        into: Option<u64>,
        #[command(flatten)]
        waiting: Waiting,
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        shown: Shown,
    },
    /// Move a replica from one store to another: the new one learns, catches up, and replaces the old one at once
    Move {
        /// The region
        id: u64,
        /// The store that gives its replica up
        #[arg(long, value_name = "STORE")]
        from: u64,
        /// The store that gets one
        #[arg(long, value_name = "STORE")]
        to: u64,
        #[command(flatten)]
        waiting: Waiting,
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        shown: Shown,
    },
    /// Spread regions over the stores, such as those of a table that was just cut up: as many of them and of their leaders on each
    Scatter {
        /// The regions
        #[arg(required = true, value_name = "ID")]
        ids: Vec<u64>,
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        shown: Shown,
    },
    /// Why a region is where it is: the newest decisions about it
    Explain {
        /// The region
        id: u64,
        #[command(flatten)]
        limit: journal::Limit,
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        shown: Shown,
    },
    /// Have a region led by its replica on another store
    TransferLeader {
        /// The region
        id: u64,
        /// The store that is to lead
        #[arg(long, value_name = "STORE")]
        to: u64,
        #[command(flatten)]
        waiting: Waiting,
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        shown: Shown,
    },
}

/// Runs the command.
///
/// # Errors
/// The cluster is not there, knows no such region or store, or refuses.
pub async fn run(args: RegionArgs) -> Result<()> {
    match args.command {
        Command::List { target, shown } => {
            let regions = target.remote().regions(&[], &[]).await?;
            output::print(shown.output, &regions, |regions| table(regions))?;
        }
        Command::Show { id, target, shown } => {
            let region = target.remote().region(id).await?;
            output::print(shown.output, &region, detail)?;
        }
        Command::Find {
            key,
            hex,
            target,
            shown,
        } => {
            let remote = target.remote();
            let key = remote.region_key(&key::read(&key, hex)?).await?;
            let mut end = key.to_vec();
            end.push(0);
            let found = remote
                .regions(&key, &end)
                .await?
                .into_iter()
                .find(|region| region.holds(&key));
            let region = found.ok_or_else(|| {
                Failure::new(Kind::NotFound, "no region is known to hold that key")
                    .because("its leader has not reported yet")
                    .hint("try again in a few seconds")
            })?;
            output::print(shown.output, &region, detail)?;
        }
        Command::Split {
            id,
            keys,
            hex,
            waiting,
            target,
            shown,
        } => {
            let remote = target.remote();
            let mut splits: Vec<Bytes> = Vec::new();
            for key in &keys {
                splits.push(remote.region_key(&key::read(key, hex)?).await?);
            }
            splits.sort();
            let operator = remote.split(id, splits).await?;
            watch::finish(&remote, operator, id, &waiting, &shown).await?;
        }
        Command::Merge {
            id,
            into,
            waiting,
            target,
            shown,
        } => {
            let remote = target.remote();
            let operator = remote.merge(id, into).await?;
            watch::finish(&remote, operator, id, &waiting, &shown).await?;
        }
        Command::Move {
            id,
            from,
            to,
            waiting,
            target,
            shown,
        } => {
            let remote = target.remote();
            let operator = remote.move_replica(id, from, to).await?;
            watch::finish(&remote, operator, id, &waiting, &shown).await?;
        }
        Command::Scatter { ids, target, shown } => {
            let scattered = scatter(&target.remote(), ids).await?;
            output::print(shown.output, &scattered, |scattered| {
                format!(
                    "{} regions go apart",
                    thousands(scattered.regions.len() as u64)
                )
            })?;
        }
        Command::Explain {
            id,
            limit,
            target,
            shown,
        } => {
            let query = ReadJournalRequest {
                region_id: id,
                ..limit.query()
            };
            journal::print(&target, &shown, query).await?;
        }
        Command::TransferLeader {
            id,
            to,
            waiting,
            target,
            shown,
        } => {
            let remote = target.remote();
            let operator = remote.transfer_leader(id, to).await?;
            watch::finish(&remote, operator, id, &waiting, &shown).await?;
        }
    }
    Ok(())
}

/// Regions that go apart.
#[derive(Serialize)]
struct Scattered {
    regions: Vec<u64>,
}

/// Begins to spread regions. What was begun goes on, even if others could not, which is a failure.
async fn scatter(remote: &Remote, mut ids: Vec<u64>) -> Result<Scattered> {
    ids.sort_unstable();
    ids.dedup();
    for id in &ids {
        remote.region(*id).await?;
    }
    let failed = remote.scatter(&ids).await?;
    if failed.is_empty() {
        return Ok(Scattered { regions: ids });
    }
    let named: Vec<String> = failed.iter().map(u64::to_string).collect();
    let text = format!(
        "{} of {} regions stay where they are: {}",
        failed.len(),
        ids.len(),
        named.join(", ")
    );
    Err(Failure::new(Kind::Refused, text)
        .because("something is under way with them, or a replica is down or behind")
        .hint("the others go apart; try again when `pontoon operator list` is empty"))
}

fn table(regions: &[Region]) -> String {
    let mut text = output::rows(
        [
            "REGION",
            "START",
            "END",
            "STORES (* LEADS)",
            "TERM",
            "SIZE",
            "KEYS",
        ],
        regions.iter().map(|region| {
            [
                region.id.to_string(),
                key::escape_boundary(&region.start_key, "-inf"),
                key::escape_boundary(&region.end_key, "+inf"),
                region.replicas(),
                region.term.to_string(),
                output::bytes(region.approximate_bytes),
                thousands(region.approximate_keys),
            ]
        }),
    );
    text.push_str(&format!("{} regions\n", thousands(regions.len() as u64)));
    text
}

fn detail(region: &Region) -> String {
    let facts = output::facts([
        ("region", region.id.to_string()),
        ("start", key::escape_boundary(&region.start_key, "-inf")),
        ("end", key::escape_boundary(&region.end_key, "+inf")),
        (
            "epoch",
            format!("conf_ver {}, version {}", region.conf_ver, region.version),
        ),
        (
            "leader",
            region.leader_store.map_or_else(
                || "none".to_owned(),
                |store| format!("store {store}, term {}", region.term),
            ),
        ),
        (
            "size",
            format!("about {}", output::bytes(region.approximate_bytes)),
        ),
        (
            "keys",
            format!("about {}", thousands(region.approximate_keys)),
        ),
    ]);
    let peers = output::rows(
        ["PEER", "STORE", "ROLE", "STATE"],
        region.peers.iter().map(|peer| {
            let state = match (peer.damaged, peer.down, peer.pending) {
                (true, ..) => "damaged",
                (false, true, _) => "down",
                (false, false, true) => "catching up",
                (false, false, false) => "up to date",
            };
            [
                peer.id.to_string(),
                peer.store.to_string(),
                peer.role.to_owned(),
                state.to_owned(),
            ]
        }),
    );
    format!("{facts}\n{peers}")
}
