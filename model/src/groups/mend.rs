//! What nodes say of the number of their channels, put right after a cut.

use std::collections::BTreeSet;

use super::Groups;
use super::cut::Kept;
use crate::{Attribute, Graph, Node, Tensor};

/// Puts right what a node says of the number of its channels.
pub(super) fn node(graph: &mut Graph, index: usize, groups: &Groups, kept: &Kept) {
    let node = &graph.nodes[index];
    if node.is("Reshape") || node.is("Expand") {
        return target(graph, index, 1, groups, kept);
    }
    let Some((axis, flags)) = kept.flags(groups, node.input(0)) else { return };
    let on_axis = is_axis(groups, node, node.int("axis", 0), axis);
    match node.op.as_str() {
        "Conv" | "ConvTranspose" if node.int("group", 1) > 1 => {
            let shape =
                node.input(1).and_then(|name| graph.initializers.get(name)).map_or(&[][..], Tensor::shape);
            let depth = if node.op == "Conv" { shape.get(1).copied().unwrap_or(1) } else { 1 };
            let count = (staying(&flags) / depth.max(1)) as i64;
            graph.nodes[index].attributes.insert("group".into(), Attribute::Int(count));
        }
        "GroupNormalization" => {
            let groups = node.int("num_groups", 1);
            let count = (staying(&flags) as i64 * groups).checked_div(flags.len() as i64).unwrap_or(groups);
            graph.nodes[index].attributes.insert("num_groups".into(), Attribute::Int(count));
        }
        "Resize" if node.input(3).is_some() => target(graph, index, 3, groups, kept),
        "Split" if on_axis => split(graph, index, &flags),
        "Gather" if on_axis => gather(graph, index, &flags),
        "Slice" => slice(graph, index, groups, axis, &flags),
        _ => {}
    }
}

fn staying(flags: &[bool]) -> usize {
    flags.iter().filter(|&&stays| stays).count()
}

/// Whether `axis`, which may count from the end of `node`'s first input, is `found`.
fn is_axis(groups: &Groups, node: &Node, axis: i64, found: usize) -> bool {
    let rank =
        node.input(0).and_then(|name| groups.values.get(name)).map_or(0, |carried| carried.rank as i64);
    (if axis < 0 { axis + rank } else { axis }) == found as i64
}

/// The lengths that a node asks for, as an attribute, a constant input, or one joined at run time.
fn target(graph: &mut Graph, index: usize, slot: usize, groups: &Groups, kept: &Kept) {
    let node = &graph.nodes[index];
    let Some((axis, flags)) = kept.flags(groups, node.outputs.first().map(String::as_str)) else { return };
    let count = staying(&flags) as i64;
    if let Some((concat, part)) = joined_length(graph, node, slot, axis) {
        if graph.nodes[concat].input(part).and_then(|name| graph.initializers.get(name)?.as_i64())
            != Some(&[-1])
        {
            set_ints(graph, concat, part, "part", vec![count]);
        }
        return;
    }
    let constant = node.input(slot).and_then(|name| graph.initializers.get(name)).and_then(Tensor::as_i64);
    let Some(mut lengths) = constant.or_else(|| node.ints("shape")).map(<[i64]>::to_vec) else { return };
    // An `Expand` may ask for fewer axes than its result has.
    let rank = groups.values.get(&node.outputs[0]).map_or(lengths.len(), |carried| carried.rank);
    let Some(at) = (axis + lengths.len()).checked_sub(rank) else { return };
    let open = |length: i64| length <= 0 || length == count || (length == 1 && node.is("Expand"));
    if lengths.get(at).is_none_or(|&length| open(length)) {
        return;
    }
    lengths[at] = count;
    if node.input(slot).is_some() {
        set_ints(graph, index, slot, "shape", lengths);
    } else {
        graph.nodes[index].attributes.insert("shape".into(), Attribute::Ints(lengths));
    }
}

/// The `Concat` of single lengths, read by `node` alone, that says its target, and the input of it that is the
/// constant length of `axis`.
pub(super) fn joined_length(graph: &Graph, node: &Node, slot: usize, axis: usize) -> Option<(usize, usize)> {
    let name = node.input(slot)?;
    let concat = graph.nodes.iter().position(|other| other.outputs.iter().any(|output| output == name))?;
    let readers = graph.nodes.iter().filter(|other| other.inputs.iter().any(|input| input == name)).count();
    let single = |part: &String| graph.initializers.get(part).is_none_or(|lengths| lengths.len() == 1);
    let parts = &graph.nodes[concat].inputs;
    let length = graph.initializers.get(parts.get(axis)?)?.as_i64()?;
    let fits = graph.nodes[concat].is("Concat") && readers == 1 && parts.iter().all(single);
    (fits && length.first().is_some_and(|&length| length != 0)).then_some((concat, axis))
}

fn split(graph: &mut Graph, index: usize, flags: &[bool]) {
    let node = &graph.nodes[index];
    let given = node.input(1).and_then(|name| graph.initializers.get(name)).and_then(Tensor::as_i64);
    let sizes: Vec<usize> = match given.or_else(|| node.ints("split")) {
        Some(sizes) => sizes.iter().map(|&size| usize::try_from(size).unwrap_or(0)).collect(),
        None => {
            let parts = node.outputs.len().max(1);
            vec![flags.len().div_ceil(parts); parts]
        }
    };
    let mut rest = flags;
    let part = |size: usize| {
        let (part, after) = rest.split_at(size.min(rest.len()));
        rest = after;
        staying(part) as i64
    };
    let sizes = sizes.into_iter().map(part).collect();
    if graph.opset() >= 13 {
        set_ints(graph, index, 1, "split", sizes);
        graph.nodes[index].attributes.remove("num_outputs");
    } else {
        graph.nodes[index].attributes.insert("split".into(), Attribute::Ints(sizes));
    }
}

/// Picks what stays of what was picked, where it now lies.
fn gather(graph: &mut Graph, index: usize, flags: &[bool]) {
    let Some(name) = graph.nodes[index].input(1) else { return };
    let Some(indices) = graph.initializers.get(name).and_then(Tensor::as_i64) else { return };
    let length = flags.len() as i64;
    let from_start = indices.iter().map(|&at| if at < 0 { at + length } else { at } as usize);
    let stays = from_start.filter(|&at| flags.get(at).copied().unwrap_or(false));
    let moved: Vec<i64> = stays.map(|at| staying(&flags[..at]) as i64).collect();
    // A single channel picked is frozen, so its index is the only one that may be a scalar.
    let scalar = graph.initializers.get(name).is_some_and(|indices| indices.shape().is_empty());
    set_ints(graph, index, 1, "indices", moved);
    if scalar
        && let Some(tensor) =
            graph.nodes[index].input(1).map(String::from).and_then(|n| graph.initializers.get_mut(&n))
        && let Ok(single) = tensor.reshaped([])
    {
        *tensor = single;
    }
}

/// `rules` lets a slice along channels pass only with constant bounds, in steps of one, along that axis alone.
fn slice(graph: &mut Graph, index: usize, groups: &Groups, axis: usize, flags: &[bool]) {
    let node = &graph.nodes[index];
    let Some(bounds) = slice_bounds(graph, node).filter(|bounds| is_axis(groups, node, bounds.axis, axis))
    else {
        return;
    };
    let range = bounds.indices(flags.len());
    let (start, end) = (staying(&flags[..range.start]) as i64, staying(&flags[..range.end]) as i64);
    if node.input(1).is_some() {
        set_ints(graph, index, 1, "starts", vec![start]);
        set_ints(graph, index, 2, "ends", vec![end]);
    } else {
        let attributes = &mut graph.nodes[index].attributes;
        attributes.insert("starts".into(), Attribute::Ints(vec![start]));
        attributes.insert("ends".into(), Attribute::Ints(vec![end]));
    }
}

/// One axis, sliced in steps of one between constant bounds.
pub(super) struct SliceBounds {
    pub(super) axis: i64,
    start: i64,
    end: i64,
}

impl SliceBounds {
    /// The indices that are left of an axis of `length`.
    pub(super) fn indices(&self, length: usize) -> std::ops::Range<usize> {
        let at = |bound: i64| {
            let from_start = if bound < 0 { bound.saturating_add(length as i64) } else { bound };
            from_start.clamp(0, length as i64) as usize
        };
        at(self.start)..at(self.end).max(at(self.start))
    }
}

/// The bounds of a slice of one axis in steps of one; `None` for any other.
pub(super) fn slice_bounds(graph: &Graph, node: &Node) -> Option<SliceBounds> {
    let single = |name: &str, slot: usize| -> Option<i64> {
        let values = match node.input(slot) {
            Some(value) => graph.initializers.get(value)?.as_i64()?,
            None => node.ints(name)?,
        };
        match values {
            [value] => Some(*value),
            _ => None,
        }
    };
    if node.input(4).is_some() && single("steps", 4) != Some(1) {
        return None;
    }
    let listed = node.input(3).is_some() || node.ints("axes").is_some();
    let axis = if listed { single("axes", 3)? } else { 0 };
    Some(SliceBounds { axis, start: single("starts", 1)?, end: single("ends", 2)? })
}

/// Gives `node` a constant of its own as input `slot`.
fn set_ints(graph: &mut Graph, node: usize, slot: usize, what: &str, values: Vec<i64>) {
    let taken: BTreeSet<&String> = graph.initializers.keys().collect();
    let base = format!("{}.{what}", graph.nodes[node].outputs[0]);
    let name = std::iter::once(base.clone())
        .chain((2..).map(|n| format!("{base}.{n}")))
        .find(|name| !taken.contains(name));
    if let (Some(name), Ok(tensor)) = (name, Tensor::i64([values.len()], values)) {
        let inputs = &mut graph.nodes[node].inputs;
        inputs.resize(inputs.len().max(slot + 1), String::new());
        inputs[slot] = name.clone();
        graph.initializers.insert(name, tensor);
    }
}
