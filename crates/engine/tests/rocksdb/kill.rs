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

/// What an install does (REGIONS §7), stopped after its sync: taking the files in flushes the clearing below them, and the
/// log brings back the state that was written after them, without a flush of its own.
#[test]
fn an_install_ends_with_a_sync() {
    let directory = directory();
    let engine = open(directory.path());
    for number in 0..10 {
        put(&engine, Family::State, number, Logging::On);
    }
    let view = engine.view();
    let staged = engine.stage_range(&view, Family::State, b"", b"z", u64::MAX, "all");
    staged.expect("the disk works");
    drop(view);
    engine.flush(Family::State).expect("the disk works");
    for number in 5..15 {
        put(&engine, Family::State, number, Logging::On);
    }
    engine
        .clear_range(Family::State, b"", b"z", Logging::On)
        .expect("the disk works");
    engine
        .ingest(Family::State, &["all".into()])
        .expect("the file is sound");
    put(&engine, Family::State, 20, Logging::On);
    engine.sync().expect("the disk works");
    assert_eq!(
        engine
            .get_flushed(Family::State, &key(20))
            .expect("readable"),
        None,
        "the log alone has it"
    );
    let stopped = image(&engine);
    let copy = open(stopped.path());
    assert_holds(&copy, Family::State, (0..10).chain([20]));
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

/// Set in the child that runs into a limit of the operating system.
const LIMITED: &str = "PONTOON_ENGINE_TEST_LIMITED";

/// The child of the test below; does nothing when it is run as a test.
#[test]
fn limited_child() {
    let Some(directory) = std::env::var_os(LIMITED) else {
        return;
    };
    let engine = open(Path::new(&directory));
    let write = |number| {
        let changes = vec![Change::Put(key(number), vec![b'x'; 10_000].into())];
        engine.write(
            Batch {
                family: Family::Log,
                changes,
            },
            Logging::On,
        )
    };
    let failed = (0..1000)
        .find(|number| write(*number).is_err())
        .expect("the limit is below this");
    assert!(failed > 5);
    assert!(matches!(
        write(failed),
        Err(Error::Io {
            operation: "write",
            ..
        })
    ));
    assert!(matches!(
        engine.sync(),
        Err(Error::Io {
            operation: "sync",
            ..
        })
    ));
    assert!(matches!(
        engine.flush(Family::Log),
        Err(Error::Io {
            operation: "flush",
            ..
        })
    ));
    assert_eq!(
        content(&engine, Family::Log).expect("reads go on").len() as u64,
        failed
    );
    println!("refused after {failed}");
    // A process that stops for good does not close the engine.
    std::process::exit(0);
}

/// R14, F11: after a write that failed the engine writes, syncs and flushes nothing more; what was written before stays.
#[test]
fn failed_write_is_final() {
    let directory = directory();
    drop(open(directory.path()));
    let output = Command::new("sh")
        // Files of at most 300 KiB; a write beyond is an error and not a signal.
        .args([
            "-c",
            "trap '' XFSZ; ulimit -f 600; exec \"$0\" --exact kill::limited_child --nocapture",
        ])
        .arg(std::env::current_exe().expect("the test runs"))
        .env(LIMITED, directory.path())
        .output()
        .expect("the test can run itself");
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{errors}");
    let refused = text
        .split("refused after ")
        .nth(1)
        .and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    let failed: u64 =
        refused.unwrap_or_else(|| panic!("the child reports where it failed: {text}"));
    let engine = open(directory.path());
    let found = content(&engine, Family::Log).expect("sound").len() as u64;
    assert!(found >= failed, "{found} batches, {failed} were written");
}
