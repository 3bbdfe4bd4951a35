//! What peers compare to find out whether they hold the same (R12).
//!
//! Every peer keeps a running digest of what took effect: keys and values as they were written, outcomes that were decided at apply,
//! and every change of the region's own state. What has no effect is not in it, so a frozen region's stands still. It is written
//! with the applied index in one batch, and travels in snapshots. Its `since` is the applied index at which it began: that of the
//! last change of the range, since a split and a merge begin it anew in what they make. Two peers of a region that applied as much
//! and whose digests began at the same index have the same one.
//!
//! At fixed indices, and at a freeze, each peer remembers its digest. Followers tell their leader the newest, beside an answer that
//! goes there anyway; the leader compares those of equal index and beginning. A difference is told and has no other consequence:
//! which of two is wrong cannot be known, and serving less would bring nothing back.

use std::collections::VecDeque;

use engine::Engine;
use proto::pontoon::v1 as wire;
use proto::{RegionId, StoreId};
use raft::{Index, PeerId, Term};

use crate::context::Context;
use crate::event::{Difference, Divergence};
use crate::peer::Peer;
use crate::store::Store;

/// Checkpoints of its own that a peer remembers. A follower that lags by more is not compared until it has caught up.
const OWN_MAX: usize = 8;

/// A running digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest {
    /// Applied index at which it began.
    pub since: Index,
    /// What took effect since.
    pub value: u64,
}

/// Kinds of what takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// A key is set to what is stored there.
    Put = 1,
    /// A key is gone.
    Delete = 2,
    /// What lies between two keys is gone.
    DeleteRange = 3,
    /// A key is not what a compare-and-swap expects.
    NotSwapped = 4,
    /// The region's own state is another one.
    Region = 5,
}

impl Digest {
    /// One that begins after `since`.
    pub(crate) fn starting(since: Index) -> Digest {
        Digest { since, value: 0 }
    }

    /// What a record or message tells.
    pub(crate) fn of_wire(digest: wire::Digest) -> Option<Digest> {
        let wire::Digest { since, value } = digest;
        (since > 0).then_some(Digest { since, value })
    }

    pub(crate) fn to_wire(self) -> wire::Digest {
        let Digest { since, value } = self;
        wire::Digest { since, value }
    }

    /// Takes in what the entry at `index` did to these bytes. Checksums with lengths stand for them.
    pub(crate) fn note(&mut self, index: Index, effect: Effect, first: &[u8], second: &[u8]) {
        self.value = mix(self.value, index << 3 | effect as u64);
        self.value = mix_pair(self.value, first, second);
    }

    /// This one and another, if they can be compared and differ.
    pub(crate) fn differing(self, other: Digest) -> Option<(Digest, Digest)> {
        (self.since == other.since && self.value != other.value).then_some((self, other))
    }
}

/// Takes a word into a digest. One to one in both, so that a difference stays one.
pub(crate) fn mix(value: u64, word: u64) -> u64 {
    (value.rotate_left(29) ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

/// Takes a pair into a digest, for which checksums and lengths stand.
pub(crate) fn mix_pair(value: u64, first: &[u8], second: &[u8]) -> u64 {
    let checksum = |bytes| u64::from(crc32c::crc32c(bytes));
    let value = mix(value, checksum(first) | checksum(second) << 32);
    mix(value, first.len() as u64 | (second.len() as u64) << 32)
}

/// The digest of a peer when it had applied an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The entry.
    pub index: Index,
    /// The digest.
    pub digest: Digest,
}

/// What a peer knows of checkpoints.
#[derive(Debug, Default)]
pub(crate) struct Checkpoints {
    /// Its own, ascending.
    own: VecDeque<Checkpoint>,
    /// Term in which, and index up to which, it told a leader.
    said: (Term, Index),
    /// The newest that each member told.
    told: Vec<(PeerId, Checkpoint)>,
    /// Digests of members that were found to differ, by where they began: all that follows of them differs as well.
    differ: Vec<(PeerId, Index)>,
}

impl<E: Engine> Store<E> {
    /// A follower tells what it applied.
    pub(crate) fn on_digest(&mut self, from: StoreId, told: &wire::PeerDigest) {
        let Some(digest) = told.digest.and_then(Digest::of_wire) else {
            return;
        };
        let (other, index) = (PeerId(told.from_peer), told.index);
        let Some(peer) = self
            .peers
            .get_mut(&RegionId(told.region_id))
            .filter(|peer| peer.id.0 == told.to_peer && peer.is_leader())
        else {
            return;
        };
        let member = peer.member(other);
        if member.is_none_or(|member| member.store_id != from.0) {
            return;
        }
        let checkpoints = &mut peer.checkpoints;
        checkpoints.told.retain(|(id, _)| *id != other);
        checkpoints.told.push((other, Checkpoint { index, digest }));
        peer.compare(&mut self.cx);
    }
}

impl Peer {
    /// Takes over the checkpoints at which its applier came by.
    pub(crate) fn on_checkpoints<E: Engine>(&mut self, made: Vec<Checkpoint>, cx: &mut Context<E>) {
        if made.is_empty() {
            return;
        }
        let own = &mut self.checkpoints.own;
        own.extend(made);
        own.drain(..own.len().saturating_sub(OWN_MAX));
        self.compare(cx);
    }

    /// The newest checkpoint, unless the leader of this term was told.
    pub(crate) fn tell_checkpoint(&mut self) -> Option<Checkpoint> {
        let newest = *self.checkpoints.own.back()?;
        let saying = (self.term(), newest.index);
        let said = std::mem::replace(&mut self.checkpoints.said, saying);
        (said != saying).then_some(newest)
    }

    /// Holds what members told against its own, and tells of each difference once.
    fn compare<E: Engine>(&mut self, cx: &mut Context<E>) {
        if !self.is_leader() {
            return;
        }
        let members = &self.region.peers;
        let is_member = |id: PeerId| members.iter().any(|member| member.id == id.0);
        let Checkpoints {
            own, told, differ, ..
        } = &mut self.checkpoints;
        told.retain(|(other, _)| is_member(*other));
        differ.retain(|(other, _)| is_member(*other));
        for (other, theirs) in told {
            let same = own.iter().find(|ours| ours.index == theirs.index);
            let differing = same.and_then(|ours| ours.digest.differing(theirs.digest));
            let Some((ours, _)) = differing else {
                continue;
            };
            let known = (*other, ours.since);
            if differ.contains(&known) {
                continue;
            }
            differ.retain(|(id, _)| id != other);
            differ.push(known);
            cx.out.divergences.push(Divergence {
                region: RegionId(self.region.id),
                peer: self.id,
                other: Some(*other),
                index: theirs.index,
                difference: Difference::Applied {
                    ours,
                    theirs: theirs.digest,
                },
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Note = (Index, bool, Vec<u8>, Vec<u8>);

    fn note() -> impl Strategy<Value = Note> {
        let bytes = || proptest::collection::vec(any::<u8>(), 0..3);
        (1..4u64, any::<bool>(), bytes(), bytes())
    }

    fn digest(notes: &[Note]) -> Digest {
        let mut digest = Digest::starting(1);
        for (index, puts, first, second) in notes {
            let effect = if *puts { Effect::Put } else { Effect::Delete };
            digest.note(*index, effect, first, second);
        }
        digest
    }

    /// Bytes of one checksum and other lengths.
    #[test]
    fn lengths_count_as_well() {
        let empty = [0xab, 0x9b, 0xe0, 0x9b];
        assert_eq!(crc32c::crc32c(&empty), crc32c::crc32c(b""));
        let of = |first: &[u8], second: &[u8]| {
            let mut digest = Digest::starting(1);
            digest.note(2, Effect::Put, first, second);
            digest.value
        };
        assert_ne!(of(&empty, b"v"), of(b"", b"v"));
        assert_ne!(of(b"k", &empty), of(b"k", b""));
    }

    proptest! {
        /// Whatever differs: order, index, kind, where the key ends and the value begins.
        #[test]
        fn other_effects_have_another_digest(
            one in proptest::collection::vec(note(), 0..4),
            other in proptest::collection::vec(note(), 0..4),
        ) {
            prop_assert_eq!(digest(&one) == digest(&other), one == other);
        }

        #[test]
        fn a_digest_survives_the_wire(since in 1..u64::MAX, value in any::<u64>()) {
            let digest = Digest { since, value };
            prop_assert_eq!(Digest::of_wire(digest.to_wire()), Some(digest));
        }
    }
}
