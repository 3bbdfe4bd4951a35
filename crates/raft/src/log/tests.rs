//! The log against a twin that keeps every entry and every disk that may come.

use bytes::Bytes;
use proptest::prelude::*;

use super::Log;
use crate::event::WriteId;
use crate::types::{Entry, HardState, Index, LogPosition, Payload, Term};

fn entry(index: Index, term: Term) -> Entry {
    Entry {
        term,
        index,
        payload: Payload::Command(Bytes::from_static(b"12345678")),
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// Appends this many entries, in a term higher by `raise`.
    Append {
        count: u64,
        raise: Term,
    },
    /// Cuts a share of what is not applied, and appends one entry of a new term.
    Truncate {
        share: f64,
    },
    /// Cuts and appends what was there before, as a leader with the older log would.
    Return {
        share: f64,
    },
    Write,
    Complete {
        share: f64,
    },
    Apply {
        share: f64,
    },
    Compact {
        share: f64,
    },
    Trim {
        bytes_max: usize,
    },
    Snapshot {
        ahead: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let share = || 0.0..=1.0_f64;
    prop_oneof![
        4 => (1..5_u64, 0..3_u64).prop_map(|(count, raise)| Step::Append { count, raise }),
        2 => share().prop_map(|share| Step::Truncate { share }),
        2 => share().prop_map(|share| Step::Return { share }),
        4 => Just(Step::Write),
        3 => share().prop_map(|share| Step::Complete { share }),
        2 => share().prop_map(|share| Step::Apply { share }),
        1 => share().prop_map(|share| Step::Compact { share }),
        1 => (0..200_usize).prop_map(|bytes_max| Step::Trim { bytes_max }),
        1 => (1..5_u64).prop_map(|ahead| Step::Snapshot { ahead }),
    ]
}

/// What a write does to a disk.
#[derive(Clone, Debug)]
struct TwinWrite {
    id: WriteId,
    install: Option<Index>,
    truncate_from: Option<Index>,
    entries: Vec<Entry>,
}

/// A disk: the index it begins after, and the terms that follow.
#[derive(Clone, Debug, Default)]
struct Disk {
    base: Index,
    entries: Vec<Entry>,
}

impl Disk {
    fn apply(&mut self, write: &TwinWrite) {
        if let Some(base) = write.install {
            self.base = base;
            self.entries.clear();
        }
        if let Some(from) = write.truncate_from {
            self.entries.retain(|entry| entry.index < from);
        }
        for entry in &write.entries {
            let last = self.entries.last().map_or(self.base, |entry| entry.index);
            assert_eq!(entry.index, last + 1, "a write leaves no hole");
            self.entries.push(entry.clone());
        }
    }

    fn term_at(&self, index: Index) -> Option<Term> {
        self.entries
            .iter()
            .find(|entry| entry.index == index)
            .map(|entry| entry.term)
    }
}

#[derive(Default)]
struct Twin {
    /// Terms of all entries ever, from index 1; what a snapshot skipped is `None`.
    terms: Vec<Option<Term>>,
    compacted: Index,
    applied: Index,
    disk: Disk,
    writes: Vec<TwinWrite>,
    next_id: u64,
    /// The snapshot whose write is not complete.
    installing: Option<Index>,
}

impl Twin {
    fn last(&self) -> Index {
        self.terms.len() as Index
    }

    fn last_term(&self) -> Term {
        self.terms.last().copied().flatten().unwrap_or(0)
    }

    fn term_at(&self, index: Index) -> Option<Term> {
        match index.checked_sub(1) {
            None => Some(0),
            Some(place) => self.terms.get(place as usize).copied().flatten(),
        }
    }
}

fn scaled(share: f64, from: Index, to: Index) -> Index {
    from + ((to - from) as f64 * share) as Index
}

fn play(steps: &[Step]) {
    let mut log = Log::new(LogPosition::default(), Vec::new(), 0);
    let mut twin = Twin::default();
    let mut install = None;
    for step in steps {
        match step {
            Step::Append { count, raise } => {
                let term = twin.last_term().max(1) + raise;
                for _ in 0..*count {
                    log.append(entry(twin.last() + 1, term));
                    twin.terms.push(Some(term));
                }
            }
            Step::Truncate { share } | Step::Return { share } => {
                let floor = twin.applied.max(twin.installing.unwrap_or(0));
                if twin.last() <= floor {
                    continue;
                }
                let from = scaled(*share, floor + 1, twin.last());
                let removed: Vec<Option<Term>> = twin.terms.split_off(from as usize - 1);
                log.truncate(from, true);
                let terms = match step {
                    Step::Return { .. } => removed,
                    _ => vec![Some(removed.last().copied().flatten().unwrap_or(0) + 1)],
                };
                for term in terms {
                    log.append(entry(twin.last() + 1, term.expect("cut entries are known")));
                    twin.terms.push(term);
                }
            }
            Step::Write => {
                if !log.has_unwritten() && install.is_none() {
                    continue;
                }
                twin.next_id += 1;
                let id = WriteId(twin.next_id);
                let (truncate_from, entries) = log.take_write(id, HardState::default());
                twin.writes.push(TwinWrite {
                    id,
                    install: install.take(),
                    truncate_from,
                    entries,
                });
            }
            Step::Complete { share } => {
                let count = scaled(*share, 0, twin.writes.len() as Index) as usize;
                for write in twin.writes.drain(..count) {
                    twin.disk.apply(&write);
                    log.complete(write.id);
                    if let Some(base) = write.install {
                        twin.applied = base;
                        twin.installing = None;
                    }
                }
            }
            Step::Apply { share } => {
                if twin.installing.is_none() {
                    twin.applied = scaled(*share, twin.applied, log.persisted());
                    log.count_applied(twin.applied);
                }
            }
            Step::Compact { share } => {
                let index = scaled(*share, twin.compacted, twin.applied.max(twin.compacted));
                if index > twin.compacted && twin.installing.is_none() {
                    log.compact(index);
                    twin.compacted = index;
                    // The disk forgets too.
                    twin.disk.base = twin.disk.base.max(index);
                    twin.disk.entries.retain(|entry| entry.index > index);
                }
            }
            Step::Trim { bytes_max } => log.trim(*bytes_max),
            Step::Snapshot { ahead } => {
                if twin.installing.is_some() {
                    continue;
                }
                let base = LogPosition {
                    term: twin.last_term() + 1,
                    index: twin.last() + ahead,
                };
                log.reset(base, twin.applied);
                twin.terms.resize(base.index as usize - 1, None);
                twin.terms.push(Some(base.term));
                twin.compacted = base.index;
                twin.installing = Some(base.index);
                install = Some(base.index);
            }
        }
        compare(&log, &twin);
    }
}

fn compare(log: &Log, twin: &Twin) {
    log.check();
    assert_eq!(log.last().index, twin.last());
    assert_eq!(log.last().term, twin.last_term());
    assert_eq!(log.compacted().index, twin.compacted);
    for index in 0..twin.last() + 3 {
        let known = index >= twin.compacted && index <= twin.last();
        let expected = if known { twin.term_at(index) } else { None };
        assert_eq!(log.term_at(index), expected, "term at {index}");
    }
    let cached: Vec<Index> = log
        .range(log.first_cached(), log.last().index)
        .map(|entry| entry.index)
        .collect();
    let expected: Vec<Index> = (log.first_cached()..=twin.last()).collect();
    assert_eq!(cached, expected);
    assert!(
        log.first_cached() <= twin.applied.max(twin.compacted) + 1,
        "what is not applied is in memory"
    );
    for term in 0..twin.last_term() + 2 {
        for index in twin.compacted..twin.last() + 2 {
            let naive = (twin.compacted..=index.min(twin.last()))
                .rev()
                .find(|at| twin.term_at(*at).is_some_and(|at| at <= term))
                .unwrap_or(twin.compacted);
            assert_eq!(
                log.hint(index, term).index,
                naive,
                "hint for {index} of term {term}"
            );
        }
    }
    // What counts as durable is on the disk now, and stays there as the writes on their way complete one by one.
    let mut disk = twin.disk.clone();
    let mut later = twin.writes.iter();
    while twin.installing.is_none() {
        for index in twin.compacted.max(twin.applied) + 1..=log.persisted() {
            let on_disk = disk.term_at(index).or((index <= disk.base).then_some(0));
            assert_eq!(on_disk, log.term_at(index), "{index} counts as durable");
        }
        match later.next() {
            Some(write) => disk.apply(write),
            None => break,
        }
    }
}

proptest! {
    #[test]
    fn agrees_with_a_naive_log(steps in prop::collection::vec(step(), 1..60)) {
        play(&steps);
    }
}

#[test]
fn an_entry_that_comes_back_is_not_durable_by_its_first_write() {
    let append = |count, raise| Step::Append { count, raise };
    play(&[
        append(3, 0),
        Step::Write,
        Step::Truncate { share: 0.0 },
        Step::Write,
        Step::Complete { share: 0.5 },
        Step::Complete { share: 1.0 },
    ]);
    // The same index and term: written, cut, and back, with the first write completing first.
    let mut log = Log::new(LogPosition::default(), Vec::new(), 0);
    log.append(entry(1, 1));
    log.take_write(WriteId(1), HardState::default());
    log.truncate(1, true);
    log.append(entry(1, 2));
    log.take_write(WriteId(2), HardState::default());
    log.truncate(1, true);
    log.append(entry(1, 1));
    log.complete(WriteId(1));
    assert_eq!(log.persisted(), 0);
    log.take_write(WriteId(3), HardState::default());
    log.complete(WriteId(2));
    assert_eq!(log.persisted(), 0);
    log.complete(WriteId(3));
    assert_eq!(log.persisted(), 1);
}
