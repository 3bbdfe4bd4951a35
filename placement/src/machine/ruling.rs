//! Placement rules: which hold, and replacing them.

use super::Leader;
use crate::event::{Answer, Now, Refusal};
use crate::rules::{Group, Layout, Places, RuleSet};
use crate::state;

impl Leader {
    /// Replaces all rules at once, if those that were read still hold.
    pub(super) fn replace_rules(
        &mut self,
        read: u64,
        groups: Vec<Group>,
        now: Now,
    ) -> Result<Answer, Refusal> {
        self.bootstrapped()?;
        let rules = self
            .rules
            .replaced(read, groups, self.cluster.api_version)?;
        let count: usize = rules.groups.iter().map(|group| group.rules.len()).sum();
        let _ = self.outbox.stage(state::put_rules(&rules));
        let text = format!("rules are at version {}: {count} rules", rules.version);
        self.rules = rules;
        self.place();
        self.commanded(text, now);
        Ok(Answer::RulesVersion(self.rules.version))
    }

    /// The rules that hold.
    pub(super) fn rule_info(&self) -> Answer {
        Answer::Rules {
            set: self.rules.clone(),
            default: self.places.layout().rules()[0].rule.clone(),
        }
    }

    /// Looks at rules and labels, whenever one of them changes.
    pub(super) fn place(&mut self) {
        let locations = &self.settings.balance.location_labels;
        let layout = Layout::new(&self.rules, self.cluster.replicas, locations);
        self.places = Places::new(layout, self.stores.labels());
    }
}

impl RuleSet {
    /// What holds if these groups replace everything that was read at a version.
    fn replaced(&self, read: u64, groups: Vec<Group>, api_version: u32) -> Result<Self, Refusal> {
        if read != self.version {
            let current = self.version;
            return Err(crate::rules::RuleError::Version { read, current }.into());
        }
        let version = self.version + 1;
        Ok(Self { version, groups }.checked(api_version)?)
    }
}
