//! Which rung fits a device best.

use secateur_common::{Budget, Metric, Violation};

use crate::{DeviceView, Ladder, Rung};

/// Two accuracies nearer than this are taken as equal; then the less pruned rung is the better one.
const ACCURACY_TOLERANCE: f64 = 0.003;
/// A rung that was never measured and is larger than the present one must be predicted to stay this far under its
/// limits on latency, energy and memory: what separates going up from coming down again.
const UP_MARGIN: f64 = 0.85;

/// The rung that `device` should run under `budget`, if one fits.
pub(crate) fn best<'l>(
    device: &DeviceView,
    ladder: &'l Ladder,
    budget: &Budget,
    current: Option<&Rung>,
) -> Option<&'l Rung> {
    let fitting: Vec<&Rung> =
        ladder.rungs.iter().filter(|rung| fits(device, ladder, budget, rung, current)).collect();
    let accuracy = |rung: &Rung| rung.accuracy.map(|accuracy| accuracy.value());
    let best = fitting.iter().filter_map(|rung| accuracy(rung)).reduce(f64::max);
    let good = |rung: &&&Rung| match (best, accuracy(rung)) {
        (Some(best), Some(value)) => value >= best - ACCURACY_TOLERANCE,
        (best, _) => best.is_none(),
    };
    // Of equals the least pruned, and of these the first in the ladder.
    fitting.iter().filter(good).rev().max_by_key(|rung| (rung.cost.macs, rung.cost.model_bytes)).copied()
}

fn fits(device: &DeviceView, ladder: &Ladder, budget: &Budget, rung: &Rung, current: Option<&Rung>) -> bool {
    let measured_here = device.measurement(rung.variant).is_some();
    let upward = current.is_some_and(|current| rung.cost.dense_macs > current.cost.dense_macs);
    let margin = if upward && !measured_here { UP_MARGIN } else { 1.0 };
    let value = |metric: Metric| {
        let noisy =
            matches!(metric, Metric::LatencyP95 | Metric::EnergyPerInference | Metric::PeakMemoryBytes);
        device.value(ladder, rung, metric).map(|value| if noisy { value / margin } else { value })
    };
    budget.violations(value).is_empty()
}

/// The limits that `rung` breaks on `device`, as measured where it was measured and confirmed, else as computed.
pub(crate) fn violations(
    device: &DeviceView,
    ladder: &Ladder,
    budget: &Budget,
    rung: &Rung,
) -> Vec<Violation> {
    let measurement = device.measurement(rung.variant);
    let confirmed = |metric: Metric| measurement.is_none_or(|measurement| measurement.confirmed(metric));
    budget.violations(|metric| device.value(ladder, rung, metric).filter(|_| confirmed(metric)))
}

/// The limit that binds where no rung fits: the one whose best value over the ladder is furthest from it; where each
/// can be met by itself, the first that the most pruned rung breaks.
pub(crate) fn binding(device: &DeviceView, ladder: &Ladder, budget: &Budget) -> Option<Violation> {
    let best = |metric: Metric| {
        let values = ladder.rungs.iter().filter_map(|rung| device.value(ladder, rung, metric));
        let best =
            if metric == Metric::AccuracyMin { values.reduce(f64::max) } else { values.reduce(f64::min) };
        match (best, ladder.floor(metric)) {
            (Some(best), Some(floor)) if metric != Metric::AccuracyMin => Some(best.min(floor)),
            (best, _) => best,
        }
    };
    let excess = |v: &Violation| {
        if v.metric == Metric::AccuracyMin { v.limit / v.actual.max(1e-9) } else { v.actual / v.limit }
    };
    let alone = budget.violations(best);
    let worst = alone.into_iter().max_by(|a, b| excess(a).total_cmp(&excess(b)));
    worst.or_else(|| {
        ladder.rungs.last().and_then(|rung| violations(device, ladder, budget, rung).into_iter().next())
    })
}
