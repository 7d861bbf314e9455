//! How labels travel: one rule a family of operators; what no rule covers freezes what it touches.

use std::collections::{BTreeMap, HashMap};

use super::Role;
use super::cut::slice_bounds;
use super::labels::{Along, Label, NONE, Unions};
use crate::eval::{Call, Depth, rearrange};
use crate::shape::Shapes;
use crate::{Graph, Node, Tensor};

/// An axis of a constant tensor with the label of each index.
pub(crate) struct LabelledAxis {
    pub(crate) tensor: String,
    pub(crate) node: usize,
    pub(crate) axis: usize,
    pub(crate) role: Role,
    pub(crate) labels: Vec<Label>,
}

/// The state of one propagation.
pub(crate) struct Finder<'g> {
    graph: &'g Graph,
    shapes: &'g Shapes,
    pub(crate) unions: Unions,
    pub(crate) along: BTreeMap<&'g str, Along>,
    pub(crate) sites: Vec<LabelledAxis>,
    /// The site that first named a tensor's axis: a tensor with two uses ties them.
    first_site: HashMap<(String, usize), usize>,
}

/// Elementwise operators of one input, which keep channels apart.
const UNARY: &[&str] = &[
    "Relu",
    "LeakyRelu",
    "Elu",
    "Selu",
    "Celu",
    "Gelu",
    "ThresholdedRelu",
    "Sigmoid",
    "HardSigmoid",
    "HardSwish",
    "Mish",
    "Tanh",
    "Softplus",
    "Softsign",
    "Erf",
    "Exp",
    "Log",
    "Sqrt",
    "Abs",
    "Neg",
    "Reciprocal",
    "Sign",
    "Floor",
    "Ceil",
    "Round",
    "Sin",
    "Cos",
    "Identity",
    "Dropout",
    "Cast",
    "Clip",
    "Not",
];
/// Elementwise operators that broadcast their inputs.
const BROADCAST: &[&str] = &[
    "Add",
    "Sub",
    "Mul",
    "Div",
    "Pow",
    "Min",
    "Max",
    "Sum",
    "Mean",
    "PRelu",
    "Where",
    "Greater",
    "Less",
    "Equal",
    "GreaterOrEqual",
    "LessOrEqual",
    "And",
    "Or",
];
/// Windows over the axes after the channels.
const POOLS: &[&str] = &[
    "MaxPool",
    "AveragePool",
    "LpPool",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "GlobalLpPool",
    "Resize",
    "Upsample",
];
/// Operators that move elements about.
const LAYOUT: &[&str] = &[
    "Reshape",
    "Flatten",
    "Squeeze",
    "Unsqueeze",
    "Transpose",
    "Concat",
    "Split",
    "Slice",
    "Gather",
    "Pad",
    "DepthToSpace",
    "SpaceToDepth",
];
const REDUCE: &[&str] = &[
    "ReduceMean",
    "ReduceSum",
    "ReduceMax",
    "ReduceMin",
    "ReduceL1",
    "ReduceL2",
    "ReduceProd",
    "ReduceSumSquare",
];

impl<'g> Finder<'g> {
    pub(crate) fn new(graph: &'g Graph, shapes: &'g Shapes) -> Self {
        let mut unions = Unions::default();
        unions.grow_to(1);
        let (along, sites, first_site) = (BTreeMap::new(), Vec::new(), HashMap::new());
        Self { graph, shapes, unions, along, sites, first_site }
    }

    pub(crate) fn propagate(&mut self) {
        for index in 0..self.graph.nodes.len() {
            self.node(index);
        }
        for output in &self.graph.outputs {
            self.freeze(&output.name, &format!("graph output `{}`", output.name));
        }
    }

    fn node(&mut self, index: usize) {
        let node = &self.graph.nodes[index];
        let own = node.domain.is_empty() || node.domain == "ai.onnx";
        let known = own
            && match node.op.as_str() {
                "Conv" => self.conv(index),
                "ConvTranspose" => self.conv_transpose(index),
                "Gemm" => self.gemm(index),
                "MatMul" => self.matmul(index),
                "BatchNormalization" | "InstanceNormalization" => self.per_channel_norm(index),
                "Softmax" | "LogSoftmax" | "Hardmax" => self.along_axis(node, |axis, at| axis != at),
                "LayerNormalization" => self.along_axis(node, |axis, at| axis < at),
                op if UNARY.contains(&op) => self.pass(node),
                op if POOLS.contains(&op) => self.pool(node),
                op if BROADCAST.contains(&op) => self.broadcast(index),
                op if LAYOUT.contains(&op) => self.layout(node),
                op if REDUCE.contains(&op) => self.reduce(node),
                _ => false,
            };
        if !known {
            let reason = format!("node `{}` ({}) is not understood here", node.label(), node.op);
            node.inputs.iter().for_each(|name| self.freeze(name, &reason));
        }
    }

    fn conv(&mut self, index: usize) -> bool {
        let node = &self.graph.nodes[index];
        let Some((weights, shape)) = self.constant(node, 1).filter(|(_, shape)| shape.len() >= 3) else {
            return false;
        };
        let Ok(blocks) = usize::try_from(node.int("group", 1)) else { return false };
        let (outputs, depth) = (shape[0], shape[1]);
        if blocks == 0 || outputs % blocks != 0 {
            return false;
        }
        let input = node.input(0).and_then(|name| self.along.get(name)).cloned();
        if input.as_ref().is_some_and(|input| input.axis != 1 || input.labels.len() != depth * blocks) {
            return false;
        }
        let produced = self.unions.fresh(outputs);
        let (per_block, mut role) = (outputs / blocks, Role::Producer);
        match input.as_ref().map(|input| &input.labels) {
            _ if blocks == 1 => {
                if let Some(input) = &input {
                    self.site(weights, index, 1, Role::Consumer, input.labels.clone());
                }
            }
            // Many small blocks (depthwise): a block goes whole, with what it reads.
            Some(labels) if depth < blocks => {
                role = Role::Carrier;
                for block in 0..blocks {
                    for &label in &labels[block * depth..(block + 1) * depth] {
                        self.unite(label, produced[block * per_block]);
                    }
                    for &label in &produced[block * per_block..(block + 1) * per_block] {
                        self.unite(label, produced[block * per_block]);
                    }
                }
            }
            None if depth < blocks => {
                let reason = format!("node `{}` filters channels that cannot be removed", node.label());
                produced.iter().for_each(|&label| self.unions.freeze(label, &reason));
            }
            // Few large blocks: they shrink alike.
            labels => {
                for block in 1..blocks {
                    for at in 0..per_block {
                        self.unite(produced[block * per_block + at], produced[at]);
                    }
                    for at in 0..labels.map_or(0, |_| depth) {
                        let labels = labels.map_or(&[][..], Vec::as_slice);
                        self.unite(labels[block * depth + at], labels[at]);
                    }
                }
                if let Some(labels) = labels {
                    self.site(weights, index, 1, Role::Consumer, labels[..depth].to_vec());
                }
            }
        }
        self.site(weights, index, 0, role, produced.clone());
        if let Some((bias, _)) = self.constant(node, 2) {
            self.site(bias, index, 0, role, produced.clone());
        }
        self.put(&node.outputs[0], 1, produced);
        true
    }

    fn conv_transpose(&mut self, index: usize) -> bool {
        let node = &self.graph.nodes[index];
        let Some((weights, shape)) = self.constant(node, 1).filter(|(_, shape)| shape.len() >= 3) else {
            return false;
        };
        let input = node.input(0).and_then(|name| self.along.get(name)).cloned();
        if node.int("group", 1) != 1 || input.as_ref().is_some_and(|input| input.axis != 1) {
            return false;
        }
        self.product(index, weights, (0, 1), input, 1, shape[1], self.constant(node, 2));
        true
    }

    fn gemm(&mut self, index: usize) -> bool {
        let node = &self.graph.nodes[index];
        let Some((weights, shape)) = self.constant(node, 1).filter(|(_, shape)| shape.len() == 2) else {
            return false;
        };
        let input = node.input(0).and_then(|name| self.along.get(name)).cloned();
        if node.int("transA", 0) != 0 || input.as_ref().is_some_and(|input| input.axis != 1) {
            return false;
        }
        let (from, to) = if node.int("transB", 0) == 0 { (0, 1) } else { (1, 0) };
        // A bias that is no constant would have to be united with the product: not seen in practice.
        if node.input(2).is_some() && self.constant(node, 2).is_none() {
            return false;
        }
        self.product(index, weights, (from, to), input, 1, shape[to], self.constant(node, 2));
        true
    }

    fn matmul(&mut self, index: usize) -> bool {
        let node = &self.graph.nodes[index];
        let Some((weights, shape)) = self.constant(node, 1).filter(|(_, shape)| shape.len() == 2) else {
            return false;
        };
        let Some(rank) = self.rank(&node.outputs[0]).filter(|&rank| rank >= 2) else { return false };
        let input = node.input(0).and_then(|name| self.along.get(name)).cloned();
        if input.as_ref().is_some_and(|input| input.axis != rank - 1) {
            return false;
        }
        self.product(index, weights, (0, 1), input, rank - 1, shape[1], None);
        true
    }

    /// A dense product: takes labels in along one axis of its weights, makes fresh ones along the other.
    #[allow(clippy::too_many_arguments)]
    fn product(
        &mut self,
        index: usize,
        weights: &'g str,
        (from, to): (usize, usize),
        input: Option<Along>,
        out_axis: usize,
        outputs: usize,
        bias: Option<(&'g str, &'g [usize])>,
    ) {
        if let Some(input) = input {
            self.site(weights, index, from, Role::Consumer, input.labels);
        }
        let produced = self.unions.fresh(outputs);
        self.site(weights, index, to, Role::Producer, produced.clone());
        if let Some((bias, shape)) = bias
            && let Some(axis) = shape.len().checked_sub(1).filter(|&axis| shape[axis] == outputs)
            && outputs > 1
        {
            self.site(bias, index, axis, Role::Producer, produced.clone());
        }
        self.put(&self.graph.nodes[index].outputs[0], out_axis, produced);
    }

    fn per_channel_norm(&mut self, index: usize) -> bool {
        let node = &self.graph.nodes[index];
        let Some(input) = node.input(0).and_then(|name| self.along.get(name)).cloned() else { return true };
        if input.axis != 1 {
            return false;
        }
        for slot in 1..node.inputs.len() {
            match self.constant(node, slot) {
                Some((name, shape)) if shape == [input.labels.len()] => {
                    self.site(name, index, 0, Role::Carrier, input.labels.clone());
                }
                _ => return false,
            }
        }
        self.put(&node.outputs[0], 1, input.labels);
        true
    }

    /// Passes labels on where `apart(their axis, the operator's axis)` says that channels stay apart.
    fn along_axis(&mut self, node: &'g Node, apart: impl Fn(usize, usize) -> bool) -> bool {
        let Some(input) = node.input(0).and_then(|name| self.along.get(name)).cloned() else { return true };
        let default = if self.graph.opset() < 13 && node.op != "LayerNormalization" { 1 } else { -1 };
        let Some(at) = self.axis_of(node.int("axis", default), node.input(0)) else { return false };
        // Before version 13 the operator flattens: everything from its axis on is normalised together.
        let flattens = self.graph.opset() < 13 && input.axis >= at;
        if flattens || !apart(input.axis, at) {
            return false;
        }
        self.pass(node)
    }

    fn pass(&mut self, node: &'g Node) -> bool {
        if let Some(input) = node.input(0).and_then(|name| self.along.get(name)).cloned() {
            self.put(&node.outputs[0], input.axis, input.labels);
        }
        node.outputs.iter().skip(1).all(|name| !self.is_read(name))
    }

    fn pool(&mut self, node: &'g Node) -> bool {
        let Some(input) = node.input(0).and_then(|name| self.along.get(name)) else { return true };
        let same =
            |name: &str| self.shapes.get(name).and_then(|shape| shape.get(1)) == Some(&input.labels.len());
        input.axis == 1 && same(&node.outputs[0]) && self.pass(node)
    }

    fn broadcast(&mut self, index: usize) -> bool {
        let node = &self.graph.nodes[index];
        let labelled: Vec<&Along> =
            node.inputs.iter().filter_map(|name| self.along.get(name.as_str())).collect();
        if labelled.is_empty() {
            return true;
        }
        let Some(output) = self.shapes.get(&node.outputs[0]) else { return false };
        // The axis of the output along which the labels lie, and those of the first input that spans it.
        let mut axis = None;
        for name in &node.inputs {
            let (Some(along), Some(rank)) = (self.along.get(name.as_str()), self.rank(name)) else {
                continue;
            };
            let at = along.axis + output.len() - rank;
            if axis.is_some_and(|axis| axis != at) || along.labels.len() != output[at] {
                return false;
            }
            axis = Some(at);
        }
        let Some(axis) = axis else { return false };
        let Some(labels) = labelled.first().map(|along| along.labels.clone()) else { return true };
        for name in node.inputs.iter().filter(|name| !name.is_empty()) {
            if let Some(other) = self.along.get(name.as_str()).cloned() {
                labels.iter().zip(&other.labels).for_each(|(&a, &b)| self.unite(a, b));
                continue;
            }
            let Some(shape) = self.shapes.get(name) else { return false };
            let at = (axis + shape.len()).checked_sub(output.len());
            let Some(at) = at.filter(|&at| shape[at] > 1) else { continue };
            if !self.graph.initializers.contains_key(name) {
                let reason =
                    format!("`{name}`, which meets it in node `{}`, has fixed channels", node.label());
                labels.iter().for_each(|&label| self.unions.freeze(label, &reason));
            } else {
                self.site(name, index, at, Role::Carrier, labels.clone());
            }
        }
        self.put(&node.outputs[0], axis, labels);
        true
    }

    fn reduce(&mut self, node: &'g Node) -> bool {
        let Some(input) = node.input(0).and_then(|name| self.along.get(name)).cloned() else { return true };
        let listed = match node.input(1) {
            Some(name) => self.graph.initializers.get(name).and_then(Tensor::as_i64),
            None => node.ints("axes"),
        };
        let Some(listed) = listed else { return false };
        let axes: Option<Vec<usize>> = listed.iter().map(|&axis| self.axis_of(axis, node.input(0))).collect();
        let Some(axes) = axes.filter(|axes| !axes.contains(&input.axis)) else { return false };
        let before = axes.iter().filter(|&&axis| axis < input.axis).count();
        let axis = if node.int("keepdims", 1) != 0 { input.axis } else { input.axis - before };
        self.put(&node.outputs[0], axis, input.labels);
        true
    }

    /// Runs a shape operator on tensors of labels.
    fn layout(&mut self, node: &'g Node) -> bool {
        if !node.inputs.iter().any(|name| self.along.contains_key(name.as_str())) {
            return true;
        }
        let moved = match node.op.as_str() {
            "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" => self.reshaped(node),
            _ => self.moved(node),
        };
        let Some(moved) = moved else { return false };
        for (name, tensor) in node.outputs.iter().zip(&moved) {
            let Some(along) = self.single_axis(node, tensor) else { return false };
            if matches!(node.op.as_str(), "Split" | "Slice")
                && let Some(&first) = along.labels.first()
            {
                // A part must not lose all its channels, though the whole keeps others.
                self.unions.freeze(first, &format!("node `{}` must keep a channel", node.label()));
            }
            if along.labels.iter().any(|&label| label != NONE) {
                self.put(name, along.axis, along.labels);
            }
        }
        self.can_be_mended(node)
    }

    fn reshaped(&self, node: &Node) -> Option<Vec<Tensor>> {
        let shape = self.shapes.get(&node.outputs[0])?;
        Some(vec![self.spread(node.input(0)?)?.reshaped(shape.clone()).ok()?])
    }

    fn moved(&self, node: &Node) -> Option<Vec<Tensor>> {
        let data = |slot: usize| slot == 0 || node.op == "Concat";
        let spread: Option<Vec<Option<Tensor>>> = (0..node.inputs.len())
            .map(|slot| match node.input(slot) {
                None => Some(None),
                Some(name) if data(slot) => self.spread(name).map(Some),
                Some(name) => self.graph.initializers.get(name).cloned().map(Some),
            })
            .collect();
        let spread = spread?;
        // The value with which a Pad fills would be a float among labels: let it fill with none.
        let inputs = spread
            .iter()
            .enumerate()
            .map(|(slot, tensor)| tensor.as_ref().filter(|_| !(node.op == "Pad" && slot == 2)))
            .collect();
        let call = Call { node, inputs, opset: self.graph.opset(), depth: Depth::Values };
        rearrange(&call).ok()
    }

    /// What a cut must write into the node's constants, it must be able to.
    fn can_be_mended(&self, node: &Node) -> bool {
        let (Some(input), Some(output)) =
            (node.input(0).and_then(|name| self.along.get(name)), self.along.get(node.outputs[0].as_str()))
        else {
            return true;
        };
        let constant = |slot: usize| node.input(slot).and_then(|name| self.graph.initializers.get(name));
        match node.op.as_str() {
            // A computed target is no hindrance where the channels' axis is the one it leaves open; that is not known.
            "Reshape" => constant(1).is_some_and(|shape| {
                let target = shape.as_i64().and_then(|shape| shape.get(output.axis));
                target.is_some_and(|&dim| dim != 0 || input.axis == output.axis)
            }),
            "Gather" => self.axis_of(node.int("axis", 0), node.input(0)) != Some(input.axis),
            "Slice" if input.labels != output.labels => {
                let bounds = slice_bounds(self.graph, node);
                let axis = bounds.and_then(|bounds| self.axis_of(bounds.axis, node.input(0)));
                axis == Some(input.axis)
            }
            _ => true,
        }
    }

    /// A value's labels at its full shape.
    fn spread(&self, name: &str) -> Option<Tensor> {
        let shape = self.shapes.get(name)?;
        let count = shape.iter().try_fold(1usize, |count, &dim| count.checked_mul(dim))?;
        let Some(along) = self.along.get(name) else {
            return Tensor::i64(shape.clone(), vec![i64::from(NONE); count]).ok();
        };
        let inner: usize = shape.get(along.axis + 1..)?.iter().product();
        let label = |index: usize| i64::from(along.labels[index / inner % along.labels.len()]);
        Tensor::i64(shape.clone(), (0..count).map(label).collect()).ok()
    }

    /// Labels along one axis. Where they vary along several (heads, shuffles), those along all others are united, so
    /// that what is cut is a slab; the axis kept is the second of four, the longest of others.
    fn single_axis(&mut self, node: &Node, tensor: &Tensor) -> Option<Along> {
        let (shape, labels) = (tensor.shape(), tensor.as_i64()?);
        let strides: Vec<usize> = (0..shape.len()).map(|axis| shape[axis + 1..].iter().product()).collect();
        let at = |index: usize, axis: usize| index / strides[axis] % shape[axis];
        let varies = |axis: usize| {
            (0..labels.len()).any(|index| labels[index] != labels[index - at(index, axis) * strides[axis]])
        };
        let varying: Vec<usize> = (0..shape.len()).filter(|&axis| varies(axis)).collect();
        let axis = match varying[..] {
            [] => (0..shape.len()).max_by_key(|&axis| usize::from(axis == 1)).unwrap_or(0),
            [axis] => axis,
            _ if shape.len() == 4 && varying.contains(&1) => 1,
            _ => varying.iter().copied().max_by_key(|&axis| shape[axis])?,
        };
        if shape.is_empty() {
            let reason = format!("node `{}` picks a single channel", node.label());
            labels.iter().for_each(|&label| self.unions.freeze(label as Label, &reason));
            return Some(Along { axis: 0, labels: vec![] });
        }
        let mut kept = vec![None; shape[axis]];
        for (index, &label) in labels.iter().enumerate() {
            match &mut kept[at(index, axis)] {
                Some(first) => self.unite(*first, label as Label),
                empty => *empty = Some(label as Label),
            }
        }
        Some(Along { axis, labels: kept.into_iter().map(|label| label.unwrap_or(NONE)).collect() })
    }

    fn unite(&mut self, a: Label, b: Label) {
        match (a, b) {
            (NONE, NONE) => {}
            (NONE, label) | (label, NONE) => {
                self.unions.freeze(label, "it meets channels that cannot be removed");
            }
            _ => self.unions.unite(a, b),
        }
    }

    fn site(&mut self, tensor: &str, node: usize, axis: usize, role: Role, labels: Vec<Label>) {
        let length = self.graph.initializers.get(tensor).and_then(|tensor| tensor.shape().get(axis));
        if length != Some(&labels.len()) {
            let reason = format!("`{tensor}` has another number of channels than its input");
            labels.iter().for_each(|&label| self.unions.freeze(label, &reason));
            return;
        }
        let key = (tensor.to_owned(), axis);
        match self.first_site.get(&key) {
            Some(&first) => {
                let first = self.sites[first].labels.clone();
                first.iter().zip(&labels).for_each(|(&a, &b)| self.unite(a, b));
            }
            None => {
                self.first_site.insert(key, self.sites.len());
            }
        }
        self.sites.push(LabelledAxis { tensor: tensor.to_owned(), node, axis, role, labels });
    }

    fn put(&mut self, name: &'g str, axis: usize, labels: Vec<Label>) {
        match self.shapes.get(name).and_then(|shape| shape.get(axis)) {
            Some(&length) if length == labels.len() => {
                self.along.insert(name, Along { axis, labels });
            }
            _ => {
                let reason = format!("the shape of `{name}` is not known");
                labels.iter().for_each(|&label| self.unions.freeze(label, &reason));
            }
        }
    }

    fn freeze(&mut self, name: &str, reason: &str) {
        for label in self.along.get(name).map_or(&[][..], |along| &along.labels) {
            self.unions.freeze(*label, reason);
        }
    }

    fn constant(&self, node: &'g Node, slot: usize) -> Option<(&'g str, &'g [usize])> {
        let name = node.input(slot)?;
        self.graph
            .initializers
            .get(name)
            .filter(|tensor| tensor.as_f32().is_some())
            .map(|tensor| (name, tensor.shape()))
    }

    fn rank(&self, name: &str) -> Option<usize> {
        self.shapes.get(name).map(Vec::len)
    }

    fn axis_of(&self, axis: i64, value: Option<&str>) -> Option<usize> {
        let rank = self.rank(value?)? as i64;
        let axis = if axis < 0 { axis + rank } else { axis };
        usize::try_from(axis).ok().filter(|_| axis < rank)
    }

    fn is_read(&self, name: &str) -> bool {
        let read = self.graph.nodes.iter().flat_map(|node| &node.inputs).any(|input| input == name);
        !name.is_empty() && (read || self.graph.outputs.iter().any(|output| output.name == name))
    }
}
