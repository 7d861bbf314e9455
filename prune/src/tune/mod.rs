//! The last step of a refit: all layers at once, held against the dense net's answers to the calibration inputs. What a
//! layer could not make good by itself, those in front of it and behind it do. No labels: the dense net teaches.

mod conv;
mod reverse;
mod rules;

use std::collections::BTreeMap;

use rayon::prelude::*;
use secateur_model::{Graph, Tensor, cost, eval, shape};

use crate::PruneError;
use crate::divergence::{divergence, slope};
use crate::layer::Layer;
use crate::observe::Observed;
use crate::oracle::unrunnable;
use crate::random::Random;
use reverse::{Reverse, Slopes};

/// Of so many inputs one teaches nothing, neither here nor in the refit: it says whether what was learnt helps.
const HELD_OUT: usize = 8;
/// Inputs, at least, that make it worth a try.
const LEAST: usize = 256;
/// Inputs whose slopes make one step.
const BATCH: usize = 64;
/// Inputs that one thread takes at once.
const CHUNK: usize = 8;
/// Multiply-accumulates, about, after which it ends.
const WORK: f64 = 1e11;
/// What passing a value on costs, in multiply-accumulates.
const VALUE: f64 = 10.0;
/// How much more both directions cost than the first.
const BOTH: f64 = 3.0;
/// Times that the inputs are gone through, at least and at most.
const EPOCHS: (f64, f64) = (2.0, 20.0);
/// Where so many are within reach, inputs are mixed, and gone through so often at most.
const MIXED: (f64, f64) = (25.0, 60.0);
/// Planes of at least so many rows and columns may be moved by one.
const LEAST_SIDE: usize = 16;
/// The largest step of a weight, as a share of its tensor's root mean square, for a divergence of one nat …
const RATE: f64 = 0.04;
/// … and at most.
const LARGEST: f64 = 0.012;
/// The share of the steps in which they grow.
const WARM: f64 = 0.05;
/// Adam's forgetting, of slopes and of their squares (Kingma & Ba 2015).
const FORGET: (f32, f32) = (0.9, 0.99);

/// How many of the inputs teach, the first ones; the others judge.
pub(crate) fn learnt(observed: &Observed) -> usize {
    let images = observed.images();
    if images < LEAST { images } else { images - images / HELD_OUT }
}

/// Moves the weights and biases of `graph`, a refitted cut of `dense`, towards `dense`'s answers by their slopes (Adam,
/// a cosine of steps). What is held out judges each time the inputs were gone through: the best stays, at worst what
/// came in. Where the way back through an operator is not known, what lies in front of it stays as it is.
///
/// # Errors
/// Where a node cannot be run on the calibration inputs.
pub(crate) fn tune(
    graph: &mut Graph,
    dense: &Graph,
    observed: &Observed,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<(), PruneError> {
    let images = observed.images();
    let seen = |node: &usize| observed.layer_of(dense, &graph.nodes[*node]).is_some();
    let layers: Vec<Layer> =
        (0..graph.nodes.len()).filter(seen).filter_map(|node| Layer::of(graph, node)).collect();
    let Some(reverse) = Reverse::new(graph, &layers).filter(|_| images >= LEAST) else { return Ok(()) };
    let mut learnt: Vec<usize> = (0..learnt(observed)).collect();
    let held: Vec<usize> = (learnt.len()..images).collect();
    let (questions, expected) = (observed.inputs.gathered(0, &held), observed.output.gathered(0, &held));
    let judged = |graph: &Graph| Ok(divergence(&expected, &answers(graph, &questions)?));
    let mut best = (judged(graph)?, graph.clone());
    let plan = Plan::new(graph, dense, learnt.len(), best.0)?;
    let mut adam = Adam::new(graph, &reverse);
    let mut random = Random::new(0);
    let steps = plan.epochs * learnt.len().div_ceil(BATCH);
    for epoch in 0..plan.epochs {
        progress(epoch, plan.epochs);
        random.shuffle(&mut learnt);
        for batch in learnt.chunks(BATCH) {
            let (x, y) = match plan.mixed {
                true => mixed(dense, observed, batch, &mut random)?,
                false => (observed.inputs.gathered(0, batch), observed.output.gathered(0, batch)),
            };
            let Some(slopes) = slopes(graph, &reverse, &x, &y)? else { return Ok(()) };
            let along = (adam.steps + 1) as f64 / steps as f64;
            let rate =
                plan.rate * (along / WARM).min(1.0) * 0.5 * (1.0 + (std::f64::consts::PI * along).cos());
            adam.step(graph, &slopes, rate as f32);
        }
        let found = judged(graph)?;
        if found < best.0 {
            best = (found, graph.clone());
        }
    }
    *graph = best.1;
    Ok(())
}

/// How long, in what steps and on what.
struct Plan {
    epochs: usize,
    rate: f64,
    mixed: bool,
}

impl Plan {
    /// For `graph`, as far from `dense` as `divergence` says.
    fn new(graph: &Graph, dense: &Graph, images: usize, divergence: f64) -> Result<Self, PruneError> {
        let (own, teacher) = (work(graph)? * BOTH, work(dense)?);
        let within = |work: f64| WORK / (work * images as f64).max(1.0);
        let mixed = within(own + teacher) >= MIXED.0;
        let epochs = match mixed {
            true => within(own + teacher).min(MIXED.1),
            false => within(own).clamp(EPOCHS.0, EPOCHS.1),
        };
        Ok(Self { epochs: epochs as usize, rate: (RATE * divergence.sqrt()).min(LARGEST), mixed })
    }
}

/// What running `graph` on one input takes, in multiply-accumulates.
fn work(graph: &Graph) -> Result<f64, PruneError> {
    let macs = cost::analyse(graph).map_err(unrunnable)?.macs().get() as f64;
    let shapes = shape::infer(graph, 1).map_err(unrunnable)?;
    let made = graph.nodes.iter().flat_map(|node| &node.outputs);
    let values: usize = made.filter_map(|name| Some(shapes.get(name)?.iter().product::<usize>())).sum();
    Ok(macs + VALUE * values as f64)
}

/// Each input of `batch` with a share of up to half of another one, and what `dense` says of the mixtures: more
/// inputs than there are (Zhang et al. 2018, here without labels).
fn mixed(
    dense: &Graph,
    observed: &Observed,
    batch: &[usize],
    random: &mut Random,
) -> Result<(Tensor, Tensor), PruneError> {
    let others: Vec<usize> = batch.iter().map(|_| batch[random.next() as usize % batch.len()]).collect();
    let share = 0.5 * random.unit();
    let (mut x, others) = (observed.inputs.gathered(0, batch), observed.inputs.gathered(0, &others));
    let values = x.as_f32_mut().into_iter().flatten().zip(others.as_f32().into_iter().flatten());
    values.for_each(|(value, other)| *value += share * (other - *value));
    jitter(&mut x, random);
    let y = answers(dense, &x)?;
    Ok((x, y))
}

/// Moves each sample of `x`, if it is planes of some size, by up to one place along both axes.
fn jitter(x: &mut Tensor, random: &mut Random) {
    let &[_, channels, height, width] = x.shape() else { return };
    if height.min(width) < LEAST_SIDE {
        return;
    }
    let values = x.as_f32_mut().unwrap_or_default();
    for sample in values.chunks_exact_mut((channels * height * width).max(1)) {
        let (down, right) = ((random.next() % 3) as usize, (random.next() % 3) as usize);
        for plane in sample.chunks_exact_mut(height * width) {
            let old = plane.to_vec();
            for (at, value) in plane.iter_mut().enumerate() {
                let row = (at / width + down).saturating_sub(1).min(height - 1);
                let column = (at % width + right).saturating_sub(1).min(width - 1);
                *value = old[row * width + column];
            }
        }
    }
}

/// The slopes of what moves, for one step.
fn slopes(graph: &Graph, reverse: &Reverse, x: &Tensor, y: &Tensor) -> Result<Option<Slopes>, PruneError> {
    let images: Vec<usize> = (0..x.shape()[0]).collect();
    let parts: Vec<_> = images
        .par_chunks(CHUNK)
        .map(|chunk| {
            let y = y.gathered(0, chunk);
            reverse.slopes(graph, x.gathered(0, chunk), |found| slope(&y, found, images.len()))
        })
        .collect();
    // Summed in their order: the same bits on any number of threads.
    let mut sums = Slopes::new();
    for part in parts {
        let Some(part) = part? else { return Ok(None) };
        for (name, slope) in part {
            reverse::add(&mut sums, &name, slope);
        }
    }
    Ok(Some(sums))
}

/// The answers of `graph` to `inputs`.
fn answers(graph: &Graph, inputs: &Tensor) -> Result<Tensor, PruneError> {
    let (input, output) = (&graph.inputs[0].name, &graph.outputs[0].name);
    let images: Vec<usize> = (0..inputs.shape()[0]).collect();
    let parts: Vec<Result<Tensor, PruneError>> = images
        .par_chunks(CHUNK)
        .map(|chunk| {
            let mut values =
                eval::run(graph, &[(input, &inputs.gathered(0, chunk))], &[output]).map_err(unrunnable)?;
            values.remove(output).ok_or_else(|| unrunnable("it has no output"))
        })
        .collect();
    let parts = parts.into_iter().collect::<Result<Vec<_>, _>>()?;
    Tensor::concatenated(&parts.iter().collect::<Vec<_>>(), 0).map_err(unrunnable)
}

/// Running means of the slopes of each tensor that moves.
struct Adam {
    tensors: BTreeMap<String, Moving>,
    steps: i32,
}

struct Moving {
    slopes: Vec<f32>,
    squares: Vec<f32>,
    /// What a step is a share of.
    unit: f32,
}

impl Adam {
    fn new(graph: &Graph, reverse: &Reverse) -> Self {
        let rms = |values: &[f32]| (values.iter().map(|v| v * v).sum::<f32>() / values.len() as f32).sqrt();
        let moving = |(name, weights): (&String, &String)| {
            let values = graph.initializers.get(name)?.as_f32()?;
            let unit = rms(values).max(rms(graph.initializers.get(weights)?.as_f32()?));
            let zeros = vec![0.0; values.len()];
            Some((name.clone(), Moving { slopes: zeros.clone(), squares: zeros, unit }))
        };
        Self { tensors: reverse.tensors().filter_map(moving).collect(), steps: 0 }
    }

    fn step(&mut self, graph: &mut Graph, slopes: &Slopes, rate: f32) {
        self.steps += 1;
        let (first, second) = FORGET;
        let seen = (1.0 - first.powi(self.steps), 1.0 - second.powi(self.steps));
        for (name, Moving { slopes: means, squares, unit }) in &mut self.tensors {
            let Some(values) = graph.initializers.get_mut(name).and_then(Tensor::as_f32_mut) else {
                continue;
            };
            let Some(slopes) = slopes.get(name) else { continue };
            let state = values.iter_mut().zip(means).zip(squares).zip(slopes);
            for (((value, mean), square), slope) in state {
                *mean += (1.0 - first) * (slope - *mean);
                *square += (1.0 - second) * (slope * slope - *square);
                *value -= rate * *unit * (*mean / seen.0) / ((*square / seen.1).sqrt() + 1e-12);
            }
        }
    }
}

#[cfg(test)]
mod tests;
