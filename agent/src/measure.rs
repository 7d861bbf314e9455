//! What the device measures with the variant in force: accuracy on its own shard, latency, memory.

use std::time::Instant;

use secateur_common::{Accuracy, ByteCount, DeviceMemory, LatencySummary, probe_input};
use secateur_engine::{Dataset, EngineError, Latencies, Session};
use secateur_model::Graph;

/// The heap, as counted by the program's allocator (zeros where the program does not install it).
const HEAP: peak_alloc::PeakAlloc = peak_alloc::PeakAlloc;
/// Inferences that are timed where there is no shard.
const PROBE_RUNS: usize = 200;

/// What one measurement found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measured {
    pub(crate) accuracy: Accuracy,
    pub(crate) latency: LatencySummary,
    pub(crate) memory: DeviceMemory,
}

/// Loads `graph`, answers the whole shard twice and times the second pass.
pub(crate) fn measure(graph: &Graph, shard: Option<&Dataset>) -> Result<Measured, EngineError> {
    let before = HEAP.current_usage();
    HEAP.reset_peak_usage();
    let session = Session::load(graph)?;
    let accuracy = match shard {
        Some(shard) => secateur_engine::evaluate(&session, shard, |_, _| {})?,
        None => Accuracy::default(),
    };
    let probe = probe_input(0, session.input_shape().iter().product());
    let runs = shard.map_or(PROBE_RUNS, Dataset::len);
    let mut latencies = Latencies::default();
    for index in 0..runs {
        let input = shard.map_or(&probe[..], |shard| shard.sample(index));
        let start = Instant::now();
        session.run(input)?;
        latencies.record(start.elapsed());
    }
    Ok(Measured {
        accuracy,
        latency: latencies.summary(),
        memory: DeviceMemory {
            inference_peak: ByteCount(HEAP.peak_usage().saturating_sub(before) as u64),
            process_peak: process_peak(),
        },
    })
}

/// `VmHWM` of this process; zero where the system does not tell.
fn process_peak() -> ByteCount {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next()).and_then(|kib| kib.parse::<u64>().ok());
    ByteCount(kib.unwrap_or(0) * 1024)
}
