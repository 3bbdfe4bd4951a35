//! `pontoon dev`.

use std::{
    collections::BTreeSet,
    io::IsTerminal,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use super::{Cluster, Layout, Wanted, process};
use crate::{
    cli::status::{self, Overview},
    exit::{Failure, Kind, Result},
    output::{self, Format},
};

/// How long a cluster may take until it serves.
const SERVE_LIMIT: Duration = Duration::from_secs(120);

/// Run a whole cluster on this machine.
///
/// Starts real processes on loopback. Without --detach it stays in the foreground and stops the cluster on ctrl-c. Data
/// stays in DIR: the same command starts the cluster again. DIR/cluster.json tells programs where everything listens,
/// and DIR/NAME.log is what a process has to say.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = false)]
pub struct DevArgs {
    /// Folder of the cluster
    #[arg(long, global = true, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Form of the output
    #[arg(long, global = true, value_enum, default_value = "table")]
    output: Format,
    /// Stores [default: 3]
    #[arg(long, value_name = "N")]
    stores: Option<usize>,
    /// Placement members: 1, 3 or 5 [default: 3]
    #[arg(long, value_name = "N")]
    placements: Option<usize>,
    /// Add this to every port; they are 2379 and up for placement, 20160 and up for stores, 20180 and up for the stores'
    /// status pages [default: 0]
    #[arg(long, value_name = "N")]
    port_offset: Option<u16>,
    /// Version of the client interface, fixed when the cluster first starts: 1 for plain keys, 2 for keyspaces and keys
    /// with a time to live [default: 1]
    #[arg(long, value_name = "1|2", value_parser = clap::value_parser!(u32).range(1..=2))]
    api_version: Option<u32>,
    /// Return once the cluster serves, and leave it running
    #[arg(long)]
    detach: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// End every process in order; data stays
    Stop,
    /// End one process with SIGKILL, as a crash would
    Kill {
        /// placement-1, store-1 and so on
        name: String,
    },
    /// Start one process again, ending it in order first if it runs
    Restart {
        /// placement-1, store-1 and so on
        name: String,
    },
    /// Add a store to the running cluster
    AddStore,
    /// Show the processes and the cluster
    Status,
}

/// What became of a process, or of all.
#[derive(Serialize)]
struct Done<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    done: &'a str,
}

impl DevArgs {
    fn say(&self, name: Option<&str>, done: &str, text: String) -> Result<()> {
        output::print(self.output, &Done { name, done }, |_| text)
    }
}

/// Runs the command.
///
/// # Errors
/// See [`Cluster`].
pub async fn run(args: DevArgs) -> Result<()> {
    let Some(dir) = &args.dir else {
        return Err(Failure::new(Kind::Usage, "no folder was named")
            .hint("name the cluster's folder, for example `pontoon dev --dir /tmp/cluster`"));
    };
    match &args.command {
        None => start(dir, &args).await,
        Some(Command::Stop) => {
            Cluster::open(dir)?.stop().await?;
            args.say(
                None,
                "stopped",
                format!("stopped; data stays in {}", dir.display()),
            )
        }
        Some(Command::Kill { name }) => {
            Cluster::open(dir)?.kill(name).await?;
            args.say(Some(name), "killed", format!("killed {name}"))
        }
        Some(Command::Restart { name }) => {
            let mut cluster = Cluster::open(dir)?;
            cluster.restart(name).await?;
            cluster.wait_up(name, SERVE_LIMIT).await?;
            args.say(Some(name), "restarted", format!("restarted {name}"))
        }
        Some(Command::AddStore) => {
            let mut cluster = Cluster::open(dir)?;
            let name = cluster.add_store()?;
            cluster.wait_up(&name, SERVE_LIMIT).await?;
            args.say(Some(&name), "added", format!("added {name}"))
        }
        Some(Command::Status) => show(dir, args.output).await,
    }
}

async fn start(dir: &Path, args: &DevArgs) -> Result<()> {
    let mut cluster = Cluster::create(
        dir,
        Wanted {
            stores: args.stores,
            placements: args.placements,
            port_offset: args.port_offset,
            api_version: args.api_version,
        },
    )?;
    if cluster.running().next().is_some() {
        return Err(
            Failure::new(Kind::Directory, format!("the cluster in {} is running", dir.display())).hint(format!(
                "end it with `pontoon dev --dir {0} stop`, or look at it with `pontoon dev --dir {0} status`",
                dir.display()
            )),
        );
    }
    let mut interrupted = Interrupts::new()?;
    let bar = ProgressBar::new_spinner().with_style(
        ProgressStyle::with_template("{spinner} starting, {elapsed}: {wide_msg}")
            .expect("the template is well-formed"),
    );
    bar.enable_steady_tick(Duration::from_millis(100));
    let started = match cluster.start() {
        Ok(_) => tokio::select! {
            served = cluster.wait_serving(SERVE_LIMIT, |missing| bar.set_message(missing.to_owned())) => served,
            () = interrupted.next() => Err(Failure::new(Kind::Interrupted, "interrupted before the cluster served")),
        },
        Err(failure) => Err(failure),
    };
    bar.finish_and_clear();
    if let Err(failure) = started {
        // A cluster that never was may be tried again with other options.
        if !cluster.was_started() {
            return Err(failure);
        }
        // Nothing is left behind of a start that failed; what the processes said stays in their logs.
        return match cluster.stop().await {
            Ok(()) => Err(failure),
            Err(other) => {
                Err(failure.hint(format!("and stopping what had started failed: {other}")))
            }
        };
    }
    let layout = cluster.layout().clone();
    // Other commands may change the cluster while this one waits in the foreground.
    drop(cluster);
    show(dir, args.output).await?;
    if args.output == Format::Table {
        output::text(&format!(
            "\nclients connect to {}\n",
            layout.placement_addrs().join(",")
        ))?;
    }
    if args.detach {
        return Ok(());
    }
    if std::io::stdout().is_terminal() {
        output::text("ctrl-c stops the cluster\n")?;
    }
    watch(dir, &mut interrupted).await?;
    output::progress("stopping");
    Cluster::open(dir)?.stop().await
}

/// Waits for an interrupt, or until another command has stopped the cluster, and reports processes that end by
/// themselves.
async fn watch(dir: &Path, interrupted: &mut Interrupts) -> Result<()> {
    let mut reported = BTreeSet::new();
    loop {
        tokio::select! {
            () = interrupted.next() => return Ok(()),
            () = tokio::time::sleep(Duration::from_millis(500)) => {}
        }
        let Some(layout) = Layout::read(dir)? else {
            return Ok(());
        };
        for member in layout.members() {
            let ended = member.pid.is_some() && !process::is_running(member);
            if ended && reported.insert((member.name.clone(), member.pid)) {
                output::progress(&format!(
                    "{} ended by itself; the end of {}/{}.log says\n{}",
                    member.name,
                    dir.display(),
                    member.name,
                    process::log_tail(dir, &member.name, 6)
                ));
            }
        }
        if layout.members().all(|member| member.pid.is_none()) {
            return Ok(());
        }
    }
}

/// SIGINT, SIGTERM and SIGHUP: the terminal, the machine, or the user wants an end.
pub struct Interrupts {
    signals: [tokio::signal::unix::Signal; 3],
}

impl Interrupts {
    /// Listens from now on; the signals no longer end this process.
    ///
    /// # Errors
    /// The system refuses.
    pub fn new() -> Result<Self> {
        let listen = |kind| {
            signal(kind).map_err(|error| Failure::environment("cannot listen for signals", error))
        };
        Ok(Self {
            signals: [
                listen(SignalKind::interrupt())?,
                listen(SignalKind::terminate())?,
                listen(SignalKind::hangup())?,
            ],
        })
    }

    /// Waits for the next one.
    pub async fn next(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.signals;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

/// What `status` prints.
#[derive(Serialize)]
struct State {
    dir: PathBuf,
    api_version: u32,
    processes: Vec<Process>,
    /// Absent when placement does not answer.
    cluster: Option<Overview>,
}

#[derive(Serialize)]
struct Process {
    name: String,
    addr: String,
    status_addr: String,
    state: &'static str,
    pid: Option<u32>,
}

async fn show(dir: &Path, format: Format) -> Result<()> {
    let layout = Layout::read(dir)?.ok_or_else(|| {
        Failure::new(
            Kind::NotFound,
            format!("there is no cluster in {}", dir.display()),
        )
    })?;
    let processes: Vec<Process> = layout
        .members()
        .map(|member| Process {
            name: member.name.clone(),
            addr: member.addr.clone(),
            status_addr: member.status_addr.clone(),
            state: match (process::is_running(member), member.pid) {
                (true, _) => "running",
                (false, Some(_)) => "ended by itself",
                (false, None) => "stopped",
            },
            pid: member.pid.filter(|_| process::is_running(member)),
        })
        .collect();
    let (cluster, why) = match processes.iter().any(|process| process.state == "running") {
        true => {
            let remote = crate::remote::Remote::new(&layout.placement_addrs());
            match status::look(&remote).await {
                Ok(overview) => (Some(overview), None),
                Err(failure) => (None, Some(failure.to_string())),
            }
        }
        false => (None, None),
    };
    let state = State {
        dir: dir.to_owned(),
        api_version: layout.api_version,
        processes,
        cluster,
    };
    output::print(format, &state, |state| {
        let mut text = output::rows(
            ["PROCESS", "ADDRESS", "STATUS PAGE", "STATE", "PID"],
            state.processes.iter().map(|process| {
                [
                    process.name.clone(),
                    process.addr.clone(),
                    process.status_addr.clone(),
                    process.state.to_owned(),
                    process.pid.map(|pid| pid.to_string()).unwrap_or_default(),
                ]
            }),
        );
        if let Some(cluster) = &state.cluster {
            text.push_str(&format!("\n{}", status::table(cluster)));
        }
        if let Some(why) = &why {
            text.push_str(&format!("\n{why}\n"));
        }
        text
    })?;
    Ok(())
}
