//! The state machine of the simulated group: a hash chain of everything applied, and a map of a few keys.

use std::sync::Arc;

use bytes::Bytes;
use raft::{Entry, LogPosition, Membership, Payload, PeerId};

use super::model::{Chain, chain_after, membership_after};
use crate::peers::PeerSet;

/// How many keys there are.
pub const KEYS: usize = 8;

/// A proposed write: sets `key` to its own number, which is unique.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Command {
    /// Its number; also the value it writes.
    pub number: u64,
    /// The key.
    pub key: usize,
}

impl Command {
    /// Its bytes, padded to `length`.
    pub fn encode(self, length: usize) -> Bytes {
        let mut bytes = Vec::with_capacity(length.max(9));
        bytes.extend_from_slice(&self.number.to_le_bytes());
        bytes.push(self.key as u8);
        bytes.resize(length.max(9), 0);
        bytes.into()
    }

    /// The command in `payload`, if it is one.
    pub fn decode(payload: &Payload) -> Option<Command> {
        let (Payload::Command(bytes) | Payload::Structural(bytes)) = payload else {
            return None;
        };
        let number = u64::from_le_bytes(
            bytes[..8]
                .try_into()
                .expect("commands have at least nine bytes"),
        );
        Some(Command {
            number,
            key: usize::from(bytes[8]) % KEYS,
        })
    }
}

/// What has been applied. A snapshot is a copy of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// The last applied entry.
    pub applied: LogPosition,
    /// Hash of everything applied.
    pub chain: Chain,
    /// The last write of each key, 0 before the first.
    pub keys: [u64; KEYS],
    /// The configuration applied last.
    pub membership: Arc<Membership>,
    /// Peers that were members and are not any more.
    pub removed: PeerSet,
}

impl State {
    /// The state at the base of a group's log.
    pub fn new(applied: LogPosition, chain: Chain, membership: Arc<Membership>) -> Self {
        State {
            applied,
            chain,
            keys: [0; KEYS],
            membership,
            removed: PeerSet::default(),
        }
    }

    /// Applies the next entry.
    pub fn apply(&mut self, entry: &Entry) {
        self.chain = chain_after(self.chain, entry);
        self.applied = entry.position();
        if let Some(command) = Command::decode(&entry.payload) {
            self.keys[command.key] = command.number;
        }
        if let Payload::Membership { change, .. } = &entry.payload {
            let next = membership_after(&self.membership, change);
            for peer in self
                .membership
                .members
                .keys()
                .filter(|peer| !next.members.contains_key(peer))
            {
                self.removed.insert(*peer);
            }
            for peer in next.members.keys() {
                self.removed.remove(*peer);
            }
            self.membership = Arc::new(next);
        }
    }

    /// Whether `peer` is a member.
    pub fn has(&self, peer: PeerId) -> bool {
        self.membership.members.contains_key(&peer)
    }
}
