//! Which path to take and how far, so that every limit holds at the least loss.

use secateur_common::{Budget, Metric};
use secateur_model::Graph;
use secateur_model::groups::KeepSets;

use crate::channels::Family;
use crate::measure::{first_within, violations};
use crate::path::Path;
use crate::widths::Prices;
use crate::{PruneError, Sizer};

/// Channels that are given back, at most.
const FILLS: usize = 32;

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
        (Some((_, point)), _) => filled(family, budget, sizer, point),
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

/// Gives channels back for which there is room after all: a path overshoots by up to its widest step. What is worth
/// most comes first, each group once a round.
fn filled(family: &Family, budget: &Budget, sizer: Sizer<'_>, point: Point) -> Result<Point, PruneError> {
    let Some(curves) = &family.curves else { return Ok(point) };
    let mut best = point;
    for _ in 0..FILLS {
        let keep = best.0.keep(&family.groups, best.1);
        let worth = |group: usize| {
            let gone = family.groups.groups[group].channels - keep[group].len();
            curves[group][gone] - curves[group][gone - 1]
        };
        let mut last = best.0.last_of_each(best.1);
        last.sort_by(|a, b| worth(b.0).total_cmp(&worth(a.0)));
        let mut given = false;
        for (_, at) in last {
            let (path, steps) = (best.0.put_off(at, best.1), best.1 - 1);
            let graph = family.build(&path, steps)?;
            if violations(&graph, budget, sizer)?.is_empty() {
                (best, given) = ((path, steps, graph), true);
                break;
            }
        }
        if !given {
            break;
        }
    }
    Ok(best)
}

/// What keeping only `keep` loses, were groups independent.
fn loss(family: &Family, keep: &KeepSets) -> f64 {
    let curves = family.curves.iter().flatten();
    let groups = &family.groups.groups;
    curves.zip(keep).zip(groups).map(|((curve, kept), group)| curve[group.channels - kept.len()]).sum()
}
