//! A convolution's kernel: its taps as offsets into the input's planes, the places it is computed at, and the ways to
//! pack it that are worth a trial.

use std::ops::Range;

use secateur_model::eval::Window;

use super::layout::{Gap, Layout, Shape};
use crate::kernels::{Clamp, Convolution, Form, Grid, Isa, Place, Row, union};

/// Lanes of a place.
const LANES: usize = 8;

/// A convolution and the layouts that it runs between.
pub(super) struct Plan<'p> {
    pub(super) weights: &'p [f32],
    pub(super) bias: &'p [f32],
    pub(super) window: Window,
    pub(super) group: usize,
    /// Of the input, or of its phases where the window has strides.
    pub(super) input: Layout,
    pub(super) output: Layout,
    /// Of what is added.
    pub(super) residual: Option<Layout>,
}

/// Where a tap finds its input along one axis: the phase, and the rows or columns from the output's place.
fn tap(window: &Window, axis: usize, k: usize) -> (usize, isize) {
    let at = (k * window.dilation[axis]) as isize - window.pad[axis] as isize;
    let stride = window.stride[axis] as isize;
    (at.rem_euclid(stride) as usize, at.div_euclid(stride))
}

/// The gap that a convolution asks of its input (or the input's phases) of shape `input`.
pub(super) fn gap(window: &Window, input: Shape) -> Gap {
    let along = |axis: usize, length: usize| {
        let taps = (0..window.kernel[axis]).map(|k| tap(window, axis, k).1);
        let (low, high) = taps.fold((0, 0), |(low, high): (isize, isize), at| (low.min(at), high.max(at)));
        let behind = window.output[axis] as isize - 1 + high - (length as isize - 1);
        behind.max(-low).max(0) as usize
    };
    Gap { rows: along(0, input.h), columns: along(1, input.w), lines: false }
}

/// Whether a convolution would rather have each row of its input on a cache line of its own: where most inputs serve one
/// row or two, loads are what it waits for, and one that crosses a line counts twice.
pub(super) fn wants_lines(weights: &[f32], window: &Window, group: usize) -> bool {
    let zeros = weights.iter().filter(|weight| **weight == 0.0).count();
    let width = window.output[1];
    window.kernel[1] > 1
        && (zeros * 4 > weights.len() || group > 1)
        && width.next_multiple_of(LANES) - width <= 2
}

impl Plan<'_> {
    /// Each output channel with the weights that are not zero.
    fn rows(&self) -> Vec<Row> {
        let [kh, kw] = self.window.kernel;
        let outputs = self.bias.len();
        let phases = self.window.stride[0] * self.window.stride[1];
        let channels = self.input.shape.c / phases;
        let (inputs, share) = (channels / self.group, outputs / self.group);
        let row = inputs * kh * kw;
        let offset = |channel: usize, ky: usize, kx: usize| {
            let ((py, y), (px, x)) = (tap(&self.window, 0, ky), tap(&self.window, 1, kx));
            let plane = (py * self.window.stride[1] + px) * channels + channel;
            (plane * self.input.plane) as i32 + y as i32 * self.input.stride as i32 + x as i32
        };
        let make = |output: usize| {
            let weights = &self.weights[output * row..][..row];
            let first = output / share * inputs;
            let nonzero = weights.iter().enumerate().filter(|(_, weight)| **weight != 0.0);
            let mut taps: Vec<(i32, f32)> = nonzero
                .map(|(at, &weight)| (offset(first + at / (kh * kw), at / kw % kh, at % kw), weight))
                .collect();
            taps.sort_unstable_by_key(|tap| tap.0);
            Row {
                taps,
                bias: self.bias[output],
                output: (output * self.output.plane) as u32,
                residual: self.residual.map_or(0, |layout| (output * layout.plane) as u32),
            }
        };
        (0..outputs).map(make).collect()
    }

    /// What is added to the output lies as it does, where nothing is added.
    fn added(&self) -> Layout {
        self.residual.unwrap_or(self.output)
    }

    /// The place at a position of the output plane.
    fn place(&self, y: usize, x: usize) -> Place {
        let at = |layout: Layout| layout.at(0, y, x) as u32;
        Place { input: at(self.input), output: at(self.output), residual: at(self.added()) }
    }

    /// The places that cover an output plane: along whole planes where all strides are alike and that takes fewer
    /// vectors (what is written into gaps is cleared afterwards), else row by row.
    fn grid(&self) -> Grid {
        let Shape { h, w, .. } = self.output.shape;
        let stride = self.output.stride;
        let alike = self.input.stride == stride && self.added().stride == stride;
        let span = (h - 1) * stride + w;
        let (along, by_row) = (span.div_ceil(LANES), h * w.div_ceil(LANES));
        // Of two that take as many vectors the one that writes whole vectors is better, then the one without spills.
        if alike && (h == 1 || along < by_row || along == by_row && w < LANES) {
            let (room, lanes) = (self.output.plane >= span.next_multiple_of(LANES), span.min(LANES));
            let places = cover(span, room).map(|at| self.place(0, at)).collect();
            // The last vector reaches beyond the plane where there is room for zeros.
            let (lanes, last) = if room { (LANES, span - (along - 1) * LANES) } else { (lanes, lanes) };
            return Grid { places, lanes, kept: [lanes, last], spills: stride > w && h > 1 };
        }
        // Rows are longer than a vector, or there may be room behind them.
        let (room, kept) = (w < LANES && stride >= LANES, w.min(LANES));
        let places = (0..h).flat_map(|y| cover(w, room).map(move |x| self.place(y, x)));
        Grid {
            places: places.collect(),
            lanes: if room { LANES } else { kept },
            kept: [kept; 2],
            spills: false,
        }
    }

    /// Every position of an output plane.
    fn pixels(&self) -> Grid {
        let Shape { h, w, .. } = self.output.shape;
        let places = (0..h).flat_map(|y| (0..w).map(move |x| self.place(y, x)));
        Grid { places: places.collect(), lanes: 1, kept: [1; 2], spills: false }
    }

    /// The ways to pack it, each with its name: `earlier`, if that is one; else single rows, and blocks of rows that share
    /// their taps, unless those are hopeless.
    pub(super) fn candidates(
        &self,
        isa: Isa,
        clamp: Clamp,
        earlier: Option<&str>,
    ) -> impl Iterator<Item = (&'static str, Convolution)> {
        let (rows, grid, pixels) = (self.rows(), self.grid(), self.pixels());
        let share = rows.len() / self.group;
        let alike = rows.windows(2).all(|two| same(&two[0], &two[1]));
        let known = WAYS.iter().position(|way| Some(way.0) == earlier);
        let mut ways: Vec<(f64, &Way, Vec<Vec<usize>>)> = Vec::new();
        for way in known.map_or(&WAYS[..], |at| &WAYS[at..=at]) {
            let &(_, form, height) = way;
            let block = |group: usize| blocks(&rows, group * share..(group + 1) * share, height, alike);
            let groups: Vec<Vec<usize>> = (0..self.group).flat_map(block).collect();
            let tallest = groups.iter().map(Vec::len).max().unwrap_or(1);
            if height > 1 && tallest * 2 <= height && known.is_none() {
                continue;
            }
            let places = if form == Form::Channels { &pixels } else { &grid }.places.len();
            ways.push((estimate(isa, form, &rows, &groups, places), way, groups));
        }
        let best = ways.iter().map(|way| way.0).fold(f64::INFINITY, f64::min);
        let hopeful = ways.into_iter().filter(move |way| way.0 <= HOPE * best);
        hopeful.map(move |(_, &(name, form, _), groups)| {
            let grid = if form == Form::Channels { &pixels } else { &grid };
            (name, Convolution::new(isa, form, &rows, &groups, grid.clone(), clamp))
        })
    }
}

/// A name, a form and the height of blocks.
type Way = (&'static str, Form, usize);

/// All ways to pack a convolution.
const WAYS: [Way; 10] = [
    ("positions × 1", Form::Positions, 1),
    ("positions × 2", Form::Positions, 2),
    ("positions × 4", Form::Positions, 4),
    ("positions × 6", Form::Positions, 6),
    ("positions × 8", Form::Positions, 8),
    ("pairs", Form::Pairs, 2),
    ("channels × 8", Form::Channels, 8),
    ("channels × 16", Form::Channels, 16),
    ("channels × 24", Form::Channels, 24),
    ("channels × 32", Form::Channels, 32),
];

/// A way whose estimate is over this many times the best is not tried.
const HOPE: f64 = 1.6;

/// Where vectors start that cover `length` positions: the last reaches beyond them where there is room for that, else it
/// overlaps the one before.
fn cover(length: usize, room: bool) -> impl Iterator<Item = usize> {
    let last = if room { length } else { length.saturating_sub(LANES) };
    (0..length.div_ceil(LANES)).map(move |index| (index * LANES).min(last))
}

/// Rows in blocks of at most `height`, as even as can be. Each takes the longest row that is left and those that add the
/// fewest taps to it, then rows change places as long as that spares taps; where all rows are alike, in order.
fn blocks(rows: &[Row], range: Range<usize>, height: usize, alike: bool) -> Vec<Vec<usize>> {
    let count = range.len().div_ceil(height);
    let part = |i: usize| range.start + range.len() * i / count;
    let mut made: Vec<Vec<usize>> = (0..count).map(|i| (part(i)..part(i + 1)).collect()).collect();
    if height == 1 || alike || range.len() > SORTED_ROWS {
        return made;
    }
    let taps = TapSets::new(rows);
    let mut left: Vec<usize> = range.collect();
    left.sort_by_key(|&row| std::cmp::Reverse(rows[row].taps.len()));
    for block in &mut made {
        let size = block.len();
        *block = vec![left.remove(0)];
        while block.len() < size {
            let taps_with = |row: &usize| taps.count(block.iter().chain([row]));
            let Some((at, _)) = left.iter().enumerate().min_by_key(|(_, row)| taps_with(row)) else { break };
            block.push(left.remove(at));
        }
    }
    for _ in 0..SWAP_ROUNDS {
        if !swapped(&mut made, &taps) {
            break;
        }
    }
    made
}

/// Lets rows of two blocks change places wherever that spares taps; whether any did.
fn swapped(made: &mut [Vec<usize>], taps: &TapSets) -> bool {
    let mut any = false;
    for second in 1..made.len() {
        let (before, rest) = made.split_at_mut(second);
        let other = &mut rest[0];
        for block in before {
            for at in 0..block.len() * other.len() {
                let (i, j) = (at / other.len(), at % other.len());
                let cost = |a: &[usize], b: &[usize]| taps.count(a) + taps.count(b);
                let old = cost(block, other);
                std::mem::swap(&mut block[i], &mut other[j]);
                if cost(block, other) < old {
                    any = true;
                } else {
                    std::mem::swap(&mut block[i], &mut other[j]);
                }
            }
        }
    }
    any
}

/// Which taps each row has, as bits.
struct TapSets(Vec<Vec<u64>>);

impl TapSets {
    fn new(rows: &[Row]) -> Self {
        let all: Vec<usize> = (0..rows.len()).collect();
        let offsets = union(rows, &all);
        let set = |row: &Row| {
            let mut bits = vec![0u64; offsets.len().div_ceil(64)];
            for at in row.taps.iter().filter_map(|tap| offsets.binary_search(&tap.0).ok()) {
                bits[at / 64] |= 1 << (at % 64);
            }
            bits
        };
        Self(rows.iter().map(set).collect())
    }

    /// Taps that any of `rows` has.
    fn count<'r>(&self, rows: impl IntoIterator<Item = &'r usize> + Clone) -> u32 {
        let words = self.0.first().map_or(0, Vec::len);
        let word = |at: usize| rows.clone().into_iter().fold(0, |bits, &row| bits | self.0[row][at]);
        (0..words).map(|at| word(at).count_ones()).sum()
    }
}

/// Rows that are sorted into blocks by their taps, at most: the work grows with the square.
const SORTED_ROWS: usize = 256;
/// Times that all rows may change places.
const SWAP_ROUNDS: usize = 4;

fn same(a: &Row, b: &Row) -> bool {
    a.taps.len() == b.taps.len() && a.taps.iter().zip(&b.taps).all(|(a, b)| a.0 == b.0)
}

/// Cycles, roughly: two loads or two products at once, and four cycles from a product to the next of the same sum.
fn estimate(isa: Isa, form: Form, rows: &[Row], groups: &[Vec<usize>], places: usize) -> f64 {
    let height = groups.iter().map(Vec::len).max().unwrap_or(1);
    let tiles = places.div_ceil(form.width(height, isa.registers()));
    let width = places as f64 / tiles as f64;
    let cost = |group: &Vec<usize>| {
        let own: usize = group.iter().map(|&row| rows[row].taps.len()).sum();
        let taps = union(rows, group).len() as f64;
        let (vectors, epilogue) = match form {
            Form::Positions | Form::Pairs => (group.len() as f64, 20.0),
            Form::Channels => (group.len().div_ceil(LANES) as f64, 20.0 + width * group.len() as f64),
        };
        let (loads, products) = match form {
            // Each input once, each weight that is not zero once.
            Form::Pairs => (taps * width + own as f64, own as f64 * width / 2.0),
            _ => (taps * (width + vectors + 1.0), taps * (vectors * width / 2.0).max(4.0)),
        };
        tiles as f64 * (epilogue + products.max(loads / 1.6))
    };
    groups.iter().map(cost).sum()
}
