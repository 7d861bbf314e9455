//! An update explained tensor by tensor, for people.

use crate::entry::{Change, Entry, Op, Shape};
use crate::manifest::Manifest;

/// How one tensor of the target comes to be.
#[derive(Clone, PartialEq, Debug)]
pub struct TensorUpdate {
    /// What is done.
    pub operation: Operation,
    /// Whether rows or columns of the old tensor are picked first.
    pub gathered: bool,
    /// Whether the old tensor serves as context.
    pub from_base: bool,
    /// Elements of the new tensor; 0 for a kept one, which the update does not tell.
    pub elements: u64,
    /// Nonzeros before and after; zeros for a kept one, or one that is no floats.
    pub nonzeros: Change,
    /// Bytes of its coded streams.
    pub bytes: u64,
}

/// The operations of the format.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    /// Stays as it is (but for a gather).
    Keep,
    /// Old magnitudes below a threshold become zero.
    Rule,
    /// Levels of a quantiser's grid, most of them zero or not.
    Sparse,
    /// Levels of a grid, told by the gaps between those that are not zero.
    Gap,
    /// Exact floats.
    Dense,
    /// Elements of another type, exactly.
    Raw,
    /// Levels or exact floats, given what the old tensor comes to where the inputs that stay take over those that went.
    Refit,
}

impl TensorUpdate {
    /// Bits of the coded stream for each element.
    pub fn bits_per_weight(&self) -> f64 {
        if self.elements == 0 { 0.0 } else { self.bytes as f64 * 8.0 / self.elements as f64 }
    }
}

impl std::fmt::Display for Operation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Keep => "keep",
            Self::Rule => "rule",
            Self::Sparse => "sparse",
            Self::Gap => "gap",
            Self::Dense => "dense",
            Self::Raw => "raw",
            Self::Refit => "refit",
        })
    }
}

impl Manifest {
    /// What is done to each tensor, in the order of the target's tensor names. The names themselves are in the base or
    /// in the coded stream: zip with the names of the graph where it is at hand.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = TensorUpdate> + '_ {
        self.tensors.iter().map(TensorUpdate::of)
    }

    /// Bytes of the carried skeleton with the names; 0 where the base has the same.
    pub fn skeleton_bytes(&self) -> u64 {
        self.skeleton.map_or(0, |entry| entry.stored as u64)
    }

    /// Bytes of all kept-index sets.
    pub fn index_bytes(&self) -> u64 {
        self.sets.stored as u64
    }
}

impl TensorUpdate {
    fn of(entry: &Entry) -> Self {
        let operation = match entry.op {
            _ if matches!(entry.shape, Shape::Refitted(..)) => Operation::Refit,
            Op::Keep => Operation::Keep,
            Op::Rule { .. } => Operation::Rule,
            Op::Sparse { .. } => Operation::Sparse,
            Op::Gap { .. } => Operation::Gap,
            Op::Dense { .. } => Operation::Dense,
            Op::Raw { .. } => Operation::Raw,
        };
        let derived = matches!(entry.op, Op::Keep | Op::Rule { .. });
        Self {
            operation,
            gathered: matches!(entry.shape, Shape::Gathered(_) | Shape::Refitted(..)),
            from_base: derived || entry.op.context().is_some(),
            elements: entry.elements as u64,
            nonzeros: entry.nonzeros,
            bytes: entry.payload_bytes() as u64,
        }
    }
}
