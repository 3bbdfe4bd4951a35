//! Which peer of a region serves which rule.
//!
//! A fit gives every peer to at most one rule and every rule at most as many peers as it asks for. Of all that is possible
//! the cheapest is taken, by [`Cost`]. Regions have few peers and keys few rules, so all of it is tried, but for what cannot
//! be cheaper than what is known.

use proto::StoreId;

use super::Role;

/// A peer of a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seat {
    /// Its id; 0 for one that is only thought of.
    pub peer: u64,
    /// Its store.
    pub store: StoreId,
    /// Whether it votes.
    pub votes: bool,
    /// Whether it leads.
    pub leads: bool,
    /// How much it would be better not to count on it; 0 is nothing.
    pub trouble: u32,
}

/// What a rule asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Want {
    /// What its peers are for.
    pub role: Role,
    /// How many.
    pub count: u32,
}

/// What rules say of stores. Rules are named by their position among the wants.
pub trait Terms {
    /// Whether a peer of this rule may be on a store.
    fn admits(&self, rule: usize, store: StoreId) -> bool;

    /// What two peers on these stores share that they should not, if they serve these rules.
    fn shared(&self, one: (usize, StoreId), other: (usize, StoreId)) -> u64;
}

/// What is wrong with a region, the worst first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cost {
    /// Peers that rules ask for and that are not there.
    pub missing: u32,
    /// Of these, those that would vote.
    pub missing_voters: u32,
    /// Peers that vote and should not, or the other way round.
    pub roles: u32,
    /// 1 if the leader is not where rules want it.
    pub leader: u32,
    /// Trouble of the peers that rules count on.
    pub trouble: u32,
    /// What peers share that should be apart.
    pub shared: u64,
}

/// Who serves what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fit {
    /// What is wrong with it.
    pub cost: Cost,
    /// For each peer, in the order in which they were told, the rule that it serves; `None` if nobody wants it.
    pub serves: Vec<Option<usize>>,
    /// For each rule how many peers it lacks.
    pub missing: Vec<u32>,
}

/// Finds the cheapest fit; of equals the one that leaves out peers that come later, and gives earlier peers to earlier
/// rules.
pub fn fit(seats: &[Seat], wants: &[Want], terms: &impl Terms) -> Fit {
    let mut search = Search {
        seats,
        wants,
        terms,
        leader_rule: wants.iter().any(|want| want.role == Role::Leader),
        serves: vec![None; seats.len()],
        left: wants.iter().map(|want| want.count).collect(),
        best: None,
    };
    search.place(0, Cost::default());
    search
        .best
        .expect("to leave everyone out is a fit, and nothing was known that is cheaper")
}

struct Search<'a, T> {
    seats: &'a [Seat],
    wants: &'a [Want],
    terms: &'a T,
    /// Whether some rule asks for the leader.
    leader_rule: bool,
    serves: Vec<Option<usize>>,
    left: Vec<u32>,
    best: Option<Fit>,
}

impl<T: Terms> Search<'_, T> {
    /// Places the peers from `at` on, the others being placed at this cost.
    fn place(&mut self, at: usize, cost: Cost) {
        let open: u32 = self.left.iter().sum();
        let votes = |(_, want): &(&u32, &Want)| want.role.votes();
        let open_votes = self.left.iter().zip(self.wants).filter(votes);
        let open_votes: u32 = open_votes.map(|(left, _)| left).sum();
        let rest = (self.seats.len() - at) as u32;
        // Every peer that is left may still fill a place.
        let least = Cost {
            missing: open.saturating_sub(rest),
            missing_voters: open_votes.saturating_sub(rest),
            ..cost
        };
        if self.best.as_ref().is_some_and(|best| least >= best.cost) {
            return;
        }
        let Some(seat) = self.seats.get(at) else {
            self.best = Some(Fit {
                cost: least,
                serves: self.serves.clone(),
                missing: self.left.clone(),
            });
            return;
        };
        for rule in 0..self.wants.len() {
            if self.left[rule] == 0 || !self.terms.admits(rule, seat.store) {
                continue;
            }
            let more = self.serving(at, rule);
            self.left[rule] -= 1;
            self.serves[at] = Some(rule);
            self.place(at + 1, sum(cost, more));
            self.serves[at] = None;
            self.left[rule] += 1;
        }
        let more = Cost {
            leader: u32::from(seat.leads),
            ..Cost::default()
        };
        self.place(at + 1, sum(cost, more));
    }

    /// What it costs that a peer serves a rule, beside the peers before it.
    fn serving(&self, at: usize, rule: usize) -> Cost {
        let seat = &self.seats[at];
        let role = self.wants[rule].role;
        let leads_here = match role {
            Role::Leader => true,
            Role::Voter => !self.leader_rule,
            Role::Follower | Role::Learner => false,
        };
        let before = self.seats.iter().zip(&self.serves).take(at);
        let shared = before.map(|(other, serves)| {
            serves.map_or(0, |serves| {
                self.terms.shared((serves, other.store), (rule, seat.store))
            })
        });
        Cost {
            missing: 0,
            missing_voters: 0,
            roles: u32::from(seat.votes != role.votes()),
            leader: u32::from(seat.leads && !leads_here),
            trouble: seat.trouble,
            shared: shared.sum(),
        }
    }
}

fn sum(one: Cost, other: Cost) -> Cost {
    Cost {
        missing: one.missing + other.missing,
        missing_voters: one.missing_voters + other.missing_voters,
        roles: one.roles + other.roles,
        leader: one.leader + other.leader,
        trouble: one.trouble + other.trouble,
        shared: one.shared + other.shared,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Stores 0 to 5 in zones, and which rule admits which.
    #[derive(Clone, Debug)]
    struct Table {
        admits: Vec<[bool; 6]>,
        zones: [u64; 6],
        kin: bool,
    }

    impl Terms for Table {
        fn admits(&self, rule: usize, store: StoreId) -> bool {
            self.admits[rule][store.0 as usize]
        }

        fn shared(&self, one: (usize, StoreId), other: (usize, StoreId)) -> u64 {
            let zone = |store: StoreId| self.zones[store.0 as usize];
            let related = one.0 == other.0 || self.kin;
            u64::from(related && zone(one.1) == zone(other.1))
        }
    }

    /// What a complete assignment costs, or `None` if it is none: by its definition, with nothing carried along.
    fn price(seats: &[Seat], wants: &[Want], table: &Table, serves: &[usize]) -> Option<Cost> {
        let out = wants.len();
        let mut cost = Cost::default();
        for (rule, want) in wants.iter().enumerate() {
            let there = serves.iter().filter(|serves| **serves == rule).count() as u32;
            let missing = want.count.checked_sub(there)?;
            cost.missing += missing;
            cost.missing_voters += if want.role.votes() { missing } else { 0 };
        }
        let asked = wants.iter().any(|want| want.role == Role::Leader);
        for (at, (seat, &rule)) in seats.iter().zip(serves).enumerate() {
            if rule == out {
                cost.leader += u32::from(seat.leads);
                continue;
            }
            if !table.admits(rule, seat.store) {
                return None;
            }
            let role = wants[rule].role;
            cost.roles += u32::from(seat.votes != (role != Role::Learner));
            let right = role == Role::Leader || (role == Role::Voter && !asked);
            cost.leader += u32::from(seat.leads && !right);
            cost.trouble += seat.trouble;
            for (other, &theirs) in seats.iter().zip(serves).skip(at + 1) {
                if theirs != out {
                    cost.shared += table.shared((rule, seat.store), (theirs, other.store));
                }
            }
        }
        Some(cost)
    }

    /// The twin: every assignment there is, in the order in which ties are decided.
    fn exhaustive(seats: &[Seat], wants: &[Want], table: &Table) -> (Cost, Vec<usize>) {
        let options = wants.len() + 1;
        let mut best: Option<(Cost, Vec<usize>)> = None;
        for mut number in 0..options.pow(seats.len() as u32) {
            // The first peer is the highest digit, so numbers grow as the search goes.
            let mut serves = vec![0; seats.len()];
            for digit in serves.iter_mut().rev() {
                *digit = number % options;
                number /= options;
            }
            if let Some(cost) = price(seats, wants, table, &serves)
                && best.as_ref().is_none_or(|best| cost < best.0)
            {
                best = Some((cost, serves));
            }
        }
        best.expect("to leave everyone out is an assignment")
    }

    fn table() -> impl Strategy<Value = Table> {
        let admits = prop::collection::vec(prop::array::uniform6(prop::bool::weighted(0.7)), 3);
        let zones = prop::array::uniform6(0u64..3);
        (admits, zones, any::<bool>()).prop_map(|(admits, zones, kin)| Table { admits, zones, kin })
    }

    fn seats() -> impl Strategy<Value = Vec<Seat>> {
        let one = (any::<bool>(), 0u32..3, prop::bool::weighted(0.8));
        let stores = Just((0..6).collect::<Vec<u64>>()).prop_shuffle();
        let leader = 0usize..7;
        (prop::collection::vec(one, 0..6), stores, leader).prop_map(|(seats, stores, leader)| {
            let seat = |(at, (troubled, trouble, votes)): (usize, (bool, u32, bool))| Seat {
                peer: at as u64 + 1,
                store: StoreId(stores[at]),
                votes: votes || at == leader,
                leads: at == leader,
                trouble: if troubled { trouble } else { 0 },
            };
            seats.into_iter().enumerate().map(seat).collect()
        })
    }

    fn wants() -> impl Strategy<Value = Vec<Want>> {
        let role = prop::sample::select(Role::ALL.to_vec());
        let want = (role, 1u32..4).prop_map(|(role, count)| Want { role, count });
        prop::collection::vec(want, 0..4)
    }

    proptest! {
        #[test]
        fn a_fit_is_the_cheapest_there_is(seats in seats(), wants in wants(), table in table()) {
            let found = fit(&seats, &wants, &table);
            let (cost, serves) = exhaustive(&seats, &wants, &table);
            prop_assert_eq!(found.cost, cost);
            let theirs: Vec<_> = serves.iter().map(|rule| Some(*rule).filter(|rule| *rule < wants.len())).collect();
            prop_assert_eq!(&found.serves, &theirs, "of equals the first");
            for (rule, want) in wants.iter().enumerate() {
                let there = found.serves.iter().filter(|serves| **serves == Some(rule)).count() as u32;
                prop_assert_eq!(there + found.missing[rule], want.count);
            }
        }
    }

    fn seat(store: u64) -> Seat {
        Seat {
            peer: store + 10,
            store: StoreId(store),
            votes: true,
            leads: false,
            trouble: 0,
        }
    }

    /// The largest region that rules can ask for, in the worst place: everyone admitted, everyone in one zone.
    #[test]
    fn the_largest_region_takes_few_steps() {
        struct Counting(std::cell::Cell<u64>);
        impl Terms for Counting {
            fn admits(&self, _: usize, _: StoreId) -> bool {
                self.0.set(self.0.get() + 1);
                true
            }
            fn shared(&self, _: (usize, StoreId), _: (usize, StoreId)) -> u64 {
                1
            }
        }
        let seats: Vec<_> = (0..9).map(seat).collect();
        let want = |count| Want {
            role: Role::Voter,
            count,
        };
        let terms = Counting(std::cell::Cell::new(0));
        let found = fit(&seats, &[2, 2, 2, 2, 1].map(want), &terms);
        assert_eq!(found.cost.missing, 0);
        assert!(terms.0.get() < 200_000, "{} steps", terms.0.get());
    }

    #[test]
    fn who_is_left_out() {
        let table = Table {
            admits: vec![[true; 6]],
            zones: [0, 1, 2, 3, 4, 5],
            kin: false,
        };
        let voters = [Want {
            role: Role::Voter,
            count: 2,
        }];
        let mut seats = [seat(0), seat(1), seat(2)];
        let out = |seats: &[Seat]| {
            let found = fit(seats, &voters, &table);
            found.serves.iter().position(Option::is_none)
        };
        assert_eq!(out(&seats), Some(2), "all else equal the last");
        seats[0].trouble = 1;
        assert_eq!(out(&seats), Some(0), "the one in trouble");
        seats[0].leads = true;
        assert_eq!(out(&seats), Some(2), "never the leader");
        seats[1].votes = false;
        assert_eq!(out(&seats), Some(1), "the one that does not vote");
    }

    /// Copies are for reading; what makes writes durable goes first.
    #[test]
    fn a_voter_is_missed_more_than_a_learner() {
        let table = Table {
            admits: vec![[true; 6]; 2],
            zones: [0, 1, 2, 3, 4, 5],
            kin: false,
        };
        let want = |role, count| Want { role, count };
        let wants = [want(Role::Voter, 3), want(Role::Learner, 1)];
        let mut seats = [seat(0), seat(1), seat(2)];
        seats[2].votes = false;
        let found = fit(&seats, &wants, &table);
        assert_eq!(found.missing, [0, 1], "{found:?}");
        assert_eq!(found.cost.roles, 1);
    }
}
