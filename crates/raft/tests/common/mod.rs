//! A few peers, their disks, and the network between them, moved by hand.
//!
//! Nothing happens by itself: messages wait in `network` until delivered, writes in their peer's queue until persisted,
//! committed entries until applied. [`Cluster::settle`] does all of that until nothing moves. After every step the invariants of
//! every peer are checked, that no term has two leaders (R1), and that no two peers applied different entries (R5).

#![allow(dead_code, reason = "each test binary uses its own part")]

pub mod print;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use raft::{
    CampaignReason, Entry, Error, Event, HardState, Index, LogPosition, LogWrite, Membership,
    MembershipChange, Message, Options, Payload, PeerId, Raft, ReadId, Restored, Role, SupportId,
    Term, View, WriteId,
};

/// What survives a crash.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    pub hard_state: HardState,
    pub compacted: LogPosition,
    pub base: Membership,
    pub entries: Vec<Entry>,
    pub applied: Index,
    /// The state machine: every applied entry that carries something.
    pub data: Vec<(Index, String)>,
}

impl Disk {
    /// The configuration after the entries up to `index`.
    pub fn membership_at(&self, index: Index) -> Membership {
        let mut membership = self.base.clone();
        for entry in self.entries.iter().filter(|entry| entry.index <= index) {
            if let Payload::Membership { change, .. } = &entry.payload {
                membership = membership.after(change).expect("logged changes fit");
            }
        }
        membership
    }

    fn term_at(&self, index: Index) -> Term {
        if index == self.compacted.index {
            return self.compacted.term;
        }
        self.entries[(index - self.compacted.index - 1) as usize].term
    }

    fn write(&mut self, write: &LogWrite) {
        if let Some(state) = write.hard_state {
            self.hard_state = state;
        }
        if let Some(position) = write.install {
            self.compacted = position;
            self.entries.clear();
        }
        if let Some(from) = write.truncate_from {
            self.entries.retain(|entry| entry.index < from);
        }
        for entry in &write.entries {
            let last = self
                .entries
                .last()
                .map_or(self.compacted.index, |entry| entry.index);
            assert!(
                entry.index == last + 1,
                "entry {} is written after {last}",
                entry.index
            );
            self.entries.push(entry.clone());
        }
    }
}

/// A snapshot that a leader was asked to send.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub from: PeerId,
    pub to: PeerId,
    pub term: Term,
    pub position: LogPosition,
    pub membership: Membership,
    pub data: Vec<(Index, String)>,
}

pub struct Node {
    /// None while crashed.
    pub raft: Option<Raft>,
    pub disk: Disk,
    pub writes: VecDeque<LogWrite>,
    pub handed: VecDeque<Entry>,
    pub staged: Option<Snapshot>,
    pub view: View,
    pub reads: BTreeMap<u64, Option<Index>>,
    pub incarnation: u64,
    options: Arc<Options>,
}

#[derive(Default)]
pub struct Cluster {
    pub nodes: BTreeMap<u64, Node>,
    pub network: VecDeque<Message>,
    /// Messages taken aside, to come late or twice.
    pub aside: Vec<Message>,
    pub snapshots: VecDeque<Snapshot>,
    /// Links that lose everything.
    pub cut: BTreeSet<(u64, u64)>,
    /// The support that a receiver's store gives a sender's: (receiver, sender) to id.
    pub support: BTreeMap<(u64, u64), SupportId>,
    pub options: Options,
    pub trace: Vec<String>,
    /// Who led which term.
    leaders: BTreeMap<Term, PeerId>,
    /// What was applied at which index, by anybody.
    applied: BTreeMap<Index, Entry>,
}

pub fn peer(id: u64) -> PeerId {
    PeerId(id)
}

pub fn command(text: &str) -> Payload {
    Payload::Command(text.as_bytes().to_vec().into())
}

pub fn structural(text: &str) -> Payload {
    Payload::Structural(text.as_bytes().to_vec().into())
}

pub fn change(change: MembershipChange) -> Payload {
    Payload::Membership {
        change,
        context: Vec::new().into(),
    }
}

pub fn small_options() -> Options {
    Options {
        election_ticks: 10,
        heartbeat_ticks: 2,
        append_entries_max: 4,
        append_bytes_max: 1 << 16,
        inflight_messages_max: 4,
        inflight_bytes_max: 1 << 20,
        uncommitted_bytes_max: 1 << 12,
        cache_bytes_max: 1 << 12,
        ..Options::default()
    }
}

impl Cluster {
    /// Voters 1 to `voters`, with nothing in their logs.
    pub fn new(voters: u64) -> Self {
        Cluster::with_options(voters, small_options())
    }

    pub fn with_options(voters: u64, options: Options) -> Self {
        let mut cluster = Cluster {
            options,
            ..Cluster::default()
        };
        let base = Membership::of_voters((1..=voters).map(PeerId));
        for id in 1..=voters {
            cluster.add(
                id,
                Disk {
                    base: base.clone(),
                    ..Disk::default()
                },
            );
        }
        cluster
    }

    /// A cluster in which `leader` leads and everything is settled.
    pub fn led(voters: u64, leader: u64) -> Self {
        let mut cluster = Cluster::new(voters);
        cluster.elect(leader);
        cluster
    }

    /// Starts a peer from `disk`.
    pub fn add(&mut self, id: u64, disk: Disk) {
        let options = Arc::new(self.options.clone());
        let raft = restore(id, &disk, 0, &options, false);
        self.nodes.insert(
            id,
            Node {
                raft: Some(raft),
                disk,
                writes: VecDeque::new(),
                handed: VecDeque::new(),
                staged: None,
                view: View::default(),
                reads: BTreeMap::new(),
                incarnation: 0,
                options,
            },
        );
        self.pump_silently(id);
    }

    /// Starts a new child of a split, whose first leader is `vote` (REGIONS §4).
    pub fn add_child(&mut self, id: u64, voters: &[u64], vote: u64) {
        let base = LogPosition { term: 1, index: 1 };
        let disk = Disk {
            compacted: base,
            base: Membership::of_voters(voters.iter().copied().map(PeerId)),
            applied: 1,
            ..Disk::default()
        };
        self.add(
            id,
            Disk {
                compacted: LogPosition::default(),
                applied: 0,
                ..disk.clone()
            },
        );
        let node = self.nodes.get_mut(&id).expect("just added");
        node.disk = disk.clone();
        let mut fresh = disk;
        fresh.hard_state = HardState {
            term: 1,
            vote: Some(PeerId(vote)),
            commit: 1,
        };
        node.raft = Some(restore(id, &fresh, 0, &node.options, true));
        self.pump(id);
    }

    pub fn node(&self, id: u64) -> &Node {
        self.nodes
            .get(&id)
            .unwrap_or_else(|| panic!("no peer {id}"))
    }

    pub fn node_mut(&mut self, id: u64) -> &mut Node {
        self.nodes
            .get_mut(&id)
            .unwrap_or_else(|| panic!("no peer {id}"))
    }

    pub fn raft(&self, id: u64) -> &Raft {
        self.node(id)
            .raft
            .as_ref()
            .unwrap_or_else(|| panic!("peer {id} is down"))
    }

    pub fn is_up(&self, id: u64) -> bool {
        self.node(id).raft.is_some()
    }

    pub fn ids(&self) -> Vec<u64> {
        self.nodes.keys().copied().collect()
    }

    /// Steps one peer and gathers what it wants done.
    pub fn step(&mut self, id: u64, event: Event) -> Result<Option<LogPosition>, Error> {
        let result = self.step_only(id, event);
        self.pump(id);
        result
    }

    /// Steps one peer and leaves its effects inside, so that later steps share them.
    pub fn step_only(&mut self, id: u64, event: Event) -> Result<Option<LogPosition>, Error> {
        let raft = self
            .node_mut(id)
            .raft
            .as_mut()
            .unwrap_or_else(|| panic!("peer {id} is down"));
        let result = raft.step(event);
        raft.check_invariants();
        result
    }

    pub fn pump(&mut self, id: u64) {
        let lines = self.gather(id);
        self.trace.extend(lines);
    }

    fn pump_silently(&mut self, id: u64) {
        self.gather(id);
    }

    /// Takes the effects of a peer; returns how they print.
    fn gather(&mut self, id: u64) -> Vec<String> {
        let node = self
            .nodes
            .get_mut(&id)
            .unwrap_or_else(|| panic!("no peer {id}"));
        let Some(raft) = node.raft.as_mut() else {
            return Vec::new();
        };
        if !raft.has_effects() {
            return Vec::new();
        }
        let effects = raft.take_effects();
        raft.check_invariants();
        let lines = print::effects(id, &effects);
        if let Some(view) = effects.view {
            if view.role == Role::Leader {
                let before = *self.leaders.entry(view.term).or_insert(PeerId(id));
                assert!(
                    before == PeerId(id),
                    "peers {before} and {id} lead term {}",
                    view.term
                );
            }
            node.view = view;
        }
        self.network.extend(effects.messages);
        node.writes.extend(effects.write);
        node.handed.extend(effects.committed);
        for ready in effects.reads {
            node.reads.insert(ready.id.0, Some(ready.index));
        }
        for dropped in effects.reads_dropped {
            node.reads.insert(dropped.0, None);
        }
        let (disk, term) = (&node.disk, raft.term());
        for to in effects.snapshots {
            let index = disk.applied;
            self.snapshots.push_back(Snapshot {
                from: PeerId(id),
                to,
                term,
                position: LogPosition {
                    term: disk.term_at(index),
                    index,
                },
                membership: disk.membership_at(index),
                data: disk.data.clone(),
            });
        }
        let fetched: Vec<Event> = effects
            .fetches
            .into_iter()
            .map(|fetch| Event::Fetched {
                peer: fetch.peer,
                entries: disk
                    .entries
                    .iter()
                    .filter(|entry| fetch.range.contains(&entry.index))
                    .cloned()
                    .collect(),
            })
            .collect();
        let mut lines = lines;
        for event in fetched {
            let _ = self.step_only(id, event);
            lines.extend(self.gather(id));
        }
        lines
    }

    /// Makes the oldest `count` writes of a peer durable. Returns how many there were.
    pub fn persist(&mut self, id: u64, count: usize) -> usize {
        let node = self.node_mut(id);
        let count = count.min(node.writes.len());
        for _ in 0..count {
            let node = self.node_mut(id);
            let Some(write) = node.writes.pop_front() else {
                break;
            };
            node.disk.write(&write);
            if let (Some(position), Some(snapshot)) = (write.install, &node.staged) {
                assert!(position == snapshot.position, "another snapshot is staged");
                node.disk.base = snapshot.membership.clone();
                node.disk.applied = position.index;
                node.disk.data = snapshot.data.clone();
            }
            self.network.extend(write.after);
            self.written(id, write.id);
            if let Some(position) = write.install {
                self.node_mut(id).staged = None;
                self.node_mut(id).handed.clear();
                let _ = self.step(id, Event::SnapshotInstalled(position));
            }
        }
        count
    }

    pub fn written(&mut self, id: u64, write: WriteId) {
        let _ = self.step(id, Event::Written(write));
    }

    /// Applies the oldest `count` entries handed out. Returns how many there were.
    pub fn apply(&mut self, id: u64, count: usize) -> usize {
        let count = count.min(self.node(id).handed.len());
        for _ in 0..count {
            let Some(entry) = self.node_mut(id).handed.pop_front() else {
                break;
            };
            let first = self
                .applied
                .entry(entry.index)
                .or_insert_with(|| entry.clone());
            assert!(
                *first == entry,
                "peer {id} applies {entry:?} where another applied {first:?}"
            );
            let disk = &mut self.node_mut(id).disk;
            assert!(
                entry.index == disk.applied + 1,
                "peer {id} applies {} after {}",
                entry.index,
                disk.applied
            );
            disk.applied = entry.index;
            if let Some(text) = print::state_of(&entry.payload) {
                disk.data.push((entry.index, text));
            }
            let _ = self.step(id, Event::Applied(entry.index));
        }
        count
    }

    /// Delivers the messages that wait now, on links for which `wanted` holds. Returns how many arrived.
    pub fn deliver(&mut self, wanted: impl Fn(&Message) -> bool) -> usize {
        let (now, rest): (Vec<Message>, Vec<Message>) =
            self.network.drain(..).partition(|message| wanted(message));
        self.network.extend(rest);
        let mut count = 0;
        for message in now {
            count += usize::from(self.arrive(message));
        }
        count
    }

    /// One message arrives, unless its link is cut or the receiver is down.
    pub fn arrive(&mut self, mut message: Message) -> bool {
        let (from, to) = (message.from.0, message.to.0);
        let up = self.nodes.get(&to).is_some_and(|node| node.raft.is_some());
        if !up || self.cut.contains(&(from, to)) {
            return false;
        }
        message.support = self.support.get(&(to, from)).copied();
        let _ = self.step(to, Event::Message(message));
        true
    }

    pub fn deliver_snapshot(&mut self, snapshot: Snapshot) -> Result<(), Error> {
        let (from, to) = (snapshot.from.0, snapshot.to.0);
        let up = self.nodes.get(&to).is_some_and(|node| node.raft.is_some())
            && !self.cut.contains(&(from, to));
        let result = if up {
            let result = self.step_only(
                to,
                Event::InstallSnapshot {
                    from: snapshot.from,
                    term: snapshot.term,
                    position: snapshot.position,
                    membership: snapshot.membership.clone(),
                },
            );
            if result.is_ok() {
                self.node_mut(to).staged = Some(snapshot.clone());
            }
            self.pump(to);
            self.persist(to, usize::MAX);
            result.map(|_| ())
        } else {
            Err(Error::NotLeader { leader: None })
        };
        if self.is_up(from) {
            let delivered = result.is_ok().then_some(snapshot.position.index);
            let _ = self.step(
                from,
                Event::SnapshotEnded {
                    peer: snapshot.to,
                    delivered,
                },
            );
        }
        result
    }

    /// Persists, applies and delivers until nothing moves.
    pub fn settle(&mut self) {
        for _ in 0..10_000 {
            let mut moved = 0;
            for id in self.ids() {
                if self.is_up(id) {
                    self.pump(id);
                    moved += self.persist(id, usize::MAX);
                    moved += self.apply(id, usize::MAX);
                }
            }
            while let Some(snapshot) = self.snapshots.pop_front() {
                let _ = self.deliver_snapshot(snapshot);
                moved += 1;
            }
            moved += self.network.len();
            self.deliver(|_| true);
            if moved == 0 {
                return;
            }
        }
        panic!("the cluster does not settle");
    }

    /// Loses what is not durable. The state machine falls back to `applied`, if given.
    pub fn crash(&mut self, id: u64, applied: Option<Index>) {
        let node = self.node_mut(id);
        node.raft = None;
        node.writes.clear();
        node.handed.clear();
        node.staged = None;
        node.view = View::default();
        node.reads.clear();
        if let Some(applied) = applied {
            node.disk.applied = applied;
            node.disk.data.retain(|(index, _)| *index <= applied);
        }
    }

    pub fn restart(&mut self, id: u64) {
        let node = self.node_mut(id);
        node.incarnation += 1;
        node.raft = Some(restore(
            id,
            &node.disk,
            node.incarnation,
            &node.options,
            false,
        ));
        self.pump(id);
    }

    /// A peer crashes once the record of the snapshot it installs is on its disk, starts again, and finds the state gone.
    pub fn lose_install(&mut self, id: u64) {
        let (position, membership) = {
            let raft = self.raft(id);
            let position = raft.installing().expect("a snapshot is being installed");
            (position, raft.membership().clone())
        };
        let node = self.node_mut(id);
        for write in std::mem::take(&mut node.writes) {
            node.disk.write(&write);
        }
        assert!(
            node.disk.compacted == position,
            "the record of {position:?} is durable"
        );
        node.disk.base = membership;
        node.disk.applied = position.index;
        node.disk.data.clear();
        self.crash(id, None);
        let node = self.node_mut(id);
        node.incarnation += 1;
        let restored = restored(id, &node.disk, node.incarnation, false);
        let raft = Raft::installing_again(Arc::clone(&node.options), restored);
        node.raft = Some(raft.expect("a disk restores"));
        let _ = self.step(id, Event::SnapshotLost(position));
    }

    pub fn tick(&mut self, id: u64, ticks: u32) {
        for _ in 0..ticks {
            let _ = self.step(id, Event::Tick);
        }
    }

    /// Ticks everyone who is up, `ticks` times, settling in between.
    pub fn run(&mut self, ticks: u32) {
        for _ in 0..ticks {
            for id in self.ids() {
                if self.is_up(id) {
                    self.tick(id, 1);
                }
            }
            self.settle();
        }
    }

    pub fn elect(&mut self, id: u64) {
        self.step(id, Event::Campaign(CampaignReason::Paced))
            .expect("may campaign");
        self.settle();
        assert!(
            self.raft(id).role() == Role::Leader,
            "peer {id} was not elected"
        );
    }

    /// Lets everyone but leaders and `id` hear nothing for T, and `id` campaign.
    pub fn elect_after_silence(&mut self, id: u64) -> Result<(), Error> {
        for other in self.ids() {
            if other != id && self.is_up(other) && self.raft(other).role() != Role::Leader {
                self.tick(other, self.options.election_ticks);
            }
        }
        self.network.clear();
        self.step(id, Event::Campaign(CampaignReason::Paced))?;
        self.settle();
        Ok(())
    }

    pub fn propose(&mut self, id: u64, payload: Payload) -> Result<LogPosition, Error> {
        self.step(id, Event::Propose(payload))
            .map(|position| position.expect("proposals are answered with a position"))
    }

    pub fn read(&mut self, id: u64, read: u64) -> Result<(), Error> {
        self.step(id, Event::Read(ReadId(read))).map(|_| ())
    }

    /// Cuts every link of `id`, both ways.
    pub fn isolate(&mut self, id: u64) {
        for other in self.ids() {
            if other != id {
                self.cut.insert((id, other));
                self.cut.insert((other, id));
            }
        }
    }

    pub fn heal(&mut self) {
        self.cut.clear();
    }

    /// The leader with the highest term among those who are up.
    pub fn leader(&self) -> Option<u64> {
        self.nodes
            .iter()
            .filter_map(|(id, node)| Some((node.raft.as_ref()?, *id)))
            .filter(|(raft, _)| raft.role() == Role::Leader)
            .max_by_key(|(raft, _)| raft.term())
            .map(|(_, id)| id)
    }

    /// The term of the entry at `index` in the log of `id`.
    pub fn term_of(&self, id: u64, index: Index) -> Option<Term> {
        self.raft(id).term_at(index)
    }

    /// What the state machine of `id` holds.
    pub fn data(&self, id: u64) -> Vec<String> {
        self.node(id)
            .disk
            .data
            .iter()
            .map(|(_, text)| text.clone())
            .collect()
    }

    /// `giver`'s store supports `taker`'s store under `id`, or not.
    pub fn give_support(&mut self, giver: u64, taker: u64, id: Option<u64>) {
        let id = id.and_then(SupportId::new);
        let before = match id {
            Some(id) => self.support.insert((giver, taker), id),
            None => self.support.remove(&(giver, taker)),
        };
        if let Some(before) = before.filter(|before| Some(*before) != id) {
            let _ = self.step(giver, Event::SupportEnded(before));
        }
        if self.is_up(taker) {
            let held = Event::SupportHeld {
                peer: PeerId(giver),
                support: id,
            };
            let _ = self.step(taker, held);
        }
    }
}

fn restore(
    id: u64,
    disk: &Disk,
    incarnation: u64,
    options: &Arc<Options>,
    first_term: bool,
) -> Raft {
    let restored = restored(id, disk, incarnation, first_term);
    Raft::new(Arc::clone(options), restored).expect("a disk restores")
}

fn restored(id: u64, disk: &Disk, incarnation: u64, first_term: bool) -> Restored {
    Restored {
        id: PeerId(id),
        seed: id << 32 | incarnation,
        hard_state: disk.hard_state,
        compacted: disk.compacted,
        membership: disk.membership_at(disk.applied),
        applied: disk.applied,
        entries: disk.entries.clone(),
        first_term,
    }
}
