//! `pontoon rule`.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use clap::{Args, Subcommand};
use proto::memcomparable;
use proto::pontoon::v1::{
    ListRulesResponse, PlacementConstraint, PlacementGroup, PlacementRule, PlannedRules,
    placement_constraint, placement_rule, plan_request::Question,
};
use serde::{Deserialize, Serialize};

use super::{Shown, Target, escape, plan, unescape};
use crate::{
    exit::{Failure, Kind, Result},
    output,
    remote::Remote,
};

/// Look at placement rules, which replicas ranges of keys have and where; replace them.
#[derive(Debug, Args)]
pub struct RuleArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The rules that hold; with --output json as a file for `apply`
    Show {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        shown: Shown,
    },
    /// Find out what other rules would bring; changes nothing
    Plan {
        /// All rules from then on, in TOML or JSON
        file: PathBuf,
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        shown: Shown,
    },
    /// Replace all rules at once, if those that the file was made from still hold
    Apply {
        /// All rules from then on, in TOML or JSON
        file: PathBuf,
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        shown: Shown,
    },
}

/// A file of rules.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
struct File {
    /// The version that it was made from.
    version: u64,
    #[serde(default, rename = "group", skip_serializing_if = "Vec::is_empty")]
    groups: Vec<Group>,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
struct Group {
    name: String,
    index: u32,
    #[serde(rename = "rule")]
    rules: Vec<Rule>,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    id: String,
    /// With api-version 2 which keys of the keyspace `DEFAULT` these are; start and end are then as clients know them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    keys: Option<Keys>,
    /// Without `keys` as `pontoon region list` prints boundaries; empty is the first one, or the end of all.
    #[serde(default)]
    start: String,
    #[serde(default)]
    end: String,
    role: Role,
    count: u32,
    #[serde(default, rename = "constraint", skip_serializing_if = "Vec::is_empty")]
    constraints: Vec<Constraint>,
    /// Those of the rule that every cluster has if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    location_labels: Option<Vec<String>>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Role {
    Leader,
    Voter,
    Follower,
    Learner,
}

/// The keys of a kind in the keyspace `DEFAULT`.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Keys {
    Raw,
    Txn,
}

/// One of `in`, `not_in` and `exists`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
struct Constraint {
    label: String,
    #[serde(default, rename = "in", skip_serializing_if = "Option::is_none")]
    one_of: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    not_in: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    exists: Option<bool>,
}

/// Runs the command.
///
/// # Errors
/// The cluster is not there or refuses, or the file is none.
pub async fn run(args: RuleArgs) -> Result<()> {
    match args.command {
        Command::Show { target, shown } => {
            let remote = target.remote();
            let rules = remote.rules().await?;
            let default = rules.default.clone().unwrap_or_default();
            let file = File::from_wire(rules, remote.status().await?.api_version);
            output::print(shown.output, &file, |file| table(file, default))?;
        }
        Command::Plan {
            file,
            target,
            shown,
        } => {
            let remote = target.remote();
            let (read, groups) = read(&file, &remote).await?;
            let rules = Question::Rules(PlannedRules { read, groups });
            plan::show(remote.plan(rules).await?, &shown)?;
        }
        Command::Apply {
            file,
            target,
            shown,
        } => {
            let remote = target.remote();
            let (read, groups) = read(&file, &remote).await?;
            let version = remote.replace_rules(read, groups).await?;
            output::taken(shown.output, format!("rules are at version {version}"))?;
        }
    }
    Ok(())
}

/// The version that a file was made from, and its groups.
async fn read(file: &Path, remote: &Remote) -> Result<(u64, Vec<PlacementGroup>)> {
    let file = File::read(file)?;
    let api_version = remote.status().await?.api_version;
    file.to_wire(&remote.rules().await?, api_version)
}

impl File {
    fn read(path: &Path) -> Result<Self> {
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
    fn parse(text: &str) -> std::result::Result<Self, String> {
        if text.trim_start().starts_with('{') {
            serde_json::from_str(text).map_err(|error| error.to_string())
        } else {
            toml::from_str(text).map_err(|error| error.to_string())
        }
    }

    /// The version that it was made from, and the groups.
    fn to_wire(
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

    fn from_wire(rules: ListRulesResponse, api_version: u32) -> Self {
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
    fn name(self) -> &'static str {
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
    fn decode(start: &[u8], end: &[u8]) -> Option<(Self, Bytes, Bytes)> {
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

    fn from_wire(rule: PlacementRule, api_version: u32) -> Self {
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

    fn show(&self) -> String {
        let label = &self.label;
        match (&self.one_of, &self.not_in, self.exists) {
            (Some(values), _, _) => format!("{label} in {}", values.join("|")),
            (_, Some(values), _) => format!("{label} not in {}", values.join("|")),
            (_, _, Some(true)) => format!("has {label}"),
            _ => format!("has no {label}"),
        }
    }
}

fn table(file: &File, default: PlacementRule) -> String {
    let row = |group: &str, index: String, rule: &Rule| {
        let constraints: Vec<_> = rule.constraints.iter().map(Constraint::show).collect();
        let role = match rule.role {
            Role::Leader => "leader",
            Role::Voter => "voter",
            Role::Follower => "follower",
            Role::Learner => "learner",
        };
        [
            format!("{group}/{}", rule.id),
            index,
            boundary(rule.keys, &rule.start, "-inf"),
            boundary(rule.keys, &rule.end, "+inf"),
            format!("{} {role}", rule.count),
            constraints.join(", "),
            rule.location_labels.clone().unwrap_or_default().join(","),
        ]
    };
    let mut rows = Vec::new();
    for group in &file.groups {
        for rule in &group.rules {
            rows.push(row(&group.name, group.index.to_string(), rule));
        }
    }
    // Where no other rule holds.
    rows.push(row("default", "-".into(), &Rule::from_wire(default, 1)));
    let header = [
        "RULE", "INDEX", "START", "END", "PEERS", "STORES", "APART BY",
    ];
    format!("version {}\n{}", file.version, output::rows(header, rows))
}

/// A boundary as it is in a file.
fn boundary(keys: Option<Keys>, key: &str, infinite: &str) -> String {
    let key = if key.is_empty() { infinite } else { key };
    match keys {
        Some(keys) => format!("{} {key}", keys.name()),
        None => key.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
        version = 3
        [[group]]
        name = "pins"
        index = 1
        [[group.rule]]
        id = "ssd"
        start = "b\\x00"
        end = "d"
        role = "voter"
        count = 3
        [[group.rule.constraint]]
        label = "disk"
        in = ["ssd", "nvme"]
        [[group.rule.constraint]]
        label = "old"
        exists = false
    "#;

    fn known() -> ListRulesResponse {
        ListRulesResponse {
            default: Some(PlacementRule {
                location_labels: vec!["zone".into()],
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    /// What is shown can be applied again, and means the same.
    #[test]
    fn a_file_is_read_and_shown() {
        let file = File::parse(TEXT).expect("it is one");
        let (version, groups) = file.to_wire(&known(), 1).expect("it is whole");
        assert_eq!(version, 3);
        let rule = &groups[0].rules[0];
        assert_eq!(rule.start_key, &b"b\0"[..]);
        assert_eq!(rule.location_labels, ["zone"]);
        let rules = ListRulesResponse {
            version,
            groups: groups.clone(),
            ..known()
        };
        let shown = File::from_wire(rules, 1);
        let json = serde_json::to_string(&shown).expect("it is plain data");
        let again = File::parse(&json).expect("JSON is taken as well");
        let again = again.to_wire(&known(), 1).expect("it is whole");
        assert_eq!(again, (3, groups));
        let table = table(&shown, PlacementRule::default());
        assert!(table.contains("disk in ssd|nvme, has no old"), "{table}");
    }

    #[test]
    fn files_are_strict() {
        assert!(File::parse(&TEXT.replace("index", "indx")).is_err());
        assert!(File::parse(&TEXT.replace("version = 3", "")).is_err());
        assert!(File::parse(&TEXT.replace("\"voter\"", "\"witness\"")).is_err());
        let both = TEXT.replace("exists = false", "exists = false\nnot_in = [\"a\"]");
        let file = File::parse(&both).expect("each is known");
        assert_eq!(file.to_wire(&known(), 1).unwrap_err().kind(), Kind::Usage);
    }

    /// Ranges of a keyspace are written as clients know their keys, and shown so.
    #[test]
    fn a_keyspace_has_raw_and_transactional_keys() {
        let range = |keys: &str, start: &str, end: &str| {
            let file = TEXT.replace("start = \"b\\\\x00\"", &format!("keys = \"{keys}\""));
            let file = file.replace(
                "end = \"d\"",
                &format!("start = \"{start}\"\nend = \"{end}\""),
            );
            let file = File::parse(&file).expect("it is one");
            let refused = file
                .to_wire(&known(), 1)
                .expect_err("version 1 has no keyspaces");
            assert_eq!(refused.kind(), Kind::Usage);
            let (version, groups) = file.to_wire(&known(), 2).expect("it is whole");
            let rules = ListRulesResponse {
                version,
                groups: groups.clone(),
                ..known()
            };
            let shown = File::from_wire(rules, 2);
            let rule = &shown.groups[0].rules[0];
            let written = (rule.start.as_str(), rule.end.as_str());
            assert_eq!(written, (start, end), "it is shown as it was written");
            let table = table(&shown, PlacementRule::default());
            assert!(table.contains(&format!("{keys} {start}")), "{table}");
            let again = shown.to_wire(&known(), 2).expect("it is whole");
            assert_eq!(again, (version, groups.clone()));
            let rule = &groups[0].rules[0];
            let plain = |key: &Bytes| memcomparable::decode(key).expect("it is encoded");
            (plain(&rule.start_key), plain(&rule.end_key))
        };
        let of = |start: &'static [u8], end: &'static [u8]| (start.into(), end.into());
        assert_eq!(range("raw", "a", "b"), of(b"r\0\0\0a", b"r\0\0\0b"));
        assert_eq!(range("txn", "a", ""), of(b"x\0\0\0a", b"x\0\0\x01"));
        assert_eq!(range("raw", "", ""), of(b"r\0\0\0", b"r\0\0\x01"));
        // What is in no keyspace, or in both kinds, stays as boundaries are.
        let edge = |plain: &[u8]| memcomparable::encode(plain);
        for (start, end) in [
            ("r", "s"),
            ("r\0\0\0a", "x\0\0\0a"),
            ("r\0\0\0a", "r\0\0\x01a"),
        ] {
            assert_eq!(
                Keys::decode(&edge(start.as_bytes()), &edge(end.as_bytes())),
                None
            );
        }
        assert_eq!(
            Keys::decode(&edge(b"r\0\0\0a"), b""),
            None,
            "the end of all keys"
        );
    }
}
