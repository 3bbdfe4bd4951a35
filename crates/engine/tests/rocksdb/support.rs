//! What the tests share.

use std::fs;
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use engine::{
    Batch, Change, Direction, Engine, Error, Family, Logging, RocksEngine, RocksOptions, View,
};
use tempfile::TempDir;

pub fn directory() -> TempDir {
    TempDir::new().expect("a temporary directory")
}

/// Small settings, so that many engines fit.
pub fn options() -> RocksOptions {
    RocksOptions {
        cache_bytes: 1 << 20,
        memtable_bytes: 1 << 20,
        ..RocksOptions::default()
    }
}

pub fn try_open(path: &Path) -> Result<RocksEngine, Error> {
    RocksEngine::open(path, &options())
}

pub fn open(path: &Path) -> RocksEngine {
    try_open(path).expect("the directory is sound")
}

pub fn key(number: u64) -> Bytes {
    Bytes::from(format!("key-{number:08}"))
}

/// A value that tells its key, of some length.
pub fn value(number: u64) -> Bytes {
    let mut text = format!("value-{number:08}-");
    text.extend(std::iter::repeat_n('x', (number % 97) as usize));
    Bytes::from(text)
}

pub fn put(engine: &RocksEngine, family: Family, number: u64, logging: Logging) {
    let changes = vec![Change::Put(key(number), value(number))];
    engine
        .write(Batch { family, changes }, logging)
        .expect("the disk works");
}

/// All entries of a family.
pub fn content(engine: &RocksEngine, family: Family) -> Result<Vec<(Bytes, Bytes)>, Error> {
    let mut found = Vec::new();
    engine.view().scan(
        family,
        Bound::Unbounded,
        Bound::Unbounded,
        Direction::Forward,
        &mut |key, value| {
            found.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
            true
        },
    )?;
    Ok(found)
}

/// Asserts that a family holds exactly the numbers, with their values.
pub fn assert_holds(engine: &RocksEngine, family: Family, numbers: impl Iterator<Item = u64>) {
    let expected: Vec<_> = numbers.map(|number| (key(number), value(number))).collect();
    let found = content(engine, family).expect("the engine is sound");
    assert_eq!(found.len(), expected.len(), "number of keys in {family:?}");
    assert_eq!(found, expected);
}

/// Copies the files of an engine that is closed.
pub fn copy_directory(from: &Path, to: &Path) {
    try_copy_directory(from, to).expect("both directories can be used");
}

fn try_copy_directory(from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            fs::create_dir_all(&target)?;
            try_copy_directory(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}

/// What a killed process would leave now: the files as they are. Tries again when RocksDB changed them meanwhile.
pub fn image(engine: &RocksEngine) -> TempDir {
    loop {
        let copy = directory();
        let before = listing(engine.path());
        if try_copy_directory(engine.path(), copy.path()).is_ok()
            && listing(engine.path()) == before
        {
            return copy;
        }
    }
}

/// RocksDB's files and their sizes.
fn listing(engine_directory: &Path) -> Vec<(PathBuf, u64)> {
    let entries = fs::read_dir(engine_directory.join("db")).expect("the directory exists");
    let paths = entries.map(|entry| entry.expect("the directory can be read").path());
    let mut found: Vec<_> = paths
        .filter_map(|path| Some((path.clone(), fs::metadata(path).ok()?.len())))
        .collect();
    found.sort();
    found
}

/// RocksDB's files with an extension, in the order of their names.
pub fn files(engine_directory: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(engine_directory.join("db")).expect("the directory exists");
    let mut found: Vec<_> = entries
        .map(|entry| entry.expect("the directory can be read").path())
        .collect();
    found.retain(|path| path.extension().is_some_and(|other| other == extension));
    found.sort();
    found
}

/// The write-ahead log, when it is one file.
pub fn log_file(engine_directory: &Path) -> PathBuf {
    let mut files = files(engine_directory, "log");
    files.retain(|path| fs::metadata(path).expect("the file exists").len() > 0);
    assert_eq!(files.len(), 1, "one log file in use: {files:?}");
    files.remove(0)
}

/// How often a test tries: `CYCLES`, if that is set.
pub fn cases(default: u64) -> u64 {
    std::env::var("CYCLES")
        .ok()
        .and_then(|cycles| cycles.parse().ok())
        .unwrap_or(default)
}

/// Numbers that look random and are the same in every run.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}
