//! What an engine should do, as simply as it can be said: a list of what happened, folded again for every crash.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use engine::{Change, Direction, Family, Logging};

use crate::operation::Bounds;

pub type Content = BTreeMap<Bytes, Bytes>;

#[derive(Clone, Debug)]
enum Event {
    Write(Vec<Change>, Logging),
    Ingest(Vec<(Bytes, Bytes)>),
}

#[derive(Debug, Default)]
pub struct Twin {
    events: Vec<(Family, Event)>,
    /// Events of the family before this index are flushed.
    flushed: [usize; 2],
    /// Events before this index are synced, if logged.
    synced: usize,
    current: [Content; 2],
    /// Ranges cleared since the last flush of their family: unspecified after a crash, and on files even now.
    cleared: Vec<(Family, Bytes, Bytes)>,
}

fn apply(content: &mut Content, event: &Event) {
    match event {
        Event::Write(changes, _) => {
            for change in changes {
                match change {
                    Change::Put(key, value) => {
                        content.insert(key.clone(), value.clone());
                    }
                    Change::Delete(key) => {
                        content.remove(key);
                    }
                    Change::DeleteRange(start, end) => {
                        content.retain(|key, _| !(start <= key && key < end))
                    }
                }
            }
        }
        Event::Ingest(entries) => content.extend(entries.iter().cloned()),
    }
}

impl Twin {
    pub fn content(&self, family: Family) -> &Content {
        &self.current[family as usize]
    }

    pub fn contents(&self) -> [Content; 2] {
        self.current.clone()
    }

    fn push(&mut self, family: Family, event: Event) {
        apply(&mut self.current[family as usize], &event);
        self.events.push((family, event));
    }

    pub fn write(&mut self, family: Family, mut changes: Vec<Change>, logging: Logging) {
        changes.retain(|change| !matches!(change, Change::DeleteRange(start, end) if start >= end));
        if changes.is_empty() {
            return;
        }
        self.push(family, Event::Write(changes, logging));
    }

    /// A range that reads as empty is left alone by a clearing that is logged.
    pub fn clear(&mut self, family: Family, start: &Bytes, end: &Bytes, logging: Logging) {
        let empty = || {
            let mut keys = self.content(family).keys();
            !keys.any(|key| start <= key && key < end)
        };
        if start < end && !(logging == Logging::On && empty()) {
            self.cleared.push((family, start.clone(), end.clone()));
            self.write(
                family,
                vec![Change::DeleteRange(start.clone(), end.clone())],
                logging,
            );
        }
    }

    /// A flush syncs the log first, if the family has anything to flush.
    pub fn flush(&mut self, family: Family) {
        let mut unflushed = self.events.iter().skip(self.flushed[family as usize]);
        if unflushed.any(|(other, event)| *other == family && matches!(event, Event::Write(..))) {
            self.sync();
        }
        self.flushed[family as usize] = self.events.len();
        self.cleared.retain(|(cleared, _, _)| *cleared != family);
    }

    pub fn sync(&mut self) {
        self.synced = self.events.len();
    }

    pub fn ingest(&mut self, family: Family, entries: Vec<(Bytes, Bytes)>) {
        let (Some((first, _)), Some((last, _))) = (entries.first(), entries.last()) else {
            return;
        };
        let unflushed = self
            .events
            .iter()
            .enumerate()
            .skip(self.flushed[family as usize]);
        let touched = unflushed.filter(|(_, (other, _))| *other == family).any(
            |(_, (_, event))| match event {
                Event::Write(changes, _) => changes.iter().any(|change| match change {
                    Change::Put(key, _) | Change::Delete(key) => first <= key && key <= last,
                    Change::DeleteRange(start, end) => start <= last && first < end,
                }),
                Event::Ingest(_) => false,
            },
        );
        if touched {
            self.flush(family);
        }
        self.push(family, Event::Ingest(entries));
    }

    /// What files hold under a key; `None` when that is unspecified.
    pub fn flushed(&self, family: Family, key: &Bytes) -> Option<Option<Bytes>> {
        if self.is_unspecified(family, key) {
            return None;
        }
        let content = self.fold(family, |_, _| false);
        Some(content.get(key).cloned())
    }

    /// Files, and what of the rest `kept` chooses by index and logging.
    fn fold(&self, family: Family, kept: impl Fn(usize, Logging) -> bool) -> Content {
        let mut content = Content::new();
        for (index, (other, event)) in self.events.iter().enumerate() {
            let survives = match event {
                Event::Ingest(_) => true,
                Event::Write(_, logging) => {
                    index < self.flushed[family as usize] || kept(index, *logging)
                }
            };
            if *other == family && survives {
                apply(&mut content, event);
            }
        }
        content
    }

    /// Keeps files and the logged writes that `kept` chooses by index, and what was found where that is unspecified. Returns
    /// the ranges to clear again.
    fn crash(
        &mut self,
        kept: impl Fn(usize) -> bool,
        found: &[Content; 2],
    ) -> Vec<(Family, Bytes, Bytes)> {
        let kept = |index, logging| logging == Logging::On && kept(index);
        let contents = [Family::Log, Family::State].map(|family| {
            let mut content = self.specified(family, &self.fold(family, kept));
            let left = found[family as usize].iter();
            let left = left.filter(|(key, _)| self.is_unspecified(family, key));
            content.extend(left.map(|(key, value)| (key.clone(), value.clone())));
            content
        });
        let cleared = std::mem::take(&mut self.cleared);
        *self = Twin::default();
        for (family, content) in [Family::Log, Family::State].into_iter().zip(contents) {
            self.push(family, Event::Ingest(content.into_iter().collect()));
            self.flush(family);
        }
        self.flush(Family::Log);
        self.sync();
        cleared
    }

    /// Keeps all that is logged; `found` is what the engine holds afterwards.
    pub fn kill(&mut self, found: &[Content; 2]) -> Vec<(Family, Bytes, Bytes)> {
        self.crash(|_| true, found)
    }

    /// Keeps the logged writes before `kept`, which is of [`Twin::kept`].
    pub fn lose_power(&mut self, kept: usize, found: &[Content; 2]) -> Vec<(Family, Bytes, Bytes)> {
        self.crash(|index| index < kept, found)
    }

    fn is_unspecified(&self, family: Family, key: &Bytes) -> bool {
        let mut cleared = self.cleared.iter();
        cleared.any(|(of, start, end)| *of == family && start <= key && key < end)
    }

    /// What of the content lies outside of the ranges that a crash leaves unspecified.
    fn specified(&self, family: Family, content: &Content) -> Content {
        let entries = content.iter();
        let entries = entries.filter(|(key, _)| !self.is_unspecified(family, key));
        entries
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect()
    }

    /// How much of the log a power loss left, if it left what was found: all that was synced, and a beginning of the rest if
    /// some of that may have survived.
    pub fn kept(&self, found: &[Content; 2], may_keep_more: bool) -> Option<usize> {
        let most = if may_keep_more {
            self.events.len()
        } else {
            self.synced
        };
        (self.synced..=most.max(self.synced)).find(|kept| {
            [Family::Log, Family::State].into_iter().all(|family| {
                let logged = |index, logging| logging == Logging::On && index < *kept;
                self.specified(family, &self.fold(family, logged))
                    == self.specified(family, &found[family as usize])
            })
        })
    }

    pub fn reopen(&mut self) {
        self.flush(Family::Log);
        self.flush(Family::State);
        let contents = self.contents();
        self.kill(&contents);
    }
}

/// The entries within bounds, in order.
pub fn scan(content: &Content, bounds: &Bounds, direction: Direction) -> Vec<(Bytes, Bytes)> {
    let within = |key: &Bytes| {
        let above = match &bounds.0 {
            Bound::Included(lower) => key >= lower,
            Bound::Excluded(lower) => key > lower,
            Bound::Unbounded => true,
        };
        let below = match &bounds.1 {
            Bound::Included(upper) => key <= upper,
            Bound::Excluded(upper) => key < upper,
            Bound::Unbounded => true,
        };
        above && below
    };
    let mut found: Vec<_> = content
        .iter()
        .filter(|(key, _)| within(key))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    if direction == Direction::Backward {
        found.reverse();
    }
    found
}
