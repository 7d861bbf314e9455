//! Operators that join, divide, pick and pad: like [`layout`](super::layout), for values of every type and for labels.

use secateur_common::caps;

use super::layout::{dims, strides};
use super::{Call, Fault, axis_of, blank, zeros_count};
use crate::Tensor;

pub(super) fn apply(call: &Call<'_>) -> Result<Vec<Tensor>, Fault> {
    match call.node.op.as_str() {
        "Concat" => Ok(vec![concat(call)?]),
        "Split" => split(call),
        "Slice" => Ok(vec![slice(call)?]),
        "Gather" => Ok(vec![gather(call)?]),
        "Pad" => Ok(vec![pad(call)?]),
        _ => Err(Fault::Unknown),
    }
}

fn concat(call: &Call<'_>) -> Result<Tensor, Fault> {
    let parts = (0..call.inputs.len()).map(|index| call.input(index)).collect::<Result<Vec<_>, _>>()?;
    let first = *parts.first().ok_or("nothing to join")?;
    let axis = axis_of(call.node.int("axis", 0), first.shape().len())?;
    let fits = |part: &&Tensor| {
        part.dtype() == first.dtype()
            && part.shape().len() == first.shape().len()
            && (0..first.shape().len()).all(|a| a == axis || part.shape()[a] == first.shape()[a])
    };
    if !parts.iter().all(fits) {
        return Err("the parts do not fit each other".into());
    }
    let mut shape = first.shape().to_vec();
    shape[axis] = parts.iter().map(|part| part.shape()[axis]).fold(0, usize::saturating_add);
    if call.skips(&shape) {
        return blank(first.dtype(), shape);
    }
    Tensor::concatenated(&parts, axis).map_err(Into::into)
}

fn split(call: &Call<'_>) -> Result<Vec<Tensor>, Fault> {
    let tensor = call.input(0)?;
    let axis = axis_of(call.node.int("axis", 0), tensor.shape().len())?;
    let length = tensor.shape()[axis];
    let sizes = match call.ints("split", 1)? {
        Some(sizes) => dims(&sizes)?,
        None => {
            let outputs = call.node.outputs.len();
            let parts = usize::try_from(call.node.int("num_outputs", outputs as i64)).unwrap_or(0);
            if !(1..=outputs).contains(&parts) {
                return Err(format!("{parts} parts for {outputs} outputs").into());
            }
            let size = length.div_ceil(parts);
            (0..parts).map(|i| size.min(length.saturating_sub(i * size))).collect()
        }
    };
    if sizes.iter().try_fold(0usize, |sum, &size| sum.checked_add(size)) != Some(length) {
        return Err(format!("parts {sizes:?} do not add up to {length}").into());
    }
    let mut start = 0;
    let part = |size: usize| {
        if call.skips(tensor.shape()) {
            let mut shape = tensor.shape().to_vec();
            shape[axis] = size;
            return blank(tensor.dtype(), shape);
        }
        let keep: Vec<usize> = (start..start + size).collect();
        start += size;
        Ok(tensor.gathered(axis, &keep))
    };
    sizes.into_iter().map(part).collect()
}

fn slice(call: &Call<'_>) -> Result<Tensor, Fault> {
    let tensor = call.input(0)?;
    let rank = tensor.shape().len();
    let starts = call.ints("starts", 1)?.ok_or("no starts are given")?;
    let ends = call.ints("ends", 2)?.ok_or("no ends are given")?;
    let axes = call.ints("axes", 3)?.unwrap_or_else(|| (0..starts.len() as i64).collect());
    let steps = call.ints("steps", 4)?.unwrap_or_else(|| vec![1; starts.len()]);
    if [ends.len(), axes.len(), steps.len()].iter().any(|&length| length != starts.len()) {
        return Err("starts, ends, axes and steps are of different lengths".into());
    }
    if starts.len() > rank {
        return Err(format!("{} slices of {rank} axes", starts.len()).into());
    }
    let mut result = tensor.clone();
    for (((&start, &end), &axis), &step) in starts.iter().zip(&ends).zip(&axes).zip(&steps) {
        let axis = axis_of(axis, rank)?;
        let length = result.shape()[axis] as i64;
        let from_end = |at: i64| if at < 0 { at.saturating_add(length) } else { at };
        let keep: Vec<usize> = match step {
            0 => return Err("a step of zero".into()),
            1.. => {
                let (start, end) = (from_end(start).clamp(0, length), from_end(end).clamp(0, length));
                (start..end)
                    .step_by(usize::try_from(step).unwrap_or(usize::MAX))
                    .map(|i| i as usize)
                    .collect()
            }
            _ => {
                let (start, end) =
                    (from_end(start).clamp(-1, length - 1), from_end(end).clamp(-1, length - 1));
                let stride = usize::try_from(step.unsigned_abs()).unwrap_or(usize::MAX);
                (end + 1..=start).rev().step_by(stride).map(|i| i as usize).collect()
            }
        };
        result = if call.skips(result.shape()) {
            let mut shape = result.shape().to_vec();
            shape[axis] = keep.len();
            blank(result.dtype(), shape)?
        } else {
            result.gathered(axis, &keep)
        };
    }
    Ok(result)
}

fn gather(call: &Call<'_>) -> Result<Tensor, Fault> {
    let (tensor, indices) = (call.input(0)?, call.input(1)?);
    let axis = axis_of(call.node.int("axis", 0), tensor.shape().len())?;
    let length = tensor.shape()[axis];
    let chosen = indices.as_i64().ok_or("the indices are not 64-bit integers")?;
    let keep = chosen.iter().map(|&index| axis_of(index, length)).collect::<Result<Vec<_>, _>>()?;
    let mut shape = tensor.shape()[..axis].to_vec();
    shape.extend(indices.shape());
    shape.extend(&tensor.shape()[axis + 1..]);
    zeros_count(&shape)?;
    if call.skips(&shape) {
        return blank(tensor.dtype(), shape);
    }
    Ok(tensor.gathered(axis, &keep).reshaped(shape)?)
}

fn pad(call: &Call<'_>) -> Result<Tensor, Fault> {
    let tensor = call.input(0)?;
    let rank = tensor.shape().len();
    let pads = call.ints("pads", 1)?.ok_or("no pads are given")?;
    let axes = match call.ints("axes", 3)? {
        Some(axes) => axes.iter().map(|&axis| axis_of(axis, rank)).collect::<Result<Vec<_>, _>>()?,
        None => (0..rank).collect(),
    };
    if pads.len() != 2 * axes.len() {
        return Err(format!("{} pads for {} axes", pads.len(), axes.len()).into());
    }
    let (mut before, mut after) = (vec![0; rank], vec![0; rank]);
    for (index, &axis) in axes.iter().enumerate() {
        (before[axis], after[axis]) = (pads[index], pads[index + axes.len()]);
    }
    if pads.iter().any(|pad| pad.unsigned_abs() > caps::TENSOR_ELEMENTS as u64) {
        return Err("a pad is over the limit".into());
    }
    let mode = call.node.text("mode").unwrap_or("constant");
    // Element 0 of the source is the fill; element i + 1 stands for the input's element i.
    let steps = strides(tensor.shape());
    let mut choices = Vec::with_capacity(rank);
    let mut shape = Vec::with_capacity(rank);
    for axis in 0..rank {
        let length = tensor.shape()[axis] as i64;
        let total = length + before[axis] + after[axis];
        let total = usize::try_from(total).map_err(|_| "pads cut away more than there is")?;
        zeros_count(&[total])?;
        if length == 0 && total > 0 && mode != "constant" {
            return Err("an empty axis has nothing to repeat".into());
        }
        let at = |o: usize| source_position(o as i64 - before[axis], length, mode).map(|i| i * steps[axis]);
        choices.push((0..total).map(at).collect::<Vec<_>>());
        shape.push(total);
    }
    zeros_count(&shape)?;
    if call.skips(&shape) {
        return blank(tensor.dtype(), shape);
    }
    let mut indices = vec![Some(0)];
    for offsets in &choices {
        indices = indices.iter().flat_map(|&base| offsets.iter().map(move |&o| Some(base? + o?))).collect();
    }
    let fill = match call.optional(2) {
        Some(value) if value.dtype() == tensor.dtype() && value.len() == 1 => value.reshaped([1])?,
        Some(_) => return Err("the fill is not one element of the input's type".into()),
        None if tensor.as_f32().is_some() => Tensor::f32([1], vec![call.node.float("value", 0.0)])?,
        None => Tensor::i64([1], vec![0])?,
    };
    let source = Tensor::concatenated(&[&fill, &tensor.reshaped([tensor.len()])?], 0)?;
    let indices: Vec<usize> = indices.into_iter().map(|index| index.map_or(0, |i| i + 1)).collect();
    Ok(source.picked(shape, &indices))
}

/// Where a padded position reads from; `None` for the fill.
fn source_position(at: i64, length: i64, mode: &str) -> Option<usize> {
    let inside = (0..length).contains(&at);
    let position = match mode {
        _ if inside => at,
        "edge" => at.clamp(0, length - 1),
        "reflect" if length > 1 => {
            let period = 2 * (length - 1);
            let folded = at.rem_euclid(period);
            folded.min(period - folded)
        }
        "wrap" => at.rem_euclid(length.max(1)),
        _ => return None,
    };
    usize::try_from(position).ok()
}
