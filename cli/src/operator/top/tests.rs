//! `top` on a made-up fleet: what is shown, on any terminal, and what counts as an event.

use secateur_common::{
    Accuracy, Budget, ByteCount, Cost, DeviceMemory, Digest, Generation, LatencySummary, MacCount, Metric,
    Micros, Report, Sensed, VariantId,
};

use super::events::{self, Event};
use super::frame::{Live, lines};
use super::*;

fn report(variant: VariantId) -> Report {
    Report {
        sequence: 7,
        model: "lenet5".parse().unwrap(),
        variant,
        generation: Generation(3),
        accuracy: Accuracy { samples: 400, correct: 362 },
        latency: LatencySummary { count: 400, p50: Micros(25), p95: Micros(29), p99: Micros(40) },
        memory: DeviceMemory { inference_peak: ByteCount(2 << 20), process_peak: ByteCount(0) },
        sensed: Sensed::default(),
        model_bytes: ByteCount(54_272),
        disk_bytes: ByteCount(100_000),
        wire_bytes: ByteCount(300_000),
        today: Default::default(),
    }
}

fn device(name: &str, budget: Budget, met: bool) -> Device {
    let variant = VariantId(Digest::of(name.as_bytes()));
    Device {
        id: name.into(),
        name: name.into(),
        connected: true,
        group: "line".into(),
        model: "lenet5".into(),
        budget,
        feasible: true,
        met,
        reason: "kept: it fits".into(),
        variant: Some(variant),
        rung_label: "macs 50%".into(),
        generation: 3,
        active: Some(variant),
        active_generation: 3,
        cost: Cost { macs: MacCount(1_100_000), ..Cost::default() },
        received_bytes: 300_000,
        latency_p95_us: 29,
        report: Some(report(variant)),
        ..Device::default()
    }
}

fn fleet() -> Snapshot {
    let limit = |metric, limit| Budget::default().with(metric, limit);
    let away = Device {
        connected: false,
        report: None,
        latency_p95_us: 0,
        ..device("away", Budget::default(), true)
    };
    let devices = vec![
        away,
        device("fast", limit(Metric::LatencyP95, 41.0), true),
        device("small", limit(Metric::ModelBytes, 50_000.0), false),
        device("true", limit(Metric::AccuracyMin, 0.95), false),
    ];
    let rollout = Rollout {
        group: "line".into(),
        number: 2,
        model: "lenet5-v2".into(),
        stage: "canary".into(),
        waiting: 3,
        on_trial: 1,
        ..Rollout::default()
    };
    let status = Status { devices: 4, connected: 3, models: 2, plans: 9, reprunes: 1, ..Status::default() };
    Snapshot { status, devices, rollouts: vec![rollout] }
}

fn text(fleet: &Snapshot, live: &Live<'_>) -> Vec<String> {
    lines(fleet, "here:7071", live).into_iter().map(|line| line.text).collect()
}

#[test]
fn a_frame_tells_the_whole_fleet() {
    let golden = "\
secateur at here:7071: 3 of 4 devices connected, moving
2 models, plan 9, 1 re-prunes, 1.14 MiB of updates sent

group  rollout  model      stage   on trial  judged  accuracy lost, points  p95  energy
line         2  lenet5-v2  canary    1 of 4       0  –                        –       –

device  state        rung      accuracy           p95            memory    stored               MACs        sent  group  model   why
away    offline      macs 50%  –                  –              –         –                    1.10M  293.0 KiB  line   lenet5  kept: it fits
fast    met          macs 50%  90.50 %            29 µs ≤ 41 µs  2.00 MiB  53.0 KiB             1.10M  293.0 KiB  line   lenet5  kept: it fits
small   over budget  macs 50%  90.50 %            29 µs          2.00 MiB  53.0 KiB > 48.8 KiB  1.10M  293.0 KiB  line   lenet5  kept: it fits
true    over budget  macs 50%  90.50 % < 95.00 %  29 µs          2.00 MiB  53.0 KiB             1.10M  293.0 KiB  line   lenet5  kept: it fits";
    assert_eq!(text(&fleet(), &Live::default()).join("\n"), golden);
}

#[test]
fn what_is_wrong_stays_in_sight_on_a_low_terminal() {
    let live = Live { rows: Some(9), ..Live::default() };
    let shown = text(&fleet(), &live);
    assert_eq!(shown.len(), 9);
    assert!(shown[7].starts_with("away") && shown[8] == "… and 3 more", "{shown:#?}");
    for rows in 0..20 {
        let events: Vec<_> = (0..10).map(|at| Event { at, text: "fast: met".into() }).collect();
        let live = Live { rows: Some(rows), events: &events, trouble: Some("gone".into()) };
        assert!(text(&fleet(), &live).len() <= rows);
    }
}

#[test]
fn the_newest_events_come_first_below_the_devices() {
    let events: Vec<_> =
        [(3599, "old"), (86_400 + 3661, "new")].map(|(at, text)| Event { at, text: text.into() }).into();
    let live = Live { rows: Some(15), events: &events, trouble: Some("the line is down".into()) };
    let shown = text(&fleet(), &live);
    assert_eq!(shown[2], "the line is down");
    assert_eq!(shown[12..], ["", "01:01:01  new", "00:59:59  old"]);
}

#[test]
fn events_are_what_changed() {
    let before = fleet();
    assert!(events::between(&before, &before).is_empty());
    let mut after = before.clone();
    after.devices[0].connected = true;
    after.devices[1].active = None;
    after.devices[2].met = true;
    after.devices[3].reason = "moved: latency_p95".into();
    after.rollouts[0].stage = "rolled_back".into();
    after.rollouts[0].fault = "accuracy fell".into();
    after.devices.push(device("young", Budget::default(), true));
    let expected = [
        "rollout 2 of line: rolled back: accuracy fell",
        "away: connected",
        "small: met",
        "true: moved: latency_p95",
        "young: joined",
    ];
    assert_eq!(events::between(&before, &after), expected);
    let runs = events::between(&after, &before);
    assert!(runs.contains(&"fast: runs lenet5 macs 50%".to_owned()), "{runs:?}");
}
