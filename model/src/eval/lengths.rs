//! Operators that make values of shapes, and shapes of values.

use super::layout::dims;
use super::{Call, Fault, blank, zeros_count};
use crate::{Attribute, Tensor};

pub(super) fn apply(call: &Call<'_>) -> Result<Vec<Tensor>, Fault> {
    let result = match call.node.op.as_str() {
        "Shape" => shape(call)?,
        "Size" => Tensor::i64([], vec![call.input(0)?.len() as i64])?,
        "Constant" => match call.node.attributes.get("value") {
            Some(Attribute::Tensor(tensor)) => tensor.clone(),
            _ => return Err(Fault::Unknown),
        },
        "ConstantOfShape" => constant_of_shape(call)?,
        "Range" => range(call)?,
        _ => return Err(Fault::Unknown),
    };
    Ok(vec![result])
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
        Some(Attribute::Tensor(value)) if value.len() == 1 && call.skips(&shape) => {
            blank(value.dtype(), shape)
        }
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
