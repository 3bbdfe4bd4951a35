//! Every engine does the same under the same random operations as an obviously right twin, crashes included.
//!
//! `PROPTEST_CASES` sets how many sequences are tried.

mod operation;
mod run;
#[cfg(feature = "rocksdb")]
#[allow(dead_code)]
#[path = "../rocksdb/support.rs"]
mod support;
mod twin;

use engine::{CrashMode, Keep, MemoryEngine};
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

    fn lose_power(self) -> Result<Memory, Memory> {
        Ok(Memory(self.0.crash(CrashMode::PowerLoss {
            keep: Keep::Nothing,
        })))
    }
}

proptest! {
    #[test]
    fn memory_agrees_with_twin(operations in operations(60)) {
        run(Memory(MemoryEngine::new()), &operations);
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

        fn lose_power(self) -> Result<Rocks, Rocks> {
            Err(self)
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
        #[test]
        fn rocksdb_agrees_with_twin(operations in operations(60)) {
            run(Rocks::new(), &operations);
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
        let tree = operations(60)
            .new_tree(&mut runner)
            .expect("nothing is filtered");
        seen.extend(tree.current().iter().map(Operation::kind));
    }
    assert_eq!(seen.len(), Operation::KINDS, "{seen:?}");
}
