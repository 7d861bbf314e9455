//! What the device measures with the variant in force: accuracy on its own shard, latency, memory.

use secateur_common::{Accuracy, ByteCount, DeviceMemory, LatencySummary};
use secateur_engine::{Dataset, EngineError};

use crate::loaded::Loaded;

/// Inferences that are timed where there is no shard.
const PROBE_RUNS: usize = 200;

/// What one measurement found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measured {
    pub(crate) accuracy: Accuracy,
    pub(crate) latency: LatencySummary,
    pub(crate) memory: DeviceMemory,
}

/// Answers the whole shard twice and times the second pass; without a shard, times the probe.
pub(crate) fn measure(loaded: &Loaded, shard: Option<&Dataset>) -> Result<Measured, EngineError> {
    let session = &loaded.session;
    let (accuracy, latencies) = match shard {
        Some(shard) => {
            let accuracy = secateur_engine::evaluate(session, shard, |_, _| {})?;
            (
                accuracy,
                secateur_engine::latencies_on(session, (0..shard.len()).map(|index| shard.sample(index)))?,
            )
        }
        None => (Accuracy::default(), secateur_engine::latencies(session, PROBE_RUNS)?),
    };
    Ok(Measured {
        accuracy,
        latency: latencies.summary(),
        memory: DeviceMemory { inference_peak: loaded.heap_peak, process_peak: process_peak() },
    })
}

/// `VmHWM` of this process; zero where the system does not tell.
fn process_peak() -> ByteCount {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next()).and_then(|kib| kib.parse::<u64>().ok());
    ByteCount(kib.unwrap_or(0) * 1024)
}
