//! What a plan says is what happens, and making one changes nothing.

#[path = "../examples/at_size/world.rs"]
#[allow(dead_code)]
mod world;

use placement::plan::{PlanError, Question, plan};
use placement::{Refusal, Request, Settings};
use proto::{StoreId, metapb};
use world::{Shape, World};

fn world(stores: u64, regions: u64) -> World {
    let shape = Shape {
        stores,
        regions,
        written_bytes: 0,
        exponent: 0.7,
        seed: 3,
    };
    let mut world = World::new(&shape, Settings::default());
    for _ in 0..30 {
        world.tick();
    }
    world
}

fn peers(world: &World, store: StoreId) -> u64 {
    let there = |region: &&placement::RegionInfo| region.peer_on(store).is_some();
    world.model.regions().filter(there).count() as u64
}

#[test]
fn a_drain_goes_as_planned() {
    let mut world = world(8, 200);
    let store = world.stores[2];
    let before = world.machine.metadata(world.now).expect("it leads");
    let planned = plan(before.clone(), &Question::Drain(store), world.now).unwrap();
    let after = world.machine.metadata(world.now).expect("it leads");
    assert_eq!(before.pairs, after.pairs, "nothing was written");
    assert_eq!(before.regions, after.regions);

    let has = peers(&world, store);
    assert!(planned.moves >= has, "{} of {has}", planned.moves);
    assert_eq!((planned.unplaced_total, planned.unavailable), (0, 0));
    let eta = planned.eta.expect("it ends");
    assert!(planned.steps.iter().all(|step| step.at <= eta));

    let begun = world.tally.clone();
    world.ask(Request::DrainStore(store));
    let mut seconds = 0;
    while peers(&world, store) > 0 {
        world.tick();
        seconds += 1;
        assert!(seconds < 24 * 3600, "it is never empty");
    }
    let moves = world.tally.moves - begun.moves;
    let near = |one: u64, other: u64| one.abs_diff(other) * 5 <= one.max(other);
    assert!(near(moves, planned.moves), "{moves} for {}", planned.moves);
    assert!(seconds <= eta.as_secs() + 60, "{seconds} s for {eta:?}");
}

/// Stores could take everything in at once, but repair gets half of what they are set to be able to.
#[test]
fn a_drain_takes_its_share_of_the_rate() {
    let shape = Shape {
        stores: 8,
        regions: 100,
        written_bytes: 0,
        exponent: 0.7,
        seed: 3,
    };
    let mut settings = Settings::default();
    settings.balance.store_rate_bytes = 4 << 20;
    let mut world = World::with_rate(&shape, settings, 1 << 40);
    let store = world.stores[2];
    let there = |region: &&placement::RegionInfo| region.peer_on(store).is_some();
    let bytes: u64 = world
        .model
        .regions()
        .filter(there)
        .map(|region| region.bytes)
        .sum();
    world.ask(Request::DrainStore(store));
    let mut seconds = 0;
    while peers(&world, store) > 0 {
        world.tick();
        seconds += 1;
        assert!(seconds < 24 * 3600, "it is never empty");
    }
    // Seven others take it in at 2 MiB/s each, but for a first burst and a last debt.
    let least = bytes / 7 / (2 << 20);
    assert!(seconds >= least / 2, "{seconds} s, {least} s at the rate");
    assert!(seconds <= 4 * least, "{seconds} s, {least} s at the rate");
}

#[test]
fn what_would_be_refused_is_refused() {
    let world = world(3, 20);
    let metadata = world.machine.metadata(world.now).expect("it leads");
    let question = Question::Drain(world.stores[0]);
    let Err(PlanError::Refused(Refusal::Invalid(reason) | Refusal::Busy(reason))) =
        plan(metadata, &question, world.now)
    else {
        panic!("three replicas have no place on two stores");
    };
    assert!(!reason.is_empty());
}

#[test]
fn new_stores_take_their_share() {
    let world = world(8, 200);
    let metadata = world.machine.metadata(world.now).expect("it leads");
    let planned = plan(metadata, &Question::AddStores(2), world.now).unwrap();
    // 600 peers on ten stores.
    assert!((100..=130).contains(&planned.moves), "{}", planned.moves);
    assert!(planned.bytes > 0 && planned.eta.is_some());
}

#[test]
fn a_lost_zone_is_a_window_of_risk() {
    let mut world = world(8, 200);
    // No label of a place: nothing moves for it.
    for (at, room) in [(0, "a"), (1, "b"), (2, "b"), (3, "b")] {
        world.ask(Request::LabelStore {
            store: world.stores[at],
            labels: vec![metapb::StoreLabel {
                key: "room".into(),
                value: room.into(),
            }],
        });
    }
    let lose = |value: &str| {
        let metadata = world.machine.metadata(world.now).expect("it leads");
        let question = Question::Lose {
            label: "room".into(),
            value: value.into(),
        };
        plan(metadata, &question, world.now)
    };
    let one = lose("a").unwrap();
    assert_eq!(one.at_risk, peers(&world, world.stores[0]));
    assert!(one.moves >= one.at_risk);
    assert_eq!((one.unavailable, one.unplaced_total), (0, 0));
    let lost_after = Settings::default().store_lost_after;
    let risk = one.risk.expect("it ends");
    assert!(risk > lost_after && risk < 2 * lost_after, "{risk:?}");
    assert!(one.eta >= Some(risk));

    // Some regions have two of three voters there.
    let three = lose("b").unwrap();
    assert!(three.unavailable > 0, "{three:?}");
    assert!(matches!(lose("c"), Err(PlanError::NoSuchLabel { .. })));
}
