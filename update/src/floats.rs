//! The context model of exact floats: each is zero, as it was, or new; a new one is coded bit for bit, by its distance
//! from the old one where there is an old one.

use crate::mix::Mix;
use crate::range::Coder;
use crate::trace::{BUCKETS, Trace};

/// What the decoder knows of an element beforehand.
#[derive(Clone, Copy)]
pub(crate) struct Old {
    /// The old value; 0 where there is none.
    pub(crate) value: f32,
    /// Whether the mask rule keeps this element.
    pub(crate) kept: bool,
}

/// The state of the model; carried from tensor to tensor of an update.
#[derive(Clone)]
pub(crate) struct Floats {
    zero: Mix<4>,
    zero_sign: Mix<1>,
    same: Mix<3>,
    length: Mix<2>,
    sign: Mix<1>,
    exponent: Mix<2>,
    fraction: Mix<1>,
}

impl Floats {
    pub(crate) fn new() -> Self {
        const B: usize = BUCKETS;
        Self {
            zero: Mix::new([4 * 256, 4 * B, 4 * B, 4 * 32], 4),
            zero_sign: Mix::new([4], 1),
            same: Mix::new([8, B, B], 1),
            length: Mix::new([64, 64 * 33], 1),
            sign: Mix::new([4], 1),
            exponent: Mix::new([256, 256 * 16], 1),
            fraction: Mix::new([8 + 23], 1),
        }
    }

    /// Codes the floats of a row of `length` from `column` on, as [`crate::levels::Levels::row`] does levels; a decoder
    /// gives them to `take`.
    #[allow(clippy::too_many_arguments)] // one call for encoder and decoder
    pub(crate) fn row<C: Coder>(
        &mut self,
        coder: &mut C,
        trace: &mut Trace,
        recent: &mut Recent,
        (column, length): (&mut usize, usize),
        values: &[f32],
        old: impl Fn(usize) -> Old,
        mut take: impl FnMut(f32),
    ) -> bool {
        while *column < length {
            if !coder.ready() {
                return false;
            }
            let value = values.get(*column).copied().unwrap_or_default();
            let value = self.element(coder, value, old(*column), trace, *column, recent);
            trace.note(*column, i32::from(value != 0.0), 0);
            take(value);
            *column += 1;
        }
        true
    }

    fn element<C: Coder>(
        &mut self,
        coder: &mut C,
        value: f32,
        old: Old,
        trace: &Trace,
        column: usize,
        recent: &mut Recent,
    ) -> f32 {
        let around = trace.around(column);
        let known = usize::from(old.kept) * 2 + usize::from(old.value != 0.0);
        let contexts = [
            known * 256 + exponent(old.value),
            known * BUCKETS + around.row_density,
            known * BUCKETS + around.column_density,
            known * 32 + around.zeros,
        ];
        if !self.zero.code(coder, value.to_bits() << 1 != 0, known, contexts) {
            let context = 2 * usize::from(old.value != 0.0) + usize::from(old.value.is_sign_negative());
            let negative = self.zero_sign.code(coder, value.is_sign_negative(), 0, [context]);
            return if negative { -0.0 } else { 0.0 };
        }
        if old.value == 0.0 {
            return self.fresh(coder, value, recent);
        }
        let contexts = [recent.same, around.row_density, around.column_density];
        let same = self.same.code(coder, value.to_bits() == old.value.to_bits(), 0, contexts);
        recent.same = (recent.same << 1 | usize::from(same)) & 7;
        if same { old.value } else { self.moved(coder, value, old.value, recent) }
    }

    fn fresh<C: Coder>(&mut self, coder: &mut C, value: f32, recent: &mut Recent) -> f32 {
        let bits = value.to_bits();
        let negative = self.sign.code(coder, value.is_sign_negative(), 0, [0]);
        let mut node = 1;
        for shift in (23..31).rev() {
            let bit = bits >> shift & 1 == 1;
            let contexts = [node, node * 16 + (recent.exponent & 15)];
            node = node << 1 | usize::from(self.exponent.code(coder, bit, 0, contexts));
        }
        recent.exponent = node & 255;
        let mut fraction = 1usize;
        for shift in (0..23).rev() {
            let node = if fraction < 8 { fraction } else { 8 + shift };
            fraction =
                fraction << 1 | usize::from(self.fraction.code(coder, bits >> shift & 1 == 1, 0, [node]));
        }
        let fraction = fraction as u32 & 0x7f_ffff;
        f32::from_bits(u32::from(negative) << 31 | (recent.exponent as u32) << 23 | fraction)
    }

    /// By the distance of the bit patterns, seen as ordered integers; the bits below its first are as good as random.
    fn moved<C: Coder>(&mut self, coder: &mut C, value: f32, old: f32, recent: &mut Recent) -> f32 {
        let distance = ordered(value).wrapping_sub(ordered(old));
        let up = self.sign.code(coder, (distance as i32) > 0, 0, [2 + usize::from(old > 0.0)]);
        let magnitude = (distance as i32).unsigned_abs();
        let length = magnitude.max(1).ilog2();
        let mut node = 1;
        for shift in (0..5).rev() {
            let contexts = [node, node * 33 + recent.length];
            let bit = self.length.code(coder, length >> shift & 1 == 1, 0, contexts);
            node = node << 1 | usize::from(bit);
        }
        let length = node as u32 & 31;
        recent.length = length as usize + 1;
        let magnitude = 1 << length | coder.raw(magnitude & !(1 << length), length);
        let distance = if up { magnitude } else { magnitude.wrapping_neg() };
        unordered(ordered(old).wrapping_add(distance))
    }
}

/// What was coded last in a tensor.
#[derive(Default)]
pub(crate) struct Recent {
    same: usize,
    exponent: usize,
    length: usize,
}

fn exponent(value: f32) -> usize {
    (value.to_bits() >> 23 & 255) as usize
}

/// Bit patterns in the order of their values.
fn ordered(value: f32) -> u32 {
    let bits = value.to_bits();
    if bits >> 31 == 1 { !bits } else { bits | 1 << 31 }
}

fn unordered(ordered: u32) -> f32 {
    f32::from_bits(if ordered >> 31 == 1 { ordered & !(1 << 31) } else { !ordered })
}
