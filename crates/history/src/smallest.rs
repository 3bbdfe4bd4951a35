//! A counterexample that a person can read.

use std::collections::BTreeSet;

use crate::{Effect, Operation, Value, check_within};

/// States that are looked at for each attempt to leave something out.
const STATES_MAX: usize = 1 << 16;

/// What is left of a history that is not linearizable when everything is left out without which it is none either: no more of
/// it can go. In the order of beginning. A history of which that is not certain is returned whole.
///
/// Only that is left out whose absence explains nothing: if the history had an order, so would what is left. Reads can always go;
/// a write can go when nobody saw its value, a delete when nobody found nothing.
pub fn smallest(operations: &[Operation]) -> Vec<Operation> {
    let mut kept = operations.to_vec();
    kept.sort_by_key(|operation| (operation.began, operation.ended));
    if !is_violation(&kept) {
        return kept;
    }
    let mut size = kept.len().div_ceil(2);
    loop {
        let before = kept.len();
        // From the end, because what came after the fault is what explains nothing.
        let mut end = kept.len();
        while end > 0 {
            let start = end.saturating_sub(size);
            let rest = [&kept[..start], &kept[end..]].concat();
            if may_go(&kept[start..end], &rest) && is_violation(&rest) {
                kept = rest;
            }
            end = start;
        }
        match size {
            1 if kept.len() == before => return kept,
            1 => {}
            _ => size = size.div_ceil(2),
        }
    }
}

fn is_violation(operations: &[Operation]) -> bool {
    check_within(operations, STATES_MAX).is_err_and(|refused| refused.is_violation())
}

/// Whether an order of the whole would be one of `rest` alone.
fn may_go(gone: &[Operation], rest: &[Operation]) -> bool {
    let needed: BTreeSet<Value> = rest.iter().filter_map(needs).collect();
    gone.iter().all(|operation| match operation.effect {
        Effect::Get(_) => true,
        Effect::Delete => !needed.contains(&None),
        Effect::Put(_) | Effect::Swap { .. } => operation
            .may_write()
            .is_none_or(|value| !needed.contains(&Some(value))),
    })
}

/// What the operation found, or may have found.
fn needs(operation: &Operation) -> Option<Value> {
    match operation.effect {
        Effect::Get(value) => Some(value),
        Effect::Swap {
            found: Some((value, _)),
            ..
        } => Some(value),
        Effect::Swap { expected, .. } => Some(expected),
        Effect::Put(_) | Effect::Delete => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Moment;

    fn operation(began: Moment, ended: Moment, effect: Effect) -> Operation {
        Operation {
            began,
            ended,
            effect,
        }
    }

    /// A hundred puts, each read; then one read too late of the value before.
    fn stale(extra: Effect) -> Vec<Operation> {
        let mut history = Vec::new();
        for value in 1..=100 {
            history.push(operation(value * 10, value * 10 + 2, Effect::Put(value)));
            history.push(operation(
                value * 10 + 4,
                value * 10 + 6,
                Effect::Get(Some(value)),
            ));
        }
        history.push(operation(508, 509, Effect::Get(Some(49))));
        history.push(operation(2_000, 2_001, extra));
        history
    }

    #[test]
    fn a_stale_read_shows_with_three_operations() {
        for extra in [Effect::Get(Some(100)), Effect::Delete] {
            let shown = smallest(&stale(extra));
            let effects: Vec<Effect> = shown.iter().map(|operation| operation.effect).collect();
            assert_eq!(
                effects,
                [Effect::Put(49), Effect::Put(50), Effect::Get(Some(49))].to_vec(),
                "{shown:?}"
            );
        }
    }

    #[test]
    fn what_passes_stays_whole() {
        let history = [
            operation(1, 2, Effect::Put(1)),
            operation(3, 4, Effect::Get(Some(1))),
        ];
        assert_eq!(smallest(&history), history);
    }

    #[test]
    fn an_unknown_swap_keeps_what_it_may_have_found() {
        let swap = Effect::Swap {
            expected: Some(1),
            new: 2,
            found: None,
        };
        let history = [
            operation(1, 2, Effect::Put(1)),
            operation(3, crate::NEVER, swap),
            operation(4, 5, Effect::Get(Some(2))),
            operation(6, 7, Effect::Get(Some(1))),
        ];
        let shown = smallest(&history);
        assert_eq!(shown, history, "each of them is needed");
    }
}
