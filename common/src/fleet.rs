//! What an operator declares: groups of devices by selector, each with a model and a budget.

use serde::{Deserialize, Serialize};

use crate::{BudgetSpec, ModelName, Name, ParseError, RolloutPolicy, Selector, caps};

/// A whole fleet as declared in `fleet.toml`. Applied whole or not at all.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FleetSpec {
    /// How the changes of groups without a policy of their own are staged; none for all at once.
    #[serde(default)]
    pub rollout: Option<RolloutPolicy>,
    /// The groups; a device belongs to the most specific one that matches it.
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
    /// How its changes are staged, in place of the fleet's.
    #[serde(default)]
    pub rollout: Option<RolloutPolicy>,
}

impl FleetSpec {
    /// Checks what holds for the spec alone: unique names, selectors that leave no choice, policies, caps.
    ///
    /// # Errors
    /// Names the group, or the two groups, that break a rule.
    pub fn check(&self) -> Result<(), ParseError> {
        if self.groups.len() > caps::GROUPS {
            return Err(ParseError::new("fleet", &self.groups.len().to_string(), "at most 1024 groups"));
        }
        for (index, group) in self.groups.iter().enumerate() {
            let earlier = &self.groups[..index];
            if earlier.iter().any(|other| other.name == group.name) {
                return Err(ParseError::new("group", group.name.as_str(), "each group name once"));
            }
            if let Some(other) = earlier.iter().find(|other| other.selector.ties_with(&group.selector)) {
                let got = format!("{} and {}", other.name, group.name);
                let expected = "selectors of which one asks for more labels, or for another value of the same label: \
                                as they are, a device can match both and neither is more specific";
                return Err(ParseError::new("groups", &got, expected));
            }
        }
        self.rollout
            .iter()
            .chain(self.groups.iter().filter_map(|group| group.rollout.as_ref()))
            .try_for_each(RolloutPolicy::check)
    }

    /// How the changes of `group` are staged; none for all at once.
    pub fn rollout_of<'s>(&'s self, group: &'s GroupSpec) -> Option<&'s RolloutPolicy> {
        group.rollout.as_ref().or(self.rollout.as_ref())
    }

    /// The group that a device with `labels` belongs to: the most specific match, the first of equals.
    pub fn group_of(&self, labels: &crate::Labels) -> Option<&GroupSpec> {
        let matching = self.groups.iter().enumerate().filter(|(_, group)| group.selector.matches(labels));
        matching
            .max_by_key(|(index, group)| (group.selector.specificity(), std::cmp::Reverse(*index)))
            .map(|(_, group)| group)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fleet(selectors: &[&str]) -> FleetSpec {
        let group = |(index, selector): (usize, &&str)| GroupSpec {
            name: format!("g{index}").parse().unwrap(),
            selector: Selector(selector.parse().unwrap()),
            model: "m".parse().unwrap(),
            budget: BudgetSpec::default(),
            rollout: None,
        };
        FleetSpec { groups: selectors.iter().enumerate().map(group).collect(), rollout: None }
    }

    #[test]
    fn two_groups_that_tie_are_refused_by_name() {
        for good in [&["", "site=a", "site=b"][..], &["site=a", "site=a,line=1", "site=b,line=1"]] {
            fleet(good).check().unwrap();
        }
        for bad in [&["", ""][..], &["site=a", "line=1"], &["site=a,line=1", "site=a,class=x"]] {
            let error = fleet(bad).check().unwrap_err();
            assert_eq!((error.what.as_str(), error.got.as_str()), ("groups", "g0 and g1"));
        }
    }

    #[test]
    fn a_policy_of_the_group_takes_the_place_of_the_fleets() {
        let mut fleet = fleet(&["site=a", "site=b"]);
        assert_eq!(fleet.rollout_of(&fleet.groups[0]), None);
        fleet.rollout = Some(RolloutPolicy::default());
        fleet.groups[1].rollout = Some(RolloutPolicy { soak_s: 1, ..RolloutPolicy::default() });
        let soak = |index: usize| fleet.rollout_of(&fleet.groups[index]).unwrap().soak_s;
        assert_eq!((soak(0), soak(1)), (600, 1));
        fleet.groups[1].rollout.as_mut().unwrap().judge.alpha = 2.0;
        assert!(fleet.check().is_err());
    }
}
