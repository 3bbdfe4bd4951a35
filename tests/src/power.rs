//! A cluster of real processes that loses power, all of it at once and again and again (RELIABILITY F3).
//!
//! The processes are of `pontoon-fault-disk`, whose engines keep in memory what was written and not synced: SIGKILL takes it,
//! and names of files that were not synced go when they start again. Clients write all the time and write down what they saw
//! (`workload`); at the end their histories decide, and every key is read.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use client::{Client, Options, UnknownWrites};
use workload::{Judgement, Verdict, Workload};

use crate::{Cluster, Wanted as WantedCluster, wait_for};

/// What a run is.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// How often the power goes.
    pub cycles: u64,
    /// From which the clients' choices follow.
    pub seed: u64,
    /// Clients.
    pub clients: usize,
    /// Operations that are acknowledged before the power goes again, at least.
    pub operations: u64,
    /// Says how it goes.
    pub verbose: bool,
}

impl Default for Wanted {
    fn default() -> Self {
        Self {
            cycles: 20,
            seed: 1,
            clients: 24,
            operations: 2_000,
            verbose: false,
        }
    }
}

/// What came of it.
#[derive(Debug)]
pub struct Report {
    /// How often the power went.
    pub cycles: u64,
    /// From the start of the processes to the first acknowledged operation, in ascending order.
    pub returns: Vec<Duration>,
    /// What the clients saw.
    pub verdict: Verdict,
}

impl Report {
    /// Whether nothing acknowledged was lost, and no operation was wrong.
    pub fn passed(&self) -> bool {
        self.verdict.judgement() == Judgement::Passed
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let middle = self.returns.get(self.returns.len() / 2);
        let (middle, last) = (middle.copied(), self.returns.last().copied());
        writeln!(
            f,
            "{} losses of all power; back after {:.1} s, {:.1} s at worst",
            self.cycles,
            middle.unwrap_or_default().as_secs_f64(),
            last.unwrap_or_default().as_secs_f64(),
        )?;
        write!(f, "{}", self.verdict)
    }
}

/// Connections to the cluster that the clients share.
const CONNECTIONS: usize = 6;
/// How long the reads at the end may take.
const READ_LIMIT: Duration = Duration::from_secs(120);

/// Runs it.
///
/// # Errors
/// The cluster does not start, or not again; the binary is not the one for this. Everything else is in the report.
pub async fn run(wanted: Wanted) -> Result<Report> {
    let cluster = Cluster::start(WantedCluster {
        environment: vec![("PONTOON_FAULT_DISK".to_owned(), "1".to_owned())],
        ..WantedCluster::default()
    })?;
    for name in [cluster.names("placement")?, cluster.names("stores")?].concat() {
        ensure!(
            cluster.log(&name)?.contains("a disk for tests"),
            "{name} is on a real disk: PONTOON must name the binary pontoon-fault-disk"
        );
    }
    let options = Options {
        unknown_writes: UnknownWrites::Report,
        budget: Duration::from_secs(5),
        attempt_timeout: Duration::from_secs(2),
        ..Options::default()
    };
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        let client = Client::connect(&cluster.placement(), options).await;
        clients.push(client.context("a client connects")?);
    }
    let workload = Workload::start(
        clients,
        workload::Settings {
            seed: wanted.seed,
            prefix: "k".to_owned(),
            clients: wanted.clients,
            read_limit: READ_LIMIT,
            ..workload::Settings::default()
        },
    );
    for key in ["k4", "k8", "kc"] {
        cluster.split(key).await?;
    }
    let mut returns = Vec::new();
    for cycle in 1..=wanted.cycles {
        let goal = workload.progress().acknowledged + wanted.operations;
        wait_for("operations are acknowledged", async || {
            Ok(workload.progress().acknowledged >= goal)
        })
        .await?;
        cluster.kill_all()?;
        let before = workload.progress().acknowledged;
        let mut began = Instant::now();
        // The kernel takes a moment to end them.
        wait_for("the cluster starts again", async || {
            began = Instant::now();
            cluster.start_again().map(|()| true)
        })
        .await?;
        // An answer may still have been on its way to a client when its sender was killed, but not to all of them.
        let answered = before + wanted.clients as u64;
        wait_for("operations are acknowledged again", async || {
            Ok(workload.progress().acknowledged > answered)
        })
        .await?;
        returns.push(began.elapsed());
        let progress = workload.progress();
        ensure!(
            progress.violations == 0,
            "found in cycle {cycle}: {}",
            workload.finish().await
        );
        if wanted.verbose {
            eprintln!(
                "[{cycle}/{}] {} operations, {} unknown, {} histories checked, back after {:.1} s",
                wanted.cycles,
                progress.acknowledged,
                progress.unknown,
                progress.keys,
                began.elapsed().as_secs_f64(),
            );
        }
    }
    returns.sort_unstable();
    let report = Report {
        cycles: wanted.cycles,
        returns,
        verdict: workload.finish().await,
    };
    if report.passed() {
        cluster.passed();
    }
    Ok(report)
}
