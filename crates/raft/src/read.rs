//! Reads that are linearizable (Thesis §6.4, R24, R25).
//!
//! A leader with a committed entry of its own term takes its commit index as the read's, and then shows that it still led after
//! the read arrived: it sends a *round*, numbered heartbeats, and waits until a quorum answered that number or a later one.
//! All reads that wait when effects are taken share the round built then; a read that comes later joins the next, because a
//! round already built proves nothing about the time after it.
//!
//! A follower asks the leader for an index. Its question is itself a proof of the follower's part, so with three voters the
//! answer needs no round. Under a lease (off by default) a leader answers at once, for a while after the *sending* of a round
//! that was confirmed.

use std::collections::VecDeque;

use crate::error::Error;
use crate::event::{ReadId, ReadReady};
use crate::leader::Leader;
use crate::message::{Body, Message};
use crate::planted::Bug;
use crate::progress::Progress;
use crate::raft::{Raft, State};
use crate::types::{Index, PeerId, Term};

/// Rounds with reads that may be unanswered at once. Later reads wait and share the next one.
const ROUNDS_IN_FLIGHT_MAX: usize = 2;

/// Rounds remembered in all; the oldest empty ones, which only serve the lease, are forgotten first.
const ROUNDS_MAX: usize = 16;

/// Whose read it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Reader {
    Local(ReadId),
    Remote { peer: PeerId, request: u64 },
}

#[derive(Clone, Debug, Hash)]
struct Round {
    number: u64,
    index: Index,
    /// The leader's tick when it was sent.
    sent: u64,
    readers: Vec<Reader>,
}

/// A leader's reads.
///
/// # Invariants
/// 1. `rounds` ascend in `number`; numbers start at 1 in each term, which the heartbeats carry.
/// 2. A read is in `waiting` or in exactly one round, built after it arrived.
#[derive(Clone, Debug, Default, Hash)]
pub(crate) struct Reads {
    waiting: Vec<Reader>,
    rounds: VecDeque<Round>,
    newest: u64,
    /// Ticks before this one are under the lease.
    lease_until: u64,
    /// Only rounds above this one extend the lease: earlier ones were sent under what revoked it.
    lease_floor: u64,
}

impl Reads {
    /// Whether no read waits.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.rounds.iter().all(|round| round.readers.is_empty())
    }

    /// The number of the newest round.
    pub fn newest(&self) -> u64 {
        self.newest
    }

    /// Goes on counting after `newest`.
    pub fn continue_after(&mut self, newest: u64) {
        self.newest = newest;
        self.lease_floor = newest;
    }

    fn revoke_lease(&mut self) {
        self.lease_until = 0;
        self.lease_floor = self.newest;
    }

    fn begin_round(&mut self, index: Index, sent: u64, readers: Vec<Reader>) {
        self.newest += 1;
        self.rounds.push_back(Round {
            number: self.newest,
            index,
            sent,
            readers,
        });
        if self.rounds.len() > ROUNDS_MAX
            && let Some(place) = self
                .rounds
                .iter()
                .position(|round| round.readers.is_empty())
        {
            self.rounds.remove(place);
        }
    }
}

/// A follower's reads.
#[derive(Clone, Debug, Default, Hash)]
pub(crate) struct Asks {
    waiting: Vec<ReadId>,
    asked: Vec<Ask>,
}

#[derive(Clone, Debug, Hash)]
struct Ask {
    request: u64,
    age_ticks: u32,
    readers: Vec<ReadId>,
}

impl Raft {
    pub(crate) fn on_read(&mut self, id: ReadId) -> Result<(), Error> {
        let joins = self.has_bug(Bug::ReadJoinsRound);
        match &mut self.state {
            State::Leader(leader) => {
                match leader.reads.rounds.back_mut().filter(|_| joins) {
                    Some(round) => round.readers.push(Reader::Local(id)),
                    None => leader.reads.waiting.push(Reader::Local(id)),
                }
                Ok(())
            }
            State::Follower if self.leader.is_some() => {
                self.asks.get_or_insert_default().waiting.push(id);
                Ok(())
            }
            State::Follower | State::PreCandidate(_) | State::Candidate(_) => {
                Err(Error::NotLeader {
                    leader: self.leader,
                })
            }
        }
    }

    /// A follower asks (LIVENESS B7). Only a question of the same term proves anything.
    pub(crate) fn on_read_request(&mut self, from: PeerId, term: Term, request: u64) {
        match &mut self.state {
            State::Leader(leader) if term == self.hard_state.term => {
                leader.reads.waiting.push(Reader::Remote {
                    peer: from,
                    request,
                });
            }
            State::Leader(_) | State::Follower | State::PreCandidate(_) | State::Candidate(_) => {
                self.answer_remote(from, request, None);
            }
        }
    }

    pub(crate) fn on_read_response(
        &mut self,
        from: PeerId,
        term: Term,
        request: u64,
        index: Option<Index>,
    ) {
        let Some(asks) = &mut self.asks else {
            return;
        };
        if term != self.hard_state.term || self.leader != Some(from) {
            return;
        }
        let Some(place) = asks.asked.iter().position(|ask| ask.request == request) else {
            return;
        };
        let ask = asks.asked.remove(place);
        match index {
            Some(index) => self
                .reads
                .extend(ask.readers.iter().map(|id| ReadReady { id: *id, index })),
            None => self.reads_dropped.extend(ask.readers),
        }
        self.forget_idle_asks();
    }

    /// Whether a leader has reads that could go on now.
    pub(crate) fn may_begin_round(&self, leader: &Leader) -> bool {
        let open = self.is_committed_in_term() || self.has_bug(Bug::ReadBeforeOwnCommit);
        let in_flight = leader
            .reads
            .rounds
            .iter()
            .filter(|round| !round.readers.is_empty())
            .count();
        !leader.reads.waiting.is_empty() && open && in_flight < ROUNDS_IN_FLIGHT_MAX
    }

    /// Sends the heartbeats that are due, with the reads that wait as a new round.
    pub(crate) fn send_rounds(&mut self) {
        let State::Leader(leader) = &self.state else {
            return;
        };
        let mut readers = Vec::new();
        if self.may_begin_round(leader) {
            readers = self.answer_without_round();
        }
        let index = self.hard_state.commit;
        let commit_past_match = self.has_bug(Bug::CommitPastMatch);
        let State::Leader(leader) = &mut self.state else {
            unreachable!("answering reads changes no role");
        };
        let due = std::mem::take(&mut leader.heartbeat_due);
        let asking = std::mem::take(&mut leader.asking);
        let lease = self.options.lease_ticks.is_some() && due;
        let begins = !readers.is_empty() || lease;
        if begins {
            leader.reads.begin_round(index, leader.ticks, readers);
        }
        if !due && !begins && !asking {
            return;
        }
        let round = leader.reads.rounds.back().map_or(0, |round| round.number);
        for (peer, progress) in &mut leader.members {
            let wanted = due || begins || progress.ask;
            progress.ask = false;
            if wanted && progress.since <= index {
                let commit = if commit_past_match {
                    index
                } else {
                    index.min(progress.matched)
                };
                progress.commit_sent = progress.commit_sent.max(commit);
                self.messages.push(Message {
                    from: self.id,
                    to: *peer,
                    term: self.hard_state.term,
                    support: None,
                    body: Body::Heartbeat { commit, round },
                });
            }
        }
        if begins {
            // Alone, one is a quorum.
            self.confirm_reads();
        }
    }

    /// Answers what needs no round, and returns the rest.
    fn answer_without_round(&mut self) -> Vec<Reader> {
        let quorum = self.quorum();
        let alone = quorum.reached(|peer| peer == self.id);
        let leased = self.has_lease();
        let State::Leader(leader) = &self.state else {
            unreachable!("only a leader answers reads");
        };
        let (at_once, rest): (Vec<Reader>, Vec<Reader>) = leader
            .reads
            .waiting
            .iter()
            .copied()
            .partition(|reader| match *reader {
                _ if alone || leased => true,
                Reader::Local(_) => false,
                Reader::Remote { peer: asker, .. } => {
                    quorum.reached(|peer| peer == self.id || peer == asker)
                }
            });
        let index = self.hard_state.commit;
        if let State::Leader(leader) = &mut self.state {
            leader.reads.waiting.clear();
        }
        for reader in at_once {
            self.answer(reader, Some(index));
        }
        rest
    }

    /// Serves the rounds that a quorum answered.
    pub(crate) fn confirm_reads(&mut self) {
        loop {
            let quorum = self.quorum();
            let State::Leader(leader) = &self.state else {
                return;
            };
            let Some(round) = leader.reads.rounds.front() else {
                return;
            };
            let answered = |progress: &Progress| progress.round >= round.number;
            if !quorum
                .reached(|peer| peer == self.id || leader.progress(peer).is_some_and(answered))
            {
                return;
            }
            let from_ack = self.has_bug(Bug::LeaseFromAck);
            let lease = self.options.lease_ticks;
            let State::Leader(leader) = &mut self.state else {
                unreachable!("the role was just looked at");
            };
            let round = leader
                .reads
                .rounds
                .pop_front()
                .expect("the front was just looked at");
            if let Some(lease) = lease
                && leader.transfer.is_none()
                && round.number > leader.reads.lease_floor
            {
                let start = if from_ack { leader.ticks } else { round.sent };
                leader.reads.lease_until = leader.reads.lease_until.max(start + u64::from(lease));
            }
            for reader in round.readers {
                self.answer(reader, Some(round.index));
            }
        }
    }

    /// Whether a lease is running (R25). A tick count is a time rounded down, so the present one must be over before the end.
    pub fn has_lease(&self) -> bool {
        match &self.state {
            State::Leader(leader) => {
                self.options.lease_ticks.is_some() && leader.ticks < leader.reads.lease_until
            }
            State::Follower | State::PreCandidate(_) | State::Candidate(_) => false,
        }
    }

    pub(crate) fn revoke_lease(&mut self) {
        if let State::Leader(leader) = &mut self.state {
            leader.reads.revoke_lease();
        }
    }

    fn answer(&mut self, reader: Reader, index: Option<Index>) {
        match (reader, index) {
            (Reader::Local(id), Some(index)) => self.reads.push(ReadReady { id, index }),
            (Reader::Local(id), None) => self.reads_dropped.push(id),
            (Reader::Remote { peer, request }, index) => self.answer_remote(peer, request, index),
        }
    }

    fn answer_remote(&mut self, peer: PeerId, request: u64, index: Option<Index>) {
        let answer = self.message(peer, Body::ReadIndexResponse { request, index });
        self.messages.push(answer);
    }

    /// Gives up all reads of a leadership that ends.
    pub(crate) fn drop_reads(&mut self, leader: &mut Leader) {
        let rounds = leader
            .reads
            .rounds
            .drain(..)
            .flat_map(|round| round.readers);
        let readers: Vec<Reader> = rounds.chain(leader.reads.waiting.drain(..)).collect();
        for reader in readers {
            self.answer(reader, None);
        }
    }

    /// Asks the leader for an index, once for all reads that wait.
    pub(crate) fn send_asks(&mut self) {
        let (Some(asks), Some(leader)) = (&mut self.asks, self.leader) else {
            return;
        };
        if asks.waiting.is_empty() {
            return;
        }
        self.requests = self.requests.wrapping_add(1);
        asks.asked.push(Ask {
            request: self.requests,
            age_ticks: 0,
            readers: std::mem::take(&mut asks.waiting),
        });
        let body = Body::ReadIndexRequest {
            request: self.requests,
        };
        let question = self.message(leader, body);
        self.messages.push(question);
    }

    /// Whether reads wait to be asked for.
    pub(crate) fn has_asks(&self) -> bool {
        self.leader.is_some()
            && self
                .asks
                .as_ref()
                .is_some_and(|asks| !asks.waiting.is_empty())
    }

    /// A question unanswered for 2T is lost.
    pub(crate) fn age_asks(&mut self) {
        let limit = 2 * self.options.election_ticks;
        let Some(asks) = &mut self.asks else {
            return;
        };
        for ask in &mut asks.asked {
            ask.age_ticks += 1;
        }
        let lost = asks
            .asked
            .iter()
            .take_while(|ask| ask.age_ticks >= limit)
            .count();
        let readers = asks.asked.drain(..lost).flat_map(|ask| ask.readers);
        self.reads_dropped.extend(readers);
        self.forget_idle_asks();
    }

    /// Gives up all questions: the leader they went to leads no more.
    pub(crate) fn drop_asks(&mut self) {
        if let Some(asks) = self.asks.take() {
            self.reads_dropped
                .extend(asks.asked.into_iter().flat_map(|ask| ask.readers));
            self.reads_dropped.extend(asks.waiting);
        }
    }

    fn forget_idle_asks(&mut self) {
        if self
            .asks
            .as_ref()
            .is_some_and(|asks| asks.waiting.is_empty() && asks.asked.is_empty())
        {
            self.asks = None;
        }
    }
}
