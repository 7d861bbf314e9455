//! Which rung fits a device best.

use secateur_common::{Budget, Metric, Violation};

use crate::cost_model::CostModel;
use crate::{Ladder, Rung};

/// Two accuracies nearer than this, or than a standard error of the better one, are taken as equal; then the less pruned
/// rung is the better one.
const ACCURACY_TOLERANCE: f64 = 0.003;
/// A rung that was never measured and is larger than the present one must be predicted to stay this far under its
/// limits on latency, energy and memory: what separates going up from coming down again.
const UP_MARGIN: f64 = 0.85;
/// A rung that was assigned and not measured yet stays while it is predicted to be this near to its limits: its
/// measurement decides, not what others measure meanwhile.
const STAY_MARGIN: f64 = 1.1;
/// What a relaxed limit leaves to noise, and to what is only predicted.
const SPARE: f64 = 1.1;

/// The rung that a device should run under `budget`, if one fits.
pub(crate) fn best<'l>(
    costs: &CostModel<'_>,
    ladder: &'l Ladder,
    budget: &Budget,
    current: Option<&Rung>,
) -> Option<&'l Rung> {
    let fitting: Vec<&Rung> =
        ladder.rungs.iter().filter(|rung| fits(costs, ladder, budget, rung, current)).collect();
    let known = fitting.iter().filter_map(|rung| rung.accuracy);
    let best = known.max_by(|a, b| a.value().total_cmp(&b.value()));
    let good = |rung: &&&Rung| match (best, rung.accuracy) {
        (Some(best), Some(accuracy)) => {
            accuracy.value() >= best.value() - best.variance().sqrt().max(ACCURACY_TOLERANCE)
        }
        (best, _) => best.is_none(),
    };
    // Of equals the least pruned, and of these the first in the ladder.
    fitting.iter().filter(good).rev().max_by_key(|rung| (rung.cost.macs, rung.cost.model_bytes)).copied()
}

fn fits(
    costs: &CostModel<'_>,
    ladder: &Ladder,
    budget: &Budget,
    rung: &Rung,
    current: Option<&Rung>,
) -> bool {
    budget.violations(|metric| cautious(costs, ladder, rung, current, metric)).is_empty()
}

/// The value of `metric` that a rung is chosen by: what is only predicted has a margin.
fn cautious(
    costs: &CostModel<'_>,
    ladder: &Ladder,
    rung: &Rung,
    current: Option<&Rung>,
    metric: Metric,
) -> Option<f64> {
    let value = costs.value(ladder, rung, metric)?;
    let noisy = matches!(metric, Metric::LatencyP95 | Metric::EnergyPerInference | Metric::PeakMemoryBytes);
    if !noisy || costs.device.measurement(rung.variant).is_some() {
        return Some(value);
    }
    let upward = current.is_some_and(|current| rung.cost.dense_macs > current.cost.dense_macs);
    let stays = current.is_some_and(|current| current.variant == rung.variant);
    Some(
        value
            / if upward {
                UP_MARGIN
            } else if stays {
                STAY_MARGIN
            } else {
                1.0
            },
    )
}

/// The limits that `rung` breaks on a device, as measured where it was measured and confirmed, else as computed.
pub(crate) fn violations(
    costs: &CostModel<'_>,
    ladder: &Ladder,
    budget: &Budget,
    rung: &Rung,
) -> Vec<Violation> {
    let measurement = costs.device.measurement(rung.variant);
    let confirmed = |metric: Metric| measurement.is_none_or(|measurement| measurement.confirmed(metric));
    budget.violations(|metric| costs.value(ladder, rung, metric).filter(|_| confirmed(metric)))
}

/// What is wrong with the rung that is nearest to fitting where none does: the limits that it breaks, the worst first; of
/// the rung whose worst one is broken least. As a last rung counts the most pruned one as far as pruning was found to
/// reach.
pub(crate) fn nearest(
    costs: &CostModel<'_>,
    ladder: &Ladder,
    budget: &Budget,
    current: Option<&Rung>,
) -> Vec<Violation> {
    let broken = |rung: &Rung, reached: bool| {
        let mut broken = budget.violations(|metric| {
            let value = cautious(costs, ladder, rung, current, metric)?;
            let floor = ladder.floor(metric).filter(|_| reached && metric != Metric::AccuracyMin);
            Some(floor.map_or(value, |floor| floor.min(value)))
        });
        broken.sort_by(|a, b| excess(b).total_cmp(&excess(a)));
        broken
    };
    let rungs = ladder.rungs.iter().map(|rung| broken(rung, false));
    let candidates = rungs.chain(ladder.rungs.last().map(|rung| broken(rung, true)));
    candidates
        .filter(|broken| !broken.is_empty())
        .min_by(|a, b| worst(a).total_cmp(&worst(b)))
        .unwrap_or_default()
}

fn worst(broken: &[Violation]) -> f64 {
    broken.first().map_or(0.0, excess)
}

/// By what factor a limit is broken; of an accuracy, by what factor more answers are wrong than may be.
fn excess(violation: &Violation) -> f64 {
    let Violation { metric, limit, actual } = *violation;
    match metric {
        Metric::AccuracyMin => (1.0 - actual) / (1.0 - limit).max(1e-3),
        _ => actual / limit.max(1e-9),
    }
}

/// The limit that `violation` would not break: what was found, with something to spare where it varies from report to
/// report, as far as it shows, so that it can be typed as it is told.
pub(crate) fn relaxed(violation: &Violation) -> (Metric, f64) {
    let Violation { metric, actual, .. } = *violation;
    let spare = match metric {
        Metric::LatencyP95 | Metric::EnergyPerInference | Metric::PeakMemoryBytes => SPARE,
        _ => 1.0,
    };
    (metric, metric.shown(actual * spare))
}
