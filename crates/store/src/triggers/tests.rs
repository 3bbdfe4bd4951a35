use proptest::prelude::*;

use super::*;

const SECOND: u64 = 20;

fn options() -> SplitOptions {
    SplitOptions {
        bytes: 100_000,
        keys: 0,
        requests_per_second: 100,
        bytes_per_second: 10_000,
        ..SplitOptions::default()
    }
}

/// A region of all keys, of so many bytes.
fn now(tick: u64, bytes: u64) -> Now<'static> {
    Now {
        tick,
        start: b"",
        end: b"",
        bytes,
        keys: 0,
        last_key: None,
        split_keys: &[],
    }
}

fn get(key: String) -> Keys {
    Keys::Points(vec![key.into()])
}

fn put(key: &str, bytes: usize) -> wire::Operation {
    wire::Operation {
        kind: Some(Kind::Put(wire::Put {
            key: key.to_owned().into(),
            value: vec![0; bytes].into(),
            expires_at: 0,
        })),
    }
}

/// Seconds of `count` reads each, of keys that `key` makes; the wish at the end of each.
fn read_seconds(
    triggers: &mut Triggers,
    first: u64,
    counts: &[u64],
    key: impl Fn(u64) -> String,
) -> Vec<Option<Wish>> {
    let options = options();
    let second = |(number, count): (usize, &u64)| {
        for request in 0..*count {
            triggers.count_read(&get(key(request)), (b"", b""), &options);
        }
        let tick = (first + number as u64 + 1) * SECOND;
        triggers.tick(now(tick, 0), &options)
    };
    counts.iter().enumerate().map(second).collect()
}

fn wishes(found: &[Option<Wish>]) -> Vec<bool> {
    found.iter().map(Option::is_some).collect()
}

#[test]
fn load_over_its_limit_in_three_of_five_seconds_splits() {
    let mut triggers = Triggers::new(0, 1, &options());
    let key = |request: u64| format!("k{:03}", request % 100);
    let found = read_seconds(&mut triggers, 0, &[150, 20, 150, 20, 150, 0, 150], key);
    // The third second above the limit is the fifth; in the seventh there are three of five again.
    assert_eq!(
        wishes(&found),
        [false, false, false, false, true, false, true]
    );
    let wish = found[4].as_ref().expect("it was just there");
    assert_eq!(wish.cause, SplitCause::Load);
    let at: u64 = std::str::from_utf8(&wish.keys[0][1..])
        .expect("digits")
        .parse()
        .expect("digits");
    assert!((30..70).contains(&at), "half of the load lies below {at}");
    let quiet = read_seconds(&mut triggers, 7, &[100; 8], key);
    assert!(
        quiet.iter().all(Option::is_none),
        "the limit itself is allowed"
    );
}

#[test]
fn bytes_are_load_as_well() {
    let options = options();
    let mut triggers = Triggers::new(0, 1, &options);
    let mut found = Vec::new();
    for second in 1..=3 {
        for request in 0..50 {
            triggers.count_read(&get(format!("k{request}")), (b"", b""), &options);
        }
        triggers.count_bytes(10_001);
        found.push(triggers.tick(now(second * SECOND, 0), &options));
    }
    assert_eq!(wishes(&found), [false, false, true]);
}

/// A limit of 0 is none: neither of the two, or one of them alone.
#[test]
fn without_a_limit_no_load_splits() {
    for (requests_per_second, bytes_per_second) in [(0, 0), (0, 1_000_000), (1_000, 0)] {
        let options = SplitOptions {
            requests_per_second,
            bytes_per_second,
            ..options()
        };
        let mut triggers = Triggers::new(0, 1, &options);
        for second in 1..=8 {
            for request in 0..200 {
                triggers.count_read(&get(format!("k{request}")), (b"", b""), &options);
            }
            triggers.count_bytes(100_000);
            let wish = triggers.tick(now(second * SECOND, 0), &options);
            assert_eq!(wish, None, "{requests_per_second} {bytes_per_second}");
        }
    }
}

/// Appends that are too much load as well are split ahead: where the load halves, all would go on to one side.
#[test]
fn appends_go_before_load() {
    let options = options();
    let mut triggers = Triggers::new(0, 1, &options);
    let mut last = "k00000".to_owned();
    let mut first = None;
    for second in 0..8 {
        let known = last.clone();
        for insert in 1..=150 {
            last = format!("k{:05}", second * 150 + insert);
            let keys = Keys::Points(vec![last.clone().into()]);
            // Nothing can be split for load before the pattern is known.
            let keys = if second < 5 {
                Keys::Points(vec![])
            } else {
                keys
            };
            triggers.count_write(&keys, &[put(&last, 94)], (b"", b""), &options);
        }
        let now = Now {
            last_key: Some(known.as_bytes()),
            ..now((second + 1) * SECOND, 80_000)
        };
        first = first.or(triggers.tick(now, &options));
    }
    assert_eq!(first.map(|wish| wish.cause), Some(SplitCause::Appends));
}

#[test]
fn one_hot_key_is_not_divided() {
    let mut triggers = Triggers::new(0, 1, &options());
    let hot = |request: u64| format!("k{}", if request % 10 < 7 { 5 } else { request % 10 });
    let found = read_seconds(&mut triggers, 0, &[1_000; 6], hot);
    assert!(found.iter().all(Option::is_none), "{found:?}");
    let told = triggers.take_hot().expect("it is told");
    let percent = told.iter().find(|(name, _)| *name == "percent of one key");
    assert!(matches!(percent, Some((_, 61.0..=100.0))), "{told:?}");
    assert_eq!(triggers.take_hot(), None, "once");
    let later = SplitOptions::default().retry_ticks_max / SECOND;
    read_seconds(&mut triggers, 6, &[1_000; 6], hot);
    assert_eq!(triggers.take_hot(), None, "not again at once");
    read_seconds(&mut triggers, later, &[1_000; 6], hot);
    assert!(triggers.take_hot().is_some(), "but after a while");
}

#[test]
fn a_refusal_makes_it_wait_twice_as_long_each_time() {
    let options = options();
    let mut triggers = Triggers::new(0, 1, &options);
    let keys = [Bytes::from_static(b"m")];
    let full = |tick| Now {
        split_keys: &keys,
        ..now(tick, 200_000)
    };
    let mut asked = Vec::new();
    for tick in 1..=6_000 {
        if let Some(wish) = triggers.tick(full(tick), &options) {
            assert_eq!((wish.cause, &wish.keys[..]), (SplitCause::Size, &keys[..]));
            asked.push(tick);
            triggers.on_refused(SplitCause::Size, tick, &options);
        }
    }
    let pauses: Vec<u64> = asked.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert_eq!(pauses[..7], [20, 40, 80, 160, 320, 640, 1_200]);
    assert!(pauses[7..].iter().all(|pause| *pause == 1_200));
    triggers.on_proposed();
    triggers.on_refused(SplitCause::Size, 9_000, &options);
    assert!(
        triggers.tick(full(9_020), &options).is_some(),
        "a success forgives"
    );
    triggers.rest(9_500);
    assert!(triggers.tick(full(9_499), &options).is_none());
    assert!(triggers.tick(full(9_500), &options).is_some());
}

/// Seconds of `count` inserts each of 100 bytes, whose numbers begin at `from`; wishes of a region that begins half full.
fn insert_seconds(seconds: u64, count: u64, number: impl Fn(u64) -> u64) -> Vec<Option<Wish>> {
    let options = SplitOptions {
        requests_per_second: 0,
        bytes_per_second: 0,
        ..options()
    };
    let mut triggers = Triggers::new(0, 1, &options);
    let mut last = "k00000".to_owned();
    let mut found = Vec::new();
    for second in 0..seconds {
        let known = last.clone();
        for insert in 0..count {
            let key = format!("k{:05}", number(second * count + insert));
            triggers.count_write(
                &Keys::Points(vec![]),
                &[put(&key, 94)],
                (b"", b""),
                &options,
            );
            last = last.max(key);
        }
        let bytes = 60_000 + (second + 1) * count * 100;
        let now = Now {
            last_key: Some(known.as_bytes()),
            ..now((second + 1) * SECOND, bytes)
        };
        found.push(triggers.tick(now, &options));
    }
    found
}

#[test]
fn inserts_above_the_last_key_split_ahead_of_them() {
    let found = insert_seconds(6, 10, |number| number + 1);
    // In the first second nobody knows the last key.
    assert_eq!(wishes(&found), [false, false, false, false, false, true]);
    let wish = found[5].as_ref().expect("it was just there");
    assert_eq!(wish.cause, SplitCause::Appends);
    // Ten a second, sixty so far, three seconds more.
    assert_eq!(wish.keys, [b"k00090".as_slice()]);
}

#[test]
fn inserts_that_overtake_each_other_are_appends_still() {
    let shuffled = |number: u64| number / 8 * 8 + 8 - number % 8;
    assert!(insert_seconds(6, 16, shuffled)[5].is_some());
}

#[test]
fn other_inserts_do_not_split_ahead() {
    let scattered = |number: u64| number * 7_919 % 10_000;
    assert!(
        insert_seconds(20, 10, scattered)
            .iter()
            .all(Option::is_none)
    );
    // One of five goes below.
    let mixed = |number: u64| if number.is_multiple_of(5) { 0 } else { number };
    assert!(insert_seconds(20, 10, mixed).iter().all(Option::is_none));
    // It would take minutes to fill.
    assert!(
        insert_seconds(20, 1, |number| number + 1)
            .iter()
            .all(Option::is_none)
    );
}

proptest! {
    /// Against counting by hand: a split for load needs three seconds of the last five above the limit, the last one too.
    #[test]
    fn load_is_judged_by_whole_seconds(counts in prop::collection::vec(80u64..125, 1..30)) {
        let mut triggers = Triggers::new(0, 1, &options());
        let found = read_seconds(&mut triggers, 0, &counts, |request| format!("k{request:03}"));
        for (at, wish) in found.iter().enumerate() {
            let window = &counts[at.saturating_sub(4)..=at];
            let over = window.iter().filter(|count| **count > 100).count();
            prop_assert_eq!(wish.is_some(), over >= 3 && counts[at] > 100, "second {}", at);
        }
    }
}
