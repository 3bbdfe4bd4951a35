//! A region as its stores see it, and what it does by itself.

use std::collections::BTreeSet;
use std::time::Duration;

use placement::RegionInfo;
use proto::metapb::{self, PeerRole};
use proto::pontoon::v1::step_refusal::Kind;

use super::{Dice, REPLICAS};

/// A region.
#[derive(Clone, Debug)]
pub struct Truth {
    pub region: metapb::Region,
    pub leader: u64,
    pub term: u64,
    /// Learners that lag.
    pub lagging: BTreeSet<u64>,
    /// The neighbour that may take it in, and the only epoch at which it may.
    pub frozen: Option<(u64, metapb::RegionEpoch)>,
    /// What its leader refuses every order with, until that is over.
    pub unwilling: Option<Kind>,
}

impl Truth {
    pub fn report(&self) -> RegionInfo {
        let peer = |id: &u64| {
            self.region
                .peers
                .iter()
                .find(|peer| peer.id == *id)
                .copied()
        };
        RegionInfo {
            region: self.region.clone(),
            leader: peer(&self.leader),
            term: self.term,
            pending: self.lagging.iter().filter_map(peer).collect(),
            interval: Duration::from_secs(60),
            ..RegionInfo::default()
        }
    }

    pub fn is_joint(&self) -> bool {
        let joint = |peer: &metapb::Peer| {
            matches!(
                peer.role(),
                PeerRole::IncomingVoter | PeerRole::DemotingVoter
            )
        };
        self.region.peers.iter().any(joint)
    }

    pub fn voters(&self) -> usize {
        let votes =
            |peer: &&metapb::Peer| matches!(peer.role(), PeerRole::Voter | PeerRole::IncomingVoter);
        self.region.peers.iter().filter(votes).count()
    }

    pub fn role(&self, id: u64) -> Option<PeerRole> {
        self.region
            .peers
            .iter()
            .find(|peer| peer.id == id)
            .map(metapb::Peer::role)
    }

    pub fn set_role(&mut self, id: u64, role: PeerRole) {
        for peer in &mut self.region.peers {
            if peer.id == id {
                peer.set_role(role);
            }
        }
    }

    pub fn moves(&mut self, membership: u64, version: u64) {
        let epoch = self.region.region_epoch.as_mut().expect("set at its birth");
        epoch.conf_ver += membership;
        epoch.version += version;
    }

    /// The store that its leader is on.
    pub fn led_on(&self) -> Option<u64> {
        self.report().leader.map(|leader| leader.store_id)
    }

    /// Whether each half of a joint configuration has a live quorum and one voter more, or a quorum if a dead one leaves or
    /// they are few.
    pub fn stays_live(
        &self,
        promote: &[metapb::Peer],
        demote: &[metapb::Peer],
        dead: Option<u64>,
    ) -> bool {
        let alive = |peer: &&metapb::Peer| Some(peer.store_id) != dead;
        let frees = demote.iter().any(|peer| !alive(&peer));
        let votes = |peer: &&metapb::Peer| peer.role() == PeerRole::Voter;
        let outgoing: Vec<_> = self.region.peers.iter().filter(votes).collect();
        let stays = |peer: &&metapb::Peer| demote.iter().all(|other| other.id != peer.id);
        let kept = outgoing.iter().copied().filter(stays);
        let incoming: Vec<_> = kept.chain(promote).collect();
        [outgoing, incoming].iter().all(|half| {
            let spare = usize::from(half.len() >= REPLICAS && !frees);
            half.iter().filter(|peer| alive(peer)).count() > half.len() / 2 + spare
        })
    }

    /// Whether each half of its configuration has a quorum.
    pub fn has_quorum(&self, dead: Option<u64>) -> bool {
        use PeerRole::{DemotingVoter, IncomingVoter, Voter};
        [[Voter, DemotingVoter], [Voter, IncomingVoter]]
            .iter()
            .all(|half| {
                let peers = self.region.peers.iter();
                let half: Vec<_> = peers.filter(|peer| half.contains(&peer.role())).collect();
                let live = half.iter().filter(|peer| Some(peer.store_id) != dead);
                live.count() > half.len() / 2
            })
    }

    /// Nothing is under way any more.
    pub fn check_settled(&self) {
        let region = &self.region;
        assert!(!self.is_joint(), "a joint state stays: {region:?}");
        assert_eq!(self.frozen, None, "it stays frozen: {region:?}");
    }

    /// What the leader does by itself: leave a joint state, send what learners lack, become willing again.
    pub fn live(&mut self, dice: &mut Dice, dead: Option<u64>) {
        if !self.has_quorum(dead) {
            return;
        }
        if self.is_joint() && dice.one_in(2) {
            for peer in &mut self.region.peers {
                match peer.role() {
                    PeerRole::IncomingVoter => peer.set_role(PeerRole::Voter),
                    PeerRole::DemotingVoter => peer.set_role(PeerRole::Learner),
                    PeerRole::Voter | PeerRole::Learner => {}
                }
            }
            self.moves(1, 0);
        }
        if dice.one_in(3) {
            self.unwilling = None;
        }
        let alive = |id: &&u64| {
            let on = |peer: &&metapb::Peer| peer.id == **id && Some(peer.store_id) != dead;
            self.region.peers.iter().any(|peer| on(&peer))
        };
        let next = self.lagging.iter().find(alive).copied();
        if let Some(id) = next.filter(|_| dice.one_in(2)) {
            self.lagging.remove(&id);
        }
    }

    /// Another voter is elected.
    pub fn elect(&mut self, dice: &mut Dice, dead: Option<u64>) {
        let voters: Vec<u64> = self
            .region
            .peers
            .iter()
            .filter(|peer| peer.role() == PeerRole::Voter && Some(peer.store_id) != dead)
            .map(|peer| peer.id)
            .collect();
        if !voters.is_empty() && self.has_quorum(dead) {
            self.leader = voters[dice.below(voters.len())];
            self.term += 1;
            self.unwilling = None;
        }
    }
}
