//! One tensor to and from its coded stream. Encoder and decoder go through the same models in the same order; the
//! models' state is carried from tensor to tensor, so that many small tensors learn from each other.

use secateur_model::Tensor;

use crate::DecodeError;
use crate::entry::Context;
use crate::floats::{self, Floats};
use crate::grid::Grid;
use crate::levels::{self, Levels};
use crate::range::{Decoder, Encoder};

/// The state of the models.
#[derive(Clone)]
pub(crate) struct Models {
    levels: Levels,
    floats: Floats,
}

/// The old values of a tensor, and how they serve as context.
#[derive(Clone, Copy)]
pub(crate) struct Known<'a> {
    pub(crate) context: Context,
    pub(crate) old: &'a [f32],
}

/// The longest row of the models; longer ones are broken.
const COLUMNS: usize = 1 << 16;

impl Models {
    pub(crate) fn new() -> Self {
        Self { levels: Levels::new(), floats: Floats::new() }
    }

    /// The stream of the levels of a tensor of `shape`.
    pub(crate) fn encode_levels(
        &mut self,
        shape: &[usize],
        grid: Grid,
        levels: &[i32],
        known: Option<Known<'_>>,
    ) -> Vec<u8> {
        let mut encoder = Encoder::new();
        let strict = known.is_some_and(|known| known.context.strict);
        let geometry = (levels.len(), columns(shape));
        let old = |at| old_level(grid, known, at);
        let coded = self.levels.tensor(&mut encoder, geometry, strict, |at| levels[at], old, |_| ());
        debug_assert!(coded.is_ok(), "an encoder does not run out of bytes");
        encoder.finish()
    }

    /// The values of a tensor of `shape` on a grid.
    ///
    /// # Errors
    /// Where the stream is not exactly that of such a tensor.
    pub(crate) fn decode_levels(
        &mut self,
        shape: &[usize],
        grid: Grid,
        known: Option<Known<'_>>,
        stream: &[u8],
    ) -> Result<Vec<f32>, DecodeError> {
        let mut decoder = Decoder::new(stream);
        let strict = known.is_some_and(|known| known.context.strict);
        let geometry = (shape.iter().product(), columns(shape));
        let old = |at| old_level(grid, known, at);
        let mut values = Vec::new(); // grows with what the stream really holds
        self.levels.tensor(
            &mut decoder,
            geometry,
            strict,
            |_| 0,
            old,
            |row| {
                values.extend(row.iter().map(|&level| grid.value(level)));
            },
        )?;
        decoder.finish()?;
        Ok(values)
    }

    /// The stream of exact floats.
    pub(crate) fn encode_floats(
        &mut self,
        shape: &[usize],
        values: &[f32],
        known: Option<Known<'_>>,
    ) -> Vec<u8> {
        let mut encoder = Encoder::new();
        let geometry = (values.len(), columns(shape));
        let old = |at| old_float(known, at);
        let coded = self.floats.tensor(&mut encoder, geometry, |at| values[at], old, |_| ());
        debug_assert!(coded.is_ok(), "an encoder does not run out of bytes");
        encoder.finish()
    }

    /// Exact floats.
    ///
    /// # Errors
    /// Where the stream is not exactly that of such a tensor.
    pub(crate) fn decode_floats(
        &mut self,
        shape: &[usize],
        known: Option<Known<'_>>,
        stream: &[u8],
    ) -> Result<Vec<f32>, DecodeError> {
        let mut decoder = Decoder::new(stream);
        let geometry = (shape.iter().product(), columns(shape));
        let old = |at| old_float(known, at);
        let mut values = Vec::new();
        self.floats.tensor(&mut decoder, geometry, |_| 0.0, old, |value| values.push(value))?;
        decoder.finish()?;
        Ok(values)
    }
}

fn old_level(grid: Grid, known: Option<Known<'_>>, at: usize) -> levels::Old {
    let nothing = levels::Old { sixteenths: 0, kept: false };
    known.map_or(nothing, |known| match known.keeps(at) {
        false if known.context.strict => nothing, // not asked for
        kept => levels::Old { sixteenths: grid.sixteenths(known.old[at]), kept },
    })
}

fn old_float(known: Option<Known<'_>>, at: usize) -> floats::Old {
    known.map_or(floats::Old { value: 0.0, kept: false }, |known| floats::Old {
        value: known.old[at],
        kept: known.keeps(at),
    })
}

impl Known<'_> {
    fn keeps(&self, at: usize) -> bool {
        self.old[at] != 0.0 && self.context.threshold.is_none_or(|threshold| threshold.keeps(self.old[at]))
    }
}

/// The elements after the first axis make a row: the weights of one output. A vector is one row.
fn columns(shape: &[usize]) -> usize {
    let row: usize = match shape {
        [] => 1,
        [length] => *length,
        [_, row @ ..] => row.iter().product(),
    };
    row.clamp(1, COLUMNS)
}

/// Nonzeros of a float tensor; 0 for others.
pub(crate) fn nonzeros(tensor: &Tensor) -> u64 {
    tensor.as_f32().map_or(0, |values| values.iter().filter(|&&value| value != 0.0).count() as u64)
}
