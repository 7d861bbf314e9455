//! What operators are shown, as wire messages.

use std::collections::{BTreeMap, BTreeSet};

use secateur_common::{DeviceId, FleetSpec, Name, VariantId};
use secateur_plan::{Assignment, Measurement, Plan, Rung};
use secateur_proto::{labels_to_wire, v1};

use crate::catalog::ModelRecord;
use crate::draft::moves;
use crate::forecast::Forecast;
use crate::inventory::DeviceRecord;
use crate::state::{PlanRecord, State};

pub(super) fn model(record: &ModelRecord) -> v1::Model {
    let rung = |rung: &Rung| v1::Rung {
        variant: bytes(rung.variant),
        label: rung.label.clone(),
        cost: Some((&rung.cost).into()),
        samples: rung.accuracy.map_or(0, |accuracy| accuracy.samples),
        correct: rung.accuracy.map_or(0, |accuracy| accuracy.correct),
    };
    v1::Model {
        name: record.ladder.model.to_string(),
        rungs: record.ladder.rungs.iter().map(rung).collect(),
        digest: record.file.as_bytes().to_vec(),
    }
}

pub(super) fn device(state: &State, connected: bool, device: &DeviceRecord) -> v1::Device {
    let id = device.view.id;
    let mut wire = v1::Device {
        id: id.to_string(),
        name: device.name.to_string(),
        labels: labels_to_wire(&device.view.labels),
        connected,
        last_heard_unix_s: device.heard_unix_s,
        active: device.active.map(|(variant, _)| bytes(variant)).unwrap_or_default(),
        active_generation: device.active.map_or(0, |(_, generation)| generation.0),
        report: device.newest.as_ref().map(|heard| (&heard.report).into()),
        received_bytes: device.served.get(),
        reason: "not planned yet".to_owned(),
        ..v1::Device::default()
    };
    let Some(assigned) = state.assigned.get(&id) else { return wire };
    let assignment = &assigned.assignment;
    wire.history = (*assigned.history).clone();
    wire.group = assignment.group.as_ref().map(ToString::to_string).unwrap_or_default();
    wire.model = assignment.model.as_ref().map(ToString::to_string).unwrap_or_default();
    wire.budget = Some((&assignment.budget).into());
    wire.feasible = assignment.feasible;
    wire.reason = assignment.reason.to_string();
    wire.assigned = assignment.variant.map(bytes).unwrap_or_default();
    wire.assigned_generation = assignment.generation.0;
    wire.trial = assignment.trial.as_ref().map_or(0, |trial| trial.rollout);
    let Some(ladder) = assignment.model.as_ref().and_then(|model| state.ladder(model)) else { return wire };
    wire.met = device.met(assignment, ladder);
    if let Some((index, rung)) = assignment.variant.and_then(|variant| ladder.find(variant)) {
        (wire.rung, wire.rung_label) = (index as u64, rung.label.clone());
        wire.cost = Some((&rung.cost).into());
        wire.full_bytes = rung.cost.model_bytes.get();
        if let Some(shipped) = device.shipped.filter(|shipped| shipped.variant == rung.variant) {
            (wire.update_bytes, wire.update_is_delta) = (shipped.bytes.get(), shipped.delta);
        }
    }
    let counts = |(variant, measurement): &(VariantId, Measurement)| {
        (Some(*variant) == assignment.variant).then(|| measurement.latency_us()).flatten()
    };
    wire.latency_p95_us = device.view.measured.iter().find_map(counts).unwrap_or(0.0) as u64;
    let dense =
        ladder.dense().and_then(|dense| device.view.measured.iter().find(|(v, _)| *v == dense.variant));
    if let Some((_, measurement)) = dense {
        (wire.samples_dense, wire.correct_dense) =
            (measurement.accuracy.samples, measurement.accuracy.correct);
    }
    wire
}

pub(super) fn plan(state: &State, head: &PlanRecord, plan: &Plan) -> v1::Plan {
    let steps = plan.assignments.iter().map(|(id, assignment)| {
        let ladder = assignment.model.as_ref().and_then(|model| state.ladder(model));
        let label = assignment.variant.and_then(|variant| ladder?.find(variant));
        v1::PlanStep {
            device_id: id.to_string(),
            device_name: state.devices.get(id).map(|device| device.name.to_string()).unwrap_or_default(),
            variant: assignment.variant.map(bytes).unwrap_or_default(),
            generation: assignment.generation.0,
            rung_label: label.map(|(_, rung)| rung.label.clone()).unwrap_or_default(),
            feasible: assignment.feasible,
            reason: assignment.reason.to_string(),
        }
    });
    v1::Plan { id: plan.id, parent: head.parent, cause: head.cause.clone(), steps: steps.collect() }
}

/// What applying `fleet` changes, a line each: groups, then devices that move.
pub(super) fn changes(
    state: &State,
    fleet: &FleetSpec,
    next: &BTreeMap<DeviceId, Assignment>,
) -> Vec<String> {
    let mut lines = Vec::new();
    for group in &fleet.groups {
        match state.fleet.groups.iter().find(|old| old.name == group.name) {
            None => lines.push(format!("+ group {}", group.name)),
            Some(old) if old != group => lines.push(format!("~ group {}", group.name)),
            Some(_) => {}
        }
    }
    let gone =
        state.fleet.groups.iter().filter(|old| fleet.groups.iter().all(|group| group.name != old.name));
    lines.extend(gone.map(|old| format!("- group {}", old.name)));
    let labels = state.devices.values().map(|device| &device.view.labels);
    let used: BTreeSet<&Name> = labels.filter_map(|labels| Some(&fleet.group_of(labels)?.name)).collect();
    let empty = fleet.groups.iter().filter(|group| !used.contains(&group.name));
    lines.extend(empty.map(|group| format!("! group {}: no device carries its labels yet", group.name)));
    for (id, assignment) in next {
        if moves(state.assignment(*id), assignment) {
            let name = state.devices.get(id).map(|device| device.name.to_string()).unwrap_or_default();
            lines.push(format!("> device {name}: {}", assignment.reason));
        }
    }
    lines
}

pub(super) fn forecast(forecast: Forecast) -> v1::Forecast {
    let Forecast { devices, waiting, update_bytes, known, accuracy } = forecast;
    v1::Forecast {
        devices,
        waiting,
        update_bytes,
        devices_with_accuracy: known,
        accuracy_before: accuracy.0,
        accuracy_after: accuracy.1,
    }
}

/// A peer's text, short enough to be repeated to it.
pub(super) fn clipped(text: &str) -> String {
    text.chars().take(64).collect()
}

fn bytes(variant: VariantId) -> Vec<u8> {
    variant.0.as_bytes().to_vec()
}
