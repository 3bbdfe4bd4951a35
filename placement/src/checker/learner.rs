//! Learners that are not what rules count on them for: left over by an operator that was cancelled, or by a leader that did not
//! live to finish; or wanted as voters.

use proto::StoreId;
use proto::metapb::{self, PeerRole};

use super::look::Look;
use super::{Checker, Finding, Found, Leaves};
use crate::decision::Who;
use crate::dial::Purpose;
use crate::operators::catch_up_deadline;
use crate::regions::RegionInfo;

impl Checker<'_> {
    /// A learner that no operator owns and no rule wants as one. Without an answer it is waited for.
    pub(super) fn check_stray(&self, region: &RegionInfo, look: &Look) -> Option<Found> {
        let learner = look.stray.as_ref()?;
        let leavers = self.admitting(region, look, learner);
        if !look.stray_votes && leavers.is_empty() {
            return Some(self.remove(region, learner, "the region has all its voters"));
        }
        let store = StoreId(learner.store_id);
        if self.stores.leaving(store) || self.down(store) {
            return Some(self.remove(region, learner, "its store is down or leaving"));
        }
        if region.is_damaged(learner.id) {
            return Some(self.remove(region, learner, "its data is damaged"));
        }
        let ready = region.caught_up(learner.id) && self.takes_peers(store);
        let found = match (ready, look.stray_votes) {
            (false, _) => None,
            (true, true) => return self.let_vote(region, look, learner),
            (true, false) => {
                let mut leavers = leavers.into_iter();
                leavers.find_map(|(from, why)| self.take_place(region, learner, from, why))
            }
        };
        let patience = catch_up_deadline(region, Purpose::Repair, self.settings);
        let late = || {
            let late = self.unsettled >= patience;
            let why = if ready {
                "no voter can go for it"
            } else {
                "it does not catch up"
            };
            late.then(|| self.remove(region, learner, why))
        };
        found.or_else(late)
    }

    /// The voters that are to go, and in whose place rules admit a learner.
    fn admitting(
        &self,
        region: &RegionInfo,
        look: &Look,
        learner: &metapb::Peer,
    ) -> Vec<(metapb::Peer, Leaves)> {
        if look.missing_voters > 0 || !look.spare.is_empty() {
            return Vec::new();
        }
        let mut leavers = self.leavers(region, PeerRole::Voter);
        leavers.retain(|(from, _)| self.admits(region, look, from, learner));
        leavers
    }

    /// A learner becomes the voter that rules count on: in exchange for one that they count on as a learner, for one outside of
    /// them, or as one more. Dead voters that do not allow that go for it.
    fn let_vote(&self, region: &RegionInfo, look: &Look, learner: &metapb::Peer) -> Option<Found> {
        let leader = region.leader.as_ref().map(|leader| leader.id);
        let enough = region.voters().count() >= look.wanted as usize;
        let store = StoreId(learner.store_id);
        let exchanged = look.demoted.filter(|voter| {
            Some(voter.id) != leader && self.may_change(region, &[*learner], &[*voter])
        });
        if let Some(voter) = exchanged {
            let decision = self.decision(Who::Rule, region);
            return Some(Found {
                finding: Finding::Exchange {
                    learner: *learner,
                    voter,
                },
                decision: decision.between(Some(StoreId(voter.store_id)), Some(store)),
            });
        }
        // As many as there should be, but one is outside: they change places.
        if enough && let Some(outside) = look.spare.first() {
            let found = self.take_place(region, learner, *outside, Leaves::Outside);
            if found.is_some() {
                return found;
            }
        }
        if self.may_change(region, &[*learner], &[]) {
            let decision = self.decision(Who::Repair, region);
            return Some(Found {
                finding: Finding::Promote(*learner),
                decision: decision.between(None, Some(store)),
            });
        }
        let leavers = self.leavers(region, PeerRole::Voter).into_iter();
        let mut dead = leavers.filter(|(_, why)| *why != Leaves::Drained);
        dead.find_map(|(from, why)| self.take_place(region, learner, from, why))
    }

    /// A learner votes for a voter that goes, unless that one leads and nobody can follow, or too few others are alive.
    pub(super) fn take_place(
        &self,
        region: &RegionInfo,
        learner: &metapb::Peer,
        from: metapb::Peer,
        why: Leaves,
    ) -> Option<Found> {
        let leads = region.leader.as_ref().map(|leader| leader.id) == Some(from.id);
        let stays = leads && self.heir(region, &from).is_none();
        if stays || !self.may_change(region, &[*learner], &[from]) {
            return None;
        }
        let decision = self.decision(why.who(), region);
        let stores = (StoreId(from.store_id), StoreId(learner.store_id));
        Some(Found {
            finding: Finding::Replace {
                learner: *learner,
                from,
                why,
            },
            decision: decision.between(Some(stores.0), Some(stores.1)),
        })
    }

    fn remove(&self, region: &RegionInfo, learner: &metapb::Peer, why: &'static str) -> Found {
        let store = StoreId(learner.store_id);
        Found {
            finding: Finding::RemoveLearner {
                peer: *learner,
                why,
            },
            decision: self
                .decision(Who::Repair, region)
                .between(Some(store), None),
        }
    }
}
