//! Every engine does the same under the same random operations as an obviously right twin, crashes included.
//!
//! `PROPTEST_CASES` sets how many sequences are tried.

mod operation;
mod run;
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
    use std::fs;
    use std::path::Path;

    use engine::{RocksEngine, RocksOptions};
    use tempfile::TempDir;

    use super::*;

    /// RocksDB in a directory of its own.
    struct Rocks {
        engine: RocksEngine,
        directory: TempDir,
    }

    fn options() -> RocksOptions {
        RocksOptions {
            cache_bytes: 1 << 20,
            memtable_bytes: 1 << 20,
            ..RocksOptions::default()
        }
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

        /// What a killed process leaves is what is in its files now: copies of them.
        fn kill(self) -> Rocks {
            let copy = TempDir::new().expect("a temporary directory");
            copy_directory(self.directory.path(), copy.path());
            drop(self);
            Rocks::open(copy)
        }

        fn lose_power(self) -> Result<Rocks, Rocks> {
            Err(self)
        }
    }

    fn copy_directory(from: &Path, to: &Path) {
        for entry in fs::read_dir(from).expect("the directory exists") {
            let entry = entry.expect("the directory can be read");
            let target = to.join(entry.file_name());
            if entry.file_type().expect("the file exists").is_dir() {
                fs::create_dir(&target).expect("the copy is empty");
                copy_directory(&entry.path(), &target);
            } else {
                fs::copy(entry.path(), &target).expect("the file exists");
            }
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
