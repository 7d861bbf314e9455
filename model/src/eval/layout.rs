//! Operators that move elements about and leave them as they are. Each makes a list of which element goes where, so
//! it works for every element type, and for labels in place of values (`groups`).

use secateur_common::caps;

use super::elementwise::{broadcast_indices, broadcast_shape};
use super::{Call, Fault, axis_of, zeros_count};
use crate::{Attribute, Tensor};

pub(super) fn apply(call: &Call<'_>) -> Result<Vec<Tensor>, Fault> {
    let one = |tensor| Ok(vec![tensor]);
    match call.node.op.as_str() {
        "Identity" | "Dropout" => one(call.input(0)?.clone()),
        "Shape" => one(shape(call)?),
        "Size" => one(Tensor::i64([], vec![call.input(0)?.len() as i64])?),
        "Constant" => match call.node.attributes.get("value") {
            Some(Attribute::Tensor(tensor)) => one(tensor.clone()),
            _ => Err(Fault::Unknown),
        },
        "ConstantOfShape" => one(constant_of_shape(call)?),
        "Range" => one(range(call)?),
        "Reshape" => one(reshape(call)?),
        "Flatten" => one(flatten(call)?),
        "Squeeze" => one(squeeze(call)?),
        "Unsqueeze" => one(unsqueeze(call)?),
        "Transpose" => one(transpose(call)?),
        "Concat" => one(concat(call)?),
        "Split" => split(call),
        "Slice" => one(slice(call)?),
        "Gather" => one(gather(call)?),
        "Pad" => one(pad(call)?),
        "Expand" => one(expand(call)?),
        "Tile" => one(tile(call)?),
        "Resize" | "Upsample" => one(resize(call)?),
        "DepthToSpace" | "SpaceToDepth" => one(depth_space(call)?),
        _ => Err(Fault::Unknown),
    }
}

fn shape(call: &Call<'_>) -> Result<Tensor, Fault> {
    let dims: Vec<i64> = call.input(0)?.shape().iter().map(|&dim| dim as i64).collect();
    let clamp =
        |at: i64| (if at < 0 { at + dims.len() as i64 } else { at }).clamp(0, dims.len() as i64) as usize;
    let (start, end) = (clamp(call.node.int("start", 0)), clamp(call.node.int("end", dims.len() as i64)));
    let part = dims.get(start..end.max(start)).unwrap_or_default().to_vec();
    Ok(Tensor::i64([part.len()], part)?)
}

fn constant_of_shape(call: &Call<'_>) -> Result<Tensor, Fault> {
    let shape = dims(call.input(0)?.as_i64().ok_or("the shape is not of integers")?)?;
    let count = zeros_count(&shape)?;
    match call.node.attributes.get("value") {
        None => Ok(Tensor::f32(shape, vec![0.0; count])?),
        Some(Attribute::Tensor(value)) if value.len() == 1 => Ok(value.picked(shape, &vec![0; count])),
        Some(_) => Err("the value is not one element".into()),
    }
}

fn range(call: &Call<'_>) -> Result<Tensor, Fault> {
    let part = |index: usize| -> Result<i64, Fault> {
        let values = call.input(index)?.as_i64().ok_or("only ranges of integers are supported")?;
        values.first().copied().ok_or_else(|| "an empty bound".into())
    };
    let (start, limit, step) = (part(0)?, part(1)?, part(2)?);
    let count = match step {
        0 => return Err("a step of zero".into()),
        step => {
            (i128::from(limit) - i128::from(start) + i128::from(step) - i128::from(step.signum()))
                / i128::from(step)
        }
    };
    let count = zeros_count(&[usize::try_from(count.max(0)).map_err(|_| "too long")?])?;
    Ok(Tensor::i64([count], (0..count as i64).map(|i| start + i * step).collect())?)
}

fn dims(values: &[i64]) -> Result<Vec<usize>, Fault> {
    values.iter().map(|&v| usize::try_from(v).map_err(|_| format!("a dimension of {v}").into())).collect()
}

fn reshape(call: &Call<'_>) -> Result<Tensor, Fault> {
    let tensor = call.input(0)?;
    let asked = call.ints("shape", 1)?.ok_or("no shape is given")?;
    let allow_zero = call.node.int("allowzero", 0) != 0;
    let mut shape = Vec::with_capacity(asked.len());
    let mut free = None;
    for (axis, &dim) in asked.iter().enumerate() {
        shape.push(match dim {
            -1 if free.is_none() => {
                free = Some(axis);
                1
            }
            0 if !allow_zero => *tensor.shape().get(axis).ok_or("a dimension of 0 has nothing to copy")?,
            dim => usize::try_from(dim).map_err(|_| format!("a dimension of {dim}"))?,
        });
    }
    if let Some(axis) = free {
        let rest = zeros_count(&shape)?;
        if rest == 0 || tensor.len() % rest != 0 {
            return Err(format!("{:?} does not reshape to {asked:?}", tensor.shape()).into());
        }
        shape[axis] = tensor.len() / rest;
    }
    Ok(tensor.reshaped(shape)?)
}

fn flatten(call: &Call<'_>) -> Result<Tensor, Fault> {
    let tensor = call.input(0)?;
    let rank = tensor.shape().len();
    let axis = match call.node.int("axis", 1) {
        axis if axis == rank as i64 => rank,
        axis => axis_of(axis, rank)?,
    };
    let (head, tail) = tensor.shape().split_at(axis);
    Ok(tensor.reshaped([head.iter().product(), tail.iter().product::<usize>()])?)
}

fn squeeze(call: &Call<'_>) -> Result<Tensor, Fault> {
    let tensor = call.input(0)?;
    let rank = tensor.shape().len();
    let drop = match call.ints("axes", 1)? {
        Some(axes) => axes.iter().map(|&axis| axis_of(axis, rank)).collect::<Result<Vec<_>, _>>()?,
        None => (0..rank).filter(|&axis| tensor.shape()[axis] == 1).collect(),
    };
    if drop.iter().any(|&axis| tensor.shape()[axis] != 1) {
        return Err(format!("cannot squeeze {:?} at {drop:?}", tensor.shape()).into());
    }
    let kept = (0..rank).filter(|axis| !drop.contains(axis)).map(|axis| tensor.shape()[axis]);
    Ok(tensor.reshaped(kept.collect::<Vec<_>>())?)
}

fn unsqueeze(call: &Call<'_>) -> Result<Tensor, Fault> {
    let tensor = call.input(0)?;
    let axes = call.ints("axes", 1)?.ok_or("no axes are given")?;
    let rank = tensor.shape().len() + axes.len();
    if rank > caps::TENSOR_RANK {
        return Err(format!("{rank} axes are over the limit").into());
    }
    let new = axes.iter().map(|&axis| axis_of(axis, rank)).collect::<Result<Vec<_>, _>>()?;
    let mut old = tensor.shape().iter();
    let shape: Vec<_> = (0..rank)
        .map(|axis| if new.contains(&axis) { 1 } else { old.next().copied().unwrap_or(1) })
        .collect();
    Ok(tensor.reshaped(shape)?)
}

fn strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis] * shape[axis];
    }
    strides
}

/// Row-major positions of the product of per-axis lists of (element offset) choices.
fn grid(choices: &[Vec<usize>]) -> Vec<usize> {
    let mut indices = vec![0];
    for offsets in choices {
        indices = indices.iter().flat_map(|&base| offsets.iter().map(move |&offset| base + offset)).collect();
    }
    indices
}

fn transpose(call: &Call<'_>) -> Result<Tensor, Fault> {
    let tensor = call.input(0)?;
    let rank = tensor.shape().len();
    let order = match call.node.ints("perm") {
        Some(perm) => perm.iter().map(|&axis| axis_of(axis, rank)).collect::<Result<Vec<_>, _>>()?,
        None => (0..rank).rev().collect(),
    };
    let mut sorted = order.clone();
    sorted.sort_unstable();
    if sorted != (0..rank).collect::<Vec<_>>() {
        return Err(format!("{order:?} is no permutation of {rank} axes").into());
    }
    let steps = strides(tensor.shape());
    let choices: Vec<Vec<usize>> =
        order.iter().map(|&axis| (0..tensor.shape()[axis]).map(|i| i * steps[axis]).collect()).collect();
    let shape = order.iter().map(|&axis| tensor.shape()[axis]).collect();
    Ok(tensor.picked(shape, &grid(&choices)))
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
        let keep: Vec<usize> = (start..start + size).collect();
        start += size;
        tensor.gathered(axis, &keep)
    };
    Ok(sizes.into_iter().map(part).collect())
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
        result = result.gathered(axis, &keep);
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

fn expand(call: &Call<'_>) -> Result<Tensor, Fault> {
    let tensor = call.input(0)?;
    let asked = dims(call.input(1)?.as_i64().ok_or("the shape is not of integers")?)?;
    let shape = broadcast_shape(tensor.shape(), &asked)?;
    zeros_count(&shape)?;
    let indices = broadcast_indices(&shape, tensor.shape());
    Ok(tensor.picked(shape, &indices))
}

fn tile(call: &Call<'_>) -> Result<Tensor, Fault> {
    let tensor = call.input(0)?;
    let repeats = dims(call.input(1)?.as_i64().ok_or("the repeats are not integers")?)?;
    if repeats.len() != tensor.shape().len() {
        return Err("as many repeats as axes are needed".into());
    }
    let mut shape = Vec::new();
    for (&dim, &repeat) in tensor.shape().iter().zip(&repeats) {
        shape.push(dim.checked_mul(repeat).ok_or("too large")?);
    }
    zeros_count(&shape)?;
    let steps = strides(tensor.shape());
    let axis = |axis: usize| (0..shape[axis]).map(|i| i % tensor.shape()[axis] * steps[axis]).collect();
    let choices: Vec<Vec<usize>> = (0..shape.len()).map(axis).collect();
    Ok(tensor.picked(shape.clone(), &grid(&choices)))
}

/// Nearest-neighbour only, with asymmetric, half-pixel or align-corners coordinates.
fn resize(call: &Call<'_>) -> Result<Tensor, Fault> {
    let tensor = call.input(0)?;
    if call.node.text("mode").unwrap_or("nearest") != "nearest" {
        return Err("only nearest-neighbour resizing is supported".into());
    }
    let upsample = call.node.op == "Upsample" || call.opset < 11;
    let scales = call.optional(if upsample { 1 } else { 2 }).filter(|scales| !scales.is_empty());
    let attribute = match call.node.attributes.get("scales") {
        Some(Attribute::Floats(scales)) => Some(scales.as_slice()),
        _ => None,
    };
    let sizes = call.optional(3).and_then(Tensor::as_i64).filter(|sizes| !sizes.is_empty());
    let rank = tensor.shape().len();
    let (shape, scales): (Vec<usize>, Vec<f32>) = match (scales.and_then(Tensor::as_f32).or(attribute), sizes)
    {
        (Some(scales), _) if scales.len() == rank => {
            let shape =
                tensor.shape().iter().zip(scales).map(|(&dim, &scale)| (dim as f32 * scale).floor() as usize);
            (shape.collect(), scales.to_vec())
        }
        (None, Some(sizes)) if sizes.len() == rank => {
            let shape = dims(sizes)?;
            let scales = shape.iter().zip(tensor.shape()).map(|(&new, &old)| new as f32 / old as f32);
            (shape.clone(), scales.collect())
        }
        _ => return Err("neither scales nor sizes fit".into()),
    };
    zeros_count(&shape)?;
    let coordinates = call.node.text("coordinate_transformation_mode");
    let coordinates = coordinates.unwrap_or(if upsample { "asymmetric" } else { "half_pixel" });
    let rounding =
        call.node.text("nearest_mode").unwrap_or(if upsample { "floor" } else { "round_prefer_floor" });
    let steps = strides(tensor.shape());
    let position = |axis: usize, o: usize| {
        let (length, scale, o) = (tensor.shape()[axis], scales[axis], o as f32);
        let x = match coordinates {
            "asymmetric" => o / scale,
            "align_corners" if shape[axis] > 1 => o * (length as f32 - 1.0) / (shape[axis] as f32 - 1.0),
            "align_corners" => 0.0,
            "pytorch_half_pixel" if shape[axis] == 1 => 0.0,
            _ => (o + 0.5) / scale - 0.5,
        };
        let rounded = match rounding {
            "floor" => x.floor(),
            "ceil" => x.ceil(),
            "round_prefer_ceil" => (x + 0.5).floor(),
            _ => (x - 0.5).ceil(),
        };
        (rounded.max(0.0) as usize).min(length.saturating_sub(1)) * steps[axis]
    };
    let choices: Vec<Vec<usize>> =
        (0..rank).map(|axis| (0..shape[axis]).map(|o| position(axis, o)).collect()).collect();
    if tensor.is_empty() {
        return Err("an empty input".into());
    }
    Ok(tensor.picked(shape.clone(), &grid(&choices)))
}

fn depth_space(call: &Call<'_>) -> Result<Tensor, Fault> {
    let tensor = call.input(0)?;
    let block = usize::try_from(call.node.int("blocksize", 0)).unwrap_or(0);
    let &[n, c, h, w] = tensor.shape() else { return Err("the input has not four dimensions".into()) };
    let bad = || Fault::from("the block size does not divide the input");
    if block == 0 || block > caps::TENSOR_ELEMENTS {
        return Err(bad());
    }
    let permuted = |from: [usize; 6], order: [usize; 6], to: [usize; 4]| -> Result<Tensor, Fault> {
        let steps = strides(&from);
        let choices = order.map(|axis| (0..from[axis]).map(|i| i * steps[axis]).collect::<Vec<_>>());
        Ok(tensor.picked(to.to_vec(), &grid(&choices)))
    };
    if call.node.op == "SpaceToDepth" {
        if !h.is_multiple_of(block) || !w.is_multiple_of(block) {
            return Err(bad());
        }
        let (rows, cols) = (h / block, w / block);
        let depth = c.checked_mul(block * block).ok_or_else(bad)?;
        zeros_count(&[n, depth, rows, cols])?;
        return permuted([n, c, rows, block, cols, block], [0, 3, 5, 1, 2, 4], [n, depth, rows, cols]);
    }
    if !c.is_multiple_of(block * block) {
        return Err(bad());
    }
    let depth = c / (block * block);
    let to = [n, depth, h.saturating_mul(block), w.saturating_mul(block)];
    zeros_count(&to)?;
    match call.node.text("mode").unwrap_or("DCR") {
        "CRD" => permuted([n, depth, block, block, h, w], [0, 1, 4, 2, 5, 3], to),
        _ => permuted([n, block, block, depth, h, w], [0, 3, 4, 1, 5, 2], to),
    }
}
