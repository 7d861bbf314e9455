//! Why a graph cannot be pruned as asked.

use secateur_common::Metric;

/// What failed, which thing, what to do.
#[derive(Clone, Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum PruneError {
    #[error("the model has nothing that can be pruned ({reasons})")]
    NothingPrunable { reasons: String },
    #[error("the {metric} budget of {} cannot be met: the least that can be reached is {}", .metric.show(*.limit), .metric.show(*.smallest))]
    Infeasible { metric: Metric, limit: f64, smallest: f64 },
    #[error(
        "the {metric} budget cannot be met by pruning alone: give macs, model_bytes or peak_memory_bytes, or say what inferences take"
    )]
    UnsupportedMetric { metric: Metric },
    #[error("the request says nothing of how far to prune: give a budget, a rate or a threshold")]
    NoTarget,
    #[error("the {what} must be {expected}, not {got}")]
    BadOption { what: &'static str, got: String, expected: &'static str },
    #[error("weight `{tensor}` holds a value that is no finite number: repair the model before pruning it")]
    NonFiniteWeight { tensor: String },
    #[error("the calibration data {problem}")]
    BadCalibration { problem: String },
    #[error("method obs needs calibration data: give some, or take magnitude")]
    NeedsCalibration,
    #[error(
        "the cut graph differs from the masked one by {difference:e} of its largest output: a defect in a channel rule; nothing was written"
    )]
    OracleFailed { difference: f64 },
    #[error("the model cannot be run: {problem}")]
    Unrunnable { problem: String },
}
