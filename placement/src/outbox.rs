//! The single writer: changes in order, and everything that must wait for them.
//!
//! The state in memory is ahead of the replicated one by the changes staged here. At most one write is under way; what
//! is staged meanwhile joins the next, or the one after when that is full: a write must fit into an entry of the placement
//! region, whatever was staged, so what is too much for one goes in several, in the order in which it was staged. Requests
//! are refused before it comes to more than a few ([`Outbox::is_full`]). Whatever leaves the machine carries a *barrier*: the token of the write that holds
//! the newest change staged before it. It leaves when that write is applied, so nothing is shown that could be lost, and
//! a write that is applied proves besides that its proposer still led. When a write fails the machine drops everything
//! and is loaded again ([`crate::Placement::lead`]).
//!
//! Every new value names the value it replaces. A write that was delayed past another leadership, of this member or of
//! another, finds something else there and changes nothing that matters: marks and bounds cannot go back.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use proto::{RegionId, StoreId};

use crate::event::{Answer, Change, Effects, Note, Now, Order, Refusal, RequestId, Write};
use crate::operator::{Epoch, Operator, Priority};
use crate::state::Pair;

#[derive(Debug)]
enum Output {
    Answer(RequestId, Result<Answer, Refusal>),
    Order(Order),
    Serving(u64),
}

/// What one write holds at the most, keys, new and replaced values together. Half of what an entry of the placement region
/// may hold; one change is far smaller.
const WRITE_BYTES_MAX: usize = 4 << 20;
/// What may be staged when a request that stages more is taken.
const STAGED_BYTES_MAX: usize = 4 << 20;
/// What a change costs beside its key and values.
const CHANGE_BYTES: usize = 64;

/// Changes that leave in one write.
#[derive(Debug, Default)]
struct Staged {
    changes: BTreeMap<Bytes, Option<Bytes>>,
    bytes: usize,
}

#[derive(Debug)]
pub(crate) struct Outbox {
    /// What is applied, as far as this leader knows.
    applied: BTreeMap<Bytes, Bytes>,
    /// The writes to come.
    staged: VecDeque<Staged>,
    under_way: Option<Write>,
    /// Token of the next write, with the first of what is staged.
    next: u64,
    /// Barriers never go down.
    waiting: VecDeque<(u64, Output)>,
    effects: Effects,
    /// What the journal is to tell of operators.
    happened: Vec<Happened>,
}

/// Something that happened to an operator.
#[derive(Clone, Debug)]
pub(crate) struct Happened {
    pub operator: u64,
    pub region: RegionId,
    pub epoch: Epoch,
    pub priority: Priority,
    pub stores: (Option<StoreId>, Option<StoreId>),
    /// Since it was made.
    pub age_ms: u64,
    pub what: What,
    pub text: String,
}

impl Happened {
    /// To an operator as it is.
    pub fn of(operator: &Operator, what: What, text: String, now: Now) -> Self {
        Self {
            operator: operator.id,
            region: operator.region,
            epoch: operator.epoch,
            priority: operator.priority,
            stores: operator.stores(),
            age_ms: now.wall_ms.saturating_sub(operator.created_at_ms),
            what,
            text,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Step,
    Done,
    Cancelled,
}

impl Outbox {
    /// Starts from what the region holds.
    pub fn new(applied: BTreeMap<Bytes, Bytes>) -> Self {
        Self {
            applied,
            staged: VecDeque::new(),
            under_way: None,
            next: 1,
            waiting: VecDeque::new(),
            effects: Effects::default(),
            happened: Vec::new(),
        }
    }

    /// Remembers what happened until the journal takes it.
    pub fn happened(&mut self, happened: Happened) {
        self.happened.push(happened);
    }

    /// Takes what happened.
    pub fn take_happened(&mut self) -> Vec<Happened> {
        std::mem::take(&mut self.happened)
    }

    /// What is applied, as far as this leader knows.
    pub fn applied(&self) -> &BTreeMap<Bytes, Bytes> {
        &self.applied
    }

    /// Stages a change; the last one of a key wins. Returns the token of the write that it leaves in.
    pub fn stage(&mut self, (key, value): Pair) -> u64 {
        if self.staged.is_empty() {
            self.staged.push_back(Staged::default());
        }
        let last = self.staged.len() - 1;
        let bytes = self.cost(&key, value.as_ref(), last);
        let earlier = self.staged[last].changes.get(&key).map(Option::as_ref);
        let replaced = earlier.map_or(0, |earlier| self.cost(&key, earlier, last));
        let open = &mut self.staged[last];
        let filled = open.bytes - replaced + bytes;
        if filled <= WRITE_BYTES_MAX || open.changes.is_empty() {
            open.bytes = filled;
            open.changes.insert(key, value);
        } else {
            let bytes = self.cost(&key, value.as_ref(), last + 1);
            let changes = BTreeMap::from([(key, value)]);
            self.staged.push_back(Staged { changes, bytes });
        }
        self.newest()
    }

    /// Whether so much waits to be written that no request may add to it.
    pub fn is_full(&self) -> bool {
        self.staged.iter().map(|staged| staged.bytes).sum::<usize>() >= STAGED_BYTES_MAX
    }

    /// Bytes of a change that leaves in the write at this place of those to come, with the value that it replaces.
    fn cost(&self, key: &Bytes, value: Option<&Bytes>, place: usize) -> usize {
        let before = self.staged.iter().take(place).rev();
        let staged = before.map(|staged| staged.changes.get(key));
        let under_way = self.under_way.iter().flat_map(|write| &write.changes);
        let under_way = under_way
            .filter(|change| change.key == *key)
            .map(|change| &change.value);
        let previous = match staged.flatten().chain(under_way).next() {
            Some(value) => value.as_ref(),
            None => self.applied.get(key),
        };
        CHANGE_BYTES + key.len() + value.map_or(0, Bytes::len) + previous.map_or(0, Bytes::len)
    }

    /// Token of the write with what was staged last.
    fn newest(&self) -> u64 {
        self.next + self.staged.len().saturating_sub(1) as u64
    }

    /// Answers when everything staged so far is applied.
    pub fn answer(&mut self, request: RequestId, answer: Result<Answer, Refusal>) {
        self.push(Output::Answer(request, answer));
    }

    /// Answers now: for what rests on nothing that is being written.
    pub fn answer_now(&mut self, request: RequestId, answer: Result<Answer, Refusal>) {
        self.effects.answers.push((request, answer));
    }

    /// Sends when everything staged so far is applied.
    pub fn order(&mut self, order: Order) {
        self.push(Output::Order(order));
    }

    /// Tells that the leader serves, when everything staged so far is applied.
    pub fn serving(&mut self, cluster_id: u64) {
        self.push(Output::Serving(cluster_id));
    }

    pub fn note(&mut self, note: Note) {
        self.effects.notes.push(note);
    }

    pub fn confirm(&mut self, round: u64) {
        self.effects.confirm = Some(round);
    }

    /// A write is applied: releases what waited for it.
    pub fn written(&mut self, token: u64) {
        let Some(write) = self.under_way.take_if(|write| write.token == token) else {
            return;
        };
        for change in write.changes {
            match change.value {
                Some(value) => self.applied.insert(change.key, value),
                None => self.applied.remove(&change.key),
            };
        }
        while self
            .waiting
            .front()
            .is_some_and(|(barrier, _)| *barrier <= token)
        {
            let (_, output) = self.waiting.pop_front().expect("there is a front");
            self.emit(output);
        }
    }

    /// Takes what the driver is to do, the next write included.
    pub fn take(&mut self) -> Effects {
        if self.under_way.is_none()
            && let Some(staged) = self.staged.pop_front()
        {
            let applied = &self.applied;
            let change = |(key, value): Pair| {
                let previous = applied.get(&key).cloned();
                Change {
                    key,
                    previous,
                    value,
                }
            };
            let changes = staged.changes.into_iter().map(change).collect();
            let write = Write {
                token: self.next,
                changes,
            };
            self.effects.write = Some(write.clone());
            self.under_way = Some(write);
            self.next += 1;
        }
        std::mem::take(&mut self.effects)
    }

    /// Requests whose answers still wait.
    pub fn unanswered(self) -> impl Iterator<Item = RequestId> {
        self.waiting
            .into_iter()
            .filter_map(|(_, output)| match output {
                Output::Answer(request, _) => Some(request),
                Output::Order(_) | Output::Serving(_) => None,
            })
    }

    fn push(&mut self, output: Output) {
        let barrier = if self.staged.is_empty() {
            self.under_way.as_ref().map(|write| write.token)
        } else {
            Some(self.newest())
        };
        match barrier {
            Some(barrier) => self.waiting.push_back((barrier, output)),
            None => self.emit(output),
        }
    }

    fn emit(&mut self, output: Output) {
        match output {
            Output::Answer(request, answer) => self.effects.answers.push((request, answer)),
            Output::Order(order) => self.effects.orders.push(order),
            Output::Serving(cluster_id) => self.effects.serving = Some(cluster_id),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn big(name: &'static str, mebibytes: usize) -> Pair {
        (name.into(), Some(vec![7; mebibytes << 20].into()))
    }

    fn size(write: &Write) -> usize {
        let value = |value: &Option<Bytes>| value.as_ref().map_or(0, Bytes::len);
        let bytes = |change: &Change| value(&change.previous) + value(&change.value);
        write.changes.iter().map(bytes).sum()
    }

    /// However much is staged at once, every write fits into an entry, in order, and answers wait for all of it.
    #[test]
    fn what_is_too_much_for_one_write_goes_in_several() {
        let names = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"];
        let applied = names.map(|name| (name.into(), big(name, 1).1.expect("a value")));
        let mut outbox = Outbox::new(BTreeMap::from(applied));
        assert!(!outbox.is_full());
        // Staged backwards: the order of writes is not that of keys.
        let tokens = names.map(|_| 0);
        let tokens: Vec<_> = tokens
            .iter()
            .zip(names.iter().rev())
            .map(|(_, name)| outbox.stage(big(name, 1)))
            .collect();
        assert!(outbox.is_full());
        assert!(tokens.is_sorted() && tokens[9] > tokens[0]);
        outbox.answer(RequestId(1), Ok(Answer::Done));
        let mut written = Vec::new();
        let answers = loop {
            let effects = outbox.take();
            let Some(write) = effects.write else {
                break effects.answers;
            };
            assert!(effects.answers.is_empty(), "not all of it is applied");
            assert!(size(&write) <= WRITE_BYTES_MAX, "{} bytes", size(&write));
            written.extend(write.changes.iter().map(|change| {
                let place = names.iter().rev().position(|name| change.key == *name);
                let token = tokens[place.expect("a name")];
                assert_eq!(token, write.token);
                change.key.clone()
            }));
            outbox.written(write.token);
        };
        assert_eq!(written.len(), 10);
        assert_eq!(answers, [(RequestId(1), Ok(Answer::Done))]);
        assert!(!outbox.is_full());
    }

    /// A key that is staged for two writes replaces in the second what the first sets.
    #[test]
    fn a_later_write_replaces_what_an_earlier_one_sets() {
        let mut outbox = Outbox::new(BTreeMap::new());
        let _ = outbox.stage(big("a", 1));
        let _ = outbox.stage(big("c", 2));
        let second = outbox.stage(big("b", 2));
        let _ = outbox.stage(("a".into(), Some("new".into())));
        assert_eq!(second, 2);
        let first = outbox.take().write.expect("a write");
        assert_eq!((first.token, first.changes.len()), (1, 2));
        outbox.written(1);
        let write = outbox.take().write.expect("a write");
        let previous = write.changes[0].previous.as_ref().map(Bytes::len);
        assert_eq!((write.changes.len(), previous), (2, Some(1 << 20)));
        assert!(outbox.take().write.is_none(), "one is under way");
    }
}
