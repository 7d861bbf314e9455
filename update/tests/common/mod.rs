//! Small graphs, and updates with their checksums put right after they were damaged.
#![allow(clippy::unwrap_used)] // a test panics where it fails
#![allow(dead_code)] // each test file uses its part

use secateur_common::Digest;
use secateur_model::{Dim, Graph, Node, OpSet, Tensor, ValueInfo};

/// A chain of operators, one for each tensor.
pub(crate) fn graph(tensors: Vec<(&str, Tensor)>) -> Graph {
    let value = |name: &str| ValueInfo { name: name.into(), dtype: 1, shape: Some(vec![Dim::Fixed(1)]) };
    let step = |at: usize| format!("v{at}");
    let nodes = tensors.iter().enumerate().map(|(at, (name, _))| Node {
        name: format!("node{at}"),
        op: "Add".into(),
        inputs: vec![step(at), (*name).to_owned()],
        outputs: vec![step(at + 1)],
        ..Node::default()
    });
    Graph {
        name: "chain".into(),
        ir_version: 8,
        opsets: vec![OpSet { domain: String::new(), version: 17 }],
        inputs: vec![value("v0")],
        outputs: vec![value(&step(tensors.len()))],
        nodes: nodes.collect(),
        initializers: tensors.into_iter().map(|(name, tensor)| (name.to_owned(), tensor)).collect(),
        ..Graph::default()
    }
}

/// Reproducible numbers that look like weights: a bell around zero.
pub(crate) fn weights(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut uniform = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 24) as f32
    };
    (0..count).map(|_| (0..4).map(|_| uniform()).sum::<f32>() * 0.1 - 0.2).collect()
}

/// A two-layer network and its biases.
pub(crate) fn network(seed: u64) -> Graph {
    graph(vec![
        ("fc1.weight", Tensor::f32([12, 30], weights(360, seed)).unwrap()),
        ("fc1.bias", Tensor::f32([12], weights(12, seed + 1)).unwrap()),
        ("fc2.weight", Tensor::f32([8, 12], weights(96, seed + 2)).unwrap()),
        ("shape", Tensor::i64([2], vec![-1, 12]).unwrap()),
    ])
}

/// The same with another value for each element of the float tensors.
pub(crate) fn mapped(graph: &Graph, mut value: impl FnMut(f32) -> f32) -> Graph {
    let mut mapped = graph.clone();
    for tensor in mapped.initializers.values_mut() {
        if let Some(values) = tensor.as_f32_mut() {
            values.iter_mut().for_each(|element| *element = value(*element));
        }
    }
    mapped
}

/// A layer's `weights` where of its inputs only `kept` are left and have taken over from the others: each row by the same
/// small map, and by a little more.
pub(crate) fn refitted(weights_: &Tensor, kept: &[usize]) -> Tensor {
    let (rows, inputs) = (weights_.shape()[0], weights_.shape()[1]);
    let unit = weights_.len() / (rows * inputs);
    let map = weights(inputs * kept.len(), 77);
    let noise = weights(weights_.len(), 78);
    let old = weights_.as_f32().unwrap();
    let mut new = weights_.gathered(1, kept);
    for (at, value) in new.as_f32_mut().unwrap().iter_mut().enumerate() {
        let (row, column, within) = (at / (kept.len() * unit), at / unit % kept.len(), at % unit);
        let gone = (0..inputs).filter(|input| !kept.contains(input));
        let taken =
            gone.map(|input| old[(row * inputs + input) * unit + within] * map[input * kept.len() + column]);
        *value += taken.sum::<f32>();
        if *value != 0.0 {
            *value += 0.01 * noise[at];
        }
    }
    new
}

/// Whether both hold the same bits under the same names.
pub(crate) fn same_bits(a: &Graph, b: &Graph) -> bool {
    secateur_model::canonical::variant_id(a) == secateur_model::canonical::variant_id(b)
}

/// Where the manifest's body lies, and where the payload begins.
pub(crate) fn layout(update: &[u8]) -> Option<(std::ops::Range<usize>, usize)> {
    let mut at = 5;
    let mut length = 0usize;
    for shift in (0..21).step_by(7) {
        let byte = *update.get(at)?;
        at += 1;
        length |= usize::from(byte & 127) << shift;
        if byte < 128 {
            break;
        }
    }
    let end = at.checked_add(length)?;
    (end + 8 <= update.len()).then_some((at..end, end + 8))
}

/// Puts the checksums right: of the frames, then of the manifest.
pub(crate) fn reseal(update: &mut [u8]) {
    let Some((body, payload)) = layout(update) else { return };
    let sums: Vec<u8> = update[payload..]
        .chunks(64 * 1024)
        .flat_map(|frame| Digest::of(frame).as_bytes()[..8].to_vec())
        .collect();
    if sums.len() <= body.len() {
        update[body.end - sums.len()..body.end].copy_from_slice(&sums);
    }
    let sum = Digest::of(&update[..body.end]);
    update[body.end..payload].copy_from_slice(&sum.as_bytes()[..8]);
}
