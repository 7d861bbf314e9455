//! Bytes and times of updates between the files of a folder of ONNX variants:
//! `cargo run --release -p secateur-update --example pairs -- ../shared/anchors/pairs/lenet300`.
//! `0` is exact, another error lossy; every update is applied and compared bit for bit.
#![allow(clippy::print_stdout, clippy::disallowed_methods)] // a bench prints and measures

use std::path::Path;
use std::time::Instant;

use secateur_common::Generation;
use secateur_model::{Graph, canonical, onnx};
use secateur_update::{apply, encode, publish};

const PAIRS: [(&str, &str, f64); 12] = [
    ("dense", "sparse90", 0.0),
    ("sparse90", "sparse95", 0.0),
    ("dense", "struct3x", 0.0),
    ("dense", "sparse90_tuned", 2e-3),
    ("sparse90", "sparse90_tuned", 2e-3),
    ("dense", "struct3x_tuned", 2e-3),
    ("", "sparse90", 2e-3),
    ("", "sparse90_tuned", 2e-3),
    ("", "struct3x_tuned", 2e-3),
    ("", "dense", 2e-3),
    ("dense", "sparse90_tuned", 0.0),
    ("", "dense", 0.0),
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!(
        "{:<40} {:>6} {:>8} {:>9} {:>9} {:>9}",
        "update", "error", "bytes", "publish", "encode", "decode"
    );
    for folder in std::env::args().skip(1) {
        for (from, to, max_nmse) in PAIRS {
            let base = if from.is_empty() { None } else { Some(read(&folder, from)?) };
            let target = read(&folder, to)?;
            let (published, publishing) = timed(|| publish(&target, max_nmse));
            let (update, encoding) = timed(|| encode(base.as_ref(), &published, Generation(1)));
            let update = update?;
            let (applied, decoding) = timed(|| apply(base.as_ref(), &update));
            assert_eq!(canonical::variant_id(&applied?.graph), canonical::variant_id(&published));
            let model = Path::new(&folder).file_name().unwrap_or_default().to_string_lossy();
            println!(
                "{:<40} {max_nmse:>6} {:>8} {publishing:>6.1} ms {encoding:>6.1} ms {decoding:>6.1} ms",
                format!("{model} {from} -> {to}"),
                update.len(),
            );
        }
    }
    Ok(())
}

fn read(folder: &str, name: &str) -> Result<Graph, Box<dyn std::error::Error>> {
    Ok(onnx::read(&std::fs::read(Path::new(folder).join(name).with_extension("onnx"))?)?)
}

fn timed<T>(work: impl FnOnce() -> T) -> (T, f64) {
    let start = Instant::now();
    let result = work();
    (result, start.elapsed().as_secs_f64() * 1e3)
}
