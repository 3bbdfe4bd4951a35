//! A group as a value: nodes with their disks, the messages on their way, and what the checker remembers.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use raft::{
    Body, Entry, Event, HardState, LogPosition, LogWrite, MemberKind, Membership, Message, Options,
    PeerId, Raft, Restored, Role, Term,
};

/// Where every log begins: applied everywhere, so that nobody needs a snapshot.
pub const BASE: LogPosition = LogPosition { term: 1, index: 1 };

/// What a crash leaves.
#[derive(Clone, Debug, Hash)]
pub struct Disk {
    /// Durable hard state.
    pub hard_state: HardState,
    /// Durable entries above the base.
    pub entries: Vec<Entry>,
}

impl Disk {
    fn write(&mut self, write: &LogWrite) {
        if let Some(index) = write.truncate_from {
            self.entries.truncate((index - BASE.index - 1) as usize);
        }
        self.entries.extend(write.entries.iter().cloned());
        if let Some(state) = write.hard_state {
            self.hard_state = state;
        }
    }

    fn holds(&self, entry: &Entry) -> bool {
        self.entries.get((entry.index - BASE.index - 1) as usize) == Some(entry)
    }
}

/// A node that runs. A crash and the restart after it are one action.
#[derive(Clone, Debug)]
pub struct Node {
    /// The code under test.
    pub raft: Raft,
    /// What is durable.
    pub disk: Disk,
    /// Writes that are not, oldest first.
    pub queue: VecDeque<Arc<LogWrite>>,
}

/// A message and its hash, by which messages are ordered.
pub type Sent = (u64, Arc<Message>);

/// A state of the model.
#[derive(Clone, Debug)]
pub struct Group {
    /// By peer id, from 1.
    pub nodes: Vec<Arc<Node>>,
    /// Messages on their way; each once. One that is never delivered is lost, so loss needs no action of its own.
    pub network: Vec<Sent>,
    /// Crashes so far.
    pub crashes: u8,
    /// Messages delivered and kept so far.
    pub duplicates: u8,
    /// Commands proposed so far.
    pub proposals: u8,
    /// Membership changes proposed so far.
    pub changes: u8,
    /// Who led which term.
    pub leaders: BTreeMap<Term, PeerId>,
    /// The committed log above the base, with the term of the leader that first committed each entry.
    pub committed: Vec<(Entry, Term)>,
    /// What happened, for the properties that must be reachable.
    pub happened: u16,
    /// The rule that broke.
    pub violated: Option<&'static str>,
}

/// Bits of [`Group::happened`].
pub mod happened {
    /// A second term was led.
    pub const SECOND_LEADER: u16 = 1;
    /// Entries were overwritten.
    pub const OVERWRITTEN: u16 = 2;
    /// A crash lost a write.
    pub const LOST_WRITE: u16 = 4;
    /// An entry was committed under a joint configuration.
    pub const COMMITTED_JOINT: u16 = 8;
    /// A joint configuration was left and that is committed.
    pub const JOINT_LEFT: u16 = 16;
    /// An entry of an older term was committed by a later leader.
    pub const OLDER_COMMITTED: u16 = 32;
    /// A command was committed.
    pub const COMMAND_COMMITTED: u16 = 64;
}

impl Hash for Group {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        for node in &self.nodes {
            node.raft.project(hasher);
            node.disk.hash(hasher);
            for write in &node.queue {
                (
                    &write.hard_state,
                    write.truncate_from,
                    &write.entries,
                    &write.after,
                )
                    .hash(hasher);
            }
            0xFFu8.hash(hasher);
        }
        for (hash, _) in &self.network {
            hash.hash(hasher);
        }
        (self.crashes, self.duplicates, self.proposals, self.changes).hash(hasher);
        (&self.leaders, &self.committed, self.happened, self.violated).hash(hasher);
    }
}

impl PartialEq for Group {
    /// Equal when the hashes are, which is what the search itself goes by.
    fn eq(&self, other: &Self) -> bool {
        let hash = |group: &Group| {
            let mut hasher = DefaultHasher::new();
            group.hash(&mut hasher);
            hasher.finish()
        };
        hash(self) == hash(other)
    }
}

impl Group {
    /// A group of `voters` and `learners`, in which nothing happened.
    pub fn new(options: &Arc<Options>, voters: u64, learners: u64) -> Self {
        let mut membership = Membership::default();
        for peer in 1..=voters + learners {
            let kind = if peer <= voters {
                MemberKind::Voter
            } else {
                MemberKind::Learner
            };
            membership.members.insert(PeerId(peer), kind);
        }
        let hard_state = HardState {
            term: BASE.term,
            vote: None,
            commit: BASE.index,
        };
        let nodes = (1..=voters + learners)
            .map(|peer| {
                let disk = Disk {
                    hard_state,
                    entries: Vec::new(),
                };
                Arc::new(Node {
                    raft: start(options, PeerId(peer), &disk, &membership),
                    disk,
                    queue: VecDeque::new(),
                })
            })
            .collect();
        let mut group = Group {
            nodes,
            network: Vec::new(),
            crashes: 0,
            duplicates: 0,
            proposals: 0,
            changes: 0,
            leaders: BTreeMap::new(),
            committed: Vec::new(),
            happened: 0,
            violated: None,
        };
        for place in 0..group.nodes.len() {
            group.settle(place);
        }
        group
    }

    /// Marks a broken rule; the first one stays.
    pub fn violate(&mut self, rule: &'static str) {
        self.violated.get_or_insert(rule);
    }

    /// Feeds one event to the node at `place` and does what comes of it. Tells whether it was taken.
    pub fn step(&mut self, place: usize, event: Event) -> bool {
        let node = Arc::make_mut(&mut self.nodes[place]);
        let before = (node.raft.role(), node.raft.committed());
        let refused = node.raft.step(event).err();
        let taken = refused.is_none();
        if matches!(refused, Some(raft::Error::TwoLeaders { .. })) {
            self.violate("election safety");
        }
        self.watch(place, before.0, before.1);
        self.settle(place);
        taken
    }

    /// Makes the oldest write of a node durable.
    pub fn complete_write(&mut self, place: usize) {
        let node = Arc::make_mut(&mut self.nodes[place]);
        let Some(write) = node.queue.pop_front() else {
            return;
        };
        node.disk.write(&write);
        for message in &write.after {
            self.send(message.clone());
        }
        self.step(place, Event::Written(write.id));
    }

    /// Loses what is not durable and starts the node again.
    pub fn crash(&mut self, place: usize, options: &Arc<Options>, membership: &Membership) {
        let node = Arc::make_mut(&mut self.nodes[place]);
        if !node.queue.is_empty() {
            self.happened |= happened::LOST_WRITE;
        }
        node.queue.clear();
        node.raft = start(options, node.raft.id(), &node.disk, membership);
        self.settle(place);
    }

    /// Takes a pre-vote, or an answer to one, off the network.
    pub fn take_pre_vote(&mut self) -> Option<Arc<Message>> {
        let place = self.network.iter().position(|(_, message)| {
            matches!(
                message.body,
                Body::PreVoteRequest { .. } | Body::PreVoteResponse { .. }
            )
        })?;
        Some(self.network.remove(place).1)
    }

    fn send(&mut self, message: Message) {
        let mut hasher = DefaultHasher::new();
        message.hash(&mut hasher);
        let hash = hasher.finish();
        if let Err(place) = self
            .network
            .binary_search_by_key(&hash, |(known, _)| *known)
        {
            self.network.insert(place, (hash, Arc::new(message)));
        }
    }

    /// Carries out effects until there are none: messages leave, writes queue up, what is committed is applied at once.
    fn settle(&mut self, place: usize) {
        loop {
            let node = Arc::make_mut(&mut self.nodes[place]);
            let effects = node.raft.take_effects();
            let (role, committed) = (node.raft.role(), node.raft.committed());
            if let Some(write) = effects.write {
                if write.truncate_from.is_some() {
                    self.happened |= happened::OVERWRITTEN;
                }
                node.queue.push_back(Arc::new(write));
            }
            for message in effects.messages {
                self.send(message);
            }
            let Some(last) = effects.committed.last().map(|entry| entry.index) else {
                let node = Arc::make_mut(&mut self.nodes[place]);
                if !node.raft.has_effects() {
                    return;
                }
                continue;
            };
            for entry in &effects.committed {
                // State machine safety: what is applied here is what was committed.
                match self.committed.get((entry.index - BASE.index - 1) as usize) {
                    Some((first, _)) if first == entry => {}
                    Some(_) => self.violate("state machine safety"),
                    None => self.violate("applied before committed"),
                }
                if matches!(
                    entry.payload,
                    raft::Payload::Membership {
                        change: raft::MembershipChange::LeaveJoint,
                        ..
                    }
                ) {
                    self.happened |= happened::JOINT_LEFT;
                }
            }
            let node = Arc::make_mut(&mut self.nodes[place]);
            // A refusal cannot happen: applying is not refused.
            let _ = node.raft.step(Event::Applied(last));
            self.watch(place, role, committed);
        }
    }

    /// Looks at what a step did: a new leader, a moved commit index.
    fn watch(&mut self, place: usize, role: Role, committed: u64) {
        let node = Arc::clone(&self.nodes[place]);
        let raft = &node.raft;
        if raft.role() == Role::Leader && role != Role::Leader {
            self.on_leader(raft);
        }
        if raft.committed() > committed {
            self.on_commit(&node);
        }
    }

    fn on_leader(&mut self, raft: &Raft) {
        let term = raft.term();
        if self.leaders.insert(term, raft.id()).is_some() {
            self.violate("election safety");
        }
        if self.leaders.len() > 1 {
            self.happened |= happened::SECOND_LEADER;
        }
        let lacking = self.committed.iter().any(|(entry, in_term)| {
            *in_term < term && raft.term_at(entry.index) != Some(entry.term)
        });
        if lacking {
            self.violate("leader completeness");
        }
    }

    fn on_commit(&mut self, node: &Node) {
        let raft = &node.raft;
        let log: Vec<&Entry> = raft.cached_entries(BASE.index + 1).collect();
        let leads = raft.role() == Role::Leader;
        for index in BASE.index + 1..=raft.committed() {
            let place = (index - BASE.index - 1) as usize;
            let Some(entry) = log.get(place).copied() else {
                self.violate("committed beyond the log");
                return;
            };
            match self.committed.get(place) {
                Some((first, _)) if first == entry => {}
                Some(_) => self.violate("state machine safety"),
                None => {
                    self.committed.push((entry.clone(), raft.term()));
                    if entry.term < raft.term() && leads {
                        self.happened |= happened::OLDER_COMMITTED;
                    }
                    if matches!(entry.payload, raft::Payload::Command(_)) {
                        self.happened |= happened::COMMAND_COMMITTED;
                    }
                }
            }
        }
        if leads {
            if log
                .get((raft.committed() - BASE.index - 1) as usize)
                .is_some_and(|entry| entry.term != raft.term())
            {
                self.violate("commit rule");
            }
            if raft.membership().is_joint() {
                self.happened |= happened::COMMITTED_JOINT;
            }
            if !self.is_durable(
                log[(raft.committed() - BASE.index - 1) as usize],
                raft.membership(),
            ) {
                self.violate("commit durability");
            }
        }
    }

    /// Whether majorities of both halves hold `entry` on disk, counted the plain way.
    fn is_durable(&self, entry: &Entry, membership: &Membership) -> bool {
        let half = |without: MemberKind| {
            let voters: Vec<PeerId> = membership
                .members
                .iter()
                .filter(|(_, kind)| **kind != MemberKind::Learner && **kind != without)
                .map(|(peer, _)| *peer)
                .collect();
            let holding = voters
                .iter()
                .filter(|peer| self.nodes[peer.0 as usize - 1].disk.holds(entry))
                .count();
            holding * 2 > voters.len()
        };
        half(MemberKind::DemotingVoter) && half(MemberKind::IncomingVoter)
    }

    /// Log matching over all pairs of logs in memory (Raft §5.3).
    pub fn logs_match(&self) -> bool {
        let logs: Vec<Vec<&Entry>> = self
            .nodes
            .iter()
            .map(|node| node.raft.cached_entries(BASE.index + 1).collect())
            .collect();
        logs.iter().enumerate().all(|(place, one)| {
            logs[place + 1..].iter().all(|other| {
                let common = one
                    .iter()
                    .zip(other)
                    .rposition(|(left, right)| left.term == right.term);
                common.is_none_or(|last| one[..=last] == other[..=last])
            })
        })
    }
}

fn start(options: &Arc<Options>, id: PeerId, disk: &Disk, membership: &Membership) -> Raft {
    let restored = Restored {
        id,
        seed: 0,
        hard_state: disk.hard_state,
        compacted: BASE,
        membership: membership.clone(),
        applied: BASE.index,
        entries: disk.entries.clone(),
        first_term: false,
    };
    Raft::new(Arc::clone(options), restored).expect("a durable state is one to start from")
}
