//! What all instruction sets run: the kernels, over the lanes of a vector.

mod channels;
mod halve;
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
mod look_up;
mod matrix;
mod pair;
mod tile;

pub(super) use channels::channels;
pub(super) use halve::{HalveArgs, halve};
#[cfg(target_arch = "x86_64")]
pub(super) use look_up::look_up;
pub(super) use look_up::{LookUpArgs, TABLE};
pub(super) use matrix::{BlockArgs, CHAINS, RowArgs, block, row};
pub(super) use pair::pair;
pub(crate) use tile::Place;
pub(super) use tile::{Block, TileArgs, tile};

use super::Clamp;
use super::simd::{MOST_LANES, Simd};

/// The bits of the first so many lanes.
static KEPT: [[u32; MOST_LANES]; MOST_LANES + 1] = {
    let mut kept = [[0; MOST_LANES]; MOST_LANES + 1];
    let mut lanes = 0;
    while lanes <= MOST_LANES {
        let mut lane = 0;
        while lane < lanes {
            kept[lanes][lane] = u32::MAX;
            lane += 1;
        }
        lanes += 1;
    }
    kept
};

/// Sums of [`peak`]: what sixteen registers can keep going.
pub(in crate::kernels) const PEAK_SUMS: usize = 12;

/// `rounds` times twelve products of vectors, and nothing else: what the machine can do.
///
/// # Safety
/// The machine has the instruction set.
#[inline(always)]
pub(in crate::kernels) unsafe fn peak<S: Simd>(rounds: usize) -> f32 {
    // SAFETY: the caller's.
    unsafe {
        let factor = S::splat(std::hint::black_box(0.5));
        let mut sums = [S::splat(1.0); PEAK_SUMS];
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = S::fma(*sum, factor, factor);
            }
        }
        let mut all = [0f32; MOST_LANES];
        sums.iter().for_each(|sum| S::store(all.as_mut_ptr(), S::add(*sum, S::load(all.as_ptr()))));
        all.iter().sum()
    }
}
