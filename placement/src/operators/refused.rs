//! Steps that the leader of a region refuses: an operator that cannot come about ends at once and says why, instead of
//! at its deadline.
//!
//! Twice is the rule, since one refusal may be of a step that was late. What does not count:
//!
//! - What a leader with an older (epoch, then term) than the view says: it is deposed, or has not applied yet what it leads.
//! - "Not the leader" and "the epoch moved": the next report tells what became of the region, and judges the step. The
//!   step itself may have moved the epoch, when it is repeated after it took effect.
//! - What may heal by itself (a busy lane, a frozen region, a lagging peer, no ids) again before the step was due to be repeated. And if
//!   the step is a change of roles, at all: what its learner cost to bring up would be lost, so its deadline decides. A
//!   deadline names the last refusal.

use std::time::Duration;

use proto::RegionId;
use proto::pontoon::v1::StepRefusal;
use proto::pontoon::v1::step_refusal::Kind;

use super::Operators;
use crate::event::Now;
use crate::operator::{Epoch, State, Step};
use crate::outbox::Outbox;
use crate::regions::RegionInfo;
use crate::settings::Settings;

/// Refusals of one step that end its operator.
const REFUSALS_MAX: u32 = 2;
/// Of what a store says, as much is kept.
const TEXT_CHARS_MAX: usize = 200;

/// What was refused of the current step.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    count: u32,
    /// When the last one counted.
    counted: Option<Duration>,
    text: String,
}

impl Refusals {
    /// The last refusal, as the end of a sentence.
    pub fn told(&self) -> String {
        match self.text.as_str() {
            "" => String::new(),
            text => format!("; the leader refuses it: {text}"),
        }
    }
}

impl Operators {
    /// Counts a refusal, and ends the operator with the second. `region` is what is known of its region.
    pub fn refused(
        &mut self,
        refusal: &StepRefusal,
        region: &RegionInfo,
        now: Now,
        settings: &Settings,
        outbox: &mut Outbox,
    ) {
        let step = refusal.id.unwrap_or_default();
        let Some(running) = self.running.get_mut(&step.operator_id) else {
            return;
        };
        let current = running.operator.step as u32 == step.position
            && running.operator.region == RegionId(refusal.region_id)
            && running.operator.region == region.id();
        if !current || !running.heard || is_older(refusal, region) {
            return;
        }
        // A kind from a later version is none that this one knows to last.
        let kind = Kind::try_from(refusal.kind).unwrap_or(Kind::LaneBusy);
        let heals = match kind {
            Kind::NotLeader | Kind::EpochNotMatch => return,
            Kind::LaneBusy
            | Kind::Joint
            | Kind::Frozen
            | Kind::Behind
            | Kind::NotCaughtUp
            | Kind::TooFewLive
            | Kind::Transferring
            | Kind::NoIds => true,
            Kind::Invalid
            | Kind::LeaderWouldLeave
            | Kind::StoreHasPeer
            | Kind::PeerIdUsed
            | Kind::StoreDraining => false,
        };
        let refusals = &mut running.refusals;
        refusals.text = refusal.text.chars().take(TEXT_CHARS_MAX).collect();
        let early = refusals
            .counted
            .is_some_and(|counted| now.monotonic.saturating_sub(counted) < settings.resend_after);
        let current = &running.operator.steps[running.operator.step];
        if heals && (early || matches!(current, Step::Swap { .. })) {
            return;
        }
        refusals.count += 1;
        refusals.counted = Some(now.monotonic);
        // A joint change is finished by its region; nothing is ended inside of it.
        if refusals.count >= REFUSALS_MAX && !region.is_joint() {
            let reason = format!("refused by the leader: {}: {current}", refusals.text);
            let id = step.operator_id;
            self.finish(id, State::Cancelled, reason, now, settings, outbox);
        }
    }
}

/// Whether the refuser is behind what is known: by epoch, then term, like reports.
fn is_older(refusal: &StepRefusal, region: &RegionInfo) -> bool {
    let epoch = Epoch::from_wire(refusal.epoch.as_ref());
    epoch.is_older(region.epoch()) || (epoch == region.epoch() && refusal.term < region.term)
}
