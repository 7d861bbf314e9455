//! Any variant to any variant, bit for bit.
#![allow(clippy::unwrap_used)] // a test panics where it fails

mod common;

use common::{graph, mapped, network, refitted, same_bits, weights};
use proptest::prelude::*;
use secateur_common::Generation;
use secateur_model::{Graph, Tensor, canonical};
use secateur_update::{Manifest, Operation, apply, encode, publish, stored_bytes};

fn update(base: Option<&Graph>, target: &Graph) -> Vec<u8> {
    let bytes = encode(base, target, Generation(7)).unwrap();
    let applied = apply(base, &bytes).unwrap();
    assert!(same_bits(&applied.graph, target));
    assert_eq!(applied.manifest.target, canonical::variant_id(target));
    assert_eq!(applied.manifest.base, base.map(canonical::variant_id));
    assert_eq!(applied.manifest.generation, Generation(7));
    assert_eq!(applied.manifest.total_bytes(), bytes.len());
    bytes
}

fn operations(update: &[u8]) -> Vec<Operation> {
    Manifest::read(update).unwrap().tensors().map(|tensor| tensor.operation).collect()
}

fn large(seed: u64) -> Graph {
    graph(vec![
        ("a.weight", Tensor::f32([60, 80], weights(4_800, seed)).unwrap()),
        ("a.bias", Tensor::f32([60], weights(60, seed + 1)).unwrap()),
        ("b.weight", Tensor::f32([40, 60, 2, 2], weights(9_600, seed + 2)).unwrap()),
        ("c.weight", Tensor::f32([10, 160], weights(1_600, seed + 3)).unwrap()),
    ])
}

/// `large` with some outputs of `a` and `b` gone, as a structured cut does it; `c` reads `b` flattened, four values a
/// channel.
fn cut(graph: &Graph) -> Graph {
    let kept_a: Vec<usize> = (0..60).filter(|at| at % 3 != 1).collect();
    let kept_b: Vec<usize> = (0..40).filter(|at| at % 5 < 2).collect();
    let flat: Vec<usize> = kept_b.iter().flat_map(|at| at * 4..at * 4 + 4).collect();
    let mut cut = graph.clone();
    let mut narrow = |name: &str, cuts: &[(usize, &[usize])]| {
        let tensor = cut.initializers.get_mut(name).unwrap();
        cuts.iter().for_each(|(axis, kept)| *tensor = tensor.gathered(*axis, kept));
    };
    narrow("a.weight", &[(0, &kept_a)]);
    narrow("a.bias", &[(0, &kept_a)]);
    narrow("b.weight", &[(0, &kept_b), (1, &kept_a)]);
    narrow("c.weight", &[(1, &flat)]);
    cut
}

#[test]
fn nothing_changed_costs_the_manifest_only() {
    let dense = large(1);
    let bytes = update(Some(&dense), &dense);
    assert!(bytes.len() < 100, "{}", bytes.len());
    assert_eq!(operations(&bytes), [Operation::Keep; 4]);
}

#[test]
fn a_threshold_costs_a_threshold() {
    let dense = large(2);
    for zero in [0.0f32, -0.0] {
        let sparse = mapped(&dense, |w| if w.abs() < 0.08 { zero.copysign(zero * w) } else { w });
        let bytes = update(Some(&dense), &sparse);
        assert!(bytes.len() < 150, "{}", bytes.len());
        let sparser = mapped(&sparse, |w| if w.abs() < 0.1 { 0.0 * w } else { w });
        assert!(update(Some(&sparse), &sparser).len() < 150);
    }
}

#[test]
fn a_cut_costs_its_indices() {
    let dense = large(3);
    let bytes = update(Some(&dense), &cut(&dense));
    assert!(bytes.len() < 170, "{}", bytes.len());
    assert_eq!(operations(&bytes), [Operation::Keep; 4]);
    assert!(Manifest::read(&bytes).unwrap().tensors().all(|tensor| tensor.gathered));
}

#[test]
fn a_refitted_cut_is_coded_by_what_was_kept() {
    let dense = large(4);
    let noise = weights(20_000, 99);
    let mut at = 0;
    let refitted = mapped(&cut(&dense), |w| {
        at += 1;
        w + 0.1 * noise[at]
    });
    let refitted = publish(&refitted, 2e-3);
    let delta = update(Some(&dense), &refitted).len();
    let full = update(None, &refitted).len();
    assert!(delta * 2 < full, "{delta} of {full}");
}

#[test]
fn what_the_inputs_that_stay_took_over_costs_a_map() {
    let wide = graph(vec![
        ("a.weight", Tensor::f32([24, 9], weights(216, 7)).unwrap()),
        ("b.weight", Tensor::f32([80, 24, 3, 3], weights(80 * 216, 8)).unwrap()),
        ("c.weight", Tensor::f32([50, 320], weights(16_000, 9)).unwrap()),
    ]);
    let kept: Vec<usize> = (0..24).filter(|at| at % 3 > 0).collect();
    let flat: Vec<usize> = (0..320).filter(|at| at / 4 % 5 < 4).collect();
    let mut narrow = wide.clone();
    let mut set = |name: &str, tensor: Tensor| drop(narrow.initializers.insert(name.to_owned(), tensor));
    set("a.weight", wide.initializers["a.weight"].gathered(0, &kept));
    let rows: Vec<usize> = (0..80).filter(|at| at % 5 < 4).collect();
    set("b.weight", refitted(&wide.initializers["b.weight"], &kept).gathered(0, &rows));
    set("c.weight", wide.initializers["c.weight"].gathered(1, &flat));
    let narrow = publish(&narrow, 1e-3);
    let bytes = update(Some(&wide), &narrow);
    assert_eq!(operations(&bytes)[1], Operation::Refit, "{:?}", operations(&bytes));
    assert_eq!(bytes[4], 3, "the version that has it");
    let (delta, full) = (bytes.len(), update(None, &narrow).len());
    assert!(delta * 2 < full, "{delta} of {full}");
}

/// What a coordinator does to a variant between two updates.
#[derive(Clone, Copy, Debug)]
enum Change {
    Prune(f32),
    Tune(u64),
    Exact(u64),
    Cut,
    Other(u64),
}

impl Change {
    fn any() -> impl Strategy<Value = Self> {
        prop_oneof![
            (0.02f32..0.15).prop_map(Self::Prune),
            (1u64..99).prop_map(Self::Tune),
            (1u64..99).prop_map(Self::Exact),
            Just(Self::Cut),
            (1u64..99).prop_map(Self::Other),
        ]
    }

    fn of(self, held: &Graph) -> Graph {
        let moved = |seed: u64| {
            let drift = weights(20_000, seed);
            let mut at = 0;
            mapped(held, |w| {
                at += 1;
                if w == 0.0 { 0.0 } else { w + 0.05 * drift[at] }
            })
        };
        match self {
            Self::Prune(threshold) => mapped(held, |w| if w.abs() < threshold { 0.0 } else { w }),
            Self::Tune(seed) => publish(&moved(seed), 2e-3),
            Self::Exact(seed) => moved(seed),
            Self::Cut if held.initializers["b.weight"].shape()[0] == 40 => cut(held),
            Self::Cut => held.clone(),
            Self::Other(seed) => publish(&large(seed), 2e-3),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn ten_updates_in_a_row_end_bit_for_bit(changes in prop::collection::vec(Change::any(), 10)) {
        let mut coordinator = publish(&large(5), 2e-3);
        let mut device = apply(None, &encode(None, &coordinator, Generation(0)).unwrap()).unwrap().graph;
        for (change, generation) in changes.into_iter().zip(1..) {
            let next = change.of(&coordinator);
            // The coordinator encodes from its own state, the device decodes from what it holds.
            let bytes = encode(Some(&coordinator), &next, Generation(generation)).unwrap();
            device = apply(Some(&device), &bytes).unwrap().graph;
            coordinator = next;
            prop_assert!(same_bits(&device, &coordinator), "after {:?}", change);
        }
    }
}

#[test]
fn growing_back_works_too() {
    let dense = publish(&large(6), 2e-3);
    let sparse = mapped(&dense, |w| if w.abs() < 0.1 { 0.0 } else { w });
    update(Some(&sparse), &dense);
    update(Some(&cut(&dense)), &dense);
}

#[test]
fn another_graph_carries_its_skeleton() {
    let (small, large) = (network(1), large(1));
    let bytes = update(Some(&small), &large);
    assert!(Manifest::read(&bytes).unwrap().skeleton_bytes() > 0);
}

#[test]
fn stored_bytes_are_those_of_the_full_update() {
    let graph = publish(&network(2), 2e-3);
    assert_eq!(stored_bytes(&graph).get(), update(None, &graph).len() as u64);
}

#[test]
fn odd_tensors_survive() {
    let odd = |values: Vec<f32>| {
        graph(vec![
            ("empty", Tensor::f32([0, 3], vec![]).unwrap()),
            ("scalar", Tensor::f32([], vec![values[0]]).unwrap()),
            ("values", Tensor::f32([values.len()], values).unwrap()),
        ])
    };
    let specials = vec![f32::NAN, f32::INFINITY, -0.0, f32::MIN_POSITIVE / 8.0, f32::MAX, -1.0, 0.0];
    let old = odd(vec![1.0, -0.0, f32::NEG_INFINITY, f32::NAN, 1e-40, 2.0, -3.0]);
    let new = odd(specials);
    update(None, &new);
    update(Some(&old), &new);
    update(Some(&new), &old);
    update(Some(&new), &publish(&new, 2e-3));
}

fn value() -> impl Strategy<Value = f32> {
    prop_oneof![
        3 => Just(0.0f32),
        1 => Just(-0.0f32),
        3 => (-20i8..20).prop_map(|level| f32::from(level) * 0.125),
        3 => -1.0f32..1.0,
        1 => any::<u32>().prop_map(f32::from_bits),
    ]
}

fn variant() -> impl Strategy<Value = Graph> {
    (1usize..5, 1usize..6, 0usize..4, prop::collection::vec(value(), 64)).prop_map(
        |(rows, columns, more, values)| {
            let take = |count: usize| values.iter().copied().cycle().take(count).collect::<Vec<_>>();
            graph(vec![
                ("weight", Tensor::f32([rows, columns], take(rows * columns)).unwrap()),
                ("kernel", Tensor::f32([columns, rows, 2, 1], take(rows * columns * 2)).unwrap()),
                ("bias", Tensor::f32([more], take(more)).unwrap()),
                ("shape", Tensor::i64([2], vec![rows as i64, columns as i64]).unwrap()),
            ])
        },
    )
}

proptest! {
    #[test]
    fn any_variant_to_any_variant(old in variant(), new in variant()) {
        update(Some(&old), &new);
        update(None, &new);
    }
}

#[test]
fn an_update_serves_any_generation() {
    let (old, new) = (large(1), large(2));
    let first = encode(Some(&old), &new, Generation(0)).unwrap();
    let stamped = secateur_update::with_generation(&first, Generation(70_000)).unwrap();
    assert!(stamped == encode(Some(&old), &new, Generation(70_000)).unwrap());
    assert!(secateur_update::with_generation(&first[..9], Generation(1)).is_err());
}

#[test]
fn the_stored_form_is_the_full_update_whoever_makes_it() {
    let mut graphs = vec![large(5), publish(&large(6), 2e-3), network(7), Graph::default()];
    graphs[0].initializers.insert("long".into(), Tensor::f32([40_000], weights(40_000, 8)).unwrap());
    for graph in graphs {
        let mut payload = Vec::new();
        let manifest = secateur_update::store(&graph, Generation(3), |frame| {
            payload.extend_from_slice(frame);
            Ok(())
        });
        let stored = [manifest.unwrap(), payload].concat();
        assert!(stored == encode(None, &graph, Generation(3)).unwrap());
    }
    let refused = secateur_update::store(&large(5), Generation(3), |_| Err("the disk is full".into()));
    assert!(matches!(refused, Err(secateur_update::StoreError::Write(_))));
}
