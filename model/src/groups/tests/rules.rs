//! One small graph a rule: half of what can go goes, and what is cut computes what is masked.

use super::*;

/// Halves all groups in several ways and compares; returns the sizes of the groups.
fn halves_agree(mut graph: Graph, input: &Tensor) -> Vec<usize> {
    prepare(&mut graph);
    let groups = find(&graph, &shape::infer(&graph, 1).unwrap());
    for seed in 0..4 {
        let half = |group: &Group| -> Vec<usize> {
            let kept = (0..group.channels).filter(|channel| (channel * 7 + seed) % 3 > 0).collect::<Vec<_>>();
            if kept.is_empty() { vec![0] } else { kept }
        };
        let keep: KeepSets = groups.groups.iter().map(half).collect();
        let (masked, cut) = (masked(&graph, &groups, &keep).unwrap(), cut(&graph, &groups, &keep).unwrap());
        let name = graph.outputs[0].name.as_str();
        let run = |graph: &Graph| {
            let values = eval::run(graph, &[("x", input)], &[name]).unwrap();
            values[name].as_f32().unwrap().to_vec()
        };
        let (a, b) = (run(&masked), run(&cut));
        let largest = a.iter().fold(1e-6_f32, |m, v| m.max(v.abs()));
        assert_eq!(a.len(), b.len());
        let apart = a.iter().zip(&b).fold(0.0_f32, |m, (a, b)| m.max((a - b).abs()));
        assert!(apart <= 1e-4 * largest, "{apart} of {largest} at {keep:?}");
        if groups.groups.iter().zip(&keep).any(|(group, kept)| kept.len() < group.channels) {
            let dense = run(&graph);
            assert!(
                dense.iter().zip(&b).any(|(a, b)| (a - b).abs() > 1e-4 * largest),
                "the cut changes nothing"
            );
        }
    }
    groups.groups.iter().map(|group| group.channels).collect()
}

fn image() -> Tensor {
    Tensor::f32([3, 2, 6, 6], (0..216).map(|i| ((i * 37 % 101) as f32) / 101.0).collect()).unwrap()
}

/// A net that begins with 8 channels of `x` and ends, after `middle` has made `channels` of them, in a fixed output.
fn around(middle: impl Fn(&mut Builder, &str) -> (String, usize)) -> Vec<usize> {
    let mut b = Builder::new(2);
    let x = b.conv("x", 2, 8, 1);
    let x = b.node("Relu", &[&x], &[]);
    let (y, channels) = middle(&mut b, &x);
    let y = b.conv(&y, channels, 3, 1);
    halves_agree(b.finish(&y), &image())
}

fn ints(values: &[i64]) -> Attribute {
    Attribute::Ints(values.to_vec())
}

#[test]
fn transposed_convolutions_take_in_and_make_channels() {
    let sizes = around(|b, x| {
        let (w, bias, d) = (b.constant(&[8, 6, 3, 3]), b.constant(&[6]), b.constant(&[6, 1, 3, 3]));
        let y = b.node("ConvTranspose", &[x, &w, &bias], &[("pads", ints(&[1; 4]))]);
        let depthwise = [("pads", ints(&[1; 4])), ("group", Attribute::Int(6))];
        (b.node("ConvTranspose", &[&y, &d], &depthwise), 6)
    });
    assert_eq!(sizes, [8, 6]);
}

#[test]
fn channels_normalised_together_go_together() {
    for parameters in [8, 4] {
        let sizes = around(|b, x| {
            b.graph.opsets[0].version = if parameters == 8 { 21 } else { 18 };
            let (scale, bias) = (b.constant(&[parameters]), b.constant(&[parameters]));
            (b.node("GroupNormalization", &[x, &scale, &bias], &[("num_groups", Attribute::Int(4))]), 8)
        });
        assert_eq!(sizes, [4], "four groups of two channels");
    }
    // As PyTorch exports it: an instance norm of the groups, between two reshapes.
    let sizes = around(|b, x| {
        let (apart, back) = (b.ints(&[0, 4, -1]), b.ints(&[-1, 8, 6, 6]));
        let (one, zero) = (b.constant(&[4]), b.constant(&[4]));
        let y = b.node("Reshape", &[x, &apart], &[]);
        let y = b.node("InstanceNormalization", &[&y, &one, &zero], &[]);
        let y = b.node("Reshape", &[&y, &back], &[]);
        let scale = b.constant(&[8, 1, 1]);
        (b.node("Mul", &[&y, &scale], &[]), 8)
    });
    assert_eq!(sizes, [4]);
}

#[test]
fn a_shuffle_by_indices_is_followed() {
    let sizes = around(|b, x| {
        let order = b.ints(&[0, 2, 4, 6, -7, -5, -3, -1]);
        (b.node("Gather", &[x, &order], &[("axis", Attribute::Int(1))]), 8)
    });
    assert_eq!(sizes, [7], "one channel must stay for the gather");
}

#[test]
fn pads_at_other_axes_are_no_channels() {
    let sizes = around(|b, x| {
        // Three channels of zeros are added after the eight.
        let (pads, more) = (b.ints(&[0, 0, 2, 0, 0, 0, 0, 1]), b.ints(&[0, 0, 0, 0, 0, 3, 0, 0]));
        let y = b.node("Pad", &[x, &pads], &[]);
        (b.node("Pad", &[&y, &more], &[]), 11)
    });
    assert_eq!(sizes, [8]);
}

#[test]
fn sub_pixels_of_a_channel_go_together() {
    let sizes = around(|b, x| {
        let y = b.conv(x, 8, 16, 1);
        let y = b.node("DepthToSpace", &[&y], &[("blocksize", Attribute::Int(2))]);
        let y = b.node("MaxPool", &[&y], &[("kernel_shape", ints(&[2, 2])), ("strides", ints(&[2, 2]))]);
        (y, 4)
    });
    assert_eq!(sizes, [8, 4]);
}

#[test]
fn lengths_in_constants_are_put_right() {
    let sizes = around(|b, x| {
        let (sizes, full) = (b.ints(&[3, 8, 12, 12]), b.ints(&[1, 8, 6, 6]));
        let empty = [b.constant(&[0]), b.constant(&[0])];
        let wide = b.node(
            "Resize",
            &[x, &empty[0], &empty[1], &sizes],
            &[("mode", Attribute::Bytes("linear".into()))],
        );
        let y = b.node("MaxPool", &[&wide], &[("kernel_shape", ints(&[2, 2])), ("strides", ints(&[2, 2]))]);
        let pooled = b.node("GlobalAveragePool", &[x], &[]);
        let spread = b.node("Expand", &[&pooled, &full], &[]);
        (b.node("Add", &[&y, &spread], &[]), 8)
    });
    assert_eq!(sizes, [8]);
}

/// Tokens: 6 × 6 positions of 12 channels, self-attention of 3 heads, joined.
#[test]
fn heads_of_attention_go_whole() {
    let mut b = Builder::new(2);
    let to_tokens = b.ints(&[-1, 2, 36]);
    let x = b.node("Reshape", &["x", &to_tokens], &[]);
    let x = b.node("Transpose", &[&x], &[("perm", ints(&[0, 2, 1]))]);
    let head = |b: &mut Builder, perm: &[i64]| {
        let (w, bias, apart) = (b.constant(&[2, 12]), b.constant(&[12]), b.ints(&[-1, 36, 3, 4]));
        let y = b.node("MatMul", &[&x, &w], &[]);
        let y = b.node("Add", &[&y, &bias], &[]);
        let y = b.node("Reshape", &[&y, &apart], &[]);
        b.node("Transpose", &[&y], &[("perm", ints(perm))])
    };
    let (q, k, v) = (head(&mut b, &[0, 2, 1, 3]), head(&mut b, &[0, 2, 3, 1]), head(&mut b, &[0, 2, 1, 3]));
    let y = b.node("MatMul", &[&q, &k], &[]);
    let y = b.node("Softmax", &[&y], &[("axis", Attribute::Int(-1))]);
    let y = b.node("MatMul", &[&y, &v], &[]);
    let y = b.node("Transpose", &[&y], &[("perm", ints(&[0, 2, 1, 3]))]);
    let together = b.ints(&[-1, 36, 12]);
    let y = b.node("Reshape", &[&y, &together], &[]);
    let (w, hidden, out) = (b.constant(&[12, 2]), b.constant(&[2, 10]), b.constant(&[10, 4]));
    let y = b.node("MatMul", &[&y, &w], &[]);
    let y = b.node("Add", &[&x, &y], &[]);
    let y = b.node("MatMul", &[&y, &hidden], &[]);
    let y = b.node("Gelu", &[&y], &[]);
    let y = b.node("MatMul", &[&y, &out], &[]);
    assert_eq!(halves_agree(b.finish(&y), &image()), [3, 10], "three heads, and the hidden layer");
}

#[test]
fn products_with_the_constant_on_the_left_take_in_and_make_channels() {
    let mut b = Builder::new(2);
    let flat = b.ints(&[-1, 2, 36]);
    let x = b.node("Reshape", &["x", &flat], &[]);
    let (first, second) = (b.constant(&[7, 2]), b.constant(&[3, 7]));
    let y = b.node("MatMul", &[&first, &x], &[]);
    let y = b.node("Relu", &[&y], &[]);
    let y = b.node("MatMul", &[&second, &y], &[]);
    assert_eq!(halves_agree(b.finish(&y), &image()), [7]);
}

#[test]
fn a_recurrent_layer_takes_channels_in() {
    let mut b = Builder::new(2);
    let x = b.conv("x", 2, 8, 1);
    let steps = b.node("Transpose", &[&x], &[("perm", ints(&[3, 0, 1, 2]))]);
    let flat = b.ints(&[6, -1, 48]);
    let steps = b.node("Reshape", &[&steps, &flat], &[]);
    for (op, gates) in [("LSTM", 4), ("GRU", 3), ("RNN", 1)] {
        let mut b = Builder { graph: b.graph.clone(), seed: 9 };
        let (w, r) = (b.constant(&[1, gates * 5, 48]), b.constant(&[1, gates * 5, 5]));
        let y = b.node(op, &[&steps, &w, &r], &[("hidden_size", Attribute::Int(5))]);
        assert_eq!(halves_agree(b.finish(&y), &image()), [8], "{op}");
    }
}

#[test]
fn what_is_read_as_a_whole_is_frozen() {
    let frozen_by = |middle: &dyn Fn(&mut Builder, &str) -> String, channels: usize| {
        let mut b = Builder::new(2);
        let x = b.conv("x", 2, 8, 1);
        let y = middle(&mut b, &x);
        let y = b.conv(&y, channels, 3, 1);
        let mut graph = b.finish(&y);
        prepare(&mut graph);
        let groups = find(&graph, &shape::infer(&graph, 1).unwrap());
        assert!(groups.groups.is_empty());
        groups.frozen[0].reason.clone()
    };
    let softmax = |b: &mut Builder, x: &str| b.node("Softmax", &[x], &[("axis", Attribute::Int(1))]);
    assert!(frozen_by(&softmax, 8).contains("Softmax"));
    let mean = |b: &mut Builder, x: &str| b.node("ReduceMean", &[x], &[("axes", ints(&[1]))]);
    assert!(frozen_by(&mean, 1).contains("ReduceMean"));
    let mirrored = |b: &mut Builder, x: &str| {
        let pads = b.ints(&[0, 1, 0, 0, 0, 1, 0, 0]);
        b.node("Pad", &[x, &pads], &[("mode", Attribute::Bytes("reflect".into()))])
    };
    assert!(frozen_by(&mirrored, 10).contains("Pad"));
    let meets = |b: &mut Builder, x: &str| {
        let pooled = b.node("ReduceMean", &["x"], &[("axes", ints(&[1, 2, 3]))]);
        let eight = b.ints(&[1, 8, 1, 1]);
        let wide = b.node("Expand", &[&pooled, &eight], &[]);
        b.node("Add", &[x, &wide], &[])
    };
    assert!(frozen_by(&meets, 8).contains("fixed channels"));
}

#[test]
fn what_a_subgraph_names_is_frozen() {
    let graph = |bytes: &[u8]| {
        let mut b = Builder::new(2);
        let x = b.conv("x", 2, 8, 1);
        let y = b.conv(&x, 8, 3, 1);
        let flag = b.node("ReduceMean", &["x"], &[("axes", ints(&[1, 2, 3]))]);
        b.node("If", &[&flag], &[("then_branch", Attribute::Opaque(bytes.to_vec()))]);
        b.finish(&y)
    };
    let groups = |graph: &Graph| find(graph, &shape::infer(graph, 1).unwrap());
    assert_eq!(groups(&graph(b"nothing")).groups.len(), 1);
    let captured = groups(&graph(b"\x0a\x02v0"));
    assert!(captured.groups.is_empty());
    assert!(captured.frozen[0].reason.contains("subgraph"), "{:?}", captured.frozen);
}

#[test]
fn behind_an_unknown_operator_declared_shapes_are_taken() {
    let mut b = Builder::new(2);
    let x = b.conv("x", 2, 8, 1);
    let riddle = b.node("Riddle", &[&x], &[]);
    let y = b.conv(&riddle, 5, 6, 1);
    let y = b.conv(&y, 6, 3, 1);
    let mut graph = b.finish(&y);
    let sizes = |graph: &Graph| -> Vec<usize> {
        let groups = find(graph, &shape::infer(graph, 1).unwrap());
        assert!(groups.frozen.iter().any(|frozen| frozen.reason.contains("Riddle")));
        groups.groups.iter().map(|group| group.channels).collect()
    };
    assert_eq!(sizes(&graph), [0; 0], "nothing is known behind it");
    let dims = vec![Dim::Symbol("n".into()), Dim::Fixed(5), Dim::Fixed(6), Dim::Fixed(6)];
    graph.declared.insert(riddle.clone(), ValueInfo { name: riddle, dtype: 1, shape: Some(dims) });
    assert_eq!(sizes(&graph), [6]);
}

#[test]
fn free_lengths_stay_free() {
    let mut b = Builder::new(2);
    for axis in [2, 3] {
        b.graph.inputs[0].shape.as_mut().unwrap()[axis] = Dim::Symbol(format!("s{axis}"));
    }
    let x = b.conv("x", 2, 8, 1);
    // A shuffle whose reshapes are computed from the shape, as PyTorch exports it.
    let shape = b.node("Shape", &["x"], &[]);
    let parts = [0, 2, 3].map(|axis| {
        let index = b.ints(&[axis]);
        b.node("Gather", &[&shape, &index], &[])
    });
    let [two, four, eight] = [b.ints(&[2]), b.ints(&[4]), b.ints(&[8])];
    let axis = [("axis", Attribute::Int(0))];
    let apart = b.node("Concat", &[&parts[0], &two, &four, &parts[1], &parts[2]], &axis);
    let back = b.node("Concat", &[&parts[0], &eight, &parts[1], &parts[2]], &axis);
    let y = b.node("Reshape", &[&x, &apart], &[]);
    let y = b.node("Transpose", &[&y], &[("perm", ints(&[0, 2, 1, 3, 4]))]);
    let y = b.node("Reshape", &[&y, &back], &[]);
    let y = b.conv(&y, 8, 3, 1);
    assert_eq!(halves_agree(b.finish(&y), &image()), [4], "pairs of channels, one of each half");
}
