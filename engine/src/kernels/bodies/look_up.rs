//! A sparse matrix times a vector: rows in lanes, inputs looked up in registers.

use super::super::simd::Masked;
use super::Clamp;

/// Inputs that two vectors hold, as a table.
pub(in crate::kernels) const TABLE: usize = 32;

/// Arguments of `G · 16` sparse rows.
pub(in crate::kernels) struct LookUpArgs {
    /// The inputs, and how many.
    pub(in crate::kernels) input: *const f32,
    pub(in crate::kernels) inputs: usize,
    /// Of each [`TABLE`] of inputs, how many of them each row takes at most.
    pub(in crate::kernels) steps: *const u16,
    /// Of each step, each row's weight and input of the table: `[steps, G, 16]`.
    pub(in crate::kernels) weights: *const f32,
    pub(in crate::kernels) indices: *const u8,
    /// Sums so far, which become the outputs.
    pub(in crate::kernels) output: *mut f32,
    /// Of these, so many.
    pub(in crate::kernels) outputs: usize,
    pub(in crate::kernels) clamp: Clamp,
}

/// # Safety
/// The pointers are valid for the lengths said, `steps` for one a table.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // loops over constant lengths, unrolled into registers
pub(in crate::kernels) unsafe fn look_up<S: Masked, const G: usize>(l: &LookUpArgs) {
    let first = |count: usize| ((1u32 << count.min(16)) - 1) as u16;
    // SAFETY: the caller's bounds.
    unsafe {
        let mut sums = [S::splat(0.0); G];
        for g in 0..G {
            sums[g] = S::load_some(l.output.wrapping_add(16 * g), first(l.outputs.saturating_sub(16 * g)));
        }
        let (mut weights, mut indices) = (l.weights, l.indices);
        for table in 0..l.inputs.div_ceil(TABLE) {
            let left = l.inputs - table * TABLE;
            let at = l.input.wrapping_add(table * TABLE);
            let inputs = [
                S::load_some(at, first(left)),
                S::load_some(at.wrapping_add(16), first(left.saturating_sub(16))),
            ];
            for _ in 0..*l.steps.add(table) {
                for g in 0..G {
                    let x = S::look_up(inputs, indices.add(16 * g));
                    sums[g] = S::fma(S::load(weights.add(16 * g)), x, sums[g]);
                }
                weights = weights.add(16 * G);
                indices = indices.add(16 * G);
            }
        }
        let (low, high) = (S::splat(l.clamp.low), S::splat(l.clamp.high));
        for g in 0..G {
            let kept = first(l.outputs.saturating_sub(16 * g));
            S::store_some(l.output.wrapping_add(16 * g), S::clamp(sums[g], low, high), kept);
        }
    }
}
