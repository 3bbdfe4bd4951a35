//! Gathering what many steps left to be done.

use crate::event::{Effects, LogWrite, WriteId};
use crate::planted::Bug;
use crate::raft::{Raft, State};
use crate::types::Entry;

impl Raft {
    /// Takes what is to be done since the last taking.
    pub fn take_effects(&mut self) -> Effects {
        self.send_asks();
        self.send_rounds();
        self.replicate();
        let committed = self.hand_out();
        let write = self.take_write();
        let (fetches, snapshots) = match &mut self.state {
            State::Leader(leader) => (
                std::mem::take(&mut leader.fetches),
                std::mem::take(&mut leader.snapshots),
            ),
            State::Follower | State::PreCandidate(_) | State::Candidate(_) => {
                (Vec::new(), Vec::new())
            }
        };
        Effects {
            view: std::mem::take(&mut self.view_changed).then(|| self.view()),
            messages: std::mem::take(&mut self.messages),
            write,
            committed,
            reads: std::mem::take(&mut self.reads),
            reads_dropped: std::mem::take(&mut self.reads_dropped),
            fetches,
            snapshots,
        }
    }

    /// Whether [`Raft::take_effects`] may have something to give.
    pub fn has_effects(&self) -> bool {
        let by_role = match &self.state {
            State::Leader(leader) => {
                leader.dirty
                    || leader.heartbeat_due
                    || leader.asking
                    || !leader.fetches.is_empty()
                    || !leader.snapshots.is_empty()
                    || self.may_begin_round(leader)
            }
            State::Follower | State::PreCandidate(_) | State::Candidate(_) => self.has_asks(),
        };
        by_role
            || self.view_changed
            || !self.messages.is_empty()
            || !self.reads.is_empty()
            || !self.reads_dropped.is_empty()
            || self.must_write()
            || self.may_hand_out()
    }

    fn must_write(&self) -> bool {
        self.must_write_state() || self.log.has_unwritten() || !self.after.is_empty()
    }

    /// Term and vote are written as soon as they change. The commit index waits for another write, unless a structural entry
    /// waits for it.
    fn must_write_state(&self) -> bool {
        self.write_forced
            || self.install
            || self.hard_state.term != self.written_state.term
            || self.hard_state.vote != self.written_state.vote
    }

    fn take_write(&mut self) -> Option<LogWrite> {
        if !self.must_write() {
            return None;
        }
        let must = self.must_write_state();
        let changed = self.hard_state != self.written_state;
        let hard_state = (must || (changed && self.log.has_unwritten())).then_some(self.hard_state);
        if let Some(state) = hard_state {
            self.written_state = state;
        }
        self.write_forced = false;
        let install = std::mem::take(&mut self.install).then(|| self.log.compacted());
        self.write_id = WriteId(self.write_id.0 + 1);
        let (truncate_from, entries) = self.log.take_write(self.write_id, self.written_state);
        Some(LogWrite {
            id: self.write_id,
            hard_state,
            install,
            truncate_from,
            entries,
            after: std::mem::take(&mut self.after),
        })
    }

    /// The first entry to hand out, if the order of things allows (R8).
    fn may_hand_out(&self) -> bool {
        let next = self.handed + 1;
        let reached = next <= self.hard_state.commit.min(self.log.persisted());
        reached
            && self
                .log
                .entry(next)
                .is_some_and(|entry| self.is_open(entry) || self.lacks_write(entry))
    }

    /// Whether nothing about the entry itself holds it back: a structural one waits for a durable commit index, so that after a
    /// power loss at least every structural step ever taken is taken again (REGIONS §1).
    fn is_open(&self, entry: &Entry) -> bool {
        !entry.payload.is_structural()
            || entry.index <= self.durable_state.commit
            || self.has_bug(Bug::ApplyBeforeDurableCommit)
    }

    /// Whether no write on its way will open the entry.
    fn lacks_write(&self, entry: &Entry) -> bool {
        entry.index > self.written_state.commit
    }

    fn hand_out(&mut self) -> Vec<Entry> {
        if self.installing.is_some() {
            return Vec::new();
        }
        let limit = self.hard_state.commit.min(self.log.persisted());
        let from = if self.has_bug(Bug::DoubleApply) {
            self.applied + 1
        } else {
            self.handed + 1
        };
        if from > limit {
            return Vec::new();
        }
        let mut committed = Vec::with_capacity((limit + 1 - from) as usize);
        for entry in self.log.range(from, limit) {
            if !self.is_open(entry) {
                self.write_forced = self.lacks_write(entry);
                break;
            }
            committed.push(entry.clone());
        }
        if let Some(last) = committed.last() {
            self.handed = self.handed.max(last.index);
        }
        committed
    }
}
