//! Both ways of checking against one that tries every order, on small random histories of every shape; and large ones, which
//! must be decided in time.

use history::{Effect, Moment, NEVER, Operation, Refused, Value, check, check_within, smallest};

/// Histories that are tried; the variable `HISTORIES` sets another number.
const HISTORIES: u64 = 60_000;

/// SplitMix64, so that a history is named by its number.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }
}

/// Whether some order explains the history: all of them are tried.
fn explained(operations: &[Operation], done: u32, value: Value) -> bool {
    let left = || (0..operations.len()).filter(|place| done & (1 << place) == 0);
    let Some(deadline) = left()
        .map(|place| operations[place].ended)
        .filter(|ended| *ended != NEVER)
        .min()
    else {
        return true;
    };
    left()
        .filter(|place| operations[*place].began <= deadline)
        .any(|place| {
            after(&operations[place], value)
                .is_some_and(|value| explained(operations, done | 1 << place, value))
        })
}

/// What the key holds after the operation; `None` if it was told something else than it would have found.
fn after(operation: &Operation, value: Value) -> Option<Value> {
    match operation.effect {
        Effect::Put(new) => Some(Some(new)),
        Effect::Delete => Some(None),
        Effect::Get(seen) => (seen == value).then_some(value),
        Effect::Swap {
            expected,
            new,
            found,
        } => {
            let swaps = expected == value;
            let told = found.is_none_or(|found| found == (value, swaps));
            told.then_some(if swaps { Some(new) } else { value })
        }
    }
}

/// What a register would have done with a few clients, each with one operation at a time; then perhaps something is altered.
fn history(number: u64) -> Vec<Operation> {
    let random = &mut Random(number);
    // Few moments, so that some are the same; and many histories in which nothing overlaps by much.
    let span = 4 + random.below(20);
    let count = 2 + random.below(6);
    let plain = random.one_in(3);
    let patient = random.one_in(3);
    let mut operations: Vec<(Moment, Operation)> = Vec::new();
    for new in 1..=count {
        let began = random.below(span);
        let happened = began + random.below(4);
        let ended = happened + random.below(4);
        let expected = match random.below(3) {
            0 => None,
            _ => Some(1 + random.below(count)),
        };
        let effect = match random.below(if plain { 2 } else { 4 }) {
            0 => Effect::Put(new),
            1 => Effect::Get(None),
            2 => Effect::Delete,
            _ => Effect::Swap {
                expected,
                new,
                found: None,
            },
        };
        let operation = Operation {
            began,
            ended,
            effect,
        };
        operations.push((happened, operation));
    }
    let unknown = if patient { u64::MAX } else { 3 };
    let mut operations = answered(operations, unknown, random);
    if random.one_in(2) {
        alter(&mut operations, random);
    }
    operations
}

/// Lets operations happen on a register at their moments. One in `unknown` writes gets no answer; a third of those is lost.
fn answered(
    mut operations: Vec<(Moment, Operation)>,
    unknown: u64,
    random: &mut Random,
) -> Vec<Operation> {
    operations.sort_by_key(|(happened, _)| *happened);
    let mut value = None;
    for (_, operation) in &mut operations {
        let open = !matches!(operation.effect, Effect::Get(_)) && random.one_in(unknown);
        if open {
            operation.ended = NEVER;
            if random.one_in(3) {
                continue;
            }
        }
        match &mut operation.effect {
            Effect::Put(new) => value = Some(*new),
            Effect::Delete => value = None,
            Effect::Get(seen) => *seen = value,
            Effect::Swap {
                expected,
                new,
                found,
            } => {
                let swaps = *expected == value;
                if !open {
                    *found = Some((value, swaps));
                }
                if swaps {
                    value = Some(*new);
                }
            }
        }
    }
    operations
        .into_iter()
        .map(|(_, operation)| operation)
        .collect()
}

/// Tells a client something else, or moves an operation in time.
fn alter(operations: &mut [Operation], random: &mut Random) {
    let place = random.below(operations.len() as u64) as usize;
    let told = match random.below(4) {
        0 => None,
        _ => Some(1 + random.below(operations.len() as u64)),
    };
    let operation = &mut operations[place];
    match &mut operation.effect {
        Effect::Get(seen) => *seen = told,
        Effect::Swap {
            expected,
            found: Some(found),
            ..
        } => *found = (told, told == *expected || random.one_in(8)),
        Effect::Put(_) | Effect::Delete | Effect::Swap { .. } => {
            let later = random.below(8);
            operation.began += later;
            operation.ended = operation.ended.saturating_add(later);
        }
    }
}

#[test]
fn both_ways_agree_with_trying_every_order() {
    let histories = std::env::var("HISTORIES").map_or(HISTORIES, |text| {
        text.parse().expect("HISTORIES is a number")
    });
    // By whether there are only puts and gets, and whether it is linearizable.
    let mut counts = [[0u64; 2]; 2];
    for number in 0..histories {
        let operations = history(number);
        let expected = explained(&operations, 0, None);
        let found = check(&operations);
        if let Err(refused) = &found {
            assert!(refused.is_violation(), "history {number}: {refused}");
        }
        assert_eq!(
            found.is_ok(),
            expected,
            "history {number}: {found:?}\n{operations:#?}"
        );
        if !expected {
            let shown = smallest(&operations);
            assert!(
                !explained(&shown, 0, None),
                "history {number}: there is an order for what was kept of it: {shown:#?}"
            );
        }
        let plain = operations
            .iter()
            .all(|operation| matches!(operation.effect, Effect::Put(_) | Effect::Get(_)));
        counts[usize::from(plain)][usize::from(expected)] += 1;
    }
    assert!(
        counts.iter().flatten().all(|count| *count > histories / 40),
        "some kind of history is rare: {counts:?}"
    );
}

/// Six clients that do 300 operations on a key without a pause, one in ten writes without an answer: the most that clients of
/// tests do. Half of the histories are not linearizable.
#[test]
fn full_histories_need_a_small_part_of_the_budget() {
    let mut counts = [0; 2];
    for number in 0..400 {
        let random = &mut Random(number);
        let mut clients = [0; 6];
        let mut operations = Vec::new();
        for new in 1..=300 {
            let client = random.below(6) as usize;
            let began = clients[client] + 1 + random.below(20);
            let happened = began + random.below(100);
            let ended = happened + random.below(100);
            clients[client] = ended;
            let effect = match random.below(10) {
                0..4 => Effect::Get(None),
                4..6 => Effect::Put(new),
                6 => Effect::Delete,
                _ => Effect::Swap {
                    expected: (!random.one_in(3)).then(|| 1 + random.below(new)),
                    new,
                    found: None,
                },
            };
            let operation = Operation {
                began,
                ended,
                effect,
            };
            operations.push((happened, operation));
        }
        let mut operations = answered(operations, 10, random);
        if number % 2 == 1 {
            // A get sees what had been there long before.
            let seen: Vec<Value> = operations
                .iter()
                .filter_map(|operation| match operation.effect {
                    Effect::Get(value) => Some(value),
                    _ => None,
                })
                .collect();
            let gets = operations
                .iter_mut()
                .filter_map(|operation| match &mut operation.effect {
                    Effect::Get(value) => Some(value),
                    _ => None,
                });
            let place = seen.len() / 2 + random.below(seen.len() as u64 / 2) as usize;
            let old = seen[..place / 2].iter().rfind(|value| value.is_some());
            *gets.into_iter().nth(place).expect("a get") = *old.expect("a value was seen");
        }
        match check_within(&operations, 1_000) {
            Ok(()) => counts[0] += 1,
            Err(Refused::Inexplicable { .. }) => counts[1] += 1,
            Err(refused) => panic!("history {number}: {refused}"),
        }
    }
    assert_eq!(counts, [200, 200]);
}
