//! Splits that leaders of regions decide by themselves (REGIONS §4): they know keys and loads, the journal tells why.

use proto::pontoon::v1::own_split::Cause;
use proto::pontoon::v1::{JournalEntry, OwnSplit};
use proto::{RegionId, StoreId};

use super::Leader;
use crate::decision::{Decision, NUMBERS_MAX, Outcome, Who};
use crate::event::Now;
use crate::operator::Epoch;

/// Bytes of a text that a store tells, or of the name of a number.
const TOLD_BYTES_MAX: usize = 256;

impl Leader {
    /// Writes down what a leader decided about its region, or why it did not.
    pub(super) fn on_own_split(&mut self, mut told: OwnSplit, now: Now) {
        if self.cluster.bootstrapped_at_ms == 0 || !self.ids.known(told.region_id) {
            return;
        }
        let cause = match told.cause() {
            Cause::Size => "size",
            Cause::Load => "load",
            Cause::Appends => "appends",
        };
        truncate(&mut told.text);
        if let (false, Some(epoch)) = (told.refused, &told.epoch) {
            let (region, epoch) = (RegionId(told.region_id), Epoch::from_wire(Some(epoch)));
            match told.cause() {
                Cause::Appends => self.ahead.remember(region, epoch, now.monotonic),
                Cause::Size | Cause::Load => self.ahead.forget(region),
            }
        }
        let store = told.header.map(|header| StoreId(header.sender_id));
        let (outcome, text) = if told.refused {
            let reason = format!("not split for {cause}: {}", told.text).into();
            (Outcome::Refused { reason }, String::new())
        } else {
            // Its leader needs no operator.
            let text = format!("split for {cause} at {}", told.text);
            (Outcome::Created { operator: 0 }, text)
        };
        let mut decision = Decision {
            outcome,
            ..Decision::refused(Who::Split, Some(RegionId(told.region_id)), "")
        };
        decision = decision.between(store, None);
        for mut number in told.inputs.into_iter().take(NUMBERS_MAX) {
            truncate(&mut number.name);
            decision = decision.input(number.name, number.value);
        }
        let about = JournalEntry {
            view_version: self.view_version,
            // The view may know already what came of it.
            epoch: told.epoch,
            ..JournalEntry::default()
        };
        self.journal
            .decided(decision, text, about, now, &mut self.outbox);
    }
}

/// Cuts off what is too long.
fn truncate(text: &mut String) {
    let mut end = text.len().min(TOLD_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
}
