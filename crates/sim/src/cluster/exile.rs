//! Exiles: a store is away from the moment of a split or of a merge on, and is back when a peer of what changed was removed from
//! it, and perhaps added again. Random faults rarely leave a store alone for so long, nor the operator so often ready to
//! use it; what then comes back is what gates, marks and records of merges are for.

use engine::{CrashMode, Keep};
use proto::metapb::{self, PeerRole};
use proto::{RegionId, StoreId};
use raft::PeerId;
use store::event::{Event, Order, OrderKind, StepId};

use super::settings::TICK;
use super::world::{Action, World};
use crate::group::settings::Fault;
use crate::rule::Violation;
use crate::schedule::Time;

/// Steps after which a store is back anyway.
const STEPS_MAX: u32 = 40;
/// Permille of splits, by store, and of merges at which a store goes away, in worlds where that happens.
const SPLIT_PERMILLE: u64 = 100;
const MERGE_PERMILLE: u64 = 300;

/// When a store may be sent away.
pub enum Moment {
    /// A split was applied: the pieces.
    Split(Vec<metapb::Region>),
    /// A merge took effect first: what came of it.
    Merge(metapb::Region),
}

/// A store that is away.
#[derive(Clone, Copy, Debug)]
pub struct Exile {
    /// Which.
    pub store: StoreId,
    /// The region whose peer there is removed.
    region: u64,
    steps: u32,
    /// Whether a peer is to be added there again, and whether that was ordered.
    again: bool,
    added: bool,
}

impl World {
    /// `id` just applied something that changes who owns what. Now and then a store goes away at this moment.
    pub(super) fn maybe_exile(&mut self, id: StoreId, moment: Moment) {
        if !self.settings.faults.has(Fault::Exile) || self.exile.is_some() || self.healing {
            return;
        }
        let (permille, regions) = match &moment {
            Moment::Split(pieces) => (SPLIT_PERMILLE, pieces.as_slice()),
            Moment::Merge(region) => (MERGE_PERMILLE, std::slice::from_ref(region)),
        };
        if !self.moment_random.chance(permille) {
            return;
        }
        let region = &regions[self.moment_random.below(regions.len() as u64) as usize];
        let others: Vec<StoreId> = region
            .peers
            .iter()
            .map(|peer| StoreId(peer.store_id))
            .filter(|store| *store != id)
            .collect();
        if others.is_empty() {
            return;
        }
        // The store that did it may lose it again at once; another may not have got there.
        let forgets = matches!(moment, Moment::Split(_)) && self.moment_random.chance(500);
        let store = if forgets {
            id
        } else {
            self.moment_random.pick(&others)
        };
        self.exile = Some(Exile {
            store,
            region: region.id,
            steps: 0,
            again: self.moment_random.chance(500),
            added: false,
        });
        self.count("exile begun");
        let now = self.schedule.now();
        self.trace.note(now, [31, store.0, region.id, 0], || {
            format!("{store} goes away, region {} is to leave it", region.id)
        });
        if self.nodes[&store].store.is_none() {
            return;
        }
        if forgets {
            let keep = Keep::Nothing;
            self.stop_in(store, CrashMode::PowerLoss { keep });
        } else if self.moment_random.chance(500) {
            self.stop_in(store, CrashMode::Kill);
        }
    }

    /// The operator takes the next step towards the end of an exile.
    pub(super) fn exile_step(&mut self) -> Result<(), Violation> {
        let Some(mut exile) = self.exile else {
            return Ok(());
        };
        exile.steps += 1;
        self.exile = Some(exile);
        let region = self
            .descriptors
            .newest()
            .find(|region| region.id == exile.region)
            .cloned();
        let Some(region) = region.filter(|_| exile.steps < STEPS_MAX) else {
            self.end_exile(exile);
            return Ok(());
        };
        let there = region
            .peers
            .iter()
            .find(|peer| peer.store_id == exile.store.0);
        let kind = match there.map(|peer| (PeerId(peer.id), peer.role())) {
            Some(_) if exile.added => {
                self.count("exile replaced");
                self.end_exile(exile);
                return Ok(());
            }
            None if !exile.again => {
                self.count("exile removed");
                self.end_exile(exile);
                return Ok(());
            }
            None => {
                let id = self.next_id;
                self.next_id += 1;
                OrderKind::AddLearner(metapb::Peer {
                    id,
                    store_id: exile.store.0,
                    role: PeerRole::Learner as i32,
                    is_witness: false,
                })
            }
            Some((id, PeerRole::Voter)) => OrderKind::EnterJoint {
                promote: Vec::new(),
                demote: vec![id],
            },
            Some((id, PeerRole::Learner)) => OrderKind::RemoveLearner(id),
            Some((_, PeerRole::IncomingVoter | PeerRole::DemotingVoter)) => return Ok(()),
        };
        let Some(leader) = self
            .leader_of(region.id)
            .filter(|leader| *leader != exile.store)
        else {
            return Ok(());
        };
        exile.added = matches!(kind, OrderKind::AddLearner(_));
        self.exile = Some(exile);
        let order = Order {
            region: RegionId(region.id),
            epoch: region.region_epoch.unwrap_or_default(),
            id: StepId::default(),
            kind,
            purpose: Default::default(),
        };
        self.step(leader, Event::Order(order))
    }

    /// The store is back.
    fn end_exile(&mut self, exile: Exile) {
        self.exile = None;
        let (now, store) = (self.schedule.now(), exile.store);
        self.trace.note(now, [32, store.0, exile.region, 0], || {
            format!("{store} may come back")
        });
        let delay: Time = self.moment_random.between(1, TICK);
        self.schedule.after(delay, Action::Restart(exile.store));
    }
}
