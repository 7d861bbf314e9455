//! The reference interpreter: plain kernels, any batch, any value fetched.
//!
//! It is the oracle for every other way of running a graph, it takes the activations that pruning needs, it folds
//! constants and it infers shapes ([`trace`]). It is not how a device runs a model: that is `engine`.

mod conv;
mod einsum;
mod elementwise;
mod layout;
mod lengths;
mod matmul;
mod parts;
mod pool;
mod quantise;
mod recurrent;
mod reduce;
mod resize;
mod scatter;
mod transposed;
mod unary;
mod volume;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use secateur_common::caps;

use crate::tensor::element_count;
use crate::{DType, Graph, Node, Tensor, TensorData, TensorError};

pub use conv::Window;
pub(crate) use elementwise::{broadcast_indices, broadcast_shape};

/// Why a graph could not be run.
#[derive(Clone, Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum EvalError {
    #[error("node `{node}`: operator `{op}` is not known here")]
    UnknownOperator { node: String, op: String },
    #[error("node `{node}` ({op}): {problem}")]
    Node { node: String, op: String, problem: String },
    #[error("input `{0}` is not given")]
    MissingInput(String),
    #[error("the graph has no value `{0}`")]
    UnknownValue(String),
}

/// What went wrong inside a kernel.
pub(crate) enum Fault {
    Unknown,
    Problem(String),
}

impl Fault {
    fn at(self, node: &Node) -> EvalError {
        let (op, node) = (node.op.clone(), node.label());
        match self {
            Self::Unknown => EvalError::UnknownOperator { node, op },
            Self::Problem(problem) => EvalError::Node { node, op, problem },
        }
    }
}

impl From<String> for Fault {
    fn from(problem: String) -> Self {
        Self::Problem(problem)
    }
}

impl From<&str> for Fault {
    fn from(problem: &str) -> Self {
        Self::Problem(problem.to_owned())
    }
}

impl From<TensorError> for Fault {
    fn from(error: TensorError) -> Self {
        Self::Problem(error.to_string())
    }
}

/// How far a kernel goes: it may stop at the shape of its result, unless that is small (a shape, an index, …).
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Depth {
    Values,
    Shapes,
}

/// Elements of a value, at most, that is computed even where only shapes are asked for.
const SMALL: usize = 4096;

/// One node's call.
pub(crate) struct Call<'a> {
    pub(crate) node: &'a Node,
    pub(crate) inputs: Vec<Option<&'a Tensor>>,
    pub(crate) opset: i64,
    pub(crate) depth: Depth,
}

impl<'a> Call<'a> {
    /// The input at `index`, which must be there.
    pub(crate) fn input(&self, index: usize) -> Result<&'a Tensor, Fault> {
        self.optional(index).ok_or_else(|| format!("input {index} is missing").into())
    }

    /// Whether the elements of a result of `shape` need not be computed: zeros stand for them.
    pub(crate) fn skips(&self, shape: &[usize]) -> bool {
        self.depth == Depth::Shapes
            && shape.iter().fold(1usize, |count, &dim| count.saturating_mul(dim)) > SMALL
    }

    pub(crate) fn optional(&self, index: usize) -> Option<&'a Tensor> {
        self.inputs.get(index).copied().flatten()
    }

    /// The floats of the input at `index`, with its shape.
    pub(crate) fn floats(&self, index: usize) -> Result<(&'a [usize], &'a [f32]), Fault> {
        let tensor = self.input(index)?;
        let values = tensor.as_f32().ok_or_else(|| format!("input {index} is not of 32-bit floats"))?;
        Ok((tensor.shape(), values))
    }

    /// Integers that are an attribute in some operator sets and an input in others.
    pub(crate) fn ints(&self, attribute: &str, index: usize) -> Result<Option<Vec<i64>>, Fault> {
        if let Some(values) = self.node.ints(attribute) {
            return Ok(Some(values.to_vec()));
        }
        match self.optional(index) {
            None => Ok(None),
            Some(tensor) => {
                let values =
                    tensor.as_i64().ok_or_else(|| format!("input {index} is not of 64-bit integers"))?;
                Ok(Some(values.to_vec()))
            }
        }
    }
}

/// The window of a convolution or pool: `kernel` as its weights or attribute say, over the spatial axes `input`.
///
/// # Errors
/// Where the attributes make none.
pub fn window(node: &Node, kernel: &[usize], input: &[usize]) -> Result<Window, EvalError> {
    Window::of(node, kernel, input).map_err(|fault| fault.at(node))
}

/// Runs `graph` on `inputs` and returns the values named in `fetch` (any value of the graph).
///
/// # Errors
/// Where an input is missing, a value unknown, or a node cannot be computed.
pub fn run(
    graph: &Graph,
    inputs: &[(&str, &Tensor)],
    fetch: &[&str],
) -> Result<BTreeMap<String, Tensor>, EvalError> {
    let mut values: HashMap<&str, Tensor> =
        inputs.iter().map(|(name, tensor)| (*name, (*tensor).clone())).collect();
    let needed = needed_nodes(graph, fetch);
    let mut uses: HashMap<&str, usize> = HashMap::new();
    for node in needed.iter().map(|&index| &graph.nodes[index]) {
        for name in node.inputs.iter().filter(|name| !name.is_empty()) {
            *uses.entry(name).or_default() += 1;
        }
    }
    let fetched: BTreeSet<&str> = fetch.iter().copied().collect();
    for index in needed {
        let node = &graph.nodes[index];
        let outputs = compute(graph, node, &values, Depth::Values)?;
        for (name, tensor) in node.outputs.iter().zip(outputs) {
            if !name.is_empty() && (uses.contains_key(name.as_str()) || fetched.contains(name.as_str())) {
                values.insert(name, tensor);
            }
        }
        for name in node.inputs.iter().filter(|name| !name.is_empty()) {
            let left = uses.entry(name).or_default();
            *left = left.saturating_sub(1);
            if *left == 0 && !fetched.contains(name.as_str()) {
                values.remove(name.as_str());
            }
        }
    }
    let take = |name: &&str| {
        let value = values.get(name).or_else(|| graph.initializers.get(*name)).cloned();
        value
            .map(|tensor| ((*name).to_owned(), tensor))
            .ok_or_else(|| EvalError::UnknownValue((*name).to_owned()))
    };
    fetch.iter().map(take).collect()
}

/// The nodes on which the values in `fetch` depend, in order.
fn needed_nodes(graph: &Graph, fetch: &[&str]) -> Vec<usize> {
    let producers = graph.producers();
    let mut needed = BTreeSet::new();
    let mut waiting: Vec<&str> = fetch.to_vec();
    while let Some(name) = waiting.pop() {
        if let Some(&index) = producers.get(name)
            && needed.insert(index)
        {
            waiting.extend(graph.nodes[index].inputs.iter().map(String::as_str));
        }
    }
    needed.into_iter().collect()
}

/// Walks `graph` with the given inputs and calls `see` with each value that can be computed, at its shape; numbers
/// are real only where they follow from constants and shapes. What cannot be computed is as `declared` says, or else
/// passed over. The walk ends where the values still to be read are over [`caps::ACTIVATION_ELEMENTS`] together.
pub(crate) fn trace<'g>(
    graph: &'g Graph,
    inputs: Vec<(&'g str, Tensor)>,
    declared: impl Fn(&str) -> Option<Tensor>,
    mut see: impl FnMut(&'g str, &Tensor),
) {
    let mut values: HashMap<&str, Tensor> = inputs.into_iter().collect();
    let mut live = 0;
    for (name, tensor) in &values {
        see(name, tensor);
        live += tensor.len();
    }
    let mut last_reader: HashMap<&str, usize> = HashMap::new();
    for (index, node) in graph.nodes.iter().enumerate() {
        last_reader.extend(node.inputs.iter().map(|name| (name.as_str(), index)));
    }
    for (index, node) in graph.nodes.iter().enumerate() {
        let computed = compute(graph, node, &values, Depth::Shapes);
        let outputs: Vec<Option<Tensor>> = match computed {
            Ok(outputs) => outputs.into_iter().map(Some).collect(),
            Err(_) => node.outputs.iter().map(|name| declared(name)).collect(),
        };
        for (name, tensor) in node.outputs.iter().zip(outputs).filter(|(name, _)| !name.is_empty()) {
            let Some(tensor) = tensor else { continue };
            see(name, &tensor);
            if last_reader.contains_key(name.as_str()) {
                live += tensor.len();
                values.insert(name, tensor);
            }
        }
        if live > caps::ACTIVATION_ELEMENTS {
            return;
        }
        for name in node.inputs.iter().filter(|name| last_reader.get(name.as_str()) == Some(&index)) {
            live -= values.remove(name.as_str()).map_or(0, |tensor| tensor.len());
        }
    }
}

/// Computes one node.
pub(crate) fn compute(
    graph: &Graph,
    node: &Node,
    values: &HashMap<&str, Tensor>,
    depth: Depth,
) -> Result<Vec<Tensor>, EvalError> {
    let mut inputs = Vec::with_capacity(node.inputs.len());
    for name in &node.inputs {
        let tensor = match name.as_str() {
            "" => None,
            name => Some(
                values
                    .get(name)
                    .or_else(|| graph.initializers.get(name))
                    .ok_or_else(|| EvalError::MissingInput(name.to_owned()))?,
            ),
        };
        inputs.push(tensor);
    }
    apply(&Call { node, inputs, opset: graph.opset(), depth }).map_err(|fault| fault.at(node))
}

fn apply(call: &Call<'_>) -> Result<Vec<Tensor>, Fault> {
    if !(call.node.domain.is_empty() || call.node.domain == "ai.onnx") {
        return Err(Fault::Unknown);
    }
    let families = [
        conv::apply,
        transposed::apply,
        matmul::apply,
        pool::apply,
        unary::apply,
        elementwise::apply,
        layout::apply,
        parts::apply,
        lengths::apply,
        resize::apply,
        reduce::apply,
        quantise::apply,
        recurrent::apply,
        einsum::apply,
        scatter::apply,
    ];
    for family in families {
        match family(call) {
            Err(Fault::Unknown) => {}
            done => return done,
        }
    }
    Err(Fault::Unknown)
}

/// Moves elements about without changing them (reshape, transpose, concat, slice, …), as [`layout`] does for values.
pub(crate) fn rearrange(call: &Call<'_>) -> Result<Vec<Tensor>, Fault> {
    match layout::apply(call) {
        Err(Fault::Unknown) => parts::apply(call),
        done => done,
    }
}

/// A zero tensor within the caps.
pub(crate) fn zeros(shape: Vec<usize>) -> Result<Tensor, Fault> {
    let count = zeros_count(&shape)?;
    Ok(Tensor::f32(shape, vec![0.0; count])?)
}

/// Zeros of any element type, within the caps.
pub(crate) fn blank(dtype: DType, shape: Vec<usize>) -> Result<Tensor, Fault> {
    let count = zeros_count(&shape)?;
    let data = match dtype {
        DType::F32 => TensorData::F32(Arc::new(vec![0.0; count])),
        DType::I64 => TensorData::I64(Arc::new(vec![0; count])),
        other => {
            let size = other.size().ok_or_else(|| format!("element type {} is not supported", other.0))?;
            TensorData::Other(other, Arc::new(vec![0; count * size]))
        }
    };
    Ok(Tensor::new(shape, data)?)
}

/// The elements of `tensor` at `indices` under `shape`, or zeros where they need not be known.
fn picked(
    call: &Call<'_>,
    tensor: &Tensor,
    shape: Vec<usize>,
    indices: impl FnOnce() -> Vec<usize>,
) -> Result<Tensor, Fault> {
    if call.skips(&shape) {
        return blank(tensor.dtype(), shape);
    }
    Ok(tensor.picked(shape, &indices()))
}

/// The number of elements of a value of `shape`, where it is within the caps.
pub(crate) fn zeros_count(shape: &[usize]) -> Result<usize, Fault> {
    Ok(element_count(shape)?)
}

/// An axis that may count from the end.
pub(crate) fn axis_of(axis: i64, rank: usize) -> Result<usize, Fault> {
    let from_start = if axis < 0 { axis.checked_add(rank as i64) } else { Some(axis) };
    let index = from_start.and_then(|axis| usize::try_from(axis).ok()).filter(|&axis| axis < rank);
    index.ok_or_else(|| format!("axis {axis} is out of range for rank {rank}").into())
}

/// The element type of a tensor that holds truth values, one byte each.
pub(crate) const BOOL: DType = DType(9);

#[cfg(test)]
mod tests;
