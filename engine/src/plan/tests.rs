//! The plan against the reference interpreter.

use proptest::prelude::*;
use secateur_common::probe_input;
use secateur_model::{Graph, Tensor, eval, onnx};

use super::Plan;
use crate::kernels::Isa;

/// The largest difference between plan and interpreter on one input, in parts of the largest output.
fn difference(graph: &Graph, isa: Isa, seed: u64) -> f32 {
    let plan = Plan::compile_for(graph, isa).unwrap();
    let shape = secateur_model::shape::input_shape(&graph.inputs[0], 1, &Default::default()).unwrap();
    let input = probe_input(seed, shape.iter().product());
    let mut arena = plan.arena();
    plan.run(&mut arena, &input).unwrap();
    // Twice: the second run finds what the first left in memory.
    let found = plan.run(&mut arena, &input).unwrap();
    let x = Tensor::f32(shape, input).unwrap();
    let output = graph.outputs[0].name.as_str();
    let expected = eval::run(graph, &[(&graph.inputs[0].name, &x)], &[output]).unwrap();
    let expected = expected[output].as_f32().unwrap();
    assert_eq!(found.len(), expected.len());
    let scale = expected.iter().fold(1e-3f32, |largest, x| largest.max(x.abs()));
    found.iter().zip(expected).fold(0f32, |worst, (a, b)| worst.max((a - b).abs() / scale))
}

#[test]
fn the_examples_run_as_the_interpreter_has_it() {
    let graph = onnx::read(include_bytes!("../../../examples/lenet5.onnx")).unwrap();
    for isa in Isa::available() {
        assert!(difference(&graph, isa, 1) < 1e-5, "{isa:?}");
    }
}

#[test]
#[ignore]
fn anchors() {
    for path in std::env::var("MODELS").unwrap().split(' ') {
        let graph = onnx::read(&std::fs::read(path).unwrap()).unwrap();
        for isa in Isa::available() {
            println!("{path} {isa:?} {:e}", difference(&graph, isa, 1));
        }
    }
}

#[test]
#[ignore]
fn profile() {
    for path in std::env::var("MODELS").unwrap().split(' ') {
        let graph = onnx::read(&std::fs::read(path).unwrap()).unwrap();
        let plan = Plan::compile(&graph).unwrap();
        let mut arena = plan.arena();
        let input = probe_input(1, plan.input_len);
        println!("{path}");
        let mut best = vec![u128::MAX; plan.steps.len()];
        for _ in 0..2000 {
            for (step, best) in plan.steps.iter().zip(&mut best) {
                let start = std::time::Instant::now();
                step.run(plan.isa, &input, &mut arena.0);
                *best = (*best).min(start.elapsed().as_nanos());
            }
        }
        for (step, best) in plan.steps.iter().zip(best) {
            let name = match &step.kind {
                super::steps::Kind::Conv { kernel, .. } => kernel.describe(),
                super::steps::Kind::Load(_) => "load".into(),
                super::steps::Kind::Dense { .. } => "dense".into(),
                super::steps::Kind::Phases { .. } => "phases".into(),
                super::steps::Kind::Pool { .. } => "pool".into(),
                super::steps::Kind::Global { .. } => "global".into(),
                _ => "other".into(),
            };
            let macs = match &step.kind { super::steps::Kind::Conv { kernel, .. } => kernel.work(), _ => 0 };
            println!("  {best:6} ns {:?} {name} {:.1} GFLOP/s", step.to.layout.shape, 2.0 * macs as f64 / best as f64);
        }
    }
}
