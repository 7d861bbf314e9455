//! Adaptive probabilities and their mixing: the model under every coded symbol.
//!
//! Each binary decision is predicted by several adaptive counters, one a context; a small logistic mixer weighs
//! them (Mahoney, "Adaptive weighing of context models for lossless data compression", 2005) and learns from the
//! outcome. All in integers: tables are computed from 33 constants, products and shifts are exact, so x86 and ARM
//! agree bit for bit.

use std::sync::LazyLock;

use crate::range::Coder;

/// A counter: the probability of a 1 in the upper 22 bits, how often it was used in the lower 10.
#[derive(Clone, Copy)]
pub(crate) struct Counter(u32);

/// How often a counter averages over before it forgets.
const COUNT_LIMIT: u32 = 255;

/// The logistic function `65536 / (1 + exp(-x))` at x = -8, -7.5 … 8.
const LOGISTIC: [i32; 33] = [
    22, 36, 60, 98, 162, 267, 439, 720, 1179, 1921, 3108, 4971, 7812, 11955, 17625, 24743, 32768, 40793,
    47911, 53581, 57724, 60565, 62428, 63615, 64357, 64816, 65097, 65269, 65374, 65438, 65476, 65500, 65514,
];

/// Half the logistic domain: x = 8 in 256ths, less one.
const REACH: i32 = 2047;

struct Tables {
    /// The inverse of [`squash`], by the upper 12 bits of a probability.
    stretch: [i16; 4096],
    /// `65536 / (n + 1.5)`.
    rate: [u32; COUNT_LIMIT as usize + 1],
}

static TABLES: LazyLock<Tables> = LazyLock::new(|| {
    let mut stretch = [REACH as i16; 4096];
    let mut next = 0;
    for x in -REACH..=REACH {
        let reached = (squash(x) >> 4) as usize;
        while next <= reached {
            stretch[next] = x as i16;
            next += 1;
        }
    }
    let rate = std::array::from_fn(|n| 131_072 / (2 * n as u32 + 3));
    Tables { stretch, rate }
});

/// The logistic function: `x` in 256ths to a probability in 65,536ths.
fn squash(x: i32) -> i32 {
    let at = x.clamp(-REACH, REACH) + 2048;
    let (index, rest) = ((at >> 7) as usize, at & 127);
    (LOGISTIC[index] * (128 - rest) + LOGISTIC[index + 1] * rest + 64) >> 7
}

impl Counter {
    const NEW: Self = Self(1 << 31);

    /// What this context says, stretched; little while it has seen little.
    fn stretched(self, tables: &Tables) -> i32 {
        i32::from(tables.stretch[(self.0 >> 20) as usize])
    }

    fn learn(&mut self, bit: bool, limit: u32, tables: &Tables) {
        let (p, n) = (self.0 >> 10, self.0 & 1023);
        let target = if bit { (1 << 22) - 1 } else { 0 };
        let step = ((i64::from(target) - i64::from(p)) * i64::from(tables.rate[n as usize])) >> 16;
        let p = (i64::from(p) + step) as u32;
        self.0 = p << 10 | (n + 1).min(limit);
    }
}

/// A family of decisions: `N` counters predict each, chosen by `N` contexts; a set of weights is chosen by one more.
#[derive(Clone)]
pub(crate) struct Mix<const N: usize> {
    counters: Vec<Counter>,
    weights: Vec<[i32; N]>,
    first: [usize; N],
    limit: u32,
}

impl<const N: usize> Mix<N> {
    /// A family whose input `i` has `contexts[i]` contexts, and with `sets` sets of weights.
    pub(crate) fn new(contexts: [usize; N], sets: usize) -> Self {
        let mut first = [0; N];
        let mut total = 0;
        for (start, size) in first.iter_mut().zip(contexts) {
            *start = total;
            total += size;
        }
        let weight = (1 << 16) * 5 / (4 * N as i32 + 1);
        Self {
            counters: vec![Counter::NEW; total],
            weights: vec![[weight; N]; sets],
            first,
            limit: COUNT_LIMIT,
        }
    }

    /// Codes `bit` in the given contexts.
    pub(crate) fn code<C: Coder>(
        &mut self,
        coder: &mut C,
        bit: bool,
        set: usize,
        contexts: [usize; N],
    ) -> bool {
        let tables = &*TABLES;
        let at: [usize; N] = std::array::from_fn(|i| self.first[i] + contexts[i]);
        let inputs: [i32; N] = std::array::from_fn(|i| self.counters[at[i]].stretched(tables));
        let weights = &mut self.weights[set];
        let dot: i64 = (0..N).map(|i| i64::from(inputs[i]) * i64::from(weights[i])).sum();
        let p = squash((dot >> 16).clamp(-i64::from(REACH), i64::from(REACH)) as i32).clamp(1, 65_535);

        let bit = coder.bit(bit, p as u32);

        let error = (if bit { 65_536 - p } else { -p }) * LEARNING_RATE;
        for i in 0..N {
            let step = (i64::from(inputs[i]) * i64::from(error) + (1 << 17)) >> 18;
            weights[i] = (weights[i] + step as i32).clamp(-WEIGHT_LIMIT, WEIGHT_LIMIT);
            self.counters[at[i]].learn(bit, self.limit, tables);
        }
        bit
    }
}

/// How fast the mixers learn.
const LEARNING_RATE: i32 = 6;
/// Keeps sums far from overflow whatever the stream.
const WEIGHT_LIMIT: i32 = 1 << 22;
