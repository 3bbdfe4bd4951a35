//! What happens next: a queue of actions by virtual time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Virtual time in microseconds.
pub type Time = u64;

/// Actions by time; those of one instant in the order they were put in.
#[derive(Debug)]
pub struct Schedule<A> {
    now: Time,
    sequence: u64,
    queue: BinaryHeap<Reverse<(Time, u64, u32)>>,
    /// Actions by slot, beside the heap so that sifting moves small keys only.
    slots: Vec<Option<A>>,
    free: Vec<u32>,
}

impl<A> Default for Schedule<A> {
    fn default() -> Self {
        Schedule {
            now: 0,
            sequence: 0,
            queue: BinaryHeap::new(),
            slots: Vec::new(),
            free: Vec::new(),
        }
    }
}

impl<A> Schedule<A> {
    /// The time of the action that was taken last.
    pub fn now(&self) -> Time {
        self.now
    }

    /// The time of the next action.
    pub fn due(&self) -> Option<Time> {
        self.queue.peek().map(|Reverse((time, ..))| *time)
    }

    /// Puts `action` at `delay` from now.
    pub fn after(&mut self, delay: Time, action: A) {
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot as usize] = Some(action);
                slot
            }
            None => {
                self.slots.push(Some(action));
                (self.slots.len() - 1) as u32
            }
        };
        self.sequence += 1;
        self.queue
            .push(Reverse((self.now + delay, self.sequence, slot)));
    }

    /// Takes the next action and moves the time to it.
    pub fn next(&mut self) -> Option<A> {
        let Reverse((time, _, slot)) = self.queue.pop()?;
        self.now = time;
        self.free.push(slot);
        let action = self.slots[slot as usize].take();
        debug_assert!(action.is_some(), "a queued slot holds an action");
        action
    }
}
