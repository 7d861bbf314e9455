//! Bytes that come in any pieces.

use proptest::prelude::*;
use secateur_common::Generation;
use secateur_model::{Graph, OpSet, Tensor, canonical};

use super::*;
use crate::{Collector, encode, publish};

fn variant(shift: usize) -> Graph {
    let values = |count: usize| (0..count).map(|at| ((at * 37 + shift * at % 11) % 101) as f32 - 50.0);
    let sparse = values(1 << 20).chain([7.0; 40]).map(|value| if value.abs() < 45.0 { 0.0 } else { value });
    let tensors = [
        ("a", Tensor::f32([30, 20], values(600).map(|value| value / 7.0).collect())),
        ("b", Tensor::f32([1 << 20 | 40], sparse.collect())),
        ("c", Tensor::i64([40], (0..40).collect())),
        ("d", Tensor::i64([3000], (0..3000).map(|at| at * shift as i64).collect())),
        ("e", Tensor::f32([9], values(9).map(|value| value / 3.0).collect())),
    ];
    let tensors = tensors.map(|(name, tensor)| (name.to_owned(), tensor.expect("a tensor")));
    let opsets = vec![OpSet { domain: String::new(), version: 17 }];
    publish(&Graph { opsets, initializers: tensors.into_iter().collect(), ..Graph::default() }, 2e-3)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]
    #[test]
    fn bytes_may_come_in_any_pieces(sizes in prop::collection::vec(1usize..3_000, 1..20), delta in any::<bool>()) {
        let (old, new) = (variant(1), variant(2));
        let base = delta.then_some(&old);
        let update = encode(base, &new, Generation(1)).expect("an update");
        let manifest = Manifest::read(&update).expect("a manifest");
        let mut rest = &update[manifest.header_bytes()..];
        let held = base.map(|base| base as &dyn Base);
        let mut decoder = Decoder::new(manifest, held, Collector::new(base)).expect("its base");
        for size in sizes.iter().cycle() {
            let (piece, left) = rest.split_at(rest.len().min(*size));
            decoder.feed(piece).expect("a sound update");
            prop_assert!(decoder.carry.len() < MARGIN.max(8));
            rest = left;
            if rest.is_empty() {
                break;
            }
        }
        let (_, collector) = decoder.finish().expect("the whole");
        let graph = collector.graph().expect("a graph");
        prop_assert_eq!(canonical::variant_id(&graph), canonical::variant_id(&new));
    }
}
