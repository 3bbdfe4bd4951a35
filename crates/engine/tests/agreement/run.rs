//! Applies operations to an engine and to the twin, and compares.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use engine::{Batch, Direction, Engine, Error, Family, Logging, View};

use crate::operation::{Bounds, Operation};
use crate::twin::{Content, Twin, scan};

/// An engine under test, and how it ends.
pub trait Subject: Sized {
    type Engine: Engine;

    fn engine(&self) -> &Self::Engine;

    /// Closes and opens it.
    fn reopen(self) -> Self;

    /// Kills its process and opens it.
    fn kill(self) -> Self;

    /// Takes the power away and opens it: with everything that was not synced, or with what a seed draws of it. The same as
    /// before if that cannot be done.
    fn lose_power(self, seed: Option<u64>) -> Result<Self, Self>;
}

struct Runner<S: Subject> {
    subject: Option<S>,
    twin: Twin,
    views: BTreeMap<usize, (<S::Engine as Engine>::View, [Content; 2])>,
    staged: BTreeMap<usize, Vec<(Bytes, Bytes)>>,
}

/// Runs the operations.
///
/// # Panics
/// When the engine and the twin differ.
pub fn run<S: Subject>(subject: S, operations: &[Operation]) {
    let mut runner = Runner {
        subject: Some(subject),
        twin: Twin::default(),
        views: BTreeMap::new(),
        staged: BTreeMap::new(),
    };
    for (step, operation) in operations.iter().enumerate() {
        runner.apply(operation);
        for family in [Family::Log, Family::State] {
            let all = (Bound::Unbounded, Bound::Unbounded);
            let found = read(
                &runner.engine().view(),
                family,
                &all,
                Direction::Forward,
                usize::MAX,
            );
            let expected = scan(runner.twin.content(family), &all, Direction::Forward);
            assert_eq!(
                found, expected,
                "{family:?} after step {step}: {operation:?}"
            );
        }
    }
}

fn read(
    view: &impl View,
    family: Family,
    bounds: &Bounds,
    direction: Direction,
    limit: usize,
) -> Vec<(Bytes, Bytes)> {
    let as_slice = |bound: &Bound<Bytes>| bound.clone().map(|key| key.to_vec());
    let (lower, upper) = (as_slice(&bounds.0), as_slice(&bounds.1));
    let mut found = Vec::new();
    view.scan(
        family,
        lower.as_ref().map(|key| key.as_slice()),
        upper.as_ref().map(|key| key.as_slice()),
        direction,
        &mut |key, value| {
            found.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
            found.len() < limit
        },
    )
    .expect("the engine is sound");
    found
}

fn file_name(slot: usize) -> String {
    format!("file-{slot}.sst")
}

impl<S: Subject> Runner<S> {
    fn engine(&self) -> &S::Engine {
        self.subject
            .as_ref()
            .expect("taken only while it restarts")
            .engine()
    }

    fn apply(&mut self, operation: &Operation) {
        match operation.clone() {
            Operation::Write {
                family,
                changes,
                logging,
            } => {
                self.engine()
                    .write(
                        Batch {
                            family,
                            changes: changes.clone(),
                        },
                        logging,
                    )
                    .expect("no fault");
                self.twin.write(family, changes, logging);
            }
            Operation::GetMany { family, keys } => self.get_many(family, &keys),
            Operation::GetFlushed { family, key } => {
                let found = self
                    .engine()
                    .get_flushed(family, &key)
                    .expect("the engine is sound");
                if let Some(expected) = self.twin.flushed(family, &key) {
                    assert_eq!(found, expected, "flushed {key:?}");
                }
            }
            Operation::Scan {
                family,
                bounds,
                direction,
                limit,
            } => {
                let found = read(&self.engine().view(), family, &bounds, direction, limit);
                let mut expected = scan(self.twin.content(family), &bounds, direction);
                expected.truncate(limit);
                assert_eq!(found, expected);
            }
            Operation::TakeView { slot } => {
                let view = self.engine().view();
                self.views.insert(slot, (view, self.twin.contents()));
            }
            Operation::ReadView {
                slot,
                family,
                bounds,
                direction,
            } => {
                let Some((view, contents)) = self.views.get(&slot) else {
                    return;
                };
                let content = &contents[family as usize];
                assert_eq!(
                    read(view, family, &bounds, direction, usize::MAX),
                    scan(content, &bounds, direction)
                );
                for key in content.keys().chain(self.twin.content(family).keys()) {
                    assert_eq!(
                        view.get(family, key).expect("the engine is sound").as_ref(),
                        content.get(key)
                    );
                }
            }
            Operation::DropView { slot } => drop(self.views.remove(&slot)),
            Operation::Stage {
                slot,
                view,
                family,
                start,
                end,
                bytes_max,
            } => {
                self.stage(slot, view, family, &start, &end, bytes_max);
            }
            Operation::Receive { from, to, chunk } => self.receive(from, to, chunk),
            Operation::Unstage { slot } => {
                self.engine()
                    .stage_remove(&[file_name(slot)])
                    .expect("the engine is sound");
                self.staged.remove(&slot);
            }
            Operation::Ingest { family, slots } => self.ingest(family, &slots),
            Operation::Clear {
                family,
                start,
                end,
                logging,
            } => {
                self.engine()
                    .clear_range(family, &start, &end, logging)
                    .expect("no fault");
                self.twin.clear(family, &start, &end, logging);
            }
            Operation::Flush { family } => {
                self.engine().flush(family).expect("no fault");
                self.twin.flush(family);
            }
            Operation::Sync => {
                self.engine().sync().expect("no fault");
                self.twin.sync();
            }
            Operation::Reopen => {
                self.views.clear();
                self.subject = self.subject.take().map(S::reopen);
                self.twin.reopen();
            }
            Operation::Kill => {
                self.views.clear();
                self.subject = self.subject.take().map(S::kill);
                let cleared = self.twin.kill(&self.found());
                self.clear_again(cleared);
            }
            Operation::LosePower(seed) => {
                self.views.clear();
                let subject = self.subject.take().expect("taken only while it restarts");
                match subject.lose_power(seed) {
                    Err(subject) => self.subject = Some(subject),
                    Ok(subject) => {
                        self.subject = Some(subject);
                        self.on_power_lost(seed.is_some());
                    }
                }
            }
        }
    }

    /// What the engine holds of each family.
    fn found(&self) -> [Content; 2] {
        let view = self.engine().view();
        let all = (Bound::Unbounded, Bound::Unbounded);
        [Family::Log, Family::State].map(|family| {
            let found = read(&view, family, &all, Direction::Forward, usize::MAX);
            found.into_iter().collect()
        })
    }

    /// Both families fall back to the same place in the log, at or after the last sync.
    fn on_power_lost(&mut self, may_keep_more: bool) {
        let found = self.found();
        let Some(kept) = self.twin.kept(&found, may_keep_more) else {
            panic!(
                "{found:?} is not what a power loss leaves of {:?}",
                self.twin
            );
        };
        let cleared = self.twin.lose_power(kept, &found);
        self.clear_again(cleared);
    }

    fn get_many(&self, family: Family, keys: &[Bytes]) {
        let slices: Vec<&[u8]> = keys.iter().map(|key| &key[..]).collect();
        let found = self
            .engine()
            .get_many(family, &slices)
            .expect("the engine is sound");
        let expected: Vec<_> = keys
            .iter()
            .map(|key| self.twin.content(family).get(key).cloned())
            .collect();
        assert_eq!(found, expected);
        for (key, expected) in keys.iter().zip(expected) {
            assert_eq!(
                self.engine().get(family, key).expect("the engine is sound"),
                expected
            );
        }
    }

    fn stage(
        &mut self,
        slot: usize,
        view: Option<usize>,
        family: Family,
        start: &Bytes,
        end: &Bytes,
        bytes_max: u64,
    ) {
        let now = (self.engine().view(), self.twin.contents());
        let (view, contents) = view.and_then(|view| self.views.get(&view)).unwrap_or(&now);
        let name = file_name(slot);
        let outcome = self
            .engine()
            .stage_range(view, family, start, end, bytes_max, &name);
        if self.staged.contains_key(&slot) {
            assert!(
                matches!(outcome, Err(Error::Staging { exists: true, .. })),
                "{outcome:?}"
            );
            return;
        }
        let (file, next) = outcome.expect("the engine is sound");

        let bounds = (Bound::Included(start.clone()), Bound::Excluded(end.clone()));
        let mut left = scan(&contents[family as usize], &bounds, Direction::Forward)
            .into_iter()
            .peekable();
        let (mut taken, mut bytes) = (Vec::new(), 0);
        while let Some((key, value)) = left.next_if(|(key, value)| {
            bytes += (key.len() + value.len()) as u64;
            taken.is_empty() || bytes <= bytes_max
        }) {
            taken.push((key, value));
        }
        assert_eq!(next, left.next().map(|(key, _)| key));
        assert_eq!(
            file.as_ref().map_or(0, |file| file.keys),
            taken.len() as u64
        );
        if let Some(file) = file {
            assert_eq!(file.name, name);
            let whole = self
                .engine()
                .stage_read(&name, 0, usize::MAX)
                .expect("the file exists");
            assert_eq!(
                (whole.len() as u64, crc32c::crc32c(&whole)),
                (file.bytes, file.crc32c)
            );
            self.staged.insert(slot, taken);
        }
    }

    /// Copies a staged file as another store would receive it.
    fn receive(&mut self, from: usize, to: usize, chunk: usize) {
        let (source, target) = (file_name(from), file_name(to));
        let Some(entries) = self.staged.get(&from).cloned() else {
            let outcome = self.engine().stage_read(&source, 0, 1);
            assert!(
                matches!(outcome, Err(Error::Staging { exists: false, .. })),
                "{outcome:?}"
            );
            return;
        };
        if self.staged.contains_key(&to) {
            let outcome = self.engine().stage_append(&target, b"more");
            assert!(
                matches!(outcome, Err(Error::Staging { exists: true, .. })),
                "{outcome:?}"
            );
            return;
        }
        let engine = self.engine();
        let mut offset = 0;
        loop {
            let content = engine
                .stage_read(&source, offset, chunk)
                .expect("the file exists");
            if content.is_empty() {
                break;
            }
            engine
                .stage_append(&target, &content)
                .expect("the file is not finished");
            offset += content.len() as u64;
        }
        let sent = engine
            .stage_finish(&source)
            .expect("it was finished before");
        let received = engine.stage_finish(&target).expect("it was sent whole");
        assert_eq!(
            (received.bytes, received.keys, received.crc32c),
            (sent.bytes, sent.keys, sent.crc32c)
        );
        let content = entries.iter().map(|(key, value)| key.len() + value.len());
        assert_eq!(received.content_bytes, content.sum::<usize>() as u64);
        self.staged.insert(to, entries);
    }

    fn ingest(&mut self, family: Family, slots: &[usize]) {
        let names: Vec<String> = slots.iter().map(|&slot| file_name(slot)).collect();
        if slots.iter().any(|slot| !self.staged.contains_key(slot)) {
            let outcome = self.engine().ingest(family, &names);
            assert!(
                matches!(outcome, Err(Error::Staging { exists: false, .. })),
                "{outcome:?}"
            );
            return;
        }
        // One at a time: together their order would be unspecified where they overlap, and the twin flushes for each.
        for slot in slots {
            self.engine()
                .ingest(family, &[file_name(*slot)])
                .expect("the file is sound");
            self.twin.ingest(family, self.staged[slot].clone());
        }
        let mut listed = self.engine().stage_list().expect("the engine is sound");
        listed.retain(|name| !self.staged.keys().any(|&slot| *name == file_name(slot)));
        assert_eq!(
            listed,
            Vec::<String>::new(),
            "ingesting leaves the staged files and no others"
        );
    }

    /// Does what whoever was clearing ranges has to do after a crash.
    fn clear_again(&mut self, cleared: Vec<(Family, Bytes, Bytes)>) {
        for (family, start, end) in cleared {
            self.engine()
                .clear_range(family, &start, &end, Logging::On)
                .expect("no fault");
            self.twin.clear(family, &start, &end, Logging::On);
        }
    }
}
