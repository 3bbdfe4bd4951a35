//! Puts and gets of unique values, by zones (Gibbons and Korach 1997, "Testing shared memories", section 4).
//!
//! A value is written once, so it is current once: the write and all reads of the value lie together in the order. Let `end` be
//! when the first of them ended, and `begin` when the last of them began. If `end < begin` the value was certainly current in
//! between: a *forward* zone. Else they all have a moment in common, any of `begin..=end`: a *backward* zone. The history is
//! linearizable exactly if no two forward zones overlap, no backward zone lies inside a forward one, and no read ended before its
//! write began (which the caller has checked).
//!
//! "No value" is written once, too: before everything else. A put without an answer that nobody saw has a zone that does not end,
//! so nothing speaks against it.

use std::collections::BTreeMap;

use crate::{Effect, Moment, Operation, Refused, Value};

/// The operations on one value.
#[derive(Clone, Copy, Debug)]
struct Zone {
    value: Value,
    /// When the first of them ended.
    end: Moment,
    /// When the last of them began.
    begin: Moment,
}

impl Zone {
    fn is_forward(&self) -> bool {
        self.end < self.begin
    }
}

/// Moments of the history are one later here, so that 0 is before all of them.
fn shifted(moment: Moment) -> Moment {
    moment.saturating_add(1)
}

/// Checks a history of puts and gets.
///
/// # Errors
/// [`Refused::Stale`].
pub(crate) fn check(operations: &[Operation]) -> Result<(), Refused> {
    let mut zones: BTreeMap<Value, Zone> = BTreeMap::new();
    let nothing = Zone {
        value: None,
        end: 0,
        begin: 0,
    };
    zones.insert(None, nothing);
    for operation in operations {
        let value = match operation.effect {
            Effect::Get(value) => value,
            Effect::Put(value) => Some(value),
            Effect::Delete | Effect::Swap { .. } => unreachable!("the caller looked"),
        };
        let (began, ended) = (shifted(operation.began), shifted(operation.ended));
        let zone = zones.entry(value).or_insert(Zone {
            value,
            end: ended,
            begin: began,
        });
        zone.end = zone.end.min(ended);
        zone.begin = zone.begin.max(began);
    }

    let (mut forward, backward): (Vec<Zone>, Vec<Zone>) =
        zones.into_values().partition(Zone::is_forward);
    forward.sort_by_key(|zone| zone.end);
    for pair in forward.windows(2) {
        if pair[1].end < pair[0].begin {
            return Err(stale(operations, &pair[0], &pair[1]));
        }
    }
    // They do not overlap, so the last one that ended before a backward zone is the only one that can hold it.
    for zone in &backward {
        let place = forward.partition_point(|around| around.end < zone.begin);
        if let Some(around) = forward[..place].last()
            && zone.end < around.begin
        {
            return Err(stale(operations, around, zone));
        }
    }
    Ok(())
}

/// Names the operations by which `around` was current before and after `inner`.
fn stale(operations: &[Operation], around: &Zone, inner: &Zone) -> Refused {
    let of = |operation: &&Operation, zone: &Zone| match operation.effect {
        Effect::Put(value) => zone.value == Some(value),
        Effect::Get(value) => zone.value == value,
        Effect::Delete | Effect::Swap { .. } => false,
    };
    let edges = |zone: &Zone| {
        let all = || operations.iter().filter(|operation| of(operation, zone));
        let first = all().min_by_key(|operation| operation.ended);
        let last = all().max_by_key(|operation| operation.began);
        [first, last]
    };
    let mut shown: Vec<Operation> = [around, inner]
        .into_iter()
        .flat_map(edges)
        .flatten()
        .copied()
        .collect();
    shown.sort_by_key(|operation| (operation.began, operation.ended));
    shown.dedup();
    Refused::Stale {
        stale: around.value,
        newer: inner.value,
        operations: shown,
    }
}
