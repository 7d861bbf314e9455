//! Every budget is met, or refused with the metric that binds.

#![allow(clippy::unwrap_used)]

mod small;

use secateur_common::{Budget, ByteCount, Metric};
use secateur_model::timing::{Timing, Work};
use secateur_model::{Graph, Tensor, cost, onnx};
use secateur_prune::{
    Family, Holder, Meter, Method, PruneError, Refit, Rung, SHARES, Sensitivity, Structure, prune,
};
use small::request;

fn lenet5() -> Graph {
    onnx::read(include_bytes!("../../examples/lenet5.onnx")).unwrap()
}

fn bytes(graph: &Graph) -> ByteCount {
    ByteCount(graph.initializers.values().map(|t| t.byte_len() as u64).sum())
}

#[test]
fn every_method_meets_several_budgets_at_once() {
    let dense = lenet5();
    let budget = Budget::default().with(Metric::Macs, 1.2e6).with(Metric::ModelBytes, 600_000.0);
    for method in [Method::Random, Method::Magnitude, Method::Threshold] {
        let pruned = prune(
            &dense,
            &request(method, Structure::Channels, budget.clone(), None),
            Meter::new(&bytes),
            &mut |_| (),
        )
        .unwrap();
        let cost = cost::analyse(&pruned.graph).unwrap().cost(bytes(&pruned.graph));
        assert_eq!(budget.violations(|metric| cost.metric(metric)), [], "{method:?}");
        assert!(pruned.kept.iter().all(|group| group.kept >= 1));
    }
}

#[test]
fn widths_fill_whole_lanes_where_time_is_limited_and_can() {
    let dense = lenet5();
    let us = Work::ALL.map(|work| if work == Work::Inference { 5.0 } else { 1e-3 });
    let timing = Timing { us, tail: 1.1, lanes: 8, energy: None };
    let meter = Meter { timing: Some(&timing), ..Meter::new(&bytes) };
    let limit = 0.4 * timing.p95_us(&dense).unwrap();
    let budget = Budget::default().with(Metric::LatencyP95, limit).with(Metric::Macs, 1.5e6);
    let prune = |budget| {
        prune(&dense, &request(Method::Magnitude, Structure::Channels, budget, None), meter, &mut |_| ())
    };
    let pruned = prune(budget.clone()).unwrap();
    assert!(timing.p95_us(&pruned.graph).unwrap() <= limit);
    assert!(
        pruned.kept.iter().all(|group| group.kept % 8 == 0 || group.kept == group.of),
        "{:?}",
        pruned.kept
    );
    match prune(budget.with(Metric::LatencyP95, 5.0)).unwrap_err() {
        PruneError::Infeasible { metric: Metric::LatencyP95, smallest, .. } => assert!(smallest > 5.0),
        other => panic!("{other}"),
    }
}

#[test]
fn an_impossible_budget_is_named() {
    let budget = Budget::default().with(Metric::Macs, 1e9).with(Metric::ModelBytes, 10.0);
    let refused = prune(
        &lenet5(),
        &request(Method::Magnitude, Structure::Channels, budget, None),
        Meter::new(&bytes),
        &mut |_| (),
    );
    match refused.unwrap_err() {
        PruneError::Infeasible { metric: Metric::ModelBytes, smallest, .. } => assert!(smallest > 10.0),
        other => panic!("{other}"),
    }
}

#[test]
fn weights_under_the_threshold_are_zero_and_no_others() {
    let dense = lenet5();
    let mut asked = request(Method::Threshold, Structure::Weights, Budget::default(), None);
    asked.threshold = Some(0.02);
    let pruned = prune(&dense, &asked, Meter::new(&bytes), &mut |_| ()).unwrap();
    for (name, before) in dense.initializers.iter().filter(|(_, t)| t.shape().len() > 1) {
        let Some((before, after)) = before.as_f32().zip(pruned.graph.initializers[name].as_f32()) else {
            continue;
        };
        assert!(before.iter().zip(after).all(|(b, a)| *a == if b.abs() < 0.02 { 0.0 } else { *b }), "{name}");
    }
}

#[test]
fn the_ladder_is_nested_and_falls() {
    let dense = lenet5();
    let family = Family::new(&dense, Method::Magnitude, 0, None, &mut |_| ()).unwrap();
    let rungs = family.rungs(&dense, &SHARES, Refit::WHOLE, &Holder::PLAIN, &mut |_| ()).unwrap();
    assert_eq!(rungs.len(), 7);
    for pair in rungs.windows(2) {
        assert!(pair[0].share > pair[1].share);
        assert!(pair[0].kept.iter().zip(&pair[1].kept).all(|(a, b)| a.kept >= b.kept));
    }
}

/// Where steps cost nothing all is refitted; where they do, less changes, and the answers are about as good.
#[test]
fn a_step_down_the_ladder_changes_as_little_as_it_may() {
    let dense = lenet5();
    let values = (0..64 * 784).map(|i: usize| ((i * i / 7 + i * 31) % 255) as f32 / 255.0).collect();
    let inputs = Tensor::f32([64, 1, 28, 28], values).unwrap();
    let family = Family::new(&dense, Method::Obs, 0, Some(&inputs), &mut |_| ()).unwrap();
    let bits = |graph: &Graph| -> Vec<u32> {
        let tensors = graph.initializers.values().filter_map(Tensor::as_f32);
        tensors.flatten().map(|value| value.to_bits()).collect()
    };
    // By value: what was kept is found among the weights above, what was fitted hardly ever.
    let changed = |above: &Graph, rung: &Graph| {
        let known: std::collections::HashSet<u32> = bits(above).into_iter().collect();
        let bits = bits(rung);
        bits.iter().filter(|bits| !known.contains(bits)).count() as f64 / bits.len() as f64
    };
    let dear = |above: &Graph, rung: &Graph| changed(above, rung) / 0.2;
    let rungs = |cost| {
        let holder = Holder { cost, ..Holder::PLAIN };
        family.rungs(&dense, &[0.7, 0.5, 0.3], Refit::SHIPPED, &holder, &mut |_| ()).unwrap()
    };
    let (plain, shipped) = (rungs(Holder::PLAIN.cost), rungs(&dear));
    let part = |rungs: &[Rung], at: usize| changed(&rungs[at].graph, &rungs[at + 1].graph);
    let answers = Sensitivity::new(&dense, &inputs).unwrap();
    for at in 0..3 {
        let [a, b] = [&plain, &shipped].map(|rungs| answers.divergence(&rungs[at + 1].graph).unwrap());
        assert!(part(&plain, at) > 0.5 && part(&shipped, at) < 0.4, "{}", plain[at + 1].label);
        assert!(b <= a + 0.015, "{a} {b}");
    }
}

#[test]
fn numbers_that_are_none_are_refused() {
    let mut broken = lenet5();
    let name =
        broken.initializers.iter().find(|(_, t)| t.as_f32().is_some()).map(|(n, _)| n.clone()).unwrap();
    broken.initializers.get_mut(&name).and_then(Tensor::as_f32_mut).unwrap()[0] = f32::NAN;
    let budget = Budget::default().with(Metric::Macs, 1e6);
    let refused = prune(
        &broken,
        &request(Method::Magnitude, Structure::Channels, budget, None),
        Meter::new(&bytes),
        &mut |_| (),
    );
    assert!(matches!(refused, Err(PruneError::NonFiniteWeight { .. })));
}

#[test]
fn the_refit_brings_the_logits_back() {
    let dense = lenet5();
    let values = (0..64 * 784).map(|i: usize| ((i * i / 7 + i * 31) % 255) as f32 / 255.0).collect();
    let inputs = Tensor::f32([64, 1, 28, 28], values).unwrap();
    let output = dense.outputs[0].name.as_str();
    let logits = |graph: &Graph| {
        let input = graph.inputs[0].name.as_str();
        secateur_model::eval::run(graph, &[(input, &inputs)], &[output]).unwrap()[output]
            .as_f32()
            .unwrap()
            .to_vec()
    };
    let expected = logits(&dense);
    let error = |method| {
        let budget = Budget::default().with(Metric::Macs, 1.1e6);
        let asked = request(method, Structure::Channels, budget, Some(&inputs));
        let pruned = prune(&dense, &asked, Meter::new(&bytes), &mut |_| ()).unwrap();
        logits(&pruned.graph).iter().zip(&expected).map(|(a, b)| (a - b) * (a - b)).sum::<f32>()
    };
    assert!(error(Method::Obs) < 0.2 * error(Method::Magnitude));
}
