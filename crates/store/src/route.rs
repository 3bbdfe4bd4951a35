//! Who may serve a request, and what others are told (REGIONS §1 first table, §8).

use std::collections::BTreeSet;

use bytes::Bytes;
use engine::Engine;
use proto::metapb::{self, PeerRole};
use proto::{RegionId, StoreId};

use crate::event::{Keys, Misrouted, Refusal, Target};
use crate::peer::{Peer, Stage};
use crate::store::Store;
use crate::{inbound, keys};

/// Regions listed in an answer at most. A request that touches more refreshes its picture more than once.
const COVERING_MAX: usize = 32;

/// Why a peer does not take a request. What the store knows besides is added in [`Store::refusal`].
#[derive(Debug)]
pub(crate) enum Misroute {
    /// Final as it is.
    Refused(Box<Refusal>),
    /// The epochs differ: with the regions that cover the request.
    Epoch,
    /// The region is frozen.
    Frozen,
    /// The region is not here any more; if it was merged, with the regions that cover the request.
    Gone,
}

impl From<Refusal> for Misroute {
    fn from(refusal: Refusal) -> Misroute {
        Misroute::Refused(Box::new(refusal))
    }
}

impl Peer {
    /// Checks that this peer leads and that the request fits what it owns.
    pub fn check_target(&self, target: &Target) -> Result<(), Misroute> {
        let region = self.region_id();
        match self.stage {
            Stage::Normal => {}
            Stage::Uninitialized { .. } | Stage::Installing(_) | Stage::Dormant => {
                let contact = self.contacts.last().map(|(peer, store)| metapb::Peer {
                    id: peer.0,
                    store_id: store.0,
                    ..Default::default()
                });
                return Err(match self.leader().or(contact) {
                    Some(leader) => Refusal::NotLeader {
                        region,
                        leader: Some(leader),
                    },
                    None => Refusal::RegionNotFound(region),
                }
                .into());
            }
            Stage::Absorbed { .. } => return Err(Misroute::Frozen),
            Stage::Stopping { .. } => return Err(Misroute::Gone),
        }
        if let Some(asked) = target.peer.filter(|asked| *asked != self.id) {
            return Err(Refusal::PeerMismatch {
                asked,
                local: self.id,
            }
            .into());
        }
        if !self.is_leader() {
            return Err(Refusal::NotLeader {
                region,
                leader: self.leader(),
            }
            .into());
        }
        if self.is_frozen() {
            return Err(Misroute::Frozen);
        }
        self.check_keys(target)
    }

    /// Checks version and keys against the applied descriptor.
    pub fn check_keys(&self, target: &Target) -> Result<(), Misroute> {
        let ours = self.epoch().version;
        let asked = target.epoch.map(|epoch| epoch.version);
        if asked.is_some_and(|asked| asked > ours) {
            return Err(Misroute::Epoch);
        }
        let current = asked.is_none_or(|asked| asked == ours);
        let (start, end) = (&self.region.start_key[..], &self.region.end_key[..]);
        let outside = match &target.keys {
            Keys::Points(points) => points.iter().find(|key| !keys::contains(start, end, key)),
            Keys::Range(..) | Keys::Clamped(_) if !current => return Err(Misroute::Epoch),
            Keys::Range(from, to) => (!keys::covers(start, end, from, to)).then_some(from),
            Keys::Clamped(_) => None,
        };
        match outside {
            None => Ok(()),
            Some(_) if !current => Err(Misroute::Epoch),
            Some(key) => {
                let region = self.region.clone();
                Err(Refusal::KeyNotInRegion {
                    key: key.clone(),
                    region,
                }
                .into())
            }
        }
    }
}

impl<E: Engine> Store<E> {
    /// Completes a refusal with what is known here.
    pub(crate) fn refusal(&self, misroute: Misroute, target: &Target) -> Refusal {
        match misroute {
            Misroute::Refused(refusal) => match *refusal {
                Refusal::NotLeader {
                    region,
                    leader: None,
                } => self.nobody_leads(region),
                refusal => refusal,
            },
            Misroute::Epoch => Refusal::EpochNotMatch {
                current: self.covering(target),
            },
            Misroute::Frozen => {
                let older = self.peers.get(&target.region).is_some_and(|peer| {
                    let asked = target.epoch.map(|epoch| epoch.version);
                    asked.is_some_and(|asked| asked < peer.epoch().version)
                });
                if older {
                    Refusal::EpochNotMatch {
                        current: self.covering(target),
                    }
                } else {
                    Refusal::Merging(target.region)
                }
            }
            Misroute::Gone => {
                let current = self.covering(target);
                if !current.is_empty() && self.was_merged(target.region) {
                    Refusal::EpochNotMatch { current }
                } else {
                    Refusal::RegionNotFound(target.region)
                }
            }
        }
    }

    /// What a client hears when no leader is known: who is missing, if that is why.
    fn nobody_leads(&self, region: RegionId) -> Refusal {
        let missing = self.peers.get(&region).map(|peer| self.missing(peer));
        match missing.unwrap_or_default() {
            missing if missing.is_empty() => Refusal::NotLeader {
                region,
                leader: None,
            },
            missing => Refusal::NoQuorum { region, missing },
        }
    }

    /// Silent stores of voters, if one half of the configuration has no quorum without them. A store is silent when nothing
    /// at all came from it for two election timeouts, in which every voter that hears no leader asks for votes.
    fn missing(&self, peer: &Peer) -> Vec<StoreId> {
        use PeerRole::{DemotingVoter, IncomingVoter, Voter};
        let limit = 2 * u64::from(self.cx.options.raft.election_ticks);
        let is_silent = |member: &&metapb::Peer| {
            let store = StoreId(member.store_id);
            let heard = self.cx.heard.get(&store).copied().unwrap_or(0);
            store != self.cx.store && self.cx.tick - heard >= limit
        };
        let members = &peer.region.peers;
        let lacks_quorum = [[Voter, DemotingVoter], [Voter, IncomingVoter]]
            .iter()
            .any(|half| {
                let voters = || {
                    members
                        .iter()
                        .filter(|member| half.contains(&member.role()))
                };
                let silent = voters().filter(is_silent).count();
                voters().count() - silent < voters().count() / 2 + 1
            });
        let voters = members
            .iter()
            .filter(|member| member.role() != PeerRole::Learner);
        let silent = voters.filter(is_silent).filter(|_| lacks_quorum);
        silent.map(|member| StoreId(member.store_id)).collect()
    }

    /// Answers a write that did not fit its region any more when it was applied. Nothing of it happened.
    pub(crate) fn refuse_misrouted(&mut self, request: &Misrouted) {
        let misroute = match self.peers.get(&request.target.region) {
            Some(peer) if matches!(peer.stage, Stage::Stopping { .. }) => Misroute::Gone,
            Some(_) if request.frozen => Misroute::Frozen,
            Some(_) => Misroute::Epoch,
            None => Misroute::Gone,
        };
        let refusal = self.refusal(misroute, &request.target);
        self.cx.refuse(request.id, refusal);
    }

    /// Whether the last peer of a region here ended by a merge.
    fn was_merged(&self, region: RegionId) -> bool {
        match self.peers.get(&region).map(|peer| &peer.stage) {
            Some(Stage::Stopping { merged, .. }) => merged.is_some(),
            Some(_) => false,
            None => inbound::past(&self.cx.engine, region)
                .ok()
                .and_then(|(_, state)| state)
                .is_some_and(|state| state.absorber_id != 0),
        }
    }

    /// The regions here that cover a request, the one asked first.
    fn covering(&self, target: &Target) -> Vec<metapb::Region> {
        let mut current = Vec::new();
        let asked = self
            .peers
            .get(&target.region)
            .filter(|peer| peer.is_normal());
        current.extend(asked.map(|peer| peer.region.clone()));
        let mut others = BTreeSet::new();
        match &target.keys {
            Keys::Points(points) => {
                for key in points {
                    let mut end = key.to_vec();
                    end.push(0);
                    others.extend(self.owners(key, &end).take(1));
                }
            }
            Keys::Range(start, end) => others.extend(self.owners(start, end).take(COVERING_MAX)),
            Keys::Clamped(_) => {
                // The client does not say which range it believes in: whatever was split off lies to the right.
                if let Some(peer) = asked
                    && !peer.region.end_key.is_empty()
                {
                    others.extend(self.owners(&peer.region.end_key, &Bytes::new()).take(1));
                }
            }
        }
        others.remove(&target.region);
        let others = others
            .iter()
            .take(COVERING_MAX)
            .filter_map(|region| self.peers.get(region));
        current.extend(
            others
                .filter(|peer| peer.is_normal())
                .map(|peer| peer.region.clone()),
        );
        current
    }

    fn owners<'a>(&'a self, start: &'a [u8], end: &'a [u8]) -> impl Iterator<Item = RegionId> + 'a {
        self.cx.ranges.overlapping(start, end)
    }
}
