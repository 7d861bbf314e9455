//! The planner: what each device should run, and why, from policy, ladders and what was measured.
//!
//! Architecture invariant: a pure function of its arguments. Only the planner changes intent: nothing else moves a device.
#![forbid(unsafe_code)]

mod reason;

use std::collections::BTreeMap;

use secateur_common::{
    Accuracy, Budget, Cost, DeviceId, FleetSpec, Labels, Metric, Micros, ModelName, Name, VariantId,
    Violation,
};

pub use reason::Reason;

/// A variant that a device can be given. Ladders are dense first, then ever sparser.
#[derive(Clone, PartialEq, Debug)]
pub struct Rung {
    /// Which.
    pub variant: VariantId,
    /// What it costs.
    pub cost: Cost,
    /// Its accuracy on the coordinator's validation data, where there is some.
    pub accuracy: Option<Accuracy>,
}

/// What a device measured with one variant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Measured {
    /// The 95th percentile that counts: the lower of the last two, so that one busy moment moves no device.
    pub p95: Micros,
    /// On its own shard.
    pub accuracy: Accuracy,
}

/// A device as the planner sees it.
#[derive(Clone, PartialEq, Debug)]
pub struct Device {
    /// Which.
    pub id: DeviceId,
    /// Its labels, which pick its group.
    pub labels: Labels,
    /// What it was assigned last.
    pub assigned: Option<VariantId>,
    /// The budget it had then.
    pub budget: Budget,
    /// What it measured, by variant. What was once found too slow stays so: hence no flapping.
    pub measured: BTreeMap<VariantId, Measured>,
}

/// What one device should run.
#[derive(Clone, PartialEq, Debug)]
pub struct Decision {
    /// The device.
    pub device: DeviceId,
    /// Its group, where one matches.
    pub group: Option<Name>,
    /// The group's model.
    pub model: Option<ModelName>,
    /// The group's budget, absolute.
    pub budget: Budget,
    /// What it should run; what it runs already where nothing fits.
    pub variant: Option<VariantId>,
    /// Whether the budget can be kept.
    pub feasible: bool,
    /// Why.
    pub reason: Reason,
}

/// The decision for `device`.
pub fn decide(fleet: &FleetSpec, ladders: &BTreeMap<ModelName, Vec<Rung>>, device: &Device) -> Decision {
    let stay = |reason| Decision {
        device: device.id,
        group: None,
        model: None,
        budget: Budget::default(),
        variant: device.assigned,
        feasible: false,
        reason,
    };
    let Some(group) = fleet.group_of(&device.labels) else { return stay(Reason::NoGroup) };
    let named = |decision: Decision| Decision {
        group: Some(group.name.clone()),
        model: Some(group.model.clone()),
        ..decision
    };
    let ladder = ladders.get(&group.model).map_or(&[][..], Vec::as_slice);
    let Some(dense) = ladder.first() else { return named(stay(Reason::NoModel)) };
    let dense_value = |metric: Metric| match metric {
        Metric::LatencyP95 => device.measured.get(&dense.variant).map(|m| m.p95.get() as f64),
        metric => dense.cost.metric(metric),
    };
    let run = |variant, feasible, budget, reason| {
        named(Decision { variant: Some(variant), feasible, budget, reason, ..stay(Reason::NoGroup) })
    };
    match group.budget.resolve(dense_value) {
        // A share of what the dense model takes here: it has to be measured here first.
        Err(metric) => run(dense.variant, true, Budget::default(), Reason::MeasureDense { metric }),
        Ok(budget) => match ladder.iter().find(|rung| violations(rung, &budget, device).is_empty()) {
            Some(rung) => {
                let reason = why(ladder, rung, &budget, device);
                run(rung.variant, true, budget, reason)
            }
            None => {
                let (reason, held) = (infeasible(ladder, &budget, device), device.assigned);
                run(held.unwrap_or(dense.variant), false, budget, reason)
            }
        },
    }
}

/// The limits that `rung` breaks on `device`, as measured there, else as computed.
pub fn violations(rung: &Rung, budget: &Budget, device: &Device) -> Vec<Violation> {
    let measured = device.measured.get(&rung.variant);
    budget.violations(|metric| match metric {
        Metric::LatencyP95 => measured.map(|m| m.p95.get() as f64),
        Metric::AccuracyMin => {
            let on_device = measured.map(|m| m.accuracy).filter(|accuracy| accuracy.samples > 0);
            on_device.or(rung.accuracy).map(|accuracy| accuracy.value())
        }
        metric => rung.cost.metric(metric),
    })
}

fn why(ladder: &[Rung], rung: &Rung, budget: &Budget, device: &Device) -> Reason {
    if device.assigned.is_none() {
        return Reason::First;
    }
    if device.assigned == Some(rung.variant) {
        return Reason::Kept;
    }
    let old = ladder.iter().find(|old| Some(old.variant) == device.assigned);
    match old.and_then(|old| violations(old, budget, device).into_iter().next()) {
        Some(violation) if *budget == device.budget => Reason::Measured { violation },
        Some(violation) => Reason::Budget { violation },
        None => Reason::Denser,
    }
}

/// The limit that the most frugal rungs break, and the smallest value that can be reached for it.
fn infeasible(ladder: &[Rung], budget: &Budget, device: &Device) -> Reason {
    let broken = ladder.iter().rev().flat_map(|rung| violations(rung, budget, device));
    let Some(violation) = broken.into_iter().next() else { return Reason::NoModel };
    let of_metric = ladder.iter().flat_map(|rung| violations(rung, budget, device));
    let nearest = of_metric.filter(|other| other.metric == violation.metric).map(|other| other.actual);
    let nearest = if violation.metric == Metric::AccuracyMin {
        nearest.fold(f64::NEG_INFINITY, f64::max)
    } else {
        nearest.fold(f64::INFINITY, f64::min)
    };
    Reason::Infeasible { metric: violation.metric, limit: violation.limit, nearest }
}

#[cfg(test)]
mod tests {
    use secateur_common::{ByteCount, Digest, GroupSpec, MacCount, Selector};

    use super::*;

    fn id(byte: u8) -> VariantId {
        VariantId(Digest::from_bytes([byte; 32]))
    }

    fn ladder() -> BTreeMap<ModelName, Vec<Rung>> {
        let rung = |byte: u8| {
            let share = u64::from(byte);
            let cost = Cost {
                macs: MacCount(1000 / share),
                model_bytes: ByteCount(1000 / share),
                ..Cost::default()
            };
            Rung { variant: id(byte), cost, accuracy: None }
        };
        BTreeMap::from([("m".parse().unwrap(), (1..=4).map(rung).collect())])
    }

    fn fleet(metric: Metric, limit: &str) -> FleetSpec {
        let mut budget = secateur_common::BudgetSpec::default();
        budget.set(metric, Some(metric.parse(limit).unwrap()));
        let group = GroupSpec {
            name: "g".parse().unwrap(),
            selector: Selector::default(),
            model: "m".parse().unwrap(),
            budget,
        };
        FleetSpec { groups: vec![group] }
    }

    fn device(assigned: Option<u8>, measured: &[(u8, u64)]) -> Device {
        let measure = |&(byte, p95): &(u8, u64)| {
            (id(byte), Measured { p95: Micros(p95), accuracy: Accuracy::default() })
        };
        Device {
            id: DeviceId::of_credential(b"d"),
            labels: Labels::default(),
            assigned: assigned.map(id),
            budget: Budget::default(),
            measured: measured.iter().map(measure).collect(),
        }
    }

    #[test]
    fn the_densest_rung_that_fits_is_taken() {
        let decision = decide(&fleet(Metric::Macs, "50%"), &ladder(), &device(None, &[]));
        assert_eq!((decision.variant, decision.feasible), (Some(id(2)), true));
    }

    #[test]
    fn what_cannot_fit_is_named_and_changes_nothing() {
        let decision = decide(&fleet(Metric::ModelBytes, "64B"), &ladder(), &device(Some(1), &[]));
        assert_eq!((decision.variant, decision.feasible), (Some(id(1)), false));
        assert!(decision.reason.to_string().contains("model_bytes"), "{}", decision.reason);
    }

    #[test]
    fn a_share_of_the_dense_latency_waits_for_its_measurement_and_never_flaps() {
        let fleet = fleet(Metric::LatencyP95, "50%");
        let at = |device: Device| decide(&fleet, &ladder(), &device).variant;
        assert_eq!(at(device(None, &[])), Some(id(1)));
        assert_eq!(at(device(Some(1), &[(1, 100)])), Some(id(2)));
        assert_eq!(at(device(Some(2), &[(1, 100), (2, 60)])), Some(id(3)));
        assert_eq!(at(device(Some(3), &[(1, 100), (2, 60), (3, 50)])), Some(id(3)));
        let all_slow = device(Some(4), &[(1, 100), (2, 60), (3, 55), (4, 52)]);
        assert!(!decide(&fleet, &ladder(), &all_slow).feasible);
    }
}
