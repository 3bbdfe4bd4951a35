//! Clients, operators, and the faults that begin by themselves.

use raft::{
    CampaignReason, Event, HardState, Index, MemberKind, MembershipChange, Payload, PeerId, ReadId,
    Role, StepDownReason,
};

use super::action::Action;
use super::disk::Write;
use super::machine::{Command, KEYS};
use super::model::slot;
use super::node::{Node, Pending, PendingRead, Status};
use super::settings::{Fault, TICK};
use super::world::{PEERS_MAX, World};
use crate::counters::Happening;
use crate::peers::PeerSet;
use crate::rule::Violation;
use crate::schedule::Time;

impl World {
    /// A client or operator acts, and the next one is scheduled.
    pub(super) fn load(&mut self) -> Result<(), Violation> {
        let (low, high) = self.settings.load;
        let mut delay = if self.healing {
            TICK
        } else {
            self.load_random.between(low, high)
        };
        if self.deposed_leader().is_some() {
            // The moment in which stale reads are possible is short; clients crowd into it.
            delay = delay.min(TICK / 2);
        }
        self.schedule.after(delay, Action::Load);
        let Some(peer) = self.pick_node() else {
            return Ok(());
        };
        let faults = self.settings.faults;
        if self.healing {
            // One write shows that the group commits; more would keep the end of the log moving.
            return if self.acknowledged_since_healing {
                Ok(())
            } else {
                self.write_one(peer, false)
            };
        }
        if let Some(deposed) = self.deposed_leader()
            && self.settings.read_permille > 0
            && self.load_random.chance(500)
        {
            return self.read(deposed);
        }
        match self.load_random.below(1000) {
            0..60 if faults.has(Fault::Compact) => self.compact(peer),
            60..160 if faults.has(Fault::Membership) => self.change_membership(peer),
            160..190 if faults.has(Fault::Transfer) => self.transfer(peer),
            190..200 if faults.has(Fault::Orders) => self.order(peer),
            200..260 if faults.has(Fault::Replay) => match self.network.replay() {
                Some(message) => self.deliver(message),
                None => Ok(()),
            },
            260..280 if faults.has(Fault::Unreachable) => {
                let other = PeerId(self.load_random.between(1, self.next_peer - 1));
                self.feed(peer, Event::Unreachable(other))
            }
            roll if roll >= 1000 - self.settings.read_permille => self.read_somewhere(),
            roll => {
                let burst = if roll.is_multiple_of(10) {
                    self.load_random.between(2, 20)
                } else {
                    1
                };
                let structural = self.load_random.chance(50);
                for _ in 0..burst {
                    self.write_one(peer, structural)?;
                }
                Ok(())
            }
        }
    }

    /// A running node, mostly one that believes to lead.
    fn pick_node(&mut self) -> Option<PeerId> {
        let now = self.schedule.now();
        let awake = |node: &&Node| node.raft().is_some() && node.paused_until <= now;
        let leaders: Vec<PeerId> = self
            .nodes
            .iter()
            .flatten()
            .filter(awake)
            .filter(|node| node.leads())
            .map(|node| node.id)
            .collect();
        if !leaders.is_empty() && self.load_random.chance(900) {
            return Some(self.load_random.pick(&leaders));
        }
        let all: Vec<PeerId> = self
            .nodes
            .iter()
            .flatten()
            .filter(awake)
            .map(|node| node.id)
            .collect();
        (!all.is_empty()).then(|| self.load_random.pick(&all))
    }

    fn write_one(&mut self, peer: PeerId, structural: bool) -> Result<(), Violation> {
        // The store's lane: one structural command at a time, after an entry of the leader's own term is applied.
        if structural && !self.lane_is_free(peer) {
            return Ok(());
        }
        self.commands += 1;
        let command = Command {
            number: self.commands,
            key: self.load_random.below(KEYS as u64) as usize,
        };
        let bytes = command.encode(self.settings.command_bytes as usize);
        let payload = if structural {
            Payload::Structural(bytes)
        } else {
            Payload::Command(bytes)
        };
        match self.step(peer, Event::Propose(payload))? {
            Ok(Some(position)) => {
                let pending = Pending {
                    term: position.term,
                    number: command.number,
                    key: Some(command.key),
                };
                if self
                    .node_mut(peer)
                    .pending
                    .insert(position.index, pending)
                    .is_some()
                {
                    self.counters.count(Happening::Overwritten);
                }
            }
            Ok(None) => {}
            Err(_) => self.counters.count(Happening::ProposalRefused),
        }
        self.settle_soon(peer)
    }

    fn lane_is_free(&self, peer: PeerId) -> bool {
        let node = self.node(peer);
        let Some(raft) = node.raft() else {
            return false;
        };
        let applied = raft.applied();
        let own = raft.term_at(applied) == Some(raft.term());
        own && node
            .log
            .records()
            .filter(|record| record.entry.index > applied)
            .all(|record| {
                !matches!(
                    record.entry.payload,
                    Payload::Structural(_) | Payload::Membership { .. }
                )
            })
            && !node.dirty
    }

    /// A peer that believes to lead although a later leader exists: where stale reads come from.
    fn deposed_leader(&self) -> Option<PeerId> {
        let leaders = || self.nodes.iter().flatten().filter(|node| node.leads());
        if leaders().count() < 2 {
            return None;
        }
        leaders()
            .min_by_key(|node| node.raft().map(raft::Raft::term))
            .map(|node| node.id)
    }

    fn read_somewhere(&mut self) -> Result<(), Violation> {
        let running: Vec<PeerId> = self
            .nodes
            .iter()
            .flatten()
            .filter(|node| node.raft().is_some())
            .map(|node| node.id)
            .collect();
        let leaders: Vec<PeerId> = self
            .nodes
            .iter()
            .flatten()
            .filter(|node| node.leads())
            .map(|node| node.id)
            .collect();
        if running.is_empty() {
            return Ok(());
        }
        let at_leader = !leaders.is_empty() && self.load_random.chance(700);
        let peer = self
            .load_random
            .pick(if at_leader { &leaders } else { &running });
        self.read(peer)
    }

    fn read(&mut self, peer: PeerId) -> Result<(), Violation> {
        let now = self.schedule.now();
        if self.node(peer).paused_until > now {
            return Ok(());
        }
        self.reads_begun += 1;
        let id = ReadId(self.reads_begun);
        let key = self.load_random.below(KEYS as u64) as usize;
        let read = PendingRead {
            key,
            floor: self.ghost.committed.last(),
            key_floor: self.ghost.history.floor(key),
            index: None,
            fresh: true,
            confirmed: Happening::ReadServed,
        };
        self.node_mut(peer).reads.insert(id, read);
        if self.step(peer, Event::Read(id))?.is_err() {
            self.node_mut(peer).reads.remove(&id);
        }
        self.settle_soon(peer)
    }

    fn transfer(&mut self, peer: PeerId) -> Result<(), Violation> {
        let members: Vec<PeerId> = self
            .node(peer)
            .log
            .membership()
            .members
            .keys()
            .copied()
            .collect();
        let target = if members.is_empty() || self.load_random.chance(300) {
            None
        } else {
            Some(self.load_random.pick(&members))
        };
        self.feed(peer, Event::Transfer(target))
    }

    fn order(&mut self, peer: PeerId) -> Result<(), Violation> {
        let event = match self.load_random.below(4) {
            0 => Event::StepDown(StepDownReason::Stuck),
            1 => Event::StepDown(StepDownReason::Shutdown),
            _ => Event::Campaign(CampaignReason::Paced),
        };
        let ordered_from = match event {
            Event::Campaign(_) => {
                let running: Vec<PeerId> = self
                    .nodes
                    .iter()
                    .flatten()
                    .filter(|node| node.raft().is_some())
                    .map(|node| node.id)
                    .collect();
                self.load_random.pick(&running)
            }
            _ => peer,
        };
        self.feed(ordered_from, event)
    }

    fn compact(&mut self, peer: PeerId) -> Result<(), Violation> {
        let node = self.node(peer);
        // Logs are kept until what they did is flushed (REGIONS §1).
        let highest = node
            .disk
            .flushed
            .applied
            .index
            .min(node.state.applied.index);
        let base = node.log.base().index;
        if node.dirty || node.disk.staged.is_some() || highest <= base {
            return Ok(());
        }
        let index = self.load_random.between(base + 1, highest);
        self.step(peer, Event::Compact(index)).map(drop)?;
        let node = self.node_mut(peer);
        let compacted: Index = node.raft().map_or(0, |raft| raft.compacted().index);
        if compacted > base {
            node.log.compact(compacted);
            node.disk.queue.push_back(Write::Compact(compacted));
            self.counters.count(Happening::Compacted);
            self.begin_sync(peer);
        }
        self.settle(peer)
    }

    /// Proposes a change that makes sense, or now and then one that does not.
    fn change_membership(&mut self, peer: PeerId) -> Result<(), Violation> {
        let membership = self.node(peer).log.membership().clone();
        let of = |kind: MemberKind| -> Vec<PeerId> {
            membership
                .members
                .iter()
                .filter(|(_, its)| **its == kind)
                .map(|(peer, _)| *peer)
                .collect()
        };
        let (voters, learners) = (of(MemberKind::Voter), of(MemberKind::Learner));
        let joint = voters.len() + learners.len() < membership.members.len();
        let random = &mut self.load_random;
        let change = match random.below(100) {
            // Leaving is the leader's own business; asking for it must do no harm.
            0..10 => MembershipChange::LeaveJoint,
            _ if joint => MembershipChange::LeaveJoint,
            10..40 if membership.members.len() < 8 => {
                let back = self.pick_readded();
                let peer = match back {
                    Some(peer) => peer,
                    None if self.next_peer < PEERS_MAX => {
                        self.next_peer += 1;
                        PeerId(self.next_peer - 1)
                    }
                    None => return Ok(()),
                };
                MembershipChange::AddLearner(peer)
            }
            40..60 if !learners.is_empty() => {
                MembershipChange::RemoveLearner(random.pick(&learners))
            }
            _ => {
                let mut promote: Vec<PeerId> = Vec::new();
                let mut demote: Vec<PeerId> = Vec::new();
                for learner in &learners {
                    if voters.len() + promote.len() < 7 && random.chance(600) {
                        promote.push(*learner);
                    }
                }
                for voter in &voters {
                    if demote.len() + 1 < voters.len() + promote.len() && random.chance(350) {
                        demote.push(*voter);
                    }
                }
                MembershipChange::EnterJoint { promote, demote }
            }
        };
        self.commands += 1;
        let context = self.commands.to_le_bytes().to_vec().into();
        match self.step(
            peer,
            Event::Propose(Payload::Membership { change, context }),
        )? {
            Ok(_) => {}
            Err(_) => self.counters.count(Happening::ChangeRefused),
        }
        self.settle_soon(peer)
    }

    /// A destroyed peer that never voted may come back under its old id, with an emptied disk that kept term and vote. R19
    /// forbids it to stores; the core must bear it all the same, because late acknowledgements look just like this.
    fn pick_readded(&mut self) -> Option<PeerId> {
        if !self.settings.faults.has(Fault::Readd) {
            return None;
        }
        let gone: Vec<PeerId> = self
            .nodes
            .iter()
            .flatten()
            .filter(|node| {
                matches!(node.status, Status::Destroyed) && !self.ever_voters.contains(node.id)
            })
            .map(|node| node.id)
            .collect();
        if gone.is_empty() {
            return None;
        }
        let peer = self.load_random.pick(&gone);
        let node = self.node(peer);
        let hard_state = HardState {
            commit: 0,
            ..node.disk.hard_state
        };
        let incarnation = node.incarnation;
        self.blank(peer, hard_state);
        self.node_mut(peer).incarnation = incarnation;
        self.readded.insert(peer);
        self.counters.count(Happening::Readded);
        // Its process starts; what it hears decides the rest.
        self.schedule.after(1, Action::Restart(peer));
        Some(peer)
    }

    /// Schedules the next fault of a kind.
    pub(super) fn rearm(&mut self, fault: Fault) {
        let (low, high) = self.settings.fault;
        let factor = match fault {
            Fault::PowerLoss => 8,
            Fault::Crash | Fault::Pause | Fault::OneWay => 2,
            _ => 3,
        };
        let random = match fault {
            Fault::Partition | Fault::OneWay | Fault::Lag => self.network.random(),
            Fault::Pause => &mut self.clock_random,
            _ => &mut self.disk_random,
        };
        let delay = random.between(low, high * factor);
        self.schedule.after(delay, Action::Fault(fault));
    }

    /// A fault begins.
    pub(super) fn fault(&mut self, fault: Fault) -> Result<(), Violation> {
        if self.healing {
            return Ok(());
        }
        self.rearm(fault);
        let now = self.schedule.now();
        match fault {
            Fault::Crash => {
                let running: Vec<PeerId> = self
                    .nodes
                    .iter()
                    .flatten()
                    .filter(|node| node.raft().is_some())
                    .map(|node| node.id)
                    .collect();
                if running.is_empty() {
                    return Ok(());
                }
                // Leaders crash more often than their share.
                let leaders: Vec<PeerId> = running
                    .iter()
                    .copied()
                    .filter(|peer| self.node(*peer).leads())
                    .collect();
                let peer = if !leaders.is_empty() && self.disk_random.chance(400) {
                    self.disk_random.pick(&leaders)
                } else {
                    self.disk_random.pick(&running)
                };
                self.crash(peer)
            }
            Fault::PowerLoss => {
                for peer in self.peers() {
                    if self.node(peer).raft().is_some() {
                        self.crash(peer)?;
                    }
                }
                Ok(())
            }
            Fault::Pause => {
                let awake: Vec<PeerId> = self
                    .nodes
                    .iter()
                    .flatten()
                    .filter(|node| node.raft().is_some() && node.paused_until <= now)
                    .map(|node| node.id)
                    .collect();
                if awake.is_empty() {
                    return Ok(());
                }
                let peer = self.clock_random.pick(&awake);
                let duration = self.outage();
                let rate = self.settings.ticks[slot(peer) % self.settings.ticks.len()];
                // A lease needs a clock that runs during suspend (R25); without leases a clock may stand still.
                let missed = if self.settings.options.lease_ticks.is_some() {
                    duration / rate + 1
                } else {
                    0
                };
                let node = self.node_mut(peer);
                node.paused_until = now + duration;
                let incarnation = node.incarnation;
                self.schedule
                    .after(duration, Action::Resume(peer, incarnation, missed));
                self.trace.note(now, [23, peer.0, duration, 0], || {
                    format!("{peer} pauses for {:.1} ms", duration as f64 / 1000.0)
                });
                Ok(())
            }
            Fault::Partition => {
                let peers = self.peers();
                let mut side = PeerSet::default();
                // Often the leader alone, which is what hurts most.
                let leader = self
                    .nodes
                    .iter()
                    .flatten()
                    .find(|node| node.leads())
                    .map(|node| node.id);
                match leader {
                    Some(leader) if self.network.random().chance(400) => side.insert(leader),
                    Some(_) | None => {
                        for peer in peers {
                            if self.network.random().chance(500) {
                                side.insert(peer);
                            }
                        }
                    }
                }
                self.network.split(side);
                self.counters.count(Happening::Partition);
                self.mend_later();
                self.trace.note(now, [24, side.0, 0, 0], || {
                    format!("{:#b} is cut off", side.0)
                });
                Ok(())
            }
            Fault::OneWay => {
                let from = self.pick_target();
                let everybody = self.network.random().chance(300);
                let mut to = PeerSet::default();
                for peer in self.peers() {
                    if peer != from && (everybody || self.network.random().chance(500)) {
                        to.insert(peer);
                    }
                }
                self.network.cut_link(slot(from), to);
                self.mend_later();
                self.trace.note(now, [25, from.0, to.0, 0], || {
                    format!("{:#b} do not hear {from}", to.0)
                });
                Ok(())
            }
            Fault::Lag => {
                let peer = self.pick_target();
                self.network.lag(peer);
                if self.network.random().chance(500) {
                    // It goes on believing what it hears late, while the others move on.
                    let timeout = Time::from(self.settings.options.election_ticks) * TICK;
                    let delay = self.network.random().between(TICK, timeout);
                    self.schedule.after(delay, Action::Mute(peer));
                }
                self.mend_later();
                self.trace.note(now, [26, peer.0, 0, 0], || {
                    format!("{peer} hears everything late")
                });
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Whom a fault of the network befalls: often a leader, where it hurts most.
    fn pick_target(&mut self) -> PeerId {
        let leaders: Vec<PeerId> = self
            .nodes
            .iter()
            .flatten()
            .filter(|node| node.leads())
            .map(|node| node.id)
            .collect();
        if !leaders.is_empty() && self.network.random().chance(400) {
            return self.network.random().pick(&leaders);
        }
        let peers = self.peers();
        self.network.random().pick(&peers)
    }

    fn mend_later(&mut self) {
        let duration = self.outage();
        self.schedule.after(duration, Action::Mend);
    }

    fn outage(&mut self) -> Time {
        let timeout = Time::from(self.settings.options.election_ticks) * TICK;
        self.clock_random.between(TICK, 5 * timeout)
    }

    fn crash(&mut self, peer: PeerId) -> Result<(), Violation> {
        let now = self.schedule.now();
        let node = self.nodes[slot(peer)]
            .as_mut()
            .expect("only nodes that run crash");
        let staged = node.disk.staged.clone();
        let (kept, lost) = node.disk.crash(&mut self.disk_random)?;
        let hard_state = node.disk.hard_state;
        self.ghost.elections.on_durable(peer, hard_state);
        node.status = Status::Down;
        node.paused_until = now;
        self.counters.count(Happening::Crash);
        if lost > 0 {
            self.counters.count(if kept > 0 {
                Happening::TornTail
            } else {
                Happening::LostTail
            });
        }
        if node.disk.flushed.applied != node.state.applied {
            self.counters.count(Happening::ApplyFellBack);
        }
        if let Some(staged) = staged {
            // The sender's stream breaks; whether the snapshot arrived it cannot tell.
            self.schedule.after(
                self.settings.delay.1,
                Action::SnapshotEnded {
                    sender: staged.sender,
                    incarnation: staged.incarnation,
                    to: peer,
                    delivered: None,
                },
            );
        }
        let delay = self.outage();
        self.schedule.after(delay, Action::Restart(peer));
        self.trace
            .note(now, [22, peer.0, kept as u64, lost as u64], || {
                format!("{peer} crashes; {kept} queued writes are kept, {lost} lost")
            });
        Ok(())
    }

    /// Whether `peer` leads.
    #[must_use]
    pub fn leads(&self, peer: PeerId) -> bool {
        self.nodes[slot(peer)]
            .as_ref()
            .and_then(Node::raft)
            .is_some_and(|raft| raft.role() == Role::Leader)
    }
}
