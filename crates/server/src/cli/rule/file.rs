//! Rules in a file, as people write them and as `pontoon rule show` prints them.

use std::path::Path;

use bytes::Bytes;
use proto::memcomparable;
use proto::pontoon::v1::{
    ListRulesResponse, PlacementConstraint, PlacementGroup, PlacementRule, placement_constraint,
    placement_rule,
};
use serde::{Deserialize, Serialize};

use crate::cli::{escape, unescape};
use crate::exit::{Failure, Kind, Result};

/// A file of rules.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    /// The version that it was made from.
    pub(super) version: u64,
    #[serde(default, rename = "group", skip_serializing_if = "Vec::is_empty")]
    pub(super) groups: Vec<Group>,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Group {
    pub(super) name: String,
    pub(super) index: u32,
    #[serde(rename = "rule")]
    pub(super) rules: Vec<Rule>,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Rule {
    pub(super) id: String,
    /// With api-version 2 which keys of the keyspace `DEFAULT` these are; start and end are then as clients know them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) keys: Option<Keys>,
    /// Without `keys` as `pontoon region list` prints boundaries; empty is the first one, or the end of all.
    #[serde(default)]
    pub(super) start: String,
    #[serde(default)]
    pub(super) end: String,
    pub(super) role: Role,
    pub(super) count: u32,
    #[serde(default, rename = "constraint", skip_serializing_if = "Vec::is_empty")]
    pub(super) constraints: Vec<Constraint>,
    /// Those of the rule that every cluster has if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) location_labels: Option<Vec<String>>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Role {
    Leader,
    Voter,
    Follower,
    Learner,
}

/// The keys of a kind in the keyspace `DEFAULT`.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Keys {
    Raw,
    Txn,
}

/// One of `in`, `not_in` and `exists`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Constraint {
    pub(super) label: String,
    #[serde(default, rename = "in", skip_serializing_if = "Option::is_none")]
    pub(super) one_of: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) not_in: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) exists: Option<bool>,
}

impl File {
    pub(super) fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            Failure::environment(format!("{} cannot be read", path.display()), error)
        })?;
        Self::parse(&text).map_err(|why| {
            Failure::new(Kind::Usage, format!("{} has no rules", path.display()))
                .because(why)
                .hint("`pontoon rule show --output json` prints such a file")
        })
    }

    /// JSON begins with a brace, which no TOML does.
    pub(super) fn parse(text: &str) -> std::result::Result<Self, String> {
        if text.trim_start().starts_with('{') {
            serde_json::from_str(text).map_err(|error| error.to_string())
        } else {
            toml::from_str(text).map_err(|error| error.to_string())
        }
    }

    /// The version that it was made from, and the groups.
    pub(super) fn to_wire(
        &self,
        known: &ListRulesResponse,
        api_version: u32,
    ) -> Result<(u64, Vec<PlacementGroup>)> {
        let default = known.default.as_ref();
        let locations = default.map_or(&[][..], |default| &default.location_labels);
        let mut groups = Vec::new();
        for group in &self.groups {
            let rules = group.rules.iter();
            let rules = rules.map(|rule| rule.to_wire(locations, api_version));
            groups.push(PlacementGroup {
                name: group.name.clone(),
                index: group.index,
                rules: rules.collect::<Result<_>>()?,
            });
        }
        Ok((self.version, groups))
    }

    pub(super) fn from_wire(rules: ListRulesResponse, api_version: u32) -> Self {
        let rule = |rule| Rule::from_wire(rule, api_version);
        let group = |group: PlacementGroup| Group {
            name: group.name,
            index: group.index,
            rules: group.rules.into_iter().map(rule).collect(),
        };
        Self {
            version: rules.version,
            groups: rules.groups.into_iter().map(group).collect(),
        }
    }
}

impl Keys {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Txn => "txn",
        }
    }

    fn mode(self) -> u8 {
        match self {
            Self::Raw => b'r',
            Self::Txn => b'x',
        }
    }

    /// The boundaries of a range of them; an empty end is the end of all of the kind.
    fn encode(self, start: &[u8], end: &[u8]) -> (Bytes, Bytes) {
        let edge = |keyspace: u8, key: &[u8]| {
            memcomparable::encode(&[&[self.mode(), 0, 0, keyspace], key].concat())
        };
        let past = u8::from(end.is_empty());
        (edge(0, start), edge(past, end))
    }

    /// The range that boundaries are of, if it is one of a kind.
    pub(super) fn decode(start: &[u8], end: &[u8]) -> Option<(Self, Bytes, Bytes)> {
        let (start, end) = (
            memcomparable::decode(start).ok()?,
            memcomparable::decode(end).ok()?,
        );
        [Self::Raw, Self::Txn].into_iter().find_map(|keys| {
            let inside = [keys.mode(), 0, 0, 0];
            let from = start.strip_prefix(&inside)?;
            let to = match end.strip_prefix(&inside) {
                Some(to) => to,
                None if end[..] == [keys.mode(), 0, 0, 1] => &[],
                None => return None,
            };
            Some((keys, start.slice_ref(from), Bytes::copy_from_slice(to)))
        })
    }
}

impl Rule {
    /// Its range as boundaries of regions.
    fn range(&self, api_version: u32) -> Result<(Bytes, Bytes)> {
        let (start, end) = (unescape(&self.start)?, unescape(&self.end)?);
        match self.keys {
            None => Ok((start.into(), end.into())),
            Some(keys) if api_version == 2 => Ok(keys.encode(&start, &end)),
            Some(keys) => {
                let what = format!(
                    "rule {} is for {} keys of a keyspace, which a cluster of api-version {api_version} has not",
                    self.id,
                    keys.name()
                );
                Err(Failure::new(Kind::Usage, what).hint("leave `keys` out"))
            }
        }
    }

    fn to_wire(&self, locations: &[String], api_version: u32) -> Result<PlacementRule> {
        let constraints = self.constraints.iter().map(|constraint| {
            constraint.to_wire().ok_or_else(|| {
                let what = format!(
                    "the constraint of rule {} on label {} asks for nothing or for several things",
                    self.id, constraint.label
                );
                Failure::new(Kind::Usage, what).hint("give it one of in, not_in and exists")
            })
        });
        let role = match self.role {
            Role::Leader => placement_rule::Role::Leader,
            Role::Voter => placement_rule::Role::Voter,
            Role::Follower => placement_rule::Role::Follower,
            Role::Learner => placement_rule::Role::Learner,
        };
        let labels = self.location_labels.as_deref().unwrap_or(locations);
        let (start_key, end_key) = self.range(api_version)?;
        Ok(PlacementRule {
            id: self.id.clone(),
            start_key,
            end_key,
            role: role.into(),
            count: self.count,
            constraints: constraints.collect::<Result<_>>()?,
            location_labels: labels.to_vec(),
        })
    }

    pub(super) fn from_wire(rule: PlacementRule, api_version: u32) -> Self {
        let role = match rule.role() {
            placement_rule::Role::Leader => Role::Leader,
            placement_rule::Role::Follower => Role::Follower,
            placement_rule::Role::Learner => Role::Learner,
            placement_rule::Role::Voter | placement_rule::Role::Unknown => Role::Voter,
        };
        let known = Keys::decode(&rule.start_key, &rule.end_key).filter(|_| api_version == 2);
        let (keys, start, end) = match known {
            Some((keys, start, end)) => (Some(keys), start, end),
            None => (None, rule.start_key, rule.end_key),
        };
        Self {
            id: rule.id,
            keys,
            start: escape(&start),
            end: escape(&end),
            role,
            count: rule.count,
            constraints: rule
                .constraints
                .into_iter()
                .map(Constraint::from_wire)
                .collect(),
            location_labels: Some(rule.location_labels),
        }
    }
}

impl Constraint {
    fn to_wire(&self) -> Option<PlacementConstraint> {
        use placement_constraint::Test;
        let (test, values) = match (&self.one_of, &self.not_in, self.exists) {
            (Some(values), None, None) => (Test::In, values.clone()),
            (None, Some(values), None) => (Test::NotIn, values.clone()),
            (None, None, Some(true)) => (Test::Exists, Vec::new()),
            (None, None, Some(false)) => (Test::NotExists, Vec::new()),
            _ => return None,
        };
        Some(PlacementConstraint {
            label: self.label.clone(),
            test: test.into(),
            values,
        })
    }

    fn from_wire(constraint: PlacementConstraint) -> Self {
        use placement_constraint::Test;
        let test = constraint.test();
        let mut read = Self {
            label: constraint.label,
            ..Self::default()
        };
        match test {
            Test::In => read.one_of = Some(constraint.values),
            Test::NotIn => read.not_in = Some(constraint.values),
            Test::Exists => read.exists = Some(true),
            Test::NotExists => read.exists = Some(false),
            Test::Unknown => {}
        }
        read
    }

    pub(super) fn show(&self) -> String {
        let label = &self.label;
        match (&self.one_of, &self.not_in, self.exists) {
            (Some(values), _, _) => format!("{label} in {}", values.join("|")),
            (_, Some(values), _) => format!("{label} not in {}", values.join("|")),
            (_, _, Some(true)) => format!("has {label}"),
            _ => format!("has no {label}"),
        }
    }
}
