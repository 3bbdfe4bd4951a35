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
        "merge aborted",
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
        let lost: &[Fault] = &[Fault::Placement, Fault::LostStore];
        let rots: &[Fault] = &[Fault::Placement, Fault::Rot];
        Plan {
            without: vec![if seed % 2 == 0 {
                Fault::Rot
            } else {
                Fault::LostStore
            }],
            ..of_moments(seed, events, if seed % 2 == 0 { lost } else { rots })
        }
    });
}

/// Seeds that found something, of worlds of so many events, with what it was.
const FOUND: &[(u64, u64, &str)] = &[(
    57,
    30_000,
    "the only place for what left one store was drained, too, and the first drain never ended",
)];

#[test]
fn seeds_that_found_something_pass() {
    for (seed, events, what) in FOUND {
        passes(&of_moments(*seed, *events, &[Fault::Placement]), what);
    }
}
