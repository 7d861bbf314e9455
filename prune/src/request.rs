//! What a caller asks for and what it gets: plain data, no numerics.

use std::str::FromStr;

use secateur_common::{Budget, ByteCount, ParseError};
use secateur_model::timing::Timing;
use secateur_model::{Graph, Tensor};

use crate::Pattern;

/// How what goes is chosen.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Method {
    /// Channels (neurons) or weights dropped at random at a rate: the plain baseline.
    Random,
    /// Weights, or channels by the root mean square of their weights, under an absolute threshold: the other one.
    Threshold,
    /// Smallest norm first: L2 of a channel's weights, relative to its layer's mean; |w| over all layers for weights.
    Magnitude,
    /// `|W| · ‖X‖`: what a channel or weight carries on calibration data.
    Activation,
    /// Optimal brain surgeon: what goes is what the rest can make good best, by the second moments of calibration data
    /// without labels; widths by what each group's cut does to the answers; the rest refitted layer after layer.
    Obs,
}

impl Method {
    /// All methods, plainest first.
    pub const ALL: [Self; 5] = [Self::Random, Self::Threshold, Self::Magnitude, Self::Activation, Self::Obs];

    /// The name on command lines and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Random => "random",
            Self::Threshold => "threshold",
            Self::Magnitude => "magnitude",
            Self::Activation => "activation",
            Self::Obs => "obs",
        }
    }

    /// Whether it cannot do without calibration data.
    pub fn needs_calibration(self) -> bool {
        matches!(self, Self::Activation | Self::Obs)
    }

    /// What is taken where nobody chose: `obs` with calibration data, `magnitude` without.
    pub fn default_for(calibration: Option<&Tensor>) -> Self {
        if calibration.is_some() { Self::Obs } else { Self::Magnitude }
    }

    /// What the method prunes where nobody chose: single weights for `threshold`, channels for the others.
    pub fn default_structure(self) -> Structure {
        if self == Self::Threshold { Structure::Weights } else { Structure::Channels }
    }
}

impl FromStr for Method {
    type Err = ParseError;

    /// Reads a name; `structured` stands for `random`, `weight` for `threshold` (the source document's words).
    fn from_str(text: &str) -> Result<Self, ParseError> {
        match text {
            "random" | "structured" => Ok(Self::Random),
            "threshold" | "weight" => Ok(Self::Threshold),
            "magnitude" => Ok(Self::Magnitude),
            "activation" => Ok(Self::Activation),
            "obs" => Ok(Self::Obs),
            _ => Err(ParseError::new(
                "method",
                text,
                "random (structured), threshold (weight), magnitude, activation or obs",
            )),
        }
    }
}

/// What is removed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Structure {
    /// Whole channels: tensors get smaller.
    Channels,
    /// Single weights: tensors get sparse.
    Weights,
    /// Channels, then single weights of what is left, by `obs` to a budget.
    Mixed,
}

impl FromStr for Structure {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        match text {
            "channels" | "structured" => Ok(Self::Channels),
            "weights" | "unstructured" => Ok(Self::Weights),
            "mixed" => Ok(Self::Mixed),
            _ => Err(ParseError::new("structure", text, "channels, weights or mixed")),
        }
    }
}

/// What to prune, how far, by what.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// How what goes is chosen.
    pub method: Method,
    /// What is removed.
    pub structure: Structure,
    /// Which single weights may go without others, for the method `obs`.
    pub pattern: Pattern,
    /// The limits that must hold; `macs`, `model_bytes` and `peak_memory_bytes` are understood, `latency_p95` and
    /// `energy_per_inference` where the meter knows the time.
    pub budget: Budget,
    /// The share of each group's channels, or of all weights, to remove (0 to below 1), for `random` and
    /// `magnitude` where the budget is empty.
    pub rate: Option<f64>,
    /// The absolute threshold of `threshold`; the least that meets the budget where it is absent.
    pub threshold: Option<f32>,
    /// Seed of `random`, and of the oracle's inputs.
    pub seed: u64,
    /// How what is left of the layers is refitted.
    pub refit: Refit,
    /// Unlabelled inputs `[N, …]`, as the graph's first input takes them (f32, already scaled).
    pub calibration: Option<&'a Tensor>,
}

/// How far the weights that a cut leaves may change, to make good what went.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Refit {
    /// Of all weights, the share that the least squares may give new values (above 0, at most 1), small layers before large
    /// ones. Less costs some accuracy and makes the update of a device that holds the old weights so much smaller.
    pub share: f64,
    /// Whether large layers whose inputs are cut change only by what the inputs that stay can take over from those that go,
    /// by one small map for all outputs: whoever holds the weights from which the cut was made needs little more than the map.
    pub takeover: bool,
    /// Whether all layers are then tuned together on the dense net's answers, by gradient and without labels. Only where
    /// the share is 1.
    pub tune: bool,
    /// Of the calibration inputs, the least squares take so many at most.
    pub inputs: usize,
}

impl Refit {
    /// All weights, and tuned.
    pub const WHOLE: Self = Self { share: 1.0, takeover: false, tune: true, inputs: usize::MAX };
    /// Where the result is shipped as a delta: what is tried first (docs/prune.md says what it costs and saves).
    pub const SHIPPED: Self = Self { share: 0.3, tune: false, ..Self::WHOLE };
    /// Where a device waits for it.
    pub const ON_DEMAND: Self = Self { inputs: 1024, tune: false, ..Self::WHOLE };

    /// Whether what is refitted is then tuned.
    pub(crate) fn tunes(&self) -> bool {
        self.tune && self.share == 1.0 && !self.takeover
    }
}

/// Shares of the dense multiply-accumulates at which a ladder has rungs, where nobody chose.
pub const SHARES: [f64; 6] = [0.75, 0.50, 0.35, 0.25, 0.15, 0.10];

/// What tells of a graph that which its shapes do not.
#[derive(Clone, Copy)]
pub struct Meter<'a> {
    /// Bytes as stored (`update::stored_bytes`).
    pub bytes: &'a dyn Fn(&Graph) -> ByteCount,
    /// What inferences take where it will run, for limits on latency and energy.
    pub timing: Option<&'a Timing>,
}

impl<'a> Meter<'a> {
    /// One that knows nothing of time.
    pub fn new(bytes: &'a dyn Fn(&Graph) -> ByteCount) -> Self {
        Self { bytes, timing: None }
    }
}

/// How far a pruning is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Progress {
    /// What is being done, for people.
    pub stage: &'static str,
    /// Steps of the stage that are done.
    pub done: usize,
    /// Steps of the stage.
    pub total: usize,
}

/// What is left of one channel group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Kept {
    /// The group, by the first weight that produces it.
    pub group: String,
    /// Channels kept.
    pub kept: usize,
    /// Channels of the dense graph.
    pub of: usize,
}

/// A pruned graph.
#[derive(Clone, Debug)]
pub struct Pruned {
    /// The graph, ordinary ONNX with the names of inputs, outputs and weights kept.
    pub graph: Graph,
    /// The method that chose.
    pub method: Method,
    /// What is left of each group (structured pruning).
    pub kept: Vec<Kept>,
    /// The threshold that was used (single weights).
    pub threshold: Option<f32>,
}

/// One member of the family.
#[derive(Clone, Debug)]
pub struct Rung {
    /// The graph.
    pub graph: Graph,
    /// `dense`, or its share of the dense MACs such as `macs 50%`.
    pub label: String,
    /// Its share of the dense MACs, as built.
    pub share: f64,
    /// What is left of each group.
    pub kept: Vec<Kept>,
}
