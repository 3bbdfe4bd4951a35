//! What is wrong with a region, and what would repair it.
//!
//! Every region is checked when it reports and by a slow sweep, as long as it has no operator. A check is a pure function
//! of the region, the rules and the stores; the first thing found wins: edges, learners without operator, missing voters,
//! extra ones, peers on stores that are lost, peers whose data is damaged, peers on stores that are gone, then drained, voters
//! outside the rules, learners that rules miss, the leader, voters that share a place, small neighbours. What is added is added
//! before anything goes, but where a damaged voter can only be replaced on its own store.

mod look;
mod merge;
mod room;
mod target;

use std::time::Duration;

use bytes::Bytes;
use proto::{RegionId, StoreId, metapb};

use crate::decision::{Decision, Who};
use crate::dial::Purpose;
use crate::drains::Drains;
use crate::event::Now;
use crate::keyspace;
use crate::operators::Operators;
use crate::regions::{RegionInfo, Regions};
use crate::rules::Places;
use crate::settings::Settings;
use crate::stores::{STOPPING, Stores};
use look::Look;
pub(crate) use merge::{MergeFinding, is_small};
use target::Comes;

/// Stores that are looked at for a voter that is only misplaced.
const STORES_MAX: usize = 32;

/// What is to be done with a region.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Finding {
    /// Edges of keyspaces or of rules lie inside.
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
    /// A learner is missing.
    AddLearner(StoreId),
    /// There is a voter too many.
    Demote(metapb::Peer),
    /// Rules count on a voter as a learner.
    MakeLearner(metapb::Peer),
    /// A voter with damaged data is to be replaced, and only its own store may take the next.
    Rebuild(metapb::Peer),
    /// A voter is to go from its store.
    Move {
        /// The voter.
        from: metapb::Peer,
        /// Where it goes.
        to: StoreId,
        /// Why it is to go.
        why: Leaves,
    },
    /// A learner that rules count on is to go from its store.
    MoveLearner {
        /// The learner.
        from: metapb::Peer,
        /// Where it goes.
        to: StoreId,
        /// Why it is to go.
        why: Leaves,
    },
    /// The leader is on a store that is drained, or where rules do not want it.
    HandOver {
        /// The store.
        from: StoreId,
        /// Who leads then.
        to: metapb::Peer,
        /// Why it is to go.
        why: Leaves,
    },
    /// It should be part of a neighbour.
    Merge(MergeFinding),
}

/// Why a voter is to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leaves {
    /// Its store was silent for too long.
    Lost,
    /// Its data is damaged.
    Damaged,
    /// Its store leaves for good.
    Gone,
    /// Its store is drained.
    Drained,
    /// No rule admits it where it is.
    Outside,
    /// The replicas would be farther apart elsewhere.
    Misplaced,
}

impl Leaves {
    fn who(self) -> Who {
        match self {
            Self::Lost | Self::Damaged | Self::Gone => Who::Repair,
            Self::Drained => Who::Drain,
            Self::Outside | Self::Misplaced => Who::Rule,
        }
    }
}

impl std::fmt::Display for Leaves {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Lost => "lost",
            Self::Damaged => "damaged",
            Self::Gone => "leaving",
            Self::Drained => "drained",
            Self::Outside => "outside the rules",
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
    pub api_version: u32,
    pub stores: &'a Stores,
    pub regions: &'a Regions,
    pub operators: &'a Operators,
    pub drains: &'a Drains,
    pub places: &'a Places,
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
        let edges = self.edges(&region.region);
        if !edges.is_empty() {
            let decision = self.decision(Who::Rule, region);
            return found(Finding::SplitAt(edges), decision);
        }
        let look = self.look(region);
        if let Some(learner) = &look.stray {
            return Ok(self.check_learner(region, learner, &look));
        }
        if look.missing_voters > look.spare.len() {
            let voters = region.voters().count();
            let decision = self.decision(Who::Repair, region);
            let (to, decision) = self.target(region, Comes::Voter, decision)?;
            return found(Finding::Add { to, voters }, decision);
        }
        if look.spare.len() > look.missing_voters {
            return Ok(self.demote(region, &look));
        }
        if let Some((from, why)) = self.leaver(region) {
            return self.replace(region, from, why);
        }
        if let Some(from) = look.spare.first() {
            return self.bring_inside(region, from);
        }
        self.check_wanted_learners(region, &look)
    }

    /// What rules want beside their voters, once those are all there: learners, who leads, and voters far apart.
    fn check_wanted_learners(
        &self,
        region: &RegionInfo,
        look: &Look,
    ) -> Result<Option<Found>, Refused> {
        let leader = region.leader.as_ref().map(|leader| leader.id);
        if let Some(peer) = look.demoted.filter(|peer| Some(peer.id) != leader) {
            let decision = self.decision(Who::Rule, region);
            let decision = decision.between(Some(StoreId(peer.store_id)), None);
            return found(Finding::MakeLearner(peer), decision);
        }
        if look.led_wrong
            && let Some(leader) = &region.leader
            && let Some(to) = self.right_leader(region)
        {
            return self.hand_over(region, leader, to, Leaves::Outside);
        }
        if let Some((from, why)) = self.leaving_learner(region) {
            let store = StoreId(from.store_id);
            let decision = self.decision(why.who(), region);
            let comes = Comes::Successor(store);
            let (to, decision) = self.target(region, comes, decision)?;
            return found(Finding::MoveLearner { from, to, why }, decision);
        }
        if look.missing_learners > 0 {
            let decision = self.decision(Who::Rule, region);
            match self.target(region, Comes::Learner, decision) {
                Ok((to, decision)) => return found(Finding::AddLearner(to), decision),
                // Voters need not wait for a learner that has no place.
                Err(refused) => return self.misplaced(region).map(Some).ok_or(refused),
            }
        }
        Ok(self.misplaced(region).or_else(|| self.check_merge(region)))
    }

    /// Where keyspaces and rules want boundaries strictly inside a region, in order.
    fn edges(&self, region: &metapb::Region) -> Vec<Bytes> {
        let (start, end) = (&region.start_key, &region.end_key);
        let mut edges = keyspace::edges_inside(self.api_version, region);
        edges.extend(self.places.layout().edges_inside(start, end));
        edges.sort_unstable();
        edges.dedup();
        edges
    }

    /// A voter that no rule counts on goes. The leader hands over first, if somebody can take over.
    fn demote(&self, region: &RegionInfo, look: &Look) -> Option<Found> {
        let leader = region.leader.as_ref().map(|leader| leader.id);
        let decision = self.decision(Who::Repair, region);
        let follows = |peer: &&metapb::Peer| Some(peer.id) != leader;
        if let Some(spare) = look.spare.iter().find(follows) {
            let decision = decision.between(Some(StoreId(spare.store_id)), None);
            let finding = Finding::Demote(*spare);
            return Some(Found { finding, decision });
        }
        let leader = region.leader.as_ref()?;
        let to = self.right_leader(region)?;
        self.hand_over(region, leader, to, Leaves::Outside)
            .ok()
            .flatten()
    }

    /// A voter where no rule admits it goes to where one does.
    fn bring_inside(
        &self,
        region: &RegionInfo,
        from: &metapb::Peer,
    ) -> Result<Option<Found>, Refused> {
        let why = Leaves::Outside;
        let decision = self.decision(why.who(), region);
        let comes = Comes::Better(StoreId(from.store_id));
        let (to, decision) = self.target(region, comes, decision)?;
        let from = *from;
        found(Finding::Move { from, to, why }, decision)
    }

    fn hand_over(
        &self,
        region: &RegionInfo,
        from: &metapb::Peer,
        to: metapb::Peer,
        why: Leaves,
    ) -> Result<Option<Found>, Refused> {
        let from = StoreId(from.store_id);
        let decision = self.decision(why.who(), region);
        let decision = decision.between(Some(from), Some(StoreId(to.store_id)));
        found(Finding::HandOver { from, to, why }, decision)
    }

    /// A voter that would be farther from the others elsewhere. Looks at a few stores, at others a minute later; each move
    /// makes it better, so they end.
    fn misplaced(&self, region: &RegionInfo) -> Option<Found> {
        let settled = region.pending.is_empty() && region.down.is_empty();
        if !settled || !self.places.tells(region) {
            return None;
        }
        let before = self.places.cost(region, None, None);
        if before.shared == 0 {
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
                let after = self
                    .places
                    .cost(region, Some(StoreId(from.store_id)), Some(to));
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
            .input("shared places", before.shared as f64)
            .expect("shared places", after.shared as f64)
            .between(Some(StoreId(from.store_id)), Some(to));
        let finding = Finding::Move {
            from,
            to,
            why: Leaves::Misplaced,
        };
        Some(Found { finding, decision })
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
        let wanted = self.places.layout().counts(&region.region.start_key).0;
        Decision::refused(who, Some(region.id()), "")
            .input("voters", region.voters().count() as f64)
            .input("replicas", f64::from(wanted))
            .input("bytes", region.bytes as f64)
            .expect("voters", f64::from(wanted))
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
        self.leaver_of(region, metapb::PeerRole::Voter)
    }

    /// The learner that is to go first, and why.
    fn leaving_learner(&self, region: &RegionInfo) -> Option<(metapb::Peer, Leaves)> {
        self.leaver_of(region, metapb::PeerRole::Learner)
    }

    fn leaver_of(
        &self,
        region: &RegionInfo,
        role: metapb::PeerRole,
    ) -> Option<(metapb::Peer, Leaves)> {
        let peers = || {
            let peers = region.region.peers.iter();
            peers.filter(|peer| peer.role() == role)
        };
        let find = |why: Leaves, goes: &dyn Fn(&metapb::Peer) -> bool| {
            let peer = peers().find(|peer| goes(peer))?;
            Some((*peer, why))
        };
        find(Leaves::Lost, &|peer| self.lost(region, peer))
            .or_else(|| find(Leaves::Damaged, &|peer| region.is_damaged(peer.id)))
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
                return self.hand_over(region, &from, to, why);
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
        match self.target(region, Comes::Successor(store), decision) {
            Ok((to, decision)) => found(Finding::Move { from, to, why }, decision),
            Err(refused) if why == Leaves::Damaged && self.may_rebuild(region, &from, &refused) => {
                let decision = self.decision(why.who(), region);
                let decision = decision.candidates(refused.candidates);
                found(
                    Finding::Rebuild(from),
                    decision.between(Some(store), Some(store)),
                )
            }
            Err(refused) => Err(refused),
        }
    }

    /// Whether a damaged voter may go before the next comes, because no other store takes one. It still votes, so its group is
    /// one failure worse off until then: only if all others are well, and enough to go on.
    fn may_rebuild(&self, region: &RegionInfo, from: &metapb::Peer, refused: &Decision) -> bool {
        let store = StoreId(from.store_id);
        let well =
            |peer: &metapb::Peer| region.may_lead(peer.id) && !self.down(StoreId(peer.store_id));
        let leads = region.leader.as_ref().map(|leader| leader.id) == Some(from.id);
        let mut others = region.voters().filter(|peer| peer.id != from.id);
        !target::waits(refused)
            && !leads
            && from.role() == metapb::PeerRole::Voter
            && region.voters().count() >= 3
            && others.all(well)
            && self.takes_peers(store)
            && !self.stores.leaving(store)
            && !self.stores.stopping(store)
    }

    /// Who takes the leadership over from a voter that goes: where rules want it, and the one whose store leads fewest.
    fn heir(&self, region: &RegionInfo, from: &metapb::Peer) -> Option<metapb::Peer> {
        let fits = |peer: &&metapb::Peer| peer.id != from.id && self.can_take_over(region, peer);
        let load = |peer: &&metapb::Peer| {
            let right = self.places.may_lead(region, StoreId(peer.store_id));
            (!right, self.led(peer), peer.id)
        };
        region.voters().filter(fits).min_by_key(load).copied()
    }

    fn can_take_over(&self, region: &RegionInfo, peer: &metapb::Peer) -> bool {
        let store = StoreId(peer.store_id);
        region.may_lead(peer.id)
            && !self.stores.leaving(store)
            && !self.stores.stopping(store)
            && !self.down(store)
            && self.operators.busy(store) < self.settings.store_operators_max
    }

    /// Leaders on the store of a peer, those that may come included.
    fn led(&self, peer: &metapb::Peer) -> usize {
        let store = StoreId(peer.store_id);
        self.regions.counts(store).1 as usize + self.operators.busy(store)
    }

    /// A learner that no operator owns: left over by a cancelled one, or by a leader that did not live to finish.
    fn check_learner(
        &self,
        region: &RegionInfo,
        learner: &metapb::Peer,
        look: &Look,
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
        let leaver = if look.stray_votes {
            // As many as there should be, but one is outside: they change places.
            let outside = look.spare.first().map(|peer| (*peer, Leaves::Outside));
            outside.filter(|_| region.voters().count() >= look.wanted as usize)
        } else {
            let admits = |peer: &metapb::Peer| {
                let rule = look.rule_of(peer.id);
                rule.is_some_and(|rule| self.places.admits(region, rule, store))
            };
            let whole = look.missing_voters == 0 && look.spare.is_empty();
            self.leaver(region)
                .filter(|(peer, _)| whole && admits(peer))
        };
        if !look.stray_votes && leaver.is_none() {
            return remove("the region has all its voters");
        }
        if self.stores.leaving(store) || self.down(store) {
            return remove("its store is down or leaving");
        }
        if region.is_damaged(learner.id) {
            return remove("its data is damaged");
        }
        if !region.caught_up(learner.id) || !self.takes_peers(store) {
            let patience =
                crate::operators::catch_up_deadline(region, Purpose::Repair, self.settings);
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

    fn takes_peers(&self, store: StoreId) -> bool {
        self.stores
            .takes_peers(store, self.now, self.settings.store_down_after)
    }

    /// Whether a store may take a peer of a region, whatever else is under way; or why not.
    pub fn could_take(&self, region: &RegionInfo, store: StoreId) -> Result<(), &'static str> {
        self.could_hold(region, store)?;
        if self.stores.stopping(store) {
            return Err(STOPPING);
        }
        Ok(())
    }

    /// The same, but for that a store that is stopping takes nothing at this moment.
    fn could_hold(&self, region: &RegionInfo, store: StoreId) -> Result<(), &'static str> {
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
