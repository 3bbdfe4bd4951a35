//! What a client did, and what it was told.

/// When something happened, on one clock for all clients. Only the order counts.
pub type Moment = u64;

/// A moment that does not come: the end of an operation without an answer.
pub const NEVER: Moment = Moment::MAX;

/// The number of a value; `None` is "no such key".
pub type Value = Option<u64>;

/// What was asked, and what came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Wrote the value.
    Put(u64),
    /// Removed the key, if it was there.
    Delete,
    /// Returned the value.
    Get(Value),
    /// Wrote `new` if `expected` was there.
    Swap {
        /// What was asked for.
        expected: Value,
        /// What was to be written.
        new: u64,
        /// What was there, and whether `new` took its place. `None` without an answer.
        found: Option<(Value, bool)>,
    },
}

/// One operation on a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    /// When it began: not later than it was sent.
    pub began: Moment,
    /// When it was answered, not earlier than the answer came; [`NEVER`] if it was not.
    pub ended: Moment,
    /// What it was.
    pub effect: Effect,
}

impl Operation {
    /// The value that nobody else can have written.
    pub(crate) fn may_write(&self) -> Option<u64> {
        match self.effect {
            Effect::Put(value) => Some(value),
            Effect::Swap {
                found: Some((_, false)),
                ..
            } => None,
            Effect::Swap { new, .. } => Some(new),
            Effect::Get(_) | Effect::Delete => None,
        }
    }

    /// The value that was seen, if any.
    pub(crate) fn saw(&self) -> Value {
        match self.effect {
            Effect::Get(value) => value,
            Effect::Swap { found, .. } => found.and_then(|(value, _)| value),
            Effect::Put(_) | Effect::Delete => None,
        }
    }
}
