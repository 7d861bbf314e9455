//! `secateur bench`: the time of single inferences on this machine.

use std::path::{Path, PathBuf};

use secateur_model::Graph;
use secateur_model::timing::Energy;
use serde_json::json;

use super::calibrate::calibrate;
use super::table::Table;
use super::timed::LANES;
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

/// Runs it.
///
/// # Errors
/// Where the model cannot be read or run.
pub(crate) fn main(args: &BenchArgs, output: Output) -> Outcome {
    if args.threads != 1 {
        let what = format!("cannot bench with {} threads: an inference runs on one", args.threads);
        return Err(Failure::input(what, "leave --threads out, or give 1"));
    }
    let model = read_model(&args.model)?;
    let session = load(&model, &args.model)?;
    let latency = latency_of(&session, &args.model, args.runs)?;
    let table = args.table.as_deref().map(|path| write_table(args, &model, path)).transpose()?;
    let document = json!({
        "runs": latency.count,
        "threads": args.threads,
        "backend": session.backend().to_string(),
        "latency_p50_us": latency.p50.get(),
        "latency_p95_us": latency.p95.get(),
        "latency_p99_us": latency.p99.get(),
        "table": table,
    });
    output.print(&document, || {
        let (p50, p95, p99, runs) = (latency.p50, latency.p95, latency.p99, latency.count);
        let table = args.table.as_ref().map_or(String::new(), |path| format!("\n{}", path.display()));
        format!("p50 {p50}, p95 {p95}, p99 {p99} over {runs} inferences on {}{table}", session.backend())
    })
}

fn write_table(args: &BenchArgs, model: &Graph, path: &Path) -> Outcome<Table> {
    let energy = args.watts.map(Energy::Watts);
    let table = Table::new(&args.name, &calibrate(model, &args.model, LANES.into(), energy)?.timing);
    table.timing()?; // what cannot be read again is not written
    table.write(path)?;
    Ok(table)
}
