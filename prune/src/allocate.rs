//! Which path to take and how far, so that every limit holds at the least loss.

use secateur_common::{Budget, Metric};
use secateur_model::Graph;
use secateur_model::groups::KeepSets;

use crate::channels::Family;
use crate::measure::first_within;
use crate::path::Path;
use crate::widths::Prices;
use crate::{PruneError, Sizer};

/// A point of a path, and its cut graph.
pub(crate) type Point = (Path, usize, Graph);

/// The path and the point of it at which every limit of `budget` holds: of the ways to weigh the limits against each
/// other the one that loses least, were groups independent.
///
/// # Errors
/// Where no path meets the budget: names the limit it breaks by most, and what it reaches.
pub(crate) fn allocate(family: &Family, budget: &Budget, sizer: Sizer<'_>) -> Result<Point, PruneError> {
    let mut best: Option<(f64, Point)> = None;
    let mut refused = None;
    for prices in prices(family, budget) {
        let path = family.path(prices);
        match first_within(path.len(), budget, sizer, |steps| family.build(&path, steps)) {
            Ok((steps, graph)) => {
                let loss = loss(family, &path.keep(&family.groups, steps));
                let point = (path, steps, graph);
                if best.as_ref().is_none_or(|best| loss < best.0) {
                    best = Some((loss, point));
                }
            }
            Err(error @ PruneError::Infeasible { .. }) => refused = Some(error),
            Err(error) => return Err(error),
        }
    }
    match (best, refused) {
        (Some((_, point)), _) => Ok(point),
        (None, Some(error)) => Err(error),
        (None, None) => Err(PruneError::NoTarget),
    }
}

/// Ways to weigh costs: each limited one alone, and all alike. A path by score alone weighs nothing.
fn prices(family: &Family, budget: &Budget) -> Vec<Prices> {
    let limited = |metric: Metric| budget.get(metric).is_some();
    let bytes = limited(Metric::ModelBytes) || limited(Metric::PeakMemoryBytes);
    match (family.curves.is_some() && bytes, limited(Metric::Macs)) {
        (false, _) => vec![Prices::MACS],
        (true, false) => vec![Prices::PARAMETERS, Prices::EVEN],
        (true, true) => vec![Prices::MACS, Prices::PARAMETERS, Prices::EVEN],
    }
}

/// What keeping only `keep` loses, were groups independent.
fn loss(family: &Family, keep: &KeepSets) -> f64 {
    let curves = family.curves.iter().flatten();
    let groups = &family.groups.groups;
    curves.zip(keep).zip(groups).map(|((curve, kept), group)| curve[group.channels - kept.len()]).sum()
}
