//! F10 to F12: a disk that is full, fails its syncs, or lets them hang (`FaultDisk`).

use std::thread;

use engine::{
    Batch, Change, DiskCount, DiskFault, Engine, Error, Family, Logging, RocksEngine, Survivors,
};

use crate::power::Machine;
use crate::support::*;

fn write(engine: &RocksEngine, number: u64) -> Result<(), Error> {
    let changes = vec![Change::Put(key(number), value(number))];
    let family = Family::Log;
    engine.write(Batch { family, changes }, Logging::On)
}

/// Everything that changes anything is refused, typed, whatever the disk does by now; reads go on.
fn assert_stopped(machine: &Machine, readable: u64) {
    let engine = &machine.engine;
    let refused = [
        write(engine, 1_000_000),
        engine.sync(),
        engine.flush(Family::Log),
        engine.flush(Family::State),
    ];
    for outcome in refused {
        assert!(matches!(outcome, Err(Error::Io { .. })), "{outcome:?}");
    }
    assert_holds(engine, Family::Log, 0..readable);
}

/// R14, F11: a sync that failed is never tried again. What it was for may be lost, and nothing else.
#[test]
fn a_failed_sync_is_final() {
    let machine = Machine::new();
    for number in 0..5 {
        write(&machine.engine, number).expect("the disk works");
    }
    machine.engine.sync().expect("the disk works");
    for number in 5..8 {
        write(&machine.engine, number).expect("the disk works");
    }
    machine.disk.set(DiskFault::SyncFails, true);
    let failed = machine.engine.sync();
    assert!(
        matches!(
            failed,
            Err(Error::Io {
                operation: "sync",
                ..
            })
        ),
        "{failed:?}"
    );
    let refused = machine.disk.count(DiskCount::Refused);
    machine.disk.set(DiskFault::SyncFails, false);
    let syncs = machine.disk.count(DiskCount::Syncs);
    assert_stopped(&machine, 8);
    assert_eq!(machine.disk.count(DiskCount::Syncs), syncs, "no second try");
    assert_eq!(machine.disk.count(DiskCount::Refused), refused);
    let machine = machine.lose_power(Survivors::Nothing);
    assert_holds(&machine.engine, Family::Log, 0..5);
    write(&machine.engine, 5).expect("the disk works");
    machine.engine.sync().expect("the disk works");
}

/// As above, of each operation that syncs by itself.
#[test]
fn a_failed_sync_of_a_flush_or_an_ingest_is_final() {
    type Operation = fn(&RocksEngine) -> Result<(), Error>;
    let operations: [(&str, Operation); 3] = [
        ("flush", |engine| engine.flush(Family::Log)),
        ("flush", |engine| engine.flush(Family::State)),
        ("ingest", |engine| {
            engine.ingest(Family::Log, &["file".into()])
        }),
    ];
    for (name, operation) in operations {
        let machine = Machine::new();
        for number in 0..5 {
            write(&machine.engine, number).expect("the disk works");
            put(&machine.engine, Family::State, number, Logging::Off);
        }
        let view = machine.engine.view();
        let engine = &machine.engine;
        let staged = engine.stage_range(&view, Family::Log, b"", b"z", u64::MAX, "file");
        staged.expect("the disk works");
        drop(view);
        engine.sync().expect("the disk works");
        machine.disk.set(DiskFault::SyncFails, true);
        let failed = operation(engine);
        assert!(
            matches!(failed, Err(Error::Io { operation, .. }) if operation == name),
            "{name}: {failed:?}"
        );
        machine.disk.set(DiskFault::SyncFails, false);
        assert_stopped(&machine, 5);
        let machine = machine.lose_power(Survivors::Nothing);
        assert_holds(&machine.engine, Family::Log, 0..5);
    }
}

/// A flush that RocksDB began by itself fails: nobody waits for it, and the next that writes is told.
#[test]
fn a_failed_sync_in_the_background_is_found_out() {
    let machine = Machine::new();
    write(&machine.engine, 0).expect("the disk works");
    machine.engine.sync().expect("the disk works");
    machine.disk.set(DiskFault::SyncFails, true);
    let large = |number| Batch {
        family: Family::State,
        changes: vec![Change::Put(key(number), vec![b'x'; 100_000].into())],
    };
    // 1 MiB of memory; five times that at most before RocksDB makes writers wait for a flush.
    let refused =
        (0..200).find_map(|number| machine.engine.write(large(number), Logging::Off).err());
    assert!(matches!(refused, Some(Error::Io { .. })), "{refused:?}");
    machine.disk.set(DiskFault::SyncFails, false);
    assert_stopped(&machine, 1);
    let machine = machine.lose_power(Survivors::Nothing);
    assert_holds(&machine.engine, Family::Log, 0..1);
}

/// F12: the disk fills and has space again. The engine stops, typed, at the first write that does not fit; opened again it has
/// what was synced and goes on.
#[test]
fn a_full_disk_stops_it_until_it_is_opened_with_space() {
    let mut machine = Machine::new();
    let mut written = 0;
    for _ in 0..4 {
        for _ in 0..10 {
            write(&machine.engine, written).expect("there is space");
            written += 1;
        }
        machine.engine.sync().expect("there is space");
        machine.disk.set(DiskFault::Full, true);
        let failed = write(&machine.engine, written);
        assert!(
            matches!(
                failed,
                Err(Error::Io {
                    operation: "write",
                    ..
                })
            ),
            "{failed:?}"
        );
        assert!(machine.disk.count(DiskCount::Refused) > 0);
        machine.disk.set(DiskFault::Full, false);
        // The one that failed is in memory or not; it was not acknowledged.
        for outcome in [write(&machine.engine, written), machine.engine.sync()] {
            assert!(matches!(outcome, Err(Error::Io { .. })), "{outcome:?}");
        }
        machine = machine.lose_power(Survivors::Nothing);
        assert_holds(&machine.engine, Family::Log, 0..written);
    }
}

/// It cannot be opened on a full disk, and says so; no harm is done by trying.
#[test]
fn opening_on_a_full_disk_fails_and_changes_nothing() {
    let machine = Machine::new();
    for number in 0..10 {
        write(&machine.engine, number).expect("there is space");
    }
    machine.engine.sync().expect("there is space");
    machine
        .disk
        .lose_power(Survivors::Nothing)
        .expect("the disk works");
    let directory = machine.end();
    let disk = engine::FaultDisk::open(directory.path()).expect("the disk works");
    disk.set(DiskFault::Full, true);
    let opened = RocksEngine::open_on(directory.path(), &options(), &disk);
    assert!(
        matches!(opened, Err(Error::Io { .. })),
        "{:?}",
        opened.err()
    );
    disk.lose_power(Survivors::Nothing).expect("the disk works");
    drop(disk);
    let machine = Machine::start(directory).expect("there is space");
    assert_holds(&machine.engine, Family::Log, 0..10);
}

/// F10: while a sync hangs, batches are written and everything is read; those that wait for the disk wait, and go on with it.
#[test]
fn a_sync_that_hangs_holds_up_only_who_waits_for_it() {
    let machine = Machine::new();
    write(&machine.engine, 0).expect("the disk works");
    machine.disk.set(DiskFault::SyncHangs, true);
    thread::scope(|scope| {
        let syncing = scope.spawn(|| machine.engine.sync());
        while machine.disk.count(DiskCount::Hanging) == 0 {
            thread::yield_now();
        }
        for number in 1..50 {
            write(&machine.engine, number).expect("the disk works");
            assert_eq!(
                machine
                    .engine
                    .get(Family::Log, &key(number))
                    .expect("readable"),
                Some(value(number))
            );
        }
        assert_eq!(machine.disk.count(DiskCount::Hanging), 1);
        assert!(!syncing.is_finished());
        machine.disk.set(DiskFault::SyncHangs, false);
        syncing
            .join()
            .expect("it does not panic")
            .expect("the disk works");
    });
    // The sync covers what was written before it began, and no more is promised.
    let machine = machine.lose_power(Survivors::Nothing);
    let left = content(&machine.engine, Family::Log).expect("sound").len() as u64;
    assert!(left >= 1);
    assert_holds(&machine.engine, Family::Log, 0..left);
}

/// A sync that hangs until the power goes has promised nothing.
#[test]
fn power_is_lost_while_a_sync_hangs() {
    let machine = Machine::new();
    write(&machine.engine, 0).expect("the disk works");
    machine.engine.sync().expect("the disk works");
    write(&machine.engine, 1).expect("the disk works");
    machine.disk.set(DiskFault::SyncHangs, true);
    thread::scope(|scope| {
        let syncing = scope.spawn(|| machine.engine.sync());
        while machine.disk.count(DiskCount::Hanging) == 0 {
            thread::yield_now();
        }
        machine
            .disk
            .lose_power(Survivors::Nothing)
            .expect("the disk works");
        let outcome = syncing.join().expect("it does not panic");
        assert!(matches!(outcome, Err(Error::Io { .. })), "{outcome:?}");
    });
    let directory = machine.end();
    let machine = Machine::start(directory).expect("a power loss is no damage");
    assert_holds(&machine.engine, Family::Log, 0..1);
}
