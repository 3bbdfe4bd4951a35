//! Making a failure smaller, as long as the same rule breaks: fewer kinds of fault, fewer stores, fewer events.

use std::fmt;

use crate::group::settings::{Fault, Plan};
use crate::rule::{Rule, Violation};
use crate::run::run;

/// How large the world of a plan is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Events until faults stop.
    pub events: u64,
    /// Kinds of fault.
    pub faults: usize,
    /// Stores, or peers of a group.
    pub stores: u64,
}

impl Size {
    /// Of this plan.
    pub fn of(plan: &Plan) -> Size {
        Size {
            events: plan.events,
            faults: plan.world_faults().iter().count(),
            stores: plan.world_stores(),
        }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Size {
            events,
            faults,
            stores,
        } = self;
        write!(
            f,
            "{events} events, {faults} kinds of fault, {stores} stores"
        )
    }
}

/// A smaller plan that breaks the same rule.
#[derive(Clone, Debug)]
pub struct Shrunk {
    /// The plan.
    pub plan: Plan,
    /// How it breaks the rule.
    pub violation: Violation,
    /// Plans that were tried.
    pub tries: u64,
    /// Whether nothing is left to try.
    pub complete: bool,
}

/// Makes a failing plan smaller. Before each try `go_on` is told of the tries so far and of the smallest plan, and says whether
/// there is time for another. `None` when the plan does not fail again.
pub fn shrink(plan: &Plan, go_on: &mut dyn FnMut(u64, &Plan) -> bool) -> Option<Shrunk> {
    let mut best = plan.clone();
    best.trace = false;
    let outcome = run(&best);
    let violation = outcome.violation?;
    let mut search = Search {
        rule: violation.rule,
        best,
        violation,
        tries: 0,
        stopped: false,
        go_on,
    };
    search.end_at(outcome.events);
    // What one kind of fault needs of another is known only when the other was tried.
    loop {
        let smaller = [
            search.fewer_faults(),
            search.fewer_stores(),
            search.fewer_events(),
        ];
        if search.stopped || !smaller.contains(&true) {
            break;
        }
    }
    Some(Shrunk {
        plan: search.best,
        violation: search.violation,
        tries: search.tries,
        complete: !search.stopped,
    })
}

struct Search<'a> {
    rule: Rule,
    best: Plan,
    violation: Violation,
    tries: u64,
    stopped: bool,
    go_on: &'a mut dyn FnMut(u64, &Plan) -> bool,
}

impl Search<'_> {
    /// What broke while there were faults breaks as well if they end right there.
    fn end_at(&mut self, events: u64) {
        self.best.events = self.best.events.min(events);
    }

    /// Takes a smaller plan over, if it breaks the same rule.
    fn attempt(&mut self, candidate: Plan) -> bool {
        if self.stopped || !(self.go_on)(self.tries, &self.best) {
            self.stopped = true;
            return false;
        }
        self.tries += 1;
        let outcome = run(&candidate);
        match outcome.violation {
            Some(violation) if violation.rule == self.rule => {
                self.best = candidate;
                self.violation = violation;
                self.end_at(outcome.events);
                true
            }
            Some(_) | None => false,
        }
    }

    fn fewer_faults(&mut self) -> bool {
        let mut fewer = false;
        let kinds: Vec<Fault> = self.best.world_faults().iter().collect();
        for fault in kinds {
            let mut candidate = self.best.clone();
            candidate.without.push(fault);
            candidate.faults.retain(|kept| *kept != fault);
            fewer |= self.attempt(candidate);
        }
        fewer
    }

    fn fewer_stores(&mut self) -> bool {
        (1..self.best.world_stores()).any(|stores| {
            let candidate = Plan {
                stores: Some(stores),
                ..self.best.clone()
            };
            self.attempt(candidate)
        })
    }

    /// What breaks after the faults, or would break later, needs a search.
    fn fewer_events(&mut self) -> bool {
        let before = self.best.events;
        let mut step = before / 2;
        while step > 0 && !self.stopped {
            let events = self.best.events.saturating_sub(step);
            let candidate = Plan {
                events,
                ..self.best.clone()
            };
            if events == self.best.events || !self.attempt(candidate) {
                step /= 2;
            }
        }
        self.best.events < before
    }
}
