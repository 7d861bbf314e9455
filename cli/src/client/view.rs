//! What the coordinator answers, as the operator sees it: plain values under the contract's JSON names.

use std::collections::BTreeMap;

use secateur_common::{Accuracy, Budget, Cost, Report, VariantId};
use secateur_proto::{WireError, v1, variant_id};
use serde::Serialize;

/// A registered model and its ladder.
#[derive(Clone, Debug, Serialize)]
pub struct Model {
    /// Its name.
    pub name: String,
    /// The digest of its ONNX file.
    pub digest: String,
    /// Its variants, dense first, then ever sparser.
    pub rungs: Vec<Rung>,
}

/// A variant of a model, as built by the coordinator.
#[derive(Clone, Debug, Serialize)]
pub struct Rung {
    /// Which.
    pub variant: VariantId,
    /// For people.
    pub label: String,
    /// What it costs.
    #[serde(flatten)]
    pub cost: Cost,
    /// Accuracy on the coordinator's validation data, where it has some.
    #[serde(flatten)]
    pub accuracy: Option<AccuracyView>,
}

/// An accuracy with its interval, under the contract's names.
#[derive(Clone, Copy, Debug, Serialize)]
#[allow(missing_docs)]
pub struct AccuracyView {
    pub samples: u64,
    pub correct: u64,
    pub accuracy: f64,
    pub accuracy_low: f64,
    pub accuracy_high: f64,
}

impl From<Accuracy> for AccuracyView {
    fn from(accuracy: Accuracy) -> Self {
        let (accuracy_low, accuracy_high) = accuracy.interval();
        Self {
            samples: accuracy.samples,
            correct: accuracy.correct,
            accuracy: accuracy.value(),
            accuracy_low,
            accuracy_high,
        }
    }
}

/// A device: what it was told, what it holds, what it measured.
#[derive(Clone, Debug, Default, Serialize)]
#[allow(missing_docs)] // named as in the contract
pub struct Device {
    pub id: String,
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub connected: bool,
    pub last_heard_unix_s: u64,
    pub group: String,
    pub model: String,
    #[serde(serialize_with = "budget_by_name")]
    pub budget: Budget,
    pub feasible: bool,
    pub met: bool,
    pub reason: String,
    /// The assigned variant.
    pub variant: Option<VariantId>,
    pub rung: u64,
    pub rung_label: String,
    pub generation: u64,
    /// The variant in force, as last heard.
    pub active: Option<VariantId>,
    pub active_generation: u64,
    #[serde(flatten)]
    pub cost: Cost,
    pub update_bytes: u64,
    pub full_bytes: u64,
    pub update_is_delta: bool,
    pub received_bytes: u64,
    /// The p95 that counts against a budget: the better of the two newest reports.
    pub latency_p95_us: u64,
    /// The newest report.
    pub report: Option<Report>,
    /// The dense model on this device, where it was measured.
    pub dense: Option<Accuracy>,
    pub history: Vec<String>,
    /// The number of the rollout that has the assigned variant on trial here.
    pub trial: Option<u64>,
}

impl Device {
    /// The newest report, if it is of the assigned variant.
    pub fn current_report(&self) -> Option<&Report> {
        self.report.as_ref().filter(|report| Some(report.variant) == self.variant)
    }

    /// Whether the assigned variant runs there and has been measured there.
    pub fn settled(&self) -> bool {
        self.connected
            && self.variant.is_some()
            && self.active == self.variant
            && self.active_generation == self.generation
            && self.current_report().is_some()
    }
}

/// A budget as an object from metric to absolute limit.
pub fn budget_by_name<S: serde::Serializer>(budget: &Budget, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(budget.iter().map(|(metric, limit)| (metric.name(), limit)))
}

/// A plan: who runs what, and why.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs)]
pub struct Plan {
    pub id: u64,
    pub parent: u64,
    pub cause: String,
    pub steps: Vec<PlanStep>,
}

/// One device's part of a plan.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[allow(missing_docs)]
pub struct PlanStep {
    pub device: String,
    pub name: String,
    pub variant: Option<VariantId>,
    pub generation: u64,
    pub rung: String,
    pub feasible: bool,
    pub reason: String,
}

/// A group's rollout: the one under way, or the last.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
#[allow(missing_docs)]
pub struct Rollout {
    pub group: String,
    pub number: u64,
    pub model: String,
    pub plan: u64,
    /// `idle`, `canary`, `wave`, `done`, `halted` or `rolled_back`.
    pub stage: String,
    /// From 1; 0 outside the waves.
    pub wave: u64,
    pub paused: bool,
    /// Why it was halted; empty where it was not.
    pub fault: String,
    pub since_unix_s: u64,
    pub waiting: u64,
    pub on_trial: u64,
    pub arrived: u64,
    pub judged: u64,
    pub failed: u64,
    pub accuracy_loss: Option<AccuracyLoss>,
    /// Median over devices of p95 on trial / p95 before.
    pub latency_factor: Option<f64>,
    /// The same of the energy of an inference.
    pub energy_factor: Option<f64>,
}

/// A loss of accuracy against what the same devices measured before, percentage points.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
#[allow(missing_docs)]
pub struct AccuracyLoss {
    pub points: f64,
    pub low: f64,
    pub high: f64,
    /// How many times likelier with more than the accepted loss than without; it halts at 1 / alpha.
    pub odds: f64,
}

/// What an operator does with a rollout.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Steer {
    /// Moves no further device.
    Pause,
    /// Goes on.
    Resume,
    /// Takes devices back.
    Abort,
}

/// What came of it.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Steered {
    /// The rollouts that it concerned, as they are then.
    pub rollouts: Vec<Rollout>,
    /// Devices that were ahead of a restored store and may move again.
    pub released: u64,
}

/// What applying a fleet changes, or would.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Applied {
    /// For people, one line each.
    pub changes: Vec<String>,
    /// The plan in force afterwards.
    pub plan: u64,
    /// What it comes to once every device has moved.
    pub forecast: Forecast,
}

/// What an applied fleet comes to once every device has moved.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize)]
pub struct Forecast {
    /// Devices that are to move.
    pub devices: u64,
    /// Of these, those that wait for a rollout.
    pub waiting: u64,
    /// Bytes of all their updates.
    pub update_bytes: u64,
    /// Mean accuracy of the moving devices' variants on the coordinator's validation data, before and after.
    pub accuracy: Option<BeforeAfter>,
}

/// A pair, under the contract's names.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
#[allow(missing_docs)]
pub struct BeforeAfter {
    pub before: f64,
    pub after: f64,
}

/// The coordinator at a glance.
#[derive(Clone, Debug, Default, Serialize)]
#[allow(missing_docs)]
pub struct Status {
    pub version: String,
    pub devices: u64,
    pub connected: u64,
    pub models: u64,
    pub plans: u64,
    pub reprunes: u64,
    pub settled: bool,
}

fn optional_variant(bytes: &[u8]) -> Result<Option<VariantId>, WireError> {
    if bytes.is_empty() { Ok(None) } else { variant_id(bytes).map(Some) }
}

fn measured(samples: u64, correct: u64) -> Option<Accuracy> {
    (samples > 0).then_some(Accuracy { samples, correct: correct.min(samples) })
}

impl TryFrom<v1::Model> for Model {
    type Error = WireError;

    fn try_from(wire: v1::Model) -> Result<Self, WireError> {
        let rung = |wire: &v1::Rung| -> Result<Rung, WireError> {
            Ok(Rung {
                variant: variant_id(&wire.variant)?,
                label: wire.label.clone(),
                cost: wire.cost.as_ref().map(Cost::from).unwrap_or_default(),
                accuracy: measured(wire.samples, wire.correct).map(AccuracyView::from),
            })
        };
        Ok(Self {
            digest: variant_id(&wire.digest)?.to_string(),
            rungs: wire.rungs.iter().map(rung).collect::<Result<_, _>>()?,
            name: wire.name,
        })
    }
}

impl TryFrom<v1::Device> for Device {
    type Error = WireError;

    fn try_from(wire: v1::Device) -> Result<Self, WireError> {
        Ok(Self {
            labels: wire.labels.into_iter().collect(),
            connected: wire.connected,
            last_heard_unix_s: wire.last_heard_unix_s,
            budget: wire.budget.as_ref().map(Budget::try_from).transpose()?.unwrap_or_default(),
            feasible: wire.feasible,
            met: wire.met,
            reason: wire.reason,
            variant: optional_variant(&wire.assigned)?,
            rung: wire.rung,
            rung_label: wire.rung_label,
            generation: wire.assigned_generation,
            active: optional_variant(&wire.active)?,
            active_generation: wire.active_generation,
            cost: wire.cost.as_ref().map(Cost::from).unwrap_or_default(),
            update_bytes: wire.update_bytes,
            full_bytes: wire.full_bytes,
            update_is_delta: wire.update_is_delta,
            received_bytes: wire.received_bytes,
            latency_p95_us: wire.latency_p95_us,
            report: wire.report.as_ref().map(Report::try_from).transpose()?,
            dense: measured(wire.samples_dense, wire.correct_dense),
            history: wire.history,
            trial: Some(wire.trial).filter(|&number| number > 0),
            id: wire.id,
            name: wire.name,
            group: wire.group,
            model: wire.model,
        })
    }
}

impl TryFrom<v1::Plan> for Plan {
    type Error = WireError;

    fn try_from(wire: v1::Plan) -> Result<Self, WireError> {
        let step = |wire: v1::PlanStep| -> Result<PlanStep, WireError> {
            Ok(PlanStep {
                variant: optional_variant(&wire.variant)?,
                device: wire.device_id,
                name: wire.device_name,
                generation: wire.generation,
                rung: wire.rung_label,
                feasible: wire.feasible,
                reason: wire.reason,
            })
        };
        let steps = wire.steps.into_iter().map(step).collect::<Result<_, _>>()?;
        Ok(Self { id: wire.id, parent: wire.parent, cause: wire.cause, steps })
    }
}

impl From<v1::Rollout> for Rollout {
    fn from(wire: v1::Rollout) -> Self {
        let stage = wire.stage().as_str_name().to_ascii_lowercase();
        let loss = |v1::AccuracyLoss { points, low, high, odds }| AccuracyLoss { points, low, high, odds };
        Self {
            stage,
            group: wire.group,
            number: wire.number,
            model: wire.model,
            plan: wire.plan,
            wave: wire.wave,
            paused: wire.paused,
            fault: wire.fault,
            since_unix_s: wire.since_unix_s,
            waiting: wire.waiting,
            on_trial: wire.on_trial,
            arrived: wire.arrived,
            judged: wire.judged,
            failed: wire.failed,
            accuracy_loss: wire.accuracy_loss.map(loss),
            latency_factor: Some(wire.latency_factor).filter(|&factor| factor > 0.0),
            energy_factor: Some(wire.energy_factor).filter(|&factor| factor > 0.0),
        }
    }
}

impl From<v1::ApplyResponse> for Applied {
    fn from(wire: v1::ApplyResponse) -> Self {
        let forecast = wire.forecast.unwrap_or_default();
        let accuracy = BeforeAfter { before: forecast.accuracy_before, after: forecast.accuracy_after };
        Self {
            changes: wire.changes,
            plan: wire.plan,
            forecast: Forecast {
                devices: forecast.devices,
                waiting: forecast.waiting,
                update_bytes: forecast.update_bytes,
                accuracy: (forecast.devices_with_accuracy > 0).then_some(accuracy),
            },
        }
    }
}

impl From<v1::StatusResponse> for Status {
    fn from(wire: v1::StatusResponse) -> Self {
        Self {
            version: wire.version,
            devices: wire.devices,
            connected: wire.connected,
            models: wire.models,
            plans: wire.plans,
            reprunes: wire.reprunes,
            settled: wire.settled,
        }
    }
}
