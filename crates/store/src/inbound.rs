//! Frames from other stores: messages for peers here, and the life and death that messages bring (REGIONS §2).

use engine::{Engine, Family};
use proto::pontoon::v1 as wire;
use proto::{RegionId, StoreId, metapb};
use raft::{Event as RaftEvent, PeerId};

use crate::codec::{self, Beat};
use crate::context::Context;
use crate::event::SecondLeader;
use crate::peer::{Peer, Stage};
use crate::store::Store;
use crate::{Error, keys};

/// A message's address.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Address {
    pub region: RegionId,
    pub from: PeerId,
    pub from_store: StoreId,
    pub to: PeerId,
    /// The sender's applied `conf_ver`, where the message carries it. Its descriptor names the receiver.
    pub conf_ver: Option<u64>,
    /// Whether the message may create a peer.
    pub creates: bool,
}

impl<E: Engine> Store<E> {
    pub(crate) fn on_frame(&mut self, from: StoreId, frame: wire::Frame) {
        if let Some(beats) = &frame.heartbeats {
            Beat::rows(beats).for_each(|beat| self.on_beat(from, beat, false));
        }
        if let Some(beats) = &frame.heartbeat_responses {
            Beat::rows(beats).for_each(|beat| self.on_beat(from, beat, true));
        }
        for message in frame.messages {
            self.on_message(from, message);
        }
        for notice in frame.notices {
            self.on_notice(notice);
        }
        for offer in frame.offers {
            self.on_offer(from, offer);
        }
        for answer in frame.answers {
            self.on_answer(from, answer);
        }
        for message in frame.merges {
            self.on_merge_message(from, message);
        }
        for digest in &frame.digests {
            self.on_digest(from, digest);
        }
        for sum in &frame.sums {
            self.on_sum(from, sum);
        }
        for noted in &frame.sums_noted {
            self.on_sum_noted(from, noted);
        }
        for held in frame.pledges_held {
            self.on_pledge_held(from, held);
        }
        for void in &frame.pledges_void {
            self.on_pledge_void(from, void);
        }
    }

    fn on_beat(&mut self, from_store: StoreId, beat: Beat, response: bool) {
        let Beat {
            region,
            from,
            to,
            term,
            conf_ver,
            ..
        } = beat;
        if region.0 == 0 || from.0 == 0 || to.0 == 0 || self.is_elsewhere(region, from, from_store)
        {
            return;
        }
        if let Some(peer) = self.peers.get_mut(&region)
            && peer.id == to
            && let Some(raft) = &peer.raft
        {
            peer.stage.hear(conf_ver);
            // One of the present term or a later one comes from an elected leader, whoever that is; an older one from a
            // stranger comes from a peer that may have been removed.
            let stale =
                term < raft.term() && !peer.region.peers.iter().any(|member| member.id == from.0);
            if stale && matches!(peer.stage, Stage::Normal) {
                peer.send_notice(from, from_store, &mut self.cx);
                return;
            }
            let taken = peer.step_message(beat.into_message(response), from_store, &mut self.cx);
            peer.meet(from, from_store, &mut self.cx);
            if taken && !response && !stale {
                peer.heard_leader(self.cx.tick);
            }
            return;
        }
        let address = Address {
            region,
            from,
            from_store,
            to,
            conf_ver,
            creates: !response,
        };
        if !self.find_receiver(address) {
            return;
        }
        let Some(peer) = self.peers.get_mut(&region) else {
            return;
        };
        peer.meet(from, from_store, &mut self.cx);
        peer.step_message(beat.into_message(response), from_store, &mut self.cx);
    }

    fn on_message(&mut self, from_store: StoreId, message: wire::RaftMessage) {
        use wire::raft_message::Body;
        if message.to_store != self.cx.store.0
            || message.from_store != from_store.0
            || message.region_id == 0
        {
            return;
        }
        let (region, from) = (RegionId(message.region_id), PeerId(message.from_peer));
        if self.is_elsewhere(region, from, from_store) {
            return;
        }
        let creates = matches!(
            message.body,
            Some(Body::PreVoteRequest(_) | Body::VoteRequest(_) | Body::Append(_))
        );
        let address = Address {
            region,
            from,
            from_store,
            to: PeerId(message.to_peer),
            conf_ver: message.epoch.map(|epoch| epoch.conf_ver),
            creates,
        };
        let leads = matches!(message.body, Some(Body::Append(_)));
        let asks = message.body.is_none();
        // Bytes that no correct peer sends are dropped: Raft repeats what matters (R34).
        let Ok(decoded) = codec::message_from_wire(message) else {
            return;
        };
        if !self.find_receiver(address) {
            return;
        }
        let Some(peer) = self.peers.get_mut(&address.region) else {
            return;
        };
        // Who asks after its own membership speaks to whomever it knows: its descriptor need not name the receiver.
        if !asks {
            peer.stage.hear(address.conf_ver);
        }
        if !matches!(peer.stage, Stage::Uninitialized { .. })
            && peer.member(address.from).is_none()
            && address.conf_ver.unwrap_or_default() < peer.epoch().conf_ver
        {
            // A removed peer that does not know it. Its term counts for nothing.
            peer.send_notice(address.from, from_store, &mut self.cx);
            return;
        }
        let Some(message) = decoded else { return };
        peer.meet(address.from, from_store, &mut self.cx);
        let taken = peer.step_message(message, from_store, &mut self.cx);
        if taken && leads {
            peer.heard_leader(self.cx.tick);
        }
    }

    /// Whether a peer is a member on another store than the one that speaks for it. No correct store does that, and what it
    /// says could make two leaders of one term out of one (R34).
    pub(crate) fn is_elsewhere(&self, region: RegionId, peer: PeerId, store: StoreId) -> bool {
        self.peers
            .get(&region)
            .and_then(|local| local.member(peer))
            .is_some_and(|member| member.store_id != store.0)
    }

    /// Whether the peer a message is for is here; it is created if the message may do that. Otherwise the message is to be
    /// dropped, and what its sender must know is on its way.
    pub(crate) fn find_receiver(&mut self, address: Address) -> bool {
        let Address {
            region, from, to, ..
        } = address;
        if from.0 == 0 || to.0 == 0 {
            return false;
        }
        match self.peers.get(&region) {
            Some(peer) if peer.id == to => !matches!(peer.stage, Stage::Stopping { .. }),
            Some(peer) if peer.id < to => {
                // Proof (b): a later peer of the region was added to this store, so ours was removed. While ours is not
                // flushed dead the message is dropped; it will be repeated.
                if peer.may_die(&self.cx) && address.creates {
                    self.stop(region, "a later peer of the region was added to this store");
                }
                false
            }
            Some(peer) => {
                if peer.is_normal() {
                    peer.send_notice(from, address.from_store, &mut self.cx);
                }
                false
            }
            None => self.create_uninitialized(address),
        }
    }

    /// Creates a peer that a message speaks to, unless one as late or later lived here (R19). Its mark is synced before
    /// it says anything.
    fn create_uninitialized(&mut self, address: Address) -> bool {
        let Address {
            region,
            from,
            from_store,
            to,
            conf_ver,
            creates,
        } = address;
        let (mark, tombstone) = match past(&self.cx.engine, region) {
            Ok(past) => past,
            Err(error) => {
                self.cx.fail(error);
                return false;
            }
        };
        let newest = mark.map_or(0, |mark| mark.peer_id.max(mark.dead_peer_id));
        let newest = newest.max(tombstone.as_ref().map_or(0, |state| state.peer_id));
        if to.0 <= newest {
            if let Some(descriptor) = tombstone.and_then(|state| state.region) {
                // Proof, if it does not name the sender; else it tells whom to ask, should nobody else be left.
                let known = descriptor.region_epoch.unwrap_or_default().conf_ver;
                if known > conf_ver.unwrap_or_default() {
                    let notice = wire::Notice {
                        to_peer: from.0,
                        region: Some(descriptor),
                    };
                    self.cx.frame(from_store, false).notices.push(notice);
                }
            }
            return false;
        }
        if !creates || conf_ver.is_none() {
            return false;
        }
        let descriptor = metapb::Region {
            id: region.0,
            ..Default::default()
        };
        let stage = Stage::Uninitialized { conf_ver };
        let state = wire::RaftState {
            peer_id: to.0,
            ..Default::default()
        };
        let mut peer = Box::new(Peer::new(to, descriptor, stage, state, self.cx.tick));
        peer.remember_contact(from, from_store);
        if let Err(error) = peer.start_raft(Vec::new(), false, &mut self.cx) {
            self.cx.fail(error);
            return false;
        }
        peer.put_mark(&mut self.cx);
        peer.hold(&mut self.cx);
        peer.publish(&mut self.cx);
        self.cx.touch(&mut peer);
        self.peers.insert(region, peer);
        true
    }

    /// What placement knows of a region is the report of a leader that had applied it, so it proves what a notice of that
    /// leader would. (That placement does not know a region proves nothing.)
    pub(crate) fn on_described(&mut self, region: metapb::Region) {
        if let Some(peer) = self.peers.get(&RegionId(region.id)) {
            let to_peer = peer.id.0;
            self.on_notice(wire::Notice {
                to_peer,
                region: Some(region),
            });
        }
    }

    /// Proof (c): an applied descriptor of the region that is newer than ours and does not name us. One that names us comes from
    /// where the last peer that we knew has died, and says who the others are.
    fn on_notice(&mut self, notice: wire::Notice) {
        let Some(descriptor) = notice.region else {
            return;
        };
        let region = RegionId(descriptor.id);
        let Some(peer) = self
            .peers
            .get_mut(&region)
            .filter(|peer| peer.id.0 == notice.to_peer)
        else {
            return;
        };
        let known = match &peer.stage {
            Stage::Normal => Some(peer.epoch().conf_ver),
            Stage::Uninitialized { conf_ver } => *conf_ver,
            // The snapshot's descriptor names its receiver, and is the newest that does.
            Stage::Installing(installing) => {
                let descriptor = installing.head.region.as_ref();
                descriptor.and_then(|region| region.region_epoch.map(|epoch| epoch.conf_ver))
            }
            Stage::Dormant | Stage::Absorbed { .. } | Stage::Stopping { .. } => None,
        };
        let newer =
            known.is_some_and(|known| descriptor.region_epoch.unwrap_or_default().conf_ver > known);
        let named = descriptor.peers.iter().any(|member| member.id == peer.id.0);
        if newer && named {
            for member in descriptor.peers {
                if member.id != peer.id.0 {
                    peer.meet(PeerId(member.id), StoreId(member.store_id), &mut self.cx);
                }
            }
        } else if newer && peer.may_die(&self.cx) {
            self.stop(region, "a newer configuration does not name this peer");
        }
    }
}

impl Peer {
    /// Gives Raft a message, and tells whether it was taken. A refusal needs no answer: Raft repeats what matters.
    fn step_message<E: Engine>(
        &mut self,
        message: raft::Message,
        from_store: StoreId,
        cx: &mut Context<E>,
    ) -> bool {
        let Some(raft) = self.raft.as_mut() else {
            return false;
        };
        let from = message.from;
        let message = cx.support.beside(from_store, message);
        let refused = raft.step(RaftEvent::Message(message)).err();
        if let Some(refused) = &refused {
            self.tell_second_leader(refused, from_store, cx);
        }
        self.index_pledge(from, from_store, cx);
        cx.touch(self);
        refused.is_none()
    }

    /// If that is why Raft refused what a store said: tells, once a term, that it claims a leadership that another peer has (R1).
    pub fn tell_second_leader<E: Engine>(
        &mut self,
        refused: &raft::Error,
        from_store: StoreId,
        cx: &mut Context<E>,
    ) {
        let raft::Error::TwoLeaders {
            term,
            leader,
            other,
        } = *refused
        else {
            return;
        };
        if self.contradicted_term != term {
            self.contradicted_term = term;
            cx.out.second_leaders.push(SecondLeader {
                region: self.region_id(),
                peer: self.id,
                term,
                leader,
                other,
                other_store: from_store,
            });
        }
    }

    /// Tells a stranger what the region's members are.
    pub fn send_notice<E: Engine>(&self, to: PeerId, to_store: StoreId, cx: &mut Context<E>) {
        let notice = wire::Notice {
            to_peer: to.0,
            region: Some(self.region.clone()),
        };
        cx.frame(to_store, false).notices.push(notice);
    }

    /// Lets nothing of this peer leave before the batch being gathered is synced.
    pub fn hold<E: Engine>(&mut self, cx: &mut Context<E>) {
        self.hold_sequence = cx.current_sequence();
        cx.log.require_sync();
    }

    /// A leader of the region spoke to this peer.
    pub fn heard_leader(&mut self, tick: u64) {
        self.heard_tick = tick;
        self.asked_members = false;
    }

    /// A peer that heard no leader for long asks the members whether it is still one of them: whoever has applied its
    /// removal answers with a notice. (A learner that missed its removal has no other way to learn.) All that it knows may
    /// have gone since, so if that does not help it asks placement as well, which knows the members of today.
    pub fn tick_leaderless<E: Engine>(&mut self, cx: &mut Context<E>) {
        if cx.tick.saturating_sub(self.heard_tick) < cx.options.leaderless_ticks {
            return;
        }
        self.heard_tick = cx.tick;
        if self.raft.is_none() || self.is_leader() {
            return;
        }
        if self.asked_members {
            cx.out.describe.push(self.region_id());
        }
        self.asked_members = true;
        // While a snapshot is being installed its descriptor is the newer one, and may be the only one.
        let newest = match &self.stage {
            Stage::Installing(installing) => installing.head.region.as_ref(),
            Stage::Uninitialized { .. }
            | Stage::Normal
            | Stage::Dormant
            | Stage::Absorbed { .. }
            | Stage::Stopping { .. } => None,
        };
        let members = newest
            .unwrap_or(&self.region)
            .peers
            .iter()
            .map(|member| (PeerId(member.id), StoreId(member.store_id)));
        let asked: Vec<_> = members
            .chain(self.contacts.iter().copied())
            .filter(|(id, _)| *id != self.id)
            .collect();
        for (to, to_store) in asked {
            let route = codec::Route {
                region: self.region_id(),
                from_store: cx.store,
                to_store,
                epoch: newest.map_or(self.epoch(), |region| {
                    region.region_epoch.unwrap_or_default()
                }),
            };
            let question = codec::membership_question(route, self.id, to, self.term());
            cx.frame(to_store, false).messages.push(question);
        }
    }
}

/// What the disk remembers of peers of a region that is not in memory.
pub(crate) fn past<E: Engine>(
    engine: &E,
    region: RegionId,
) -> Result<(Option<wire::PeerMark>, Option<wire::RegionState>), Error> {
    let mark = match engine.get(Family::Log, &keys::peer_mark(region))? {
        Some(bytes) => Some(codec::decode_record(&bytes).ok_or(Error::Corrupt {
            region,
            what: "the peer mark",
        })?),
        None => None,
    };
    let state = match engine.get(Family::State, &keys::region_state(region))? {
        Some(bytes) => Some(codec::decode_record(&bytes).ok_or(Error::Corrupt {
            region,
            what: "the region state",
        })?),
        None => None,
    };
    Ok((mark, state))
}
