//! Sixteen lanes as an AVX-512 register.

use std::arch::x86_64::*;

use super::bodies;
use super::compiled;
use super::simd::{Masked, Simd};

struct Avx512;

// SAFETY of all below: the trait's contract, the machine has AVX-512 F and pointers are valid for sixteen floats.
impl Simd for Avx512 {
    type Vector = __m512;
    const LANES: usize = 16;
    const FUSED: bool = true;

    #[inline(always)]
    unsafe fn splat(value: f32) -> __m512 {
        unsafe { _mm512_set1_ps(value) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> __m512 {
        unsafe { _mm512_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn store(to: *mut f32, vector: __m512) {
        unsafe { _mm512_storeu_ps(to, vector) }
    }

    #[inline(always)]
    unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    unsafe fn add(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_add_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn and(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(a), _mm512_castps_si512(b))) }
    }

    /// The second operand of `max` and `min` is what they give where one is NaN.
    #[inline(always)]
    unsafe fn clamp(v: __m512, low: __m512, high: __m512) -> __m512 {
        unsafe { _mm512_min_ps(high, _mm512_max_ps(low, v)) }
    }

    #[inline(always)]
    unsafe fn halves(first: __m512, second: __m512) -> [__m512; 2] {
        unsafe {
            let even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
            let odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
            [_mm512_permutex2var_ps(first, even, second), _mm512_permutex2var_ps(first, odd, second)]
        }
    }
}

// SAFETY of all below: the trait's contract; lanes whose bit is clear are not touched.
impl Masked for Avx512 {
    #[inline(always)]
    unsafe fn load_some(from: *const f32, lanes: u16) -> __m512 {
        unsafe { _mm512_maskz_loadu_ps(lanes, from) }
    }

    #[inline(always)]
    unsafe fn store_some(to: *mut f32, vector: __m512, lanes: u16) {
        unsafe { _mm512_mask_storeu_ps(to, lanes, vector) }
    }

    #[inline(always)]
    unsafe fn look_up(table: [__m512; 2], indices: *const u8) -> __m512 {
        unsafe {
            let indices = _mm512_cvtepu8_epi32(_mm_loadu_si128(indices.cast()));
            _mm512_permutex2var_ps(table[0], indices, table[1])
        }
    }
}

compiled::tiles!(32, Avx512, #[target_feature(enable = "avx2,fma,avx512f,avx512vl")]);

/// Sparse rows by tables in registers.
pub(super) const LOOK_UP: compiled::LookUp = |sixteens| match sixteens {
    1 => look_up::<1>,
    2 => look_up::<2>,
    3 => look_up::<3>,
    _ => look_up::<4>,
};

// SAFETY: the caller's.
#[target_feature(enable = "avx2,fma,avx512f,avx512vl")]
unsafe fn look_up<const G: usize>(l: &bodies::LookUpArgs) {
    unsafe { bodies::look_up::<Avx512, G>(l) }
}
