//! The operator's commands: `model`, `apply`, `device`, `plan`, `rollout`, `status`, which ask the coordinator once, and
//! `top`, which looks again and again.

pub(crate) mod device;
pub(crate) mod rollout;
pub(crate) mod top;

use std::path::PathBuf;

use secateur_common::{ByteCount, FleetSpec, ModelName, caps};
use serde_json::json;

use crate::client::{Applied, BeforeAfter, Client, Forecast, Model, NewModel, Plan, PlanStep};
use crate::failure::{OrFail, Outcome};
use crate::files;
use crate::output::{Align, Output, percent, table};
use crate::progress::Progress;

/// Where the coordinator listens for operators.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Coordinator {
    /// The coordinator's operator address
    #[arg(long, global = true, default_value = "127.0.0.1:7071", value_name = "HOST:PORT")]
    pub(crate) coordinator: String,
}

/// `secateur model`
#[derive(clap::Subcommand, Clone, Debug)]
pub(crate) enum ModelCommand {
    /// Register a model and build its ladder
    Add {
        /// The model, ONNX
        model: PathBuf,
        /// The name to register it under
        #[arg(long)]
        name: ModelName,
        /// Unlabelled inputs, .npz
        #[arg(long, value_name = "X.npz")]
        calibration: PathBuf,
        /// Labelled inputs by which accuracy is measured, .npz
        #[arg(long, value_name = "XY.npz")]
        validation: Option<PathBuf>,
    },
    /// All registered models
    List,
    /// A model and its ladder
    Show {
        /// Its name
        name: String,
    },
    /// Remove a model that no group uses
    Remove {
        /// Its name
        name: String,
    },
}

/// `secateur plan`
#[derive(clap::Subcommand, Clone, Debug)]
pub(crate) enum PlanCommand {
    /// A plan, the newest by default
    Show {
        /// Its number
        #[arg(default_value_t = 0)]
        id: u64,
    },
    /// What changed from a plan's parent to it, the newest by default
    Diff {
        /// Its number
        #[arg(default_value_t = 0)]
        id: u64,
    },
}

/// `secateur apply`
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct ApplyArgs {
    /// The fleet: groups, selectors, budgets
    #[arg(short = 'f', long = "file", value_name = "fleet.toml")]
    file: PathBuf,
    /// Say what would change and change nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    coordinator: Coordinator,
}

/// Runs `secateur model`.
///
/// # Errors
/// As the coordinator answers, and where a file cannot be read.
pub(crate) async fn model(command: ModelCommand, at: &Coordinator, output: Output) -> Outcome {
    let mut client = Client::connect(&at.coordinator).await?;
    match command {
        ModelCommand::Add { model, name, calibration, validation } => {
            let new = NewModel {
                name,
                onnx: files::read(&model, caps::MODEL_BYTES)?,
                calibration: files::read(&calibration, caps::DATASET_BYTES)?,
                validation: match validation {
                    Some(path) => files::read(&path, caps::DATASET_BYTES)?,
                    None => Vec::new(),
                },
            };
            let mut progress = Progress::new();
            let model = client.add_model(new, |stage, done, total| progress.at(stage, done, total)).await?;
            progress.done();
            output.print(&model, || ladder(&model))
        }
        ModelCommand::List => {
            let models = client.models().await?;
            let rows: Vec<_> = models
                .iter()
                .map(|model| {
                    let dense = model.rungs.first().map(|rung| rung.cost).unwrap_or_default();
                    vec![
                        model.name.clone(),
                        model.rungs.len().to_string(),
                        dense.macs.to_string(),
                        dense.model_bytes.to_string(),
                    ]
                })
                .collect();
            let columns = [
                ("model", Align::Left),
                ("rungs", Align::Right),
                ("MACs", Align::Right),
                ("bytes", Align::Right),
            ];
            output.print(&models, || table(&columns, &rows))
        }
        ModelCommand::Show { name } => {
            let model = client.model(&name).await?;
            output.print(&model, || ladder(&model))
        }
        ModelCommand::Remove { name } => {
            client.remove_model(&name).await?;
            output.print(&json!({ "removed": name }), || format!("removed {name}"))
        }
    }
}

/// Runs `secateur apply`.
///
/// # Errors
/// Where the file is no fleet, and as the coordinator answers.
pub(crate) async fn apply(args: ApplyArgs, output: Output) -> Outcome {
    let fleet = parse_fleet(&files::read_text(&args.file)?, &args.file.display().to_string())?;
    let mut client = Client::connect(&args.coordinator.coordinator).await?;
    let applied = client.apply(&fleet, args.dry_run).await?;
    let Applied { changes, plan, forecast } = &applied;
    let document = json!({ "changes": changes, "plan": plan, "forecast": forecast, "dry_run": args.dry_run });
    output.print(&document, || {
        let mut lines = if changes.is_empty() { vec!["nothing changes".to_owned()] } else { changes.clone() };
        lines.extend((forecast.devices > 0).then(|| forecast_text(forecast)));
        lines.push(format!(
            "plan {plan}{}",
            if args.dry_run { " (dry run: nothing was changed)" } else { "" }
        ));
        lines.join("\n")
    })
}

/// What the change comes to, in a line.
fn forecast_text(forecast: &Forecast) -> String {
    let bytes = ByteCount(forecast.update_bytes);
    let mut text = format!("{} device(s) move, {bytes} on the link", forecast.devices);
    if let Some(BeforeAfter { before, after }) = forecast.accuracy {
        let (before, after) = (before * 100.0, after * 100.0);
        text.push_str(&format!(", accuracy expected {after:.1} % after {before:.1} %"));
    }
    if forecast.waiting > 0 {
        text.push_str(&format!("; {} of them wait for a rollout", forecast.waiting));
    }
    text
}

/// The fleet that `text` declares; `from` is named in errors.
///
/// # Errors
/// Where it is no TOML, has an unknown key or breaks a rule.
pub(crate) fn parse_fleet(text: &str, from: &str) -> Outcome<FleetSpec> {
    let advice = "see examples/fleet.toml for the keys that a fleet has";
    let fleet: FleetSpec =
        toml::from_str(text).or_input(format!("cannot read the fleet in {from}"), advice)?;
    fleet.check().or_input(format!("cannot use the fleet in {from}"), advice)?;
    Ok(fleet)
}

/// Runs `secateur plan`.
///
/// # Errors
/// As the coordinator answers.
pub(crate) async fn plan(command: PlanCommand, at: &Coordinator, output: Output) -> Outcome {
    let mut client = Client::connect(&at.coordinator).await?;
    match command {
        PlanCommand::Show { id } => {
            let plan = client.plan(id).await?;
            output.print(&plan, || plan_text(&plan, &plan.steps))
        }
        PlanCommand::Diff { id } => {
            let plan = client.plan(id).await?;
            let parent = if plan.parent == 0 { None } else { Some(client.plan(plan.parent).await?) };
            let was = |step: &PlanStep| {
                let steps = parent.iter().flat_map(|parent| &parent.steps);
                steps.clone().find(|old| old.device == step.device).map(|old| (old.variant, old.feasible))
            };
            let moved = |step: &&PlanStep| was(step) != Some((step.variant, step.feasible));
            let steps: Vec<_> = plan.steps.iter().filter(moved).cloned().collect();
            let document =
                json!({ "id": plan.id, "parent": plan.parent, "cause": plan.cause, "steps": steps });
            output.print(&document, || plan_text(&plan, &steps))
        }
    }
}

/// Runs `secateur status`.
///
/// # Errors
/// As the coordinator answers.
pub(crate) async fn status(at: &Coordinator, output: Output) -> Outcome {
    let status = Client::connect(&at.coordinator).await?.status().await?;
    output.print(&status, || {
        let (connected, devices) = (status.connected, status.devices);
        let state = if status.settled { "settled" } else { "moving" };
        let (models, plans, reprunes) = (status.models, status.plans, status.reprunes);
        format!("{connected} of {devices} devices connected, {models} models, {plans} plans, {reprunes} re-prunes: {state}")
    })
}

fn plan_text(plan: &Plan, steps: &[PlanStep]) -> String {
    let columns =
        [("device", Align::Left), ("rung", Align::Left), ("generation", Align::Right), ("why", Align::Left)];
    let row = |step: &PlanStep| {
        let rung = if step.variant.is_some() { step.rung.clone() } else { "–".into() };
        vec![step.name.clone(), rung, step.generation.to_string(), step.reason.clone()]
    };
    let rows: Vec<_> = steps.iter().map(row).collect();
    format!("plan {} (after {}): {}\n{}", plan.id, plan.parent, plan.cause, table(&columns, &rows))
}

fn ladder(model: &Model) -> String {
    let columns = [
        ("rung", Align::Right),
        ("label", Align::Left),
        ("MACs", Align::Right),
        ("of dense", Align::Right),
        ("nonzero", Align::Right),
        ("bytes", Align::Right),
        ("peak memory", Align::Right),
        ("accuracy", Align::Right),
    ];
    let dense = model.rungs.first().map_or(0, |rung| rung.cost.macs.get());
    let row = |(index, rung): (usize, &crate::client::Rung)| {
        let accuracy = rung.accuracy.map(|a| {
            format!(
                "{:.1} % ({:.1}–{:.1})",
                a.accuracy * 100.0,
                a.accuracy_low * 100.0,
                a.accuracy_high * 100.0
            )
        });
        vec![
            index.to_string(),
            rung.label.clone(),
            rung.cost.macs.to_string(),
            percent(rung.cost.macs.get() as f64, dense as f64),
            rung.cost.nonzero.to_string(),
            rung.cost.model_bytes.to_string(),
            rung.cost.peak_memory_bytes.to_string(),
            accuracy.unwrap_or_else(|| "–".into()),
        ]
    };
    let rows: Vec<_> = model.rungs.iter().enumerate().map(row).collect();
    format!("{}  {}\n{}", model.name, &model.digest[..16], table(&columns, &rows))
}
