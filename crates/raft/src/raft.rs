//! The peer: its state, and how events reach the part that handles them.

use std::sync::Arc;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::election::{Ballots, raises_term};
use crate::error::{Error, RestoreError};
use crate::event::{
    CampaignReason, Event, MemberStatus, MemberStatuses, Options, ReadId, ReadReady, Restored,
    Role, View, WriteId,
};
use crate::leader::Leader;
use crate::log::Log;
use crate::message::{AppendResult, Body, Message};
use crate::planted::Bug;
use crate::pledge::Pledge;
use crate::quorum::Quorum;
use crate::read::Asks;
use crate::types::{Entry, HardState, Index, LogPosition, Membership, Payload, PeerId, Term};

/// What only one role needs.
#[derive(Clone, Debug)]
pub(crate) enum State {
    Follower,
    PreCandidate(Ballots),
    Candidate(Ballots),
    Leader(Box<Leader>),
}

/// How far a split child is on its way to the first term (REGIONS §4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum FirstTerm {
    /// Not a new child, or over.
    Over,
    /// A new child: nothing happened yet.
    Fresh,
    /// Told to lead; does so as soon as its hard state is durable.
    Named,
}

/// A configuration and the index of the entry that made it.
#[derive(Clone, Debug)]
pub(crate) struct Configuration {
    pub index: Index,
    pub membership: Arc<Membership>,
}

/// One peer of one group: a state machine without clock, thread, or disk.
///
/// [`Raft::step`] takes what happens, [`Raft::take_effects`] gives what is to be done. Many steps may share one taking.
///
/// # Invariants
/// 1. R8: `compacted <= applied <= min(committed, persisted)` and `max(committed, persisted) <= last`. While a snapshot is being
///    installed, `compacted` is its position already and `applied` is not. `committed <= persisted` is *not* promised: a
///    quorum may have formed without this peer.
/// 2. Term, vote and commit never go back: `durable <= written <= current`, in term and in commit.
/// 3. `applied <= handed out <= max(min(committed, persisted), snapshot being installed)`.
/// 4. `configurations` ascend; only the first may be at or below `applied`. The last is the latest appended one, which is
///    what every quorum is counted by.
/// 5. A leader's term is durable here, with its vote for itself.
#[derive(Clone, Debug)]
pub struct Raft {
    pub(crate) id: PeerId,
    pub(crate) options: Arc<Options>,
    pub(crate) seed: u64,
    pub(crate) draws: u32,

    pub(crate) hard_state: HardState,
    pub(crate) written_state: HardState,
    pub(crate) durable_state: HardState,
    pub(crate) log: Log,
    pub(crate) applied: Index,
    pub(crate) handed: Index,
    pub(crate) restored_commit: Index,
    pub(crate) configurations: Vec<Configuration>,
    pub(crate) installing: Option<LogPosition>,
    /// What is being installed cannot be put in place: another snapshot is needed.
    pub(crate) lost: bool,

    pub(crate) state: State,
    pub(crate) leader: Option<PeerId>,
    pub(crate) elapsed: u32,
    pub(crate) timeout: u32,
    pub(crate) lease_bound: u32,
    pub(crate) first_term: FirstTerm,
    pub(crate) pledge: Option<Pledge>,
    pub(crate) released: Option<Term>,
    pub(crate) asks: Option<Box<Asks>>,
    pub(crate) requests: u64,

    pub(crate) write_id: WriteId,
    pub(crate) messages: Vec<Message>,
    pub(crate) after: Vec<Message>,
    pub(crate) reads: Vec<ReadReady>,
    pub(crate) reads_dropped: Vec<ReadId>,
    pub(crate) view_changed: bool,
    pub(crate) write_forced: bool,
    pub(crate) install: bool,
}

impl Raft {
    /// A peer as it was when it last ran.
    ///
    /// # Errors
    /// [`Error::Restored`] when the state contradicts itself, [`Error::Options`] when the settings do.
    pub fn new(options: impl Into<Arc<Options>>, restored: Restored) -> Result<Raft, Error> {
        let options = options.into();
        check_options(&options)?;
        let Restored {
            id,
            seed,
            mut hard_state,
            compacted,
            membership,
            applied,
            entries,
            first_term,
        } = restored;
        let last = check_entries(compacted, &entries, hard_state.term)?;
        if applied < compacted.index || applied > last {
            return Err(Error::Restored(RestoreError::Applied));
        }
        if hard_state.commit > last {
            return Err(Error::Restored(RestoreError::Commit));
        }
        if first_term && (hard_state.term != 1 || compacted.term != 1 || last != compacted.index) {
            return Err(Error::Restored(RestoreError::FirstTerm));
        }
        let configurations = configurations(membership, applied, &entries)?;
        let durable_state = if first_term {
            HardState::default()
        } else {
            hard_state
        };
        let restored_commit = hard_state.commit;
        // The commit index is written lazily, so what is applied may be ahead of it.
        hard_state.commit = hard_state.commit.max(applied);
        let mut raft = Raft {
            id,
            seed,
            draws: 0,
            hard_state,
            written_state: durable_state,
            durable_state,
            log: Log::new(compacted, entries, applied),
            applied,
            handed: applied,
            restored_commit,
            configurations,
            installing: None,
            lost: false,
            state: State::Follower,
            leader: None,
            elapsed: 0,
            timeout: 0,
            // As long as who goes on running waits, and not just the lease: the first tick may come at once.
            lease_bound: if first_term || options.lease_ticks.is_none() {
                0
            } else {
                options.election_ticks
            },
            first_term: if first_term {
                FirstTerm::Fresh
            } else {
                FirstTerm::Over
            },
            pledge: None,
            released: None,
            asks: None,
            requests: 0,
            write_id: WriteId(0),
            messages: Vec::new(),
            after: Vec::new(),
            reads: Vec::new(),
            reads_dropped: Vec::new(),
            view_changed: true,
            write_forced: false,
            install: false,
            options,
        };
        let cache = raft.options.cache_bytes_max;
        raft.log.trim(cache);
        raft.requests = u64::from(raft.draw(u32::MAX)) << 32 | u64::from(raft.draw(u32::MAX));
        raft.reset_timer();
        raft.check_order();
        Ok(raft)
    }

    /// A peer that ended while it installed a snapshot. `restored` is what the snapshot left: its position as the compacted
    /// one, nothing above it, and its configuration; the state up to there counts as handed out. The peer votes, as it did
    /// before it ended, and waits for [`Event::SnapshotInstalled`] or [`Event::SnapshotLost`].
    ///
    /// # Errors
    /// [`RestoreError::Applied`] when the log does not end at the position; else as [`Raft::new`].
    pub fn installing_again(
        options: impl Into<Arc<Options>>,
        restored: Restored,
    ) -> Result<Raft, Error> {
        let position = restored.compacted;
        if restored.applied != position.index || !restored.entries.is_empty() {
            return Err(Error::Restored(RestoreError::Applied));
        }
        let mut raft = Raft::new(options, restored)?;
        raft.installing = Some(position);
        Ok(raft)
    }

    /// Takes one event. Only [`Event::Propose`] answers with a position.
    ///
    /// # Errors
    /// A typed refusal; what is stale is ignored without one.
    ///
    /// # Panics
    /// When an invariant is broken: by this code, or by a driver that reports what did not happen. No message does that (R34).
    pub fn step(&mut self, event: Event) -> Result<Option<LogPosition>, Error> {
        match event {
            Event::Propose(payload) => return self.on_propose(payload).map(Some),
            Event::Tick => self.on_tick(),
            Event::Message(message) => self.on_message(message)?,
            Event::Read(id) => self.on_read(id)?,
            Event::Written(id) => self.on_written(id),
            Event::CommittedTo(position) => self.on_committed_to(position),
            Event::Applied(index) => self.on_applied(index),
            Event::Fetched { peer, entries } => self.on_fetched(peer, entries),
            Event::Compact(index) => self.on_compact(index),
            Event::InstallSnapshot {
                from,
                term,
                position,
                membership,
            } => self.on_install_snapshot(from, term, position, membership)?,
            Event::SnapshotInstalled(position) => self.on_snapshot_installed(position),
            Event::SnapshotLost(position) => self.on_snapshot_lost(position),
            Event::SnapshotEnded { peer, delivered } => self.on_snapshot_ended(peer, delivered),
            Event::Unreachable(peer) => self.on_unreachable(peer),
            Event::Transfer(target) => self.on_transfer(target)?,
            Event::Campaign(reason) => self.on_campaign(reason)?,
            Event::StepDown(reason) => self.on_step_down(reason)?,
            Event::SupportEnded(id) => self.on_support_ended(id),
            Event::SupportHeld { peer, support } => self.on_support_held(peer, support),
        }
        self.check_order();
        Ok(None)
    }

    fn on_message(&mut self, message: Message) -> Result<(), Error> {
        if message.to != self.id {
            return Err(Error::Misaddressed { to: message.to });
        }
        if message.from == self.id || !is_well_formed(&message) {
            return Err(Error::Malformed { from: message.from });
        }
        let from = message.from;
        let term = message.term;
        // Vote requests raise the term only once they are judged, in `on_vote_request`.
        if term > self.hard_state.term && raises_term(&message.body, self.role(), None) {
            self.raise_term(term);
        }
        match message.body {
            Body::PreVoteRequest { .. } | Body::VoteRequest { .. } => {
                self.on_vote_request(&message)
            }
            Body::PreVoteResponse { refusal } => self.on_pre_vote_response(from, term, refusal),
            Body::VoteResponse { refusal } => self.on_vote_response(from, term, refusal),
            Body::Append {
                previous,
                entries,
                commit,
            } => {
                if term < self.hard_state.term {
                    self.answer_stale_append(from, previous.index);
                } else {
                    self.follow(from, message.support)?;
                    self.on_append(from, previous, entries, commit)?;
                }
            }
            Body::Heartbeat { commit, round } => {
                if term < self.hard_state.term {
                    self.answer_heartbeat(from, 0);
                } else {
                    self.follow(from, message.support)?;
                    self.on_heartbeat(from, commit, round);
                }
            }
            Body::AppendResponse {
                result,
                commit,
                pledge,
            } => {
                if term == self.hard_state.term {
                    self.on_append_response(from, result, commit, pledge);
                }
            }
            Body::HeartbeatResponse {
                round,
                commit,
                pledge,
            } => {
                if term == self.hard_state.term {
                    self.on_heartbeat_response(from, round, commit, pledge);
                }
            }
            Body::ReadIndexRequest { request } => self.on_read_request(from, term, request),
            Body::ReadIndexResponse { request, index } => {
                self.on_read_response(from, term, request, index)
            }
            Body::TimeoutNow => self.on_timeout_now(from, term),
            Body::Release => self.on_release(from, term),
        }
        Ok(())
    }

    fn on_tick(&mut self) {
        self.lease_bound = self.lease_bound.saturating_sub(1);
        self.age_asks();
        self.log.rest(4 * self.options.election_ticks);
        match self.state {
            State::Leader(_) => self.tick_leader(),
            State::Follower | State::PreCandidate(_) | State::Candidate(_) => self.tick_election(),
        }
    }

    fn on_written(&mut self, id: WriteId) {
        assert!(
            id <= self.write_id,
            "write {id:?} completed, the newest is {:?}",
            self.write_id
        );
        let Some(durable) = self.log.complete(id) else {
            return;
        };
        assert!(
            durable.term >= self.durable_state.term && durable.commit >= self.durable_state.commit,
            "durable state goes back: {:?} to {durable:?}",
            self.durable_state
        );
        self.durable_state = durable;
        match self.state {
            State::Leader(_) => self.maybe_commit(),
            State::Candidate(_) => self.count_own_vote(),
            State::Follower if self.first_term == FirstTerm::Named => self.maybe_lead_first_term(),
            State::Follower | State::PreCandidate(_) => {}
        }
    }

    /// Log matching makes it certain: whoever holds a committed entry holds all before it as they were committed (R3).
    fn on_committed_to(&mut self, position: LogPosition) {
        if self.installing.is_none() && self.log.term_at(position.index) == Some(position.term) {
            self.commit_to(position.index);
        }
    }

    fn on_applied(&mut self, index: Index) {
        assert!(
            index <= self.handed,
            "applied {index}, handed out to {}",
            self.handed
        );
        if index <= self.applied {
            return;
        }
        self.applied = index;
        self.log.count_applied(index);
        self.log.trim(self.options.cache_bytes_max);
        let passed = self
            .configurations
            .iter()
            .rposition(|step| step.index <= index);
        if let Some(newest) = passed {
            self.configurations.drain(..newest);
        }
        self.maybe_leave_joint();
    }

    fn on_compact(&mut self, index: Index) {
        assert!(
            index <= self.applied,
            "compacting to {index}, applied {}",
            self.applied
        );
        if index > self.log.compacted().index {
            self.log.compact(index);
        }
    }

    fn on_campaign(&mut self, reason: CampaignReason) -> Result<(), Error> {
        if let Some(bar) = self.campaign_bar() {
            return Err(Error::MayNotCampaign(bar));
        }
        match reason {
            CampaignReason::Named
                if self.first_term == FirstTerm::Fresh && self.hard_state.vote == Some(self.id) =>
            {
                self.first_term = FirstTerm::Named;
                self.maybe_lead_first_term();
            }
            CampaignReason::Named | CampaignReason::Paced => self.campaign(),
        }
        Ok(())
    }

    /// Moves to `term`, as a follower that knows neither its leader nor its vote yet.
    pub(crate) fn raise_term(&mut self, term: Term) {
        assert!(
            term > self.hard_state.term,
            "term {term} after {}",
            self.hard_state.term
        );
        match self.state {
            State::Leader(_) => self.stop_leading(None),
            State::Candidate(_) | State::PreCandidate(_) => {
                self.state = State::Follower;
                self.reset_timer();
            }
            State::Follower => {}
        }
        self.hard_state.term = term;
        self.hard_state.vote = None;
        self.first_term = FirstTerm::Over;
        self.forget_leader();
        self.view_changed = true;
    }

    /// No leader is known any more, nor pledged to, nor asked.
    pub(crate) fn forget_leader(&mut self) {
        self.pledge = None;
        self.drop_asks();
        if self.leader.take().is_some() {
            self.view_changed = true;
        }
    }

    /// Follows `leader`, from whom a message of the present term came (Raft §5.2).
    ///
    /// # Errors
    /// [`Error::TwoLeaders`] when another peer leads this term, or this one does; nothing changes.
    pub(crate) fn follow(
        &mut self,
        leader: PeerId,
        support: Option<crate::message::SupportId>,
    ) -> Result<(), Error> {
        if let Some(known) = self.leader.filter(|known| *known != leader) {
            return Err(Error::TwoLeaders {
                term: self.hard_state.term,
                leader: known,
                other: leader,
            });
        }
        if !matches!(self.state, State::Follower) {
            self.state = State::Follower;
            self.view_changed = true;
        }
        if self.leader.is_none() {
            self.leader = Some(leader);
            self.first_term = FirstTerm::Over;
            self.view_changed = true;
            self.draw_timeout();
        }
        self.elapsed = 0;
        self.pledge = support.map(|support| Pledge {
            term: self.hard_state.term,
            leader,
            support,
        });
        Ok(())
    }

    /// Starts the election timer again, with a new draw from `[T, 2T)` (Raft §5.2).
    pub(crate) fn reset_timer(&mut self) {
        self.elapsed = 0;
        self.draw_timeout();
    }

    pub(crate) fn draw_timeout(&mut self) {
        let least = self.options.election_ticks;
        self.timeout = least + self.draw(least);
    }

    /// A number in `[0, bound)`. The generator is made anew for each draw, as a stream of its own: it is large, draws are rare,
    /// and peers are many.
    pub(crate) fn draw(&mut self, bound: u32) -> u32 {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&self.seed.to_le_bytes());
        key[8..16].copy_from_slice(&self.id.0.to_le_bytes());
        let mut generator = ChaCha8Rng::from_seed(key);
        generator.set_stream(u64::from(self.draws));
        self.draws = self.draws.wrapping_add(1);
        ((u64::from(generator.next_u32()) * u64::from(bound)) >> 32) as u32
    }

    /// Raises the commit index.
    pub(crate) fn commit_to(&mut self, index: Index) {
        let before = self.hard_state.commit;
        assert!(
            index <= self.log.last().index,
            "commit {index} above last {:?}",
            self.log.last()
        );
        if index <= before {
            return;
        }
        self.hard_state.commit = index;
        self.view_changed = true;
        if let State::Leader(leader) = &mut self.state {
            let bytes: usize = self
                .log
                .range(before + 1, index)
                .map(|entry| entry.payload.size_bytes())
                .sum();
            leader.uncommitted_bytes -= bytes;
            leader.dirty = true;
        }
    }

    /// Appends an entry and, if it changes the membership, the configuration it makes.
    pub(crate) fn append_entry(&mut self, entry: Entry) {
        if let Payload::Membership { change, .. } = &entry.payload {
            let membership = self
                .membership()
                .after(change)
                .expect("changes are checked before they are appended");
            self.configurations.push(Configuration {
                index: entry.index,
                membership: Arc::new(membership),
            });
            self.view_changed = true;
        }
        self.log.append(entry);
    }

    /// A message of the present term.
    pub(crate) fn message(&self, to: PeerId, body: Body) -> Message {
        Message {
            from: self.id,
            to,
            term: self.hard_state.term,
            support: None,
            body,
        }
    }

    /// Whether term and vote are durable as they are.
    pub(crate) fn state_is_durable(&self) -> bool {
        self.durable_state.term == self.hard_state.term
            && self.durable_state.vote == self.hard_state.vote
    }

    /// Sends what claims the present term: at once if the term is durable, else with the write that makes it so (R7).
    pub(crate) fn send_durably(&mut self, message: Message) {
        if self.state_is_durable() {
            self.messages.push(message);
        } else {
            self.after.push(message);
        }
    }

    pub(crate) fn has_bug(&self, bug: Bug) -> bool {
        self.options.bug == Some(bug)
    }

    /// The quorums of the latest appended configuration.
    pub(crate) fn quorum(&self) -> Quorum<'_> {
        Quorum::new(self.membership(), self.options.bug)
    }

    pub(crate) fn configuration(&self) -> &Configuration {
        self.configurations
            .last()
            .expect("there is always a configuration")
    }

    pub(crate) fn is_member_of_latest(&self) -> bool {
        self.membership().votes(self.id)
    }

    /// This peer.
    pub fn id(&self) -> PeerId {
        self.id
    }

    /// The state to publish.
    pub fn view(&self) -> View {
        View {
            role: self.role(),
            term: self.hard_state.term,
            leader: self.leader,
            commit: self.hard_state.commit,
            committed_in_term: self.is_committed_in_term(),
            transferring: match &self.state {
                State::Leader(leader) => leader.transfer.is_some(),
                State::Follower | State::PreCandidate(_) | State::Candidate(_) => false,
            },
            membership: Arc::clone(&self.configuration().membership),
        }
    }

    /// Present term.
    pub fn term(&self) -> Term {
        self.hard_state.term
    }

    /// Present role.
    pub fn role(&self) -> Role {
        match self.state {
            State::Follower => Role::Follower,
            State::PreCandidate(_) => Role::PreCandidate,
            State::Candidate(_) => Role::Candidate,
            State::Leader(_) => Role::Leader,
        }
    }

    /// Who leads the present term, as far as known.
    pub fn leader(&self) -> Option<PeerId> {
        self.leader
    }

    /// Term, vote and commit index now; not necessarily durable.
    pub fn hard_state(&self) -> HardState {
        self.hard_state
    }

    /// Term, vote and commit index as a restart would find them at least.
    pub fn durable_state(&self) -> HardState {
        self.durable_state
    }

    /// Everything up to here was reported applied.
    pub fn applied(&self) -> Index {
        self.applied
    }

    /// Everything up to here is committed.
    pub fn committed(&self) -> Index {
        self.hard_state.commit
    }

    /// Everything up to here is durable as it stands in the log now.
    pub fn persisted(&self) -> Index {
        self.log.persisted()
    }

    /// The end of the log.
    pub fn last(&self) -> LogPosition {
        self.log.last()
    }

    /// The position up to which the log is compacted away.
    pub fn compacted(&self) -> LogPosition {
        self.log.compacted()
    }

    /// The latest appended configuration.
    pub fn membership(&self) -> &Membership {
        &self.configuration().membership
    }

    /// The term of the entry at `index`, if it is in `[compacted, last]`.
    pub fn term_at(&self, index: Index) -> Option<Term> {
        self.log.term_at(index)
    }

    /// Entries in memory from `from` on, for inspection.
    pub fn cached_entries(&self, from: Index) -> impl Iterator<Item = &Entry> {
        let from = from.max(self.log.first_cached());
        self.log.range(from, self.log.last().index)
    }

    /// Whether less is applied than was durably known to be committed at the start (REGIONS §1). Such a peer votes and appends,
    /// but neither campaigns nor leads, and takes no snapshot.
    pub fn behind(&self) -> bool {
        self.applied < self.restored_commit
    }

    /// The snapshot that is being installed.
    pub fn installing(&self) -> Option<LogPosition> {
        self.installing
    }

    /// Whether an entry of the present term is committed.
    pub fn is_committed_in_term(&self) -> bool {
        self.hard_state.term > 0
            && self.log.term_at(self.hard_state.commit) == Some(self.hard_state.term)
    }

    /// What this leader knows of the other members; empty when it does not lead.
    pub fn member_statuses(&self) -> MemberStatuses {
        match &self.state {
            State::Leader(leader) => leader
                .members
                .iter()
                .map(|(peer, progress)| {
                    (
                        *peer,
                        MemberStatus {
                            matched: progress.matched,
                            silent_ticks: progress.silent_ticks,
                            in_snapshot: progress.mode == crate::progress::Mode::Snapshot,
                            commit: progress.commit,
                            record: progress.record,
                        },
                    )
                })
                .collect(),
            State::Follower | State::PreCandidate(_) | State::Candidate(_) => MemberStatuses::new(),
        }
    }

    /// The cheap half of the invariants, after every step.
    pub(crate) fn check_order(&self) {
        let (compacted, last) = (self.log.compacted().index, self.log.last().index);
        let (commit, persisted) = (self.hard_state.commit, self.log.persisted());
        assert!(
            compacted <= self.applied || self.installing.is_some(),
            "compacted {compacted} above applied {}",
            self.applied
        );
        assert!(
            self.applied <= commit && self.applied <= persisted,
            "applied {} above committed {commit} or persisted {persisted}",
            self.applied
        );
        assert!(
            commit <= last && persisted <= last,
            "committed {commit} or persisted {persisted} above last {last}"
        );
        assert!(
            self.applied <= self.handed,
            "applied {} above handed out {}",
            self.applied,
            self.handed
        );
    }

    /// All invariants, scans included. For tests and the simulator, after every event.
    ///
    /// # Panics
    /// When one is broken.
    pub fn check_invariants(&self) {
        self.check_order();
        self.log.check();
        let (durable, written, now) = (self.durable_state, self.written_state, self.hard_state);
        assert!(
            durable.term <= written.term && written.term <= now.term,
            "terms go back: {durable:?} {written:?} {now:?}"
        );
        assert!(
            durable.commit <= written.commit && written.commit <= now.commit,
            "commit goes back: {durable:?} {written:?} {now:?}"
        );
        for pair in self.configurations.windows(2) {
            assert!(
                pair[0].index < pair[1].index && pair[1].index > self.applied,
                "configurations out of order: {} {} applied {}",
                pair[0].index,
                pair[1].index,
                self.applied
            );
        }
        assert!(
            self.configuration().index <= self.log.last().index,
            "the configuration of {} is not in the log",
            self.configuration().index
        );
        if let State::Leader(leader) = &self.state {
            assert!(self.state_is_durable(), "leads a term that is not durable");
            assert!(
                self.hard_state.vote == Some(self.id),
                "leads with a vote for {:?}",
                self.hard_state.vote
            );
            assert!(
                self.leader == Some(self.id),
                "leads and follows {:?}",
                self.leader
            );
            leader.check(self.log.last().index, self.id, self.membership());
        }
    }
}

fn check_options(options: &Options) -> Result<(), Error> {
    let timers = options.heartbeat_ticks >= 1
        && options.heartbeat_ticks.saturating_mul(5) <= options.election_ticks;
    let lease = options
        .lease_ticks
        .is_none_or(|lease| lease < options.election_ticks);
    let sizes = options.append_entries_max >= 1
        && options.inflight_messages_max >= 1
        && options.inflight_bytes_max >= 1;
    if timers && lease && sizes {
        Ok(())
    } else {
        Err(Error::Options)
    }
}

/// Checks that `entries` follow `compacted`, and returns the last index.
fn check_entries(compacted: LogPosition, entries: &[Entry], term: Term) -> Result<Index, Error> {
    let mut last = compacted;
    for entry in entries {
        if entry.index != last.index + 1 || entry.term < last.term {
            return Err(Error::Restored(RestoreError::Entries));
        }
        last = entry.position();
    }
    if last.term > term {
        return Err(Error::Restored(RestoreError::Entries));
    }
    Ok(last.index)
}

/// The configuration at `applied` and those that later entries made.
fn configurations(
    membership: Membership,
    applied: Index,
    entries: &[Entry],
) -> Result<Vec<Configuration>, Error> {
    let mut latest = Arc::new(membership);
    let mut steps = vec![Configuration {
        index: applied,
        membership: Arc::clone(&latest),
    }];
    for entry in entries.iter().filter(|entry| entry.index > applied) {
        if let Payload::Membership { change, .. } = &entry.payload {
            let Ok(next) = latest.after(change) else {
                return Err(Error::Restored(RestoreError::Membership));
            };
            latest = Arc::new(next);
            steps.push(Configuration {
                index: entry.index,
                membership: Arc::clone(&latest),
            });
        }
    }
    Ok(steps)
}

/// Terms and indexes stay below this: far above what any group reaches, and far enough from the end of the type that adding
/// to what a peer was told never overflows.
pub(crate) const NUMBER_MAX: u64 = 1 << 62;

/// Whether a correct peer could have sent this at all. What passes may still be false, but breaks no arithmetic.
fn is_well_formed(message: &Message) -> bool {
    if message.from.0 == 0 || message.term >= NUMBER_MAX {
        return false;
    }
    let Body::Append {
        previous, entries, ..
    } = &message.body
    else {
        return match message.body {
            Body::AppendResponse { result, .. } => match result {
                AppendResult::Matched(_) | AppendResult::Lost(_) => true,
                AppendResult::Mismatch { rejected, .. } => rejected < NUMBER_MAX,
            },
            _ => true,
        };
    };
    let mut last = *previous;
    for entry in entries {
        if last.index >= NUMBER_MAX || entry.index != last.index + 1 || entry.term < last.term {
            return false;
        }
        last = entry.position();
    }
    last.index < NUMBER_MAX && last.term <= message.term
}
