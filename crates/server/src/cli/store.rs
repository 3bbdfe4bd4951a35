//! `pontoon store`.

use clap::{Args, Subcommand};

use proto::{metapb, pontoon::v1::ReadJournalRequest};

use super::{Shown, Target, journal};
use crate::{exit::Result, output, remote::Store};

/// Look at stores; empty, label and remove them.
#[derive(Debug, Args)]
pub struct StoreArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// All stores
    List {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        shown: Shown,
    },
    /// Empty a store: its leaders go first, then its replicas. It goes on by itself; `store list` shows how far it is
    Drain {
        /// The store
        id: u64,
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        shown: Shown,
    },
    /// Take a drain back
    Undrain {
        /// The store
        id: u64,
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        shown: Shown,
    },
    /// Take a store out for good that is drained and empty, or dead
    Remove {
        /// The store
        id: u64,
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        shown: Shown,
    },
    /// Set labels of a store over those that it tells
    Label {
        /// The store
        id: u64,
        /// NAME=VALUE; without a value the label goes
        #[arg(required = true, value_name = "NAME=VALUE", value_parser = label)]
        labels: Vec<metapb::StoreLabel>,
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        shown: Shown,
    },
    /// Why replicas go to a store or not: the newest decisions that considered it
    Explain {
        /// The store
        id: u64,
        #[command(flatten)]
        limit: journal::Limit,
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        shown: Shown,
    },
}

pub(super) fn label(text: &str) -> std::result::Result<metapb::StoreLabel, String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok(metapb::StoreLabel {
            key: key.to_owned(),
            value: value.to_owned(),
        }),
        _ => Err("a label is NAME=VALUE, or NAME= to take it away".to_owned()),
    }
}

/// Runs the command.
///
/// # Errors
/// The cluster is not there, knows no such store, or refuses.
pub async fn run(args: StoreArgs) -> Result<()> {
    match args.command {
        Command::List { target, shown } => {
            let stores = target.remote().stores().await?;
            output::print(shown.output, &stores, |stores| table(stores))?;
        }
        Command::Drain { id, target, shown } => {
            target.remote().drain(id).await?;
            let text =
                format!("store {id} is being emptied; `pontoon store list` shows how far it is");
            output::taken(shown.output, text)?;
        }
        Command::Undrain { id, target, shown } => {
            target.remote().undrain(id).await?;
            output::taken(shown.output, format!("store {id} takes replicas again"))?;
        }
        Command::Remove { id, target, shown } => {
            target.remote().remove(id).await?;
            let text = format!("store {id} is removed once nothing is left on it");
            output::taken(shown.output, text)?;
        }
        Command::Label {
            id,
            labels,
            target,
            shown,
        } => {
            target.remote().label(id, labels).await?;
            output::taken(shown.output, format!("store {id} has these labels"))?;
        }
        Command::Explain {
            id,
            limit,
            target,
            shown,
        } => {
            let query = ReadJournalRequest {
                store_id: id,
                ..limit.query()
            };
            journal::print(&target, &shown, query).await?;
        }
    }
    Ok(())
}

/// The state, and of a drain how far it is.
fn state(store: &Store) -> String {
    let Some(drain) = store.drain.filter(|_| store.regions > 0) else {
        return store.state.to_owned();
    };
    let done = drain.replicas_at_start.saturating_sub(store.regions);
    let left = drain.left_ms.map_or(String::new(), |left| {
        let seconds = std::time::Duration::from_secs(left.div_ceil(1000));
        format!(", about {} left", humantime::format_duration(seconds))
    });
    format!("draining {done} of {}{left}", drain.replicas_at_start)
}

/// One line per store.
pub fn table(stores: &[Store]) -> String {
    output::rows(
        [
            "STORE",
            "ADDRESS",
            "STATE",
            "REGIONS",
            "LEADS",
            "USED",
            "FREE",
            "HEARD OF",
            "LABELS",
            "STATUS PAGE",
        ],
        stores.iter().map(|store| {
            [
                store.id.to_string(),
                store.address.clone(),
                state(store),
                store.regions.to_string(),
                store.leaders.to_string(),
                output::bytes(store.used_bytes),
                output::bytes(store.available_bytes),
                format!("{:.1} s ago", store.silent_ms as f64 / 1e3),
                store.labels.join(" "),
                store.status_address.clone(),
            ]
        }),
    )
}
