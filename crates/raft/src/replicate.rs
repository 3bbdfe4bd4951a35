//! A leader and the logs of its members (Raft §5.3, §5.4.2): proposals, appends, acknowledgements, commit.

use crate::election::not_leader;
use crate::error::Error;
use crate::event::{Fetch, Options};
use crate::leader::Leader;
use crate::log::Log;
use crate::message::{AppendResult, Body, Message, SupportId};
use crate::planted::Bug;
use crate::progress::{Mode, Progress};
use crate::raft::{Configuration, Raft, State};
use crate::types::{Entry, Index, LogPosition, MembershipChange, Payload, PeerId};

impl Raft {
    pub(crate) fn on_propose(&mut self, payload: Payload) -> Result<LogPosition, Error> {
        let State::Leader(leader) = &self.state else {
            return Err(not_leader(self));
        };
        if let Some(transfer) = &leader.transfer {
            return Err(Error::Transferring {
                to: transfer.target,
            });
        }
        let waiting = leader.uncommitted_bytes;
        if waiting > 0 && waiting + payload.size_bytes() > self.options.uncommitted_bytes_max {
            return Err(Error::Busy {
                uncommitted_bytes: waiting,
            });
        }
        if let Payload::Membership { change, .. } = &payload {
            self.check_change(change)?;
        }
        Ok(self.propose(payload))
    }

    fn propose(&mut self, payload: Payload) -> LogPosition {
        let changes = matches!(payload, Payload::Membership { .. });
        let position = self.append_own(payload);
        if changes {
            self.take_members();
            self.revoke_lease();
            // Another configuration counts other peers.
            self.maybe_commit();
            self.confirm_reads();
        } else if self.has_bug(Bug::OwnUnsyncedCounted) {
            self.maybe_commit();
        }
        position
    }

    /// R9: one change at a time, begun only when the last is applied and an entry of this term as well.
    fn check_change(&self, change: &MembershipChange) -> Result<(), Error> {
        let latest = self.configuration();
        if latest.index > self.applied && !self.has_bug(Bug::ChangeBeforeApplied) {
            return Err(Error::ChangeInProgress {
                index: latest.index,
            });
        }
        let term = self.hard_state.term;
        if self.log.term_at(self.applied) != Some(term) {
            return Err(Error::TermNotApplied { term });
        }
        latest.membership.after(change)?;
        Ok(())
    }

    /// A joint configuration is left by whoever leads once it is applied: the leader that entered it, or any later one that
    /// finds it (R9).
    pub(crate) fn maybe_leave_joint(&mut self) {
        let State::Leader(leader) = &self.state else {
            return;
        };
        let change = MembershipChange::LeaveJoint;
        if leader.transfer.is_some()
            || !self.membership().is_joint()
            || self.check_change(&change).is_err()
        {
            return;
        }
        if self.has_bug(Bug::JointNotLeft)
            && self.log.term_at(self.configuration().index) != Some(self.hard_state.term)
        {
            return;
        }
        self.propose(Payload::Membership {
            change,
            context: bytes::Bytes::new(),
        });
    }

    /// Follows the members of the latest configuration, and no others.
    pub(crate) fn take_members(&mut self) {
        let keep_removed = self.options.bug == Some(Bug::OldPeerAccepted);
        let next = self.log.last().index + 1;
        let configurations = &self.configurations;
        let latest = configurations
            .last()
            .expect("there is always a configuration");
        if let State::Leader(leader) = &mut self.state {
            let since = |peer| member_since(configurations, peer);
            leader.take_members(self.id, &latest.membership, next, since, keep_removed);
        }
    }

    pub(crate) fn on_append_response(
        &mut self,
        from: PeerId,
        result: AppendResult,
        commit: Index,
        pledge: Option<SupportId>,
    ) {
        let count_earlier = self.has_bug(Bug::OldPeerAccepted);
        let (compacted, last) = (self.log.compacted().index, self.log.last().index);
        let State::Leader(leader) = &mut self.state else {
            return;
        };
        let Some(progress) = leader.progress_mut(from) else {
            return;
        };
        progress.heard(commit, pledge);
        match result {
            AppendResult::Matched(index) if index > last => {
                // Nobody can match what was never sent.
            }
            AppendResult::Matched(index) => {
                let moved = progress.acknowledged(index, compacted, count_earlier);
                leader.dirty = true;
                if moved {
                    self.maybe_commit();
                    self.maybe_finish_transfer();
                }
            }
            AppendResult::Mismatch { rejected, hint } => {
                let stale = match progress.mode {
                    Mode::Probe { .. } => rejected + 1 != progress.next,
                    Mode::Replicate => rejected <= progress.matched,
                    Mode::Snapshot => true,
                };
                if stale {
                    return;
                }
                if rejected == 0 {
                    // Even the beginning is refused: it knows no configuration, which only a snapshot brings.
                    progress.await_snapshot();
                    leader.snapshots.push(from);
                    return;
                }
                let guess = self.log.hint(hint.index, hint.term).index.min(rejected - 1);
                progress.probe(guess + 1);
                leader.dirty = true;
            }
            AppendResult::Lost(position) => {
                // Late, if it acknowledged more since: before it lost the snapshot it had not reached it (Raft §7). What it did
                // acknowledge stays counted. All of that is committed, by others, so no new commit rests on it.
                if position.index > progress.matched && progress.mode != Mode::Snapshot {
                    progress.await_snapshot();
                    leader.snapshots.push(from);
                }
            }
        }
    }

    pub(crate) fn on_heartbeat_response(
        &mut self,
        from: PeerId,
        round: u64,
        commit: Index,
        pledge: Option<SupportId>,
    ) {
        let State::Leader(leader) = &mut self.state else {
            return;
        };
        let Some(progress) = leader.progress_mut(from) else {
            return;
        };
        progress.heard(commit, pledge);
        progress.heard_heartbeat();
        let newer = round > progress.round;
        progress.round = progress.round.max(round);
        // What is unanswered may be lost. An append of nothing at the end of what was sent tells.
        let unanswered = progress.mode == Mode::Replicate && progress.matched + 1 < progress.next;
        let previous = progress.next - 1;
        let poke = self.log.term_at(previous).filter(|_| unanswered);
        if unanswered && poke.is_none() {
            // That end is compacted away meanwhile: only a snapshot can follow.
            progress.probe(previous + 1);
        }
        leader.dirty = true;
        if let Some(term) = poke {
            let body = Body::Append {
                previous: LogPosition {
                    term,
                    index: previous,
                },
                entries: Vec::new(),
                commit: self.hard_state.commit,
            };
            let append = self.message(from, body);
            self.messages.push(append);
        }
        if newer {
            self.confirm_reads();
        }
    }

    pub(crate) fn on_unreachable(&mut self, peer: PeerId) {
        if let State::Leader(leader) = &mut self.state
            && let Some(progress) = leader.progress_mut(peer)
            && progress.mode == Mode::Replicate
        {
            let next = progress.matched + 1;
            progress.probe(next);
            // It is tried again when it is heard, not in a loop.
            progress.mode = Mode::Probe { paused: true };
        }
    }

    /// Commits what a quorum has, if it ends in an entry of this term: what an older leader replicated may still be replaced,
    /// however many have it (Raft §5.4.2). Own entries count as far as they are durable.
    pub(crate) fn maybe_commit(&mut self) {
        let State::Leader(leader) = &self.state else {
            return;
        };
        let own = if self.has_bug(Bug::OwnUnsyncedCounted) {
            self.log.last().index
        } else {
            self.log.persisted()
        };
        let index = self.quorum().committed(|peer| {
            if peer == self.id {
                own
            } else {
                leader.progress(peer).map_or(0, |progress| progress.matched)
            }
        });
        if index <= self.hard_state.commit {
            return;
        }
        if self.log.term_at(index) != Some(self.hard_state.term)
            && !self.has_bug(Bug::OlderTermCommit)
        {
            return;
        }
        self.commit_to(index);
        self.maybe_leave_leadership();
    }

    /// Entries that [`crate::Effects::fetches`] asked for.
    pub(crate) fn on_fetched(&mut self, peer: PeerId, entries: Vec<Entry>) {
        let State::Leader(leader) = &mut self.state else {
            return;
        };
        leader.dirty = true;
        let Some(progress) = leader
            .progress_mut(peer)
            .filter(|progress| progress.fetching)
        else {
            return;
        };
        progress.fetching = false;
        if progress.mode != Mode::Replicate {
            return;
        }
        let Some(first) = entries.first() else {
            progress.await_snapshot();
            leader.snapshots.push(peer);
            return;
        };
        if first.index != progress.next {
            return;
        }
        let previous = progress.next - 1;
        let Some(term) = self.log.term_at(previous) else {
            return;
        };
        // They were read outside of this state machine: send only what still is this log.
        let mut expected = progress.next;
        let entries: Vec<Entry> = entries
            .into_iter()
            .take_while(|entry| {
                let fits = entry.index == expected && self.log.matches(entry.position());
                expected += 1;
                fits
            })
            .collect();
        let Some(last) = entries.last().map(|entry| entry.index) else {
            return;
        };
        let bytes = entries.iter().map(|entry| entry.payload.size_bytes()).sum();
        let commit = self.hard_state.commit;
        progress.commit_sent = progress.commit_sent.max(commit.min(last));
        progress.sent(last, bytes);
        let body = Body::Append {
            previous: LogPosition {
                term,
                index: previous,
            },
            entries,
            commit,
        };
        let append = self.message(peer, body);
        self.messages.push(append);
    }

    /// Sends every member what it lacks, as far as its window allows.
    pub(crate) fn replicate(&mut self) {
        let State::Leader(leader) = &mut self.state else {
            return;
        };
        if !std::mem::take(&mut leader.dirty) {
            return;
        }
        let Leader {
            members,
            fetches,
            snapshots,
            ..
        } = &mut **leader;
        for (peer, progress) in members {
            if progress.since > self.hard_state.commit {
                // Not contacted before its addition is committed (REGIONS §1).
                continue;
            }
            let mut sender = Sender {
                options: &self.options,
                log: &self.log,
                commit: self.hard_state.commit,
            };
            while let Some(next) = sender.next(progress) {
                match next {
                    Next::Append(body) => self.messages.push(Message {
                        from: self.id,
                        to: *peer,
                        term: self.hard_state.term,
                        support: None,
                        body,
                    }),
                    Next::Fetch(range) => {
                        fetches.push(Fetch {
                            peer: *peer,
                            range,
                            bytes_max: self.options.append_bytes_max,
                        });
                    }
                    Next::Snapshot => snapshots.push(*peer),
                }
            }
        }
    }
}

/// The index of the entry with which `peer` became a member for the last time; 0 when that lies before all known configurations.
fn member_since(configurations: &[Configuration], peer: PeerId) -> Index {
    let joined = configurations
        .iter()
        .rposition(|step| !step.membership.contains(peer));
    joined.map_or(0, |place| configurations[place + 1].index)
}

/// What a member gets next.
enum Next {
    Append(Body),
    Fetch(std::ops::Range<Index>),
    Snapshot,
}

/// Builds the appends for one member.
struct Sender<'a> {
    options: &'a Options,
    log: &'a Log,
    commit: Index,
}

impl Sender<'_> {
    fn next(&mut self, progress: &mut Progress) -> Option<Next> {
        if progress.fetching || !progress.may_send(self.options) {
            return None;
        }
        let previous = progress.next - 1;
        let Some(term) = self.log.term_at(previous) else {
            progress.await_snapshot();
            return Some(Next::Snapshot);
        };
        let probing = progress.mode != Mode::Replicate;
        let last = self.log.last().index;
        let has_entries = progress.next <= last;
        let has_news = progress.commit_sent < self.commit.min(previous);
        if !has_entries && !has_news && !probing {
            return None;
        }
        let first_cached = self.log.first_cached();
        let entries = if has_entries && progress.next >= first_cached {
            self.entries(progress.next)
        } else if has_entries && !probing {
            progress.fetching = true;
            let end = first_cached.min(progress.next + self.options.append_entries_max as Index);
            return Some(Next::Fetch(progress.next..end));
        } else {
            // A guess is not worth reading the disk for.
            Vec::new()
        };
        let end = previous + entries.len() as Index;
        let bytes = entries.iter().map(|entry| entry.payload.size_bytes()).sum();
        progress.commit_sent = progress.commit_sent.max(self.commit.min(end));
        progress.sent(end, bytes);
        Some(Next::Append(Body::Append {
            previous: LogPosition {
                term,
                index: previous,
            },
            entries,
            commit: self.commit,
        }))
    }

    /// Entries from `from` on, up to the limits of one append; one at least.
    fn entries(&self, from: Index) -> Vec<Entry> {
        let last = self.log.last().index;
        let end = last.min(from + self.options.append_entries_max as Index - 1);
        let mut entries = Vec::with_capacity((end + 1 - from) as usize);
        let mut bytes = 0;
        for entry in self.log.range(from, end) {
            bytes += entry.payload.size_bytes();
            if bytes > self.options.append_bytes_max && !entries.is_empty() {
                break;
            }
            entries.push(entry.clone());
        }
        entries
    }
}
