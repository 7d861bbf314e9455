//! What all instruction sets run: three kernels over eight lanes, and their compilation for one set.

use super::Clamp;
use super::simd::{LANES, Simd};

/// Where one vector of a tile reads and writes, as offsets from the bases of the three planes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) input: u32,
    pub(crate) output: u32,
    pub(crate) residual: u32,
}

/// Arguments of a tile: `rows` output channels at `vectors` places, each the sum of `len` weighted input vectors.
pub(super) struct TileArgs {
    /// Base of the input; `places` and `offsets` count from here.
    pub(super) input: *const f32,
    /// Offsets of the inputs summed, `len` of them.
    pub(super) offsets: *const i32,
    /// Weights, `[len, rows]`.
    pub(super) weights: *const f32,
    pub(super) len: usize,
    /// One a row.
    pub(super) bias: *const f32,
    /// Base of the output, and each row's offset from it.
    pub(super) output: *mut f32,
    pub(super) output_rows: *const u32,
    /// Base of what is added, or null, and each row's offset from it.
    pub(super) residual: *const f32,
    pub(super) residual_rows: *const u32,
    /// One a vector.
    pub(super) places: *const Place,
    /// Lanes of each vector that are written.
    pub(super) lanes: usize,
    pub(super) clamp: Clamp,
}

/// Runs one tile.
pub(super) type TileFn = unsafe fn(&TileArgs);

/// # Safety
/// All offsets, places and rows lie inside the arrays that the bases point to, eight floats each for reading and
/// `lanes` for writing.
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
        if t.residual.is_null() && t.lanes == LANES {
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
                put::<S>(to, S::clamp(sum, low, high), t.lanes);
            }
        }
    }
}

/// Arguments of a tile whose lanes are output channels: `vectors · 8` channels at `pixels` places of one position.
pub(super) struct LanesArgs {
    pub(super) input: *const f32,
    pub(super) offsets: *const i32,
    /// Weights, `[len, vectors · 8]`.
    pub(super) weights: *const f32,
    pub(super) len: usize,
    /// One a lane.
    pub(super) bias: *const f32,
    pub(super) output: *mut f32,
    /// One a channel.
    pub(super) output_rows: *const u32,
    pub(super) residual: *const f32,
    pub(super) residual_rows: *const u32,
    /// One a pixel.
    pub(super) places: *const Place,
    /// Channels that are written.
    pub(super) channels: usize,
    pub(super) clamp: Clamp,
}

/// Runs one such tile.
pub(super) type LanesFn = unsafe fn(&LanesArgs);

/// # Safety
/// As [`tile`], with one float a place.
#[inline(always)]
#[allow(clippy::needless_range_loop)]
pub(super) unsafe fn lanes<S: Simd, const P: usize, const V: usize>(t: &LanesArgs) {
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
            for lane in 0..t.channels.saturating_sub(v * LANES).min(LANES) {
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

/// Runs one block.
pub(super) type BlockFn = unsafe fn(&BlockArgs);

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

/// Sums one row.
pub(super) type RowFn = unsafe fn(&RowArgs) -> f32;

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

/// Splits rows.
pub(super) type HalveFn = unsafe fn(&HalveArgs);

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

/// Measures what the machine can do.
pub(super) type PeakFn = unsafe fn(usize) -> f32;

/// The kernels compiled for one set.
macro_rules! compiled {
    ($registers:tt, $simd:ident $(, #[$feature:meta])?) => {
        $(#[$feature])?
        unsafe fn tiled<const R: usize, const V: usize>(t: &bodies::TileArgs) {
            // SAFETY: the caller's.
            unsafe { bodies::tile::<$simd, R, V>(t) }
        }

        $(#[$feature])?
        unsafe fn blocked<const V: usize, const U: usize>(b: &bodies::BlockArgs) {
            // SAFETY: the caller's.
            unsafe { bodies::block::<$simd, V, U>(b) }
        }

        $(#[$feature])?
        pub(in crate::kernels) unsafe fn row(r: &RowArgs) -> f32 {
            // SAFETY: the caller's.
            unsafe { bodies::row::<$simd>(r) }
        }

        $(#[$feature])?
        pub(in crate::kernels) unsafe fn peak(rounds: usize) -> f32 {
            // SAFETY: the caller's.
            unsafe { bodies::peak::<$simd>(rounds) }
        }

        $(#[$feature])?
        pub(in crate::kernels) unsafe fn halve(h: &HalveArgs) {
            // SAFETY: the caller's.
            unsafe { bodies::halve::<$simd>(h) }
        }

        pub(in crate::kernels) fn block(vectors: usize) -> BlockFn {
            match vectors {
                1 => blocked::<1, 4>,
                2 => blocked::<2, 4>,
                _ => blocked::<4, 2>,
            }
        }

        pub(in crate::kernels) fn tile(rows: usize, vectors: usize) -> TileFn {
            bodies::table!($registers, tiled, rows, vectors)
        }

        $(#[$feature])?
        unsafe fn laned<const P: usize, const V: usize>(t: &bodies::LanesArgs) {
            // SAFETY: the caller's.
            unsafe { bodies::lanes::<$simd, P, V>(t) }
        }

        pub(in crate::kernels) fn lanes(pixels: usize, vectors: usize) -> LanesFn {
            bodies::lanes_table!($registers, laned, pixels, vectors)
        }
    };
}
pub(super) use compiled;

/// All tiles that fit the registers, with what they need besides the sums.
macro_rules! table {
    (16, $f:ident, $rows:expr, $vectors:expr) => {
        match ($rows, $vectors) {
            (1, 1) => $f::<1, 1>,
            (1, 2) => $f::<1, 2>,
            (1, 3) => $f::<1, 3>,
            (1, 4) => $f::<1, 4>,
            (1, 5) => $f::<1, 5>,
            (1, 6) => $f::<1, 6>,
            (1, 7) => $f::<1, 7>,
            (1, 8) => $f::<1, 8>,
            (2, 1) => $f::<2, 1>,
            (2, 2) => $f::<2, 2>,
            (2, 3) => $f::<2, 3>,
            (2, 4) => $f::<2, 4>,
            (2, 5) => $f::<2, 5>,
            (3, 1) => $f::<3, 1>,
            (3, 2) => $f::<3, 2>,
            (3, 3) => $f::<3, 3>,
            (3, 4) => $f::<3, 4>,
            (4, 1) => $f::<4, 1>,
            (4, 2) => $f::<4, 2>,
            (4, 3) => $f::<4, 3>,
            (5, 1) => $f::<5, 1>,
            (5, 2) => $f::<5, 2>,
            (6, 1) => $f::<6, 1>,
            (6, 2) => $f::<6, 2>,
            (7, 1) => $f::<7, 1>,
            (8, 1) => $f::<8, 1>,
            (rows, vectors) => unreachable!("no tile of {rows} rows and {vectors} vectors"),
        }
    };
    (32, $f:ident, $rows:expr, $vectors:expr) => {
        match ($rows, $vectors) {
            (2, 6) => $f::<2, 6>,
            (2, 7) => $f::<2, 7>,
            (2, 8) => $f::<2, 8>,
            (3, 5) => $f::<3, 5>,
            (3, 6) => $f::<3, 6>,
            (3, 7) => $f::<3, 7>,
            (3, 8) => $f::<3, 8>,
            (4, 4) => $f::<4, 4>,
            (4, 5) => $f::<4, 5>,
            (4, 6) => $f::<4, 6>,
            (5, 3) => $f::<5, 3>,
            (5, 4) => $f::<5, 4>,
            (5, 5) => $f::<5, 5>,
            (6, 3) => $f::<6, 3>,
            (6, 4) => $f::<6, 4>,
            (7, 2) => $f::<7, 2>,
            (7, 3) => $f::<7, 3>,
            (8, 2) => $f::<8, 2>,
            (8, 3) => $f::<8, 3>,
            (rows, vectors) => bodies::table!(16, $f, rows, vectors),
        }
    };
}
pub(super) use table;

/// All tiles of pixels and vectors of channels that fit the registers.
macro_rules! lanes_table {
    (16, $f:ident, $pixels:expr, $vectors:expr) => {
        match ($pixels, $vectors) {
            (1, 1) => $f::<1, 1>,
            (2, 1) => $f::<2, 1>,
            (3, 1) => $f::<3, 1>,
            (4, 1) => $f::<4, 1>,
            (5, 1) => $f::<5, 1>,
            (6, 1) => $f::<6, 1>,
            (7, 1) => $f::<7, 1>,
            (8, 1) => $f::<8, 1>,
            (1, 2) => $f::<1, 2>,
            (2, 2) => $f::<2, 2>,
            (3, 2) => $f::<3, 2>,
            (4, 2) => $f::<4, 2>,
            (5, 2) => $f::<5, 2>,
            (6, 2) => $f::<6, 2>,
            (1, 3) => $f::<1, 3>,
            (2, 3) => $f::<2, 3>,
            (3, 3) => $f::<3, 3>,
            (4, 3) => $f::<4, 3>,
            (1, 4) => $f::<1, 4>,
            (2, 4) => $f::<2, 4>,
            (pixels, vectors) => unreachable!("no tile of {pixels} pixels and {vectors} vectors"),
        }
    };
    (32, $f:ident, $pixels:expr, $vectors:expr) => {
        match ($pixels, $vectors) {
            (9, 1) => $f::<9, 1>,
            (10, 1) => $f::<10, 1>,
            (11, 1) => $f::<11, 1>,
            (12, 1) => $f::<12, 1>,
            (7, 2) => $f::<7, 2>,
            (8, 2) => $f::<8, 2>,
            (9, 2) => $f::<9, 2>,
            (10, 2) => $f::<10, 2>,
            (11, 2) => $f::<11, 2>,
            (12, 2) => $f::<12, 2>,
            (5, 3) => $f::<5, 3>,
            (6, 3) => $f::<6, 3>,
            (7, 3) => $f::<7, 3>,
            (8, 3) => $f::<8, 3>,
            (3, 4) => $f::<3, 4>,
            (4, 4) => $f::<4, 4>,
            (5, 4) => $f::<5, 4>,
            (6, 4) => $f::<6, 4>,
            (pixels, vectors) => bodies::lanes_table!(16, $f, pixels, vectors),
        }
    };
}
pub(super) use lanes_table;
