//! `pontoon store`.

use clap::{Args, Subcommand};

use super::{Shown, Target};
use crate::{exit::Result, output, remote::Store};

/// Look at stores.
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
}

/// Runs the command.
///
/// # Errors
/// The cluster is not there.
pub async fn run(args: StoreArgs) -> Result<()> {
    let Command::List { target, shown } = args.command;
    let stores = target.remote().stores().await?;
    output::print(shown.output, &stores, |stores| table(stores));
    Ok(())
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
            "STATUS PAGE",
        ],
        stores.iter().map(|store| {
            [
                store.id.to_string(),
                store.address.clone(),
                store.state.to_owned(),
                store.regions.to_string(),
                store.leaders.to_string(),
                output::bytes(store.used_bytes),
                output::bytes(store.available_bytes),
                format!("{:.1} s ago", store.silent_ms as f64 / 1e3),
                store.status_address.clone(),
            ]
        }),
    )
}
