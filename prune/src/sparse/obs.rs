//! Single weights by optimal brain surgeon: curves of divergence from dense moments say how dense each layer stays;
//! then layer after layer its weights are chosen and fitted on what the pruned net feeds it.

use faer::Mat;
use secateur_common::{Metric, Violation};
use secateur_model::{Graph, Tensor, cost, fold, groups};

use super::densities::{Candidate, after, path};
use super::support::{Block, Pattern, Problem};
use crate::curves::{from, walk};
use crate::layer::Layer;
use crate::measure::{holds, violations};
use crate::moments::{Moments, solved};
use crate::observe::{Live, Observed, Seen, forget, observe, sampled, step};
use crate::oracle::unrunnable;
use crate::refit::{chosen, targets_of};
use crate::regression::{Regression, finite};
use crate::widths::Prices;
use crate::{Meter, Method, Progress, PruneError, Pruned, Request};

/// Shares at which curves are taken.
const SHARES: [f64; 8] = [0.5, 0.35, 0.25, 0.17, 0.12, 0.08, 0.05, 0.03];
/// Damping of dense moments, as a share of their mean diagonal.
const DAMPING: f64 = 1e-3;

pub(crate) fn prune(
    dense: &Graph,
    request: &Request<'_>,
    meter: Meter<'_>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Pruned, PruneError> {
    let Some(calibration) = request.calibration else { return Err(PruneError::NeedsCalibration) };
    let mut graph = dense.clone();
    groups::prepare(&mut graph);
    fold::batch_norms(&mut graph);
    let observed = observe(&graph, sampled(&graph, calibration)?, |_| true, progress)?;
    let layers: Vec<&Seen> = observed.layers.iter().filter(|seen| is_full(seen)).collect();
    if layers.is_empty() {
        return Err(PruneError::NothingPrunable {
            reasons: "it has no layers whose moments could be taken".into(),
        });
    }
    let goal = Goal::new(&graph, request)?;
    let ready = Ready { graph: &graph, observed: &observed, layers, pattern: request.pattern };
    let way = match request.pattern {
        Pattern::NOfM { keep, of } => Way::Fixed(keep as f64 / of as f64),
        Pattern::Block(_) => ready.way(&goal, progress)?,
    };
    let layers = ready.layers.len();
    let mut at = way.first();
    if goal.rough {
        at = ready.rough_start(&way, at, request, meter)?;
    }
    loop {
        let pruned = ready.fitted(&way.shares(layers, at), progress)?;
        match (violations(&pruned, &request.budget, meter)?.first(), at < way.last()) {
            (None, _) => {
                return Ok(Pruned { graph: pruned, method: Method::Obs, kept: Vec::new(), threshold: None });
            }
            // A fit's values take more or fewer bytes than those it began with.
            (Some(_), true) => at = (at + way.last().div_ceil(48)).min(way.last()),
            (Some(&Violation { metric, limit, actual }), false) => {
                return Err(PruneError::Infeasible { metric, limit, smallest: actual });
            }
        }
    }
}

/// The densities that layers may have, one after the other.
enum Way {
    /// All layers at one share.
    Fixed(f64),
    /// Moves of single layers, of which so many are needed for what is known before a fit.
    Moves(Vec<(usize, usize)>, usize),
}

impl Way {
    fn first(&self) -> usize {
        if let Self::Moves(_, first) = self { *first } else { 0 }
    }

    fn last(&self) -> usize {
        if let Self::Moves(moves, _) = self { moves.len() } else { 0 }
    }

    fn shares(&self, layers: usize, at: usize) -> Vec<f64> {
        match self {
            Self::Fixed(share) => vec![*share; layers],
            Self::Moves(moves, _) => after(layers, &moves[..at]),
        }
    }
}

/// Whether the moments of all of a layer's inputs were taken.
fn is_full(seen: &Seen) -> bool {
    seen.layer.mixes()
        && seen.moments.first().is_some_and(|moments| moments.columns() == seen.layer.width + 1)
}

/// How far to go, as far as it can be told before a fit.
struct Goal {
    macs: Option<f64>,
    /// Of all weights of layers, how many stay.
    weights: Option<f64>,
    /// A limit on what only a graph can tell.
    rough: bool,
    prices: Prices,
}

impl Goal {
    fn new(graph: &Graph, request: &Request<'_>) -> Result<Self, PruneError> {
        let analysis = cost::analyse(graph).map_err(unrunnable)?;
        let all: usize = analysis.layers.iter().map(|layer| layer.weights.iter().product::<usize>()).sum();
        let weights = match request.rate {
            Some(rate) if (0.0..1.0).contains(&rate) => Some((1.0 - rate) * all as f64),
            Some(rate) => {
                return Err(PruneError::BadOption {
                    what: "rate",
                    got: rate.to_string(),
                    expected: "from 0 to below 1",
                });
            }
            None => None,
        };
        let macs = request.budget.get(Metric::Macs);
        let limited = |metric: Metric| request.budget.get(metric).is_some();
        let bytes = limited(Metric::ModelBytes);
        let timed = limited(Metric::LatencyP95) || limited(Metric::EnergyPerInference);
        if macs.is_none()
            && weights.is_none()
            && !bytes
            && !timed
            && !matches!(request.pattern, Pattern::NOfM { .. })
        {
            return Err(PruneError::NoTarget);
        }
        let prices = Prices {
            macs: if macs.is_some() || timed { 1.0 } else { 0.0 },
            parameters: if weights.is_some() || bytes { 1.0 } else { 0.0 },
            ..Prices::NONE
        };
        Ok(Self { macs, weights, rough: bytes || timed, prices })
    }
}

/// A net that was observed.
struct Ready<'a> {
    graph: &'a Graph,
    observed: &'a Observed,
    /// The layers that are pruned.
    layers: Vec<&'a Seen>,
    pattern: Pattern,
}

impl Ready<'_> {
    /// The way down, and from where on what is known before a fit holds.
    fn way(&self, goal: &Goal, progress: &mut dyn FnMut(Progress)) -> Result<Way, PruneError> {
        let analysis = cost::analyse(self.graph).map_err(unrunnable)?;
        let mut candidates = Vec::new();
        let points = self.points(progress)?;
        let (mut macs, mut weights) = (0.0, 0.0);
        for layer in &analysis.layers {
            macs += layer.macs.get() as f64;
            weights += layer.weights.iter().product::<usize>() as f64;
        }
        for (seen, points) in self.layers.iter().zip(points) {
            let name = self.graph.nodes[seen.layer.node].label();
            let elements = (seen.layer.width * seen.layer.outputs) as f64;
            let cost = analysis.layers.iter().find(|layer| layer.name == name);
            let uses = cost.map_or(0.0, |layer| layer.dense_macs.get() as f64 / elements);
            candidates.push(Candidate { elements, uses, points });
        }
        let moves = path(&candidates, &goal.prices);
        let holds = |shares: &[f64]| {
            let gone = |of: fn(&Candidate) -> f64| {
                candidates.iter().zip(shares).map(|(c, share)| of(c) * (1.0 - share)).sum::<f64>()
            };
            goal.macs.is_none_or(|limit| macs - gone(|c| c.elements * c.uses) <= limit)
                && goal.weights.is_none_or(|limit| weights - gone(|c| c.elements) <= limit)
        };
        let first = (0..=moves.len()).find(|&count| holds(&after(candidates.len(), &moves[..count])));
        let first = first.unwrap_or(moves.len());
        Ok(Way::Moves(moves, first))
    }

    /// From where on every limit holds, the largest weights of each layer taken for those that will stay.
    fn rough_start(
        &self,
        way: &Way,
        first: usize,
        request: &Request<'_>,
        meter: Meter<'_>,
    ) -> Result<usize, PruneError> {
        let (mut low, mut high) = (first, way.last());
        while low < high {
            let middle = low + (high - low) / 2;
            let mut rough = self.graph.clone();
            for (seen, share) in self.layers.iter().zip(way.shares(self.layers.len(), middle)) {
                let weights = rough.initializers.get_mut(&seen.layer.weights).and_then(Tensor::as_f32_mut);
                let Some(weights) = weights.filter(|_| share < 1.0) else { continue };
                let mut sizes: Vec<f32> = weights.iter().map(|weight| weight.abs()).collect();
                let gone = (((1.0 - share) * sizes.len() as f64) as usize).min(sizes.len() - 1);
                let least = *sizes.select_nth_unstable_by(gone, f32::total_cmp).1;
                weights.iter_mut().filter(|weight| weight.abs() < least).for_each(|weight| *weight = 0.0);
            }
            if holds(&rough, &request.budget, meter)? { high = middle } else { low = middle + 1 }
        }
        Ok(low)
    }

    /// For each layer, shares kept and the divergence with nothing else pruned.
    fn points(&self, progress: &mut dyn FnMut(Progress)) -> Result<Vec<Vec<(f64, f64)>>, PruneError> {
        let mut all = vec![vec![(1.0, 0.0)]; self.layers.len()];
        let total = self.layers.len();
        walk(self.graph, self.observed, |index, live, expected| {
            for (at, seen) in self.layers.iter().enumerate().filter(|(_, seen)| seen.layer.node == index) {
                progress(Progress { stage: "sensitivity", done: at, total });
                let block = |(block, moments): (usize, &Moments)| {
                    let gram = moments.mean(DAMPING);
                    let cross = &gram * seen.layer.matrix(self.graph, block)?;
                    Some(Block { gram, cross })
                };
                let Some(blocks) = seen.moments.iter().enumerate().map(block).collect::<Option<Vec<_>>>()
                else {
                    continue;
                };
                let problem = Problem { blocks: &blocks, pattern: self.pattern };
                for (point, share) in problem.prune(&SHARES).into_iter().flatten().zip(SHARES) {
                    let mut variant = self.graph.clone();
                    point
                        .weights
                        .iter()
                        .enumerate()
                        .for_each(|(b, fit)| seen.layer.write(&mut variant, b, fit));
                    all[at].push((share, from(&variant, index, live.clone(), expected)?));
                }
            }
            Ok(())
        })?;
        Ok(all)
    }

    /// The net with each layer at its share, its weights chosen and fitted on what the layers before it give.
    fn fitted(&self, shares: &[f64], progress: &mut dyn FnMut(Progress)) -> Result<Graph, PruneError> {
        let mut graph = self.graph.clone();
        let Some(input) = graph.inputs.first() else { return Ok(graph) };
        let mut live = Live::from([(input.name.clone(), self.observed.inputs.clone())]);
        for index in 0..graph.nodes.len() {
            progress(Progress { stage: "refit", done: index, total: graph.nodes.len() });
            let at = self.layers.iter().position(|seen| seen.layer.node == index);
            if let Some((seen, share)) = at.map(|at| (self.layers[at], shares[at]))
                && let Some(fits) = self.fit(&graph, seen, share, &live)
            {
                fits.iter().enumerate().for_each(|(block, fit)| seen.layer.write(&mut graph, block, fit));
            }
            step(&graph, index, &mut live)?;
            forget(&graph, index, &mut live);
        }
        Ok(graph)
    }

    /// One layer's weights at a share of them, block by block.
    fn fit(&self, graph: &Graph, seen: &Seen, share: f64, live: &Live) -> Option<Vec<Mat<f64>>> {
        let layer: &Layer = &seen.layer;
        let x: &Tensor = graph.nodes[layer.node].input(0).and_then(|name| live.get(name))?;
        let added = seen.added(live, layer.outputs);
        // Where the other operand is still to come, the layer is held against its own dense result.
        let (targets, range) = targets_of(seen, self.observed.images(), added.is_some());
        let each = layer.block_outputs();
        let of = |values: &[f32], block: usize| {
            let columns: Vec<usize> = (block * each..(block + 1) * each).collect();
            chosen(values, layer.outputs, &columns)
        };
        let mut parts = Vec::with_capacity(layer.blocks);
        for block in 0..layer.blocks {
            let rows = layer.unroll(graph, x, &seen.sampling, 0, block)?;
            let added = added.as_ref().map(|added| of(added, block));
            parts.push((rows, of(targets, block), added, layer.matrix(self.graph, block)?));
        }
        let regressions: Vec<Regression<'_>> = parts
            .iter()
            .map(|(rows, targets, added, present)| Regression {
                rows,
                targets,
                added: added.as_deref(),
                range,
                present: present.clone(),
                has_bias: layer.has_bias(),
            })
            .collect();
        let sums = regressions.iter().map(Regression::sums).collect::<Option<Vec<_>>>()?;
        let blocks: Vec<Block> = regressions
            .iter()
            .zip(&sums)
            .map(|(fit, sums)| Block { gram: sums.gram.clone(), cross: fit.cross(&fit.goal(), &sums.ridges) })
            .collect();
        let support = match share < 1.0 {
            true => Some(Problem { blocks: &blocks, pattern: self.pattern }.prune(&[share])?.pop()?.support),
            false => None,
        };
        let units = each.div_ceil(self.pattern.outputs());
        regressions
            .iter()
            .zip(&sums)
            .enumerate()
            .map(|(block, (regression, sums))| {
                let own = support.as_ref().map(|all| all.of(block * units..(block + 1) * units));
                let solve = |cross: &Mat<f64>| match &own {
                    None => solved(&sums.gram, cross),
                    Some(own) => {
                        let block = [Block { gram: sums.gram.clone(), cross: cross.clone() }];
                        Problem { blocks: &block, pattern: self.pattern }.solve(own)?.pop()
                    }
                };
                let (_, fit) = regression.rounds(sums, solve)?;
                finite(&fit).then_some(fit)
            })
            .collect()
    }
}
