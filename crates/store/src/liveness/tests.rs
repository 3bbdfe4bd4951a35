use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;
use proto::StoreId;
use proto::pontoon::v1::Beat;
use raft::SupportId;

use super::{Change, Liveness, Timing};

const H: Duration = Duration::from_millis(100);
const T: Duration = Duration::from_millis(500);
const A: StoreId = StoreId(1);
const B: StoreId = StoreId(2);

/// Two stores and a clock, in steps of 10 ms. What is said arrives within the step unless the way is cut.
struct World {
    now: Duration,
    stores: BTreeMap<StoreId, Liveness>,
    /// Beats on these ways are lost.
    cut: BTreeSet<(StoreId, StoreId)>,
    changes: Vec<(StoreId, Change)>,
    beats: usize,
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            now: Duration::from_secs(7),
            stores: BTreeMap::new(),
            cut: BTreeSet::new(),
            changes: Vec::new(),
            beats: 0,
        };
        world.start(A, 1);
        world.start(B, 1);
        world
    }

    fn start(&mut self, store: StoreId, boot: u64) {
        let mut live = Liveness::new(store, boot, Timing::default(), self.now);
        live.share(&[A, B].into());
        live.want(true);
        self.stores.insert(store, live);
    }

    fn of(&mut self, store: StoreId) -> &mut Liveness {
        self.stores.get_mut(&store).expect("one of the two")
    }

    /// Carries what is said until nobody says anything.
    fn settle(&mut self) {
        loop {
            let mut said = Vec::new();
            for (&store, live) in &mut self.stores {
                let (changes, beats) = live.take();
                self.changes
                    .extend(changes.into_iter().map(|change| (store, change)));
                said.extend(beats);
            }
            if said.is_empty() {
                return;
            }
            self.beats += said.len();
            for beat in said {
                let way = (StoreId(beat.from_store), StoreId(beat.to_store));
                if !self.cut.contains(&way)
                    && let Some(live) = self.stores.get_mut(&way.1)
                {
                    live.on_beat(&beat, self.now);
                }
            }
        }
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now += Duration::from_millis(10);
            let now = self.now;
            for live in self.stores.values_mut() {
                live.tick(now);
            }
            self.settle();
        }
    }

    fn standing(&self, store: StoreId) -> super::Standing {
        self.stores[&store].standings().next().expect("one other")
    }

    fn gives(&self, store: StoreId) -> Option<SupportId> {
        self.standing(store).gives
    }

    fn holds(&self, store: StoreId) -> Option<SupportId> {
        self.standing(store).holds
    }

    fn mutual(&self) -> bool {
        let given = |from, to| self.gives(from).is_some() && self.gives(from) == self.holds(to);
        given(A, B) && given(B, A)
    }
}

#[test]
fn both_support_each_other_at_once() {
    let mut world = World::new();
    world.run(Duration::from_millis(10));
    assert!(world.mutual(), "{:?}", world.changes);
    assert!(world.beats < 20, "{} beats", world.beats);
    world.changes.clear();
    let before = world.beats;
    world.run(10 * H);
    assert_eq!(world.changes, [], "nothing happens");
    // One each way in an interval, and once in ten an answer at once, for the round trip.
    assert_eq!(world.beats - before, 22);
}

#[test]
fn silence_ends_support_within_the_time() {
    let mut world = World::new();
    world.run(H);
    world.cut = [(A, B)].into();
    let id = world.gives(B).expect("it supports");
    world.run(T - Duration::from_millis(110));
    assert_eq!(world.gives(B), Some(id), "not yet");
    world.run(Duration::from_millis(120));
    assert_eq!(world.gives(B), None, "S4: nothing is heard of A");
    // B's beats say so; A is not heard, so its own support of B falls later.
    assert_eq!(world.holds(A), None);
    world.run(2 * T);
    assert_eq!(world.gives(A), None, "S4: A is deaf to B");
}

#[test]
fn a_new_process_ends_the_support_of_the_old_one_at_once() {
    let mut world = World::new();
    world.run(H);
    let old = world.gives(B).expect("it supports");
    world.start(A, 2);
    world.changes.clear();
    world.run(Duration::from_millis(10));
    assert!(world.changes.contains(&(B, Change::Ended(A, old))));
    assert!(world.mutual(), "a new boot clears damping");
    assert_ne!(world.gives(B), Some(old));
    // What the old process said comes too late.
    let late = Beat {
        from_store: A.0,
        from_boot: 1,
        to_store: B.0,
        to_boot: 1,
        seq: 1 << 40,
        wants: false,
        ..Beat::default()
    };
    let now = world.now;
    world.of(B).on_beat(&late, now);
    assert!(world.mutual());
}

#[test]
fn who_wants_none_gets_none_and_holds_none() {
    let mut world = World::new();
    world.run(H);
    world.of(A).want(false);
    assert_eq!(world.holds(A), None, "G2: dropped before anything is said");
    world.run(Duration::from_millis(10));
    assert_eq!(world.gives(B), None);
    assert!(world.gives(A).is_some(), "G2: support is still given");
    world.of(A).want(true);
    world.run(2 * T - H);
    assert_eq!(world.gives(B), None, "S6: an end counts");
    world.run(2 * H);
    assert!(world.mutual());
}

#[test]
fn ends_add_up() {
    let mut world = World::new();
    world.run(H);
    let mut waits = Vec::new();
    for _ in 0..3 {
        world.of(B).end(A);
        let before = world.now;
        while world.gives(B).is_none() {
            world.run(Duration::from_millis(10));
        }
        waits.push((world.now - before).as_millis() / 100);
    }
    // Twice, four and eight times T from the next beat on.
    assert!(
        matches!(waits[..], [10..=11, 20..=21, 40..=41]),
        "{waits:?}"
    );
    world.run(Duration::from_secs(10));
    world.of(B).end(A);
    world.run(2 * T + 2 * H);
    assert!(world.mutual(), "S6: what was long ago does not count");
}

#[test]
fn who_slept_ends_nothing_before_it_has_listened() {
    let mut world = World::new();
    world.run(H);
    let id = world.gives(B);
    // Only B sleeps: what A said meanwhile waits, and is taken first. Its clock went on.
    world.now += 4 * T;
    let now = world.now;
    world.of(B).tick(now);
    assert_eq!(world.gives(B), id, "S5");
    assert!(
        world.holds(B).is_some(),
        "what A gives is not given up either"
    );
    let due = world.stores[&B].due();
    assert!(due > now && due <= now + H);
    world.of(A).tick(now);
    world.run(2 * H);
    assert_eq!(world.gives(B), id, "it was heard in time");
    world.stores.remove(&A);
    world.run(T + 2 * H);
    assert_eq!(world.stores[&B].standings().next().expect("A").gives, None);
}

#[test]
fn no_beat_carries_an_id_that_has_ended() {
    let mut world = World::new();
    world.run(H);
    let id = world.gives(B).expect("it supports");
    world.of(B).end(A);
    let (changes, beats) = world.of(B).take();
    assert_eq!(changes, [Change::Ended(A, id)]);
    let beat = beats.first().expect("it is said at once");
    assert_eq!((beat.gives, &beat.lost[..]), (0, &[A.0][..]));
}

#[test]
fn a_pair_goes_on_as_long_as_one_side_knows_of_a_region() {
    let mut world = World::new();
    world.run(H);
    let id = world.gives(B).expect("it supports");
    world.of(B).share(&BTreeSet::new());
    world.run(4 * T);
    assert!(world.mutual(), "A still asks");
    assert_eq!(world.gives(B), Some(id));
    world.changes.clear();
    world.of(A).share(&BTreeSet::new());
    world.run(H);
    for store in [A, B] {
        assert_eq!(world.stores[&store].standings().count(), 0);
    }
    let told = |change: &Change| {
        world
            .changes
            .iter()
            .any(|told| *told == (B, change.clone()))
    };
    assert!(told(&Change::Ended(A, id)) && told(&Change::Held(A, None)));
    assert!(told(&Change::Linked(A, None)));
    let before = world.beats;
    world.run(10 * T);
    assert_eq!(world.beats, before, "nobody says anything");
    // A peer is added to a store that has none of the region yet.
    world.of(A).share(&[B].into());
    world.run(H);
    assert!(world.mutual());
    // It is removed, and that store stops before it is told.
    world.cut = [(A, B)].into();
    world.of(A).share(&BTreeSet::new());
    world.run(4 * T + 2 * H);
    assert_eq!(world.stores[&B].standings().count(), 0);
}

#[test]
fn everybody_hears_whom_one_does_not_support() {
    let mut world = World::new();
    world.run(H);
    const C: StoreId = StoreId(3);
    world.changes.clear();
    world.of(A).share(&[B, C].into());
    world.run(H);
    let listed = (B, Change::Linked(A, Some(vec![C])));
    assert_eq!(world.changes, [listed], "E1, and nothing else is new");
}

#[test]
fn the_round_trip_is_that_of_a_beat_that_is_answered_at_once() {
    let mut world = World::new();
    world.run(H);
    let measured = world.standing(A).round_trip.expect("it is");
    assert!(measured <= Duration::from_millis(10), "{measured:?}");
}

#[test]
fn old_and_foreign_beats_change_nothing() {
    let mut world = World::new();
    world.run(H);
    let now = world.now;
    let good = Beat {
        from_store: A.0,
        from_boot: 1,
        to_store: B.0,
        to_boot: 1,
        seq: 1 << 20,
        shares: true,
        gives: 99,
        wants: true,
        ..Beat::default()
    };
    let held = world.holds(B);
    for beat in [
        Beat {
            to_store: 9,
            ..good.clone()
        },
        Beat {
            from_store: 9,
            ..good.clone()
        },
        Beat {
            from_boot: 0,
            ..good.clone()
        },
        Beat {
            to_boot: 7,
            ..good.clone()
        },
        Beat {
            seq: 1,
            ..good.clone()
        },
    ] {
        world.of(B).on_beat(&beat, now);
        assert_eq!(world.holds(B), held, "{beat:?}");
    }
    world.of(B).on_beat(&good, now);
    assert_eq!(world.holds(B).map(SupportId::get), Some(99));
}

/// What can happen to the two.
#[derive(Clone, Debug)]
enum Happening {
    Run(u64),
    Cut(bool, bool),
    Mend,
    Restart(bool),
    End(bool),
    Want(bool, bool),
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        4 => (1..200_u64).prop_map(Happening::Run),
        2 => any::<(bool, bool)>().prop_map(|(a, b)| Happening::Cut(a, b)),
        2 => Just(Happening::Mend),
        1 => any::<bool>().prop_map(Happening::Restart),
        1 => any::<bool>().prop_map(Happening::End),
        1 => any::<(bool, bool)>().prop_map(|(a, wants)| Happening::Want(a, wants)),
    ]
}

proptest! {
    /// No id is given twice (L2), changes tell all of it, and what lasts heals.
    #[test]
    fn ids_are_given_once_and_the_pair_heals(happenings in proptest::collection::vec(happening(), 1..40)) {
        let mut world = World::new();
        let mut boots = BTreeMap::from([(A, 1), (B, 1)]);
        let side = |a| if a { A } else { B };
        for happening in happenings {
            match happening {
                Happening::Run(steps) => world.run(Duration::from_millis(10 * steps)),
                Happening::Cut(a, b) => {
                    world.cut.extend(a.then_some((A, B)));
                    world.cut.extend(b.then_some((B, A)));
                }
                Happening::Mend => world.cut.clear(),
                Happening::Restart(a) => {
                    let boot = boots.get_mut(&side(a)).expect("one of the two");
                    *boot += 1;
                    let boot = *boot;
                    world.start(side(a), boot);
                }
                Happening::End(a) => {
                    let other = side(!a);
                    world.of(side(a)).end(other);
                }
                Happening::Want(a, wants) => world.of(side(a)).want(wants),
            }
            world.settle();
        }
        let mut given = BTreeMap::new();
        let mut ever = BTreeSet::new();
        for (store, change) in &world.changes {
            match change {
                Change::Given(_, id) => {
                    prop_assert!(ever.insert((*store, *id)), "given twice: {id}");
                    given.insert(*store, *id);
                }
                Change::Ended(_, id) => prop_assert_eq!(given.remove(store), Some(*id)),
                Change::Held(..) | Change::Linked(..) => {}
            }
        }
        for store in [A, B] {
            world.of(store).want(true);
        }
        world.cut.clear();
        world.run(17 * T + 2 * H);
        prop_assert!(world.mutual());
    }
}
