//! The context model of grid levels: how a tensor of small integers is predicted from what was decoded before it
//! and from the tensor that the device already holds.
//!
//! An element is coded as: is it zero; then, where an old value is known, how far the level lies from the old value
//! rounded to this grid; else a magnitude and a sign. The old value is only ever *context*: the counters are indexed
//! by it, by where it falls inside its cell, by the density, magnitude and change seen so far in this row and this
//! column, and by the zeros around. One description serves encoder and decoder.

use crate::grid::LEVELS;
use crate::mix::Mix;
use crate::range::Coder;
use crate::trace::{BUCKETS, Line, Trace, bucket};

/// What the decoder knows of an element beforehand.
#[derive(Clone, Copy)]
pub(crate) struct Old {
    /// The old value in 16ths of a step; 0 where there is none.
    pub(crate) sixteenths: i32,
    /// Whether the mask rule keeps this element.
    pub(crate) kept: bool,
}

/// Of an element of which nothing is known.
pub(crate) const NOTHING: Old = Old { sixteenths: 0, kept: false };

/// The state of the model; carried from tensor to tensor of an update.
#[derive(Clone)]
pub(crate) struct Levels {
    zero: Mix<6>,
    residual: Nodes<6>,
    direction: Mix<3>,
    magnitude: Nodes<5>,
    sign: Mix<2>,
}

/// A family of decisions for each node of a tree, made when it is first reached: of the far nodes most never are.
#[derive(Clone)]
struct Nodes<const N: usize> {
    contexts: [usize; N],
    nodes: Vec<Option<Box<Mix<N>>>>,
}

impl<const N: usize> Nodes<N> {
    fn new(contexts: [usize; N]) -> Self {
        Self { contexts, nodes: vec![None; NODES] }
    }

    fn code<C: Coder>(&mut self, coder: &mut C, bit: bool, node: usize, contexts: [usize; N]) -> bool {
        let mix = self.nodes[node].get_or_insert_with(|| Box::new(Mix::new(self.contexts, 1)));
        mix.code(coder, bit, 0, contexts)
    }
}

/// Buckets of an old magnitude.
const OLD_BUCKETS: usize = 32;

impl Levels {
    pub(crate) fn new() -> Self {
        const B: usize = BUCKETS;
        Self {
            zero: Mix::new([4 * OLD_BUCKETS, 4 * B, 4 * B, 4 * 32, 4 * B * B, 4 * B], 4),
            residual: Nodes::new([16, 4 * B, 4 * B, 4 * B, B, 1]),
            direction: Mix::new([16, 16 * B, 16 * B], 1),
            magnitude: Nodes::new([1, B, B, B, B]),
            sign: Mix::new([3 * 3, 1], 1),
        }
    }

    /// Codes the elements of a row of `length` from `column` on; `old` tells what is known of each. With `strict` an
    /// element that the rule does not keep is zero and costs nothing. An encoder takes its levels from `levels`, a decoder
    /// needs none. False where the coder ran out of bytes first: `column` tells where to go on.
    pub(crate) fn row<C: Coder>(
        &mut self,
        coder: &mut C,
        trace: &mut Trace,
        (column, length): (&mut usize, usize),
        strict: bool,
        levels: &[i32],
        old: impl Fn(usize) -> Old,
    ) -> bool {
        while *column < length {
            let old = old(*column);
            if strict && !old.kept {
                trace.skip(*column);
            } else if coder.ready() {
                let level = levels.get(*column).copied().unwrap_or_default();
                let level = self.element(coder, level, old, &trace.around(*column));
                trace.note(*column, level, old.sixteenths);
            } else {
                return false;
            }
            *column += 1;
        }
        true
    }

    fn element<C: Coder>(&mut self, coder: &mut C, level: i32, old: Old, line: &Line) -> i32 {
        let nonzero = self.nonzero(coder, level != 0, old, line);
        if !nonzero {
            return 0;
        }
        let level = match old.sixteenths {
            0 => self.fresh(coder, level, line),
            _ => self.moved(coder, level, old.sixteenths, line),
        };
        level.clamp(-LEVELS, LEVELS)
    }

    fn nonzero<C: Coder>(&mut self, coder: &mut C, nonzero: bool, old: Old, line: &Line) -> bool {
        let known = usize::from(old.kept) * 2 + usize::from(old.sixteenths != 0);
        let size = bucket(old.sixteenths.unsigned_abs(), OLD_BUCKETS);
        let contexts = [
            known * OLD_BUCKETS + size,
            known * BUCKETS + line.row_density,
            known * BUCKETS + line.column_density,
            known * 32 + line.zeros,
            (known * BUCKETS + line.row_density) * BUCKETS + line.column_density,
            known * BUCKETS + line.near_density,
        ];
        self.zero.code(coder, nonzero, known, contexts)
    }

    /// A level of which nothing is known beforehand.
    fn fresh<C: Coder>(&mut self, coder: &mut C, level: i32, line: &Line) -> i32 {
        let magnitude = gamma(level.unsigned_abs(), |bit, node| {
            let contexts =
                [0, line.row_magnitude, line.column_magnitude, line.magnitude, line.column_density];
            self.magnitude.code(coder, bit, node, contexts)
        });
        let negative = self.sign.code(coder, level < 0, 0, [line.signs, 0]);
        if negative { -(magnitude as i32) } else { magnitude as i32 }
    }

    /// A level that was `old` 16ths of a step before: its distance from there, seen in the old value's direction.
    fn moved<C: Coder>(&mut self, coder: &mut C, level: i32, old: i32, line: &Line) -> i32 {
        let center = (old.abs() + 8) >> 4;
        let within = ((old.abs() + 8) & 15) as usize;
        let size = (center as usize).min(BUCKETS - 1);
        let distance = level * old.signum() - center;

        let code = |nodes: &mut Nodes<6>, coder: &mut C, bit, node: usize, within: usize| {
            let quarter = within / 4;
            let contexts = [
                within,
                line.row_change * 4 + quarter,
                line.column_change * 4 + quarter,
                line.change * 4 + quarter,
                size,
                0,
            ];
            nodes.code(coder, bit, node, contexts)
        };
        if !code(&mut self.residual, coder, distance != 0, 0, within) {
            return center * old.signum();
        }
        let contexts = [within, within * BUCKETS + size, within * BUCKETS + line.change];
        let outward = self.direction.code(coder, distance > 0, 0, contexts);
        let within = if outward { within } else { 15 - within };
        let residual = &mut self.residual;
        let far = gamma(distance.unsigned_abs(), |bit, node| code(residual, coder, bit, node, within)) as i32;
        (if outward { center + far } else { center - far }) * old.signum()
    }
}

/// Nodes of [`gamma`]'s decision tree, node 0 left to the caller.
const NODES: usize = 128;
/// Bits of a magnitude, at most: twice [`LEVELS`] and a little.
const LENGTH: u32 = 14;

/// Codes a positive number as Elias did: its length in unary, then its bits below the first. Each decision has a node:
/// of the lower bits the first three know each other, the rest only the length.
fn gamma(value: u32, mut code: impl FnMut(bool, usize) -> bool) -> u32 {
    let length = value.max(1).ilog2();
    let mut read = 0;
    while read < LENGTH - 1 && code(length > read, 1 + read as usize) {
        read += 1;
    }
    let mut number = 1u32;
    for shift in (0..read).rev() {
        let node = match number {
            1..8 => LENGTH as usize + read as usize * 7 + number as usize - 1,
            _ => LENGTH as usize * 8 + read as usize,
        };
        number = number << 1 | u32::from(code(value >> shift & 1 == 1, node));
    }
    number
}
