//! Branches of a residual addition that may go whole: what is left of one is the constant that its last layer adds.

use std::collections::BTreeSet;

use super::cut::Kept;
use super::{Group, Groups, Role};
use crate::fold::has_subgraphs;
use crate::shape::Shapes;
use crate::{Graph, Node, Tensor};

/// Marks the groups all of whose channels may go: whatever takes them in takes in nothing else, and what it makes is only
/// ever added to something of its shape. Of an addition only one side is let go.
pub(super) fn mark(graph: &Graph, shapes: &Shapes, groups: &mut [Group]) {
    if has_subgraphs(graph) {
        return; // what only they read cannot be told from what nobody reads
    }
    let mut halved = BTreeSet::new();
    for group in groups {
        if let Some(additions) = additions(graph, shapes, group).filter(|found| found.is_disjoint(&halved)) {
            halved.extend(additions);
            group.removable = true;
        }
    }
}

/// The additions that the layers which take `group` in make one side of; `None` where they make anything else.
fn additions(graph: &Graph, shapes: &Shapes, group: &Group) -> Option<BTreeSet<usize>> {
    let consumers: Vec<_> = group.sites.iter().filter(|site| site.role == Role::Consumer).collect();
    let mut found = BTreeSet::new();
    for site in &consumers {
        let node = &graph.nodes[site.node];
        constant(graph, node).filter(|_| site.channels.iter().all(Option::is_some))?;
        let result = node.outputs.first()?;
        if graph.outputs.iter().any(|output| output.name == *result) {
            return None;
        }
        let reads = |reader: &&Node| reader.inputs.contains(result);
        for (index, reader) in graph.nodes.iter().enumerate().filter(|(_, node)| reads(node)) {
            let other = reader.inputs.iter().find(|name| *name != result).filter(|_| reader.is("Add"))?;
            let alike = shapes.get(other).is_some_and(|shape| shapes.get(result) == Some(shape));
            (alike && !graph.initializers.contains_key(other) && found.insert(index)).then_some(())?;
        }
    }
    (!found.is_empty()).then_some(found)
}

/// Puts its constant in the place of each layer whose inputs are all gone. What made them is then read by nobody.
pub(super) fn settle(graph: &mut Graph, groups: &Groups, kept: &Kept) {
    let mut gone = BTreeSet::new();
    for (index, group) in groups.groups.iter().enumerate() {
        if kept.none_of(index) {
            let consumers = group.sites.iter().filter(|site| site.role == Role::Consumer);
            gone.extend(consumers.map(|site| site.node));
        }
    }
    for &index in &gone {
        let node = &graph.nodes[index];
        if let Some(constant) = constant(graph, node) {
            graph.initializers.insert(node.outputs[0].clone(), constant);
        }
    }
    let mut index = 0..;
    graph.nodes.retain(|_| index.next().is_none_or(|index| !gone.contains(&index)));
}

/// What a convolution or product makes of nothing: its bias, one axis of its result long, the others 1. `None` where it
/// is another operator, or its bias is not one value an output.
fn constant(graph: &Graph, node: &Node) -> Option<Tensor> {
    let weights = graph.initializers.get(node.input(1)?)?.shape();
    let (outputs, scale) = match *weights {
        [outputs, ..] if node.is("Conv") && node.int("group", 1) == 1 => (outputs, 1.0),
        [rows, columns] if node.is("Gemm") => {
            (if node.int("transB", 0) == 0 { columns } else { rows }, node.float("beta", 1.0))
        }
        _ => return None,
    };
    let mut shape = vec![1; weights.len()];
    shape[1] = outputs;
    let values = match node.input(2) {
        None => vec![0.0; outputs],
        Some(bias) => graph.initializers.get(bias)?.as_f32()?.iter().map(|value| value * scale).collect(),
    };
    Tensor::f32(shape, values).ok()
}
