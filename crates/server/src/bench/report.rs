//! What a run measured.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use hdrhistogram::Histogram;
use serde::Serialize;

use super::pattern::Pattern;
use crate::output::{self, thousands};

/// Latencies are kept in microseconds up to a minute, with three digits.
const LATENCY_MAX_US: u64 = 60_000_000;

/// An operation under way at the end is worth telling of if it took longer, in milliseconds.
const LATE_MS: u64 = 1_000;

/// Clients that share a histogram. It is locked for some nanoseconds per request, so a few are enough.
const SHARDS: usize = 8;

/// Latencies of one kind of operation, recorded by many clients at once.
pub struct Latencies {
    shards: Vec<Mutex<Histogram<u64>>>,
}

impl Default for Latencies {
    fn default() -> Self {
        let shard = || {
            let empty =
                Histogram::new_with_max(LATENCY_MAX_US, 3).expect("the bounds are in order");
            Mutex::new(empty)
        };
        Self {
            shards: (0..SHARDS).map(|_| shard()).collect(),
        }
    }
}

impl Latencies {
    /// Records a latency seen by a client.
    pub fn record(&self, client: usize, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        let mut shard = self.shards[client % SHARDS]
            .lock()
            .expect("recording does not panic");
        shard.saturating_record(micros.max(1));
    }

    /// The summary of all that was recorded.
    pub fn summary(&self) -> Summary {
        let mut all =
            Histogram::<u64>::new_with_max(LATENCY_MAX_US, 3).expect("the bounds are in order");
        for shard in &self.shards {
            let shard = shard.lock().expect("recording does not panic");
            all.add(&*shard).expect("all shards have the same bounds");
        }
        Summary {
            operations: all.len(),
            mean_us: all.mean(),
            p50_us: all.value_at_quantile(0.5),
            p90_us: all.value_at_quantile(0.9),
            p99_us: all.value_at_quantile(0.99),
            p999_us: all.value_at_quantile(0.999),
            max_us: all.max(),
        }
    }
}

/// Latencies of one kind of operation, in microseconds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Operations that succeeded.
    pub operations: u64,
    /// Mean.
    pub mean_us: f64,
    /// Half of the operations were at most so slow.
    pub p50_us: u64,
    /// Nine of ten.
    pub p90_us: u64,
    /// 99 of 100.
    pub p99_us: u64,
    /// 999 of 1000.
    pub p999_us: u64,
    /// The slowest.
    pub max_us: u64,
}

impl Summary {
    /// The columns of a table: count, then mean and percentiles in milliseconds.
    pub fn columns(&self) -> [String; 7] {
        let ms = |micros: f64| format!("{:.2}", micros / 1e3);
        [
            thousands(self.operations),
            ms(self.mean_us),
            ms(self.p50_us as f64),
            ms(self.p90_us as f64),
            ms(self.p99_us as f64),
            ms(self.p999_us as f64),
            ms(self.max_us as f64),
        ]
    }
}

/// Time of an interval of the timeline, in milliseconds.
const INTERVAL_MS: u64 = 100;

/// What was done when, recorded by many clients at once.
pub struct Timeline {
    /// Operations and the slowest of them in microseconds, per interval.
    intervals: Vec<(AtomicU64, AtomicU64)>,
}

/// What was done in a tenth of a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Interval {
    /// Its start, in milliseconds of the measured time.
    pub at_ms: u64,
    /// Operations that ended in it and succeeded.
    pub operations: u64,
    /// The slowest of them.
    pub max_us: u64,
}

impl Timeline {
    /// Of a run that is measured for so long.
    pub fn new(measured: Duration) -> Self {
        let count = measured.as_millis() as u64 / INTERVAL_MS + 1;
        let intervals = (0..count).map(|_| Default::default()).collect();
        Self { intervals }
    }

    /// Records an operation that ended `at`, from the start of the measured time; one that ended later is left out.
    pub fn record(&self, at: Duration, latency: Duration) {
        let interval = at.as_millis() as u64 / INTERVAL_MS;
        if let Some((operations, max_us)) = self.intervals.get(interval as usize) {
            operations.fetch_add(1, Ordering::Relaxed);
            max_us.fetch_max(latency.as_micros() as u64, Ordering::Relaxed);
        }
    }

    /// All intervals in which the run was measured.
    pub fn intervals(&self) -> Vec<Interval> {
        let interval = |(at, (operations, max_us)): (u64, &(AtomicU64, AtomicU64))| Interval {
            at_ms: at * INTERVAL_MS,
            operations: operations.load(Ordering::Relaxed),
            max_us: max_us.load(Ordering::Relaxed),
        };
        (0..).zip(&self.intervals).map(interval).collect()
    }
}

/// A whole run.
#[derive(Debug, Serialize)]
pub struct Report {
    /// `put`, `get` or `mixed`.
    pub operation: &'static str,
    /// `pontoon` or `etcd`.
    pub target: &'static str,
    /// Clients, each with one request outstanding.
    pub clients: usize,
    /// Bytes of a value.
    pub value_bytes: u64,
    /// Different keys.
    pub keys: u64,
    /// Which of them were chosen.
    pub pattern: Pattern,
    /// Start of the measured time, in milliseconds since 1970.
    pub began_unix_ms: u64,
    /// Intended requests per second; absent in the closed loop.
    pub rate: Option<f64>,
    /// Measured time.
    pub seconds: f64,
    /// Successful operations per second.
    pub throughput: f64,
    /// Failed operations. They are in no latency.
    pub errors: u64,
    /// The longest time, in milliseconds, of an operation that was under way when the measured time was over. They are in no
    /// other number.
    pub late_ms_max: u64,
    /// What the first failure said.
    pub first_error: Option<String>,
    /// Latency of writes, if there were any.
    pub put: Option<Summary>,
    /// Latency of reads, if there were any.
    pub get: Option<Summary>,
    /// What was done in each tenth of a second.
    pub timeline: Vec<Interval>,
    /// What the numbers depend on.
    pub settings: Settings,
}

/// What the numbers depend on.
#[derive(Debug, Serialize)]
pub struct Settings {
    /// Copies of every key.
    pub replicas: u32,
    /// When a write is acknowledged.
    pub durability: &'static str,
    /// Whether reads are linearizable.
    pub reads: &'static str,
    /// Servers that hold data.
    pub servers: u32,
    /// Regions, where there are any.
    pub regions: Option<u64>,
    /// Cores of this machine, shared by the generator and by servers that run on it.
    pub cores: usize,
    /// `closed` or `open`.
    pub loop_kind: &'static str,
}

/// The report for people.
pub fn table(report: &Report) -> String {
    let kinds = [("put", &report.put), ("get", &report.get)];
    let rows = kinds.into_iter().filter_map(|(name, summary)| {
        let [count, mean, p50, p90, p99, p999, max] = summary.as_ref()?.columns();
        Some([name.to_owned(), count, mean, p50, p90, p99, p999, max])
    });
    let mut text = output::rows(
        [
            "",
            "OPERATIONS",
            "MEAN ms",
            "p50",
            "p90",
            "p99",
            "p99.9",
            "MAX",
        ],
        rows,
    );
    text.push_str(&format!(
        "\n{} operations per second over {:.1} s, {} errors\n",
        thousands(report.throughput.round() as u64),
        report.seconds,
        thousands(report.errors)
    ));
    if report.late_ms_max > LATE_MS {
        text.push_str(&format!(
            "an operation under way at the end took {} ms\n",
            thousands(report.late_ms_max)
        ));
    }
    if let Some(error) = &report.first_error {
        text.push_str(&format!("first error: {error}\n"));
    }
    let settings = &report.settings;
    text.push_str(&format!(
        "{} {}: {} clients, {}, values of {} B, {}; {} servers, {} replicas, {}{}, {}; {} cores for all of it\n",
        report.target,
        report.operation,
        report.clients,
        match report.rate {
            Some(rate) => format!("open loop at {rate} per second"),
            None => "closed loop".to_owned(),
        },
        report.value_bytes,
        match report.pattern {
            Pattern::Uniform | Pattern::Zipf =>
                format!("{} keys, {}", thousands(report.keys), report.pattern.name()),
            Pattern::Sequential => "sequential keys".to_owned(),
        },
        settings.servers,
        settings.replicas,
        settings
            .regions
            .map(|regions| format!("{regions} regions, "))
            .unwrap_or_default(),
        settings.durability,
        settings.reads,
        settings.cores,
    ));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_all_clients_together() {
        let latencies = Latencies::default();
        for micros in 1..=1000_u64 {
            latencies.record(micros as usize, Duration::from_micros(micros));
        }
        let summary = latencies.summary();
        assert_eq!(summary.operations, 1000);
        assert!((summary.mean_us - 500.5).abs() < 1.0, "{summary:?}");
        assert_eq!(
            (
                summary.p50_us,
                summary.p90_us,
                summary.p99_us,
                summary.p999_us,
                summary.max_us
            ),
            (500, 900, 990, 999, 1000)
        );
    }

    #[test]
    fn a_timeline_keeps_the_slowest_of_each_interval() {
        let timeline = Timeline::new(Duration::from_millis(250));
        let ms = Duration::from_millis;
        timeline.record(ms(10), ms(3));
        timeline.record(ms(99), ms(2));
        timeline.record(ms(240), ms(7));
        timeline.record(ms(300), ms(9));
        let interval = |at_ms, operations, max_us| Interval {
            at_ms,
            operations,
            max_us,
        };
        assert_eq!(
            timeline.intervals(),
            [
                interval(0, 2, 3000),
                interval(100, 0, 0),
                interval(200, 1, 7000)
            ]
        );
    }

    #[test]
    fn latencies_beyond_the_range_count_at_its_end() {
        let latencies = Latencies::default();
        latencies.record(0, Duration::ZERO);
        latencies.record(0, Duration::from_secs(3600));
        let summary = latencies.summary();
        assert_eq!(summary.operations, 2);
        assert_eq!(summary.p50_us, 1);
        assert!(summary.max_us >= LATENCY_MAX_US, "{summary:?}");
    }
}
