//! Who makes operators, and when they are looked at: reports, the sweep, administrators.

use std::time::Duration;

use proto::pontoon::v1::StepRefusal;
use proto::{RegionId, StoreId, metapb};

use super::Leader;
use crate::checker::{Alignment, Checker, Finding, Leaves, MergeFinding, Voting, is_small};
use crate::commands;
use crate::decision::{Decision, Outcome, Who};
use crate::dial::Purpose;
use crate::event::{Answer, Lookup, Now, Refusal};
use crate::operator::{Kind, Merge, Priority, Step};
use crate::operators::{Occasion, Plan};
use crate::regions::RegionInfo;
use crate::state;

fn priority(why: Leaves) -> Priority {
    match why {
        Leaves::Lost | Leaves::Damaged | Leaves::Gone => Priority::Repair,
        Leaves::Drained => Priority::Drain,
        Leaves::Outside | Leaves::Misplaced => Priority::Rule,
    }
}

/// What is wrong, for people.
fn goes(peer: &metapb::Peer, why: Leaves) -> String {
    match why {
        Leaves::Damaged => format!("peer {} on store {} is {why}", peer.id, peer.store_id),
        Leaves::Lost | Leaves::Gone | Leaves::Drained | Leaves::Outside | Leaves::Misplaced => {
            format!("store {} is {why}", peer.store_id)
        }
    }
}

impl Leader {
    /// Moves the operator of a region forward, or checks whether it needs one.
    pub(super) fn look_after(&mut self, id: RegionId, now: Now) {
        let Some(region) = self.regions.get(id) else {
            return;
        };
        self.operators.advance(
            region,
            Occasion::Report,
            (&self.regions, &self.stores),
            now,
            &self.settings,
            &mut self.outbox,
        );
        self.check(id, now);
    }

    /// Counts a refusal of a step.
    pub(super) fn on_refused(&mut self, refusal: &StepRefusal, now: Now) {
        let Some(region) = self.regions.get(RegionId(refusal.region_id)) else {
            return;
        };
        self.operators
            .refused(refusal, region, now, &self.settings, &mut self.outbox);
    }

    pub(super) fn check(&mut self, id: RegionId, now: Now) {
        if self.cluster.bootstrapped_at_ms == 0 {
            return;
        }
        let Some(region) = self.regions.get(id) else {
            return;
        };
        let owned = self.operators.of_region(id).is_some();
        let small = is_small(region, &self.settings.merge);
        let stray = (!owned)
            .then(|| self.checker(Duration::ZERO, now).stray(region))
            .flatten();
        let unsettled = self.unsettled.watch(region, owned, stray, small, now);
        let found = match self.checker(unsettled, now).check(region) {
            Ok(Some(found)) => found,
            Ok(None) => return,
            Err(refused) => return self.decided(*refused, String::new(), now),
        };
        let mut decision = found.decision;
        let region = region.clone();
        let snapshots: Vec<_> = match &found.finding {
            Finding::Add { to, .. }
            | Finding::AddLearner(to)
            | Finding::Move { to, .. }
            | Finding::MoveLearner { to, .. } => vec![*to],
            Finding::Merge(merge) => merge.alignment.stores().collect(),
            _ => Vec::new(),
        };
        let purpose = match &found.finding {
            Finding::Merge(_) => Purpose::Balance,
            _ => Purpose::Repair,
        };
        let may = |to: &StoreId| self.may_send(&region, *to, purpose, now);
        if !snapshots.iter().all(may) {
            decision.outcome = Outcome::Refused {
                reason: "rebalance_share leaves it no bytes now".into(),
            };
            return self.decided(decision, String::new(), now);
        }
        let plan = self.plan(&region, found.finding);
        let cause = plan
            .as_ref()
            .map_or(String::new(), |plan| plan.cause.clone());
        // A checker can wait: the region is checked again.
        decision.outcome = match plan.and_then(|plan| self.start(&region, plan, now)) {
            Ok(operator) => {
                for to in snapshots {
                    self.sends(&region, to, purpose, now);
                }
                Outcome::Created { operator }
            }
            Err(_) => Outcome::Refused {
                reason: "too much is under way".into(),
            },
        };
        self.decided(decision, cause, now);
    }

    pub(super) fn checker(&self, unsettled: Duration, now: Now) -> Checker<'_> {
        Checker {
            settings: &self.settings,
            api_version: self.cluster.api_version,
            stores: &self.stores,
            regions: &self.regions,
            operators: &self.operators,
            drains: &self.drains,
            places: &self.places,
            pauses: &self.pauses,
            unsettled,
            now,
        }
    }

    pub(super) fn plan(&mut self, region: &RegionInfo, finding: Finding) -> Result<Plan, Refusal> {
        let wanted = self.places.layout().counts(&region.region.start_key).0;
        let repair = |kind, steps, cause| Plan {
            kind,
            priority: Priority::Repair,
            steps,
            cause,
        };
        Ok(match finding {
            Finding::SplitAt(keys) => Plan {
                kind: Kind::Split,
                priority: Priority::Rule,
                steps: commands::split_steps(&keys),
                cause: "edges of keyspaces and rules are boundaries of regions".into(),
            },
            Finding::Promote(peer) => {
                let cause = format!(
                    "learner {} fills a gap: {} voters of {}",
                    peer.id,
                    region.voters().count(),
                    wanted
                );
                repair(
                    Kind::AddReplica,
                    vec![Step::Swap {
                        promote: vec![peer],
                        demote: Vec::new(),
                    }],
                    cause,
                )
            }
            Finding::Exchange { learner, voter } => Plan {
                priority: Priority::Rule,
                ..repair(
                    Kind::Demote,
                    vec![Step::Swap {
                        promote: vec![learner],
                        demote: vec![voter],
                    }],
                    format!(
                        "rules count on learner {} as a voter, and on peer {} as a learner",
                        learner.id, voter.id
                    ),
                )
            },
            Finding::RemoveLearner { peer, why } => {
                let cause = format!("learner {} belongs to no operator, and {why}", peer.id);
                repair(Kind::RemoveLearner, vec![Step::RemoveLearner(peer)], cause)
            }
            Finding::Add { to, voters } => {
                let cause = format!("{voters} voters of {wanted}; store {to} fits best");
                let peer = self.new_learner(to)?;
                repair(Kind::AddReplica, commands::add_steps(&peer), cause)
            }
            Finding::Demote(peer) => {
                let cause = format!(
                    "{} voters of {}; peer {} is missed least",
                    region.voters().count(),
                    wanted,
                    peer.id
                );
                repair(Kind::RemoveLearner, commands::remove_steps(&peer), cause)
            }
            Finding::Rebuild(peer) => {
                let cause = format!(
                    "peer {} on store {} is damaged; no other store may take it, so it goes first",
                    peer.id, peer.store_id
                );
                repair(Kind::RemoveLearner, commands::remove_steps(&peer), cause)
            }
            Finding::Move { from, to, why } => {
                let cause = match why {
                    Leaves::Misplaced => format!(
                        "its replicas are farther apart on store {to} than on store {}",
                        from.store_id
                    ),
                    Leaves::Lost
                    | Leaves::Damaged
                    | Leaves::Gone
                    | Leaves::Drained
                    | Leaves::Outside => {
                        format!("{}; store {to} fits best", goes(&from, why))
                    }
                };
                let peer = self.new_learner(to)?;
                Plan {
                    priority: priority(why),
                    ..repair(
                        Kind::MoveReplica,
                        commands::move_steps(region, &from, &peer, &self.places, &self.stores),
                        cause,
                    )
                }
            }
            Finding::Replace { learner, from, why } => {
                let cause = format!(
                    "{}; learner {} takes its place",
                    goes(&from, why),
                    learner.id
                );
                let mut steps =
                    commands::move_steps(region, &from, &learner, &self.places, &self.stores);
                steps.retain(|step| *step != Step::AddLearner(learner));
                Plan {
                    priority: priority(why),
                    ..repair(Kind::MoveReplica, steps, cause)
                }
            }
            Finding::Merge(merge) => {
                let cause = format!(
                    "it is small: {} bytes have a region of their own",
                    region.bytes
                );
                self.merge_plan(region, &merge, Priority::Merge, cause)?
            }
            Finding::HandOver { from, to, why } => Plan {
                kind: Kind::TransferLeader,
                priority: priority(why),
                steps: vec![Step::TransferLeader(to)],
                cause: match why {
                    Leaves::Drained => format!("store {from} is drained: leaders go first"),
                    // A damaged leader hands over by itself.
                    Leaves::Lost
                    | Leaves::Damaged
                    | Leaves::Gone
                    | Leaves::Outside
                    | Leaves::Misplaced => format!(
                        "rules want it led from elsewhere than store {from}: store {} fits best",
                        to.store_id
                    ),
                },
            },
            Finding::AddLearner(to) => {
                let cause = format!("rules want a learner more; store {to} fits best");
                let peer = self.new_learner(to)?;
                Plan {
                    priority: Priority::Rule,
                    ..repair(
                        Kind::AddReplica,
                        vec![Step::AddLearner(peer), Step::CatchUp(peer)],
                        cause,
                    )
                }
            }
            Finding::MakeLearner(peer) => Plan {
                priority: Priority::Rule,
                ..repair(
                    Kind::Demote,
                    vec![Step::Swap {
                        promote: Vec::new(),
                        demote: vec![peer],
                    }],
                    format!("rules count on peer {} as a learner", peer.id),
                )
            },
            Finding::MoveLearner { from, to, why } => {
                let cause = format!("{}; store {to} fits best", goes(&from, why));
                let peer = self.new_learner(to)?;
                let steps = vec![
                    Step::AddLearner(peer),
                    Step::CatchUp(peer),
                    Step::RemoveLearner(from),
                ];
                Plan {
                    priority: priority(why),
                    ..repair(Kind::MoveReplica, steps, cause)
                }
            }
        })
    }

    pub(super) fn plan_move(
        &mut self,
        region: &RegionInfo,
        from: StoreId,
        to: StoreId,
        now: Now,
    ) -> Result<Plan, Refusal> {
        let old = commands::check_move(region, from, to, &self.stores, &self.settings, now)?;
        let new = self.new_learner(to)?;
        Ok(Plan {
            kind: Kind::MoveReplica,
            priority: Priority::Admin,
            steps: commands::move_steps(region, old, &new, &self.places, &self.stores),
            cause: format!("an administrator moves it from store {from} to store {to}"),
        })
    }

    /// An administrator has a region taken in.
    pub(super) fn plan_merge(
        &mut self,
        region: &RegionInfo,
        target: Option<RegionId>,
        now: Now,
    ) -> Result<Plan, Refusal> {
        let (start, end) = (&region.region.start_key, &region.region.end_key);
        let before = self.regions.previous(start);
        let after = self.regions.by_key(end).filter(|_| !end.is_empty());
        let neighbours: Vec<_> = [before, after].into_iter().flatten().collect();
        let candidates: Vec<_> = neighbours
            .iter()
            .copied()
            .filter(|other| target.is_none_or(|target| other.id() == target))
            .collect();
        if candidates.is_empty() {
            let ids: Vec<_> = neighbours
                .iter()
                .map(|other| other.id().to_string())
                .collect();
            return Err(Refusal::Invalid(match ids.is_empty() {
                true => format!("no neighbour of region {} is known", region.id()),
                false => format!(
                    "region {} can be merged into its neighbours: {}",
                    region.id(),
                    ids.join(", ")
                ),
            }));
        }
        let checker = self.checker(Duration::ZERO, now);
        let mut best: Option<MergeFinding> = None;
        let mut reasons = Vec::new();
        for other in candidates {
            match checker.could_merge(region, other) {
                Ok(alignment)
                    if best
                        .as_ref()
                        .is_none_or(|best| alignment.len() < best.alignment.len()) =>
                {
                    best = Some(MergeFinding {
                        target: other.region.clone(),
                        alignment,
                    });
                }
                Ok(_) => {}
                Err(why) => reasons.push(format!("into region {}: {why}", other.id())),
            }
        }
        let Some(merge) = best else {
            return Err(Refusal::Invalid(format!(
                "region {} cannot be merged: {}",
                region.id(),
                reasons.join("; ")
            )));
        };
        for to in merge.alignment.stores() {
            if let Err(why) = checker.could_take(region, to) {
                return Err(Refusal::Invalid(format!("store {to} must take it: {why}")));
            }
        }
        let cause = format!("an administrator merges it into region {}", merge.target.id);
        self.merge_plan(region, &merge, Priority::Admin, cause)
    }

    fn merge_plan(
        &mut self,
        region: &RegionInfo,
        merge: &MergeFinding,
        priority: Priority,
        cause: String,
    ) -> Result<Plan, Refusal> {
        let step = Merge::new(&region.region, &merge.target)
            .ok_or_else(|| Refusal::Invalid("the regions are no neighbours".into()))?;
        let mut steps = self.align_steps(region, &merge.alignment)?;
        steps.push(Step::Merge(step));
        Ok(Plan {
            kind: Kind::Merge,
            priority,
            steps,
            cause,
        })
    }

    /// The steps that bring a region where a neighbour is.
    fn align_steps(
        &mut self,
        region: &RegionInfo,
        alignment: &Alignment,
    ) -> Result<Vec<Step>, Refusal> {
        let mut steps = Vec::new();
        for exchange in &alignment.exchanges {
            let (to, new) = match exchange.comes {
                Voting::New(store) => (self.new_learner(store)?, true),
                Voting::Learner(there) => (there, false),
            };
            let (voter, places) = (&exchange.voter, &self.places);
            let mut exchanged = commands::take_place(region, voter, &to, places, &self.stores);
            exchanged.retain(|step| match step {
                Step::AddLearner(_) => new,
                Step::RemoveLearner(_) => !exchange.stays,
                Step::CatchUp(_)
                | Step::Swap { .. }
                | Step::TransferLeader(_)
                | Step::Split(_)
                | Step::Merge(_) => true,
            });
            steps.extend(exchanged);
        }
        for store in &alignment.arrivals {
            let peer = self.new_learner(*store)?;
            steps.extend([Step::AddLearner(peer), Step::CatchUp(peer)]);
        }
        let departures = alignment.departures.iter().copied();
        steps.extend(departures.map(Step::RemoveLearner));
        Ok(steps)
    }

    pub(super) fn new_learner(&mut self, store: StoreId) -> Result<metapb::Peer, Refusal> {
        Ok(metapb::Peer {
            id: self.take_ids(1)?,
            store_id: store.0,
            role: metapb::PeerRole::Learner.into(),
            ..Default::default()
        })
    }

    /// Carries out a command of an administrator.
    pub(super) fn command(
        &mut self,
        id: RegionId,
        now: Now,
        plan: impl FnOnce(&mut Self, &RegionInfo) -> Result<Plan, Refusal>,
    ) -> Result<Answer, Refusal> {
        self.bootstrapped()?;
        let region = self
            .regions
            .get(id)
            .cloned()
            .ok_or(Refusal::RegionNotFound(Lookup::Id(id)))?;
        if region.leader.is_none() {
            return Err(Refusal::Busy(format!("region {id} has no known leader")));
        }
        let plan = plan(self, &region)?;
        let cause = plan.cause.clone();
        let operator = self.start(&region, plan, now)?;
        let mut decision = Decision::created(Who::Admin, id, operator);
        decision.stores = self.operators.stores(operator);
        self.decided(decision, cause, now);
        Ok(Answer::Operator(operator))
    }

    /// Starts an operator unless the region has one that may not be replaced.
    pub(super) fn start(
        &mut self,
        region: &RegionInfo,
        plan: Plan,
        now: Now,
    ) -> Result<u64, Refusal> {
        let target = match plan.steps.last() {
            Some(Step::Merge(merge)) => Some(merge.target_id()),
            _ => None,
        };
        let held: Vec<_> = [Some(region.id()), target].into_iter().flatten().collect();
        let mut replaced = Vec::new();
        for id in held {
            if let Some((other, priority, between)) = self.operators.of_region(id) {
                let joint = self.regions.get(id).is_some_and(RegionInfo::is_joint);
                if priority >= plan.priority || !between || joint {
                    return Err(Refusal::Busy(format!("region {id} has operator {other}")));
                }
                replaced.push(other);
            }
        }
        for other in replaced {
            let reason = format!("replaced: {}", plan.cause);
            self.operators
                .cancel(other, reason, now, &self.settings, &mut self.outbox);
        }
        if self.operators.len() >= self.settings.operators_max {
            return Err(Refusal::Busy(format!(
                "{} operators are under way",
                self.operators.len()
            )));
        }
        let operator = self.take_ids(1)?;
        // Whoever moved it, a person included, balance does not undo it at once.
        self.balancer.rest(region, plan.kind, now, &self.settings);
        self.operators
            .start(operator, plan, region, now, &mut self.outbox);
        self.operators.advance(
            region,
            Occasion::Report,
            (&self.regions, &self.stores),
            now,
            &self.settings,
            &mut self.outbox,
        );
        Ok(operator)
    }

    /// Checks the next regions: a store that joined, came back or left concerns regions that have nothing to report.
    pub(super) fn sweep(&mut self, now: Now) {
        let count = self.settings.sweep_regions(self.regions.len());
        let ids: Vec<_> = self
            .regions
            .after(self.swept)
            .take(count)
            .map(RegionInfo::id)
            .collect();
        let whole = ids.len() < count;
        self.swept = ids
            .last()
            .copied()
            .filter(|_| !whole)
            .unwrap_or(RegionId(0));
        for id in ids {
            self.check(id, now);
        }
        if whole {
            self.bury_stores();
        }
    }

    /// Once a round: a store that was taken out and has no peer left is gone for good.
    pub(super) fn bury_stores(&mut self) {
        let empty = |id: &StoreId| self.stores.gone(*id) && self.regions.counts(*id).0 == 0;
        let gone: Vec<_> = self.stores.ids().filter(empty).collect();
        if gone.is_empty() || !self.regions.is_whole() {
            return;
        }
        for id in gone {
            if let Some(record) = self.stores.bury(id) {
                self.note(format!("store {id} holds nothing any more and is removed"));
                let _ = self.outbox.stage(state::put_store(id, &record));
            }
        }
    }
}
