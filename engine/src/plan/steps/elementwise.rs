//! Steps that go element by element.

use super::Source;
use crate::plan::layout::{Layout, Shape};
use crate::plan::network::{Activation, Affine, Binary};

/// The plan's input, scaled and shifted.
#[inline(always)]
pub(super) fn load(input: &[f32], affine: &Affine, to: &Layout, out: &mut [f32]) {
    let Shape { c, h, w } = to.shape;
    for channel in 0..c {
        let (scale, shift) = (affine.scale(channel), affine.shift(channel));
        for (y, row) in input[channel * h * w..][..h * w].chunks_exact(w).enumerate() {
            let start = to.at(channel, y, 0);
            for (out, x) in out[start..start + w].iter_mut().zip(row) {
                *out = scale * x + shift;
            }
        }
    }
}

/// One scale and shift a channel.
#[inline(always)]
pub(super) fn affine(affine: &Affine, (data, from): Source<'_>, to: &Layout, out: &mut [f32]) {
    let Shape { h, w, .. } = to.shape;
    for (index, (source, start)) in from.rows().zip(to.rows()).enumerate() {
        let (scale, shift) = (affine.scale(index / h), affine.shift(index / h));
        for (out, x) in out[start..start + w].iter_mut().zip(&data[source..source + w]) {
            *out = scale * x + shift;
        }
    }
}

/// An activation in place.
#[inline(always)]
pub(super) fn activate(activation: Activation, layout: &Layout, data: &mut [f32]) {
    let w = layout.shape.w;
    if layout.is_dense() {
        data[..layout.shape.len()].iter_mut().for_each(|x| *x = activation.at(*x));
        return;
    }
    for start in layout.rows() {
        data[start..start + w].iter_mut().for_each(|x| *x = activation.at(*x));
    }
}

/// Two values; the second may have one element a channel.
#[inline(always)]
pub(super) fn binary(
    op: Binary,
    (a, first): Source<'_>,
    (b, second): Source<'_>,
    to: &Layout,
    out: &mut [f32],
) {
    match op {
        Binary::Add => each(|a, b| a + b, (a, first), (b, second), to, out),
        Binary::Sub => each(|a, b| a - b, (a, first), (b, second), to, out),
        Binary::Mul => each(|a, b| a * b, (a, first), (b, second), to, out),
        Binary::Div => each(|a, b| a / b, (a, first), (b, second), to, out),
    }
}

#[inline(always)]
fn each(
    op: impl Fn(f32, f32) -> f32,
    (a, first): Source<'_>,
    (b, second): Source<'_>,
    to: &Layout,
    out: &mut [f32],
) {
    let Shape { c, h, w } = to.shape;
    let gate = second.shape != to.shape;
    for channel in 0..c {
        for y in 0..h {
            let (start, from) = (to.at(channel, y, 0), first.at(channel, y, 0));
            let pairs = out[start..start + w].iter_mut().zip(&a[from..from + w]);
            if gate {
                let gate = b[second.at(channel, 0, 0)];
                pairs.for_each(|(out, &a)| *out = op(a, gate));
            } else {
                let other = second.at(channel, y, 0);
                pairs.zip(&b[other..other + w]).for_each(|((out, &a), &b)| *out = op(a, b));
            }
        }
    }
}

/// Over a vector.
pub(super) fn softmax((data, from): Source<'_>, to: &Layout, out: &mut [f32]) {
    let at = |layout: &Layout, c: usize| layout.at(c, 0, 0);
    let channels = to.shape.c;
    let largest = (0..channels).map(|c| data[at(from, c)]).fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for c in 0..channels {
        let value = (data[at(from, c)] - largest).exp();
        out[at(to, c)] = value;
        sum += value;
    }
    (0..channels).for_each(|c| out[at(to, c)] /= sum);
}
