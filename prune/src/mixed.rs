//! Mixed pruning: channels first, then single weights of what is left, chosen together.

use secateur_common::{Budget, Metric};
use secateur_model::{Graph, eval};

use crate::divergence::divergence;
use crate::measure::{cost_of, violations};
use crate::oracle::unrunnable;
use crate::{Progress, PruneError, Pruned, Request, Sizer, Structure};

/// Shares of the dense multiply-accumulates to which channels are cut before single weights go.
const SHARES: [f64; 3] = [1.0, 0.6, 0.35];
/// Calibration inputs on which mixtures are compared.
const IMAGES: usize = 1024;

/// Of several mixtures that meet the budget, the one whose answers are closest to the dense net's.
pub(crate) fn prune(
    dense: &Graph,
    request: &Request<'_>,
    sizer: Sizer<'_>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Pruned, PruneError> {
    let all = cost_of(dense, None)?.macs.get() as f64;
    let mut best: Option<(f64, Pruned)> = None;
    let mut refused = None;
    for share in SHARES {
        match mixture(dense, request, share * all, sizer, progress) {
            Ok(pruned) => {
                let distance = distance(dense, &pruned.graph, request)?;
                if best.as_ref().is_none_or(|best| distance < best.0) {
                    best = Some((distance, pruned));
                }
            }
            Err(error @ (PruneError::Infeasible { .. } | PruneError::NothingPrunable { .. })) => {
                refused = Some(error)
            }
            Err(error) => return Err(error),
        }
    }
    match (best, refused) {
        (Some((_, pruned)), _) => Ok(pruned),
        (None, error) => Err(error.unwrap_or(PruneError::NoTarget)),
    }
}

/// Channels cut to `macs` (and to what only they bring down), then weights to the rest of the budget.
fn mixture(
    dense: &Graph,
    request: &Request<'_>,
    macs: f64,
    sizer: Sizer<'_>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Pruned, PruneError> {
    let mut first = Budget::default();
    if let Some(limit) = request.budget.get(Metric::PeakMemoryBytes) {
        first = first.with(Metric::PeakMemoryBytes, limit);
    }
    if macs < cost_of(dense, None)?.macs.get() as f64 {
        first = first.with(Metric::Macs, macs);
    }
    let mut narrow =
        Pruned { graph: dense.clone(), method: request.method, kept: Vec::new(), threshold: None };
    if !first.is_empty() {
        let asked = Request { structure: Structure::Channels, budget: first, rate: None, ..request.clone() };
        narrow = crate::channels::prune(dense, &asked, sizer, progress)?;
    }
    if violations(&narrow.graph, &request.budget, sizer)?.is_empty() {
        return Ok(narrow);
    }
    let asked = Request { structure: Structure::Weights, ..request.clone() };
    let sparse = crate::sparse::prune(&narrow.graph, &asked, sizer, progress)?;
    Ok(Pruned { kept: narrow.kept, ..sparse })
}

fn distance(dense: &Graph, variant: &Graph, request: &Request<'_>) -> Result<f64, PruneError> {
    let Some(calibration) = request.calibration else { return Err(PruneError::NeedsCalibration) };
    let images: Vec<usize> = (0..calibration.shape()[0].min(IMAGES)).collect();
    let inputs = calibration.gathered(0, &images);
    let answers = |graph: &Graph| {
        let (input, output) = (&graph.inputs[0].name, &graph.outputs[0].name);
        let mut values = eval::run(graph, &[(input, &inputs)], &[output]).map_err(unrunnable)?;
        values.remove(output).ok_or_else(|| unrunnable("it has no output"))
    };
    Ok(divergence(&answers(dense)?, &answers(variant)?))
}
