//! What operators that even out brought, looked at when loads had time to follow (REGIONS §9).

use std::collections::VecDeque;
use std::time::Duration;

use proto::pontoon::v1::journal_entry::Kind;
use proto::pontoon::v1::{JournalEntry, JournalNumber};

use super::Leader;
use crate::event::Now;
use crate::operator::Priority;
use crate::outbox::Happened;
use crate::scheduler::{Relief, View};
use crate::score::Dimension;

/// Loads are sums over the newest minute, and told every ten seconds.
const AFTER: Duration = Duration::from_secs(90);
/// Operators whose effect is still to be looked at. Where more end in that time, the first of them are left out.
const AWAITED_MAX: usize = 256;

/// Operators that ended, in that order, with when their effect is due. A new leader does not know those of the one before.
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
    use crate::outbox::What;

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
