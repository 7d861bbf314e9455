//! `secateur prune`: prunes a model to a budget and writes ordinary ONNX.

use std::path::PathBuf;

use secateur_common::{Budget, Cost, Limit, Metric};
use secateur_engine::Dataset;
use secateur_model::{Graph, Tensor, onnx};
use secateur_prune::{Kept, Method, Pattern, Pruned, Request, Structure};
use serde_json::json;

use super::{
    Measured, accuracy_of, accuracy_text, load, points_text, prune_as, prune_failure, read_data, read_model,
};
use crate::budget::BudgetFlags;
use crate::failure::{Failure, Outcome};
use crate::files;
use crate::output::{Align, Output, percent, table};

/// `secateur prune`
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct PruneArgs {
    /// The model, ONNX
    model: PathBuf,
    /// Unlabelled inputs from which statistics are taken, .npz
    #[arg(long, value_name = "X.npz")]
    calibration: Option<PathBuf>,
    /// Labelled inputs by which accuracy is measured before and after, .npz
    #[arg(long, value_name = "XY.npz")]
    validation: Option<PathBuf>,
    /// How what goes is chosen: random, threshold, magnitude, activation or obs [default: obs with calibration data, else magnitude]
    #[arg(long)]
    method: Option<Method>,
    /// What is removed: channels or weights [default: weights for threshold, else channels]
    #[arg(long)]
    structure: Option<Structure>,
    /// Which single weights may go without others, for the method obs: single, 4x1 or 8x1 (so many outputs share which
    /// inputs they read), or 2:4 (two of each four inputs stay)
    #[arg(long, default_value = "single")]
    pattern: Pattern,
    /// The share to remove, 0 to 1, where no budget is given
    #[arg(long, value_name = "SHARE")]
    rate: Option<f64>,
    /// The absolute value under which weights go, for the method threshold
    #[arg(long, value_name = "VALUE")]
    threshold: Option<f32>,
    /// Seed of the method random
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Of a large layer's inputs, the share that the refit may give new weights; less makes smaller updates.
    #[arg(long, value_name = "SHARE", default_value_t = 1.0)]
    refit_share: f64,
    #[command(flatten)]
    budget: BudgetFlags,
    /// Where to write the pruned model, ONNX
    #[arg(short = 'o', long = "output", value_name = "OUT.onnx")]
    out: PathBuf,
}

/// Runs it.
///
/// # Errors
/// Where a file cannot be read or written, the budget cannot be met or the method does not fit.
pub(crate) fn main(args: &PruneArgs, output: Output) -> Outcome {
    let dense = read_model(&args.model)?;
    let calibration = args.calibration.as_deref().map(read_data).transpose()?;
    let validation = args.validation.as_deref().map(read_data).transpose()?;
    let before = measure(&dense, args, validation.as_ref(), "evaluate before")?;
    let (budget, floor) = budget(args, &before)?;
    let pruned = prune(args, &dense, calibration.as_ref().map(Dataset::inputs), budget)?;
    let after = measure(&pruned.graph, args, validation.as_ref(), "evaluate after")?;
    check_floor(floor, &after)?;
    files::write(&args.out, &onnx::write(&pruned.graph))?;

    let document = json!({
        "method": pruned.method.name(),
        "threshold": pruned.threshold,
        "kept": pruned.kept.iter().map(kept_view).collect::<Vec<_>>(),
        "before": before,
        "after": after,
    });
    output.print(&document, || {
        let method = pruned.method.name();
        format!("{} by {method}\n{}", args.out.display(), comparison(&before, &after, &pruned.kept))
    })
}

fn kept_view(kept: &Kept) -> serde_json::Value {
    json!({ "group": kept.group, "kept": kept.kept, "of": kept.of })
}

fn measure(graph: &Graph, args: &PruneArgs, validation: Option<&Dataset>, stage: &str) -> Outcome<Measured> {
    let accuracy = match validation {
        Some(data) => Some(accuracy_of(&load(graph, &args.model)?, &args.model, data, stage)?),
        None => None,
    };
    Ok(Measured { accuracy, ..Measured::cost(graph, &args.model)? })
}

/// The absolute budget for the pruner, and the accuracy to reach, which is judged here.
fn budget(args: &PruneArgs, dense: &Measured) -> Outcome<(Budget, Option<f64>)> {
    let mut spec = args.budget.spec();
    let floor = match spec.accuracy_min.take() {
        Some(Limit::Absolute(floor) | Limit::Relative(floor)) => Some(floor),
        None => None,
    };
    if floor.is_some() && dense.accuracy.is_none() {
        let what = "--accuracy-min cannot be judged without labelled data";
        return Err(Failure::input(what, "give --validation XY.npz"));
    }
    let budget = spec.resolve(|metric| dense.cost.metric(metric)).map_err(|metric| {
        let what =
            format!("a relative {metric} means nothing here: it is known only by measuring on a device");
        Failure::input(what, "give an absolute limit, or let a coordinator prune by what devices measure")
    })?;
    Ok((budget, floor))
}

fn prune(args: &PruneArgs, dense: &Graph, calibration: Option<Tensor>, budget: Budget) -> Outcome<Pruned> {
    let method = args.method.unwrap_or_else(|| Method::default_for(calibration.as_ref()));
    let request = Request {
        method,
        structure: args.structure.unwrap_or_else(|| method.default_structure()),
        pattern: args.pattern,
        budget,
        rate: args.rate,
        threshold: args.threshold,
        seed: args.seed,
        refit_share: args.refit_share,
        calibration: calibration.as_ref(),
    };
    prune_as(dense, &request, "").map_err(|error| prune_failure(&error, &args.model))
}

fn check_floor(floor: Option<f64>, pruned: &Measured) -> Outcome {
    match (floor, pruned.accuracy) {
        (Some(floor), Some(view)) if view.accuracy < floor => {
            let show = |value| Metric::AccuracyMin.show(value);
            let what = format!(
                "pruned to its budget the model reaches {}, not {}",
                show(view.accuracy),
                show(floor)
            );
            Err(Failure::work(what, "give larger limits or a lower --accuracy-min; nothing was written"))
        }
        _ => Ok(()),
    }
}

fn comparison(before: &Measured, after: &Measured, kept: &[Kept]) -> String {
    let columns = [("", Align::Left), ("before", Align::Right), ("after", Align::Right), ("", Align::Right)];
    let row = |name: &str, of: fn(&Cost) -> u64, show: fn(u64) -> String| {
        let (before, after) = (of(&before.cost), of(&after.cost));
        vec![name.into(), show(before), show(after), percent(after as f64, before as f64)]
    };
    let bytes = |value| secateur_common::ByteCount(value).to_string();
    let mut rows = vec![
        row("MACs", |cost| cost.macs.get(), |value| secateur_common::MacCount(value).to_string()),
        row("parameters", |cost| cost.parameters, |value| value.to_string()),
        row("nonzero", |cost| cost.nonzero, |value| value.to_string()),
        row("bytes as stored", |cost| cost.model_bytes.get(), bytes),
        row("peak memory", |cost| cost.peak_memory_bytes.get(), bytes),
    ];
    if let (Some(before), Some(after)) = (&before.accuracy, &after.accuracy) {
        let lost = points_text(before, after);
        rows.push(vec!["accuracy".into(), accuracy_text(before), accuracy_text(after), lost]);
    }
    let kept: Vec<_> = kept.iter().map(|kept| format!("{} {}/{}", kept.group, kept.kept, kept.of)).collect();
    let channels =
        if kept.is_empty() { String::new() } else { format!("\nchannels kept: {}", kept.join(", ")) };
    format!("{}{channels}", table(&columns, &rows))
}
