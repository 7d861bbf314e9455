//! Least squares from sums: a layer's weights and bias from the second moments of its inputs and their products with
//! the targets.

use faer::linalg::matmul::matmul;
use faer::linalg::solvers::Solve;
use faer::{Accum, Mat, MatRef, Par, Side};

use crate::moments::{Moments, part, solved};
use crate::takeover::Takeover;

/// Damping, as a share of the mean diagonal. It pulls towards the weights that are there, not towards zero: directions
/// that the inputs hardly excite keep their values, which generalises better and leaves less to ship.
const DAMPING: f64 = 1e-2;
/// Rounds in which the inputs that get new weights are chosen.
const CHOICES: usize = 4;
/// Rounds in which targets are moved to where an activation does not see the difference.
const ROUNDS: usize = 10;

/// One block of one layer.
pub(crate) struct Regression<'a> {
    /// Row-major `[rows, k]`, the constant 1 last.
    pub(crate) rows: &'a [f32],
    /// What each row should give, row-major `[rows, outputs]`.
    pub(crate) targets: &'a [f32],
    /// What is added to each output before its activation, if anything is, row-major `[rows, outputs]`; `targets` count
    /// it in.
    pub(crate) added: Option<&'a [f32]>,
    /// The range outside of which an output's exact value does not matter.
    pub(crate) range: (f32, f32),
    /// The weights and, last, the bias that are there, `[k, outputs]`.
    pub(crate) present: Mat<f64>,
    /// Whether the bias may change.
    pub(crate) has_bias: bool,
}

/// What of a layer's weights may change, the bias beside.
pub(crate) enum Change {
    /// All.
    Whole,
    /// Those of so many inputs, the ones that help most.
    Inputs(usize),
    /// What the inputs that stay take over from those that go, and then as with `Inputs`.
    Takeover(Takeover, usize),
}

/// Sums over rows of one block.
pub(crate) struct Sums {
    /// The mean of `x xᵀ`, damped, `[k, k]`.
    pub(crate) gram: Mat<f64>,
    /// The damping of each input.
    pub(crate) ridges: Vec<f64>,
}

/// Whether all of a matrix is finite.
pub(crate) fn finite(matrix: &Mat<f64>) -> bool {
    (0..matrix.ncols()).all(|j| matrix.col(j).iter().all(|value| value.is_finite()))
}

impl Regression<'_> {
    fn outputs(&self) -> usize {
        self.present.ncols()
    }

    fn matrix(&self) -> MatRef<'_, f32> {
        let k = self.present.nrows();
        MatRef::from_row_major_slice(self.rows, self.rows.len() / k, k)
    }

    /// Weights and, last, the bias, `[k, outputs]`, changed as far as `change` allows; `None` where
    /// there is nothing to fit, or the sums are singular or not finite.
    pub(crate) fn solve(&self, change: &Change) -> Option<Mat<f64>> {
        let sums = self.sums()?;
        let factor = sums.gram.llt(Side::Lower).ok()?;
        let (cross, fit) = self.rounds(&sums, |cross| Some(factor.solve(cross)))?;
        let fit = match change {
            Change::Takeover(takeover, inputs) => {
                let taken = takeover.solve(&sums.gram, &cross, &self.present)?;
                self.sparse(&taken, &sums.gram, &cross, *inputs)?
            }
            Change::Inputs(inputs) if *inputs < self.present.nrows() - 1 => {
                self.sparse(&self.present, &sums.gram, &cross, *inputs)?
            }
            _ => fit,
        };
        finite(&fit).then_some(fit)
    }

    /// Fits by `solve`, which takes the mean of `x yᵀ`, and again while targets move. The last fit and what it is from.
    pub(crate) fn rounds(
        &self,
        sums: &Sums,
        solve: impl Fn(&Mat<f64>) -> Option<Mat<f64>>,
    ) -> Option<(Mat<f64>, Mat<f64>)> {
        let mut goal = self.goal();
        let mut cross = self.cross(&goal, &sums.ridges);
        let mut fit = solve(&cross)?;
        if self.range != (f32::NEG_INFINITY, f32::INFINITY) {
            for _ in 0..ROUNDS {
                self.move_targets(&fit, &mut goal);
                cross = self.cross(&goal, &sums.ridges);
                fit = solve(&cross)?;
            }
        }
        Some((cross, fit))
    }

    /// The sums that a fit is made from; `None` where there is nothing to fit.
    pub(crate) fn sums(&self) -> Option<Sums> {
        let k = self.present.nrows();
        let count = self.rows.len() / k;
        if count == 0 || self.outputs() == 0 || self.targets.len() != count * self.outputs() {
            return None;
        }
        let mut moments = Moments::new(k);
        moments.add(self.rows);
        let mut gram = moments.mean(0.0);
        let ridge = DAMPING * (0..k - 1).map(|i| gram[(i, i)]).sum::<f64>() / (k - 1).max(1) as f64;
        let ridges: Vec<f64> = (0..k)
            .map(|i| match (i + 1 < k, self.has_bias) {
                (true, _) => ridge.max(1e-9),
                (false, true) => 1e-9,
                (false, false) => 1e9, // stays where it is
            })
            .collect();
        (0..k).for_each(|i| gram[(i, i)] += ridges[i]);
        Some(Sums { gram, ridges })
    }

    /// What the layer itself should give.
    pub(crate) fn goal(&self) -> Vec<f32> {
        match self.added {
            Some(added) => self.targets.iter().zip(added).map(|(target, added)| target - added).collect(),
            None => self.targets.to_vec(),
        }
    }

    /// The mean of `x yᵀ`, damped towards the present weights.
    pub(crate) fn cross(&self, goal: &[f32], ridges: &[f64]) -> Mat<f64> {
        let (x, outputs) = (self.matrix(), self.outputs());
        let y = MatRef::from_row_major_slice(goal, x.nrows(), outputs);
        let mut sums = Mat::<f32>::zeros(x.ncols(), outputs);
        let mut cross = Mat::from_fn(x.ncols(), outputs, |i, o| ridges[i] * self.present[(i, o)]);
        for start in (0..x.nrows()).step_by(4096) {
            let length = 4096.min(x.nrows() - start);
            let (x, y) = (x.subrows(start, length), y.subrows(start, length));
            matmul(sums.as_mut(), Accum::Replace, x.transpose(), y, 1.0, Par::rayon(0));
            for o in 0..outputs {
                (0..sums.nrows())
                    .for_each(|i| cross[(i, o)] += f64::from(sums[(i, o)]) / self.matrix().nrows() as f64);
            }
        }
        cross
    }

    /// Where a target lies beyond the range and the fit does too, the fit will do.
    fn move_targets(&self, fit: &Mat<f64>, goal: &mut [f32]) {
        let (x, outputs, (low, high)) = (self.matrix(), self.outputs(), self.range);
        let weights = Mat::<f32>::from_fn(fit.nrows(), outputs, |i, o| fit[(i, o)] as f32);
        let mut found = vec![0.0_f32; goal.len()];
        let into = faer::MatMut::from_row_major_slice_mut(&mut found, x.nrows(), outputs);
        matmul(into, Accum::Replace, x, weights.as_ref(), 1.0, Par::rayon(0));
        for (index, goal) in goal.iter_mut().enumerate() {
            let (target, added) = (self.targets[index], self.added.map_or(0.0, |added| added[index]));
            let found = found[index] + added;
            if target <= low {
                *goal = found.min(low) - added;
            } else if target >= high {
                *goal = found.max(high) - added;
            }
        }
    }

    /// The weights `from` with the best change of the bias and at most `inputs` inputs: rounds of the largest gains,
    /// each after what was chosen before is fitted (orthogonal matching pursuit over inputs, Tropp 2004, several at a
    /// time).
    fn sparse(&self, from: &Mat<f64>, gram: &Mat<f64>, cross: &Mat<f64>, inputs: usize) -> Option<Mat<f64>> {
        let bias = gram.nrows() - 1;
        let mut chosen = vec![bias];
        for round in 1..=CHOICES {
            let fit = changed(from, gram, cross, &chosen)?;
            let left = cross - gram * &fit;
            let gain = |i: usize| (0..left.ncols()).map(|j| left[(i, j)].powi(2)).sum::<f64>() / gram[(i, i)];
            let mut rest: Vec<(usize, f64)> =
                (0..bias).filter(|i| !chosen.contains(i)).map(|i| (i, gain(i))).collect();
            rest.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            let wanted = inputs * round / CHOICES + 1;
            chosen.extend(rest.iter().take(wanted.saturating_sub(chosen.len())).map(|(i, _)| *i));
        }
        chosen.sort_unstable();
        changed(from, gram, cross, &chosen)
    }
}

/// The weights `from` with the best change of the `chosen` inputs'.
fn changed(from: &Mat<f64>, gram: &Mat<f64>, cross: &Mat<f64>, chosen: &[usize]) -> Option<Mat<f64>> {
    let mut fit = from.clone();
    let left = cross - gram * &fit;
    let left = Mat::from_fn(chosen.len(), left.ncols(), |i, j| left[(chosen[i], j)]);
    let change = solved(&part(gram, chosen, chosen), &left)?;
    for (row, &i) in chosen.iter().enumerate() {
        (0..fit.ncols()).for_each(|j| fit[(i, j)] += change[(row, j)]);
    }
    Some(fit)
}
