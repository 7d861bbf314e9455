//! Shapes of all values, by running the graph on zeros with all that is large stopped at its shape: one table of
//! operators serves values and shapes, and shape arithmetic in the graph needs nothing of its own. Behind an operator
//! that is not known, shapes that the file declares are taken.

use std::collections::{BTreeMap, BTreeSet};

use crate::eval::{self, blank, zeros_count};
use crate::{DType, Dim, Graph, Tensor, ValueInfo};

/// Value name → lengths of its axes. What could not be inferred is absent.
pub type Shapes = BTreeMap<String, Vec<usize>>;

/// The length that a free axis other than the batch is taken to have: divided by 32 without rest, as strides ask for.
pub const FREE_LENGTH: usize = 128;

/// Why shapes cannot be inferred at all.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum ShapeError {
    #[error("input `{0}` has no shape; export the model with one")]
    NoShape(String),
    #[error("input `{0}` is larger than the limit")]
    TooLarge(String),
}

/// The shapes of all values with `batch` samples; other free axes are taken as [`FREE_LENGTH`].
///
/// # Errors
/// Where an input has no shape, or one over the caps.
pub fn infer(graph: &Graph, batch: usize) -> Result<Shapes, ShapeError> {
    Ok(survey(graph, batch, FREE_LENGTH)?.shapes)
}

/// What follows from the lengths of the inputs alone.
pub(crate) struct Survey {
    pub(crate) shapes: Shapes,
    /// Short lists of integers (shapes, axes, bounds) that depend on constants and lengths only.
    pub(crate) integers: BTreeMap<String, Vec<i64>>,
}

/// Integers that describe a shape, at most.
const SHORT: usize = 2 * secateur_common::caps::TENSOR_RANK;

/// [`infer`] with free axes of length `free`, and the integers that follow.
///
/// # Errors
/// As [`infer`].
pub(crate) fn survey(graph: &Graph, batch: usize, free: usize) -> Result<Survey, ShapeError> {
    let mut inputs = Vec::new();
    for input in &graph.inputs {
        let shape = shape_of(input, batch, |_| free)?;
        zeros_count(&shape).map_err(|_| ShapeError::TooLarge(input.name.clone()))?;
        let Ok(tensor) = blank(DType(input.dtype), shape) else { continue }; // what reads it is not understood
        inputs.push((input.name.as_str(), tensor));
    }
    let mut shapes: Shapes =
        graph.initializers.iter().map(|(name, tensor)| (name.clone(), tensor.shape().to_vec())).collect();
    let lengths = of_lengths_only(graph);
    let mut integers = BTreeMap::new();
    let declared = |name: &str| -> Option<Tensor> {
        let value = graph.declared.get(name)?;
        blank(DType(value.dtype), shape_of(value, batch, |_| free).ok()?).ok()
    };
    eval::trace(graph, inputs, declared, |name, tensor| {
        shapes.insert(name.to_owned(), tensor.shape().to_vec());
        if let Some(values) = tensor.as_i64().filter(|v| v.len() <= SHORT && lengths.contains(name)) {
            integers.insert(name.to_owned(), values.to_vec());
        }
    });
    Ok(Survey { shapes, integers })
}

/// Values that depend on constants and lengths, not on elements of inputs.
fn of_lengths_only(graph: &Graph) -> BTreeSet<&str> {
    let mut known: BTreeSet<&str> = BTreeSet::new();
    for node in graph.nodes.iter().filter(|node| !node.op.starts_with("Random")) {
        let mut read = node.inputs.iter().filter(|name| !name.is_empty());
        let follows = |name: &String| known.contains(name.as_str()) || graph.initializers.contains_key(name);
        if node.is("Shape") || node.is("Size") || read.all(follows) {
            known.extend(node.outputs.iter().map(String::as_str));
        }
    }
    known
}

/// The shape of an input with `batch` samples: its first axis, where free, is the batch; others have the lengths given,
/// or [`FREE_LENGTH`].
///
/// # Errors
/// As [`infer`].
pub fn input_shape(
    input: &ValueInfo,
    batch: usize,
    lengths: &BTreeMap<String, usize>,
) -> Result<Vec<usize>, ShapeError> {
    shape_of(input, batch, |symbol| lengths.get(symbol).copied().unwrap_or(FREE_LENGTH))
}

fn shape_of(value: &ValueInfo, batch: usize, free: impl Fn(&str) -> usize) -> Result<Vec<usize>, ShapeError> {
    let dims = value.shape.as_ref().ok_or_else(|| ShapeError::NoShape(value.name.clone()))?;
    let length = |(axis, dim): (usize, &Dim)| match dim {
        Dim::Fixed(length) => *length,
        Dim::Symbol(_) if axis == 0 => batch,
        Dim::Symbol(symbol) => free(symbol),
    };
    Ok(dims.iter().enumerate().map(length).collect())
}

/// The free axes of the graph's inputs other than the batch, as `input axis (symbol)`: for people.
pub fn free_axes(graph: &Graph) -> Vec<String> {
    let axes = |input: &ValueInfo| {
        let dims = input.shape.clone().unwrap_or_default().into_iter().enumerate().skip(1);
        let free = dims.filter_map(|(axis, dim)| match dim {
            Dim::Symbol(symbol) => Some(format!("{} axis {axis} ({symbol})", input.name)),
            Dim::Fixed(_) => None,
        });
        free.collect::<Vec<_>>()
    };
    graph.inputs.iter().flat_map(axes).collect()
}
