//! What all instruction sets run: the kernels, over eight lanes.

use super::Clamp;
use super::simd::{LANES, Simd};

/// Where one vector of a tile reads and writes, as offsets from the bases of the three planes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) input: u32,
    pub(crate) output: u32,
    pub(crate) residual: u32,
}

/// Arguments of a tile of output channels at some places, each the sum of `len` weighted inputs. A place is a vector of
/// positions ([`tile`]) or one position ([`lanes`]).
pub(super) struct TileArgs {
    /// Base of the input; `places` and `offsets` count from here.
    pub(super) input: *const f32,
    /// Offsets of the inputs summed, `len` of them.
    pub(super) offsets: *const i32,
    /// Weights, `[len, rows]`; rows in whole vectors where the lanes are channels.
    pub(super) weights: *const f32,
    pub(super) len: usize,
    /// Of a [`pair`]: the taps that both rows have, and those of the first alone. The weights of the former come in twos.
    pub(super) both: usize,
    pub(super) first: usize,
    /// One a row, padding included.
    pub(super) bias: *const f32,
    /// Base of the output, and each row's offset from it.
    pub(super) output: *mut f32,
    pub(super) output_rows: *const u32,
    /// Base of what is added, or null, and each row's offset from it.
    pub(super) residual: *const f32,
    pub(super) residual_rows: *const u32,
    pub(super) places: *const Place,
    /// Lanes of each vector that are written where they are positions; all channels where they are those.
    pub(super) written: usize,
    /// Lanes that are positions, of all vectors and of the last; zeros are written behind them.
    pub(super) kept: [usize; 2],
    pub(super) clamp: Clamp,
}

/// # Safety
/// All offsets, places and rows lie inside the arrays that the bases point to, eight floats each for reading and
/// `written` for writing.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // loops over constant lengths, unrolled into registers
pub(super) unsafe fn tile<S: Simd, const R: usize, const V: usize>(t: &TileArgs) {
    // SAFETY: the caller's bounds.
    unsafe {
        let mut sums = [[S::splat(0.0); V]; R];
        for r in 0..R {
            sums[r] = [S::splat(*t.bias.add(r)); V];
        }
        let mut sources = [t.input; V];
        for v in 0..V {
            sources[v] = t.input.add((*t.places.add(v)).input as usize);
        }
        let mut weights = t.weights;
        for k in 0..t.len {
            let offset = *t.offsets.add(k) as isize;
            let mut x = [S::splat(0.0); V];
            for v in 0..V {
                x[v] = S::load(sources[v].offset(offset));
            }
            for r in 0..R {
                let weight = S::splat(*weights.add(r));
                for v in 0..V {
                    sums[r][v] = S::fma(weight, x[v], sums[r][v]);
                }
            }
            weights = weights.add(R);
        }
        for r in 0..R {
            finish::<S, V>(&sums[r], t, r);
        }
    }
}

/// Two output channels with taps of their own: `both` that they share, then those of the first alone, then those of the
/// second. No product is by a zero, and a round takes one tap of each kind, so that neither loads nor products wait for
/// the other. Every other vector lies `STEP` floats behind the one two before.
///
/// # Safety
/// As [`tile`]; and the places are as `STEP` says.
#[inline(always)]
pub(super) unsafe fn pair<S: Simd, const V: usize, const STEP: usize>(t: &TileArgs) {
    // SAFETY: the caller's bounds.
    unsafe {
        let mut sums = [[S::splat(*t.bias); V], [S::splat(*t.bias.add(1)); V]];
        let even = t.input.add((*t.places).input as usize);
        let odd = t.input.add((*t.places.add(usize::from(V > 1))).input as usize);
        let [shared, first] = [t.both, t.first];
        let second = t.len - shared - first;
        let (mut a, mut b, mut c) = (0, shared, shared + first);
        let (first, second) = (b + first, c + second);
        // The second weight of what is shared lies behind the first.
        let own = t.weights.add(shared);
        let rounds = shared.min(first - b).min(second - c);
        for _ in 0..rounds {
            share::<S, V, STEP>(&mut sums, t, [even, odd], a);
            take::<S, V, STEP>(&mut sums[0], *t.offsets.add(b), *own.add(b), [even, odd]);
            take::<S, V, STEP>(&mut sums[1], *t.offsets.add(c), *own.add(c), [even, odd]);
            (a, b, c) = (a + 1, b + 1, c + 1);
        }
        for k in a..shared {
            share::<S, V, STEP>(&mut sums, t, [even, odd], k);
        }
        for _ in 0..(first - b).min(second - c) {
            take::<S, V, STEP>(&mut sums[0], *t.offsets.add(b), *own.add(b), [even, odd]);
            take::<S, V, STEP>(&mut sums[1], *t.offsets.add(c), *own.add(c), [even, odd]);
            (b, c) = (b + 1, c + 1);
        }
        for k in b..first {
            take::<S, V, STEP>(&mut sums[0], *t.offsets.add(k), *own.add(k), [even, odd]);
        }
        for k in c..second {
            take::<S, V, STEP>(&mut sums[1], *t.offsets.add(k), *own.add(k), [even, odd]);
        }
        finish::<S, V>(&sums[0], t, 0);
        finish::<S, V>(&sums[1], t, 1);
    }
}

/// Adds one weighted input to one row's sums.
///
/// # Safety
/// As [`pair`].
#[inline(always)]
#[allow(clippy::needless_range_loop)]
unsafe fn take<S: Simd, const V: usize, const STEP: usize>(
    sums: &mut [S::Vector; V],
    offset: i32,
    weight: f32,
    sources: [*const f32; 2],
) {
    // SAFETY: the caller's bounds.
    unsafe {
        let weight = S::splat(weight);
        let sources = sources.map(|source| source.offset(offset as isize));
        for v in 0..V {
            sums[v] = S::fma(weight, S::load(sources[v % 2].add(v / 2 * STEP)), sums[v]);
        }
    }
}

/// Adds one input, weighted for each, to both rows' sums.
///
/// # Safety
/// As [`pair`].
#[inline(always)]
unsafe fn share<S: Simd, const V: usize, const STEP: usize>(
    sums: &mut [[S::Vector; V]; 2],
    t: &TileArgs,
    sources: [*const f32; 2],
    k: usize,
) {
    // SAFETY: the caller's bounds.
    unsafe {
        let sources = sources.map(|source| source.offset(*t.offsets.add(k) as isize));
        let weights = [S::splat(*t.weights.add(2 * k)), S::splat(*t.weights.add(2 * k + 1))];
        for v in 0..V {
            let x = S::load(sources[v % 2].add(v / 2 * STEP));
            sums[0][v] = S::fma(weights[0], x, sums[0][v]);
            sums[1][v] = S::fma(weights[1], x, sums[1][v]);
        }
    }
}

/// What the sums of row `r` pass last: the residual, the clamp, the way to memory.
///
/// # Safety
/// As [`tile`].
#[inline(always)]
#[allow(clippy::needless_range_loop)]
unsafe fn finish<S: Simd, const V: usize>(sums: &[S::Vector; V], t: &TileArgs, r: usize) {
    // SAFETY: the caller's bounds.
    unsafe {
        let to = t.output.add(*t.output_rows.add(r) as usize);
        let residual = t.residual.wrapping_add(*t.residual_rows.add(r) as usize);
        if t.written < LANES {
            // A copy, so that the sums themselves stay in registers.
            let copy = *sums;
            return finish_narrow(copy.as_ptr().cast(), V, t, to, residual);
        }
        let (low, high) = (S::splat(t.clamp.low), S::splat(t.clamp.high));
        let kept = [S::load(KEPT[t.kept[0]].as_ptr().cast()), S::load(KEPT[t.kept[1]].as_ptr().cast())];
        for v in 0..V {
            let place = t.places.add(v);
            let mut sum = sums[v];
            if !t.residual.is_null() {
                sum = S::add(sum, S::load(residual.add((*place).residual as usize)));
            }
            let sum = S::and(S::clamp(sum, low, high), kept[usize::from(v + 1 == V)]);
            S::store(to.add((*place).output as usize), sum);
        }
    }
}

/// The same lane by lane, where a vector is not written whole.
///
/// # Safety
/// As [`tile`].
#[inline(never)]
unsafe fn finish_narrow(sums: *const f32, vectors: usize, t: &TileArgs, to: *mut f32, residual: *const f32) {
    for (v, lane) in (0..vectors).flat_map(|v| (0..t.written).map(move |lane| (v, lane))) {
        // SAFETY: the caller's bounds.
        unsafe {
            let place = *t.places.add(v);
            let mut sum = *sums.add(v * LANES + lane);
            if !t.residual.is_null() {
                sum += *residual.add(place.residual as usize + lane);
            }
            *to.add(place.output as usize + lane) = t.clamp.of(sum);
        }
    }
}

/// The bits of the first so many lanes.
static KEPT: [[u32; LANES]; LANES + 1] = {
    let mut kept = [[0; LANES]; LANES + 1];
    let mut lanes = 0;
    while lanes <= LANES {
        let mut lane = 0;
        while lane < lanes {
            kept[lanes][lane] = u32::MAX;
            lane += 1;
        }
        lanes += 1;
    }
    kept
};

/// A tile whose lanes are output channels, `V · 8` of them at `P` positions.
///
/// # Safety
/// As [`tile`], with one float a place.
#[inline(always)]
#[allow(clippy::needless_range_loop)]
pub(super) unsafe fn lanes<S: Simd, const P: usize, const V: usize>(t: &TileArgs) {
    // SAFETY: the caller's bounds.
    unsafe {
        let mut sums = [[S::splat(0.0); V]; P];
        let mut sources = [t.input; P];
        for p in 0..P {
            for v in 0..V {
                sums[p][v] = S::load(t.bias.add(v * LANES));
            }
            sources[p] = t.input.add((*t.places.add(p)).input as usize);
        }
        let mut weights = t.weights;
        for k in 0..t.len {
            let offset = *t.offsets.add(k) as isize;
            let mut row = [S::splat(0.0); V];
            for v in 0..V {
                row[v] = S::load(weights.add(v * LANES));
            }
            for p in 0..P {
                let x = S::splat(*sources[p].offset(offset));
                for v in 0..V {
                    sums[p][v] = S::fma(x, row[v], sums[p][v]);
                }
            }
            weights = weights.add(V * LANES);
        }
        for v in 0..V {
            let mut turned = [[0f32; P]; LANES];
            for p in 0..P {
                let mut lanes = [0f32; LANES];
                S::store(lanes.as_mut_ptr(), sums[p][v]);
                for lane in 0..LANES {
                    turned[lane][p] = lanes[lane];
                }
            }
            for lane in 0..t.written.saturating_sub(v * LANES).min(LANES) {
                let row = t.output.add(*t.output_rows.add(v * LANES + lane) as usize);
                let residual = *t.residual_rows.add(v * LANES + lane) as usize;
                for p in 0..P {
                    let place = *t.places.add(p);
                    let mut sum = turned[lane][p];
                    if !t.residual.is_null() {
                        sum += *t.residual.add(residual + place.residual as usize);
                    }
                    *row.add(place.output as usize) = t.clamp.of(sum);
                }
            }
        }
    }
}

/// Writes the first `lanes` of a vector.
///
/// # Safety
/// `to` is valid for as many.
#[inline(always)]
unsafe fn put<S: Simd>(to: *mut f32, vector: S::Vector, lanes: usize) {
    // SAFETY: the caller's bounds.
    unsafe {
        if lanes == LANES {
            S::store(to, vector);
        } else {
            let mut all = [0f32; LANES];
            S::store(all.as_mut_ptr(), vector);
            std::ptr::copy_nonoverlapping(all.as_ptr(), to, lanes);
        }
    }
}

/// Arguments of a block of a matrix: `vectors · 8` outputs, each the sum of `len` weighted inputs.
pub(super) struct BlockArgs {
    pub(super) input: *const f32,
    /// Which inputs are summed; null where all are, in order.
    pub(super) indices: *const u32,
    /// Weights, `[len, vectors · 8]`.
    pub(super) weights: *const f32,
    pub(super) len: usize,
    /// One a lane.
    pub(super) bias: *const f32,
    pub(super) output: *mut f32,
    /// Outputs that are written.
    pub(super) lanes: usize,
    pub(super) clamp: Clamp,
}

/// # Safety
/// `indices` lie inside the input, the other pointers are valid for the lengths said.
#[inline(always)]
#[allow(clippy::needless_range_loop)]
pub(super) unsafe fn block<S: Simd, const V: usize, const U: usize>(b: &BlockArgs) {
    // SAFETY: the caller's bounds.
    unsafe {
        // `U` sums a lane, so that one product need not wait for the one before.
        let mut sums = [[S::splat(0.0); V]; U];
        for v in 0..V {
            sums[0][v] = S::load(b.bias.add(v * LANES));
        }
        let mut weights = b.weights;
        let mut k = 0;
        let at = |k: usize| if b.indices.is_null() { k } else { *b.indices.add(k) as usize };
        while k + U <= b.len {
            for u in 0..U {
                let x = S::splat(*b.input.add(at(k + u)));
                for v in 0..V {
                    sums[u][v] = S::fma(x, S::load(weights.add((u * V + v) * LANES)), sums[u][v]);
                }
            }
            weights = weights.add(U * V * LANES);
            k += U;
        }
        while k < b.len {
            let x = S::splat(*b.input.add(at(k)));
            for v in 0..V {
                sums[0][v] = S::fma(x, S::load(weights.add(v * LANES)), sums[0][v]);
            }
            weights = weights.add(V * LANES);
            k += 1;
        }
        let (low, high) = (S::splat(b.clamp.low), S::splat(b.clamp.high));
        for v in 0..V {
            let mut sum = sums[0][v];
            for u in 1..U {
                sum = S::add(sum, sums[u][v]);
            }
            let lanes = b.lanes.saturating_sub(v * LANES).min(LANES);
            put::<S>(b.output.add(v * LANES), S::clamp(sum, low, high), lanes);
        }
    }
}

/// Products that the scalar kernel keeps going at once; rows are padded to a multiple.
pub(super) const CHAINS: usize = 4;

/// Arguments of one sparse row: the sum of `len` weighted inputs, a multiple of [`CHAINS`].
pub(super) struct RowArgs {
    pub(super) input: *const f32,
    pub(super) indices: *const u16,
    pub(super) weights: *const f32,
    pub(super) len: usize,
}

/// # Safety
/// `indices` lie inside the input, the other pointers are valid for `len`.
#[inline(always)]
pub(super) unsafe fn row<S: Simd>(r: &RowArgs) -> f32 {
    let mut sums = [0f32; CHAINS];
    let mut k = 0;
    while k < r.len {
        // SAFETY: the caller's bounds; `len` is a multiple of the chains.
        unsafe {
            // Four indices in one load: loads are what this loop waits for.
            let four = r.indices.add(k).cast::<u64>().read_unaligned();
            for (chain, sum) in sums.iter_mut().enumerate() {
                let index = (four.to_le() >> (16 * chain)) as u16;
                let (weight, x) = (*r.weights.add(k + chain), *r.input.add(index as usize));
                *sum = if S::FUSED { weight.mul_add(x, *sum) } else { *sum + weight * x };
            }
        }
        k += CHAINS;
    }
    (sums[0] + sums[1]) + (sums[2] + sums[3])
}

/// Arguments of what takes rows two elements at a time: `eights · 16` elements of each give `eights · 8` results.
pub(super) struct HalveArgs {
    pub(super) source: *const f32,
    pub(super) planes: usize,
    pub(super) rows: usize,
    pub(super) eights: usize,
    /// From a plane and from a row to the next, of the source.
    pub(super) from: [usize; 2],
    /// From a row to the one that is pooled with it.
    pub(super) below: usize,
    /// Where the even elements go, or the maxima, and where the odd ones.
    pub(super) even: *mut f32,
    pub(super) odd: *mut f32,
    /// From a plane and from a row to the next, of the results.
    pub(super) to: [usize; 2],
    /// Lanes of a row's last eight that are elements, even and odd; zeros are written behind them.
    pub(super) kept: [usize; 2],
}

/// Even elements go one way and odd ones another; or, with `POOL`, the largest of each two by two is taken.
///
/// # Safety
/// All rows are valid for as many floats.
#[inline(always)]
pub(super) unsafe fn halve<S: Simd, const POOL: bool>(h: &HalveArgs) {
    // SAFETY: the caller's bounds.
    unsafe {
        let (all, kept) =
            (S::load(KEPT[LANES].as_ptr().cast()), h.kept.map(|lanes| KEPT[lanes].as_ptr().cast()));
        let kept = [S::load(kept[0]), S::load(kept[1])];
        let max = |a, b| S::clamp(b, a, S::splat(f32::INFINITY));
        for (plane, row) in (0..h.planes).flat_map(|plane| (0..h.rows).map(move |row| (plane, row))) {
            let source = h.source.add(plane * h.from[0] + row * h.from[1]);
            let at = plane * h.to[0] + row * h.to[1];
            for eight in 0..h.eights {
                let from = source.add(2 * LANES * eight);
                let mut both = [S::load(from), S::load(from.add(LANES))];
                let kept = if eight + 1 == h.eights { kept } else { [all; 2] };
                if POOL {
                    let below = from.add(h.below);
                    both = [max(S::load(below), both[0]), max(S::load(below.add(LANES)), both[1])];
                }
                let [even, odd] = S::halves(both[0], both[1]);
                if POOL {
                    S::store(h.even.add(at + LANES * eight), S::and(max(odd, even), kept[1]));
                } else {
                    S::store(h.even.add(at + LANES * eight), S::and(even, kept[0]));
                    S::store(h.odd.add(at + LANES * eight), S::and(odd, kept[1]));
                }
            }
        }
    }
}

/// Products and sums of one round of [`peak`], in floats.
pub(super) const PEAK_ROUND: usize = 12 * LANES;

/// `rounds` times as many products as sixteen registers can keep going, and nothing else: what the machine can do.
///
/// # Safety
/// The machine has the instruction set.
#[inline(always)]
pub(super) unsafe fn peak<S: Simd>(rounds: usize) -> f32 {
    // SAFETY: the caller's.
    unsafe {
        let factor = S::splat(std::hint::black_box(0.5));
        let mut sums = [S::splat(1.0); PEAK_ROUND / LANES];
        for _ in 0..rounds {
            for sum in &mut sums {
                *sum = S::fma(*sum, factor, factor);
            }
        }
        let mut all = [0f32; LANES];
        sums.iter().for_each(|sum| S::store(all.as_mut_ptr(), S::add(*sum, S::load(all.as_ptr()))));
        all.iter().sum()
    }
}
