//! Verifying that peers still store what they applied (R12, R13).
//!
//! A running digest ([`crate::digest`]) is of what peers did when they applied. What their disks hold by now is another matter:
//! a byte that rots, or a file that is put back, changes nothing that was done. So the data itself is digested from time to time,
//! and compared.
//!
//! A leader proposes an entry that changes nothing ([`leader`]). Where a peer applies it, its applier cuts its batch and takes a
//! view of the engine, which holds what every earlier entry did and nothing of a later one; so views of one entry are the same
//! on all peers, whatever else they do. Each store digests what is in the views of its peers in pieces in the background, one
//! region at a time and no faster than the settings allow ([`digester`]), and tells the leader. What differs is told as the
//! running digest's differences are; what cannot be read goes the way of all damage.
//!
//! What nobody may wait for for ever is bounded: views by how many regions a store digests, the leader's patience by time. Nothing
//! here is durable. A leader that loses its place forgets what it asked for, and so does everybody when its term is over.

mod digester;
mod leader;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use engine::{Engine, View};
use proto::pontoon::v1 as wire;
use proto::{RegionId, metapb};
use raft::{Index, LogPosition, PeerId};

use self::digester::{Job, Telling};
use self::leader::Running;
use crate::digest;
use crate::store::Store;

/// A view of the engine, held for as long as somebody reads it.
#[derive(Clone)]
pub struct HeldView(Arc<dyn View>);

impl HeldView {
    pub(crate) fn new(view: impl View) -> HeldView {
        HeldView(Arc::new(view))
    }

    /// The view.
    pub fn view(&self) -> &dyn View {
        &*self.0
    }
}

impl std::fmt::Debug for HeldView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HeldView")
    }
}

/// What a region holds, in one view.
#[derive(Clone, Debug)]
pub struct StoredData {
    /// The view.
    pub view: HeldView,
    /// The first key of the apply tier that is meant.
    pub start: Bytes,
    /// The exclusive end.
    pub end: Bytes,
}

/// An applier came by an entry that asks for a digest of what is stored.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The entry.
    pub position: LogPosition,
    /// What was stored then. `None` when the region was not any more what the entry was made for: that is so on all peers.
    pub data: Option<StoredData>,
}

/// A piece of what is to be digested.
#[derive(Clone, Debug)]
pub struct VerifyPart {
    /// The region.
    pub region: RegionId,
    /// The peer here.
    pub peer: PeerId,
    /// The entry as of which it is.
    pub index: Index,
    /// What is left.
    pub data: StoredData,
    /// Of what was before.
    pub sum: Sum,
    /// No more bytes than this, but one key at least.
    pub bytes_max: u64,
}

/// What a peer stores: of all keys and values of its range, as they are in the engine, in their order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sum {
    /// Keys.
    pub keys: u64,
    /// Bytes of keys and values.
    pub bytes: u64,
    /// Digest.
    pub value: u64,
}

impl Sum {
    /// Takes in what comes next.
    pub(crate) fn add(&mut self, key: &[u8], value: &[u8]) {
        self.keys += 1;
        self.bytes += (key.len() + value.len()) as u64;
        self.value = digest::mix_pair(self.value, key, value);
    }
}

/// What came of a peer's part in a verification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was read.
    Sum(Sum),
    /// Some of it could not be read, or its state says so since before: the peer is to be replaced (R13).
    Unreadable,
    /// Its store digests as many regions as it takes.
    Busy,
    /// Nothing was heard of it in time.
    Silent,
}

impl Outcome {
    /// What was read, if all was.
    pub fn sum(&self) -> Option<Sum> {
        match self {
            Outcome::Sum(sum) => Some(*sum),
            Outcome::Unreadable | Outcome::Busy | Outcome::Silent => None,
        }
    }

    /// A word for people and programs.
    pub fn name(&self) -> &'static str {
        match self {
            Outcome::Sum(_) => "read",
            Outcome::Unreadable => "unreadable",
            Outcome::Busy => "busy",
            Outcome::Silent => "silent",
        }
    }

    /// What a message tells; `None` when it tells nothing that a correct peer says.
    fn of_wire(outcome: &wire::peer_sum::Outcome) -> Option<Outcome> {
        use wire::peer_sum::Outcome as Told;
        match outcome {
            Told::Sum(wire::StoredSum { keys, bytes, value }) => Some(Outcome::Sum(Sum {
                keys: *keys,
                bytes: *bytes,
                value: *value,
            })),
            Told::None(none) => match wire::NoSum::try_from(*none).ok()? {
                wire::NoSum::Unreadable => Some(Outcome::Unreadable),
                wire::NoSum::StoreBusy => Some(Outcome::Busy),
            },
        }
    }

    /// The message that tells it; of silence there is none.
    fn to_wire(self) -> Option<wire::peer_sum::Outcome> {
        use wire::peer_sum::Outcome as Told;
        match self {
            Outcome::Sum(Sum { keys, bytes, value }) => {
                Some(Told::Sum(wire::StoredSum { keys, bytes, value }))
            }
            Outcome::Unreadable => Some(Told::None(wire::NoSum::Unreadable.into())),
            Outcome::Busy => Some(Told::None(wire::NoSum::StoreBusy.into())),
            Outcome::Silent => None,
        }
    }
}

/// A member's part in a verification.
#[derive(Clone, Debug, PartialEq)]
pub struct VerifiedMember {
    /// The member, with the store that it is on.
    pub peer: metapb::Peer,
    /// What came of it.
    pub outcome: Outcome,
    /// Whether it stores something else than most of those that were read, or than the leader where as many say so.
    pub differs: bool,
}

/// What came of a verification.
#[derive(Clone, Debug, PartialEq)]
pub struct Verification {
    /// The region, as it was.
    pub region: metapb::Region,
    /// The entry as of which everybody read.
    pub index: Index,
    /// All members.
    pub members: Vec<VerifiedMember>,
}

impl Verification {
    fn new(running: &Running) -> Verification {
        let outcome = |member: &metapb::Peer| running.outcome(PeerId(member.id));
        let members = &running.region.peers;
        let sums: Vec<Sum> = members
            .iter()
            .filter_map(|member| outcome(member).sum())
            .collect();
        let own = running.outcome(running.peer).sum();
        let most = sums.iter().max_by_key(|sum| {
            let alike = sums.iter().filter(|other| other == sum).count();
            (alike, Some(**sum) == own, **sum)
        });
        let verified = members.iter().map(|member| VerifiedMember {
            peer: *member,
            outcome: outcome(member),
            differs: outcome(member).sum().is_some_and(|sum| Some(&sum) != most),
        });
        Verification {
            index: running.position.index,
            members: verified.collect(),
            region: running.region.clone(),
        }
    }

    /// Whether every member was read, and all store the same.
    pub fn is_same(&self) -> bool {
        let same = |member: &VerifiedMember| member.outcome.sum().is_some() && !member.differs;
        self.members.iter().all(same)
    }
}

/// What a store has under way.
#[derive(Debug, Default)]
pub(crate) struct Verifier {
    /// What its peers are to read, the first of which is being read.
    jobs: VecDeque<Job>,
    /// When the next piece may be read.
    due_tick: u64,
    /// What its peers found and their leaders have not noted.
    telling: BTreeMap<RegionId, Telling>,
    /// What its leaders wait for.
    running: BTreeMap<RegionId, Running>,
    /// Who was found to store something else than the leader here, and told of.
    differ: BTreeSet<(RegionId, PeerId)>,
}

impl Verifier {
    /// Nothing of what was to be read of a region is wanted any more.
    pub fn forget(&mut self, region: RegionId) {
        self.jobs.retain(|job| job.region != region);
        self.telling.remove(&region);
    }
}

impl<E: Engine> Store<E> {
    /// Goes on with everything; `due` is a region whose turn it is.
    pub(crate) fn tick_verify(&mut self, due: Option<RegionId>) {
        self.tick_leaders();
        self.tick_telling();
        self.tick_jobs();
        if let Some(region) = due {
            self.verify_in_turn(region);
        }
    }
}
