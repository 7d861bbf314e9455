//! The commands as a user meets them: real processes, their exit codes, stdout and stderr.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

#[test]
fn without_arguments_it_shows_help() {
    let done = secateur(&[]);
    assert!(done.status.success());
    assert!(text(&done.stdout).contains("Usage: secateur"));
    for command in [
        "inspect", "prune", "compare", "evaluate", "bench", "update", "model", "apply", "device", "plan",
        "demo", "top",
    ] {
        assert!(text(&done.stdout).contains(command), "help names {command}");
        assert!(secateur(&[command, "--help"]).status.success(), "{command} --help");
    }
    assert!(text(&secateur(&["--version"]).stdout).starts_with("secateur "));
}

#[test]
fn wrong_use_is_told_in_two_lines_with_exit_code_2() {
    let folder = tempfile::tempdir().unwrap();
    let (truncated, noise) = (folder.path().join("truncated.onnx"), folder.path().join("noise.npz"));
    let model = std::fs::read(example("lenet5.onnx")).unwrap();
    std::fs::write(&truncated, &model[..model.len() / 2]).unwrap();
    std::fs::write(&noise, [7; 1000]).unwrap();
    let (truncated, noise) = (truncated.to_str().unwrap(), noise.to_str().unwrap());
    let (lenet, data) = (example("lenet5.onnx"), example("validation.npz"));
    let out = folder.path().join("out.onnx");
    let out = out.to_str().unwrap();
    let wrong: &[&[&str]] = &[
        &["frobnicate"],
        &["inspect"],
        &["inspect", "missing.onnx"],
        &["inspect", folder.path().to_str().unwrap()],
        &["inspect", truncated],
        &["inspect", noise],
        &["evaluate", &lenet, "--data", noise],
        &["evaluate", &lenet, "--data", &example("calibration.npz")],
        &["bench", &lenet, "--runs", "0"],
        &["prune", &lenet, "--calibration", &data, "--macs", "-3", "-o", out],
        &["prune", &lenet, "--calibration", &data, "--macs", "many", "-o", out],
        &["prune", &lenet, "--calibration", noise, "--macs", "50%", "-o", out],
        &["prune", &lenet, "--calibration", &data, "--method", "astrology", "--macs", "50%", "-o", out],
        &["compare", &lenet, "--validation", &data, "--methods", "astrology"],
        &["compare", &lenet, "--validation", &data, "--points", "many"],
        &["compare", &lenet, "--validation", &example("calibration.npz"), "--methods", "magnitude"],
        &["update", "apply", "--from", &lenet, noise, "-o", out],
        &["update", "show", noise],
        &["apply", "-f", noise],
    ];
    for arguments in wrong {
        let done = secateur(arguments);
        let stderr = text(&done.stderr);
        assert_eq!(done.status.code(), Some(2), "{arguments:?}: {stderr}");
        assert!(done.stdout.is_empty(), "{arguments:?} wrote to stdout");
        let lines: Vec<_> = stderr.lines().collect();
        let two =
            matches!(lines[..], [what, help] if what.starts_with("error: ") && help.starts_with("help: "));
        assert!(two, "{arguments:?}: {stderr}");
    }
    assert!(!Path::new(out).exists(), "nothing is written on an error");
}

#[test]
fn inspect_counts_what_the_model_costs() {
    let document = json(&["inspect", &example("lenet5.onnx")]);
    assert_eq!(document["macs"], 2_293_000);
    assert_eq!(document["parameters"], document["nonzero"]);
    assert_eq!(document["layers"].as_array().unwrap().len(), 4);
    assert!(
        document["model_bytes"].as_u64().unwrap() > 0 && document["peak_memory_bytes"].as_u64().unwrap() > 0
    );
    assert!(!document["groups"].as_array().unwrap().is_empty());
}

#[test]
fn every_method_prunes_to_its_budget_and_tells_the_accuracy_of_the_file() {
    let folder = tempfile::tempdir().unwrap();
    for method in ["random", "threshold", "magnitude"] {
        let out = folder.path().join(format!("{method}.onnx"));
        let out = out.to_str().unwrap();
        let told = json(&[
            "prune",
            &example("lenet5.onnx"),
            "--calibration",
            &example("calibration.npz"),
            "--validation",
            &example("validation.npz"),
            "--method",
            method,
            "--macs",
            "50%",
            "-o",
            out,
        ]);
        assert_eq!(told["method"], method);
        let (before, after) = (&told["before"], &told["after"]);
        assert!(number(&after["macs"]) <= 0.5 * number(&before["macs"]), "{method}: {told}");
        let judged = json(&["evaluate", out, "--data", &example("validation.npz")]);
        for field in ["samples", "correct", "accuracy", "accuracy_low", "accuracy_high"] {
            assert_eq!(judged[field], after[field], "{method}: {field}");
        }
        let read_again = json(&["inspect", out]);
        for field in ["macs", "parameters", "nonzero", "peak_memory_bytes"] {
            assert_eq!(read_again[field], after[field], "{method}: {field}");
        }
    }
}

#[test]
fn compare_measures_each_method_at_each_point_and_draws_it() {
    let folder = tempfile::tempdir().unwrap();
    let plot = folder.path().join("frontier.svg");
    let plot = plot.to_str().unwrap();
    let (lenet, data) = (example("lenet5.onnx"), example("validation.npz"));
    // Without calibration data `obs` reaches nothing and must say so, while the other method goes on.
    let told = json(&[
        "compare",
        &lenet,
        "--validation",
        &data,
        "--methods",
        "magnitude,obs",
        "--points",
        "50%",
        "--runs",
        "20",
        "--plot",
        plot,
    ]);
    let [pruned, refused] = &told["rows"].as_array().unwrap()[..] else { panic!("{told}") };
    assert_eq!((&pruned["method"], &pruned["structure"]), (&"magnitude".into(), &"channels".into()));
    let (before, after) = (&told["before"], &pruned["after"]);
    assert!(number(&after["macs"]) <= 0.5 * number(&before["macs"]), "{told}");
    let share = number(&after["macs"]) / number(&before["macs"]);
    assert!((number(&pruned["macs_share"]) - share).abs() < 1e-9, "{told}");
    assert!(number(&after["latency_p50_us"]) > 0.0 && number(&before["latency_p50_us"]) > 0.0);
    assert!(refused["reason"].as_str().unwrap().contains("calibration") && refused["after"].is_null());

    let out = folder.path().join("half.onnx");
    let out = out.to_str().unwrap();
    let alone =
        json(&["prune", &lenet, "--validation", &data, "--method", "magnitude", "--macs", "50%", "-o", out]);
    for (name, value) in alone["after"].as_object().unwrap() {
        assert_eq!(value, &after[name], "compare and prune agree on {name}");
    }
    let drawn = std::fs::read_to_string(plot).unwrap();
    assert!(drawn.contains(">magnitude</text>") && drawn.contains(">dense</text>") && drawn.len() < 30_000);
}

#[test]
fn an_update_turns_the_old_model_into_the_new_one_and_nothing_else_into_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let old = example("lenet5.onnx");
    let (new, update, result) = (path("new.onnx"), path("update"), path("result.onnx"));
    json(&["prune", &old, "--calibration", &example("calibration.npz"), "--macs", "50%", "-o", &new]);
    let made = json(&["update", "make", "--from", &old, "--to", &new, "-o", &update, "--exact"]);
    assert_eq!(number(&made["bytes"]), std::fs::metadata(&update).unwrap().len() as f64);
    let applied = json(&["update", "apply", "--from", &old, &update, "-o", &result]);
    assert_eq!(applied["target"], made["target"]);
    assert_eq!(json(&["update", "show", &update])["target"], made["target"]);
    let data = example("validation.npz");
    assert_eq!(json(&["evaluate", &result, "--data", &data]), json(&["evaluate", &new, "--data", &data]));
    let wrong = secateur(&["update", "apply", "--from", &new, &update, "-o", &path("wrong.onnx")]);
    assert_eq!(wrong.status.code(), Some(2), "the wrong base is refused: {}", text(&wrong.stderr));
    assert!(!Path::new(&path("wrong.onnx")).exists());
}

#[test]
fn bench_times_single_inferences() {
    let told = json(&["bench", &example("lenet5.onnx"), "--runs", "50", "--threads", "1"]);
    let (p50, p95) = (number(&told["latency_p50_us"]), number(&told["latency_p95_us"]));
    assert!(0.0 < p50 && p50 <= p95, "{told}");
}

fn secateur(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_secateur-under-test"));
    command.args(arguments).output().expect("the program starts")
}

/// The one document that a command prints with `--json`.
fn json(arguments: &[&str]) -> Value {
    let done = secateur(&[arguments, &["--json"]].concat());
    assert!(done.status.success(), "{arguments:?}: {}", text(&done.stderr));
    serde_json::from_slice(&done.stdout).expect("one JSON document and nothing else")
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn example(name: &str) -> String {
    let path: PathBuf = [env!("CARGO_MANIFEST_DIR"), "..", "examples", name].iter().collect();
    path.to_str().expect("a path in UTF-8").to_owned()
}
