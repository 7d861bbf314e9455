//! Sparse convolutions over unrolled planes: first every shift of the input that a tap asks for is laid out in whole
//! lines, then each output channel is a sum of weighted lines.

use std::ops::Range;

use super::bodies::{LineArgs, Part, UnrollArgs};
use super::{Aligned, Clamp, Vectors};

/// How the planes of an input are laid out in lines.
#[derive(Clone, Debug, Default)]
pub(crate) struct Unrolled {
    /// Parts of a line.
    pub(crate) parts: usize,
    /// The lines of a plane: where in it their parts lie, `[lines, parts]`. Planes that are read alike share one.
    pub(crate) patterns: Vec<Vec<Part>>,
    /// Where each plane starts in the input, and its pattern; their lines follow each other.
    pub(crate) planes: Vec<(u32, usize)>,
}

/// One output channel.
#[derive(Clone, Debug, Default)]
pub(crate) struct LineRow {
    /// Where each tap's lines start, in floats, and its weight.
    pub(crate) taps: Vec<(u32, f32)>,
    pub(crate) bias: f32,
    /// Where the channel's plane starts in the output, and in what is added to it.
    pub(crate) output: u32,
    pub(crate) residual: u32,
}

/// A packed convolution over unrolled planes.
pub(crate) struct Lines {
    vectors: Vectors,
    unrolled: Unrolled,
    /// Taps, biases and planes of all channels; `starts` says which taps are whose.
    offsets: Vec<u32>,
    weights: Aligned,
    starts: Vec<usize>,
    rows: Vec<(f32, u32, u32)>,
    /// Where in a plane the parts of each line go, and where those of what is added are.
    targets: Vec<Part>,
    added: Vec<Part>,
    tiles: Vec<Range<usize>>,
    clamp: Clamp,
    /// Lengths that the slices must have.
    input_len: usize,
    scratch_len: usize,
    output_len: usize,
    residual_len: usize,
}

/// Lines of a tile at most: what fits the registers.
pub(crate) const TILE_LINES: usize = 14;

impl Lines {
    /// Packs `rows`, whose taps count lines of `unrolled`. `targets` and `added` are parts of an output plane and of a
    /// plane that is added to it.
    ///
    /// # Panics
    /// Where a part lies before its plane's start, or `vectors` has no kernel for lines: a bug of the planner.
    pub(crate) fn new(
        vectors: Vectors,
        unrolled: Unrolled,
        rows: &[LineRow],
        [targets, added]: [Vec<Part>; 2],
        clamp: Clamp,
    ) -> Self {
        assert!(vectors.has_lines(), "no kernel for lines");
        let taps = || rows.iter().flat_map(|row| &row.taps);
        let starts = rows.iter().scan(0, |end, row| {
            *end += row.taps.len();
            Some(*end)
        });
        let lines = targets.len() / unrolled.parts;
        let count = lines.div_ceil(TILE_LINES);
        let at = |tile: usize| lines * tile / count;
        let own = |pattern: &Vec<Part>| pattern.len() / unrolled.parts * vectors.lanes();
        let scratch_len = unrolled.planes.iter().map(|&(_, pattern)| own(&unrolled.patterns[pattern])).sum();
        let read = unrolled.planes.iter().map(|&(start, at)| reach(start, &unrolled.patterns[at])).max();
        let last = taps().map(|tap| tap.0 as usize).max().unwrap_or(0) + lines * vectors.lanes();
        assert!(taps().next().is_none() || last <= scratch_len, "a tap behind the last line");
        Self {
            vectors,
            offsets: taps().map(|tap| tap.0).collect(),
            weights: Aligned::from_slice(&taps().map(|tap| tap.1).collect::<Vec<_>>()),
            starts: std::iter::once(0).chain(starts).collect(),
            rows: rows.iter().map(|row| (row.bias, row.output, row.residual)).collect(),
            tiles: (0..count).map(|tile| at(tile)..at(tile + 1)).collect(),
            clamp,
            input_len: read.unwrap_or(0),
            scratch_len,
            output_len: rows.iter().map(|row| reach(row.output, &targets)).max().unwrap_or(0),
            residual_len: rows.iter().map(|row| reach(row.residual, &added)).max().unwrap_or(0),
            unrolled,
            targets,
            added,
        }
    }

    /// For people.
    pub(crate) fn name(&self) -> String {
        format!("rows × lines of {}", self.vectors.lanes())
    }

    /// Multiply-accumulates of a run: those by weights that are not zero at `positions` of each row, and all.
    pub(crate) fn macs(&self, positions: usize) -> [u64; 2] {
        let lines = self.targets.len() / self.unrolled.parts * self.vectors.lanes();
        [positions, lines].map(|places| (self.weights.len() * places) as u64)
    }

    /// Bytes that it holds.
    pub(crate) fn bytes(&self) -> usize {
        let parts = self.unrolled.patterns.iter().map(Vec::len).sum::<usize>() + self.targets.len();
        8 * (self.weights.len() + parts + self.added.len()) + 16 * (self.rows.len() + self.unrolled.planes.len())
    }

    /// Floats of memory that a run needs for the lines.
    pub(crate) fn scratch(&self) -> usize {
        self.scratch_len
    }

    /// Computes all rows; `residual`, where there is one, is added before the clamp.
    ///
    /// # Panics
    /// Where a slice is shorter than the plan that it was packed for.
    pub(crate) fn run(&self, input: &[f32], residual: Option<&[f32]>, scratch: &mut [f32], output: &mut [f32]) {
        assert!(input.len() >= self.input_len && output.len() >= self.output_len);
        assert!(residual.is_none_or(|residual| residual.len() >= self.residual_len));
        let scratch = &mut scratch[..self.scratch_len];
        // SAFETY: `new` took the furthest lanes of all planes, rows and lines, and the lines above hold them against
        // the slices.
        unsafe {
            self.unroll(input.as_ptr(), scratch.as_mut_ptr());
            for tile in &self.tiles {
                for row in 0..self.rows.len() {
                    let residual = residual.map_or(std::ptr::null(), <[f32]>::as_ptr);
                    self.row(row, tile, scratch.as_ptr(), residual, output.as_mut_ptr());
                }
            }
        }
    }

    /// Lays out all planes in lines.
    ///
    /// # Safety
    /// The slices behind the pointers are as long as `new` says.
    unsafe fn unroll(&self, input: *const f32, scratch: *mut f32) {
        let Some(kernels) = &self.vectors.0.lines else { return };
        let mut to = scratch;
        for &(start, pattern) in &self.unrolled.planes {
            let pattern = &self.unrolled.patterns[pattern];
            let args = UnrollArgs {
                input: input.wrapping_add(start as usize),
                sources: pattern.as_ptr(),
                lines: pattern.len() / self.unrolled.parts,
                parts: self.unrolled.parts,
                output: to,
            };
            to = to.wrapping_add(args.lines * self.vectors.lanes());
            // SAFETY: the caller's.
            unsafe { (kernels.unroll)(&args) }
        }
    }

    /// One output channel at the lines of a tile.
    ///
    /// # Safety
    /// As [`Self::unroll`]; the residual may be null.
    unsafe fn row(
        &self,
        row: usize,
        tile: &Range<usize>,
        lines: *const f32,
        residual: *const f32,
        output: *mut f32,
    ) {
        let Some(kernels) = &self.vectors.0.lines else { return };
        let taps = self.starts[row]..self.starts[row + 1];
        let (bias, to, from) = self.rows[row];
        let first = tile.start * self.unrolled.parts;
        let args = LineArgs {
            input: lines.wrapping_add(tile.start * self.vectors.lanes()),
            offsets: self.offsets.as_ptr().wrapping_add(taps.start),
            weights: self.weights.as_ptr().wrapping_add(taps.start),
            len: taps.len(),
            bias,
            output: output.wrapping_add(to as usize),
            targets: self.targets.as_ptr().wrapping_add(first),
            residual: if residual.is_null() { residual } else { residual.wrapping_add(from as usize) },
            added: self.added.as_ptr().wrapping_add(first),
            parts: self.unrolled.parts,
            clamp: self.clamp,
        };
        // SAFETY: the caller's.
        unsafe { (kernels.row)(tile.len())(&args) }
    }
}

/// Floats up to the last lane of any part of a plane that starts at `start`.
///
/// # Panics
/// Where a lane lies before the first float.
fn reach(start: u32, parts: &[Part]) -> usize {
    let used = parts.iter().filter(|part| part.lanes != 0);
    let end = used.map(|part| {
        let at = i64::from(start) + i64::from(part.at);
        assert!(at + i64::from(part.lanes.trailing_zeros()) >= 0, "a lane before the input's start");
        (at + i64::from(u16::BITS - part.lanes.leading_zeros())) as usize
    });
    end.max().unwrap_or(0)
}
