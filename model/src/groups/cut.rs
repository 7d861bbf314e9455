//! Removing channels from a graph, and masking them where they are taken in.

use std::collections::BTreeMap;

use super::{Channel, Groups, GroupsError, KeepSets, Role, branch, mend};
use crate::{Graph, Tensor};

/// The graph without the channels that `keep` leaves out: tensors, biases, batch norms, per-channel constants, group
/// counts, split sizes and reshape targets get smaller. Of a group that keeps nothing the whole branch goes.
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
        mend::node(&mut result, index, groups, &kept);
    }
    branch::settle(&mut result, groups, &kept);
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
pub(super) struct Kept(Vec<Vec<bool>>);

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
            let within = set.last().is_none_or(|&last| last < of.channels);
            if !ascending || !within || set.len() < of.least() {
                return Err(GroupsError::BadKeepSet { group, keep: set.clone(), channels: of.channels });
            }
            let mut flags = vec![false; of.channels];
            set.iter().for_each(|&channel| flags[channel] = true);
            all.push(flags);
        }
        Ok(Self(all))
    }

    /// Whether nothing of a group is kept.
    pub(super) fn none_of(&self, group: usize) -> bool {
        !self.0[group].contains(&true)
    }

    fn keeps(&self, member: Option<Channel>) -> bool {
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

    /// The axis of `value` along which channels lie, and for each index of it whether it stays.
    pub(super) fn flags(&self, groups: &Groups, value: Option<&str>) -> Option<(usize, Vec<bool>)> {
        let carried = groups.values.get(value?)?;
        Some((carried.axis, carried.members.iter().map(|&member| self.keeps(member)).collect()))
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
