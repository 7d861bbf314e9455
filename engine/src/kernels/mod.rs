//! The kernels: all `unsafe` of the workspace is below this folder. One body of each kernel, generic over eight lanes
//! of [`simd::Simd`], is compiled for each instruction set; callers outside see safe functions that check bounds.
#![allow(unsafe_code)]

mod aligned;
#[cfg(target_arch = "aarch64")]
mod aarch64;
mod bodies;
mod generic;
mod matrix;
mod planes;
mod simd;
#[cfg(target_arch = "x86_64")]
mod x86_64;

pub(crate) use aligned::Aligned;
pub(crate) use matrix::{Matrix, Storage};
pub(crate) use planes::{Convolution, Grid, Place, Row, max_width};

use bodies::{BlockFn, RowFn, TileFn};

/// An instruction set that this machine has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Isa(Set);

/// Kept private: a set in an [`Isa`] has been seen on this machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Set {
    Generic,
    #[cfg(target_arch = "x86_64")]
    Avx2,
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
        }
        #[cfg(target_arch = "aarch64")]
        sets.push(Set::Neon);
        sets.into_iter().map(Self).collect()
    }

    fn tile(self, rows: usize, vectors: usize) -> TileFn {
        match self.0 {
            Set::Generic => generic::tile(rows, vectors),
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 => x86_64::tile(rows, vectors),
            #[cfg(target_arch = "aarch64")]
            Set::Neon => aarch64::tile(rows, vectors),
        }
    }

    fn block(self, vectors: usize) -> BlockFn {
        match self.0 {
            Set::Generic => generic::block(vectors),
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 => x86_64::block(vectors),
            #[cfg(target_arch = "aarch64")]
            Set::Neon => aarch64::block(vectors),
        }
    }

    fn row(self) -> RowFn {
        match self.0 {
            Set::Generic => generic::row,
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 => x86_64::row,
            #[cfg(target_arch = "aarch64")]
            Set::Neon => aarch64::row,
        }
    }

    /// Runs plain loops compiled for this instruction set.
    pub(crate) fn vectorised<T>(self, work: impl FnOnce() -> T) -> T {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the machine has been seen to have the features.
            Set::Avx2 => unsafe { x86_64::vectorised(work) },
            _ => work(),
        }
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
}
