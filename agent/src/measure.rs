//! What the device measures with the variant in force: accuracy on its own shard, latency, memory.

use secateur_common::{Accuracy, DeviceMemory, LatencySummary, Sensed};
use secateur_engine::{Dataset, EngineError};

use crate::loaded::Loaded;
use crate::sensors::{Sensors, process_peak};

/// Inferences that are timed where there is no shard.
const PROBE_RUNS: usize = 200;

/// What one measurement found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measured {
    pub(crate) accuracy: Accuracy,
    pub(crate) latency: LatencySummary,
    pub(crate) memory: DeviceMemory,
    pub(crate) sensed: Sensed,
}

/// Answers the whole shard twice and times the second pass; without a shard, times the probe. Where the machine does not
/// tell what energy that took, `watts` do.
pub(crate) fn measure(
    loaded: &Loaded,
    shard: Option<&Dataset>,
    watts: Option<f64>,
) -> Result<Measured, EngineError> {
    let session = &loaded.session;
    let accuracy = match shard {
        Some(shard) => secateur_engine::evaluate(session, shard, |_, _| {})?,
        None => Accuracy::default(),
    };
    let sensors = Sensors::start();
    let latencies = match shard {
        Some(shard) => {
            secateur_engine::latencies_on(session, (0..shard.len()).map(|index| shard.sample(index)))?
        }
        None => secateur_engine::latencies(session, PROBE_RUNS)?,
    };
    let latency = latencies.summary();
    Ok(Measured {
        accuracy,
        latency,
        memory: DeviceMemory { inference_peak: loaded.heap_peak, process_peak: process_peak() },
        sensed: sensors.sensed(latencies.count()).or_declared(watts, latency.p50),
    })
}
