//! Simplifications that leave what a graph computes as it is.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::eval::{self, Depth};
use crate::{Attribute, Graph, Tensor};

/// Elements of a folded constant, at most: a node of a few bytes may ask for the largest tensor there is.
const FOLDED_ELEMENTS: usize = 1 << 20;

/// Elements of all folded constants together, at most.
const FOLDED_TOTAL: usize = 1 << 24;
/// Steps that folding takes, at most: a product counts each output times its larger operand, others their elements.
const STEPS: usize = 1 << 31;
/// Operators whose work is not in proportion to their elements.
const PRODUCTS: &[&str] = &[
    "Conv",
    "ConvTranspose",
    "Gemm",
    "MatMul",
    "Einsum",
    "LSTM",
    "GRU",
    "RNN",
    "MaxPool",
    "AveragePool",
    "LRN",
];

/// Replaces nodes that depend on constants only by their results, unless those are large or take long, and drops what
/// is then unused. An initializer that several values stand for (through `Identity`) becomes a constant of its own for
/// each.
pub fn constants(graph: &mut Graph) {
    let nodes = std::mem::take(&mut graph.nodes);
    let no_values = HashMap::new();
    let (mut total, mut steps) = (0, 0usize);
    for node in nodes {
        let constant = !node.inputs.is_empty()
            && !node.op.starts_with("Random")
            && node.inputs.iter().all(|name| name.is_empty() || graph.initializers.contains_key(name));
        let mut fits = |graph: &Graph| {
            let sizes = eval::compute(graph, &node, &no_values, Depth::Shapes).ok()?;
            let elements: usize = sizes.iter().map(Tensor::len).sum();
            let read = node.inputs.iter().filter_map(|name| graph.initializers.get(name)).map(Tensor::len);
            let read: usize = read.sum();
            let product = PRODUCTS.iter().any(|op| node.is(op));
            steps =
                steps.saturating_add(if product { elements.saturating_mul(read) } else { elements + read });
            let small = sizes.iter().all(|result| result.len() <= FOLDED_ELEMENTS);
            (small && total + elements <= FOLDED_TOTAL && steps <= STEPS).then(|| total += elements)
        };
        let fits = constant && fits(graph).is_some();
        match fits.then(|| eval::compute(graph, &node, &no_values, Depth::Values)) {
            Some(Ok(results)) => {
                let named = node.outputs.iter().zip(results).filter(|(name, _)| !name.is_empty());
                graph.initializers.extend(named.map(|(name, tensor)| (name.clone(), tensor)));
            }
            _ => graph.nodes.push(node),
        }
    }
    unused(graph);
}

/// Whether a node holds a subgraph (or another attribute not understood): those may read any value by name without
/// listing it.
pub(crate) fn has_subgraphs(graph: &Graph) -> bool {
    let mut attributes = graph.nodes.iter().flat_map(|node| node.attributes.values());
    attributes.any(|value| matches!(value, Attribute::Opaque(_)))
}

/// Drops nodes and initializers on which no output depends; none where a subgraph may read them.
pub fn unused(graph: &mut Graph) {
    if has_subgraphs(graph) {
        return;
    }
    let mut needed: BTreeSet<String> = graph.outputs.iter().map(|output| output.name.clone()).collect();
    let mut kept: Vec<_> = Vec::new();
    for node in std::mem::take(&mut graph.nodes).into_iter().rev() {
        if node.outputs.iter().any(|name| needed.contains(name)) {
            needed.extend(node.inputs.iter().cloned());
            kept.push(node);
        }
    }
    kept.reverse();
    graph.nodes = kept;
    graph.initializers.retain(|name, _| needed.contains(name));
}

/// Folds each `BatchNormalization` that follows a `Conv` or `Gemm` into its weights and bias, where nothing else reads
/// what lies between and the weights are not shared. The weights keep their names. A graph with subgraphs stays as it
/// is.
pub fn batch_norms(graph: &mut Graph) {
    if has_subgraphs(graph) {
        return;
    }
    let candidates: Vec<usize> =
        (0..graph.nodes.len()).filter(|&i| graph.nodes[i].is("BatchNormalization")).collect();
    let mut removed = BTreeSet::new();
    for bn in candidates {
        if let Some((producer, weights, bias)) = folded(graph, bn) {
            let output = graph.nodes[bn].outputs[0].clone();
            let node = &mut graph.nodes[producer];
            let weight_name = node.inputs[1].clone();
            node.inputs.resize(3, String::new());
            if node.inputs[2].is_empty()
                || graph.initializers.get(&node.inputs[2]).is_none_or(|b| b.shape() != bias.shape())
            {
                node.inputs[2] = format!("{output}.folded_bias");
            }
            let bias_name = node.inputs[2].clone();
            node.outputs[0] = output;
            graph.initializers.insert(weight_name, weights);
            graph.initializers.insert(bias_name, bias);
            removed.insert(bn);
        }
    }
    let mut index = 0;
    graph.nodes.retain(|_| {
        index += 1;
        !removed.contains(&(index - 1))
    });
    unused(graph);
}

/// The producer of a batch normalisation's input with the weights and bias that take it in.
fn folded(graph: &Graph, bn: usize) -> Option<(usize, Tensor, Tensor)> {
    let node = &graph.nodes[bn];
    if node.int("training_mode", 0) != 0 || node.outputs.iter().skip(1).any(|name| !name.is_empty()) {
        return None;
    }
    let between = node.input(0)?;
    let producer = *graph.producers().get(between)?;
    let consumers = graph.consumers();
    let read_once = |name: &str| consumers.get(name).is_some_and(|readers| readers.len() == 1);
    if !read_once(between) || graph.outputs.iter().any(|output| output.name == between) {
        return None;
    }
    let source = &graph.nodes[producer];
    let weight_name = source.input(1)?;
    let gemm = source.is("Gemm") && source.float("alpha", 1.0) == 1.0 && source.float("beta", 1.0) == 1.0;
    if !(source.is("Conv") || gemm)
        || !read_once(weight_name)
        || source.input(2).is_some_and(|b| !read_once(b))
    {
        return None;
    }
    let parameters: BTreeMap<usize, &[f32]> =
        (1..5).filter_map(|i| Some((i, graph.initializers.get(node.input(i)?)?.as_f32()?))).collect();
    let [scale, shift, mean, variance] = [1, 2, 3, 4].map(|i| parameters.get(&i).copied());
    let (scale, shift, mean, variance) = (scale?, shift?, mean?, variance?);
    let epsilon = node.float("epsilon", 1e-5);
    let factors: Vec<f32> = scale.iter().zip(variance).map(|(s, v)| s / (v + epsilon).sqrt()).collect();

    let mut weights = graph.initializers.get(weight_name)?.clone();
    // Output channels lie along axis 0, but along axis 1 for a Gemm that is not transposed.
    let axis = usize::from(gemm && source.int("transB", 0) == 0);
    let channels = *weights.shape().get(axis)?;
    if [factors.len(), shift.len(), mean.len()].iter().any(|&length| length != channels) {
        return None;
    }
    let inner: usize = weights.shape()[axis + 1..].iter().product();
    for (index, value) in weights.as_f32_mut()?.iter_mut().enumerate() {
        *value *= factors[index / inner % channels];
    }
    let old = match source.input(2) {
        Some(name) => row_addend(graph.initializers.get(name)?, channels)?,
        None => vec![0.0; channels],
    };
    let bias = (0..channels).map(|c| (old[c] - mean[c]) * factors[c] + shift[c]).collect();
    Some((producer, weights, Tensor::f32([channels], bias).ok()?))
}

/// An addend that is the same for every row, one value a channel; `None` where rows differ.
fn row_addend(addend: &Tensor, channels: usize) -> Option<Vec<f32>> {
    let values = addend.as_f32()?;
    match *addend.shape() {
        [] | [1] | [1, 1] => Some(vec![*values.first()?; channels]),
        [n] | [1, n] if n == channels => Some(values.to_vec()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Node, OpSet, ValueInfo};

    fn node(op: &str, inputs: &[&str], output: &str) -> Node {
        Node {
            op: op.into(),
            inputs: inputs.iter().map(|&name| name.into()).collect(),
            outputs: vec![output.into()],
            ..Node::default()
        }
    }

    fn graph(nodes: Vec<Node>, initializers: &[(&str, Tensor)]) -> Graph {
        let value = |name: &str| ValueInfo { name: name.into(), dtype: 1, shape: None };
        Graph {
            opsets: vec![OpSet { domain: String::new(), version: 17 }],
            inputs: vec![value("x")],
            outputs: vec![value("y")],
            nodes,
            initializers: initializers.iter().map(|(name, t)| ((*name).to_owned(), t.clone())).collect(),
            ..Graph::default()
        }
    }

    fn ramp(shape: &[usize]) -> Tensor {
        Tensor::f32(shape, (0..shape.iter().product()).map(|i| i as f32 * 0.25 + 0.5).collect()).unwrap()
    }

    #[test]
    fn batch_norm_folds_into_a_gemm_whose_addend_is_one_row_only() {
        let n = 3;
        let cases: [(&[usize], bool); 7] = [
            (&[], true),
            (&[1], true),
            (&[n], true),
            (&[1, n], true),
            (&[2, n], false),
            (&[n, 1], false),
            (&[n, n], false),
        ];
        for (addend, folds) in cases {
            let rows = addend.first().copied().filter(|_| addend.len() == 2 && addend[0] > 1).unwrap_or(2);
            let nodes = vec![
                node("Gemm", &["x", "w", "c"], "h"),
                node("BatchNormalization", &["h", "s", "b", "m", "v"], "y"),
            ];
            let channel = ramp(&[n]);
            let mut graph = graph(
                nodes,
                &[
                    ("w", ramp(&[4, n])),
                    ("c", ramp(addend)),
                    ("s", channel.clone()),
                    ("b", channel.clone()),
                    ("m", channel.clone()),
                    ("v", channel),
                ],
            );
            let x = ramp(&[rows, 4]);
            let before = eval::run(&graph, &[("x", &x)], &["y"]).unwrap();
            batch_norms(&mut graph);
            assert_eq!(graph.nodes.len() == 1, folds, "addend {addend:?}");
            let after = eval::run(&graph, &[("x", &x)], &["y"]).unwrap();
            for (a, b) in before["y"].as_f32().unwrap().iter().zip(after["y"].as_f32().unwrap()) {
                assert!((a - b).abs() < 1e-4, "addend {addend:?}: {a} and {b}");
            }
        }
    }

    #[test]
    fn large_constants_stay_the_nodes_that_make_them() {
        for (elements, folds) in [(FOLDED_ELEMENTS, true), (FOLDED_ELEMENTS + 1, false)] {
            let nodes = vec![node("ConstantOfShape", &["n"], "c"), node("Add", &["x", "c"], "y")];
            let shape = Tensor::i64([1], vec![elements as i64]).unwrap();
            let mut graph = graph(nodes, &[("n", shape)]);
            constants(&mut graph);
            assert_eq!(graph.initializers.contains_key("c"), folds);
            assert_eq!(graph.nodes.len(), if folds { 1 } else { 2 });
        }
    }

    #[test]
    fn what_a_subgraph_may_read_is_kept() {
        let mut branch = node("If", &["x"], "y");
        let nodes = |branch: &Node| vec![node("Relu", &["x"], "r"), branch.clone()];
        let constant = [("c", ramp(&[2]))];
        let mut plain = graph(nodes(&branch), &constant);
        unused(&mut plain);
        assert_eq!((plain.nodes.len(), plain.initializers.len()), (1, 0));
        branch.attributes.insert("then_branch".into(), Attribute::Opaque(Vec::new()));
        let mut captured = graph(nodes(&branch), &constant);
        unused(&mut captured);
        assert_eq!((captured.nodes.len(), captured.initializers.len()), (2, 1));
    }
}
