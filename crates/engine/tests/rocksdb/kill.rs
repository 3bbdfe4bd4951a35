//! Processes killed with SIGKILL at random points, and images of the files as a killed process leaves them.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use bytes::Bytes;
use engine::{Batch, Change, Engine, Error, Family, Logging};

use crate::support::*;

/// Set in the child to the directory it writes to.
const CHILD: &str = "PONTOON_ENGINE_TEST_CHILD";
const APPLIED: &[u8] = b"applied";

/// The child of the tests below; does nothing when it is run as a test.
#[test]
fn child() {
    if let Some(directory) = std::env::var_os(CHILD) {
        write_until_killed(Path::new(&directory));
    }
}

/// Writes entry after entry to `log`, and applies each to `state` without logging, with its index; flushes and syncs now
/// and then. Reports what it has done on its standard output, after it has done it.
fn write_until_killed(directory: &Path) {
    let engine = open(directory);
    let first = content(&engine, Family::Log).expect("sound").len() as u64;
    let mut output = std::io::stdout();
    for number in first.. {
        put(&engine, Family::Log, number, Logging::On);
        let index = Change::Put(
            APPLIED.into(),
            Bytes::copy_from_slice(&number.to_be_bytes()),
        );
        let changes = vec![Change::Put(key(number), value(number)), index];
        engine
            .write(
                Batch {
                    family: Family::State,
                    changes,
                },
                Logging::Off,
            )
            .expect("the disk works");
        writeln!(output, "logged {number}").expect("the parent listens");
        if number % 13 == 0 {
            engine.sync().expect("the disk works");
        }
        if number % 37 == 0 {
            engine.flush(Family::State).expect("the disk works");
            writeln!(output, "flushed {number}").expect("the parent listens");
        }
        if number % 101 == 0 {
            engine.flush(Family::Log).expect("the disk works");
        }
    }
}

/// Runs a child until it has reported `lines` lines, and kills it. Returns the last numbers logged and flushed.
fn run_child(directory: &Path, lines: u64) -> (Option<u64>, Option<u64>) {
    let mut child = Command::new(std::env::current_exe().expect("the test runs"))
        .args(["--exact", "kill::child", "--nocapture"])
        .env(CHILD, directory)
        .stdout(Stdio::piped())
        .spawn()
        .expect("the test can run itself");
    let output = child.stdout.take().expect("it was piped");
    let (mut logged, mut flushed) = (None, None);
    let mut seen = 0;
    for line in BufReader::new(output).lines() {
        let line = line.expect("the child writes text");
        // The test harness of the child prints, too, and may do so on the same line.
        let number = |what: &str| {
            line.split(what)
                .nth(1)
                .and_then(|number| number.parse::<u64>().ok())
        };
        if let Some(number) = number("logged ") {
            logged = Some(number);
        } else if let Some(number) = number("flushed ") {
            flushed = Some(number);
        } else {
            continue;
        }
        seen += 1;
        if seen == lines {
            // What it writes until the signal arrives is read as well.
            child.kill().expect("it runs");
        }
    }
    let status = child.wait().expect("it was started");
    assert!(!status.success(), "it ends by the signal only");
    (logged, flushed)
}

/// STORAGE §3, the column "kill -9, WAL off": `log` keeps everything written, `state` falls back to a flush.
#[test]
fn killed_process_keeps_logged_writes_and_a_cut_of_the_others() {
    let directory = directory();
    let mut random = Random(42);
    for round in 0..12 {
        let (logged, flushed) = run_child(directory.path(), 1 + random.below(400));
        let engine = open(directory.path());
        let log = content(&engine, Family::Log).expect("sound");
        if let Some(logged) = logged {
            assert!(
                log.len() as u64 > logged,
                "round {round}: {} entries, reported up to {logged}",
                log.len()
            );
        }
        assert_holds(&engine, Family::Log, 0..log.len() as u64);

        let mut state = content(&engine, Family::State).expect("sound");
        let applied = state
            .iter()
            .position(|(key, _)| key == APPLIED)
            .map(|at| state.remove(at).1);
        let applied =
            applied.map(|index| u64::from_be_bytes(index[..].try_into().expect("eight bytes")));
        let expected: Vec<_> = (0..applied.map_or(0, |index| index + 1))
            .map(|number| (key(number), value(number)))
            .collect();
        assert_eq!(
            state, expected,
            "round {round}: data and applied index are of one moment"
        );
        assert!(
            applied >= flushed,
            "round {round}: applied {applied:?}, flushed {flushed:?}"
        );

        // Apply what fell back, as a store does, and close in an orderly way.
        for number in applied.map_or(0, |index| index + 1)..log.len() as u64 {
            let index = Change::Put(
                APPLIED.into(),
                Bytes::copy_from_slice(&number.to_be_bytes()),
            );
            let changes = vec![Change::Put(key(number), value(number)), index];
            engine
                .write(
                    Batch {
                        family: Family::State,
                        changes,
                    },
                    Logging::Off,
                )
                .expect("the disk works");
        }
    }
}

/// Another process is told apart from damage.
#[test]
fn directory_in_use_by_another_process_is_refused() {
    let directory = directory();
    let mut child = Command::new(std::env::current_exe().expect("the test runs"))
        .args(["--exact", "kill::child", "--nocapture"])
        .env(CHILD, directory.path())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the test can run itself");
    let mut output = BufReader::new(child.stdout.take().expect("it was piped"));
    let mut line = String::new();
    while !line.contains("logged") {
        line.clear();
        assert!(
            output.read_line(&mut line).expect("the child writes text") > 0,
            "the child ended early"
        );
    }
    let refused = try_open(directory.path());
    child.kill().expect("it runs");
    child.wait().expect("it was started");
    assert!(matches!(refused, Err(Error::InUse { .. })));
    open(directory.path());
}

/// Each family falls back to its own last flush.
#[test]
fn unlogged_families_fall_back_independently() {
    let directory = directory();
    let engine = open(directory.path());
    for family in [Family::Log, Family::State] {
        put(&engine, family, 1, Logging::Off);
    }
    engine.flush(Family::Log).expect("the disk works");
    for family in [Family::Log, Family::State] {
        put(&engine, family, 2, Logging::Off);
    }
    engine.sync().expect("the disk works");
    let stopped = image(&engine);
    let copy = open(stopped.path());
    assert_holds(&copy, Family::Log, [1].into_iter());
    assert_holds(&copy, Family::State, 0..0);
}

/// Logged changes are replayed above a flushed state that has lost unlogged ones in between.
#[test]
fn logged_changes_are_replayed_without_the_unlogged_between() {
    let directory = directory();
    let engine = open(directory.path());
    put(&engine, Family::State, 1, Logging::On);
    put(&engine, Family::State, 2, Logging::Off);
    put(&engine, Family::State, 3, Logging::On);
    let stopped = image(&engine);
    let copy = open(stopped.path());
    assert_holds(&copy, Family::State, [1, 3].into_iter());
}

/// What opening replayed is in files when it returns: a second stop finds the same.
#[test]
fn opening_makes_what_it_replayed_durable() {
    let directory = directory();
    let engine = open(directory.path());
    put(&engine, Family::Log, 1, Logging::On);
    let second = image(&engine);
    let copy = open(second.path());
    assert_eq!(
        copy.get_flushed(Family::Log, &key(1)).expect("sound"),
        Some(value(1))
    );
    let third = image(&copy);
    let third = open(third.path());
    assert_holds(&third, Family::Log, [1].into_iter());
}
