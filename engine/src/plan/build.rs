//! From a fused network to steps: layouts, slots of memory, kernels.

use std::collections::BTreeMap;

use super::convolution;
use super::layout::{Gap, Layout, Shape};
use super::lower::Reason;
use super::memory::{self, Life};
use super::network::{Activation, Network, Node, Op, ValueId};
use super::steps::{Kind, Port, Step};
use super::trial::{KernelChoices, Trial};
use super::{Plan, steps};
use crate::kernels::{Clamp, Isa, Matrix, Storage, Vectors};

/// Floats of a value with its gaps, at most: padding is a number in a file. Offsets fit 32 bits.
const LAYOUT_FLOATS: usize = 1 << 27;

/// All ways to pack a matrix.
pub(super) const PRODUCTS: [Storage; 4] = [Storage::Tables, Storage::Rows, Storage::Blocks, Storage::Dense];

/// Builds the plan of a network, with the kernels of an earlier trial where there was one.
///
/// # Errors
/// With the reason, where a value takes too much memory.
pub(super) fn build(network: &Network, isa: Isa, earlier: Option<&KernelChoices>) -> Result<Plan, Reason> {
    let layouts = layouts(network, isa);
    if layouts.iter().any(|layout| layout.len() > LAYOUT_FLOATS) {
        return Err("a value with the padding that its readers ask for is too large".into());
    }
    let roots = roots(network, &layouts);
    let lives = lives(network, &layouts, &roots);
    let held: Vec<ValueId> = (0..roots.len()).filter(|&value| roots[value] == value).collect();
    let (assigned, slots) = memory::assign(&held.iter().map(|&value| lives[value]).collect::<Vec<_>>());
    let slot_of: BTreeMap<ValueId, usize> = held.into_iter().zip(assigned).collect();
    let port = |value: ValueId| Port { slot: slot_of[&roots[value]], layout: layouts[value] };

    let mut trial = Trial::new(isa, &slots, earlier);
    let mut weight_bytes = 0;
    let mut steps = Vec::new();
    for node in network.nodes.iter().filter(|node| roots[node.output] == node.output) {
        let (kind, activation) = match &node.op {
            Op::Conv { .. } => convolved(node, &port, &mut trial),
            Op::Dense { .. } => multiplied(node, &port, &mut trial),
            _ => (steps::plain(node, &port), node.activation),
        };
        weight_bytes += kind.weight_bytes();
        steps.push(Step { kind, to: port(node.output), activation });
    }
    let output = port(*network.outputs.first().ok_or("it has no output")?);
    let input_len = network.values[network.nodes[0].output].len();
    let (output, choices) = ((output.slot, output.layout), trial.choices());
    Ok(Plan { isa, steps, slots, output, input_len, weight_bytes, choices })
}

/// Each value's layout: the gap is what its readers ask for. Values of one size have the same, so that convolutions can
/// run along whole planes; but what is read as a vector has none.
fn layouts(network: &Network, isa: Isa) -> Vec<Layout> {
    let widest = isa.widths().map(Vectors::lanes).max().unwrap_or(1);
    let mut needs = vec![Gap::default(); network.values.len()];
    let mut flat = vec![false; network.values.len()];
    for node in &network.nodes {
        match &node.op {
            Op::Conv { weights, window, group, .. } => {
                let value = node.inputs[0];
                let mut gap = convolution::gap(window, network.values[value]);
                gap.lines = convolution::wants_lines(weights, window, *group, widest);
                needs[value] = needs[value].max(gap);
            }
            Op::Reshape => flat[node.inputs[0]] = true,
            _ => {}
        }
    }
    let alone = |value: ValueId| flat[value] || network.values[value].h * network.values[value].w == 1;
    let mut shared: BTreeMap<(usize, usize), Gap> = BTreeMap::new();
    for value in (0..needs.len()).filter(|&value| !alone(value)) {
        let Shape { h, w, .. } = network.values[value];
        let gap = shared.entry((h, w)).or_default();
        *gap = gap.max(needs[value]);
    }
    let gap = |value: ValueId| {
        let Shape { h, w, .. } = network.values[value];
        if alone(value) { needs[value] } else { shared[&(h, w)] }
    };
    (0..needs.len()).map(|value| Layout::new(network.values[value], gap(value), widest)).collect()
}

/// The value whose memory each value has: its own, or for a reshape without gaps that of what is reshaped.
fn roots(network: &Network, layouts: &[Layout]) -> Vec<ValueId> {
    let mut roots: Vec<ValueId> = (0..network.values.len()).collect();
    for node in &network.nodes {
        let plain = matches!(node.op, Op::Reshape) && node.activation == Activation::None;
        if plain && layouts[node.output].is_dense() && layouts[node.inputs[0]].is_dense() {
            roots[node.output] = roots[node.inputs[0]];
        }
    }
    roots
}

fn lives(network: &Network, layouts: &[Layout], roots: &[ValueId]) -> Vec<Life> {
    let kind = |layout: &Layout| {
        let alike = |other: &Layout| other.is_like(layout) || other.is_dense() && layout.is_dense();
        layouts.iter().position(alike).unwrap_or(0)
    };
    let life = |layout: &Layout| Life { first: 0, last: 0, len: layout.len(), kind: kind(layout) };
    let mut lives: Vec<Life> = layouts.iter().map(life).collect();
    for (index, node) in network.nodes.iter().enumerate() {
        let output = roots[node.output];
        if output == node.output {
            lives[output] = Life { first: index, last: index, ..lives[output] };
        }
        for value in node.inputs.iter().map(|&value| roots[value]) {
            lives[value].last = index;
        }
    }
    for &value in &network.outputs {
        lives[roots[value]].last = usize::MAX;
    }
    lives
}

/// What a kernel does of an activation itself, and what is left.
fn clamp(activation: Activation) -> (Clamp, Activation) {
    match activation {
        Activation::Clamp { low, high } => (Clamp { low, high }, Activation::None),
        other => (Clamp::NONE, other),
    }
}

fn convolved(node: &Node, port: &dyn Fn(ValueId) -> Port, trial: &mut Trial<'_>) -> (Kind, Activation) {
    let Op::Conv { weights, bias, window, group } = &node.op else { unreachable!("called for convolutions") };
    let (input, to) = (port(node.inputs[0]), port(node.output));
    let residual = node.inputs.get(1).map(|&value| port(value));
    let plan = convolution::Plan {
        weights,
        bias,
        window: *window,
        group: *group,
        input: input.layout,
        output: to.layout,
        residual: residual.map(|port| port.layout),
    };
    let (clamp, left) = clamp(node.activation);
    let added = residual.map(|port| port.slot);
    let kernels = plan.candidates(trial.isa, clamp, trial.earlier());
    let kernel = trial.fastest(kernels, |kernel, arena| {
        let mut out = std::mem::take(&mut arena[to.slot]);
        kernel.run(&arena[input.slot], added.map(|slot| &arena[slot][..]), &mut out);
        arena[to.slot] = out;
    });
    (Kind::Conv { kernel, input: input.slot, residual: added }, left)
}

fn multiplied(node: &Node, port: &dyn Fn(ValueId) -> Port, trial: &mut Trial<'_>) -> (Kind, Activation) {
    let Op::Dense { weights, bias } = &node.op else { unreachable!("called for products") };
    let (input, to) = (port(node.inputs[0]), port(node.output));
    let inputs = input.layout.shape.c;
    let (clamp, left) = clamp(node.activation);
    let (isa, earlier) = (trial.isa, trial.earlier());
    let sparse = weights.iter().filter(|weight| **weight == 0.0).count() * 4 > weights.len();
    let ways = if sparse { &PRODUCTS[..] } else { &[Storage::Dense] };
    let pack = |&way: &Storage| Some((way.name(), Matrix::new(isa, way, weights, bias, inputs, clamp)?));
    let mut known = ways.iter().filter(|way| Some(way.name()) == earlier).filter_map(pack).peekable();
    let all = if known.peek().is_none() { ways } else { &[] };
    let kernel = trial.fastest(known.chain(all.iter().filter_map(pack)), |kernel, arena| {
        let mut out = std::mem::take(&mut arena[to.slot]);
        kernel.run(isa, &arena[input.slot], &mut out);
        arena[to.slot] = out;
    });
    (Kind::Dense { kernel, input: input.slot }, left)
}
