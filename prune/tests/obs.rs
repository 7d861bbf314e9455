//! What second moments are good for: patterns kept, bad data refused, plain data no danger.
#![allow(clippy::unwrap_used)]

mod small;

use proptest::prelude::*;
use secateur_common::{Budget, Metric};
use secateur_model::{Dim, Graph, Tensor, cost, eval};
use secateur_prune::{Meter, Method, Moments, Pattern, PruneError, Structure, prune};

fn half_of_the_macs() -> Budget {
    let macs = cost::analyse(&small::net()).unwrap().macs().get() as f64;
    Budget::default().with(Metric::Macs, macs / 2.0)
}

#[test]
fn patterns_of_single_weights_hold() {
    let (dense, images) = (small::net(), small::images(64));
    for pattern in [Pattern::Block(1), Pattern::Block(4), Pattern::NOfM { keep: 2, of: 4 }] {
        let mut asked = small::request(Method::Obs, Structure::Weights, half_of_the_macs(), Some(&images));
        asked.pattern = pattern;
        if let Pattern::NOfM { .. } = pattern {
            asked.budget = Budget::default();
        }
        let pruned = prune(&dense, &asked, Meter::new(&small::bytes), &mut |_| ()).unwrap();
        let tensor = &pruned.graph.initializers["w2"];
        let (values, [outputs, width]) = (tensor.as_f32().unwrap(), [8, 54]);
        let is_zero = |o: usize, i: usize| values[o * width + i] == 0.0;
        assert!(values.contains(&0.0), "{pattern:?}");
        match pattern {
            Pattern::Block(each) => {
                for (o, i) in (0..outputs).flat_map(|o| (0..width).map(move |i| (o, i))) {
                    assert_eq!(is_zero(o, i), is_zero(o - o % each, i), "{pattern:?} at {o}, {i}");
                }
            }
            Pattern::NOfM { keep, of } => {
                for (o, from) in (0..outputs).flat_map(|o| (0..width).step_by(of).map(move |from| (o, from)))
                {
                    let stay = (from..(from + of).min(width)).filter(|&i| !is_zero(o, i)).count();
                    assert!(stay <= keep, "{stay} of {of} at {o}, {from}");
                }
            }
        }
    }
}

#[test]
fn single_weights_lose_less_by_second_moments_than_by_size() {
    let (dense, images) = (small::net(), small::images(256));
    let answers = |graph: &Graph| {
        let values = eval::run(graph, &[("x", &images)], &["y"]).unwrap();
        values["y"].as_f32().unwrap().to_vec()
    };
    let expected = answers(&dense);
    let lost = |method| {
        let asked = small::request(method, Structure::Weights, half_of_the_macs(), Some(&images));
        let pruned = prune(&dense, &asked, Meter::new(&small::bytes), &mut |_| ()).unwrap();
        answers(&pruned.graph).iter().zip(&expected).map(|(a, b)| (a - b) * (a - b)).sum::<f32>()
    };
    assert!(lost(Method::Obs) < 0.5 * lost(Method::Magnitude));
}

#[test]
fn a_branch_that_says_little_goes_whole() {
    let (mut dense, images) = (small::net(), small::images(256));
    dense.initializers.get_mut("w3").unwrap().as_f32_mut().unwrap().iter_mut().for_each(|w| *w *= 0.01);
    let macs = |graph: &Graph| cost::analyse(graph).unwrap().macs().get() as f64;
    let budget = Budget::default().with(Metric::Macs, 0.2 * macs(&dense));
    let asked = small::request(Method::Obs, Structure::Channels, budget, Some(&images));
    let pruned = prune(&dense, &asked, Meter::new(&small::bytes), &mut |_| ()).unwrap();
    let kept = |name: &str| pruned.kept.iter().find(|kept| kept.group == name).unwrap().kept;
    assert_eq!((kept("w1"), kept("w2"), kept("w5")), (6, 0, 12), "the branch's 86 % of the work go first");
    assert!(macs(&pruned.graph) <= 0.2 * macs(&dense) && !pruned.graph.initializers.contains_key("w2"));
    let answers = |graph: &Graph| eval::run(graph, &[("x", &images)], &["y"]).unwrap()["y"].clone();
    let (expected, found) = (answers(&dense), answers(&pruned.graph));
    let values = expected.as_f32().unwrap().iter().zip(found.as_f32().unwrap());
    let (off, all) = values.fold((0.0, 0.0), |(off, all), (a, b)| (off + (a - b).powi(2), all + a.powi(2)));
    assert!(off < 1e-3 * all, "{off} of {all}");
}

#[test]
fn bad_calibration_data_is_refused() {
    let dense = small::net();
    let refused = |data: Tensor| {
        let asked = small::request(Method::Obs, Structure::Channels, half_of_the_macs(), Some(&data));
        prune(&dense, &asked, Meter::new(&small::bytes), &mut |_| ()).unwrap_err()
    };
    let mut with_nan = small::images(4);
    with_nan.as_f32_mut().unwrap()[17] = f32::NAN;
    for data in [
        with_nan,
        Tensor::f32([0, 2, 8, 8], vec![]).unwrap(),
        Tensor::f32([4, 2, 8, 7], vec![0.5; 448]).unwrap(),
        Tensor::f32([4, 128], vec![0.5; 512]).unwrap(),
        Tensor::i64([1, 2, 8, 8], vec![1; 128]).unwrap(),
    ] {
        assert!(matches!(refused(data), PruneError::BadCalibration { .. }));
    }
}

#[test]
fn poor_calibration_data_does_no_harm() {
    let dense = small::net();
    for data in [small::images(1), Tensor::f32([16, 2, 8, 8], vec![0.0; 2048]).unwrap()] {
        for structure in [Structure::Channels, Structure::Weights] {
            let asked = small::request(Method::Obs, structure, half_of_the_macs(), Some(&data));
            let pruned = prune(&dense, &asked, Meter::new(&small::bytes), &mut |_| ()).unwrap();
            assert!(small::all_finite(&pruned.graph));
        }
    }
}

#[test]
fn a_net_exported_for_single_samples_is_observed_in_batches() {
    let mut dense = small::net();
    let fixed = |dims: Option<&mut Vec<Dim>>| dims.into_iter().for_each(|dims| dims[0] = Dim::Fixed(1));
    fixed(dense.inputs[0].shape.as_mut());
    fixed(dense.outputs[0].shape.as_mut());
    let at = dense.nodes.iter().position(|node| node.op == "Flatten").unwrap();
    dense.nodes[at] = small::node("Reshape", &["p", "target"], "f", &[]);
    dense.initializers.insert("target".into(), Tensor::i64([2], vec![1, -1]).unwrap());
    let images = small::images(64);
    let asked = small::request(Method::Obs, Structure::Channels, half_of_the_macs(), Some(&images));
    let pruned = prune(&dense, &asked, Meter::new(&small::bytes), &mut |_| ()).unwrap();
    let one = images.gathered(0, &[5]);
    let values = eval::run(&pruned.graph, &[("x", &one)], &["y"]).unwrap();
    assert_eq!(values["y"].shape(), [1, 5]);
}

#[test]
fn a_mixture_meets_its_bytes() {
    let (dense, images) = (small::net(), small::images(64));
    let limit = small::bytes(&dense).get() as f64 * 0.3;
    let budget = Budget::default().with(Metric::ModelBytes, limit);
    let asked = small::request(Method::Obs, Structure::Mixed, budget, Some(&images));
    let pruned = prune(&dense, &asked, Meter::new(&small::bytes), &mut |_| ()).unwrap();
    assert!(small::bytes(&pruned.graph).get() as f64 <= limit);
    let asked = small::request(Method::Magnitude, Structure::Mixed, asked.budget.clone(), Some(&images));
    assert!(matches!(
        prune(&dense, &asked, Meter::new(&small::bytes), &mut |_| ()),
        Err(PruneError::BadOption { .. })
    ));
}

proptest! {
    #[test]
    fn moments_merged_are_moments_pooled(
        rows in proptest::collection::vec(proptest::array::uniform4(-2.0_f32..2.0), 0..40),
        cut in 0_usize..40,
    ) {
        let flat = |rows: &[[f32; 4]]| rows.iter().flatten().copied().collect::<Vec<f32>>();
        let taken = |rows: &[[f32; 4]]| {
            let mut moments = Moments::new(4);
            moments.add(&flat(rows));
            moments
        };
        let (left, right) = rows.split_at(cut.min(rows.len()));
        let mut merged = taken(left);
        merged.merge(&taken(right)).unwrap();
        let (merged_mean, pooled) = (merged.mean(0.0), taken(&rows).mean(0.0));
        prop_assert_eq!(merged.rows(), rows.len() as u64);
        for (i, j) in (0..4).flat_map(|i| (0..4).map(move |j| (i, j))) {
            prop_assert!((merged_mean[(i, j)] - pooled[(i, j)]).abs() < 1e-5);
        }
        prop_assert!(merged.merge(&Moments::new(3)).is_err());
    }
}
