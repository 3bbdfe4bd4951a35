//! What the gates of clusters share.

use std::time::Duration;

use sim::batch::run_batch;
use sim::group::settings::{Fault, Plan};

use crate::common::{check, from_environment};

/// Worlds for the seeds below `SIM_MERGE_SEEDS`, of `SIM_MERGE_EVENTS` events, or as many as so many halves of `SIM_MERGE_SECONDS`
/// allow. What is expected happens in the first `enough` of them, and is asked for when these ran: how many fit into the time says
/// nothing of the code.
pub fn hold_every_rule(
    halves: u64,
    enough: u64,
    expected: &[&str],
    world: impl Fn(u64, u64) -> Plan + Sync,
) {
    let seeds = from_environment("SIM_MERGE_SEEDS", 100);
    let events = from_environment("SIM_MERGE_EVENTS", 20_000);
    let seconds = from_environment("SIM_MERGE_SECONDS", 60) * halves / 2;
    let report = run_batch(0..seeds, 2, Some(Duration::from_secs(seconds)), |seed| {
        world(seed, events)
    });
    let expected = expected.iter().map(|what| (*what).to_owned());
    check(&report, report.seeds >= enough, expected);
}

/// A world that has these faults whatever its seed says.
pub fn of_moments(seed: u64, events: u64, faults: &[Fault]) -> Plan {
    Plan {
        faults: faults.to_vec(),
        ..Plan::of_cluster(seed, events)
    }
}
