//! Which single weights of a layer stay, and their best values: rounds of optimal brain surgeon, row by row, with exact
//! least squares on what is left after each (Hassibi 1993; ExactOBS, Frantar 2022, several weights at once).

use std::ops::Range;
use std::str::FromStr;

use faer::Mat;
use faer::Side;
use faer::linalg::solvers::{DenseSolveCore, Solve};
use rayon::prelude::*;
use secateur_common::ParseError;

use crate::moments::{inverse, part};

/// The share of the weights that stays in one round, at least.
const ROUND: f64 = 0.6;
/// Work of one round of exact fits, in multiplications, at most: above, the first round cuts deeper.
const WORK: f64 = 6e9;

/// Which weights may go without the others.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Pattern {
    /// So many neighbouring outputs share which inputs they read: 1, or what kernels like, 4 or 8.
    Block(usize),
    /// Of each `of` neighbouring inputs of an output, `keep` stay.
    NOfM {
        /// How many stay.
        keep: usize,
        /// Of how many.
        of: usize,
    },
}

impl Default for Pattern {
    fn default() -> Self {
        Self::Block(1)
    }
}

impl FromStr for Pattern {
    type Err = ParseError;

    /// Reads `single`, `4x1` and its like (outputs that share a pattern), or `2:4` and its like (inputs that stay).
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let bad = || ParseError::new("pattern", text, "single, 4x1, 8x1 or 2:4");
        let small = |part: &str| part.parse::<usize>().ok().filter(|count| (1..=64).contains(count));
        if text == "single" {
            return Ok(Self::default());
        }
        if let Some(outputs) = text.strip_suffix("x1") {
            return small(outputs).map(Self::Block).ok_or_else(bad);
        }
        let (keep, of) = text.split_once(':').ok_or_else(bad)?;
        let pair = small(keep).zip(small(of)).filter(|(keep, of)| keep < of);
        pair.map(|(keep, of)| Self::NOfM { keep, of }).ok_or_else(bad)
    }
}

impl Pattern {
    /// Outputs that share a pattern.
    pub(crate) fn outputs(self) -> usize {
        if let Self::Block(outputs) = self { outputs.max(1) } else { 1 }
    }
}

/// A layer's least squares: `min Σ (w ᵀ H w − 2 cᵀ w)` over its outputs' weights `w`, block by block.
pub(crate) struct Problem<'a> {
    pub(crate) blocks: &'a [Block],
    pub(crate) pattern: Pattern,
}

/// Outputs that see the same inputs.
pub(crate) struct Block {
    /// `H`, damped, `[k, k]`, the constant 1 last; it always stays.
    pub(crate) gram: Mat<f64>,
    /// `c` of each output, `[k, outputs]`.
    pub(crate) cross: Mat<f64>,
}

/// What stays of a layer: for each unit, outputs that share a pattern, its inputs, ascending.
#[derive(Clone, Debug)]
pub(crate) struct Support {
    pub(crate) inputs: Vec<Vec<usize>>,
}

impl Support {
    /// That of some units.
    pub(crate) fn of(&self, units: Range<usize>) -> Self {
        Self { inputs: self.inputs[units].to_vec() }
    }
}

/// A point on the way down.
pub(crate) struct Point {
    pub(crate) support: Support,
    /// The best weights there, for each block `[k, outputs]`, zero beside the support.
    pub(crate) weights: Vec<Mat<f64>>,
}

impl Problem<'_> {
    /// Inputs of each block: all have as many.
    fn width(&self) -> usize {
        self.blocks.first().map_or(0, |block| block.gram.nrows() - 1)
    }

    /// Each unit's block, and its outputs there.
    fn units(&self) -> Vec<(&Block, usize, Range<usize>)> {
        let each = self.pattern.outputs();
        let of = |(index, block): (usize, &'_ Block)| -> Vec<(usize, Range<usize>)> {
            let outputs = block.cross.ncols();
            (0..outputs).step_by(each).map(|from| (index, from..(from + each).min(outputs))).collect()
        };
        let units = self.blocks.iter().enumerate().flat_map(of);
        units.map(|(index, outputs)| (&self.blocks[index], index, outputs)).collect()
    }

    /// Prunes to each of `shares` of the weights, which fall. `None` where the sums are singular.
    pub(crate) fn prune(&self, shares: &[f64]) -> Option<Vec<Point>> {
        let width = self.width();
        let mut scores: Vec<Vec<f64>> = Vec::new();
        let solved = |block: &Block| -> Option<(Mat<f64>, Mat<f64>)> {
            let inverse = inverse(&block.gram)?;
            let free = &inverse * &block.cross;
            Some((inverse, free))
        };
        // All outputs of a block have all inputs: they share the inverse.
        let free: Option<Vec<(Mat<f64>, Mat<f64>)>> = self.blocks.iter().map(solved).collect();
        let free = free?;
        for (_, index, outputs) in self.units() {
            let (inverse, free) = &free[index];
            let size = |j: usize| outputs.clone().map(|o| free[(j, o)].powi(2)).sum::<f64>();
            scores.push((0..width).map(|j| size(j) / inverse[(j, j)]).collect());
        }
        let units = scores.len();
        let mut support = Support { inputs: vec![(0..width).collect(); units] };
        let mut points = Vec::new();
        let first = (WORK / units as f64).cbrt() / width as f64;
        let mut now = 1.0_f64;
        for &share in shares {
            while now > share {
                let next = if now == 1.0 { first.min(ROUND).max(share) } else { (now * ROUND).max(share) };
                self.keep(&mut support, &scores, next);
                now = next;
                let (fits, fresh) = self.fit(&support, now > shares[shares.len() - 1])?;
                scores = fresh;
                if now <= share {
                    points.push(Point { support: support.clone(), weights: fits });
                }
            }
        }
        Some(points)
    }

    /// Keeps the best `share` of all weights, or of each few where the pattern says so.
    fn keep(&self, support: &mut Support, scores: &[Vec<f64>], share: f64) {
        let width = self.width();
        if let Pattern::NOfM { keep, of } = self.pattern {
            let stay = ((of as f64 * share).ceil() as usize).max(keep);
            for (inputs, scores) in support.inputs.iter_mut().zip(scores) {
                let ranked: Vec<(usize, f64)> = inputs.iter().copied().zip(scores.iter().copied()).collect();
                let mut kept = Vec::new();
                for group in ranked.chunk_by(|a, b| a.0 / of == b.0 / of) {
                    let mut group = group.to_vec();
                    group.sort_by(|a, b| b.1.total_cmp(&a.1));
                    kept.extend(group.iter().take(stay).map(|(input, _)| *input));
                }
                kept.sort_unstable();
                *inputs = kept;
            }
            return;
        }
        let wanted = ((width * support.inputs.len()) as f64 * share).round() as usize;
        let mut all: Vec<(f64, usize, usize)> = Vec::new();
        for (block, scores) in scores.iter().enumerate() {
            all.extend(
                scores.iter().zip(&support.inputs[block]).map(|(&score, &input)| (score, block, input)),
            );
        }
        let order = |a: &(f64, usize, usize), b: &(f64, usize, usize)| {
            b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2)))
        };
        if wanted < all.len() {
            all.select_nth_unstable_by(wanted, order);
            all.truncate(wanted);
        }
        support.inputs.iter_mut().for_each(Vec::clear);
        all.into_iter().for_each(|(_, block, input)| support.inputs[block].push(input));
        support.inputs.iter_mut().for_each(|inputs| inputs.sort_unstable());
    }

    /// The best weights on `support`, and, where `scored`, what losing each of its inputs would cost.
    #[allow(clippy::type_complexity)]
    fn fit(&self, support: &Support, scored: bool) -> Option<(Vec<Mat<f64>>, Vec<Vec<f64>>)> {
        let bias = self.width();
        let units = self.units();
        let fits: Option<Vec<(Mat<f64>, Vec<f64>)>> = units
            .par_iter()
            .zip(&support.inputs)
            .map(|((block, _, outputs), inputs)| {
                let rows: Vec<usize> = inputs.iter().copied().chain([bias]).collect();
                let outputs: Vec<usize> = outputs.clone().collect();
                let factor = part(&block.gram, &rows, &rows).llt(Side::Lower).ok()?;
                let fit = factor.solve(part(&block.cross, &rows, &outputs));
                let mut scores = Vec::new();
                if scored {
                    let inverse = factor.inverse();
                    let size = |j: usize| (0..outputs.len()).map(|o| fit[(j, o)].powi(2)).sum::<f64>();
                    scores = (0..inputs.len()).map(|j| size(j) / inverse[(j, j)]).collect();
                }
                Some((fit, scores))
            })
            .collect();
        let mut weights: Vec<Mat<f64>> =
            self.blocks.iter().map(|block| Mat::zeros(bias + 1, block.cross.ncols())).collect();
        let mut scores = Vec::with_capacity(units.len());
        for (((_, index, outputs), inputs), (fit, score)) in units.iter().zip(&support.inputs).zip(fits?) {
            for (column, o) in outputs.clone().enumerate() {
                let rows = inputs.iter().copied().chain([bias]);
                rows.enumerate().for_each(|(row, j)| weights[*index][(j, o)] = fit[(row, column)]);
            }
            scores.push(score);
        }
        Some((weights, scores))
    }

    /// The best weights on `support`, for each block `[k, outputs]`, zero beside it.
    pub(crate) fn solve(&self, support: &Support) -> Option<Vec<Mat<f64>>> {
        self.fit(support, false).map(|(weights, _)| weights)
    }
}

#[cfg(test)]
mod tests {
    use secateur_common::probe_input;

    use super::*;

    fn random(seed: u64, rows: usize, columns: usize) -> Mat<f64> {
        let values = probe_input(seed, rows * columns);
        Mat::from_fn(rows, columns, |i, j| f64::from(values[i * columns + j]) - 0.5)
    }

    /// A problem whose best weights are `truth`.
    fn block(truth: &Mat<f64>) -> Block {
        let x = random(9, 200, truth.nrows());
        let gram = Mat::from_fn(truth.nrows(), truth.nrows(), |i, j| {
            (0..200).map(|r| x[(r, i)] * x[(r, j)]).sum::<f64>() + if i == j { 1e-6 } else { 0.0 }
        });
        let cross = &gram * truth;
        Block { gram, cross }
    }

    #[test]
    fn weights_that_alone_make_the_targets_are_found() {
        let noise = random(4, 13, 6);
        let truth =
            Mat::from_fn(13, 6, |i, o| if i == 12 || (i + o) % 4 == 0 { noise[(i, o)] + 1.0 } else { 0.0 });
        let blocks = [block(&truth)];
        let problem = Problem { blocks: &blocks, pattern: Pattern::default() };
        let point = problem.prune(&[0.5, 0.25]).unwrap().pop().unwrap();
        for (i, o) in (0..13).flat_map(|i| (0..6).map(move |o| (i, o))) {
            assert!((point.weights[0][(i, o)] - truth[(i, o)]).abs() < 1e-6, "at {i}, {o}");
        }
    }

    #[test]
    fn shares_and_patterns_are_kept() {
        let blocks = [block(&random(5, 17, 8)), block(&random(6, 17, 8))];
        for pattern in [Pattern::Block(1), Pattern::Block(4), Pattern::NOfM { keep: 2, of: 4 }] {
            let points = Problem { blocks: &blocks, pattern }.prune(&[0.75, 0.5]).unwrap();
            for (point, share) in points.iter().zip([0.75, 0.5]) {
                let kept: usize = point.support.inputs.iter().map(Vec::len).sum();
                assert_eq!(kept, (point.support.inputs.len() as f64 * 16.0 * share) as usize, "{pattern:?}");
            }
        }
    }

    #[test]
    fn patterns_are_read() {
        assert_eq!("single".parse::<Pattern>().unwrap(), Pattern::Block(1));
        assert_eq!("8x1".parse::<Pattern>().unwrap(), Pattern::Block(8));
        assert_eq!("2:4".parse::<Pattern>().unwrap(), Pattern::NOfM { keep: 2, of: 4 });
        for bad in ["", "0x1", "4:2", "4:4", "x1", "2:999"] {
            assert!(bad.parse::<Pattern>().is_err(), "{bad}");
        }
    }
}
