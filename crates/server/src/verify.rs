//! `pontoon verify`: what the cluster promises, checked on the cluster at hand.

mod replicas;

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use clap::{Args, Subcommand};
use client::{Client, Options, UnknownWrites};
use indicatif::ProgressBar;
use serde::Serialize;
use workload::{Judgement, RATE_MIN, Settings, Verdict, Workload};

use crate::{
    cli::{Shown, Target},
    dev::{Cluster, Interrupts, Layout},
    exit::{Failure, Kind, Result},
    output,
    remote::failure,
};

/// Connections that the clients share.
const CONNECTIONS: usize = 4;
/// How long a killed store may take to serve again, and keys to be readable at the end.
const SERVE_LIMIT: Duration = Duration::from_secs(60);

/// Check what the cluster promises.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Linearizable(LinearizableArgs),
    Replicas(replicas::ReplicasArgs),
}

/// Check that reads and writes of single keys are linearizable.
///
/// Clients put, get, delete, and compare and swap keys of their own, and write down what they saw; the histories are checked
/// while they run, and at the end every key is read again. With --kill-every stores of a cluster that `pontoon dev` started are
/// killed meanwhile, one after the other, and started again. The keys are removed at the end. Exits with 1 if anything
/// was wrong, with 12 if less than 50 operations per second were acknowledged: that says nothing.
#[derive(Debug, Args)]
struct LinearizableArgs {
    /// How long the clients work
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = humantime::parse_duration)]
    duration: Duration,
    /// Kill a store with SIGKILL every so often, and start it again at half the time
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration, requires = "dir")]
    kill_every: Option<Duration>,
    /// Folder of a cluster of `pontoon dev`, instead of the addresses of its placement members
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Clients
    #[arg(long, value_name = "N", default_value_t = 24, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    clients: u32,
    #[command(flatten)]
    cluster: Target,
    #[command(flatten)]
    shown: Shown,
}

/// What is printed.
#[derive(Serialize)]
struct Report {
    verdict: String,
    acknowledged: u64,
    per_second: f64,
    unknown: u64,
    not_done: u64,
    longest_silence_ms: u64,
    histories: u64,
    operations_checked: u64,
    keys_read_back: u64,
    keys_not_readable: u64,
    stores_killed: u64,
    violations: Vec<String>,
    violations_total: u64,
}

/// Runs the command.
///
/// # Errors
/// [`Kind::Lost`] if anything was wrong, [`Kind::Void`] if too little happened; otherwise what kept it from going on.
pub async fn run(args: VerifyArgs) -> Result<()> {
    match args.command {
        Command::Linearizable(args) => linearizable(args).await,
        Command::Replicas(args) => replicas::run(args).await,
    }
}

async fn linearizable(args: LinearizableArgs) -> Result<()> {
    let mut interrupts = Interrupts::new()?;
    let placement = match &args.dir {
        Some(dir) => placement_of(dir)?,
        None => args.cluster.placement.clone(),
    };
    let options = Options {
        unknown_writes: UnknownWrites::Report,
        ..Options::default()
    };
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        let client = Client::connect(&placement, options).await;
        clients.push(client.map_err(failure)?);
    }
    let began = SystemTime::now().duration_since(UNIX_EPOCH);
    let began = began.map_or(0, |since| since.as_nanos() as u64);
    let prefix = format!("pontoon-verify-{began:x}-");
    let settings = Settings {
        seed: began,
        prefix: prefix.clone(),
        clients: args.clients as usize,
        read_limit: SERVE_LIMIT,
        ..Settings::default()
    };
    let workload = Workload::start(clients.clone(), settings);
    let bar = ProgressBar::new_spinner();
    bar.enable_steady_tick(Duration::from_millis(200));
    let disturbed = tokio::select! {
        disturbed = disturb(&args, &workload, &bar) => disturbed,
        () = interrupts.next() => Err(Failure::new(Kind::Interrupted, "interrupted")),
    };
    bar.set_message("every key is read again");
    let verdict = match &disturbed {
        Ok(_) => Some(workload.finish().await),
        // Nobody waits for the rest.
        Err(_) => None,
    };
    bar.finish_and_clear();
    let end = prefix_end(&prefix);
    // Keys that stay harm nobody: no other run uses them.
    let removed = clients[0].delete_range(prefix, end).await;
    if let Err(error) = removed {
        output::progress(&format!("the keys could not be removed: {error}"));
    }
    let killed = disturbed?;
    let verdict = verdict.expect("nothing went wrong");
    let report = report(&verdict, killed);
    output::print(args.shown.output, &report, |report| {
        format!(
            "{verdict}\n{} stores were killed meanwhile",
            report.stores_killed
        )
    })?;
    judge(&verdict)
}

/// Lets the clients work, and kills stores meanwhile if that was asked for. Returns how many.
async fn disturb(
    args: &LinearizableArgs,
    workload: &Workload<Client>,
    bar: &ProgressBar,
) -> Result<u64> {
    let watch = async {
        let mut tick = tokio::time::interval(Duration::from_millis(500));
        let began = Instant::now();
        loop {
            tick.tick().await;
            let progress = workload.progress();
            bar.set_message(format!(
                "{} of {} s: {} operations, {:.0}/s; {} histories, {} violations",
                began.elapsed().as_secs(),
                args.duration.as_secs(),
                output::thousands(progress.acknowledged),
                progress.acknowledged as f64 / began.elapsed().as_secs_f64().max(0.5),
                progress.keys,
                progress.violations,
            ));
        }
    };
    let mut killed = 0;
    let work = async {
        let (Some(every), Some(dir)) = (args.kill_every, &args.dir) else {
            tokio::time::sleep(args.duration).await;
            return Ok(());
        };
        let deadline = Instant::now() + args.duration;
        while Instant::now() + every <= deadline {
            tokio::time::sleep(every / 2).await;
            let name = kill(dir, killed).await?;
            killed += 1;
            tokio::time::sleep(every / 2).await;
            let mut cluster = Cluster::open(dir)?;
            cluster.restart(&name).await?;
            cluster.wait_up(&name, SERVE_LIMIT).await?;
        }
        tokio::time::sleep(deadline.saturating_duration_since(Instant::now())).await;
        Ok(())
    };
    tokio::select! {
        done = work => done.map(|()| killed),
        () = watch => unreachable!("it goes on until the work is done"),
    }
}

/// Kills the next store in turn.
async fn kill(dir: &Path, turn: u64) -> Result<String> {
    let mut cluster = Cluster::open(dir)?;
    let stores: Vec<String> = cluster
        .running()
        .filter(|member| member.role == crate::dev::Role::Store)
        .map(|member| member.name.clone())
        .collect();
    if stores.len() < 3 {
        return Err(
            Failure::new(Kind::Refused, "fewer than three stores run").hint(format!(
                "start them with `pontoon dev --dir {} --detach`",
                dir.display()
            )),
        );
    }
    let name = stores[turn as usize % stores.len()].clone();
    cluster.kill(&name).await?;
    Ok(name)
}

fn placement_of(dir: &Path) -> Result<Vec<String>> {
    let layout = Layout::read(dir)?.ok_or_else(|| {
        Failure::new(
            Kind::NotFound,
            format!("there is no cluster in {}", dir.display()),
        )
    })?;
    Ok(layout.placement_addrs())
}

/// The first key after all that begin with `prefix`, whose last byte is not the highest.
fn prefix_end(prefix: &str) -> Bytes {
    let mut end = prefix.as_bytes().to_vec();
    *end.last_mut().expect("a prefix is not empty") += 1;
    end.into()
}

fn report(verdict: &Verdict, stores_killed: u64) -> Report {
    Report {
        verdict: verdict.judgement().to_string(),
        acknowledged: verdict.acknowledged,
        per_second: verdict.per_second().round(),
        unknown: verdict.unknown,
        not_done: verdict.not_done,
        longest_silence_ms: verdict.longest_silence.as_millis() as u64,
        histories: verdict.keys,
        operations_checked: verdict.operations,
        keys_read_back: verdict.read_back,
        keys_not_readable: verdict.unread,
        stores_killed,
        violations: verdict.violations.iter().map(ToString::to_string).collect(),
        violations_total: verdict.violations_total,
    }
}

/// What the command ends with.
fn judge(verdict: &Verdict) -> Result<()> {
    let failed = |kind, what: String| Err(Failure::new(kind, what));
    match verdict.judgement() {
        Judgement::Passed => Ok(()),
        Judgement::Violated => failed(
            Kind::Lost,
            format!("{} histories are wrong", verdict.violations_total),
        ),
        Judgement::Unread => failed(
            Kind::Timeout,
            format!("{} keys could not be read at the end", verdict.unread),
        ),
        Judgement::Undecided => failed(
            Kind::Void,
            format!("of {} histories nothing can be said", verdict.undecided),
        ),
        Judgement::Void => failed(
            Kind::Void,
            format!(
                "{:.0} operations per second are fewer than {RATE_MIN}: that says nothing",
                verdict.per_second()
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict() -> Verdict {
        Verdict {
            acknowledged: 1_000,
            span: Duration::from_secs(10),
            keys: 4,
            ..Verdict::default()
        }
    }

    #[test]
    fn each_judgement_has_its_exit() {
        assert!(judge(&verdict()).is_ok());
        let table = [
            (
                Verdict {
                    violations_total: 1,
                    unread: 1,
                    ..verdict()
                },
                Kind::Lost,
            ),
            (
                Verdict {
                    unread: 1,
                    ..verdict()
                },
                Kind::Timeout,
            ),
            (
                Verdict {
                    undecided: 1,
                    ..verdict()
                },
                Kind::Void,
            ),
            (
                Verdict {
                    acknowledged: 499,
                    ..verdict()
                },
                Kind::Void,
            ),
            (
                Verdict {
                    keys: 0,
                    ..verdict()
                },
                Kind::Void,
            ),
        ];
        for (verdict, kind) in table {
            let failure = judge(&verdict).expect_err("it did not pass");
            assert_eq!(failure.kind(), kind, "{verdict:?}");
        }
    }

    #[test]
    fn the_end_of_a_prefix_is_after_its_keys() {
        assert_eq!(prefix_end("ab-"), "ab.");
    }
}
