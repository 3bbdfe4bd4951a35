//! What the gates share.

use std::time::Duration;

use sim::batch::{Failure, Report, run_batch};
use sim::group::settings::Plan;

/// A number that a variable overrides.
pub fn from_environment(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|error| panic!("{name}={text}: {error}")),
        Err(_) => default,
    }
}

/// That no world of a batch broke a rule, and that everything that is expected of one that is `large` happened in one of them.
pub fn check(report: &Report, large: bool, expected: impl IntoIterator<Item = String>) {
    println!(
        "{} seeds, {} events: {:#?}",
        report.seeds, report.events, report.happened
    );
    if let Some(failure) = &report.failure {
        panic!("{}", explain(failure));
    }
    let missing = report.missing(expected);
    assert!(
        !large || missing.is_empty(),
        "{missing:?} never happened in {} seeds",
        report.seeds
    );
}

/// Tells of a failure, and of a smaller one, as the binary does.
fn explain(failure: &Failure) -> String {
    let shrunk = failure.shrink(Duration::from_secs(60), |_, _| {});
    format!(
        "{}\n{}",
        failure.explain(),
        failure.explain_shrunk(shrunk.as_ref())
    )
}

/// That a world which found `what` once breaks no rule any more.
pub fn passes(plan: &Plan, what: &str) {
    let report = run_batch(plan.seed..plan.seed + 1, 1, None, |_| plan.clone());
    if let Some(failure) = report.failure {
        panic!("{what}: {}", explain(&failure));
    }
}
