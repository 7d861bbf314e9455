//! `secateur update`: makes, applies and explains updates.

use std::path::{Path, PathBuf};

use secateur_common::{ByteCount, Generation, caps};
use secateur_model::{canonical, onnx};
use secateur_update::{Manifest, TensorUpdate};
use serde_json::json;

use super::read_model;
use crate::failure::{OrFail, Outcome};
use crate::files;
use crate::output::{Align, Output, percent, table};

/// `secateur update`
#[derive(clap::Subcommand, Clone, Debug)]
pub(crate) enum UpdateCommand {
    /// Make the update that turns one model into another
    Make {
        /// What the device holds, ONNX; left out for a full update
        #[arg(long, value_name = "OLD.onnx")]
        from: Option<PathBuf>,
        /// What it shall hold, ONNX
        #[arg(long, value_name = "NEW.onnx")]
        to: PathBuf,
        /// Where to write the update
        #[arg(short = 'o', long = "output", value_name = "FILE")]
        out: PathBuf,
        /// Reproduce the new model bit for bit
        #[arg(long, conflicts_with = "max_error")]
        exact: bool,
        /// The error allowed in each tensor: normalised mean squared error
        #[arg(long, value_name = "NMSE", default_value_t = DEFAULT_MAX_ERROR, value_parser = error_bound)]
        max_error: f64,
        /// The generation to write into it
        #[arg(long, default_value_t = 1)]
        generation: u64,
    },
    /// Apply an update
    Apply {
        /// What the update starts from, ONNX; left out for a full update
        #[arg(long, value_name = "OLD.onnx")]
        from: Option<PathBuf>,
        /// The update
        file: PathBuf,
        /// Where to write the new model, ONNX
        #[arg(short = 'o', long = "output", value_name = "NEW.onnx")]
        out: PathBuf,
    },
    /// Explain an update, tensor by tensor
    Show {
        /// The update
        file: PathBuf,
    },
}

/// The default of `--max-error`: weights at 27 dB over the error, which the accuracy of the example's models does not
/// feel.
const DEFAULT_MAX_ERROR: f64 = 2e-3;

fn error_bound(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if (0.0..1.0).contains(&value) => Ok(value),
        _ => Err("a number from 0 (exact) to less than 1".into()),
    }
}

/// Runs it.
///
/// # Errors
/// Where a file cannot be read or written, or the update does not fit.
pub(crate) fn main(command: &UpdateCommand, output: Output) -> Outcome {
    match command {
        UpdateCommand::Make { from, to, out, exact, max_error, generation } => {
            let max_error = if *exact { 0.0 } else { *max_error };
            make(from.as_deref(), to, out, max_error, Generation(*generation), output)
        }
        UpdateCommand::Apply { from, file, out } => apply(from.as_deref(), file, out, output),
        UpdateCommand::Show { file } => show(file, output),
    }
}

fn make(
    from: Option<&Path>,
    to: &Path,
    out: &Path,
    max_error: f64,
    generation: Generation,
    output: Output,
) -> Outcome {
    let base = from.map(read_model).transpose()?;
    let target = secateur_update::publish(&read_model(to)?, max_error);
    let doing = format!("cannot make the update to {}", to.display());
    let advice = "give models of at most the sizes in docs/update-format.md";
    let bytes = secateur_update::encode(base.as_ref(), &target, generation).or_input(doing, advice)?;
    files::write(out, &bytes)?;
    let full = secateur_update::stored_bytes(&target);
    let document = json!({
        "bytes": bytes.len(),
        "full_bytes": full.get(),
        "base": base.as_ref().map(canonical::variant_id),
        "target": canonical::variant_id(&target),
        "max_error": max_error,
    });
    output.print(&document, || {
        let size = ByteCount(bytes.len() as u64);
        let share = percent(bytes.len() as f64, full.get() as f64);
        format!("{}: {size} ({} bytes), {share} of a full update of {full}", out.display(), bytes.len())
    })
}

fn apply(from: Option<&Path>, file: &Path, out: &Path, output: Output) -> Outcome {
    let base = from.map(read_model).transpose()?;
    let bytes = files::read(file, caps::UPDATE_BYTES)?;
    let doing = format!("cannot apply {}", file.display());
    let advice =
        "give the model that the update was made from (see `secateur update show`), and an undamaged update";
    let applied = secateur_update::apply(base.as_ref(), &bytes).or_input(doing, advice)?;
    let model = onnx::write(&applied.graph);
    files::write(out, &model)?;
    let target = applied.manifest.target;
    let document =
        json!({ "bytes": model.len(), "target": target, "generation": applied.manifest.generation });
    output.print(&document, || {
        format!("{}: {} as ONNX, variant {target}", out.display(), ByteCount(model.len() as u64))
    })
}

fn show(file: &Path, output: Output) -> Outcome {
    let bytes = files::read(file, caps::UPDATE_BYTES)?;
    let doing = format!("cannot read {}", file.display());
    let manifest = Manifest::read(&bytes).or_input(doing, "give an update made by `secateur update make`")?;
    let tensors: Vec<_> = manifest.tensors().collect();
    let tensor = |tensor: &TensorUpdate| {
        json!({
            "operation": tensor.operation.to_string(),
            "gathered": tensor.gathered,
            "from_base": tensor.from_base,
            "elements": tensor.elements,
            "nonzero_before": tensor.nonzeros.before,
            "nonzero_after": tensor.nonzeros.after,
            "bytes": tensor.bytes,
            "bits_per_weight": tensor.bits_per_weight(),
        })
    };
    let document = json!({
        "bytes": bytes.len(),
        "base": manifest.base,
        "target": manifest.target,
        "generation": manifest.generation,
        "skeleton_bytes": manifest.skeleton_bytes(),
        "index_bytes": manifest.index_bytes(),
        "tensors": tensors.iter().map(tensor).collect::<Vec<_>>(),
    });
    output.print(&document, || {
        let base = manifest.base.map_or("nothing".to_owned(), |base| base.to_string());
        let (target, generation) = (manifest.target, manifest.generation);
        let size = ByteCount(bytes.len() as u64);
        let (skeleton, index) = (ByteCount(manifest.skeleton_bytes()), ByteCount(manifest.index_bytes()));
        format!(
            "from {base}\nto   {target}\ngeneration {generation}, {size}: skeleton {skeleton}, kept indices {index}, \
             tensors in the order of their names\n{}",
            tensor_table(&tensors)
        )
    })
}

fn tensor_table(tensors: &[TensorUpdate]) -> String {
    let columns = [
        ("tensor", Align::Right),
        ("operation", Align::Left),
        ("elements", Align::Right),
        ("nonzeros", Align::Right),
        ("bytes", Align::Right),
        ("bits a weight", Align::Right),
    ];
    let row = |(index, tensor): (usize, &TensorUpdate)| {
        let gather = if tensor.gathered { "gather, " } else { "" };
        let context = if tensor.from_base && tensor.bytes > 0 { " in context" } else { "" };
        vec![
            index.to_string(),
            format!("{gather}{}{context}", tensor.operation),
            tensor.elements.to_string(),
            format!("{} → {}", tensor.nonzeros.before, tensor.nonzeros.after),
            tensor.bytes.to_string(),
            format!("{:.2}", tensor.bits_per_weight()),
        ]
    };
    table(&columns, &tensors.iter().enumerate().map(row).collect::<Vec<_>>())
}
