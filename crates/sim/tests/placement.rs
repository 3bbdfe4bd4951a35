//! The gate of clusters in which the real placement driver orders.

#[path = "common/clusters.rs"]
mod clusters;
mod common;

use sim::group::settings::{Fault, Plan};

use self::clusters::{hold_every_rule, of_moments};
use self::common::passes;

/// R22, R28, R30, R31, R37: stores register with a placement group, which is a Raft group under the same faults, and it repairs,
/// splits, merges, balances and drains. In the end every region has its replicas where they should be, and nothing is begun any more.
#[test]
fn placement_holds_every_rule() {
    let expected = [
        "drain begun",
        "drain taken back",
        "ids of placement",
        "leader drained",
        "leader moved",
        "leader moved by balance",
        "members asked of placement",
        "merge asked of placement",
        "merge committed",
        "operator cancelled",
        "operator ended by command",
        "order of placement",
        "order of placement refused",
        "orphan removed",
        "placement cut off",
        "placement leader stopped",
        "placement led anew",
        "placement restarted",
        "placement write failed",
        "region scattered",
        "region split by command",
        "regions merged by command",
        "regions merged by placement",
        "replica drained",
        "replica moved",
        "replica moved by balance",
        "replica replaced",
        "scatter asked of placement",
        "split asked of placement",
        "split for size",
        "store away for long",
        "store drained",
        "store told to stop",
        "timestamps of placement",
        "transfer asked of placement",
    ];
    hold_every_rule(1, 40, &expected, |seed, events| {
        of_moments(seed, events, &[Fault::Placement])
    });
}

/// A store that is lost for ever, and data that rots, are what only placement mends.
#[test]
fn placement_mends_what_is_lost() {
    let expected = [
        "damaged replica replaced",
        "replica replaced",
        "store lost",
        "store replaced",
        "store removed",
        "value rotted",
    ];
    hold_every_rule(1, 40, &expected, |seed, events| {
        let (with, without) = match seed % 2 {
            0 => (Fault::LostStore, Fault::Rot),
            _ => (Fault::Rot, Fault::LostStore),
        };
        with_one(seed, events, with, without)
    });
}

/// A world of one of the two faults that cannot both be borne.
fn with_one(seed: u64, events: u64, with: Fault, without: Fault) -> Plan {
    Plan {
        without: vec![without],
        ..of_moments(seed, events, &[Fault::Placement, with])
    }
}

/// Seeds that found something, of worlds of so many events, with what it was.
const FOUND: &[(u64, u64, &str)] = &[(
    57,
    30_000,
    "the only place for what left one store was drained, too, and the first drain never ended",
)];

const FOUND_WITH_ROT: &[(u64, u64, &str)] = &[(
    9,
    15_508,
    "a leader's data rotted before the split had filled the others, which it never asked again",
)];

#[test]
fn seeds_that_found_something_pass() {
    for (seed, events, what) in FOUND {
        passes(&of_moments(*seed, *events, &[Fault::Placement]), what);
    }
    for (seed, events, what) in FOUND_WITH_ROT {
        passes(
            &with_one(*seed, *events, Fault::Rot, Fault::LostStore),
            what,
        );
    }
}
