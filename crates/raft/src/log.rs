//! The log of one peer, as far as it is in memory.
//!
//! Three things of different reach: the *terms* of every index in `[compacted, last]`, kept as runs, so that log matching never
//! needs the disk; the *entries* of a suffix, at least all that are not applied; and the *marks* of writes on their way, which
//! say how far the log will be durable when they complete.

use std::collections::VecDeque;
use std::hash::{Hash, Hasher};

use crate::event::WriteId;
use crate::types::{Entry, HardState, Index, LogPosition, Term};

/// Indexes from `first` to the next run's `first` have this term.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Run {
    pub first: Index,
    pub term: Term,
}

/// A write on its way to the disk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark {
    pub id: WriteId,
    /// The log will be durable up to here. Lowered when the log is truncated meanwhile: what the write brings above is not
    /// the log any more, and may become it again only by a later write. Comparing terms on completion would not do, because
    /// an entry can be overwritten and come back while its first write is still on its way (R7, ABA).
    pub last: Index,
    /// The hard state that will be durable.
    pub hard_state: HardState,
}

/// # Invariants
/// 1. `runs[0].first == compacted index`, runs ascend in `first` and in `term`.
/// 2. `entries` are contiguous and end at `last`.
/// 3. `persisted <= written <= last`, and everything up to `persisted` is durable exactly as it is here.
/// 4. Marks ascend in `id`; their `last` is at most `written`.
#[derive(Clone, Debug)]
pub(crate) struct Log {
    runs: Vec<Run>,
    entries: VecDeque<Entry>,
    last: Index,
    written: Index,
    persisted: Index,
    truncate_from: Option<Index>,
    marks: VecDeque<Mark>,
    /// Bytes of cached entries at or below `trimmed_to`, which are applied.
    applied_bytes: usize,
    applied_to: Index,
    /// Ticks since the last append.
    idle_ticks: u32,
}

impl Log {
    /// A log that is durable as given. `entries` follow `compacted`; the caller checked them.
    pub fn new(compacted: LogPosition, entries: Vec<Entry>, applied: Index) -> Self {
        let mut log = Log {
            runs: vec![Run {
                first: compacted.index,
                term: compacted.term,
            }],
            entries: VecDeque::new(),
            last: compacted.index,
            written: compacted.index,
            persisted: compacted.index,
            truncate_from: None,
            marks: VecDeque::new(),
            applied_bytes: 0,
            applied_to: compacted.index,
            idle_ticks: 0,
        };
        for entry in entries {
            log.append(entry);
        }
        log.written = log.last;
        log.persisted = log.last;
        log.count_applied(applied);
        log
    }

    /// A log whose entries, all applied and durable, are not in memory.
    pub fn packed(runs: Vec<Run>, last: Index) -> Self {
        Log {
            runs,
            entries: VecDeque::new(),
            last,
            written: last,
            persisted: last,
            truncate_from: None,
            marks: VecDeque::new(),
            applied_bytes: 0,
            applied_to: last,
            idle_ticks: 0,
        }
    }

    /// The terms, for packing.
    pub fn into_runs(self) -> Vec<Run> {
        self.runs
    }

    /// The position everything up to which is compacted away.
    pub fn compacted(&self) -> LogPosition {
        LogPosition {
            term: self.runs[0].term,
            index: self.runs[0].first,
        }
    }

    /// The end.
    pub fn last(&self) -> LogPosition {
        LogPosition {
            term: self.runs[self.runs.len() - 1].term,
            index: self.last,
        }
    }

    pub fn persisted(&self) -> Index {
        self.persisted
    }

    /// First index whose entry is in memory; `last + 1` when none is.
    pub fn first_cached(&self) -> Index {
        self.last + 1 - self.entries.len() as Index
    }

    /// The term at `index`, for every index in `[compacted, last]`.
    pub fn term_at(&self, index: Index) -> Option<Term> {
        if index > self.last || index < self.runs[0].first {
            return None;
        }
        let newest = self.runs[self.runs.len() - 1];
        if index >= newest.first {
            return Some(newest.term);
        }
        let after = self.runs.partition_point(|run| run.first <= index);
        Some(self.runs[after - 1].term)
    }

    pub fn matches(&self, position: LogPosition) -> bool {
        self.term_at(position.index) == Some(position.term)
    }

    /// The last position at or before `index` whose term is at most `term`: the best guess of one side where two logs part
    /// (Raft §5.3, end). Not below the compacted position.
    pub fn hint(&self, index: Index, term: Term) -> LogPosition {
        let index = index.min(self.last);
        let mut end = index;
        for run in self.runs.iter().rev() {
            if run.first > end {
                continue;
            }
            if run.term <= term {
                return LogPosition {
                    term: run.term,
                    index: end,
                };
            }
            if run.first == self.runs[0].first {
                break;
            }
            end = run.first - 1;
        }
        self.compacted()
    }

    /// The entry at `index`, if it is in memory.
    pub fn entry(&self, index: Index) -> Option<&Entry> {
        let first = self.first_cached();
        if index < first {
            return None;
        }
        self.entries.get((index - first) as usize)
    }

    /// Entries from `from` on that are in memory, up to and including `to`.
    pub fn range(&self, from: Index, to: Index) -> impl Iterator<Item = &Entry> {
        let first = self.first_cached();
        assert!(
            from >= first,
            "entry {from} is not in memory, the first is {first}"
        );
        let start = ((from - first) as usize).min(self.entries.len());
        let end = (((to + 1).max(first) - first) as usize).clamp(start, self.entries.len());
        self.entries.range(start..end)
    }

    /// Adds one entry at the end.
    pub fn append(&mut self, entry: Entry) {
        let last = self.last();
        assert!(
            entry.index == last.index + 1,
            "entry {} does not follow {}",
            entry.index,
            last.index
        );
        assert!(
            entry.term >= last.term,
            "term {} after term {} at {}",
            entry.term,
            last.term,
            entry.index
        );
        if entry.term > last.term {
            self.runs.push(Run {
                first: entry.index,
                term: entry.term,
            });
        }
        self.last = entry.index;
        self.idle_ticks = 0;
        self.entries.push_back(entry);
    }

    /// Removes the entries from `from` on. `capped` is false only for a planted bug.
    pub fn truncate(&mut self, from: Index, capped: bool) {
        assert!(
            from > self.compacted().index,
            "truncating at {from}, compacted to {}",
            self.compacted().index
        );
        if from > self.last {
            return;
        }
        let kept = self.entries.len() - (self.last + 1 - from) as usize;
        self.entries.truncate(kept);
        while self.runs.len() > 1 && self.runs[self.runs.len() - 1].first >= from {
            self.runs.pop();
        }
        self.last = from - 1;
        if from <= self.written {
            self.truncate_from = Some(self.truncate_from.map_or(from, |earlier| earlier.min(from)));
            self.written = self.last;
        }
        self.persisted = self.persisted.min(self.last);
        if capped {
            for mark in &mut self.marks {
                mark.last = mark.last.min(self.last);
            }
        }
    }

    /// Forgets everything and starts at the base of a snapshot. Nothing but what was handed out for applying counts as durable
    /// until the write that records the snapshot completes.
    pub fn reset(&mut self, base: LogPosition, handed: Index) {
        self.runs.clear();
        self.runs.push(Run {
            first: base.index,
            term: base.term,
        });
        self.entries.clear();
        self.last = base.index;
        self.written = base.index;
        self.persisted = handed.min(base.index);
        self.truncate_from = None;
        self.applied_bytes = 0;
        self.applied_to = base.index;
        for mark in &mut self.marks {
            mark.last = 0;
        }
    }

    /// Forgets everything up to `index`, which is applied.
    pub fn compact(&mut self, index: Index) {
        let term = self
            .term_at(index)
            .expect("compaction stays inside the log");
        let keep = self.runs.partition_point(|run| run.first <= index) - 1;
        self.runs.drain(..keep);
        self.runs[0] = Run { first: index, term };
        while self.first_cached() <= index && !self.entries.is_empty() {
            self.pop_applied();
        }
    }

    /// Counts entries up to `applied` as applied, so that they may leave memory.
    pub fn count_applied(&mut self, applied: Index) {
        let from = (self.applied_to + 1).max(self.first_cached());
        if from <= applied {
            let bytes: usize = self
                .range(from, applied)
                .map(|entry| entry.payload.size_bytes())
                .sum();
            self.applied_bytes += bytes;
        }
        self.applied_to = self.applied_to.max(applied);
    }

    /// Drops the oldest applied entries until what is left of them fits `bytes_max`.
    pub fn trim(&mut self, bytes_max: usize) {
        while self.applied_bytes > bytes_max {
            self.pop_applied();
        }
        if self.entries.is_empty() && self.entries.capacity() > 64 {
            self.entries = VecDeque::new();
        }
    }

    /// Counts a tick. A log that nobody appended to for `limit` ticks, all applied and durable, keeps nothing in memory but its
    /// terms: peers are many, and most of them idle. Who lags then is served from disk.
    pub fn rest(&mut self, limit: u32) {
        self.idle_ticks = self.idle_ticks.saturating_add(1);
        let settled = self.applied_to == self.last && self.marks.is_empty();
        if self.idle_ticks >= limit && settled && self.entries.capacity() > 0 {
            self.trim(0);
            self.entries = VecDeque::new();
            self.marks = VecDeque::new();
            self.runs.shrink_to_fit();
        }
    }

    fn pop_applied(&mut self) {
        let entry = self
            .entries
            .pop_front()
            .expect("counted bytes belong to cached entries");
        assert!(
            entry.index <= self.applied_to,
            "entry {} leaves memory unapplied, applied {}",
            entry.index,
            self.applied_to
        );
        self.applied_bytes -= entry.payload.size_bytes();
    }

    /// Whether entries or a truncation wait to be written.
    pub fn has_unwritten(&self) -> bool {
        self.written < self.last || self.truncate_from.is_some()
    }

    /// Takes what must be written, as part of write `id` that also makes `hard_state` durable.
    pub fn take_write(
        &mut self,
        id: WriteId,
        hard_state: HardState,
    ) -> (Option<Index>, Vec<Entry>) {
        let entries = if self.written < self.last {
            self.range(self.written + 1, self.last).cloned().collect()
        } else {
            Vec::new()
        };
        self.written = self.last;
        self.marks.push_back(Mark {
            id,
            last: self.last,
            hard_state,
        });
        (self.truncate_from.take(), entries)
    }

    /// Whether a write is on its way.
    pub fn is_writing(&self) -> bool {
        !self.marks.is_empty()
    }

    /// Counts write `id` and those before it as durable and returns the newest hard state among them.
    pub fn complete(&mut self, id: WriteId) -> Option<HardState> {
        let mut durable = None;
        while let Some(mark) = self.marks.front().filter(|mark| mark.id <= id) {
            self.persisted = self.persisted.max(mark.last.min(self.last));
            durable = Some(mark.hard_state);
            self.marks.pop_front();
        }
        durable
    }

    /// Feeds what decides the future of the log into `hasher`; writes are named by how long before `newest` they were made.
    pub fn project(&self, newest: WriteId, hasher: &mut impl Hasher) {
        (
            &self.runs,
            &self.entries,
            self.last,
            self.written,
            self.persisted,
        )
            .hash(hasher);
        (self.truncate_from, self.applied_to).hash(hasher);
        for mark in &self.marks {
            (newest.0 - mark.id.0, mark.last, mark.hard_state).hash(hasher);
        }
    }

    /// Checks what only a scan can check.
    pub fn check(&self) {
        assert!(
            self.persisted <= self.written,
            "persisted {} above written {}",
            self.persisted,
            self.written
        );
        assert!(
            self.written <= self.last,
            "written {} above last {}",
            self.written,
            self.last
        );
        for pair in self.runs.windows(2) {
            assert!(
                pair[0].first < pair[1].first,
                "term runs out of order: {pair:?}"
            );
            assert!(pair[0].term < pair[1].term, "terms do not ascend: {pair:?}");
        }
        let mut applied_bytes = 0;
        for (index, entry) in (self.first_cached()..).zip(&self.entries) {
            assert!(
                entry.index == index,
                "entry {} where {index} belongs",
                entry.index
            );
            assert!(
                self.term_at(index) == Some(entry.term),
                "entry {index} of term {}, recorded {:?}",
                entry.term,
                self.term_at(index)
            );
            if index <= self.applied_to {
                applied_bytes += entry.payload.size_bytes();
            }
        }
        assert!(
            applied_bytes == self.applied_bytes,
            "{applied_bytes} applied bytes in memory, counted {}",
            self.applied_bytes
        );
        for mark in &self.marks {
            assert!(
                mark.last <= self.written,
                "mark at {} above written {}",
                mark.last,
                self.written
            );
        }
    }
}

#[cfg(test)]
mod tests;
