//! Removing channels from a graph, and masking them where they are taken in.

use std::collections::{BTreeMap, BTreeSet};

use super::{Groups, GroupsError, KeepSets, Member, Role};
use crate::{Attribute, Graph, Node, Tensor};

/// The graph without the channels that `keep` leaves out: tensors, biases, batch norms, per-channel constants, group
/// counts, split sizes and reshape targets get smaller.
///
/// # Errors
/// Where `keep` or the graph does not fit the groups.
pub fn cut(graph: &Graph, groups: &Groups, keep: &KeepSets) -> Result<Graph, GroupsError> {
    let kept = Kept::new(groups, keep)?;
    let mut result = graph.clone();
    for ((name, axis), gone) in kept.removed(groups, |_| true) {
        let tensor = graph_tensor(&mut result, &name, axis, gone.len())?;
        let left: Vec<usize> = (0..gone.len()).filter(|&index| !gone[index]).collect();
        if left.len() < gone.len() {
            *tensor = tensor.gathered(axis, &left);
        }
    }
    for index in 0..result.nodes.len() {
        mend(&mut result, index, groups, &kept);
    }
    crate::fold::unused(&mut result);
    Ok(result)
}

/// The graph with the weights zeroed that take in channels which `keep` leaves out. It computes what [`cut`] does.
///
/// # Errors
/// As [`cut`].
pub fn masked(graph: &Graph, groups: &Groups, keep: &KeepSets) -> Result<Graph, GroupsError> {
    let kept = Kept::new(groups, keep)?;
    let mut result = graph.clone();
    for ((name, axis), gone) in kept.removed(groups, |role| role == Role::Consumer) {
        let tensor = graph_tensor(&mut result, &name, axis, gone.len())?;
        let inner: usize = tensor.shape()[axis + 1..].iter().product();
        for (index, value) in tensor.as_f32_mut().into_iter().flatten().enumerate() {
            if gone[index / inner % gone.len()] {
                *value = 0.0;
            }
        }
    }
    Ok(result)
}

/// Which channels are kept.
struct Kept(Vec<Vec<bool>>);

/// Tensor and axis, to whether each index goes.
type Removed = BTreeMap<(String, usize), Vec<bool>>;

impl Kept {
    fn new(groups: &Groups, keep: &KeepSets) -> Result<Self, GroupsError> {
        if keep.len() != groups.groups.len() {
            return Err(GroupsError::WrongCount { sets: keep.len(), groups: groups.groups.len() });
        }
        let mut all = Vec::with_capacity(keep.len());
        for (group, (set, of)) in keep.iter().zip(&groups.groups).enumerate() {
            let ascending = set.windows(2).all(|pair| pair[0] < pair[1]);
            if !ascending || set.last().is_none_or(|&last| last >= of.channels) {
                return Err(GroupsError::BadKeepSet { group, keep: set.clone(), channels: of.channels });
            }
            let mut flags = vec![false; of.channels];
            set.iter().for_each(|&channel| flags[channel] = true);
            all.push(flags);
        }
        Ok(Self(all))
    }

    fn keeps(&self, member: Option<Member>) -> bool {
        member.is_none_or(|(group, channel)| self.0[group][channel])
    }

    fn removed(&self, groups: &Groups, wanted: impl Fn(Role) -> bool) -> Removed {
        let mut removed = Removed::new();
        for (group, sites) in groups.groups.iter().map(|group| &group.sites).enumerate() {
            for site in sites.iter().filter(|site| wanted(site.role)) {
                let gone = removed
                    .entry((site.tensor.clone(), site.axis))
                    .or_insert_with(|| vec![false; site.channels.len()]);
                for (gone, channel) in gone.iter_mut().zip(&site.channels) {
                    *gone |= !self.keeps(channel.map(|channel| (group, channel)));
                }
            }
        }
        removed
    }

    /// The axis of `value` that carries channels, with how many of its first `upto` indices stay.
    fn count(&self, groups: &Groups, value: &str, upto: usize) -> Option<(usize, usize)> {
        let carried = groups.values.get(value)?;
        Some((carried.axis, carried.members.iter().take(upto).filter(|member| self.keeps(**member)).count()))
    }
}

fn graph_tensor<'g>(
    graph: &'g mut Graph,
    name: &str,
    axis: usize,
    length: usize,
) -> Result<&'g mut Tensor, GroupsError> {
    let fits = |tensor: &&mut Tensor| tensor.shape().get(axis) == Some(&length);
    let tensor = graph.initializers.get_mut(name).filter(fits);
    tensor.ok_or_else(|| GroupsError::OtherGraph { tensor: name.to_owned() })
}

/// Puts right what a node says of the number of its channels.
fn mend(graph: &mut Graph, index: usize, groups: &Groups, kept: &Kept) {
    let node = &graph.nodes[index];
    let Some((axis, channels)) = node.input(0).and_then(|name| kept.count(groups, name, usize::MAX)) else {
        return;
    };
    if node.is("Conv") && node.int("group", 1) > 1 {
        let depth = node.input(1).and_then(|name| graph.initializers.get(name)).map_or(1, |w| w.shape()[1]);
        let count = (channels / depth.max(1)) as i64;
        graph.nodes[index].attributes.insert("group".into(), Attribute::Int(count));
    } else if node.is("Reshape") {
        mend_reshape(graph, index, groups, kept);
    } else if node.is("Split") && is_axis(groups, node, node.int("axis", 0), axis) {
        let sizes: Vec<i64> = node
            .outputs
            .iter()
            .map(|name| kept.count(groups, name, usize::MAX).map_or(0, |(_, count)| count as i64))
            .collect();
        if graph.opset() >= 13 {
            set_ints(graph, index, 1, "split", sizes);
            graph.nodes[index].attributes.remove("num_outputs");
        } else {
            graph.nodes[index].attributes.insert("split".into(), Attribute::Ints(sizes));
        }
    } else if node.is("Slice") {
        mend_slice(graph, index, groups, kept);
    }
}

/// Whether `axis`, which may count from the end of `node`'s first input, is `found`.
fn is_axis(groups: &Groups, node: &Node, axis: i64, found: usize) -> bool {
    let rank =
        node.input(0).and_then(|name| groups.values.get(name)).map_or(0, |carried| carried.rank as i64);
    (if axis < 0 { axis + rank } else { axis }) == found as i64
}

fn mend_reshape(graph: &mut Graph, index: usize, groups: &Groups, kept: &Kept) {
    let node = &graph.nodes[index];
    let Some((axis, channels)) = kept.count(groups, &node.outputs[0], usize::MAX) else { return };
    let shape = node.input(1).and_then(|name| graph.initializers.get(name)).and_then(Tensor::as_i64);
    let Some(mut shape) = shape.map(<[i64]>::to_vec) else { return };
    if shape.get(axis).is_some_and(|&dim| dim > 0 && dim != channels as i64) {
        shape[axis] = channels as i64;
        set_ints(graph, index, 1, "shape", shape);
    }
}

/// `rules` lets a slice along channels pass only with constant bounds, in steps of one, along that axis alone.
fn mend_slice(graph: &mut Graph, index: usize, groups: &Groups, kept: &Kept) {
    let node = &graph.nodes[index];
    let Some(bounds) = slice_bounds(graph, node) else { return };
    let Some((input, carried)) = node.input(0).and_then(|name| Some((name, groups.values.get(name)?))) else {
        return;
    };
    if !is_axis(groups, node, bounds.axis, carried.axis) {
        return;
    }
    let length = carried.members.len();
    let at = |bound: i64| {
        let from_start = if bound < 0 { bound + length as i64 } else { bound };
        let upto = from_start.clamp(0, length as i64) as usize;
        kept.count(groups, input, upto).map_or(0, |(_, count)| count as i64)
    };
    let (start, end) = (at(bounds.start), at(bounds.end));
    set_ints(graph, index, 1, "starts", vec![start]);
    set_ints(graph, index, 2, "ends", vec![end]);
}

/// One axis, sliced in steps of one between constant bounds.
pub(super) struct SliceBounds {
    pub(super) axis: i64,
    start: i64,
    end: i64,
}

/// The bounds of a slice of one axis in steps of one; `None` for any other.
pub(super) fn slice_bounds(graph: &Graph, node: &Node) -> Option<SliceBounds> {
    let single = |slot: usize| -> Option<i64> {
        match graph.initializers.get(node.input(slot)?)?.as_i64()? {
            [value] => Some(*value),
            _ => None,
        }
    };
    if node.input(4).is_some() && single(4) != Some(1) {
        return None;
    }
    let axis = if node.input(3).is_some() { single(3)? } else { 0 };
    Some(SliceBounds { axis, start: single(1)?, end: single(2)? })
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

impl Groups {
    /// The axis of `value` along which channels lie, and the indices that stay there; `None` where it carries none.
    ///
    /// # Errors
    /// Where `keep` does not fit the groups.
    pub fn kept(&self, value: &str, keep: &KeepSets) -> Result<Option<(usize, Vec<usize>)>, GroupsError> {
        let kept = Kept::new(self, keep)?;
        Ok(self.values.get(value).map(|carried| {
            let stay = (0..carried.members.len()).filter(|&index| kept.keeps(carried.members[index]));
            (carried.axis, stay.collect())
        }))
    }
}
