//! A failure makes itself smaller.

use std::process::Command;
use std::time::Duration;

use raft::Bug;
use sim::batch::{Failure, run_batch};
use sim::group::settings::{Fault, Plan};
use sim::run::{replay_command, run};
use sim::shrink::{Size, shrink};

/// More than any of these takes: that it ends by itself is a part of what is tested.
const PLENTY: Duration = Duration::from_secs(600);

fn first_failure(plan: impl Fn(u64) -> Plan + Sync) -> Failure {
    let report = run_batch(0..300, 2, None, plan);
    report.failure.expect("some seed shows it")
}

fn of_group(seed: u64) -> Plan {
    Plan {
        bug: Some(Bug::VoteBeforeSync),
        ..Plan::new(seed, 10_000)
    }
}

fn of_cluster(seed: u64) -> Plan {
    Plan {
        store_bug: Some(store::Bug::FrozenApplies),
        faults: vec![Fault::Merge, Fault::Split, Fault::Focus],
        ..Plan::of_cluster(seed, 20_000)
    }
}

/// Fewer events and faults, no more stores, and the same rule broken; nothing is left that could be left out.
fn gets_smaller(failure: &Failure) {
    let shrunk = failure.shrink(PLENTY, |_, _| {}).expect("it fails again");
    println!("{}", failure.explain_shrunk(Some(&shrunk)));
    assert!(shrunk.complete);
    assert_eq!(shrunk.violation.rule, failure.violation.rule);
    let (before, after) = (Size::of(&failure.plan), Size::of(&shrunk.plan));
    assert!(after.events < before.events, "{after} of {before}");
    assert!(after.faults < before.faults, "{after} of {before}");
    assert!(after.stores <= before.stores, "{after} of {before}");

    let again = run(&shrunk.plan).violation;
    assert_eq!(again, Some(shrunk.violation.clone()));
    for fault in shrunk.plan.world_faults().iter() {
        let mut plan = shrunk.plan.clone();
        plan.without.push(fault);
        plan.faults.retain(|kept| *kept != fault);
        let rule = run(&plan).violation.map(|violation| violation.rule);
        assert_ne!(rule, Some(shrunk.violation.rule), "{fault:?} is not needed");
    }

    // Whoever copies the command sees the same.
    let command = replay_command(&shrunk.plan);
    let arguments = command
        .strip_prefix("cargo run --release -p sim -- ")
        .expect("the binary of this crate");
    let output = Command::new(env!("CARGO_BIN_EXE_sim"))
        .args(arguments.split(' '))
        .output()
        .expect("the binary of this crate runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(!output.status.success(), "{command}");
    assert!(
        text.contains(&format!("breaks {}", shrunk.violation)),
        "{command}"
    );
}

#[test]
fn a_failure_of_a_group_gets_smaller() {
    gets_smaller(&first_failure(of_group));
}

#[test]
fn a_failure_of_a_cluster_gets_smaller() {
    gets_smaller(&first_failure(of_cluster));
}

/// A bug that breaks several rules is not taken for another one of them.
#[test]
fn the_same_rule_breaks() {
    for bug in [Bug::LearnerCounted, Bug::UnionQuorum] {
        let failure = first_failure(|seed| Plan {
            bug: Some(bug),
            faults: vec![Fault::Membership],
            ..Plan::new(seed, 10_000)
        });
        gets_smaller(&failure);
    }
}

/// When time is up, the smallest so far is what is told.
#[test]
fn shrinking_ends_in_time() {
    let failure = first_failure(of_group);
    let mut left = 3_u32;
    let mut go_on = |_: u64, _: &Plan| {
        left = left.saturating_sub(1);
        left > 0
    };
    let shrunk = shrink(&failure.plan, &mut go_on).expect("it fails again");
    assert!(!shrunk.complete);
    assert_eq!(shrunk.tries, 2);
    assert_eq!(shrunk.violation.rule, failure.violation.rule);
    assert!(
        failure
            .explain_shrunk(Some(&shrunk))
            .contains("time was up")
    );
}

/// A plan that holds every rule has nothing to shrink.
#[test]
fn what_does_not_fail_is_not_shrunk() {
    let mut go_on = |_: u64, _: &Plan| true;
    assert!(shrink(&Plan::new(0, 1_000), &mut go_on).is_none());
}
