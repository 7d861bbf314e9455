//! Files of every version of the format decode for ever, to the same variants: on this processor and on every other.
#![allow(clippy::unwrap_used)] // a test panics where it fails

mod common;

use std::path::PathBuf;

use common::{graph, mapped, refitted, weights};
use secateur_common::Generation;
use secateur_model::{Graph, Tensor};
use secateur_update::{FORMAT, Manifest, Operation, apply, encode, publish};

/// Chains of updates, each from what the one before made, by the version of the format.
const CHAINS: [(u8, &[&str]); 3] = [
    (1, &["1-full", "2-rule", "3-tuned", "4-cut"]),
    (2, &["1-full", "2-rule", "3-tuned", "4-cut", "5-large", "6-large-tuned"]),
    (3, &["1-full", "2-refit"]),
];

#[test]
fn golden_files_decode() {
    for (format, chain) in CHAINS {
        let mut held: Option<Graph> = None;
        let mut operations = Vec::new();
        for name in chain {
            let update = std::fs::read(path(format, name, "scup")).unwrap();
            // The third version is that of refits, and no full update has one.
            assert_eq!(update[4], if held.is_none() { format.min(2) } else { format });
            let applied = apply(held.as_ref(), &update).unwrap();
            let id = std::fs::read_to_string(path(format, name, "id")).unwrap();
            assert_eq!(applied.manifest.target.to_string(), id.trim(), "{name}");
            operations.extend(applied.manifest.tensors().map(|tensor| tensor.operation));
            held = Some(applied.graph);
        }
        use Operation::{Dense, Gap, Keep, Raw, Refit, Rule, Sparse};
        let expected = match format {
            1 => vec![Keep, Rule, Sparse, Dense, Raw],
            2 => vec![Keep, Rule, Sparse, Dense, Raw, Gap],
            _ => vec![Keep, Sparse, Gap, Refit],
        };
        for operation in expected {
            assert!(operations.contains(&operation), "no golden file of version {format} has a {operation}");
        }
    }
}

#[test]
fn encoding_is_deterministic() {
    for ((format, names), chain) in CHAINS.into_iter().skip(1).zip([chain(), refits()]) {
        for (name, update) in names.iter().zip(chain) {
            assert_eq!(update, std::fs::read(path(format, name, "scup")).unwrap(), "{name}");
        }
    }
    assert_eq!(CHAINS[CHAINS.len() - 1].0, FORMAT);
}

#[test]
#[ignore = "writes the golden files of a new version of the format"]
fn write_golden_files() {
    for (name, update) in CHAINS[CHAINS.len() - 1].1.iter().zip(refits()) {
        let id = format!("{}\n", Manifest::read(&update).unwrap().target);
        std::fs::write(path(FORMAT, name, "id"), id).unwrap();
        std::fs::write(path(FORMAT, name, "scup"), update).unwrap();
    }
}

fn path(format: u8, name: &str, extension: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(format.to_string());
    folder.join(name).with_extension(extension)
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

    // A tensor so large that the gap coder takes it; then the same, some of it moved, some gone and some new.
    let mut large = cut.clone();
    let far = weights(1 << 21, 5);
    let values = |scale: f32, keep: usize| {
        let value =
            |(at, w): (usize, &f32)| if at % 4001 < keep { w * scale + far[at + 9] * 0.01 } else { 0.0 };
        far[..1 << 20].iter().enumerate().map(value).chain([0.5; 16]).collect::<Vec<_>>()
    };
    large.initializers.insert("large".into(), Tensor::f32([16, 65_537], values(1.0, 3)).unwrap());
    let large = publish(&large, 2e-3);
    let mut moved = large.clone();
    moved.initializers.insert("large".into(), Tensor::f32([16, 65_537], values(1.1, 2)).unwrap());
    let moved = publish(&moved, 2e-3);

    updates(&[dense, sparse, tuned, cut, large, moved])
}

/// Layers whose inputs are cut and whose weights took over from those that went: small, and with outputs that went too;
/// and one so large that the gap coder takes it.
fn refits() -> Vec<Vec<u8>> {
    let few =
        weights(16 * 20 * 4096, 3).into_iter().enumerate().map(|(at, w)| if at % 211 == 0 { w } else { 0.0 });
    let wide = graph(vec![
        ("a.weight", Tensor::f32([20, 6], weights(120, 1)).unwrap()),
        ("b.weight", Tensor::f32([60, 20, 3], weights(3600, 2)).unwrap()),
        ("large", Tensor::f32([16, 20, 4096], few.collect()).unwrap()),
    ]);
    let wide = publish(&wide, 2e-3);
    let kept: Vec<usize> = (0..20).filter(|at| at % 7 != 2).collect();
    let outputs: Vec<usize> = (0..60).filter(|at| at % 9 != 4).collect();
    let mut narrow = wide.clone();
    for (name, tensor) in &mut narrow.initializers {
        *tensor = match name.as_str() {
            "a.weight" => tensor.gathered(0, &kept),
            "b.weight" => refitted(tensor, &kept).gathered(0, &outputs),
            _ => refitted(tensor, &kept),
        };
    }
    updates(&[wide, publish(&narrow, 2e-3)])
}

/// Each of `chain` from the one before.
fn updates(chain: &[Graph]) -> Vec<Vec<u8>> {
    let bases = std::iter::once(None).chain(chain.iter().map(Some));
    let updates = chain.iter().zip(bases).zip(1..);
    updates.map(|((target, base), step)| encode(base, target, Generation(step)).unwrap()).collect()
}
