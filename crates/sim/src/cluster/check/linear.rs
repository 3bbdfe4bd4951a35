//! R23 Linearizable keys, by the search of Wing and Gong (1993) with the memo of Lowe (2017), key by key.
//!
//! Values are unique. An operation whose outcome is not known stays open to the end; if nobody ever saw its value it is left
//! out, since a history that needs it not is the harder one, and else it happened before whoever saw it first was answered.

use std::collections::{BTreeMap, BTreeSet};

use crate::rule::{Violation, ensure};

/// When something happened; only the order counts.
pub type Moment = u64;

/// The number of a value; `None` is "no such key".
pub type Value = Option<u64>;

/// What was asked, and what came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Wrote the value.
    Put(u64),
    /// Returned the value.
    Get(Value),
    /// Wrote `new` if `previous` was there; an answered one tells what was.
    Swap {
        /// What was asked for.
        expected: Value,
        /// What was to be written.
        new: u64,
        /// What was there, and whether `new` took its place. Unknown while unanswered.
        found: Option<(Value, bool)>,
    },
}

/// One operation on a key.
#[derive(Clone, Copy, Debug)]
pub struct Operation {
    /// When it began.
    pub began: Moment,
    /// When it was answered; the end of time if it never was.
    pub ended: Moment,
    /// What it was.
    pub effect: Effect,
}

/// The end of time.
pub const NEVER: Moment = Moment::MAX;

impl Operation {
    fn written(&self) -> Option<u64> {
        match self.effect {
            Effect::Put(value) => Some(value),
            Effect::Swap { new, found, .. } => match found {
                Some((_, false)) => None,
                Some((_, true)) | None => Some(new),
            },
            Effect::Get(_) => None,
        }
    }

    fn seen(&self) -> Option<u64> {
        match self.effect {
            Effect::Get(value) => value,
            Effect::Swap { found, .. } => found.and_then(|(value, _)| value),
            Effect::Put(_) => None,
        }
    }

    /// The value after it, if it may happen now.
    fn after(&self, value: Value) -> Option<Value> {
        match self.effect {
            Effect::Put(new) => Some(Some(new)),
            Effect::Get(seen) => (seen == value).then_some(value),
            Effect::Swap {
                expected,
                new,
                found,
            } => match found {
                Some((seen, succeeded)) => (seen == value && succeeded == (expected == value))
                    .then_some(if succeeded { Some(new) } else { value }),
                // Its value was seen, so it succeeded.
                None => (expected == value).then_some(Some(new)),
            },
        }
    }
}

/// Operations that may be open at once; more is a failure of the test, not of the store.
const WINDOW: usize = 128;

/// Checks the history of one key.
///
/// # Errors
/// R23.
pub fn check(key: &str, operations: &[Operation]) -> Result<(), Violation> {
    let mut first_seen: BTreeMap<u64, Moment> = BTreeMap::new();
    for operation in operations {
        if let Some(value) = operation.seen() {
            let seen = first_seen.entry(value).or_insert(NEVER);
            *seen = (*seen).min(operation.ended);
        }
    }
    // Whoever was seen to have swapped saw what it expected, which may be the value of another unknown one, and so on.
    loop {
        let mut more = false;
        for operation in operations
            .iter()
            .filter(|operation| operation.ended == NEVER)
        {
            if let Effect::Swap {
                expected: Some(expected),
                new,
                ..
            } = operation.effect
                && let Some(moment) = first_seen.get(&new).copied()
            {
                let seen = first_seen.entry(expected).or_insert(NEVER);
                more |= moment < *seen;
                *seen = (*seen).min(moment);
            }
        }
        if !more {
            break;
        }
    }
    let mut history: Vec<Operation> = Vec::with_capacity(operations.len());
    for operation in operations {
        let mut operation = *operation;
        if operation.ended == NEVER {
            match operation.written().and_then(|value| first_seen.get(&value)) {
                Some(seen) => operation.ended = *seen,
                None => continue,
            }
        }
        history.push(operation);
    }
    history.sort_by_key(|operation| operation.began);

    // A state: everything before `first` is done, and so are the marked ones after it.
    let mut visited: BTreeSet<(usize, u128, Value)> = BTreeSet::new();
    let mut open = vec![(0usize, 0u128, None)];
    let mut furthest = 0;
    while let Some((mut first, mut done, value)) = open.pop() {
        while done & 1 == 1 {
            done >>= 1;
            first += 1;
        }
        furthest = furthest.max(first);
        if first == history.len() {
            return Ok(());
        }
        if !visited.insert((first, done, value)) {
            continue;
        }
        let mut deadline = NEVER;
        for (place, operation) in history[first..].iter().enumerate() {
            if operation.began > deadline {
                break;
            }
            ensure!(
                Linearizable,
                place < WINDOW,
                "key {key}: more than {WINDOW} operations at once"
            );
            if done & (1 << place) != 0 {
                continue;
            }
            deadline = deadline.min(operation.ended);
        }
        for (place, operation) in history[first..].iter().enumerate() {
            if operation.began > deadline {
                break;
            }
            if done & (1 << place) == 0
                && let Some(next) = operation.after(value)
            {
                open.push((first, done | 1 << place, next));
            }
        }
    }
    let around = &history[furthest.saturating_sub(6)..history.len().min(furthest + 6)];
    Err(Violation {
        rule: crate::rule::Rule::Linearizable,
        text: format!(
            "key {key}: no order explains operation {furthest} of {}, around it: {around:?}",
            history.len()
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(began: Moment, ended: Moment, effect: Effect) -> Operation {
        Operation {
            began,
            ended,
            effect,
        }
    }

    #[test]
    fn accepts_overlap_and_refuses_staleness() {
        let put = operation(1, 4, Effect::Put(7));
        assert!(check("a", &[put, operation(2, 3, Effect::Get(None))]).is_ok());
        assert!(check("a", &[put, operation(2, 3, Effect::Get(Some(7)))]).is_ok());
        assert!(check("a", &[put, operation(5, 6, Effect::Get(None))]).is_err());
        let seen_then_not = [
            put,
            operation(2, 3, Effect::Get(Some(7))),
            operation(5, 6, Effect::Get(None)),
        ];
        assert!(check("a", &seen_then_not).is_err());
    }

    #[test]
    fn an_unknown_outcome_may_have_happened_or_not() {
        let put = operation(1, NEVER, Effect::Put(7));
        assert!(check("a", &[put, operation(2, 3, Effect::Get(None))]).is_ok());
        let late = [
            put,
            operation(2, 3, Effect::Get(None)),
            operation(9, 10, Effect::Get(Some(7))),
        ];
        assert!(check("a", &late).is_ok());
        let back = [
            put,
            operation(2, 3, Effect::Get(Some(7))),
            operation(9, 10, Effect::Get(None)),
        ];
        assert!(check("a", &back).is_err());
    }

    #[test]
    fn an_unknown_write_is_seen_through_an_unknown_swap() {
        let put = operation(1, NEVER, Effect::Put(7));
        let swap = operation(
            2,
            NEVER,
            Effect::Swap {
                expected: Some(7),
                new: 8,
                found: None,
            },
        );
        assert!(check("a", &[put, swap, operation(5, 6, Effect::Get(Some(8)))]).is_ok());
        assert!(check("a", &[swap, operation(5, 6, Effect::Get(Some(8)))]).is_err());
    }

    #[test]
    fn swaps_are_judged_by_what_they_found() {
        let put = operation(1, 2, Effect::Put(7));
        let swap = |found| Effect::Swap {
            expected: Some(7),
            new: 8,
            found,
        };
        assert!(
            check(
                "a",
                &[
                    put,
                    operation(3, 4, swap(Some((Some(7), true)))),
                    operation(5, 6, Effect::Get(Some(8)))
                ]
            )
            .is_ok()
        );
        assert!(check("a", &[put, operation(3, 4, swap(Some((Some(7), false))))]).is_err());
        assert!(
            check(
                "a",
                &[
                    put,
                    operation(3, NEVER, swap(None)),
                    operation(5, 6, Effect::Get(Some(8)))
                ]
            )
            .is_ok()
        );
    }
}
