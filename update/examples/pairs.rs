//! One update, in process: bytes and times as a line of JSON.
//! `cargo run --release -p secateur-update --example pairs -- OLD.onnx NEW.onnx 2e-3`; `-` for OLD makes a full update,
//! an error of 0 an exact one. The update is applied and the result compared bit for bit. `bench/updates` runs it.
#![allow(clippy::print_stdout, clippy::disallowed_methods)] // a bench prints and measures

use std::time::Instant;

use secateur_common::Generation;
use secateur_model::{Graph, canonical, onnx};
use secateur_update::{apply, encode, publish};

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [old, new, max_nmse] = &arguments[..] else { return Err("give OLD.onnx|- NEW.onnx NMSE".into()) };
    let base = if old == "-" { None } else { Some(read(old)?) };
    let target = read(new)?;
    let max_nmse = max_nmse.parse()?;
    let (published, publishing) = best(|| Ok(publish(&target, max_nmse)))?;
    let (update, encoding) = best(|| Ok(encode(base.as_ref(), &published, Generation(1))?))?;
    let (applied, decoding) = best(|| Ok(apply(base.as_ref(), &update)?))?;
    if canonical::variant_id(&applied.graph) != canonical::variant_id(&published) {
        return Err("the result is another one".into());
    }
    println!(
        r#"{{"bytes": {}, "publish_ms": {publishing:.2}, "encode_ms": {encoding:.2}, "decode_ms": {decoding:.2}}}"#,
        update.len()
    );
    Ok(())
}

fn read(path: &str) -> Result<Graph, Failure> {
    Ok(onnx::read(&std::fs::read(path)?)?)
}

/// The result, and the best time of five in milliseconds.
fn best<T>(work: impl Fn() -> Result<T, Failure>) -> Result<(T, f64), Failure> {
    let timed = || {
        let start = Instant::now();
        let result = work()?;
        Ok::<_, Failure>((result, start.elapsed().as_secs_f64() * 1e3))
    };
    let (mut result, mut time) = timed()?;
    for _ in 1..5 {
        let (again, took) = timed()?;
        (result, time) = (again, time.min(took));
    }
    Ok((result, time))
}
