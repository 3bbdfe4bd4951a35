//! The single writer: changes in order, and everything that must wait for them.
//!
//! The state in memory is ahead of the replicated one by the changes staged here. At most one write is under way; what
//! is staged meanwhile joins the next. Whatever leaves the machine carries a *barrier*: the token of the write that holds
//! the newest change staged before it. It leaves when that write is applied, so nothing is shown that could be lost, and
//! a write that is applied proves besides that its proposer still led. When a write fails the machine drops everything
//! and is loaded again ([`crate::Placement::lead`]).
//!
//! Every new value names the value it replaces. A write that was delayed past another leadership, of this member or of
//! another, finds something else there and changes nothing that matters: marks and bounds cannot go back.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use crate::event::{Answer, Change, Effects, Note, Order, Refusal, RequestId, Write};
use crate::state::Pair;

#[derive(Debug)]
enum Output {
    Answer(RequestId, Result<Answer, Refusal>),
    Order(Order),
    Serving(u64),
}

#[derive(Debug)]
pub(crate) struct Outbox {
    /// What is applied, as far as this leader knows.
    applied: BTreeMap<Bytes, Bytes>,
    staged: BTreeMap<Bytes, Option<Bytes>>,
    under_way: Option<Write>,
    /// Token of the write that the staged changes will leave in.
    next: u64,
    /// Barriers never go down.
    waiting: VecDeque<(u64, Output)>,
    effects: Effects,
}

impl Outbox {
    /// Starts from what the region holds.
    pub fn new(applied: BTreeMap<Bytes, Bytes>) -> Self {
        Self {
            applied,
            staged: BTreeMap::new(),
            under_way: None,
            next: 1,
            waiting: VecDeque::new(),
            effects: Effects::default(),
        }
    }

    /// Stages a change; the last one of a key wins. Returns the token of the write that it leaves in.
    pub fn stage(&mut self, (key, value): Pair) -> u64 {
        self.staged.insert(key, value);
        self.next
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
        if self.under_way.is_none() && !self.staged.is_empty() {
            let applied = &self.applied;
            let change = |(key, value): Pair| {
                let previous = applied.get(&key).cloned();
                Change {
                    key,
                    previous,
                    value,
                }
            };
            let changes = std::mem::take(&mut self.staged)
                .into_iter()
                .map(change)
                .collect();
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
            Some(self.next)
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
