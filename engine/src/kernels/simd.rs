//! Eight lanes of floats, as each instruction set has them.

/// Lanes of a vector.
pub(crate) const LANES: usize = 8;

/// Operations on eight floats.
///
/// # Safety
/// Callers run on a machine that has the instruction set, inside a function compiled for it; pointers are valid for
/// eight floats.
pub(super) trait Simd {
    /// Eight floats in registers.
    type Vector: Copy;
    /// Whether a product and a sum are one instruction.
    const FUSED: bool;
    /// The same value in all lanes.
    unsafe fn splat(value: f32) -> Self::Vector;
    /// Eight floats from memory, at any address.
    unsafe fn load(from: *const f32) -> Self::Vector;
    /// Eight floats to memory, at any address.
    unsafe fn store(to: *mut f32, vector: Self::Vector);
    /// `a · b + c`, lane by lane, rounded once.
    unsafe fn fma(a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector;
    /// `a + b`, lane by lane.
    unsafe fn add(a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// The bits that both have.
    unsafe fn and(a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `min(max(v, low), high)`, lane by lane; NaN stays.
    unsafe fn clamp(v: Self::Vector, low: Self::Vector, high: Self::Vector) -> Self::Vector;
    /// The elements of sixteen at even places, and those at odd ones.
    unsafe fn halves(first: Self::Vector, second: Self::Vector) -> [Self::Vector; 2];
}
