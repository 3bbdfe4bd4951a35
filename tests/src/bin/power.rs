//! Takes the power of a whole cluster away, again and again, and checks what its clients saw; see `tests::power`.
//!
//! Exit status: 0 when everything held, 1 when something is wrong.

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use tests::power::{Wanted, run};

/// Take the power of a whole cluster away, again and again, and check what its clients saw. The variable PONTOON names the
/// binary pontoon-fault-disk; `make power` builds it first.
#[derive(Debug, Parser)]
struct Args {
    /// How often
    #[arg(long, default_value_t = 20)]
    cycles: u64,
    /// From which the clients' choices follow
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Clients
    #[arg(long, default_value_t = 24, value_parser = clap::value_parser!(u64).range(1..=1000))]
    clients: u64,
    /// Acknowledged operations between two losses, at least
    #[arg(long, default_value_t = 2_000)]
    operations: u64,
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let args = Args::parse();
    let report = run(Wanted {
        cycles: args.cycles,
        seed: args.seed,
        clients: args.clients as usize,
        operations: args.operations,
        verbose: true,
    })
    .await?;
    println!("{report}");
    Ok(if report.passed() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
