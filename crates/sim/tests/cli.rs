//! The command line: what it prints, for people and for programs, and what it refuses.

use std::process::{Command, Output};

use serde_json::Value;

fn sim(arguments: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sim"))
        .args(arguments.split_whitespace())
        .output()
        .expect("the binary of this crate runs")
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn json(output: &Output) -> Value {
    let text = stdout(output);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// A range of seeds runs clusters, and tells how many events and what happened.
#[test]
fn seeds_are_counted() {
    let output = sim("--seeds 0..3 --events 3000");
    assert!(output.status.success());
    let text = stdout(&output);
    assert!(text.starts_with("3 seeds, "), "{text}");
    assert!(text.contains(" events/s\n"), "{text}");
    assert!(text.contains("write acknowledged"), "{text}");

    let output = sim("--group --seeds 0..3 --events 3000 --output json");
    let told = json(&output);
    assert_eq!(told["seeds"], 3);
    assert!(told["events"].as_u64() >= Some(9_000), "{told}");
    assert!(told["happened"]["Election"].as_u64() > Some(0), "{told}");
    assert!(told["failure"].is_null(), "{told}");
}

/// One seed has a digest, which is the one that `--digest` prints.
#[test]
fn one_seed_has_a_digest() {
    let told = json(&sim("--seed 7 --events 3000 --output json"));
    let digest = told["digest"].as_str().expect("a digest");
    let alone = stdout(&sim("--seed 7 --events 3000 --digest"));
    assert!(alone.starts_with(digest), "{alone}, not {digest}");
    assert!(told.get("trace").is_none(), "{told}");
    let traced = json(&sim("--seed 7 --events 300 --trace --output json"));
    let lines = traced["trace"].as_array().expect("lines");
    assert!(lines.len() > 100, "{} lines", lines.len());
}

/// A failure names seed, rule, revision and how to see it again, then a smaller one.
#[test]
fn a_failure_is_told() {
    let failing = "--group --seeds 0..300 --bug VoteBeforeSync";
    let output = sim(&format!("{failing} --output json"));
    assert_eq!(output.status.code(), Some(1));
    let told = json(&output);
    let failure = &told["failure"];
    assert!(failure["seed"].is_u64(), "{told}");
    assert!(failure["revision"].is_string(), "{told}");
    let breaks = failure["breaks"].as_str().expect("a rule");
    assert!(breaks.starts_with("R7 "), "{breaks}");
    let replay = failure["replay"].as_str().expect("a command");
    assert!(replay.ends_with("--bug VoteBeforeSync"), "{replay}");
    let shrunk = &failure["shrunk"];
    assert!(shrunk["events"].as_u64() < Some(10_000), "{told}");
    assert!(shrunk["faults"].is_array(), "{told}");

    let seed = failure["seed"].as_u64().expect("a number");
    let text = stdout(&sim(&format!("{failing} --shrink-seconds 0")));
    assert!(
        text.contains(&format!("\nseed {seed} breaks R7 ")),
        "{text}"
    );
    assert!(!text.contains("shrunk"), "{text}");
}

/// A name may stand for all faults of a kind, and each world has those that mean something to it.
#[test]
fn kinds_stand_for_faults() {
    let settings = stdout(&sim(
        "--seed 1 --events 1 --trace --without disk,network,clock,process",
    ));
    let others = stdout(&sim("--seed 1 --events 1 --trace"));
    assert_ne!(settings, others);
    for scale in ["", "--group"] {
        for kind in ["disk", "network", "clock", "process"] {
            let output = sim(&format!("--seed 1 --events 500 --faults {kind} {scale}"));
            assert!(output.status.success(), "{kind} {scale}");
        }
    }
}

#[track_caller]
fn refused(arguments: &str, reason: &str) {
    let output = sim(arguments);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{arguments}: {text}");
    assert!(text.contains(reason), "{arguments}: {text}");
}

#[test]
fn what_makes_no_sense_is_refused() {
    refused("--seeds 5..5", "no seed is in it");
    refused("--seeds 5", "expected from..to");
    refused("--seeds 0..many", "\"many\"");
    refused("--faults earthquake", "no such fault; there are disk,");
    refused("--group --faults newborn", "a group has no fault newborn");
    refused("--faults lease", "a cluster has no fault lease");
    refused("--stores 0", "0 is not in 1..");
    refused("--bug Nothing", "no such bug");
    refused("--group --store-bug NoGate", "--group");
    refused("--trace", "--seed");
    refused("--seed 1 --seeds 0..2", "cannot be used with");
}
