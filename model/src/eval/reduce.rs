//! Operators that work along axes: reductions, softmax, normalisations.

use super::{Call, Fault, axis_of};
use crate::{DType, Tensor, TensorData};

/// Operators whose result has the shape of their input.
const SAME_SHAPE: &[&str] =
    &["Softmax", "LogSoftmax", "LayerNormalization", "InstanceNormalization", "GroupNormalization", "LRN"];

pub(super) fn apply(call: &Call<'_>) -> Result<Vec<Tensor>, Fault> {
    if SAME_SHAPE.contains(&call.node.op.as_str()) && call.skips(call.floats(0)?.0) {
        return Ok(vec![super::blank(DType::F32, call.floats(0)?.0.to_vec())?]);
    }
    match call.node.op.as_str() {
        "ReduceMean" => reduce(call, 0.0, |a, x| a + x, |a, n| a / n as f32),
        "ReduceSum" => reduce(call, 0.0, |a, x| a + x, |a, _| a),
        "ReduceMax" => reduce(call, f32::NEG_INFINITY, f32::max, |a, _| a),
        "ReduceMin" => reduce(call, f32::INFINITY, f32::min, |a, _| a),
        "ReduceProd" => reduce(call, 1.0, |a, x| a * x, |a, _| a),
        "ReduceL1" => reduce(call, 0.0, |a, x| a + x.abs(), |a, _| a),
        "ReduceL2" => reduce(call, 0.0, |a, x| a + x * x, |a, _| a.sqrt()),
        "ReduceSumSquare" => reduce(call, 0.0, |a, x| a + x * x, |a, _| a),
        "ReduceLogSum" => reduce(call, 0.0, |a, x| a + x, |a, _| a.ln()),
        "ReduceLogSumExp" => reduce(call, 0.0, |a, x| a + x.exp(), |a, _| a.ln()),
        "ArgMax" => arg_best(call, |a, b| a > b),
        "ArgMin" => arg_best(call, |a, b| a < b),
        "CumSum" => cumulative(call),
        "LRN" => local_response(call),
        "Softmax" | "LogSoftmax" => softmax(call),
        "LayerNormalization" => layer_norm(call),
        "InstanceNormalization" => group_norm(call, None),
        "GroupNormalization" => group_norm(call, Some(call.node.int("num_groups", 1))),
        _ => Err(Fault::Unknown),
    }
}

/// (outer, along, inner) lengths around one axis.
fn around(shape: &[usize], axis: usize) -> (usize, usize, usize) {
    (shape[..axis].iter().product(), shape[axis], shape[axis + 1..].iter().product())
}

fn reduce(
    call: &Call<'_>,
    start: f32,
    step: impl Fn(f32, f32) -> f32,
    finish: impl Fn(f32, usize) -> f32,
) -> Result<Vec<Tensor>, Fault> {
    let (shape, x) = call.floats(0)?;
    let axes = match call.ints("axes", 1)?.filter(|axes| !axes.is_empty()) {
        Some(axes) => axes.iter().map(|&axis| axis_of(axis, shape.len())).collect::<Result<Vec<_>, _>>()?,
        None if call.node.int("noop_with_empty_axes", 0) != 0 => return Ok(vec![call.input(0)?.clone()]),
        None => (0..shape.len()).collect(),
    };
    let kept: Vec<usize> =
        (0..shape.len()).map(|axis| if axes.contains(&axis) { 1 } else { shape[axis] }).collect();
    let result: Vec<usize> = match call.node.int("keepdims", 1) {
        0 => (0..shape.len()).filter(|axis| !axes.contains(axis)).map(|axis| shape[axis]).collect(),
        _ => kept.clone(),
    };
    if call.skips(shape) {
        return Ok(vec![super::blank(DType::F32, result)?]);
    }
    let mut sums = vec![start; kept.iter().product()];
    for (x, target) in x.iter().zip(super::elementwise::broadcast_indices(shape, &kept)) {
        sums[target] = step(sums[target], *x);
    }
    let count = (0..shape.len()).filter(|axis| axes.contains(axis)).map(|axis| shape[axis]).product();
    let values = sums.into_iter().map(|sum| finish(sum, count)).collect();
    Ok(vec![Tensor::f32(result, values)?])
}

fn arg_best(call: &Call<'_>, better: impl Fn(f32, f32) -> bool) -> Result<Vec<Tensor>, Fault> {
    let (shape, x) = call.floats(0)?;
    let axis = axis_of(call.node.int("axis", 0), shape.len())?;
    let (outer, along, inner) = around(shape, axis);
    if along == 0 {
        return Err("an empty axis".into());
    }
    let kept = call.node.int("keepdims", 1) != 0;
    if call.skips(shape) {
        let mut shape = shape.to_vec();
        shape[axis] = 1;
        if !kept {
            shape.remove(axis);
        }
        return Ok(vec![super::blank(DType::I64, shape)?]);
    }
    let best = |o: usize, i: usize| {
        let at = |k: usize| x[(o * along + k) * inner + i];
        (1..along).fold(0, |best, k| if better(at(k), at(best)) { k } else { best }) as i64
    };
    let values = (0..outer).flat_map(|o| (0..inner).map(move |i| (o, i))).map(|(o, i)| best(o, i)).collect();
    let mut shape = shape.to_vec();
    if call.node.int("keepdims", 1) == 0 {
        shape.remove(axis);
    } else {
        shape[axis] = 1;
    }
    Ok(vec![Tensor::i64(shape, values)?])
}

fn cumulative(call: &Call<'_>) -> Result<Vec<Tensor>, Fault> {
    let (shape, x) = call.floats(0)?;
    let axis = match call.input(1)?.data() {
        TensorData::I64(axis) => axis.first().copied(),
        TensorData::Other(DType(6), bytes) => {
            bytes.first_chunk().map(|bytes| i64::from(i32::from_le_bytes(*bytes)))
        }
        _ => None,
    };
    let axis = axis_of(axis.ok_or("the axis is not an integer")?, shape.len())?;
    let (exclusive, reverse) = (call.node.int("exclusive", 0) != 0, call.node.int("reverse", 0) != 0);
    let (outer, along, inner) = around(shape, axis);
    if call.skips(shape) {
        return Ok(vec![super::blank(DType::F32, shape.to_vec())?]);
    }
    let mut y = vec![0.0; x.len()];
    for (o, i) in (0..outer).flat_map(|o| (0..inner).map(move |i| (o, i))) {
        let mut sum = 0.0;
        for k in 0..along {
            let at = (o * along + if reverse { along - 1 - k } else { k }) * inner + i;
            y[at] = if exclusive { sum } else { sum + x[at] };
            sum += x[at];
        }
    }
    Ok(vec![Tensor::f32(shape, y)?])
}

/// Each channel over a power of the squares of its neighbours.
fn local_response(call: &Call<'_>) -> Result<Vec<Tensor>, Fault> {
    let (shape, x) = call.floats(0)?;
    let &[_, channels, ref spatial @ ..] = shape else { return Err("the input has no channels".into()) };
    let size = usize::try_from(call.node.int("size", 0)).ok().filter(|&size| size > 0);
    let size = size.ok_or("the size is not positive")?.min(2 * channels + 1);
    let (alpha, beta) = (call.node.float("alpha", 1e-4), call.node.float("beta", 0.75));
    let bias = call.node.float("bias", 1.0);
    let plane: usize = spatial.iter().product::<usize>().max(1);
    let value = |(index, &x_at): (usize, &f32)| {
        let (c, rest) = (index / plane % channels, index - index / plane % channels * plane);
        let near = c.saturating_sub((size - 1) / 2)..(c + size / 2 + 1).min(channels);
        let squares: f32 = near.map(|c| x[rest + c * plane] * x[rest + c * plane]).sum();
        x_at / (bias + alpha / size as f32 * squares).powf(beta)
    };
    Ok(vec![Tensor::f32(shape, x.iter().enumerate().map(value).collect())?])
}

fn softmax(call: &Call<'_>) -> Result<Vec<Tensor>, Fault> {
    let (shape, x) = call.floats(0)?;
    let old = call.opset < 13; // until then all axes from `axis` on were taken as one
    let axis = axis_of(call.node.int("axis", if old { 1 } else { -1 }), shape.len())?;
    let (outer, along, inner) = match old {
        true => (shape[..axis].iter().product(), shape[axis..].iter().product(), 1),
        false => around(shape, axis),
    };
    let log = call.node.op == "LogSoftmax";
    let mut y = x.to_vec();
    for o in 0..outer {
        for i in 0..inner {
            let at = |k: usize| (o * along + k) * inner + i;
            let max = (0..along).map(|k| x[at(k)]).fold(f32::NEG_INFINITY, f32::max);
            let sum: f32 = (0..along).map(|k| (x[at(k)] - max).exp()).sum();
            for k in 0..along {
                let shifted = x[at(k)] - max;
                y[at(k)] = if log { shifted - sum.ln() } else { shifted.exp() / sum };
            }
        }
    }
    Ok(vec![Tensor::f32(shape, y)?])
}

/// Takes mean and variance out of `values`.
fn standardise(values: &mut [f32], epsilon: f32) {
    let n = values.len().max(1) as f32;
    let mean = values.iter().sum::<f32>() / n;
    let variance = values.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>() / n;
    let factor = 1.0 / (variance + epsilon).sqrt();
    values.iter_mut().for_each(|x| *x = (*x - mean) * factor);
}

fn layer_norm(call: &Call<'_>) -> Result<Vec<Tensor>, Fault> {
    let ((shape, x), (_, scale)) = (call.floats(0)?, call.floats(1)?);
    let bias = call.optional(2).map(|_| call.floats(2)).transpose()?.map(|(_, bias)| bias);
    let axis = axis_of(call.node.int("axis", -1), shape.len())?;
    let length: usize = shape[axis..].iter().product();
    if scale.len() != length || bias.is_some_and(|bias| bias.len() != length) {
        return Err("the scale or bias does not fit the normalised axes".into());
    }
    let mut y = x.to_vec();
    for row in y.chunks_mut(length.max(1)) {
        standardise(row, call.node.float("epsilon", 1e-5));
        for (i, value) in row.iter_mut().enumerate() {
            *value = *value * scale[i] + bias.map_or(0.0, |bias| bias[i]);
        }
    }
    Ok(vec![Tensor::f32(shape, y)?])
}

/// Group normalisation; instance normalisation where each channel is its own group.
fn group_norm(call: &Call<'_>, groups: Option<i64>) -> Result<Vec<Tensor>, Fault> {
    let ((shape, x), (_, scale), (_, bias)) = (call.floats(0)?, call.floats(1)?, call.floats(2)?);
    let &[_, channels, ref spatial @ ..] = shape else { return Err("the input has no channels".into()) };
    let groups = groups.map_or(channels, |groups| usize::try_from(groups).unwrap_or(0));
    if groups == 0 || !channels.is_multiple_of(groups) || scale.len() != bias.len() {
        return Err(format!("{channels} channels in {groups} groups do not fit").into());
    }
    let per = match scale.len() {
        length if length == channels => 1,
        length if length == groups => channels / groups, // operator set 18 had a scale a group
        _ => return Err("the scale fits neither channels nor groups".into()),
    };
    let plane: usize = spatial.iter().product();
    let mut y = x.to_vec();
    for group in y.chunks_mut((channels / groups * plane).max(1)) {
        standardise(group, call.node.float("epsilon", 1e-5));
    }
    for (index, values) in y.chunks_mut(plane.max(1)).enumerate() {
        let c = index % channels / per;
        values.iter_mut().for_each(|value| *value = *value * scale[c] + bias[c]);
    }
    Ok(vec![Tensor::f32(shape, y)?])
}
