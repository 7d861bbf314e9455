//! Conversions of a rollout's policy.

use secateur_common::{JudgePolicy, RolloutPolicy, Selector, caps};

use crate::{WireError, labels_from_wire, labels_to_wire, v1};

impl From<&RolloutPolicy> for v1::RolloutPolicy {
    fn from(policy: &RolloutPolicy) -> Self {
        let JudgePolicy { max_accuracy_loss, max_latency_factor, max_energy_factor, max_failures, alpha } =
            policy.judge;
        let selector = |selector: &Selector| v1::Selector { labels: labels_to_wire(&selector.0) };
        Self {
            canary: policy.canary.to_string(),
            waves: policy.waves.iter().map(ToString::to_string).collect(),
            order: policy.order.iter().map(selector).collect(),
            max_unavailable: policy.max_unavailable.to_string(),
            window: policy.window.map(|window| window.to_string()).unwrap_or_default(),
            soak_s: policy.soak_s,
            min_reports: policy.min_reports,
            first_install: policy.first_install,
            max_accuracy_loss,
            max_latency_factor,
            max_energy_factor,
            max_failures: max_failures.to_string(),
            alpha,
        }
    }
}

impl TryFrom<&v1::RolloutPolicy> for RolloutPolicy {
    type Error = WireError;

    fn try_from(wire: &v1::RolloutPolicy) -> Result<Self, WireError> {
        if wire.waves.len() > caps::WAVES {
            return Err(WireError::OverLimit("rollout.waves", caps::WAVES));
        }
        if wire.order.len() > caps::LABELS {
            return Err(WireError::OverLimit("rollout.order", caps::LABELS));
        }
        let selector = |wire: &v1::Selector| labels_from_wire(&wire.labels).map(Selector);
        let policy = Self {
            canary: wire.canary.parse()?,
            waves: wire.waves.iter().map(|wave| wave.parse()).collect::<Result<_, _>>()?,
            order: wire.order.iter().map(selector).collect::<Result<_, _>>()?,
            max_unavailable: wire.max_unavailable.parse()?,
            window: if wire.window.is_empty() { None } else { Some(wire.window.parse()?) },
            soak_s: wire.soak_s,
            min_reports: wire.min_reports,
            first_install: wire.first_install,
            judge: JudgePolicy {
                max_accuracy_loss: wire.max_accuracy_loss,
                max_latency_factor: wire.max_latency_factor,
                max_energy_factor: wire.max_energy_factor,
                max_failures: wire.max_failures.parse()?,
                alpha: wire.alpha,
            },
        };
        policy.check()?;
        Ok(policy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_survives_the_wire_and_a_bad_one_does_not() {
        let policy = RolloutPolicy {
            canary: "3".parse().unwrap(),
            order: vec![Selector("site=lab".parse().unwrap())],
            window: Some("22:00-04:00".parse().unwrap()),
            ..RolloutPolicy::default()
        };
        let wire = v1::RolloutPolicy::from(&policy);
        assert_eq!(RolloutPolicy::try_from(&wire).unwrap(), policy);
        let bad: [fn(&mut v1::RolloutPolicy); 5] = [
            |wire| wire.canary = "many".to_owned(),
            |wire| wire.alpha = f64::NAN,
            |wire| wire.window = "noon".to_owned(),
            |wire| wire.waves = vec!["50%".to_owned(); 2],
            |wire| wire.waves = (1..=33).map(|count| count.to_string()).collect(),
        ];
        for change in bad {
            let mut wire = wire.clone();
            change(&mut wire);
            assert!(RolloutPolicy::try_from(&wire).is_err(), "{wire:?}");
        }
    }
}
