//! What the planner's tests share: small ladders and devices made by hand, without any graph.

use secateur_common::{
    Accuracy, ByteCount, Cost, DeviceId, Digest, FleetSpec, Generation, GroupSpec, LatencySummary, MacCount,
    Micros, Report, Selector, Sensed, VariantId,
};
use secateur_plan::{DeviceView, Ladder, Measurement, Rung};

/// Validation samples of a rung, and shard samples of a device.
pub(crate) const SAMPLES: u64 = 1000;

/// A ladder of `model`, one rung for each of the falling `macs`; bytes and memory follow the MACs.
pub(crate) fn ladder(model: &str, macs: &[u64], accuracies: &[Option<u64>]) -> Ladder {
    let rung = |(macs, correct): (&u64, &Option<u64>)| Rung {
        variant: VariantId(Digest::of(format!("{model} {macs}").as_bytes())),
        label: format!("{macs} macs"),
        cost: Cost {
            macs: MacCount(*macs),
            dense_macs: MacCount(*macs),
            parameters: macs / 10,
            nonzero: macs / 10,
            model_bytes: ByteCount(macs / 5 + 100),
            peak_memory_bytes: ByteCount(macs / 2 + 1000),
        },
        accuracy: correct.map(|correct| Accuracy { samples: SAMPLES, correct }),
    };
    let rungs = macs.iter().zip(accuracies).map(rung).collect();
    Ladder { model: model.parse().unwrap(), rungs, floors: Vec::new() }
}

/// A device without any measurement.
pub(crate) fn device(name: &str, labels: &str) -> DeviceView {
    let id = DeviceId::of_credential(name.as_bytes());
    DeviceView { id, labels: labels.parse().unwrap(), measured: Vec::new() }
}

/// `device`, which takes one watt, reports `rung` with this latency.
#[allow(dead_code)] // not every test needs it
pub(crate) fn report(device: &mut DeviceView, ladder: &Ladder, rung: &Rung, p95_us: u64) {
    report_in(device, ladder, rung, (p95_us, p95_us), Generation(1));
}

/// `device` reports `rung` as in force since `generation`, with its latency and its energy in microjoules.
pub(crate) fn report_in(
    device: &mut DeviceView,
    ladder: &Ladder,
    rung: &Rung,
    (p95_us, energy_uj): (u64, u64),
    generation: Generation,
) {
    let report = Report {
        sequence: 1,
        model: ladder.model.clone(),
        variant: rung.variant,
        generation,
        accuracy: rung.accuracy.unwrap_or_default(),
        latency: LatencySummary { count: 100, p50: Micros(p95_us), p95: Micros(p95_us), p99: Micros(p95_us) },
        memory: Default::default(),
        sensed: Sensed { energy_per_inference_nj: Some(1000 * energy_uj), ..Sensed::default() },
        model_bytes: rung.cost.model_bytes,
        disk_bytes: rung.cost.model_bytes,
        wire_bytes: rung.cost.model_bytes,
        today: Default::default(),
    };
    let index = device.measured.iter().position(|(variant, _)| *variant == rung.variant);
    let index = index.unwrap_or_else(|| {
        device.measured.push((rung.variant, Measurement::default()));
        device.measured.len() - 1
    });
    device.measured[index].1.add(&report);
}

/// One group of all devices with these limits, written as an operator writes them.
pub(crate) fn policy(model: &str, limits: &[(&str, &str)]) -> FleetSpec {
    let mut group = GroupSpec {
        name: "all".parse().unwrap(),
        selector: Selector::default(),
        model: model.parse().unwrap(),
        budget: Default::default(),
        rollout: None,
    };
    for (metric, limit) in limits {
        let metric: secateur_common::Metric = metric.parse().unwrap();
        group.budget.set(metric, Some(metric.parse(limit).unwrap()));
    }
    FleetSpec { groups: vec![group], rollout: None }
}
