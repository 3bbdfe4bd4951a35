//! A follower and its log (Raft §5.3).

use crate::error::Error;
use crate::message::{AppendResult, Body, Message};
use crate::planted::Bug;
use crate::raft::Raft;
use crate::types::{Entry, Index, LogPosition, Membership, Payload, PeerId};

impl Raft {
    /// Entries from the leader of the present term.
    pub(crate) fn on_append(
        &mut self,
        leader: PeerId,
        previous: LogPosition,
        entries: Vec<Entry>,
        commit: Index,
    ) -> Result<(), Error> {
        if let Some(position) = self.installing {
            // The log waits for the state below it. The leader hears of us when that is there, or when it never will be.
            if self.lost {
                let answer = self.append_response(leader, AppendResult::Lost(position));
                self.send_durably(answer);
            }
            return Ok(());
        }
        if self.membership().is_empty() {
            // Who has no configuration cannot follow its changes; index 0 of a log can only be refused by a peer that needs a
            // snapshot.
            self.refuse_append(leader, previous.index, LogPosition::default());
            return Ok(());
        }
        if previous.index < self.hard_state.commit {
            // What is committed matches. Say so, and the leader goes on from there.
            self.acknowledge(leader, self.hard_state.commit);
            return Ok(());
        }
        let taken =
            self.has_bug(Bug::NoConsistencyCheck) && self.log.term_at(previous.index).is_some();
        if !self.log.matches(previous) && !taken {
            let hint = self.log.hint(previous.index, previous.term);
            self.refuse_append(leader, previous.index, hint);
            return Ok(());
        }
        self.check_changes(leader, &entries)?;
        let end = previous.index + entries.len() as Index;
        self.merge(previous, entries);
        self.commit_to(self.hard_state.commit.max(commit.min(end)));
        self.acknowledge(leader, end);
        Ok(())
    }

    /// Whether the changes among those of `entries` that are new here fit the configuration they find. Those of a correct leader
    /// do; others end here, because nothing could be made of them later (R34).
    fn check_changes(&self, from: PeerId, entries: &[Entry]) -> Result<(), Error> {
        let parts = |entry: &&Entry| self.log.term_at(entry.index) != Some(entry.term);
        let Some(first) = entries.iter().find(parts).map(|entry| entry.index) else {
            return Ok(());
        };
        let mut changes = entries
            .iter()
            .filter(|entry| entry.index >= first)
            .filter_map(|entry| match &entry.payload {
                Payload::Membership { change, .. } => Some(change),
                Payload::Noop | Payload::Command(_) | Payload::Structural(_) => None,
            })
            .peekable();
        if changes.peek().is_none() {
            return Ok(());
        }
        let base = self
            .configurations
            .iter()
            .rfind(|step| step.index < first)
            .expect("the oldest configuration is applied, and what is new is not");
        let mut membership = Membership::clone(&base.membership);
        for change in changes {
            membership = membership
                .after(change)
                .map_err(|_| Error::Malformed { from })?;
        }
        Ok(())
    }

    /// Makes the log equal to the leader's up to the last of `entries`. Only a conflict cuts: an append may be old, and what
    /// follows it here may be acknowledged already.
    fn merge(&mut self, previous: LogPosition, entries: Vec<Entry>) {
        if self.has_bug(Bug::TruncateWithoutConflict) && !entries.is_empty() {
            self.truncate(previous.index + 1);
        }
        for entry in entries {
            match self.log.term_at(entry.index) {
                Some(term) if term == entry.term => continue,
                Some(_) => self.truncate(entry.index),
                None => {}
            }
            self.append_entry(entry);
        }
    }

    fn truncate(&mut self, from: Index) {
        assert!(
            from > self.hard_state.commit,
            "a leader conflicts at {from}, committed {}",
            self.hard_state.commit
        );
        self.log.truncate(from, !self.has_bug(Bug::StaleCompletion));
        self.withdraw(from);
        while self.configurations.len() > 1 && self.configuration().index >= from {
            self.configurations.pop();
            self.view_changed = true;
        }
    }

    /// Takes back what waits for a write and speaks of entries from `from` on, which are gone: the write will not bring them
    /// (R7). It is as if those messages were lost.
    pub(crate) fn withdraw(&mut self, from: Index) {
        self.after.retain(|message| match &message.body {
            Body::AppendResponse {
                result: AppendResult::Matched(index),
                ..
            } => *index < from,
            Body::VoteRequest { last, .. } => last.index < from,
            _ => true,
        });
    }

    /// Says that the log matches the leader's up to `index`, as soon as that is durable (R7).
    pub(crate) fn acknowledge(&mut self, leader: PeerId, index: Index) {
        let answer = self.append_response(leader, AppendResult::Matched(index));
        if self.has_bug(Bug::AckBeforeSync)
            || (index <= self.log.persisted() && self.state_is_durable())
        {
            self.messages.push(answer);
            return;
        }
        // Within one write the newest acknowledgement says it all.
        if let Some(earlier) = self.after.last_mut()
            && earlier.to == answer.to
            && earlier.term == answer.term
            && let Body::AppendResponse {
                result: AppendResult::Matched(matched),
                ..
            } = earlier.body
            && matched <= index
        {
            *earlier = answer;
            return;
        }
        self.after.push(answer);
    }

    fn refuse_append(&mut self, leader: PeerId, rejected: Index, hint: LogPosition) {
        let answer = self.append_response(leader, AppendResult::Mismatch { rejected, hint });
        self.send_durably(answer);
    }

    /// Tells a deposed leader which term it is (Raft §5.1).
    pub(crate) fn answer_stale_append(&mut self, leader: PeerId, rejected: Index) {
        self.refuse_append(leader, rejected, self.log.last());
    }

    fn append_response(&self, leader: PeerId, result: AppendResult) -> Message {
        let body = Body::AppendResponse {
            result,
            commit: self.hard_state.commit,
            pledge: self.pledge_to(leader),
        };
        self.message(leader, body)
    }

    /// The leader of the present term lives. It sends no commit index above what it knows to match here.
    pub(crate) fn on_heartbeat(&mut self, leader: PeerId, commit: Index, round: u64) {
        if self.installing.is_none() {
            let commit = commit.min(self.log.last().index);
            self.commit_to(self.hard_state.commit.max(commit));
        }
        self.answer_heartbeat(leader, round);
    }

    pub(crate) fn answer_heartbeat(&mut self, leader: PeerId, round: u64) {
        let body = Body::HeartbeatResponse {
            round,
            commit: self.hard_state.commit,
            pledge: self.pledge_to(leader),
        };
        let answer = self.message(leader, body);
        self.send_durably(answer);
    }
}
