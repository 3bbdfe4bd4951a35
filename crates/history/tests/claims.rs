//! What each kind of fault looks like, and what looks like one and is none.

use history::{Effect, Moment, NEVER, Operation, Refused, STATES_MAX, Value, check, check_within};

fn put(began: Moment, ended: Moment, value: u64) -> Operation {
    operation(began, ended, Effect::Put(value))
}

fn get(began: Moment, ended: Moment, value: Value) -> Operation {
    operation(began, ended, Effect::Get(value))
}

fn delete(began: Moment, ended: Moment) -> Operation {
    operation(began, ended, Effect::Delete)
}

fn swap(began: Moment, ended: Moment, expected: Value, new: u64, found: Value) -> Operation {
    let found = (ended != NEVER).then_some((found, found == expected));
    let effect = Effect::Swap {
        expected,
        new,
        found,
    };
    operation(began, ended, effect)
}

fn operation(began: Moment, ended: Moment, effect: Effect) -> Operation {
    Operation {
        began,
        ended,
        effect,
    }
}

/// The same with a delete at the end, which nobody looks at: it makes the search decide instead of the zones.
fn searched(operations: &[Operation]) -> Vec<Operation> {
    let end = operations.iter().map(|operation| operation.began).max();
    let end = end.expect("a history") + 100;
    [operations, &[delete(end, end)]].concat()
}

fn accept(operations: &[Operation]) {
    assert_eq!(check(operations), Ok(()));
    assert_eq!(check(&searched(operations)), Ok(()));
}

fn refuse(operations: &[Operation]) {
    for operations in [operations.to_vec(), searched(operations)] {
        let refused = check(&operations).expect_err("it is not linearizable");
        assert!(refused.is_violation(), "{refused}");
    }
}

#[test]
fn overlap_allows_either_order() {
    accept(&[put(1, 4, 7), get(2, 3, None)]);
    accept(&[put(1, 4, 7), get(2, 3, Some(7))]);
    accept(&[
        put(1, 9, 7),
        put(1, 9, 8),
        get(2, 3, Some(7)),
        get(4, 5, Some(8)),
    ]);
}

#[test]
fn a_stale_read_is_refused() {
    refuse(&[put(1, 4, 7), get(5, 6, None)]);
    refuse(&[put(1, 2, 7), put(3, 4, 8), get(5, 6, Some(7))]);
    // Somebody had seen the new value, though its write had no answer yet.
    refuse(&[
        put(1, 2, 7),
        put(3, 20, 8),
        get(4, 5, Some(8)),
        get(6, 7, Some(7)),
    ]);
    // Two writes at once have one order for everybody.
    refuse(&[
        put(1, 9, 7),
        put(1, 9, 8),
        get(10, 11, Some(7)),
        get(12, 13, Some(8)),
    ]);
}

#[test]
fn a_lost_write_is_refused() {
    refuse(&[put(1, 2, 7), put(3, 4, 8), get(90, 91, Some(7))]);
    refuse(&[put(1, 2, 7), get(90, 91, None)]);
    refuse(&[swap(1, 2, None, 7, None), get(90, 91, None)]);
    refuse(&[put(1, 2, 7), delete(3, 4), get(90, 91, Some(7))]);
}

#[test]
fn a_write_that_happened_twice_is_refused() {
    // 7 came back after 8 had replaced it, as a repeated put without an answer would do.
    refuse(&[
        put(1, NEVER, 7),
        get(2, 3, Some(7)),
        put(4, 5, 8),
        get(6, 7, Some(8)),
        get(8, 9, Some(7)),
    ]);
}

#[test]
fn two_swaps_of_one_value_are_refused() {
    let first = [put(1, 2, 7), swap(3, 9, Some(7), 8, Some(7))];
    let second = swap(3, 9, Some(7), 9, Some(7));
    accept(&first);
    refuse(&[&first[..], &[second]].concat());
    // The one without an answer may have failed, unless its value was seen as well.
    let unsure = swap(3, NEVER, Some(7), 9, None);
    accept(&[&first[..], &[unsure]].concat());
    refuse(&[&first[..], &[unsure, get(10, 11, Some(9))]].concat());
}

#[test]
fn swaps_are_judged_by_what_they_found() {
    accept(&[
        put(1, 2, 7),
        swap(3, 4, Some(7), 8, Some(7)),
        get(5, 6, Some(8)),
    ]);
    accept(&[
        put(1, 2, 7),
        swap(3, 4, Some(6), 8, Some(7)),
        get(5, 6, Some(7)),
    ]);
    refuse(&[put(1, 2, 7), swap(3, 4, Some(7), 8, None)]);
    let lied = Effect::Swap {
        expected: Some(7),
        new: 8,
        found: Some((Some(7), false)),
    };
    let lied = operation(3, 4, lied);
    assert_eq!(
        check(&[put(1, 2, 7), lied]),
        Err(Refused::WrongSwap { operation: lied })
    );
}

#[test]
fn an_unknown_outcome_stays_open_to_the_end() {
    accept(&[put(1, NEVER, 7), get(2, 3, None)]);
    accept(&[put(1, NEVER, 7), get(2, 3, None), get(90, 91, Some(7))]);
    refuse(&[put(1, NEVER, 7), get(2, 3, Some(7)), get(90, 91, None)]);
    accept(&[
        put(1, 2, 7),
        delete(3, NEVER),
        get(4, 5, Some(7)),
        get(90, 91, None),
    ]);
    refuse(&[put(1, 2, 7), delete(50, NEVER), get(4, 5, None)]);
    // One delete does not happen twice.
    let twice = [
        put(1, 2, 7),
        delete(3, NEVER),
        get(4, 5, None),
        put(6, 7, 8),
        get(8, 9, None),
    ];
    refuse(&twice);
    accept(&[&twice[..], &[delete(3, NEVER)]].concat());
    // The first get found what the other delete left, so that one is there for the second.
    accept(&[&twice[..], &[delete(3, 5)]].concat());
}

#[test]
fn unknown_writes_are_seen_through_unknown_swaps() {
    let chain = [
        put(1, NEVER, 7),
        swap(2, NEVER, Some(7), 8, None),
        swap(1, NEVER, Some(8), 9, None),
    ];
    let end = get(5, 6, Some(9));
    for order in [
        [0, 1, 2],
        [0, 2, 1],
        [1, 0, 2],
        [1, 2, 0],
        [2, 0, 1],
        [2, 1, 0],
    ] {
        let ordered = order.map(|place: usize| chain[place]);
        accept(&[&ordered[..], &[end]].concat());
    }
    for missing in 0..3 {
        let mut broken = [&chain[..], &[end]].concat();
        broken.remove(missing);
        refuse(&broken);
    }
}

#[test]
fn a_value_that_nobody_wrote_is_refused() {
    refuse(&[get(1, 2, Some(7))]);
    refuse(&[get(1, 2, Some(7)), put(3, 4, 7)]);
    refuse(&[put(1, 2, 6), swap(3, 4, Some(6), 7, Some(9))]);
    // A swap that failed wrote nothing.
    refuse(&[swap(1, 2, Some(6), 7, None), get(3, 4, Some(7))]);
}

#[test]
fn what_says_nothing_is_no_verdict() {
    let cases = [
        vec![put(1, 2, 7), put(3, 4, 7)],
        vec![put(4, 2, 7)],
        vec![get(4, NEVER, None)],
        (0..400)
            .map(|number| swap(1, 9, None, number, None))
            .collect(),
    ];
    for operations in cases {
        let refused = check(&operations).expect_err("it says nothing");
        assert!(!refused.is_violation(), "{refused}");
    }
}

/// Puts that overlap, of which two were the last: every subset that happened is a state.
fn hard() -> Vec<Operation> {
    let mut operations: Vec<Operation> = (0..12).map(|number| put(1, 50, number)).collect();
    operations.push(get(60, 61, Some(0)));
    operations.push(get(62, 63, Some(1)));
    searched(&operations)
}

#[test]
fn running_out_of_budget_is_a_failure() {
    let refused = check_within(&hard(), 1000);
    assert_eq!(refused, Err(Refused::OutOfBudget { states: 1000 }));
    let refused = check_within(&hard(), STATES_MAX).expect_err("two were the last");
    assert!(refused.is_violation(), "{refused}");
}

#[test]
fn a_write_may_happen_long_after_its_client_gave_up() {
    let mut operations = vec![swap(1, NEVER, Some(149), 1000, None)];
    operations.extend((0..150).map(|number| put(2 * number + 2, 2 * number + 3, number)));
    operations.push(get(900, 901, Some(1000)));
    accept(&operations);
    operations.push(get(902, 903, Some(149)));
    refuse(&operations);
}
