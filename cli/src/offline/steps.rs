//! Where the time of an inference goes, for `secateur bench --steps`.

use secateur_engine::{Profile, StepTime};
use serde_json::{Value, json};

use crate::output::{Align, percent, table};

fn gflops(macs: u64, time: std::time::Duration) -> f64 {
    2.0 * macs as f64 / time.as_nanos().max(1) as f64
}

/// Under names of its own.
pub(super) fn document(profile: &Profile) -> Value {
    let step = |step: &StepTime| {
        json!({
            "operator": step.operator,
            "kernel": step.kernel,
            "output": step.output,
            "macs": step.macs,
            "done_macs": step.done_macs,
            "us": step.time.as_nanos() as f64 / 1000.0,
            "fraction_of_peak": gflops(step.done_macs, step.time) / (2e-9 * profile.peak_macs_per_second),
        })
    };
    json!({
        "instruction_set": profile.instruction_set,
        "peak_gflops": 2e-9 * profile.peak_macs_per_second,
        "steps": profile.steps.iter().map(step).collect::<Vec<_>>(),
    })
}

/// As a table.
pub(super) fn text(profile: &Profile) -> String {
    let columns = [
        ("step", Align::Left),
        ("kernel", Align::Left),
        ("output", Align::Left),
        ("MACs", Align::Right),
        ("done", Align::Right),
        ("µs", Align::Right),
        ("of peak", Align::Right),
    ];
    let row = |step: &StepTime| {
        let output: Vec<String> = step.output.iter().map(usize::to_string).collect();
        let peak = profile.peak_macs_per_second * step.time.as_secs_f64();
        vec![
            step.operator.to_owned(),
            step.kernel.clone(),
            output.join("×"),
            step.macs.to_string(),
            step.done_macs.to_string(),
            format!("{:.1}", step.time.as_nanos() as f64 / 1000.0),
            percent(step.done_macs as f64, peak),
        ]
    };
    let peak = 2e-9 * profile.peak_macs_per_second;
    let table = table(&columns, &profile.steps.iter().map(row).collect::<Vec<_>>());
    format!("{table}\n\n{}: at most {peak:.0} GFLOP/s on this core", profile.instruction_set)
}
