//! `secateur device`: what is known of each device, and why it runs what it runs.

use secateur_common::{Budget, MacCount, VariantId};
use serde::Serialize;

use super::Coordinator;
use crate::client::{Client, Device, budget_by_name};
use crate::failure::Outcome;
use crate::output::{Align, Output, percent, table};

/// `secateur device`
#[derive(clap::Subcommand, Clone, Debug)]
pub(crate) enum DeviceCommand {
    /// All devices
    List,
    /// All that is known of a device
    Show {
        /// Its id or name
        device: String,
    },
    /// Why a device runs what it runs
    Why {
        /// Its id or name
        device: String,
    },
}

/// Runs `secateur device`.
///
/// # Errors
/// As the coordinator answers.
pub(crate) async fn main(command: DeviceCommand, at: &Coordinator, output: Output) -> Outcome {
    let mut client = Client::connect(&at.coordinator).await?;
    match command {
        DeviceCommand::List => {
            let devices = client.devices().await?;
            output.print(&devices, || device_table(&devices))
        }
        DeviceCommand::Show { device } => {
            let device = client.device(&device).await?;
            output.print(&device, || describe(&device))
        }
        DeviceCommand::Why { device } => {
            let device = client.device(&device).await?;
            output.print(&Why::of(&device), || why(&device))
        }
    }
}

/// Why a device runs what it runs.
#[derive(Serialize)]
struct Why<'d> {
    id: &'d str,
    name: &'d str,
    group: &'d str,
    model: &'d str,
    #[serde(serialize_with = "budget_by_name")]
    budget: &'d Budget,
    rung_label: &'d str,
    variant: Option<VariantId>,
    generation: u64,
    feasible: bool,
    met: bool,
    reason: &'d str,
    /// The rollout that has the variant on trial here.
    trial: Option<u64>,
    history: &'d [String],
}

impl<'d> Why<'d> {
    fn of(device: &'d Device) -> Self {
        Self {
            id: &device.id,
            name: &device.name,
            group: &device.group,
            model: &device.model,
            budget: &device.budget,
            rung_label: &device.rung_label,
            variant: device.variant,
            generation: device.generation,
            feasible: device.feasible,
            met: device.met,
            reason: &device.reason,
            trial: device.trial,
            history: &device.history,
        }
    }
}

fn why(device: &Device) -> String {
    let Device { name, reason, group, model, budget, rung_label, generation, .. } = device;
    let mut lines = vec![format!("{name}: {reason}")];
    if device.variant.is_some() {
        lines.push(format!("  runs: {model}, rung {rung_label}, generation {generation}"));
    }
    lines.push(format!("  group {group}: {budget}; {}", state(device)));
    lines.extend(device.trial.map(|number| format!("  on trial: rollout {number} of group {group}")));
    lines.extend(device.history.iter().skip(1).map(|reason| format!("  before: {reason}")));
    lines.join("\n")
}

fn device_table(devices: &[Device]) -> String {
    let columns = [
        ("device", Align::Left),
        ("group", Align::Left),
        ("state", Align::Left),
        ("rung", Align::Left),
        ("MACs", Align::Right),
        ("accuracy", Align::Right),
        ("p95", Align::Right),
        ("budget", Align::Left),
        ("why", Align::Left),
    ];
    let rows: Vec<_> = devices
        .iter()
        .map(|device| {
            let report = device.report.as_ref();
            vec![
                device.name.clone(),
                device.group.clone(),
                state(device).to_owned(),
                device.rung_label.clone(),
                if device.variant.is_some() { device.cost.macs.to_string() } else { "–".into() },
                report
                    .map_or("–".into(), |r| percent(r.accuracy.correct as f64, r.accuracy.samples as f64)),
                report.map_or("–".into(), |r| r.latency.p95.to_string()),
                device.budget.to_string(),
                device.reason.clone(),
            ]
        })
        .collect();
    table(&columns, &rows)
}

/// How a device stands, in a word or two.
pub(super) fn state(device: &Device) -> &'static str {
    match device {
        Device { connected: false, .. } => "offline",
        Device { group, .. } if group.is_empty() => "no group",
        Device { feasible: false, .. } => "infeasible",
        Device { met: true, .. } => "met",
        device if device.settled() => "over budget",
        _ => "moving",
    }
}

fn describe(device: &Device) -> String {
    let labels: Vec<_> = device.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let mut lines = vec![
        format!("device      {} ({})", device.name, device.id),
        format!("labels      {}", labels.join(",")),
        format!("state       {}", state(device)),
        format!("group       {}, model {}", device.group, device.model),
        format!("budget      {}", device.budget),
        format!("why         {}", device.reason),
    ];
    if let Some(variant) = device.variant {
        let (label, cost) = (&device.rung_label, device.cost);
        lines.push(format!(
            "assigned    rung {} ({label}), generation {}, {variant}",
            device.rung, device.generation
        ));
        lines.push(format!(
            "cost        {} MACs, {} of {} weights, {} stored, {} at peak",
            MacCount(cost.macs.get()),
            cost.nonzero,
            cost.parameters,
            cost.model_bytes,
            cost.peak_memory_bytes
        ));
    }
    if let Some(report) = &device.report {
        let (low, high) = report.accuracy.interval();
        lines.push(format!(
            "measured    {}/{} correct, {:.1} % ({:.1}–{:.1}); p50 {}, p95 {}, p99 {}; peak {}; disk {}; received {}",
            report.accuracy.correct,
            report.accuracy.samples,
            report.accuracy.value() * 100.0,
            low * 100.0,
            high * 100.0,
            report.latency.p50,
            report.latency.p95,
            report.latency.p99,
            report.memory.inference_peak,
            report.disk_bytes,
            report.wire_bytes
        ));
        lines.push(format!("today       received {}", report.today));
    }
    lines.extend(device.history.iter().map(|reason| format!("move        {reason}")));
    lines.join("\n")
}
