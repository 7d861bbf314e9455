//! `secateur bench`: the time of single inferences on this machine.

use std::path::PathBuf;

use secateur_engine::Session;
use serde_json::json;

use super::{latencies_of, load, read_model, steps};
use crate::failure::{Failure, OrFail, Outcome};
use crate::output::Output;

/// `secateur bench`
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct BenchArgs {
    /// The model, ONNX
    model: PathBuf,
    /// How many inferences are timed
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    runs: u32,
    /// Threads of one inference; the engine uses one
    #[arg(long, default_value_t = 1)]
    threads: u16,
    /// What runs it: the compiled plan where it covers the model, or tract
    #[arg(long, value_enum, default_value_t = Engine::Auto)]
    engine: Engine,
    /// Tell where the time goes, step by step
    #[arg(long)]
    steps: bool,
}

/// What may run a model.
#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
enum Engine {
    Auto,
    Tract,
}

/// Runs that each step is timed in.
const STEP_RUNS: usize = 500;

/// Runs it.
///
/// # Errors
/// Where the model cannot be read or run.
pub(crate) fn main(args: &BenchArgs, output: Output) -> Outcome {
    if args.threads != 1 {
        let what = format!("cannot bench with {} threads: an inference runs on one", args.threads);
        return Err(Failure::input(what, "leave --threads out, or give 1"));
    }
    let graph = read_model(&args.model)?;
    let session = match args.engine {
        Engine::Auto => load(&graph, &args.model)?,
        Engine::Tract => Session::load_on_tract(&graph)
            .or_input(format!("cannot run {} on tract", args.model.display()), "leave --engine out")?,
    };
    let profile = args.steps.then(|| session.profile(STEP_RUNS)).flatten();
    let latencies = latencies_of(&session, &args.model, args.runs)?;
    let [p50, p95, p99] = [0.5, 0.95, 0.99].map(|share| latencies.quantile_us(share));
    let document = json!({
        "runs": latencies.count(),
        "threads": args.threads,
        "backend": session.backend().to_string(),
        "fallback_reason": session.fallback_reason(),
        "memory_bytes": session.memory_bytes(),
        "latency_p50_us": p50,
        "latency_p95_us": p95,
        "latency_p99_us": p99,
        "profile": profile.as_ref().map(steps::document),
    });
    output.print(&document, || {
        let (runs, backend) = (latencies.count(), session.backend());
        let line =
            format!("p50 {p50:.1} µs, p95 {p95:.1} µs, p99 {p99:.1} µs over {runs} inferences on {backend}");
        profile.as_ref().map_or_else(|| line.clone(), |profile| format!("{}\n\n{line}", steps::text(profile)))
    })
}
