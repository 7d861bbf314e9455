//! Gathers: tensors whose axes were cut to some of their indices. The sets of kept indices are shared: a producer's
//! kept rows are its consumers' kept columns, so each channel group costs its indices once.
//!
//! The encoder finds the sets by matching slices of the new tensors with slices of the old ones, in the order of the
//! graph: what one tensor taught is tried on the next, blocks of a flattened axis included. It needs no knowledge of
//! operators, and a wrong guess costs bytes, never correctness.

use std::collections::BTreeMap;

use secateur_model::{Graph, Tensor};

use crate::manifest::{AXES_TOTAL, AXIS};
use crate::range::Coder;

/// The kept indices of a channel group, ascending.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct IndexSet {
    pub(crate) base: usize,
    pub(crate) kept: Vec<usize>,
}

impl IndexSet {
    /// A set of `base` indices of which nothing is coded yet.
    pub(crate) fn new(base: usize) -> Self {
        Self { base, kept: Vec::new() }
    }

    /// Codes from index `*next` on which `count` indices are kept, in log2 of the binomial coefficient: each index is as
    /// likely kept as the rest that is to be kept. An encoder takes them from `kept`. False where the coder ran out of
    /// bytes first.
    pub(crate) fn code<C: Coder>(
        &mut self,
        coder: &mut C,
        next: &mut usize,
        count: usize,
        kept: &[usize],
    ) -> bool {
        while *next < self.base {
            let (wanted, left) = (count - self.kept.len(), self.base - *next);
            let keep = match wanted {
                0 => false,
                _ if wanted == left => true,
                _ if !coder.ready() => return false,
                _ => {
                    let p = (wanted as u64 * 65_536 / left as u64).clamp(1, 65_535) as u32;
                    coder.bit(kept.get(self.kept.len()) == Some(next), p)
                }
            };
            if keep {
                self.kept.push(*next);
            }
            *next += 1;
        }
        true
    }

    /// The kept indices of an axis of `length`, each index standing for a block of equal size.
    pub(crate) fn expanded(&self, length: usize) -> Option<Vec<usize>> {
        let block = length.checked_div(self.base)?;
        (block > 0 && block * self.base == length)
            .then(|| self.kept.iter().flat_map(|&index| index * block..(index + 1) * block).collect())
    }
}

/// `tensor` cut to index sets: for each axis 0, or one more than the number of a set. None where they do not fit.
pub(crate) fn cut(tensor: &Tensor, axes: &[usize], sets: &[IndexSet]) -> Option<Tensor> {
    if axes.len() != tensor.shape().len() {
        return None;
    }
    let mut cut = tensor.clone();
    for (axis, &set) in axes.iter().enumerate().filter(|(_, set)| **set > 0) {
        let kept = sets.get(set - 1)?.expanded(cut.shape()[axis])?;
        cut = cut.gathered(axis, &kept);
    }
    Some(cut)
}

/// The index sets that turn tensors of `base` into those of `target`, and for each such tensor its axes.
#[derive(Default)]
pub(crate) struct Gathers {
    pub(crate) sets: Vec<IndexSet>,
    pub(crate) axes: BTreeMap<String, Vec<usize>>,
}

/// Finds what was cut between `base` and `target`.
pub(crate) fn find(base: &Graph, target: &Graph) -> Gathers {
    let mut gathers = Gathers::default();
    let used = target.nodes.iter().flat_map(|node| &node.inputs);
    for name in used.chain(target.initializers.keys()) {
        let (Some(old), Some(new)) = (base.initializers.get(name), target.initializers.get(name)) else {
            continue;
        };
        if gathers.axes.contains_key(name) || !is_cut(old, new) {
            continue;
        }
        if let Some(axes) = gathers.explain(old, new) {
            gathers.axes.insert(name.clone(), axes);
        }
    }
    gathers
}

fn is_cut(old: &Tensor, new: &Tensor) -> bool {
    let (from, to) = (old.shape(), new.shape());
    old.as_f32().is_some()
        && new.as_f32().is_some()
        && !new.is_empty()
        && from.len() == to.len()
        && from != to
        && from.iter().zip(to).all(|(from, to)| to <= from && *from <= AXIS)
}

/// A way to explain a cut axis, and how much of the new tensor's energy it leaves unexplained.
struct Guess {
    set: Set,
    error: f64,
}

enum Set {
    Known(usize),
    New(IndexSet),
}

impl Gathers {
    /// The axes by which `old` becomes nearly `new`. Of two cut axes one must be cut as some tensor before was.
    fn explain(&mut self, old: &Tensor, new: &Tensor) -> Option<Vec<usize>> {
        let changed: Vec<_> =
            (0..new.shape().len()).filter(|&at| old.shape()[at] != new.shape()[at]).collect();
        let mut axes = vec![0; new.shape().len()];
        match changed[..] {
            [axis] => {
                let guess = self.guess(old, new, axis)?;
                axes[axis] = self.number(guess.set)?;
            }
            [first, second] => {
                let (known, axis, set, guess) = [(first, second), (second, first)]
                    .into_iter()
                    .flat_map(|(known, axis)| {
                        let fits = self.fitting(old, new, known);
                        fits.into_iter().map(move |set| (known, axis, set))
                    })
                    .filter_map(|(known, axis, set)| {
                        let kept = self.sets[set].expanded(old.shape()[known])?;
                        let guess = self.guess(&old.gathered(known, &kept), new, axis)?;
                        Some((known, axis, set, guess))
                    })
                    .min_by(|a, b| a.3.error.total_cmp(&b.3.error))?;
                axes[known] = set + 1;
                axes[axis] = self.number(guess.set)?;
            }
            _ => return None,
        }
        Some(axes)
    }

    /// One more than the index of a set, which is added if it is new. None where all sets would be too large.
    fn number(&mut self, set: Set) -> Option<usize> {
        match set {
            Set::Known(index) => Some(index + 1),
            Set::New(set) => {
                let total: usize = self.sets.iter().map(|set| set.base).sum();
                if total + set.base > AXES_TOTAL {
                    return None;
                }
                self.sets.push(set);
                Some(self.sets.len())
            }
        }
    }

    /// The known sets that would cut `axis` to its new length.
    fn fitting(&self, old: &Tensor, new: &Tensor, axis: usize) -> Vec<usize> {
        let (from, to) = (old.shape()[axis], new.shape()[axis]);
        let fits = |set: &IndexSet| from % set.base == 0 && from / set.base * set.kept.len() == to;
        (0..self.sets.len()).filter(|&index| fits(&self.sets[index])).collect()
    }

    /// How `axis`, the only one cut, was cut: as before if that explains about as much as the best matching.
    fn guess(&self, old: &Tensor, new: &Tensor, axis: usize) -> Option<Guess> {
        let slices = Slices::new(old, new, axis);
        let known = self.fitting(old, new, axis).into_iter().filter_map(|index| {
            let kept = self.sets[index].expanded(old.shape()[axis])?;
            Some(Guess { set: Set::Known(index), error: slices.error(&kept) })
        });
        let known = known.min_by(|a, b| a.error.total_cmp(&b.error));
        let matched = slices.matched().map(|kept| {
            let error = slices.error(&kept);
            Guess { set: Set::New(IndexSet { base: old.shape()[axis], kept }), error }
        });
        let best = match (known, matched) {
            (Some(known), Some(matched)) if matched.error < known.error * 0.9 => matched,
            (Some(known), _) => known,
            (None, matched) => matched?,
        };
        (best.error < 1.0).then_some(best)
    }
}

/// A sample of the slices of two tensors across an axis, to tell which resemble which.
struct Slices {
    old: Vec<Vec<f32>>,
    new: Vec<Vec<f32>>,
    energy: f64,
}

/// Elements of a slice that are compared, at most.
const SAMPLE: usize = 192;
/// Pairs of slices that are compared, at most.
const PAIRS: usize = 1 << 22;

impl Slices {
    fn new(old: &Tensor, new: &Tensor, axis: usize) -> Self {
        let old = slices(old, axis);
        let new = slices(new, axis);
        let energy = new.iter().map(|slice| distance(slice, None)).sum();
        Self { old, new, energy }
    }

    /// The share of the new slices' energy that is not explained by the old slices `kept`.
    fn error(&self, kept: &[usize]) -> f64 {
        let errors = self.new.iter().zip(kept).map(|(new, &at)| distance(new, Some(&self.old[at])));
        errors.sum::<f64>() / self.energy.max(f64::MIN_POSITIVE)
    }

    /// The ascending choice of old slices that is nearest to the new ones in all: dynamic programming over both.
    fn matched(&self) -> Option<Vec<usize>> {
        let (from, to) = (self.old.len(), self.new.len());
        if from * to > PAIRS {
            return None;
        }
        // cost[at]: of the new slices so far, placed on old slices before `at`.
        let mut cost = vec![0.0f64; from + 1];
        let mut taken = vec![false; to * from];
        for (row, new) in self.new.iter().enumerate() {
            let mut next = vec![f64::INFINITY; from + 1];
            for (at, old) in self.old.iter().enumerate().skip(row).take(from - to + 1) {
                let with = cost[at] + distance(new, Some(old));
                taken[row * from + at] = with < next[at];
                next[at + 1] = with.min(next[at]);
            }
            // Beyond the band nothing better follows.
            for at in row + from - to + 1..from {
                next[at + 1] = next[at];
            }
            cost = next;
        }
        let mut kept = vec![0; to];
        let mut at = from;
        for row in (0..to).rev() {
            at = (0..at).rev().find(|&at| taken[row * from + at])?;
            kept[row] = at;
        }
        Some(kept)
    }
}

/// For each index of `axis` a sample of the elements across it, spread evenly.
fn slices(tensor: &Tensor, axis: usize) -> Vec<Vec<f32>> {
    let values = tensor.as_f32().unwrap_or_default();
    let length = tensor.shape()[axis];
    let inner: usize = tensor.shape()[axis + 1..].iter().product();
    let across = values.len() / length.max(1);
    let sample = across.min(SAMPLE);
    let at = |index: usize, which: usize| {
        let which = which * across / sample;
        values[(which / inner * length + index) * inner + which % inner]
    };
    (0..length).map(|index| (0..sample).map(|which| at(index, which)).collect()).collect()
}

fn distance(a: &[f32], b: Option<&[f32]>) -> f64 {
    let square = |(a, b): (f32, f32)| (a - b) * (a - b);
    let sum: f32 = match b {
        Some(b) => a.iter().zip(b).map(|(&a, &b)| square((a, b))).sum(),
        None => a.iter().map(|&a| square((a, 0.0))).sum(),
    };
    f64::from(sum)
}
