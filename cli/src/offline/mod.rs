//! The tools that need no coordinator: `inspect`, `prune`, `compare`, `evaluate`, `bench`, `update`. Each reads files,
//! calls a room and prints.

pub(crate) mod bench;
mod calibrate;
pub(crate) mod compare;
pub(crate) mod evaluate;
pub(crate) mod inspect;
pub(crate) mod prune;
mod steps;
mod table;
mod timed;
pub(crate) mod update;

use std::path::Path;

use secateur_common::{Cost, LatencySummary, Metric, Micros, caps};
use secateur_engine::{Dataset, Latencies, Session};
use secateur_model::timing::Timing;
use secateur_model::{Graph, cost, onnx};
use secateur_prune::{Meter, PruneError, Pruned, Request};
use serde::Serialize;

use self::timed::Device;
use crate::client::AccuracyView;
use crate::failure::{Failure, OrFail, Outcome, chain};
use crate::files;
use crate::progress::Progress;

/// The model in `path`.
fn read_model(path: &Path) -> Outcome<Graph> {
    let bytes = files::read(path, caps::MODEL_BYTES)?;
    let advice = "give an ONNX file that holds its weights itself; export it again if it is damaged";
    onnx::read(&bytes).or_input(format!("cannot read the model {}", path.display()), advice)
}

/// The data in `path`.
fn read_data(path: &Path) -> Outcome<Dataset> {
    let bytes = files::read(path, caps::DATASET_BYTES)?;
    let advice = "give a .npz with `x` float32 or uint8 [N, …] and, for labels, `y` int64 [N]";
    Dataset::from_npz(&bytes).or_input(format!("cannot read the data {}", path.display()), advice)
}

/// What runs `graph`.
fn load(graph: &Graph, path: &Path) -> Outcome<Session> {
    let advice = "give a model that the engine runs (see `secateur inspect`)";
    Session::load(graph).or_input(format!("cannot run {}", path.display()), advice)
}

/// The accuracy of `session` on all of `data`.
fn accuracy_of(session: &Session, path: &Path, data: &Dataset, stage: &str) -> Outcome<AccuracyView> {
    let mut progress = Progress::new();
    let advice = "give data of the model's input shape, with labels `y` that are classes of its output";
    let told = |done: usize, total: usize| progress.at(stage, done as u64, total as u64);
    let accuracy = secateur_engine::evaluate(session, data, told);
    Ok(accuracy.or_input(format!("cannot evaluate {}", path.display()), advice)?.into())
}

/// The times of `runs` single inferences.
fn latency_of(session: &Session, path: &Path, runs: u32) -> Outcome<LatencySummary> {
    Ok(latencies_of(session, path, runs)?.summary())
}

/// Times `runs` inferences.
///
/// # Errors
/// Where one fails.
fn latencies_of(session: &Session, path: &Path, runs: u32) -> Outcome<Latencies> {
    let advice = "give a model that the engine runs (see `secateur inspect`)";
    secateur_engine::latencies(session, runs as usize)
        .or_work(format!("cannot run {}", path.display()), advice)
}

/// Costs, with the bytes that a device would store, and what was measured, under the contract's names.
#[derive(Clone, Copy, Debug, Serialize)]
struct Measured {
    #[serde(flatten)]
    cost: Cost,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    accuracy: Option<AccuracyView>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    latency: Option<Latency>,
    /// Microjoules of one inference.
    #[serde(skip_serializing_if = "Option::is_none")]
    energy_per_inference_uj: Option<f64>,
}

/// The times of single inferences under the contract's names.
#[derive(Clone, Copy, Debug, Serialize)]
struct Latency {
    latency_p50_us: Micros,
    latency_p95_us: Micros,
}

impl Latency {
    /// Times that a table told.
    fn of_us(p50: f64, p95: f64) -> Self {
        Self { latency_p50_us: Micros(p50.round() as u64), latency_p95_us: Micros(p95.round() as u64) }
    }
}

impl From<LatencySummary> for Latency {
    fn from(summary: LatencySummary) -> Self {
        Self { latency_p50_us: summary.p50, latency_p95_us: summary.p95 }
    }
}

impl Measured {
    /// With the times of `graph`, and what energy they take on `device`.
    fn taking(self, latency: Option<Latency>, device: Option<&Device>, graph: &Graph) -> Self {
        let energy_per_inference_uj =
            device.zip(latency).and_then(|(device, at)| device.energy_uj(graph, &at));
        Self { latency, energy_per_inference_uj, ..self }
    }

    /// The value of a metric, where it was computed or measured.
    fn metric(&self, metric: Metric) -> Option<f64> {
        match metric {
            Metric::LatencyP95 => self.latency.map(|latency| latency.latency_p95_us.get() as f64),
            Metric::EnergyPerInference => self.energy_per_inference_uj,
            _ => self.cost.metric(metric),
        }
    }

    /// Costs `graph`; nothing is run.
    fn cost(graph: &Graph, path: &Path) -> Outcome<Self> {
        let advice = "see `secateur inspect` for the layers whose shapes are known";
        let analysis = cost::analyse(graph).or_input(format!("cannot cost {}", path.display()), advice)?;
        let cost = analysis.cost(secateur_update::stored_bytes(graph));
        Ok(Self { cost, accuracy: None, latency: None, energy_per_inference_uj: None })
    }
}

/// Prunes; `stage` comes before each stage that is told.
fn prune_as(
    dense: &Graph,
    request: &Request<'_>,
    meter: Meter<'_>,
    (progress, stage): (&mut Progress, &str),
) -> Result<Pruned, PruneError> {
    secateur_prune::prune(dense, request, meter, &mut |at| told(progress, stage, at))
}

fn told(progress: &mut Progress, stage: &str, at: secateur_prune::Progress) {
    progress.at(&format!("{stage}{}", at.stage), at.done as u64, at.total as u64);
}

/// What tells how many bytes a device would store.
fn meter(timing: Option<&Timing>) -> Meter<'_> {
    Meter { timing, ..Meter::new(&secateur_update::stored_bytes) }
}

/// What to tell of a pruning that failed.
fn prune_failure(error: &PruneError, path: &Path) -> Failure {
    let what = format!("cannot prune {}: {}", path.display(), chain(error));
    match error {
        PruneError::OracleFailed { .. } => Failure::work(what, "report this model as a defect"),
        PruneError::Infeasible { .. } => {
            Failure::input(what, "give a larger limit, or another method or structure")
        }
        _ => {
            Failure::input(what, "see `secateur prune --help`, and `secateur inspect` for what can be pruned")
        }
    }
}

/// An accuracy with its interval, in per cent.
fn accuracy_text(accuracy: &AccuracyView) -> String {
    let percent =
        [accuracy.accuracy, accuracy.accuracy_low, accuracy.accuracy_high].map(|share| share * 100.0);
    format!("{:.2} % ({:.2}–{:.2})", percent[0], percent[1], percent[2])
}

/// By how many points an accuracy changed.
fn points_text(before: &AccuracyView, after: &AccuracyView) -> String {
    format!("{:+.2} points", (after.accuracy - before.accuracy) * 100.0)
}
