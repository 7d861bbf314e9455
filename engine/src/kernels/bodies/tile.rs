//! Convolution kernels whose lanes are positions: some rows at some vectors.

use super::super::simd::Simd;
use super::{Clamp, KEPT};

/// Where one vector of a tile reads and writes, as offsets from the bases of the three planes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) input: u32,
    pub(crate) output: u32,
    pub(crate) residual: u32,
}

/// Rows that share their taps.
#[derive(Clone, Debug)]
pub(in crate::kernels) struct Block {
    /// Where its biases and output rows start; their number.
    pub(in crate::kernels) first: usize,
    pub(in crate::kernels) rows: usize,
    /// Where its taps start, and how many there are.
    pub(in crate::kernels) taps: usize,
    pub(in crate::kernels) len: usize,
    /// Of a [`super::pair()`]: the taps that both rows have, and those of the first alone. The weights of the former come
    /// in twos.
    pub(in crate::kernels) split: [usize; 2],
    pub(in crate::kernels) weights: usize,
}

/// Arguments of a tile: some blocks of output channels at some places, each the sum of weighted inputs. A place is a vector
/// of positions ([`tile()`]) or one position ([`super::channels()`]).
pub(in crate::kernels) struct TileArgs<'b> {
    /// Of one height.
    pub(in crate::kernels) blocks: &'b [Block],
    /// Base of the input; `places` and `offsets` count from here.
    pub(in crate::kernels) input: *const f32,
    /// Offsets of the inputs summed, of all blocks.
    pub(in crate::kernels) offsets: *const i32,
    /// Weights, `[taps, rows]` of each block; rows in whole vectors where the lanes are channels.
    pub(in crate::kernels) weights: *const f32,
    /// One a row, padding included.
    pub(in crate::kernels) bias: *const f32,
    /// Base of the output, and each row's offset from it.
    pub(in crate::kernels) output: *mut f32,
    pub(in crate::kernels) output_rows: *const u32,
    /// Base of what is added, or null, and each row's offset from it.
    pub(in crate::kernels) residual: *const f32,
    pub(in crate::kernels) residual_rows: *const u32,
    pub(in crate::kernels) places: *const Place,
    /// Lanes of each vector that are written where they are positions.
    pub(in crate::kernels) written: usize,
    /// Lanes that are positions, of all vectors and of the last; zeros are written behind them.
    pub(in crate::kernels) kept: [usize; 2],
    pub(in crate::kernels) clamp: Clamp,
}

impl TileArgs<'_> {
    /// Where each of the places reads from.
    ///
    /// # Safety
    /// There are so many places, and each lies inside the input.
    #[inline(always)]
    pub(super) unsafe fn sources<const N: usize>(&self) -> [*const f32; N] {
        let mut sources = [self.input; N];
        for (at, source) in sources.iter_mut().enumerate() {
            // SAFETY: the caller's.
            *source = unsafe { self.input.add((*self.places.add(at)).input as usize) };
        }
        sources
    }
}

/// `R` rows of each block at `V` vectors.
///
/// # Safety
/// All offsets, places and rows lie inside the arrays that the bases point to, a vector each for reading and
/// `written` for writing.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // loops over constant lengths, unrolled into registers
pub(in crate::kernels) unsafe fn tile<S: Simd, const R: usize, const V: usize>(t: &TileArgs<'_>) {
    // SAFETY: the caller's bounds.
    unsafe {
        let sources = t.sources::<V>();
        for block in t.blocks {
            one::<S, R, V>(t, block, &sources);
        }
    }
}

/// # Safety
/// As [`tile()`].
#[inline(always)]
#[allow(clippy::needless_range_loop)]
unsafe fn one<S: Simd, const R: usize, const V: usize>(
    t: &TileArgs<'_>,
    block: &Block,
    sources: &[*const f32; V],
) {
    // SAFETY: the caller's bounds.
    unsafe {
        let mut sums = [[S::splat(0.0); V]; R];
        for r in 0..R {
            sums[r] = [S::splat(*t.bias.add(block.first + r)); V];
        }
        let mut weights = t.weights.add(block.weights);
        let offsets = t.offsets.add(block.taps);
        for k in 0..block.len {
            let offset = *offsets.add(k) as isize;
            let mut x = [S::splat(0.0); V];
            for v in 0..V {
                x[v] = S::load(sources[v].offset(offset));
            }
            for r in 0..R {
                let weight = S::splat(*weights.add(r));
                for v in 0..V {
                    sums[r][v] = S::fma(weight, x[v], sums[r][v]);
                }
            }
            weights = weights.add(R);
        }
        for r in 0..R {
            finish::<S, V>(&sums[r], t, block.first + r);
        }
    }
}

/// What the sums of row `r` pass last: the residual, the clamp, the way to memory.
///
/// # Safety
/// As [`tile`].
#[inline(always)]
#[allow(clippy::needless_range_loop)]
pub(super) unsafe fn finish<S: Simd, const V: usize>(sums: &[S::Vector; V], t: &TileArgs<'_>, r: usize) {
    // SAFETY: the caller's bounds.
    unsafe {
        let to = t.output.add(*t.output_rows.add(r) as usize);
        let residual = t.residual.wrapping_add(*t.residual_rows.add(r) as usize);
        if t.written < S::LANES {
            // A copy, so that the sums themselves stay in registers.
            let copy = *sums;
            return finish_narrow(copy.as_ptr().cast(), [V, S::LANES], t, to, residual);
        }
        let (low, high) = (S::splat(t.clamp.low), S::splat(t.clamp.high));
        let kept = [S::load(KEPT[t.kept[0]].as_ptr().cast()), S::load(KEPT[t.kept[1]].as_ptr().cast())];
        for v in 0..V {
            let place = t.places.add(v);
            let mut sum = sums[v];
            if !t.residual.is_null() {
                sum = S::add(sum, S::load(residual.add((*place).residual as usize)));
            }
            let sum = S::and(S::clamp(sum, low, high), kept[usize::from(v + 1 == V)]);
            S::store(to.add((*place).output as usize), sum);
        }
    }
}

/// The same lane by lane, where a vector is not written whole.
///
/// # Safety
/// As [`tile`].
#[inline(never)]
unsafe fn finish_narrow(
    sums: *const f32,
    [vectors, lanes]: [usize; 2],
    t: &TileArgs<'_>,
    to: *mut f32,
    residual: *const f32,
) {
    for (v, lane) in (0..vectors).flat_map(|v| (0..t.written).map(move |lane| (v, lane))) {
        // SAFETY: the caller's bounds.
        unsafe {
            let place = *t.places.add(v);
            let mut sum = *sums.add(v * lanes + lane);
            if !t.residual.is_null() {
                sum += *residual.add(place.residual as usize + lane);
            }
            *to.add(place.output as usize + lane) = t.clamp.of(sum);
        }
    }
}
