//! Placement rules in the world: random sets of them (roles, counts, labels, ranges), replaced while stores die and come back,
//! are drained and stop.
//!
//! Checked once the faults end: no operator runs or is begun any more, every region is as the rules that hold for it want it, if
//! the stores that stay allow that, and else has as many voters, and then peers, as they allow. What the stores allow is
//! found here by matching, and not by what placement goes by.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use placement::rules::{Constraint, Group, Role, Rule, RuleSet, Test};
use placement::{Answer, OperatorView, Request, State};
use proto::metapb::{self, PeerRole};

use super::region::Truth;
use super::{Bug, Dice, REPLICAS, World};

/// Stores of a world with rules.
const STORES: u64 = 7;
const SEEDS: u64 = 40;
/// Rounds of half a second: so many until all is as it should be, and as many of silence.
const ROUNDS: usize = 400;
const SILENT: usize = 120;
/// Where rules begin and end.
const EDGES: [&str; 4] = ["", "2500", "5000", "7500"];

/// What a world knows of its rules.
#[derive(Default)]
pub struct Ruled {
    /// The last that were asked for.
    groups: Vec<Group>,
    /// The fewest voters that any rules so far asked for.
    pub least: usize,
}

/// Where a store is and what it is like.
pub fn labels(store: u64) -> Vec<metapb::StoreLabel> {
    let label = |key: &str, value: &str| metapb::StoreLabel {
        key: key.into(),
        value: value.into(),
    };
    let zone = ["a", "b", "c"][store as usize % 3];
    let disk = ["ssd", "hdd"][store as usize % 2];
    vec![label("zone", zone), label("disk", disk)]
}

fn admits(rule: &Rule, store: u64) -> bool {
    let labels = labels(store);
    rule.constraints.iter().all(|constraint| {
        let told = labels.iter().find(|label| label.key == constraint.label);
        let value = told.map(|label| &label.value);
        match &constraint.test {
            Test::In(values) => value.is_some_and(|value| values.contains(value)),
            Test::NotIn(values) => value.is_none_or(|value| !values.contains(value)),
            Test::Exists => value.is_some(),
            Test::NotExists => value.is_none(),
        }
    })
}

fn constraint(dice: &mut Dice) -> Vec<Constraint> {
    let test = |label: &str, test| {
        vec![Constraint {
            label: label.into(),
            test,
        }]
    };
    let value = |values: &[&str], dice: &mut Dice| vec![values[dice.below(values.len())].into()];
    match dice.below(8) {
        0 | 1 => test("zone", Test::In(value(&["a", "b", "c"], dice))),
        2 => test("zone", Test::NotIn(value(&["a", "b", "c"], dice))),
        3 | 4 => test("disk", Test::In(value(&["ssd", "hdd"], dice))),
        _ => Vec::new(),
    }
}

fn random_group(name: &str, index: u32, dice: &mut Dice) -> Group {
    let from = dice.below(EDGES.len());
    let to = from + 1 + dice.below(EDGES.len() - from);
    let (start, end) = match dice.one_in(2) {
        true => ("", ""),
        false => (EDGES[from], EDGES.get(to).copied().unwrap_or("")),
    };
    let roles: Vec<(Role, usize)> = match dice.below(6) {
        0 | 1 => vec![(Role::Voter, 1 + dice.below(5))],
        2 => vec![(Role::Leader, 1), (Role::Follower, 1 + dice.below(3))],
        3 => vec![(Role::Leader, 1), (Role::Voter, 1 + dice.below(3))],
        4 => vec![(Role::Voter, 1 + dice.below(2)), (Role::Follower, 2)],
        _ => vec![(Role::Voter, 2), (Role::Voter, 1 + dice.below(2))],
    };
    let learners = match dice.below(3) {
        0 => vec![(Role::Learner, 1 + dice.below(2))],
        _ => Vec::new(),
    };
    let mut rules = Vec::new();
    for (role, count) in roles.into_iter().chain(learners) {
        rules.push(Rule {
            id: format!("{}", rules.len()),
            start: start.into(),
            end: end.into(),
            role,
            count: count as u32,
            constraints: constraint(dice),
            location_labels: match dice.one_in(3) {
                true => vec!["zone".into()],
                false => Vec::new(),
            },
        });
    }
    Group {
        name: name.into(),
        index,
        rules,
    }
}

/// The places that rules ask for at a key: a role and a rule that says where.
fn places(groups: &[Group], key: &[u8]) -> Vec<Rule> {
    let covers =
        |rule: &Rule| rule.start[..] <= *key && (rule.end.is_empty() || *key < rule.end[..]);
    let holding = groups
        .iter()
        .filter(|group| group.rules.iter().any(covers))
        .max_by_key(|group| group.index);
    let rules = match holding {
        Some(group) => group
            .rules
            .iter()
            .filter(|rule| covers(rule))
            .cloned()
            .collect(),
        None => vec![Rule {
            id: "default".into(),
            start: Bytes::new(),
            end: Bytes::new(),
            role: Role::Voter,
            count: REPLICAS as u32,
            constraints: Vec::new(),
            location_labels: Vec::new(),
        }],
    };
    let each = |rule: Rule| vec![rule.clone(); rule.count as usize];
    rules.into_iter().flat_map(each).collect()
}

/// How many places find somebody of their own among so many, by who fits whom: augmenting paths.
fn matched(places: usize, others: usize, fits: impl Fn(usize, usize) -> bool) -> usize {
    fn find(
        place: usize,
        fits: &dyn Fn(usize, usize) -> bool,
        taken: &mut [Option<usize>],
        seen: &mut [bool],
    ) -> bool {
        for other in 0..taken.len() {
            if seen[other] || !fits(place, other) {
                continue;
            }
            seen[other] = true;
            let free = taken[other].is_none_or(|holder| find(holder, fits, taken, seen));
            if free {
                taken[other] = Some(place);
                return true;
            }
        }
        false
    }
    let mut taken = vec![None; others];
    let found = (0..places).filter(|place| {
        let mut seen = vec![false; others];
        find(*place, &fits, &mut taken, &mut seen)
    });
    found.count()
}

/// Places that stores can serve: of those that vote, and of all.
fn possible(places: &[Rule], stores: &[u64]) -> (usize, usize) {
    let of = |places: &[&Rule]| {
        matched(places.len(), stores.len(), |place, store| {
            admits(places[place], stores[store])
        })
    };
    let voting: Vec<_> = places.iter().filter(|rule| rule.role.votes()).collect();
    (of(&voting), of(&places.iter().collect::<Vec<_>>()))
}

/// Places that are served: of those that vote by voters, and of all. A voter is a copy as well: it stays one where rules ask
/// for more voters than they have places for.
fn served(places: &[Rule], peers: &[metapb::Peer]) -> (usize, usize) {
    let of = |places: &[&Rule]| {
        matched(places.len(), peers.len(), |place, peer| {
            let votes = peers[peer].role() == PeerRole::Voter;
            (votes || !places[place].role.votes()) && admits(places[place], peers[peer].store_id)
        })
    };
    let voting: Vec<_> = places.iter().filter(|rule| rule.role.votes()).collect();
    (of(&voting), of(&places.iter().collect::<Vec<_>>()))
}

/// Whether all is served while this one leads.
fn led_well(places: &[Rule], truth: &Truth) -> bool {
    let peers = &truth.region.peers;
    let asked = places.iter().any(|rule| rule.role == Role::Leader);
    let found = matched(places.len(), peers.len(), |place, peer| {
        let rule = &places[place];
        let votes = peers[peer].role() == PeerRole::Voter;
        let leads = peers[peer].id == truth.leader;
        let right = match rule.role {
            Role::Leader => leads,
            Role::Voter => !asked || !leads,
            Role::Follower | Role::Learner => !leads,
        };
        right && rule.role.votes() == votes && admits(rule, peers[peer].store_id)
    });
    found == places.len()
}

impl World {
    fn with_rules(seed: u64, bug: Bug) -> Self {
        let ruled = Ruled {
            groups: Vec::new(),
            least: REPLICAS,
        };
        Self::with(seed, bug, STORES, Some(ruled))
    }

    /// Asks until there is an answer: a write of before may cost a leader its office.
    fn answer(&mut self, request: &Request) -> Answer {
        for _ in 0..10 {
            self.settle();
            self.answers.clear();
            self.request(request.clone());
            self.settle();
            if let Some(answer) = self.answers.pop() {
                return answer;
            }
        }
        panic!("nobody answers {request:?}");
    }

    fn rules(&mut self) -> RuleSet {
        match self.answer(&Request::Rules) {
            Answer::Rules { set, .. } => set,
            other => panic!("the rules are told: {other:?}"),
        }
    }

    /// All rules are replaced by others.
    pub fn change_rules(&mut self) {
        let dice = &mut self.dice;
        let mut groups = Vec::new();
        for (index, name) in ["first", "second"].into_iter().enumerate() {
            if dice.one_in(2) {
                groups.push(random_group(name, 1 + index as u32, dice));
            }
        }
        let voters = |edge: &&str| {
            let places = places(&groups, edge.as_bytes());
            places.iter().filter(|rule| rule.role.votes()).count()
        };
        let fewest = EDGES.iter().map(voters).min().unwrap_or(REPLICAS);
        let read = self.rules().version;
        let ruled = self.ruled.as_mut().expect("this world has rules");
        ruled.least = ruled.least.min(fewest);
        ruled.groups = groups.clone();
        self.request(Request::ReplaceRules { read, groups });
        *self.done.entry("rules").or_default() += 1;
    }

    /// What was asked for last may be lost.
    fn rule_again(&mut self) {
        let (set, ruled) = (self.rules(), self.ruled.as_ref().expect("it has rules"));
        if set.groups != ruled.groups {
            let groups = ruled.groups.clone();
            let read = set.version;
            let answer = self.answer(&Request::ReplaceRules { read, groups });
            assert!(matches!(answer, Answer::RulesVersion(_)), "{answer:?}");
        }
    }

    /// The stores that regions may be on in the end.
    fn staying(&self) -> Vec<u64> {
        let stays = |store: &u64| self.dead() != Some(*store) && self.drained != Some(*store);
        (1..=self.stores).filter(stays).collect()
    }

    /// Nothing is lost or late any more: what was begun must end, with everything as rules want it.
    fn heal_to_rules(&mut self) {
        self.calm_down();
        // A region that lost its quorum would wait for it for ever.
        let dead = self.dead();
        if !self.regions.values().all(|truth| truth.has_quorum(dead)) {
            self.dead = None;
        }
        for round in 0..ROUNDS {
            self.aborts = round < ROUNDS / 2;
            // A drain may be refused while what holds places is still on the move.
            if [10, 60, 120].contains(&round) {
                self.rule_again();
                if !self.drain_again() && round == 120 {
                    self.keep_what_has_no_place();
                }
            }
            self.quiet_round();
        }
        let before = self.newest();
        for _ in 0..SILENT {
            self.quiet_round();
        }
        self.check_rules();
        let after = self.operator_views();
        let running = after.iter().find(|view| view.state == State::Running);
        assert_eq!(running, None, "it never ends");
        // Balance goes on where a rest ends.
        let evens_out = |view: &OperatorView| view.cause.starts_with("balance-");
        let begun = after.iter().filter(|view| Some(view.id) > before);
        let begun: Vec<_> = begun.filter(|view| !evens_out(view)).collect();
        assert!(begun.is_empty(), "it goes on for ever: {begun:#?}");
    }

    fn operator_views(&mut self) -> Vec<OperatorView> {
        let answer = self.answer(&Request::Operators {
            operator: None,
            region: None,
        });
        match answer {
            Answer::Operators(views) => views,
            other => panic!("operators are told: {other:?}"),
        }
    }

    fn newest(&mut self) -> Option<u64> {
        self.operator_views().iter().map(|view| view.id).max()
    }

    /// A drain that is refused, because rules leave no other place.
    fn keep_what_has_no_place(&mut self) {
        let Some(store) = self.drained.take() else {
            panic!("nothing is drained, and something is refused");
        };
        let groups = &self.ruled.as_ref().expect("it has rules").groups;
        let all: Vec<_> = (1..=self.stores)
            .filter(|id| self.dead() != Some(*id))
            .collect();
        let fewer: Vec<_> = all.iter().copied().filter(|id| *id != store).collect();
        let lacks = self.regions.values().any(|truth| {
            let places = places(groups, &truth.region.start_key);
            possible(&places, &fewer).1 < places.len().min(possible(&places, &all).1)
        });
        assert!(lacks, "store {store} could be drained");
        *self.done.entry("drains refused").or_default() += 1;
    }

    fn check_rules(&mut self) {
        let groups = &self.ruled.as_ref().expect("it has rules").groups;
        let staying = self.staying();
        let mut done = BTreeSet::new();
        for truth in self.regions.values() {
            truth.check_settled();
            let region = &truth.region;
            let inside = EDGES.iter().map(|edge| edge.as_bytes()).find(|edge| {
                **edge > region.start_key[..]
                    && (region.end_key.is_empty() || **edge < region.end_key[..])
                    && places(groups, edge) != places(groups, &region.start_key)
            });
            assert_eq!(inside, None, "rules change inside of {region:?}");
            let places = places(groups, &region.start_key);
            let usable = |peer: &&metapb::Peer| staying.contains(&peer.store_id);
            let peers: Vec<_> = region.peers.iter().filter(usable).copied().collect();
            let (possible, served) = (possible(&places, &staying), served(&places, &peers));
            assert_eq!(
                served, possible,
                "voters and all: {region:?} for {places:?}"
            );
            if possible.1 < places.len() {
                done.insert("rules that cannot be");
                continue;
            }
            assert_eq!(
                region.peers.len(),
                places.len(),
                "{region:?} for {places:?}"
            );
            assert!(led_well(&places, truth), "{truth:?} for {places:?}");
            done.insert("rules that hold");
        }
        for what in done {
            *self.done.entry(what).or_default() += 1;
        }
    }
}

fn run(seed: u64, bug: Bug) -> BTreeMap<&'static str, u64> {
    let mut world = World::with_rules(seed, bug);
    world.go_on();
    world.heal_to_rules();
    world.done
}

/// Rules come to hold wherever stores allow it, and then there is silence.
#[test]
fn rules_come_to_hold() {
    let mut done = BTreeMap::<&str, u64>::new();
    let seeds = super::seeds_or(SEEDS);
    let mut failed = Vec::new();
    for seed in 0..seeds {
        match std::panic::catch_unwind(|| run(seed, Bug::None)) {
            Ok(happened) => {
                for (what, count) in happened {
                    *done.entry(what).or_default() += count;
                }
            }
            Err(_) => failed.push(seed),
        }
    }
    assert!(failed.is_empty(), "seeds {failed:?} failed: see above");
    let wanted = [
        "rules",
        "rules that hold",
        "rules that cannot be",
        "deaths",
        "merges with learners",
    ];
    for what in wanted {
        assert!(done.get(what).copied() > Some(0), "no {what}: {done:?}");
    }
}
