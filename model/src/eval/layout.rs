//! Operators that move elements about and leave them as they are. Each makes a list of which element goes where, so
//! it works for every element type, and for labels in place of values (`groups`).

use secateur_common::caps;

use super::elementwise::{broadcast_indices, broadcast_shape};
use super::{Call, Fault, axis_of, picked, zeros_count};
use crate::Tensor;

pub(super) fn apply(call: &Call<'_>) -> Result<Vec<Tensor>, Fault> {
    let one = |tensor| Ok(vec![tensor]);
    match call.node.op.as_str() {
        "Identity" | "Dropout" => one(call.input(0)?.clone()),
        "Reshape" => one(reshape(call)?),
        "Flatten" => one(flatten(call)?),
        "Squeeze" => one(squeeze(call)?),
        "Unsqueeze" => one(unsqueeze(call)?),
        "Transpose" => one(transpose(call)?),
        "Expand" => one(expand(call)?),
        "Tile" => one(tile(call)?),
        "DepthToSpace" | "SpaceToDepth" => one(depth_space(call)?),
        _ => Err(Fault::Unknown),
    }
}

pub(super) fn dims(values: &[i64]) -> Result<Vec<usize>, Fault> {
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

pub(super) fn strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis] * shape[axis];
    }
    strides
}

/// Row-major positions of the product of per-axis lists of (element offset) choices.
pub(super) fn grid(choices: &[Vec<usize>]) -> Vec<usize> {
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
    picked(call, tensor, shape, || grid(&choices))
}

fn expand(call: &Call<'_>) -> Result<Tensor, Fault> {
    let tensor = call.input(0)?;
    let asked = dims(call.input(1)?.as_i64().ok_or("the shape is not of integers")?)?;
    let shape = broadcast_shape(tensor.shape(), &asked)?;
    zeros_count(&shape)?;
    picked(call, tensor, shape.clone(), || broadcast_indices(&shape, tensor.shape()))
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
    picked(call, tensor, shape.clone(), || grid(&choices))
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
        picked(call, tensor, to.to_vec(), || grid(&choices))
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
