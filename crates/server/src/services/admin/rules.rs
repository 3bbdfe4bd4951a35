//! Placement rules on their way in and out.

use placement::Refusal;
use placement::rules::{self, Group, Rule, RuleSet};
use proto::pontoon::v1::{ListRulesResponse, PlacementGroup};

/// Groups as a caller sends them.
///
/// # Errors
/// A refusal, when they say something that this version does not know.
pub(super) fn groups(groups: Vec<PlacementGroup>) -> Result<Vec<Group>, Refusal> {
    let groups = groups.into_iter().map(rules::group_from_wire);
    let groups: Result<_, _> = groups.collect();
    groups.map_err(|problem| Refusal::Invalid(problem.into()))
}

/// The rules that hold.
pub(super) fn listed(set: RuleSet, default: Rule) -> ListRulesResponse {
    let default = rules::group_to_wire(&Group {
        name: rules::DEFAULT_GROUP.into(),
        index: 0,
        rules: vec![default],
    });
    ListRulesResponse {
        error: None,
        version: set.version,
        groups: set.groups.iter().map(rules::group_to_wire).collect(),
        default: default.rules.into_iter().next(),
    }
}
