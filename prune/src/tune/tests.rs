//! Slopes against differences, what blocks the way back, and that tuning never makes it worse.

use secateur_common::probe_input;
use secateur_model::{Attribute, Dim, Node, OpSet, ValueInfo};

use super::*;
use crate::observe::observe;

fn node(op: &str, inputs: &[&str], output: &str, attributes: &[(&str, Attribute)]) -> Node {
    Node {
        op: op.into(),
        name: output.into(),
        inputs: inputs.iter().map(|&name| name.into()).collect(),
        outputs: vec![output.into()],
        attributes: attributes.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect(),
        ..Node::default()
    }
}

fn random(seed: u64, shape: &[usize]) -> Tensor {
    let values = probe_input(seed, shape.iter().product());
    Tensor::f32(shape, values.iter().map(|x| 1.6 * x - 0.8).collect()).unwrap()
}

/// `[N, 2, 6, 6]` to `[N, 3]`, by all that has a way back.
fn net() -> Graph {
    let ints = |values: &[i64]| Attribute::Ints(values.to_vec());
    let pads = || ("pads", ints(&[1, 1, 1, 1]));
    let kernel = || ("kernel_shape", ints(&[2, 2]));
    let nodes = vec![
        node("Conv", &["x", "w1", "b1"], "c1", &[pads()]),
        node("Clip", &["c1", "low", "high"], "r1", &[]),
        node("Conv", &["r1", "w2", "b2"], "c2", &[pads(), ("group", Attribute::Int(4))]),
        node("HardSwish", &["c2"], "r2", &[]),
        node("GlobalAveragePool", &["r2"], "s1", &[]),
        node("Conv", &["s1", "w3"], "s2", &[]),
        node("Sigmoid", &["s2"], "gate", &[]),
        node("Mul", &["r2", "gate"], "m", &[]),
        node("Add", &["m", "r1"], "a", &[]),
        node("BatchNormalization", &["a", "w7", "b7", "mean7", "variance7"], "n", &[]),
        node("Conv", &["n", "w4", "b4"], "c4", &[pads(), ("strides", ints(&[2, 2]))]),
        node("Relu", &["c4"], "r4", &[]),
        node("MaxPool", &["a"], "p1", &[kernel(), ("strides", ints(&[2, 2]))]),
        node("AveragePool", &["r4"], "p2", &[kernel(), pads(), ("strides", ints(&[1, 1]))]),
        node("AveragePool", &["p2"], "p3", &[kernel()]),
        node("Concat", &["p1", "p3"], "cat", &[("axis", Attribute::Int(1))]),
        node("Transpose", &["cat"], "t", &[("perm", ints(&[0, 2, 3, 1]))]),
        node("MatMul", &["t", "w5"], "m5", &[]),
        node("Add", &["m5", "b5"], "a5", &[]),
        node("Sub", &["one", "a5"], "d", &[]),
        node("Div", &["d", "two"], "e", &[]),
        node("ReduceMean", &["e"], "mean", &[("axes", ints(&[1, 2])), ("keepdims", Attribute::Int(0))]),
        node(
            "Gemm",
            &["mean", "w6", "b6"],
            "g",
            &[("transB", Attribute::Int(1)), ("alpha", Attribute::Float(0.5))],
        ),
        node("Softmax", &["g"], "y", &[("axis", Attribute::Int(1))]),
    ];
    let scalar = |value: f32| Tensor::f32(vec![], vec![value]).unwrap();
    let mut initializers = BTreeMap::from([
        ("low", scalar(0.0)),
        ("high", scalar(1.0)),
        ("one", scalar(1.0)),
        ("two", scalar(0.5)),
        ("variance7", Tensor::f32([4], vec![0.5, 1.0, 2.0, 0.2]).unwrap()),
    ]);
    let shapes: [(&str, &[usize]); 14] = [
        ("w1", &[4, 2, 3, 3]),
        ("b1", &[4]),
        ("w2", &[4, 1, 3, 3]),
        ("b2", &[4]),
        ("w3", &[4, 4, 1, 1]),
        ("w4", &[5, 4, 3, 3]),
        ("b4", &[5]),
        ("w5", &[9, 6]),
        ("b5", &[6]),
        ("w6", &[3, 6]),
        ("b6", &[3]),
        ("w7", &[4]),
        ("b7", &[4]),
        ("mean7", &[4]),
    ];
    for (seed, (name, shape)) in shapes.into_iter().enumerate() {
        initializers.insert(name, random(seed as u64, shape));
    }
    let value = |name: &str, shape: &[usize]| {
        let dims = shape.iter().map(|&length| Dim::Fixed(length));
        let shape = std::iter::once(Dim::Symbol("N".into())).chain(dims).collect();
        ValueInfo { name: name.into(), dtype: 1, shape: Some(shape) }
    };
    Graph {
        opsets: vec![OpSet { domain: String::new(), version: 14 }],
        nodes,
        initializers: initializers.into_iter().map(|(name, tensor)| (name.to_owned(), tensor)).collect(),
        inputs: vec![value("x", &[2, 6, 6])],
        outputs: vec![value("y", &[3])],
        ..Graph::default()
    }
}

fn layers(graph: &Graph) -> Vec<Layer> {
    (0..graph.nodes.len()).filter_map(|index| Layer::of(graph, index)).collect()
}

#[test]
fn slopes_are_those_of_differences() {
    let graph = net();
    let reverse = Reverse::new(&graph, &layers(&graph)).unwrap();
    let (x, y) = (random(50, &[4, 2, 6, 6]), Tensor::f32([4, 3], [0.2, 0.5, 0.3].repeat(4)).unwrap());
    let found = slopes(&graph, &reverse, &x, &y).unwrap().unwrap();
    assert_eq!(found.len(), 13);
    for (name, slopes) in &found {
        let way = probe_input(9, slopes.len());
        let at = |by: f32| {
            let mut moved = graph.clone();
            let values = moved.initializers.get_mut(name).and_then(Tensor::as_f32_mut).unwrap();
            values.iter_mut().zip(&way).for_each(|(value, way)| *value += by * (way - 0.4));
            divergence(&y, &answers(&moved, &x).unwrap())
        };
        let expected = (at(1e-3) - at(-1e-3)) / 2e-3;
        let told: f64 = slopes.iter().zip(&way).map(|(slope, way)| f64::from(slope * (way - 0.4))).sum();
        let all = slopes.iter().map(|slope| f64::from(slope.abs())).sum::<f64>();
        assert!((expected - told).abs() < 2e-2 * all + 1e-5, "{name}: {expected} {told} of {all}");
    }
}

#[test]
fn what_lies_in_front_of_an_unknown_operator_stays() {
    let mut graph = net();
    let at = graph.nodes.iter().position(|node| node.op == "HardSwish").unwrap();
    graph.nodes[at].op = "Unheard".into();
    let reverse = Reverse::new(&graph, &layers(&graph)).unwrap();
    let names: Vec<&str> = reverse.tensors().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["b4", "b5", "b6", "b7", "w3", "w4", "w5", "w6", "w7"]);
}

#[test]
fn a_net_that_was_disturbed_comes_back_and_never_gets_worse() {
    let dense = net();
    let observed = observe(&dense, random(3, &[320, 2, 6, 6]), |_| false, &mut |_| ()).unwrap();
    let far = |graph: &Graph| divergence(&observed.output, &answers(graph, &observed.inputs).unwrap());
    let mut graph = dense.clone();
    for name in ["w1", "w4", "w5"] {
        let values = graph.initializers.get_mut(name).and_then(Tensor::as_f32_mut).unwrap();
        values.iter_mut().enumerate().for_each(|(i, value)| *value *= if i % 3 == 0 { 0.5 } else { 1.0 });
    }
    let before = far(&graph);
    tune(&mut graph, &dense, &observed, &mut |_, _| ()).unwrap();
    assert!(far(&graph) < 0.3 * before, "{before} {}", far(&graph));
    let mut same = dense.clone();
    tune(&mut same, &dense, &observed, &mut |_, _| ()).unwrap();
    assert!(same.initializers == dense.initializers);
}

#[test]
fn a_moved_sample_is_what_it_was_a_place_away() {
    let old = random(5, &[4, 2, 16, 20]);
    let mut new = old.clone();
    jitter(&mut new, &mut Random::new(1));
    let (old, new) = (old.as_f32().unwrap(), new.as_f32().unwrap());
    let shifts = old.chunks_exact(640).zip(new.chunks_exact(640)).map(|(old, new)| {
        let alike = |shift: &isize| {
            let inner =
                (0..640).filter(|at| (1..15).contains(&(at / 20 % 16)) && (1..19).contains(&(at % 20)));
            inner.into_iter().all(|at| new[at] == old[at.checked_add_signed(*shift).unwrap()])
        };
        [-21, -20, -19, -1, 0, 1, 19, 20, 21].into_iter().find(alike).unwrap()
    });
    let shifts: std::collections::BTreeSet<isize> = shifts.collect();
    assert!(shifts.len() > 1, "each by itself: {shifts:?}");
}
