//! Second moments of a layer's inputs: sums, so that what was taken apart can be added.

use faer::linalg::matmul::triangular::{self, BlockStructure};
use faer::linalg::solvers::{DenseSolveCore, Solve};
use faer::{Accum, Mat, MatRef, Par, Side};

/// Rows that are multiplied in single precision before their sum goes into doubles.
const CHUNK: usize = 4096;

/// `Σ x xᵀ` over rows `x`, whose last element is the constant 1.
#[derive(Clone, Debug)]
pub struct Moments {
    rows: u64,
    /// `[k, k]`; the lower triangle holds.
    gram: Mat<f64>,
}

impl Moments {
    /// No rows yet, of `columns` elements each, the constant 1 among them.
    pub fn new(columns: usize) -> Self {
        Self { rows: 0, gram: Mat::zeros(columns, columns) }
    }

    /// Elements of a row.
    pub fn columns(&self) -> usize {
        self.gram.nrows()
    }

    /// Rows taken.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// The rows taken, and the lower triangle of their sums, column after column.
    pub(crate) fn parts(&self) -> (u64, impl Iterator<Item = f64> + '_) {
        let k = self.columns();
        (self.rows, (0..k).flat_map(move |j| (j..k).map(move |i| self.gram[(i, j)])))
    }

    /// What [`Self::parts`] told, `columns * (columns + 1) / 2` sums; missing ones are zero.
    pub(crate) fn from_parts(columns: usize, rows: u64, sums: &[f64]) -> Self {
        let mut moments = Self { rows, ..Self::new(columns) };
        let places = (0..columns).flat_map(|j| (j..columns).map(move |i| (i, j)));
        places.zip(sums).for_each(|(place, &sum)| moments.gram[place] = sum);
        moments
    }

    /// Adds rows, row-major `[rows, columns]`.
    pub fn add(&mut self, rows: &[f32]) {
        let columns = self.columns();
        let mut sums = Mat::<f32>::zeros(columns, columns);
        for chunk in rows.chunks(CHUNK * columns) {
            let x = MatRef::from_row_major_slice(chunk, chunk.len() / columns, columns);
            let (lower, full) = (BlockStructure::TriangularLower, BlockStructure::Rectangular);
            triangular::matmul(
                sums.as_mut(),
                lower,
                Accum::Replace,
                x.transpose(),
                full,
                x,
                full,
                1.0,
                Par::rayon(0),
            );
            for j in 0..columns {
                (j..columns).for_each(|i| self.gram[(i, j)] += f64::from(sums[(i, j)]));
            }
        }
        self.rows += (rows.len() / columns.max(1)) as u64;
    }

    /// Adds what was taken elsewhere from rows of the same inputs.
    ///
    /// # Errors
    /// [`OtherColumns`] where the rows were of another length.
    pub fn merge(&mut self, other: &Self) -> Result<(), OtherColumns> {
        if self.columns() != other.columns() {
            return Err(OtherColumns { have: self.columns(), got: other.columns() });
        }
        self.gram += &other.gram;
        self.rows += other.rows;
        Ok(())
    }

    /// The mean of `x xᵀ`, whole, with `damping` of its mean diagonal (the constant's not among it) added to it.
    pub fn mean(&self, damping: f64) -> Mat<f64> {
        let (k, n) = (self.columns(), self.rows.max(1) as f64);
        let mut mean = Mat::from_fn(k, k, |i, j| self.gram[(i.max(j), i.min(j))] / n);
        let diagonal =
            (0..k.saturating_sub(1)).map(|i| mean[(i, i)]).sum::<f64>() / k.saturating_sub(1).max(1) as f64;
        let ridge = (damping * diagonal).max(1e-10);
        (0..k).for_each(|i| mean[(i, i)] += if i + 1 < k { ridge } else { 1e-9 });
        mean
    }
}

/// Moments of inputs of another length.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("moments of {got} inputs cannot be added to those of {have}")]
#[allow(missing_docs)]
pub struct OtherColumns {
    pub have: usize,
    pub got: usize,
}

/// `A⁻¹`, for a symmetric positive matrix; `None` where it is none.
pub(crate) fn inverse(matrix: &Mat<f64>) -> Option<Mat<f64>> {
    Some(matrix.llt(Side::Lower).ok()?.inverse())
}

/// `A⁻¹ B`, for a symmetric positive `A`; `None` where it is none.
pub(crate) fn solved(matrix: &Mat<f64>, right: &Mat<f64>) -> Option<Mat<f64>> {
    let solution = matrix.llt(Side::Lower).ok()?.solve(right);
    let finite = (0..solution.ncols()).all(|j| solution.col(j).iter().all(|value| value.is_finite()));
    finite.then_some(solution)
}

/// The rows and columns of `matrix` at `rows` and `columns`.
pub(crate) fn part(matrix: &Mat<f64>, rows: &[usize], columns: &[usize]) -> Mat<f64> {
    Mat::from_fn(rows.len(), columns.len(), |i, j| matrix[(rows[i], columns[j])])
}
