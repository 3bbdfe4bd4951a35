//! What waits for one store.
//!
//! # Invariants
//! 1. `bytes` is the sum of the sizes of `frames`; `bytes <= queue_bytes_max`.
//! 2. `beat_bytes <= queue_bytes_max / BEAT_SHARE`: heartbeats are counted apart, so a full queue still takes them.
//! 3. Only the stream of the current generation takes frames, and only once its handshake was accepted.

use std::{
    collections::VecDeque,
    mem,
    sync::{Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use prost::Message;
use proto::pontoon::v1::{Frame, HeartbeatBatch};

use crate::Config;

/// Heartbeats may use this fraction of the queue's limit on top of it.
const BEAT_SHARE: usize = 64;

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Pushed {
    /// It waits to be sent.
    Queued,
    /// It, or a part of it, found no room.
    Dropped,
}

pub(crate) struct Queue {
    queue_bytes_max: usize,
    frame_bytes_max: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Without heartbeats, with the encoded size of each.
    frames: VecDeque<(usize, Frame)>,
    bytes: usize,
    /// Nothing but heartbeats; leaves before everything else.
    beats: Frame,
    beat_bytes: usize,
    /// The stream that may take frames.
    generation: u64,
    accepted: bool,
    closed: bool,
    waker: Option<Waker>,
    dropped: u64,
}

impl State {
    fn is_empty(&self) -> bool {
        self.frames.is_empty() && self.beat_bytes == 0
    }

    fn wake(&mut self) -> Option<Waker> {
        self.waker.take()
    }
}

impl Queue {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            queue_bytes_max: config.queue_bytes_max,
            frame_bytes_max: config.frame_bytes_max,
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a frame, as far as there is room.
    pub(crate) fn push(&self, mut frame: Frame) -> Pushed {
        let beats = Frame {
            heartbeats: frame.heartbeats.take(),
            heartbeat_responses: frame.heartbeat_responses.take(),
            ..Frame::default()
        };
        let beat_bytes = beats.encoded_len();
        let bytes = frame.encoded_len();
        let mut pushed = Pushed::Queued;
        let waker = {
            let mut state = self.state();
            if state.closed {
                return Pushed::Dropped;
            }
            if state.beat_bytes + beat_bytes <= self.queue_bytes_max / BEAT_SHARE {
                join(&mut state.beats, beats);
                state.beat_bytes += beat_bytes;
            } else {
                pushed = Pushed::Dropped;
            }
            if state.bytes + bytes > self.queue_bytes_max {
                pushed = Pushed::Dropped;
            } else if bytes > 0 {
                state.frames.push_back((bytes, frame));
                state.bytes += bytes;
            }
            state.dropped += u64::from(pushed == Pushed::Dropped);
            state.wake()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        pushed
    }

    /// Ready once something waits, or the queue was closed; tells whether to go on.
    pub(crate) fn poll_waiting(&self, cx: &mut Context<'_>) -> Poll<bool> {
        let mut state = self.state();
        if state.closed || !state.is_empty() {
            return Poll::Ready(!state.closed);
        }
        state.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Begins the next generation: streams opened before end, and the new one waits for [`Queue::accept`].
    pub(crate) fn begin(&self) -> u64 {
        let (generation, waker) = {
            let mut state = self.state();
            state.generation += 1;
            state.accepted = false;
            (state.generation, state.wake())
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        generation
    }

    /// The other side accepted the handshake: the stream may take frames.
    pub(crate) fn accept(&self) {
        let waker = {
            let mut state = self.state();
            state.accepted = true;
            state.wake()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// The next frame for the stream of `generation`; `None` when its time is over.
    pub(crate) fn poll_frame(&self, generation: u64, cx: &mut Context<'_>) -> Poll<Option<Frame>> {
        let mut state = self.state();
        if state.closed || state.generation != generation {
            return Poll::Ready(None);
        }
        if !state.accepted || state.is_empty() {
            state.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(Some(self.gather(&mut state)))
    }

    /// Joins what waits, up to `frame_bytes_max`. A single larger frame is cut between its messages.
    fn gather(&self, state: &mut State) -> Frame {
        let mut gathered = mem::take(&mut state.beats);
        let mut size = mem::take(&mut state.beat_bytes);
        while let Some((bytes, _)) = state.frames.front() {
            let bytes = *bytes;
            if size > 0 && size + bytes > self.frame_bytes_max {
                break;
            }
            let (_, frame) = state.frames.pop_front().expect("the front was looked at");
            state.bytes -= bytes;
            if bytes <= self.frame_bytes_max {
                join(&mut gathered, frame);
                size += bytes;
                continue;
            }
            let (head, rest) = cut(frame, self.frame_bytes_max);
            join(&mut gathered, head);
            let left = rest.encoded_len();
            if left > 0 {
                // What is left is smaller than what was taken, so the limit holds.
                state.frames.push_front((left, rest));
                state.bytes += left;
            }
            break;
        }
        gathered
    }

    /// Forgets what waits. After a failed attempt it is stale, and Raft will say it again.
    pub(crate) fn clear(&self) {
        let mut state = self.state();
        state.frames.clear();
        state.bytes = 0;
        state.beats = Frame::default();
        state.beat_bytes = 0;
    }

    /// Ends the queue and its streams for good.
    pub(crate) fn close(&self) {
        self.clear();
        let waker = {
            let mut state = self.state();
            state.closed = true;
            state.wake()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Bytes that wait, heartbeats included, and frames dropped so far.
    pub(crate) fn load(&self) -> (usize, u64) {
        let state = self.state();
        (state.bytes + state.beat_bytes, state.dropped)
    }
}

/// Appends `more` to `frame`. The order of messages is kept.
fn join(frame: &mut Frame, more: Frame) {
    let Frame {
        messages,
        notices,
        offers,
        answers,
        heartbeats,
        heartbeat_responses,
        merges,
        digests,
        sums,
        sums_noted,
        pledges_held,
        pledges_void,
    } = more;
    append(&mut frame.messages, messages);
    append(&mut frame.notices, notices);
    append(&mut frame.offers, offers);
    append(&mut frame.answers, answers);
    append(&mut frame.merges, merges);
    append(&mut frame.digests, digests);
    append(&mut frame.sums, sums);
    append(&mut frame.sums_noted, sums_noted);
    append(&mut frame.pledges_held, pledges_held);
    append(&mut frame.pledges_void, pledges_void);
    join_beats(&mut frame.heartbeats, heartbeats);
    join_beats(&mut frame.heartbeat_responses, heartbeat_responses);
}

fn append<T>(to: &mut Vec<T>, more: Vec<T>) {
    if to.is_empty() {
        *to = more;
    } else {
        to.extend(more);
    }
}

fn join_beats(to: &mut Option<HeartbeatBatch>, more: Option<HeartbeatBatch>) {
    let Some(more) = more else { return };
    let Some(to) = to else {
        *to = Some(more);
        return;
    };
    let HeartbeatBatch {
        region_ids,
        from_peers,
        to_peers,
        terms,
        commits,
        rounds,
        conf_vers,
        pledges,
    } = more;
    // A column that is left out is all 0.
    if !pledges.is_empty() || !to.pledges.is_empty() {
        let (rows, more) = (to.region_ids.len(), region_ids.len());
        to.pledges.resize(rows, 0);
        to.pledges.extend(pledges);
        to.pledges.resize(rows + more, 0);
    }
    to.region_ids.extend(region_ids);
    to.from_peers.extend(from_peers);
    to.to_peers.extend(to_peers);
    to.terms.extend(terms);
    to.commits.extend(commits);
    to.rounds.extend(rounds);
    to.conf_vers.extend(conf_vers);
}

/// Takes messages from the front of `frame` until `bytes_max` is reached, at least one. The other lists are short and go
/// with the first part.
fn cut(mut frame: Frame, bytes_max: usize) -> (Frame, Frame) {
    let mut size = 0;
    let fit = frame
        .messages
        .iter()
        .take_while(|message| {
            size += message.encoded_len();
            size <= bytes_max
        })
        .count();
    let rest = frame
        .messages
        .split_off(fit.max(1).min(frame.messages.len()));
    (
        frame,
        Frame {
            messages: rest,
            ..Frame::default()
        },
    )
}

#[cfg(test)]
mod tests;
