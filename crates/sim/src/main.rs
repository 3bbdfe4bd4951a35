//! Runs seeds of the simulation from the command line.

use std::ops::Range;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use raft::Bug;
use sim::batch::run_batch;
use sim::group::settings::{Fault, Plan, Scale, Settings};
use sim::run::{replay_command, revision, run};

/// Seeded simulation of a Raft group, or of a cluster of stores.
#[derive(Debug, Parser)]
#[command(name = "sim")]
struct Arguments {
    /// Run this seed alone.
    #[arg(long, conflicts_with = "seeds")]
    seed: Option<u64>,
    /// Run these seeds, `from..to`.
    #[arg(long, value_parser = parse_range, default_value = "0..1000")]
    seeds: Range<u64>,
    /// Simulate a cluster of stores instead of one group.
    #[arg(long)]
    cluster: bool,
    /// Events of a seed until faults stop.
    #[arg(long, default_value_t = 10_000)]
    events: u64,
    /// Print everything that happens; with `--seed`.
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Print only the hash of everything that happens; with `--seed`.
    #[arg(long, requires = "seed")]
    digest: bool,
    /// Faults that stay away, by name.
    #[arg(long, value_parser = parse_fault, value_delimiter = ',')]
    without: Vec<Fault>,
    /// Faults that exist in every world, by name.
    #[arg(long, value_parser = parse_fault, value_delimiter = ',')]
    with: Vec<Fault>,
    /// Plant this bug, by its name in `raft::Bug`.
    #[arg(long, value_parser = parse_bug)]
    bug: Option<Bug>,
    /// Plant this bug of the stores, by its name in `store::Bug`; with `--cluster`.
    #[arg(long, value_parser = parse_store_bug)]
    store_bug: Option<store::Bug>,
    /// Leave it to the stores to compare what they applied; with `--cluster`.
    #[arg(long)]
    stores_compare: bool,
    /// Threads for a range of seeds.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Stop after this many seconds.
    #[arg(long)]
    seconds: Option<u64>,
}

fn parse_range(text: &str) -> Result<Range<u64>, String> {
    let (from, to) = text
        .split_once("..")
        .ok_or("expected from..to, as in 0..1000")?;
    let number = |text: &str| {
        text.replace('_', "")
            .parse::<u64>()
            .map_err(|error| format!("{text}: {error}"))
    };
    Ok(number(from)?..number(to)?)
}

fn parse_fault(name: &str) -> Result<Fault, String> {
    Fault::from_name(name).ok_or_else(|| {
        let names: Vec<String> = Fault::ALL.into_iter().map(Fault::name).collect();
        format!("no such fault; there are {}", names.join(", "))
    })
}

fn parse_bug(name: &str) -> Result<Bug, String> {
    Bug::ALL
        .into_iter()
        .find(|bug| format!("{bug:?}") == name)
        .ok_or_else(|| format!("no such bug; there are {:?}", Bug::ALL))
}

fn parse_store_bug(name: &str) -> Result<store::Bug, String> {
    store::Bug::ALL
        .into_iter()
        .find(|bug| format!("{bug:?}") == name)
        .ok_or_else(|| format!("no such bug; there are {:?}", store::Bug::ALL))
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let plan = |seed: u64| Plan {
        scale: if arguments.cluster {
            Scale::Cluster
        } else {
            Scale::Group
        },
        seed,
        events: arguments.events,
        without: arguments.without.clone(),
        with: arguments.with.clone(),
        bug: arguments.bug,
        store_bug: arguments.store_bug,
        stores_compare: arguments.stores_compare,
        trace: arguments.trace,
    };
    if let Some(seed) = arguments.seed {
        return run_one(&plan(seed), arguments.digest);
    }
    let budget = arguments.seconds.map(Duration::from_secs);
    let report = run_batch(arguments.seeds.clone(), arguments.threads, budget, plan);
    println!("{} seeds, {} events", report.seeds, report.events);
    for (name, count) in &report.happened {
        println!("  {name:<24} {count}");
    }
    match report.failure {
        None => ExitCode::SUCCESS,
        Some(failure) => {
            println!("{}", failure.explain());
            ExitCode::FAILURE
        }
    }
}

fn run_one(plan: &Plan, digest_only: bool) -> ExitCode {
    let outcome = run(plan);
    if digest_only {
        println!("{:016x} {} events", outcome.digest, outcome.events);
    } else {
        if plan.trace {
            match plan.scale {
                Scale::Group => println!("{:#?}", Settings::draw(plan)),
                Scale::Cluster => println!("{:#?}", sim::cluster::settings::Settings::draw(plan)),
            }
        }
        for line in &outcome.trace {
            println!("{line}");
        }
        println!("{} events, digest {:016x}", outcome.events, outcome.digest);
    }
    match outcome.violation {
        None => ExitCode::SUCCESS,
        Some(violation) => {
            println!(
                "breaks {violation}\nrevision: {}\nreplay: {}",
                revision(),
                replay_command(plan)
            );
            ExitCode::FAILURE
        }
    }
}
