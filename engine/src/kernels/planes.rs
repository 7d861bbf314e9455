//! Convolutions over padded planes: each output channel is a sum of shifted input vectors. Dense, sparse, in blocks,
//! 1×1, k×k and depthwise are all this, and differ in the rows' taps only.

use std::ops::Range;

use super::bodies::{Block, TileArgs};
use super::{Aligned, Clamp, Vectors};

pub(crate) use super::bodies::Place;

/// One output channel.
#[derive(Clone, Debug, Default)]
pub(crate) struct Row {
    /// Offsets from a place's input, ascending, each with its weight.
    pub(crate) taps: Vec<(i32, f32)>,
    pub(crate) bias: f32,
    /// Where the channel's plane starts in the output.
    pub(crate) output: u32,
    /// Where what is added to it starts.
    pub(crate) residual: u32,
}

/// The places that an output plane is computed at, each of a vector of positions.
#[derive(Clone, Debug, Default)]
pub(crate) struct Grid {
    pub(crate) places: Vec<Place>,
    /// Of its lanes, those that are written: less than all on planes that are narrower.
    pub(crate) lanes: usize,
    /// Of those, the lanes that are positions, of all places and of the last; zeros are written behind them.
    pub(crate) kept: [usize; 2],
    /// Whether the columns between rows are written as well.
    pub(crate) spills: bool,
}

/// What the lanes of a vector are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Form {
    /// Positions side by side; a tile has some rows.
    Positions,
    /// The same, in tiles of two rows whose taps are kept apart; vectors lie evenly.
    Pairs,
    /// Output channels; a tile has some positions, each a place of its own.
    Channels,
}

impl Form {
    /// Places that a tile of `rows` rows has at most: what fits the registers.
    pub(crate) fn width(self, rows: usize, vectors: Vectors) -> usize {
        let lanes = vectors.lanes();
        match (self, vectors.registers() >= 32) {
            (Self::Positions, false) => [8, 8, 5, 4, 3, 2, 2, 1, 1][rows],
            (Self::Positions, true) => [8, 8, 8, 8, 6, 5, 4, 3, 3][rows],
            (Self::Pairs, false) => 6,
            (Self::Pairs, true) => 14,
            (Self::Channels, false) => [8, 8, 6, 4, 2][rows.div_ceil(lanes)],
            (Self::Channels, true) => [12, 12, 12, 8, 6][rows.div_ceil(lanes)],
        }
    }

    /// Rows of a block of `rows` rows, padding included.
    fn padded(self, rows: usize, lanes: usize) -> usize {
        match self {
            Self::Positions => rows,
            Self::Pairs => 2,
            Self::Channels => rows.next_multiple_of(lanes),
        }
    }
}

/// A packed convolution.
pub(crate) struct Convolution {
    vectors: Vectors,
    form: Form,
    blocks: Vec<Block>,
    offsets: Vec<i32>,
    weights: Aligned,
    bias: Vec<f32>,
    output_rows: Vec<u32>,
    residual_rows: Vec<u32>,
    grid: Grid,
    clamp: Clamp,
    /// Places of each tile.
    tiles: Vec<Range<usize>>,
    /// Floats from a vector's input to that of the second next, of pairs.
    step: usize,
    /// Whether all rows visit some places before the next places come: where the inputs are larger than the weights.
    places_first: bool,
    /// Lengths that the slices must have.
    input_len: usize,
    output_len: usize,
    residual_len: usize,
}

impl Convolution {
    /// Packs `rows`, each of `groups` naming those of one block: they share the union of their taps.
    ///
    /// # Panics
    /// Where a tap of a place lies before the input's start: a bug of the planner.
    pub(crate) fn new(
        vectors: Vectors,
        form: Form,
        rows: &[Row],
        groups: &[Vec<usize>],
        grid: Grid,
        clamp: Clamp,
    ) -> Self {
        let height = groups.iter().map(Vec::len).max().unwrap_or(1);
        let width = form.width(height, vectors);
        let step = step(&grid.places);
        let tiles = match form {
            Form::Pairs => even(&grid.places, step).flat_map(|run| split(run, width)).collect(),
            _ => split(0..grid.places.len(), width).collect(),
        };
        let mut packed = Self {
            vectors,
            form,
            blocks: Vec::new(),
            offsets: Vec::new(),
            weights: Aligned::default(),
            bias: Vec::new(),
            output_rows: Vec::new(),
            residual_rows: Vec::new(),
            clamp,
            tiles,
            step,
            places_first: false,
            input_len: 0,
            output_len: 0,
            residual_len: 0,
            grid,
        };
        let mut weights = Vec::new();
        for group in groups {
            let (first, taps, start) = (packed.bias.len(), packed.offsets.len(), weights.len());
            let split = match form {
                Form::Pairs => packed.pack_pair(rows, group, &mut weights),
                _ => packed.pack_union(rows, group, &mut weights),
            };
            let last = group.last().copied().unwrap_or_default();
            let padded = || {
                group
                    .iter()
                    .copied()
                    .chain(std::iter::repeat(last))
                    .take(form.padded(group.len(), vectors.lanes()))
            };
            packed.bias.extend(padded().map(|row| rows[row].bias));
            packed.output_rows.extend(padded().map(|row| rows[row].output));
            packed.residual_rows.extend(padded().map(|row| rows[row].residual));
            let len = packed.offsets.len() - taps;
            packed.blocks.push(Block { first, rows: group.len(), taps, len, split, weights: start });
        }
        packed.weights = Aligned::from_slice(&weights);
        packed.measure();
        packed
    }

    /// Packs the union of the rows' taps, each with a weight for every row.
    fn pack_union(&mut self, rows: &[Row], group: &[usize], weights: &mut Vec<f32>) -> [usize; 2] {
        let (start, stride) = (weights.len(), self.form.padded(group.len(), self.vectors.lanes()));
        let offsets = union(rows, group);
        weights.resize(start + offsets.len() * stride, 0.0);
        for (lane, &row) in group.iter().enumerate() {
            let mut at = 0;
            for &(offset, weight) in &rows[row].taps {
                while offsets[at] != offset {
                    at += 1;
                }
                weights[start + at * stride + lane] = weight;
            }
        }
        self.offsets.extend(offsets);
        [0; 2]
    }

    /// Packs the taps that both rows have, then those of the first alone, then those of the second; a row without
    /// another is a pair with itself.
    fn pack_pair(&mut self, rows: &[Row], group: &[usize], weights: &mut Vec<f32>) -> [usize; 2] {
        let pair = [group[0], group[group.len() - 1]].map(|row| &rows[row].taps);
        let find = |row: &[(i32, f32)], offset: i32| row.binary_search_by_key(&offset, |tap| tap.0);
        let (both, first): (Vec<_>, Vec<_>) = pair[0].iter().partition(|tap| find(pair[1], tap.0).is_ok());
        let second = pair[1].iter().filter(|tap| find(pair[0], tap.0).is_err());
        for &(offset, weight) in &both {
            let other = find(pair[1], offset).map_or(0.0, |at| pair[1][at].1);
            self.offsets.push(offset);
            weights.extend([weight, other]);
        }
        for &(offset, weight) in first.iter().chain(second) {
            self.offsets.push(offset);
            weights.push(weight);
        }
        [both.len(), first.len()]
    }

    /// Finds how long the slices must be, and which loop goes outside.
    fn measure(&mut self) {
        let (mut first, mut last) = (0i64, 0i64);
        if let (Some(&low), Some(&high)) = (self.offsets.iter().min(), self.offsets.iter().max()) {
            let places = || self.grid.places.iter().map(|place| i64::from(place.input));
            first = places().min().unwrap_or(0) + i64::from(low);
            last = places().max().unwrap_or(0) + i64::from(high);
        }
        assert!(first >= 0, "a tap before the input's start");
        let reach = |rows: &[u32], place: fn(&Place) -> u32, lanes: usize| {
            let row = rows.iter().max().map_or(0, |&row| row as usize);
            row + self.grid.places.iter().map(place).max().map_or(0, |place| place as usize) + lanes
        };
        let read = if self.form == Form::Channels { 1 } else { self.vectors.lanes() };
        (self.input_len, self.output_len, self.residual_len) = (
            last as usize + read,
            reach(&self.output_rows, |place| place.output, self.grid.lanes),
            reach(&self.residual_rows, |place| place.residual, read),
        );
        self.places_first = self.weights.len() < (last - first) as usize;
    }

    /// Whether it writes the columns between rows, which must then be cleared.
    pub(crate) fn spills(&self) -> bool {
        self.grid.spills
    }

    /// Form and height of the tallest block.
    pub(crate) fn name(&self) -> String {
        let rows = self.blocks.iter().map(|block| block.rows).max().unwrap_or(0);
        let lanes = self.vectors.lanes();
        match self.form {
            Form::Positions => format!("{rows} × {lanes} positions"),
            Form::Pairs => format!("pairs × {lanes} positions"),
            Form::Channels => format!("{rows} channels in {lanes} lanes"),
        }
    }

    /// Multiply-accumulates of a run: those by weights that are not zero at positions that are asked for, `positions`
    /// of each row, and all that the kernel does.
    pub(crate) fn macs(&self, positions: usize) -> [u64; 2] {
        let nonzero = self.weights.iter().filter(|weight| **weight != 0.0).count() * positions;
        let read = if self.form == Form::Channels { 1 } else { self.vectors.lanes() };
        [nonzero as u64, (self.weights.len() * self.grid.places.len() * read) as u64]
    }

    /// Bytes that it holds.
    pub(crate) fn bytes(&self) -> usize {
        4 * (self.weights.len() + self.offsets.len() + 3 * self.bias.len()) + 12 * self.grid.places.len()
    }

    /// Computes all rows at all places; `residual`, where there is one, is added before the clamp.
    ///
    /// # Panics
    /// Where a slice is shorter than the plan that it was packed for.
    pub(crate) fn run(&self, input: &[f32], residual: Option<&[f32]>, output: &mut [f32]) {
        assert!(input.len() >= self.input_len && output.len() >= self.output_len);
        assert!(residual.is_none_or(|residual| residual.len() >= self.residual_len));
        let slices =
            (input.as_ptr(), residual.map_or(std::ptr::null(), <[f32]>::as_ptr), output.as_mut_ptr());
        let some = |blocks: &[Block], places: &Range<usize>| {
            // SAFETY: `measure` took the extremes of all offsets, places and rows, and the asserts above hold them
            // against the slices.
            unsafe { self.tile(blocks, places, slices) }
        };
        for alike in self.blocks.chunk_by(|a, b| a.rows == b.rows) {
            if self.places_first {
                self.tiles.iter().for_each(|places| some(alike, places));
            } else {
                alike.chunks(1).for_each(|one| self.tiles.iter().for_each(|places| some(one, places)));
            }
        }
    }

    /// Runs one tile of some blocks of one height.
    ///
    /// # Safety
    /// The slices (input, residual or null, output) are as long as `measure` says.
    unsafe fn tile(
        &self,
        blocks: &[Block],
        places: &Range<usize>,
        (input, residual, output): (*const f32, *const f32, *mut f32),
    ) {
        let (Vectors(tiles), width) = (self.vectors, places.len());
        let [all, last] = self.grid.kept;
        let rows = blocks[0].rows;
        let run = match self.form {
            Form::Positions => (tiles.tile)(rows, width),
            Form::Pairs => (tiles.pair)(width, self.step),
            Form::Channels => (tiles.channels)(width, rows.div_ceil(tiles.lanes)),
        };
        let args = TileArgs {
            blocks,
            input,
            offsets: self.offsets.as_ptr(),
            weights: self.weights.as_ptr(),
            bias: self.bias.as_ptr(),
            output,
            output_rows: self.output_rows.as_ptr(),
            residual,
            residual_rows: self.residual_rows.as_ptr(),
            places: self.grid.places.as_ptr().wrapping_add(places.start),
            written: self.grid.lanes,
            kept: [all, if places.end == self.grid.places.len() { last } else { all }],
            clamp: self.clamp,
        };
        // SAFETY: the caller's, and `new` gave each block as many taps, weights and rows as it says.
        unsafe { run(&args) }
    }
}

/// Floats from a vector's input to that of the second next, where vectors lie evenly.
fn step(places: &[Place]) -> usize {
    match places {
        [first, _, third, ..] if third.input == first.input + 32 => 32,
        _ => 16,
    }
}

/// Runs of places whose inputs are `step` floats apart, two by two; two places always are.
fn even(places: &[Place], step: usize) -> impl Iterator<Item = Range<usize>> {
    let mut start = 0;
    std::iter::from_fn(move || {
        let from = &places[start..];
        let apart = |three: &[Place]| three[2].input as usize == three[0].input as usize + step;
        let len = from.windows(3).take_while(|three| apart(three)).count() + 2;
        let run = start..(start + len).min(places.len());
        start = run.end;
        (!run.is_empty()).then_some(run)
    })
}

/// Equal parts of at most `width`.
fn split(run: Range<usize>, width: usize) -> impl Iterator<Item = Range<usize>> {
    let parts = run.len().div_ceil(width);
    let at = move |part: usize| run.start + run.len() * part / parts;
    (0..parts).map(move |part| at(part)..at(part + 1))
}

/// All offsets of some rows, ascending.
pub(crate) fn union(rows: &[Row], group: &[usize]) -> Vec<i32> {
    let mut offsets: Vec<i32> =
        group.iter().flat_map(|&row| rows[row].taps.iter().map(|tap| tap.0)).collect();
    offsets.sort_unstable();
    offsets.dedup();
    offsets
}
