//! A model's rungs as the planner sees them.

use secateur_common::{Accuracy, Cost, Metric, ModelName, VariantId};
use serde::{Deserialize, Serialize};

/// One rung: a variant and what is known of it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Rung {
    /// The variant.
    pub variant: VariantId,
    /// How people call it, such as `50% macs`.
    pub label: String,
    /// What it costs.
    pub cost: Cost,
    /// On the coordinator's validation data, where it has some.
    pub accuracy: Option<Accuracy>,
}

/// A model's rungs, dense first.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Ladder {
    /// The model.
    pub model: ModelName,
    /// The rungs; never empty, the dense model first.
    pub rungs: Vec<Rung>,
    /// The smallest values that pruning was found to reach, where a request was refused.
    #[serde(default)]
    pub floors: Vec<(Metric, f64)>,
}

impl Ladder {
    /// The dense model.
    pub fn dense(&self) -> Option<&Rung> {
        self.rungs.first()
    }

    /// The rung with `variant`, and its index.
    pub fn find(&self, variant: VariantId) -> Option<(usize, &Rung)> {
        self.rungs.iter().enumerate().find(|(_, rung)| rung.variant == variant)
    }

    /// The smallest value of `metric` that pruning was found to reach, if it was ever asked for too much.
    pub fn floor(&self, metric: Metric) -> Option<f64> {
        self.floors.iter().filter(|(m, _)| *m == metric).map(|(_, value)| *value).reduce(f64::min)
    }
}
