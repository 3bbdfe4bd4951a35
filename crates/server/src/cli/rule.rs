//! `pontoon rule`.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use proto::pontoon::v1::{PlacementGroup, PlacementRule, PlannedRules, plan_request::Question};

use self::file::{Constraint, File, Keys, Role, Rule};
use super::{Shown, Target, plan};
use crate::{exit::Result, output, remote::Remote};

mod file;

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
    use bytes::Bytes;
    use proto::memcomparable;
    use proto::pontoon::v1::ListRulesResponse;

    use super::*;
    use crate::exit::Kind;

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
