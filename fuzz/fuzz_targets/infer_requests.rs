//! Any bytes as a request for an inference, all JSON or JSON with binary tensors behind it, and as a label: never a panic.
#![no_main]

use secateur_agent::serve::protocol::{Sample, Signature, read, read_label};

libfuzzer_sys::fuzz_target!(|input: (Option<u16>, &[u8])| {
    let (header_bytes, body) = input;
    let sample = |name: &str, shape: &[usize]| Sample { name: name.into(), shape: shape.into() };
    let signature = Signature { input: sample("input", &[1, 2, 3]), output: sample("logits", &[4]) };
    if let Ok(inference) = read(body, header_bytes.map(usize::from), &signature) {
        assert_eq!(inference.values.len(), inference.rows * 6);
    }
    let _ = read_label(body);
});
