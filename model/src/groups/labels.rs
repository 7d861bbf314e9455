//! Labels and which of them are one: union-find, with the reason why a class is frozen.

/// A coordinate of a producer's axis. [`NONE`] is a coordinate that no producer here can remove.
pub(crate) type Label = u32;

/// No label.
pub(crate) const NONE: Label = 0;

/// The labels of a value: they vary along one axis only.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Along {
    pub(crate) axis: usize,
    pub(crate) labels: Vec<Label>,
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

    /// Makes two labels one: what freezes either freezes both. The smaller root stays, so results do not depend on
    /// the order of unions.
    pub(crate) fn unite(&mut self, a: Label, b: Label) {
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
