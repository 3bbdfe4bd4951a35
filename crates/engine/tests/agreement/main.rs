//! Every engine does the same under the same random operations as an obviously right twin, crashes included.
//!
//! `PROPTEST_CASES` sets how many sequences are tried, `CYCLES` how many under power losses.

mod operation;
mod run;
#[cfg(feature = "rocksdb")]
#[allow(dead_code)]
#[path = "../rocksdb/support.rs"]
mod support;
mod twin;

use bytes::Bytes;
use engine::{Change, CrashMode, Family, Keep, Logging, MemoryEngine};
use proptest::prelude::*;

use operation::{Operation, operations};
use run::{Subject, run};

/// The memory engine.
struct Memory(MemoryEngine);

impl Subject for Memory {
    type Engine = MemoryEngine;

    fn engine(&self) -> &MemoryEngine {
        &self.0
    }

    fn reopen(self) -> Memory {
        Memory(self.0.reopen().expect("no fault was asked for"))
    }

    fn kill(self) -> Memory {
        Memory(self.0.crash(CrashMode::Kill))
    }

    fn lose_power(self, seed: Option<u64>) -> Result<Memory, Memory> {
        let keep = seed.map_or(Keep::Nothing, Keep::Seeded);
        Ok(Memory(self.0.crash(CrashMode::PowerLoss { keep })))
    }
}

proptest! {
    #[test]
    fn memory_agrees_with_twin(operations in operations(60, 2)) {
        run(Memory(MemoryEngine::new()), &operations);
    }
}

/// A clearing that survives, while a write of the log behind it does not, leaves nothing for the second clearing to do.
#[test]
fn cleared_once() {
    let key = Bytes::from_static;
    for seed in 0..64 {
        let put = |family, key| Operation::Write {
            family,
            changes: vec![Change::Put(key, Bytes::new())],
            logging: Logging::On,
        };
        run(
            Memory(MemoryEngine::new()),
            &[
                put(Family::Log, key(b"b")),
                Operation::Flush {
                    family: Family::Log,
                },
                Operation::Clear {
                    family: Family::Log,
                    start: key(b"a"),
                    end: key(b"c"),
                    logging: Logging::On,
                },
                put(Family::Log, key(b"d")),
                Operation::LosePower(Some(seed)),
                put(Family::State, key(b"e")),
                Operation::Flush {
                    family: Family::Log,
                },
                Operation::LosePower(None),
            ],
        );
    }
}

#[cfg(feature = "rocksdb")]
mod on_rocksdb {
    use engine::RocksEngine;
    use tempfile::TempDir;

    use super::support::{image, options};
    use super::*;

    /// RocksDB in a directory of its own.
    struct Rocks {
        engine: RocksEngine,
        directory: TempDir,
    }

    impl Rocks {
        fn new() -> Rocks {
            Rocks::open(TempDir::new().expect("a temporary directory"))
        }

        fn open(directory: TempDir) -> Rocks {
            let engine =
                RocksEngine::open(directory.path(), &options()).expect("the directory is sound");
            Rocks { engine, directory }
        }
    }

    impl Subject for Rocks {
        type Engine = RocksEngine;

        fn engine(&self) -> &RocksEngine {
            &self.engine
        }

        fn reopen(self) -> Rocks {
            let Rocks { engine, directory } = self;
            drop(engine);
            Rocks::open(directory)
        }

        fn kill(self) -> Rocks {
            let stopped = image(&self.engine);
            drop(self);
            Rocks::open(stopped)
        }

        fn lose_power(self, _: Option<u64>) -> Result<Rocks, Rocks> {
            Err(self)
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
        #[test]
        fn rocksdb_agrees_with_twin(operations in operations(60, 2)) {
            run(Rocks::new(), &operations);
        }
    }
}

/// RocksDB on a disk that loses what was not synced, entries of directories included.
#[cfg(feature = "fault-env")]
mod on_fault_disk {
    use engine::{FaultDisk, RocksEngine, Survivors};
    use tempfile::TempDir;

    use super::support::{cases, options};
    use super::*;

    struct Rocks {
        engine: RocksEngine,
        disk: FaultDisk,
        directory: TempDir,
    }

    impl Rocks {
        fn open(directory: TempDir) -> Rocks {
            let disk = FaultDisk::open(directory.path()).expect("the disk works");
            let engine = RocksEngine::open_on(directory.path(), &options(), &disk)
                .expect("a power loss is no damage");
            Rocks {
                engine,
                disk,
                directory,
            }
        }

        fn stop(self, survivors: Survivors) -> Rocks {
            let Rocks {
                engine,
                disk,
                directory,
            } = self;
            disk.lose_power(survivors).expect("the disk works");
            drop(engine);
            drop(disk);
            Rocks::open(directory)
        }
    }

    impl Subject for Rocks {
        type Engine = RocksEngine;

        fn engine(&self) -> &RocksEngine {
            &self.engine
        }

        fn reopen(self) -> Rocks {
            let Rocks {
                engine,
                disk,
                directory,
            } = self;
            drop(engine);
            disk.lose_power(Survivors::Everything)
                .expect("the disk works");
            drop(disk);
            Rocks::open(directory)
        }

        fn kill(self) -> Rocks {
            self.stop(Survivors::Everything)
        }

        fn lose_power(self, seed: Option<u64>) -> Result<Rocks, Rocks> {
            Ok(self.stop(seed.map_or(Survivors::Nothing, Survivors::Drawn)))
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: cases(12) as u32, ..ProptestConfig::default() })]
        #[test]
        fn rocksdb_agrees_with_twin_under_power_losses(operations in operations(60, 10)) {
            run(Rocks::open(TempDir::new().expect("a temporary directory")), &operations);
        }
    }
}

/// The strategy reaches every kind of operation; a test that never crashes shows nothing about crashes.
#[test]
fn operations_cover_all_kinds() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;

    let mut runner = TestRunner::deterministic();
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..40 {
        let tree = operations(60, 2)
            .new_tree(&mut runner)
            .expect("nothing is filtered");
        seen.extend(tree.current().iter().map(Operation::kind));
    }
    assert_eq!(seen.len(), Operation::KINDS, "{seen:?}");
}
