//! What the leader of a region does with an order, and with which words it refuses (REGIONS §3, §4, §5, §6): in the order
//! in which `crates/store/src/conf_change.rs` looks at it. What placement is told of a refusal arrives late, again, or not at
//! all, like everything else.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use placement::{Event, Order, OrderKind, Request};
use proto::metapb::{self, PeerRole};
use proto::pontoon::v1::step_refusal::Kind;
use proto::pontoon::v1::{OwnSplit, StepId, StepRefusal, own_split};

use super::region::Truth;
use super::{Bug, REPLICAS, World};

/// With what a leader may refuse an order because of what only its store knows: its log, its lane, its peers' progress.
fn whims(order: &OrderKind) -> Vec<Kind> {
    let mut kinds = vec![
        Kind::LaneBusy,
        Kind::Behind,
        Kind::Transferring,
        Kind::Invalid,
    ];
    if !matches!(order, OrderKind::TransferLeader(_)) {
        kinds.extend([Kind::Joint, Kind::Frozen]);
    }
    match order {
        OrderKind::AddLearner(_) => kinds.extend([Kind::PeerIdUsed, Kind::StoreHasPeer]),
        OrderKind::Swap { .. } => {
            kinds.extend([Kind::NotCaughtUp, Kind::TooFewLive, Kind::LeaderWouldLeave]);
        }
        OrderKind::TransferLeader(_) | OrderKind::Merge(_) => kinds.push(Kind::NotCaughtUp),
        OrderKind::Split(_) => kinds.push(Kind::NoIds),
        OrderKind::RemoveLearner(_) => {}
    }
    kinds
}

/// Refusals of one step that this placement leader heard.
#[derive(Clone, Copy, Debug, Default)]
pub struct Heard {
    /// All but those that say nothing of the step.
    pub all: u32,
    /// Those that do not heal.
    pub lasting: u32,
}

/// What placement was told of refusals.
#[derive(Debug, Default)]
pub struct Refusals {
    /// On their way.
    under_way: Vec<StepRefusal>,
    /// By operator and step.
    heard: BTreeMap<(u64, u32), Heard>,
    /// How often each kind was told.
    pub told: BTreeMap<&'static str, u64>,
}

impl Refusals {
    /// What is on its way is lost.
    pub fn clear(&mut self) {
        self.under_way.clear();
    }

    /// Another placement leader has heard nothing yet.
    pub fn forget(&mut self) {
        self.heard.clear();
    }

    /// The step of an operator that was refused most, by what is `counted`.
    pub fn most(&self, operator: u64, counted: impl Fn(&Heard) -> u32) -> u32 {
        let steps = self.heard.range((operator, 0)..=(operator, u32::MAX));
        steps.map(|(_, heard)| counted(heard)).max().unwrap_or(0)
    }
}

impl World {
    /// A leader carries an order out, or says why not.
    pub fn obey(&mut self, order: &Order) {
        if self.dead() == Some(order.store.0) {
            return;
        }
        let Err(kind) = self.try_order(order) else {
            return;
        };
        let truth = self.regions.get(&order.region.0);
        let there = truth.filter(|truth| {
            let mut peers = truth.region.peers.iter();
            peers.any(|peer| peer.store_id == order.store.0)
        });
        self.refusals.under_way.push(StepRefusal {
            header: None,
            id: Some(order.id),
            region_id: order.region.0,
            epoch: there.and_then(|truth| truth.region.region_epoch),
            term: there.map_or(0, |truth| truth.term),
            kind: kind.into(),
            text: format!("it said {}", kind.as_str_name()),
        });
    }

    fn try_order(&mut self, order: &Order) -> Result<(), Kind> {
        let id = order.region.0;
        let transfer = matches!(order.kind, OrderKind::TransferLeader(_));
        let truth = self.regions.get(&id).ok_or(Kind::NotLeader)?;
        if truth.led_on() != Some(order.store.0) || !truth.has_quorum(self.dead()) {
            return Err(Kind::NotLeader);
        }
        // It hands everything over by itself, to whom it finds best.
        if transfer && self.stopping == Some(order.store.0) {
            return Err(Kind::StoreDraining);
        }
        let exact = truth.region.region_epoch == Some(order.epoch);
        if !exact && self.bug != Bug::EpochIgnored {
            return Err(Kind::EpochNotMatch);
        }
        let whims = whims(&order.kind);
        if let Some(kind) = truth.unwilling.filter(|kind| whims.contains(kind)) {
            return Err(kind);
        }
        if !self.calm && self.dice.one_in(3) {
            let kind = whims[self.dice.below(whims.len())];
            // It may take a while.
            if self.dice.one_in(2) {
                self.region(id).unwilling = Some(kind);
            }
            return Err(kind);
        }
        if !transfer && self.regions[&id].frozen.is_some() {
            return Err(Kind::Frozen);
        }
        if !transfer && self.regions[&id].is_joint() {
            return Err(Kind::Joint);
        }
        match &order.kind {
            OrderKind::AddLearner(peer) => self.add_learner(id, peer),
            OrderKind::RemoveLearner(peer) => self.remove_learner(id, peer),
            OrderKind::Swap { promote, demote } => self.enter_joint(id, promote, demote),
            OrderKind::TransferLeader(peer) => self.transfer(id, peer),
            OrderKind::Split(keys) => self.split(id, &keys[0].clone()),
            OrderKind::Merge(target) => self.freeze(id, target.id),
        }
    }

    fn region(&mut self, id: u64) -> &mut Truth {
        self.regions.get_mut(&id).expect("it obeys")
    }

    fn add_learner(&mut self, id: u64, peer: &metapb::Peer) -> Result<(), Kind> {
        let truth = self.regions.get_mut(&id).expect("it obeys");
        let there = |other: &metapb::Peer| other.store_id == peer.store_id;
        if truth.region.peers.iter().any(there) {
            return Err(Kind::StoreHasPeer);
        }
        let used = self.used.insert(peer.id, id);
        assert_eq!(used, None, "peer id {} is used twice", peer.id);
        truth.region.peers.push(*peer);
        truth.lagging.insert(peer.id);
        truth.moves(1, 0);
        Ok(())
    }

    fn remove_learner(&mut self, id: u64, peer: &metapb::Peer) -> Result<(), Kind> {
        let truth = self.region(id);
        if truth.role(peer.id) != Some(PeerRole::Learner) {
            return Err(Kind::Invalid);
        }
        truth.region.peers.retain(|other| other.id != peer.id);
        truth.lagging.remove(&peer.id);
        truth.moves(1, 0);
        *self.done.entry("removals").or_default() += 1;
        Ok(())
    }

    fn enter_joint(
        &mut self,
        id: u64,
        promote: &[metapb::Peer],
        demote: &[metapb::Peer],
    ) -> Result<(), Kind> {
        let dead = self.dead();
        let least = self.ruled.as_ref().map_or(REPLICAS, |ruled| ruled.least);
        let truth = self.regions.get_mut(&id).expect("it obeys");
        let before = truth.voters();
        let role = |peer: &metapb::Peer, role| truth.role(peer.id) == Some(role);
        let fits = promote.iter().all(|peer| role(peer, PeerRole::Learner))
            && demote.iter().all(|peer| role(peer, PeerRole::Voter));
        if !fits {
            return Err(Kind::Invalid);
        }
        if demote.iter().any(|peer| peer.id == truth.leader) {
            return Err(Kind::LeaderWouldLeave);
        }
        let level =
            |peer: &metapb::Peer| Some(peer.store_id) != dead && !truth.lagging.contains(&peer.id);
        if !promote.iter().all(level) {
            return Err(Kind::NotCaughtUp);
        }
        if !truth.stays_live(promote, demote, dead) {
            return Err(Kind::TooFewLive);
        }
        for peer in promote {
            truth.set_role(peer.id, PeerRole::IncomingVoter);
        }
        for peer in demote {
            truth.set_role(peer.id, PeerRole::DemotingVoter);
        }
        truth.moves(1, 0);
        assert!(
            truth.voters() >= before.min(least),
            "{before} voters became {}",
            truth.voters()
        );
        *self.done.entry("swaps").or_default() += 1;
        Ok(())
    }

    /// Also of a region that is joint or frozen.
    fn transfer(&mut self, id: u64, peer: &metapb::Peer) -> Result<(), Kind> {
        let dead = self.dead();
        let truth = self.region(id);
        match truth.role(peer.id) {
            Some(PeerRole::Voter | PeerRole::IncomingVoter) if peer.id != truth.leader => {}
            _ => return Err(Kind::Invalid),
        }
        if Some(peer.store_id) == dead {
            return Err(Kind::NotCaughtUp);
        }
        truth.leader = peer.id;
        truth.term += 1;
        *self.done.entry("transfers").or_default() += 1;
        Ok(())
    }

    /// Freezes a region for a neighbour, as that is now.
    fn freeze(&mut self, id: u64, into: u64) -> Result<(), Kind> {
        let source = &self.regions[&id];
        let led_here = |into: &&Truth| into.led_on() == source.led_on();
        let target = self.regions.get(&into).filter(led_here);
        let target = target.ok_or(Kind::Invalid)?;
        let (left, right) = (&source.region, &target.region);
        let touch = (!left.end_key.is_empty() && left.end_key == right.start_key)
            || (!right.end_key.is_empty() && right.end_key == left.start_key);
        let stores = |truth: &Truth| {
            let peers = truth.region.peers.iter();
            peers
                .map(|peer| (peer.store_id, peer.role))
                .collect::<BTreeSet<_>>()
        };
        if !touch || stores(source) != stores(target) {
            return Err(Kind::Invalid);
        }
        if target.frozen.is_some() {
            return Err(Kind::Frozen);
        }
        if target.is_joint() {
            return Err(Kind::Joint);
        }
        let dead = self.dead();
        let level = |truth: &Truth| {
            let mut peers = truth.region.peers.iter();
            truth.lagging.is_empty() && peers.all(|peer| Some(peer.store_id) != dead)
        };
        if !level(source) || !level(target) {
            return Err(Kind::NotCaughtUp);
        }
        let epoch = self.regions[&into].region.region_epoch;
        let truth = self.region(id);
        truth.frozen = epoch.map(|epoch| (into, epoch));
        truth.moves(0, 1);
        *self.done.entry("freezes").or_default() += 1;
        Ok(())
    }

    /// The store draws the child's identities from its pool: here from a range of their own.
    fn split(&mut self, id: u64, key: &Bytes) -> Result<(), Kind> {
        let truth = self.regions.get_mut(&id).expect("it obeys");
        let inside = *key > truth.region.start_key
            && (truth.region.end_key.is_empty() || *key < truth.region.end_key);
        if !inside {
            return Err(Kind::Invalid);
        }
        let ahead = OwnSplit {
            region_id: id,
            epoch: truth.region.region_epoch,
            cause: own_split::Cause::Appends.into(),
            ..OwnSplit::default()
        };
        truth.moves(0, 1);
        self.next_split += 1;
        let mut child = truth.clone();
        child.region.id = 1_000_000 + self.next_split * 100;
        child.region.start_key = key.clone();
        truth.region.end_key = key.clone();
        child.lagging.clear();
        child.unwilling = None;
        child.term = 1;
        for (at, peer) in child.region.peers.iter_mut().enumerate() {
            let old = peer.id;
            peer.id = child.region.id + 1 + at as u64;
            if truth.lagging.contains(&old) {
                child.lagging.insert(peer.id);
            }
            if old == truth.leader {
                child.leader = peer.id;
            }
        }
        let pieces = vec![truth.region.clone(), child.region.clone()];
        self.regions.insert(child.region.id, child);
        *self.done.entry("splits").or_default() += 1;
        // As if its leader had wanted it; that may come late, and so may what came of it.
        let told = self.dice.below(4);
        if told < 2 {
            self.step(Event::OwnSplit(Box::new(ahead.clone())));
        }
        if self.dice.one_in(2) {
            self.request(Request::ReportSplit(pieces));
        }
        if told == 2 {
            self.step(Event::OwnSplit(Box::new(ahead)));
        }
        Ok(())
    }

    /// A refusal arrives, perhaps again, perhaps late; or it is lost.
    pub fn deliver_refusal(&mut self) {
        if self.refusals.under_way.is_empty() {
            return;
        }
        let at = self.dice.below(self.refusals.under_way.len());
        let refusal = if self.dice.one_in(8) {
            self.refusals.under_way[at].clone()
        } else {
            self.refusals.under_way.swap_remove(at)
        };
        self.refusals.under_way.truncate(64);
        if !self.dice.one_in(6) {
            self.tell_refusal(refusal);
        }
    }

    /// All of them arrive.
    pub fn deliver_refusals(&mut self) {
        for refusal in std::mem::take(&mut self.refusals.under_way) {
            self.tell_refusal(refusal);
        }
    }

    fn tell_refusal(&mut self, refusal: StepRefusal) {
        let kind = refusal.kind();
        *self.refusals.told.entry(kind.as_str_name()).or_default() += 1;
        let lasting = matches!(
            kind,
            Kind::Invalid
                | Kind::LeaderWouldLeave
                | Kind::StoreHasPeer
                | Kind::PeerIdUsed
                | Kind::StoreDraining
        );
        if !matches!(kind, Kind::NotLeader | Kind::EpochNotMatch) {
            let StepId {
                operator_id,
                position,
            } = refusal.id.expect("every order has one");
            let heard = self.refusals.heard.entry((operator_id, position));
            let heard = heard.or_default();
            heard.all += 1;
            heard.lasting += u32::from(lasting);
        }
        self.step(Event::Refused(Box::new(refusal)));
    }
}
