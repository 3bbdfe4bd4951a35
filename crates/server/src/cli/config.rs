//! `pontoon config show`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use crate::{
    config::{self, Overrides},
    exit::Result,
    output,
    placement_process::PlacementConfig,
    store_process::StoreConfig,
};

/// Explain the settings of a process.
#[derive(Debug, Args)]
pub struct ConfigArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print settings as a file that `pontoon serve` takes
    Show {
        /// Whose settings; both kinds by default
        #[arg(value_enum)]
        process: Option<Process>,
        /// Every key with its default and an explanation (this is what happens without --config, too)
        #[arg(long, conflicts_with = "config")]
        defaults: bool,
        /// Check this file and print what a process would run with, environment and --set included
        #[arg(long, value_name = "FILE", requires = "process")]
        config: Option<PathBuf>,
        /// Override a setting
        #[arg(long = "set", value_name = "KEY=VALUE", requires = "config")]
        set: Vec<String>,
    },
}

/// A kind of process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Process {
    /// A member of the placement group.
    Placement,
    /// A store.
    Store,
}

/// Runs the command.
///
/// # Errors
/// The file or an override is wrong.
pub fn run(args: ConfigArgs) -> Result<()> {
    let Command::Show {
        process,
        defaults: _,
        config,
        set,
    } = args.command;
    let overrides = |prefix| Overrides { prefix, set };
    match (process, config) {
        (Some(Process::Placement), Some(file)) => {
            let overrides = overrides(config::PLACEMENT_ENV);
            let config: PlacementConfig = config::load(Some(&file), &overrides)?;
            output::text(&config::to_toml(&config))?;
        }
        (Some(Process::Store), Some(file)) => {
            let overrides = overrides(config::STORE_ENV);
            let config: StoreConfig = config::load(Some(&file), &overrides)?;
            output::text(&config::to_toml(&config))?;
        }
        (process, _) => {
            let mut files = Vec::new();
            if process != Some(Process::Store) {
                let settings = config::show_defaults::<PlacementConfig>();
                files.push(format!(
                    "# ---- pontoon serve placement --config FILE\n\n{}\n",
                    settings.trim_end()
                ));
            }
            if process != Some(Process::Placement) {
                let settings = config::show_defaults::<StoreConfig>();
                files.push(format!(
                    "# ---- pontoon serve store --config FILE\n\n{}\n",
                    settings.trim_end()
                ));
            }
            if process.is_none() {
                output::text(
                    "# Two files in one text: a process takes the settings of its own kind only.\n\n",
                )?;
            }
            output::text(&files.join("\n"))?;
        }
    }
    Ok(())
}
