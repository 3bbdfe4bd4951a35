//! Rot: values on the disk of one store cannot be read any more (R13). Whoever meets one costs the peer its leadership, and the
//! operator replaces the peer, as placement does. What nobody met is found at the end by a look through the data.

use bytes::Bytes;
use engine::{Engine, Family};
use proto::metapb::PeerRole;
use proto::{RegionId, StoreId};
use raft::PeerId;
use store::event::{Event, Order, OrderKind, StepId};
use store::keys;

use super::client::{KEYS, key};
use super::world::{Action, World, broken};
use crate::rule::Violation;

/// What rots.
#[derive(Clone, Debug)]
pub struct Rot {
    /// The store: always the same one, so that others hold what it lost.
    store: StoreId,
    /// Clients' keys of which the value rotted, all there ever were.
    keys: Vec<Bytes>,
}

impl World {
    /// A value rots on the disk of the store that this happens to.
    pub(super) fn let_rot(&mut self) {
        let stores: Vec<StoreId> = self.nodes.keys().copied().collect();
        let store = match &self.rot {
            Some(rot) => rot.store,
            None => self.trouble_random.pick(&stores),
        };
        let engine = &self.nodes[&store].engine;
        let is_there = |key: &Bytes| {
            let found = engine.get(Family::State, &keys::data(key));
            found.is_ok_and(|value| value.is_some())
        };
        let stored: Vec<Bytes> = (0..KEYS).map(key).filter(is_there).collect();
        if stored.is_empty() {
            return;
        }
        let place = self.trouble_random.below(stored.len() as u64) as usize;
        let key = stored[place].clone();
        engine.damage(Family::State, &keys::data(&key));
        let rot = self.rot.get_or_insert(Rot {
            store,
            keys: Vec::new(),
        });
        rot.keys.push(key);
        self.count("value rotted");
    }

    /// A read met something that it cannot read. The client is told so, and the store.
    pub(super) fn read_fails(
        &mut self,
        id: StoreId,
        place: usize,
        region: RegionId,
        error: engine::Error,
    ) -> Result<(), Violation> {
        let node = &self.nodes[&id];
        let incarnation = node.incarnation;
        let peer = node.views.get(&region).map(|view| view.peer);
        let rots = self.rot.as_ref().is_some_and(|rot| rot.store == id);
        let (Some(peer), true, engine::Error::Corrupt { .. }) = (peer, rots, &error) else {
            return Err(broken(error));
        };
        self.count("rot read");
        let event = Box::new(Event::Damaged { region, peer });
        let told = Action::Step(id, incarnation, event);
        self.schedule.after(1, told);
        self.think(place);
        Ok(())
    }

    /// The operator takes the next step to replace a peer whose data is damaged: it leaves its region.
    pub(super) fn replace_step(&mut self) -> Result<(), Violation> {
        if self.healing {
            self.look_through()?;
        }
        let Some(rot) = &self.rot else {
            return Ok(());
        };
        let store = rot.store;
        let damaged = self.nodes[&store].views.values().filter(|v| v.damaged);
        let damaged: Vec<(u64, u64)> = damaged.map(|v| (v.region.id, v.peer.0)).collect();
        if damaged.is_empty() {
            return Ok(());
        }
        let (region, peer) = self.trouble_random.pick(&damaged);
        let newest = self.descriptors.newest().find(|known| known.id == region);
        let Some(region) = newest.cloned() else {
            return Ok(());
        };
        let voters = region.peers.iter().filter(|p| p.role() == PeerRole::Voter);
        let others: Vec<PeerId> = voters
            .filter(|voter| voter.id != peer)
            .map(|voter| PeerId(voter.id))
            .collect();
        let role = region.peers.iter().find(|member| member.id == peer);
        let (Some(role), Some(leader)) =
            (role.map(|member| member.role()), self.leader_of(region.id))
        else {
            return Ok(());
        };
        let kind = match role {
            PeerRole::Voter if others.is_empty() => return Ok(()),
            PeerRole::Voter if leader == store => {
                OrderKind::TransferLeader(self.trouble_random.pick(&others))
            }
            PeerRole::Voter => OrderKind::EnterJoint {
                promote: Vec::new(),
                demote: vec![PeerId(peer)],
            },
            PeerRole::Learner => {
                self.count("damaged peer replaced");
                OrderKind::RemoveLearner(PeerId(peer))
            }
            PeerRole::IncomingVoter | PeerRole::DemotingVoter => return Ok(()),
        };
        let order = Order {
            region: RegionId(region.id),
            epoch: region.region_epoch.unwrap_or_default(),
            id: StepId::default(),
            kind,
            purpose: Default::default(),
        };
        self.step(leader, Event::Order(order))
    }

    /// Tells the store of everything that rotted and was not written over.
    pub(super) fn look_through(&mut self) -> Result<(), Violation> {
        let Some(rot) = self.rot.clone() else {
            return Ok(());
        };
        for rotten in rot.keys {
            let node = &self.nodes[&rot.store];
            let is_whole = node.engine.get(Family::State, &keys::data(&rotten)).is_ok();
            let owner = node.views.values().find(|view| {
                view.owns_range
                    && keys::contains(&view.region.start_key, &view.region.end_key, &rotten)
            });
            let Some(view) = owner.filter(|view| !is_whole && !view.damaged) else {
                continue;
            };
            let (region, peer) = (RegionId(view.region.id), view.peer);
            self.count("rot found by a look");
            self.step(rot.store, Event::Damaged { region, peer })?;
        }
        Ok(())
    }
}
