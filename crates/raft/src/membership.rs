//! Configurations and the steps between them (Raft §6, REGIONS §3).

use std::collections::BTreeSet;

use crate::types::{MemberKind, Membership, MembershipChange, PeerId};

/// Why a change does not fit a configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MembershipError {
    /// Nothing but leaving is possible in a joint configuration.
    #[error("the configuration is joint")]
    Joint,
    /// There is no joint configuration to leave.
    #[error("the configuration is not joint")]
    NotJoint,
    /// The peer is a member already.
    #[error("peer {0} is a member already")]
    Member(PeerId),
    /// The peer is not a learner.
    #[error("peer {0} is not a learner")]
    NotLearner(PeerId),
    /// The peer is not a voter.
    #[error("peer {0} is not a voter")]
    NotVoter(PeerId),
    /// The change names a peer twice, or no peer at all.
    #[error("a change names each peer once, and at least one")]
    Names,
    /// Nobody would be left to vote.
    #[error("no voter would be left")]
    NoVoter,
    /// 0 is no peer.
    #[error("0 is no peer id")]
    Zero,
}

impl Membership {
    /// A configuration of voters.
    pub fn of_voters(voters: impl IntoIterator<Item = PeerId>) -> Self {
        Membership {
            members: voters
                .into_iter()
                .map(|peer| (peer, MemberKind::Voter))
                .collect(),
        }
    }

    /// The part `peer` has, if any.
    pub fn kind(&self, peer: PeerId) -> Option<MemberKind> {
        self.members.get(&peer).copied()
    }

    /// Whether `peer` is a member of any kind.
    pub fn contains(&self, peer: PeerId) -> bool {
        self.members.contains_key(&peer)
    }

    /// Whether nothing is known: the configuration of a peer that waits for its first snapshot.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Whether it has two halves.
    pub fn is_joint(&self) -> bool {
        self.members.values().any(|kind| match kind {
            MemberKind::IncomingVoter | MemberKind::DemotingVoter => true,
            MemberKind::Voter | MemberKind::Learner => false,
        })
    }

    /// Whether `peer` votes in at least one half.
    pub fn votes(&self, peer: PeerId) -> bool {
        match self.kind(peer) {
            Some(MemberKind::Voter | MemberKind::IncomingVoter | MemberKind::DemotingVoter) => true,
            Some(MemberKind::Learner) | None => false,
        }
    }

    /// Whether `peer` votes in the incoming half, that is, also after the joint configuration is left.
    pub fn keeps_voting(&self, peer: PeerId) -> bool {
        match self.kind(peer) {
            Some(MemberKind::Voter | MemberKind::IncomingVoter) => true,
            Some(MemberKind::Learner | MemberKind::DemotingVoter) | None => false,
        }
    }

    /// The configuration after `change`.
    ///
    /// Neighbouring configurations share a voter in all their quorums (R9): adding and removing touches learners only, and
    /// whatever changes voters goes through a joint configuration.
    ///
    /// # Errors
    /// [`MembershipError`] when the change does not fit; every peer decides alike, from the log alone.
    pub fn after(&self, change: &MembershipChange) -> Result<Membership, MembershipError> {
        if self.is_joint() && !matches!(change, MembershipChange::LeaveJoint) {
            return Err(MembershipError::Joint);
        }
        let mut next = self.clone();
        match change {
            MembershipChange::AddLearner(peer) => {
                if peer.0 == 0 {
                    return Err(MembershipError::Zero);
                }
                if next.members.insert(*peer, MemberKind::Learner).is_some() {
                    return Err(MembershipError::Member(*peer));
                }
            }
            MembershipChange::RemoveLearner(peer) => {
                if next.members.remove(peer) != Some(MemberKind::Learner) {
                    return Err(MembershipError::NotLearner(*peer));
                }
            }
            MembershipChange::EnterJoint { promote, demote } => {
                let names: BTreeSet<PeerId> = promote.iter().chain(demote).copied().collect();
                if names.is_empty() || names.len() != promote.len() + demote.len() {
                    return Err(MembershipError::Names);
                }
                for peer in promote {
                    if next.members.insert(*peer, MemberKind::IncomingVoter)
                        != Some(MemberKind::Learner)
                    {
                        return Err(MembershipError::NotLearner(*peer));
                    }
                }
                for peer in demote {
                    if next.members.insert(*peer, MemberKind::DemotingVoter)
                        != Some(MemberKind::Voter)
                    {
                        return Err(MembershipError::NotVoter(*peer));
                    }
                }
                if !next.members.keys().any(|peer| next.keeps_voting(*peer)) {
                    return Err(MembershipError::NoVoter);
                }
            }
            MembershipChange::LeaveJoint => {
                if !self.is_joint() {
                    return Err(MembershipError::NotJoint);
                }
                for kind in next.members.values_mut() {
                    *kind = match *kind {
                        MemberKind::IncomingVoter | MemberKind::Voter => MemberKind::Voter,
                        MemberKind::DemotingVoter | MemberKind::Learner => MemberKind::Learner,
                    };
                }
            }
        }
        Ok(next)
    }
}
