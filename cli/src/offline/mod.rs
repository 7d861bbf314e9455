//! The tools that need no coordinator: `inspect`, `prune`, `evaluate`, `bench`, `update`. Each reads files, calls a room
//! and prints.

pub(crate) mod bench;
pub(crate) mod evaluate;
pub(crate) mod inspect;
pub(crate) mod prune;
pub(crate) mod update;

use std::path::Path;

use secateur_common::{Accuracy, Cost, caps};
use secateur_engine::{Dataset, Session};
use secateur_model::{Graph, cost, onnx};
use serde::Serialize;

use crate::client::AccuracyView;
use crate::failure::{OrFail, Outcome};
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

/// The cost of `graph`, with the bytes that a device would store.
fn cost_of(graph: &Graph, path: &Path) -> Outcome<Cost> {
    let advice = "see `secateur inspect` for the layers whose shapes are known";
    let analysis = cost::analyse(graph).or_input(format!("cannot cost {}", path.display()), advice)?;
    Ok(analysis.cost(secateur_update::stored_bytes(graph)))
}

/// The accuracy of `graph` on all of `data`.
fn accuracy_of(graph: &Graph, path: &Path, data: &Dataset, stage: &str) -> Outcome<Accuracy> {
    let advice = "give a model that the engine runs (see `secateur inspect`)";
    let session = Session::load(graph).or_input(format!("cannot run {}", path.display()), advice)?;
    let mut progress = Progress::new();
    let advice = "give data of the model's input shape, with labels `y` that are classes of its output";
    let told = |done: usize, total: usize| progress.at(stage, done as u64, total as u64);
    secateur_engine::evaluate(&session, data, told)
        .or_input(format!("cannot evaluate {}", path.display()), advice)
}

/// Costs, and accuracy where there was data, under the contract's names.
#[derive(Debug, Serialize)]
struct Measured {
    #[serde(flatten)]
    cost: Cost,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    accuracy: Option<AccuracyView>,
}

/// An accuracy as people read it.
fn accuracy_text(accuracy: &AccuracyView) -> String {
    format!(
        "{:.2} % ({:.2}–{:.2}), {} of {}",
        accuracy.accuracy * 100.0,
        accuracy.accuracy_low * 100.0,
        accuracy.accuracy_high * 100.0,
        accuracy.correct,
        accuracy.samples
    )
}
