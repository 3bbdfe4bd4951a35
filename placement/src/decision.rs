//! What was decided, or refused, and from what: the material of the journal (REGIONS §9).
//!
//! Whoever makes operators also says why, as numbers and names rather than as prose, so that the journal can fold equal
//! refusals, tell later what came of a decision, and answer "why did this move" and "why does nothing move to store 5".

use std::borrow::Cow;
use std::fmt;

use proto::{RegionId, StoreId};

/// Candidates that a decision keeps; the best come first, so what is cut off is the least telling.
pub const CANDIDATES_MAX: usize = 16;

/// Numbers that a decision keeps of each sort.
pub const NUMBERS_MAX: usize = 16;

/// Who decides. The order is that of the names people see, not of priority.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Who {
    /// An administrator's command.
    Admin,
    /// The checkers of missing, extra, lost and orphan peers.
    Repair,
    /// The checker of rules: keyspace edges, labels, roles.
    Rule,
    /// A store that is to be emptied.
    Drain,
    /// The checker of oversized and loaded regions.
    Split,
    /// The checker of undersized neighbours.
    Merge,
    /// Even use of space.
    BalanceRegion,
    /// Even leadership.
    BalanceLeader,
    /// Even load of writes.
    HotWrite,
    /// Even load of reads.
    HotRead,
    /// Pieces of a split go apart.
    Scatter,
    /// The child of a split ahead of appends goes where there is room, before it is filled.
    AppendAhead,
}

impl Who {
    /// Everyone who decides.
    pub const ALL: [Self; 12] = [
        Self::Admin,
        Self::Repair,
        Self::Rule,
        Self::Drain,
        Self::Split,
        Self::Merge,
        Self::BalanceRegion,
        Self::BalanceLeader,
        Self::HotWrite,
        Self::HotRead,
        Self::Scatter,
        Self::AppendAhead,
    ];

    /// The name in commands and in the journal.
    pub fn name(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Repair => "repair",
            Self::Rule => "rule",
            Self::Drain => "drain",
            Self::Split => "split",
            Self::Merge => "merge",
            Self::BalanceRegion => "balance-region",
            Self::BalanceLeader => "balance-leader",
            Self::HotWrite => "hot-write",
            Self::HotRead => "hot-read",
            Self::Scatter => "scatter",
            Self::AppendAhead => "append-ahead",
        }
    }

    /// Whose name it is.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|who| who.name() == name)
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A word for people: fixed while it is made here, owned once it was read back from the journal.
pub type Word = Cow<'static, str>;

/// A named number, such as a score, a size or a threshold.
pub type Number = (Word, f64);

/// A store that was considered, or a region.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// The store; of a region, where it is led.
    pub store: StoreId,
    /// The region, where one of several was to be chosen.
    pub region: Option<RegionId>,
    /// What choosing it would change: lower is better, and what it counts is the decision's own. Infinite where it was
    /// not worth counting.
    pub score: f64,
    /// `chosen`, or why not.
    pub verdict: Word,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// This operator was made.
    Created {
        /// Its identity.
        operator: u64,
    },
    /// Nothing was done. The reason has no numbers in it, so that equal ones fold.
    Refused {
        /// Why.
        reason: Word,
    },
}

/// A decision or a refusal.
///
/// # Invariants
/// 1. At most [`CANDIDATES_MAX`] candidates, the best first and those that were not counted last, and [`NUMBERS_MAX`] inputs and expectations; the methods
///    cut off what is above.
/// 2. No number is NaN.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// Who decided.
    pub who: Who,
    /// About which region, if one was looked at.
    pub region: Option<RegionId>,
    /// From which store, and to which, as far as that was decided.
    pub stores: (Option<StoreId>, Option<StoreId>),
    /// Scores, sizes, thresholds and the dial it rests on.
    pub inputs: Vec<Number>,
    /// Stores that were considered.
    pub candidates: Vec<Candidate>,
    /// What it is expected to change, to be compared with what is measured later.
    pub expected: Vec<Number>,
    /// What came of it.
    pub outcome: Outcome,
}

impl Decision {
    /// A refusal, to be filled in further.
    pub fn refused(who: Who, region: Option<RegionId>, reason: impl Into<Word>) -> Self {
        Self {
            who,
            region,
            stores: (None, None),
            inputs: Vec::new(),
            candidates: Vec::new(),
            expected: Vec::new(),
            outcome: Outcome::Refused {
                reason: reason.into(),
            },
        }
    }

    /// A decision that made an operator, to be filled in further.
    pub fn created(who: Who, region: RegionId, operator: u64) -> Self {
        Self {
            outcome: Outcome::Created { operator },
            ..Self::refused(who, Some(region), "")
        }
    }

    /// Names the stores it goes from and to.
    #[must_use]
    pub fn between(mut self, from: Option<StoreId>, to: Option<StoreId>) -> Self {
        self.stores = (from, to);
        self
    }

    /// Adds a number that it rests on.
    #[must_use]
    pub fn input(mut self, name: impl Into<Word>, value: f64) -> Self {
        push(&mut self.inputs, name, value);
        self
    }

    /// Adds a number that it is expected to bring about.
    #[must_use]
    pub fn expect(mut self, name: &'static str, value: f64) -> Self {
        push(&mut self.expected, name, value);
        self
    }

    /// Sets the stores that were considered, in any order; of those that were not worth counting the first tell most. Where
    /// there are too many, half of the room at least is left to either sort: why a store is none is asked as well.
    #[must_use]
    pub fn candidates(mut self, candidates: Vec<Candidate>) -> Self {
        let numbered = candidates.into_iter().map(|candidate| Candidate {
            score: number(candidate.score),
            ..candidate
        });
        let (mut counted, mut others): (Vec<_>, Vec<_>) =
            numbered.partition(|candidate| candidate.score < f64::INFINITY);
        counted.sort_by(|a, b| a.score.total_cmp(&b.score).then(a.store.cmp(&b.store)));
        counted.truncate(CANDIDATES_MAX - others.len().min(CANDIDATES_MAX / 2));
        others.truncate(CANDIDATES_MAX - counted.len());
        counted.append(&mut others);
        self.candidates = counted;
        self
    }

    /// The store that was chosen.
    pub fn choice(&self) -> Option<StoreId> {
        match self.outcome {
            Outcome::Created { .. } => self.stores.1,
            Outcome::Refused { .. } => None,
        }
    }
}

fn push(numbers: &mut Vec<Number>, name: impl Into<Word>, value: f64) {
    if numbers.len() < NUMBERS_MAX {
        numbers.push((name.into(), number(value)));
    }
}

/// What cannot be counted is the worst: a NaN would compare with nothing.
fn number(value: f64) -> f64 {
    if value.is_nan() { f64::INFINITY } else { value }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decisions_are_bounded_and_comparable() {
        let candidate = |store: u64| Candidate {
            store: StoreId(store),
            region: None,
            score: if store == 40 {
                f64::NAN
            } else {
                -(store as f64)
            },
            verdict: "considered".into(),
        };
        let mut decision = Decision::created(Who::BalanceRegion, RegionId(7), 12)
            .between(Some(StoreId(1)), Some(StoreId(39)))
            .candidates((1..=40).map(candidate).collect());
        for _ in 0..100 {
            decision = decision.input("mean load", f64::NAN).expect("fall", 1.0);
        }
        assert_eq!(decision.candidates.len(), CANDIDATES_MAX);
        assert_eq!(
            decision.candidates[0].store,
            StoreId(39),
            "the best comes first"
        );
        assert_eq!(decision.choice(), Some(StoreId(39)));
        assert_eq!(decision.inputs.len(), NUMBERS_MAX);
        assert_eq!(decision.expected.len(), NUMBERS_MAX);
        let stores = |decision: &Decision| -> Vec<u64> {
            let candidates = decision.candidates.iter();
            candidates.map(|candidate| candidate.store.0).collect()
        };
        let best = [39, 38, 37, 36, 35, 34, 33, 32, 31, 30, 29, 28, 27, 26, 25];
        assert_eq!(stores(&decision)[..15], best);
        assert_eq!(stores(&decision)[15], 40, "what is not counted has room");
        let closed = |store: u64| Candidate {
            score: f64::INFINITY,
            ..candidate(store)
        };
        let mixed = (41..=80).rev().map(closed).chain((1..=40).map(candidate));
        let mixed = decision.clone().candidates(mixed.collect());
        assert_eq!(stores(&mixed)[..8], best[..8]);
        assert_eq!(
            stores(&mixed)[8..],
            [80, 79, 78, 77, 76, 75, 74, 73],
            "in the order in which they came"
        );
        assert_eq!(
            decision,
            decision.clone(),
            "a NaN would not be equal to itself"
        );
    }

    #[test]
    fn names_lead_back() {
        for who in Who::ALL {
            assert_eq!(Who::from_name(who.name()), Some(who));
        }
        assert_eq!(Who::from_name("balance"), None);
    }
}
