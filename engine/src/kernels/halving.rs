//! Rows that are taken two elements at a time: split in two, or pooled.

use super::Isa;
use super::bodies::HalveArgs;
use super::simd::LANES;

/// Some rows of some planes; lengths and offsets are in floats.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Halving {
    pub(crate) planes: usize,
    pub(crate) rows: usize,
    /// Elements of a row.
    pub(crate) width: usize,
    /// The first row's start, and from a plane and from a row to the next.
    pub(crate) source: usize,
    pub(crate) from: [usize; 2],
    /// What becomes of a row.
    pub(crate) into: Into,
    /// From a plane and from a row of the results to the next.
    pub(crate) to: [usize; 2],
}

/// What becomes of a row, and where the first result goes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Into {
    /// The elements at even places, from zero, and those at odd ones.
    Halves { even: usize, odd: usize },
    /// The largest of two elements and the two that lie `below` floats behind them.
    Maxima { to: usize, below: usize },
}

impl Halving {
    /// Of each row, sixteen times so many elements are read, and eight times so many written.
    fn eights(&self) -> usize {
        self.width.div_ceil(2 * LANES)
    }

    /// Results of a row at most.
    fn results(&self) -> usize {
        match self.into {
            Into::Halves { .. } => self.width.div_ceil(2),
            Into::Maxima { .. } => self.width / 2,
        }
    }

    /// Works on the rows in order, if what is written behind a row (zeros, up to whole vectors) fits the `gap` behind
    /// a plane's last, and all that is read and written lies inside; whether it does.
    pub(crate) fn run(&self, isa: Isa, gap: usize, data: &[f32], out: &mut [f32]) -> bool {
        if self.planes * self.rows * self.results() == 0 {
            return false;
        }
        let (last, width) = ((self.eights() - 1) * LANES, self.eights() * LANES);
        let (even, odd, below) = match self.into {
            Into::Halves { even, odd } => (even, odd, 0),
            Into::Maxima { to, below } => (to, to, below),
        };
        let span = |steps: [usize; 2]| (self.planes - 1) * steps[0] + (self.rows - 1) * steps[1];
        let inside = self.source + span(self.from) + below + 2 * width <= data.len()
            && even.max(odd) + span(self.to) + width <= out.len();
        if !inside || width - self.results() > gap {
            return false;
        }
        let to = out.as_mut_ptr();
        let args = HalveArgs {
            source: data.as_ptr().wrapping_add(self.source),
            planes: self.planes,
            rows: self.rows,
            eights: self.eights(),
            from: self.from,
            below,
            even: to.wrapping_add(even),
            odd: to.wrapping_add(odd),
            to: self.to,
            kept: [self.width.div_ceil(2) - last, (self.width / 2).saturating_sub(last)],
        };
        let kernels = isa.kernels();
        let run = if matches!(self.into, Into::Halves { .. }) { kernels.halve } else { kernels.pool };
        // SAFETY: all lies inside.
        unsafe { run(&args) }
        true
    }
}
