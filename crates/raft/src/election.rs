//! Elections: who campaigns, who votes, which message raises the term (Raft §5.2, §5.4.1; Thesis §4.2.3, §9.6; LIVENESS P3, P4).
//!
//! A campaign begins with a pre-vote, which changes nothing anywhere. Only who would win goes on: to the next term, with a vote
//! for itself that counts, like any vote, once it is durable. The request rides in the same write, because it says where the
//! candidate's log ends, and that too must be durable when it is said.

use crate::error::{CampaignBar, Error};
use crate::event::Role;
use crate::leader::Leader;
use crate::message::{Body, Message, RefusalReason};
use crate::planted::Bug;
use crate::pledge::Pledge;
use crate::quorum::VoteOutcome;
use crate::raft::{FirstTerm, Raft, State};
use crate::types::{Entry, LogPosition, Payload, PeerId, Term};

/// The votes of one campaign.
#[derive(Clone, Debug, Default, Hash)]
pub(crate) struct Ballots {
    votes: Vec<(PeerId, bool)>,
}

impl Ballots {
    fn record(&mut self, from: PeerId, granted: bool) {
        match self.votes.iter_mut().find(|(peer, _)| *peer == from) {
            // The first answer counts: a vote cannot be taken back.
            Some(_) => {}
            None => self.votes.push((from, granted)),
        }
    }

    /// The votes by peer; in which order they came means nothing.
    pub fn sorted(&self) -> Vec<(PeerId, bool)> {
        let mut votes = self.votes.clone();
        votes.sort_unstable();
        votes
    }

    fn vote(&self, of: PeerId) -> Option<bool> {
        self.votes
            .iter()
            .find(|(peer, _)| *peer == of)
            .map(|(_, granted)| *granted)
    }
}

/// What a request asks of a voter.
#[derive(Clone, Copy, Debug)]
pub struct Ballot {
    /// A pre-vote, which promises nothing.
    pub pre: bool,
    /// Who asks.
    pub from: PeerId,
    /// The term asked for.
    pub term: Term,
    /// End of the asker's log.
    pub last: LogPosition,
    /// A term whose leader released its followers, known to the asker.
    pub released: Option<Term>,
    /// The leader told the asker to campaign.
    pub transfer: bool,
}

/// What a voter goes by.
#[derive(Clone, Copy, Debug)]
pub struct Voter {
    /// Its term.
    pub term: Term,
    /// Its vote in that term.
    pub vote: Option<PeerId>,
    /// The leader it knows in that term; itself, if it leads.
    pub leader: Option<PeerId>,
    /// Whether that leader was heard within the minimum election timeout, or the voter leads or is bound by a lease.
    pub leader_heard: bool,
    /// Its standing pledge.
    pub pledge: Option<Pledge>,
    /// End of its log.
    pub last: LogPosition,
}

/// Whether `ballot` proves that whatever leader `voter` has in its term leads no more (LIVENESS P4): the leader itself asks for a
/// later term, it released this one, or a later leader existed.
pub fn proves_leader_gone(voter: &Voter, ballot: &Ballot) -> bool {
    let owner = voter.pledge.map(|pledge| pledge.leader).or(voter.leader);
    (owner == Some(ballot.from) && ballot.term > voter.term)
        || ballot.released == Some(voter.term)
        || ballot.last.term > voter.term
}

/// Judges every request for a vote or a pre-vote; the only place that does.
///
/// The voter's own part in the configuration is no reason: a learner that was promoted without knowing it yet must vote, or the
/// group stands still (Thesis §4.2.1).
///
/// # Errors
/// Why the vote is refused. `Pledged` and `LeaderHeard` leave the term alone.
pub fn judge_vote(voter: &Voter, ballot: &Ballot) -> Result<(), RefusalReason> {
    if ballot.term < voter.term {
        return Err(RefusalReason::Term);
    }
    if !proves_leader_gone(voter, ballot) {
        if voter.pledge.is_some() {
            return Err(RefusalReason::Pledged);
        }
        if voter.leader_heard && !ballot.transfer {
            return Err(RefusalReason::LeaderHeard);
        }
    }
    if ballot.term == voter.term {
        let free = match voter.vote {
            Some(vote) => vote == ballot.from,
            None => voter.leader.is_none(),
        };
        if !free {
            return Err(RefusalReason::Term);
        }
    }
    if ballot.last < voter.last {
        return Err(RefusalReason::BetterLog);
    }
    Ok(())
}

/// Whether a message of a higher term raises the term of a peer in `role`; the only table of it.
///
/// `verdict` is the answer to a vote request, once judged. What is refused because of a leader changes nothing (LIVENESS P3), so a
/// cut-off peer cannot raise terms (R10). Pre-votes never do. Answers concern only those who asked. What a leader says, it says
/// to everyone.
pub fn raises_term(body: &Body, role: Role, verdict: Option<Result<(), RefusalReason>>) -> bool {
    match body {
        Body::Append { .. } | Body::Heartbeat { .. } => true,
        Body::VoteRequest { .. } => match verdict {
            Some(Ok(()) | Err(RefusalReason::BetterLog | RefusalReason::Term)) => true,
            Some(Err(RefusalReason::Pledged | RefusalReason::LeaderHeard)) | None => false,
        },
        // A granted pre-vote carries the term asked for, which nobody is in yet.
        Body::PreVoteResponse { refusal: None } => false,
        Body::PreVoteResponse { refusal: Some(_) }
        | Body::VoteResponse { .. }
        | Body::AppendResponse { .. }
        | Body::HeartbeatResponse { .. } => match role {
            Role::PreCandidate | Role::Candidate | Role::Leader => true,
            Role::Follower => false,
        },
        // These are about exactly one term, or about none.
        Body::PreVoteRequest { .. }
        | Body::ReadIndexRequest { .. }
        | Body::ReadIndexResponse { .. }
        | Body::TimeoutNow
        | Body::Release => false,
    }
}

impl Raft {
    fn voter(&self) -> Voter {
        let leads = matches!(self.state, State::Leader(_));
        Voter {
            term: self.hard_state.term,
            vote: self.hard_state.vote,
            leader: self.leader,
            leader_heard: leads || self.hears_leader() || self.lease_bound > 0,
            pledge: self.pledge,
            last: if self.has_bug(Bug::OlderLogVoted) {
                LogPosition::default()
            } else {
                self.log.last()
            },
        }
    }

    /// Whether a leader was heard within `T`.
    fn hears_leader(&self) -> bool {
        self.leader.is_some() && self.elapsed < self.options.election_ticks
    }

    pub(crate) fn on_vote_request(&mut self, message: &Message) {
        let ballot = match message.body {
            Body::PreVoteRequest { last, released } => Ballot {
                pre: true,
                from: message.from,
                term: message.term,
                last,
                released,
                transfer: false,
            },
            Body::VoteRequest {
                last,
                released,
                transfer,
            } => Ballot {
                pre: false,
                from: message.from,
                term: message.term,
                last,
                released,
                transfer,
            },
            _ => unreachable!("only vote requests are dispatched here"),
        };
        let voter = self.voter();
        let verdict = judge_vote(&voter, &ballot);
        let follows = matches!(self.state, State::Follower);
        if ballot.term >= voter.term && follows && proves_leader_gone(&voter, &ballot) {
            self.forget_leader();
        }
        if ballot.term > self.hard_state.term
            && raises_term(&message.body, self.role(), Some(verdict))
        {
            self.raise_term(ballot.term);
        }
        let refusal = verdict.err();
        if ballot.pre {
            let mut answer = self.message(ballot.from, Body::PreVoteResponse { refusal });
            match refusal {
                None => {
                    answer.term = ballot.term;
                    self.messages.push(answer);
                }
                Some(_) => self.send_durably(answer),
            }
            return;
        }
        if refusal.is_none() {
            self.hard_state.vote = Some(ballot.from);
            self.forget_leader();
            self.reset_timer();
        }
        let answer = self.message(ballot.from, Body::VoteResponse { refusal });
        if self.has_bug(Bug::VoteBeforeSync) {
            self.messages.push(answer);
        } else {
            self.send_durably(answer);
        }
    }

    pub(crate) fn on_pre_vote_response(
        &mut self,
        from: PeerId,
        term: Term,
        refusal: Option<RefusalReason>,
    ) {
        let State::PreCandidate(ballots) = &mut self.state else {
            return;
        };
        let asked = match refusal {
            None => self.hard_state.term + 1,
            Some(_) => self.hard_state.term,
        };
        if term == asked {
            ballots.record(from, refusal.is_none());
            self.count_votes();
        }
    }

    pub(crate) fn on_vote_response(
        &mut self,
        from: PeerId,
        term: Term,
        refusal: Option<RefusalReason>,
    ) {
        let kept = self.has_bug(Bug::VoteKept);
        let State::Candidate(ballots) = &mut self.state else {
            return;
        };
        if term == self.hard_state.term || kept {
            ballots.record(from, refusal.is_none());
            self.count_votes();
        }
    }

    /// The vote for oneself counts when it is durable, like any other (R7).
    pub(crate) fn count_own_vote(&mut self) {
        let durable = self.state_is_durable();
        if let State::Candidate(ballots) = &mut self.state
            && durable
        {
            ballots.record(self.id, true);
            self.count_votes();
        }
    }

    fn count_votes(&mut self) {
        let (ballots, candidate) = match &self.state {
            State::PreCandidate(ballots) => (ballots, false),
            State::Candidate(ballots) => (ballots, true),
            State::Follower | State::Leader(_) => return,
        };
        match self.quorum().outcome(|peer| ballots.vote(peer)) {
            VoteOutcome::Won if candidate => {
                // Whoever has a quorum may still lack its own vote, which is on its way to the disk, or no voter itself.
                if self.state_is_durable() {
                    self.lead();
                }
            }
            VoteOutcome::Won => self.stand(false),
            VoteOutcome::Lost => {
                self.state = State::Follower;
                self.view_changed = true;
            }
            VoteOutcome::Open => {}
        }
    }

    /// Why this peer may not campaign now.
    pub(crate) fn campaign_bar(&self) -> Option<CampaignBar> {
        if matches!(self.state, State::Leader(_)) {
            return Some(CampaignBar::Leads);
        }
        if !self.may_stand() {
            return Some(CampaignBar::NotVoter);
        }
        if self.behind() {
            return Some(CampaignBar::Behind);
        }
        if self.installing.is_some() {
            return Some(CampaignBar::Installing);
        }
        if self.pledge.is_some() {
            return Some(CampaignBar::Pledged);
        }
        // Who asks for votes has cast its own, and what it heard last may be part of a lease that runs.
        let leased = self.options.lease_ticks.is_some() && self.hears_leader();
        (leased || self.lease_bound > 0).then_some(CampaignBar::LeaseBound)
    }

    /// Whether this peer votes in the latest configuration, or in one that only uncommitted entries replaced: it may then have
    /// the only complete log, and nobody else could be elected (LIVENESS §4, membership).
    fn may_stand(&self) -> bool {
        let commit = self.hard_state.commit;
        let committed = self
            .configurations
            .iter()
            .rposition(|step| step.index <= commit);
        self.configurations[committed.unwrap_or(0)..]
            .iter()
            .any(|step| step.membership.votes(self.id))
    }

    pub(crate) fn tick_election(&mut self) {
        if self.pledge.is_some() {
            // Held: liveness is the stores' business while the pledge stands.
            return;
        }
        self.elapsed = self.elapsed.saturating_add(1);
        if self.elapsed < self.timeout {
            return;
        }
        if self.campaign_bar().is_none() {
            self.campaign();
        } else {
            self.reset_timer();
        }
    }

    /// Asks whether an election would succeed (Thesis §9.6). Who asks gives up any candidacy in the present term.
    pub(crate) fn campaign(&mut self) {
        if self.has_bug(Bug::NoPreVote) {
            return self.stand(false);
        }
        self.forget_leader();
        self.reset_timer();
        self.view_changed = true;
        let mut ballots = Ballots::default();
        ballots.record(self.id, true);
        self.state = State::PreCandidate(ballots);
        let body = Body::PreVoteRequest {
            last: self.log.last(),
            released: self.released,
        };
        for peer in self.other_voters() {
            let mut request = self.message(peer, body.clone());
            request.term += 1;
            self.messages.push(request);
        }
        self.count_votes();
    }

    /// Stands for election in the next term (Raft §5.2).
    pub(crate) fn stand(&mut self, transfer: bool) {
        self.forget_leader();
        self.reset_timer();
        self.view_changed = true;
        self.first_term = FirstTerm::Over;
        self.hard_state.term += 1;
        self.hard_state.vote = Some(self.id);
        self.state = State::Candidate(Ballots::default());
        let body = Body::VoteRequest {
            last: self.log.last(),
            released: self.released,
            transfer,
        };
        for peer in self.other_voters() {
            let request = self.message(peer, body.clone());
            self.after.push(request);
        }
    }

    fn other_voters(&self) -> Vec<PeerId> {
        let membership = self.membership();
        let voters = membership.members.keys().copied();
        voters
            .filter(|peer| *peer != self.id && membership.votes(*peer))
            .collect()
    }

    /// The first leader of a split child leads term 1 without election, once its vote is durable (REGIONS §4).
    pub(crate) fn maybe_lead_first_term(&mut self) {
        let named = self.hard_state.term == 1 && self.hard_state.vote == Some(self.id);
        if self.first_term == FirstTerm::Named && named && self.state_is_durable() {
            self.lead();
        }
    }

    /// Leads the present term, opening it with an entry of its own (Raft §8).
    fn lead(&mut self) {
        assert!(
            self.hard_state.vote == Some(self.id),
            "peer {} wins term {} with a vote for {:?}",
            self.id,
            self.hard_state.term,
            self.hard_state.vote
        );
        assert!(!self.behind(), "peer {} leads while behind", self.id);
        self.first_term = FirstTerm::Over;
        self.drop_asks();
        self.view_changed = true;
        self.leader = Some(self.id);
        let mut leader = Box::new(Leader::new());
        leader.uncommitted_bytes = self.uncommitted_bytes();
        self.state = State::Leader(leader);
        self.take_members();
        self.append_own(Payload::Noop);
        self.maybe_commit();
    }

    /// Appends an entry of this leader's term and returns where.
    pub(crate) fn append_own(&mut self, payload: Payload) -> LogPosition {
        let entry = Entry {
            term: self.hard_state.term,
            index: self.log.last().index + 1,
            payload,
        };
        let position = entry.position();
        let bytes = entry.payload.size_bytes();
        self.append_entry(entry);
        let State::Leader(leader) = &mut self.state else {
            unreachable!("only a leader appends of its own");
        };
        leader.uncommitted_bytes += bytes;
        leader.dirty = true;
        position
    }

    fn uncommitted_bytes(&self) -> usize {
        let last = self.log.last().index;
        if self.hard_state.commit >= last {
            return 0;
        }
        self.log
            .range(self.hard_state.commit + 1, last)
            .map(|entry| entry.payload.size_bytes())
            .sum()
    }
}

impl Raft {
    /// The leader says: campaign at once, I lead no more (Thesis §3.10, LIVENESS P5, P6).
    pub(crate) fn on_timeout_now(&mut self, from: PeerId, term: Term) {
        let follows = matches!(self.state, State::Follower)
            && self.leader.is_none_or(|leader| leader == from);
        if term != self.hard_state.term || !follows {
            return;
        }
        self.forget_leader();
        self.released = Some(term);
        let commit = self.hard_state.commit;
        // Whoever leads must know which changes are applied before it may begin another; and who does not vote cannot win.
        let unapplied_change = self
            .configurations
            .iter()
            .any(|step| step.index > self.applied && step.index <= commit);
        if self.campaign_bar().is_none() && self.is_member_of_latest() && !unapplied_change {
            self.stand(true);
        }
    }
}

/// The refusal of an event that only a leader takes.
pub(crate) fn not_leader(raft: &Raft) -> Error {
    Error::NotLeader {
        leader: raft.leader,
    }
}

#[cfg(test)]
mod tests;
