//! Balance on the whole machine, in virtual time: the small sister of `examples/at_size`.

#[path = "../examples/at_size/world.rs"]
#[allow(dead_code)]
mod world;

use placement::Settings;
use world::{Shape, World, spread};

const SHAPE: Shape = Shape {
    stores: 10,
    regions: 500,
    written_bytes: 8 << 20,
    exponent: 0.7,
    seed: 7,
};

/// A second; every minute loads are told anew, a tenth more or less than they are on average.
fn pass(world: &mut World, second: u64) {
    if second.is_multiple_of(60) {
        world.shake(50, 0.1);
    }
    world.tick();
}

/// Seconds until nothing was decided for a quarter of an hour.
fn settle(world: &mut World) -> u64 {
    let (mut last, mut made) = (0, (0, 0));
    for second in 0..12 * 3600 {
        pass(world, second);
        let now = (world.tally.moves, world.tally.transfers);
        if now != made {
            (last, made) = (second, now);
        }
        if second > last + 900 {
            return last;
        }
    }
    panic!("no silence: {:?}", world.tally);
}

/// Two stores join ten: they fill, with few moves more than they must, and then next to nothing moves although loads
/// do, by a tenth. A day, and a larger cluster, are `examples/at_size`.
#[test]
fn new_stores_fill_and_then_it_is_silent() {
    let settings = Settings {
        // Nothing is to be repaired here, and looking for it takes most of the time.
        sweep_regions_max: 8,
        ..Settings::default()
    };
    let mut world = World::new(&SHAPE, settings);
    settle(&mut world);
    let settled = world.tally.clone();
    assert_eq!(settled.returns, 0);

    world.add_stores(2);
    settle(&mut world);
    let moves = world.tally.moves - settled.moves;
    // 1500 peers on 12 stores.
    let least = 2 * 1500 / 12;
    assert!(moves as f64 <= 1.3 * least as f64, "{moves} of {least}");
    for (name, loads, most) in [
        ("size", world.size(), 1.05),
        ("leaders", world.leaders(), 1.05),
        ("proposals", world.proposals(), 1.5),
    ] {
        let spread = spread(&loads);
        assert!(spread.max <= most, "{name}: {spread:?}");
    }

    let even = world.tally.clone();
    for second in 0..3600 {
        pass(&mut world, second);
    }
    // Now and then a store comes above the limit because loads move; nothing goes back to where it was.
    let made = world.tally.moves + world.tally.transfers - even.moves - even.transfers;
    assert!(made <= 10, "{made} in an hour");
    assert_eq!(world.tally.returns, even.returns, "in an hour");
}
