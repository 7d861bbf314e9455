//! What a graph comes to before kernels are chosen: operators that the plan knows, over values of one sample.

use secateur_model::eval::Window;

use super::layout::Shape;

/// A value's index in [`Network::values`].
pub(crate) type ValueId = usize;

/// Nodes in order.
#[derive(Debug, Default)]
pub(crate) struct Network {
    pub(crate) values: Vec<Shape>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) outputs: Vec<ValueId>,
}

/// One operator, with what its result passes last.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) op: Op,
    pub(crate) inputs: Vec<ValueId>,
    pub(crate) output: ValueId,
    pub(crate) activation: Activation,
}

/// An elementwise function.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Activation {
    None,
    /// `min(max(x, low), high)`.
    Clamp {
        low: f32,
        high: f32,
    },
    /// `x` where positive, `slope · x` elsewhere.
    Leaky(f32),
    Sigmoid,
    /// `min(max(scale · x + shift, 0), 1)`.
    HardSigmoid {
        scale: f32,
        shift: f32,
    },
    /// `x · min(max(x / 6 + 1 / 2, 0), 1)`.
    HardSwish,
    Tanh,
}

/// What a node does.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    /// The graph's input, scaled and shifted.
    Input(Affine),
    /// Weights `[out, in / group, kernel]`; a second input is added.
    Conv {
        weights: Vec<f32>,
        bias: Vec<f32>,
        window: Window,
        group: usize,
    },
    /// Weights `[out, in]`.
    Dense {
        weights: Vec<f32>,
        bias: Vec<f32>,
    },
    /// One scale and shift a channel.
    Affine(Affine),
    /// Nothing but the activation.
    Same,
    /// Two values, of which the second may have planes of one element.
    Binary(Binary),
    MaxPool(Window),
    /// The mean over each window, of the elements that lie inside or of all.
    AveragePool {
        window: Window,
        count_padding: bool,
    },
    GlobalAverage,
    GlobalMax,
    /// Channels of all inputs.
    Concat,
    /// Elements in the same order under another shape.
    Reshape,
    /// Each element `rows` times one below the other, `columns` times beside each other.
    Upsample {
        rows: usize,
        columns: usize,
    },
    /// A border of one value.
    Pad {
        top: usize,
        left: usize,
        value: f32,
    },
    Softmax,
    /// Every `rows`-th row and `columns`-th column as a plane of its own, so that a strided convolution becomes one
    /// without strides: plane `(y · columns + x) · channels + c`.
    Phases {
        rows: usize,
        columns: usize,
    },
}

/// `scale · x + shift`; one of each for all, or one a channel.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Affine {
    pub(crate) scale: Vec<f32>,
    pub(crate) shift: Vec<f32>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Binary {
    Add,
    Sub,
    Mul,
    Div,
}

impl Affine {
    pub(crate) fn identity() -> Self {
        Self { scale: vec![1.0], shift: vec![0.0] }
    }

    pub(crate) fn scale(&self, channel: usize) -> f32 {
        self.scale[channel.min(self.scale.len() - 1)]
    }

    pub(crate) fn shift(&self, channel: usize) -> f32 {
        self.shift[channel.min(self.shift.len() - 1)]
    }

    /// This, then `next`.
    pub(crate) fn then(&self, next: &Self) -> Self {
        let channels = [&self.scale, &self.shift, &next.scale, &next.shift].map(Vec::len);
        let channels = channels.into_iter().max().unwrap_or(1);
        Self {
            scale: (0..channels).map(|c| self.scale(c) * next.scale(c)).collect(),
            shift: (0..channels).map(|c| self.shift(c) * next.scale(c) + next.shift(c)).collect(),
        }
    }
}

impl Activation {
    /// Its value at `x`.
    #[inline(always)]
    pub(crate) fn at(self, x: f32) -> f32 {
        let clamp = |x: f32, low: f32, high: f32| {
            let x = if x < low { low } else { x };
            if x > high { high } else { x }
        };
        match self {
            Self::None => x,
            Self::Clamp { low, high } => clamp(x, low, high),
            Self::Leaky(slope) => {
                if x < 0.0 {
                    slope * x
                } else {
                    x
                }
            }
            Self::Sigmoid => 1.0 / (1.0 + (-x).exp()),
            Self::HardSigmoid { scale, shift } => clamp(scale * x + shift, 0.0, 1.0),
            Self::HardSwish => x * clamp(x / 6.0 + 0.5, 0.0, 1.0),
            Self::Tanh => x.tanh(),
        }
    }
}
