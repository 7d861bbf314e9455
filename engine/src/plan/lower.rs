//! From a graph to the operators that the plan knows, or the reason why not.

use std::collections::{BTreeMap, BTreeSet};

use secateur_model::shape::{self, Shapes};
use secateur_model::{DType, Graph, Node as Source, Tensor, fold, groups};

use super::layout::Shape;
use super::network::{Activation, Affine, Binary, Network, Node, Op, ValueId};
use super::operators;

/// Why the plan does not cover a graph: for people.
pub(crate) type Reason = String;

/// Elements of one value, at most: larger graphs are not for the edge.
const VALUE_ELEMENTS: usize = 1 << 26;

/// A graph on its way.
pub(super) struct Lowering<'g> {
    pub(super) graph: &'g Graph,
    pub(super) shapes: &'g Shapes,
    network: Network,
    names: BTreeMap<String, ValueId>,
}

/// Lowers `graph` for one sample.
///
/// # Errors
/// With the reason, where it has an operator, a type or a shape that the plan does not know.
pub(crate) fn lower(graph: &Graph) -> Result<Network, Reason> {
    let mut graph = graph.clone();
    groups::prepare(&mut graph);
    fold::batch_norms(&mut graph);
    let shapes = shape::infer(&graph, 1).map_err(|error| error.to_string())?;
    let mut lowering =
        Lowering { graph: &graph, shapes: &shapes, network: Network::default(), names: BTreeMap::new() };
    let [input] = &graph.inputs[..] else { return Err(format!("it has {} inputs", graph.inputs.len())) };
    if DType(input.dtype) != DType::F32 {
        return Err("its input is not of 32-bit floats".into());
    }
    lowering.push(&input.name, Op::Input(Affine::identity()), Vec::new(), Activation::None)?;
    for node in &graph.nodes {
        let named = |reason| format!("{} ({}): {reason}", node.label(), node.op);
        lowering.node(node).map_err(named)?;
    }
    let outputs = graph.outputs.iter().map(|output| lowering.value(&output.name));
    let outputs = outputs.collect::<Result<Vec<_>, _>>()?;
    lowering.network.outputs = outputs;
    Ok(lowering.network)
}

impl Lowering<'_> {
    /// The value `name`.
    pub(super) fn value(&self, name: &str) -> Result<ValueId, Reason> {
        self.names.get(name).copied().ok_or_else(|| format!("`{name}` is a constant or not known"))
    }

    /// The node's data input at `index`.
    pub(super) fn data(&self, node: &Source, index: usize) -> Result<ValueId, Reason> {
        self.value(node.input(index).ok_or_else(|| format!("input {index} is missing"))?)
    }

    pub(super) fn shape(&self, value: ValueId) -> Shape {
        self.network.values[value]
    }

    /// Axes of the value `name`, batch included.
    pub(super) fn dims(&self, name: &str) -> Result<&[usize], Reason> {
        self.shapes.get(name).map(Vec::as_slice).ok_or_else(|| format!("the shape of `{name}` is not known"))
    }

    /// The constant at input `index`.
    pub(super) fn constant(&self, node: &Source, index: usize) -> Option<&Tensor> {
        self.graph.initializers.get(node.input(index)?)
    }

    /// The floats of the constant at input `index`, with its shape.
    pub(super) fn floats(&self, node: &Source, index: usize) -> Result<(&[usize], &[f32]), Reason> {
        let tensor = self.constant(node, index).ok_or_else(|| format!("input {index} is not constant"))?;
        let values = tensor.as_f32().ok_or_else(|| format!("input {index} is not of 32-bit floats"))?;
        Ok((tensor.shape(), values))
    }

    /// Adds a node that makes the value `name`.
    pub(super) fn push(
        &mut self,
        name: &str,
        op: Op,
        inputs: Vec<ValueId>,
        activation: Activation,
    ) -> Result<(), Reason> {
        let shape = sample(self.dims(name)?)?;
        let output = self.network.values.len();
        self.network.values.push(shape);
        self.network.nodes.push(Node { op, inputs, output, activation });
        self.names.insert(name.to_owned(), output);
        Ok(())
    }

    /// Lets `name` stand for `value`.
    pub(super) fn alias(&mut self, name: &str, value: ValueId) {
        self.names.insert(name.to_owned(), value);
    }

    fn node(&mut self, node: &Source) -> Result<(), Reason> {
        if !(node.domain.is_empty() || node.domain == "ai.onnx") {
            return Err(format!("domain `{}` is not known", node.domain));
        }
        let unused = |name: &String| name.is_empty() || !self.is_read(name);
        if !node.outputs.iter().skip(1).all(unused) {
            return Err("more than one output is read".into());
        }
        operators::lower(self, node)
    }

    fn is_read(&self, name: &str) -> bool {
        let mut read: BTreeSet<&str> = self.graph.outputs.iter().map(|output| output.name.as_str()).collect();
        read.extend(self.graph.nodes.iter().flat_map(|node| node.inputs.iter().map(String::as_str)));
        read.contains(name)
    }
}

/// The shape of one sample of a value with axes `dims`.
pub(super) fn sample(dims: &[usize]) -> Result<Shape, Reason> {
    let shape = match *dims {
        [1, c] => Shape { c, h: 1, w: 1 },
        [1, c, w] => Shape { c, h: 1, w },
        [1, c, h, w] => Shape { c, h, w },
        _ => return Err(format!("shape {dims:?} is not one sample of planes")),
    };
    let elements = dims.iter().try_fold(1usize, |product, &dim| product.checked_mul(dim));
    match elements {
        Some(1..=VALUE_ELEMENTS) => Ok(shape),
        _ => Err(format!("shape {dims:?} is empty or too large")),
    }
}

/// How a constant applies to a value with axes `dims`: the same to all, or one a channel.
pub(super) fn by_channel<'t>(dims: &[usize], constant: &[usize], values: &'t [f32]) -> Option<&'t [f32]> {
    if values.len() == 1 && constant.len() <= dims.len() {
        return Some(values);
    }
    // Aligned from the right, as broadcasting has it.
    let aligned = |axis: usize| (axis + constant.len()).checked_sub(dims.len()).map_or(1, |at| constant[at]);
    let fits = constant.len() <= dims.len()
        && (0..dims.len()).all(|axis| aligned(axis) == if axis == 1 { dims[1] } else { 1 });
    fits.then_some(values)
}

/// The operator of two values, by ONNX's name.
pub(super) fn binary(op: &str) -> Option<Binary> {
    Some(match op {
        "Add" => Binary::Add,
        "Sub" => Binary::Sub,
        "Mul" => Binary::Mul,
        "Div" => Binary::Div,
        _ => return None,
    })
}
