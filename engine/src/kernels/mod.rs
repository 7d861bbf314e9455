//! The kernels: all `unsafe` of the workspace is below this folder. One body of each kernel, generic over the lanes of
//! [`simd::Simd`], is compiled for each instruction set; callers outside see safe functions that check bounds.
#![allow(unsafe_code)]

#[cfg(target_arch = "aarch64")]
mod aarch64;
mod aligned;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod bodies;
mod compiled;
mod generic;
mod halving;
mod look_up;
mod matrix;
mod planes;
mod simd;
#[cfg(target_arch = "x86_64")]
mod x86_64;

pub(crate) use aligned::Aligned;
pub(crate) use halving::{Halving, Into};
pub(crate) use matrix::{Matrix, Storage};
pub(crate) use planes::{Convolution, Form, Grid, Place, Row, union};
pub(crate) use simd::LANES;

use std::time::{Duration, Instant};

use bodies::PEAK_SUMS;
use compiled::{Kernels, Tiles};

/// An instruction set that this machine has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Isa(Set);

/// Kept private: a set in an [`Isa`] has been seen on this machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Set {
    Generic,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX-512 beside AVX2 with its registers.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "aarch64")]
    Neon,
}

impl Isa {
    /// The best that this machine has.
    pub(crate) fn best() -> Self {
        Self::available().pop().unwrap_or(Self(Set::Generic))
    }

    /// All that this machine has, the best last.
    pub(crate) fn available() -> Vec<Self> {
        #[allow(unused_mut)]
        let mut sets = vec![Set::Generic];
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
            sets.push(Set::Avx2);
            if std::arch::is_x86_feature_detected!("avx512f")
                && std::arch::is_x86_feature_detected!("avx512vl")
            {
                sets.push(Set::Avx512);
            }
        }
        #[cfg(target_arch = "aarch64")]
        sets.push(Set::Neon);
        sets.into_iter().map(Self).collect()
    }

    fn kernels(self) -> &'static Kernels {
        match self.0 {
            Set::Generic => &generic::KERNELS,
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 => &x86_64::avx2::KERNELS,
            #[cfg(target_arch = "x86_64")]
            Set::Avx512 => &x86_64::avx512::KERNELS,
            #[cfg(target_arch = "aarch64")]
            Set::Neon => &aarch64::KERNELS,
        }
    }

    /// The widths of vectors that convolutions can use, eight lanes first.
    pub(crate) fn widths(self) -> impl Iterator<Item = Vectors> {
        self.kernels().tiles.iter().map(|tiles| Vectors(tiles))
    }

    /// Its name, for people.
    pub(crate) fn name(self) -> &'static str {
        self.kernels().name
    }

    /// Multiply-accumulates a second that this core can do at most, measured now: the best of some runs.
    pub(crate) fn macs_per_second(self) -> f64 {
        const ROUNDS: usize = 20_000;
        let Some(&tiles) = self.kernels().tiles.last() else { return f64::NAN };
        let time = |_| {
            let start = Instant::now();
            // SAFETY: the set has been seen on this machine.
            std::hint::black_box(unsafe { (tiles.peak)(std::hint::black_box(ROUNDS)) });
            start.elapsed()
        };
        let best = (0..50).map(time).min().unwrap_or_default().max(Duration::from_nanos(1));
        (ROUNDS * PEAK_SUMS * tiles.lanes) as f64 / best.as_secs_f64()
    }

    /// Runs plain loops compiled for this instruction set.
    pub(crate) fn vectorised<T>(self, work: impl FnOnce() -> T) -> T {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the machine has been seen to have the features.
            Set::Avx2 | Set::Avx512 => unsafe { x86_64::avx2::vectorised(work) },
            _ => work(),
        }
    }
}

/// Vectors of one width, of an instruction set that this machine has.
#[derive(Clone, Copy)]
pub(crate) struct Vectors(&'static Tiles);

impl Vectors {
    /// Floats of a vector.
    pub(crate) fn lanes(self) -> usize {
        self.0.lanes
    }

    /// Vectors that fit the registers.
    fn registers(self) -> usize {
        self.0.registers
    }
}

/// What an output passes last: `y` becomes `min(max(y, low), high)`. NaN stays NaN.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Clamp {
    pub(crate) low: f32,
    pub(crate) high: f32,
}

impl Clamp {
    /// Lets everything pass.
    pub(crate) const NONE: Self = Self { low: f32::NEG_INFINITY, high: f32::INFINITY };

    /// What becomes of `y`.
    #[inline(always)]
    pub(crate) fn of(self, y: f32) -> f32 {
        let y = if y < self.low { self.low } else { y };
        if y > self.high { self.high } else { y }
    }
}
