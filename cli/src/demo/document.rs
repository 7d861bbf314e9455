//! What the demo tells at its end: the JSON document and the table, both from what coordinator and devices answered.

use std::collections::BTreeMap;

use secateur_common::{Accuracy, ByteCount, MacCount, Metric, Micros};
use serde::Serialize;

use crate::client::{Device, Model, Status};
use crate::output::{Align, table};

/// The demo's JSON document.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Document {
    pub(super) model: ModelView,
    pub(super) devices: Vec<DeviceView>,
    pub(super) plans: u64,
    pub(super) reprunes: u64,
    pub(super) recovered_after_kill: bool,
}

/// The dense model and how many rungs were made of it.
#[derive(Clone, Debug, Serialize)]
pub(super) struct ModelView {
    name: String,
    digest: String,
    rungs: usize,
    macs: u64,
    parameters: u64,
    nonzero: u64,
    model_bytes: u64,
    peak_memory_bytes: u64,
}

/// A device under the contract's names. Accuracy, latency and bytes are what it reported itself.
#[derive(Clone, Debug, Serialize)]
pub(super) struct DeviceView {
    id: String,
    #[serde(skip)]
    pub(super) name: String,
    pub(super) group: String,
    budget: BTreeMap<&'static str, f64>,
    pub(super) feasible: bool,
    pub(super) met: bool,
    pub(super) reason: String,
    variant: String,
    pub(super) rung: u64,
    #[serde(skip)]
    rung_label: String,
    generation: u64,
    macs: u64,
    model_bytes: u64,
    peak_memory_bytes: u64,
    update_bytes: u64,
    full_bytes: u64,
    samples: u64,
    correct: u64,
    accuracy: f64,
    accuracy_dense: f64,
    latency_p50_us: u64,
    latency_p95_us: u64,
}

impl From<&Model> for ModelView {
    fn from(model: &Model) -> Self {
        let dense = model.rungs.first().map(|rung| rung.cost).unwrap_or_default();
        Self {
            name: model.name.clone(),
            digest: model.digest.clone(),
            rungs: model.rungs.len(),
            macs: dense.macs.get(),
            parameters: dense.parameters,
            nonzero: dense.nonzero,
            model_bytes: dense.model_bytes.get(),
            peak_memory_bytes: dense.peak_memory_bytes.get(),
        }
    }
}

impl DeviceView {
    /// `device` as last heard; `dense` is what it answered with the dense model.
    fn new(device: &Device, dense: Accuracy) -> Self {
        let report = device.current_report();
        let accuracy = report.map(|report| report.accuracy).unwrap_or_default();
        let latency = report.map(|report| report.latency).unwrap_or_default();
        Self {
            id: device.id.clone(),
            name: device.name.clone(),
            group: device.group.clone(),
            budget: device.budget.iter().map(|(metric, limit)| (metric.name(), limit)).collect(),
            feasible: device.feasible,
            met: device.met,
            reason: device.reason.clone(),
            variant: device.variant.map(|variant| variant.to_string()).unwrap_or_default(),
            rung: device.rung,
            rung_label: device.rung_label.clone(),
            generation: device.generation,
            macs: device.cost.macs.get(),
            model_bytes: report.map_or(0, |report| report.model_bytes.get()),
            peak_memory_bytes: report.map_or(0, |report| report.memory.inference_peak.get()),
            update_bytes: device.update_bytes,
            full_bytes: device.full_bytes,
            samples: accuracy.samples,
            correct: accuracy.correct,
            accuracy: accuracy.value(),
            accuracy_dense: dense.value(),
            latency_p50_us: latency.p50.get(),
            latency_p95_us: device.latency_p95_us,
        }
    }
}

impl Document {
    /// The document of this moment. `dense` has each device's own accuracy with the dense model, by name.
    pub(super) fn new(
        model: &Model,
        devices: &[Device],
        dense: &BTreeMap<String, Accuracy>,
        status: &Status,
        recovered_after_kill: bool,
    ) -> Self {
        let dense_of =
            |device: &Device| dense.get(&device.name).copied().or(device.dense).unwrap_or_default();
        Self {
            model: model.into(),
            devices: devices.iter().map(|device| DeviceView::new(device, dense_of(device))).collect(),
            plans: status.plans,
            reprunes: status.reprunes,
            recovered_after_kill,
        }
    }

    /// Whether it would be shown as `other` is: latency and re-measured accuracy move all the time.
    pub(super) fn shows_the_same(&self, other: &Self) -> bool {
        let of = |document: &Self| -> Vec<_> {
            let key = |device: &DeviceView| (device.variant.clone(), device.met, device.reason.clone());
            document.devices.iter().map(key).collect()
        };
        of(self) == of(other)
    }

    /// The table that a person understands at a glance.
    pub(super) fn table(&self) -> String {
        let columns = [
            ("device", Align::Left),
            ("budget", Align::Left),
            ("kept", Align::Left),
            ("rung", Align::Left),
            ("MACs", Align::Right),
            ("on disk", Align::Right),
            ("update / full", Align::Right),
            ("accuracy dense → now (95 %)", Align::Left),
            ("p95", Align::Right),
            ("why", Align::Left),
        ];
        let rows: Vec<_> = self.devices.iter().map(DeviceView::row).collect();
        table(&columns, &rows)
    }
}

impl DeviceView {
    fn row(&self) -> Vec<String> {
        let (low, high) = Accuracy { samples: self.samples, correct: self.correct }.interval();
        let kept = match (self.feasible, self.met) {
            (false, _) => "impossible",
            (true, true) => "yes",
            (true, false) => "no",
        };
        vec![
            self.name.clone(),
            self.budget_text(),
            kept.into(),
            format!("{} {}", self.rung, self.rung_label),
            MacCount(self.macs).to_string(),
            ByteCount(self.model_bytes).to_string(),
            format!("{} / {}", ByteCount(self.update_bytes), ByteCount(self.full_bytes)),
            format!(
                "{:.1} → {:.1} % ({:.1}–{:.1})",
                self.accuracy_dense * 100.0,
                self.accuracy * 100.0,
                low * 100.0,
                high * 100.0
            ),
            Micros(self.latency_p95_us).to_string(),
            self.reason.clone(),
        ]
    }

    fn budget_text(&self) -> String {
        let limit = |(name, limit): (&&str, &f64)| {
            let metric: Metric = name.parse().ok()?;
            let sign = if metric == Metric::AccuracyMin { "≥" } else { "≤" };
            Some(format!("{name} {sign} {}", metric.show(*limit)))
        };
        self.budget.iter().filter_map(limit).collect::<Vec<_>>().join(", ")
    }
}
