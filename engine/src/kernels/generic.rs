//! Eight lanes in plain Rust.

use super::simd::{LANES, Simd};

struct Portable;

impl Simd for Portable {
    type Vector = [f32; LANES];
    const LANES: usize = LANES;
    const FUSED: bool = false;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self::Vector {
        [value; LANES]
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self::Vector {
        // SAFETY: the caller's pointer is valid for eight floats.
        unsafe { from.cast::<Self::Vector>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn store(to: *mut f32, vector: Self::Vector) {
        // SAFETY: as `load`.
        unsafe { to.cast::<Self::Vector>().write_unaligned(vector) }
    }

    /// Rounded twice: a fused product without the instruction is a slow library call.
    #[inline(always)]
    unsafe fn fma(a: Self::Vector, b: Self::Vector, mut c: Self::Vector) -> Self::Vector {
        for lane in 0..LANES {
            c[lane] += a[lane] * b[lane];
        }
        c
    }

    #[inline(always)]
    unsafe fn add(a: Self::Vector, mut b: Self::Vector) -> Self::Vector {
        for lane in 0..LANES {
            b[lane] += a[lane];
        }
        b
    }

    #[inline(always)]
    unsafe fn and(a: Self::Vector, b: Self::Vector) -> Self::Vector {
        std::array::from_fn(|lane| f32::from_bits(a[lane].to_bits() & b[lane].to_bits()))
    }

    #[inline(always)]
    unsafe fn clamp(mut v: Self::Vector, low: Self::Vector, high: Self::Vector) -> Self::Vector {
        for lane in 0..LANES {
            if v[lane] < low[lane] {
                v[lane] = low[lane];
            }
            if v[lane] > high[lane] {
                v[lane] = high[lane];
            }
        }
        v
    }

    #[inline(always)]
    unsafe fn halves(first: Self::Vector, second: Self::Vector) -> [Self::Vector; 2] {
        let at = |index: usize| if index < LANES { first[index] } else { second[index - LANES] };
        [std::array::from_fn(|lane| at(2 * lane)), std::array::from_fn(|lane| at(2 * lane + 1))]
    }
}

super::compiled::compiled!("generic", 16, Portable, [], None);
