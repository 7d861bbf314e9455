//! What a device measured.

use serde::{Deserialize, Serialize};

use crate::{Accuracy, ByteCount, Generation, Ledger, Micros, ModelName, VariantId};

/// Latency of single inferences at batch 1, from a histogram with three significant digits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct LatencySummary {
    /// Inferences timed.
    pub count: u64,
    /// Median.
    pub p50: Micros,
    /// 95th percentile.
    pub p95: Micros,
    /// 99th percentile.
    pub p99: Micros,
}

/// Memory of a device's inference.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct DeviceMemory {
    /// Heap that the loaded variant and its inferences took at their peak, as counted by the allocator.
    pub inference_peak: ByteCount,
    /// The program's peak resident set (`VmHWM`); zero where the system does not tell.
    pub process_peak: ByteCount,
}

/// What the machine told of itself while inferences were timed; none of what it does not tell.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Sensed {
    /// Nanojoules that the processor's packages took for each inference, all else that ran meanwhile included (RAPL).
    pub energy_per_inference_nj: Option<u64>,
    /// The energy was not measured: it is the watts that the device was declared to take, times the median latency.
    #[serde(default)]
    pub energy_declared: bool,
    /// The hottest zone afterwards, in thousandths of a degree Celsius.
    pub temperature_millidegrees: Option<i64>,
    /// Times that a core was throttled for its heat meanwhile.
    pub throttled: Option<u64>,
}

impl Sensed {
    /// With the energy that a machine of so many `watts` takes for an inference of `latency`, if it told none itself.
    #[must_use]
    pub fn or_declared(self, watts: Option<f64>, latency: Micros) -> Self {
        match (self.energy_per_inference_nj, watts) {
            (None, Some(watts)) => Self {
                energy_per_inference_nj: Some((watts * latency.get() as f64 * 1e3) as u64),
                energy_declared: true,
                ..self
            },
            _ => self,
        }
    }
}

/// What one device measured with one variant. It holds no input, no output and no label.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Report {
    /// Rises with each report of a device, across restarts; a repeated one is counted once.
    pub sequence: u64,
    /// The model that was measured.
    pub model: ModelName,
    /// The variant in force while it was measured.
    pub variant: VariantId,
    /// The generation in force while it was measured.
    pub generation: Generation,
    /// Answers on the device's own labelled shard; no samples where it has none.
    pub accuracy: Accuracy,
    /// Time per inference.
    pub latency: LatencySummary,
    /// Peak memory.
    pub memory: DeviceMemory,
    /// Energy, heat and throttling, where the machine tells.
    #[serde(default)]
    pub sensed: Sensed,
    /// The variant as stored on the device.
    pub model_bytes: ByteCount,
    /// The whole cache directory on disk.
    pub disk_bytes: ByteCount,
    /// Received from the coordinator since the device was enrolled, updates only.
    pub wire_bytes: ByteCount,
    /// Received from the coordinator today, by cause, as counted at the device's socket.
    #[serde(default)]
    pub today: Ledger,
}

/// A report as the coordinator keeps it: with when it was heard.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Heard {
    /// Seconds since the Unix epoch by the coordinator's clock.
    pub at_unix_s: u64,
    /// What was heard.
    pub report: Report,
}
