//! Eight lanes as an AVX2 register, with FMA.

use std::arch::x86_64::*;

use super::simd::Simd;

struct Avx2;

// SAFETY of all below: the trait's contract, the machine has AVX2 and FMA and pointers are valid for eight floats.
impl Simd for Avx2 {
    type Vector = __m256;
    const LANES: usize = 8;
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

    #[inline(always)]
    unsafe fn and(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_and_ps(a, b) }
    }

    /// The second operand of `max` and `min` is what they give where one is NaN.
    #[inline(always)]
    unsafe fn clamp(v: __m256, low: __m256, high: __m256) -> __m256 {
        unsafe { _mm256_min_ps(high, _mm256_max_ps(low, v)) }
    }

    #[inline(always)]
    unsafe fn halves(first: __m256, second: __m256) -> [__m256; 2] {
        unsafe {
            let (even, odd) =
                (_mm256_shuffle_ps(first, second, 0x88), _mm256_shuffle_ps(first, second, 0xdd));
            // The shuffle works in halves of four; this puts the quarters in order.
            let (even, odd) = (_mm256_castps_pd(even), _mm256_castps_pd(odd));
            let (even, odd) = (_mm256_permute4x64_pd(even, 0xd8), _mm256_permute4x64_pd(odd, 0xd8));
            [_mm256_castpd_ps(even), _mm256_castpd_ps(odd)]
        }
    }
}

/// Kernels for sixteen registers.
pub(super) mod avx2 {
    super::super::compiled::compiled!("avx2", 16, super::Avx2, [], None, #[target_feature(enable = "avx2,fma")]);

    /// Runs `work` compiled for AVX2 and FMA, as far as it is inlined.
    ///
    /// # Safety
    /// The machine has both.
    #[target_feature(enable = "avx2,fma")]
    pub(in super::super) unsafe fn vectorised<T>(work: impl FnOnce() -> T) -> T {
        work()
    }
}

/// The same vectors where AVX-512 gives 32 registers, and its own beside them.
pub(super) mod avx512 {
    use super::super::avx512 as wide;

    super::super::compiled::compiled!(
        "avx512",
        32,
        super::Avx2,
        [&wide::TILES],
        Some(wide::LOOK_UP),
        #[target_feature(enable = "avx2,fma,avx512f,avx512vl")]
    );
}
