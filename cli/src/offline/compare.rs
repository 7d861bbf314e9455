//! `secateur compare`: prunes one model by several methods to several points and measures what each costs.

use std::path::PathBuf;

use secateur_common::{Budget, Limit, Metric};
use secateur_engine::Dataset;
use secateur_model::{Graph, Tensor};
use secateur_prune::{Method, Pattern, PruneError, Refit, Request, Structure};
use serde::Serialize;
use serde_json::json;

use super::{
    Latency, Measured, accuracy_of, accuracy_text, latency_of, load, meter, points_text, prune_as,
    prune_failure, read_data, read_model,
};
use crate::client::AccuracyView;
use crate::failure::{Failure, Outcome, chain};
use crate::files;
use crate::output::{Align, Output, percent, table};
use crate::plot::{Line, Plot, Point, svg};
use crate::progress::Progress;

/// Points in one comparison.
const POINTS: usize = 32;

/// `secateur compare`
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct CompareArgs {
    /// The model, ONNX
    model: PathBuf,
    /// Unlabelled inputs from which statistics are taken, .npz
    #[arg(long, value_name = "X.npz")]
    calibration: Option<PathBuf>,
    /// Labelled inputs by which accuracy is measured, .npz
    #[arg(long, value_name = "XY.npz")]
    validation: PathBuf,
    /// The methods, separated by commas [default: all, see `secateur prune --help`]
    #[arg(long, value_delimiter = ',', value_name = "M,…")]
    methods: Vec<Method>,
    /// The multiply-accumulates that may be left, separated by commas: 50%, 3x (a third) or 1.5M
    #[arg(long, value_delimiter = ',', value_name = "LIMIT,…", default_value = "75%,50%,25%",
          value_parser = |text: &str| Metric::Macs.parse(text))]
    points: Vec<Limit>,
    /// What is removed: channels, weights or mixed [default: weights for threshold, else channels]
    #[arg(long)]
    structure: Option<Structure>,
    /// Seed of the method random
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// How many inferences are timed for each variant, on one thread
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    runs: u32,
    /// Draw accuracy against cost, one line for each method, as SVG
    #[arg(long, value_name = "OUT.svg")]
    plot: Option<PathBuf>,
    /// What the plot takes as cost
    #[arg(long, value_enum, default_value_t = Abscissa::Macs)]
    plot_by: Abscissa,
}

/// What a plot's horizontal axis shows.
#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
enum Abscissa {
    /// The share of the dense multiply-accumulates that is left
    Macs,
    /// The median time of one inference
    Latency,
}

/// One variant: its measures, or why there is none.
#[derive(Debug, Serialize)]
struct Row {
    method: &'static str,
    structure: &'static str,
    /// The share of the dense MACs that was allowed.
    point: f64,
    /// The share that is left.
    #[serde(skip_serializing_if = "Option::is_none")]
    macs_share: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    after: Option<Measured>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// Runs it.
///
/// # Errors
/// Where a file cannot be read or written, or the data do not fit the model. A method that cannot reach a point is a row
/// with its reason.
pub(crate) fn main(args: &CompareArgs, output: Output) -> Outcome {
    if args.points.len() > POINTS {
        let what = format!("cannot compare at {} points: the limit is {POINTS}", args.points.len());
        return Err(Failure::input(what, "give fewer --points"));
    }
    let dense = read_model(&args.model)?;
    let calibration = args.calibration.as_deref().map(read_data).transpose()?;
    let calibration = calibration.as_ref().map(Dataset::inputs);
    let validation = read_data(&args.validation)?;
    let before = measure(args, &dense, &validation, "dense")?;
    let mut rows = Vec::new();
    for method in methods(args) {
        for &point in &args.points {
            rows.push(row(args, &dense, calibration.as_ref(), &validation, (method, point), &before)?);
        }
    }
    if let Some(path) = &args.plot {
        files::write(path, svg(&plot(args, &before, &rows)).as_bytes())?;
    }
    output.print(&json!({ "before": before, "rows": rows }), || text(&before, &rows))
}

/// The methods that were asked for, each once.
fn methods(args: &CompareArgs) -> Vec<Method> {
    let mut methods = Vec::new();
    for &method in if args.methods.is_empty() { &Method::ALL[..] } else { &args.methods } {
        if !methods.contains(&method) {
            methods.push(method);
        }
    }
    methods
}

/// Prunes by one method to one point.
fn row(
    args: &CompareArgs,
    dense: &Graph,
    calibration: Option<&Tensor>,
    validation: &Dataset,
    (method, point): (Method, Limit),
    before: &Measured,
) -> Outcome<Row> {
    let dense_macs = before.cost.macs.get() as f64;
    let limit = match point {
        Limit::Absolute(macs) => macs,
        Limit::Relative(share) => share * dense_macs,
    };
    let structure = args.structure.unwrap_or_else(|| method.default_structure());
    let request = Request {
        method,
        structure,
        pattern: Pattern::default(),
        budget: Budget::default().with(Metric::Macs, limit),
        rate: None,
        threshold: None,
        seed: args.seed,
        refit: Refit::WHOLE,
        calibration,
    };
    let point = limit / dense_macs;
    let stage = format!("{} {}", method.name(), percent(point, 1.0));
    let mut row = Row {
        method: method.name(),
        structure: match structure {
            Structure::Channels => "channels",
            Structure::Weights => "weights",
            Structure::Mixed => "mixed",
        },
        point,
        macs_share: None,
        after: None,
        reason: None,
    };
    match prune_as(dense, &request, meter(None), (&mut Progress::new(), &format!("{stage}: "))) {
        Ok(pruned) => {
            match measure(args, &pruned.graph, validation, &stage) {
                Ok(after) => {
                    row.macs_share = Some(after.cost.macs.get() as f64 / dense_macs);
                    row.after = Some(after);
                }
                // The engine may not run what a plain method leaves: that is a row as well.
                Err(failure) => row.reason = failure.to_string().lines().next().map(str::to_owned),
            }
        }
        Err(error) if concerns_all(&error) => return Err(prune_failure(&error, &args.model)),
        Err(error) => row.reason = Some(chain(&error)),
    }
    Ok(row)
}

/// Whether an error is of the input or a defect, and no method at no point would do better.
fn concerns_all(error: &PruneError) -> bool {
    use PruneError::{BadCalibration, NonFiniteWeight, OracleFailed};
    matches!(error, BadCalibration { .. } | NonFiniteWeight { .. } | OracleFailed { .. })
}

fn measure(args: &CompareArgs, graph: &Graph, validation: &Dataset, stage: &str) -> Outcome<Measured> {
    let session = load(graph, &args.model)?;
    let accuracy = accuracy_of(&session, &args.model, validation, &format!("{stage}: evaluate"))?;
    let latency = latency_of(&session, &args.model, args.runs)?;
    let cost = Measured::cost(graph, &args.model)?;
    Ok(Measured { accuracy: Some(accuracy), latency: Some(latency.into()), ..cost })
}

fn text(before: &Measured, rows: &[Row]) -> String {
    let columns = [
        ("method", Align::Left),
        ("removes", Align::Left),
        ("point", Align::Right),
        ("MACs", Align::Right),
        ("of dense", Align::Right),
        ("parameters", Align::Right),
        ("nonzero", Align::Right),
        ("stored", Align::Right),
        ("peak memory", Align::Right),
        ("p50", Align::Right),
        ("accuracy (95 %)", Align::Right),
        ("change", Align::Right),
    ];
    let measures = |measured: &Measured| {
        let cost = &measured.cost;
        let mut cells = vec![
            cost.macs.to_string(),
            percent(cost.macs.get() as f64, before.cost.macs.get() as f64),
            cost.parameters.to_string(),
            cost.nonzero.to_string(),
            cost.model_bytes.to_string(),
            cost.peak_memory_bytes.to_string(),
            measured.latency.map_or(String::new(), |latency| latency.latency_p50_us.to_string()),
        ];
        if let (Some(dense), Some(accuracy)) = (&before.accuracy, &measured.accuracy) {
            cells.extend([accuracy_text(accuracy), points_text(dense, accuracy)]);
        }
        cells
    };
    let mut lines = vec![vec!["dense".into(), String::new(), percent(1.0, 1.0)]];
    lines[0].extend(measures(before));
    let mut reasons = String::new();
    for row in rows {
        let point = percent(row.point, 1.0);
        let mut line = vec![row.method.into(), row.structure.into(), point.clone()];
        line.extend(row.after.as_ref().map_or_else(|| vec!["–".into()], measures));
        lines.push(line);
        if let Some(reason) = &row.reason {
            reasons.push_str(&format!("\n{} at {point}: {reason}", row.method));
        }
    }
    format!("{}{reasons}", table(&columns, &lines))
}

fn plot(args: &CompareArgs, before: &Measured, rows: &[Row]) -> Plot {
    let micros = |latency: Latency| latency.latency_p50_us.get() as f64;
    let x = |measured: &Measured| match args.plot_by {
        Abscissa::Macs => Some(100.0 * measured.cost.macs.get() as f64 / before.cost.macs.get() as f64),
        Abscissa::Latency => measured.latency.map(micros),
    };
    let point = |measured: &Measured| {
        let (x, view) = (x(measured)?, measured.accuracy?);
        let [y, low, high] = [view.accuracy, view.accuracy_low, view.accuracy_high].map(|v| v * 100.0);
        Some(Point { x, y, low, high })
    };
    let line = |method: Method| {
        let of = rows.iter().filter(|row| row.method == method.name());
        let mut points: Vec<_> = of.filter_map(|row| point(row.after.as_ref()?)).collect();
        points.sort_by(|a, b| b.x.total_cmp(&a.x));
        Line { name: method.name().into(), points }
    };
    let name = args.model.file_name().unwrap_or_default().to_string_lossy();
    let samples = before.accuracy.map_or(0, |view: AccuracyView| view.samples);
    Plot {
        title: format!("{name}: accuracy against cost"),
        x_label: match args.plot_by {
            Abscissa::Macs => "multiply-accumulates left, % of dense".into(),
            Abscissa::Latency => "median time of one inference, one thread, µs".into(),
        },
        y_label: format!("accuracy on {samples} samples, %, with 95 % interval"),
        level: point(before).map(|point| ("dense".into(), point)),
        lines: methods(args).into_iter().map(line).collect(),
    }
}
