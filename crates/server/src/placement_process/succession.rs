//! How a member is replaced by the one that has its position now: the next step, derived from the committed descriptor and
//! nothing else, so that any leader goes on where another stopped.
//!
//! As any move of a replica (REGIONS §3): the newcomer is added as a learner; once it has caught up it and the old voter change
//! roles through a joint configuration; the old one is removed. Until then the old one counts, though it never answers, so a
//! quorum of the others has all that was acknowledged.

use std::fmt;

use proto::metapb::{self, PeerRole};
use proto::{StoreId, metapb::Peer};
use raft::PeerId;
use store::event::OrderKind;

use super::member::position;

/// What is to be done next for a newcomer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing: Raft leaves a joint configuration by itself.
    Settle,
    /// Add the newcomer as a learner.
    Add(StoreId),
    /// Let the newcomer vote, and the one that had its position not any more.
    Swap {
        /// Learners that become voters.
        promote: Vec<PeerId>,
        /// Voters that become learners.
        demote: Vec<PeerId>,
    },
    /// Remove a learner that had its position.
    Remove(PeerId),
    /// Nothing: it votes, and nobody else has its position.
    Done,
}

/// The next step for the process that is now at the position of `newcomer`.
pub fn next_step(region: &metapb::Region, newcomer: StoreId) -> Step {
    let is_joint = |peer: &Peer| {
        matches!(
            peer.role(),
            PeerRole::IncomingVoter | PeerRole::DemotingVoter
        )
    };
    if region.peers.iter().any(is_joint) {
        return Step::Settle;
    }
    let predecessors = |role: PeerRole| {
        let peers = region.peers.iter().filter(move |peer| {
            peer.role() == role
                && peer.store_id != newcomer.0
                && position(StoreId(peer.store_id)) == position(newcomer)
        });
        peers.map(|peer| PeerId(peer.id))
    };
    if let Some(learner) = predecessors(PeerRole::Learner).next() {
        return Step::Remove(learner);
    }
    let demote: Vec<_> = predecessors(PeerRole::Voter).collect();
    let own = region.peers.iter().find(|peer| peer.store_id == newcomer.0);
    match own.map(Peer::role) {
        None => Step::Add(newcomer),
        Some(PeerRole::Voter) if demote.is_empty() => Step::Done,
        Some(PeerRole::Voter) => Step::Swap {
            promote: Vec::new(),
            demote,
        },
        Some(PeerRole::Learner | PeerRole::IncomingVoter | PeerRole::DemotingVoter) => Step::Swap {
            promote: vec![PeerId(newcomer.0)],
            demote,
        },
    }
}

/// What is to be done about members that were silent for longer than one that is being taken in may be. A learner among them is
/// removed: a newcomer that is gone, or whom one replaced that is gone itself. Otherwise it would be spoken to for ever, for it takes
/// somebody at its position who asks to do more about it. Its vote does not count, so nothing that was acknowledged rests on it; a
/// voter stays, whoever is silent.
pub fn give_up<'a>(
    region: &metapb::Region,
    mut silent: impl Iterator<Item = &'a Peer>,
) -> Option<Step> {
    let is_learner = |peer: &&Peer| {
        let mut members = region.peers.iter().filter(|member| member.id == peer.id);
        members.any(|member| member.role() == PeerRole::Learner)
    };
    let learner = silent.find(is_learner)?;
    Some(Step::Remove(PeerId(learner.id)))
}

impl Step {
    /// What the leader is to be ordered, if anything.
    pub fn order(self) -> Option<OrderKind> {
        match self {
            Step::Settle | Step::Done => None,
            Step::Add(newcomer) => Some(OrderKind::AddLearner(metapb::Peer {
                id: newcomer.0,
                store_id: newcomer.0,
                role: PeerRole::Learner.into(),
                ..Default::default()
            })),
            Step::Swap { promote, demote } => Some(OrderKind::EnterJoint { promote, demote }),
            Step::Remove(learner) => Some(OrderKind::RemoveLearner(learner)),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Settle => f.write_str("a change is not complete yet"),
            Step::Add(_) => f.write_str("it becomes a learner"),
            Step::Swap { .. } => f.write_str("once it has caught up it becomes a voter"),
            Step::Remove(old) => write!(f, "{old} is removed"),
            Step::Done => f.write_str("it is a voter"),
        }
    }
}

/// The members of a group, by position: voters before learners.
pub fn members(region: &metapb::Region, size: usize) -> Vec<Option<StoreId>> {
    let mut members = vec![None; size];
    let (learners, voters): (Vec<&Peer>, Vec<&Peer>) = region
        .peers
        .iter()
        .partition(|peer| matches!(peer.role(), PeerRole::Learner | PeerRole::DemotingVoter));
    for peer in voters.into_iter().chain(learners) {
        let member = StoreId(peer.store_id);
        if let Some(slot) = position(member).and_then(|position| members.get_mut(position)) {
            slot.get_or_insert(member);
        }
    }
    members
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement_process::member::first_region;

    fn id(birth: u64, position: u64) -> StoreId {
        StoreId(birth << 3 | position)
    }

    /// Carries a step out as `store` does.
    fn apply(region: &mut metapb::Region, step: Step) {
        let find = |region: &mut metapb::Region, id: PeerId| {
            let at = region.peers.iter().position(|peer| peer.id == id.0);
            at.expect("a member")
        };
        match step.order().expect("something to do") {
            OrderKind::AddLearner(peer) => {
                assert!(region.peers.iter().all(|other| other.id != peer.id));
                region.peers.push(peer);
            }
            OrderKind::RemoveLearner(peer) => {
                let at = find(region, peer);
                assert_eq!(region.peers.remove(at).role(), PeerRole::Learner);
            }
            OrderKind::EnterJoint { promote, demote } => {
                for (peers, before, after) in [
                    (promote, PeerRole::Learner, PeerRole::Voter),
                    (demote, PeerRole::Voter, PeerRole::Learner),
                ] {
                    for peer in peers {
                        let at = find(region, peer);
                        assert_eq!(region.peers[at].role(), before);
                        region.peers[at].set_role(after);
                    }
                }
            }
            other => panic!("{other:?}"),
        }
        let voters = region
            .peers
            .iter()
            .filter(|peer| peer.role() == PeerRole::Voter);
        assert_eq!(voters.count(), 3, "a voter leaves when its successor comes");
    }

    /// Takes `newcomer` in, at most `steps` steps.
    fn take_in(region: &mut metapb::Region, newcomer: StoreId, steps: usize) {
        for _ in 0..steps {
            match next_step(region, newcomer) {
                Step::Done => return,
                step => apply(region, step),
            }
        }
    }

    /// Whatever was begun for another that was emptied in its turn, the last one ends up as the only one of its position.
    #[test]
    fn a_newcomer_is_taken_in_from_wherever_another_stopped() {
        let position_2 = |region: &metapb::Region| -> Vec<Peer> {
            let peers = region.peers.iter().copied();
            peers
                .filter(|peer| position(StoreId(peer.store_id)) == Some(1))
                .collect()
        };
        for gone in [false, true] {
            for steps in 0..=4 {
                for again in 0..=4 {
                    let mut region = first_region(&[id(1, 1), id(0, 2), id(3, 3)]);
                    take_in(&mut region, id(7, 2), steps);
                    take_in(&mut region, id(5, 2), again);
                    // Both may be given up before the next one comes.
                    if gone {
                        let silent: Vec<Peer> = position_2(&region);
                        while let Some(step) = give_up(&region, silent.iter()) {
                            apply(&mut region, step);
                        }
                        assert_eq!(region.peers.len(), 3, "{steps} {again}");
                    }
                    take_in(&mut region, id(6, 2), 10);
                    let members: Vec<_> = region.peers.iter().map(|peer| peer.store_id).collect();
                    let mut expected = [id(1, 1), id(3, 3), id(6, 2)].map(|id| id.0);
                    expected.sort_by_key(|id| members.iter().position(|member| member == id));
                    assert_eq!(members, expected, "{steps} {again}");
                    assert!(
                        region
                            .peers
                            .iter()
                            .all(|peer| peer.role() == PeerRole::Voter)
                    );
                    for member in members {
                        assert_eq!(next_step(&region, StoreId(member)), Step::Done);
                    }
                }
            }
        }
    }

    #[test]
    fn who_votes_is_not_given_up() {
        let mut region = first_region(&[id(1, 1), id(2, 2), id(3, 3)]);
        let silent = region.peers.clone();
        assert_eq!(give_up(&region, silent.iter()), None);
        apply(&mut region, Step::Add(id(9, 2)));
        // It speaks.
        assert_eq!(give_up(&region, silent.iter()), None);
        let silent = region.peers.clone();
        let newcomer = Some(Step::Remove(PeerId(id(9, 2).0)));
        assert_eq!(give_up(&region, silent.iter()), newcomer);
        for role in [
            PeerRole::IncomingVoter,
            PeerRole::DemotingVoter,
            PeerRole::Voter,
        ] {
            region.peers[3].set_role(role);
            assert_eq!(give_up(&region, silent.iter()), None);
        }
    }

    #[test]
    fn a_joint_configuration_is_left_first() {
        let mut region = first_region(&[id(1, 1), id(2, 2), id(3, 3)]);
        region.peers[0].set_role(PeerRole::DemotingVoter);
        assert_eq!(next_step(&region, id(9, 2)), Step::Settle);
        assert!(Step::Settle.order().is_none());
    }

    #[test]
    fn members_are_told_by_position() {
        let mut region = first_region(&[id(1, 1), id(2, 2), id(3, 3)]);
        let told = |region: &metapb::Region| members(region, 3);
        let first = [id(1, 1), id(2, 2), id(3, 3)].map(Some);
        apply(&mut region, Step::Add(id(9, 2)));
        assert_eq!(told(&region), first);
        let step = next_step(&region, id(9, 2));
        apply(&mut region, step);
        assert_eq!(told(&region)[1], Some(id(9, 2)));
        assert_eq!(told(&metapb::Region::default()), [None; 3]);
    }
}
