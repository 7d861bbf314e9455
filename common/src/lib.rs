//! The vocabulary of Secateur as types: ids, units, budgets, costs, accuracies, reports, and every cap.
//!
//! Architecture invariant: nothing here does I/O, reads a clock or draws randomness; nothing here knows
//! the wire, the disk or a model's graph.
#![forbid(unsafe_code)]

mod accuracy;
pub mod budget;
pub mod caps;
mod cost;
mod digest;
mod fleet;
mod ids;
mod labels;
pub mod ledger;
mod probe;
mod report;
mod rollout;
mod units;

pub use accuracy::Accuracy;
pub use budget::{Budget, BudgetSpec, Limit, Metric, Violation};
pub use cost::Cost;
pub use digest::{Digest, Hasher, VariantId};
pub use fleet::{FleetSpec, GroupSpec};
pub use ids::{DeviceId, Generation, ModelName, Name};
pub use labels::{Labels, Selector};
pub use ledger::{Cause, Ledger};
pub use probe::probe_input;
pub use report::{DeviceMemory, Heard, LatencySummary, Report, Sensed};
pub use rollout::{JudgePolicy, Portion, RolloutPolicy, Share, Window};
pub use units::{ByteCount, MacCount, Micros, ParseError};
