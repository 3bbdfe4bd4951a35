//! What support between stores means to the peers here (LIVENESS §4): who is told of it, by indexes and not by looking at all.
//!
//! A peer that hears a leader pledges to it under the id that this store gives the leader's (P1), which stands beside the leader's
//! message ([`Support::beside`]). When the id ends, the peers pledged under it hear of that; when a store begins or ends to support
//! this one, the leaders here with members there do (P2).
//!
//! A release may be lost, and its sender gone. So a peer that is pledged and has heard nothing of its leader for `2T` asks the
//! leader's store, which answers for its peers, those included that it does not have any more (P9).

use std::collections::{BTreeMap, BTreeSet};

use engine::Engine;
use proto::pontoon::v1 as wire;
use proto::{RegionId, StoreId, metapb};
use raft::{Body, Event as RaftEvent, Message, PeerId, Pledge, Raft, Role, SupportId, Term};

use crate::context::Context;
use crate::liveness::Change;
use crate::peer::Peer;
use crate::store::{Store, step_quietly};

/// What other stores are to this one, and whom here that concerns.
#[derive(Debug, Default)]
pub(crate) struct Support {
    /// Under which id this store supports another.
    given: BTreeMap<StoreId, SupportId>,
    /// Under which id another supports this one.
    held: BTreeMap<StoreId, SupportId>,
    /// Regions whose peer here is pledged to a leader there.
    pledged: BTreeMap<StoreId, BTreeSet<RegionId>>,
    /// Regions led here that have a member there.
    led: BTreeMap<StoreId, BTreeSet<RegionId>>,
}

impl Support {
    /// Puts beside a leader's message what its store is given.
    pub fn beside(&self, from_store: StoreId, mut message: Message) -> Message {
        if matches!(message.body, Body::Append { .. } | Body::Heartbeat { .. }) {
            message.support = self.given.get(&from_store).copied();
        }
        message
    }
}

/// What the indexes hold of a peer.
#[derive(Debug, Default)]
pub(crate) struct Pledging {
    /// The store of the leader that it is pledged to.
    to: Option<StoreId>,
    /// Leader: the term it was told in, and the members of whose stores it was told.
    term: Term,
    told: Vec<(PeerId, StoreId)>,
}

/// How many peers of regions here are on each store.
#[derive(Debug, Default)]
pub(crate) struct Neighbours {
    peers: BTreeMap<StoreId, usize>,
    changed: bool,
}

impl Neighbours {
    /// Peers of a region are others than before.
    pub fn count(&mut self, before: &[metapb::Peer], now: &[metapb::Peer]) {
        if before == now {
            return;
        }
        for peer in now {
            let peers = self.peers.entry(StoreId(peer.store_id)).or_default();
            *peers += 1;
            self.changed |= *peers == 1;
        }
        for peer in before {
            let store = StoreId(peer.store_id);
            let peers = self.peers.get_mut(&store).expect("they were counted");
            *peers -= 1;
            if *peers == 0 {
                self.peers.remove(&store);
                self.changed = true;
            }
        }
    }

    pub fn has_changed(&self) -> bool {
        self.changed
    }

    /// All stores, if they are others than when they were last taken.
    pub fn take_changed(&mut self) -> Option<BTreeSet<StoreId>> {
        std::mem::take(&mut self.changed).then(|| self.peers.keys().copied().collect())
    }
}

impl<E: Engine> Store<E> {
    pub(crate) fn on_support(&mut self, change: Change) {
        if !self.cx.options.pledges {
            return;
        }
        match change {
            Change::Given(store, id) => {
                self.cx.support.given.insert(store, id);
            }
            Change::Ended(store, id) => self.on_support_ended(store, id),
            Change::Held(store, held) => self.on_support_held(store, held),
            // Who may campaign is the plain timer's to say until elections are paced (E1).
            Change::Linked(..) => {}
        }
    }

    fn on_support_ended(&mut self, store: StoreId, id: SupportId) {
        if self.cx.support.given.get(&store) == Some(&id) {
            self.cx.support.given.remove(&store);
        }
        for region in self.cx.support.pledged.remove(&store).unwrap_or_default() {
            let Some(peer) = self.peers.get_mut(&region) else {
                continue;
            };
            peer.pledging.to = None;
            if let Some(raft) = peer.raft.as_mut() {
                step_quietly(raft, RaftEvent::SupportEnded(id));
                self.cx.touch(peer);
            }
        }
    }

    fn on_support_held(&mut self, store: StoreId, held: Option<SupportId>) {
        match held {
            Some(id) => self.cx.support.held.insert(store, id),
            None => self.cx.support.held.remove(&store),
        };
        let regions = self.cx.support.led.get(&store).cloned();
        for region in regions.unwrap_or_default() {
            let Some(peer) = self.peers.get_mut(&region) else {
                continue;
            };
            let Some(raft) = peer.raft.as_mut() else {
                continue;
            };
            let there = peer.pledging.told.iter().filter(|(_, on)| *on == store);
            for &(member, _) in there {
                let event = RaftEvent::SupportHeld {
                    peer: member,
                    support: held,
                };
                step_quietly(raft, event);
            }
            self.cx.touch(peer);
        }
    }

    /// Another store asks whether a peer here still leads. A peer that does not lead a term that it once led never will again, and
    /// neither will one that is gone (R19).
    pub(crate) fn on_pledge_held(&mut self, from: StoreId, held: wire::PledgeHeld) {
        let may_lead = match self.peers.get(&RegionId(held.region_id)) {
            Some(peer) if peer.id.0 == held.leader => peer.raft.as_ref().is_some_and(|raft| {
                let stands = matches!(raft.role(), Role::Leader | Role::Candidate);
                raft.term() < held.term || raft.term() == held.term && stands
            }),
            Some(peer) => peer.id.0 < held.leader,
            None => false,
        };
        if !may_lead {
            self.cx.frame(from, false).pledges_void.push(held);
        }
    }

    /// The store of the leader says that it leads no more: a release, whoever it was that should have sent it.
    pub(crate) fn on_pledge_void(&mut self, from: StoreId, void: &wire::PledgeHeld) {
        let Some(peer) = self.peers.get_mut(&RegionId(void.region_id)) else {
            return;
        };
        if peer.id.0 != void.follower || peer.pledging.to != Some(from) {
            return;
        }
        if let Some(raft) = peer.raft.as_mut() {
            let release = Message {
                from: PeerId(void.leader),
                to: peer.id,
                term: void.term,
                support: None,
                body: Body::Release,
            };
            step_quietly(raft, RaftEvent::Message(release));
            self.cx.touch(peer);
        }
    }

    /// Whoever is pledged hears of the end of what that rests on.
    ///
    /// # Panics
    /// When one would not.
    pub(crate) fn check_pledges(&self) {
        for (region, peer) in &self.peers {
            let Some(pledge) = peer.raft.as_ref().and_then(Raft::pledge) else {
                continue;
            };
            let to = peer.pledging.to.expect("the store of a pledge is known");
            let support = &self.cx.support;
            assert!(
                support.given.get(&to) == Some(&pledge.support),
                "region {region} holds {pledge:?}, store {to} is given {:?}",
                support.given.get(&to)
            );
            assert!(
                support
                    .pledged
                    .get(&to)
                    .is_some_and(|all| all.contains(region)),
                "region {region} holds {pledge:?}, and is not told when that ends"
            );
        }
    }
}

impl Peer {
    /// Keeps the index of pledges after a message of another peer.
    pub(crate) fn index_pledge<E: Engine>(
        &mut self,
        from: PeerId,
        from_store: StoreId,
        cx: &mut Context<E>,
    ) {
        if !cx.options.pledges {
            return;
        }
        let pledge = self.raft.as_ref().and_then(Raft::pledge);
        let to = match pledge {
            Some(pledge) if pledge.leader == from => Some(from_store),
            Some(_) => self.pledging.to,
            None => None,
        };
        self.index(to, cx);
    }

    fn index<E: Engine>(&mut self, to: Option<StoreId>, cx: &mut Context<E>) {
        if self.pledging.to == to {
            return;
        }
        let region = self.region_id();
        let pledged = &mut cx.support.pledged;
        if let Some(regions) = self.pledging.to.and_then(|store| pledged.get_mut(&store)) {
            regions.remove(&region);
        }
        if let Some(store) = to {
            pledged.entry(store).or_default().insert(region);
        }
        self.pledging.to = to;
    }

    /// Tells a leader whose support is held of the members that it was not told of, and indexes what became of this peer.
    pub(crate) fn tell_support<E: Engine>(&mut self, cx: &mut Context<E>) {
        if !cx.options.pledges {
            return;
        }
        if self.raft.as_ref().and_then(Raft::pledge).is_none() {
            self.index(None, cx);
        }
        let term = self.term();
        let members = self.members_led();
        let again = term != self.pledging.term;
        if members == self.pledging.told && !again {
            return;
        }
        let region = self.region_id();
        let told = std::mem::replace(&mut self.pledging.told, members);
        self.pledging.term = term;
        for (_, store) in &told {
            if let Some(regions) = cx.support.led.get_mut(store) {
                regions.remove(&region);
            }
        }
        let Some(raft) = self.raft.as_mut() else {
            return;
        };
        for &(peer, store) in &self.pledging.told {
            cx.support.led.entry(store).or_default().insert(region);
            let support = cx.support.held.get(&store).copied();
            if support.is_some() && (again || !told.contains(&(peer, store))) {
                step_quietly(raft, RaftEvent::SupportHeld { peer, support });
            }
        }
    }

    /// The members that this peer leads, with the stores of those whose store is known.
    fn members_led(&self) -> Vec<(PeerId, StoreId)> {
        match &self.raft {
            Some(raft) if raft.role() == Role::Leader => {
                let members = raft.membership().members.keys();
                members
                    .filter(|peer| **peer != self.id)
                    .filter_map(|peer| Some((*peer, self.store_of(*peer)?)))
                    .collect()
            }
            Some(_) | None => Vec::new(),
        }
    }

    /// Goes on with the pledge of an earlier instance to a leader on `to`.
    pub(crate) fn keep_pledge<E: Engine>(
        &mut self,
        kept: Option<(Pledge, StoreId)>,
        cx: &mut Context<E>,
    ) {
        let Some((pledge, to)) = kept else { return };
        if let Some(raft) = self.raft.as_mut() {
            raft.keep_pledge(pledge);
            if raft.pledge().is_some() {
                self.index(Some(to), cx);
            }
        }
    }

    /// Takes the peer out of what is counted and indexed, and returns its pledge with the store that it is to.
    pub(crate) fn leave<E: Engine>(&mut self, cx: &mut Context<E>) -> Option<(Pledge, StoreId)> {
        let pledge = self.raft.as_ref().and_then(Raft::pledge);
        let to = self.pledging.to;
        self.index(None, cx);
        for (_, store) in std::mem::take(&mut self.pledging.told) {
            if let Some(regions) = cx.support.led.get_mut(&store) {
                regions.remove(&self.region_id());
            }
        }
        if let Some(view) = self.published.take() {
            cx.neighbours.count(&view.region.peers, &[]);
        }
        pledge.zip(to)
    }

    /// Asks after a leader that says nothing.
    pub(crate) fn tick_pledge<E: Engine>(&mut self, cx: &mut Context<E>) {
        let Some(pledge) = self.raft.as_ref().and_then(Raft::pledge) else {
            return;
        };
        let silent = cx.tick.saturating_sub(self.heard_tick);
        let limit = 2 * u64::from(cx.options.raft.election_ticks);
        let Some(to) = self
            .pledging
            .to
            .filter(|_| silent > 0 && silent.is_multiple_of(limit))
        else {
            return;
        };
        let held = wire::PledgeHeld {
            region_id: self.region.id,
            follower: self.id.0,
            leader: pledge.leader.0,
            term: pledge.term,
        };
        cx.frame(to, false).pledges_held.push(held);
    }
}
