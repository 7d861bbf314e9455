//! Operators that move elements about: they are run on labels in place of values.

use super::super::labels::{NONE, Spread};
use super::super::mend::{joined_length, slice_bounds};
use super::Finder;
use crate::eval::{Call, Depth, rearrange};
use crate::{Node, Tensor};

pub(super) const LAYOUT: &[&str] = &[
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
    "Expand",
    "Tile",
    "DepthToSpace",
    "SpaceToDepth",
];

impl<'g> Finder<'g> {
    pub(super) fn layout(&mut self, node: &'g Node) -> bool {
        if node.inputs.iter().all(|name| self.labels(Some(name)).is_none()) {
            return true;
        }
        let op = node.op.as_str();
        let mut input = self.labels(node.input(0));
        // A part along one of several axes along which labels vary: what lies along it goes together.
        let parted = match op {
            "Split" | "Gather" => self.axis_of(node.int("axis", 0), node.input(0)),
            "Slice" => self.sliced_axis(node),
            _ => None,
        };
        if let (Some(axis), Some(spread)) = (parted, &input)
            && spread.varying().len() > 1
        {
            let spread = spread.clone();
            input = self.settled(spread, axis, "");
        }
        let moved = match op {
            "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" => self.reshaped(node, input.as_ref()),
            "Pad" => match &input {
                Some(input) => self.padded(node, input),
                None => return true,
            },
            _ => self.moved(node, input.as_ref()),
        };
        let Some(moved) = moved else { return false };
        for (name, tensor) in node.outputs.iter().zip(&moved) {
            let Some(labels) = tensor.as_i64() else { return false };
            let labels = labels.iter().map(|&label| label as u32).collect();
            let spread = Spread::of_elements(tensor.shape(), labels);
            if let (Some(axis), Some(input)) = (parted, &input)
                && input.dims[axis] > 1
            {
                // A part must not lose all its channels, though the whole keeps others.
                let reason = format!("node `{}` must keep a channel", node.label());
                match op == "Gather" && self.shape_of(node.input(1)).is_none_or(|shape| shape.len() != 1) {
                    true => self.freeze_all(&spread.labels, &reason),
                    false => spread.labels.first().into_iter().for_each(|&l| self.unions.freeze(l, &reason)),
                }
            }
            if spread.labels.iter().any(|&label| label != NONE) {
                self.put(name, spread);
            }
        }
        true
    }

    fn reshaped(&self, node: &Node, input: Option<&Spread>) -> Option<Vec<Tensor>> {
        let shape = self.shape_of(node.outputs.first().map(String::as_str))?;
        Some(vec![self.elements(node.input(0)?, input)?.reshaped(shape.to_vec()).ok()?])
    }

    fn moved(&self, node: &Node, first: Option<&Spread>) -> Option<Vec<Tensor>> {
        let spread: Option<Vec<Option<Tensor>>> = (0..node.inputs.len())
            .map(|slot| match node.input(slot) {
                None => Some(None),
                Some(name) if slot == 0 => self.elements(name, first).map(Some),
                Some(name) if node.op == "Concat" => {
                    self.elements(name, self.labels(Some(name)).as_ref()).map(Some)
                }
                Some(name) => self.graph.initializers.get(name).cloned().map(Some),
            })
            .collect();
        let spread = spread?;
        let inputs = spread.iter().map(Option::as_ref).collect();
        let call = Call { node, inputs, opset: self.graph.opset(), depth: Depth::Values };
        rearrange(&call).ok()
    }

    /// A value's labels at its full shape.
    fn elements(&self, name: &str, spread: Option<&Spread>) -> Option<Tensor> {
        let shape = self.shapes.get(name)?;
        let labels = match spread {
            Some(spread) => spread.elements(shape).into_iter().map(i64::from).collect(),
            None => vec![i64::from(NONE); shape.iter().product()],
        };
        Tensor::i64(shape.clone(), labels).ok()
    }

    /// The one axis that a slice shortens.
    fn sliced_axis(&self, node: &Node) -> Option<usize> {
        let (input, output) = (self.shape_of(node.input(0))?, self.shape_of(Some(node.outputs.first()?))?);
        let mut shortened = (0..input.len()).filter(|&axis| input[axis] != output[axis]);
        let axis = shortened.next()?;
        shortened.next().is_none().then_some(axis)
    }

    /// The shape of a value is read: along axes whose length is used, nothing can go.
    pub(super) fn shape(&mut self, node: &'g Node) -> bool {
        let Some(mut spread) = self.labels(node.input(0)) else { return true };
        let rank = spread.dims.len();
        let name = &node.outputs[0];
        let readers: Vec<&Node> =
            self.graph.nodes.iter().filter(|reader| reader.inputs.contains(name)).collect();
        let whole =
            !node.attributes.is_empty() || self.graph.outputs.iter().any(|output| output.name == *name);
        let mut used: Vec<usize> = if whole { (0..rank).collect() } else { Vec::new() };
        for reader in readers {
            let bounds = || slice_bounds(self.graph, reader);
            match (reader.op.as_str(), self.integers(reader, 1)) {
                ("Gather", Some(indices)) => {
                    used.extend(indices.iter().filter_map(|&index| self.axis_of(index, node.input(0))))
                }
                ("Slice", _) if bounds().is_some() => {
                    used.extend(bounds().into_iter().flat_map(|bounds| bounds.indices(rank)));
                }
                _ => used.extend(0..rank),
            }
        }
        let why = format!("node `{}` reads their number", node.label());
        for axis in used {
            match self.settled(spread, axis, &why) {
                Some(left) => spread = left,
                None => return true,
            }
        }
        true
    }

    /// What is added at the edges of other axes is no channel; along the channels' axis it is one that cannot go.
    fn padded(&self, node: &'g Node, input: &Spread) -> Option<Vec<Tensor>> {
        let pads = self.integers(node, 1).or_else(|| node.ints("pads"))?;
        let listed = self.integers(node, 3);
        let axes: Vec<usize> = match listed {
            Some(listed) => {
                listed.iter().map(|&axis| self.axis_of(axis, node.input(0))).collect::<Option<_>>()?
            }
            None => (0..input.dims.len()).collect(),
        };
        if pads.len() != 2 * axes.len() {
            return None;
        }
        let mut own = vec![0; 2 * input.dims.len()];
        for (at, &axis) in axes.iter().enumerate().filter(|(_, axis)| input.dims[**axis] > 1) {
            (own[axis], own[axis + input.dims.len()]) = (pads[at], pads[at + axes.len()]);
        }
        let mirrored = node.text("mode").is_some_and(|mode| mode != "constant");
        // Channels mirrored or repeated at an edge would be others after a cut.
        if mirrored && own.iter().any(|&pad| pad != 0) {
            return None;
        }
        let labels =
            Tensor::i64(input.dims.clone(), input.labels.iter().map(|&l| i64::from(l)).collect()).ok()?;
        let own = Tensor::i64([own.len()], own).ok()?;
        let plain = Node { op: "Pad".into(), outputs: node.outputs.clone(), ..Node::default() };
        let inputs = vec![Some(&labels), Some(&own)];
        rearrange(&Call { node: &plain, inputs, opset: self.graph.opset(), depth: Depth::Values }).ok()
    }

    /// What a cut must write into a node's constants, it must be able to: else what lies there is frozen.
    pub(super) fn check_mendable(&mut self, index: usize) {
        let node = &self.graph.nodes[index];
        let axis_of = |name: Option<&str>| self.labels(name)?.varying().first().copied();
        let output = node.outputs.first().map(String::as_str);
        let mendable = match (node.op.as_str(), axis_of(node.input(0)), axis_of(output)) {
            ("Reshape", from, Some(to)) => match self.target(node, 1) {
                Some(target) => target.get(to).is_some_and(|&dim| dim != 0 || from == Some(to)),
                None => self.is_joined(node, to),
            },
            ("Expand", _, Some(_)) => self.target(node, 1).is_some(),
            ("Resize", _, Some(_)) if node.input(3).is_some() => self.target(node, 3).is_some(),
            ("Gather", Some(from), _) if self.axis_of(node.int("axis", 0), node.input(0)) == Some(from) => {
                self.integers(node, 1).is_some()
            }
            ("Slice", Some(from), _) if self.sliced_axis(node) == Some(from) => {
                let bounds = slice_bounds(self.graph, node);
                bounds.and_then(|bounds| self.axis_of(bounds.axis, node.input(0))) == Some(from)
            }
            // Slices of several axes, the channels' among them.
            ("Slice", Some(from), to) => to.is_none() || self.same_length(node, from),
            ("Split", Some(from), _) if self.axis_of(node.int("axis", 0), node.input(0)) == Some(from) => {
                node.input(1).is_none() || self.integers(node, 1).is_some()
            }
            ("Pad" | "Tile", Some(from), Some(to)) => from == to,
            _ => true,
        };
        if !mendable {
            let reason = format!("node `{}` ({}) takes its lengths from elsewhere", node.label(), node.op);
            node.inputs.iter().chain(&node.outputs).for_each(|name| self.freeze(name, &reason));
        }
    }

    /// Whether the target of a reshape is joined from as many parts as it has axes, that of `axis` a constant.
    fn is_joined(&self, node: &Node, axis: usize) -> bool {
        let rank = self.shape_of(node.outputs.first().map(String::as_str)).map(<[usize]>::len);
        joined_length(self.graph, node, 1, axis)
            .is_some_and(|(concat, _)| Some(self.graph.nodes[concat].inputs.len()) == rank)
    }

    fn same_length(&self, node: &Node, axis: usize) -> bool {
        let length = |name: Option<&str>| self.shape_of(name).and_then(|shape| shape.get(axis));
        length(node.input(0)) == length(node.outputs.first().map(String::as_str))
    }

    /// The lengths that a node asks for, where they are constant.
    fn target(&self, node: &'g Node, slot: usize) -> Option<&'g [i64]> {
        self.integers(node, slot).or_else(|| node.ints("shape"))
    }
}
