//! Checks what clients saw of single keys for linearizability (R23).
//!
//! A history is every [`Operation`] on one key, by all clients, with the moments at which it began and was answered. It is
//! linearizable if all of them can be put into one order in which each sees what the one before it left, and in which an
//! operation that was answered before another began comes first (Herlihy and Wing 1990). Linearizability is local, so keys are
//! checked one by one.
//!
//! [`check`] takes the cheaper of two ways that suits the history:
//! - puts and gets only: `zones`, exact in n log n;
//! - with compare-and-swap or delete: `search`, exponential at worst, so it has a budget, and running out of it is a failure
//!   like any other. Keep such histories to a few hundred operations of a few clients.
//!
//! **Values** are numbers, and no two writes of a history write the same one; that is what makes both ways exact and cheap.
//!
//! **Unknown outcomes.** An operation without an answer ends at [`NEVER`]: it may have happened at any moment since it began,
//! may still happen, or never. A get without an answer says nothing and must be left out.
//!
//! **Ties.** Operations of which one ended in the moment at which the other began may have either order, so a clock of low
//! resolution hides faults but makes up none.

mod operation;
mod search;
mod smallest;
mod zones;

pub use operation::{Effect, Moment, NEVER, Operation, Value};
pub use smallest::smallest;

use std::collections::{BTreeMap, BTreeSet};

/// States that [`check`] looks at before it gives up, of a history with compare-and-swap or delete. About 150 bytes each.
pub const STATES_MAX: usize = 1 << 22;

/// Operations that may be under way at once in a history with compare-and-swap or delete; one without an answer is so until its
/// value was seen. Histories of no more operations have room in any case.
pub const WINDOW: usize = 320;

/// Why a history did not pass.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Not linearizable: what was seen is older than what had been known.
    #[error(
        "value {stale:?} was seen although {newer:?} had replaced it, or was seen on both sides of it: {operations:?}"
    )]
    Stale {
        /// The value that was current at two moments.
        stale: Value,
        /// The value that was current in between.
        newer: Value,
        /// Operations that show it, in the order of their beginning.
        operations: Vec<Operation>,
    },
    /// Not linearizable: no order explains it.
    #[error("no order explains operation {place} of {count}; around it: {around:?}")]
    Inexplicable {
        /// Where the longest attempt ended, in the order of beginning.
        place: usize,
        /// Operations that count.
        count: usize,
        /// Those around the place.
        around: Vec<Operation>,
    },
    /// Not linearizable: a value was seen that nobody wrote, or before it was written.
    #[error("value {value} was seen and nobody had written it: {operation:?}")]
    Unwritten {
        /// The value.
        value: u64,
        /// Who saw it.
        operation: Operation,
    },
    /// Not linearizable: a swap wrote although it found something else, or did not although it found what it expected.
    #[error("a swap must write exactly if it finds what it expects: {operation:?}")]
    WrongSwap {
        /// The swap.
        operation: Operation,
    },
    /// Nothing can be said: the search did not end within its budget.
    #[error("no answer after {states} states")]
    OutOfBudget {
        /// How many it looked at.
        states: usize,
    },
    /// Nothing can be said: too much was under way at once.
    #[error("more than {WINDOW} operations were under way at once")]
    Crowded,
    /// Nothing can be said: two operations wrote the same value.
    #[error("value {value} was written twice")]
    Repeated {
        /// The value.
        value: u64,
    },
    /// Nothing can be said: an operation ended before it began, or is a get without an answer.
    #[error("this cannot be part of a history: {operation:?}")]
    Malformed {
        /// The operation.
        operation: Operation,
    },
}

impl Refused {
    /// Whether the store is at fault for certain; else the history says nothing, which a test must not take for success.
    pub fn is_violation(&self) -> bool {
        match self {
            Self::Stale { .. }
            | Self::Inexplicable { .. }
            | Self::Unwritten { .. }
            | Self::WrongSwap { .. } => true,
            Self::OutOfBudget { .. }
            | Self::Crowded
            | Self::Repeated { .. }
            | Self::Malformed { .. } => false,
        }
    }
}

/// Checks the history of one key, which had no value at first.
///
/// # Errors
/// It is not linearizable, or nothing can be said; see [`Refused`].
pub fn check(operations: &[Operation]) -> Result<(), Refused> {
    check_within(operations, STATES_MAX)
}

/// [`check`] with a budget of one's own.
///
/// # Errors
/// As there.
pub fn check_within(operations: &[Operation], states_max: usize) -> Result<(), Refused> {
    let seen = wellformed(operations)?;
    let plain = |operation: &Operation| matches!(operation.effect, Effect::Put(_) | Effect::Get(_));
    if operations.iter().all(plain) {
        zones::check(operations)
    } else {
        search::check(operations, seen, states_max)
    }
}

/// Checks what both ways rely on. Returns the values that were seen.
fn wellformed(operations: &[Operation]) -> Result<BTreeSet<u64>, Refused> {
    // By value: when its write began.
    let mut written: BTreeMap<u64, Moment> = BTreeMap::new();
    for operation in operations {
        let unanswered_get = matches!(operation.effect, Effect::Get(_)) && operation.ended == NEVER;
        if operation.ended < operation.began || unanswered_get {
            return Err(Refused::Malformed {
                operation: *operation,
            });
        }
        if let Effect::Swap {
            expected,
            found: Some((found, wrote)),
            ..
        } = operation.effect
            && wrote != (found == expected)
        {
            return Err(Refused::WrongSwap {
                operation: *operation,
            });
        }
        if let Some(value) = operation.may_write()
            && written.insert(value, operation.began).is_some()
        {
            return Err(Refused::Repeated { value });
        }
    }
    let mut seen = BTreeSet::new();
    for operation in operations {
        let Some(value) = operation.saw() else {
            continue;
        };
        let began = written.get(&value);
        if began.is_none_or(|began| *began > operation.ended) {
            return Err(Refused::Unwritten {
                value,
                operation: *operation,
            });
        }
        seen.insert(value);
    }
    Ok(seen)
}
