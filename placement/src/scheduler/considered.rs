//! Which stores a decision looked at, and what became of each: the answer to "why does nothing move to store 5".
//!
//! A decision keeps few of a thousand stores, so those that could take nothing at all are counted by the reason as well.

use std::collections::BTreeMap;

use proto::StoreId;

use super::View;
use crate::decision::{CANDIDATES_MAX, Candidate, Decision};

/// Stores that could take nothing at all and are named; more are only counted.
const CLOSED_MAX: usize = CANDIDATES_MAX / 2;

/// Stores that were looked at, each once.
#[derive(Debug, Default)]
pub(super) struct Considered {
    candidates: Vec<Candidate>,
    /// How many could take nothing at all, by the reason.
    closed: BTreeMap<&'static str, usize>,
}

impl Considered {
    /// A store was looked at. One that is looked at for several regions is told of at its best.
    pub fn consider(&mut self, store: StoreId, score: f64, verdict: &'static str) {
        let known = self
            .candidates
            .iter_mut()
            .find(|known| known.store == store);
        match known {
            Some(known) if known.score <= score => {}
            Some(known) => {
                known.score = score;
                known.verdict = verdict.into();
            }
            None => self.candidates.push(Candidate {
                store,
                region: None,
                score,
                verdict: verdict.into(),
            }),
        }
    }

    /// A store could take nothing at all, whatever it would be. Those that matter most come first.
    pub fn close(&mut self, store: StoreId, reason: &'static str) {
        if self.closed.values().sum::<usize>() < CLOSED_MAX {
            self.consider(store, f64::INFINITY, reason);
        }
        *self.closed.entry(reason).or_default() += 1;
    }

    /// A store was chosen, at this score or better.
    pub fn choose(&mut self, store: StoreId, score: f64) {
        for candidate in &mut self.candidates {
            if candidate.store == store {
                candidate.score = candidate.score.min(score);
                candidate.verdict = "chosen".into();
            }
        }
    }

    /// Writes them into a decision, with the stores that do not take part.
    pub fn tell(mut self, decision: Decision, view: &View) -> Decision {
        for &(store, reason) in &view.absent {
            self.close(store, reason);
        }
        let mut decision = decision.candidates(self.candidates);
        // All of them are named otherwise.
        if self.closed.values().sum::<usize>() > CLOSED_MAX {
            for (reason, count) in self.closed {
                decision = decision.input(format!("stores where {reason}"), count as f64);
            }
        }
        decision
    }
}
