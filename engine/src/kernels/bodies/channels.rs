//! Convolution kernels whose lanes are output channels.

use super::super::simd::{MOST_LANES, Simd};
use super::tile::{Block, TileArgs};

/// `V` vectors of channels of each block at `P` positions.
///
/// # Safety
/// As [`super::tile`], with one float a place.
#[inline(always)]
#[allow(clippy::needless_range_loop)]
pub(in crate::kernels) unsafe fn channels<S: Simd, const P: usize, const V: usize>(t: &TileArgs<'_>) {
    // SAFETY: the caller's bounds.
    unsafe {
        let sources = t.sources::<P>();
        for block in t.blocks {
            one::<S, P, V>(t, block, &sources);
        }
    }
}

/// # Safety
/// As [`channels`].
#[inline(always)]
#[allow(clippy::needless_range_loop)]
unsafe fn one<S: Simd, const P: usize, const V: usize>(
    t: &TileArgs<'_>,
    block: &Block,
    sources: &[*const f32; P],
) {
    // SAFETY: the caller's bounds.
    unsafe {
        let mut sums = [[S::splat(0.0); V]; P];
        for p in 0..P {
            for v in 0..V {
                sums[p][v] = S::load(t.bias.add(block.first + v * S::LANES));
            }
        }
        let mut weights = t.weights.add(block.weights);
        let offsets = t.offsets.add(block.taps);
        for k in 0..block.len {
            let offset = *offsets.add(k) as isize;
            let mut row = [S::splat(0.0); V];
            for v in 0..V {
                row[v] = S::load(weights.add(v * S::LANES));
            }
            for p in 0..P {
                let x = S::splat(*sources[p].offset(offset));
                for v in 0..V {
                    sums[p][v] = S::fma(x, row[v], sums[p][v]);
                }
            }
            weights = weights.add(V * S::LANES);
        }
        for v in 0..V {
            let mut turned = [[0f32; P]; MOST_LANES];
            for p in 0..P {
                let mut lanes = [0f32; MOST_LANES];
                S::store(lanes.as_mut_ptr(), sums[p][v]);
                for lane in 0..S::LANES {
                    turned[lane][p] = lanes[lane];
                }
            }
            for lane in 0..block.rows.saturating_sub(v * S::LANES).min(S::LANES) {
                let row = t.output.add(*t.output_rows.add(block.first + v * S::LANES + lane) as usize);
                let residual = *t.residual_rows.add(block.first + v * S::LANES + lane) as usize;
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
