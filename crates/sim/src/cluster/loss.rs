//! Losses: a store is gone for ever, with its disk, from the moment of a merge on. The operator takes its peers out of their
//! regions; when none is left, placement says that the store was removed. Then nothing may wait for it any more, records of merges
//! least of all.

use engine::{CrashMode, Keep};
use proto::metapb::PeerRole;
use proto::{RegionId, StoreId};
use raft::PeerId;
use store::event::{Event, Order, OrderKind, StepId};

use super::exile::Moment;
use super::world::World;
use crate::group::settings::Fault;
use crate::rule::Violation;

/// Permille of merges at which a store is lost, in worlds where that happens. It happens once.
const PERMILLE: u64 = 200;

/// A store that is lost.
#[derive(Clone, Copy, Debug)]
pub struct Loss {
    /// Which.
    store: StoreId,
    /// No region has a peer there any more.
    removed: bool,
}

impl World {
    /// Whether a store is gone for ever.
    pub(super) fn is_lost(&self, store: StoreId) -> bool {
        self.loss.is_some_and(|loss| loss.store == store)
    }

    /// A merge took effect first. Perhaps a store of the region is lost, if all regions can do without it. (An exile may leave
    /// groups of two.)
    pub(super) fn maybe_lose(&mut self, moment: &Moment) {
        let faults = self.settings.faults;
        let Moment::Merge(region) = moment else {
            return;
        };
        if !faults.has(Fault::LostStore)
            || faults.has(Fault::Exile)
            || self.loss.is_some()
            || self.healing
            || self.settings.replicas < 3
            || !self.moment_random.chance(PERMILLE)
        {
            return;
        }
        let stores: Vec<StoreId> = region
            .peers
            .iter()
            .map(|peer| StoreId(peer.store_id))
            .collect();
        let store = self.moment_random.pick(&stores);
        self.lose(store, region.id);
    }

    /// A store is lost, if all regions can do without it; near a region, for the trace.
    pub(super) fn lose(&mut self, store: StoreId, near: u64) {
        let needed = self.descriptors.newest().any(|region| {
            let voters = region.peers.iter();
            voters.filter(|peer| peer.role() == PeerRole::Voter).count() < 3
        });
        if needed {
            return;
        }
        self.count("store lost");
        let now = self.schedule.now();
        self.trace
            .note(now, [34, store.0, near, 0], || format!("{store} is lost"));
        if self.nodes[&store].store.is_some() {
            let keep = Keep::Nothing;
            self.stop_in(store, CrashMode::PowerLoss { keep });
        }
        self.loss = Some(Loss {
            store,
            removed: false,
        });
    }

    /// The operator takes the next step to do without the lost store.
    pub(super) fn mourn_step(&mut self) -> Result<(), Violation> {
        let Some(loss) = self.loss.filter(|loss| !loss.removed) else {
            return Ok(());
        };
        let there = |region: &proto::metapb::Region| {
            let mut peers = region.peers.iter();
            peers.find(|peer| peer.store_id == loss.store.0).copied()
        };
        let left = self.descriptors.newest();
        let left: Vec<_> = left
            .filter_map(|region| Some((region.id, region.region_epoch, there(region)?)))
            .collect();
        if left.is_empty() {
            self.loss = Some(Loss {
                removed: true,
                ..loss
            });
            return if self.healing {
                Ok(())
            } else {
                self.replace_store()
            };
        }
        let (region, epoch, peer) = self.moment_random.pick(&left);
        let kind = match peer.role() {
            PeerRole::Voter => OrderKind::EnterJoint {
                promote: Vec::new(),
                demote: vec![PeerId(peer.id)],
            },
            PeerRole::Learner => OrderKind::RemoveLearner(PeerId(peer.id)),
            PeerRole::IncomingVoter | PeerRole::DemotingVoter => return Ok(()),
        };
        let Some(leader) = self.leader_of(region) else {
            return Ok(());
        };
        let order = Order {
            region: RegionId(region),
            epoch: epoch.unwrap_or_default(),
            id: StepId::default(),
            kind,
            purpose: Default::default(),
        };
        self.step(leader, Event::Order(order))
    }

    /// The lost store gets another disk: what is empty joins under a new id (R30), and the operator may use it.
    fn replace_store(&mut self) -> Result<(), Violation> {
        let last = self.nodes.keys().last().map_or(0, |id| id.0);
        self.count("store replaced");
        self.add_store(StoreId(last + 1), &[])
    }

    /// Placement tells a store whether another was removed for good.
    pub(super) fn inquire(
        &mut self,
        id: StoreId,
        incarnation: u32,
        store: StoreId,
    ) -> Result<(), Violation> {
        let removed = self
            .loss
            .is_some_and(|loss| loss.store == store && loss.removed);
        if !removed || !self.nodes[&id].is_up(incarnation) || self.is_placement_silent() {
            return Ok(());
        }
        self.count("told of a removed store");
        self.step(id, Event::StoreRemoved(store))
    }
}
