//! What the devices on trial measured, together, and whether it is bad enough to halt.

use secateur_common::{Accuracy, JudgePolicy, ModelName, VariantId};
use serde::{Deserialize, Serialize};

use super::{Evidence, Fault};

/// A device on trial: how far it is and what it measured.
#[derive(Clone, PartialEq, Debug)]
pub struct Tried {
    /// The model of `variant`.
    pub model: ModelName,
    /// What it is to run.
    pub variant: VariantId,
    /// It runs it.
    pub arrived: bool,
    /// It could not activate it.
    pub failed: bool,
    /// It has sent as many reports with it as the policy asks for.
    pub judged: bool,
    /// Its accuracy with what it ran before.
    pub before: Accuracy,
    /// Its accuracy in the first report with what is on trial: taken once, so that looking often shows nothing new.
    pub on_trial: Accuracy,
    /// p95 on trial / p95 before, once two reports confirm it.
    pub latency_factor: Option<f64>,
    /// The same of the energy of an inference.
    pub energy_factor: Option<f64>,
}

/// A rollout's figures.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Tally {
    /// Devices that wait to be told to move.
    pub waiting: u64,
    /// Devices that were told to.
    pub on_trial: u64,
    /// Of these, those that run it.
    pub arrived: u64,
    /// Of these, those that sent enough reports.
    pub judged: u64,
    /// Devices that could not activate it.
    pub failed: u64,
    /// What it costs in accuracy, where that was measured.
    pub loss: Option<Loss>,
    /// Median over devices of p95 on trial / p95 before.
    pub latency_factor: Option<f64>,
    /// The same of the energy of an inference.
    #[serde(default)]
    pub energy_factor: Option<f64>,
}

/// A loss of accuracy against what the same devices had before, percentage points.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Loss {
    /// The estimate.
    pub points: f64,
    /// Lower end of its interval, which holds at all times together at the policy's error rate.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// How many times likelier the measurements are with more than the accepted loss than without; halts at 1 / alpha.
    pub odds: f64,
}

/// The figures of the devices on trial, and the fault that they show, if any.
pub(super) fn judge<'t>(
    policy: &JudgePolicy,
    tried: impl Iterator<Item = &'t Tried>,
    waiting: usize,
) -> (Tally, Option<Fault>) {
    let mut tally = Tally { waiting: waiting as u64, ..Tally::default() };
    let (mut evidence, mut latencies, mut energies) = (Evidence::default(), Vec::new(), Vec::new());
    let accepted = policy.max_accuracy_loss / 100.0;
    for tried in tried {
        tally.on_trial += 1;
        tally.arrived += u64::from(tried.arrived);
        tally.judged += u64::from(tried.judged);
        tally.failed += u64::from(tried.failed);
        evidence.add(tried.before, tried.on_trial, accepted);
        latencies.extend(tried.latency_factor);
        energies.extend(tried.energy_factor);
    }
    tally.loss = evidence.loss(accepted, policy.alpha).map(|shares| {
        let [points, low, high] = shares.map(|share| share * 100.0);
        Loss { points, low, high, odds: evidence.log_odds().min(f64::MAX.ln()).exp() }
    });
    tally.latency_factor = median(latencies);
    tally.energy_factor = median(energies);
    let fault = fault(policy, &tally, evidence);
    (tally, fault)
}

fn fault(policy: &JudgePolicy, tally: &Tally, evidence: Evidence) -> Option<Fault> {
    let of = tally.arrived + tally.failed;
    if tally.failed as f64 > policy.max_failures.get() * of as f64 {
        return Some(Fault::Failures { failed: tally.failed, of });
    }
    if let (Some(loss), true) = (tally.loss, evidence.shows_loss(policy.alpha)) {
        return Some(Fault::Accuracy { lost: loss.points, accepted: policy.max_accuracy_loss });
    }
    let over = |factor: Option<f64>, accepted: f64| factor.filter(|&factor| factor > accepted);
    let (slower, hungrier) = (policy.max_latency_factor, policy.max_energy_factor);
    let latency = over(tally.latency_factor, slower);
    let latency = latency.map(|factor| Fault::Latency { factor, accepted: slower });
    latency.or_else(|| {
        let energy = over(tally.energy_factor, hungrier);
        energy.map(|factor| Fault::Energy { factor, accepted: hungrier })
    })
}

/// The lower median; none of nothing.
fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len().checked_sub(1)? / 2).copied()
}
