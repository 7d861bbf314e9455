//! What a candidate costs, and the first candidate of a falling path at which every limit holds.

use secateur_common::{Budget, ByteCount, Cost, Metric, Violation};
use secateur_model::{Graph, cost};

use crate::oracle::unrunnable;
use crate::{Meter, PruneError};

/// # Errors
/// Names a metric of `budget` that pruning cannot answer for.
pub(crate) fn supported(budget: &Budget, meter: Meter<'_>) -> Result<(), PruneError> {
    let answered = |metric: Metric| match metric {
        Metric::Macs | Metric::ModelBytes | Metric::PeakMemoryBytes => true,
        Metric::LatencyP95 => meter.timing.is_some(),
        Metric::EnergyPerInference => meter.timing.is_some_and(|timing| timing.energy.is_some()),
        Metric::DownloadBytesPerDay | Metric::AccuracyMin => false,
    };
    match budget.iter().find(|(metric, _)| !answered(*metric)) {
        Some((metric, _)) => Err(PruneError::UnsupportedMetric { metric }),
        None => Ok(()),
    }
}

/// The limits that `graph` breaks.
///
/// # Errors
/// Where the graph's shapes are not known.
pub(crate) fn violations(
    graph: &Graph,
    budget: &Budget,
    meter: Meter<'_>,
) -> Result<Vec<Violation>, PruneError> {
    let mut broken = but_bytes(graph, budget, meter)?;
    broken.extend(bytes(graph, budget, meter));
    Ok(broken)
}

/// Whether `graph` breaks none. Its bytes are asked for last: that encodes the whole model.
///
/// # Errors
/// Where the graph's shapes are not known.
pub(crate) fn holds(graph: &Graph, budget: &Budget, meter: Meter<'_>) -> Result<bool, PruneError> {
    Ok(but_bytes(graph, budget, meter)?.is_empty() && bytes(graph, budget, meter).is_none())
}

fn but_bytes(graph: &Graph, budget: &Budget, meter: Meter<'_>) -> Result<Vec<Violation>, PruneError> {
    let cost = cost_of(graph)?;
    let limited = |metric: Metric| meter.timing.filter(|_| budget.get(metric).is_some());
    let latency = limited(Metric::LatencyP95).map(|timing| timing.p95_us(graph)).transpose();
    let energy = limited(Metric::EnergyPerInference).map(|timing| timing.energy_uj(graph)).transpose();
    let (latency, energy) = (latency.map_err(unrunnable)?, energy.map_err(unrunnable)?.flatten());
    Ok(budget.violations(|metric| match metric {
        Metric::ModelBytes => None,
        Metric::LatencyP95 => latency,
        Metric::EnergyPerInference => energy,
        _ => cost.metric(metric),
    }))
}

fn bytes(graph: &Graph, budget: &Budget, meter: Meter<'_>) -> Option<Violation> {
    let (metric, limit) = (Metric::ModelBytes, budget.get(Metric::ModelBytes)?);
    let actual = (meter.bytes)(graph).get() as f64;
    (actual > limit).then_some(Violation { metric, limit, actual })
}

/// What a graph costs, but for its bytes.
///
/// # Errors
/// Where the graph's shapes are not known.
pub(crate) fn cost_of(graph: &Graph) -> Result<Cost, PruneError> {
    Ok(cost::analyse(graph).map_err(unrunnable)?.cost(ByteCount(0)))
}

/// The least step of `0..=last` at which all limits of `budget` hold, with its graph. Costs fall along the path.
///
/// # Errors
/// Where not even the last step meets the budget: names the limit it breaks by most, and what it reaches.
pub(crate) fn first_within(
    last: usize,
    budget: &Budget,
    meter: Meter<'_>,
    build: impl Fn(usize) -> Result<Graph, PruneError>,
) -> Result<(usize, Graph), PruneError> {
    let mut found = (last, build(last)?);
    let broken = violations(&found.1, budget, meter)?;
    let worst = broken.into_iter().max_by(|a, b| (a.actual / a.limit).total_cmp(&(b.actual / b.limit)));
    if let Some(Violation { metric, limit, actual }) = worst {
        return Err(PruneError::Infeasible { metric, limit, smallest: actual });
    }
    let mut low = 0;
    while low < found.0 {
        let middle = low + (found.0 - low) / 2;
        let graph = build(middle)?;
        if holds(&graph, budget, meter)? {
            found = (middle, graph);
        } else {
            low = middle + 1;
        }
    }
    Ok(found)
}
