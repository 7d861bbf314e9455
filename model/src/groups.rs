//! Channel groups by label propagation: which channels can only be removed together, and where they show.

use crate::Graph;
use std::collections::BTreeMap;

/// Shapes by value name, at batch 1.
type Shapes = BTreeMap<String, Vec<usize>>;

/// All channel groups of a graph, and what is frozen.
#[derive(Clone, Debug, Default)]
pub struct Groups {
    /// The groups, in the order of their first producer.
    pub groups: Vec<Group>,
    /// Producers whose channels cannot be removed, and why.
    pub frozen: Vec<Frozen>,
}

/// Channels among which each can be removed without the others, but everywhere at once.
#[derive(Clone, PartialEq, Debug)]
pub struct Group {
    /// The first weight that produces it.
    pub name: String,
    /// Number of channels.
    pub channels: usize,
    /// Every place where the channels show in a constant tensor.
    pub sites: Vec<Site>,
}

/// An axis of a constant tensor along which a group's channels lie.
#[derive(Clone, PartialEq, Debug)]
pub struct Site {
    /// The tensor's name.
    pub tensor: String,
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

/// A producer whose channels cannot be removed.
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

/// Why a graph has no groups to be found or cannot be cut.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum GroupsError {
    #[error("keep-sets do not fit the groups: {0}")]
    BadKeepSets(String),
    #[error(transparent)]
    Graph(#[from] crate::GraphError),
}

/// Finds the channel groups of `graph`, given the shapes of its values at batch 1.
///
/// # Errors
/// None yet known: what is not understood freezes what it touches.
pub fn find(_graph: &Graph, _shapes: &Shapes) -> Result<Groups, GroupsError> {
    Ok(Groups::default())
}
