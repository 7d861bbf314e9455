//! The plan against the reference interpreter, on every instruction set that this machine has.

use std::collections::BTreeMap;

use proptest::prelude::*;
use secateur_common::probe_input;
use secateur_model::{Attribute, Dim, Graph, Node, OpSet, Tensor, ValueInfo, eval, onnx, shape};

use super::{KernelChoices, Plan, build, convolution};
use crate::kernels::Isa;

/// What the two may differ by, in parts of the largest output: rounding in another order.
const TOLERANCE: f32 = 1e-5;

/// The largest difference between plan and interpreter on one input, in parts of the largest output.
fn difference(graph: &Graph, isa: Isa, way: Option<&str>) -> f32 {
    let earlier = way.map(|way| KernelChoices { set: isa.name().into(), ways: vec![way.into(); 9] });
    let plan = Plan::compile_for(graph, isa, earlier.as_ref()).unwrap();
    let shape = shape::input_shape(&graph.inputs[0], 1, &BTreeMap::new()).unwrap();
    let input: Vec<f32> = probe_input(1, shape.iter().product()).iter().map(|x| x - 0.5).collect();
    let mut arena = plan.arena();
    let first = plan.run(&mut arena, &input).unwrap();
    // The second run finds what the first left in memory.
    let found = plan.run(&mut arena, &input).unwrap();
    assert_eq!(first, found);
    let x = Tensor::f32(shape, input).unwrap();
    let output = graph.outputs[0].name.as_str();
    let expected = eval::run(graph, &[(&graph.inputs[0].name, &x)], &[output]).unwrap();
    let expected = expected[output].as_f32().unwrap();
    assert_eq!(found.len(), expected.len());
    let scale = expected.iter().fold(1e-3f32, |largest, x| largest.max(x.abs()));
    found.iter().zip(expected).fold(0f32, |worst, (a, b)| worst.max((a - b).abs() / scale))
}

/// Both with the kernels that a trial finds and, where one is named, packed in that way.
fn agrees(graph: &Graph, way: Option<&str>) {
    for isa in Isa::available() {
        for way in [None, way] {
            let found = difference(graph, isa, way);
            assert!(found < TOLERANCE, "{found:e} on {isa:?} by {way:?}");
        }
    }
}

/// Any way to pack a convolution.
fn any_way() -> impl Strategy<Value = &'static str> {
    proptest::sample::select(convolution::WAYS.iter().map(|way| way.name).collect::<Vec<_>>())
}

/// A graph that is written node by node; weights are drawn from a seed, a share of them zero.
struct Builder {
    graph: Graph,
    seed: u64,
    density: f32,
}

impl Builder {
    fn new(input: &[usize], density: f32) -> Self {
        let value = |name: &str, shape: Option<Vec<Dim>>| ValueInfo { name: name.into(), dtype: 1, shape };
        let dims = input.iter().map(|&dim| Dim::Fixed(dim)).collect();
        let graph = Graph {
            opsets: vec![OpSet { domain: String::new(), version: 17 }],
            inputs: vec![value("x", Some(dims))],
            outputs: vec![value("y", None)],
            ..Graph::default()
        };
        Self { graph, seed: 0, density }
    }

    fn constant(&mut self, shape: &[usize]) -> String {
        self.seed += 1;
        let length: usize = shape.iter().product();
        let (values, kept) = (probe_input(self.seed, length), probe_input(!self.seed, length));
        let values = values.iter().zip(kept).map(|(x, keep)| if keep < self.density { x - 0.4 } else { 0.0 });
        let name = format!("c{}", self.seed);
        self.graph.initializers.insert(name.clone(), Tensor::f32(shape, values.collect()).unwrap());
        name
    }

    fn integers(&mut self, values: &[i64]) -> String {
        self.seed += 1;
        let name = format!("i{}", self.seed);
        let tensor = Tensor::i64([values.len()], values.to_vec()).unwrap();
        self.graph.initializers.insert(name.clone(), tensor);
        name
    }

    fn node(&mut self, op: &str, inputs: &[&str], attributes: &[(&str, Attribute)]) -> String {
        let output = format!("v{}", self.graph.nodes.len());
        self.graph.nodes.push(Node {
            op: op.into(),
            inputs: inputs.iter().map(|&name| name.into()).collect(),
            outputs: vec![output.clone()],
            attributes: attributes.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect(),
            ..Node::default()
        });
        output
    }

    fn conv(&mut self, x: &str, weights: [usize; 4], group: usize, stride: usize, pad: usize) -> String {
        let (w, b) = (self.constant(&weights), self.constant(&weights[..1]));
        let attributes = [
            ("group", Attribute::Int(group as i64)),
            ("strides", ints(&[stride, stride])),
            ("pads", ints(&[pad; 4])),
        ];
        self.node("Conv", &[x, &w, &b], &attributes)
    }

    fn finish(mut self) -> Graph {
        if let Some(last) = self.graph.nodes.last_mut() {
            last.outputs[0] = "y".into();
        }
        self.graph
    }
}

fn ints(values: &[usize]) -> Attribute {
    Attribute::Ints(values.iter().map(|&value| value as i64).collect())
}

#[test]
fn the_example_runs_as_the_interpreter_has_it() {
    agrees(&onnx::read(include_bytes!("../../../examples/lenet5.onnx")).unwrap(), None);
}

#[test]
fn what_a_trial_found_is_taken_again_and_what_it_did_not_is_tried() {
    let graph = onnx::read(include_bytes!("../../../examples/lenet5.onnx")).unwrap();
    for isa in Isa::available() {
        let ways = |earlier: KernelChoices| {
            Plan::compile_for(&graph, isa, Some(&earlier)).unwrap().choices().ways.clone()
        };
        let found = |ways: [&str; 4]| KernelChoices {
            set: isa.name().into(),
            ways: ways.iter().map(|&way| way.into()).collect(),
        };
        // Two that no trial would find.
        let odd = found(["channels × 8", "positions × 1", "dense", "dense"]);
        assert_eq!(ways(odd.clone()), odd.ways);
        let unknown = ways(found(["channels × 8", "of another version", "dense", "dense"]));
        assert_eq!((unknown.len(), unknown[0].as_str()), (4, "channels × 8"));
        assert_ne!(unknown[1], "of another version");
        assert_ne!(ways(KernelChoices { set: "another".into(), ..odd })[1], "positions × 1");
    }
}

/// Shapes, windows and densities of a convolution.
#[derive(Clone, Debug)]
struct Case {
    inputs: usize,
    outputs: usize,
    group: usize,
    size: [usize; 2],
    kernel: [usize; 2],
    stride: [usize; 2],
    dilation: [usize; 2],
    pads: [usize; 4],
    density: f32,
    residual: bool,
    activation: usize,
}

fn case() -> impl Strategy<Value = Case> {
    let channels = (1..6usize, 1..40usize, prop_oneof![4 => Just(1usize), 1 => 2..4usize, 1 => Just(0usize)]);
    let axis = || (1..20usize, 1..6usize, 1..4usize, 1..3usize, 0..3usize, 0..3usize);
    let rest = (prop_oneof![Just(1f32), Just(0.5), Just(0.1)], any::<bool>(), 0..4usize);
    (channels, axis(), axis(), rest).prop_map(|((a, b, group), y, x, (density, residual, activation))| {
        // No group: depthwise.
        let (inputs, outputs, group) = if group == 0 { (b, b, b) } else { (a * group, b * group, group) };
        Case {
            inputs,
            outputs,
            group,
            size: [y.0, x.0],
            kernel: [y.1, x.1],
            stride: [y.2, x.2],
            dilation: [y.3, x.3],
            pads: [y.4, x.4, y.5, x.5],
            density,
            residual,
            activation,
        }
    })
}

fn graph_of(case: &Case) -> Option<Graph> {
    let Case { inputs, outputs, group, size, kernel, .. } = *case;
    let fits = |axis: usize| {
        let extent = (kernel[axis] - 1) * case.dilation[axis] + 1;
        extent <= size[axis] + case.pads[axis] + case.pads[axis + 2]
    };
    if !fits(0) || !fits(1) {
        return None;
    }
    let mut build = Builder::new(&[1, inputs, size[0], size[1]], case.density);
    let conv = |build: &mut Builder| {
        let (w, b) =
            (build.constant(&[outputs, inputs / group, kernel[0], kernel[1]]), build.constant(&[outputs]));
        let attributes = [
            ("group", Attribute::Int(group as i64)),
            ("strides", ints(&case.stride)),
            ("dilations", ints(&case.dilation)),
            ("pads", ints(&case.pads)),
        ];
        build.node("Conv", &["x", &w, &b], &attributes)
    };
    let mut last = conv(&mut build);
    if case.residual {
        let other = conv(&mut build);
        last = build.node("Add", &[&other, &last], &[]);
    }
    match case.activation {
        1 => _ = build.node("Relu", &[&last], &[]),
        2 => _ = build.node("HardSwish", &[&last], &[]),
        3 => {
            // A reader of its own, so that the next convolution's padding is at stake as well.
            build.conv(&last, [5, outputs, 1, 1], 1, 1, 1);
        }
        _ => {}
    }
    Some(build.finish())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn convolutions_agree(case in case(), way in any_way()) {
        if let Some(graph) = graph_of(&case) {
            agrees(&graph, Some(way));
        }
    }

    #[test]
    fn products_agree(inputs in 1..90usize, outputs in 1..150usize, density in prop_oneof![Just(1f32), Just(0.3), Just(0.05)]) {
        let mut build = Builder::new(&[1, inputs], density);
        let (w, b) = (build.constant(&[outputs, inputs]), build.constant(&[outputs]));
        let h = build.node("Gemm", &["x", &w, &b], &[("transB", Attribute::Int(1))]);
        let h = build.node("Relu", &[&h], &[]);
        let (w, b) = (build.constant(&[outputs, 7]), build.constant(&[7]));
        let h = build.node("MatMul", &[&h, &w], &[]);
        build.node("Add", &[&b, &h], &[]);
        let graph = build.finish();
        for way in build::PRODUCTS {
            agrees(&graph, Some(way.name()));
        }
    }
}

/// One operator or more between a convolution and another, on planes that the strides and gaps do not favour.
fn between(name: &str, add: impl Fn(&mut Builder, &str) -> String) {
    for (size, density) in [([13, 11], 1.0), ([8, 16], 0.2)] {
        let mut build = Builder::new(&[1, 3, size[0], size[1]], density);
        let h = build.conv("x", [10, 3, 3, 3], 1, 1, 1);
        let h = build.node("Relu", &[&h], &[]);
        let h = add(&mut build, &h);
        build.conv(&h, [4, 10, 3, 3], 1, 2, 1);
        let graph = build.finish();
        for isa in Isa::available() {
            let found = difference(&graph, isa, None);
            assert!(found < TOLERANCE, "{name} {size:?}: {found:e} on {isa:?}");
        }
    }
}

#[test]
fn pools_agree() {
    let window = |kernel: usize, stride: usize, pad: usize| {
        [("kernel_shape", ints(&[kernel; 2])), ("strides", ints(&[stride; 2])), ("pads", ints(&[pad; 4]))]
    };
    for (kernel, stride, pad) in [(2, 2, 0), (3, 2, 1), (3, 1, 1), (2, 1, 0)] {
        between("max", |b, x| b.node("MaxPool", &[x], &window(kernel, stride, pad)));
        between("mean", |b, x| b.node("AveragePool", &[x], &window(kernel, stride, pad)));
    }
}

#[test]
fn elementwise_operators_agree() {
    for op in ["Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "LeakyRelu", "Relu", "Identity"] {
        between(op, |b, x| b.node(op, &[x], &[]));
    }
    between("batch norm and clip", |b, x| {
        let parameters: Vec<String> = (0..3).map(|_| b.constant(&[10])).collect();
        let variance = b.node("Abs", &[&parameters[2]], &[]);
        let h = b.node(
            "BatchNormalization",
            &[x, &parameters[0], &parameters[1], &parameters[0], &variance],
            &[],
        );
        let (low, high) = (b.constant(&[]), b.constant(&[]));
        let high = b.node("Abs", &[&high], &[]);
        let low = b.node("Sub", &[&low, &high], &[]);
        b.node("Clip", &[&h, &low, &high], &[])
    });
    between("scale and shift", |b, x| {
        let (scale, shift) = (b.constant(&[10, 1, 1]), b.constant(&[1, 10, 1, 1]));
        let h = b.node("Mul", &[x, &scale], &[]);
        let h = b.node("Sub", &[&shift, &h], &[]);
        b.node("Relu", &[&h], &[])
    });
    between("sum and difference", |b, x| {
        let other = b.node("Sigmoid", &[x], &[]);
        let sum = b.node("Add", &[x, &other], &[]);
        b.node("Sub", &[&sum, &other], &[])
    });
}

#[test]
fn gates_agree() {
    between("squeeze and excite", |b, x| {
        let pooled = b.node("GlobalAveragePool", &[x], &[]);
        let h = b.conv(&pooled, [3, 10, 1, 1], 1, 1, 0);
        let h = b.node("Relu", &[&h], &[]);
        let h = b.conv(&h, [10, 3, 1, 1], 1, 1, 0);
        let gate = b.node("HardSigmoid", &[&h], &[]);
        b.node("Mul", &[&gate, x], &[])
    });
}

#[test]
fn moves_agree() {
    between("concat", |b, x| {
        let half = b.conv(x, [4, 10, 1, 1], 1, 1, 0);
        let other = b.conv(x, [6, 10, 3, 3], 1, 1, 1);
        b.node("Concat", &[&half, &other], &[("axis", Attribute::Int(1))])
    });
    between("pad", |b, x| {
        let pads = b.integers(&[0, 0, 1, 2, 0, 0, 3, 0]);
        b.node("Pad", &[x, &pads], &[])
    });
    between("upsample", |b, x| {
        let scales = Tensor::f32([4], vec![1.0, 1.0, 2.0, 3.0]).unwrap();
        b.graph.initializers.insert("scales".into(), scales);
        let floor = Attribute::Bytes("floor".into());
        let asymmetric = Attribute::Bytes("asymmetric".into());
        let attributes = [("nearest_mode", floor), ("coordinate_transformation_mode", asymmetric)];
        b.node("Resize", &[x, "", "scales"], &attributes)
    });
}

#[test]
fn heads_agree() {
    let mut build = Builder::new(&[1, 3, 9, 7], 1.0);
    let h = build.conv("x", [6, 3, 3, 3], 1, 1, 1);
    let target = build.integers(&[1, -1]);
    let h = build.node("Reshape", &[&h, &target], &[]);
    let w = build.constant(&[6 * 9 * 7, 5]);
    let h = build.node("MatMul", &[&h, &w], &[]);
    build.node("Softmax", &[&h], &[]);
    agrees(&build.finish(), None);

    let mut build = Builder::new(&[1, 3, 9, 7], 1.0);
    let h = build.conv("x", [6, 3, 3, 3], 1, 1, 1);
    build.node("ReduceMean", &[&h], &[("axes", Attribute::Ints(vec![-2, -1]))]);
    agrees(&build.finish(), None);
}

#[test]
fn one_dimensional_convolutions_agree() {
    let mut build = Builder::new(&[1, 4, 50], 0.5);
    let (w, b) = (build.constant(&[9, 4, 5]), build.constant(&[9]));
    let attributes = [("strides", ints(&[2])), ("pads", ints(&[2, 1]))];
    let h = build.node("Conv", &["x", &w, &b], &attributes);
    build.node("Relu", &[&h], &[]);
    agrees(&build.finish(), None);
}

#[test]
fn what_is_not_covered_is_said() {
    let mut build = Builder::new(&[1, 4, 6, 6], 1.0);
    build.node("Transpose", &["x"], &[("perm", ints(&[0, 1, 3, 2]))]);
    let reason = Plan::compile(&build.finish(), None).err().unwrap();
    assert!(reason.contains("Transpose"), "{reason}");
}

#[test]
fn nan_comes_out_as_nan() {
    let mut build = Builder::new(&[1, 2, 4, 4], 1.0);
    let h = build.conv("x", [3, 2, 3, 3], 1, 1, 1);
    build.node("Relu", &[&h], &[]);
    let graph = build.finish();
    for isa in Isa::available() {
        let plan = Plan::compile_for(&graph, isa, None).unwrap();
        let output = plan.run(&mut plan.arena(), &[f32::NAN; 32]).unwrap();
        assert!(output.iter().all(|y| y.is_nan()));
    }
}
