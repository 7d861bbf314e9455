//! The old values of a tensor, read from the base in the order in which the new ones are made: as they lie there, cut
//! to index sets, or cut and refitted.

use secateur_common::caps;

use crate::base::Base;
use crate::gather::IndexSet;
use crate::manifest::contradiction;
use crate::refit::{self, Refit};
use crate::{ApplyError, DecodeError};

/// Elements that are read from the base at once where kept ones lie scattered.
const SPAN: usize = 4096;

/// What of the base is read, and how far.
pub(crate) enum OldReader {
    /// All elements, in order.
    Whole { next: usize },
    /// Those of a gather.
    Cut(Box<Cut>),
    /// Those of a gather whose inputs that went are made up for.
    Refit(Box<Rows>),
}

/// A gather: `lines` of units along the last axis that is cut, each line under an index of every axis before.
pub(crate) struct Cut {
    next: usize,
    /// The axes before the last that is cut: new length, base stride, and the set under which they are cut.
    outer: Vec<(usize, usize, Option<Units>)>,
    last: Units,
    /// Elements of a unit of the last axis.
    unit: usize,
    span: Vec<f32>,
}

/// Whole rows of the base, refitted one after the other.
pub(crate) struct Rows {
    rows: OldReader,
    set: usize,
    /// Elements that each input has in a row.
    unit: usize,
    map: Vec<f32>,
    old: Vec<f32>,
    new: Vec<f32>,
    /// How much of the new row was given.
    given: usize,
}

impl Rows {
    /// Fills the beginning of `values`, from one row; tells how many.
    fn fill(
        &mut self,
        base: &dyn Base,
        name: &str,
        sets: &[IndexSet],
        values: &mut [f32],
    ) -> Result<usize, ApplyError> {
        if self.given == self.new.len() {
            self.rows.fill(base, name, sets, &mut self.old)?;
            Refit::new(&sets[self.set], self.unit, &self.map).row(&self.old, &mut self.new);
            self.given = 0;
        }
        let count = values.len().min(self.new.len() - self.given);
        values[..count].copy_from_slice(&self.new[self.given..][..count]);
        self.given += count;
        Ok(count)
    }
}

/// An axis under an index set, each kept index standing for `block` neighbours.
struct Units {
    set: usize,
    kept: usize,
    block: usize,
}

impl OldReader {
    /// For a gather of a tensor of `shape`: for each axis 0, or one more than the number of a set. With it the new shape.
    ///
    /// # Errors
    /// Where they do not fit.
    pub(crate) fn cut(
        shape: &[usize],
        axes: &[usize],
        sets: &[IndexSet],
    ) -> Result<(Self, Vec<usize>), DecodeError> {
        let unfit = || contradiction("a gather that does not fit the base");
        if axes.len() != shape.len() {
            return Err(unfit());
        }
        let units = |axis: usize| {
            let Some(index) = axes[axis].checked_sub(1) else { return Ok(None) };
            let set = sets.get(index).ok_or_else(unfit)?;
            let block = shape[axis].checked_div(set.base).filter(|block| block * set.base == shape[axis]);
            let block = block.filter(|&block| block > 0).ok_or_else(unfit)?;
            Ok(Some(Units { set: index, kept: set.kept.len(), block }))
        };
        let end = axes.iter().rposition(|&set| set > 0).ok_or_else(unfit)?;
        let inner: usize = shape[end + 1..].iter().product();
        let mut outer = Vec::new();
        let mut new = Vec::new();
        for axis in 0..end {
            let units = units(axis)?;
            let length = units.as_ref().map_or(shape[axis], |units| units.kept * units.block);
            outer.push((length, shape[axis + 1..].iter().product(), units));
            new.push(length);
        }
        let last = units(end)?.ok_or_else(unfit)?;
        new.push(last.kept * last.block);
        new.extend_from_slice(&shape[end + 1..]);
        let unit = last.block * inner;
        Ok((Self::Cut(Box::new(Cut { next: 0, outer, last, unit, span: Vec::new() })), new))
    }

    /// For a refit of a tensor of `shape`, cut as with [`Self::cut`]; `map` has a row for each input that went.
    ///
    /// # Errors
    /// Where they do not fit.
    pub(crate) fn refit(
        shape: &[usize],
        axes: &[usize],
        sets: &[IndexSet],
        map: Vec<f32>,
    ) -> Result<(Self, Vec<usize>), DecodeError> {
        let unfit = || contradiction("a refit that does not fit the base");
        let (_, cut) = Self::cut(shape, axes, sets)?;
        let number = refit::inputs(axes).ok_or_else(unfit)?;
        let set = sets.get(number).ok_or_else(unfit)?;
        let outputs: Vec<_> =
            axes.iter().enumerate().map(|(at, &axis)| if at == 0 { axis } else { 0 }).collect();
        let rows = match axes[0] {
            0 => Self::Whole { next: 0 },
            _ => Self::cut(shape, &outputs, sets)?.0,
        };
        let (from, to): (usize, usize) = (shape[1..].iter().product(), cut[1..].iter().product());
        let unit = from.checked_div(set.base).ok_or_else(unfit)?;
        if map.len() != (set.base - set.kept.len()) * set.kept.len() || to != set.kept.len() * unit || to == 0
        {
            return Err(unfit());
        }
        let rows = Rows { rows, set: number, unit, map, old: vec![0.0; from], new: vec![0.0; to], given: to };
        Ok((Self::Refit(Box::new(rows)), cut))
    }

    /// The next old values.
    ///
    /// # Errors
    /// Where the base cannot be read.
    pub(crate) fn fill(
        &mut self,
        base: &dyn Base,
        name: &str,
        sets: &[IndexSet],
        values: &mut [f32],
    ) -> Result<(), ApplyError> {
        let mut filled = 0;
        while filled < values.len() {
            let rest = &mut values[filled..];
            filled += match self {
                Self::Whole { next } => {
                    base.floats(name, *next, rest).map_err(ApplyError::Base)?;
                    *next += rest.len();
                    rest.len()
                }
                Self::Cut(cut) => cut.fill(base, name, sets, rest)?,
                Self::Refit(rows) => rows.fill(base, name, sets, rest)?,
            };
        }
        Ok(())
    }
}

impl Cut {
    /// Fills the beginning of `values`, from one line of the base; tells how many.
    fn fill(
        &mut self,
        base: &dyn Base,
        name: &str,
        sets: &[IndexSet],
        values: &mut [f32],
    ) -> Result<usize, ApplyError> {
        let line = self.last.kept * self.unit;
        let (number, within) = (self.next / line, self.next % line);
        let start = self.line(number, sets);
        let kept = &sets[self.last.set].kept;
        let (first, offset) = (within / self.unit, within % self.unit);
        let from = start + kept[first] * self.unit + offset;
        let filled = if self.unit >= SPAN {
            let count = values.len().min(self.unit - offset);
            base.floats(name, from, &mut values[..count]).map_err(ApplyError::Base)?;
            count
        } else {
            // One read for as many units as lie within a span; then those that are kept.
            let within = kept[first..].partition_point(|&at| start + (at + 1) * self.unit <= from + SPAN);
            let units = &kept[first..first + within.max(1)];
            let needed = units.len().min((values.len() + offset).div_ceil(self.unit));
            let units = &units[..needed];
            let until = start + (units.last().unwrap_or(&0) + 1) * self.unit;
            self.span.resize(until - from, 0.0);
            base.floats(name, from, &mut self.span).map_err(ApplyError::Base)?;
            let mut filled = 0;
            for &at in units {
                let begin = (start + at * self.unit).max(from);
                let count = (start + (at + 1) * self.unit - begin).min(values.len() - filled);
                values[filled..filled + count].copy_from_slice(&self.span[begin - from..][..count]);
                filled += count;
            }
            filled
        };
        self.next += filled;
        Ok(filled)
    }

    /// Where line `number` begins in the base.
    fn line(&self, mut number: usize, sets: &[IndexSet]) -> usize {
        let mut start = 0;
        for (length, stride, units) in self.outer.iter().rev() {
            let index = number % length;
            number /= length;
            let index = units.as_ref().map_or(index, |units| {
                sets[units.set].kept[index / units.block] * units.block + index % units.block
            });
            start += index * stride;
        }
        start
    }
}

/// Nonzeros of the base's tensor of that name; 0 where there is none, or it has no floats.
///
/// # Errors
/// Where the base cannot be read.
pub(crate) fn nonzeros(base: &dyn Base, name: &str) -> Result<u64, ApplyError> {
    let Some((secateur_model::DType::F32, shape)) = base.tensor(name) else { return Ok(0) };
    let count: usize = shape.iter().product();
    let mut values = [0.0; SPAN];
    let mut nonzeros = 0;
    for first in (0..count.min(caps::TENSOR_ELEMENTS)).step_by(SPAN) {
        let values = &mut values[..SPAN.min(count - first)];
        base.floats(name, first, values).map_err(ApplyError::Base)?;
        nonzeros += count_nonzeros(values);
    }
    Ok(nonzeros)
}

/// How many of a few values are not zero.
pub(crate) fn count_nonzeros(values: &[f32]) -> u64 {
    values
        .chunks(SPAN)
        .map(|values| values.iter().map(|&value| u32::from(value != 0.0)).sum::<u32>())
        .map(u64::from)
        .sum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use secateur_model::{Graph, Tensor};

    use super::*;
    use crate::gather;

    proptest! {
        #[test]
        fn a_gather_is_read_as_it_is_cut(
            dims in prop::collection::vec(1usize..7, 1..4), inner in prop_oneof![Just(1usize), Just(50), Just(2500)],
            seed in any::<u64>(), piece in 1usize..9_000,
        ) {
            let shape = [&dims[..], &[inner][..]].concat();
            let count: usize = shape.iter().product();
            let tensor = Tensor::f32(shape.clone(), (0..count).map(|at| at as f32).collect()).unwrap();
            let mut sets = Vec::new();
            let mut axes = Vec::new();
            for (axis, &dim) in shape.iter().enumerate() {
                let kept: Vec<usize> = (0..dim).filter(|at| seed >> ((at + 7 * axis) % 64) & 1 == 1).collect();
                let cut = axis == 0 || seed >> (60 - axis) & 1 == 1;
                axes.push(if cut { sets.len() + 1 } else { 0 });
                sets.extend(cut.then_some(IndexSet { base: dim, kept }));
            }
            let expected = gather::cut(&tensor, &axes, &sets).unwrap();
            let (mut reader, shape) = OldReader::cut(&shape, &axes, &sets).unwrap();
            prop_assert_eq!(&shape[..], expected.shape());
            let graph = Graph { initializers: [("w".to_owned(), tensor)].into_iter().collect(), ..Graph::default() };
            let mut read = vec![0.0; expected.len()];
            for piece in read.chunks_mut(piece) {
                reader.fill(&graph, "w", &sets, piece).unwrap();
            }
            prop_assert_eq!(&read[..], expected.as_f32().unwrap());
        }
    }
}
