//! What is wrong with a region, and what would repair it.
//!
//! Every region is checked when it reports and by a slow sweep, as long as it has no operator. A check is a pure function
//! of the region, the rules and the stores; the first thing found that can be done wins: edges, learners without operator,
//! missing voters, extra ones, peers on stores that are lost, peers whose data is damaged, peers on stores that are gone, then
//! drained, voters outside the rules, voters that should be learners, the leader, learners that rules miss, voters that share a
//! place, small neighbours. What cannot be helped now, or is paused, does not keep the rest from being helped. What is added
//! is added before anything goes, but where a damaged voter can only be replaced on its own store; and nothing is begun whose
//! change of roles would have to wait for dead voters (R22).

mod align;
mod learner;
mod leaver;
mod look;
mod merge;
mod room;
mod target;

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use proto::{RegionId, StoreId, metapb};

use crate::decision::{Candidate, Decision, Outcome, Who};
use crate::drains::Drains;
use crate::event::Now;
use crate::keyspace;
use crate::operators::{Operators, enough_live};
use crate::regions::{RegionInfo, Regions};
use crate::rules::Places;
use crate::settings::Settings;
use crate::stores::{STOPPING, Stores};
pub(crate) use align::{Alignment, Comes as Voting};
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
    /// A learner is to vote, and a voter is to be a learner.
    Exchange {
        /// The learner.
        learner: metapb::Peer,
        /// The voter.
        voter: metapb::Peer,
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

/// Why a voter is to go, the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
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

/// What a check comes to: something that is to be done, nothing, or why it cannot be done.
type Checked = Result<Option<Found>, Refused>;

/// Why nothing is begun that would have to wait for voters to come back.
const TOO_FEW_LIVE: &str = "too few of its voters are alive to change their roles";

/// What a check looks at.
pub(crate) struct Checker<'a> {
    pub settings: &'a Settings,
    pub api_version: u32,
    pub stores: &'a Stores,
    pub regions: &'a Regions,
    pub operators: &'a Operators,
    pub drains: &'a Drains,
    pub places: &'a Places,
    /// When the pauses of those who decide end, in Unix milliseconds.
    pub pauses: &'a BTreeMap<Who, u64>,
    /// For how long the region has been as it is: joint, with a learner of nobody, or small.
    pub unsettled: Duration,
    pub now: Now,
}

impl Checker<'_> {
    /// What is wrong, if something is.
    pub fn check(&self, region: &RegionInfo) -> Checked {
        // What a leader did not confirm is not decided upon, and nobody carries out what is asked of a dead one.
        let led = region
            .leader
            .as_ref()
            .is_some_and(|leader| !self.down(StoreId(leader.store_id)));
        if !led || region.term == 0 {
            return Ok(None);
        }
        if let Some(operator) = self.operators.moving(region.id()) {
            return self.check_urgent(region, operator);
        }
        if self.rests(region.id()) {
            return Ok(None);
        }
        if region.is_joint() {
            return self.check_joint(region);
        }
        let look = self.look(region);
        let checks: [&dyn Fn() -> Checked; 10] = [
            &|| Ok(self.check_edges(region)),
            &|| Ok(self.check_stray(region, &look)),
            &|| self.check_missing(region, &look),
            &|| Ok(self.check_spare(region, &look)),
            &|| self.check_leavers(region, &look),
            &|| self.check_outside(region, &look),
            &|| Ok(self.check_demoted(region, &look)),
            &|| self.check_leader(region, &look),
            &|| self.check_leaving_learners(region, &look),
            &|| self.check_missing_learners(region, &look),
        ];
        let mut refused = None;
        for check in checks {
            match check() {
                Ok(Some(found)) if !self.is_paused(found.decision.who) => return Ok(Some(found)),
                Ok(_) => {}
                Err(why) => {
                    refused.get_or_insert(why);
                }
            }
        }
        // That its replicas cannot go apart keeps no region from being merged.
        let mut last = self.unless_paused(Who::Rule, || self.misplaced(region));
        if refused.is_none() && !matches!(last, Ok(Some(_))) {
            let merge = self.unless_paused(Who::Merge, || self.check_merge(region));
            last = match (merge, last) {
                (Err(_), Err(misplaced)) | (Ok(None), Err(misplaced)) => Err(misplaced),
                (merge, _) => merge,
            };
        }
        match (last, refused) {
            (Ok(Some(found)), _) => Ok(Some(found)),
            (_, Some(refused)) => Err(refused),
            (last, None) => last,
        }
    }

    fn unless_paused(&self, who: Who, check: impl FnOnce() -> Checked) -> Checked {
        if self.is_paused(who) {
            Ok(None)
        } else {
            check()
        }
    }

    fn is_paused(&self, who: Who) -> bool {
        let until = self.pauses.get(&who);
        until.is_some_and(|until| self.now.wall_ms < *until)
    }

    /// Keyspaces or rules want boundaries inside.
    fn check_edges(&self, region: &RegionInfo) -> Option<Found> {
        let edges = self.edges(&region.region);
        (!edges.is_empty()).then(|| Found {
            finding: Finding::SplitAt(edges),
            decision: self.decision(Who::Rule, region),
        })
    }

    /// Rules want more voters than there are.
    fn check_missing(&self, region: &RegionInfo, look: &Look) -> Checked {
        if look.missing_voters <= look.spare.len() || look.stray.is_some() {
            return Ok(None);
        }
        let voters = region.voters().count();
        let decision = self.decision(Who::Repair, region);
        let (to, decision) = self.target(region, Comes::Voter, decision)?;
        if !self.may_change(region, &[guest(to)], &[]) {
            return Err(refuse(decision, TOO_FEW_LIVE));
        }
        found(Finding::Add { to, voters }, decision)
    }

    /// A voter that no rule counts on goes, if enough others vote. The leader hands over first, if somebody can take over.
    fn check_spare(&self, region: &RegionInfo, look: &Look) -> Option<Found> {
        let enough = region.voters().count() > look.wanted as usize;
        if look.spare.len() <= look.missing_voters || !enough {
            return None;
        }
        let leader = region.leader?;
        let goes =
            |peer: &&metapb::Peer| peer.id != leader.id && self.may_change(region, &[], &[**peer]);
        if let Some(spare) = look.spare.iter().find(goes) {
            let decision = self.decision(Who::Repair, region);
            let store = StoreId(spare.store_id);
            let decision = decision.candidates(self.spares(region, look, store));
            let decision = decision.between(Some(store), None);
            let finding = Finding::Demote(*spare);
            return Some(Found { finding, decision });
        }
        if look.spare.iter().all(|peer| peer.id != leader.id) {
            return None;
        }
        let to = self.right_leader(region)?;
        Some(self.hand_over(region, &leader, to, Leaves::Outside))
    }

    /// A voter where no rule admits it goes to where one does.
    fn check_outside(&self, region: &RegionInfo, look: &Look) -> Checked {
        if look.missing_voters == 0 || look.stray.is_some() {
            return Ok(None);
        }
        let Some(from) = look.spare.first().copied() else {
            return Ok(None);
        };
        let why = Leaves::Outside;
        let decision = self.decision(why.who(), region);
        let comes = Comes::Better(StoreId(from.store_id));
        let (to, decision) = self.target(region, comes, decision)?;
        if !self.may_change(region, &[guest(to)], &[from]) {
            return Err(refuse(decision, TOO_FEW_LIVE));
        }
        found(Finding::Move { from, to, why }, decision)
    }

    /// A voter that rules count on as a learner becomes one, once enough others vote.
    fn check_demoted(&self, region: &RegionInfo, look: &Look) -> Option<Found> {
        let leader = region.leader.as_ref().map(|leader| leader.id);
        let peer = look.demoted.filter(|peer| Some(peer.id) != leader)?;
        let enough = region.voters().count() > look.wanted as usize;
        (enough && self.may_change(region, &[], &[peer])).then(|| Found {
            finding: Finding::MakeLearner(peer),
            decision: self
                .decision(Who::Rule, region)
                .between(Some(StoreId(peer.store_id)), None),
        })
    }

    /// Somebody leads where rules want another one to.
    fn check_leader(&self, region: &RegionInfo, look: &Look) -> Checked {
        if look.led_wrong
            && let Some(leader) = &region.leader
            && let Some(to) = self.right_leader(region)
        {
            return Ok(Some(self.hand_over(region, leader, to, Leaves::Outside)));
        }
        Ok(None)
    }

    /// Rules want more learners than there are.
    fn check_missing_learners(&self, region: &RegionInfo, look: &Look) -> Checked {
        if look.missing_learners == 0 || look.stray.is_some() {
            return Ok(None);
        }
        let decision = self.decision(Who::Rule, region);
        let (to, decision) = self.target(region, Comes::Learner, decision)?;
        found(Finding::AddLearner(to), decision)
    }

    /// Whether the voters of a region allow a change of their roles (R22). Who lags will have caught up by then, and so will
    /// a peer that is yet to come.
    fn may_change(
        &self,
        region: &RegionInfo,
        promote: &[metapb::Peer],
        demote: &[metapb::Peer],
    ) -> bool {
        let told = |peer: &metapb::Peer| region.down.iter().any(|(down, _)| down.id == peer.id);
        let live = |peer: &metapb::Peer| !told(peer) && !self.down(StoreId(peer.store_id));
        enough_live(region, promote, demote, live)
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

    fn hand_over(
        &self,
        region: &RegionInfo,
        from: &metapb::Peer,
        to: metapb::Peer,
        why: Leaves,
    ) -> Found {
        let from = StoreId(from.store_id);
        let decision = self.decision(why.who(), region);
        let heir = StoreId(to.store_id);
        let decision = decision.candidates(self.heirs(region, heir));
        Found {
            finding: Finding::HandOver { from, to, why },
            decision: decision.between(Some(from), Some(heir)),
        }
    }

    /// A voter that would be farther from the others elsewhere. Looks at a few stores, at others a minute later; each move
    /// makes it better, so they end.
    fn misplaced(&self, region: &RegionInfo) -> Checked {
        let settled = region.pending.is_empty() && region.down.is_empty();
        if !settled || !self.places.tells(region) {
            return Ok(None);
        }
        let before = self.places.cost(region, None, None);
        if before.shared == 0 {
            return Ok(None);
        }
        let present = |store: &StoreId| !self.stores.is_tombstone(*store);
        let ids: Vec<_> = self.stores.ids().filter(present).collect();
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
        let leader = region.leader.as_ref().map(|leader| leader.id);
        let mut candidates = Vec::new();
        let (mut best, mut barred) = (None, false);
        for to in looked.copied() {
            let busy = self.operators.busy(to);
            let load = self.regions.counts(to).0 as usize + busy;
            let takes = match self.could_take(region, to) {
                Ok(()) if busy >= self.settings.store_operators_max => {
                    Err("it has operators enough")
                }
                takes => takes,
            };
            let moves = region.voters().filter(|_| region.peer_on(to).is_none());
            let moves = moves.map(|from| {
                let after = self
                    .places
                    .cost(region, Some(StoreId(from.store_id)), Some(to));
                let key = (after, load, leader == Some(from.id), to, from.id);
                (key, *from)
            });
            let better = moves.filter(|((after, ..), _)| *after < before);
            let better = better.min_by_key(|(key, _)| *key);
            barred |= better.is_some() && takes.is_err();
            let (score, verdict) = match (takes, better) {
                (Err(reason), _) => (f64::INFINITY, reason),
                (Ok(()), None) => (f64::INFINITY, "its replicas would be no farther apart"),
                (Ok(()), Some(((after, ..), _))) => {
                    let score = after.shared as f64 * target::PLACE + load as f64;
                    (score, "another is better")
                }
            };
            candidates.push(Candidate {
                store: to,
                region: None,
                score,
                verdict: verdict.into(),
            });
            if let (Ok(()), Some((key, from))) = (takes, better)
                && best.is_none_or(|(known, _)| key < known)
            {
                best = Some((key, from));
            }
        }
        let decision = self
            .decision(Who::Rule, region)
            .input("shared places", before.shared as f64);
        let Some(((after, _, _, to, _), from)) = best else {
            // Where nothing would be better, nothing is refused.
            let reason = "no store where its replicas would be farther apart may take one";
            let refused = || refuse(decision.candidates(candidates), reason);
            return if barred { Err(refused()) } else { Ok(None) };
        };
        choose(&mut candidates, to);
        let decision = decision
            .candidates(candidates)
            .expect("shared places", after.shared as f64)
            .between(Some(StoreId(from.store_id)), Some(to));
        let finding = Finding::Move {
            from,
            to,
            why: Leaves::Misplaced,
        };
        found(finding, decision)
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

    /// Whether nothing is to be begun with a region now.
    fn rests(&self, region: RegionId) -> bool {
        self.operators.of_region(region).is_some()
            || self.operators.backs_off(region, self.now)
            || self.operators.len() >= self.settings.operators_max
    }

    fn down(&self, store: StoreId) -> bool {
        self.stores
            .down(store, self.now, self.settings.store_down_after)
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

/// Says of a candidate that it was the one.
fn choose(candidates: &mut [Candidate], store: StoreId) {
    for candidate in candidates {
        if candidate.store == store {
            candidate.verdict = "chosen".into();
        }
    }
}

/// A peer that is only thought of.
fn guest(store: StoreId) -> metapb::Peer {
    metapb::Peer {
        store_id: store.0,
        ..Default::default()
    }
}

fn refuse(decision: Decision, reason: &'static str) -> Refused {
    let reason = reason.into();
    Box::new(Decision {
        outcome: Outcome::Refused { reason },
        ..decision
    })
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
