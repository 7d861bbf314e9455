//! Steps that only put elements elsewhere.

use super::Source;
use crate::kernels::{Halving, Into, Isa};
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

/// Every `rows`-th row and `columns`-th column in planes of their own; zeros where there are none.
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
        let first = |px: usize| (py * columns + px) * c;
        for y in tall..to.shape.h {
            (first(0)..first(columns)).for_each(|plane| out[to.at(plane, y, 0)..][..to.shape.w].fill(0.0));
        }
        let halving = Halving {
            planes: c,
            rows: tall,
            width: w,
            source: from.at(0, py, 0),
            from: [from.plane, rows * from.stride],
            into: Into::Halves { even: to.at(first(0), 0, 0), odd: to.at(first(1), 0, 0) },
            to: [to.plane, to.stride],
        };
        // What is written behind a row is written again with the next, or lies in a gap.
        let gap = to.plane - (tall.max(1) - 1) * to.stride - to.shape.w;
        if columns == 2 && halving.run(isa, gap, data, out) {
            continue;
        }
        for (px, channel) in (0..columns).flat_map(|px| (0..c).map(move |channel| (px, channel))) {
            let wide = w.saturating_sub(px).div_ceil(columns);
            for y in 0..tall {
                let row = &mut out[to.at(first(px) + channel, y, 0)..][..to.shape.w];
                every(&data[from.at(channel, py + y * rows, px)..], columns, &mut row[..wide]);
                row[wide..].fill(0.0);
            }
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
