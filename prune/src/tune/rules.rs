//! The way back through each operator: from the slopes of its outputs to those of its inputs.

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use secateur_model::{Graph, Node, Tensor};

use super::conv;
use super::reverse::Slopes;
use crate::PruneError;
use crate::observe::{Live, step};

/// Half the distance over which an elementwise function's slope is taken.
const NEAR: f32 = 2e-3;
/// Elements whose numbers a float holds exactly.
const NUMBERED: usize = 1 << 24;

/// A node with all that is known where its way back begins.
pub(super) struct Call<'a> {
    pub(super) graph: &'a Graph,
    pub(super) index: usize,
    pub(super) live: &'a Live,
    pub(super) slopes: &'a Slopes,
    /// For each input, whether its slope is asked for.
    pub(super) wanted: &'a [bool],
}

/// A slope for each input that one is wanted of.
pub(super) type Back = Vec<Option<Vec<f32>>>;

impl Call<'_> {
    pub(super) fn node(&self) -> &Node {
        &self.graph.nodes[self.index]
    }

    pub(super) fn input(&self, slot: usize) -> Option<&Tensor> {
        let name = self.node().input(slot)?;
        self.live.get(name).or_else(|| self.graph.initializers.get(name))
    }

    fn output(&self) -> Option<&Tensor> {
        self.live.get(self.node().outputs.first()?)
    }

    /// The slope of the first output.
    pub(super) fn slope(&self) -> Option<&[f32]> {
        self.slopes.get(self.node().outputs.first()?).map(Vec::as_slice)
    }

    /// One slope at `slot` alone.
    fn at(&self, slot: usize, slope: Vec<f32>) -> Back {
        let mut back = vec![None; self.wanted.len()];
        back[slot] = Some(slope);
        back
    }

    fn only_first(&self) -> bool {
        self.wanted.iter().skip(1).all(|wanted| !wanted)
    }
}

enum Rule {
    Conv,
    Product,
    Sum,
    Times,
    Same,
    Moved,
    Gate,
    Elementwise,
    Pool,
    Mean,
    Softmax,
    Norm,
}

fn rule(node: &Node) -> Option<Rule> {
    Some(match node.op.as_str() {
        "Conv" => Rule::Conv,
        "Gemm" | "MatMul" => Rule::Product,
        "Add" | "Sub" => Rule::Sum,
        "Mul" | "Div" => Rule::Times,
        "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" | "Identity" | "Dropout" => Rule::Same,
        "Transpose" | "Concat" | "Slice" | "Split" | "Gather" | "Pad" | "DepthToSpace" | "SpaceToDepth"
        | "Expand" => Rule::Moved,
        "Relu" | "Clip" => Rule::Gate,
        "Sigmoid" | "HardSigmoid" | "HardSwish" | "Tanh" | "LeakyRelu" | "Elu" | "Selu" | "Celu" | "Gelu"
        | "Erf" | "Softplus" | "Mish" | "Swish" | "Exp" | "Sqrt" | "Neg" => Rule::Elementwise,
        "BatchNormalization" => Rule::Norm,
        "MaxPool" | "AveragePool" => Rule::Pool,
        "GlobalAveragePool" | "ReduceMean" => Rule::Mean,
        "Softmax" => Rule::Softmax,
        _ => return None,
    })
}

/// Whether a node has a way back.
pub(super) fn known(node: &Node) -> bool {
    rule(node).is_some()
}

/// The slopes of a node's inputs; `None` where its case is none that is known.
///
/// # Errors
/// Where the node cannot be run again.
pub(super) fn back(call: &Call<'_>) -> Result<Option<Back>, PruneError> {
    let Some(rule) = rule(call.node()) else { return Ok(None) };
    Ok(match rule {
        Rule::Conv => conv::back(call),
        Rule::Product => product(call),
        Rule::Sum => sum(call),
        Rule::Times => times(call),
        Rule::Same => call.slope().filter(|_| call.only_first()).map(|slope| call.at(0, slope.to_vec())),
        Rule::Moved => return moved(call),
        Rule::Gate => gate(call),
        Rule::Elementwise => return elementwise(call),
        Rule::Pool => conv::pool(call),
        Rule::Mean => mean(call),
        Rule::Softmax => softmax(call),
        Rule::Norm => norm(call),
    })
}

/// `Gemm`, and `MatMul` by a matrix.
fn product(call: &Call<'_>) -> Option<Back> {
    let (node, slope) = (call.node(), call.slope()?);
    let (a, b) = (call.input(0)?, call.input(1)?);
    let gemm = node.is("Gemm");
    let &[b0, b1] = b.shape() else { return None };
    if gemm && node.int("transA", 0) != 0 {
        return None;
    }
    let flip = gemm && node.int("transB", 0) != 0;
    let (alpha, beta) = if gemm { (node.float("alpha", 1.0), node.float("beta", 1.0)) } else { (1.0, 1.0) };
    let (depth, outputs) = if flip { (b1, b0) } else { (b0, b1) };
    let rows = a.len() / depth.max(1);
    if a.shape().last() != Some(&depth) || slope.len() != rows * outputs {
        return None;
    }
    let x = MatRef::from_row_major_slice(a.as_f32()?, rows, depth);
    let w = MatRef::from_row_major_slice(b.as_f32()?, b0, b1);
    let w = if flip { w.transpose() } else { w };
    let s = MatRef::from_row_major_slice(slope, rows, outputs);
    let mut back = vec![None; call.wanted.len()];
    if call.wanted[0] {
        let mut dx = vec![0.0; a.len()];
        let into = MatMut::from_row_major_slice_mut(&mut dx, rows, depth);
        matmul(into, Accum::Replace, s, w.transpose(), alpha, Par::Seq);
        back[0] = Some(dx);
    }
    if call.wanted[1] {
        let mut dw = vec![0.0; b.len()];
        let into = MatMut::from_row_major_slice_mut(&mut dw, b0, b1);
        if flip {
            matmul(into, Accum::Replace, s.transpose(), x, alpha, Par::Seq);
        } else {
            matmul(into, Accum::Replace, x.transpose(), s, alpha, Par::Seq);
        }
        back[1] = Some(dw);
    }
    if call.wanted.get(2) == Some(&true) {
        let shape = call.input(2)?.shape().to_vec();
        let mut db = folded(slope, &[rows, outputs], &shape)?;
        db.iter_mut().for_each(|value| *value *= beta);
        back[2] = Some(db);
    }
    Some(back)
}

/// For each element of `shape`, the element of `operand` that broadcasting puts there.
fn sources(shape: &[usize], operand: &[usize]) -> Option<Vec<usize>> {
    let missing = shape.len().checked_sub(operand.len())?;
    let mut sources = vec![0];
    let mut stride: usize = operand.iter().product();
    for (axis, &length) in shape.iter().enumerate() {
        let own = if axis < missing { 1 } else { operand[axis - missing] };
        if own != 1 && own != length {
            return None;
        }
        stride /= own;
        let along = if own == 1 { 0 } else { stride };
        sources = sources.iter().flat_map(|&from| (0..length).map(move |i| from + i * along)).collect();
    }
    Some(sources)
}

/// A slope of `shape` summed over what was broadcast from `operand`.
fn folded(slope: &[f32], shape: &[usize], operand: &[usize]) -> Option<Vec<f32>> {
    if shape == operand {
        return Some(slope.to_vec());
    }
    let mut sum = vec![0.0; operand.iter().product()];
    sources(shape, operand)?.into_iter().zip(slope).for_each(|(at, slope)| sum[at] += slope);
    Some(sum)
}

fn sum(call: &Call<'_>) -> Option<Back> {
    let (slope, shape) = (call.slope()?, call.output()?.shape());
    let mut back = vec![None; 2];
    for slot in (0..2).filter(|&slot| call.wanted[slot]) {
        let mut own = folded(slope, shape, call.input(slot)?.shape())?;
        if slot == 1 && call.node().is("Sub") {
            own.iter_mut().for_each(|value| *value = -*value);
        }
        back[slot] = Some(own);
    }
    Some(back)
}

fn times(call: &Call<'_>) -> Option<Back> {
    let (slope, shape) = (call.slope()?, call.output()?.shape());
    let (a, b) = (call.input(0)?, call.input(1)?);
    let (at_a, at_b) = (sources(shape, a.shape())?, sources(shape, b.shape())?);
    let (x, y) = (a.as_f32()?, b.as_f32()?);
    let divides = call.node().is("Div");
    let mut back = vec![None; 2];
    if call.wanted[0] {
        let mut own = vec![0.0; x.len()];
        for (i, slope) in slope.iter().enumerate() {
            own[at_a[i]] += if divides { slope / y[at_b[i]] } else { slope * y[at_b[i]] };
        }
        back[0] = Some(own);
    }
    if call.wanted[1] {
        let mut own = vec![0.0; y.len()];
        for (i, slope) in slope.iter().enumerate() {
            let (x, y) = (x[at_a[i]], y[at_b[i]]);
            own[at_b[i]] += if divides { -slope * x / (y * y) } else { slope * x };
        }
        back[1] = Some(own);
    }
    Some(back)
}

/// Where an activation lets its input through, the slope is that of what comes out.
fn gate(call: &Call<'_>) -> Option<Back> {
    let (x, y) = (call.input(0)?.as_f32()?, call.output()?.as_f32()?);
    let slope = call.slope()?.iter().zip(x.iter().zip(y)).map(|(s, (x, y))| if x == y { *s } else { 0.0 });
    Some(call.at(0, slope.collect())).filter(|_| call.only_first())
}

/// Runs the node with other values of its float inputs.
fn again(call: &Call<'_>, inputs: &[(usize, Tensor)]) -> Result<Live, PruneError> {
    let node = call.node();
    let mut live: Live =
        node.inputs.iter().filter_map(|name| Some((name.clone(), call.live.get(name)?.clone()))).collect();
    live.extend(inputs.iter().map(|(slot, tensor)| (node.inputs[*slot].clone(), tensor.clone())));
    step(call.graph, call.index, &mut live)?;
    Ok(live)
}

/// A function of each element by itself: its slope from its values near by.
fn elementwise(call: &Call<'_>) -> Result<Option<Back>, PruneError> {
    let (Some(x), Some(slope), true) = (call.input(0), call.slope(), call.only_first()) else {
        return Ok(None);
    };
    let beside = |by: f32| -> Result<Option<Vec<f32>>, PruneError> {
        let mut moved = x.clone();
        moved.as_f32_mut().into_iter().flatten().for_each(|value| *value += by);
        let live = again(call, &[(0, moved)])?;
        Ok(live.get(&call.node().outputs[0]).and_then(|y| Some(y.as_f32()?.to_vec())))
    };
    let (Some(low), Some(high)) = (beside(-NEAR)?, beside(NEAR)?) else { return Ok(None) };
    let own = slope
        .iter()
        .zip(low.iter().zip(&high))
        .map(|(slope, (low, high))| slope * (high - low) / (2.0 * NEAR));
    Ok(Some(call.at(0, own.collect())))
}

/// An operator that only moves elements: run on their numbers, it tells where each comes from.
fn moved(call: &Call<'_>) -> Result<Option<Back>, PruneError> {
    let node = call.node();
    let floats: Vec<usize> = (0..node.inputs.len())
        .filter(|&slot| call.input(slot).is_some_and(|x| x.as_f32().is_some()))
        .collect();
    let mut back = vec![None; call.wanted.len()];
    for slot in (0..node.inputs.len()).filter(|&slot| call.wanted[slot]) {
        let mut numbered = Vec::new();
        for &other in &floats {
            let Some(x) = call.input(other) else { return Ok(None) };
            let mine = node.inputs[other] == node.inputs[slot];
            let numbers = (1..=x.len()).map(|i| if mine { i as f32 } else { 0.0 }).collect();
            let Ok(numbers) = Tensor::f32(x.shape(), numbers) else { return Ok(None) };
            numbered.push((other, numbers));
        }
        let count = call.input(slot).map_or(0, Tensor::len);
        if count >= NUMBERED {
            return Ok(None);
        }
        let live = again(call, &numbered)?;
        let mut own = vec![0.0; count];
        for name in &node.outputs {
            let Some((slope, from)) = call.slopes.get(name).zip(live.get(name).and_then(Tensor::as_f32))
            else {
                continue;
            };
            for (slope, &from) in slope.iter().zip(from).filter(|(_, from)| **from > 0.0) {
                own[from as usize - 1] += slope;
            }
        }
        back[slot] = Some(own);
    }
    Ok(Some(back))
}

/// Means over axes: of all places, or of those that `ReduceMean` names.
fn mean(call: &Call<'_>) -> Option<Back> {
    let (x, y, slope) = (call.input(0)?, call.output()?, call.slope()?);
    let shape = x.shape();
    let kept: Vec<usize> = if call.node().is("GlobalAveragePool") || y.shape().len() == shape.len() {
        y.shape().to_vec()
    } else {
        let axes = match (call.node().ints("axes"), call.input(1)) {
            (Some(axes), _) => axes.to_vec(),
            (None, Some(axes)) => axes.as_i64()?.to_vec(),
            (None, None) => (0..shape.len() as i64).collect(),
        };
        let rank = shape.len() as i64;
        let gone = |axis: usize| axes.iter().any(|&a| (a + rank) % rank == axis as i64);
        (0..shape.len()).map(|axis| if gone(axis) { 1 } else { shape[axis] }).collect()
    };
    let share = y.len() as f32 / x.len().max(1) as f32;
    let own = sources(shape, &kept)?.into_iter().map(|at| slope[at] * share).collect();
    Some(call.at(0, own)).filter(|_| call.only_first())
}

/// Over the last axis.
fn softmax(call: &Call<'_>) -> Option<Back> {
    let (y, slope) = (call.output()?, call.slope()?);
    let last = *y.shape().last()?;
    let axis = call.node().int("axis", if y.shape().len() == 2 { 1 } else { -1 });
    if axis != -1 && axis != y.shape().len() as i64 - 1 {
        return None;
    }
    let mut own = Vec::with_capacity(slope.len());
    for (y, slope) in y.as_f32()?.chunks_exact(last).zip(slope.chunks_exact(last)) {
        let all: f32 = y.iter().zip(slope).map(|(y, s)| y * s).sum();
        own.extend(y.iter().zip(slope).map(|(y, s)| y * (s - all)));
    }
    Some(call.at(0, own))
}

/// A batch norm by fixed moments: to its input, its scale and its shift.
fn norm(call: &Call<'_>) -> Option<Back> {
    let (x, slope) = (call.input(0)?, call.slope()?);
    let channels = *x.shape().get(1)?;
    let of = |slot| call.input(slot)?.as_f32().filter(|values| values.len() == channels);
    let (scale, mean, variance) = (of(1)?, of(3)?, of(4)?);
    let epsilon = call.node().float("epsilon", 1e-5);
    let area: usize = x.shape()[2..].iter().product();
    let (mut dx, mut dscale, mut dshift) = (vec![0.0; x.len()], vec![0.0; channels], vec![0.0; channels]);
    for (at, (x, slope)) in x.as_f32()?.iter().zip(slope).enumerate() {
        let channel = at / area.max(1) % channels;
        let deviation = (variance[channel] + epsilon).sqrt();
        dx[at] = slope * scale[channel] / deviation;
        dscale[channel] += slope * (x - mean[channel]) / deviation;
        dshift[channel] += slope;
    }
    let all = [Some(dx), Some(dscale), Some(dshift), None, None];
    let back: Back = all.into_iter().zip(call.wanted).map(|(own, wanted)| own.filter(|_| *wanted)).collect();
    (!call.wanted.iter().skip(3).any(|wanted| *wanted)).then_some(back)
}
