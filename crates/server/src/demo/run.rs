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
    load::{Loaded, Plan, Skipped},
    monitor::Monitor,
    report::{self, Report},
    stage::{self, Reached},
    verify::{After, Verdict, delete_most, verify},
    writers::{Part, Writers},
};
use crate::{
    bench::Latencies,
    cli::Shown,
    dev::{Cluster, Interrupts, Wanted},
    exit::{Failure, Kind, Result},
    output,
    remote::{Keys, Region, Remote},
};

/// Regions at least, and parts of the keys in which writers work.
const PARTS: usize = 8;
/// Size at which regions split, at the least and at the most. In between it is what gives twice as many regions as parts.
const REGION_BYTES: (u64, u64) = (1 << 20, 48 << 20);
/// How long a cluster may take until it serves.
const SERVE_LIMIT: Duration = Duration::from_secs(60);
/// How long the regions of a dead store may stay without a leader before the demonstration gives up.
const TAKEOVER_LIMIT: Duration = Duration::from_secs(60);
/// First port offset that is tried, and the step to the next.
const OFFSETS: (u16, u16) = (10_000, 100);

/// Show that nothing is lost while the cluster keeps itself in order.
///
/// Starts three placement members and three stores in a temporary folder and loads data, which splits into regions that
/// spread over the stores. Adds a fourth store, drains another, and kills the busiest with SIGKILL, while writers run: the
/// first fills, the second empties, the third is replaced. Then reads back every write that was acknowledged, deletes nine of
/// ten keys, waits until small regions have merged, and reads again. Nothing is moved by command. Exits with 1 if anything was
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
    let mut show = Show::begin(settings(plan.bytes))?;
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
    output::print(args.shown.output, &report, report::table)?;
    judge(report.lost)
}

/// What the command ends with.
fn judge(lost: u64) -> Result<()> {
    match lost {
        0 => Ok(()),
        lost => Err(Failure::new(
            Kind::Lost,
            format!("{lost} acknowledged writes were lost"),
        )),
    }
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
    fn begin(settings: Vec<(String, String)>) -> Result<Self> {
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
            cluster.set(settings.clone());
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
            output::progress(&format!("data and logs are kept in {}", path.display()));
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

        let mut bases = vec![plan.first_key()];
        bases.extend(plan.part_keys(PARTS));
        let bar = phase("load", plan.bytes);
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

        let bar = phase("regions split by themselves", 0);
        let regions = stage::until(&remote, &bar, |regions| {
            wanted(regions.len() >= PARTS, || {
                format!("{} regions", regions.len())
            })
        })
        .await?;
        done(&bar, &format!("{} regions", regions.len()));

        let bar = phase("leaders spread by themselves", 0);
        let regions = stage::until(&remote, &bar, |regions| {
            let leads: Vec<_> = stage::counts(regions)
                .into_values()
                .map(|(_, leads)| leads)
                .collect();
            let (most, fewest) = (leads.iter().max(), leads.iter().min());
            let even = leads.len() == 3
                && most
                    .zip(fewest)
                    .is_some_and(|(most, fewest)| most - fewest <= 2);
            wanted(even, || format!("the stores lead {leads:?}"))
        })
        .await?;
        done(&bar, &format!("{} stores lead", leading(&regions)));

        let bar = phase("a fourth store fills by itself, while writers run", 0);
        let write = Arc::new(Latencies::default());
        let mut writers = Writers::start(&keys, &bases, &write);
        let name = self.cluster.add_store()?;
        self.cluster.wait_up(&name, SERVE_LIMIT).await?;
        let fourth = store_id(&remote, &self.addr_of(&name)).await?;
        stage::until(&remote, &bar, |regions| {
            let counts = stage::counts(regions);
            let (hosts, leads) = counts.get(&fourth).copied().unwrap_or_default();
            let share = regions.len() * 3 / 4 * 3 / 4;
            wanted(hosts >= share && leads > 0, || {
                format!("it hosts {hosts} replicas and leads {leads}")
            })
        })
        .await?;
        let stall_moving_ms = writers.longest_gap().as_millis() as u64;
        let moves = monitor.happened().moves;
        done(
            &bar,
            &format!("{moves} replicas moved, longest wait {stall_moving_ms} ms"),
        );

        let bar = phase("a drained store empties", 0);
        writers.reset_gaps();
        let regions = stage::look(&remote).await?;
        let drained = stage::counts(&regions)
            .into_iter()
            .find(|(store, _)| *store != fourth)
            .map(|(store, _)| store)
            .ok_or_else(|| Failure::new(Kind::Refused, "no store has a region"))?;
        remote.drain(drained).await?;
        stage::until(&remote, &bar, |regions| {
            let (hosts, leads) = stage::counts(regions)
                .get(&drained)
                .copied()
                .unwrap_or_default();
            wanted(hosts == 0, || {
                format!("{hosts} replicas are left, {leads} lead")
            })
        })
        .await?;
        let stall_draining_ms = writers.longest_gap().as_millis() as u64;
        // It stays, so that there is a place for what comes next.
        remote.undrain(drained).await?;
        let drained = self.name_of(&remote, drained).await?;
        done(
            &bar,
            &format!("{drained} is empty, longest wait {stall_draining_ms} ms"),
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
        let unavailable_ms = writers.longest_gap().as_millis() as u64;
        done(
            &bar,
            &format!("{killed} is gone, unavailable {unavailable_ms} ms"),
        );

        let bar = phase("the killed store is replaced by itself", 0);
        stage::until(&remote, &bar, |regions| {
            let hosts = regions.iter().filter(|region| region.is_on(victim)).count();
            let changing = regions.iter().filter(|region| region.is_changing()).count();
            wanted(hosts == 0 && changing == 0, || {
                format!("{hosts} replicas are to be replaced, {changing} regions change")
            })
        })
        .await?;
        let replaced_ms = killed_at.elapsed().as_millis() as u64;
        let parts = writers.stop().await?;
        let (refused_writes, first_refusal) = writers.failed();
        done(
            &bar,
            &format!("{:.0} s after it died", replaced_ms as f64 / 1e3),
        );

        let read = Arc::new(Latencies::default());
        let mut verdict = self
            .read_back(&keys, &loaded, &parts, After::Writes, &read)
            .await?;

        let bar = phase("delete nine of ten keys", 1);
        let before = stage::look(&remote).await?.len();
        let deleted = delete_most(&keys, &loaded, &parts, &bar).await?;
        done(&bar, &format!("{} keys", output::thousands(deleted)));

        let bar = phase("small regions merge by themselves", 0);
        let regions = stage::until(&remote, &bar, |regions| {
            // A tenth of the data is left, and no two regions whose sum is small stay apart.
            wanted(regions.len() * 2 <= before, || {
                format!("{} regions of {before}", regions.len())
            })
        })
        .await?;
        done(&bar, &format!("{} regions of {before}", regions.len()));
        let again = self
            .read_back(&keys, &loaded, &parts, After::Deletes, &read)
            .await?;
        // What was not deleted was counted before; it must still be there.
        verdict.acknowledged += deleted;
        verdict.verified += deleted.saturating_sub(again.lost);
        verdict.lost += again.lost;
        verdict.losses.extend(again.losses);

        let happened = monitor.happened();
        let regions = stage::look(&remote).await?;
        Ok(Report {
            loaded_keys,
            loaded_bytes,
            left_out: count(&skipped),
            changed: verdict.changed,
            regions: regions.len() as u64,
            leading_stores: leading(&regions),
            splits: happened.splits,
            merges: happened.merges,
            moves: happened.moves,
            elections: happened.elections,
            drained,
            killed,
            killed_led,
            stall_moving_ms,
            stall_draining_ms,
            unavailable_ms,
            replaced_ms,
            deleted,
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

    async fn read_back(
        &self,
        keys: &Keys,
        loaded: &Loaded,
        parts: &[Arc<Part>],
        after: After,
        read: &Arc<Latencies>,
    ) -> Result<Verdict> {
        let name = match after {
            After::Writes => "read back every acknowledged write",
            After::Deletes => "read back what was kept and what was deleted",
        };
        let bar = phase(name, 1);
        let verdict = verify(keys, loaded, parts, after, read, &bar).await?;
        done(
            &bar,
            &format!(
                "{} keys, lost {}",
                output::thousands(verdict.keys),
                output::thousands(verdict.lost)
            ),
        );
        Ok(verdict)
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

async fn store_id(remote: &Remote, addr: &str) -> Result<u64> {
    let stores = remote.stores().await?;
    stores
        .iter()
        .find(|store| store.address == addr)
        .map(|store| store.id)
        .ok_or_else(|| Failure::new(Kind::NotFound, format!("no store serves at {addr}")))
}

/// What makes hours into seconds: sizes that fit the data, and patience that fits an audience.
fn settings(bytes: u64) -> Vec<(String, String)> {
    let (least, most) = REGION_BYTES;
    let region = (bytes / PARTS as u64).clamp(least, most);
    let setting = |role: &str, key: &str, value: String| {
        let name = format!("PONTOON_CONFIG_{role}_{key}");
        (name, value)
    };
    vec![
        setting("STORE", "SPLIT__REGION_BYTES", format!("{region}B")),
        setting("PLACEMENT", "BALANCE__SETTLE", "5s".into()),
        setting("PLACEMENT", "STORE_DOWN_AFTER", "12s".into()),
        setting("PLACEMENT", "STORE_LOST_AFTER", "12s".into()),
        setting("PLACEMENT", "MERGE__AFTER", "3s".into()),
        setting(
            "PLACEMENT",
            "MERGE__TOGETHER_BYTES",
            format!("{}B", region / 5 * 2),
        ),
    ]
}

fn wanted(reached: bool, missing: impl FnOnce() -> String) -> Reached {
    match reached {
        true => Reached::All,
        false => Reached::Not(missing()),
    }
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
    output::progress(&line);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_write_is_exit_status_1() {
        assert!(judge(0).is_ok());
        let failure = judge(3).expect_err("3 were lost");
        assert_eq!(failure.kind().code(), 1);
        assert!(failure.to_string().starts_with("3 "), "{failure}");
    }
}
