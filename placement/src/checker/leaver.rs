//! Peers that are to go from where they are: on stores that are lost, gone or drained, or with damaged data.

use proto::metapb::PeerRole;
use proto::{StoreId, metapb};

use super::look::Look;
use super::target::{self, Comes, PLACE};
use super::{Checked, Checker, Finding, Leaves, Refused, TOO_FEW_LIVE, found, guest, refuse};
use crate::decision::{Candidate, Decision};
use crate::operator::{Operator, Priority, Step};
use crate::regions::RegionInfo;
use crate::stores::STOPPING;

impl Checker<'_> {
    /// Voters that are to go, the first of them that can.
    pub(super) fn check_leavers(&self, region: &RegionInfo, look: &Look) -> Checked {
        self.first_of(self.leavers(region, PeerRole::Voter), |from, why| {
            self.replace(region, look, from, why)
        })
    }

    /// The same of learners that rules count on.
    pub(super) fn check_leaving_learners(&self, region: &RegionInfo, look: &Look) -> Checked {
        if look.stray.is_some() {
            return Ok(None);
        }
        self.first_of(self.leavers(region, PeerRole::Learner), |from, why| {
            let store = StoreId(from.store_id);
            let decision = self.decision(why.who(), region);
            let comes = Comes::Successor(store);
            let (to, decision) = self.target(region, comes, decision)?;
            found(Finding::MoveLearner { from, to, why }, decision)
        })
    }

    /// What an operator that brings a peer gives way to: a voter that is as good as dead and that it does not take away. The
    /// learner that it brought comes instead, where rules admit it. At any other step it ends in a moment by itself, and a
    /// joint configuration has to be left first.
    pub(super) fn check_urgent(&self, region: &RegionInfo, operator: &Operator) -> Checked {
        let (Step::AddLearner(brought) | Step::CatchUp(brought)) = operator.current() else {
            return Ok(None);
        };
        if operator.priority >= Priority::Repair || region.is_joint() {
            return Ok(None);
        }
        let look = self.look(region);
        let goes = |peer: &metapb::Peer| {
            let removes =
                |step: &Step| matches!(step, Step::RemoveLearner(gone) if gone.id == peer.id);
            operator.steps.iter().any(removes)
        };
        let mut leavers = self.leavers(region, PeerRole::Voter);
        leavers.retain(|(from, why)| *why != Leaves::Drained && !goes(from));
        let there = region.peer(brought.id);
        self.first_of(leavers, |from, why| match there {
            Some(learner) if self.admits(region, &look, &from, learner) => {
                Ok(self.take_place(region, learner, from, why))
            }
            Some(_) => Ok(None),
            None => self.replace(region, &look, from, why),
        })
    }

    /// Whether rules admit a learner in the place of a voter.
    pub(super) fn admits(
        &self,
        region: &RegionInfo,
        look: &Look,
        voter: &metapb::Peer,
        learner: &metapb::Peer,
    ) -> bool {
        let rule = look.rule_of(voter.id);
        rule.is_some_and(|rule| self.places.admits(region, rule, StoreId(learner.store_id)))
    }

    /// The first that something can be done about, or why nothing can be about the first of the others.
    fn first_of(
        &self,
        leavers: Vec<(metapb::Peer, Leaves)>,
        check: impl Fn(metapb::Peer, Leaves) -> Checked,
    ) -> Checked {
        let mut refused: Option<Refused> = None;
        for (from, why) in leavers {
            if self.is_paused(why.who()) {
                continue;
            }
            match check(from, why) {
                Ok(None) => {}
                Ok(found) => return Ok(found),
                Err(why) => {
                    refused.get_or_insert(why);
                }
            }
        }
        refused.map_or(Ok(None), Err)
    }

    /// The peers of a role that are to go, the worst first, and why.
    pub(super) fn leavers(
        &self,
        region: &RegionInfo,
        role: PeerRole,
    ) -> Vec<(metapb::Peer, Leaves)> {
        let why = |peer: &metapb::Peer| {
            let store = StoreId(peer.store_id);
            if self.lost(region, peer) {
                Some(Leaves::Lost)
            } else if region.is_damaged(peer.id) {
                Some(Leaves::Damaged)
            } else if self.stores.gone(store) {
                Some(Leaves::Gone)
            } else if self.stores.leaving(store) {
                Some(Leaves::Drained)
            } else {
                None
            }
        };
        let peers = region.region.peers.iter();
        let mut leavers: Vec<_> = peers
            .filter(|peer| peer.role() == role)
            .filter_map(|peer| Some((*peer, why(peer)?)))
            .collect();
        leavers.sort_by_key(|(_, why)| *why);
        leavers
    }

    /// Whether nobody heard of a peer's store for too long. The leader of the region may have missed it for longer than
    /// this placement leader leads.
    pub(super) fn lost(&self, region: &RegionInfo, peer: &metapb::Peer) -> bool {
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
        look: &Look,
        from: metapb::Peer,
        why: Leaves,
    ) -> Checked {
        let store = StoreId(from.store_id);
        let decision = self.decision(why.who(), region).between(Some(store), None);
        let leads = region.leader.as_ref().map(|leader| leader.id) == Some(from.id);
        if why == Leaves::Drained {
            if leads && let Some(to) = self.heir(region, &from) {
                return Ok(Some(self.hand_over(region, &from, to, why)));
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
        // A learner is on its way, perhaps for this one.
        if look.stray.is_some() {
            return Ok(None);
        }
        let refused = match self.target(region, Comes::Successor(store), decision) {
            Ok((to, decision)) if self.may_change(region, &[guest(to)], &[from]) => {
                return found(Finding::Move { from, to, why }, decision);
            }
            Ok((_, decision)) => return Err(refuse(decision, TOO_FEW_LIVE)),
            Err(refused) => refused,
        };
        let decision = || {
            let decision = self.decision(why.who(), region);
            decision.candidates(refused.candidates.clone())
        };
        if let Some(learner) = self.substitute(region, &from, why, &refused) {
            let to = StoreId(learner.store_id);
            return found(
                Finding::Replace { learner, from, why },
                decision().between(Some(store), Some(to)),
            );
        }
        if why == Leaves::Damaged && self.may_rebuild(region, &from, &refused) {
            return found(
                Finding::Rebuild(from),
                decision().between(Some(store), Some(store)),
            );
        }
        Err(refused)
    }

    /// A learner that rules want as one, and that votes in the place of a voter that is as good as dead, because no store
    /// takes a successor: a copy is missed less than a voter.
    fn substitute(
        &self,
        region: &RegionInfo,
        from: &metapb::Peer,
        why: Leaves,
        refused: &Decision,
    ) -> Option<metapb::Peer> {
        if why == Leaves::Drained || target::waits(refused) {
            return None;
        }
        let before = self.places.cost(region, None, None);
        let votes = |learner: &&metapb::Peer| {
            let store = StoreId(learner.store_id);
            let after = self.places.cost_promoted(region, from.id, learner.id);
            learner.role() == PeerRole::Learner
                && region.may_lead(learner.id)
                && self.takes_peers(store)
                && (after.missing_voters, after.roles) <= (before.missing_voters, before.roles)
                && self.may_change(region, &[**learner], &[*from])
        };
        region.region.peers.iter().find(votes).copied()
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
            && from.role() == PeerRole::Voter
            && region.voters().count() >= 3
            && others.all(well)
            && self.takes_peers(store)
            && !self.stores.leaving(store)
            && !self.stores.stopping(store)
    }

    /// Who takes the leadership over from a voter that goes: where rules want it, and the one whose store leads fewest.
    pub(super) fn heir(&self, region: &RegionInfo, from: &metapb::Peer) -> Option<metapb::Peer> {
        let fits =
            |peer: &&metapb::Peer| peer.id != from.id && self.can_take_over(region, peer).is_ok();
        let load = |peer: &&metapb::Peer| {
            let right = self.places.may_lead(region, StoreId(peer.store_id));
            (!right, self.led(peer), peer.id)
        };
        region.voters().filter(fits).min_by_key(load).copied()
    }

    /// Whether a voter may take the leadership over now, or why not.
    pub(super) fn can_take_over(
        &self,
        region: &RegionInfo,
        peer: &metapb::Peer,
    ) -> Result<(), &'static str> {
        let store = StoreId(peer.store_id);
        if !region.may_lead(peer.id) {
            Err("its peer is not caught up or damaged")
        } else if self.stores.leaving(store) {
            Err("it is leaving")
        } else if self.stores.stopping(store) {
            Err(STOPPING)
        } else if self.down(store) {
            Err("it is not up")
        } else if self.operators.busy(store) >= self.settings.store_operators_max {
            Err("it has operators enough")
        } else {
            Ok(())
        }
    }

    /// The stores whose voters could take the leadership over, for the journal.
    pub(super) fn heirs(&self, region: &RegionInfo, chosen: StoreId) -> Vec<Candidate> {
        let leader = region.leader.as_ref().map(|leader| leader.id);
        let candidate = |peer: &metapb::Peer| {
            let store = StoreId(peer.store_id);
            let takes = if leader == Some(peer.id) {
                Err("it leads")
            } else {
                self.can_take_over(region, peer)
            };
            let right = self.places.may_lead(region, store);
            let wrong = if right { 0.0 } else { PLACE };
            let verdict = match takes {
                Ok(()) if store == chosen => "chosen",
                Ok(()) if !right => "rules want another to lead",
                Ok(()) => "another is better",
                Err(reason) => reason,
            };
            Candidate {
                store,
                region: None,
                score: takes.map_or(f64::INFINITY, |()| wrong + self.led(peer) as f64),
                verdict: verdict.into(),
            }
        };
        region.voters().map(candidate).collect()
    }

    /// The stores of voters of which one is too many, for the journal: those that are missed least first.
    pub(super) fn spares(
        &self,
        region: &RegionInfo,
        look: &Look,
        chosen: StoreId,
    ) -> Vec<Candidate> {
        let leader = region.leader.as_ref().map(|leader| leader.id);
        let candidate = |peer: &metapb::Peer| {
            let place = look.spare.iter().position(|spare| spare.id == peer.id);
            let store = StoreId(peer.store_id);
            let verdict = match place {
                _ if store == chosen => "chosen",
                None => "rules count on it",
                Some(_) if leader == Some(peer.id) => "it leads",
                Some(_) => "another is missed less",
            };
            Candidate {
                store,
                region: None,
                score: place.map_or(f64::INFINITY, |place| place as f64),
                verdict: verdict.into(),
            }
        };
        region.voters().map(candidate).collect()
    }

    /// Leaders on the store of a peer, those that may come included.
    pub(super) fn led(&self, peer: &metapb::Peer) -> usize {
        let store = StoreId(peer.store_id);
        self.regions.counts(store).1 as usize + self.operators.busy(store)
    }
}
