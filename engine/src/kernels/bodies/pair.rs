//! Two sparse rows at once.

use super::super::simd::Simd;
use super::tile::{TileArgs, finish};

/// Two output channels with taps of their own: `both` that they share, then those of the first alone, then those of the
/// second. No product is by a zero, and a round takes one tap of each kind, so that neither loads nor products wait for
/// the other. Every other vector lies `STEP` floats behind the one two before.
///
/// # Safety
/// As [`super::tile`]; and the places are as `STEP` says.
#[inline(always)]
pub(in crate::kernels) unsafe fn pair<S: Simd, const V: usize, const STEP: usize>(t: &TileArgs) {
    // SAFETY: the caller's bounds.
    unsafe {
        let mut sums = [[S::splat(*t.bias); V], [S::splat(*t.bias.add(1)); V]];
        let even = t.input.add((*t.places).input as usize);
        let odd = t.input.add((*t.places.add(usize::from(V > 1))).input as usize);
        let [shared, first] = [t.both, t.first];
        let second = t.len - shared - first;
        let (mut a, mut b, mut c) = (0, shared, shared + first);
        let (first, second) = (b + first, c + second);
        // The second weight of what is shared lies behind the first.
        let own = t.weights.add(shared);
        let rounds = shared.min(first - b).min(second - c);
        for _ in 0..rounds {
            share::<S, V, STEP>(&mut sums, t, [even, odd], a);
            take::<S, V, STEP>(&mut sums[0], *t.offsets.add(b), *own.add(b), [even, odd]);
            take::<S, V, STEP>(&mut sums[1], *t.offsets.add(c), *own.add(c), [even, odd]);
            (a, b, c) = (a + 1, b + 1, c + 1);
        }
        for k in a..shared {
            share::<S, V, STEP>(&mut sums, t, [even, odd], k);
        }
        for _ in 0..(first - b).min(second - c) {
            take::<S, V, STEP>(&mut sums[0], *t.offsets.add(b), *own.add(b), [even, odd]);
            take::<S, V, STEP>(&mut sums[1], *t.offsets.add(c), *own.add(c), [even, odd]);
            (b, c) = (b + 1, c + 1);
        }
        for k in b..first {
            take::<S, V, STEP>(&mut sums[0], *t.offsets.add(k), *own.add(k), [even, odd]);
        }
        for k in c..second {
            take::<S, V, STEP>(&mut sums[1], *t.offsets.add(k), *own.add(k), [even, odd]);
        }
        finish::<S, V>(&sums[0], t, 0);
        finish::<S, V>(&sums[1], t, 1);
    }
}

/// Adds one weighted input to one row's sums.
///
/// # Safety
/// As [`pair`].
#[inline(always)]
#[allow(clippy::needless_range_loop)]
unsafe fn take<S: Simd, const V: usize, const STEP: usize>(
    sums: &mut [S::Vector; V],
    offset: i32,
    weight: f32,
    sources: [*const f32; 2],
) {
    // SAFETY: the caller's bounds.
    unsafe {
        let weight = S::splat(weight);
        let sources = sources.map(|source| source.offset(offset as isize));
        for v in 0..V {
            sums[v] = S::fma(weight, S::load(sources[v % 2].add(v / 2 * STEP)), sums[v]);
        }
    }
}

/// Adds one input, weighted for each, to both rows' sums.
///
/// # Safety
/// As [`pair`].
#[inline(always)]
unsafe fn share<S: Simd, const V: usize, const STEP: usize>(
    sums: &mut [[S::Vector; V]; 2],
    t: &TileArgs,
    sources: [*const f32; 2],
    k: usize,
) {
    // SAFETY: the caller's bounds.
    unsafe {
        let sources = sources.map(|source| source.offset(*t.offsets.add(k) as isize));
        let weights = [S::splat(*t.weights.add(2 * k)), S::splat(*t.weights.add(2 * k + 1))];
        for v in 0..V {
            let x = S::load(sources[v % 2].add(v / 2 * STEP));
            sums[0][v] = S::fma(weights[0], x, sums[0][v]);
            sums[1][v] = S::fma(weights[1], x, sums[1][v]);
        }
    }
}
