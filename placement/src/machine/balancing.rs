//! Rounds of balance: what schedulers decide becomes operators.

use std::collections::BTreeMap;
use std::time::Duration;

use proto::{StoreId, metapb};

use super::Leader;
use crate::commands;
use crate::decision::{Decision, Outcome, Who, Word};
use crate::dial::{Claim, Dial, Purpose, Side};
use crate::dice::Dice;
use crate::event::{Now, Refusal};
use crate::operator::{Kind, Priority, Step};
use crate::operators::{Operators, Plan};
use crate::regions::index::leader_store;
use crate::regions::{RegionInfo, Regions};
use crate::rests::{Part, Rests};
use crate::scheduler::{self, Action, Proposal, Relief, View};
use crate::score::Burden;
use crate::settings::Settings;

/// Time between two looks at whether the view is whole, which is a look at all regions.
const WHOLE_EVERY: Duration = Duration::from_secs(10);
/// The same refusal is written down again after this.
const REFUSALS_EVERY: Duration = Duration::from_secs(60);
/// That nothing is to be done, after this: a cluster that is even is silent.
const EVEN_EVERY: Duration = Duration::from_secs(3600);

/// Refusals that are written down in that time at the most.
const REFUSALS_MAX: usize = 32;

/// What rounds remember.
#[derive(Debug)]
pub(super) struct Balancer {
    dice: Dice,
    pub(super) rests: Rests,
    relief: Relief,
    dial: Dial,
    /// When the next round is due.
    next: Duration,
    /// Whether the view covered every key once: before, it is not known what stores have.
    whole: bool,
    /// When a scheduler last told that it does nothing for a reason.
    refused: BTreeMap<News, Duration>,
}

/// What makes a refusal another one than those before: who, why, and what of which stores.
type News = (Who, Word, Vec<(StoreId, Word)>);

impl Balancer {
    /// Goes on with the rests of what earlier leaders moved.
    pub fn new(term: u64, now: Now, settings: &Settings, operators: &Operators) -> Self {
        let mut rests = Rests::default();
        let begun = operators.begun();
        let moved = begun.flat_map(|operator| {
            let rest = operator.rests(now, settings.balance.rest);
            let part = move |part: &Part| (operator.region, *part, rest);
            parts(operator.kind).iter().map(part)
        });
        rests.resume(moved, now.monotonic);
        Self {
            dice: Dice::new(term),
            rests,
            relief: Relief::new(),
            dial: Dial::new(now.monotonic),
            next: now.monotonic + settings.balance.settle,
            whole: false,
            refused: BTreeMap::new(),
        }
    }

    /// Whether every region has reported to this leader. The view may have a hole after that, while a piece of a split has
    /// not told of itself yet; it has the members of the others.
    pub fn knows_all(&mut self, regions: &Regions) -> bool {
        self.whole = self.whole || regions.is_whole();
        self.whole
    }

    /// Whether the first round is over: then it is known what stores have.
    pub fn has_begun(&self) -> bool {
        self.whole
    }

    /// What may still be moved.
    pub fn dial(&self) -> &Dial {
        &self.dial
    }

    /// A region that is moved now is left alone for a while.
    pub fn rest(&mut self, region: &RegionInfo, kind: Kind, now: Now, settings: &Settings) {
        let (burden, rest) = (Burden::of(region), settings.balance.rest);
        for &part in parts(kind) {
            self.rests
                .begin(region.id(), part, &burden, now.monotonic, rest);
        }
    }

    /// Whether a refusal is to be written down: most are those of the round before. Where many pairs of stores are in turn the
    /// ones that stand out, some are left out.
    fn is_news(&mut self, refusal: &Decision, now: Duration) -> bool {
        let Outcome::Refused { reason } = &refusal.outcome else {
            return true;
        };
        let (every, stores) = if *reason == scheduler::EVEN {
            // Which are the ends says nothing then. Which are full or do not take part does.
            let closed = refusal.candidates.iter();
            let closed = closed.map(|closed| (closed.store, closed.verdict.clone()));
            (EVEN_EVERY, closed.collect())
        } else {
            let (from, to) = refusal.stores;
            let ends = [(from, "from"), (to, "to")].into_iter();
            let ends = ends.filter_map(|(store, end)| Some((store?, end.into())));
            (REFUSALS_EVERY, ends.collect())
        };
        let news = (refusal.who, reason.clone(), stores);
        let since = |told: &Duration| now.saturating_sub(*told);
        if self
            .refused
            .get(&news)
            .is_some_and(|told| since(told) < every)
        {
            return false;
        }
        self.refused.retain(|_, told| since(told) < EVEN_EVERY);
        let lately = self.refused.values();
        let lately = lately.filter(|told| since(told) < REFUSALS_EVERY);
        if lately.count() >= REFUSALS_MAX {
            return false;
        }
        self.refused.insert(news, now);
        true
    }
}

impl Leader {
    /// Begins a round if one is due.
    pub(super) fn balance(&mut self, now: Now) {
        let settings = &self.settings.balance;
        if !settings.enabled
            || self.cluster.bootstrapped_at_ms == 0
            || now.monotonic < self.balancer.next
        {
            return;
        }
        self.balancer.next = now.monotonic + settings.every;
        if !self.balancer.knows_all(&self.regions) {
            self.balancer.next = now.monotonic + WHOLE_EVERY;
            let reason = "not every region has reported to this placement leader";
            return self.refuse_round(Decision::refused(Who::BalanceRegion, None, reason), now);
        }
        self.balancer.rests.expire(now.monotonic);
        let paused: Vec<_> = Who::ALL
            .into_iter()
            .filter(|who| self.is_paused(*who, now))
            .collect();
        let relief = std::mem::take(&mut self.balancer.relief);
        let mut view = View::new(
            &self.regions,
            &self.stores,
            &self.operators,
            &self.balancer.rests,
            relief,
            &self.places,
            &self.settings,
            now,
        );
        let round = scheduler::round(
            &mut view,
            &mut self.balancer.dial,
            &mut self.balancer.dice,
            |who| paused.contains(&who),
        );
        self.balancer.relief = view.into_relief();
        for proposal in round.proposals {
            self.carry_out(proposal, now);
        }
        for refusal in round.refusals {
            self.refuse_round(refusal, now);
        }
    }

    fn refuse_round(&mut self, refusal: Decision, now: Now) {
        if self.balancer.is_news(&refusal, now.monotonic) {
            self.decided(refusal, String::new(), now);
        }
    }

    /// Whether a checker may send a region to a store now. What is under way is bounded by the number of operators.
    pub(super) fn may_send(
        &self,
        region: &RegionInfo,
        to: StoreId,
        purpose: Purpose,
        now: Now,
    ) -> bool {
        let setting = self.settings.balance.setting();
        let dial = &self.balancer.dial;
        claims(region, to, purpose)
            .iter()
            .all(|claim| dial.allows(*claim, 0, setting, now.monotonic))
    }

    /// A checker sends a region to a store.
    pub(super) fn sends(&mut self, region: &RegionInfo, to: StoreId, purpose: Purpose, now: Now) {
        let setting = self.settings.balance.setting();
        for claim in claims(region, to, purpose) {
            self.balancer.dial.take(claim, setting, now.monotonic);
        }
    }

    fn carry_out(&mut self, proposal: Proposal, now: Now) {
        let Proposal {
            region: id,
            action,
            mut decision,
        } = proposal;
        let Some(region) = self.regions.get(id).cloned() else {
            return;
        };
        let plan = self.plan_balance(&region, action, decision.who);
        let cause = plan
            .as_ref()
            .map_or(String::new(), |plan| plan.cause.clone());
        decision.outcome = match plan.and_then(|plan| self.start(&region, plan, now)) {
            Ok(operator) => Outcome::Created { operator },
            Err(_) => Outcome::Refused {
                reason: "another operator was quicker".into(),
            },
        };
        self.decided(decision, cause, now);
    }

    fn plan_balance(
        &mut self,
        region: &RegionInfo,
        action: Action,
        who: Who,
    ) -> Result<Plan, Refusal> {
        let gone = || Refusal::Busy(format!("region {} changed meanwhile", region.id()));
        let priority = match who {
            Who::HotWrite | Who::HotRead => Priority::Hot,
            _ => Priority::Balance,
        };
        Ok(match action {
            Action::Move { from, to, leads } => {
                let old = *region.peer_on(from).ok_or_else(gone)?;
                let new = self.new_learner(to)?;
                let steps = if leads {
                    leading_steps(&old, &new)
                } else {
                    commands::move_steps(region, &old, &new, &self.places, &self.stores)
                };
                Plan {
                    kind: Kind::MoveReplica,
                    priority,
                    steps,
                    cause: format!("{who}: from store {from} to store {to}"),
                }
            }
            Action::Transfer { to } => Plan {
                kind: Kind::TransferLeader,
                priority,
                steps: vec![Step::TransferLeader(*region.peer_on(to).ok_or_else(gone)?)],
                cause: format!("{who}: store {to} leads it"),
            },
        })
    }
}

/// What of a region an operator of this kind moves.
fn parts(kind: Kind) -> &'static [Part] {
    match kind {
        Kind::MoveReplica => &[Part::Replicas],
        Kind::TransferLeader => &[Part::Leadership],
        Kind::Scatter => &[Part::Replicas, Part::Leadership],
        Kind::AddReplica | Kind::RemoveLearner | Kind::Split | Kind::Merge | Kind::Demote => &[],
    }
}

/// What a snapshot from the leader of a region costs both sides.
fn claims(region: &RegionInfo, to: StoreId, purpose: Purpose) -> Vec<Claim> {
    let claim = |store, side| Claim {
        store,
        side,
        purpose,
        bytes: Burden::of(region).size,
    };
    let sender = leader_store(region).map(|store| claim(store, Side::Sends));
    let receiver = claim(to, Side::Receives);
    sender.into_iter().chain([receiver]).collect()
}

/// A move that takes leadership along: the new peer votes before the old one may go.
fn leading_steps(from: &metapb::Peer, to: &metapb::Peer) -> Vec<Step> {
    let swap = |promote: &[metapb::Peer], demote: &[metapb::Peer]| Step::Swap {
        promote: promote.to_vec(),
        demote: demote.to_vec(),
    };
    vec![
        Step::AddLearner(*to),
        Step::CatchUp(*to),
        swap(&[*to], &[]),
        Step::TransferLeader(*to),
        swap(&[], &[*from]),
        Step::RemoveLearner(*from),
    ]
}

#[cfg(test)]
mod tests;
