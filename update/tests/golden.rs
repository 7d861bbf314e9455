//! Files of format version 1 decode for ever, to the same variants: on this processor and on every other.
#![allow(clippy::unwrap_used)] // a test panics where it fails

mod common;

use std::path::PathBuf;

use common::{graph, mapped, weights};
use secateur_common::Generation;
use secateur_model::{Graph, Tensor};
use secateur_update::{Manifest, Operation, apply, encode, publish};

/// A chain of updates, each from what the one before made, with the variant it makes.
const CHAIN: [(&str, &str); 4] = [
    ("1-full", include_str!("golden/1-full.id")),
    ("2-rule", include_str!("golden/2-rule.id")),
    ("3-tuned", include_str!("golden/3-tuned.id")),
    ("4-cut", include_str!("golden/4-cut.id")),
];

#[test]
fn golden_files_decode() {
    let mut held: Option<Graph> = None;
    let mut operations = Vec::new();
    for (name, id) in CHAIN {
        let update = std::fs::read(path(name, "scup")).unwrap();
        let applied = apply(held.as_ref(), &update).unwrap();
        assert_eq!(applied.manifest.target.to_string(), id.trim(), "{name}");
        operations.extend(applied.manifest.tensors().map(|tensor| tensor.operation));
        held = Some(applied.graph);
    }
    use Operation::{Dense, Keep, Raw, Rule, Sparse};
    for operation in [Keep, Rule, Sparse, Dense, Raw] {
        assert!(operations.contains(&operation), "no golden file has the operation {operation}");
    }
}

#[test]
fn encoding_is_deterministic() {
    for ((name, _), update) in CHAIN.iter().zip(chain()) {
        assert_eq!(update, std::fs::read(path(name, "scup")).unwrap(), "{name}");
    }
}

#[test]
#[ignore = "writes the golden files of a new version of the format"]
fn write_golden_files() {
    for ((name, _), update) in CHAIN.iter().zip(chain()) {
        std::fs::write(path(name, "id"), format!("{}\n", Manifest::read(&update).unwrap().target)).unwrap();
        std::fs::write(path(name, "scup"), update).unwrap();
    }
}

fn path(name: &str, extension: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name).with_extension(extension)
}

fn chain() -> Vec<Vec<u8>> {
    let dense = publish(
        &graph(vec![
            ("a.bias", Tensor::f32([8], weights(8, 1)).unwrap()),
            ("a.weight", Tensor::f32([8, 14], weights(112, 2)).unwrap()),
            ("b.weight", Tensor::f32([4, 8, 3], weights(96, 3)).unwrap()),
            ("exact", Tensor::f32([3], vec![0.1, -0.0, f32::INFINITY]).unwrap()),
            ("shape", Tensor::i64([2], vec![-1, 8]).unwrap()),
        ]),
        2e-3,
    );
    let sparse = mapped(&dense, |w| if w.abs() < 0.08 { 0.0 } else { w });
    let noise = weights(256, 4);
    let mut at = 0;
    let tuned = mapped(&sparse, |w| {
        at += 1;
        if w == 0.0 || w.is_infinite() { w } else { w + noise[at] * 0.2 }
    });
    let tuned = publish(&tuned, 2e-3);
    let mut cut = tuned.clone();
    for (name, axis) in [("a.bias", 0), ("a.weight", 0), ("b.weight", 1)] {
        let tensor = cut.initializers.get_mut(name).unwrap();
        *tensor = tensor.gathered(axis, &[0, 2, 3, 7]);
    }
    cut.initializers.insert("shape".into(), Tensor::i64([2], vec![-1, 4]).unwrap());

    let chain = [dense, sparse, tuned, cut];
    let bases = std::iter::once(None).chain(chain.iter().map(Some));
    let updates = chain.iter().zip(bases).zip(1..);
    updates.map(|((target, base), step)| encode(base, target, Generation(step)).unwrap()).collect()
}
