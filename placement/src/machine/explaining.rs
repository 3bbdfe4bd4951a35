//! What the journal is told, and commands about those who decide.

use std::time::Duration;

use proto::StoreId;
use proto::pontoon::v1::journal_entry::Kind;
use proto::pontoon::v1::{JournalEntry, JournalNumber};

use super::Leader;
use crate::decision::{Decision, Who};
use crate::event::{Answer, Now, Refusal, SchedulerInfo};
use crate::outbox::{Happened, What};
use crate::state;

/// A pause at the most: longer ones are forgotten by those who made them.
const PAUSE_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

impl Leader {
    /// Writes a decision or a refusal down. `cause` tells it to people.
    pub(super) fn decided(&mut self, decision: Decision, cause: String, now: Now) {
        let region = decision.region.and_then(|id| self.regions.get(id));
        let about = JournalEntry {
            view_version: self.view_version,
            epoch: region.map(|region| region.epoch().to_wire()),
            ..JournalEntry::default()
        };
        self.journal
            .decided(decision, cause, about, now, &mut self.outbox);
    }

    /// Writes a command about a store down, and tells the log.
    pub(super) fn told(&mut self, text: String, store: StoreId, now: Now) {
        let entry = JournalEntry {
            from_store: store.0,
            ..self.command_entry(text.clone())
        };
        self.note(text);
        self.journal.write(entry, now, &mut self.outbox);
    }

    /// Writes a command about the whole cluster down, and tells the log.
    pub(super) fn commanded(&mut self, text: String, now: Now) {
        let entry = self.command_entry(text.clone());
        self.note(text);
        self.journal.write(entry, now, &mut self.outbox);
    }

    fn command_entry(&self, text: String) -> JournalEntry {
        JournalEntry {
            kind: Kind::Command.into(),
            view_version: self.view_version,
            who: Who::Admin.name().into(),
            text,
            ..JournalEntry::default()
        }
    }

    /// Writes down what happened to operators since the last time.
    pub(super) fn tell_what_happened(&mut self, now: Now) {
        for happened in self.outbox.take_happened() {
            let measured = match happened.what {
                What::Done => {
                    self.awaited.add(&happened, now);
                    self.measure(&happened)
                }
                What::Step | What::Cancelled => Vec::new(),
            };
            let kind = match happened.what {
                What::Step => Kind::Step,
                What::Done => Kind::Done,
                What::Cancelled => Kind::Cancelled,
            };
            let (from, to) = happened.stores;
            let entry = JournalEntry {
                kind: kind.into(),
                view_version: self.view_version,
                who: happened.priority.name().into(),
                region_id: happened.region.0,
                epoch: Some(happened.epoch.to_wire()),
                operator_id: happened.operator,
                from_store: from.map_or(0, |store| store.0),
                to_store: to.map_or(0, |store| store.0),
                measured,
                text: happened.text,
                ..JournalEntry::default()
            };
            self.journal.write(entry, now, &mut self.outbox);
        }
    }

    /// What is so now that an operator is done.
    fn measure(&self, happened: &Happened) -> Vec<JournalNumber> {
        let number = |name: &str, value: f64| JournalNumber {
            name: name.into(),
            value,
        };
        let mut measured = vec![number("seconds", happened.age_ms as f64 / 1e3)];
        if let Some(region) = self.regions.get(happened.region) {
            measured.push(number("voters", region.voters().count() as f64));
        }
        let (from, to) = happened.stores;
        for (peers, leaders, store) in [
            ("peers left", "leaders left", from),
            ("peers there", "leaders there", to),
        ] {
            if let Some(store) = store {
                let counts = self.regions.counts(store);
                measured.push(number(peers, f64::from(counts.0)));
                measured.push(number(leaders, f64::from(counts.1)));
            }
        }
        measured
    }

    pub(super) fn cancel_operator(&mut self, id: u64, now: Now) -> Result<Answer, Refusal> {
        self.operators.cancellable(id, &self.regions)?;
        let reason = "an administrator cancelled it".to_owned();
        self.operators
            .cancel(id, reason, now, &self.settings, &mut self.outbox);
        Ok(Answer::Done)
    }

    // Pauses.

    pub(super) fn is_paused(&self, who: Who, now: Now) -> bool {
        self.pauses
            .get(&who)
            .is_some_and(|until| now.wall_ms < *until)
    }

    pub(super) fn schedulers(&self, now: Now) -> Vec<SchedulerInfo> {
        let info = |who: Who| {
            let until = self.pauses.get(&who).copied().unwrap_or(0);
            SchedulerInfo {
                who,
                paused: Duration::from_millis(until.saturating_sub(now.wall_ms)),
            }
        };
        let others = Who::ALL.into_iter().filter(|who| *who != Who::Admin);
        others.map(info).collect()
    }

    /// A pause is by the wall clock, since it outlives leaders.
    pub(super) fn pause_scheduler(
        &mut self,
        who: Who,
        duration: Duration,
        now: Now,
    ) -> Result<Answer, Refusal> {
        self.bootstrapped()?;
        if who == Who::Admin {
            return Err(Refusal::Invalid("administrators are not paused".into()));
        }
        if duration > PAUSE_MAX {
            return Err(Refusal::Invalid(format!(
                "a pause is {} days at the most",
                PAUSE_MAX.as_secs() / 86_400
            )));
        }
        let until = now.wall_ms.saturating_add(duration.as_millis() as u64);
        let (until, text) = if duration.is_zero() {
            self.pauses.remove(&who);
            (None, format!("{who} goes on"))
        } else {
            self.pauses.insert(who, until);
            (Some(until), format!("{who} is paused for {duration:?}"))
        };
        let _ = self.outbox.stage(state::put_pause(who, until));
        self.commanded(text, now);
        Ok(Answer::Done)
    }
}
