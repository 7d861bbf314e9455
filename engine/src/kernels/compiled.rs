//! The kernels compiled for one instruction set, behind tables of functions.

use super::bodies::{BlockArgs, HalveArgs, LookUpArgs, RowArgs, TileArgs};

/// What one instruction set can run.
///
/// # Safety of all
/// The machine has the set, and the arguments keep the contract of the body in [`super::bodies`].
pub(super) struct Kernels {
    /// For people.
    pub(super) name: &'static str,
    /// Convolutions, for each width of vectors, eight lanes first.
    pub(super) tiles: &'static [&'static Tiles],
    /// A block of so many vectors of outputs.
    pub(super) block: fn(usize) -> unsafe fn(&BlockArgs),
    pub(super) row: unsafe fn(&RowArgs) -> f32,
    /// So many times sixteen sparse rows.
    pub(super) look_up: Option<LookUp>,
    pub(super) halve: unsafe fn(&HalveArgs),
    pub(super) pool: unsafe fn(&HalveArgs),
}

/// A kernel for so many times sixteen rows.
pub(super) type LookUp = fn(usize) -> unsafe fn(&LookUpArgs);

/// What convolutions run, over vectors of one width.
///
/// # Safety of all
/// As [`Kernels`].
pub(super) struct Tiles {
    /// Floats of a vector.
    pub(super) lanes: usize,
    /// Vectors that fit the registers.
    pub(super) registers: usize,
    /// A tile of so many rows at so many vectors of positions.
    pub(super) tile: fn(usize, usize) -> unsafe fn(&TileArgs<'_>),
    /// A tile of so many positions by so many vectors of channels.
    pub(super) channels: fn(usize, usize) -> unsafe fn(&TileArgs<'_>),
    /// Two rows of taps of their own at so many vectors of positions, which are so many floats apart, two by two.
    pub(super) pair: fn(usize, usize) -> unsafe fn(&TileArgs<'_>),
    /// So many rounds of products and nothing else.
    pub(super) peak: unsafe fn(usize) -> f32,
}

/// `TILES`, compiled for vectors of one width.
macro_rules! tiles {
    ($registers:tt, $simd:ty $(, #[$feature:meta])?) => {
        pub(in $crate::kernels) static TILES: compiled::Tiles = compiled::Tiles {
            lanes: <$simd as $crate::kernels::simd::Simd>::LANES,
            registers: $registers,
            tile: |rows, vectors| compiled::table!($registers, tile, rows, vectors),
            channels: |pixels, vectors| compiled::channels_table!($registers, channels, pixels, vectors),
            pair: |vectors, step| compiled::pair_table!($registers, pair, vectors, step),
            peak,
        };

        // SAFETY of all below: the caller's.
        $(#[$feature])?
        unsafe fn tile<const R: usize, const V: usize>(t: &bodies::TileArgs<'_>) {
            unsafe { bodies::tile::<$simd, R, V>(t) }
        }

        $(#[$feature])?
        unsafe fn pair<const V: usize, const STEP: usize>(t: &bodies::TileArgs<'_>) {
            unsafe { bodies::pair::<$simd, V, STEP>(t) }
        }

        $(#[$feature])?
        unsafe fn channels<const P: usize, const V: usize>(t: &bodies::TileArgs<'_>) {
            unsafe { bodies::channels::<$simd, P, V>(t) }
        }

        $(#[$feature])?
        unsafe fn peak(rounds: usize) -> f32 {
            unsafe { bodies::peak::<$simd>(rounds) }
        }
    };
}

/// `KERNELS`, compiled for one set: its vectors of eight lanes, and what wider ones add.
macro_rules! compiled {
    ($name:literal, $registers:tt, $simd:ty, [$($wider:expr),*], $look_up:expr $(, #[$feature:meta])?) => {
        use $crate::kernels::{bodies, compiled};

        pub(in $crate::kernels) static KERNELS: compiled::Kernels = compiled::Kernels {
            name: $name,
            tiles: &[&TILES $(, $wider)*],
            block: |vectors| match vectors {
                1 => block::<1, 4>,
                2 => block::<2, 4>,
                _ => block::<4, 2>,
            },
            row,
            look_up: $look_up,
            halve: halve::<false>,
            pool: halve::<true>,
        };

        compiled::tiles!($registers, $simd $(, #[$feature])?);

        // SAFETY of all below: the caller's.
        $(#[$feature])?
        unsafe fn block<const V: usize, const U: usize>(b: &bodies::BlockArgs) {
            unsafe { bodies::block::<$simd, V, U>(b) }
        }

        $(#[$feature])?
        unsafe fn row(r: &bodies::RowArgs) -> f32 {
            unsafe { bodies::row::<$simd>(r) }
        }

        $(#[$feature])?
        unsafe fn halve<const POOL: bool>(h: &bodies::HalveArgs) {
            unsafe { bodies::halve::<$simd, POOL>(h) }
        }
    };
}

/// All tiles that fit the registers, with what they need besides the sums.
macro_rules! table {
    (16, $f:ident, $rows:expr, $vectors:expr) => {
        match ($rows, $vectors) {
            (1, 1) => $f::<1, 1>,
            (1, 2) => $f::<1, 2>,
            (1, 3) => $f::<1, 3>,
            (1, 4) => $f::<1, 4>,
            (1, 5) => $f::<1, 5>,
            (1, 6) => $f::<1, 6>,
            (1, 7) => $f::<1, 7>,
            (1, 8) => $f::<1, 8>,
            (2, 1) => $f::<2, 1>,
            (2, 2) => $f::<2, 2>,
            (2, 3) => $f::<2, 3>,
            (2, 4) => $f::<2, 4>,
            (2, 5) => $f::<2, 5>,
            (3, 1) => $f::<3, 1>,
            (3, 2) => $f::<3, 2>,
            (3, 3) => $f::<3, 3>,
            (3, 4) => $f::<3, 4>,
            (4, 1) => $f::<4, 1>,
            (4, 2) => $f::<4, 2>,
            (4, 3) => $f::<4, 3>,
            (5, 1) => $f::<5, 1>,
            (5, 2) => $f::<5, 2>,
            (6, 1) => $f::<6, 1>,
            (6, 2) => $f::<6, 2>,
            (7, 1) => $f::<7, 1>,
            (8, 1) => $f::<8, 1>,
            (rows, vectors) => unreachable!("no tile of {rows} rows and {vectors} vectors"),
        }
    };
    (32, $f:ident, $rows:expr, $vectors:expr) => {
        match ($rows, $vectors) {
            (2, 6) => $f::<2, 6>,
            (2, 7) => $f::<2, 7>,
            (2, 8) => $f::<2, 8>,
            (3, 5) => $f::<3, 5>,
            (3, 6) => $f::<3, 6>,
            (3, 7) => $f::<3, 7>,
            (3, 8) => $f::<3, 8>,
            (4, 4) => $f::<4, 4>,
            (4, 5) => $f::<4, 5>,
            (4, 6) => $f::<4, 6>,
            (5, 3) => $f::<5, 3>,
            (5, 4) => $f::<5, 4>,
            (5, 5) => $f::<5, 5>,
            (6, 3) => $f::<6, 3>,
            (6, 4) => $f::<6, 4>,
            (7, 2) => $f::<7, 2>,
            (7, 3) => $f::<7, 3>,
            (8, 2) => $f::<8, 2>,
            (8, 3) => $f::<8, 3>,
            (rows, vectors) => compiled::table!(16, $f, rows, vectors),
        }
    };
}

/// All tiles of two rows at vectors that are 16 or 32 floats apart, two by two.
macro_rules! pair_table {
    (16, $f:ident, $vectors:expr, $step:expr) => {
        match ($vectors, $step) {
            (1, 16) => $f::<1, 16>,
            (1, 32) => $f::<1, 32>,
            (2, 16) => $f::<2, 16>,
            (2, 32) => $f::<2, 32>,
            (3, 16) => $f::<3, 16>,
            (3, 32) => $f::<3, 32>,
            (4, 16) => $f::<4, 16>,
            (4, 32) => $f::<4, 32>,
            (5, 16) => $f::<5, 16>,
            (5, 32) => $f::<5, 32>,
            (6, 16) => $f::<6, 16>,
            (6, 32) => $f::<6, 32>,
            (vectors, step) => unreachable!("no pair at {vectors} vectors, {step} apart"),
        }
    };
    (32, $f:ident, $vectors:expr, $step:expr) => {
        match ($vectors, $step) {
            (7, 16) => $f::<7, 16>,
            (7, 32) => $f::<7, 32>,
            (8, 16) => $f::<8, 16>,
            (8, 32) => $f::<8, 32>,
            (9, 16) => $f::<9, 16>,
            (9, 32) => $f::<9, 32>,
            (10, 16) => $f::<10, 16>,
            (10, 32) => $f::<10, 32>,
            (11, 16) => $f::<11, 16>,
            (11, 32) => $f::<11, 32>,
            (12, 16) => $f::<12, 16>,
            (12, 32) => $f::<12, 32>,
            (13, 16) => $f::<13, 16>,
            (13, 32) => $f::<13, 32>,
            (14, 16) => $f::<14, 16>,
            (14, 32) => $f::<14, 32>,
            (vectors, step) => compiled::pair_table!(16, $f, vectors, step),
        }
    };
}

/// All tiles of pixels and vectors of channels that fit the registers.
macro_rules! channels_table {
    (16, $f:ident, $pixels:expr, $vectors:expr) => {
        match ($pixels, $vectors) {
            (1, 1) => $f::<1, 1>,
            (2, 1) => $f::<2, 1>,
            (3, 1) => $f::<3, 1>,
            (4, 1) => $f::<4, 1>,
            (5, 1) => $f::<5, 1>,
            (6, 1) => $f::<6, 1>,
            (7, 1) => $f::<7, 1>,
            (8, 1) => $f::<8, 1>,
            (1, 2) => $f::<1, 2>,
            (2, 2) => $f::<2, 2>,
            (3, 2) => $f::<3, 2>,
            (4, 2) => $f::<4, 2>,
            (5, 2) => $f::<5, 2>,
            (6, 2) => $f::<6, 2>,
            (1, 3) => $f::<1, 3>,
            (2, 3) => $f::<2, 3>,
            (3, 3) => $f::<3, 3>,
            (4, 3) => $f::<4, 3>,
            (1, 4) => $f::<1, 4>,
            (2, 4) => $f::<2, 4>,
            (pixels, vectors) => unreachable!("no tile of {pixels} pixels and {vectors} vectors"),
        }
    };
    (32, $f:ident, $pixels:expr, $vectors:expr) => {
        match ($pixels, $vectors) {
            (9, 1) => $f::<9, 1>,
            (10, 1) => $f::<10, 1>,
            (11, 1) => $f::<11, 1>,
            (12, 1) => $f::<12, 1>,
            (7, 2) => $f::<7, 2>,
            (8, 2) => $f::<8, 2>,
            (9, 2) => $f::<9, 2>,
            (10, 2) => $f::<10, 2>,
            (11, 2) => $f::<11, 2>,
            (12, 2) => $f::<12, 2>,
            (5, 3) => $f::<5, 3>,
            (6, 3) => $f::<6, 3>,
            (7, 3) => $f::<7, 3>,
            (8, 3) => $f::<8, 3>,
            (3, 4) => $f::<3, 4>,
            (4, 4) => $f::<4, 4>,
            (5, 4) => $f::<5, 4>,
            (6, 4) => $f::<6, 4>,
            (pixels, vectors) => compiled::channels_table!(16, $f, pixels, vectors),
        }
    };
}

pub(super) use {channels_table, compiled, pair_table, table, tiles};
