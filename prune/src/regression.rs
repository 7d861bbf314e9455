//! Least squares from sums: a layer's weights and bias from the second moments of its inputs and their products with
//! the targets.

use faer::linalg::matmul::matmul;
use faer::linalg::solvers::Solve;
use faer::{Accum, Mat, MatRef, Par, Side};

/// Damping, as a share of the mean diagonal. It pulls towards the weights that are there, not towards zero: directions
/// that the inputs hardly excite keep their values, which generalises better and leaves less to ship.
const DAMPING: f64 = 1e-2;
/// Rounds in which the inputs that get new weights are chosen.
const ROUNDS: usize = 4;
/// Rows that are turned into doubles at once.
const CHUNK: usize = 4096;

/// The sums of one layer, the constant 1 as the last input.
pub(crate) struct Regression {
    /// `H = Σ x xᵀ`, damped, `[k, k]`.
    gram: Mat<f64>,
    /// `Σ x yᵀ`, damped towards the present weights, `[k, outputs]`.
    cross: Mat<f64>,
    /// The weights that are there, `[k - 1, outputs]`.
    present: Mat<f64>,
}

impl Regression {
    /// Takes the sums of `values` (`[rows, width]`, row-major) and `targets` (`[rows, outputs]`); `None` where there is
    /// nothing to fit.
    pub(crate) fn of(values: &[f32], width: usize, targets: &Mat<f64>, present: Mat<f64>) -> Option<Self> {
        let (n, k, outputs) = (targets.nrows(), width + 1, targets.ncols());
        if n == 0 || outputs == 0 || width == 0 || (present.nrows(), present.ncols()) != (width, outputs) {
            return None;
        }
        let mut gram = Mat::<f64>::zeros(k, k);
        let mut cross = Mat::<f64>::zeros(k, outputs);
        for start in (0..n).step_by(CHUNK) {
            let length = CHUNK.min(n - start);
            let plain =
                MatRef::from_row_major_slice(&values[start * width..(start + length) * width], length, width);
            let x = Mat::<f64>::from_fn(
                length,
                k,
                |i, j| if j == width { 1.0 } else { f64::from(plain[(i, j)]) },
            );
            matmul(gram.as_mut(), Accum::Add, x.transpose(), x.as_ref(), 1.0, Par::rayon(0));
            let y = targets.as_ref().subrows(start, length);
            matmul(cross.as_mut(), Accum::Add, x.transpose(), y, 1.0, Par::rayon(0));
        }
        let mean = (0..width).map(|i| gram[(i, i)]).sum::<f64>() / width as f64;
        let damping = (DAMPING * mean).max(1e-9);
        for i in 0..width {
            gram[(i, i)] += damping;
            (0..outputs).for_each(|j| cross[(i, j)] += damping * present[(i, j)]);
        }
        Some(Self { gram, cross, present })
    }

    /// Weights and, last, the bias, `[k, outputs]`, with new weights for at most `inputs` of the inputs; `None` where
    /// the sums are singular or not finite.
    pub(crate) fn solve(&self, inputs: usize) -> Option<Mat<f64>> {
        let all = self.gram.nrows();
        let chosen = if inputs + 1 < all { self.choose(inputs)? } else { (0..all).collect() };
        let fit = self.fitted(&chosen)?;
        let finite = (0..fit.nrows()).all(|i| (0..fit.ncols()).all(|j| fit[(i, j)].is_finite()));
        finite.then_some(fit)
    }

    /// The bias and the inputs whose new weights lower the error most: rounds of the largest gains, each after what was
    /// chosen before is fitted (orthogonal matching pursuit over inputs, Tropp 2004, several at a time).
    fn choose(&self, inputs: usize) -> Option<Vec<usize>> {
        let bias = self.gram.nrows() - 1;
        let mut chosen = vec![bias];
        for round in 1..=ROUNDS {
            let left = self.residual(&self.fitted(&chosen)?);
            let gain = |i: usize| {
                (0..left.ncols()).map(|j| left[(i, j)] * left[(i, j)]).sum::<f64>() / self.gram[(i, i)]
            };
            let mut rest: Vec<(usize, f64)> =
                (0..bias).filter(|i| !chosen.contains(i)).map(|i| (i, gain(i))).collect();
            rest.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            let wanted = inputs * round / ROUNDS + 1;
            chosen.extend(rest.iter().take(wanted.saturating_sub(chosen.len())).map(|(i, _)| *i));
        }
        chosen.sort_unstable();
        Some(chosen)
    }

    /// The present weights with the best change of the `chosen` inputs'.
    fn fitted(&self, chosen: &[usize]) -> Option<Mat<f64>> {
        let width = self.present.nrows();
        let outputs = self.present.ncols();
        let mut fit =
            Mat::from_fn(width + 1, outputs, |i, j| if i == width { 0.0 } else { self.present[(i, j)] });
        let left = self.residual(&fit);
        let gram = Mat::from_fn(chosen.len(), chosen.len(), |i, j| self.gram[(chosen[i], chosen[j])]);
        let cross = Mat::from_fn(chosen.len(), outputs, |i, j| left[(chosen[i], j)]);
        let change = gram.llt(Side::Lower).ok()?.solve(&cross);
        for (row, &i) in chosen.iter().enumerate() {
            (0..outputs).for_each(|j| fit[(i, j)] += change[(row, j)]);
        }
        Some(fit)
    }

    /// `Σ x (y - W x)ᵀ`: what `weights` leave unexplained, seen from each input.
    fn residual(&self, weights: &Mat<f64>) -> Mat<f64> {
        let mut left = self.cross.clone();
        matmul(left.as_mut(), Accum::Add, self.gram.as_ref(), weights.as_ref(), -1.0, Par::rayon(0));
        left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Inputs `[rows, width]` and targets that follow from them by `weights` and a bias of 1 for each output.
    fn data(rows: usize, weights: &Mat<f64>) -> (Vec<f32>, Mat<f64>) {
        let width = weights.nrows();
        let values = secateur_common::probe_input(5, rows * width);
        let y = |row: usize, o: usize| {
            1.0 + (0..width).map(|i| f64::from(values[row * width + i]) * weights[(i, o)]).sum::<f64>()
        };
        let targets = Mat::from_fn(rows, weights.ncols(), y);
        (values, targets)
    }

    #[test]
    fn it_finds_the_weights_that_made_the_targets() {
        let truth = Mat::from_fn(6, 3, |i, j| (i as f64 - 2.5) * (j as f64 + 0.5));
        let (values, targets) = data(200, &truth);
        let regression = Regression::of(&values, 6, &targets, truth.clone()).unwrap();
        let fit = regression.solve(6).unwrap();
        assert!((0..6).all(|i| (0..3).all(|j| (fit[(i, j)] - truth[(i, j)]).abs() < 1e-3)));
        assert!((0..3).all(|j| (fit[(6, j)] - 1.0).abs() < 1e-2));
    }

    #[test]
    fn only_the_inputs_that_matter_change() {
        let truth = Mat::from_fn(6, 3, |i, j| (i as f64 - 2.5) * (j as f64 + 0.5));
        let (values, targets) = data(200, &truth);
        let mut present = truth.clone();
        (0..3).for_each(|j| present[(4, j)] = 0.0);
        let fit = Regression::of(&values, 6, &targets, present).unwrap().solve(1).unwrap();
        assert!((0..6).filter(|&i| i != 4).all(|i| (0..3).all(|j| fit[(i, j)] == truth[(i, j)])));
        assert!((0..3).all(|j| (fit[(4, j)] - truth[(4, j)]).abs() < 0.2 * truth[(4, j)].abs().max(1.0)));
    }
}
