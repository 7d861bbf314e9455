//! `Resize` and `Upsample`: nearest neighbour for values of every type (and labels), linear and cubic for floats.

use super::layout::{dims, grid, strides};
use super::{Call, Fault, axis_of, blank, picked, zeros_count};
use crate::{Attribute, Tensor};

pub(super) fn apply(call: &Call<'_>) -> Result<Vec<Tensor>, Fault> {
    match call.node.op.as_str() {
        "Resize" | "Upsample" => Ok(vec![resize(call)?]),
        _ => Err(Fault::Unknown),
    }
}

fn resize(call: &Call<'_>) -> Result<Tensor, Fault> {
    let tensor = call.input(0)?;
    let (shape, scales) = lengths(call, tensor.shape())?;
    zeros_count(&shape)?;
    if tensor.is_empty() {
        return Err("an empty input".into());
    }
    if call.node.int("antialias", 0) != 0 {
        return Err("antialiasing is not supported".into());
    }
    let sampler = Sampler::of(call);
    let mode = call.node.text("mode").unwrap_or("nearest");
    if mode == "nearest" {
        let steps = strides(tensor.shape());
        let axis = |axis: usize| -> Vec<usize> {
            let length = tensor.shape()[axis];
            let at =
                |o: usize| sampler.nearest(sampler.position(o, length, shape[axis], scales[axis]), length);
            (0..shape[axis]).map(|o| at(o) * steps[axis]).collect()
        };
        return picked(call, tensor, shape.clone(), || grid(&(0..shape.len()).map(axis).collect::<Vec<_>>()));
    }
    if !["linear", "bilinear", "cubic"].contains(&mode) {
        return Err(format!("mode `{mode}` is not known").into());
    }
    if call.skips(&shape) {
        return blank(tensor.dtype(), shape);
    }
    // One axis after the other.
    let mut values = call.floats(0)?.1.to_vec();
    let mut now = tensor.shape().to_vec();
    for axis in (0..shape.len()).filter(|&axis| shape[axis] != tensor.shape()[axis] || scales[axis] != 1.0) {
        let taps = (0..shape[axis]).map(|o| {
            let x = sampler.position(o, now[axis], shape[axis], scales[axis]);
            if mode == "cubic" { cubic(x, call.node.float("cubic_coeff_a", -0.75)) } else { linear(x) }
        });
        let taps: Vec<Taps> = taps.collect();
        values = sampled(&values, &now, axis, &taps);
        now[axis] = shape[axis];
    }
    Ok(Tensor::f32(shape, values)?)
}

/// The lengths of the result and the scale of each axis.
fn lengths(call: &Call<'_>, from: &[usize]) -> Result<(Vec<usize>, Vec<f32>), Fault> {
    let old = call.node.op == "Upsample" || call.opset < 11;
    let scales = call.optional(if old { 1 } else { 2 }).filter(|scales| !scales.is_empty());
    let attribute = match call.node.attributes.get("scales") {
        Some(Attribute::Floats(scales)) => Some(scales.as_slice()),
        _ => None,
    };
    let sizes = call.optional(3).and_then(Tensor::as_i64).filter(|sizes| !sizes.is_empty());
    let axes: Vec<usize> = match call.node.ints("axes") {
        Some(axes) => axes.iter().map(|&axis| axis_of(axis, from.len())).collect::<Result<_, _>>()?,
        None => (0..from.len()).collect(),
    };
    if call.node.text("keep_aspect_ratio_policy").is_some_and(|policy| policy != "stretch") {
        return Err("only stretching to sizes is supported".into());
    }
    let (mut shape, mut all) = (from.to_vec(), vec![1.0; from.len()]);
    match (scales.and_then(Tensor::as_f32).or(attribute), sizes) {
        (Some(scales), _) if scales.len() == axes.len() => {
            for (&axis, &scale) in axes.iter().zip(scales) {
                shape[axis] = (from[axis] as f32 * scale).floor() as usize;
                all[axis] = scale;
            }
        }
        (None, Some(sizes)) if sizes.len() == axes.len() => {
            for (&axis, size) in axes.iter().zip(dims(sizes)?) {
                shape[axis] = size;
                all[axis] = size as f32 / from[axis] as f32;
            }
        }
        _ => return Err("neither scales nor sizes fit".into()),
    }
    Ok((shape, all))
}

/// Where results lie among inputs.
struct Sampler<'a> {
    coordinates: &'a str,
    rounding: &'a str,
}

impl<'a> Sampler<'a> {
    fn of(call: &Call<'a>) -> Self {
        let old = call.node.op == "Upsample" || call.opset < 11;
        let text = |name: &str, of_old: &'a str, of_new: &'a str| {
            call.node.text(name).unwrap_or(if old { of_old } else { of_new })
        };
        Self {
            coordinates: text("coordinate_transformation_mode", "asymmetric", "half_pixel"),
            rounding: text("nearest_mode", "floor", "round_prefer_floor"),
        }
    }

    fn position(&self, o: usize, from: usize, to: usize, scale: f32) -> f32 {
        let (length, x) = (from as f32, o as f32);
        match self.coordinates {
            "asymmetric" => x / scale,
            "align_corners" if to > 1 => x * (length - 1.0) / (to as f32 - 1.0),
            "align_corners" => 0.0,
            "pytorch_half_pixel" if to == 1 => 0.0,
            "half_pixel_symmetric" => {
                let adjusted = to as f32 / (length * scale);
                (length / 2.0) * (1.0 - adjusted) + (x + 0.5) / scale - 0.5
            }
            _ => (x + 0.5) / scale - 0.5,
        }
    }

    fn nearest(&self, x: f32, length: usize) -> usize {
        let rounded = match self.rounding {
            "floor" => x.floor(),
            "ceil" => x.ceil(),
            "round_prefer_ceil" => (x + 0.5).floor(),
            _ => (x - 0.5).ceil(),
        };
        (rounded.max(0.0) as usize).min(length.saturating_sub(1))
    }
}

/// Positions (which may lie outside: the edge is repeated) and their weights.
type Taps = [(i64, f32); 4];

fn linear(x: f32) -> Taps {
    let (first, part) = (x.floor() as i64, x - x.floor());
    [(first, 1.0 - part), (first + 1, part), (first, 0.0), (first, 0.0)]
}

fn cubic(x: f32, a: f32) -> Taps {
    let (first, part) = (x.floor() as i64, x - x.floor());
    let near = |d: f32| ((a + 2.0) * d - (a + 3.0)) * d * d + 1.0;
    let far = |d: f32| ((a * d - 5.0 * a) * d + 8.0 * a) * d - 4.0 * a;
    [
        (first - 1, far(1.0 + part)),
        (first, near(part)),
        (first + 1, near(1.0 - part)),
        (first + 2, far(2.0 - part)),
    ]
}

fn sampled(values: &[f32], shape: &[usize], axis: usize, taps: &[Taps]) -> Vec<f32> {
    let inner: usize = shape[axis + 1..].iter().product();
    let length = shape[axis];
    let mut result = Vec::with_capacity(values.len() / length.max(1) * taps.len());
    for block in values.chunks(length * inner) {
        for taps in taps {
            let from = result.len();
            result.resize(from + inner, 0.0);
            for &(at, weight) in taps.iter().filter(|tap| tap.1 != 0.0) {
                let row = &block[at.clamp(0, length as i64 - 1) as usize * inner..][..inner];
                result[from..].iter_mut().zip(row).for_each(|(sum, &x)| *sum += weight * x);
            }
        }
    }
    result
}
