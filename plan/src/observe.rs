//! What is known of a device: what it measured.

use secateur_common::{Accuracy, DeviceId, Generation, Labels, Metric, Micros, Report, VariantId};
use serde::{Deserialize, Serialize};

use crate::Rung;

/// What a device measured with one variant: its newest reports.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Measurement {
    /// 95th percentiles of the newest reports, oldest first, at most [`Measurement::KEPT`].
    pub p95: Vec<Micros>,
    /// Energies of an inference, nanojoules, of the newest reports that tell it, as many.
    #[serde(default)]
    pub energy_nj: Vec<u64>,
    /// Heap of the newest report, bytes; 0 where it was not measured.
    pub memory_bytes: u64,
    /// The variant as stored, bytes.
    pub model_bytes: u64,
    /// Accuracy of the newest report.
    pub accuracy: Accuracy,
    /// The generation in force in the newest report.
    #[serde(default)]
    pub generation: Generation,
    /// Reports in that generation.
    #[serde(default)]
    pub reports: u64,
    /// Accuracy of the first of them that has one.
    #[serde(default)]
    pub first: Accuracy,
}

impl Measurement {
    /// Latencies and energies kept.
    pub const KEPT: usize = 5;

    /// Takes in a report.
    pub fn add(&mut self, report: &Report) {
        if report.latency.count > 0 {
            keep(&mut self.p95, report.latency.p95);
        }
        if let Some(energy) = report.sensed.energy_per_inference_nj {
            keep(&mut self.energy_nj, energy);
        }
        self.memory_bytes = report.memory.inference_peak.get();
        self.model_bytes = report.model_bytes.get();
        if report.generation != self.generation {
            (self.generation, self.reports, self.first) = (report.generation, 0, Accuracy::default());
        }
        self.reports += 1;
        if report.accuracy.samples > 0 {
            self.accuracy = report.accuracy;
            if self.first.samples == 0 {
                self.first = report.accuracy;
            }
        }
    }

    /// The latency that counts, µs: the better of the two newest reports, so that one disturbed report neither moves
    /// a device nor breaks its budget, and two in a row do.
    pub fn latency_us(&self) -> Option<f64> {
        better_of_two(self.p95.iter().map(|p95| p95.get() as f64))
    }

    /// The energy of an inference that counts, µJ: by the same rule.
    pub fn energy_uj(&self) -> Option<f64> {
        better_of_two(self.energy_nj.iter().map(|&energy| energy as f64 / 1e3))
    }

    /// What the variant itself answers right on this device: its accuracy soon after activation. What it loses later
    /// without a change of variant is drift.
    pub fn own_accuracy(&self) -> Accuracy {
        if self.first.samples > 0 { self.first } else { self.accuracy }
    }

    /// The accuracy soon after activation and now, where it fell by more than chance explains: four standard errors of
    /// the difference of two shares.
    pub fn drift(&self) -> Option<(f64, f64)> {
        const ERRORS: f64 = 4.0;
        let (first, now) = (self.first, self.accuracy);
        let error = (first.variance() + now.variance()).sqrt();
        let fell = first.samples > 0 && first.value() - now.value() > ERRORS * error;
        fell.then(|| (first.value(), now.value()))
    }

    /// The value of `metric` that counts, where it was measured.
    pub(crate) fn value(&self, metric: Metric) -> Option<f64> {
        let bytes = |bytes: u64| (bytes > 0).then_some(bytes as f64);
        match metric {
            Metric::LatencyP95 => self.latency_us(),
            Metric::EnergyPerInference => self.energy_uj(),
            Metric::PeakMemoryBytes => bytes(self.memory_bytes),
            Metric::ModelBytes => bytes(self.model_bytes),
            Metric::AccuracyMin => {
                let accuracy = self.own_accuracy();
                (accuracy.samples > 0).then(|| accuracy.value())
            }
            _ => None,
        }
    }

    /// Whether a second report confirms what was measured of `metric`, where one disturbed report says little.
    pub fn confirmed(&self, metric: Metric) -> bool {
        match metric {
            Metric::LatencyP95 => self.p95.len() >= 2,
            Metric::EnergyPerInference => self.energy_nj.len() >= 2,
            _ => true,
        }
    }
}

/// The lower of the two newest of some values.
fn better_of_two(values: impl DoubleEndedIterator<Item = f64>) -> Option<f64> {
    values.rev().take(2).reduce(f64::min)
}

/// Adds the newest of some values, of which so many are kept.
fn keep<T>(values: &mut Vec<T>, newest: T) {
    values.push(newest);
    let surplus = values.len().saturating_sub(Measurement::KEPT);
    values.drain(..surplus);
}

/// A device as the planner sees it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct DeviceView {
    /// The device.
    pub id: DeviceId,
    /// Its labels.
    pub labels: Labels,
    /// What it measured, by variant.
    pub measured: Vec<(VariantId, Measurement)>,
}

impl DeviceView {
    pub(crate) fn measurement(&self, variant: VariantId) -> Option<&Measurement> {
        self.measured.iter().find(|(v, _)| *v == variant).map(|(_, measurement)| measurement)
    }

    /// The value of `metric` as this device measured it with `rung`.
    pub(crate) fn measured_value(&self, rung: &Rung, metric: Metric) -> Option<f64> {
        self.measurement(rung.variant)?.value(metric)
    }
}
