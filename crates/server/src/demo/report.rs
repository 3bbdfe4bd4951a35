//! The table at the end.

use std::time::Duration;

use serde::Serialize;

use crate::{
    bench::Summary,
    output::{self, thousands},
};

/// Everything that the demonstration found.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Keys loaded.
    pub loaded_keys: u64,
    /// Bytes loaded.
    pub loaded_bytes: u64,
    /// Files below the folder that were not loaded.
    pub left_out: u64,
    /// Files that changed on disk while the demonstration ran.
    pub changed: u64,
    /// Regions at the end.
    pub regions: u64,
    /// Stores that lead regions at the end.
    pub leading_stores: u64,
    /// Regions that came from splits.
    pub splits: u64,
    /// Regions that became part of a neighbour.
    pub merges: u64,
    /// Replicas that came to a region through joint consensus.
    pub moves: u64,
    /// Terms that began: transfers of leadership and the takeover after the kill.
    pub elections: u64,
    /// The store that was drained.
    pub drained: String,
    /// The store that was killed.
    pub killed: String,
    /// Regions that it led.
    pub killed_led: u64,
    /// The longest time that a writer waited between two acknowledgements while replicas moved.
    pub stall_moving_ms: u64,
    /// The same while a store was drained.
    pub stall_draining_ms: u64,
    /// The same around the kill.
    pub unavailable_ms: u64,
    /// Time from the kill until no region missed a replica.
    pub replaced_ms: u64,
    /// Keys that were deleted.
    pub deleted: u64,
    /// Writes that were not acknowledged.
    pub refused_writes: u64,
    /// What the first of them was told.
    pub first_refusal: Option<String>,
    /// Latency of the load.
    pub load: Summary,
    /// Latency of the writers.
    pub write: Summary,
    /// Latency of reading back.
    pub read: Summary,
    /// Writes that the cluster acknowledged.
    pub acknowledged: u64,
    /// Those that were found again.
    pub verified: u64,
    /// Those that were not.
    pub lost: u64,
    /// The first losses, one by one.
    pub losses: Vec<String>,
    /// The whole time.
    pub seconds: f64,
}

/// The report for people.
pub fn table(report: &Report) -> String {
    let number = |count: u64| thousands(count);
    let facts = output::facts([
        (
            "loaded",
            format!(
                "{} keys, {}{}",
                number(report.loaded_keys),
                output::bytes(report.loaded_bytes),
                match report.left_out {
                    0 => String::new(),
                    count => format!(" ({} files left out)", number(count)),
                }
            ),
        ),
        (
            "regions",
            format!(
                "{}, led by {} stores ({} splits, {} merges)",
                report.regions, report.leading_stores, report.splits, report.merges
            ),
        ),
        ("moves", format!("{} replicas", report.moves)),
        (
            "elections",
            format!("{} (transfers included)", report.elections),
        ),
        (
            "killed",
            format!(
                "{} with SIGKILL, leading {} regions; replaced after {:.0} s",
                report.killed,
                report.killed_led,
                report.replaced_ms as f64 / 1e3
            ),
        ),
        (
            "unavailable",
            format!(
                "{} ms after the kill, {} ms while moving, {} ms while draining {} (longest wait of any writer)",
                report.unavailable_ms,
                report.stall_moving_ms,
                report.stall_draining_ms,
                report.drained
            ),
        ),
        (
            "refused",
            match &report.first_refusal {
                None => "0 writes".to_owned(),
                Some(first) => format!("{} writes, first: {first}", number(report.refused_writes)),
            },
        ),
    ]);
    let kinds = [
        ("load", &report.load),
        ("write", &report.write),
        ("read", &report.read),
    ];
    let latencies = output::rows(
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
        kinds.map(|(name, summary)| {
            let [count, mean, p50, p90, p99, p999, max] = summary.columns();
            [name.to_owned(), count, mean, p50, p90, p99, p999, max]
        }),
    );
    let verdict = output::facts([
        (
            "acknowledged",
            format!(
                "{}, of these {} deletes",
                number(report.acknowledged),
                number(report.deleted)
            ),
        ),
        ("verified", number(report.verified)),
        ("lost", number(report.lost)),
    ]);
    let mut text = format!("{facts}\n{latencies}\n{verdict}");
    for loss in &report.losses {
        text.push_str(&format!("  {loss}\n"));
    }
    text.push_str(&format!(
        "\ntook {}\n",
        humantime::format_duration(Duration::from_secs(report.seconds.round() as u64))
    ));
    text
}
