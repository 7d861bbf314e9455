//! `secateur bench`: the time of single inferences on this machine.

use std::path::PathBuf;

use serde_json::json;

use super::{latency_of, load, read_model};
use crate::failure::{Failure, Outcome};
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
}

/// Runs it.
///
/// # Errors
/// Where the model cannot be read or run.
pub(crate) fn main(args: &BenchArgs, output: Output) -> Outcome {
    if args.threads != 1 {
        let what = format!("cannot bench with {} threads: an inference runs on one", args.threads);
        return Err(Failure::input(what, "leave --threads out, or give 1"));
    }
    let session = load(&read_model(&args.model)?, &args.model)?;
    let latency = latency_of(&session, &args.model, args.runs)?;
    let document = json!({
        "runs": latency.count,
        "threads": args.threads,
        "backend": session.backend().to_string(),
        "fallback_reason": session.fallback_reason(),
        "memory_bytes": session.memory_bytes(),
        "latency_p50_us": latency.p50.get(),
        "latency_p95_us": latency.p95.get(),
        "latency_p99_us": latency.p99.get(),
    });
    output.print(&document, || {
        let (p50, p95, p99, runs) = (latency.p50, latency.p95, latency.p99, latency.count);
        format!("p50 {p50}, p95 {p95}, p99 {p99} over {runs} inferences on {}", session.backend())
    })
}
