//! The fleet as lines: what the coordinator has, the rollouts, the devices, what changed lately. Pure.

use secateur_common::{ByteCount, Metric};

use super::Snapshot;
use super::events::Event;
use crate::client::Device;
use crate::operator::device::state;
use crate::operator::rollout::rollout_table;
use crate::output::{Align, table};
use crate::screen::{Line, Tone};

/// What only a live view has.
#[derive(Default)]
pub(super) struct Live<'a> {
    /// Rows of the terminal; without, all is shown.
    pub(super) rows: Option<usize>,
    /// Oldest first.
    pub(super) events: &'a [Event],
    /// Why nothing newer is shown.
    pub(super) trouble: Option<String>,
}

/// Rows that events take at most while devices want them too.
const EVENT_ROWS: usize = 6;

/// The fleet as lines, no more than there are rows.
pub(super) fn lines(fleet: &Snapshot, address: &str, live: &Live<'_>) -> Vec<Line> {
    let mut lines = head(fleet, address, live.trouble.as_deref());
    let staged: Vec<_> = fleet.rollouts.iter().filter(|rollout| rollout.number > 0).cloned().collect();
    if !staged.is_empty() {
        lines.push(plain(""));
        lines.extend(titled(&rollout_table(&staged), |_| Tone::Plain));
    }
    lines.push(plain(""));
    let left = live.rows.map_or(usize::MAX, |rows| rows.saturating_sub(lines.len()));
    let for_events = if live.events.is_empty() { 0 } else { live.events.len().min(EVENT_ROWS) + 1 };
    lines.extend(devices(&fleet.devices, left.saturating_sub(for_events)));
    if let Some(rows) = live.rows {
        let room = rows.saturating_sub(lines.len() + 1);
        let newest = live.events.iter().rev().take(room);
        if room > 0 && !live.events.is_empty() {
            lines.push(plain(""));
            lines.extend(newest.map(|event| Line { text: event.to_string(), tone: Tone::Faint }));
        }
        lines.truncate(rows);
    }
    lines
}

fn head(fleet: &Snapshot, address: &str, trouble: Option<&str>) -> Vec<Line> {
    let status = &fleet.status;
    let (connected, devices) = (status.connected, status.devices);
    let state = if status.settled { "settled" } else { "moving" };
    let title = format!("secateur at {address}: {connected} of {devices} devices connected, {state}");
    let sent = ByteCount(fleet.devices.iter().map(|device| device.received_bytes).sum());
    let (models, plans, reprunes) = (status.models, status.plans, status.reprunes);
    let counts = format!("{models} models, plan {plans}, {reprunes} re-prunes, {sent} of updates sent");
    let mut lines = vec![Line { text: title, tone: Tone::Title }, plain(&counts)];
    lines.extend(trouble.map(|text| Line { text: text.to_owned(), tone: Tone::Bad }));
    lines
}

/// A table of at most `rows` lines. Where they are too few, devices that are as they should be are left out first.
fn devices(devices: &[Device], rows: usize) -> Vec<Line> {
    let room = rows.saturating_sub(1);
    let mut shown: Vec<&Device> = devices.iter().collect();
    let cut = shown.len() > room;
    if cut {
        shown.sort_by_key(|device| tone(device) == Tone::Good);
        shown.truncate(room.saturating_sub(1));
    }
    let limited = |metric| devices.iter().any(|device| device.budget.get(metric).is_some());
    let measures: Vec<_> =
        MEASURES.iter().filter(|measure| measure.always || limited(measure.metric)).collect();
    let mut columns = vec![("device", Align::Left), ("state", Align::Left), ("rung", Align::Left)];
    columns.extend(measures.iter().map(|measure| (measure.title, Align::Left)));
    columns.extend([
        ("sent", Align::Right),
        ("group", Align::Left),
        ("model", Align::Left),
        ("why", Align::Left),
    ]);
    let row = |device: &&Device| {
        let mut row = vec![device.name.clone(), state(device).to_owned(), device.rung_label.clone()];
        row.extend(measures.iter().map(|measure| against(device, measure)));
        let sent = ByteCount(device.received_bytes).to_string();
        row.extend([sent, device.group.clone(), device.model.clone(), device.reason.clone()]);
        row
    };
    let text = table(&columns, &shown.iter().map(row).collect::<Vec<_>>());
    let mut lines = titled(&text, |index| tone(shown[index]));
    if cut && rows > 1 {
        lines.push(plain(&format!("… and {} more", devices.len() - shown.len())));
    }
    lines
}

/// A column of what devices measure.
struct Measure {
    title: &'static str,
    metric: Metric,
    /// Shown even where no device has a limit on it.
    always: bool,
    value: fn(&Device) -> Option<f64>,
}

const MEASURES: [Measure; 7] = [
    Measure {
        title: "accuracy",
        metric: Metric::AccuracyMin,
        always: true,
        value: |device| Some(device.report.as_ref()?.accuracy).filter(|a| a.samples > 0).map(|a| a.value()),
    },
    Measure {
        title: "p95",
        metric: Metric::LatencyP95,
        always: true,
        value: |device| {
            let counts = Some(device.latency_p95_us).filter(|&us| us > 0);
            counts.or(device.report.as_ref().map(|report| report.latency.p95.get())).map(|us| us as f64)
        },
    },
    Measure {
        title: "memory",
        metric: Metric::PeakMemoryBytes,
        always: true,
        value: |device| Some(device.report.as_ref()?.memory.inference_peak.get() as f64),
    },
    Measure {
        title: "stored",
        metric: Metric::ModelBytes,
        always: true,
        value: |device| Some(device.report.as_ref()?.model_bytes.get() as f64),
    },
    Measure {
        title: "MACs",
        metric: Metric::Macs,
        always: true,
        value: |device| device.variant.map(|_| device.cost.macs.get() as f64),
    },
    Measure {
        title: "energy",
        metric: Metric::EnergyPerInference,
        always: false,
        value: |device| Some(device.report.as_ref()?.sensed.energy_per_inference_nj? as f64 / 1000.0),
    },
    Measure {
        title: "today",
        metric: Metric::DownloadBytesPerDay,
        always: false,
        value: |device| Some(device.report.as_ref()?.today.total() as f64),
    },
];

/// What was measured, and where there is a limit, how it stands to it: `29 µs ≤ 41 µs`.
fn against(device: &Device, measure: &Measure) -> String {
    let metric = measure.metric;
    let value = (measure.value)(device);
    let shown = value.map_or("–".to_owned(), |value| metric.show(value));
    let Some(limit) = device.budget.get(metric) else { return shown };
    let least = metric == Metric::AccuracyMin;
    let sign = match value.map(|value| if least { value >= limit } else { value <= limit }) {
        Some(false) if least => "<",
        Some(false) => ">",
        _ if least => "≥",
        _ => "≤",
    };
    format!("{shown} {sign} {}", metric.show(limit))
}

fn tone(device: &Device) -> Tone {
    match state(device) {
        "met" => Tone::Good,
        "offline" | "no group" => Tone::Faint,
        "moving" => Tone::Busy,
        _ => Tone::Bad,
    }
}

/// The lines of a table: its head, and rows in their tones.
fn titled(table: &str, tone: impl Fn(usize) -> Tone) -> Vec<Line> {
    let tone_of = |index: usize| index.checked_sub(1).map_or(Tone::Title, &tone);
    let line = |(index, text): (usize, &str)| Line { text: text.to_owned(), tone: tone_of(index) };
    table.lines().enumerate().map(line).collect()
}

fn plain(text: &str) -> Line {
    Line { text: text.to_owned(), tone: Tone::Plain }
}
