//! What publishing promises: a bounded error, no new nonzeros, idempotence.
#![allow(clippy::unwrap_used)] // a test panics where it fails

mod common;

use common::{graph, mapped, same_bits, weights};
use proptest::prelude::*;
use secateur_common::Generation;
use secateur_model::{Graph, Tensor};
use secateur_update::{encode, publish, publish_by};

fn nmse(original: &Tensor, published: &Tensor) -> f64 {
    let (a, b) = (original.as_f32().unwrap(), published.as_f32().unwrap());
    let error: f64 = a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum();
    error / a.iter().map(|a| f64::from(*a).powi(2)).sum::<f64>().max(f64::MIN_POSITIVE)
}

fn variant(seed: u64, scale: f32, threshold: f32) -> Graph {
    let weight = Tensor::f32([20, 30], weights(600, seed)).unwrap();
    let bias = Tensor::f32([20], weights(20, seed + 1)).unwrap();
    let graph = graph(vec![("weight", weight), ("bias", bias)]);
    mapped(&graph, |w| if w.abs() < threshold { 0.0 } else { w * scale })
}

proptest! {
    #[test]
    fn the_error_is_bounded_and_no_zero_is_lost(
        seed in 1u64..1_000, exponent in -30i8..30, threshold in 0f32..0.15, max_nmse in 1e-5f64..0.1,
    ) {
        let original = variant(seed, 1.7 * 2f32.powi(exponent.into()), threshold);
        let published = publish(&original, max_nmse);
        for (name, tensor) in &original.initializers {
            let new = &published.initializers[name];
            prop_assert!(nmse(tensor, new) <= max_nmse);
            let zeros = tensor.as_f32().unwrap().iter().zip(new.as_f32().unwrap());
            prop_assert!(zeros.filter(|(old, new)| **old == 0.0 && **new != 0.0).count() == 0);
        }
        prop_assert!(same_bits(&publish(&published, max_nmse), &published));
        prop_assert!(same_bits(&publish(&original, max_nmse), &published));
        let pruned = mapped(&published, |w| if w.abs() < 0.1 { 0.0 } else { w });
        prop_assert!(same_bits(&publish(&pruned, max_nmse), &pruned));
    }
}

proptest! {
    /// After another, published graph: the same promises.
    #[test]
    fn changes_are_published_within_the_error(
        seed in 1u64..1_000, part in 1usize..20, threshold in 0f32..0.15, max_nmse in 1e-4f64..0.01,
    ) {
        let before = publish(&variant(seed, 1.0, threshold), max_nmse);
        let noise = weights(700, seed + 7);
        let mut at = 0;
        let changed = mapped(&before, |w| {
            at += 1;
            if at % 20 < part && w != 0.0 { w + 0.3 * noise[at % 700] } else { w }
        });
        let published = publish_by(&changed, Some(&before), |_| max_nmse);
        for (name, tensor) in &changed.initializers {
            let new = &published.initializers[name];
            prop_assert!(nmse(tensor, new) <= max_nmse);
            let zeros = tensor.as_f32().unwrap().iter().zip(new.as_f32().unwrap());
            prop_assert!(zeros.filter(|(wanted, new)| **wanted == 0.0 && **new != 0.0).count() == 0);
        }
        prop_assert!(same_bits(&publish_by(&published, Some(&before), |_| max_nmse), &published));
        prop_assert!(same_bits(&publish_by(&before, Some(&before), |_| max_nmse), &before));
    }
}

#[test]
fn what_did_not_change_is_left_alone_and_costs_little() {
    let weight = Tensor::f32([100, 200], weights(20_000, 9)).unwrap();
    let before = publish(&graph(vec![("weight", weight)]), 1e-3);
    let (noise, mut at) = (weights(20_000, 8), 0);
    let changed = mapped(&before, |w| {
        at += 1;
        if at % 200 < 20 { w + 0.3 * noise[at - 1] } else { w }
    });
    let after = publish_by(&changed, Some(&before), |_| 1e-3);
    let [old, wanted, new] = [&before, &changed, &after].map(|g| g.initializers["weight"].as_f32().unwrap());
    let alone = |(at, value): (usize, &f32)| value.to_bits() != old[at].to_bits() || new[at] == *value;
    assert!(wanted.iter().enumerate().all(alone));
    let bytes = |published: &Graph| encode(Some(&before), published, Generation(1)).unwrap().len();
    let (after, anew) = (bytes(&after), bytes(&publish(&changed, 1e-3)));
    assert!(3 * after < 2 * anew, "{after} bytes, {anew} on grids of its own");
}

#[test]
fn the_error_is_used() {
    let original = variant(3, 1.0, 0.0);
    let published = publish(&original, 2e-3);
    let error = nmse(&original.initializers["weight"], &published.initializers["weight"]);
    assert!(error > 1e-3, "{error}");
}

#[test]
fn error_zero_changes_nothing() {
    let original = variant(4, 1.0, 0.05);
    assert!(same_bits(&publish(&original, 0.0), &original));
}
