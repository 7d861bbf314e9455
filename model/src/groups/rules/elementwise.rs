//! Operators that keep channels apart: position by position, over windows, along other axes.

use super::super::Role;
use super::super::labels::{NONE, Spread};
use super::Finder;
use crate::Node;
use crate::eval::{broadcast_indices, broadcast_shape};

/// Elementwise operators of one input, which keep channels apart.
pub(super) const UNARY: &[&str] = &[
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
    "Swish",
    "Mish",
    "Shrink",
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
    "IsNaN",
];
/// Elementwise operators that broadcast their inputs.
pub(super) const BROADCAST: &[&str] = &[
    "Add",
    "Sub",
    "Mul",
    "Div",
    "Mod",
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
    "Xor",
];
/// Windows over the axes after the channels.
pub(super) const POOLS: &[&str] = &[
    "MaxPool",
    "AveragePool",
    "LpPool",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "GlobalLpPool",
    "Resize",
    "Upsample",
];
pub(super) const REDUCE: &[&str] = &[
    "ReduceMean",
    "ReduceSum",
    "ReduceMax",
    "ReduceMin",
    "ReduceL1",
    "ReduceL2",
    "ReduceProd",
    "ReduceSumSquare",
    "ReduceLogSum",
    "ReduceLogSumExp",
];

impl<'g> Finder<'g> {
    pub(super) fn pass(&mut self, node: &'g Node) -> bool {
        if let Some(input) = self.labels(node.input(0)) {
            self.put(&node.outputs[0], input);
        }
        node.outputs.iter().skip(1).all(|name| !self.is_read(name))
    }

    pub(super) fn pool(&mut self, node: &'g Node) -> bool {
        let why = format!("node `{}` has its window over them", node.label());
        let Some(labels) = self.only_along(node.input(0), 1, &why) else { return true };
        let output = self.shape_of(node.outputs.first().map(String::as_str));
        let Some(rank) = output.filter(|shape| shape.get(1) == Some(&labels.len())).map(<[usize]>::len)
        else {
            return false;
        };
        self.put(&node.outputs[0], Spread::along(rank, 1, labels));
        node.outputs.iter().skip(1).all(|name| !self.is_read(name))
    }

    pub(super) fn broadcast(&mut self, index: usize) -> bool {
        let node = &self.graph.nodes[index];
        let named = || node.inputs.iter().filter(|name| !name.is_empty());
        if named().all(|name| self.labels(Some(name)).is_none()) {
            return true;
        }
        let Some(output) = self.shape_of(Some(&node.outputs[0])) else { return false };
        let mut operands = Vec::new();
        for name in named().filter(|name| !self.is_constant(Some(name))) {
            let Some(shape) = self.shape_of(Some(name)) else { return false };
            operands.push((shape.to_vec(), self.labels(Some(name))));
        }
        let why = format!("meets fixed channels in node `{}`", node.label());
        let Some(spread) = self.united(output, operands, &why) else { return true };
        let constants: Vec<&String> = named().filter(|name| self.is_constant(Some(name))).collect();
        for name in constants {
            let Some(shape) = self.shape_of(Some(name)) else { return false };
            let offset = output.len() - shape.len();
            if spread.varying().iter().any(|&axis| axis >= offset && shape[axis - offset] > 1) {
                self.site_over(name, index, Role::Carrier, spread.clone());
            }
        }
        self.put(&node.outputs[0], spread);
        true
    }

    /// What operands of the given shapes and labels are together once broadcast to `output`: labels that meet are
    /// united. Along an axis that an operand without labels spans, nothing can go.
    pub(super) fn united(
        &mut self,
        output: &[usize],
        operands: Vec<(Vec<usize>, Option<Spread>)>,
        why: &str,
    ) -> Option<Spread> {
        let rank = output.len();
        let widened = |shape: &[usize]| [vec![1; rank.saturating_sub(shape.len())], shape.to_vec()].concat();
        let mut joint: Option<Spread> = None;
        for spread in operands.iter().filter_map(|(_, spread)| spread.as_ref()) {
            let spread = Spread { dims: widened(&spread.dims), labels: spread.labels.clone() };
            joint = Some(match joint {
                None => spread,
                Some(other) => {
                    let dims = broadcast_shape(&other.dims, &spread.dims).ok()?;
                    let (a, b) =
                        (broadcast_indices(&dims, &other.dims), broadcast_indices(&dims, &spread.dims));
                    a.iter()
                        .zip(&b)
                        .for_each(|(&a, &b)| self.unions.unite(other.labels[a], spread.labels[b]));
                    let labels = a.iter().map(|&a| other.labels[a]).collect();
                    self.free(&Spread { dims, labels })
                }
            });
        }
        let mut joint = joint?;
        for (shape, _) in operands.iter().filter(|(_, spread)| spread.is_none()) {
            let shape = widened(shape);
            for axis in (0..rank).filter(|&axis| shape[axis] > 1) {
                joint = self.settled(joint, axis, why)?;
            }
        }
        joint.labels.iter().any(|&label| label != NONE).then_some(joint)
    }

    pub(super) fn per_channel_norm(&mut self, index: usize) -> bool {
        let node = &self.graph.nodes[index];
        let why = format!("node `{}` works along another axis", node.label());
        let Some(labels) = self.only_along(node.input(0), 1, &why) else { return true };
        for slot in 1..node.inputs.len() {
            match self.constant(node, slot) {
                Some((name, shape)) if shape == [labels.len()] => {
                    self.site(name, index, 0, Role::Carrier, labels.clone());
                }
                _ => return false,
            }
        }
        let rank = self.shape_of(node.input(0)).map_or(0, <[usize]>::len);
        self.put(&node.outputs[0], Spread::along(rank, 1, labels));
        node.outputs.iter().skip(1).all(|name| !self.is_read(name))
    }

    /// Channels that are normalised together go together.
    pub(super) fn group_norm(&mut self, index: usize) -> bool {
        let node = &self.graph.nodes[index];
        let why = format!("node `{}` works along another axis", node.label());
        let Some(labels) = self.only_along(node.input(0), 1, &why) else { return true };
        let groups = usize::try_from(node.int("num_groups", 0)).unwrap_or(0);
        if groups == 0 || labels.len() % groups != 0 {
            return false;
        }
        let per_group = labels.len() / groups;
        for (at, &label) in labels.iter().enumerate() {
            self.unions.unite(label, labels[at / per_group * per_group]);
        }
        for slot in 1..3 {
            match self.constant(node, slot) {
                Some((name, shape)) if shape == [labels.len()] => {
                    self.site(name, index, 0, Role::Carrier, labels.clone());
                }
                Some((name, shape)) if shape == [groups] => {
                    let firsts = labels.iter().step_by(per_group).copied().collect();
                    self.site(name, index, 0, Role::Carrier, firsts);
                }
                _ => return false,
            }
        }
        let rank = self.shape_of(node.input(0)).map_or(0, <[usize]>::len);
        self.put(&node.outputs[0], Spread::along(rank, 1, labels));
        true
    }

    /// Softmax and layer norm take an axis, or all from it on, together.
    pub(super) fn along_axis(&mut self, node: &'g Node) -> bool {
        let layer = node.op == "LayerNormalization";
        let old = self.graph.opset() < 13 && !layer;
        let Some(at) = self.axis_of(node.int("axis", if old { 1 } else { -1 }), node.input(0)) else {
            return false;
        };
        let rank = self.shape_of(node.input(0)).map_or(0, <[usize]>::len);
        let axes = if old || layer { at..rank } else { at..at + 1 };
        self.settle_and_pass(node, &axes.collect::<Vec<_>>())
    }

    pub(super) fn along_one_axis(&mut self, node: &'g Node) -> bool {
        let axis = match node.op.as_str() {
            "CumSum" => self.integers(node, 1).and_then(|axis| axis.first().copied()),
            _ => Some(node.int("axis", 0)),
        };
        let Some(at) = axis.and_then(|axis| self.axis_of(axis, node.input(0))) else { return false };
        node.int("keepdims", 1) != 0 && self.settle_and_pass(node, &[at])
    }

    fn settle_and_pass(&mut self, node: &'g Node, axes: &[usize]) -> bool {
        let why = format!("node `{}` works along their axis", node.label());
        let Some(mut spread) = self.labels(node.input(0)) else { return true };
        for &axis in axes {
            match self.settled(spread, axis, &why) {
                Some(left) => spread = left,
                None => return true,
            }
        }
        self.put(&node.outputs[0], spread);
        node.outputs.iter().skip(1).all(|name| !self.is_read(name))
    }

    pub(super) fn reduce(&mut self, node: &'g Node) -> bool {
        let Some(mut spread) = self.labels(node.input(0)) else { return true };
        let listed = if node.input(1).is_some() { self.integers(node, 1) } else { node.ints("axes") };
        let Some(listed) = listed.filter(|listed| !listed.is_empty()) else { return false };
        let axes: Option<Vec<usize>> = listed.iter().map(|&axis| self.axis_of(axis, node.input(0))).collect();
        let Some(axes) = axes else { return false };
        let why = format!("node `{}` works along their axis", node.label());
        for &axis in &axes {
            match self.settled(spread, axis, &why) {
                Some(left) => spread = left,
                None => return true,
            }
        }
        if node.int("keepdims", 1) == 0 {
            let kept = (0..spread.dims.len()).filter(|axis| !axes.contains(axis));
            spread.dims = kept.map(|axis| spread.dims[axis]).collect();
        }
        self.put(&node.outputs[0], spread);
        true
    }

    /// One scale for all channels keeps them apart; scales of their own are not followed.
    pub(super) fn quantised(&mut self, node: &'g Node) -> bool {
        let scale = node.input(1).and_then(|name| self.graph.initializers.get(name));
        scale.is_some_and(|scale| scale.len() == 1) && self.pass(node)
    }
}
