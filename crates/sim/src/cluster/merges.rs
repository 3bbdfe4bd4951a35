//! Merges: the operator that aligns neighbours and orders them, and what stores did of it.

use std::collections::BTreeMap;

use bytes::Bytes;
use engine::{Engine, Family};
use proto::metapb::{self, PeerRole};
use proto::pontoon::v1::RegionState;
use proto::{RegionId, StoreId};
use raft::{PeerId, Role};
use store::event::{Applied, Event, Order, OrderKind, StepId};
use store::{codec, keys};

use super::exile::Moment;
use super::world::{World, broken};
use crate::group::settings::Fault;
use crate::rule::Violation;

/// Steps after which the operator looks for other neighbours.
const STEPS_MAX: u32 = 30;

/// Two neighbours that are to become one.
#[derive(Clone, Copy, Debug)]
pub struct Pair {
    source: u64,
    target: u64,
    steps: u32,
}

impl World {
    /// Takes one step towards a merge: moves a peer or the leader of the source, or orders it.
    pub(super) fn merge_step(&mut self) -> Result<(), Violation> {
        let Some((source, target)) = self.pick_pair() else {
            return Ok(());
        };
        let (Some(leader), Some(target_leader)) =
            (self.leader_of(source.id), self.leader_of(target.id))
        else {
            return Ok(());
        };
        let Some(kind) = self.merge_order(&source, &target, leader, target_leader) else {
            return Ok(());
        };
        let merges = matches!(kind, OrderKind::Merge { .. });
        if merges {
            self.count("merge ordered");
            self.pair = None;
        }
        let order = Order {
            region: RegionId(source.id),
            epoch: source.region_epoch.unwrap_or_default(),
            id: StepId::default(),
            kind,
            purpose: Default::default(),
        };
        self.step(leader, Event::Order(order))?;
        // Now and then both are to become a part of the other.
        if merges && self.load_random.chance(100) {
            let order = Order {
                region: RegionId(target.id),
                epoch: target.region_epoch.unwrap_or_default(),
                id: StepId::default(),
                kind: OrderKind::Merge {
                    target: RegionId(source.id),
                },
                purpose: Default::default(),
            };
            self.step(target_leader, Event::Order(order))?;
        }
        Ok(())
    }

    fn pick_pair(&mut self) -> Option<(metapb::Region, metapb::Region)> {
        let regions: Vec<metapb::Region> = self.descriptors.newest().cloned().collect();
        let find = |id| regions.iter().find(|region| region.id == id).cloned();
        if let Some(pair) = &mut self.pair {
            pair.steps += 1;
            if pair.steps < STEPS_MAX
                && let (Some(source), Some(target)) = (find(pair.source), find(pair.target))
            {
                return Some((source, target));
            }
        }
        if regions.len() < 2 {
            return None;
        }
        let one = self
            .load_random
            .pick(&regions.iter().map(|region| region.id).collect::<Vec<_>>());
        let one = find(one)?;
        let neighbours: Vec<u64> = regions
            .iter()
            .filter(|other| {
                (!one.end_key.is_empty() && other.start_key == one.end_key)
                    || (!other.end_key.is_empty() && other.end_key == one.start_key)
            })
            .map(|other| other.id)
            .collect();
        let other = find(self.load_random.pick(&neighbours))?;
        self.pair = Some(Pair {
            source: one.id,
            target: other.id,
            steps: 0,
        });
        Some((one, other))
    }

    pub(super) fn leader_of(&self, region: u64) -> Option<StoreId> {
        let leads = self.nodes.iter().filter_map(|(store, node)| {
            let view = node.views.get(&RegionId(region))?;
            (view.role == Role::Leader && view.owns_range).then_some((view.term, *store))
        });
        leads.max().map(|(_, store)| store)
    }

    /// What brings a source closer to its target.
    fn merge_order(
        &mut self,
        source: &metapb::Region,
        target: &metapb::Region,
        leader: StoreId,
        target_leader: StoreId,
    ) -> Option<OrderKind> {
        let places = |region: &metapb::Region| -> BTreeMap<u64, (u64, PeerRole)> {
            let peers = region.peers.iter();
            peers
                .map(|peer| (peer.store_id, (peer.id, peer.role())))
                .collect()
        };
        let (here, there) = (places(source), places(target));
        let joint =
            |role: &PeerRole| matches!(role, PeerRole::IncomingVoter | PeerRole::DemotingVoter);
        if here
            .values()
            .chain(there.values())
            .any(|(_, role)| joint(role))
        {
            return None;
        }
        let role_there = |store: &u64| there.get(store).map(|(_, role)| *role);
        if here.len() != there.len()
            || here
                .iter()
                .any(|(store, (_, role))| role_there(store) != Some(*role))
        {
            if !self.settings.faults.has(Fault::Membership) {
                self.pair = None;
                return None;
            }
            if let Some(store) = there.keys().find(|store| !here.contains_key(store)) {
                if self.is_lost(StoreId(*store)) {
                    return None;
                }
                let id = self.next_id;
                self.next_id += 1;
                return Some(OrderKind::AddLearner(metapb::Peer {
                    id,
                    store_id: *store,
                    role: PeerRole::Learner as i32,
                    is_witness: false,
                }));
            }
            let of = |has: PeerRole, wanted: fn(Option<PeerRole>) -> bool| -> Vec<PeerId> {
                here.iter()
                    .filter(|(store, (_, role))| *role == has && wanted(role_there(store)))
                    .map(|(_, (id, _))| PeerId(*id))
                    .collect()
            };
            let promote = of(PeerRole::Learner, |role| role == Some(PeerRole::Voter));
            let demote = of(PeerRole::Voter, |role| role != Some(PeerRole::Voter));
            let leads = here.get(&leader.0).map(|(id, _)| PeerId(*id));
            if leads.is_some_and(|id| demote.contains(&id)) {
                let kept = here.iter().find(|(store, (_, role))| {
                    *role == PeerRole::Voter && role_there(store) == Some(PeerRole::Voter)
                });
                return kept.map(|(_, (id, _))| OrderKind::TransferLeader(PeerId(*id)));
            }
            if !promote.is_empty() || !demote.is_empty() {
                return Some(OrderKind::EnterJoint { promote, demote });
            }
            let extra = of(PeerRole::Learner, |role| role.is_none());
            return extra.first().map(|id| OrderKind::RemoveLearner(*id));
        }
        let unchecked = self.settings.options.merge_unchecked && self.load_random.chance(500);
        if leader != target_leader && !unchecked {
            let (id, _) = here.get(&target_leader.0)?;
            return Some(OrderKind::TransferLeader(PeerId(*id)));
        }
        Some(OrderKind::Merge {
            target: RegionId(target.id),
        })
    }

    /// What was applied somewhere: descriptors, and merges with one outcome each. Tells of a split, and of a merge's
    /// first absorption.
    pub(super) fn learn(&mut self, applied: &Applied) -> Result<Option<Moment>, Violation> {
        let Some(changed) = &applied.changed else {
            return Ok(None);
        };
        let mut moment = None;
        if let Some(absorbed) = &applied.absorbed {
            let source = absorbed.tombstone.region.clone().unwrap_or_default();
            if self.descriptors.learn_merge(&source, changed.id)? {
                self.count("merge committed");
                self.merged_at.insert(source.id, self.schedule.now());
                self.focus = Some((source.start_key.clone(), source.end_key.clone()));
                moment = Some(Moment::Merge(changed.clone()));
            } else {
                let since = self.schedule.now() - self.merged_at.get(&source.id).unwrap_or(&0);
                let timeout = u64::from(self.settings.options.raft.election_ticks);
                if since > timeout * super::settings::TICK {
                    self.count("source absorbed late");
                }
            }
        }
        if let Some(merge) = &applied.merge {
            let version = changed.region_epoch.unwrap_or_default().version;
            if merge.freeze.is_some() {
                if self.frozen.insert((changed.id, version)) {
                    self.focus = Some((changed.start_key.clone(), changed.end_key.clone()));
                    self.count("region froze");
                }
            } else if self.frozen.contains(&(changed.id, version.wrapping_sub(1)))
                && !self.descriptors.has_seen(changed)
            {
                self.count("merge aborted");
            }
        }
        let mut pieces = vec![changed.clone()];
        pieces.extend(applied.children.iter().map(|child| child.region.clone()));
        if !applied.children.is_empty() {
            moment = Some(Moment::Split(pieces.clone()));
        }
        self.check_members(changed)?;
        self.descriptors.learn(&pieces)?;
        Ok(moment)
    }

    /// Placement tells a store who owns a key.
    pub(super) fn locate(
        &mut self,
        id: StoreId,
        incarnation: u32,
        key: Bytes,
    ) -> Result<(), Violation> {
        if !self.nodes[&id].is_up(incarnation) || self.is_placement_silent() {
            return Ok(());
        }
        self.count("key located");
        let owner = self
            .descriptors
            .newest()
            .find(|region| keys::contains(&region.start_key, &region.end_key, &key))
            .cloned();
        match owner {
            Some(region) => self.step(id, Event::Located { key, region }),
            None => Ok(()),
        }
    }

    /// Placement tells a store what it knows of a region that the store hears no leader of.
    pub(super) fn describe(
        &mut self,
        id: StoreId,
        incarnation: u32,
        region: RegionId,
    ) -> Result<(), Violation> {
        if !self.nodes[&id].is_up(incarnation) || self.is_placement_silent() {
            return Ok(());
        }
        self.count("members asked of placement");
        let known = self
            .descriptors
            .newest()
            .find(|known| known.id == region.0)
            .cloned();
        match known {
            Some(known) => self.step(id, Event::Described(known)),
            None => Ok(()),
        }
    }

    /// Whether no region remembers a merge any more: every peer of every source is known to be dead.
    pub(super) fn all_records_dropped(&self) -> Result<(), String> {
        for region in self.descriptors.newest() {
            for peer in &region.peers {
                let engine = &self.nodes[&StoreId(peer.store_id)].engine;
                let bytes = engine
                    .get(Family::State, &keys::region_state(RegionId(region.id)))
                    .map_err(|error| broken(error).text)?;
                let state: Option<RegionState> = bytes.as_ref().and_then(codec::decode_record);
                let records = state.map_or(Vec::new(), |state| state.records);
                if let Some(record) = records.first() {
                    let source = record.source.as_ref().map_or(0, |source| source.id);
                    return Err(format!(
                        "region {} on store {} still remembers region {source}",
                        region.id, peer.store_id
                    ));
                }
            }
        }
        Ok(())
    }
}
