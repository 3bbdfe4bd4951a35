//! What a rule set may be. Everything that is refused names what to change.

use std::collections::BTreeSet;

use bytes::Bytes;
use prost::Message;

use super::{DEFAULT_GROUP, Group, Role, Rule, RuleSet, Test, codec, edges, holding};
use crate::keyspace;

/// Rules of all groups at the most.
pub const RULES_MAX: usize = 256;
/// Rules that hold for one key at the most.
pub const RULES_AT_ONCE_MAX: usize = 5;
/// Peers of a region at the most, learners included.
pub const PEERS_MAX: u32 = 9;
/// Bytes of the whole rule set at the most: it is one record.
pub const BYTES_MAX: usize = 256 << 10;
/// Length of a name, a label or a value at the most.
pub const NAME_BYTES_MAX: usize = 128;
/// Labels that tell the place of a store at the most.
pub const LOCATION_LABELS_MAX: usize = 6;
/// Constraints of a rule, and values of a constraint, at the most.
pub const CONSTRAINTS_MAX: usize = 64;
/// Length of a key at the most (RELIABILITY F27).
const KEY_BYTES_MAX: usize = 10 << 10;

/// Why a rule set is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// Somebody else replaced the rules meanwhile.
    #[error(
        "the rules are at version {current}, these were made from version {read}: read them again and redo the change"
    )]
    Version {
        /// The version that the change was made from.
        read: u64,
        /// The version that holds.
        current: u64,
    },
    /// Too many rules.
    #[error("there are {rules} rules, {RULES_MAX} are allowed: merge ranges that want the same")]
    TooMany {
        /// How many.
        rules: usize,
    },
    /// Too many bytes.
    #[error("the rules have {bytes} bytes, {BYTES_MAX} are allowed: use shorter keys and lists")]
    TooLarge {
        /// How many.
        bytes: usize,
    },
    /// A group or a rule has no name, or a name that is too long.
    #[error("{what} has a name of {bytes} bytes: give it one of 1 to {NAME_BYTES_MAX}")]
    Name {
        /// Which one.
        what: String,
        /// Bytes of its name.
        bytes: usize,
    },
    /// The name of the group that every cluster has.
    #[error(
        "group {DEFAULT_GROUP:?} is the one that holds where no other does, and cannot be set: use another name, and a rule for all keys to change what holds for them"
    )]
    Reserved,
    /// Two groups have one name.
    #[error("group {0:?} is there twice: put its rules together or rename one")]
    GroupTwice(String),
    /// Two rules of a group have one id.
    #[error("rule {0} is there twice: rename one")]
    RuleTwice(String),
    /// A group has no rules.
    #[error("group {0:?} has no rules: leave it out")]
    Empty(String),
    /// A rule wants nothing.
    #[error("rule {0} has count 0: leave it out, or give it a count of at least 1")]
    NoCount(String),
    /// A rule for no keys.
    #[error("rule {0} ends at or before its start: an empty end is the end of all keys")]
    Range(String),
    /// A key of a range is too long.
    #[error(
        "rule {rule} has a key of {bytes} bytes, no key has more than {KEY_BYTES_MAX}: shorten it"
    )]
    Key {
        /// The rule.
        rule: String,
        /// Bytes of the key.
        bytes: usize,
    },
    /// A key of a range cannot be a boundary of a region.
    #[error(
        "rule {0} has a key that is not memcomparable-encoded, as boundaries are with api-version 2: encode it"
    )]
    Boundary(String),
    /// A constraint contradicts itself.
    #[error("a constraint of rule {rule} on label {label:?} {problem}")]
    Constraint {
        /// The rule.
        rule: String,
        /// The label.
        label: String,
        /// What is wrong, and what to do.
        problem: &'static str,
    },
    /// Location labels that make no sense.
    #[error(
        "the location labels of rule {0} are more than {LOCATION_LABELS_MAX}, repeated, empty or too long: name each level once, widest first"
    )]
    Location(String),
    /// Two groups of one index have rules for a key.
    #[error(
        "groups {one:?} and {other:?} both have index {index} and rules for key {key}: give the one that is to hold there a higher index"
    )]
    Overlap {
        /// A group.
        one: String,
        /// Another.
        other: String,
        /// Of both.
        index: u32,
        /// A key of both.
        key: String,
    },
    /// A region has one leader.
    #[error(
        "group {group:?} asks for {leaders} leaders at key {key}: a region has one, so keep one leader rule with count 1 there"
    )]
    Leaders {
        /// The group.
        group: String,
        /// How many.
        leaders: u32,
        /// Where.
        key: String,
    },
    /// Nobody may lead.
    #[error(
        "no rule of group {group:?} lets a peer lead at key {key}: add a voter or a leader rule for it"
    )]
    NoLeader {
        /// The group.
        group: String,
        /// Where.
        key: String,
    },
    /// Too many rules for one key.
    #[error(
        "group {group:?} has {rules} rules at key {key}, {RULES_AT_ONCE_MAX} are allowed: put those together that want the same"
    )]
    TooManyAtOnce {
        /// The group.
        group: String,
        /// How many.
        rules: usize,
        /// Where.
        key: String,
    },
    /// Too many peers for one region.
    #[error(
        "group {group:?} asks for {peers} peers at key {key}, a region has {PEERS_MAX} at the most: lower the counts"
    )]
    TooManyPeers {
        /// The group.
        group: String,
        /// How many.
        peers: u64,
        /// Where.
        key: String,
    },
}

impl RuleSet {
    /// Puts groups and rules into their order and looks whether they can be.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn checked(mut self, api_version: u32) -> Result<Self, RuleError> {
        self.groups.sort_by(|one, other| one.name.cmp(&other.name));
        for group in &mut self.groups {
            group.rules.sort_by(|one, other| one.id.cmp(&other.id));
        }
        let rules = self.groups.iter().map(|group| group.rules.len()).sum();
        if rules > RULES_MAX {
            return Err(RuleError::TooMany { rules });
        }
        let encoded = self.groups.iter().map(codec::group_to_wire);
        let bytes = encoded.map(|group| group.encoded_len()).sum();
        if bytes > BYTES_MAX {
            return Err(RuleError::TooLarge { bytes });
        }
        for group in &self.groups {
            check_group(group, api_version)?;
        }
        if let Some(pair) = self
            .groups
            .windows(2)
            .find(|pair| pair[0].name == pair[1].name)
        {
            return Err(RuleError::GroupTwice(pair[0].name.clone()));
        }
        for key in edges(&self) {
            self.check_at(&key)?;
        }
        Ok(self)
    }

    /// Looks at the rules of one key.
    fn check_at(&self, key: &Bytes) -> Result<(), RuleError> {
        let Some(group) = holding(self, key) else {
            return Ok(());
        };
        let shown = || key.escape_ascii().to_string();
        let rival = self.groups.iter().find(|other| {
            other.index == group.index
                && other.name != group.name
                && other.rules.iter().any(|rule| rule.covers(key))
        });
        if let Some(rival) = rival {
            return Err(RuleError::Overlap {
                one: rival.name.clone().min(group.name.clone()),
                other: rival.name.clone().max(group.name.clone()),
                index: group.index,
                key: shown(),
            });
        }
        let rules: Vec<_> = group.rules.iter().filter(|rule| rule.covers(key)).collect();
        let group = group.name.clone();
        let of = |role| {
            let asked = rules.iter().filter(|rule| rule.role == role);
            asked.map(|rule| u64::from(rule.count)).sum::<u64>()
        };
        let leaders = of(Role::Leader);
        let peers = Role::ALL.into_iter().map(of).sum();
        if leaders > 1 {
            let leaders = u32::try_from(leaders).unwrap_or(u32::MAX);
            let key = shown();
            Err(RuleError::Leaders {
                group,
                leaders,
                key,
            })
        } else if leaders + of(Role::Voter) == 0 {
            let key = shown();
            Err(RuleError::NoLeader { group, key })
        } else if rules.len() > RULES_AT_ONCE_MAX {
            let (rules, key) = (rules.len(), shown());
            Err(RuleError::TooManyAtOnce { group, rules, key })
        } else if peers > u64::from(PEERS_MAX) {
            let key = shown();
            Err(RuleError::TooManyPeers { group, peers, key })
        } else {
            Ok(())
        }
    }
}

fn check_group(group: &Group, api_version: u32) -> Result<(), RuleError> {
    if !named(&group.name) {
        return Err(RuleError::Name {
            what: format!("group {:?}", group.name),
            bytes: group.name.len(),
        });
    }
    if group.name == DEFAULT_GROUP {
        return Err(RuleError::Reserved);
    }
    if group.rules.is_empty() {
        return Err(RuleError::Empty(group.name.clone()));
    }
    let mut ids = BTreeSet::new();
    for rule in &group.rules {
        let name = format!("{}/{}", group.name, rule.id);
        if !ids.insert(&rule.id) {
            return Err(RuleError::RuleTwice(name));
        }
        check_rule(name, rule, api_version)?;
    }
    Ok(())
}

fn check_rule(name: String, rule: &Rule, api_version: u32) -> Result<(), RuleError> {
    if !named(&rule.id) {
        return Err(RuleError::Name {
            what: format!("rule {name}"),
            bytes: rule.id.len(),
        });
    }
    if rule.count == 0 {
        return Err(RuleError::NoCount(name));
    }
    if !rule.end.is_empty() && rule.end <= rule.start {
        return Err(RuleError::Range(name));
    }
    for key in [&rule.start, &rule.end] {
        if key.len() > KEY_BYTES_MAX {
            let bytes = key.len();
            return Err(RuleError::Key { rule: name, bytes });
        }
        if !key.is_empty() && !keyspace::valid_boundary(api_version, key) {
            return Err(RuleError::Boundary(name));
        }
    }
    let problem = |label: &str, problem| {
        Err(RuleError::Constraint {
            rule: name.clone(),
            label: label.to_owned(),
            problem,
        })
    };
    if rule.constraints.len() > CONSTRAINTS_MAX {
        return problem("", "is one too many: 64 are allowed");
    }
    for constraint in &rule.constraints {
        let label = &constraint.label;
        if !named(label) {
            return problem(label, "names no label: give it one of 1 to 128 bytes");
        }
        match &constraint.test {
            Test::In(values) | Test::NotIn(values) => {
                if values.is_empty() || values.len() > CONSTRAINTS_MAX {
                    return problem(label, "needs 1 to 64 values");
                }
                if !values.iter().all(|value| named(value)) {
                    return problem(label, "has a value that is empty or above 128 bytes");
                }
            }
            Test::Exists | Test::NotExists => {}
        }
    }
    let labels = &rule.location_labels;
    let different: BTreeSet<_> = labels.iter().collect();
    if labels.len() > LOCATION_LABELS_MAX
        || different.len() < labels.len()
        || !labels.iter().all(|label| named(label))
    {
        return Err(RuleError::Location(name));
    }
    Ok(())
}

fn named(name: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&name.len())
}
