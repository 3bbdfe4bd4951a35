use proptest::prelude::*;

use super::check::{BYTES_MAX, PEERS_MAX, RULES_AT_ONCE_MAX, RULES_MAX};
use super::*;

fn rule(id: &str, range: (&str, &str), role: Role, count: u32) -> Rule {
    Rule {
        id: id.into(),
        start: Bytes::copy_from_slice(range.0.as_bytes()),
        end: Bytes::copy_from_slice(range.1.as_bytes()),
        role,
        count,
        constraints: Vec::new(),
        location_labels: vec!["zone".into()],
    }
}

fn group(name: &str, index: u32, rules: Vec<Rule>) -> Group {
    Group {
        name: name.into(),
        index,
        rules,
    }
}

fn voters(name: &str, index: u32, range: (&str, &str)) -> Group {
    group(name, index, vec![rule("all", range, Role::Voter, 3)])
}

fn set(groups: Vec<Group>) -> RuleSet {
    RuleSet { version: 1, groups }
}

fn refused(groups: Vec<Group>) -> RuleError {
    set(groups).checked(1).expect_err("it is not allowed")
}

fn layout(groups: Vec<Group>) -> Layout {
    let set = set(groups).checked(1).expect("it is allowed");
    Layout::new(&set, 3, &["zone".into()])
}

fn names(layout: &Layout, key: &str) -> Vec<String> {
    let rules = layout.at(key.as_bytes()).iter();
    rules.map(|rule| layout.rules()[*rule].name()).collect()
}

#[test]
fn the_group_with_the_highest_index_holds() {
    let layout = layout(vec![
        voters("pins", 1, ("b", "f")),
        voters("exceptions", 2, ("c", "d")),
    ]);
    assert_eq!(names(&layout, "a"), ["default/default"]);
    assert_eq!(names(&layout, "b"), ["pins/all"]);
    assert_eq!(names(&layout, "c"), ["exceptions/all"]);
    assert_eq!(names(&layout, "cz"), ["exceptions/all"]);
    assert_eq!(names(&layout, "d"), ["pins/all"]);
    assert_eq!(names(&layout, "f"), ["default/default"]);
    assert_eq!(
        layout.edges_inside(b"", b""),
        ["b", "c", "d", "f"].map(Bytes::from)
    );
    assert_eq!(layout.edges_inside(b"b", b"d"), ["c"].map(Bytes::from));
    assert!(layout.edges_inside(b"f", b"").is_empty());
}

#[test]
fn rules_of_a_group_add_up() {
    let layout = layout(vec![group(
        "pins",
        1,
        vec![
            rule("copies", ("b", "d"), Role::Learner, 2),
            rule("votes", ("", ""), Role::Voter, 3),
        ],
    )]);
    assert_eq!(names(&layout, "a"), ["pins/votes"]);
    assert_eq!(layout.counts(b"a"), (3, 0));
    assert_eq!(names(&layout, "b"), ["pins/votes", "pins/copies"]);
    assert_eq!(layout.counts(b"b"), (3, 2));
}

/// Ranges that touch and want the same are no edge.
#[test]
fn edges_are_where_rules_change() {
    let two = group(
        "pins",
        1,
        vec![
            rule("one", ("b", "f"), Role::Voter, 3),
            rule("copies", ("c", "c1"), Role::Learner, 1),
        ],
    );
    let below = voters("below", 0, ("d", "e"));
    let layout = layout(vec![two, below]);
    assert_eq!(
        layout.edges_inside(b"", b""),
        ["b", "c", "c1", "f"].map(Bytes::from)
    );
}

#[test]
fn constraints_admit_stores() {
    let labels = [("zone", "z1"), ("empty", "")].map(|(key, value)| metapb::StoreLabel {
        key: key.into(),
        value: value.into(),
    });
    let admits = |label: &str, test| {
        let constraint = Constraint {
            label: label.into(),
            test,
        };
        constraint.admits(&labels)
    };
    let values = |values: &[&str]| values.iter().copied().map(String::from).collect();
    assert!(admits("zone", Test::In(values(&["z1", "z2"]))));
    assert!(!admits("zone", Test::In(values(&["z2"]))));
    assert!(!admits("disk", Test::In(values(&["ssd"]))));
    assert!(!admits("zone", Test::NotIn(values(&["z1"]))));
    assert!(admits("zone", Test::NotIn(values(&["z2"]))));
    assert!(admits("disk", Test::NotIn(values(&["ssd"]))));
    assert!(admits("zone", Test::Exists) && !admits("zone", Test::NotExists));
    assert!(admits("disk", Test::NotExists) && !admits("disk", Test::Exists));
    assert!(
        admits("empty", Test::NotExists),
        "no value is as good as no label"
    );
}

/// Every refusal by what it is, and that it says what to do.
#[test]
fn what_cannot_be_is_refused() {
    let keys = ("b", "d");
    let with = |change: &dyn Fn(&mut Rule)| {
        let mut changed = rule("one", keys, Role::Voter, 3);
        change(&mut changed);
        refused(vec![group("g", 1, vec![changed])])
    };
    let name = || "g/one".to_owned();
    let key = || "b".to_owned();
    assert_eq!(with(&|rule| rule.count = 0), RuleError::NoCount(name()));
    assert_eq!(
        with(&|rule| rule.end = rule.start.clone()),
        RuleError::Range(name())
    );
    assert_eq!(
        with(&|rule| rule.end = vec![b'z'; 20 << 10].into()),
        RuleError::Key {
            rule: name(),
            bytes: 20 << 10
        }
    );
    assert_eq!(
        with(&|rule| rule.location_labels = vec!["zone".into(), "zone".into()]),
        RuleError::Location(name())
    );
    assert!(matches!(
        with(&|rule| rule.id = String::new()),
        RuleError::Name { bytes: 0, .. }
    ));
    for (label, test) in [
        ("", Test::Exists),
        ("zone", Test::In(Vec::new())),
        ("zone", Test::NotIn(vec![String::new()])),
    ] {
        let constraint = Constraint {
            label: label.into(),
            test,
        };
        assert!(matches!(
            with(&|rule| rule.constraints = vec![constraint.clone()]),
            RuleError::Constraint { .. }
        ));
    }
    let leaders = |count| rule("one", keys, Role::Leader, count);
    assert_eq!(
        refused(vec![group("g", 1, vec![leaders(2)])]),
        RuleError::Leaders {
            group: "g".into(),
            leaders: 2,
            key: key()
        }
    );
    // Two that overlap in part.
    let mut other = rule("two", ("c", "e"), Role::Leader, 1);
    assert_eq!(
        refused(vec![group("g", 1, vec![leaders(1), other.clone()])]),
        RuleError::Leaders {
            group: "g".into(),
            leaders: 2,
            key: "c".into()
        }
    );
    other.start = Bytes::from("d");
    assert!(
        set(vec![group("g", 1, vec![leaders(1), other])])
            .checked(1)
            .is_ok(),
        "they touch"
    );
    assert_eq!(
        refused(vec![group(
            "g",
            1,
            vec![rule("one", keys, Role::Follower, 3)]
        )]),
        RuleError::NoLeader {
            group: "g".into(),
            key: key()
        }
    );
    assert_eq!(
        refused(vec![voters("a", 1, ("", "c")), voters("b", 1, ("b", ""))]),
        RuleError::Overlap {
            one: "a".into(),
            other: "b".into(),
            index: 1,
            key: key()
        }
    );
    assert!(
        set(vec![voters("a", 1, ("", "c")), voters("b", 1, ("c", ""))])
            .checked(1)
            .is_ok()
    );
    assert_eq!(
        refused(vec![voters("a", 1, ("", "c")), voters("a", 2, ("d", ""))]),
        RuleError::GroupTwice("a".into())
    );
    let twice = rule("one", keys, Role::Voter, 1);
    assert_eq!(
        refused(vec![group("g", 1, vec![twice.clone(), twice])]),
        RuleError::RuleTwice(name())
    );
    assert_eq!(
        refused(vec![group("g", 1, Vec::new())]),
        RuleError::Empty("g".into())
    );
    assert_eq!(
        refused(vec![voters("default", 1, ("", ""))]),
        RuleError::Reserved
    );
    assert!(matches!(
        refused(vec![voters("", 1, ("", ""))]),
        RuleError::Name { bytes: 0, .. }
    ));
}

#[test]
fn rule_sets_are_bounded() {
    let many = |count: usize, start: &dyn Fn(usize) -> String| {
        let one = |at: usize| {
            let (start, end) = (start(at), start(at + 1));
            rule(&format!("{at:04}"), (&start, &end), Role::Voter, 3)
        };
        vec![group("g", 1, (0..count).map(one).collect())]
    };
    let short = |at: usize| format!("{at:04}");
    assert!(set(many(RULES_MAX, &short)).checked(1).is_ok());
    assert_eq!(
        refused(many(RULES_MAX + 1, &short)),
        RuleError::TooMany {
            rules: RULES_MAX + 1
        }
    );
    let long = |at: usize| format!("{at:0>10000}");
    assert!(matches!(
        refused(many(RULES_MAX, &long)),
        RuleError::TooLarge { bytes } if bytes > BYTES_MAX
    ));
    assert!(matches!(
        refused(vec![group(
            "g",
            1,
            vec![rule("one", ("", ""), Role::Voter, PEERS_MAX + 1)]
        )]),
        RuleError::TooManyPeers { peers: 10, .. }
    ));
    let ones = |count: usize| {
        let one = |at| rule(&format!("{at}"), ("", ""), Role::Voter, 1);
        vec![group("g", 1, (0..count).map(one).collect())]
    };
    assert!(set(ones(RULES_AT_ONCE_MAX)).checked(1).is_ok());
    assert!(matches!(
        refused(ones(RULES_AT_ONCE_MAX + 1)),
        RuleError::TooManyAtOnce { rules: 6, .. }
    ));
}

/// Clients of api-version 2 decode boundaries of regions, and edges of rules become boundaries.
#[test]
fn edges_are_encoded_with_api_version_2() {
    let groups = vec![voters("g", 1, ("b", ""))];
    assert_eq!(
        set(groups.clone()).checked(2),
        Err(RuleError::Boundary("g/all".into()))
    );
    let mut encoded = groups;
    encoded[0].rules[0].start = proto::memcomparable::encode(b"b");
    assert!(set(encoded).checked(2).is_ok());
}

/// A group: ranges, roles and counts of its rules, and its index.
type GroupShape = (Vec<((u8, u8), Role, u32)>, u32);

fn any_groups() -> impl Strategy<Value = Vec<Group>> {
    let range = (0u8..8, 0u8..8);
    let role = prop::sample::select(Role::ALL.to_vec());
    let one = (range, role, 1u32..3);
    let rules = prop::collection::vec(one, 1..4);
    prop::collection::vec((rules, 0u32..3), 0..4).prop_map(|groups| {
        let group = |(at, (rules, index)): (usize, GroupShape)| Group {
            name: format!("g{at}"),
            index,
            rules: rules
                .into_iter()
                .enumerate()
                .map(|(at, ((start, length), role, count))| {
                    let key = |at: u8| if at == 0 { "".into() } else { format!("{at}") };
                    let end = start + length;
                    let end = if end > 7 { 0 } else { end };
                    rule(&format!("r{at}"), (&key(start), &key(end)), role, count)
                })
                .collect(),
        };
        groups.into_iter().enumerate().map(group).collect()
    })
}

proptest! {
    /// A layout against the rules as they are written down, for every key; and what is put is read back.
    #[test]
    fn a_layout_says_what_its_rules_say(groups in any_groups()) {
        let Ok(set) = set(groups).checked(1) else {
            return Ok(());
        };
        let layout = Layout::new(&set, 3, &[]);
        let mut edges = Vec::new();
        let mut before = None;
        for key in 0..9u8 {
            let key = if key == 0 { String::new() } else { format!("{key}") };
            let covers = |rule: &Rule| rule.start <= key && (rule.end.is_empty() || key.as_bytes() < &rule.end[..]);
            let holds = set.groups.iter().filter(|group| group.rules.iter().any(covers)).max_by_key(|group| group.index);
            let mut expected: Vec<_> = match holds {
                None => vec!["default/default".to_owned()],
                Some(group) => group.rules.iter().filter(|rule| covers(rule)).map(|rule| format!("{}/{}", group.name, rule.id)).collect(),
            };
            let mut found = names(&layout, &key);
            found.sort();
            expected.sort();
            prop_assert_eq!(&found, &expected, "key {:?}", &key);
            if before.as_ref().is_some_and(|before| *before != expected) {
                edges.push(Bytes::from(key));
            }
            before = Some(expected);
        }
        prop_assert_eq!(layout.edges_inside(b"", b""), edges);
        for group in &set.groups {
            prop_assert_eq!(group_from_wire(group_to_wire(group)), Ok(group.clone()));
        }
    }
}
