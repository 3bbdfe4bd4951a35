//! Propose to apply, three nodes in memory: our core beside the crates `raft` and `openraft`.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use peers::{open_raft, ours, raft_rs};

fn propose_to_apply(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("propose_to_apply");
    for batch in [1usize, 64, 256] {
        group.throughput(Throughput::Elements(batch as u64));
        let mut nodes = ours::Group::default();
        group.bench_function(BenchmarkId::new("pontoon", batch), |bench| {
            bench.iter(|| nodes.run(black_box(batch)))
        });
        let mut nodes = raft_rs::Group::default();
        group.bench_function(BenchmarkId::new("raft-0.7", batch), |bench| {
            bench.iter(|| nodes.run(black_box(batch)))
        });
        let mut nodes = open_raft::Group::default();
        group.bench_function(BenchmarkId::new("openraft-0.9", batch), |bench| {
            bench.iter(|| nodes.run(black_box(batch)))
        });
    }
    group.finish();
}

criterion_group!(benches, propose_to_apply);
criterion_main!(benches);
