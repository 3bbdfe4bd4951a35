//! Counting against counting by hand.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{Quorum, VoteOutcome};
use crate::types::{Index, MemberKind, Membership, MembershipChange, PeerId};

fn membership() -> impl Strategy<Value = Membership> {
    let kind = prop_oneof![
        3 => Just(MemberKind::Voter),
        1 => Just(MemberKind::Learner),
        1 => Just(MemberKind::IncomingVoter),
        1 => Just(MemberKind::DemotingVoter),
    ];
    prop::collection::btree_map((1..=7_u64).prop_map(PeerId), kind, 0..=7)
        .prop_map(|members| Membership { members })
}

/// The halves, spelled out.
fn halves(membership: &Membership) -> Vec<Vec<PeerId>> {
    let of = |kinds: [MemberKind; 2]| -> Vec<PeerId> {
        let members = membership.members.iter();
        members
            .filter(|(_, kind)| kinds.contains(kind))
            .map(|(peer, _)| *peer)
            .collect()
    };
    let outgoing = of([MemberKind::Voter, MemberKind::DemotingVoter]);
    if membership.is_joint() {
        vec![outgoing, of([MemberKind::Voter, MemberKind::IncomingVoter])]
    } else {
        vec![outgoing]
    }
}

fn is_majority(count: usize, of: usize) -> bool {
    2 * count > of
}

fn reached_naively(membership: &Membership, counted: impl Fn(PeerId) -> bool) -> bool {
    halves(membership).iter().all(|half| {
        is_majority(
            half.iter().filter(|peer| counted(**peer)).count(),
            half.len(),
        )
    })
}

proptest! {
    #[test]
    fn commit_index_is_the_highest_that_quorums_have(
        membership in membership(),
        matched in prop::collection::btree_map((1..=7_u64).prop_map(PeerId), 0..10_u64, 7),
    ) {
        let of = |peer: PeerId| -> Index { matched[&peer] };
        let naive = (0..=10).rev().find(|index| reached_naively(&membership, |peer| of(peer) >= *index)).unwrap_or(0);
        prop_assert_eq!(Quorum::new(&membership, None).committed(of), naive);
    }

    #[test]
    fn votes_are_won_or_lost_as_no_open_vote_can_change(
        membership in membership(),
        votes in prop::collection::btree_map((1..=7_u64).prop_map(PeerId), any::<bool>(), 0..=7),
    ) {
        let outcome = Quorum::new(&membership, None).outcome(|peer| votes.get(&peer).copied());
        // Every way in which the open votes may still be cast.
        let mut wins = Vec::new();
        for cast in 0..128_u32 {
            let granted = |peer: PeerId| votes.get(&peer).copied().unwrap_or(cast >> (peer.0 - 1) & 1 == 1);
            wins.push(reached_naively(&membership, granted));
        }
        let naive = if wins.iter().all(|won| *won) {
            VoteOutcome::Won
        } else if wins.iter().any(|won| *won) {
            VoteOutcome::Open
        } else {
            VoteOutcome::Lost
        };
        prop_assert_eq!(outcome, naive);
    }

    #[test]
    fn reached_as_counted_by_hand(membership in membership(), counted in 0..128_u32) {
        let counted = |peer: PeerId| counted >> (peer.0 - 1) & 1 == 1;
        prop_assert_eq!(
            Quorum::new(&membership, None).reached(counted),
            !membership.is_empty() && reached_naively(&membership, counted) && halves(&membership).iter().all(|half| !half.is_empty())
        );
    }

    /// R9: whatever change is accepted, every quorum before shares a voter with every quorum after.
    #[test]
    fn neighbouring_configurations_share_a_voter(
        membership in membership(),
        promote in prop::collection::vec((1..=7_u64).prop_map(PeerId), 0..3),
        demote in prop::collection::vec((1..=7_u64).prop_map(PeerId), 0..3),
        peer in (1..=7_u64).prop_map(PeerId),
    ) {
        for change in [
            MembershipChange::AddLearner(peer),
            MembershipChange::RemoveLearner(peer),
            MembershipChange::EnterJoint { promote, demote },
            MembershipChange::LeaveJoint,
        ] {
            let Ok(next) = membership.after(&change) else { continue };
            let quorums = |of: &Membership| -> Vec<u32> {
                (0..128_u32)
                    .filter(|set| Quorum::new(of, None).reached(|peer| set >> (peer.0 - 1) & 1 == 1))
                    .collect()
            };
            for before in quorums(&membership) {
                for after in quorums(&next) {
                    prop_assert!(before & after != 0, "{membership:?} to {next:?}: {before:b} and {after:b}");
                }
            }
        }
    }
}

#[test]
fn large_groups_are_counted_as_well() {
    let membership = Membership::of_voters((1..=21).map(PeerId));
    let matched: BTreeMap<PeerId, Index> = (1..=21).map(|id| (PeerId(id), id)).collect();
    assert_eq!(
        Quorum::new(&membership, None).committed(|peer| matched[&peer]),
        11
    );
}

#[test]
fn an_empty_configuration_decides_nothing() {
    let membership = Membership::default();
    let quorum = Quorum::new(&membership, None);
    assert_eq!(quorum.committed(|_| 9), 0);
    assert!(!quorum.reached(|_| true));
    assert_eq!(quorum.outcome(|_| Some(true)), VoteOutcome::Lost);
}
