//! Sparse convolutions over unrolled planes: each tap at each place is a whole line, so no load crosses one.

use super::super::simd::Masked;
use super::Clamp;

/// Lanes of a line, and where they come from or go to: the address of its first lane, whether or not that is among them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Part {
    pub(crate) at: i32,
    pub(crate) lanes: u16,
}

/// Arguments of what copies a plane to lines.
pub(in crate::kernels) struct UnrollArgs {
    /// Of the plane; parts count from here.
    pub(in crate::kernels) input: *const f32,
    /// `[lines, parts]`.
    pub(in crate::kernels) sources: *const Part,
    pub(in crate::kernels) lines: usize,
    pub(in crate::kernels) parts: usize,
    /// Where the first line goes.
    pub(in crate::kernels) output: *mut f32,
}

/// # Safety
/// The lanes of all parts lie inside the input, and all lines inside the output.
#[inline(always)]
pub(in crate::kernels) unsafe fn unroll<S: Masked>(u: &UnrollArgs) {
    // SAFETY: the caller's bounds.
    unsafe {
        let mut sources = u.sources;
        for line in 0..u.lines {
            let mut vector = S::splat(0.0);
            for part in 0..u.parts {
                let Part { at, lanes } = *sources.add(part);
                let lanes = S::load_some(u.input.wrapping_offset(at as isize), lanes);
                vector = if part == 0 { lanes } else { S::add(vector, lanes) };
            }
            S::store(u.output.add(line * S::LANES), vector);
            sources = sources.add(u.parts);
        }
    }
}

/// Arguments of one output channel at some lines.
pub(in crate::kernels) struct LineArgs {
    /// The unrolled planes, from the first of these lines on.
    pub(in crate::kernels) input: *const f32,
    /// Where each tap's lines start, `len` of them.
    pub(in crate::kernels) offsets: *const u32,
    pub(in crate::kernels) weights: *const f32,
    pub(in crate::kernels) len: usize,
    pub(in crate::kernels) bias: f32,
    /// The channel's plane, and where in it the parts of each line go: `[lines, parts]`.
    pub(in crate::kernels) output: *mut f32,
    pub(in crate::kernels) targets: *const Part,
    /// The plane that is added, or null, and where in it the parts are.
    pub(in crate::kernels) residual: *const f32,
    pub(in crate::kernels) added: *const Part,
    pub(in crate::kernels) parts: usize,
    pub(in crate::kernels) clamp: Clamp,
}

/// One row at `V` lines, with `U` sums a line, so that one product need not wait for the one before.
///
/// # Safety
/// All lines lie inside the input, and the lanes of all parts inside their planes.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // loops over constant lengths, unrolled into registers
pub(in crate::kernels) unsafe fn lines<S: Masked, const V: usize, const U: usize>(t: &LineArgs) {
    // SAFETY: the caller's bounds.
    unsafe {
        let mut sums = [[S::splat(0.0); V]; U];
        sums[0] = [S::splat(t.bias); V];
        let mut k = 0;
        while k + U <= t.len {
            for u in 0..U {
                take::<S, V>(&mut sums[u], t, k + u);
            }
            k += U;
        }
        while k < t.len {
            take::<S, V>(&mut sums[0], t, k);
            k += 1;
        }
        let (low, high) = (S::splat(t.clamp.low), S::splat(t.clamp.high));
        for v in 0..V {
            let mut sum = sums[0][v];
            for u in 1..U {
                sum = S::add(sum, sums[u][v]);
            }
            let first = v * t.parts;
            if !t.residual.is_null() {
                for part in first..first + t.parts {
                    let Part { at, lanes } = *t.added.add(part);
                    sum = S::add(sum, S::load_some(t.residual.wrapping_offset(at as isize), lanes));
                }
            }
            let sum = S::clamp(sum, low, high);
            for part in first..first + t.parts {
                let Part { at, lanes } = *t.targets.add(part);
                S::store_some(t.output.wrapping_offset(at as isize), sum, lanes);
            }
        }
    }
}

/// Adds one weighted tap.
///
/// # Safety
/// As [`lines`].
#[inline(always)]
#[allow(clippy::needless_range_loop)]
unsafe fn take<S: Masked, const V: usize>(sums: &mut [S::Vector; V], t: &LineArgs, k: usize) {
    // SAFETY: the caller's bounds.
    unsafe {
        let weight = S::splat(*t.weights.add(k));
        let line = t.input.add(*t.offsets.add(k) as usize);
        for v in 0..V {
            sums[v] = S::fma(weight, S::load(line.add(v * S::LANES)), sums[v]);
        }
    }
}
