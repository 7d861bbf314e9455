//! Operators that work position by position, with NumPy's broadcasting.

use std::sync::Arc;

use super::{BOOL, Call, Fault, blank};
use crate::{DType, Tensor, TensorData};

/// 32-bit integers, which TensorFlow's shapes are.
const I32: DType = DType(6);

pub(super) fn apply(call: &Call<'_>) -> Result<Vec<Tensor>, Fault> {
    let op = call.node.op.as_str();
    if let Some(shape) = large(call)? {
        let dtype = match op {
            "Equal" | "Less" | "Greater" | "LessOrEqual" | "GreaterOrEqual" | "And" | "Or" | "Xor"
            | "Not" | "IsNaN" => BOOL,
            "Cast" => DType(i32::try_from(call.node.int("to", 0)).unwrap_or(0)),
            "CastLike" | "Where" => call.input(1)?.dtype(),
            _ => call.input(0)?.dtype(),
        };
        return Ok(vec![blank(dtype, shape)?]);
    }
    let result = match op {
        "Add" | "Sub" | "Mul" | "Div" | "Pow" | "Mod" => arithmetic(call)?,
        "Min" | "Max" | "Sum" | "Mean" => variadic(call)?,
        "PRelu" => float_zip(call, 0, 1, |x, slope| if x < 0.0 { x * slope } else { x })?,
        "Clip" => clip(call)?,
        "BatchNormalization" => batch_norm(call)?,
        "Equal" | "Less" | "Greater" | "LessOrEqual" | "GreaterOrEqual" => compare(call)?,
        "Where" => select(call)?,
        "Cast" => cast(call, DType(i32::try_from(call.node.int("to", 0)).unwrap_or(0)))?,
        "CastLike" => cast(call, call.input(1)?.dtype())?,
        "And" | "Or" | "Xor" => logic(call)?,
        "Not" => {
            let (shape, truth) = truths(call, 0)?;
            bools(shape.to_vec(), truth.iter().map(|&x| u8::from(x == 0)).collect())?
        }
        "IsNaN" => {
            let (shape, x) = call.floats(0)?;
            bools(shape.to_vec(), x.iter().map(|x| u8::from(x.is_nan())).collect())?
        }
        _ => return Err(Fault::Unknown),
    };
    Ok(vec![result])
}

/// The operators of this file.
const OTHERS: &[&str] = &[
    "Add",
    "Sub",
    "Mul",
    "Div",
    "Pow",
    "Mod",
    "Min",
    "Max",
    "Sum",
    "Mean",
    "PRelu",
    "Clip",
    "BatchNormalization",
    "Equal",
    "Less",
    "Greater",
    "LessOrEqual",
    "GreaterOrEqual",
    "Where",
    "Cast",
    "CastLike",
    "And",
    "Or",
    "Xor",
    "Not",
    "IsNaN",
];

/// The shape of a result that is too large to be computed where only shapes are asked for.
fn large(call: &Call<'_>) -> Result<Option<Vec<usize>>, Fault> {
    let op = call.node.op.as_str();
    if call.depth == super::Depth::Values || !OTHERS.contains(&op) {
        return Ok(None);
    }
    let mut shape = call.input(0)?.shape().to_vec();
    if !["Clip", "BatchNormalization", "CastLike"].contains(&op) {
        for index in 1..call.inputs.len() {
            shape = broadcast_shape(&shape, call.input(index)?.shape())?;
        }
    }
    super::zeros_count(&shape)?;
    Ok(call.skips(&shape).then_some(shape))
}

fn truths<'a>(call: &Call<'a>, index: usize) -> Result<(&'a [usize], &'a [u8]), Fault> {
    let tensor = call.input(index)?;
    match tensor.data() {
        TensorData::Other(BOOL, truth) => Ok((tensor.shape(), truth)),
        _ => Err(format!("input {index} is not boolean").into()),
    }
}

fn logic(call: &Call<'_>) -> Result<Tensor, Fault> {
    let op = call.node.op.as_str();
    let f = |a: u8, b: u8| {
        let (a, b) = (a != 0, b != 0);
        u8::from(match op {
            "And" => a && b,
            "Or" => a || b,
            _ => a != b,
        })
    };
    let (shape, values) = zip(truths(call, 0)?, truths(call, 1)?, f)?;
    bools(shape, values)
}

/// The shape to which `a` and `b` broadcast.
pub(crate) fn broadcast_shape(a: &[usize], b: &[usize]) -> Result<Vec<usize>, Fault> {
    let rank = a.len().max(b.len());
    let dim = |shape: &[usize], axis: usize| (axis + shape.len()).checked_sub(rank).map_or(1, |i| shape[i]);
    let axis = |axis: usize| match (dim(a, axis), dim(b, axis)) {
        (x, y) if x == y => Ok(x),
        (1, y) => Ok(y),
        (x, 1) => Ok(x),
        _ => Err(format!("shapes {a:?} and {b:?} do not broadcast").into()),
    };
    (0..rank).map(axis).collect()
}

/// For each position of `shape`, the index of the element of an operand of shape `own` that stands there.
pub(crate) fn broadcast_indices(shape: &[usize], own: &[usize]) -> Vec<usize> {
    let offset = shape.len() - own.len();
    let mut strides = vec![0; shape.len()];
    let mut stride = 1;
    for axis in (0..own.len()).rev() {
        strides[offset + axis] = if own[axis] == 1 { 0 } else { stride };
        stride *= own[axis];
    }
    let mut indices = vec![0];
    for (axis, &length) in shape.iter().enumerate() {
        let stride = strides[axis];
        indices = indices.iter().flat_map(|&base| (0..length).map(move |i| base + i * stride)).collect();
    }
    indices
}

/// `f` over two operands that broadcast, with the common cases of equal shapes and of one row free of index lists.
fn zip<T: Copy, U>(
    (a_shape, a): (&[usize], &[T]),
    (b_shape, b): (&[usize], &[T]),
    f: impl Fn(T, T) -> U,
) -> Result<(Vec<usize>, Vec<U>), Fault> {
    let shape = broadcast_shape(a_shape, b_shape)?;
    let count = super::zeros_count(&shape)?;
    let values = if a_shape == b_shape {
        a.iter().zip(b).map(|(&a, &b)| f(a, b)).collect()
    } else if b.len() == 1 && a.len() == count {
        a.iter().map(|&a| f(a, b[0])).collect()
    } else if a.len() == count
        && let Some(inner) = per_channel(&shape, b_shape)
    {
        a.chunks(inner.max(1))
            .zip(b.iter().cycle())
            .flat_map(|(row, &b)| row.iter().map(move |&a| (a, b)))
            .map(|(a, b)| f(a, b))
            .collect()
    } else {
        let (left, right) = (broadcast_indices(&shape, a_shape), broadcast_indices(&shape, b_shape));
        left.into_iter().zip(right).map(|(i, j)| f(a[i], b[j])).collect()
    };
    Ok((shape, values))
}

/// Where `own` varies along one run of axes only and is 1 after it: the elements that share one of its values.
fn per_channel(shape: &[usize], own: &[usize]) -> Option<usize> {
    let offset = shape.len() - own.len();
    let last = own.iter().rposition(|&dim| dim != 1)?;
    let first = own.iter().position(|&dim| dim != 1)?;
    // Cycling over `own` is right where its run of axes is full and nothing before it varies.
    (own[first..=last] == shape[offset + first..=offset + last])
        .then(|| shape[offset + last + 1..].iter().product())
}

fn float_zip(call: &Call<'_>, a: usize, b: usize, f: impl Fn(f32, f32) -> f32) -> Result<Tensor, Fault> {
    let (shape, values) = zip(call.floats(a)?, call.floats(b)?, f)?;
    Ok(Tensor::f32(shape, values)?)
}

fn arithmetic(call: &Call<'_>) -> Result<Tensor, Fault> {
    let op = call.node.op.as_str();
    if let (Some(a), Some(b)) = (call.input(0)?.as_i64(), call.input(1)?.as_i64()) {
        let f = |a: i64, b: i64| match op {
            "Add" => a.wrapping_add(b),
            "Sub" => a.wrapping_sub(b),
            "Mul" => a.wrapping_mul(b),
            "Div" => a.checked_div(b).unwrap_or(0),
            "Mod" if call.node.int("fmod", 0) != 0 => a.checked_rem(b).unwrap_or(0),
            // The sign is that of the divisor.
            "Mod" => match a.checked_rem(b).unwrap_or(0) {
                rest if rest != 0 && (rest < 0) != (b < 0) => rest.wrapping_add(b),
                rest => rest,
            },
            _ => u32::try_from(b).map_or(0, |b| a.wrapping_pow(b)),
        };
        let (shape, values) = zip((call.input(0)?.shape(), a), (call.input(1)?.shape(), b), f)?;
        return Ok(Tensor::i64(shape, values)?);
    }
    match op {
        "Add" => float_zip(call, 0, 1, |a, b| a + b),
        "Sub" => float_zip(call, 0, 1, |a, b| a - b),
        "Mul" => float_zip(call, 0, 1, |a, b| a * b),
        "Div" => float_zip(call, 0, 1, |a, b| a / b),
        "Mod" => float_zip(call, 0, 1, |a, b| a % b),
        _ => float_zip(call, 0, 1, f32::powf),
    }
}

fn variadic(call: &Call<'_>) -> Result<Tensor, Fault> {
    let op = call.node.op.as_str();
    if let Some(values) = call.input(0)?.as_i64() {
        let mut result = (call.input(0)?.shape().to_vec(), values.to_vec());
        for index in 1..call.inputs.len() {
            let other = call.input(index)?.as_i64().ok_or("operands of other types")?;
            let f = |a: i64, b: i64| match op {
                "Min" => a.min(b),
                _ => a.max(b),
            };
            result = zip((&result.0, &result.1), (call.input(index)?.shape(), other), f)?;
        }
        return match op {
            "Min" | "Max" => Ok(Tensor::i64(result.0, result.1)?),
            _ => Err("of integers is not supported".into()),
        };
    }
    let (shape, values) = call.floats(0)?;
    let mut result = (shape.to_vec(), values.to_vec());
    for index in 1..call.inputs.len() {
        let f = |a: f32, b: f32| match op {
            "Min" => a.min(b),
            "Max" => a.max(b),
            _ => a + b,
        };
        result = zip((&result.0, &result.1), call.floats(index)?, f)?;
    }
    if op == "Mean" {
        let count = call.inputs.len() as f32;
        result.1.iter_mut().for_each(|value| *value /= count);
    }
    Ok(Tensor::f32(result.0, result.1)?)
}

fn clip(call: &Call<'_>) -> Result<Tensor, Fault> {
    let bound = |index: usize, name: &str, default: f32| -> Result<f32, Fault> {
        match call.optional(index) {
            Some(_) => call.floats(index)?.1.first().copied().ok_or_else(|| "an empty bound".into()),
            None => Ok(call.node.float(name, default)),
        }
    };
    let (low, high) = (bound(1, "min", f32::MIN)?, bound(2, "max", f32::MAX)?);
    let (shape, x) = call.floats(0)?;
    Ok(Tensor::f32(shape, super::unary::mapped(x, |x| x.max(low).min(high)))?)
}

fn batch_norm(call: &Call<'_>) -> Result<Tensor, Fault> {
    let (shape, x) = call.floats(0)?;
    let [scale, bias, mean, variance] =
        [1, 2, 3, 4].map(|index| call.floats(index).map(|(_, values)| values));
    let (scale, bias, mean, variance) = (scale?, bias?, mean?, variance?);
    let &[_, channels, ref spatial @ ..] = shape else { return Err("the input has no channels".into()) };
    if [scale, bias, mean, variance].iter().any(|values| values.len() != channels) {
        return Err(format!("parameters do not fit the {channels} channels").into());
    }
    let epsilon = call.node.float("epsilon", 1e-5);
    let plane: usize = spatial.iter().product();
    let mut y = x.to_vec();
    for (index, values) in y.chunks_mut(plane.max(1)).enumerate() {
        let c = index % channels;
        let factor = scale[c] / (variance[c] + epsilon).sqrt();
        values.iter_mut().for_each(|value| *value = (*value - mean[c]) * factor + bias[c]);
    }
    Ok(Tensor::f32(shape, y)?)
}

fn bools(shape: Vec<usize>, values: Vec<u8>) -> Result<Tensor, Fault> {
    Ok(Tensor::new(shape, TensorData::Other(BOOL, Arc::new(values)))?)
}

fn compare(call: &Call<'_>) -> Result<Tensor, Fault> {
    fn holds<T: PartialOrd>(op: &str, a: T, b: T) -> u8 {
        u8::from(match op {
            "Equal" => a == b,
            "Less" => a < b,
            "Greater" => a > b,
            "LessOrEqual" => a <= b,
            _ => a >= b,
        })
    }
    let op = call.node.op.as_str();
    let (a, b) = (call.input(0)?, call.input(1)?);
    let (shape, values) = match (a.as_i64(), b.as_i64()) {
        (Some(x), Some(y)) => zip((a.shape(), x), (b.shape(), y), |x, y| holds(op, x, y))?,
        _ => zip(call.floats(0)?, call.floats(1)?, |x, y| holds(op, x, y))?,
    };
    bools(shape, values)
}

fn select(call: &Call<'_>) -> Result<Tensor, Fault> {
    let (condition, a, b) = (call.input(0)?, call.input(1)?, call.input(2)?);
    let TensorData::Other(BOOL, truth) = condition.data() else {
        return Err("the condition is not boolean".into());
    };
    let shape = broadcast_shape(&broadcast_shape(condition.shape(), a.shape())?, b.shape())?;
    super::zeros_count(&shape)?;
    let at = broadcast_indices(&shape, condition.shape());
    let (left, right) = (broadcast_indices(&shape, a.shape()), broadcast_indices(&shape, b.shape()));
    let pick = |i: usize| truth[at[i]] != 0;
    if let (Some(a), Some(b)) = (a.as_f32(), b.as_f32()) {
        let values = (0..at.len()).map(|i| if pick(i) { a[left[i]] } else { b[right[i]] }).collect();
        return Ok(Tensor::f32(shape, values)?);
    }
    let (Some(a), Some(b)) = (a.as_i64(), b.as_i64()) else { return Err("branches of other types".into()) };
    let values = (0..at.len()).map(|i| if pick(i) { a[left[i]] } else { b[right[i]] }).collect();
    Ok(Tensor::i64(shape, values)?)
}

fn cast(call: &Call<'_>, target: DType) -> Result<Tensor, Fault> {
    let tensor = call.input(0)?;
    let shape = tensor.shape().to_vec();
    let as_float: Vec<f32> = match tensor.data() {
        data if tensor.dtype() == target => return Ok(Tensor::new(shape, data.clone())?),
        TensorData::F32(values) => values.to_vec(),
        TensorData::I64(values) if target == DType::F32 => values.iter().map(|&x| x as f32).collect(),
        TensorData::I64(values) if target == BOOL => {
            return bools(shape, values.iter().map(|&x| u8::from(x != 0)).collect());
        }
        TensorData::I64(values) if target == I32 => {
            let bytes = values.iter().flat_map(|&x| (x as i32).to_le_bytes()).collect();
            return Ok(Tensor::new(shape, TensorData::Other(I32, Arc::new(bytes)))?);
        }
        TensorData::Other(I32, bytes) if target == DType::F32 => {
            let values = bytes.chunks_exact(4).map(|b| i32::from_le_bytes([b[0], b[1], b[2], b[3]]) as f32);
            return Ok(Tensor::f32(shape, values.collect())?);
        }
        TensorData::Other(I32, bytes) if target == DType::I64 => {
            let values =
                bytes.chunks_exact(4).map(|b| i64::from(i32::from_le_bytes([b[0], b[1], b[2], b[3]])));
            return Ok(Tensor::i64(shape, values.collect())?);
        }
        TensorData::Other(BOOL | DType(2), bytes) => bytes.iter().map(|&x| f32::from(x)).collect(),
        _ => return Err(format!("from type {} to {} is not supported", tensor.dtype().0, target.0).into()),
    };
    match target {
        DType::F32 => Ok(Tensor::f32(shape, as_float)?),
        DType::I64 => Ok(Tensor::i64(shape, as_float.iter().map(|&x| x as i64).collect())?),
        I32 => {
            let bytes = as_float.iter().flat_map(|&x| (x as i32).to_le_bytes()).collect();
            Ok(Tensor::new(shape, TensorData::Other(I32, Arc::new(bytes)))?)
        }
        BOOL => bools(shape, as_float.iter().map(|&x| u8::from(x != 0.0)).collect()),
        _ => Err(format!("to type {} is not supported", target.0).into()),
    }
}
