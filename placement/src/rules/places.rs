//! Rules and the labels of stores together: what is wrong with the places of a region.

use std::collections::{BTreeMap, BTreeSet};

use proto::{StoreId, metapb};

use super::fit::{Cost, Fit, Seat, Terms, Want, fit};
use super::{Layout, Role};
use crate::isolation::Isolation;
use crate::regions::RegionInfo;

/// What the rules say of every store, as of the last look at their labels.
#[derive(Debug)]
pub(crate) struct Places {
    layout: Layout,
    /// By rule, the stores that it admits; `None` for a rule that asks for no label.
    admitted: Vec<Option<BTreeSet<StoreId>>>,
    /// By rule, its position in `isolations`.
    isolated: Vec<usize>,
    /// By list of location labels.
    isolations: Vec<Isolation>,
}

impl Places {
    pub fn new<'a>(
        layout: Layout,
        stores: impl Iterator<Item = (StoreId, &'a [metapb::StoreLabel])> + Clone,
    ) -> Self {
        let mut lists: BTreeMap<&[String], usize> = BTreeMap::new();
        let mut isolations = Vec::new();
        let mut admitted = Vec::new();
        let mut isolated = Vec::new();
        for placed in layout.rules() {
            let rule = &placed.rule;
            let list = *lists.entry(&rule.location_labels).or_insert_with(|| {
                isolations.push(Isolation::new(&rule.location_labels, stores.clone()));
                isolations.len() - 1
            });
            isolated.push(list);
            admitted.push((!rule.constraints.is_empty()).then(|| {
                let admits = stores.clone().filter(|(_, labels)| rule.admits(labels));
                admits.map(|(store, _)| store).collect()
            }));
        }
        Self {
            layout,
            admitted,
            isolated,
            isolations,
        }
    }

    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Who serves which rule of the region that starts at a key.
    pub fn fit(&self, key: &[u8], seats: &[Seat]) -> Fit {
        let here = self.here(key);
        let want = |rule: &usize| {
            let rule = &self.layout.rules()[*rule].rule;
            Want {
                role: rule.role,
                count: rule.count,
            }
        };
        let wants: Vec<_> = here.rules.iter().map(want).collect();
        fit(seats, &wants, &here)
    }

    /// What is wrong with the places of a region if the peer on one store goes and one like it comes to another. Who leads
    /// is not looked at, since moves leave that to transfers.
    pub fn cost(&self, region: &RegionInfo, from: Option<StoreId>, to: Option<StoreId>) -> Cost {
        let mut seats = followers(region);
        let leaver = from.and_then(|from| seats.iter().position(|seat| seat.store == from));
        let leaver = leaver.map(|leaver| seats.remove(leaver));
        let votes = leaver.is_none_or(|leaver| leaver.votes);
        seats.extend(to.map(|to| guest(to, votes)));
        self.fit(&region.region.start_key, &seats).cost
    }

    /// The same if a learner comes to a store.
    pub fn cost_with_learner(&self, region: &RegionInfo, to: StoreId) -> Cost {
        let mut seats = followers(region);
        seats.push(guest(to, false));
        self.fit(&region.region.start_key, &seats).cost
    }

    /// The same if a voter goes and a learner votes in its place.
    pub fn cost_promoted(&self, region: &RegionInfo, from: u64, learner: u64) -> Cost {
        let mut seats = followers(region);
        seats.retain(|seat| seat.peer != from);
        for seat in &mut seats {
            seat.votes |= seat.peer == learner;
        }
        self.fit(&region.region.start_key, &seats).cost
    }

    /// Whether a region led from this store is led where rules want it.
    pub fn may_lead(&self, region: &RegionInfo, store: StoreId) -> bool {
        self.leads_well(region, seats(region), store)
    }

    /// Whether a region is led where rules want it once its voter on one store is on another, and leads.
    pub fn may_lead_moved(&self, region: &RegionInfo, from: StoreId, to: StoreId) -> bool {
        let mut seats = seats(region);
        for seat in &mut seats {
            if seat.store == from {
                seat.store = to;
            }
        }
        self.leads_well(region, seats, to)
    }

    fn leads_well(&self, region: &RegionInfo, mut seats: Vec<Seat>, leader: StoreId) -> bool {
        let key = &region.region.start_key;
        // Who votes anywhere leads anywhere.
        let rules = self.layout.at(key);
        let anywhere = |rule: &usize| self.admitted[*rule].is_none();
        if rules.iter().all(anywhere) && self.roles(key).all(|role| role == Role::Voter) {
            return true;
        }
        for seat in &mut seats {
            seat.leads = seat.store == leader;
        }
        self.fit(key, &seats).cost.leader == 0
    }

    /// Whether rules count on every learner of a region as a learner: then none of them comes, goes, or is to vote.
    pub fn counts_on_learners(&self, region: &RegionInfo) -> bool {
        let votes = |peer: &metapb::Peer| peer.role() != metapb::PeerRole::Learner;
        if region.region.peers.iter().all(votes) {
            return true;
        }
        let (key, seats) = (&region.region.start_key, seats(region));
        let fit = self.fit(key, &seats);
        let roles: Vec<_> = self.roles(key).collect();
        let mut served = seats.iter().zip(&fit.serves);
        served.all(|(seat, serves)| seat.votes || serves.is_some_and(|rule| !roles[rule].votes()))
    }

    /// What the rules of a region that starts at a key ask for, in their order.
    pub fn roles(&self, key: &[u8]) -> impl Iterator<Item = Role> {
        let rules = self.layout.at(key).iter();
        rules.map(|rule| self.layout.rules()[*rule].rule.role)
    }

    /// Whether a peer that serves the `rule`th rule of a region may be on a store.
    pub fn admits(&self, region: &RegionInfo, rule: usize, store: StoreId) -> bool {
        self.here(&region.region.start_key).admits(rule, store)
    }

    /// Whether any store tells its place to a rule of a region: otherwise every store is as good as any other.
    pub fn tells(&self, region: &RegionInfo) -> bool {
        let rules = self.layout.at(&region.region.start_key);
        rules
            .iter()
            .any(|rule| self.isolations[self.isolated[*rule]].tells())
    }

    fn here(&self, key: &[u8]) -> Here<'_> {
        Here {
            places: self,
            rules: self.layout.at(key),
        }
    }
}

/// The peers of a region. A joint configuration has those that will vote.
pub(crate) fn seats(region: &RegionInfo) -> Vec<Seat> {
    let leader = region.leader.as_ref().map(|leader| leader.id);
    let seat = |peer: &metapb::Peer| Seat {
        peer: peer.id,
        store: StoreId(peer.store_id),
        votes: matches!(
            peer.role(),
            metapb::PeerRole::Voter | metapb::PeerRole::IncomingVoter
        ),
        leads: leader == Some(peer.id),
        trouble: 0,
    };
    region.region.peers.iter().map(seat).collect()
}

/// The peers of a region as if nobody led it.
fn followers(region: &RegionInfo) -> Vec<Seat> {
    let mut seats = seats(region);
    for seat in &mut seats {
        seat.leads = false;
    }
    seats
}

/// A peer that is only thought of.
pub(crate) fn guest(store: StoreId, votes: bool) -> Seat {
    Seat {
        peer: 0,
        store,
        votes,
        leads: false,
        trouble: 0,
    }
}

/// The rules of one key.
struct Here<'a> {
    places: &'a Places,
    rules: &'a [usize],
}

impl Terms for Here<'_> {
    fn admits(&self, rule: usize, store: StoreId) -> bool {
        let admitted = &self.places.admitted[self.rules[rule]];
        admitted
            .as_ref()
            .is_none_or(|stores| stores.contains(&store))
    }

    fn shared(&self, one: (usize, StoreId), other: (usize, StoreId)) -> u64 {
        let (first, second) = (self.rules[one.0], self.rules[other.0]);
        let rules = self.places.layout.rules();
        let list = self.places.isolated[first];
        let kin = list == self.places.isolated[second]
            && rules[first].rule.role.votes() == rules[second].rule.role.votes();
        if kin {
            self.places.isolations[list].shared(one.1, other.1)
        } else {
            0
        }
    }
}
