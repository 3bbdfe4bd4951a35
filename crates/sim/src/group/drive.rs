//! Carrying out what happens: events into a peer, effects out of it, checks after each.

use raft::{Body, Effects, Event, Index, LogPosition, LogWrite, Payload, PeerId, Raft, Role, Term};

use super::action::Action;
use super::check::{calm, durable, membership, order};
use super::digest::describe_words;
use super::disk::Write;
use super::model::{Halves, contacts, slot};
use super::node::Status;
use super::settings::Fault;
use super::world::World;
use crate::counters::Happening;
use crate::peers::PeerSet;
use crate::rule::{Rule, Violation, ensure};

/// How the core answered an event.
pub(super) type Answer = Result<Option<LogPosition>, raft::Error>;

/// How many events share one full scan of a peer's invariants.
const SCAN_EVERY: u64 = 61;

impl World {
    pub(super) fn carry_out(&mut self, action: Action) -> Result<(), Violation> {
        match action {
            Action::Deliver(message) => self.deliver(message),
            Action::Tick(peer, incarnation) => self.tick(peer, incarnation),
            Action::Synced(peer, incarnation) => self.synced(peer, incarnation),
            Action::Apply(peer, incarnation) => self.apply(peer, incarnation),
            Action::Settle(peer, incarnation) => match self.up(peer, incarnation) {
                Some(node) if node.dirty => self.settle(peer),
                Some(_) | None => Ok(()),
            },
            Action::Fetched(peer, incarnation, fetch) => {
                let Some(node) = self.up(peer, incarnation) else {
                    return Ok(());
                };
                let log = &node.disk.log;
                let entries: Vec<_> = fetch
                    .range
                    .clone()
                    .map_while(|index| log.get(index))
                    .map(|record| record.entry.clone())
                    .collect();
                let most = self.disk_random.between(1, entries.len().max(1) as u64) as usize;
                let entries = entries.into_iter().take(most).collect();
                self.counters.count(Happening::Fetched);
                self.feed(
                    peer,
                    Event::Fetched {
                        peer: fetch.peer,
                        entries,
                    },
                )
            }
            Action::TakeSnapshot {
                sender,
                incarnation,
                to,
            } => self.take_snapshot(sender, incarnation, to),
            Action::SnapshotArrives {
                sender,
                incarnation,
                term,
                to,
                state,
            } => self.snapshot_arrives(sender, incarnation, term, to, state),
            Action::SnapshotEnded {
                sender,
                incarnation,
                to,
                delivered,
            } => match self.up(sender, incarnation) {
                Some(_) => self.feed(
                    sender,
                    Event::SnapshotEnded {
                        peer: to,
                        delivered,
                    },
                ),
                None => Ok(()),
            },
            Action::Installed(peer, incarnation, position) => {
                self.installed(peer, incarnation, position)
            }
            Action::Notice(peer, incarnation) => {
                if let Some(node) = self.up(peer, incarnation)
                    && node
                        .raft()
                        .is_some_and(|raft| !raft.behind() && raft.installing().is_none())
                {
                    self.destroy(peer);
                }
                Ok(())
            }
            Action::Lost(peer, incarnation, to) => match self.up(peer, incarnation) {
                Some(_) => self.feed(peer, Event::Unreachable(to)),
                None => Ok(()),
            },
            Action::Load => self.load(),
            Action::Fault(fault) => self.fault(fault),
            Action::Mute(peer) => {
                if !self.healing {
                    let others: PeerSet = self
                        .peers()
                        .into_iter()
                        .filter(|other| *other != peer)
                        .collect();
                    self.network.cut_link(slot(peer), others);
                    self.trace
                        .note(self.schedule.now(), [31, peer.0, 0, 0], || {
                            format!("nobody hears {peer}")
                        });
                }
                Ok(())
            }
            Action::Mend => {
                self.network.mend();
                self.trace.note(self.schedule.now(), [30, 0, 0, 0], || {
                    "links are mended".into()
                });
                Ok(())
            }
            Action::Restart(peer) => self.restart(peer),
            Action::Resume(peer, incarnation, ticks) => {
                for _ in 0..ticks {
                    if self.up(peer, incarnation).is_some() {
                        self.feed(peer, Event::Tick)?;
                    }
                }
                Ok(())
            }
        }
    }

    fn tick(&mut self, peer: PeerId, incarnation: u32) -> Result<(), Violation> {
        if self.up(peer, incarnation).is_none() {
            return Ok(());
        }
        let rate = self.settings.ticks[slot(peer) % self.settings.ticks.len()];
        self.schedule.after(rate, Action::Tick(peer, incarnation));
        self.feed(peer, Event::Tick)
    }

    /// Steps one event, and takes effects now or, in worlds that batch, a little later.
    pub(super) fn feed(&mut self, peer: PeerId, event: Event) -> Result<(), Violation> {
        // Refusals are part of normal work here; what they refuse was tried on purpose.
        let _ = self.step(peer, event)?;
        self.settle_soon(peer)
    }

    pub(super) fn settle_soon(&mut self, peer: PeerId) -> Result<(), Violation> {
        if self.settings.faults.has(Fault::Batch) && self.disk_random.chance(700) {
            let node = self.node_mut(peer);
            if node.raft().is_some() && !node.dirty {
                node.dirty = true;
                let incarnation = node.incarnation;
                let delay = self.disk_random.between(1, 400);
                self.schedule
                    .after(delay, Action::Settle(peer, incarnation));
            }
            return Ok(());
        }
        self.settle(peer)
    }

    /// Steps one event and checks everything that does not wait for effects.
    pub(super) fn step(&mut self, peer: PeerId, event: Event) -> Result<Answer, Violation> {
        let now = self.schedule.now();
        // A planted bug must be caught by the checkers, not by the code's own assertions.
        let scan = self.events.is_multiple_of(SCAN_EVERY) && self.settings.options.bug.is_none();
        let node = self.nodes[slot(peer)]
            .as_mut()
            .expect("events go to peers that exist");
        let Status::Up(raft) = &mut node.status else {
            return Ok(Ok(None));
        };
        let before = (raft.role(), raft.term(), raft.committed());
        let ticked = matches!(event, Event::Tick);
        let mut ordered = matches!(event, Event::Campaign(_));
        let named = matches!(event, Event::Campaign(raft::CampaignReason::Named)) || before.1 == 1;
        node.watch.ticks += u64::from(ticked);
        if let Event::Message(message) = &event {
            ordered |= matches!(message.body, Body::TimeoutNow);
            if message.term == before.1 {
                node.watch.heard[slot(message.from)] = node.watch.ticks;
            }
            if let Body::PreVoteResponse { refusal: None } = message.body {
                let granted = &mut node.watch.pre_votes;
                granted.retain(|term, _| *term > before.1);
                granted
                    .entry(message.term)
                    .or_default()
                    .insert(message.from);
            }
        }
        let words = describe_words(&event);
        let text = self.trace_text(peer, &event);
        let node = self.nodes[slot(peer)]
            .as_mut()
            .expect("events go to peers that exist");
        let Status::Up(raft) = &mut node.status else {
            return Ok(Ok(None));
        };
        let answer = raft.step(event);
        if scan {
            raft.check_invariants();
        }
        let after = (raft.role(), raft.term(), raft.committed());
        let digest = raft.last().index
            ^ after.2.rotate_left(20)
            ^ after.1.rotate_left(40)
            ^ ((after.0 as u64) << 60);
        self.trace
            .note(now, [words.0, peer.0, words.1, digest], || {
                format!(
                    "{peer} {text}: {:?} of term {}, last {}, committed {}{}",
                    after.0,
                    after.1,
                    raft.last().index,
                    after.2,
                    match &answer {
                        Err(error) => format!(", refused: {error:?}"),
                        Ok(_) => String::new(),
                    }
                )
            });
        if let Err(error @ raft::Error::TwoLeaders { .. }) = &answer {
            return Err(Violation {
                rule: Rule::Election,
                text: format!("peer {peer} refuses a message: {error}"),
            });
        }
        self.check_step(peer, before, ticked, ordered, named)?;
        Ok(answer)
    }

    fn trace_text(&self, _peer: PeerId, event: &Event) -> String {
        if self.trace.is_text() {
            format!("{event:?}")
        } else {
            String::new()
        }
    }

    fn check_step(
        &mut self,
        peer: PeerId,
        before: (Role, Term, Index),
        ticked: bool,
        ordered: bool,
        named: bool,
    ) -> Result<(), Violation> {
        let node = self.nodes[slot(peer)].as_ref().expect("just stepped");
        let raft = node.raft().expect("just stepped");
        let (role, term, committed) = (raft.role(), raft.term(), raft.committed());
        ensure!(
            Durable,
            term >= before.1,
            "peer {peer} goes back from term {} to {term}",
            before.1
        );
        order::check_pointers(node, raft)?;
        durable::check_persisted(node, raft)?;
        if term > before.1 && matches!(role, Role::Candidate | Role::Leader) && !ordered {
            calm::check_candidate(node, raft, term)?;
        }
        if role == Role::Leader && (before.0 != Role::Leader || before.1 != term) {
            let halves = Halves::of(raft.membership());
            let named = named && term == 1;
            let _ = self.ghost.elections.check(node, halves, named)?;
            self.ghost.completeness.check(node, term)?;
            let start = raft.last().index;
            self.counters.count(if named {
                Happening::FirstTermLed
            } else {
                Happening::Election
            });
            let node = self.nodes[slot(peer)].as_mut().expect("just stepped");
            node.watch.term_start = start;
            node.watch.quorum_since = node.watch.ticks;
            if self
                .nodes
                .iter()
                .flatten()
                .filter(|node| node.leads())
                .count()
                > 1
            {
                self.counters.count(Happening::TwoLeaders);
            }
        }
        let node = self.nodes[slot(peer)].as_ref().expect("just stepped");
        let raft = node.raft().expect("just stepped");
        if role == Role::Leader && committed > before.2 {
            let halves = Halves::of(raft.membership());
            self.ghost.committed.check_counting(
                node,
                halves,
                term,
                committed,
                self.nodes.iter().flatten(),
            )?;
            self.ghost.completeness.on_commit(node, term, committed);
            if halves.incoming != halves.outgoing {
                self.counters.count(Happening::CommittedJoint);
            }
            if halves.incoming.len() == 1 {
                self.counters.count(Happening::CommittedAlone);
            }
        }
        match (before.0, role) {
            (Role::Candidate, Role::Follower) => self.counters.count(Happening::LostElection),
            (Role::Leader, Role::Follower) => self.counters.count(Happening::SteppedDown),
            _ => {}
        }
        if ticked {
            calm::check_quorum_heard(node, raft, &self.settings)?;
        }
        Ok(())
    }

    /// Takes the effects of a peer and carries them out.
    pub(super) fn settle(&mut self, peer: PeerId) -> Result<(), Violation> {
        let node = self.node_mut(peer);
        node.dirty = false;
        let committed_before = node.watch.committed;
        let Some(raft) = node.raft_mut() else {
            return Ok(());
        };
        // A lease is looked at when effects are taken, and is not begun by that.
        let leased = raft.has_lease();
        let effects = raft.take_effects();
        let (role, term, committed) = (raft.role(), raft.term(), raft.committed());
        let applied = raft.applied();
        let Effects {
            view: _,
            messages,
            write,
            committed: handed_out,
            reads,
            reads_dropped,
            fetches,
            snapshots,
        } = effects;
        let leads = (role == Role::Leader).then_some(term);
        let led = node.watch.led_term.filter(|_| node.watch.led_term == leads);
        node.watch.led_term = leads;

        if let Some(write) = write {
            self.write(
                peer,
                write,
                led,
                leads,
                committed_before,
                applied,
                committed,
            )?;
        }
        if committed > committed_before {
            let node = self.nodes[slot(peer)].as_mut().expect("just settled");
            node.watch.committed = committed;
            node.contacts = contacts(&node.log, committed);
            let node = &*node;
            self.ghost.committed.learn(node, committed)?;
        }
        for message in messages {
            self.send(message)?;
        }
        self.hand_out(peer, handed_out)?;
        for ready in reads {
            self.read_ready(peer, ready, leased)?;
        }
        let node = self.node_mut(peer);
        for read in node.reads.values_mut() {
            read.fresh = false;
        }
        let incarnation = node.incarnation;
        for read in reads_dropped {
            self.node_mut(peer).reads.remove(&read);
            self.counters.count(Happening::ReadDropped);
        }
        for fetch in fetches {
            let delay = self.disk_random.between(10, 2000);
            self.schedule
                .after(delay, Action::Fetched(peer, incarnation, fetch));
        }
        for to in snapshots {
            let delay = self.disk_random.between(10, 5000);
            self.schedule.after(
                delay,
                Action::TakeSnapshot {
                    sender: peer,
                    incarnation,
                    to,
                },
            );
        }
        Ok(())
    }

    /// Queues a log write, and mirrors it in the ghost's copy of the log.
    #[expect(
        clippy::too_many_arguments,
        reason = "each is a fact of one moment, gone after it"
    )]
    fn write(
        &mut self,
        peer: PeerId,
        write: LogWrite,
        led: Option<Term>,
        leads: Option<Term>,
        committed_before: Index,
        applied: Index,
        committed: Index,
    ) -> Result<(), Violation> {
        let node = self.nodes[slot(peer)].as_mut().expect("just settled");
        order::check_write(node, &write, led, committed_before)?;
        node.watch.write_id = write.id.0;
        let LogWrite {
            id,
            hard_state,
            install,
            truncate_from,
            entries,
            after,
        } = write;
        let changed = install.is_some() || truncate_from.is_some() || !entries.is_empty();
        if let Some(position) = install {
            let staged = node
                .disk
                .staged
                .as_ref()
                .filter(|staged| staged.state.applied == position);
            let Some(staged) = staged else {
                return Err(Violation {
                    rule: Rule::Snapshot,
                    text: format!(
                        "peer {peer} installs a snapshot at {position:?} that is not staged"
                    ),
                });
            };
            node.log.install(
                position,
                staged.state.chain,
                staged.state.membership.clone(),
            );
        }
        if let Some(index) = truncate_from {
            node.log.truncate_from(index);
            self.counters.count(Happening::Truncation);
        }
        let mut records = Vec::with_capacity(entries.len());
        for entry in entries {
            let node = self.nodes[slot(peer)].as_mut().expect("just settled");
            ensure!(
                Order,
                entry.index == node.log.last().index + 1 && entry.term >= node.log.last().term,
                "peer {peer} writes entry {:?} after {:?}",
                entry.position(),
                node.log.last()
            );
            if let Payload::Membership { change, .. } = &entry.payload {
                self.ghost
                    .configurations
                    .check_step(node.log.membership(), &entry.payload)?;
                if leads == Some(entry.term) {
                    self.ghost
                        .configurations
                        .check_begun(node, &entry, applied, committed)?;
                    node.watch.quorum_since = node.watch.ticks;
                    match change {
                        raft::MembershipChange::EnterJoint { .. } => {
                            self.joint_begun_by = Some(peer);
                            self.counters.count(Happening::JointEntered);
                        }
                        raft::MembershipChange::LeaveJoint if self.joint_begun_by != Some(peer) => {
                            self.counters.count(Happening::JointLeftByOther);
                        }
                        _ => {}
                    }
                }
            }
            let is_change = matches!(entry.payload, Payload::Membership { .. });
            let record = node.log.push(entry).clone();
            if is_change {
                let halves = Halves::of(node.log.membership());
                self.ever_voters.0 |= halves.incoming.0 | halves.outgoing.0;
            }
            self.ghost.matching.check(&record)?;
            records.push(record);
        }
        let node = self.nodes[slot(peer)].as_mut().expect("just settled");
        if changed {
            let raft = node.raft().expect("just settled");
            membership::check_pure(node, raft)?;
        }
        node.disk.queue.push_back(Write::Log {
            id,
            hard_state,
            install,
            truncate_from,
            records,
            after,
        });
        self.begin_sync(peer);
        Ok(())
    }

    /// Starts a sync of what is queued, unless one runs.
    pub(super) fn begin_sync(&mut self, peer: PeerId) {
        let node = self.nodes[slot(peer)].as_mut().expect("the peer exists");
        let queued = node.disk.queue.len();
        if node.disk.syncing == 0 && queued > 0 {
            node.disk.syncing = if self.disk_random.chance(700) {
                queued
            } else {
                self.disk_random.between(1, queued as u64) as usize
            };
            let (low, high) = self.settings.sync;
            let delay = self.disk_random.between(low, high);
            self.schedule
                .after(delay, Action::Synced(peer, node.incarnation));
        }
    }

    fn synced(&mut self, peer: PeerId, incarnation: u32) -> Result<(), Violation> {
        let Some(node) = self.up(peer, incarnation) else {
            return Ok(());
        };
        let mut count = std::mem::take(&mut node.disk.syncing);
        let mut last = None;
        // Reporting may come before or after the messages leave; both happen.
        while count > 0 {
            count -= 1;
            let node = self.nodes[slot(peer)].as_mut().expect("just synced");
            let done = node.disk.complete_one()?;
            let hard_state = node.disk.hard_state;
            self.ghost.elections.on_durable(peer, hard_state);
            if let Some((id, messages)) = done {
                last = Some(id);
                for message in messages {
                    self.send(message)?;
                }
            }
            let node = self.nodes[slot(peer)].as_mut().expect("just synced");
            if let (true, Some(staged)) = (node.disk.installing && count == 0, &node.disk.staged) {
                let position = staged.state.applied;
                let delay = self.disk_random.between(10, 8000);
                self.schedule
                    .after(delay, Action::Installed(peer, incarnation, position));
            }
        }
        if let Some(id) = last {
            self.feed(peer, Event::Written(id))?;
        }
        self.begin_sync(peer);
        Ok(())
    }

    /// Checks a peer that just started against its disk.
    pub(super) fn check_restored(&mut self, peer: PeerId) -> Result<(), Violation> {
        let node = self.nodes[slot(peer)].as_ref().expect("just started");
        let raft: &Raft = node.raft().expect("just started");
        membership::check_pure(node, raft)?;
        order::check_pointers(node, raft)?;
        durable::check_persisted(node, raft)?;
        ensure!(
            Durable,
            raft.term() == node.disk.hard_state.term
                && raft.committed() >= node.disk.hard_state.commit,
            "peer {peer} starts with {:?}, durable is {:?}",
            raft.hard_state(),
            node.disk.hard_state
        );
        self.ghost.committed.learn(node, raft.committed())
    }
}
