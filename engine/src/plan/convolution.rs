//! A convolution's kernel: its taps as offsets into the input's planes, the places it is computed at, and the ways to
//! pack it that are worth a trial.

use secateur_model::eval::Window;

use super::blocks::blocks;
use super::layout::{Gap, Layout, Shape};
use super::lines::Unrolling;
use crate::kernels::{Clamp, Convolution, Form, Grid, Isa, Lines, Place, Row, Vectors, union};

/// A packed convolution.
pub(super) enum Kernel {
    Tiles(Convolution),
    Lines(Lines),
}

impl Kernel {
    /// Computes it; `scratch` is as long as [`Self::scratch`] says.
    pub(super) fn run(&self, input: &[f32], residual: Option<&[f32]>, scratch: &mut [f32], output: &mut [f32]) {
        match self {
            Self::Tiles(kernel) => kernel.run(input, residual, output),
            Self::Lines(kernel) => kernel.run(input, residual, scratch, output),
        }
    }

    /// Floats of memory that a run needs besides its values.
    pub(super) fn scratch(&self) -> usize {
        match self {
            Self::Tiles(_) => 0,
            Self::Lines(kernel) => kernel.scratch(),
        }
    }

    /// Whether it writes the columns between rows, which must then be cleared.
    pub(super) fn spills(&self) -> bool {
        matches!(self, Self::Tiles(kernel) if kernel.spills())
    }

    /// For people.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Tiles(kernel) => kernel.name(),
            Self::Lines(kernel) => kernel.name(),
        }
    }

    /// Multiply-accumulates by weights that are not zero, at `positions` of each row, and all.
    pub(super) fn macs(&self, positions: usize) -> [u64; 2] {
        match self {
            Self::Tiles(kernel) => kernel.macs(positions),
            Self::Lines(kernel) => kernel.macs(positions),
        }
    }

    /// Bytes that it holds.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Tiles(kernel) => kernel.bytes(),
            Self::Lines(kernel) => kernel.bytes(),
        }
    }
}

/// One weight that is not zero, and where it finds its input: a plane, and how far from the output's place.
#[derive(Clone, Copy)]
pub(super) struct Tap {
    pub(super) plane: usize,
    pub(super) y: isize,
    pub(super) x: isize,
    pub(super) weight: f32,
}

/// Lanes of the vectors that every instruction set has.
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
    /// The weights that are not zero, of each output channel.
    fn taps(&self) -> Vec<Vec<Tap>> {
        let [kh, kw] = self.window.kernel;
        let outputs = self.bias.len();
        let phases = self.window.stride[0] * self.window.stride[1];
        let channels = self.input.shape.c / phases;
        let (inputs, share) = (channels / self.group, outputs / self.group);
        let row = inputs * kh * kw;
        let at = |channel: usize, ky: usize, kx: usize, weight: f32| {
            let ((py, y), (px, x)) = (tap(&self.window, 0, ky), tap(&self.window, 1, kx));
            Tap { plane: (py * self.window.stride[1] + px) * channels + channel, y, x, weight }
        };
        let taps = |output: usize| {
            let weights = &self.weights[output * row..][..row];
            let first = output / share * inputs;
            let nonzero = weights.iter().enumerate().filter(|(_, weight)| **weight != 0.0);
            nonzero.map(|(i, &weight)| at(first + i / (kh * kw), i / kw % kh, i % kw, weight)).collect()
        };
        (0..outputs).map(taps).collect()
    }

    /// Each output channel with its taps as offsets.
    fn rows(&self, taps: &[Vec<Tap>]) -> Vec<Row> {
        let offset = |tap: &Tap| {
            let (y, x) = (tap.y as i32 * self.input.stride as i32, tap.x as i32);
            ((tap.plane * self.input.plane) as i32 + y + x, tap.weight)
        };
        let row = |(output, taps): (usize, &Vec<Tap>)| {
            let mut taps: Vec<(i32, f32)> = taps.iter().map(offset).collect();
            taps.sort_unstable_by_key(|tap| tap.0);
            let plane = |layout: Layout| (output * layout.plane) as u32;
            let residual = self.residual.map_or(0, plane);
            Row { taps, bias: self.bias[output], output: plane(self.output), residual }
        };
        taps.iter().enumerate().map(row).collect()
    }

    /// What is added to the output lies as it does, where nothing is added.
    pub(super) fn added(&self) -> Layout {
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
        // Of two that take as many vectors the one that writes whole vectors is better, then the one without spills.
        if alike && (h == 1 || along < by_row || along == by_row && w < wide) {
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

    /// The ways to pack it, each with its name: `earlier`, if that is one; else single rows, and blocks of rows that share
    /// their taps, unless those are hopeless.
    pub(super) fn candidates(
        &self,
        isa: Isa,
        clamp: Clamp,
        earlier: Option<&str>,
    ) -> impl Iterator<Item = (&'static str, Kernel)> {
        let taps = self.taps();
        let rows = self.rows(&taps);
        let widths: Vec<Vectors> = isa.widths().collect();
        let mut ways: Vec<Estimated> = Vec::new();
        let possible = || WAYS.iter().filter(|way| way.wide < widths.len());
        let known = possible().find(|way| Some(way.name) == earlier);
        for way in possible().filter(|way| known.is_none_or(|known| known.name == way.name)) {
            ways.extend(self.estimated(way, widths[way.wide], &taps, &rows, known.is_some()));
        }
        let ways = if ways.is_empty() {
            // A way of an earlier trial that is none here.
            let all = possible();
            all.filter_map(|way| self.estimated(way, widths[way.wide], &taps, &rows, false)).collect()
        } else {
            ways
        };
        let best = ways.iter().map(|way| way.cycles).fold(f64::INFINITY, f64::min);
        let hopeful = ways.into_iter().filter(move |way| way.cycles <= HOPE * best);
        hopeful.map(move |way| (way.name, self.pack(way, &taps, &rows, clamp)))
    }

    /// A way to pack it, if it is one and not hopeless; `known` is always tried.
    fn estimated(
        &self,
        way: &Way,
        vectors: Vectors,
        taps: &[Vec<Tap>],
        rows: &[Row],
        known: bool,
    ) -> Option<Estimated> {
        let made = |packing: Packing, cycles: f64| Some(Estimated { name: way.name, vectors, packing, cycles });
        let form = match way.form {
            Some(Form::Pairs) if !vectors.has_pairs() => return None,
            Some(form) => form,
            None => {
                let unrolling = Unrolling::new(self, taps, vectors)?;
                let cycles = unrolling.cycles(taps);
                return made(Packing::Lines(unrolling), cycles);
            }
        };
        let share = rows.len() / self.group;
        let alike = rows.windows(2).all(|two| same(&two[0], &two[1]));
        let block = |group: usize| blocks(rows, group * share..(group + 1) * share, way.height, alike);
        let groups: Vec<Vec<usize>> = (0..self.group).flat_map(block).collect();
        let tallest = groups.iter().map(Vec::len).max().unwrap_or(1);
        if way.height > 1 && tallest * 2 <= way.height && !known {
            return None;
        }
        let grid = if form == Form::Channels { self.pixels() } else { self.grid(vectors.lanes()) };
        let cycles = estimate(vectors, form, rows, &groups, grid.places.len());
        made(Packing::Tiles(form, groups, grid), cycles)
    }

    fn pack(&self, way: Estimated, taps: &[Vec<Tap>], rows: &[Row], clamp: Clamp) -> Kernel {
        match way.packing {
            Packing::Tiles(form, groups, grid) => {
                Kernel::Tiles(Convolution::new(way.vectors, form, rows, &groups, grid, clamp))
            }
            Packing::Lines(unrolling) => Kernel::Lines(unrolling.pack(self, taps, way.vectors, clamp)),
        }
    }
}

/// A way to pack a convolution: a form, or unrolled where there is none, the height of blocks, and which width of vectors.
pub(super) struct Way {
    pub(super) name: &'static str,
    form: Option<Form>,
    height: usize,
    wide: usize,
}

/// How a way turned out for one convolution, and its estimate.
struct Estimated {
    name: &'static str,
    vectors: Vectors,
    packing: Packing,
    cycles: f64,
}

enum Packing {
    Tiles(Form, Vec<Vec<usize>>, Grid),
    Lines(Unrolling),
}

const fn way(name: &'static str, form: Form, height: usize, wide: usize) -> Way {
    Way { name, form: Some(form), height, wide }
}

/// All ways to pack a convolution.
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
    way("wide channels × 16", Form::Channels, 16, 1),
    way("wide channels × 32", Form::Channels, 32, 1),
    Way { name: "lines", form: None, height: 1, wide: 1 },
];

/// A way whose estimate is over this many times the best is not tried.
const HOPE: f64 = 1.6;

/// Where vectors of `lanes` start that cover `length` positions: the last reaches beyond them where there is room for that,
/// else it overlaps the one before.
fn cover(length: usize, lanes: usize, room: bool) -> impl Iterator<Item = usize> {
    let last = if room { length } else { length.saturating_sub(lanes) };
    (0..length.div_ceil(lanes)).map(move |index| (index * lanes).min(last))
}

fn same(a: &Row, b: &Row) -> bool {
    a.taps.len() == b.taps.len() && a.taps.iter().zip(&b.taps).all(|(a, b)| a.0 == b.0)
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
            Form::Channels => (group.len().div_ceil(vectors.lanes()) as f64, 20.0 + width * group.len() as f64),
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
