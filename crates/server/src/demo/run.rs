//! `pontoon demo`: the phases in order.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use tempfile::TempDir;

use super::{
    load::{Plan, Skipped},
    monitor::Monitor,
    report::{self, Report},
    stage,
    verify::verify,
    writers::Writers,
};
use crate::{
    bench::Latencies,
    cli::Shown,
    dev::{Cluster, Interrupts, Wanted},
    exit::{Failure, Kind, Result},
    output,
    remote::{Keys, Region, Remote},
};

/// Regions at least.
const REGIONS_MIN: usize = 8;
/// Regions at most; beyond that a demonstration shows nothing more.
const REGIONS_MAX: usize = 32;
/// Bytes of a region that is worth splitting further.
const REGION_BYTES: u64 = 48 << 20;
/// How long a cluster may take until it serves.
const SERVE_LIMIT: Duration = Duration::from_secs(60);
/// How long the regions of a dead store may stay without a leader before the demonstration gives up.
const TAKEOVER_LIMIT: Duration = Duration::from_secs(60);
/// How long the writers go on after the takeover.
const AFTER_TAKEOVER: Duration = Duration::from_secs(2);
/// First port offset that is tried, and the step to the next.
const OFFSETS: (u16, u16) = (10_000, 100);

/// Show that nothing is lost: load, split, move, kill a store, verify every acknowledged write.
///
/// Starts three placement members and three stores in a temporary folder and loads data. Splits it into regions spread
/// over the stores, adds a fourth store and moves replicas to it while writers run, kills the busiest store with SIGKILL,
/// waits until its regions are led elsewhere, and reads back every write that was acknowledged. Exits with 1 if one was
/// lost.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Load every regular file below DIR of at most 6 MiB, as path and content, instead of generated records
    #[arg(long, value_name = "DIR")]
    load: Option<PathBuf>,
    /// Keep the cluster's folder with data and logs
    #[arg(long)]
    keep: bool,
    #[command(flatten)]
    shown: Shown,
}

/// Runs the demonstration.
///
/// # Errors
/// [`Kind::Lost`] if an acknowledged write is not there; otherwise what kept it from going on.
pub async fn run(args: DemoArgs) -> Result<()> {
    let plan = match &args.load {
        Some(root) => Plan::files(root)?,
        None => Plan::made(),
    };
    let mut interrupts = Interrupts::new()?;
    let mut show = Show::begin()?;
    let played = tokio::select! {
        played = show.play(plan) => played,
        () = interrupts.next() => Err(Failure::new(Kind::Interrupted, "interrupted")),
    };
    let keep = match &played {
        Ok(report) => report.lost > 0,
        Err(failure) => failure.kind() != Kind::Interrupted,
    };
    show.end(args.keep || keep).await;
    let report = played?;
    output::print(args.shown.output, &report, report::table);
    if report.lost > 0 {
        return Err(Failure::new(
            Kind::Lost,
            format!("{} acknowledged writes were lost", report.lost),
        ));
    }
    Ok(())
}

/// The cluster of the demonstration. Whatever happens, none of its processes is left behind.
struct Show {
    dir: Option<TempDir>,
    cluster: Cluster,
    began: Instant,
}

impl Drop for Show {
    fn drop(&mut self) {
        self.cluster.kill_all();
    }
}

impl Show {
    /// Lays out a cluster in a fresh folder, on ports that are free.
    fn begin() -> Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix("pontoon-demo-")
            .tempdir()
            .map_err(|error| Failure::environment("cannot make a temporary folder", error))?;
        let (first, step) = OFFSETS;
        let mut offset = first;
        loop {
            let wanted = Wanted {
                port_offset: Some(offset),
                ..Wanted::default()
            };
            let folder = dir.path().join("cluster");
            let mut cluster = Cluster::create(&folder, wanted)?;
            match cluster.start() {
                Ok(_) => {
                    return Ok(Self {
                        dir: Some(dir),
                        cluster,
                        began: Instant::now(),
                    });
                }
                Err(failure)
                    if failure.kind() == Kind::PortTaken && offset < first + 100 * step =>
                {
                    drop(cluster);
                    offset += step;
                    std::fs::remove_dir_all(&folder).map_err(|error| {
                        Failure::environment("cannot empty the temporary folder", error)
                    })?;
                }
                Err(failure) => {
                    cluster.kill_all();
                    return Err(failure);
                }
            }
        }
    }

    /// Ends the cluster; removes its folder, or says where it is.
    async fn end(&mut self, keep: bool) {
        self.cluster.kill_all();
        let _ = self.cluster.stop().await;
        if let Some(dir) = self.dir.take()
            && keep
        {
            let path = dir.keep();
            eprintln!("data and logs are kept in {}", path.display());
        }
    }

    async fn play(&mut self, plan: Plan) -> Result<Report> {
        let bar = phase("start 3 placement members and 3 stores", 0);
        self.cluster
            .wait_serving(SERVE_LIMIT, |missing| bar.set_message(missing.to_owned()))
            .await?;
        done(&bar, "three replicas, one leader");
        let remote = self.cluster.remote();
        let keys = Keys::connect(&self.cluster.layout().placement_addrs()).await?;
        let monitor = Monitor::start(self.cluster.remote());

        let parts = ((plan.bytes / REGION_BYTES) as usize).clamp(REGIONS_MIN, REGIONS_MAX);
        let splits = plan.split_keys(parts);
        let first_key = plan.first_key();
        let planned_bytes = plan.bytes;
        let bar = phase("load", planned_bytes);
        let load = Arc::new(Latencies::default());
        let (loaded, skipped) = plan.write(&keys, &load, &bar).await?;
        let (loaded_keys, loaded_bytes) = (loaded.len() as u64, bar.position());
        done(
            &bar,
            &format!(
                "{} keys, {}",
                output::thousands(loaded.len() as u64),
                output::bytes(loaded_bytes)
            ),
        );

        let bar = phase("split", splits.len() as u64);
        stage::split(&remote, &splits, &bar).await?;
        done(
            &bar,
            &format!("{} regions", stage::look(&remote).await?.len()),
        );

        let bar = phase("spread the leaders", 0);
        let stores = store_ids(&remote).await?;
        let mut transfers =
            stage::lead(&remote, |place, _| Some(stores[place % stores.len()]), &bar).await?;
        done(&bar, &format!("{transfers} handed over"));

        let bar = phase(
            "add a fourth store and move replicas to it, while writers run",
            0,
        );
        let mut bases = vec![first_key];
        bases.extend(splits.iter().cloned());
        let write = Arc::new(Latencies::default());
        let mut writers = Writers::start(&keys, &bases, &write);
        let name = self.cluster.add_store()?;
        self.cluster.wait_up(&name, SERVE_LIMIT).await?;
        let fourth = store_id(&remote, &self.addr_of(&name)).await?;
        let regions = stage::look(&remote).await?.len();
        let share = regions * 3 / 4;
        bar.set_length(share as u64);
        let moves = stage::fill(&remote, fourth, share, &bar).await?;
        // The new store leads its part of what it hosts.
        transfers += stage::lead(
            &remote,
            |place, region| (place % 4 == 3 && region.is_on(fourth)).then_some(fourth),
            &bar,
        )
        .await?;
        let stall_moving_ms = writers.longest_gap().as_millis() as u64;
        done(
            &bar,
            &format!("{moves} replicas moved, longest wait {stall_moving_ms} ms"),
        );

        let bar = phase("kill the busiest store", 0);
        let before = stage::look(&remote).await?;
        let victim = stage::busiest(&before)
            .ok_or_else(|| Failure::new(Kind::Refused, "no store leads a region"))?;
        let killed_led = before
            .iter()
            .filter(|region| region.leader_store == Some(victim))
            .count() as u64;
        let killed = self.name_of(&remote, victim).await?;
        writers.reset_gaps();
        self.cluster.kill(&killed).await?;
        let killed_at = Instant::now();
        self.wait_led_elsewhere(&remote, victim, killed_at, &writers, &bar)
            .await?;
        tokio::time::sleep(AFTER_TAKEOVER).await;
        let unavailable_ms = writers.longest_gap().as_millis() as u64;
        let parts = writers.stop().await?;
        let (refused_writes, first_refusal) = writers.failed();
        done(
            &bar,
            &format!("{killed} is gone, unavailable {unavailable_ms} ms"),
        );

        let bar = phase("read back every acknowledged write", 1);
        let read = Arc::new(Latencies::default());
        let verdict = verify(&keys, loaded, &parts, &read, &bar).await?;
        done(
            &bar,
            &format!(
                "{} keys, lost {}",
                output::thousands(verdict.keys),
                output::thousands(verdict.lost)
            ),
        );

        let regions = stage::look(&remote).await?;
        Ok(Report {
            loaded_keys,
            loaded_bytes,
            left_out: count(&skipped),
            changed: verdict.changed,
            regions: regions.len() as u64,
            leading_stores: leading(&regions),
            moves,
            transfers,
            elections: monitor.elections(),
            killed,
            killed_led,
            stall_moving_ms,
            unavailable_ms,
            refused_writes,
            first_refusal,
            load: load.summary(),
            write: write.summary(),
            read: read.summary(),
            acknowledged: verdict.acknowledged,
            verified: verdict.verified,
            lost: verdict.lost,
            losses: verdict.losses,
            seconds: self.began.elapsed().as_secs_f64(),
        })
    }

    /// Waits until no region is led by the dead store and every writer was acknowledged since it died.
    async fn wait_led_elsewhere(
        &self,
        remote: &Remote,
        victim: u64,
        killed_at: Instant,
        writers: &Writers,
        bar: &ProgressBar,
    ) -> Result<()> {
        loop {
            let regions = stage::look(remote).await?;
            let waiting = regions
                .iter()
                .filter(|region| region.leader_store.is_none_or(|store| store == victim))
                .count();
            let written = writers.oldest_acknowledgement() > killed_at;
            if waiting == 0 && written {
                return Ok(());
            }
            bar.set_message(match waiting {
                0 => "waiting for every writer to be acknowledged".to_owned(),
                _ => format!("{waiting} regions without a new leader"),
            });
            if killed_at.elapsed() >= TAKEOVER_LIMIT {
                return Err(Failure::new(
                    Kind::Timeout,
                    format!(
                        "after {} s {waiting} regions are not led elsewhere{}",
                        TAKEOVER_LIMIT.as_secs(),
                        if written {
                            ""
                        } else {
                            ", and not every writer goes on"
                        }
                    ),
                ));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn addr_of(&self, name: &str) -> String {
        self.cluster
            .layout()
            .members()
            .find(|member| member.name == name)
            .map(|member| member.addr.clone())
            .expect("the cluster named it")
    }

    async fn name_of(&self, remote: &Remote, store: u64) -> Result<String> {
        let stores = remote.stores().await?;
        let addr = stores
            .iter()
            .find(|known| known.id == store)
            .map(|known| known.address.clone())
            .unwrap_or_default();
        self.cluster
            .layout()
            .stores
            .iter()
            .find(|member| member.addr == addr)
            .map(|member| member.name.clone())
            .ok_or_else(|| Failure::new(Kind::NotFound, format!("no process is store {store}")))
    }
}

async fn store_ids(remote: &Remote) -> Result<Vec<u64>> {
    let stores = remote.stores().await?;
    Ok(stores
        .iter()
        .filter(|store| store.is_up())
        .map(|store| store.id)
        .collect())
}

async fn store_id(remote: &Remote, addr: &str) -> Result<u64> {
    let stores = remote.stores().await?;
    stores
        .iter()
        .find(|store| store.address == addr)
        .map(|store| store.id)
        .ok_or_else(|| Failure::new(Kind::NotFound, format!("no store serves at {addr}")))
}

fn leading(regions: &[Region]) -> u64 {
    let mut stores: Vec<u64> = regions
        .iter()
        .filter_map(|region| region.leader_store)
        .collect();
    stores.sort_unstable();
    stores.dedup();
    stores.len() as u64
}

fn count(skipped: &Skipped) -> u64 {
    skipped.len() as u64
}

/// Shows that a phase begins; with a length it has a bar.
fn phase(name: &str, length: u64) -> ProgressBar {
    let template = if length > 0 {
        "{spinner} {prefix}: {bar:24} {percent}% {wide_msg}"
    } else {
        "{spinner} {prefix}: {wide_msg}"
    };
    let bar = ProgressBar::new(length)
        .with_style(ProgressStyle::with_template(template).expect("the template is well-formed"))
        .with_prefix(name.to_owned());
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

/// Replaces a phase's progress by its outcome; without a terminal, too.
fn done(bar: &ProgressBar, outcome: &str) {
    let line = format!(
        "{:>6.1} s  {}: {outcome}",
        bar.elapsed().as_secs_f64(),
        bar.prefix()
    );
    bar.finish_and_clear();
    eprintln!("{line}");
}
