//! Operators that work position by position, with NumPy's broadcasting.

use std::sync::Arc;

use super::{BOOL, Call, Fault};
use crate::{DType, Tensor, TensorData};

pub(super) fn apply(call: &Call<'_>) -> Result<Vec<Tensor>, Fault> {
    let op = call.node.op.as_str();
    if let Some(function) = unary(call) {
        let (shape, x) = call.floats(0)?;
        return Ok(vec![Tensor::f32(shape, x.iter().map(|&x| function(x)).collect())?]);
    }
    let result = match op {
        "Add" | "Sub" | "Mul" | "Div" | "Pow" => arithmetic(call)?,
        "Min" | "Max" | "Sum" | "Mean" => variadic(call)?,
        "PRelu" => float_zip(call, 0, 1, |x, slope| if x < 0.0 { x * slope } else { x })?,
        "Clip" => clip(call)?,
        "BatchNormalization" => batch_norm(call)?,
        "Equal" | "Less" | "Greater" | "LessOrEqual" | "GreaterOrEqual" => compare(call)?,
        "Where" => select(call)?,
        "Cast" => cast(call)?,
        _ => return Err(Fault::Unknown),
    };
    Ok(vec![result])
}

/// Operators of one float to one float.
fn unary(call: &Call<'_>) -> Option<Box<dyn Fn(f32) -> f32>> {
    let node = call.node;
    let attribute = |name: &str, default: f32| node.float(name, default);
    let sigmoid = |x: f32| 1.0 / (1.0 + (-x).exp());
    Some(match node.op.as_str() {
        "Relu" => Box::new(|x| x.max(0.0)),
        "LeakyRelu" => {
            let slope = attribute("alpha", 0.01);
            Box::new(move |x| if x < 0.0 { x * slope } else { x })
        }
        "Sigmoid" => Box::new(sigmoid),
        "HardSigmoid" => {
            let (alpha, beta) = (attribute("alpha", 0.2), attribute("beta", 0.5));
            Box::new(move |x| (alpha * x + beta).clamp(0.0, 1.0))
        }
        "HardSwish" => Box::new(|x| x * (x / 6.0 + 0.5).clamp(0.0, 1.0)),
        "Swish" => {
            let alpha = attribute("alpha", 1.0);
            Box::new(move |x| x * sigmoid(alpha * x))
        }
        "Mish" => Box::new(|x| x * x.exp().ln_1p().tanh()),
        "Elu" => {
            let alpha = attribute("alpha", 1.0);
            Box::new(move |x| if x < 0.0 { alpha * x.exp_m1() } else { x })
        }
        "Selu" => {
            let (alpha, gamma) = (attribute("alpha", 1.673_263_2), attribute("gamma", 1.050_701));
            Box::new(move |x| gamma * if x < 0.0 { alpha * x.exp_m1() } else { x })
        }
        "Gelu" if node.text("approximate") == Some("tanh") => {
            Box::new(|x| 0.5 * x * (1.0 + (0.797_884_6 * (x + 0.044_715 * x * x * x)).tanh()))
        }
        "Gelu" => Box::new(|x| 0.5 * x * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2))),
        "Erf" => Box::new(erf),
        "Tanh" => Box::new(f32::tanh),
        "Softplus" => Box::new(|x| x.max(0.0) + (-x.abs()).exp().ln_1p()),
        "Softsign" => Box::new(|x| x / (1.0 + x.abs())),
        "Exp" => Box::new(f32::exp),
        "Log" => Box::new(f32::ln),
        "Sqrt" => Box::new(f32::sqrt),
        "Abs" => Box::new(f32::abs),
        "Neg" => Box::new(|x| -x),
        "Floor" => Box::new(f32::floor),
        "Ceil" => Box::new(f32::ceil),
        "Round" => Box::new(f32::round_ties_even),
        "Reciprocal" => Box::new(f32::recip),
        "Sign" => Box::new(|x| if x == 0.0 { 0.0 } else { x.signum() }),
        "Sin" => Box::new(f32::sin),
        "Cos" => Box::new(f32::cos),
        _ => return None,
    })
}

/// The error function, Abramowitz and Stegun 7.1.26 in f64: absolute error under 1.5e-7.
fn erf(x: f32) -> f32 {
    let (sign, x) = (f64::from(x).signum(), f64::from(x).abs());
    let t = 1.0 / (1.0 + 0.327_591_1 * x);
    let series = ((((1.061_405_429 * t - 1.453_152_027) * t + 1.421_413_741) * t - 0.284_496_736) * t
        + 0.254_829_592)
        * t;
    (sign * (1.0 - series * (-x * x).exp())) as f32
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
        _ => float_zip(call, 0, 1, f32::powf),
    }
}

fn variadic(call: &Call<'_>) -> Result<Tensor, Fault> {
    let op = call.node.op.as_str();
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
    Ok(Tensor::f32(shape, x.iter().map(|&x| x.max(low).min(high)).collect())?)
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

fn cast(call: &Call<'_>) -> Result<Tensor, Fault> {
    let tensor = call.input(0)?;
    let shape = tensor.shape().to_vec();
    let target = DType(i32::try_from(call.node.int("to", 0)).unwrap_or(0));
    let as_float: Vec<f32> = match tensor.data() {
        data if tensor.dtype() == target => return Ok(Tensor::new(shape, data.clone())?),
        TensorData::F32(values) => values.to_vec(),
        TensorData::I64(values) if target == DType::F32 => values.iter().map(|&x| x as f32).collect(),
        TensorData::I64(values) if target == BOOL => {
            return bools(shape, values.iter().map(|&x| u8::from(x != 0)).collect());
        }
        TensorData::Other(DType(6), bytes) if target == DType::I64 => {
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
        BOOL => bools(shape, as_float.iter().map(|&x| u8::from(x != 0.0)).collect()),
        _ => Err(format!("to type {} is not supported", target.0).into()),
    }
}
