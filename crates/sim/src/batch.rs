//! Many seeds on a few threads. Threads exist here only, never inside a world.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, mpsc};
use std::time::Duration;

use crate::group::settings::Plan;
use crate::rule::Violation;
use crate::run::{Outcome, replay_command, revision, run};
use crate::shrink::{Shrunk, Size, shrink};
use crate::watch::Watch;

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
    /// Makes it smaller for so long at the most. `tell` hears before each try how many there were, and of the smallest plan.
    pub fn shrink(&self, limit: Duration, mut tell: impl FnMut(u64, &Plan)) -> Option<Shrunk> {
        let watch = Watch::start();
        shrink(&self.plan, &mut |tries, smallest| {
            tell(tries, smallest);
            watch.elapsed() < limit
        })
    }

    /// Tells what broke and how to see it again.
    pub fn explain(&self) -> String {
        format!(
            "seed {} breaks {}\n  revision: {}\n  replay: {}",
            self.plan.seed,
            self.violation,
            revision(),
            replay_command(&self.plan)
        )
    }

    /// Tells what came of making it smaller.
    pub fn explain_shrunk(&self, shrunk: Option<&Shrunk>) -> String {
        let Some(shrunk) = shrunk else {
            return "  it did not fail again: the run is not deterministic".to_owned();
        };
        let Shrunk {
            plan,
            violation,
            tries,
            complete,
        } = shrunk;
        let more = if *complete { "" } else { ", when time was up" };
        format!(
            "  shrunk: {}\n    which breaks {violation}\n    {} instead of {}, after {tries} tries{more}",
            replay_command(plan),
            Size::of(plan),
            Size::of(&self.plan)
        )
    }
}

/// How far a batch is.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Seeds that were run.
    pub seeds: u64,
    /// Events in all.
    pub events: u64,
    /// Since it began.
    pub elapsed: Duration,
}

/// Who is told how far a batch is, and how often.
pub struct Listener<'a> {
    /// Time between two.
    pub period: Duration,
    /// Who.
    pub tell: &'a dyn Fn(Progress),
}

/// Runs the plans that `plan` makes of `seeds`, on `threads` threads, until one fails or, with a `budget`, time is up.
pub fn run_batch(
    seeds: Range<u64>,
    threads: usize,
    budget: Option<Duration>,
    plan: impl Fn(u64) -> Plan + Sync,
) -> Report {
    run_batch_telling(seeds, threads, budget, plan, None)
}

/// As [`run_batch`]; tells meanwhile how far it is.
pub fn run_batch_telling(
    seeds: Range<u64>,
    threads: usize,
    budget: Option<Duration>,
    plan: impl Fn(u64) -> Plan + Sync,
    listener: Option<Listener<'_>>,
) -> Report {
    let (next, end) = (AtomicU64::new(seeds.start), seeds.end);
    let stop = AtomicBool::new(false);
    let (seeds_run, events_run) = (AtomicU64::new(0), AtomicU64::new(0));
    let report = Mutex::new(Report::default());
    let watch = Watch::start();
    let (working, ended) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            let working = working.clone();
            let (next, stop, report, plan) = (&next, &stop, &report, &plan);
            let (seeds_run, events_run) = (&seeds_run, &events_run);
            scope.spawn(move || {
                let mut sum = Report::default();
                while !stop.load(Ordering::Relaxed)
                    && budget.is_none_or(|budget| watch.elapsed() < budget)
                {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        break;
                    }
                    let plan = plan(seed);
                    let Outcome {
                        violation,
                        events,
                        happened,
                        ..
                    } = run(&plan);
                    seeds_run.fetch_add(1, Ordering::Relaxed);
                    events_run.fetch_add(events, Ordering::Relaxed);
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
                report.add(sum.happened);
                let first = report.failure.as_ref().map(|failure| failure.plan.seed);
                if let Some(failure) = sum.failure
                    && first.is_none_or(|first| failure.plan.seed < first)
                {
                    report.failure = Some(failure);
                }
                drop(working);
            });
        }
        drop(working);
        if let Some(Listener { period, tell }) = listener {
            // Ends when every thread has dropped its end.
            while ended.recv_timeout(period) == Err(mpsc::RecvTimeoutError::Timeout) {
                tell(Progress {
                    seeds: seeds_run.load(Ordering::Relaxed),
                    events: events_run.load(Ordering::Relaxed),
                    elapsed: watch.elapsed(),
                });
            }
        }
    });
    let mut report = report
        .into_inner()
        .expect("no thread panics while it holds the report");
    report.seeds = seeds_run.into_inner();
    report.events = events_run.into_inner();
    report
}
