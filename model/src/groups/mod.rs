//! Channel groups by label propagation: which channels can only be removed together, and where they show.
//!
//! Each output axis of a convolution or matrix product gets fresh labels, one a channel. Labels travel with the
//! values (`rules`): shape operators move them, elementwise operators unite them, the next convolution or product
//! takes them in. What is not understood freezes what it touches. `cut` removes channels, or masks them where they
//! are taken in; both must compute the same, and [`crate::eval`] can tell.

mod branch;
mod cut;
mod labels;
mod mend;
mod prepare;
mod rules;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};

pub use cut::{cut, masked};
pub use prepare::prepare;

use crate::Graph;
use crate::shape::Shapes;
use labels::{Label, Spread, Unions};

/// All channel groups of a graph, and what is frozen.
#[derive(Clone, Debug, Default)]
pub struct Groups {
    /// The groups, in the order of their first producer.
    pub groups: Vec<Group>,
    /// Producers with channels that cannot be removed, and why.
    pub frozen: Vec<Frozen>,
    /// Values that carry channels.
    values: BTreeMap<String, Carried>,
}

/// The axis of a value along which channels lie, and which.
#[derive(Clone, Debug)]
struct Carried {
    rank: usize,
    axis: usize,
    members: Vec<Option<Channel>>,
}

/// A channel: its group and its index in it.
pub type Channel = (usize, usize);

/// Channels among which each can be removed without the others, but everywhere at once.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Group {
    /// The first weight that produces it.
    pub name: String,
    /// Number of channels.
    pub channels: usize,
    /// Whether all of them may go, and with them a branch of a residual addition; else one stays.
    pub removable: bool,
    /// Every place where the channels show in a constant tensor.
    pub sites: Vec<Site>,
}

/// An axis of a constant tensor along which a group's channels lie.
#[derive(Clone, PartialEq, Debug)]
pub struct Site {
    /// The tensor's name.
    pub tensor: String,
    /// The node that reads the tensor, by index.
    pub node: usize,
    /// The axis.
    pub axis: usize,
    /// What the tensor does along it.
    pub role: Role,
    /// For each index of the axis, the channel of the group that it belongs to (others: `None`).
    pub channels: Vec<Option<usize>>,
}

/// What a tensor does along an axis.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// Makes the channels: a convolution's or matrix product's outputs, and their bias.
    Producer,
    /// Takes them in: the input axis of a convolution or matrix product. Masking happens here.
    Consumer,
    /// Accompanies them: batch norm, depthwise filters, per-channel constants.
    Carrier,
}

/// A producer with channels that cannot be removed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frozen {
    /// The weight.
    pub tensor: String,
    /// How many of its channels.
    pub channels: usize,
    /// Why: the value or node that holds them.
    pub reason: String,
}

/// For each group, the channels to keep, ascending.
pub type KeepSets = Vec<Vec<usize>>;

/// Why a graph cannot be cut as asked.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum GroupsError {
    #[error(
        "group {group} cannot keep {keep:?}: ascending channels under {channels} are asked for, at least one unless it \
         is removable"
    )]
    BadKeepSet { group: usize, keep: Vec<usize>, channels: usize },
    #[error("{sets} keep-sets for {groups} groups")]
    WrongCount { sets: usize, groups: usize },
    #[error("tensor `{tensor}` does not fit what the groups say of it: they are of another graph")]
    OtherGraph { tensor: String },
}

impl Group {
    /// Channels that stay, at least.
    pub fn least(&self) -> usize {
        usize::from(!self.removable)
    }
}

impl Groups {
    /// Keep-sets that keep everything.
    pub fn keep_all(&self) -> KeepSets {
        self.groups.iter().map(|group| (0..group.channels).collect()).collect()
    }

    /// The axis of a value along which channels lie, and the group of each index of it.
    pub fn along(&self, value: &str) -> Option<(usize, Vec<Option<Channel>>)> {
        self.values.get(value).map(|carried| (carried.axis, carried.members.clone()))
    }
}

/// Finds the channel groups of `graph` (see [`prepare`]), given the shapes of its values at batch 1.
pub fn find(graph: &Graph, shapes: &Shapes) -> Groups {
    let mut finder = rules::Finder::new(graph, shapes);
    finder.propagate();
    collect(graph, shapes, finder)
}

/// Gathers united labels into channels, and channels that share a producer into groups.
fn collect(graph: &Graph, shapes: &Shapes, finder: rules::Finder<'_>) -> Groups {
    let rules::Finder { unions, spreads, sites, .. } = &finder;
    let sites: Vec<LabelledAxis<'_>> =
        sites.iter().filter_map(|site| labelled_axis(graph, &finder, site)).collect();
    // Roots that share a producer's axis are one group.
    let mut families = Unions::default();
    families.grow_to(unions.len());
    for site in sites.iter().filter(|site| site.role == Role::Producer) {
        let free: Vec<Label> = site.labels.iter().filter_map(|&label| unions.free_root(label)).collect();
        free.windows(2).for_each(|pair| families.unite(pair[0], pair[1]));
    }
    let mut groups: Vec<Group> = Vec::new();
    let mut group_of: HashMap<Label, usize> = HashMap::new();
    let mut member_of: HashMap<Label, Channel> = HashMap::new();
    let mut frozen = Vec::new();
    for site in sites.iter().filter(|site| site.role == Role::Producer) {
        let weights = graph.initializers.get(site.tensor).is_some_and(|tensor| tensor.shape().len() > 1);
        let held: Vec<Label> =
            site.labels.iter().copied().filter(|&label| unions.free_root(label).is_none()).collect();
        if let Some(&first) = held.first().filter(|_| weights) {
            let reason = unions.frozen(first).unwrap_or("it has no channels").to_owned();
            frozen.push(Frozen { tensor: site.tensor.to_owned(), channels: held.len(), reason });
        }
        for root in site.labels.iter().filter_map(|&label| unions.free_root(label)) {
            let family = families.root(root);
            let group = *group_of.entry(family).or_insert_with(|| {
                groups.push(Group { name: site.tensor.to_owned(), ..Group::default() });
                groups.len() - 1
            });
            member_of.entry(root).or_insert_with(|| {
                groups[group].channels += 1;
                (group, groups[group].channels - 1)
            });
        }
    }
    let member = |label: Label| unions.free_root(label).and_then(|root| member_of.get(&root).copied());
    for site in &sites {
        let members: Vec<_> = site.labels.iter().map(|&label| member(label)).collect();
        let mut touched: Vec<usize> = members.iter().flatten().map(|&(group, _)| group).collect();
        touched.sort_unstable();
        touched.dedup();
        for group in touched {
            let channels = members.iter().map(|m| m.filter(|m| m.0 == group).map(|m| m.1)).collect();
            let (tensor, node, axis, role) = (site.tensor.to_owned(), site.node, site.axis, site.role);
            groups[group].sites.push(Site { tensor, node, axis, role, channels });
        }
    }
    branch::mark(graph, shapes, &mut groups);
    let carried = |(name, spread): (&&str, &Spread)| {
        let axis = *finder.free(spread).varying().first()?;
        let members = spread.one_by_one(axis).into_iter().map(member).collect();
        Some(((*name).to_owned(), Carried { rank: shapes.get(*name).map_or(0, Vec::len), axis, members }))
    };
    let values = spreads.iter().filter_map(carried).collect();
    Groups { values, groups, frozen }
}

/// An axis of a constant tensor with the label of each index.
struct LabelledAxis<'a> {
    tensor: &'a str,
    node: usize,
    axis: usize,
    role: Role,
    labels: Vec<Label>,
}

/// The axis of a constant along which its labels vary; `None` where the constant does not span it.
fn labelled_axis<'a>(
    graph: &Graph,
    finder: &rules::Finder<'_>,
    site: &'a rules::LabelledTensor,
) -> Option<LabelledAxis<'a>> {
    let shape = graph.initializers.get(&site.tensor)?.shape();
    let offset = site.spread.dims.len() - shape.len();
    let free = finder.free(&site.spread).varying().first().copied();
    // Where nothing is free, the axis that was labelled is told of.
    let axis = free.or_else(|| site.spread.varying().first().copied())?.checked_sub(offset)?;
    let labels = site.spread.one_by_one(axis + offset);
    (shape[axis] == labels.len()).then(|| LabelledAxis {
        tensor: &site.tensor,
        node: site.node,
        axis,
        role: site.role,
        labels,
    })
}
