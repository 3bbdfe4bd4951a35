//! R7, F3: what a power loss leaves, on a disk that forgets what was not synced (`FaultDisk`).

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use bytes::Bytes;
use engine::{
    Batch, Change, DiskCount, Engine, Error, Family, FaultDisk, Logging, RocksEngine, Survivors,
};
use tempfile::TempDir;

use crate::support::*;

/// An engine on a disk that can lose power.
pub struct Machine {
    pub engine: RocksEngine,
    pub disk: FaultDisk,
    pub directory: TempDir,
}

impl Machine {
    pub fn new() -> Machine {
        Machine::start(directory()).expect("an empty directory")
    }

    pub fn start(directory: TempDir) -> Result<Machine, Error> {
        let disk = FaultDisk::open(directory.path()).expect("the disk works");
        let engine = RocksEngine::open_on(directory.path(), &options(), &disk)?;
        Ok(Machine {
            engine,
            disk,
            directory,
        })
    }

    /// Loses power and starts again.
    pub fn lose_power(self, survivors: Survivors) -> Machine {
        self.disk.lose_power(survivors).expect("the disk works");
        Machine::start(self.end()).expect("a power loss is no damage")
    }

    /// Closes the engine.
    pub fn end(self) -> TempDir {
        let Machine {
            engine,
            disk,
            directory,
        } = self;
        drop(engine);
        drop(disk);
        directory
    }

    fn put(&self, family: Family, number: u64, logging: Logging) {
        put(&self.engine, family, number, logging);
    }

    fn holds(&self, family: Family, numbers: impl IntoIterator<Item = u64>) {
        assert_holds(&self.engine, family, numbers.into_iter());
    }
}

/// Set in the child to the directory it writes to.
const CHILD: &str = "PONTOON_ENGINE_TEST_POWER_CHILD";
/// Set in the child that writes on the real disk.
const REAL: &str = "PONTOON_ENGINE_TEST_REAL_DISK";
const SYNCED: u64 = 10;
const WRITTEN: u64 = 25;

/// The child of the test below; does nothing when it is run as a test.
#[test]
fn child() {
    let Some(directory) = std::env::var_os(CHILD) else {
        return;
    };
    let path = Path::new(&directory);
    let engine = if std::env::var_os(REAL).is_some() {
        open(path)
    } else {
        let disk = FaultDisk::open(path).expect("the disk works");
        RocksEngine::open_on(path, &options(), &disk).expect("the directory is sound")
    };
    for number in 0..SYNCED {
        put(&engine, Family::Log, number, Logging::On);
    }
    engine.sync().expect("the disk works");
    for number in SYNCED..WRITTEN {
        put(&engine, Family::Log, number, Logging::On);
    }
    writeln!(std::io::stdout(), "written").expect("the parent listens");
    // Until it is killed.
    std::io::stdin().read_line(&mut String::new()).ok();
    unreachable!("the parent kills it first");
}

/// Runs the child until it has written everything, and kills it.
fn run_child(directory: &Path, real: bool) {
    let mut command = Command::new(std::env::current_exe().expect("the test runs"));
    command
        .args(["--exact", "power::child", "--nocapture"])
        .env(CHILD, directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    if real {
        command.env(REAL, "1");
    }
    let mut child = command.spawn().expect("the test can run itself");
    let output = BufReader::new(child.stdout.take().expect("it was piped"));
    let mut lines = output.lines().map(|line| line.expect("it writes text"));
    assert!(lines.any(|line| line.contains("written")), "it ended early");
    child.kill().expect("it runs");
    child.wait().expect("it was started");
}

#[test]
fn a_killed_process_loses_exactly_what_was_not_synced() {
    for (real, left) in [(false, SYNCED), (true, WRITTEN)] {
        let directory = directory();
        run_child(directory.path(), real);
        let machine = Machine::start(directory).expect("a power loss is no damage");
        machine.holds(Family::Log, 0..left);
    }
}

/// What `sync` returned for stays, of both families; what was written after it is gone.
#[test]
fn a_sync_is_what_survives() {
    let machine = Machine::new();
    machine.put(Family::Log, 1, Logging::On);
    machine.put(Family::State, 1, Logging::On);
    machine.put(Family::State, 2, Logging::Off);
    machine.engine.sync().expect("the disk works");
    machine.put(Family::Log, 3, Logging::On);
    machine.put(Family::State, 3, Logging::On);
    let machine = machine.lose_power(Survivors::Nothing);
    machine.holds(Family::Log, [1]);
    machine.holds(Family::State, [1]);
    // What was replayed is in files: the next loss finds it as well.
    let machine = machine.lose_power(Survivors::Nothing);
    machine.holds(Family::Log, [1]);
}

/// The same, of a process that only ends: the disk itself loses nothing.
#[test]
fn everything_written_survives_where_the_disk_keeps_it() {
    let machine = Machine::new();
    machine.put(Family::Log, 1, Logging::On);
    machine.put(Family::State, 2, Logging::Off);
    let machine = machine.lose_power(Survivors::Everything);
    machine.holds(Family::Log, [1]);
    machine.holds(Family::State, []);
}

/// The flush of one family is durable when it returns, without a sync of its own, and takes along what was logged before it.
#[test]
fn a_flush_is_durable_and_syncs_the_log() {
    for flushed in [Family::Log, Family::State] {
        let machine = Machine::new();
        machine.put(Family::Log, 1, Logging::On);
        machine.put(Family::State, 1, Logging::On);
        machine.put(flushed, 2, Logging::Off);
        machine.engine.flush(flushed).expect("the disk works");
        machine.put(Family::Log, 3, Logging::On);
        let machine = machine.lose_power(Survivors::Nothing);
        for family in [Family::Log, Family::State] {
            let unlogged = (family == flushed).then_some(2);
            machine.holds(family, [1].into_iter().chain(unlogged));
        }
    }
}

/// A flush of a family that has nothing to write does nothing, not even a sync.
#[test]
fn a_flush_of_nothing_syncs_nothing() {
    let machine = Machine::new();
    machine.put(Family::Log, 1, Logging::On);
    machine.engine.flush(Family::State).expect("the disk works");
    let machine = machine.lose_power(Survivors::Nothing);
    machine.holds(Family::Log, []);
}

/// Opening an empty directory leaves an engine, and whatever opening did is durable when it returns: names of files, too.
#[test]
fn opening_is_durable() {
    let mut machine = Machine::new();
    for round in 0..4 {
        machine = machine.lose_power(Survivors::Nothing);
        machine.put(Family::Log, round, Logging::On);
        machine.engine.sync().expect("the disk works");
    }
    machine
        .lose_power(Survivors::Nothing)
        .holds(Family::Log, 0..4);
}

/// Files that were taken in stay, with no sync after it, and the file they came from as well; so a repeat finds it.
#[test]
fn ingesting_is_durable() {
    let machine = Machine::new();
    for number in 0..10 {
        machine.put(Family::State, number, Logging::On);
    }
    let view = machine.engine.view();
    let staged = machine
        .engine
        .stage_range(&view, Family::State, b"", b"z", u64::MAX, "all");
    let file = staged.expect("the disk works").0.expect("it has keys");
    drop(view);
    machine
        .engine
        .ingest(Family::Log, &["all".into()])
        .expect("the file is sound");
    let machine = machine.lose_power(Survivors::Nothing);
    machine.holds(Family::State, []);
    machine.holds(Family::Log, 0..10);
    let found = machine.engine.stage_finish("all");
    assert_eq!(found.expect("it was finished before"), file);
}

/// What an install does (REGIONS §7), up to its sync: the clearing, the files above it and the state after them.
#[test]
fn an_install_ends_with_a_sync() {
    let machine = Machine::new();
    for number in 0..10 {
        machine.put(Family::State, number, Logging::On);
    }
    let view = machine.engine.view();
    let engine = &machine.engine;
    let staged = engine.stage_range(&view, Family::State, b"", b"z", u64::MAX, "all");
    staged.expect("the disk works");
    drop(view);
    for number in 5..15 {
        machine.put(Family::State, number, Logging::On);
    }
    engine
        .clear_range(Family::State, b"", b"z", Logging::On)
        .expect("the disk works");
    engine
        .ingest(Family::State, &["all".into()])
        .expect("the file is sound");
    machine.put(Family::State, 20, Logging::On);
    engine.sync().expect("the disk works");
    let machine = machine.lose_power(Survivors::Nothing);
    machine.holds(Family::State, (0..10).chain([20]));
}

/// Dropping whole files is for good at once, range delete or not: the list of files is synced by RocksDB itself. So what is
/// left of a cleared range is unspecified, but nothing beside it is touched, and it opens.
#[test]
fn clearing_touches_nothing_else() {
    let machine = Machine::new();
    for number in 0..300 {
        machine.put(Family::State, number, Logging::On);
        if number % 100 == 99 {
            machine.engine.flush(Family::State).expect("the disk works");
        }
    }
    machine
        .engine
        .clear_range(Family::State, &key(100), &key(200), Logging::On)
        .expect("the disk works");
    let machine = machine.lose_power(Survivors::Nothing);
    let mut found = content(&machine.engine, Family::State).expect("sound");
    found.retain(|(found, _)| *found < key(100) || key(200) <= *found);
    let expected = (0..100).chain(200..300);
    let expected: Vec<(Bytes, Bytes)> = expected.map(|at| (key(at), value(at))).collect();
    assert_eq!(found, expected);
}

/// RocksDB syncs the directory when it must: after a flush, no new file is missing from it; files that are of no use any more
/// may come back, and are deleted again.
#[test]
fn directories_are_synced() {
    let machine = Machine::new();
    let before = machine.disk.count(DiskCount::DirectorySyncs);
    for number in 0..10 {
        machine.put(Family::State, number, Logging::On);
        machine.put(Family::Log, number, Logging::On);
        for family in [Family::State, Family::Log] {
            machine.engine.flush(family).expect("the disk works");
        }
    }
    let synced = machine.disk.count(DiskCount::DirectorySyncs) - before;
    assert!(synced >= 20, "{synced} syncs of directories");
    let machine = machine.lose_power(Survivors::Nothing);
    machine.holds(Family::State, 0..10);
    machine.holds(Family::Log, 0..10);
    let leftover = files(machine.directory.path(), "log").len();
    assert!(leftover <= 2, "{leftover} log files after opening");
}

/// R15 on a disk that tears: of what was not synced a beginning survives, of both families the same, and it goes on from there.
#[test]
fn torn_ends_are_cut() {
    let mut machine = Machine::new();
    let (mut synced, mut torn) = (0, 0);
    for seed in 0..cases(40) {
        let written = synced + 8;
        for number in synced..written {
            machine.put(Family::Log, number, Logging::On);
            machine.put(Family::State, number, Logging::On);
            if number == synced + 3 {
                machine.engine.sync().expect("the disk works");
            }
        }
        machine = machine.lose_power(Survivors::Drawn(seed));
        let kept = content(&machine.engine, Family::Log).expect("sound").len() as u64;
        assert!(
            (synced + 4..=written).contains(&kept),
            "{kept} of {written}"
        );
        machine.holds(Family::Log, 0..kept);
        let applied = content(&machine.engine, Family::State)
            .expect("sound")
            .len() as u64;
        machine.holds(Family::State, 0..applied);
        assert!(applied == kept || applied + 1 == kept, "{applied}, {kept}");
        if applied < kept {
            machine.put(Family::State, applied, Logging::On);
        }
        torn += u64::from(kept < written);
        synced = kept;
    }
    assert!(torn > 0, "nothing was lost");
}

/// The sync mark of R15 survives as well: a batch after the loss is numbered on, and rot below is still told from a tail.
#[test]
fn numbers_go_on_after_a_loss() {
    let machine = Machine::new();
    machine.put(Family::Log, 0, Logging::On);
    machine.engine.sync().expect("the disk works");
    machine.put(Family::Log, 1, Logging::On);
    let machine = machine.lose_power(Survivors::Nothing);
    let batch = |number| Batch {
        family: Family::Log,
        changes: vec![Change::Put(key(number), value(number))],
    };
    for number in 1..5 {
        let written = machine.engine.write(batch(number), Logging::On);
        written.expect("the disk works");
        machine.engine.sync().expect("the disk works");
    }
    let machine = machine.lose_power(Survivors::Nothing);
    machine.holds(Family::Log, 0..5);
}
