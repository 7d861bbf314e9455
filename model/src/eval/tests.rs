//! Kernels against naive ones, and what hostile graphs meet.

use std::collections::BTreeMap;

use proptest::prelude::*;
use secateur_common::probe_input;

use super::*;
use crate::{Attribute, Dim, OpSet, ValueInfo};

/// A graph of one node with `inputs` as its run-time inputs.
fn single(op: &str, attributes: &[(&str, Attribute)], inputs: &[Tensor]) -> Result<Vec<Tensor>, String> {
    let names: Vec<String> = (0..inputs.len()).map(|i| format!("x{i}")).collect();
    let attributes = attributes.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
    let node = Node {
        op: op.into(),
        inputs: names,
        outputs: vec!["y0".into(), "y1".into()],
        attributes: attributes.collect(),
        ..Node::default()
    };
    let call =
        Call { node: &node, inputs: inputs.iter().map(Some).collect(), opset: 17, depth: Depth::Values };
    apply(&call).map_err(|fault| match fault {
        Fault::Unknown => "unknown".to_owned(),
        Fault::Problem(problem) => problem,
    })
}

fn floats(seed: u64, shape: &[usize]) -> Tensor {
    let values = probe_input(seed, shape.iter().product()).into_iter().map(|x| x - 0.5).collect();
    Tensor::f32(shape, values).unwrap()
}

/// Convolution as it is defined, one output at a time.
fn naive_conv(x: &Tensor, w: &Tensor, stride: usize, pad: usize, dilation: usize, groups: usize) -> Tensor {
    let (&[n, c, h, wd], &[m, cg, kh, kw]) = (x.shape(), w.shape()) else { unreachable!() };
    let out = |i: usize, k: usize| (i + 2 * pad - ((k - 1) * dilation + 1)) / stride + 1;
    let (oh, ow) = (out(h, kh), out(wd, kw));
    let (xs, ws) = (x.as_f32().unwrap(), w.as_f32().unwrap());
    let mut y = Vec::new();
    for b in 0..n {
        for o in 0..m {
            let first = o / (m / groups) * cg;
            for p in 0..oh * ow {
                let (oy, ox) = (p / ow, p % ow);
                let mut sum = 0.0f64;
                for (i, ky, kx) in (0..cg).flat_map(|i| (0..kh * kw).map(move |k| (i, k / kw, k % kw))) {
                    let (iy, ix) = (oy * stride + ky * dilation, ox * stride + kx * dilation);
                    if iy >= pad && ix >= pad && iy - pad < h && ix - pad < wd {
                        let at = ((b * c + first + i) * h + iy - pad) * wd + ix - pad;
                        sum += f64::from(xs[at]) * f64::from(ws[((o * cg + i) * kh + ky) * kw + kx]);
                    }
                }
                y.push(sum as f32);
            }
        }
    }
    Tensor::f32([n, m, oh, ow], y).unwrap()
}

fn close(a: &Tensor, b: &Tensor) -> bool {
    let pairs = a.as_f32().unwrap().iter().zip(b.as_f32().unwrap());
    a.shape() == b.shape() && pairs.into_iter().all(|(a, b)| (a - b).abs() <= 1e-4 * (1.0 + b.abs()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn convolution_is_the_naive_one(
        (n, per_group, outputs, groups) in (1usize..3, 1usize..4, 1usize..4, 1usize..4),
        (h, w, k) in (3usize..9, 3usize..9, 1usize..4),
        (stride, pad, dilation) in (1usize..3, 0usize..3, 1usize..3),
        seed in any::<u64>(),
    ) {
        prop_assume!(h + 2 * pad > (k - 1) * dilation && w + 2 * pad > (k - 1) * dilation);
        let x = floats(seed, &[n, per_group * groups, h, w]);
        let weights = floats(!seed, &[outputs * groups, per_group, k, k]);
        let list = |value: usize, count: usize| Attribute::Ints(vec![value as i64; count]);
        let attributes = [
            ("strides", list(stride, 2)),
            ("pads", list(pad, 4)),
            ("dilations", list(dilation, 2)),
            ("group", Attribute::Int(groups as i64)),
        ];
        let y = single("Conv", &attributes, &[x.clone(), weights.clone()]).unwrap();
        prop_assert!(close(&y[0], &naive_conv(&x, &weights, stride, pad, dilation, groups)));
    }

    #[test]
    fn broadcasting_is_numpys(a in prop::collection::vec(1usize..4, 0..4), mask in any::<[bool; 4]>(), drop in 0usize..4) {
        let b: Vec<usize> = a.iter().zip(mask).map(|(&dim, keep)| if keep { dim } else { 1 }).skip(drop.min(a.len())).collect();
        let (x, z) = (floats(1, &a), floats(2, &b));
        let sum = single("Add", &[], &[x.clone(), z.clone()]).unwrap();
        let (left, right) = (elementwise::broadcast_indices(&a, &a), elementwise::broadcast_indices(&a, &b));
        let expected: Vec<f32> = left.iter().zip(&right).map(|(&i, &j)| x.as_f32().unwrap()[i] + z.as_f32().unwrap()[j]).collect();
        prop_assert_eq!(sum[0].as_f32().unwrap(), &expected[..]);
        prop_assert!(close(&single("Add", &[], &[z, x]).unwrap()[0], &sum[0]));
    }

    #[test]
    fn no_attribute_makes_a_kernel_panic(
        op in prop::sample::select(vec![
            "Conv", "MaxPool", "AveragePool", "Slice", "Pad", "Reshape", "Split", "Gather", "Transpose", "Concat",
            "Squeeze", "Unsqueeze", "Tile", "Resize", "Softmax", "ReduceMean", "Flatten", "DepthToSpace", "Range",
            "Expand", "ConstantOfShape", "Gemm", "MatMul", "GroupNormalization", "LayerNormalization", "ArgMax",
            "BatchNormalization", "InstanceNormalization", "SpaceToDepth", "ReduceSum", "ConvTranspose", "ScatterND",
            "GatherND", "GatherElements", "Trilu", "LSTM", "GRU", "RNN", "CumSum", "LRN", "QuantizeLinear",
            "DequantizeLinear", "Mod", "Einsum", "Upsample", "Where", "And", "CastLike",
        ]),
        ints in prop::collection::vec(prop::sample::select(vec![i64::MIN, -3, -1, 0, 1, 2, 3, 7, 1 << 40, i64::MAX]), 0..5),
        shape in prop::collection::vec(0usize..4, 0..5),
        names in prop::sample::subsequence(
            vec!["strides", "pads", "dilations", "kernel_shape", "axes", "axis", "starts", "ends", "steps", "perm",
                 "split", "group", "shape", "blocksize", "num_groups", "num_outputs", "auto_pad", "mode", "output_padding",
                 "output_shape", "size", "equation", "hidden_size"], 0..6),
        mode in prop::sample::select(vec!["constant", "edge", "reflect", "wrap", "nearest", "linear", "cubic"]),
        equation in prop::sample::select(vec!["ij,jk,k->i", "ab,bc,c", "i,i,i->", "->", "aa,ab,b->ba", "abc,abd,a->cd"]),
        same in prop::sample::select(vec!["SAME_UPPER", "SAME_LOWER", "VALID"]),
    ) {
        let attributes: Vec<_> = names.iter().map(|&name| match name {
            "axis" | "group" | "blocksize" | "num_groups" | "num_outputs" | "size" | "hidden_size" => {
                (name, Attribute::Int(ints.first().copied().unwrap_or(5)))
            }
            "mode" => (name, Attribute::Bytes(mode.into())),
            "equation" => (name, Attribute::Bytes(equation.into())),
            "auto_pad" => (name, Attribute::Bytes(same.into())),
            _ => (name, Attribute::Ints(ints.clone())),
        }).collect();
        let list = Tensor::i64([ints.len()], ints.clone()).unwrap();
        let _ = single(op, &attributes, &[floats(3, &shape), floats(4, &shape), floats(5, &[2])]);
        let _ = single(op, &attributes, &[floats(3, &shape), list.clone(), list.clone(), list.clone(), list.clone()]);
        let _ = single(op, &attributes, &[list.clone(), list.clone(), list]);
        let channels = floats(6, &[shape.get(1).copied().unwrap_or(0)]);
        let inputs = [floats(3, &shape), channels.clone(), channels.clone(), channels.clone(), channels];
        let _ = single(op, &attributes, &inputs);
    }
}

#[test]
fn any_value_can_be_fetched_and_a_missing_one_is_named() {
    let value = |name: &str| ValueInfo {
        name: name.into(),
        dtype: 1,
        shape: Some(vec![Dim::Symbol("N".into()), Dim::Fixed(2)]),
    };
    let node = |op: &str, input: &str, output: &str| Node {
        op: op.into(),
        inputs: vec![input.into()],
        outputs: vec![output.into()],
        ..Node::default()
    };
    let graph = Graph {
        opsets: vec![OpSet { domain: String::new(), version: 17 }],
        inputs: vec![value("x")],
        outputs: vec![value("z")],
        nodes: vec![node("Relu", "x", "y"), node("Neg", "y", "z"), node("Frobnicate", "x", "w")],
        initializers: BTreeMap::new(),
        ..Graph::default()
    };
    let x = Tensor::f32([1, 2], vec![-1.0, 2.0]).unwrap();
    let values = run(&graph, &[("x", &x)], &["y", "z"]).unwrap();
    assert_eq!(values["y"].as_f32().unwrap(), [0.0, 2.0]);
    assert_eq!(values["z"].as_f32().unwrap(), [0.0, -2.0]);
    assert!(matches!(run(&graph, &[], &["z"]), Err(EvalError::MissingInput(name)) if name == "x"));
    assert!(matches!(run(&graph, &[("x", &x)], &["q"]), Err(EvalError::UnknownValue(name)) if name == "q"));
    let unknown = run(&graph, &[("x", &x)], &["w"]);
    assert!(matches!(unknown, Err(EvalError::UnknownOperator { op, .. }) if op == "Frobnicate"));
    let shapes = crate::shape::infer(&graph, 3).unwrap();
    assert_eq!(shapes["z"], [3, 2]);
    assert!(!shapes.contains_key("w"));
}

#[test]
fn hostile_calls_are_refused() {
    let refused = |op: &str, attributes: &[(&str, Attribute)], inputs: &[Tensor]| {
        assert!(single(op, attributes, inputs).is_err(), "{op} {attributes:?}");
    };
    let (int, text) = (Attribute::Int, |text: &str| Attribute::Bytes(text.into()));
    let list = |values: &[i64]| Tensor::i64([values.len()], values.to_vec()).unwrap();
    let (x, empty) = (floats(1, &[3]), floats(1, &[0]));
    let none = || empty.clone();
    refused("BatchNormalization", &[], &[x.clone(), none(), none(), none(), none()]);
    refused("GroupNormalization", &[("num_groups", int(2))], &[x.clone(), none(), none()]);
    for mode in ["edge", "reflect", "wrap"] {
        refused("Pad", &[("mode", text(mode))], &[none(), list(&[1, 1])]);
    }
    refused("Pad", &[], &[x.clone(), list(&[i64::MAX, 1])]);
    refused("Pad", &[], &[x.clone(), list(&[i64::MIN, i64::MAX])]);
    refused("Split", &[("num_outputs", int(1 << 62))], &[floats(1, &[4])]);
    refused("Split", &[("num_outputs", int(3))], &[floats(1, &[4])]);
    refused("Unsqueeze", &[], &[x.clone(), list(&(0..400_000).collect::<Vec<_>>())]);
    refused("Slice", &[], &[x, list(&[0; 9]), list(&[1; 9])]);
    refused("Tile", &[], &[floats(1, &[1, 0]), list(&[1 << 40, 1])]);
    refused("SpaceToDepth", &[("blocksize", int(1 << 40))], &[floats(1, &[1, 1, 0, 0])]);
    let kernel = Attribute::Ints(vec![1 << 40, 1]);
    let pool = [("kernel_shape", kernel), ("auto_pad", text("SAME_UPPER"))];
    refused("MaxPool", &pool, &[floats(1, &[1, 1, 2, 2])]);
}

#[test]
fn a_pool_over_all_of_its_padding_walks_the_input_only() {
    let kernel = Attribute::Ints(vec![1 << 20, 1 << 20]);
    let attributes = [("kernel_shape", kernel), ("auto_pad", Attribute::Bytes("SAME_UPPER".into()))];
    let x = Tensor::f32([1, 1, 2, 2], vec![1.0, 4.0, 2.0, 3.0]).unwrap();
    assert_eq!(single("MaxPool", &attributes, &[x]).unwrap()[0].as_f32().unwrap(), [4.0; 4]);
}

#[test]
fn shapes_of_a_long_chain_need_few_values_at_once() {
    // A pool's zeros are never touched where only shapes are asked for, so this takes no memory.
    let shape = vec![Dim::Fixed(1), Dim::Fixed(1), Dim::Fixed(1 << 24)];
    let value = |name: String, shape: Option<Vec<Dim>>| ValueInfo { name, dtype: 1, shape };
    let node = |index: usize| Node {
        op: "MaxPool".into(),
        inputs: vec![format!("t{index}")],
        outputs: vec![format!("t{}", index + 1)],
        attributes: BTreeMap::from([("kernel_shape".to_owned(), Attribute::Ints(vec![1]))]),
        ..Node::default()
    };
    // As many elements in all as are allowed at once, and some.
    let length = secateur_common::caps::ACTIVATION_ELEMENTS / (1 << 24) + 4;
    let chain = Graph {
        opsets: vec![OpSet { domain: String::new(), version: 17 }],
        inputs: vec![value("t0".into(), Some(shape))],
        outputs: vec![value(format!("t{length}"), None)],
        nodes: (0..length).map(node).collect(),
        ..Graph::default()
    };
    let shapes = crate::shape::infer(&chain, 1).unwrap();
    assert!(shapes.contains_key(&format!("t{length}")));
    // Read once more at the end, all of them are alive together: the walk stops.
    let mut wide = chain;
    let all = (0..=length).map(|index| format!("t{index}")).collect();
    wide.nodes.push(Node { op: "Sum".into(), inputs: all, outputs: vec!["sum".into()], ..Node::default() });
    let shapes = crate::shape::infer(&wide, 1).unwrap();
    assert!(!shapes.contains_key(&format!("t{length}")));
}

#[test]
fn a_transposed_convolution_is_the_adjoint_of_a_convolution() {
    // <conv(x), y> = <x, transposed(y)> for the same weights.
    for (stride, pad, dilation, groups) in
        [(1, 0, 1, 1), (2, 1, 1, 1), (2, 0, 2, 1), (1, 1, 1, 2), (3, 1, 2, 2)]
    {
        let (x, w) = (floats(1, &[1, 4, 9, 9]), floats(2, &[6, 4 / groups, 3, 3]));
        let y = naive_conv(&x, &w, stride, pad, dilation, groups);
        let list = |value: usize, count: usize| Attribute::Ints(vec![value as i64; count]);
        let rest = (9 + 2 * pad - (2 * dilation + 1)) % stride; // what the strides leave over
        let attributes = [
            ("strides", list(stride, 2)),
            ("pads", list(pad, 4)),
            ("dilations", list(dilation, 2)),
            ("output_padding", list(rest, 2)),
            ("group", Attribute::Int(groups as i64)),
        ];
        let v = floats(3, y.shape());
        let back = single("ConvTranspose", &attributes, &[v.clone(), w]).unwrap();
        assert_eq!(back[0].shape(), x.shape());
        let dot = |a: &Tensor, b: &Tensor| -> f32 {
            a.as_f32().unwrap().iter().zip(b.as_f32().unwrap()).map(|(a, b)| a * b).sum()
        };
        let (left, right) = (dot(&y, &v), dot(&x, &back[0]));
        assert!((left - right).abs() < 1e-3, "{left} and {right}");
    }
}

#[test]
fn linear_resizing_and_recurrences_are_as_defined() {
    let x = Tensor::f32([1, 1, 1, 4], vec![0.0, 1.0, 2.0, 3.0]).unwrap();
    let scales = Tensor::f32([4], vec![1.0, 1.0, 1.0, 2.0]).unwrap();
    let mode = [("mode", Attribute::Bytes("linear".into()))];
    let empty = Tensor::f32([0], vec![]).unwrap();
    let y = single("Resize", &mode, &[x, empty, scales]).unwrap();
    assert_eq!(y[0].as_f32().unwrap(), [0.0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3.0]);
    // One unit, weights 1 on the input and 0 on the state: the gates are functions of the input alone.
    let x = Tensor::f32([1, 1, 1], vec![0.5]).unwrap();
    let ones = |gates: usize| Tensor::f32([1, gates, 1], vec![1.0; gates]).unwrap();
    let zeros = |gates: usize| Tensor::f32([1, gates, 1], vec![0.0; gates]).unwrap();
    let (gate, cell) = (1.0 / (1.0 + (-0.5_f32).exp()), 0.5_f32.tanh());
    let lstm = single("LSTM", &[], &[x.clone(), ones(4), zeros(4)]).unwrap();
    assert!((lstm[1].as_f32().unwrap()[0] - gate * (gate * cell).tanh()).abs() < 1e-6);
    let gru = single("GRU", &[], &[x, ones(3), zeros(3)]).unwrap();
    assert!((gru[1].as_f32().unwrap()[0] - (1.0 - gate) * cell).abs() < 1e-6);
}

#[test]
fn einsum_is_a_product_of_matrices() {
    let (a, b) = (floats(1, &[2, 3, 4]), floats(2, &[2, 4, 5]));
    let equation = |text: &str| [("equation", Attribute::Bytes(text.into()))];
    let product = single("MatMul", &[], &[a.clone(), b.clone()]).unwrap();
    assert!(close(
        &single("Einsum", &equation("bij,bjk->bik"), &[a.clone(), b.clone()]).unwrap()[0],
        &product[0]
    ));
    // Without an arrow the letters that occur once remain: i and k, summed over b and j.
    let summed = single("ReduceSum", &[], &[product[0].clone(), Tensor::i64([1], vec![0]).unwrap()]);
    let implied = single("Einsum", &equation("bij, bjk"), &[a, b]).unwrap();
    assert_eq!(implied[0].shape(), [3, 5]);
    assert!(close(&implied[0].reshaped([1, 3, 5]).unwrap(), &summed.unwrap()[0]));
}

#[test]
fn three_axes_are_as_two_where_the_first_is_short_and_else_sums_of_planes() {
    let list = |values: &[i64]| Attribute::Ints(values.to_vec());
    // Of one plane and a kernel of one plane: a convolution of images.
    let (x, w) = (floats(1, &[2, 3, 1, 5, 6]), floats(2, &[4, 3, 1, 3, 3]));
    let y = single("Conv", &[("pads", list(&[0, 1, 1, 0, 1, 1]))], &[x.clone(), w.clone()]).unwrap();
    let (x, w) = (x.reshaped([2, 3, 5, 6]).unwrap(), w.reshaped([4, 3, 3, 3]).unwrap());
    let flat = naive_conv(&x, &w, 1, 1, 1, 1);
    assert_eq!(y[0].shape(), [2, 4, 1, 5, 6]);
    assert!(close(&y[0].reshaped([2, 4, 5, 6]).unwrap(), &flat));
    // A kernel of 1 × 1 in each plane is a convolution along the planes alone.
    let (x, w) = (floats(3, &[1, 2, 7, 2, 3]), floats(4, &[3, 2, 3, 1, 1]));
    let strided = [("strides", list(&[2, 1, 1])), ("pads", list(&[1, 0, 0, 1, 0, 0]))];
    let y = single("Conv", &strided, &[x.clone(), w.clone()]).unwrap();
    assert_eq!(y[0].shape(), [1, 3, 4, 2, 3]);
    let (x, w) = (x.reshaped([1, 2, 7, 6]).unwrap(), w.reshaped([3, 2, 3, 1]).unwrap());
    let along = [("strides", list(&[2, 1])), ("pads", list(&[1, 0, 1, 0]))];
    let flat = single("Conv", &along, &[x, w]).unwrap();
    assert!(close(&y[0].reshaped([1, 3, 4, 6]).unwrap(), &flat[0]));
    let x = Tensor::f32([1, 1, 2, 2, 2], (0..8).map(|x| x as f32).collect()).unwrap();
    let pooled = single("MaxPool", &[("kernel_shape", list(&[2, 2, 1]))], &[x]).unwrap();
    assert_eq!((pooled[0].shape(), pooled[0].as_f32().unwrap()), (&[1, 1, 1, 1, 2][..], &[6.0, 7.0][..]));
}
