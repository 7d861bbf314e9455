//! Convolutions over padded planes: each output channel is a sum of shifted input vectors. Dense, sparse, in blocks,
//! 1×1, k×k and depthwise are all this, and differ in the rows' taps only.

use super::bodies::TileArgs;
use super::simd::LANES;
use super::{Aligned, Clamp, Isa};

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

/// The places that an output plane is computed at, each of eight positions.
#[derive(Clone, Debug, Default)]
pub(crate) struct Grid {
    pub(crate) places: Vec<Place>,
    /// Of the eight, those that are written: less than eight on planes that are narrower.
    pub(crate) lanes: usize,
}

/// Vectors that a tile of `rows` rows has at most: what fits sixteen registers.
pub(crate) const fn max_width(rows: usize) -> usize {
    match rows {
        1 => 8,
        2 => 5,
        3 => 4,
        4 => 3,
        5 | 6 => 2,
        _ => 1,
    }
}

/// Rows that share their taps.
struct Block {
    rows: std::ops::Range<usize>,
    taps: std::ops::Range<usize>,
    weights: usize,
}

/// A packed convolution.
pub(crate) struct Convolution {
    blocks: Vec<Block>,
    offsets: Vec<i32>,
    weights: Aligned,
    bias: Vec<f32>,
    output_rows: Vec<u32>,
    residual_rows: Vec<u32>,
    grid: Grid,
    clamp: Clamp,
    /// Vectors of a tile.
    width: usize,
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
    pub(crate) fn new(rows: &[Row], groups: &[Vec<usize>], grid: Grid, clamp: Clamp) -> Self {
        let height = groups.iter().map(Vec::len).max().unwrap_or(1);
        let mut packed = Self {
            blocks: Vec::new(),
            offsets: Vec::new(),
            weights: Aligned::default(),
            bias: Vec::new(),
            output_rows: Vec::new(),
            residual_rows: Vec::new(),
            clamp,
            width: max_width(height),
            places_first: false,
            input_len: 0,
            output_len: 0,
            residual_len: 0,
            grid,
        };
        let mut weights = Vec::new();
        for group in groups {
            let first = packed.bias.len();
            let taps = packed.offsets.len();
            let start = weights.len();
            packed.offsets.extend(union(rows, group));
            let offsets = &packed.offsets[taps..];
            weights.resize(start + offsets.len() * group.len(), 0.0);
            for (lane, &row) in group.iter().enumerate() {
                let mut at = 0;
                for &(offset, weight) in &rows[row].taps {
                    while offsets[at] != offset {
                        at += 1;
                    }
                    weights[start + at * group.len() + lane] = weight;
                }
                packed.bias.push(rows[row].bias);
                packed.output_rows.push(rows[row].output);
                packed.residual_rows.push(rows[row].residual);
            }
            packed.blocks.push(Block {
                rows: first..packed.bias.len(),
                taps: taps..packed.offsets.len(),
                weights: start,
            });
        }
        packed.weights = Aligned::from_slice(&weights);
        packed.measure();
        packed
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
        (self.input_len, self.output_len, self.residual_len) = (
            last as usize + LANES,
            reach(&self.output_rows, |place| place.output, self.grid.lanes),
            reach(&self.residual_rows, |place| place.residual, LANES),
        );
        self.places_first = self.weights.len() < (last - first) as usize;
    }

    /// Bytes that it holds.
    pub(crate) fn bytes(&self) -> usize {
        4 * (self.weights.len() + self.offsets.len() + 3 * self.bias.len()) + 12 * self.grid.places.len()
    }

    /// Computes all rows at all places; `residual`, where there is one, is added before the clamp.
    ///
    /// # Panics
    /// Where a slice is shorter than the plan that it was packed for.
    pub(crate) fn run(&self, isa: Isa, input: &[f32], residual: Option<&[f32]>, output: &mut [f32]) {
        assert!(input.len() >= self.input_len && output.len() >= self.output_len);
        assert!(residual.is_none_or(|residual| residual.len() >= self.residual_len));
        let count = self.grid.places.len();
        let tiles = count.div_ceil(self.width);
        let span = |tile: usize| count * tile / tiles..count * (tile + 1) / tiles;
        let mut one = |block: &Block, places: std::ops::Range<usize>| {
            let tile = isa.tile(block.rows.len(), places.len());
            let args = TileArgs {
                input: input.as_ptr(),
                offsets: self.offsets[block.taps.clone()].as_ptr(),
                weights: self.weights[block.weights..].as_ptr(),
                len: block.taps.len(),
                bias: self.bias[block.rows.clone()].as_ptr(),
                output: output.as_mut_ptr(),
                output_rows: self.output_rows[block.rows.clone()].as_ptr(),
                residual: residual.map_or(std::ptr::null(), <[f32]>::as_ptr),
                residual_rows: self.residual_rows[block.rows.clone()].as_ptr(),
                places: self.grid.places[places].as_ptr(),
                lanes: self.grid.lanes,
                clamp: self.clamp,
            };
            // SAFETY: `measure` took the extremes of all offsets, places and rows, and the asserts above hold them
            // against the slices; the block's own arrays are cut to its lengths.
            unsafe { tile(&args) }
        };
        if self.places_first {
            for tile in 0..tiles {
                self.blocks.iter().for_each(|block| one(block, span(tile)));
            }
        } else {
            for block in &self.blocks {
                (0..tiles).for_each(|tile| one(block, span(tile)));
            }
        }
    }
}

/// All offsets of some rows, ascending.
fn union(rows: &[Row], group: &[usize]) -> Vec<i32> {
    let mut offsets: Vec<i32> =
        group.iter().flat_map(|&row| rows[row].taps.iter().map(|tap| tap.0)).collect();
    offsets.sort_unstable();
    offsets.dedup();
    offsets
}
