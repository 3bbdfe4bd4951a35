//! What operators that even out brought, looked at when loads had time to follow (REGIONS §9).

use std::collections::VecDeque;
use std::time::Duration;

use proto::pontoon::v1::journal_entry::Kind;
use proto::pontoon::v1::{JournalEntry, JournalNumber};

use super::Leader;
use crate::event::Now;
use crate::journal::Journal;
use crate::operator::Priority;
use crate::operators::Operators;
use crate::outbox::{Happened, What};
use crate::scheduler::{Relief, View};
use crate::score::Dimension;

/// Loads are sums over the newest minute, and told every ten seconds.
const AFTER: Duration = Duration::from_secs(90);
/// Operators whose effect is still to be looked at. Where more end in that time, the first of them are left out.
const AWAITED_MAX: usize = 256;

/// An effect that is due for longer is not told any more: others had effects since.
const LATE: Duration = Duration::from_secs(600);

/// Operators that ended, with when their effect is due, in that order.
#[derive(Debug, Default)]
pub(super) struct Awaited(VecDeque<(Duration, Happened)>);

impl Awaited {
    /// An operator is done.
    pub fn add(&mut self, done: &Happened, now: Now) {
        if dimensions(done.priority).is_empty() {
            return;
        }
        if self.0.len() == AWAITED_MAX {
            self.0.pop_front();
        }
        self.0.push_back((now.monotonic + AFTER, done.clone()));
    }

    /// Operators that ended under earlier leaders, and whose effect the journal does not have yet. What is due waits until
    /// stores have told what they have.
    pub fn load(operators: &Operators, journal: &Journal, settle: Duration, now: Now) -> Self {
        let oldest = now
            .wall_ms
            .saturating_sub((AFTER + LATE).as_millis() as u64);
        let told = journal.effects(oldest);
        let mut ended: Vec<_> = operators
            .done()
            .filter(|operator| !dimensions(operator.priority).is_empty())
            .filter_map(|operator| {
                let age = now.wall_ms.saturating_sub(operator.finished_at_ms);
                let age = Duration::from_millis(age);
                let waits = operator.finished_at_ms >= oldest && !told.contains(&operator.id);
                waits.then_some((AFTER.saturating_sub(age), operator))
            })
            .collect();
        ended.sort_by_key(|(left, operator)| (*left, operator.id));
        let first = ended.len().saturating_sub(AWAITED_MAX);
        let due = ended[first..].iter().map(|(left, operator)| {
            let due = now.monotonic + (*left).max(settle);
            (due, Happened::of(operator, What::Done, String::new(), now))
        });
        Self(due.collect())
    }

    fn take_due(&mut self, now: Now) -> Vec<Happened> {
        let due = self.0.partition_point(|(due, _)| *due <= now.monotonic);
        self.0.drain(..due).map(|(_, done)| done).collect()
    }
}

/// What an operator of this priority changes.
fn dimensions(priority: Priority) -> &'static [Dimension] {
    match priority {
        Priority::Balance => &[Dimension::Size, Dimension::Leaders],
        Priority::Hot => &[
            Dimension::Proposals,
            Dimension::WrittenBytes,
            Dimension::WrittenKeys,
            Dimension::Reads,
        ],
        _ => &[],
    }
}

impl Leader {
    /// Writes effects down that are due.
    pub(super) fn tell_effects(&mut self, now: Now) {
        let due = self.awaited.take_due(now);
        if due.is_empty() {
            return;
        }
        let view = View::new(
            &self.regions,
            &self.stores,
            &self.operators,
            &self.balancer.rests,
            Relief::new(),
            &self.places,
            &self.settings,
            now,
        );
        for done in due {
            let (from, to) = done.stores;
            let mut measured = Vec::new();
            for &dimension in dimensions(done.priority) {
                let mut number = |of: &str, value| {
                    measured.push(JournalNumber {
                        name: format!("{} {of}", dimension.name()),
                        value,
                    });
                };
                number("mean", view.mean(dimension));
                for (of, store) in [("from", from), ("to", to)] {
                    if let Some(used) = store.and_then(|store| view.used(dimension, store)) {
                        number(of, used);
                    }
                }
            }
            let entry = JournalEntry {
                kind: Kind::Effect.into(),
                view_version: self.view_version,
                who: done.priority.name().into(),
                region_id: done.region.0,
                epoch: Some(done.epoch.to_wire()),
                operator_id: done.operator,
                from_store: from.map_or(0, |store| store.0),
                to_store: to.map_or(0, |store| store.0),
                measured,
                ..JournalEntry::default()
            };
            self.journal.write(entry, now, &mut self.outbox);
        }
    }
}

#[cfg(test)]
mod tests {
    use proto::RegionId;

    use super::*;
    use crate::operator::Epoch;

    fn done(operator: u64, priority: Priority) -> Happened {
        Happened {
            operator,
            region: RegionId(1),
            epoch: Epoch::default(),
            priority,
            stores: (None, None),
            age_ms: 0,
            what: What::Done,
            text: String::new(),
        }
    }

    #[test]
    fn effects_are_due_in_order_and_bounded() {
        let mut awaited = Awaited::default();
        let at = |seconds| Now {
            wall_ms: 0,
            monotonic: Duration::from_secs(seconds),
        };
        awaited.add(&done(1, Priority::Repair), at(0));
        assert!(
            awaited.take_due(at(1000)).is_empty(),
            "it evens nothing out"
        );
        for operator in 0..AWAITED_MAX as u64 + 5 {
            awaited.add(&done(operator, Priority::Hot), at(operator));
        }
        let first = AFTER.as_secs() + 6;
        let due: Vec<_> = awaited.take_due(at(first)).into_iter().collect();
        let due: Vec<_> = due.iter().map(|done| done.operator).collect();
        assert_eq!(due, [5, 6], "those before had no room");
        assert_eq!(awaited.take_due(at(10_000)).len(), AWAITED_MAX - 2);
    }
}
