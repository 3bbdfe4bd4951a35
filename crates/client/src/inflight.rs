//! Requests of one stream: those that wait to be sent, and those that wait for their answer.
//!
//! # Invariants
//! 1. `bytes` is the sum of the sizes of `waiting`; with what callers gave up cleared away it is at most
//!    `queue_bytes_max`, or one request waits alone.
//! 2. A request is in `waiting` before and in `sent` after it was handed to the stream. Whatever leaves `sent` without an
//!    answer has an unknown outcome; whatever leaves `waiting` was not done.
//! 3. Only the stream of the current generation takes requests, once it is open.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use proto::tikvpb::{
    BatchCommandsRequest, BatchCommandsResponse, batch_commands_request,
    batch_commands_request::request::Cmd as Command,
    batch_commands_response::response::Cmd as Answer,
};
use tokio::sync::oneshot;

/// Requests in one message, and bytes up to which more are added.
const BATCH_MAX: usize = 512;
const BATCH_BYTES_MAX: usize = 1 << 20;

/// Why a request has no answer.
#[derive(Clone, Debug)]
pub(crate) enum Miss {
    /// It was never sent.
    NotSent(String),
    /// It was sent.
    Lost(String),
}

pub(crate) type Reply = oneshot::Receiver<Result<Answer, Miss>>;
type Waiter = oneshot::Sender<Result<Answer, Miss>>;

/// The queue has no room.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Full;

pub(crate) struct InFlight {
    queue_bytes_max: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Waiting>,
    bytes: usize,
    sent: HashMap<u64, Waiter>,
    next_id: u64,
    generation: u64,
    open: bool,
    closed: bool,
    waker: Option<Waker>,
}

struct Waiting {
    id: u64,
    command: Command,
    bytes: usize,
    waiter: Waiter,
}

impl InFlight {
    pub(crate) fn new(queue_bytes_max: usize) -> Self {
        Self {
            queue_bytes_max,
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a request; returns its id and where its answer comes.
    pub(crate) fn push(&self, command: Command, bytes: usize) -> Result<(u64, Reply), Full> {
        let (waiter, reply) = oneshot::channel();
        let (id, waker) = {
            let mut state = self.state();
            if state.closed {
                return Err(Full);
            }
            if state.bytes + bytes > self.queue_bytes_max {
                // Perhaps nobody waits any more for some of it.
                state.waiting.retain(|waiting| !waiting.waiter.is_closed());
                state.bytes = state.waiting.iter().map(|waiting| waiting.bytes).sum();
                if state.bytes + bytes > self.queue_bytes_max && !state.waiting.is_empty() {
                    return Err(Full);
                }
            }
            let id = state.next_id;
            state.next_id += 1;
            state.waiting.push_back(Waiting {
                id,
                command,
                bytes,
                waiter,
            });
            state.bytes += bytes;
            (id, state.waker.take())
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok((id, reply))
    }

    /// Ready once something waits, or the queue was closed; tells whether to go on.
    pub(crate) fn poll_waiting(&self, cx: &mut Context<'_>) -> Poll<bool> {
        let mut state = self.state();
        if state.closed || !state.waiting.is_empty() {
            return Poll::Ready(!state.closed);
        }
        state.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Begins a new stream, which takes nothing before [`InFlight::open`].
    pub(crate) fn begin(&self) -> u64 {
        let mut state = self.state();
        state.generation += 1;
        state.open = false;
        state.generation
    }

    /// The current stream is open.
    pub(crate) fn open(&self) {
        let waker = {
            let mut state = self.state();
            state.open = true;
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// The next message of the stream of `generation`; `None` when its time is over.
    pub(crate) fn poll_batch(
        &self,
        generation: u64,
        cx: &mut Context<'_>,
    ) -> Poll<Option<BatchCommandsRequest>> {
        let mut state = self.state();
        if state.closed || state.generation != generation {
            return Poll::Ready(None);
        }
        let mut batch = BatchCommandsRequest::default();
        let mut bytes = 0;
        while state.open && batch.requests.len() < BATCH_MAX {
            let Some(next) = state.waiting.front() else {
                break;
            };
            if bytes > 0 && bytes + next.bytes > BATCH_BYTES_MAX {
                break;
            }
            let next = state.waiting.pop_front().expect("the front was looked at");
            state.bytes -= next.bytes;
            if next.waiter.is_closed() {
                continue;
            }
            bytes += next.bytes;
            state.sent.insert(next.id, next.waiter);
            batch.requests.push(batch_commands_request::Request {
                cmd: Some(next.command),
            });
            batch.request_ids.push(next.id);
        }
        if batch.requests.is_empty() {
            state.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(Some(batch))
    }

    /// Hands answers to their callers. Answers nobody waits for are dropped.
    pub(crate) fn answer(&self, batch: BatchCommandsResponse) {
        let mut state = self.state();
        for (id, response) in batch.request_ids.into_iter().zip(batch.responses) {
            let Some(waiter) = state.sent.remove(&id) else {
                continue;
            };
            let answer = response
                .cmd
                .ok_or_else(|| Miss::Lost("the answer is empty".to_owned()));
            waiter.send(answer).ok();
        }
    }

    /// The caller gives up: forgets the request, and tells whether it was sent.
    pub(crate) fn withdraw(&self, id: u64, why: String) -> Miss {
        let mut state = self.state();
        let Some(position) = state.waiting.iter().position(|waiting| waiting.id == id) else {
            state.sent.remove(&id);
            return Miss::Lost(why);
        };
        if let Some(waiting) = state.waiting.remove(position) {
            state.bytes -= waiting.bytes;
        }
        Miss::NotSent(why)
    }

    /// The stream ended: what was sent is lost, what waits goes on waiting for the next one.
    pub(crate) fn lose(&self, why: &str) {
        let sent = {
            let mut state = self.state();
            state.open = false;
            state.generation += 1;
            std::mem::take(&mut state.sent)
        };
        for waiter in sent.into_values() {
            waiter.send(Err(Miss::Lost(why.to_owned()))).ok();
        }
    }

    /// The store cannot be reached: what waits is given back.
    pub(crate) fn refuse(&self, why: &str) {
        let waiting = {
            let mut state = self.state();
            state.bytes = 0;
            std::mem::take(&mut state.waiting)
        };
        for waiting in waiting {
            waiting.waiter.send(Err(Miss::NotSent(why.to_owned()))).ok();
        }
    }

    /// Ends everything for good.
    pub(crate) fn close(&self) {
        self.refuse("the client is gone");
        self.lose("the client is gone");
        let waker = {
            let mut state = self.state();
            state.closed = true;
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests;
