//! `secateur evaluate`: a model's accuracy on labelled data.

use std::path::PathBuf;

use super::{accuracy_of, accuracy_text, load, read_data, read_model};
use crate::failure::Outcome;
use crate::output::Output;

/// `secateur evaluate`
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct EvaluateArgs {
    /// The model, ONNX
    model: PathBuf,
    /// Labelled inputs, .npz
    #[arg(long, value_name = "XY.npz")]
    data: PathBuf,
}

/// Runs it.
///
/// # Errors
/// Where a file cannot be read, or the data do not fit the model.
pub(crate) fn main(args: &EvaluateArgs, output: Output) -> Outcome {
    let (graph, data) = (read_model(&args.model)?, read_data(&args.data)?);
    let accuracy = accuracy_of(&load(&graph, &args.model)?, &args.model, &data, "evaluate")?;
    output.print(&accuracy, || {
        format!("{}, {} of {}", accuracy_text(&accuracy), accuracy.correct, accuracy.samples)
    })
}
