//! A matrix times a vector.

use super::super::simd::{MOST_LANES, Simd};
use super::Clamp;

/// Writes the first `lanes` of a vector.
///
/// # Safety
/// `to` is valid for as many.
#[inline(always)]
unsafe fn put<S: Simd>(to: *mut f32, vector: S::Vector, lanes: usize) {
    // SAFETY: the caller's bounds.
    unsafe {
        if lanes == S::LANES {
            S::store(to, vector);
        } else {
            let mut all = [0f32; MOST_LANES];
            S::store(all.as_mut_ptr(), vector);
            std::ptr::copy_nonoverlapping(all.as_ptr(), to, lanes);
        }
    }
}

/// Arguments of a block of a matrix: `vectors · 8` outputs, each the sum of `len` weighted inputs.
pub(in crate::kernels) struct BlockArgs {
    pub(in crate::kernels) input: *const f32,
    /// Which inputs are summed; null where all are, in order.
    pub(in crate::kernels) indices: *const u32,
    /// Weights, `[len, vectors · 8]`.
    pub(in crate::kernels) weights: *const f32,
    pub(in crate::kernels) len: usize,
    /// One a lane.
    pub(in crate::kernels) bias: *const f32,
    pub(in crate::kernels) output: *mut f32,
    /// Outputs that are written.
    pub(in crate::kernels) lanes: usize,
    pub(in crate::kernels) clamp: Clamp,
}

/// # Safety
/// `indices` lie inside the input, the other pointers are valid for the lengths said.
#[inline(always)]
#[allow(clippy::needless_range_loop)]
pub(in crate::kernels) unsafe fn block<S: Simd, const V: usize, const U: usize>(b: &BlockArgs) {
    // SAFETY: the caller's bounds.
    unsafe {
        // `U` sums a lane, so that one product need not wait for the one before.
        let mut sums = [[S::splat(0.0); V]; U];
        for v in 0..V {
            sums[0][v] = S::load(b.bias.add(v * S::LANES));
        }
        let mut weights = b.weights;
        let mut k = 0;
        let at = |k: usize| if b.indices.is_null() { k } else { *b.indices.add(k) as usize };
        while k + U <= b.len {
            for u in 0..U {
                let x = S::splat(*b.input.add(at(k + u)));
                for v in 0..V {
                    sums[u][v] = S::fma(x, S::load(weights.add((u * V + v) * S::LANES)), sums[u][v]);
                }
            }
            weights = weights.add(U * V * S::LANES);
            k += U;
        }
        while k < b.len {
            let x = S::splat(*b.input.add(at(k)));
            for v in 0..V {
                sums[0][v] = S::fma(x, S::load(weights.add(v * S::LANES)), sums[0][v]);
            }
            weights = weights.add(V * S::LANES);
            k += 1;
        }
        let (low, high) = (S::splat(b.clamp.low), S::splat(b.clamp.high));
        for v in 0..V {
            let mut sum = sums[0][v];
            for u in 1..U {
                sum = S::add(sum, sums[u][v]);
            }
            let lanes = b.lanes.saturating_sub(v * S::LANES).min(S::LANES);
            put::<S>(b.output.add(v * S::LANES), S::clamp(sum, low, high), lanes);
        }
    }
}

/// Products that the scalar kernel keeps going at once; rows are padded to a multiple.
pub(in crate::kernels) const CHAINS: usize = 4;

/// Arguments of one sparse row: the sum of `len` weighted inputs, a multiple of [`CHAINS`].
pub(in crate::kernels) struct RowArgs {
    pub(in crate::kernels) input: *const f32,
    pub(in crate::kernels) indices: *const u16,
    pub(in crate::kernels) weights: *const f32,
    pub(in crate::kernels) len: usize,
}

/// # Safety
/// `indices` lie inside the input, the other pointers are valid for `len`.
#[inline(always)]
pub(in crate::kernels) unsafe fn row<S: Simd>(r: &RowArgs) -> f32 {
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
