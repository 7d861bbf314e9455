//! Two sparse rows at once.

use super::super::simd::Simd;
use super::tile::{Block, TileArgs, finish};

/// Two output channels of each block, with taps of their own: some that they share, then those of the first alone, then
/// those of the second. No product is by a zero, and a round takes one tap of each kind, so that neither loads nor products
/// wait for the other. Every other vector lies `STEP` floats behind the one two before.
///
/// # Safety
/// As [`super::tile`]; and the places are as `STEP` says.
#[inline(always)]
pub(in crate::kernels) unsafe fn pair<S: Simd, const V: usize, const STEP: usize>(t: &TileArgs<'_>) {
    // SAFETY: the caller's bounds.
    unsafe {
        let even = t.input.add((*t.places).input as usize);
        let odd = t.input.add((*t.places.add(usize::from(V > 1))).input as usize);
        for block in t.blocks {
            one::<S, V, STEP>(t, block, [even, odd]);
        }
    }
}

/// # Safety
/// As [`pair`].
#[inline(always)]
unsafe fn one<S: Simd, const V: usize, const STEP: usize>(
    t: &TileArgs<'_>,
    block: &Block,
    sources: [*const f32; 2],
) {
    // SAFETY: the caller's bounds.
    unsafe {
        let bias = t.bias.add(block.first);
        let mut sums = [[S::splat(*bias); V], [S::splat(*bias.add(1)); V]];
        let [shared, first] = block.split;
        let second = block.len - shared - first;
        let (mut a, mut b, mut c) = (0, shared, shared + first);
        let (first, second) = (b + first, c + second);
        let (offsets, weights) = (t.offsets.add(block.taps), t.weights.add(block.weights));
        // The second weight of what is shared lies behind the first.
        let own = weights.add(shared);
        let both = |sums: &mut [[S::Vector; V]; 2], k: usize| {
            let weights = [*weights.add(2 * k), *weights.add(2 * k + 1)];
            share::<S, V, STEP>(sums, *offsets.add(k), weights, sources);
        };
        let alone = |sums: &mut [S::Vector; V], k: usize| {
            take::<S, V, STEP>(sums, *offsets.add(k), *own.add(k), sources);
        };
        for _ in 0..shared.min(first - b).min(second - c) {
            both(&mut sums, a);
            alone(&mut sums[0], b);
            alone(&mut sums[1], c);
            (a, b, c) = (a + 1, b + 1, c + 1);
        }
        for k in a..shared {
            both(&mut sums, k);
        }
        for _ in 0..(first - b).min(second - c) {
            alone(&mut sums[0], b);
            alone(&mut sums[1], c);
            (b, c) = (b + 1, c + 1);
        }
        for k in b..first {
            alone(&mut sums[0], k);
        }
        for k in c..second {
            alone(&mut sums[1], k);
        }
        finish::<S, V>(&sums[0], t, block.first);
        finish::<S, V>(&sums[1], t, block.first + 1);
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
    offset: i32,
    weights: [f32; 2],
    sources: [*const f32; 2],
) {
    // SAFETY: the caller's bounds.
    unsafe {
        let sources = sources.map(|source| source.offset(offset as isize));
        let weights = [S::splat(weights[0]), S::splat(weights[1])];
        for v in 0..V {
            let x = S::load(sources[v % 2].add(v / 2 * STEP));
            sums[0][v] = S::fma(weights[0], x, sums[0][v]);
            sums[1][v] = S::fma(weights[1], x, sums[1][v]);
        }
    }
}
