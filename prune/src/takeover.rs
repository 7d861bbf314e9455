//! What inputs that stay can take over from inputs that go, by one small map that all outputs of a layer share: the best
//! weights of the form `W_K + W_R · B`. Whoever holds the old weights is told the map alone (`update`'s refits).

use faer::Mat;

use crate::moments::part;
use crate::regression::finite;

/// A layer's weights by input and place: the taps of a kernel, or the elements of a channel in a flattened plane.
pub(crate) struct Takeover {
    /// For each place the weights of the inputs that go, `[gone, outputs]`.
    gone: Vec<Mat<f64>>,
    /// The rows of the layer's matrix, place by place those of the inputs that stay.
    rows: Vec<usize>,
}

/// Steps of the descent, at most, and the share of the first residual at which it ends.
const STEPS: usize = 60;
const ENOUGH: f64 = 1e-3;

impl Takeover {
    /// `gone` and `kept`: for each input the rows of its places, in the matrix `held` and in the layer's own. None where
    /// inputs differ in their places, or none goes or stays.
    pub(crate) fn new(
        held: &Mat<f64>,
        columns: &[usize],
        gone: &[Vec<usize>],
        kept: &[Vec<usize>],
    ) -> Option<Self> {
        let places = kept.first()?.len();
        let even = gone.iter().chain(kept).all(|rows| rows.len() == places);
        if !even || gone.is_empty() {
            return None;
        }
        let at = |place| Mat::from_fn(gone.len(), columns.len(), |r, o| held[(gone[r][place], columns[o])]);
        let rows = (0..places).flat_map(|place| kept.iter().map(move |rows| rows[place])).collect();
        Some(Self { gone: (0..places).map(at).collect(), rows })
    }

    fn kept(&self) -> usize {
        self.rows.len() / self.gone.len()
    }

    /// The best such weights, and the bias with them, `[k, outputs]`, for damped sums `gram` of the inputs and `cross` of inputs
    /// and targets: conjugate gradients, scaled by the diagonal.
    pub(crate) fn solve(&self, gram: &Mat<f64>, cross: &Mat<f64>, present: &Mat<f64>) -> Option<Mat<f64>> {
        let order: Vec<usize> = self.rows.iter().copied().chain([gram.nrows() - 1]).collect();
        let left = cross - gram * present;
        let outputs: Vec<usize> = (0..left.ncols()).collect();
        let (left, gram) = (part(&left, &order, &outputs), part(gram, &order, &order));
        let diagonal = self.diagonal(&gram);
        let mut map = vec![0.0; diagonal.len()];
        let mut residual = self.collapsed(&left);
        let scaled = |residual: &[f64]| -> Vec<f64> {
            residual.iter().zip(&diagonal).map(|(value, scale)| value / scale).collect()
        };
        let mut step = scaled(&residual);
        let mut energy = dot(&residual, &step);
        let enough = ENOUGH * ENOUGH * energy;
        for _ in 0..STEPS {
            if energy <= enough || energy <= 0.0 {
                break;
            }
            let moved = self.collapsed(&(&gram * self.expanded(&step)));
            let length = energy / dot(&step, &moved);
            add(&mut map, &step, length);
            add(&mut residual, &moved, -length);
            let next = scaled(&residual);
            let (before, after) = (energy, dot(&residual, &next));
            energy = after;
            step.iter_mut().zip(next).for_each(|(step, next)| *step = next + after / before * *step);
        }
        let change = self.expanded(&map);
        let mut fit = present.clone();
        for (row, &at) in order.iter().enumerate() {
            (0..fit.ncols()).for_each(|o| fit[(at, o)] += change[(row, o)]);
        }
        finite(&fit).then_some(fit)
    }

    /// What a map and a bias, one after the other, change of the weights in the order of `rows`, and last of the bias.
    fn expanded(&self, values: &[f64]) -> Mat<f64> {
        let (gone, kept, outputs) = (self.gone[0].nrows(), self.kept(), self.gone[0].ncols());
        let map = Mat::from_fn(kept, gone, |k, r| values[r * kept + k]);
        let mut change = Mat::zeros(self.rows.len() + 1, outputs);
        for (place, weights) in self.gone.iter().enumerate() {
            change.subrows_mut(place * kept, kept).copy_from(&map * weights);
        }
        (0..outputs).for_each(|o| change[(kept * self.gone.len(), o)] = values[gone * kept + o]);
        change
    }

    /// The transpose of [`Self::expanded`].
    fn collapsed(&self, change: &Mat<f64>) -> Vec<f64> {
        let (gone, kept, outputs) = (self.gone[0].nrows(), self.kept(), self.gone[0].ncols());
        let mut map = Mat::zeros(gone, kept);
        for (place, weights) in self.gone.iter().enumerate() {
            map += weights * change.subrows(place * kept, kept).transpose();
        }
        let map = (0..gone * kept).map(|at| map[(at / kept, at % kept)]);
        map.chain((0..outputs).map(|o| change[(self.rows.len(), o)])).collect()
    }

    fn diagonal(&self, gram: &Mat<f64>) -> Vec<f64> {
        let (gone, kept, outputs) = (self.gone[0].nrows(), self.kept(), self.gone[0].ncols());
        let power = |place: usize, r: usize| self.gone[place].row(r).iter().map(|w| w * w).sum::<f64>();
        let mut diagonal = vec![0.0; gone * kept];
        for place in 0..self.gone.len() {
            for r in 0..gone {
                let power = power(place, r);
                for k in 0..kept {
                    let row = place * kept + k;
                    diagonal[r * kept + k] += power * gram[(row, row)];
                }
            }
        }
        let bias = gram[(self.rows.len(), self.rows.len())];
        diagonal.into_iter().chain(vec![bias; outputs]).map(|value| value.max(1e-12)).collect()
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add(sum: &mut [f64], values: &[f64], factor: f64) {
    sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += factor * value);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    /// Where the targets are made by a map, it is found; and in any case the residual is at right angles to all maps.
    #[test]
    fn the_best_map_is_found() {
        let mut random = Random::new(3);
        let mut number = || (random.next() % 2001) as f64 / 1000.0 - 1.0;
        let (gone, kept, places, outputs) = (3, 5, 4, 6);
        let held = Mat::from_fn((gone + kept) * places + 1, outputs, |_, _| number());
        let rows = |first: usize, count: usize| -> Vec<Vec<usize>> {
            (first..first + count).map(|input| (input * places..(input + 1) * places).collect()).collect()
        };
        let columns: Vec<usize> = (0..outputs).collect();
        let takeover = Takeover::new(&held, &columns, &rows(kept, gone), &rows(0, kept)).unwrap();
        let k = kept * places + 1;
        let present =
            Mat::from_fn(k, outputs, |i, o| held[(if i + 1 == k { held.nrows() - 1 } else { i }, o)]);
        let x = Mat::from_fn(400, k, |_, j| if j + 1 == k { 1.0 } else { number() });
        let gram = x.transpose() * &x;
        let map: Vec<f64> = (0..gone * kept + outputs).map(|_| number()).collect();
        let change = takeover.expanded(&map);
        let wanted = Mat::from_fn(k, outputs, |i, o| {
            let row = takeover.rows.iter().position(|&row| row == i).unwrap_or(k - 1);
            present[(i, o)] + change[(row, o)]
        });
        let fit = takeover.solve(&gram, &(&gram * &wanted), &present).unwrap();
        let off = (0..k).flat_map(|i| (0..outputs).map(move |o| (i, o)));
        assert!(off.map(|at| (fit[at] - wanted[at]).abs()).fold(0.0, f64::max) < 0.02);
        let uneven = Takeover::new(&held, &columns, &[vec![0]], &rows(0, kept));
        assert!(uneven.is_none() && Takeover::new(&held, &columns, &[], &rows(0, kept)).is_none());
    }
}
