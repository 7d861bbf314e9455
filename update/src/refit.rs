//! Refits: where inputs of a layer went, those that stay took over what they can, so that the new weights are nearly
//! `W_K + W_R · B`: the columns kept, and those removed times a small map (kept by removed inputs) that the layer's rows
//! share. The map is told, on a grid; the device computes the rest from the tensor that it holds, in a fixed order of
//! single operations, and has in it a much nearer context for the new weights.

use secateur_model::Tensor;

use crate::entry::{MapEntry, Shape};
use crate::gather::{self, Gathers, IndexSet};
use crate::grid::Grid;

/// Values of a map, at most: what a decoder holds of it.
pub(crate) const MAP: usize = 1 << 14;

/// The old inputs of a layer as its kept ones: from a row of the old tensor to a row of the new one.
pub(crate) struct Refit<'a> {
    set: &'a IndexSet,
    /// Elements that each input has in a row.
    unit: usize,
    map: &'a [f32],
}

impl<'a> Refit<'a> {
    /// `map` has a row for each index that `set` does not keep, with a value for each that it keeps.
    pub(crate) fn new(set: &'a IndexSet, unit: usize, map: &'a [f32]) -> Self {
        Self { set, unit, map }
    }

    /// The new row of an old one.
    pub(crate) fn row(&self, old: &[f32], new: &mut [f32]) {
        let (kept, unit) = (&self.set.kept, self.unit);
        for (&at, new) in kept.iter().zip(new.chunks_mut(unit)) {
            new.copy_from_slice(&old[at * unit..][..unit]);
        }
        let rows = self.map.chunks(kept.len().max(1));
        for (removed, weights) in removed(self.set).zip(rows) {
            let old = &old[removed * unit..][..unit];
            for (&weight, new) in weights.iter().zip(new.chunks_mut(unit)) {
                new.iter_mut().zip(old).for_each(|(new, old)| *new += old * weight);
            }
        }
    }
}

/// The indices that are not kept, ascending.
pub(crate) fn removed(set: &IndexSet) -> impl Iterator<Item = usize> + '_ {
    let mut kept = set.kept.iter().peekable();
    (0..set.base).filter(move |index| kept.next_if_eq(&index).is_none())
}

/// The set under which the inputs of a layer are cut: the second axis, of the others at most the first.
pub(crate) fn inputs(axes: &[usize]) -> Option<usize> {
    match axes {
        [_, inputs, others @ ..] if others.iter().all(|&axis| axis == 0) => inputs.checked_sub(1),
        _ => None,
    }
}

/// What a refit turns a tensor of the base into, and how it is told.
pub(crate) struct Refitted {
    pub(crate) shape: Shape,
    pub(crate) values: Vec<f32>,
    /// The levels of the map, and how many make a row.
    pub(crate) levels: Vec<i32>,
    pub(crate) columns: usize,
}

/// The refit of `old` that comes nearest to `new`, whose step is `step`; none where it cannot be worth its bytes.
pub(crate) fn find(
    gathers: &Gathers,
    axes: &[usize],
    old: &Tensor,
    new: &Tensor,
    step: f64,
) -> Option<Refitted> {
    let set = gathers.sets.get(inputs(axes)?)?;
    let outputs = [&axes[..1], &vec![0; axes.len() - 1]].concat();
    let rows = match axes[0] {
        0 => old.clone(),
        _ => gather::cut(old, &outputs, &gathers.sets)?,
    };
    let (removed, kept) = (set.base - set.kept.len(), set.kept.len());
    if removed == 0 || kept == 0 || removed * kept > MAP {
        return None;
    }
    let count = new.shape()[0];
    let (from, to) = (rows.len() / count.max(1), new.len() / count.max(1));
    let unit = to / kept;
    let samples = Samples { set, unit, old: rows.as_f32()?, new: new.as_f32()?, from, to };
    let Fit { map, before, after, power } = samples.fit()?;

    let elements = new.len() as f64;
    let spread = (map.iter().map(|weight| weight * weight).sum::<f64>() / map.len() as f64).sqrt();
    let told = bits(before.sqrt() / step) * elements;
    // How exactly to tell the map: what its rounding adds to the weights, in their steps squared.
    let cost = |share: f64| {
        let grid = step * (share / power).sqrt();
        let left = (after / (step * step) + share / 12.0).sqrt();
        (bits(left) * elements + bits(spread / grid) * map.len() as f64, grid)
    };
    let costs = [8.0, 2.0, 0.5, 0.125].map(cost);
    let (least, grid) = costs.into_iter().min_by(|a, b| a.0.total_cmp(&b.0))?;
    if least > WORTH * told {
        return None;
    }
    let grid = Grid::with_step(grid)?;
    let levels: Option<Vec<i32>> = map.iter().map(|&weight| grid.nearest(weight as f32)).collect();
    let levels = levels?;
    let map: Vec<f32> = levels.iter().map(|&level| grid.value(level)).collect();
    let refit = Refit::new(set, unit, &map);
    let mut values = vec![0.0; new.len()];
    for (old, new) in rows.as_f32()?.chunks(from).zip(values.chunks_mut(to)) {
        refit.row(old, new);
    }
    let shape = Shape::Refitted(axes.to_vec(), MapEntry { grid, stored: 0 });
    Some(Refitted { shape, values, levels, columns: kept })
}

/// A refit is tried where it is estimated to cost less than this share of what it saves.
const WORTH: f64 = 0.97;

/// About the entropy of a normal variable with a deviation of so many steps, rounded to steps: bits.
fn bits(steps: f64) -> f64 {
    (1.0 + 4.13 * steps).log2()
}

/// The rows of which the map is fitted.
struct Samples<'a> {
    set: &'a IndexSet,
    unit: usize,
    old: &'a [f32],
    new: &'a [f32],
    from: usize,
    to: usize,
}

/// A map, the mean square of what the new weights differ from the old ones by, without it and with it, and the mean square
/// sum of the removed weights that a map's row meets.
struct Fit {
    map: Vec<f64>,
    before: f64,
    after: f64,
    power: f64,
}

/// Samples that a fit takes, at most.
const SAMPLES: usize = 1 << 14;
/// Damping, a share of the mean diagonal.
const DAMPING: f64 = 1e-4;

impl Samples<'_> {
    /// Least squares: `(W_Rᵀ W_R + λ) B = W_Rᵀ (new − W_K)`.
    fn fit(&self) -> Option<Fit> {
        let (kept, unit) = (&self.set.kept, self.unit);
        let gone: Vec<usize> = removed(self.set).collect();
        let mut gram = vec![0.0; gone.len() * gone.len()];
        let mut cross = vec![0.0; gone.len() * kept.len()];
        let (mut squares, mut count) = (0.0, 0usize);
        let all = self.new.len() / kept.len();
        let stride = all.div_ceil(SAMPLES);
        let (mut lost, mut moved) = (vec![0.0; gone.len()], vec![0.0; kept.len()]);
        for sample in (0..all).step_by(stride) {
            let (row, within) = (sample / unit, sample % unit);
            let old = |at: usize| f64::from(self.old[row * self.from + at * unit + within]);
            lost.iter_mut().zip(&gone).for_each(|(lost, &at)| *lost = old(at));
            for ((moved, &at), index) in moved.iter_mut().zip(kept).zip(0..) {
                *moved = f64::from(self.new[row * self.to + index * unit + within]) - old(at);
                squares += *moved * *moved;
            }
            count += 1;
            for (at, &lost_at) in lost.iter().enumerate() {
                add(&mut gram[at * gone.len()..][..gone.len()], &lost, lost_at);
                add(&mut cross[at * kept.len()..][..kept.len()], &moved, lost_at);
            }
        }
        let trace: f64 = (0..gone.len()).map(|at| gram[at * (gone.len() + 1)]).sum();
        if !(trace.is_finite() && squares.is_finite() && trace > 0.0) {
            return None;
        }
        (0..gone.len()).for_each(|at| gram[at * (gone.len() + 1)] += DAMPING * trace / gone.len() as f64);
        let mut map = cross.clone();
        solve(&mut gram, &mut map, gone.len(), kept.len());
        let explained: f64 = map.iter().zip(&cross).map(|(map, cross)| map * cross).sum();
        let elements = (count * kept.len()) as f64;
        let fit = Fit {
            before: squares / elements,
            after: (squares - explained).max(0.0) / elements,
            power: trace / count as f64,
            map,
        };
        fit.map.iter().all(|weight| weight.is_finite()).then_some(fit)
    }
}

/// Adds `factor` times `row` to `sum`.
fn add(sum: &mut [f64], row: &[f64], factor: f64) {
    sum.iter_mut().zip(row).for_each(|(sum, value)| *sum += factor * value);
}

/// Solves `matrix · x = values` in place of `values` (`columns` wide), for a positive definite matrix of `size`.
fn solve(matrix: &mut [f64], values: &mut [f64], size: usize, columns: usize) {
    for pivot in 0..size {
        let (above, below) = matrix.split_at_mut((pivot + 1) * size);
        let (done, rest) = values.split_at_mut((pivot + 1) * columns);
        let (row, value) = (&above[pivot * size..], &done[pivot * columns..]);
        for (other, other_value) in below.chunks_mut(size).zip(rest.chunks_mut(columns)) {
            let factor = -other[pivot] / row[pivot];
            add(other, row, factor);
            add(other_value, value, factor);
        }
    }
    for pivot in (0..size).rev() {
        let (head, tail) = values.split_at_mut((pivot + 1) * columns);
        let value = &mut head[pivot * columns..];
        for (other, solved) in tail.chunks(columns).enumerate() {
            add(value, solved, -matrix[pivot * size + pivot + 1 + other]);
        }
        value.iter_mut().for_each(|value| *value /= matrix[pivot * (size + 1)]);
    }
}
