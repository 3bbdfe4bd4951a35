//! Naive twins of what the core computes: configurations, quorums, and a log that knows the hash of every prefix.
//!
//! Nothing here calls the code under test, so that one mistake is not made twice.

use std::collections::VecDeque;
use std::sync::Arc;

use raft::{
    Entry, Index, LogPosition, MemberKind, Membership, MembershipChange, Payload, PeerId, Term,
};

use crate::peers::PeerSet;

/// The hash of a log prefix.
pub type Chain = u64;

/// The hash of nothing.
pub const CHAIN_START: Chain = 0x9E37_79B9_7F4A_7C15;

/// One round of a multiply-rotate hash; good enough to tell different logs apart, and cheap.
pub fn mix(hash: u64, word: u64) -> u64 {
    (hash ^ word)
        .wrapping_mul(0xFF51_AFD7_ED55_8CCD)
        .rotate_left(29)
        ^ word.rotate_left(7)
}

/// Adds bytes to a hash.
pub fn mix_bytes(mut hash: u64, bytes: &[u8]) -> u64 {
    let mut words = bytes.chunks_exact(8);
    for word in &mut words {
        hash = mix(
            hash,
            u64::from_le_bytes(word.try_into().expect("chunks of eight")),
        );
    }
    for byte in words.remainder() {
        hash = mix(hash, u64::from(*byte));
    }
    mix(hash, bytes.len() as u64)
}

/// The hash of the prefix that ends with `entry`.
pub fn chain_after(chain: Chain, entry: &Entry) -> Chain {
    let hash = mix(mix(chain, entry.term), entry.index);
    match &entry.payload {
        Payload::Noop => mix(hash, 1),
        Payload::Command(bytes) => mix_bytes(mix(hash, 2), bytes),
        Payload::Structural(bytes) => mix_bytes(mix(hash, 3), bytes),
        Payload::Membership { change, context } => {
            let hash = match change {
                MembershipChange::AddLearner(peer) => mix(mix(hash, 4), peer.0),
                MembershipChange::RemoveLearner(peer) => mix(mix(hash, 5), peer.0),
                MembershipChange::EnterJoint { promote, demote } => {
                    let hash = promote
                        .iter()
                        .fold(mix(hash, 6), |hash, peer| mix(hash, peer.0));
                    demote
                        .iter()
                        .fold(mix(hash, 7), |hash, peer| mix(hash, peer.0))
                }
                MembershipChange::LeaveJoint => mix(hash, 8),
            };
            mix_bytes(hash, context)
        }
    }
}

/// The configuration after `change`, by the letter of REGIONS §3. The core has refused what does not fit.
pub fn membership_after(membership: &Membership, change: &MembershipChange) -> Membership {
    let mut next = membership.clone();
    match change {
        MembershipChange::AddLearner(peer) => {
            next.members.insert(*peer, MemberKind::Learner);
        }
        MembershipChange::RemoveLearner(peer) => {
            next.members.remove(peer);
        }
        MembershipChange::EnterJoint { promote, demote } => {
            for peer in promote {
                next.members.insert(*peer, MemberKind::IncomingVoter);
            }
            for peer in demote {
                next.members.insert(*peer, MemberKind::DemotingVoter);
            }
        }
        MembershipChange::LeaveJoint => {
            for kind in next.members.values_mut() {
                if *kind == MemberKind::IncomingVoter {
                    *kind = MemberKind::Voter;
                } else if *kind == MemberKind::DemotingVoter {
                    *kind = MemberKind::Learner;
                }
            }
        }
    }
    next
}

/// The voters of the two halves; equal when the configuration is not joint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Halves {
    /// Who votes before the change.
    pub outgoing: PeerSet,
    /// Who votes after it.
    pub incoming: PeerSet,
}

impl Halves {
    /// Of this configuration.
    pub fn of(membership: &Membership) -> Self {
        let mut halves = Halves {
            outgoing: PeerSet::default(),
            incoming: PeerSet::default(),
        };
        for (peer, kind) in &membership.members {
            match kind {
                MemberKind::Voter => {
                    halves.outgoing.insert(*peer);
                    halves.incoming.insert(*peer);
                }
                MemberKind::IncomingVoter => halves.incoming.insert(*peer),
                MemberKind::DemotingVoter => halves.outgoing.insert(*peer),
                MemberKind::Learner => {}
            }
        }
        halves
    }

    /// Whether `peers` hold a majority of both halves (Raft §6).
    pub fn is_quorum(self, peers: PeerSet) -> bool {
        [self.outgoing, self.incoming]
            .into_iter()
            .all(|half| half.count_in(peers) * 2 > half.len())
    }

    /// Whether every quorum of `self` shares a peer with every quorum of `other`, by trying them all.
    pub fn quorums_intersect(self, other: Halves) -> bool {
        let everybody = self.outgoing.0 | self.incoming.0 | other.outgoing.0 | other.incoming.0;
        // Walks all subsets of `everybody`; the complement of one is the largest set that avoids it.
        let mut subset = everybody;
        loop {
            if self.is_quorum(PeerSet(subset)) && other.is_quorum(PeerSet(everybody & !subset)) {
                return false;
            }
            if subset == 0 {
                return true;
            }
            subset = (subset - 1) & everybody;
        }
    }
}

/// An entry and the hash of the prefix it ends.
#[derive(Clone, Debug)]
pub struct Record {
    /// The entry.
    pub entry: Entry,
    /// The hash up to and including it.
    pub chain: Chain,
}

/// A log above a base, with the configuration of every prefix.
#[derive(Clone, Debug)]
pub struct Log {
    base: LogPosition,
    base_chain: Chain,
    base_membership: Arc<Membership>,
    records: VecDeque<Record>,
    /// Configurations begun by entries of `records`, ascending.
    configurations: Vec<(Index, Arc<Membership>)>,
}

impl Log {
    /// An empty log after `base`.
    pub fn new(base: LogPosition, chain: Chain, membership: Arc<Membership>) -> Self {
        Log {
            base,
            base_chain: chain,
            base_membership: membership,
            records: VecDeque::new(),
            configurations: Vec::new(),
        }
    }

    /// The position before the first entry.
    pub fn base(&self) -> LogPosition {
        self.base
    }

    /// The end.
    pub fn last(&self) -> LogPosition {
        self.records
            .back()
            .map_or(self.base, |record| record.entry.position())
    }

    /// The record at `index`, if it is above the base.
    pub fn get(&self, index: Index) -> Option<&Record> {
        self.records
            .get(index.checked_sub(self.base.index + 1)? as usize)
    }

    /// The term at `index`, base included.
    pub fn term_at(&self, index: Index) -> Option<Term> {
        if index == self.base.index {
            return Some(self.base.term);
        }
        self.get(index).map(|record| record.entry.term)
    }

    /// The hash of the prefix up to `index`, base included.
    pub fn chain_at(&self, index: Index) -> Option<Chain> {
        if index == self.base.index {
            return Some(self.base_chain);
        }
        self.get(index).map(|record| record.chain)
    }

    /// The configuration in force after the entry at `index`.
    pub fn membership_at(&self, index: Index) -> &Arc<Membership> {
        self.configurations
            .iter()
            .rev()
            .find(|(begun, _)| *begun <= index)
            .map_or(&self.base_membership, |(_, membership)| membership)
    }

    /// The latest configuration.
    pub fn membership(&self) -> &Arc<Membership> {
        self.configurations
            .last()
            .map_or(&self.base_membership, |(_, membership)| membership)
    }

    /// The index of the last configuration entry above the base.
    pub fn last_change(&self) -> Option<Index> {
        self.configurations.last().map(|(index, _)| *index)
    }

    /// The entries above the base.
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        self.records.iter()
    }

    /// The configuration before the base's successor.
    pub fn base_membership(&self) -> &Arc<Membership> {
        &self.base_membership
    }

    /// Adds `entry`, which must follow the end, and tells the record made of it.
    pub fn push(&mut self, entry: Entry) -> &Record {
        debug_assert_eq!(
            entry.index,
            self.last().index + 1,
            "entries follow each other"
        );
        let chain = chain_after(
            self.records
                .back()
                .map_or(self.base_chain, |record| record.chain),
            &entry,
        );
        if let Payload::Membership { change, .. } = &entry.payload {
            let next = membership_after(self.membership(), change);
            self.configurations.push((entry.index, Arc::new(next)));
        }
        self.records.push_back(Record { entry, chain });
        self.records.back().expect("just pushed")
    }

    /// Removes everything from `index` on.
    pub fn truncate_from(&mut self, index: Index) {
        let keep = index.saturating_sub(self.base.index + 1) as usize;
        self.records.truncate(keep);
        while self
            .configurations
            .last()
            .is_some_and(|(begun, _)| *begun >= index)
        {
            self.configurations.pop();
        }
    }

    /// Forgets everything up to `index`, which the log holds.
    pub fn compact(&mut self, index: Index) {
        if index <= self.base.index {
            return;
        }
        let record = self.get(index).expect("compaction stays within the log");
        let (base, chain) = (record.entry.position(), record.chain);
        self.base_membership = self.membership_at(index).clone();
        self.configurations.retain(|(begun, _)| *begun > index);
        self.records.drain(..(index - self.base.index) as usize);
        self.base = base;
        self.base_chain = chain;
    }

    /// Puts a snapshot in the place of the prefix; what follows it and matches stays.
    pub fn install(&mut self, position: LogPosition, chain: Chain, membership: Arc<Membership>) {
        if self.term_at(position.index) == Some(position.term) {
            self.compact(position.index);
        } else {
            *self = Log::new(position, chain, membership);
        }
    }
}

/// Who may be spoken to: the members of all configurations that `log` knows to be committed (REGIONS §1).
pub fn contacts(log: &Log, committed: Index) -> PeerSet {
    let mut known: PeerSet = log.base_membership.members.keys().copied().collect();
    for (begun, membership) in &log.configurations {
        if *begun <= committed {
            known.0 |= membership.members.keys().copied().collect::<PeerSet>().0;
        }
    }
    known
}

/// The other end of a link, as an index into tables by peer.
pub fn slot(peer: PeerId) -> usize {
    peer.0 as usize
}
