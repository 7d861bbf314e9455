//! Shapes of all values, by running the graph on zeros with convolutions and products stopped at their shapes: one
//! table of operators serves values and shapes, and shape arithmetic in the graph needs nothing of its own.

use std::collections::BTreeMap;

use crate::eval::{self, zeros_count};
use crate::{DType, Dim, Graph, Tensor, ValueInfo};

/// Value name → lengths of its axes. What could not be inferred is absent.
pub type Shapes = BTreeMap<String, Vec<usize>>;

/// Why shapes cannot be inferred at all.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum ShapeError {
    #[error("input `{0}` has no shape; export the model with one")]
    NoShape(String),
    #[error(
        "input `{input}`: the length of axis {axis} (`{symbol}`) is not known; export the model with a fixed one"
    )]
    FreeDimension { input: String, axis: usize, symbol: String },
    #[error("input `{0}` is larger than the limit")]
    TooLarge(String),
}

/// The shapes of all values with `batch` samples.
///
/// # Errors
/// Where an input has no shape, or a free axis other than its first.
pub fn infer(graph: &Graph, batch: usize) -> Result<Shapes, ShapeError> {
    infer_with(graph, batch, &BTreeMap::new())
}

/// As [`infer`], with lengths for symbolic axes.
///
/// # Errors
/// As [`infer`].
pub fn infer_with(
    graph: &Graph,
    batch: usize,
    lengths: &BTreeMap<String, usize>,
) -> Result<Shapes, ShapeError> {
    let mut inputs = Vec::new();
    for input in &graph.inputs {
        let shape = input_shape(input, batch, lengths)?;
        let count = zeros_count(&shape).map_err(|_| ShapeError::TooLarge(input.name.clone()))?;
        let tensor = match DType(input.dtype) {
            DType::F32 => Tensor::f32(shape, vec![0.0; count]),
            DType::I64 => Tensor::i64(shape, vec![0; count]),
            _ => continue, // what reads it is not understood
        };
        inputs.push((input.name.as_str(), tensor.map_err(|_| ShapeError::TooLarge(input.name.clone()))?));
    }
    let mut shapes: Shapes =
        graph.initializers.iter().map(|(name, tensor)| (name.clone(), tensor.shape().to_vec())).collect();
    eval::trace(graph, inputs, |name, tensor| {
        shapes.insert(name.to_owned(), tensor.shape().to_vec());
    });
    Ok(shapes)
}

/// The shape of an input with `batch` samples: its first axis, where free, is the batch.
///
/// # Errors
/// As [`infer`].
pub fn input_shape(
    input: &ValueInfo,
    batch: usize,
    lengths: &BTreeMap<String, usize>,
) -> Result<Vec<usize>, ShapeError> {
    let dims = input.shape.as_ref().ok_or_else(|| ShapeError::NoShape(input.name.clone()))?;
    let length = |(axis, dim): (usize, &Dim)| match dim {
        Dim::Fixed(length) => Ok(*length),
        Dim::Symbol(symbol) => match lengths.get(symbol) {
            Some(&length) => Ok(length),
            None if axis == 0 => Ok(batch),
            None => {
                Err(ShapeError::FreeDimension { input: input.name.clone(), axis, symbol: symbol.clone() })
            }
        },
    };
    dims.iter().enumerate().map(length).collect()
}
