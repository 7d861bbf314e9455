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
        for r in 0..R {
            let row = t.output.add(*t.output_rows.add(r) as usize);
            for v in 0..V {
                let place = *t.places.add(v);
                let mut sum = sums[r][v];
                if !t.residual.is_null() {
                    let from = t.residual.add(*t.residual_rows.add(r) as usize + place.residual as usize);
                    sum = S::add(sum, S::load(from));
                }
                put::<S>(row.add(place.output as usize), S::clamp(sum, low, high), t.lanes);
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

/// The three kernels compiled for one set: `tile(rows, vectors)`, `block(vectors)` and `row`.
macro_rules! compiled {
    ($simd:ident $(, #[$feature:meta])?) => {
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
        pub(super) unsafe fn row(r: &RowArgs) -> f32 {
            // SAFETY: the caller's.
            unsafe { bodies::row::<$simd>(r) }
        }

        pub(super) fn block(vectors: usize) -> BlockFn {
            match vectors {
                1 => blocked::<1, 4>,
                2 => blocked::<2, 4>,
                _ => blocked::<4, 2>,
            }
        }

        pub(super) fn tile(rows: usize, vectors: usize) -> TileFn {
            bodies::table!(tiled, rows, vectors)
        }
    };
}
pub(super) use compiled;

/// All tiles that fit sixteen registers.
macro_rules! table {
    ($f:ident, $rows:expr, $vectors:expr) => {
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
}
pub(super) use table;
