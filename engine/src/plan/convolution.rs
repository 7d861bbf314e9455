//! A convolution's kernel: its taps as offsets into the input's planes, the places it is computed at, and the ways to
//! pack it that are worth a trial.

use std::collections::BTreeMap;

use secateur_model::eval::Window;

use super::blocks::blocks;
use super::layout::{Gap, Layout, Shape};
use crate::kernels::{Clamp, Convolution, Form, Grid, Isa, LANES, Place, Row, Vectors, union};

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

/// Whether a convolution would rather have each row of its input on a cache line of its own. Where most inputs serve one
/// row or two, loads are what it waits for, and one that crosses a line counts twice; and a row that is one of the
/// machine's `widest` vectors needs nothing cleared behind it.
pub(super) fn wants_lines(weights: &[f32], window: &Window, group: usize, widest: usize) -> bool {
    let sparse = weights.iter().filter(|weight| **weight == 0.0).count() * 4 > weights.len();
    let width = window.output[1];
    let whole = if widest > LANES { width > LANES } else { group > 1 };
    window.kernel[1] > 1 && (sparse || whole) && width.next_multiple_of(LANES) - width <= 2
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
    fn grid(&self, wide: usize) -> Grid {
        let Shape { h, w, .. } = self.output.shape;
        let stride = self.output.stride;
        let alike = self.input.stride == stride && self.added().stride == stride;
        let span = (h - 1) * stride + w;
        let (along, by_row) = (span.div_ceil(wide), h * w.div_ceil(wide));
        // Of two that take as many vectors the one that writes whole vectors is better, then the one without spills; rows with
        // room behind them do both.
        if alike && (h == 1 || along < by_row || along == by_row && w < wide && stride < wide) {
            let (room, lanes) = (self.output.plane >= span.next_multiple_of(wide), span.min(wide));
            let places = cover(span, wide, room).map(|at| self.place(0, at)).collect();
            // The last vector reaches beyond the plane where there is room for zeros.
            let (lanes, last) = if room { (wide, span - (along - 1) * wide) } else { (lanes, lanes) };
            return Grid { places, lanes, kept: [lanes, last], spills: stride > w && h > 1 };
        }
        // Rows are longer than a vector, or there may be room behind them.
        let (room, kept) = (w < wide && stride >= wide, w.min(wide));
        let places = (0..h).flat_map(|y| cover(w, wide, room).map(move |x| self.place(y, x)));
        Grid {
            places: places.collect(),
            lanes: if room { wide } else { kept },
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

    /// The ways to pack it, each with its name: `earlier`, if that is one; else all of [`WAYS`] that are not hopeless.
    pub(super) fn candidates(
        &self,
        isa: Isa,
        clamp: Clamp,
        earlier: Option<&str>,
    ) -> impl Iterator<Item = (&'static str, Convolution)> {
        let (rows, widths) = (self.rows(), isa.widths().collect::<Vec<_>>());
        let possible = || WAYS.iter().filter(|way| way.wide < widths.len());
        let known = possible().find(|way| Some(way.name) == earlier);
        let mut groups = BTreeMap::new();
        let mut packing = |way: &Way| {
            let groups = groups.entry(way.height).or_insert_with(|| self.groups(&rows, way.height));
            self.packing(way, widths[way.wide], &rows, groups.clone())
        };
        let ways: Vec<Packing> = match known {
            Some(way) => vec![packing(way)],
            None => {
                let all = possible().map(|way| (way, packing(way)));
                all.filter(|(way, packing)| packing.is_as_tall_as(way)).map(|(_, packing)| packing).collect()
            }
        };
        let best = ways.iter().map(|way| way.cycles).fold(f64::INFINITY, f64::min);
        let hopeful = ways.into_iter().filter(move |way| way.cycles <= HOPE * best);
        hopeful.map(move |way| {
            let packed = Convolution::new(way.vectors, way.form, &rows, &way.groups, way.grid, clamp);
            (way.name, packed)
        })
    }

    /// The rows in blocks, none of rows of two groups.
    fn groups(&self, rows: &[Row], height: usize) -> Vec<Vec<usize>> {
        let share = rows.len() / self.group;
        let of = |group: usize| {
            let first = group * share;
            let made = blocks(&rows[first..][..share], height);
            made.into_iter().map(move |block| block.into_iter().map(|row| first + row).collect())
        };
        (0..self.group).flat_map(of).collect()
    }

    /// How a way turns out.
    fn packing(&self, way: &Way, vectors: Vectors, rows: &[Row], groups: Vec<Vec<usize>>) -> Packing {
        let grid = if way.form == Form::Channels { self.pixels() } else { self.grid(vectors.lanes()) };
        let cycles = estimate(vectors, way.form, rows, &groups, grid.places.len());
        Packing { name: way.name, form: way.form, vectors, groups, grid, cycles }
    }
}

/// A way to pack a convolution: the height of blocks, and which width of vectors.
pub(super) struct Way {
    pub(super) name: &'static str,
    form: Form,
    height: usize,
    wide: usize,
}

/// How a way turned out for one convolution, and its estimate.
struct Packing {
    name: &'static str,
    form: Form,
    vectors: Vectors,
    groups: Vec<Vec<usize>>,
    grid: Grid,
    cycles: f64,
}

impl Packing {
    /// Whether its blocks are about as tall as they should be: else it is another way's twin.
    fn is_as_tall_as(&self, way: &Way) -> bool {
        let tallest = self.groups.iter().map(Vec::len).max().unwrap_or(1);
        way.height == 1 || tallest * 2 > way.height
    }
}

const fn way(name: &'static str, form: Form, height: usize, wide: usize) -> Way {
    Way { name, form, height, wide }
}

/// All ways to pack a convolution: single rows, and blocks of rows that share their taps.
pub(super) const WAYS: [Way; 18] = [
    way("positions × 1", Form::Positions, 1, 0),
    way("positions × 2", Form::Positions, 2, 0),
    way("positions × 4", Form::Positions, 4, 0),
    way("positions × 6", Form::Positions, 6, 0),
    way("positions × 8", Form::Positions, 8, 0),
    way("pairs", Form::Pairs, 2, 0),
    way("channels × 8", Form::Channels, 8, 0),
    way("channels × 16", Form::Channels, 16, 0),
    way("channels × 24", Form::Channels, 24, 0),
    way("channels × 32", Form::Channels, 32, 0),
    way("wide positions × 1", Form::Positions, 1, 1),
    way("wide positions × 2", Form::Positions, 2, 1),
    way("wide positions × 4", Form::Positions, 4, 1),
    way("wide positions × 6", Form::Positions, 6, 1),
    way("wide positions × 8", Form::Positions, 8, 1),
    way("wide pairs", Form::Pairs, 2, 1),
    way("wide channels × 16", Form::Channels, 16, 1),
    way("wide channels × 32", Form::Channels, 32, 1),
];

/// A way whose estimate is over this many times the best is not tried.
const HOPE: f64 = 1.6;

/// Where vectors of `lanes` start that cover `length` positions: the last reaches beyond them where there is room for that,
/// else it overlaps the one before.
fn cover(length: usize, lanes: usize, room: bool) -> impl Iterator<Item = usize> {
    let last = if room { length } else { length.saturating_sub(lanes) };
    (0..length.div_ceil(lanes)).map(move |index| (index * lanes).min(last))
}

/// Cycles, roughly: two loads or two products at once, and four cycles from a product to the next of the same sum.
fn estimate(vectors: Vectors, form: Form, rows: &[Row], groups: &[Vec<usize>], places: usize) -> f64 {
    let height = groups.iter().map(Vec::len).max().unwrap_or(1);
    let tiles = places.div_ceil(form.width(height, vectors));
    let width = places as f64 / tiles as f64;
    let cost = |group: &Vec<usize>| {
        let own: usize = group.iter().map(|&row| rows[row].taps.len()).sum();
        let taps = union(rows, group).len() as f64;
        let (wide, epilogue) = match form {
            Form::Positions | Form::Pairs => (group.len() as f64, 20.0),
            Form::Channels => {
                (group.len().div_ceil(vectors.lanes()) as f64, 20.0 + width * group.len() as f64)
            }
        };
        let (loads, products) = match form {
            // Each input once, each weight that is not zero once.
            Form::Pairs => (taps * width + own as f64, own as f64 * width / 2.0),
            _ => (taps * (width + wide + 1.0), taps * (wide * width / 2.0).max(4.0)),
        };
        tiles as f64 * (epilogue + products.max(loads / 1.6))
    };
    groups.iter().map(cost).sum()
}
