//! One node: a peer, its disk and state machine, and what a driver would know of them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use raft::{Entry, Index, PeerId, Raft, ReadId, Restored, Role, Term};

use super::disk::Disk;
use super::machine::State;
use super::model::Log;
use super::settings::Settings;
use crate::counters::Happening;
use crate::peers::PeerSet;
use crate::schedule::Time;

/// What a client waits for at this node.
#[derive(Clone, Copy, Debug)]
pub struct Pending {
    /// Term of the entry that was appended for it.
    pub term: Term,
    /// The number of the command.
    pub number: u64,
    /// Its key; structural and membership commands are not part of histories.
    pub key: Option<usize>,
}

/// A read that waits.
#[derive(Clone, Copy, Debug)]
pub struct PendingRead {
    /// The key it wants.
    pub key: usize,
    /// The highest index that anybody knew to be committed when it began (R24).
    pub floor: Index,
    /// The index of the newest write of the key that a client knew of when it began (R23).
    pub key_floor: Index,
    /// Where it may be served, once confirmed.
    pub index: Option<Index>,
    /// No effects were taken since it began, so no round can have been for it.
    pub fresh: bool,
    /// What confirmed it, to be counted when it is served.
    pub confirmed: Happening,
}

/// What checkers remember of the present incarnation.
#[derive(Clone, Debug)]
pub struct Watch {
    /// Ticks it lived.
    pub ticks: u64,
    /// Last tick at which each peer was heard in the present term, by peer.
    pub heard: [u64; 64],
    /// Tick since which the quorum check runs: beginning of leadership, or the last change of its configuration.
    pub quorum_since: u64,
    /// Who granted a pre-vote, by term. A late grant may be for a term that a crash took back.
    pub pre_votes: BTreeMap<Term, PeerSet>,
    /// Last commit index seen.
    pub committed: Index,
    /// Last index handed out for applying.
    pub handed: Index,
    /// Number of the last log write.
    pub write_id: u64,
    /// First index of the leader's own term, while it leads.
    pub term_start: Index,
    /// End of the log when effects were last taken, for the leader's append-only check.
    pub led_term: Option<Term>,
}

impl Watch {
    fn new(committed: Index, handed: Index) -> Self {
        Watch {
            ticks: 0,
            heard: [0; 64],
            quorum_since: 0,
            pre_votes: BTreeMap::new(),
            committed,
            handed,
            write_id: 0,
            term_start: 0,
            led_term: None,
        }
    }
}

/// Whether a node runs.
#[derive(Debug)]
pub enum Status {
    /// It runs.
    Up(Box<Raft>),
    /// It crashed.
    Down,
    /// Its peer was removed and destroyed; only its mark remains (REGIONS §2).
    Destroyed,
}

/// A node.
#[derive(Debug)]
pub struct Node {
    /// Its peer.
    pub id: PeerId,
    /// Whether it runs.
    pub status: Status,
    /// Counts starts.
    pub incarnation: u32,
    /// Its disk.
    pub disk: Disk,
    /// The log as written, synced or not.
    pub log: Log,
    /// The state machine in memory.
    pub state: State,
    /// Handed out and not applied.
    pub apply_queue: VecDeque<Entry>,
    /// Whether applying is on its way.
    pub applying: bool,
    /// Whether effects wait to be taken.
    pub dirty: bool,
    /// Nothing is processed before this time.
    pub paused_until: Time,
    /// Clients that wait for an entry, by index.
    pub pending: BTreeMap<Index, Pending>,
    /// Clients that wait for a read.
    pub reads: BTreeMap<ReadId, PendingRead>,
    /// Whom messages may be sent to.
    pub contacts: PeerSet,
    /// For the checkers.
    pub watch: Watch,
}

impl Node {
    /// A node that does not run yet, with this disk.
    pub fn new(id: PeerId, disk: Disk) -> Self {
        Node {
            id,
            status: Status::Down,
            incarnation: 0,
            log: disk.log.clone(),
            state: State::clone(&disk.flushed),
            disk,
            apply_queue: VecDeque::new(),
            applying: false,
            dirty: false,
            paused_until: 0,
            pending: BTreeMap::new(),
            reads: BTreeMap::new(),
            contacts: PeerSet::default(),
            watch: Watch::new(0, 0),
        }
    }

    /// The running peer.
    pub fn raft(&self) -> Option<&Raft> {
        match &self.status {
            Status::Up(raft) => Some(raft),
            Status::Down | Status::Destroyed => None,
        }
    }

    /// The running peer.
    pub fn raft_mut(&mut self) -> Option<&mut Raft> {
        match &mut self.status {
            Status::Up(raft) => Some(raft),
            Status::Down | Status::Destroyed => None,
        }
    }

    /// Whether it believes to lead.
    pub fn leads(&self) -> bool {
        self.raft().is_some_and(|raft| raft.role() == Role::Leader)
    }

    /// Starts the peer from what is durable.
    ///
    /// # Errors
    /// The core's, when it finds the durable state damaged.
    pub fn start(
        &mut self,
        settings: &Settings,
        seed: u64,
        first_term: bool,
    ) -> Result<(), raft::Error> {
        if self.disk.installing {
            let staged = self
                .disk
                .staged
                .take()
                .expect("an install keeps its staged files");
            self.disk.flushed = staged.state;
            self.disk.installing = false;
        }
        let state = Arc::clone(&self.disk.flushed);
        let raft = Raft::new(
            settings.options.clone(),
            Restored {
                id: self.id,
                seed,
                hard_state: self.disk.hard_state,
                compacted: self.disk.log.base(),
                membership: raft::Membership::clone(&state.membership),
                applied: state.applied.index,
                entries: self
                    .disk
                    .log
                    .records()
                    .map(|record| record.entry.clone())
                    .collect(),
                first_term,
            },
        )?;
        self.incarnation += 1;
        self.log = self.disk.log.clone();
        self.watch = Watch::new(raft.committed(), raft.applied());
        self.state = State::clone(&state);
        self.apply_queue.clear();
        self.applying = false;
        self.dirty = false;
        self.pending.clear();
        self.reads.clear();
        self.contacts = super::model::contacts(&self.log, raft.committed());
        self.status = Status::Up(Box::new(raft));
        Ok(())
    }
}
