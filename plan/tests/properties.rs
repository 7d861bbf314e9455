//! What holds of every plan, whatever the ladder, the policy and the measurements.

#![allow(clippy::unwrap_used)] // a panic is how a test fails

mod support;

use std::collections::BTreeMap;

use proptest::prelude::*;
use secateur_common::{BudgetSpec, FleetSpec, Limit, Metric};
use secateur_plan::{DeviceView, Ladder, Plan, Planned, Reason, lint, plan};

type Ladders = BTreeMap<secateur_common::ModelName, Ladder>;

const MODEL: &str = "net";

/// Two to seven rungs, MACs falling; few, some or most of them with an accuracy.
fn ladders() -> impl Strategy<Value = Ladder> {
    let macs = prop::collection::btree_set(1_000u64..1_000_000, 2..8);
    let known = prop_oneof![Just(0.02), Just(0.5), Just(0.98)];
    (macs, known).prop_flat_map(|(macs, known)| {
        let macs: Vec<u64> = macs.into_iter().rev().collect();
        let accuracy = prop::option::weighted(known, 500u64..=support::SAMPLES);
        prop::collection::vec(accuracy, macs.len())
            .prop_map(move |accuracies| support::ladder(MODEL, &macs, &accuracies))
    })
}

/// A limit that may be loose, tight, out of reach or relative.
fn limit(scale: f64) -> impl Strategy<Value = Option<Limit>> {
    let some = prop_oneof![
        (0.001f64..1.5).prop_map(move |share| Limit::Absolute(share * scale)),
        (0.05f64..1.5).prop_map(Limit::Relative),
    ];
    prop::option::weighted(0.4, some)
}

fn policies() -> impl Strategy<Value = FleetSpec> {
    let accuracy = prop::option::weighted(0.3, (0.5f64..1.0).prop_map(Limit::Absolute));
    let limits = (limit(1e6), limit(2e5), limit(5e5), limit(1e5), limit(1e5), accuracy);
    limits.prop_map(|(macs, model_bytes, peak_memory_bytes, latency_p95, energy, accuracy_min)| {
        let mut policy = support::policy(MODEL, &[]);
        policy.groups[0].budget = BudgetSpec {
            macs,
            model_bytes,
            peak_memory_bytes,
            latency_p95,
            energy_per_inference: energy,
            accuracy_min,
            ..Default::default()
        };
        policy
    })
}

/// A few policies, and for each round and device the latency per thousand MACs that is measured.
type Story = (Ladder, Vec<FleetSpec>, Vec<[u64; 3]>);

fn stories() -> impl Strategy<Value = Story> {
    let speeds = prop::collection::vec([1u64..200, 1u64..200, 1u64..200], 1..12);
    (ladders(), prop::collection::vec(policies(), 1..4), speeds)
}

fn fleet() -> Vec<DeviceView> {
    ["a", "b", "c"].into_iter().map(|name| support::device(name, "")).collect()
}

/// Each device reports what `plan` assigned to it.
fn measure(devices: &mut [DeviceView], ladder: &Ladder, plan: &Plan, per_thousand: &[u64; 3]) {
    for (device, speed) in devices.iter_mut().zip(per_thousand) {
        let assigned = plan.assignments.get(&device.id).and_then(|assignment| assignment.variant);
        let Some((_, rung)) = assigned.and_then(|variant| ladder.find(variant)) else { continue };
        support::report(device, ladder, rung, rung.cost.dense_macs.get() * speed / 1000 + 1);
    }
}

/// Plans the story, round after round; `check` sees each plan with its parent.
fn tell(
    (ladder, policies, speeds): &Story,
    mut check: impl FnMut(&Ladders, &Planned, &Plan) -> Result<(), TestCaseError>,
) -> Result<(), TestCaseError> {
    let ladders = Ladders::from([(ladder.model.clone(), ladder.clone())]);
    let (mut devices, mut parent) = (fleet(), Plan::default());
    for policy in policies {
        for speed in speeds {
            let planned = plan(policy, &devices, &ladders, &parent);
            prop_assert_eq!(&planned, &plan(policy, &devices, &ladders, &parent), "the same from the same");
            check(&ladders, &planned, &parent)?;
            parent = planned.plan;
            measure(&mut devices, ladder, &parent, speed);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    /// `lint` finds nothing, and what it looks for is looked for here a second time, in other words.
    #[test]
    fn plans_are_sound(story in stories()) {
        tell(&story, |ladders, planned, parent| {
            prop_assert_eq!(lint(&planned.plan, parent, ladders), Vec::<String>::new());
            let ladder = &ladders[&story.0.model];
            prop_assert_eq!(planned.plan.parent, parent.id);
            prop_assert!(planned.plan.id > parent.id);
            for (id, assignment) in &planned.plan.assignments {
                let before = parent.assignments.get(id);
                let moved = before.and_then(|before| before.variant) != assignment.variant;
                let generation = before.map_or(0, |before| before.generation.0);
                prop_assert_eq!(assignment.generation.0, generation + u64::from(moved), "rises with each move");
                if !moved || matches!(assignment.reason, Reason::AwaitingDense(_)) {
                    continue;
                }
                let (_, rung) = ladder.find(assignment.variant.unwrap()).unwrap();
                prop_assert!(assignment.feasible);
                for metric in [Metric::Macs, Metric::ModelBytes] {
                    let limit = assignment.budget.get(metric).unwrap_or(f64::INFINITY);
                    prop_assert!(rung.cost.metric(metric).unwrap() <= limit, "{} of {}", metric, rung.label);
                }
            }
            Ok(())
        })?;
    }

    /// Where nothing fits, the device keeps what it has.
    #[test]
    fn an_infeasible_budget_takes_nothing_away(story in stories(), floor_known: bool) {
        let (ladder, policies, speeds) = story;
        let mut parent = Plan::default();
        let mut devices = fleet();
        let ladders = Ladders::from([(ladder.model.clone(), ladder.clone())]);
        for speed in &speeds {
            parent = plan(&policies[0], &devices, &ladders, &parent).plan;
            measure(&mut devices, &ladder, &parent, speed);
        }
        let mut ladders = ladders;
        if floor_known {
            ladders.get_mut(&ladder.model).unwrap().floors.push((Metric::ModelBytes, 50.0));
        }
        let planned = plan(&support::policy(MODEL, &[("model_bytes", "1B")]), &devices, &ladders, &parent);
        for (id, assignment) in &planned.plan.assignments {
            let before = &parent.assignments[id];
            prop_assert_eq!(assignment.variant, before.variant);
            prop_assert_eq!(assignment.generation, before.generation);
            match &assignment.reason {
                Reason::Infeasible { binding, .. } => {
                    prop_assert!(floor_known && !assignment.feasible);
                    prop_assert_eq!(binding.metric, Metric::ModelBytes);
                }
                Reason::AwaitingRung(_) => prop_assert!(!floor_known),
                other => prop_assert!(false, "{}", other),
            }
        }
        prop_assert_eq!(planned.requests.is_empty(), floor_known);
    }

    /// Latency in proportion to the size, ± 10 % around a limit anywhere near the ladder: the device comes to rest. The
    /// noise is a short cycle, so that the second half brings nothing that the first has not shown.
    #[test]
    fn noise_around_a_limit_does_not_make_a_device_flap(
        ladder in ladders(),
        at in any::<prop::sample::Index>(),
        near in 0.85f64..1.15,
        fixed in 0u64..300,
        noise in prop::collection::vec(-0.1f64..0.1, 1..5),
    ) {
        const ROUNDS: usize = 60;
        let latency = |macs: u64| (macs / 10 + fixed) as f64;
        let limit = latency(at.get(&ladder.rungs).cost.dense_macs.get()) * near;
        let policy = support::policy(MODEL, &[("latency_p95", &format!("{limit:.0}us"))]);
        let ladders = Ladders::from([(ladder.model.clone(), ladder.clone())]);
        let (mut device, mut parent) = (support::device("a", ""), Plan::default());
        let mut moves = Vec::new();
        for round in 0..ROUNDS {
            let planned = plan(&policy, std::slice::from_ref(&device), &ladders, &parent).plan;
            let variant = planned.assignments[&device.id].variant;
            if parent.assignments.get(&device.id).and_then(|before| before.variant) != variant {
                moves.push(round);
            }
            parent = planned;
            if let Some((_, rung)) = variant.and_then(|variant| ladder.find(variant)) {
                let measured = latency(rung.cost.dense_macs.get()) * (1.0 + noise[round % noise.len()]);
                support::report(&mut device, &ladder, rung, measured as u64);
            }
        }
        prop_assert!(moves.len() <= ladder.rungs.len(), "moved in rounds {:?}", moves);
        prop_assert!(moves.iter().all(|&round| round < ROUNDS / 2), "moved in rounds {:?}", moves);
    }
}
