//! Rows taken two elements at a time.

use super::super::simd::Simd;
use super::KEPT;

/// Arguments of what takes rows two elements at a time: `eights · 16` elements of each give `eights · 8` results.
pub(in crate::kernels) struct HalveArgs {
    pub(in crate::kernels) source: *const f32,
    pub(in crate::kernels) planes: usize,
    pub(in crate::kernels) rows: usize,
    pub(in crate::kernels) eights: usize,
    /// From a plane and from a row to the next, of the source.
    pub(in crate::kernels) from: [usize; 2],
    /// From a row to the one that is pooled with it.
    pub(in crate::kernels) below: usize,
    /// Where the even elements go, or the maxima, and where the odd ones.
    pub(in crate::kernels) even: *mut f32,
    pub(in crate::kernels) odd: *mut f32,
    /// From a plane and from a row to the next, of the results.
    pub(in crate::kernels) to: [usize; 2],
    /// Lanes of a row's last eight that are elements, even and odd; zeros are written behind them.
    pub(in crate::kernels) kept: [usize; 2],
}

/// Even elements go one way and odd ones another; or, with `POOL`, the largest of each two by two is taken.
///
/// # Safety
/// All rows are valid for as many floats.
#[inline(always)]
pub(in crate::kernels) unsafe fn halve<S: Simd, const POOL: bool>(h: &HalveArgs) {
    // SAFETY: the caller's bounds.
    unsafe {
        let (all, kept) =
            (S::load(KEPT[S::LANES].as_ptr().cast()), h.kept.map(|lanes| KEPT[lanes].as_ptr().cast()));
        let kept = [S::load(kept[0]), S::load(kept[1])];
        let max = |a, b| S::clamp(b, a, S::splat(f32::INFINITY));
        for (plane, row) in (0..h.planes).flat_map(|plane| (0..h.rows).map(move |row| (plane, row))) {
            let source = h.source.add(plane * h.from[0] + row * h.from[1]);
            let at = plane * h.to[0] + row * h.to[1];
            for eight in 0..h.eights {
                let from = source.add(2 * S::LANES * eight);
                let mut both = [S::load(from), S::load(from.add(S::LANES))];
                let kept = if eight + 1 == h.eights { kept } else { [all; 2] };
                if POOL {
                    let below = from.add(h.below);
                    both = [max(S::load(below), both[0]), max(S::load(below.add(S::LANES)), both[1])];
                }
                let [even, odd] = S::halves(both[0], both[1]);
                if POOL {
                    S::store(h.even.add(at + S::LANES * eight), S::and(max(odd, even), kept[1]));
                } else {
                    S::store(h.even.add(at + S::LANES * eight), S::and(even, kept[0]));
                    S::store(h.odd.add(at + S::LANES * eight), S::and(odd, kept[1]));
                }
            }
        }
    }
}
