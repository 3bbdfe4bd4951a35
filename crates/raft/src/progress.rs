//! What a leader knows of one member, and how it sends to it.

use std::collections::VecDeque;

use crate::event::Options;
use crate::message::SupportId;
use crate::types::Index;

/// How a member is sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Mode {
    /// Where the logs part is a guess: one append at a time. `paused` until it is answered.
    Probe { paused: bool },
    /// The logs are known to match up to `next - 1` or appends to that end are in flight: pipelined.
    Replicate,
    /// It needs entries that are compacted away.
    Snapshot,
}

/// # Invariants
/// 1. `matched < next`.
/// 2. `inflight` ascends and is empty outside of [`Mode::Replicate`].
#[derive(Clone, Debug, Hash)]
pub(crate) struct Progress {
    /// Durable there and the same as here, up to this index.
    pub matched: Index,
    /// The next index to send.
    pub next: Index,
    pub mode: Mode,
    /// Last index and bytes of each unanswered append.
    inflight: VecDeque<(Index, usize)>,
    inflight_bytes: usize,
    /// The index of the entry that made it a member, 0 if it was one when this leader began. What it matched earlier was
    /// said in an earlier membership and counts for nothing; and nothing is sent to it before that entry is committed.
    pub since: Index,
    /// The commit index it told us.
    pub commit: Index,
    /// The highest commit index told to it.
    pub commit_sent: Index,
    /// Ticks since it was heard.
    pub silent_ticks: u32,
    /// The newest read round it answered.
    pub round: u64,
    /// The support under which it pledged (LIVENESS P2).
    pub record: Option<SupportId>,
    /// The support that its store gives ours.
    pub held: Option<SupportId>,
    /// Whether entries for it are being fetched.
    pub fetching: bool,
    /// Whether it shall be asked for its pledge by a heartbeat at once (LIVENESS Q3).
    pub ask: bool,
}

impl Progress {
    pub fn new(next: Index, since: Index) -> Self {
        Progress {
            matched: 0,
            next,
            mode: Mode::Probe { paused: false },
            inflight: VecDeque::new(),
            inflight_bytes: 0,
            since,
            commit: 0,
            commit_sent: 0,
            silent_ticks: 0,
            round: 0,
            record: None,
            held: None,
            fetching: false,
            ask: false,
        }
    }

    /// Whether its pledge stands (LIVENESS P2). Never in plain mode.
    pub fn is_pledged(&self) -> bool {
        self.record.is_some() && self.record == self.held
    }

    /// Whether another append may be sent now.
    pub fn may_send(&self, options: &Options) -> bool {
        match self.mode {
            Mode::Probe { paused } => !paused,
            Mode::Replicate => {
                self.inflight.len() < options.inflight_messages_max
                    && self.inflight_bytes < options.inflight_bytes_max
            }
            Mode::Snapshot => false,
        }
    }

    /// Records that an append up to `last` was sent.
    pub fn sent(&mut self, last: Index, bytes: usize) {
        match &mut self.mode {
            Mode::Probe { paused } => *paused = true,
            Mode::Replicate => {
                if last >= self.next {
                    self.next = last + 1;
                    self.inflight.push_back((last, bytes));
                    self.inflight_bytes += bytes;
                }
            }
            Mode::Snapshot => {}
        }
    }

    /// Goes back to guessing, at `next`.
    pub fn probe(&mut self, next: Index) {
        self.mode = Mode::Probe { paused: false };
        self.next = next.max(self.matched + 1);
        self.clear_inflight();
    }

    pub fn await_snapshot(&mut self) {
        self.mode = Mode::Snapshot;
        self.clear_inflight();
    }

    /// It has everything up to `index`, durably. Returns whether `matched` moved. `count_earlier` is for a planted bug.
    pub fn acknowledged(&mut self, index: Index, compacted: Index, count_earlier: bool) -> bool {
        let before = self.matched;
        if index >= self.since || count_earlier {
            self.matched = self.matched.max(index);
            // While it waits for a snapshot, a late acknowledgement may still come.
            self.next = self.next.max(self.matched + 1);
        }
        match self.mode {
            Mode::Probe { .. } => {
                if index >= before {
                    self.mode = Mode::Replicate;
                    self.next = (index + 1).max(self.matched + 1);
                }
            }
            Mode::Snapshot => {
                // Any snapshot that reaches our log unblocks it, not only the one we know of (REGIONS §7).
                if index >= compacted {
                    self.mode = Mode::Replicate;
                    self.next = (index + 1).max(self.matched + 1);
                }
            }
            Mode::Replicate => {
                self.next = self.next.max(index + 1);
                while let Some((last, bytes)) = self.inflight.front().copied() {
                    if last > index {
                        break;
                    }
                    self.inflight.pop_front();
                    self.inflight_bytes -= bytes;
                }
            }
        }
        self.matched > before
    }

    /// It answered, in the present term.
    pub fn heard(&mut self, commit: Index, pledge: Option<SupportId>) {
        self.silent_ticks = 0;
        self.commit = self.commit.max(commit);
        self.record = pledge;
    }

    /// It answered a heartbeat: a probe may be repeated, since what it waits for may be lost.
    pub fn heard_heartbeat(&mut self) {
        if let Mode::Probe { paused } = &mut self.mode {
            *paused = false;
        }
    }

    fn clear_inflight(&mut self) {
        self.inflight.clear();
        self.inflight_bytes = 0;
    }
}
