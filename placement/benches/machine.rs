//! What the machine costs at 1 000 stores and 1 000 000 regions (REGIONS §9): a tick with a scheduling round, a report of a
//! region that changed little, a lookup.
//!
//! `cargo bench -p placement` needs 3 GiB. `REGIONS=100000` makes it smaller.

#![allow(missing_docs)]

use std::hint::black_box;

use bytes::Bytes;
use criterion::{Criterion, criterion_group, criterion_main};
use placement::{Event, Request, RequestId, Settings};

#[path = "../examples/at_size/world.rs"]
#[allow(dead_code)]
mod world;

use world::{Shape, World};

fn machine(criterion: &mut Criterion) {
    let regions = std::env::var("REGIONS").map_or(1_000_000, |regions| {
        regions.parse().expect("REGIONS is a number")
    });
    let shape = Shape {
        stores: 1000,
        regions,
        written_bytes: 8 << 20,
        exponent: 0.9,
        seed: 1,
    };
    let mut world = World::new(&shape, Settings::default());
    let hot: Vec<_> = world.by_heat[..1000].to_vec();
    let mut at = 0;
    criterion.bench_function("report", |bencher| {
        bencher.iter(|| {
            at = (at + 1) % hot.len();
            let mut report = world.model.get(hot[at]).expect("it is there").clone();
            report.written_bytes += at as u64;
            let event = Event::Report(Box::new(report));
            black_box(world.machine.step(event, world.now))
        });
    });
    criterion.bench_function("lookup", |bencher| {
        bencher.iter(|| {
            at += 1;
            let key = Bytes::copy_from_slice(&(at as u64 * 7919 % regions).to_be_bytes());
            let request = Request::RegionByKey(key);
            let event = Event::Request(RequestId(at as u64), Box::new(request));
            black_box(world.machine.step(event, world.now))
        });
    });
    // Most of what stands out at first is moved within minutes.
    for _ in 0..300 {
        world.tick();
    }
    criterion.bench_function("second", |bencher| bencher.iter(|| world.tick()));
    world.add_stores(100);
    for _ in 0..10 {
        world.tick();
    }
    criterion.bench_function("second while a tenth is added", |bencher| {
        bencher.iter(|| world.tick());
    });
}

criterion_group!(benches, machine);
criterion_main!(benches);
