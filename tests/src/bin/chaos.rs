//! Harms a cluster of real processes and checks what its clients saw; see `tests::chaos`.
//!
//! Exit status: 0 when everything held, 1 when something is wrong, 3 when too little happened to say anything.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Result;
use clap::Parser;
use tests::chaos::{Outcome, Wanted, run};

/// Harm a cluster of real processes and check what its clients saw.
///
/// Exit status: 0 when everything held, 1 when something is wrong, 3 when too little happened to say anything.
#[derive(Debug, Parser)]
struct Args {
    /// How long the cluster is harmed, at least
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// From which the plan follows
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Stores
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(3..=9))]
    stores: u64,
    /// Placement members
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=5))]
    members: u64,
    /// Clients
    #[arg(long, default_value_t = 24, value_parser = clap::value_parser!(u64).range(1..=1000))]
    clients: u64,
    /// Harm disks as well, and let every kill lose what was not synced: PONTOON has to name the binary pontoon-fault-disk
    #[arg(long)]
    disks: bool,
    /// Empty folder for everything; a new one below that for temporary files if not given
    #[arg(long)]
    folder: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let args = Args::parse();
    let report = run(Wanted {
        length: Duration::from_secs(args.seconds),
        seed: args.seed,
        stores: args.stores as usize,
        members: args.members as usize,
        clients: args.clients as usize,
        disks: args.disks,
        folder: args.folder,
        verbose: true,
    })
    .await?;
    println!("{report}");
    Ok(match report.outcome() {
        Outcome::Passed => ExitCode::SUCCESS,
        Outcome::Failed => ExitCode::from(1),
        Outcome::Void => ExitCode::from(3),
    })
}
