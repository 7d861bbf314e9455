//! What happens in the demo, step by step, each step awaited by what devices report.

use std::collections::BTreeMap;
use std::time::Duration;

use secateur_common::{
    Accuracy, BudgetSpec, ByteCount, FleetSpec, GroupSpec, Limit, Metric, Selector, VariantId,
};

use super::fleet::{Fleet, MODEL};
use crate::client::{Client, Device, Model, NewModel};
use crate::failure::{OrFail, Outcome};
use crate::progress::Progress;

/// What happened, for the claims.
#[derive(Debug, Default)]
pub(super) struct Story {
    /// Each device's own accuracy with the dense model.
    pub(super) dense: BTreeMap<String, Accuracy>,
    /// What each device ran before there were budgets.
    pub(super) first_variants: BTreeMap<String, Option<VariantId>>,
    /// The device whose budget is halved and which is killed.
    pub(super) victim: String,
    pub(super) before_halving: Option<Device>,
    /// The state that the device's own status told when it was killed, and the generation it was moving to.
    pub(super) killed_while: Option<String>,
    killed_for: u64,
    /// What the coordinator did not know any more after its restart.
    pub(super) restart_lost: Vec<String>,
    pub(super) reprunes: u64,
}

/// Bounds of each wait. They are far above what a step takes; a step that takes longer has failed.
const STEP: Duration = Duration::from_secs(45);
/// The link of the device that is killed, while it is slow: a download takes long enough to be seen.
const SLOW: ByteCount = ByteCount(2 * 1024);
/// The latency that is allowed, of what the dense model was measured to take on the device itself.
pub(super) const LATENCY_SHARE: Limit = Limit::Relative(0.6);
/// The groups in the order of the devices; further devices take the first five again.
const GROUPS: [&str; 6] = ["macs", "bytes", "memory", "latency", "roomy", "impossible"];

/// The group of the device with this index.
pub(super) fn group_of(index: usize) -> &'static str {
    if index < GROUPS.len() { GROUPS[index] } else { GROUPS[(index - GROUPS.len()) % (GROUPS.len() - 1)] }
}

impl Story {
    /// Whether the killed device runs and has measured what it was moving to when it was killed, or something newer.
    pub(super) fn recovered(&self, devices: &[Device]) -> bool {
        let victim = devices.iter().find(|device| device.name == self.victim);
        self.killed_while.is_some()
            && victim.is_some_and(|device| device.settled() && device.active_generation >= self.killed_for)
    }
}

/// Tells the whole story on `fleet`.
///
/// # Errors
/// Where a step fails or takes too long.
pub(super) async fn tell(fleet: &mut Fleet, progress: &mut Progress) -> Outcome<(Story, Model)> {
    let mut story = Story { victim: fleet.slow_device().to_owned(), ..Story::default() };
    let mut client = fleet.client().await?;
    let model = add_model(&mut client, progress).await?;
    progress.say(&format!(
        "the coordinator made {} rungs of {MODEL}; {} devices dial in",
        model.rungs.len(),
        fleet.len()
    ));

    everyone_runs_dense(fleet, &mut client, &mut story, progress).await?;
    let budgets = budgets()?;
    client.apply(&budgets, false).await?;
    progress.say("budgets are applied: devices get what fits them, as deltas to what they hold");
    let devices = settled(fleet, &mut client, progress, "budgets").await?;

    story.before_halving = devices.iter().find(|device| device.name == story.victim).cloned();
    halve_and_kill(fleet, &mut client, &mut story, budgets, progress).await?;
    restart_coordinator(fleet, &mut story, progress).await?;
    let mut client = fleet.client().await?;
    settled(fleet, &mut client, progress, "after the kills").await?;
    story.reprunes = client.status().await?.reprunes;
    Ok((story, model))
}

async fn add_model(client: &mut Client, progress: &mut Progress) -> Outcome<Model> {
    let new = NewModel {
        name: model_name()?,
        onnx: super::bundle::MODEL.to_vec(),
        calibration: super::bundle::CALIBRATION.to_vec(),
        validation: super::bundle::VALIDATION.to_vec(),
    };
    client.add_model(new, |stage, done, total| progress.at(stage, done, total)).await
}

/// Limits that hold nobody back, but relative: so every device gets the dense model in full and measures it.
async fn everyone_runs_dense(
    fleet: &mut Fleet,
    client: &mut Client,
    story: &mut Story,
    progress: &mut Progress,
) -> Outcome {
    let easy = BudgetSpec { latency_p95: Some(Limit::Relative(10.0)), ..BudgetSpec::default() };
    client.apply(&fleet_spec(|_| easy)?, false).await?;
    for device in settled(fleet, client, progress, "dense").await? {
        if let Some(dense) = device.dense {
            story.dense.insert(device.name.clone(), dense);
        }
        story.first_variants.insert(device.name, device.variant);
    }
    Ok(())
}

/// The groups and what each is limited by.
fn budgets() -> Outcome<FleetSpec> {
    fleet_spec(|group| {
        let limit = |metric: Metric, limit| {
            let mut budget = BudgetSpec::default();
            budget.set(metric, Some(limit));
            budget
        };
        match group {
            "macs" => limit(Metric::Macs, Limit::Relative(0.5)),
            "bytes" => limit(Metric::ModelBytes, Limit::Relative(0.25)),
            "memory" => limit(Metric::PeakMemoryBytes, Limit::Relative(0.4)),
            "latency" => limit(Metric::LatencyP95, LATENCY_SHARE),
            "impossible" => limit(Metric::ModelBytes, Limit::Absolute(64.0)),
            _ => limit(Metric::AccuracyMin, Limit::Absolute(0.8)),
        }
    })
}

/// Halves the first group's budget, kills that group's device while it downloads, and starts it again.
async fn halve_and_kill(
    fleet: &mut Fleet,
    client: &mut Client,
    story: &mut Story,
    mut budgets: FleetSpec,
    progress: &mut Progress,
) -> Outcome {
    fleet.set_link_rate(SLOW);
    for group in budgets.groups.iter_mut().filter(|group| group.name.as_str() == GROUPS[0]) {
        group.budget.macs = Some(Limit::Relative(0.25));
    }
    client.apply(&budgets, false).await?;
    progress.say(&format!("the budget of {} is halved, and its link is slow: {SLOW} a second", story.victim));
    let state = fleet.until_downloading(&story.victim, STEP).await?;
    fleet.kill(&story.victim)?;
    story.killed_for = client.device(&story.victim).await?.generation;
    progress.say(&format!("{} is killed (SIGKILL) while {state}, and started again", story.victim));
    story.killed_while = Some(state);
    fleet.set_link_rate(super::fleet::FAST);
    fleet.start_device(&story.victim.clone())
}

/// Kills the coordinator, starts it again at the same addresses and compares what it knows.
async fn restart_coordinator(fleet: &mut Fleet, story: &mut Story, progress: &mut Progress) -> Outcome {
    let mut client = fleet.client().await?;
    let (status, devices) = (client.status().await?, client.devices().await?);
    fleet.restart_coordinator().await?;
    progress.say("the coordinator is killed (SIGKILL) and started again");
    let mut client = fleet.client().await?;
    let (now, now_devices) = (client.status().await?, client.devices().await?);
    if now.models != status.models || now.plans < status.plans {
        story.restart_lost.push(format!("{} models, {} plans", status.models, status.plans));
    }
    for device in devices {
        let kept = now_devices.iter().any(|now| now.id == device.id && now.generation >= device.generation);
        if !kept {
            story.restart_lost.push(device.name);
        }
    }
    Ok(())
}

/// Waits until every device runs and has measured what it was assigned, and keeps its budget where one can be kept.
/// Where that takes too long, the state at that time is answered: the claims name what does not hold.
async fn settled(
    fleet: &mut Fleet,
    client: &mut Client,
    progress: &mut Progress,
    stage: &str,
) -> Outcome<Vec<Device>> {
    let limit = tokio::time::Instant::now() + STEP;
    loop {
        fleet.check_alive()?;
        let devices = client.devices().await?;
        let done = devices.iter().filter(|device| is_done(device)).count();
        progress.at(&format!("settling: {stage}"), done as u64, fleet.len() as u64);
        if done == fleet.len() {
            return Ok(devices);
        }
        if tokio::time::Instant::now() > limit {
            let late = devices.iter().filter(|device| !is_done(device));
            let late: Vec<_> = late.map(|device| format!("{} ({})", device.name, device.reason)).collect();
            progress.say(&format!("not settled within {} s: {}", STEP.as_secs(), late.join(", ")));
            return Ok(devices);
        }
        tokio::time::sleep(super::fleet::POLL).await;
    }
}

fn is_done(device: &Device) -> bool {
    let impossible = device.group == "impossible" && device.budget.get(Metric::ModelBytes).is_some();
    device.settled() && if impossible { !device.feasible } else { device.feasible && device.met }
}

fn model_name() -> Outcome<secateur_common::ModelName> {
    MODEL.parse().or_work("cannot name the model", "report this as a defect")
}

/// One group a budget, picked by the label `class`.
fn fleet_spec(budget: impl Fn(&str) -> BudgetSpec) -> Outcome<FleetSpec> {
    let defect = "report this as a defect";
    let group = |name: &&str| -> Outcome<GroupSpec> {
        Ok(GroupSpec {
            name: name.parse().or_work("cannot name a group", defect)?,
            selector: Selector(format!("class={name}").parse().or_work("cannot select a group", defect)?),
            model: model_name()?,
            budget: budget(name),
            rollout: None,
        })
    };
    Ok(FleetSpec { groups: GROUPS.iter().map(group).collect::<Outcome<_>>()?, rollout: None })
}
