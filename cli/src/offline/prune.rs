//! `secateur prune`: prunes a model to a budget and writes ordinary ONNX.

use std::path::PathBuf;

use secateur_common::{Budget, BudgetSpec, Cost, Limit, Metric, Micros};
use secateur_engine::Dataset;
use secateur_model::timing::Timing;
use secateur_model::{Graph, Tensor, onnx};
use secateur_prune::{Family, Kept, Method, Pattern, PruneError, Pruned, Refit, Request, Structure};
use serde_json::json;

use super::timed::{Device, TimeFlags, is_timed, prune_measured};
use super::{
    Latency, Measured, accuracy_of, accuracy_text, load, meter, points_text, prune_as, prune_failure,
    read_data, read_model, told,
};
use crate::budget::BudgetFlags;
use crate::failure::{Failure, Outcome};
use crate::files;
use crate::output::{Align, Output, percent, table};
use crate::progress::Progress;

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
    /// Of all weights, the share that the refit may give new values, small layers first; less makes smaller updates.
    #[arg(long, value_name = "SHARE", default_value_t = 1.0)]
    refit_share: f64,
    /// Leave it at the least squares: no tuning of all layers together on the dense model's answers
    #[arg(long)]
    no_tune: bool,
    #[command(flatten)]
    budget: BudgetFlags,
    #[command(flatten)]
    time: TimeFlags,
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
    let spec = args.budget.spec();
    let device = match is_timed(|metric| spec.get(metric).is_some()) {
        true => Some(args.time.device(&dense, &args.model)?),
        false => None,
    };
    let latency = device.as_ref().map(|device| device.latency(&dense, &args.model)).transpose()?;
    let before = measure(&dense, args, validation.as_ref(), "evaluate before")?;
    let before = before.taking(latency, device.as_ref(), &dense);
    let (budget, floor) = budget(spec, &before)?;
    let inputs = calibration.as_ref().map(Dataset::inputs);
    let mut progress = Progress::new();
    let (pruned, latency) = prune(args, &dense, inputs, &budget, (device.as_ref(), &mut progress))?;
    let seconds = progress.seconds();
    progress.done();
    let after = measure(&pruned.graph, args, validation.as_ref(), "evaluate after")?;
    let after = after.taking(latency, device.as_ref(), &pruned.graph);
    check_floor(floor, &after)?;
    files::write(&args.out, &onnx::write(&pruned.graph))?;

    let document = json!({
        "method": pruned.method.name(),
        "threshold": pruned.threshold,
        "kept": pruned.kept.iter().map(kept_view).collect::<Vec<_>>(),
        "device": device,
        "seconds": seconds,
        "before": before,
        "after": after,
    });
    output.print(&document, || {
        let method = pruned.method.name();
        let device = device.map_or(String::new(), |device| format!("\n{device}"));
        format!("{} by {method}\n{}{device}", args.out.display(), comparison(&before, &after, &pruned.kept))
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
fn budget(mut spec: BudgetSpec, dense: &Measured) -> Outcome<(Budget, Option<f64>)> {
    let floor = match spec.accuracy_min.take() {
        Some(Limit::Absolute(floor) | Limit::Relative(floor)) => Some(floor),
        None => None,
    };
    if floor.is_some() && dense.accuracy.is_none() {
        let what = "--accuracy-min cannot be judged without labelled data";
        return Err(Failure::input(what, "give --validation XY.npz"));
    }
    if spec.energy_per_inference.is_some() && dense.energy_per_inference_uj.is_none() {
        let what = "--energy cannot be judged: nothing says what energy an inference takes";
        return Err(Failure::input(what, "give --watts W, or a --device-class table with energy"));
    }
    let budget = spec.resolve(|metric| dense.metric(metric)).map_err(|metric| {
        let what =
            format!("a relative {metric} means nothing here: it is known only by measuring on a device");
        Failure::input(what, "give an absolute limit, or let a coordinator prune by what devices measure")
    })?;
    Ok((budget, floor))
}

/// Prunes, and tells the times that hold where time is limited.
fn prune(
    args: &PruneArgs,
    dense: &Graph,
    calibration: Option<Tensor>,
    budget: &Budget,
    (device, progress): (Option<&Device>, &mut Progress),
) -> Outcome<(Pruned, Option<Latency>)> {
    let method = args.method.unwrap_or_else(|| Method::default_for(calibration.as_ref()));
    let request = Request {
        method,
        structure: args.structure.unwrap_or_else(|| method.default_structure()),
        pattern: args.pattern,
        budget: budget.clone(),
        rate: args.rate,
        threshold: args.threshold,
        seed: args.seed,
        refit: Refit { share: args.refit_share, tune: !args.no_tune, ..Refit::WHOLE },
        calibration: calibration.as_ref(),
    };
    let Some(device) = device.filter(|device| device.is_here()) else {
        let timing = device.map(|device| &device.timing);
        let pruned = prune_as(dense, &request, meter(timing), (progress, ""));
        let pruned = pruned.map_err(|error| prune_failure(&error, &args.model))?;
        let latency = device.map(|device| device.latency(&pruned.graph, &args.model)).transpose()?;
        return Ok((pruned, latency));
    };
    let mut family = None;
    let (pruned, latency) = prune_measured(
        budget,
        device.timing,
        &args.model,
        &mut |timing| match request.structure {
            Structure::Channels => again(&mut family, dense, &request, (timing, progress)),
            Structure::Weights | Structure::Mixed => {
                prune_as(dense, &request, meter(Some(timing)), (progress, ""))
            }
        },
        &mut |graph| device.measured(graph, &args.model),
    )?;
    Ok((pruned, Some(latency)))
}

/// Prunes channels: what the first time took is kept for the next.
fn again(
    family: &mut Option<Family>,
    dense: &Graph,
    request: &Request<'_>,
    (timing, progress): (&Timing, &mut Progress),
) -> Result<Pruned, PruneError> {
    let mut told = |at| told(progress, "", at);
    let family = match family {
        Some(family) => family,
        None => {
            let (method, seed) = (request.method, request.seed);
            family.insert(Family::new(dense, method, seed, request.calibration, &mut told)?)
        }
    };
    family.to_budget(&request.budget, request.refit, meter(Some(timing)), &mut told)
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
    let mut pair = |name: &str, before: f64, after: f64, show: &dyn Fn(f64) -> String| {
        rows.push(vec![name.into(), show(before), show(after), percent(after, before)]);
    };
    if let (Some(before), Some(after)) = (&before.latency, &after.latency) {
        let show = |us: f64| Micros(us as u64).to_string();
        let mut row = |name: &str, of: fn(&Latency) -> Micros| {
            pair(name, of(before).get() as f64, of(after).get() as f64, &show);
        };
        row("latency p50", |latency| latency.latency_p50_us);
        row("latency p95", |latency| latency.latency_p95_us);
    }
    if let (Some(before), Some(after)) = (before.energy_per_inference_uj, after.energy_per_inference_uj) {
        pair("energy", before, after, &|uj| Metric::EnergyPerInference.show(uj));
    }
    if let (Some(before), Some(after)) = (&before.accuracy, &after.accuracy) {
        let lost = points_text(before, after);
        rows.push(vec!["accuracy".into(), accuracy_text(before), accuracy_text(after), lost]);
    }
    let kept: Vec<_> = kept.iter().map(|kept| format!("{} {}/{}", kept.group, kept.kept, kept.of)).collect();
    let channels =
        if kept.is_empty() { String::new() } else { format!("\nchannels kept: {}", kept.join(", ")) };
    format!("{}{channels}", table(&columns, &rows))
}
