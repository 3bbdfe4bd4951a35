//! Any operations, by the search of Wing and Gong (1993) with the memo of Lowe (2017).
//!
//! A state is which operations have happened and what the key holds then. From each state every operation that may come next
//! is tried: one that began before the first answer of those that have not happened yet. States are visited once.
//!
//! Without an answer:
//! - a put or a swap whose value somebody saw has happened;
//! - one whose value nobody saw is left out. Had it happened, its value was overwritten unseen, and then the rest is explained
//!   without it, too;
//! - deletes cannot be told apart by what they leave. They are used as they are needed, just before an operation that found
//!   nothing, and the one that began first is used first.
//!
//! Two more savings, both without loss: an operation that changes nothing and fits what is there happens at once; and a value is
//! not overwritten before all who saw it have happened, because it does not come back.

use std::collections::{BTreeMap, BTreeSet};

use crate::{Effect, Moment, NEVER, Operation, Refused, Value, WINDOW};

/// What was found so far.
struct Search {
    /// Those that happened for certain, in the order of their beginning.
    history: Vec<Operation>,
    /// By value: who saw it, as places in the history.
    saw: BTreeMap<u64, Vec<usize>>,
    /// When the deletes without an answer began, in order.
    deletes: Vec<Moment>,
}

/// Which operations have happened, of those from some place of the history on.
type Done = [u64; WINDOW / 64];

/// What has happened, and what is there.
#[derive(Clone, Copy, Debug)]
struct State {
    /// Everything before this place of the history has happened.
    first: usize,
    /// And so have those after it whose bit is set.
    done: Done,
    value: Value,
    /// Deletes without an answer that were used.
    deletes: usize,
}

impl State {
    fn has(&self, place: usize) -> bool {
        let Some(bit) = place.checked_sub(self.first) else {
            return true;
        };
        bit < WINDOW && self.done[bit / 64] & (1 << (bit % 64)) != 0
    }

    /// After the operation at `place`, which left `value`.
    fn after(mut self, place: usize, value: Value, deletes: usize) -> Self {
        let bit = place - self.first;
        self.done[bit / 64] |= 1 << (bit % 64);
        while self.done[0] & 1 == 1 {
            self.first += 1;
            for word in 0..self.done.len() {
                let next = self.done.get(word + 1).map_or(0, |next| next << 63);
                self.done[word] = self.done[word] >> 1 | next;
            }
        }
        (self.value, self.deletes) = (value, deletes);
        self
    }
}

/// Checks a history.
///
/// # Errors
/// [`Refused::Inexplicable`], [`Refused::OutOfBudget`], [`Refused::Crowded`].
pub(crate) fn check(
    operations: &[Operation],
    seen: BTreeSet<u64>,
    states_max: usize,
) -> Result<(), Refused> {
    Search::new(operations, seen).run(states_max)
}

impl Search {
    fn new(operations: &[Operation], mut seen: BTreeSet<u64>) -> Self {
        // Whoever was seen to have swapped saw what it expected, which may be the value of another one without an answer.
        let expected: BTreeMap<u64, u64> = operations.iter().filter_map(unknown_swap).collect();
        let mut open: Vec<u64> = seen.iter().copied().collect();
        while let Some(value) = open.pop() {
            if let Some(expected) = expected.get(&value)
                && seen.insert(*expected)
            {
                open.push(*expected);
            }
        }
        let mut history: Vec<Operation> = Vec::with_capacity(operations.len());
        let mut deletes = Vec::new();
        for operation in operations {
            let happened = match operation.may_write() {
                _ if operation.ended != NEVER => true,
                Some(value) => seen.contains(&value),
                None => false,
            };
            if happened {
                history.push(*operation);
            } else if operation.effect == Effect::Delete {
                deletes.push(operation.began);
            }
        }
        history.sort_by_key(|operation| operation.began);
        deletes.sort_unstable();
        let mut saw: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
        for (place, operation) in history.iter().enumerate() {
            if let Some(value) = needs(operation).flatten() {
                saw.entry(value).or_default().push(place);
            }
        }
        Self {
            history,
            saw,
            deletes,
        }
    }

    fn run(&self, states_max: usize) -> Result<(), Refused> {
        // By operations that happened and value: how few deletes without an answer sufficed.
        let mut visited: BTreeMap<(usize, Done, Value), usize> = BTreeMap::new();
        let mut open = vec![State {
            first: 0,
            done: Done::default(),
            value: None,
            deletes: 0,
        }];
        let mut furthest = 0;
        let mut next: Vec<(Moment, State)> = Vec::new();
        while let Some(state) = open.pop() {
            furthest = furthest.max(state.first);
            if state.first == self.history.len() {
                return Ok(());
            }
            let known = (state.first, state.done, state.value);
            match visited.get(&known) {
                Some(deletes) if *deletes <= state.deletes => continue,
                _ if visited.len() == states_max => {
                    return Err(Refused::OutOfBudget { states: states_max });
                }
                _ => visited.insert(known, state.deletes),
            };
            next.clear();
            self.expand(state, &mut next)?;
            // The one whose answer came first is tried first: it is taken from the end.
            next.sort_by_key(|(ended, _)| std::cmp::Reverse(*ended));
            open.extend(next.iter().map(|(_, state)| *state));
        }
        let count = self.history.len();
        Err(Refused::Inexplicable {
            place: furthest,
            count,
            around: self.history[furthest.saturating_sub(6)..count.min(furthest + 6)].to_vec(),
        })
    }

    /// States that may follow, each with the end of the operation that leads there.
    fn expand(&self, state: State, next: &mut Vec<(Moment, State)>) -> Result<(), Refused> {
        let mut deadline = NEVER;
        let mut last = state.first;
        for (place, operation) in self.history.iter().enumerate().skip(state.first) {
            if operation.began > deadline {
                break;
            }
            if place - state.first == WINDOW {
                return Err(Refused::Crowded);
            }
            last = place;
            if !state.has(place) {
                deadline = deadline.min(operation.ended);
            }
        }
        for place in (state.first..=last).filter(|place| !state.has(*place)) {
            let operation = &self.history[place];
            let needed = needs(operation);
            let left = leaves(operation);
            if left.is_none() && needed == Some(state.value) {
                next.clear();
                next.push((
                    operation.ended,
                    state.after(place, state.value, state.deletes),
                ));
                return Ok(());
            }
            let fits = needed.is_none_or(|value| value == state.value);
            let deleted = needed == Some(None)
                && self
                    .deletes
                    .get(state.deletes)
                    .is_some_and(|began| *began <= deadline);
            if (fits || deleted) && self.may_go(&state, place) {
                let value = left.unwrap_or(needed.flatten());
                let deletes = state.deletes + usize::from(!fits);
                next.push((operation.ended, state.after(place, value, deletes)));
            }
        }
        Ok(())
    }

    /// Whether all who saw the present value have happened, the operation at `place` counted.
    fn may_go(&self, state: &State, place: usize) -> bool {
        let Some(value) = state.value else {
            return true;
        };
        let saw = self.saw.get(&value).map_or(&[][..], Vec::as_slice);
        saw.iter().all(|who| *who == place || state.has(*who))
    }
}

/// What a swap without an answer would write, and over what value.
fn unknown_swap(operation: &Operation) -> Option<(u64, u64)> {
    match operation.effect {
        Effect::Swap {
            expected,
            new,
            found: None,
        } => Some((new, expected?)),
        _ => None,
    }
}

/// What must be there for the operation to happen as it did; `None` if that does not matter.
fn needs(operation: &Operation) -> Option<Value> {
    match operation.effect {
        Effect::Put(_) | Effect::Delete => None,
        Effect::Get(value) => Some(value),
        Effect::Swap {
            found: Some((value, _)),
            ..
        } => Some(value),
        // It is in the history, so it has happened, so it swapped.
        Effect::Swap {
            expected,
            found: None,
            ..
        } => Some(expected),
    }
}

/// What the operation leaves; `None` if it changes nothing.
fn leaves(operation: &Operation) -> Option<Value> {
    match operation.effect {
        Effect::Put(value) => Some(Some(value)),
        Effect::Delete => Some(None),
        Effect::Get(_)
        | Effect::Swap {
            found: Some((_, false)),
            ..
        } => None,
        Effect::Swap { new, .. } => Some(Some(new)),
    }
}
