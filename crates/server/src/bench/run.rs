//! `pontoon bench`: the clients and their clock.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use clap::{Args, ValueEnum};
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use tokio::task::JoinSet;

use super::{
    pattern::{Choice, Pattern},
    report::{self, Latencies, Report, Timeline},
    target::{Connection, TargetKind},
};
use crate::{
    cli::{Shown, Target},
    config::Size,
    exit::{Failure, Kind, Result},
    output,
};

/// Requests outstanding while the keys are written that reads will ask for.
const LOADERS: usize = 256;

/// Measure throughput and latency.
///
/// Each client has one request outstanding. Without --rate it sends the next as soon as the last was answered; with
/// --rate requests start on a schedule and latency counts from the scheduled start.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// What the clients do
    #[arg(value_enum)]
    operation: Operation,
    /// Clients
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = positive)]
    clients: u64,
    /// How long to measure
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = humantime::parse_duration)]
    duration: Duration,
    /// How long to run before measuring
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = humantime::parse_duration)]
    warmup: Duration,
    /// Size of a value
    #[arg(long, value_name = "SIZE", default_value = "128B")]
    value_size: Size,
    /// Different keys; for get and mixed they are written first
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = positive)]
    keys: u64,
    /// Which keys the clients choose
    #[arg(long, value_enum, default_value = "uniform")]
    pattern: Pattern,
    /// Exponent of the zipf pattern: the larger, the hotter the first keys
    #[arg(long, value_name = "EXPONENT", default_value_t = 0.99)]
    skew: f64,
    /// Requests per second over all clients, on a schedule
    #[arg(long, value_name = "PER_SECOND")]
    rate: Option<f64>,
    /// Reads among a hundred operations of mixed
    #[arg(long, value_name = "PERCENT", default_value_t = 50, value_parser = clap::value_parser!(u32).range(0..=100))]
    reads: u32,
    /// What to measure
    #[arg(long, value_enum, default_value = "pontoon")]
    target: TargetKind,
    /// Client addresses of etcd's members, separated by commas
    #[arg(
        long,
        value_name = "ADDR[,ADDR]",
        value_delimiter = ',',
        default_value = "127.0.0.1:2379"
    )]
    endpoints: Vec<String>,
    #[command(flatten)]
    cluster: Target,
    #[command(flatten)]
    shown: Shown,
}

/// What the clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Operation {
    /// Write keys
    Put,
    /// Read keys, linearizably
    Get,
    /// Both
    Mixed,
}

fn positive(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(0) => Err("at least 1".to_owned()),
        Ok(number) => Ok(number),
        Err(error) => Err(format!("{error}")),
    }
}

/// What all clients of a run share.
struct Run {
    operation: Operation,
    reads_percent: u32,
    choice: Choice,
    value: Bytes,
    /// Time between the intended starts of one client; `None` in the closed loop.
    interval: Option<Duration>,
    measure_from: Instant,
    until: Instant,
    put: Latencies,
    get: Latencies,
    timeline: Timeline,
    errors: AtomicU64,
    /// The longest of the operations that were under way at the end, in milliseconds.
    late_ms_max: AtomicU64,
    first_error: OnceLock<String>,
}

/// Runs the measurement and prints it.
///
/// # Errors
/// The target is not there, or the keys could not be written that were to be read.
pub async fn run(args: BenchArgs) -> Result<()> {
    if args
        .rate
        .is_some_and(|rate| !rate.is_finite() || rate <= 0.0)
    {
        return Err(Failure::new(Kind::Usage, "--rate has to be more than 0"));
    }
    let clients = args.clients as usize;
    let connection = Connection::open(args.target, &args.cluster, &args.endpoints, clients).await?;
    let settings = connection.settings(args.rate.is_some()).await?;
    let value = random_value(args.value_size.bytes() as usize);
    let loaded = match args.operation {
        Operation::Put => 0,
        Operation::Get | Operation::Mixed => args.keys,
    };
    let choice = Choice::new(args.pattern, args.skew, args.keys, loaded)
        .map_err(|error| Failure::new(Kind::Usage, "--skew has to be 0 or more").because(error))?;
    load(&connection, loaded, &value).await?;

    let measure_from = Instant::now() + args.warmup;
    let began = SystemTime::now() + args.warmup;
    let run = Arc::new(Run {
        operation: args.operation,
        reads_percent: args.reads,
        choice,
        value,
        interval: args
            .rate
            .map(|rate| Duration::from_secs_f64(args.clients as f64 / rate)),
        measure_from,
        until: measure_from + args.duration,
        put: Latencies::default(),
        get: Latencies::default(),
        timeline: Timeline::new(args.duration),
        errors: AtomicU64::new(0),
        late_ms_max: AtomicU64::new(0),
        first_error: OnceLock::new(),
    });
    let started = Instant::now();
    let mut tasks = JoinSet::new();
    for client in 0..clients {
        let connection = connection.for_client(client);
        let run = run.clone();
        // Intended starts of the clients are spread over the interval.
        let offset = run.interval.map_or(Duration::ZERO, |interval| {
            interval.mul_f64(client as f64 / clients as f64)
        });
        tasks.spawn(async move { run.client(client, connection, started + offset).await });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.map_err(|error| Failure::environment("a client of the generator broke", error))?;
    }
    let seconds = args.duration.as_secs_f64();

    let summary =
        |latencies: &Latencies| Some(latencies.summary()).filter(|summary| summary.operations > 0);
    let (put, get) = (summary(&run.put), summary(&run.get));
    let operations: u64 = [&put, &get]
        .into_iter()
        .flatten()
        .map(|summary| summary.operations)
        .sum();
    let report = Report {
        operation: match args.operation {
            Operation::Put => "put",
            Operation::Get => "get",
            Operation::Mixed => "mixed",
        },
        target: args.target.name(),
        clients,
        value_bytes: args.value_size.bytes(),
        keys: args.keys,
        pattern: args.pattern,
        rate: args.rate,
        began_unix_ms: began
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |since| since.as_millis() as u64),
        seconds,
        throughput: operations as f64 / seconds,
        errors: run.errors.load(Ordering::Relaxed),
        late_ms_max: run.late_ms_max.load(Ordering::Relaxed),
        first_error: run.first_error.get().cloned(),
        put,
        get,
        timeline: run.timeline.intervals(),
        settings,
    };
    output::print(args.shown.output, &report, report::table)?;
    if operations == 0 {
        return Err(
            Failure::new(Kind::Refused, "no operation succeeded").because(
                report
                    .first_error
                    .unwrap_or_else(|| "none was answered in time".to_owned()),
            ),
        );
    }
    Ok(())
}

impl Run {
    async fn client(&self, client: usize, mut connection: Connection, first_start: Instant) {
        let mut random = SmallRng::seed_from_u64(client as u64);
        let mut intended = first_start;
        loop {
            let now = Instant::now();
            if now >= self.until {
                return;
            }
            let started = match self.interval {
                None => now,
                Some(interval) => {
                    let due = intended;
                    intended += interval;
                    if due >= self.until {
                        return;
                    }
                    if due > now {
                        tokio::time::sleep_until(due.into()).await;
                        // Whoever waited for the timer was not held up by the target; the timer's own lateness, up to a
                        // millisecond, is not the target's latency.
                        Instant::now().min(due + Duration::from_millis(2))
                    } else {
                        due
                    }
                }
            };
            let read = match self.operation {
                Operation::Put => false,
                Operation::Get => true,
                Operation::Mixed => random.random_range(0..100) < self.reads_percent,
            };
            let (done, latencies) = if read {
                let key = key(self.choice.to_read(&mut random));
                (connection.get(key).await, &self.get)
            } else {
                let key = key(self.choice.to_write(&mut random));
                (connection.put(key, self.value.clone()).await, &self.put)
            };
            let ended = Instant::now();
            if ended < self.measure_from {
                continue;
            }
            if ended > self.until {
                // Not part of the throughput, but a stall at the end is not hidden either.
                self.late_ms_max
                    .fetch_max((ended - started).as_millis() as u64, Ordering::Relaxed);
                continue;
            }
            match done {
                Ok(()) => {
                    latencies.record(client, ended - started);
                    self.timeline
                        .record(ended - self.measure_from, ended - started);
                }
                Err(error) => {
                    self.errors.fetch_add(1, Ordering::Relaxed);
                    self.first_error.get_or_init(|| error);
                }
            }
        }
    }
}

fn key(number: u64) -> Bytes {
    Bytes::from(format!("bench/{number:012}"))
}

/// Bytes that do not compress.
fn random_value(length: usize) -> Bytes {
    let mut value = vec![0; length];
    SmallRng::seed_from_u64(0).fill(&mut value[..]);
    Bytes::from(value)
}

/// Writes every key once.
async fn load(connection: &Connection, keys: u64, value: &Bytes) -> Result<()> {
    let next = Arc::new(AtomicU64::new(0));
    let mut tasks = JoinSet::new();
    for client in 0..LOADERS.min(keys as usize) {
        let mut connection = connection.for_client(client);
        let next = next.clone();
        let value = value.clone();
        tasks.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= keys {
                    return Ok(());
                }
                connection.put(key(number), value.clone()).await?;
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended
            .map_err(|error| Failure::environment("a client of the generator broke", error))?
            .map_err(|error: String| {
                Failure::new(Kind::Refused, "cannot write the keys to be read").because(error)
            })?;
    }
    Ok(())
}
