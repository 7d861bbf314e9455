//! What a streaming decoder needs: at most 256 KiB and one row, whatever the model. One test, as the allocator counts all.
#![allow(clippy::unwrap_used)] // a test panics where it fails

mod common;

use common::{graph, mapped, weights};
use peak_alloc::PeakAlloc;
use secateur_common::{Generation, caps};
use secateur_model::{DType, Graph, Tensor};
use secateur_update::{AccessError, Base, Decoder, Manifest, Operation, Sink, encode, publish};

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

const LIMIT: usize = 256 * 1024;

/// A sink that keeps nothing, as one that writes to flash.
#[derive(Default)]
struct Counted {
    bytes: usize,
}

impl Sink for Counted {
    fn skeleton(&mut self, _: &[u8]) -> Result<(), AccessError> {
        Ok(())
    }
    fn tensor(&mut self, _: &str, _: DType, _: &[usize]) -> Result<(), AccessError> {
        Ok(())
    }
    fn floats(&mut self, values: &[f32]) -> Result<(), AccessError> {
        self.bytes += values.len() * 4;
        Ok(())
    }
    fn bytes(&mut self, elements: &[u8]) -> Result<(), AccessError> {
        self.bytes += elements.len();
        Ok(())
    }
}

/// Peak bytes that decoding takes beside the base and the frames.
fn peak(base: Option<&Graph>, target: &Graph) -> (usize, Vec<Operation>) {
    let update = encode(base, target, Generation(1)).unwrap();
    let header = Manifest::read(&update).unwrap().header_bytes();
    let operations = Manifest::read(&update).unwrap().tensors().map(|tensor| tensor.operation).collect();
    let (header, payload) = update.split_at(header);
    ALLOCATOR.reset_peak_usage();
    let before = ALLOCATOR.current_usage();
    let manifest = Manifest::read(header).unwrap();
    let mut decoder = Decoder::new(manifest, base.map(|base| base as &dyn Base), Counted::default()).unwrap();
    payload.chunks(caps::FRAME_BYTES).for_each(|frame| decoder.frame(frame).unwrap());
    let (_, sink) = decoder.finish().unwrap();
    assert_eq!(sink.bytes, target.initializers.values().map(Tensor::byte_len).sum::<usize>());
    (ALLOCATOR.peak_usage() - before, operations)
}

/// A convolution of long rows that the mixing coder takes, one that the gap coder takes, sixty layers more, and constants.
fn net(seed: u64) -> Graph {
    let mut graph = graph(vec![
        ("conv.weight", Tensor::f32([220, 512, 3, 3], weights(220 * 4608, seed)).unwrap()),
        ("exact.weight", Tensor::f32([3, 3000], weights(9000, seed + 1)).unwrap()),
        ("large.weight", Tensor::f32([300, 512, 3, 3], weights(300 * 4608, seed + 2)).unwrap()),
        ("shape", Tensor::i64([1500], (0..1500).map(|at| at % 7).collect()).unwrap()),
        ("table", Tensor::i64([9000], (0..9000).collect()).unwrap()),
    ]);
    for layer in 0..60 {
        let tensor = Tensor::f32([30, 20], weights(600, seed + 9 + layer)).unwrap();
        graph.initializers.insert(format!("features.{layer}.conv.weight"), tensor);
    }
    graph
}

#[test]
fn decoding_takes_256_kib_and_one_row() {
    let row = 4608 * 4;
    let dense = net(1);
    let sparse = mapped(&dense, |w| if w.abs() < 0.09 { 0.0 } else { w });
    let noise = weights(1 << 20, 3);
    let mut at = 0;
    let mut tuned = mapped(&sparse, |w| {
        at = (at + 1) % noise.len();
        if w == 0.0 { 0.0 } else { w + 0.1 * noise[at] }
    });
    let exact = tuned.initializers["exact.weight"].clone();
    tuned = publish(&tuned, 2e-3);
    tuned.initializers.insert("exact.weight".into(), exact);
    tuned.initializers.insert("table".into(), Tensor::i64([9000], (1..9001).collect()).unwrap());
    tuned.initializers.insert("shape".into(), Tensor::i64([1500], vec![5; 1500]).unwrap());
    let kept: Vec<usize> = (0..512).filter(|at| at % 3 > 0).collect();
    let mut cut = tuned.clone();
    for name in ["conv.weight", "large.weight"] {
        let tensor = cut.initializers.get_mut(name).unwrap();
        *tensor = tensor.gathered(1, &kept);
    }

    // As large a map as there may be.
    let wide = graph(vec![("w", Tensor::f32([300, 256, 3, 3], weights(300 * 2304, 5)).unwrap())]);
    let half: Vec<usize> = (0..256).step_by(2).collect();
    let narrow = publish(&graph(vec![("w", common::refitted(&wide.initializers["w"], &half))]), 2e-3);

    let mut all = Vec::new();
    let pairs = [
        (None, &tuned),
        (Some(&dense), &sparse),
        (Some(&sparse), &tuned),
        (Some(&tuned), &cut),
        (Some(&wide), &narrow),
    ];
    for (base, target) in pairs {
        let (peak, operations) = peak(base, target);
        println!("{} KiB", peak / 1024);
        assert!(peak <= LIMIT + row, "{peak} bytes");
        all.extend(operations);
    }
    use Operation::{Dense, Gap, Keep, Raw, Refit, Rule, Sparse};
    for operation in [Keep, Rule, Sparse, Gap, Dense, Raw, Refit] {
        assert!(all.contains(&operation), "nothing measured the operation {operation}");
    }
}
