//! Placement alone at size: a tenth more stores are added to a large even cluster, and a day passes.
//!
//! `cargo run --release -p placement --example at_size -- [--stores N] [--regions N] [--hours N] [--exponent X] [--plots DIR]`
//!
//! Prints a table and a line of JSON: time until it is even, moves against the least number that could do, moves of the day
//! afterwards, cost of a tick. Real time is measured only around steps of the machine and changes nothing in it.

mod plot;
#[allow(dead_code)]
mod world;

use std::collections::BTreeMap;
use std::path::PathBuf;

use placement::Settings;
use placement::plan::{Question, plan};
use world::{Shape, Spread, World, spread};

/// Seconds without a decision that count as silence.
const QUIET: u64 = 900;

/// Regions whose load is told anew every minute.
const HOTTEST: usize = 10_000;

struct Options {
    stores: u64,
    regions: u64,
    hours: u64,
    exponent: f64,
    plots: Option<PathBuf>,
}

impl Options {
    fn parse() -> Self {
        let mut options = Self {
            stores: 1000,
            regions: 1_000_000,
            hours: 24,
            exponent: 0.9,
            plots: None,
        };
        let mut words = std::env::args().skip(1);
        while let Some(name) = words.next() {
            let value = words
                .next()
                .unwrap_or_else(|| panic!("{name} takes a value"));
            let number = || {
                value
                    .parse()
                    .unwrap_or_else(|_| panic!("{name} takes a number"))
            };
            match name.as_str() {
                "--stores" => options.stores = number(),
                "--regions" => options.regions = number(),
                "--hours" => options.hours = number(),
                "--exponent" => {
                    options.exponent = value.parse().expect("--exponent takes a number");
                }
                "--plots" => options.plots = Some(value.clone().into()),
                other => panic!(
                    "{other} is not known: --stores, --regions, --hours, --exponent, --plots"
                ),
            }
        }
        options
    }
}

/// A moment of a phase: loads of old and of new stores.
struct Sample {
    minutes: f64,
    size: Vec<f64>,
    proposals: Vec<f64>,
}

/// What a phase took.
#[derive(Debug, Default)]
struct Phase {
    /// Seconds until the last decision.
    seconds: u64,
    /// Seconds until all stores are within 5 % of even in size.
    even: Option<u64>,
    moves: u64,
    transfers: u64,
    returns: u64,
    /// Operators, by who decided.
    by: BTreeMap<String, u64>,
    /// Microseconds of each tick.
    ticks: Vec<u64>,
}

impl Phase {
    fn percentile(&self, part: f64) -> f64 {
        let mut ticks = self.ticks.clone();
        ticks.sort_unstable();
        let at = ((ticks.len() as f64 - 1.0) * part) as usize;
        ticks.get(at).map_or(0.0, |micros| *micros as f64 / 1000.0)
    }
}

fn main() {
    let options = Options::parse();
    let shape = Shape {
        stores: options.stores,
        regions: options.regions,
        written_bytes: 8 << 20,
        exponent: options.exponent,
        seed: 1,
    };
    let started = clock();
    let mut world = World::new(&shape, Settings::default());
    eprintln!("built in {:.0} s", seconds(started));

    let mut samples = Vec::new();
    let warm = run(&mut world, 24 * 3600, Some(QUIET), &mut |_, _| {});
    report("until the load is even", &warm, &world);

    let (size, leaders) = (world.size(), world.leaders());
    let before = world.stores.len();
    world.add_stores(options.stores / 10);
    let least_moves = needed(&size, world.stores.len()) / mean_region(&world);
    let least_transfers = needed(&leaders, world.stores.len());
    let grown = run(&mut world, 48 * 3600, Some(QUIET), &mut |world, second| {
        if second.is_multiple_of(120) {
            samples.push(Sample {
                minutes: second as f64 / 60.0,
                size: world.size(),
                proposals: world.proposals(),
            });
        }
    });
    report("after adding a tenth of the stores", &grown, &world);

    let hours = options.hours * 3600;
    let day = run(&mut world, hours, None, &mut |_, _| {});
    report("the hours after", &day, &world);

    let moves = grown.moves as f64 / least_moves;
    let transfers = grown.transfers as f64 / least_transfers;
    println!(
        "moves: {:.2} times the least, transfers: {transfers:.2} times",
        moves
    );
    println!(
        "{{\"stores\":{},\"regions\":{},\"seconds_to_last_move\":{},\"seconds_to_within_5_percent\":{},\"moves\":{},\
         \"moves_to_least\":{moves:.3},\"transfers\":{},\"transfers_to_least\":{transfers:.3},\"returns\":{},\
         \"day_moves\":{},\"day_transfers\":{},\"day_returns\":{},\"tick_ms_p50\":{:.3},\"tick_ms_p99\":{:.3},\
         \"tick_ms_max\":{:.3},\"quiet_tick_ms_p50\":{:.3},\"real_seconds\":{:.0}}}",
        options.stores,
        options.regions,
        grown.seconds,
        grown
            .even
            .map_or("null".to_owned(), |even| even.to_string()),
        grown.moves,
        grown.transfers,
        grown.returns,
        day.moves,
        day.transfers,
        day.returns,
        grown.percentile(0.5),
        grown.percentile(0.99),
        grown.percentile(1.0),
        day.percentile(0.5),
        seconds(started),
    );
    if let Some(folder) = options.plots {
        plot::write(&folder, &samples, before);
    }
    forecast(&world);
}

/// What a plan costs: the copy, which the machine makes between two events, and the forecast, which is made beside it.
fn forecast(world: &World) {
    let started = clock();
    let metadata = world.machine.metadata(world.now);
    let metadata = metadata.expect("the machine leads");
    let copied = seconds(started);
    let drained = world.stores[0];
    let started = clock();
    let forecast = plan(metadata, &Question::Drain(drained), world.now);
    let forecast = forecast.expect("the store can be drained");
    println!(
        "plan drain {drained}: {} moves, {} bytes, done after {:?}; copy {:.0} ms, plan {:.1} s",
        forecast.moves,
        forecast.bytes,
        forecast.eta,
        copied * 1000.0,
        seconds(started),
    );
}

/// Lets time pass, `most` seconds or until nothing was decided for `quiet` seconds.
fn run(
    world: &mut World,
    most: u64,
    quiet: Option<u64>,
    each: &mut dyn FnMut(&mut World, u64),
) -> Phase {
    let first = world.tally.clone();
    let mut phase = Phase::default();
    let mut last = (0, 0);
    for second in 0..most {
        each(world, second);
        if second.is_multiple_of(60) {
            // Loads are never still.
            let hottest = HOTTEST.min(world.by_heat.len() / 10);
            world.shake(hottest, 0.1);
        }
        let started = clock();
        world.tick();
        phase.ticks.push(started.elapsed().as_micros() as u64);
        let made = (world.tally.moves, world.tally.transfers);
        if made != last {
            last = made;
            phase.seconds = second;
        }
        if phase.even.is_none() && second.is_multiple_of(30) && is_even(world) {
            phase.even = Some(second);
        }
        if quiet.is_some_and(|quiet| second >= phase.seconds + quiet) {
            break;
        }
    }
    phase.moves = world.tally.moves - first.moves;
    phase.transfers = world.tally.transfers - first.transfers;
    phase.returns = world.tally.returns - first.returns;
    for (who, count) in &world.tally.by {
        let before = first.by.get(who).copied().unwrap_or(0);
        phase.by.insert(who.clone(), count - before);
    }
    phase
}

fn is_even(world: &World) -> bool {
    let Spread { min, max, .. } = spread(&world.size());
    min >= 0.95 && max <= 1.05
}

/// What stores above their share have too much, when there are so many stores.
fn needed(loads: &[f64], stores: usize) -> f64 {
    let share = loads.iter().sum::<f64>() / stores as f64;
    loads.iter().map(|load| (load - share).max(0.0)).sum()
}

fn mean_region(world: &World) -> f64 {
    let bytes: f64 = world
        .model
        .regions()
        .map(|region| region.bytes as f64)
        .sum();
    bytes / world.model.regions().count() as f64
}

fn report(name: &str, phase: &Phase, world: &World) {
    println!("{name}:");
    println!(
        "  last decision after {} s; moves {}, transfers {}, returns {}; tick p50 {:.2} ms, p99 {:.2} ms, max {:.2} ms",
        phase.seconds,
        phase.moves,
        phase.transfers,
        phase.returns,
        phase.percentile(0.5),
        phase.percentile(0.99),
        phase.percentile(1.0)
    );
    let by: Vec<_> = phase
        .by
        .iter()
        .map(|(who, count)| format!("{who} {count}"))
        .collect();
    println!("  decided by {}", by.join(", "));
    if let Some(even) = phase.even {
        println!("  all stores within 5 % of even after {even} s");
    }
    for (name, loads) in [
        ("size", world.size()),
        ("leaders", world.leaders()),
        ("proposals", world.proposals()),
    ] {
        let Spread { mean, min, max } = spread(&loads);
        println!("  {name:<10} mean {mean:>16.0}  least {min:.3}  greatest {max:.3}");
    }
}

#[allow(clippy::disallowed_types, clippy::disallowed_methods)]
fn clock() -> std::time::Instant {
    // What a tick costs is measured here; nothing is decided by it.
    std::time::Instant::now()
}

#[allow(clippy::disallowed_types)]
fn seconds(started: std::time::Instant) -> f64 {
    started.elapsed().as_secs_f64()
}
