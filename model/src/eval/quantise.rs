//! 8-bit values and back: `QuantizeLinear`, `DequantizeLinear`, by one scale or one a channel.

use std::sync::Arc;

use super::{Call, Fault, axis_of, blank};
use crate::{DType, Tensor, TensorData};

const U8: DType = DType(2);
const I8: DType = DType(3);

pub(super) fn apply(call: &Call<'_>) -> Result<Vec<Tensor>, Fault> {
    match call.node.op.as_str() {
        "QuantizeLinear" => Ok(vec![quantised(call)?]),
        "DequantizeLinear" => Ok(vec![dequantised(call)?]),
        _ => Err(Fault::Unknown),
    }
}

/// For each element of `shape`, which scale is its own.
fn scales(call: &Call<'_>, shape: &[usize]) -> Result<impl Fn(usize) -> usize, Fault> {
    let count = call.floats(1)?.1.len();
    if call.node.int("block_size", 0) != 0 {
        return Err("scales of blocks are not supported".into());
    }
    let inner = match count {
        1 => 1,
        _ => {
            let axis = axis_of(call.node.int("axis", 1), shape.len())?;
            if shape[axis] != count {
                return Err(format!("{count} scales for an axis of {}", shape[axis]).into());
            }
            shape[axis + 1..].iter().product::<usize>().max(1)
        }
    };
    Ok(move |index: usize| index / inner % count.max(1))
}

fn integers(tensor: &Tensor) -> Result<Vec<i32>, Fault> {
    match tensor.data() {
        TensorData::Other(U8, bytes) => Ok(bytes.iter().map(|&x| i32::from(x)).collect()),
        TensorData::Other(I8, bytes) => Ok(bytes.iter().map(|&x| i32::from(x as i8)).collect()),
        TensorData::Other(DType(6), bytes) => {
            Ok(bytes.chunks_exact(4).map(|b| i32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
        }
        _ => Err(format!("type {} is not supported", tensor.dtype().0).into()),
    }
}

/// The zero point of each scale.
fn zeros(call: &Call<'_>, count: usize) -> Result<Vec<i32>, Fault> {
    let zeros = call.optional(2).map(integers).transpose()?.unwrap_or_else(|| vec![0; count]);
    if zeros.len() == count { Ok(zeros) } else { Err("zero points and scales do not fit".into()) }
}

fn dequantised(call: &Call<'_>) -> Result<Tensor, Fault> {
    let tensor = call.input(0)?;
    let (scale, at) = (call.floats(1)?.1, scales(call, tensor.shape())?);
    let zero = zeros(call, scale.len())?;
    if call.skips(tensor.shape()) {
        return blank(DType::F32, tensor.shape().to_vec());
    }
    let value = |(index, &q): (usize, &i32)| q.wrapping_sub(zero[at(index)]) as f32 * scale[at(index)];
    Ok(Tensor::f32(tensor.shape(), integers(tensor)?.iter().enumerate().map(value).collect())?)
}

fn quantised(call: &Call<'_>) -> Result<Tensor, Fault> {
    let (shape, x) = call.floats(0)?;
    let (scale, at) = (call.floats(1)?.1, scales(call, shape)?);
    let dtype = call.optional(2).map_or(U8, Tensor::dtype);
    let zero = zeros(call, scale.len())?;
    let (low, high) = match dtype {
        U8 => (0, 255),
        I8 => (-128, 127),
        other => return Err(format!("to type {} is not supported", other.0).into()),
    };
    if call.skips(shape) {
        return blank(dtype, shape.to_vec());
    }
    let value = |(index, &x): (usize, &f32)| {
        let q = (x / scale[at(index)]).round_ties_even() as i64 + i64::from(zero[at(index)]);
        q.clamp(low, high) as u8
    };
    let bytes = x.iter().enumerate().map(value).collect();
    Ok(Tensor::new(shape.to_vec(), TensorData::Other(dtype, Arc::new(bytes)))?)
}
