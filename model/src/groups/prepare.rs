//! What makes a graph ready for its groups to be found and cut.

use std::collections::BTreeSet;

use crate::shape::{self, Shapes};
use crate::{Graph, Node, Tensor, fold};

/// Folds constants, fixes the shapes and bounds that are computed at run time (only the batch and other free axes stay
/// free), and gives every use of a float constant a tensor of its own, so that one can be cut without the other. What
/// the graph computes stays as it is.
pub fn prepare(graph: &mut Graph) {
    fold::constants(graph);
    fix_lengths(graph);
    free_batch(graph);
    unshare(graph);
}

/// Lets a `Reshape` to a batch of one keep the batch that comes, so that a graph exported for single samples takes
/// several as well.
fn free_batch(graph: &mut Graph) {
    let Ok(shapes) = shape::infer(graph, 1) else { return };
    for index in 0..graph.nodes.len() {
        let node = &graph.nodes[index];
        let single =
            node.input(0).and_then(|name| shapes.get(name)).is_some_and(|shape| shape.first() == Some(&1));
        let target = node.input(1).and_then(|name| graph.initializers.get(name)).and_then(Tensor::as_i64);
        let Some([1, rest @ ..]) =
            target.filter(|_| node.is("Reshape") && single && node.int("allowzero", 0) == 0)
        else {
            continue;
        };
        let copied: Vec<i64> = std::iter::once(0).chain(rest.iter().copied()).collect();
        let own = format!("{}.target", node.outputs[0]);
        if let (false, Ok(tensor)) =
            (graph.initializers.contains_key(&own), Tensor::i64([copied.len()], copied))
        {
            graph.initializers.insert(own.clone(), tensor);
            graph.nodes[index].inputs[1] = own;
        }
    }
    fold::unused(graph);
}

/// Operators and their inputs that say lengths, bounds or axes: what a cut can put right where they are constants.
const LENGTHS: &[(&str, &[usize])] = &[
    ("Reshape", &[1]),
    ("Expand", &[1]),
    ("Resize", &[3]),
    ("Slice", &[1, 2, 3, 4]),
    ("Split", &[1]),
    ("Pad", &[1]),
    ("Tile", &[1]),
];

/// Replaces computed lengths by constants where they change with no free axis; a `Reshape` may leave some open.
fn fix_lengths(graph: &mut Graph) {
    // Two runs that differ in all that is free tell what is not.
    let runs =
        (shape::survey(graph, 1, shape::FREE_LENGTH), shape::survey(graph, 3, shape::FREE_LENGTH + 32));
    let (Ok(one), Ok(other)) = runs else { return };
    for index in 0..graph.nodes.len() {
        let node = &graph.nodes[index];
        let Some((op, slots)) = LENGTHS.iter().find(|(op, _)| node.is(op)) else { continue };
        for &slot in *slots {
            let node = &graph.nodes[index];
            let Some(name) = node.input(slot).filter(|name| !graph.initializers.contains_key(*name)) else {
                continue;
            };
            let same = one.integers.get(name).filter(|values| other.integers.get(name) == Some(values));
            let fixed = match (same, *op) {
                (Some(values), _) => Some(values.clone()),
                (None, "Reshape") => target(node, &one.shapes, &other.shapes),
                _ => None,
            };
            let own = format!("{}.{}", node.outputs[0], ["data", "lengths", "ends", "sizes", "steps"][slot]);
            if let (Some(values), false) = (fixed, graph.initializers.contains_key(&own))
                && let Ok(tensor) = Tensor::i64([values.len()], values)
            {
                graph.initializers.insert(own.clone(), tensor);
                graph.nodes[index].inputs[slot] = own;
            }
        }
    }
    fold::unused(graph);
}

/// What a `Reshape` asks for, with -1 for the one free axis; where there are more, those that stay in place are copied.
fn target(node: &Node, one: &Shapes, other: &Shapes) -> Option<Vec<i64>> {
    let output = (one.get(&node.outputs[0])?, other.get(&node.outputs[0])?);
    let input = (one.get(node.input(0)?)?, other.get(node.input(0)?)?);
    if output.0.len() != output.1.len() {
        return None;
    }
    let free: Vec<usize> = (0..output.0.len()).filter(|&axis| output.0[axis] != output.1[axis]).collect();
    let mut asked: Vec<i64> = output.0.iter().map(|&length| length as i64).collect();
    let in_place = |axis: usize| {
        input.0.get(axis) == Some(&output.0[axis]) && input.1.get(axis) == Some(&output.1[axis])
    };
    let copied = if free.len() > 1 && node.int("allowzero", 0) == 0 { free.as_slice() } else { &[] };
    let mut open = 0;
    for &axis in &free {
        let copy = copied.contains(&axis) && in_place(axis);
        asked[axis] = if copy { 0 } else { -1 };
        open += usize::from(!copy);
    }
    (open <= 1).then_some(asked)
}

fn unshare(graph: &mut Graph) {
    let mut seen: BTreeSet<String> = BTreeSet::new();
    for index in 0..graph.nodes.len() {
        for slot in 0..graph.nodes[index].inputs.len() {
            let name = graph.nodes[index].inputs[slot].clone();
            let Some(tensor) = graph.initializers.get(&name) else { continue };
            if tensor.as_f32().is_none() || tensor.len() < 2 || seen.insert(name.clone()) {
                continue;
            }
            let own = (2..).map(|n| format!("{name}.{n}")).find(|own| !graph.initializers.contains_key(own));
            let (Some(own), tensor) = (own, tensor.clone()) else { continue };
            graph.initializers.insert(own.clone(), tensor);
            seen.insert(own.clone());
            graph.nodes[index].inputs[slot] = own;
        }
    }
}
