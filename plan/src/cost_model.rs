//! The cost model: what a rung costs on a device. What the device measured counts; of what it has not run, what others of
//! its class measured, at this device's pace; else what the rungs say that are known.

use secateur_common::{Budget, BudgetSpec, Metric};

use crate::class::{self, Class, Values};
use crate::{DeviceView, Ladder, Rung};

/// What costs are known of or predicted for one device.
pub struct CostModel<'a> {
    pub(crate) device: &'a DeviceView,
    class: &'a Class,
    pace: Values,
}

/// What is taken as fixed of a latency or an energy, whatever the MACs, where only one rung is known.
const FIXED_SHARE: f64 = 0.2;
/// Two rungs that differ in size by at least this factor tell how latency grows with it.
const APART: f64 = 1.25;

impl<'a> CostModel<'a> {
    /// For `device`, of `class`.
    pub fn new(device: &'a DeviceView, class: &'a Class) -> Self {
        Self { device, class, pace: class.pace(device) }
    }

    /// The value of `metric` for `rung` on this device: measured where it was, else predicted, else computed.
    pub fn value(&self, ladder: &Ladder, rung: &Rung, metric: Metric) -> Option<f64> {
        self.known(rung, metric).or_else(|| self.predicted(ladder, rung, metric)).or_else(|| match metric {
            Metric::AccuracyMin => rung.accuracy.map(|accuracy| accuracy.value()),
            metric => rung.cost.metric(metric),
        })
    }

    /// The value of `metric` for `rung` as this device measured it, or as its class did and at this device's pace.
    pub(crate) fn known(&self, rung: &Rung, metric: Metric) -> Option<f64> {
        self.device.measured_value(rung, metric).or_else(|| {
            let pace = self.pace[class::index(metric)?].unwrap_or(1.0);
            Some(self.class.typical(rung.variant, metric)? * pace)
        })
    }

    /// What rungs that are known say of one that is not. Latency and energy grow with the MACs that the engine computes:
    /// along the line through the nearest rungs on both sides, or the nearest two. Of one rung alone they are taken in
    /// proportion going up, and with a fifth fixed going down. Memory is the computed peak times the ratio at which the
    /// nearest rung is measured.
    fn predicted(&self, ladder: &Ladder, rung: &Rung, metric: Metric) -> Option<f64> {
        let mut known: Vec<(&Rung, f64)> =
            ladder.rungs.iter().filter_map(|other| Some((other, self.known(other, metric)?))).collect();
        let distance = |other: &Rung| (size(other) / size(rung)).ln().abs();
        known.sort_by(|(a, _), (b, _)| distance(a).total_cmp(&distance(b)));
        let &(nearest, value) = known.first()?;
        let ratio = size(rung) / size(nearest);
        match metric {
            Metric::LatencyP95 | Metric::EnergyPerInference => {
                let grows = |(other, _): &&(&Rung, f64)| {
                    size(other).max(size(nearest)) >= APART * size(other).min(size(nearest))
                };
                let beyond = |(other, _): &&(&Rung, f64)| (size(other) > size(nearest)) == (ratio > 1.0);
                let second = known.iter().filter(grows).find(beyond).or_else(|| known.iter().find(grows));
                let line = second.map(|&(other, more)| {
                    let slope = (more - value) / (size(other) - size(nearest));
                    let line = value + slope * (size(rung) - size(nearest));
                    // Neither all in proportion nor all fixed.
                    line.clamp(value * ratio.min(1.0), value * ratio.max(1.0))
                });
                let alone =
                    value * if ratio < 1.0 { FIXED_SHARE + (1.0 - FIXED_SHARE) * ratio } else { ratio };
                Some(match line {
                    // Down where nothing is known it is tried rather than despaired of.
                    Some(line) if known.iter().all(|(other, _)| size(other) > size(rung)) => line.min(alone),
                    Some(line) => line,
                    None => alone,
                })
            }
            Metric::PeakMemoryBytes => {
                let computed = |rung: &Rung| rung.cost.peak_memory_bytes.get().max(1) as f64;
                Some(value * computed(rung) / computed(nearest))
            }
            _ => None,
        }
    }

    /// The device's absolute budget: relative limits are taken of the dense model as this device measures it, whatever
    /// others do.
    ///
    /// # Errors
    /// Names the metric of which nothing is known yet.
    pub(crate) fn budget(&self, ladder: &Ladder, spec: &BudgetSpec) -> Result<Budget, Metric> {
        let own = CostModel::new(self.device, Class::unknown());
        spec.resolve(|metric| own.value(ladder, ladder.dense()?, metric))
    }
}

fn size(rung: &Rung) -> f64 {
    rung.cost.dense_macs.get().max(1) as f64
}
