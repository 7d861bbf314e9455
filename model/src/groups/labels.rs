//! Labels, which of them are one (union-find, with the reason why a class is frozen), and how they lie over a value.

/// A coordinate of a producer's axis. [`NONE`] is a coordinate that no producer here can remove.
pub(crate) type Label = u32;

/// No label.
pub(crate) const NONE: Label = 0;

/// The labels of a value: row-major over `dims`, which is the value's shape with 1 for each axis along which labels
/// do not vary.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Spread {
    pub(crate) dims: Vec<usize>,
    pub(crate) labels: Vec<Label>,
}

impl Spread {
    /// Labels along one axis of a value of `rank` axes.
    pub(crate) fn along(rank: usize, axis: usize, labels: Vec<Label>) -> Self {
        let mut dims = vec![1; rank];
        dims[axis] = labels.len();
        Self { dims, labels }
    }

    /// Labels of every element of a value of `shape`, made as small as they allow.
    pub(crate) fn of_elements(shape: &[usize], labels: Vec<Label>) -> Self {
        Self { dims: shape.to_vec(), labels }.compressed()
    }

    /// The labels of every element of a value of `shape`.
    pub(crate) fn elements(&self, shape: &[usize]) -> Vec<Label> {
        crate::eval::broadcast_indices(shape, &self.dims)
            .into_iter()
            .map(|index| self.labels[index])
            .collect()
    }

    /// The axes along which labels vary.
    pub(crate) fn varying(&self) -> Vec<usize> {
        (0..self.dims.len()).filter(|&axis| self.dims[axis] > 1).collect()
    }

    /// How far apart neighbours along `axis` lie.
    fn stride(&self, axis: usize) -> usize {
        self.dims[axis + 1..].iter().product()
    }

    /// The position along `axis` of the element at `index`.
    fn at(&self, index: usize, axis: usize) -> usize {
        index / self.stride(axis) % self.dims[axis]
    }

    /// For each element, the first of its row along `axis`.
    pub(crate) fn rows(&self, axis: usize) -> impl Iterator<Item = (Label, Label)> + '_ {
        let stride = self.stride(axis);
        (0..self.labels.len())
            .map(move |index| (self.labels[index], self.labels[index - self.at(index, axis) * stride]))
    }

    /// The first of each row along `axis`.
    pub(crate) fn first_along(&self, axis: usize) -> Self {
        let mut dims = self.dims.clone();
        dims[axis] = 1;
        let first = (0..self.labels.len()).filter(|&index| self.at(index, axis) == 0);
        Self { labels: first.map(|index| self.labels[index]).collect(), dims }
    }

    /// The first label at each position of `axis`.
    pub(crate) fn one_by_one(&self, axis: usize) -> Vec<Label> {
        let mut reduced = self.clone();
        for other in (0..self.dims.len()).filter(|&other| other != axis) {
            reduced = reduced.first_along(other);
        }
        reduced.labels
    }

    /// The same labels without the axes along which they do not vary.
    pub(crate) fn compressed(mut self) -> Self {
        for axis in 0..self.dims.len() {
            if self.dims[axis] > 1 && self.rows(axis).all(|(label, first)| label == first) {
                self = self.first_along(axis);
            }
        }
        self
    }

    /// Each label replaced.
    pub(crate) fn map(&self, f: impl Fn(Label) -> Label) -> Self {
        let labels = self.labels.iter().map(|&label| f(label)).collect();
        Self { dims: self.dims.clone(), labels }.compressed()
    }
}

/// Union-find over labels.
#[derive(Default)]
pub(crate) struct Unions {
    parent: Vec<Label>,
    frozen: Vec<Option<String>>,
}

impl Unions {
    pub(crate) fn len(&self) -> usize {
        self.parent.len()
    }

    /// Makes room for labels under `count`.
    pub(crate) fn grow_to(&mut self, count: usize) {
        let from = self.parent.len();
        self.parent.extend((from..count.max(1)).map(|label| label as Label));
        self.frozen.resize(self.parent.len(), None);
    }

    /// `count` new labels.
    pub(crate) fn fresh(&mut self, count: usize) -> Vec<Label> {
        self.grow_to(self.parent.len().max(1));
        let from = self.parent.len();
        self.grow_to(from + count);
        (from..from + count).map(|label| label as Label).collect()
    }

    pub(crate) fn root(&self, mut label: Label) -> Label {
        while self.parent[label as usize] != label {
            label = self.parent[label as usize];
        }
        label
    }

    /// The root of a label that can be removed.
    pub(crate) fn free_root(&self, label: Label) -> Option<Label> {
        let root = self.root(label);
        (label != NONE && self.frozen[root as usize].is_none()).then_some(root)
    }

    /// Why a label cannot be removed.
    pub(crate) fn frozen(&self, label: Label) -> Option<&str> {
        self.frozen[self.root(label) as usize].as_deref()
    }

    /// Makes two labels one: what freezes either freezes both. One that cannot be removed freezes the other.
    pub(crate) fn unite(&mut self, a: Label, b: Label) {
        match (a, b) {
            (NONE, NONE) => {}
            (NONE, label) | (label, NONE) => self.freeze(label, "it meets channels that cannot be removed"),
            _ => self.join(a, b),
        }
    }

    /// The smaller root stays, so results do not depend on the order of unions.
    fn join(&mut self, a: Label, b: Label) {
        let (a, b) = (self.root(a), self.root(b));
        if a == b {
            return;
        }
        let (low, high) = (a.min(b) as usize, a.max(b) as usize);
        self.parent[high] = low as Label;
        let reason = self.frozen[high].take();
        if self.frozen[low].is_none() {
            self.frozen[low] = reason;
        }
        // Halve the path, so that chains stay short.
        let mut label = high;
        while self.parent[label] as usize != low {
            let next = self.parent[label] as usize;
            self.parent[label] = low as Label;
            label = next;
        }
    }

    pub(crate) fn freeze(&mut self, label: Label, reason: &str) {
        let root = self.root(label) as usize;
        if label != NONE && self.frozen[root].is_none() {
            self.frozen[root] = Some(reason.to_owned());
        }
    }
}
