//! The budget flags, the same wherever a budget can be given.

use secateur_common::{BudgetSpec, Limit, Metric};

/// What may be spent and what must be reached; absolute, or relative to the dense model (`25%`, `3x`: a third).
#[derive(clap::Args, Clone, Copy, Debug, Default)]
#[command(next_help_heading = "Budget (absolute, or relative to the dense model: 25%, 3x)")]
pub(crate) struct BudgetFlags {
    /// Multiply-accumulates of one inference, such as 1.5M or 50%
    #[arg(long, value_name = "LIMIT", value_parser = |text: &str| Metric::Macs.parse(text))]
    macs: Option<Limit>,
    /// The variant as stored, such as 200KiB or 4x
    #[arg(long, value_name = "LIMIT", value_parser = |text: &str| Metric::ModelBytes.parse(text))]
    model_bytes: Option<Limit>,
    /// Weights and live activations at their peak, such as 1MiB
    #[arg(long, value_name = "LIMIT", value_parser = |text: &str| Metric::PeakMemoryBytes.parse(text))]
    peak_memory: Option<Limit>,
    /// 95th percentile of the time of one inference, such as 5ms
    #[arg(long, value_name = "LIMIT", value_parser = |text: &str| Metric::LatencyP95.parse(text))]
    latency_p95: Option<Limit>,
    /// Energy of one inference, such as 300uJ
    #[arg(long, value_name = "LIMIT", value_parser = |text: &str| Metric::EnergyPerInference.parse(text))]
    energy: Option<Limit>,
    /// Accuracy to reach, such as 0.88 or 88%
    #[arg(long, value_name = "FLOOR", value_parser = |text: &str| Metric::AccuracyMin.parse(text))]
    accuracy_min: Option<Limit>,
}

impl BudgetFlags {
    /// The budget that the flags state.
    pub(crate) fn spec(&self) -> BudgetSpec {
        BudgetSpec {
            macs: self.macs,
            model_bytes: self.model_bytes,
            peak_memory_bytes: self.peak_memory,
            latency_p95: self.latency_p95,
            energy_per_inference: self.energy,
            download_bytes_per_day: None,
            accuracy_min: self.accuracy_min,
        }
    }
}
