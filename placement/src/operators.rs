//! The operators of the cluster: one per region, moved forward by reports.

mod refused;

use std::collections::BTreeMap;
use std::time::Duration;

use proto::pontoon::v1::StepId;
use proto::{RegionId, StoreId, metapb};

use crate::dial::Purpose;
use crate::event::{Note, Now, Order, OrderKind, Refusal};
use crate::operator::{Kind, Operator, OperatorView, Priority, Progress, State, Step, judge};
use crate::outbox::{Happened, Outbox, What};
use crate::regions::{RegionInfo, Regions};
use crate::settings::Settings;
use crate::state;
use crate::stores::Stores;
use refused::Refusals;

/// Bytes per second that a learner must make, whatever the dial grants.
const CATCH_UP_RATE_MIN: u64 = 64 << 10;

/// A decision: what is to be done with a region, and why.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Plan {
    pub kind: Kind,
    pub priority: Priority,
    pub steps: Vec<Step>,
    pub cause: String,
}

#[derive(Debug)]
struct Running {
    operator: Operator,
    /// Whether the region reported to this leader since the operator was loaded, and is in the view.
    heard: bool,
    /// When the current step began, as far as this leader knows; when the wait began for a region that is not heard.
    since: Duration,
    sent: Option<Duration>,
    refusals: Refusals,
}

/// Pause of the checkers for a region.
#[derive(Clone, Copy, Debug)]
struct BackOff {
    failures: u32,
    until: Duration,
}

/// All operators under way and the last finished ones.
#[derive(Debug, Default)]
pub(crate) struct Operators {
    running: BTreeMap<u64, Running>,
    by_region: BTreeMap<RegionId, u64>,
    finished: BTreeMap<u64, Operator>,
    /// Operators per store that they touch.
    busy: BTreeMap<StoreId, usize>,
    back_off: BTreeMap<RegionId, BackOff>,
}

/// Why an operator is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Occasion {
    /// The region reported, or the operator is new: send at once.
    Report,
    /// Time passed: send again only when it is due.
    Tick,
}

impl Operators {
    /// Takes the operators of earlier leaders over. A region has one: of two, which a write of a leader that was about
    /// to lose can leave behind, the later goes.
    pub fn load(
        records: BTreeMap<u64, Operator>,
        now: Now,
        settings: &Settings,
        outbox: &mut Outbox,
    ) -> Self {
        let mut operators = Self::default();
        let mut doubles = Vec::new();
        for (id, operator) in records {
            if operator.state != State::Running {
                operators.finished.insert(id, operator);
            } else if operator.regions().any(|region| operators.holds(region)) {
                doubles.push(operator);
            } else {
                operators.track(operator, false, now);
            }
        }
        operators.resume_pauses(now, settings);
        for operator in doubles {
            let reason = "the region has an earlier operator".to_owned();
            operators.record(operator, State::Cancelled, reason, now, settings, outbox);
        }
        operators
    }

    /// Starts an operator. Its record is staged, and its first order waits for that.
    pub fn start(
        &mut self,
        id: u64,
        plan: Plan,
        region: &RegionInfo,
        now: Now,
        outbox: &mut Outbox,
    ) {
        let operator = Operator {
            id,
            kind: plan.kind,
            priority: plan.priority,
            state: State::Running,
            region: region.id(),
            start_epoch: region.epoch(),
            epoch: region.epoch(),
            steps: plan.steps,
            step: 0,
            cause: plan.cause,
            reason: String::new(),
            created_at_ms: now.wall_ms,
            finished_at_ms: 0,
        };
        assert!(!operator.steps.is_empty(), "operator {id} has no steps");
        for region in operator.regions() {
            let occupied = self.by_region.get(&region);
            assert!(
                occupied.is_none(),
                "region {region} has operator {occupied:?}"
            );
        }
        note(
            &operator,
            outbox,
            format!("{} started: {}", operator.kind.name(), operator.cause),
        );
        let _ = outbox.stage(state::put_operator(&operator));
        self.track(operator, true, now);
    }

    fn holds(&self, region: RegionId) -> bool {
        self.by_region.contains_key(&region)
    }

    /// The operator of a region, its priority, and whether it may be replaced: not while a joint change or a freeze may be
    /// under way.
    pub fn of_region(&self, region: RegionId) -> Option<(u64, Priority, bool)> {
        let id = *self.by_region.get(&region)?;
        let operator = &self.running[&id].operator;
        let between = !matches!(operator.current(), Step::Swap { .. } | Step::Merge(_));
        Some((id, operator.priority, between))
    }

    /// The operator of a region, unless it only takes the region of another in.
    pub fn moving(&self, region: RegionId) -> Option<&Operator> {
        let operator = &self.running[self.by_region.get(&region)?].operator;
        (operator.region == region).then_some(operator)
    }

    /// Operators under way, by id.
    pub fn under_way(&self) -> impl Iterator<Item = &Operator> {
        self.running.values().map(|running| &running.operator)
    }

    /// Those that ended as they should, as far as they are kept.
    pub fn done(&self) -> impl Iterator<Item = &Operator> {
        let done = |operator: &&Operator| operator.state == State::Done;
        self.finished.values().filter(done)
    }

    /// Operators under way and those that ended lately.
    pub fn begun(&self) -> impl Iterator<Item = &Operator> {
        self.under_way().chain(self.finished.values())
    }

    /// Merges under way.
    pub fn merges(&self) -> usize {
        self.by_region.len() - self.running.len()
    }

    /// Operators under way.
    pub fn len(&self) -> usize {
        self.running.len()
    }

    /// Operators under way that touch a store.
    pub fn busy(&self, store: StoreId) -> usize {
        self.busy.get(&store).copied().unwrap_or(0)
    }

    /// Whether the checkers leave a region alone for now.
    pub fn backs_off(&self, region: RegionId, now: Now) -> bool {
        self.back_off
            .get(&region)
            .is_some_and(|pause| now.monotonic < pause.until)
    }

    /// Regions whose operators are to be looked at on a tick, with what is left to do without a report.
    pub fn due(&mut self, now: Now, settings: &Settings, outbox: &mut Outbox) -> Vec<RegionId> {
        let mut due = Vec::new();
        let mut lost = Vec::new();
        for (id, running) in &self.running {
            if running.heard {
                due.push(running.operator.region);
            } else if now.monotonic.saturating_sub(running.since) >= settings.resume_deadline {
                lost.push(*id);
            }
        }
        for id in lost {
            self.finish(
                id,
                State::Cancelled,
                "its region does not report any more".into(),
                now,
                settings,
                outbox,
            );
        }
        due
    }

    /// Looks at the operator of a region with what is known of the region now.
    pub fn advance(
        &mut self,
        region: &RegionInfo,
        occasion: Occasion,
        view: (&Regions, &Stores),
        now: Now,
        settings: &Settings,
        outbox: &mut Outbox,
    ) {
        let Some(&id) = self.by_region.get(&region.id()) else {
            return;
        };
        let stores = view.1;
        loop {
            let running = self
                .running
                .get_mut(&id)
                .expect("by_region names running operators");
            if running.operator.region != region.id() {
                return self.advance_target(id, region, now, settings, outbox);
            }
            if !running.heard {
                running.heard = true;
                running.since = now.monotonic;
            }
            let step = running.operator.current();
            match judge(step, running.operator.epoch, region, view) {
                Progress::Done(epoch) => {
                    let step_text = step.to_string();
                    let text = format!("done: {step_text}");
                    running.operator.epoch = epoch;
                    running.operator.step += 1;
                    running.since = now.monotonic;
                    running.sent = None;
                    running.refusals = Refusals::default();
                    happened(&running.operator, What::Step, step_text, now, outbox);
                    note(&running.operator, outbox, text);
                    if running.operator.step == running.operator.steps.len() {
                        self.finish(id, State::Done, String::new(), now, settings, outbox);
                        return;
                    }
                    let _ = outbox.stage(state::put_operator(&running.operator));
                }
                Progress::Cancel(reason) => {
                    self.finish(id, State::Cancelled, reason, now, settings, outbox);
                    return;
                }
                progress @ (Progress::Wait | Progress::Send(_)) => {
                    if let Some(reason) = give_up(running, region, stores, now, settings) {
                        self.finish(id, State::Cancelled, reason, now, settings, outbox);
                        return;
                    }
                    if let Progress::Send(kind) = progress {
                        send(
                            running, kind, occasion, region, stores, now, settings, outbox,
                        );
                    }
                    return;
                }
            }
        }
    }

    /// Looks at a merge with what is known of the region that is to take the other in: it alone tells that it did.
    fn advance_target(
        &mut self,
        id: u64,
        target: &RegionInfo,
        now: Now,
        settings: &Settings,
        outbox: &mut Outbox,
    ) {
        let running = self
            .running
            .get_mut(&id)
            .expect("by_region names running operators");
        let operator = &mut running.operator;
        let merge = operator
            .target()
            .expect("by_region names only the regions that an operator holds");
        match merge.judge_target(target) {
            Progress::Done(_) if matches!(operator.current(), Step::Merge(_)) => {
                let text = operator.current().to_string();
                operator.step += 1;
                happened(operator, What::Step, text, now, outbox);
                self.finish(id, State::Done, String::new(), now, settings, outbox);
            }
            Progress::Wait | Progress::Send(_) => {}
            Progress::Done(_) => {
                let reason = "its neighbour took it in early".to_owned();
                self.finish(id, State::Cancelled, reason, now, settings, outbox);
            }
            Progress::Cancel(reason) => {
                self.finish(id, State::Cancelled, reason, now, settings, outbox);
            }
        }
    }

    /// From which store to which an operator under way goes.
    pub fn stores(&self, id: u64) -> (Option<StoreId>, Option<StoreId>) {
        let running = self.running.get(&id);
        running.map_or((None, None), |running| running.operator.stores())
    }

    /// Whether an operator may be ended by command, or why not.
    pub fn cancellable(&self, id: u64, regions: &Regions) -> Result<(), Refusal> {
        let Some(running) = self.running.get(&id) else {
            let what = if self.finished.contains_key(&id) {
                "has ended"
            } else {
                "is not known"
            };
            return Err(Refusal::Invalid(format!("operator {id} {what}")));
        };
        let joint = regions
            .get(running.operator.region)
            .is_some_and(RegionInfo::is_joint);
        if joint || matches!(running.operator.current(), Step::Swap { .. }) {
            return Err(Refusal::Busy(format!(
                "operator {id} is at its joint change, which its region finishes by itself"
            )));
        }
        Ok(())
    }

    /// Ends an operator that did not finish.
    pub fn cancel(
        &mut self,
        id: u64,
        reason: String,
        now: Now,
        settings: &Settings,
        outbox: &mut Outbox,
    ) {
        self.finish(id, State::Cancelled, reason, now, settings, outbox);
    }

    /// Ends what moves peers off a store for a drain that is taken back, unless the new peer votes already or may soon.
    pub fn end_drain(
        &mut self,
        store: StoreId,
        now: Now,
        settings: &Settings,
        outbox: &mut Outbox,
    ) {
        let ends = |operator: &Operator| {
            let from =
                |step: &Step| matches!(step, Step::RemoveLearner(peer) if peer.store_id == store.0);
            operator.priority == Priority::Drain
                && operator.steps.iter().any(from)
                && matches!(operator.current(), Step::AddLearner(_) | Step::CatchUp(_))
        };
        let ids: Vec<_> = self
            .running
            .values()
            .filter(|running| ends(&running.operator))
            .map(|running| running.operator.id)
            .collect();
        for id in ids {
            let reason = format!("store {store} is drained no more");
            self.finish(id, State::Cancelled, reason, now, settings, outbox);
        }
    }

    /// A region left the view: it is gone, or a piece of it was quicker to report than itself. Its operator waits as
    /// that of an earlier leader does, for a report or for the end of its patience.
    pub fn region_hidden(&mut self, region: RegionId, now: Now) {
        self.back_off.remove(&region);
        if let Some(id) = self.by_region.get(&region) {
            let running = self
                .running
                .get_mut(id)
                .expect("by_region names running operators");
            running.heard = false;
            running.since = now.monotonic;
        }
    }

    /// Newest first, under way and the last finished ones.
    pub fn list(
        &self,
        operator: Option<u64>,
        region: Option<RegionId>,
        now: Now,
        settings: &Settings,
    ) -> Vec<OperatorView> {
        let running = self.running.values().map(|running| &running.operator);
        let wanted = |found: &&Operator| {
            operator.is_none_or(|id| found.id == id)
                && region.is_none_or(|region| found.regions().any(|found| found == region))
        };
        let finished = self.finished.values().rev();
        let finished = finished.take(settings.operators_kept_max);
        let all = running.chain(finished).filter(wanted);
        let mut views: Vec<_> = all.map(|operator| operator.view(now.wall_ms)).collect();
        views.sort_by_key(|view| std::cmp::Reverse(view.id));
        views
    }

    fn track(&mut self, operator: Operator, heard: bool, now: Now) {
        for region in operator.regions() {
            self.by_region.insert(region, operator.id);
        }
        for store in touched(&operator) {
            *self.busy.entry(store).or_default() += 1;
        }
        let running = Running {
            operator,
            heard,
            since: now.monotonic,
            sent: None,
            refusals: Refusals::default(),
        };
        self.running.insert(running.operator.id, running);
    }

    fn finish(
        &mut self,
        id: u64,
        state: State,
        reason: String,
        now: Now,
        settings: &Settings,
        outbox: &mut Outbox,
    ) {
        let Some(Running { operator, .. }) = self.running.remove(&id) else {
            return;
        };
        for region in operator.regions() {
            self.by_region.remove(&region);
        }
        for store in touched(&operator) {
            let count = self
                .busy
                .get_mut(&store)
                .expect("counted when it was tracked");
            *count -= 1;
            if *count == 0 {
                self.busy.remove(&store);
            }
        }
        self.record(operator, state, reason, now, settings, outbox);
    }

    /// Writes down how an operator ended, and forgets the oldest of those that did.
    fn record(
        &mut self,
        mut operator: Operator,
        state: State,
        reason: String,
        now: Now,
        settings: &Settings,
        outbox: &mut Outbox,
    ) {
        operator.state = state;
        operator.reason = reason;
        operator.finished_at_ms = now.wall_ms;
        self.pause(&operator, now, Duration::ZERO, settings);
        let text = match state {
            State::Done => format!("{} done", operator.kind.name()),
            State::Running | State::Cancelled => {
                format!("{} cancelled: {}", operator.kind.name(), operator.reason)
            }
        };
        let what = match state {
            State::Done => What::Done,
            State::Running | State::Cancelled => What::Cancelled,
        };
        happened(&operator, what, operator.reason.clone(), now, outbox);
        note(&operator, outbox, text);
        let _ = outbox.stage(state::put_operator(&operator));
        self.finished.insert(operator.id, operator);
        while let Some((&oldest, ended)) = self.finished.first_key_value()
            && self.finished.len() > settings.operators_kept_max
            && (self.finished.len() > settings.operators_resting_max
                || ended.rests(now, settings.balance.rest).is_zero())
        {
            self.finished.remove(&oldest);
            let _ = outbox.stage(state::delete_operator(oldest));
        }
    }

    /// The pauses that operators of earlier leaders brought, in the order in which they ended. A clock that is behind
    /// theirs lets them begin now.
    fn resume_pauses(&mut self, now: Now, settings: &Settings) {
        let mut ended: Vec<_> = self.finished.values().cloned().collect();
        ended.sort_by_key(|operator| (operator.finished_at_ms, operator.id));
        for operator in &ended {
            let passed = now.wall_ms.saturating_sub(operator.finished_at_ms);
            self.pause(operator, now, Duration::from_millis(passed), settings);
        }
    }

    /// The checkers leave the region of an operator alone that ended so long ago, unless it is done.
    fn pause(&mut self, operator: &Operator, now: Now, passed: Duration, settings: &Settings) {
        if operator.state == State::Done {
            self.back_off.remove(&operator.region);
        } else if operator.priority != Priority::Admin {
            let failures = self
                .back_off
                .get(&operator.region)
                .map_or(0, |pause| pause.failures);
            let pause = settings
                .back_off
                .saturating_mul(1 << failures.min(16))
                .min(settings.back_off_max);
            let until = (now.monotonic + pause).saturating_sub(passed);
            self.back_off.insert(
                operator.region,
                BackOff {
                    failures: failures + 1,
                    until,
                },
            );
        }
    }
}

fn note(operator: &Operator, outbox: &mut Outbox, text: String) {
    outbox.note(Note {
        region: Some(operator.region),
        operator: Some(operator.id),
        text,
    });
}

fn happened(operator: &Operator, what: What, text: String, now: Now, outbox: &mut Outbox) {
    outbox.happened(Happened::of(operator, what, text, now));
}

/// Each store once.
fn touched(operator: &Operator) -> Vec<StoreId> {
    let mut stores: Vec<_> = operator.steps.iter().flat_map(Step::touches).collect();
    stores.sort_unstable();
    stores.dedup();
    stores
}

/// Why a step is given up, if it is. Never inside a joint change, which its region finishes by itself.
fn give_up(
    running: &Running,
    region: &RegionInfo,
    stores: &Stores,
    now: Now,
    settings: &Settings,
) -> Option<String> {
    if region.is_joint() {
        return None;
    }
    let step = running.operator.current();
    if let Some((store, why)) = hindrance(step, stores, now, settings) {
        return Some(format!("store {store} is {why}"));
    }
    let deadline = match step {
        Step::AddLearner(_) | Step::RemoveLearner(_) | Step::Split(_) | Step::Merge(_) => {
            settings.step_deadline
        }
        Step::CatchUp(_) => {
            let purpose = running.operator.priority.purpose();
            catch_up_deadline(region, purpose, settings)
        }
        Step::Swap { .. } => settings.swap_deadline,
        Step::TransferLeader(_) => settings.transfer_deadline,
    };
    let late = now.monotonic.saturating_sub(running.since) >= deadline;
    late.then(|| {
        let refused = running.refusals.told();
        format!("no effect within {} s: {step}{refused}", deadline.as_secs())
    })
}

/// The store for which a step cannot come about, and what is the matter with it.
pub(crate) fn hindrance(
    step: &Step,
    stores: &Stores,
    now: Now,
    settings: &Settings,
) -> Option<(StoreId, &'static str)> {
    let comes = matches!(step, Step::AddLearner(_) | Step::CatchUp(_));
    // What is there already comes back with its store, but nothing new goes there.
    let begins = matches!(step, Step::AddLearner(_) | Step::TransferLeader(_));
    let down = |store| stores.down(store, now, settings.store_down_after);
    let leaving = |store| comes && stores.leaving(store);
    let stopping = |store| begins && stores.stopping(store);
    let hindrances: [(&dyn Fn(StoreId) -> bool, _); 3] = [
        (&down, "down"),
        (&leaving, "leaving"),
        (&stopping, "stopping"),
    ];
    hindrances.into_iter().find_map(|(is, why)| {
        let store = step.needs().into_iter().find(|store| is(*store))?;
        Some((store, why))
    })
}

/// Time that a learner of a region is given to catch up: what its bytes take at a quarter of the granted rate, and some more.
pub(crate) fn catch_up_deadline(
    region: &RegionInfo,
    purpose: Purpose,
    settings: &Settings,
) -> Duration {
    let rate = settings.balance.setting().granted_bytes(purpose) / 4;
    let transfer = Duration::from_secs(region.bytes / rate.max(CATCH_UP_RATE_MIN));
    settings.catch_up_deadline + transfer
}

#[allow(clippy::too_many_arguments)]
fn send(
    running: &mut Running,
    kind: OrderKind,
    occasion: Occasion,
    region: &RegionInfo,
    stores: &Stores,
    now: Now,
    settings: &Settings,
    outbox: &mut Outbox,
) {
    let due = running
        .sent
        .is_none_or(|sent| now.monotonic.saturating_sub(sent) >= settings.resend_after);
    let Some(leader) = region
        .leader
        .as_ref()
        .filter(|_| due || occasion == Occasion::Report)
    else {
        return;
    };
    let live = |peer: &metapb::Peer| {
        region.caught_up(peer.id)
            && !stores.down(StoreId(peer.store_id), now, settings.store_down_after)
    };
    if let OrderKind::Swap { promote, demote } = &kind
        && !enough_live(region, promote, demote, live)
    {
        return;
    }
    running.sent = Some(now.monotonic);
    outbox.order(Order {
        store: StoreId(leader.store_id),
        region: region.id(),
        leader: *leader,
        epoch: running.operator.epoch.to_wire(),
        id: StepId {
            operator_id: running.operator.id,
            position: running.operator.step as u32,
        },
        kind,
        purpose: running.operator.priority.purpose().to_wire(),
    });
}

/// Whether each half of a joint configuration keeps a quorum and one more live voter (R22); a quorum is enough when nobody
/// but dead peers leaves, or for fewer than three voters.
pub(crate) fn enough_live(
    region: &RegionInfo,
    promote: &[metapb::Peer],
    demote: &[metapb::Peer],
    live: impl Fn(&metapb::Peer) -> bool,
) -> bool {
    let among = |peers: &[metapb::Peer], id| peers.iter().any(|peer| peer.id == id);
    let repair = !demote.is_empty() && !demote.iter().any(&live);
    let enough = |half: Vec<&metapb::Peer>| {
        let spare = usize::from(half.len() >= 3 && !repair);
        half.iter().filter(|peer| live(peer)).count() >= half.len() / 2 + 1 + spare
    };
    let outgoing: Vec<_> = region.voters().collect();
    let incoming = outgoing
        .iter()
        .copied()
        .filter(|peer| !among(demote, peer.id))
        .chain(promote)
        .collect();
    enough(outgoing) && enough(incoming)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn learners_get_the_time_that_the_dial_leaves_them() {
        let region = RegionInfo {
            bytes: 600 << 20,
            ..RegionInfo::default()
        };
        let deadline = |share, purpose| {
            let mut settings = Settings::default();
            settings.balance.share_percent = share;
            catch_up_deadline(&region, purpose, &settings).as_secs()
        };
        // A quarter of 30 and of 50 MiB/s, then of 80, and what nobody gets because nothing begins.
        assert_eq!(deadline(30, Purpose::Balance), 60 + 80);
        assert_eq!(deadline(30, Purpose::Repair), 60 + 48);
        assert_eq!(deadline(80, Purpose::Balance), 60 + 30);
        assert_eq!(deadline(80, Purpose::Repair), 60 + 30);
        assert_eq!(deadline(0, Purpose::Balance), 60 + 9600);
    }
}
