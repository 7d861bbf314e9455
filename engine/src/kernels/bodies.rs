//! What all instruction sets run: the kernels, over eight lanes.

use super::Clamp;
use super::simd::{LANES, Simd};

/// Where one vector of a tile reads and writes, as offsets from the bases of the three planes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) input: u32,
    pub(crate) output: u32,
    pub(crate) residual: u32,
}

/// Arguments of a tile of output channels at some places, each the sum of `len` weighted inputs. A place is a vector of
/// positions ([`tile`]) or one position ([`lanes`]).
pub(super) struct TileArgs {
    /// Base of the input; `places` and `offsets` count from here.
    pub(super) input: *const f32,
    /// Offsets of the inputs summed, `len` of them.
    pub(super) offsets: *const i32,
    /// Weights, `[len, rows]`; rows in whole vectors where the lanes are channels.
    pub(super) weights: *const f32,
    pub(super) len: usize,
    /// One a row, padding included.
    pub(super) bias: *const f32,
    /// Base of the output, and each row's offset from it.
    pub(super) output: *mut f32,
    pub(super) output_rows: *const u32,
    /// Base of what is added, or null, and each row's offset from it.
    pub(super) residual: *const f32,
    pub(super) residual_rows: *const u32,
    pub(super) places: *const Place,
    /// Lanes of each vector that are written where they are positions; all channels where they are those.
    pub(super) written: usize,
    pub(super) clamp: Clamp,
}

/// # Safety
/// All offsets, places and rows lie inside the arrays that the bases point to, eight floats each for reading and
/// `written` for writing.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // loops over constant lengths, unrolled into registers
pub(super) unsafe fn tile<S: Simd, const R: usize, const V: usize>(t: &TileArgs) {
    // SAFETY: the caller's bounds.
    unsafe {
        let mut sums = [[S::splat(0.0); V]; R];
        for r in 0..R {
            sums[r] = [S::splat(*t.bias.add(r)); V];
        }
        let mut sources = [t.input; V];
        for v in 0..V {
            sources[v] = t.input.add((*t.places.add(v)).input as usize);
        }
        let mut weights = t.weights;
        for k in 0..t.len {
            let offset = *t.offsets.add(k) as isize;
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
        let (low, high) = (S::splat(t.clamp.low), S::splat(t.clamp.high));
        if t.residual.is_null() && t.written == LANES {
            for v in 0..V {
                let to = t.output.add((*t.places.add(v)).output as usize);
                for r in 0..R {
                    S::store(to.add(*t.output_rows.add(r) as usize), S::clamp(sums[r][v], low, high));
                }
            }
            return;
        }
        for v in 0..V {
            let place = *t.places.add(v);
            for r in 0..R {
                let mut sum = sums[r][v];
                if !t.residual.is_null() {
                    let from = t.residual.add(*t.residual_rows.add(r) as usize + place.residual as usize);
                    sum = S::add(sum, S::load(from));
                }
                let to = t.output.add(*t.output_rows.add(r) as usize + place.output as usize);
                put::<S>(to, S::clamp(sum, low, high), t.written);
            }
        }
    }
}

/// A tile whose lanes are output channels, `V · 8` of them at `P` positions.
///
/// # Safety
/// As [`tile`], with one float a place.
#[inline(always)]
#[allow(clippy::needless_range_loop)]
pub(super) unsafe fn lanes<S: Simd, const P: usize, const V: usize>(t: &TileArgs) {
    // SAFETY: the caller's bounds.
    unsafe {
        let mut sums = [[S::splat(0.0); V]; P];
        let mut sources = [t.input; P];
        for p in 0..P {
            for v in 0..V {
                sums[p][v] = S::load(t.bias.add(v * LANES));
            }
            sources[p] = t.input.add((*t.places.add(p)).input as usize);
        }
        let mut weights = t.weights;
        for k in 0..t.len {
            let offset = *t.offsets.add(k) as isize;
            let mut row = [S::splat(0.0); V];
            for v in 0..V {
                row[v] = S::load(weights.add(v * LANES));
            }
            for p in 0..P {
                let x = S::splat(*sources[p].offset(offset));
                for v in 0..V {
                    sums[p][v] = S::fma(x, row[v], sums[p][v]);
                }
            }
            weights = weights.add(V * LANES);
        }
        for v in 0..V {
            let mut turned = [[0f32; P]; LANES];
            for p in 0..P {
                let mut lanes = [0f32; LANES];
                S::store(lanes.as_mut_ptr(), sums[p][v]);
                for lane in 0..LANES {
                    turned[lane][p] = lanes[lane];
                }
            }
            for lane in 0..t.written.saturating_sub(v * LANES).min(LANES) {
                let row = t.output.add(*t.output_rows.add(v * LANES + lane) as usize);
                let residual = *t.residual_rows.add(v * LANES + lane) as usize;
                for p in 0..P {
                    let place = *t.places.add(p);
                    let mut sum = turned[lane][p];
                    if !t.residual.is_null() {
                        sum += *t.residual.add(residual + place.residual as usize);
                    }
                    *row.add(place.output as usize) = t.clamp.of(sum);
                }
            }
        }
    }
}

/// Writes the first `lanes` of a vector.
///
/// # Safety
/// `to` is valid for as many.
#[inline(always)]
unsafe fn put<S: Simd>(to: *mut f32, vector: S::Vector, lanes: usize) {
    // SAFETY: the caller's bounds.
    unsafe {
        if lanes == LANES {
            S::store(to, vector);
        } else {
            let mut all = [0f32; LANES];
            S::store(all.as_mut_ptr(), vector);
            std::ptr::copy_nonoverlapping(all.as_ptr(), to, lanes);
        }
    }
}

/// Arguments of a block of a matrix: `vectors · 8` outputs, each the sum of `len` weighted inputs.
pub(super) struct BlockArgs {
    pub(super) input: *const f32,
    /// Which inputs are summed; null where all are, in order.
    pub(super) indices: *const u32,
    /// Weights, `[len, vectors · 8]`.
    pub(super) weights: *const f32,
    pub(super) len: usize,
    /// One a lane.
    pub(super) bias: *const f32,
    pub(super) output: *mut f32,
    /// Outputs that are written.
    pub(super) lanes: usize,
    pub(super) clamp: Clamp,
}

/// # Safety
/// `indices` lie inside the input, the other pointers are valid for the lengths said.
#[inline(always)]
#[allow(clippy::needless_range_loop)]
pub(super) unsafe fn block<S: Simd, const V: usize, const U: usize>(b: &BlockArgs) {
    // SAFETY: the caller's bounds.
    unsafe {
        // `U` sums a lane, so that one product need not wait for the one before.
        let mut sums = [[S::splat(0.0); V]; U];
        for v in 0..V {
            sums[0][v] = S::load(b.bias.add(v * LANES));
        }
        let mut weights = b.weights;
        let mut k = 0;
        let at = |k: usize| if b.indices.is_null() { k } else { *b.indices.add(k) as usize };
        while k + U <= b.len {
            for u in 0..U {
                let x = S::splat(*b.input.add(at(k + u)));
                for v in 0..V {
                    sums[u][v] = S::fma(x, S::load(weights.add((u * V + v) * LANES)), sums[u][v]);
                }
            }
            weights = weights.add(U * V * LANES);
            k += U;
        }
        while k < b.len {
            let x = S::splat(*b.input.add(at(k)));
            for v in 0..V {
                sums[0][v] = S::fma(x, S::load(weights.add(v * LANES)), sums[0][v]);
            }
            weights = weights.add(V * LANES);
            k += 1;
        }
        let (low, high) = (S::splat(b.clamp.low), S::splat(b.clamp.high));
        for v in 0..V {
            let mut sum = sums[0][v];
            for u in 1..U {
                sum = S::add(sum, sums[u][v]);
            }
            let lanes = b.lanes.saturating_sub(v * LANES).min(LANES);
            put::<S>(b.output.add(v * LANES), S::clamp(sum, low, high), lanes);
        }
    }
}

/// Products that the scalar kernel keeps going at once; rows are padded to a multiple.
pub(super) const CHAINS: usize = 4;

/// Arguments of one sparse row: the sum of `len` weighted inputs, a multiple of [`CHAINS`].
pub(super) struct RowArgs {
    pub(super) input: *const f32,
    pub(super) indices: *const u16,
    pub(super) weights: *const f32,
    pub(super) len: usize,
}

/// # Safety
/// `indices` lie inside the input, the other pointers are valid for `len`.
#[inline(always)]
pub(super) unsafe fn row<S: Simd>(r: &RowArgs) -> f32 {
    let mut sums = [0f32; CHAINS];
    let mut k = 0;
    while k < r.len {
        // SAFETY: the caller's bounds; `len` is a multiple of the chains.
        unsafe {
            // Four indices in one load: loads are what this loop waits for.
            let four = r.indices.add(k).cast::<u64>().read_unaligned();
            for (chain, sum) in sums.iter_mut().enumerate() {
                let index = (four.to_le() >> (16 * chain)) as u16;
                let (weight, x) = (*r.weights.add(k + chain), *r.input.add(index as usize));
                *sum = if S::FUSED { weight.mul_add(x, *sum) } else { *sum + weight * x };
            }
        }
        k += CHAINS;
    }
    (sums[0] + sums[1]) + (sums[2] + sums[3])
}

/// Arguments of a split of rows: `eights · 16` elements of each go half to `even`, half to `odd`.
pub(super) struct HalveArgs {
    pub(super) source: *const f32,
    /// From a row to the next.
    pub(super) step: usize,
    pub(super) rows: usize,
    pub(super) eights: usize,
    pub(super) even: *mut f32,
    pub(super) odd: *mut f32,
    /// From a row to the next, of both.
    pub(super) stride: usize,
}

/// # Safety
/// All rows are valid for as many floats.
#[inline(always)]
pub(super) unsafe fn halve<S: Simd>(h: &HalveArgs) {
    for row in 0..h.rows {
        for eight in 0..h.eights {
            // SAFETY: the caller's bounds.
            unsafe {
                let source = h.source.add(row * h.step + 2 * LANES * eight);
                let [even, odd] = S::halves(S::load(source), S::load(source.add(LANES)));
                S::store(h.even.add(row * h.stride + LANES * eight), even);
                S::store(h.odd.add(row * h.stride + LANES * eight), odd);
            }
        }
    }
}

/// Products and sums of one round of [`peak`], in floats.
pub(super) const PEAK_ROUND: usize = 12 * LANES;

/// `rounds` times as many products as sixteen registers can keep going, and nothing else: what the machine can do.
///
/// # Safety
/// The machine has the instruction set.
#[inline(always)]
pub(super) unsafe fn peak<S: Simd>(rounds: usize) -> f32 {
    // SAFETY: the caller's.
    unsafe {
        let factor = S::splat(std::hint::black_box(0.5));
        let mut sums = [S::splat(1.0); PEAK_ROUND / LANES];
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = S::fma(*sum, factor, factor);
            }
        }
        let mut all = [0f32; LANES];
        sums.iter().for_each(|sum| S::store(all.as_mut_ptr(), S::add(*sum, S::load(all.as_ptr()))));
        all.iter().sum()
    }
}
