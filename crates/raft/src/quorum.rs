//! Counting: the only place that knows what a quorum is.
//!
//! A configuration has one or two halves. The outgoing half is every voter and demoting voter, the incoming half every voter
//! and incoming voter; outside of a joint configuration they are the same. Whatever needs a quorum needs a majority of each
//! half (Raft §6). Learners are in neither.

use crate::planted::Bug;
use crate::types::{Index, MemberKind, Membership, PeerId};

/// What the votes so far amount to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VoteOutcome {
    /// A majority of each half granted.
    Won,
    /// Some half cannot reach a majority any more.
    Lost,
    /// Neither yet.
    Open,
}

/// The quorums of one configuration.
#[derive(Clone, Copy, Debug)]
pub struct Quorum<'a> {
    membership: &'a Membership,
    bug: Option<Bug>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Half {
    Outgoing,
    Incoming,
}

const HALVES: [Half; 2] = [Half::Outgoing, Half::Incoming];

/// Groups up to this size are counted without allocating.
const INLINE_VOTERS: usize = 9;

impl<'a> Quorum<'a> {
    /// The quorums of `membership`. `bug` is for planted bugs only.
    pub fn new(membership: &'a Membership, bug: Option<Bug>) -> Self {
        Quorum { membership, bug }
    }

    fn voters(self, half: Half) -> impl Iterator<Item = PeerId> + 'a {
        let bug = self.bug;
        self.membership
            .members
            .iter()
            .filter_map(move |(peer, kind)| {
                let counts = match kind {
                    MemberKind::Voter => true,
                    MemberKind::Learner => bug == Some(Bug::LearnerCounted),
                    MemberKind::IncomingVoter => {
                        half == Half::Incoming || bug == Some(Bug::UnionQuorum)
                    }
                    MemberKind::DemotingVoter => {
                        half == Half::Outgoing || bug == Some(Bug::UnionQuorum)
                    }
                };
                counts.then_some(*peer)
            })
    }

    fn halves(self) -> &'static [Half] {
        if self.membership.is_joint() {
            &HALVES
        } else {
            &HALVES[..1]
        }
    }

    /// The highest index that a majority of each half has reached.
    pub fn committed(self, matched: impl Fn(PeerId) -> Index) -> Index {
        let half = |half| {
            let mut inline = [0; INLINE_VOTERS];
            let mut count = 0;
            for peer in self.voters(half) {
                if count == INLINE_VOTERS {
                    let mut all: Vec<Index> = self.voters(half).map(&matched).collect();
                    return majority(&mut all);
                }
                inline[count] = matched(peer);
                count += 1;
            }
            majority(&mut inline[..count])
        };
        self.halves()
            .iter()
            .map(|name| half(*name))
            .min()
            .unwrap_or(0)
    }

    /// Whether the peers for which `counted` holds include a majority of each half. Never with an empty configuration.
    pub fn reached(self, counted: impl Fn(PeerId) -> bool) -> bool {
        self.outcome(|peer| if counted(peer) { Some(true) } else { None }) == VoteOutcome::Won
    }

    /// What `votes` amount to.
    pub fn outcome(self, votes: impl Fn(PeerId) -> Option<bool>) -> VoteOutcome {
        let mut outcome = VoteOutcome::Won;
        for half in self.halves() {
            let (mut voters, mut granted, mut refused) = (0, 0, 0);
            for peer in self.voters(*half) {
                voters += 1;
                match votes(peer) {
                    Some(true) => granted += 1,
                    Some(false) => refused += 1,
                    None => {}
                }
            }
            let needed = voters / 2 + 1;
            if voters - refused < needed {
                return VoteOutcome::Lost;
            }
            if granted < needed {
                outcome = VoteOutcome::Open;
            }
        }
        outcome
    }
}

/// The highest value that a majority has reached; 0 when nobody is there.
fn majority(values: &mut [Index]) -> Index {
    if values.is_empty() {
        return 0;
    }
    values.sort_unstable_by(|a, b| b.cmp(a));
    values[values.len() / 2]
}

#[cfg(test)]
mod tests;
