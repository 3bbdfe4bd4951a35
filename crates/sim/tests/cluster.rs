//! The gate of clusters: seeds over several stores, with splits, moves and power losses.

#[path = "common/clusters.rs"]
mod clusters;
mod common;

use std::time::Duration;

use raft::Bug;
use sim::batch::run_batch;
use sim::cluster::settings::TROUBLES;
use sim::group::settings::{Fault, Plan};
use sim::rule::{Rule, Violation};

use self::clusters::of_moments;
use self::common::{check, from_environment, passes};

/// What a batch must have seen.
const EXPECTED: &[&str] = &[
    "applier late",
    "client gave up",
    "destroyed installing",
    "exile removed",
    "kill",
    "merge aborted",
    "merge committed",
    "order begun",
    "order late",
    "order refused",
    "own split refused",
    "partition",
    "peer destroyed",
    "power loss",
    "read served",
    "region froze",
    "request refused",
    "snapshot hung",
    "snapshot installed",
    "entries fetched",
    "snapshot sent",
    "snapshot slow",
    "split",
    "split for load",
    "split for size",
    "source absorbed late",
    "staged files lost",
    "stopped before removing",
    "swap failed",
    "swap succeeded",
    "write acknowledged",
];

/// Seeds from 0 on in which all of that happens. It is asked of batches of at least so many, and not of those that were as large as
/// the machine let them be in a short time.
const ENOUGH: u64 = 60;

/// RELIABILITY §3, level 3: `SIM_CLUSTER_SEEDS` seeds of `SIM_CLUSTER_EVENTS` events, or as many as `SIM_CLUSTER_SECONDS`
/// allow.
#[test]
fn clusters_hold_every_rule() {
    let seeds = from_environment("SIM_CLUSTER_SEEDS", 1_000);
    let events = from_environment("SIM_CLUSTER_EVENTS", 50_000);
    let seconds = from_environment("SIM_CLUSTER_SECONDS", 90);
    let report = run_batch(0..seeds, 2, Some(Duration::from_secs(seconds)), |seed| {
        Plan::of_cluster(seed, events)
    });
    let expected = EXPECTED.iter().map(|what| (*what).to_owned());
    check(&report, report.seeds >= ENOUGH, expected);
}

/// A world whose operator splits and merges all the time.
fn of_merges(seed: u64, events: u64) -> Plan {
    Plan {
        faults: vec![Fault::Merge, Fault::Split],
        ..Plan::of_cluster(seed, events)
    }
}

/// As [`clusters::hold_every_rule`], with the invented operator: these worlds are about what stores do.
fn hold_every_rule(
    halves: u64,
    enough: u64,
    expected: &[&str],
    world: impl Fn(u64, u64) -> Plan + Sync,
) {
    clusters::hold_every_rule(halves, enough, expected, |seed, events| {
        let mut plan = world(seed, events);
        plan.without.push(Fault::Placement);
        plan
    });
}

/// R21: regions that split and merge all the time.
#[test]
fn merges_hold_every_rule() {
    let expected = [
        "merge aborted",
        "merge committed",
        "source absorbed late",
        "source replaced by snapshot",
    ];
    hold_every_rule(2, 50, &expected, of_merges);
}

/// Worlds whose followers pledge. No store is lost for ever: a peer without data whose only contact was there, and whose region was
/// merged since, has nobody left to ask, pledges or not.
fn of_pledges(seed: u64, events: u64) -> Plan {
    Plan {
        faults: vec![Fault::Pledges],
        without: vec![Fault::LostStore],
        ..Plan::of_cluster(seed, events)
    }
}

/// LIVENESS L3: support begins and ends all the time, and followers rest on it.
#[test]
fn pledges_hold_every_rule() {
    let expected = [
        "leader deposed unknowingly",
        "pledge recorded",
        "quorum pledged",
        "support ended",
        "support given",
    ];
    hold_every_rule(1, 20, &expected, of_pledges);
}

/// The happenings that planted bugs of merging need, in every world.
const MOMENTS: &[Fault] = &[
    Fault::Merge,
    Fault::Split,
    Fault::Membership,
    Fault::Exile,
    Fault::Untimely,
    Fault::SlowReplay,
    Fault::Focus,
];

/// The worlds in which a planted bug is looked for.
struct Worlds {
    faults: &'static [Fault],
    without: &'static [Fault],
}

fn worlds_of(bug: store::Bug) -> Worlds {
    match bug {
        // A source that has not applied its log yet, as often as can be.
        store::Bug::AbsorbWithoutWaiting => Worlds {
            faults: &[
                Fault::Merge,
                Fault::Split,
                Fault::SlowReplay,
                Fault::Focus,
                Fault::SlowApply,
                Fault::Loss,
                Fault::Lag,
                Fault::PowerLoss,
                Fault::Crash,
            ],
            without: &[],
        },
        store::Bug::CommitWithoutEpoch => Worlds {
            faults: &[Fault::Merge, Fault::Split],
            without: &[],
        },
        // One store is past the merge, the others are late, clients ask both, and little else disturbs them.
        store::Bug::ReadOverFreeze => Worlds {
            faults: &[Fault::Merge, Fault::Split, Fault::Focus, Fault::SlowReplay],
            without: &[
                Fault::Exile,
                Fault::Untimely,
                Fault::Membership,
                Fault::Loss,
                Fault::OneWay,
                Fault::Partition,
                Fault::Crash,
                Fault::PowerLoss,
                Fault::Limits,
                Fault::SlowDisk,
                Fault::Reorder,
            ],
        },
        // The first leader of a child loses power when it has spoken, and is back before anybody else leads.
        store::Bug::FirstTermTwice | store::Bug::SpeaksUnsynced => Worlds {
            faults: NEWBORN,
            without: &[
                Fault::Exile,
                Fault::Merge,
                Fault::Membership,
                Fault::Loss,
                Fault::OneWay,
                Fault::Partition,
                Fault::Crash,
                Fault::PowerLoss,
                Fault::Limits,
                Fault::Reorder,
            ],
        },
        store::Bug::SumOfLater => Worlds {
            faults: VERIFYING,
            without: &[],
        },
        _ => Worlds {
            faults: MOMENTS,
            without: &[],
        },
    }
}

/// Kinds of world that came later and that no planted bug needs but one.
fn without_apart(bug: store::Bug) -> &'static [Fault] {
    match bug {
        store::Bug::SumOfLater => &[Fault::Deletes, Fault::Appends],
        _ => &[Fault::Deletes, Fault::Appends, Fault::Verify],
    }
}

/// The happenings that planted bugs of a child's first term need.
const NEWBORN: &[Fault] = &[Fault::Split, Fault::Newborn, Fault::Focus];

/// REGIONS §4, first term: children whose first leader loses power break no rule.
#[test]
fn newborn_peers_hold_every_rule() {
    let expected = ["newborn watched", "newborn lost power", "split"];
    hold_every_rule(1, 20, &expected, |seed, events| {
        of_moments(seed, events, NEWBORN)
    });
}

/// REGIONS §5: nothing waits for ever for a store that was lost during a merge and removed.
#[test]
fn lost_stores_hold_nothing_up() {
    let expected = [
        "merge committed",
        "store lost",
        "store replaced",
        "told of a removed store",
    ];
    hold_every_rule(1, 20, &expected, |seed, events| Plan {
        without: vec![Fault::Exile],
        ..of_moments(seed, events, LOST)
    });
}

/// REGIONS §4 and STORAGE §7: regions are split ahead of inserts at their end, and counted after deletes, under every fault.
#[test]
fn appends_and_deletes_hold_every_rule() {
    let expected = [
        "count refused",
        "counted",
        "counted behind writes",
        "empty piece",
        "empty piece led elsewhere",
        "split ahead of appends",
    ];
    let faults = [Fault::Split, Fault::Appends, Fault::Deletes];
    hold_every_rule(1, 20, &expected, |seed, events| {
        of_moments(seed, events, &faults)
    });
}

/// R12: leaders verify what members store, under every fault, and nothing is found.
#[test]
fn verifications_hold_every_rule() {
    let expected = [
        "member silent",
        "verification refused",
        "verified in turn",
        "verified on demand",
    ];
    hold_every_rule(1, 20, &expected, |seed, events| {
        of_moments(seed, events, VERIFYING)
    });
}

/// Regions change, peers come and go, and whoever digests is late.
const VERIFYING: &[Fault] = &[
    Fault::Verify,
    Fault::Merge,
    Fault::Split,
    Fault::Membership,
    Fault::SlowReplay,
];

/// F10 to F13: disks that fail, hang and rot, under every other fault. What one store cannot read the others hold, so none is
/// away or lost for ever.
#[test]
fn disks_hold_every_rule() {
    let expected = [
        "damaged peer replaced",
        "disk flush failed",
        "disk hung",
        "disk sync failed",
        "disk write failed",
        "merge committed",
        "rot applied over",
        "rot found by a look",
        "rot met by a task",
        "rot read",
        "value rotted",
    ];
    let faults = [
        Fault::DiskFails,
        Fault::DiskHangs,
        Fault::Rot,
        Fault::SlowDisk,
        Fault::Split,
        Fault::Merge,
        Fault::Membership,
    ];
    hold_every_rule(1, 20, &expected, |seed, events| Plan {
        without: vec![Fault::Exile, Fault::LostStore],
        ..of_moments(seed, events, &faults)
    });
}

/// F6, F7, F9, F15, F21: old frames that come again, stores that pause, clogged links, bridges, clocks that jump and stand still, and
/// a placement that says nothing, under every other fault.
#[test]
fn troubles_hold_every_rule() {
    let expected = [
        "bridge",
        "clock jumped",
        "clock stood still",
        "dial turned",
        "frame held up",
        "merge committed",
        "old frame replayed",
        "placement silent",
        "store paused",
    ];
    let faults = [
        Fault::Replay,
        Fault::Pause,
        Fault::Clog,
        Fault::Bridge,
        Fault::Jumps,
        Fault::NoPlacement,
        Fault::Dial,
        Fault::Split,
        Fault::Merge,
        Fault::Membership,
    ];
    hold_every_rule(1, 20, &expected, |seed, events| {
        of_moments(seed, events, &faults)
    });
}

/// A store is lost for ever at a merge.
const LOST: &[Fault] = &[
    Fault::Merge,
    Fault::Split,
    Fault::Membership,
    Fault::LostStore,
];

/// The worlds in which planted bugs are looked for break no rule without them.
#[test]
fn moments_hold_every_rule() {
    let expected = [
        "applier late",
        "exile removed",
        "exile replaced",
        "merge aborted",
        "merge committed",
        "orphan source dies",
        "receiver removed",
        "snapshot without receiver",
        "source absorbed late",
        "source replaced by snapshot",
        "stopped before removing",
    ];
    hold_every_rule(2, 50, &expected, |seed, events| {
        of_moments(seed, events, MOMENTS)
    });
}

/// What digests show (R12).
const DIGEST_BUGS: &[store::Bug] = &[
    store::Bug::OwnLimit,
    store::Bug::DigestKeptAtSplit,
    store::Bug::DigestNotSaved,
    store::Bug::DigestCountsNoops,
];

/// Seeds within which a planted bug must be caught (RELIABILITY §3).
const SEEDS_MAX: u64 = 300;

/// REGIONS §11, by number: 1 to 8, 10 to 19, 21 and 23 to 25, and what RELIABILITY §3 names besides. The simulator cannot see 9, the
/// gate: see [`store::Bug::NoGate`].
#[test]
fn planted_bugs_of_merging_are_caught() {
    for bug in store::Bug::ALL {
        if bug == store::Bug::NoGate {
            continue;
        }
        let Worlds { faults, without } = worlds_of(bug);
        let report = run_batch(0..SEEDS_MAX, 2, None, |seed| Plan {
            store_bug: Some(bug),
            without: [without, TROUBLES, without_apart(bug)].concat(),
            ..of_moments(seed, 20_000, faults)
        });
        let failure = report
            .failure
            .unwrap_or_else(|| panic!("{bug:?} goes unnoticed"));
        println!("{bug:?}: seed {}: {}", failure.plan.seed, failure.violation);
        if bug == store::Bug::SplitWithoutEpoch {
            assert_eq!(failure.violation.rule, Rule::Epoch);
        }
        if DIGEST_BUGS.contains(&bug) {
            let Violation { rule, text } = &failure.violation;
            assert_eq!(*rule, Rule::Determinism);
            assert!(text.contains("digest"), "{text}");
        }
        // What clients see is all that may show it.
        if bug == store::Bug::ReadOverFreeze {
            assert_eq!(failure.violation.rule, Rule::Linearizable);
        }
    }
}

/// R12: the leaders notice by themselves, where the simulator does not compare.
#[test]
fn leaders_notice_what_differs() {
    for bug in [store::Bug::OwnLimit, store::Bug::DigestNotSaved] {
        let report = run_batch(0..SEEDS_MAX, 2, None, |seed| Plan {
            store_bug: Some(bug),
            stores_compare: true,
            ..of_moments(seed, 20_000, MOMENTS)
        });
        let failure = report
            .failure
            .unwrap_or_else(|| panic!("{bug:?} goes unnoticed"));
        println!("{bug:?}: seed {}: {}", failure.plan.seed, failure.violation);
        let Violation { rule, text } = &failure.violation;
        assert_eq!(*rule, Rule::Determinism);
        assert!(text.contains("tells that digests differ"), "{text}");
    }
}

/// R12: what no peer did otherwise and no read shows is found by what is stored, where the simulator does not compare.
#[test]
fn leaders_notice_what_is_stored_otherwise() {
    for bug in [store::Bug::StoresOther, store::Bug::SumOfLater] {
        let report = run_batch(0..SEEDS_MAX, 2, None, |seed| Plan {
            store_bug: Some(bug),
            stores_compare: true,
            ..of_moments(seed, 20_000, VERIFYING)
        });
        let failure = report
            .failure
            .unwrap_or_else(|| panic!("{bug:?} goes unnoticed"));
        println!("{bug:?}: seed {}: {}", failure.plan.seed, failure.violation);
        let Violation { rule, text } = &failure.violation;
        assert_eq!(*rule, Rule::Determinism);
        assert!(text.contains("Stored"), "{text}");
    }
}

/// Faults that did not exist when these seeds were found.
const LATER: &[Fault] = &[
    Fault::Exile,
    Fault::Untimely,
    Fault::SlowReplay,
    Fault::Focus,
    Fault::Newborn,
    Fault::LostStore,
    Fault::Deletes,
    Fault::Appends,
    Fault::Verify,
];

/// Those that came after the seeds of worlds with moments.
const LATEST: &[Fault] = &[
    Fault::Newborn,
    Fault::LostStore,
    Fault::Deletes,
    Fault::Appends,
    Fault::Verify,
];

/// Seeds that found something, with what it was.
const FOUND: &[(u64, &str)] = &[
    (
        117,
        "replicas that only writes kept apart were taken for not healed",
    ),
    (130, "proposals of a re-elected leader out of order"),
];

#[test]
fn seeds_that_found_something_pass() {
    for (seed, what) in FOUND {
        let plan = Plan {
            without: [LATER, TROUBLES, &[Fault::Merge]].concat(),
            ..Plan::of_cluster(*seed, 50_000)
        };
        passes(&plan, what);
    }
}

/// The same, of worlds that merge, after 20 000 events, with the faults that stay away.
const FOUND_MERGING: &[(u64, &[Fault], &str)] = &[
    (3, &[], "a record was remembered for ever"),
    (
        139,
        &[Fault::LostFiles],
        "a source lived on where the target's peer never had data",
    ),
    (384, &[Fault::LostFiles], "a member never got its data"),
];

/// The same, of worlds that lose the files of snapshots.
const FOUND_LOSING: &[(u64, &str)] = &[(
    6126,
    "a member that had acknowledged entries lost the snapshot over them, and got no other",
)];

#[test]
fn seeds_that_found_something_where_files_are_lost_pass() {
    for (seed, what) in FOUND_LOSING {
        let faults = [Fault::Merge, Fault::Split, Fault::LostFiles];
        let plan = Plan {
            without: [LATEST, TROUBLES].concat(),
            ..of_moments(*seed, 20_000, &faults)
        };
        passes(&plan, what);
    }
}

#[test]
fn seeds_that_found_something_in_merges_pass() {
    for (seed, without, what) in FOUND_MERGING {
        let plan = Plan {
            without: [LATER, TROUBLES, *without].concat(),
            ..of_merges(*seed, 20_000)
        };
        passes(&plan, what);
    }
}

/// The same, of worlds with these faults besides.
const FOUND_AT_MOMENTS: &[(u64, &[Fault], &str)] = &[
    (
        26,
        &[Fault::SlowSnapshot],
        "a peer without data forgot whom to ask",
    ),
    (
        3237,
        &[Fault::LostFiles],
        "a dead peer claimed what another owned, and the store did not open",
    ),
    (
        3360,
        &[Fault::LostFiles],
        "a peer without data forgot whom to ask",
    ),
];

#[test]
fn seeds_that_found_something_at_moments_pass() {
    for (seed, faults, what) in FOUND_AT_MOMENTS {
        let faults = [MOMENTS, *faults].concat();
        let plan = Plan {
            without: [LATEST, TROUBLES].concat(),
            ..of_moments(*seed, 20_000, &faults)
        };
        passes(&plan, what);
    }
}

/// The same, of worlds in which stores hear late of what was applied.
const FOUND_UNHEARD: &[(u64, &str)] = &[(
    197,
    "a peer that died without data was born again by a split applied before, its votes forgotten",
)];

#[test]
fn seeds_that_found_something_where_stores_hear_late_pass() {
    for (seed, what) in FOUND_UNHEARD {
        let faults = [
            Fault::Merge,
            Fault::Split,
            Fault::Membership,
            Fault::SlowReplay,
            Fault::SlowApply,
            Fault::Focus,
        ];
        let plan = Plan {
            without: [LATEST, TROUBLES, &[Fault::Exile, Fault::Untimely]].concat(),
            ..of_moments(*seed, 20_000, &faults)
        };
        passes(&plan, what);
    }
}

/// Clients notice what the checkers of one group would: reads served too early are not linearizable.
#[test]
fn histories_show_a_planted_bug() {
    let report = run_batch(0..60, 2, None, |seed| Plan {
        bug: Some(Bug::ReadBeforeOwnCommit),
        ..Plan::of_cluster(seed, 30_000)
    });
    let failure = report.failure.expect("some seed shows it");
    assert_eq!(
        failure.violation.rule,
        Rule::Linearizable,
        "{}",
        failure.violation
    );
}
