//! Bounded model check of the real code (RELIABILITY §3, level 2): every interleaving of deliveries, disk writes, elections,
//! crashes, commands and one joint change, up to the bounds.
//!
//! A state is the projection of all peers ([`raft::Raft::project`]), their disks and queues, the messages on their way, and
//! what the checker remembers. Time does not pass; a timeout is the order to campaign, which may come at any moment, so nothing
//! here depends on a clock. `MODEL_STATES` bounds the states looked at; the bound, not the model, ends most runs.

#[path = "model/group.rs"]
mod group;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use group::{Group, happened};
use raft::{
    Bug, CampaignReason, Event, Membership, MembershipChange, Options, Payload, PeerId, Role, Term,
};
use stateright::{Checker, HasDiscoveries, Model, Property};

/// Bounds and beginning of a model.
#[derive(Clone, Debug)]
struct Bounds {
    options: Arc<Options>,
    voters: u64,
    learners: u64,
    start: Start,
    terms_max: Term,
    proposals_max: u8,
    crashes_max: u8,
    duplicates_max: u8,
    /// The change that a leader may propose once.
    change: Option<MembershipChange>,
    /// States to look at, unless `MODEL_STATES` says another number.
    states: usize,
    /// Bits that must be reachable.
    reachable: &'static [(&'static str, u16)],
}

/// Where a model begins. Time stands still in it, and who heard a leader within `T` refuses its rivals; so where somebody leads,
/// nobody has heard it for `T`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Start {
    /// Nothing happened.
    Fresh,
    /// Peer 1 leads and everything is settled.
    Led,
    /// And a command of peer 1 is durable at 2, on its way to the disk of 1 and to 3.
    Spread,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Deliver(usize),
    Duplicate(usize),
    Written(usize),
    Campaign(usize),
    Crash(usize),
    Propose(usize),
    Change(usize),
}

const SAFETY: &[&str] = &[
    "election safety",
    "leader completeness",
    "state machine safety",
    "applied before committed",
    "committed beyond the log",
    "commit rule",
    "commit durability",
    "an assertion of the code",
];

impl Bounds {
    fn options(bug: Option<Bug>) -> Arc<Options> {
        Arc::new(Options {
            bug,
            ..Options::default()
        })
    }

    fn initial_membership(&self) -> Membership {
        Group::new(&self.options, self.voters, self.learners).nodes[0]
            .raft
            .membership()
            .clone()
    }

    /// Peer 1 elected, its first entry applied everywhere, nothing on its way.
    fn led(&self) -> Group {
        let mut group = Group::new(&self.options, self.voters, self.learners);
        group.step(0, Event::Campaign(CampaignReason::Paced));
        loop {
            if let Some(place) = group.nodes.iter().position(|node| !node.queue.is_empty()) {
                group.complete_write(place);
            } else if let Some((_, message)) = group.network.pop() {
                let place = message.to.0 as usize - 1;
                group.step(place, Event::Message((*message).clone()));
            } else {
                break;
            }
        }
        assert_eq!(
            group.nodes[0].raft.role(),
            Role::Leader,
            "peer 1 leads without rivals"
        );
        group
    }

    /// [`Bounds::led`], and a command that reached 2 alone.
    fn spread(&self) -> Group {
        let mut group = self.led();
        self.act(&mut group, Action::Propose(0));
        let place = group
            .network
            .iter()
            .position(|(_, message)| message.to == PeerId(2))
            .expect("it is sent to 2");
        self.act(&mut group, Action::Deliver(place));
        group.complete_write(1);
        group
    }

    /// Lets every follower hear nobody for `T`.
    fn silence(&self, group: &mut Group) {
        for place in 0..group.nodes.len() {
            let raft = &group.nodes[place].raft;
            if raft.role() == Role::Follower && raft.leader().is_some() {
                for _ in 0..self.options.election_ticks {
                    group.step(place, Event::Tick);
                }
                let role = group.nodes[place].raft.role();
                assert_eq!(role, Role::Follower, "the timeouts drawn are longer");
            }
        }
    }

    fn act(&self, group: &mut Group, action: Action) -> bool {
        match action {
            Action::Deliver(place) => {
                let (_, message) = group.network.remove(place);
                group.step(
                    message.to.0 as usize - 1,
                    Event::Message((*message).clone()),
                );
                true
            }
            Action::Duplicate(place) => {
                group.duplicates += 1;
                let message = Arc::clone(&group.network[place].1);
                group.step(
                    message.to.0 as usize - 1,
                    Event::Message((*message).clone()),
                );
                true
            }
            Action::Written(place) => {
                group.complete_write(place);
                true
            }
            Action::Campaign(place) => {
                // Pre-votes change nothing anywhere but who stands, so all of them are asked and answered in one action.
                let taken = group.step(place, Event::Campaign(CampaignReason::Paced));
                while let Some(message) = group.take_pre_vote() {
                    group.step(
                        message.to.0 as usize - 1,
                        Event::Message((*message).clone()),
                    );
                }
                taken
            }
            Action::Crash(place) => {
                group.crashes += 1;
                group.crash(place, &self.options, &self.initial_membership());
                true
            }
            Action::Propose(place) => {
                group.proposals += 1;
                let command = Payload::Command(vec![group.proposals].into());
                group.step(place, Event::Propose(command))
            }
            Action::Change(place) => {
                group.changes += 1;
                let change = self.change.clone().expect("only offered when there is one");
                let context = Default::default();
                group.step(
                    place,
                    Event::Propose(Payload::Membership { change, context }),
                )
            }
        }
    }
}

impl Model for Bounds {
    type State = Group;
    type Action = Action;

    fn init_states(&self) -> Vec<Group> {
        let mut group = match self.start {
            Start::Fresh => Group::new(&self.options, self.voters, self.learners),
            Start::Led => self.led(),
            Start::Spread => self.spread(),
        };
        self.silence(&mut group);
        group.happened = 0;
        vec![group]
    }

    fn actions(&self, group: &Group, actions: &mut Vec<Action>) {
        if group.violated.is_some() {
            return;
        }
        for place in 0..group.network.len() {
            actions.push(Action::Deliver(place));
            if group.duplicates < self.duplicates_max {
                actions.push(Action::Duplicate(place));
            }
        }
        for (place, node) in group.nodes.iter().enumerate() {
            if !node.queue.is_empty() {
                actions.push(Action::Written(place));
            }
            let leads = node.raft.role() == Role::Leader;
            if !leads && node.raft.term() < self.terms_max {
                actions.push(Action::Campaign(place));
            }
            if group.crashes < self.crashes_max {
                actions.push(Action::Crash(place));
            }
            if leads && group.proposals < self.proposals_max {
                actions.push(Action::Propose(place));
            }
            if leads && self.change.is_some() && group.changes == 0 {
                actions.push(Action::Change(place));
            }
        }
    }

    fn next_state(&self, group: &Group, action: Action) -> Option<Group> {
        let mut next = group.clone();
        match catch_unwind(AssertUnwindSafe(|| self.act(&mut next, action))) {
            Ok(true) => Some(next),
            Ok(false) => None,
            Err(_) => {
                // What is left of a peer that panicked is not compared any more.
                let mut next = group.clone();
                next.violate("an assertion of the code");
                Some(next)
            }
        }
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::<Self>::always("log matching", |_, group| group.logs_match()),
            Property::<Self>::always("nothing else is violated", |_, group| {
                group.violated.is_none_or(|rule| !SAFETY.contains(&rule))
            }),
        ];
        // A plain function per bit, because a property holds no state of its own.
        for (name, bit) in self.reachable {
            let seen: fn(&Self, &Group) -> bool = match *bit {
                happened::SECOND_LEADER => |_, group| group.happened & happened::SECOND_LEADER != 0,
                happened::OVERWRITTEN => |_, group| group.happened & happened::OVERWRITTEN != 0,
                happened::LOST_WRITE => |_, group| group.happened & happened::LOST_WRITE != 0,
                happened::COMMITTED_JOINT => {
                    |_, group| group.happened & happened::COMMITTED_JOINT != 0
                }
                happened::JOINT_LEFT => |_, group| group.happened & happened::JOINT_LEFT != 0,
                happened::OLDER_COMMITTED => {
                    |_, group| group.happened & happened::OLDER_COMMITTED != 0
                }
                _ => |_, group| group.happened & happened::COMMAND_COMMITTED != 0,
            };
            properties.push(Property::sometimes(name, seen));
        }
        properties
    }
}

fn states_max(bounds: &Bounds) -> usize {
    match std::env::var("MODEL_STATES") {
        Ok(text) => text
            .replace('_', "")
            .parse()
            .unwrap_or_else(|error| panic!("MODEL_STATES={text}: {error}")),
        Err(_) => bounds.states,
    }
}

/// Looks at states breadth first. Panics with the shortest way to a violation, or when something was never reached.
fn check(name: &str, bounds: Bounds) {
    let reachable = bounds.reachable;
    let states = states_max(&bounds);
    let checker = bounds
        .checker()
        .threads(2)
        .target_state_count(states)
        .finish_when(HasDiscoveries::AnyFailures)
        .spawn_bfs()
        .join();
    println!(
        "{name}: {} states, {} different, depth {}, whole: {}",
        checker.state_count(),
        checker.unique_state_count(),
        checker.max_depth(),
        checker.state_count() < states
    );
    for property in ["log matching", "nothing else is violated"] {
        if let Some(path) = checker.discovery(property) {
            let rule = path.last_state().violated;
            panic!(
                "{name}: \"{property}\" fails, {rule:?}, by {:#?}",
                path.into_actions()
            );
        }
    }
    for (what, _) in reachable {
        assert!(
            checker.discovery(what).is_some(),
            "{name}: never reached: {what}"
        );
    }
}

/// Whether the checker finds a violation, and which.
fn caught(bounds: Bounds) -> Option<String> {
    let states = states_max(&bounds);
    let checker = bounds
        .checker()
        .threads(2)
        .target_state_count(states)
        .timeout(Duration::from_secs(300))
        .finish_when(HasDiscoveries::AnyFailures)
        .spawn_bfs()
        .join();
    if checker.discovery("log matching").is_some() {
        return Some("log matching".to_owned());
    }
    let path = checker.discovery("nothing else is violated")?;
    Some(path.last_state().violated.unwrap_or("nothing").to_owned())
}

/// Elections from the beginning: two rivals, a crash, a doubled message.
fn elections(bug: Option<Bug>) -> Bounds {
    Bounds {
        options: Bounds::options(bug),
        voters: 3,
        learners: 0,
        start: Start::Fresh,
        terms_max: 2,
        proposals_max: 0,
        crashes_max: 1,
        duplicates_max: 1,
        change: None,
        states: 3_000_000,
        reachable: &[("a crash loses a write", happened::LOST_WRITE)],
    }
}

/// A leader with a command on its way, a crash, and a rival.
fn replication(bug: Option<Bug>) -> Bounds {
    Bounds {
        options: Bounds::options(bug),
        voters: 3,
        learners: 0,
        start: Start::Led,
        terms_max: 3,
        proposals_max: 1,
        crashes_max: 1,
        duplicates_max: 0,
        change: None,
        states: 1_000_000,
        reachable: &[
            ("a command is committed", happened::COMMAND_COMMITTED),
            ("a crash loses a write", happened::LOST_WRITE),
            ("a second term is led", happened::SECOND_LEADER),
        ],
    }
}

/// A command that only one follower has, whose leader has rivals: it is committed by a later one, or overwritten.
fn succession(bug: Option<Bug>) -> Bounds {
    Bounds {
        options: Bounds::options(bug),
        voters: 3,
        learners: 0,
        start: Start::Spread,
        terms_max: 3,
        proposals_max: 1,
        crashes_max: 1,
        duplicates_max: 0,
        change: None,
        states: 4_000_000,
        reachable: &[
            ("a command is committed", happened::COMMAND_COMMITTED),
            ("a second term is led", happened::SECOND_LEADER),
            ("entries are overwritten", happened::OVERWRITTEN),
            (
                "a later leader commits an older entry",
                happened::OLDER_COMMITTED,
            ),
        ],
    }
}

/// A leader that swaps a voter for a learner through a joint configuration, with a rival.
fn joint(bug: Option<Bug>) -> Bounds {
    Bounds {
        options: Bounds::options(bug),
        voters: 2,
        learners: 1,
        start: Start::Led,
        terms_max: 3,
        proposals_max: 0,
        crashes_max: 1,
        duplicates_max: 0,
        change: Some(MembershipChange::EnterJoint {
            promote: vec![PeerId(3)],
            demote: vec![PeerId(2)],
        }),
        states: 2_000_000,
        reachable: &[
            (
                "committed under a joint configuration",
                happened::COMMITTED_JOINT,
            ),
            ("the joint configuration is left", happened::JOINT_LEFT),
        ],
    }
}

#[test]
fn elections_are_safe() {
    check("elections", elections(None));
}

#[test]
fn replication_is_safe() {
    check("replication", replication(None));
}

#[test]
fn succession_is_safe() {
    check("succession", succession(None));
}

#[test]
fn joint_changes_are_safe() {
    check("joint change", joint(None));
    // Without crashes the search comes further.
    let calm = Bounds {
        crashes_max: 0,
        ..joint(None)
    };
    check("joint change without crashes", calm);
}

#[test]
fn planted_bugs_fail_the_model() {
    for (bug, bounds) in [
        (Bug::AckBeforeSync, replication as fn(Option<Bug>) -> Bounds),
        (Bug::OwnUnsyncedCounted, replication),
        (Bug::VoteBeforeSync, elections),
        (Bug::UnionQuorum, joint),
        (Bug::LearnerCounted, joint),
    ] {
        let rule = caught(bounds(Some(bug)));
        println!("{bug:?}: {rule:?}");
        assert!(rule.is_some(), "{bug:?} is not caught");
    }
}
