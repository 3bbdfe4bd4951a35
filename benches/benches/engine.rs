//! The engine as a store uses it, RocksDB beside memory: a synced log batch, an apply batch, point reads, short scans.

use std::hint::black_box;
use std::ops::Bound;

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use engine::{
    Batch, Change, Direction, Engine, Family, Logging, MemoryEngine, RocksEngine, RocksOptions,
    View,
};

const VALUE_BYTES: usize = 128;
const ENTRIES: u64 = 64;
const KEYS: u64 = 100_000;

fn key(family: Family, number: u64) -> Bytes {
    let mut key = Vec::with_capacity(17);
    match family {
        Family::Log => {
            key.extend_from_slice(&1u64.to_be_bytes());
            key.push(1);
        }
        Family::State => key.push(0x10),
    }
    key.extend_from_slice(&number.to_be_bytes());
    key.into()
}

fn batch(family: Family, first: u64) -> Batch {
    let value = Bytes::from(vec![7; VALUE_BYTES]);
    let changes = (first..first + ENTRIES)
        .map(|number| Change::Put(key(family, number), value.clone()))
        .collect();
    Batch { family, changes }
}

fn measure(criterion: &mut Criterion, name: &str, engine: impl Engine) {
    let mut group = criterion.benchmark_group("engine");
    group.throughput(Throughput::Elements(ENTRIES));
    let mut next = 0;
    group.bench_function(BenchmarkId::new("log_batch_of_64_synced", name), |bench| {
        bench.iter(|| {
            engine
                .write(batch(Family::Log, next), Logging::On)
                .expect("a healthy disk");
            engine.sync().expect("a healthy disk");
            next += ENTRIES;
        });
    });
    for (logging, label) in [
        (Logging::On, "apply_batch_of_64_logged"),
        (Logging::Off, "apply_batch_of_64_unlogged"),
    ] {
        let mut next = 0;
        group.bench_function(BenchmarkId::new(label, name), |bench| {
            bench.iter(|| {
                engine
                    .write(batch(Family::State, next), logging)
                    .expect("a healthy disk");
                next = (next + ENTRIES) % KEYS;
            });
        });
    }
    for first in (0..KEYS).step_by(ENTRIES as usize) {
        engine
            .write(batch(Family::State, first), Logging::On)
            .expect("a healthy disk");
    }
    engine.flush(Family::State).expect("a healthy disk");
    group.throughput(Throughput::Elements(1));
    let mut number = 0;
    group.bench_function(BenchmarkId::new("get", name), |bench| {
        bench.iter(|| {
            number = (number + 7919) % KEYS;
            black_box(
                engine
                    .get(Family::State, &key(Family::State, number))
                    .expect("a healthy disk"),
            )
        });
    });
    group.throughput(Throughput::Elements(100));
    group.bench_function(BenchmarkId::new("scan_of_100", name), |bench| {
        bench.iter(|| {
            number = (number + 7919) % KEYS;
            let start = key(Family::State, number);
            let mut left = 100;
            engine
                .view()
                .scan(
                    Family::State,
                    Bound::Included(&start),
                    Bound::Unbounded,
                    Direction::Forward,
                    &mut |_, value| {
                        black_box(value);
                        left -= 1;
                        left > 0
                    },
                )
                .expect("a healthy disk");
        });
    });
    group.finish();
}

fn engines(criterion: &mut Criterion) {
    measure(criterion, "memory", MemoryEngine::new());
    let dir = tempfile::tempdir().expect("a temporary folder");
    let engine = RocksEngine::open(dir.path(), &RocksOptions::default()).expect("an empty folder");
    measure(criterion, "rocksdb", engine);
}

criterion_group!(benches, engines);
criterion_main!(benches);
