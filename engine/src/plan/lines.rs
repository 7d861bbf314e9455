//! A sparse convolution over unrolled planes: how the positions of a plane share lines, and which shifts its taps ask for.

use std::collections::BTreeMap;

use super::convolution::{Plan, Tap};
use super::layout::Layout;
use crate::kernels::{Clamp, LineRow, Lines, Part, Unrolled, Vectors};

/// Floats of unrolled planes at most: they must stay in a core's second cache.
const MOST_FLOATS: usize = 96 * 1024;

/// How the positions of an output plane lie in lines: several rows share one, or a row takes several.
#[derive(Clone, Copy)]
struct Packing {
    lanes: usize,
    /// Rows and columns of the plane.
    h: usize,
    w: usize,
    /// Rows of a line, and lanes of each.
    rows: usize,
    each: usize,
    /// Lines of as many rows.
    lines: usize,
}

impl Packing {
    fn new(lanes: usize, h: usize, w: usize) -> Self {
        let each = w.next_power_of_two().min(lanes);
        Self { lanes, h, w, rows: lanes / each, each, lines: w.div_ceil(lanes) }
    }

    /// Lines of a plane.
    fn count(&self) -> usize {
        self.h.div_ceil(self.rows) * self.lines
    }

    /// Parts of the lines of the `group`-th rows, shifted by `(dy, dx)`, of a plane that lies as `layout` says. Rows
    /// outside of `kept` have no lanes.
    fn parts(
        &self,
        layout: &Layout,
        group: isize,
        [dy, dx]: [isize; 2],
        kept: std::ops::Range<isize>,
    ) -> impl Iterator<Item = Part> {
        let this = *self;
        let stride = layout.stride as isize;
        let part = move |line: usize, row: usize| {
            let y = group * this.rows as isize + row as isize + dy;
            let (x, shift) = (line * this.lanes, row * this.each);
            let width = if kept.contains(&y) { (this.w - x).min(this.each) } else { 0 };
            let lanes = (((1u32 << width) - 1) << shift) as u16;
            Part { at: (y * stride + x as isize + dx - shift as isize) as i32, lanes }
        };
        (0..this.lines).flat_map(move |line| {
            let part = part.clone();
            (0..this.rows).map(move |row| part(line, row))
        })
    }

    /// Parts of all lines of a plane.
    fn all(&self, layout: &Layout) -> Vec<Part> {
        let groups = 0..self.h.div_ceil(self.rows) as isize;
        groups.flat_map(|group| self.parts(layout, group, [0, 0], 0..self.h as isize)).collect()
    }
}

/// The lines of a plane's shifts: of each `(dx, dy mod rows)` those of some groups of rows.
struct Shifts {
    rows: isize,
    /// The first and last `dy div rows`, and where the lines start.
    of: BTreeMap<(isize, isize), (isize, isize, usize)>,
    lines: usize,
}

impl Shifts {
    fn new(packing: &Packing, taps: impl Iterator<Item = [isize; 2]>) -> Self {
        let rows = packing.rows as isize;
        let mut of: BTreeMap<(isize, isize), (isize, isize, usize)> = BTreeMap::new();
        for [dy, dx] in taps {
            let (group, rest) = (dy.div_euclid(rows), dy.rem_euclid(rows));
            let (first, last, _) = of.entry((dx, rest)).or_insert((group, group, 0));
            (*first, *last) = (group.min(*first), group.max(*last));
        }
        let mut lines = 0;
        for (first, last, start) in of.values_mut() {
            *start = lines;
            lines += packing.count() + (*last - *first) as usize * packing.lines;
        }
        Self { rows, of, lines }
    }

    /// The line that a tap starts at.
    fn line(&self, packing: &Packing, [dy, dx]: [isize; 2]) -> usize {
        let (first, _, start) = self.of[&(dx, dy.rem_euclid(self.rows))];
        start + (dy.div_euclid(self.rows) - first) as usize * packing.lines
    }

    /// Parts of all lines, in order.
    fn pattern(&self, packing: &Packing, layout: &Layout) -> Vec<Part> {
        let groups = packing.h.div_ceil(packing.rows) as isize;
        let shift = |(&(dx, rest), &(first, last, _)): (&(isize, isize), &(isize, isize, usize))| {
            let kept = first * self.rows + rest..packing.h as isize + last * self.rows + rest;
            (first..last + groups).flat_map(move |group| packing.parts(layout, group, [rest, dx], kept.clone()))
        };
        self.of.iter().flat_map(shift).collect()
    }
}

/// A convolution's taps over unrolled planes, before it is packed.
pub(super) struct Unrolling {
    packing: Packing,
    shifts: Vec<Shifts>,
    /// Of each plane that is read: its first line.
    starts: BTreeMap<usize, usize>,
    lines: usize,
    phase_planes: usize,
}

impl Unrolling {
    /// How a plan's taps are unrolled; `None` where the lines would be too many, or there is no kernel for them.
    pub(super) fn new(plan: &Plan<'_>, taps: &[Vec<Tap>], vectors: Vectors) -> Option<Self> {
        let packing = Packing::new(vectors.lanes(), plan.output.shape.h, plan.output.shape.w);
        let phases = plan.window.stride[0] * plan.window.stride[1];
        let phase_planes = plan.input.shape.c / phases;
        let all = || taps.iter().flatten();
        let of_phase = |phase: usize| {
            all().filter(move |tap| tap.plane / phase_planes == phase).map(|tap| [tap.y, tap.x])
        };
        let shifts: Vec<Shifts> = (0..phases).map(|phase| Shifts::new(&packing, of_phase(phase))).collect();
        let mut starts: BTreeMap<usize, usize> = all().map(|tap| (tap.plane, 0)).collect();
        let mut lines = 0;
        for (plane, start) in &mut starts {
            *start = lines;
            lines += shifts[plane / phase_planes].lines;
        }
        let fits = vectors.has_lines() && lines * vectors.lanes() <= MOST_FLOATS;
        fits.then_some(Self { packing, shifts, starts, lines, phase_planes })
    }

    /// Cycles of a run, roughly: a load and a store a line, two lines of a tap at once, and what a row's end takes.
    pub(super) fn cycles(&self, taps: &[Vec<Tap>]) -> f64 {
        let (lines, parts) = (self.packing.count() as f64, self.packing.rows as f64);
        let rows = taps.iter().map(|row| row.len() as f64 * (lines + 1.0) / 2.0 + 10.0 + lines * (2.0 + parts));
        self.lines as f64 * (1.0 + parts) + rows.sum::<f64>()
    }

    /// Packs the plan's kernel.
    pub(super) fn pack(&self, plan: &Plan<'_>, taps: &[Vec<Tap>], vectors: Vectors, clamp: Clamp) -> Lines {
        let pattern = |shifts: &Shifts| shifts.pattern(&self.packing, &plan.input);
        let start = |plane: usize| (plan.input.origin + plane * plan.input.plane) as u32;
        let unrolled = Unrolled {
            parts: self.packing.rows,
            patterns: self.shifts.iter().map(pattern).collect(),
            planes: self.starts.keys().map(|&plane| (start(plane), plane / self.phase_planes)).collect(),
        };
        let offset = |tap: &Tap| {
            let line = self.shifts[tap.plane / self.phase_planes].line(&self.packing, [tap.y, tap.x]);
            ((self.starts[&tap.plane] + line) * self.packing.lanes) as u32
        };
        let added = plan.added();
        let row = |(output, taps): (usize, &Vec<Tap>)| LineRow {
            taps: taps.iter().map(|tap| (offset(tap), tap.weight)).collect(),
            bias: plan.bias[output],
            output: (plan.output.origin + output * plan.output.plane) as u32,
            residual: (added.origin + output * added.plane) as u32,
        };
        let rows: Vec<LineRow> = taps.iter().enumerate().map(row).collect();
        let parts = [&plan.output, &added].map(|layout| self.packing.all(layout));
        Lines::new(vectors, unrolled, &rows, parts, clamp)
    }
}
