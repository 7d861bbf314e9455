//! A layer's rows times its matrix against the operator it stands for.

use secateur_common::probe_input;
use secateur_model::{Attribute, OpSet, eval};

use super::*;

fn graph(op: &str, shape: &[usize], attributes: &[(&str, Attribute)], bias: usize) -> Graph {
    let tensor = |seed, shape: &[usize]| {
        Tensor::f32(shape, probe_input(seed, shape.iter().product()).iter().map(|x| x - 0.5).collect())
            .unwrap()
    };
    let mut node = Node { op: op.into(), outputs: vec!["y".into()], ..Node::default() };
    node.inputs = vec!["x".into(), "w".into()];
    if bias > 0 {
        node.inputs.push("b".into());
    }
    node.attributes = attributes.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    Graph {
        opsets: vec![OpSet { domain: String::new(), version: 17 }],
        nodes: vec![node],
        initializers: [("w", tensor(1, shape)), ("b", tensor(2, &[bias]))]
            .into_iter()
            .map(|(name, tensor)| (name.to_owned(), tensor))
            .collect(),
        ..Graph::default()
    }
}

/// The unrolled rows times the matrix are what the operator computes, at every place taken.
fn check(graph: &Graph, input: &[usize]) {
    let x = Tensor::f32(input, probe_input(3, input.iter().product())).unwrap();
    let values = eval::run(graph, &[("x", &x)], &["y"]).unwrap();
    let (y, layer) = (&values["y"], Layer::of(graph, 0).unwrap());
    let (shape, area) = (y.shape(), layer.area(y.shape()));
    let sampling = Sampling::new(&layer, area, input[0], input[0] * area.div_ceil(2));
    for block in 0..layer.blocks {
        let rows = layer.unroll(graph, &x, &sampling, 0, block).unwrap();
        let matrix = layer.matrix(graph, block).unwrap();
        let mut rows = rows.chunks_exact(layer.width + 1);
        for image in 0..input[0] {
            for place in sampling.places(image) {
                let row = rows.next().unwrap();
                for o in 0..layer.block_outputs() {
                    let found: f64 = (0..row.len()).map(|i| f64::from(row[i]) * matrix[(i, o)]).sum();
                    let at = layer.index(shape, area, (image, place, block * layer.block_outputs() + o));
                    assert!((found - f64::from(y.as_f32().unwrap()[at])).abs() < 1e-4);
                }
            }
        }
        assert!(rows.next().is_none());
        // What is read can be written.
        let mut again = graph.clone();
        layer.write(&mut again, block, &matrix);
        assert_eq!(layer.matrix(&again, block).unwrap(), matrix);
    }
}

#[test]
fn a_layer_is_its_rows_times_its_matrix() {
    let ints = |values: &[i64]| Attribute::Ints(values.to_vec());
    check(&graph("Conv", &[4, 3, 3, 3], &[("pads", ints(&[1, 1, 1, 1]))], 4), &[2, 3, 6, 5]);
    let strided = [("strides", ints(&[2, 1])), ("dilations", ints(&[1, 2])), ("pads", ints(&[0, 1, 1, 2]))];
    check(&graph("Conv", &[4, 3, 3, 2], &strided, 0), &[2, 3, 7, 8]);
    check(&graph("Conv", &[6, 2, 1, 3], &[("group", Attribute::Int(3))], 6), &[2, 6, 4, 5]);
    check(&graph("Conv", &[5, 1, 3, 3], &[("group", Attribute::Int(5))], 5), &[1, 5, 5, 5]);
    check(&graph("Conv", &[4, 3, 3], &[("pads", ints(&[1, 0])), ("strides", ints(&[2]))], 4), &[2, 3, 9]);
    let scaled = [("alpha", Attribute::Float(0.5)), ("beta", Attribute::Float(2.0))];
    check(&graph("Gemm", &[7, 4], &scaled, 4), &[3, 7]);
    check(&graph("Gemm", &[4, 7], &[("transB", Attribute::Int(1))], 4), &[3, 7]);
    check(&graph("MatMul", &[7, 4], &[], 0), &[3, 5, 7]);
    let norm = |input: &[usize]| {
        let mut graph = graph("BatchNormalization", &[4], &[("epsilon", Attribute::Float(1e-3))], 4);
        graph.nodes[0].inputs.extend(["m".into(), "v".into()]);
        graph.initializers.insert("m".into(), Tensor::f32([4], vec![0.5, -1.0, 0.0, 2.0]).unwrap());
        graph.initializers.insert("v".into(), Tensor::f32([4], vec![0.5, 4.0, 0.1, 1.0]).unwrap());
        check(&graph, input);
    };
    norm(&[3, 4, 5, 2]);
    norm(&[3, 4]);
}

#[test]
fn what_is_no_dense_layer_is_none() {
    let same = [("auto_pad", Attribute::Bytes(b"SAME_UPPER".to_vec()))];
    assert!(Layer::of(&graph("Conv", &[4, 3, 3, 3], &same, 4), 0).is_none());
    assert!(Layer::of(&graph("Gemm", &[7, 4], &[("transA", Attribute::Int(1))], 4), 0).is_none());
    assert!(Layer::of(&graph("Mul", &[7, 4], &[], 0), 0).is_none());
}
