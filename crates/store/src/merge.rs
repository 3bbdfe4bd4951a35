//! Merging a region into its neighbour (REGIONS §5).
//!
//! The source freezes in its own log and thaws only on a verdict. The target decides, in *its* log, by the entry that moves
//! its epoch away from `E_T`, the exact epoch that it had when the source froze: a commit of this merge commits, anything else
//! aborts. Both live on the same stores in the same engine, so absorbing is a change of metadata in one batch.
//!
//! What is remembered lies in the region states ([`MergeState`]); what follows from it may be done again and again.

mod freeze;
mod records;
mod source;
mod target;
mod verdict;

use std::collections::{BTreeSet, VecDeque};

use proto::metapb::{self, PeerRole};
use proto::pontoon::v1 as wire;
use proto::{RegionId, StoreId};
use raft::{Entry, Index, PeerId, Term};

use crate::peer::Peer;

pub use records::ORPHAN_REASON;
pub(crate) use target::absorbs;

/// What a region remembers of merges.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MergeState {
    /// Why it is frozen, while it is.
    pub freeze: Option<wire::Freeze>,
    /// Committed merges of which a peer may come back, each once.
    pub records: Vec<wire::MergeRecord>,
}

impl MergeState {
    /// The record of a merge.
    pub fn record(&self, merge: MergeKey) -> Option<&wire::MergeRecord> {
        self.records
            .iter()
            .find(|record| MergeKey::of_record(record) == merge)
    }

    /// Takes records over, each once.
    pub(crate) fn inherit(&mut self, records: impl IntoIterator<Item = wire::MergeRecord>) {
        for record in records {
            if self.record(MergeKey::of_record(&record)).is_none() {
                self.records.push(record);
            }
        }
    }
}

/// The name of a merge: the source, and the index at which it froze.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MergeKey {
    /// The source.
    pub source: RegionId,
    /// Index of its PrepareMerge.
    pub freeze_index: Index,
}

/// What a peer is about in merges. Nothing of it is needed after a restart.
#[derive(Debug, Default)]
pub(crate) struct Merging {
    /// PrepareMerge was proposed here and is not applied; the view is frozen already.
    pub freezing: bool,
    /// The term of that proposal. A leader of another one finds the freeze in its log, before it serves anything.
    pub freezing_term: Term,
    /// When this leader first found the region frozen.
    pub frozen_since: Option<u64>,
    /// When a frozen source goes on at the latest.
    pub source_due: u64,
    /// Whether the freeze was seen everywhere and the target was asked at once.
    pub hastened: bool,
    /// The merge of which another store says that it is aborted.
    pub aborted: Option<MergeKey>,
    /// Stores where the witness key lies now, as far as that was asked.
    pub witness_stores: Vec<StoreId>,
    /// Committed entries that wait: the first is a commit whose source is not ready.
    pub held: VecDeque<Entry>,
    /// Peers that the snapshot which Raft was just given replaces together with this one.
    pub replaces: Vec<wire::ReplacedPeer>,
    /// When the dead are asked after again.
    pub records_due: u64,
    /// Stores that said that their peer of a source is dead for good.
    pub deaths: BTreeSet<(MergeKey, StoreId)>,
}

impl Merging {
    /// Forgets what belonged to a freeze or a leadership that is over.
    pub fn forget_source(&mut self) {
        self.frozen_since = None;
        self.hastened = false;
        self.aborted = None;
        self.witness_stores.clear();
    }
}

impl MergeKey {
    pub(crate) fn to_wire(self) -> wire::MergeId {
        wire::MergeId {
            source_id: self.source.0,
            freeze_index: self.freeze_index,
        }
    }

    pub(crate) fn of_wire(merge: &wire::MergeId) -> MergeKey {
        MergeKey {
            source: RegionId(merge.source_id),
            freeze_index: merge.freeze_index,
        }
    }

    pub(crate) fn of_record(record: &wire::MergeRecord) -> MergeKey {
        MergeKey {
            source: RegionId(record.source.as_ref().map_or(0, |source| source.id)),
            freeze_index: record.freeze_index,
        }
    }
}

/// What is written as the state of a peer whose range another region takes over.
pub(crate) fn tombstone(peer: &Peer, absorber: RegionId) -> wire::RegionState {
    wire::RegionState {
        state: wire::region_state::State::Tombstone as i32,
        region: Some(peer.region.clone()),
        peer_id: peer.id.0,
        reason: "merged into its neighbour".to_owned(),
        absorber_id: absorber.0,
        ..Default::default()
    }
}

/// Whether two ranges touch and do not overlap.
pub(crate) fn are_neighbours(one: &metapb::Region, other: &metapb::Region) -> bool {
    let touch = |left: &metapb::Region, right: &metapb::Region| {
        !left.end_key.is_empty() && left.end_key == right.start_key
    };
    touch(one, other) || touch(other, one)
}

/// Whether two regions have peers on the same stores in the same roles, none of them joint.
pub(crate) fn same_stores(one: &metapb::Region, other: &metapb::Region) -> bool {
    let places = |region: &metapb::Region| {
        let mut places: Vec<(u64, PeerRole)> = region
            .peers
            .iter()
            .map(|peer| (peer.store_id, peer.role()))
            .collect();
        places.sort_unstable_by_key(|(store, role)| (*store, *role as i32));
        places
    };
    let joint = |(_, role): &(u64, PeerRole)| {
        matches!(role, PeerRole::IncomingVoter | PeerRole::DemotingVoter)
    };
    let (one, other) = (places(one), places(other));
    one == other && !one.iter().any(joint)
}

/// The peer of a region on a store.
pub(crate) fn peer_on(region: &metapb::Region, store: StoreId) -> Option<PeerId> {
    region
        .peers
        .iter()
        .find(|peer| peer.store_id == store.0)
        .map(|peer| PeerId(peer.id))
}

/// The descriptor of a target that took its neighbour in.
pub(crate) fn united(target: &metapb::Region, source: &metapb::Region) -> metapb::Region {
    let version = |region: &metapb::Region| {
        region
            .region_epoch
            .map_or(0, |epoch: metapb::RegionEpoch| epoch.version)
    };
    let mut epoch = target.region_epoch.unwrap_or_default();
    epoch.version = version(target).max(version(source)) + 1;
    let source_is_left = source.end_key == target.start_key && !source.end_key.is_empty();
    let (start_key, end_key) = if source_is_left {
        (source.start_key.clone(), target.end_key.clone())
    } else {
        (target.start_key.clone(), source.end_key.clone())
    };
    metapb::Region {
        start_key,
        end_key,
        region_epoch: Some(epoch),
        ..target.clone()
    }
}
