//! The operator, who orders splits, moves and transfers at random, and the faults that begin by themselves.

use bytes::Bytes;
use engine::{CrashMode, Keep};
use proto::metapb::{self, PeerRole};
use proto::{RegionId, StoreId};
use raft::{PeerId, Role};
use store::event::{Event, Order, OrderKind, StepId, Transfer};
use store::keys;

use super::client::{KEYS, key};
use super::settings::{TICK, TROUBLES};
use super::world::{Action, World};
use crate::group::settings::Fault;
use crate::peers::PeerSet;
use crate::rule::Violation;
use crate::schedule::Time;

impl World {
    /// The operator gives an order to some leader.
    pub(super) fn operate(&mut self) -> Result<(), Violation> {
        let acts = self.loss.is_some() || self.rot.is_some() || self.placed.is_some();
        if self.healing && !acts {
            return Ok(());
        }
        let (low, high) = self.settings.operator;
        let delay = self.load_random.between(low, high);
        self.schedule.after(delay, Action::Operator);
        self.order_late()?;
        if self.placed.is_some() {
            return self.administer();
        }
        if self.loss.is_some() && (self.healing || self.moment_random.chance(500)) {
            return self.mourn_step();
        }
        if self.rot.is_some() && (self.healing || self.trouble_random.chance(300)) {
            return self.replace_step();
        }
        if self.exile.is_some() && self.moment_random.chance(800) {
            return self.exile_step();
        }
        if self.settings.faults.has(Fault::Merge) && self.load_random.chance(500) {
            return self.merge_step();
        }
        let led: Vec<(StoreId, metapb::Region)> = self
            .nodes
            .iter()
            .flat_map(|(store, node)| node.views.values().map(|view| (*store, view)))
            .filter(|(_, view)| view.role == Role::Leader && view.owns_range)
            .map(|(store, view)| (store, view.region.clone()))
            .collect();
        if led.is_empty() {
            return Ok(());
        }
        let place = self.load_random.below(led.len() as u64) as usize;
        let (store, region) = &led[place];
        let untimely = self.untimely_removal(*store, region);
        let Some(kind) = untimely.or_else(|| self.pick_order(region)) else {
            return Ok(());
        };
        let order = Order {
            region: RegionId(region.id),
            epoch: region.region_epoch.unwrap_or_default(),
            id: StepId::default(),
            kind,
            purpose: Default::default(),
        };
        self.step(*store, Event::Order(order))
    }

    /// Removes a learner for which a snapshot is being built, in worlds where that happens.
    fn untimely_removal(&mut self, store: StoreId, region: &metapb::Region) -> Option<OrderKind> {
        if !self.settings.faults.has(Fault::Untimely) {
            return None;
        }
        let transfers = &self.nodes[&store].transfers;
        let learner = region.peers.iter().find(|peer| {
            peer.role() == PeerRole::Learner
                && transfers.iter().any(|transfer| {
                    matches!(transfer, Transfer::Outgoing { to_peer, .. } if to_peer.0 == peer.id)
                })
        })?;
        Some(OrderKind::RemoveLearner(PeerId(learner.id)))
            .filter(|_| self.moment_random.chance(500))
    }

    fn pick_order(&mut self, region: &metapb::Region) -> Option<OrderKind> {
        let faults = self.settings.faults;
        let of = |role: PeerRole| -> Vec<PeerId> {
            region
                .peers
                .iter()
                .filter(|peer| peer.role() == role)
                .map(|peer| PeerId(peer.id))
                .collect()
        };
        let (voters, learners) = (of(PeerRole::Voter), of(PeerRole::Learner));
        match self.load_random.below(10) {
            0..3 if faults.has(Fault::Split)
                && self.descriptors.newest().count() < self.settings.regions_max =>
            {
                let mut split: Vec<Bytes> = (0..self.load_random.between(1, 2))
                    .map(|_| key(self.load_random.between(1, KEYS - 1)))
                    .filter(|key| {
                        *key != region.start_key
                            && keys::contains(&region.start_key, &region.end_key, key)
                    })
                    .collect();
                split.sort();
                split.dedup();
                (!split.is_empty()).then_some(OrderKind::Split(split))
            }
            3..5 if faults.has(Fault::Transfer) && !voters.is_empty() => {
                Some(OrderKind::TransferLeader(self.load_random.pick(&voters)))
            }
            5..10 if faults.has(Fault::Membership) => {
                let free: Vec<StoreId> = self
                    .nodes
                    .keys()
                    .copied()
                    .filter(|store| region.peers.iter().all(|peer| peer.store_id != store.0))
                    .filter(|store| !self.is_lost(*store))
                    .collect();
                match self.load_random.below(10) {
                    0..4 if learners.is_empty() && !free.is_empty() => {
                        let store = self.load_random.pick(&free);
                        let id = self.next_id;
                        self.next_id += 1;
                        Some(OrderKind::AddLearner(metapb::Peer {
                            id,
                            store_id: store.0,
                            role: PeerRole::Learner as i32,
                            is_witness: false,
                        }))
                    }
                    0..3 if !learners.is_empty() => {
                        Some(OrderKind::RemoveLearner(self.load_random.pick(&learners)))
                    }
                    _ => {
                        let promote: Vec<PeerId> = learners
                            .iter()
                            .copied()
                            .filter(|_| self.load_random.chance(700))
                            .collect();
                        let mut demote = Vec::new();
                        if voters.len() + promote.len() > self.settings.replicas as usize
                            && !voters.is_empty()
                        {
                            demote.push(self.load_random.pick(&voters));
                        }
                        (!promote.is_empty() || !demote.is_empty())
                            .then_some(OrderKind::EnterJoint { promote, demote })
                    }
                }
            }
            _ => None,
        }
    }

    /// Schedules the next fault of a kind.
    pub(super) fn rearm(&mut self, fault: Fault) {
        let (low, high) = self.settings.fault;
        let factor = if fault == Fault::PowerLoss { 6 } else { 3 };
        let random = if TROUBLES.contains(&fault) {
            &mut self.trouble_random
        } else if matches!(fault, Fault::Crash | Fault::PowerLoss) {
            &mut self.disk_random
        } else {
            &mut self.network_random
        };
        let delay = random.between(low, high * factor);
        self.schedule.after(delay, Action::Fault(fault));
    }

    /// A fault begins.
    pub(super) fn fault(&mut self, fault: Fault) -> Result<(), Violation> {
        if self.healing {
            return Ok(());
        }
        self.rearm(fault);
        let up: Vec<StoreId> = self
            .nodes
            .iter()
            .filter(|(_, node)| node.store.is_some())
            .map(|(id, _)| *id)
            .collect();
        if up.is_empty() {
            return Ok(());
        }
        let all: PeerSet = self.nodes.keys().map(|id| PeerId(id.0)).collect();
        let now = self.schedule.now();
        match fault {
            Fault::Crash => {
                let id = self.disk_random.pick(&up);
                let power = self.disk_random.chance(500);
                self.stop(id, power);
            }
            Fault::PowerLoss => {
                let everyone = self.disk_random.chance(500);
                for id in up {
                    if everyone || self.disk_random.chance(500) {
                        self.stop(id, true);
                    }
                }
            }
            Fault::Partition => {
                let mut side = PeerSet::default();
                for id in self.nodes.keys() {
                    if self.network_random.chance(400) {
                        side.insert(PeerId(id.0));
                    }
                }
                for id in self.nodes.keys() {
                    let others = if side.contains(PeerId(id.0)) {
                        all.0 & !side.0
                    } else {
                        side.0
                    };
                    self.cut[id.0 as usize].0 |= others;
                }
                self.count("partition");
                self.mend_later();
                self.trace.note(now, [24, side.0, 0, 0], || {
                    format!("{:#b} is cut off", side.0)
                });
            }
            Fault::OneWay => {
                let from = self.network_random.pick(&up);
                let to = PeerSet(self.network_random.next() & all.0 & !(1 << from.0));
                self.cut[from.0 as usize].0 |= to.0;
                self.mend_later();
                self.trace.note(now, [25, from.0, to.0, 0], || {
                    format!("{:#b} do not hear {from}", to.0)
                });
            }
            Fault::Lag => {
                let id = self.network_random.pick(&up);
                self.lagging.insert(PeerId(id.0));
                self.mend_later();
                self.trace.note(now, [26, id.0, 0, 0], || {
                    format!("{id} hears everything late")
                });
            }
            fault => return self.begin_trouble(fault, &up),
        }
        Ok(())
    }

    /// Stops a store for a while: killed, or without power.
    pub(super) fn stop(&mut self, id: StoreId, power: bool) {
        let keep = match self.disk_random.below(3) {
            0 => Keep::Nothing,
            1 => Keep::Everything,
            _ => Keep::Seeded(self.disk_random.next()),
        };
        let mode = if power {
            CrashMode::PowerLoss { keep }
        } else {
            CrashMode::Kill
        };
        self.stop_in(id, mode);
        let delay = self.outage();
        self.schedule.after(delay, Action::Restart(id));
    }

    /// Stops a store; who calls this starts it again.
    pub(super) fn stop_in(&mut self, id: StoreId, mode: CrashMode) {
        let power = mode != CrashMode::Kill;
        let now = self.schedule.now();
        self.trace.note(now, [22, id.0, u64::from(power), 0], || {
            format!("store {id} stops: {mode:?}")
        });
        let node = self.nodes.get_mut(&id).expect("a store of the cluster");
        node.engine = node.engine.crash(mode);
        node.stop();
        self.orders.forget(id);
        self.stored.forget(id);
        self.drop_requests(id);
        self.count(if power { "power loss" } else { "kill" });
    }

    fn mend_later(&mut self) {
        let duration = self.outage();
        self.schedule.after(duration, Action::Mend);
    }

    fn outage(&mut self) -> Time {
        let timeout = Time::from(self.settings.options.raft.election_ticks) * TICK;
        self.clock_random.between(TICK, 5 * timeout)
    }
}
