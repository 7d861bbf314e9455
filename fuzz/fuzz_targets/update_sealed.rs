//! A manifest's body and a payload under good checksums, as a delta to a fixed base or in full: never a panic, and never
//! a result that is not the one promised.
#![no_main]

use std::sync::LazyLock;

use secateur_common::Generation;
use secateur_model::{Dim, Graph, Node, OpSet, Tensor, ValueInfo, canonical};
use secateur_update::{FORMAT, apply};

libfuzzer_sys::fuzz_target!(|input: (u8, bool, &[u8], &[u8])| {
    let (format, delta, body, payload) = input;
    let update = sealed(1 + format % FORMAT, delta, body, payload);
    if let Ok(applied) = apply(Some(&BASE), &update) {
        assert_eq!(canonical::variant_id(&applied.graph), applied.manifest.target);
        assert_eq!(applied.manifest.generation, Generation(1));
    }
});

/// `body` is what follows the generation.
fn sealed(format: u8, delta: bool, body: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut whole = vec![if delta { 1 } else { 2 }];
    whole.extend([0; 32]);
    if delta {
        whole.extend(canonical::variant_id(&BASE).0.as_bytes());
    }
    whole.push(1);
    whole.extend(body);
    whole.extend(payload.chunks(64 * 1024).flat_map(check));
    let mut update = b"SCUP".to_vec();
    update.push(format);
    let mut length = whole.len();
    while length >= 128 {
        update.push(length as u8 | 128);
        length >>= 7;
    }
    update.push(length as u8);
    update.extend(whole);
    update.extend(check(&update));
    update.extend(payload);
    update
}

fn check(bytes: &[u8]) -> [u8; 8] {
    let mut check = [0; 8];
    check.copy_from_slice(&blake3::hash(bytes).as_bytes()[..8]);
    check
}

static BASE: LazyLock<Graph> = LazyLock::new(|| {
    let value = |name: &str| ValueInfo { name: name.into(), dtype: 1, shape: Some(vec![Dim::Fixed(4)]) };
    let weights: Vec<f32> = (0..32i16).map(|at| f32::from(at * 37 % 17 - 8) * 0.3).collect();
    Graph {
        opsets: vec![OpSet { domain: String::new(), version: 17 }],
        inputs: vec![value("x")],
        outputs: vec![value("y")],
        nodes: vec![Node {
            op: "MatMul".into(),
            inputs: vec!["x".into(), "w".into()],
            outputs: vec!["y".into()],
            ..Node::default()
        }],
        initializers: Tensor::f32([4, 8], weights).map(|weights| ("w".into(), weights)).into_iter().collect(),
        ..Graph::default()
    }
});
