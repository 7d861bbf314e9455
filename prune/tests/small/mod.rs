//! A small net and data for it.
#![allow(dead_code, clippy::unwrap_used)]

use std::collections::BTreeMap;

use secateur_common::{Budget, ByteCount, probe_input};
use secateur_model::{Attribute, Dim, Graph, Node, OpSet, Tensor, ValueInfo};
use secateur_prune::{Method, Pattern, Refit, Request, Structure};

pub(crate) fn node(op: &str, inputs: &[&str], output: &str, attributes: &[(&str, Attribute)]) -> Node {
    Node {
        op: op.into(),
        name: output.into(),
        inputs: inputs.iter().map(|&name| name.into()).collect(),
        outputs: vec![output.into()],
        attributes: attributes.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect(),
        ..Node::default()
    }
}

pub(crate) fn weights(seed: u64, shape: &[usize]) -> Tensor {
    let count = shape.iter().product();
    Tensor::f32(shape, probe_input(seed, count).iter().map(|x| x - 0.5).collect()).unwrap()
}

/// Convolution, a residual block, a depthwise layer, a stride, pooling and a product: `[N, 2, 8, 8]` to `[N, 5]`.
pub(crate) fn net() -> Graph {
    let pads = || ("pads", Attribute::Ints(vec![1, 1, 1, 1]));
    let value = |name: &str, shape: &[usize]| ValueInfo {
        name: name.into(),
        dtype: 1,
        shape: Some(
            std::iter::once(Dim::Symbol("N".into())).chain(shape.iter().map(|&d| Dim::Fixed(d))).collect(),
        ),
    };
    let nodes = vec![
        node("Conv", &["x", "w1", "b1"], "c1", &[pads()]),
        node("Relu", &["c1"], "r1", &[]),
        node("Conv", &["r1", "w2"], "c2", &[pads()]),
        node("Relu", &["c2"], "r2", &[]),
        node("Conv", &["r2", "w3", "b3"], "c3", &[pads()]),
        node("Add", &["c3", "r1"], "s", &[]),
        node("Relu", &["s"], "r3", &[]),
        node(
            "Conv",
            &["r3", "w4", "b4"],
            "c4",
            &[pads(), ("group", Attribute::Int(6)), ("strides", Attribute::Ints(vec![2, 2]))],
        ),
        node("Clip", &["c4", "low", "high"], "r4", &[]),
        node("Conv", &["r4", "w5", "b5"], "c5", &[]),
        node("GlobalAveragePool", &["c5"], "p", &[]),
        node("Flatten", &["p"], "f", &[]),
        node("Gemm", &["f", "w6", "b6"], "y", &[("transB", Attribute::Int(1))]),
    ];
    let scalar = |value: f32| Tensor::f32(vec![], vec![value]).unwrap();
    let tensors: [(&str, Tensor); 13] = [
        ("w1", weights(1, &[6, 2, 3, 3])),
        ("b1", weights(2, &[6])),
        ("w2", weights(3, &[8, 6, 3, 3])),
        ("w3", weights(4, &[6, 8, 3, 3])),
        ("b3", weights(5, &[6])),
        ("w4", weights(6, &[6, 1, 3, 3])),
        ("b4", weights(7, &[6])),
        ("low", scalar(0.0)),
        ("high", scalar(6.0)),
        ("w5", weights(8, &[12, 6, 1, 1])),
        ("b5", weights(9, &[12])),
        ("w6", weights(10, &[5, 12])),
        ("b6", weights(11, &[5])),
    ];
    Graph {
        ir_version: 8,
        opsets: vec![OpSet { domain: String::new(), version: 17 }],
        inputs: vec![value("x", &[2, 8, 8])],
        outputs: vec![value("y", &[5])],
        nodes,
        initializers: tensors.into_iter().map(|(name, t)| (name.to_owned(), t)).collect::<BTreeMap<_, _>>(),
        ..Graph::default()
    }
}

pub(crate) fn images(count: usize) -> Tensor {
    Tensor::f32([count, 2, 8, 8], probe_input(77, count * 128)).unwrap()
}

pub(crate) fn bytes(graph: &Graph) -> ByteCount {
    let stored = |tensor: &Tensor| tensor.as_f32().map_or(0, |v| v.iter().filter(|v| **v != 0.0).count() * 4);
    ByteCount(graph.initializers.values().map(|tensor| stored(tensor) as u64).sum())
}

pub(crate) fn request<'a>(
    method: Method,
    structure: Structure,
    budget: Budget,
    data: Option<&'a Tensor>,
) -> Request<'a> {
    Request {
        method,
        structure,
        pattern: Pattern::default(),
        budget,
        rate: None,
        threshold: None,
        seed: 7,
        refit: Refit::WHOLE,
        calibration: data,
    }
}

pub(crate) fn all_finite(graph: &Graph) -> bool {
    graph.initializers.values().filter_map(Tensor::as_f32).flatten().all(|value| value.is_finite())
}
