//! Steps that only put elements elsewhere.

use super::Source;
use crate::kernels::{Halving, Isa};
use crate::plan::layout::{Layout, Shape};

/// As it is.
#[inline(always)]
pub(super) fn same((data, from): Source<'_>, to: &Layout, out: &mut [f32]) {
    let w = to.shape.w;
    for (source, start) in from.rows().zip(to.rows()) {
        out[start..start + w].copy_from_slice(&data[source..source + w]);
    }
}

/// The channels of all, one after the other.
#[inline(always)]
pub(super) fn concat<'s>(parts: impl Iterator<Item = Source<'s>>, to: &Layout, out: &mut [f32]) {
    let (mut rows, w) = (to.rows(), to.shape.w);
    for (data, from) in parts {
        for (source, start) in from.rows().zip(&mut rows) {
            out[start..start + w].copy_from_slice(&data[source..source + w]);
        }
    }
}

/// The same order under another shape.
pub(super) fn reshape((data, from): Source<'_>, to: &Layout, out: &mut [f32]) {
    let (width, w) = (from.shape.w, to.shape.w);
    let elements = from.rows().flat_map(|start| &data[start..start + width]);
    let places = to.rows().flat_map(|start| start..start + w);
    elements.zip(places).for_each(|(&element, place)| out[place] = element);
}

/// Each element repeated.
pub(super) fn upsample((data, from): Source<'_>, [rows, columns]: [usize; 2], to: &Layout, out: &mut [f32]) {
    let Shape { c, h, w } = to.shape;
    for channel in 0..c {
        for y in 0..h {
            let (start, source) = (to.at(channel, y, 0), from.at(channel, y / rows, 0));
            for x in 0..w {
                out[start + x] = data[source + x / columns];
            }
        }
    }
}

/// A border of `value`.
pub(super) fn pad(
    (data, from): Source<'_>,
    [top, left]: [usize; 2],
    value: f32,
    to: &Layout,
    out: &mut [f32],
) {
    let w = to.shape.w;
    to.rows().for_each(|start| out[start..start + w].fill(value));
    let Shape { c, h, w } = from.shape;
    for channel in 0..c {
        for y in 0..h {
            let (start, source) = (to.at(channel, y + top, left), from.at(channel, y, 0));
            out[start..start + w].copy_from_slice(&data[source..source + w]);
        }
    }
}

/// Every `rows`-th row and `columns`-th column in planes of their own; zeros where there are none. May write the columns
/// behind rows.
#[inline(always)]
pub(super) fn phases(
    isa: Isa,
    (data, from): Source<'_>,
    [rows, columns]: [usize; 2],
    to: &Layout,
    out: &mut [f32],
) {
    let Shape { c, h, w } = from.shape;
    for py in 0..rows {
        let tall = h.saturating_sub(py).div_ceil(rows);
        for channel in 0..c {
            let plane = |px: usize| to.at((py * columns + px) * c + channel, 0, 0);
            let (source, step) = (from.at(channel, py, 0), rows * from.stride);
            if columns == 2 {
                let eights = to.shape.w.div_ceil(8);
                let [even, odd] = [plane(0), plane(1)];
                let halving = Halving { source, step, rows: tall, eights, even, odd, stride: to.stride };
                if halved(isa, &halving, w, data, to, out) {
                    continue;
                }
            }
            for px in 0..columns {
                let wide = w.saturating_sub(px).div_ceil(columns);
                for y in 0..tall {
                    let row = &mut out[plane(px) + y * to.stride..][..to.shape.w];
                    every(&data[source + px + y * step..], columns, &mut row[..wide]);
                    row[wide..].fill(0.0);
                }
            }
        }
        for plane in (0..columns).flat_map(|px| (0..c).map(move |channel| (py * columns + px) * c + channel))
        {
            (tall..to.shape.h).for_each(|y| out[to.at(plane, y, 0)..][..to.shape.w].fill(0.0));
        }
    }
}

/// Every `step`-th element.
#[inline(always)]
fn every(source: &[f32], step: usize, out: &mut [f32]) {
    for (x, out) in out.iter_mut().enumerate() {
        *out = source[x * step];
    }
}

/// Splits the rows of one plane, eight elements at a time: what is written behind a row is overwritten by the next, or
/// lies in a gap. Whether there is room for that.
#[inline(always)]
fn halved(isa: Isa, halving: &Halving, w: usize, data: &[f32], to: &Layout, out: &mut [f32]) -> bool {
    let (width, over) = (to.shape.w, 8 * halving.eights - to.shape.w);
    let behind = to.plane - (to.shape.h - 1) * to.stride - width;
    if behind < over || halving.rows == 0 || !halving.fits(data.len(), out.len()) {
        return false;
    }
    halving.run(isa, data, out);
    if w % 2 == 1 {
        let last = halving.odd + width - 1;
        (0..halving.rows).for_each(|y| out[last + y * to.stride] = 0.0);
    }
    for plane in [halving.even, halving.odd] {
        let end = plane + (halving.rows - 1) * to.stride + width;
        out[end..end + over].iter_mut().for_each(|x| *x = 0.0);
    }
    true
}
