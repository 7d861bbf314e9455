//! What it costs to go down a ladder, rung by rung: each rung's full bytes, the bytes of the update from the rung above, and
//! how well the rung answers. `cargo run --release -p secateur-coordinator --example ladder -- MODEL.onnx CALIBRATION.npz
//! TEST.npz`. Rungs are built and published as the coordinator does.
#![allow(clippy::print_stdout)] // a bench prints

use secateur_common::Generation;
use secateur_coordinator::{Bounds, Precision, step_cost};
use secateur_engine::{Dataset, Session, evaluate};
use secateur_model::{Graph, onnx};
use secateur_prune::{Family, Holder, Method, Refit, SHARES};
use secateur_update::encode;

/// As the coordinator's defaults.
const BOUNDS: Bounds = Bounds { nmse: 1e-3, divergence: 2e-3 };

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [model, calibration, test] = &arguments[..] else {
        return Err("give MODEL.onnx CALIBRATION.npz TEST.npz".into());
    };
    let dense = onnx::read(&std::fs::read(model)?)?;
    let inputs = Dataset::from_npz(&std::fs::read(calibration)?)?.inputs();
    let test = Dataset::from_npz(&std::fs::read(test)?)?;
    let family = Family::new(&dense, Method::Obs, 1, Some(&inputs), &mut |_| ())?;
    let precision = std::cell::RefCell::new(Precision::default());
    let settle =
        |graph: &Graph, before: Option<&Graph>| precision.borrow_mut().settle(graph, before, &inputs, BOUNDS);
    let holder = Holder { settle: &settle, cost: &step_cost };
    let rungs = family.rungs(&dense, &SHARES, Refit::SHIPPED, &holder, &mut |_| ())?;
    println!("| rung | full bytes | from the rung above | share | accuracy |\n|---|---|---|---|---|");
    let mut above: Option<Graph> = None;
    for rung in rungs {
        let graph = rung.graph;
        let full = encode(None, &graph, Generation(1))?.len();
        let step = above.as_ref().map(|above| encode(Some(above), &graph, Generation(1))).transpose()?;
        let accuracy = evaluate(&Session::load(&graph)?, &test, |_, _| {})?;
        let answers = 100.0 * accuracy.correct as f64 / accuracy.samples as f64;
        match step {
            None => println!("| {} | {full} | | | {answers:.2} |", rung.label),
            Some(step) => {
                let share = 100.0 * step.len() as f64 / full as f64;
                println!("| {} | {full} | {} | {share:.1} % | {answers:.2} |", rung.label, step.len());
            }
        }
        above = Some(graph);
    }
    Ok(())
}
