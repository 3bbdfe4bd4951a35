//! `pontoon serve`: one process of a cluster.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use tracing_subscriber::EnvFilter;

use crate::{
    config::{self, Overrides},
    exit::{Failure, Kind, Result},
    placement_process, store_process,
};

/// Run one process of a cluster.
#[derive(Debug, Args)]
pub struct ServeArgs {
    #[command(subcommand)]
    process: Process,
}

#[derive(Debug, Subcommand)]
enum Process {
    /// A member of the placement group
    Placement(Source),
    /// A store
    Store(Source),
}

/// Where the settings come from.
#[derive(Debug, Args)]
struct Source {
    /// Settings in TOML; `pontoon config show --defaults` explains every key
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Override a setting of the file, for example --set addr=127.0.0.1:20170. Variables
    /// PONTOON_CONFIG_STORE_<KEY> and PONTOON_CONFIG_PLACEMENT_<KEY> do the same; --set wins
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
}

impl Source {
    fn load<T: config::Section>(self, prefix: &'static str) -> Result<T> {
        let overrides = Overrides {
            prefix,
            set: self.set,
        };
        Ok(config::load(Some(&self.config), &overrides)?)
    }
}

/// Runs the process until it is told to end.
///
/// # Errors
/// The configuration is wrong, or the process could not start or go on.
pub fn run(args: ServeArgs) -> Result<()> {
    init_log();
    abort_on_panic();
    let (name, ended) = match args.process {
        Process::Placement(source) => {
            let config = source.load(config::PLACEMENT_ENV)?;
            ("placement member", placement_process::run(config))
        }
        Process::Store(source) => {
            let config = source.load(config::STORE_ENV)?;
            ("store", store_process::run(config))
        }
    };
    ended.map_err(|error| describe(name, &error))
}

/// An error of a server process as a failure, with the kind that the process gives it.
fn describe(name: &str, error: &anyhow::Error) -> Failure {
    let kind = error.chain().find_map(|cause| {
        let store = cause.downcast_ref().map(store_process::Error::kind);
        store.or_else(|| cause.downcast_ref().map(placement_process::Error::kind))
    });
    let kind = kind.unwrap_or(Kind::Environment);
    let failure = Failure::new(kind, format!("the {name} stopped")).because(format!("{error:#}"));
    match kind {
        Kind::PortTaken => failure.hint(
            "end what listens there, or set other addresses (`addr`, and `status_addr` of a store) in the configuration",
        ),
        Kind::Config => {
            failure.hint("`pontoon config show --defaults` lists every key with what it does")
        }
        Kind::Directory => {
            failure.hint("set `data_dir` to a folder of this process's own; an empty one joins as new")
        }
        _ => failure,
    }
}

/// Logs to standard error; `PONTOON_LOG` filters, for example `info,raft=debug`.
fn init_log() {
    let filter = EnvFilter::try_from_env("PONTOON_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .init();
}

/// A broken invariant stops the whole server, not one thread of it: a server that runs on with a part of its threads
/// would answer from a state that nobody has thought about (D11).
fn abort_on_panic() {
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        default(panic);
        tracing::error!(%panic, "a broken invariant; the process aborts");
        std::process::abort();
    }));
}
