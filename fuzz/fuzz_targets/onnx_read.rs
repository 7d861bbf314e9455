//! Any bytes as a model, and through everything that looks at a model before it is run: never a panic.
#![no_main]

use secateur_model::{cost, fold, onnx};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(mut graph) = onnx::read(bytes) else { return };
    let _ = cost::analyse(&graph);
    fold::constants(&mut graph);
    fold::batch_norms(&mut graph);
});
