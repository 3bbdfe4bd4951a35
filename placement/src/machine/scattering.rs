//! Regions of a group go apart, when somebody asks for it.

use std::time::Duration;

use proto::{RegionId, StoreId, metapb};

use super::Leader;
use crate::commands;
use crate::decision::{Decision, Outcome, Who};
use crate::dial::Purpose;
use crate::event::{Answer, Now, Refusal};
use crate::operator::{Kind, Priority, Step};
use crate::operators::Plan;
use crate::regions::RegionInfo;
use crate::scatter::{self, Aim};

/// Regions of one request at the most.
const REGIONS_MAX: usize = 4096;

impl Leader {
    /// Spreads regions over stores. Those that something else is under way with are named, and stay.
    pub(super) fn scatter(&mut self, ids: &[RegionId], now: Now) -> Result<Answer, Refusal> {
        self.bootstrapped()?;
        if ids.is_empty() || ids.len() > REGIONS_MAX {
            return Err(Refusal::Invalid(format!(
                "1 to {REGIONS_MAX} regions are scattered at once"
            )));
        }
        if self.is_paused(Who::Scatter, now) {
            return Err(Refusal::Busy("scatter is paused".into()));
        }
        let (mut group, mut failed) = (Vec::new(), Vec::new());
        for id in ids {
            match self
                .regions
                .get(*id)
                .filter(|region| self.is_calm(region, now))
            {
                Some(region) => group.push(region.clone()),
                None => failed.push(*id),
            }
        }
        let stores: Vec<_> = self.stores.ids().collect();
        let checker = self.checker(Duration::ZERO, now);
        let takes = |region: &RegionInfo, store| checker.could_take(region, store).is_ok();
        let leads = |store| !self.stores.stopping(store);
        let aims = scatter::choose(&group, &stores, takes, leads, &self.places);
        for aim in aims {
            let region = &group[aim.region];
            let to = aim.moves.iter().map(|(_, to)| *to);
            let to: Vec<StoreId> = to.collect();
            let may = |to: &StoreId| self.may_send(region, *to, Purpose::Balance, now);
            let began = if to.iter().all(may) {
                self.begin_scatter(region, &aim, now)
            } else {
                Err(Refusal::Busy(
                    "rebalance_share leaves it no bytes now".into(),
                ))
            };
            match began {
                Ok(()) => {
                    for to in to {
                        self.sends(region, to, Purpose::Balance, now);
                    }
                }
                Err(_) => failed.push(region.id()),
            }
        }
        Ok(Answer::Scattered { failed })
    }

    /// Whether nothing is under way or amiss with a region.
    pub(super) fn is_calm(&self, region: &RegionInfo, now: Now) -> bool {
        region.leader.is_some()
            && region.term > 0
            && !region.is_joint()
            && self.places.counts_on_learners(region)
            && region.pending.is_empty()
            && region.down.is_empty()
            && self.operators.of_region(region.id()).is_none()
            && !self.operators.backs_off(region.id(), now)
    }

    /// The steps that bring voters of a region to other stores, and then its leadership to one of them if that is asked for.
    pub(super) fn spread_steps(
        &mut self,
        region: &RegionInfo,
        moves: &[(metapb::Peer, StoreId)],
        leader: Option<StoreId>,
    ) -> Result<Vec<Step>, Refusal> {
        let mut steps = Vec::new();
        let mut peers = region.region.peers.clone();
        for (from, to) in moves {
            let new = self.new_learner(*to)?;
            steps.extend(commands::take_place(
                region,
                from,
                &new,
                &self.places,
                &self.stores,
            ));
            peers.retain(|peer| peer.id != from.id);
            peers.push(new);
        }
        let leads = |peer: &&metapb::Peer| leader == Some(StoreId(peer.store_id));
        steps.extend(peers.iter().find(leads).copied().map(Step::TransferLeader));
        Ok(steps)
    }

    fn begin_scatter(&mut self, region: &RegionInfo, aim: &Aim, now: Now) -> Result<(), Refusal> {
        let steps = self.spread_steps(region, &aim.moves, aim.leader)?;
        let cause = "its group is spread evenly".to_owned();
        let plan = Plan {
            kind: Kind::Scatter,
            priority: Priority::Balance,
            steps,
            cause: cause.clone(),
        };
        let operator = self.start(region, plan, now)?;
        let decision = Decision::refused(Who::Scatter, Some(region.id()), "")
            .between(
                aim.moves.first().map(|(from, _)| StoreId(from.store_id)),
                aim.moves.first().map(|(_, to)| *to).or(aim.leader),
            )
            .input("peers to move", aim.moves.len() as f64);
        let outcome = Outcome::Created { operator };
        self.decided(
            Decision {
                outcome,
                ..decision
            },
            cause,
            now,
        );
        Ok(())
    }
}
