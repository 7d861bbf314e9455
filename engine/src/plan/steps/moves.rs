//! Steps that only put elements elsewhere.

use super::Source;
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
pub(super) fn upsample(
    (data, from): Source<'_>,
    [rows, columns]: [usize; 2],
    to: &Layout,
    out: &mut [f32],
) {
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
pub(super) fn phases((data, from): Source<'_>, [rows, columns]: [usize; 2], to: &Layout, out: &mut [f32]) {
    let Shape { c, h, w } = from.shape;
    let plane = |py: usize, px: usize, channel: usize| (py * columns + px) * c + channel;
    for py in 0..rows {
        for px in 0..columns {
            let (tall, wide) = ((h - py.min(h)).div_ceil(rows), (w - px.min(w)).div_ceil(columns));
            for channel in 0..c {
                for y in 0..to.shape.h {
                    let start = to.at(plane(py, px, channel), y, 0);
                    let (kept, rest) = out[start..start + to.shape.w].split_at_mut(if y < tall { wide } else { 0 });
                    rest.fill(0.0);
                    if !kept.is_empty() {
                        let source = &data[from.at(channel, y * rows + py, px)..];
                        every(source, columns, kept);
                    }
                }
            }
        }
    }
}

/// Every `step`-th element; two is common, and then known to the compiler.
#[inline(always)]
fn every(source: &[f32], step: usize, out: &mut [f32]) {
    if step == 2 {
        let source = &source[..2 * out.len() - 1];
        for (x, out) in out.iter_mut().enumerate() {
            *out = source[2 * x];
        }
    } else {
        for (x, out) in out.iter_mut().enumerate() {
            *out = source[x * step];
        }
    }
}
