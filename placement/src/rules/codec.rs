//! Rules as they are written down and sent.

use proto::pontoon::v1 as wire;

use super::{Constraint, Group, Role, Rule, Test};

/// To the wire.
pub fn group_to_wire(group: &Group) -> wire::PlacementGroup {
    wire::PlacementGroup {
        name: group.name.clone(),
        index: group.index,
        rules: group.rules.iter().map(rule_to_wire).collect(),
    }
}

/// From the wire. What it says is checked with the rule set that it is part of.
///
/// # Errors
/// What it says is nothing that this version knows.
pub fn group_from_wire(group: wire::PlacementGroup) -> Result<Group, &'static str> {
    let rules = group.rules.into_iter().map(rule_from_wire);
    Ok(Group {
        name: group.name,
        index: group.index,
        rules: rules.collect::<Result<_, _>>()?,
    })
}

fn rule_to_wire(rule: &Rule) -> wire::PlacementRule {
    use wire::placement_rule::Role as Told;
    let role = match rule.role {
        Role::Leader => Told::Leader,
        Role::Voter => Told::Voter,
        Role::Follower => Told::Follower,
        Role::Learner => Told::Learner,
    };
    wire::PlacementRule {
        id: rule.id.clone(),
        start_key: rule.start.clone(),
        end_key: rule.end.clone(),
        role: role.into(),
        count: rule.count,
        constraints: rule.constraints.iter().map(constraint_to_wire).collect(),
        location_labels: rule.location_labels.clone(),
    }
}

fn rule_from_wire(rule: wire::PlacementRule) -> Result<Rule, &'static str> {
    use wire::placement_rule::Role as Told;
    let role = match Told::try_from(rule.role).map_err(|_| "a rule has an unknown role")? {
        Told::Unknown => return Err("a rule has no role"),
        Told::Leader => Role::Leader,
        Told::Voter => Role::Voter,
        Told::Follower => Role::Follower,
        Told::Learner => Role::Learner,
    };
    let constraints = rule.constraints.into_iter().map(constraint_from_wire);
    Ok(Rule {
        id: rule.id,
        start: rule.start_key,
        end: rule.end_key,
        role,
        count: rule.count,
        constraints: constraints.collect::<Result<_, _>>()?,
        location_labels: rule.location_labels,
    })
}

fn constraint_to_wire(constraint: &Constraint) -> wire::PlacementConstraint {
    use wire::placement_constraint::Test as Told;
    let (test, values) = match &constraint.test {
        Test::In(values) => (Told::In, values.clone()),
        Test::NotIn(values) => (Told::NotIn, values.clone()),
        Test::Exists => (Told::Exists, Vec::new()),
        Test::NotExists => (Told::NotExists, Vec::new()),
    };
    wire::PlacementConstraint {
        label: constraint.label.clone(),
        test: test.into(),
        values,
    }
}

fn constraint_from_wire(constraint: wire::PlacementConstraint) -> Result<Constraint, &'static str> {
    use wire::placement_constraint::Test as Told;
    let told = Told::try_from(constraint.test).map_err(|_| "a constraint has an unknown test")?;
    let values = constraint.values;
    if matches!(told, Told::Exists | Told::NotExists) && !values.is_empty() {
        return Err("a constraint that asks whether a label is there has values: take them away");
    }
    let test = match told {
        Told::Unknown => return Err("a constraint has no test"),
        Told::In => Test::In(values),
        Told::NotIn => Test::NotIn(values),
        Told::Exists => Test::Exists,
        Told::NotExists => Test::NotExists,
    };
    Ok(Constraint {
        label: constraint.label,
        test,
    })
}
