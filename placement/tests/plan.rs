//! What a plan says is what happens, and making one changes nothing.

#[path = "../examples/at_size/world.rs"]
#[allow(dead_code)]
mod world;

use placement::plan::{PlanError, Question, plan};
use placement::rules::{Constraint, Group, Role, Rule, RuleError, Test};
use placement::{Answer, Refusal, RegionInfo, Request, Settings};
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
    // What was ordered before is under way and not planned any more.
    let Answer::Cluster(cluster) = world.ask(Request::Cluster) else {
        panic!("it answers");
    };
    let under_way = u64::from(cluster.operators_running);
    assert!(under_way < 10, "{under_way}");
    assert!(
        planned.moves + under_way >= has,
        "{} and {under_way} of {has}",
        planned.moves
    );
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
    // It lasts until the last of them has its voter back, not the first.
    let came = |step: &&placement::plan::Planned| {
        step.at < risk && step.text.starts_with("exchange the voters")
    };
    let came = one.steps.iter().filter(came).count() as u64;
    assert!(came >= one.at_risk, "{came} of {} by {risk:?}", one.at_risk);

    // Some regions have two of three voters there.
    let three = lose("b").unwrap();
    assert!(three.unavailable > 0, "{three:?}");
    assert!(matches!(lose("c"), Err(PlanError::NoSuchLabel { .. })));
}

#[test]
fn what_has_no_place_says_why() {
    let mut world = world(3, 20);
    let label = metapb::StoreLabel {
        key: "room".into(),
        value: "a".into(),
    };
    world.ask(Request::LabelStore {
        store: world.stores[0],
        labels: vec![label],
    });
    let metadata = world.machine.metadata(world.now).expect("it leads");
    let question = Question::Lose {
        label: "room".into(),
        value: "a".into(),
    };
    let planned = plan(metadata, &question, world.now).expect("it can be lost");
    assert_eq!((planned.unplaced_total, planned.moves), (20, 0));
    for (_, reason) in &planned.unplaced {
        assert!(reason.contains("lost voter: "), "{reason}");
    }
}

/// A rule for a range: the range is split off, its peers go where the rule says, nothing else moves; what no store can do
/// is told beforehand. What is planned can be applied, and what was read before then not any more.
#[test]
fn rules_are_planned_as_they_would_go() {
    let mut world = world(8, 200);
    for at in 2..6 {
        world.ask(Request::LabelStore {
            store: world.stores[at],
            labels: vec![metapb::StoreLabel {
                key: "disk".into(),
                value: "ssd".into(),
            }],
        });
    }
    let metadata = || world.machine.metadata(world.now).expect("it leads");
    let first = metadata().regions.into_iter().min_by_key(RegionInfo::id);
    let first = first.expect("there are regions").region;
    let mut start = first.start_key.to_vec();
    start.push(0);
    let rule = |count, value: &str| Rule {
        id: "ssd".into(),
        start: start.clone().into(),
        end: first.end_key.clone(),
        role: Role::Voter,
        count,
        constraints: vec![Constraint {
            label: "disk".into(),
            test: Test::In(vec![value.into()]),
        }],
        location_labels: Vec::new(),
    };
    let question = |read, rule| Question::Rules {
        read,
        groups: vec![Group {
            name: "pins".into(),
            index: 1,
            rules: vec![rule],
        }],
    };
    let go = |question: &Question| plan(metadata(), question, world.now);

    let planned = go(&question(0, rule(3, "ssd"))).expect("it can be");
    assert!(planned.warnings.is_empty(), "{:?}", planned.warnings);
    assert_eq!(planned.unplaced_total, 0, "{:?}", planned.unplaced);
    let ordered = |text: &str| {
        let steps = planned.steps.iter();
        steps.filter(|step| step.text.contains(text)).count()
    };
    assert_eq!(ordered("split it into 2"), 1, "{:?}", planned.steps);
    let stores = &world.stores;
    let away = first.peers.iter().filter(|peer| {
        let at = stores.iter().position(|store| store.0 == peer.store_id);
        at.is_some_and(|at| !(2..6).contains(&at))
    });
    let away = away.count() as u64;
    assert!(away > 0, "{:?}", first.peers);
    assert_eq!(planned.moves, away, "{:?}", planned.steps);
    assert!(planned.eta.is_some());

    let none = go(&question(0, rule(3, "tape"))).expect("it can be asked for");
    assert_eq!(none.warnings.len(), 1, "{:?}", none.warnings);
    assert!(none.warnings[0].contains("pins/ssd asks for 3 peers"));
    assert_eq!((none.moves, none.unplaced_total), (0, 1));
    assert!(matches!(
        go(&question(0, rule(0, "ssd"))),
        Err(PlanError::Refused(Refusal::Rules(RuleError::NoCount(_))))
    ));
    assert!(matches!(
        go(&question(7, rule(3, "ssd"))),
        Err(PlanError::Refused(Refusal::Rules(RuleError::Version {
            read: 7,
            current: 0
        })))
    ));
}
