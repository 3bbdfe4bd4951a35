//! Newborn peers: the store on which a split's child is led first loses power soon after the split, and its disk keeps nothing of
//! what was written since the child was born, or since it is led. Random faults rarely come in the short time in which that
//! matters: the first term is begun without an election, and once only.

use bytes::Bytes;
use engine::{CrashMode, Keep};
use proto::{RegionId, StoreId};
use store::event::Applied;

use super::settings::TICK;
use super::world::{Action, World};
use crate::group::settings::Fault;
use crate::schedule::Time;

/// Permille of splits after which it happens, in worlds where it does.
const PERMILLE: u64 = 300;

impl World {
    /// `id` just applied something. If it was a split with a child that it is to lead first, it may be about to lose that.
    pub(super) fn maybe_newborn(&mut self, id: StoreId, applied: &Applied) {
        if !self.settings.faults.has(Fault::Newborn) || self.healing {
            return;
        }
        let Some(child) = applied
            .children
            .iter()
            .find(|child| child.created && child.first_leader == child.peer)
        else {
            return;
        };
        let node = &self.nodes[&id];
        let is_busy = node.store.is_none() || node.stalled || node.stalls_with.is_some();
        if is_busy || !self.moment_random.chance(PERMILLE) {
            return;
        }
        let range: (Bytes, Bytes) = (child.region.start_key.clone(), child.region.end_key.clone());
        let region = RegionId(child.region.id);
        self.focus = Some(range);
        self.count("newborn watched");
        if self.moment_random.chance(500) {
            self.stall(id);
        } else {
            let node = self.nodes.get_mut(&id).expect("a store of the cluster");
            node.stalls_with = Some(region);
        }
    }

    /// The disk of a store keeps nothing any more, and within an election timeout the store loses power.
    pub(super) fn stall(&mut self, id: StoreId) {
        let timeout = Time::from(self.settings.options.raft.election_ticks) * TICK;
        let delay = self.moment_random.between(TICK / 2, timeout);
        let now = self.schedule.now();
        self.trace.note(now, [33, id.0, delay, 0], || {
            format!("the disk of {id} stands still")
        });
        let node = self.nodes.get_mut(&id).expect("a store of the cluster");
        (node.stalled, node.stalls_with) = (true, None);
        let incarnation = node.incarnation;
        self.schedule
            .after(delay, Action::PowerCut(id, incarnation));
    }

    /// Power fails for a moment, too short for an election.
    pub(super) fn power_cut(&mut self, id: StoreId, incarnation: u32) {
        if !self.nodes[&id].is_up(incarnation) {
            return;
        }
        self.count("newborn lost power");
        let keep = Keep::Nothing;
        self.stop_in(id, CrashMode::PowerLoss { keep });
        let delay = self.moment_random.between(1, TICK);
        self.schedule.after(delay, Action::Restart(id));
    }
}
