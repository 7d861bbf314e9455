//! The planner itself.

use std::collections::BTreeMap;

use secateur_common::{
    Budget, DeviceId, FleetSpec, Generation, GroupSpec, Metric, ModelName, Name, VariantId,
};
use serde::{Deserialize, Serialize};

use crate::class::{Class, Classes};
use crate::cost_model::CostModel;
use crate::rollout::Trial;
use crate::{DeviceView, Ladder, Measurement, Reason, Rung, choose};

/// What one device should run, and why.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Assignment {
    /// The group, if one matches.
    pub group: Option<Name>,
    /// The model of `variant`.
    pub model: Option<ModelName>,
    /// What to run; `None` where the device has nothing and nothing fits.
    pub variant: Option<VariantId>,
    /// Rises when `variant` changes.
    pub generation: Generation,
    /// The device's budget, resolved.
    pub budget: Budget,
    /// Whether every limit can be met.
    pub feasible: bool,
    /// Why.
    pub reason: Reason,
    /// Present while the device runs what a rollout has on trial.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trial: Option<Trial>,
}

/// An immutable, complete set of assignments.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Plan {
    /// Each plan has a number of its own, rising.
    pub id: u64,
    /// The plan that this one replaced; 0 for none.
    pub parent: u64,
    /// One assignment for each known device.
    pub assignments: BTreeMap<DeviceId, Assignment>,
}

/// A rung that no ladder has yet and that would help a device.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct RungRequest {
    /// The model to prune.
    pub model: ModelName,
    /// What the rung must keep, in computed costs (`macs`, `model_bytes`, `peak_memory_bytes`).
    pub budget: Budget,
}

/// A plan, and the rungs that would make it better.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Planned {
    /// The plan.
    pub plan: Plan,
    /// Rungs to prune on demand, each once.
    pub requests: Vec<RungRequest>,
}

/// Plans for all `devices`: each by itself, with [`assign`].
pub fn plan(
    policy: &FleetSpec,
    devices: &[DeviceView],
    ladders: &BTreeMap<ModelName, Ladder>,
    parent: &Plan,
) -> Planned {
    let classes: Classes = devices.iter().collect();
    let mut planned = Planned {
        plan: Plan { id: parent.id + 1, parent: parent.id, assignments: BTreeMap::new() },
        requests: Vec::new(),
    };
    for device in devices {
        let before = parent.assignments.get(&device.id);
        let (assignment, request) =
            assign(policy, device, classes.of(&device.labels), |model| ladders.get(model), before);
        if let Some(request) = request.filter(|request| !planned.requests.contains(request)) {
            planned.requests.push(request);
        }
        planned.plan.assignments.insert(device.id, assignment);
    }
    planned
}

/// Plans for one device: what it should run, and the rung that would serve it better. Of other devices only its class has a
/// say, and only in what is predicted of rungs that the device has not run. `ladder` gives the ladder of a model; `before`
/// is what the parent plan assigned to the device.
pub fn assign<'l>(
    policy: &FleetSpec,
    device: &DeviceView,
    class: &Class,
    ladder: impl Fn(&ModelName) -> Option<&'l Ladder>,
    before: Option<&Assignment>,
) -> (Assignment, Option<RungRequest>) {
    if let Some(held) = before.filter(|before| before.reason == Reason::Restored) {
        return (held.clone(), None);
    }
    let stay = |group: Option<&GroupSpec>, reason| Assignment {
        group: group.map(|group| group.name.clone()),
        model: before.and_then(|before| before.model.clone()),
        variant: before.and_then(|before| before.variant),
        generation: before.map_or(Generation(0), |before| before.generation),
        budget: Budget::default(),
        feasible: false,
        reason,
        trial: None,
    };
    let Some(group) = policy.group_of(&device.labels) else { return (stay(None, Reason::NoGroup), None) };
    let Some((ladder, dense)) = ladder(&group.model).and_then(|ladder| Some((ladder, ladder.dense()?)))
    else {
        return (stay(Some(group), Reason::NoModel(group.model.clone())), None);
    };
    let stay = |budget: &Budget, reason| Assignment { budget: budget.clone(), ..stay(Some(group), reason) };
    let current = before.and_then(|before| ladder.find(before.variant?)).map(|(_, rung)| rung);
    let to = |rung: &Rung, budget: &Budget, reason| Assignment {
        model: Some(group.model.clone()),
        variant: Some(rung.variant),
        generation: match before {
            Some(before) if before.variant == Some(rung.variant) => before.generation,
            Some(before) => before.generation.next(),
            None => Generation(1),
        },
        feasible: true,
        ..stay(budget, reason)
    };
    let costs = CostModel::new(device, class);
    let budget = match costs.budget(ladder, &group.budget) {
        Ok(budget) => budget,
        Err(metric) => return (to(dense, &Budget::default(), Reason::AwaitingDense(metric)), None),
    };
    let changed = before.filter(|before| before.variant.is_some()).is_some_and(|before| {
        before.group.as_ref() != Some(&group.name)
            || before.model.as_ref() != Some(&group.model)
            || limits_differ(&before.budget, &budget)
    });
    match choose::best(&costs, ladder, &budget, current) {
        Some(rung) => {
            let reason = why_moved(&costs, ladder, &budget, current, rung, changed.then_some(&group.name));
            // Told once, with the figures of then: a drift that goes on makes no new plan at each report.
            let told =
                before.map(|before| &before.reason).filter(|told| told.is_drift() && reason.is_drift());
            let reason = told.cloned().unwrap_or(reason);
            (to(rung, &budget, reason), None)
        }
        // One disturbed report, not yet confirmed by a second, moves nobody.
        None if current.is_some_and(|rung| choose::violations(&costs, ladder, &budget, rung).is_empty()) => {
            (Assignment { feasible: true, ..stay(&budget, Reason::Kept) }, None)
        }
        None => {
            let broken = choose::nearest(&costs, ladder, &budget, current);
            let Some(&binding) = broken.first() else { return (stay(&budget, Reason::Kept), None) };
            let Some(asked) = request(&costs, ladder, &budget) else {
                let relaxed = broken.iter().map(choose::relaxed).collect();
                return (stay(&budget, Reason::Infeasible { binding, relaxed }), None);
            };
            let awaiting = Assignment { feasible: true, ..stay(&budget, Reason::AwaitingRung(binding)) };
            (awaiting, Some(RungRequest { model: group.model.clone(), budget: asked }))
        }
    }
}

/// Whether a limit was added, dropped or changed by more than relative limits drift as the device measures.
fn limits_differ(a: &Budget, b: &Budget) -> bool {
    const DRIFT: f64 = 0.1;
    Metric::ALL.into_iter().any(|metric| match (a.get(metric), b.get(metric)) {
        (Some(a), Some(b)) => (a - b).abs() > DRIFT * a.abs(),
        (a, b) => a.is_some() != b.is_some(),
    })
}

fn why_moved(
    costs: &CostModel<'_>,
    ladder: &Ladder,
    budget: &Budget,
    current: Option<&Rung>,
    chosen: &Rung,
    changed: Option<&Name>,
) -> Reason {
    if current.is_some_and(|current| current.variant == chosen.variant) {
        let drift = costs.device.measurement(chosen.variant).and_then(Measurement::drift);
        return drift.map_or(Reason::Kept, |(from, to)| Reason::Drift { from, to });
    }
    if let Some(group) = changed {
        return Reason::BudgetChanged(group.clone());
    }
    let Some(current) = current else { return Reason::First };
    let broken = budget.violations(|metric| costs.value(ladder, current, metric));
    broken.first().map_or(Reason::Improved, |violation| Reason::Moved(*violation))
}

/// The computed costs that a new rung must keep so that the device meets `budget`; `None` where pruning cannot help:
/// a limit is on what pruning does not lower, or was found to be out of reach.
fn request(costs: &CostModel<'_>, ladder: &Ladder, budget: &Budget) -> Option<Budget> {
    /// Measured metrics are asked for with this much to spare, since they are predicted.
    const SPARE: f64 = 0.9;
    let dense = ladder.dense()?;
    let mut asked = Budget::default();
    let mut tighten = |metric: Metric, limit: f64| {
        let limit = asked.get(metric).map_or(limit, |other| other.min(limit)).floor();
        asked = std::mem::take(&mut asked).with(metric, limit.max(1.0));
    };
    for (metric, limit) in budget.iter() {
        match metric {
            Metric::Macs | Metric::ModelBytes => tighten(metric, limit),
            Metric::PeakMemoryBytes => {
                let unit =
                    costs.value(ladder, dense, metric)? / dense.cost.peak_memory_bytes.get().max(1) as f64;
                let spare = if costs.device.measured.is_empty() { 1.0 } else { SPARE };
                tighten(metric, limit / unit * spare);
            }
            Metric::LatencyP95 | Metric::EnergyPerInference => {
                // Follow the smallest rung that is known: it tells most about still smaller ones.
                let known = ladder.rungs.iter().filter_map(|rung| Some((rung, costs.known(rung, metric)?)));
                let (rung, value) = known.min_by_key(|(rung, _)| rung.cost.dense_macs)?;
                tighten(Metric::Macs, rung.cost.dense_macs.get() as f64 * (limit / value).min(1.0) * SPARE);
            }
            Metric::AccuracyMin | Metric::DownloadBytesPerDay => {}
        }
    }
    let reachable =
        asked.iter().all(|(metric, limit)| ladder.floor(metric).is_none_or(|floor| limit >= floor));
    // A rung that keeps all of this and still does not fit shows that another one would not either.
    let exists =
        ladder.rungs.iter().any(|rung| asked.violations(|metric| rung.cost.metric(metric)).is_empty());
    (!asked.is_empty() && reachable && !exists).then_some(asked)
}

/// What is wrong with a plan: every line is a defect of the planner.
pub fn lint(planned: &Plan, parent: &Plan, ladders: &BTreeMap<ModelName, Ladder>) -> Vec<String> {
    let of = |(id, assignment): (&DeviceId, _)| {
        let faults = faults(assignment, parent.assignments.get(id), |model| ladders.get(model));
        faults.into_iter().map(move |fault| format!("{id}: {fault}")).collect::<Vec<_>>()
    };
    planned.assignments.iter().flat_map(of).collect()
}

/// What is wrong with one assignment, given the one that it replaces.
pub fn faults<'l>(
    assignment: &Assignment,
    before: Option<&Assignment>,
    ladder: impl Fn(&ModelName) -> Option<&'l Ladder>,
) -> Vec<String> {
    let mut faults = Vec::new();
    let old = before.map_or(Generation(0), |before| before.generation);
    let moved = before.and_then(|before| before.variant) != assignment.variant;
    if assignment.generation < old || (moved && assignment.generation == old) {
        faults.push(format!("generation {} after {old}", assignment.generation));
    }
    if moved && assignment.variant.is_none() {
        faults.push("what it had is taken away".to_owned());
    }
    let rung = assignment.model.as_ref().and_then(|model| ladder(model)?.find(assignment.variant?));
    let (Some((_, rung)), true) = (rung, assignment.feasible && moved) else { return faults };
    let computed =
        |metric: Metric| (metric != Metric::PeakMemoryBytes).then(|| rung.cost.metric(metric)).flatten();
    let broken = assignment.budget.violations(computed);
    faults.extend(broken.iter().map(|v| format!("moved to a rung that breaks {}", v.metric)));
    faults
}
