//! Decoding, operation by operation, in bytes of fp32 out a second, one thread:
//! `cargo bench -p secateur-update --bench decode`.
//! `stream` gives the pieces to a sink that drops them, the digest of the result included; `apply` makes the graph too
//! and takes the base's digest before. The tensors are synthetic: a bell of weights, 90 % of them gone where sparse.
#![allow(missing_docs, clippy::unwrap_used)] // criterion's macros; a bench panics where it fails

#[path = "../tests/common/mod.rs"]
mod common;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use secateur_common::{Generation, VariantId, caps};
use secateur_model::{DType, Graph, Tensor, canonical};
use secateur_update::{AccessError, Base, Decoder, Manifest, Sink, apply, encode, publish};

/// Above the size at which the gap coder is chosen, and below.
const LARGE: [usize; 2] = [2048, 1024];
const SMALL: [usize; 2] = [500, 800];

fn variant(shape: [usize; 2], seed: u64) -> Graph {
    common::graph(vec![("w", Tensor::f32(shape, common::weights(shape[0] * shape[1], seed)).unwrap())])
}

/// The magnitude that 90 % of the weights are below.
fn threshold(graph: &Graph) -> f32 {
    let mut magnitudes: Vec<f32> =
        graph.initializers["w"].as_f32().unwrap().iter().map(|w| w.abs()).collect();
    magnitudes.sort_by(f32::total_cmp);
    magnitudes[magnitudes.len() * 9 / 10]
}

fn pruned(graph: &Graph) -> Graph {
    let threshold = threshold(graph);
    common::mapped(graph, |w| if w.abs() < threshold { 0.0 } else { w })
}

fn tuned(graph: &Graph) -> Graph {
    let noise = common::weights(LARGE[0] * LARGE[1], 77);
    let mut at = 0;
    common::mapped(graph, |w| {
        at += 1;
        if w == 0.0 { 0.0 } else { w + 0.1 * noise[at - 1] }
    })
}

/// A base whose digest is known, as it is on a device that decoded it.
struct Known<'a>(&'a Graph, VariantId);

impl Base for Known<'_> {
    fn variant_id(&self) -> VariantId {
        self.1
    }
    fn skeleton(&self) -> Vec<u8> {
        self.0.skeleton()
    }
    fn names(&self) -> Vec<&str> {
        self.0.names()
    }
    fn tensor(&self, name: &str) -> Option<(DType, &[usize])> {
        self.0.tensor(name)
    }
    fn floats(&self, name: &str, first: usize, values: &mut [f32]) -> Result<(), AccessError> {
        self.0.floats(name, first, values)
    }
    fn bytes(&self, name: &str, first: usize, elements: &mut [u8]) -> Result<(), AccessError> {
        Base::bytes(self.0, name, first, elements)
    }
}

/// Drops all.
struct Nowhere;

impl Sink for Nowhere {
    fn skeleton(&mut self, _: &[u8]) -> Result<(), AccessError> {
        Ok(())
    }
    fn tensor(&mut self, _: &str, _: DType, _: &[usize]) -> Result<(), AccessError> {
        Ok(())
    }
    fn floats(&mut self, values: &[f32]) -> Result<(), AccessError> {
        std::hint::black_box(values);
        Ok(())
    }
    fn bytes(&mut self, elements: &[u8]) -> Result<(), AccessError> {
        std::hint::black_box(elements);
        Ok(())
    }
}

fn stream(base: Option<&dyn Base>, update: &[u8]) {
    let manifest = Manifest::read(update).unwrap();
    let payload = &update[manifest.header_bytes()..];
    let mut decoder = Decoder::new(manifest, base, Nowhere).unwrap();
    payload.chunks(caps::FRAME_BYTES).for_each(|frame| decoder.frame(frame).unwrap());
    decoder.finish().unwrap();
}

fn decode(criterion: &mut Criterion) {
    for (size, shape) in [("large", LARGE), ("small", SMALL)] {
        let dense = variant(shape, 5);
        let sparse = pruned(&dense);
        let tuned = tuned(&sparse);
        let [dense8, sparse8, tuned8] = [&dense, &sparse, &tuned].map(|graph| publish(graph, 2e-3));
        let half: Vec<usize> = (0..shape[0]).filter(|at| at % 3 != 1).collect();
        let mut cut = dense.clone();
        let tensor = cut.initializers.get_mut("w").unwrap();
        *tensor = tensor.gathered(0, &half);
        let cases: [(&str, Option<&Graph>, &Graph); 9] = [
            ("keep", Some(&dense), &dense),
            ("rule", Some(&dense), &sparse),
            ("gather", Some(&dense), &cut),
            ("full dense", None, &dense8),
            ("full sparse90", None, &sparse8),
            ("dense to tuned", Some(&dense), &tuned8),
            ("sparse90 to tuned", Some(&sparse), &tuned8),
            ("exact tuned", Some(&sparse), &tuned),
            ("exact full sparse90", None, &sparse),
        ];
        for (name, base, target) in cases {
            let update = encode(base, target, Generation(1)).unwrap();
            let out = target.initializers["w"].byte_len();
            let mut group = criterion.benchmark_group(format!("{size} {name} ({} B)", update.len()));
            group.throughput(Throughput::Bytes(out as u64)).sample_size(10);
            let known = base.map(|base| Known(base, canonical::variant_id(base)));
            group.bench_with_input(BenchmarkId::from_parameter("stream"), &update, |bencher, update| {
                bencher.iter(|| stream(known.as_ref().map(|known| known as &dyn Base), update));
            });
            group.bench_with_input(BenchmarkId::from_parameter("apply"), &update, |bencher, update| {
                bencher.iter(|| apply(base, update).unwrap());
            });
            group.finish();
        }
    }
}

criterion_group!(benches, decode);
criterion_main!(benches);
