//! What a graph costs: multiply-accumulates, parameters, memory, layer by layer, for one sample.

use std::collections::BTreeMap;

use secateur_common::{ByteCount, Cost, MacCount};

use crate::shape::{self, ShapeError, Shapes};
use crate::{Graph, Node, Tensor};

/// A layer with weights.
#[derive(Clone, PartialEq, Debug)]
pub struct LayerCost {
    /// The node's name.
    pub name: String,
    /// Its operator.
    pub op: String,
    /// Shape of its data input; empty where unknown.
    pub input: Vec<usize>,
    /// Shape of its output; empty where unknown.
    pub output: Vec<usize>,
    /// Shape of its weights.
    pub weights: Vec<usize>,
    /// Multiply-accumulates with nonzero weights.
    pub macs: MacCount,
    /// Multiply-accumulates with all weights.
    pub dense_macs: MacCount,
    /// Weights and biases.
    pub parameters: u64,
    /// Of these, those that are not zero.
    pub nonzero: u64,
}

/// The cost of a graph.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Analysis {
    /// Convolutions and products by constants, in node order.
    pub layers: Vec<LayerCost>,
    /// Float initializers' elements.
    pub parameters: u64,
    /// Of these, those that are not zero.
    pub nonzero: u64,
    /// Weights plus the peak of the live activations; see [`analyse`].
    pub peak_memory: ByteCount,
    /// Nodes whose output shape is unknown, for which nothing is counted.
    pub unknown: Vec<String>,
}

impl Analysis {
    /// Multiply-accumulates with nonzero weights.
    pub fn macs(&self) -> MacCount {
        self.layers.iter().map(|layer| layer.macs).sum()
    }

    /// Multiply-accumulates with all weights.
    pub fn dense_macs(&self) -> MacCount {
        self.layers.iter().map(|layer| layer.dense_macs).sum()
    }

    /// The cost, given what the variant takes as stored.
    pub fn cost(&self, model_bytes: ByteCount) -> Cost {
        Cost {
            macs: self.macs(),
            dense_macs: self.dense_macs(),
            parameters: self.parameters,
            nonzero: self.nonzero,
            model_bytes,
            peak_memory_bytes: self.peak_memory,
        }
    }
}

/// Counts what one sample costs.
///
/// Multiply-accumulates are those of `Conv`, `Gemm` and `MatMul` by a constant. Peak memory is the bytes of all
/// initializers plus the largest sum of activations that are alive at once while nodes run in order, each in its own
/// buffer, reshapes sharing their input's.
///
/// # Errors
/// Where an input's shape is not known.
pub fn analyse(graph: &Graph) -> Result<Analysis, ShapeError> {
    let shapes = shape::infer(graph, 1)?;
    let count =
        |tensor: &Tensor| tensor.as_f32().map_or((0, 0), |values| (values.len() as u64, nonzero(values)));
    let totals =
        graph.initializers.values().map(count).fold((0, 0), |sum, next| (sum.0 + next.0, sum.1 + next.1));
    let weight_bytes: usize = graph.initializers.values().map(Tensor::byte_len).sum();
    let unknown =
        graph.nodes.iter().filter(|node| !node.outputs.iter().any(|name| shapes.contains_key(name)));
    Ok(Analysis {
        layers: graph.nodes.iter().filter_map(|node| layer(graph, &shapes, node)).collect(),
        parameters: totals.0,
        nonzero: totals.1,
        peak_memory: ByteCount((weight_bytes + peak_activations(graph, &shapes)) as u64),
        unknown: unknown.map(Node::label).collect(),
    })
}

/// The constant that `name` stands for, be it through `Identity`.
fn constant<'g>(graph: &'g Graph, mut name: &'g str) -> Option<&'g Tensor> {
    loop {
        if let Some(tensor) = graph.initializers.get(name) {
            return Some(tensor);
        }
        let alias = graph
            .nodes
            .iter()
            .find(|node| node.is("Identity") && node.outputs.first().is_some_and(|output| output == name))?;
        name = alias.input(0)?;
    }
}

fn nonzero(values: &[f32]) -> u64 {
    values.iter().filter(|&&value| value != 0.0).count() as u64
}

fn layer(graph: &Graph, shapes: &Shapes, node: &Node) -> Option<LayerCost> {
    if !["Conv", "Gemm", "MatMul"].iter().any(|op| node.is(op)) {
        return None;
    }
    let constant = |index: usize| constant(graph, node.input(index)?).filter(|t| t.shape().len() > 1);
    let sides: &[usize] = if node.is("Conv") { &[1] } else { &[1, 0] };
    let index = *sides.iter().find(|&&index| constant(index).is_some())?;
    let weights = constant(index)?;
    let values = weights.as_f32()?;
    let shape_of = |name: Option<&str>| name.and_then(|name| shapes.get(name)).cloned().unwrap_or_default();
    let output = shape_of(node.outputs.first().map(String::as_str));
    let uses: u64 = match () {
        () if output.is_empty() => 0,
        () if node.is("Conv") => output[2..].iter().product::<usize>() as u64,
        () => product_uses(node, index, weights, &output),
    };
    let bias =
        if node.is("MatMul") { None } else { node.input(2).and_then(|name| graph.initializers.get(name)) };
    let (bias_len, bias_nonzero) =
        bias.and_then(Tensor::as_f32).map_or((0, 0), |bias| (bias.len() as u64, nonzero(bias)));
    Some(LayerCost {
        name: node.label(),
        op: node.op.clone(),
        input: shape_of(node.input(1 - index)),
        output,
        weights: weights.shape().to_vec(),
        macs: MacCount(nonzero(values).saturating_mul(uses)),
        dense_macs: MacCount((values.len() as u64).saturating_mul(uses)),
        parameters: values.len() as u64 + bias_len,
        nonzero: nonzero(values) + bias_nonzero,
    })
}

/// How often a product of shape `output` uses each element of the constant operand at `index`: there are as many
/// multiply-accumulates as outputs times the length of the axis summed over.
fn product_uses(node: &Node, index: usize, constant: &Tensor, output: &[usize]) -> u64 {
    let rank = constant.shape().len();
    let flipped = node.is("Gemm") && node.int(["transA", "transB"][index], 0) != 0;
    let summed = constant.shape()[if (index == 0) == flipped { rank - 2 } else { rank - 1 }];
    let total = (output.iter().product::<usize>() as u64).saturating_mul(summed as u64);
    total.checked_div(constant.len() as u64).unwrap_or(0)
}

/// The largest sum, in bytes, of values alive at once. A value lives from its node to the last that reads it; inputs
/// live from the start, outputs to the end.
fn peak_activations(graph: &Graph, shapes: &Shapes) -> usize {
    // Each value's buffer is named by the value that made it: reshapes pass their input's on.
    let mut buffer: BTreeMap<&str, &str> = BTreeMap::new();
    for node in &graph.nodes {
        let shares = ["Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout"]
            .iter()
            .any(|op| node.is(op));
        for output in node.outputs.iter().filter(|name| !name.is_empty()) {
            let source = node.input(0).filter(|name| shares && !graph.initializers.contains_key(*name));
            let root = source.map_or(output.as_str(), |name| buffer.get(name).copied().unwrap_or(name));
            buffer.insert(output, root);
        }
    }
    let root = |name: &'_ str| -> String { buffer.get(name).copied().unwrap_or(name).to_owned() };
    let size = |name: &str| shapes.get(name).map_or(0, |shape| shape.iter().product::<usize>() * 4);
    let mut last_use: BTreeMap<String, usize> = BTreeMap::new();
    for (index, node) in graph.nodes.iter().enumerate() {
        for name in
            node.inputs.iter().chain(&node.outputs).filter(|name| !graph.initializers.contains_key(*name))
        {
            last_use.insert(root(name), index);
        }
    }
    for output in &graph.outputs {
        last_use.insert(root(&output.name), usize::MAX);
    }
    let mut dying: BTreeMap<usize, Vec<&String>> = BTreeMap::new();
    for (name, &index) in &last_use {
        dying.entry(index).or_default().push(name);
    }
    let mut live: usize = graph.inputs.iter().map(|input| size(&input.name)).sum();
    let mut peak = live;
    for (index, node) in graph.nodes.iter().enumerate() {
        live += node.outputs.iter().filter(|name| root(name) == **name).map(|name| size(name)).sum::<usize>();
        peak = peak.max(live);
        live -= dying.get(&index).into_iter().flatten().map(|name| size(name)).sum::<usize>().min(live);
    }
    peak
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Dim, OpSet, ValueInfo};

    /// Multiply-accumulates of one product of an input and a constant, in the order named.
    fn product_macs(op: &str, order: [&str; 2], input: &[usize], constant: &[usize]) -> u64 {
        let value = |name: &str, shape: Option<&[usize]>| ValueInfo {
            name: name.into(),
            dtype: 1,
            shape: shape.map(|shape| shape.iter().map(|&dim| Dim::Fixed(dim)).collect()),
        };
        let weights = Tensor::f32(constant, vec![1.0; constant.iter().product()]).unwrap();
        let graph = Graph {
            opsets: vec![OpSet { domain: String::new(), version: 17 }],
            inputs: vec![value("x", Some(input))],
            outputs: vec![value("y", None)],
            nodes: vec![Node {
                op: op.into(),
                inputs: order.map(String::from).to_vec(),
                outputs: vec!["y".into()],
                ..Node::default()
            }],
            initializers: BTreeMap::from([("w".to_owned(), weights)]),
            ..Graph::default()
        };
        let analysis = analyse(&graph).unwrap();
        assert_eq!(analysis.macs(), analysis.dense_macs());
        analysis.macs().0
    }

    #[test]
    fn a_product_counts_its_outputs_times_the_axis_summed_over() {
        for op in ["MatMul", "Gemm"] {
            assert_eq!(product_macs(op, ["x", "w"], &[7, 4], &[4, 5]), 7 * 4 * 5);
            assert_eq!(product_macs(op, ["w", "x"], &[5, 7], &[4, 5]), 4 * 5 * 7);
        }
        assert_eq!(product_macs("MatMul", ["x", "w"], &[3, 2, 4], &[3, 4, 5]), 3 * 2 * 4 * 5);
        assert_eq!(product_macs("MatMul", ["w", "x"], &[3, 4, 2], &[3, 5, 4]), 3 * 2 * 4 * 5);
        assert_eq!(product_macs("MatMul", ["x", "w"], &[3, 2, 4], &[4, 5]), 3 * 2 * 4 * 5);
        assert_eq!(product_macs("MatMul", ["x", "w"], &[4], &[4, 5]), 4 * 5);
        assert_eq!(product_macs("MatMul", ["w", "x"], &[5], &[4, 5]), 4 * 5);
    }
}
