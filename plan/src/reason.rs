//! Why a device has what it has.

use std::fmt;

use secateur_common::{Metric, ModelName, Name, Violation};
use serde::{Deserialize, Serialize};

use crate::rollout::Fault;

/// The reason of one assignment.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// No group's selector matches the device.
    NoGroup,
    /// The group's model is not registered, or not ready.
    NoModel(ModelName),
    /// The device's first variant: the least pruned rung that fits.
    First,
    /// What it has still fits.
    Kept,
    /// What it had broke a limit, as measured or computed.
    Moved(Violation),
    /// What it had fits, but a better rung does as well.
    Improved,
    /// The group, its model or its budget changed.
    BudgetChanged(Name),
    /// A limit is relative to the dense model, which the device must measure first.
    AwaitingDense(Metric),
    /// A rung that fits is being pruned.
    AwaitingRung(Violation),
    /// No rung fits, and none can be made; the device keeps what it has.
    Infeasible {
        /// The limit that binds, with the best that was found.
        binding: Violation,
        /// The smallest relaxation that would do: new values of the limits that must give way, worst first.
        #[serde(default)]
        relaxed: Vec<(Metric, f64)>,
    },
    /// The device's accuracy fell though its variant is the same: the data has changed, and pruning less would not help.
    Drift {
        /// Accuracy soon after activation, a share.
        from: f64,
        /// Accuracy now.
        to: f64,
    },
    /// The device has accepted a newer generation than the store knows: the store is an older one, and the device keeps
    /// what it has until an operator applies the fleet or resumes the rollout.
    Restored,
    /// A rollout has not come to this device yet.
    Waiting {
        /// The group.
        group: Name,
    },
    /// What is planned for it was judged bad: the device has what it had before.
    Halted {
        /// The rollout's number in its group.
        rollout: u64,
        /// What was bad.
        fault: Fault,
    },
}

impl Reason {
    /// Whether this reason is a move that a measurement or a changed budget caused.
    pub fn is_reprune(&self) -> bool {
        matches!(self, Self::Moved(_) | Self::BudgetChanged(_))
    }

    /// Whether the device's data has changed.
    pub fn is_drift(&self) -> bool {
        matches!(self, Self::Drift { .. })
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoGroup => f.write_str("no group matches the device's labels"),
            Self::NoModel(model) => write!(f, "model {model} is not registered"),
            Self::First => f.write_str("first: the least pruned rung that fits"),
            Self::Kept => f.write_str("kept: it fits"),
            Self::Moved(violation) => write!(f, "moved: {violation}"),
            Self::Improved => f.write_str("moved up: a less pruned rung fits too"),
            Self::BudgetChanged(group) => write!(f, "moved: the budget of group {group} changed"),
            Self::AwaitingDense(metric) => {
                write!(f, "waiting: {metric} is relative to the dense model, which is measured first")
            }
            Self::AwaitingRung(violation) => write!(f, "waiting: a rung is being pruned, {violation}"),
            Self::Infeasible { binding, relaxed } => {
                write!(f, "infeasible: {binding}")?;
                for (at, (metric, value)) in relaxed.iter().enumerate() {
                    let before = if at == 0 { "; it would fit with" } else { " and" };
                    let sign = if *metric == Metric::AccuracyMin { "≥" } else { "≤" };
                    write!(f, "{before} {metric} {sign} {}", metric.show(*value))?;
                }
                Ok(())
            }
            Self::Drift { from, to } => write!(
                f,
                "kept: drift, its accuracy fell from {:.1} % to {:.1} % with the same variant: the data has changed",
                from * 100.0,
                to * 100.0
            ),
            Self::Restored => f.write_str(
                "held: the device is ahead of this coordinator's store, which was restored from a backup; \
                 `secateur apply` or `secateur rollout resume` lets it move",
            ),
            Self::Waiting { group } => {
                write!(f, "waiting: the rollout of group {group} has not come to it yet")
            }
            Self::Halted { rollout, fault } => {
                write!(f, "held: rollout {rollout} was halted, {fault}; it has what it had before")
            }
        }
    }
}
