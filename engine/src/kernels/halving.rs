//! Rows whose even elements go one way and whose odd ones another.

use super::Isa;
use super::bodies::HalveArgs;
use super::simd::LANES;

/// Some rows of a plane to split; lengths and offsets are in floats.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Halving {
    /// The first row's start, and from a row to the next.
    pub(crate) source: usize,
    pub(crate) step: usize,
    pub(crate) rows: usize,
    /// Of each row, sixteen times so many elements are read, and eight times so many written to both.
    pub(crate) eights: usize,
    /// Where the first row's halves go, and from a row to the next.
    pub(crate) even: usize,
    pub(crate) odd: usize,
    pub(crate) stride: usize,
}

impl Halving {
    /// Whether it stays inside slices of these lengths.
    pub(crate) fn fits(&self, data: usize, out: usize) -> bool {
        let rows = self.rows.saturating_sub(1);
        self.source + rows * self.step + 2 * LANES * self.eights <= data
            && self.even.max(self.odd) + rows * self.stride + LANES * self.eights <= out
    }

    /// Splits the rows.
    ///
    /// # Panics
    /// Where it does not fit.
    pub(crate) fn run(&self, isa: Isa, data: &[f32], out: &mut [f32]) {
        assert!(self.fits(data.len(), out.len()));
        let to = out.as_mut_ptr();
        let args = HalveArgs {
            source: data.as_ptr().wrapping_add(self.source),
            step: self.step,
            rows: self.rows,
            eights: self.eights,
            even: to.wrapping_add(self.even),
            odd: to.wrapping_add(self.odd),
            stride: self.stride,
        };
        // SAFETY: it fits.
        unsafe { (isa.kernels().halve)(&args) }
    }
}
