//! Eight lanes as two Neon registers.

use std::arch::aarch64::*;

use super::simd::Simd;

struct Neon;

// SAFETY of all below: the trait's contract; Neon is part of every aarch64, and pointers are valid for eight floats.
impl Simd for Neon {
    type Vector = [float32x4_t; 2];
    const LANES: usize = 8;
    const FUSED: bool = true;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self::Vector {
        unsafe { [vdupq_n_f32(value); 2] }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self::Vector {
        unsafe { [vld1q_f32(from), vld1q_f32(from.add(4))] }
    }

    #[inline(always)]
    unsafe fn store(to: *mut f32, vector: Self::Vector) {
        unsafe {
            vst1q_f32(to, vector[0]);
            vst1q_f32(to.add(4), vector[1]);
        }
    }

    #[inline(always)]
    unsafe fn fma(a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector {
        unsafe { [vfmaq_f32(c[0], a[0], b[0]), vfmaq_f32(c[1], a[1], b[1])] }
    }

    #[inline(always)]
    unsafe fn add(a: Self::Vector, b: Self::Vector) -> Self::Vector {
        unsafe { [vaddq_f32(a[0], b[0]), vaddq_f32(a[1], b[1])] }
    }

    #[inline(always)]
    unsafe fn and(a: Self::Vector, b: Self::Vector) -> Self::Vector {
        let both = |a, b| unsafe {
            vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(a), vreinterpretq_u32_f32(b)))
        };
        [both(a[0], b[0]), both(a[1], b[1])]
    }

    /// Neon's `max` and `min` keep NaN.
    #[inline(always)]
    unsafe fn clamp(v: Self::Vector, low: Self::Vector, high: Self::Vector) -> Self::Vector {
        unsafe { [vminq_f32(high[0], vmaxq_f32(low[0], v[0])), vminq_f32(high[1], vmaxq_f32(low[1], v[1]))] }
    }

    #[inline(always)]
    unsafe fn halves(first: Self::Vector, second: Self::Vector) -> [Self::Vector; 2] {
        unsafe {
            [
                [vuzp1q_f32(first[0], first[1]), vuzp1q_f32(second[0], second[1])],
                [vuzp2q_f32(first[0], first[1]), vuzp2q_f32(second[0], second[1])],
            ]
        }
    }
}

super::compiled::compiled!("neon", 16, Neon, [], None);
