//! Bytes that are no model, or a damaged one, through everything that looks at a model: never a panic.

#![allow(clippy::unwrap_used)] // a test panics where it fails

use std::collections::BTreeMap;

use proptest::prelude::*;
use secateur_model::{
    Attribute, Dim, Graph, Node, OpSet, Tensor, ValueInfo, cost, fold, groups, onnx, shape,
};

/// A small network with a convolution, a normalisation, a pool and a product.
fn small() -> Vec<u8> {
    let value = |name: &str, dims: &[usize]| ValueInfo {
        name: name.into(),
        dtype: 1,
        shape: Some(dims.iter().map(|&dim| Dim::Fixed(dim)).collect()),
    };
    let node = |op: &str, inputs: &[&str], output: &str, attributes: &[(&str, Attribute)]| Node {
        op: op.into(),
        inputs: inputs.iter().map(|&name| name.into()).collect(),
        outputs: vec![output.into()],
        attributes: attributes.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect(),
        ..Node::default()
    };
    let ints = |values: &[i64]| Attribute::Ints(values.to_vec());
    let floats = |dims: &[usize]| Tensor::f32(dims, vec![0.5; dims.iter().product()]).unwrap();
    let initializers = [
        ("w", floats(&[2, 1, 3, 3])),
        ("s", floats(&[2])),
        ("f", floats(&[8, 3])),
        ("to", Tensor::i64([2], vec![1, -1]).unwrap()),
        ("n", Tensor::i64([1], vec![3]).unwrap()),
    ];
    let graph = Graph {
        name: "small".into(),
        ir_version: 8,
        opsets: vec![OpSet { domain: String::new(), version: 17 }],
        inputs: vec![value("x", &[1, 1, 4, 4])],
        outputs: vec![value("y", &[1, 3])],
        nodes: vec![
            node("Conv", &["x", "w"], "c", &[("pads", ints(&[1, 1, 1, 1]))]),
            node("BatchNormalization", &["c", "s", "s", "s", "s"], "b", &[]),
            node("MaxPool", &["b"], "p", &[("kernel_shape", ints(&[2, 2])), ("strides", ints(&[2, 2]))]),
            node("Reshape", &["p", "to"], "r", &[]),
            node("ConstantOfShape", &["n"], "z", &[]),
            node("Gemm", &["r", "f", "z"], "y", &[]),
        ],
        initializers: initializers.map(|(name, tensor)| (name.to_owned(), tensor)).into(),
        ..Graph::default()
    };
    onnx::write(&graph)
}

/// Everything that is done with a model before it is run. Whether the bytes were a model.
fn look_at(bytes: &[u8]) -> bool {
    let Ok(mut graph) = onnx::read(bytes) else { return false };
    let _ = shape::infer(&graph, 1);
    let _ = cost::analyse(&graph);
    fold::constants(&mut graph);
    fold::batch_norms(&mut graph);
    let _ = onnx::read(&onnx::write(&graph));
    groups::prepare(&mut graph);
    if let Ok(shapes) = shape::infer(&graph, 1) {
        let found = groups::find(&graph, &shapes);
        let half = |group: &groups::Group| (0..group.channels.div_ceil(2)).collect();
        let keep = found.groups.iter().map(half).collect();
        let _ = groups::masked(&graph, &found, &keep);
        let _ = groups::cut(&graph, &found, &keep);
    }
    true
}

/// A graph of nodes of one operator in a chain, from `x` of 1 × 1 × 8192 × 8192.
fn chain(length: usize, node: impl Fn(String, String) -> Node) -> Graph {
    let dims = [1, 1, 8192, 8192].map(Dim::Fixed).to_vec();
    let value = |name: String, shape| ValueInfo { name, dtype: 1, shape };
    Graph {
        opsets: vec![OpSet { domain: String::new(), version: 17 }],
        inputs: vec![value("v0".into(), Some(dims))],
        outputs: vec![value(format!("v{length}"), None)],
        nodes: (0..length).map(|at| node(format!("v{at}"), format!("v{}", at + 1))).collect(),
        ..Graph::default()
    }
}

#[test]
fn large_values_in_small_files_take_no_time() {
    let started = std::time::Instant::now();
    for op in
        ["Relu", "Add", "Softmax", "Transpose", "GreaterOrEqual", "Concat", "Pad", "ReduceMax", "Resize"]
    {
        let node = |from: String, to: String| {
            let (inputs, attributes) = match op {
                "Add" | "GreaterOrEqual" => (vec![from.clone(), from], BTreeMap::new()),
                "ReduceMax" => (vec![from], BTreeMap::from([("axes".to_owned(), Attribute::Ints(vec![0]))])),
                "Pad" => (vec![from, "pads".into()], BTreeMap::new()),
                "Resize" => (vec![from, String::new(), "scales".into()], BTreeMap::new()),
                _ => (vec![from], BTreeMap::new()),
            };
            Node { op: op.into(), inputs, outputs: vec![to], attributes, ..Node::default() }
        };
        let mut graph = chain(200, node);
        graph.initializers.insert("pads".into(), Tensor::i64([8], vec![0; 8]).unwrap());
        graph.initializers.insert("scales".into(), Tensor::f32([4], vec![1.0; 4]).unwrap());
        assert!(look_at(&onnx::write(&graph)), "{op}");
    }
    // Constants made by nodes: as many and as large as may be.
    let mut graph = chain(2000, |_, to| Node {
        op: "ConstantOfShape".into(),
        inputs: vec!["n".into()],
        outputs: vec![to],
        ..Node::default()
    });
    graph.nodes.push(Node {
        op: "Sum".into(),
        inputs: (1..=2000).map(|at| format!("v{at}")).collect(),
        outputs: vec!["sum".into()],
        ..Node::default()
    });
    graph.outputs[0].name = "sum".into();
    for elements in [1 << 20, 1 << 26] {
        graph.initializers.insert("n".into(), Tensor::i64([1], vec![elements]).unwrap());
        assert!(look_at(&onnx::write(&graph)));
    }
    assert!(started.elapsed().as_secs() < 60, "{:?}", started.elapsed());
}

#[test]
fn the_undamaged_model_is_one() {
    assert!(look_at(&small()));
}

#[test]
fn no_truncation_panics() {
    let bytes = small();
    (0..bytes.len()).for_each(|end| assert!(!look_at(&bytes[..end]), "cut at {end}"));
}

#[test]
fn no_single_bit_flip_panics() {
    let mut bytes = small();
    for bit in 0..bytes.len() * 8 {
        bytes[bit / 8] ^= 1 << (bit % 8);
        look_at(&bytes);
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
        look_at(&bytes);
    }

    #[test]
    fn no_damage_panics(damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
        let mut bytes = small();
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        look_at(&bytes);
    }
}
