//! How labels travel: one rule a family of operators; what no rule covers freezes what it touches.

mod dense;
mod elementwise;
mod layout;
mod settle;

use std::collections::{BTreeMap, HashMap};

use super::Role;
use super::labels::{Label, NONE, Spread, Unions};
use crate::shape::Shapes;
use crate::{Attribute, Graph, Node, Tensor};

/// Why a value's only class of labels is frozen.
const ALL_TOGETHER: &str = "its channels can only go all together";

/// A constant tensor with labels over it. Its axes are the last of the spread's.
pub(crate) struct LabelledTensor {
    pub(crate) tensor: String,
    pub(crate) node: usize,
    pub(crate) role: Role,
    pub(crate) spread: Spread,
}

/// The state of one propagation.
pub(crate) struct Finder<'g> {
    graph: &'g Graph,
    shapes: &'g Shapes,
    pub(crate) unions: Unions,
    pub(crate) spreads: BTreeMap<&'g str, Spread>,
    pub(crate) sites: Vec<LabelledTensor>,
    /// The site that first named a tensor's axis: a tensor with two uses ties them.
    first_site: HashMap<(String, usize), usize>,
}

impl<'g> Finder<'g> {
    pub(crate) fn new(graph: &'g Graph, shapes: &'g Shapes) -> Self {
        let mut unions = Unions::default();
        unions.grow_to(1);
        Self {
            graph,
            shapes,
            unions,
            spreads: BTreeMap::new(),
            sites: Vec::new(),
            first_site: HashMap::new(),
        }
    }

    /// Labels every value, then makes sure that what is cut of each is a slab, and that the cut can be written down.
    pub(crate) fn propagate(&mut self) {
        for index in 0..self.graph.nodes.len() {
            self.node(index);
        }
        for output in &self.graph.outputs {
            self.freeze(&output.name, &format!("graph output `{}`", output.name));
        }
        self.freeze_captured();
        self.make_slabs();
        (0..self.graph.nodes.len()).for_each(|index| self.check_mendable(index));
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
                "LSTM" | "GRU" | "RNN" => self.recurrent(index),
                "Gather" if self.is_constant(node.input(0)) => self.embedding(index),
                "BatchNormalization" | "InstanceNormalization" => self.per_channel_norm(index),
                "GroupNormalization" => self.group_norm(index),
                "Softmax" | "LogSoftmax" | "Hardmax" | "LayerNormalization" => self.along_axis(node),
                "ArgMax" | "ArgMin" | "CumSum" => self.along_one_axis(node),
                "QuantizeLinear" | "DequantizeLinear" => self.quantised(node),
                "Shape" => self.shape(node),
                op if elementwise::UNARY.contains(&op) => self.pass(node),
                op if elementwise::POOLS.contains(&op) => self.pool(node),
                op if elementwise::BROADCAST.contains(&op) => self.broadcast(index),
                op if elementwise::REDUCE.contains(&op) => self.reduce(node),
                op if layout::LAYOUT.contains(&op) => self.layout(node),
                _ => false,
            };
        if !known {
            let reason = format!("node `{}` ({}) is not understood here", node.label(), node.op);
            node.inputs.iter().for_each(|name| self.freeze(name, &reason));
        }
    }

    /// A subgraph may read any value by its name without listing it: what its bytes name stays as it is.
    fn freeze_captured(&mut self) {
        let opaque = |node: &'g Node| {
            node.attributes.values().filter_map(move |value| match value {
                Attribute::Opaque(bytes) => Some((bytes.as_slice(), node)),
                _ => None,
            })
        };
        for (bytes, node) in self.graph.nodes.iter().flat_map(opaque) {
            let reads = |name: &str| {
                !name.is_empty() && bytes.windows(name.len()).any(|window| window == name.as_bytes())
            };
            let reason = format!("the subgraph of node `{}` may read it", node.label());
            let values = self.spreads.iter().filter(|(name, _)| reads(name)).map(|(_, spread)| spread);
            let sites = self.sites.iter().filter(|site| reads(&site.tensor)).map(|site| &site.spread);
            let labels: Vec<Label> = values.chain(sites).flat_map(|spread| spread.labels.clone()).collect();
            labels.into_iter().for_each(|label| self.unions.freeze(label, &reason));
        }
    }

    /// The labels of a value that can be removed, as far as is known by now, each by its root; `None` if there are none.
    fn labels(&self, name: Option<&str>) -> Option<Spread> {
        let spread = self.spreads.get(name?)?.map(|label| self.unions.free_root(label).unwrap_or(NONE));
        spread.labels.iter().any(|&label| label != NONE).then_some(spread)
    }

    /// The labels of a value along `axis`, those along all other axes made one. Where they do not vary along it, they
    /// are frozen.
    fn only_along(&mut self, name: Option<&str>, axis: usize, why: &str) -> Option<Vec<Label>> {
        let mut spread = self.labels(name)?;
        let length = *self.shapes.get(name?)?.get(axis)?;
        if spread.dims[axis] != length {
            let why = if spread.varying().is_empty() { ALL_TOGETHER } else { why };
            self.freeze_all(&spread.labels, why);
            return None;
        }
        for other in spread.varying().into_iter().filter(|&other| other != axis) {
            self.unite_rows(&spread, other);
            spread = spread.first_along(other);
        }
        Some(spread.one_by_one(axis))
    }

    /// Labels that do not vary along `axis`: those along it are made one, where they vary along others, and else
    /// frozen.
    fn settled(&mut self, spread: Spread, axis: usize, why: &str) -> Option<Spread> {
        match spread.varying().as_slice() {
            [only] if *only == axis => {
                self.freeze_all(&spread.labels, why);
                None
            }
            axes if axes.contains(&axis) => {
                self.unite_rows(&spread, axis);
                Some(spread.first_along(axis))
            }
            _ => Some(spread),
        }
    }

    fn unite_rows(&mut self, spread: &Spread, axis: usize) {
        spread.rows(axis).for_each(|(label, first)| self.unions.unite(label, first));
    }

    fn freeze_all(&mut self, labels: &[Label], reason: &str) {
        labels.iter().for_each(|&label| self.unions.freeze(label, reason));
    }

    fn freeze(&mut self, name: &str, reason: &str) {
        for &label in self.spreads.get(name).map_or(&[][..], |spread| &spread.labels) {
            self.unions.freeze(label, reason);
        }
    }

    /// Labels along one axis of a constant.
    fn site(&mut self, tensor: &str, node: usize, axis: usize, role: Role, labels: Vec<Label>) {
        let shape = self.graph.initializers.get(tensor).map_or(&[][..], Tensor::shape);
        if shape.get(axis) != Some(&labels.len()) {
            let reason = format!("`{tensor}` has another number of channels than its input");
            return self.freeze_all(&labels, &reason);
        }
        self.site_over(tensor, node, role, Spread::along(shape.len(), axis, labels));
    }

    fn site_over(&mut self, tensor: &str, node: usize, role: Role, spread: Spread) {
        for axis in spread.varying() {
            let key = (tensor.to_owned(), axis);
            match self.first_site.get(&key) {
                Some(&first) if self.sites[first].spread.dims == spread.dims => {
                    let first = self.sites[first].spread.labels.clone();
                    first.iter().zip(&spread.labels).for_each(|(&a, &b)| self.unions.unite(a, b));
                }
                Some(_) => self.freeze_all(&spread.labels, &format!("`{tensor}` has two uses that differ")),
                None => {
                    self.first_site.insert(key, self.sites.len());
                }
            }
        }
        self.sites.push(LabelledTensor { tensor: tensor.to_owned(), node, role, spread });
    }

    fn put(&mut self, name: &'g str, spread: Spread) {
        let fits = |shape: &Vec<usize>| {
            let pairs = || shape.iter().zip(&spread.dims);
            shape.len() == spread.dims.len() && pairs().all(|(&length, &dim)| dim == 1 || dim == length)
        };
        if self.shapes.get(name).is_some_and(fits) {
            self.spreads.insert(name, spread);
        } else {
            self.freeze_all(&spread.labels, &format!("the shape of `{name}` is not known"));
        }
    }

    /// Labels along one axis of a value of `rank` axes; 0 where that is not known.
    fn put_along(&mut self, name: &'g str, rank: usize, axis: usize, labels: Vec<Label>) {
        if axis < rank {
            self.put(name, Spread::along(rank, axis, labels));
        } else {
            self.freeze_all(&labels, &format!("the shape of `{name}` is not known"));
        }
    }

    fn is_constant(&self, name: Option<&str>) -> bool {
        name.is_some_and(|name| self.graph.initializers.contains_key(name))
    }

    /// The constant floats at an input.
    fn constant(&self, node: &'g Node, slot: usize) -> Option<(&'g str, &'g [usize])> {
        let name = node.input(slot)?;
        let tensor = self.graph.initializers.get(name).filter(|tensor| tensor.as_f32().is_some())?;
        Some((name, tensor.shape()))
    }

    /// The constant integers at an input.
    fn integers(&self, node: &'g Node, slot: usize) -> Option<&'g [i64]> {
        self.graph.initializers.get(node.input(slot)?)?.as_i64()
    }

    fn shape_of(&self, name: Option<&str>) -> Option<&'g [usize]> {
        self.shapes.get(name?).map(Vec::as_slice)
    }

    fn axis_of(&self, axis: i64, value: Option<&str>) -> Option<usize> {
        let rank = self.shape_of(value)?.len() as i64;
        let axis = if axis < 0 { axis + rank } else { axis };
        usize::try_from(axis).ok().filter(|_| axis < rank)
    }

    fn is_read(&self, name: &str) -> bool {
        let read = self.graph.nodes.iter().flat_map(|node| &node.inputs).any(|input| input == name);
        !name.is_empty() && (read || self.graph.outputs.iter().any(|output| output.name == name))
    }
}
