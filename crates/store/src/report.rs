//! What placement hears of the regions led here, and how leaders come and go.

use engine::Engine;
use raft::{Index, MemberStatus, PeerId, Role};

use crate::context::Context;
use crate::event::RegionReport;
use crate::options::Options;
use crate::peer::Peer;

impl Peer {
    /// What follows from a change of role. `led` tells whether this peer led before.
    pub(crate) fn on_role<E: Engine>(&mut self, led: bool, cx: &mut Context<E>) {
        let leads = self
            .raft
            .as_ref()
            .is_some_and(|raft| raft.role() == Role::Leader);
        if led && !leads {
            self.lane = None;
            self.merging.forget_source();
            self.order = None;
            self.repairing.clear();
            self.load = None;
            self.triggers = None;
            self.abandon_sending(cx);
        }
        if !led && leads && self.is_normal() {
            self.forget_load(cx);
            self.reported.down.clear();
            self.reported.pending.clear();
            self.report(cx);
        }
    }

    /// Tells placement of this region now. The newest report of a region replaces an earlier one of the same turn.
    pub(crate) fn report<E: Engine>(&mut self, cx: &mut Context<E>) {
        let Some(raft) = self
            .raft
            .as_ref()
            .filter(|raft| raft.role() == Role::Leader)
        else {
            return;
        };
        let Some(leader) = self.member(self.id).copied() else {
            return;
        };
        let statuses = raft.member_statuses();
        let last = raft.last().index;
        let mut down = Vec::new();
        let mut pending = Vec::new();
        for member in self
            .region
            .peers
            .iter()
            .filter(|member| member.id != self.id.0)
        {
            let status = statuses.get(&PeerId(member.id));
            let silent = status.map_or(0, |status| u64::from(status.silent_ticks));
            if silent >= cx.options.down_ticks {
                down.push((*member, silent * cx.options.tick_ms / 1000));
            }
            if !status.is_some_and(|status| has_caught_up(status, last, &cx.options)) {
                pending.push(*member);
            }
        }
        let summed = self.load.as_mut().map(|load| load.sum(cx.tick));
        let (load, load_ticks) = summed.unwrap_or_default();
        let report = RegionReport {
            region: self.region.clone(),
            leader,
            term: raft.term(),
            down,
            pending,
            bytes: self.estimate.bytes,
            keys: self.estimate.keys,
            load,
            interval_ms: load_ticks * cx.options.tick_ms,
        };
        self.reported.tick = cx.tick;
        self.reported.due_tick = cx.tick + cx.options.report_ticks;
        self.reported.down = report
            .down
            .iter()
            .map(|(member, _)| PeerId(member.id))
            .collect();
        self.reported.pending = report
            .pending
            .iter()
            .map(|member| PeerId(member.id))
            .collect();
        match cx
            .reports
            .get(&self.region_id())
            .and_then(|at| cx.out.reports.get_mut(*at))
        {
            Some(earlier) => *earlier = report,
            None => {
                cx.reports.insert(self.region_id(), cx.out.reports.len());
                cx.out.reports.push(report);
            }
        }
    }

    /// Reports at once when a member caught up that was told to lag: a step of placement waits for it.
    pub(crate) fn tell_caught_up<E: Engine>(&mut self, cx: &mut Context<E>) {
        if self.reported.pending.is_empty() || !self.is_leader() {
            return;
        }
        let Some(raft) = &self.raft else { return };
        let (statuses, last) = (raft.member_statuses(), raft.last().index);
        let caught_up = |member: &PeerId| {
            let status = statuses.get(member);
            status.is_some_and(|status| has_caught_up(status, last, &cx.options))
        };
        if self.reported.pending.iter().any(caught_up) {
            self.report(cx);
        }
    }

    /// Reports when it is time, when there is load to tell, or when a member went down or fell behind. The look is spread over
    /// ticks.
    pub(crate) fn tick_report<E: Engine>(&mut self, cx: &mut Context<E>) {
        if !self.is_leader() {
            return;
        }
        if cx.tick >= self.reported.due_tick {
            self.report(cx);
            return;
        }
        if !(cx.tick + self.region.id).is_multiple_of(cx.options.health_ticks) {
            return;
        }
        if self.has_load_to_tell(cx) {
            self.report(cx);
            return;
        }
        let Some(raft) = &self.raft else { return };
        let statuses = raft.member_statuses();
        let last = raft.last().index;
        let options = &cx.options;
        let mut changed = false;
        for (member, status) in &statuses {
            let down = u64::from(status.silent_ticks) >= options.down_ticks;
            let pending = !has_caught_up(status, last, options);
            changed |= down != self.reported.down.contains(member);
            changed |= pending != self.reported.pending.contains(member);
        }
        if changed {
            self.report(cx);
        }
    }

    /// Whether clients do more here than placement should wait a whole report interval to hear of: a request a second.
    fn has_load_to_tell<E: Engine>(&mut self, cx: &Context<E>) -> bool {
        let options = &cx.options;
        if cx.tick < self.reported.tick + options.load_report_ticks {
            return false;
        }
        self.load.as_mut().is_some_and(|load| {
            let (sum, ticks) = load.sum(cx.tick);
            sum.requests.count() * 1_000 >= ticks * options.tick_ms && sum.requests.count() > 0
        })
    }
}

/// Whether a member has nearly all that the leader has, as placement is told. Who never acknowledged anything has nothing.
fn has_caught_up(status: &MemberStatus, last: Index, options: &Options) -> bool {
    let lag = last.saturating_sub(status.matched);
    !status.in_snapshot && status.matched > 0 && lag <= options.caught_up_entries
}
