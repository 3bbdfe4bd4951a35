//! An operator: a named list of steps on one region (REGIONS §9).
//!
//! A step is an order bound to an exact epoch, and an effect that must show in a report of the region's leader. What a
//! report means for a step is the pure function [`judge`]; it is all that moves an operator forward, so repeated, lost
//! and late orders do no harm, and a new placement leader goes on from the record and the next report.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use proto::pontoon::v1 as wire;
use proto::{RegionId, StoreId, metapb};

use crate::dial::Purpose;
use crate::event::{Now, OrderKind};
use crate::regions::{RegionInfo, Regions};
use crate::stores::Stores;
pub use merge::Merge;

mod merge;

/// Keys of one split command at the most (REGIONS §4).
pub const SPLIT_KEYS_MAX: usize = 9;

/// The epoch of a region.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Epoch {
    /// Moves on membership change.
    pub conf_ver: u64,
    /// Moves on split and merge.
    pub version: u64,
}

impl Epoch {
    /// From the wire; absent is zero, which no region has.
    pub fn from_wire(epoch: Option<&metapb::RegionEpoch>) -> Self {
        epoch.map_or(Self::default(), |epoch| Self {
            conf_ver: epoch.conf_ver,
            version: epoch.version,
        })
    }

    /// To the wire.
    pub fn to_wire(self) -> metapb::RegionEpoch {
        metapb::RegionEpoch {
            conf_ver: self.conf_ver,
            version: self.version,
        }
    }

    /// Whether it comes before another epoch *of the same region*: those are totally ordered, so a step back in either
    /// part is a step back.
    pub fn is_older(self, than: Self) -> bool {
        self.conf_ver < than.conf_ver || self.version < than.version
    }

    /// The epoch after so many membership entries.
    fn after_membership(self, entries: u64) -> Self {
        Self {
            conf_ver: self.conf_ver.saturating_add(entries),
            ..self
        }
    }

    /// The epoch after a split, a freeze or a thaw.
    fn after_version(self) -> Self {
        Self {
            version: self.version.saturating_add(1),
            ..self
        }
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.conf_ver, self.version)
    }
}

/// What an operator is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// One more peer.
    AddReplica,
    /// A learner that nobody wants goes.
    RemoveLearner,
    /// A voter goes from one store to another.
    MoveReplica,
    /// Another voter leads.
    TransferLeader,
    /// A voter becomes a learner.
    Demote,
    /// Its group goes apart.
    Scatter,
    /// More regions.
    Split,
    /// Fewer regions.
    Merge,
}

impl Kind {
    /// The name people read.
    pub fn name(self) -> &'static str {
        match self {
            Self::AddReplica => "add-replica",
            Self::RemoveLearner => "remove-learner",
            Self::MoveReplica => "move-replica",
            Self::TransferLeader => "transfer-leader",
            Self::Demote => "demote",
            Self::Scatter => "scatter",
            Self::Split => "split",
            Self::Merge => "merge",
        }
    }
}

/// Who wins when two operators want one region: the later one, if higher and if the earlier is between steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// Small neighbours become one.
    Merge,
    /// Even use of space, even leadership.
    Balance,
    /// Even load.
    Hot,
    /// A store that is to be emptied.
    Drain,
    /// A rule of the cluster, such as keyspace edges.
    Rule,
    /// Missing, extra or lost peers.
    Repair,
    /// An administrator.
    Admin,
}

impl Priority {
    /// The name people read.
    pub fn name(self) -> &'static str {
        match self {
            Self::Merge => "merge",
            Self::Balance => "balance",
            Self::Hot => "hot",
            Self::Drain => "drain",
            Self::Rule => "rule",
            Self::Repair => "repair",
            Self::Admin => "admin",
        }
    }

    /// Which share of the dial it goes by.
    pub(crate) fn purpose(self) -> Purpose {
        match self {
            Self::Merge | Self::Balance | Self::Hot => Purpose::Balance,
            Self::Drain | Self::Rule | Self::Repair | Self::Admin => Purpose::Repair,
        }
    }
}

/// Where an operator stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Under way.
    Running,
    /// Every step showed its effect.
    Done,
    /// Given up; the reason says why.
    Cancelled,
}

/// One step.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Add this learner.
    AddLearner(metapb::Peer),
    /// Wait until this learner is caught up. Sends nothing.
    CatchUp(metapb::Peer),
    /// Change roles through a joint configuration, which the region's leader leaves by itself.
    Swap {
        /// Learners that become voters.
        promote: Vec<metapb::Peer>,
        /// Voters that become learners.
        demote: Vec<metapb::Peer>,
    },
    /// Remove this learner.
    RemoveLearner(metapb::Peer),
    /// Make this voter the leader.
    TransferLeader(metapb::Peer),
    /// Split at these keys; the region keeps what lies left of the first.
    Split(Vec<Bytes>),
    /// Be taken in by a neighbour. Always the last.
    Merge(Merge),
}

impl Step {
    /// Stores that must be alive for it to come about.
    pub fn needs(&self) -> Vec<StoreId> {
        let one = |peer: &metapb::Peer| vec![StoreId(peer.store_id)];
        match self {
            Self::AddLearner(peer) | Self::CatchUp(peer) | Self::TransferLeader(peer) => one(peer),
            Self::Swap { promote, .. } => {
                promote.iter().map(|peer| StoreId(peer.store_id)).collect()
            }
            Self::RemoveLearner(_) | Self::Split(_) | Self::Merge(_) => Vec::new(),
        }
    }

    /// Stores that it loads, for limits.
    pub fn touches(&self) -> Vec<StoreId> {
        match self {
            Self::RemoveLearner(peer) => vec![StoreId(peer.store_id)],
            other => other.needs(),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |peers: &[metapb::Peer]| {
            peers
                .iter()
                .map(|peer| format!("{}@{}", peer.id, peer.store_id))
                .collect::<Vec<_>>()
                .join(", ")
        };
        match self {
            Self::AddLearner(peer) => write!(f, "add learner {}@{}", peer.id, peer.store_id),
            Self::CatchUp(peer) => write!(
                f,
                "wait for learner {}@{} to catch up",
                peer.id, peer.store_id
            ),
            Self::Swap { promote, demote } => {
                f.write_str("joint change:")?;
                if !promote.is_empty() {
                    write!(f, " promote {}", list(promote))?;
                }
                if !demote.is_empty() {
                    write!(f, " demote {}", list(demote))?;
                }
                Ok(())
            }
            Self::RemoveLearner(peer) => write!(f, "remove learner {}@{}", peer.id, peer.store_id),
            Self::TransferLeader(peer) => {
                write!(f, "transfer leader to {}@{}", peer.id, peer.store_id)
            }
            Self::Split(keys) => write!(f, "split into {}", keys.len() + 1),
            Self::Merge(merge) => write!(f, "merge into region {}", merge.target.id),
        }
    }
}

/// The durable record of an operator.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Operator {
    pub id: u64,
    pub kind: Kind,
    pub priority: Priority,
    pub state: State,
    pub region: RegionId,
    pub start_epoch: Epoch,
    /// Expected by the current step.
    pub epoch: Epoch,
    /// Never empty.
    pub steps: Vec<Step>,
    /// `step <= steps.len()`, equal when done.
    pub step: usize,
    pub cause: String,
    pub reason: String,
    pub created_at_ms: u64,
    pub finished_at_ms: u64,
}

/// An operator as people see it.
#[derive(Clone, Debug, PartialEq)]
pub struct OperatorView {
    /// Its identity.
    pub id: u64,
    /// What it is for.
    pub kind: Kind,
    /// Where it stands.
    pub state: State,
    /// Its region.
    pub region: RegionId,
    /// The neighbour that is to take the region in.
    pub target: Option<RegionId>,
    /// Its steps, as text.
    pub steps: Vec<String>,
    /// The current one; the number of steps when done.
    pub step: usize,
    /// Why it was made.
    pub cause: String,
    /// Why it was cancelled.
    pub reason: String,
    /// Milliseconds since it was made.
    pub age_ms: u64,
}

impl Operator {
    /// The current step.
    ///
    /// # Panics
    /// When it is done.
    pub fn current(&self) -> &Step {
        &self.steps[self.step]
    }

    /// What is left of the rest of its region, which began with it. The clock of the leader that made it may have been another
    /// one: it is at most a whole rest.
    pub fn rests(&self, now: Now, rest: Duration) -> Duration {
        let passed = now.wall_ms.saturating_sub(self.created_at_ms);
        rest.saturating_sub(Duration::from_millis(passed))
    }

    /// The region that takes its own in, which it holds as well.
    pub fn target(&self) -> Option<&Merge> {
        match self.steps.last() {
            Some(Step::Merge(merge)) => Some(merge),
            _ => None,
        }
    }

    /// The regions that it holds.
    pub fn regions(&self) -> impl Iterator<Item = RegionId> + use<> {
        [Some(self.region), self.target().map(Merge::target_id)]
            .into_iter()
            .flatten()
    }

    /// The members of its region once it has ended, as far as is known now: the steps that are left are done, up to the first
    /// that is `given_up`.
    pub fn outcome(&self, region: &RegionInfo, given_up: impl Fn(&Step) -> bool) -> RegionInfo {
        use metapb::PeerRole::{Learner, Voter};
        let mut after = region.clone();
        let peers = &mut after.region.peers;
        for step in self.steps[self.step..].iter() {
            if given_up(step) {
                break;
            }
            match step {
                Step::AddLearner(new) => {
                    if peers.iter().all(|peer| peer.store_id != new.store_id) {
                        peers.push(*new);
                    }
                }
                Step::Swap { promote, demote } => {
                    for peer in &mut *peers {
                        let among = |changed: &[metapb::Peer]| {
                            changed.iter().any(|changed| changed.id == peer.id)
                        };
                        if among(promote) {
                            peer.set_role(Voter);
                        } else if among(demote) {
                            peer.set_role(Learner);
                        }
                    }
                }
                Step::RemoveLearner(old) => peers.retain(|peer| peer.id != old.id),
                // Whether a neighbour takes the region in is decided by the two; its peers are where they are until then.
                Step::CatchUp(_) | Step::TransferLeader(_) | Step::Split(_) | Step::Merge(_) => {}
            }
        }
        after
    }

    /// From which store to which it goes, as far as its steps tell.
    pub fn stores(&self) -> (Option<StoreId>, Option<StoreId>) {
        let (mut from, mut to) = (None, None);
        for step in &self.steps {
            match step {
                Step::AddLearner(peer) | Step::CatchUp(peer) => to = Some(peer),
                Step::TransferLeader(peer) => to = to.or(Some(peer)),
                Step::RemoveLearner(peer) => from = Some(peer),
                Step::Swap { promote, .. } => to = to.or(promote.first()),
                Step::Split(_) | Step::Merge(_) => {}
            }
        }
        let store = |peer: &metapb::Peer| StoreId(peer.store_id);
        (from.map(store), to.map(store))
    }

    pub fn view(&self, wall_ms: u64) -> OperatorView {
        OperatorView {
            id: self.id,
            kind: self.kind,
            state: self.state,
            region: self.region,
            target: self.target().map(Merge::target_id),
            steps: self.steps.iter().map(Step::to_string).collect(),
            step: self.step,
            cause: self.cause.clone(),
            reason: self.reason.clone(),
            age_ms: wall_ms.saturating_sub(self.created_at_ms),
        }
    }

    pub fn to_wire(&self) -> wire::PlacementOperator {
        use wire::placement_operator as part;
        let kind = match self.kind {
            Kind::AddReplica => part::Kind::AddReplica,
            Kind::RemoveLearner => part::Kind::RemoveLearner,
            Kind::MoveReplica => part::Kind::MoveReplica,
            Kind::TransferLeader => part::Kind::TransferLeader,
            Kind::Demote => part::Kind::Demote,
            Kind::Scatter => part::Kind::Scatter,
            Kind::Split => part::Kind::Split,
            Kind::Merge => part::Kind::MergeRegions,
        };
        let priority = match self.priority {
            Priority::Merge => part::Priority::Merge,
            Priority::Balance => part::Priority::Balance,
            Priority::Hot => part::Priority::Hot,
            Priority::Drain => part::Priority::Drain,
            Priority::Rule => part::Priority::Rule,
            Priority::Repair => part::Priority::Repair,
            Priority::Admin => part::Priority::Admin,
        };
        let state = match self.state {
            State::Running => part::State::Running,
            State::Done => part::State::Done,
            State::Cancelled => part::State::Cancelled,
        };
        wire::PlacementOperator {
            id: self.id,
            kind: kind.into(),
            priority: priority.into(),
            state: state.into(),
            region_id: self.region.0,
            start_epoch: Some(self.start_epoch.to_wire()),
            epoch: Some(self.epoch.to_wire()),
            steps: self.steps.iter().map(step_to_wire).collect(),
            step: self.step as u32,
            cause: self.cause.clone(),
            reason: self.reason.clone(),
            created_at_ms: self.created_at_ms,
            finished_at_ms: self.finished_at_ms,
        }
    }

    pub fn from_wire(record: wire::PlacementOperator) -> Result<Self, &'static str> {
        use wire::placement_operator as part;
        let kind =
            match part::Kind::try_from(record.kind).map_err(|_| "unknown kind of operator")? {
                part::Kind::AddReplica => Kind::AddReplica,
                part::Kind::RemoveLearner => Kind::RemoveLearner,
                part::Kind::MoveReplica => Kind::MoveReplica,
                part::Kind::TransferLeader => Kind::TransferLeader,
                part::Kind::Demote => Kind::Demote,
                part::Kind::Scatter => Kind::Scatter,
                part::Kind::Split => Kind::Split,
                part::Kind::MergeRegions => Kind::Merge,
            };
        let priority =
            match part::Priority::try_from(record.priority).map_err(|_| "unknown priority")? {
                part::Priority::Merge => Priority::Merge,
                part::Priority::Balance => Priority::Balance,
                part::Priority::Hot => Priority::Hot,
                part::Priority::Drain => Priority::Drain,
                part::Priority::Rule => Priority::Rule,
                part::Priority::Repair => Priority::Repair,
                part::Priority::Admin => Priority::Admin,
            };
        let state =
            match part::State::try_from(record.state).map_err(|_| "unknown state of operator")? {
                part::State::Running => State::Running,
                part::State::Done => State::Done,
                part::State::Cancelled => State::Cancelled,
            };
        let steps = record
            .steps
            .into_iter()
            .map(step_from_wire)
            .collect::<Option<Vec<_>>>();
        let steps = steps.ok_or("a step of an unknown kind")?;
        let step = record.step as usize;
        if steps.is_empty() || step > steps.len() || (step == steps.len()) != (state == State::Done)
        {
            return Err("the current step is not one of its steps");
        }
        Ok(Self {
            id: record.id,
            kind,
            priority,
            state,
            region: RegionId::from_wire(record.region_id).ok_or("it has no region")?,
            start_epoch: Epoch::from_wire(record.start_epoch.as_ref()),
            epoch: Epoch::from_wire(record.epoch.as_ref()),
            steps,
            step,
            cause: record.cause,
            reason: record.reason,
            created_at_ms: record.created_at_ms,
            finished_at_ms: record.finished_at_ms,
        })
    }
}

fn step_to_wire(step: &Step) -> wire::PlacementStep {
    use wire::placement_step::Kind;
    let kind = match step.clone() {
        Step::AddLearner(peer) => Kind::AddLearner(peer),
        Step::CatchUp(peer) => Kind::CatchUp(peer),
        Step::Swap { promote, demote } => Kind::Swap(wire::PlacementSwap { promote, demote }),
        Step::RemoveLearner(peer) => Kind::RemoveLearner(peer),
        Step::TransferLeader(peer) => Kind::TransferLeader(peer),
        Step::Split(keys) => Kind::Split(wire::PlacementKeys { keys }),
        Step::Merge(merge) => Kind::Merge(wire::PlacementMerge {
            target: Some(merge.target),
            start_key: merge.range.0,
            end_key: merge.range.1,
        }),
    };
    wire::PlacementStep { kind: Some(kind) }
}

fn step_from_wire(step: wire::PlacementStep) -> Option<Step> {
    use wire::placement_step::Kind;
    Some(match step.kind? {
        Kind::AddLearner(peer) => Step::AddLearner(peer),
        Kind::CatchUp(peer) => Step::CatchUp(peer),
        Kind::Swap(swap) => Step::Swap {
            promote: swap.promote,
            demote: swap.demote,
        },
        Kind::RemoveLearner(peer) => Step::RemoveLearner(peer),
        Kind::TransferLeader(peer) => Step::TransferLeader(peer),
        Kind::Split(split) if !split.keys.is_empty() => Step::Split(split.keys),
        Kind::Split(_) => return None,
        Kind::Merge(merge) => Step::Merge(Merge {
            target: merge.target?,
            range: (merge.start_key, merge.end_key),
        }),
    })
}

/// What a report means for a step.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Progress {
    /// Its effect does not show: send this, bound to the expected epoch.
    Send(OrderKind),
    /// It is under way, or waits for something that the region does by itself.
    Wait,
    /// Its effect shows; the next step expects this epoch.
    Done(Epoch),
    /// It cannot come about any more.
    Cancel(String),
}

/// Judges a step by the newest report of its region.
///
/// The epoch tells whether the step was applied: only the step itself may have moved it, and by exactly what REGIONS §1
/// says. Any other move means that someone else changed the region, so what the step was decided on does not hold.
pub(crate) fn judge(
    step: &Step,
    expected: Epoch,
    region: &RegionInfo,
    view: (&Regions, &Stores),
) -> Progress {
    let epoch = region.epoch();
    match step {
        Step::AddLearner(peer) => judge_add(peer, expected, region),
        Step::CatchUp(peer) => match region.peer(peer.id) {
            _ if epoch != expected => moved(expected, epoch),
            None => Progress::Cancel(format!("peer {} is gone", peer.id)),
            Some(_) if region.caught_up(peer.id) => Progress::Done(epoch),
            Some(_) => Progress::Wait,
        },
        Step::Swap { promote, demote } => judge_swap(promote, demote, expected, region, view.1),
        Step::RemoveLearner(peer) => match region.peer(peer.id) {
            None if epoch == expected || epoch == expected.after_membership(1) => {
                Progress::Done(epoch)
            }
            Some(found) if epoch == expected && found.role() == metapb::PeerRole::Learner => {
                Progress::Send(OrderKind::RemoveLearner(*found))
            }
            Some(_) if epoch == expected => {
                Progress::Cancel(format!("peer {} is not a learner", peer.id))
            }
            _ => moved(expected, epoch),
        },
        Step::TransferLeader(peer) => match region.peer(peer.id) {
            _ if epoch != expected => moved(expected, epoch),
            _ if region
                .leader
                .as_ref()
                .is_some_and(|leader| leader.id == peer.id) =>
            {
                Progress::Done(epoch)
            }
            Some(found) if found.role() == metapb::PeerRole::Voter && region.caught_up(peer.id) => {
                Progress::Send(OrderKind::TransferLeader(*found))
            }
            Some(found) if found.role() == metapb::PeerRole::Voter => Progress::Wait,
            _ => Progress::Cancel(format!("peer {} is not a voter", peer.id)),
        },
        Step::Split(keys) => {
            if epoch == expected {
                if region.is_joint() {
                    Progress::Wait
                } else {
                    Progress::Send(OrderKind::Split(keys.clone()))
                }
            } else if epoch == expected.after_version()
                && Some(&region.region.end_key) == keys.first()
            {
                Progress::Done(epoch)
            } else {
                moved(expected, epoch)
            }
        }
        Step::Merge(merge) => merge.judge(expected, region, view),
    }
}

fn judge_add(peer: &metapb::Peer, expected: Epoch, region: &RegionInfo) -> Progress {
    let epoch = region.epoch();
    let added = region
        .peer(peer.id)
        .is_some_and(|found| found.role() == metapb::PeerRole::Learner);
    if epoch == expected {
        match region.peer_on(StoreId(peer.store_id)) {
            Some(found) => Progress::Cancel(format!(
                "store {} has peer {} already",
                peer.store_id, found.id
            )),
            None if region.is_joint() => Progress::Wait,
            None => Progress::Send(OrderKind::AddLearner(*peer)),
        }
    } else if epoch == expected.after_membership(1) && added {
        Progress::Done(epoch)
    } else {
        moved(expected, epoch)
    }
}

fn judge_swap(
    promote: &[metapb::Peer],
    demote: &[metapb::Peer],
    expected: Epoch,
    region: &RegionInfo,
    stores: &Stores,
) -> Progress {
    use metapb::PeerRole::{DemotingVoter, IncomingVoter, Learner, Voter};
    let epoch = region.epoch();
    let all = |peers: &[metapb::Peer], role| {
        peers.iter().all(|peer| {
            region
                .peer(peer.id)
                .is_some_and(|found| found.role() == role)
        })
    };
    if epoch == expected {
        if !all(promote, Learner) || !all(demote, Voter) {
            return Progress::Cancel("the roles are not those it was made for".into());
        }
        if !promote.iter().all(|peer| region.caught_up(peer.id)) {
            return Progress::Wait;
        }
        // A leader does not propose its own demotion (REGIONS §3): it hands over first, whoever made it lead meanwhile. Not
        // to a store that is stopping, which is back or down in a moment.
        let leaves = |leader: &metapb::Peer| demote.iter().any(|peer| peer.id == leader.id);
        if region.leader.as_ref().is_some_and(leaves) {
            let stays = |peer: &&metapb::Peer| {
                peer.role() == Voter
                    && demote.iter().all(|other| other.id != peer.id)
                    && region.caught_up(peer.id)
                    && !stores.stopping(StoreId(peer.store_id))
            };
            return match region.region.peers.iter().find(stays) {
                Some(heir) => Progress::Send(OrderKind::TransferLeader(*heir)),
                None => Progress::Wait,
            };
        }
        Progress::Send(OrderKind::Swap {
            promote: promote.to_vec(),
            demote: demote.to_vec(),
        })
    } else if epoch == expected.after_membership(1)
        && all(promote, IncomingVoter)
        && all(demote, DemotingVoter)
    {
        Progress::Wait
    } else if epoch == expected.after_membership(2) && all(promote, Voter) && all(demote, Learner) {
        Progress::Done(epoch)
    } else {
        moved(expected, epoch)
    }
}

fn moved(expected: Epoch, epoch: Epoch) -> Progress {
    Progress::Cancel(format!(
        "the epoch moved from {expected} to {epoch} by something else"
    ))
}

#[cfg(test)]
mod tests;
