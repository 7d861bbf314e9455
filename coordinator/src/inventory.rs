//! Devices as they were last heard: what they hold, run and measured.

use secateur_common::{
    ByteCount, DeviceId, Generation, Heard, Labels, Ledger, Metric, Name, Report, VariantId,
};
use secateur_plan::{Assignment, DeviceView, Ladder, Measurement};
use serde::Deserialize;

/// Variants of which a device's measurements are kept.
const MEASURED: usize = 16;

/// One device. There may be very many: what most lack is behind a pointer.
#[derive(Clone, PartialEq, Debug, Deserialize)]
pub(crate) struct DeviceRecord {
    /// Its name, for people.
    pub(crate) name: Name,
    /// What the planner sees.
    pub(crate) view: DeviceView,
    /// Variants it holds: any of them may be a delta's base.
    pub(crate) held: Vec<VariantId>,
    /// What it runs, and since which generation.
    pub(crate) active: Option<(VariantId, Generation)>,
    /// The newest generation it accepted.
    pub(crate) accepted: Generation,
    /// The newest generation that it could not activate.
    #[serde(default)]
    pub(crate) failed: Option<Generation>,
    /// Its newest report.
    pub(crate) newest: Option<Box<Heard>>,
    /// The update that led to what it runs.
    pub(crate) shipped: Option<Shipped>,
    /// All update bytes that it was served.
    pub(crate) served: ByteCount,
    /// What it was sent today, as counted here.
    #[serde(default)]
    pub(crate) sent: Ledger,
    /// When it was last heard, seconds since the Unix epoch.
    pub(crate) heard_unix_s: u64,
}

/// What a device says when it connects.
#[derive(Clone, Debug)]
pub(crate) struct Hello {
    pub(crate) name: Name,
    pub(crate) labels: Labels,
    pub(crate) held: Vec<VariantId>,
    pub(crate) active: Option<(VariantId, Generation)>,
    pub(crate) accepted: Generation,
}

/// An update that a device activated.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
pub(crate) struct Shipped {
    pub(crate) variant: VariantId,
    /// As received, repeats after a cut included.
    pub(crate) bytes: ByteCount,
    pub(crate) delta: bool,
}

impl DeviceRecord {
    /// A device of which nothing is known yet.
    pub(crate) fn new(id: DeviceId, name: Name) -> Self {
        let view = DeviceView { id, labels: Labels::default(), measured: Vec::new() };
        Self {
            name,
            view,
            held: Vec::new(),
            active: None,
            accepted: Generation(0),
            failed: None,
            newest: None,
            shipped: None,
            served: ByteCount(0),
            sent: Ledger::default(),
            heard_unix_s: 0,
        }
    }

    /// What the device said when it connected.
    pub(crate) fn hello(&mut self, hello: Hello) {
        let Hello { name, labels, held, active, accepted } = hello;
        (self.name, self.view.labels) = (name, labels);
        (self.held, self.active, self.accepted) = (held, active, accepted);
    }

    /// Takes in a report; one that was heard before is passed over.
    pub(crate) fn report(&mut self, heard: Heard) -> bool {
        let report = &heard.report;
        self.heard_unix_s = self.heard_unix_s.max(heard.at_unix_s);
        if self.newest.as_ref().is_some_and(|newest| report.sequence <= newest.report.sequence) {
            return false;
        }
        let measured = &mut self.view.measured;
        let index =
            measured.iter().position(|(variant, _)| *variant == report.variant).unwrap_or_else(|| {
                measured.push((report.variant, Measurement::default()));
                measured.len() - 1
            });
        measured[index].1.add(report);
        if measured.len() > MEASURED {
            // The dense model, measured first, stays: relative limits are taken of it.
            measured.remove(1);
        }
        self.newest = Some(Box::new(heard));
        true
    }

    /// The newest report, if it is of what the device should run.
    pub(crate) fn current_report(&self, assignment: &Assignment) -> Option<&Report> {
        let report = &self.newest.as_ref()?.report;
        (Some(report.variant) == assignment.variant).then_some(report)
    }

    /// Whether the device runs what it should and has reported with it.
    pub(crate) fn settled(&self, assignment: &Assignment) -> bool {
        match assignment.variant {
            None => true,
            Some(variant) => {
                self.active == Some((variant, assignment.generation))
                    && self.current_report(assignment).is_some()
            }
        }
    }

    /// Whether every limit holds with the assigned variant, by measurement wherever the metric is measured.
    pub(crate) fn met(&self, assignment: &Assignment, ladder: &Ladder) -> bool {
        let rung = assignment.variant.and_then(|variant| ladder.find(variant)).map(|(_, rung)| rung);
        let (Some(rung), true) = (rung, assignment.feasible && self.settled(assignment)) else {
            return false;
        };
        let measurement =
            self.view.measured.iter().find(|(variant, _)| *variant == rung.variant).map(|(_, m)| m);
        let value = |metric: Metric| match metric {
            Metric::LatencyP95 => measurement.and_then(Measurement::latency_us).or(Some(f64::INFINITY)),
            Metric::PeakMemoryBytes => measurement.map(|m| m.memory_bytes as f64).or(Some(f64::INFINITY)),
            Metric::ModelBytes => measurement.map(|m| m.model_bytes as f64).or(Some(f64::INFINITY)),
            Metric::AccuracyMin => measurement.filter(|m| m.accuracy.samples > 0).map(|m| m.accuracy.value()),
            metric => rung.cost.metric(metric),
        };
        assignment.budget.violations(value).is_empty()
    }
}
