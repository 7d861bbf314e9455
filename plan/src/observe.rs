//! What is known of a device: what it measured, and what follows for variants that it has not run.

use secateur_common::{
    Accuracy, Budget, BudgetSpec, DeviceId, Generation, Labels, Metric, Micros, Report, VariantId,
};
use serde::{Deserialize, Serialize};

use crate::{Ladder, Rung};

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

    /// The value of `metric` for `rung` on this device: measured where it was, else predicted, else computed.
    pub(crate) fn value(&self, ladder: &Ladder, rung: &Rung, metric: Metric) -> Option<f64> {
        self.measured_value(rung, metric).or_else(|| self.predicted(ladder, rung, metric)).or_else(|| {
            match metric {
                Metric::AccuracyMin => rung.accuracy.map(|accuracy| accuracy.value()),
                metric => rung.cost.metric(metric),
            }
        })
    }

    /// The value of `metric` as this device measured it with `rung`.
    pub(crate) fn measured_value(&self, rung: &Rung, metric: Metric) -> Option<f64> {
        let measurement = self.measurement(rung.variant)?;
        match metric {
            Metric::LatencyP95 => measurement.latency_us(),
            Metric::EnergyPerInference => measurement.energy_uj(),
            Metric::PeakMemoryBytes => Some(measurement.memory_bytes as f64).filter(|&bytes| bytes > 0.0),
            Metric::ModelBytes => Some(measurement.model_bytes as f64).filter(|&bytes| bytes > 0.0),
            Metric::AccuracyMin => Some(measurement.own_accuracy())
                .filter(|accuracy| accuracy.samples > 0)
                .map(|accuracy| accuracy.value()),
            _ => None,
        }
    }

    /// What the measurement nearest in size says of `rung`.
    ///
    /// Latency and energy are proportional to the MACs that the engine computes going up, and a fifth of it is taken as fixed going
    /// down, both on the safe side. Memory is the computed peak times the ratio at which the device measures it.
    fn predicted(&self, ladder: &Ladder, rung: &Rung, metric: Metric) -> Option<f64> {
        const FIXED_SHARE: f64 = 0.2;
        let size = |rung: &Rung| rung.cost.dense_macs.get().max(1) as f64;
        let known =
            ladder.rungs.iter().filter_map(|other| Some((other, self.measured_value(other, metric)?)));
        let distance = |other: &Rung| (size(other) / size(rung)).ln().abs();
        let (nearest, value) = known.min_by(|(a, _), (b, _)| distance(a).total_cmp(&distance(b)))?;
        match metric {
            Metric::LatencyP95 | Metric::EnergyPerInference => {
                let ratio = size(rung) / size(nearest);
                Some(value * if ratio < 1.0 { FIXED_SHARE + (1.0 - FIXED_SHARE) * ratio } else { ratio })
            }
            Metric::PeakMemoryBytes => {
                let computed = |rung: &Rung| rung.cost.peak_memory_bytes.get().max(1) as f64;
                Some(value * computed(rung) / computed(nearest))
            }
            _ => None,
        }
    }

    /// The device's absolute budget: relative limits are taken of the dense model as this device measures it.
    ///
    /// # Errors
    /// Names the metric of which nothing is known yet.
    pub(crate) fn budget(&self, ladder: &Ladder, spec: &BudgetSpec) -> Result<Budget, Metric> {
        spec.resolve(|metric| self.value(ladder, ladder.dense()?, metric))
    }
}
