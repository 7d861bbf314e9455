//! Nodes that go into the node before them: scales and shifts into weights, activations and sums into kernels.

use std::collections::BTreeMap;

use secateur_model::eval::Window;

use super::layout::Shape;
use super::network::{Activation, Binary, Network, Node, Op, ValueId};

/// Fuses what can be; what the network computes stays as it is, to rounding.
pub(crate) fn fuse(network: &mut Network) {
    let mut fusing = Fusing::new(network);
    for index in 0..fusing.nodes.len() {
        fusing.affine_into_weights(index);
        let _ = fusing.affine_back(index) || fusing.activation_back(index) || fusing.sum_back(index);
    }
    network.nodes = fusing.nodes.into_iter().flatten().collect();
    split_strides(network);
}

/// Nodes with gaps where one went into another.
struct Fusing {
    nodes: Vec<Option<Node>>,
    /// Which node makes each value.
    makers: Vec<usize>,
    /// How often each value is read; an output of the network counts as well.
    readers: Vec<usize>,
    shapes: Vec<Shape>,
}

impl Fusing {
    fn new(network: &mut Network) -> Self {
        let nodes: Vec<Option<Node>> = std::mem::take(&mut network.nodes).into_iter().map(Some).collect();
        let mut makers = vec![0; network.values.len()];
        let mut readers = vec![0; network.values.len()];
        for (index, node) in nodes.iter().flatten().enumerate() {
            makers[node.output] = index;
            node.inputs.iter().for_each(|&value| readers[value] += 1);
        }
        network.outputs.iter().for_each(|&value| readers[value] += 1);
        Self { nodes, makers, readers, shapes: network.values.clone() }
    }

    /// The node at `index`, if it is still there.
    fn node(&self, index: usize) -> Option<&Node> {
        self.nodes[index].as_ref()
    }

    /// The node that makes `value`, where nothing else reads it and nothing was done to it yet.
    fn sole_maker(&self, value: ValueId) -> Option<usize> {
        let maker = self.makers[value];
        let node = self.node(maker)?;
        (self.readers[value] == 1 && node.activation == Activation::None).then_some(maker)
    }

    /// `maker` makes what the node at `index` made, which goes.
    fn replace(&mut self, index: usize, maker: usize) {
        let Some(gone) = self.nodes[index].take() else { return };
        self.makers[gone.output] = maker;
        if let Some(node) = &mut self.nodes[maker] {
            node.output = gone.output;
            node.activation = gone.activation;
        }
    }

    /// A scale and shift after a product goes into its weights, after another into that one.
    fn affine_back(&mut self, index: usize) -> bool {
        let Some(Node { op: Op::Affine(affine), inputs, .. }) = self.node(index) else { return false };
        let (affine, Some(maker)) = (affine.clone(), self.sole_maker(inputs[0])) else { return false };
        let Some(node) = &mut self.nodes[maker] else { return false };
        match &mut node.op {
            Op::Input(first) | Op::Affine(first) => *first = first.then(&affine),
            Op::Conv { weights, bias, .. } | Op::Dense { weights, bias } if node.inputs.len() == 1 => {
                let row = weights.len() / bias.len();
                for (channel, bias) in bias.iter_mut().enumerate() {
                    let scale = affine.scale(channel);
                    weights[channel * row..][..row].iter_mut().for_each(|weight| *weight *= scale);
                    *bias = *bias * scale + affine.shift(channel);
                }
            }
            _ => return false,
        }
        self.replace(index, maker);
        true
    }

    /// A scale and shift before a product goes into its weights, unless the product pads with zeros of its own.
    fn affine_into_weights(&mut self, index: usize) {
        let Some(node) = self.node(index) else { return };
        let unpadded = match &node.op {
            Op::Conv { window, group: 1, .. } => {
                let end = |axis: usize| {
                    (window.output[axis] - 1) * window.stride[axis]
                        + (window.kernel[axis] - 1) * window.dilation[axis]
                };
                window.pad == [0, 0] && (0..2).all(|axis| end(axis) < window.input[axis])
            }
            Op::Dense { .. } => true,
            _ => false,
        };
        let Some(maker) = self.sole_maker(node.inputs.first().copied().unwrap_or_default()) else { return };
        let Some(Node { op: Op::Affine(affine), inputs, .. }) = self.node(maker) else { return };
        let (true, affine, source) = (unpadded, affine.clone(), inputs[0]) else { return };
        let Some(node) = &mut self.nodes[index] else { return };
        let (Op::Conv { weights, bias, .. } | Op::Dense { weights, bias }) = &mut node.op else { return };
        node.inputs[0] = source;
        let row = weights.len() / bias.len();
        let channels = affine.scale.len().max(affine.shift.len());
        // One scale for all inputs, or one for each channel's share of the row.
        let share = if channels == 1 { row } else { row / channels };
        for (bias, weights) in bias.iter_mut().zip(weights.chunks_exact_mut(row)) {
            for (at, weight) in weights.iter_mut().enumerate() {
                *bias += *weight * affine.shift(at / share);
                *weight *= affine.scale(at / share);
            }
        }
        self.nodes[maker] = None;
    }

    /// An activation goes into the node whose result it takes.
    fn activation_back(&mut self, index: usize) -> bool {
        let Some(Node { op: Op::Same, inputs, .. }) = self.node(index) else { return false };
        let Some(maker) = self.sole_maker(inputs[0]) else { return false };
        if matches!(self.node(maker).map(|node| &node.op), Some(Op::Reshape | Op::Concat | Op::Phases { .. }))
        {
            return false;
        }
        self.replace(index, maker);
        true
    }

    /// A sum with the result of a convolution goes into the later of the convolutions that it sums.
    fn sum_back(&mut self, index: usize) -> bool {
        let Some(Node { op: Op::Binary(Binary::Add), inputs, .. }) = self.node(index) else { return false };
        let [a, b] = inputs[..] else { return false };
        let takes = |fusing: &Self, value: ValueId| {
            let maker = fusing.sole_maker(value)?;
            let node = fusing.node(maker)?;
            (matches!(node.op, Op::Conv { .. }) && node.inputs.len() == 1).then_some(maker)
        };
        let found = [(a, b), (b, a)].into_iter().filter_map(|(own, other)| Some((takes(self, own)?, other)));
        let Some((maker, other)) = found.max_by_key(|(maker, _)| *maker) else { return false };
        // A gate is no addend of the kernel's.
        if a == b || self.shapes[a] != self.shapes[b] {
            return false;
        }
        // The convolution moves here, where what it adds is known.
        let (Some(sum), Some(mut conv)) = (self.nodes[index].take(), self.nodes[maker].take()) else {
            return false;
        };
        conv.inputs.push(other);
        (conv.output, conv.activation) = (sum.output, sum.activation);
        self.makers[sum.output] = index;
        self.nodes[index] = Some(conv);
        true
    }
}

/// Puts the rows and columns that strided convolutions skip in planes of their own, once for all that read a value.
fn split_strides(network: &mut Network) {
    let mut made: BTreeMap<(ValueId, [usize; 2]), ValueId> = BTreeMap::new();
    for mut node in std::mem::take(&mut network.nodes) {
        if let Op::Conv { window: Window { stride, .. }, .. } = &node.op {
            let (source, stride) = (node.inputs[0], *stride);
            if stride != [1, 1] {
                node.inputs[0] = *made.entry((source, stride)).or_insert_with(|| {
                    let [rows, columns] = stride;
                    let Shape { c, h, w } = network.values[source];
                    let shape = Shape { c: c * rows * columns, h: h.div_ceil(rows), w: w.div_ceil(columns) };
                    network.values.push(shape);
                    let output = network.values.len() - 1;
                    let op = Op::Phases { rows, columns };
                    network.nodes.push(Node {
                        op,
                        inputs: vec![source],
                        output,
                        activation: Activation::None,
                    });
                    output
                });
            }
        }
        network.nodes.push(node);
    }
}
