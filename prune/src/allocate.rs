//! Which path to take and how far, so that every limit holds at the least loss.

use secateur_common::{Budget, Metric};
use secateur_model::Graph;
use secateur_model::groups::KeepSets;

use crate::channels::Family;
use crate::measure::{first_within, holds};
use crate::path::Path;
use crate::widths::{Prices, Widths};
use crate::{Meter, PruneError};

/// Channels that are given back, at most.
const FILLS: usize = 32;

/// A point of a path, and its cut graph.
pub(crate) type Point = (Path, usize, Graph);

/// The path and the point of it at which every limit of `budget` holds: of the ways to weigh the limits against each
/// other the one that loses least, were groups independent. Where time is limited, widths fill whole lanes if they can.
///
/// # Errors
/// Where no path meets the budget: names the limit it breaks by most, and what it reaches.
pub(crate) fn allocate(family: &Family, budget: &Budget, meter: Meter<'_>) -> Result<Point, PruneError> {
    let timed = [Metric::LatencyP95, Metric::EnergyPerInference].map(|metric| budget.get(metric).is_some());
    let timing = meter.timing.filter(|_| timed.contains(&true));
    let widths = family.widths(timing)?;
    let lanes = timing.map_or(1, |timing| timing.lanes);
    let whole = if lanes > 1 { least(family, &widths, budget, meter, lanes) } else { Ok(None) };
    let found = match whole {
        Ok(None) | Err(PruneError::Infeasible { .. }) => least(family, &widths, budget, meter, 1)?,
        other => other?,
    };
    filled(family, budget, meter, found.ok_or(PruneError::NoTarget)?)
}

fn least(
    family: &Family,
    widths: &Widths,
    budget: &Budget,
    meter: Meter<'_>,
    lanes: usize,
) -> Result<Option<Point>, PruneError> {
    let mut best: Option<(f64, Point)> = None;
    let mut refused = None;
    for prices in prices(family, budget) {
        let path = family.path_by(widths, &prices, lanes);
        match first_within(path.len(), budget, meter, |steps| family.build(&path, steps)) {
            Ok((steps, graph)) => {
                let loss = loss(family, &path.keep(&family.groups, steps));
                if best.as_ref().is_none_or(|best| loss < best.0) {
                    best = Some((loss, (path, steps, graph)));
                }
            }
            Err(error @ PruneError::Infeasible { .. }) => refused = Some(error),
            Err(error) => return Err(error),
        }
    }
    match (best, refused) {
        (None, Some(error)) => Err(error),
        (best, _) => Ok(best.map(|(_, point)| point)),
    }
}

/// Ways to weigh costs: each limited one alone, and all alike. A path by score alone weighs nothing.
fn prices(family: &Family, budget: &Budget) -> Vec<Prices> {
    let limited = |metric: Metric| budget.get(metric).is_some();
    let bytes = limited(Metric::ModelBytes) || limited(Metric::PeakMemoryBytes);
    let ways = [
        (limited(Metric::Macs), Prices::MACS),
        (bytes, Prices::PARAMETERS),
        (limited(Metric::LatencyP95), Prices::TIME),
        (limited(Metric::EnergyPerInference), Prices::ENERGY),
    ];
    let mut ways: Vec<Prices> = ways.into_iter().filter(|way| way.0).map(|way| way.1).collect();
    if family.curves.is_none() {
        return vec![Prices::MACS];
    }
    let all = ways.iter().fold(Prices::NONE, |all, &way| all.and(way));
    match (bytes, ways.len()) {
        (true, 1) => ways.push(all.and(Prices::MACS)),
        (_, 2..) => ways.push(all),
        _ => {}
    }
    ways
}

/// Gives channels back for which there is room after all: a path overshoots by up to its widest step. What is worth
/// most comes first, each group once a round.
fn filled(family: &Family, budget: &Budget, meter: Meter<'_>, point: Point) -> Result<Point, PruneError> {
    let Some(curves) = &family.curves else { return Ok(point) };
    let mut best = point;
    for _ in 0..FILLS {
        let keep = best.0.keep(&family.groups, best.1);
        let gone = |group: usize| family.groups.groups[group].channels - keep[group].len();
        let worth = |group: usize| curves[group][gone(group)] - curves[group][gone(group) - 1];
        let mut narrowed: Vec<usize> = (0..keep.len()).filter(|&group| gone(group) > 0).collect();
        narrowed.sort_by(|&a, &b| worth(b).total_cmp(&worth(a)));
        let mut given = false;
        for group in narrowed {
            let (path, steps) = best.0.given_back(group, gone(group), best.1);
            let graph = family.build(&path, steps)?;
            if holds(&graph, budget, meter)? {
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
