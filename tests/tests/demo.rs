//! The demo, told by its own document: the whole loop as real processes.

use std::process::Command;

use serde_json::Value;

/// What each device is told with, under the contract's names.
const FIELDS: &[&str] = &[
    "id",
    "group",
    "budget",
    "feasible",
    "met",
    "reason",
    "variant",
    "rung",
    "generation",
    "macs",
    "model_bytes",
    "peak_memory_bytes",
    "update_bytes",
    "full_bytes",
    "samples",
    "correct",
    "accuracy",
    "accuracy_dense",
    "latency_p50_us",
    "latency_p95_us",
];

#[test]
fn the_story_holds() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_secateur-under-test"));
    let done = command.args(["demo", "--once", "--json"]).output().expect("the program starts");
    let stderr = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{stderr}");
    let document: Value = serde_json::from_slice(&done.stdout).expect("one JSON document and nothing else");
    let devices = document["devices"].as_array().expect("devices");
    assert_eq!(devices.len(), 6);
    for device in devices {
        for field in FIELDS {
            assert!(!device[*field].is_null(), "{field} of {device}");
        }
        assert_eq!(device["samples"], 400, "measured on the device's own shard");
    }
    let (feasible, impossible): (Vec<_>, Vec<_>) =
        devices.iter().partition(|device| device["feasible"] == true);
    assert_eq!((feasible.len(), impossible.len()), (5, 1));
    assert!(feasible.iter().all(|device| device["met"] == true));
    assert!(impossible[0]["reason"].as_str().expect("a reason").contains("model_bytes"));
    assert_eq!(document["recovered_after_kill"], true);
    assert!(document["reprunes"].as_u64() >= Some(1));
    let halved = devices.iter().find(|device| device["group"] == "macs").expect("the halved group");
    let share = halved["update_bytes"].as_f64().unwrap() / halved["full_bytes"].as_f64().unwrap();
    assert!(share < 0.75, "the halved budget's update is {share} of a full one");
}
