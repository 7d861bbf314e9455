//! The models of coded tensors, and the encoder's side of them. Encoder and decoder go through the same models in the
//! same order; the models' state is carried from tensor to tensor, so that many small tensors learn from each other.

use secateur_model::Tensor;

use crate::entry::Context;
use crate::floats::{self, Floats, Recent};
use crate::grid::Grid;
use crate::levels::{self, Levels};
use crate::manifest::FORMAT;
use crate::range::Encoder;
use crate::trace::Trace;

/// The state of the models; each is made when it is first needed.
#[derive(Clone, Default)]
pub(crate) struct Models {
    levels: Option<Levels>,
    /// Of refits' maps.
    maps: Option<Levels>,
    floats: Option<Floats>,
}

/// Old values, and how they serve as context.
#[derive(Clone, Copy)]
pub(crate) struct Known<'a> {
    pub(crate) context: Context,
    pub(crate) old: &'a [f32],
}

/// The longest row of the models.
const COLUMNS: usize = 1 << 12;

impl Models {
    pub(crate) fn levels(&mut self) -> &mut Levels {
        self.levels.get_or_insert_with(Levels::new)
    }

    pub(crate) fn maps(&mut self) -> &mut Levels {
        self.maps.get_or_insert_with(Levels::new)
    }

    pub(crate) fn floats(&mut self) -> &mut Floats {
        self.floats.get_or_insert_with(Floats::new)
    }

    /// The stream of the levels of a tensor of `shape`; none if it comes to more than `limit` bytes.
    pub(crate) fn encode_levels(
        &mut self,
        shape: &[usize],
        (grid, levels): (Grid, &[i32]),
        known: Option<Known<'_>>,
        limit: usize,
    ) -> Option<Vec<u8>> {
        let mut encoder = Encoder::new();
        let strict = known.is_some_and(|known| known.context.strict);
        let columns = columns(FORMAT, shape);
        let mut trace = Trace::new(columns.min(levels.len()));
        for (row, levels) in levels.chunks(columns).enumerate() {
            let old = |column| old_level(grid, known, row * columns + column);
            self.levels().row(&mut encoder, &mut trace, (&mut 0, levels.len()), strict, levels, old);
            trace.end_row();
            if encoder.written() > limit {
                return None;
            }
        }
        Some(encoder.finish())
    }

    /// The stream of the levels of a refit's map, a row for each input that went.
    pub(crate) fn encode_map(&mut self, levels: &[i32], columns: usize) -> Vec<u8> {
        let mut encoder = Encoder::new();
        let mut trace = Trace::new(columns);
        for levels in levels.chunks(columns) {
            self.maps().row(&mut encoder, &mut trace, (&mut 0, columns), false, levels, |_| levels::NOTHING);
            trace.end_row();
        }
        encoder.finish()
    }

    /// The stream of exact floats; none if it comes to more than `limit` bytes.
    pub(crate) fn encode_floats(
        &mut self,
        shape: &[usize],
        values: &[f32],
        known: Option<Known<'_>>,
        limit: usize,
    ) -> Option<Vec<u8>> {
        let mut encoder = Encoder::new();
        let columns = columns(FORMAT, shape);
        let (mut trace, mut recent) = (Trace::new(columns.min(values.len())), Recent::default());
        for (row, values) in values.chunks(columns).enumerate() {
            let old = |column| old_float(known, row * columns + column);
            let extent = (&mut 0, values.len());
            self.floats().row(&mut encoder, &mut trace, &mut recent, extent, values, old, |_| ());
            trace.end_row();
            if encoder.written() > limit {
                return None;
            }
        }
        Some(encoder.finish())
    }
}

pub(crate) fn old_level(grid: Grid, known: Option<Known<'_>>, at: usize) -> levels::Old {
    known.map_or(levels::NOTHING, |known| match known.context.keeps(known.old[at]) {
        false if known.context.strict => levels::NOTHING, // not asked for
        kept => levels::Old { sixteenths: grid.sixteenths(known.old[at]), kept },
    })
}

pub(crate) fn old_float(known: Option<Known<'_>>, at: usize) -> floats::Old {
    known.map_or(floats::Old { value: 0.0, kept: false }, |known| floats::Old {
        value: known.old[at],
        kept: known.context.keeps(known.old[at]),
    })
}

/// The elements after the first axis make a row: the weights of one output. A vector is one row. Long rows are cut into
/// equal parts, so that what a decoder keeps of a row is little; in version 1 of the format, after many elements.
pub(crate) fn columns(format: u8, shape: &[usize]) -> usize {
    let row: usize = match shape {
        [] => 1,
        [length] => *length,
        [_, row @ ..] => row.iter().product(),
    };
    match format {
        1 => row.clamp(1, 1 << 16),
        _ => row.div_ceil(row.div_ceil(COLUMNS).max(1)).max(1),
    }
}

/// Nonzeros of a float tensor; 0 for others.
pub(crate) fn nonzeros(tensor: &Tensor) -> u64 {
    tensor.as_f32().map_or(0, |values| values.iter().filter(|&&value| value != 0.0).count() as u64)
}
