//! What an operator declares: groups of devices by selector, each with a model and a budget.

use serde::{Deserialize, Serialize};

use crate::{BudgetSpec, ModelName, Name, ParseError, Selector, caps};

/// A whole fleet as declared in `fleet.toml`. Applied whole or not at all.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FleetSpec {
    /// The groups; a device belongs to the most specific one that matches it, the first of these by order.
    #[serde(default, rename = "group")]
    pub groups: Vec<GroupSpec>,
}

/// Devices by label, the model they run and the budget they keep.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupSpec {
    /// The group's name, unique in the fleet.
    pub name: Name,
    /// Which devices; empty for all.
    #[serde(default)]
    pub selector: Selector,
    /// The model these devices run.
    pub model: ModelName,
    /// What they may spend and must reach.
    #[serde(default)]
    pub budget: BudgetSpec,
}

impl FleetSpec {
    /// Checks what holds for the spec alone: unique names, caps.
    ///
    /// # Errors
    /// Names the group that breaks a rule.
    pub fn check(&self) -> Result<(), ParseError> {
        if self.groups.len() > caps::GROUPS {
            return Err(ParseError::new("fleet", &self.groups.len().to_string(), "at most 1024 groups"));
        }
        for (index, group) in self.groups.iter().enumerate() {
            if self.groups[..index].iter().any(|other| other.name == group.name) {
                return Err(ParseError::new("group", group.name.as_str(), "each group name once"));
            }
        }
        Ok(())
    }

    /// The group that a device with `labels` belongs to: the most specific match, the first of equals.
    pub fn group_of(&self, labels: &crate::Labels) -> Option<&GroupSpec> {
        let matching = self.groups.iter().enumerate().filter(|(_, group)| group.selector.matches(labels));
        matching
            .max_by_key(|(index, group)| (group.selector.specificity(), std::cmp::Reverse(*index)))
            .map(|(_, group)| group)
    }
}
