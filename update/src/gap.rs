//! The gap coder of grid levels, for large tensors: which elements are not zero is told by the gaps between them, so that
//! zeros cost no time. Elements are sorted into classes by what is known of them beforehand; each class has gaps of its
//! own, counted in elements of the class. One description serves encoder and decoder.

use crate::DecodeError;
use crate::ans::{Encoder, Symbols, Table};
use crate::codec::Known;
use crate::entry::Context;
use crate::grid::{Grid, LEVELS};
use crate::manifest::contradiction;

/// Sizes of an old magnitude that make a class: below 1/2, 1, 2, 4, 8 steps, or more.
const SIZES: usize = 6;
/// Classes: of each size those that the mask rule does not keep, then those that it keeps.
const CLASSES: usize = 2 * SIZES;
/// Symbols of gaps, of levels of which nothing is known, and of distances from an old value.
const GAPS: usize = 16 + 4 * 23;
const FRESH: usize = 2 * (16 + 2 * 9);
const MOVED: usize = 15 + 2 * 11;
/// Models of distances: four positions of the old value in its cell, three sizes.
const MOVES: usize = 4 * 3;
/// Elements that are coded at once, at most.
pub(crate) const BLOCK: usize = 4096;

/// The state of the coder within a tensor.
pub(crate) struct Gaps {
    grid: Grid,
    context: Option<Context>,
    /// The least magnitude of each size but the first.
    sizes: [f32; SIZES - 1],
    classes: [Class; CLASSES],
    fresh: Option<Box<Table<FRESH>>>,
    moved: [Option<Box<Table<MOVED>>>; MOVES],
    open: Option<Box<Open>>,
}

/// A class that has nonzeros has a table, and elements left before the next one.
#[derive(Default)]
struct Class {
    gaps: Option<Box<Table<GAPS>>>,
    left: u32,
}

/// What an encoder codes; a decoder has an empty one.
#[derive(Default)]
pub(crate) struct Plan<'a> {
    levels: &'a [i32],
    /// For each class the gaps, the one to the end included.
    gaps: [std::vec::IntoIter<u32>; CLASSES],
}

/// The stream of the levels of a tensor.
pub(crate) fn encode(grid: Grid, levels: &[i32], known: Option<Known<'_>>) -> Vec<u8> {
    let mut gaps = Gaps::new(grid, known.map(|known| known.context));
    let old = known.map_or(&[][..], |known| known.old);
    let mut plan = gaps.plan(levels, old);
    let mut encoder = Encoder::default();
    gaps.start(&mut encoder, &mut plan);
    let mut values = [0.0; BLOCK];
    for (block, levels) in levels.chunks(BLOCK).enumerate() {
        let old = old.get(block * BLOCK..).unwrap_or_default();
        let old = &old[..old.len().min(levels.len())];
        let coded =
            gaps.block(&mut encoder, &mut plan, old, (block * BLOCK, &mut 0), &mut values[..levels.len()]);
        debug_assert_eq!(
            coded,
            Ok(true),
            "levels are within the grid, and an encoder does not run out of bytes"
        );
    }
    encoder.finish()
}

impl Gaps {
    pub(crate) fn new(grid: Grid, context: Option<Context>) -> Self {
        let size = |at: usize| (grid.step() * f64::from(1u32 << at) * 0.5) as f32;
        Self {
            grid,
            context,
            sizes: std::array::from_fn(size),
            classes: Default::default(),
            fresh: None,
            moved: Default::default(),
            open: None,
        }
    }

    /// What to code for a tensor of `levels`, with the old values where there is a context.
    pub(crate) fn plan<'a>(&self, levels: &'a [i32], old: &[f32]) -> Plan<'a> {
        let mut gaps: [Vec<u32>; CLASSES] = Default::default();
        let mut passed = [0u32; CLASSES];
        let mut note = |class: usize, level: i32| match level {
            0 => passed[class] += 1,
            _ => gaps[class].push(std::mem::take(&mut passed[class])),
        };
        if self.context.is_none() {
            levels.iter().for_each(|&level| note(0, level));
        }
        let mut open = Open::new();
        for (old, levels) in old.chunks(BLOCK).zip(levels.chunks(BLOCK)) {
            open.find(self, old, 0);
            open.each().for_each(|(element, class, _)| note(class, levels[element]));
        }
        for (gaps, passed) in gaps.iter_mut().zip(passed).filter(|(gaps, _)| !gaps.is_empty()) {
            gaps.push(passed);
        }
        Plan { levels, gaps: gaps.map(Vec::into_iter) }
    }

    /// Codes the beginning: which classes have nonzeros, and their first gaps.
    pub(crate) fn start<C: Symbols>(&mut self, coder: &mut C, plan: &mut Plan<'_>) {
        let count = if self.context.is_some() { CLASSES } else { 1 };
        let mask =
            (0..count).filter(|&class| plan.gaps[class].len() > 0).fold(0, |mask, class| mask | 1 << class);
        let mask = coder.raw(mask, count as u32);
        for class in (0..count).filter(|class| mask >> class & 1 == 1) {
            self.classes[class].gaps = Some(Box::new(Table::new()));
            self.gap(coder, plan, class);
        }
    }

    /// Codes the elements of a block, from `*at` on, into `values`, which are zero from there on. `old` has as many, or
    /// none without a context; the block begins at element `first`. False where the coder ran out of bytes first.
    ///
    /// # Errors
    /// Where a decoder reads what no encoder writes.
    pub(crate) fn block<C: Symbols>(
        &mut self,
        coder: &mut C,
        plan: &mut Plan<'_>,
        old: &[f32],
        (first, at): (usize, &mut usize),
        values: &mut [f32],
    ) -> Result<bool, DecodeError> {
        if self.context.is_none() {
            return self.unknown(coder, plan, (first, at), values);
        }
        let mut open = self.open.take().unwrap_or_else(Open::new);
        open.find(self, old, *at);
        let done = self.opened(coder, plan, &open, (first, at), values);
        self.open = Some(open);
        done
    }

    /// The elements of a block that may not be zero.
    fn opened<C: Symbols>(
        &mut self,
        coder: &mut C,
        plan: &mut Plan<'_>,
        open: &Open,
        (first, at): (usize, &mut usize),
        values: &mut [f32],
    ) -> Result<bool, DecodeError> {
        for (element, class, sixteenths) in open.each() {
            let known = &mut self.classes[class];
            if known.left > 0 {
                known.left -= 1;
            } else if known.gaps.is_some() {
                if !coder.ready() {
                    *at = element;
                    return Ok(false);
                }
                values[element] = self.value(coder, plan.level(first + element), sixteenths)?;
                self.gap(coder, plan, class);
            }
        }
        *at = values.len();
        Ok(true)
    }

    /// A block of which nothing is known beforehand: from nonzero to nonzero.
    fn unknown<C: Symbols>(
        &mut self,
        coder: &mut C,
        plan: &mut Plan<'_>,
        (first, at): (usize, &mut usize),
        values: &mut [f32],
    ) -> Result<bool, DecodeError> {
        if self.classes[0].gaps.is_none() {
            *at = values.len();
        }
        while *at < values.len() {
            let passed = (self.classes[0].left as usize).min(values.len() - *at);
            self.classes[0].left -= passed as u32;
            *at += passed;
            if let Some(value) = values.get_mut(*at) {
                if !coder.ready() {
                    return Ok(false);
                }
                *value = self.value(coder, plan.level(first + *at), 0)?;
                self.gap(coder, plan, 0);
                *at += 1;
            }
        }
        Ok(true)
    }

    /// # Errors
    /// Where the last gaps do not end with the tensor.
    pub(crate) fn finish(&self) -> Result<(), DecodeError> {
        match self.classes.iter().all(|class| class.left == 0) {
            true => Ok(()),
            false => Err(DecodeError::StreamEnd),
        }
    }

    fn gap<C: Symbols>(&mut self, coder: &mut C, plan: &mut Plan<'_>, class: usize) {
        let class_ = &mut self.classes[class];
        if let Some(table) = &mut class_.gaps {
            class_.left = gap(coder, table, plan.gaps[class].next().unwrap_or_default());
        }
    }

    /// The value of an element that is not zero, where there was one of `old` 16ths of a step.
    fn value<C: Symbols>(&mut self, coder: &mut C, level: i32, old: i32) -> Result<f32, DecodeError> {
        let level = match old {
            0 => fresh(coder, self.fresh.get_or_insert_with(|| Box::new(Table::new())), level),
            _ => self.moved(coder, level, old),
        };
        match level {
            0 => Err(contradiction("a nonzero that is zero")),
            _ if level.abs() <= LEVELS => Ok(self.grid.value(level)),
            _ => Err(contradiction("a level beyond the grid")),
        }
    }

    /// A level that was `old` 16ths of a step before: its distance from there, seen in the old value's direction.
    fn moved<C: Symbols>(&mut self, coder: &mut C, level: i32, old: i32) -> i32 {
        let center = (old.abs() + 8) >> 4;
        let quarter = ((old.abs() + 8) & 15) as usize / 4;
        let size = match center {
            0..2 => 0,
            2..8 => 1,
            _ => 2,
        };
        let table = self.moved[quarter * 3 + size].get_or_insert_with(|| Box::new(Table::new()));
        (center + distance(coder, table, level * old.signum() - center)) * old.signum()
    }
}

/// The elements of a block that may not be zero, with what is known of them.
struct Open {
    elements: [u16; BLOCK],
    classes: [u8; BLOCK],
    sixteenths: [i32; BLOCK],
    count: usize,
}

impl Open {
    fn new() -> Box<Self> {
        Box::new(Self { elements: [0; BLOCK], classes: [0; BLOCK], sixteenths: [0; BLOCK], count: 0 })
    }

    /// Those from element `from` on. Magnitudes are compared as bit patterns: the same order.
    fn find(&mut self, gaps: &Gaps, old: &[f32], from: usize) {
        self.count = 0;
        let Some(context) = gaps.context else { return };
        let bits = |value: f32| value.to_bits() & !(1 << 31);
        let kept_from = context.threshold.map_or(0, |threshold| bits(f32::from_bits(threshold.0))).max(1);
        let open_from = if context.strict { kept_from } else { 0 };
        let mut count = 0;
        for (first, old) in (0..BLOCK).step_by(64).zip(old.chunks(64)) {
            let mut open = mask(old, |old| bits(old) >= open_from);
            if first < from {
                open &= u64::MAX.checked_shl((from - first) as u32).unwrap_or(0);
            }
            while open != 0 {
                self.elements[count] = (first as u32 + open.trailing_zeros()) as u16;
                open &= open - 1;
                count += 1;
            }
        }
        self.count = count;
        let sizes = gaps.sizes.map(bits);
        let known = self.classes.iter_mut().zip(&mut self.sixteenths);
        for (&element, (class, sixteenths)) in self.elements[..count].iter().zip(known) {
            let old = old[usize::from(element)];
            let size: u32 = sizes.iter().map(|&size| u32::from(bits(old) >= size)).sum();
            let kept = if bits(old) >= kept_from { SIZES as u32 } else { 0 };
            *class = (size + kept) as u8;
            *sixteenths = gaps.grid.sixteenths(old);
        }
    }

    /// Each: which element, its class, and the old value in 16ths of a step.
    fn each(&self) -> impl Iterator<Item = (usize, usize, i32)> {
        let known = self.classes.iter().zip(&self.sixteenths);
        let each = self.elements[..self.count].iter().zip(known);
        each.map(|(&element, (&class, &sixteenths))| (usize::from(element), usize::from(class), sixteenths))
    }
}

/// Which of up to 64 values it holds for, as bits. Done by the vector, as far as one bit from each of eight bytes.
fn mask(values: &[f32], holds: impl Fn(f32) -> bool) -> u64 {
    let mut flags = [0u8; 64];
    flags.iter_mut().zip(values).for_each(|(flag, &value)| *flag = u8::from(holds(value)));
    let (eights, _) = flags.as_chunks();
    let gathered = |eight: &[u8; 8]| u64::from_le_bytes(*eight).wrapping_mul(0x0102_0408_1020_4080) >> 56;
    eights.iter().rev().fold(0, |mask, eight| mask << 8 | gathered(eight))
}

impl Plan<'_> {
    fn level(&self, at: usize) -> i32 {
        self.levels.get(at).copied().unwrap_or_default()
    }
}

/// Up to 15 as they are; then the length, the two bits after the first in the symbol, the rest as it is.
fn gap<C: Symbols>(coder: &mut C, table: &mut Table<GAPS>, gap: u32) -> u32 {
    let length = gap.max(1).ilog2();
    let symbol = match gap {
        0..16 => gap,
        _ => 16 + 4 * (length - 4) + (gap >> (length - 2) & 3),
    };
    let symbol = coder.symbol(table, symbol as usize) as u32;
    if symbol < 16 {
        return symbol;
    }
    let low = (symbol - 16) / 4 + 2;
    (4 | (symbol - 16) & 3) << low | coder.raw(gap, low)
}

/// A magnitude up to 16 as it is; then the length, the bit after the first in the symbol, the rest as it is. The sign is
/// the symbol's last bit.
fn fresh<C: Symbols>(coder: &mut C, table: &mut Table<FRESH>, level: i32) -> i32 {
    let magnitude = level.unsigned_abs();
    let length = magnitude.max(1).ilog2();
    let size = match magnitude {
        0..=16 => magnitude.saturating_sub(1),
        _ => 16 + 2 * (length - 4) + (magnitude >> (length - 1) & 1),
    };
    let symbol = coder.symbol(table, (2 * size + u32::from(level < 0)) as usize) as u32;
    let size = symbol / 2;
    let magnitude = match size {
        0..16 => size + 1,
        _ => {
            let low = (size - 16) / 2 + 3;
            (2 | size & 1) << low | coder.raw(magnitude, low)
        }
    } as i32;
    if symbol & 1 == 1 { -magnitude } else { magnitude }
}

/// Distances of up to 7 as they are, with their signs; then the length and the sign in the symbol, the rest as it is.
fn distance<C: Symbols>(coder: &mut C, table: &mut Table<MOVED>, distance: i32) -> i32 {
    let magnitude = distance.unsigned_abs();
    let length = magnitude.max(1).ilog2();
    let negative = u32::from(distance < 0);
    let symbol = match magnitude {
        0 => 0,
        1..8 => 2 * magnitude - 1 + negative,
        _ => 15 + 2 * (length - 3) + negative,
    };
    let symbol = coder.symbol(table, symbol as usize) as u32;
    let (magnitude, negative) = match symbol {
        0 => return 0,
        1..15 => (symbol.div_ceil(2), symbol & 1 == 0),
        _ => {
            let length = (symbol - 15) / 2 + 3;
            (1 << length | coder.raw(magnitude, length), symbol & 1 == 0)
        }
    };
    if negative { -(magnitude as i32) } else { magnitude as i32 }
}
