//! `secateur bench`: the time of single inferences on this machine.

use std::path::{Path, PathBuf};

use secateur_agent::sensors::{Sensors, process_peak};
use secateur_engine::Session;
use secateur_model::Graph;
use secateur_model::timing::Energy;
use serde_json::json;

use super::calibrate::calibrate;
use super::table::Table;
use super::timed::LANES;
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
    /// Also measure what inferences take here, on the model, cuts of it and single layers, and write the table of this
    /// class of device for `secateur prune --device-class`: JSON, or TOML by the name
    #[arg(long, value_name = "TABLE")]
    table: Option<PathBuf>,
    /// The name of the class, in the table
    #[arg(long, value_name = "NAME", default_value = "this machine", requires = "table")]
    name: String,
    /// Watts that an inference takes while it runs, for the table
    #[arg(long, value_name = "W", requires = "table")]
    watts: Option<f64>,
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
    let sensors = Sensors::start();
    let latencies = latencies_of(&session, &args.model, args.runs)?;
    let sensed = sensors.sensed(latencies.count());
    let [p50, p95, p99] = [0.5, 0.95, 0.99].map(|share| latencies.quantile_us(share));
    let table = args.table.as_deref().map(|path| write_table(args, &graph, path)).transpose()?;
    let document = json!({
        "runs": latencies.count(),
        "threads": args.threads,
        "backend": session.backend().to_string(),
        "fallback_reason": session.fallback_reason(),
        "memory_bytes": session.memory_bytes(),
        "process_peak_bytes": process_peak(),
        "sensed": sensed,
        "latency_p50_us": p50,
        "latency_p95_us": p95,
        "latency_p99_us": p99,
        "profile": profile.as_ref().map(steps::document),
        "table": table,
    });
    output.print(&document, || {
        let (runs, backend) = (latencies.count(), session.backend());
        let steps = profile.as_ref().map_or(String::new(), |profile| format!("{}\n\n", steps::text(profile)));
        let table = args.table.as_ref().map_or(String::new(), |path| format!("\n{}", path.display()));
        format!(
            "{steps}p50 {p50:.1} µs, p95 {p95:.1} µs, p99 {p99:.1} µs over {runs} inferences on {backend}{table}"
        )
    })
}

fn write_table(args: &BenchArgs, model: &Graph, path: &Path) -> Outcome<Table> {
    let energy = args.watts.map(Energy::Watts);
    let table = Table::new(&args.name, &calibrate(model, &args.model, LANES.into(), energy)?.timing);
    table.timing()?; // what cannot be read again is not written
    table.write(path)?;
    Ok(table)
}
