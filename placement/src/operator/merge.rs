//! A merge as a step: the region is taken in by a neighbour (REGIONS §5, §9).
//!
//! Its operator holds both regions, so that nobody else moves either. What became of it is told by the epochs: the source's
//! moves once when it freezes and again when it thaws, the target's once when it decides.

use bytes::Bytes;
use proto::{RegionId, StoreId, metapb};

use super::{Epoch, Progress, moved};
use crate::event::OrderKind;
use crate::regions::{RegionInfo, Regions};
use crate::stores::Stores;

/// What is to become of a region and a neighbour.
#[derive(Clone, Debug, PartialEq)]
pub struct Merge {
    /// The neighbour that takes the region in, at the only epoch at which it may.
    pub target: metapb::Region,
    /// Range of both.
    pub range: (Bytes, Bytes),
}

impl Merge {
    /// Of a region into a neighbour; `None` if they are no neighbours.
    pub fn new(source: &metapb::Region, target: &metapb::Region) -> Option<Self> {
        let touch = |left: &metapb::Region, right: &metapb::Region| {
            !left.end_key.is_empty() && left.end_key == right.start_key
        };
        let (left, right) = match (touch(source, target), touch(target, source)) {
            (true, _) => (source, target),
            (_, true) => (target, source),
            _ => return None,
        };
        Some(Self {
            target: target.clone(),
            range: (left.start_key.clone(), right.end_key.clone()),
        })
    }

    /// The neighbour's identity.
    pub fn target_id(&self) -> RegionId {
        RegionId(self.target.id)
    }

    fn target_epoch(&self) -> Epoch {
        Epoch::from_wire(self.target.region_epoch.as_ref())
    }

    /// What a report of the source means.
    pub(super) fn judge(
        &self,
        expected: Epoch,
        source: &RegionInfo,
        (regions, stores): (&Regions, &Stores),
    ) -> Progress {
        let epoch = source.epoch();
        if epoch == expected.after_version() {
            return Progress::Wait;
        }
        if epoch == expected.after_version().after_version() {
            return Progress::Cancel(
                "it froze, its neighbour decided against it, it thawed".into(),
            );
        }
        if epoch != expected {
            return moved(expected, epoch);
        }
        // A neighbour that is not in the view was overtaken by a piece of itself: its report comes.
        let Some(target) = regions.get(self.target_id()) else {
            return Progress::Wait;
        };
        if target.epoch() != self.target_epoch() {
            return moved_target(self.target_epoch(), target.epoch());
        }
        let (Some(from), Some(to)) = (&source.leader, &target.leader) else {
            return Progress::Wait;
        };
        if source.is_joint() || target.is_joint() {
            return Progress::Wait;
        }
        if from.store_id == to.store_id {
            return Progress::Send(OrderKind::Merge(self.target.clone()));
        }
        let there = source
            .voters()
            .find(|peer| peer.store_id == to.store_id && source.caught_up(peer.id))
            // That one hands the neighbour over.
            .filter(|peer| !stores.stopping(StoreId(peer.store_id)));
        match there {
            Some(peer) => Progress::Send(OrderKind::TransferLeader(*peer)),
            None => Progress::Wait,
        }
    }

    /// What a report of the target means.
    pub(crate) fn judge_target(&self, target: &RegionInfo) -> Progress {
        let (before, now) = (self.target_epoch(), target.epoch());
        let (start, end) = &self.range;
        let covers = target.region.start_key <= *start
            && (target.region.end_key.is_empty()
                || (!end.is_empty() && target.region.end_key >= *end));
        if now.version > before.version && covers {
            Progress::Done(now)
        } else if now == before {
            Progress::Wait
        } else {
            moved_target(before, now)
        }
    }
}

fn moved_target(before: Epoch, now: Epoch) -> Progress {
    Progress::Cancel(format!(
        "the epoch of its neighbour moved from {before} to {now} by something else"
    ))
}
