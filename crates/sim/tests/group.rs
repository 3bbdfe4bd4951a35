//! The gate of one group: many seeds, equal traces, and every planted bug caught.

mod common;

use std::process::Command;
use std::time::Duration;

use raft::Bug;
use sim::batch::run_batch;
use sim::counters::Happening;
use sim::group::settings::{Fault, Plan};
use sim::rule::Rule;
use sim::run::replay_command;

use self::common::{check, from_environment, passes};

/// RELIABILITY §3, level 3: `SIM_SEEDS` seeds of `SIM_EVENTS` events, or as many as `SIM_SECONDS` allow.
#[test]
fn seeds_hold_every_rule() {
    let seeds = from_environment("SIM_SEEDS", 40_000);
    let events = from_environment("SIM_EVENTS", 10_000);
    let seconds = from_environment("SIM_SECONDS", 150);
    let report = run_batch(0..seeds, 2, Some(Duration::from_secs(seconds)), |seed| {
        Plan::new(seed, events)
    });
    // Who asks for a handful of seeds learns nothing from what never happened; who asked for many and got a handful does.
    check(&report, seeds >= 500, Happening::names());
}

/// A plan that found something, and what it was.
struct Found {
    seed: u64,
    faults: &'static [Fault],
    without: &'static [Fault],
    what: &'static str,
}

const FOUND: &[Found] = &[
    Found {
        seed: 20_268,
        faults: &[],
        without: &[],
        what: "an acknowledgement of entries that were cut before their write was made",
    },
    Found {
        seed: 199,
        faults: &[Fault::Lease, Fault::Orders, Fault::OneWay],
        without: &[
            Fault::Membership,
            Fault::Limits,
            Fault::SlowDisk,
            Fault::SlowApply,
            Fault::Crash,
            Fault::PowerLoss,
            Fault::Loss,
            Fault::Transfer,
            Fault::Readd,
            Fault::Pause,
            Fault::Clocks,
            Fault::Split,
        ],
        what: "a campaign on order, of a peer whose answer a lease stood on",
    },
];

#[test]
fn plans_that_found_something_pass() {
    for found in FOUND {
        let plan = Plan {
            faults: found.faults.to_vec(),
            without: found.without.to_vec(),
            ..Plan::new(found.seed, 10_000)
        };
        passes(&plan, found.what);
    }
}

/// The same seed gives the same trace, in two processes.
#[test]
fn equal_seeds_give_equal_traces() {
    assert_equal_traces(&["--group", "--events", "10000"]);
    assert_equal_traces(&["--events", "20000"]);
}

/// So many seeds, run twice each (RELIABILITY §3).
const RUN_TWICE: u64 = 20;

fn assert_equal_traces(world: &[&str]) {
    let digest = |seed: u64| {
        let output = Command::new(env!("CARGO_BIN_EXE_sim"))
            .args(["--digest", "--seed", &seed.to_string()])
            .args(world)
            .output()
            .expect("the binary of this crate runs");
        assert!(
            output.status.success(),
            "seed {seed}: {}",
            String::from_utf8_lossy(&output.stdout)
        );
        output.stdout
    };
    let mut digests = Vec::new();
    for seed in 0..RUN_TWICE {
        let (first, second) = (digest(seed), digest(seed));
        assert_eq!(first, second, "seed {seed}");
        digests.push(first);
    }
    digests.sort();
    digests.dedup();
    assert_eq!(
        digests.len() as u64,
        RUN_TWICE,
        "different seeds give different traces"
    );
}

/// A bug, the faults that its worlds have besides what the seed says, and the checkers that may catch it.
struct Planted {
    bug: Bug,
    faults: &'static [Fault],
    caught_by: &'static [Rule],
}

const PLANTED: &[Planted] = &[
    Planted {
        bug: Bug::OlderTermCommit,
        faults: &[],
        caught_by: &[Rule::Commit],
    },
    Planted {
        bug: Bug::VoteBeforeSync,
        faults: &[],
        caught_by: &[Rule::Durable],
    },
    Planted {
        bug: Bug::AckBeforeSync,
        faults: &[],
        caught_by: &[Rule::Durable],
    },
    Planted {
        bug: Bug::TruncateWithoutConflict,
        faults: &[],
        caught_by: &[
            Rule::Commit,
            Rule::AppendOnly,
            Rule::Durable,
            Rule::Completeness,
        ],
    },
    Planted {
        bug: Bug::CommitPastMatch,
        faults: &[],
        caught_by: &[Rule::StateMachine],
    },
    Planted {
        bug: Bug::UnionQuorum,
        faults: &[Fault::Membership],
        caught_by: &[Rule::Calm, Rule::Commit, Rule::Election],
    },
    Planted {
        bug: Bug::ChangeBeforeApplied,
        faults: &[Fault::Membership],
        caught_by: &[Rule::Membership],
    },
    Planted {
        bug: Bug::LearnerCounted,
        faults: &[Fault::Membership],
        caught_by: &[Rule::Commit, Rule::Election, Rule::Calm, Rule::Healing],
    },
    Planted {
        bug: Bug::VoteKept,
        faults: &[],
        caught_by: &[Rule::Election],
    },
    Planted {
        bug: Bug::StaleCompletion,
        faults: &[Fault::SlowDisk],
        caught_by: &[Rule::Durable],
    },
    Planted {
        bug: Bug::OwnUnsyncedCounted,
        faults: &[Fault::SlowDisk],
        caught_by: &[Rule::Commit],
    },
    Planted {
        bug: Bug::ReadBeforeOwnCommit,
        faults: &[],
        caught_by: &[Rule::ReadIndex],
    },
    Planted {
        bug: Bug::ReadJoinsRound,
        faults: &[],
        caught_by: &[Rule::ReadIndex],
    },
    Planted {
        bug: Bug::LeaseFromAck,
        faults: &[Fault::Lease, Fault::Lag, Fault::Batch],
        caught_by: &[Rule::ReadIndex],
    },
    Planted {
        bug: Bug::LeaseKeptOverTransfer,
        faults: &[Fault::Lease, Fault::Transfer],
        caught_by: &[Rule::ReadIndex],
    },
    Planted {
        bug: Bug::SnapshotMovesBack,
        faults: &[Fault::Compact],
        caught_by: &[Rule::Snapshot],
    },
    Planted {
        bug: Bug::DoubleApply,
        faults: &[],
        caught_by: &[Rule::StateMachine],
    },
    Planted {
        bug: Bug::OldPeerAccepted,
        faults: &[
            Fault::Membership,
            Fault::Readd,
            Fault::Replay,
            Fault::Duplicate,
        ],
        caught_by: &[Rule::Healing, Rule::Commit],
    },
    Planted {
        bug: Bug::JointNotLeft,
        faults: &[Fault::Membership],
        caught_by: &[Rule::Healing],
    },
    Planted {
        bug: Bug::ApplyBeforeDurableCommit,
        faults: &[],
        caught_by: &[Rule::CommitFirst],
    },
    Planted {
        bug: Bug::NoPreVote,
        faults: &[],
        caught_by: &[Rule::Calm],
    },
    Planted {
        bug: Bug::NoQuorumCheck,
        faults: &[],
        caught_by: &[Rule::Calm],
    },
    Planted {
        bug: Bug::OlderLogVoted,
        faults: &[],
        caught_by: &[Rule::Completeness],
    },
    Planted {
        bug: Bug::NoConsistencyCheck,
        faults: &[],
        caught_by: &[Rule::Matching],
    },
];

/// What hides a lease that is counted too long.
const DISTRACTIONS: &[Fault] = &[
    Fault::Crash,
    Fault::PowerLoss,
    Fault::Pause,
    Fault::Membership,
    Fault::SlowDisk,
    Fault::Orders,
];

/// Seeds within which a planted bug must be caught (RELIABILITY §3).
const CAUGHT_WITHIN: u64 = 300;

#[test]
fn planted_bugs_are_caught() {
    for bug in Bug::ALL {
        assert!(
            PLANTED.iter().any(|planted| planted.bug == bug),
            "{bug:?} has no entry in the table"
        );
    }
    let mut missed = Vec::new();
    for planted in PLANTED {
        let report = run_batch(0..CAUGHT_WITHIN, 2, None, |seed| Plan {
            bug: Some(planted.bug),
            faults: planted.faults.to_vec(),
            // A lease is easily outlived by other trouble: a restart, a pause, a change of members ends it.
            without: if planted.faults.contains(&Fault::Lag) {
                DISTRACTIONS.to_vec()
            } else {
                Vec::new()
            },
            ..Plan::new(seed, 10_000)
        });
        match report.failure {
            Some(failure) if planted.caught_by.contains(&failure.violation.rule) => {
                println!(
                    "{:?}: seed {} {}",
                    planted.bug, failure.plan.seed, failure.violation
                );
            }
            Some(failure) => missed.push(format!(
                "{:?} was caught by {} instead of {:?}",
                planted.bug, failure.violation, planted.caught_by
            )),
            None => missed.push(format!(
                "{:?} was not caught within {CAUGHT_WITHIN} seeds",
                planted.bug
            )),
        }
    }
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}

/// A failure says all that it takes to see it again (RELIABILITY §3).
#[test]
fn failures_tell_seed_revision_and_replay() {
    let report = run_batch(0..CAUGHT_WITHIN, 2, None, |seed| Plan {
        bug: Some(Bug::VoteBeforeSync),
        ..Plan::new(seed, 10_000)
    });
    let failure = report.failure.expect("some seed shows it");
    let text = failure.explain();
    let revision = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("revision: "))
        .unwrap_or_else(|| panic!("no revision in {text}"));
    let commit = revision.trim_end_matches('+');
    assert!(
        commit == "unknown"
            || commit.len() >= 40 && commit.bytes().all(|byte| byte.is_ascii_hexdigit()),
        "{revision}"
    );
    let seed = failure.plan.seed;
    assert!(text.starts_with(&format!("seed {seed} ")), "{text}");
    assert!(
        text.contains(&format!("replay: {}", replay_command(&failure.plan))),
        "{text}"
    );
}
