//! Eight lanes as an AVX2 register, with FMA.

use std::arch::x86_64::*;

use super::bodies::{self, BlockFn, RowArgs, TileFn};
use super::simd::Simd;

struct Avx2;

// SAFETY of all below: the trait's contract, the machine has AVX2 and FMA and pointers are valid for eight floats.
impl Simd for Avx2 {
    type Vector = __m256;
    const FUSED: bool = true;

    #[inline(always)]
    unsafe fn splat(value: f32) -> __m256 {
        unsafe { _mm256_set1_ps(value) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> __m256 {
        unsafe { _mm256_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn store(to: *mut f32, vector: __m256) {
        unsafe { _mm256_storeu_ps(to, vector) }
    }

    #[inline(always)]
    unsafe fn fma(a: __m256, b: __m256, c: __m256) -> __m256 {
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    unsafe fn add(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_add_ps(a, b) }
    }

    /// The second operand of `max` and `min` is what they give where one is NaN.
    #[inline(always)]
    unsafe fn clamp(v: __m256, low: __m256, high: __m256) -> __m256 {
        unsafe { _mm256_min_ps(high, _mm256_max_ps(low, v)) }
    }
}

bodies::compiled!(Avx2, #[target_feature(enable = "avx2,fma")]);

/// Runs `work` compiled for AVX2 and FMA, as far as it is inlined.
///
/// # Safety
/// The machine has both.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn vectorised<T>(work: impl FnOnce() -> T) -> T {
    work()
}
