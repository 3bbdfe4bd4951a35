//! The command line.

mod config;
mod journal;
mod key;
mod kv;
mod operator;
mod plan;
mod region;
mod rule;
mod scheduler;
mod serve;
pub(crate) mod status;
mod store;
mod target;
mod watch;

use std::{ffi::OsString, process::ExitCode};

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
pub use key::{escape, escape_boundary, unescape};
pub use target::{Shown, Target};

use crate::{bench, demo, dev, exit, output, verify};

/// A replicated, ordered key-value store: one binary for the whole cluster.
#[derive(Debug, Parser)]
#[command(name = "pontoon", version, max_term_width = 100)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a whole cluster on this machine
    Dev(dev::DevArgs),
    /// Run one process of a cluster
    Serve(serve::ServeArgs),
    /// Explain the settings of a process
    Config(config::ConfigArgs),
    /// Show how the cluster is
    Status(status::StatusArgs),
    /// Look at stores; empty, label and remove them
    Store(store::StoreArgs),
    /// Look at regions; split and move them
    Region(region::RegionArgs),
    /// Look at what placement does and why; cancel it
    Operator(operator::OperatorArgs),
    /// Look at who moves regions by itself; pause them
    Scheduler(scheduler::SchedulerArgs),
    /// Look at rules of placement; find out what others would bring, replace them
    Rule(rule::RuleArgs),
    /// Find out what a change would bring; changes nothing
    Plan(plan::PlanArgs),
    /// Read and write single keys
    Kv(kv::KvArgs),
    /// Measure throughput and latency
    Bench(bench::BenchArgs),
    /// Show that nothing is lost: load, split, move, kill a store, verify every acknowledged write
    Demo(demo::DemoArgs),
    /// Check what the cluster promises, also while stores are killed
    Verify(verify::VerifyArgs),
}

/// Runs the command that the process's arguments name.
pub fn main() -> ExitCode {
    run(std::env::args_os())
}

/// Runs the command that `args` name; the first one is the program's own name.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let command = Args::command().after_help(exit::help());
    let parsed = command
        .try_get_matches_from(args)
        .and_then(|matches| Args::from_arg_matches(&matches));
    let command = match parsed {
        Ok(args) => args.command,
        Err(error) => {
            // Asking for help or the version is no failure, although clap reports it as one.
            let code = if error.use_stderr() {
                exit::Kind::Usage.code()
            } else {
                0
            };
            // The terminal may be gone; there is nobody to tell.
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    match dispatch(command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output::progress(&format!("error: {failure}"));
            failure.exit_code()
        }
    }
}

fn dispatch(command: Command) -> exit::Result<()> {
    match command {
        // Servers bring their own threads.
        Command::Serve(args) => serve::run(args),
        Command::Config(args) => config::run(args),
        Command::Dev(args) => block_on(dev::run(args)),
        Command::Status(args) => block_on(status::run(args)),
        Command::Store(args) => block_on(store::run(args)),
        Command::Region(args) => block_on(region::run(args)),
        Command::Operator(args) => block_on(operator::run(args)),
        Command::Plan(args) => block_on(plan::run(args)),
        Command::Rule(args) => block_on(rule::run(args)),
        Command::Scheduler(args) => block_on(scheduler::run(args)),
        Command::Kv(args) => block_on(kv::run(args)),
        Command::Bench(args) => block_on(bench::run(args)),
        Command::Demo(args) => block_on(demo::run(args)),
        Command::Verify(args) => block_on(verify::run(args)),
    }
}

fn block_on(command: impl Future<Output = exit::Result<()>>) -> exit::Result<()> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| exit::Failure::environment("cannot start the command's threads", error))?
        .block_on(command)
}

#[cfg(test)]
mod tests;
