//! The world of one group: nodes, network, disks, clients, and the loop that lets one thing happen after the other.

use std::sync::Arc;

use raft::{HardState, LogPosition, MemberKind, Membership, PeerId};

use super::action::Action;
use super::check::Ghost;
use super::disk::Disk;
use super::machine::State;
use super::model::{CHAIN_START, Log, slot};
use super::network::Network;
use super::node::{Node, Status};
use super::settings::{Fault, Plan, Settings, TICK};
use crate::counters::{Counters, Happening};
use crate::peers::PeerSet;
use crate::random::{Purpose, Stream};
use crate::rule::{Rule, Violation};
use crate::schedule::{Schedule, Time};
use crate::trace::Trace;

/// Peer ids stay below this, so that sets of them are words.
pub const PEERS_MAX: u64 = 48;

/// A world.
#[derive(Debug)]
pub struct World {
    pub(super) settings: Settings,
    pub(super) schedule: Schedule<Action>,
    /// By peer id; 0 is nobody.
    pub(super) nodes: Vec<Option<Node>>,
    pub(super) network: Network,
    pub(super) disk_random: Stream,
    pub(super) clock_random: Stream,
    pub(super) load_random: Stream,
    pub(super) ghost: Ghost,
    pub(super) counters: Counters,
    pub(super) trace: Trace,
    /// The first peer id that nobody had.
    pub(super) next_peer: u64,
    /// Commands proposed so far.
    pub(super) commands: u64,
    /// Reads begun so far.
    pub(super) reads_begun: u64,
    /// Peers that voted in any log's configuration.
    pub(super) ever_voters: PeerSet,
    /// Peers that came back under an old id.
    pub(super) readded: PeerSet,
    /// The peer named to lead term 1, in a group that a split made.
    pub(super) first_leader: Option<PeerId>,
    /// Who began the newest joint configuration.
    pub(super) joint_begun_by: Option<PeerId>,
    /// Faults stopped.
    pub(super) healing: bool,
    /// Events so far.
    pub(super) events: u64,
    /// An acknowledged write after faults stopped.
    pub(super) acknowledged_since_healing: bool,
}

impl World {
    /// The world of `plan`, before anything happened.
    ///
    /// # Errors
    /// When the core refuses its initial state.
    pub fn new(plan: &Plan) -> Result<World, Violation> {
        let settings = Settings::draw(plan);
        let mut world = World {
            schedule: Schedule::default(),
            nodes: (0..PEERS_MAX).map(|_| None).collect(),
            network: Network::new(Stream::new(plan.seed, Purpose::Network)),
            disk_random: Stream::new(plan.seed, Purpose::Disk),
            clock_random: Stream::new(plan.seed, Purpose::Clock),
            load_random: Stream::new(plan.seed, Purpose::Load),
            ghost: Ghost::default(),
            counters: Counters::default(),
            trace: Trace::new(plan.trace),
            next_peer: settings.voters + settings.learners + 1,
            commands: 0,
            reads_begun: 0,
            ever_voters: PeerSet::default(),
            readded: PeerSet::default(),
            first_leader: None,
            joint_begun_by: None,
            healing: false,
            events: 0,
            acknowledged_since_healing: false,
            settings,
        };
        world.bootstrap()?;
        world.begin_faults();
        Ok(world)
    }

    /// Makes the first peers: a group whose base is already applied everywhere, so that later peers begin with a snapshot.
    fn bootstrap(&mut self) -> Result<(), Violation> {
        let settings = &self.settings;
        let mut membership = Membership::default();
        for peer in 1..=settings.voters + settings.learners {
            let kind = if peer <= settings.voters {
                MemberKind::Voter
            } else {
                MemberKind::Learner
            };
            membership.members.insert(PeerId(peer), kind);
        }
        let membership = Arc::new(membership);
        let base = LogPosition { term: 1, index: 1 };
        self.ghost.committed.begin(base, CHAIN_START);
        self.ever_voters = (1..=settings.voters).map(PeerId).collect();
        let first_leader = PeerId(self.load_random.between(1, settings.voters));
        let first_term = settings.first_term;
        self.first_leader = first_term.then_some(first_leader);
        let members: Vec<PeerId> = membership.members.keys().copied().collect();
        for peer in members {
            let hard_state = HardState {
                term: 1,
                vote: first_term.then_some(first_leader),
                commit: base.index,
            };
            let log = Log::new(base, CHAIN_START, Arc::clone(&membership));
            let state = Arc::new(State::new(base, CHAIN_START, Arc::clone(&membership)));
            self.nodes[slot(peer)] = Some(Node::new(peer, Disk::new(hard_state, log, state)));
            if first_term {
                self.start_child(peer, first_leader)?;
            } else {
                self.start(peer, false)?;
                self.settle(peer)?;
            }
        }
        Ok(())
    }

    /// Starts a peer that a split just made, or made again in a replay: what its hard state says is decided and not durable yet
    /// (REGIONS §4).
    fn start_child(&mut self, peer: PeerId, first_leader: PeerId) -> Result<(), Violation> {
        let disk = &mut self.node_mut(peer).disk;
        disk.hard_state = HardState {
            term: 1,
            vote: Some(first_leader),
            commit: disk.log.base().index,
        };
        self.start(peer, true)?;
        self.node_mut(peer).disk.hard_state = HardState::default();
        if peer == first_leader {
            let answer = self.step(peer, raft::Event::Campaign(raft::CampaignReason::Named))?;
            debug_assert!(answer.is_ok(), "the named peer may lead");
        }
        self.settle(peer)
    }

    fn begin_faults(&mut self) {
        let (low, high) = self.settings.load;
        let delay = self.load_random.between(low, high);
        self.schedule.after(delay, Action::Load);
        for fault in [
            Fault::Crash,
            Fault::PowerLoss,
            Fault::Pause,
            Fault::Partition,
            Fault::Lag,
            Fault::OneWay,
        ] {
            if self.settings.faults.has(fault) {
                self.rearm(fault);
            }
        }
    }

    /// Lets one thing happen.
    ///
    /// # Errors
    /// The rule that broke.
    pub fn advance(&mut self) -> Result<(), Violation> {
        let Some(action) = self.schedule.next() else {
            return Err(Violation {
                rule: Rule::Healing,
                text: "nothing is left to happen".into(),
            });
        };
        let now = self.schedule.now();
        if let Some(peer) = action.node()
            && let Some(node) = self.nodes.get(slot(peer)).and_then(Option::as_ref)
            && node.paused_until > now
        {
            // What comes meanwhile waits, in its order, behind the resumption.
            let wait = node.paused_until - now + 1;
            self.schedule.after(wait, action);
            return Ok(());
        }
        self.events += 1;
        self.carry_out(action)
    }

    /// Ends all faults: everything runs and every message arrives (R37).
    ///
    /// # Errors
    /// The rule that broke.
    pub fn heal(&mut self) -> Result<(), Violation> {
        self.healing = true;
        self.network.heal();
        self.settings.faults = super::settings::Faults::default();
        self.settings.sync = (100, 1000);
        self.settings.apply = (100, 1000);
        let now = self.schedule.now();
        self.trace.note(now, [99, 0, 0, 0], || "faults end".into());
        for peer in self.peers() {
            let node = self.node_mut(peer);
            node.paused_until = node.paused_until.min(now);
            if matches!(node.status, Status::Down) {
                self.restart(peer)?;
            }
        }
        Ok(())
    }

    /// The time within which a healed world must have converged.
    pub fn healing_limit(&self) -> Time {
        let timeout = Time::from(self.settings.options.election_ticks) * TICK;
        // With windows of one entry, who is behind catches up at one entry per round trip and sync.
        let longest = self
            .nodes
            .iter()
            .flatten()
            .map(|node| node.log.last().index)
            .max()
            .unwrap_or(0);
        let catching_up = longest * (2 * self.settings.delay.1 + 3000);
        // A peer told to step down rests for 8T, and messages and syncs begun under faults still have to end.
        60 * timeout + 8 * self.settings.slow_delay.1 + catching_up
    }

    /// Whether the healed world has converged, and if not, why.
    ///
    /// # Errors
    /// What is missing.
    pub fn converged(&self) -> Result<(), String> {
        let leaders: Vec<&Node> = self
            .nodes
            .iter()
            .flatten()
            .filter(|node| node.leads() && node.log.membership().members.contains_key(&node.id))
            .collect();
        let [leader] = leaders.as_slice() else {
            return Err(format!("{} members lead", leaders.len()));
        };
        let raft = leader.raft().expect("a leader runs");
        if !self.acknowledged_since_healing {
            return Err("no write was acknowledged yet".into());
        }
        if leader
            .log
            .membership()
            .members
            .values()
            .any(|kind| matches!(kind, MemberKind::IncomingVoter | MemberKind::DemotingVoter))
        {
            return Err(format!(
                "the configuration is joint: {:?}",
                leader.log.membership()
            ));
        }
        let last = leader.log.last();
        if raft.committed() != last.index {
            return Err(format!("committed {} of {last:?}", raft.committed()));
        }
        for peer in leader.log.membership().members.keys() {
            let Some(member) = self.nodes[slot(*peer)].as_ref() else {
                return Err(format!("member {peer} does not exist yet"));
            };
            if member.raft().is_none() {
                return Err(format!("member {peer} does not run"));
            }
            if member.state.applied != last
                || member.state.chain != leader.state.chain
                || member.state != leader.state
            {
                return Err(format!(
                    "member {peer} applied {:?}, the leader's log ends at {last:?}",
                    member.state.applied
                ));
            }
        }
        Ok(())
    }

    /// What happened so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Events so far.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// Virtual time.
    pub fn now(&self) -> Time {
        self.schedule.now()
    }

    /// Hash of everything that happened.
    pub fn digest(&self) -> u64 {
        self.trace.digest()
    }

    /// The text of the trace, when it was asked for.
    pub fn into_trace(self) -> Vec<String> {
        self.trace.into_lines()
    }

    /// The settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    pub(super) fn peers(&self) -> Vec<PeerId> {
        self.nodes.iter().flatten().map(|node| node.id).collect()
    }

    pub(super) fn node(&self, peer: PeerId) -> &Node {
        self.nodes[slot(peer)]
            .as_ref()
            .expect("the peer was created")
    }

    pub(super) fn node_mut(&mut self, peer: PeerId) -> &mut Node {
        self.nodes[slot(peer)]
            .as_mut()
            .expect("the peer was created")
    }

    /// The node of `peer`, if it runs in this incarnation.
    pub(super) fn up(&mut self, peer: PeerId, incarnation: u32) -> Option<&mut Node> {
        self.nodes[slot(peer)]
            .as_mut()
            .filter(|node| node.incarnation == incarnation && node.raft().is_some())
    }

    /// Starts a node and its clock.
    pub(super) fn start(&mut self, peer: PeerId, first_term: bool) -> Result<(), Violation> {
        let seed = self.disk_random.next();
        let settings = &self.settings;
        let node = self.nodes[slot(peer)]
            .as_mut()
            .expect("the peer was created");
        node.start(settings, seed, first_term)
            .map_err(|error| Violation {
                rule: Rule::Durable,
                text: format!("peer {peer} does not start from what is durable: {error:?}"),
            })?;
        let incarnation = node.incarnation;
        let tick = settings.ticks[slot(peer) % settings.ticks.len()];
        let first = self.clock_random.between(1, tick);
        self.schedule.after(first, Action::Tick(peer, incarnation));
        Ok(())
    }

    /// Starts a node that crashed.
    pub(super) fn restart(&mut self, peer: PeerId) -> Result<(), Violation> {
        if !matches!(self.node(peer).status, Status::Down) {
            return Ok(());
        }
        if self.node(peer).disk.installing {
            self.counters.count(Happening::SnapshotResumed);
        }
        let disk = &self.node(peer).disk;
        if let Some(first_leader) = self.first_leader
            && disk.hard_state.term == 0
            && disk.log.base().term == 1
        {
            return self.start_child(peer, first_leader);
        }
        self.start(peer, false)?;
        let node = self.node(peer);
        let (log, applied) = (node.log.last(), node.state.applied.index);
        let term = node.disk.hard_state.term;
        self.trace.note(
            self.schedule.now(),
            [20, peer.0, log.index, applied],
            || format!("{peer} starts: term {term}, log {log:?}, applied {applied}"),
        );
        self.check_restored(peer)?;
        self.settle(peer)
    }
}
