//! Small sets of peers.

use raft::PeerId;

/// A set of peer ids below 64, as bits. Worlds have few peers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerSet(pub u64);

impl PeerSet {
    /// Adds `peer`.
    pub fn insert(&mut self, peer: PeerId) {
        self.0 |= Self::bit(peer);
    }

    /// Takes `peer` out.
    pub fn remove(&mut self, peer: PeerId) {
        self.0 &= !Self::bit(peer);
    }

    /// Whether `peer` is in it.
    pub fn contains(self, peer: PeerId) -> bool {
        self.0 & Self::bit(peer) != 0
    }

    /// How many of `self` are in `other`.
    pub fn count_in(self, other: PeerSet) -> u32 {
        (self.0 & other.0).count_ones()
    }

    /// How many.
    pub fn len(self) -> u32 {
        self.0.count_ones()
    }

    /// Whether nobody is in it.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    fn bit(peer: PeerId) -> u64 {
        assert!(peer.0 < 64, "peer ids of a world stay below 64, got {peer}");
        1 << peer.0
    }
}

impl FromIterator<PeerId> for PeerSet {
    fn from_iter<I: IntoIterator<Item = PeerId>>(peers: I) -> Self {
        let mut set = PeerSet::default();
        for peer in peers {
            set.insert(peer);
        }
        set
    }
}
