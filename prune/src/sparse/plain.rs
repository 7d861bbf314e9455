//! Unstructured pruning: single weights are set to zero, smallest (or drawn) first, until the budget holds.

use secateur_model::{Graph, Tensor};

use crate::measure::first_within;
use crate::random::Random;
use crate::{Meter, Method, Progress, PruneError, Pruned, Request};

/// Steps of the path from no weight to all of them.
const STEPS: usize = 4096;

pub(crate) fn prune(
    dense: &Graph,
    request: &Request<'_>,
    meter: Meter<'_>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Pruned, PruneError> {
    let scores = scores(dense, request.method, request.seed);
    let mut sorted: Vec<f32> = scores.iter().flat_map(|(_, scores)| scores.iter().copied()).collect();
    if sorted.is_empty() {
        return Err(PruneError::NothingPrunable { reasons: "it has no weights of layers".into() });
    }
    sorted.sort_by(f32::total_cmp);
    // The score under which a share of the weights lies; the last step leaves one in `STEPS`.
    let limit_at = |step: usize| sorted[(sorted.len() - 1) * step / STEPS];
    progress(Progress { stage: "allocate", done: 0, total: 1 });
    let (limit, graph) = if !request.budget.is_empty() && request.threshold.is_none() {
        let build = |step: usize| Ok(zeroed(dense, &scores, limit_at(step)));
        let (step, graph) = first_within(STEPS, &request.budget, meter, build)?;
        (limit_at(step), graph)
    } else {
        let limit = match (request.threshold, request.rate) {
            (Some(threshold), _) if request.method != Method::Random => threshold,
            (_, Some(rate)) if (0.0..1.0).contains(&rate) => limit_at((rate * STEPS as f64) as usize),
            (_, Some(rate)) => {
                let got = rate.to_string();
                return Err(PruneError::BadOption { what: "rate", got, expected: "from 0 to below 1" });
            }
            _ => return Err(PruneError::NoTarget),
        };
        let build = |_| Ok(zeroed(dense, &scores, limit));
        (limit, first_within(0, &request.budget, meter, build)?.1)
    };
    progress(Progress { stage: "allocate", done: 1, total: 1 });
    let threshold = (request.method != Method::Random).then_some(limit);
    Ok(Pruned { graph, method: request.method, kept: Vec::new(), threshold })
}

/// For each weight tensor of a layer, the score of each element: |w|, or a draw.
fn scores(graph: &Graph, method: Method, seed: u64) -> Vec<(String, Vec<f32>)> {
    let mut random = Random::new(seed);
    let layers = graph.nodes.iter().filter(|node| ["Conv", "Gemm", "MatMul"].iter().any(|op| node.is(op)));
    let mut names: Vec<&str> = layers.flat_map(|node| (0..2).filter_map(|slot| node.input(slot))).collect();
    names.sort_unstable();
    names.dedup();
    let weights = |name: &str| graph.initializers.get(name).filter(|t| t.shape().len() > 1)?.as_f32();
    let mut score = |values: &[f32]| -> Vec<f32> {
        match method {
            Method::Random => values.iter().map(|_| random.unit()).collect(),
            _ => values.iter().map(|value| value.abs()).collect(),
        }
    };
    names.into_iter().filter_map(|name| Some((name.to_owned(), score(weights(name)?)))).collect()
}

/// The graph with the weights zeroed whose score is under `limit`.
fn zeroed(graph: &Graph, scores: &[(String, Vec<f32>)], limit: f32) -> Graph {
    let mut result = graph.clone();
    for (name, scores) in scores {
        let values = result.initializers.get_mut(name).and_then(Tensor::as_f32_mut).into_iter().flatten();
        values.zip(scores).filter(|(_, score)| **score < limit).for_each(|(value, _)| *value = 0.0);
    }
    result
}
