//! A vector of floats, as each instruction set has it.

/// Lanes of the vectors that every instruction set has.
pub(crate) const LANES: usize = 8;

/// Lanes of the widest vector.
pub(crate) const MOST_LANES: usize = 16;

/// Operations on a vector of floats.
///
/// # Safety
/// Callers run on a machine that has the instruction set, inside a function compiled for it; pointers are valid for
/// as many floats as there are lanes.
pub(super) trait Simd {
    /// Floats in registers.
    type Vector: Copy;
    /// So many.
    const LANES: usize;
    /// Whether a product and a sum are one instruction.
    const FUSED: bool;
    /// The same value in all lanes.
    unsafe fn splat(value: f32) -> Self::Vector;
    /// A vector from memory, at any address.
    unsafe fn load(from: *const f32) -> Self::Vector;
    /// A vector to memory, at any address.
    unsafe fn store(to: *mut f32, vector: Self::Vector);
    /// `a · b + c`, lane by lane, rounded once.
    unsafe fn fma(a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector;
    /// `a + b`, lane by lane.
    unsafe fn add(a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// The bits that both have.
    unsafe fn and(a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `min(max(v, low), high)`, lane by lane; NaN stays.
    unsafe fn clamp(v: Self::Vector, low: Self::Vector, high: Self::Vector) -> Self::Vector;
    /// The elements of two vectors at even places, and those at odd ones.
    unsafe fn halves(first: Self::Vector, second: Self::Vector) -> [Self::Vector; 2];
}

/// Vectors whose lanes can be read and written one by one.
///
/// # Safety
/// As [`Simd`]; pointers are valid for the lanes that a bit is set for.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
pub(super) trait Masked: Simd {
    /// Lanes from memory, zeros in the others.
    unsafe fn load_some(from: *const f32, lanes: u16) -> Self::Vector;
    /// Lanes to memory; the others stay as they are.
    unsafe fn store_some(to: *mut f32, vector: Self::Vector, lanes: u16);
    /// Sixteen elements of a table of 32, the table in two vectors.
    unsafe fn look_up(table: [Self::Vector; 2], indices: *const u8) -> Self::Vector;
}
