//! Steps that placement asks for, and why they are refused (REGIONS §3, §4, §6).

use bytes::Bytes;
use proto::pontoon::v1::step_refusal::Kind;
use proto::{RegionId, metapb};
use raft::{PeerId, Term};

/// The step of an operator that an order is. The default is none: an order that no operator gave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepId {
    /// The operator. Commands of orders carry it.
    pub operator: u64,
    /// The position of the step among its steps.
    pub position: u32,
}

/// What a step is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Purpose {
    /// That the cluster is even.
    #[default]
    Balance,
    /// That no replica is lost: one is, or its store is to be emptied.
    Repair,
}

/// A step asked for by placement.
#[derive(Clone, Debug)]
pub struct Order {
    /// The region.
    pub region: RegionId,
    /// The exact epoch it is meant for.
    pub epoch: metapb::RegionEpoch,
    /// Which step of which operator it is.
    pub id: StepId,
    /// What to do.
    pub kind: OrderKind,
    /// What for.
    pub purpose: Purpose,
}

/// The kinds of order.
#[derive(Clone, Debug)]
pub enum OrderKind {
    /// Split at these keys, children's ids from the pool.
    Split(Vec<Bytes>),
    /// Add a learner.
    AddLearner(metapb::Peer),
    /// Remove a learner.
    RemoveLearner(PeerId),
    /// Swap roles through a joint configuration.
    EnterJoint {
        /// Learners that become voters.
        promote: Vec<PeerId>,
        /// Voters that become learners.
        demote: Vec<PeerId>,
    },
    /// Hand leadership over.
    TransferLeader(PeerId),
    /// Freeze, to be taken in by this neighbour.
    Merge {
        /// The neighbour. It is led on the same store.
        target: RegionId,
    },
}

/// What became of an order at proposal. Afterwards the epoch of the region tells: a step that has no effect leaves it.
#[derive(Clone, Debug, PartialEq)]
pub struct OrderAnswer {
    /// The region.
    pub region: RegionId,
    /// The order.
    pub id: StepId,
    /// Applied epoch of the peer here; absent when there is none.
    pub epoch: Option<metapb::RegionEpoch>,
    /// Its term; 0 when there is none.
    pub term: Term,
    /// Whether it was taken up.
    pub result: Result<(), OrderRefusal>,
}

/// Half of a membership.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Half {
    /// The voters before the change.
    Outgoing,
    /// The voters after it.
    Incoming,
}

impl std::fmt::Display for Half {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Half::Outgoing => "before",
            Half::Incoming => "after",
        })
    }
}

/// Why an order was refused (REGIONS §3).
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[allow(missing_docs)]
pub enum OrderRefusal {
    #[error("not the leader")]
    NotLeader,
    #[error("the epoch moved")]
    EpochNotMatch,
    #[error("another structural command is not applied yet")]
    LaneBusy,
    #[error("the configuration is joint")]
    Joint,
    #[error("the region is frozen")]
    Frozen,
    #[error("the peer has not applied what it knows to be committed")]
    Behind,
    #[error("peer {peer} lags by {lag} entries")]
    NotCaughtUp { peer: PeerId, lag: u64 },
    #[error("too few live voters {half} the change")]
    TooFewLive { half: Half },
    #[error("the leader would leave: hand over first")]
    LeaderWouldLeave,
    #[error("the store has a peer of this region")]
    StoreHasPeer,
    #[error("peer id {0} is used")]
    PeerIdUsed(PeerId),
    #[error("leadership is being handed over")]
    Transferring,
    #[error("store {0} is draining")]
    StoreDraining(proto::StoreId),
    #[error("the id pool is empty")]
    NoIds,
    #[error("the request is invalid: {0}")]
    Invalid(&'static str),
}

impl OrderRefusal {
    /// Its name on the wire.
    pub fn kind(&self) -> Kind {
        match self {
            Self::NotLeader => Kind::NotLeader,
            Self::EpochNotMatch => Kind::EpochNotMatch,
            Self::LaneBusy => Kind::LaneBusy,
            Self::Joint => Kind::Joint,
            Self::Frozen => Kind::Frozen,
            Self::Behind => Kind::Behind,
            Self::NotCaughtUp { .. } => Kind::NotCaughtUp,
            Self::TooFewLive { .. } => Kind::TooFewLive,
            Self::LeaderWouldLeave => Kind::LeaderWouldLeave,
            Self::StoreHasPeer => Kind::StoreHasPeer,
            Self::PeerIdUsed(_) => Kind::PeerIdUsed,
            Self::Transferring => Kind::Transferring,
            Self::StoreDraining(_) => Kind::StoreDraining,
            Self::NoIds => Kind::NoIds,
            Self::Invalid(_) => Kind::Invalid,
        }
    }
}
