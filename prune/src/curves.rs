//! What each group's channels are worth: the divergence from the dense answers with one group cut and nothing else.

use secateur_model::groups::{Group, Groups, KeepSets, Role, masked};
use secateur_model::{Graph, Tensor};

use crate::divergence::divergence;
use crate::observe::{Live, Observed, forget, step};
use crate::oracle::unrunnable;
use crate::reconstruct::reconstruct;
use crate::trace::Trace;
use crate::{Progress, PruneError};

/// Calibration inputs on which curves are taken.
const IMAGES: usize = 384;
/// Shares of a group that are cut, in eighths.
const EIGHTHS: [usize; 8] = [1, 2, 3, 4, 5, 6, 7, 8];

/// For each group, the divergence after 0, 1, … of its channels are gone, as many left as must be: rises.
pub(crate) type Curves = Vec<Vec<f64>>;

/// Walks the nodes on some of the calibration inputs, and calls `at` in front of each with what is live there and the
/// dense answers.
///
/// # Errors
/// Where a node cannot be run.
pub(crate) fn walk(
    graph: &Graph,
    observed: &Observed,
    mut at: impl FnMut(usize, &Live, &Tensor) -> Result<(), PruneError>,
) -> Result<(), PruneError> {
    let images: Vec<usize> = (0..observed.inputs.shape()[0].min(IMAGES)).collect();
    let expected = observed.output.gathered(0, &images);
    let Some(input) = graph.inputs.first() else { return Ok(()) };
    let mut live = Live::from([(input.name.clone(), observed.inputs.gathered(0, &images))]);
    for index in 0..graph.nodes.len() {
        at(index, &live, &expected)?;
        step(graph, index, &mut live)?;
        forget(graph, index, &mut live);
    }
    Ok(())
}

/// Takes the curve of each group along its trace.
///
/// # Errors
/// Where a node cannot be run.
pub(crate) fn curves(
    graph: &Graph,
    groups: &Groups,
    traces: &[Trace],
    observed: &Observed,
    progress: &mut dyn FnMut(Progress),
) -> Result<Curves, PruneError> {
    let mut curves = vec![Vec::new(); traces.len()];
    let first_of = |group: usize| {
        let sites = groups.groups[group].sites.iter().filter(|site| site.role == Role::Consumer);
        sites.map(|site| site.node).min()
    };
    let total = traces.len();
    let mut done = 0;
    walk(graph, observed, |index, live, expected| {
        for group in (0..traces.len()).filter(|&group| first_of(group) == Some(index)) {
            progress(Progress { stage: "sensitivity", done, total });
            done += 1;
            let points = points(graph, groups, &traces[group], group, observed, (index, live), expected)?;
            curves[group] = interpolated(&traces[group], &points);
        }
        Ok(())
    })?;
    // A group that nothing takes in is worth nothing.
    for (curve, group) in curves.iter_mut().zip(&groups.groups).filter(|(curve, _)| curve.is_empty()) {
        *curve = vec![0.0; points_of(group)];
    }
    progress(Progress { stage: "sensitivity", done: total, total });
    Ok(curves)
}

/// Points of a group's curve.
pub(crate) fn points_of(group: &Group) -> usize {
    group.channels - group.least() + 1
}

/// Channels gone and the divergence then, at some points of a trace.
fn points(
    graph: &Graph,
    groups: &Groups,
    trace: &Trace,
    group: usize,
    observed: &Observed,
    (first, live): (usize, &Live),
    expected: &Tensor,
) -> Result<Vec<(usize, f64)>, PruneError> {
    let channels = trace.order.len();
    let mut points = vec![(0, 0.0)];
    // One is left at seven eighths and over, and at last, where it may go, none.
    let shares = EIGHTHS.map(|eighths| (channels * eighths / 8).min(channels - 1));
    for gone in shares.into_iter().chain([points_of(&groups.groups[group]) - 1]) {
        if gone <= points[points.len() - 1].0 {
            continue;
        }
        let mut keep: KeepSets = groups.keep_all();
        keep[group] = trace.kept(gone);
        let mut variant = masked(graph, groups, &keep).map_err(unrunnable)?;
        for site in groups.groups[group].sites.iter().filter(|site| site.role == Role::Consumer) {
            reconstruct(graph, &mut variant, observed, site.node, |input| {
                site.channels[input].is_none_or(|channel| keep[group].binary_search(&channel).is_ok())
            });
        }
        points.push((gone, from(&variant, first, live.clone(), expected)?));
    }
    Ok(points)
}

/// The divergence of `graph`'s answers, run from node `first` on.
pub(crate) fn from(
    graph: &Graph,
    first: usize,
    mut live: Live,
    expected: &Tensor,
) -> Result<f64, PruneError> {
    for index in first..graph.nodes.len() {
        step(graph, index, &mut live)?;
        forget(graph, index, &mut live);
    }
    let found = graph.outputs.first().and_then(|output| live.get(&output.name));
    Ok(found.map_or(f64::INFINITY, |found| divergence(expected, found)))
}

/// Fills in what lies between points: along what the trace says is lost there.
fn interpolated(trace: &Trace, points: &[(usize, f64)]) -> Vec<f64> {
    let mut curve = vec![0.0];
    let mut floor = 0.0_f64;
    for pair in points.windows(2) {
        let ((from, low), (to, high)) = (pair[0], pair[1]);
        let (low, high) = (low.max(floor), high.max(low).max(floor));
        floor = high;
        let span = trace.lost[to] - trace.lost[from];
        curve.extend((from + 1..=to).map(|gone| {
            let along = match span > 0.0 {
                true => (trace.lost[gone] - trace.lost[from]) / span,
                false => (gone - from) as f64 / (to - from) as f64,
            };
            low + (high - low) * along
        }));
    }
    curve
}
