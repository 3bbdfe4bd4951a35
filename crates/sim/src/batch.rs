//! Many seeds on a few threads. Threads exist here only, never inside a world.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::group::settings::Plan;
use crate::rule::Violation;
use crate::run::{Outcome, replay_command, revision, run, shrink};

/// What came of a batch.
#[derive(Debug, Default)]
pub struct Report {
    /// Seeds that were run.
    pub seeds: u64,
    /// Events in all.
    pub events: u64,
    /// What happened in all.
    pub happened: BTreeMap<String, u64>,
    /// The failure with the lowest seed among those seen.
    pub failure: Option<Failure>,
}

impl Report {
    fn add(&mut self, happened: BTreeMap<String, u64>) {
        for (what, count) in happened {
            *self.happened.entry(what).or_default() += count;
        }
    }

    /// What never happened, among `expected`.
    pub fn missing(&self, expected: impl IntoIterator<Item = String>) -> Vec<String> {
        expected
            .into_iter()
            .filter(|what| self.happened.get(what).copied().unwrap_or(0) == 0)
            .collect()
    }
}

/// A seed that failed.
#[derive(Debug)]
pub struct Failure {
    /// The plan as it was run.
    pub plan: Plan,
    /// The rule that broke.
    pub violation: Violation,
}

impl Failure {
    /// Shrinks the failure and tells how to see it again.
    pub fn explain(&self) -> String {
        let small = shrink(&self.plan);
        let again = run(&small);
        let left = match again.violation {
            Some(violation) => violation.to_string(),
            None => "did not fail again: the run is not deterministic".to_owned(),
        };
        format!(
            "seed {} breaks {}\n  revision: {}\n  replay: {}\n  shrunk: {}\n  which breaks {left}",
            self.plan.seed,
            self.violation,
            revision(),
            replay_command(&self.plan),
            replay_command(&small)
        )
    }
}

/// Runs the plans that `plan` makes of `seeds`, on `threads` threads, until one fails or, with a `budget`, time is up.
pub fn run_batch(
    seeds: Range<u64>,
    threads: usize,
    budget: Option<Duration>,
    plan: impl Fn(u64) -> Plan + Sync,
) -> Report {
    let next = AtomicU64::new(seeds.start);
    let stop = AtomicBool::new(false);
    let report = Mutex::new(Report::default());
    #[expect(
        clippy::disallowed_types,
        reason = "the budget of a batch is real time; worlds have their own"
    )]
    let began = std::time::Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                let mut sum = Report::default();
                while !stop.load(Ordering::Relaxed)
                    && budget.is_none_or(|budget| began.elapsed() < budget)
                {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        break;
                    }
                    let plan = plan(seed);
                    let Outcome {
                        violation,
                        events,
                        happened,
                        ..
                    } = run(&plan);
                    sum.seeds += 1;
                    sum.events += events;
                    sum.add(happened);
                    if let Some(violation) = violation {
                        stop.store(true, Ordering::Relaxed);
                        sum.failure = Some(Failure { plan, violation });
                        break;
                    }
                }
                let mut report = report
                    .lock()
                    .expect("no thread panics while it holds the report");
                report.seeds += sum.seeds;
                report.events += sum.events;
                report.add(sum.happened);
                if let Some(failure) = sum.failure
                    && report
                        .failure
                        .as_ref()
                        .is_none_or(|known| failure.plan.seed < known.plan.seed)
                {
                    report.failure = Some(failure);
                }
            });
        }
    });
    report
        .into_inner()
        .expect("no thread panics while it holds the report")
}
