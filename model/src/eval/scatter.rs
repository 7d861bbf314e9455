//! Operators that read or write single places named by indices.

use super::layout::strides;
use super::{Call, Fault, axis_of, blank, zeros_count};
use crate::{Tensor, TensorData};

pub(super) fn apply(call: &Call<'_>) -> Result<Vec<Tensor>, Fault> {
    match call.node.op.as_str() {
        "ScatterND" => Ok(vec![scatter_nd(call)?]),
        "GatherND" => Ok(vec![gather_nd(call)?]),
        "GatherElements" => Ok(vec![gather_elements(call)?]),
        "Trilu" => Ok(vec![trilu(call)?]),
        _ => Err(Fault::Unknown),
    }
}

fn indices<'a>(call: &Call<'a>) -> Result<(&'a [usize], &'a [i64]), Fault> {
    let tensor = call.input(1)?;
    Ok((tensor.shape(), tensor.as_i64().ok_or("the indices are not 64-bit integers")?))
}

/// Where each tuple of indices points to, and how many elements lie there.
fn places(shape: &[usize], (own, values): (&[usize], &[i64])) -> Result<(Vec<usize>, usize), Fault> {
    let &[.., depth] = own else { return Err("the indices have no axes".into()) };
    if depth == 0 || depth > shape.len() {
        return Err(format!("{depth} indices for {} axes", shape.len()).into());
    }
    let steps = strides(shape);
    let place = |tuple: &[i64]| -> Result<usize, Fault> {
        let parts = tuple.iter().enumerate().map(|(axis, &at)| Ok(axis_of(at, shape[axis])? * steps[axis]));
        parts.sum()
    };
    let found = values.chunks_exact(depth).map(place).collect::<Result<_, Fault>>()?;
    Ok((found, shape[depth..].iter().product()))
}

fn scatter_nd(call: &Call<'_>) -> Result<Tensor, Fault> {
    let (tensor, updates) = (call.input(0)?, call.input(2)?);
    if call.node.text("reduction").unwrap_or("none") != "none" {
        return Err("reductions are not supported".into());
    }
    if call.skips(tensor.shape()) {
        return blank(tensor.dtype(), tensor.shape().to_vec());
    }
    let (places, length) = places(tensor.shape(), indices(call)?)?;
    if updates.dtype() != tensor.dtype() || updates.len() != places.len() * length {
        return Err("the updates do not fit".into());
    }
    // Which element of the data, or after them of the updates, stands where.
    let mut source: Vec<usize> = (0..tensor.len()).collect();
    for (index, &place) in places.iter().enumerate() {
        let first = tensor.len() + index * length;
        source[place..place + length].iter_mut().enumerate().for_each(|(i, at)| *at = first + i);
    }
    let both = [tensor, updates].map(|tensor| tensor.reshaped([tensor.len()]));
    let [data, updates] = both;
    Ok(Tensor::concatenated(&[&data?, &updates?], 0)?.picked(tensor.shape().to_vec(), &source))
}

fn gather_nd(call: &Call<'_>) -> Result<Tensor, Fault> {
    let tensor = call.input(0)?;
    if call.node.int("batch_dims", 0) != 0 {
        return Err("batch dimensions are not supported".into());
    }
    let (own, values) = indices(call)?;
    let (places, length) = places(tensor.shape(), (own, values))?;
    let depth = own[own.len() - 1];
    let shape = [&own[..own.len() - 1], &tensor.shape()[depth..]].concat();
    zeros_count(&shape)?;
    if call.skips(&shape) {
        return blank(tensor.dtype(), shape);
    }
    let source: Vec<usize> = places.iter().flat_map(|&place| place..place + length).collect();
    Ok(tensor.picked(shape, &source))
}

fn gather_elements(call: &Call<'_>) -> Result<Tensor, Fault> {
    let tensor = call.input(0)?;
    let (own, values) = indices(call)?;
    let axis = axis_of(call.node.int("axis", 0), tensor.shape().len())?;
    let inside = own.len() == tensor.shape().len()
        && (0..own.len()).all(|other| other == axis || own[other] <= tensor.shape()[other]);
    if !inside {
        return Err(format!("indices {own:?} do not fit {:?}", tensor.shape()).into());
    }
    if call.skips(own) {
        return blank(tensor.dtype(), own.to_vec());
    }
    let (from, to) = (strides(tensor.shape()), strides(own));
    let place = |(index, &at): (usize, &i64)| -> Result<usize, Fault> {
        let position = |other: usize| index / to[other] % own[other];
        let others = (0..own.len()).filter(|&other| other != axis).map(|other| position(other) * from[other]);
        Ok(others.sum::<usize>() + axis_of(at, tensor.shape()[axis])? * from[axis])
    };
    let source = values.iter().enumerate().map(place).collect::<Result<Vec<_>, Fault>>()?;
    Ok(tensor.picked(own.to_vec(), &source))
}

/// One triangle of each matrix, zeros elsewhere.
fn trilu(call: &Call<'_>) -> Result<Tensor, Fault> {
    let tensor = call.input(0)?;
    let &[.., rows, cols] = tensor.shape() else { return Err("the input has no matrices".into()) };
    let shift = match call.optional(1) {
        Some(k) => k.as_i64().and_then(|k| k.first().copied()).ok_or("the diagonal is not an integer")?,
        None => 0,
    };
    let upper = call.node.int("upper", 1) != 0;
    let stays = |index: usize| {
        let distance = (index % cols) as i64 - (index / cols % rows) as i64;
        if upper { distance >= shift } else { distance <= shift }
    };
    if call.skips(tensor.shape()) {
        return blank(tensor.dtype(), tensor.shape().to_vec());
    }
    match tensor.data() {
        TensorData::F32(x) => {
            let values = x.iter().enumerate().map(|(i, &x)| if stays(i) { x } else { 0.0 });
            Ok(Tensor::f32(tensor.shape(), values.collect())?)
        }
        TensorData::I64(x) => {
            let values = x.iter().enumerate().map(|(i, &x)| if stays(i) { x } else { 0 });
            Ok(Tensor::i64(tensor.shape(), values.collect())?)
        }
        TensorData::Other(..) => Err("its type is not supported".into()),
    }
}
