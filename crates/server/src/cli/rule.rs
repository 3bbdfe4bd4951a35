//! `pontoon rule`.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use proto::pontoon::v1::{
    ListRulesResponse, PlacementConstraint, PlacementGroup, PlacementRule, PlannedRules,
    placement_constraint, placement_rule, plan_request::Question,
};
use serde::{Deserialize, Serialize};

use super::{Shown, Target, escape, key, plan, unescape};
use crate::{
    exit::{Failure, Kind, Result},
    output,
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
    /// Keys as `pontoon region list` prints boundaries; empty is the first one, or the end of all.
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
            let rules = target.remote().rules().await?;
            let default = rules.default.clone().unwrap_or_default();
            let file = File::from(rules);
            output::print(shown.output, &file, |file| table(file, default));
        }
        Command::Plan {
            file,
            target,
            shown,
        } => {
            let remote = target.remote();
            let (read, groups) = File::read(&file)?.to_wire(&remote.rules().await?)?;
            let rules = Question::Rules(PlannedRules { read, groups });
            plan::show(remote.plan(rules).await?, &shown);
        }
        Command::Apply {
            file,
            target,
            shown,
        } => {
            let remote = target.remote();
            let (read, groups) = File::read(&file)?.to_wire(&remote.rules().await?)?;
            let version = remote.replace_rules(read, groups).await?;
            output::taken(shown.output, format!("rules are at version {version}"));
        }
    }
    Ok(())
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
    fn to_wire(&self, known: &ListRulesResponse) -> Result<(u64, Vec<PlacementGroup>)> {
        let default = known.default.as_ref();
        let locations = default.map_or(&[][..], |default| &default.location_labels);
        let mut groups = Vec::new();
        for group in &self.groups {
            let rules = group.rules.iter().map(|rule| rule.to_wire(locations));
            groups.push(PlacementGroup {
                name: group.name.clone(),
                index: group.index,
                rules: rules.collect::<Result<_>>()?,
            });
        }
        Ok((self.version, groups))
    }
}

impl Rule {
    fn to_wire(&self, locations: &[String]) -> Result<PlacementRule> {
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
        Ok(PlacementRule {
            id: self.id.clone(),
            start_key: unescape(&self.start)?.into(),
            end_key: unescape(&self.end)?.into(),
            role: role.into(),
            count: self.count,
            constraints: constraints.collect::<Result<_>>()?,
            location_labels: labels.to_vec(),
        })
    }

    fn from_wire(rule: PlacementRule) -> Self {
        let role = match rule.role() {
            placement_rule::Role::Leader => Role::Leader,
            placement_rule::Role::Follower => Role::Follower,
            placement_rule::Role::Learner => Role::Learner,
            placement_rule::Role::Voter | placement_rule::Role::Unknown => Role::Voter,
        };
        Self {
            id: rule.id,
            start: escape(&rule.start_key),
            end: escape(&rule.end_key),
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

impl From<ListRulesResponse> for File {
    fn from(rules: ListRulesResponse) -> Self {
        let group = |group: PlacementGroup| Group {
            name: group.name,
            index: group.index,
            rules: group.rules.into_iter().map(Rule::from_wire).collect(),
        };
        Self {
            version: rules.version,
            groups: rules.groups.into_iter().map(group).collect(),
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
            boundary(&rule.start, "-inf"),
            boundary(&rule.end, "+inf"),
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
    rows.push(row("default", "-".into(), &Rule::from_wire(default)));
    let header = [
        "RULE", "INDEX", "START", "END", "PEERS", "STORES", "APART BY",
    ];
    format!("version {}\n{}", file.version, output::rows(header, rows))
}

fn boundary(key: &str, infinite: &str) -> String {
    let key = key.as_bytes();
    if key.is_empty() {
        key::escape_boundary(key, infinite)
    } else {
        String::from_utf8_lossy(key).into_owned()
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
        let (version, groups) = file.to_wire(&known()).expect("it is whole");
        assert_eq!(version, 3);
        let rule = &groups[0].rules[0];
        assert_eq!(rule.start_key, &b"b\0"[..]);
        assert_eq!(rule.location_labels, ["zone"]);
        let shown = File::from(ListRulesResponse {
            version,
            groups: groups.clone(),
            ..known()
        });
        let json = serde_json::to_string(&shown).expect("it is plain data");
        let again = File::parse(&json).expect("JSON is taken as well");
        assert_eq!(again.to_wire(&known()).expect("it is whole"), (3, groups));
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
        assert_eq!(file.to_wire(&known()).unwrap_err().kind(), Kind::Usage);
    }
}
