//! What the demo claims, each checked against what devices reported.

use secateur_common::Metric;

use super::story::Story;
use crate::client::Device;

/// A claim and whether it held.
#[derive(Clone, Debug)]
pub(super) struct Claim {
    pub(super) text: String,
    pub(super) holds: bool,
    /// What was found, told where it does not hold.
    pub(super) found: String,
}

/// All claims about the fleet's last state `devices` and what happened on the way.
pub(super) fn check(story: &Story, devices: &[Device]) -> Vec<Claim> {
    let mut claims = Vec::new();
    let mut claim = |text: String, holds: bool, found: String| claims.push(Claim { text, holds, found });
    for device in devices {
        let name = &device.name;
        let shard = story.dense.get(name).map_or(0, |dense| dense.samples);
        let measured = device.current_report().map(|report| report.accuracy.samples).unwrap_or_default();
        claim(
            format!("{name} measured its variant on its own shard"),
            measured == shard && shard > 0,
            format!("{measured} samples"),
        );
        if device.group == "impossible" {
            let says = device.budget.iter().any(|(metric, _)| device.reason.contains(metric.name()));
            let told = !device.feasible && says;
            claim(format!("{name} is told to be impossible, with its limit"), told, device.reason.clone());
            let kept = story.first_variants.get(name) == Some(&device.active);
            claim(format!("{name} keeps the variant it had"), kept, format!("rung {}", device.rung));
        } else {
            let broken: Vec<_> = device
                .budget
                .violations(|metric| reported(device, metric))
                .iter()
                .map(|v| v.to_string())
                .collect();
            let holds = device.feasible && device.met && broken.is_empty() && device.settled();
            claim(
                format!("{name} keeps its budget as measured"),
                holds,
                format!("{} {}", device.reason, broken.join(", ")),
            );
        }
    }
    story_claims(story, devices, &mut claim);
    claims
}

/// The value of `metric` by the device's own report; of what a device cannot count, by the variant's graph.
fn reported(device: &Device, metric: Metric) -> Option<f64> {
    let report = device.current_report()?;
    match metric {
        Metric::ModelBytes => Some(report.model_bytes.get() as f64),
        Metric::PeakMemoryBytes => Some(report.memory.inference_peak.get() as f64),
        Metric::LatencyP95 => Some(device.latency_p95_us as f64),
        Metric::AccuracyMin => Some(report.accuracy.value()),
        _ => device.cost.metric(metric),
    }
}

fn story_claims(story: &Story, devices: &[Device], claim: &mut dyn FnMut(String, bool, String)) {
    let limit = |device: &Device, metric| device.budget.get(metric);
    if let (Some(before), Some(after)) =
        (&story.before_halving, devices.iter().find(|d| d.name == story.victim))
    {
        let (was, is) = (limit(before, Metric::Macs), limit(after, Metric::Macs));
        let halved = matches!((was, is), (Some(was), Some(is)) if (is * 2.0 - was).abs() <= 0.01 * was);
        claim(format!("the budget of {} was halved", story.victim), halved, format!("{was:?} → {is:?}"));
        let moved = after.variant != before.variant && after.cost.macs < before.cost.macs;
        claim(
            format!("{} moved to a smaller rung", story.victim),
            moved,
            format!("{:?} → {:?}", before.cost.macs, after.cost.macs),
        );
        let small = after.update_is_delta && after.update_bytes * 4 < after.full_bytes * 3;
        let bytes = format!("{} of {} bytes", after.update_bytes, after.full_bytes);
        claim("its update was a delta under three quarters of a full one".into(), small, bytes);
        let killed = story.killed_while.clone().unwrap_or_else(|| "never".into());
        claim(
            format!("it was killed during that update ({killed})"),
            story.killed_while.is_some(),
            killed.clone(),
        );
        let recovered = story.recovered(devices);
        claim(
            "it recovered after the kill".into(),
            recovered,
            format!("generation {}", after.active_generation),
        );
    } else {
        claim("a budget was halved".into(), false, "the device is not known any more".into());
    }
    claim(
        "the coordinator was killed and lost nothing".into(),
        story.restart_lost.is_empty(),
        story.restart_lost.join(", "),
    );
    claim(
        format!("{} re-prunes by measurement or budget", story.reprunes),
        story.reprunes >= 1,
        story.reprunes.to_string(),
    );
    let unmeasured: Vec<_> =
        devices.iter().filter(|d| !story.dense.contains_key(&d.name)).map(|d| d.name.clone()).collect();
    claim(
        "every device measured the dense model itself".into(),
        unmeasured.is_empty(),
        unmeasured.join(", "),
    );
}
