//! How a region comes to be where a neighbour is: on the same stores, in the same roles (REGIONS §5).

use proto::metapb::PeerRole;
use proto::{StoreId, metapb};

use crate::regions::RegionInfo;

/// Who votes from then on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Comes {
    /// A new peer on this store.
    New(StoreId),
    /// A learner that is there already.
    Learner(metapb::Peer),
}

/// A voter that does not vote any more, and who does in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Exchange {
    /// Who votes from then on.
    pub comes: Comes,
    /// Who does not.
    pub voter: metapb::Peer,
    /// Whether that one stays, as a learner.
    pub stays: bool,
}

/// The changes after which a region is where a neighbour is, in this order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Alignment {
    /// Voters, the leader last.
    pub exchanges: Vec<Exchange>,
    /// Stores that get a new learner.
    pub arrivals: Vec<StoreId>,
    /// Learners that go.
    pub departures: Vec<metapb::Peer>,
}

impl Alignment {
    /// Of a region with a neighbour; `None` if they have different numbers of voters or of learners, or are joint.
    pub fn new(region: &RegionInfo, target: &RegionInfo) -> Option<Self> {
        if region.is_joint() || target.is_joint() {
            return None;
        }
        let role = |of: &RegionInfo, store: u64| of.peer_on(StoreId(store)).map(metapb::Peer::role);
        let of = |of: &RegionInfo, wanted: PeerRole| -> Vec<metapb::Peer> {
            let peers = of.region.peers.iter();
            peers
                .filter(|peer| peer.role() == wanted)
                .copied()
                .collect()
        };
        let (voters, learners) = (of(region, PeerRole::Voter), of(region, PeerRole::Learner));
        let (votes, copies) = (of(target, PeerRole::Voter), of(target, PeerRole::Learner));
        if voters.len() != votes.len() || learners.len() != copies.len() {
            return None;
        }
        let store = |peer: &metapb::Peer| StoreId(peer.store_id);
        let mut goes = voters;
        goes.retain(|peer| role(target, peer.store_id) != Some(PeerRole::Voter));
        // Those that stay as learners are met with learners that are there: nothing is copied for either.
        let leads = |peer: &metapb::Peer| region.leader.map(|leader| leader.id) == Some(peer.id);
        let stays = |peer: &metapb::Peer| role(target, peer.store_id).is_some();
        goes.sort_by_key(|peer| (leads(peer), !stays(peer), peer.id));
        let mut comes: Vec<_> = votes
            .iter()
            .filter_map(|peer| match region.peer_on(store(peer)) {
                None => Some(Comes::New(store(peer))),
                Some(there) if there.role() == PeerRole::Learner => Some(Comes::Learner(*there)),
                Some(_) => None,
            })
            .collect();
        comes.sort_by_key(|comes| match comes {
            Comes::Learner(peer) => (false, store(peer)),
            Comes::New(store) => (true, *store),
        });
        let exchanges = goes.into_iter().zip(comes);
        let mut arrivals: Vec<_> = copies
            .iter()
            .map(store)
            .filter(|store| region.peer_on(*store).is_none())
            .collect();
        arrivals.sort_unstable();
        let mut departures = learners;
        departures.retain(|peer| role(target, peer.store_id).is_none());
        Some(Self {
            exchanges: exchanges
                .map(|(voter, comes)| Exchange {
                    comes,
                    voter,
                    stays: stays(&voter),
                })
                .collect(),
            arrivals,
            departures,
        })
    }

    /// The stores that get a peer.
    pub fn stores(&self) -> impl Iterator<Item = StoreId> {
        let exchanges = self.exchanges.iter();
        let new = exchanges.filter_map(|exchange| match exchange.comes {
            Comes::New(store) => Some(store),
            Comes::Learner(_) => None,
        });
        new.chain(self.arrivals.iter().copied())
    }

    /// Peers that come or change their roles.
    pub fn len(&self) -> usize {
        self.exchanges.len() + self.arrivals.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(peers: &[(u64, PeerRole)]) -> RegionInfo {
        let peer = |(store, role): &(u64, PeerRole)| metapb::Peer {
            id: 10 + store,
            store_id: *store,
            role: (*role).into(),
            ..Default::default()
        };
        let peers: Vec<_> = peers.iter().map(peer).collect();
        RegionInfo {
            leader: peers.first().copied(),
            region: metapb::Region {
                peers,
                ..Default::default()
            },
            ..RegionInfo::default()
        }
    }

    /// Who is where once an alignment is carried out.
    fn after(region: &RegionInfo, alignment: &Alignment) -> Vec<(u64, PeerRole)> {
        let mut peers: Vec<_> = region
            .region
            .peers
            .iter()
            .map(|peer| (peer.store_id, peer.role()))
            .collect();
        let put = |peers: &mut Vec<(u64, PeerRole)>, store, role| {
            peers.retain(|(there, _)| *there != store);
            peers.push((store, role));
        };
        for exchange in &alignment.exchanges {
            let store = match exchange.comes {
                Comes::New(store) => store.0,
                Comes::Learner(peer) => peer.store_id,
            };
            put(&mut peers, store, PeerRole::Voter);
            put(&mut peers, exchange.voter.store_id, PeerRole::Learner);
            if !exchange.stays {
                peers.retain(|(there, _)| *there != exchange.voter.store_id);
            }
        }
        for store in &alignment.arrivals {
            put(&mut peers, store.0, PeerRole::Learner);
        }
        let goes = |store| {
            alignment
                .departures
                .iter()
                .any(|peer| peer.store_id == store)
        };
        peers.retain(|(store, _)| !goes(*store));
        peers.sort_unstable_by_key(|(store, _)| *store);
        peers
    }

    /// Every pair of regions on five stores with up to three voters and two learners.
    #[test]
    fn whatever_is_aligned_is_alike() {
        use PeerRole::{Learner, Voter};
        let all: Vec<Vec<(u64, PeerRole)>> = (0..3u64.pow(5))
            .map(|number| {
                let role = |store: u32| match number / 3u64.pow(store) % 3 {
                    0 => None,
                    1 => Some((u64::from(store) + 1, Voter)),
                    _ => Some((u64::from(store) + 1, Learner)),
                };
                (0..5).filter_map(role).collect()
            })
            .collect();
        let counts = |peers: &[(u64, PeerRole)]| {
            let voters = peers.iter().filter(|(_, role)| *role == Voter).count();
            (voters, peers.len() - voters)
        };
        let mut found = 0;
        for one in &all {
            for other in &all {
                let (source, target) = (region(one), region(other));
                let alignment = Alignment::new(&source, &target);
                assert_eq!(alignment.is_some(), counts(one) == counts(other));
                if let Some(alignment) = alignment {
                    assert_eq!(&after(&source, &alignment), other, "{one:?}: {alignment:?}");
                    let new = other
                        .iter()
                        .filter(|(store, _)| one.iter().all(|(there, _)| there != store));
                    assert_eq!(
                        alignment.stores().count(),
                        new.count(),
                        "nothing is copied twice"
                    );
                    let leader = source.leader.map(|leader| leader.id);
                    let leads = |exchange: &Exchange| Some(exchange.voter.id) == leader;
                    if let Some((_, others)) = alignment.exchanges.split_last() {
                        assert!(!others.iter().any(leads), "led until the last");
                    }
                    found += 1;
                }
            }
        }
        assert!(found > 1000, "{found}");
    }

    /// Whether a learner votes or a voter is a learner from then on is not known yet.
    #[test]
    fn nothing_is_aligned_while_members_change() {
        use PeerRole::{DemotingVoter, IncomingVoter, Voter};
        let whole = region(&[(1, Voter), (2, Voter)]);
        for role in [DemotingVoter, IncomingVoter] {
            let joint = region(&[(1, Voter), (2, Voter), (3, role)]);
            assert_eq!(Alignment::new(&joint, &whole), None);
            assert_eq!(Alignment::new(&whole, &joint), None);
        }
    }
}
