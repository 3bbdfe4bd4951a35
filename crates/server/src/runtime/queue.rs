//! A queue whose reader takes everything at once.
//!
//! The threads of a node hand work on in batches: what gathered while the reader was busy becomes its next batch, so
//! batches grow with load and cost nothing when idle. A channel would be drained item by item; here a turn costs one
//! lock however much it takes, and a writer makes a system call only when the reader sleeps.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// Many writers, one reader, first in first out.
///
/// The queue counts bytes but refuses nothing: whoever feeds it looks at [`Queue::bytes`] and stops producing. It counts
/// items from [`Queue::push`] until the reader reports them with [`Queue::finish`], so the work in hand is included.
pub struct Queue<T> {
    state: Mutex<State<T>>,
    ready: Condvar,
    bytes: AtomicU64,
}

struct State<T> {
    items: Vec<T>,
    closed: bool,
    waiting: bool,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Queue {
            state: Mutex::new(State {
                items: Vec::new(),
                closed: false,
                waiting: false,
            }),
            ready: Condvar::new(),
            bytes: AtomicU64::new(0),
        }
    }
}

impl<T> Queue<T> {
    /// Adds an item of about `bytes` bytes. Once the queue is closed the item is dropped.
    pub fn push(&self, item: T, bytes: u64) {
        let mut state = self.lock();
        if state.closed {
            return;
        }
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        state.items.push(item);
        let wake = std::mem::take(&mut state.waiting);
        drop(state);
        if wake {
            self.ready.notify_one();
        }
    }

    /// Everything that is queued, waiting for the first item; `None` when closed and empty.
    pub fn take(&self) -> Option<Vec<T>> {
        let mut state = self.lock();
        loop {
            if !state.items.is_empty() {
                return Some(std::mem::take(&mut state.items));
            }
            if state.closed {
                return None;
            }
            state.waiting = true;
            state = self
                .ready
                .wait(state)
                .expect("no holder of the lock panics");
        }
    }

    /// As [`Queue::take`], but returns an empty batch when nothing comes within `patience`.
    pub fn take_within(&self, patience: Duration) -> Option<Vec<T>> {
        let deadline = Instant::now() + patience;
        let mut state = self.lock();
        loop {
            if !state.items.is_empty() {
                return Some(std::mem::take(&mut state.items));
            }
            if state.closed {
                return None;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                state.waiting = false;
                return Some(Vec::new());
            }
            state.waiting = true;
            state = self
                .ready
                .wait_timeout(state, left)
                .expect("no holder of the lock panics")
                .0;
        }
    }

    /// The first item only, waiting for it; `None` when closed and empty. For readers that share the queue.
    pub fn take_one(&self) -> Option<T> {
        let mut state = self.lock();
        loop {
            if !state.items.is_empty() {
                let item = state.items.remove(0);
                // A writer wakes one reader, and not again before that one slept.
                if !state.items.is_empty() {
                    self.ready.notify_one();
                }
                return Some(item);
            }
            if state.closed {
                return None;
            }
            state.waiting = true;
            state = self
                .ready
                .wait(state)
                .expect("no holder of the lock panics");
        }
    }

    /// Items of so many bytes are done with.
    pub fn finish(&self, bytes: u64) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Bytes queued and in hand.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Nothing more comes. Readers get what is left, then `None`.
    pub fn close(&self) {
        self.lock().closed = true;
        self.ready.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().expect("no holder of the lock panics")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn a_turn_takes_what_gathered() {
        let queue = Queue::default();
        queue.push(1, 10);
        queue.push(2, 5);
        assert_eq!(queue.bytes(), 15);
        assert_eq!(queue.take(), Some(vec![1, 2]));
        assert_eq!(queue.bytes(), 15, "work in hand counts");
        queue.finish(15);
        assert_eq!(queue.bytes(), 0);
        assert_eq!(queue.take_within(Duration::from_millis(1)), Some(vec![]));
    }

    #[test]
    fn a_closed_queue_ends_its_readers_after_the_rest() {
        let queue = Arc::new(Queue::default());
        queue.push("rest", 0);
        queue.close();
        queue.push("late", 0);
        assert_eq!(queue.take_one(), Some("rest"));
        assert_eq!(queue.take_one(), None);
        assert_eq!(queue.take(), None);
    }

    #[test]
    fn readers_that_share_a_queue_are_all_woken() {
        let queue = Arc::new(Queue::default());
        // Each reader holds its item until all items are taken, so a sleeping reader would hang the test.
        let everyone = Arc::new(std::sync::Barrier::new(3));
        let readers: Vec<_> = (0..3)
            .map(|_| {
                let (queue, everyone) = (queue.clone(), everyone.clone());
                std::thread::spawn(move || {
                    let item = queue.take_one();
                    everyone.wait();
                    item
                })
            })
            .collect();
        for item in 0..3 {
            queue.push(item, 0);
        }
        let mut taken: Vec<_> = readers
            .into_iter()
            .map(|reader| reader.join().expect("the reader ends"))
            .collect();
        taken.sort_unstable();
        assert_eq!(taken, [Some(0), Some(1), Some(2)]);
    }

    #[test]
    fn a_sleeping_reader_is_woken() {
        let queue = Arc::new(Queue::default());
        let reader = std::thread::spawn({
            let queue = queue.clone();
            move || queue.take()
        });
        queue.push(7, 0);
        assert_eq!(reader.join().expect("the reader ends"), Some(vec![7]));
    }
}
