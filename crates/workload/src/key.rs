//! The life of one key.

use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use history::{Effect, Moment, NEVER, Operation, Value};

use crate::{Failed, value};

/// A key and everything that was done to it.
pub(crate) struct Key {
    pub name: Bytes,
    /// Whether it is deleted and swapped, too.
    pub every_kind: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    operations: Vec<Operation>,
    begun: usize,
    under_way: usize,
    /// What was seen or written last, as far as is known: a good guess for a swap.
    last: Value,
    /// No more operations begin.
    retired: bool,
    altered: Option<Bytes>,
}

/// What an operation was to do.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Intent {
    Get,
    Put(u64),
    Delete,
    Swap { expected: Value, new: u64 },
}

/// What came of it.
#[derive(Debug)]
pub(crate) enum Told {
    Done,
    Found(Option<Bytes>),
    Swapped(bool, Option<Bytes>),
}

impl Key {
    pub(crate) fn new(name: Bytes, every_kind: bool) -> Self {
        Self {
            name,
            every_kind,
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins an operation, unless the key has had all its operations.
    pub(crate) fn try_begin(&self, operations_max: usize) -> bool {
        let mut state = self.state();
        if state.retired || state.begun >= operations_max {
            return false;
        }
        state.begun += 1;
        state.under_way += 1;
        true
    }

    /// Ends an operation. Returns whether it was the last one of a retired key.
    pub(crate) fn end(
        &self,
        began: Moment,
        ended: Moment,
        intent: Intent,
        told: &Result<Told, Failed>,
    ) -> bool {
        let mut state = self.state();
        state.under_way -= 1;
        if let Some(operation) = state.operation(began, ended, intent, told) {
            match operation.effect {
                Effect::Put(value) => state.last = Some(value),
                Effect::Delete => state.last = None,
                Effect::Get(value) => state.last = value,
                Effect::Swap {
                    new,
                    found: Some((value, swapped)),
                    ..
                } => state.last = if swapped { Some(new) } else { value },
                Effect::Swap { found: None, .. } => {}
            }
            state.operations.push(operation);
        }
        state.retired && state.under_way == 0
    }

    /// A value that the key may well have.
    pub(crate) fn guess(&self) -> Value {
        self.state().last
    }

    /// No more operations begin. Returns whether none is under way either; else the last [`Key::end`] says so. At most one of
    /// them does.
    pub(crate) fn retire(&self) -> bool {
        let mut state = self.state();
        let first = !state.retired;
        state.retired = true;
        first && state.under_way == 0
    }

    /// Everything that was done, and the bytes of a value that nobody wrote.
    pub(crate) fn take(&self) -> (Vec<Operation>, Option<Bytes>) {
        let mut state = self.state();
        (std::mem::take(&mut state.operations), state.altered.take())
    }
}

impl State {
    /// The operation as the history has it; `None` when it says nothing.
    fn operation(
        &mut self,
        began: Moment,
        ended: Moment,
        intent: Intent,
        told: &Result<Told, Failed>,
    ) -> Option<Operation> {
        let effect = match (intent, told) {
            (_, Err(Failed::NotDone)) | (Intent::Get, Err(Failed::Unknown)) => return None,
            (Intent::Get, Ok(Told::Found(found))) => Effect::Get(self.value(found.as_ref())?),
            (Intent::Put(value), _) => Effect::Put(value),
            (Intent::Delete, _) => Effect::Delete,
            (Intent::Swap { expected, new }, told) => Effect::Swap {
                expected,
                new,
                found: match told {
                    Ok(Told::Swapped(swapped, found)) => {
                        Some((self.value(found.as_ref())?, *swapped))
                    }
                    _ => None,
                },
            },
            (Intent::Get, Ok(told)) => unreachable!("a get is not told {told:?}"),
        };
        Some(Operation {
            began,
            ended: match told {
                Ok(_) => ended,
                Err(_) => NEVER,
            },
            effect,
        })
    }

    /// What was found; `None` if these are the bytes of no value.
    fn value(&mut self, found: Option<&Bytes>) -> Option<Value> {
        let Some(found) = found else {
            return Some(None);
        };
        let number = value::number(found);
        if number.is_none() {
            self.altered = Some(found.clone());
        }
        number.map(Some)
    }
}
