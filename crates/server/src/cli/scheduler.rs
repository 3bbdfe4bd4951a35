//! `pontoon scheduler`.

use std::time::Duration;

use clap::{Args, Subcommand};
use serde::Serialize;

use super::{Shown, Target};
use crate::{exit::Result, output};

/// Look at who moves regions by itself; pause them.
#[derive(Debug, Args)]
pub struct SchedulerArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// All schedulers
    List {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        shown: Shown,
    },
    /// Let a scheduler decide nothing for a while; what it began goes on
    Pause {
        /// The scheduler
        name: String,
        /// For how long, 7 days at the most
        #[arg(value_parser = humantime::parse_duration)]
        duration: Duration,
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        shown: Shown,
    },
    /// End a pause
    Resume {
        /// The scheduler
        name: String,
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        shown: Shown,
    },
}

/// One scheduler.
#[derive(Clone, Debug, Serialize)]
struct Scheduler {
    name: String,
    /// Milliseconds until it goes on; 0 when it runs.
    paused_ms: u64,
}

/// Runs the command.
///
/// # Errors
/// The cluster is not there, knows no such scheduler, or refuses.
pub async fn run(args: SchedulerArgs) -> Result<()> {
    match args.command {
        Command::List { target, shown } => {
            let schedulers = target.remote().schedulers().await?;
            let schedulers = schedulers.into_iter().map(|scheduler| Scheduler {
                name: scheduler.name,
                paused_ms: scheduler.paused_ms,
            });
            let schedulers: Vec<Scheduler> = schedulers.collect();
            output::print(shown.output, &schedulers, |schedulers| table(schedulers))?;
        }
        Command::Pause {
            name,
            duration,
            target,
            shown,
        } => {
            target.remote().pause(&name, duration).await?;
            let text = format!(
                "{name} is paused for {}",
                humantime::format_duration(duration)
            );
            output::taken(shown.output, text)?;
        }
        Command::Resume {
            name,
            target,
            shown,
        } => {
            target.remote().pause(&name, Duration::ZERO).await?;
            output::taken(shown.output, format!("{name} goes on"))?;
        }
    }
    Ok(())
}

fn table(schedulers: &[Scheduler]) -> String {
    output::rows(
        ["SCHEDULER", "STATE"],
        schedulers.iter().map(|scheduler| {
            let left = Duration::from_secs(scheduler.paused_ms.div_ceil(1000));
            let state = if left.is_zero() {
                "runs".to_owned()
            } else {
                format!("paused for {}", humantime::format_duration(left))
            };
            [scheduler.name.clone(), state]
        }),
    )
}
