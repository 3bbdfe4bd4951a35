//! Placement rules: which replicas the keys of a range have, and where.
//!
//! A [`Rule`] asks for so many peers of a role on stores with certain labels. Rules come in [`Group`]s. For each key the
//! rules of *one* group hold, all of them together: of the groups with a rule there, the one with the highest index. Keys
//! without any have the rule that every cluster has: as many voters as it has replicas, anywhere, apart from each other.
//!
//! - `check`: what a rule set may be ([`RuleError`]).
//! - [`Layout`]: a rule set cut into ranges of keys that have the same rules. Their edges are boundaries of regions.
//! - [`fit`]: which peer of a region serves which rule.
//! - `places`: rules and the labels of stores together.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use proto::metapb;

pub use check::RuleError;
pub use codec::{group_from_wire, group_to_wire};

mod check;
mod codec;
pub mod fit;
mod places;

pub(crate) use places::{Places, guest, seats};

/// The name of the group that every cluster has.
pub const DEFAULT_GROUP: &str = "default";

/// What a peer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// A voter that leads.
    Leader,
    /// A voter that may lead, unless another rule asks for the leader.
    Voter,
    /// A voter that does not lead.
    Follower,
    /// A copy that does not vote.
    Learner,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 4] = [Self::Leader, Self::Voter, Self::Follower, Self::Learner];

    /// The name in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Leader => "leader",
            Self::Voter => "voter",
            Self::Follower => "follower",
            Self::Learner => "learner",
        }
    }

    /// Whether its peers vote.
    pub fn votes(self) -> bool {
        self != Self::Learner
    }
}

/// What is asked of a label.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Test {
    /// It has one of these values.
    In(Vec<String>),
    /// It has none of these values, or is not there.
    NotIn(Vec<String>),
    /// It is there.
    Exists,
    /// It is not there.
    NotExists,
}

/// What a store must be like.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Constraint {
    /// The name of a label.
    pub label: String,
    /// What is asked of it.
    pub test: Test,
}

impl Constraint {
    /// Whether a store with these labels is meant. A label with an empty value is as good as none.
    pub fn admits(&self, labels: &[metapb::StoreLabel]) -> bool {
        let told = labels
            .iter()
            .find(|told| told.key == self.label && !told.value.is_empty());
        match &self.test {
            Test::In(values) => told.is_some_and(|told| values.contains(&told.value)),
            Test::NotIn(values) => told.is_none_or(|told| !values.contains(&told.value)),
            Test::Exists => told.is_some(),
            Test::NotExists => told.is_none(),
        }
    }
}

/// So many peers of a role, on stores with certain labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its name within its group.
    pub id: String,
    /// First key.
    pub start: Bytes,
    /// Exclusive end; empty is the end of the key space.
    pub end: Bytes,
    /// What its peers are for.
    pub role: Role,
    /// How many peers.
    pub count: u32,
    /// What their stores must be like, all of it.
    pub constraints: Vec<Constraint>,
    /// Labels that tell where a store is, widest first: its peers are kept apart by them. Voters of rules with the same
    /// list are kept apart from each other as well, and so are learners.
    pub location_labels: Vec<String>,
}

impl Rule {
    /// Whether a store with these labels may have its peers.
    pub fn admits(&self, labels: &[metapb::StoreLabel]) -> bool {
        self.constraints
            .iter()
            .all(|constraint| constraint.admits(labels))
    }

    fn covers(&self, key: &[u8]) -> bool {
        key >= &self.start[..] && (self.end.is_empty() || key < &self.end[..])
    }
}

/// Rules that hold together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// Of several groups with a rule for a key the one with the highest index holds.
    pub index: u32,
    /// Its rules.
    pub rules: Vec<Rule>,
}

/// All rules that were set, as they are replicated.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleSet {
    /// Counts changes; 0 while none were set. Who replaces the rules names the version that it read.
    pub version: u64,
    /// The groups, by name.
    pub groups: Vec<Group>,
}

/// A rule where it holds.
#[derive(Debug)]
pub struct Placed {
    /// The name of its group.
    pub group: String,
    /// The rule.
    pub rule: Rule,
}

impl Placed {
    /// Group and rule, for people.
    pub fn name(&self) -> String {
        format!("{}/{}", self.group, self.rule.id)
    }
}

/// A range of keys that have the same rules; it ends where the next begins.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Segment {
    start: Bytes,
    /// Positions in [`Layout::rules`], in the order in which peers are given to them.
    rules: Arc<[usize]>,
}

/// A rule set, cut into ranges of keys.
///
/// # Invariants
/// 1. The first segment starts at the empty key; starts grow; neighbours have different rules.
/// 2. No segment is without rules.
#[derive(Clone, Debug)]
pub struct Layout {
    version: u64,
    rules: Arc<[Placed]>,
    segments: Vec<Segment>,
}

impl Layout {
    /// Cuts a rule set that was checked.
    pub fn new(set: &RuleSet, replicas: u32, location_labels: &[String]) -> Self {
        let default = Placed {
            group: DEFAULT_GROUP.into(),
            rule: Rule {
                id: DEFAULT_GROUP.into(),
                start: Bytes::new(),
                end: Bytes::new(),
                role: Role::Voter,
                count: replicas,
                constraints: Vec::new(),
                location_labels: location_labels.to_vec(),
            },
        };
        let placed = set.groups.iter().flat_map(|group| {
            let placed = |rule: &Rule| Placed {
                group: group.name.clone(),
                rule: rule.clone(),
            };
            group.rules.iter().map(placed).collect::<Vec<_>>()
        });
        let rules: Arc<[Placed]> = [default].into_iter().chain(placed).collect();
        let mut segments: Vec<Segment> = Vec::new();
        for start in edges(set) {
            let holding = holding(set, &start);
            // Those who ask for most come first, so that the others take what is left.
            let mut positions: Vec<_> = rules
                .iter()
                .enumerate()
                .filter(|(_, placed)| match holding {
                    Some(group) => placed.group == group.name && placed.rule.covers(&start),
                    None => placed.group == DEFAULT_GROUP,
                })
                .map(|(position, _)| position)
                .collect();
            positions.sort_by_key(|position| rules[*position].rule.role);
            let same = |last: &Segment| *last.rules == positions[..];
            if !segments.last().is_some_and(same) {
                segments.push(Segment {
                    start,
                    rules: positions.into(),
                });
            }
        }
        Self {
            version: set.version,
            rules,
            segments,
        }
    }

    /// The version of the rule set.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Every rule; the one that every cluster has comes first.
    pub fn rules(&self) -> &[Placed] {
        &self.rules
    }

    /// The rules of a key, as positions in [`Layout::rules`].
    pub fn at(&self, key: &[u8]) -> &[usize] {
        let after = self
            .segments
            .partition_point(|segment| segment.start[..] <= *key);
        &self.segments[after - 1].rules
    }

    /// Where rules change strictly inside a range, in order.
    pub fn edges_inside(&self, start: &[u8], end: &[u8]) -> Vec<Bytes> {
        let after = self
            .segments
            .partition_point(|segment| segment.start[..] <= *start);
        self.segments[after..]
            .iter()
            .map(|segment| segment.start.clone())
            .take_while(|edge| end.is_empty() || &edge[..] < end)
            .collect()
    }

    /// Peers that vote, and those that do not, of a region that starts at a key.
    pub fn counts(&self, key: &[u8]) -> (u32, u32) {
        let (mut voters, mut learners) = (0, 0);
        for position in self.at(key) {
            let rule = &self.rules[*position].rule;
            if rule.role.votes() {
                voters += rule.count;
            } else {
                learners += rule.count;
            }
        }
        (voters, learners)
    }
}

/// Where ranges of rules begin or end, in order.
fn edges(set: &RuleSet) -> BTreeSet<Bytes> {
    let rules = set.groups.iter().flat_map(|group| &group.rules);
    // The empty end is the end of the key space, and no edge; as a start it is the first one.
    let ends = rules.flat_map(|rule| [rule.start.clone(), rule.end.clone()]);
    ends.chain([Bytes::new()]).collect()
}

/// The group whose rules hold for a key.
fn holding<'a>(set: &'a RuleSet, key: &[u8]) -> Option<&'a Group> {
    let covers = |group: &&Group| group.rules.iter().any(|rule| rule.covers(key));
    set.groups
        .iter()
        .filter(covers)
        .max_by_key(|group| group.index)
}

#[cfg(test)]
mod tests;
