//! The executor: asks the planner when something changed, stores the plan, and tells each session what its device should
//! run. It makes no choices.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use secateur_common::{DeviceId, Generation, ModelName, VariantId};
use secateur_plan::{Assignment, DeviceView, Plan, Planned, RungRequest, lint, plan};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::CoordinatorError;
use crate::catalog::{self, Answer};
use crate::shared::{Shared, State};
use crate::store::records;
use crate::updates::{self, Encoded, TOLERANCE};

/// A plan as it is kept, with what led to it.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct PlanRecord {
    pub(crate) plan: Plan,
    pub(crate) cause: String,
}

/// Changes that come together are planned together.
const DEBOUNCE: Duration = Duration::from_millis(50);

/// Plans whenever something changed, until shut down.
pub(crate) async fn reconcile(shared: Arc<Shared>, shutdown: CancellationToken) {
    loop {
        tokio::select! {
            () = shared.changed.notified() => {}
            () = shutdown.cancelled() => return,
        }
        tokio::time::sleep(DEBOUNCE).await;
        let on_thread = shared.clone();
        let result = tokio::task::spawn_blocking(move || step(&on_thread)).await;
        match result {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(error = &error as &dyn std::error::Error, "cannot plan"),
            Err(error) => tracing::error!(%error, "the planner panicked"),
        }
    }
}

/// One round: a plan, and the rungs that it asks for.
fn step(shared: &Arc<Shared>) -> Result<(), CoordinatorError> {
    let requests = replan(shared)?;
    for request in requests {
        tracing::info!(model = %request.model, budget = %request.budget, "pruning on demand");
        let record = shared.state().models.get(&request.model).cloned();
        let Some(record) = record else { continue };
        let answer = catalog::on_demand(&record, &request, &shared.store, &shared.config, &shared.families)?;
        keep(shared, &request, answer)?;
        shared.changed.notify_one();
    }
    Ok(())
}

fn keep(shared: &Arc<Shared>, request: &RungRequest, answer: Answer) -> Result<(), CoordinatorError> {
    let mut record = match shared.state().models.get(&request.model) {
        Some(record) => record.clone(),
        None => return Ok(()), // removed meanwhile
    };
    let (rung, mut changes, floors) = match answer {
        Answer::Made { rung, changes, floors } => (Some(rung), changes, floors),
        Answer::OutOfReach(floors) => (None, Vec::new(), floors),
    };
    let full = record.ladder.rungs.len() >= secateur_common::caps::RUNGS;
    if let Some(rung) = rung.filter(|_| !full) {
        // From dense to sparsest, so that a rung's index tells how far it is pruned.
        let rungs = &mut record.ladder.rungs;
        let at = rungs
            .iter()
            .skip(1)
            .position(|other| other.cost.macs < rung.cost.macs)
            .map_or(rungs.len(), |i| i + 1);
        rungs.insert(at, *rung);
    } else if floors.is_empty() {
        // Nothing came of it: do not ask again.
        record.ladder.floors.extend(request.budget.iter().map(|(metric, limit)| (metric, limit * 1.001)));
    }
    record.ladder.floors.extend(floors);
    changes.push(records::put(&record));
    shared.commit(&changes, |state| drop(state.models.insert(request.model.clone(), record)))
}

/// What the planner sees and what it makes of it.
pub(crate) fn proposal(state: &State, fleet: &secateur_common::FleetSpec) -> Planned {
    let devices: Vec<DeviceView> = state.devices.values().map(|device| device.view.clone()).collect();
    let mut parent = state.plan.plan.clone();
    for (id, device) in &state.devices {
        // A device that has accepted a newer generation than this coordinator remembers would refuse an older one.
        if let Some(assignment) = parent.assignments.get_mut(id) {
            let same = device.active.map(|(variant, _)| variant) == assignment.variant;
            let newest = if same { device.accepted } else { device.accepted.next() };
            if device.accepted > assignment.generation {
                assignment.generation = newest;
            }
        } else if let Some((variant, _)) = device.active {
            parent.assignments.insert(*id, adopted(state, Some(variant), device.accepted));
        } else if device.accepted > Generation(0) {
            parent.assignments.insert(*id, adopted(state, None, device.accepted));
        }
    }
    plan(fleet, &devices, &state.ladders(), &parent)
}

/// What a device brought along that this coordinator had no plan for.
fn adopted(state: &State, variant: Option<VariantId>, generation: Generation) -> Assignment {
    let holds =
        |model: &catalog::ModelRecord| variant.is_some_and(|variant| model.ladder.find(variant).is_some());
    let model: Option<ModelName> =
        state.models.iter().find(|(_, model)| holds(model)).map(|(name, _)| name.clone());
    Assignment {
        group: None,
        model,
        variant,
        generation,
        budget: secateur_common::Budget::default(),
        feasible: false,
        reason: secateur_plan::Reason::NoGroup,
    }
}

/// Plans at once; rungs that the plan asks for are made by the loop.
pub(crate) fn replan_now(shared: &Arc<Shared>) -> Result<(), CoordinatorError> {
    let requests = replan(shared)?;
    if !requests.is_empty() {
        shared.changed.notify_one();
    }
    Ok(())
}

fn replan(shared: &Arc<Shared>) -> Result<Vec<RungRequest>, CoordinatorError> {
    let mut state = shared.state();
    let planned = proposal(&state, &state.fleet);
    for fault in lint(&planned.plan, &state.plan.plan, &state.ladders()) {
        tracing::error!(fault, "the plan has a defect");
    }
    if planned.plan.assignments == state.plan.plan.assignments {
        return Ok(planned.requests);
    }
    let moves = moves(&state, &planned.plan);
    let mut changes = Vec::new();
    let mut counters = state.counters;
    counters.reprunes += moves.iter().filter(|(_, assignment)| assignment.reason.is_reprune()).count() as u64;
    changes.push(records::put(&counters));
    let mut noted = BTreeMap::new();
    for (id, assignment) in &moves {
        let mut device = state.devices[id].clone();
        device.note(format!("generation {}: {}", assignment.generation, assignment.reason));
        changes.push(records::put(&device));
        noted.insert(*id, device);
    }
    let cause = match moves.len() {
        0 => "reasons or limits changed, nobody moves".to_owned(),
        n => format!("{n} device(s) move"),
    };
    let record = PlanRecord { plan: planned.plan, cause };
    changes.push(records::put(&record));
    shared.store.commit(&changes)?;
    tracing::info!(plan = record.plan.id, cause = record.cause, "planned");
    (state.plan, state.counters) = (record, counters);
    state.devices.extend(noted);
    drop(state);
    shared.look();
    Ok(planned.requests)
}

/// The assignments of `next` that give a device another variant, or tell it of another outcome.
fn moves<'p>(state: &State, next: &'p Plan) -> Vec<(DeviceId, &'p Assignment)> {
    let moved = |(id, assignment): (&DeviceId, &'p Assignment)| {
        let before = state.assignment(*id);
        let same =
            before.is_some_and(|b| b.variant == assignment.variant && b.feasible == assignment.feasible);
        (!same && state.devices.contains_key(id)).then_some((*id, assignment))
    };
    next.assignments.iter().filter_map(moved).collect()
}

/// What a session is to tell its device.
pub(crate) struct Directive {
    pub(crate) generation: Generation,
    pub(crate) model: ModelName,
    pub(crate) variant: VariantId,
    /// Absent where the device holds the variant.
    pub(crate) update: Option<Arc<Encoded>>,
    pub(crate) expected: Vec<f32>,
    pub(crate) tolerance: f32,
}

/// What the device should run, unless it does already. Slow where an update must be encoded.
pub(crate) fn directive(shared: &Arc<Shared>, id: DeviceId) -> Result<Option<Directive>, CoordinatorError> {
    let (assignment, device, known) = {
        let state = shared.state();
        let (Some(assignment), Some(device)) = (state.assignment(id), state.devices.get(&id)) else {
            return Ok(None);
        };
        let known =
            |variant: &VariantId| state.models.values().any(|model| model.ladder.find(*variant).is_some());
        let bases: Vec<VariantId> = device.held.iter().copied().filter(known).collect();
        (assignment.clone(), device.clone(), bases)
    };
    let (Some(variant), Some(model)) = (assignment.variant, assignment.model) else { return Ok(None) };
    if device.active == Some((variant, assignment.generation)) {
        return Ok(None);
    }
    let update = match device.held.contains(&variant) {
        true => None,
        false => Some(shared.updates.make(&shared.store, &known, variant, assignment.generation)?),
    };
    let expected = updates::probe(&shared.store, variant)?;
    Ok(Some(Directive {
        generation: assignment.generation,
        model,
        variant,
        update,
        expected,
        tolerance: TOLERANCE,
    }))
}
