//! What a candidate costs, and the first candidate of a falling path at which every limit holds.

use secateur_common::{Budget, ByteCount, Cost, Metric, Violation};
use secateur_model::{Graph, cost};

use crate::{PruneError, Sizer};

/// The metrics that removing channels or weights brings down with certainty.
const METRICS: [Metric; 3] = [Metric::Macs, Metric::ModelBytes, Metric::PeakMemoryBytes];

/// # Errors
/// Names a metric of `budget` that pruning cannot answer for.
pub(crate) fn supported(budget: &Budget) -> Result<(), PruneError> {
    match budget.iter().find(|(metric, _)| !METRICS.contains(metric)) {
        Some((metric, _)) => Err(PruneError::UnsupportedMetric { metric }),
        None => Ok(()),
    }
}

/// The limits that `graph` breaks. The sizer is asked only where bytes are limited: it encodes the whole model.
///
/// # Errors
/// Where the graph's shapes are not known.
pub(crate) fn violations(
    graph: &Graph,
    budget: &Budget,
    sizer: Sizer<'_>,
) -> Result<Vec<Violation>, PruneError> {
    let cost = cost_of(graph, budget.get(Metric::ModelBytes).is_some().then_some(sizer))?;
    Ok(budget.violations(|metric| cost.metric(metric)))
}

/// # Errors
/// Where the graph's shapes are not known.
pub(crate) fn cost_of(graph: &Graph, sizer: Option<Sizer<'_>>) -> Result<Cost, PruneError> {
    let analysis =
        cost::analyse(graph).map_err(|error| PruneError::Unrunnable { problem: error.to_string() })?;
    Ok(analysis.cost(sizer.map_or(ByteCount(0), |sizer| sizer(graph))))
}

/// The least step of `0..=last` at which all limits of `budget` hold, with its graph. Costs fall along the path.
///
/// # Errors
/// Where not even the last step meets the budget: names the limit it breaks by most, and what it reaches.
pub(crate) fn first_within(
    last: usize,
    budget: &Budget,
    sizer: Sizer<'_>,
    build: impl Fn(usize) -> Result<Graph, PruneError>,
) -> Result<(usize, Graph), PruneError> {
    let mut found = (last, build(last)?);
    let broken = violations(&found.1, budget, sizer)?;
    let worst = broken.into_iter().max_by(|a, b| (a.actual / a.limit).total_cmp(&(b.actual / b.limit)));
    if let Some(Violation { metric, limit, actual }) = worst {
        return Err(PruneError::Infeasible { metric, limit, smallest: actual });
    }
    let mut low = 0;
    while low < found.0 {
        let middle = low + (found.0 - low) / 2;
        let graph = build(middle)?;
        if violations(&graph, budget, sizer)?.is_empty() {
            found = (middle, graph);
        } else {
            low = middle + 1;
        }
    }
    Ok(found)
}
