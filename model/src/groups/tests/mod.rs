//! Small graphs through every rule: what is cut computes what is masked.

mod rules;

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::{Attribute, Dim, Node, OpSet, Tensor, ValueInfo, eval, shape};

/// Builds a graph of 6×6 images, one layer after the other.
struct Builder {
    graph: Graph,
    seed: u32,
}

impl Builder {
    fn new(channels: usize) -> Self {
        let dims = vec![Dim::Symbol("n".into()), Dim::Fixed(channels), Dim::Fixed(6), Dim::Fixed(6)];
        let input = ValueInfo { name: "x".into(), dtype: 1, shape: Some(dims) };
        let opsets = vec![OpSet { domain: String::new(), version: 17 }];
        let graph = Graph { inputs: vec![input], opsets, ..Graph::default() };
        Self { graph, seed: 1 }
    }

    fn constant(&mut self, shape: &[usize]) -> String {
        let name = format!("w{}", self.graph.initializers.len());
        let mut next = || {
            self.seed = self.seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (self.seed >> 8) as f32 / (1 << 24) as f32 - 0.4
        };
        let values = (0..shape.iter().product()).map(|_| next()).collect();
        self.graph.initializers.insert(name.clone(), Tensor::f32(shape, values).unwrap());
        name
    }

    fn ints(&mut self, values: &[i64]) -> String {
        let name = format!("i{}", self.graph.initializers.len());
        self.graph.initializers.insert(name.clone(), Tensor::i64([values.len()], values.to_vec()).unwrap());
        name
    }

    fn node(&mut self, op: &str, inputs: &[&str], attributes: &[(&str, Attribute)]) -> String {
        let output = format!("v{}", self.graph.nodes.len());
        self.graph.nodes.push(Node {
            op: op.into(),
            inputs: inputs.iter().map(|name| (*name).into()).collect(),
            outputs: vec![output.clone()],
            attributes: attributes.iter().map(|(name, value)| ((*name).into(), value.clone())).collect(),
            ..Node::default()
        });
        output
    }

    fn conv(&mut self, x: &str, from: usize, to: usize, blocks: usize) -> String {
        let (w, b) = (self.constant(&[to, from / blocks, 3, 3]), self.constant(&[to]));
        let pads = Attribute::Ints(vec![1; 4]);
        self.node("Conv", &[x, &w, &b], &[("pads", pads), ("group", Attribute::Int(blocks as i64))])
    }

    fn finish(mut self, x: &str) -> Graph {
        self.graph.outputs.push(ValueInfo { name: x.into(), dtype: 1, shape: None });
        self.graph
    }
}

/// Appends one block that keeps `channels`.
fn block(b: &mut Builder, x: &str, channels: usize, kind: usize) -> String {
    let inner = b.conv(x, channels, 4, 1);
    let inner = b.node("Relu", &[&inner], &[]);
    match kind {
        0 => {
            let y = b.conv(&inner, 4, channels, 1);
            b.node("Add", &[x, &y], &[])
        }
        1 => {
            let y = b.conv(&inner, 4, 4, 4);
            b.conv(&y, 4, channels, 1)
        }
        2 => {
            let other = b.conv(x, channels, 3, 1);
            let y = b.node("Concat", &[&inner, &other], &[("axis", Attribute::Int(1))]);
            b.conv(&y, 7, channels, 1)
        }
        3 => {
            let pooled = b.node("GlobalAveragePool", &[x], &[]);
            let (w, v) = (b.constant(&[3, channels, 1, 1]), b.constant(&[channels, 3, 1, 1]));
            let squeezed = b.node("Conv", &[&pooled, &w], &[]);
            let gate = b.node("Conv", &[&squeezed, &v], &[]);
            let gate = b.node("Sigmoid", &[&gate], &[]);
            b.node("Mul", &[x, &gate], &[])
        }
        4 => {
            // A channel shuffle: two blocks of two.
            let (apart, together) = (b.ints(&[-1, 2, 2, 6, 6]), b.ints(&[-1, 4, 6, 6]));
            let y = b.node("Reshape", &[&inner, &apart], &[]);
            let y = b.node("Transpose", &[&y], &[("perm", Attribute::Ints(vec![0, 2, 1, 3, 4]))]);
            let y = b.node("Reshape", &[&y, &together], &[]);
            b.conv(&y, 4, channels, 1)
        }
        5 => {
            let (start, end, axis) = (b.ints(&[1]), b.ints(&[4]), b.ints(&[1]));
            let y = b.node("Slice", &[&inner, &start, &end, &axis], &[]);
            b.conv(&y, 3, channels, 1)
        }
        _ => {
            let names = ["a", "b", "c", "d"].map(|_| b.constant(&[4]));
            let variance = Tensor::f32([4], vec![0.5, 1.0, 2.0, 3.0]).unwrap();
            b.graph.initializers.insert(names[3].clone(), variance);
            let [scale, shift, mean, var] = &names;
            let y = b.node("BatchNormalization", &[&inner, scale, shift, mean, var], &[]);
            let y = b.conv(&y, 4, 4, 2);
            b.conv(&y, 4, channels, 1)
        }
    }
}

fn network(kinds: &[usize]) -> Graph {
    let mut b = Builder::new(2);
    let mut x = b.conv("x", 2, 4, 1);
    for &kind in kinds {
        x = block(&mut b, &x, 4, kind);
    }
    let flat = b.node("Flatten", &[&x], &[]);
    let (w, bias) = (b.constant(&[4 * 36, 5]), b.constant(&[5]));
    let y = b.node("Gemm", &[&flat, &w, &bias], &[]);
    b.finish(&y)
}

/// The largest output of `a`, and the largest difference between the two graphs' outputs.
fn compare(a: &Graph, b: &Graph) -> (f32, f32) {
    let values: Vec<f32> = (0..3 * 72).map(|i| ((i * 37 % 101) as f32) / 101.0).collect();
    let x = Tensor::f32([3, 2, 6, 6], values).unwrap();
    let name = a.outputs[0].name.as_str();
    let outputs = [a, b].map(|graph| eval::run(graph, &[("x", &x)], &[name]).unwrap()[name].clone());
    let [a, b] = outputs.each_ref().map(|tensor| tensor.as_f32().unwrap());
    let largest = a.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
    (largest, a.iter().zip(b).fold(0.0_f32, |m, (a, b)| m.max((a - b).abs())))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn cut_computes_what_masked_does(kinds in prop::collection::vec(0usize..7, 1..4), seed in any::<u64>()) {
        let mut graph = network(&kinds);
        prepare(&mut graph);
        let groups = find(&graph, &shape::infer(&graph, 1).unwrap());
        prop_assert!(groups.groups.len() >= 2);
        let mut bits = seed;
        let keep: KeepSets = groups.groups.iter().map(|group| {
            let some: Vec<usize> = (0..group.channels).filter(|_| { bits = bits.rotate_left(7) ^ 0x9e37; bits & 1 == 0 }).collect();
            if some.len() < group.least() { vec![0] } else { some }
        }).collect();
        let cut = cut(&graph, &groups, &keep).unwrap();
        let (largest, apart) = compare(&masked(&graph, &groups, &keep).unwrap(), &cut);
        prop_assert!(apart <= 1e-4 * largest.max(1e-6), "{kinds:?} {keep:?}: {apart} of {largest}");
        let elements = |graph: &Graph| graph.initializers.values().map(Tensor::len).sum::<usize>();
        if keep != groups.keep_all() {
            prop_assert!(elements(&cut) < elements(&graph));
        }
    }
}

#[test]
fn a_residual_stream_is_one_group_and_the_output_is_frozen() {
    let graph = network(&[0, 0]);
    let groups = find(&graph, &shape::infer(&graph, 1).unwrap());
    let sizes: Vec<usize> = groups.groups.iter().map(|group| group.channels).collect();
    assert_eq!(sizes, [4, 4, 4], "the stream, and one inner group a block");
    assert_eq!(groups.frozen.len(), 1);
    assert!(groups.frozen[0].reason.contains("graph output"), "{}", groups.frozen[0].reason);
}

#[test]
fn a_branch_goes_whole_and_its_constant_stays() {
    let graph = network(&[0, 0]);
    let groups = find(&graph, &shape::infer(&graph, 1).unwrap());
    let removable: Vec<bool> = groups.groups.iter().map(|group| group.removable).collect();
    assert_eq!(
        removable,
        [false, true, true],
        "the stream is read on; the inner channels of each block are not"
    );
    let keep = vec![vec![0, 2, 3], vec![], vec![1]];
    let smaller = cut(&graph, &groups, &keep).unwrap();
    assert_eq!(smaller.nodes.iter().filter(|node| node.is("Conv")).count(), 3, "of five");
    let (largest, apart) = compare(&masked(&graph, &groups, &keep).unwrap(), &smaller);
    assert!(apart <= 1e-5 * largest, "{apart} of {largest}");
    let nothing = cut(&graph, &groups, &vec![vec![]; 3]).unwrap_err();
    assert_eq!(nothing, GroupsError::BadKeepSet { group: 0, keep: vec![], channels: 4 });
}

#[test]
fn of_an_addition_of_two_branches_one_stays() {
    let mut b = Builder::new(2);
    let x = b.conv("x", 2, 4, 1);
    let branches = [(); 2].map(|()| {
        let inner = b.conv(&x, 4, 4, 1);
        let inner = b.node("Relu", &[&inner], &[]);
        b.conv(&inner, 4, 4, 1)
    });
    let sum = b.node("Add", &[&branches[0], &branches[1]], &[]);
    let flat = b.node("Flatten", &[&sum], &[]);
    let graph = b.finish(&flat);
    let groups = find(&graph, &shape::infer(&graph, 1).unwrap());
    assert_eq!(groups.groups.iter().filter(|group| group.removable).count(), 1);
}

#[test]
fn an_unknown_operator_freezes_what_it_touches() {
    let mut graph = network(&[1]);
    let relu = graph.nodes.iter_mut().find(|node| node.is("Relu")).unwrap();
    relu.op = "Riddle".into();
    let shapes: BTreeMap<_, _> = shape::infer(&network(&[1]), 1).unwrap();
    let groups = find(&graph, &shapes);
    assert!(groups.frozen.iter().any(|frozen| frozen.reason.contains("Riddle")));
}
