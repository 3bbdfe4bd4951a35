//! The metrics of a process, in the text format of Prometheus.
//!
//! The stages of a write follow each other without a gap, so the sum of their means is the mean of the whole:
//! `server_write_queue_seconds` (handed in until the worker stepped it), `server_write_commit_seconds` (until it was
//! committed and handed to an applier), `server_write_apply_seconds` (until its result was delivered). Within the
//! commit lie `server_log_write_seconds` and `server_log_sync_seconds` of the local log.

use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts,
    Registry, TextEncoder, exponential_buckets,
};

/// Every metric of a node, in a registry of its own: several nodes can live in one process.
pub struct Metrics {
    registry: Registry,
    /// Requests of clients by kind.
    pub requests: IntCounterVec,
    /// Requests that were not done, by cause.
    pub refusals: IntCounterVec,
    /// Time to answer a request, by kind.
    pub request_seconds: HistogramVec,
    /// First stage of a write: waiting for the worker.
    pub write_queue_seconds: Histogram,
    /// Second stage: replicating.
    pub write_commit_seconds: Histogram,
    /// Third stage: applying.
    pub write_apply_seconds: Histogram,
    /// Confirming that a read is linearizable.
    pub read_index_seconds: Histogram,
    /// Writing a joined log batch, without its sync.
    pub log_write_seconds: Histogram,
    /// Syncing the log.
    pub log_sync_seconds: Histogram,
    /// Log batches that shared a sync.
    pub log_joined_batches: Histogram,
    /// Bytes written to the log.
    pub log_written_bytes: IntCounter,
    /// Carrying out a run of apply tasks.
    pub apply_run_seconds: Histogram,
    /// Entries applied.
    pub applied_entries: IntCounter,
    /// Turns of the worker.
    pub worker_turns: IntCounter,
    /// Time a turn took.
    pub worker_turn_seconds: Histogram,
    /// Frames handed to the transport.
    pub frames_sent: IntCounter,
    /// Frames that arrived and were dropped, because too many waited for the worker.
    pub frames_dropped: IntCounter,
    /// Messages of other stores or members that arrived damaged (F8): each ended its stream, and nothing of it was taken.
    pub messages_damaged: IntCounter,
    /// Stores with which beats go both ways.
    pub stores_linked: IntGauge,
    /// Stores that this one supports.
    pub stores_supported: IntGauge,
    /// Stores that support this one.
    pub stores_supporting: IntGauge,
    /// Times that support for a store began.
    pub supports_begun: IntCounter,
    /// Times that support for a store ended.
    pub supports_ended: IntCounter,
    /// Background tasks by kind and outcome.
    pub tasks: IntCounterVec,
    /// Times that damaged data of a peer was met (R13).
    pub damage_found: IntCounter,
    /// Times that two replicas of a region led here were found not to hold the same (R12).
    pub divergences: IntCounter,
    /// Terms of regions with a peer here of which two peers claim to lead them (R1).
    pub second_leaders: IntCounter,
    /// Times that all members of a region led here were asked to digest what they store, and were compared (R12).
    pub verified_regions: IntCounter,
    /// Bytes of peers here that were digested for that.
    pub verified_bytes: IntCounter,
    /// Regions with a peer here.
    pub regions: IntGauge,
    /// Regions led here.
    pub region_leaders: IntGauge,
    /// Splits that leaders here decided and proposed, by cause.
    pub own_splits: IntCounterVec,
    /// Time for which a merge stopped a region that was led here, by outcome.
    pub merge_frozen_seconds: HistogramVec,
    /// Bytes of the engine by where they are.
    pub engine_bytes: prometheus::IntGaugeVec,
    /// Whether the engine slows or stops writes.
    pub engine_stalled: IntGauge,
    /// Bytes of requests in work.
    pub request_bytes: IntGauge,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All metrics at zero.
    pub fn new() -> Self {
        let registry = Registry::new();
        Metrics {
            requests: counters(
                &registry,
                "server_requests_total",
                "Requests of clients.",
                "kind",
            ),
            refusals: counters(
                &registry,
                "server_refusals_total",
                "Requests that were not done.",
                "cause",
            ),
            request_seconds: {
                let opts =
                    HistogramOpts::new("server_request_seconds", "Time to answer a request.")
                        .buckets(latencies());
                register(&registry, HistogramVec::new(opts, &["kind"]))
            },
            write_queue_seconds: seconds(
                &registry,
                "server_write_queue_seconds",
                "Write: waiting for the worker.",
            ),
            write_commit_seconds: seconds(
                &registry,
                "server_write_commit_seconds",
                "Write: replicating.",
            ),
            write_apply_seconds: seconds(
                &registry,
                "server_write_apply_seconds",
                "Write: applying.",
            ),
            read_index_seconds: seconds(
                &registry,
                "server_read_index_seconds",
                "Read: confirming leadership.",
            ),
            log_write_seconds: seconds(
                &registry,
                "server_log_write_seconds",
                "Writing a joined log batch.",
            ),
            log_sync_seconds: seconds(&registry, "server_log_sync_seconds", "Syncing the log."),
            log_joined_batches: {
                let opts = HistogramOpts::new(
                    "server_log_joined_batches",
                    "Log batches that shared a sync.",
                )
                .buckets(exponential_buckets(1.0, 2.0, 10).expect("the buckets grow"));
                register(&registry, Histogram::with_opts(opts))
            },
            log_written_bytes: counter(
                &registry,
                "server_log_written_bytes_total",
                "Bytes written to the log.",
            ),
            apply_run_seconds: seconds(
                &registry,
                "server_apply_run_seconds",
                "Carrying out a run of apply tasks.",
            ),
            applied_entries: counter(
                &registry,
                "server_applied_entries_total",
                "Entries applied.",
            ),
            worker_turns: counter(
                &registry,
                "server_worker_turns_total",
                "Turns of the region worker.",
            ),
            worker_turn_seconds: seconds(
                &registry,
                "server_worker_turn_seconds",
                "Time a turn of the worker took.",
            ),
            frames_sent: counter(
                &registry,
                "server_frames_sent_total",
                "Frames handed to the transport.",
            ),
            frames_dropped: counter(
                &registry,
                "server_frames_dropped_total",
                "Frames that arrived and were dropped.",
            ),
            messages_damaged: counter(
                &registry,
                "server_messages_damaged_total",
                "Messages of others that arrived damaged and were dropped with their stream.",
            ),
            tasks: counters(
                &registry,
                "server_background_tasks_total",
                "Background tasks carried out.",
                "kind",
            ),
            damage_found: counter(
                &registry,
                "server_damage_found_total",
                "Times that damaged data of a peer was met.",
            ),
            divergences: counter(
                &registry,
                "server_divergences_total",
                "Times that two replicas of a region led here were found not to hold the same.",
            ),
            second_leaders: counter(
                &registry,
                "server_second_leaders_total",
                "Times that a second peer claimed to lead a term of a region.",
            ),
            verified_regions: counter(
                &registry,
                "server_verified_regions_total",
                "Times that what all replicas of a region led here store was compared.",
            ),
            verified_bytes: counter(
                &registry,
                "server_verified_bytes_total",
                "Bytes of replicas here that were digested to be compared.",
            ),
            stores_linked: gauge(
                &registry,
                "server_stores_linked",
                "Stores with which beats go both ways.",
            ),
            stores_supported: gauge(
                &registry,
                "server_stores_supported",
                "Stores that this one supports.",
            ),
            stores_supporting: gauge(
                &registry,
                "server_stores_supporting",
                "Stores that support this one.",
            ),
            supports_begun: counter(
                &registry,
                "server_supports_begun_total",
                "Times that support for a store began.",
            ),
            supports_ended: counter(
                &registry,
                "server_supports_ended_total",
                "Times that support for a store ended.",
            ),
            regions: gauge(&registry, "server_regions", "Regions with a peer here."),
            region_leaders: gauge(&registry, "server_region_leaders", "Regions led here."),
            own_splits: counters(
                &registry,
                "server_own_splits_total",
                "Splits that leaders here decided and proposed.",
                "cause",
            ),
            merge_frozen_seconds: {
                let opts = HistogramOpts::new(
                    "server_merge_frozen_seconds",
                    "Time for which a merge stopped a region that was led here.",
                )
                .buckets(latencies());
                register(&registry, HistogramVec::new(opts, &["outcome"]))
            },
            engine_bytes: register(
                &registry,
                prometheus::IntGaugeVec::new(
                    Opts::new("server_engine_bytes", "Bytes of the engine."),
                    &["where"],
                ),
            ),
            engine_stalled: gauge(
                &registry,
                "server_engine_stalled",
                "1 while the engine slows or stops writes.",
            ),
            request_bytes: gauge(
                &registry,
                "server_request_bytes",
                "Bytes of requests in work.",
            ),
            registry,
        }
    }

    /// Sets the gauges of the engine.
    pub fn set_engine(&self, statistics: &engine::Statistics) {
        for (place, bytes) in [
            ("memtable", statistics.memtable_bytes),
            ("file", statistics.file_bytes),
            ("cache", statistics.cache_bytes),
            ("compaction_pending", statistics.compaction_pending_bytes),
        ] {
            self.engine_bytes
                .with_label_values(&[place])
                .set(i64::try_from(bytes).unwrap_or(i64::MAX));
        }
        self.engine_stalled.set(i64::from(statistics.stalled));
    }

    /// The registry, for metrics that belong to one kind of process only.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// All metrics as text.
    pub fn text(&self) -> String {
        let mut text = Vec::new();
        TextEncoder::new()
            .encode(&self.registry.gather(), &mut text)
            .expect("metrics with fixed names are valid");
        String::from_utf8(text).expect("the text format is UTF-8")
    }
}

/// 16 µs to 8 s, doubling.
fn latencies() -> Vec<f64> {
    exponential_buckets(16e-6, 2.0, 20).expect("the buckets grow")
}

fn register<C: prometheus::core::Collector + Clone + 'static>(
    registry: &Registry,
    metric: prometheus::Result<C>,
) -> C {
    let metric = metric.expect("names and labels are valid");
    registry
        .register(Box::new(metric.clone()))
        .expect("names are distinct");
    metric
}

fn seconds(registry: &Registry, name: &str, help: &str) -> Histogram {
    register(
        registry,
        Histogram::with_opts(HistogramOpts::new(name, help).buckets(latencies())),
    )
}

fn counter(registry: &Registry, name: &str, help: &str) -> IntCounter {
    register(registry, IntCounter::new(name, help))
}

fn counters(registry: &Registry, name: &str, help: &str, label: &str) -> IntCounterVec {
    register(
        registry,
        IntCounterVec::new(Opts::new(name, help), &[label]),
    )
}

fn gauge(registry: &Registry, name: &str, help: &str) -> IntGauge {
    register(registry, IntGauge::new(name, help))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_names_every_stage_of_a_write() {
        let metrics = Metrics::new();
        metrics.write_queue_seconds.observe(0.001);
        let text = metrics.text();
        for stage in [
            "write_queue",
            "write_commit",
            "write_apply",
            "log_write",
            "log_sync",
        ] {
            assert!(
                text.contains(&format!("server_{stage}_seconds_count")),
                "{stage} is missing"
            );
        }
        assert!(text.contains("server_frames_dropped_total 0"));
    }
}
