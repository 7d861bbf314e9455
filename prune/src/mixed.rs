//! Mixed pruning: channels first, then single weights of what is left, chosen together.

use secateur_common::{Budget, Metric};
use secateur_model::{Graph, eval};

use crate::divergence::divergence;
use crate::measure::{cost_of, violations};
use crate::oracle::unrunnable;
use crate::{Family, Meter, Progress, PruneError, Pruned, Request, Structure};

/// Shares of the dense multiply-accumulates to which channels are cut before single weights go.
const SHARES: [f64; 3] = [1.0, 0.6, 0.35];
/// Calibration inputs on which mixtures are compared.
const IMAGES: usize = 1024;

/// Of several mixtures that meet the budget, the one whose answers are closest to the dense net's.
pub(crate) fn prune(
    dense: &Graph,
    request: &Request<'_>,
    meter: Meter<'_>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Pruned, PruneError> {
    let mut best: Option<(f64, Pruned)> = None;
    let mut refused = None;
    // Taken once for all mixtures; a net without groups may still lose single weights.
    let family = match Family::new(dense, request.method, request.seed, request.calibration, progress) {
        Err(PruneError::NothingPrunable { reasons }) => {
            refused = Some(PruneError::NothingPrunable { reasons });
            None
        }
        other => Some(other?),
    };
    for share in SHARES {
        match mixture(dense, family.as_ref(), request, share, meter, progress) {
            Ok(Some(pruned)) => {
                let distance = distance(dense, &pruned.graph, request)?;
                if best.as_ref().is_none_or(|best| distance < best.0) {
                    best = Some((distance, pruned));
                }
            }
            Ok(None) => {}
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

/// Channels cut to a share of the dense multiply-accumulates (and to what only they bring down), then weights to the
/// rest of the budget. `None` where channels would have to go and the net has no family.
fn mixture(
    dense: &Graph,
    family: Option<&Family>,
    request: &Request<'_>,
    share: f64,
    meter: Meter<'_>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Option<Pruned>, PruneError> {
    let mut first = Budget::default();
    if let Some(limit) = request.budget.get(Metric::PeakMemoryBytes) {
        first = first.with(Metric::PeakMemoryBytes, limit);
    }
    if share < 1.0 {
        first = first.with(Metric::Macs, share * cost_of(dense)?.macs.get() as f64);
    }
    let narrow = match (first.is_empty(), family) {
        (true, _) => {
            Pruned { graph: dense.clone(), method: request.method, kept: Vec::new(), threshold: None }
        }
        (false, Some(family)) => family.to_budget(&first, request.refit, meter, progress)?,
        (false, None) => return Ok(None),
    };
    if violations(&narrow.graph, &request.budget, meter)?.is_empty() {
        return Ok(Some(narrow));
    }
    let asked = Request { structure: Structure::Weights, ..request.clone() };
    let sparse = crate::sparse::prune(&narrow.graph, &asked, meter, progress)?;
    Ok(Some(Pruned { kept: narrow.kept, ..sparse }))
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
