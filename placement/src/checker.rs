//! What is wrong with a region, and what would repair it.
//!
//! Every region is checked when it reports and by a slow sweep, as long as it has no operator. A check is a pure function
//! of the region and the stores; the first thing found wins: edges, learners without operator, missing voters, extra ones,
//! voters on stores that are lost or gone, voters on stores that are drained, voters that share a place, small neighbours.
//! What is added is added before anything goes.

mod merge;

use std::time::Duration;

use bytes::Bytes;
use proto::{RegionId, StoreId, metapb};

use crate::decision::{Candidate, Decision, Who};
use crate::drains::Drains;
use crate::event::Now;
use crate::isolation::{Fit, Isolation};
use crate::keyspace;
use crate::operators::Operators;
use crate::regions::{RegionInfo, Regions};
use crate::settings::Settings;
use crate::stores::Stores;
pub(crate) use merge::{MergeFinding, is_small};

/// Stores that are looked at for a voter that is only misplaced.
const STORES_MAX: usize = 32;
/// What a shared place weighs in the score of a candidate, against one peer.
const PLACE: f64 = 1e6;

/// What is to be done with a region.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Finding {
    /// Edges of keyspaces lie inside.
    SplitAt(Vec<Bytes>),
    /// A learner without operator fills a gap.
    Promote(metapb::Peer),
    /// A learner without operator takes the place of a voter that is to go.
    Replace {
        /// The learner.
        learner: metapb::Peer,
        /// The voter.
        from: metapb::Peer,
        /// Why it is to go.
        why: Leaves,
    },
    /// A learner without operator is of no use.
    RemoveLearner {
        /// The learner.
        peer: metapb::Peer,
        /// Why nobody wants it.
        why: &'static str,
    },
    /// A voter is missing.
    Add {
        /// Where it goes.
        to: StoreId,
        /// Voters now.
        voters: usize,
    },
    /// There is a voter too many.
    Demote(metapb::Peer),
    /// A voter is to go from its store.
    Move {
        /// The voter.
        from: metapb::Peer,
        /// Where it goes.
        to: StoreId,
        /// Why it is to go.
        why: Leaves,
    },
    /// The leader is on a store that is drained.
    HandOver {
        /// The store.
        from: StoreId,
        /// Who leads then.
        to: metapb::Peer,
    },
    /// It should be part of a neighbour.
    Merge(MergeFinding),
}

/// Why a voter is to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leaves {
    /// Its store was silent for too long.
    Lost,
    /// Its store leaves for good.
    Gone,
    /// Its store is drained.
    Drained,
    /// The replicas would be farther apart elsewhere.
    Misplaced,
}

impl Leaves {
    fn who(self) -> Who {
        match self {
            Self::Lost | Self::Gone => Who::Repair,
            Self::Drained => Who::Drain,
            Self::Misplaced => Who::Rule,
        }
    }
}

impl std::fmt::Display for Leaves {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Lost => "lost",
            Self::Gone => "leaving",
            Self::Drained => "drained",
            Self::Misplaced => "misplaced",
        })
    }
}

/// Something that was found, with everything of its decision but the outcome.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Found {
    pub finding: Finding,
    pub decision: Decision,
}

/// Something is wrong and cannot be helped now.
pub(crate) type Refused = Box<Decision>;

/// What a check looks at.
pub(crate) struct Checker<'a> {
    pub settings: &'a Settings,
    pub replicas: u32,
    pub api_version: u32,
    pub stores: &'a Stores,
    pub regions: &'a Regions,
    pub operators: &'a Operators,
    pub drains: &'a Drains,
    pub fit: &'a Isolation,
    /// For how long the region has been as it is: joint, with a learner of nobody, or small.
    pub unsettled: Duration,
    pub now: Now,
}

impl Checker<'_> {
    /// What is wrong, if something is.
    pub fn check(&self, region: &RegionInfo) -> Result<Option<Found>, Refused> {
        // What a leader did not confirm is not decided upon, and nobody carries out what is asked of a dead one.
        let led = region
            .leader
            .as_ref()
            .is_some_and(|leader| !self.down(StoreId(leader.store_id)));
        if !led || region.term == 0 || self.pauses(region.id()) {
            return Ok(None);
        }
        if region.is_joint() {
            return self.check_joint(region);
        }
        let edges = keyspace::edges_inside(self.api_version, &region.region);
        if !edges.is_empty() {
            let decision = self.decision(Who::Rule, region);
            return found(Finding::SplitAt(edges), decision);
        }
        let voters = region.voters().count();
        let missing = voters < self.replicas as usize;
        let learner = region
            .region
            .peers
            .iter()
            .find(|peer| peer.role() == metapb::PeerRole::Learner);
        if let Some(learner) = learner {
            return Ok(self.check_learner(region, learner, missing));
        }
        if missing {
            let decision = self.decision(Who::Repair, region);
            let (to, decision) = self.target(region, decision)?;
            return found(Finding::Add { to, voters }, decision);
        }
        if voters > self.replicas as usize {
            let Some(spare) = self.spare(region) else {
                return Ok(None);
            };
            let decision = self.decision(Who::Repair, region);
            let decision = decision.between(Some(StoreId(spare.store_id)), None);
            return found(Finding::Demote(spare), decision);
        }
        match self.leaver(region) {
            Some((from, why)) => self.replace(region, from, why),
            None => Ok(self.misplaced(region).or_else(|| self.check_merge(region))),
        }
    }

    /// A voter that would be farther from the others elsewhere. Looks at a few stores, at others a minute later; each move
    /// makes it better, so they end.
    fn misplaced(&self, region: &RegionInfo) -> Option<Found> {
        let settled = region.pending.is_empty() && region.down.is_empty();
        let before = self.violations(region, None, None);
        if !settled || !self.fit.tells() || before == 0 {
            return None;
        }
        let ids: Vec<_> = self.stores.ids().collect();
        let turn = region
            .id()
            .0
            .wrapping_add(self.now.monotonic.as_secs() / 60);
        let first = (turn % ids.len().max(1) as u64) as usize;
        let looked = ids
            .iter()
            .cycle()
            .skip(first)
            .take(ids.len().min(STORES_MAX));
        let takes = |store: &StoreId| {
            self.could_take(region, *store).is_ok()
                && self.operators.busy(*store) < self.settings.store_operators_max
        };
        let leader = region.leader.as_ref().map(|leader| leader.id);
        let mut best = None;
        for to in looked.copied().filter(takes) {
            for from in region.voters() {
                let after = self.violations(region, Some(StoreId(from.store_id)), Some(to));
                let load = self.regions.counts(to).0 as usize + self.operators.busy(to);
                let key = (after, load, leader == Some(from.id), to, from.id);
                if after < before && best.is_none_or(|(known, _)| key < known) {
                    best = Some((key, *from));
                }
            }
        }
        let ((after, _, _, to, _), from) = best?;
        let decision = self
            .decision(Who::Rule, region)
            .input("shared places", before as f64)
            .expect("shared places", after as f64)
            .between(Some(StoreId(from.store_id)), Some(to));
        let finding = Finding::Move {
            from,
            to,
            why: Leaves::Misplaced,
        };
        Some(Found { finding, decision })
    }

    /// What is wrong with the places of the voters if one goes and one comes.
    fn violations(&self, region: &RegionInfo, from: Option<StoreId>, to: Option<StoreId>) -> u64 {
        let voters = region.voters().map(|peer| StoreId(peer.store_id));
        let stays = voters.filter(|store| Some(*store) != from);
        let stores: Vec<_> = stays.chain(to).collect();
        self.fit.violations(region, &stores)
    }

    /// A joint configuration is left by whoever leads. One that stays has too few live voters in one of its halves, which
    /// only those voters can change.
    fn check_joint(&self, region: &RegionInfo) -> Result<Option<Found>, Refused> {
        if self.unsettled < self.settings.joint_patience {
            return Ok(None);
        }
        let decision = Decision::refused(
            Who::Repair,
            Some(region.id()),
            "its joint configuration cannot be left",
        );
        let silent = region.down.len() as f64;
        Err(Box::new(
            decision
                .input("seconds joint", self.unsettled.as_secs_f64().floor())
                .input("silent peers", silent),
        ))
    }

    fn decision(&self, who: Who, region: &RegionInfo) -> Decision {
        Decision::refused(who, Some(region.id()), "")
            .input("voters", region.voters().count() as f64)
            .input("replicas", f64::from(self.replicas))
            .input("bytes", region.bytes as f64)
            .expect("voters", f64::from(self.replicas))
    }

    fn pauses(&self, region: RegionId) -> bool {
        self.operators.of_region(region).is_some()
            || self.operators.backs_off(region, self.now)
            || self.operators.len() >= self.settings.operators_max
    }

    fn down(&self, store: StoreId) -> bool {
        self.stores
            .down(store, self.now, self.settings.store_down_after)
    }

    /// The voter that is to go first, and why.
    fn leaver(&self, region: &RegionInfo) -> Option<(metapb::Peer, Leaves)> {
        let find = |why: Leaves, goes: &dyn Fn(&metapb::Peer) -> bool| {
            let peer = region.voters().find(|peer| goes(peer))?;
            Some((*peer, why))
        };
        find(Leaves::Lost, &|peer| self.lost(region, peer))
            .or_else(|| {
                find(Leaves::Gone, &|peer| {
                    self.stores.gone(StoreId(peer.store_id))
                })
            })
            .or_else(|| {
                find(Leaves::Drained, &|peer| {
                    self.stores.leaving(StoreId(peer.store_id))
                })
            })
    }

    /// Whether nobody heard of a peer's store for too long. The leader of the region may have missed it for longer than
    /// this placement leader leads.
    fn lost(&self, region: &RegionInfo, peer: &metapb::Peer) -> bool {
        let store = StoreId(peer.store_id);
        let after = self.settings.store_lost_after;
        let told = region.down.iter().find(|(down, _)| down.id == peer.id);
        let told = told.map_or(0, |(_, seconds)| *seconds);
        self.down(store)
            && (self.stores.down(store, self.now, after) || told >= after.as_secs().max(1))
    }

    fn replace(
        &self,
        region: &RegionInfo,
        from: metapb::Peer,
        why: Leaves,
    ) -> Result<Option<Found>, Refused> {
        let store = StoreId(from.store_id);
        let decision = self.decision(why.who(), region).between(Some(store), None);
        let leads = region.leader.as_ref().map(|leader| leader.id) == Some(from.id);
        if why == Leaves::Drained {
            if leads && let Some(to) = self.heir(region, &from) {
                let to_store = StoreId(to.store_id);
                let decision = decision.between(Some(store), Some(to_store));
                return found(Finding::HandOver { from: store, to }, decision);
            }
            let led = self.regions.counts(store).1;
            if !leads
                && self
                    .drains
                    .leaders_first(store, led, self.now, self.settings)
            {
                return Ok(None);
            }
        }
        let (to, decision) = self.target(region, decision)?;
        found(Finding::Move { from, to, why }, decision)
    }

    /// Who takes the leadership over from a voter that goes: the one whose store leads fewest.
    fn heir(&self, region: &RegionInfo, from: &metapb::Peer) -> Option<metapb::Peer> {
        let fits = |peer: &&metapb::Peer| {
            let store = StoreId(peer.store_id);
            peer.id != from.id
                && region.caught_up(peer.id)
                && !self.stores.leaving(store)
                && !self.down(store)
                && self.operators.busy(store) < self.settings.store_operators_max
        };
        let load = |peer: &&metapb::Peer| {
            let store = StoreId(peer.store_id);
            let led = self.regions.counts(store).1 as usize;
            (led + self.operators.busy(store), peer.id)
        };
        region.voters().filter(fits).min_by_key(load).copied()
    }

    /// A learner that no operator owns: left over by a cancelled one, or by a leader that did not live to finish.
    fn check_learner(
        &self,
        region: &RegionInfo,
        learner: &metapb::Peer,
        missing: bool,
    ) -> Option<Found> {
        let store = StoreId(learner.store_id);
        let remove = |why| {
            Some(Found {
                finding: Finding::RemoveLearner {
                    peer: *learner,
                    why,
                },
                decision: self
                    .decision(Who::Repair, region)
                    .between(Some(store), None),
            })
        };
        let leaver = self
            .leaver(region)
            .filter(|_| region.voters().count() == self.replicas as usize);
        if !missing && leaver.is_none() {
            return remove("the region has all its voters");
        }
        if self.stores.leaving(store) || self.down(store) {
            return remove("its store is down or leaving");
        }
        if !region.caught_up(learner.id) || !self.takes_peers(store) {
            let patience = crate::operators::catch_up_deadline(region, self.settings);
            return (self.unsettled >= patience)
                .then(|| remove("it does not catch up"))
                .flatten();
        }
        let who = leaver.map_or(Who::Repair, |(_, why)| why.who());
        let from = leaver.map(|(from, _)| StoreId(from.store_id));
        let decision = self.decision(who, region).between(from, Some(store));
        let finding = match leaver {
            None => Finding::Promote(*learner),
            Some((from, why)) => {
                if region.leader.as_ref().map(|leader| leader.id) == Some(from.id)
                    && self.heir(region, &from).is_none()
                {
                    return None;
                }
                Finding::Replace {
                    learner: *learner,
                    from,
                    why,
                }
            }
        };
        Some(Found { finding, decision })
    }

    /// The voter that is missed least: a move that ended between the promotion of its peer and the demotion of the old one
    /// leaves one too many. Never the leader, so that no hand-over is needed.
    fn spare(&self, region: &RegionInfo) -> Option<metapb::Peer> {
        let leader = region.leader.as_ref().map(|leader| leader.id);
        let uselessness = |peer: &&metapb::Peer| {
            let store = StoreId(peer.store_id);
            (
                self.stores.gone(store),
                self.lost(region, peer),
                self.stores.leaving(store),
                self.down(store),
                !region.caught_up(peer.id),
                self.regions.counts(store).0,
                peer.id,
            )
        };
        region
            .voters()
            .filter(|peer| Some(peer.id) != leader)
            .max_by_key(uselessness)
            .copied()
    }

    /// The store that may take a peer of this region: farthest from the others, then with the fewest peers, those on their
    /// way included.
    fn target(
        &self,
        region: &RegionInfo,
        decision: Decision,
    ) -> Result<(StoreId, Decision), Refused> {
        let mut candidates = Vec::new();
        let from = decision.stores.0;
        let mut best: Option<(u64, usize, StoreId)> = None;
        let mut waits = false;
        for store in self.stores.ids() {
            if self.stores.is_tombstone(store) {
                continue;
            }
            let busy = self.operators.busy(store);
            let load = self.regions.counts(store).0 as usize + busy;
            let verdict = match self.could_take(region, store) {
                Ok(()) if busy >= self.settings.store_operators_max => {
                    waits = true;
                    Err("it has operators enough")
                }
                verdict => verdict,
            };
            let shared = match verdict {
                Ok(()) => self.violations(region, from, Some(store)),
                Err(_) => u64::MAX,
            };
            if verdict.is_ok() && best.is_none_or(|best| (shared, load, store) < best) {
                best = Some((shared, load, store));
            }
            candidates.push(Candidate {
                store,
                score: verdict.map_or(f64::INFINITY, |()| shared as f64 * PLACE + load as f64),
                verdict: verdict.err().unwrap_or("another is better").into(),
            });
        }
        let Some((_, _, to)) = best else {
            let reason = if waits {
                "every store that may take it has operators enough"
            } else {
                "no store may take it"
            };
            let refused = Decision {
                outcome: crate::decision::Outcome::Refused {
                    reason: reason.into(),
                },
                ..decision.candidates(candidates)
            };
            return Err(Box::new(refused));
        };
        for candidate in &mut candidates {
            if candidate.store == to {
                candidate.verdict = "chosen".into();
            }
        }
        Ok((to, decision.between(from, Some(to)).candidates(candidates)))
    }

    fn takes_peers(&self, store: StoreId) -> bool {
        self.stores
            .takes_peers(store, self.now, self.settings.store_down_after)
    }

    /// Whether a store may take a peer of a region, whatever else is under way; or why not.
    pub fn could_take(&self, region: &RegionInfo, store: StoreId) -> Result<(), &'static str> {
        if region.peer_on(store).is_some() {
            Err("it has a peer of it")
        } else if self.stores.leaving(store) {
            Err("it is leaving")
        } else if !self.takes_peers(store) {
            Err("it is not up")
        } else if !has_room(self.stores, store, region.bytes) {
            Err("it has no room")
        } else {
            Ok(())
        }
    }
}

fn found(finding: Finding, decision: Decision) -> Result<Option<Found>, Refused> {
    Ok(Some(Found { finding, decision }))
}

/// Whether a store has room for a region, twice over: a snapshot is staged before it is taken in.
pub(crate) fn has_room(stores: &Stores, store: StoreId, bytes: u64) -> bool {
    stores
        .available_bytes(store)
        .is_none_or(|available| available / 2 >= bytes)
}
