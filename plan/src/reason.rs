//! Why a device is to run what it is to run.

use std::fmt;

use secateur_common::{Metric, Violation};

/// A typed reason; its text is for operators.
#[derive(Clone, PartialEq, Debug)]
pub enum Reason {
    /// No group's selector matches.
    NoGroup,
    /// The group's model is not registered.
    NoModel,
    /// A limit is relative to what the dense model takes on the device, which has to be measured first.
    MeasureDense {
        /// The metric.
        metric: Metric,
    },
    /// The device's first variant.
    First,
    /// What runs fits.
    Kept,
    /// A budget changed, and what ran breaks it.
    Budget {
        /// The limit it breaks.
        violation: Violation,
    },
    /// What ran was measured to break a limit.
    Measured {
        /// The limit it breaks.
        violation: Violation,
    },
    /// A denser variant fits now.
    Denser,
    /// No variant fits.
    Infeasible {
        /// The binding limit's metric.
        metric: Metric,
        /// The limit.
        limit: f64,
        /// What comes nearest to it.
        nearest: f64,
    },
}

impl Reason {
    /// Whether a measurement or a changed budget asked for other pruning.
    pub fn is_reprune(&self) -> bool {
        matches!(self, Self::Budget { .. } | Self::Measured { .. } | Self::Denser)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoGroup => f.write_str("no group's selector matches this device"),
            Self::NoModel => f.write_str("the group's model is not registered"),
            Self::MeasureDense { metric } => {
                write!(f, "{metric} is relative: the dense model is measured first")
            }
            Self::First => f.write_str("first variant: the densest that fits"),
            Self::Kept => f.write_str("kept: it fits"),
            Self::Budget { violation } => write!(f, "moved: the budget changed, {violation}"),
            Self::Measured { violation } => write!(f, "moved: measured {violation}"),
            Self::Denser => f.write_str("moved: a denser variant fits"),
            Self::Infeasible { metric, limit, nearest } => write!(
                f,
                "infeasible: {metric} {} cannot be kept, the nearest is {}",
                metric.show(*limit),
                metric.show(*nearest)
            ),
        }
    }
}
