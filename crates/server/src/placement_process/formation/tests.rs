//! Every interleaving of three members that form a group, with crashes at any moment and directories that are emptied.

use std::collections::{HashMap, HashSet, VecDeque};

use super::*;

const SIZE: usize = 3;

/// The births of a set of members, by position. A birth is 1 or more.
type Set = [u8; SIZE];

/// Where the directory of a member stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Stage {
    Empty,
    Planned(Set),
    Begun(Set),
    Joined(Set),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Said {
    birth: u8,
    stage: Stage,
}

/// What another was heard to say in the round under way.
type Round = [Option<Said>; SIZE];

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    now: [Said; SIZE],
    rounds: [Round; SIZE],
    emptied: u8,
    /// Ids that had begun when their directories were emptied.
    lost: Vec<(usize, u8)>,
    /// Sets with which a majority had begun at some moment, all of it at once: it may have acknowledged something.
    acted: Vec<Set>,
}

/// Mistakes that the search must find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bug {
    None,
    /// Begins with what it planned once all have answered, whatever they plan.
    OwnPlan,
    /// Takes a majority of answers for all.
    Majority,
    /// Takes a plan for the beginning of a group.
    PlanIsBegun,
    /// An emptied directory is the member that it was.
    SameBirth,
}

fn id(position: usize, birth: u8) -> StoreId {
    StoreId(u64::from(birth) << 3 | (position as u64 + 1))
}

fn ids(set: Set) -> Vec<StoreId> {
    let all = set.iter().enumerate();
    all.map(|(position, birth)| id(position, *birth)).collect()
}

fn set(ids: &[StoreId]) -> Set {
    let births: Vec<u8> = ids.iter().map(|id| (id.0 >> 3) as u8).collect();
    births.try_into().expect("one for each position")
}

impl Said {
    fn answer(self, position: usize, bug: Bug) -> Answer {
        let (first, begun) = match self.stage {
            Stage::Empty => (Vec::new(), false),
            Stage::Planned(set) => (ids(set), bug == Bug::PlanIsBegun),
            Stage::Begun(set) | Stage::Joined(set) => (ids(set), true),
        };
        Answer {
            member: id(position, self.birth),
            first,
            begun,
        }
    }

    fn begun(self) -> Option<Set> {
        match self.stage {
            Stage::Begun(set) => Some(set),
            Stage::Empty | Stage::Planned(_) | Stage::Joined(_) => None,
        }
    }

    fn is_settled(self) -> bool {
        matches!(self.stage, Stage::Begun(_) | Stage::Joined(_))
    }
}

impl World {
    fn new() -> World {
        let empty = Said {
            birth: 1,
            stage: Stage::Empty,
        };
        World {
            now: [empty; SIZE],
            rounds: [[None; SIZE]; SIZE],
            emptied: 0,
            lost: Vec::new(),
            acted: Vec::new(),
        }
    }

    /// The member at `at` ends its round. Returns whether that changed anything but the round.
    fn decide(&mut self, at: usize, bug: Bug) -> bool {
        let Said { birth, stage } = self.now[at];
        let plan = match stage {
            Stage::Empty => Vec::new(),
            Stage::Planned(set) => ids(set),
            Stage::Begun(_) | Stage::Joined(_) => return false,
        };
        let me = id(at, birth);
        let heard = std::mem::take(&mut self.rounds[at]);
        let mut answers: Vec<Option<Answer>> = (0..SIZE)
            .map(|other| heard[other].map(|said| said.answer(other, bug)))
            .collect();
        match bug {
            Bug::OwnPlan => {
                for answer in answers.iter_mut().flatten().filter(|answer| !answer.begun) {
                    answer.first = plan.clone();
                }
            }
            Bug::Majority => {
                let known = ids([birth; SIZE]);
                let silent = (0..SIZE).filter(|other| *other != at && answers[*other].is_none());
                if let [silent] = silent.collect::<Vec<_>>()[..] {
                    answers[silent] = Some(Answer {
                        member: plan.get(silent).copied().unwrap_or(known[silent]),
                        first: plan.clone(),
                        begun: false,
                    });
                }
            }
            Bug::None | Bug::PlanIsBegun | Bug::SameBirth => {}
        }
        self.now[at].stage = match decide(me, &plan, &answers) {
            Decision::Plan(first) => Stage::Planned(set(&first)),
            Decision::Begin => Stage::Begun(set(&plan)),
            Decision::Join(first) => Stage::Joined(set(&first)),
            Decision::Wait(_) => return false,
        };
        self.note_quorums();
        true
    }

    fn note_quorums(&mut self) {
        for set in self.now.iter().filter_map(|said| said.begun()) {
            let begun = (0..SIZE)
                .filter(|at| self.now[*at].begun() == Some(set) && set[*at] == self.now[*at].birth);
            if begun.count() > SIZE / 2 && !self.acted.contains(&set) {
                self.acted.push(set);
                self.acted.sort_unstable();
            }
        }
    }

    fn hear(&mut self, at: usize, other: usize) {
        self.rounds[at][other] = Some(self.now[other]);
    }

    fn empty(&mut self, at: usize, bug: Bug) {
        if self.now[at].begun().is_some() {
            self.lost.push((at, self.now[at].birth));
            self.lost.sort_unstable();
        }
        if bug != Bug::SameBirth {
            self.now[at].birth += 1;
        }
        self.now[at].stage = Stage::Empty;
        self.rounds[at] = Round::default();
        self.emptied += 1;
    }

    /// Everything that can happen next. A member that is down is one that nobody hears and that does not decide; one that
    /// crashes forgets its round.
    fn successors(&self, emptied_max: u8, bug: Bug) -> Vec<World> {
        let mut all = Vec::new();
        for at in 0..SIZE {
            if self.emptied < emptied_max {
                let mut next = self.clone();
                next.empty(at, bug);
                all.push(next);
            }
            if self.now[at].is_settled() {
                continue;
            }
            for other in (0..SIZE).filter(|other| *other != at) {
                if self.rounds[at][other].is_none() {
                    let mut next = self.clone();
                    next.hear(at, other);
                    all.push(next);
                }
            }
            if self.rounds[at] != Round::default() {
                let mut next = self.clone();
                next.rounds[at] = Round::default();
                all.push(next);
                let mut next = self.clone();
                next.decide(at, bug);
                all.push(next);
            }
        }
        all
    }

    /// What must hold at every moment.
    fn check(&self) -> Result<(), String> {
        let sets: HashSet<Set> = self
            .now
            .iter()
            .filter_map(|said| match said.stage {
                Stage::Begun(set) | Stage::Joined(set) => Some(set),
                Stage::Empty | Stage::Planned(_) => None,
            })
            .collect();
        if sets.len() > 1 {
            return Err(format!("groups of {sets:?} at once"));
        }
        for (at, said) in self.now.iter().enumerate() {
            if said.begun().is_some() && self.lost.contains(&(at, said.birth)) {
                return Err(format!("{at} votes again and has forgotten what it voted"));
            }
            match said.stage {
                Stage::Begun(set) if set[at] != said.birth => {
                    return Err(format!("{at} counts as another"));
                }
                Stage::Joined(set) if set[at] == said.birth => {
                    return Err(format!("{at} is of the first and joins"));
                }
                Stage::Empty | Stage::Planned(_) | Stage::Begun(_) | Stage::Joined(_) => {}
            }
        }
        // Once a majority has begun, another group may begin only if a majority lost its disks.
        for one in &self.acted {
            for other in self.acted.iter().filter(|other| *other != one) {
                let apart = (0..SIZE).filter(|at| one[*at] != other[*at]).count();
                if apart <= SIZE / 2 {
                    return Err(format!("{one:?} and {other:?} both had a majority"));
                }
            }
        }
        Ok(())
    }

    /// With everybody up and no disk lost any more, everybody ends up in the group.
    fn check_ends(&self, bug: Bug) -> Result<(), String> {
        let mut world = self.clone();
        world.rounds = Default::default();
        for _ in 0..8 {
            for at in 0..SIZE {
                for other in (0..SIZE).filter(|other| *other != at) {
                    world.hear(at, other);
                }
                world.decide(at, bug);
            }
        }
        if !world.now.iter().all(|said| said.is_settled()) {
            return Err(format!("it does not end: {:?}", world.now));
        }
        // Whoever joins needs a quorum of those who began.
        let begun = world.now.iter().filter(|said| said.begun().is_some());
        if self.emptied <= 1 && begun.count() <= SIZE / 2 {
            return Err(format!("it has no quorum: {:?}", world.now));
        }
        Ok(())
    }
}

/// Visits every world that can come about, in the order of the events that it takes. Returns how many there are and how
/// many ended in each way, or the first that is wrong with what led there.
fn search(emptied_max: u8, bug: Bug) -> Result<(usize, HashMap<&'static str, usize>), String> {
    let mut seen: HashSet<World> = HashSet::from([World::new()]);
    let mut open = VecDeque::from([World::new()]);
    let mut happened = HashMap::new();
    // What a world without rounds ends in does not depend on them.
    let mut ended: HashSet<([Said; SIZE], u8)> = HashSet::new();
    while let Some(world) = open.pop_front() {
        let told = |error: String| format!("{error}\n{world:#?}");
        world.check().map_err(told)?;
        if ended.insert((world.now, world.emptied)) {
            world.check_ends(bug).map_err(told)?;
        }
        let count = |what, does: bool| (what, usize::from(does));
        let is = |matches: fn(&Said) -> bool| world.now.iter().any(matches);
        for (what, count) in [
            count("begun", world.now.iter().all(|said| said.begun().is_some())),
            count("joined", is(|said| matches!(said.stage, Stage::Joined(_)))),
            count(
                "anew",
                world.now.iter().filter(|said| said.birth > 1).count() == 1
                    && world.now.iter().all(|said| said.begun().is_some()),
            ),
        ] {
            *happened.entry(what).or_default() += count;
        }
        for next in world.successors(emptied_max, bug) {
            if !seen.contains(&next) {
                seen.insert(next.clone());
                open.push_back(next);
            }
        }
    }
    Ok((seen.len(), happened))
}

/// R7, R30: whenever a directory is emptied, no two groups begin, and nobody counts as who it is not. With FORMATION_EMPTIED=2
/// twice, which makes a million worlds.
#[test]
fn one_group_begins_whatever_happens() {
    let emptied =
        std::env::var("FORMATION_EMPTIED").map_or(1, |text| text.parse().expect("a number"));
    let (worlds, happened) = search(emptied, Bug::None).unwrap_or_else(|error| panic!("{error}"));
    assert!(worlds > 1_000, "{worlds} worlds");
    for what in ["begun", "joined", "anew"] {
        assert!(happened[what] > 0, "it never happened: {what}");
    }
}

/// What the search is for is found.
#[test]
fn mistakes_are_found() {
    for bug in [
        Bug::OwnPlan,
        Bug::Majority,
        Bug::PlanIsBegun,
        Bug::SameBirth,
    ] {
        assert!(search(1, bug).is_err(), "{bug:?} is not found");
    }
}

fn said(member: u64, first: &[u64], begun: bool) -> Option<Answer> {
    Some(Answer {
        member: StoreId(member),
        first: first.iter().copied().map(StoreId).collect(),
        begun,
    })
}

/// A group of one waits for nobody.
#[test]
fn a_group_of_one_begins_at_once() {
    let me = StoreId(9);
    assert_eq!(decide(me, &[], &[None]), Decision::Plan(vec![me]));
    assert_eq!(decide(me, &[me], &[None]), Decision::Begin);
}

#[test]
fn it_says_whom_it_waits_for() {
    let me = StoreId(9);
    let plan = [9, 10, 11].map(StoreId);
    let wait = |answers: [Option<Answer>; 3]| match decide(me, &plan, &answers) {
        Decision::Wait(waiting) => waiting,
        other => panic!("{other:?}"),
    };
    let all = &[9, 10, 11][..];
    assert_eq!(
        wait([None, None, said(11, all, false)]),
        Waiting::Answers(vec![1])
    );
    assert_eq!(
        wait([None, said(10, &[], false), said(11, all, false)]),
        Waiting::Plans(vec![1])
    );
    assert_eq!(
        wait([None, said(10, all, true), said(11, &[17, 10, 11], true)]),
        Waiting::Agreement(vec![2])
    );
}
